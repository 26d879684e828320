from pathlib import Path
from typing import Any

import pytest
import torch

from plainunet.network.checkpoint import Card, freeze_encoder, save_checkpoint, take_weights
from plainunet.network.unet import UNet
from plainunet.palette import default_colors, default_names


def network(seed: int, channels: int = 3, classes: int = 2, **options: Any) -> UNet:
    torch.manual_seed(seed)
    return UNet(channels, classes, base_channels=2, depth=2, **options)


def saved(folder: Path, source: UNet) -> Path:
    path = folder / "source.safetensors"
    names = default_names(source.num_classes)
    save_checkpoint(path, source, Card(names, default_colors(len(names)), size=None))
    return path


def test_the_same_network_is_taken_whole(tmp_path: Path) -> None:
    source, other = network(0), network(1)
    source.set_normalisation([0.5, 0.4, 0.3], [0.2, 0.2, 0.2])
    assert take_weights(other, saved(tmp_path, source)) == []
    for name, weight in other.state_dict().items():
        same = torch.equal(weight, source.state_dict()[name])
        # the normalisation is that of the new data
        assert same == (name not in ("mean", "std")), name


def test_other_classes_get_a_fresh_head(tmp_path: Path) -> None:
    source, other = network(0), network(1, classes=5)
    head = other.head.weight.clone()
    assert take_weights(other, saved(tmp_path, source)) == ["head.weight", "head.bias"]
    assert torch.equal(other.head.weight, head)
    weights, wanted = other.state_dict(), source.state_dict()
    others = [name for name in wanted if not name.startswith(("head.", "mean", "std"))]
    assert all(torch.equal(weights[name], wanted[name]) for name in others)


@pytest.mark.parametrize(("before", "now"), [(3, 1), (1, 3), (3, 5)])
def test_other_channels_see_what_the_old_ones_saw(tmp_path: Path, before: int, now: int) -> None:
    """On a picture whose channels are all alike, the new network does what the old one did."""
    source, other = network(0, before), network(1, now)
    (averaged,) = take_weights(other, saved(tmp_path, source))
    assert averaged.startswith("inlet.")
    grey = torch.rand(1, 1, 16, 16)
    with torch.no_grad():
        logits = [
            unet.eval()(grey.expand(1, n, 16, 16)) for unet, n in ((source, before), (other, now))
        ]
    torch.testing.assert_close(logits[0], logits[1], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"normalisation": "group"}, "normalisation batch, this run's group"),
        ({"residual": True}, "residual False.* --no-residual"),
    ],
)
def test_another_shape_inside_is_refused(
    tmp_path: Path, options: dict[str, Any], said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        take_weights(network(1, **options), saved(tmp_path, network(0)))


def test_what_is_frozen_does_not_move() -> None:
    unet = network(0)
    parts = freeze_encoder(unet)
    before = {name: value.clone() for name, value in unet.state_dict().items()}
    unet.train()
    for part in parts:
        part.eval()
    weights = [weight for weight in unet.parameters() if weight.requires_grad]
    optimizer = torch.optim.SGD(weights, lr=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        unet(torch.rand(2, 3, 16, 16)).square().mean().backward()
        optimizer.step()
    for name, value in unet.state_dict().items():
        still = torch.equal(value, before[name])
        if name.startswith(("inlet.", "downs.")):
            assert still, name
        elif name.endswith("weight"):
            assert not still, name
