from pathlib import Path

import pytest
from PIL import Image

from plainunet.dataset.pairs import find_pairs
from plainunet.formats.problems import DataError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("images", "masks"):
        (tmp_path / name).mkdir()
    for stem in ("road", "field", "lake"):
        Image.new("RGB", (8, 8)).save(tmp_path / "images" / f"{stem}.jpg")
        Image.new("L", (8, 8)).save(tmp_path / "masks" / f"{stem}_mask.png")
    return tmp_path


def collected(folder: Path) -> tuple[list[str], list[DataError]]:
    problems: list[DataError] = []
    pairs = find_pairs(folder, at_least=0, on_problem=problems.append)
    return [pair.image.stem for pair in pairs], problems


def test_a_misspelt_name_is_mended_by_its_cure(folder: Path) -> None:
    (folder / "masks/road_mask.png").rename(folder / "masks/raod_mask.png")
    stems, (no_mask, no_picture) = collected(folder)
    assert stems == ["field", "lake"]
    assert (no_mask.code, no_mask.files) == ("no-mask", (folder / "images/road.jpg",))
    assert f"nearest is {folder / 'masks/raod_mask.png'}" in str(no_mask)
    assert no_mask.cure == f"mv {folder / 'masks/raod_mask.png'} {folder / 'masks/road_mask.png'}"
    assert (no_picture.code, no_picture.files) == (
        "no-picture",
        (folder / "masks/raod_mask.png",),
    )


@pytest.mark.parametrize("name", ["road_mask.dat", "road_mask", "road_mask.png.bak"])
def test_a_picture_under_another_suffix_is_its_partner(folder: Path, name: str) -> None:
    (folder / "masks/road_mask.png").rename(folder / "masks" / name)
    _, (problem,) = collected(folder)
    old, new = problem.cure.removeprefix("mv ").split()
    Path(old).rename(new)
    assert Path(new).name == "road_mask.png"
    assert collected(folder) == (["field", "lake", "road"], [])


def test_without_a_candidate_there_is_no_command(folder: Path) -> None:
    (folder / "masks/lake_mask.png").unlink()
    stems, (problem,) = collected(folder)
    assert stems == ["field", "road"]
    assert (problem.code, problem.cure) == ("no-mask", "")
    assert "images/lake.jpg has no mask" in str(problem)


def test_two_files_of_one_name(folder: Path) -> None:
    Image.new("L", (8, 8)).save(folder / "masks/lake_mask.tif")
    stems, (problem,) = collected(folder)
    assert len(stems) == 3
    assert problem.code == "two-partners"
    assert {path.name for path in problem.files} == {"lake_mask.png", "lake_mask.tif"}


def test_without_a_collector_the_first_is_raised(folder: Path) -> None:
    (folder / "masks/lake_mask.png").unlink()
    with pytest.raises(DataError, match="1 pictures have no mask") as raised:
        find_pairs(folder)
    assert raised.value.code == "no-mask"
    assert raised.value.files == (folder / "images/lake.jpg",)


def test_of_two_that_shall_meet_one_moves(folder: Path) -> None:
    (folder / "masks/lake_mask.png").rename(folder / "masks/laek_mask.png")
    _, problems = collected(folder)
    assert {problem.code for problem in problems} == {"no-mask", "no-picture"}
    assert len({problem.cure for problem in problems}) == 1


@pytest.mark.parametrize(
    ("mask", "picture"), [("IMG_3440", "IMG_3458"), ("road", "lake"), ("train_1", "train_12")]
)
def test_unrelated_files_are_not_brought_together(tmp_path: Path, mask: str, picture: str) -> None:
    """One picture has lost its mask, another mask its picture."""
    for name in ("images", "masks"):
        (tmp_path / name).mkdir()
        for stem in ("IMG_1", "IMG_2", picture if name == "masks" else mask):
            Image.new("L", (8, 8)).save(tmp_path / name / f"{stem}.png")
    stems, problems = collected(tmp_path)
    assert stems == ["IMG_1", "IMG_2"]
    assert [problem.cure for problem in problems] == ["", ""]
