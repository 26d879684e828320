"""The single inference path from image to mask."""

import dataclasses
import hashlib
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import ValidationError
from torch import Tensor

from plainunet.config import CardOptions
from plainunet.formats.sources import ImageSource
from plainunet.formats.windows import Windows, as_windows
from plainunet.network.blocks import fold_batch_normalisation
from plainunet.network.checkpoint import Card, load_checkpoint
from plainunet.network.device import choose_device, choose_precision, to_device
from plainunet.network.unet import UNet
from plainunet.palette import default_colors
from plainunet.prediction.objects import fill_holes, remove_small
from plainunet.prediction.oom import with_less
from plainunet.prediction.views import TTA, View, in_step, log_mean
from plainunet.settings import explain

FAR = 6
"""A picture is far from the training pictures when its area is so many times theirs, or less
than one so-many-th."""
_LOOK, _BRIGHTEST = 256, 2.0
"""Of floats, so many pixels along each side of the middle are looked at, for values above this."""
_CALLER = 7
"""Frames between a warning and who called the Predictor."""


class Doubts:
    """What a model's description lets one doubt of pictures."""

    def __init__(self, card: Card, channels: int) -> None:
        """Take a model.

        Args:
            card: Its description.
            channels: Of the pictures that it takes.
        """
        self._card, self._channels = card, channels
        self._said: set[str] = set()

    def say_of(self, picture: Windows) -> None:
        """Warn of a picture; of its kind only once.

        Args:
            picture: Its windows.
        """
        self._say_of_values(picture)
        self._say_of_area(picture.shape[:2])

    def _say_of_values(self, picture: Windows) -> None:
        """Grey pictures for a model of colours, and another kind of integers."""
        training = self._card.training
        known = training.get("dtypes", [picture.dtype.name])
        integers = picture.dtype.kind in "iu" and all(name.startswith("uint") for name in known)
        if integers and picture.dtype.name not in known:
            self._say_once(
                f"a picture of {picture.dtype.name} values, where the model was trained on "
                f"{' and '.join(known)}: each is divided by the largest value of its type, so it "
                "may look darker or brighter than those. Save it like them."
            )
        if picture.dtype.kind == "f" and all(name.startswith("uint") for name in known):
            height, width, _ = picture.shape
            top, left = max(0, height - _LOOK) // 2, max(0, width - _LOOK) // 2
            part = picture.read(top, left, min(_LOOK, height), min(_LOOK, width))
            brightest = part[np.isfinite(part)].max(initial=0)
            if brightest > _BRIGHTEST:
                self._say_once(
                    f"a picture of {picture.dtype.name} values up to {brightest:.4g}: "
                    "floats are taken as they are, and the model was trained on integers, which "
                    "become 0 to 1. Divide by the largest value that there can be, or save it as "
                    f"{known[0]}."
                )
        grey_is_known = training.get("grey", 0) > 0
        if picture.shape[2] == 1 and self._channels == 3 and not grey_is_known:
            self._say_once("a grey picture is shown as RGB to a model that takes colours.")

    def _say_once(self, said: str) -> None:
        if said not in self._said:
            self._said.add(said)
            warnings.warn(said, stacklevel=_CALLER)

    def _say_of_area(self, size: tuple[int, int]) -> None:
        """A picture much larger or smaller than any that the model was made for."""
        if self._card.size is None:
            return  # things have the same scale in it, however much of them it shows
        known = self._card.training.get("areas")
        area = size[0] * size[1]
        if known and not known[0] / FAR <= area <= known[1] * FAR:
            seen = " to ".join(dict.fromkeys(f"{end:,}" for end in known))
            warnings.warn(
                f"a picture of {size[0]} x {size[1]} pixels (height x width) is far from the "
                f"areas that the model was trained on ({seen} pixels); "
                "expect a poorer mask, and look at it.",
                stacklevel=_CALLER - 1,
            )


@contextmanager
def naming(file: ImageSource) -> Iterator[None]:
    """Have warnings name the file that they are about, and come once.

    Args:
        file: The file.
    """
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        yield
    for message in dict.fromkeys(str(each.message) for each in said):
        warnings.warn(f"{file}: {message}", stacklevel=3)


