"""The single inference path from image to mask."""

import dataclasses
import hashlib
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import repeat
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from plainunet.config import CardOptions
from plainunet.formats.colors import IGNORED
from plainunet.formats.sources import ImageSource
from plainunet.formats.windows import Windows, as_windows
from plainunet.network.blocks import fold_batch_normalisation
from plainunet.network.checkpoint import Card, load_checkpoint
from plainunet.network.unet import UNet
from plainunet.palette import default_colors
from plainunet.prediction.backends import Logits, TorchBackend
from plainunet.prediction.objects import fill_holes, remove_small
from plainunet.prediction.oom import in_smaller_parts
from plainunet.prediction.views import TTA, View, in_step
from plainunet.reporter import Reporter
from plainunet.settings import explain

FAR = 6
"""An image is far from the training images when its area is so many times theirs, or less
than one so-many-th."""
_SAMPLE, _BRIGHTEST = 256, 2.0
"""Of floats, so many pixels along each side of the middle are searched for values above this."""
_CALLER = 7
"""Frames between a warning and the caller of the Predictor."""


class InputCheck:
    """Warns of images that are unlike those that the model was trained on."""

    def __init__(self, card: Card, channels: int) -> None:
        """Take the model's description, and the channels of the images that it takes."""
        self._card, self._channels = card, channels
        self._warned: set[str] = set()

    def warn_of(self, image: Windows) -> None:
        """Warn of an image; of a kind of values only once."""
        self._check_dtype(image)
        self._check_floats(image)
        self._check_channels(image)
        self._check_area(image.shape[:2])

    def _check_dtype(self, image: Windows) -> None:
        known = self._card.training.get("dtypes", [image.dtype.name])
        integers = image.dtype.kind in "iu" and all(name.startswith("uint") for name in known)
        if integers and image.dtype.name not in known:
            self._warn_once(
                f"an image of {image.dtype.name} values, where the model was trained on "
                f"{' and '.join(known)}: each is divided by the largest value of its type, so it "
                "may look darker or brighter than those. Save it like them."
            )

    def _check_floats(self, image: Windows) -> None:
        known = self._card.training.get("dtypes", [image.dtype.name])
        if image.dtype.kind != "f" or not all(name.startswith("uint") for name in known):
            return
        height, width, _ = image.shape
        top, left = max(0, height - _SAMPLE) // 2, max(0, width - _SAMPLE) // 2
        part = image.read(top, left, min(_SAMPLE, height), min(_SAMPLE, width))
        brightest = part[np.isfinite(part)].max(initial=0)
        if brightest > _BRIGHTEST:
            self._warn_once(
                f"an image of {image.dtype.name} values up to {brightest:.4g}: floats are taken "
                "as they are, and the model was trained on integers, which become 0 to 1. Divide "
                f"by the largest value that there can be, or save it as {known[0]}."
            )

    def _check_channels(self, image: Windows) -> None:
        grey_is_known = self._card.training.get("grey", 0) > 0
        if image.shape[2] == 1 and self._channels == 3 and not grey_is_known:
            self._warn_once("a grey image is shown as RGB to a model that takes colours.")

    def _check_area(self, size: tuple[int, int]) -> None:
        """An image much larger or smaller than any that the model was made for."""
        if self._card.size is None:
            return  # things have the same scale in it, however much of them it shows
        known = self._card.training.get("areas")
        area = size[0] * size[1]
        if known and not known[0] / FAR <= area <= known[1] * FAR:
            seen = " to ".join(dict.fromkeys(f"{end:,}" for end in known))
            warnings.warn(
                f"an image of {size[0]} x {size[1]} pixels (height x width) is far from the "
                f"areas that the model was trained on ({seen} pixels); "
                "expect a poorer mask, and check it.",
                stacklevel=_CALLER - 1,
            )

    def _warn_once(self, message: str) -> None:
        if message not in self._warned:
            self._warned.add(message)
            warnings.warn(message, stacklevel=_CALLER)


