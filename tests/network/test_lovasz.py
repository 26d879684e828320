"""The Lovász extension, against the Jaccard loss itself."""

from itertools import product

import pytest
import torch
from torch import Tensor

from plainunet.network.losses import lovasz_errors


def jaccard_loss(predicted: Tensor, truth: Tensor, num_classes: int) -> float:
    """Mean of 1 - IoU over the classes that the truth has."""
    losses = []
    for class_id in range(num_classes):
        here, there = predicted == class_id, truth == class_id
        if there.any():
            losses.append(1 - ((here & there).sum() / (here | there).sum()).item())
    return sum(losses) / len(losses)


@pytest.mark.parametrize("num_classes", [2, 3])
def test_on_whole_decisions_it_is_the_jaccard_loss(num_classes: int) -> None:
    """An extension agrees with what it extends at every corner of the cube."""
    for seed in range(6):
        generator = torch.Generator().manual_seed(seed)
        truth = torch.randint(0, num_classes, (12,), generator=generator)
        predicted = torch.randint(0, num_classes, (12,), generator=generator)
        sure = torch.nn.functional.one_hot(predicted, num_classes).T.float()
        wanted = jaccard_loss(predicted, truth, num_classes)
        assert lovasz_errors(sure, truth).item() == pytest.approx(wanted, abs=1e-6)


def test_all_binary_decisions_of_four_pixels() -> None:
    truth = torch.tensor([1, 1, 0, 0])
    for decision in product((0, 1), repeat=4):
        predicted = torch.tensor(decision)
        sure = torch.stack([1 - predicted, predicted]).float()
        wanted = jaccard_loss(predicted, truth, 2)
        assert lovasz_errors(sure, truth).item() == pytest.approx(wanted, abs=1e-6)


def test_it_is_linear_between_two_orders() -> None:
    """Piecewise linear: halfway between two points with the same order of errors."""
    truth = torch.tensor([1, 0, 1, 0])
    one = torch.tensor([0.9, 0.2, 0.6, 0.3])
    other = torch.tensor([0.8, 0.25, 0.5, 0.4])
    ends = [lovasz_errors(torch.stack([1 - p, p]), truth) for p in (one, other)]
    middle = (one + other) / 2
    value = lovasz_errors(torch.stack([1 - middle, middle]), truth)
    assert value.item() == pytest.approx((ends[0] + ends[1]).item() / 2, abs=1e-6)


def test_without_pixels_it_is_zero() -> None:
    none = torch.zeros(2, 0, requires_grad=True)
    value = lovasz_errors(none, torch.zeros(0, dtype=torch.int64))
    assert value.item() == 0
    value.backward()
