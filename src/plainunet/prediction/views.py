"""One view of a picture: what a network says of it at one size, and the mean of several.

The picture is reduced as the scale policy says, padded, run through the network, whole or, if it
is large then, in tiles, and the logits are brought back to the picture's own size bilinearly. All
this goes from top to bottom, so that no more of the picture need be in memory than the network
sees at a time. Views may differ in the network (an ensemble) and in the size; in each of them the
network may see what it sees mirrored and turned as well (test-time augmentation).
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

from plainunet.data.resizing import fit_size, reduce_size
from plainunet.data.windows import ArrayWindows, Windows, as_channels
from plainunet.network.checkpoint import Card
from plainunet.network.device import arithmetic
from plainunet.network.unet import UNet
from plainunet.prediction.scaling import Reduced, enlarged, reduce_once, row_above
from plainunet.prediction.tiling import least_values, logit_bands, values_for

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
        sees: Both: what masks depend on beside the weights.
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
        self.sees = self.box, self.factor
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
