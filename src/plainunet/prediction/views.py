"""One view of an image: the network's probabilities at one scale, and the mean of several."""

import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from plainunet.dataset.resize import fit_size, reduce_size, resize
from plainunet.formats.images import to_unit
from plainunet.formats.windows import ArrayWindows, Windows, as_channels
from plainunet.network.checkpoint import Card
from plainunet.network.device import arithmetic
from plainunet.network.unet import UNet
from plainunet.prediction.tiling import least_values, logit_bands, values_for

_BAND_BYTES = 32 * 2**20
"""Bytes of a picture's rows that are averaged at a time."""


class Reduced:
    """A picture as the network takes it: reduced by averaging areas, integers divided, padded.

    Attributes:
        size: Height and width, padding included [pixels].
    """

    def __init__(
        self,
        picture: Windows,
        reduced: tuple[int, int],
        size: tuple[int, int],
        device: torch.device,
    ) -> None:
        """Take a picture.

        Args:
            picture: Its windows.
            reduced: Height and width that it is reduced to, or enlarged [pixels].
            size: What its edge is repeated to fill, at the right and bottom [pixels].
            device: Where what is read goes.
        """
        self.size = size
        self._reduced, self._device = reduced, device
        self._strip: tuple[int, int, NDArray[np.float32]] | None = None
        if isinstance(picture, ArrayWindows) and reduced != picture.shape[:2]:
            picture = ArrayWindows(reduce_once(picture, reduced))
        self._picture = picture

    def read(self, top: int, left: int, height: int, width: int) -> Tensor:
        """As of `tiling.Source`; channels lie last in memory."""
        # of what is padded, the last row or column of the picture
        first, start = min(top, self._reduced[0] - 1), min(left, self._reduced[1] - 1)
        rows = min(top + height, self._reduced[0]) - first
        columns = min(left + width, self._reduced[1]) - start
        if self._reduced == self._picture.shape[:2]:
            part = to_unit(self._picture.read(first, start, rows, columns))
        else:
            part = self._rows(first, rows)[:, start : start + columns]
        margin = ((0, height - rows), (0, width - columns), (0, 0))
        if height > rows or width > columns:
            part = np.pad(part, margin, mode="edge")
        return torch.from_numpy(np.ascontiguousarray(part)).permute(2, 0, 1).to(self._device)

    def _rows(self, first: int, count: int) -> NDArray[np.float32]:
        """Some rows of a picture that is reduced part by part; the last ones are kept."""
        if self._strip is None or self._strip[:2] != (first, count):
            self._strip = first, count, _averaged(self._picture, self._reduced, first, count)
        return self._strip[2]


def reduce_once(picture: ArrayWindows, size: tuple[int, int]) -> NDArray[Any]:
    """Bring a picture to another size, if that was not done before.

    Args:
        picture: The picture; the result is kept with it.
        size: New height and width [pixels].

    Returns:
        [size[0], size[1], C], uint8 as it was, anything else as float32 by `to_unit`.
    """
    if size not in picture.reduced:
        image = picture.read(0, 0, *picture.shape[:2])
        image = image if image.dtype == np.uint8 else to_unit(image)
        picture.reduced[size] = resize(image, size)
    return picture.reduced[size]


