import re

import pytest

from plainunet.evaluation.report.style import STYLE


def palettes() -> list[dict[str, str]]:
    """The colours on light ground, on dark ground, and on paper."""
    found = re.findall(r":root \{(.*?)\}", STYLE, flags=re.DOTALL)
    return [dict(re.findall(r"--(\w+): (#\w+)", part)) for part in found]


def luminance(color: str) -> float:
    """Relative luminance after WCAG 2."""
    digits = color[1:] if len(color) == 7 else "".join(2 * digit for digit in color[1:])
    parts = [int(digits[place : place + 2], 16) / 255 for place in (0, 2, 4)]
    linear = [
        part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts
    ]
    return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def contrast(one: str, other: str) -> float:
    dark, light = sorted((luminance(one), luminance(other)))
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("place", [0, 1, 2])
def test_text_and_lines_stand_out(place: int) -> None:
    colors = palettes()[place]
    for name in ("text", "soft", "one", "two", "three"):
        for ground in ("ground", "box"):
            assert contrast(colors[name], colors[ground]) >= 4.5, (name, ground)
    assert contrast(colors["text"], colors["full"]) >= 4.5, "numbers in the darkest cells"


def test_dark_is_dark_and_paper_is_light() -> None:
    light, dark, paper = palettes()
    assert luminance(dark["ground"]) < 0.05
    assert paper == light
    assert dark.keys() == light.keys()


def test_nothing_is_loaded() -> None:
    assert "url(" not in STYLE
    assert "@import" not in STYLE
    assert "<" not in STYLE
    assert STYLE.count("{") == STYLE.count("}")
