"""The Lovász extension of the Jaccard loss (Berman et al. 2018, arXiv 1705.08790).

In: the probabilities and the class of each pixel of one image. Out: a scalar.
"""

import torch
from torch import Tensor


def lovasz_errors(probabilities: Tensor, classes: Tensor) -> Tensor:
    """Mean over the classes present of the Lovász extension of 1 - IoU of their errors.

    Args:
        probabilities: [K, P] float32, of each pixel, sums to 1 over K.
        classes: [P] int64, 0..K-1.

    Returns:
        Scalar float32 in [0, 1]; 0 where there is no pixel.
    """
    losses = []
    for class_id in classes.unique().tolist():
        truth = (classes == class_id).to(probabilities.dtype)
        errors = (truth - probabilities[class_id]).abs()
        errors, order = errors.sort(descending=True)
        # no matrix product: autocast would round it
        losses.append((errors * _gradient(truth[order])).sum())
    return torch.stack(losses).mean() if losses else probabilities.sum()


def _gradient(truth: Tensor) -> Tensor:
    """Gradient of the extension: what each further error adds to 1 - IoU (algorithm 1)."""
    total = truth.sum()
    intersection = total - truth.cumsum(0)
    union = total + (1 - truth).cumsum(0)
    jaccard = 1 - intersection / union
    return torch.cat([jaccard[:1], jaccard[1:] - jaccard[:-1]])