def _averaged(
    picture: Windows, size: tuple[int, int], first: int, count: int
) -> NDArray[np.float32]:
    """Average areas of a picture that is read in parts: some rows of the result."""
    height, width, channels = picture.shape
    scale = height / size[0]
    top, end = math.floor(first * scale), min(height, math.ceil((first + count) * scale - 1e-9))
    at_once = max(1, _BAND_BYTES // (4 * width * channels))
    total = np.zeros((count, size[1] * channels), np.float32)
    for begin in range(top, end, at_once):
        rows = min(at_once, end - begin)
        values = to_unit(picture.read(begin, 0, rows, width))
        parts = [
            cv2.resize(values[..., c : c + 4], (size[1], rows), interpolation=cv2.INTER_AREA)
            for c in range(0, channels, 4)
        ]
        narrow = np.concatenate([part.reshape(rows, size[1], -1) for part in parts], axis=2)
        # how much of each stored row lies in each row of the result
        edges = (first + np.arange(count + 1)) * scale
        lines = begin + np.arange(rows)
        inside = np.minimum(edges[1:, None], lines + 1) - np.maximum(edges[:-1, None], lines)
        share = (np.clip(inside, 0, None) / scale).astype(np.float32)
        total += share @ narrow.reshape(rows, -1)
    return total.reshape(count, size[1], channels)


def enlarged(
    bands: Iterable[tuple[int, Tensor]],
    size: tuple[int, int],
    wanted: tuple[int, int],
    at_once: int,
    first: int = 0,
) -> Iterator[Tensor]:
    """Bring logits bilinearly to the size of their picture.

    Args:
        bands: Number of the first row and logits [K, n, w] float32, from top to bottom, from
            `row_above(first, ...)` on or before it.
        size: h and w [pixels].
        wanted: H and W [pixels].
        at_once: So many rows are given at a time, at most.
        first: The row of the result that is given first.

    Yields:
        Logits [K, N, W], from top to bottom, the rows from `first` on.
    """
    if size == wanted:
        for top, band in bands:
            if top + band.shape[1] > first:
                yield band[:, max(first - top, 0) :]
        return
    place = _places(size[0], wanted[0])
    above = place.floor().long().clamp(max=size[0] - 1)
    below = (above + 1).clamp(max=size[0] - 1)
    share = (place - above).float()
    held, top, done = torch.empty(0), 0, first
    for number, band in bands:
        if held.numel():
            held = torch.cat([held, band], dim=1)
        else:
            held, top = band, number
        while done < wanted[0]:
            known = int(torch.searchsorted(below, top + held.shape[1]))
            rows = slice(done, min(known, done + at_once))
            if rows.start >= rows.stop:
                break
            weight = share[rows].to(held.device)[:, None]
            upper, lower = held[:, above[rows] - top], held[:, below[rows] - top]
            mixed = torch.lerp(upper, lower, weight)
            to = (mixed.shape[1], wanted[1])
            yield F.interpolate(mixed[None], size=to, mode="bilinear", align_corners=False)[0]
            done = rows.stop
        if done < wanted[0]:
            gone = min(max(int(above[done]) - top, 0), held.shape[1])
            held, top = held[:, gone:], top + gone


def row_above(row: int, height: int, wanted: int) -> int:
    """Say which row of logits is needed first.

    Args:
        row: A row of the result.
        height: Rows of the logits.
        wanted: Rows of the result.

    Returns:
        The upper one of the two rows that it lies between.
    """
    return row if height == wanted else int(_places(height, wanted)[row].floor())


def _places(height: int, wanted: int) -> Tensor:
    """Where the rows of a result lie among those of the logits, as F.interpolate has it."""
    middles = torch.arange(wanted, dtype=torch.float64) + 0.5
    return (middles * (height / wanted) - 0.5).clamp(min=0)


_AT_ONCE = 64 * 2**20
"""Bytes of logits that are enlarged at a time."""
TTA = {
    "none": ((0, False),),
    "mirror": ((0, False), (0, True)),
    "flips": ((0, False), (0, True), (2, False), (2, True)),
    "turns": tuple((quarters, flip) for quarters in range(4) for flip in (False, True)),
}
"""Test-time augmentation: quarter turns, and whether left and right are exchanged before."""


class NotFiniteError(ValueError):
    """The network gives infinities, or what is not a number."""


class View:
    """A network, the size at which it sees pictures, and the turns in which it does.

    Attributes:
        network: The network.
        box: Height and width that a picture is reduced to fit in, or None where it is `factor`.
        factor: Length of a picture's side afterwards, as a share of its own.
        values: What is computed at a time, as of `tiling.WHOLE`.
        least: Less than this makes no difference.
    """

    def __init__(
        self,
        network: UNet,
        card: Card,
        scale: float = 1.0,
        *,
        precision: torch.dtype,
        memory: float | None = None,
    ) -> None:
        """Put a view together.

        Args:
            network: The network, where it runs; its mode is left as it is.
            card: Its description, of which the scale policy and the test-time augmentation count.
            scale: The picture is seen so many times as large as the scale policy says.
            precision: Arithmetic of convolutions.
            memory: What a picture may take [bytes], as of `tiling.values_for`.
        """
        self.network = network
        self._device = next(network.parameters()).device
        box = card.size and tuple(max(1, round(side * scale)) for side in card.size)
        self.box = (box[0], box[1]) if box else None
        self.factor = card.factor * scale
        self._turns = TTA[card.tta]
        self._precision = precision
        self.values, self.least = values_for(memory), least_values(network)

    def prepare(self, picture: ArrayWindows) -> None:
        """Reduce a picture, before `bands` would.

        Args:
            picture: A picture in memory; what it is reduced to is kept with it.
        """
        size = self._size_of(picture)
        if size != picture.shape[:2] and picture.shape[2] == self.network.in_channels:
            reduce_once(picture, size)

    def _size_of(self, picture: Windows) -> tuple[int, int]:
        own = picture.shape[:2]
        return fit_size(own, self.box) if self.box else reduce_size(own, self.factor)

    def bands(self, picture: Windows, as_difference: bool, first: int = 0) -> Iterator[Tensor]:
        """Give a picture's logits at its own size, a few rows at a time.

        Args:
            picture: Its windows.
            as_difference: Whether two classes' logits are given as the second's minus the
                first's, in half of the time.
            first: The row to begin with.

        Yields:
            [K, n, W] float32 (or [1, n, W]), from top to bottom, the rows from `first` on.

        Raises:
            NotFiniteError: The network gives values that are not finite.
            ValueError: The picture has another number of channels.
        """
        box, own, size = self.box, picture.shape[:2], self._size_of(picture)
        least = box or (size if self.network.valid else self.network.input_size(*size))
        padded = max(size[0], least[0]), max(size[1], least[1])
        shown = as_channels(picture, self.network.in_channels)
        source = Reduced(shown, size, padded, self._device)
        classes = 1 if as_difference else self.network.num_classes
        at_once = max(1, _AT_ONCE // (4 * classes * own[1]))
        needed = row_above(first, size[0], own[0])
        bands = self._reduced(source, size, needed, as_difference)
        yield from enlarged(bands, size, own, at_once, first)

    def _reduced(
        self, source: Reduced, size: tuple[int, int], first: int, as_difference: bool
    ) -> Iterator[tuple[int, Tensor]]:
        """Logits [K, n, w] float32 (or [1, n, w]) of the reduced picture, padding cut off."""
        run = partial(self._run, as_difference=as_difference)
        channels = 1 if as_difference else None
        for top, band in logit_bands(self.network, source, self.values, run, first, channels):
            if top >= size[0]:
                return
            inside = band[:, : size[0] - top, : size[1]].float()
            require_finite(inside)
            yield top, inside

    @torch.inference_mode()
    def _run(self, batch: Tensor, as_difference: bool) -> Tensor:
        """Logits [N, K, h, w] (or [N, 1, h, w]) of pictures [N, C, H, W]."""

        def look(how: tuple[int, bool]) -> Tensor:
            logits: Tensor = self.network(turn(batch, how)).float()
            return turn_back(logits[:, 1:] - logits[:, :1] if as_difference else logits, how)

        with judging(self.network), arithmetic(self._device, self._precision):
            return log_mean(map(look, self._turns), dim=1)


@contextmanager
def judging(network: UNet) -> Iterator[None]:
    """Have a network as it predicts, and afterwards as it was.

    Args:
        network: The network; a live one may be in training.
    """
    was_training = network.training
    network.eval()
    try:
        yield
    finally:
        network.train(was_training)


def require_finite(logits: Tensor) -> None:
    """Refuse what is no prediction.

    Args:
        logits: What a network gives.

    Raises:
        NotFiniteError: There are values that are not finite.
    """
    if not logits.isfinite().all():
        raise NotFiniteError(
            "the network gives values that are not finite for this picture: its weights are "
            "damaged, or its training went astray. Take another checkpoint."
        )


def turn(batch: Tensor, how: tuple[int, bool]) -> Tensor:
    """Mirror and turn pictures.

    Args:
        batch: [N, C, H, W].
        how: Quarter turns to the left, and whether left and right are exchanged before.

    Returns:
        [N, C, H, W], or [N, C, W, H] after an odd number of turns; channels last in memory.
    """
    quarters, flip = how
    batch = batch.flip(3) if flip else batch
    turned = batch.rot90(quarters, (2, 3)) if quarters else batch
    return turned.contiguous(memory_format=torch.channels_last)


def turn_back(batch: Tensor, how: tuple[int, bool]) -> Tensor:
    """Undo `turn`.

    Args:
        batch: [N, K, H, W], or [N, K, W, H].
        how: As of `turn`.

    Returns:
        [N, K, H, W].
    """
    quarters, flip = how
    batch = batch.rot90(-quarters, (2, 3)) if quarters else batch
    return batch.flip(3) if flip else batch


def log_mean(several: Iterable[Tensor], dim: int) -> Tensor:
    """Average probabilities, in and out as logits.

    Args:
        several: Logits of equal shape, each asked for when the one before is dealt with. Of a
            single element along `dim`, the difference of the logits of two classes.
        dim: Where the classes lie.

    Returns:
        Logits whose softmax (or sigmoid) is the mean of theirs; of one, itself.
    """
    rest = iter(several)
    first, count = next(rest), 1
    total: Tensor | None = None
    is_difference = first.shape[dim] == 1

    def in_logarithms(logits: Tensor) -> Tensor:
        if is_difference:
            return torch.cat([F.logsigmoid(logits), F.logsigmoid(-logits)], dim)
        return logits.log_softmax(dim)

    for logits in rest:
        total = in_logarithms(first) if total is None else total
        total, count = torch.logaddexp(total, in_logarithms(logits)), count + 1
    if total is None:
        return first
    if is_difference:
        above, below = total.chunk(2, dim)
        return above - below
    return total - math.log(count)


def in_step(streams: Sequence[Iterator[Tensor]]) -> Iterator[list[Tensor]]:
    """Go through several bands of rows side by side, however each is cut.

    Args:
        streams: Each gives [K, n, W], from top to bottom, the same number of rows in all.

    Yields:
        A band of each, of equal height.
    """
    held = [next(stream) for stream in streams]
    while True:
        rows = min(band.shape[1] for band in held)
        yield [band[:, :rows] for band in held]
        held = [band[:, rows:] for band in held]
        for number, stream in enumerate(streams):
            if not held[number].shape[1]:
                following = next(stream, None)
                if following is None:
                    return
                held[number] = following
