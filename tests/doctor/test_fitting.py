"""What does not fit is said with its cure, and the cure is run."""

import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from plainunet.doctor.diagnose import check
from plainunet.doctor.findings import Finding


def mask_of(folder: Path, stem: str) -> np.ndarray:
    return np.array(Image.open(folder / "masks" / f"{stem}.png"))


def spoil(folder: Path, stem: str, mask: np.ndarray) -> Path:
    path = folder / "masks" / f"{stem}.png"
    Image.fromarray(np.ascontiguousarray(mask)).save(path)
    return path


def only(folder: Path, code: str) -> Finding:
    (finding,) = check(folder).findings
    assert finding.code == code
    assert finding.severity == "warning"
    return finding


def run_cure(finding: Finding) -> None:
    subprocess.run(["bash", "-c", finding.cure], check=True, capture_output=True)


def test_a_shifted_mask(scenes: Path) -> None:
    before = mask_of(scenes, "03")
    path = spoil(scenes, "03", np.roll(before, (8, -6), axis=(0, 1)))
    finding = only(scenes, "shifted")
    assert finding.files[0] == path
    assert "moved by 6 pixels right and 8 up" in finding.message
    run_cure(finding)
    assert (np.array(Image.open(path)) != before).mean() < 0.03
    assert check(scenes).findings == []


@pytest.mark.parametrize("flip", [np.fliplr, np.flipud, lambda mask: mask[::-1, ::-1]])
def test_a_flipped_mask(scenes: Path, flip: object) -> None:
    before = mask_of(scenes, "03")
    path = spoil(scenes, "03", flip(before))  # type: ignore[operator]
    finding = only(scenes, "flipped")
    assert finding.files[0] == path
    run_cure(finding)
    assert (np.array(Image.open(path)) == before).all()


def test_a_mask_drawn_before_the_turn(scenes: Path) -> None:
    path = scenes / "images/03.png"
    exif = Image.Exif()
    exif[0x0112] = 3
    Image.open(path).save(path, exif=exif)
    finding = only(scenes, "exif")
    assert "EXIF orientation (3)" in finding.message
    run_cure(finding)
    assert check(scenes).findings == []


def test_two_masks_exchanged(scenes: Path) -> None:
    one, other = mask_of(scenes, "03"), mask_of(scenes, "08")
    spoil(scenes, "03", other)
    spoil(scenes, "08", one)
    finding = only(scenes, "swapped")
    assert sorted(file.stem for file in finding.files) == ["03", "08"]
    run_cure(finding)
    assert (mask_of(scenes, "03") == one).all()
    assert check(scenes).findings == []


def test_names_out_of_step_are_one_finding(scenes: Path) -> None:
    masks = [mask_of(scenes, f"{number:02d}") for number in range(12)]
    for number, mask in enumerate(masks[1:]):
        spoil(scenes, f"{number:02d}", mask)
    spoil(scenes, "11", masks[0])
    finding = only(scenes, "swapped")
    assert len(finding.files) >= 8
    assert "names out of step" in finding.message
    assert finding.cure.startswith("ls ")


def test_an_inverted_mask(scenes: Path) -> None:
    before = mask_of(scenes, "03")
    path = spoil(scenes, "03", 255 - before)
    finding = only(scenes, "inverted")
    assert finding.files == (path,)
    run_cure(finding)
    assert (np.array(Image.open(path)) == before).all()


def test_only_a_sample_is_looked_at(scenes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spoil(scenes, "03", np.fliplr(mask_of(scenes, "03")))
    monkeypatch.setattr("plainunet.doctor.diagnose.draw_sample", lambda pairs, seed, area: [0, 1])
    assert check(scenes).findings == []
