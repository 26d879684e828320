"""Predictions that are kept for a page, whose masks follow a threshold without another inference.

Of an image, its file, its mask and (with two classes) the probability of the second are kept, all
with 8 bits. The images of all users together are bounded in pixels and in bytes of their files; the
oldest ones are forgotten.
"""

import base64
import math
import secrets
import shutil
import threading
import zipfile
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from plainunet.deployment.answers import as_json, require_few_objects
from plainunet.deployment.batching import Model, Predicted
from plainunet.deployment.uploads import Decoded, RefusedError, Upload
from plainunet.formats.colors import IGNORED
from plainunet.formats.images import read_image
from plainunet.formats.sources import ImageSource, files_of
from plainunet.page import data_url
from plainunet.prediction.drawing import (
    OPACITY,
    draw_overlay,
    encode_layer,
    encode_mask,
    find_edges,
    overlay_colors,
    reduced_rgb,
)
from plainunet.prediction.geo import Georeference, draw_contours
from plainunet.prediction.objects import find_objects
from plainunet.prediction.outputs import AREAS, area_rows, encode_jpeg, write_table
from plainunet.prediction.record import mask_key

STEPS = 100
"""Thresholds are multiples of 1 / `STEPS`, as in `evaluate --tune`."""
MOST_PIXELS = 200_000_000
"""Largest number of pixels, and of bytes of the files, of all kept images."""
_SHOWN = 1600
"""Longest side of an image on the page [pixels]; downloads have the image's own size."""
FILES = {"mask": "{}.png", "overlay": "{}-overlay.jpg", "contours": "{}.geojson"}
"""Names of the files of an image, by output."""


class View(NamedTuple):
    """How a mask is drawn: with a threshold (for two classes), and an opacity for overlays."""

    threshold: float
    opacity: float = OPACITY


class Area(NamedTuple):
    """The pixels of a class in a mask."""

    name: str
    color: str
    """As in CSS, or "" for missing pixels."""
    pixels: int
    total: int
    """Of the image."""


@dataclass(frozen=True, eq=False)
class Result:
    """A predicted image.

    Attributes:
        name: The client's name of its file.
        source: Its file, or a page of it; the parent of the file's folder is removed with the
            result.
        geo: Coordinates of a GeoTIFF.
        model: The model that predicted it.
        mask: [H, W] uint8 class ids, at the model's own threshold.
        levels: [H, W] uint8, the probability of the second of two classes in steps, rounded down;
            None for more classes.
        shown: The image as a data URL, reduced.
        size: Height and width of `shown` [pixels].
    """

    name: str
    source: ImageSource
    geo: Georeference | None
    model: Model
    mask: NDArray[np.uint8]
    levels: NDArray[np.uint8] | None
    shown: str
    size: tuple[int, int]

    @classmethod
    def of(cls, upload: Upload, decoded: Decoded, predicted: Predicted) -> "Result":
        """Keep a prediction, with the probabilities of two classes as "probabilities-float".

        Raises:
            RefusedError: The image is too large to be shown.
        """
        if decoded.whole is None:
            raise RefusedError(
                413, "too-large", "The image is too large for this page. Send it to /v1/predict."
            )
        levels = None
        if predicted.probabilities is not None and len(predicted.probabilities) == 1:
            steps = predicted.probabilities[0] * np.float32(STEPS)
            levels = np.minimum(steps, STEPS - 1).astype(np.uint8)
        # the network may have needed less of a JPEG
        image = read_image(decoded.source) if decoded.image is None else decoded.image
        shown = reduced_rgb(image, _SHOWN)
        return cls(
            upload.name,
            decoded.source,
            decoded.geo,
            predicted.model,
            predicted.mask,
            levels,
            data_url(shown, "jpeg"),
            (shown.shape[0], shown.shape[1]),
        )

    @property
    def stem(self) -> str:
        """The name without its suffix."""
        return Path(self.name).stem or "image"

    def mask_at(self, threshold: float) -> NDArray[np.uint8]:
        """The mask [H, W] uint8 at a threshold; it is ignored with more than two classes."""
        predictor = self.model.predictor
        if self.levels is None or self._is_own(threshold):
            return self.mask
        mask = (self.levels >= round(threshold * STEPS)).view(np.uint8)
        mask = np.where(self.mask == IGNORED, self.mask, mask)
        return predictor.clean(mask)

    def _is_own(self, threshold: float) -> bool:
        own = self.model.predictor.card.threshold
        return self.levels is None or math.isclose(threshold, own, abs_tol=0.5 / STEPS)

    def layers(self, mask: NDArray[np.uint8]) -> dict[str, str]:
        """Draw a mask as data URLs, reduced like `shown`: the classes, and their edges."""
        reduced = np.asarray(
            cv2.resize(mask, self.size[::-1], interpolation=cv2.INTER_NEAREST), np.uint8
        )
        colors = self.model.predictor.card.colors
        layers = {"fill": reduced, "edge": find_edges(reduced)}
        return {name: _png_url(encode_layer(ids, colors)) for name, ids in layers.items()}

    def areas(self, mask: NDArray[np.uint8]) -> list[Area]:
        """Count the pixels of each class."""
        card, counts = self.model.predictor.card, np.bincount(mask.ravel(), minlength=256)
        seen = [card.colors[0], *overlay_colors(card.colors)[1:]]
        rows = [
            Area(name, f"rgb({', '.join(map(str, color))})", int(count), mask.size)
            for name, color, count in zip(card.class_names, seen, counts, strict=False)
        ]
        missing = int(counts[IGNORED])
        return rows + ([Area("missing", "", missing, mask.size)] if missing else [])

    def encode(self, output: str, view: View) -> bytes:
        """Encode the content of a file, as named in `FILES`, in the image's own size.

        Raises:
            RefusedError: The image was forgotten in the meantime, or the mask has too many objects.
        """
        mask, card = self.mask_at(view.threshold), self.model.predictor.card
        if output == "mask":
            # only `predict` with the same threshold may take the file for its own
            own = self._is_own(view.threshold)
            return encode_mask(
                mask, card.colors, mask_key(self.model.digest, self.source) if own else ""
            )
        if output == "contours":
            require_few_objects(mask, len(card.class_names), output)
            return as_json(draw_contours(*find_objects(mask), card.class_names, self.geo))
        try:
            image = read_image(self.source)
        except FileNotFoundError:
            raise forgotten() from None
        return encode_jpeg(draw_overlay(image, mask, card.colors, view.opacity))


