"""The report, in a browser and as a file."""

import json
import re
from collections.abc import Callable
from contextlib import AbstractContextManager
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from plainunet.dataset.dataset import SegmentationDataset
from plainunet.evaluation.evaluate import evaluate
from plainunet.evaluation.measure import PredictedImage
from plainunet.evaluation.report import (
    MEDIAN,
    WORST,
    About,
    Shown,
    choose_shown,
    draw_panels,
    fit_panels,
    render_report,
    show,
    write_report,
)
from plainunet.network.checkpoint import save_checkpoint
from plainunet.page import save_page
from plainunet.palette import default_colors
from plainunet.prediction.drawing import as_rgb

from ..models import make_card, make_network, make_predictor
from .made_up import ENDING, HOSTILE, make_eighteen, make_hostile, make_result, make_shown

Opened = Callable[..., AbstractContextManager[Any]]
SECTIONS = [
    "Evaluation protocol",
    "Training curves",
    "Scores by class",
    "Confusion matrix",
    "Worst and median images",
    "Dice per image",
    "All images",
    "Threshold",
    "Calibration",
    "Dice by area",
    "Resolution ceiling",
    "Reproduce this report",
]
OPTIONAL = {
    "curves": "Training curves",
    "threshold_curve": "Threshold",
    "calibration": "Calibration",
    "ceiling": "Resolution ceiling",
    "boundary": "",
    "objects": "",
}
COLORS = ((0, 0, 0), (255, 255, 255))


class Parsed(HTMLParser):
    """Collects the tags and texts of a page; fails on unclosed tags."""

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


def save(tmp_path: Path, result: dict[str, Any], shown: list[Shown] | None = None) -> Path:
    """Write a page and check its size."""
    path = tmp_path / "page.html"
    save_page(path, render_report(result, shown or []))
    assert path.stat().st_size < 5_000_000
    return path


def cells(page: Any, caption: str) -> list[list[str]]:
    """The rows of a table's body, row headers included."""
    rows = page.locator("table", has=page.locator(f'caption:text-is("{caption}")'))
    return [row.locator("th, td").all_inner_texts() for row in rows.locator("tbody tr").all()]


# in a browser


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (390, "dark")])
def test_the_page_fits_its_window_and_paper(
    width: int, scheme: str, opened: Opened, tmp_path: Path
) -> None:
    names = tuple(f"class {k}" for k in range(14 if width == 390 else 2))
    result = make_result(40, names)
    result["images"][0]["image"] = "a_long_name_without_a_space_" * 8 + ".png"
    shown = make_eighteen(classes=len(names))
    with opened(save(tmp_path, result, shown), width, scheme) as page:
        wide = page.evaluate(
            "[document.documentElement.scrollWidth, document.documentElement.clientWidth]"
        )
        assert wide[0] <= wide[1] == width
        ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (ground == "rgb(255, 255, 255)") == (scheme == "light")
        text = page.evaluate("getComputedStyle(document.querySelector('.chart text')).fill")
        soft = page.evaluate("getComputedStyle(document.querySelector('figcaption')).color")
        assert text == soft, "charts use the colours of the page"
        assert page.locator(".chart").first.bounding_box()["width"] > 300
        page.emulate_media(media="print")
        paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert paper == "rgb(255, 255, 255)"
        assert not page.locator("nav").is_visible()
        assert page.locator("button.zoom img").first.is_visible()


