"""What a page says, without a browser."""

import base64
import hashlib
import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from plainunet.evaluation.report.page import write_report
from plainunet.evaluation.report.panels import Shown

Make = Callable[..., dict[str, Any]]
Show = Callable[..., Shown]
Many = Callable[..., list[Shown]]
Write = Callable[[Path, dict[str, Any], list[Shown]], str]


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


def test_a_page_has_its_parts(
    tmp_path: Path, result_of: Make, written: Write, eighteen: Many
) -> None:
    result = result_of()
    result["per_image"]["dice"]["mean_foreground"] = 0.98765
    page = Parsed(written(tmp_path / "page.html", result, eighteen()))
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


def test_nothing_is_asked_of_a_network(
    tmp_path: Path, result_of: Make, shown_of: Show, written: Write
) -> None:
    text = written(tmp_path / "page.html", result_of(), [shown_of(0)])
    for _, attributes in Parsed(text).tags:
        for name in ("src", "href"):
            assert (attributes.get(name) or "#").startswith(("#", "data:"))
    assert "://" not in text
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
    gone: str, tmp_path: Path, result_of: Make, optional: tuple[str, ...], written: Write
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
    tmp_path: Path, result_of: Make, shown_of: Show, optional: tuple[str, ...], written: Write
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


def test_hostile_names_are_text(
    tmp_path: Path, shown_of: Show, written: Write, hostile: dict[str, Any]
) -> None:
    name = hostile["images"][0]["image"]
    ending = hostile["protocol"]
    text = written(tmp_path / "page.html", hostile, [shown_of(0)])
    page = Parsed(text)
    assert [tag for tag, _ in page.tags].count("script") == 2
    assert all(not name.startswith("on") for _, attributes in page.tags for name in attributes)
    assert json.loads(page.inside["script"][0])["rows"][0][0] == name
    assert ending in page.inside["dd"]


def test_names_that_are_not_utf8_are_written_out(
    tmp_path: Path, result_of: Make, written: Write
) -> None:
    result = result_of(2)
    result["images"][0]["image"] = "a\udcff.png"
    assert "a\\udcff.png" in written(tmp_path / "page.html", result, [])


def test_a_page_is_written_whole_or_not_at_all(
    tmp_path: Path, result_of: Make, shown_of: Show, written: Write
) -> None:
    path = tmp_path / "new" / "page.html"
    first = written(path, result_of(3), [])
    wrong = shown_of(0)._replace(truth=shown_of(0, height=64).truth)
    with pytest.raises(ValueError, match="sizes"):
        write_report(path, result_of(4), [wrong])
    assert path.read_text(encoding="utf-8") == first
    assert [file.name for file in path.parent.iterdir()] == ["page.html"]


def test_eighteen_large_pictures_are_below_five_megabytes(
    tmp_path: Path, result_of: Make, written: Write, eighteen: Many
) -> None:
    shown = eighteen(height=1280, width=1918)
    text = written(tmp_path / "page.html", result_of(), shown)
    assert text.count("<img") == 18 * 4
    widths = [int(width) for width in re.findall(r'<img width="(\d+)"', text)]
    assert min(widths) >= 400, "still worth looking at"
