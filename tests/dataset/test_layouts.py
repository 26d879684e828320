import re
from pathlib import Path

import pytest

from plainunet.config import FolderConfig
from plainunet.dataset.layouts import find_layout, folders_found, walk
from plainunet.formats.problems import DataError
from plainunet.reporter import Collected

from ..folders import touch


def roots(folder: Path, **named: str) -> list[tuple[str, str | None, str]]:
    return [
        (
            root.images.relative_to(folder).as_posix(),
            root.masks.relative_to(folder).as_posix() if root.masks else None,
            root.part,
        )
        for root in find_layout(folder, FolderConfig(**named)).roots
    ]


@pytest.mark.parametrize(
    ("images", "masks"),
    [
        ("images", "masks"),
        ("Images", "Masks"),
        ("image", "mask"),
        ("IMG", "labels"),
        ("imgs", "Label"),
        ("images", "annotations"),
    ],
)
def test_names_of_folders(tmp_path: Path, images: str, masks: str) -> None:
    touch(tmp_path, f"{images}/a.jpg", f"{masks}/a.png")
    assert roots(tmp_path) == [(images, masks, "")]


@pytest.mark.parametrize("beside", ["{}_masks", "{}annot"])
def test_masks_next_to_the_splits(tmp_path: Path, beside: str) -> None:
    for part in ("train", "val"):
        touch(tmp_path, f"{part}/a.png", f"{beside.format(part)}/a.png")
    touch(tmp_path, "test/a.png")
    expected = [(part, beside.format(part), part) for part in ("train", "val")]
    assert sorted(roots(tmp_path)) == expected
    touch(tmp_path, f"{beside.format('test')}/a.png")
    assert len(roots(tmp_path)) == 3
    assert (find_layout(tmp_path).group_by is None) == (beside == "{}annot")


def test_images_and_masks_in_each_split(tmp_path: Path) -> None:
    touch(tmp_path, "train/images/a.jpg", "train/masks/a.png", "valid/Image/a.jpg")
    touch(tmp_path, "valid/label/a.png", "test/images/a.jpg")
    assert roots(tmp_path) == [
        ("train/images", "train/masks", "train"),
        ("valid/Image", "valid/label", "valid"),
    ]


def test_unknown_names(tmp_path: Path) -> None:
    touch(tmp_path, "photos/a.jpg", "outlines/a.png")
    assert roots(tmp_path) == [(".", None, "")]
    assert folders_found(tmp_path) == "Folders found: outlines/, photos/."
    assert folders_found(tmp_path / "photos") == "Folders found: none."


def test_images_are_the_folder_that_has_one_for_each_mask(tmp_path: Path) -> None:
    touch(tmp_path, *(f"{folder}/{n}.tif" for folder in ("top", "gts_for_all") for n in "abc"))
    touch(tmp_path, "top/d.tif", *(f"dsm/dsm_{n}.tif" for n in "abcd"))
    assert roots(tmp_path) == [("top", "gts_for_all", "")]
    touch(tmp_path, *(f"infrared/{n}.tif" for n in "abc"))
    assert roots(tmp_path) == [(".", None, "")]


def test_masks_come_before_variants_and_others_are_noted(tmp_path: Path) -> None:
    touch(tmp_path, "images/a.jpg", "masks/a.png", "masks_color/a.png", "labels/a.txt", "x/a.png")
    heard = Collected()
    assert find_layout(tmp_path, reporter=heard).roots[0].masks == tmp_path / "masks"
    assert len(heard.notes) == 1
    assert re.search(r"masks_color/, x/ .*--masks masks_color", heard.notes[0])
    assert roots(tmp_path, masks="masks_color") == [("images", "masks_color", "")]


def test_named_folders_below_splits(tmp_path: Path) -> None:
    touch(tmp_path, "train/images/a.jpg", "train/gt/a.png", "val/images/b.jpg", "val/gt/b.png")
    wanted = [("train/images", "train/gt", "train"), ("val/images", "val/gt", "val")]
    assert roots(tmp_path, masks="gt") == wanted
    assert roots(tmp_path, images="images", masks="gt") == wanted
    assert roots(tmp_path, masks="train/gt", images="train/images") == [
        ("train/images", "train/gt", "")
    ]


def test_two_candidates_are_refused(tmp_path: Path) -> None:
    touch(tmp_path, "images/a.jpg", "labels/a.png", "annotations/a.png")
    with pytest.raises(DataError, match="--masks annotations\n") as raised:
        find_layout(tmp_path)
    assert raised.value.code == "which-folder"
    assert roots(tmp_path, images="images", masks="labels") == [("images", "labels", "")]


def test_named_folders(tmp_path: Path) -> None:
    touch(tmp_path, "JPEGImages/a.jpg", "Seg/a.png", "train/a.jpg", "trainannot/a.png")
    assert roots(tmp_path, images="JPEGImages", masks="Seg") == [("JPEGImages", "Seg", "")]
    assert roots(tmp_path, images="train") == [("train", "trainannot", "")]
    assert roots(tmp_path, images="train", masks="train") == [("train", None, "")]
    with pytest.raises(FileNotFoundError, match=r"--masks seg: .*JPEGImages/, Seg"):
        find_layout(tmp_path, FolderConfig(masks="seg"))
    assert roots(tmp_path, masks="Seg") == [("JPEGImages", "Seg", "")]
    with pytest.raises(FileNotFoundError, match="--images"):
        find_layout(tmp_path / "train", FolderConfig(masks="."))


def test_walk_skips_a_folder(tmp_path: Path) -> None:
    touch(tmp_path, "a.jpg", "b/c.PNG", "masks/a.png", ".d.png", "b/e.txt")
    found = walk(tmp_path, tmp_path / "masks")
    assert [path.relative_to(tmp_path).as_posix() for path in found] == ["a.jpg", "b/c.PNG"]
