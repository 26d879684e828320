"""Read the stored values of masks, from one file or from one file per class."""

import struct
import zlib
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile

from plainunet.errors import Error, take_path
from plainunet.formats import coco, geo, rle, shapes
from plainunet.formats.colors import IGNORED, ColoredMaskError, colored_mask
from plainunet.formats.image_files import (
    decoding,
    open_encoded,
    read_array,
    read_encoded,
    read_mask_array,
    turn_upright,
)
from plainunet.formats.images import image_size, open_still, stored_shape
from plainunet.formats.legends import is_background
from plainunet.formats.problems import DataError
from plainunet.formats.sources import (
    ClassFiles,
    CocoImage,
    ImageSource,
    ObjectFiles,
    Polygons,
    RleImage,
    Shapes,
    Source,
    Window,
    parse_source,
)
from plainunet.formats.tiff import find_missing, read_tiff, rewrite_tiff, tiff_marks

THRESHOLD = 128
"""In smoothed black and white masks, values from here on are class 1."""
VOID = 65535
"""Replaces -1, the label of void pixels in signed files."""
_MOST_CLASSES = 254
_DARK, _BRIGHT = 32, 224


def read_class_files(path: ClassFiles, read: Callable[[Path], NDArray[Any]]) -> NDArray[np.uint8]:
    """Read class ids [H, W] uint8 from one file per class.

    Non-zero pixels of a file belong to its class; if an 8-bit file has more than two values, its
    edges are smoothed, and pixels from 128 on belong to it. Other pixels are 0; if a class is
    named background, it is 0, and pixels of no class are 255.
    """
    names, files = class_file_names(path.classes), path.files
    ids: NDArray[np.uint8] | None = None
    first, overlap, example = Path(), 0, ("", "")
    for class_id, name in enumerate(names):
        if name not in files or not _exists(files[name]):
            continue
        inside = _foreground(files[name], read)
        if ids is None:
            ids, first = np.full(inside.shape, IGNORED, np.uint8), files[name]
        if inside.shape != ids.shape:
            raise _sizes_differ(first, ids.shape, files[name], inside.shape)
        taken = ids[inside]
        others = taken[taken != IGNORED]
        if others.size and not overlap:
            example = names[int(np.bincount(others).argmax())], name
        overlap += others.size
        ids[inside] = class_id
    if ids is None:
        raise _none_exists(path)
    if overlap:
        labelled = np.count_nonzero(ids != IGNORED)
        raise DataError(
            f"{path}: {overlap} pixels ({overlap / ids.size:.2%} of the image, "
            f"{overlap / labelled:.2%} of the labelled pixels) have two classes, such as "
            f"'{example[0]}' and '{example[1]}'. Set them to 0 in one of the two files.",
            "overlapping-classes",
        )
    if names[0] not in files:
        ids[ids == IGNORED] = 0
    return ids


def read_object_files(path: ObjectFiles, read: Callable[[Path], NDArray[Any]]) -> NDArray[Any]:
    """Merge several masks of one image: [H, W], the maximum value of each pixel."""
    first, *others = path.files
    joined = _one_class(first, read)
    for file in others:
        values = _one_class(file, read)
        if values.shape != joined.shape:
            raise _sizes_differ(first, joined.shape, file, values.shape)
        joined = np.maximum(joined, values)
    return joined


def common_size(
    path: ClassFiles | ObjectFiles, size_of: Callable[[Path], tuple[int, int]]
) -> tuple[int, int]:
    """Read the common height and width of a mask's files."""
    if isinstance(path, ObjectFiles):
        files = path.files
    else:
        class_file_names(path.classes)
        files = [file for file in path.files.values() if _exists(file)]
        if not files:
            raise _none_exists(path)
    sizes = [size_of(file) for file in files]
    for file, size in zip(files, sizes, strict=True):
        if size != sizes[0]:
            raise _sizes_differ(files[0], sizes[0], file, size)
    return sizes[0]


