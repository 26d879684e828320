"""Judging at the working size against pixels counted by hand."""

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from plainunet.dataset.coding import Values
from plainunet.dataset.pairs import Pair
from plainunet.dataset.samples import Samples
from plainunet.network.checkpoint import Card
from plainunet.network.unet import UNet
from plainunet.prediction.predictor import Predictor
from plainunet.training.validate import Journal, Pictures, has_foreground, validate


def network() -> UNet:
    torch.manual_seed(0)
    return UNet(in_channels=3, num_classes=2, base_channels=2, depth=2)


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
    coding = Values((0, 1), 200)
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
    samples = Samples(wide, Values((0, 1), 200), (16, 32))
    unet = network()
    before = copy.deepcopy(unet.state_dict())
    card = Card(("background", "thing"), ((0, 0, 0), (255, 255, 255)), (16, 32))
    predictor = Predictor(unet, card, device="cpu", precision="fp32")
    first, second = (validate(predictor, samples, (16, 32), lambda _: None) for _ in range(2))
    assert first == second
    assert all(torch.equal(value, before[name]) for name, value in unet.state_dict().items())


@pytest.mark.parametrize("size", [(16, 32), (8, 16)])
def test_validation_shows_what_it_judged(wide: list[Pair], size: tuple[int, int]) -> None:
    samples = Samples(wide, Values((0, 1), 200), (16, 32))
    seen: list[tuple[Any, ...]] = []

    class Seen(Pictures):
        def show(self, *said: Any) -> None:
            seen.append(said)

    predictor = at_size(always_one(network()), size)
    pictures = Seen(samples, predictor.card.colors)
    scores = validate(predictor, samples, size, lambda _: None, pictures=pictures)
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


def test_what_was_counted_before_is_not_counted_again(
    wide: list[Pair], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pictures that are to be shown are predicted all the same."""
    pairs = wide * 4
    samples = Samples(pairs, Values((0, 1), 200), (16, 32))
    predictor = at_size(always_one(network()), (16, 32))
    whole = validate(predictor, samples, (16, 32), lambda _: None)

    def ask_to_stop(done: int) -> None:
        if done == 5:
            raise KeyboardInterrupt

    journal = Journal(tmp_path, "0", "epoch 1")
    with pytest.raises(KeyboardInterrupt):
        validate(predictor, samples, (16, 32), ask_to_stop, journal=journal)
    journal.write()
    predicted: list[int] = []
    predict = Predictor.predict

    def counted(self: Predictor, image: np.ndarray) -> np.ndarray:
        predicted.append(1)
        return predict(self, image)

    monkeypatch.setattr(Predictor, "predict", counted)
    again = Journal(tmp_path, "0", "epoch 1")
    assert validate(predictor, samples, (16, 32), lambda _: None, journal=again) == whole
    assert len(predicted) == 3
    assert len(again.counts) == 8

    predicted.clear()
    pictures = Pictures(samples, predictor.card.colors)  # numbers 0, 2, 5 and 7
    again = Journal(tmp_path, "0", "epoch 1")
    scores = validate(
        predictor, samples, (16, 32), lambda _: None, pictures=pictures, journal=again
    )
    assert scores == whole
    assert len(predicted) == 3 + 2
    pictures.write(tmp_path / "shown")
    assert len(list((tmp_path / "shown").iterdir())) == 4


def test_whether_there_was_anything_to_find(wide: list[Pair]) -> None:
    samples = Samples(wide, Values((0, 1), 200), (16, 32))
    scores = validate(always_one(network()), samples, (16, 32), lambda done: None)
    assert has_foreground(scores, 2)
    empty = np.zeros((16, 32), np.uint8)
    for pair in wide:
        Image.fromarray(empty).save(pair.mask)
    samples = Samples(wide, Values((0, 1), 200), (16, 32))
    scores = validate(always_one(network()), samples, (16, 32), lambda done: None)
    assert scores["per_image"]["dice"]["mean_foreground"] == 0
    assert not has_foreground(scores, 2)
