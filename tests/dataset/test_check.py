from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from plainunet.dataset.pairs import Pair, find_pairs
from plainunet.dataset.verify import check_pairs


def save(path: Path, height: int, width: int, channels: int = 1) -> Path:
    shape = (height, width) if channels == 1 else (height, width, channels)
    noise = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    path.parent.mkdir(exist_ok=True)
    Image.fromarray(noise).save(path)
    return path


def make_pair(root: Path, stem: str, height: int = 20, width: int = 30, channels: int = 3) -> Pair:
    image = save(root / "images" / f"{stem}.jpg", height, width, channels)
    return Pair(image, save(root / "masks" / f"{stem}.png", height, width), stem, None)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-20])


def test_sizes_and_progress(tmp_path: Path) -> None:
    pairs = [make_pair(tmp_path, "a"), make_pair(tmp_path, "b", 40, 50)]
    calls: list[tuple[int, int]] = []
    sizes = check_pairs(pairs, lambda done, total: calls.append((done, total)))
    assert sizes == [(20, 30), (40, 50)]
    assert calls == [(1, 2), (2, 2)]


def test_grey_and_rgb_may_be_mixed(tmp_path: Path) -> None:
    pairs = [make_pair(tmp_path, "a"), make_pair(tmp_path, "b", channels=1)]
    assert check_pairs(pairs) == [(20, 30)] * 2


def test_exif_orientation_counts(tmp_path: Path) -> None:
    pair = make_pair(tmp_path, "a")
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (20, 30)).save(pair.image, exif=exif)
    assert check_pairs([pair]) == [(20, 30)]


def test_all_problems_are_named_at_once(tmp_path: Path) -> None:
    pairs = [make_pair(tmp_path, stem) for stem in "abcdefg"]
    cut(pairs[0].image)
    cut(pairs[1].mask)
    save(pairs[2].mask, 20, 31)
    pairs[3].image.unlink()
    pairs[4].mask.write_text("text")
    pairs[5].image.write_bytes(b"")
    with pytest.raises(ValueError, match=r"^6 problems with the data:") as raised:
        check_pairs(pairs)
    lines = str(raised.value).splitlines()[1:]
    wanted = [
        "images/a.jpg is cut off",
        "masks/b.png is cut off",
        "masks/c.png is 31x20 pixels, its picture",
        "images/d.jpg does not exist",
        "masks/e.png is not a picture",
        "images/f.jpg is empty",
    ]
    assert len(lines) == len(wanted)
    assert all(part in line for part, line in zip(wanted, lines, strict=True))
    assert "images/c.jpg is 30x20" in lines[2]


def test_more_than_ten_problems_are_counted(tmp_path: Path) -> None:
    pairs = [make_pair(tmp_path, str(number)) for number in range(13)]
    for pair in pairs:
        cut(pair.image)
    with pytest.raises(ValueError, match=r"^13 problems") as raised:
        check_pairs(pairs)
    lines = str(raised.value).splitlines()
    assert len(lines) == 1 + 10 + 1
    assert lines[-1].strip() == "and 3 more"


def test_one_problem_is_said_in_the_singular(tmp_path: Path) -> None:
    pairs = [make_pair(tmp_path, "a"), make_pair(tmp_path, "b")]
    cut(pairs[1].image)
    with pytest.raises(ValueError, match=r"^1 problem with the data"):
        check_pairs(pairs)


def test_pictures_with_other_channels_are_named(tmp_path: Path) -> None:
    import tifffile

    pairs = [make_pair(tmp_path, stem) for stem in "abc"]
    layout = {"photometric": "minisblack", "planarconfig": "contig"}
    bands = tmp_path / "images/d.tif"
    tifffile.imwrite(bands, np.zeros((20, 30, 5), np.uint8), **layout)
    pairs.append(Pair(bands, pairs[0].mask, "d", None))
    with pytest.raises(
        ValueError, match=r"d\.tif has 5 channels, most of the pictures have 1 or 3"
    ):
        check_pairs(pairs)


@pytest.mark.parametrize(
    "name", ["isbi2012", "dsb2018", "camvid", "dubai_aerial", "carrotweed", "chasedb1"]
)
def test_real_sets_are_sound(data_root: Path, name: str) -> None:
    pairs = find_pairs(data_root / name)
    wanted = []
    for pair in pairs:
        with Image.open(pair.image) as image, Image.open(pair.mask) as mask:
            assert image.size == mask.size
            wanted.append(image.size[::-1])
    assert check_pairs(pairs) == wanted


def test_real_carvana_is_sound(data_root: Path) -> None:
    assert check_pairs(find_pairs(data_root / "carvana")[::8]) == [(1280, 1918)] * 95
