"""From a picture to its mask: the only road.

The picture is reduced as the checkpoint's scale policy says, padded, run through the
network, whole or, if it is large then, in tiles, and the logits are brought back to the picture's
own size bilinearly before a class is chosen. Limitation: all logits of a picture are in memory.
"""

import warnings
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from plainunet.data.images import match_channels, to_unit
from plainunet.data.resizing import fit_size, reduce_size, resize
from plainunet.network.checkpoint import Card, load_checkpoint
from plainunet.network.device import (
    arithmetic,
    choose_device,
    choose_precision,
    to_device,
)
from plainunet.network.unet import UNet
from plainunet.palette import default_colors
from plainunet.prediction.tiling import predict_tiles

FAR = 6
"""A picture is far from the training pictures when its area is so many times theirs, or less
than one so-many-th."""


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
    ) -> None:
        """Wrap a live network; it is used as it is, and moved to the device.

        Args:
            network: The network, reachable as `network`.
            card: Its description: scale policy, classes, threshold. Left out: pictures are
                taken at their own size, and classes have numbers for names.
            device: "auto", "cpu", "cuda" or "mps".
            precision: "auto", "fp32" or "bf16".

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
        self._said: set[str] = set()

    @classmethod
    def load(cls, path: str | Path, *, device: str = "auto", precision: str = "auto") -> Self:
        """Read a checkpoint.

        Args:
            path: A `best.safetensors`.
            device: "auto", "cpu", "cuda" or "mps".
            precision: "auto", "fp32" or "bf16".

        Returns:
            A predictor that needs no other setting.
        """
        network, card = load_checkpoint(Path(path))
        return cls(network, card, device=device, precision=precision)

    def predict(self, image: NDArray[Any]) -> NDArray[np.uint8]:
        """Choose a class for each pixel.

        Args:
            image: [H, W, C] (or [H, W] for one channel), integers or floats, as stored.

        Returns:
            Mask [H, W] uint8 of class ids at the picture's own size.
        """
        logits = self._logits(image)
        if self.network.num_classes == 2:
            # softmax over two classes is a sigmoid of the difference, and both are monotonic
            cut = float(torch.logit(torch.tensor(self.card.threshold, dtype=torch.float64)))
            chosen = _enlarge(logits[1:] - logits[:1], image.shape)[0] >= cut
        else:
            chosen = _enlarge(logits, image.shape).argmax(dim=0)
        return chosen.to(torch.uint8).cpu().numpy()

    def probabilities(self, image: NDArray[Any]) -> NDArray[np.float32]:
        """Give the probability of each class in each pixel.

        Args:
            image: [H, W, C] (or [H, W] for one channel), integers or floats, as stored.

        Returns:
            Probabilities [K, H, W] float32 at the picture's own size; they sum to 1 over K.
        """
        enlarged = _enlarge(self._logits(image), image.shape)
        return enlarged.softmax(dim=0).cpu().numpy()

    @torch.inference_mode()
    def _logits(self, image: NDArray[Any]) -> Tensor:
        """Run the network on the reduced picture: logits [K, h, w] float32."""
        image = image[..., None] if image.ndim == 2 else image
        if image.ndim != 3:
            raise ValueError(f"A picture is [H, W, C]; this one is {list(image.shape)}.")
        if not image.size:
            raise ValueError(f"This picture has no pixels: {list(image.shape)}.")
        self._warn_if_other(image)
        image = match_channels(image, self.network.in_channels)
        self._warn_if_far(image.shape[:2])
        box, own = self.card.size, (image.shape[0], image.shape[1])
        size = fit_size(own, box) if box else reduce_size(own, self.card.factor)
        least = box or (size if self.network.valid else self.network.input_size(*size))
        reduced = resize(to_unit(image) if image.dtype != np.uint8 else image, size)
        below, right = max(0, least[0] - size[0]), max(0, least[1] - size[1])
        padded = np.pad(reduced, ((0, below), (0, right), (0, 0)), mode="edge")
        batch = torch.from_numpy(to_unit(padded))[None].permute(0, 3, 1, 2).to(self.device)

        was_training = self.network.training
        self.network.eval()
        try:
            with arithmetic(self.device, self.precision):
                logits = predict_tiles(self.network, batch)
        finally:
            self.network.train(was_training)
        inside: Tensor = logits[0, :, : size[0], : size[1]].float()
        if not inside.isfinite().all():
            raise NotFiniteError(
                "the network gives values that are not finite for this picture: its weights are "
                "damaged, or its training went astray. Take another checkpoint."
            )
        return inside

    def _warn_if_other(self, image: NDArray[Any]) -> None:
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


def _enlarge(logits: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Bring logits [K, h, w] to the size of a picture of this shape, bilinearly."""
    height, width = shape[:2]
    if logits.shape[1:] == (height, width):
        return logits
    size = (height, width)
    return F.interpolate(logits[None], size=size, mode="bilinear", align_corners=False)[0]
