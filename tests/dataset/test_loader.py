import multiprocessing
import os
import signal
import sys
from itertools import chain
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from plainunet.dataset.coding import Values
from plainunet.dataset.loader import EpochBatches, iterate, make_loader
from plainunet.dataset.pairs import find_pairs
from plainunet.dataset.samples import Samples, TrainingSet

BINARY = Values((0, 255))
Batches = list[tuple[Tensor, ...]]


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLAINUNET_CACHE", str(tmp_path / "cache"))


@given(count=st.integers(1, 60), batch_size=st.integers(1, 20), seed=st.integers(0, 5))
def test_every_sample_once_in_even_batches(count: int, batch_size: int, seed: int) -> None:
    batches = EpochBatches(count, batch_size, seed)
    drawn = list(batches)
    assert len(drawn) == len(batches)
    sizes = [len(batch) for batch in drawn]
    assert max(sizes) <= batch_size
    assert max(sizes) - min(sizes) <= 1
    flat = [draw for batch in drawn for draw in batch]
    assert sorted(index for _, _, index in flat) == list(range(count))
    assert [number for _, number, _ in flat] == list(range(count))


def test_order_depends_on_seed_and_epoch_only() -> None:
    def order(seed: int, epoch: int, batch_size: int = 8) -> list[int]:
        batches = EpochBatches(40, batch_size, seed)
        batches.epoch = epoch
        drawn = [draw for batch in batches for draw in batch]
        assert {draw[0] for draw in drawn} == {epoch}
        return [index for _, _, index in drawn]

    assert order(0, 1) == order(0, 1)
    assert order(0, 1) == order(0, 1, batch_size=3)
    assert len({tuple(order(*key)) for key in [(0, 0), (0, 1), (1, 0), (1, 1)]}) == 4


def light_set(folder: Path) -> TrainingSet:
    return TrainingSet(Samples(find_pairs(folder), BINARY, (24, 32)), "light", 0, (24, 32))


def all_batches(folder: Path, workers: int, start: str = "fork") -> list[Batches]:
    """The batches of two epochs, as in training, with everything random."""
    samples = Samples(find_pairs(folder), BINARY, (24, 32), target_scale=2, objects=True)
    samples.fill_cache()
    batches = EpochBatches(len(samples), 3, seed=0)
    drawn = []
    for epoch in range(2):
        batches.epoch = epoch
        dataset = TrainingSet(samples, "strong", 0, (24, 32), elastic=2, border=(10, 5))
        loader = make_loader(dataset, batches, workers)
        if workers:
            loader.multiprocessing_context = multiprocessing.get_context(start)
        drawn.append(list(loader))
    return drawn


def equal(one: Batches, other: Batches) -> bool:
    return len(one) == len(other) and all(
        torch.equal(a, b)
        for x, y in zip(one, other, strict=True)
        for a, b in zip(x, y, strict=True)
    )


# on a machine of one core PyTorch warns of two workers
few_cores = pytest.mark.filterwarnings("ignore:This DataLoader will create")


@few_cores
@pytest.mark.parametrize(
    ("workers", "start"),
    [(1, "fork"), (2, "fork"), pytest.param(1, "spawn", marks=pytest.mark.slow)],
)
def test_same_batches_for_any_workers(small_data: Path, workers: int, start: str) -> None:
    """Albumentations 2.0.8 on its own repeats its sequence in every worker and epoch."""
    alone = all_batches(small_data, 0)
    assert [len(images) for images, _, _ in alone[0]] == [3, 3, 2]
    assert not equal(*alone)  # the second epoch is augmented differently
    assert all(map(equal, alone, all_batches(small_data, workers, start)))


