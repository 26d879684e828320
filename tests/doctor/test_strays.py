"""Masks that are not as they were drawn are named, and what they are taken for."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from plainunet.config import DataConfig
from plainunet.doctor.diagnose import Diagnosis, check
from plainunet.doctor.findings import Finding

LEGEND = np.array([[200, 30, 30], [30, 30, 200], [240, 240, 40]], np.uint8)


def name_of(folder: Path, number: int, suffix: str = ".png") -> Path:
    return folder / "masks" / f"{number:02d}{suffix}"


def recolor(folder: Path, suffix: str = ".png") -> None:
    """Two classes by colour in every mask, and a third along the top."""
    for number in range(12):
        ids = (np.asarray(Image.open(name_of(folder, number))) > 0).astype(np.uint8)
        ids[:10] = 2
        name_of(folder, number).unlink()
        Image.fromarray(LEGEND[ids]).save(name_of(folder, number, suffix), quality=95)


def of_code(result: Diagnosis, code: str) -> list[Finding]:
    return [finding for finding in result.findings if finding.code == code]


def test_a_picture_among_smoothed_masks_is_no_mask(scenes: Path) -> None:
    for number in range(1, 12):
        blurred = np.asarray(Image.open(name_of(scenes, number)).reduce(2).resize((160, 120)))
        Image.fromarray(blurred).save(name_of(scenes, number))
    picture = Image.open(scenes / "images/00.png").convert("L")
    picture.point(lambda value: value // 2 + 60).save(name_of(scenes, 0))
    result = check(scenes)
    (finding,) = of_code(result, "not-a-mask")
    assert finding.files == (name_of(scenes, 0),)
    smoothed = of_code(result, "lossy-mask")
    assert [each.files for each in smoothed] == [(name_of(scenes, k),) for k in range(1, 12)]
    assert "of the pixels lie between 0 and 255" in smoothed[0].message
    assert result.contents is not None
    assert result.contents.coding.kind == "threshold"


def test_ids_in_jpeg_files_are_lost(scenes: Path) -> None:
    for number in range(12):
        ids = (np.asarray(Image.open(name_of(scenes, number))) > 0).astype(np.uint8)
        ids[:20] = 9
        name_of(scenes, number).unlink()
        Image.fromarray(ids * np.uint8(5)).save(name_of(scenes, number, ".jpg"), quality=60)
    result = check(scenes)
    (finding,) = of_code(result, "lossy-mask")
    assert (finding.severity, len(finding.files)) == ("error", 12)
    assert result.contents is None


def test_colours_in_jpeg_files_are_near_those_of_the_legend(scenes: Path) -> None:
    recolor(scenes, ".jpg")
    colors = tuple(bytes(color).hex() for color in LEGEND)
    result = check(scenes, DataConfig(colors=colors))
    (finding,) = of_code(result, "lossy-mask")
    assert (finding.severity, len(finding.files)) == ("warning", 12)


@pytest.mark.parametrize(
    ("masks", "share", "found", "severity"),
    [
        ([3], 0.02, 1, "warning"),
        ([3], 0.6, 1, "error"),
        ([3], 0.0005, 0, ""),
        # what many masks show is no slip
        (range(6), 0.3, 0, ""),
    ],
)
def test_a_colour_of_no_class(
    scenes: Path, masks: list[int], share: float, found: int, severity: str
) -> None:
    recolor(scenes)
    for number in masks:
        mask = np.array(Image.open(name_of(scenes, number)))
        mask.reshape(-1, 3)[: round(share * 120 * 160)] = (0, 255, 0)
        Image.fromarray(mask).save(name_of(scenes, number))
    colors = tuple(bytes(color).hex() for color in LEGEND)
    strays = of_code(check(scenes, DataConfig(colors=colors)), "stray-color")
    assert len(strays) == found
    for finding in strays:
        assert finding.severity == severity
        assert finding.files == (name_of(scenes, 3),)
        assert "00FF00" in finding.message
        assert f"{share:.2%}" in finding.message


def test_masks_of_one_colour_alone(scenes: Path) -> None:
    for number in range(12):
        Image.new("RGB", (160, 120), (200, 30, 30)).save(name_of(scenes, number))
    colors = tuple(bytes(color).hex() for color in LEGEND)
    (finding,) = of_code(check(scenes, DataConfig(colors=colors)), "one-class")
    assert "class 0 alone" in finding.message
