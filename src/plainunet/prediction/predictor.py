"""From a picture to its mask: the only road.

The picture is reduced as the checkpoint's scale policy says, padded, run through the
network, whole or, if it is large then, in tiles, and the logits are brought back to the picture's
own size bilinearly before a class is chosen. All this goes from top to bottom, so that no more of
the picture need be in memory than the network sees at a time.
"""

import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from plainunet.data.resizing import fit_size, reduce_size
from plainunet.data.windows import ArrayWindows, Windows, as_channels
from plainunet.network.checkpoint import Card, load_checkpoint
from plainunet.network.device import (
    arithmetic,
    choose_device,
    choose_precision,
    to_device,
)
from plainunet.network.unet import UNet
from plainunet.palette import default_colors
from plainunet.prediction.scaling import Reduced, enlarged, row_above
from plainunet.prediction.tiling import logit_bands, values_for

FAR = 6
"""A picture is far from the training pictures when its area is so many times theirs, or less
than one so-many-th."""


_AT_ONCE = 64 * 2**20
"""Bytes of logits that are enlarged at a time."""


class NotFiniteError(ValueError):
    """The network gives infinities, or what is not a number."""


class Predictor:
    """A network with all that is needed to use it on pictures as they are on disk."""

    def __init__(
        self,
        network: UNet,
        card: Card | None = None,
        *,
        device: str = "auto",
        precision: str = "auto",
        memory: float | None = None,
    ) -> None:
        """Wrap a live network; it is used as it is, and moved to the device.

        Args:
            network: The network, reachable as `network`.
            card: Its description: scale policy, classes, threshold. Left out: pictures are
                taken at their own size, and classes have numbers for names.
            device: "auto", "cpu", "cuda" or "mps".
            precision: "auto", "fp32" or "bf16".
            memory: What a picture may take [bytes], beside what the process has anyway; larger
                pictures are seen in tiles. Left out, tiles are taken where one pass would
                take more than about two gigabytes.

        Raises:
            ValueError: There is no such device, or the card has another number of classes.
        """
        if card is None:
            numbers = tuple(str(number) for number in range(network.num_classes))
            card = Card(numbers, default_colors(network.num_classes), size=None)
        if len(card.class_names) != network.num_classes:
            raise ValueError(
                f"{len(card.class_names)} class names for a network of {network.num_classes} "
                "classes, background included."
            )
        self.device = choose_device(device)
        self.precision = choose_precision(precision, self.device)
        self.network = to_device(network, self.device)
        self.card = card
        self.memory = memory
        self._said: set[str] = set()

    @classmethod
    def load(
        cls,
        path: str | Path,
        *,
        device: str = "auto",
        precision: str = "auto",
        memory: float | None = None,
    ) -> Self:
        """Read a checkpoint.

        Args:
            path: A `best.safetensors`.
            device: "auto", "cpu", "cuda" or "mps".
            precision: "auto", "fp32" or "bf16".
            memory: What a picture may take [bytes].

        Returns:
            A predictor that needs no other setting.
        """
        network, card = load_checkpoint(Path(path))
        return cls(network, card, device=device, precision=precision, memory=memory)

    def predict(self, image: NDArray[Any]) -> NDArray[np.uint8]:
        """Choose a class for each pixel.

        Args:
            image: [H, W, C] (or [H, W] for one channel), integers or floats, as stored.

        Returns:
            Mask [H, W] uint8 of class ids at the picture's own size.
        """
        return np.concatenate(list(self.mask_bands(_windows(image))))

    def probabilities(self, image: NDArray[Any]) -> NDArray[np.float32]:
        """Give the probability of each class in each pixel.

        Args:
            image: [H, W, C] (or [H, W] for one channel), integers or floats, as stored.

        Returns:
            Probabilities [K, H, W] float32 at the picture's own size; they sum to 1 over K.
        """
        return np.concatenate(list(self.probability_bands(_windows(image))), axis=1)

    def mask_bands(self, picture: Windows, first: int = 0) -> Iterator[NDArray[np.uint8]]:
        """Choose a class for each pixel of a picture of any size, a few rows at a time.

        Args:
            picture: Its windows; no more of it is in memory than the network needs.
            first: The row to begin with.

        Yields:
            [n, W] uint8 class ids, from top to bottom, the rows from `first` on.
        """
        if self.network.num_classes == 2:
            # softmax over two classes is a sigmoid of the difference, and both are monotonic
            cut = float(torch.logit(torch.tensor(self.card.threshold, dtype=torch.float64)))
            for logits in self._bands(picture, lambda band: band[1:] - band[:1], first):
                yield (logits[0] >= cut).to(torch.uint8).cpu().numpy()
        else:
            for logits in self._bands(picture, lambda band: band, first):
                yield logits.argmax(dim=0).to(torch.uint8).cpu().numpy()

    def probability_bands(self, picture: Windows) -> Iterator[NDArray[np.float32]]:
        """Give the probability of each class in each pixel, a few rows at a time.

        Args:
            picture: Its windows.

        Yields:
            [K, n, W] float32, from top to bottom, H rows in all; they sum to 1 over K.
        """
        for logits in self._bands(picture, lambda band: band):
            yield logits.softmax(dim=0).cpu().numpy()

    def _bands(
        self, picture: Windows, prepare: Callable[[Tensor], Tensor], first: int = 0
    ) -> Iterator[Tensor]:
        """Logits [K', n, W] at the picture's own size from `first` on; K' as `prepare` leaves."""
        self._warn_if_other(picture)
        self._warn_if_far(picture.shape[:2])
        box, own = self.card.size, picture.shape[:2]
        size = fit_size(own, box) if box else reduce_size(own, self.card.factor)
        least = box or (size if self.network.valid else self.network.input_size(*size))
        padded = max(size[0], least[0]), max(size[1], least[1])
        shown = as_channels(picture, self.network.in_channels)
        source = Reduced(shown, size, padded, self.device)
        classes = 1 if self.network.num_classes == 2 else self.network.num_classes
        at_once = max(1, _AT_ONCE // (4 * classes * own[1]))
        needed = row_above(first, size[0], own[0])
        bands = self._reduced_bands(source, size, needed)
        prepared = ((top, prepare(band)) for top, band in bands)
        yield from enlarged(prepared, size, own, at_once, first)

    def _reduced_bands(
        self, source: Reduced, size: tuple[int, int], first: int
    ) -> Iterator[tuple[int, Tensor]]:
        """Logits [K, n, w] float32 of the picture as it is reduced, padding cut off."""
        values = values_for(self.memory)
        for top, band in logit_bands(self.network, source, values, self._run, first):
            if top >= size[0]:
                return
            inside = band[:, : size[0] - top, : size[1]].float()
            if not inside.isfinite().all():
                raise NotFiniteError(
                    "the network gives values that are not finite for this picture: its weights "
                    "are damaged, or its training went astray. Take another checkpoint."
                )
            yield top, inside

    @torch.inference_mode()
    def _run(self, batch: Tensor) -> Tensor:
        """Logits [N, K, h, w] of pictures [N, C, H, W]; the network's mode is as it was."""
        was_training = self.network.training
        self.network.eval()
        try:
            with arithmetic(self.device, self.precision):
                logits: Tensor = self.network(batch)
        finally:
            self.network.train(was_training)
        return logits.float()

    def _warn_if_other(self, image: Windows) -> None:
        """Warn once of grey pictures for a model of colours, and of another kind of integers."""
        known = self.card.training.get("dtypes", [image.dtype.name])
        integers = image.dtype.kind == "u" and all(name.startswith("uint") for name in known)
        if integers and image.dtype.name not in known:
            self._warn_once(
                f"a picture of {image.dtype.name} values, where the model was trained on "
                f"{' and '.join(known)}: each is divided by the largest value of its type, so it "
                "may look darker or brighter than those. Save it like them."
            )
        grey_is_known = self.card.training.get("grey", 0) > 0
        if image.shape[2] == 1 and self.network.in_channels == 3 and not grey_is_known:
            self._warn_once("a grey picture is shown as RGB to a model that takes colours.")

    def _warn_once(self, said: str) -> None:
        if said not in self._said:
            self._said.add(said)
            warnings.warn(said, stacklevel=6)

    def _warn_if_far(self, size: tuple[int, int]) -> None:
        """Warn about a picture much larger or smaller than any that the model was made for."""
        if self.card.size is None:
            return  # things have the same scale in it, however much of them it shows
        known = self.card.training.get("areas")
        area = size[0] * size[1]
        if known and not known[0] / FAR <= area <= known[1] * FAR:
            warnings.warn(
                f"a picture of {size[0]} x {size[1]} pixels (height x width) is far from the "
                f"areas that the model was trained on ({known[0]:,} to {known[1]:,} pixels); "
                "expect a poorer mask, and look at it.",
                stacklevel=5,
            )


def _windows(image: NDArray[Any]) -> Windows:
    """A picture in memory as windows."""
    image = image[..., None] if image.ndim == 2 else image
    if image.ndim != 3:
        raise ValueError(f"A picture is [H, W, C]; this one is {list(image.shape)}.")
    if not image.size:
        raise ValueError(f"This picture has no pixels: {list(image.shape)}.")
    return ArrayWindows(image)
