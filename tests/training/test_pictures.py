"""Which pictures are shown of a judging, and that each takes the place of the one before."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from plainunet.dataset.coding import Values
from plainunet.dataset.pairs import Pair
from plainunet.dataset.samples import Samples
from plainunet.training.validate import Pictures

COLORS = ((0, 0, 0), (255, 255, 255))


def samples(count: int) -> Samples:
    """Samples of files that nobody reads."""
    pairs = [Pair(Path(f"p{n}.jpg"), Path(f"p{n}.png"), str(n), "val") for n in range(count)]
    return Samples(pairs, Values((0, 1)), (8, 12))


def judge(folder: Path, count: int, class_id: int) -> list[str]:
    """Write the pictures of a judging in which all is of one class; gives their names."""
    shown = Pictures(samples(count), COLORS)
    mask = np.full((8, 12), class_id, np.uint8)
    for index in range(count):
        image = np.full((8, 12, 3), index, np.uint8)
        shown.show(index, image, np.zeros_like(mask), mask)
    shown.write(folder)
    return sorted(file.name for file in folder.iterdir())


@pytest.mark.parametrize(
    ("count", "wanted"),
    [
        (1, ["1_p0.png"]),
        (3, ["1_p0.png", "2_p1.png", "3_p2.png"]),
        (4, ["1_p0.png", "2_p1.png", "3_p2.png", "4_p3.png"]),
        (31, ["1_p0.png", "2_p10.png", "3_p20.png", "4_p30.png"]),
    ],
)
def test_a_few_are_shown_spread_evenly(tmp_path: Path, count: int, wanted: list[str]) -> None:
    assert judge(tmp_path / "new", count, 0) == wanted


def test_each_takes_the_place_of_the_one_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = judge(tmp_path, 9, class_id=0)
    before = {name: (tmp_path / name).read_bytes() for name in names}
    assert judge(tmp_path, 9, class_id=1) == names
    for number, name in zip((0, 3, 5, 8), names, strict=True):
        assert (tmp_path / name).read_bytes() != before[name]
        with Image.open(tmp_path / name) as picture:
            assert picture.size == (4 * 12 + 3 * 4, 8)
            assert picture.getpixel((0, 0)) == (number,) * 3
            assert picture.getpixel((2 * 16, 0)) == (255, 255, 255)

    def fail(*_: object, **__: object) -> None:
        raise OSError("no space left")

    kept = {name: (tmp_path / name).read_bytes() for name in names}
    monkeypatch.setattr(Image.Image, "save", fail)
    with pytest.raises(OSError, match="no space"):
        judge(tmp_path, 9, class_id=0)
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == kept
