"""The inference path as PyTorch modules that can be exported: image as stored -> mask.

`Prepare` reduces, scales and pads an image as `prediction.views` does, and `Restore` resizes the
logits as `prediction.views.enlarge` does. Both compute all sizes as tensors, so that one graph
serves images of any size; positions are integers, so that they are exact.
"""

import io
import json
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from plainunet.network.card import KEY, Card
from plainunet.network.own import Network, OwnNetwork
from plainunet.network.sizes import Sizes
from plainunet.parts import PartError
from plainunet.system import shorten

UNITS = {torch.uint8: 255.0, torch.uint16: 65535.0, torch.float32: 1.0}
"""What values of each dtype of an image are divided by."""


@dataclass(frozen=True)
class Scale:
    """The scale policy of a model: from an image's size to that of the network's input.

    Attributes:
        box: Height and width that images are reduced to fit in, or None.
        factor: Without a box, the scale factor of the sides.
        sizes: Which sizes fit the network.
    """

    box: tuple[int, int] | None
    factor: float
    sizes: Sizes

    @property
    def is_native(self) -> bool:
        """Whether images keep their size."""
        return self.box is None and self.factor == 1

    def reduced(self, size: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """Height and width of a reduced image, as by `View`; all are int64 of shape []."""
        if self.is_native:
            return size
        height, width = (side.double() for side in size)
        factor: Tensor | float = self.factor
        if self.box:
            # of tensors: a number over a tensor would be exported as a product, which rounds twice
            most = [torch.full((), side, dtype=torch.float64) for side in self.box]
            factor = torch.minimum(most[0] / height, most[1] / width).clamp(max=1.0)
        scaled = ((side * factor).round().clamp(min=1).long() for side in (height, width))
        return next(scaled), next(scaled)

    def sources(self, axis: int, side: Tensor) -> Tensor:
        """The reduced image's row (axis 0) or column of each one of the network's input, int64.

        `side` is the reduced image's height or width. Beyond it, the last one is repeated; with
        valid convolutions the image is then surrounded by its reflection.
        """
        if not self.sizes.valid:
            length = self.box[axis] if self.box else _as_length(side.clamp(min=self.sizes.smallest))
            return torch.minimum(torch.arange(length), side - 1)
        step = 2**self.sizes.depth
        if self.box:
            length, whole = self.sizes.input_size(*self.box)[axis], torch.full((), self.box[axis])
        else:  # as by `input_side`: the logits are at least as large as the image
            coarse = (side + (2 * _VALID_MARGIN - 4) * step - 4 + step - 1) // step
            length, whole = _as_length(coarse * step + 4 * (step - 1)), side
        position = torch.arange(length) - (_VALID_MARGIN * step - 4)
        period = (2 * (whole - 1)).clamp(min=1)
        position = position % period
        return torch.minimum(torch.minimum(position, period - position), side - 1)


_VALID_MARGIN = 6
"""Pixels around the logits of valid convolutions: this times 2^depth, minus 4."""


class Prepare(nn.Module):
    """An image as stored to the network's input."""

    def __init__(self, scale: Scale) -> None:
        """Take the scale policy."""
        super().__init__()
        self.scale = scale

    def forward(self, image: Tensor) -> Tensor:
        """[N, H, W, C] uint8, uint16 or float32 -> [N, C, h, w] float32, in 0..1 for integers."""
        values, unit = image.float(), UNITS[image.dtype]
        if unit != 1 and image.dtype != torch.uint8:
            values = values / unit
        reduced = self._select(values) if self.scale.is_native else self._average(values, image)
        return reduced / unit if image.dtype == torch.uint8 else reduced

    def _select(self, values: Tensor) -> Tensor:
        height, width = _size(values)
        rows, columns = self.scale.sources(0, height), self.scale.sources(1, width)
        return values.permute(0, 3, 1, 2).index_select(2, rows).index_select(3, columns)

    def _average(self, values: Tensor, image: Tensor) -> Tensor:
        own = _size(values)
        reduced = self.scale.reduced(own)
        rows, columns = (
            area_weights(
                self.scale.sources(axis, reduced[axis]), reduced[axis], values.shape[axis + 1]
            )
            for axis in (0, 1)
        )
        _, height, width, channels = values.shape
        torch._check(rows.shape[0] * width * channels != 1)  # for torch.export
        narrow = rows @ values.reshape(-1, height, width * channels)
        narrow = narrow.reshape(-1, rows.shape[0], width, channels).permute(0, 3, 1, 2)
        result = narrow @ columns.t()
        if image.dtype == torch.uint8:  # `reduce_once` averages uint8 to uint8
            halved = (own[0] == 2 * reduced[0]) & (own[1] == 2 * reduced[1])
            # at half the size, OpenCV rounds .5 up, else to even
            result = torch.round(result + halved.float() * 1e-3)
        return result


class Restore(nn.Module):
    """Logits to probabilities and a mask of the image's own size."""

    def __init__(self, scale: Scale, classes: int, threshold: float) -> None:
        """Take the scale policy, the number of classes and, for two, the threshold."""
        super().__init__()
        self.scale, self.classes = scale, classes
        self.least = float(torch.logit(torch.tensor(threshold, dtype=torch.float64)))

    def forward(self, logits: Tensor, image: Tensor) -> tuple[Tensor, Tensor]:
        """[N, K, h, w] and the image -> [N, K, H, W] float32 and [N, H, W] uint8."""
        if self.classes == 2:  # as in `Predictor`: one plane is resized, not two
            logits = logits[:, 1:] - logits[:, :1]
        logits = self._resize(logits, image)
        if self.classes == 2:
            mask = logits[:, 0] >= self.least
            second = logits.sigmoid()
            return torch.cat([1 - second, second], 1), mask.to(torch.uint8)
        return logits.softmax(1), logits.argmax(1).to(torch.uint8)

    def _resize(self, logits: Tensor, image: Tensor) -> Tensor:
        own = _size(image)
        if self.scale.is_native:
            rows, columns = (torch.arange(side) for side in image.shape[1:3])
            return logits.index_select(2, rows).index_select(3, columns)
        reduced = self.scale.reduced(own)
        for axis in (1, 0):  # rows last: copying whole rows is faster
            above, below, fraction = positions(reduced[axis], image.shape[axis + 1])
            fraction = fraction[:, None] if axis == 0 else fraction
            upper = logits.index_select(axis + 2, above)
            lower = logits.index_select(axis + 2, below)
            logits = upper + (lower - upper) * fraction
        return logits


class Pipeline(nn.Module):
    """The whole inference path of a checkpoint, without tiling and test-time augmentation."""

    def __init__(self, network: Network, card: Card) -> None:
        """Take the network, in eval mode, and its card."""
        super().__init__()
        scale = Scale(card.size, card.factor, network.sizes)
        self.prepare = Prepare(scale)
        self.network = network
        self.restore = Restore(scale, network.num_classes, card.threshold)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Image [N, H, W, C] -> probabilities [N, K, H, W] float32, mask [N, H, W] uint8."""
        result: tuple[Tensor, Tensor] = self.restore(self.network(self.prepare(image)), image)
        return result


def area_weights(sources: Tensor, reduced: Tensor, side: int) -> Tensor:
    """Weights [n, side] of the pixels of an image's side in area averages.

    `sources` [n] are rows of an image reduced to `reduced` rows; each is the mean over
    side / reduced pixels.
    """
    length = torch.scalar_tensor(side, dtype=torch.int64)
    # in units of 1 / reduced pixels, in which all edges are integers
    edges = torch.arange(side) * reduced
    begin = sources[:, None] * length
    overlap = torch.minimum(begin + length, edges + reduced) - torch.maximum(begin, edges)
    return overlap.clamp(min=0).float() / length.float()


def positions(side: Tensor, wanted: int) -> tuple[Tensor, Tensor, Tensor]:
    """Where rows of the image are among those of the logits, as in `views.enlarge`.

    Returns the rows above and below, int64, and the weight of the one below, each [wanted].
    """
    length = torch.scalar_tensor(wanted, dtype=torch.int64)
    # (row + 1/2) * side / wanted - 1/2, in units of 1 / (2 wanted)
    place = ((2 * torch.arange(wanted) + 1) * side - length).clamp(min=0)
    above = torch.minimum(place // (2 * length), side - 1)
    below = torch.minimum(above + 1, side - 1)
    return above, below, (place % (2 * length)).float() / (2 * length).float()


def _size(image: Tensor) -> tuple[Tensor, Tensor]:
    """Height and width of [N, H, W, C] as int64 tensors of shape []."""
    height, width = (torch.scalar_tensor(side, dtype=torch.int64) for side in image.shape[1:3])
    return height, width


def _as_length(side: Tensor) -> int:
    length = cast(int, side.item())  # a symbol during an export
    torch._check(length >= 1)
    return length


class PrepareTile(nn.Module):
    """`Prepare` for float tiles [N, C, H, W] in 0..1."""

    def __init__(self, prepare: Prepare) -> None:
        """Wrap it."""
        super().__init__()
        self.prepare = prepare

    def forward(self, tile: Tensor) -> Tensor:
        """Tiles -> [N, C, h, w] float32."""
        result: Tensor = self.prepare(tile.permute(0, 2, 3, 1))
        return result


class RestoreTile(nn.Module):
    """`Restore` for tiles [N, C, H, W]: probabilities alone.

    If shifted, those of two classes are shifted so that the threshold becomes 0.5: whoever takes
    the more probable class follows the threshold.
    """

    def __init__(self, restore: Restore, shifted: bool = True) -> None:
        """Wrap it."""
        super().__init__()
        self.restore, self.shifted = restore, shifted

    def forward(self, logits: Tensor, tile: Tensor) -> Tensor:
        """[N, K, h, w] and the tiles -> [N, K, H, W] float32."""
        if self.shifted and self.restore.classes == 2:
            least = min(max(self.restore.least, -_FINITE), _FINITE)
            logits = torch.cat([logits[:, :1] + least, logits[:, 1:]], 1)
        result: Tensor = self.restore(logits, tile.permute(0, 2, 3, 1))[0]
        return result


_FINITE = 30.0
"""Logit beyond which a sigmoid is 0 or 1 in float32."""


@contextmanager
def exporting(module: nn.Module, to: str) -> Iterator[None]:
    """Silence an exporter of PyTorch, whose warnings are for its developers.

    If it fails on a network that the user wrote, that is a PartError.
    """
    own = next((each for each in module.modules() if isinstance(each, OwnNetwork)), None)
    with quiet():
        if own is None:
            yield
            return
        try:
            with redirect_stderr(io.StringIO()):  # PyTorch prints the whole graph
                yield
        except Exception as error:
            first = shorten((str(error).strip() or type(error).__name__).splitlines()[0], 200)
            raise PartError(
                f"--network {own.name}: cannot be exported to {to} ({first.rstrip('.')}). Write it "
                "with PyTorch's own operators, without an if on the values of a tensor, or predict "
                "with the checkpoint."
            ) from error


@contextmanager
def quiet() -> Iterator[None]:
    """Silence a library."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def build_program(
    pipeline: Pipeline, dtype: torch.dtype
) -> Callable[[Path, Mapping[str, Any]], None]:
    """Export a pipeline for images of a dtype; the function writes it as .pt2.

    The input is [N, H, W, C], of any size; the outputs are probabilities [N, K, H, W] float32 and a
    mask [N, H, W] uint8. The metadata is JSON in the extra file "plainunet".
    """
    sizes, channels = pipeline.network.sizes, pipeline.network.in_channels
    image = torch.zeros(2, 4 * sizes.smallest + 3, 4 * sizes.smallest + 5, channels).to(dtype)
    pipeline.requires_grad_(False)  # whoever runs the program has no gradients to switch off
    axes = {axis: torch.export.Dim.DYNAMIC for axis in range(3)}
    with exporting(pipeline, "torch"), torch.no_grad():
        program = torch.export.export(pipeline.eval(), (image,), dynamic_shapes=(axes,))

    def write(path: Path, metadata: Mapping[str, Any]) -> None:
        with quiet():
            torch.export.save(program, path, extra_files={KEY: json.dumps(metadata)})

    return write
