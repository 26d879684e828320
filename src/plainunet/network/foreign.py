"""Import of weights that other projects' plain U-Nets were trained to.

Two public layouts are known, by the names of their weights: that of milesial/Pytorch-UNet,
with either upsampling, and that of the tutorial in aladdinpersson/Machine-Learning-Collection.
Both compute what `UNet` does, on images in 0..1, so that only names change; the logits are
the same. (The tutorial's are at multiples of 2^depth: at other sizes it resizes a feature where
here it is padded.) Files are read as tensors and plain values; nothing in them is executed.
"""

import re
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from plainunet.files import require_writable
from plainunet.network.blocks import Upsampling
from plainunet.network.checkpoint import Card, CheckpointError, save_checkpoint, versions
from plainunet.network.unet import MOST_CLASSES, UNet
from plainunet.palette import default_colors, default_names

LARGEST = 65535
"""Most pixels along a side that images may be reduced to."""


def import_checkpoint(
    path: Path,
    out: Path,
    class_names: Sequence[str] = (),
    size: tuple[int, int] | None = None,
) -> tuple[UNet, Card]:
    """Turn a file of weights of a known layout into a checkpoint.

    Args:
        path: What `torch.save` wrote of a `model.state_dict()`, alone or under the key
            "state_dict" of a dictionary, or the same weights as `.safetensors`.
        out: The `.safetensors` file to write; it appears whole or not at all.
        class_names: K names, the background's first; left out, default names.
        size: Height and width [pixels] that images are reduced to fit in; left out, they keep
            their own.

    Returns:
        The network in eval mode, and its description; its `training` names the source.

    Raises:
        FileNotFoundError: There is no such file.
        CheckpointError: It does not hold the finite weights of a known layout, and them alone.
        ValueError: `out` exists, cannot be written or is no `.safetensors`; `class_names` are
            not K different ones; `size` is too small.
    """
    if out.suffix != ".safetensors":
        raise ValueError(f"--out {out}: the name must end in .safetensors.")
    if out.exists():
        raise ValueError(f"--out {out} already exists. Give another name, or remove it first.")
    require_writable(out.parent)
    state = _read_state(path)
    try:
        network, layout = convert(state)
    except ValueError as error:
        raise CheckpointError(f"{path}: {error}") from None
    smallest = 2**network.depth
    if size and not smallest <= min(size) <= max(size) <= LARGEST:
        raise ValueError(
            f"--size {size[0]} {size[1]}: each side must be {smallest} to {LARGEST} pixels."
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
    """Make the network, in eval mode, that has weights of a layout, which is named as well.

    Width and depth are read from the weights. A head of one channel with the logit z, whose
    sigmoid is the foreground's probability, becomes a head of two classes with logits 0 and z.
    Biases before batch normalisation, which older versions have, are subtracted from its mean.
    Weights may be of any float type, and have the prefixes of `DataParallel` and `torch.compile`.

    Raises:
        CheckpointError: The layout is not known, or a key is unknown, missing, of another
            shape or not finite; the first such key is named.
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
            raise CheckpointError(f"the key {name!r} does not belong to {described}.")
    weights = {"mean": torch.zeros(network.in_channels), "std": torch.ones(network.in_channels)}
    for name, our_name in names.items():
        if name not in state and not name.endswith(".num_batches_tracked"):
            raise CheckpointError(f"the key {name!r} of {described} is missing.")
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


# what the keys of a level of the encoder begin with
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
        raise CheckpointError("already a network of plainunet. Use the checkpoint as it is.")
    first = f"its first key is {next(iter(state))!r}" if state else "it is empty"
    inner = [key for key, value in state.items() if isinstance(value, Mapping)]
    advice = f" If the weights are under {inner[0]!r}, save that alone." if inner else ""
    raise CheckpointError(
        f"not the weights of a known layout ({first}). Known are the U-Nets of "
        f"{' and '.join(_LAYOUTS)}.{advice}"
    )


def _modules(layout: str, depth: int) -> dict[str, str]:
    """The names of a layout's modules by our names for them."""
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
    """The network without memory for its weights, and the channels of the layout's head."""
    for name, value in state.items():
        if not isinstance(value, Tensor):
            raise CheckpointError(f"the key {name!r} holds {type(value).__name__}, no weights.")
    first: Tensor = state.get(f"{modules['inlet']}.0.weight", torch.empty(1, 1))
    last: Tensor = state.get(f"{modules['head']}.weight", torch.empty(1))
    # 1 where there is no such number; what does not fit is found by its shape
    base_channels, in_channels, outputs = *(*first.shape, 1, 1)[:2], (*last.shape, 1)[0]
    if not 1 <= outputs <= MOST_CLASSES:
        raise CheckpointError(f"the head has {outputs} channels; it can have 1 to {MOST_CLASSES}.")
    upsampling: Upsampling = "transposed" if any(map(_TRANSPOSED.match, state)) else "bilinear"
    classes = max(2, outputs)
    with torch.device("meta"):
        return UNet(in_channels, classes, base_channels, depth, upsampling=upsampling), outputs


def _copy(name: str, value: Tensor, shape: list[int], dtype: torch.dtype) -> Tensor:
    """Copy a weight, if it is a plain array of floats of this shape, and finite."""
    if value.layout != torch.strided or value.is_meta:
        raise CheckpointError(f"{name!r} is no plain array. Save it as one, by model.to('cpu').")
    if dtype.is_floating_point and not value.dtype.is_floating_point:
        raise CheckpointError(f"{name!r} holds {value.dtype}; weights are floats.")
    if list(value.shape) != shape:
        raise CheckpointError(f"{name!r} has shape {[*value.shape]}; {shape} would suit the rest.")
    copy = value.to("cpu", dtype, copy=True)
    if not copy.isfinite().all():
        raise CheckpointError(f"{name!r} has values that are not finite. Take an earlier file.")
    if name.endswith("running_var") and (copy < 0).any():
        raise CheckpointError(f"{name!r} has negative variances. Take an earlier file.")
    return copy


def _read_state(path: Path) -> dict[str, Any]:
    """Read weights by name, unwrapped from what training scripts put around them."""
    if path.is_dir():
        raise CheckpointError(f"{path}: is a folder. Give the file of weights in it.")
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file of weights.")
    try:
        if path.suffix == ".safetensors":
            state: Any = load_file(path)
        else:
            with warnings.catch_warnings(action="ignore"):  # what they say comes as an error too
                state = torch.load(path, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception as error:  # a damaged file raises anything
        held = re.search(r"Unsupported global: GLOBAL (\S+)", str(error))
        wrong = f"holds objects ({held[1]})" if held else "damaged, or no weights by torch.save"
        raise CheckpointError(
            f"{path}: {wrong}. Only weights are read, since reading objects can execute anything: "
            "where the model was trained, save them by torch.save(model.state_dict(), FILE)."
        ) from None
    if isinstance(state, dict):
        state = state.get("state_dict", state)
    if not isinstance(state, dict):
        raise CheckpointError(f"{path}: holds {type(state).__name__}, not a model.state_dict().")
    return {str(key): value for key, value in state.items()}


def _name_classes(given: Sequence[str], num_classes: int) -> tuple[str, ...]:
    if not given:
        return default_names(num_classes)
    names = ", ".join(given)
    if len(given) != num_classes:
        raise ValueError(
            f"--classes: {len(given)} given ({names}), but the network has {num_classes} "
            "classes. Name each, the background first."
        )
    if len(set(given)) != len(given) or not all(given):
        raise ValueError(f"--classes: each class needs a name of its own ({names}).")
    return tuple(given)


def _read_coding(values: Any, num_classes: int) -> dict[str, Any]:
    """How masks are read: milesial's `mask_values` are the value of each class, or its colour."""
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
