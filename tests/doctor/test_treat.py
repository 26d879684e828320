import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from plainunet.config import DataConfig
from plainunet.doctor.diagnose import check, treat


def stems(folder: Path) -> list[str]:
    return [pair.image.stem for pair in check(folder).pairs]


def test_what_has_an_error_is_left_out(scenes: Path) -> None:
    (scenes / "images/03.png").write_bytes(b"")
    (scenes / "masks/04.png").unlink()
    before = {path: path.read_bytes() for path in scenes.rglob("*.png")}
    files, left_out = treat(check(scenes))
    assert (files, left_out) == ([scenes / "split.csv", scenes / "dataset.toml"], 0)
    result = check(scenes)
    assert {finding.code for finding in result.findings} == {"not-listed"}
    assert "2 pictures below" in result.findings[0].message
    assert len(result.pairs) == 10
    assert {path: path.read_bytes() for path in scenes.rglob("*.png")} == before


def test_copies_go_into_one_group(scenes: Path) -> None:
    for name in ("images", "masks"):
        shutil.copy(scenes / name / "05.png", scenes / name / "99.png")
    treat(check(scenes))
    result = check(scenes)
    assert [finding.code for finding in result.findings] == ["duplicate"]
    assert result.exit_code == 0
    groups = {pair.image.stem: pair.group for pair in result.pairs}
    assert groups["99"] == groups["05"]


def test_suspects_are_left_out_if_they_are_named(scenes: Path) -> None:
    path = scenes / "masks/03.png"
    Image.fromarray(255 - np.array(Image.open(path))).save(path)
    files, left_out = treat(check(scenes))
    assert left_out == 0
    assert "03" in stems(scenes)
    files, left_out = treat(check(scenes), ["inverted"])
    assert left_out == 1
    assert "03" not in stems(scenes)
    # the earlier ones are kept
    assert all(file.with_name(f"{file.name}.bak").exists() for file in files)


def test_of_a_copy_across_parts_the_training_side_goes(scenes: Path) -> None:
    for name in ("images", "masks"):
        for part in ("train", "val"):
            (scenes / name / part).mkdir()
        for path in (scenes / name).glob("*.png"):
            path.rename(path.parent / ("val" if path.stem == "02" else "train") / path.name)
        shutil.copy(scenes / name / "val/02.png", scenes / name / "train/99.png")
    _, left_out = treat(check(scenes), ["duplicate-across-parts"])
    assert left_out == 1
    result = check(scenes)
    assert result.exit_code == 0
    assert result.summary["parts"] == {"train": 11, "val": 1}


def test_what_was_said_is_written_down(scenes: Path) -> None:
    config = DataConfig(classes=("ground", "shape"), group_by=r"^(\d)")
    treat(check(scenes, config))
    result = check(scenes)
    assert result.summary["classes"] == ["ground", "shape"]
    assert {pair.group for pair in result.pairs} == {"0", "1"}


def test_unknown_codes_are_refused(scenes: Path) -> None:
    with pytest.raises(ValueError, match=r"--leave-out invertd: .* did you mean 'inverted'"):
        treat(check(scenes), ["invertd"])


def test_too_little_would_be_left(scenes: Path) -> None:
    for number in range(1, 12):
        (scenes / "images" / f"{number:02d}.png").write_bytes(b"")
    with pytest.raises(ValueError, match="1 of 1 sound pairs would be left"):
        treat(check(scenes))
    assert not (scenes / "dataset.toml").exists()


def test_masks_without_sense_are_not_written_down(scenes: Path) -> None:
    for path in (scenes / "masks").iterdir():
        Image.new("L", (160, 120)).save(path)
    with pytest.raises(ValueError, match="make no sense together"):
        treat(check(scenes))