class Predictor:
    """Networks with all that is needed to use them on pictures as they are on disk.

    Attributes:
        network: The network, the first of several.
        card: What it obeys: scale policy, classes, threshold, test-time augmentation, least size
            of an object.
        device: Where it runs.
        precision: Arithmetic of convolutions.
        memory: What a picture may take [bytes], or None.
    """

    def __init__(
        self,
        network: UNet,
        card: Card | None = None,
        *,
        others: Sequence[tuple[UNet, Card]] = (),
        device: str = "auto",
        precision: str = "auto",
        memory: float | None = None,
    ) -> None:
        """Wrap a live network; it is used as it is, and moved to the device.

        Args:
            network: The network, reachable as `network`.
            card: Its description: scale policy, classes, threshold. Left out: pictures are
                taken at their own size, and classes have numbers for names.
            others: More networks with their descriptions, whose probabilities are averaged with
                those of the first; of their descriptions, the scale policy counts.
            device: "auto", "cpu", "cuda" or "mps".
            precision: "auto", "fp32" or "bf16".
            memory: What a picture may take [bytes], beside what the process has anyway; larger
                pictures are seen in tiles. Left out, tiles are taken where one pass would
                take more than about two gigabytes.

        Raises:
            ValueError: There is no such device, a card has another number of classes than its
                network, the networks have different classes, or the card asks for an unknown
                test-time augmentation.
        """
        if card is None:
            numbers = tuple(str(number) for number in range(network.num_classes))
            card = Card(numbers, default_colors(network.num_classes), size=None)
        _require_same_classes(network, card, [other for _, other in others])
        if card.tta not in TTA:
            raise ValueError(f"--tta {card.tta}: it is one of {', '.join(TTA)}.")
        self.device = choose_device(device)
        self.precision = choose_precision(precision, self.device)
        self.network = to_device(network, self.device)
        self.card, self.memory = card, memory
        self._views = [
            View(
                to_device(each, self.device),
                dataclasses.replace(own, tta=card.tta),
                scale,
                precision=self.precision,
                memory=memory,
            )
            for each, own in ((network, card), *others)
            for scale in card.scales
        ]
        self._doubts = Doubts(card, network.in_channels)

    @classmethod
    def load(
        cls,
        path: str | Path | Sequence[str | Path],
        *,
        device: str = "auto",
        precision: str = "auto",
        memory: float | None = None,
        **instead: Any,
    ) -> Self:
        """Read a checkpoint, or several whose probabilities are averaged.

        Args:
            path: A `best.safetensors`, or several.
            device: "auto", "cpu", "cuda" or "mps".
            precision: "auto", "fp32" or "bf16".
            memory: What a picture may take [bytes].
            instead: What holds instead of what the (first) checkpoint says: `threshold`, `tta`,
                `scales`, `min_object`, `fill_holes`, as of `Card`.

        Returns:
            A predictor that needs no other setting. Its networks' batch normalisation is folded
            into their convolutions, so they are for prediction alone.

        Raises:
            FileNotFoundError: There is no such file.
            ValueError: It is no checkpoint, several do not go together, or a value is impossible.
        """
        paths = [path] if isinstance(path, str | Path) else list(path)
        if not paths:
            raise ValueError("Give a checkpoint, or several.")
        try:
            instead = CardOptions(**instead).instead()
        except ValidationError as error:
            raise ValueError(explain(error, CardOptions)) from None
        (network, card), *others = [load_checkpoint(Path(each)) for each in paths]
        for each, _ in ((network, card), *others):
            fold_batch_normalisation(each)
        if "threshold" in instead and network.num_classes > 2:
            raise ValueError(
                f"--threshold is for two classes; this model has {network.num_classes}, and takes "
                "the likeliest."
            )
        card = dataclasses.replace(card, **instead)
        return cls(network, card, others=others, device=device, precision=precision, memory=memory)

    def predict(self, image: NDArray[Any]) -> NDArray[np.uint8]:
        """Choose a class for each pixel.

        Args:
            image: [H, W, C] (or [H, W] for one channel), integers or floats, as stored.

        Returns:
            Mask [H, W] uint8 of class ids at the picture's own size.
        """
        return self.clean(np.concatenate(list(self.mask_bands(as_windows(image)))))

    def probabilities(self, image: NDArray[Any]) -> NDArray[np.float32]:
        """Give the probability of each class in each pixel.

        Args:
            image: [H, W, C] (or [H, W] for one channel), integers or floats, as stored.

        Returns:
            Probabilities [K, H, W] float32 at the picture's own size; they sum to 1 over K.
        """
        bands = list(self.both_bands(as_windows(image)))
        return np.concatenate([probabilities for _, probabilities in bands], axis=1)

    def prepare(self, image: NDArray[Any]) -> Windows:
        """Do what needs no network; in other threads, this can be done ahead.

        Args:
            image: [H, W, C], as stored.

        Returns:
            The picture's windows, for `mask_bands` and `both_bands`.
        """
        picture = as_windows(image)
        for view in self._views:
            view.prepare(picture)
        return picture

    def mask_bands(self, picture: Windows, first: int = 0) -> Iterator[NDArray[np.uint8]]:
        """Choose a class for each pixel of a picture of any size, a few rows at a time.

        Args:
            picture: Its windows; no more of it is in memory than the network needs.
            first: The row to begin with.

        Yields:
            [n, W] uint8 class ids, from top to bottom, the rows from `first` on; objects are as
            they are found, however small (see `clean`).
        """
        for logits in self._bands(picture, first):
            yield self._ids(logits)

    def both_bands(
        self, picture: Windows
    ) -> Iterator[tuple[NDArray[np.uint8], NDArray[np.float32]]]:
        """Choose classes, and give the probability of each as well, a few rows at a time.

        Args:
            picture: Its windows.

        Yields:
            [n, W] uint8 class ids as by `mask_bands`, and [K, n, W] float32, which sum to 1 over
            K, from top to bottom.
        """
        for logits in self._bands(picture, 0):
            if len(logits) == 1:
                probabilities = torch.cat([-logits, logits]).sigmoid()
            else:
                probabilities = logits.softmax(dim=0)
            yield self._ids(logits), probabilities.cpu().numpy()

    def _ids(self, logits: Tensor) -> NDArray[np.uint8]:
        """[n, W] class ids from [K, n, W], or from the difference [1, n, W]."""
        if len(logits) > 1:
            ids = logits.argmax(dim=0)
        else:  # softmax over two classes is a sigmoid of the difference, and both are monotonic
            cut = torch.logit(torch.tensor(self.card.threshold, dtype=torch.float64))
            ids = logits[0] >= float(cut)
        chosen: NDArray[np.uint8] = ids.to(torch.uint8).cpu().numpy()
        return chosen

    def clean(self, mask: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Fill small holes and remove small objects, as the card says.

        Args:
            mask: [H, W] uint8 class ids of a whole picture.

        Returns:
            The same, or a copy.
        """
        if self.card.fill_holes:
            mask = fill_holes(mask, self.card.fill_holes)
        return remove_small(mask, self.card.min_object) if self.card.min_object > 1 else mask

    def digest(self) -> str:
        """Recognise what makes masks what they are: the weights, and what the card says.

        Returns:
            A SHA-256 in hexadecimal.
        """
        digest, card = hashlib.sha256(), self.card
        for view in self._views:
            digest.update(repr((view.box, view.factor)).encode())
            for name, value in sorted(view.network.state_dict().items()):
                digest.update(name.encode() + value.cpu().contiguous().numpy().tobytes())
        said = card.threshold, card.tta, card.min_object, card.fill_holes, self.precision
        digest.update(repr(said).encode())
        return digest.hexdigest()

    def _bands(self, picture: Windows, first: int) -> Iterator[Tensor]:
        """Logits [K, n, W] at the picture's own size; of two classes, their difference [1, n, W].

        They are those of the mean of all views' probabilities.
        """
        self._doubts.say_of(picture)
        yield from with_less(partial(self._try, picture), self._views, self.device, first)

    def _try(self, picture: Windows, first: int) -> Iterator[Tensor]:
        is_binary = self.network.num_classes == 2
        streams = [view.bands(picture, is_binary, first) for view in self._views]
        return (log_mean(bands, dim=0) for bands in in_step(streams))


def _require_same_classes(network: UNet, card: Card, others: Sequence[Card]) -> None:
    """Refuse networks whose probabilities cannot be averaged."""
    if len(card.class_names) != network.num_classes:
        raise ValueError(
            f"{len(card.class_names)} class names for a network of {network.num_classes} "
            "classes, background included."
        )
    for other in others:
        if other.class_names != card.class_names:
            raise ValueError(
                "networks that are averaged need the same classes in the same order; these "
                f"have {', '.join(card.class_names)} and {', '.join(other.class_names)}."
            )
