"""Deep supervision: one loss at every level of the expanding path.

In: logits of several sizes, a loss, target and weight as for it. Out: a scalar.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from plainunet.network.losses import Loss


def deep_loss(
    loss: Loss,
    levels: Sequence[Tensor],
    target: Tensor,
    weight: Tensor,
    whole: Tensor | None = None,
) -> Tensor:
    """Mean of a loss over the levels of the expanding path, each weighing half of the finer one.

    Deep supervision (Lee et al. 2015, arXiv 1409.5185) with the weights 1, 1/2, 1/4, ... of
    nnU-Net (Isensee et al. 2021, supplement), divided by their sum. A coarse level is taught by
    the class fractions of the area that its pixels cover.

    Args:
        loss: One of `LOSSES`.
        levels: Logits as by `UNet.deep_logits`, the finest first.
        target: As for `loss`, for the finest level.
        weight: As for `loss`.
        whole: As for `loss`.

    Returns:
        Scalar float32; the loss itself where there is one level only.

    Raises:
        ValueError: The shapes do not belong together.
    """
    whole = weight if whole is None else whole
    total = loss(levels[0], target, weight, whole)
    for number, logits in enumerate(levels[1:], 1):
        size = (logits.shape[2], logits.shape[3])
        area = F.adaptive_avg_pool2d(weight[:, None], size)
        share = F.adaptive_avg_pool2d(weight[:, None] * target, size)
        share = share / area.clamp(min=torch.finfo(area.dtype).tiny)
        areas = F.adaptive_avg_pool2d(whole[:, None], size)[:, 0]
        total = total + loss(logits, share, area[:, 0], areas) / 2**number
    return total / (2 - 0.5 ** (len(levels) - 1))
