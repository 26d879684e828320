"""Summary of a network: output shapes and costs of its stages, without computing them.

In: a UNet and the size of an image. Out: for each stage its output shape, parameters, MACs
(multiply-accumulates), memory in training and receptive field; and the U as text.

The receptive field is that of a position far from the image border, in an image whose sides are
multiples of 2^depth; a smaller image clips it.
"""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.flop_counter import FlopCounterMode

from plainunet.errors import Error
from plainunet.network.checkpoint import load_unet
from plainunet.network.unet import UNet

_BATCH = 2  # batch normalisation cannot train on one value
_DEFAULT_SIZE, _PAPER_LOGITS = (160, 240), (388, 388)
_LONGEST = 2**20

Reach = Callable[[int], tuple[int, int]]
"""From a position of a feature to the first and last pixel of its receptive field."""


@dataclass(frozen=True)
class StageSummary:
    """One stage of a network, for one image in single precision."""

    name: str
    """"inlet", "down 1" to the bottleneck, "up 1" ..., "head", "head of up 3" ..."""
    shape: tuple[int, int, int]
    """Channels, height and width of its output."""
    parameters: int
    """Number of weights and biases, trainable or not."""
    macs: int
    """MACs of its convolutions in a forward pass; each is 2 FLOP."""
    kept: int
    """Activations that it keeps for the backward pass [bytes]."""
    field: tuple[int, int] | None
    """Smallest and largest receptive field of a position, along one axis [pixels]; None if the
    normalisation sees the whole image."""


def choose_network(
    checkpoint: Path | None,
    paper: bool,
    flags: dict[str, Any],
    size: tuple[int, int] | None = None,
) -> tuple[UNet, tuple[int, int], tuple[str, ...]]:
    """Open or make the network of a command line.

    `flags` are arguments of `UNet`; with a checkpoint or the paper's network, only `checkpointing`.
    `size` is an image's height and width [pixels]; default: the input size of the checkpoint,
    160 x 240, or what valid convolutions need for the paper's 388 x 388 logits. Returns the
    network on the meta device; height and width; the class names, if known.

    Raises:
        FileNotFoundError: The checkpoint does not exist.
        CheckpointError: It is not a checkpoint of this project.
        ValueError: The arguments contradict each other, or are out of range.
    """
    chosen = {name: value for name, value in flags.items() if name != "checkpointing"}
    allowed = {"in_channels", "num_classes"} if paper else set()
    extra = [f"--{name.replace('_', '-')}" for name in chosen if name not in allowed]
    if checkpoint and (paper or extra):
        extra = ["--paper", *extra] if paper else extra
        raise Error(f"{checkpoint} defines its own architecture. Remove {', '.join(extra)}.")
    if paper and extra:
        raise Error(
            f"The paper's network has no option {', '.join(extra)}. Remove it, or replace --paper "
            "by all the options of the network."
        )
    own_size: tuple[int, int] | None = None
    class_names: tuple[str, ...] = ()
    if checkpoint:
        network, card = load_unet(checkpoint)
        own_size, class_names = card.size, card.class_names
    else:
        with torch.device("meta"):
            network = UNet.paper(**chosen) if paper else UNet(**chosen)
    network.checkpointing = bool(flags.get("checkpointing"))
    default = _PAPER_LOGITS if network.valid else _DEFAULT_SIZE
    return network.to("meta"), size or network.input_size(*(own_size or default)), class_names


def summarise_network(network: UNet, size: tuple[int, int]) -> list[StageSummary]:
    """Summarise the stages of a network for an image size, in forward order.

    Only a copy on the meta device is run. With deep supervision, the additional heads come last.
    An image that does not fit the network is a ValueError.
    """
    network.output_size(*size)
    if max(size) > _LONGEST:
        raise Error(f"A side of {max(size)} pixels is too long; {_LONGEST} is the maximum.")
    # tensors on the meta device take no time or memory
    shadow = copy.deepcopy(network).to("meta", torch.float32).train()
    named = _stages(shadow)
    fields = receptive_fields(network)
    weights = {_key(values) for values in shadow.state_dict().values()}
    kept: dict[int, torch.UntypedStorage] = {}
    summaries: list[StageSummary] = []

    def keep(values: Tensor) -> Tensor:
        if _key(values) not in weights:
            kept[_key(values)] = values.untyped_storage()
        return values

    def record(name: str, module: nn.Module, _: Any, output: Tensor) -> None:
        # counters include the stages before
        macs = counter.get_total_flops() // 2 // _BATCH
        bytes_kept = sum(storage.nbytes() for storage in kept.values()) // _BATCH
        summaries.append(
            StageSummary(
                name,
                (output.shape[1], output.shape[2], output.shape[3]),
                sum(weight.numel() for weight in module.parameters()),
                macs - sum(earlier.macs for earlier in summaries),
                bytes_kept - sum(earlier.kept for earlier in summaries),
                fields[name],
            )
        )

    for name, module in named.items():
        module.register_forward_hook(partial(record, name))
    counter = FlopCounterMode(display=False)
    with torch.enable_grad(), counter, saved_tensors_hooks(keep, lambda values: values):
        shadow.deep_logits(torch.empty(_BATCH, network.in_channels, *size, device="meta"))
    return summaries