def test_scores_have_their_intervals(opened: Opened, tmp_path: Path) -> None:
    result = make_result()
    result["per_image"]["dice"]["mean_foreground"] = 0.98763
    result["per_image"]["dice"]["per_class"]["car"] = 0.12344
    result["intervals"]["per_image"]["dice"]["per_class"]["car"] = [0.1, 0.2]
    result["pooled"]["dice"]["per_class"]["car"] = None
    result["intervals"]["pooled"]["iou"]["per_class"]["car"] = [None, None]
    result["boundary"]["per_class"]["car"]["distance"] = None
    result["confusion"] = [[99_999_999, 1], [250, 750]]
    result["images"][0]["areas"]["car"] = 0
    result["images"][1]["dice"]["per_class"]["car"] = None
    with opened(save(tmp_path, result, [make_shown(0)])) as page:
        assert page.locator("strong").first.inner_text() == "0.9876"
        assert page.locator("h2").all_inner_texts() == SECTIONS
        assert page.locator("nav a").all_inner_texts() == SECTIONS
        about = page.locator("header dd").all_inner_texts()
        assert "validation split: 40 images in 8 groups" in about
        assert page.locator("pre").inner_text() == result["command"]
        assert page.locator("#protocol + p").inner_text() == result["protocol"]
        rows = cells(page, "Scores by class")
        assert len(rows) == 3, "the scores of car are the foreground's means"
        assert [row[0] for row in rows[:2]] == ["background", "car"]
        assert rows[1][1] == "\u2013"
        assert rows[1][2].split() == ["0.1234", "0.1000\u20130.2000"]
        assert len(rows[1][3].split()) == 1, "no interval"
        assert rows[1][-2:] == ["2", "1"]
        _, hd95, distance, *_ = cells(page, "Boundary metrics by class")[0]
        assert (hd95.split(), distance) == (["0.75", "0.50\u20131.00"], "\u2013")
        assert cells(page, "Object detection by class") == [
            ["car", "1,234", "1,200", "0.9000", "0.8500", "0.8000", "\u2013"]
        ]
        shares = [row[1:] for row in cells(page, "Confusion matrix (row-normalised, %)")]
        assert shares == [["100.00", "<0.01", "100,000,000"], ["25.00", "75.00", "1,000"]]
        title = page.locator("table.matrix td.correct").nth(1).get_attribute("title")
        assert title == "car, predicted as car: 750 pixels"
        captions = " ".join(page.locator("figcaption").all_inner_texts())
        for text in ("0.08333", "(ECE) 0.0123", "(38 images)", "240 x 360", "0.0089"):
            assert text in captions
        assert page.locator(".chart .dots use title").count() > 40


def test_the_table_is_sorted_by_keyboard(opened: Opened, tmp_path: Path) -> None:
    result = make_result(150)
    result["images"][7]["dice"]["mean_foreground"] = None
    with opened(save(tmp_path, result)) as page:
        rows = page.locator("#pictures tbody tr")
        heads = page.locator("#pictures thead th")

        def column(place: int) -> list[str]:
            found = rows.locator(f":scope > :nth-child({place + 1})")
            return [str(text) for text in found.all_text_contents()]

        assert column(3) == sorted(column(3))
        assert heads.nth(3).get_attribute("aria-sort") == "ascending"
        assert rows.count() == 100
        page.locator("#more").press("Enter")
        assert rows.count() == 150
        assert column(3)[-1] == "\u2013", "images without a score are last"
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
        assert page.locator("#found").text_content() == "1 of 150 images"