def forgotten() -> RefusedError:
    """The error for an image that is no longer kept."""
    return RefusedError(404, "forgotten", "The image is no longer kept. Choose it again.")


class Results:
    """The results of all users, each under a name that cannot be guessed."""

    def __init__(self, most: int = MOST_PIXELS) -> None:
        """Set the limit of pixels, and of bytes of their files."""
        self._most = most
        self._kept: OrderedDict[str, Result] = OrderedDict()
        self._changing = threading.Lock()

    def add(self, result: Result) -> str:
        """Keep a result, and forget the oldest ones beyond the limit; returns its name."""
        name = secrets.token_urlsafe(16)
        with self._changing:
            self._kept[name] = result
            total = sum(map(_size, self._kept.values()))
            while total > self._most and len(self._kept) > 1:
                _, oldest = self._kept.popitem(last=False)
                total -= _size(oldest)
                _remove(oldest)
        return name

    def add_all(self, done: Sequence[Result | RefusedError]) -> list[str | RefusedError]:
        """Keep the results, or the first ones of them if all are beyond the limit.

        Returns the name of each, or why there is none.
        """
        full = RefusedError(
            413, "too-large", "Left out: too large together with the others. Choose fewer images."
        )
        # the first as the newest
        names = [self.add(each) if isinstance(each, Result) else each for each in reversed(done)]
        with self._changing:
            return [
                each if isinstance(each, RefusedError) or each in self._kept else full
                for each in reversed(names)
            ]

    def get(self, name: str) -> Result:
        """Return a result.

        Raises:
            RefusedError: It is no longer kept.
        """
        with self._changing:
            if name not in self._kept:
                raise forgotten()
            self._kept.move_to_end(name)
            return self._kept[name]

    def forget(self, names: Iterable[str]) -> None:
        """Forget results."""
        with self._changing:
            for name in names:
                if result := self._kept.pop(name, None):
                    _remove(result)


def _size(result: Result) -> int:
    """The pixels of an image, or the bytes of its file if these are more.

    The pages of a stack have links to one file.
    """
    with suppress(OSError):
        about = files_of(result.source)[0].stat()
        return max(result.mask.size, about.st_size // about.st_nlink)
    return int(result.mask.size)


def _remove(result: Result) -> None:
    shutil.rmtree(files_of(result.source)[0].parents[1], ignore_errors=True)


def write_zip(path: Path, results: Sequence[Result], view: View) -> None:
    """Write all files of several images, and the areas of their classes.

    Contours of masks with too many objects are left out.
    """
    rows: list[list[Any]] = []
    taken: set[str] = set()
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for result in results:
            stem, number = result.stem, 1
            while stem in taken:
                number += 1
                stem = f"{result.stem}-{number}"
            taken.add(stem)
            for output, name in FILES.items():
                try:
                    archive.writestr(name.format(stem), result.encode(output, view))
                except RefusedError as error:
                    if error.code != "too-many-objects":
                        raise
            card = result.model.predictor.card
            counts = np.bincount(result.mask_at(view.threshold).ravel(), minlength=256)
            rows += area_rows(result.name, counts[: len(card.class_names)], card)
        table = path.with_name(AREAS)
        write_table(table, ("image", "class", "pixels", "share"), rows)
        archive.write(table, AREAS)
        table.unlink()


def _png_url(data: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(data).decode()}"
