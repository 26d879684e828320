"""One epoch against steps made by hand, and what becomes of steps that cannot be made."""

import re
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.optim import SGD

from plainunet.network.losses import cross_entropy
from plainunet.network.unet import UNet
from plainunet.training.optim import WeightAverage
from plainunet.training.state import TrainingState
from plainunet.training.step import Step
from plainunet.training.trainer import FAULTS, train_epoch

CPU = torch.device("cpu")
Batch = tuple[Tensor, Tensor]


def network(seed: int = 0) -> UNet:
    torch.manual_seed(seed)
    return UNet(in_channels=3, num_classes=2, base_channels=2, depth=2)


def batch(pictures: int, seed: int) -> Batch:
    """Noise [n, 8, 12, 3] uint8 and hard shares [n, 8, 12, 2] uint8."""
    random = np.random.default_rng(seed)
    images = random.integers(0, 256, (pictures, 8, 12, 3), dtype=np.uint8)
    mask = random.random((pictures, 8, 12)) < 0.3
    shares = np.stack([~mask, mask], axis=-1).astype(np.uint8) * 255
    return torch.from_numpy(images), torch.from_numpy(shares)


def run(
    unet: UNet, batches: list[Batch] | Iterator[Batch], rate: float = 0.1, **other: Any
) -> tuple[float, list[tuple[int, float, int]]]:
    """One epoch; its mean loss, and what is told of each step."""
    steps: list[tuple[int, float, int]] = []
    state = TrainingState(unet, other.pop("optimizers", [SGD(unet.parameters(), lr=99.0)]), None)
    state.step = other.pop("first_step", 0)
    told = {name: other.pop(name) for name in ("on_note", "files") if name in other}
    rate_at = other.pop("rate_at", lambda step: rate)
    settings = {"device": CPU, "precision": torch.float32, **other}
    step = Step(unet, cross_entropy, state.optimizers, **settings)
    train_epoch(step, batches, state, rate_at, on_step=lambda *said: steps.append(said), **told)
    assert state.batch == len(steps)
    return state.loss_sum / state.images, steps


def step_by_hand(unet: UNet, images: Tensor, shares: Tensor, rate: float) -> float:
    image = images.numpy().transpose(0, 3, 1, 2).astype(np.float32) / 255
    loss = F.cross_entropy(unet.train()(torch.from_numpy(image)), shares.argmax(dim=3))
    unet.zero_grad()
    loss.backward()
    with torch.no_grad():
        for weight in unet.parameters():
            weight -= rate * weight.grad
    return loss.item()


def test_an_epoch_is_the_steps_made_by_hand() -> None:
    unet, other = network(), network()
    batches = [batch(3, seed=1), batch(3, seed=2)]
    mean, steps = run(unet, batches, rate=0.1, first_step=5)
    losses = [step_by_hand(other, *each, rate=0.1) for each in batches]
    assert steps == [
        (5, pytest.approx(losses[0], rel=1e-5), 3),
        (6, pytest.approx(losses[1], rel=1e-5), 3),
    ]
    assert mean == pytest.approx(sum(losses) / 2, rel=1e-5)
    for (name, value), expected in zip(
        unet.state_dict().items(), other.state_dict().values(), strict=True
    ):
        torch.testing.assert_close(value, expected, rtol=1e-4, atol=1e-6, msg=name)
    assert unet.training


def test_the_rate_of_each_step_reaches_every_optimiser() -> None:
    unet = network()
    weights = list(unet.parameters())
    seen: list[float] = []

    def rate_at(step: int) -> float:
        return 0.01 * (step + 1)

    class Watched(SGD):
        def step(self, closure: Any = None) -> None:
            seen.append(self.param_groups[0]["lr"])

    optimizers = [Watched(weights[:3], lr=1.0), Watched(weights[3:], lr=2.0)]
    batches = [batch(2, seed=1), batch(2, seed=2)]
    run(unet, batches, optimizers=optimizers, rate_at=rate_at, first_step=7)
    assert seen == [0.08, 0.08, 0.09, 0.09]


def test_the_mean_loss_weights_images_not_batches() -> None:
    mean, steps = run(network(), [batch(5, seed=1), batch(1, seed=2)], rate=0.0)
    (_, large, _), (_, small, _) = steps
    assert mean == pytest.approx((5 * large + small) / 6)
    assert mean != pytest.approx((large + small) / 2)


def alike(unet: UNet, other: UNet) -> bool:
    pairs = zip(unet.state_dict().values(), other.state_dict().values(), strict=True)
    return all(torch.equal(value, expected) for value, expected in pairs)


def spoilt(pictures: int, seed: int) -> Batch:
    """A batch with a value that is not a number."""
    images, shares = batch(pictures, seed)
    images = images.float() / 255
    images[0, 0, 0, 0] = float("nan")
    return images, shares


