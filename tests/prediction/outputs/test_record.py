import json
from pathlib import Path

import pytest
import torch

from plainunet.network.checkpoint import Card
from plainunet.network.unet import UNet
from plainunet.prediction.outputs.record import RECORD, require_same, write_record
from plainunet.prediction.predictor import Predictor


def predictor(seed: int = 0, **said: object) -> Predictor:
    torch.manual_seed(seed)
    card = Card(("ground", "leaf"), ((0, 0, 0), (255, 10, 20)), **{"size": (32, 48), **said})
    return Predictor(UNet(base_channels=2, depth=2), card, device="cpu", precision="fp32")


def test_the_record_says_what_numbers_mean(tmp_path: Path) -> None:
    write_record(tmp_path, predictor(threshold=0.25))
    said = json.loads((tmp_path / RECORD).read_text())
    assert said["classes"][1] == {"id": 1, "name": "leaf", "color": [255, 10, 20]}
    assert said["threshold"] == 0.25


def test_masks_of_the_same_model_may_stay(tmp_path: Path) -> None:
    write_record(tmp_path, predictor())
    require_same(tmp_path, predictor(), [tmp_path / "a.png"])


@pytest.mark.parametrize(
    "other",
    [
        {"seed": 1},
        {"threshold": 0.4},
        {"size": (32, 64)},
        {"tta": "flips"},
        {"scales": (1.0, 0.5)},
        {"min_object": 5},
        {"fill_holes": 5},
    ],
)
def test_masks_of_another_one_are_refused(tmp_path: Path, other: dict[str, int]) -> None:
    write_record(tmp_path, predictor())
    with pytest.raises(ValueError, match=r"a\.png: is there already.*--overwrite"):
        require_same(tmp_path, predictor(**other), [tmp_path / "a.png"])
    require_same(tmp_path, predictor(**other), [])


@pytest.mark.parametrize("content", [None, "", "[]", "{}"])
def test_masks_of_nobody_are_refused(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / RECORD).write_text(content)
    with pytest.raises(ValueError, match="is there already"):
        require_same(tmp_path, predictor(), [tmp_path / "a.png"])
