from pathlib import Path
from unicodedata import normalize

import pytest

from plainunet.dataset.lists import Pictures, has_pictures


def touch(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def test_pictures_are_found_by_path_name_and_stem(tmp_path: Path) -> None:
    touch(tmp_path, "images/a.jpg", "images/x/b.v2.png", "images/x/c.png", "images/y/c.png")
    pictures = Pictures(tmp_path / "images")
    found = {
        "a.jpg": "a.jpg",
        "./a.jpg": "a.jpg",
        "images/a.jpg": "a.jpg",
        "../images/a.jpg": "a.jpg",
        "D:\\set\\images\\a.jpg": "a.jpg",
        "/home/me/a.jpg": "a.jpg",
        "a.png": "a.jpg",
        "a": "a.jpg",
        "b.v2": "x/b.v2.png",
        "x/c.png": "x/c.png",
        "y/c": "y/c.png",
        "c.png": None,  # two of this name
        "c": None,
        "b": None,
        "": None,
        "\0": None,
    }
    for name, path in found.items():
        expected = None if path is None else tmp_path / "images" / path
        assert pictures.find(name, tmp_path, tmp_path / "annotations") == expected, name


def test_letters_may_be_written_in_two_ways(tmp_path: Path) -> None:
    touch(tmp_path, normalize("NFD", "é.jpg"))
    assert Pictures(tmp_path).find(normalize("NFC", "é.jpg")) is not None


def test_a_folder_may_be_named_from_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touch(tmp_path, "x/a.jpg")
    monkeypatch.chdir(tmp_path)
    assert Pictures(Path()).find("x/a.jpg") == Path("x/a.jpg")
    assert Pictures(Path("x")).find("x/a.jpg", Path()) == Path("x/a.jpg")


def test_masks_beside_images_are_no_pictures(tmp_path: Path) -> None:
    touch(tmp_path, "1/images/1.png", "1/masks/a.png", "1/masks/b.png", "masks/m.png", "c.txt")
    names = [path.name for path in Pictures(tmp_path).paths]
    assert names == ["1.png", "m.png"]
    assert has_pictures(tmp_path)
    assert not has_pictures(touch(tmp_path / "empty", "c.txt"))
