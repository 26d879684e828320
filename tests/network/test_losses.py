"""The losses, against plain loops and numbers worked out by hand."""

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from plainunet.network.losses import (
    LOSSES,
    cross_entropy,
    cross_entropy_dice,
    dice_loss,
    focal,
    logits_at,
    lovasz,
    outline,
)

Loss = Callable[[Tensor, Tensor, Tensor], Tensor]
every_loss = pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES.keys())
SURE = 40.0  # a logit whose softmax is 1 in float32


def one_hot(mask: Tensor, num_classes: int) -> Tensor:
    return torch.nn.functional.one_hot(mask, num_classes).movedim(-1, 1).float()


def example(
    seed: int, *, num_classes: int = 3, batch: int = 2, hard: bool = False, ignored: float = 0.3
) -> tuple[Tensor, Tensor, Tensor]:
    """Random logits, target and weight of pictures of 5 x 4 pixels."""
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


def softmax_by_hand(logits: list[float]) -> list[float]:
    top = max(logits)
    powers = [math.exp(logit - top) for logit in logits]
    return [power / sum(powers) for power in powers]


def slow_cross_entropy(logits: Tensor, target: Tensor, weight: Tensor) -> float:
    total = weights = 0.0
    for n in range(len(logits)):
        for i in range(logits.shape[2]):
            for j in range(logits.shape[3]):
                probabilities = softmax_by_hand(logits[n, :, i, j].tolist())
                w = weight[n, i, j].item()
                for p, t in zip(probabilities, target[n, :, i, j].tolist(), strict=True):
                    total -= w * t * math.log(p)
                weights += w
    return total / weights if weights else 0.0


def slow_dice_loss(logits: Tensor, target: Tensor, weight: Tensor) -> float:
    per_image = []
    for n in range(len(logits)):
        difference, found, true = ([0.0] * logits.shape[1] for _ in range(3))
        for i in range(logits.shape[2]):
            for j in range(logits.shape[3]):
                probabilities = softmax_by_hand(logits[n, :, i, j].tolist())
                w = weight[n, i, j].item()
                for k, p in enumerate(probabilities):
                    t = target[n, k, i, j].item()
                    difference[k] += w * abs(p - t)
                    found[k] += w * p
                    true[k] += w * t
        terms = [d / (f + t + 1) for d, f, t in zip(difference, found, true, strict=True) if t > 0]
        per_image.append(sum(terms) / len(terms) if terms else 0.0)
    return sum(per_image) / len(per_image)


def slow_sum(logits: Tensor, target: Tensor, weight: Tensor) -> float:
    return slow_cross_entropy(logits, target, weight) + slow_dice_loss(logits, target, weight)


@pytest.mark.parametrize(
    ("loss", "slow"),
    [
        (cross_entropy, slow_cross_entropy),
        (dice_loss, slow_dice_loss),
        (cross_entropy_dice, slow_sum),
    ],
)
@pytest.mark.parametrize("num_classes", [2, 3, 7])
@pytest.mark.parametrize("hard", [True, False], ids=["hard", "soft"])
def test_equals_plain_loops(loss: Loss, slow: Loss, num_classes: int, hard: bool) -> None:
    logits, target, weight = example(num_classes, num_classes=num_classes, hard=hard)
    assert loss(logits, target, weight).item() == pytest.approx(slow(logits, target, weight), 1e-5)


def test_names() -> None:
    assert {
        "cross-entropy": cross_entropy,
        "dice": dice_loss,
        "cross-entropy+dice": cross_entropy_dice,
        "focal": focal,
        "lovasz": lovasz,
        "outline": outline,
    } == LOSSES


def test_cross_entropy_by_hand() -> None:
    # two pixels, given to class 1 with probability 0.8 and 0.3; the second counts three times
    logits = torch.tensor([[0.2, 0.7], [0.8, 0.3]]).log().view(1, 2, 1, 2)
    weight = torch.tensor([1.0, 3.0]).view(1, 1, 2)
    hard = torch.tensor([[0.0, 0.0], [1.0, 1.0]]).view(1, 2, 1, 2)
    soft = torch.tensor([[0.0, 0.5], [1.0, 0.5]]).view(1, 2, 1, 2)
    on_hard = -(math.log(0.8) + 3 * math.log(0.3)) / 4
    on_soft = -(math.log(0.8) + 1.5 * math.log(0.3) + 1.5 * math.log(0.7)) / 4
    assert cross_entropy(logits, hard, weight).item() == pytest.approx(on_hard)
    assert cross_entropy(logits, soft, weight).item() == pytest.approx(on_soft)


