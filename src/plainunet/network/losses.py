"""What the network is taught by: cross-entropy, soft Dice, their sum; deep supervision.

In: logits [N, K, h, w] of any float type, target [N, K, H, W] float32 class fractions of a
pixel's valid area (one-hot where a mask is taken as it is), weight [N, H, W] float32, 0 where a
pixel is ignored. Out: a float32 scalar, also under autocast. Binary and multi-class are one case.

The target may be finer than the logits by a whole factor. Only then does an ignored pixel's
logit matter, since it is a neighbour in the bilinear enlargement of valid ones.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

import torch
from torch import Tensor
from torch.nn import functional as F

Loss: TypeAlias = Callable[[Tensor, Tensor, Tensor], Tensor]

# pixels added to Dice's denominator: bounds the pull of a class that covers next to nothing
SMOOTHING = 1.0


def cross_entropy(logits: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """Weighted mean over the batch's pixels of -sum_k target_k log softmax(logits)_k.

    Args:
        logits: [N, K, h, w] float; H and W are whole multiples of h and w.
        target: [N, K, H, W] float32 in [0, 1], sums to 1 over K where the weight is not 0.
        weight: [N, H, W] float32, not negative.

    Returns:
        Scalar float32; 0 (with a gradient of 0) if every weight is 0.

    Raises:
        ValueError: The shapes do not belong together.
    """
    return _cross_entropy(*_prepare(logits, target, weight), weight)


def dice_loss(logits: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """Soft Dice loss for each image and class, averaged over classes, then over images.

    With probabilities p and target t it is sum |p - t| / (1 + sum (p + t)), the sums weighted
    and the 1 (pixel) there for gradients that stay bounded. Without it, on one-hot targets, this
    is the usual 1 - 2 sum pt / sum (p + t), since |p - t| = p + t - 2pt there. On class
    fractions, unlike the usual form, it is still least at p = t (Wang et al. 2023, "Dice
    Semimetric Losses", arXiv 2303.16296, loss DML1).

    A class absent from an image's target is left out of that image's mean. Its own term
    would be near 1 with hardly a gradient, and nothing is lost: under a softmax, what is
    wrongly given to it is missing from a class that is present.

    Args:
        logits: [N, K, h, w] float; H and W are whole multiples of h and w.
        target: [N, K, H, W] float32 in [0, 1], sums to 1 over K where the weight is not 0.
        weight: [N, H, W] float32, not negative.

    Returns:
        Scalar float32 in [0, 1); an image whose weights are all 0 counts as 0.

    Raises:
        ValueError: The shapes do not belong together.
    """
    return _dice_loss(*_prepare(logits, target, weight), weight)


def cross_entropy_dice(logits: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """Sum of `cross_entropy` and `dice_loss`.

    Args:
        logits: [N, K, h, w] float; H and W are whole multiples of h and w.
        target: [N, K, H, W] float32 in [0, 1], sums to 1 over K where the weight is not 0.
        weight: [N, H, W] float32, not negative.

    Returns:
        Scalar float32.

    Raises:
        ValueError: The shapes do not belong together.
    """
    prepared = _prepare(logits, target, weight)
    return _cross_entropy(*prepared, weight) + _dice_loss(*prepared, weight)


LOSSES: Mapping[str, Loss] = {
    "cross-entropy": cross_entropy,
    "dice": dice_loss,
    "cross-entropy+dice": cross_entropy_dice,
}


def deep_loss(loss: Loss, levels: Sequence[Tensor], target: Tensor, weight: Tensor) -> Tensor:
    """Mean of a loss over the levels of the expanding path, each weighing half of the finer one.

    Deep supervision (Lee et al. 2015, arXiv 1409.5185) with the weights 1, 1/2, 1/4, ... of
    nnU-Net (Isensee et al. 2021, supplement), divided by their sum. A coarse level is taught by
    the class fractions of the area that its pixels cover.

    Args:
        loss: One of `LOSSES`.
        levels: Logits as by `UNet.deep_logits`, the finest first.
        target: As for `loss`, for the finest level.
        weight: As for `loss`.

    Returns:
        Scalar float32; the loss itself where there is one level only.

    Raises:
        ValueError: The shapes do not belong together.
    """
    total = loss(levels[0], target, weight)
    for number, logits in enumerate(levels[1:], 1):
        size = (logits.shape[2], logits.shape[3])
        area = F.adaptive_avg_pool2d(weight[:, None], size)
        share = F.adaptive_avg_pool2d(weight[:, None] * target, size)
        share = share / area.clamp(min=torch.finfo(area.dtype).tiny)
        total = total + loss(logits, share, area[:, 0]) / 2**number
    return total / (2 - 0.5 ** (len(levels) - 1))


def logits_at(logits: Tensor, size: tuple[int, int]) -> Tensor:
    """Bring logits bilinearly to a finer grid over the same picture.

    Args:
        logits: [N, K, h, w] float.
        size: Height and width wanted [pixels], whole multiples of h and w.

    Returns:
        [N, K, *size] float32.

    Raises:
        ValueError: `size` is not a whole multiple of the logits' size.
    """
    # on CPUs, few channels are enlarged several times faster when channels do not come last
    logits = logits.float().contiguous()
    height, width = logits.shape[2:]
    if (height, width) == size:
        return logits
    if size[0] % height or size[1] % width:
        raise ValueError(
            f"The target is {size[0]} x {size[1]} pixels (height x width), the logits are "
            f"{height} x {width}: make the target as large as the logits, or a whole multiple."
        )
    return F.interpolate(logits, size=size, mode="bilinear", align_corners=False)


def _prepare(logits: Tensor, target: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Log-probabilities and weighted target [N, K, H, W] float32, neutral where ignored."""
    if target.ndim != 4 or target.shape[:2] != logits.shape[:2]:
        raise ValueError(
            f"The target is {list(target.shape)}, the logits are {list(logits.shape)}: both must "
            "be [N, K, height, width] with the same N and K."
        )
    if weight.shape != (target.shape[0], *target.shape[2:]):
        raise ValueError(
            f"The weight is {list(weight.shape)}, the target is {list(target.shape)}: the weight "
            "must be [N, H, W] of the target."
        )
    logits = logits_at(logits, (target.shape[2], target.shape[3]))
    ignored = (weight == 0)[:, None]
    # filled, since multiplying by a weight of 0 would turn an infinity there into nan
    log_probabilities = logits.masked_fill(ignored, 0).log_softmax(dim=1)
    weighted_target = (weight[:, None] * target).masked_fill_(ignored, 0)
    return log_probabilities, weighted_target


def _cross_entropy(log_probabilities: Tensor, weighted_target: Tensor, weight: Tensor) -> Tensor:
    total_weight = weight.sum().clamp(min=torch.finfo(weight.dtype).tiny)
    return -(weighted_target * log_probabilities).sum() / total_weight


def _dice_loss(log_probabilities: Tensor, weighted_target: Tensor, weight: Tensor) -> Tensor:
    weighted_probabilities = weight[:, None] * log_probabilities.exp()
    area = weighted_target.sum(dim=(2, 3))  # [N, K]
    predicted_area = weighted_probabilities.sum(dim=(2, 3))
    difference = (weighted_probabilities - weighted_target).abs().sum(dim=(2, 3))
    per_class = difference / (predicted_area + area + SMOOTHING)
    present = (area > 0).float()
    per_image = (present * per_class).sum(dim=1) / present.sum(dim=1).clamp(min=1)
    return per_image.mean()
