import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from PIL import Image

from plainunet.dataset.classes import understand_masks
from plainunet.formats.masks import (
    class_file_names,
    mask_size,
    read_class_files,
    read_mask,
    stored_names,
)
from plainunet.formats.problems import DataError
from plainunet.formats.sources import HERE, ClassFiles, parse_source


def save(path: Path, values: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.array(values)).save(path)
    return path


def grey(*rows: list[int], dtype: Any = np.uint8) -> NDArray[Any]:
    return np.array(rows, dtype)


# reading


@given(
    ids=hnp.arrays(np.uint8, (5, 7), elements=st.integers(0, 3)),
    inside=st.sampled_from([1, 255, 7, 65535]),
)
def test_what_is_cut_into_classes_is_joined_again(
    ids: NDArray[np.uint8], inside: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("classes")
    dtype = np.uint16 if inside > 255 else np.uint8
    for number, name in enumerate(("road", "car", "bike"), 1):
        if number == 1 or (ids == number).any():
            save(folder / name / "7.png", (ids == number).astype(dtype) * dtype(inside))
    path = parse_source(folder / "{road,car,bike}" / "7.png")
    found = read_mask(path)
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, ids)
    assert mask_size(path) == (5, 7)
    assert stored_names(path) == ("background", "road", "car", "bike")


def test_masks_are_understood_over_braces(tmp_path: Path) -> None:
    save(tmp_path / "1_a.png", grey([255, 0], [0, 0]))
    save(tmp_path / "1_b.png", grey([0, 1], [0, 0]))
    save(tmp_path / "2_b.png", np.array([[True, True], [False, False]]))
    paths = [parse_source(tmp_path / "1_{a,b}.png"), parse_source(tmp_path / "2_{a,b}.png")]
    coding, pixels = understand_masks(paths, num_classes=3)
    assert pixels.tolist() == [4, 1, 3]
    assert [coding.read(path).tolist() for path in paths] == [[[1, 2], [0, 0]], [[2, 2], [0, 0]]]


def test_where_a_background_is_given_the_rest_is_ignored(tmp_path: Path) -> None:
    save(tmp_path / "1_car.png", grey([255, 0, 0]))
    save(tmp_path / "1_Background.png", grey([0, 255, 0]))
    for classes in ("car,Background", "Background,car"):
        path = parse_source(tmp_path / f"1_{{{classes}}}.png")
        assert read_mask(path).tolist() == [[1, 0, 255]]
        assert stored_names(path) == ("Background", "car")
    save(tmp_path / "2_car.png", grey([255, 0, 0]))
    assert read_mask(parse_source(tmp_path / "2_{car,Background}.png")).tolist() == [[1, 255, 255]]


def test_smoothed_edges_are_cut_at_128(tmp_path: Path) -> None:
    save(tmp_path / "1_a.png", grey([0, 3, 127, 128, 250, 255, 255]))
    save(tmp_path / "1_b.png", grey([0, 0, 0, 0, 0, 0, 0]))
    save(tmp_path / "2_a.png", grey([0, 300, 1], dtype=np.uint16))
    assert read_mask(parse_source(tmp_path / "1_{a,b}.png")).tolist() == [[0, 0, 0, 1, 1, 1, 1]]
    assert read_mask(parse_source(tmp_path / "2_{a,b}.png")).tolist() == [[0, 1, 1]]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (grey([0, 1, 2, 3]), "a.png holds 4 values from 0 to 3, but is to show one class only"),
        (grey([0, 60, 120, 180, 240]), "a.png holds 5 values from 0 to 240"),
        (grey([0, 1, 255]), "a.png holds 3 values from 0 to 255"),
        (grey([1, 2]), "a.png holds 2 values from 1 to 2"),
        (np.array([[[9, 0, 0]]], np.uint8), "a.png is coloured, but is to show one class only"),
    ],
)
def test_files_that_show_more_than_one_class(
    tmp_path: Path, values: NDArray[Any], message: str
) -> None:
    save(tmp_path / "a.png", values)
    with pytest.raises(ValueError, match=re.escape(message)) as error:
        read_mask(parse_source(tmp_path / "{a,b}.png"))
    # what colours stand for is asked where masks are coloured, not here
    assert type(error.value) is DataError


def test_classes_that_overlap_are_refused_with_their_share(tmp_path: Path) -> None:
    save(tmp_path / "road.png", grey([255, 255, 0, 0, 0]))
    save(tmp_path / "car.png", grey([0, 255, 255, 255, 0]))
    message = r"\{road,car\}.*: 1 pixels \(20\.00% of the picture, 25\.00% of what is labelled\)"
    with pytest.raises(ValueError, match=message + ".*'road' and 'car'.*Set them to 0"):
        read_mask(parse_source(tmp_path / "{road,car}.png"))


def test_files_of_two_sizes_are_refused(tmp_path: Path) -> None:
    save(tmp_path / "road.png", np.zeros((2, 3), np.uint8))
    save(tmp_path / "car.png", np.zeros((3, 2), np.uint8))
    for read in (read_mask, mask_size):
        with pytest.raises(ValueError, match=r"car\.png is 2x3 pixels, \S*road\.png is 3x2"):
            read(parse_source(tmp_path / "{road,car}.png"))


def test_at_least_one_file_must_exist(tmp_path: Path) -> None:
    for read in (read_mask, mask_size):
        with pytest.raises(FileNotFoundError, match="none of the 2 files for road, car exists"):
            read(parse_source(tmp_path / "{road,car}.png"))


def test_a_link_that_leads_nowhere_is_no_absent_class(tmp_path: Path) -> None:
    save(tmp_path / "road.png", grey([255, 0]))
    (tmp_path / "car.png").symlink_to(tmp_path / "gone.png")
    for read in (read_mask, mask_size):
        with pytest.raises(FileNotFoundError, match=r"car\.png is a link to \S*gone\.png"):
            read(parse_source(tmp_path / "{road,car}.png"))
    with pytest.raises(ValueError, match="cannot be opened"):
        read_class_files(ClassFiles(str(tmp_path / f"{HERE}{'a' * 500}"), ("a", "b")), read_mask)


def test_names_of_classes() -> None:
    assert class_file_names(()) == ()
    assert class_file_names(("b", "a")) == ("background", "b", "a")
    assert class_file_names(("b", "BACKGROUND", "a")) == ("BACKGROUND", "b", "a")
    for wrong in (("a", ""), ("a", "background", "Background"), ("background",)):
        with pytest.raises(ValueError, match="need a name each"):
            class_file_names(wrong)
    many = tuple(map(str, range(255)))
    assert len(class_file_names(many[1:])) == 255
    with pytest.raises(ValueError, match="255 classes in braces; at most 254"):
        read_class_files(ClassFiles(HERE, many), read_mask)
