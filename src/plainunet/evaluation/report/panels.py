"""Pictures beside their masks, as parts of the page.

In: pictures as stored, with the true and the predicted mask. Out: figures whose pictures are data
URIs: photographs as JPEG, masks as PNG. All are reduced until they fit in what the page may weigh.
"""

import base64
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from plainunet.dataset.resize import resize
from plainunet.evaluation.report.words import dig, number, score, text
from plainunet.prediction.drawing import Colors, as_rgb

_SIDES = (1000, 800, 640, 512, 400, 320, 256, 192, 128, 96, 64)  # of a picture [pixels]
_FEW = 320  # pixels across, below which a picture's pixels are shown as squares
_WRONG = (255, 40, 40)
_VOID = 128
_QUALITY = 82  # of JPEG files

PANELS = ("picture", "true mask", "predicted mask", "errors")
_TITLES = {
    "worst": ("The worst", "Those with the lowest Dice, the lowest first."),
    "median": ("Around the median", "Those in the middle of all: as many do better as worse."),
}


class Shown(NamedTuple):
    """A picture that the page shows."""

    number: int
    """Its number among the result's images."""
    image: NDArray[Any]
    """[H, W, C], integers or floats, as stored."""
    truth: NDArray[np.uint8]
    """[H, W] uint8, class ids; 255 is ignored."""
    prediction: NDArray[np.uint8]
    """[H, W] uint8, class ids."""
    why: str
    """"worst" or "median"."""


def draw_panels(shown: Shown, colors: Colors, side: int) -> list[NDArray[np.uint8]]:
    """Draw the picture, the true mask, the predicted one, and where they differ.

    In the last the picture is grey and dimmed; red is where they differ, grey what is ignored.

    Args:
        shown: The picture.
        colors: RGB of each class, 0..255.
        side: Pixels that the longer side may have; nothing is enlarged.

    Returns:
        Four pictures [h, w, 3] uint8, RGB.

    Raises:
        ValueError: The masks and the picture are of different sizes.
    """
    sizes = {part.shape[:2] for part in (shown.image, shown.truth, shown.prediction)}
    if len(sizes) > 1:
        raise ValueError(
            f"Picture {shown.number} and its masks have the sizes {sorted(sizes)}: all must be "
            "of the picture's own size."
        )
    height, width = shown.truth.shape
    scale = min(1.0, side / max(height, width))
    size = max(1, round(width * scale)), max(1, round(height * scale))
    # the picture is reduced before it is stretched to 8 bits: that is less work
    picture = as_rgb(resize(shown.image, size[::-1]))
    table = np.full((256, 3), _VOID, np.uint8)
    table[: len(colors)] = colors
    valid = shown.truth < len(colors)
    wrong = _share(valid & (shown.truth != shown.prediction), size)
    void = _share(~valid, size)
    grey = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)[..., None] / 3.0
    errors = grey * (1 - wrong - void) + np.array(_WRONG) * wrong + _VOID * void
    truth, prediction = (resize(table[ids], size[::-1]) for ids in (shown.truth, shown.prediction))
    return [picture, truth, prediction, errors.round().clip(0, 255).astype(np.uint8)]


def encode(panels: Sequence[NDArray[np.uint8]]) -> list[str]:
    """Pack panels for the page: photographs as JPEG, masks as PNG.

    Args:
        panels: As by `draw_panels`.

    Returns:
        A data URI for each.
    """
    sharp = [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444]
    photograph = [cv2.IMWRITE_JPEG_QUALITY, _QUALITY, *sharp]
    uris = []
    for kind, panel in zip(PANELS, panels, strict=True):
        ending = ".png" if "mask" in kind else ".jpg"
        how = [cv2.IMWRITE_PNG_COMPRESSION, 6] if ending == ".png" else photograph
        data = cv2.imencode(ending, panel[..., ::-1], how)[1].tobytes()
        form = "png" if ending == ".png" else "jpeg"
        uris.append(f"data:image/{form};base64,{base64.b64encode(data).decode()}")
    return uris


