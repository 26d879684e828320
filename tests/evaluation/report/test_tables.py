import json
import re
from collections.abc import Callable
from typing import Any

from plainunet.evaluation.report.tables import (
    boundary_table,
    confusion_table,
    fact_list,
    object_table,
    picture_rows,
    score_table,
)

NAMES = ("background", "car")
Make = Callable[..., dict[str, Any]]


def test_scores_stand_with_their_intervals(result_of: Make) -> None:
    result = result_of()
    result["per_image"]["dice"]["per_class"]["car"] = 0.98765
    result["intervals"]["per_image"]["dice"]["per_class"]["car"] = [0.97, 0.99]
    table = score_table(result, NAMES)
    row = re.search(r'<tr><th scope="row">car</th>(.*?)</tr>', table)
    assert row is not None
    cells = re.findall(r"<td>(.*?)</td>", row[1])
    assert len(cells) == 4 * 2 + 2
    assert cells[1] == "0.9877<small>0.9700\u20130.9900</small>"
    assert cells[-2:] == ["2", "1"]
    assert "mean of the foreground" in table
    assert "<caption>" in table
    assert 'tabindex="0"' in table


def test_without_scores_there_are_dashes(result_of: Make) -> None:
    result = result_of()
    result["pooled"]["dice"]["per_class"]["car"] = None
    result["intervals"]["pooled"]["iou"]["per_class"]["car"] = None
    result["intervals"]["pooled"]["recall"]["per_class"]["car"] = [None, None]
    result["absent"] = None
    table = score_table(result, NAMES)
    cells = re.findall(r"<td>(.*?)</td>", table.split("car</th>")[1].split("</tr>")[0])
    assert cells[0] == "\u2013"
    assert "small" not in cells[2]
    assert "small" not in cells[6]
    assert cells[-2:] == ["\u2013", "\u2013"]
    assert "None" not in table


def test_outlines_and_objects(result_of: Make) -> None:
    result = result_of()
    result["boundary"]["per_class"]["car"]["distance"] = None
    table = boundary_table(result["boundary"])
    assert re.findall(r"<td>(.*?)</td>", table) == [
        "0.75<small>0.50\u20131.00</small>",
        "\u2013",
        *["0.7500<small>0.5000\u20131.0000</small>"] * 2,
    ]
    cells = re.findall(r"<td>(.*?)</td>", object_table(result["objects"]))
    assert cells == ["1,234", "1,200", "0.9000", "0.8500", "0.8000", "\u2013"]


def test_a_confusion_matrix_has_shares_and_pixels() -> None:
    table = confusion_table([[750, 250], [0, 0]], NAMES)
    cells = re.findall(r'<td class="(.*?)" title="(.*?)">(.*?)</td>', table)
    assert cells[0] == (
        "s8 right",
        "background, predicted as background: 750 pixels, 0.7500 of background",
        "75.00",
    )
    assert cells[1][0] == "s2"
    assert cells[1][2] == "25.00"
    assert [cell[2] for cell in cells[2:]] == ["\u2013", "\u2013"]
    assert "<td>1,000</td>" in table


def test_what_is_there_is_not_rounded_to_nothing() -> None:
    table = confusion_table([[99_999_999, 1], [0, 5]], NAMES)
    assert ">&lt;0.01</td>" in table
    assert ">0</td>" in table
    many = [f"class {k}" for k in range(30)]
    counts = [[int(row == column) for column in range(30)] for row in range(30)]
    table = confusion_table(counts, many)
    assert 'class="matrix many"' in table
    assert table.count(">100.0</td>") == 30


def test_rows_of_pictures_are_ready_for_json(result_of: Make) -> None:
    result = result_of(3)
    result["images"][1]["dice"]["mean_foreground"] = None
    result["images"][1]["group"] = None
    del result["images"][1]["boundary"]
    rows = picture_rows(result, NAMES, {2: "picture-2"})
    assert [column["name"] for column in rows["columns"]] == [
        *["picture", "group", "height x width", "Dice", "IoU", "accuracy"],
        "95 % distance car",
    ]
    assert rows["rows"][1][1:4] == ["\u2013", [1280, 1918], None]
    assert rows["rows"][1][6] is None
    assert rows["rows"][0][3] == round(result["images"][0]["dice"]["mean_foreground"], 4)
    assert rows["anchors"] == [None, None, "picture-2"]
    assert json.loads(json.dumps(rows, allow_nan=False)) == rows


def test_several_classes_have_a_column_each(result_of: Make) -> None:
    names = ("background", "leaf", "stone")
    columns = picture_rows(result_of(2, names), names, {})["columns"]
    assert [column["name"] for column in columns[6:8]] == ["Dice leaf", "Dice stone"]


def test_names_are_escaped(result_of: Make) -> None:
    name = "</script><img src=x>"
    result = result_of(2, ("background", name))
    names = ("background", name)
    for said in (
        score_table(result, names),
        boundary_table(result["boundary"]),
        object_table(result["objects"]),
        confusion_table(result["confusion"], names),
        fact_list({name: name, "none": None}),
    ):
        assert "<img" not in said
        assert "&lt;img" in said
        assert "None" not in said
