"""The losses, against their formulas and values computed by hand; deep supervision."""

import math
from collections.abc import Callable
from itertools import product

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from plainunet.network.losses import (
    LOSSES,
    boundary,
    cross_entropy,
    cross_entropy_dice,
    deep_loss,
    dice_loss,
    focal,
    lovasz,
    lovasz_extension,
    upsample_logits,
)

Loss = Callable[..., Tensor]
every_loss = pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES.keys())
SURE = 40.0  # a logit whose softmax is 1 in float32


def one_hot(mask: Tensor, num_classes: int) -> Tensor:
    return torch.nn.functional.one_hot(mask, num_classes).movedim(-1, 1).float()


def example(
    seed: int, *, num_classes: int = 3, batch: int = 2, hard: bool = False, ignored: float = 0.3
) -> tuple[Tensor, Tensor, Tensor]:
    """Random logits, target and weight of images of 5 x 4 pixels."""
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(batch, num_classes, 5, 4, generator=generator)
    if hard:
        mask = torch.randint(0, num_classes, (batch, 5, 4), generator=generator)
        target = one_hot(mask, num_classes)
    else:
        target = torch.randn(batch, num_classes, 5, 4, generator=generator).mul(3).softmax(dim=1)
    weight = torch.rand(batch, 5, 4, generator=generator) + 0.25
    weight[torch.rand(batch, 5, 4, generator=generator) < ignored] = 0
    return logits, target, weight


def differentiate(loss: Loss, logits: Tensor, *rest: Tensor) -> tuple[Tensor, Tensor]:
    """A loss and its gradient."""
    logits = logits.detach().clone().requires_grad_()
    value = loss(logits, *rest)
    (gradient,) = torch.autograd.grad(value, logits)
    return value.detach(), gradient


def focal_by_formula(logits: Tensor, target: Tensor, weight: Tensor, focus: int = 2) -> float:
    p, w = logits.double().softmax(dim=1), weight[:, None]
    return -((w * target * (1 - p) ** focus * p.log()).sum() / weight.sum()).item()


def cross_entropy_by_formula(logits: Tensor, target: Tensor, weight: Tensor) -> float:
    return focal_by_formula(logits, target, weight, focus=0)


def dice_by_formula(logits: Tensor, target: Tensor, weight: Tensor) -> float:
    per_image = []
    for p, t, w in zip(logits.double().softmax(dim=1), target, weight, strict=True):
        present = (w * t).sum(dim=(1, 2)) > 0
        difference, areas = ((w * each).sum(dim=(1, 2)) for each in ((p - t).abs(), p + t))
        per_image.append((difference / (areas + 1))[present].mean().item())
    return sum(per_image) / len(per_image)


def sum_by_formula(logits: Tensor, target: Tensor, weight: Tensor) -> float:
    rest = logits, target, weight
    return cross_entropy_by_formula(*rest) + dice_by_formula(*rest)


FORMULAS = {
    cross_entropy: cross_entropy_by_formula,
    dice_loss: dice_by_formula,
    cross_entropy_dice: sum_by_formula,
    focal: focal_by_formula,
}


@pytest.mark.parametrize(("loss", "formula"), FORMULAS.items())
@pytest.mark.parametrize("num_classes", [2, 3, 7])
@pytest.mark.parametrize("hard", [True, False], ids=["hard", "soft"])
def test_equals_its_formula(loss: Loss, formula: Loss, num_classes: int, hard: bool) -> None:
    logits, target, weight = example(num_classes, num_classes=num_classes, hard=hard)
    weight[1] *= 9  # gives the second image more weight in cross-entropy, but not in Dice
    expected = formula(logits, target, weight)
    assert loss(logits, target, weight).item() == pytest.approx(expected, rel=1e-5)


