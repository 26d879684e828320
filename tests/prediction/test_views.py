from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import Tensor

from plainunet.network.checkpoint import Card
from plainunet.network.unet import UNet
from plainunet.palette import default_colors
from plainunet.prediction.predictor import Predictor
from plainunet.prediction.views import TTA, in_step, log_mean, turn, turn_back


def network(classes: int = 3, seed: int = 0, **options: object) -> UNet:
    torch.manual_seed(seed)
    made = UNet(num_classes=classes, base_channels=4, depth=2, **options)
    with torch.no_grad():
        for _ in range(10):
            made(torch.rand(2, 3, 48, 64))
        std, mean = torch.std_mean(made.eval()(torch.rand(2, 3, 48, 64)), dim=(0, 2, 3))
        made.head.weight *= 2 / std[:, None, None, None]  # so that every class occurs
        made.head.bias.copy_((made.head.bias - mean) * 2 / std)
    return made.eval()


def card(classes: int = 3, **said: object) -> Card:
    names = tuple(map(str, range(classes)))
    return Card(names, default_colors(classes), **{"size": None, **said})


def predictor(classes: int = 3, **said: object) -> Predictor:
    return Predictor(network(classes), card(classes, **said), device="cpu", precision="fp32")


IMAGE = np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)


@pytest.mark.parametrize("how", TTA["turns"])
def test_a_turn_is_undone(how: tuple[int, bool]) -> None:
    batch = torch.rand(2, 3, 5, 8)
    assert torch.equal(turn_back(turn(batch, how), how), batch)


def test_the_turns_are_all_of_a_square() -> None:
    square = torch.arange(9.0).reshape(1, 1, 3, 3)
    for name, count in (("none", 1), ("mirror", 2), ("flips", 4), ("turns", 8)):
        seen = {tuple(turn(square, how).flatten().tolist()) for how in TTA[name]}
        assert len(seen) == len(TTA[name]) == count
    assert torch.equal(turn(square, TTA["mirror"][1]), square.flip(3))
    flips = {tuple(turn(square, how).flatten().tolist()) for how in TTA["flips"]}
    assert tuple(square.flip(2).flatten().tolist()) in flips


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("tta", ["mirror", "flips", "turns"])
def test_probabilities_are_the_mean_over_turned_pictures(tta: str, classes: int) -> None:
    plain = predictor(classes)
    wanted = np.zeros((classes, 48, 64))
    for quarters, flip in TTA[tta]:
        seen = np.rot90(IMAGE[:, ::-1] if flip else IMAGE, quarters)
        back = np.rot90(plain.probabilities(seen), -quarters, (1, 2))
        wanted += (back[..., ::-1] if flip else back) / len(TTA[tta])
    got = predictor(classes, tta=tta)
    assert np.allclose(got.probabilities(IMAGE), wanted, atol=1e-5)
    assert np.abs(plain.probabilities(IMAGE) - wanted).max() > 0.01
    assert (got.predict(IMAGE) == wanted.argmax(axis=0)).mean() > 0.999


def test_valid_convolutions_are_turned_as_well() -> None:
    network_ = network(valid=True)
    plain = Predictor(network_, card(), device="cpu", precision="fp32")
    mean = Predictor(network_, card(tta="mirror"), device="cpu", precision="fp32")
    mirrored = plain.probabilities(IMAGE[:, ::-1])[..., ::-1]
    wanted = (plain.probabilities(IMAGE) + mirrored) / 2
    assert np.allclose(mean.probabilities(IMAGE), wanted, atol=1e-5)


@pytest.mark.parametrize("classes", [2, 3])
def test_scales(classes: int) -> None:
    small, large = (predictor(classes, size=size) for size in ((24, 32), (48, 64)))
    both = predictor(classes, size=(48, 64), scales=(0.5, 1.0))
    wanted = (small.probabilities(IMAGE) + large.probabilities(IMAGE)) / 2
    assert np.allclose(both.probabilities(IMAGE), wanted, atol=1e-5)
    larger = predictor(classes, scales=(2.0,)).probabilities(IMAGE)
    assert larger.shape == (classes, 48, 64)
    assert np.abs(larger - large.probabilities(IMAGE)).max() > 0.01


@pytest.mark.parametrize("classes", [2, 3])
def test_an_ensemble_is_the_mean_of_its_members(classes: int) -> None:
    members = [
        (network(classes, seed), card(classes, size=size))
        for seed, size in ((0, None), (1, (24, 32)), (2, (40, 56)))
    ]
    alone = [Predictor(*member, device="cpu", precision="fp32") for member in members]
    wanted = np.mean([each.probabilities(IMAGE) for each in alone], axis=0)
    together = Predictor(*members[0], others=members[1:], device="cpu", precision="fp32")
    assert np.allclose(together.probabilities(IMAGE), wanted, atol=1e-5)
    assert (together.predict(IMAGE) == wanted.argmax(axis=0)).mean() > 0.999
    assert (alone[0].predict(IMAGE) != wanted.argmax(axis=0)).mean() > 0.01


@pytest.mark.parametrize("classes", [1, 2, 4])
def test_log_mean(classes: int) -> None:
    several = [3 * torch.randn(classes, 5, 7) for _ in range(3)]

    def probabilities(logits: Tensor) -> Tensor:
        return logits.sigmoid() if classes == 1 else logits.softmax(0)

    wanted = sum(probabilities(logits) for logits in several) / 3
    assert torch.allclose(probabilities(log_mean(several, 0)), wanted, atol=1e-6)
    assert log_mean(several[:1], 0) is several[0]


def test_log_mean_of_what_is_certain() -> None:
    """Where probabilities are 0 and 1 in float32, the mean still is a number."""
    sure = torch.tensor([[[500.0]]]), torch.tensor([[[-500.0]]])
    assert log_mean(sure, 0).abs() < 1e-3
    assert log_mean([sure[0], sure[0]], 0) > 400


def test_in_step() -> None:
    whole = torch.rand(2, 10, 3)
    cuts = [(0, 10), (0, 3, 4, 10), (0, 1, 9, 10)]
    streams = [iter([whole[:, a:b] for a, b in pairwise(cut)]) for cut in cuts]
    bands = list(in_step(streams))
    assert len(bands) == 5
    for number in range(3):
        assert torch.equal(torch.cat([band[number] for band in bands], dim=1), whole)
