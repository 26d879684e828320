"""Batch normalisation over the shares that several processes have of a batch.

In: features [n, c, h, w], a share of the batch in each process. Out: the same, normalised by mean
and variance of all shares, as one process would by those of the whole batch. PyTorch's own
`SyncBatchNorm` runs on GPUs alone.
"""

from typing import Any

import torch
from torch import Tensor, distributed, nn


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
