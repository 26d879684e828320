import shutil
from collections.abc import Callable
from pathlib import Path

from PIL import Image

from plainunet.doctor.diagnose import check

CodesOf = Callable[[Path], dict[str, list[str]]]


def in_parts(folder: Path, val: list[str]) -> None:
    for name in ("images", "masks"):
        for part in ("train", "val"):
            (folder / name / part).mkdir()
        for path in (folder / name).glob("*.png"):
            part = "val" if path.stem in val else "train"
            path.rename(path.parent / part / path.name)


def test_a_copy_in_one_folder(scenes: Path, codes_of: CodesOf) -> None:
    for name in ("images", "masks"):
        shutil.copy(scenes / name / "05.png", scenes / name / "99.png")
    found = codes_of(scenes)
    assert found == {"duplicate-across-groups": ["images/99.png", "images/05.png"]}
    result = check(scenes)
    assert result.findings[0].cure == f"plainunet check {scenes} --write"
    # in one group, a split cannot part them
    groups = {pair.image.stem: pair.group for pair in result.pairs}
    assert groups["99"] == groups["05"]
    assert len(set(groups.values())) == 12


def test_twenty_copies_are_nineteen_findings(scenes: Path) -> None:
    for number in range(19):
        for name in ("images", "masks"):
            shutil.copy(scenes / name / "05.png", scenes / name / f"c{number:02d}.png")
    findings = check(scenes).findings
    assert len(findings) == 19
    assert {finding.files[1].name for finding in findings} == {"05.png"}


def test_a_picture_saved_anew(scenes: Path, codes_of: CodesOf) -> None:
    with Image.open(scenes / "images/05.png") as picture:
        picture.save(scenes / "images/99.jpg", quality=75)
    shutil.copy(scenes / "masks/05.png", scenes / "masks/99.png")
    assert codes_of(scenes) == {"near-duplicate-across-groups": ["images/99.jpg", "images/05.png"]}


def test_a_copy_on_both_sides(scenes: Path, codes_of: CodesOf) -> None:
    in_parts(scenes, ["02", "03"])
    for name in ("images", "masks"):
        shutil.copy(scenes / name / "val/02.png", scenes / name / "train/99.png")
    found = codes_of(scenes)
    # the one that is to be left out comes first
    assert found == {"duplicate-across-parts": ["images/train/99.png", "images/val/02.png"]}


def test_copies_with_different_masks_are_said(scenes: Path) -> None:
    shutil.copy(scenes / "images/05.png", scenes / "images/99.png")
    shutil.copy(scenes / "masks/06.png", scenes / "masks/99.png")
    messages = [finding.message for finding in check(scenes).findings]
    assert any("is the same file as" in said and "Their masks differ." in said for said in messages)


def test_one_mask_for_two_pictures(scenes: Path, codes_of: CodesOf) -> None:
    shutil.copy(scenes / "masks/06.png", scenes / "masks/07.png")
    assert sorted(codes_of(scenes)["same-mask"]) == ["masks/06.png", "masks/07.png"]


def test_empty_masks_are_not_the_same(scenes: Path, codes_of: CodesOf) -> None:
    for stem in ("06", "07"):
        Image.new("L", (160, 120)).save(scenes / "masks" / f"{stem}.png")
    assert set(codes_of(scenes)) == {"empty-mask"}


def test_a_group_on_both_sides(scenes: Path) -> None:
    lines = ["image,mask,group,part"]
    for number in range(12):
        part = "val" if number > 8 else "train"
        name = f"{number:02d}.png"
        lines.append(f"images/{name},masks/{name},g{number % 5},{part}")
    (scenes / "list.csv").write_text("\n".join(lines))
    (scenes / "dataset.toml").write_text('pairs = "list.csv"\n')
    findings = check(scenes).findings
    assert {finding.code for finding in findings} == {"group-across-parts"}
    assert len(findings) == 3
    assert "'g0' has pictures on both sides" in "".join(finding.message for finding in findings)


def test_names_that_look_like_groups(scenes: Path, codes_of: CodesOf) -> None:
    for name in ("images", "masks"):
        for path in sorted((scenes / name).glob("*.png")):
            number = int(path.stem)
            path.rename(path.with_name(f"tile{number // 3}_{number % 3}.png"))
    result = check(scenes)
    assert [finding.code for finding in result.findings] == ["possible-groups"]
    assert result.exit_code == 0
    cure = result.findings[0].cure
    assert "4 groups, such as 3 of 'tile0'" in result.findings[0].message
    assert "--group-by '^([^_-]+)[_-]' --write" in cure
