import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from plainunet.doctor.fit import appearance, find_inverted
from plainunet.formats.images import read_image

Image = NDArray[Any]
Ids = NDArray[np.uint8]


def scene(seed: int, bright: bool = True) -> tuple[Image, Ids]:
    """A disc on a noisy ground, brighter or darker than it: [60, 80, 3] and its mask."""
    random = np.random.default_rng(seed)
    y, x = random.integers(20, 40), random.integers(25, 55)
    rows, columns = np.mgrid[:60, :80]
    ids = (np.hypot(rows - y, columns - x) < random.integers(8, 18)).astype(np.uint8)
    light = np.where(ids == bright, 160, 60)
    return (light[..., None] + random.integers(0, 40, (60, 80, 3))).astype(np.uint8), ids


def exchanged(ids: Ids) -> Ids:
    return np.where(ids == 255, ids, 1 - ids).astype(np.uint8)


def test_each_feature_changes_its_sign() -> None:
    image, ids = scene(0)
    ids[:20, :30] = 255
    right, wrong = appearance(image, ids), appearance(image, exchanged(ids))
    assert len(right) == 3
    assert json.loads(json.dumps(right)) == right
    np.testing.assert_allclose(right, -np.array(wrong), atol=1e-4)
    # little of it is disc, none of its border is, and the disc is bright
    assert right[0] < -1
    assert right[1] == pytest.approx(-np.log(49))
    assert right[2] > 0.5
    np.testing.assert_allclose(appearance(None, ids), right[:2])


@pytest.mark.parametrize("count", [6, 12, 40])
def test_one_mask_the_wrong_way_round(count: int) -> None:
    scenes = [scene(seed) for seed in range(count)]
    right = [appearance(*each) for each in scenes]
    assert find_inverted(right) == []
    image, ids = scenes[4]
    wrong = appearance(image, exchanged(ids))
    assert find_inverted([*right[:4], wrong, *right[5:]]) == [4]
    # without the picture, and with pairs that could not be read
    wrong = appearance(None, exchanged(ids))
    assert find_inverted([None, *right[:4], wrong, None, *right[5:]]) == [5]


def test_some_of_many_the_wrong_way_round() -> None:
    scenes = [scene(seed) for seed in range(40)]
    found = [
        appearance(image, exchanged(ids) if number % 13 == 0 else ids)
        for number, (image, ids) in enumerate(scenes)
    ]
    assert find_inverted(found) == [0, 13, 26, 39]


def test_a_set_of_two_kinds() -> None:
    # bright discs, and dark ones: neither is the other one's exchange
    scenes = [scene(seed, bright=seed % 3 > 0) for seed in range(30)]
    right = [appearance(*each) for each in scenes]
    assert find_inverted(right) == []
    for index in (0, 1):
        image, ids = scenes[index]
        wrong = appearance(image, exchanged(ids))
        assert find_inverted([*right[:index], wrong, *right[index + 1 :]]) == [index]


def test_nothing_is_said_where_nothing_tells() -> None:
    right = [appearance(*scene(seed)) for seed in range(12)]
    wrong = [-each for each in right[0]]
    assert find_inverted([]) == []
    assert find_inverted([None] * 12) == []
    # too few to be a set
    assert find_inverted([wrong, *right[1:5]]) == []
    # half of them: which half?
    assert find_inverted([[-each for each in some] for some in right[:6]] + right[6:]) == []
    # all of them
    assert find_inverted([[-each for each in some] for some in right]) == []


def test_masks_of_more_classes_are_left_alone() -> None:
    image, ids = scene(0)
    assert appearance(image, ids * np.uint8(2)) == []
    right = [appearance(*scene(seed)) for seed in range(12)]
    assert find_inverted([[-each for each in right[0]], *right[1:], []]) == []


def test_masks_of_one_class_or_none() -> None:
    image, ids = scene(0)
    ignored = appearance(image, np.full_like(ids, 255))
    empty = appearance(image, np.zeros_like(ids))
    assert ignored == [0, 0, 0]
    assert empty == pytest.approx([-np.log(49), -np.log(49), 0])
    right = [appearance(*scene(seed)) for seed in range(12)]
    assert find_inverted([*right, ignored, empty]) == []
    flat = appearance(np.full_like(image, 9), ids)
    assert flat[2] == 0


@pytest.mark.parametrize("dtype", [np.uint16, np.int32, np.float32])
def test_numbers_of_any_kind(dtype: type[np.generic]) -> None:
    image, ids = scene(0)
    same = appearance(image.astype(dtype)[..., :1], ids)
    assert same == pytest.approx(appearance(image[..., :1], ids), abs=0.01)


def test_real_membranes_and_nuclei(data_root: Path) -> None:
    for name in ("isbi2012", "dsb2018"):
        paths = sorted((data_root / name / "images").glob("*.png"))[:40]
        pairs = [
            (read_image(path), (read_image(path.parents[1] / "masks" / path.name)[..., 0] > 0))
            for path in paths
        ]
        right = [appearance(image, ids.astype(np.uint8)) for image, ids in pairs]
        assert find_inverted(right) == []
        image, ids = pairs[1]
        wrong = appearance(image, (~ids).astype(np.uint8))
        assert find_inverted([right[0], wrong, *right[2:]]) == [1]
