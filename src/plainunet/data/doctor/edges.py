"""Edges of pictures and of masks, alike enough to be laid over each other.

In: a picture, or class ids. Out: [h, w, 2], for each pixel how much of an edge it is, 0..1, as
a vector whose angle is twice the edge's (structure tensor, Bigun and Granlund 1987). So both
sides of a line agree, edges that cross cancel out, and the dot product of two such vectors says
how well two edges agree: 0 by chance, on average.
"""

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from plainunet.data.codecs.orientation import turn_upright
from plainunet.data.encodings.colors import IGNORED
from plainunet.data.resizing import halve, resize

_BLUR = 1.0
# whether an edge is strong depends on what is usual around it: within this square [pixels]
_AROUND = 41
# a step of 255 that is blurred this much has a gradient of 400 or so
_FULL_STEP = 400.0


def reduce_image(image: NDArray[Any], size: tuple[int, int]) -> NDArray[np.float32]:
    """Reduce a picture by averaging areas.

    Args:
        image: [H, W, C], numbers of any range.
        size: New height and width [pixels].

    Returns:
        [*size, C] float32, the same range.
    """
    if image.dtype not in (np.uint8, np.uint16, np.int16, np.float32):
        image = image.astype(np.float32)
    return resize(halve(image, size), size).astype(np.float32)


def picture_edges(image: NDArray[Any], size: tuple[int, int]) -> NDArray[np.float32]:
    """Find the edges of a picture, of any strength and in any channel.

    Args:
        image: [H, W, C], numbers of any range.
        size: Height and width to reduce it to [pixels].

    Returns:
        [*size, 2] float32; an edge as strong as is usual around it has length 0.5.
    """
    picture = reduce_image(image, size)
    picture /= max(float(np.abs(picture).max()), 1e-30)
    tensor, strength = _gradients(picture)
    usual = cv2.blur(strength, (_AROUND, _AROUND))
    # flat places have no edges, only noise that is strong for its surroundings
    relative = strength / (usual + 0.1 * strength.mean() + np.float32(1e-30))
    return _rescale(tensor, strength, relative / (1 + relative))


def mask_edges(ids: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.float32]:
    """Find the borders between the classes of a mask.

    Args:
        ids: [H, W] uint8, class ids; 255 where ignored.
        size: Height and width to reduce it to [pixels].

    Returns:
        [*size, 2] float32; a border between two areas has length 1, one of a thin line less,
        one with what is ignored 0.
    """
    tensor, strength = _gradients(reduce_image(_paint(ids), size))
    length = np.minimum(strength / _FULL_STEP, 1)
    ignored = ids == IGNORED
    if ignored.any():
        share = reduce_image(ignored.astype(np.float32)[..., None], size)[..., 0]
        near = cv2.GaussianBlur(cv2.dilate(share, np.ones((5, 5))), (0, 0), _BLUR)
        length *= np.clip(1 - near, 0, 1)
    return _rescale(tensor, strength, length)


def turn_edges(edges: NDArray[Any], turn: int) -> NDArray[Any]:
    """Turn edges as `turn_upright` turns pictures.

    Args:
        edges: [h, w, 2], of a picture or a mask.
        turn: 1..8, as EXIF orientation.

    Returns:
        [h, w, 2] or, for 5..8, [w, h, 2]: the edges of the picture turned.
    """
    turned = turn_upright(edges, turn)
    # transposing exchanges x and y; a mirror reverses one of them
    if turn > 4:
        turned[..., 0] *= -1
    if turn in (2, 4, 6, 8):
        turned[..., 1] *= -1
    return turned


def shrink_edges(edges: NDArray[np.float32], pixels: int) -> NDArray[np.int8]:
    """Reduce edges to what may be kept of many pictures.

    Args:
        edges: [h, w, 2] float32, lengths 0..1.
        pixels: About how many to leave.

    Returns:
        [h', w', 2] int8, in 1/127, h' * w' about `pixels` or less.
    """
    height, width = edges.shape[:2]
    factor = min(1.0, (pixels / (height * width)) ** 0.5)
    size = max(1, round(width * factor)), max(1, round(height * factor))
    small = cv2.resize(edges, size, interpolation=cv2.INTER_AREA)
    return np.round(small * 127).clip(-127, 127).astype(np.int8)


