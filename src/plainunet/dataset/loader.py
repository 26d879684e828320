"""Samples -> batches, the same for any number of worker processes of one machine."""

import signal
import threading
from collections.abc import Iterator
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Sampler

from plainunet.dataset.samples import Draw, TrainingSet


class EpochBatches(Sampler[list[Draw]]):
    """A fresh order of all samples in each `epoch`, in batches that differ by at most one.

    Batches before `first` are left out.
    """

    def __init__(
        self,
        count: int,
        batch_size: int,
        seed: int,
        repeats: int = 1,
        rank: int = 0,
        processes: int = 1,
    ) -> None:
        """Make the order.

        Args:
            count: Number of samples.
            batch_size: Largest batch; larger by less than `processes` where that many would be
                left without an image otherwise.
            seed: Of the run.
            repeats: How often each sample is drawn in an epoch.
            rank: Which share of each batch is drawn, from 0.
            processes: Into how many shares, as equal as may be, each batch is cut.
        """
        self._count = count
        self._draws = count * repeats
        if min(self._draws, batch_size) < processes:
            raise ValueError(
                f"{processes} processes cannot share batches of {min(self._draws, batch_size)} "
                "images: start fewer, or give a larger --batch-size."
            )
        self._batches = min(-(-self._draws // batch_size), self._draws // processes)
        self._seed = seed
        self._rank, self._processes = rank, processes
        self.epoch = self.first = 0

    def __len__(self) -> int:
        """Count the batches of an epoch."""
        return self._batches

    def __iter__(self) -> Iterator[list[Draw]]:
        """Draw this share of the batches of `epoch`, from `first` on."""
        for batch in self._cut()[self.first :]:
            share = np.array_split(batch, self._processes)[self._rank].tolist()
            yield [(epoch, number, sample) for epoch, number, sample in share]

    def samples(self, batch: int) -> list[int]:
        """Name the samples of a batch of `epoch`, all shares of it."""
        return [sample for _, _, sample in self._cut()[batch].tolist()]

    def _cut(self) -> list[NDArray[np.int64]]:
        """All draws of the epoch, [n, 3], in batches."""
        order = np.random.default_rng([self._seed, self.epoch]).permutation(self._draws)
        epochs, numbers = np.full(self._draws, self.epoch), np.arange(self._draws)
        draws = np.stack([epochs, numbers, order % self._count], axis=1)
        return np.array_split(draws, self._batches)


def make_loader(
    dataset: TrainingSet, batches: EpochBatches, workers: int, pin_memory: bool = False
) -> "DataLoader[tuple[Tensor, ...]]":
    """Join a set and an order, whose `epoch` is set before each pass, into a loader.

    It gives images [N, H, W, C], shares [N, H', W', K] and, where the set has them, border
    weights [N, H', W'].
    """
    _one_thread_for_opencv()
    return DataLoader(
        dataset,
        batch_sampler=batches,
        num_workers=workers,
        pin_memory=pin_memory,
        worker_init_fn=_one_thread,
        prefetch_factor=4 if workers else None,
    )


def iterate(loader: "DataLoader[tuple[Tensor, ...]]") -> Iterator[tuple[Tensor, ...]]:
    """Go through a loader; what goes wrong in its processes is raised as if it had been here.

    A process that has ended is noticed when its batch is missing (ChildProcessError), not, as
    PyTorch would have it, in the middle of whatever goes on.
    """
    before = _handler_of_ended_processes()
    batches = iter(loader)
    in_main_thread = threading.current_thread() is threading.main_thread()
    if in_main_thread and _is_torchs(_handler_of_ended_processes()):
        # it would raise wherever the main thread is when a process ends
        signal.signal(signal.SIGCHLD, signal.SIG_DFL if _is_torchs(before) else before)
    while True:
        try:
            batch = next(batches)
        except StopIteration:
            return
        except Exception as error:
            told = isinstance(error, RuntimeError) and "DataLoader worker" in str(error)
            if told or (loader.num_workers and isinstance(error, EOFError | ConnectionError)):
                said = str(error).partition("\n")[0] or "it left half a batch"
                raise ChildProcessError(
                    f"a process that prepares batches has ended ({said}). If memory was short, "
                    "take fewer --workers."
                ) from error
            plain = _unwrapped(error)
            if plain is error:
                raise
            raise plain from error
        yield batch


def _handler_of_ended_processes() -> Any:
    return signal.getsignal(signal.SIGCHLD) if hasattr(signal, "SIGCHLD") else None


def _is_torchs(handler: Any) -> bool:
    return str(getattr(handler, "__module__", "")).startswith("torch.")


def _unwrapped(error: Exception) -> Exception:
    """Give an error the words that it had in the process that it comes from."""
    name = f"\n{type(error).__name__}: "
    said = str(error)
    if not said.startswith("Caught ") or name not in said:
        return error
    return type(error)(said[said.rindex(name) + len(name) :].strip())


def _one_thread(_: int) -> None:
    # Ctrl-C on a terminal comes to all its processes; the first one ends these
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # workers share the machine with the training: more threads each would only be in its way
    _one_thread_for_opencv()
    torch.set_num_threads(1)


def _one_thread_for_opencv() -> None:
    # more would wait for cores that PyTorch's threads do not let go of; and a process forked
    # while there are some inherits their locks without them, and may wait for ever
    cv2.setNumThreads(1)
