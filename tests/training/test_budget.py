"""The time budget: what is measured, the settings that follow, and a short run."""

import dataclasses
import re
from collections.abc import Collection
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from plainunet.config import TrainConfig
from plainunet.dataset.dataset import SegmentationDataset
from plainunet.network.unet import UNet
from plainunet.prediction.predictor import Predictor
from plainunet.training import budget
from plainunet.training.budget import (
    StepTime,
    find_end,
    fit_budget,
    measure_end,
    measure_machine,
    measure_step,
)
from plainunet.training.optim import make_optimizers
from plainunet.training.run import Run, RunFolder
from plainunet.training.state import read_state
from plainunet.training.train import resume, train

from .conftest import rows_of


@pytest.fixture
def ticks(monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock that advances by a second at each call."""
    monkeypatch.setattr(budget.time, "perf_counter", count().__next__)


@pytest.fixture
def fixed_speed(monkeypatch: pytest.MonkeyPatch) -> None:
    """With measured speeds, plans would differ between machines."""
    fixed = StepTime(3e-6 * 8 * 128 * 160, 0.02)
    monkeypatch.setattr(budget, "measure_step", lambda *_: fixed)


@pytest.mark.usefixtures("ticks")
def test_time_of_a_step() -> None:
    """The timed network has the configured width."""
    before, work = torch.get_rng_state(), []
    for channels in (2, 4):
        config = TrainConfig(base_channels=channels, depth=2, batch_size=2, device="cpu")
        with FlopCounterMode(display=False) as counter:
            assert measure_step(3, 2, config, size=(32, 48)) == (1, 1)
        work.append(counter.get_total_flops())
    assert 3 * work[0] < work[1]
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.usefixtures("fixed_speed")
def test_speed_of_a_cpu() -> None:
    machine = measure_machine(3, 2, TrainConfig(device="cpu"), ())
    assert machine.pixel == pytest.approx(3e-6)
    assert machine.step == 0.02
    assert "CPU" in machine.name
    assert not machine.large_batches


@pytest.mark.parametrize(("given", "timed"), [((), "muon"), (("optimizer",), "sgd")])
def test_the_planned_optimiser_is_timed(
    monkeypatch: pytest.MonkeyPatch, given: Collection[str], timed: str
) -> None:
    made: list[str] = []

    def make(network: Any, name: str, *rest: Any) -> Any:
        made.append(name)
        return make_optimizers(network, name, *rest)

    monkeypatch.setattr(budget, "make_optimizers", make)
    monkeypatch.setattr(budget, "_SIZE", (32, 32))
    config = TrainConfig(device="cpu", optimizer="sgd", depth=1, batch_size=1)
    assert measure_machine(3, 2, config, given).step > 0
    assert made == [timed]


@pytest.mark.parametrize("memory", [8 * 2**30, 79 * 2**30])
def test_speed_of_a_simulated_gpu(monkeypatch: pytest.MonkeyPatch, memory: int) -> None:
    """Kernels take 10 ms to start, so small images do not show the speed of the device."""
    pixel, relative, measured = 4e-9, {16: 1.0, 32: 2.2, 64: 5.0}, []

    def measure(_in: int, _out: int, config: TrainConfig, _own: None, size: Any) -> StepTime:
        pixels = config.batch_size * size[0] * size[1]
        measured.append(1320 * pixels * config.base_channels / 16)
        return StepTime(max(0.01, pixels * pixel * relative[config.base_channels]), 0.003)

    monkeypatch.setattr(budget, "measure_step", measure)
    monkeypatch.setattr(budget, "choose_device", lambda _: torch.device("cuda"))
    monkeypatch.setattr(budget, "choose_precision", lambda *_: torch.bfloat16)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "simulated")
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (memory, memory))
    machine = measure_machine(3, 2, TrainConfig(), ())
    assert max(measured) < 0.5 * memory
    assert machine.large_batches
    assert machine.name == "simulated, bfloat16"
    if memory > 2**36:  # large images keep the device busy
        assert machine.pixel == pytest.approx(pixel, rel=0.5)
        assert machine.step == pytest.approx(0.013, rel=0.2)
        assert machine.widths == pytest.approx(relative, rel=0.3)
    given = {"base_channels"}
    assert measure_machine(3, 2, TrainConfig(base_channels=32), given).widths == {32: 1}


@pytest.mark.usefixtures("ticks")
def test_time_of_the_final_evaluation(small_data: Path) -> None:
    dataset = SegmentationDataset.open(small_data)
    predictor = Predictor(UNet(base_channels=2, depth=2), device="cpu")
    one = measure_end(predictor, dataset)
    # each image is predicted twice, drawn, embedded in the report and reduced; 2 s for the rest
    assert one == pytest.approx((8, 5 * 8 + 2.0))
    assert one < measure_end(predictor, dataset.subset([*range(8)] * 50))


def fit(
    folder: Path, given: Collection[str], taken: dict[str, str] | None = None, **settings: Any
) -> tuple[TrainConfig, list[str]]:
    dataset = SegmentationDataset.open(folder, TrainConfig(classes=("a", "b")))
    config = TrainConfig(classes=("a", "b")).model_copy(update={"budget": 300.0, **settings})
    return fit_budget(config, given, dataset.split(config), 1.0, taken)


@pytest.mark.usefixtures("fixed_speed")
def test_given_settings_are_kept(small_data: Path) -> None:
    given = {"optimizer": "sgd", "learning_rate": 0.1}
    config, lines = fit(small_data, {*given, "budget"}, **given)
    assert (config.optimizer, config.learning_rate) == ("sgd", 0.1)
    assert "  optimizer: sgd (as given)" in lines
    assert all(32 <= side <= 64 for side in config.window)
    assert re.search(r"300 s \(2\d\d s ", lines[0])
    assert any(re.match(r"  depth: 3 \(.*\b48 pixels", line) for line in lines)


def test_settings_of_a_checkpoint_keep_their_reason(small_data: Path) -> None:
    given = {"depth": 2, "base_channels": 8}
    config, lines = fit(small_data, {*given, "budget"}, {"depth": "a reason"}, **given)
    assert (config.depth, config.base_channels) == (2, 8)
    assert "  depth: 2 (a reason)" in lines
    assert "  base channels: 8 (as given)" in lines


@pytest.mark.usefixtures("fixed_speed")
def test_the_default_budget_is_cut_for_small_data(small_data: Path) -> None:
    assert fit(small_data, {"budget"}, budget=5000.0)[0].budget == 5000
    config, lines = fit(small_data, (), budget=5000.0)
    assert config.budget is not None
    assert 60 <= config.budget < 1000
    assert f" {config.budget:.0f} s" in lines[0]


@pytest.mark.usefixtures("fixed_speed")
def test_too_short_a_budget_is_refused(small_data: Path) -> None:
    with pytest.raises(ValueError, match=r"--budget 2 s .*at least \d+ s") as refused:
        fit(small_data, (), budget=2.0)
    (least,) = re.findall(r"at least (\d+) s", str(refused.value))
    assert fit(small_data, (), budget=float(least))[0].budget == float(least)


def test_a_budget_without_time_for_training_is_refused(
    small_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(budget.time, "monotonic", lambda: 1000.0)
    dataset = SegmentationDataset.open(small_data).split(TrainConfig())
    run = Run(RunFolder(small_data), TrainConfig(budget=600), dataset, begun=990)
    assert find_end(run, 30.0, is_new=True) == 990 + 600 - 30
    late = dataclasses.replace(run, begun=1000 - 560)
    with pytest.raises(ValueError, match=r"--budget 600 s .* 560 s.* 656 s"):
        find_end(late, 30.0, is_new=True)
    assert find_end(late, 30.0, is_new=False) == 440 + 600 - 30


def test_a_run_with_a_budget(
    small_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`test_schedule.py` tests whether it ends in time."""
    calls = count()  # a clock that advances at each call
    monkeypatch.setattr(budget.time, "monotonic", lambda: next(calls) * 0.4)
    config = TrainConfig(budget=120.0, base_channels=4, depth=3)
    result = train(small_data, tmp_path / "run", config)
    assert result.dice is not None
    rates = [row["learning_rate"] for row in rows_of(tmp_path / "run")]
    assert rates[-1] < 0.1 * max(rates)  # annealed
    plan = (tmp_path / "run" / "plan.txt").read_text()
    assert "base channels: 4 (as given)" in plan
    assert (tmp_path / "run" / "curves.png").is_file()

    steps = rows_of(tmp_path / "run")[-1]["step"]
    assert resume(tmp_path / "run").dice == result.dice  # evaluated again

    def stopped_at_the_end(folder: RunFolder) -> dict[str, Any]:
        saved = read_state(folder)
        saved["counters"] |= {"seconds": 119.9, "is_over": False}
        return saved

    monkeypatch.setattr("plainunet.training.train.read_state", stopped_at_the_end)
    assert resume(tmp_path / "run").dice == result.dice
    (tmp_path / "run" / "best.safetensors").unlink()  # as if it had not been validated at full size
    assert resume(tmp_path / "run").dice is not None
    assert rows_of(tmp_path / "run")[-1]["step"] == steps


def test_valid_convolutions_are_timed() -> None:
    """The images timed are smaller than the network takes without padding."""
    config = TrainConfig(valid=True, base_channels=2, batch_size=1, device="cpu")
    assert measure_step(3, 2, config).passes > 0


@pytest.mark.usefixtures("fixed_speed")
def test_settings_given_as_none_are_planned(small_data: Path) -> None:
    config, _ = fit(small_data, {"budget", "size", "patch"}, size=None, patch=None)
    assert config.window
