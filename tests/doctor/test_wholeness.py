import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from plainunet.doctor.diagnose import check
from plainunet.formats.encoded import turn_upright

CodesOf = Callable[[Path], dict[str, list[str]]]


def as_deep(folder: Path, stems: list[str], factor: int) -> None:
    for stem in stems:
        path = folder / "images" / f"{stem}.png"
        image = np.asarray(Image.open(path)).astype(np.uint16) * factor
        path.unlink()
        tifffile.imwrite(path.with_suffix(".tif"), image, photometric="rgb")


def test_a_suffix_that_is_not_the_contents(scenes: Path, codes_of: CodesOf) -> None:
    (scenes / "images/03.png").rename(scenes / "images/03.jpg")
    assert codes_of(scenes) == {"wrong-extension": ["images/03.jpg"]}
    cure = check(scenes).findings[0].cure
    assert cure == f"mv {scenes / 'images/03.jpg'} {scenes / 'images/03.png'}"


def test_a_name_that_is_not_utf8(scenes: Path, codes_of: CodesOf) -> None:
    name = b"caf\xe9.png".decode(errors="surrogateescape")
    for folder in ("images", "masks"):
        (scenes / folder / "03.png").rename(scenes / folder / name)
    assert codes_of(scenes) == {"name-not-utf8": [f"images/{name}", f"masks/{name}"]}
    for finding in check(scenes).findings:
        finding.cure.encode("ascii")


def test_a_blank_picture(scenes: Path, codes_of: CodesOf) -> None:
    Image.new("RGB", (160, 120), (9, 9, 9)).save(scenes / "images/03.png")
    assert codes_of(scenes)["blank-picture"] == ["images/03.png"]


def test_a_thumbnail_among_pictures_of_one_size(scenes: Path, codes_of: CodesOf) -> None:
    for name in ("images", "masks"):
        path = scenes / name / "03.png"
        Image.open(path).resize((40, 30), Image.Resampling.NEAREST).save(path)
    assert codes_of(scenes) == {"odd-size": ["images/03.png"]}
    # where sizes are mixed anyway, that is nothing odd
    for stem in ("04", "05", "06"):
        for name in ("images", "masks"):
            path = scenes / name / f"{stem}.png"
            Image.open(path).crop((0, 0, 100, 90)).save(path)
    assert "odd-size" not in codes_of(scenes)


def test_grey_among_rgb_is_a_note(scenes: Path) -> None:
    Image.open(scenes / "images/03.png").convert("L").save(scenes / "images/03.png")
    (finding,) = check(scenes).findings
    assert (finding.code, finding.severity, finding.cure) == ("grey-among-rgb", "note", "")


def test_a_deep_picture_among_others(scenes: Path, codes_of: CodesOf) -> None:
    as_deep(scenes, ["03"], 257)
    assert codes_of(scenes) == {"mixed-depths": ["images/03.tif"]}


def test_twelve_bits_in_sixteen(scenes: Path, codes_of: CodesOf) -> None:
    stems = [f"{number:02d}" for number in range(12)]
    as_deep(scenes, stems[1:], 257)
    as_deep(scenes, stems[:1], 16)
    assert codes_of(scenes) == {"unused-depth": ["images/00.tif"]}
    assert "of 12 bits" in check(scenes).findings[0].message


def test_twelve_bits_in_all_do_no_harm(scenes: Path) -> None:
    as_deep(scenes, [f"{number:02d}" for number in range(12)], 16)
    (finding,) = check(scenes).findings
    assert (finding.code, finding.severity) == ("unused-depth", "note")


@pytest.mark.parametrize(("size", "words"), [((161, 120), "resize"), ((120, 160), "ROTATE_270")])
def test_a_mask_of_another_size(scenes: Path, size: tuple[int, int], words: str) -> None:
    path = scenes / "masks/03.png"
    Image.open(path).resize(size, Image.Resampling.NEAREST).save(path)
    (finding,) = check(scenes).findings
    assert finding.code == "size-mismatch"
    assert f"{size[0]}x{size[1]}" in finding.message
    assert "160x120" in finding.message
    assert words in finding.cure


def test_five_bands_among_rgb(scenes: Path, codes_of: CodesOf) -> None:
    (scenes / "images/03.png").unlink()
    bands = np.random.default_rng(0).integers(0, 256, (120, 160, 5), dtype=np.uint8)
    tifffile.imwrite(
        scenes / "images/03.tif", bands, photometric="minisblack", planarconfig="contig"
    )
    assert codes_of(scenes)["odd-channels"] == ["images/03.tif"]


@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
def test_a_mask_drawn_on_a_picture_that_exif_turns(scenes: Path, orientation: int) -> None:
    path = scenes / "images/03.png"
    exif = Image.Exif()
    exif[0x0112] = orientation
    with Image.open(path) as picture:
        picture.save(path, exif=exif)
    before = np.array(Image.open(scenes / "masks/03.png"))
    (finding,) = check(scenes).findings
    assert finding.code == "size-mismatch"
    assert f"EXIF orientation ({orientation})" in finding.message
    subprocess.run(["bash", "-c", finding.cure], check=True)
    after = np.array(Image.open(scenes / "masks/03.png"))
    assert (after == turn_upright(before, orientation)).all()
    assert check(scenes).findings == []