@few_cores
@pytest.mark.parametrize("workers", [0, 1])
def test_nothing_is_decoded_once_the_cache_is_full(small_data: Path, workers: int) -> None:
    """Not in the first epoch, nor in a new one with other workers."""
    pairs = find_pairs(small_data)
    samples, progress = Samples(pairs, BINARY, (24, 32)), list[tuple[int, int]]()
    samples.fill_cache(lambda *step: progress.append(step))
    assert progress == [(done, 8) for done in range(1, 9)]
    dataset, batches = TrainingSet(samples, "light", 0, (24, 32)), EpochBatches(8, 3, seed=0)
    before = list(make_loader(dataset, batches, workers))
    for file in small_data.rglob("*.*"):
        file.unlink()
    with pytest.raises(FileNotFoundError):
        Samples(pairs, BINARY, (24, 32))[0]
    for epoch in (1, 0):
        batches.epoch = epoch
        after = list(make_loader(dataset, batches, workers))
    assert equal(after, before)


@few_cores
@pytest.mark.skipif(sys.platform != "linux", reason="workers are forked on Linux alone")
def test_workers_start_when_opencv_has_threads(small_data: Path) -> None:
    """A forked process has the threads' locks but not the threads, and may deadlock."""
    dataset = light_set(small_data)
    big = np.zeros((2000, 2000, 3), np.uint8)
    for _ in range(12):
        cv2.setNumThreads(8)
        cv2.warpAffine(big, np.eye(2, 3), (2000, 2000))
        loader = make_loader(dataset, EpochBatches(8, 4, 0), 1)
        loader.multiprocessing_context = multiprocessing.get_context("fork")
        assert sum(len(batch[0]) for batch in loader) == 8


@pytest.mark.parametrize("first", [0, 1, 2, 3])
def test_an_epoch_can_resume_at_any_batch(first: int) -> None:
    batches = EpochBatches(8, 3, seed=5, repeats=2)
    batches.epoch = 4
    whole = list(batches)
    batches.first = first
    assert list(batches) == whole[first:]
    assert [sample for _, _, sample in whole[first]] == batches.samples(first)
    assert len(batches) == len(whole)


@pytest.mark.parametrize(("count", "batch_size", "processes"), [(8, 3, 2), (9, 4, 3), (5, 4, 4)])
def test_processes_share_each_batch(count: int, batch_size: int, processes: int) -> None:
    shares = [
        list(EpochBatches(count, batch_size, 0, 1, rank, processes)) for rank in range(processes)
    ]
    joined = [list(chain(*parts)) for parts in zip(*shares, strict=True)]
    alone = list(EpochBatches(count, batch_size, 0))
    assert sorted(chain(*joined)) == sorted(chain(*alone))
    if (count, processes) != (5, 4):  # unless a batch would be too small for all
        assert joined == alone
    sizes = [len(part) for share in shares for part in share]
    assert min(sizes) >= 1


def test_more_processes_than_images_are_refused() -> None:
    with pytest.raises(ValueError, match=r"\b2\b.*\b3\b"):
        EpochBatches(8, 2, 0, 1, 0, 3)


@few_cores
def test_a_killed_worker_is_reported_when_its_batch_is_missing(small_data: Path) -> None:
    dataset = light_set(small_data)
    loader = make_loader(dataset, EpochBatches(8, 1, 0, repeats=9), 1)
    list(make_loader(dataset, EpochBatches(8, 8, 0), 1))  # PyTorch sets its handler once
    before = set(multiprocessing.active_children())
    going = iterate(loader)
    next(going)
    assert not str(getattr(signal.getsignal(signal.SIGCHLD), "__module__", "")).startswith("torch")
    (child,) = set(multiprocessing.active_children()) - before
    assert child.pid
    os.kill(child.pid, signal.SIGKILL)
    with pytest.raises(ChildProcessError, match=r"--workers"):
        list(going)


@few_cores
@pytest.mark.parametrize("workers", [0, 1])
def test_a_missing_file_is_named_by_any_process(
    small_data: Path, workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("plainunet.dataset.cache.LIMIT", 0)
    dataset, gone = light_set(small_data), small_data / "images" / "3.png"
    gone.unlink()
    with pytest.raises(FileNotFoundError) as caught:
        list(iterate(make_loader(dataset, EpochBatches(8, 3, seed=0), workers)))
    assert str(gone) in str(caught.value)
    assert "Traceback" not in str(caught.value)
