"""Outputs of `predict`: file names; overlays, probabilities, objects, COCO, run lengths, areas."""

import csv
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask  # type: ignore[import-untyped]
from tifffile import TiffFile, imwrite

from plainunet.config import Output
from plainunet.dataset.resize import fit_size, resize
from plainunet.errors import Error
from plainunet.files import write_json, write_whole
from plainunet.formats.geo import require_geo
from plainunet.formats.sources import ImageSource, files_of, path_of, stem_of
from plainunet.network.card import Card
from plainunet.prediction.drawing import (
    draw_overlay,
    read_key,
    write_mask,
    write_png,
    write_tiff_mask,
)
from plainunet.prediction.geo import Georeference, Tag, draw_contours, nodata_tag, write_polygons
from plainunet.prediction.objects import Object, find_objects
from plainunet.prediction.record import written_outputs


def mask_paths(images: Sequence[ImageSource], out: Path) -> list[Path]:
    """Unique paths of the masks: `<stem>.png`, for a page of a stack `<stem>_<number>.png`.

    Images with equal stems keep their folders, relative to the common folder of all images; if even
    these are equal (`a.jpg` next to `a.png`), the suffix stays in the name: `a.jpg.png`.
    """
    full = absolute_paths(images)
    top = _common_folder(full)
    stems = [stem_of(image) for image in images]
    count = Counter(stems)
    paths = [
        Path(f"{stem}.png") if count[stem] == 1 else image.relative_to(top).with_name(f"{stem}.png")
        for stem, image in zip(stems, full, strict=True)
    ]
    long = [image.relative_to(top).with_name(f"{image.name}.png") for image in full]
    # an image "a.jpg.tif" must not take the name "a.jpg.png" from "a.jpg"
    taken = Counter(paths + long)
    return [
        out / (short if taken[short] == 1 else whole)
        for short, whole in zip(paths, long, strict=True)
    ]


def list_names(images: Sequence[ImageSource]) -> list[str]:
    """Names of images in lists: file names, with folders if two are equal."""
    full = absolute_paths(images)
    top = _common_folder(full)
    count = Counter(image.name for image in full)
    return [
        image.name if count[image.name] == 1 else image.relative_to(top).as_posix()
        for image in full
    ]


def require_apart(
    images: Sequence[ImageSource], paths: Sequence[Path], what: str = "images"
) -> None:
    """Refuse outputs, at `paths`, that would replace images or lie among them."""
    files = {file.resolve() for image in images for file in files_of(image)}
    replaced = [path for path in paths if path.resolve() in files]
    if replaced:
        raise Error(
            f"{replaced[0]}: an output would overwrite one of the {what}. Choose another output "
            "folder."
        )
    folders = {path.parent for path in paths}
    shared = {folder.resolve() for folder in folders} & {file.parent for file in files}
    if shared:
        raise Error(
            f"{min(shared)}: contains the {what}; the next run would take outputs in it for "
            f"{what}. Choose another output folder."
        )


def absolute_paths(images: Sequence[ImageSource]) -> list[Path]:
    """Absolute paths without "..", which would lead out of the output folder."""
    return [Path(os.path.normpath(path_of(image).absolute())) for image in images]


def _common_folder(full: Sequence[Path]) -> Path:
    return Path(os.path.commonpath([image.parent for image in full])) if full else Path()


def find_runs(pixels: NDArray[np.bool_], *, by_columns: bool, first: int = 0) -> NDArray[np.int64]:
    """Find the runs of true pixels in [H, W].

    Pixels are numbered row by row, or column by column if `by_columns`; `first` is the number of
    the first one. Returns [n, 2] int64, start and length of each run, ascending.
    """
    line = pixels.ravel(order="F" if by_columns else "C")
    # pad both ends with False, so that a run may begin or end there
    edges = np.flatnonzero(np.diff(line, prepend=False, append=False)).reshape(-1, 2)
    return np.stack([edges[:, 0] + first, edges[:, 1] - edges[:, 0]], axis=1)


def write_runs(runs: NDArray[np.int64]) -> str:
    """Format runs for Kaggle: start (from 1) and length, separated by spaces."""
    return " ".join(f"{start + 1} {length}" for start, length in runs.tolist())


def coco_counts(runs: NDArray[np.int64], pixels: int) -> list[int]:
    """Convert runs by columns to COCO's uncompressed run-length code.

    Its numbers are the lengths of alternating background and object runs, background first; they
    sum to the number of pixels.
    """
    edges = np.concatenate([[0], np.stack([runs[:, 0], runs.sum(axis=1)], axis=1).ravel()])
    lengths: list[int] = np.diff(edges, append=pixels).tolist()
    return lengths if lengths[-1] else lengths[:-1]


