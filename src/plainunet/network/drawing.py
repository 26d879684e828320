"""The network as a picture, in the style of the paper's figure 1, made from the network itself.

In: a UNet and the size of a picture. Out: an SVG file. What it shows is what a forward pass
was seen to do: every box is a feature, every arrow a layer that made one from another. What
stands beside this path is not drawn: attention gates and the heads of deep supervision; a
shortcut is named among the layers.
"""

import copy
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from plainunet.files import write_whole
from plainunet.network.blocks import AttentionGate, ResidualDoubleConv
from plainunet.network.unet import UNet

_LAYERS: dict[type[nn.Module], tuple[str, str]] = {
    nn.Conv2d: ("conv", "convolution"),
    nn.MaxPool2d: ("pool", "max pooling"),
    nn.ConvTranspose2d: ("up", "transposed convolution"),
    nn.Upsample: ("up", "bilinear upsampling"),
}
_SKIP_LABEL = "copied skip"

# all lengths in SVG user units, which are pixels at the drawing's natural size
_TALLEST, _ACROSS, _BETWEEN_ROWS, _MARGIN, _LINE = 128.0, 28.0, 54.0, 20.0, 22.0
_SIZE_LABEL, _LABEL, _LETTER = 78.0, 18.0, 7.0

_STYLE = """
  text { font: 13px system-ui, 'Segoe UI', 'DejaVu Sans', sans-serif; fill: #1f2733 }
  .strong { font-weight: 600; font-size: 15px } .quiet { fill: #5b6675 }
  .middle { text-anchor: middle } .right { text-anchor: end }
  .card { fill: #ffffff; stroke: #d5dae1 }
  .feature { fill: #6c9fd8; stroke: #2f5f99 }
  .copied { fill: #ffffff; stroke: #2f5f99; stroke-dasharray: 3 2 }
  .arrow { fill: none; stroke-width: 2 } .arrow.skip { stroke-width: 4 }
  .conv { stroke: #2f5f99; fill: #2f5f99 } .pool { stroke: #c2413b; fill: #c2413b }
  .up { stroke: #2f8a4c; fill: #2f8a4c } .skip { stroke: #98a2b0; fill: #98a2b0 }
  .head { stroke: #0f8b8d; fill: #0f8b8d }
  @media (prefers-color-scheme: dark) {
    text { fill: #e4e9f0 } .quiet { fill: #9aa6b5 }
    .card { fill: #12171f; stroke: #313a47 }
    .feature { fill: #3d6ea8; stroke: #8fbcf0 } .copied { fill: #12171f; stroke: #8fbcf0 }
    .conv { stroke: #8fbcf0; fill: #8fbcf0 } .pool { stroke: #f0807a; fill: #f0807a }
    .up { stroke: #6fcf8d; fill: #6fcf8d } .skip { stroke: #66717f; fill: #66717f }
    .head { stroke: #4fd0d2; fill: #4fd0d2 }
  }
"""


@dataclass(frozen=True)
class Feature:
    """One feature of the network, and the layer that made it.

    `kind` is "picture", "conv", "pool", "up" or "head"; `layer` says it in words; `copied`
    counts the channels that a skip adds before the next layer; `size` is height, width [pixels].
    """

    kind: str
    layer: str
    channels: int
    size: tuple[int, int]
    copied: int = 0


@dataclass(frozen=True)
class _Box:
    """Where a feature is drawn: upper left corner, and the widths of its two parts."""

    feature: Feature
    level: int
    x: float
    y: float
    copied_width: float
    own_width: float
    height: float

    @property
    def right(self) -> float:
        return self.x + self.copied_width + self.own_width

    @property
    def centre(self) -> float:
        return self.x + self.copied_width + self.own_width / 2

    @property
    def bottom(self) -> float:
        return self.y + self.height

    @property
    def middle(self) -> float:
        return self.y + self.height / 2


