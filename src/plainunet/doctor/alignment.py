"""Test whether a mask fits its image: compare its class boundaries with the image edges."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import hypot, prod
from statistics import median
from typing import Any, Literal, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from plainunet.dataset.resize import halve, resize
from plainunet.errors import Error
from plainunet.formats.colors import IGNORED
from plainunet.formats.image_files import turn_upright

_BLUR = 1.0
# edge strength is relative to the mean within this square [pixels]
_AROUND = 41
# gradient of a step of 255 after the blur, roughly
_FULL_STEP = 400.0


def reduce_image(image: NDArray[Any], size: tuple[int, int]) -> NDArray[np.float32]:
    """Reduce an image [H, W, C] of any range by averaging areas: [*size, C] float32."""
    if image.dtype not in (np.uint8, np.uint16, np.int16, np.float32):
        image = image.astype(np.float32)
    return resize(halve(image, size), size).astype(np.float32)


def image_edges(image: NDArray[Any], size: tuple[int, int]) -> NDArray[np.float32]:
    """Find the edges of an image [H, W, C] of any range, reduced to `size`: [*size, 2] float32.

    Edges may have any strength and lie in any channel; one of mean strength for its surroundings
    has length 0.5.
    """
    reduced = reduce_image(image, size)
    reduced /= max(float(np.abs(reduced).max()), 1e-30)
    tensor, strength = _gradients(reduced)
    usual = cv2.blur(strength, (_AROUND, _AROUND))
    # flat areas have no edges, only noise that is strong for its surroundings
    relative = strength / (usual + 0.1 * strength.mean() + np.float32(1e-30))
    return _rescale(tensor, strength, relative / (1 + relative))


def mask_edges(ids: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.float32]:
    """Find the boundaries between the classes of a mask [H, W], reduced to `size`: [*size, 2].

    A boundary between two areas has length 1, that of a thin line less, next to ignored pixels 0.
    """
    tensor, strength = _gradients(reduce_image(_paint(ids), size))
    length = np.minimum(strength / _FULL_STEP, 1)
    ignored = ids == IGNORED
    if ignored.any():
        length *= _away_from(ignored, size)
    return _rescale(tensor, strength, length)


def _away_from(inside: NDArray[np.bool_], size: tuple[int, int]) -> NDArray[np.float32]:
    """0 on and next to the given pixels [H, W], 1 far from them: [*size]."""
    share = reduce_image(inside.astype(np.float32)[..., None], size)[..., 0]
    near = cv2.GaussianBlur(cv2.dilate(share, np.ones((5, 5))), (0, 0), _BLUR)
    away: NDArray[np.float32] = np.clip(1 - near, 0, 1)
    return away


def turn_edges(edges: NDArray[Any], turn: int) -> NDArray[Any]:
    """Turn edges [h, w, 2] as `turn_upright` turns images: [h, w, 2] or, for 5..8, [w, h, 2]."""
    turned = turn_upright(edges, turn)
    # transposing swaps x and y; mirroring reverses one of them
    if turn > 4:
        turned[..., 0] *= -1
    if turn in (2, 4, 6, 8):
        turned[..., 1] *= -1
    return turned


def shrink_edges(edges: NDArray[np.float32], pixels: int) -> NDArray[np.int8]:
    """Reduce edges [h, w, 2], lengths 0..1, to about `pixels`: [h', w', 2] int8, in 1/127."""
    height, width = edges.shape[:2]
    factor = min(1.0, (pixels / (height * width)) ** 0.5)
    size = max(1, round(width * factor)), max(1, round(height * factor))
    small = cv2.resize(edges, size, interpolation=cv2.INTER_AREA)
    return np.round(small * 127).clip(-127, 127).astype(np.int8)


def edge_length(mask: NDArray[Any]) -> float:
    """Total length of a mask's edges [h, w, 2], in pixels, or 1/127 pixel for int8."""
    edges = mask.astype(np.float32, copy=False)
    return float(cv2.magnitude(edges[..., 0], edges[..., 1]).sum())


def edge_fit(image: NDArray[Any], mask: NDArray[Any]) -> float:
    """Measure how well an image's edges agree with a mask's [h, w, 2], averaged along the mask's.

    0 by chance, at most 1; 0 if the mask has no edges.
    """
    full = 127 if mask.dtype == np.int8 else 1
    # a float32 dot product of half a million numbers loses digits
    agreement = np.multiply(image, mask, dtype=np.float32).sum(dtype=np.float64)
    return float(agreement) / max(edge_length(mask), 1.0) / full


