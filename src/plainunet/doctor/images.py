"""Checks of image files: names, sizes, types, duplicates and groups."""

import hashlib
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple, TypeVar
from unicodedata import normalize

import cv2
import numpy as np
from numpy.typing import NDArray

from plainunet.dataset.cache import recall
from plainunet.dataset.census import MaskCounts
from plainunet.dataset.dataset import odd_channels
from plainunet.dataset.lists import size_problem
from plainunet.dataset.pairs import Pair
from plainunet.dataset.scenes import are_blocks
from plainunet.doctor.findings import Findings, change_of
from plainunet.errors import Error
from plainunet.formats.image_files import decoding, read_encoded, turn_upright
from plainunet.formats.images import fitting_suffix, read_image, read_with_missing, stored_shape
from plainunet.formats.problems import Change, DataError, command
from plainunet.formats.sources import ImageSource, Source, Window, files_of, path_of, stem_of
from plainunet.formats.tiff import find_untagged, tiff_marks

# reading images

_SMALLEST_SIDE = 128
_REDUCED = {
    2: cv2.IMREAD_REDUCED_GRAYSCALE_2,
    4: cv2.IMREAD_REDUCED_GRAYSCALE_4,
    8: cv2.IMREAD_REDUCED_GRAYSCALE_8,
}


class ImageFacts(NamedTuple):
    """Properties of an image."""

    kind: str
    """The file format, as by `find_kind`."""
    shape: tuple[int, int, int]
    """Height, width and channels, upright."""
    dtype: str
    low: float
    """Smallest value. For a JPEG, `low` and `high` are of its reduced grey values."""
    high: float
    digest: str
    """Hash of the file, in hexadecimal."""
    hash: bytes
    """The result of `perceptual_hash`."""
    missing: int = 0
    """Number of nodata pixels."""
    tagged: float | None = None
    """The nodata value of its tag."""
    untagged: float | None = None
    """The value that is probably nodata without a tag, see `find_untagged`."""


class PairFacts(NamedTuple):
    """A pair and the properties of its files: None for an unreadable one."""

    pair: Pair
    image: ImageFacts | None
    mask: MaskCounts | None


def read_facts(images: Sequence[ImageSource]) -> Iterator[ImageFacts | DataError]:
    """Read the properties of images, or the errors, in parallel and in order."""
    for facts in recall("image 3", [(image,) for image in images], _read_facts):
        if isinstance(facts, DataError):
            yield facts
        else:
            kind, shape, dtype, low, high, digest, code, *nodata = facts
            seen = dtype, low, high, digest, bytes.fromhex(code), *nodata
            yield ImageFacts(kind, tuple(shape), *seen)


def _read_facts(path: ImageSource) -> Any:
    kind, data = read_encoded(path)
    missing = tagged = untagged = None
    if kind == "jpeg":
        shape, image, extent = _preview(path, data)
    else:
        image, missing = read_with_missing(path)
        shape, extent = image.shape, None
        tagged = tiff_marks(BytesIO(data), path).nodata if kind == "tiff" else None
        tagged = None if tagged is None else float(image.dtype.type(tagged))  # rounded alike
        untagged = find_untagged(image) if tagged is None else None
    code = perceptual_hash(image, extent).hex()
    digest = hashlib.blake2b(data, digest_size=16).hexdigest()
    ends = float(image.min()), float(image.max())
    count = 0 if missing is None else int(missing.sum())
    return [kind, list(shape), image.dtype.name, *ends, digest, code, count, tagged, untagged]


def _preview(
    path: ImageSource, data: bytes
) -> tuple[tuple[int, ...], NDArray[Any], tuple[float, float] | None]:
    """Decode a JPEG at down to 1/8 of its size: its shape, its grey values, their extent."""
    height, width, channels, orientation = stored_shape(path)
    fits = [step for step in _REDUCED if min(height, width) >= step * _SMALLEST_SIDE]
    step = fits[-1] if fits else 1
    flag = _REDUCED.get(step, cv2.IMREAD_GRAYSCALE) | cv2.IMREAD_IGNORE_ORIENTATION
    with decoding(path):
        grey = cv2.imdecode(np.frombuffer(data, np.uint8), flag)
        if grey is None:
            raise Error("its content cannot be decoded")
    extent = height / step, width / step
    if orientation > 4:
        height, width, extent = width, height, extent[::-1]
    return (height, width, channels), turn_upright(grey, orientation), extent


