"""Masks as tools write them: palettes, colours, alpha, objects, -1, legends next to them."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import tifffile
from PIL import Image

from plainunet.config import DataConfig
from plainunet.dataset.borders import find_objects
from plainunet.dataset.census import MaskCounts, count_masks
from plainunet.dataset.classes import find_coding
from plainunet.dataset.coding import Coding, coding_from_json, coding_to_json
from plainunet.dataset.questions import require_no_class_numbers
from plainunet.formats.problems import Change, DataError
from plainunet.formats.sources import CocoImage
from plainunet.palette import voc_color
from plainunet.reporter import Collected

from ..folders import save as store

Save = Callable[[np.ndarray, Path, int], Path]
SIZE = (72, 90)


def disc(row: int, column: int, radius: int) -> np.ndarray:
    rows, columns = np.indices(SIZE)
    return (rows - row) ** 2 + (columns - column) ** 2 < radius**2


def scene(number: int) -> np.ndarray:
    """Some discs of class 1, and a square of class 2."""
    random = np.random.default_rng(number)
    ids = np.zeros(SIZE, np.uint8)
    for _ in range(3):
        ids[disc(random.integers(10, 62), random.integers(10, 80), 6)] = 1
    row, column = random.integers(5, 55, 2)
    ids[row : row + 12, column : column + 12] = 2
    return ids


def numbered(number: int, fewest: int, most: int) -> np.ndarray:
    """Separate objects, numbered from 1."""
    random = np.random.default_rng(number)
    count = fewest + number % (most - fewest + 1)
    places = random.permutation([(row, column) for row in (10, 35, 60) for column in (10, 45, 80)])
    labels = np.zeros(SIZE, np.uint8)
    for label, (row, column) in enumerate(sorted(places[:count].tolist()), start=1):
        labels[disc(row + random.integers(-3, 4), column + random.integers(-3, 4), 6)] = label
    return labels


def save_png(image: np.ndarray | Image.Image, path: Path) -> Path:
    image = Image.fromarray(image) if isinstance(image, np.ndarray) else image
    image.save(path.with_suffix(".png"))
    return path.with_suffix(".png")


def save_tiff(array: np.ndarray, path: Path, **options: Any) -> Path:
    tifffile.imwrite(path.with_suffix(".tif"), array, **options)
    return path.with_suffix(".tif")


def palette(ids: np.ndarray, colors: np.ndarray) -> Image.Image:
    image = Image.new("P", ids.shape[::-1])
    image.putdata(ids.ravel().tolist())
    image.putpalette(colors.astype(np.uint8).tobytes())
    return image


def write(
    folder: Path, save: Save, make: Callable[[int], np.ndarray] = scene, count: int = 8
) -> tuple[list[Path], np.ndarray]:
    """Write masks below `folder / "masks"`: their files, and the ground truth [n, H, W]."""
    (folder / "masks").mkdir(exist_ok=True)
    truth = np.array([make(number) for number in range(count)])
    return [save(ids, folder / "masks" / str(k), k) for k, ids in enumerate(truth)], truth


def shares(masks: list[Path], truth: np.ndarray, **known: Any) -> tuple[Coding, Collected]:
    """Find the coding of masks, and compare counts and ids with the ground truth."""
    heard = Collected()
    coding, pixels = find_coding(masks, DataConfig(**known), heard)
    read = np.array([coding.read(mask) for mask in masks])
    np.testing.assert_array_equal(read, truth)
    counts = np.bincount(truth.ravel(), minlength=256)
    assert pixels.tolist() == counts[: coding.num_classes].tolist()
    return coding, heard


def raises(masks: list[Path], **known: Any) -> DataError:
    with pytest.raises(DataError) as raised:
        find_coding(masks, DataConfig(**known))
    return raised.value


RING = np.linalg.norm(np.indices(SIZE).T - 40, axis=-1).T.astype(int) // 4 == 4
BLACK = np.array([[0, 0, 0], [0, 0, 255], [255, 0, 0]], np.uint8)
WHITE = np.array([[255, 255, 255], [0, 0, 255], [255, 0, 0]], np.uint8)
VIRIDIS = np.array([[68, 1, 84], [33, 145, 140], [253, 231, 37]], np.uint8)


# palettes


def test_palettes_that_differ_are_read_by_colour(tmp_path: Path) -> None:
    def save(ids: np.ndarray, path: Path, number: int) -> Path:
        order = np.random.default_rng(number).permutation(3)
        return save_png(palette(np.argsort(order)[ids], BLACK[order]), path)

    masks, truth = write(tmp_path, save)
    coding, _ = shares(masks, truth)
    assert coding.kind == "colors"
    # the user's setting for indices wins
    assert find_coding(masks, DataConfig(encoding="ids"))[0].kind == "ids"


@pytest.mark.parametrize("suffix", [".bmp", ".gif", ".tif"])
def test_palettes_of_other_formats(tmp_path: Path, suffix: str) -> None:
    def save(ids: np.ndarray, path: Path, number: int) -> Path:
        order = np.roll([0, 1, 2], number)
        path = path.with_suffix(suffix)
        palette(np.argsort(order)[ids], BLACK[order]).save(path)
        return path

    masks, truth = write(tmp_path, save)
    assert shares(masks, truth)[0].kind == "colors"


@pytest.mark.parametrize("suffix", [".gif", ".png"])
def test_black_and_white_with_the_palette_reversed_in_half(tmp_path: Path, suffix: str) -> None:
    def save(ids: np.ndarray, path: Path, number: int) -> Path:
        flip = number % 2
        colors = np.array([[0] * 3, [255] * 3])[:: -1 if flip else 1]
        path = path.with_suffix(suffix)
        palette((ids > 0) ^ flip, colors).save(path)
        return path

    masks, truth = write(tmp_path, save)
    shares(masks, truth > 0)


def test_one_bit_and_grey_black_and_white_together(tmp_path: Path) -> None:
    def save(ids: np.ndarray, path: Path, number: int) -> Path:
        return save_png(ids > 0 if number % 2 else (ids > 0) * np.uint8(255), path)

    masks, truth = write(tmp_path, save)
    shares(masks, truth > 0)


def test_palettes_that_agree_are_indices(tmp_path: Path) -> None:
    def save(ids: np.ndarray, path: Path, number: int) -> Path:
        # unused entries may differ, and so may black and white files
        if number == 3:
            return save_png(ids == 1, path)
        return save_png(palette(ids, np.vstack([BLACK, np.full((9, 3), number)])), path)

    masks, truth = write(tmp_path, save)
    truth[3] = truth[3] == 1
    assert shares(masks, truth)[0].kind == "ids"


# the background of coloured sets


@pytest.mark.parametrize("colors", [BLACK, WHITE, VIRIDIS])
def test_the_background_is_class_0(tmp_path: Path, colors: np.ndarray) -> None:
    masks, truth = write(tmp_path, lambda ids, path, _: save_png(colors[ids], path))
    shares(masks, truth)


def test_a_legend_with_the_background_second(tmp_path: Path) -> None:
    masks, truth = write(tmp_path, lambda ids, path, _: save_png(BLACK[ids], path))
    text = "# label:color_rgb:parts:actions\ndog:0,0,255::\nBackground:0,0,0::\ncat:255,0,0::\n"
    (tmp_path / "labelmap.txt").write_text(text)
    assert shares(masks, truth)[0].names == ("Background", "dog", "cat")


def test_a_legend_with_the_background_second_of_palettes(tmp_path: Path) -> None:
    def save(ids: np.ndarray, path: Path, _: int) -> Path:
        return save_png(palette(np.uint8([1, 0, 2])[ids], BLACK[[1, 0, 2]]), path)

    masks, truth = write(tmp_path, save)
    (tmp_path / "labelmap.txt").write_text("dog:0,0,255::\nbg:0,0,0::\ncat:255,0,0::\n")
    assert shares(masks, truth)[0].names == ("bg", "dog", "cat")


def test_without_a_clear_background_the_user_is_asked(tmp_path: Path) -> None:
    # a frame of blue around red that fills most of the image
    ids = np.full(SIZE, 1, np.uint8)
    ids[4:-4, 4:-4] = 2
    masks, _ = write(tmp_path, lambda ids, path, _: save_png(BLACK[ids], path), lambda _: ids)
    error = raises(masks)
    assert error.code == "which-background"
    assert error.flags == {"colors": ("0000FF", "FF0000")}
    assert find_coding(masks, DataConfig(**error.flags))[0].num_classes == 2


def test_a_legend_without_the_background(tmp_path: Path) -> None:
    masks, truth = write(tmp_path, lambda ids, path, _: save_png(BLACK[ids], path))
    (tmp_path / "labelmap.txt").write_text("dog:0,0,255::\ncat:255,0,0::\n")
    error = raises(masks)
    assert error.code == "which-background"
    shares(masks, truth, **error.flags)


def test_sets_without_a_background_are_sorted(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    colors = np.array([[10, 0, 0], [60, 9, 9], [110, 0, 0], [160, 9, 9]], np.uint8)

    def make(_: int) -> np.ndarray:
        return random.integers(0, 4, (9, 9), np.uint8).repeat(8, 0).repeat(10, 1)

    masks, truth = write(tmp_path, lambda ids, path, _: save_png(colors[ids], path), make)
    shares(masks, truth)


# objects


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_numbered_objects_are_one_class(tmp_path: Path, dtype: type) -> None:
    masks, truth = write(
        tmp_path,
        lambda labels, path, _: save_tiff(labels.astype(dtype), path),
        lambda number: numbered(number, 3, 7),
    )
    coding, heard = shares(masks, truth > 0)
    assert coding.kind == "instances"
    assert "--encoding ids" in heard.notes[0]


@pytest.mark.parametrize(("dtype", "most"), [(np.uint8, 3), (np.uint8, 2), (np.uint16, 2)])
def test_few_numbered_objects_are_asked_about(tmp_path: Path, dtype: type, most: int) -> None:
    masks, truth = write(
        tmp_path,
        lambda labels, path, _: save_tiff(labels.astype(dtype), path),
        lambda number: numbered(number, 1, most),
    )
    error = raises(masks)
    assert error.code == "ids-or-objects"
    objects, classes = error.choices.values()
    assert shares(masks, truth > 0, **objects)[0].kind == "instances"
    shares(masks, truth, **classes)


@pytest.mark.parametrize("void", [None, 255])
def test_many_classes_in_16_bits_are_asked_about(tmp_path: Path, void: int | None) -> None:
    """Class ids from 0 to 11, of which most are several regions in a mask."""

    def make(number: int) -> np.ndarray:
        generator = np.random.default_rng(number)
        labels = np.kron(generator.integers(0, 12, (12, 15)), np.ones((6, 6), int))
        labels[:2] = 0 if void is None else void
        return labels

    masks, truth = write(
        tmp_path, lambda labels, path, _: save_tiff(labels.astype(np.uint16), path), make
    )
    error = raises(masks)
    assert error.code == "ids-or-objects"
    objects, classes = error.choices.values()
    is_object = np.where(truth == 255, 255, truth > 0)
    assert shares(masks, is_object, **objects)[0].kind == "instances"
    coding, pixels = find_coding(masks, DataConfig(**classes))
    assert np.array_equal([coding.read(mask) for mask in masks], truth)
    assert pixels.sum() == np.sum(truth < 12)


def test_many_objects_in_16_bits_next_to_empty_masks(tmp_path: Path) -> None:
    def make(number: int) -> np.ndarray:
        places = np.arange(1, 21).reshape(4, 5) * (number % 3 > 0)
        return np.kron(places, np.pad(np.ones((12, 12), int), 3))

    masks, truth = write(
        tmp_path, lambda labels, path, _: save_tiff(labels.astype(np.uint16), path), make, 9
    )
    assert shares(masks, truth > 0)[0].kind == "instances"


def test_an_erased_object_leaves_a_gap(tmp_path: Path) -> None:
    """In one mask of many: the values do not become classes without a question."""

    def make(number: int) -> np.ndarray:
        labels = numbered(number, 3, 7)
        labels[labels == 2] *= number != 1
        return labels

    masks, truth = write(
        tmp_path, lambda labels, path, _: save_png(labels.astype(np.uint8), path), make
    )
    error = raises(masks)
    assert error.code == "ids-or-objects"
    objects, classes = error.choices.values()
    assert shares(masks, truth > 0, **objects)[0].kind == "instances"
    shares(masks, truth, **classes)


def always_four(number: int) -> np.ndarray:
    random = np.random.default_rng(number)
    labels = np.zeros(SIZE, np.uint8)
    places = random.permutation([(r, c) for r in (10, 35, 60) for c in (10, 45, 80)])[:4]
    for label, (row, column) in enumerate(places, start=1):
        labels[disc(row, column, 6)] = label
    return labels


def cut_in_two(number: int) -> np.ndarray:
    labels = numbered(number, 3, 7)
    if number in (1, 4):
        labels[np.argwhere(labels == 1)[:, 0].min() + 5][labels.max(axis=0) > 0] = 0
    return labels


def with_void(number: int) -> np.ndarray:
    labels = numbered(number, 3, 7)
    labels[cv2.dilate(labels, np.ones((3, 3), np.uint8)) > labels] = 255
    return labels


def with_gaps(number: int) -> np.ndarray:
    numbers = np.random.default_rng(number).permutation(np.arange(1, 40, dtype=np.uint8))
    return np.append(np.uint8(0), numbers)[numbered(number, 3, 7)]


def of_a_track(number: int) -> np.ndarray:
    labels = numbered(number, 3, 3)
    return labels + np.uint8(3 * number) * (labels > 0)


@pytest.mark.parametrize(
    "make",
    [always_four, cut_in_two, with_void, with_gaps, of_a_track, lambda k: numbered(k, 3, 7) * 30],
)
def test_numbers_that_are_not_from_1_on_in_whole_regions_are_asked_about(
    tmp_path: Path, make: Callable[[int], np.ndarray]
) -> None:
    masks, truth = write(tmp_path, lambda labels, path, _: save_png(labels, path), make)
    error = raises(masks)
    assert error.code == "ids-or-objects"
    objects, classes, *_ = error.choices.values()
    is_object = np.where(truth == 255, 255, truth > 0)
    assert shares(masks, is_object, **objects)[0].kind == "instances"
    ranks = np.searchsorted(np.unique(truth), truth)
    shares(masks, np.where(truth == 255, 255, ranks), **classes)


def test_many_numbered_objects_in_8_bits(tmp_path: Path) -> None:
    def make(number: int) -> np.ndarray:
        labels = np.zeros(SIZE, np.uint8)
        places = [(row, column) for row in range(4, 70, 6) for column in range(4, 88, 6)]
        kept = np.random.default_rng(number).permutation(len(places))[: 70 + 5 * number]
        for label, at in enumerate(sorted(kept.tolist()), start=1):
            row, column = places[at]
            labels[row : row + 4, column : column + 4] = label
        return labels

    masks, truth = write(tmp_path, lambda labels, path, _: save_png(labels, path), make)
    assert shares(masks, truth > 0)[0].kind == "instances"


@pytest.mark.parametrize("seed", range(3))
def test_few_objects_in_16_bits_are_one_class(tmp_path: Path, seed: int) -> None:
    masks, truth = write(
        tmp_path,
        lambda labels, path, _: save_tiff(labels.astype(np.uint16), path),
        lambda number: numbered(number + 100 * seed, 1, 4),
    )
    assert shares(masks, truth > 0)[0].kind == "instances"


def tumour(number: int) -> np.ndarray:
    """An organ, with a tumour in every third: each is one region."""
    organ = disc(30 + number, 45, 20)
    return organ + (disc(30 + number, 45, 5) & (number % 3 == 0)).astype(np.uint8)


def lungs(number: int) -> np.ndarray:
    """Two lungs and, in three of four, a heart: always in the same places."""
    heart = disc(58, 45, 8) & (number % 4 != 0)
    return disc(30 + number % 3, 20, 12) * 1 + disc(32, 70, 12 + number % 3) * 2 + heart * 3


def boxes(number: int) -> np.ndarray:
    """One region of each of some classes."""
    random = np.random.default_rng(number)
    ids = np.zeros(SIZE, np.uint8)
    for column in range(random.integers(2, 6)):
        ids[10:30, 15 * column + 2 : 15 * column + 10] = random.integers(1, 6)
    return ids


@pytest.mark.parametrize("make", [scene, tumour, lungs, boxes])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_class_ids_are_no_objects(
    tmp_path: Path, make: Callable[[int], np.ndarray], dtype: type
) -> None:
    masks, truth = write(tmp_path, lambda ids, path, _: save_tiff(ids.astype(dtype), path), make)
    assert shares(masks, truth)[0].kind == "ids"


# alpha, white as 0, -1, smoothed edges


def test_organs_in_rough_places_are_asked_about(tmp_path: Path) -> None:
    """One region each, few at first: small organs that move hardly overlap."""

    def make(number: int) -> np.ndarray:
        random = np.random.default_rng(number)
        ids = np.zeros(SIZE, np.uint8)
        for k in range(2 + number % 5):
            row, column = random.integers(-8, 9, 2)
            ids[disc(18 + 36 * (k // 3) + row, 15 + 30 * (k % 3) + column, 5)] = k + 1
        return ids

    masks, truth = write(tmp_path, lambda ids, path, _: save_png(ids, path), make, 10)
    error = raises(masks)
    assert error.code == "ids-or-objects"
    shares(masks, truth, **error.choices["They are class ids"])


@pytest.mark.parametrize("colors", [BLACK[[0, 2, 0]], BLACK * 0, WHITE[[0, 0, 0]]])
def test_classes_that_differ_in_alpha_only(tmp_path: Path, colors: np.ndarray) -> None:
    def save(ids: np.ndarray, path: Path, _: int) -> Path:
        return save_png(np.dstack([colors[ids], (ids > 0) * np.uint8(255)]), path)

    masks, _ = write(tmp_path, save)
    error = raises(masks)
    assert error.code == "transparent"
    assert list(error.files) == masks


def test_colours_below_transparent_pixels_are_no_classes(tmp_path: Path) -> None:
    """What GIMP erases keeps its colours."""

    def save(ids: np.ndarray, path: Path, number: int) -> Path:
        photo = np.random.default_rng(number).integers(0, 255, (*SIZE, 3))
        colors = np.where(ids[..., None] > 0, BLACK[ids], photo).astype(np.uint8)
        return save_png(np.dstack([colors, (ids > 0) * np.uint8(255)]), path)

    masks, _ = write(tmp_path, save)
    assert raises(masks).code == "transparent"


def test_alpha_that_matches_the_colours(tmp_path: Path) -> None:
    def save(ids: np.ndarray, path: Path, _: int) -> Path:
        return save_png(np.dstack([BLACK[ids], (ids > 0) * np.uint8(255)]), path)

    masks, truth = write(tmp_path, save)
    shares(masks, truth)


def test_labels_are_stored_numbers_even_if_0_is_white(tmp_path: Path) -> None:
    def save(ids: np.ndarray, path: Path, _: int) -> Path:
        return save_tiff(ids, path, photometric="miniswhite")

    masks, truth = write(tmp_path, save)
    _, heard = shares(masks, truth)
    assert str(masks[0]) in heard.notes[0]


def test_one_bit_masks_are_as_they_look(tmp_path: Path) -> None:
    def save(ids: np.ndarray, path: Path, number: int) -> Path:
        options = {"photometric": "miniswhite" if number % 2 else "minisblack"}
        return save_tiff((ids == 0) if number % 2 else (ids > 0), path, **options)

    masks, truth = write(tmp_path, save)
    shares(masks, truth > 0)


@pytest.mark.parametrize("dtype", [np.int8, np.int16, np.float32])
def test_minus_one_is_ignored(tmp_path: Path, dtype: type) -> None:
    void = disc(8, 8, 6)

    def save(ids: np.ndarray, path: Path, number: int) -> Path:
        values = np.where(void, -1, ids.astype(np.int64)).astype(dtype)
        if number % 2:
            np.save(path.with_suffix(".npy"), values)
            return path.with_suffix(".npy")
        return save_tiff(values, path)

    masks, truth = write(tmp_path, save)
    shares(masks, np.where(void, 255, truth))


def test_edges_of_few_greys_are_smoothed(tmp_path: Path) -> None:
    def save(ids: np.ndarray, path: Path, _: int) -> Path:
        inside = np.kron(ids > 0, np.ones((4, 4))).astype(np.float32)
        area = inside[2:-2, 2:-2].reshape(SIZE[0] - 1, 4, SIZE[1] - 1, 4).mean(axis=(1, 3))
        return save_png(np.uint8([0, 48, 128, 207, 255])[np.rint(area * 4).astype(int)], path)

    masks, _ = write(tmp_path, save)
    coding, pixels = find_coding(masks)
    assert coding.kind == "threshold"
    wanted = sum(int((np.asarray(Image.open(mask)) >= 128).sum()) for mask in masks)
    assert pixels[1] == wanted


def test_classes_between_black_and_white_are_not_smoothed(tmp_path: Path) -> None:
    values = np.uint8([0, 85, 170, 255])
    make = lambda number: np.where(disc(60, 80, 9), 3, scene(number)).astype(np.uint8)  # noqa: E731
    masks, truth = write(tmp_path, lambda ids, path, _: save_png(values[ids], path), make)
    error = raises(masks)
    assert (error.code, error.files) == ("stray-value", ())
    assert error.flags == {"values": (0, 85, 170, 255)}
    shares(masks, truth, **error.flags)


# classes that mean no class

PALETTE = np.uint8([[0, 0, 0], [230, 25, 75], [60, 180, 75], [0, 130, 200]])


def with_ring(number: int) -> np.ndarray:
    return np.where(RING, 3, scene(number)).astype(np.uint8)


def void_of(truth: np.ndarray) -> np.ndarray:
    return np.where(truth == 3, 255, truth)


@pytest.mark.parametrize(
    ("name", "legend"),
    [
        ("classes.csv", "name,value\nground,0\ncat,1\ndog,2\nvoid,3\n"),
        ("labels.txt", "ground\ncat\ndog\nignore\n"),
        ("dataset.json", '{"labels": {"ground": 0, "cat": 1, "dog": 2, "Don\'t care": 3}}'),
        ("id2label.json", '{"0": "ground", "1": "cat", "2": "dog", "3": "void"}'),
    ],
)
def test_a_value_named_void_is_ignored_with_a_note(tmp_path: Path, name: str, legend: str) -> None:
    masks, truth = write(tmp_path, lambda ids, path, _: save_png(ids, path), with_ring)
    (tmp_path / name).write_text(legend)
    coding, heard = shares(masks, void_of(truth))
    assert (coding.ignore, coding.names) == (3, ("ground", "cat", "dog"))
    assert any(name in note and "ignored" in note for note in heard.notes)
    (tmp_path / name).write_text(re.sub("void|ignore|Don't care", "unknown", legend))
    assert shares(masks, truth)[0].names[3] == "unknown"


@pytest.mark.parametrize("void", [(0, 0, 0), (255, 255, 255), (224, 224, 192)])
@pytest.mark.parametrize("has_palette", [False, True])
def test_a_colour_named_void_is_ignored_with_a_note(
    tmp_path: Path, void: tuple[int, int, int], has_palette: bool
) -> None:
    colors = np.uint8([[9, 90, 0], *PALETTE[1:3], void])
    lines = [f"{name} {r} {g} {b}" for name, (r, g, b) in zip("abcd", colors, strict=True)]
    order = np.array([2, 0, 1, 3])  # of indices of palettes

    def save(ids: np.ndarray, path: Path, _: int) -> Path:
        by_index = palette(np.argsort(order)[ids], colors[order])
        return save_png(by_index if has_palette else colors[ids], path)

    masks, truth = write(tmp_path, save, with_ring)
    (tmp_path / "label_colors.txt").write_text("\n".join(lines).replace("d ", "Void "))
    coding, heard = shares(masks, void_of(truth))
    assert coding.names == ("a", "b", "c")
    assert any("Void" in note and "label_colors.txt" in note for note in heard.notes)


def test_void_next_to_a_similar_colour_stays(tmp_path: Path) -> None:
    colors = np.uint8([[0, 0, 0], [255, 0, 0], [200, 200, 200], [190, 200, 200]])
    masks, truth = write(tmp_path, lambda ids, path, _: save_png(colors[ids], path), with_ring)
    lines = [f"{name} {r} {g} {b}" for name, (r, g, b) in zip("abcd", colors, strict=True)]
    (tmp_path / "legend.txt").write_text("\n".join(lines).replace("d ", "void "))
    shares(masks, truth)


@pytest.mark.parametrize("colored", [False, True])
def test_void_that_may_be_the_background_is_asked_about(tmp_path: Path, colored: bool) -> None:
    masks, truth = write(
        tmp_path, lambda ids, path, _: save_png(PALETTE[ids] if colored else ids, path)
    )
    rows = zip(("void", "cat", "dog"), range(3), PALETTE, strict=False)
    lines = [f"{name},{','.join(map(str, rgb)) if colored else k}" for name, k, rgb in rows]
    head = "name,r,g,b" if colored else "name,value"
    (tmp_path / "legend.csv").write_text("\n".join([head, *lines]))
    error = raises(masks)
    assert error.code == "which-background"
    void, ground = error.choices.values()
    shares(masks, np.where(truth == 0, 255, truth - 1), **void)
    assert shares(masks, truth, **ground)[0].num_classes == 3


def test_void_as_the_background_of_one_class(tmp_path: Path) -> None:
    masks, truth = write(tmp_path, lambda ids, path, _: save_png((ids == 0) * np.uint8(1), path))
    (tmp_path / "labels.txt").write_text("cat\nvoid\n")
    coding, _ = shares(masks, truth > 0)
    assert coding.names == ("void", "cat")


@pytest.mark.parametrize("classes", ["void\nforest\ncat\n", "forest\ncat\nvoid\n"])
def test_void_with_the_largest_share_is_asked_about(tmp_path: Path, classes: str) -> None:
    """A little more than the next class, and less than half."""

    def make(number: int) -> np.ndarray:
        ids = np.ones(SIZE, np.uint8)
        ids[:, :44] = 0
        ids[30:40, 44:] = 2
        return ids

    void = classes.split().index("void")
    shown = np.uint8([void, *({0, 1, 2} - {void})])
    masks, truth = write(tmp_path, lambda ids, path, _: save_png(shown[ids], path), make)
    (tmp_path / "classes.txt").write_text(classes)
    error = raises(masks)
    assert error.code == "which-background"
    ignored, ground = error.choices.values()
    shares(masks, np.where(truth == 0, 255, truth - 1), **ignored)
    assert ground["classes"] == ("void", "forest", "cat")
    shares(masks, truth, **ground)


@pytest.mark.parametrize("colored", [False, True])
@pytest.mark.parametrize("others", [("cat", "dog"), ("cat",)])
def test_void_as_the_background_next_to_ignore(
    tmp_path: Path, colored: bool, others: tuple[str, ...]
) -> None:
    names = ("void", *others, "ignore")
    colors = np.uint8([[0, 0, 0], [255, 0, 0], [0, 0, 255]])[: len(names) - 1]
    table = colors if colored else np.arange(len(colors), dtype=np.uint8)
    table = np.concatenate([table, np.full_like(table[:1], 255)])

    def make(number: int) -> np.ndarray:
        ids = np.minimum(scene(number), len(others))
        return np.where(RING, len(others) + 1, ids).astype(np.uint8)

    masks, truth = write(tmp_path, lambda ids, path, _: save_png(table[ids], path), make)
    rows = zip(names, table, strict=True)
    lines = [f"{name},{','.join(map(str, np.atleast_1d(each)))}" for name, each in rows]
    head = "name,r,g,b" if colored else "name,value"
    (tmp_path / "classes.csv").write_text("\n".join([head, *lines]))
    coding, _ = shares(masks, np.where(truth == len(others) + 1, 255, truth))
    assert (coding.names, coding.ignore) == (names[:-1], 255)


def test_void_next_to_another_ignored_value_stays_with_a_note(tmp_path: Path) -> None:
    def make(number: int) -> np.ndarray:
        ids = with_ring(number)
        ids[:3] = 255
        return ids

    masks, truth = write(tmp_path, lambda ids, path, _: save_png(ids, path), make)
    (tmp_path / "labels.txt").write_text("background\ncat\ndog\nvoid\n")
    _, heard = shares(masks, truth)
    assert any("only one value" in note for note in heard.notes)


@pytest.mark.parametrize(
    ("values", "void"), [((7, 0, 11, 24), 0), ((0, 1, 2, 11), 11), ((13, 19, 27, 65), 65)]
)
def test_void_of_ids_with_gaps_is_one_of_the_answers(
    tmp_path: Path, values: tuple[int, ...], void: int
) -> None:
    """As in ADE20K, CamVid, KITTI and Mapillary."""
    shown = dict(zip(range(3), (each for each in values if each != void), strict=True)) | {3: void}
    table = np.array([shown[k] for k in range(4)], np.uint8)
    masks, truth = write(tmp_path, lambda ids, path, _: save_png(table[ids], path), with_ring)
    error = raises(masks)
    assert error.code == "stray-value"
    answer = error.choices[f"{void} marks pixels of no class"]
    assert answer["ignore"] == void
    shares(masks, void_of(truth), **answer)
    assert {"values": values} in error.choices.values()


def test_names_of_as_many_greys_are_in_the_answer(tmp_path: Path) -> None:
    masks, truth = write(
        tmp_path, lambda ids, path, _: save_png((ids * 85).astype("u1"), path), with_ring
    )
    (tmp_path / "classes.txt").write_text("background\na\nb\nc\n")
    error = raises(masks)
    assert error.flags == {"values": (0, 85, 170, 255), "classes": ("background", "a", "b", "c")}
    assert shares(masks, truth, **error.flags)[0].num_classes == 4


# colours that are numbers


def test_panoptic_masks_are_named(tmp_path: Path) -> None:
    random = np.random.default_rng(0)

    def save(ids: np.ndarray, path: Path, _: int) -> Path:
        return save_png(random.integers(0, 256, (3, 3), np.uint8)[ids], path)

    masks, _ = write(tmp_path, save)
    (tmp_path / "masks.json").write_text('{"annotations": [{"segments_info": []}]}')
    error = raises(masks)
    assert (error.code, error.files, error.flags) == ("not-a-mask", (), {})
    assert "segments_info" in str(error)


def test_ade20k_masks_with_objects_are_named(tmp_path: Path) -> None:
    mask = save_png(PALETTE[scene(0)], tmp_path / "ADE_train_00000001_seg")
    assert "R // 10" in str(raises([mask]))


# the background of values


def sparse(number: int) -> np.ndarray:
    return np.where(np.indices(SIZE)[1] < 60, scene(number), 0).astype(np.uint8)


@pytest.mark.parametrize(
    ("values", "choices"),
    [
        ((255, 0, 1), [{"values": (255, 0, 1)}, {"values": (0, 1), "ignore": 255}]),
        ((255, 1, 2), [{"values": (255, 1, 2)}, {"values": (1, 2), "ignore": 255}]),
        ((2, 0, 1), [{"values": (2, 0, 1)}, {"values": (0, 1, 2)}]),
        ((2, 1, 1), [{"values": (2, 1)}, {"values": (1, 2)}]),
    ],
)
def test_a_value_of_nearly_all_pixels_that_is_not_the_first(
    tmp_path: Path, values: tuple[int, ...], choices: list[dict[str, Any]]
) -> None:
    masks, truth = write(
        tmp_path, lambda ids, path, _: save_png(np.uint8(values)[ids], path), sparse
    )
    error = raises(masks)
    assert error.code == "which-background"
    assert [*error.choices.values()] == choices
    shares(masks, np.minimum(truth, len(set(values)) - 1), **choices[0])


def test_no_data_before_the_background(tmp_path: Path) -> None:
    """LoveDA: 0 is no data, 1 the background."""

    def save(ids: np.ndarray, path: Path, _: int) -> Path:
        return save_png(np.where(RING, 0, np.where(disc(60, 80, 9), 3, ids) + 1).astype("u1"), path)

    masks, truth = write(tmp_path, save)
    void = next(iter(raises(masks).choices.items()))
    assert void[1] == {"values": (1, 2, 3, 4), "ignore": 0}
    shares(masks, np.where(RING, 255, np.where(disc(60, 80, 9), 3, truth)), **void[1])


def test_255_is_first_where_it_is_the_background_of_greys(tmp_path: Path) -> None:
    masks, truth = write(
        tmp_path, lambda ids, path, _: save_png(np.uint8([255, 0, 128])[ids], path)
    )
    first, second = raises(masks).choices.values()
    assert first == {"values": (255, 0, 128)}
    assert second == {"values": (255, 0), "ignore": 128}
    shares(masks, truth, values=(255, 0, 128))


def test_a_ring_of_255_larger_than_class_1(tmp_path: Path) -> None:
    def save(ids: np.ndarray, path: Path, _: int) -> Path:
        return save_png(np.where(RING, 255, ids == 2).astype(np.uint8), path)

    masks, truth = write(tmp_path, save)
    error = raises(masks)
    assert error.code == "ambiguous-255"
    assert [*error.choices.values()] == [
        {"values": (0, 1), "ignore": 255},
        {"values": (0, 1, 255)},
    ]
    shares(masks, np.where(RING, 255, truth == 2), **next(iter(error.choices.values())))


def test_255_after_large_ids(tmp_path: Path) -> None:
    """As in COCO-Stuff, where 0 is a person and 255 is unlabelled."""

    def save(ids: np.ndarray, path: Path, _: int) -> Path:
        return save_png(np.where(RING, 255, np.uint8([95, 0, 156])[ids]).astype(np.uint8), path)

    masks, truth = write(tmp_path, save)
    void, each, smoothed = raises(masks).choices.values()
    assert (void["ignore"], set(void["values"])) == (255, {0, 95, 156})
    assert set(each["values"]) == {0, 95, 156, 255}
    assert smoothed == {"encoding": "threshold"}
    order = [void["values"].index(value) for value in (95, 0, 156)]
    shares(masks, np.where(RING, 255, np.uint8(order)[truth]), **void)


@pytest.mark.parametrize("order", [(2, 0, 1), (1, 0)])
def test_black_of_a_shared_palette_is_the_background(
    tmp_path: Path, order: tuple[int, ...]
) -> None:
    stored, colors = np.uint8(order), np.zeros((3, 3))
    colors[stored] = BLACK[: len(order)]
    most = len(order) - 1

    def save(ids: np.ndarray, path: Path, _: int) -> Path:
        return save_png(palette(stored[ids.clip(0, most)], colors), path)

    masks, truth = write(tmp_path, save)
    coding, heard = shares(masks, truth.clip(0, most))
    assert coding.values == order
    assert len(heard.notes) == 1


def test_grey_palettes_next_to_grey_masks(tmp_path: Path) -> None:
    """Both show the same greys, in values that have nothing in common."""

    def save(ids: np.ndarray, path: Path, number: int) -> Path:
        greys = np.uint8([0, 100, 200])
        colors = np.repeat(greys[:, None], 3, axis=1)
        return save_png(palette(ids, colors) if number % 2 else greys[ids], path)

    masks, truth = write(tmp_path, save)
    assert shares(masks, truth)[0].kind == "colors"


@pytest.mark.parametrize("is_shown", [False, True])
def test_an_inverting_table_in_half_of_the_masks(tmp_path: Path, is_shown: bool) -> None:
    """Either the numbers or what they show are the same in all masks."""

    def save(ids: np.ndarray, path: Path, number: int) -> Path:
        white = (ids > 0) * np.uint8(255)
        if number % 2 == 0:
            return save_tiff(white, path)
        return save_tiff(255 - white if is_shown else white, path, photometric="miniswhite")

    masks, truth = write(tmp_path, save)
    shares(masks, truth > 0)


def test_an_inverting_palette_in_half_of_the_masks(tmp_path: Path) -> None:
    def save(ids: np.ndarray, path: Path, number: int) -> Path:
        white = (ids > 0) * np.uint8(255)
        ramp = np.arange(255, -1, -1)[:, None].repeat(3, axis=1)
        return save_png(palette(white, ramp) if number % 2 else white, path)

    masks, truth = write(tmp_path, save)
    assert shares(masks, truth > 0)[0].values == (0, 255)


# numbers as other programs store them


@pytest.mark.parametrize("channels", [[0, 1, 1], [1, 0, 1], [0, 1, 1, 2]])
def test_numbers_in_one_channel(tmp_path: Path, channels: list[int]) -> None:
    def save(ids: np.ndarray, path: Path, _: int) -> Path:
        none = np.zeros_like(ids)
        return save_png(np.dstack([ids, none, none + 255])[..., channels], path)

    masks, truth = write(tmp_path, save)
    assert shares(masks, truth)[0].kind == "ids"


def halves(ids: np.ndarray) -> np.ndarray:
    """Smoothed foreground masks, 0 to 1, [H, W] float32; edges keep their side."""
    around = ids > 0
    soft = sum(np.roll(around, (dy, dx), (0, 1)) for dy in (-1, 0, 1) for dx in (-1, 0, 1)) / 9
    return np.where(around, 0.5 + soft / 2, soft / 2).astype(np.float32)


@pytest.mark.parametrize(("times", "dtype"), [(1, np.float32), (65535, np.uint16)])
def test_smoothed_masks_of_other_types(tmp_path: Path, times: int, dtype: type) -> None:
    masks, truth = write(
        tmp_path, lambda ids, path, _: save_tiff((halves(ids) * times).astype(dtype), path)
    )
    coding, _ = shares(masks, truth > 0)
    assert coding.kind == "threshold"
    assert shares(masks, truth > 0, encoding="threshold")[0] == coding
    assert coding_from_json(coding_to_json(coding)) == coding


def blurred(number: int) -> np.ndarray:
    return cv2.GaussianBlur(np.uint8([0, 127, 255])[scene(number)], (5, 5), 1)


def test_smoothed_edges_of_more_than_black_and_white(tmp_path: Path) -> None:
    masks, _ = write(tmp_path, lambda _, path, number: save_png(blurred(number), path))
    error = raises(masks)
    assert (error.code, error.flags, error.choices) == ("lossy-mask", {}, {})


def test_smoothed_edges_of_colours_are_no_classes(tmp_path: Path) -> None:
    def save(ids: np.ndarray, path: Path, _: int) -> Path:
        return save_png(cv2.GaussianBlur(WHITE[ids], (3, 3), 0.6), path)

    masks, _ = write(tmp_path, save)
    assert raises(masks).flags == {"colors": ("FFFFFF", "0000FF", "FF0000")}


# values other than 0, 1, ...


@pytest.mark.parametrize("values", [(0, 1, 4), (1, 2, 3), (2, 1, 3)])
def test_values_in_most_masks_are_classes(tmp_path: Path, values: tuple[int, ...]) -> None:
    """BraTS, ilastik, Oxford's pets: no value is suggested as ignore index."""
    masks, truth = write(tmp_path, lambda ids, path, _: save_png(np.uint8(values)[ids], path))
    error = raises(masks)
    assert (error.code, error.files) == ("stray-value", ())
    assert error.flags == {"values": values}
    shares(masks, truth, **error.flags)