def class_file_names(names: tuple[str, ...]) -> tuple[str, ...]:
    """The classes in the order of their ids: the background first, added if missing.

    A class may be followed by the name of its file: road/7_rd.
    """
    if not names:
        return ()
    grounds = [name for name in names if is_background(name.partition("/")[0])]
    classes = [name for name in names if name not in grounds]
    if not all(name.strip() for name in names) or len(grounds) > 1 or not classes:
        raise Error(
            f"The classes {{{','.join(names)}}} must have names, at most one of them background. "
            "Name them like this: masks/{road,car}/7.png."
        )
    if len(classes) > _MOST_CLASSES:
        raise Error(
            f"There are {len(classes)} classes in braces; the maximum is {_MOST_CLASSES}. Merge "
            "some of them."
        )
    return (*(grounds or ["background"]), *classes)


def _exists(file: Path) -> bool:
    try:
        file.lstat()  # a broken link is an error, not an absent class
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        raise Error(f"{file} cannot be opened ({error.strerror}). Check its name.") from None
    return True


def _none_exists(path: ClassFiles) -> FileNotFoundError:
    return FileNotFoundError(
        f"{path}: none of the {len(path.classes)} files for {', '.join(path.classes)} exists. "
        "Add the file of at least one class, or remove the image."
    )


def _sizes_differ(
    first: Path, size: tuple[int, ...], other: Path, other_size: tuple[int, ...]
) -> ValueError:
    return DataError(
        f"{other} is {other_size[1]}x{other_size[0]} pixels, {first} is {size[1]}x{size[0]}. All "
        "masks of an image must have its size.",
        "size-mismatch",
    )


def _one_class(file: Path, read: Callable[[Path], NDArray[Any]]) -> NDArray[Any]:
    try:
        return read(file)
    except ColoredMaskError:
        raise DataError(
            f"{file} is coloured, but should hold one class: 0 outside, another value inside. Save "
            "it as a grey PNG.",
            "not-a-mask",
        ) from None


def _foreground(file: Path, read: Callable[[Path], NDArray[Any]]) -> NDArray[np.bool_]:
    values = _one_class(file, read)
    inside = _inside(values)
    if inside is None:
        found = np.unique(values)
        raise DataError(
            f"{file} has {len(found)} values from {found[0]} to {found[-1]}, but should hold one "
            "class: 0 outside, another value inside. Save it with two values.",
            "stray-value",
        )
    return inside


def _inside(values: NDArray[Any]) -> NDArray[np.bool_] | None:
    """The pixels of a class, from the values of its file; None if it holds several classes."""
    if values.dtype != np.uint8:
        return np.asarray(values > 0)
    counts = np.bincount(values.ravel(), minlength=256)
    found = np.flatnonzero(counts).tolist()
    if len(found) == 1 or (len(found) == 2 and found[0] == 0):
        return np.asarray(values > 0)
    smoothed = counts[_BRIGHT:].sum() > counts[_DARK:_BRIGHT].sum()
    # with 0, 1 and 255, the last may be the ignore index
    is_one = smoothed and len(found) > 2 and found != [0, 1, 255]
    return np.asarray(values >= THRESHOLD) if is_one else None


def holds_one_class(file: Path) -> bool:
    """Whether a file can be that of one class: 0 outside, another value inside."""
    try:
        return _inside(_read_without_void(file)) is not None
    except (ValueError, OSError):
        return False


