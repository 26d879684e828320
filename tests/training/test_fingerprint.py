"""Statistics of a dataset."""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from plainunet.config import DataConfig, TrainConfig
from plainunet.dataset.coding import Instances, Values
from plainunet.dataset.dataset import SegmentationDataset
from plainunet.dataset.pairs import Pair, find_pairs
from plainunet.training.fingerprint import Fingerprint, take_fingerprint

from ..folders import save

Ids = NDArray[np.uint8]
CODING = Values((0, 1, 2))


def take(
    folder: Path, masks: Sequence[Ids], images: Sequence[Ids] = (), part: str = "train"
) -> Fingerprint:
    """Write masks, by default also used as images, and compute their statistics."""
    pairs = []
    for number, mask in enumerate(masks):
        file = save(folder / f"{number}.png", mask)
        image = save(folder / f"{number}_image.png", images[number]) if len(images) else file
        pairs.append(Pair(image, file, str(number), part))
    sizes = [(len(mask), len(mask[0])) for mask in masks]
    return take_fingerprint(pairs, sizes, CODING, {"a": 0.5, "b": 0.3, "c": 0.2})


def discs(diameters: list[int]) -> Ids:
    mask = np.zeros((200, 400), np.uint8)
    rows, columns = np.mgrid[:200, :400]
    for number, diameter in enumerate(diameters):
        row, column = 20 + 40 * (number % 4), 20 + 40 * (number // 4)
        mask[(rows - row) ** 2 + (columns - column) ** 2 < (diameter / 2) ** 2] = 1 + number % 2
    return mask


def test_diameters_of_objects(tmp_path: Path) -> None:
    mask = discs([9] * 6 + [25] * 24)
    mask[199, 399] = 1  # too small for an object
    stats = take(tmp_path, [mask] * 3)
    assert stats.smallest == pytest.approx(9, abs=0.7)
    assert stats.typical == pytest.approx(25, abs=0.7)
    assert stats.trained == 3
    assert stats.shares == {"a": 0.5, "b": 0.3, "c": 0.2}
    assert sorted(stats.ceilings) == [128, 256, 512]
    assert stats.ceilings[128] < stats.ceilings[512] == 1


def test_empty_masks_and_small_images(tmp_path: Path) -> None:
    stats = take(tmp_path / "a", [np.zeros((40, 60), np.uint8)] * 3)
    assert (stats.smallest, stats.typical, stats.ceilings, stats.spread) == (None, None, {}, 1)
    assert take(tmp_path / "b", [discs([9] * 6)[:120, :120]] * 3).ceilings == {}


def test_spread_of_classes(tmp_path: Path) -> None:
    corner, dotted = np.zeros((2, 64, 64), np.uint8)
    corner[:16, :16] = 1
    dotted[8::16, 8::16] = 1
    both = dotted.copy()
    both[:32, :16] = 2
    for name, mask, spread in (("a", corner, 1 / 16), ("b", dotted, 1), ("c", both, 2 / 16)):
        assert take(tmp_path / name, [mask] * 3).spread == spread


def test_touching_objects_with_numbers_are_apart(tmp_path: Path) -> None:
    """Cells of 20 x 20 pixels without gaps between them."""
    rows, columns = np.mgrid[:10, :10].repeat(20, axis=1).repeat(20, axis=2)
    cells = save(tmp_path / "cells.png", (1 + 10 * rows + columns).astype(np.uint8))
    pairs = [Pair(cells, cells, "cells", "train")]
    stats = take_fingerprint(pairs, [(200, 200)], Instances(), {"background": 0.0, "cell": 1.0})
    assert stats.typical == pytest.approx(math.sqrt(4 / math.pi) * 20)
    assert stats.smallest == stats.typical


def test_variation_between_images(tmp_path: Path) -> None:
    """Bright and dark images, each with little contrast."""
    noise = np.random.default_rng(0).integers(0, 2, (12, 40, 40), np.uint8)
    assert take(tmp_path / "a", noise).variation < 0.1
    mixed = [mask * 20 + 200 * np.uint8(number % 2) for number, mask in enumerate(noise)]
    # image means are 100 from their mean, values in an image 10
    assert take(tmp_path / "b", noise, mixed).variation == pytest.approx(10, 0.02)


@pytest.mark.parametrize(
    ("count", "turned", "upright"),
    [(20, False, True), (20, True, False), (6, True, True)],
    ids=["upright", "flipped", "too few"],
)
def test_upright_images(tmp_path: Path, count: int, turned: bool, upright: bool) -> None:
    """Sky above a random horizon; every second image may be flipped."""
    scenes = np.zeros((count, 64, 64), np.uint8)
    for number, scene in enumerate(scenes):
        scene[: np.random.default_rng(number).integers(20, 44)] = 1
        scene[:] = scene[::-1] if turned and number % 2 == 0 else scene
    assert take(tmp_path, scenes).upright == upright


@pytest.mark.parametrize("turned", [False, True])
def test_brightness_shows_an_upright_orientation(tmp_path: Path, turned: bool) -> None:
    """A dark floor in each image; objects are anywhere."""
    rng = np.random.default_rng(0)
    masks = rng.integers(0, 2, (12, 64, 64), np.uint8)
    images = rng.integers(0, 99, (12, 64, 64), np.uint8)
    images[:, :24] += 100
    if turned:
        images[::2] = images[::2, ::-1]
    assert take(tmp_path, masks, images).upright != turned


def test_only_training_masks_are_used(tmp_path: Path) -> None:
    mask, gone = save(tmp_path / "a.png", discs([20])), tmp_path / "gone.png"
    pairs = [Pair(mask, mask, "a", "train"), Pair(gone, gone, "b", "val")]
    assert take_fingerprint(pairs, [(200, 400)] * 2, CODING, {}).trained == 1
    mask.write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"a\.png"):
        take_fingerprint(pairs, [(200, 400)] * 2, CODING, {})


