"""Every fault that is planted to see whether the doctor finds it: how, and the table of all."""

import io
import os
import shutil
import struct
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache, partial
from pathlib import Path

import cv2
import numpy as np
import tifffile
from PIL import Image

from .real_sets import Copy, Pair, load, size_of

Random = np.random.Generator
Planted = list[Path] | str
Plant = Callable[[Copy, Random, float], Planted]
"""Plants a fault of a magnitude: the files at fault, or why this set cannot carry it."""
Spoil = Callable[[Copy, Path, Random, float], Planted | Path | None]
"""The same of a given file: another file at fault, or None for the given one."""

_TWO = "more than two classes"
_COLOURED = "its masks are coloured"
_OBJECTS = "values are object ids"
_SIZES = "its images have many sizes"
_NO_TWO = "no two images of the same size"


def image(spoil: Spoil) -> Plant:
    """Spoil an image that is drawn."""
    return lambda copy, random, size: _spoil(copy, copy.pick(random).image, random, size, spoil)


def mask(spoil: Spoil) -> Plant:
    """Spoil a mask that is drawn."""
    return lambda copy, random, size: _spoil(copy, copy.pick(random).mask, random, size, spoil)


def _spoil(copy: Copy, path: Path, random: Random, size: float, spoil: Spoil) -> Planted:
    found = spoil(copy, path, random, size)
    return [found or path] if found is None or isinstance(found, Path) else found


# files


def cut_off(copy: Copy, path: Path, random: Random, share: float) -> None:
    data = path.read_bytes()
    copy.free(path).write_bytes(data[: round(len(data) * (1 - share / 100))])


def overwritten(content: bytes) -> Spoil:
    def spoil(copy: Copy, path: Path, random: Random, _: float) -> None:
        copy.free(path).write_bytes(content)

    return spoil


def wrong_suffix(copy: Copy, path: Path, random: Random, _: float) -> None:
    picture = load(path)
    picture.save(copy.free(path), "PNG" if picture.format == "JPEG" else "JPEG")


def wrong_suffix_of_mask(copy: Copy, path: Path, random: Random, _: float) -> None:
    picture = load(path)
    picture.save(copy.free(path), "PNG" if picture.format == "GIF" else "TIFF")


def unknown_suffix(copy: Copy, random: Random, _: float) -> Planted:
    pair = copy.pick(random)
    return [pair.mask, pair.image.rename(pair.image.with_suffix(".dat"))]


def damaged(kind: str, what: str) -> Spoil:
    """Turn single bytes over within what a PNG or JPEG file holds of pixels."""

    def spoil(copy: Copy, path: Path, random: Random, count: float) -> Planted | None:
        if path.suffix != kind:
            return f"no {kind} {what}"
        data = bytearray(path.read_bytes())
        if kind == ".png":
            start = data.index(b"IDAT")
            inside = range(start + 6, start + 4 + struct.unpack(">I", data[start - 4 : start])[0])
        else:
            inside = range(data.rfind(b"\xff\xda") + 20, len(data))
        for at in random.choice(inside, int(count), replace=False):
            # 255 begins a marker in a JPEG file
            if kind == ".png" or 0xFF not in data[at - 1 : at + 1]:
                data[at] ^= 0x5A
        copy.free(path).write_bytes(data)
        return None

    return spoil


def unreadable(copy: Copy, path: Path, random: Random, _: float) -> None:
    data = path.read_bytes()
    copy.free(path).write_bytes(data)
    path.chmod(0)


def closed_folder(copy: Copy, random: Random, _: float) -> Planted:
    image, mask = _moved(copy.pick(random), lambda path: path.parent / "more" / path.name)
    image.parent.chmod(0)
    return [image.parent, mask]


def _moved(pair: Pair, where: Callable[[Path], Path]) -> tuple[Path, Path]:
    image, mask = where(pair.image), where(pair.mask)
    for path, new in ((pair.image, image), (pair.mask, mask)):
        new.parent.mkdir(exist_ok=True)
        path.rename(new)
    return image, mask


