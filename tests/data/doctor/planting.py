"""What is planted into a copy of a set: one function for each kind of fault.

Each takes the copy, a source of chance and a magnitude, and returns the files at fault (none
where the whole folder is), or, where this set cannot carry the fault, why.
"""

import io
import os
import shutil
import struct
import zlib
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
import tifffile
from PIL import Image

from .farm import Copy, Pair, group_of, size_of

Planted = list[Path] | str
Plant = Callable[[Copy, np.random.Generator, float], Planted]
Which = Literal["image", "mask"]

_TWO = "more than two classes"
_COLOURED = "its masks are coloured"


# files


def cut_off(which: Which) -> Plant:
    def plant(copy: Copy, random: np.random.Generator, share: float) -> Planted:
        path: Path = getattr(copy.pick(random), which)
        data = path.read_bytes()
        copy.free(path).write_bytes(data[: round(len(data) * (1 - share / 100))])
        return [path]

    return plant


def overwritten(which: Which, content: bytes) -> Plant:
    def plant(copy: Copy, random: np.random.Generator, _: float) -> Planted:
        path: Path = getattr(copy.pick(random), which)
        copy.free(path).write_bytes(content)
        return [path]

    return plant


def wrong_suffix(copy: Copy, random: np.random.Generator, _: float) -> Planted:
    path = copy.pick(random).image
    with Image.open(path) as picture:
        picture.load()
    picture.save(copy.free(path), "PNG" if picture.format == "JPEG" else "JPEG")
    return [path]


def wrong_suffix_of_mask(copy: Copy, random: np.random.Generator, _: float) -> Planted:
    path = copy.pick(random).mask
    with Image.open(path) as mask:
        mask.load()
    mask.save(copy.free(path), "PNG" if mask.format == "GIF" else "TIFF")
    return [path]


def unknown_suffix(copy: Copy, random: np.random.Generator, _: float) -> Planted:
    pair = copy.pick(random)
    pair.image.rename(pair.image.with_suffix(".dat"))
    return [pair.mask, pair.image.with_suffix(".dat")]


def damaged(which: Which, kind: str) -> Plant:
    """Turn single bytes over within what a PNG or JPEG file holds of pixels."""

    def plant(copy: Copy, random: np.random.Generator, count: float) -> Planted:
        path: Path = getattr(copy.pick(random), which)
        if path.suffix != kind:
            return f"no {kind} {'pictures' if which == 'image' else 'masks'}"
        data = bytearray(path.read_bytes())
        inside = _idat(data) if kind == ".png" else range(data.rfind(b"\xff\xda") + 20, len(data))
        for at in random.choice(inside, int(count), replace=False):
            if data[at] != 0xFF and data[at - 1] != 0xFF:
                data[at] ^= 0x5A
        copy.free(path).write_bytes(data)
        return [path]

    return plant


def _idat(data: bytes | bytearray) -> range:
    start = data.index(b"IDAT")
    return range(start + 6, start + 4 + struct.unpack(">I", data[start - 4 : start])[0])


def unreadable(copy: Copy, random: np.random.Generator, _: float) -> Planted:
    path = copy.pick(random).image
    data = path.read_bytes()
    copy.free(path).write_bytes(data)
    path.chmod(0)
    return [path]


def folder_loop(copy: Copy, random: np.random.Generator, _: float) -> Planted:
    path = copy.pick(random).image.parent / "again"
    path.symlink_to(path.parent, target_is_directory=True)
    return [path]


def file_loop(copy: Copy, random: np.random.Generator, _: float) -> Planted:
    path = copy.free(copy.pick(random).image)
    path.symlink_to(path.name)
    return [path]


def broken_link(copy: Copy, random: np.random.Generator, _: float) -> Planted:
    path = copy.free(copy.pick(random).image)
    path.symlink_to("elsewhere.png")
    return [path]


def bomb(which: Which) -> Plant:
    def plant(copy: Copy, random: np.random.Generator, side: float) -> Planted:
        path: Path = getattr(copy.pick(random), which)
        new = copy.free(path).with_suffix(".png")
        new.write_bytes(_large_png(int(side)))
        return [new]

    return plant


