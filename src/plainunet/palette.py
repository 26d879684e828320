"""Default names and colours of classes."""

import colorsys


def default_colors(num_classes: int) -> tuple[tuple[int, int, int], ...]:
    """Choose distinct RGB colours: black and white for two classes, else black and hues."""
    if num_classes == 2:
        return (0, 0, 0), (255, 255, 255)
    golden = 0.618034  # steps of the golden ratio give distinct hues for any number of classes
    hues = [(0.02 + golden * k) % 1 for k in range(num_classes - 1)]
    bright = [colorsys.hsv_to_rgb(hue, 0.75, 1 - 0.2 * (k % 2)) for k, hue in enumerate(hues)]
    return (0, 0, 0), *((round(255 * r), round(255 * g), round(255 * b)) for r, g, b in bright)


def voc_color(class_id: int) -> int:
    """Look up a class's colour in the palette of PASCAL VOC, 0xRRGGBB (VOC2012 development kit)."""
    color = 0
    for bit in range(8):
        for channel, shift in enumerate((16, 8, 0)):
            color |= (class_id >> (3 * bit + channel) & 1) << (7 - bit + shift)
    return color


def default_names(num_classes: int) -> tuple[str, ...]:
    """Default class names: background, foreground; or class 0, class 1, ..."""
    if num_classes == 2:
        return "background", "foreground"
    return tuple(f"class {number}" for number in range(num_classes))
