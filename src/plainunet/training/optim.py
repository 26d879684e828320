"""Optimisers, and the exponential moving average (EMA) of the weights."""

import copy
import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW, Optimizer, RMSprop

from plainunet.network.own import Network

MOMENTUM = 0.9
"""Nesterov momentum of sgd."""


class Muon(Optimizer):
    """Momentum with orthogonalised updates.

    A convolution's weight [out, in, h, w] is a matrix [out, h * w * in]. Jordan et al. 2024,
    "Muon: an optimizer for hidden layers in neural networks"; the factor that scales the update
    to AdamW's, and the weight decay: Liu et al. 2025, arXiv 2502.16982, sec. 2.2.
    """

    def __init__(
        self, weights: Iterable[Tensor], lr: float, momentum: float = 0.95, weight_decay: float = 0
    ) -> None:
        """Make the optimiser.

        Args:
            weights: Weights with at least two dimensions.
            lr: Learning rate, on AdamW's scale.
            momentum: Decay of the moving average of gradients.
            weight_decay: Decoupled weight decay.
        """
        super().__init__(weights, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Update every weight that has a gradient.

        Args:
            closure: Unused; part of PyTorch's interface.
        """
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is None:
                    continue
                state = self.state[weight]
                mean = state.setdefault("mean", torch.zeros_like(weight))
                mean.lerp_(weight.grad, 1 - group["momentum"])
                ahead = weight.grad.lerp(mean, group["momentum"])  # Nesterov
                # channels last, as in memory; the order of columns does not matter
                spread = ahead.movedim(1, -1)
                matrix = spread.flatten(1)
                update = orthogonal(matrix) * (0.2 * math.sqrt(max(matrix.shape)))
                weight.mul_(1 - group["lr"] * group["weight_decay"])
                weight.sub_(update.view(spread.shape).movedim(-1, 1), alpha=group["lr"])


def orthogonal(matrix: Tensor, steps: int = 5) -> Tensor:
    """Set all singular values of [m, n] near 1: Newton-Schulz, quintic (Jordan et al. 2024)."""
    tall = matrix.shape[0] > matrix.shape[1]
    x = matrix.T if tall else matrix
    x = x / (x.norm() + 1e-7)
    # each step is x <- p x, p being a polynomial in x x^T: multiplying the small square p's first,
    # and the wide x only at both ends, costs less than half
    gram = x @ x.T
    gathered = identity = torch.eye(len(x), dtype=x.dtype, device=x.device)
    for step in range(steps):
        p = 3.4445 * identity - 4.7750 * gram + 2.0315 * gram @ gram
        gathered = p @ gathered if step else p
        if step < steps - 1:
            gram = p @ gram @ p
    x = gathered @ x
    result: Tensor = x.T if tall else x
    return result


def make_optimizers(
    network: nn.Module, name: str, learning_rate: float, weight_decay: float
) -> list[Optimizer]:
    """Make the optimisers of a network.

    Args:
        network: The network.
        name: "adamw", "adam", "sgd" (Nesterov, `MOMENTUM`), "rmsprop", or "muon": Muon for the
            3x3 convolutions after the first, AdamW for everything else.
        learning_rate: The highest learning rate of the schedule.
        weight_decay: Decoupled in muon and adamw, added to the gradient in sgd and rmsprop;
            adam has none.

    Returns:
        One or two optimisers of the weights that are not frozen.
    """
    weights = [weight for weight in network.parameters() if weight.requires_grad]
    if name == "sgd":
        sgd = SGD(
            weights,
            lr=learning_rate,
            momentum=MOMENTUM,
            weight_decay=weight_decay,
            nesterov=True,
            fused=True,
        )
        return [sgd]
    if name == "rmsprop":
        return [RMSprop(weights, lr=learning_rate, weight_decay=weight_decay, foreach=True)]
    if name == "adam":
        return [Adam(weights, lr=learning_rate, fused=True)]
    if name == "adamw":
        return [AdamW(weights, lr=learning_rate, weight_decay=weight_decay, fused=True)]
    convolutions = [m for m in network.modules() if isinstance(m, nn.Conv2d)]
    inner = [m.weight for m in convolutions if m.kernel_size == (3, 3)]
    # the first one sees images, not features
    inner = [weight for weight in inner[1:] if weight.requires_grad]
    if not inner:  # a network of the user's own
        return make_optimizers(network, "adamw", learning_rate, weight_decay)
    others = [w for w in weights if all(w is not x for x in inner)]
    return [
        Muon(inner, lr=learning_rate, weight_decay=weight_decay),
        AdamW(others, lr=learning_rate, weight_decay=weight_decay, fused=True),
    ]


class WeightAverage:
    """Exponential moving average (EMA) of a network's weights and buffers."""

    def __init__(self, network: Network, decay: float) -> None:
        """Start at the current weights of the network.

        Args:
            network: The network in training.
            decay: Fraction of the average that a step keeps, 0..1.
        """
        self.network = copy.deepcopy(network).eval()
        self.decay = decay

    @torch.no_grad()
    def update(self, network: nn.Module, step: int) -> None:
        """Update the average after a step.

        Args:
            network: The network in training.
            step: Number of the step, from 0; the decay starts lower.
        """
        keep = min(self.decay, (1 + step) / (10 + step))
        averages = self.network.state_dict().values()
        for average, value in zip(averages, network.state_dict().values(), strict=True):
            if average.is_floating_point():
                average.lerp_(value, 1 - keep)
            else:
                average.copy_(value)
