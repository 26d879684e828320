from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from plainunet.dataset.pairs import find_pairs
from plainunet.doctor.duplicates import find_alike
from plainunet.doctor.images import Look, look_at
from plainunet.formats.images import image_shape
from plainunet.formats.problems import DataError

SCENE = np.add.outer(np.arange(300) % 97, np.arange(450) % 131).astype(np.uint8)


def one(path: Path) -> Look:
    (look,) = look_at([path])
    assert isinstance(look, Look)
    return look


def test_what_a_picture_is(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.fromarray(SCENE).save(path)
    look = one(path)
    assert (look.kind, look.shape, look.dtype) == ("png", (300, 450, 1), "uint8")
    assert (look.low, look.high) == (SCENE.min(), SCENE.max())


def test_equal_files_have_equal_digests(tmp_path: Path) -> None:
    paths = [tmp_path / name for name in ("a.png", "b.png", "c.png")]
    for path in paths[:2]:
        Image.fromarray(SCENE).save(path)
    Image.fromarray(SCENE).save(paths[2], compress_level=1)
    looks = [one(path) for path in paths]
    assert looks[0].digest == looks[1].digest != looks[2].digest
    assert len({look.hash for look in looks}) == 1


@pytest.mark.parametrize("orientation", range(1, 9))
def test_jpegs_are_seen_upright(tmp_path: Path, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    picture = Image.fromarray(np.stack([SCENE, SCENE[::-1], 255 - SCENE], axis=2))
    picture.save(tmp_path / "a.jpg", exif=exif, quality=95)
    with Image.open(tmp_path / "a.jpg") as opened:
        transposed = opened.convert("RGB")
    look = one(tmp_path / "a.jpg")
    assert look.shape == image_shape(tmp_path / "a.jpg")
    transposed.info["exif"] = exif.tobytes()
    upright = ImageOps.exif_transpose(transposed)
    upright.save(tmp_path / "b.png")
    other = one(tmp_path / "b.png")
    (alike,) = find_alike([look.digest, other.digest], [look.hash, other.hash])
    assert not alike.exact


def test_reduced_reading_hardly_changes_the_hash(data_root: Path, tmp_path: Path) -> None:
    paths = [pair.image for pair in find_pairs(data_root / "carvana")[::40]]
    looks = [look for look in look_at(paths) if isinstance(look, Look)]
    for path in paths:
        with Image.open(path) as picture:
            picture.convert("RGB").save(tmp_path / f"{path.stem}.png", compress_level=1)
    whole = [one(tmp_path / f"{path.stem}.png") for path in paths]
    for look, other in zip(looks, whole, strict=True):
        assert look.shape == other.shape
    both = [*looks, *whole]
    found = find_alike([each.digest for each in both], [each.hash for each in both])
    assert [(each.first, each.second) for each in found] == [
        (index, index + len(looks)) for index in range(len(looks))
    ]


def test_what_cannot_be_read_is_said(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"")
    (tmp_path / "b.png").write_text("text")
    (tmp_path / "c.png").symlink_to(tmp_path / "nowhere.png")
    paths = [tmp_path / name for name in ("a.png", "b.png", "c.png")]
    problems = list(look_at(paths))
    assert all(isinstance(problem, DataError) for problem in problems)
    assert [problem.code for problem in problems if isinstance(problem, DataError)] == [
        *("empty-file", "not-a-picture", "missing-file")
    ]