def best_shift(
    image: NDArray[np.float32], mask: NDArray[np.float32], reach: int
) -> tuple[tuple[float, float], float, float]:
    """Find the shift at which a mask fits its image best; both as edges [h, w, 2].

    Returns the shift to the right and down [pixels]; the fit there; and the best fit of shifts in
    other directions. The shift is 0 if there is no peak within `reach` pixels.
    """
    around = cv2.copyMakeBorder(image, reach, reach, reach, reach, cv2.BORDER_CONSTANT)
    sums: NDArray[Any] = cv2.matchTemplate(around, mask, cv2.TM_CCORR)
    fits = sums / max(edge_length(mask), 1.0)
    y, x = divmod(int(fits.argmax()), 2 * reach + 1)
    if x in (0, 2 * reach) or y in (0, 2 * reach):
        # still rising at the end of the window
        return (0.0, 0.0), float(fits[reach, reach]), float(fits[reach, reach])
    steps = np.arange(-reach, reach + 1)
    leads_away = steps[:, None] * (y - reach) + steps * (x - reach) <= 0
    dx = x - reach + _vertex(fits[y, x - 1 : x + 2])
    dy = y - reach + _vertex(fits[y - 1 : y + 2, x])
    return (dx, dy), float(fits[y, x]), float(fits[leads_away].max())


def _paint(ids: NDArray[np.uint8]) -> NDArray[np.uint8]:
    # one channel per binary digit, so that two classes differ by a full step in at least one
    known = ids[ids != IGNORED]
    digits = max(1, int(known.max(initial=0)).bit_length())
    values = np.arange(256)
    values[IGNORED] = 0
    planes = [
        cv2.LUT(ids, ((values >> digit) & 1).astype(np.uint8) * np.uint8(255))
        for digit in range(digits)
    ]
    return np.stack(planes, axis=2).astype(np.uint8)


