"""Weights of a trained network -> a fresh one, also with other classes or channels.

In: a checkpoint and a network of the same shape inside. Out: the network with those weights; and
parts of it that shall not move any more.
"""

from pathlib import Path

import torch
from torch import Tensor, nn

from plainunet.network.checkpoint import load_checkpoint
from plainunet.network.unet import UNet

OWN = ("in_channels", "num_classes", "dropout", "deep_supervision")
"""What may differ from the checkpoint's."""


def take_weights(network: UNet, path: Path) -> list[str]:
    """Start a network from a checkpoint's weights.

    The heads of other classes stay fresh. Of other input channels, the first convolution gets
    the mean over the checkpoint's channels, scaled so that its sums are as large as before;
    normalisation stays the network's own, since it is that of its data.

    Args:
        network: The network; it is changed in place.
        path: The checkpoint.

    Returns:
        Names of the weights that stayed fresh or were averaged.

    Raises:
        FileNotFoundError: There is no such checkpoint.
        ValueError: It is none, or its network has another shape inside.
    """
    source, _ = load_checkpoint(path)
    for name, own in network.architecture.items():
        other = source.architecture[name]
        if name not in OWN and other != own:
            flag = name.replace("_", "-")
            same = f"--{flag} {other}"
            if isinstance(other, bool):
                same = f"--{flag}" if other else f"--no-{flag}"
            raise ValueError(
                f"{path}: its network has {name.replace('_', ' ')} {other}, this run's {own}. "
                f"Give the same: {same}."
            )
    there = source.state_dict()
    same_classes = source.num_classes == network.num_classes
    fresh = []
    with torch.no_grad():
        for name, weight in network.state_dict().items():
            if name in ("mean", "std"):
                continue
            given = there.get(name)
            is_head = name.startswith(("head.", "side_heads."))
            if given is None or (is_head and not same_classes):
                fresh.append(name)
            elif given.shape == weight.shape:
                weight.copy_(given)
            else:
                weight.copy_(_averaged(given, weight.shape[1]))
                fresh.append(name)
    return fresh


def _averaged(weight: Tensor, channels: int) -> Tensor:
    """A first convolution's weight [out, in, h, w] for another number of channels."""
    mean = weight.mean(dim=1, keepdim=True)
    return mean.expand(-1, channels, -1, -1) * (weight.shape[1] / channels)


def freeze_encoder(network: UNet) -> list[nn.Module]:
    """Keep the contracting path as it is.

    Args:
        network: The network.

    Returns:
        Its parts that must stay in eval mode, so that running statistics stay, too.
    """
    parts: list[nn.Module] = [network.inlet, network.downs]
    for part in parts:
        part.requires_grad_(False)
    return parts