def test_dice_tells_a_miss_from_a_false_alarm() -> None:
    # 4 pixels, the first is class 1; each difference is 1 pixel, and 1 smooths the denominator
    target = one_hot(torch.tensor([[[1, 0, 0, 0]]]), 2)
    weight = torch.ones(1, 1, 4)
    miss = SURE * one_hot(torch.tensor([[[0, 0, 0, 0]]]), 2)
    false_alarm = SURE * one_hot(torch.tensor([[[1, 1, 0, 0]]]), 2)
    on_miss = (1 / (0 + 1 + 1) + 1 / (4 + 3 + 1)) / 2
    on_false_alarm = (1 / (2 + 1 + 1) + 1 / (2 + 3 + 1)) / 2
    assert dice_loss(miss, target, weight).item() == pytest.approx(on_miss)
    assert dice_loss(false_alarm, target, weight).item() == pytest.approx(on_false_alarm)


@pytest.mark.parametrize("num_classes", [2, 5])
def test_dice_on_hard_targets_is_the_usual_one(num_classes: int) -> None:
    logits, target, weight = example(1, num_classes=num_classes, hard=True)
    p, w = logits.softmax(dim=1), weight[:, None]
    overlap = (w * p * target).sum(dim=(2, 3))
    areas = (w * p).sum(dim=(2, 3)) + (w * target).sum(dim=(2, 3))
    assert (w * target).sum(dim=(2, 3)).min() > 0  # no class is absent here
    usual = 1 - (2 * overlap + 1) / (areas + 1)
    assert dice_loss(logits, target, weight).item() == pytest.approx(usual.mean().item(), abs=1e-6)


@every_loss
def test_perfect_prediction_costs_nothing(loss: Loss) -> None:
    _, target, weight = example(3, num_classes=4, hard=True)
    assert loss(SURE * target, target, weight).item() == pytest.approx(0, abs=1e-6)
    assert loss(-SURE * target, target, weight).item() > 0.5


@pytest.mark.parametrize("loss", [cross_entropy, dice_loss, cross_entropy_dice, outline])
def test_class_fractions_are_met_and_not_overshot(loss: Loss) -> None:
    _, target, weight = example(5, hard=False)
    met = loss(target.log(), target, weight)
    assert dice_loss(target.log(), target, weight).item() == pytest.approx(0, abs=1e-6)
    for sharper in (0.5, 0.9, 1.1, 2.0, 20.0):
        assert loss(sharper * target.log(), target, weight) > met


def test_cross_entropy_gradient_by_hand() -> None:
    logits, target, weight = example(11)
    logits.requires_grad_()
    cross_entropy(logits, target, weight).backward()
    by_hand = weight[:, None] * (logits.detach().softmax(dim=1) - target) / weight.sum()
    torch.testing.assert_close(logits.grad, by_hand, rtol=1e-4, atol=1e-7)


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
) -> None:
    logits, target, weight = example(seed, num_classes=num_classes, hard=hard, ignored=ignored)
    void = (weight == 0)[:, None].expand_as(logits).clone()
    clean = logits.clone().requires_grad_()
    value = loss(clean, target, weight)
    value.backward()

    target[void] = garbage_target
    if only_one_class:
        void[:, 1:] = False
    logits[void] = garbage
    spoilt = logits.requires_grad_()
    spoilt_value = loss(spoilt, target, weight)
    spoilt_value.backward()

    assert value.isfinite()
    assert spoilt_value.item() == value.item()
    assert clean.grad is not None
    assert spoilt.grad is not None
    assert torch.equal(spoilt.grad, clean.grad)
    assert (clean.grad[(weight == 0)[:, None].expand_as(logits)] == 0).all()


@every_loss
def test_ignored_pixels_of_a_finer_target_change_nothing(loss: Loss) -> None:
    logits, _, _ = example(1)
    _, target, weight = (torch.cat([part] * 2, dim=-1) for part in example(2))
    target, weight = torch.cat([target] * 2, dim=-2), torch.cat([weight] * 2, dim=-2)
    values, gradients = [], []
    for garbage in (0.0, 1e30, math.nan):
        target.masked_fill_((weight == 0)[:, None], garbage)
        given_logits = logits.clone().requires_grad_()
        value = loss(given_logits, target, weight)
        value.backward()
        values.append(value.item())
        gradients.append(given_logits.grad)
    assert values[0] > 0
    assert values == [values[0]] * 3
    assert all(torch.equal(gradient, gradients[0]) for gradient in gradients)


