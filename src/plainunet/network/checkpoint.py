"""A network in one `.safetensors` file that describes itself; fine-tuning from one.

The file holds the weights and, as JSON in its metadata, the network's architecture and a `Card`.
"""

import dataclasses
import json
import platform
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from plainunet import __version__
from plainunet.files import write_whole
from plainunet.network.unet import UNet

FORMAT = 1
_KEY = "plainunet"


class CheckpointError(ValueError):
    """A file is not a checkpoint of this project, or not one that this version reads."""


@dataclass(frozen=True)
class Card:
    """What a checkpoint says of itself, beside the weights."""

    class_names: tuple[str, ...]
    """Names in the order of the class ids, background included."""
    colors: tuple[tuple[int, int, int], ...]
    """RGB of each class, 0..255, used in mask files."""
    size: tuple[int, int] | None
    """Scale policy: height and width that images are reduced to fit in, or None where they
    are all reduced by `factor`."""
    threshold: float = 0.5
    """With two classes, the probability of class 1 from which a pixel is class 1."""
    masks: dict[str, Any] = field(default_factory=dict)
    """How mask values became class ids: `values`, `ignore`, `kind`, perhaps `colors`."""
    training: dict[str, Any] = field(default_factory=dict)
    """Settings, data digest and image sizes of the training run."""
    scores: dict[str, Any] = field(default_factory=dict)
    """Scores on the validation split, with their protocol."""
    factor: float = 1.0
    """Without a size: what the sides of images are multiplied by."""
    tta: str = "none"
    """Test-time augmentation, whose probabilities are averaged: "none", "mirror" (images also
    mirrored left to right), "flips" (and top to bottom) or "turns" (and all by quarter turns)."""
    scales: tuple[float, ...] = (1.0,)
    """Factors on the size that the network sees; the probabilities are averaged."""
    min_object: int = 0
    """Connected regions of a class with fewer pixels become background."""
    fill_holes: int = 0
    """Holes of up to so many pixels are filled."""
    versions: dict[str, str] = field(default_factory=dict)
    """Versions of the software that wrote it."""


def save_checkpoint(path: Path, network: UNet, card: Card) -> None:
    """Write network and description as one file, which appears whole or not at all."""
    architecture = network.architecture
    metadata = {"format": FORMAT, "architecture": architecture, **dataclasses.asdict(card)}
    tensors = {name: value.cpu().contiguous() for name, value in network.state_dict().items()}
    with write_whole(path) as file:
        save_file(tensors, file, metadata={_KEY: json.dumps(metadata)})


def load_checkpoint(path: Path) -> tuple[UNet, Card]:
    """Read what `save_checkpoint` wrote: the network in eval mode on the CPU, and its description.

    Raises:
        FileNotFoundError: There is no such file.
        CheckpointError: It is not a checkpoint of this project, is damaged, was written by a
            newer version, or refines the masks of another one.
    """
    if path.is_dir():
        raise CheckpointError(f"{path}: is a folder. Give the best.safetensors in it.")
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such checkpoint file.")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = json.loads((file.metadata() or {}).get(_KEY, "null"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(
            f"{path}: not a checkpoint of plainunet, or damaged ({error}). "
            "Give the best.safetensors of a training run."
        ) from error
    if not isinstance(metadata, dict):
        raise CheckpointError(
            f"{path}: a .safetensors file, but not one of plainunet (it has no description in "
            "its metadata). Give the best.safetensors of a training run."
        )
    if metadata.get("format") != FORMAT:
        raise CheckpointError(
            f"{path}: written in format {metadata.get('format')}; this version reads {FORMAT}. "
            "Update plainunet."
        )
    if metadata.get("refines"):
        raise CheckpointError(
            f"{path}: refines the masks of another checkpoint (it was trained with --refine-of), "
            "which this version does not do. Give that other checkpoint."
        )
    try:
        network = UNet(**metadata["architecture"])
        network.load_state_dict(tensors)
        card = _read_card(metadata)
        if not len(card.class_names) == len(card.colors) == network.num_classes:
            raise ValueError(
                f"{len(card.class_names)} class names and {len(card.colors)} colours for "
                f"{network.num_classes} classes"
            )
    except (RuntimeError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path}: weights and description differ ({error}).") from error
    return network.eval(), card


def versions() -> dict[str, str]:
    """Versions of the software that runs, by package name."""
    return {
        "plainunet": __version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def _read_card(metadata: dict[str, Any]) -> Card:
    # these fields are younger than the format
    later = ("factor", "tta", "scales", "min_object", "fill_holes")
    known = {f.name: f.default for f in dataclasses.fields(Card) if f.name in later}
    fields = {f.name: {**known, **metadata}[f.name] for f in dataclasses.fields(Card)}
    fields["scales"] = tuple(fields["scales"])
    fields["class_names"] = tuple(fields["class_names"])
    fields["colors"] = tuple((r, g, b) for r, g, b in fields["colors"])
    fields["size"] = fields["size"] and tuple(fields["size"])
    return Card(**fields)


OWN = ("in_channels", "num_classes", "dropout", "deep_supervision")
"""What may differ from the architecture of the checkpoint that a run starts from."""


@torch.no_grad()
def take_weights(network: UNet, path: Path) -> list[str]:
    """Fine-tuning: start a network, changed in place, from a checkpoint's weights.

    Where the number of classes differs, heads stay fresh. Where that of channels does, the first
    convolution gets the mean over the checkpoint's channels, scaled so that its sums are as large
    as before. Normalisation stays the network's own, since it is that of its data. Returns the
    names of the weights that stayed fresh or were averaged.

    Raises:
        FileNotFoundError: There is no such checkpoint.
        ValueError: It is none, or its architecture differs.
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
    weights = source.state_dict()
    same_classes = source.num_classes == network.num_classes
    fresh = []
    for name, own_weight in network.state_dict().items():
        if name in ("mean", "std"):
            continue
        weight = weights.get(name)
        is_head = name.startswith(("head.", "side_heads."))
        if weight is None or (is_head and not same_classes):
            fresh.append(name)
        elif weight.shape == own_weight.shape:
            own_weight.copy_(weight)
        else:
            own_weight.copy_(_averaged(weight, own_weight.shape[1]))
            fresh.append(name)
    return fresh


def _averaged(weight: Tensor, channels: int) -> Tensor:
    """A first convolution's weight [out, in, h, w] for another number of channels."""
    mean = weight.mean(dim=1, keepdim=True)
    return mean.expand(-1, channels, -1, -1) * (weight.shape[1] / channels)


def freeze_encoder(network: UNet) -> list[nn.Module]:
    """Exclude the encoder from training.

    Returns its modules that must stay in eval mode, so that running statistics stay, too.
    """
    parts: list[nn.Module] = [network.inlet, network.downs]
    for part in parts:
        part.requires_grad_(False)
    return parts
