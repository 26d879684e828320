"""From coarse to fine: seen again at full size, but only where the first look is unsure.

In: a picture, and the logits that other networks give from a smaller one. Out: logits in which
the cells near unsure pixels are replaced by those of a network that sees the picture as it is,
together with the probabilities that it refines. (Two stages of this kind, the second one on
windows around what is uncertain, are those of Kirillov et al. 2020, PointRend, section 3, with
windows of a U-Net in place of points.)
"""

import math
from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from plainunet.formats.images import to_unit
from plainunet.formats.windows import Windows, as_channels
from plainunet.network.device import arithmetic
from plainunet.network.unet import UNet
from plainunet.prediction.cells import CELL, MARGIN, WINDOW, cells_near, window_at
from plainunet.prediction.tiling import values_for
from plainunet.prediction.views import judging, require_finite

UNSURE = 0.9
"""A pixel is unsure where its likeliest class leads the next by less than this probability."""
_AT_ONCE = 16


class Refiner:
    """A network that looks again where other networks are unsure.

    Attributes:
        network: The network; its input are the channels of the picture and, for each class but
            the first, its probability.
        sees: What masks depend on beside the weights.
        values: What is computed at a time, as of `tiling.WHOLE`.
        least: Less than this, one window, makes no difference.
    """

    sees = ("windows", CELL, MARGIN, UNSURE)

    def __init__(
        self, network: UNet, *, precision: torch.dtype, memory: float | None = None
    ) -> None:
        """Take a network.

        Args:
            network: The network, where it runs; its mode is left as it is.
            precision: Arithmetic of convolutions.
            memory: What a picture may take [bytes], as of `tiling.values_for`.
        """
        self.network = network
        self._device = next(network.parameters()).device
        self._precision = precision
        self.values = values_for(memory)
        self.least: int = WINDOW**2 * network.architecture["base_channels"]

    def row_needed(self, first: int, height: int) -> int:
        """Say from which row on the coarse logits are needed.

        Args:
            first: The row of the result that is given first.
            height: The picture's rows.

        Returns:
            The row.
        """
        return window_at(first - first % CELL, height)

    def bands(self, picture: Windows, coarse: Iterator[Tensor], first: int = 0) -> Iterator[Tensor]:
        """Refine logits, a few rows at a time.

        Args:
            picture: Its windows.
            coarse: [K, n, W] float32 (or, of two classes, the difference [1, n, W]), from top to
                bottom, the rows from `row_needed` on.
            first: The row to begin with.

        Yields:
            The same, from top to bottom, the rows from `first` on.

        Raises:
            NotFiniteError: The network gives values that are not finite.
            ValueError: The picture has another number of channels.
        """
        height = picture.shape[0]
        held = next(coarse)
        shown = as_channels(picture, self.network.in_channels - max(1, len(held) - 1))
        begin = self.row_needed(first, height)
        for top in range(first - first % CELL, height, CELL):
            needed = min(height, max(top + CELL + MARGIN, begin + WINDOW))
            parts = [held]
            while begin + sum(part.shape[1] for part in parts) < needed:
                parts.append(next(coarse))
            held = torch.cat(parts, dim=1) if len(parts) > 1 else held
            band = self._refined(shown, held[:, : needed - begin], begin, top)
            yield band[:, max(first - top, 0) :]
            following = window_at(top + CELL, height)
            held, begin = held[:, following - begin :], following

    def _refined(self, picture: Windows, coarse: Tensor, begin: int, top: int) -> Tensor:
        """A row of cells, [K, n, W]; `coarse` begins with row `begin`, and the cells with `top`."""
        height, width, _ = picture.shape
        rows = min(CELL, height - top)
        band = coarse[:, top - begin : top - begin + rows]
        cells = cells_near(is_unsure(coarse).cpu().numpy(), top - begin)
        if not len(cells):
            return band
        band = band.clone()
        lefts = [window_at(int(cell), width) for cell in cells]
        pixels = picture.read(begin, min(lefts), WINDOW, max(lefts) + WINDOW - min(lefts))
        at_once = max(1, min(_AT_ONCE, self.values // self.least))
        for start in range(0, len(cells), at_once):
            group = range(start, min(start + at_once, len(cells)))
            windows = np.stack([_cut(pixels, lefts[n] - min(lefts)) for n in group])
            logits = [_padded(coarse[:, :WINDOW, lefts[n] : lefts[n] + WINDOW]) for n in group]
            fine = self._run(to_unit(windows), torch.stack(logits))
            for n, refined in zip(group, fine, strict=True):
                cell = int(cells[n])
                columns = min(CELL, width - cell)
                part = refined[:, top - begin :, cell - lefts[n] :][:, :rows, :columns]
                band[:, :, cell : cell + columns] = part
        return band

    @torch.inference_mode()
    def _run(self, windows: NDArray[np.float32], coarse: Tensor) -> Tensor:
        """Logits as the coarse ones, [N, K, h, w], of pictures [N, h, w, C]."""
        pixels = torch.from_numpy(windows).permute(0, 3, 1, 2).to(self._device)
        batch = torch.cat([pixels, told(coarse)], dim=1)
        batch = batch.contiguous(memory_format=torch.channels_last)
        with judging(self.network), arithmetic(self._device, self._precision):
            logits: Tensor = self.network(batch).float()
        require_finite(logits)
        return logits[:, 1:] - logits[:, :1] if coarse.shape[1] == 1 else logits


def told(coarse: Tensor) -> Tensor:
    """Turn coarse logits into what the fine network is told.

    Args:
        coarse: [N, K, h, w], or of two classes the difference [N, 1, h, w].

    Returns:
        Probabilities of all classes but the first, [N, K - 1, h, w], or [N, 1, h, w].
    """
    return coarse.sigmoid() if coarse.shape[1] == 1 else coarse.softmax(dim=1)[:, 1:]


def is_unsure(logits: Tensor) -> Tensor:
    """Find the pixels of which a network is unsure.

    Args:
        logits: [K, h, w], or of two classes the difference [1, h, w].

    Returns:
        [h, w] bool.
    """
    if len(logits) == 1:  # p - (1 - p) = tanh(d / 2)
        return logits[0].abs() < 2 * math.atanh(UNSURE)
    first, second = logits.softmax(dim=0).topk(2, dim=0).values
    unsure: Tensor = first - second < UNSURE
    return unsure


def _cut(pixels: NDArray[np.generic], left: int) -> NDArray[np.generic]:
    """A window of rows of a picture; one that is smaller is padded by its edge."""
    part = pixels[:, left : left + WINDOW]
    below, right = WINDOW - part.shape[0], WINDOW - part.shape[1]
    return np.pad(part, ((0, below), (0, right), (0, 0)), mode="edge") if below or right else part


def _padded(logits: Tensor) -> Tensor:
    """The same of logits [K, h, w]."""
    below, right = WINDOW - logits.shape[1], WINDOW - logits.shape[2]
    return F.pad(logits[None], (0, right, 0, below), mode="replicate")[0]
