"""A picture -> the patch of it that training sees.

In: a picture with the shares of its classes. Out: a window of both, the same for the same
numbers.
"""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from plainunet.data.cache import Sample

CENTRED = 1 / 3
"""Share of the patches that are centred on a pixel of a rarer class."""
_EDGE = 8
_LOOKED_AT = 512  # of larger pictures, a grid of so many pixels squared is searched for classes


def cut_patch(sample: Sample, patch: tuple[int, int], state: Sequence[int]) -> Sample:
    """Cut a window out of a sample.

    Most lie anywhere in it; a third of them, on average, have a pixel of one of the picture's
    rarer classes in their middle (Isensee et al. 2021, nnU-Net, supplementary note 2, does so
    with a third of its patches). The class is drawn evenly from all that the picture has, its
    commonest left out. A picture smaller than the patch is padded as by `pad`.

    Args:
        sample: Image [h, w, C], shares [h, w, K] uint8, and perhaps labels [h, w, 1].
        patch: Height and width of the window [pixels].
        state: Numbers that fix every random choice, such as (seed, epoch, draw number).

    Returns:
        The same arrays, [*patch, ...].
    """
    height, width = sample[1].shape[:2]
    random = np.random.default_rng([*state, 1])  # another sequence than that of the augmentation
    highest = max(0, height - patch[0]), max(0, width - patch[1])
    centre = None
    if any(highest) and random.random() < CENTRED:
        centre = _choose_pixel(sample[1], random)
    if centre is None:
        # drawn from a little more than there is, so that edges are not seen too seldom
        drawn = [
            random.integers(-(side // _EDGE), most + side // _EDGE, endpoint=True)
            for side, most in zip(patch, highest, strict=True)
        ]
        top, left = (min(max(0, int(n)), most) for n, most in zip(drawn, highest, strict=True))
    else:
        top, left = (
            min(max(0, middle - side // 2), most)
            for middle, side, most in zip(centre, patch, highest, strict=True)
        )
    return pad([part[top : top + patch[0], left : left + patch[1]] for part in sample], patch)


def patches_each(sizes: Sequence[tuple[int, int]], patch: tuple[int, int]) -> int:
    """Say how many patches make a picture.

    Args:
        sizes: Height and width of each picture [pixels].
        patch: Height and width of a patch [pixels].

    Returns:
        So many that patches are as large together as pictures on average, at least 1.
    """
    mean = sum(height * width for height, width in sizes) / len(sizes)
    return max(1, round(mean / (patch[0] * patch[1])))


def pad(parts: Sequence[NDArray[np.generic]], size: tuple[int, int]) -> Sample:
    """Enlarge a sample at the right and bottom.

    Args:
        parts: Image [h, w, C], shares [h, w, K], and perhaps labels [h, w, 1].
        size: Height and width wanted, no less than h and w.

    Returns:
        The image padded by its edge, and the others by nothing, so that the padding does not
        count in the loss.
    """
    image, *others = parts
    below, right = size[0] - image.shape[0], size[1] - image.shape[1]
    if not below and not right:
        return tuple(parts)
    border = ((0, below), (0, right), (0, 0))
    return np.pad(image, border, mode="edge"), *(np.pad(part, border) for part in others)


def _choose_pixel(shares: NDArray[np.uint8], random: np.random.Generator) -> tuple[int, int] | None:
    """A pixel of one of the rarer classes; None where there is but one class."""
    step = max(1, int(math.sqrt(shares.shape[0] * shares.shape[1]) / _LOOKED_AT))
    first = random.integers(0, step, 2)
    looked_at = shares[first[0] :: step, first[1] :: step]
    inside = looked_at > 127
    counts = inside.sum(axis=(0, 1))
    rarer = np.flatnonzero(counts)
    rarer = rarer[rarer != counts.argmax()]
    if not len(rarer):
        return None
    pixels = np.flatnonzero(inside[..., random.choice(rarer)])
    row, column = divmod(int(random.choice(pixels)), looked_at.shape[1])
    return int(first[0]) + row * step, int(first[1]) + column * step
