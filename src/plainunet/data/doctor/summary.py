"""What a data folder holds, in numbers.

In: what was found out about its pictures and masks. Out: a dictionary for machines.
"""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from plainunet.data.census import MaskCounts
from plainunet.data.doctor.contents import Contents
from plainunet.data.doctor.survey import Look
from plainunet.data.pairing import Pair
from plainunet.data_config import DataConfig
from plainunet.palette import default_names

_WHY = {
    "ids": "the values are 0, 1, ... without a gap",
    "two values": "there are two values; the smaller is class 0",
    "values": "as it was said",
    "instances": "many values in 16 bits: numbers of objects; all above 0 is class 1",
    "threshold": "black and white with greys between; from 128 on is class 1",
    "colors": "the channels differ, so each colour is a class",
}


def summarise(
    pairs: Sequence[Pair],
    looks: Sequence[Look | None],
    counts: Sequence[MaskCounts],
    contents: Contents | None,
    config: DataConfig,
    ceiling: dict[int, float],
) -> dict[str, Any]:
    """Put together what a folder holds.

    Args:
        pairs: The pairs without an error.
        looks: What the picture of each is.
        counts: What every mask holds that could be read.
        contents: What the masks of these pairs hold, or None where they make no sense together.
        config: What is known of the folder.
        ceiling: Dice that the true masks keep, reduced to N x N pixels of area, by N.

    Returns:
        Counts and shares, ready for JSON.
    """
    seen = [look for look in looks if look is not None]
    sizes = sorted(look.shape[:2] for look in seen)
    summary: dict[str, Any] = {
        "pairs": len(pairs),
        "groups": len({pair.group for pair in pairs}),
        "parts": dict(Counter(pair.part for pair in pairs if pair.part)),
        "sizes": dict(Counter(f"{width}x{height}" for height, width in sizes).most_common(8)),
        "channels": dict(Counter(look.shape[2] for look in seen)),
        "types": dict(Counter(look.dtype for look in seen)),
        "formats": dict(Counter(look.kind for look in seen)),
        "census": census_of(counts),
        "classes": [],
        "shares": {},
        "ceiling": ceiling,
    }
    if contents is None or not len(contents.pixels):
        return summary
    coding, pixels = contents.coding, contents.pixels.sum(axis=0)
    names = config.classes or coding.names or default_names(coding.num_classes)
    if len(names) != coding.num_classes:
        names = default_names(coding.num_classes)
    shares = pixels / max(pixels.sum(), 1)
    common = int(shares.argmax())
    # all of the commonest class: its Dice is 2 p / (1 + p), the others' is 0
    dice = 2 * shares[common] / (1 + shares[common]) / (len(names) - 1) if common else 0.0
    summary |= {
        "classes": list(names),
        "shares": dict(zip(names, shares.tolist(), strict=True)),
        "in_masks": dict(zip(names, (contents.pixels > 0).sum(axis=0).tolist(), strict=True)),
        "masks": {
            "kind": coding.kind,
            "why": "as it was said" if config.values or config.encoding else _WHY[coding.kind],
            "values": list(coding.values),
            "ignore": coding.ignore,
            "colors": [f"{r:02x}{g:02x}{b:02x}" for r, g, b in coding.colors],
        },
        "commonest": {"class": names[common], "dice": dice, "accuracy": float(shares[common])},
    }
    return summary


def census_of(counts: Sequence[MaskCounts]) -> list[dict[str, Any]]:
    """List the values of all masks.

    Args:
        counts: What each mask holds.

    Returns:
        For each value, ascending: `value`, `pixels`, and the number of `masks` that have it.
    """
    pixels, files = np.zeros(65536, np.int64), np.zeros(65536, np.int64)
    for each in counts:
        pixels[each.values] += each.pixels
        files[each.values] += 1
    return [
        {"value": int(value), "pixels": int(pixels[value]), "masks": int(files[value])}
        for value in np.flatnonzero(files)
    ]