# names, sizes, channels and types

_Value = TypeVar("_Value")
_OFTEN = 4
_BITS_UNUSED = 8
_NEARLY_ALL = 0.9
_CLEARLY = 1.3  # minimum ratio of edge strengths between the best and the second best turn
_SKEWED = 0.02  # maximum relative difference in aspect ratio of mask and image
_TIMES = 3  # ratio of areas; smaller differences in size do not harm training


def check_images(facts: Sequence[PairFacts], by_name: bool, findings: Findings) -> None:
    """Find misleading names, and images that differ from the others or from their masks.

    `by_name`: pairs are found by name rather than listed, so files may be renamed.
    """
    for pair, image, mask in facts:
        # files that list masks name the images; 1.jpg next to 1.png is paired by suffix
        beside = path_of(pair.image).with_suffix(path_of(pair.mask).suffix)
        may_rename = by_name and isinstance(pair.mask, Path) and pair.mask != beside
        _check_name(pair.image, image.kind if image else "", may_rename, findings)
        _check_name(pair.mask, mask.kind if mask else "", may_rename, findings)
    _check_mask_sizes(facts, findings)
    for problem in odd_channels(
        [each.pair for each in facts], [each.image and each.image.shape for each in facts]
    ):
        findings.problem(problem)
    seen = [(each.pair.image, each.image) for each in facts if each.image]
    if not seen:
        return
    for path, image in seen:
        if image.low == image.high and image.missing < image.shape[0] * image.shape[1]:
            findings.add("blank-image", f"{path}: all pixels are the same.", [path])
    _check_nodata(seen, findings)
    _check_depths(seen, findings)
    grey = [path for path, image in seen if image.shape[2] == 1]
    if grey and any(image.shape[2] == 3 for _, image in seen):
        findings.add(
            "grey-among-rgb",
            f"{len(grey)} of {len(seen)} images are grey and are converted to RGB like the others, "
            f"such as {grey[0]}.",
            grey,
        )
    _check_sizes(seen, findings)


def _add_size_mismatch(facts: PairFacts, orientation: int, turn: int, findings: Findings) -> None:
    """Add a mask of another size; `turn` is the orientation 5..8 that fits it to its image."""
    pair, image, mask = facts
    assert image
    assert mask
    height, width = image.shape[:2]
    message = str(size_problem(pair, (height, width), mask.size))
    fix: Change | str = ""
    tall, wide = mask.size[0] * width, mask.size[1] * height
    off = sorted((abs(mask.size[0] - height), abs(mask.size[1] - width)))
    # else it is cropped: resizing one side alone would shift its labels
    if abs(tall - wide) <= _SKEWED * tall and (off[0] > 0 or off[1] == 1):
        fix = change_of("resize", [pair.mask], width, height)
    if mask.size == (width, height) and (orientation > 4 or isinstance(pair.mask, Path)):
        fix = change_of("turn", [pair.mask], turn) if turn else ""
        by_hand = "" if isinstance(pair.mask, Path) else ": remove that tag from the image"
        message += (
            f" The image is rotated by its EXIF orientation ({orientation}), the mask is not"
            f"{by_hand}."
            if orientation > 4
            else " Height and width are swapped: it fits when rotated."
        )
    findings.add("size-mismatch", message, [pair.image, pair.mask], fix=fix)


def _check_mask_sizes(facts: Sequence[PairFacts], findings: Findings) -> None:
    """Find masks of other sizes than their images."""
    wrong = [
        (each, stored_shape(each.pair.image)[3] if _is_swapped(each) else 1)
        for each in facts
        if each.image and each.mask and each.image.shape[:2] != each.mask.size
    ]
    unknown = [
        (each.pair.image, each.pair.mask)
        for each, orientation in wrong
        if orientation < 5 and _is_swapped(each) and isinstance(each.pair.mask, Path)
    ]
    turns = _find_turns(unknown)
    for each, orientation in wrong:
        turn = orientation if orientation > 4 else turns.get(each.pair.mask, 0)
        _add_size_mismatch(each, orientation, turn, findings)


def _is_swapped(facts: PairFacts) -> bool:
    if facts.image is None or facts.mask is None:
        return False
    return facts.image.shape[1::-1] == facts.mask.size


