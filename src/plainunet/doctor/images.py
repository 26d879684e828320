"""Image files: unreadable, odd beside the others, badly named, or there twice."""

import hashlib
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple, TypeVar
from unicodedata import normalize

import cv2
import numpy as np
from numpy.typing import NDArray

from plainunet.dataset.cache import recall
from plainunet.dataset.coding import MaskCounts
from plainunet.dataset.matching import fitting_suffix
from plainunet.dataset.pairs import Pair
from plainunet.dataset.verify import odd_channels, size_problem
from plainunet.doctor.duplicates import Alike, find_alike, perceptual_hash
from plainunet.doctor.findings import Findings, resize_files, turn_files
from plainunet.formats.encoded import decoding, read_encoded, turn_upright
from plainunet.formats.images import read_image, stored_shape
from plainunet.formats.problems import DataError, command
from plainunet.formats.sources import ImageSource, Source, path_of, stem_of

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


def look_at(paths: Sequence[ImageSource]) -> Iterator[Look | DataError]:
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


def _look(path: ImageSource) -> Any:
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
    path: ImageSource, data: bytes
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


_Value = TypeVar("_Value")
_OFTEN = 4
_BITS_UNUSED = 8
_NEARLY_ALL = 0.9
_TIMES = 3  # in area; what is reduced or enlarged less than that learns well beside the others


def tell_files(
    pairs: Sequence[Pair],
    looks: Sequence[Look | None],
    counts: Sequence[MaskCounts | None],
    findings: Findings,
) -> None:
    """Tell of names that mislead, and of pictures that are unlike the others.

    Args:
        pairs: The pairs.
        looks: What the picture of each is, where it could be read.
        counts: What the mask of each holds, where it could be read.
        findings: Where to note it.
    """
    for pair, look, count in zip(pairs, looks, counts, strict=True):
        _tell_name(pair.image, look.kind if look else "", findings)
        _tell_name(pair.mask, count.kind if count else "", findings)
    seen = [(pair.image, look) for pair, look in zip(pairs, looks, strict=True) if look]
    if not seen:
        return
    for path, look in seen:
        if look.low == look.high:
            findings.add("blank-picture", f"{path}: all pixels are the same.", [path])
    _tell_depths(seen, findings)
    grey = [path for path, look in seen if look.shape[2] == 1]
    if grey and any(look.shape[2] == 3 for _, look in seen):
        findings.add(
            "grey-among-rgb",
            f"{len(grey)} of {len(seen)} pictures are grey, and are shown as RGB like the others; "
            f"for example {grey[0]}.",
            grey,
        )
    _tell_odd_sizes(seen, findings)


def tell_pairs(
    pairs: Sequence[Pair],
    looks: Sequence[Look | None],
    counts: Sequence[MaskCounts | None],
    findings: Findings,
) -> None:
    """Tell of masks that are not as large as their pictures, and of odd channels.

    Args:
        pairs: The pairs.
        looks: What the picture of each is, where it could be read.
        counts: What the mask of each holds, where it could be read.
        findings: Where to note it.
    """
    for pair, look, count in zip(pairs, looks, counts, strict=True):
        if look is None or count is None or look.shape[:2] == count.size:
            continue
        said = str(size_problem(pair, look.shape[:2], count.size))
        height, width = look.shape[:2]
        alone = isinstance(pair.mask, Path)
        cure = resize_files(width, height, pair.mask) if alone else ""
        if alone and count.size == (width, height):
            *_, orientation = stored_shape(pair.image)
            cure = turn_files(orientation if orientation > 4 else 6, [pair.mask])
            said += (
                f" The picture is turned by its EXIF orientation ({orientation}), the mask is not."
                if orientation > 4
                else " It lies on its side: turned, it would be."
            )
        findings.add("size-mismatch", said, [pair.image, pair.mask], cure)
    shapes = [look.shape if look else None for look in looks]
    for problem in odd_channels(pairs, shapes):
        findings.add_problem(problem)