def test_images_enlarge_on_click(opened: Opened, tmp_path: Path) -> None:
    path = save(tmp_path, make_result(), [make_shown(0), make_shown(5, "median")])
    with opened(path) as page:
        zooms = page.locator("button.zoom")
        dialog, large = page.locator("#zoom"), page.locator("#zoom img")

        def shows(place: int) -> bool:
            small = zooms.nth(place).locator("img")
            same = large.get_attribute("src") == small.get_attribute("src")
            return same and large.get_attribute("alt") == small.get_attribute("alt")

        assert zooms.count() == 8
        titles = page.locator("#images ~ h3").all_inner_texts()
        assert titles == ["Worst images", "Images around the median"]
        keys = page.locator(".keys li")
        assert [text.strip() for text in keys.all_inner_texts()] == ["background", "car"]
        color = "rgb({},{},{})".format(*default_colors(2)[1])
        assert keys.nth(1).locator("rect").get_attribute("fill") == color
        assert not dialog.is_visible()
        zooms.nth(1).press("Enter")
        assert dialog.is_visible()
        assert shows(1)
        assert page.evaluate("document.activeElement.id") == "next"
        box = large.bounding_box()
        assert box["width"] > 600
        assert box["y"] + box["height"] <= 900
        label = page.locator("#zoom-label").text_content()
        assert label.startswith("ground truth: cars/0000_of_one.jpg, Dice 0.")
        keys = ("ArrowRight", "ArrowDown", "ArrowRight", "ArrowRight", "ArrowLeft", "ArrowUp")
        for key, place in zip(keys, (2, 6, 7, 0, 7, 3), strict=True):
            page.keyboard.press(key)
            assert shows(place), key
        page.locator("#next").press("Enter")
        assert shows(4)
        page.keyboard.press("Escape")
        assert not dialog.is_visible()
        focused = "document.activeElement === document.querySelectorAll('button.zoom')[1]"
        assert page.evaluate(focused)
        zooms.nth(6).click()
        assert shows(6)
        page.locator("#close").click()
        assert not dialog.is_visible()
        zooms.nth(6).click()
        page.mouse.click(3, 3)
        assert not dialog.is_visible(), "a click outside closes it"


def test_the_keyboard_reaches_everything(opened: Opened, tmp_path: Path) -> None:
    with opened(save(tmp_path, make_result(6), [make_shown(3)])) as page:
        reached = set()
        for _ in range(60):
            page.keyboard.press("Tab")
            found = page.evaluate(
                "(() => { const e = document.activeElement; return [e.className || e.localName, "
                "getComputedStyle(e).outlineStyle]; })()"
            )
            if found[0] == "body":
                break
            assert found[1] == "solid", found
            reached.add(found[0])
        assert {"a", "scroll", "scroll tall", "zoom", "input", "button"} <= reached
        links = page.locator("#pictures a")
        assert links.all_text_contents() == ["cars/0003_of_one.jpg"]
        links.first.press("Enter")
        assert page.evaluate("location.hash") == "#picture-3"
        assert page.evaluate("document.activeElement.id") == "picture-3"


def test_hostile_names_are_escaped(opened: Opened, tmp_path: Path) -> None:
    path = save(tmp_path, make_hostile(), [make_shown(0)])
    page = Parsed(path.read_text(encoding="utf-8"))
    assert [tag for tag, _ in page.tags].count("script") == 2
    assert all(not key.startswith("on") for _, attributes in page.tags for key in attributes)
    assert ENDING in page.inside["dd"]
    with opened(path) as shown:
        assert shown.title() == f"{ENDING} on {ENDING}"
        assert shown.locator("#pictures tbody a").text_content() == HOSTILE
        shown.locator("button.zoom").first.press("Enter")
        assert HOSTILE in shown.locator("#zoom-label").text_content()
        assert shown.locator("img").count() == 4 + 1
        assert shown.locator("script").count() == 2


def test_the_page_without_javascript(browser: Any, tmp_path: Path) -> None:
    path = save(tmp_path, make_result(6))
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(path.as_uri())
    assert page.locator("noscript p").is_visible()
    assert not page.locator("#all").is_visible()
    assert page.locator(".chart").first.is_visible()
    context.close()


@pytest.mark.slow
def test_two_thousand_images_of_twenty_classes(opened: Opened, tmp_path: Path) -> None:
    names = tuple(f"class {number}" for number in range(20))
    shown = make_eighteen(height=1280, width=1918, classes=20)
    path = save(tmp_path, make_result(2000, names), shown)
    with opened(path) as page:
        assert page.locator("#pictures tbody tr").count() == 100
        page.locator("#pictures thead button").nth(4).press("Enter")
        assert page.locator("#pictures thead th").nth(4).get_attribute("aria-sort") == "ascending"
        assert page.locator(".wide .dots use").count() < 2000 * 19 / 2, "dots are merged"


# the file


