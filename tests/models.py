"""Small models that are not trained, but predict each class somewhere."""

import copy
from functools import cache
from typing import Any

import torch

from plainunet.network.card import Card
from plainunet.network.unet import UNet
from plainunet.palette import default_colors
from plainunet.prediction.predictor import Predictor

SMALL: dict[str, Any] = {
    **{"base_channels": 4, "depth": 2, "optimizer": "muon", "workers": 0},
    **{"device": "cpu", "precision": "fp32"},
}
"""Settings of a training that takes seconds."""


def make_network(classes: int = 3, seed: int = 0, channels: int = 3, **options: Any) -> UNet:
    """Make a network of random weights in evaluation mode, scaled so that each class occurs."""
    return copy.deepcopy(_make_network(classes, seed, channels, **options))


@cache
def _make_network(classes: int, seed: int, channels: int, **options: Any) -> UNet:
    torch.manual_seed(seed)
    network = UNet(channels, classes, **{"base_channels": 4, "depth": 2, **options})
    network.set_normalisation([0.5] * channels, [0.3] * channels)
    with torch.no_grad():
        for _ in range(10):
            network(torch.rand(2, channels, 48, 64))
        logits = network.eval()(torch.rand(2, channels, 48, 64))
        std, mean = torch.std_mean(logits, dim=(0, 2, 3))
        network.head.weight *= 2 / std[:, None, None, None]
        network.head.bias.copy_((network.head.bias - mean) * 2 / std)
    return network


def make_card(classes: int = 3, **settings: Any) -> Card:
    """Make the card of a model whose classes are called "0", "1" and so on."""
    names = tuple(map(str, range(classes)))
    return Card(names, default_colors(classes), **{"size": None, **settings})


def as_predictor(network: UNet, card: Card | None = None, **settings: Any) -> Predictor:
    """Predict on the CPU in fp32, whatever the machine has."""
    return Predictor(network, card, device="cpu", **{"precision": "fp32", **settings})


def make_predictor(classes: int = 3, **settings: Any) -> Predictor:
    """Make a predictor from images of three channels; `settings` are those of its card."""
    return as_predictor(make_network(classes), make_card(classes, **settings))