def _tell_odd_sizes(seen: Sequence[tuple[ImageSource, Look]], findings: Findings) -> None:
    """Tell of a thumbnail, or a scan, among pictures that are all of one size."""
    height, width = _usual([look.shape[:2] for _, look in seen])
    odd = [(path, look) for path, look in seen if not _is_near(look, height * width)]
    same = sum(look.shape[:2] == (height, width) for _, look in seen)
    if same < _NEARLY_ALL * len(seen):
        return
    for path, look in odd:
        findings.add(
            "odd-size",
            f"{path} has {look.shape[1]}x{look.shape[0]} pixels, {same} of {len(seen)} pictures "
            f"{width}x{height}. Is it a thumbnail, or another kind of picture?",
            [path],
        )


def _is_near(look: Look, area: int) -> bool:
    return area / _TIMES < look.shape[0] * look.shape[1] < area * _TIMES


def _tell_name(source: Source, kind: str, findings: Findings) -> None:
    path = path_of(source)
    try:
        path.name.encode()
    except UnicodeEncodeError:
        ascii_name = path.name.encode("ascii", "replace").decode().replace("?", "_")
        findings.add(
            "name-not-utf8",
            f"{command(path)}: the name is not UTF-8, which other programs may not read.",
            [source],
            command("mv", path, path.with_name(ascii_name)),
        )
    suffix = fitting_suffix(path, kind) if kind and isinstance(source, Path) else path.suffix
    if suffix != path.suffix:
        findings.add(
            "wrong-extension",
            f"{path} is {kind.upper()} by its content. It is read as that here, and by others "
            "perhaps not at all.",
            [source],
            command("mv", path, path.with_suffix(suffix)),
        )


def _tell_depths(seen: Sequence[tuple[ImageSource, Look]], findings: Findings) -> None:
    usual = _usual([look.dtype for _, look in seen])
    odd = [(path, look) for path, look in seen if look.dtype != usual]
    if len(odd) > 0 and len(odd) * _OFTEN <= len(seen):
        for path, look in odd:
            findings.add(
                "mixed-depths",
                f"{path} holds {look.dtype} values, most pictures {usual}. Each type is divided by "
                "its own largest value: is the picture as bright as the others then?",
                [path],
            )
    deep = [(path, look) for path, look in seen if look.dtype == "uint16"]
    dim = [(path, look) for path, look in deep if 0 < look.high < 65536 / _BITS_UNUSED]
    if not dim:
        return
    bits = max(int(look.high) for _, look in dim).bit_length()
    said = f"reach {1 << bits} of 65536 at most, as from a camera of {bits} bits"
    if len(dim) == len(seen):
        # all alike: the network's normalisation takes care of it
        message = f"The 16-bit pictures {said}; that does no harm, as all are so."
        findings.add("unused-depth", message, [path for path, _ in dim], severity="note")
        return
    for path, _ in dim:
        findings.add(
            "unused-depth",
            f"{path}: its 16-bit values {said}, so that it is darker than the others.",
            [path],
        )


def _usual(values: Sequence[_Value]) -> _Value:
    return Counter(values).most_common(1)[0][0]


_GROUPS = ("^([^_-]+)[_-]", r"^(.*\d)[A-Za-z]$", "^(.+)[_-]")


def join_copies(
    pairs: Sequence[Pair],
    looks: Sequence[Look | None],
    counts: Sequence[MaskCounts | None],
    findings: Findings,
) -> list[Pair]:
    """Tell of copies, and of groups on both sides of a split.

    Args:
        pairs: The pairs.
        looks: What the picture of each is.
        counts: What the mask of each holds.
        findings: Where to note it.

    Returns:
        The pairs, copies in the group of the first where the folder gives no split.
    """
    digests = [look.digest if look else str(index) for index, look in enumerate(looks)]
    hashes = [look.hash if look else b"" for look in looks]
    alike = find_alike(digests, hashes)
    group_of = {pair.group: pair.group for pair in pairs}

    def root(group: str) -> str:
        while group_of[group] != group:
            group = group_of[group]
        return group

    for each in alike:
        _tell_copy(pairs, counts, each, findings)
        one, other = (root(pairs[index].group) for index in (each.first, each.second))
        group_of[other] = one
    _tell_same_masks(pairs, counts, alike, findings)
    _tell_shared_groups(pairs, findings)
    _tell_possible_groups(pairs, findings)
    if any(pair.part for pair in pairs):
        return list(pairs)
    return [replace(pair, group=root(pair.group)) for pair in pairs]