def fit_panels(shown: Shown, colors: Colors, most: int) -> tuple[list[str], tuple[int, int]]:
    """Pack a picture's panels as large as their weight allows.

    Args:
        shown: The picture.
        colors: RGB of each class, 0..255.
        most: Bytes that they may have together.

    Returns:
        A data URI for each of the four panels, and their height and width [pixels]; the smallest
        there are, should even those be too large.
    """
    side = _SIDES[0]
    while True:
        panels = draw_panels(shown, colors, side)
        uris, size = encode(panels), (panels[0].shape[0], panels[0].shape[1])
        weight = sum(map(len, uris))
        if weight <= most or side == _SIDES[-1]:
            return uris, size
        # weight grows about as the area does
        wanted = max(size) * math.sqrt(max(0, most) / weight)
        smaller = [each for each in _SIDES if each < side]
        side = next((each for each in smaller if each <= wanted), smaller[-1])


def anchor(index: int) -> str:
    """Name the place in the page where a picture is shown.

    Args:
        index: Its number among the result's images.

    Returns:
        An id.
    """
    return f"picture-{index}"


def gallery(
    shown: Sequence[Shown], images: Sequence[dict[str, Any]], colors: Colors, most: int
) -> str:
    """Show pictures with their masks, the worst first.

    Args:
        shown: The pictures.
        images: The result's images.
        colors: RGB of each class, 0..255.
        most: Bytes that their panels may have together.

    Returns:
        HTML: a heading and figures for each reason that pictures are shown for.
    """
    parts = []
    for why in dict.fromkeys(picture.why for picture in shown):
        title, said = _TITLES.get(why, (why, ""))
        parts.append(f"<h3>{text(title)}</h3><p>{text(said)}</p>")
        for picture in shown:
            if picture.why == why:
                uris, size = fit_panels(picture, colors, most // len(shown))
                parts.append(_figure(picture.number, images[picture.number], uris, size))
    return "\n".join(parts)


def legend(names: Sequence[str], colors: Colors) -> str:
    """Say which colour of a mask is which class.

    Args:
        names: The classes.
        colors: RGB of each class, 0..255.

    Returns:
        A list.
    """
    keys = "".join(
        f'<li><svg class="swatch" viewBox="0 0 12 12" aria-hidden="true"><rect width="12" '
        f'height="12" fill="rgb({",".join(str(int(value)) for value in color)})"/></svg> '
        f"{text(name)}</li>"
        for name, color in zip(names, colors, strict=True)
    )
    return f'<ul class="keys">{keys}</ul>'


def _figure(index: int, image: dict[str, Any], uris: Sequence[str], size: tuple[int, int]) -> str:
    name, dice = str(image["image"]), number(dig(image, "dice", "mean_foreground"))
    said = "no object" if dice is None else f"Dice {score(dice)}"
    kind = ' class="pixels"' if max(size) < _FEW else ""
    panels = "".join(
        f'<button type="button" class="zoom" data-said="{text(f"{panel}: {name}, {said}")}">'
        f'<img{kind} width="{size[1]}" height="{size[0]}" loading="lazy" '
        f'alt="{text(f"{panel} of {name}")}" src="{uri}"><span>{panel}</span></button>'
        for panel, uri in zip(PANELS, uris, strict=True)
    )
    return (
        f'<figure class="shown" id="{anchor(index)}" tabindex="-1"><div class="panels">{panels}'
        f"</div><figcaption>{text(name)}: <strong>{said}</strong></figcaption></figure>"
    )


def _share(inside: NDArray[np.bool_], size: tuple[int, int]) -> NDArray[Any]:
    """The share of each reduced pixel that lies inside, [h, w, 1] float32."""
    return resize(inside[..., None].astype(np.float32), size[::-1])
