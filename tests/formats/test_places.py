from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plainunet.formats.sources import Place, class_files, files_of, find_place, name_place, stem_of

TEXT = st.text(st.characters(exclude_characters="/\\\0[]", exclude_categories=["Cs"]), max_size=9)


def test_an_item_may_look_like_a_place() -> None:
    path = Path("m.csv[a.tif[3] 2x2 rows]")
    assert find_place(path) == Place(Path("m.csv"), "a.tif[3] 2x2 rows")


@given(item=TEXT, suffix=st.sampled_from([".tif", ".TIFF", ".json", ".csv"]), stem=TEXT)
def test_an_item_comes_back(item: str, suffix: str, stem: str) -> None:
    file = Path("folder") / f"a{stem}{suffix}"
    assert find_place(name_place(file, item)) == Place(file, item)


@pytest.mark.parametrize("name", ["a.tif", "a.png[3]", "a.tif[3].png", "a[3].tif", "[3]", "a.tif["])
def test_other_paths_name_files(name: str) -> None:
    assert find_place(Path("folder") / name) is None
    assert files_of(Path(name)) == [Path(name)]


def test_one_file_for_each_class(tmp_path: Path) -> None:
    path = tmp_path / "{road,small car}" / "7.png"
    files = {name: tmp_path / name / "7.png" for name in ("road", "small car")}
    assert class_files(path) == files
    assert files_of(path) == [path]  # none of them exists
    files["road"].parent.mkdir()
    files["road"].touch()
    assert files_of(path) == [files["road"]]
    twice = class_files(tmp_path / "{road,car}" / "7_{road,car}.png")
    assert twice["car"] == tmp_path / "car" / "7_car.png"
    assert class_files(tmp_path / "{road}.png") == {}
    assert class_files(tmp_path / "road,car.png") == {}


def test_stems() -> None:
    assert stem_of(Path("a/b.c.png")) == "b.c"
    assert stem_of(Path("a/b.tif[3]")) == "b_3"
