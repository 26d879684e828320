import io
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from plainunet.prediction.predict import find_inputs


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("in/a.png", "in/b.jpg", "in/deep/c.png", "in/x[1].png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.zeros((4, 5, 3), np.uint8)).save(tmp_path / name)
    tifffile.imwrite(
        tmp_path / "in" / "stack.tif", np.zeros((3, 4, 5), np.uint8), photometric="minisblack"
    )
    (tmp_path / "film.mp4").write_bytes(b"")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def named(*names: str) -> list[str]:
    return [str(source) for source in find_inputs([Path(name) for name in names]).pictures]


SLICES = [f"in/stack.tif[{number}]" for number in range(3)]


def test_a_folder_and_its_stacks(folder: Path) -> None:
    assert named("in") == ["in/a.png", "in/b.jpg", "in/deep/c.png", *SLICES, "in/x[1].png"]


def test_one_slice(folder: Path) -> None:
    assert named("in/stack.tif[1]") == ["in/stack.tif[1]"]


def test_patterns(folder: Path) -> None:
    assert named("in/*.png") == ["in/a.png", "in/x[1].png"]
    assert named("in/**/*.png") == ["in/a.png", "in/deep/c.png", "in/x[1].png"]
    assert named(f"{folder}/in/[ab].*") == [f"{folder}/in/a.png", f"{folder}/in/b.jpg"]
    with pytest.raises(FileNotFoundError, match=r"in/\*\.bmp: no file fits this pattern"):
        named("in/*.bmp")


def test_a_name_that_looks_like_a_pattern(folder: Path) -> None:
    Image.fromarray(np.zeros((4, 5, 3), np.uint8)).save("in/star*.png")
    assert named("in/star*.png") == ["in/star*.png"]


def test_lists(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = "in/b.jpg\r\n\n  in/a.png\nin/b.jpg\n"
    Path("list.txt").write_text(lines, encoding="utf-8-sig")
    assert named("list.txt", "in/deep") == ["in/b.jpg", "in/a.png", "in/deep/c.png"]

    class Input:
        buffer = io.BytesIO(lines.encode())

    monkeypatch.setattr("sys.stdin", Input)
    assert named("-") == ["in/b.jpg", "in/a.png"]


def test_lists_that_are_none(folder: Path) -> None:
    Path("empty.txt").write_text("\n")
    Path("bytes.txt").write_bytes(b"\xff\xfe\x00")
    Path("wrong.txt").write_text("in/none.png")
    for name, message in (
        ("empty.txt", "names no picture"),
        ("bytes.txt", "no text in UTF-8"),
        ("wrong.txt", r"in/none\.png does not exist"),
        ("none.png", r"none\.png does not exist"),
        ("none.mp4", r"none\.mp4 does not exist"),
    ):
        with pytest.raises((ValueError, FileNotFoundError), match=message):
            named(name)


def test_videos_stand_apart(folder: Path) -> None:
    found = find_inputs([Path("film.mp4"), Path("in/a.png"), Path("film.mp4")])
    assert found == ([Path("in/a.png")], [Path("film.mp4")])


def test_each_once_however_it_is_named(folder: Path) -> None:
    assert named("in/a.png", f"{folder}/in/a.png", "in/deep/../a.png", "in/*.jpg") == [
        "in/a.png",
        "in/b.jpg",
    ]


def test_masks_below_the_pictures_are_no_pictures(folder: Path) -> None:
    before = named("in")
    Image.fromarray(np.zeros((4, 5), np.uint8)).save(Path("in/deep/mask.png"))
    found = find_inputs([Path("in")], Path("in/deep")).pictures
    assert [str(path) for path in found] == [each for each in before if "deep" not in each]
    found = find_inputs([Path("in/**/*.png")], folder / "in" / "deep").pictures
    assert [str(path) for path in found] == ["in/a.png", "in/x[1].png"]
    # what is named itself is taken, for it to be refused where masks go
    assert len(find_inputs([Path("in/deep")], Path("in/deep")).pictures) == 2