def test_cross_entropy_and_focal_by_hand() -> None:
    # class 1 has the probabilities 0.8 and 0.3; the second pixel counts three times
    logits = torch.tensor([[0.2, 0.7], [0.8, 0.3]]).log().view(1, 2, 1, 2)
    rest = one_hot(torch.tensor([[[1, 1]]]), 2), torch.tensor([[[1.0, 3.0]]])
    expected = -(math.log(0.8) + 3 * math.log(0.3)) / 4
    assert cross_entropy(logits, *rest).item() == pytest.approx(expected)
    expected = -(0.2**2 * math.log(0.8) + 3 * 0.7**2 * math.log(0.3)) / 4
    assert focal(logits, *rest).item() == pytest.approx(expected)


def test_names() -> None:
    losses = [cross_entropy, dice_loss, cross_entropy_dice, focal, lovasz, boundary]
    names = ["cross-entropy", "dice", "cross-entropy+dice", "focal", "lovasz", "boundary"]
    assert dict(zip(names, losses, strict=True)) == LOSSES


@pytest.mark.parametrize(
    ("true", "found", "weight", "expected"),
    [
        # each difference is 1 pixel, and 1 smooths the denominator: false negative, false positive
        ([1, 0, 0, 0], [0, 0, 0, 0], [1, 1, 1, 1], (1 / (0 + 1 + 1) + 1 / (4 + 3 + 1)) / 2),
        ([1, 0, 0, 0], [1, 1, 0, 0], [1, 1, 1, 1], (1 / (2 + 1 + 1) + 1 / (2 + 3 + 1)) / 2),
        # class 0 is right; class 1 lost one of its two pixels, to class 2, which has no term
        ([0, 0, 1, 1], [0, 0, 1, 2], [1, 1, 1, 1], (0 / (2 + 2 + 1) + 1 / (1 + 2 + 1)) / 2),
        # weights apply to every term
        ([1, 1, 0, 0], [1, 0, 0, 0], [1, 5, 1, 2], (5 / (1 + 6 + 1) + 5 / (8 + 3 + 1)) / 2),
    ],
)
def test_dice_by_hand(
    true: list[int], found: list[int], weight: list[int], expected: float
) -> None:
    classes = max(*true, *found) + 1
    target = one_hot(torch.tensor([[true]]), classes)
    logits = SURE * one_hot(torch.tensor([[found]]), classes)
    loss = dice_loss(logits, target, torch.tensor([[weight]]).float())
    assert loss.item() == pytest.approx(expected)


def test_boundary_pixels_have_three_times_the_weight() -> None:
    target = torch.zeros(1, 2, 40, 60)
    target[:, 0, :, :30] = 1
    target[:, 1, :, 30:] = 1
    _, gradient = differentiate(boundary, torch.zeros(1, 2, 40, 60), target, torch.ones(1, 40, 60))
    along = gradient[0, 0, 20].abs()
    near, far = along[25:35], torch.cat([along[:24], along[36:]])
    assert near.min() / far.max() == pytest.approx(3, rel=0.05)


@every_loss
def test_perfect_prediction_has_no_loss(loss: Loss) -> None:
    _, target, weight = example(3, num_classes=4, hard=True)
    assert loss(SURE * target, target, weight).item() == pytest.approx(0, abs=1e-6)
    assert loss(-SURE * target, target, weight).item() > 0.5


@pytest.mark.parametrize("loss", [cross_entropy, dice_loss, cross_entropy_dice, boundary])
def test_minimum_at_the_class_fractions(loss: Loss) -> None:
    _, target, weight = example(5, hard=False)
    met = loss(target.log(), target, weight)
    assert dice_loss(target.log(), target, weight).item() == pytest.approx(0, abs=1e-6)
    for sharper in (0.5, 0.9, 1.1, 2.0, 20.0):
        assert loss(sharper * target.log(), target, weight) > met


@every_loss
def test_gradient_descent_reaches_the_target(loss: Loss) -> None:
    logits, target, weight = example(13, hard=True)
    logits.requires_grad_()
    optimiser = torch.optim.Adam([logits], lr=0.3)
    for _ in range(150):
        optimiser.zero_grad()
        loss(logits, target, weight).backward()
        optimiser.step()
    counted = weight > 0
    assert (logits.argmax(dim=1) == target.argmax(dim=1))[counted].all()