def test_grey_between_black_and_white_is_a_class_or_void(tmp_path: Path) -> None:
    values = np.uint8([0, 128, 255])
    masks, truth = write(tmp_path, lambda ids, path, _: save_png(values[ids], path))
    first, second = raises(masks).choices.values()
    shares(masks, truth, **first)
    shares(masks, np.take([0, 255, 1], truth), **second)


def test_objects_whose_value_differs_from_mask_to_mask(tmp_path: Path) -> None:
    def save(ids: np.ndarray, path: Path, number: int) -> Path:
        return save_png(np.where(ids > 0, (1, 128, 255)[number % 3], 0).astype(np.uint8), path)

    masks, truth = write(tmp_path, save)
    assert {"encoding": "instances"} in raises(masks).choices.values()
    shares(masks, np.minimum(truth, 1), encoding="instances")


def test_given_values_with_one_missing(tmp_path: Path) -> None:
    masks, truth = write(tmp_path, lambda ids, path, _: save_png(ids, path))
    error = raises(masks, values=(0, 1))
    assert error.flags == {"values": (0, 1, 2)}
    shares(masks, truth, **error.flags)


# class names next to masks


@pytest.mark.parametrize(
    ("name", "text", "values", "names"),
    [
        (
            "masks/_classes.csv",
            "Pixel Value, Class\n0, cat\n1, dog\n2, background\n",
            (2, 0, 1),
            ("background", "cat", "dog"),
        ),
        ("class_names.txt", "_background_\ncat\ndog\n", (0, 1, 2), ("_background_", "cat", "dog")),
        (
            "class_dict.csv",
            "name,r,g,b\ncat,9,9,9\nbackground,0,0,0\ndog,200,200,200\n",
            (0, 9, 200),
            ("background", "cat", "dog"),
        ),
        ("dataset.json", '{"labels": {"a": 4, "background": 0, "b": 7}}', (0, 4, 7), None),
        ("classes.txt", "a\nb\n", (0, 1, 2), None),
        ("classes.txt", "1 a\n2 b\n", (0, 1, 2), None),
        ("id2label.json", '{"2": "b", "1": "a"}', (0, 1, 2), None),
        *(
            (
                "class_dict.csv",
                f"id,name,r,g,b\n0,g,0,0,0\n1,a,{grey}\n2,b,{white}\n",
                values,
                "gab",
            )
            for grey, white in [("128,128,128", "255,255,255")]
            for values in ((0, 1, 2), (0, 128, 255))
        ),
        (
            "classes.csv",
            'id;name\n0;g\n1;"a, b,c"\n2;d\n',
            (0, 1, 2),
            ("g", "a / b / c", "d"),
        ),
        ("classes.json", '["g", "a, b", "c"]', (0, 1, 2), ("g", "a / b", "c")),
    ],
)
def test_a_legend_names_values(
    tmp_path: Path, name: str, text: str, values: tuple[int, ...], names: tuple[str, ...] | None
) -> None:
    masks, truth = write(tmp_path, lambda ids, path, _: save_png(np.uint8(values)[ids], path))
    (tmp_path / name).write_text(text)
    coding, heard = shares(masks, truth)
    assert coding.values == values
    assert coding.names == tuple(names or ("background", "a", "b"))
    assert name in heard.notes[0]


