"""The graph's modules, run by PyTorch, compute what the Predictor does."""

from typing import Any

import numpy as np
import pytest
import torch

from plainunet.deployment.graph import Pipeline, PrepareTile, RestoreTile, area_weights, positions
from plainunet.network.unet import UNet

from ..models import as_predictor, make_card, make_network
from .conftest import ODD, draw_images, folded

POLICIES: dict[str, dict[str, Any]] = {
    "fit": {"size": (48, 64)},
    "factor": {"size": None, "factor": 0.3},
    "half": {"size": None, "factor": 0.5},
    "native": {"size": None},
}
NETWORKS: dict[str, dict[str, Any]] = {
    "plain": {},
    "group": {"normalisation": "group"},
    "valid": {"valid": True, "normalisation": "none"},
    "shallow": {"depth": 1},
    "three": {"classes": 3},
    "grey": {"channels": 1},
    "five": {"channels": 5},
}


def compare(
    network: UNet, shape: tuple[int, int], policy: dict[str, Any], dtype: str = "uint8"
) -> None:
    card = make_card(network.num_classes, **policy)
    images = draw_images(*shape, network.in_channels, dtype)
    with torch.inference_mode():
        probabilities, masks = Pipeline(network, card)(torch.from_numpy(images))
    assert probabilities.dtype == torch.float32
    assert masks.dtype == torch.uint8
    predictor = as_predictor(network, card)
    for image, found, mask in zip(images, probabilities.numpy(), masks.numpy(), strict=True):
        expected = predictor.probabilities(image)
        assert found.shape == expected.shape
        # averages of bytes may be rounded to the neighbouring byte in a pixel
        limit = 0.03 if dtype == "uint8" and policy.get("factor") != 0.5 else 1e-4
        np.testing.assert_allclose(found, expected, atol=limit)
        assert np.abs(found - expected).mean() < 1e-3
        assert (mask != predictor.predict(image)).mean() < 1e-3


@pytest.mark.parametrize("size", ODD)
@pytest.mark.parametrize("policy", POLICIES)
def test_every_scale_policy(policy: str, size: tuple[int, int]) -> None:
    compare(folded(make_network(2)), size, POLICIES[policy])


@pytest.mark.parametrize("kind", NETWORKS)
@pytest.mark.parametrize("policy", ["fit", "factor", "native"])
def test_every_kind_of_network(policy: str, kind: str) -> None:
    network = folded(make_network(**{"classes": 2, **NETWORKS[kind]}))
    for size in ((101, 133), (12, 20)):
        compare(network, size, POLICIES[policy])


@pytest.mark.parametrize("dtype", ["uint16", "float32"])
@pytest.mark.parametrize("policy", POLICIES)
def test_other_dtypes(policy: str, dtype: str) -> None:
    compare(folded(make_network(2)), (101, 133), POLICIES[policy], dtype)


@pytest.mark.parametrize("threshold", [0.0, 0.2, 0.8, 1.0])
def test_the_threshold_is_inside(threshold: float) -> None:
    policy = {"size": (48, 64), "threshold": threshold}
    compare(folded(make_network(2)), (101, 133), policy)


@pytest.mark.parametrize("factor", [0.1, 0.25, 0.7, 0.99])
def test_sizes_are_rounded_as_in_python(factor: float) -> None:
    network = folded(make_network(2))
    scale = Pipeline(network, make_card(2, size=None, factor=factor)).prepare.scale
    for side in range(1, 200):
        height, _ = scale.reduced((torch.tensor(side), torch.tensor(7)))
        assert int(height) == max(1, round(side * factor))


def test_weights_of_areas_sum_to_one_and_are_exact() -> None:
    weights = area_weights(torch.tensor([0, 1, 2, 2]), torch.tensor(3), 10)
    third = 10 / 3
    assert weights[0, :4].tolist() == pytest.approx([0.3, 0.3, 0.3, (third - 3) * 0.3])
    assert weights.sum(1).tolist() == pytest.approx([1, 1, 1, 1])
    assert weights[2].equal(weights[3])  # repeated beyond the image
    assert area_weights(torch.arange(5), torch.tensor(5), 5).equal(torch.eye(5))


def test_positions_are_those_of_bilinear_interpolation() -> None:
    values = torch.rand(1, 1, 7, 1)
    above, below, fraction = positions(torch.tensor(7), 23)
    rows = values[0, 0, :, 0]
    found = rows[above] + (rows[below] - rows[above]) * fraction
    expected = torch.nn.functional.interpolate(
        values, size=(23, 1), mode="bilinear", align_corners=False
    )
    torch.testing.assert_close(found, expected[0, 0, :, 0])


@pytest.mark.parametrize("threshold", [0.2, 0.5, 0.9])
def test_the_most_probable_class_of_a_tile_follows_the_threshold(threshold: float) -> None:
    network = folded(make_network(2))
    card = make_card(2, size=(48, 64), threshold=threshold)
    pipeline = Pipeline(network, card)
    tile = draw_images(64, 64, dtype="float32", count=1)
    channels_first = torch.from_numpy(tile.transpose(0, 3, 1, 2).copy())
    with torch.inference_mode():
        logits = network(PrepareTile(pipeline.prepare)(channels_first))
        probabilities = RestoreTile(pipeline.restore)(logits, channels_first)
    assert probabilities.shape == (1, 2, 64, 64)
    expected = as_predictor(network, card).predict(tile[0])
    assert (probabilities.argmax(1)[0].numpy() != expected).mean() < 1e-3
