"""Networks, findings and scores on the terminal."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from plainunet.doctor.diagnose import check
from plainunet.evaluation.compare import Comparison
from plainunet.evaluation.scores import CrossValidation, FoldScores, Scores
from plainunet.network.summary import StageSummary
from plainunet.terminal.tables import (
    show_comparison,
    show_cross_validation,
    show_diagnosis,
    show_model,
    show_scores,
    show_tuning,
)

Printed = Callable[[], list[str]]


@pytest.fixture
def printed(capsys: pytest.CaptureFixture[str]) -> Printed:
    """Read the printed lines, with single spaces; all fit 80 columns."""

    def take() -> list[str]:
        lines = capsys.readouterr().out.splitlines()
        assert max(map(len, lines)) <= 80
        return [" ".join(line.split()) for line in lines]

    return take


STAGES = [
    StageSummary("inlet", (64, 1600, 2400), 38_848, 148_193_280_000, 3_978_291_200, (5, 5)),
    StageSummary("down 1", (128, 800, 1200), 0, 0, 0, (14, 14)),
    StageSummary("up 10", (512, 20, 30), 9_177_600, 4_561_305_600, 7_376_896, (188, 204)),
    StageSummary("head", (2, 1600, 2400), 130, 999_700, 0, None),
]


@pytest.mark.parametrize("columns", ["60", "100"])
def test_a_network_is_shown_whole(
    columns: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    show_model(STAGES, (3, 1600, 2400), ["ground", "[b]leaf"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "classes: ground, [b]leaf"
    assert "3 x 1600 x 2400" in lines[1].split("  ")[0]
    assert re.fullmatch(r"64 x 1600 x 2400 -+> 512 x 20 x 30", lines[2])
    rows = [" ".join(line.split()) for line in lines]
    assert "inlet 64 x 1600 x 2400 38,848 148 G 3,794.0 MiB 5" in rows
    assert "up 10 512 x 20 x 30 9,177,600 4.56 G 7.0 MiB 188-204" in rows
    assert "head 2 x 1600 x 2400 130 1000 k 0.0 MiB whole" in rows
    assert "total 9,216,578 153 G 3,801.0 MiB" in rows
    assert "306 GFLOP" in " ".join(rows)


def test_of_many_findings_five_are_shown(
    small_data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in range(6):
        (small_data / "images" / f"{number}.png").write_bytes(b"")
    show_diagnosis(check(small_data), "plainunet train", {})
    text = capsys.readouterr().out
    assert "error: empty-file (6)" in text
    assert text.count("is empty (0 bytes)") == 5
    assert "and 1 more" in text
    # the same fix is said once
    assert text.count("--write") == 1


def test_a_valid_folder_is_shown_with_the_command_that_trains(
    small_data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recommended = {"size": ((64, 96), "[why]")}
    show_diagnosis(check(small_data), "plainunet train [it]", recommended)
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert lines[-2:] == ["recommended: --size 64 96 ([why])", "plainunet train [it]"]
    assert any(re.fullmatch(r"foreground \d+\.\d% 8", line) for line in lines)
    assert any("512: 1.000" in line for line in lines)


def scores(*per_class: Any, accuracy: Any) -> dict[str, Any]:
    """Four metrics that share their values, or the intervals of such."""
    names = ("ground", "[b]leaf", "stone")
    metric = {
        "mean_foreground": per_class[1] if len(per_class) == 2 else 0.123456,
        "mean_with_background": 0.654321,
        "per_class": dict(zip(names, per_class, strict=False)),
    }
    if isinstance(accuracy, list):
        metric["mean_foreground"] = metric["mean_with_background"] = None
    return {"accuracy": accuracy, **dict.fromkeys(("dice", "iou", "precision", "recall"), metric)}


BOUNDS = scores([0.41, 0.61], [0.75, 0.85], accuracy=[0.88, 0.95])
BOUNDARY = {"hd95": 12.3456, "distance": 1.5, "surface_dice": 0.625, "boundary_iou": None}
BOUNDARY_BOUNDS = {
    **{"hd95": [10.0, 20.0], "distance": None},
    **{"surface_dice": [0.5, 0.75], "boundary_iou": None},
}
OBJECTS = {
    **{"true": 1234, "predicted": 1200, "pixel_error": 0.0625},
    "f1": {"pooled": 0.8, "per_image": 0.75},
    "average_precision": {"pooled": 0.6, "per_image": 0.5625},
    "together": {
        "rand": [0.5, None, 0.875, 0.25],
        "information": [None] * 4,
        "thresholds": [0.2, 0.4, 0.6, 0.8],
    },
}
RESULT: dict[str, Any] = {
    "split": "val",
    "protocol": "A paragraph. " * 20,
    "images": [{}, {}, {}],
    "pooled": scores(0.5, 0.8, accuracy=0.9),
    "per_image": scores(0.51, 0.81, accuracy=0.91),
    "intervals": {"groups": 2, "level": 0.95, "pooled": BOUNDS, "per_image": BOUNDS},
    "boundary": {
        "tolerance": 2.0,
        "per_class": {"[b]leaf": BOUNDARY},
        "intervals": {"[b]leaf": BOUNDARY_BOUNDS},
    },
    "objects": {"per_class": {"[b]leaf": OBJECTS}},
}


def made(content: dict[str, Any]) -> Scores:
    return Scores(Path("best.safetensors"), content)


def test_two_classes_fit_a_screen(printed: Printed) -> None:
    show_scores(made(RESULT))
    rows = printed()
    assert len(rows) < 24
    assert rows[0] == "3 images in 2 groups, split: val"
    assert "0.9000 (0.8800-0.9500) pooled, 0.9100 (0.8800-0.9500) per image" in rows[1]
    pooled = rows.index("pooled 0.8000 0.8000 0.8000 0.8000")
    assert rows[pooled + 1] == " ".join(["0.7500-0.8500"] * 4)
    assert "per image 0.8100 0.8100 0.8100 0.8100" in rows
    text = " ".join(rows)
    assert text.count("0.8100") == 4, "the foreground's scores are its means"
    assert "HD95 [px] ASSD [px] NSD (2 px)" in text
    assert "[b]leaf 12.35 1.50 0.6250 -" in rows
    assert "10.00-20.00 0.5000-0.7500" in rows
    leaf = rows.index("[b]leaf 1,234 ground truth 0.7500 0.5625 0.8750 -")
    assert rows[leaf + 1] == "1,200 predicted at 0.6"
    for expected in ("0.0625", "docs/metrics.md", "95%", "2 groups)"):
        assert expected in text
    assert "A paragraph." not in text


def test_optional_measurements_are_omitted(printed: Printed) -> None:
    few = {key: value for key, value in RESULT.items() if key not in ("boundary", "objects")}
    show_scores(made({**few, "intervals": {**RESULT["intervals"], "groups": 1}}))
    text = " ".join(printed())
    assert "3 images in 1 group, split: val" in text
    for absent in ("HD95", "Rand", "95%"):
        assert absent not in text


def test_more_classes_have_a_row_each_and_no_threshold(printed: Printed) -> None:
    objects = {**OBJECTS, "together": {"rand": [0.5], "information": [0.5]}}
    values = scores(0.5, 0.8, None, accuracy=0.9)
    bounds = scores([0.41, 0.61], [0.75, 0.85], None, accuracy=[0.88, 0.95])
    result = {**RESULT, "objects": {"per_class": {"[b]leaf": objects}}}
    intervals = {**RESULT["intervals"], "pooled": bounds, "per_image": bounds}
    both = {"pooled": values, "per_image": values}
    show_scores(made({**result, **both, "intervals": intervals}))
    rows = printed()
    assert "[b]leaf 1,234 ground truth 0.7500 0.5625 0.5000 0.5000" in rows
    for row in ("ground 0.5000 0.5000 0.5000 0.5000", "stone - - - -"):
        assert rows.count(row) == 2
    for mean in ("0.1235", "0.6543"):
        assert sum(row.endswith(" ".join([mean] * 4)) for row in rows) == 2


def test_own_metrics_are_not_cut(printed: Printed) -> None:
    names = ("specificity", "distance_of_the_centres", "withoutanyspacesinitsname" * 2, "count")

    def with_own(values: dict[str, Any], leaf: Any) -> dict[str, Any]:
        metric = {**values["dice"], "per_class": {**values["dice"]["per_class"], "[b]leaf": leaf}}
        return {**values, **dict.fromkeys(names, metric)}

    bounds = with_own(BOUNDS, [-1234.56, 98765.43])
    result: dict[str, Any] = {
        **RESULT,
        "pooled": with_own(scores(0.5, 0.8, accuracy=0.9), None),
        "per_image": with_own(scores(0.5, 0.8, accuracy=0.9), 23456.78),
        "intervals": {**RESULT["intervals"], "pooled": bounds, "per_image": bounds},
    }
    show_scores(made(result))
    rows = printed()
    assert "per image 23456.8 23456.8 23456.8" in rows
    assert "per image 23456.8" in rows
    assert " ".join(["-1234.6-98765.4"] * 3) in rows
    assert "per image 0.8000 0.8000 0.8000 0.8000" in rows


def test_tuning_is_shown(printed: Printed) -> None:
    settings = {"threshold": 0.5, "tta": "none", "min_object": 0, "fill_holes": 0}
    found: dict[str, Any] = {
        "checkpoint": "runs/[a]/best-tuned.safetensors",
        "part": "val",
        "pictures": 4,
        "before": settings,
        "after": {**settings, "threshold": 0.62, "min_object": 30},
        "dice": {"before": 0.9, "after": 0.95},
        "tried": [
            {"setting": "baseline", "value": None, "dice": 0.9},
            {"setting": "tta", "value": "mirror, threshold 0.62", "dice": 0.91},
            {"setting": "min_object", "value": 30, "dice": 0.95},
        ],
    }
    show_tuning(found)
    rows = printed()
    assert "baseline 0.9000" in rows
    assert "tta mirror, threshold 0.62 0.9100" in rows
    assert "min object 30 0.9500" in rows
    assert "threshold: 0.62 (before: 0.5)" in rows
    assert "tta: none (unchanged)" in rows
    assert any(row.endswith("runs/[a]/best-tuned.safetensors") for row in rows)
    tried = [{**each, "f1": 0.8} for each in found["tried"]]
    show_tuning({**found, "f1": {"before": 0.8, "after": 0.85}, "tried": tried})
    rows = printed()
    assert "min object 30 0.9500 0.8000" in rows
    assert "F1 of objects 0.8000 before tuning, 0.8500 after" in rows


def test_a_comparison_fits_a_screen(printed: Printed) -> None:
    entry = {"first": 0.9, "second": 0.95, "difference": 0.05}
    entry |= {"interval": [-0.01, 0.1], "better": 0.975}
    image = {"image": "a/[b]x.png", "group": "x", "first": 0.5, "second": None, "difference": None}
    metrics = ("accuracy", "dice", "iou", "precision", "recall")
    content = {
        "protocol": "A paragraph. " * 20,
        "split": "val",
        "pictures": 12,
        "groups": 2,
        "level": 0.95,
        "models": ["runs/[a]", "runs/b"],
        "scores": {
            "pooled": dict.fromkeys(metrics, entry),
            "per_image": dict.fromkeys(metrics, dict.fromkeys(entry)),
        },
        "images": [image] * 12,
    }
    show_comparison(Comparison(Path("runs/[a]"), Path("runs/b"), content))
    rows = printed()
    assert len(rows) < 24
    assert rows[0] == "12 images in 2 groups, split: val"
    assert "first: runs/[a]" in rows
    assert "Dice pooled 0.9000 0.9500 +0.0500 -0.0100 to +0.1000 97.5%" in rows
    assert "Dice per image - - - - -" in rows
    assert rows.count("[b]x.png 0.5000 - -") == 3
    text = " ".join(rows)
    for expected in ("95% CI", "2 groups)", "docs/metrics.md"):
        assert expected in text


@pytest.mark.parametrize("seeds", [1, 3])
def test_a_cross_validation_fits_a_screen(printed: Printed, seeds: int) -> None:
    folds = tuple(
        FoldScores(fold, seed, Path(f"cv/fold-{fold}"), 12, RESULT)
        for seed in range(seeds)
        for fold in range(5)
    )
    result = CrossValidation(
        Path("data"), Path("cv"), folds, dict.fromkeys(range(seeds), made(RESULT)), made(RESULT)
    )
    show_cross_validation(result)
    rows = printed()
    assert len(rows) <= 24
    assert rows[0] == f"3 images in 2 groups, 5 folds, {seeds} seed{'s' * (seeds > 1)}"
    dice = result.folds[0].score()
    assert dice is not None
    assert any(row.startswith(f"fold 4 12 {dice:.4f} ") for row in rows)
    assert any(row.startswith("test (ensemble) 3 ") for row in rows)
    assert sum(row.startswith("out-of-fold") for row in rows) == seeds
    assert sum(row.startswith("standard deviation") for row in rows) == min(seeds, 2)
    assert "2 groups)" in " ".join(rows)


def test_of_many_folds_ten_are_shown(printed: Printed) -> None:
    folds = tuple(FoldScores(fold, 0, Path("cv"), 1, RESULT) for fold in range(30))
    show_cross_validation(CrossValidation(Path("data"), Path("cv"), folds, {0: made(RESULT)}))
    rows = printed()
    assert len(rows) < 24
    assert "20 more" in rows
