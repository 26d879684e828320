import json
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco_mask

from plainunet.formats import coco
from plainunet.formats.coco import Labelled, paint_ids, read_outline
from plainunet.formats.masks import mask_size, read_mask, stored_names
from plainunet.formats.sources import CocoImage

NAMES = ("background", "cell", "wall", "dust")
STRIP = [(0, 0, 12, 20, 1), (12, 0, 20, 20, 2)]


def box(left: float, top: float, right: float, bottom: float) -> list[float]:
    return [left, top, right, top, right, bottom, left, bottom]


def paint(size: tuple[int, int], *objects: tuple[int, Any]) -> np.ndarray:
    labelled = [
        Labelled(f"annotation {n}", class_id, read_outline(raw, *size))
        for n, (class_id, raw) in enumerate(objects)
    ]
    return paint_ids(labelled, *size, NAMES)


def run_lengths(mask: np.ndarray) -> list[int]:
    """Column by column, the first run outside; written without pycocotools."""
    counts, inside = [0], False
    for pixel in mask.T.ravel().tolist():
        if pixel != inside:
            counts.append(0)
            inside = pixel
        counts[-1] += 1
    return counts


@settings(max_examples=60, deadline=None)
@given(
    st.tuples(st.integers(1, 40), st.integers(1, 40)), st.floats(0, 1), st.integers(0, 2**32 - 1)
)
def test_run_lengths_are_read_back(size: tuple[int, int], share: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    # runs of all lengths: noise on a few long stripes
    mask = (rng.random(size) < share) ^ (np.arange(size[1]) // 7 % 2 == 1)
    compressed = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))["counts"].decode()
    for counts in (run_lengths(mask), compressed):
        ids = paint(size, (2, {"size": list(size), "counts": counts}))
        assert ids.dtype == np.uint8
        assert ids.shape == size
        assert (ids == 2 * mask).all()


def test_long_run_lengths_are_read_back() -> None:
    mask = np.zeros((3000, 2000), bool)
    mask[100:2900, 50] = mask[5, 1000:] = mask[-1, -1] = True
    code = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))["counts"].decode()
    assert (paint(mask.shape, (1, {"size": [3000, 2000], "counts": code})) == mask).all()


@pytest.mark.parametrize(
    ("objects", "painted"),
    [
        # a rectangle covers the pixels between its corners; another polygon of it, to the edge
        ([(1, [box(10, 5, 20, 15), box(25, 0, 30, 4)])], [(10, 5, 20, 15, 1), (25, 0, 30, 4, 1)]),
        # outside of the image it is cut off
        ([(1, [box(20, -8, 44, 5)])], [(20, 0, 30, 5, 1)]),
        # objects of one class may overlap
        ([(1, [box(0, 0, 20, 10)]), (1, [box(10, 0, 30, 10)])], [(0, 0, 30, 10, 1)]),
        # of neighbours that share an outline, the smaller lies on top, whatever their order
        ([(1, [box(0, 0, 14, 20)]), (2, [box(12, 0, 20, 20)])], STRIP),
        ([(2, [box(12, 0, 20, 20)]), (1, [box(0, 0, 14, 20)])], STRIP),
        # of equals, the later
        (
            [(1, [box(0, 0, 10, 20)]), (2, [box(8, 0, 18, 20)])],
            [(0, 0, 8, 20, 1), (8, 0, 18, 20, 2)],
        ),
        # a background that is outlined
        ([(0, [box(0, 0, 20, 20)])], []),
    ],
)
def test_objects_are_painted(
    objects: list[tuple[int, Any]], painted: list[tuple[int, int, int, int, int]]
) -> None:
    expected = np.zeros((20, 30), np.uint8)
    for left, top, right, bottom, class_id in painted:
        expected[top:bottom, left:right] = class_id
    np.testing.assert_array_equal(paint((20, 30), *objects), expected)


def test_a_polygon_is_filled_as_its_outline_says() -> None:
    y, x = np.mgrid[:100, :100] + 0.5
    distance = abs(x - 50) + abs(y - 50)
    ids = paint((100, 100), (3, [[50, 5, 95, 50, 50, 95, 5, 50]]))
    assert abs(int((ids == 3).sum()) - 2 * 45**2) < 100  # 180 pixels lie on the outline
    assert (ids[distance < 43.5] == 3).all()
    assert not ids[distance > 46.5].any()


