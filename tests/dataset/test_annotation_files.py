import json
from pathlib import Path

import pytest

from plainunet.dataset.annotations import find_files, listed_names, name_file
from plainunet.formats.sources import CocoImage

COCO = {
    "images": [{"id": 4, "file_name": "a.jpg", "height": 3, "width": 3}],
    "annotations": [],
    "categories": [{"id": 1, "name": "leaf"}],
}


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def test_where_files_are_looked_for(tmp_path: Path) -> None:
    places = ("all.json", "annotations/b.json", "train/c.json", "elsewhere/d.json", ".e.json")
    for place in places:
        write(tmp_path / place, json.dumps(COCO))
    write(tmp_path / "codes.csv", "ImageId,EncodedPixels\na,1 2\n")
    found = [file.relative_to(tmp_path).as_posix() for file in find_files(tmp_path, print)]
    assert found == ["all.json", "codes.csv", "annotations/b.json", "train/c.json"]
    file = tmp_path / "all.json"
    assert listed_names(file) == {"a.jpg": CocoImage(file, 4)}
    assert listed_names(tmp_path / "codes.csv") == {"a": None}


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("cut.json", json.dumps(COCO)[:60], "is no JSON, or cut off after 60 bytes"),
        ("empty.json", "", "cut off after 0 bytes"),
        ("other.json", "[]", "lacks one of the lists images"),
        ("semi.csv", "ImageId;EncodedPixels\na;1 2\n", "commas between the fields"),
    ],
)
def test_what_is_wrong_with_a_file_is_said(tmp_path: Path, name: str, text: str, said: str) -> None:
    write(tmp_path / name, text)
    notes: list[str] = []
    assert list(find_files(tmp_path, notes.append)) == []
    assert len(notes) == 1
    assert notes[0].startswith(f"No masks are taken from {tmp_path / name}: ")
    assert said in notes[0]


def test_a_file_that_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "data" / "all.json", "")
    assert name_file(tmp_path / "data", "all.json") == path
    monkeypatch.chdir(tmp_path)
    assert name_file(tmp_path, "data/all.json").samefile(path)
    with pytest.raises(FileNotFoundError, match=r"--masks b\.json: there is no such file"):
        name_file(tmp_path, "b.json")