def draw_network(network: UNet, size: tuple[int, int], path: Path) -> None:
    """Draw a network as an SVG file, readable on light and dark pages.

    Args:
        network: Any UNet; it is not run or changed, only a copy without memory is.
        size: Height and width of the picture that the sizes are stated for [pixels].
        path: File to write, whole or not at all.

    Raises:
        ValueError: The picture does not fit the network.
    """
    features = trace_features(network, size)
    parameters = sum(weights.numel() for weights in network.parameters() if weights.requires_grad)
    title = f"U-Net with {parameters:,} trainable parameters"
    with write_whole(path) as unfinished:
        unfinished.write_text(_svg(features, title), encoding="ascii", newline="\n")


def trace_features(network: UNet, size: tuple[int, int]) -> list[Feature]:
    """Run a network without computing anything, and list the features that it makes.

    Args:
        network: Any UNet.
        size: Height and width of the picture [pixels].

    Returns:
        The picture, then what each convolution, pooling and doubling made, in order.

    Raises:
        ValueError: The picture does not fit the network.
    """
    features = [Feature("picture", "picture", network.in_channels, size)]

    def record(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        last = features[-1]
        if type(module) not in _LAYERS or module in shortcuts:
            # belongs to the convolution before it
            name = type(module).__name__.removesuffix("2d")
            name = "shortcut" if module in shortcuts else name
            features[-1] = replace(last, layer=f"{last.layer}, {name}")
            return
        # what comes in beyond what the last layer made was joined by a skip
        _, channels, *entering_size = inputs[0].shape
        joined = channels - last.channels
        features[-1] = replace(last, copied=joined, size=(entering_size[0], entering_size[1]))
        kind, words = _LAYERS[type(module)]
        side = _side(module)
        kind = "head" if kind == "conv" and side == 1 else kind
        layer = f"{words} {side} x {side}"
        features.append(Feature(kind, layer, output.shape[1], (output.shape[2], output.shape[3])))

    # tensors on the meta device have shapes only: no time, no memory, no batch statistics
    shadow = copy.deepcopy(network).to("meta").eval()
    parts = list(shadow.modules())
    gates = [part for part in parts if isinstance(part, AttentionGate)]
    beside = {part for gate in gates for part in gate.modules()}
    shortcuts = {part.shortcut for part in parts if isinstance(part, ResidualDoubleConv)}
    for part in parts:
        idle = isinstance(part, nn.Dropout) and part.p == 0
        if part not in beside and not idle and not list(part.children()):
            part.register_forward_hook(record)
    with torch.no_grad():
        shadow(torch.empty(1, network.in_channels, *size, device="meta"))
    return features


def _side(module: Any) -> int:
    side = getattr(module, "kernel_size", None) or module.scale_factor
    return int(side[0] if isinstance(side, tuple) else side)


def _svg(features: list[Feature], title: str) -> str:
    boxes = _place(features)
    right = max(box.right for box in boxes) + _SIZE_LABEL + _MARGIN
    width = max(right, 2 * _MARGIN + _LETTER * 1.25 * len(title))
    legend, bottom = _legend(features, max(box.bottom for box in boxes) + 2 * _LINE, width)
    height = bottom + _MARGIN
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}" '
        f'width="{width:.0f}" height="{height:.0f}" role="img">',
        f"<title>{title}</title>",
        f"<style>{_STYLE}</style>",
        f'<rect class="card" x="0.5" y="0.5" width="{width - 1:.0f}" height="{height - 1:.0f}" '
        'rx="8"/>',
        _text(_MARGIN, _MARGIN + 10, title, "strong"),
        *_arrows(boxes),
        *(line for box in boxes for line in _draw_box(box)),
        *_sizes(boxes),
        _text(boxes[0].centre, boxes[0].bottom + _LABEL, "picture", "middle quiet"),
        _text(boxes[-1].centre, boxes[-1].bottom + _LABEL, "logits", "middle quiet"),
        *legend,
        "</svg>",
    ]
    return "\n".join(lines) + "\n"


def _place(features: list[Feature]) -> list[_Box]:
    """Lay the features out as a U: pooling goes down, up-convolution up, all else right."""
    tops = [_MARGIN + 3 * _LINE]
    boxes: list[_Box] = []
    level = 0
    for feature in features:
        height = _TALLEST * float(feature.size[0] / features[0].size[0]) ** 0.5
        own_width = max(6.0, 1.1 * feature.channels**0.5)
        copied_width = own_width * feature.copied / feature.channels
        x = _MARGIN + _SIZE_LABEL
        if boxes and feature.kind in ("pool", "up"):
            x = boxes[-1].centre - own_width / 2 - copied_width
            level += 1 if feature.kind == "pool" else -1
            if level == len(tops):
                tops.append(boxes[-1].bottom + _BETWEEN_ROWS)
        elif boxes:
            x = boxes[-1].right + _ACROSS
        boxes.append(_Box(feature, level, x, tops[level], copied_width, own_width, height))
    return boxes


