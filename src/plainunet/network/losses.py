"""Losses: cross-entropy, soft Dice, their sum, focal, Lovász, boundary, or the user's own.

Example:
    ```python
    import torch

    from plainunet import losses

    logits, weight = torch.randn(1, 2, 16, 16), torch.ones(1, 16, 16)
    target = torch.nn.functional.one_hot(torch.zeros(1, 16, 16).long(), 2).movedim(-1, 1).float()
    print(losses.dice_loss(logits, target, weight))
    print(losses.LOSSES["focal"](logits, target, weight))
    ```
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from plainunet.errors import Error
from plainunet.parts import Part, PartError, running

__all__ = [
    "LOSSES",
    "Loss",
    "boundary",
    "cross_entropy",
    "cross_entropy_dice",
    "dice_loss",
    "focal",
    "lovasz",
]


class Loss(Protocol):
    """A training loss; `LOSSES` lists all by name."""

    def __call__(
        self, logits: Tensor, target: Tensor, weight: Tensor, whole: Tensor | None = None
    ) -> Tensor:
        """Compare logits with class fractions.

        Args:
            logits: [N, K, h, w] float; H and W are whole multiples of h and w.
            target: [N, K, H, W] float32 in [0, 1], sums to 1 over K where the weight is not 0.
            weight: [N, H, W] float32, not negative; pixels with a weight of 0 are ignored.
            whole: [M, H, W] float32, the weights of the whole batch, if the others are a
                micro-batch. The losses of micro-batches add up to that of the batch.

        Returns:
            Scalar float32; 0 (with a gradient of 0) if every weight is 0.

        Raises:
            ValueError: The shapes do not match.
        """


OwnLossFunction = Callable[[Tensor, Tensor, Tensor], Tensor]
"""A user's loss: logits and target [N, K, H, W] and weight [N, H, W] to a scalar."""
SMOOTHING = 1.0
"""Pixels added to the denominator of Dice, which bound the gradient of very small classes."""
FOCUS = 2.0
"""Exponent of the focal loss (gamma in its paper)."""
BOUNDARY = (11, 3.0)
"""For the loss "boundary": side of the window [target pixels] that detects boundaries, and the
factor on the weight of pixels near them."""


def cross_entropy(
    logits: Tensor, target: Tensor, weight: Tensor, whole: Tensor | None = None
) -> Tensor:
    """Weighted mean over the batch's pixels of -sum_k target_k log softmax(logits)_k."""
    return _cross_entropy(*_prepare(logits, target, weight), _batch(weight, whole))


def dice_loss(
    logits: Tensor, target: Tensor, weight: Tensor, whole: Tensor | None = None
) -> Tensor:
    """Soft Dice loss for each image and class, averaged over classes, then over images.

    With probabilities p and target t it is sum |p - t| / (1 + sum (p + t)), with weighted sums;
    the 1 (pixel) bounds the gradient. Without it, on one-hot targets, this is the usual
    1 - 2 sum pt / sum (p + t), since |p - t| = p + t - 2pt there. With class fractions, unlike
    the usual form, its minimum is still at p = t (Wang et al. 2023, "Dice Semimetric Losses",
    arXiv 2303.16296, loss DML1).

    A class absent from the target of an image is left out of that image's mean. Its term would
    be near 1 with hardly a gradient, and nothing is lost: under a softmax, probability wrongly
    assigned to it is missing from a class that is present.
    """
    return _dice_loss(*_prepare(logits, target, weight), weight, len(_batch(weight, whole)))


def cross_entropy_dice(
    logits: Tensor, target: Tensor, weight: Tensor, whole: Tensor | None = None
) -> Tensor:
    """Sum of `cross_entropy` and `dice_loss`; the arguments are those of every `Loss`."""
    prepared, whole = _prepare(logits, target, weight), _batch(weight, whole)
    return _cross_entropy(*prepared, whole) + _dice_loss(*prepared, weight, len(whole))


def focal(logits: Tensor, target: Tensor, weight: Tensor, whole: Tensor | None = None) -> Tensor:
    """Cross-entropy weighted by (1 - p)^2, p being the probability of the pixel's class.

    For class imbalance: many easy background pixels do not dominate a few hard ones. Lin et al.
    2017, arXiv 1708.02002, eq. 4, with gamma = `FOCUS`; with class fractions, the term of each
    class is weighted.
    """
    log_probabilities, weighted_target = _prepare(logits, target, weight)
    missing = 1 - log_probabilities.exp()
    return _cross_entropy(
        log_probabilities, weighted_target * missing**FOCUS, _batch(weight, whole)
    )


def lovasz(logits: Tensor, target: Tensor, weight: Tensor, whole: Tensor | None = None) -> Tensor:
    """Lovász-softmax: a surrogate of 1 - IoU, per image and class present, then averaged.

    Berman et al. 2018, arXiv 1705.08790, eq. 8 and algorithm 1. It needs hard labels: a pixel's
    class is the one with the largest fraction. All weights above 0 are equal.
    """
    log_probabilities, _ = _prepare(logits, target, weight)
    probabilities, classes = log_probabilities.exp(), target.argmax(dim=1)
    # depends on every pixel, so that there is always a gradient, if only 0
    total = log_probabilities.sum() * 0
    for image, mask, valid in zip(probabilities, classes, weight > 0, strict=True):
        total = total + lovasz_extension(image[:, valid], mask[valid])
    return total / len(_batch(weight, whole))


