"""Import of third-party weights.

Two public layouts are known by the names of their weights: milesial/Pytorch-UNet, with either
upsampling, and the tutorial in aladdinpersson/Machine-Learning-Collection. Both compute what
`UNet` does, on images in 0..1, so only names change; the logits are the same. (Those of the
tutorial only at multiples of 2^depth: at other sizes it resizes a feature that is padded here.)
Files are read as tensors and plain values; nothing in them is executed.
"""

import re
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from plainunet.config import LARGEST_SIDE
from plainunet.errors import Error
from plainunet.files import require_writable
from plainunet.network.blocks import Upsampling
from plainunet.network.card import Card, CheckpointError, versions
from plainunet.network.checkpoint import save_checkpoint
from plainunet.network.unet import MOST_CLASSES, UNet
from plainunet.palette import default_colors, default_names


def import_checkpoint(
    path: Path,
    out: Path,
    class_names: Sequence[str] = (),
    size: tuple[int, int] | None = None,
) -> tuple[UNet, Card]:
    """Convert a file of weights of a known layout into a checkpoint.

    Args:
        path: A `model.state_dict()` written by `torch.save`, alone or under the key "state_dict"
            of a dictionary, or the same weights as `.safetensors`.
        out: The `.safetensors` file to write, whole or not at all.
        class_names: K names, background first; default: generic names.
        size: Height and width [pixels] that images are reduced to fit in; default: native size.

    Returns:
        The network in eval mode, and its card, whose `training` names the source.

    Raises:
        FileNotFoundError: The file does not exist.
        CheckpointError: It does not contain exactly the weights of a known layout, all finite.
        ValueError: `out` exists, is not writable or not named `.safetensors`; `class_names` are
            not K different names; `size` is out of range.
    """
    if out.suffix != ".safetensors":
        raise Error(f"--out {out}: the file name must end in .safetensors.")
    if out.exists():
        raise Error(f"--out {out} already exists. Choose another name, or remove it first.")
    require_writable(out.parent)
    state = _read_state(path)
    try:
        network, layout = convert(state)
    except ValueError as error:
        raise CheckpointError(f"{path}: {error}") from None
    smallest = 2**network.depth
    if size and not smallest <= min(size) <= max(size) <= LARGEST_SIDE:
        raise Error(
            f"--size {size[0]} {size[1]}: each side must be {smallest} to {LARGEST_SIDE} pixels."
        )
    card = Card(
        class_names=_name_classes(class_names, network.num_classes),
        colors=default_colors(network.num_classes),
        size=size,
        masks=_read_coding(state.get("mask_values"), network.num_classes),
        training={"imported": {"layout": layout, "file": path.name}},
        versions=versions(),
    )
    save_checkpoint(out, network, card)
    return network, card


