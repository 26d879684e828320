from pathlib import Path

import numpy as np
from PIL import Image

from plainunet.dataset.coding import MaskCounts, count_all_colors, count_masks
from plainunet.formats.problems import DataError
from plainunet.formats.sources import RleImage


def save(path: Path, values: object) -> Path:
    Image.fromarray(np.asarray(values)).save(path)
    return path


def test_values_are_counted(tmp_path: Path) -> None:
    mask = np.array([[0, 0, 7], [0, 255, 7], [0, 7, 7]], np.uint8)
    deep = np.array([[0, 300], [300, 2]], np.uint16)
    paths = [save(tmp_path / "a.png", mask), save(tmp_path / "b.png", deep)]
    shallow, deeper = count_masks(paths)
    assert isinstance(shallow, MaskCounts)
    assert isinstance(deeper, MaskCounts)
    assert (shallow.size, shallow.kind, shallow.is_deep) == ((3, 3), "png", False)
    assert shallow.values.tolist() == [0, 7, 255]
    assert shallow.pixels.tolist() == [4, 4, 1]
    assert deeper.is_deep
    assert deeper.values.tolist() == [0, 2, 300]


def test_equal_masks_have_equal_digests(tmp_path: Path) -> None:
    mask = np.array([[0, 1], [1, 1]], np.uint8)
    paths = [
        save(tmp_path / "a.png", mask),
        save(tmp_path / "b.gif", mask),
        save(tmp_path / "c.png", mask.T[::-1]),
        save(tmp_path / "d.png", mask.reshape(1, 4)),
    ]
    digests = [each.digest for each in count_masks(paths) if isinstance(each, MaskCounts)]
    assert digests[0] == digests[1]
    assert len(set(digests)) == 3


def test_coloured_masks_are_told_apart(tmp_path: Path) -> None:
    colored = save(tmp_path / "a.png", np.array([[[255, 0, 0], [0, 0, 0]]], np.uint8))
    (count,) = count_masks([colored])
    assert isinstance(count, MaskCounts)
    assert count.is_colored
    assert count.size == (1, 2)
    ((colors, pixels),) = count_all_colors([colored])
    assert (colors.tolist(), pixels.tolist()) == ([0, 0xFF0000], [1, 1])


def test_what_is_wrong_comes_in_its_turn(tmp_path: Path) -> None:
    good = save(tmp_path / "a.png", np.eye(3, dtype=np.uint8))
    (tmp_path / "b.png").write_bytes(good.read_bytes()[:-9])
    first, second, third = count_masks([good, tmp_path / "b.png", tmp_path / "c.png"])
    assert isinstance(first, MaskCounts)
    assert isinstance(second, DataError)
    assert second.code == "cut-off"
    assert isinstance(third, DataError)
    assert third.code == "missing-file"


def test_items_have_no_kind(tmp_path: Path) -> None:
    (tmp_path / "m.csv").write_text("image,rle\na.png,1 2\n")
    item = RleImage(tmp_path / "m.csv", "a", 3, 4, "rows")
    (count,) = count_masks([item])
    if isinstance(count, MaskCounts):
        assert (count.kind, count.size) == ("", (3, 4))
    else:
        assert str(tmp_path) in str(count)


def test_equal_coloured_masks_are_told(tmp_path: Path) -> None:
    mask = np.array([[[255, 0, 0], [0, 0, 0]]] * 3, np.uint8)
    full = np.full_like(mask, (255, 0, 0))
    paths = [
        save(tmp_path / "a.png", mask),
        save(tmp_path / "b.png", mask),
        save(tmp_path / "c.png", mask[:, ::-1]),
        # of one colour alone, masks are all the same
        save(tmp_path / "d.png", full),
    ]
    digests = [each.digest for each in count_masks(paths) if isinstance(each, MaskCounts)]
    assert digests[0] == digests[1] != digests[2]
    assert digests[3] == ""
