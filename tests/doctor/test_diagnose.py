import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import plainunet
from plainunet.config import DataConfig
from plainunet.doctor.diagnose import check
from plainunet.doctor.findings import CODES

CodesOf = Callable[[Path], dict[str, list[str]]]


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
    assert [each["value"] for each in summary["census"]] == [0, 255]
    assert sum(each["pixels"] for each in summary["census"]) == masks.size
    # all background: no foreground is found
    assert summary["commonest"] == {
        **{"class": "background", "dice": 0.0},
        "accuracy": pytest.approx(1 - share),
    }
    ceiling = [summary["ceiling"][side] for side in (128, 256, 512)]
    assert ceiling[0] < 1
    assert ceiling[1:] == [1, 1]  # no finer than the pictures are


def test_guessing_the_commonest_class(scenes: Path) -> None:
    for path in (scenes / "masks").iterdir():
        Image.fromarray(255 - np.asarray(Image.open(path))).save(path)
    result = check(scenes)
    share = result.summary["shares"]["foreground"]
    assert share > 0.5
    guess = result.summary["commonest"]
    assert guess["class"] == "foreground"
    assert guess["dice"] == pytest.approx(2 * share / (1 + share))


def test_everything_goes_into_json(scenes: Path) -> None:
    (scenes / "masks/03.png").unlink()
    content = json.loads(json.dumps(check(scenes).as_json()))
    (finding,) = content["findings"]
    assert finding["code"] == "no-mask"
    assert finding["severity"] == "error"
    assert finding["files"] == [str(scenes / "images/03.png")]
    assert finding["cure"] == f"plainunet check {scenes} --write"
    assert content["summary"]["pairs"] == 11


def test_every_fault_is_found_at_once(scenes: Path, codes_of: CodesOf) -> None:
    (scenes / "images/00.png").write_bytes(b"")
    (scenes / "masks/01.png").unlink()
    mask = np.array(Image.open(scenes / "masks/02.png"))
    Image.fromarray(np.where(mask == 255, 255, np.eye(*mask.shape) * 7).astype(np.uint8)).save(
        scenes / "masks/02.png"
    )
    Image.fromarray(mask[:-1]).save(scenes / "masks/03.png")
    shutil.copy(scenes / "images/05.png", scenes / "images/04.png")
    Image.fromarray(np.zeros_like(mask)).save(scenes / "masks/06.png")
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
        assert result.findings[0].cure
        assert (result.exit_code, result.summary["pairs"]) == (2, 0)


@pytest.mark.parametrize("left", [0, 1])
def test_too_few_pictures(scenes: Path, left: int) -> None:
    for number in range(left, 12):
        (scenes / f"images/{number:02d}.png").unlink()
        (scenes / f"masks/{number:02d}.png").unlink()
    result = check(scenes)
    assert result.findings[0].code in ("too-few", "no-pictures", "no-data")
    assert result.exit_code == 2


@pytest.mark.parametrize("part", ["test", "val", "train"])
def test_one_part_alone_is_no_error(scenes: Path, part: str) -> None:
    for name in ("images", "masks"):
        (scenes / name / part).mkdir()
        for path in (scenes / name).glob("*.png"):
            path.rename(path.parent / part / path.name)
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
    assert result.summary["masks"]["why"] == "as it was said"
    (scenes / "dataset.toml").write_text("values = [4, 9]\nignore = 200\n")
    assert check(scenes).findings == []


def test_a_wrong_dataset_file_is_refused(scenes: Path) -> None:
    (scenes / "dataset.toml").write_text("colour = 1\n")
    with pytest.raises(ValueError, match="dataset"):
        check(scenes)


def test_progress_is_told(scenes: Path) -> None:
    told: list[tuple[str, int, int]] = []
    check(scenes, on_progress=lambda *said: told.append(said))
    for stage in ("pictures", "masks", "picture and mask together"):
        assert [said[1:] for said in told if said[0] == stage] == [
            (number, 12) for number in range(1, 13)
        ]


def test_the_second_time_nothing_is_read(scenes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = check(scenes)

    def refuse(*_: object) -> None:
        raise AssertionError("read again")

    for module in ("survey", "sample"):
        monkeypatch.setattr(f"plainunet.data.doctor.{module}.read_image", refuse)
    monkeypatch.setattr("plainunet.dataset.coding.read_mask", refuse)
    again = check(scenes)
    assert again.as_json() == first.as_json()


def test_it_is_a_public_verb() -> None:
    assert plainunet.check is check
    assert set(CODES) >= {"shifted", "inverted", "cut-off"}


def test_one_group_cannot_be_divided(scenes: Path) -> None:
    result = check(scenes, DataConfig(group_by="^(.)"))  # of "00" to "11"
    assert result.findings == []
    result = check(scenes, DataConfig(group_by="^()"))
    assert [finding.code for finding in result.findings] == ["too-few"]
    assert "belong to one group" in result.findings[0].message


def test_two_classes_of_one_name_are_refused(scenes: Path) -> None:
    with pytest.raises(ValueError, match="two classes have the same name"):
        check(scenes, DataConfig(classes=("a", "a")))


def test_a_list_that_is_not_used_is_said(scenes: Path) -> None:
    (scenes / "split.csv").write_text("filename,split\n00.png,train\n")
    assert any("split.csv is not used" in note for note in check(scenes).notes)


def test_a_list_that_fits_no_more_has_a_cure(scenes: Path) -> None:
    (scenes / "list.csv").write_text("image,mask\nimages/00.png,masks/00.png\ngone.png,gone.png\n")
    (scenes / "dataset.toml").write_text('pairs = "list.csv"\n')
    (finding,) = check(scenes).findings
    subprocess.run(["bash", "-c", finding.cure], check=True)
    assert check(scenes).findings == []


def test_the_last_command_leaves_out_what_is_left(scenes: Path) -> None:
    (scenes / "images/00.png").write_bytes(b"")
    Image.new("L", (160, 120)).save(scenes / "masks/01.png")
    mask = np.array(Image.open(scenes / "masks/02.png"))
    Image.fromarray(np.ascontiguousarray(mask[:, ::-1])).save(scenes / "masks/02.png")
    result = check(scenes)
    assert {finding.code for finding in result.findings} == {"empty-file", "empty-mask", "flipped"}
    # what can be mended is not left out
    assert result.last_cure == f"plainunet check {scenes} --write --leave-out empty-mask"
    assert check(scenes, DataConfig(ignore=7)).last_cure.startswith(
        f"plainunet check {scenes} --ignore 7 --write"
    )


def test_the_link_itself_is_named(scenes: Path) -> None:
    (scenes / "images/again").symlink_to(scenes)
    result = check(scenes)
    (finding,) = [each for each in result.findings if each.code == "link-loop"]
    assert finding.cure == f"rm {scenes / 'images/again'}"
