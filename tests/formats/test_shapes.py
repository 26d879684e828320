"""Shapes drawn on an image, as labelme and Supervisely write them, become class ids."""

import base64
import json
import zlib
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from plainunet.formats.masks import mask_size, read_mask, stored_names
from plainunet.formats.problems import DataError
from plainunet.formats.shapes import class_names, is_shapes
from plainunet.formats.sources import Shapes

CLASSES = ("background", "cat", "dog")


def labelme(folder: Path, *shapes: tuple[str, str, list[tuple[float, float]]]) -> Shapes:
    drawn = [{"label": a, "shape_type": kind, "points": points} for a, kind, points in shapes]
    raw = {"shapes": drawn, "imagePath": "7.jpg", "imageHeight": 20, "imageWidth": 30}
    return write(folder / "7.json", raw)


def write(file: Path, raw: Any) -> Shapes:
    file.write_text(json.dumps(raw))
    return Shapes(file, CLASSES)


def png(values: Any) -> bytes:
    data = BytesIO()
    Image.fromarray(np.asarray(values, np.uint8) * 255).save(data, "PNG")
    return data.getvalue()


def test_later_shapes_cover_earlier_ones(tmp_path: Path) -> None:
    source = labelme(
        tmp_path,
        ("dog", "rectangle", [(9, 9), (0, 0)]),
        ("cat", "polygon", [(4, 4), (12, 4), (12, 8), (4, 8)]),
        ("_background_", "rectangle", [(1, 1), (2, 2)]),
        ("__ignore__", "rectangle", [(20, 0), (20, 1)]),
    )
    ids = read_mask(source)
    assert mask_size(source) == ids.shape == (20, 30)
    assert stored_names(source) == CLASSES
    assert np.bincount(ids.ravel(), minlength=256)[[1, 2, 255]].tolist() == [45, 100 - 30 - 4, 2]
    assert ids[1, 1] == 0


@pytest.mark.parametrize("kind", ["rotation", "rectangle", "quadrilateral", "polygon"])
def test_areas_of_four_corners(tmp_path: Path, kind: str) -> None:
    """X-AnyLabeling's rectangles have four corners too."""
    ids = read_mask(labelme(tmp_path, ("cat", kind, [(4, 4), (12, 4), (12, 8), (4, 8)])))
    assert ids[4:9, 4:13].all()
    assert ids.sum() == 45


def test_circles_lines_and_points(tmp_path: Path) -> None:
    for kind, points, area in (
        ("circle", [(15, 10), (15, 15)], np.pi * 5.5**2),
        ("point", [(15, 10)], np.pi * 5.5**2),
        ("line", [(0, 10), (29, 10)], 300),
        ("linestrip", [(0, 10), (15, 10), (29, 10)], 300),
    ):
        found = int((read_mask(labelme(tmp_path, ("cat", kind, points))) == 1).sum())  # type: ignore[arg-type]
        assert found == pytest.approx(area, rel=0.1)


def test_bitmaps(tmp_path: Path) -> None:
    stamp = np.array([[1, 0], [1, 1]])
    text = base64.b64encode(png(stamp)).decode()
    shape = {"label": "cat", "shape_type": "mask", "points": [[3, 4], [4, 5]], "mask": text}
    raw = {"shapes": [shape], "imagePath": "7.jpg", "imageHeight": 20, "imageWidth": 30}
    assert (read_mask(write(tmp_path / "a.json", raw))[4:6, 3:5] == stamp).all()
    packed = base64.b64encode(zlib.compress(png(stamp))).decode()
    drawn = {"classTitle": "dog", "bitmap": {"origin": [3, 4], "data": packed}}
    raw = {"size": {"height": 20, "width": 30}, "objects": [drawn]}
    ids = read_mask(write(tmp_path / "b.json", raw))
    assert (ids[4:6, 3:5] == 2 * stamp).all()
    assert ids.sum() == 6


@pytest.mark.parametrize("name", ["Background", "bg"])
def test_a_label_that_means_background_is_class_0(tmp_path: Path, name: str) -> None:
    shapes = (("cat", "rectangle", [(0, 0), (9, 9)]), (name, "rectangle", [(2, 2), (4, 4)]))
    source = labelme(tmp_path, *shapes)
    assert class_names([source.file]) == ("background", "cat")
    ids = read_mask(replace(source, classes=("background", "cat")))
    assert (ids[0, 0], ids[3, 3]) == (1, 0)


def test_classes_are_sorted_or_as_the_project_lists_them(tmp_path: Path) -> None:
    file = labelme(
        tmp_path, ("dog", "point", [(1, 1)]), ("cat", "point", [(1, 1)]), ("_background_", "", [])
    ).file
    with pytest.raises(DataError):
        class_names([file])
    file = labelme(tmp_path, ("dog", "point", [(1, 1)]), ("cat", "point", [(1, 1)])).file
    assert class_names([file]) == ("background", "cat", "dog")
    (tmp_path / "meta.json").write_text('{"classes": [{"title": "dog"}, {"title": "cat"}]}')
    assert class_names([file]) == ("background", "dog", "cat")


@pytest.mark.parametrize(
    "raw",
    [
        {"shapes": [], "imagePath": ""},
        {"shapes": [{}], "imagePath": "", "imageHeight": 2, "imageWidth": 2},
        {"shapes": [], "imagePath": "", "imageHeight": 10**9, "imageWidth": 10**9},
        {"shapes": [], "imagePath": "", "imageHeight": 0, "imageWidth": 2},
        {"objects": 3, "size": {"height": 2, "width": 2}},
        [],
    ],
)
def test_files_that_are_damaged(tmp_path: Path, raw: Any) -> None:
    with pytest.raises(DataError) as raised:
        read_mask(write(tmp_path / "a.json", raw))
    assert raised.value.code in ("damaged", "too-large")


@pytest.mark.parametrize(
    "points", [[(0, 0), (1e9, 0), (0, 1)], [(0, 0), (float("nan"), 0), (0, 1)], [(0, 0), (1, 1)]]
)
def test_shapes_that_cannot_be_painted(tmp_path: Path, points: list[tuple[float, float]]) -> None:
    with pytest.raises(DataError, match=r"\b1\b"):
        read_mask(labelme(tmp_path, ("cat", "polygon", points)))
    with pytest.raises(DataError, match="'cow'"):
        read_mask(labelme(tmp_path, ("cow", "point", [(1, 1)])))


def test_what_is_no_such_file(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"images": [], "annotations": [], "categories": []}')
    assert not is_shapes(tmp_path / "a.json")
    assert not is_shapes(tmp_path / "gone.json")
    assert is_shapes(labelme(tmp_path).file)