def read_mask(path: str | Source) -> NDArray[Any]:
    """Read the values of a mask as stored, [H, W] uint8 or uint16, upright.

    They are palette indices, 0/1 of a 1-bit image, or grey values, also if grey is stored as
    RGB(A) or in one channel alone. Floats from 0 to 1 become 0 to 255. For annotation files and
    for one file per class: 0 for no class, else class numbers from 1. If 0 is white in a TIFF
    file, values stay as stored, except for 1 bit; -1, NaN and a nodata value that is not an
    integer from 0 to 65535 become `VOID`.

    Raises:
        FileNotFoundError: There is no such file.
        ColoredMaskError: Its colours differ.
        ValueError: It is not an image, damaged, truncated, has several pages, or its classes
            overlap.

    Example:
        ```python
        from plainunet import read_mask

        mask = read_mask("my-data/masks/a.png")
        print(mask.shape, mask.dtype, mask.max())
        ```
    """
    if isinstance(path, str):
        path = parse_source(take_path(path, "path"))
    if isinstance(path, CocoImage):
        return coco.read_ids(path)
    if isinstance(path, RleImage):
        return rle.read_ids(path)
    if isinstance(path, Shapes):
        return shapes.read_ids(path)
    if isinstance(path, Polygons):
        return geo.read_ids(path)
    if isinstance(path, ObjectFiles):
        return read_object_files(path, _read_without_void)
    if isinstance(path, ClassFiles):
        return read_class_files(path, _read_without_void)
    return _read_file(path if isinstance(path, ImageSource) else take_path(path, "path"))


def _read_without_void(path: Path) -> NDArray[Any]:
    """Read one of several masks of an image; void pixels are 0."""
    mask = _read_file(path)
    if mask.dtype == np.uint16 and mask.max() == VOID:
        traits = mask_traits(path)
        if traits.is_signed or traits.nodata == VOID:
            mask[mask == VOID] = 0
    return mask


def _read_file(path: ImageSource) -> NDArray[Any]:
    kind, data = read_encoded(path)
    missing = None
    with decoding(path):
        if kind == "tiff":
            tiff = read_tiff(BytesIO(data), path)
            missing = tiff.missing
            samples, orientation = tiff.samples, tiff.orientation
            if tiff.is_inverted and samples.dtype != np.bool_:
                samples = np.invert(samples)  # labels are the stored values
        elif kind == "npy":
            samples, orientation = read_mask_array(BytesIO(data), path), 1
            missing = find_missing(samples[..., None])
        else:
            with open_still(BytesIO(data), kind, path) as (image, orientation):
                samples = _stored_values(image, path)
    if missing is not None:
        missing = missing.reshape(missing.shape + (1,) * (samples.ndim - 2))
        is_odd = missing & ~((samples >= 0) & (samples < VOID))  # or NaN
        samples = np.where(is_odd, np.float64(VOID), samples) if is_odd.any() else samples
    mask = _one_channel(samples, path)
    if mask.dtype.kind in "fi" and mask.min() == -1:
        mask = np.where(mask == -1, VOID, mask.astype(np.float64))
    if mask.dtype.kind == "f" and 0 <= mask.min() < 1 and ((mask > 0) & (mask < 1)).any():
        mask = np.rint(mask * 255).astype(np.uint8) if mask.max() <= 1 else mask  # a soft mask
    if mask.dtype.kind in "fi" and mask.min() >= 0 and (mask == np.rint(mask)).all():
        mask = mask.astype(np.uint16) if mask.max() < 65536 else mask
    if mask.dtype in (np.uint32, np.uint64) and mask.max() < 65536:
        mask = mask.astype(np.uint16)
    if mask.dtype not in (np.bool_, np.uint8, np.uint16):
        raise DataError(
            f"{path} has {mask.dtype} values from {mask.min()} to {mask.max()}; a mask has "
            "integers from 0 to 65535. Save it as an 8-bit or 16-bit PNG.",
            "not-a-mask",
        )
    return turn_upright(mask.astype(np.uint8) if mask.dtype == np.bool_ else mask, orientation)


def _void_of(nodata: float) -> int:
    """The value of nodata pixels in a mask after reading."""
    return int(nodata) if nodata in range(VOID) else VOID


class Traits(NamedTuple):
    """Properties of a mask file other than its values."""

    palette: tuple[int, ...] = ()
    """The colour of each value from 0 on, 0xRRGGBB, for palette and 1-bit images."""
    is_inverted: bool = False
    """Whether 0 is white."""
    is_signed: bool = False
    """Whether its type allows values below 0."""
    hides: bool = False
    """Whether pixels of the same colour differ in opacity, or transparent ones in colour."""
    clear: int | None = None
    """The one colour below transparent pixels, if there are any: 16 bits per channel."""
    nodata: int | None = None
    """The nodata value, after reading."""