def folder_loop(copy: Copy, path: Path, random: Random, _: float) -> Path:
    new = path.parent / "again"
    new.symlink_to(path.parent, target_is_directory=True)
    return new


def linked_to(target: str) -> Spoil:
    def spoil(copy: Copy, path: Path, random: Random, _: float) -> None:
        copy.free(path).symlink_to(target or path.name)

    return spoil


def bomb(copy: Copy, path: Path, random: Random, side: float) -> Path:
    new = copy.free(path, ".png")
    new.write_bytes(_large_png(int(side)))
    return new


@lru_cache
def _large_png(side: int) -> bytes:
    def chunk(name: bytes, data: bytes) -> bytes:
        body = name + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    head = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    packer = zlib.compressobj(1)
    row = bytes(1 + (side + 7) // 8)
    pixels = b"".join(packer.compress(row) for _ in range(side)) + packer.flush()
    chunks = chunk(b"IHDR", head) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunks


def not_utf8(copy: Copy, random: Random, _: float) -> Planted:
    pair = copy.pick(random)
    stem = pair.image.stem
    renamed = stem + os.fsdecode(b"\xe9")
    return [*_moved(pair, lambda path: path.with_name(path.name.replace(stem, renamed, 1)))]


def animation(copy: Copy, path: Path, random: Random, frames: float) -> Path:
    first, *others = (_eight_bit(path).convert("L").rotate(k) for k in range(int(frames)))
    new = copy.free(path, ".gif")
    first.save(new, save_all=True, append_images=others)
    return new


def _eight_bit(path: Path) -> Image.Image:
    """A mask as it is saved for looking at: grey, 0/255 where there are two classes; or RGB."""
    mask: Image.Image = load(path)
    if mask.mode == "I;16":
        return Image.fromarray((np.array(mask) > 0).astype(np.uint8) * np.uint8(255))
    if mask.mode == "P" and mask.format == "PNG":
        return mask.convert("RGB")
    return mask.convert("L") if mask.mode in ("1", "P") else mask.copy()


def stack(copy: Copy, path: Path, random: Random, pages: float) -> Path:
    mask = np.asarray(_eight_bit(path).convert("L"))
    return _save_tiff(copy, path, np.stack([mask] * int(pages)))


def folder_like_image(copy: Copy, path: Path, random: Random, _: float) -> Path:
    folder = path.with_name(f"more{path.suffix}")
    folder.mkdir()
    return folder


# images


def _save_tiff(copy: Copy, path: Path, stored: np.ndarray) -> Path:
    new = copy.free(path, ".tif")
    has_channels = stored.ndim == 3 and stored.shape[2] < 8
    kind = "rgb" if has_channels and stored.shape[2] == 3 else "minisblack"
    tifffile.imwrite(new, stored, photometric=kind, planarconfig="contig" if has_channels else None)
    return new


def _save_npy(copy: Copy, path: Path, stored: np.ndarray) -> Path:
    new = copy.free(path, ".npy")
    np.save(new, stored)
    return new


def _save_png(copy: Copy, path: Path, stored: np.ndarray) -> Path:
    new = copy.free(path, ".png")
    cv2.imwrite(str(new), stored[..., ::-1] if stored.ndim == 3 else stored)
    return new


def _read(path: Path) -> np.ndarray:
    return np.array(load(path))


def transparent(copy: Copy, path: Path, random: Random, share: float) -> Path:
    opened = load(path)
    picture = opened.convert("LA" if opened.mode == "L" else "RGBA")
    width, height = picture.size
    alpha = np.full((height, width), 255, np.uint8)
    alpha[: max(1, round(height * share / 100))] = 0
    picture.putalpha(Image.fromarray(alpha))
    new = copy.free(path, ".png")
    picture.save(new)
    return new


def twelve_bits(copy: Copy, path: Path, random: Random, bits: float) -> Path:
    return _save_png(copy, path, _read(path).astype(np.uint16) << int(bits - 8))


def infinite(copy: Copy, path: Path, random: Random, count: float) -> Path:
    picture = (_read(path) / 255).astype(np.float32)
    picture.flat[random.choice(picture.size, int(count), replace=False)] = np.inf
    return _save_tiff(copy, path, picture)


def floats(copy: Copy, path: Path, random: Random, _: float) -> Path:
    return _save_tiff(copy, path, _read(path).astype(np.float32))


def five_bands(copy: Copy, path: Path, random: Random, bands: float) -> Path:
    grey = np.atleast_3d(_read(path))
    return _save_tiff(copy, path, np.stack([grey[..., grey.shape[2] // 2]] * int(bands), axis=-1))


def leading_channels(copy: Copy, path: Path, random: Random, _: float) -> Path:
    return _save_npy(copy, path, np.atleast_3d(_read(path)).transpose(2, 0, 1))


def long_integers(copy: Copy, path: Path, random: Random, _: float) -> Path:
    return _save_npy(copy, path, _read(path).astype(np.int64))


def thumbnail(copy: Copy, random: Random, times: float) -> Planted:
    if copy.known.mixed_sizes:
        return _SIZES
    pair = copy.pick(random)
    step = int(times)
    copy.change(pair.image, lambda picture: _smaller(picture, 1 / step))
    width, height = size_of(pair.image)
    copy.change(pair.mask, lambda mask: mask[::step, ::step][:height, :width])
    return [pair.image]


def _smaller(picture: np.ndarray, scale: float) -> np.ndarray:
    size = int(picture.shape[1] * scale), int(picture.shape[0] * scale)
    return np.asarray(cv2.resize(picture, size, interpolation=cv2.INTER_AREA))


def changed(how: Callable[[np.ndarray], np.ndarray]) -> Spoil:
    def spoil(copy: Copy, path: Path, random: Random, _: float) -> None:
        copy.change(path, how)

    return spoil


def blank(picture: np.ndarray) -> np.ndarray:
    return np.full_like(picture, round(picture.mean()))


def turned_by_exif(orientation: int) -> Spoil:
    def spoil(copy: Copy, path: Path, random: Random, _: float) -> None:
        exif = Image.Exif()
        exif[274] = orientation
        picture = load(path)
        keep = {"quality": "keep"} if picture.format == "JPEG" else {}
        content = io.BytesIO()
        picture.save(content, picture.format, exif=exif, **keep)
        copy.free(path).write_bytes(content.getvalue())

    return spoil


# masks on images


def shifted(copy: Copy, path: Path, random: Random, pixels: float) -> None:
    far = int(pixels) * (2 if max(size_of(path)) >= 1500 else 1)
    ways = [(x, y) for x in (-far, 0, far) for y in (-far, 0, far) if x or y]
    dx, dy = ways[int(random.integers(len(ways)))]

    def move(mask: np.ndarray) -> np.ndarray:
        height, width = mask.shape[:2]
        around = np.pad(mask, ((far, far), (far, far), (0, 0))[: mask.ndim], "edge")
        return around[far - dy : far - dy + height, far - dx : far - dx + width]

    copy.change(path, move)


def swapped(copy: Copy, random: Random, _: float) -> Planted:
    two = copy.pick_two(random)
    return _NO_TWO if two is None else _swap(two[0].mask, two[1].mask)


def neighbours_swapped(copy: Copy, random: Random, _: float) -> Planted:
    masks = [pair.mask for pair in copy.pairs]
    if copy.known.mixed_sizes:
        return _SIZES
    at = int(random.integers(len(masks) - 1))
    return _swap(masks[at], masks[at + 1])


def _swap(one: Path, other: Path) -> list[Path]:
    aside = one.rename(one.with_name("aside"))
    other.rename(one)
    aside.rename(other)
    return [one, other]


def one_further_on(copy: Copy, random: Random, _: float) -> Planted:
    """Every mask is that of the image before."""
    masks = [pair.mask for pair in copy.pairs]
    if len({size_of(mask) for mask in masks}) > 1:
        return _SIZES
    aside = [mask.rename(mask.with_name(f"{mask.name}.aside")) for mask in masks]
    for mask, before in zip(masks, [aside[-1], *aside[:-1]], strict=True):
        before.rename(mask)
    return masks


def inverted(copy: Copy, random: Random, _: float) -> Planted:
    if not copy.known.is_binary:
        return _COLOURED if copy.known.is_coloured else _TWO
    low, high = copy.known.values or (0, 1)
    path = copy.pick(random).mask
    copy.change(path, lambda mask: np.where(mask == low, high, low).astype(mask.dtype))
    return [path]


def off_by(copy: Copy, path: Path, random: Random, pixels: float) -> None:
    if random.integers(2):
        copy.change(path, lambda mask: mask[: -int(pixels)])
    else:
        around = ((0, 0), (0, int(pixels)), (0, 0))
        copy.change(path, lambda mask: np.pad(mask, around[: mask.ndim], "edge"))


def at_a_fraction(copy: Copy, path: Path, random: Random, times: float) -> None:
    copy.change(path, lambda mask: mask[:: int(times), :: int(times)])


# what masks hold


def _refuse(copy: Copy, binary: bool = False) -> str:
    """Why a set's masks do not hold values of (two) classes."""
    if not copy.known.values:
        return _COLOURED if copy.known.is_coloured else _OBJECTS
    return _TWO if binary and not copy.known.is_binary else ""


def saved_as_jpeg(copy: Copy, path: Path, random: Random, quality: float) -> Path:
    mask = _eight_bit(path)
    new = copy.free(path, ".jpg")
    mask.save(new, quality=int(quality))
    return new


def all_saved_as_jpeg(copy: Copy, random: Random, quality: float) -> Planted:
    return [saved_as_jpeg(copy, pair.mask, random, quality) for pair in copy.pairs]


def smoothed(copy: Copy, random: Random, times: float) -> Planted:
    """Made smaller and large again, with values between."""
    why = _refuse(copy, binary=True)
    if why:
        return "values between two ids are ids" if why == _TWO else why
    path = copy.pick(random).mask
    mask = np.asarray(_eight_bit(path))
    small = cv2.resize(mask, None, fx=1 / times, fy=1 / times, interpolation=cv2.INTER_AREA)
    back = cv2.resize(small, mask.shape[::-1], interpolation=cv2.INTER_LINEAR)
    return [_save_png(copy, path, np.asarray(back))]


def stray_value(copy: Copy, random: Random, count: float, value: int = 77) -> Planted:
    if why := _refuse(copy):
        return why
    path = copy.pick(random).mask
    mask = _read(path).astype(np.uint8)
    mask.flat[random.choice(mask.size, int(count), replace=False)] = value
    return [_save_png(copy, path, mask)]


def next_id(copy: Copy, random: Random, count: float) -> Planted:
    values = copy.known.values
    if values and values[-1] == 255:
        return "no value follows 255"
    return stray_value(copy, random, count, len(values) + (copy.config.ignore is not None))


def another_255(copy: Copy, random: Random, count: float) -> Planted:
    """In some masks 255 is the foreground that is 1 in the others, or the other way round."""
    if why := _refuse(copy, binary=True):
        return why
    with Image.open(copy.pairs[0].mask) as mask:
        if mask.mode in ("1", "P"):
            return "1 and 255 are both white, and read as one class"
    other = 1 if copy.known.values[1] == 255 else 255
    chosen = random.choice(len(copy.pairs), int(count), replace=False)
    masks = [copy.pairs[k].mask for k in chosen]
    return [_save_png(copy, path, (copy.ids_of(path) * other).astype(np.uint8)) for path in masks]


def scaled_to_16_bits(copy: Copy, random: Random, _: float) -> Planted:
    if why := _refuse(copy):
        return why
    path = copy.pick(random).mask
    times = 65535 if copy.known.values == (0, 1) else 257
    return [_save_png(copy, path, _read(path).astype(np.uint16) * times)]


def empty(copy: Copy, path: Path, random: Random, _: float) -> None:
    _fill(copy, path)


def one_class(copy: Copy, random: Random, _: float) -> Planted:
    for pair in copy.pairs:
        _fill(copy, pair.mask)
    return []


def ignored(copy: Copy, path: Path, random: Random, _: float) -> str | None:
    if copy.known.is_binary:
        return "two classes: 255 would be the foreground"
    _fill(copy, path, "000000", 255 if copy.config.ignore is None else copy.config.ignore)
    return None


def _fill(copy: Copy, path: Path, color: str = "9B9B9B", value: int = 0) -> None:
    if copy.known.is_coloured:
        size = size_of(path)
        Image.new("RGB", size, f"#{color}").save(copy.free(path))
    else:
        copy.change(path, lambda mask: np.full_like(mask, value))


def photo_over_mask(copy: Copy, random: Random, _: float) -> Planted:
    pair = copy.pick(random)
    load(pair.image).save(copy.free(pair.mask), "GIF" if pair.mask.suffix == ".gif" else "PNG")
    return [pair.mask]


def coloured(copy: Copy, path: Path, random: Random, _: float) -> Path | str:
    """The mask as it is drawn for looking at: a colour for each class."""
    if copy.known.is_coloured:
        return _COLOURED
    colors = np.array([[k * 67 % 256, k * 131 % 256, k * 29 % 256] for k in range(256)], np.uint8)
    return _save_png(copy, path, colors[copy.ids_of(path)])


def wrong_color(copy: Copy, path: Path, random: Random, share: float) -> Path | str:
    """A patch is painted in a colour that is far from all of the legend."""
    if not copy.known.is_coloured:
        return "its masks are not coloured"
    mask = np.array(load(path).convert("RGB"))
    height, width = mask.shape[:2]
    tall, wide = (max(1, round(side * (share / 100) ** 0.5)) for side in (height, width))
    top, left = (int(random.integers(a - b + 1)) for a, b in ((height, tall), (width, wide)))
    mask[top : top + tall, left : left + wide] = (0, 255, 0)
    return _save_png(copy, path, mask)


# partners


def missing(copy: Copy, random: Random, _: float, what: str) -> Planted:
    pair = copy.pick(random)
    copy.free(getattr(pair, what))
    return [pair.image if what == "mask" else pair.mask]


def misspelt(copy: Copy, random: Random, _: float) -> Planted:
    pair = copy.pick(random)
    at = int(random.integers(1, len(pair.image.stem) + 1))
    name = pair.mask.name
    return [pair.image, pair.mask.rename(pair.mask.with_name(f"{name[:at]}x{name[at:]}"))]


def two_of_one_name(copy: Copy, path: Path, random: Random, _: float) -> Planted:
    new = path.with_suffix(".tif" if path.suffix == ".png" else ".png")
    load(path).save(new)
    return [path, new]


def outside_of_parts(copy: Copy, random: Random, _: float) -> Planted:
    return [_moved(copy.pick(random), lambda path: path.parent.parent / path.name)[0]]


def one_image(copy: Copy, random: Random, count: float) -> Planted:
    stay = random.choice(len(copy.pairs), int(count), replace=False)
    for number, pair in enumerate(copy.pairs):
        if number not in stay:
            copy.free(pair.image)
            copy.free(pair.mask)
    return []


def same_mask(copy: Copy, random: Random, _: float) -> Planted:
    two = copy.pick_two(random)
    if two is None:
        return _NO_TWO
    data = two[0].mask.read_bytes()
    copy.free(two[1].mask).write_bytes(data)
    return [two[1].mask]


def only_in_validation(copy: Copy, random: Random, _: float) -> Planted:
    if copy.known.is_binary or not copy.known.values:
        return _COLOURED if copy.known.is_coloured else "two classes"
    shown = {
        pair.mask: np.bincount(copy.ids_of(pair.mask).ravel(), minlength=256) > 0
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


def duplicate(copy: Copy, random: Random, _: float, across: bool = False) -> Planted:
    part = "train" if "train" in {pair.part for pair in copy.pairs} else None
    pair = copy.pick(random, part)
    files = [path.with_name(f"copy_{path.name}") for path in (pair.image, pair.mask)]
    if across:
        files = [path.parent.parent / "val" / path.name for path in files]
    for path, new in zip((pair.image, pair.mask), files, strict=True):
        shutil.copyfile(path, new)
    return files[:1]


def near_duplicate(copy: Copy, random: Random, quality: float, across: bool = False) -> Planted:
    (path,) = map(Path, duplicate(copy, random, quality, across))
    picture = load(path)
    new = copy.free(path, ".jpg")
    picture.save(new, quality=int(quality))
    return [new]


def smaller_duplicate(copy: Copy, random: Random, scale: float) -> Planted:
    (image,) = map(Path, duplicate(copy, random, scale, across=True))
    ending = copy.known.masks[1]
    folder = next(pair.mask.parent.parent for pair in copy.pairs)
    mask = folder / "val" / f"{image.stem}{ending}"
    width, height = size_of(image)
    copy.change(image, lambda picture: _smaller(picture, scale))
    new_width, new_height = size_of(image)
    rows = (np.arange(new_height) * height / new_height).astype(int)
    columns = (np.arange(new_width) * width / new_width).astype(int)
    copy.change(mask, lambda stored: stored[rows][:, columns])
    return [image]


def group_across(copy: Copy, random: Random, _: float) -> Planted:
    if not copy.known.group_by:
        return "no groups are known"
    groups = [copy.known.group_of(pair.image) for pair in copy.pairs]
    several = [
        pair
        for pair, group in zip(copy.pairs, groups, strict=True)
        if pair.part == "train" and groups.count(group) > 1
    ]
    pair = several[int(random.integers(len(several)))]
    return [_moved(pair, lambda path: path.parent.parent / "val" / path.name)[0]]


# the table


@dataclass(frozen=True)
class Fault:
    """A kind of fault."""

    name: str
    planted: str  # what is done, in words; `{}` stands for the magnitude
    code: str  # or several, any of which counts as found
    plant: Plant
    sizes: tuple[float, ...] = (1,)  # half the magnitude, the nominal one and double; or one
    in_parts: bool = False  # the copy needs train/ and val/
    by_group: bool = False  # groups are named
    is_whole: bool = False  # the whole folder is at fault, so that chance changes little
    as_nobody: bool = False  # the doctor must do without the rights of the superuser
    has_fix: bool = True  # the finding's command fixes it, or leaves the files out
    unseen: Mapping[str, str] = field(default_factory=dict)  # sets that cannot show it, and why

    @property
    def codes(self) -> tuple[str, ...]:
        return tuple(self.code.split())

    @property
    def by_chance(self) -> bool:
        """Whether it is found by measuring, so that some may be missed."""
        return any(
            code in ("exif", "swapped", "shifted", "flipped", "inverted") or code.startswith("near")
            for code in self.codes
        )

    @property
    def nominal(self) -> float:
        return self.sizes[-2:][0]


_JPEG = ("carvana", "camvid", "dubai_aerial", "dubai_color", "carrotweed", "chasedb1")
_NO_CHECKSUM = dict.fromkeys(_JPEG, "JPEG files have no checksum, so decoders do not notice")
_TEXT, _HTML = b"Notes on this picture.\n", b"<!DOCTYPE html><html>404</html>"
_EMPTIED = "overwritten with nothing"
_LOST, _BYTES = "{} % of its bytes lost", "{} bytes changed among its pixels"
_FRAMES, _SIDE = "a GIF of {} frames", "a PNG of {} pixels a side"
_SIDES, _DAMAGE = (15000, 30000, 60000), (2, 4, 8)
_STORED, _SUFFIX = "added to an image; the mask fits it as stored", "the same with another suffix"
_COPIED, _SAVED = "image and mask copied under another name", "a copy saved as JPEG, quality {}"
_PHOTO = "colored-mask not-a-mask many-values stray-value stray-color"
_NEAR = "near-duplicate near-duplicate-across-groups"

FAULTS = [
    # files
    Fault("image cut off", _LOST, "cut-off", image(cut_off), (5, 10, 20)),
    Fault("mask cut off", _LOST, "cut-off", mask(cut_off), (5, 10, 20)),
    Fault("image of zero bytes", _EMPTIED, "empty-file", image(overwritten(b""))),
    Fault("mask of zero bytes", _EMPTIED, "empty-file", mask(overwritten(b""))),
    Fault("text as image", "a text file named like an image", "not-an-image",
          image(overwritten(_TEXT))),
    Fault("web page as mask", "an HTML file, as from a failed download", "not-an-image",
          mask(overwritten(_HTML))),
    Fault("suffix of another format", "PNG named .jpg, or JPEG named .png", "wrong-extension",
          image(wrong_suffix)),
    Fault("mask with another suffix", "TIFF named .png, or PNG named .gif", "wrong-extension",
          mask(wrong_suffix_of_mask)),
    Fault("unknown suffix", "an image renamed to .dat", "no-image", unknown_suffix),
    Fault("damaged PNG image", _BYTES, "damaged", image(damaged(".png", "images")), _DAMAGE),
    Fault("damaged PNG mask", _BYTES, "damaged", mask(damaged(".png", "masks")), _DAMAGE),
    Fault("damaged JPEG image", _BYTES, "damaged", image(damaged(".jpg", "images")), _DAMAGE,
          unseen=_NO_CHECKSUM),
    Fault("unreadable image", "mode 000, checked without superuser rights",
          "not-readable", image(unreadable), as_nobody=True),
    Fault("unreadable folder", "a folder of mode 000 with an image in it", "not-readable",
          closed_folder, as_nobody=True),
    Fault("link to the folder above", "a link to its parent", "link-loop", image(folder_loop)),
    Fault("link to itself", "an image that is a link to itself", "link-loop",
          image(linked_to(""))),
    Fault("broken link", "an image that is a link to nothing", "missing-file",
          image(linked_to("elsewhere.png"))),
    Fault("bomb as image", _SIDE, "too-large", image(bomb), _SIDES),
    Fault("bomb as mask", _SIDE, "too-large", mask(bomb), _SIDES),
    Fault("name not UTF-8", "image and mask renamed, with é in Latin-1", "name-not-utf8",
          not_utf8),
    Fault("animation as image", _FRAMES, "several-frames", image(animation), (2, 3, 6)),
    Fault("animation as mask", _FRAMES, "several-frames", mask(animation), (2, 3, 6)),
    Fault("stack as mask", "a TIFF of {} pages", "several-frames", mask(stack), (2, 3, 6)),
    Fault("folder named like an image", "an empty folder next to the images", "not-an-image",
          image(folder_like_image)),
    # images
    Fault("transparent image", "{} % of its pixels transparent", "transparent",
          image(transparent), (0.5, 1, 2)),
    Fault("dark 16-bit image", "{} of 16 bits used, among 8-bit images",
          "unused-depth mixed-depths", image(twelve_bits), (12,)),
    Fault("infinite", "{} values of a float TIFF", "not-finite", image(infinite),
          (1, 2, 4)),
    Fault("float image", "0.0 to 255.0 in a TIFF, among 8-bit images", "mixed-depths",
          image(floats)),
    Fault("extra bands", "a TIFF of {} bands", "odd-channels", image(five_bands), (5,)),
    Fault("channels first", "[C, H, W] in .npy", "odd-channels", image(leading_channels)),
    Fault("64-bit integers", "int64 in .npy", "unusable-values", image(long_integers)),
    Fault("thumbnail", "image and mask {} times smaller", "odd-size", thumbnail, (2, 4, 8)),
    Fault("blank image", "all pixels the same", "blank-image", image(changed(blank))),
    Fault("EXIF orientation 3", _STORED, "exif", image(turned_by_exif(3))),
    Fault("EXIF orientation 6", _STORED, "exif size-mismatch", image(turned_by_exif(6))),
    # masks on images
    Fault("swapped masks", "of two images of the same size", "swapped", swapped),
    Fault("neighbours swapped", "masks of two consecutive images", "swapped",
          neighbours_swapped),
    Fault("all masks offset by one", "each mask is that of the previous image", "swapped",
          one_further_on, is_whole=True, has_fix=False),
    Fault("shifted mask", "by {} px along x, y or both (twice as much from 1500 px on)", "shifted",
          mask(shifted), (4, 8, 16)),
    Fault("mask mirrored left-right", "one mask", "flipped", mask(changed(np.fliplr))),
    Fault("mask mirrored top-bottom", "one mask", "flipped", mask(changed(np.flipud))),
    Fault("mask turned by 90 degrees", "one mask", "flipped size-mismatch",
          mask(changed(np.rot90))),
    Fault("inverted mask", "its two classes swapped", "inverted", inverted),
    Fault("mask off in size", "{} px fewer rows, or more columns", "size-mismatch", mask(off_by),
          (1, 2)),
    Fault("mask of a lower resolution", "only every {}th row and column", "size-mismatch",
          mask(at_a_fraction), (2, 4)),
    # what masks hold
    Fault("mask as JPEG", "saved as .jpg, quality {}", "lossy-mask", mask(saved_as_jpeg),
          (95, 90, 75)),
    Fault("all masks as JPEG", "saved as .jpg, quality {}", "lossy-mask", all_saved_as_jpeg, (90,),
          is_whole=True, has_fix=False),
    Fault("smoothed mask", "reduced {} times and enlarged again, as PNG",
          "lossy-mask stray-value many-values", smoothed, (2, 4, 8)),
    Fault("unexpected value", "77 in {} pixels", "stray-value", stray_value, (5, 10, 20)),
    Fault("next class id", "the number of classes, in {} pixels of one mask",
          "rare-class stray-value", next_id, (5, 10, 20)),
    Fault("255 against 1", "the other foreground value in {} masks", "ambiguous-255", another_255,
          (1, 2, 4)),
    Fault("mask scaled to 16 bits", "values times 257, or 65535 for 1",
          "stray-value many-values not-a-mask", scaled_to_16_bits),
    Fault("empty mask", "all of class 0", "empty-mask", mask(empty)),
    Fault("ignored mask", "all void", "ignored-mask stray-color", mask(ignored)),
    Fault("one class only", "all masks of class 0", "one-class", one_class, is_whole=True,
          has_fix=False),
    Fault("photo over a mask", "the image saved under the mask's name", _PHOTO, photo_over_mask),
    Fault("coloured mask", "one colour per class, among ids", "colored-mask", mask(coloured)),
    Fault("wrong legend colour", "00FF00 in {} % of a mask", "stray-color", mask(wrong_color),
          (0.5, 1, 2)),
    # partners
    Fault("missing mask", "one mask removed", "no-mask", partial(missing, what="mask")),
    Fault("missing image", "one image removed", "no-image", partial(missing, what="image")),
    Fault("misspelt mask", "an x inserted into its name", "no-mask no-image", misspelt),
    Fault("two masks with one name", _SUFFIX, "two-partners", mask(two_of_one_name)),
    Fault("two images with one name", _SUFFIX, "two-partners", image(two_of_one_name)),
    Fault("image outside the splits", "moved out of train/ or val/, with its mask",
          "outside-of-parts", outside_of_parts, in_parts=True),
    Fault("one image only", "{} left", "too-few", one_image, is_whole=True, has_fix=False),
    Fault("same mask twice", "one mask copied over another", "same-mask", same_mask),
    Fault("class only in validation", "removed from all training masks", "class-not-in-training",
          only_in_validation, in_parts=True),
    # copies
    Fault("duplicate across the split", _COPIED, "duplicate-across-parts",
          partial(duplicate, across=True), in_parts=True),
    Fault("near duplicate across the split", _SAVED, "near-duplicate-across-parts",
          partial(near_duplicate, across=True), (87, 75, 50), in_parts=True),
    Fault("smaller copy across the split", "a copy at {} of its width",
          "near-duplicate-across-parts", smaller_duplicate, (0.75, 0.5, 0.25), in_parts=True),
    Fault("group across the split", "one image moved to val/", "group-across-parts", group_across,
          in_parts=True, by_group=True),
    Fault("duplicate in one folder", _COPIED, "duplicate duplicate-across-groups", duplicate),
    Fault("near duplicate in one folder", _SAVED, _NEAR, near_duplicate, (87, 75, 50)),
]  # fmt: skip
NAMES = {fault.name: fault for fault in FAULTS}
