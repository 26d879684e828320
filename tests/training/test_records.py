import csv
import json
from pathlib import Path
from typing import Any

import pytest

from plainunet.training.run import METRICS_FILE, rows_until, write_rows


def row(epoch: int, dice: float | None) -> dict[str, Any]:
    scores = {name: {"mean_foreground": dice} for name in ("dice", "iou")}
    return {
        **{"epoch": epoch, "step": 3 * epoch, "size": [32, 48], "loss": 0.5},
        **{"learning_rate": 0.1, "images_per_second": 9.0, "seconds": 7.0},
        "validation": dice and {"pooled": scores, "per_image": scores},
    }


def test_both_files_say_the_same(tmp_path: Path) -> None:
    rows = [row(1, 0.25), row(2, None), row(3, 0.75)]
    write_rows(tmp_path, rows)
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == rows
    with (tmp_path / "metrics.csv").open(newline="") as file:
        table = list(csv.DictReader(file))
    assert [int(each["epoch"]) for each in table] == [1, 2, 3]
    assert [each["per_image_dice"] for each in table] == ["0.25", "", "0.75"]
    assert {each["width"] for each in table} == {"48"}


def test_rows_after_the_saved_state_do_not_count(tmp_path: Path) -> None:
    assert rows_until(tmp_path, 5) == []
    write_rows(tmp_path, [row(1, 0.1), row(2, 0.2), row(3, 0.3)])
    assert [each["epoch"] for each in rows_until(tmp_path, 2)] == [1, 2]


def test_a_damaged_line_is_named(tmp_path: Path) -> None:
    (tmp_path / METRICS_FILE).write_text('{"epoch": 1}\n{"epo\n')
    with pytest.raises(ValueError, match=rf"{METRICS_FILE}: line 2 is damaged"):
        rows_until(tmp_path, 1)