@every_loss
@given(
    seed=st.integers(0, 10_000),
    num_classes=st.integers(2, 5),
    hard=st.booleans(),
    ignored=st.sampled_from([0.1, 0.5, 0.95, 1.0]),
    garbage=st.sampled_from([0.0, 1.0, -7.0, 1e30, -3e38, math.inf, -math.inf, math.nan]),
    garbage_target=st.sampled_from([0.0, 1.0, -1.0, 1e30, math.inf, math.nan]),
    only_one_class=st.booleans(),
    finer=st.booleans(),
)
def test_ignored_pixels_change_neither_loss_nor_gradient(
    loss: Loss,
    seed: int,
    num_classes: int,
    hard: bool,
    ignored: float,
    garbage: float,
    garbage_target: float,
    only_one_class: bool,
    finer: bool,
) -> None:
    """Exactly: pixels with a weight of 0 are replaced before anything is computed."""
    logits, target, weight = example(seed, num_classes=num_classes, hard=hard, ignored=ignored)
    void = (weight == 0)[:, None].expand_as(logits).clone()
    spoilt, spoilt_target = logits.clone(), target.clone()  # with the same strides, too
    spoilt_target[void] = garbage_target
    if finer:  # several target pixels per pixel of the logits
        target, spoilt_target = target.repeat(1, 1, 2, 2), spoilt_target.repeat(1, 1, 2, 2)
        weight = weight.repeat(1, 2, 2)
    else:
        if only_one_class:
            void[:, 1:] = False
        spoilt[void] = garbage
    value, gradient = differentiate(loss, logits, target, weight)
    spoilt_value, spoilt_gradient = differentiate(loss, spoilt, spoilt_target, weight)
    assert value.isfinite()
    assert spoilt_value.item() == value.item()
    assert torch.equal(spoilt_gradient, gradient)
    if not finer:
        assert (gradient[(weight == 0)[:, None].expand_as(logits)] == 0).all()


@every_loss
@pytest.mark.parametrize("finer", [1, 2])
def test_an_ignored_batch_has_no_loss(loss: Loss, finer: int) -> None:
    target = torch.zeros(2, 3, 4 * finer, 4 * finer)
    value, gradient = differentiate(loss, torch.randn(2, 3, 4, 4), target, target[:, 0])
    assert value == 0
    assert (gradient == 0).all()


@every_loss
def test_tiny_class_has_a_bounded_gradient(loss: Loss) -> None:
    target, logits = torch.zeros(1, 2, 8, 8), torch.zeros(1, 2, 8, 8)
    target[:, 0] = 1
    target[:, :, 0, 0] = torch.tensor([254 / 255, 1 / 255])
    logits[:, 0] = 12
    _, gradient = differentiate(loss, logits, target, torch.ones(1, 8, 8))
    assert gradient.abs().max() < 1


@every_loss
@pytest.mark.parametrize("cut", [(1, 3), (2, 2), (1, 1, 2)])
def test_losses_of_micro_batches_add_up(loss: Loss, cut: tuple[int, ...]) -> None:
    logits, target, weight = example(23, batch=4)
    weight[1] *= 5
    weight[2] = 0
    expected, expected_gradient = differentiate(loss, logits, target, weight)
    parts = [
        differentiate(loss, *part, weight)
        for part in zip(*(each.split(cut) for each in (logits, target, weight)), strict=True)
    ]
    assert sum(value.item() for value, _ in parts) == pytest.approx(expected.item(), rel=1e-6)
    torch.testing.assert_close(torch.cat([gradient for _, gradient in parts]), expected_gradient)


@every_loss
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("autocast", [False, True])
def test_half_precision_logits_give_a_float32_loss(
    loss: Loss, dtype: torch.dtype, autocast: bool
) -> None:
    logits, target, weight = example(23)
    rounded = logits.to(dtype)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        found, gradient = differentiate(loss, rounded, target, weight)
    assert (found.dtype, gradient.dtype) == (torch.float32, dtype)
    assert found.item() == pytest.approx(loss(logits, target, weight).item(), rel=1e-2)
    # only the logits were rounded
    assert found.item() == pytest.approx(loss(rounded.float(), target, weight).item(), rel=1e-5)


