"""Test on a sample of pairs whether masks fit their images, and report those that do not."""

import base64
import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from plainunet.dataset.cache import recall
from plainunet.dataset.coding import Coding, Values
from plainunet.dataset.pairs import Pair
from plainunet.dataset.resize import SIZES, measure_ceiling
from plainunet.doctor.alignment import (
    TURNS,
    Evidence,
    Misfit,
    edge_evidence,
    find_misfits,
    reduce_image,
)
from plainunet.doctor.findings import Findings, change_of
from plainunet.doctor.fix import write_move
from plainunet.doctor.images import PairFacts
from plainunet.doctor.masks import Contents
from plainunet.formats.colors import IGNORED
from plainunet.formats.images import read_with_missing, stored_shape
from plainunet.formats.problems import DataError
from plainunet.formats.sources import ImageSource, Source, path_of
from plainunet.reporter import Reporter, track

# long side of reduced images [pixels]
_SIDE = 256
# smaller fractions count as zero, such as at the image border of one centred object
_LEAST_SHARE = 0.02
# width of the Parzen window: class fraction, fraction at the image border, contrast
_WIDTHS = np.array([0.7, 1.0, 0.25])
# minimum number of masks to compare
_FEWEST_ALIKE = 6
# once inverted, a mask must resemble this fraction of the others, and this factor more of them
# than before
_ALIKE, _TIMES = 0.05, 10.0
# of two camps, each mask is clear in its own, and nearly all agree; log-odds of 80 %
_CLEAR, _AGREE, _FEWEST_OF_CAMP = 1.4, 0.9, 2


def appearance(image: NDArray[Any] | None, ids: NDArray[np.uint8]) -> list[float]:
    """Measure features that change sign when the two classes of a mask are swapped.

    The log-odds of class 1 in the mask [H, W] and along the image border, -3.9..3.9; with an
    image [H, W, C] of any range, the correlation of its brightness with class 1, -1..1. All 0 if
    every pixel is ignored; empty if the mask has more classes.
    """
    known = ids != IGNORED
    if ((ids > 1) & known).any():
        return []
    height, width = ids.shape
    scale = max(1.0, max(height, width) / _SIDE)
    size = max(1, round(height / scale)), max(1, round(width / scale))
    # the fraction of each pixel that is class 1, and that is not ignored: [h, w] each
    ones, known = (
        reduce_image(plane[..., None] * np.uint8(255), size)[..., 0] / np.float32(255)
        for plane in (ids == 1, known)
    )
    frame = np.ones_like(ones, dtype=bool)
    frame[1:-1, 1:-1] = False
    features = [
        _log_odds(ones.sum(), known.sum()),
        _log_odds(ones[frame].sum(), known[frame].sum()),
    ]
    if image is not None:
        bright = reduce_image(image, size).mean(axis=2)
        features.append(_correlation(bright, ones, known))
    return features


def find_inverted(appearances: Sequence[list[float] | None]) -> list[int]:
    """Find the indices of masks whose two classes are swapped.

    Returns none if a mask has more than two classes. Appearances may be missing.
    """
    indices = [index for index, each in enumerate(appearances) if each is not None]
    found = [each for each in appearances if each is not None]
    if len(found) < _FEWEST_ALIKE or not all(found):
        return []
    given = np.full((len(found), len(_WIDTHS)), np.nan)
    for row, each in zip(given, found, strict=True):
        row[: len(each)] = each
    # Parzen windows count similar masks, as they are and inverted, so that a set may mix kinds:
    # dark cells on bright ground and bright ones on dark
    as_is, inverted = _alike(given, given), _alike(-given, given)
    others = len(found) - 1
    is_odd = (inverted > max(1.0, _ALIKE * others)) & (inverted > _TIMES * as_is)
    return [index for index, odd in zip(indices, is_odd, strict=True) if odd]


def are_two_camps(appearances: Sequence[list[float] | None]) -> bool:
    """Whether the two classes are swapped in a part of the masks, up to half or more.

    One class then surrounds the other in each mask, class 1 in several, and the object is brighter
    than its surroundings in nearly all, or darker. Masks that are empty or without image are left
    out.
    """
    found = np.array([each for each in appearances if each and len(each) == 3 and each[2]])
    if len(found) < _FEWEST_ALIKE:
        return False
    side = np.sign(found[:, 1])
    is_clear = (found[:, :2] * side[:, None] > _CLEAR).all(axis=1)
    camps = [found[side == each, 2] * each < 0 for each in (-1, 1)]
    if is_clear.mean() < _AGREE or min(map(len, camps)) < _FEWEST_OF_CAMP:
        return False
    brighter = [float(camp.mean()) for camp in camps]
    return min(brighter) >= _AGREE or max(brighter) <= 1 - _AGREE