def test_nothing_is_requested(tmp_path: Path) -> None:
    text = save(tmp_path, make_result(), [make_shown(0)]).read_text(encoding="utf-8")
    page = Parsed(text)
    for tag, attributes in page.tags:
        for name in ("src", "href"):
            assert (attributes.get(name) or "#").startswith(("#", "data:"))
        assert "style" not in attributes, "forbidden by the policy"
        assert tag != "img" or attributes["alt"]
        assert tag != "th" or attributes["scope"]
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert "://" not in text
    policy = re.search(r'Content-Security-Policy" content="(.*?)"', text)
    assert policy is not None
    assert "default-src 'none'" in policy[1]
    assert "unsafe" not in policy[1]


@pytest.mark.parametrize("gone", ["missing", "None"])
def test_empty_sections_are_omitted(gone: str, tmp_path: Path) -> None:
    result = make_result(5)
    for key in OPTIONAL:
        if gone == "missing":
            del result[key]
        else:
            result[key] = None
    for image in result["images"]:
        del image["boundary"]
    page = Parsed(save(tmp_path, result).read_text(encoding="utf-8"))
    omitted = {*OPTIONAL.values(), "Worst and median images"}
    assert page.inside["h2"] == [name for name in SECTIONS if name not in omitted]
    assert page.inside["caption"][:2] == ["Scores by class", "Confusion matrix (row-normalised, %)"]


def nothing_known(part: Any) -> Any:
    """The same layout with every score None."""
    if isinstance(part, dict):
        return {key: nothing_known(value) for key, value in part.items()}
    return None


def test_a_report_without_scores(tmp_path: Path) -> None:
    result = make_result(2)
    for key in ("pooled", "per_image", "absent"):
        result[key] = nothing_known(result[key])
    intervals = {key: nothing_known(result["intervals"][key]) for key in ("pooled", "per_image")}
    result["intervals"] = {"groups": 1, "level": 0.95, **intervals}
    result["images"] = [
        {**nothing_known(image), "image": image["image"], "group": "a"}
        for image in result["images"]
    ]
    for key in ("boundary", "objects"):
        result[key] = {**nothing_known(result[key]), "tolerance": 2.0}
    result["threshold_curve"]["chosen"] = result["calibration"]["error"] = result["curves"] = None
    result["confusion"] = [[0, 0], [0, 0]]
    page = Parsed(save(tmp_path, result, [make_shown(0)]).read_text(encoding="utf-8"))
    nothing = "no foreground"  # in two cards and below the image; the ceiling needs no scores
    assert page.inside["strong"] == [nothing, nothing, "0.9965", nothing]
    shown = " ".join(
        " ".join(texts) for tag, texts in page.inside.items() if tag not in ("style", "script")
    )
    assert not re.search(r"95% CI|\b(None|nan|NaN|null|inf)\b", shown)
    data = json.loads(page.inside["script"][0])
    assert data["rows"][0][3:] == [None] * (len(data["columns"]) - 3)


def test_columns_of_the_table_of_all_images(tmp_path: Path) -> None:
    def columns(names: tuple[str, ...]) -> list[str]:
        text = save(tmp_path, make_result(2, names)).read_text(encoding="utf-8")
        return [each["name"] for each in json.loads(Parsed(text).inside["script"][0])["columns"]]

    common = ["image", "group", "height x width", "Dice", "IoU", "accuracy"]
    assert columns(("background", "car")) == [*common, "HD95 car"]
    each = [f"{score} {name}" for score in ("Dice", "HD95") for name in ("leaf", "stone")]
    assert columns(("background", "leaf", "stone")) == [*common, *each]


@pytest.mark.slow
def test_eighteen_large_images_are_below_five_megabytes(tmp_path: Path) -> None:
    result = make_result()
    result["images"][0]["image"] = "a\udcff.png"  # not UTF-8, so it is escaped
    path = save(tmp_path, result, make_eighteen(height=640, width=960))
    assert "a\\udcff.png" in path.read_text(encoding="utf-8")
    widths = re.findall(r'<img width="(\d+)"', path.read_text(encoding="utf-8"))
    assert len(widths) == 18 * 4
    assert min(map(int, widths)) >= 400, "large enough to see errors"


