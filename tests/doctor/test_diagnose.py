"""The verb: what it returns, and what it writes."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import plainunet
from plainunet.config import DataConfig
from plainunet.dataset.coding import Values
from plainunet.doctor.diagnose import check, summarise, write_valid
from plainunet.doctor.findings import CODES, Findings
from plainunet.doctor.masks import Contents
from plainunet.formats.problems import Change
from plainunet.formats.sources import Source

from ..folders import Stages, save
from .conftest import CodesOf, copy_pair, divide, mask_of, spoil


def test_pairs_take_the_place_of_folders_in_commands() -> None:
    findings = Findings(Path("x"), {"images": "a", "masks": "b", "skip_unlabelled": True})
    line = findings.command("check", pairs="list.csv")
    assert line == "plainunet check x --skip-unlabelled --pairs list.csv"
    assert "--masks b" in findings.command("check", write=True)


def test_a_sound_folder_is_clean(scenes: Path) -> None:
    result = check(scenes)
    assert result.findings == []
    assert result.exit_code == 0
    assert len(result.pairs) == 12
    summary = result.summary
    assert (summary["pairs"], summary["groups"], summary["parts"]) == (12, 12, {})
    assert summary["sizes"] == {"160x120": 12}
    assert (summary["channels"], summary["types"]) == ({3: 12}, {"uint8": 12})
    assert summary["classes"] == ["background", "foreground"]
    masks = np.stack([np.asarray(Image.open(path)) for path in (scenes / "masks").iterdir()])
    share = float((masks > 0).mean())
    assert summary["shares"] == pytest.approx({"background": 1 - share, "foreground": share})
    assert summary["in_masks"] == {"background": 12, "foreground": 12}
    assert [each["value"] for each in summary["census"]] == [0, 255]
    assert sum(each["pixels"] for each in summary["census"]) == masks.size
    # all background: no foreground is found
    assert summary["commonest"] == {
        **{"class": "background", "dice": 0.0},
        "accuracy": pytest.approx(1 - share),
    }
    ceiling = [summary["ceiling"][side] for side in (128, 256, 512)]
    assert ceiling[0] < 1
    assert ceiling[1:] == [1, 1]  # no finer than the images


def test_guessing_the_commonest_class(scenes: Path) -> None:
    for number in range(12):
        spoil(scenes, f"{number:02d}", 255 - mask_of(scenes, f"{number:02d}"))
    result = check(scenes)
    share = result.summary["shares"]["foreground"]
    assert share > 0.5
    guess = result.summary["commonest"]
    assert guess["class"] == "foreground"
    assert guess["dice"] == pytest.approx(2 * share / (1 + share))


def test_everything_goes_into_json(scenes: Path) -> None:
    (scenes / "masks/03.png").unlink()
    content = json.loads(json.dumps(check(scenes).as_dict()))
    (finding,) = content["findings"]
    assert finding["code"] == "no-mask"
    assert finding["severity"] == "error"
    assert finding["files"] == [str(scenes / "images/03.png")]
    assert finding["fix"] == f"plainunet check {scenes} --write"
    assert content["summary"]["pairs"] == 11


def test_every_fault_is_found_at_once(scenes: Path, codes_of: CodesOf) -> None:
    (scenes / "images/00.png").write_bytes(b"")
    (scenes / "masks/01.png").unlink()
    mask = mask_of(scenes, "02")
    spoil(scenes, "02", np.where(mask == 255, 255, np.eye(*mask.shape) * 7).astype(np.uint8))
    spoil(scenes, "03", mask[:-1])
    shutil.copy(scenes / "images/05.png", scenes / "images/04.png")
    spoil(scenes, "06", np.zeros_like(mask))
    found = codes_of(scenes)
    assert found == {
        "no-mask": ["images/01.png"],
        "empty-file": ["images/00.png"],
        "size-mismatch": ["images/03.png", "masks/03.png"],
        "stray-value": ["masks/02.png"],
        "empty-mask": ["masks/06.png"],
        "duplicate-across-groups": ["images/05.png", "images/04.png"],
        **({"swapped": found["swapped"]} if "swapped" in found else {}),
    }
    result = check(scenes)
    assert result.exit_code == 2
    assert [int(pair.image.stem) for pair in result.pairs] == list(range(4, 12))
    graves = [finding.severity for finding in result.findings]
    assert graves == sorted(graves)  # "error" before "warning"


def test_no_such_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "none", tmp_path / "file"):
        result = check(path)
        assert [finding.code for finding in result.findings] in (["no-data"], ["unclear"])
        assert str(path) in result.findings[0].message
        assert result.findings[0].fix is None
        assert (result.exit_code, result.summary["pairs"]) == (2, 0)


@pytest.mark.parametrize("left", [0, 1])
def test_too_few_images(scenes: Path, left: int) -> None:
    for number in range(left, 12):
        (scenes / f"images/{number:02d}.png").unlink()
        (scenes / f"masks/{number:02d}.png").unlink()
    result = check(scenes)
    assert result.findings[0].code in ("too-few", "no-image", "no-data")
    assert result.exit_code == 2


@pytest.mark.parametrize("part", ["test", "val", "train"])
def test_one_part_alone_is_no_error(scenes: Path, part: str) -> None:
    divide(scenes, lambda _: part)
    result = check(scenes)
    assert result.findings == []
    assert result.summary["parts"] == {part: 12}


def test_what_is_known_is_used(scenes: Path) -> None:
    for path in (scenes / "masks").iterdir():
        mask = np.where(np.asarray(Image.open(path)) > 0, 9, 4).astype(np.uint8)
        mask[0] = 200
        Image.fromarray(mask).save(path)
    assert "stray-value" in {finding.code for finding in check(scenes).findings}
    config = DataConfig(classes=("ground", "shape"), values=(4, 9), ignore=200)
    result = check(scenes, config)
    assert result.findings == []
    assert result.summary["classes"] == ["ground", "shape"]
    assert result.summary["masks"]["why"] == "as configured"
    assert result.summary["masks"]["ignore"] == 200
    (scenes / "dataset.toml").write_text("values = [4, 9]\nignore = 200\n")
    assert check(scenes).findings == []


def test_a_wrong_dataset_file_is_refused(scenes: Path) -> None:
    (scenes / "dataset.toml").write_text("colour = 1\n")
    with pytest.raises(ValueError, match="dataset"):
        check(scenes)


def test_progress_is_reported(scenes: Path, tmp_path: Path) -> None:
    reporter = Stages()
    check(scenes, reporter=reporter)
    assert reporter.stages == [
        (name, 12, [*range(1, 13)]) for name in ("images", "masks", "image and mask alignment")
    ]
    reporter = Stages()
    check(tmp_path / "none", reporter=reporter)
    assert reporter.stages == []


def test_the_second_time_nothing_is_read(scenes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = check(scenes)

    def refuse(*_: object) -> None:
        raise AssertionError("read again")

    for module in ("doctor.images", "doctor.fit"):
        monkeypatch.setattr(f"plainunet.{module}.read_with_missing", refuse)
    for module in ("census", "coding"):
        monkeypatch.setattr(f"plainunet.dataset.{module}.read_mask", refuse)
    again = check(scenes)
    assert again.as_dict() == first.as_dict()


def test_it_is_a_public_verb() -> None:
    assert plainunet.check is check
    assert set(CODES) >= {"shifted", "inverted", "cut-off"}


def test_one_group_cannot_be_divided(scenes: Path) -> None:
    result = check(scenes, DataConfig(group_by="^(.)"))  # of "00" to "11"
    assert result.findings == []
    result = check(scenes, DataConfig(group_by="^()"))
    assert [finding.code for finding in result.findings] == ["too-few"]


def test_two_classes_of_one_name_are_refused(scenes: Path) -> None:
    with pytest.raises(ValueError, match=r"--classes: .* a, a"):
        check(scenes, DataConfig(classes=("a", "a")))


def test_an_unused_list_is_noted(scenes: Path) -> None:
    (scenes / "split.csv").write_text("filename,split\n00.png,train\n")
    assert any("--pairs split.csv" in note for note in check(scenes).notes)


def test_the_last_command_leaves_out_what_is_left(scenes: Path) -> None:
    (scenes / "images/00.png").write_bytes(b"")
    Image.new("L", (160, 120)).save(scenes / "masks/01.png")
    spoil(scenes, "02", mask_of(scenes, "02")[:, ::-1])
    result = check(scenes)
    assert {finding.code for finding in result.findings} == {"empty-file", "empty-mask", "flipped"}
    # what can be fixed is not left out
    assert result.last_fix == f"plainunet check {scenes} --write --leave-out empty-mask"
    assert check(scenes, DataConfig(ignore=7)).last_fix.startswith(
        f"plainunet check {scenes} --ignore 7 --write"
    )


def test_the_link_itself_is_named(scenes: Path) -> None:
    (scenes / "images/again").symlink_to(scenes)
    result = check(scenes)
    (finding,) = [each for each in result.findings if each.code == "link-loop"]
    assert finding.fix
    assert finding.fix.change == Change("unlink", (scenes / "images/again",))


# the summary


def contents(pixels: list[int]) -> Contents:
    masks: list[Source] = [Path(f"{number}.png") for number in range(4)]
    return Contents(Values((0, 1, 2), 255), np.array([pixels] * 4), masks)


def test_a_common_foreground_is_shared_among_the_classes() -> None:
    guess = summarise((), (), contents([100, 400, 100]), DataConfig(), {})["commonest"]
    share = 4 / 6
    # class 1 scores 2 p / (1 + p), class 2 scores 0
    assert guess["dice"] == pytest.approx(2 * share / (1 + share) / 2)
    assert guess["class"] == "class 1"


def test_names_are_taken_where_they_fit() -> None:
    for classes, wanted in ((("a", "b", "c"), "a"), (("a", "b"), "class 0")):
        summary = summarise((), (), contents([3, 2, 1]), DataConfig(classes=classes), {})
        assert summary["classes"][0] == wanted


# what is written


def stems(folder: Path) -> list[str]:
    return [pair.image.stem for pair in check(folder).pairs]


def test_what_has_an_error_is_left_out(scenes: Path) -> None:
    (scenes / "images/03.png").write_bytes(b"")
    (scenes / "masks/04.png").unlink()
    before = {path: path.read_bytes() for path in scenes.rglob("*.png")}
    files, left_out = write_valid(check(scenes))
    assert (files, left_out) == ([scenes / "split.csv", scenes / "dataset.toml"], 0)
    result = check(scenes)
    assert {finding.code for finding in result.findings} == {"not-listed"}
    assert len(result.findings[0].files) == 2
    assert len(result.pairs) == 10
    assert {path: path.read_bytes() for path in scenes.rglob("*.png")} == before


def test_copies_go_into_one_group(scenes: Path) -> None:
    copy_pair(scenes, "05.png", "99.png")
    write_valid(check(scenes))
    result = check(scenes)
    assert [finding.code for finding in result.findings] == ["duplicate"]
    assert result.exit_code == 0
    groups = {pair.image.stem: pair.group for pair in result.pairs}
    assert groups["99"] == groups["05"]


def test_suspects_are_left_out_if_they_are_named(scenes: Path) -> None:
    spoil(scenes, "03", 255 - mask_of(scenes, "03"))
    files, left_out = write_valid(check(scenes))
    assert left_out == 0
    assert "03" in stems(scenes)
    files, left_out = write_valid(check(scenes), ["inverted"])
    assert left_out == 1
    assert "03" not in stems(scenes)
    # the earlier ones are kept
    assert all(file.with_name(f"{file.name}.bak").exists() for file in files)


def test_of_a_copy_across_parts_the_training_side_goes(scenes: Path) -> None:
    divide(scenes, lambda stem: "val" if stem == "02" else "train")
    copy_pair(scenes, "val/02.png", "train/99.png")
    _, left_out = write_valid(check(scenes), ["duplicate-across-parts"])
    assert left_out == 1
    result = check(scenes)
    assert result.exit_code == 0
    assert result.summary["parts"] == {"train": 11, "val": 1}


def test_settings_are_written_down(scenes: Path) -> None:
    config = DataConfig(classes=("ground", "shape"), group_by=r"^(\d)")
    write_valid(check(scenes, config))
    result = check(scenes)
    assert result.summary["classes"] == ["ground", "shape"]
    assert {pair.group for pair in result.pairs} == {"0", "1"}


def test_unknown_codes_are_refused(scenes: Path) -> None:
    with pytest.raises(ValueError, match=r"--leave-out invertd: .*'inverted'"):
        write_valid(check(scenes), ["invertd"])


def test_too_little_would_be_left(scenes: Path) -> None:
    for number in range(1, 12):
        (scenes / "images" / f"{number:02d}.png").write_bytes(b"")
    with pytest.raises(ValueError, match=r"\b1\b"):
        write_valid(check(scenes))
    assert not (scenes / "dataset.toml").exists()


def test_masks_without_sense_are_not_written_down(scenes: Path) -> None:
    for path in (scenes / "masks").iterdir():
        Image.new("L", (160, 120)).save(path)
    result = check(scenes)
    assert (result.summary["classes"], result.summary["pairs"]) == ([], 12)
    with pytest.raises(ValueError, match=str(scenes)):
        write_valid(result)
    assert not (scenes / "dataset.toml").exists()


def test_each_answer_of_the_user_is_a_command(tmp_path: Path) -> None:
    for number in range(3):
        save(tmp_path / f"train_images/{number}.png", np.zeros((8, 8, 3), np.uint8))
    lines = ["ImageId,ClassId,EncodedPixels", "0.png,1,1 5", "1.png,1,1 5"]
    (tmp_path / "train.csv").write_text("\n".join(lines))
    (finding,) = check(tmp_path, DataConfig(rle="columns")).findings
    lines = [line for line in finding.message.splitlines() if line.startswith("$ ")]
    start = f"$ plainunet check {tmp_path} --rle columns"
    assert lines == [f"{start} --unlisted empty", f"{start} --skip-unlabelled"]


def test_no_list_is_offered_of_which_nothing_would_be_left(tmp_path: Path) -> None:
    for number in range(3):
        save(tmp_path / f"images/{number}.png", np.zeros((8, 8, 3), np.uint8))
        save(tmp_path / f"masks/x{number * 7 + 1}y.png", np.zeros((8, 8), np.uint8))
    result = check(tmp_path)
    assert {finding.code for finding in result.findings} >= {"no-mask", "too-few"}
    assert not result.last_fix
    assert not any(finding.fix for finding in result.findings)