def in_own_colors(labels: np.ndarray, path: Path, number: int) -> Path:
    """Each object in a colour of its own, on black."""
    colors = np.random.default_rng(number).integers(1, 256, (10, 3), np.uint8)
    colors[0] = 0
    return save_png(colors[labels], path)


def test_objects_that_have_a_colour_each(tmp_path: Path) -> None:
    masks, labels = write(tmp_path, in_own_colors, lambda number: numbered(number, 2, 6))
    error = raises(masks)
    assert error.code == "ids-or-objects"
    assert [[*answer] for answer in error.choices.values()] == [["encoding"], ["colors"]]
    coding, _ = shares(masks, np.minimum(labels, 1), encoding="instances")
    assert coding.kind == "instances"
    assert coding_from_json(coding_to_json(coding)) == coding
    for mask, truth in zip(masks, labels, strict=True):
        found = find_objects(coding.read_stored(mask), coding)
        pairs = {*zip(found.ravel().tolist(), truth.ravel().tolist(), strict=True)}
        assert len(pairs) == truth.max() + 1
    # one class per colour is possible, and so are objects in grey files next to coloured ones
    assert find_coding(masks, DataConfig(**error.choices["Each colour is a class"]))
    save_png(labels[0], masks[0])
    shares(masks, np.minimum(labels, 1), encoding="instances")
    # the ground must be black
    for mask in masks:
        save_png(255 - np.asarray(Image.open(mask).convert("RGB")), mask)
    assert raises(masks, encoding="instances").code == "which-background"