# panels


def small() -> Shown:
    """[4, 6]: two columns are class 1; one of its pixels is missed, one pixel is ignored."""
    truth = np.zeros((4, 6), np.uint8)
    truth[:, 2:4] = 1
    prediction = truth.copy()
    prediction[1, 2] = 0
    prediction[0, 0] = 1
    truth[0, 0] = 255
    return Shown(0, np.full((4, 6, 3), 120, np.uint8), truth, prediction, "worst")


def test_errors_are_red_and_ignored_pixels_grey() -> None:
    image, truth, prediction, errors = draw_panels(small(), COLORS, 100).values()
    assert (image == 120).all()
    assert truth[0, 0].tolist() == [128] * 3
    assert truth[1, 2].tolist() == [255] * 3
    assert prediction[1, 2].tolist() == [0] * 3
    assert errors[1, 2].tolist() == [255, 40, 40]
    assert errors[0, 0].tolist() == [128] * 3
    assert (np.delete(errors.reshape(-1, 3), [0, 8], axis=0) == 40).all()
    reduced = draw_panels(small(), COLORS, 3)["errors"]
    assert reduced.shape == (2, 3, 3)
    assert reduced[0, 1].tolist() == [94, 40, 40], "one pixel of four is wrong"
    assert reduced[0, 0].tolist() == [62] * 3


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 7])
@pytest.mark.parametrize("kind", [np.uint8, np.uint16, np.float32])
def test_images_of_every_kind(channels: int, kind: type) -> None:
    values = np.linspace(0, 1, 4 * 6 * channels).reshape(4, 6, channels)
    most = 1 if kind is np.float32 else np.iinfo(kind).max
    masks = small().truth, small().prediction
    seen = PredictedImage((values * most).astype(kind), *masks, np.zeros((2, 100), np.int64))
    panels = draw_panels(show(0, "worst", seen), COLORS, 3)
    assert [panel.shape for panel in panels.values()] == [(2, 3, 3)] * 4
    assert {panel.dtype for panel in panels.values()} == {np.dtype(np.uint8)}
    assert panels["image"].max() > panels["image"].min() + 50


def test_masks_of_another_size_are_errors(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"4, 6\D+5, 6"):
        draw_panels(small()._replace(image=np.zeros((5, 6, 3), np.uint8)), COLORS, 9)


def test_panels_are_as_large_as_their_bytes_allow() -> None:
    shown = make_shown(0, height=1280, width=1918)
    sides = []
    for most in (10_000_000, 200_000, 60_000, 1):
        urls, size = fit_panels(shown, COLORS, most)
        assert sum(map(len, urls.values())) <= most or most == 1
        sides.append(max(size))
    assert sides == sorted(sides, reverse=True)
    assert sides[0] == 1000
    assert sides[-1] == 64
    urls, size = fit_panels(make_shown(0), COLORS, 10_000_000)
    assert size == (128, 192), "nothing is enlarged"
    kinds = [url.partition(";")[0] for url in urls.values()]
    assert kinds == ["data:image/jpeg", "data:image/png", "data:image/png", "data:image/jpeg"]


# what goes in


def result_of(means: list[float | None]) -> dict[str, object]:
    return {"images": [{"dice": {"mean_foreground": mean}} for mean in means]}


def test_the_worst_and_median_images_are_shown() -> None:
    means = [number / 100 for number in range(100)][::-1]
    chosen = choose_shown(result_of([*means, None]))
    worst = [number for number, why in chosen.items() if why == "worst"]
    assert worst == list(range(99, 99 - WORST, -1))
    median = sorted(means[number] for number, why in chosen.items() if why == "median")
    assert len(median) == MEDIAN
    assert median[0] < 0.5 < median[-1]
    assert list(chosen)[:WORST] == worst