@lru_cache
def _large_png(side: int) -> bytes:
    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    head = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    packer = zlib.compressobj(1)
    row = bytes(1 + (side + 7) // 8)
    pixels = b"".join(packer.compress(row) for _ in range(side)) + packer.flush()
    chunks = chunk(b"IHDR", head) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunks


def not_utf8(copy: Copy, random: np.random.Generator, _: float) -> Planted:
    pair = copy.pick(random)
    return _rename(copy, pair, pair.image.stem + os.fsdecode(b"\xe9"))


def animation(which: Which) -> Plant:
    def plant(copy: Copy, random: np.random.Generator, frames: float) -> Planted:
        path: Path = getattr(copy.pick(random), which)
        first, *others = (_eight_bit(path).convert("L").rotate(k) for k in range(int(frames)))
        new = copy.free(path).with_suffix(".gif")
        first.save(new, save_all=True, append_images=others)
        return [new]

    return plant


def stack(copy: Copy, random: np.random.Generator, pages: float) -> Planted:
    path = copy.pick(random).mask
    mask = np.asarray(_eight_bit(path).convert("L"))
    new = copy.free(path).with_suffix(".tif")
    tifffile.imwrite(new, np.stack([mask] * int(pages)), photometric="minisblack")
    return [new]


def folder_like_picture(copy: Copy, random: np.random.Generator, _: float) -> Planted:
    path = copy.pick(random).image
    folder = path.with_name(f"more{path.suffix}")
    folder.mkdir()
    return [folder]


# pictures


def _read(path: Path) -> np.ndarray:
    with Image.open(path) as picture:
        return np.array(picture)


def _tiff(copy: Copy, path: Path, picture: np.ndarray) -> list[Path]:
    new = copy.free(path).with_suffix(".tif")
    kind = "rgb" if picture.ndim == 3 and picture.shape[2] == 3 else "minisblack"
    planar = "contig" if picture.ndim == 3 else None
    tifffile.imwrite(new, picture, photometric=kind, planarconfig=planar)
    return [new]


def transparent(copy: Copy, random: np.random.Generator, share: float) -> Planted:
    path = copy.pick(random).image
    with Image.open(path) as opened:
        picture = opened.convert("LA" if opened.mode == "L" else "RGBA")
    width, height = picture.size
    alpha = np.full((height, width), 255, np.uint8)
    alpha[: max(1, round(height * share / 100))] = 0
    picture.putalpha(Image.fromarray(alpha))
    new = copy.free(path).with_suffix(".png")
    picture.save(new)
    return [new]


def twelve_bits(copy: Copy, random: np.random.Generator, bits: float) -> Planted:
    path = copy.pick(random).image
    deep = _read(path).astype(np.uint16) << int(bits - 8)
    new = copy.free(path).with_suffix(".png")
    cv2.imwrite(str(new), deep[..., ::-1] if deep.ndim == 3 else deep)
    return [new]


def not_a_number(copy: Copy, random: np.random.Generator, count: float) -> Planted:
    path = copy.pick(random).image
    picture = (_read(path) / 255).astype(np.float32)
    picture.flat[random.choice(picture.size, int(count), replace=False)] = np.nan
    return _tiff(copy, path, picture)


def floats(copy: Copy, random: np.random.Generator, _: float) -> Planted:
    path = copy.pick(random).image
    return _tiff(copy, path, _read(path).astype(np.float32))


def five_bands(copy: Copy, random: np.random.Generator, bands: float) -> Planted:
    path = copy.pick(random).image
    grey = _read(path)
    grey = grey if grey.ndim == 2 else grey[..., 1]
    return _tiff(copy, path, np.stack([grey] * int(bands), axis=-1))


def leading_channels(copy: Copy, random: np.random.Generator, _: float) -> Planted:
    path = copy.pick(random).image
    picture = np.atleast_3d(_read(path)).transpose(2, 0, 1)
    new = copy.free(path).with_suffix(".npy")
    np.save(new, picture)
    return [new]


def long_integers(copy: Copy, random: np.random.Generator, _: float) -> Planted:
    path = copy.pick(random).image
    picture = _read(path).astype(np.int64)
    new = copy.free(path).with_suffix(".npy")
    np.save(new, picture)
    return [new]


def thumbnail(copy: Copy, random: np.random.Generator, times: float) -> Planted:
    if copy.known.mixed_sizes:
        return "its pictures are of many sizes"
    pair = copy.pick(random)
    step = int(times)
    copy.change(pair.image, lambda picture: _smaller(picture, 1 / step))
    width, height = size_of(pair.image)
    copy.change(pair.mask, lambda mask: mask[::step, ::step][:height, :width])
    return [pair.image]


def _smaller(picture: np.ndarray, scale: float) -> np.ndarray:
    size = int(picture.shape[1] * scale), int(picture.shape[0] * scale)
    return np.asarray(cv2.resize(picture, size, interpolation=cv2.INTER_AREA))


def blank(copy: Copy, random: np.random.Generator, _: float) -> Planted:
    path = copy.pick(random).image
    copy.change(path, lambda picture: np.full_like(picture, round(picture.mean())))
    return [path]


def turned_by_exif(orientation: int) -> Plant:
    def plant(copy: Copy, random: np.random.Generator, _: float) -> Planted:
        path = copy.pick(random).image
        exif = Image.Exif()
        exif[274] = orientation
        with Image.open(path) as picture:
            picture.load()
        keep = {"quality": "keep"} if picture.format == "JPEG" else {}
        content = io.BytesIO()
        picture.save(content, picture.format, exif=exif, **keep)
        copy.free(path).write_bytes(content.getvalue())
        return [path]

    return plant


# masks


def _eight_bit(path: Path) -> Image.Image:
    """A mask as it is saved for looking at: grey, 0/255 where there are two classes; or RGB."""
    with Image.open(path) as mask:
        if mask.mode == "I;16":
            return Image.fromarray((np.array(mask) > 0).astype(np.uint8) * np.uint8(255))
        if mask.mode == "P" and mask.format == "PNG":
            return mask.convert("RGB")
        return mask.convert("L") if mask.mode in ("1", "P") else mask.copy()


def _ids(path: Path, copy: Copy) -> np.ndarray:
    """The classes of a mask, whatever their values; void is 255."""
    stored = _read(path)
    table = np.full(max(int(stored.max()) + 1, 256), 255, np.uint8)
    for class_id, value in enumerate(copy.known.values):
        table[value] = class_id
    ids: np.ndarray = (stored > 0).astype(np.uint8) if not copy.known.values else table[stored.astype(np.intp)]
    return ids


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
    one, other = two[0].mask, two[1].mask
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
    mask = _eight_bit(path)
    new = copy.free(path).with_suffix(".jpg")
    mask.save(new, quality=int(quality))
    return new


def smoothed(copy: Copy, random: np.random.Generator, times: float) -> Planted:
    """Made smaller and large again, with values between."""
    if not copy.known.is_binary:
        return _COLOURED if copy.known.is_coloured else "what is between two ids is an id"
    path = copy.pick(random).mask
    mask = np.asarray(_eight_bit(path))
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
        return "each value is the number of an object"
    path = copy.pick(random).mask
    mask = _read(path).astype(np.uint8)
    mask.flat[random.choice(mask.size, int(count), replace=False)] = value
    return _grey_png(copy, path, mask)


def another_255(copy: Copy, random: np.random.Generator, count: float) -> Planted:
    """In some masks 255 is the foreground that is 1 in the others, or the other way round."""
    if not copy.known.is_binary or not copy.known.values:
        return _TWO if copy.known.values else "255 is the number of an object there"
    other = 1 if copy.known.values[1] == 255 else 255
    chosen = random.choice(len(copy.pairs), int(count), replace=False)
    files = []
    for path in [copy.pairs[k].mask for k in chosen]:
        files += _grey_png(copy, path, (_ids(path, copy) * other).astype(np.uint8))
    return files


def scaled_to_16_bits(copy: Copy, random: np.random.Generator, _: float) -> Planted:
    if not copy.known.values:
        return _COLOURED if copy.known.is_coloured else "each value is the number of an object"
    path = copy.pick(random).mask
    times = 65535 if copy.known.values == (0, 1) else 257
    mask = _read(path).astype(np.uint16) * times
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
    height, width = mask.shape[:2]
    if random.integers(2):
        return mask[: height - pixels]
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
    return _grey_png(copy, path, colors[_ids(path, copy)])


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


# names and partners


def _rename(copy: Copy, pair: Pair, stem: str) -> list[Path]:
    rest = pair.mask.stem[len(pair.image.stem) :]
    image = pair.image.with_name(f"{stem}{pair.image.suffix}")
    mask = pair.mask.with_name(f"{stem}{rest}{pair.mask.suffix}")
    pair.image.rename(image)
    pair.mask.rename(mask)
    return [image, mask]


def missing(which: Which) -> Plant:
    def plant(copy: Copy, random: np.random.Generator, _: float) -> Planted:
        pair = copy.pick(random)
        copy.free(getattr(pair, which))
        return [pair.image if which == "mask" else pair.mask]

    return plant


def misspelt(copy: Copy, random: np.random.Generator, _: float) -> Planted:
    pair = copy.pick(random)
    at = int(random.integers(1, len(pair.image.stem) + 1))
    name = pair.mask.name
    new = pair.mask.with_name(f"{name[:at]}x{name[at:]}")
    pair.mask.rename(new)
    return [pair.image, new]


def two_of_one_name(which: Which) -> Plant:
    def plant(copy: Copy, random: np.random.Generator, _: float) -> Planted:
        path: Path = getattr(copy.pick(random), which)
        with Image.open(path) as picture:
            picture.load()
        new = path.with_suffix(".tif" if path.suffix == ".png" else ".png")
        picture.save(new)
        return [path, new]

    return plant


def outside_of_parts(copy: Copy, random: np.random.Generator, _: float) -> Planted:
    pair = copy.pick(random)
    image, mask = (path.parent.parent / path.name for path in (pair.image, pair.mask))
    pair.image.rename(image)
    pair.mask.rename(mask)
    return [image]


def one_picture(copy: Copy, random: np.random.Generator, count: float) -> Planted:
    stay = random.choice(len(copy.pairs), int(count), replace=False)
    for number, pair in enumerate(copy.pairs):
        if number not in stay:
            copy.free(pair.image)
            copy.free(pair.mask)
    return []


def same_mask(copy: Copy, random: np.random.Generator, _: float) -> Planted:
    two = copy.pick_two(random)
    if two is None:
        return "no two pictures of one size"
    data = two[0].mask.read_bytes()
    copy.free(two[1].mask).write_bytes(data)
    return [two[1].mask]


def only_in_validation(copy: Copy, random: np.random.Generator, _: float) -> Planted:
    if copy.known.is_binary or not copy.known.values:
        return _COLOURED if copy.known.is_coloured else "two classes: both are in every mask"
    shown = {
        pair.mask: np.bincount(_ids(pair.mask, copy).ravel(), minlength=256) > 0
        for pair in copy.pairs
    }
    validation = [pair.mask for pair in copy.pairs if pair.part == "val"]
    classes = np.flatnonzero(np.sum([shown[mask] for mask in validation], axis=0)[:255])
    chosen = int(random.choice(classes[classes > 0]))
    for pair in copy.pairs:
        if pair.part == "train" and shown[pair.mask][chosen]:
            copy.change(pair.mask, lambda mask: np.where(mask == chosen, 0, mask).astype(np.uint8))
    return [mask for mask in validation if shown[mask][chosen]]


# copies


def duplicate(across: bool) -> Plant:
    def plant(copy: Copy, random: np.random.Generator, _: float) -> Planted:
        pair, image, mask = _beside(copy, random, across)
        shutil.copyfile(pair.image, image)
        shutil.copyfile(pair.mask, mask)
        return [image]

    return plant


def near_duplicate(across: bool) -> Plant:
    def plant(copy: Copy, random: np.random.Generator, quality: float) -> Planted:
        pair, image, mask = _beside(copy, random, across)
        with Image.open(pair.image) as picture:
            picture.load()
        image = image.with_suffix(".jpg")
        picture.save(image, quality=int(quality))
        shutil.copyfile(pair.mask, mask)
        return [image]

    return plant


def smaller_duplicate(copy: Copy, random: np.random.Generator, scale: float) -> Planted:
    pair, image, mask = _beside(copy, random, across=True)
    shutil.copyfile(pair.image, image)
    shutil.copyfile(pair.mask, mask)
    copy.change(image, lambda picture: _smaller(picture, scale))
    width, height = size_of(image)
    rows, columns = (
        (np.arange(a) * b / a).astype(int)
        for a, b in zip((height, width), size_of(pair.mask)[::-1], strict=True)
    )
    copy.change(mask, lambda stored: stored[rows][:, columns])
    return [image]


def _beside(copy: Copy, random: np.random.Generator, across: bool) -> tuple[Pair, Path, Path]:
    parts = copy.parts
    pair = copy.pick(random, "train" if "train" in parts else None)
    image, mask = (path.with_name(f"copy_{path.name}") for path in (pair.image, pair.mask))
    if across:
        image, mask = (path.parent.parent / "val" / path.name for path in (image, mask))
    return pair, image, mask


def group_across(copy: Copy, random: np.random.Generator, _: float) -> Planted:
    if not copy.known.group_by:
        return "no groups are known"
    groups = [group_of(copy.known, pair.image) for pair in copy.pairs]
    several = [
        pair
        for pair, group in zip(copy.pairs, groups, strict=True)
        if pair.part == "train" and groups.count(group) > 1
    ]
    pair = several[int(random.integers(len(several)))]
    image, mask = (path.parent.parent / "val" / path.name for path in (pair.image, pair.mask))
    pair.image.rename(image)
    pair.mask.rename(mask)
    return [image]
