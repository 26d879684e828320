import base64
import re
from collections.abc import Callable
from contextlib import AbstractContextManager
from html.parser import HTMLParser
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from plainunet.doctor.diagnose import check
from plainunet.doctor.page import write_page

from .conftest import mask_of, spoil


class Page(HTMLParser):
    """Collects what a page shows; complains of tags that do not close."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.images: list[dict[str, str | None]] = []
        self.texts: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "img":
            self.images.append(dict(attrs))
        if tag not in ("img", "meta", "link"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Such a tag holds nothing."""

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def write(folder: Path) -> tuple[Page, str]:
    write_page(folder.parent / "page.html", check(folder))
    text = (folder.parent / "page.html").read_text(encoding="utf-8")
    page = Page(text)
    assert page.open == []
    return page, text


def test_a_valid_folder(scenes: Path) -> None:
    page, text = write(scenes)
    assert len(page.images) == 12
    assert not re.search(r"""(src|href)\s*=\s*["']?(https?:)?//""", text)
    text_of_page = " ".join(page.texts)
    assert "12 valid pairs in 12 groups" in text_of_page
    assert "No findings." in text_of_page
    data = (page.images[0]["src"] or "").removeprefix("data:image/jpeg;base64,")
    with Image.open(BytesIO(base64.b64decode(data))) as picture:
        shown = np.asarray(picture).astype(int)
    assert shown.shape == (120, 160, 3)
    # the contour is in magenta, which the scenes do not have
    magenta = (shown[..., 0] > 180) & (shown[..., 1] < 90) & (shown[..., 2] > 180)
    assert 50 < magenta.sum() < 1500


def test_findings_come_first_and_are_escaped(scenes: Path) -> None:
    spoil(scenes, "07", 255 - mask_of(scenes, "07"))
    for name in ("images", "masks"):
        (scenes / name / "07.png").rename(scenes / name / "07<b>.png")
    page, text = write(scenes)
    assert "07<b>" not in text
    assert "07&lt;b&gt;.png" in text
    assert page.images[0]["alt"] == "07<b>.png with its mask"
    assert "inverted" in " ".join(page.texts)


def test_each_fix_is_shown_once_and_excluding_pairs_at_the_end(scenes: Path) -> None:
    (scenes / "masks/03.png").rename(scenes / "masks/03_.png")
    (scenes / "masks/08.png").unlink()
    page, _ = write(scenes)
    text = "".join(page.texts)
    assert text.count(f"plainunet fix {scenes} no-mask") == 1
    assert text.count(f"plainunet check {scenes} --write") == 1
    assert text.index("no-mask") < text.index("--write")
    unfixed = [line for line in text.splitlines() if "not fixed" in line]
    assert len(unfixed) == 1
    assert "images/08.png" in unfixed[0]


def test_many_channels_and_no_masks_in_common(scenes: Path) -> None:
    for path in (scenes / "images").iterdir():
        image = np.asarray(Image.open(path))
        path.unlink()
        deep = np.concatenate([image, image[..., :2]], axis=2).astype(np.float32) * 3 - 1
        np.save(path.with_suffix(".npy"), deep)
    assert len(write(scenes)[0].images) == 12
    for path in (scenes / "masks").iterdir():
        Image.new("L", (160, 120)).save(path)
    page, _ = write(scenes)
    assert page.images == []
    assert "one-class" in " ".join(page.texts)


def test_a_page_is_small(data_root: Path, tmp_path: Path) -> None:
    write_page(tmp_path / "page.html", check(data_root / "isbi2012"))
    assert (tmp_path / "page.html").stat().st_size < 5_000_000


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (390, "dark")])
def test_a_page_in_a_browser(
    width: int, scheme: str, scenes: Path, opened: Callable[..., AbstractContextManager[Any]]
) -> None:
    spoil(scenes, "07", 255 - mask_of(scenes, "07"))
    write(scenes)
    with opened(scenes.parent / "page.html", width, scheme) as page:
        wide = page.evaluate("document.documentElement.scrollWidth")
        assert wide <= width
        ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (ground == "rgb(255, 255, 255)") == (scheme == "light")
        zooms = page.locator("button.zoom")
        zooms.first.press("Enter")
        assert page.locator("#zoom-label").text_content() == "07.png"
        page.keyboard.press("ArrowDown")
        source = page.locator("#zoom img").get_attribute("src")
        assert source == zooms.nth(1).locator("img").get_attribute("src")