def lovasz_extension(probabilities: Tensor, classes: Tensor) -> Tensor:
    """Mean over the classes present of the Lovász extension of 1 - IoU, in [0, 1].

    `probabilities` of P pixels are [K, P], their `classes` [P] int64.
    """
    losses = []
    for class_id in classes.unique().tolist():
        truth = (classes == class_id).to(probabilities.dtype)
        errors = (truth - probabilities[class_id]).abs()
        errors, order = errors.sort(descending=True)
        # not a matrix product, which autocast would round
        losses.append((errors * _lovasz_gradient(truth[order])).sum())
    return torch.stack(losses).mean() if losses else probabilities.sum()


def _lovasz_gradient(truth: Tensor) -> Tensor:
    """The increase of 1 - IoU by each further error (algorithm 1)."""
    total = truth.sum()
    intersection = total - truth.cumsum(0)
    union = total + (1 - truth).cumsum(0)
    jaccard = 1 - intersection / union
    return torch.cat([jaccard[:1], jaccard[1:] - jaccard[:-1]])


def boundary(logits: Tensor, target: Tensor, weight: Tensor, whole: Tensor | None = None) -> Tensor:
    """Cross-entropy and Dice with a higher weight near boundaries.

    A pixel is near a boundary if its window of `BOUNDARY` contains several classes; as in the
    winning entry of Kaggle's Carvana challenge (Iglovikov et al. 2017), without renormalisation.
    """
    _require_shapes(logits, target, weight)
    side, times = BOUNDARY
    counted = target.masked_fill((weight == 0)[:, None], 0)
    fractions = F.avg_pool2d(counted, side, 1, side // 2, count_include_pad=False)
    near = fractions.amax(dim=1) < 0.99 * fractions.sum(dim=1)
    near_weight = weight * torch.where(near, times, 1.0)
    return cross_entropy_dice(logits, target, near_weight, _batch(weight, whole))


LOSSES: Mapping[str, Loss] = {
    "cross-entropy": cross_entropy,
    "dice": dice_loss,
    "cross-entropy+dice": cross_entropy_dice,
    "focal": focal,
    "lovasz": lovasz,
    "boundary": boundary,
}


class OwnLoss:
    """A user's function `(logits, target, weight) -> scalar` as a `Loss`.

    Its arguments are those of a `Loss`, with logits of the target's size. It is taken to be a mean
    over images: that of a micro-batch counts in proportion to its images.
    """

    def __init__(self, part: Part) -> None:
        """Wrap the function."""
        self._function: OwnLossFunction = part.made
        self._name = part.name
        if not callable(part.made) or isinstance(part.made, type):
            raise PartError(
                f"--loss {part.name}: is no function of (logits, target, weight). Give a function "
                "or an instance that can be called."
            )

    def __call__(
        self, logits: Tensor, target: Tensor, weight: Tensor, whole: Tensor | None = None
    ) -> Tensor:
        """As for every `Loss`."""
        _require_shapes(logits, target, weight)
        logits = upsample_logits(logits, (target.shape[2], target.shape[3]))
        with running(f"--loss {self._name} failed"):
            value = self._function(logits, target, weight)
        return value * (len(weight) / len(_batch(weight, whole)))

    def check(self, classes: int, device: torch.device) -> None:
        """Compute the loss of made-up batches, and its gradient.

        Args:
            classes: Number of classes K.
            device: The device of the batches; a loss that is a module is moved there.

        Raises:
            PartError: It fails, is not a scalar, not finite, or has no finite gradient.
        """
        if isinstance(self._function, nn.Module):
            self._function.to(device)
        random = torch.Generator().manual_seed(0)
        for images, most, what in (
            (2, classes, "of all classes"),
            (1, 1, "of background only, a part of which is ignored"),
        ):
            coarse = torch.randint(most, (images, 8, 8), generator=random)
            ids = coarse.repeat_interleave(8, 1).repeat_interleave(8, 2)
            target = F.one_hot(ids, classes).permute(0, 3, 1, 2).float()
            weight = torch.ones(images, 64, 64)
            if most == 1:
                weight[:, :16] = 0
            logits = torch.randn(target.shape, generator=random)
            batch = [part.to(device) for part in (logits, target * weight[:, None], weight)]
            self._try(batch, f"a batch {list(target.shape)} {what}")

    def _try(self, batch: Sequence[Tensor], what: str) -> None:
        logits, target, weight = batch
        logits.requires_grad_()
        with running(f"--loss {self._name} failed for {what}"):
            value = self._function(logits, target, weight)
        if not isinstance(value, Tensor) or value.ndim:
            found = list(value.shape) if isinstance(value, Tensor) else type(value).__name__
            raise PartError(
                f"--loss {self._name}: returned {found} for {what}, not a scalar tensor. Reduce "
                "it, for example by .mean()."
            )
        if not value.isfinite():
            raise PartError(
                f"--loss {self._name}: is {value.item():g} for {what}. Keep it finite, for example "
                "by a small number added to each denominator."
            )
        gradient = None
        if value.requires_grad:
            (gradient,) = torch.autograd.grad(value, logits, allow_unused=True)
        if gradient is None or not gradient.isfinite().all():
            kind = "no gradient with respect to" if gradient is None else "no finite gradient for"
            raise PartError(
                f"--loss {self._name}: has {kind} the logits for {what}. Compute it from them by "
                "differentiable operations."
            )


def deep_loss(
    loss: Loss,
    levels: Sequence[Tensor],
    target: Tensor,
    weight: Tensor,
    whole: Tensor | None = None,
) -> Tensor:
    """Weighted mean of a loss over the levels of the decoder.

    Deep supervision (Lee et al. 2015, arXiv 1409.5185) with the weights 1, 1/2, 1/4, ... of
    nnU-Net (Isensee et al. 2021, supplement), divided by their sum. The target of a coarse level
    is the class fractions of the area that its pixels cover. `levels` are as by
    `UNet.deep_logits`, the finest first; the other arguments are those of the loss at the finest
    level.

    Raises:
        ValueError: The shapes do not match.
    """
    whole = _batch(weight, whole)
    total = loss(levels[0], target, weight, whole)
    for number, logits in enumerate(levels[1:], 1):
        size = (logits.shape[2], logits.shape[3])
        area = F.adaptive_avg_pool2d(weight[:, None], size)
        fractions = F.adaptive_avg_pool2d(weight[:, None] * target, size)
        fractions = fractions / area.clamp(min=torch.finfo(area.dtype).tiny)
        whole_area = F.adaptive_avg_pool2d(whole[:, None], size)[:, 0]
        total = total + loss(logits, fractions, area[:, 0], whole_area) / 2**number
    return total / (2 - 0.5 ** (len(levels) - 1))


def upsample_logits(logits: Tensor, size: tuple[int, int]) -> Tensor:
    """Upsample logits [N, K, h, w] bilinearly to whole multiples of h and w; float32."""
    # on CPUs, few channels are upsampled several times faster with channels first
    logits = (logits if logits.dtype == torch.float64 else logits.float()).contiguous()
    height, width = logits.shape[2:]
    if (height, width) == size:
        return logits
    if size[0] % height or size[1] % width:
        raise Error(
            f"The target is {size[0]} x {size[1]} pixels (height x width), the logits are "
            f"{height} x {width}: the target must be a whole multiple of the logits."
        )
    return F.interpolate(logits, size=size, mode="bilinear", align_corners=False)


def _prepare(logits: Tensor, target: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Log-probabilities and weighted target [N, K, H, W] float32, neutral where ignored."""
    _require_shapes(logits, target, weight)
    logits = upsample_logits(logits, (target.shape[2], target.shape[3]))
    ignored = (weight == 0)[:, None]
    # filled, since multiplying by a weight of 0 would turn an infinity there into nan
    log_probabilities = logits.masked_fill(ignored, 0).log_softmax(dim=1)
    weighted_target = (weight[:, None] * target).masked_fill_(ignored, 0)
    return log_probabilities, weighted_target


def _require_shapes(logits: Tensor, target: Tensor, weight: Tensor) -> None:
    if target.ndim != 4 or target.shape[:2] != logits.shape[:2]:
        raise Error(
            f"The target is {list(target.shape)}, the logits are {list(logits.shape)}: both must "
            "be [N, K, height, width] with the same N and K."
        )
    if weight.shape != (target.shape[0], *target.shape[2:]):
        raise Error(
            f"The weight is {list(weight.shape)}, the target is {list(target.shape)}: the weight "
            "must be [N, H, W] of the target."
        )


def _batch(weight: Tensor, whole: Tensor | None) -> Tensor:
    """The weights of the whole batch."""
    return weight if whole is None else whole


def _cross_entropy(log_probabilities: Tensor, weighted_target: Tensor, whole: Tensor) -> Tensor:
    total_weight = whole.sum().clamp(min=torch.finfo(whole.dtype).tiny)
    return -(weighted_target * log_probabilities).sum() / total_weight


def _dice_loss(
    log_probabilities: Tensor, weighted_target: Tensor, weight: Tensor, images: int
) -> Tensor:
    weighted_probabilities = weight[:, None] * log_probabilities.exp()
    area = weighted_target.sum(dim=(2, 3))  # [N, K]
    predicted_area = weighted_probabilities.sum(dim=(2, 3))
    difference = (weighted_probabilities - weighted_target).abs().sum(dim=(2, 3))
    per_class = difference / (predicted_area + area + SMOOTHING)
    present = (area > 0).float()
    per_image = (present * per_class).sum(dim=1) / present.sum(dim=1).clamp(min=1)
    return per_image.sum() / images