def edge_length(mask: NDArray[Any]) -> float:
    """Measure how long the class borders of a mask are.

    Args:
        mask: [h, w, 2], its edges.

    Returns:
        The sum of the lengths of all edges, in their own unit: pixels, or 1/127 pixel for int8.
    """
    edges = mask.astype(np.float32, copy=False)
    return float(cv2.magnitude(edges[..., 0], edges[..., 1]).sum())


def edge_fit(picture: NDArray[Any], mask: NDArray[Any]) -> float:
    """Measure how well a picture's edges agree with a mask's, on average along the mask's.

    Args:
        picture: [h, w, 2], edges.
        mask: [h, w, 2], edges of the same size and dtype.

    Returns:
        0 by chance, at most 1; 0 if the mask has no edges.
    """
    full = 127 if mask.dtype == np.int8 else 1
    # not a dot product in float32: of half a million numbers, it loses digits
    agreement = np.multiply(picture, mask, dtype=np.float32).sum(dtype=np.float64)
    return float(agreement) / max(edge_length(mask), 1.0) / full


def best_shift(
    picture: NDArray[np.float32], mask: NDArray[np.float32], reach: int
) -> tuple[tuple[float, float], float, float]:
    """Find where a mask fits its picture best.

    Args:
        picture: [h, w, 2], edges.
        mask: [h, w, 2], edges.
        reach: Largest shift to try [pixels].

    Returns:
        How far to move the mask to the right and down [pixels]; the fit there; and the best
        fit among the moves that lead no nearer. No shift if there is no peak within reach.
    """
    around = cv2.copyMakeBorder(picture, reach, reach, reach, reach, cv2.BORDER_CONSTANT)
    sums: NDArray[Any] = cv2.matchTemplate(around, mask, cv2.TM_CCORR)
    fits = sums / max(edge_length(mask), 1.0)
    y, x = divmod(int(fits.argmax()), 2 * reach + 1)
    if x in (0, 2 * reach) or y in (0, 2 * reach):
        # still rising where the window ends
        return (0.0, 0.0), float(fits[reach, reach]), float(fits[reach, reach])
    steps = np.arange(-reach, reach + 1)
    leads_away = steps[:, None] * (y - reach) + steps * (x - reach) <= 0
    dx = x - reach + _vertex(fits[y, x - 1 : x + 2])
    dy = y - reach + _vertex(fits[y - 1 : y + 2, x])
    return (dx, dy), float(fits[y, x]), float(fits[leads_away].max())


def _paint(ids: NDArray[np.uint8]) -> NDArray[np.uint8]:
    # a channel for each binary digit: two classes differ by a full step in at least one
    known = ids[ids != IGNORED]
    digits = max(1, int(known.max(initial=0)).bit_length())
    values = np.arange(256)
    values[IGNORED] = 0
    planes = [
        cv2.LUT(ids, ((values >> digit) & 1).astype(np.uint8) * np.uint8(255))
        for digit in range(digits)
    ]
    return np.stack(planes, axis=2).astype(np.uint8)


def _gradients(picture: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    # [h, w, 2]: gx^2 - gy^2 and 2 gx gy, summed over the channels; [h, w]: the gradient's length
    tensor = np.zeros((*picture.shape[:2], 2), np.float32)
    for channel in range(picture.shape[2]):
        smooth = cv2.GaussianBlur(picture[..., channel], (0, 0), _BLUR)
        gx, gy = cv2.Sobel(smooth, -1, 1, 0), cv2.Sobel(smooth, -1, 0, 1)
        tensor[..., 0] += gx * gx - gy * gy
        tensor[..., 1] += 2 * gx * gy
    square: NDArray[Any] = cv2.magnitude(tensor[..., 0], tensor[..., 1])
    return tensor, np.sqrt(square)


def _rescale(
    tensor: NDArray[np.float32], strength: NDArray[np.float32], length: NDArray[np.float32]
) -> NDArray[np.float32]:
    factor = length / np.maximum(strength * strength, np.float32(1e-30))
    scaled: NDArray[np.float32] = tensor * factor[..., None]
    return scaled


def _vertex(fits: NDArray[Any]) -> float:
    # the top of the parabola through three fits, seen from the middle one
    before, here, after = (float(fit) for fit in fits)
    bend = before - 2 * here + after
    return 0.5 * (before - after) / bend if bend < 0 else 0.0
