"""Find duplicate and near-duplicate images, by a digest and a perceptual hash of each.

Near-duplicates are images that were re-encoded, resized, made grey, brighter or darker, mirrored
or rotated by multiples of 90 degrees (in sets of up to 20,000 images); crops are not found. Images
that differ only in details much smaller than a cell, 1/16 of a side, are near-duplicates too.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

_SIDE = 16  # cells along a side
_CELLS = _SIDE * _SIDE
_BLOCK = 1024  # images per block of comparisons
_CHUNK = 1024  # pairs compared closely at a time
# Measured on seven public sets. Grey values are in levels of 255. Copies (JPEG of quality 25 to
# 90, scales 0.25 to 0.8, noise of 10 levels, 10 % brighter) reach 0.9 of the tolerances, with a
# few exceptions; of different images, frames of a slow drive 0.07 s apart are the closest (1.4),
# then two eyes (3.3) and two similar cars in one studio (5.6).
_LEAST_CORRELATION = 0.97  # copies that are 10 % brighter, mostly on white: 0.984
_LEAST_CONTRAST = 1.0  # standard deviation [levels]; below it, mostly noise
_TOLERANCE = 0.025, 0.1  # root mean square and largest difference [contrast]
_ROUNDING = 0.7, 4.0  # the same [levels], for JPEG images of low contrast
_MOST_TIMES = 1.3  # maximum factor of brightness
_MOST_PLUS = 64.0  # maximum offset of brightness [levels]
_MOST_TURNED = 20_000
_SCALARS = "low", "step", "middle", "contrast"
_LEAST_GAIN = 1.0  # below this gain in brightness, highlights are not clipped [levels]


@dataclass(frozen=True)
class Duplicate:
    """Two images of the same content, by their index."""

    first: int
    second: int
    exact: bool
    """Whether the files are equal byte for byte."""
    turned: bool = False
    """Whether one is mirrored or rotated."""


def perceptual_hash(image: NDArray[Any], extent: tuple[float, float] | None = None) -> bytes:
    """Describe an image, [H, W, C] or [H, W], by the mean grey values of 16 x 16 cells.

    The image may be reduced until its shorter side has 128 pixels. `extent` is its height and
    width [pixels of `image`] if these are not integers: 1918 pixels that a codec reads at 1/8
    fill 239.75 of 240. Returns 264 bytes: the darkest and the brightest
    cell as float32 [levels of 255], and all cells as uint8 between these two.
    """
    grey, full = _grey(image)
    height, width = extent or grey.shape
    # an integral image, interpolated: exact means of cells of any size
    whole = grey.dtype == np.uint8 and grey.size < 2**23  # the sums fit into 31 bits
    sums = cv2.integral(np.ascontiguousarray(grey), sdepth=cv2.CV_32S if whole else cv2.CV_64F)
    sums = _at_borders(_at_borders(sums, height).T, width).T
    levels = np.diff(np.diff(sums, axis=0), axis=1) * (_CELLS / (height * width) * 255 / full)
    low, high = levels.min(), levels.max()
    cells = np.round((levels - low) * (255 / max(high - low, 1e-6))).astype(np.uint8)
    packed: bytes = np.array([low, high], "<f4").tobytes() + cells.tobytes()
    return packed


def find_duplicates(digests: Sequence[str], hashes: Sequence[bytes]) -> list[Duplicate]:
    """Find duplicates by file digests, and near-duplicates by perceptual hashes.

    Similar images are joined by a spanning tree: 20 copies give 19 pairs. So if similar images
    are in several splits, at least one pair is. Images with an empty hash use only the digest.
    """
    first_of: dict[str, int] = {}
    found = []
    once = []
    for index, digest in enumerate(digests):
        first = first_of.setdefault(digest, index)
        if first != index:
            found.append(Duplicate(first, index, exact=True))
        elif hashes[index]:
            once.append(index)
    rows = np.frombuffer(b"".join(hashes[index] for index in once), np.uint8)
    near = _find_near(rows.reshape(len(once), 8 + _CELLS))
    found += [Duplicate(once[one], once[other], False, turned) for one, other, turned in near]
    return sorted(found, key=lambda pair: (pair.first, pair.second))


def _grey(image: NDArray[Any]) -> tuple[NDArray[Any], float]:
    full = 255.0
    if image.dtype != np.uint8:
        # 12 bits in a 16-bit file reach 4095, not 65535; floats have no fixed full scale
        full = 2.0 ** np.ceil(np.log2(max(np.abs(image).max(), 1e-6)))
        image = image.astype(np.float32)
    planes = image.reshape(*image.shape[:2], -1)
    if planes.shape[2] == 3:
        return cv2.cvtColor(planes, cv2.COLOR_RGB2GRAY), full  # as codecs convert to grey
    return planes[..., 0] if planes.shape[2] == 1 else planes.mean(axis=2), full


def _at_borders(sums: NDArray[Any], length: float) -> NDArray[Any]:
    places = np.linspace(0, length, _SIDE + 1)
    below = np.minimum(places.astype(np.intp), len(sums) - 2)
    share = (places - below)[:, None]
    lines: NDArray[Any] = sums[below] * (1 - share) + sums[below + 1] * share
    return lines


@dataclass(frozen=True)
class _Thumbnails:
    cells: NDArray[np.uint8]  # [N, 256], between the darkest and the brightest
    low: NDArray[np.float32]  # [N], the darkest [levels]
    step: NDArray[np.float32]  # [N], scale of `cells` [levels]
    middle: NDArray[np.float32]  # [N], mean [levels]
    contrast: NDArray[np.float32]  # [N], standard deviation [levels]
    units: NDArray[np.float32]  # [N, 256], mean 0 and length 1, or all 0 if nearly flat
    order: NDArray[np.uint8]  # [N, 256], indices of the darker half of the cells, then the others

    def with_turned(self, places: NDArray[np.intp]) -> "_Thumbnails":
        """Append all images, [2N], with their cells reordered by `places` [256]."""
        columns = [self.cells[:, places], *(getattr(self, name) for name in _SCALARS)]
        columns += [self.units[:, places], np.argsort(places).astype(np.uint8)[self.order]]
        own = (getattr(self, each.name) for each in fields(self))
        return _Thumbnails(*map(np.concatenate, zip(own, columns, strict=True)))

    def levels(self, which: NDArray[np.intp]) -> NDArray[np.float32]:
        levels = self.cells[which] * self.step[which, None]
        levels += self.low[which, None]
        return levels


def _unpack(rows: NDArray[np.uint8]) -> _Thumbnails:
    ends = np.ascontiguousarray(rows[:, :8]).view("<f4")
    cells = rows[:, 8:]
    low, step = ends[:, 0], (ends[:, 1] - ends[:, 0]) / 255
    middle = cells.mean(axis=1, dtype=np.float32)
    units = cells - middle[:, None]
    lengths = np.linalg.norm(units, axis=1)
    contrast = lengths * step / _SIDE
    units /= np.maximum(lengths, 1e-6)[:, None]
    units[contrast < _LEAST_CONTRAST] = 0
    blocks = np.array_split(cells, len(cells) // _BLOCK + 1)  # limits memory for 64-bit indices
    order = np.concatenate(
        [np.argpartition(block, _CELLS // 2, axis=1).astype(np.uint8) for block in blocks]
    )
    return _Thumbnails(cells, low, step, low + middle * step, contrast, units, order)


def _find_near(rows: NDArray[np.uint8]) -> Iterator[tuple[int, int, bool]]:
    """Yield the indices of similar images, and whether one is turned."""
    plain = _unpack(rows)
    joined = np.tile(np.arange(len(rows)), 2)  # equal numbers: already joined
    # eight times the pairs; turned copies must not differ in brightness
    for turn in range(8 if len(rows) <= _MOST_TURNED else 1):
        thumbnails = plain.with_turned(_turned_places(turn)) if turn else plain
        yield from ((*pair, turn > 0) for pair in _find_close(thumbnails, joined, turn > 0))


def _turned_places(turn: int) -> NDArray[np.intp]:
    """Indices of the cells [256] after `turn % 4` quarter turns, mirrored from 4 on."""
    places = np.rot90(np.arange(_CELLS).reshape(_SIDE, _SIDE), turn)
    return (places[::-1] if turn > 3 else places).ravel()


def _find_close(
    thumbnails: _Thumbnails, joined: NDArray[np.intp], is_turned: bool
) -> Iterator[tuple[int, int]]:
    """Yield similar pairs not joined yet, and join them; of [2N], one of each half."""
    number = len(joined) // 2
    for ones, others in _likely(thumbnails, number if is_turned else 0):
        for start in range(0, len(ones), _CHUNK):
            one, other = ones[start : start + _CHUNK], others[start : start + _CHUNK]
            apart = joined[one] != joined[other]
            if not apart.any():
                continue
            one, other = one[apart], other[apart]
            close = _are_close(thumbnails, one, other, not is_turned)
            for first, second in zip(one[close], other[close], strict=True):
                if joined[first] != joined[second]:
                    joined[joined == joined[second]] = joined[first]
                    yield int(first), int(second % number)


def _likely(
    thumbnails: _Thumbnails, second: int
) -> Iterator[tuple[NDArray[np.intp], NDArray[np.intp]]]:
    """Yield candidate pairs: within one set, or between the halves from 0 and `second`."""
    units, contrast, middle = thumbnails.units, thumbnails.contrast, thumbnails.middle
    number = second or len(units)
    for top in range(0, number, _BLOCK):
        for left in range(top + second, len(units), _BLOCK):
            products = units[top : min(top + _BLOCK, number)] @ units[left : left + _BLOCK].T
            hits = np.flatnonzero(products >= _LEAST_CORRELATION)
            if not len(hits):
                continue
            one, other = np.divmod(hits, products.shape[1])
            one, other = one + top, other + left
            least = np.minimum(contrast[one], contrast[other])
            rms = np.sqrt(np.maximum(2 - 2 * products.ravel()[hits], 0)) * least
            gains = np.abs(middle[one] - middle[other])
            keep = ((rms <= _tolerance(least, 0)) | (gains >= _LEAST_GAIN)) & (one < other - second)
            yield one[keep], other[keep]


def _are_close(
    thumbnails: _Thumbnails, one: NDArray[np.intp], other: NDArray[np.intp], may_be_brighter: bool
) -> NDArray[np.bool_]:
    contrast = np.minimum(thumbnails.contrast[one], thumbnails.contrast[other])
    off = thumbnails.units[one] - thumbnails.units[other]
    close = _is_small(off * (contrast * _SIDE)[:, None], contrast)
    if not may_be_brighter:
        return close
    # A brighter copy is clipped at white, a darker one at black. Between them, levels differ by
    # one factor or offset; none differs by more, or in the other direction.
    rising = thumbnails.middle[other] > thumbnails.middle[one]
    darker, brighter = np.where(rising, one, other), np.where(rising, other, one)
    dark, bright = thumbnails.levels(darker), thumbnails.levels(brighter)
    gain = bright - dark
    maybe = np.flatnonzero(~close & (gain.min(axis=1) >= -_tolerance(contrast, 1)))
    dark, bright, gain, contrast = dark[maybe], bright[maybe], gain[maybe], contrast[maybe]
    shadows = thumbnails.order[darker[maybe], : _CELLS // 2]
    lights = thumbnails.order[brighter[maybe], _CELLS // 2 :]
    times = _upper_quartile(bright / np.maximum(dark, np.float32(16)), shadows)
    lifted = _upper_quartile(gain, shadows)
    lowered = _upper_quartile(gain, lights)
    for most, allowed in (
        (dark * (times - 1), times <= _MOST_TIMES),
        (lifted, lifted <= _MOST_PLUS),
        (lowered, lowered <= _MOST_PLUS),
    ):
        off = gain - np.clip(gain, 0, np.maximum(most, 0))
        close[maybe] |= _is_small(off, contrast) & allowed[:, 0]
    return close


def _upper_quartile(
    values: NDArray[np.floating[Any]], places: NDArray[np.uint8]
) -> NDArray[np.float32]:
    rank = places.shape[1] * 3 // 4
    taken = np.take_along_axis(values, places, axis=1)
    return np.partition(taken, rank, axis=1)[:, rank : rank + 1]


def _is_small(off: NDArray[np.floating[Any]], contrast: NDArray[np.float32]) -> NDArray[np.bool_]:
    rms = np.sqrt(np.square(off).mean(axis=1))
    small: NDArray[np.bool_] = (rms <= _tolerance(contrast, 0)) & (
        np.abs(off).max(axis=1) <= _tolerance(contrast, 1)
    )
    return small


def _tolerance(contrast: NDArray[np.float32], which: int) -> NDArray[np.float32]:
    tolerance: NDArray[np.float32] = np.maximum(_TOLERANCE[which] * contrast, _ROUNDING[which])
    return tolerance