Row = list[Any]
AREAS, COCO = "areas.csv", "coco.json"


class Labelled(NamedTuple):
    """An image's mask and its objects."""

    name: str
    """Name in lists: the file's name, with folders if two images share it."""
    stem: str
    """Unique name of its mask, without suffix."""
    mask: NDArray[np.uint8]
    """[H, W] uint8 class ids."""
    labels: NDArray[np.int32]
    """[H, W] int32, as by `find_objects`."""
    objects: Sequence[Object]


class Table(NamedTuple):
    """A CSV file with zero or more rows per image."""

    file: str
    header: tuple[str, ...]
    rows: Callable[[Labelled, Card], list[Row]]
    """The rows of an image."""


def _areas(labelled: Labelled, card: Card) -> list[Row]:
    counts = np.bincount(labelled.mask.ravel(), minlength=256)
    return area_rows(labelled.name, counts[: len(card.class_names)], card)


def area_rows(name: str, counts: NDArray[np.int64], card: Card) -> list[Row]:
    """Rows of areas.csv for an image: pixels and fraction (0..1) of each class."""
    total = max(int(counts.sum()), 1)
    return [
        [name, class_name, int(count), f"{count / total:.6f}"]
        for class_name, count in zip(card.class_names, counts, strict=False)
    ]


def count_large(path: Path, classes: int) -> NDArray[np.int64]:
    """Count the pixels [K] int64 of each class in the TIFF file of a large mask."""
    counts = np.zeros(256, np.int64)
    with TiffFile(path) as file:
        page = file.pages.first
        for data, (*_, top, left, _), _ in page.segments():
            if data is None:  # an empty tile, which masks do not have
                continue
            part = data[0, : page.imagelength - top, : page.imagewidth - left]
            counts += np.bincount(part.ravel(), minlength=256)
    return counts[:classes]


def _objects(labelled: Labelled, card: Card) -> list[Row]:
    return [
        [labelled.name, each.number, card.class_names[each.class_id], each.area, *each.box]
        + [f"{value:.2f}" for value in each.centroid]
        for each in labelled.objects
    ]


def _codes_by_rows(labelled: Labelled, card: Card) -> list[Row]:
    """One row per image, as in Kaggle's Carvana; with more classes, one per class."""
    ids = range(1, len(card.class_names))
    runs = (find_runs(labelled.mask == class_id, by_columns=False) for class_id in ids)
    codes = [write_runs(each) for each in runs]
    if len(codes) == 1:
        return [[labelled.name, codes[0]]]
    return [[labelled.name, card.class_names[n], code] for n, code in enumerate(codes, 1)]


def _codes_by_columns(labelled: Labelled, card: Card) -> list[Row]:
    """One row per object, as in the Data Science Bowl 2018; an empty one if there is none."""
    several = len(card.class_names) > 2
    rows = []
    for each in labelled.objects:
        code = write_runs(_runs_of(labelled, each))
        named = [card.class_names[each.class_id]] if several else []
        rows.append([labelled.stem, *named, code])
    return rows or [[labelled.stem, *([""] if several else []), ""]]


def _runs_of(labelled: Labelled, each: Object) -> NDArray[np.int64]:
    """The runs of an object, by columns."""
    left, _, across, _ = each.box
    columns = labelled.labels[:, left : left + across] == each.number
    return find_runs(columns, by_columns=True, first=left * len(columns))


def tables(saves: Iterable[str], card: Card) -> list[Table]:
    """The CSV files among the outputs `saves`."""
    several = len(card.class_names) > 2
    box = ("left", "top", "width", "height", "middle_x", "middle_y")
    known = {
        "areas": Table(AREAS, ("image", "class", "pixels", "share"), _areas),
        "instances": Table("instances.csv", ("image", "object", "class", "pixels", *box), _objects),
        "rle-rows": Table(
            "rle-rows.csv", ("img", *(["class"] if several else []), "rle_mask"), _codes_by_rows
        ),
        "rle-columns": Table(
            "rle-columns.csv",
            ("ImageId", *(["class"] if several else []), "EncodedPixels"),
            _codes_by_columns,
        ),
    }
    return [table for name, table in known.items() if name in saves]


def write_table(path: Path, header: Sequence[str], rows: Iterable[Row]) -> None:
    """Write a CSV file."""
    with (
        write_whole(path) as part,
        part.open("w", encoding="utf-8", errors="surrogateescape", newline="") as file,
    ):
        writer = csv.writer(file)
        writer.writerow(header)
        writer.writerows(rows)