@pytest.mark.parametrize(
    ("objects", "message"),
    [
        (
            [(1, [box(0, 0, 10, 6)]), (2, [box(0, 0, 100, 50)])],
            r"1\.2% .* 60 .*'cell' .*'wall'",
        ),
        (
            [(1, [box(0, 0, 50, 50)]), (2, [box(40, 0, 90, 50)]), (3, [box(10, 40, 20, 60)])],
            r"13\.0% .* 500 .*'cell' .*'wall'",
        ),
        ([(0, [box(0, 0, 20, 20)]), (1, [box(0, 0, 9, 9)])], "'background' .*'cell'"),
    ],
)
def test_classes_that_overlap_are_refused_with_those_most_involved(
    objects: list[tuple[int, Any]], message: str
) -> None:
    """Up to a hundredth may: the smaller lies on top."""
    with pytest.raises(ValueError, match=message):
        paint((100, 100), *objects)
    assert (paint((100, 100), (2, [box(0, 0, 100, 50)]), (1, [box(0, 0, 10, 5)])) == 1).sum() == 50


@pytest.mark.parametrize(
    ("raw", "problem"),
    [
        ([[1, 2, 3, 4]], r"\b4\b"),
        ([[1, 2, 3, 4, 5, 6, 7]], r"\b7\b"),
        ([[]], r"\b0\b"),
        ([1, 2, 3, 4, 5, 6], "polygons"),
        ([["1", "2", "3", "4", "5", "6"]], "polygons"),
        ([[1, 2, 3, 4, 5, None]], "polygons"),
        ([[[1, 2], [3, 4], [5, 6]]], "polygons"),
        ([[1, 2, 3, [4, 5], 6, 7]], "polygons"),
        ([[1, 2, 3, 4, 5, 10**400]], "polygons"),
        ("outline", "polygons"),
        (7, "polygons"),
        ([[1, 2, 3, 4, 5, float("nan")]], r"\bnan\b"),
        ([[1, 2, 3, 4, 5, float("inf")]], r"\binf\b"),
        ([[1, 2, 3, 4, 5, 1e300]], r"\b1e\+300\b"),
        ([box(-1e9, 0, 5, 5)], " -1e"),
        ([box(31, 0, 35, 5)], "31 .*35"),
        ([box(0, -9, 5, -2)], "-9 .*-2"),
        ({"size": [30, 20], "counts": [600]}, r"\[30, 20\].*\[20, 30\]"),
        ({"counts": [600]}, "None"),
        ({"size": "big", "counts": [600]}, "'big'"),
        ({"size": [20, 30]}, "integers"),
        ({"size": [20, 30], "counts": [1.5, 2]}, "integers"),
        ({"size": [20, 30], "counts": "ü"}, "integers"),
        ({"size": [20, 30], "counts": []}, "integers"),
        ({"size": [20, 30], "counts": [100, 20]}, r"\b120\b.*\b600\b"),
        ({"size": [20, 30], "counts": [700, -100]}, r"\b0\b"),
        ({"size": [20, 30], "counts": [2**62, 2**62, 2**62, 2**62, 600]}, r"\b0\b"),
        ({"size": [20, 30], "counts": ""}, "compressed"),
        ({"size": [20, 30], "counts": "a b"}, "compressed"),
        ({"size": [20, 30], "counts": "PPPo"}, "compressed"),
        ({"size": [20, 30], "counts": "o" * 100 + "0"}, "compressed"),
    ],
)
def test_a_wrong_outline_is_refused(raw: Any, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        paint((20, 30), (1, raw))


@settings(max_examples=200, deadline=None)
@given(st.text(st.characters(min_codepoint=40, max_codepoint=120), max_size=60))
def test_any_text_is_read_or_refused(code: str) -> None:
    try:
        ids = paint((20, 30), (1, {"size": [20, 30], "counts": code}))
    except ValueError:
        return
    again = coco_mask.decode({"size": [20, 30], "counts": code.encode()})
    assert (ids == again).all()


BOX = [[2, 1, 6, 1, 6, 5, 2, 5]]


def content(**changes: Any) -> dict[str, Any]:
    """Two images of 10 x 12 with a cell and a wall on the first."""
    code = np.zeros((10, 12), np.uint8, order="F")
    code[6:9, 3:11] = 1
    compressed = coco_mask.encode(code)["counts"].decode()
    return {
        "images": [
            {"id": 7, "file_name": "a.jpg", "height": 10, "width": 12},
            {"id": 3, "file_name": "b/c.jpg", "height": 10, "width": 12},
        ],
        "annotations": [
            {"id": 1, "image_id": 7, "category_id": 20, "segmentation": BOX, "iscrowd": 1},
            {
                "id": 2,
                "image_id": 7,
                "category_id": 4,
                "segmentation": {"size": [10, 12], "counts": compressed},
            },
        ],
        "categories": [{"id": 20, "name": "cell"}, {"id": 4, "name": "wall"}],
    } | changes


def write(tmp_path: Path, raw: Any = None, name: str = "set.json") -> Path:
    file = tmp_path / name
    file.write_text(json.dumps(content() if raw is None else raw))
    return file


def read(file: Path, item: int) -> np.ndarray:
    return coco.read_ids(CocoImage(file, item))


def test_categories_become_classes_in_the_order_of_their_ids(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    file = write(tmp_path)
    assert coco.is_coco(file)
    first, second = CocoImage(file, 7), CocoImage(file, 3)
    assert coco.listed_images(file) == {"a.jpg": first, "b/c.jpg": second}
    assert coco.class_names(file) == stored_names(first) == ("background", "wall", "cell")
    expected = np.zeros((10, 12), np.uint8)
    expected[1:5, 2:6] = 2
    expected[6:9, 3:11] = 1
    assert read_mask(first).dtype == np.uint8
    assert (read_mask(first) == expected).all()
    assert not read_mask(second).any()
    assert mask_size(second) == (10, 12)
    assert capfd.readouterr() == ("", "")  # pycocotools prints


def test_whole_numbers_may_be_written_with_a_point(tmp_path: Path) -> None:
    raw = content()
    raw["images"][0] |= {"id": 7.0, "height": 10.0}
    raw["annotations"][0]["category_id"] = 20.0
    assert (read(write(tmp_path, raw), 7) > 0).sum() == 40


def test_a_changed_file_is_read_anew(tmp_path: Path) -> None:
    assert (read(write(tmp_path), 7) > 0).sum() == 40
    assert not read(write(tmp_path, content(annotations=[])), 7).any()
    file = write(tmp_path)
    raw = file.read_text().replace('"wall"', '"path"')  # as long as before
    file.write_text(raw)
    os.utime(file, ns=(1, 1))
    assert coco.class_names(file)[1] == "path"
    file.write_text(raw.replace('"path"', '"road"'))
    os.utime(file, ns=(1, 2))
    assert coco.class_names(file)[1] == "road"


def test_several_threads_read_one_file(tmp_path: Path) -> None:
    file = write(tmp_path)
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(lambda _: int((read(file, 7) > 0).sum()), range(8))) == [40] * 8


@pytest.mark.parametrize("name", ["background", "_background_", "__Background__", "BG"])
def test_a_category_called_background_is_class_0(tmp_path: Path, name: str) -> None:
    raw = content()
    raw["categories"].append({"id": 5, "name": name})
    raw["annotations"].append(
        {"image_id": 7, "category_id": 5, "segmentation": [[8, 0, 12, 0, 12, 3, 8, 3]]}
    )
    file = write(tmp_path, raw)
    assert coco.class_names(file) == ("background", "wall", "cell")
    assert set(np.unique(read(file, 7))) == {0, 1, 2}
    assert (read(file, 7) > 0).sum() == 40


def test_the_root_entry_of_roboflow_is_left_out(tmp_path: Path) -> None:
    categories = [
        {"id": 0, "name": "wall", "supercategory": "none"},
        {"id": 4, "name": "wall", "supercategory": "wall"},
        {"id": 20, "name": "cell", "supercategory": "wall"},
    ]
    raw = content(categories=categories)
    assert coco.class_names(write(tmp_path, raw)) == ("background", "wall", "cell")
    categories[0]["name"] = "things"  # nobody's supercategory
    assert coco.class_names(write(tmp_path, raw)) == ("background", "things", "wall", "cell")
    categories[0] |= {"name": "wall"}
    raw["annotations"][0]["category_id"] = 0  # used
    with pytest.raises(ValueError, match=r"categories.*: wall"):
        coco.class_names(write(tmp_path, raw))


def test_as_many_classes_as_there_are_numbers_for(tmp_path: Path) -> None:
    many = [{"id": n, "name": f"c{n}"} for n in range(1, 256)]
    raw = content(categories=many[:254])
    assert len(coco.class_names(write(tmp_path, raw))) == 255
    with pytest.raises(ValueError, match=r"\b256\b.*\b255\b"):
        coco.class_names(write(tmp_path, content(categories=many)))


@pytest.mark.parametrize("raw", [{}, [], 7, None, {"images": []}, content(images={})])
def test_another_json_is_not_a_coco_file(tmp_path: Path, raw: Any) -> None:
    file = tmp_path / "other.json"
    file.write_text(json.dumps(raw))
    assert not coco.is_coco(file)
    with pytest.raises(ValueError, match=r"other\.json .*--masks"):
        coco.listed_images(file)


def test_other_suffixes_are_not_opened(tmp_path: Path) -> None:
    assert not coco.is_coco(tmp_path / "there is none.csv")
    with pytest.raises(FileNotFoundError):
        coco.is_coco(tmp_path / "there is none.json")


@pytest.mark.parametrize(
    "damage", [lambda b: b[: len(b) // 2], lambda b: b"", lambda b: b"\xff" * 9]
)
def test_a_damaged_file_is_refused_when_it_is_read(
    tmp_path: Path, damage: Callable[[bytes], bytes]
) -> None:
    file = write(tmp_path)
    file.write_bytes(damage(file.read_bytes()))
    assert not coco.is_coco(file)
    with pytest.raises(ValueError, match=rf"set\.json .*\b{file.stat().st_size} bytes"):
        coco.class_names(file)


@pytest.mark.parametrize(
    "start", ['"images" "annotations" "categories"', '{"images": "annotations", "categories":']
)
def test_nesting_without_end_is_refused(tmp_path: Path, start: str) -> None:
    (tmp_path / "set.json").write_text(start + "[" * 200_000)
    assert not coco.is_coco(tmp_path / "set.json")


def image(**changes: Any) -> dict[str, Any]:
    return {"images": [*content()["images"], content()["images"][0] | {"id": 8} | changes]}


def annotation(**changes: Any) -> dict[str, Any]:
    return {"annotations": [content()["annotations"][0] | changes]}


def category(**changes: Any) -> dict[str, Any]:
    return {"categories": [*content()["categories"], {"id": 6, "name": "dust"} | changes]}


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        (image(), "a.jpg"),
        (image(id=7, file_name="x.jpg"), "x.jpg .*id 7"),
        (image(id=None, file_name="x.jpg"), "x.jpg .*id None"),
        (image(id=True, file_name="x.jpg"), "x.jpg .*id True"),
        (image(file_name=None), "3 .*file_name"),
        (image(file_name="x.jpg", height=None), "x.jpg .*height None"),
        (image(file_name="x.jpg", width=0), "width 0"),
        (image(file_name="x.jpg", width=-5), "width -5"),
        (image(file_name="x.jpg", width=float("nan")), "width nan"),
        (image(file_name="x.jpg", width=float("inf")), "width inf"),
        (image(file_name="x.jpg", width=10**9), "10000000000"),
        ({"images": [7]}, r"\b1\b"),
        (annotation(image_id=99), "1 .*image_id 99"),
        (annotation(image_id=None), "image_id None"),
        (annotation(image_id=[7]), r"image_id \[7\]"),
        (annotation(category_id=99), "1 .*category_id 99"),
        (annotation(category_id=None), "category_id None"),
        (annotation(segmentation=[[1, 2, 3]]), "1 .*polygon.* 3 "),
        (annotation(segmentation=7), "1 .*segmentation"),
        ({"annotations": ["x"]}, r"\b1\b"),
        (category(id=20), "20.*category"),
        (category(id="6"), "category"),
        (category(name=""), "category"),
        (category(name=None), "category"),
        (category(name="wall "), "categories.*: wall"),
        ({"categories": ["wall"]}, "category"),
        ({"categories": []}, r"\b1\b"),
    ],
)
def test_a_wrong_entry_is_named(tmp_path: Path, changes: dict[str, Any], problem: str) -> None:
    file = write(tmp_path, content(**changes))
    assert coco.is_coco(file)
    for _ in range(2):  # from the file, and as it was kept
        with pytest.raises(ValueError, match=rf"set\.json.*{problem}"):
            coco.listed_images(file)


def test_wrong_entries_are_counted(tmp_path: Path) -> None:
    wrong = [content()["annotations"][0] | {"id": n, "image_id": 99} for n in range(7)]
    with pytest.raises(ValueError, match=r"\b7\b.*annotation 0 .*annotation 4 .*\b2\b"):
        coco.listed_images(write(tmp_path, content(annotations=wrong)))


@pytest.mark.parametrize("none", [{}, {"segmentation": []}, {"segmentation": None}])
def test_boxes_are_not_polygons(tmp_path: Path, none: dict[str, Any]) -> None:
    bare = {"id": 9, "image_id": 3, "category_id": 4, "bbox": [1, 1, 5, 5]} | none
    raw = content(annotations=[*content()["annotations"], bare, bare])
    with pytest.raises(ValueError, match=r"2 .*4 .*1 .*2 .*b/c\.jpg"):
        coco.listed_images(write(tmp_path, raw))


def test_what_cannot_be_painted_names_file_image_and_annotation(tmp_path: Path) -> None:
    raw = content(**annotation(segmentation=[[1, 2, 3, 4, 5, float("nan")]]))
    with pytest.raises(ValueError, match=r"set\.json\[7\] .*a\.jpg.* 1 .*\bnan\b"):
        read(write(tmp_path, raw), 7)
    raw = content()
    raw["annotations"][1]["segmentation"] = [[0, 0, 9, 0, 9, 9, 0, 9]]
    with pytest.raises(ValueError, match=r"set\.json\[7\] .*a\.jpg.*19\.8% .*'wall' .*'cell'"):
        read(write(tmp_path, raw), 7)


def test_an_image_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"2 .*set\.json .*\b8\b"):
        read(write(tmp_path), 8)
