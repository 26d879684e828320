"""What a run needs to go on is kept whole, and read without running any code."""

import os
import zipfile
from pathlib import Path

import pytest
import torch
from torch import Tensor

from plainunet.network.unet import UNet
from plainunet.training.optim import WeightAverage, make_optimizers
from plainunet.training.state import STATE_FILE, TrainingState, read_state


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
    return {
        **state.network.state_dict(),
        **{f"average.{name}": value for name, value in average.items()},
    }


@pytest.mark.parametrize("optimizer", ["muon", "adamw", "adam"])
@pytest.mark.parametrize("average", [True, False])
def test_a_restored_state_goes_on_bit_for_bit(
    tmp_path: Path, optimizer: str, average: bool
) -> None:
    state = fresh(0, optimizer, average)
    advance(state, 2)
    state.epoch, state.best, state.seconds = 1, 0.25, 1.5
    state.save(tmp_path, tmp_path)
    advance(state, 2)

    other = fresh(1, optimizer, average)
    other.restore(read_state(tmp_path))
    assert (other.epoch, other.step, other.best, other.seconds) == (1, 2, 0.25, 1.5)
    advance(other, 2)
    expected = weights(state)
    assert weights(other).keys() == expected.keys()
    for name, value in weights(other).items():
        assert torch.equal(value, expected[name]), name


def test_the_data_folder_is_kept_in_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "data").mkdir()
    monkeypatch.chdir(tmp_path)
    fresh(0).save(Path("run"), Path("data"))
    assert read_state(tmp_path / "run")["data"] == str((tmp_path / "data").resolve())


def test_a_state_replaces_the_one_before_and_leaves_nothing_else(tmp_path: Path) -> None:
    state = fresh(0)
    for epoch in (1, 2):
        state.epoch = epoch
        state.save(tmp_path, tmp_path)
    assert [file.name for file in (tmp_path / "last").iterdir()] == [STATE_FILE.name]
    assert read_state(tmp_path)["counters"]["epoch"] == 2


def test_no_state(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no run to resume here.*state\.pt.*--out"):
        read_state(tmp_path)


@pytest.mark.parametrize("keep", [0.0, 0.1, 0.6, 0.99])
def test_a_state_that_is_cut_off(tmp_path: Path, keep: float) -> None:
    fresh(0).save(tmp_path, tmp_path)
    file = tmp_path / STATE_FILE
    content = file.read_bytes()
    file.write_bytes(content[: int(keep * len(content))])
    with pytest.raises(ValueError, match=r"state\.pt: damaged\. Start the run anew"):
        read_state(tmp_path)


@pytest.mark.parametrize("content", [b"some text\n", b"\x80\x02}q\x00.", b"PK\x03\x04" + bytes(99)])
def test_a_state_that_is_something_else(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "last").mkdir()
    (tmp_path / STATE_FILE).write_bytes(content)
    with pytest.raises(ValueError, match=r"state\.pt: damaged"):
        read_state(tmp_path)


def test_a_state_of_something_else(tmp_path: Path) -> None:
    (tmp_path / "last").mkdir()
    torch.save({"model": torch.zeros(3)}, tmp_path / STATE_FILE)
    with pytest.raises(ValueError, match=r"state\.pt: damaged"):
        read_state(tmp_path)


@pytest.mark.parametrize("share", [0.2, 0.5, 0.8])
def test_a_state_with_a_few_wrong_bytes(tmp_path: Path, share: float) -> None:
    """PyTorch alone would take the wrong weights."""
    fresh(0).save(tmp_path, tmp_path)
    file = tmp_path / STATE_FILE
    with zipfile.ZipFile(file) as records:
        largest = max(records.infolist(), key=lambda record: record.file_size)
    content = bytearray(file.read_bytes())
    at = largest.header_offset + 200 + int(share * (largest.file_size - 200))
    content[at] ^= 1
    file.write_bytes(content)
    with pytest.raises(ValueError, match=r"state\.pt: damaged"):
        read_state(tmp_path)


class Trap:
    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (str(self.folder),)


def test_code_in_a_state_is_not_run(tmp_path: Path) -> None:
    (tmp_path / "last").mkdir()
    torch.save({"data": Trap(tmp_path / "caught")}, tmp_path / STATE_FILE)
    with pytest.raises(ValueError, match="damaged"):
        read_state(tmp_path)
    assert not (tmp_path / "caught").exists()