def _draw_box(box: _Box) -> list[str]:
    shapes = [_rectangle(box.x + box.copied_width, box.y, box.own_width, box.height, "feature")]
    if box.copied_width:
        shapes.append(_rectangle(box.x, box.y, box.copied_width, box.height, "copied"))
    channels = str(box.feature.channels + box.feature.copied)
    return [*shapes, _text((box.x + box.right) / 2, box.y - 5, channels, "middle")]


def _arrows(boxes: list[_Box]) -> list[str]:
    arrows = []
    waiting: list[_Box] = []  # encoder features whose skips have not landed
    for before, after in pairwise(boxes):
        kind = after.feature.kind
        if kind == "pool":
            waiting.append(before)
            arrows.append(_arrow(kind, before.centre, before.bottom + 4, 0, after.y - _LABEL))
        elif kind == "up":
            arrows.append(_arrow(kind, before.centre, before.y - _LABEL, 0, after.bottom + 4))
            source = waiting.pop()
            arrows.append(_arrow("skip", source.right + 5, source.middle, after.x - 4, 0))
        else:
            arrows.append(_arrow(kind, before.right + 5, before.middle, after.x - 4, 0))
    return arrows


def _sizes(boxes: list[_Box]) -> list[str]:
    """Height x width of each row: at its left on the way down, at its right on the way up."""
    lowest = max(box.level for box in boxes)
    firsts = [boxes[0], *(box for box in boxes if box.feature.kind == "pool")]
    lasts = [before for before, box in pairwise(boxes) if box.feature.kind == "up"]
    labels = []
    for box in firsts:
        labels.append(_text(box.x - 8, box.middle + 4, _words(box.feature), "right quiet"))
    for box in [*lasts, boxes[-1]]:
        if box.level < lowest:
            labels.append(_text(box.right + 8, box.middle + 4, _words(box.feature), "quiet"))
    return labels


def _words(feature: Feature) -> str:
    return f"{feature.size[0]} &#215; {feature.size[1]}"


def _legend(features: list[Feature], top: float, width: float) -> tuple[list[str], float]:
    """What each arrow means, wrapped to the width; and the y of its last line."""
    meanings: list[tuple[str, str]] = []
    for feature in features[1:]:
        meanings.append((feature.kind, feature.layer))
        if feature.copied:
            meanings.append(("skip", _SKIP_LABEL))
    lines = []
    x = _MARGIN
    for kind, words in dict.fromkeys(meanings):
        length = 34 + _LETTER * len(words) + _MARGIN
        if x > _MARGIN and x + length > width:
            x, top = _MARGIN, top + _LINE
        lines.append(_arrow(kind, x, top - 4, x + 26, 0))
        lines.append(_text(x + 34, top, words.replace(" x ", " &#215; ")))
        x += length
    return lines, top


def _arrow(kind: str, x: float, y: float, to_x: float, to_y: float) -> str:
    """A straight arrow: across to `to_x`, or up or down to `to_y` where `to_x` is 0."""
    if to_x:
        stem, head = f"H{to_x - 5:.1f}", f"M{to_x:.1f} {y:.1f}l-8 -5v10z"
    else:
        back = -8 if to_y > y else 8
        stem, head = f"V{to_y + back / 2:.1f}", f"M{x:.1f} {to_y:.1f}l-5 {back}h10z"
    return (
        f'<path class="arrow {kind}" d="M{x:.1f} {y:.1f}{stem}"/>'
        f'<path class="{kind}" d="{head}" stroke-width="0"/>'
    )


def _rectangle(x: float, y: float, width: float, height: float, kind: str) -> str:
    return (
        f'<rect class="{kind}" x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}"/>'
    )


def _text(x: float, y: float, words: str, kind: str = "plain") -> str:
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}">{words}</text>'