def coco_image(labelled: Labelled) -> dict[str, Any]:
    """Describe an image and its objects in COCO format, for `coco_file`.

    Objects are lossless compressed run-length codes.
    """
    height, width = labelled.mask.shape
    annotations = []
    for each in labelled.objects:
        counts = coco_counts(_runs_of(labelled, each), height * width)
        plain = {"size": [height, width], "counts": counts}
        code = coco_mask.frPyObjects(plain, height, width)
        annotations.append(
            {
                "category_id": each.class_id,
                "segmentation": {"size": [height, width], "counts": code["counts"].decode()},
                "area": each.area,
                "bbox": list(each.box),
                "iscrowd": 0,
            }
        )
    image = {"file_name": labelled.name, "height": height, "width": width}
    return {"image": image, "annotations": annotations}


def write_coco(path: Path, images: Sequence[dict[str, Any]], card: Card) -> None:
    """Write a COCO file of images as by `coco_image`."""
    write_json(path, coco_file(images, card))


def coco_file(images: Sequence[dict[str, Any]], card: Card) -> dict[str, Any]:
    """The content of a COCO file of images as by `coco_image`; background is not a category."""
    annotations: list[dict[str, Any]] = []
    for number, image in enumerate(images, 1):
        for annotation in image["annotations"]:
            annotations.append({"id": len(annotations) + 1, "image_id": number, **annotation})
    return {
        "images": [{"id": n, **image["image"]} for n, image in enumerate(images, 1)],
        "annotations": annotations,
        "categories": [
            {"id": number, "name": name}
            for number, name in enumerate(card.class_names)
            if number > 0
        ],
    }


_OF_OBJECTS = ("contours", "instances", "coco", "rle-columns")
_SUFFIXES: dict[Output, str] = {
    "overlay": ".jpg",
    "values": "",
    "contours": ".geojson",
    "gpkg": ".gpkg",
    "instances": "",
    "probabilities": "",
    "probabilities-16": ".tif",
    "probabilities-float": ".tif",
}
"""Suffix of each output with a file per image, in a folder of its name; "": that of the mask."""
_QUALITY = 90  # JPEG quality of overlays
_JPEG_SIDE = 65_500  # longest side of a JPEG [pixels]


class Entries(NamedTuple):
    """The entries of one image in the files that list all images."""

    rows: dict[str, list[Row]]
    """Rows by file name."""
    coco: dict[str, Any] | None
    """As by `coco_image`."""