@pytest.mark.parametrize("count", [0, 1, 5, 13, 20])
def test_no_image_is_shown_twice(count: int) -> None:
    chosen = choose_shown(result_of([0.5] * count))
    assert len(chosen) == min(count, WORST + MEDIAN) or count in (13, 20)
    assert set(chosen) <= set(range(count))
    assert sum(why == "worst" for why in chosen.values()) == min(count, WORST)


@pytest.mark.parametrize(
    "dtype", [*(f"{sign}int{bits}" for sign in ("u", "") for bits in (8, 16, 32, 64)), "float64"]
)
@pytest.mark.parametrize("side", [60, 1700])
def test_images_of_every_stored_dtype_are_drawn(dtype: str, side: int) -> None:
    most = np.iinfo(dtype).max if "int" in dtype else 1
    image = np.zeros((side, 40, 1), dtype)
    image[:, 10:] = most / 4
    image[:, 20:] = most / 2
    truth = np.zeros((side, 40), np.uint8)
    shown = show(0, "worst", PredictedImage(image, truth, truth, np.zeros((2, 100), np.int64)))
    drawn = draw_panels(shown, COLORS, side // 2)["image"]
    # as the image itself is drawn
    assert abs(drawn[10, [2, 7, 12]].astype(int) - as_rgb(image)[20, [5, 15, 25]]).max() <= 1
    assert drawn[20, 0, 0] < drawn[20, 7, 0] - 50 < drawn[20, 15, 0] - 100


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_large_images_are_downscaled(dtype: type[np.generic]) -> None:
    image = np.zeros((2000, 3000, 3), dtype)
    image[:, 1500:] = 1 if dtype is np.float32 else np.iinfo(dtype).max
    truth = np.zeros((2000, 3000), np.uint8)
    truth[:1000] = 255
    seen = PredictedImage(image, truth, truth // 255, np.zeros((2, 100), np.int64))
    shown = show(4, "worst", seen)
    assert shown.truth.shape == shown.prediction.shape == shown.image.shape[:2] == (1067, 1600)
    assert set(np.unique(shown.truth)) == {0, 255}
    assert shown.why == "worst"
    assert shown.image[:, -1].min() == 255
    small = PredictedImage(image[:100, :90], truth[:100, :90], truth[:100, :90], seen.histogram)
    assert show(4, "worst", small).image.shape == (100, 90, 3)


def test_the_report_describes_the_evaluation(draw: Callable[[Path], Path], tmp_path: Path) -> None:
    data = draw(tmp_path / "data")
    masks = {"values": (0, 1, 2), "ignore": 255, "kind": "ids"}
    settings = {"masks": masks, "training": {"settings": {"epochs": 7}}}
    run = tmp_path / "run"
    run.mkdir()
    card = make_card(3, size=(24, 32), **settings)
    save_checkpoint(run / "best.safetensors", make_network(), card)
    rows: list[dict[str, object]] = [{"epoch": n, "loss": 1 / n} for n in (1, 2, 3)]
    rows[1]["validation"] = {"per_image": {"dice": {"mean_foreground": 0.4321}}}
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    page = tmp_path / "report.html"
    result = evaluate(run / "best.safetensors", data, html=page, device="cpu")
    assert result.report == page
    text = page.read_text(encoding="utf-8")
    for expected in (
        "U-Net, 4 base channels, depth 2",
        "24 x 32 pixels",
        f"plainunet evaluate {run / 'best.safetensors'} {data} --split all --html {page}",
        "0, 1, 2",
        f"{result.dice:.4f}",
        "epochs",
        "0.4321",
    ):
        assert expected in text
    assert text.count("data:image/") >= 10
    # outside the run folder, with a model at native resolution
    about = About("elsewhere/best.safetensors", "data", "plainunet evaluate")
    dataset = SegmentationDataset.open(data)
    write_report(page, result.as_dict(), [], make_predictor(3, **settings), dataset, about)
    text = page.read_text(encoding="utf-8")
    assert "native resolution" in text
