"""Samples -> batches, the same for any number of worker processes.

In: a training set. Out: its samples in a fresh order for each epoch, stacked. Limitations: one
machine; all samples of a set have one size.
"""

from collections.abc import Iterator

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Sampler

from plainunet.data.dataset import Draw, TrainingSet


class EpochBatches(Sampler[list[Draw]]):
    """A fresh order of all samples in each epoch, in batches that differ by at most one."""

    def __init__(self, count: int, batch_size: int, seed: int, repeats: int = 1) -> None:
        """Make the order.

        Args:
            count: Number of samples.
            batch_size: Largest batch.
            seed: Of the run.
            repeats: How often each sample is drawn in an epoch.
        """
        self._count = count
        self._draws = count * repeats
        self._batches = -(-self._draws // batch_size)
        self._seed = seed
        self.epoch = 0

    def __len__(self) -> int:
        """Count the batches of an epoch."""
        return self._batches

    def __iter__(self) -> Iterator[list[Draw]]:
        """Draw the batches of `epoch`.

        Yields:
            Draws of one batch.
        """
        order = np.random.default_rng([self._seed, self.epoch]).permutation(self._draws)
        draws = [(self.epoch, n, int(index) % self._count) for n, index in enumerate(order)]
        for numbers in np.array_split(np.arange(self._draws), self._batches):
            yield [draws[number] for number in numbers]


def make_loader(
    dataset: TrainingSet, batches: EpochBatches, workers: int, pin_memory: bool = False
) -> "DataLoader[tuple[Tensor, ...]]":
    """Join a set and an order into a loader of stacked samples.

    Args:
        dataset: The augmented samples.
        batches: Their order; set its `epoch` before each pass.
        workers: Processes that prepare batches; 0 for none.
        pin_memory: Whether batches go to page-locked memory, for copying to a GPU.

    Returns:
        Batches of images [N, H, W, C], shares [N, H', W', K] and, where the set has them,
        border weights [N, H', W'].
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


def _one_thread(_: int) -> None:
    # workers share the machine with the training: more threads each would only be in its way
    _one_thread_for_opencv()
    torch.set_num_threads(1)


def _one_thread_for_opencv() -> None:
    # more would wait for cores that PyTorch's threads do not let go of; and a process forked
    # while there are some inherits their locks without them, and may wait for ever
    cv2.setNumThreads(1)
