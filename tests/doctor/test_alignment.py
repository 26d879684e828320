"""A mask fits its own image better than moved, turned or on another one; else that is found."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from plainunet.demo import draw_scene
from plainunet.doctor.alignment import (
    TURNS,
    Evidence,
    Misfit,
    edge_evidence,
    edge_fit,
    find_misfits,
    image_edges,
    mask_edges,
    reduce_image,
    shrink_edges,
)
from plainunet.formats.image_files import turn_upright
from plainunet.formats.images import read_image

Image = NDArray[Any]
Ids = NDArray[np.uint8]
Scene = tuple[Image, Ids]


@pytest.fixture(scope="module")
def scenes() -> list[Scene]:
    """Twelve images [144, 176, 3] of leaves and stones, and their masks, 0..2."""
    return [draw_scene(np.random.default_rng(number), (144, 176)) for number in range(12)]


@pytest.fixture(scope="module")
def evidence(scenes: list[Scene]) -> list[Evidence]:
    return [edge_evidence(*scene) for scene in scenes]


def moved(ids: Ids, dx: int, dy: int) -> Ids:
    """Moved to the right and down, filled up with what lies at the edge."""
    height, width = ids.shape
    rows = np.clip(np.arange(height) - dy, 0, height - 1)
    return ids[rows][:, np.clip(np.arange(width) - dx, 0, width - 1)]


def with_one(evidence: list[Evidence], index: int, other: Evidence) -> list[Evidence]:
    return [*evidence[:index], other, *evidence[index + 1 :]]


def only(misfits: list[Misfit]) -> Misfit:
    assert len(misfits) == 1, misfits
    return misfits[0]


def test_masks_that_fit_are_not_named(evidence: list[Evidence]) -> None:
    assert find_misfits(evidence) == []
    assert find_misfits(evidence[:1]) == []
    assert find_misfits([]) == []
    assert find_misfits([None, None]) == []


@pytest.mark.parametrize(("dx", "dy"), [(8, 0), (0, -8), (-8, 8), (5, 0)])
def test_a_shifted_mask(scenes: list[Scene], evidence: list[Evidence], dx: int, dy: int) -> None:
    image, ids = scenes[3]
    found = only(find_misfits(with_one(evidence, 3, edge_evidence(image, moved(ids, dx, dy)))))
    assert (found.index, found.kind) == (3, "shifted")
    # where it has to go
    assert abs(found.dx + dx) <= 1
    assert abs(found.dy + dy) <= 1
    assert found.gain > 1


@pytest.mark.parametrize("turn", [2, 3, 4])
def test_a_turned_mask(scenes: list[Scene], evidence: list[Evidence], turn: int) -> None:
    image, ids = scenes[5]
    found = only(find_misfits(with_one(evidence, 5, edge_evidence(image, turn_upright(ids, turn)))))
    assert (found.index, found.kind, found.turn) == (5, "flipped", turn)
    assert turn in TURNS


@pytest.mark.parametrize("turn", range(2, 9))
def test_a_mask_drawn_before_the_image_was_turned(scenes: list[Scene], turn: int) -> None:
    image, ids = (np.ascontiguousarray(part[:144, :144]) for part in scenes[1])
    upright = turn_upright(image, turn)
    found = only(find_misfits([edge_evidence(upright, ids, turn)]))
    assert (found.kind, found.turn) == ("exif", turn)
    # the remedy is the turn itself
    assert find_misfits([edge_evidence(upright, turn_upright(ids, turn), turn)]) == []
    # without that orientation, it is somebody's flip, not the camera's
    assert only(find_misfits([edge_evidence(upright, ids)])).kind == "flipped"


def test_two_swapped_masks_and_one_that_was_copied(
    scenes: list[Scene], evidence: list[Evidence]
) -> None:
    (image, ids), (other_image, other_ids) = scenes[2], scenes[9]
    one, two = edge_evidence(image, other_ids), edge_evidence(other_image, ids)
    swapped = find_misfits(with_one(with_one(evidence, 2, one), 9, two))
    assert [(each.index, each.kind, each.other) for each in swapped] == [
        (2, "swapped", 9),
        (9, "swapped", 2),
    ]
    copied = only(find_misfits(with_one(evidence, 2, one)))
    assert (copied.index, copied.kind, copied.other) == (2, "elsewhere", 9)


def test_faults_that_all_masks_share(scenes: list[Scene]) -> None:
    def found(spoil: Callable[[Ids], Ids]) -> list[Misfit]:
        return find_misfits([edge_evidence(image, spoil(ids)) for image, ids in scenes])

    shifted = found(lambda ids: moved(ids, 7, -6))
    assert [each.index for each in shifted] == list(range(12))
    assert {each.kind for each in shifted} == {"shifted"}
    assert all(abs(each.dx + 7) <= 1 and abs(each.dy - 6) <= 1 for each in shifted)
    flipped = found(lambda ids: turn_upright(ids, 2))
    assert [(each.index, each.kind, each.turn) for each in flipped] == [
        (index, "flipped", 2) for index in range(12)
    ]
    # each mask has the name of the previous image: no two are swapped
    masks = [ids for _, ids in scenes[1:]] + [scenes[0][1]]
    late = [edge_evidence(image, ids) for (image, _), ids in zip(scenes, masks, strict=True)]
    assert [(each.kind, each.other) for each in find_misfits(late)] == [
        ("elsewhere", (index + 1) % 12) for index in range(12)
    ]


@pytest.mark.parametrize("how", [cv2.dilate, cv2.erode])
@pytest.mark.parametrize("pixels", [3, 6])
def test_loose_and_tight_outlines_are_no_shifts(
    scenes: list[Scene], how: Callable[[Ids, Ids], Ids], pixels: int
) -> None:
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * pixels + 1,) * 2).astype(np.uint8)
    found = find_misfits([edge_evidence(image, how(ids, disc)) for image, ids in scenes])
    assert len(found) <= 1, found


def test_masks_and_images_that_show_nothing(scenes: list[Scene]) -> None:
    image, ids = scenes[0]
    nothing = np.zeros_like(ids)
    noise = np.random.default_rng(0).integers(0, 256, image.shape).astype(np.uint8)
    dumb = [
        edge_evidence(image, nothing),
        edge_evidence(image, nothing + np.uint8(255)),
        edge_evidence(np.zeros_like(image), ids),
        edge_evidence(noise, ids),
        edge_evidence(image[:1, :1], ids[:1, :1]),
        edge_evidence(image[:1], ids[:1]),
    ]
    assert [find_misfits([each]) for each in dumb] == [[]] * 6
    assert [each.border > 0 for each in dumb[:4]] == [False, False, True, True]
    # a black image does not fit its mask, and another does
    assert only(find_misfits(dumb[:3])).kind == "elsewhere"


@pytest.mark.parametrize("dtype", [np.uint16, np.int32, np.float32, np.float64])
def test_numbers_of_any_kind(scenes: list[Scene], dtype: type[np.generic]) -> None:
    image, ids = scenes[4]
    factor = {np.uint16: 257, np.int32: -1000}.get(dtype, 1e-6)
    plain = edge_evidence(image, ids)
    same = edge_evidence((image * np.float64(factor)).astype(dtype), ids)
    np.testing.assert_allclose(same.fits[1:5], plain.fits[1:5], atol=0.02)
    assert same.fits[1] > 0.3


def test_many_channels_and_many_classes(scenes: list[Scene]) -> None:
    image, ids = scenes[4]
    many = np.concatenate([np.full_like(image, 7), image], axis=2)
    plain = edge_evidence(image, ids)
    assert edge_evidence(many, ids).fits[1] == pytest.approx(plain.fits[1], abs=0.01)
    # 4, 7 and 9 differ in one, two or three binary digits
    assert edge_evidence(image, np.array([4, 7, 9], np.uint8)[ids]).fits[1] == pytest.approx(
        plain.fits[1], abs=0.03
    )


def test_borders_with_what_is_ignored_do_not_count() -> None:
    ids = np.zeros((60, 80), np.uint8)
    ids[20:40, 20:60] = 255
    image = np.where(ids[..., None] == 255, 200, 50).astype(np.uint8)
    assert edge_evidence(image, ids).border < 1
    ids[28:32, 35:45] = 1
    assert edge_evidence(image, ids).border < 1


def test_small_edges_fit_as_large_ones_do(scenes: list[Scene]) -> None:
    image, ids = scenes[6]
    large = image_edges(image, ids.shape), mask_edges(ids, ids.shape)
    small = [shrink_edges(each, 4000) for each in large]
    assert small[0][..., 0].size <= 4400
    assert edge_fit(*small) == pytest.approx(edge_fit(*large), rel=0.25)


def test_any_numbers_and_channels_are_reduced() -> None:
    image = np.arange(80 * 60 * 7).reshape(80, 60, 7)
    whole = image.reshape(20, 4, 15, 4, 7).mean(axis=(1, 3))
    for dtype in (np.uint16, np.int32, np.float64):
        small = reduce_image(image.astype(dtype), (20, 15))
        assert small.dtype == np.float32
        np.testing.assert_allclose(small, whole, rtol=1e-3, atol=1)


def test_image_and_mask_of_different_size(scenes: list[Scene]) -> None:
    image, ids = scenes[0]
    with pytest.raises(ValueError, match=r"176 x 144\b.*\b176 x 143\b"):
        edge_evidence(image, ids[1:])


def test_it_starts_without_torch_and_scipy() -> None:
    code = (
        "import sys, plainunet.doctor.alignment, plainunet.doctor.fit;"
        "sys.exit(bool({'torch', 'scipy'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def read_pairs(root: Path, part: str, count: int, ending: str = ".png") -> list[Scene]:
    """The first pairs of a set, of a part of its images/ and masks/."""
    paths = sorted((root / "images" / part).iterdir())[:count]
    masks = [root / "masks" / part / f"{path.stem}{ending}" for path in paths]
    return [
        (read_image(path), read_image(mask)[..., 0])
        for path, mask in zip(paths, masks, strict=True)
    ]


def test_real_weeds_by_the_exif_of_their_publisher(data_root: Path) -> None:
    pairs = read_pairs(data_root / "carrotweed", "", 8, "_mask.png")
    right = [edge_evidence(*pair) for pair in pairs]
    assert find_misfits(right) == []
    # the originals carry orientation 3; these masks are as drawn on what was stored
    image, ids = pairs[2]
    wrong = edge_evidence(image, turn_upright(ids, 3), 3)
    found = only(find_misfits(with_one(right, 2, wrong)))
    assert (found.index, found.kind, found.turn) == (2, "exif", 3)


def test_real_streets(data_root: Path) -> None:
    pairs = [
        (image, np.where(ids == 11, np.uint8(255), ids))
        for image, ids in read_pairs(data_root / "camvid", "val", 12)
    ]
    right = [edge_evidence(*pair) for pair in pairs]
    assert find_misfits(right) == []
    image, ids = pairs[7]
    found = only(find_misfits(with_one(right, 7, edge_evidence(image, moved(ids, -8, 0)))))
    assert (found.index, found.kind) == (7, "shifted")
    assert abs(found.dx - 8) <= 3
    assert abs(found.dy) <= 3


def test_real_neighbours_in_a_block_of_slices(data_root: Path) -> None:
    pairs = [
        (image, (ids > 0).astype(np.uint8))
        for image, ids in read_pairs(data_root / "isbi2012", "", 10)
    ]
    right = [edge_evidence(*pair) for pair in pairs]
    assert find_misfits(right) == []
    one = edge_evidence(pairs[4][0], pairs[5][1])
    two = edge_evidence(pairs[5][0], pairs[4][1])
    found = find_misfits(with_one(with_one(right, 4, one), 5, two))
    assert [(each.index, each.kind, each.other) for each in found] == [
        (4, "swapped", 5),
        (5, "swapped", 4),
    ]
