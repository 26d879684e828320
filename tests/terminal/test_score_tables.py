import copy
from typing import Any

import numpy as np
import pytest

from plainunet.terminal.tables import show_comparison, show_scores, show_tuning


def scores(shift: float) -> dict[str, Any]:
    return {
        "accuracy": 0.9 + shift,
        **{
            name: {
                "mean_foreground": 0.5 + shift,
                "mean_with_background": 0.7 + shift,
                "per_class": {"ground": 0.8 + shift, "[b]leaf": None},
            }
            for name in ("dice", "iou", "precision", "recall")
        },
    }


def bounds() -> dict[str, Any]:
    each = {
        "mean_foreground": [0.41, 0.61],
        "mean_with_background": None,
        "per_class": {"ground": [0.75, 0.85], "[b]leaf": None},
    }
    names = ("dice", "iou", "precision", "recall")
    return {"accuracy": [0.88, 0.95], **{name: copy.deepcopy(each) for name in names}}


RESULT: dict[str, Any] = {
    "split": "val",
    "protocol": "Counted at native size.",
    "images": [{}, {}, {}],
    "pooled": scores(0.0),
    "per_image": scores(0.01),
    "intervals": {"groups": 2, "level": 0.95, "pooled": bounds(), "per_image": bounds()},
    "boundary": {
        "tolerance": 2.0,
        "per_class": {
            "[b]leaf": {
                "hd95": 12.3456,
                "distance": 1.5,
                "surface_dice": 0.625,
                "boundary_iou": None,
            }
        },
        "intervals": {
            "[b]leaf": {
                "hd95": [10.0, 20.0],
                "distance": None,
                "surface_dice": [0.5, 0.75],
                "boundary_iou": None,
            }
        },
    },
    "objects": {
        "per_class": {
            "[b]leaf": {
                "true": 1234,
                "predicted": 1200,
                "f1": {"pooled": 0.8, "per_image": 0.75},
                "average_precision": {"pooled": 0.6, "per_image": 0.5625},
                "pixel_error": 0.0625,
                "together": {
                    "rand": [0.5, None, 0.875, 0.25],
                    "information": [None] * 4,
                    "thresholds": [0.2, 0.4, 0.6, 0.8],
                },
            }
        }
    },
}


def show(result: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> list[str]:
    show_scores(result)
    text = capsys.readouterr().out
    assert max(map(len, text.splitlines())) <= 80
    return [" ".join(line.split()) for line in text.splitlines()]


def test_scores_stand_above_their_intervals(capsys: pytest.CaptureFixture[str]) -> None:
    rows = show(RESULT, capsys)
    assert rows[0] == "3 pictures in 2 groups, part: val"
    ground = rows.index("ground 0.8000 0.8000 0.8000 0.8000")
    assert rows[ground + 1] == " ".join(["0.7500-0.8500"] * 4)
    assert "ground 0.8100 0.8100 0.8100 0.8100" in rows
    assert "[b]leaf - - - -" in rows
    accuracy = rows.index("pixel accuracy 0.9100")
    assert rows[accuracy + 1] == "0.8800-0.9500"
    assert "[b]leaf 12.35 1.50 0.6250 -" in rows
    assert "10.00-20.00 0.5000-0.7500" in rows
    leaf = rows.index("[b]leaf 1,234 0.7500 0.5625 0.8750 -")
    assert rows[leaf + 1] == "1,200 given at 0.6"
    assert "Pixel error (1 - best pooled Dice) 0.0625" in " ".join(rows)
    assert "Counted at native size." in " ".join(rows)
    assert "95% of the scores lie when groups of pictures are drawn anew" in " ".join(rows)
    assert "(bootstrap); from 2 groups they are too narrow." in " ".join(rows)


def test_what_was_not_measured_is_not_shown(capsys: pytest.CaptureFixture[str]) -> None:
    few = {key: value for key, value in RESULT.items() if key not in ("boundary", "objects")}
    few["intervals"] = {**RESULT["intervals"], "groups": 1}
    text = " ".join(show(few, capsys))
    assert "3 pictures in 1 group, part: val" in text
    assert "HD95" not in text
    assert "Rand" not in text
    assert "With a single group of pictures there are no intervals." in text


def test_of_more_classes_there_is_no_threshold(capsys: pytest.CaptureFixture[str]) -> None:
    more = copy.deepcopy(RESULT)
    together = more["objects"]["per_class"]["[b]leaf"]["together"]
    del together["thresholds"]
    together["rand"] = together["information"] = np.array([0.5]).tolist()
    assert "[b]leaf 1,234 0.7500 0.5625 0.5000 0.5000" in show(more, capsys)


def test_what_was_tried_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    settings = {"threshold": 0.5, "tta": "none", "min_object": 0, "fill_holes": 0}
    show_tuning(
        {
            "part": "val",
            "pictures": 4,
            "before": settings,
            "after": {**settings, "threshold": 0.62, "min_object": 30},
            "dice": {"before": 0.9, "after": 0.95},
            "tried": [
                {"setting": "as it was", "value": None, "dice": 0.9},
                {"setting": "tta", "value": "mirror, threshold 0.62", "dice": 0.91},
                {"setting": "min_object", "value": 30, "dice": 0.95},
            ],
        }
    )
    rows = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert "as it was 0.9000" in rows
    assert "tta mirror, threshold 0.62 0.9100" in rows
    assert "min object 30 0.9500" in rows
    assert "Dice 0.9000; 0.9500 with what the checkpoint says now:" in rows
    assert "threshold: 0.62 (before: 0.5)" in rows
    assert "tta: none (as before)" in rows


def test_two_models_stand_side_by_side(capsys: pytest.CaptureFixture[str]) -> None:
    entry = {
        "first": 0.9,
        "second": 0.95,
        "difference": 0.05,
        "interval": [-0.01, 0.1],
        "better": 0.975,
    }
    nothing = dict.fromkeys(entry)
    image = {"image": "a/[b]x.png", "group": "x", "first": 0.5, "second": None, "difference": None}
    show_comparison(
        {
            "protocol": "Counted.",
            "split": "val",
            "pictures": 3,
            "groups": 2,
            "level": 0.95,
            "models": ["runs/[a]", "runs/b"],
            "scores": {"pooled": {"dice": entry}, "per_image": {"dice": nothing}},
            "images": [image],
        }
    )
    text = capsys.readouterr().out
    assert max(map(len, text.splitlines())) <= 80
    rows = [" ".join(line.split()) for line in text.splitlines()]
    assert "first: runs/[a]" in rows
    dice = rows.index("dice 0.9000 0.9500 +0.0500 97.5%")
    assert rows[dice + 1] == "-0.0100 to +0.1000"
    assert "dice - - - -" in rows
    assert "[b]x.png 0.5000 - -" in rows
    assert "95% of them lie when groups of pictures are drawn anew" in " ".join(rows)
