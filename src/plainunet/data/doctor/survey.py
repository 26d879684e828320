"""Every picture of a folder, looked at once.

In: pictures. Out: what each is (shape, type of numbers, range), and what tells it from others
or likens it to them (a digest and a perceptual hash); remembered for files that have not
changed. JPEG files are decoded at a fraction of their size, which is several times as fast.
"""

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from plainunet.data.codecs.encoded import decoding, read_encoded
from plainunet.data.codecs.orientation import turn_upright
from plainunet.data.doctor.duplicates import perceptual_hash
from plainunet.data.images import read_image, stored_shape
from plainunet.data.ledger import recall
from plainunet.data.problems import DataError

_SMALLEST_SIDE = 128
_REDUCED = {
    2: cv2.IMREAD_REDUCED_GRAYSCALE_2,
    4: cv2.IMREAD_REDUCED_GRAYSCALE_4,
    8: cv2.IMREAD_REDUCED_GRAYSCALE_8,
}


class Look(NamedTuple):
    """What a picture is.

    Attributes:
        kind: Its format, as of `find_kind`.
        shape: Height, width and channels, upright.
        dtype: Type of its numbers.
        low: Smallest value; of a JPEG, of its grey values reduced, and so is `high`.
        high: Largest value.
        digest: Of its content, in hexadecimal.
        hash: As by `perceptual_hash`.
    """

    kind: str
    shape: tuple[int, int, int]
    dtype: str
    low: float
    high: float
    digest: str
    hash: bytes


def look_at(paths: Sequence[Path]) -> Iterator[Look | DataError]:
    """Look at pictures.

    Args:
        paths: The pictures; several are read at a time.

    Yields:
        What each is, in turn, or what is wrong with it.
    """
    for facts in recall("picture 1", [(path,) for path in paths], _look):
        if isinstance(facts, DataError):
            yield facts
        else:
            kind, shape, dtype, low, high, digest, code = facts
            yield Look(kind, tuple(shape), dtype, low, high, digest, bytes.fromhex(code))


def _look(path: Path) -> Any:
    kind, data = read_encoded(path)
    if kind == "jpeg":
        shape, image, extent = _preview(path, data)
    else:
        image = read_image(path)
        shape, extent = image.shape, None
    code = perceptual_hash(image, extent).hex()
    digest = hashlib.blake2b(data, digest_size=16).hexdigest()
    ends = float(image.min()), float(image.max())
    return [kind, list(shape), image.dtype.name, *ends, digest, code]


def _preview(
    path: Path, data: bytes
) -> tuple[tuple[int, ...], NDArray[Any], tuple[float, float] | None]:
    height, width, channels, orientation = stored_shape(path)
    fits = [step for step in _REDUCED if min(height, width) >= step * _SMALLEST_SIDE]
    step = fits[-1] if fits else 1
    flag = _REDUCED.get(step, cv2.IMREAD_GRAYSCALE) | cv2.IMREAD_IGNORE_ORIENTATION
    with decoding(path):
        grey = cv2.imdecode(np.frombuffer(data, np.uint8), flag)
        if grey is None:
            raise ValueError("its content makes no sense")
    extent = height / step, width / step
    if orientation > 4:
        height, width, extent = width, height, extent[::-1]
    return (height, width, channels), turn_upright(grey, orientation), extent