class Outputs:
    """Writes the requested outputs."""

    def __init__(
        self, folder: Path, saves: Sequence[Output], card: Card, min_area: int = 0
    ) -> None:
        """Set the output folder and the names of outputs; the mask is always written.

        `min_area` is that of `write_polygons`.
        """
        self.folder, self._saves, self._card = folder, tuple(saves), card
        self.min_area = min_area if "gpkg" in saves else None
        """Smallest polygon [pixels]; None if none are written."""
        if self.min_area is not None:
            require_geo(folder)
        elif min_area:
            raise Error("--min-area merges small polygons, so it requires --save gpkg.")
        self._tables = tables(saves, card)
        self._probabilities = [name for name in saves if name.startswith("probabilities")]
        self.lists = [table.file for table in self._tables] + [COCO] * ("coco" in saves)
        """Names of the files that list all images."""
        self.has_probabilities = bool(self._probabilities)
        self.has_overlay = "overlay" in saves
        self.num_classes = len(card.class_names)
        self.beyond_areas = [name for name in saves if name not in ("mask", "areas", "gpkg")]
        """Outputs that need the whole mask in memory."""

    def files(self, mask: Path) -> list[Path]:
        """List the files of an image: its mask and the other outputs."""
        return [mask, *(path for _, path in self._others(mask))]

    def known_files(self, masks: Sequence[Path]) -> list[Path]:
        """List the files of images, also of outputs that only earlier runs wrote, see `record`."""
        written = written_outputs(self.folder) or ()
        saves = [*self._saves, *(each for each in _SUFFIXES if each in written)]
        others = (path for mask in masks for _, path in self._others(mask, saves))
        return [*masks, *others]

    def places(self) -> dict[str, list[Path]]:
        """The folder and the list of each output, if it has them."""
        return {
            name: [
                *([self.folder / name] if name in _SUFFIXES else []),
                *(self.folder / file for file in self.lists if Path(file).stem == name),
            ]
            for name in self._saves
        }

    def write(
        self,
        mask_file: Path,
        name: str,
        image: NDArray[Any] | None,
        mask: NDArray[np.uint8],
        probabilities: dict[str, NDArray[Any]],
        geo: Georeference | None,
        key: str = "",
    ) -> Entries:
        """Write the files of an image. The mask comes last: if it exists, all files do.

        Args:
            mask_file: The file of the mask.
            name: The image's name in lists.
            image: [H, W, C], as stored; only the overlay needs it.
            mask: [H, W] uint8 class ids.
            probabilities: [K, H, W] of each output, as by `quantise`.
            geo: Coordinates of a GeoTIFF.
            key: The model and image that the mask is made from, see `record`.

        Returns:
            The image's entries in the lists.
        """
        self.remove_stale(mask_file, key)
        labelled = self._labelled(mask_file, name, mask)
        tags = geo.tags if geo else []
        for output, path in self._others(mask_file):
            if output == "overlay" and image is not None:
                with write_whole(path) as part:
                    part.write_bytes(encode_jpeg(draw_overlay(image, mask, self._card.colors)))
            elif output == "values":
                values, nodata = self._stored_values(labelled)
                own = [] if nodata is None else [nodata_tag(nodata)]
                _write_values(path, values, [*tags, *own])
            elif output == "contours":
                names = self._card.class_names
                write_json(path, draw_contours(labelled.labels, labelled.objects, names, geo))
            elif output == "gpkg":
                write_polygons(path, mask, self._card.class_names, geo, self.min_area or 0)
            elif output == "instances":
                _write_labels(path, labelled.labels, tags)
            elif output in probabilities:
                self._write_probabilities(path, probabilities[output], tags)
        if mask_file.suffix == ".tif":
            write_tiff_mask(mask_file, mask, self._card.colors, tags, key)
        else:
            write_mask(mask_file, mask, self._card.colors, key)
        return self._entries(labelled)

    def remove_stale(self, mask_file: Path, key: str) -> None:
        """Remove the outputs of an earlier mask with another key that are not written again.

        They would be taken for those of the new mask. Files that no run wrote stay.
        """
        for suffix in (".png", ".tif"):
            earlier = mask_file.with_suffix(suffix)
            known = read_key(earlier) if earlier.is_file() else ""
            if not known or key in (known, known.partition(" ")[0]):
                continue
            for path in {*self.known_files([earlier])} - {*self.files(mask_file)}:
                path.unlink(missing_ok=True)

    def entries(self, mask_file: Path, name: str, mask: NDArray[np.uint8]) -> Entries:
        """Make the list entries of an image whose files exist."""
        return self._entries(self._labelled(mask_file, name, mask))

    def write_large(self, mask_file: Path, missing_only: bool = False) -> None:
        """Write the files of a large image that are made from the file of its mask."""
        for output, path in self._others(mask_file):
            if output == "gpkg" and not (missing_only and path.is_file()):
                write_polygons(path, mask_file, self._card.class_names, None, self.min_area or 0)

    def large_entries(self, name: str, counts: NDArray[np.int64] | None) -> Entries:
        """Make the list entries of a large image from the pixels of each class, if known."""
        if counts is None or "areas" not in self._saves:
            return Entries({}, None)
        return Entries({AREAS: area_rows(name, counts, self._card)}, None)

    def finish(self, entries: Sequence[Entries]) -> None:
        """Write the files that list all images."""
        for table in self._tables:
            rows = [row for each in entries for row in each.rows.get(table.file, [])]
            write_table(self.folder / table.file, table.header, rows)
        if "coco" in self._saves:
            images = [each.coco for each in entries if each.coco]
            write_coco(self.folder / COCO, images, self._card)

    def quantise(self, band: NDArray[np.float32]) -> dict[str, NDArray[Any]]:
        """Convert probabilities [K, n, W] to the dtype of each requested output.

        The dtypes are uint8 (times 255), uint16 (times 65535) and float32; of two classes, only
        the second is kept.
        """
        band = band[1:] if len(band) == 2 else band
        return {name: _quantised(band, name) for name in self._probabilities}

    def _others(
        self, mask: Path, saves: Sequence[Output] | None = None
    ) -> Iterator[tuple[Output, Path]]:
        """The per-image outputs other than the mask, and their paths; by default those to write."""
        below = mask.relative_to(self.folder)
        for output in dict.fromkeys(self._saves if saves is None else saves):
            parts, names = [""], self._card.class_names
            if output == "probabilities" and len(names) > 2:  # of two, only the second is written
                parts = [_folder(name, number) for number, name in enumerate(names)]
            for part in parts if output in _SUFFIXES else ():
                suffix = _SUFFIXES[output] or mask.suffix  # .tif for a GeoTIFF
                yield output, self.folder / output / part / below.with_suffix(suffix)

    def _labelled(self, mask_file: Path, name: str, mask: NDArray[np.uint8]) -> Labelled:
        stem = mask_file.relative_to(self.folder).with_suffix("").as_posix()
        needed = any(output in _OF_OBJECTS for output in self._saves)
        by_object = "values" in self._saves and self._card.masks.get("kind") == "instances"
        if needed or by_object:
            return Labelled(name, stem, mask, *find_objects(mask))
        return Labelled(name, stem, mask, np.zeros((0, 0), np.int32), [])

    def _entries(self, labelled: Labelled) -> Entries:
        if not self.lists:
            return Entries({}, None)
        rows = {table.file: table.rows(labelled, self._card) for table in self._tables}
        return Entries(rows, coco_image(labelled) if "coco" in self._saves else None)

    def _stored_values(self, labelled: Labelled) -> tuple[NDArray[Any], int | None]:
        """A mask in the encoding of the training masks: their values, colours or object numbers.

        Also returns the value (grey level) of missing pixels: the training masks' ignore index,
        else a value that no class has; None for objects, where they are 0 like background.
        """
        masks = self._card.masks
        if masks.get("kind") == "instances":
            return labelled.labels.astype(np.uint16), None
        stored = masks["colors"] if masks.get("kind") == "colors" else masks.get("values")
        values = np.array(stored or range(self.num_classes))
        dtype = np.dtype(np.uint8 if values.max() < 256 else np.uint16)
        ignored = masks.get("ignore")
        if ignored is None or ignored >= 256**dtype.itemsize:
            channels = values.reshape(len(values), -1)
            ignored = next(v for v in range(255, -1, -1) if not (channels == v).all(axis=1).any())
        table = np.full((256, *values.shape[1:]), ignored, dtype)
        table[: len(values)] = values
        return table[labelled.mask], ignored

    def _write_probabilities(
        self, path: Path, probabilities: NDArray[Any], tags: Sequence[Tag]
    ) -> None:
        if len(probabilities) == 1:
            _write_values(path, probabilities[0], tags)
        elif probabilities.dtype == np.uint8:  # the folder's name begins with the class id
            folder = path.relative_to(self.folder).parts[1]
            _write_values(path, probabilities[int(folder.split("-")[0])], tags)
        else:
            _write_values(path, probabilities, tags)