def test_many_pixels_lose_no_precision() -> None:
    logits = torch.zeros(1, 2, 1500, 1500, dtype=torch.bfloat16)
    target = one_hot(torch.ones(1, 1500, 1500, dtype=torch.int64), 2)
    weight = torch.ones(1, 1500, 1500)
    pixels = 1500 * 1500
    assert cross_entropy(logits, target, weight).item() == pytest.approx(math.log(2), rel=1e-5)
    expected = 0.5 * pixels / (1.5 * pixels + 1)
    assert dice_loss(logits, target, weight).item() == pytest.approx(expected, rel=1e-5)


def test_logits_are_upsampled_bilinearly() -> None:
    logits = torch.tensor([[0.0, 4.0], [8.0, 12.0]]).view(1, 1, 2, 2)
    # pixel centres of the finer grid are offset by a quarter of a coarse pixel
    expected = torch.tensor([[0, 1, 3, 4], [2, 3, 5, 6], [6, 7, 9, 10], [8, 9, 11, 12]])
    torch.testing.assert_close(upsample_logits(logits, (4, 4))[0, 0], expected.float())
    assert upsample_logits(logits.bfloat16(), (4, 4)).dtype == torch.float32
    torch.testing.assert_close(upsample_logits(logits, (2, 2)), logits)


@every_loss
@pytest.mark.parametrize("memory", [torch.contiguous_format, torch.channels_last])
def test_logits_are_upsampled_to_a_finer_target(loss: Loss, memory: torch.memory_format) -> None:
    logits, _, _ = example(29)
    generator = torch.Generator().manual_seed(1)
    target = torch.randn(2, 3, 10, 8, generator=generator).softmax(dim=1)
    weight = torch.rand(2, 10, 8, generator=generator)
    expected = loss(upsample_logits(logits, (10, 8)), target, weight).item()
    found = loss(logits.to(memory_format=memory), target, weight).item()
    assert 0 < found == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("size", [(4, 4), (5, 6), (10, 6), (2, 2)])
def test_target_of_a_size_that_does_not_fit_is_refused(size: tuple[int, int]) -> None:
    logits = torch.zeros(1, 2, 5, 4)
    with pytest.raises(ValueError, match=f"{size[0]} x {size[1]}.*5 x 4"):
        cross_entropy(logits, torch.zeros(1, 2, *size), torch.ones(1, *size))


@every_loss
@pytest.mark.parametrize(
    ("target_shape", "weight_shape"),
    [
        ((1, 3, 5, 4), (1, 5, 4)),  # another number of classes
        ((2, 2, 5, 4), (2, 5, 4)),  # another number of images
        ((1, 5, 4), (1, 5, 4)),  # class ids instead of fractions
        ((1, 2, 5, 4), (1, 1, 5, 4)),  # a weight that would be broadcast
        ((1, 2, 10, 8), (1, 5, 4)),  # a weight of the logits' size
    ],
)
def test_mismatching_shapes_are_refused(
    loss: Loss, target_shape: tuple[int, ...], weight_shape: tuple[int, ...]
) -> None:
    with pytest.raises(ValueError, match=r"\[N, "):
        loss(torch.zeros(1, 2, 5, 4), torch.zeros(target_shape), torch.ones(weight_shape))


# the Lovász extension, against the Jaccard loss itself


def jaccard_loss(predicted: Tensor, truth: Tensor, num_classes: int) -> float:
    """Mean of 1 - IoU over the classes in the ground truth."""
    losses = []
    for class_id in range(num_classes):
        found, true = predicted == class_id, truth == class_id
        if true.any():
            losses.append(1 - ((found & true).sum() / (found | true).sum()).item())
    return sum(losses) / len(losses)


def hard_masks() -> list[tuple[Tensor, Tensor, int]]:
    """Masks, ground truth, number of classes: all of four binary pixels, some of twelve."""
    four = [
        (torch.tensor(each), torch.tensor([1, 1, 0, 0]), 2) for each in product((0, 1), repeat=4)
    ]
    draw = torch.Generator().manual_seed(0)
    twelve = [
        (*torch.randint(0, classes, (2, 12), generator=draw), classes) for classes in [2, 3] * 6
    ]
    return [*four, *twelve]


