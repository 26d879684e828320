"""Draw unet.svg and unet-paper.svg beside this file: `python docs/unet_figure.py`.

In the style of the paper's figure 1. Each box is a feature and each arrow a layer of a forward
pass.
"""

from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from plainunet.network.unet import UNet

LAYERS: dict[type[nn.Module], tuple[str, str]] = {
    nn.Conv2d: ("conv", "convolution"),
    nn.MaxPool2d: ("pool", "max pooling"),
    nn.ConvTranspose2d: ("up", "transposed convolution"),
}
# lengths in SVG user units
TALLEST, ACROSS, BETWEEN_ROWS, MARGIN, LINE = 128.0, 28.0, 54.0, 20.0, 22.0
SIZE_LABEL, LABEL, LETTER = 78.0, 18.0, 7.0
STYLE = """
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


class Box(SimpleNamespace):
    """A feature, the layer that made it, and (see `place`) where it is drawn."""


def trace(network: UNet, size: tuple[int, int]) -> list[Box]:
    """List the features that a forward pass of a network on the meta device makes."""
    boxes: list[Box] = []

    def add(kind: str, layer: str, channels: int, height: int, width: int) -> None:
        found = {"kind": kind, "layer": layer, "channels": channels, "copied": 0}
        boxes.append(Box(**found, height=height, width=width))

    def record(module: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        if type(module) not in LAYERS:  # belongs to the convolution before it
            boxes[-1].layer += f", {type(module).__name__.removesuffix('2d')}"
            return
        # what enters beyond what the last layer made was joined by a skip
        _, channels, boxes[-1].height, boxes[-1].width = inputs[0].shape
        boxes[-1].copied = channels - boxes[-1].channels
        kind, words = LAYERS[type(module)]
        side = module.kernel_size
        side = side[0] if isinstance(side, tuple) else side
        add("head" if side == 1 else kind, f"{words} {side} x {side}", *output.shape[1:])

    for part in network.modules():
        if not list(part.children()) and getattr(part, "p", 1):  # but for dropout of nothing
            part.register_forward_hook(record)
    add("image", "", network.in_channels, *size)
    with torch.no_grad():
        network(torch.empty(1, network.in_channels, *size, device="meta"))
    return boxes


def place(boxes: list[Box]) -> None:
    """Lay the features out as a U: pooling goes down, up-convolution up, all else right."""
    tops, level = [MARGIN + 3 * LINE], 0
    for before, box in pairwise([None, *boxes]):
        box.own = max(6.0, 1.1 * box.channels**0.5)
        box.left = box.own * box.copied / box.channels  # the width of what is copied
        box.x = before.right + ACROSS if before else MARGIN + SIZE_LABEL
        if box.kind in ("pool", "up"):
            box.x = before.centre - box.own / 2 - box.left
            level += 1 if box.kind == "pool" else -1
            if level == len(tops):
                tops.append(before.bottom + BETWEEN_ROWS)
        box.level, box.y = level, tops[level]
        box.tall = TALLEST * (box.height / boxes[0].height) ** 0.5
        box.centre, box.right = box.x + box.left + box.own / 2, box.x + box.left + box.own
        box.middle, box.bottom = box.y + box.tall / 2, box.y + box.tall


def draw(network: UNet, size: tuple[int, int]) -> str:
    """Draw a network on the meta device, for an image of a height and width, as SVG."""
    boxes = trace(network, size)
    place(boxes)
    parameters = sum(weights.numel() for weights in network.parameters())
    title = f"U-Net with {parameters:,} trainable parameters"
    right = max(box.right for box in boxes) + SIZE_LABEL + MARGIN
    width = max(right, 2 * MARGIN + LETTER * 1.25 * len(title))
    legend, bottom = draw_legend(boxes, max(box.bottom for box in boxes) + 2 * LINE, width)
    height = bottom + MARGIN
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}" '
        f'width="{width:.0f}" height="{height:.0f}" role="img">',
        f"<title>{title}</title>",
        f"<style>{STYLE}</style>",
        f'<rect class="card" x="0.5" y="0.5" width="{width - 1:.0f}" height="{height - 1:.0f}" '
        'rx="8"/>',
        text(MARGIN, MARGIN + 10, title, "strong"),
        *draw_arrows(boxes),
        *(line for box in boxes for line in draw_box(box)),
        *draw_sizes(boxes),
        text(boxes[0].centre, boxes[0].bottom + LABEL, "image", "middle quiet"),
        text(boxes[-1].centre, boxes[-1].bottom + LABEL, "logits", "middle quiet"),
        *legend,
        "</svg>",
    ]
    return "\n".join(lines) + "\n"


def draw_box(box: Box) -> list[str]:
    """A feature, what a skip adds to it, and the number of channels above."""
    shapes = [rectangle(box.x + box.left, box.y, box.own, box.tall, "feature")]
    if box.copied:
        shapes.append(rectangle(box.x, box.y, box.left, box.tall, "copied"))
    channels = str(box.channels + box.copied)
    return [*shapes, text((box.x + box.right) / 2, box.y - 5, channels, "middle")]


def draw_arrows(boxes: list[Box]) -> list[str]:
    """An arrow for each layer and each skip."""
    arrows = []
    waiting: list[Box] = []  # encoder features whose skips have not landed
    for before, after in pairwise(boxes):
        if after.kind == "pool":
            waiting.append(before)
            arrows.append(arrow("pool", before.centre, before.bottom + 4, 0, after.y - LABEL))
        elif after.kind == "up":
            arrows.append(arrow("up", before.centre, before.y - LABEL, 0, after.bottom + 4))
            source = waiting.pop()
            arrows.append(arrow("skip", source.right + 5, source.middle, after.x - 4, 0))
        else:
            arrows.append(arrow(after.kind, before.right + 5, before.middle, after.x - 4, 0))
    return arrows


def draw_sizes(boxes: list[Box]) -> list[str]:
    """Height x width of each row: at its left on the way down, at its right on the way up."""
    down = [boxes[0], *(box for box in boxes if box.kind == "pool")]
    lowest = max(box.level for box in boxes)
    ends = [before for before, after in pairwise(boxes) if after.kind == "up"]
    up = [box for box in [*ends, boxes[-1]] if box.level < lowest]
    sizes = [(box.x - 8, box, "right quiet") for box in down]
    sizes += [(box.right + 8, box, "quiet") for box in up]
    return [text(x, b.middle + 4, f"{b.height} x {b.width}", kind) for x, b, kind in sizes]


def draw_legend(boxes: list[Box], top: float, width: float) -> tuple[list[str], float]:
    """What each arrow means, wrapped to the width; and the y of its last line."""
    meanings: list[tuple[str, str]] = []
    for box in boxes[1:]:
        meanings.append((box.kind, box.layer))
        if box.copied:
            meanings.append(("skip", "copied skip"))
    lines = []
    x = MARGIN
    for kind, words in dict.fromkeys(meanings):
        length = 34 + LETTER * len(words) + MARGIN
        if x > MARGIN and x + length > width:
            x, top = MARGIN, top + LINE
        lines.append(arrow(kind, x, top - 4, x + 26, 0))
        lines.append(text(x + 34, top, words))
        x += length
    return lines, top


def arrow(kind: str, x: float, y: float, to_x: float, to_y: float) -> str:
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


def rectangle(x: float, y: float, width: float, height: float, kind: str) -> str:
    """A rectangle."""
    return (
        f'<rect class="{kind}" x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}"/>'
    )


def text(x: float, y: float, words: str, kind: str = "plain") -> str:
    """A line of text; an x between numbers becomes a multiplication sign."""
    words = words.replace(" x ", " &#215; ")
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}">{words}</text>'


def main(folder: Path) -> None:
    """Write the figures of the default network and of the paper's into a folder."""
    with torch.device("meta"):
        networks = {"unet": (UNet(), (160, 240)), "unet-paper": (UNet.paper(), (572, 572))}
    for name, (network, size) in networks.items():
        drawn = draw(network.eval(), size)
        (folder / f"{name}.svg").write_text(drawn, encoding="ascii", newline="\n")


if __name__ == "__main__":
    main(Path(__file__).parent)
