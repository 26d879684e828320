"""One epoch against steps made by hand; validation against pixels counted by hand."""

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F
from torch.optim import SGD

from plainunet.data.dataset import Samples
from plainunet.data.masks import MaskCoding
from plainunet.data.pairing import Pair
from plainunet.network.checkpoint import Card
from plainunet.network.losses import cross_entropy
from plainunet.network.unet import UNet
from plainunet.prediction.predictor import Predictor
from plainunet.training.loop import train_epoch, validate
from plainunet.training.optim import WeightAverage

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
    steps: list[tuple[int, float, int]] = []
    settings: dict[str, Any] = {
        "first_step": 0,
        "device": CPU,
        "precision": torch.float32,
        "average": None,
        **other,
    }
    optimizers = settings.pop("optimizers", [SGD(unet.parameters(), lr=99.0)])
    mean = train_epoch(
        unet,
        batches,
        cross_entropy,
        optimizers,
        lambda step: rate,
        on_step=lambda *said: steps.append(said),
        **settings,
    )
    return mean, steps


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
    optimizers = [SGD(weights[:3], lr=1.0), SGD(weights[3:], lr=2.0)]
    seen = []

    def rate_at(step: int) -> float:
        return 0.01 * (step + 1)

    train_epoch(
        unet,
        [batch(2, seed=1), batch(2, seed=2)],
        cross_entropy,
        optimizers,
        rate_at,
        first_step=7,
        device=CPU,
        precision=torch.float32,
        average=None,
        on_step=lambda *_: seen.append([o.param_groups[0]["lr"] for o in optimizers]),
    )
    assert seen == [[0.08, 0.08], [0.09, 0.09]]


def test_the_mean_loss_weights_images_not_batches() -> None:
    mean, steps = run(network(), [batch(5, seed=1), batch(1, seed=2)], rate=0.0)
    (_, large, _), (_, small, _) = steps
    assert mean == pytest.approx((5 * large + small) / 6)
    assert mean != pytest.approx((large + small) / 2)


def test_a_loss_that_is_not_finite_stops_before_the_weights_move() -> None:
    unet, other = network(), network()
    good, (images, shares) = batch(2, seed=1), batch(2, seed=2)
    bad = images.float() / 255
    bad[0, 0, 0, 0] = float("nan")
    average = WeightAverage(unet, decay=0.9)
    with pytest.raises(FloatingPointError, match=r"nan in step 1\..*--learning-rate"):
        run(unet, [good, (bad, shares)], rate=0.1, average=average)
    run(other, [good], rate=0.1)
    for weight, expected in zip(unet.parameters(), other.parameters(), strict=True):
        assert torch.equal(weight, expected)
    assert all(value.isfinite().all() for value in average.network.state_dict().values())


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


def always_one(unet: UNet) -> Predictor:
    """A predictor that says class 1 everywhere."""
    with torch.no_grad():
        unet.head.weight.zero_()
        unet.head.bias.copy_(torch.tensor([0.0, 1.0]))
    card = Card(("background", "thing"), ((0, 0, 0), (255, 255, 255)), size=None)
    return Predictor(unet, card, device="cpu", precision="fp32")


def at_size(predictor: Predictor, size: tuple[int, int]) -> Predictor:
    card = Card(predictor.card.class_names, predictor.card.colors, size)
    return Predictor(predictor.network, card, device="cpu", precision="fp32")


@pytest.fixture
def wide(tmp_path: Path) -> list[Pair]:
    """Two pictures [16, 32]: their left quarter, and a half, is class 1; void in the first."""
    pairs = []
    for number, columns in enumerate((8, 16)):
        mask = np.zeros((16, 32), np.uint8)
        mask[:, :columns] = 1
        if number == 0:
            mask[:, 24:] = 200
        paths = tmp_path / f"{number}.png", tmp_path / f"{number}_mask.png"
        Image.fromarray(np.full((16, 32, 3), 90, np.uint8)).save(paths[0])
        Image.fromarray(mask).save(paths[1])
        pairs.append(Pair(*paths, str(number), "val"))
    return pairs


@pytest.mark.parametrize(("size", "share"), [((32, 32), 1), ((16, 16), 4)])
@pytest.mark.parametrize("target_scale", [1, 2])
def test_validation_counts_at_the_working_size_without_padding_and_void(
    wide: list[Pair], size: tuple[int, int], share: int, target_scale: int
) -> None:
    coding = MaskCoding((0, 1), 200, "ids")
    samples = Samples(wide, coding, (32, 32), 3, target_scale)
    unet = network().train()
    done: list[int] = []
    scores = validate(at_size(always_one(unet), size), samples, size, done.append)
    assert done == [1, 2]
    assert unet.training
    # of 16 x 32 pixels, the first has 16 x 8 void; the box's lower half is padding
    true = [16 * 8 / share, 16 * 16 / share]
    counted = [16 * 24 / share, 16 * 32 / share]
    assert scores["pooled"]["accuracy"] == pytest.approx(sum(true) / sum(counted))
    assert scores["pooled"]["dice"]["per_class"]["thing"] == pytest.approx(
        2 * sum(true) / (sum(counted) + sum(true))
    )
    each = [2 * t / (c + t) for t, c in zip(true, counted, strict=True)]
    assert scores["per_image"]["dice"]["mean_foreground"] == pytest.approx(sum(each) / 2)
    assert f"{size[0]} x {size[1]}" in scores["protocol"]
    assert "native" in scores["protocol"]


def test_validation_gives_the_same_scores_twice_and_moves_nothing(wide: list[Pair]) -> None:
    samples = Samples(wide, MaskCoding((0, 1), 200, "ids"), (16, 32))
    unet = network()
    before = copy.deepcopy(unet.state_dict())
    card = Card(("background", "thing"), ((0, 0, 0), (255, 255, 255)), (16, 32))
    predictor = Predictor(unet, card, device="cpu", precision="fp32")
    first, second = (validate(predictor, samples, (16, 32), lambda _: None) for _ in range(2))
    assert first == second
    assert all(torch.equal(value, before[name]) for name, value in unet.state_dict().items())


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


@pytest.mark.parametrize("size", [(16, 32), (8, 16)])
def test_validation_shows_what_it_judged(wide: list[Pair], size: tuple[int, int]) -> None:
    samples = Samples(wide, MaskCoding((0, 1), 200, "ids"), (16, 32))
    seen: list[tuple[Any, ...]] = []
    predictor = at_size(always_one(network()), size)
    scores = validate(
        predictor, samples, size, lambda _: None, on_picture=lambda *said: seen.append(said)
    )
    assert [index for index, *_ in seen] == [0, 1]
    assert [image.shape for _, image, _, _ in seen] == [(*size, 3)] * 2
    truths = [truth for _, _, truth, _ in seen]
    assert (truths[0][:, -size[1] // 4 :] == 255).all()
    assert [int((truth == 1).sum()) * 4 for truth in truths] == [
        size[0] * size[1],
        2 * size[0] * size[1],
    ]
    assert all((prediction == 1).all() for *_, prediction in seen)
    assert scores == validate(predictor, samples, size, lambda _: None)