def convert(state: Mapping[str, Any]) -> tuple[UNet, str]:
    """Make the network, in eval mode, of third-party weights; returns it and the layout's name.

    Width and depth follow from the weights. A head of one channel with the logit z, whose
    sigmoid is the foreground probability, becomes a head of two classes with logits 0 and z.
    Biases before batch normalisation, which older versions have, are subtracted from its mean.
    Weights may be of any float type, and have the prefixes of `DataParallel` and `torch.compile`.

    Raises:
        CheckpointError: The layout is unknown, or a key is unexpected, missing, of another
            shape or not finite; the message names the first such key.
    """
    state = {re.sub(r"^((module|_orig_mod)\.)+", "", key): value for key, value in state.items()}
    state.pop("mask_values", None)
    layout, depth = _recognise(state)
    modules = _modules(layout, depth)
    network, outputs = _empty_network(state, depth, modules)
    ours = network.state_dict()
    names = {
        theirs + name.removeprefix(module): name
        for name in ours
        for module, theirs in modules.items()
        if name.startswith(f"{module}.")
    }
    # a convolution's bias, and the mean of the normalisation after it
    biases = {
        name.replace(".1.running_mean", ".0.bias").replace(".4.running_mean", ".3.bias"): our_name
        for name, our_name in names.items()
        if name.endswith(".running_mean")
    }
    upsampling = network.architecture["upsampling"]
    described = f"{layout}'s U-Net of depth {depth} with {upsampling} upsampling"
    for name in state:
        if name not in names and name not in biases:
            raise CheckpointError(f"unexpected key {name!r} for {described}.")
    weights = {"mean": torch.zeros(network.in_channels), "std": torch.ones(network.in_channels)}
    for name, our_name in names.items():
        if name not in state and not name.endswith(".num_batches_tracked"):
            raise CheckpointError(f"missing key {name!r} of {described}.")
        like = ours[our_name]
        shape = [outputs, *like.shape[1:]] if our_name.startswith("head.") else [*like.shape]
        weights[our_name] = _copy(name, state.get(name, torch.tensor(0)), shape, like.dtype)
    for name, mean_name in biases.items():
        if name in state:
            mean = weights[mean_name]
            mean -= _copy(name, state[name], [*mean.shape], mean.dtype)
    if outputs == 1:
        for name in ("head.weight", "head.bias"):
            weights[name] = torch.cat([torch.zeros_like(weights[name]), weights[name]])
    network.load_state_dict(weights, assign=True)
    return network.eval(), layout


# prefixes of the keys of an encoder level
_LAYOUTS = {
    "milesial/Pytorch-UNet": re.compile(r"down\d\.maxpool_conv\."),
    "aladdinpersson/Machine-Learning-Collection": re.compile(r"downs\.\d\.conv\."),
}
# the second layout has no other upsampling
_TRANSPOSED = re.compile(r"up\d\.up\.|ups\.")


def _recognise(state: Mapping[str, Any]) -> tuple[str, int]:
    """The layout and the depth."""
    for layout, level in _LAYOUTS.items():
        if depth := len({found[0] for found in map(level.match, state) if found}):
            return layout, depth
    if any(key.startswith("inlet.") for key in state):
        raise CheckpointError("already a plainunet network. Use its checkpoint without import.")
    first = f"its first key is {next(iter(state))!r}" if state else "it is empty"
    inner = [key for key, value in state.items() if isinstance(value, Mapping)]
    advice = f" If the weights are under {inner[0]!r}, save only those." if inner else ""
    raise CheckpointError(
        f"unknown weights ({first}). Supported are the U-Nets of {' and '.join(_LAYOUTS)}.{advice}"
    )


def _modules(layout: str, depth: int) -> dict[str, str]:
    """Names of a layout's modules, by the names of ours."""
    if layout == "milesial/Pytorch-UNet":
        modules = {"inlet": "inc.double_conv", "head": "outc.conv"}
        for i in range(depth):
            modules[f"downs.{i}.1"] = f"down{i + 1}.maxpool_conv.1.double_conv"
            modules[f"ups.{i}.up"] = f"up{i + 1}.up"
            modules[f"ups.{i}.conv"] = f"up{i + 1}.conv.double_conv"
        return modules
    modules = {"inlet": "downs.0.conv", "head": "final_conv"}
    for i in range(depth):
        modules[f"downs.{i}.1"] = f"downs.{i + 1}.conv" if i + 1 < depth else "bottleneck.conv"
        modules[f"ups.{i}.up"] = f"ups.{2 * i}"
        modules[f"ups.{i}.conv"] = f"ups.{2 * i + 1}.conv"
    return modules


def _empty_network(
    state: Mapping[str, Any], depth: int, modules: Mapping[str, str]
) -> tuple[UNet, int]:
    """The network on the meta device, and the channels of the layout's head."""
    for name, value in state.items():
        if not isinstance(value, Tensor):
            raise CheckpointError(f"key {name!r} is {type(value).__name__}, not a tensor.")
    first: Tensor = state.get(f"{modules['inlet']}.0.weight", torch.empty(1, 1))
    last: Tensor = state.get(f"{modules['head']}.weight", torch.empty(1))
    # 1 for missing dimensions: the check of shapes finds them later
    base_channels, in_channels, outputs = *(*first.shape, 1, 1)[:2], (*last.shape, 1)[0]
    if not 1 <= outputs <= MOST_CLASSES:
        raise CheckpointError(
            f"the head has {outputs} channels, but 1 to {MOST_CLASSES} are valid."
        )
    upsampling: Upsampling = "transposed" if any(map(_TRANSPOSED.match, state)) else "bilinear"
    classes = max(2, outputs)
    with torch.device("meta"):
        return UNet(in_channels, classes, base_channels, depth, upsampling=upsampling), outputs


