"""Multi-GPU and multi-process training (DDP): the processes of a run under `torchrun`."""

import functools
import itertools
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
from torch import Tensor, distributed, nn
from torch.distributed import PrefixStore, Store  # type: ignore[attr-defined]
from torch.distributed.rendezvous import rendezvous
from torch.nn.parallel import DistributedDataParallel

from plainunet.errors import Error
from plainunet.network.device import choose_device


class SynchronisedBatchNorm(nn.BatchNorm2d):
    """`BatchNorm2d` (Ioffe and Szegedy 2015, arXiv 1502.03167) over the batch of all processes."""

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
        # each process fills its own row, so the sum holds the rows of all
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
        """Update the running statistics."""
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        self.num_batches_tracked.add_(1)
        self.running_mean.lerp_(mean, self.momentum or 0.0)
        self.running_var.lerp_(variance * count / (count - 1), self.momentum or 0.0)


class _Sum(torch.autograd.Function):
    """The sum over all processes, also of the gradient."""

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
    """Synchronise a network's batch normalisation over the processes.

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
_TIMEOUT = timedelta(hours=12)
"""How long processes wait for one that works alone, for instance on reading the data."""
_GROUPS = itertools.count()
"""Numbers the groups that this process joins, one after the other."""


class ElsewhereError(SystemExit):
    """The first process of the run has failed and reports it; this one ends silently."""


@dataclass(frozen=True)
class Processes:
    """The processes that share a run.

    Attributes:
        rank: Number of this process, from 0.
        count: Number of processes.
        joined: Whether torchrun started them, even if there is only one.
    """

    rank: int = 0
    count: int = 1
    joined: bool = False

    @property
    def is_first(self) -> bool:
        """Whether this process writes files and shows progress."""
        return self.rank == 0

    def are_restarted(self) -> bool:
        """Whether torchrun has restarted any of them after a failure."""
        return any(self.gather(self.joined and _restarts() > 0))

    def first_decides(self, decide: Callable[[], T]) -> T:
        """Call `decide` in the first process; all processes get its result, or fail with it."""
        if not self.joined:
            return decide()
        message: list[Any] = [None, None]
        if not self.is_first:
            distributed.broadcast_object_list(message)
            if message[1]:
                raise ElsewhereError(1)
            result: T = message[0]
            return result
        try:
            message[0] = decide()
        except BaseException as error:
            distributed.broadcast_object_list([None, type(error).__name__])
            raise
        distributed.broadcast_object_list(message)
        decided: T = message[0]
        return decided

    def in_turn(self, work: Callable[[], T]) -> T:
        """Call `work` in one process per machine first, then in the others."""
        if not self.joined:
            return work()
        leads = int(os.environ.get("LOCAL_RANK", "0")) == 0
        if leads:
            result = work()
        distributed.barrier()
        return result if leads else work()

    def gather(self, mine: T) -> list[T]:
        """Collect an object of each process, in the order of their ranks."""
        if not self.joined:
            return [mine]
        gathered: list[Any] = [None] * self.count
        distributed.all_gather_object(gathered, mine)
        return gathered

    def share(self, count: int) -> range:
        """Divide `count` items over the processes.

        Args:
            count: Number of items.

        Returns:
            Indices of the items of this process; each item belongs to exactly one.
        """
        return range(self.rank, count, self.count)

    def restore_order(self, shares: Sequence[Sequence[T]]) -> list[T]:
        """Merge the results of the processes, each in the order of `share`."""
        count = sum(map(len, shares))
        return [shares[number % self.count][number // self.count] for number in range(count)]

    def total(self, values: Tensor) -> Tensor:
        """Sum values over the processes.

        Args:
            values: Any shape; the same shape in every process.

        Returns:
            The sums.
        """
        if self.joined:
            distributed.all_reduce(values)
        return values

    def join_batch(self, weight: Tensor) -> Tensor:
        """Concatenate the processes' shares [N, H, W] of a batch, of any lengths: [M, H, W]."""
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
        """Copy tensors from the first process to the others.

        Args:
            tensors: The same number and shapes in every process; changed in place.
        """
        if self.count > 1:
            for tensor in tensors:
                distributed.broadcast(tensor, 0)

    def wrap(self, module: nn.Module, device: torch.device) -> nn.Module:
        """Wrap a module so that its backward pass averages gradients over the processes."""
        if not self.joined or not any(weight.requires_grad for weight in module.parameters()):
            return module
        ids = [torch.cuda.current_device()] if device.type == "cuda" else None
        return DistributedDataParallel(module, device_ids=ids)

    def no_sync_before(self, module: nn.Module, is_last: bool) -> AbstractContextManager[None]:
        """A context without gradient synchronisation before the last micro-batch."""
        if is_last or not isinstance(module, DistributedDataParallel):
            return nullcontext()
        return module.no_sync()

    def clock(self) -> float:
        """Read the clock of the first process.

        Returns:
            Seconds, as by `time.monotonic` there.
        """
        now = time.monotonic()
        if not self.joined:
            return now
        seconds = torch.tensor([now], dtype=torch.float64)
        distributed.broadcast(seconds, 0)
        return float(seconds)


ALONE = Processes()
"""One process, not started by torchrun."""


def job() -> str | None:
    """The id of the job of torchrun, if it has one: that of all its processes, and of later ones.

    Those are started again after a failure, or when the number of machines changes.
    """
    found = os.environ.get("TORCHELASTIC_RUN_ID", "none")
    return None if found == "none" else found


def _restarts() -> int:
    """How often torchrun of this machine has restarted its processes after a failure."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))


_PLACE = ("MASTER_ADDR", "MASTER_PORT", "RANK", "WORLD_SIZE")


@functools.cache
def _meet(*_place: str | None) -> tuple[Store, int, int]:
    """Find the other processes: their store, the rank of this process, and their number.

    The store is kept for later groups, which a process may join before another has left the last.
    """
    store, rank, count = next(rendezvous("env://", timeout=_TIMEOUT))
    return store, rank, count


@contextmanager
def join_processes(device: str) -> Iterator[Processes]:
    """Join the processes that torchrun started for a run; without torchrun, `ALONE`."""
    if "RANK" not in os.environ or "WORLD_SIZE" not in os.environ or distributed.is_initialized():
        yield ALONE
        return
    kind = choose_device(device).type
    if kind == "cuda":
        local, gpus = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
        if local >= gpus:
            raise Error(
                f"torchrun started process {local + 1} on this machine, which has {gpus} GPUs. "
                f"Use --nproc-per-node {gpus}, or --device cpu."
            )
        torch.cuda.set_device(local)
    # gloo sends Python objects, NCCL the gradients of GPUs
    backend = "cpu:gloo,cuda:nccl" if kind == "cuda" else "gloo"
    store, rank, count = _meet(*map(os.environ.get, _PLACE))
    # torchrun's store survives a restart, with the addresses of ended processes; otherwise it is
    # the first process's own, and machines may have counted different numbers of restarts
    survives = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    attempt = _restarts() if survives else 0
    store = PrefixStore(f"attempt {attempt}, group {next(_GROUPS)}", store)
    distributed.init_process_group(
        backend, timeout=_TIMEOUT, store=store, rank=rank, world_size=count
    )
    try:
        yield Processes(rank, count, joined=True)
    except RuntimeError as error:
        if any(word in str(error).lower() for word in ("by peer", "broken pipe", "remote process")):
            raise ChildProcessError(
                "another process of the run failed. With torchrun --max-restarts 3, all of them "
                "restart from the last saved state."
            ) from error
        raise
    finally:
        distributed.destroy_process_group()
