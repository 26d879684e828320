"""Pictures and masks as files: what is odd about one, beside the others.

In: what each picture and mask is. Out: findings. What stops a file from being read has been
found before; this is about files that can be.
"""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

from plainunet.data.census import MaskCounts
from plainunet.data.check import odd_channels, size_problem
from plainunet.data.doctor import mend
from plainunet.data.doctor.findings import Findings
from plainunet.data.doctor.survey import Look
from plainunet.data.folders.partners import fitting_suffix
from plainunet.data.images import stored_shape
from plainunet.data.pairing import Pair
from plainunet.data.places import files_of
from plainunet.data.problems import command

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
        alone = files_of(pair.mask) == [pair.mask]
        cure = mend.resize(width, height, pair.mask) if alone else ""
        if alone and count.size == (width, height):
            *_, orientation = stored_shape(pair.image)
            cure = mend.turn(orientation if orientation > 4 else 6, [pair.mask])
            said += (
                f" The picture is turned by its EXIF orientation ({orientation}), the mask is not."
                if orientation > 4
                else " It lies on its side: turned, it would be."
            )
        findings.add("size-mismatch", said, [pair.image, pair.mask], cure)
    shapes = [look.shape if look else None for look in looks]
    for problem in odd_channels(pairs, shapes):
        findings.add_problem(problem)


def _tell_odd_sizes(seen: Sequence[tuple[Path, Look]], findings: Findings) -> None:
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


def _tell_name(path: Path, kind: str, findings: Findings) -> None:
    try:
        path.name.encode()
    except UnicodeEncodeError:
        ascii_name = path.name.encode("ascii", "replace").decode().replace("?", "_")
        findings.add(
            "name-not-utf8",
            f"{command(path)}: the name is not UTF-8, which other programs may not read.",
            [path],
            command("mv", path, path.with_name(ascii_name)),
        )
    suffix = fitting_suffix(path, kind) if kind and files_of(path) == [path] else path.suffix
    if suffix != path.suffix:
        findings.add(
            "wrong-extension",
            f"{path} is {kind.upper()} by its content. It is read as that here, and by others "
            "perhaps not at all.",
            [path],
            command("mv", path, path.with_suffix(suffix)),
        )


def _tell_depths(seen: Sequence[tuple[Path, Look]], findings: Findings) -> None:
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
