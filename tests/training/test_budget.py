"""What is measured, and what is made of it; a run of a few seconds ends in time."""

import json
from itertools import count
from pathlib import Path

import pytest
import torch

from plainunet.config import TrainConfig
from plainunet.dataset.classes import find_coding
from plainunet.dataset.dataset import SegmentationDataset
from plainunet.dataset.pairs import find_pairs
from plainunet.dataset.split import split_pairs
from plainunet.network.unet import UNet
from plainunet.prediction.predictor import Predictor
from plainunet.training import budget
from plainunet.training.budget import find_end, fit_budget, measure_end, measure_pixel
from plainunet.training.train import train


@pytest.fixture
def ticks(monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock that goes on by a second whenever it is asked."""
    monkeypatch.setattr(budget.time, "perf_counter", count().__next__)


@pytest.fixture
def usual_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Measured, plans would differ from machine to machine."""
    monkeypatch.setattr(budget, "measure_pixel", lambda *_: 3e-6)


@pytest.mark.usefixtures("ticks")
def test_a_pixel_is_timed_by_steps() -> None:
    before = torch.get_rng_state()
    config = TrainConfig(base_channels=2, batch_size=2, device="cpu")
    assert measure_pixel(3, 2, config) == pytest.approx(1 / (2 * 96 * 128))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.usefixtures("ticks")
def test_the_end_is_foreseen(small_data: Path) -> None:
    dataset = SegmentationDataset.open(small_data)
    predictor = Predictor(UNet(base_channels=2, depth=2), device="cpu")
    one = measure_end(predictor, dataset, 0)
    more = measure_end(predictor, dataset.subset([*range(len(dataset))] * 50), 0)
    # each is judged twice, drawn and reduced
    assert one == pytest.approx(4 * 8 + 2.0)
    assert one < more


def fit(
    folder: Path, given: dict[str, object], taken: dict[str, str] | None = None
) -> tuple[TrainConfig, list[str]]:
    pairs = split_pairs(find_pairs(folder))
    coding, _ = find_coding([pair.mask for pair in pairs])
    config = TrainConfig(**{"budget": 300.0, "classes": ("a", "b"), **given})
    shares = {"a": 0.7, "b": 0.3}
    sizes = [(48, 64)] * len(pairs)
    return fit_budget(config, {*given, "budget"}, pairs, sizes, coding, shares, 1.0, taken=taken)


@pytest.mark.usefixtures("usual_machine")
def test_what_is_given_stays(small_data: Path) -> None:
    config, lines = fit(small_data, {"optimizer": "sgd", "learning_rate": 0.1})
    assert (config.optimizer, config.learning_rate) == ("sgd", 0.1)
    assert "  optimizer: sgd (as given)" in lines
    assert all(32 <= side <= 64 for side in config.window)
    assert lines[0].startswith("plan for 300 s, of which 2")
    assert any(
        line.startswith("  depth: 3 (the smallest picture has a side of 48") for line in lines
    )
    assert any("pixels across" in line for line in lines)


def test_what_is_taken_stays_with_its_reason(small_data: Path) -> None:
    config, lines = fit(small_data, {"depth": 2, "base_channels": 8}, {"depth": "as it was"})
    assert (config.depth, config.base_channels) == (2, 8)
    assert "  depth: 2 (as it was)" in lines
    assert "  base channels: 8 (as given)" in lines


@pytest.mark.usefixtures("usual_machine")
def test_a_time_that_was_not_given_is_not_wasted(small_data: Path) -> None:
    """Few small pictures need no quarter of an hour."""
    assert fit(small_data, {"budget": 5000.0})[0].budget == 5000
    pairs = split_pairs(find_pairs(small_data))
    coding, _ = find_coding([pair.mask for pair in pairs])
    config = TrainConfig(classes=("a", "b")).model_copy(update={"budget": 5000.0})
    sizes, shares = [(48, 64)] * len(pairs), {"a": 0.7, "b": 0.3}
    fitted, lines = fit_budget(config, set(), pairs, sizes, coding, shares, 1.0)
    assert fitted.budget is not None
    assert 60 <= fitted.budget < 1000
    assert lines[0].startswith(f"plan for {fitted.budget:.0f} s")


@pytest.mark.usefixtures("usual_machine")
def test_too_short_a_budget_is_refused(small_data: Path) -> None:
    pairs = split_pairs(find_pairs(small_data))
    coding, _ = find_coding([pair.mask for pair in pairs])
    config = TrainConfig(budget=2.0, classes=("a", "b"))
    with pytest.raises(ValueError, match="--budget 2 s is too short"):
        fit_budget(config, set(), pairs, [(48, 64)] * 8, coding, {"a": 1.0, "b": 0.0}, 1.9)


def test_a_run_by_the_clock(small_data: Path, tmp_path: Path) -> None:
    """How well the time is kept, `test_schedule.py` tests by a clock of its own."""
    # what a budget is counted from is not the loading of libraries
    train(small_data, tmp_path / "first", TrainConfig(epochs=1, base_channels=2, depth=2))
    config = TrainConfig(budget=14.0, base_channels=4, depth=3)
    result = train(small_data, tmp_path / "run", config)
    assert result["per_image"]["dice"]["mean_foreground"] is not None
    rows = list(map(json.loads, (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()))
    rates = [row["learning_rate"] for row in rows]
    assert rates[-1] < 0.1 * max(rates)  # it came to its end
    plan = (tmp_path / "run" / "plan.txt").read_text()
    assert "base channels: 4 (as given)" in plan
    assert (tmp_path / "run" / "curves.png").is_file()


def test_a_budget_that_is_spent_before_the_first_step_is_refused(
    small_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(budget, "measure_end", lambda *_: 30.0)
    monkeypatch.setattr(budget.time, "monotonic", lambda: 1000.0)
    dataset = SegmentationDataset.open(small_data)
    predictor = Predictor(UNet(base_channels=2, depth=2), device="cpu")
    assert find_end(600, 990, predictor, dataset, 16) == 990 + 600 - 30
    with pytest.raises(ValueError, match="--budget 600 s is too short: it took 560 s to begin"):
        find_end(600, 1000 - 560, predictor, dataset, 16)
