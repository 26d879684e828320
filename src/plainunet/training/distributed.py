"""The processes of one run under `torchrun`: what they share, divide and synchronise."""

import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
from torch import Tensor, distributed, nn
from torch.distributed import PrefixStore  # type: ignore[attr-defined]
from torch.distributed.rendezvous import rendezvous
from torch.nn.parallel import DistributedDataParallel

from plainunet.network.device import choose_device


class SynchronisedBatchNorm(nn.BatchNorm2d):
    """`BatchNorm2d` (Ioffe and Szegedy 2015, arXiv 1502.03167) over all processes."""

    def forward(self, feature: Tensor) -> Tensor:
        """Normalise.

        Args:
            feature: [n, c, h, w] float.

        Returns:
            The same shape and dtype.
        """
        if not (self.training and distributed.is_initialized()):
            return super().forward(feature)
        values = feature.float()
        count = values.new_tensor([feature.numel() / feature.shape[1]])
        mean = values.mean(dim=(0, 2, 3))
        variance = (values - mean[:, None, None]).square().mean(dim=(0, 2, 3))
        # each process fills a row of its own, so that the sum has them all
        rows = values.new_zeros(distributed.get_world_size(), 1 + 2 * len(mean))
        own = torch.cat([count, mean, variance])
        rows = rows.index_copy(0, torch.tensor([distributed.get_rank()]).to(rows.device), own[None])
        rows = _Sum.apply(rows)  # type: ignore[no-untyped-call]
        counts, means, variances = rows.split([1, len(mean), len(mean)], dim=1)
        shares = counts / counts.sum()
        mean = (shares * means).sum(dim=0)
        variance = (shares * (variances + (means - mean).square())).sum(dim=0)
        self._remember(mean.detach(), variance.detach(), counts.sum())
        scale = self.weight * (variance + self.eps).rsqrt()
        shift = self.bias - mean * scale
        return torch.addcmul(shift[:, None, None], values, scale[:, None, None]).to(feature.dtype)

    @torch.no_grad()
    def _remember(self, mean: Tensor, variance: Tensor, count: Tensor) -> None:
        """Take a batch into the running statistics."""
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        self.num_batches_tracked.add_(1)
        self.running_mean.lerp_(mean, self.momentum or 0.0)
        self.running_var.lerp_(variance * count / (count - 1), self.momentum or 0.0)


class _Sum(torch.autograd.Function):
    """The sum over all processes; so is its gradient."""

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        total = values.clone()
        distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        total = gradient.clone()
        distributed.all_reduce(total)
        return total


def synchronise(network: nn.Module) -> None:
    """Have a network's batch normalisations see whole batches, whatever the processes.

    Args:
        network: The network; changed in place. Its weights keep their names.
    """
    for parent in network.modules():
        for name, child in parent.named_children():
            if type(child) is nn.BatchNorm2d:
                other = SynchronisedBatchNorm(child.num_features, child.eps, child.momentum)
                other._parameters, other._buffers = child._parameters, child._buffers
                setattr(parent, name, other)


T = TypeVar("T")
_PATIENCE = timedelta(hours=12)
"""How long processes wait for another that works alone, as on understanding the data."""


class ElsewhereError(SystemExit):
    """The first process of the run has failed and says how; this one ends, and says nothing."""