def _quantised(band: NDArray[np.float32], output: str) -> NDArray[Any]:
    if output == "probabilities-float":
        return band
    dtype = np.uint16 if output == "probabilities-16" else np.uint8
    return np.round(band * np.iinfo(dtype).max).astype(dtype)


def _write_values(path: Path, values: NDArray[Any], tags: Sequence[Tag]) -> None:
    """Write values as PNG, or as TIFF with GeoTIFF tags."""
    if path.suffix == ".png":
        write_png(path, values)
        return
    with write_whole(path) as part:
        write_tiff_values(part, values, tags)


def write_tiff_values(
    file: Path | BinaryIO, values: NDArray[Any], tags: Sequence[Tag] = ()
) -> None:
    """Write values [H, W], [K, H, W] or RGB [H, W, 3] uint8 as TIFF with further tags."""
    kind = "rgb" if values.dtype == np.uint8 and values.shape[-1] == 3 else "minisblack"
    imwrite(file, values, photometric=kind, compression="zlib", metadata=None, extratags=list(tags))


def _folder(name: str, number: int) -> str:
    return f"{number}-{re.sub(r'[^0-9A-Za-z_-]+', '_', name)}"


def _write_labels(path: Path, labels: NDArray[np.int32], tags: Sequence[Tag]) -> None:
    if labels.max(initial=0) > np.iinfo(np.uint16).max:
        raise Error(
            f"{path}: {labels.max()} objects exceed the 65,535 that a 16-bit image can number. "
            "Remove small ones with --min-object, or do not save instances."
        )
    _write_values(path, labels.astype(np.uint16), tags)


def encode_jpeg(image: NDArray[np.uint8]) -> bytes:
    """Encode an image [H, W, 3] uint8, such as an overlay, as JPEG; reduced if JPEG needs it."""
    size = fit_size((image.shape[0], image.shape[1]), (_JPEG_SIDE, _JPEG_SIDE))
    shown = resize(image, size)[..., ::-1]
    _, data = cv2.imencode(".jpg", shown, [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])
    return data.tobytes()
