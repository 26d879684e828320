import base64
import hashlib
import json
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from plainunet.evaluation.report.page import write_report
from plainunet.evaluation.report.panels import Shown

Make = Callable[..., dict[str, Any]]
Show = Callable[..., Shown]
CHROMIUM = Path("/usr/bin/chromium")
MOST = 5_000_000
HOSTILE = "<img src=x onerror=alert(1)>.png"
ENDING = "</script><script>alert(2)</script>\"'&$title"


class Parsed(HTMLParser):
    """Collects what a page is made of; complains of tags that do not close."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.inside: dict[str, list[str]] = {}
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in ("img", "meta", "link", "input"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.inside.setdefault(self.open[-1] if self.open else "", []).append(data)

    def said(self) -> str:
        """All text that is shown."""
        parts = {tag: said for tag, said in self.inside.items() if tag not in ("style", "script")}
        return " ".join(part for said in parts.values() for part in said)


def written(path: Path, result: dict[str, Any], shown: list[Shown]) -> str:
    write_report(path, result, shown)
    assert path.stat().st_size < MOST
    return path.read_text(encoding="utf-8")


def eighteen(show: Show, **how: Any) -> list[Shown]:
    worst = [show(index, **how) for index in range(12)]
    return [*worst, *(show(index, "median", **how) for index in range(17, 23))]


def hostile(result_of: Make) -> dict[str, Any]:
    """A result in which every text is an attack."""
    result = result_of(4, ("background", ENDING))
    for image in result["images"]:
        image["image"] = image["group"] = HOSTILE
    result |= dict.fromkeys(("protocol", "command", "data", "split"), ENDING)
    for key in ("checkpoint", "refine", "network", "sees", "tta", "machine"):
        result["model"][key] = ENDING
    for key in ("settings", "versions"):
        result["model"][key] = {ENDING: HOSTILE}
    return result


def test_a_page_has_its_parts(tmp_path: Path, result_of: Make, shown_of: Show) -> None:
    result = result_of()
    result["per_image"]["dice"]["mean_foreground"] = 0.98765
    page = Parsed(written(tmp_path / "page.html", result, eighteen(shown_of)))
    tags = [tag for tag, _ in page.tags]
    assert tags.count("h1") == 1
    assert page.inside["h2"] == [
        "How it was counted",
        "Training",
        "Scores of each class",
        "What was taken for what",
        "Pictures",
        "Dice of each picture",
        "All pictures",
        "Threshold",
        "How sure it is",
        "Dice and size",
        "What the size allows",
        "To repeat it",
    ]
    assert page.inside["strong"][0] == "0.9877"
    assert "the validation part: 40 pictures in 8 groups" in page.inside["dd"]
    assert page.inside["pre"] == [result["command"]]
    assert result["protocol"] in page.inside["p"]
    assert tags.count("img") == 18 * 4
    for tag, attributes in page.tags:
        assert "style" not in attributes, "the policy forbids it"
        assert tag != "img" or attributes["alt"]
        assert tag != "table" or "caption" in tags
        assert tag != "th" or attributes["scope"]


def test_nothing_is_asked_of_a_network(tmp_path: Path, result_of: Make, shown_of: Show) -> None:
    text = written(tmp_path / "page.html", result_of(), [shown_of(0)])
    for _, attributes in Parsed(text).tags:
        for name in ("src", "href"):
            assert (attributes.get(name) or "#").startswith(("#", "data:"))
    assert "http" not in text
    policy = re.search(r'Content-Security-Policy" content="(.*?)"', text)
    assert policy is not None
    assert "default-src 'none'" in policy[1]
    assert "unsafe" not in policy[1]
    for tag in ("style", "script"):
        inside = re.search(rf"<{tag}>(.*?)</{tag}>", text, flags=re.DOTALL)
        assert inside is not None
        digest = base64.b64encode(hashlib.sha256(inside[1].encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy[1]


@pytest.mark.parametrize("gone", ["missing", "None"])
def test_parts_that_are_missing_are_left_out(
    gone: str, tmp_path: Path, result_of: Make, optional: tuple[str, ...]
) -> None:
    result = result_of(5)
    for key in optional:
        if gone == "missing":
            del result[key]
        else:
            result[key] = None
    for image in result["images"]:
        del image["boundary"]
    page = Parsed(written(tmp_path / "page.html", result, []))
    assert page.inside["h2"] == [
        "How it was counted",
        "Scores of each class",
        "What was taken for what",
        "Dice of each picture",
        "All pictures",
        "Dice and size",
        "To repeat it",
    ]


def nothing_known(part: Any) -> Any:
    """The same layout without a single score."""
    if isinstance(part, dict):
        return {key: nothing_known(value) for key, value in part.items()}
    return None


def test_without_scores_nothing_is_made_up(
    tmp_path: Path, result_of: Make, shown_of: Show, optional: tuple[str, ...]
) -> None:
    result = result_of(2)
    for key in ("pooled", "per_image", "absent"):
        result[key] = nothing_known(result[key])
    intervals = {key: nothing_known(result["intervals"][key]) for key in ("pooled", "per_image")}
    result["intervals"] = {"groups": 1, "level": 0.95, **intervals}
    result["images"] = [
        {**nothing_known(image), "image": image["image"], "group": "a"}
        for image in result["images"]
    ]
    for key in ("checkpoint", "network", "sees"):
        result["model"][key] = "x"
    for key in set(optional) - {"boundary", "objects"}:
        result[key] = None
    for key in ("boundary", "objects"):
        result[key] = {**nothing_known(result[key]), "tolerance": 2.0}
    result["confusion"] = [[0, 0], [0, 0]]
    page = Parsed(written(tmp_path / "page.html", result, [shown_of(0)]))
    assert page.inside["strong"] == ["no object"] * 3
    assert "no interval: the pictures are one group" in page.inside["small"]
    assert not re.search(r"\b(None|nan|NaN|null|inf)\b", page.said())
    data = json.loads(page.inside["script"][0])
    assert data["rows"][0][3:] == [None] * (len(data["columns"]) - 3)


def test_hostile_names_are_text(tmp_path: Path, result_of: Make, shown_of: Show) -> None:
    text = written(tmp_path / "page.html", hostile(result_of), [shown_of(0)])
    page = Parsed(text)
    assert [tag for tag, _ in page.tags].count("script") == 2
    assert all(not name.startswith("on") for _, attributes in page.tags for name in attributes)
    assert json.loads(page.inside["script"][0])["rows"][0][0] == HOSTILE
    assert ENDING in page.inside["dd"]


def test_names_that_are_not_utf8_are_written_out(tmp_path: Path, result_of: Make) -> None:
    result = result_of(2)
    result["images"][0]["image"] = "a\udcff.png"
    assert "a\\udcff.png" in written(tmp_path / "page.html", result, [])


def test_a_page_is_written_whole_or_not_at_all(
    tmp_path: Path, result_of: Make, shown_of: Show
) -> None:
    path = tmp_path / "new" / "page.html"
    first = written(path, result_of(3), [])
    wrong = shown_of(0)._replace(truth=shown_of(0, height=64).truth)
    with pytest.raises(ValueError, match="sizes"):
        write_report(path, result_of(4), [wrong])
    assert path.read_text(encoding="utf-8") == first
    assert [file.name for file in path.parent.iterdir()] == ["page.html"]


def test_eighteen_large_pictures_are_below_five_megabytes(
    tmp_path: Path, result_of: Make, shown_of: Show
) -> None:
    shown = eighteen(shown_of, height=1280, width=1918)
    text = written(tmp_path / "page.html", result_of(), shown)
    assert text.count("<img") == 18 * 4
    widths = [int(width) for width in re.findall(r'<img width="(\d+)"', text)]
    assert min(widths) >= 400, "still worth looking at"


# What follows looks at pages in a browser.


def absent(why: str) -> None:
    """Skip, unless the tests run where a browser is part of what is promised."""
    if os.environ.get("CI"):
        pytest.fail(f"{why}; with CI set, the page must be seen in a browser")
    pytest.skip(why)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        absent("playwright is not installed")
    if not CHROMIUM.exists():
        absent(f"{CHROMIUM} is not there")
    with sync_playwright() as play:
        chromium = play.chromium.launch(executable_path=str(CHROMIUM), args=["--no-sandbox"])
        yield chromium
        chromium.close()


@contextmanager
def opened(browser: Any, path: Path, width: int = 1280, scheme: str = "light") -> Iterator[Any]:
    """Open a page; whatever is done to it, it asks for nothing and complains of nothing."""
    size = {"width": width, "height": 900}
    context = browser.new_context(viewport=size, color_scheme=scheme)
    page = context.new_page()
    asked: list[str] = []
    heard: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.on("console", lambda message: heard.append(f"{message.type}: {message.text}"))
    page.on("pageerror", lambda error: heard.append(str(error)))
    page.on("dialog", lambda dialog: (heard.append(dialog.message), dialog.dismiss()))
    page.goto(path.as_uri())
    yield page
    context.close()
    assert [url for url in asked if not url.startswith("data:")] == [path.as_uri()]
    assert heard == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("names", [("background", "car"), tuple(f"class {k}" for k in range(25))])
def test_the_page_fits_its_window(
    names: tuple[str, ...],
    width: int,
    scheme: str,
    browser: Any,
    tmp_path: Path,
    result_of: Make,
    shown_of: Show,
) -> None:
    result = result_of(40, names)
    result["images"][0]["image"] = "a_long_name_without_a_space_" * 8 + ".png"
    written(tmp_path / "page.html", result, eighteen(shown_of, classes=len(names)))
    with opened(browser, tmp_path / "page.html", width, scheme) as page:
        wide = page.evaluate(
            "[document.documentElement.scrollWidth, document.documentElement.clientWidth]"
        )
        assert wide[0] <= wide[1] == width
        page.screenshot(path=tmp_path / f"{width}-{scheme}.png", full_page=True)
        ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (ground == "rgb(255, 255, 255)") == (scheme == "light")
        label = page.evaluate("getComputedStyle(document.querySelector('.chart .label')).fill")
        assert label == page.evaluate("getComputedStyle(document.body).color")


def test_the_table_is_sorted_by_keyboard(browser: Any, tmp_path: Path, result_of: Make) -> None:
    result = result_of(150)
    result["images"][7]["dice"]["mean_foreground"] = None
    written(tmp_path / "page.html", result, [])
    with opened(browser, tmp_path / "page.html") as page:
        rows = page.locator("#pictures tbody tr")
        heads = page.locator("#pictures thead th")

        def column(place: int) -> list[str]:
            cells = rows.locator(f":scope > :nth-child({place + 1})")
            return [str(said) for said in cells.all_text_contents()]

        assert column(3) == sorted(column(3))
        assert heads.nth(3).get_attribute("aria-sort") == "ascending"
        assert rows.count() == 100
        page.locator("#more").press("Enter")
        assert rows.count() == 150
        assert column(3)[-1] == "\u2013", "what has no score is last"
        heads.nth(3).locator("button").press("Enter")
        assert heads.nth(3).get_attribute("aria-sort") == "descending"
        assert column(3)[:149] == sorted(column(3)[:149], reverse=True)
        assert column(3)[-1] == "\u2013"
        heads.nth(0).locator("button").press("Enter")
        assert heads.nth(0).get_attribute("aria-sort") == "ascending"
        assert heads.nth(3).get_attribute("aria-sort") == "none"
        assert column(0) == [f"cars/{number:04d}_of_one.jpg" for number in range(150)]
        page.locator("#find").fill("cars/0042")
        assert column(0) == ["cars/0042_of_one.jpg"]
        assert page.locator("#found").text_content() == "1 of 150 pictures"


def test_pictures_open_in_large(
    browser: Any, tmp_path: Path, result_of: Make, shown_of: Show
) -> None:
    written(tmp_path / "page.html", result_of(), [shown_of(0), shown_of(5, "median")])
    with opened(browser, tmp_path / "page.html") as page:
        zooms = page.locator("button.zoom")
        dialog, large = page.locator("#zoom"), page.locator("#zoom img")

        def shows(place: int) -> bool:
            small = zooms.nth(place).locator("img")
            same = large.get_attribute("src") == small.get_attribute("src")
            return same and large.get_attribute("alt") == small.get_attribute("alt")

        assert zooms.count() == 8
        assert not dialog.is_visible()
        zooms.nth(1).press("Enter")
        assert dialog.is_visible()
        assert shows(1)
        page.screenshot(path=tmp_path / "large.png")
        box = large.bounding_box()
        assert box["width"] > 600
        assert box["y"] + box["height"] <= 900
        assert (page.locator("#zoom-said").text_content() or "").startswith(
            "true mask: cars/0000_of_one.jpg, Dice 0."
        )
        for key, place in (
            ("ArrowRight", 2),
            ("ArrowDown", 6),
            ("ArrowRight", 7),
            ("ArrowRight", 0),
            ("ArrowLeft", 7),
            ("ArrowUp", 3),
        ):
            page.keyboard.press(key)
            assert shows(place), key
        page.locator("#on").press("Enter")
        assert shows(4)
        page.keyboard.press("Escape")
        assert not dialog.is_visible()
        assert page.evaluate(
            "document.activeElement === document.querySelectorAll('button.zoom')[1]"
        )
        zooms.nth(6).click()
        assert shows(6)
        page.mouse.click(3, 3)
        assert not dialog.is_visible(), "beside it is out of it"


def test_a_shown_picture_is_reached_from_the_table(
    browser: Any, tmp_path: Path, result_of: Make, shown_of: Show
) -> None:
    written(tmp_path / "page.html", result_of(6), [shown_of(3)])
    with opened(browser, tmp_path / "page.html") as page:
        links = page.locator("#pictures a")
        assert links.all_text_contents() == ["cars/0003_of_one.jpg"]
        links.first.press("Enter")
        assert page.evaluate("location.hash") == "#picture-3"
        assert page.evaluate("document.activeElement.id") == "picture-3"


def test_focus_is_seen(browser: Any, tmp_path: Path, result_of: Make, shown_of: Show) -> None:
    written(tmp_path / "page.html", result_of(6), [shown_of(3)])
    with opened(browser, tmp_path / "page.html") as page:
        met = set()
        for _ in range(60):
            page.keyboard.press("Tab")
            found = page.evaluate(
                "(() => { const e = document.activeElement; return [e.className || e.localName, "
                "getComputedStyle(e).outlineStyle]; })()"
            )
            if found[0] == "body":
                break
            assert found[1] == "solid", found
            met.add(found[0])
        assert {"a", "scroll", "scroll tall", "zoom", "input", "button"} <= met


def test_hostile_names_do_nothing(
    browser: Any, tmp_path: Path, result_of: Make, shown_of: Show
) -> None:
    written(tmp_path / "page.html", hostile(result_of), [shown_of(0)])
    with opened(browser, tmp_path / "page.html") as page:
        assert page.title() == f"{ENDING} on {ENDING}"
        assert page.locator("#pictures tbody a").text_content() == HOSTILE
        page.locator("button.zoom").first.press("Enter")
        assert HOSTILE in (page.locator("#zoom-said").text_content() or "")
        assert page.locator("img").count() == 4 + 1
        assert page.locator("script").count() == 2


def test_two_thousand_pictures_of_twenty_classes(
    browser: Any, tmp_path: Path, result_of: Make, shown_of: Show
) -> None:
    names = tuple(f"class {number}" for number in range(20))
    shown = eighteen(shown_of, height=1280, width=1918, classes=20)
    written(tmp_path / "page.html", result_of(2000, names), shown)
    with opened(browser, tmp_path / "page.html") as page:
        assert page.locator("#pictures tbody tr").count() == 100
        ready = page.evaluate("performance.getEntriesByType('navigation')[0].domInteractive")
        # on a machine with nothing else to do it is a second
        assert ready < 20_000
        page.locator("#pictures thead button").nth(4).press("Enter")
        assert page.locator("#pictures thead th").nth(4).get_attribute("aria-sort") == "ascending"


def test_paper_is_white_and_has_no_buttons(
    browser: Any, tmp_path: Path, result_of: Make, shown_of: Show
) -> None:
    written(tmp_path / "page.html", result_of(6), [shown_of(3)])
    with opened(browser, tmp_path / "page.html", 900, "dark") as page:
        page.emulate_media(media="print", color_scheme="dark")
        ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert ground == "rgb(255, 255, 255)"
        assert not page.locator("nav").is_visible()
        assert page.locator("button.zoom img").first.is_visible()
        page.screenshot(path=tmp_path / "paper.png", full_page=True)


def test_without_scripts_the_page_says_so(browser: Any, tmp_path: Path, result_of: Make) -> None:
    written(tmp_path / "page.html", result_of(6), [])
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto((tmp_path / "page.html").as_uri())
    assert page.locator("noscript p").is_visible()
    assert not page.locator("#all").is_visible()
    assert page.locator(".chart").first.is_visible()
    context.close()
