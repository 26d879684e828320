"""Files that say something of all pictures: COCO, run-length codes, areas, objects.

In: the mask of one picture after the other. Out: one file for all of them.
"""

import csv
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask  # type: ignore[import-untyped]

from plainunet.files import write_json, write_whole
from plainunet.network.checkpoint import Card
from plainunet.prediction.objects import Object
from plainunet.prediction.outputs.runs import coco_counts, find_runs, write_runs

Row = list[Any]

AREAS, COCO = "areas.csv", "coco.json"


class Labelled(NamedTuple):
    """A picture's mask and its objects."""

    name: str
    """What lists call the picture: its file's name, with folders where two share it."""
    stem: str
    """The name of its mask, without the suffix; of no two pictures the same."""
    mask: NDArray[np.uint8]
    """[H, W] uint8 class ids."""
    labels: NDArray[np.int32]
    """[H, W] int32, as by `find_objects`."""
    objects: Sequence[Object]
    """The objects."""


class Table(NamedTuple):
    """A CSV file of which each picture gives some lines."""

    file: str
    """Its name."""
    header: tuple[str, ...]
    """Names of its columns."""
    rows: Callable[[Labelled, Card], list[Row]]
    """The lines of a picture."""


def _areas(picture: Labelled, card: Card) -> list[Row]:
    counts = np.bincount(picture.mask.ravel(), minlength=len(card.class_names))
    return area_rows(picture.name, counts, card)


def area_rows(name: str, counts: NDArray[np.int64], card: Card) -> list[Row]:
    """Make the lines of areas.csv for a picture.

    Args:
        name: What lists call the picture.
        counts: [K] int64, pixels of each class.
        card: The classes.

    Returns:
        A line for each class: picture, class, pixels, share of the picture (0..1).
    """
    total = int(counts.sum())
    return [
        [name, class_name, int(count), f"{count / total:.6f}"]
        for class_name, count in zip(card.class_names, counts, strict=False)
    ]


def _objects(picture: Labelled, card: Card) -> list[Row]:
    return [
        [picture.name, each.number, card.class_names[each.class_id], each.area, *each.box]
        + [f"{value:.2f}" for value in each.middle]
        for each in picture.objects
    ]


def _codes_by_rows(picture: Labelled, card: Card) -> list[Row]:
    """One line for each picture, as of Carvana; with more classes, one for each."""
    ids = range(1, len(card.class_names))
    runs = (find_runs(picture.mask == class_id, by_columns=False) for class_id in ids)
    codes = [write_runs(each) for each in runs]
    if len(codes) == 1:
        return [[picture.name, codes[0]]]
    return [[picture.name, card.class_names[n], code] for n, code in enumerate(codes, 1)]


def _codes_by_columns(picture: Labelled, card: Card) -> list[Row]:
    """One line for each object, as of the Data Science Bowl 2018; one for a picture without."""
    several = len(card.class_names) > 2
    rows = []
    for each in picture.objects:
        code = write_runs(_runs_of(picture, each))
        named = [card.class_names[each.class_id]] if several else []
        rows.append([picture.stem, *named, code])
    return rows or [[picture.stem, *([""] if several else []), ""]]


def _runs_of(picture: Labelled, each: Object) -> NDArray[np.int64]:
    """The runs of an object, column by column."""
    left, _, across, _ = each.box
    columns = picture.labels[:, left : left + across] == each.number
    return find_runs(columns, by_columns=True, first=left * len(columns))


def tables(saves: Iterable[str], card: Card) -> list[Table]:
    """List the CSV files that are asked for.

    Args:
        saves: Names of outputs.
        card: The classes.

    Returns:
        Those of them that are CSV files.
    """
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
    """Write a CSV file.

    Args:
        path: The file to write.
        header: Names of its columns.
        rows: Its lines.
    """
    with write_whole(path) as part, part.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        writer.writerows(rows)


def coco_image(picture: Labelled) -> dict[str, Any]:
    """Describe a picture and its objects as COCO does.

    Args:
        picture: The picture.

    Returns:
        `image` and `annotations`, of which `write_coco` makes a file; objects are compressed
        run-length codes, which keep every pixel.
    """
    height, width = picture.mask.shape
    annotations = []
    for each in picture.objects:
        counts = coco_counts(_runs_of(picture, each), height * width)
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
    image = {"file_name": picture.name, "height": height, "width": width}
    return {"image": image, "annotations": annotations}


def write_coco(path: Path, pictures: Sequence[dict[str, Any]], card: Card) -> None:
    """Write a COCO file.

    Args:
        path: The file to write.
        pictures: What `coco_image` says of each.
        card: The classes; the background is no category.
    """
    annotations: list[dict[str, Any]] = []
    for number, picture in enumerate(pictures, 1):
        for annotation in picture["annotations"]:
            annotations.append({"id": len(annotations) + 1, "image_id": number, **annotation})
    content = {
        "images": [{"id": n, **picture["image"]} for n, picture in enumerate(pictures, 1)],
        "annotations": annotations,
        "categories": [
            {"id": number, "name": name}
            for number, name in enumerate(card.class_names)
            if number > 0
        ],
    }
    write_json(path, content)