def test_dice_of_a_batch_is_the_mean_over_its_images() -> None:
    logits, target, weight = example(17)
    weight[1] *= 9
    target[0, 2] = 0  # class 2 is absent from the first image only
    target[0] /= target[0].sum(dim=0)
    alone = [
        dice_loss(logits[n : n + 1], target[n : n + 1], weight[n : n + 1]).item() for n in (0, 1)
    ]
    assert alone[0] != pytest.approx(alone[1], rel=1e-2)
    assert dice_loss(logits, target, weight).item() == pytest.approx(sum(alone) / 2, rel=1e-6)


def test_cross_entropy_of_a_batch_is_the_mean_over_its_weighted_pixels() -> None:
    logits, target, weight = example(19)
    weight[1] *= 9
    sums = [
        cross_entropy(logits[n : n + 1], target[n : n + 1], weight[n : n + 1]) * weight[n].sum()
        for n in (0, 1)
    ]
    expected = (sums[0] + sums[1]) / weight.sum()
    assert cross_entropy(logits, target, weight).item() == pytest.approx(expected.item(), rel=1e-6)


def test_dice_leaves_out_a_class_that_the_image_does_not_have() -> None:
    target = one_hot(torch.tensor([[[0, 0, 1, 1]]]), 3)
    weight = torch.ones(1, 1, 4)
    logits = SURE * one_hot(torch.tensor([[[0, 0, 1, 2]]]), 3)
    # class 0 is right; class 1 lost one of its two pixels, to class 2, which has no term
    expected = (0 / (2 + 2 + 1) + 1 / (1 + 2 + 1)) / 2
    assert dice_loss(logits, target, weight).item() == pytest.approx(expected)


def test_border_weights_count_in_every_part_of_dice() -> None:
    target = one_hot(torch.tensor([[[1, 1, 0, 0]]]), 2)
    logits = SURE * one_hot(torch.tensor([[[1, 0, 0, 0]]]), 2)
    weight = torch.tensor([[[1.0, 5.0, 1.0, 2.0]]])
    expected = (5 / (1 + 6 + 1) + 5 / (8 + 3 + 1)) / 2
    assert dice_loss(logits, target, weight).item() == pytest.approx(expected)


@every_loss
@pytest.mark.parametrize("finer", [1, 2])
def test_batch_that_is_ignored_whole_costs_nothing(loss: Loss, finer: int) -> None:
    logits = torch.randn(2, 3, 4, 4, requires_grad=True)
    value = loss(
        logits, torch.zeros(2, 3, 4 * finer, 4 * finer), torch.zeros(2, 4 * finer, 4 * finer)
    )
    value.backward()
    assert value.item() == 0
    assert logits.grad is not None
    assert (logits.grad == 0).all()


@every_loss
def test_tiny_class_has_a_bounded_gradient(loss: Loss) -> None:
    target = torch.zeros(1, 2, 8, 8)
    target[:, 0] = 1
    target[:, :, 0, 0] = torch.tensor([254 / 255, 1 / 255])
    logits = torch.zeros(1, 2, 8, 8)
    logits[:, 0] = 12
    logits.requires_grad_()
    loss(logits, target, torch.ones(1, 8, 8)).backward()
    assert logits.grad is not None
    assert logits.grad.abs().max() < 1


@every_loss
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("autocast", [False, True])
def test_half_precision_logits_give_a_float32_loss(
    loss: Loss, dtype: torch.dtype, autocast: bool
) -> None:
    logits, target, weight = example(23)
    expected = loss(logits, target, weight)
    rounded = logits.to(dtype)
    exactly = loss(rounded.float(), target, weight)
    rounded.requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        found = loss(rounded, target, weight)
    assert found.dtype == torch.float32
    assert found.item() == pytest.approx(expected.item(), rel=1e-2)
    # nothing but the logits was rounded
    assert found.item() == pytest.approx(exactly.item(), rel=1e-5)
    found.backward()
    assert rounded.grad is not None
    assert rounded.grad.dtype == dtype


def test_many_pixels_lose_no_precision() -> None:
    logits = torch.zeros(1, 2, 1500, 1500, dtype=torch.bfloat16)
    target = one_hot(torch.ones(1, 1500, 1500, dtype=torch.int64), 2)
    weight = torch.ones(1, 1500, 1500)
    pixels = 1500 * 1500
    assert cross_entropy(logits, target, weight).item() == pytest.approx(math.log(2), rel=1e-5)
    expected = 0.5 * pixels / (1.5 * pixels + 1)
    assert dice_loss(logits, target, weight).item() == pytest.approx(expected, rel=1e-5)