def _find_turns(pairs: Sequence[tuple[ImageSource, Path]]) -> dict[Source, int]:
    """The orientations, 5..8, that align masks with the edges of their images; 0 if unclear.

    One program turns all masks alike, so those that fit one turn hardly better than another follow
    the others. The more there are, the less their mean depends on chance.
    """
    if not pairs:
        return {}
    fits = np.array([_fit_turns(*pair) for pair in pairs])
    of_all = _clearest(fits.mean(axis=0), 1 + (_CLEARLY - 1) / len(pairs) ** 0.5)
    masks = [mask for _, mask in pairs]
    return {mask: _clearest(own, _CLEARLY) or of_all for mask, own in zip(masks, fits, strict=True)}


def _clearest(fits: NDArray[np.float64], times: float) -> int:
    """The orientation 5..8 that fits `times` better than the second; 0 if none does."""
    *_, second, best = np.argsort(fits)
    return int(best) + 5 if fits[best] > times * fits[second] else 0


def _fit_turns(image: ImageSource, mask: Path) -> list[float]:
    """The strength of an image's edges at the borders of its mask, turned by 5, 6, 7 and 8."""
    try:  # as images, since a mask may be coloured
        grey, drawn = (read_image(each).mean(axis=2, dtype=np.float32) for each in (image, mask))
    except ValueError:  # a transparent one, for instance
        return [0.0] * 4
    edges = cv2.magnitude(*(cv2.Sobel(grey, cv2.CV_32F, dx, 1 - dx) for dx in (1, 0)))
    edges /= max(float(edges.mean()), 1e-30)
    fits = []
    for turn in range(5, 9):
        turned = turn_upright(drawn, turn)
        borders = cv2.morphologyEx(turned, cv2.MORPH_GRADIENT, np.ones((3, 3))) > 0
        fits.append(float(edges[borders].mean()) if borders.any() else 0.0)
    return fits


def _check_nodata(seen: Sequence[tuple[ImageSource, ImageFacts]], findings: Findings) -> None:
    """Find nodata values without a tag: usual ones, and those of the tags of other images.

    Only the user can know whether they were measured; a tag also holds in later predictions.
    """
    signed = [(path, image) for path, image in seen if image.dtype[0] != "u"]
    values = {image.untagged for _, image in signed} | {image.tagged or None for _, image in signed}
    found: dict[tuple[Path, float, bool], list[ImageSource]] = defaultdict(list)
    for path, image in signed:
        ends = [each for each in (image.low, image.high) if each in values]
        if image.tagged is None and ends:
            found[files_of(path)[0], ends[0], image.kind == "tiff"].append(path)
    for (file, value, is_tiff), sources in found.items():
        fix: Change | str | None = None
        if isinstance(sources[0], Window):  # may be larger than the memory
            fix = command("rio", "edit-info", f"--nodata={value:.10g}", file)
        elif is_tiff:
            fix = Change("nodata", (file,), (value,))
        marked = "mark them; images to predict need the mark too." if fix else "save NaN instead."
        message = f"{file} has pixels of {value:.10g}, and nothing marks them as nodata. Unless "
        message += f"they were measured, {marked}"
        findings.add("untagged-nodata", message, sources, fix=fix)


def _check_sizes(seen: Sequence[tuple[ImageSource, ImageFacts]], findings: Findings) -> None:
    """Find thumbnails and scans among images of one size."""
    height, width = _most_common([image.shape[:2] for _, image in seen])
    same = sum(image.shape[:2] == (height, width) for _, image in seen)
    if same < _NEARLY_ALL * len(seen):
        return
    area = height * width
    for path, image in seen:
        if not area / _TIMES < image.shape[0] * image.shape[1] < area * _TIMES:
            findings.add(
                "odd-size",
                f"{path} has {image.shape[1]}x{image.shape[0]} pixels; {same} of {len(seen)} "
                f"images have {width}x{height}. Is it a thumbnail, or another kind of image?",
                [path],
            )


