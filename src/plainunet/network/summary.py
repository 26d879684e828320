"""What each stage of a network makes and costs, found without computing anything.

In: a UNet and the size of an image. Out: for each stage its shape, parameters, multiply-adds
(MACs), memory in training and receptive field; and the U in text.

The receptive field is that of an image whose sides can be halved `depth` times, away from its
borders; where the image is smaller than the field, it ends with the image.
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

from plainunet.network.checkpoint import load_checkpoint
from plainunet.network.unet import UNet

_BATCH = 2  # batch normalisation cannot train on one value
_USUAL_SIZE, _PAPER_LOGITS = (160, 240), (388, 388)
_LONGEST = 2**20

Reach = Callable[[int], tuple[int, int]]
"""From a position of a feature to the first and the last pixel of the image that it sees."""


@dataclass(frozen=True)
class StageSummary:
    """One stage of a network, for one image in single precision."""

    name: str
    """"inlet", "down 1" to the bottleneck, "up 1" ..., "head", "head of up 3" ..."""
    shape: tuple[int, int, int]
    """Channels, height and width of what it makes."""
    parameters: int
    """Weights and biases, trainable or not."""
    macs: int
    """Multiply-adds of its convolutions in a forward pass; each is 2 FLOP."""
    kept: int
    """What it adds to the activations that are kept for the backward pass [bytes]."""
    field: tuple[int, int] | None
    """Least and greatest receptive field of a position, along one axis [pixels]; None where
    the normalisation sees the whole image."""


def choose_network(
    checkpoint: Path | None,
    paper: bool,
    flags: dict[str, Any],
    size: tuple[int, int] | None = None,
) -> tuple[UNet, tuple[int, int], tuple[str, ...]]:
    """Open or make the network that a command line names.

    `flags` are arguments of `UNet`, for a network that is neither a checkpoint's nor the paper's;
    `checkpointing` for any. `size` is an image's height and width [pixels]; left out, the input
    size of a checkpoint, 160 x 240, or what valid convolutions need for the paper's 388 x 388
    logits. Returns the network, without memory for its weights; height and width; the names of
    the classes, where they are known.

    Raises:
        FileNotFoundError: There is no such file.
        CheckpointError: It is not a checkpoint of this project.
        ValueError: The arguments contradict each other, or there is no such network.
    """
    chosen = {name: value for name, value in flags.items() if name != "checkpointing"}
    own = {"in_channels", "num_classes"} if paper else set()
    beside = [f"--{name.replace('_', '-')}" for name in chosen if name not in own]
    if checkpoint and (paper or beside):
        beside = ["--paper", *beside] if paper else beside
        raise ValueError(
            f"{checkpoint} has an architecture of its own; leave out {', '.join(beside)}."
        )
    if paper and beside:
        raise ValueError(
            f"The paper's network has no choice of {', '.join(beside)}; leave that out, or leave "
            "out --paper and give all the options of the network."
        )
    own_size: tuple[int, int] | None = None
    class_names: tuple[str, ...] = ()
    if checkpoint:
        network, card = load_checkpoint(checkpoint)
        own_size, class_names = card.size, card.class_names
    else:
        with torch.device("meta"):
            network = UNet.paper(**chosen) if paper else UNet(**chosen)
    network.checkpointing = bool(flags.get("checkpointing"))
    usual = _PAPER_LOGITS if network.valid else _USUAL_SIZE
    return network.to("meta"), size or network.input_size(*(own_size or usual)), class_names


def summarise_network(network: UNet, size: tuple[int, int]) -> list[StageSummary]:
    """What each stage of a network makes and costs for an image of a size, in the flow's order.

    The network is not run or changed, only a copy without memory is. With deep supervision, its
    heads come last. An image that does not fit the network is a ValueError.
    """
    network.output_size(*size)
    if max(size) > _LONGEST:
        raise ValueError(f"{max(size)} pixels are too many for a side; {_LONGEST} are the most.")
    # tensors on the meta device have shapes only: no time, no memory
    shadow = copy.deepcopy(network).to("meta", torch.float32).train()
    named = _stages(shadow)
    fields = receptive_fields(network)
    not_made = {_key(values) for values in shadow.state_dict().values()}
    kept: dict[int, torch.UntypedStorage] = {}
    summaries: list[StageSummary] = []

    def keep(values: Tensor) -> Tensor:
        if _key(values) not in not_made:
            kept[_key(values)] = values.untyped_storage()
        return values

    def record(name: str, module: nn.Module, _: Any, output: Tensor) -> None:
        # what was counted since the last stage ended belongs to this one
        macs = counter.get_total_flops() // 2 // _BATCH
        bytes_kept = sum(storage.nbytes() for storage in kept.values()) // _BATCH
        summaries.append(
            StageSummary(
                name,
                (output.shape[1], output.shape[2], output.shape[3]),
                sum(weights.numel() for weights in module.parameters()),
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

    A step up makes two neighbours from one coarse position, so the field depends on where in
    a block of 2^depth pixels the position lies. Cropping moves nothing: a cropped skip joins
    the feature made from the same pixels, so valid convolutions see what padded ones see.
    """
    if network.architecture["normalisation"] in ("group", "instance"):
        return dict.fromkeys(_stages(network))
    grown = partial(_grown, bilinear=network.architecture["upsampling"] == "bilinear")
    reach = _convolved(lambda at: (at, at))
    reaches, skips = {"inlet": reach}, []
    for number in range(1, network.depth + 1):
        skips.append(reach)
        reaches[f"down {number}"] = reach = _convolved(_halved(reach))
    for number in range(1, network.depth + 1):
        skip = skips.pop()
        if network.architecture["attention"]:
            skip = _joined(skip, _grown(_joined(_halved(skip), reach), bilinear=True))
        reaches[f"up {number}"] = reach = _convolved(_joined(skip, grown(reach)))
    fields: dict[str, tuple[int, int] | None] = {}
    for name in _stages(network):
        seen = reaches[name.removeprefix("head of ") if name != "head" else f"up {network.depth}"]
        sides = [seen(at)[1] - seen(at)[0] + 1 for at in range(2**network.depth)]
        fields[name] = min(sides), max(sides)
    return fields


