"""The log of a run: metrics.jsonl, the same as a table, and curves."""

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from plainunet.config import TrainConfig
from plainunet.dataset.dataset import SegmentationDataset
from plainunet.palette import voc_color
from plainunet.training.run import RunFolder, draw_curves, rows_until, write_rows
from plainunet.training.train import resume, train

from ..folders import save
from .conftest import PowerCut, cut_after


def row(epoch: int, dice: float | None = 0.8, loss: float = 0.5) -> dict[str, Any]:
    scores = {name: {"mean_foreground": dice} for name in ("dice", "iou")}
    return {
        **{"epoch": epoch, "step": 3 * epoch, "size": [32, 48], "loss": loss},
        **{"learning_rate": 0.1 / epoch, "images_per_second": 9.0, "seconds": 7.0},
        "validation": {"pooled": scores, "per_image": scores},
    }


def test_both_files_agree(tmp_path: Path) -> None:
    rows = [row(1, 0.25), {**row(2), "validation": None}, row(3, 0.75)]
    write_rows(RunFolder(tmp_path), rows)
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == rows
    with (tmp_path / "metrics.csv").open(newline="") as file:
        table = list(csv.DictReader(file))
    assert [int(each["epoch"]) for each in table] == [1, 2, 3]
    assert [each["per_image_dice"] for each in table] == ["0.25", "", "0.75"]
    assert {each["width"] for each in table} == {"48"}


def test_rows_after_the_saved_state_are_dropped(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    assert rows_until(folder, 5) == []
    write_rows(folder, [row(1), row(2), row(3)])
    assert [each["epoch"] for each in rows_until(folder, 2)] == [1, 2]
    folder.metrics.write_text('{"epoch": 1}\n{"epo\n')
    with pytest.raises(ValueError, match=r"metrics\.jsonl: line 2\b"):
        rows_until(folder, 1)


def test_concurrent_evaluations_have_separate_journals(tmp_path: Path) -> None:
    first, second = (RunFolder(tmp_path).journal(name) for name in ("0-0", "0-1"))
    assert first != second
    assert first.parent == second.parent == RunFolder(tmp_path).state.parent


VOC = [channel for index in range(256) for channel in voc_color(index).to_bytes(3, "big")]
RED_AND_BLACK = [255, 0, 0] + [0] * 765


def write_data(folder: Path, kind: str) -> Path:
    """Eight images of noise, and masks that class names alone do not describe."""
    random = np.random.default_rng(0)
    for number in range(8):
        mask = np.zeros((40, 48), np.uint16)
        mask[4:20, 6 : 20 + number], mask[24:36, 8:30] = 1, 2
        image = random.integers(0, 256, (*mask.shape, 3), dtype=np.uint8)
        save(folder / "images" / f"{number}.png", image)
        if kind == "objects":  # few in each image
            mask[mask == 2] = 2 + number % 3
            save(folder / "masks" / f"{number}_cp_masks.png", mask)
            continue
        is_voc = kind == "palette with gaps"
        drawn = Image.fromarray(np.array([0, 2, 15] if is_voc else [1, 0, 0], np.uint8)[mask])
        drawn.putpalette(VOC if is_voc else RED_AND_BLACK)
        (folder / "masks").mkdir(exist_ok=True)
        drawn.save(folder / "masks" / f"{number}.png")
    return folder


@pytest.mark.parametrize(
    "kind",
    [
        "palette with gaps",
        *(pytest.param(e, marks=pytest.mark.slow) for e in ("black ground", "objects")),
    ],
)
def test_a_resumed_run_reads_its_masks_as_it_began(
    kind: str, tiny: TrainConfig, tmp_path: Path
) -> None:
    data = write_data(tmp_path / "data", kind)
    with pytest.raises(PowerCut):
        train(data, tmp_path / "run", tiny, cut_after(1))
    before = SegmentationDataset.open(data)
    folder = RunFolder(tmp_path / "run")
    after = SegmentationDataset.reopen(data, folder.split, folder.read_known())
    assert (after.coding, after.class_pixels) == (before.coding, before.class_pixels)
    whole = train(data, tmp_path / "whole", tiny)
    assert resume(tmp_path / "run").dice == whole.dice


def drawn(path: Path, rows: list[dict[str, Any]]) -> np.ndarray:
    draw_curves(path, rows)
    with Image.open(path) as image:
        assert image.format == "PNG"
        return np.asarray(image.convert("RGB"))


@pytest.mark.parametrize("rows", [[row(1, None)], [row(1, None), row(2, 0.5, 0.0)]], ids=len)
def test_any_rows_can_be_drawn(tmp_path: Path, rows: list[dict[str, Any]]) -> None:
    image = drawn(tmp_path / "curves.png", rows)
    assert image.shape[1] > 2 * image.shape[0]
    assert image.std() > 5


def test_each_third_has_its_own_curve(tmp_path: Path) -> None:
    path = tmp_path / "curves.png"
    before = drawn(path, [row(1, 0.3, 1.0), row(2, 0.6)])
    for place, changed in enumerate((row(2, 0.6, 0.9), row(2, 0.4))):
        differs = (drawn(path, [row(1, 0.3, 1.0), changed]) != before).any(axis=2)
        third = differs.shape[1] // 3
        counts = [differs[:, third * n : third * (n + 1)].sum() for n in range(3)]
        assert max(counts) == counts[place] > 20
    # each replaces the one before
    assert [file.name for file in tmp_path.iterdir()] == ["curves.png"]
