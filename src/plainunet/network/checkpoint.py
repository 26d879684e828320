"""Checkpoints: a network in one self-describing `.safetensors` file; fine-tuning.

The file contains the weights and, as JSON in its metadata, the architecture and a `Card`.
"""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from plainunet.errors import Error
from plainunet.files import write_whole
from plainunet.network.card import (
    KEY,
    Card,
    CheckpointError,
    find_checkpoint,
    read_card,
    require_classes,
    write_metadata,
)
from plainunet.network.own import Network, OwnNetwork, copy_part, make_own_network
from plainunet.network.unet import UNet
from plainunet.parts import Part, PartError
from plainunet.system import shorten

_EXPORTED = (".onnx", ".xml", ".pt2")
"""Suffixes of exported files, which can be predicted with, but not trained or exported again."""


def save_checkpoint(path: Path, network: Network, card: Card) -> None:
    """Write network and card as one file, whole or not at all."""
    tensors = _separate(network.state_dict())
    metadata = write_metadata(network.architecture, card, weights=_digest(tensors))
    with write_whole(path) as file:
        save_file(tensors, file, metadata={KEY: json.dumps(metadata)})


def _separate(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Weights on the CPU, none in the memory of another: safetensors refuses tied weights."""
    separate: dict[str, Tensor] = {}
    taken = set()
    for name, value in weights.items():
        tensor = value.detach().cpu().contiguous()
        place = tensor.untyped_storage().data_ptr()
        separate[name] = tensor.clone() if place in taken else tensor
        taken.add(place)
    return separate


def load_unet(path: str | Path) -> tuple[UNet, Card]:
    """Like `load_checkpoint`, where only a `UNet` will do."""
    network, card = load_checkpoint(path, None)
    assert isinstance(network, UNet)
    return network, card


def load_checkpoint(path: str | Path, own: Sequence[Part] | None = ()) -> tuple[Network, Card]:
    """Read a checkpoint: the network in eval mode on the CPU, and its card.

    A run folder stands for its `best.safetensors`. A network that the user wrote is made by one of
    `own`; its code is never imported because a checkpoint names it. None refuses it.

    Raises:
        FileNotFoundError: The file does not exist.
        CheckpointError: It is not a checkpoint of this project, is damaged, was written by a
            newer version, refines the masks of another one, or its network is not of `own`.
    """
    path = find_checkpoint(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such checkpoint.")
    if path.suffix.lower() in _EXPORTED:
        raise CheckpointError(
            f"{path}: an exported file, not a checkpoint. Use the best.safetensors of its training "
            "run."
        )
    try:
        path.open("rb").close()  # safetensors calls a file without read permission missing
        with safe_open(path, framework="pt") as file:
            metadata = json.loads((file.metadata() or {}).get(KEY, "null"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    except PermissionError as error:
        raise CheckpointError(f"{path}: permission denied. Check its permissions.") from error
    except (SafetensorError, OSError, ValueError, RecursionError) as error:
        raise CheckpointError(
            f"{path}: not a checkpoint of plainunet, or damaged ({error}). "
            "Use the best.safetensors of a training run."
        ) from error
    if not isinstance(metadata, dict):
        raise CheckpointError(
            f"{path}: a .safetensors file, but not a checkpoint of plainunet (it has no metadata "
            "of it). Use the best.safetensors of a training run, or convert weights of other "
            "projects with plainunet import."
        )
    if metadata.get("refines"):
        raise CheckpointError(
            f"{path}: refines the masks of another checkpoint (it was trained with --refine-of), "
            "which this version does not support. Use that other checkpoint."
        )
    card = read_card(metadata, path)
    try:
        architecture = metadata["architecture"]
        if "factory" in architecture and own is None:
            raise CheckpointError(
                f"{path}: its network is made by {shorten(str(architecture['factory']))}. This "
                "needs a U-Net."
            )
        if own is not None and "factory" in architecture:
            network: Network = _make_own(architecture, own, shapes, path)
        else:
            network = _make_network(architecture, shapes)
        require_classes(card, network.num_classes)
        dtypes = {name: tensor.dtype for name, tensor in network.state_dict().items()}
        # assigned, since allocating memory for meta tensors imports half a second of PyTorch
        weights = {name: tensor.to(dtypes[name]) for name, tensor in tensors.items()}
        network.load_state_dict(weights, assign=True)
    except (CheckpointError, PartError):
        raise
    except (RuntimeError, KeyError, TypeError, ValueError, OverflowError) as error:
        raise CheckpointError(
            f"{path}: weights and metadata do not match ({shorten(str(error), 300)}). Copy the "
            "file again, or train again."
        ) from error
    if metadata.get("weights", digest := _digest(tensors)) != digest:
        raise CheckpointError(f"{path}: damaged weights (wrong checksum). Copy the file again.")
    return network.eval(), card


def _make_network(architecture: dict[str, Any], shapes: dict[str, tuple[int, ...]]) -> UNet:
    """Make a network on the meta device, if it has exactly tensors of these shapes.

    The check comes before memory is allocated, so that a small file cannot make a large network.
    """
    depth = architecture["depth"]
    if not isinstance(depth, int) or depth > len(shapes):
        raise Error(f"the network's depth is {depth}, for {len(shapes)} tensors")
    with torch.device("meta"):
        network = UNet(**architecture)
    _require_tensors(network, shapes)
    return network


def _make_own(
    architecture: dict[str, Any],
    own: Sequence[Part],
    shapes: dict[str, tuple[int, ...]],
    path: Path,
) -> OwnNetwork:
    """Make the user's network that a checkpoint names, if its factory was given."""
    name = str(architecture["factory"])
    named = next((part for part in own if part.is_named(name)), None)
    if named is None:
        given = f", not by {', '.join(part.name for part in own)}" if own else ""
        raise CheckpointError(
            f"{path}: its network is made by {shorten(name)}{given}. Its code is imported only if "
            f"you name it: add --network {shorten(name)}, or pass network= in Python."
        )
    with torch.random.fork_rng(devices=[]):
        network = make_own_network(
            copy_part(named), architecture["in_channels"], architecture["num_classes"]
        )
    _require_tensors(network, shapes)
    network.architecture["factory"] = name
    network.architecture["base_channels"] = architecture["base_channels"]
    return network


def _require_tensors(network: nn.Module, shapes: dict[str, tuple[int, ...]]) -> None:
    """Refuse, by a ValueError, tensors that are not exactly those of the network."""
    wanted = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    for name in sorted(wanted.keys() | shapes.keys()):
        if wanted.get(name) != shapes.get(name):
            raise Error(
                f"'{name}' is {_shape(shapes.get(name))} in the file, {_shape(wanted.get(name))} "
                "in the network"
            )


def _shape(shape: tuple[int, ...] | None) -> str:
    return "missing" if shape is None else str(list(shape))


def _digest(tensors: dict[str, Tensor]) -> str:
    """SHA-256 of weights, in hexadecimal."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(name.encode())
        digest.update(tensor.numpy().tobytes())
    return digest.hexdigest()


OVERRIDABLE = ("in_channels", "num_classes", "dropout", "deep_supervision")
"""Arguments in which a network may differ from its pretrained checkpoint."""


@torch.no_grad()
def load_pretrained(network: UNet, path: Path) -> list[str]:
    """Initialise a network, in place, with the weights of a checkpoint, for fine-tuning.

    With another number of classes, the heads stay random. With another number of channels, the
    first convolution gets the mean over the checkpoint's channels, scaled to keep its sums. Image
    normalisation stays that of the network's data. Returns the names of the weights that stayed
    random or were averaged.

    Raises:
        FileNotFoundError: The checkpoint does not exist.
        ValueError: It is not a checkpoint, or its architecture differs.
    """
    source, _ = load_unet(path)
    for name, own in network.architecture.items():
        other = source.architecture[name]
        if name not in OVERRIDABLE and other != own:
            flag = name.replace("_", "-")
            same = f"--{flag} {other}"
            if isinstance(other, bool):
                same = f"--{flag}" if other else f"--no-{flag}"
            raise Error(
                f"{path}: its network has {name.replace('_', ' ')} {other}, that of this run "
                f"{own}. Use the same: {same}."
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
    """The first convolution's weight [out, in, h, w] for another number of channels."""
    mean = weight.mean(dim=1, keepdim=True)
    return mean.expand(-1, channels, -1, -1) * (weight.shape[1] / channels)


def freeze_encoder(network: UNet) -> list[nn.Module]:
    """Freeze the encoder.

    Returns its modules, which must stay in eval mode to keep their running statistics, too.
    """
    modules: list[nn.Module] = [network.inlet, network.downs]
    for module in modules:
        module.requires_grad_(False)
    return modules