def sketch(stages: Sequence[StageSummary], picture: tuple[int, int, int]) -> str:
    """Draw the U as text: a line for each level, channels x height x width.

    At the left is what each level of the encoder makes, at the right the decoder, the bottleneck
    last. `picture` is channels, height and width of the image.
    """
    *lefts, bottleneck = [_shape(s) for s in stages if s.name.startswith(("inlet", "down"))]
    rights = [_shape(s) for s in stages if s.name.startswith("up")][::-1]
    indents = [4 * level for level in range(len(rights) + 1)]
    rows = list(zip(indents, lefts, rights, strict=False))
    width = max(2 * indent + len(left + right) + 8 for indent, left, right in rows)
    logits = next(_shape(s) for s in stages if s.name == "head")
    ends = [f"picture {' x '.join(map(str, picture))}", f"logits {logits}"]
    width = max(width, len("".join(ends)) + 4, 2 * indents[-1] + len(bottleneck))
    lines = [ends[0] + ends[1].rjust(width - len(ends[0]))]
    for indent, left, right in rows:
        shaft = "-" * (width - 2 * indent - len(left + right) - 3)
        lines.append(f"{' ' * indent}{left} {shaft}> {right}")
    return "\n".join([*lines, bottleneck.center(width).rstrip()])


def _stages(network: UNet) -> dict[str, nn.Module]:
    """The stages by name, in the order in which `deep_logits` runs them."""
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
    """After two 3x3 convolutions: two neighbours on either side."""
    return cache(lambda at: (reach(at - 2)[0], reach(at + 2)[1]))


def _halved(reach: Reach) -> Reach:
    """After something that makes one position from two."""
    return cache(lambda at: (reach(2 * at)[0], reach(2 * at + 1)[1]))


def _grown(reach: Reach, bilinear: bool) -> Reach:
    """After doubling: from one position, or bilinearly from it and the one that is nearer."""
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