def test_on_hard_masks_it_is_the_jaccard_loss() -> None:
    """An extension equals the original function at every corner of the cube."""
    for predicted, truth, num_classes in hard_masks():
        sure = one_hot(predicted[None], num_classes)[0]
        expected = jaccard_loss(predicted, truth, num_classes)
        assert lovasz_extension(sure, truth).item() == pytest.approx(expected, abs=1e-6)


def test_it_is_linear_between_two_orders() -> None:
    """Piecewise linear: halfway between two points with the same order of errors."""
    truth = torch.tensor([1, 0, 1, 0])
    one, other = torch.tensor([0.9, 0.2, 0.6, 0.3]), torch.tensor([0.8, 0.25, 0.5, 0.4])
    low, high, middle = (
        lovasz_extension(torch.stack([1 - p, p]), truth).item()
        for p in (one, other, (one + other) / 2)
    )
    assert middle == pytest.approx((low + high) / 2, abs=1e-6)


def test_without_pixels_it_is_zero() -> None:
    none = torch.zeros(2, 0, requires_grad=True)
    value = lovasz_extension(none, torch.zeros(0, dtype=torch.int64))
    assert value.item() == 0
    value.backward()


# deep supervision


@every_loss
def test_deep_supervision_halves_the_weight_of_each_coarser_level(loss: Loss) -> None:
    torch.manual_seed(0)
    target = torch.rand(2, 3, 16, 24).softmax(dim=1)
    weight = torch.rand(2, 16, 24)
    weight[:, 4:8, 4:8] = 0
    levels = [torch.randn(2, 3, 16 // 2**i, 24 // 2**i) for i in range(3)]
    expected = 0.0
    for i, logits in enumerate(levels):
        side = 2**i
        cells = weight.reshape(2, 16 // side, side, 24 // side, side)
        area = cells.mean(dim=(2, 4))
        fractions = (weight[:, None] * target).reshape(2, 3, 16 // side, side, 24 // side, side)
        fractions = fractions.mean(dim=(3, 5)) / area[:, None].clamp(min=1e-9)
        expected = expected + loss(logits, fractions, area) * (1, 1 / 2, 1 / 4)[i] / 1.75
    torch.testing.assert_close(deep_loss(loss, levels, target, weight), expected)
    alone = deep_loss(loss, levels[:1], target, weight)
    torch.testing.assert_close(alone, loss(levels[0], target, weight))


def test_deep_supervision_of_odd_sizes_reaches_every_level() -> None:
    levels = [torch.zeros(1, 2, *size, requires_grad=True) for size in ((33, 21), (16, 10), (8, 5))]
    target = torch.zeros(1, 2, 33, 21)
    target[:, 1, :, :10], target[:, 0, :, 10:] = 1, 1
    deep_loss(cross_entropy_dice, levels, target, torch.ones(1, 33, 21)).backward()
    for level in levels:  # class 1 is at the left at every level
        gradient = level.grad[0, 1]
        assert (gradient[:, : level.shape[3] // 3] < 0).all()
        assert (gradient[:, -level.shape[3] // 3 :] > 0).all()


def test_deeply_supervised_losses_of_micro_batches_add_up() -> None:
    generator = torch.Generator().manual_seed(0)
    target = torch.randn(4, 3, 32, 32, generator=generator).softmax(dim=1)
    weight = torch.rand(4, 32, 32, generator=generator)
    levels = [torch.randn(4, 3, side, side, generator=generator) for side in (32, 16, 8)]
    total = 0.0
    for k in range(4):
        part = [level[k : k + 1] for level in levels], target[k : k + 1], weight[k : k + 1]
        total += deep_loss(cross_entropy_dice, *part, weight).item()
    expected = deep_loss(cross_entropy_dice, levels, target, weight).item()
    assert total == pytest.approx(expected, rel=1e-6)
