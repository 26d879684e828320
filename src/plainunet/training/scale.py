"""At what scale a network sees pictures: reduced whole, or in patches, and how they grow.

In: a data set's fingerprint, and what a training step takes here. Out: sizes, each with its
reason. PyTorch is not loaded.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from plainunet.data.fingerprint import Fingerprint

Plan = dict[str, tuple[Any, str]]
"""For each setting its value and the reason for it."""

WIDTHS = {16: 1.0, 24: 2.0, 32: 3.45}
"""Base channels, and how many times the time of 16 a step of each takes (measured on CPUs)."""
_PASSES, _WORK, _MORE = 2500, 25e6, 0.4
"""Pictures, or patches, that a network should see in all, one counted as often as it is seen, if
there is time for so many of their pixels at 16 base channels; with the power of it that follows,
more time makes both more of them and larger ones."""
_FEW, _HARDER = 5, 1.3
"""So many classes beside the background are learnt from that; for more, more are needed, by the
power of how many times as many they are."""
_GROWTH: tuple[dict[str, float], ...] = (
    {"until": 0.3, "scale": 1 / 3},
    {"until": 0.6, "scale": 2 / 3},
)
"""The last part must begin while the learning rate is high enough for the network, and what its
normalisation remembers, to get used to the size."""
_HALF: tuple[dict[str, float], ...] = ({"until": 0.5, "scale": 0.5},)
_LARGE = 512
_LOST = 0.02
"""Dice of the true masks that a smaller size may cost."""
_SEEN = 64.0
"""Diameter of an object that the network still sees as a whole [working pixels]: typical ones
are not shown larger, unless there is time for it."""
_ENOUGH = 0.85
"""Share of the side at which objects have the size that suits them, below which whole pictures are
too coarse."""
_EVERYWHERE, _LITTLE = 0.9, 0.75
"""Patches are taken instead where all classes are in so many parts of a picture, or where true
masks keep less than this Dice: a network that sees the whole learns more from the same pixels."""
_SMALLEST_PATCH, _LARGEST_PATCH = 96, 512
_PATCHES = 2
"""So many of the patches that are asked for should a picture be across, at least."""


class Machine(NamedTuple):
    """What is known of the machine.

    Attributes:
        pixel: What one working pixel of one picture takes in a step [s], at 16 base channels or
            at those that are given.
        memory: Of the device [bytes].
        name: What it is, in words.
    """

    pixel: float
    memory: float
    name: str


def choose_window(
    seen: Fingerprint, machine: Machine, seconds: float, given: Mapping[str, Any], least: int
) -> Plan:
    """Choose what the network sees, and how wide it is.

    Args:
        seen: What is known of the data.
        machine: What is known of the machine.
        seconds: Time for training steps alone [s].
        given: Settings that the user gave.
        least: Least side that the network takes in training [pixels].

    Returns:
        `size`, or `patch` and `factor`; and `base_channels`.
    """
    native = _typical(seen.sizes)
    passes = _passes(seconds, machine.pixel, len(seen.shares))
    whole, base = _afford(seconds, machine.pixel, native, passes, given)
    whole = min(max(whole, 3.0 * least), native, 1.5 * _LARGE)
    fine = max(side_needed(seen.kept, _LOST), native * _SEEN / (seen.typical or native))
    fine = min(fine, native)
    coarse = whole < _ENOUGH * fine
    if given.get("patch"):
        fine = min(max(fine, _PATCHES * max(given["patch"])), native)
    alike = seen.spread >= _EVERYWHERE or _kept_at(seen.kept, whole) < _LITTLE
    if given.get("size") or not (given.get("patch") or (coarse and alike)):
        size = choose_size(seen.sizes, round(whole))
        height, width = np.median(np.array(seen.sizes), axis=0)
        reason = f"the median picture has {height:.0f} x {width:.0f} pixels"
        if whole < native:
            reason += f", and enough of them can be seen in {seconds:.0f} s if reduced to this"
        if whole < native and len(seen.shares) > _FEW + 1:
            reason += f", {len(seen.shares)} classes taking more of them"
        if seen.kept:
            reason += f"; masks keep a Dice of {_kept_at(seen.kept, whole):.3f} at it"
        said = "wider only where there is time for full-size pictures"
        return {"size": (size, reason), "base_channels": (base, said)}
    # steps of a quarter octave: what is cached once serves similar plans
    factor = min(1.0, 2 ** (math.ceil(4 * math.log2(fine / native)) / 4))
    side = math.sqrt(seconds / (passes * machine.pixel))
    side = min(max(side, _SMALLEST_PATCH), _LARGEST_PATCH, factor * native)
    patch = max(least, 32 * round(side / 32))
    reason = (
        f"to be seen often enough in {seconds:.0f} s, whole pictures would have to be reduced to "
        f"{whole:.0f} x {whole:.0f} pixels of area, too small for what is in them; classes are "
        f"in {seen.spread:.0%} of their parts; a third of the patches is centred on rarer classes"
    )
    kept = f"masks keep a Dice of {_kept_at(seen.kept, factor * native):.3f} at it"
    if given.get("patch"):
        across = factor * native / max(given["patch"])
        kept = f"the median picture is {across:.1f} of these patches across, {kept}"
    if seen.typical:
        kept += f", and typical objects are {factor * seen.typical:.0f} pixels across"
    return {
        "patch": ((patch, patch), reason),
        "factor": (round(factor, 4), kept),
        "base_channels": (16, "wider only where there is time for full-size pictures"),
    }


def _afford(
    seconds: float, pixel: float, native: float, passes: float, given: Mapping[str, Any]
) -> tuple[float, int]:
    """Side [pixels of area] of pictures that can be seen often enough, and the width."""
    widths = {given["base_channels"]: 1.0} if "base_channels" in given else WIDTHS
    cost = growth_cost(given.get("growth", _GROWTH))
    area = seconds / (passes * cost * pixel)
    sides = {base: math.sqrt(area / times) for base, times in widths.items()}
    # wider only where pictures are as large as they are, or as is worth while
    wide = [base for base, side in sides.items() if side >= min(native, _LARGE)]
    base = max(wide, default=min(sides))
    return sides[base], base


def _passes(seconds: float, pixel: float, classes: int) -> float:
    """How often pictures should be seen in all."""
    more: float = (seconds / pixel / _WORK) ** _MORE
    harder: float = max(1.0, (classes - 1) / _FEW) ** _HARDER
    return _PASSES * more * harder


def choose_growth(size: tuple[int, int], least: int) -> tuple[tuple[dict[str, float], ...], str]:
    """Choose how whole pictures grow during a run.

    Args:
        size: Height and width at its end [pixels].
        least: Least side that the network takes in training [pixels].

    Returns:
        The earlier parts, each with `until` and `scale`, and the reason for them.
    """
    for growth in (_GROWTH, _HALF):
        if min(size) * growth[0]["scale"] >= least:
            return growth, "most is learnt as well from small pictures, and faster"
    return (), "the pictures are too small to begin smaller"


def side_needed(kept: Mapping[int, float], lost: float) -> float:
    """Say how large a mask must be to keep enough of itself.

    Args:
        kept: By N, the Dice that masks keep at N x N pixels of area.
        lost: Dice that may be lost.

    Returns:
        N, by a straight line on logarithmic scales between those that were measured, beyond
        them in inverse proportion; 0 where nothing was.
    """
    if not kept:
        return 0.0
    # a band along outlines is lost, half as wide where pixels are half as large
    return next((n for n in np.geomspace(16, 4096, 129) if 1 - _kept_at(kept, n) <= lost), 4096.0)


def _kept_at(kept: Mapping[int, float], side: float) -> float:
    """The Dice that masks keep at side x side pixels of area."""
    if not kept:
        return 1.0
    sides, lost = np.array(list(kept)), np.maximum(1 - np.array(list(kept.values())), 1e-6)
    for end in (0, -1):
        if side <= sides[0] if end == 0 else side >= sides[-1]:
            return max(0.0, 1 - float(lost[end] * sides[end]) / side)
    return 1 - float(np.exp(np.interp(np.log(side), np.log(sides), np.log(lost))))


def _typical(sizes: Sequence[tuple[int, int]]) -> float:
    """Side of a square as large as the median picture [pixels]."""
    height, width = np.median(np.array(sizes), axis=0)
    return math.sqrt(height * width)


def growth_cost(growth: Sequence[Any]) -> float:
    """Say what growth saves.

    Args:
        growth: Earlier parts of a run, each with `until` and `scale`.

    Returns:
        The time of a run as a share of what it would take with full-size pictures alone.
    """
    cost, before = 0.0, 0.0
    for part in (*growth, {"until": 1.0, "scale": 1.0}):
        until, scale = dict(part)["until"], dict(part)["scale"]
        cost, before = cost + (until - before) * scale**2, until
    return cost


def choose_size(sizes: Sequence[tuple[int, int]], side: int = 256) -> tuple[int, int]:
    """Choose a working size for pictures of these sizes.

    Args:
        sizes: Height and width of each picture [pixels].
        side: N, for an area of about N x N pixels.

    Returns:
        Height and width [pixels]: the median picture, reduced to an area of about N x N,
        each side a multiple of 16 and at least 32.
    """
    height, width = (float(length) for length in np.median(np.array(sizes), axis=0))
    scale = min(1.0, side / math.sqrt(height * width))
    return max(32, 16 * round(height * scale / 16)), max(32, 16 * round(width * scale / 16))
