"""Faults of files, and of pictures: one function plants each; see `Plant`."""

import io
import os
import struct
import zlib
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np
import tifffile
from PIL import Image

from .farm import Copy, Plant, Planted, Which, eight_bit, read, rename, size_of, smaller


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
            # 255 begins a marker in a JPEG file
            if kind == ".png" or 0xFF not in data[at - 1 : at + 1]:
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


def closed_folder(copy: Copy, random: np.random.Generator, _: float) -> Planted:
    pair = copy.pick(random)
    image, mask = (path.parent / "more" / path.name for path in (pair.image, pair.mask))
    for path, new in ((pair.image, image), (pair.mask, mask)):
        new.parent.mkdir()
        path.rename(new)
    image.parent.chmod(0)
    return [image.parent, mask]


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
        return (
            struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        )

    head = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    packer = zlib.compressobj(1)
    row = bytes(1 + (side + 7) // 8)
    pixels = b"".join(packer.compress(row) for _ in range(side)) + packer.flush()
    chunks = chunk(b"IHDR", head) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunks


def not_utf8(copy: Copy, random: np.random.Generator, _: float) -> Planted:
    pair = copy.pick(random)
    return rename(copy, pair, pair.image.stem + os.fsdecode(b"\xe9"))


def animation(which: Which) -> Plant:
    def plant(copy: Copy, random: np.random.Generator, frames: float) -> Planted:
        path: Path = getattr(copy.pick(random), which)
        first, *others = (eight_bit(path).convert("L").rotate(k) for k in range(int(frames)))
        new = copy.free(path).with_suffix(".gif")
        first.save(new, save_all=True, append_images=others)
        return [new]

    return plant


def stack(copy: Copy, random: np.random.Generator, pages: float) -> Planted:
    path = copy.pick(random).mask
    mask = np.asarray(eight_bit(path).convert("L"))
    new = copy.free(path).with_suffix(".tif")
    tifffile.imwrite(new, np.stack([mask] * int(pages)), photometric="minisblack")
    return [new]


def folder_like_picture(copy: Copy, random: np.random.Generator, _: float) -> Planted:
    path = copy.pick(random).image
    folder = path.with_name(f"more{path.suffix}")
    folder.mkdir()
    return [folder]


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
    deep = read(path).astype(np.uint16) << int(bits - 8)
    new = copy.free(path).with_suffix(".png")
    cv2.imwrite(str(new), deep[..., ::-1] if deep.ndim == 3 else deep)
    return [new]


def not_a_number(copy: Copy, random: np.random.Generator, count: float) -> Planted:
    path = copy.pick(random).image
    picture = (read(path) / 255).astype(np.float32)
    picture.flat[random.choice(picture.size, int(count), replace=False)] = np.nan
    return _tiff(copy, path, picture)


def floats(copy: Copy, random: np.random.Generator, _: float) -> Planted:
    path = copy.pick(random).image
    return _tiff(copy, path, read(path).astype(np.float32))


def five_bands(copy: Copy, random: np.random.Generator, bands: float) -> Planted:
    path = copy.pick(random).image
    grey = read(path)
    grey = grey if grey.ndim == 2 else grey[..., 1]
    return _tiff(copy, path, np.stack([grey] * int(bands), axis=-1))


def leading_channels(copy: Copy, random: np.random.Generator, _: float) -> Planted:
    path = copy.pick(random).image
    picture = np.atleast_3d(read(path)).transpose(2, 0, 1)
    new = copy.free(path).with_suffix(".npy")
    np.save(new, picture)
    return [new]


def long_integers(copy: Copy, random: np.random.Generator, _: float) -> Planted:
    path = copy.pick(random).image
    picture = read(path).astype(np.int64)
    new = copy.free(path).with_suffix(".npy")
    np.save(new, picture)
    return [new]


def thumbnail(copy: Copy, random: np.random.Generator, times: float) -> Planted:
    if copy.known.mixed_sizes:
        return "its pictures are of many sizes"
    pair = copy.pick(random)
    step = int(times)
    copy.change(pair.image, lambda picture: smaller(picture, 1 / step))
    width, height = size_of(pair.image)
    copy.change(pair.mask, lambda mask: mask[::step, ::step][:height, :width])
    return [pair.image]


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
