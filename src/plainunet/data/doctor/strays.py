"""Masks that hold what no class has: saved as JPEG, smoothed, or with a colour of their own.

In: counts of masks. Out: findings. What such values are taken for is settled elsewhere.
"""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from plainunet.data.census import MaskCounts
from plainunet.data.doctor.findings import Findings
from plainunet.data.encodings.colors import NEAR
from plainunet.data.encodings.legend import write_color
from plainunet.data.encodings.values import THRESHOLD
from plainunet.data.masks import MaskCoding
from plainunet.data.problems import command

_PICTURE = 0.5  # with more of its pixels between the classes' values, it is no mask
_SMOOTHED = 0.1  # of a smoothed mask, no more pixels are
_GREYS = 32, 224
_MANY = 64
_STRAY = 1e-3  # publishers leave single pixels of no class
_FEW = 0.05


def find_pictures(counts: Sequence[MaskCounts]) -> list[MaskCounts]:
    """Find what is grey all over, where most masks are black and white.

    Args:
        counts: What each mask holds.

    Returns:
        Those that are.
    """
    grey = [_share_of_greys(each) for each in counts]
    plain = [
        255 in each.values and share < _SMOOTHED for each, share in zip(counts, grey, strict=True)
    ]
    if 2 * sum(plain) <= len(counts):
        return []
    return [
        each
        for each, share in zip(counts, grey, strict=True)
        if share > _PICTURE and len(each.values) > _MANY
    ]


def _share_of_greys(mask: MaskCounts) -> float:
    between = (mask.values >= _GREYS[0]) & (mask.values < _GREYS[1])
    return float(mask.pixels[between].sum() / max(mask.pixels.sum(), 1))


def tell_all_lossy(masks: Sequence[Path], findings: Findings) -> None:
    """Tell of a set of JPEG files that make no sense together.

    Args:
        masks: The masks.
        findings: Where to note it.
    """
    findings.add(
        "lossy-mask",
        f"{len(masks)} masks are JPEG files, which changes their values, so that classes cannot be "
        f"told apart; for example {masks[0]}. Draw them again, or take them from before they were "
        "saved so.",
        masks,
        command("ls", masks[0].parent),
        "error",
    )


def tell_smoothed(coding: MaskCoding, counts: Sequence[MaskCounts], findings: Findings) -> None:
    """Tell of masks with values or colours between those of the classes.

    Args:
        coding: What values or colours mean.
        counts: What each mask holds.
        findings: Where to note it.
    """
    lossy = [each.path for each in counts if each.kind == "jpeg"]
    if coding.kind == "colors" and lossy:
        findings.add(
            "lossy-mask",
            f"{len(lossy)} masks are JPEG files, which changes colours; those up to {NEAR} beside "
            f"one of the legend are taken for it. For example: {lossy[0]}.",
            lossy,
        )
    if coding.kind != "threshold":
        return
    for each in counts:
        between = (each.values > 0) & (each.values < 255)
        if between.any():
            share = each.pixels[between].sum() / each.pixels.sum()
            findings.add(
                "lossy-mask",
                f"{each.path}: {share:.2%} of the pixels lie between 0 and 255, from smoothing or "
                f"JPEG; from {THRESHOLD} on they are taken for class 1.",
                [each.path],
                "--encoding threshold",
            )


def tell_stray_colors(
    masks: Sequence[Path], strays: Sequence[tuple[int, float]], findings: Findings
) -> None:
    """Tell of masks with a colour of no class; one that many masks have is meant to be none.

    Args:
        masks: The masks.
        strays: Of each, the commonest colour that is no class's, and the share of all such.
        findings: Where to note it.
    """
    much = [(path, *stray) for path, stray in zip(masks, strays, strict=True) if stray[1] > _STRAY]
    files = Counter(color for _, color, _ in much)
    for path, color, share in much:
        if files[color] <= max(1, _FEW * len(masks)) and 2 * len(much) < len(masks):
            findings.add(
                "stray-color",
                f"{path}: {share:.2%} of its pixels are of colours that are no class's, the "
                f"commonest is {write_color(color)}. They are ignored.",
                [path],
                severity="error" if share > _PICTURE else "warning",
            )