def _alike(some: NDArray[np.float64], given: NDArray[np.float64]) -> NDArray[np.float64]:
    apart = (some[:, None] - given[None]) / _WIDTHS
    # missing features do not add to the distance
    weights = np.exp(-0.5 * np.nansum(apart**2, axis=2))
    np.fill_diagonal(weights, 0)
    alike: NDArray[np.float64] = weights.sum(axis=1)
    return alike


def _log_odds(part: float, whole: float) -> float:
    if whole <= 0:
        return 0.0
    share = float(np.clip(part / whole, _LEAST_SHARE, 1 - _LEAST_SHARE))
    return float(np.log(share / (1 - share)))


def _correlation(
    bright: NDArray[np.float32], ones: NDArray[np.float32], known: NDArray[np.float32]
) -> float:
    total = float(known.sum())
    if total <= 0:
        return 0.0
    light = bright - (bright * known).sum() / total
    share = ones.sum() / total
    both = (light * (ones - share * known)).sum()
    # class 1 is Bernoulli distributed
    spread = np.sqrt((light**2 * known).sum() * total * share * (1 - share))
    return float(both / spread) if spread > 0 else 0.0


MOST = 64
_FEWEST, _MOST_PIXELS = 24, 110_000_000


class Fit(NamedTuple):
    """How a mask fits its image."""

    evidence: Evidence
    """The alignment of its boundaries, see `edge_evidence`."""
    appearance: list[float] | None
    """The features of its two classes; None if there are more."""
    ceiling: list[float] | None
    """Dice of the mask itself, reduced to each of `SIZES` and enlarged again: the mean over its
    foreground classes; None if it has none."""


def draw_sample(
    pairs: Sequence[Pair], seed: int = 0, most: int = MOST, area: float = 0
) -> list[int]:
    """Draw a sample of pairs: ascending indices, fewer if the mean area of images is large."""
    large = max(_FEWEST, int(_MOST_PIXELS / max(area, 1)))
    count = min(most, len(pairs), large)
    return sorted(random.Random(seed).sample(range(len(pairs)), count))


def measure_fits(pairs: Sequence[Pair], coding: Coding) -> Iterator[Fit | DataError]:
    """Measure how each mask fits its image, in parallel and in order; yields errors too."""

    def measure(image_path: ImageSource, mask_path: Source) -> Any:
        image, missing = read_with_missing(image_path)
        ids = coding.read(mask_path)
        if missing is not None:
            ids[missing] = IGNORED
        orientation = stored_shape(image_path)[3] if isinstance(image_path, Path) else 1
        evidence = edge_evidence(image, ids, orientation, missing)
        known = appearance(image, ids) if coding.num_classes == 2 else None
        return [_pack(evidence), known, measure_ceiling(ids, coding.num_classes)]

    kind = f"fit 3 {coding} {Evidence._fields}"  # everything the ids depend on
    for facts in recall(kind, [(pair.image, pair.mask) for pair in pairs], measure):
        yield facts if isinstance(facts, DataError) else Fit(_unpack(facts[0]), *facts[1:])


def _pack(evidence: Evidence) -> list[Any]:
    """Encode evidence for JSON."""
    packed: list[Any] = []
    for value in evidence:
        if isinstance(value, np.ndarray):
            data = base64.b64encode(np.ascontiguousarray(value).tobytes()).decode()
            packed.append([value.dtype.str, list(value.shape), data])
        else:
            packed.append(list(value) if isinstance(value, tuple) else value)
    return packed


def _unpack(packed: Sequence[Any]) -> Evidence:
    values: list[Any] = []
    for value in packed:
        if isinstance(value, list) and isinstance(value[0], str):
            dtype, shape, data = value
            values.append(np.frombuffer(base64.b64decode(data), dtype).reshape(shape))
        else:
            values.append(tuple(value) if isinstance(value, list) else value)
    return Evidence(*values)


_MANY = 0.3