def _check_name(source: Source, kind: str, may_rename: bool, findings: Findings) -> None:
    path = path_of(source)
    try:
        path.name.encode()
    except UnicodeEncodeError:
        # escape each byte, so that names stay unique
        readable = path.name.encode(errors="surrogateescape").decode(errors="backslashreplace")
        new = path.with_name(readable.replace("\\x", "x"))
        findings.add(
            "name-not-utf8",
            f"{command(path)}: the name is not UTF-8; other programs may fail to open it.",
            [source],
            fix=change_of("rename", [source], new) if may_rename else None,
        )
    suffix = fitting_suffix(path, kind) if kind and isinstance(source, Path) else path.suffix
    if suffix != path.suffix:
        findings.add(
            "wrong-extension",
            f"{path} contains {kind.upper()} data. plainunet reads it, but other programs may not.",
            [source],
            fix=change_of("rename", [source], path.with_suffix(suffix)) if may_rename else None,
        )


def _check_depths(seen: Sequence[tuple[ImageSource, ImageFacts]], findings: Findings) -> None:
    usual = _most_common([image.dtype for _, image in seen])
    odd = [(path, image) for path, image in seen if image.dtype != usual]
    if len(odd) * _OFTEN <= len(seen):
        for path, image in odd:
            findings.add(
                "mixed-depths",
                f"{path} has {image.dtype} values, most images {usual}. Each type is divided by "
                "its own maximum: is the image still as bright as the others?",
                [path],
            )
    dim = [
        (path, int(image.high))
        for path, image in seen
        if image.dtype == "uint16" and 0 < image.high < 65536 / _BITS_UNUSED
    ]
    if not dim:
        return
    bits = max(high for _, high in dim).bit_length()
    reach = f"are below {1 << bits} (of 65536), as from a {bits}-bit camera"
    if len(dim) == len(seen):
        # harmless, as images are normalised
        message = f"All 16-bit images {reach}; this is harmless."
        findings.add("unused-depth", message, [path for path, _ in dim], severity="note")
        return
    for path, _ in dim:
        message = f"{path}: its 16-bit values {reach}, so it is darker than the others."
        findings.add("unused-depth", message, [path])


def _most_common(values: Sequence[_Value]) -> _Value:
    return Counter(values).most_common(1)[0][0]


# Duplicates are found by a digest, near-duplicates by a perceptual hash. Those are images that were
# re-encoded, resized, made grey, brighter or darker, mirrored or rotated by multiples of 90 degrees
# (in sets of up to 20,000 images); crops are not found. Images that differ only in details much
# smaller than a cell, 1/16 of a side, are near-duplicates too.

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


# findings of duplicates, and of groups that a split must not divide

_TILES = r"^(.+) \[[^]]*x=\d"  # of a slide, as QuPath names them
_GROUPS = (_TILES, "^([^_-]+)[_-]", r"^(.*\d)[A-Za-z]$", "^(.+)[_-]")
_MANY_FOLDERS = 10


def copies_across(pairs: Sequence[Pair]) -> list[tuple[Pair, Pair]]:
    """Find duplicates and near-duplicates across the train and validation splits."""
    both = [pair for pair in pairs if pair.part in ("train", "val")]
    facts = [
        None if isinstance(each, DataError) else each
        for each in read_facts([pair.image for pair in both])
    ]
    digests = [each.digest if each else str(index) for index, each in enumerate(facts)]
    found = find_duplicates(digests, [each.hash if each else b"" for each in facts])
    joined = [(both[each.first], both[each.second]) for each in found]
    return [(one, other) for one, other in joined if one.part != other.part]


def group_copies(facts: Sequence[PairFacts], findings: Findings) -> list[Pair]:
    """Find duplicates, and groups in several splits.

    Returns the pairs; if the folder has no split, duplicates join the group of the first.
    """
    pairs = [each.pair for each in facts]
    images = [each.image for each in facts]
    digests = [image.digest if image else str(index) for index, image in enumerate(images)]
    duplicates = find_duplicates(digests, [image.hash if image else b"" for image in images])
    group_of = {pair.group: pair.group for pair in pairs}

    def root(group: str) -> str:
        while group_of[group] != group:
            group = group_of[group]
        return group

    # without a validation split, training draws one
    is_drawn = not any(pair.part == "val" for pair in pairs)
    for each in duplicates:
        _add_duplicate(facts, each, is_drawn, findings)
        one, other = (root(pairs[index].group) for index in (each.first, each.second))
        group_of[other] = one
    _check_same_masks(facts, duplicates, findings)
    _check_shared_groups(pairs, findings)
    _check_possible_groups(pairs, findings)
    if not is_drawn:
        return pairs
    joined = [replace(pair, group=root(pair.group)) for pair in pairs]
    # a single group cannot be split
    return joined if len({pair.group for pair in joined}) > 1 else pairs