def test_white_beside_coloured_objects_is_ignored(tmp_path: Path) -> None:
    masks, labels = write(tmp_path, in_own_colors, lambda number: numbered(number, 2, 6))
    truth = np.minimum(labels, 1)
    for mask, ids in zip(masks, truth, strict=True):
        colors = np.array(Image.open(mask))
        colors[:5], ids[:5] = 255, 255
        save_png(colors, mask)
    coding, pixels = find_coding(masks, DataConfig(encoding="instances", ignore=255))
    read = np.array([coding.read(mask) for mask in masks])
    np.testing.assert_array_equal(read, truth)
    assert pixels.tolist() == [(truth == 0).sum(), (truth == 1).sum()]


def test_many_colours_that_masks_share_are_classes(tmp_path: Path) -> None:
    colors = np.random.default_rng(0).integers(0, 256, (10, 3), np.uint8)
    colors[0] = 0
    masks, _ = write(
        tmp_path,
        lambda ids, path, number: save_png(colors[np.where(ids, (ids + number) % 9 + 1, 0)], path),
        lambda number: numbered(number, 2, 6),
    )
    coding, _ = find_coding(masks)
    assert coding.num_classes == 10


def test_a_list_with_numbers_leaves_0_to_the_background(tmp_path: Path) -> None:
    """Also if no mask holds its last class; without numbers, names count from 0."""
    masks, truth = write(tmp_path, lambda ids, path, _: save_png(ids, path))
    (tmp_path / "classes.txt").write_text("1: cat\n2: dog\n3: horse\n")
    coding, _ = shares(masks, truth)
    assert coding.names == ("background", "cat", "dog", "horse")
    (tmp_path / "classes.txt").write_text("soil\nweed\ncrop\n")
    coding, _ = shares(masks, truth)
    assert coding.names == ("soil", "weed", "crop")


