"""The curves are a picture of the numbers given."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from plainunet.training.run import draw_curves


def row(epoch: int, loss: float = 0.5, dice: float | None = 0.8) -> dict[str, Any]:
    scores = {"dice": {"mean_foreground": dice}}
    return {
        "epoch": epoch,
        "loss": loss,
        "learning_rate": 1e-3 / epoch,
        "validation": {"pooled": scores, "per_image": scores},
    }


def drawn(path: Path, rows: list[dict[str, Any]]) -> np.ndarray:
    draw_curves(path, rows)
    with Image.open(path) as picture:
        assert picture.format == "PNG"
        return np.asarray(picture.convert("RGB"))


@pytest.mark.parametrize(
    "rows", [[row(1, dice=None)], [row(1, dice=None), row(2, loss=0.0, dice=0.5)]], ids=len
)
def test_any_rows_can_be_drawn(tmp_path: Path, rows: list[dict[str, Any]]) -> None:
    picture = drawn(tmp_path / "curves.png", rows)
    assert picture.shape[1] > 2 * picture.shape[0]
    assert picture.std() > 5


def test_each_third_shows_its_own_numbers(tmp_path: Path) -> None:
    path = tmp_path / "curves.png"
    before = drawn(path, [row(1, 1.0, 0.3), row(2, 0.5, 0.6)])
    third = before.shape[1] // 3
    changed = {
        "loss": drawn(path, [row(1, 1.0, 0.3), row(2, 0.9, 0.6)]),
        "dice": drawn(path, [row(1, 1.0, 0.3), row(2, 0.5, 0.4)]),
    }
    for name, place in (("loss", 0), ("dice", 1)):
        differs = [
            (
                changed[name][:, third * k : third * (k + 1)]
                != before[:, third * k : third * (k + 1)]
            )
            .any(axis=2)
            .sum()
            for k in range(3)
        ]
        assert max(differs) == differs[place] > 20, name
    # each replaced the one before
    assert [file.name for file in tmp_path.iterdir()] == ["curves.png"]