PLANAR = ("carrotweed", "chasedb1")  # seen from above: without an orientation


def take_real(folder: Path, ignore: int | None = None) -> Fingerprint:
    dataset = SegmentationDataset.open(folder, DataConfig(ignore=ignore)).split(TrainConfig())
    return take_fingerprint(dataset.pairs, dataset.sizes, dataset.coding, {})


@pytest.mark.parametrize(
    ("name", "ignore", "streets"),
    [("camvid", 11, True), ("dsb2018", None, False), ("isbi2012", None, False)],
)
def test_real_data(data_root: Path, name: str, ignore: int | None, streets: bool) -> None:
    stats = take_real(data_root / name, ignore)
    assert stats.upright == streets
    assert stats.smallest is not None
    assert stats.typical is not None
    assert 2 < stats.smallest < stats.typical
    assert (stats.typical > 100) == (stats.spread < 0.5) == streets
    assert (stats.variation > 1.5) == (name == "dsb2018")
    assert 0.9 < stats.ceilings[128] < stats.ceilings[256] < stats.ceilings[512] <= 1


@pytest.mark.parametrize(
    "name", ["carvana", *(pytest.param(name, marks=pytest.mark.slow) for name in PLANAR)]
)
def test_real_images_have_an_orientation(data_root: Path, tmp_path: Path, name: str) -> None:
    """Cars stand upright; plants and retinas, seen from above, do not. A few images say so."""
    pairs = find_pairs(data_root / name)
    for number, pair in enumerate(pairs[:: -(-len(pairs) // 24)]):
        for kind, path in (("images", pair.image), ("masks", pair.mask)):
            (tmp_path / kind).mkdir(exist_ok=True)
            (tmp_path / kind / f"{number}{path.suffix}").symlink_to(path)
    assert take_real(tmp_path).upright == (name not in PLANAR)