def _copy(name: str, value: Tensor, shape: list[int], dtype: torch.dtype) -> Tensor:
    """Copy a weight, if it is a dense tensor of finite floats of this shape."""
    if value.layout != torch.strided or value.is_meta:
        raise CheckpointError(f"{name!r} is not a dense tensor. Save the model on the CPU.")
    if dtype.is_floating_point and not value.dtype.is_floating_point:
        raise CheckpointError(f"{name!r} has dtype {value.dtype}, not a float type.")
    if list(value.shape) != shape:
        raise CheckpointError(f"{name!r} has shape {[*value.shape]}, but {shape} is expected.")
    copy = value.to("cpu", dtype, copy=True)
    if not copy.isfinite().all():
        raise CheckpointError(f"{name!r} has values that are not finite. Use an earlier file.")
    if name.endswith("running_var") and (copy < 0).any():
        raise CheckpointError(f"{name!r} has negative variances. Use an earlier file.")
    return copy


def _read_state(path: Path) -> dict[str, Any]:
    """Read weights by name, also from the "state_dict" of a training script."""
    if path.is_dir():
        raise CheckpointError(f"{path}: is a folder. Name the file of weights in it.")
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file.")
    try:
        if path.suffix == ".safetensors":
            state: Any = load_file(path)
        else:
            with warnings.catch_warnings(action="ignore"):  # the error follows
                state = torch.load(path, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception as error:  # a damaged file raises many types
        held = re.search(r"Unsupported global: GLOBAL (\S+)", str(error))
        wrong = f"contains objects ({held[1]})" if held else "damaged, or not written by torch.save"
        raise CheckpointError(
            f"{path}: {wrong}. Only weights are read, since unpickling objects can execute "
            "arbitrary code. In the training code, use torch.save(model.state_dict(), FILE)."
        ) from None
    if isinstance(state, dict):
        state = state.get("state_dict", state)
    if not isinstance(state, dict):
        raise CheckpointError(f"{path}: contains {type(state).__name__}, not a model.state_dict().")
    return {str(key): value for key, value in state.items()}


def _name_classes(given: Sequence[str], num_classes: int) -> tuple[str, ...]:
    if not given:
        return default_names(num_classes)
    names = ", ".join(given)
    if len(given) != num_classes:
        raise Error(
            f"--classes: {len(given)} names ({names}), but the network has {num_classes} classes. "
            "Name all of them, background first."
        )
    if len(set(given)) != len(given) or not all(given):
        raise Error(f"--classes: names must be different and not empty ({names}).")
    return tuple(given)


def _read_coding(values: Any, num_classes: int) -> dict[str, Any]:
    """The mask encoding: milesial's `mask_values` are the value of each class, or its colour."""
    if not isinstance(values, list) or len(values) != num_classes:
        return {}
    if all(_is_color(value) for value in values):
        ids = list(range(num_classes))
        return {"values": ids, "ignore": None, "kind": "colors", "colors": [*map(list, values)]}
    if not all(isinstance(value, int) and 0 <= value < 65536 for value in values):
        return {}
    kind = "two values" if num_classes == 2 and values != [0, 1] else "ids"
    return {"values": [int(value) for value in values], "ignore": None, "kind": kind}


def _is_color(value: Any) -> bool:
    is_three = isinstance(value, list | tuple) and len(value) == 3
    return is_three and all(isinstance(part, int) and 0 <= part < 256 for part in value)