def mask_traits(path: Source) -> Traits:
    """Read the properties of a mask file, from its header unless it has alpha."""
    if not isinstance(path, ImageSource):
        return Traits()
    with open_encoded(path) as (kind, file), decoding(path):
        if kind == "tiff":
            return _tiff_traits(file, path)
        if kind == "npy":
            dtype = read_array(file, path).dtype
            return Traits(is_signed=dtype.kind in "fi")
        with open_still(file, kind, path) as (image, _):
            if image.mode == "1":
                return Traits((0, 0xFFFFFF))
            if image.mode == "L" and kind == "gif":
                return Traits(tuple(range(0, 1 << 24, 0x010101)))
            if image.mode == "P" and image.palette is not None:
                order = image.palette.rawmode or "RGB"
                table = np.frombuffer(bytes(image.palette.palette), np.uint8)
                table = table[: len(table) // len(order) * len(order)].reshape(-1, len(order))
                red, green, blue = (table[:, order.index(c)].astype(int) for c in "RGB")
                return Traits(tuple((red << 16 | green << 8 | blue).tolist()))
            if image.mode in ("LA", "La", "RGBA", "RGBa", "PA"):
                hides, clear = _look_below(np.asarray(image.convert("RGBA")))
                return Traits(hides=hides, clear=clear)
    return Traits()


def _tiff_traits(file: BinaryIO, path: ImageSource) -> Traits:
    marks = tiff_marks(file, path)
    palette: tuple[int, ...] = ()
    if marks.palette is not None:
        red, green, blue = (marks.palette >> 8).astype(int).T
        palette = tuple((red << 16 | green << 8 | blue).tolist())
    elif marks.dtype == np.bool_:
        palette = (0, 0xFFFFFF)
    hides, clear = False, None
    if marks.has_alpha:
        tiff = read_tiff(file, path)
        if tiff.alpha is not None:
            hides, clear = _look_below(np.dstack([tiff.samples, tiff.alpha]))
    nodata = None if marks.nodata is None else _void_of(marks.nodata)
    return Traits(palette, marks.is_inverted, marks.dtype.kind in "fi", hides, clear, nodata)


def _look_below(samples: NDArray[Any]) -> tuple[bool, int | None]:
    """Whether [H, W, C + 1] with alpha hides a class, and the colour of transparent pixels.

    It does if pixels of the same colour differ in alpha, or transparent ones in colour.
    """
    alpha = samples[..., -1]
    if alpha.min() == alpha.max() > 0 or samples.dtype.kind != "u" or samples.shape[-1] > 4:
        return False, None
    if samples.shape[-1] == 2:
        samples = samples[..., [0, 0, 0, 1]]
    flat = samples.reshape(-1, samples.shape[-1])
    runs = flat[np.append((flat[1:] != flat[:-1]).any(axis=1), True)]  # far fewer than the pixels
    packed = np.zeros(len(runs), np.uint64)
    for channel in range(runs.shape[1]):
        packed = packed << np.uint64(16) | runs[:, channel]
    packed = np.unique(packed)
    colors = packed >> np.uint64(16)
    clear = colors[packed % np.uint64(1 << 16) == 0]
    if alpha.max() == 0:  # without a meaning, unless the mask is empty
        return False, int(clear[0]) if len(clear) == 1 else None
    hides = len(clear) > 1 or bool((colors[1:] == colors[:-1]).any())
    return hides, int(clear[0]) if len(clear) else None


def mask_size(path: Source) -> tuple[int, int]:
    """Read a mask's height and width, upright; truncated files are an error."""
    if isinstance(path, CocoImage):
        return coco.item_size(path)
    if isinstance(path, RleImage):
        return rle.item_size(path)
    if isinstance(path, Shapes):
        return shapes.image_size(path.file)
    if isinstance(path, ClassFiles | ObjectFiles):
        return common_size(path, _file_size)
    if isinstance(path, Polygons):
        return path.window.height, path.window.width
    if isinstance(path, Window):
        return path.height, path.width
    return _file_size(path)


def _file_size(path: ImageSource) -> tuple[int, int]:
    read_encoded(path)
    return image_size(path)


def stored_names(path: Source) -> tuple[str, ...]:
    """The class names in a mask's source, in the order of their ids, or ()."""
    if isinstance(path, CocoImage):
        return coco.class_names(path.file)
    if isinstance(path, RleImage):
        return rle.class_names(path.file)
    if isinstance(path, Shapes | Polygons):
        return path.classes
    if not isinstance(path, ClassFiles):
        return ()
    return tuple(name.partition("/")[0] for name in class_file_names(path.classes))


def _stored_values(image: ImageFile.ImageFile, path: ImageSource) -> NDArray[Any]:
    raw_mode = str(image.tile[0].args) if image.format == "PNG" else ""
    if image.mode != "I;16" and "16" in raw_mode:
        raise DataError(
            f"{path} has 16-bit colours. Save the class ids as a grey PNG.", "not-a-mask"
        )
    # Pillow scales 2-bit and 4-bit grey PNGs to 0..255; undo that to restore the ids
    scale = {"L;2": 85, "L;4": 17}.get(raw_mode, 1)
    samples = np.asarray(image)
    return samples // samples.dtype.type(scale) if scale > 1 else samples


def _one_channel(samples: NDArray[Any], path: ImageSource) -> NDArray[Any]:
    if samples.ndim == 2:
        return samples
    if samples.shape[-1] in (2, 4):
        samples = samples[..., :-1]
    first = samples[..., 0]
    used = samples.any(axis=(0, 1))
    if samples.shape[-1] == 3 and samples.dtype == np.uint8 and used.sum() == 1:
        numbers: NDArray[Any] = samples[..., int(used.argmax())]
        found = np.flatnonzero(np.bincount(numbers.ravel()))
        if found[-1] < _DARK or 2 * len(found) > found[-1]:  # unlikely to be colours
            return numbers
    if samples.shape[-1] not in (1, 3) or (samples != first[..., None]).any():
        if samples.shape[-1] == 3:
            raise colored_mask(path)
        raise DataError(
            f"{path} has {samples.shape[-1]} different channels; a mask has one. Save the class "
            "ids as a grey or palette PNG.",
            "not-a-mask",
            [path],
        )
    return first


def rewrite_mask(path: Path, how: Callable[[NDArray[Any]], NDArray[Any]]) -> bytes:
    """Encode a mask file with new values, keeping its format, palette, bit depth and tags.

    Args:
        path: The file: PNG, GIF, BMP, TIFF or .npy.
        how: Maps the stored values, [H, W] or [H, W, C], to new ones.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: Its format is not supported, or the change would not be lossless.
    """
    kind, data = read_encoded(path)
    try:
        if mask_orientation(path) != 1:
            raise Error("it has an EXIF orientation")
        if kind == "tiff":
            return rewrite_tiff(data, path, how)
        if kind == "npy":
            file = BytesIO()
            np.save(file, how(np.load(BytesIO(data))))
            return file.getvalue()
        before = _open_stored(data, kind, path)
        values = how(before.values)
        if kind == "png":
            written = _write_png(data, values)
        elif kind in ("gif", "bmp"):
            written = _write_by_pillow(data, kind, values)
        else:
            raise Error(f"{kind.upper()} may change values")
        after = _open_stored(written, kind, path)
        if after.marks != before.marks or not np.array_equal(after.values, values):
            raise Error("its format cannot hold these values")
    except ValueError as error:
        raise DataError(
            f"{path} cannot be changed without loss: {error}. Change it with its own program.",
            "not-a-mask",
            [path],
        ) from None
    return written


def mask_orientation(path: Path) -> int:
    """Read the EXIF orientation of a mask file, 1..8."""
    return stored_shape(path)[3]


class _Stored(NamedTuple):
    values: NDArray[Any]
    marks: list[Any]  # mode, palette, transparency and packing


def _open_stored(data: bytes, kind: str, path: Path) -> _Stored:
    with open_still(BytesIO(data), kind, path) as (image, _):
        packed = image.tile[0].args if kind == "bmp" else ""
        raw = packed[0] if isinstance(packed, tuple) else packed
        values = _stored_values(image, path)
        shown = image.info.get("transparency")
        return _Stored(values, [image.mode, image.getpalette(), shown, raw])


def _write_png(data: bytes, values: NDArray[Any]) -> bytes:
    """Replace the pixels of a PNG file by chunks, as Pillow cannot write 2-bit and 4-bit grey."""
    height, width = values.shape[:2]
    bits = data[24]
    rows = values.reshape(height, -1)
    if bits < 8:
        rows = rows[..., None] >> np.arange(bits, dtype=np.uint8)[::-1] & 1
        rows = np.packbits(rows.reshape(height, -1).astype(np.uint8), axis=1)
    elif bits == 16:
        rows = np.ascontiguousarray(rows, ">u2").view(np.uint8)
    lines = np.pad(rows.astype(np.uint8), ((0, 0), (1, 0)))  # each starts with its filter: none
    written, at = data[:8], 8
    while at < len(data):
        (length,) = struct.unpack_from(">I", data, at)
        name, body = data[at + 4 : at + 8], data[at + 8 : at + 8 + length]
        at += 12 + length
        if name == b"IHDR":
            body = struct.pack(">II", width, height) + body[8:12] + b"\0"  # not interlaced
        elif name == b"IDAT":
            if not lines.size:  # all pixels are in the first one
                continue
            body, lines = zlib.compress(lines.tobytes()), lines[:0]
        check = zlib.crc32(name + body)
        written += struct.pack(">I", len(body)) + name + body + struct.pack(">I", check)
        if name == b"IEND":
            break
        if name == b"PLTE" and values.max() >= length // 3:
            raise Error("its palette is too short")
    return written


def _write_by_pillow(data: bytes, kind: str, values: NDArray[Any]) -> bytes:
    file = BytesIO()
    with Image.open(BytesIO(data)) as image:
        changed = Image.fromarray(values)
        if image.mode == "P":
            changed.putpalette(image.getpalette() or [])
        kept = {key: image.info[key] for key in ("transparency",) if key in image.info}
        changed.save(file, kind, optimize=False, **kept)
    return file.getvalue()


def flatten_mask(path: Path, color: int) -> bytes:
    """Make a mask opaque: pixels less than half opaque get a colour, 0xRRGGBB.

    PNG and WebP masks become RGB; TIFF masks keep their tags, and an opaque alpha channel.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It has another format.
    """
    kind, data = read_encoded(path)
    if kind == "tiff":
        return rewrite_tiff(data, path, lambda samples: _laid_on(color, samples, path))
    if kind not in ("png", "webp") or mask_orientation(path) != 1:
        raise _not_flat(path)
    with decoding(path), open_still(BytesIO(data), kind, path) as (image, _):
        _stored_values(image, path)  # rejects more than 8 bits
        samples = np.array(image.convert("RGBA"))
    file = BytesIO()
    flat = Image.fromarray(_laid_on(color, samples, path)[..., :3])
    flat.save(file, kind, **({"lossless": True} if kind == "webp" else {}))
    return file.getvalue()


def _laid_on(color: int, samples: NDArray[Any], path: Path) -> NDArray[Any]:
    """Samples of R, G, B and alpha, [H, W, 4], that are opaque."""
    if samples.dtype != np.uint8 or samples.shape[2:] != (4,):
        raise _not_flat(path)
    flat = samples.copy()
    flat[samples[..., 3] < THRESHOLD, :3] = [color >> 16, color >> 8 & 255, color & 255]
    flat[..., 3] = 255
    return flat


def _not_flat(path: Path) -> DataError:
    return DataError(
        f"{path} is not an upright PNG, WebP or TIFF with 8 bits of R, G, B and alpha. Save it as "
        "RGB.",
        "transparent",
        [path],
    )
