import base64
import hashlib
import re
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from plainunet.page import data_url, render, save_page

TEMPLATES = Path(__file__).parents[1] / "src" / "plainunet" / "templates"


def test_photographs_are_jpeg_and_masks_png() -> None:
    random = np.random.default_rng(0)
    mask = random.integers(0, 256, (20, 30, 3)).astype(np.uint8)
    smooth = np.repeat(np.linspace(0, 255, 30)[None, :, None], 20, 0).repeat(3, 2).astype(np.uint8)
    smooth[..., 1] = 10
    for image, kind, most in ((mask, "png", 0), (smooth, "jpeg", 4)):
        url = data_url(image, kind)
        assert url.startswith(f"data:image/{kind};base64,")
        with Image.open(BytesIO(base64.b64decode(url.split(",")[1]))) as opened:
            assert opened.format == kind.upper()
            difference = np.asarray(opened).astype(int) - image
        assert np.abs(difference).mean() <= most


@pytest.mark.parametrize("template", ["report.html", "doctor.html"])
def test_a_page_holds_its_style_and_script_and_allows_no_other(template: str) -> None:
    empty: dict[str, Any] = {
        key: {} for key in ("result", "rows", "figures", "about", "how", "metrics")
    }
    page = render(template, title="</title>", model={"classes": []}, **empty)
    assert "<title>&lt;/title&gt;</title>" in page
    policy = re.search(r'Content-Security-Policy" content="(.*?)"', page)
    assert policy is not None
    for tag, file in (("style", "style.css"), ("script", "script.js")):
        inside = re.search(rf"<{tag}>(.*?)</{tag}>", page, flags=re.DOTALL)
        assert inside is not None
        assert inside[1] == (TEMPLATES / file).read_text(encoding="utf-8")
        digest = base64.b64encode(hashlib.sha256(inside[1].encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy[1]


def test_a_page_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "new" / "page.html"
    save_page(path, "a\udcff\r\n")
    assert path.read_bytes() == b"a\\udcff\r\n"
    with pytest.raises(TypeError):
        save_page(path, None)  # type: ignore[arg-type]
    assert path.read_bytes() == b"a\\udcff\r\n"
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("word", ["innerHTML", "outerHTML", "eval", "fetch", "http", "</", "url("])
def test_script_and_style_load_nothing_and_write_no_html(word: str) -> None:
    for file in ("script.js", "style.css"):
        assert word not in (TEMPLATES / file).read_text(encoding="utf-8")


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


def test_text_and_lines_stand_out_on_light_and_dark() -> None:
    style = (TEMPLATES / "style.css").read_text(encoding="utf-8")
    palettes = [
        dict(re.findall(r"--(\w+): (#\w+)", part))
        for part in re.findall(r":root \{(.*?)\}", style, flags=re.DOTALL)
    ]
    light, dark = [palette for palette in palettes if palette]
    assert light.keys() == dark.keys()
    assert luminance(dark["ground"]) < 0.05 < 0.9 < luminance(light["ground"])
    for colors in (light, dark):
        for name in ("text", "soft", "one", "two", "three", "error"):
            for ground in ("ground", "box"):
                assert contrast(colors[name], colors[ground]) >= 4.5, (name, ground)
        assert contrast(colors["text"], colors["full"]) >= 4.5, "numbers in the darkest cells"
