"""The state of a run: whole, read without running code, and saved in time."""

import os
import zipfile
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from plainunet.network.unet import UNet
from plainunet.training.optim import WeightAverage, make_optimizers
from plainunet.training.run import RunFolder
from plainunet.training.state import LOST, Saver, TrainingState, read_state

from .conftest import MakeRun, same


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return RunFolder(tmp_path)


@pytest.fixture
def saved(folder: RunFolder) -> Path:
    """The file of a saved state."""
    fresh(0).save(folder, folder.path)
    return folder.state


def fresh(seed: int, optimizer: str = "muon", average: bool = True) -> TrainingState:
    torch.manual_seed(seed)
    network = UNet(base_channels=2, depth=2).train()
    optimizers = make_optimizers(network, optimizer, 0.05, 0.01)
    return TrainingState(network, optimizers, WeightAverage(network, 0.5) if average else None)


def advance(state: TrainingState, steps: int) -> None:
    for _ in range(steps):
        generator = torch.Generator().manual_seed(state.step)
        loss = state.network(torch.rand(2, 3, 8, 12, generator=generator)).square().mean()
        for optimizer in state.optimizers:
            optimizer.zero_grad()
        loss.backward()
        for optimizer in state.optimizers:
            optimizer.step()
        if state.average:
            state.average.update(state.network, state.step)
        state.step += 1


def weights(state: TrainingState) -> dict[str, Tensor]:
    average = state.average.network.state_dict() if state.average else {}
    averaged = {f"average.{name}": value for name, value in average.items()}
    return {**state.network.state_dict(), **averaged}


@pytest.mark.parametrize("optimizer", ["muon", "adamw", "adam"])
@pytest.mark.parametrize("average", [True, False])
def test_a_restored_state_goes_on_bit_for_bit(
    folder: RunFolder, optimizer: str, average: bool
) -> None:
    state = fresh(0, optimizer, average)
    advance(state, 2)
    state.epoch, state.best, state.seconds = 1, 0.25, 1.5
    state.save(folder, folder.path)
    advance(state, 2)

    other = fresh(1, optimizer, average)
    other.restore(read_state(folder))
    assert (other.epoch, other.step, other.best, other.seconds) == (1, 2, 0.25, 1.5)
    advance(other, 2)
    assert same(weights(other), weights(state))


def test_the_data_folder_is_kept_in_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "data").mkdir()
    monkeypatch.chdir(tmp_path)
    fresh(0).save(RunFolder(Path("run")), Path("data"))
    assert read_state(RunFolder(tmp_path / "run"))["data"] == str((tmp_path / "data").resolve())


def test_a_state_replaces_the_one_before(folder: RunFolder) -> None:
    state = fresh(0)
    for epoch in (1, 2):
        state.epoch = epoch
        state.save(folder, folder.path)
    assert list(folder.state.parent.iterdir()) == [folder.state]
    assert read_state(folder)["counters"]["epoch"] == 2


def test_no_state(folder: RunFolder) -> None:
    with pytest.raises(FileNotFoundError, match=r"state\.pt.*--out"):
        read_state(folder)


def assert_damaged(folder: RunFolder) -> None:
    with pytest.raises(ValueError, match=r"state\.pt: .*--out"):
        read_state(folder)


@pytest.mark.parametrize("keep", [0.0, 0.1, 0.6, 0.99])
def test_a_truncated_state(folder: RunFolder, saved: Path, keep: float) -> None:
    content = saved.read_bytes()
    saved.write_bytes(content[: int(keep * len(content))])
    assert_damaged(folder)


@pytest.mark.parametrize("content", [b"some text\n", b"\x80\x02}q\x00.", b"PK\x03\x04" + bytes(99)])
def test_another_file(folder: RunFolder, saved: Path, content: bytes) -> None:
    saved.write_bytes(content)
    assert_damaged(folder)


def test_another_state(folder: RunFolder, saved: Path) -> None:
    torch.save({"model": torch.zeros(3)}, saved)
    assert_damaged(folder)


@pytest.mark.parametrize("share", [0.2, 0.5, 0.8])
def test_a_state_with_a_flipped_bit(folder: RunFolder, saved: Path, share: float) -> None:
    """PyTorch would load the wrong weights."""
    with zipfile.ZipFile(saved) as records:
        largest = max(records.infolist(), key=lambda record: record.file_size)
    content = bytearray(saved.read_bytes())
    content[largest.header_offset + 200 + int(share * (largest.file_size - 200))] ^= 1
    saved.write_bytes(content)
    assert_damaged(folder)


class Trap:
    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (str(self.folder),)


def test_code_in_a_state_is_not_run(folder: RunFolder, saved: Path) -> None:
    torch.save({"data": Trap(folder.path / "caught")}, saved)
    assert_damaged(folder)
    assert not (folder.path / "caught").exists()


class SlowState(TrainingState):
    """A state that takes `takes` seconds to save, and records when it was saved."""

    def __init__(self, clock: SimpleNamespace, takes: float) -> None:
        self.clock, self.takes, self.saved = clock, takes, list[float]()

    def save(self, *places: Any) -> None:
        self.clock.now += self.takes
        self.saved.append(self.clock.now)


@pytest.mark.parametrize("step", [0.1, 7.0, 20.0])
@pytest.mark.parametrize("takes", [0.01, 4.0])
def test_a_kill_loses_less_than_a_minute(
    make_run: MakeRun, clock: SimpleNamespace, step: float, takes: float
) -> None:
    state = SlowState(clock, takes)
    save = Saver(make_run(), state)
    while clock.now < 1000:
        clock.now += step
        if save.is_due(step):
            save()
    gaps = [later - earlier for earlier, later in pairwise(state.saved)]
    assert len(gaps) >= 10
    assert max(gaps) <= LOST + takes
    assert LOST < 60
    # not more often than needed: the next call would have been too late
    assert min(gaps) >= LOST - step - 0.01


def test_longer_steps_are_saved_one_by_one(make_run: MakeRun, clock: SimpleNamespace) -> None:
    state = SlowState(clock, 1.0)
    save = Saver(make_run(), state)
    clock.now += 70
    assert save.is_due(70)
    save()
    assert save.is_due(70)
    assert len(state.saved) == 2


def test_epochs_are_saved_if_that_takes_a_twentieth_of_the_time(
    make_run: MakeRun, clock: SimpleNamespace
) -> None:
    save = Saver(make_run(), SlowState(clock, 2.0))
    clock.now += 39
    assert not save.is_cheap()
    clock.now += 1.5
    assert save.is_cheap()
    assert not save.is_due(1.0)
