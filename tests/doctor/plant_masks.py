"""Faults of masks: on the wrong place, or with the wrong content; see `Plant`."""

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from .farm import Copy, Plant, Planted, eight_bit, ids_of, read, size_of

_TWO = "more than two classes"
_COLOURED = "its masks are coloured"
_OBJECTS = "each value is the number of an object"


def _grey_png(copy: Copy, path: Path, mask: np.ndarray) -> list[Path]:
    new = copy.free(path).with_suffix(".png")
    Image.fromarray(mask).save(new)
    return [new]


def shifted(copy: Copy, random: np.random.Generator, pixels: float) -> Planted:
    path = copy.pick(random).mask
    far = int(pixels) * (2 if max(size_of(path)) >= 1500 else 1)
    ways = [(x, y) for x in (-far, 0, far) for y in (-far, 0, far) if x or y]
    dx, dy = ways[int(random.integers(len(ways)))]

    def move(mask: np.ndarray) -> np.ndarray:
        height, width = mask.shape[:2]
        around = np.pad(mask, ((far, far), (far, far), (0, 0))[: mask.ndim], "edge")
        return around[far - dy : far - dy + height, far - dx : far - dx + width]

    copy.change(path, move)
    return [path]


def turned(how: Callable[[np.ndarray], np.ndarray]) -> Plant:
    def plant(copy: Copy, random: np.random.Generator, _: float) -> Planted:
        path = copy.pick(random).mask
        copy.change(path, how)
        return [path]

    return plant


def swapped(copy: Copy, random: np.random.Generator, _: float) -> Planted:
    two = copy.pick_two(random)
    if two is None:
        return "no two pictures of one size"
    return _swap(two[0].mask, two[1].mask)


def neighbours_swapped(copy: Copy, random: np.random.Generator, _: float) -> Planted:
    masks = [pair.mask for pair in copy.pairs]
    if copy.known.mixed_sizes:
        return "its pictures are of many sizes"
    at = int(random.integers(len(masks) - 1))
    return _swap(masks[at], masks[at + 1])


def _swap(one: Path, other: Path) -> list[Path]:
    aside = one.with_name("aside")
    one.rename(aside)
    other.rename(one)
    aside.rename(other)
    return [one, other]


def one_further_on(copy: Copy, random: np.random.Generator, _: float) -> Planted:
    """Every mask is that of the picture before."""
    sizes = {size_of(pair.mask) for pair in copy.pairs}
    if len(sizes) > 1:
        return "its pictures are of many sizes"
    masks = [pair.mask for pair in copy.pairs]
    for mask in masks:
        mask.rename(mask.with_name(f"{mask.name}.aside"))
    for mask, before in zip(masks, [masks[-1], *masks[:-1]], strict=True):
        before.with_name(f"{before.name}.aside").rename(mask)
    return masks


def inverted(copy: Copy, random: np.random.Generator, _: float) -> Planted:
    if not copy.known.is_binary:
        return _COLOURED if copy.known.is_coloured else _TWO
    path = copy.pick(random).mask

    def exchange(mask: np.ndarray) -> np.ndarray:
        if not copy.known.values:
            return (mask == 0).astype(mask.dtype)
        low, high = copy.known.values
        return np.where(mask == low, high, low).astype(mask.dtype)

    copy.change(path, exchange)
    return [path]


def saved_as_jpeg(copy: Copy, random: np.random.Generator, quality: float) -> Planted:
    return [_as_jpeg(copy, copy.pick(random).mask, quality)]


def all_saved_as_jpeg(copy: Copy, random: np.random.Generator, quality: float) -> Planted:
    return [_as_jpeg(copy, pair.mask, quality) for pair in copy.pairs]


def _as_jpeg(copy: Copy, path: Path, quality: float) -> Path:
    mask = eight_bit(path)
    new = copy.free(path).with_suffix(".jpg")
    mask.save(new, quality=int(quality))
    return new


def smoothed(copy: Copy, random: np.random.Generator, times: float) -> Planted:
    """Made smaller and large again, with values between."""
    if not copy.known.is_binary:
        return _COLOURED if copy.known.is_coloured else "what is between two ids is an id"
    if not copy.known.values:
        return _OBJECTS
    path = copy.pick(random).mask
    mask = np.asarray(eight_bit(path))
    small = cv2.resize(mask, None, fx=1 / times, fy=1 / times, interpolation=cv2.INTER_AREA)
    back = cv2.resize(small, mask.shape[::-1], interpolation=cv2.INTER_LINEAR)
    return _grey_png(copy, path, np.asarray(back))


def stray_value(copy: Copy, random: np.random.Generator, count: float) -> Planted:
    return _stray(copy, random, count, 77)