def _gradients(image: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    # [h, w, 2]: gx^2 - gy^2 and 2 gx gy, summed over channels; [h, w]: the length of the gradient
    tensor = np.zeros((*image.shape[:2], 2), np.float32)
    for channel in range(image.shape[2]):
        smooth = cv2.GaussianBlur(image[..., channel], (0, 0), _BLUR)
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
    # vertex of the parabola through three fits, relative to the middle one
    before, here, after = (float(fit) for fit in fits)
    bend = before - 2 * here + after
    return 0.5 * (before - after) / bend if bend < 0 else 0.0


Kind = Literal["shifted", "flipped", "exif", "swapped", "elsewhere"]
# descriptions of `turn_upright(mask, turn)`
TURNS = {
    2: "mirrored left-right",
    3: "rotated by 180 degrees",
    4: "mirrored top-bottom",
    5: "mirrored at the main diagonal",
    6: "rotated by 90 degrees clockwise",
    7: "mirrored at the other diagonal",
    8: "rotated by 90 degrees counterclockwise",
}
# long side of reduced images [pixels]: keeps contours, removes fine texture
_SIDE = 512
# size for comparing images with other masks [pixels in total]; small enough to cache
_KEPT = 4900
# maximum shift: a tenth of the short side, at most this [pixels, reduced]
_REACH = 32
# factor by which an alternative must fit better. Of 1000 correct pairs of seven public sets, none
# fits better than by 1.09 shifted, 0.93 turned, 0.97 swapped and 1.06 elsewhere; masks shifted by
# 8 pixels, or 16 in large images, fit better by 1.15 to 3
_SHIFTED, _TURNED, _SWAPPED, _ELSEWHERE = 1.15, 1.5, 1.12, 1.6
# minimum useful fit, and minimum difference [standard deviations of chance]
_LEAST_FIT, _CHANCE = 0.1, 5.0
# a shift must fit better than other directions by the first factor, and reach this fraction of
# the median fit; as the best of thousands may be chance, its gain against swaps is divided by
# the last
_RIVAL, _USUAL, _LUCK = 1.1, 0.35, 1.5
# up to this number, shifts may differ; of more, this fraction must be similar
_FEW, _ALIKE = 2, 0.7
# fits below this are equally bad
_FLOOR = 0.02


class Evidence(NamedTuple):
    """How well a mask fits its image as it is, shifted and turned.

    A fit is the agreement of image edges with the mask's class boundaries, averaged along them:
    0 by chance, at most 1; 0.2 to 0.7 for correct masks.
    """

    size: tuple[int, int]  # height and width [pixels]
    orientation: int  # the EXIF orientation that was applied to the image, 1..8
    border: float  # length of the class boundaries [pixels of the reduced image]; 0 if none
    noise: float  # standard deviation of a fit by chance
    # [9], the fit of the mask turned by `turn_upright(mask, k)`; [1] is the unchanged mask;
    # [0], and turns that change the size, are NaN
    fits: NDArray[np.float64]
    shift: tuple[float, float]  # right and down, of the best fit [pixels]
    shifted_fit: float  # the fit there
    rival_fit: float  # the best fit in other directions
    shifted_small: float  # the fit there, of the small edges
    image_small: NDArray[np.int8]  # [h, w, 2], the image's edges as by `shrink_edges`
    mask_small: NDArray[np.int8]  # [h, w, 2], the mask's


@dataclass(frozen=True)
class Misfit:
    """A mask that does not fit its image, with a better alternative."""

    index: int
    """Index of the pair."""
    kind: Kind
    """"shifted": it fits when moved by `dx` and `dy`. "flipped": it fits after
    `turn_upright(mask, turn)`. "exif": the same, and `turn` is the image's EXIF orientation, so
    the mask was drawn on the image as stored. "swapped": it fits the image `other`, and vice
    versa. "elsewhere": it fits the image `other`."""
    dx: int = 0
    dy: int = 0
    turn: int = 1
    other: int = -1
    gain: float = 1.0
    """Factor by which the fit improves, at most 50."""


_Two = tuple[Misfit, Misfit]


def edge_evidence(
    image: NDArray[Any],
    ids: NDArray[np.uint8],
    orientation: int = 1,
    missing: NDArray[np.bool_] | None = None,
) -> Evidence:
    """Measure how well a mask [H, W] fits its image [H, W, C] as it is, shifted and turned.

    The image is upright, of any range; `orientation` is the EXIF orientation that was applied,
    `missing` [H, W] the nodata pixels, whose boundaries are not edges.
    """
    height, width = ids.shape
    if image.shape[:2] != (height, width):
        raise Error(
            f"The image is {image.shape[1]} x {image.shape[0]}, its mask {width} x {height}. "
            "Both must have the same size."
        )
    scale = max(1.0, max(height, width) / _SIDE)
    size = max(1, round(height / scale)), max(1, round(width / scale))
    edges, mask = image_edges(image, size), mask_edges(ids, size)
    if missing is not None:
        edges *= _away_from(missing, size)[..., None]
    image_small, mask_small = shrink_edges(edges, _KEPT), shrink_edges(mask, _KEPT)
    border = edge_length(mask)
    fits = np.full(9, np.nan)
    fits[1] = edge_fit(edges, mask)
    noise, shift, shifted_fit, rival_fit, shifted_small = 0.0, (0.0, 0.0), 0.0, 0.0, 0.0
    if border > 0:
        for turn in range(2, 9 if height == width else 5):
            fits[turn] = edge_fit(edges, turn_edges(mask, turn))
        # about six neighbours on a boundary see the same edge, with half of its square along it
        noise = float(np.sqrt(3 * (edges**2).sum(axis=2).mean() / border))
        reach = min(_REACH, min(size) // 10)
        (dx, dy), shifted_fit, rival_fit = best_shift(edges, mask, reach)
        moved = cv2.warpAffine(mask, np.array([[1, 0, dx], [0, 1, dy]]), size[::-1])
        shift = dx * width / size[1], dy * height / size[0]
        shifted_small = edge_fit(image_small, shrink_edges(moved.astype(np.float32), _KEPT))
    return Evidence(
        size=(height, width),
        orientation=orientation,
        border=border,
        noise=noise,
        fits=fits,
        shift=shift,
        shifted_fit=shifted_fit,
        rival_fit=rival_fit,
        shifted_small=shifted_small,
        image_small=image_small,
        mask_small=mask_small,
    )


def find_misfits(evidence: Sequence[Evidence | None]) -> list[Misfit]:
    """Find masks that do not fit their images, with a better alternative.

    Returns at most one misfit per pair, by index; of two swapped masks, both. Alternative images
    are searched among these pairs. Evidence may be missing.
    """
    best: dict[int, Misfit] = {}
    elsewhere, swapped = _among_others(evidence)
    for misfit in (*_alone(evidence), *elsewhere):
        if misfit.index not in best or misfit.gain > best[misfit.index].gain:
            best[misfit.index] = misfit
    # swapped masks compete with the best alternative of each
    for pair in sorted(swapped, key=_joint_gain, reverse=True):
        apart = [best[misfit.index] for misfit in pair if misfit.index in best]
        is_taken = any(misfit.kind == "swapped" for misfit in apart)
        if not is_taken and _joint_gain(pair) >= _joint_gain(apart):
            best |= {misfit.index: misfit for misfit in pair}
    found = [best[index] for index in sorted(best)]
    steps = [0.0 if each is None else _least_step(each) for each in evidence]
    shifted = _consistent([misfit for misfit in found if misfit.kind == "shifted"], steps)
    return [misfit for misfit in found if misfit.kind != "shifted" or misfit in shifted]


def _joint_gain(misfits: Sequence[Misfit]) -> float:
    return prod(each.gain / (_LUCK if each.kind == "shifted" else 1) for each in misfits)


def _consistent(shifted: list[Misfit], steps: Sequence[float]) -> list[Misfit]:
    # contours drawn too wide or too narrow fit better on one side when shifted, in a different
    # direction for each mask; many real shifts are similar
    if len(shifted) <= max(_FEW, len(steps) // 8):
        return shifted
    dx, dy = median(each.dx for each in shifted), median(each.dy for each in shifted)
    apart = [hypot(each.dx - dx, each.dy - dy) for each in shifted]
    near = [min(hypot(dx, dy) / 2, steps[each.index]) for each in shifted]
    alike = [each for each, far, most in zip(shifted, apart, near, strict=True) if far <= most]
    return alike if len(alike) > _ALIKE * len(shifted) else []


def _least_step(each: Evidence) -> float:
    # minimum shift [pixels]; smaller ones are annotation style
    return max(3.0, 1.5 * max(each.size) / _SIDE)


def _alone(evidence: Sequence[Evidence | None]) -> Iterator[Misfit]:
    some = [(index, each) for index, each in enumerate(evidence) if each and each.border > 0]
    usual = median(max(*each.fits[1:5], each.shifted_fit) for _, each in some) if some else 0.0
    for index, each in some:
        # gains of all kinds use the small edges, so that they are comparable
        own = edge_fit(each.image_small, each.mask_small)
        turn = int(np.nanargmax(each.fits))
        turned_fit = float(each.fits[turn])
        is_far = max(map(abs, each.shift)) >= _least_step(each)
        is_peak = each.shifted_fit > max(_RIVAL * each.rival_fit, _USUAL * usual)
        if turn > 1 and _is_better(turned_fit, each.fits[1], each.noise, _TURNED):
            kind: Kind = "exif" if turn == each.orientation else "flipped"
            turned = edge_fit(each.image_small, turn_edges(each.mask_small, turn))
            yield Misfit(index, kind, turn=turn, gain=_gain(turned, own))
            # for a nearly symmetric mask, shifting is almost the same; prefer the turn
            is_far = is_far and each.shifted_fit > _SHIFTED * turned_fit
        if is_far and is_peak and _is_better(each.shifted_fit, each.fits[1], each.noise, _SHIFTED):
            dx, dy = (round(step) for step in each.shift)
            yield Misfit(index, "shifted", dx, dy, gain=_gain(each.shifted_small, own))


def _among_others(evidence: Sequence[Evidence | None]) -> tuple[list[Misfit], list[_Two]]:
    # masks that fit another image, and pairs of masks that may be swapped
    by_size: dict[tuple[int, int], list[tuple[int, Evidence]]] = {}
    for index, each in enumerate(evidence):
        if each is not None:
            by_size.setdefault(each.size, []).append((index, each))
    elsewhere: list[Misfit] = []
    swapped: list[_Two] = []
    for members in by_size.values():
        indices, some = zip(*members, strict=True)
        noise = np.array([each.noise for each in some])
        # [image, mask]: compare one mask on two images, not two masks on one image, since
        # annotation styles differ between masks
        fits = _cross_fits(some)
        own = fits.diagonal()
        gains = fits / np.maximum(own, _FLOOR)
        fitting = np.where(_is_better(fits, own, noise, _ELSEWHERE), fits, 0)
        for here, there in enumerate(fitting.argmax(axis=0)):
            if fitting[there, here] > 0:
                elsewhere.append(_on_other("elsewhere", here, there, indices, gains))
        better = _is_better(fits, own, noise, _SWAPPED)
        for one, two in np.argwhere(np.triu(better & better.T)):
            first = _on_other("swapped", one, two, indices, gains)
            swapped.append((first, _on_other("swapped", two, one, indices, gains)))
    return elsewhere, swapped


def _on_other(
    kind: Kind, here: int, there: int, indices: Sequence[int], gains: NDArray[np.float64]
) -> Misfit:
    return Misfit(indices[here], kind, other=indices[there], gain=float(gains[there, here]))


def _cross_fits(evidence: Sequence[Evidence]) -> NDArray[np.float64]:
    # [image, mask]; float64 sums integers without rounding
    images = np.stack([each.image_small.ravel() for each in evidence]).astype(np.float64)
    masks = np.stack([each.mask_small.ravel() for each in evidence]).astype(np.float64)
    lengths = np.array([max(edge_length(each.mask_small), 1.0) for each in evidence])
    fits: NDArray[np.float64] = images @ masks.T / lengths / 127
    return fits


def _is_better(fit: Any, own: Any, noise: Any, times: float) -> Any:
    # scalars or arrays
    return (fit > _LEAST_FIT) & (fit > times * own) & (fit - own > _CHANCE * noise)


def _gain(fit: float, own: float) -> float:
    return float(fit / max(own, _FLOOR))
