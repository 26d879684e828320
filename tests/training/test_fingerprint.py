from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from plainunet.config import DataConfig
from plainunet.dataset.classes import find_coding
from plainunet.dataset.coding import Values
from plainunet.dataset.pairs import Pair, find_pairs
from plainunet.dataset.split import split_pairs
from plainunet.formats.images import image_shape
from plainunet.training.plan import Fingerprint, take_fingerprint

CODING = Values((0, 1, 2))


def take(folder: Path, masks: list[NDArray[np.uint8]], part: str = "train") -> Fingerprint:
    folder.mkdir(exist_ok=True)
    pairs = []
    for number, mask in enumerate(masks):
        file = folder / f"{number}.png"
        Image.fromarray(mask).save(file)
        pairs.append(Pair(file, file, str(number), part))
    sizes = [(len(mask), len(mask[0])) for mask in masks]
    return take_fingerprint(pairs, sizes, CODING, {"a": 0.5, "b": 0.3, "c": 0.2})


def discs(diameters: list[int]) -> NDArray[np.uint8]:
    mask = np.zeros((200, 400), np.uint8)
    rows, columns = np.mgrid[:200, :400]
    for number, diameter in enumerate(diameters):
        row, column = 20 + 40 * (number % 4), 20 + 40 * (number // 4)
        mask[(rows - row) ** 2 + (columns - column) ** 2 < (diameter / 2) ** 2] = 1 + number % 2
    return mask


def test_the_smaller_objects_are_measured(tmp_path: Path) -> None:
    mask = discs([9] * 6 + [25] * 24)
    mask[199, 399] = 1  # a speck is no object
    seen = take(tmp_path, [mask] * 3)
    assert seen.smallest == pytest.approx(9, abs=0.7)
    assert seen.typical == pytest.approx(25, abs=0.7)
    assert seen.trained == 3
    assert seen.shares == {"a": 0.5, "b": 0.3, "c": 0.2}
    assert sorted(seen.kept) == [128, 256, 512]
    assert seen.kept[128] < seen.kept[512] == 1


def test_nothing_to_measure(tmp_path: Path) -> None:
    seen = take(tmp_path, [np.zeros((40, 60), np.uint8)] * 3)
    assert (seen.smallest, seen.typical, seen.kept, seen.spread) == (None, None, {}, 1)


def test_pictures_too_small_to_be_reduced_keep_nothing(tmp_path: Path) -> None:
    mask = discs([9] * 6)[:120, :120]
    assert take(tmp_path, [mask] * 3).kept == {}


def test_how_far_classes_are_spread(tmp_path: Path) -> None:
    corner = np.zeros((64, 64), np.uint8)
    corner[:16, :16] = 1
    dotted = np.zeros((64, 64), np.uint8)
    dotted[8::16, 8::16] = 1
    assert take(tmp_path / "a", [corner] * 3).spread == 1 / 16
    assert take(tmp_path / "b", [dotted] * 3).spread == 1
    both = dotted.copy()
    both[:32, :16] = 2
    assert take(tmp_path / "c", [both] * 3).spread == 2 / 16


def scene(seed: int, turned: bool) -> NDArray[np.uint8]:
    """Sky above, and a horizon that differs."""
    mask = np.zeros((64, 64), np.uint8)
    mask[: np.random.default_rng(seed).integers(20, 44)] = 1
    return mask[::-1] if turned else mask


def test_pictures_of_several_kinds_are_seen(tmp_path: Path) -> None:
    """Bright and dark ones, with little contrast in each."""
    noise = np.random.default_rng(0).integers(0, 2, (12, 40, 40), np.uint8)
    alike = take(tmp_path / "a", list(noise))
    assert alike.unlike < 0.1
    mixed = []
    for number, mask in enumerate(noise):
        image, file = tmp_path / f"{number}.png", tmp_path / f"{number}_mask.png"
        Image.fromarray(mask * 20 + 200 * np.uint8(number % 2)).save(image)
        Image.fromarray(mask).save(file)
        mixed.append(Pair(image, file, str(number), "train"))
    # 100 on each side of the middle, where values in a picture differ by 10
    assert take_fingerprint(mixed, [(40, 40)] * 12, CODING, {}).unlike == pytest.approx(10, 0.02)


def test_an_upright_side_is_seen(tmp_path: Path) -> None:
    assert take(tmp_path / "a", [scene(n, False) for n in range(20)]).upright
    assert not take(tmp_path / "b", [scene(n, n % 2 == 0) for n in range(20)]).upright


def test_too_few_to_tell_are_taken_as_upright(tmp_path: Path) -> None:
    assert take(tmp_path, [scene(n, n % 2 == 0) for n in range(6)]).upright


def test_only_training_masks_are_looked_at(tmp_path: Path) -> None:
    held_out = tmp_path / "gone.png"
    mask = tmp_path / "a.png"
    Image.fromarray(discs([20])).save(mask)
    pairs = [Pair(mask, mask, "a", "train"), Pair(held_out, held_out, "b", "val")]
    assert take_fingerprint(pairs, [(200, 400)] * 2, CODING, {}).trained == 1


def test_a_mask_that_cannot_be_read(tmp_path: Path) -> None:
    mask = tmp_path / "a.png"
    mask.write_bytes(b"no picture")
    with pytest.raises(ValueError, match=r"a\.png"):
        take_fingerprint([Pair(mask, mask, "a", "train")], [(9, 9)], CODING, {})


@pytest.mark.parametrize(
    ("name", "ignore", "upright"),
    [("camvid", 11, True), ("dsb2018", None, False), ("isbi2012", None, False)],
)
def test_real_data(data_root: Path, name: str, ignore: int | None, upright: bool) -> None:
    pairs = find_pairs(data_root / name)
    coding, _ = find_coding([pair.mask for pair in pairs], DataConfig(ignore=ignore))
    pairs = split_pairs(pairs)
    sizes = [image_shape(pair.image)[:2] for pair in pairs]
    seen = take_fingerprint(pairs, sizes, coding, {})
    assert seen.upright == upright
    assert seen.smallest is not None
    assert seen.typical is not None
    assert 2 < seen.smallest < seen.typical
    assert (seen.typical > 100) == (seen.spread < 0.5) == (name == "camvid")
    assert (seen.unlike > 1.5) == (name == "dsb2018")
    assert 0.9 < seen.kept[128] < seen.kept[256] < seen.kept[512] <= 1