def test_a_list_of_classes_without_any_background(tmp_path: Path) -> None:
    """Such as of land cover: none has most of the pixels."""

    def cover(number: int) -> np.ndarray:
        return np.roll(np.repeat(np.arange(3, dtype=np.uint8), 30)[None], number * 11).repeat(72, 0)

    masks, truth = write(tmp_path, lambda ids, path, _: save_png(ids, path), cover)
    (tmp_path / "classes.txt").write_text("field\nforest\nwater\n")
    coding, _ = shares(masks, truth)
    assert coding.names == ("field", "forest", "water")


def test_nnunet_names_the_ignore_index(tmp_path: Path) -> None:
    masks, truth = write(tmp_path, lambda ids, path, _: save_png(ids, path))
    (tmp_path / "dataset.json").write_text('{"labels": {"background": 0, "a": 1, "ignore": 2}}')
    coding, _ = shares(masks, np.where(truth == 2, 255, truth))
    assert (coding.names, coding.ignore) == (("background", "a"), 2)


def test_colours_changed_by_jpeg(tmp_path: Path) -> None:
    def save(ids: np.ndarray, path: Path, _: int) -> Path:
        Image.fromarray(BLACK[ids]).save(path.with_suffix(".jpg"), quality=75)
        return path.with_suffix(".jpg")

    masks, _ = write(tmp_path, save)
    (tmp_path / "class_dict.csv").write_text("name,r,g,b\nno,0,0,0\na,0,0,255\nb,255,0,0\n")
    assert raises(masks).code == "lossy-mask"
    assert find_coding(masks, DataConfig(colors=("000000", "0000FF", "FF0000")))[0].num_classes == 3


