"""Masks that do not fit their pictures, as findings with their cures.

In: a sample of pairs, and how each mask fits. Out: findings.
"""

from collections.abc import Sequence

from plainunet.data.doctor import mend
from plainunet.data.doctor.alignment import TURNS, Misfit, find_misfits
from plainunet.data.doctor.contents import Contents
from plainunet.data.doctor.findings import Findings
from plainunet.data.doctor.inversion import find_inverted
from plainunet.data.doctor.sample import Fit
from plainunet.data.pairing import Pair
from plainunet.data.places import files_of
from plainunet.data.problems import command

_MANY = 0.3


def tell_fits(
    pairs: Sequence[Pair],
    fits: Sequence[Fit | None],
    contents: Contents,
    findings: Findings,
) -> None:
    """Tell which masks do not fit.

    Args:
        pairs: The sample.
        fits: How each mask fits, where that could be measured.
        contents: What the masks hold.
        findings: Where to note it.
    """
    swapped: set[int] = set()
    misfits = find_misfits([fit.evidence if fit else None for fit in fits])
    others = [each for each in misfits if each.kind in ("swapped", "elsewhere")]
    if len(others) > max(3, _MANY * len(pairs)):
        misfits = [each for each in misfits if each not in others]
        _tell_out_of_step(pairs, others, findings)
    for misfit in misfits:
        if misfit.index not in swapped:
            _tell_misfit(pairs, misfit, findings)
        if misfit.kind == "swapped":
            swapped |= {misfit.index, misfit.other}
    for index in find_inverted([fit.appearance if fit else None for fit in fits]):
        mask = pairs[index].mask
        values = contents.coding.values
        in_place = contents.coding.kind in ("ids", "two values") and _is_alone(pairs[index])
        findings.add(
            "inverted",
            f"{mask}: its two classes look exchanged, beside the other masks.",
            [mask],
            mend.exchange_values(values[0], values[1], [mask]) if in_place else "",
        )


def _tell_out_of_step(pairs: Sequence[Pair], misfits: Sequence[Misfit], findings: Findings) -> None:
    """Tell of names that join each picture with another's mask."""
    first = misfits[0]
    findings.add(
        "swapped",
        f"{len(misfits)} of {len(pairs)} masks looked at fit other pictures better than their "
        f"own, such as {pairs[first.index].mask} that of {pairs[first.other].image}. Are the "
        "names out of step, as when one file was left out of a numbered row?",
        [pairs[each.index].mask for each in misfits],
        command("ls", pairs[first.index].image.parent, pairs[first.index].mask.parent),
    )


def _tell_misfit(pairs: Sequence[Pair], misfit: Misfit, findings: Findings) -> None:
    pair = pairs[misfit.index]
    mask, alone = pair.mask, _is_alone(pair)
    if misfit.kind == "shifted":
        findings.add(
            "shifted",
            f"{mask} fits its picture better moved by {_say_move(misfit.dx, misfit.dy)}.",
            [mask, pair.image],
            mend.move(misfit.dx, misfit.dy, [mask]) if alone else "",
        )
    elif misfit.kind == "flipped":
        findings.add(
            "flipped",
            f"{mask} fits its picture better {TURNS[misfit.turn]}.",
            [mask, pair.image],
            mend.turn(misfit.turn, [mask]) if alone else "",
        )
    elif misfit.kind == "exif":
        findings.add(
            "exif",
            f"{pair.image} is turned by its EXIF orientation ({misfit.turn}), and its mask {mask} "
            "fits the picture as it was before.",
            [pair.image, mask],
            mend.turn(misfit.turn, [mask]) if alone else "",
        )
    else:
        other = pairs[misfit.other]
        both = misfit.kind == "swapped" and alone and mask.suffix == other.mask.suffix
        findings.add(
            "swapped",
            f"{mask} fits the picture {other.image} better than its own, {pair.image}"
            + (f"; and {other.mask} the other way round." if misfit.kind == "swapped" else "."),
            [mask, other.mask] if misfit.kind == "swapped" else [mask],
            mend.exchange(mask, other.mask) if both else "",
        )


def _say_move(dx: int, dy: int) -> str:
    """Write a move, such as "8 pixels left and 3 down"."""
    parts: list[str] = []
    for amount, forwards, backwards in ((dx, "right", "left"), (dy, "down", "up")):
        if amount:
            unit = " pixels" if not parts else ""
            parts.append(f"{abs(amount)}{unit} {forwards if amount > 0 else backwards}")
    return " and ".join(parts)


def _is_alone(pair: Pair) -> bool:
    """Whether the mask is a file of its own."""
    return files_of(pair.mask) == [pair.mask]
