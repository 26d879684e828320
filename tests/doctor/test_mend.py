"""Each command is run by a real shell on a real file."""

import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from plainunet.doctor.findings import (
    drop_orientation,
    exchange_files,
    exchange_values,
    move_files,
    replace_values,
    resize_files,
    turn_files,
)
from plainunet.formats.encoded import turn_upright
from plainunet.formats.images import read_image, stored_shape
from plainunet.formats.masks import read_mask

RANDOM = np.random.default_rng(0)
MASK = RANDOM.integers(0, 3, (20, 30)).astype(np.uint8)


def run(command: str) -> None:
    subprocess.run(["bash", "-c", command], check=True, capture_output=True)


@pytest.fixture(params=["it's a mask.png", "mask.gif", "mask.tif", "mask.bmp"])
def path(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """A palette mask of values 0, 1, 2."""
    path: Path = tmp_path / request.param
    image = Image.fromarray(MASK)
    image.putpalette([0, 0, 0, 200, 0, 0, 0, 0, 200])
    image.save(path)
    assert (read_mask(path) == MASK).all()
    return path


def test_replace_values(path: Path) -> None:
    run(replace_values({2: 1, 1: 0}, [path]))
    assert (read_mask(path) == np.choose(MASK, [0, 0, 1])).all()


def test_exchange_values(path: Path) -> None:
    run(exchange_values(0, 2, [path]))
    assert (read_mask(path) == np.choose(MASK, [2, 1, 0])).all()


def test_exchange_of_one_bit(tmp_path: Path) -> None:
    path = tmp_path / "mask.png"
    Image.fromarray(MASK > 0).save(path)
    run(exchange_values(0, 1, [path]))
    assert (read_mask(path) == (MASK == 0)).all()


def test_exchange_of_black_and_white(tmp_path: Path) -> None:
    path = tmp_path / "mask.png"
    Image.fromarray((MASK > 0) * np.uint8(255)).save(path)
    run(exchange_values(0, 255, [path]))
    assert (read_mask(path) == (MASK == 0) * 255).all()


@pytest.mark.parametrize("how", range(2, 9))
def test_turn(path: Path, how: int) -> None:
    run(turn_files(how, [path]))
    assert (read_mask(path) == turn_upright(MASK, how)).all()


@pytest.mark.parametrize(("dx", "dy"), [(3, 0), (0, -4), (-2, 5)])
def test_move(path: Path, dx: int, dy: int) -> None:
    run(move_files(dx, dy, [path]))
    wanted = np.zeros_like(MASK)
    to_rows, from_rows = (slice(max(dy, 0), 20 + min(dy, 0)), slice(max(-dy, 0), 20 - max(dy, 0)))
    to_cols, from_cols = (slice(max(dx, 0), 30 + min(dx, 0)), slice(max(-dx, 0), 30 - max(dx, 0)))
    wanted[to_rows, to_cols] = MASK[from_rows, from_cols]
    assert (read_mask(path) == wanted).all()


def test_resize(path: Path) -> None:
    run(resize_files(60, 40, path))
    assert (read_mask(path) == MASK.repeat(2, axis=0).repeat(2, axis=1)).all()


@pytest.mark.parametrize(("name", "kind"), [("a.jpg", "jpeg"), ("a.png", "png")])
def test_drop_orientation(tmp_path: Path, name: str, kind: str) -> None:
    path = tmp_path / name
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "a camera"
    Image.fromarray(np.add.outer(np.arange(40), np.arange(60)).astype(np.uint8)).save(
        path, exif=exif
    )
    before = read_image(path)
    run(drop_orientation(path, kind))
    assert stored_shape(path)[3] == 1
    assert np.abs(turn_upright(read_image(path), 6).astype(int) - before).max() <= 2
    with Image.open(path) as opened:
        assert opened.getexif()[0x010F] == "a camera"


def test_exchange_of_files(tmp_path: Path) -> None:
    one, other = tmp_path / "a b.png", tmp_path / "c.png"
    one.write_text("one")
    other.write_text("other")
    run(exchange_files(one, other))
    assert (one.read_text(), other.read_text()) == ("other", "one")
    assert len(list(tmp_path.iterdir())) == 2


def test_several_files_at_once(tmp_path: Path) -> None:
    paths = [tmp_path / f"{number}.png" for number in range(3)]
    for path in paths:
        Image.fromarray(MASK).save(path)
    run(replace_values({1: 2}, paths))
    assert all((read_mask(path) == np.choose(MASK, [0, 2, 2])).all() for path in paths)
