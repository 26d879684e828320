"""What is measured, and what is made of it; a run of a few seconds ends in time."""

import time
from pathlib import Path

import pytest
import torch

from plainunet.config import TrainConfig
from plainunet.data.meaning import understand_masks
from plainunet.data.pairing import find_pairs
from plainunet.data.split import split_pairs
from plainunet.network.unet import UNet
from plainunet.prediction.predictor import Predictor
from plainunet.training.budget import fit_budget, measure_end, measure_pixel
from plainunet.training.plan import plan_budget
from plainunet.training.run import train


def test_a_wider_network_takes_longer() -> None:
    before = torch.get_rng_state()
    times = [measure_pixel(3, 2, TrainConfig(base_channels=base, batch_size=2)) for base in (2, 32)]
    assert 0 < times[0] < times[1] < 1e-3
    assert torch.equal(torch.get_rng_state(), before)


def test_the_end_is_foreseen(small_data: Path) -> None:
    pairs = find_pairs(small_data)
    coding, _ = understand_masks([pair.mask for pair in pairs])
    predictor = Predictor(UNet(base_channels=2, depth=2), device="cpu")
    one = measure_end(predictor, pairs, coding, 0)
    more = measure_end(predictor, pairs * 50, coding, 0)
    assert 1 < one < more < 60


@pytest.mark.parametrize("seconds", [60, 300, 1500, 6000])
def test_more_time_makes_larger_pictures_or_wider_networks(seconds: float) -> None:
    sizes = [(1280, 1918)] * 700
    less = plan_budget(seconds, 2e-6, sizes, 600, 4)
    more = plan_budget(2 * seconds, 2e-6, sizes, 600, 4)

    def cost(plan: dict[str, tuple[object, str]]) -> float:
        (height, width), base = plan["size"][0], plan["base_channels"][0]  # type: ignore[misc]
        return float(height * width * base)  # type: ignore[has-type]

    assert cost(less) <= cost(more)
    assert all(reason for _, reason in less.values())


def test_pictures_are_never_enlarged_and_never_too_small() -> None:
    plan = plan_budget(1e6, 1e-6, [(200, 300)] * 9, 7, 4)
    assert plan["size"][0] == (192, 304)
    assert plan["base_channels"][0] == 32
    assert plan["augment"][0] == "strong"
    height, width = plan_budget(1, 1e-4, [(200, 300)] * 9, 7, 4)["size"][0]
    assert min(height, width) >= 64


def fit(folder: Path, given: dict[str, object]) -> tuple[TrainConfig, list[str]]:
    pairs = split_pairs(find_pairs(folder))
    coding, _ = understand_masks([pair.mask for pair in pairs])
    config = TrainConfig(budget=30.0, classes=("a", "b"), size=(48, 64), **given)
    return fit_budget(config, set(given), pairs, [(48, 64)] * len(pairs), coding, spent=1.0)


def test_what_is_given_stays(small_data: Path) -> None:
    config, lines = fit(small_data, {"optimizer": "sgd", "learning_rate": 0.1})
    assert (config.optimizer, config.learning_rate) == ("sgd", 0.1)
    assert "  optimizer: sgd (as given)" in lines
    assert config.augment == "strong"
    assert len(lines) == 8


def test_too_short_a_budget_is_refused(small_data: Path) -> None:
    pairs = split_pairs(find_pairs(small_data))
    coding, _ = understand_masks([pair.mask for pair in pairs])
    config = TrainConfig(budget=2.0, classes=("a", "b"), size=(48, 64))
    with pytest.raises(ValueError, match="--budget 2 s is too short"):
        fit_budget(config, set(), pairs, [(48, 64)] * 8, coding, spent=1.9)


def test_a_run_by_the_clock(small_data: Path, tmp_path: Path) -> None:
    # what a budget is counted from is not the loading of libraries
    train(small_data, tmp_path / "first", TrainConfig(epochs=1, base_channels=2, depth=2))
    start = time.monotonic()
    config = TrainConfig(budget=14.0, base_channels=4, depth=3)
    result = train(small_data, tmp_path / "run", config)
    seconds = time.monotonic() - start
    # not a speed: that the time is used, and kept but for a shared machine's slow moments
    assert 9 < seconds < 21
    assert result["per_image"]["dice"]["mean_foreground"] > 0.5
    plan = (tmp_path / "run" / "plan.txt").read_text()
    assert "base channels: 4 (as given)" in plan
    assert (tmp_path / "run" / "curves.png").is_file()