def test_a_legend_of_voc_palettes(tmp_path: Path) -> None:
    """The void of VOC, 255, is in no legend; classes need not occur."""
    colors = np.full((256, 3), 224)
    colors[:4] = [*BLACK, [9, 99, 9]]
    void = disc(30, 40, 9)

    def save(ids: np.ndarray, path: Path, _: int) -> Path:
        return save_png(palette(np.where(void, 255, ids), colors), path)

    masks, truth = write(tmp_path, save)
    (tmp_path / "labelmap.txt").write_text(
        "background:0,0,0::\na:0,0,255::\nb:255,0,0::\nc:9,99,9::"
    )
    coding, _ = shares(masks, np.where(void, 255, truth))
    assert (coding.kind, coding.names) == ("ids", ("background", "a", "b", "c"))


def test_a_legend_of_black_and_white_names_smoothed_masks(tmp_path: Path) -> None:
    def save(ids: np.ndarray, path: Path, _: int) -> Path:
        Image.fromarray((ids > 0) * np.uint8(255)).save(path.with_suffix(".jpg"), quality=80)
        return path.with_suffix(".jpg")

    masks, _ = write(tmp_path, save)
    (tmp_path / "class_dict.csv").write_text("name,r,g,b\nroad,255,255,255\nbackground,0,0,0\n")
    coding, _ = find_coding(masks)
    assert (coding.kind, coding.names) == ("threshold", ("background", "road"))


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("class_dict.csv", "id,name,r,g,b\n0,background,0,0,0\n1,object,255,255,255\n"),
        ("classes.csv", "id,name,color\n0,background,#000000\n1,object,#FFFFFF\n"),
        ("label_colors.txt", "0 background 0 0 0\n1 object 255 255 255\n"),
        (
            "labels.txt",
            '0 0 0 0 0 0 0 "background"\n1 255 255 255 1 1 1 "object"\n',
        ),
    ],
)
def test_ids_and_greys_in_one_legend(tmp_path: Path, name: str, text: str) -> None:
    """The masks hold either, or smoothed greys; both together are asked about."""
    (tmp_path / name).write_text(text)
    for white in (np.uint8(255), np.uint8(1)):
        truth = np.array([scene(number) > 0 for number in range(4)])
        masks = [save_png(ids * white, tmp_path / f"masks{k}.png") for k, ids in enumerate(truth)]
        coding, _ = shares(masks, truth)
        assert (coding.names, coding.ignore) == (("background", "object"), None)

    def save_both(ids: np.ndarray, path: Path, number: int) -> Path:
        return save_png((ids > 0) * np.uint8(255 if number % 2 else 1), path)

    masks, _ = write(tmp_path, save_both)
    assert raises(masks).code == "ambiguous-255"
    masks = [tmp_path / "masks" / f"{number}.jpg" for number in range(4)]
    for number, mask in enumerate(masks):
        Image.fromarray((scene(number) > 0) * np.uint8(255)).save(mask, quality=80)
    coding, _ = find_coding(masks)
    assert (coding.kind, coding.names) == ("threshold", ("background", "object"))