def next_id(copy: Copy, random: np.random.Generator, count: float) -> Planted:
    values = copy.known.values
    if values and values[-1] == 255:
        return "no value follows 255"
    return _stray(copy, random, count, len(values) + (copy.config.ignore is not None))


def _stray(copy: Copy, random: np.random.Generator, count: float, value: int) -> Planted:
    if copy.known.is_coloured:
        return _COLOURED
    if not copy.known.values:
        return _OBJECTS
    path = copy.pick(random).mask
    mask = read(path).astype(np.uint8)
    mask.flat[random.choice(mask.size, int(count), replace=False)] = value
    return _grey_png(copy, path, mask)


def another_255(copy: Copy, random: np.random.Generator, count: float) -> Planted:
    """In some masks 255 is the foreground that is 1 in the others, or the other way round."""
    if not copy.known.values:
        return _COLOURED if copy.known.is_coloured else _OBJECTS
    if not copy.known.is_binary:
        return _TWO
    other = 1 if copy.known.values[1] == 255 else 255
    chosen = random.choice(len(copy.pairs), int(count), replace=False)
    files = []
    for path in [copy.pairs[k].mask for k in chosen]:
        files += _grey_png(copy, path, (ids_of(path, copy) * other).astype(np.uint8))
    return files


def scaled_to_16_bits(copy: Copy, random: np.random.Generator, _: float) -> Planted:
    if not copy.known.values:
        return _COLOURED if copy.known.is_coloured else _OBJECTS
    path = copy.pick(random).mask
    times = 65535 if copy.known.values == (0, 1) else 257
    mask = read(path).astype(np.uint16) * times
    new = copy.free(path).with_suffix(".png")
    cv2.imwrite(str(new), mask)
    return [new]


def empty(copy: Copy, random: np.random.Generator, _: float) -> Planted:
    path = copy.pick(random).mask
    _fill(copy, path)
    return [path]


def one_class(copy: Copy, random: np.random.Generator, _: float) -> Planted:
    for pair in copy.pairs:
        _fill(copy, pair.mask)
    return []


def _fill(copy: Copy, path: Path, color: str = "9B9B9B", value: int = 0) -> None:
    if not copy.known.is_coloured:
        copy.change(path, lambda mask: np.full_like(mask, value))
        return
    size = size_of(path)
    Image.new("RGB", size, f"#{color}").save(copy.free(path))


def ignored(copy: Copy, random: np.random.Generator, _: float) -> Planted:
    if copy.known.is_binary:
        return "two classes: 255 would be the foreground"
    path = copy.pick(random).mask
    _fill(copy, path, "000000", 255 if copy.config.ignore is None else copy.config.ignore)
    return [path]


def resized(how: Callable[[np.ndarray, int, np.random.Generator], np.ndarray]) -> Plant:
    def plant(copy: Copy, random: np.random.Generator, size: float) -> Planted:
        path = copy.pick(random).mask
        copy.change(path, lambda mask: how(mask, int(size), random))
        return [path]

    return plant


def off_by(mask: np.ndarray, pixels: int, random: np.random.Generator) -> np.ndarray:
    if random.integers(2):
        return mask[:-pixels]
    return np.pad(mask, ((0, 0), (0, pixels), (0, 0))[: mask.ndim], "edge")


def at_a_fraction(mask: np.ndarray, times: int, _: np.random.Generator) -> np.ndarray:
    return mask[::times, ::times]


def photo_over_mask(copy: Copy, random: np.random.Generator, _: float) -> Planted:
    pair = copy.pick(random)
    with Image.open(pair.image) as picture:
        picture.load()
    kind = "GIF" if pair.mask.suffix == ".gif" else "PNG"
    picture.save(copy.free(pair.mask), kind)
    return [pair.mask]


def coloured(copy: Copy, random: np.random.Generator, _: float) -> Planted:
    """The mask as it is drawn for looking at: a colour for each class."""
    if copy.known.is_coloured:
        return _COLOURED
    path = copy.pick(random).mask
    colors = np.array([[k * 67 % 256, k * 131 % 256, k * 29 % 256] for k in range(256)], np.uint8)
    return _grey_png(copy, path, colors[ids_of(path, copy)])


def wrong_color(copy: Copy, random: np.random.Generator, share: float) -> Planted:
    """A patch is painted in a colour that is far from all of the legend."""
    if not copy.known.is_coloured:
        return "its masks are not coloured"
    path = copy.pick(random).mask
    with Image.open(path) as opened:
        mask = np.array(opened.convert("RGB"))
    height, width = mask.shape[:2]
    tall, wide = (max(1, round(side * (share / 100) ** 0.5)) for side in (height, width))
    top, left = (int(random.integers(a - b + 1)) for a, b in ((height, tall), (width, wide)))
    mask[top : top + tall, left : left + wide] = (0, 255, 0)
    return _grey_png(copy, path, mask)