def test_a_step_whose_loss_is_not_finite_is_left_out() -> None:
    """It leaves nothing behind: weights, running statistics, average, the optimiser's memory."""
    ends, notes = [], []
    for with_bad in (True, False):
        unet = network()
        average = WeightAverage(unet, decay=0.9)
        optimizers = [SGD(unet.parameters(), lr=99.0, momentum=0.9)]
        batches = [batch(2, seed=1), *([spoilt(2, seed=9)] if with_bad else []), batch(2, seed=2)]
        steps = iter([0, 1, 2] if with_bad else [0, 2])
        state = TrainingState(unet, optimizers, average)
        step = Step(
            unet, cross_entropy, optimizers, device=CPU, precision=torch.float32, average=average
        )
        for each in batches:
            state.step, state.batch = next(steps), 0
            train_epoch(
                step,
                [each],
                state,
                lambda step: 0.1,
                files=lambda batch: ["a.jpg", "b.jpg"],
                on_note=notes.append,
                on_step=lambda *said: None,
            )
        ends.append([*unet.state_dict().values(), *average.network.state_dict().values()])
        assert (state.skipped, state.in_a_row) == (int(with_bad), 0)
        assert state.images == 4
    assert all(torch.equal(a, b) for a, b in zip(*ends, strict=True))
    assert len(notes) == 1
    assert "step 2: the loss was nan" in notes[0]
    assert "a.jpg, b.jpg" in notes[0]


def test_a_gradient_that_is_not_finite_is_not_followed() -> None:
    """The loss is finite: only the way back fails."""

    class Breaking(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, value: Tensor) -> Tensor:
            return value.clone()

        @staticmethod
        def backward(ctx: Any, gradient: Tensor) -> Tensor:
            return gradient * float("inf")

    unet, other = network(), network()
    unet.head.register_forward_hook(lambda module, args, out: Breaking.apply(out))
    notes: list[str] = []
    state = TrainingState(unet, [SGD(unet.parameters(), lr=99.0)], None)
    step = Step(unet, cross_entropy, state.optimizers, device=CPU, precision=torch.float32)
    train_epoch(
        step, [batch(2, seed=1)], state, lambda step: 0.1, on_note=notes.append,
        on_step=lambda *said: None,
    )  # fmt: skip
    assert re.search(r"the loss was 0\.\d+, its gradient not finite", notes[0])
    for value, expected in zip(
        unet.state_dict().values(), other.state_dict().values(), strict=True
    ):
        assert torch.equal(value, expected)


def test_training_ends_after_several_such_steps_in_a_row() -> None:
    good = [batch(2, seed=1)]
    bad = [spoilt(2, seed=number) for number in range(FAULTS)]
    notes: list[str] = []
    run(network(), [*bad[1:], *good, *bad[1:], *good], on_note=notes.append)
    assert len(notes) == 2 * (FAULTS - 1)
    unet, other = network(), network()
    run(other, good)
    message = rf"step {FAULTS + 1}: .* in {FAULTS} steps in a row.*--learning-rate.*batch: 5\.png"
    with pytest.raises(FloatingPointError, match=message):
        run(unet, [*good, *bad, *good], files=lambda number: [f"{number}.png"])
    for value, expected in zip(
        unet.state_dict().values(), other.state_dict().values(), strict=True
    ):
        assert torch.equal(value, expected)


def test_the_average_takes_in_every_step() -> None:
    unet, other = network(), network()
    batches = [batch(2, seed=1), batch(2, seed=2), batch(2, seed=3)]
    average, expected = WeightAverage(unet, 0.5), WeightAverage(other, 0.5)
    run(unet, batches, average=average, first_step=4)
    for step, each in enumerate(batches, start=4):
        run(other, [each], first_step=step)
        expected.update(other, step)
    for value, wanted in zip(
        average.network.state_dict().values(), expected.network.state_dict().values(), strict=True
    ):
        torch.testing.assert_close(value, wanted)


def test_bf16_trains_in_fp32_weights() -> None:
    unet = network()
    mean, _ = run(unet, [batch(2, seed=1)], precision=torch.bfloat16)
    exact, _ = run(network(), [batch(2, seed=1)])
    assert mean == pytest.approx(exact, rel=0.05)
    assert mean != exact
    assert {weight.dtype for weight in unet.parameters()} == {torch.float32}


@pytest.mark.parametrize("accumulation", [2, 3, 6, 99])
def test_parts_of_a_batch_step_like_the_whole(accumulation: int) -> None:
    """Without batch normalisation; pictures with void weigh as they do in the whole batch."""
    images, shares = batch(6, seed=3)
    shares[1, :5] = 0
    shares[4] = 0
    ends = []
    for parts in (1, accumulation):
        torch.manual_seed(0)
        unet = UNet(3, 2, base_channels=2, depth=2, normalisation="group").double()
        optimizers = [SGD(unet.parameters(), lr=99.0)]
        # in float64, so that only a wrong denominator could be seen
        mean, steps = run(
            unet, [(images.double() / 255, shares)] * 2, optimizers=optimizers,
            accumulation=parts,
        )  # fmt: skip
        ends.append((mean, steps, {k: v.clone() for k, v in unet.state_dict().items()}))
    assert ends[1][0] == pytest.approx(ends[0][0], rel=1e-6)
    for name, weight in ends[0][2].items():
        torch.testing.assert_close(ends[1][2][name], weight, rtol=1e-6, atol=1e-8)


def test_long_gradients_are_shortened() -> None:
    unet, other = network(), network()
    given = batch(2, seed=1)
    run(unet, [given], rate=1.0, clip=1e-3)
    moved = sum(
        float((a - b).detach().square().sum())
        for a, b in zip(unet.parameters(), other.parameters(), strict=True)
    )
    assert moved**0.5 == pytest.approx(1e-3, rel=1e-3)