@dataclass(frozen=True)
class Processes:
    """What a process knows of the others of its run.

    Attributes:
        rank: Number of this process, from 0.
        count: How many there are.
        joined: Whether they were started to work together, be it only one.
    """

    rank: int = 0
    count: int = 1
    joined: bool = False

    @property
    def is_first(self) -> bool:
        """Whether this process writes files and shows what happens."""
        return self.rank == 0

    @property
    def are_restarted(self) -> bool:
        """Whether torchrun has started them again, after one of them had ended badly."""
        return self.joined and int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) > 0

    def first_decides(self, decide: Callable[[], T]) -> T:
        """Have the first process do something once; all get what came of it, or its error."""
        if not self.joined:
            return decide()
        told: list[Any] = [None, None]
        if not self.is_first:
            distributed.broadcast_object_list(told)
            if told[1]:
                raise ElsewhereError(1)
            result: T = told[0]
            return result
        try:
            told[0] = decide()
        except BaseException as error:
            distributed.broadcast_object_list([None, type(error).__name__])
            raise
        distributed.broadcast_object_list(told)
        decided: T = told[0]
        return decided

    def in_turn(self, work: Callable[[], T]) -> T:
        """Do something in one process on each machine first, then in the others."""
        if not self.joined:
            return work()
        leads = int(os.environ.get("LOCAL_RANK", "0")) == 0
        if leads:
            result = work()
        distributed.barrier()
        return result if leads else work()

    def gather(self, mine: T) -> list[T]:
        """Collect what each process has, in the order of their ranks."""
        if not self.joined:
            return [mine]
        all_of_them: list[Any] = [None] * self.count
        distributed.all_gather_object(all_of_them, mine)
        return all_of_them

    def share(self, count: int) -> range:
        """Say which of so many things are this process's: none twice, none left out.

        Args:
            count: How many there are.

        Returns:
            Their numbers.
        """
        return range(self.rank, count, self.count)

    def restore_order(self, shares: Sequence[Sequence[T]]) -> list[T]:
        """Put what the processes got of `share` back into the order of the whole."""
        count = sum(map(len, shares))
        return [shares[number % self.count][number // self.count] for number in range(count)]

    def total(self, values: Tensor) -> Tensor:
        """Add values up over the processes.

        Args:
            values: Any shape; the same in every process.

        Returns:
            The sums.
        """
        if self.joined:
            distributed.all_reduce(values)
        return values

    def join_batch(self, weight: Tensor) -> Tensor:
        """Put the shares [N, H, W] of a batch together, of any lengths: [M, H, W]."""
        if self.count == 1:
            return weight
        sizes = [0] * self.count
        distributed.all_gather_object(sizes, len(weight))
        padded = weight.new_zeros(max(sizes), *weight.shape[1:])
        padded[: len(weight)] = weight
        shares = [torch.empty_like(padded) for _ in sizes]
        distributed.all_gather(shares, padded)
        return torch.cat([share[:size] for share, size in zip(shares, sizes, strict=True)])

    def copy_first(self, tensors: Iterable[Tensor]) -> None:
        """Make tensors those of the first process.

        Args:
            tensors: The same in number and shape everywhere; changed in place.
        """
        if self.count > 1:
            for tensor in tensors:
                distributed.broadcast(tensor, 0)

    def wrap(self, module: nn.Module, device: torch.device) -> nn.Module:
        """Have gradients summed over the processes in the backward pass."""
        if not self.joined or not any(weight.requires_grad for weight in module.parameters()):
            return module
        places = [torch.cuda.current_device()] if device.type == "cuda" else None
        return DistributedDataParallel(module, device_ids=places)

    def no_sum_before(self, module: nn.Module, is_last: bool) -> AbstractContextManager[None]:
        """A context in which gradients stay where they are until the last part of a batch."""
        if is_last or not isinstance(module, DistributedDataParallel):
            return nullcontext()
        return module.no_sync()

    def clock(self) -> float:
        """Read the clock: that of the first process, in all.

        Returns:
            Seconds, as by `time.monotonic` there.
        """
        now = time.monotonic()
        if not self.joined:
            return now
        told = torch.tensor([now], dtype=torch.float64)
        distributed.broadcast(told, 0)
        return float(told)


ALONE = Processes()
"""One process, not started by torchrun."""


@contextmanager
def join_processes(device: str) -> Iterator[Processes]:
    """Join the processes that torchrun started for a run, or be alone."""
    if "RANK" not in os.environ or "WORLD_SIZE" not in os.environ or distributed.is_initialized():
        yield ALONE
        return
    kind = choose_device(device).type
    local, there = int(os.environ.get("LOCAL_RANK", "0")), 1
    if kind == "cuda":
        there = torch.cuda.device_count()
        if local >= there:
            raise ValueError(
                f"torchrun started process {local + 1} on this machine, which has {there} GPUs. "
                f"Give --nproc-per-node {there}, or --device cpu."
            )
        torch.cuda.set_device(local)
    # gloo carries what the processes tell each other, NCCL the gradients of GPUs
    backend = "cpu:gloo,cuda:nccl" if kind == "cuda" else "gloo"
    store, rank, count = next(rendezvous("env://", timeout=_PATIENCE))
    # one store may outlive a restart, with the addresses of processes that have ended
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    store = PrefixStore(f"attempt {attempt}", store)
    distributed.init_process_group(
        backend, timeout=_PATIENCE, store=store, rank=rank, world_size=count
    )
    try:
        yield Processes(rank, count, joined=True)
    except RuntimeError as error:
        if any(word in str(error).lower() for word in ("by peer", "broken pipe", "remote process")):
            raise ChildProcessError(
                "another process of the run has ended before its time. torchrun --max-restarts 3 "
                "would start all of them again, to go on from what was saved last."
            ) from error
        raise
    finally:
        distributed.destroy_process_group()