def test_logits_are_enlarged_bilinearly() -> None:
    logits = torch.tensor([[0.0, 4.0], [8.0, 12.0]]).view(1, 1, 2, 2)
    # pixel centres of the finer grid lie a quarter of a pixel beside those of the coarse one
    expected = torch.tensor([[0, 1, 3, 4], [2, 3, 5, 6], [6, 7, 9, 10], [8, 9, 11, 12]])
    torch.testing.assert_close(logits_at(logits, (4, 4))[0, 0], expected.float())
    assert logits_at(logits.bfloat16(), (4, 4)).dtype == torch.float32
    torch.testing.assert_close(logits_at(logits, (2, 2)), logits)


@every_loss
@pytest.mark.parametrize("channels_last", [False, True])
def test_finer_target_is_compared_with_enlarged_logits(loss: Loss, channels_last: bool) -> None:
    logits, _, _ = example(29)
    generator = torch.Generator().manual_seed(1)
    target = torch.randn(2, 3, 10, 8, generator=generator).softmax(dim=1)
    weight = torch.rand(2, 10, 8, generator=generator)
    expected = loss(logits_at(logits, (10, 8)), target, weight)
    if channels_last:
        logits = logits.to(memory_format=torch.channels_last)
    assert loss(logits, target, weight).item() == pytest.approx(expected.item(), rel=1e-6)
    assert loss(logits, target, weight) > 0


@pytest.mark.parametrize("size", [(4, 4), (5, 6), (10, 6), (2, 2)])
def test_target_of_a_size_that_does_not_fit_is_refused(size: tuple[int, int]) -> None:
    logits = torch.zeros(1, 2, 5, 4)
    with pytest.raises(ValueError, match=f"{size[0]} x {size[1]}.*5 x 4.*whole multiple"):
        cross_entropy(logits, torch.zeros(1, 2, *size), torch.ones(1, *size))


@every_loss
@pytest.mark.parametrize(
    ("target_shape", "weight_shape"),
    [
        ((1, 3, 5, 4), (1, 5, 4)),  # another number of classes
        ((2, 2, 5, 4), (2, 5, 4)),  # another number of images
        ((1, 5, 4), (1, 5, 4)),  # class ids instead of fractions
        ((1, 2, 5, 4), (1, 1, 5, 4)),  # a weight that would be broadcast wrongly
        ((1, 2, 10, 8), (1, 5, 4)),  # a weight of the logits' size
    ],
)
def test_shapes_that_do_not_belong_together_are_refused(
    loss: Loss, target_shape: tuple[int, ...], weight_shape: tuple[int, ...]
) -> None:
    with pytest.raises(ValueError, match="must be"):
        loss(torch.zeros(1, 2, 5, 4), torch.zeros(target_shape), torch.ones(weight_shape))


def test_focal_by_hand() -> None:
    # given to class 1 with probability 0.8 and 0.3: what is missing, squared, weighs each
    logits = torch.tensor([[0.2, 0.7], [0.8, 0.3]]).log().view(1, 2, 1, 2)
    target = torch.tensor([[0.0, 0.0], [1.0, 1.0]]).view(1, 2, 1, 2)
    weight = torch.tensor([1.0, 3.0]).view(1, 1, 2)
    wanted = -(0.2**2 * math.log(0.8) + 3 * 0.7**2 * math.log(0.3)) / 4
    assert focal(logits, target, weight).item() == pytest.approx(wanted)


def test_an_outline_weighs_three_times_as_much() -> None:
    target = torch.zeros(1, 2, 40, 60)
    target[:, 0, :, :30] = 1
    target[:, 1, :, 30:] = 1
    logits, weight = torch.zeros(1, 2, 40, 60), torch.ones(1, 40, 60)
    logits.requires_grad_()
    outline(logits, target, weight).backward()
    assert logits.grad is not None
    along = logits.grad[0, 0, 20].abs()
    near, far = along[25:35], torch.cat([along[:24], along[36:]])
    assert near.min() / far.max() == pytest.approx(3, rel=0.05)


@every_loss
@pytest.mark.parametrize("cut", [(1, 3), (2, 2), (1, 1, 2)])
def test_the_parts_of_a_batch_add_up(loss: Loss, cut: tuple[int, ...]) -> None:
    logits, target, weight = example(23, batch=4)
    weight[1] *= 5
    weight[2] = 0
    wanted_logits = logits.clone().requires_grad_()
    wanted = loss(wanted_logits, target, weight)
    wanted.backward()
    logits.requires_grad_()
    total = torch.zeros(())
    start = 0
    for size in cut:
        part = slice(start, start + size)
        value = loss(logits[part], target[part], weight[part], weight)  # type: ignore[call-arg]
        value.backward()
        total, start = total + value.detach(), start + size
    assert total.item() == pytest.approx(wanted.item(), rel=1e-6)
    torch.testing.assert_close(logits.grad, wanted_logits.grad)
