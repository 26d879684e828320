"""Batches of samples, the same for any number of worker processes of one machine."""

import signal
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Sampler

from plainunet.dataset.samples import Draw, TrainingSet
from plainunet.errors import Error


class EpochBatches(Sampler[list[Draw]]):
    """A new order of all samples in each `epoch`, in batches whose sizes differ by at most one.

    Batches before `first` are skipped.

    Attributes:
        readers: Number of processes, and of worker processes of each, that `ShardBatches` are made
            for.
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
        """Create the order.

        Args:
            count: Number of samples.
            batch_size: Largest batch; exceeded by less than `processes` if a process would get
                no image otherwise.
            seed: Seed of the run.
            repeats: How often each sample is drawn in an epoch.
            rank: Rank of this process, from 0, which draws its part of each batch.
            processes: Number of processes, which get nearly equal parts of each batch.
        """
        self._count = count
        self._draws = count * repeats
        if min(self._draws, batch_size) < processes:
            raise Error(
                f"Batches of {min(self._draws, batch_size)} images are too small for {processes} "
                "processes: start fewer, or give a larger --batch-size."
            )
        self._batches = min(-(-self._draws // batch_size), self._draws // processes)
        self._seed = seed
        self._rank, self._processes = rank, processes
        self.epoch = self.first = 0
        self.readers = 1, 1

    def __len__(self) -> int:
        """Count the batches of an epoch."""
        return self._batches

    def __iter__(self) -> Iterator[list[Draw]]:
        """Yield this process's part of the batches of `epoch`, from `first` on."""
        for batch in self._cut()[self.first :]:
            share = np.array_split(batch, self._processes)[self._rank].tolist()
            yield [(epoch, number, sample) for epoch, number, sample in share]

    def samples(self, batch: int) -> list[int]:
        """List the samples of a batch of `epoch`, of all processes."""
        return [sample for _, _, sample in self._cut()[batch].tolist()]

    def _cut(self) -> list[NDArray[np.int64]]:
        """All draws of the epoch, [n, 3], in batches."""
        epochs, numbers = np.full(self._draws, self.epoch), np.arange(self._draws)
        draws = np.stack([epochs, numbers, self._order()], axis=1)
        return np.array_split(draws, self._batches)

    def _order(self) -> NDArray[np.int64]:
        """The sample of each draw of the epoch."""
        random = np.random.default_rng([self._seed, self.epoch])
        return random.permutation(self._draws) % self._count


class ShardBatches(EpochBatches):
    """Batches of samples in shards, which each reader reads one after another.

    The shards are in a new order in each epoch, and so are the samples of a shard. Every worker of
    every process has a piece of this sequence to itself, so a shard is read by one worker, or by
    two where a piece ends. The order depends on the seed, the epoch and `readers` alone, so a run
    resumes at any batch, also with other processes and workers.
    """

    def __init__(self, counts: Sequence[int], batch_size: int, seed: int, *others: int) -> None:
        """Create the order, from the number of samples of each shard; see `EpochBatches`."""
        super().__init__(sum(counts), batch_size, seed, *others)
        self._counts = np.array(counts)

    def _order(self) -> NDArray[np.int64]:
        random = np.random.default_rng([self._seed, self.epoch])
        starts, repeats = np.cumsum(self._counts) - self._counts, self._draws // self._count
        sequence = [
            starts[shard] + random.permutation(self._counts[shard] * repeats) % self._counts[shard]
            for shard in random.permutation(len(self._counts))
        ]
        order = np.empty(self._draws, np.int64)
        order[np.argsort(self._reader_of_draws(), kind="stable")] = np.concatenate(sequence)
        return order

    def _reader_of_draws(self) -> NDArray[np.int64]:
        """The number of the worker that reads each draw, if `readers` are at work."""
        processes, workers = self.readers
        readers = np.empty(self._draws, np.int64)
        for number, batch in enumerate(np.array_split(np.arange(self._draws), self._batches)):
            for rank, share in enumerate(np.array_split(batch, processes)):
                readers[share] = rank * workers + number % workers
        return readers


def make_loader(
    dataset: TrainingSet, batches: EpochBatches, workers: int, pin_memory: bool = False
) -> "DataLoader[tuple[Tensor, ...]]":
    """Create a loader of a dataset and an order, whose `epoch` is set before each pass.

    It yields images [N, H, W, C], shares [N, H', W', K] and, if the dataset has them, border
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
    """Iterate over a loader, re-raising worker errors as if they had happened in this process.

    A dead worker raises ChildProcessError when its batch is missing, not, as in PyTorch, at any
    point of the main thread.
    """
    before = _handler_of_ended_processes()
    batches = iter(loader)
    in_main_thread = threading.current_thread() is threading.main_thread()
    if in_main_thread and _is_torchs(_handler_of_ended_processes()):
        # it would raise at any point of the main thread
        signal.signal(signal.SIGCHLD, signal.SIG_DFL if _is_torchs(before) else before)
    while True:
        try:
            batch = next(batches)
        except StopIteration:
            return
        except Exception as error:
            died = isinstance(error, RuntimeError) and "DataLoader worker" in str(error)
            if died or (loader.num_workers and isinstance(error, EOFError | ConnectionError)):
                reason = str(error).partition("\n")[0] or "incomplete batch"
                raise ChildProcessError(
                    f"A data loader worker has died ({reason}). If memory was short, use fewer "
                    "--workers."
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
    """Restore an error's original message from the worker process."""
    name = f"\n{type(error).__name__}: "
    text = str(error)
    if not text.startswith("Caught ") or name not in text:
        return error
    return type(error)(text[text.rindex(name) + len(name) :].strip())


def _one_thread(_: int) -> None:
    # Ctrl-C reaches all processes of a terminal; the main process ends the workers
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # workers share the CPU with training: more threads would slow it down
    _one_thread_for_opencv()
    torch.set_num_threads(1)


def _one_thread_for_opencv() -> None:
    # more would wait for cores that PyTorch's threads hold; and a process forked while they
    # exist inherits their locks and may deadlock
    cv2.setNumThreads(1)