def _tell_copy(
    pairs: Sequence[Pair],
    counts: Sequence[MaskCounts | None],
    alike: Alike,
    findings: Findings,
) -> None:
    one, other = pairs[alike.first], pairs[alike.second]
    what = "is the same file as" if alike.exact else "shows the same as"
    code = "duplicate" if alike.exact else "near-duplicate"
    masks = [counts[index] for index in (alike.first, alike.second)]
    more = ""
    if all(masks) and masks[0] and masks[1] and masks[0].digest != masks[1].digest:
        more = " Their masks differ."
    if one.part != other.part:
        # the copy that is to be left out comes first
        if other.part == "train":
            one, other = other, one
        findings.add(
            f"{code}-across-parts",
            f"{one.image} ({one.part}) {what} {other.image} ({other.part}), so scores will look "
            f"better than they are.{more}",
            [one.image, other.image],
        )
    elif one.group != other.group:
        cure = "--write" if one.part is None else ""
        findings.add(
            f"{code}-across-groups" if one.part is None else code,
            f"{other.image} {what} {one.image}.{more}"
            + (" A split may put them on different sides." if one.part is None else ""),
            [other.image, one.image],
            cure,
        )
    else:
        findings.add(code, f"{other.image} {what} {one.image}.{more}", [other.image, one.image])


def _tell_same_masks(
    pairs: Sequence[Pair],
    counts: Sequence[MaskCounts | None],
    alike: Sequence[Alike],
    findings: Findings,
) -> None:
    copies = {index for each in alike for index in (each.first, each.second)}
    masks: dict[str, list[Source]] = defaultdict(list)
    for index, count in enumerate(counts):
        # empty masks are all the same, and have no digest
        if count and count.digest and index not in copies:
            masks[count.digest].append(pairs[index].mask)
    for files in masks.values():
        if len(files) > 1:
            findings.add(
                "same-mask",
                f"{files[1]} is the same mask as {files[0]}, pixel for pixel, and their pictures "
                "differ.",
                files,
            )


def _tell_shared_groups(pairs: Sequence[Pair], findings: Findings) -> None:
    parts: dict[str, Counter[str]] = defaultdict(Counter)
    for pair in pairs:
        if pair.part:
            parts[pair.group][pair.part] += 1
    shared = [group for group, counts in parts.items() if len(counts) > 1]
    for group in shared:
        said = " and ".join(f"{count} in {part}" for part, count in parts[group].items())
        findings.add(
            "group-across-parts",
            f"The group '{group}' has pictures on both sides of the split: {said}. Scores will "
            "look better than they are.",
            [pair.image for pair in pairs if pair.group == group],
        )


def _tell_possible_groups(pairs: Sequence[Pair], findings: Findings) -> None:
    """Tell of names like tile1_a, tile1_b: do these belong together?"""
    if any(pair.part for pair in pairs) or len({pair.group for pair in pairs}) < len(pairs):
        return
    stems = [normalize("NFC", stem_of(pair.image)) for pair in pairs]
    for pattern in _GROUPS:
        matches = [re.search(pattern, stem) for stem in stems]
        groups = Counter(match[1] for match in matches if match)
        several = sum(count for count in groups.values() if count > 1)
        if (
            all(matches)
            and len(groups) > 2
            and several >= 0.7 * len(pairs)
            and max(groups.values()) <= len(pairs) / 2
        ):
            name, count = groups.most_common(1)[0]
            findings.add(
                "possible-groups",
                f"The names make up {len(groups)} groups, such as {count} of '{name}'. If those "
                "belong together (views of one thing, parts of one picture), a split must not part "
                f"them: --group-by '{pattern}'.",
                [],
                f"--group-by '{pattern}'",
            )
            return
