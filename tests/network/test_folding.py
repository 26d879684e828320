import copy

import pytest
import torch
from torch import nn

from plainunet.network.folding import fold_batch_normalisation
from plainunet.network.unet import UNet


def settled(**options: object) -> UNet:
    """A network whose normalisations have seen something, and weigh it."""
    torch.manual_seed(0)
    network = UNet(3, 3, base_channels=4, depth=2, **options)
    for part in network.modules():
        if isinstance(part, nn.BatchNorm2d):
            nn.init.uniform_(part.weight, 0.5, 2)
            nn.init.normal_(part.bias)
    for _ in range(3):
        network(torch.rand(4, 3, 64, 64))
    return network.eval()


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"residual": True},
        {"attention": True, "upsampling": "bilinear"},
        {"deep_supervision": True, "dropout": 0.5},
        {"valid": True},
        {"checkpointing": True},
    ],
)
def test_logits_stay_what_they_were(options: dict[str, object]) -> None:
    network = settled(**options)
    folded = copy.deepcopy(network)
    fold_batch_normalisation(folded)
    assert not any(isinstance(part, nn.BatchNorm2d) for part in folded.modules())
    images = torch.rand(2, 3, *network.input_size(40, 56))
    with torch.no_grad():
        wanted, got = network(images), folded(images)
    assert wanted.std() > 0.1
    assert torch.allclose(got, wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("normalisation", ["group", "instance", "none"])
def test_other_networks_are_left_alone(normalisation: str) -> None:
    network = settled(normalisation=normalisation)
    images = torch.rand(1, 3, 32, 32)
    with torch.no_grad():
        before = network(images)
        fold_batch_normalisation(network)
        assert torch.equal(network(images), before)
