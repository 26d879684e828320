"""Optimisers, and the exponential moving average (EMA) of the weights."""

import copy
import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW, Optimizer, RMSprop

from plainunet.network.own import Network


class Muon(Optimizer):
    """Momentum with orthogonalised updates.

    A convolution's weight [out, in, h, w] is a matrix [out, h * w * in]. Jordan et al. 2024,
    "Muon: an optimizer for hidden layers in neural networks"; the factor that scales the update
    to AdamW's, and the weight decay: Liu et al. 2025, arXiv 2502.16982, sec. 2.2.
    """

    def __init__(
        self,
        weights: Iterable[Tensor],
        lr: float,
        momentum: float = 0.95,
        weight_decay: float = 0,
        precision: torch.dtype = torch.float32,
    ) -> None:
        """Make the optimiser.

        Args:
            weights: Weights with at least two dimensions.
            lr: Learning rate, on AdamW's scale.
            momentum: Decay of the moving average of gradients.
            weight_decay: Decoupled weight decay.
            precision: float32, or bfloat16 to make updates orthogonal in about half the time, if
                the hardware has it; weights and momentum stay as they are.
        """
        super().__init__(weights, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})
        self._precision = precision

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Update every weight that has a gradient.

        Args:
            closure: Unused; part of PyTorch's interface.
        """
        for group in self.param_groups:
            rate, momentum = group["lr"], group["momentum"]
            weights = [weight for weight in group["params"] if weight.grad is not None]
            spread = []
            for weight in weights:
                state = self.state[weight]
                if "mean" not in state:
                    state["mean"] = torch.zeros_like(weight)
                state["mean"].lerp_(weight.grad, 1 - momentum)
                ahead = weight.grad.lerp(state["mean"], momentum)  # Nesterov
                # channels last, as in memory; the order of columns does not matter
                spread.append(ahead.movedim(1, -1))
            updates = orthogonal([each.flatten(1).to(self._precision) for each in spread])
            for weight, update, each in zip(weights, updates, spread, strict=True):
                scale = 0.2 * math.sqrt(max(update.shape))
                weight.mul_(1 - rate * group["weight_decay"])
                weight.sub_(update.view(each.shape).movedim(-1, 1), alpha=rate * scale)


def orthogonal(matrices: Sequence[Tensor]) -> list[Tensor]:
    """Set the singular values of each [m, n] near 1: Newton-Schulz, quintic (Jordan et al. 2024).

    Each of the three steps is x <- p x, p being a polynomial in x x^T. Multiplying the small square
    p's first, and the wide x only at both ends, costs less than half. Squares of equal size are
    multiplied together.
    """
    wide = [x if len(x) <= x.shape[1] else x.T for x in matrices]
    by_size: dict[int, list[int]] = defaultdict(list)
    for number, x in enumerate(wide):
        by_size[len(x)].append(number)
    results = list(matrices)
    for numbers in by_size.values():
        factors = _newton_schulz(torch.stack([wide[number] @ wide[number].T for number in numbers]))
        for number, factor in zip(numbers, factors, strict=True):
            x = matrices[number]
            results[number] = factor @ x if wide[number] is x else x @ factor
    return results


def _newton_schulz(grams: Tensor, steps: int = 3) -> Tensor:
    """Factors that make every x orthogonal, of their [number, m, m] products x x^T.

    The largest singular value is at most the fourth root of the sum of all fourth powers, which is
    about half of the root of the sum of squares that Jordan et al. divide by in five steps. The
    smallest ones, which are mostly noise, stay small. In bf16, rounding makes small eigenvalues of
    the products negative, by up to some 1e-4, and a step multiplies those by 12: three steps do no
    harm, five would.
    """
    largest = torch.linalg.matrix_norm(grams, keepdim=True, dtype=torch.float32).sqrt() + 1e-7
    norms: Tensor = largest.to(grams.dtype)
    grams = grams / norms**2
    factors = grams
    for step in range(steps):
        p = torch.baddbmm(grams, grams, grams, beta=-4.7750, alpha=2.0315)
        p.diagonal(dim1=1, dim2=2).add_(3.4445)
        factors = p @ factors if step else p
        if step < steps - 1:
            grams = p @ grams @ p
    return factors / norms


def make_optimizers(
    network: nn.Module,
    name: str,
    learning_rate: float,
    weight_decay: float,
    precision: torch.dtype = torch.float32,
    momentum: float = 0.9,
) -> list[Optimizer]:
    """Make the optimisers of a network.

    Args:
        network: The network.
        name: "adamw", "adam", "sgd", "rmsprop", or "muon": Muon for the 3x3 convolutions after
            the first, AdamW for everything else.
        learning_rate: The highest learning rate of the schedule.
        weight_decay: Decoupled in muon and adamw, added to the gradient in sgd and rmsprop;
            adam has none.
        precision: Of the training; with bfloat16, Muon computes its updates in it.
        momentum: Nesterov momentum of sgd; the others have their own.

    Returns:
        One or two optimisers of the weights that are not frozen.
    """
    weights = [weight for weight in network.parameters() if weight.requires_grad]
    if name == "sgd":
        sgd = SGD(
            weights,
            lr=learning_rate,
            momentum=momentum,
            weight_decay=weight_decay,
            nesterov=momentum > 0,
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
        Muon(
            inner,
            lr=learning_rate,
            weight_decay=weight_decay,
            # float16 has too small a range
            precision=torch.bfloat16 if precision == torch.bfloat16 else torch.float32,
        ),
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