def test_commas_in_the_names_of_a_coco_file(tmp_path: Path) -> None:
    content = {
        "images": [{"id": 0, "file_name": "a.png", "width": 9, "height": 9}],
        "annotations": [
            {
                "id": k,
                "image_id": 0,
                "category_id": k,
                "segmentation": [[4 * k, 0, 4 * k + 3, 0, 4 * k, 3]],
            }
            for k in range(2)
        ],
        "categories": [{"id": 0, "name": "disc, round"}, {"id": 1, "name": "bar"}],
    }
    (tmp_path / "all.json").write_text(json.dumps(content))
    coding, pixels = find_coding([CocoImage(tmp_path / "all.json", 0)])
    assert coding.names == ("background", "disc / round", "bar")
    assert len(pixels) == 3


def test_a_legend_that_does_not_match_is_noted(tmp_path: Path) -> None:
    masks, truth = write(tmp_path, lambda ids, path, _: save_png(ids, path))
    (tmp_path / "classes.txt").write_text("background\ndog\n")
    coding, heard = shares(masks, truth)
    assert coding.names == ()
    assert "classes.txt" in heard.notes[0]


def test_labels_renumbered_in_each_folder(tmp_path: Path) -> None:
    """labelme's label.png with label_names.txt."""
    masks = []
    for number, names in enumerate((("cat", "dog"), ("dog",))):
        folder = tmp_path / str(number)
        folder.mkdir()
        ids = np.where(scene(number) > len(names), 0, scene(number))
        masks.append(save_png(ids.astype(np.uint8), folder / "label"))
        (folder / "label_names.txt").write_text("\n".join(["_background_", *names]))
    assert raises(masks).code == "legends-differ"