@contextmanager
def warnings_noted(file: ImageSource, reporter: Reporter) -> Iterator[None]:
    """Turn the predictor's warnings into notes that name their file, each once."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield
    for message in dict.fromkeys(str(each.message) for each in caught):
        reporter.note(f"{file}: {message}")


class Predictor:
    """Networks with all that is needed to use them on images as they are on disk.

    Attributes:
        network: The network, the first of several.
        card: What it obeys: scale policy, classes, threshold, test-time augmentation, least size
            of an object.
        device: Where it runs.
        precision: Arithmetic of convolutions.
        memory: What an image may take [bytes], or None.
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
            card: Its description: scale policy, classes, threshold. Left out: images are
                taken at their own size, and classes have numbers for names.
            others: More networks with their descriptions, whose probabilities are averaged with
                those of the first; of their descriptions, the scale policy counts.
            device: "auto", "cpu", "cuda" or "mps".
            precision: "auto", "fp32" or "bf16".
            memory: What an image may take [bytes], beside what the process has anyway; larger
                images are predicted in tiles. Left out, tiles are taken where one pass would
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
        backends = [
            (TorchBackend(each, device, precision, TTA[card.tta]), own)
            for each, own in ((network, card), *others)
        ]
        self._backend = backends[0][0]
        self.device, self.precision = self._backend.device, self._backend.precision
        self.network, self.card, self.memory = self._backend.network, card, memory
        self._views = [
            View(backend, own, scale, memory) for backend, own in backends for scale in card.scales
        ]
        self.warn_of = InputCheck(card, network.in_channels).warn_of

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
            memory: What an image may take [bytes].
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
            Mask [H, W] uint8 of class ids at the image's own size, 255 where a float is NaN.
        """
        return self.clean(np.concatenate(list(self.mask_bands(as_windows(image)))))

    def probabilities(self, image: NDArray[Any]) -> NDArray[np.float32]:
        """Give the probability of each class in each pixel.

        Args:
            image: [H, W, C] (or [H, W] for one channel), integers or floats, as stored.

        Returns:
            Probabilities [K, H, W] float32 at the image's own size; they sum to 1 over K.
        """
        bands = list(self.both_bands(as_windows(image)))
        return np.concatenate([probabilities for _, probabilities in bands], axis=1)

    def prepare(self, image: NDArray[Any], missing: NDArray[np.bool_] | None = None) -> Windows:
        """Reduce an image [H, W, C], ahead and in another thread; the rest needs the network.

        `missing` is as of `read_with_missing`. Returns the image's windows, for `mask_bands` and
        `both_bands`.
        """
        windows = as_windows(image, missing)
        for view in self._views:
            view.prepare(windows)
        return windows

    def fits_batch(self, size: tuple[int, int]) -> int:
        """How many images of a height and width [pixels] `masks` takes at a time, at least 1."""
        return min(view.fits_batch(size) for view in self._views)

    def masks(self, images: Sequence[Windows]) -> list[NDArray[np.uint8]]:
        """Choose a class for each pixel of small images, which is faster than one by one.

        Args:
            images: Images of one shape, no more than `fits_batch` says; `warn_of` is not asked.

        Returns:
            As `predict`, a mask [H, W] uint8 of each.
        """
        found = []
        streams = zip(*(view.batch(images) for view in self._views), strict=True)
        for image, views in zip(images, streams, strict=True):
            bands = [self._backend.mean(each) for each in in_step(views)]
            tops = np.cumsum([0] + [band.shape[1] for band in bands])
            mask = [self._classes(*each) for each in zip(bands, repeat(image), tops, strict=False)]
            found.append(self.clean(np.concatenate(mask)))
        return found

    def mask_bands(self, image: Windows, first: int = 0) -> Iterator[NDArray[np.uint8]]:
        """Choose a class for each pixel of an image of any size, a few rows at a time.

        Args:
            image: Its windows; no more of it is in memory than the network needs.
            first: The row to begin with.

        Yields:
            [n, W] uint8 class ids, from top to bottom, the rows from `first` on, 255 where the
            image has no pixel; objects are as they are found, however small (see `clean`).
        """
        for logits in self._bands(image, first):
            yield self._classes(logits, image, first)
            first += logits.shape[1]

    def both_bands(self, image: Windows) -> Iterator[tuple[NDArray[np.uint8], NDArray[np.float32]]]:
        """Choose classes, and give the probability of each as well, a few rows at a time.

        Args:
            image: Its windows.

        Yields:
            [n, W] uint8 class ids as by `mask_bands`, and [K, n, W] float32, which sum to 1 over
            K, from top to bottom.
        """
        top = 0
        for logits in self._bands(image, 0):
            yield self._classes(logits, image, top), self._backend.probabilities(logits)
            top += logits.shape[1]

    def _classes(self, logits: Logits, image: Windows, top: int) -> NDArray[np.uint8]:
        """Choose classes for some rows of an image, 255 where it has no pixel."""
        ids = self._backend.classes(logits, self.card.threshold)
        if (missing := image.missing(top, len(ids))) is not None:
            ids[missing] = IGNORED
        return ids

    def clean(self, mask: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Fill small holes and remove small objects, as the card says.

        Args:
            mask: [H, W] uint8 class ids of a whole image.

        Returns:
            The same, or a copy.
        """
        if self.card.fill_holes:
            mask = fill_holes(mask, self.card.fill_holes)
        return remove_small(mask, self.card.min_object) if self.card.min_object > 1 else mask

    def digest(self) -> str:
        """SHA-256 of what makes masks what they are: the weights, and what the card says."""
        digest, card = hashlib.sha256(), self.card
        for view in self._views:
            digest.update(repr((view.box, view.factor)).encode())
            for parameter in view.backend.parameters():
                digest.update(parameter)
        settings = card.threshold, card.tta, card.min_object, card.fill_holes, self.precision
        digest.update(repr(settings).encode())
        return digest.hexdigest()

    def _bands(self, image: Windows, first: int) -> Iterator[Logits]:
        """Logits of the mean of all views' probabilities, at the image's own size."""
        self.warn_of(image)
        bands = partial(self._mean_bands, image)
        yield from in_smaller_parts(bands, self._views, first)

    def _mean_bands(self, image: Windows, first: int) -> Iterator[Logits]:
        streams = [view.bands(image, first) for view in self._views]
        return (self._backend.mean(bands) for bands in in_step(streams))


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