def check_fits(
    facts: Sequence[PairFacts],
    contents: Contents,
    seed: int,
    findings: Findings,
    reporter: Reporter,
) -> dict[int, float]:
    """Find masks of a sample that do not fit their images.

    Returns the resolution ceiling: the mean Dice of ground truth reduced to each of `SIZES`.
    """
    areas = [each.image.shape[0] * each.image.shape[1] for each in facts if each.image]
    drawn = draw_sample([each.pair for each in facts], seed, area=sum(areas) / max(len(areas), 1))
    pairs = [facts[index].pair for index in drawn]
    measured = track(
        measure_fits(pairs, contents.coding), "image and mask alignment", len(pairs), reporter
    )
    fits = [None if isinstance(fit, DataError) else fit for fit in measured]
    _add_misfits(pairs, find_misfits([fit and fit.evidence for fit in fits]), findings)
    _add_inverted(pairs, [fit and fit.appearance for fit in fits], contents, findings)
    kept = np.array([fit.ceiling for fit in fits if fit and fit.ceiling])
    return dict(zip(SIZES, kept.mean(axis=0).tolist(), strict=True)) if len(kept) else {}


def _add_inverted(
    pairs: Sequence[Pair],
    appearances: Sequence[list[float] | None],
    contents: Contents,
    findings: Findings,
) -> None:
    values = contents.coding.values
    is_by_value = isinstance(contents.coding, Values)
    if are_two_camps(appearances):
        shares = contents.pixels[:, 1] / contents.pixels.sum(axis=1).clip(1)
        odd = [mask for mask, share in zip(contents.masks, shares, strict=True) if share > 0.5]
        findings.add(
            "inverted",
            f"Class 1 surrounds class 0 in {len(odd)} of {len(shares)} masks, such as {odd[0]}, "
            "and class 0 surrounds class 1 in the others: foreground and background are swapped "
            f"in a part of them.{'' if is_by_value else ' Invert these.'}",
            odd,
            fix=change_of("values", odd, values, values[::-1]) if is_by_value else None,
        )
        return
    for index in find_inverted(appearances):
        mask = pairs[index].mask
        findings.add(
            "inverted",
            f"{mask}: foreground and background look swapped, compared with other masks.",
            [mask],
            fix=change_of("values", [mask], values, values[::-1]) if is_by_value else "",
        )


def _add_misfits(pairs: Sequence[Pair], misfits: Sequence[Misfit], findings: Findings) -> None:
    others = [each for each in misfits if each.kind in ("swapped", "elsewhere")]
    if len(others) > max(3, _MANY * len(pairs)):
        misfits = [each for each in misfits if each not in others]
        _add_out_of_step(pairs, others, findings)
    swapped: set[int] = set()
    for misfit in misfits:
        if misfit.index not in swapped:
            _add_misfit(pairs, misfit, findings)
        if misfit.kind == "swapped":
            swapped |= {misfit.index, misfit.other}


def _add_out_of_step(pairs: Sequence[Pair], misfits: Sequence[Misfit], findings: Findings) -> None:
    """Report that names pair many images with the wrong masks."""
    first = misfits[0]
    pair = pairs[first.index]
    findings.add(
        "swapped",
        f"{len(misfits)} of {len(pairs)} masks fit other images better than their own; {pair.mask} "
        f"fits {pairs[first.other].image}, for example. Are the file numbers of images and masks "
        "offset?",
        [pairs[each.index].mask for each in misfits],
        fix=None,
    )


def _add_misfit(pairs: Sequence[Pair], misfit: Misfit, findings: Findings) -> None:
    image, mask = pairs[misfit.index].image, pairs[misfit.index].mask
    turn = change_of("turn", [mask], misfit.turn)
    if misfit.kind == "shifted":
        findings.add(
            "shifted",
            f"{mask} fits its image better when moved by {write_move(misfit.dx, misfit.dy)}.",
            [mask, image],
            fix=change_of("move", [mask], misfit.dx, misfit.dy),
        )
    elif misfit.kind == "flipped":
        findings.add(
            "flipped",
            f"{mask} fits its image better when {TURNS[misfit.turn]}.",
            [mask, image],
            fix=turn,
        )
    elif misfit.kind == "exif":
        findings.add(
            "exif",
            f"{image} is rotated by its EXIF orientation ({misfit.turn}), but its mask {mask} fits "
            "the image before rotation.",
            [image, mask],
            fix=turn,
        )
    else:
        other = pairs[misfit.other]
        is_swapped = misfit.kind == "swapped"
        can_exchange = is_swapped and path_of(mask).suffix == path_of(other.mask).suffix
        findings.add(
            "swapped",
            f"{mask} fits the image {other.image} better than its own, {image}"
            + (f", and {other.mask} fits {image}." if is_swapped else "."),
            [mask, other.mask] if is_swapped else [mask],
            fix=change_of("exchange", [mask, other.mask]) if can_exchange else "",
        )