def receptive_fields(network: UNet) -> dict[str, tuple[int, int] | None]:
    """`StageSummary.field` of each stage by its name.

    Upsampling makes two neighbours from one coarse position, so the field depends on the position
    within a block of 2^depth pixels. Cropping changes nothing: a cropped skip connection joins the
    feature of the same pixels, so valid and padded convolutions have the same fields.
    """
    if network.architecture["normalisation"] in ("group", "instance"):
        return dict.fromkeys(_stages(network))
    doubled = partial(_doubled, bilinear=network.architecture["upsampling"] == "bilinear")
    reach = _convolved(lambda at: (at, at))
    reaches, skips = {"inlet": reach}, []
    for number in range(1, network.depth + 1):
        skips.append(reach)
        reaches[f"down {number}"] = reach = _convolved(_halved(reach))
    for number in range(1, network.depth + 1):
        skip = skips.pop()
        if network.architecture["attention"]:
            skip = _joined(skip, _doubled(_joined(_halved(skip), reach), bilinear=True))
        reaches[f"up {number}"] = reach = _convolved(_joined(skip, doubled(reach)))
    fields: dict[str, tuple[int, int] | None] = {}
    for name in _stages(network):
        reach = reaches[name.removeprefix("head of ") if name != "head" else f"up {network.depth}"]
        sides = [reach(at)[1] - reach(at)[0] + 1 for at in range(2**network.depth)]
        fields[name] = min(sides), max(sides)
    return fields


def sketch(stages: Sequence[StageSummary], image: tuple[int, int, int]) -> str:
    """Draw the U as text: a line for each level, channels x height x width.

    The encoder is at the left, the decoder at the right, the bottleneck last. `image` is channels,
    height and width of the image.
    """
    *lefts, bottleneck = [_shape(s) for s in stages if s.name.startswith(("inlet", "down"))]
    rights = [_shape(s) for s in stages if s.name.startswith("up")][::-1]
    indents = [4 * level for level in range(len(rights) + 1)]
    rows = list(zip(indents, lefts, rights, strict=False))
    width = max(2 * indent + len(left + right) + 8 for indent, left, right in rows)
    logits = next(_shape(s) for s in stages if s.name == "head")
    ends = [f"image {' x '.join(map(str, image))}", f"logits {logits}"]
    width = max(width, len("".join(ends)) + 4, 2 * indents[-1] + len(bottleneck))
    lines = [ends[0] + ends[1].rjust(width - len(ends[0]))]
    for indent, left, right in rows:
        shaft = "-" * (width - 2 * indent - len(left + right) - 3)
        lines.append(f"{' ' * indent}{left} {shaft}> {right}")
    return "\n".join([*lines, bottleneck.center(width).rstrip()])


def _stages(network: UNet) -> dict[str, nn.Module]:
    """The stages by name, in the order of `deep_logits`."""
    ups = {f"up {number}": up for number, up in enumerate(network.ups, start=1)}
    heads = {f"head of {up}": head for up, head in zip(ups, network.side_heads, strict=False)}
    return {
        "inlet": network.inlet,
        **{f"down {number}": down for number, down in enumerate(network.downs, start=1)},
        **ups,
        "head": network.head,
        **dict(reversed(heads.items())),
    }


def _convolved(reach: Reach) -> Reach:
    """After two 3x3 convolutions: two more pixels on either side."""
    return cache(lambda at: (reach(at - 2)[0], reach(at + 2)[1]))


def _halved(reach: Reach) -> Reach:
    """After pooling: one position from two."""
    return cache(lambda at: (reach(2 * at)[0], reach(2 * at + 1)[1]))


def _doubled(reach: Reach, bilinear: bool) -> Reach:
    """After upsampling: from one position, or bilinearly from it and its nearest neighbour."""
    further = 1 if bilinear else 0
    return cache(lambda at: (reach((at - further) // 2)[0], reach((at + further) // 2)[1]))


def _joined(one: Reach, other: Reach) -> Reach:
    def both(at: int) -> tuple[int, int]:
        (first, last), (other_first, other_last) = one(at), other(at)
        return min(first, other_first), max(last, other_last)

    return cache(both)


def _key(values: Tensor) -> int:
    """Identity of a tensor's memory."""
    return int(values.untyped_storage()._cdata)


def _shape(stage: StageSummary) -> str:
    return " x ".join(map(str, stage.shape))