GAPS = np.array([0, 7, 15, 255])  # ids of PASCAL VOC and Cityscapes; the last is ignored


@pytest.mark.parametrize("name", ["{}", "{}_gtFine_labelIds"])
def test_ids_with_gaps_of_well_known_sets_are_classes(tmp_path: Path, name: str) -> None:
    packed = np.array([voc_color(k) for k in range(256)])
    colors = np.stack([packed >> 16, packed >> 8 & 255, packed & 255], axis=1)

    def save(ids: np.ndarray, path: Path, k: int) -> Path:
        stored = GAPS[np.where(disc(30, 40, 4), 3, ids)]
        path = path.with_name(name.format(k))
        return save_png(palette(stored, colors) if name == "{}" else stored.astype(np.uint8), path)

    masks, truth = write(tmp_path, save)
    coding, _ = find_coding(masks)
    assert (coding.values, coding.ignore) == ((0, 7, 15), 255)
    assert np.array_equal(coding.read(masks[0]), np.where(disc(30, 40, 4), 255, truth[0]))


def test_colours_of_voc_have_a_void(tmp_path: Path) -> None:
    colors = np.zeros((256, 3), np.uint8)
    for value in (*range(21), 255):
        colors[value] = [voc_color(value) >> shift & 255 for shift in (16, 8, 0)]

    def make(number: int) -> np.ndarray:
        return np.where(RING, 255, scene(number)).astype(np.uint8)

    masks, truth = write(tmp_path, lambda ids, path, _: save_png(colors[ids], path), make)
    # green comes before red
    shares(masks, np.array([0, 2, 1, *[255] * 253], np.uint8)[truth])


def test_the_palette_of_voc() -> None:
    known = {0: 0, 1: 0x800000, 7: 0x808080, 15: 0xC08080, 20: 0x004080, 255: 0xE0E0C0}
    assert {number: voc_color(number) for number in known} == known


def test_ids_with_gaps_of_unknown_sets_are_asked_for_with_255_ignored(tmp_path: Path) -> None:
    masks, _ = write(
        tmp_path,
        lambda ids, path, _: save_png(
            GAPS[np.where(disc(30, 40, 4), 3, ids)].astype(np.uint8), path
        ),
    )
    error = raises(masks)
    assert (error.code, error.flags) == ("stray-value", {"values": (0, 7, 15), "ignore": 255})


def test_masks_of_cellpose_number_objects(tmp_path: Path) -> None:
    """Also if they are few enough to be classes."""
    masks, truth = write(
        tmp_path,
        lambda ids, path, k: save_png(ids, path.with_name(f"{k}_cp_masks")),
        lambda number: numbered(number, 1, 2),
    )
    coding, _ = find_coding(masks)
    assert coding.kind == "instances"
    assert np.array_equal(coding.read(masks[1]), truth[1] > 0)


@pytest.mark.parametrize(
    ("stored", "wanted"),
    [
        ([0, 1002, 1003, 2001, 2004], [0, 1, 1, 2, 2]),
        ([0, 1002, 1003, 2001, 2004, 10000], [0, 1, 1, 2, 2, 255]),  # KITTI MOTS
        ([7, 11, 26002, 26003], [7, 11, 26, 26]),  # Cityscapes
    ],
)
def test_classes_joined_with_numbers_are_split(
    tmp_path: Path, stored: list[int], wanted: list[int]
) -> None:
    files = []
    for n in range(6):
        values = np.repeat(np.array(stored, np.uint16), 8)[:, None].repeat(24, axis=1)
        files.append(store(tmp_path / f"{n}.png", values))
    with pytest.raises(DataError, match="1000") as caught:
        find_coding(files, DataConfig())
    assert caught.value.code == "ids-or-objects"
    change = caught.value.fix
    assert isinstance(change, Change)
    assert set(change.files) == set(files)
    table = dict(change.how)
    assert [table.get(value, value) for value in stored] == wanted


@pytest.mark.parametrize("stored", [[0, 1400, 1401, 2300, 2301], [0, 1, 2], [0, 1002, 2001, 3001]])
def test_other_large_values_are_no_classes_joined_with_numbers(
    tmp_path: Path, stored: list[int]
) -> None:
    values = np.repeat(np.array(stored, np.uint16), 8)[:, None].repeat(24, axis=1)
    counts = [each for each in count_masks([store(tmp_path / "0.png", values)])]
    require_no_class_numbers([each for each in counts if isinstance(each, MaskCounts)], None)