def _add_duplicate(
    facts: Sequence[PairFacts], found: Duplicate, is_drawn: bool, findings: Findings
) -> None:
    (one, _, mask), (other, _, other_mask) = facts[found.first], facts[found.second]
    what = "is identical to" if found.exact else "is nearly identical to"
    what = "is a mirrored or rotated copy of" if found.turned else what
    code = "duplicate" if found.exact else "near-duplicate"
    same = found.turned or not (mask and other_mask) or mask.digest == other_mask.digest
    more = "" if same else " Their masks differ."
    if one.part != other.part:
        # the duplicate to exclude comes first
        if other.part == "train":
            one, other = other, one
        findings.add(
            f"{code}-across-parts",
            f"{one.image} ({one.part}) {what} {other.image} ({other.part}). This data leakage "
            f"inflates scores.{more}",
            [one.image, other.image],
        )
        return
    message, files = f"{other.image} {what} {one.image}.{more}", [other.image, one.image]
    if is_drawn and one.part != "test" and one.group != other.group:
        message += " A random split may separate them."
        findings.add(f"{code}-across-groups", message, files, flags={})
    else:
        findings.add(code, message, files)


def _check_same_masks(
    facts: Sequence[PairFacts], duplicates: Sequence[Duplicate], findings: Findings
) -> None:
    copies = {index for each in duplicates for index in (each.first, each.second)}
    masks: dict[str, list[Source]] = defaultdict(list)
    for index, (pair, _, mask) in enumerate(facts):
        # empty masks are all the same, and have no digest
        if mask and mask.digest and index not in copies:
            masks[mask.digest].append(pair.mask)
    for files in masks.values():
        if len(files) > 1:
            findings.add(
                "same-mask",
                f"{files[1]} has the same pixels as {files[0]}, but their images differ.",
                files,
            )


def _check_shared_groups(pairs: Sequence[Pair], findings: Findings) -> None:
    parts: dict[str, Counter[str]] = defaultdict(Counter)
    for pair in pairs:
        if pair.part:
            parts[pair.group][pair.part] += 1
    for group, counts in parts.items():
        if len(counts) > 1:
            where = " and ".join(f"{count} in {part}" for part, count in counts.items())
            findings.add(
                "group-across-parts",
                f"The group '{group}' has images in several splits: {where}. This data leakage "
                "inflates scores.",
                [pair.image for pair in pairs if pair.group == group],
            )


def _check_possible_groups(pairs: Sequence[Pair], findings: Findings) -> None:
    """Find names that suggest groups, such as tile1_a and tile1_b."""
    if any(pair.part for pair in pairs) or len({pair.group for pair in pairs}) < len(pairs):
        return
    if are_blocks(pairs):
        return
    stems = [normalize("NFC", stem_of(pair.image)) for pair in pairs]
    folders = {pair.group.rpartition("/")[0] for pair in pairs}
    # patient01/, seq2/; few names without numbers are more likely categories: urban/
    by_folder = len(folders) >= _MANY_FOLDERS or all(re.search(r"\d[^/]*$", f) for f in folders)
    for pattern in (*["^(.+)/"] * by_folder, *_GROUPS):
        names = [pair.group for pair in pairs] if "/" in pattern else stems
        matches = [re.search(pattern, name) for name in names]
        groups = Counter(match[1] for match in matches if match)
        several = sum(count for count in groups.values() if count > 1)
        if not all(matches) or len(groups) < 2:
            continue
        # two names may be two kinds of images, but two slides are two groups
        balanced = len(groups) > 2 and max(groups.values()) <= len(pairs) / 2
        if several >= 0.7 * len(pairs) and (balanced or pattern == _TILES):
            name, count = groups.most_common(1)[0]
            findings.add(
                "possible-groups",
                f"The names suggest {len(groups)} groups, such as '{name}' with {count} images. If "
                "they belong together (one object or scene), keep each group in one split: "
                f"--group-by '{pattern}'.",
                flags={"group-by": pattern},
            )
            return
