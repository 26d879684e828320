"""A page in a browser."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from plainunet.evaluation.report.panels import Shown

Make = Callable[..., dict[str, Any]]
Show = Callable[..., Shown]
Many = Callable[..., list[Shown]]
Write = Callable[[Path, dict[str, Any], list[Shown]], str]
CHROMIUM = Path("/usr/bin/chromium")


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
        chromium = play.chromium.launch(
            executable_path=str(CHROMIUM), args=["--no-sandbox"], timeout=120_000
        )
        yield chromium
        chromium.close()


@contextmanager
def opened(browser: Any, path: Path, width: int = 1280, scheme: str = "light") -> Iterator[Any]:
    """Open a page; whatever is done to it, it asks for nothing and complains of nothing."""
    size = {"width": width, "height": 900}
    context = browser.new_context(viewport=size, color_scheme=scheme)
    page = context.new_page()
    page.set_default_timeout(120_000)  # the machine may have other work
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
    written: Write,
    eighteen: Many,
) -> None:
    result = result_of(40, names)
    result["images"][0]["image"] = "a_long_name_without_a_space_" * 8 + ".png"
    written(tmp_path / "page.html", result, eighteen(classes=len(names)))
    with opened(browser, tmp_path / "page.html", width, scheme) as page:
        wide = page.evaluate(
            "[document.documentElement.scrollWidth, document.documentElement.clientWidth]"
        )
        assert wide[0] <= wide[1] == width
        page.screenshot(path=tmp_path / f"{width}-{scheme}.png")
        ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (ground == "rgb(255, 255, 255)") == (scheme == "light")
        label = page.evaluate("getComputedStyle(document.querySelector('.chart .label')).fill")
        assert label == page.evaluate("getComputedStyle(document.body).color")


def test_the_table_is_sorted_by_keyboard(
    browser: Any, tmp_path: Path, result_of: Make, written: Write
) -> None:
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
    browser: Any, tmp_path: Path, result_of: Make, shown_of: Show, written: Write
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
        assert page.evaluate("document.activeElement.id") == "on"
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
    browser: Any, tmp_path: Path, result_of: Make, shown_of: Show, written: Write
) -> None:
    written(tmp_path / "page.html", result_of(6), [shown_of(3)])
    with opened(browser, tmp_path / "page.html") as page:
        links = page.locator("#pictures a")
        assert links.all_text_contents() == ["cars/0003_of_one.jpg"]
        links.first.press("Enter")
        assert page.evaluate("location.hash") == "#picture-3"
        assert page.evaluate("document.activeElement.id") == "picture-3"


def test_focus_is_seen(
    browser: Any, tmp_path: Path, result_of: Make, shown_of: Show, written: Write
) -> None:
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
    browser: Any, tmp_path: Path, shown_of: Show, written: Write, hostile: dict[str, Any]
) -> None:
    name = hostile["images"][0]["image"]
    ending = hostile["protocol"]
    written(tmp_path / "page.html", hostile, [shown_of(0)])
    with opened(browser, tmp_path / "page.html") as page:
        assert page.title() == f"{ending} on {ending}"
        assert page.locator("#pictures tbody a").text_content() == name
        page.locator("button.zoom").first.press("Enter")
        assert name in (page.locator("#zoom-said").text_content() or "")
        assert page.locator("img").count() == 4 + 1
        assert page.locator("script").count() == 2


@pytest.mark.slow
def test_two_thousand_pictures_of_twenty_classes(
    browser: Any, tmp_path: Path, result_of: Make, written: Write, eighteen: Many
) -> None:
    names = tuple(f"class {number}" for number in range(20))
    shown = eighteen(height=1280, width=1918, classes=20)
    written(tmp_path / "page.html", result_of(2000, names), shown)
    with opened(browser, tmp_path / "page.html") as page:
        assert page.locator("#pictures tbody tr").count() == 100
        ready = page.evaluate("performance.getEntriesByType('navigation')[0].domInteractive")
        # on a machine with nothing else to do it is a second
        assert ready < 20_000
        page.locator("#pictures thead button").nth(4).press("Enter")
        assert page.locator("#pictures thead th").nth(4).get_attribute("aria-sort") == "ascending"


def test_paper_is_white_and_has_no_buttons(
    browser: Any, tmp_path: Path, result_of: Make, shown_of: Show, written: Write
) -> None:
    written(tmp_path / "page.html", result_of(6), [shown_of(3)])
    with opened(browser, tmp_path / "page.html", 900, "dark") as page:
        page.emulate_media(media="print", color_scheme="dark")
        ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert ground == "rgb(255, 255, 255)"
        assert not page.locator("nav").is_visible()
        assert page.locator("button.zoom img").first.is_visible()
        page.screenshot(path=tmp_path / "paper.png")


def test_without_scripts_the_page_says_so(
    browser: Any, tmp_path: Path, result_of: Make, written: Write
) -> None:
    written(tmp_path / "page.html", result_of(6), [])
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto((tmp_path / "page.html").as_uri())
    assert page.locator("noscript p").is_visible()
    assert not page.locator("#all").is_visible()
    assert page.locator(".chart").first.is_visible()
    context.close()
