import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image

from plainunet.dataset.coding import Instances, Values
from plainunet.dataset.pairs import find_pairs
from plainunet.evaluation.measure import THRESHOLDS, Seen, judged, measure
from plainunet.evaluation.metrics import (
    boundary_scores,
    confusion_matrix,
    keep_together,
    match_objects,
    number_objects,
)
from plainunet.network.checkpoint import Card
from plainunet.network.unet import UNet
from plainunet.palette import default_colors
from plainunet.prediction.predictor import Predictor

CODING = Values((0, 1, 2), 255)


def make_predictor(classes: int = 3) -> Predictor:
    torch.manual_seed(4)
    network = UNet(3, classes, base_channels=4, depth=2)
    with torch.no_grad():
        for _ in range(10):
            network(torch.rand(2, 3, 32, 48))
        std, mean = torch.std_mean(network.eval()(torch.rand(2, 3, 32, 48)), dim=(0, 2, 3))
        network.head.weight *= 2 / std[:, None, None, None]
        network.head.bias.copy_((network.head.bias - mean) * 2 / std)
    card = Card(tuple(map(str, range(classes))), default_colors(classes), size=None)
    return Predictor(network, card, device="cpu", precision="fp32")


def test_judged_goes_through_in_order_and_names_what_it_stops_at(
    draw: Callable[[Path], Path], tmp_path: Path
) -> None:
    predictor, pairs = make_predictor(), find_pairs(draw(tmp_path / "data"))
    for pair, seen in zip(pairs, judged(predictor, pairs, CODING), strict=True):
        assert (seen.image == np.asarray(Image.open(pair.image))).all()
        assert (seen.truth == np.asarray(Image.open(pair.mask))).all()
        assert (seen.prediction == predictor.predict(seen.image)).mean() > 0.99
        assert seen.probabilities.sum() == (seen.truth != 255).sum()
    deep = tmp_path / "two_channels.tif"
    tifffile.imwrite(deep, np.zeros((30, 50, 5), np.uint8), photometric="minisblack")
    odd = dataclasses.replace(pairs[0], image=deep)
    with pytest.raises(ValueError, match=r"two_channels\.tif"):
        list(judged(predictor, [pairs[1], odd, pairs[2]], CODING))


@pytest.fixture
def kept(monkeypatch: pytest.MonkeyPatch) -> list[Seen]:
    """What `measure` saw: predicted again, a pixel near a threshold may be of another class."""
    kept: list[Seen] = []

    def keep(*arguments: Any) -> Iterator[Seen]:
        for seen in judged(*arguments):
            kept.append(seen)
            yield seen

    monkeypatch.setattr("plainunet.evaluation.measure.judged", keep)
    return kept


def test_each_picture_is_measured(
    draw: Callable[[Path], Path], tmp_path: Path, kept: list[Seen]
) -> None:
    predictor, pairs = make_predictor(), find_pairs(draw(tmp_path / "data"))
    found = list(measure(predictor, pairs, CODING, objects=True))
    assert len(found) == 10
    for each, seen in zip(found, kept, strict=True):
        assert each.size == seen.truth.shape
        counts = confusion_matrix(seen.truth, seen.prediction, 3)
        np.testing.assert_array_equal(each.counts, counts)
        np.testing.assert_array_equal(each.probabilities, seen.probabilities)
        assert each.boundary is not None
        wanted = boundary_scores(seen.truth, seen.prediction, 3)
        np.testing.assert_allclose(each.boundary, wanted, rtol=1e-5)
        assert each.objects is not None
        valid = seen.truth != 255
        for number, objects in enumerate(each.objects, 1):
            truth = number_objects(seen.truth == number)
            found_now = match_objects(truth, number_objects((seen.prediction == number) & valid))
            assert objects.found.hits.tolist() == found_now.hits.tolist()
            assert len(objects.together) == 1
    quick = next(measure(predictor, pairs, CODING, boundary=False))
    assert (quick.boundary, quick.objects) == (None, None)


def test_cells_are_judged_at_each_threshold(tmp_path: Path, kept: list[Seen]) -> None:
    for kind in ("images", "masks"):
        (tmp_path / kind).mkdir()
    random = np.random.default_rng(0)
    mask = np.ones((48, 64), np.uint8)
    mask[::12], mask[:, ::16] = 0, 0
    Image.fromarray(random.integers(0, 256, (48, 64, 3), np.uint8)).save(tmp_path / "images/a.png")
    Image.fromarray(mask).save(tmp_path / "masks/a.png")
    predictor, pairs = make_predictor(2), find_pairs(tmp_path, at_least=1)
    coding = Values((0, 1))
    (each,) = measure(predictor, pairs, coding, objects=True)
    assert each.objects is not None
    (objects,) = each.objects
    assert objects.found.true == number_objects(mask == 1, corners=True).max() == 16
    (seen,) = kept
    assert seen.given is not None
    probability = predictor.probabilities(np.asarray(Image.open(pairs[0].image)))[1]
    np.testing.assert_allclose(seen.given[1], probability, atol=1e-5)
    truth = number_objects(mask == 1, corners=False)
    wanted = [
        keep_together(truth, number_objects(seen.given[1] >= t, corners=False)) for t in THRESHOLDS
    ]
    np.testing.assert_allclose(objects.together, wanted)
    assert len({together.rand for together in wanted}) > 5


def test_numbered_objects_are_those_of_the_mask(tmp_path: Path) -> None:
    """Two that touch are two."""
    for kind in ("images", "masks"):
        (tmp_path / kind).mkdir()
    mask = np.zeros((32, 48), np.uint16)
    mask[4:20, 4:12], mask[4:20, 12:20] = 300, 7
    Image.fromarray(np.zeros((32, 48, 3), np.uint8)).save(tmp_path / "images/a.png")
    Image.fromarray(mask).save(tmp_path / "masks/a.png")
    pairs = find_pairs(tmp_path, at_least=1)
    coding = Instances()
    (each,) = measure(make_predictor(2), pairs, coding, objects=True)
    assert each.objects is not None
    assert each.objects[0].found.true == 2
