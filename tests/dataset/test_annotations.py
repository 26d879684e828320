"""COCO files and lists of run-length codes are paired with their images."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from plainunet.config import DataConfig, FolderConfig
from plainunet.dataset.annotations import find_files, listed_names, name_file, pair_annotated
from plainunet.dataset.lists import Pair
from plainunet.dataset.pairs import find_pairs
from plainunet.dataset.split import name_below
from plainunet.formats.masks import mask_size, read_mask
from plainunet.formats.sources import CocoImage
from plainunet.reporter import Collected, Reporter, silent

CountCalls = Callable[[Callable[[], object]], int]
SIZE = (6, 8)


def touch(root: Path, *names: str) -> Path:
    """COCO pictures are not opened, so empty files will do."""
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def write_coco(file: Path, *names: str, categories: tuple[str, ...] = ("cell",)) -> Path:
    """Picture number n has a cell of n pixels."""
    file.parent.mkdir(parents=True, exist_ok=True)
    raw: dict[str, Any] = {
        "images": [
            {"id": n, "file_name": name, "height": SIZE[0], "width": SIZE[1]}
            for n, name in enumerate(names, 1)
        ],
        "annotations": [
            {
                "id": n,
                "image_id": n,
                "category_id": 1,
                "segmentation": {"size": list(SIZE), "counts": [0, n, SIZE[0] * SIZE[1] - n]},
            }
            for n in range(1, len(names) + 1)
        ],
        "categories": [{"id": n, "name": name} for n, name in enumerate(categories, 1)],
    }
    file.write_text(json.dumps(raw))
    return file


def write_csv(file: Path, rows: dict[str, str], header: str = "img,rle_mask") -> Path:
    file.write_text("".join(f"{line}\n" for line in [header, *map(",".join, rows.items())]))
    return file


def picture(file: Path) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.zeros((*SIZE, 3), np.uint8)).save(file)
    return file


def pair(folder: Path, heard: Reporter = silent, **named: Any) -> list[Pair]:
    return pair_annotated(folder, FolderConfig(**named), heard)


def listed(
    folder: Path, heard: Reporter = silent, **named: Any
) -> list[tuple[str, str, str, str | None]]:
    return sorted(
        (name_below(each.image, folder), name_below(each.mask, folder), each.group, each.part)
        for each in pair(folder, heard, **named)
    )


def test_a_folder_without_annotations_has_none(tmp_path: Path) -> None:
    touch(tmp_path, "images/a.jpg", "annotations/a.xml", "table.csv")
    (tmp_path / "other.json").write_text('{"shapes": []}')
    heard = Collected()
    assert pair(tmp_path, heard) == []
    assert [note.partition(":")[0] for note in heard.notes] == [
        f"No masks are taken from {tmp_path / name}" for name in ("other.json", "table.csv")
    ]


def test_roboflow(tmp_path: Path) -> None:
    copies = [f"a_jpg.rf.{code * 8}.jpg" for code in ("0a1b", "2c3d")]
    for part in ("train", "valid", "test"):
        touch(tmp_path / part, *copies, "street.jpg")
        write_coco(tmp_path / part / "_annotations.coco.json", *copies, "street.jpg")
    heard = Collected()
    found = listed(tmp_path, heard)
    assert len(found) == 9
    assert found[6:] == [
        ("valid/" + copies[0], "valid/_annotations.coco.json[1]", "val/a_jpg", "val"),
        ("valid/" + copies[1], "valid/_annotations.coco.json[2]", "val/a_jpg", "val"),
        ("valid/street.jpg", "valid/_annotations.coco.json[3]", "val/street", "val"),
    ]
    assert {part for *_, part in found} == {"train", "val", "test"}
    assert len(heard.notes) == 3
    assert re.search(
        r"pictures in .*train are read from .*train/_ann", heard.notes[1] + heard.notes[2]
    )
    pairs = find_pairs(tmp_path)
    assert len(pairs) == 9
    assert int((read_mask(pairs[2].mask) == 1).sum()) == 3
    assert mask_size(pairs[2].mask) == SIZE


def test_coco_2017(tmp_path: Path) -> None:
    for part in ("train2017", "val2017"):
        names = [f"{part[0]}{n}.jpg" for n in range(3)]
        touch(tmp_path / part, *names)
        for kind in ("instances", "person_keypoints", "captions"):
            write_coco(tmp_path / "annotations" / f"{kind}_{part}.json", *names)
    heard = Collected()
    found = listed(tmp_path, heard)
    assert len(found) == 6
    first = ("train2017/t0.jpg", "annotations/instances_train2017.json[1]", "train/t0")
    assert found[0] == (*first, "train")
    assert found[3][1].startswith("annotations/instances_val2017.json")
    assert found[3][3] == "val"
    assert re.search(r"Left aside.*captions_train2017\.json.*person_keypoints_val", heard.notes[0])
    assert len(find_pairs(tmp_path)) == 6


def test_key_points_alone_are_taken(tmp_path: Path) -> None:
    touch(tmp_path, "val2017/a.jpg")
    write_coco(tmp_path / "annotations/person_keypoints_val2017.json", "a.jpg")
    assert len(listed(tmp_path)) == 1


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("annotations.json", "a.jpg"),
        ("annotations.json", "images/a.jpg"),
        ("annotations.json", "C:\\set\\images\\a.jpg"),
        ("annotations/instances_default.json", "a.jpg"),
        ("annotations/all.json", "../images/a.jpg"),
        ("images/all.json", "a.jpg"),
    ],
)
def test_one_file_beside_images(tmp_path: Path, file: str, name: str) -> None:
    touch(tmp_path, "images/a.jpg", "other/z.jpg")
    write_coco(tmp_path / file, name)
    masks = file if file.startswith("images") else None
    assert listed(tmp_path, masks=masks) == [("images/a.jpg", f"{file}[1]", "a", None)]


def test_the_folder_whose_name_says_most_is_taken(tmp_path: Path) -> None:
    touch(tmp_path, "train_set/a.jpg", "zoo/a.jpg", "images/a.jpg", "train_set_zoo/a.txt")
    write_coco(tmp_path / "train_set_zoo.json", "a.jpg")
    assert [each[0] for each in listed(tmp_path)] == ["train_set/a.jpg"]


def test_parts_below_images(tmp_path: Path) -> None:
    names = ["train/a.jpg", "val2/x/a.jpg", "test/a.jpg"]
    touch(tmp_path / "images", *names)
    write_coco(tmp_path / "all.json", *names)
    parts = {image: part for image, _, _, part in listed(tmp_path)}
    assert parts == {f"images/{n}": p for n, p in zip(names, ("train", "val", "test"), strict=True)}


def test_parts_from_the_names_of_files(tmp_path: Path) -> None:
    touch(tmp_path / "images", "a.jpg", "b.jpg")
    write_coco(tmp_path / "train.json", "a.jpg")
    write_coco(tmp_path / "my_validation_set.json", "b.jpg")
    assert [each[3] for each in listed(tmp_path)] == ["train", "val"]
    touch(tmp_path / "images", "c.jpg")
    write_coco(tmp_path / "more.json", "c.jpg")
    with pytest.raises(
        ValueError, match=r"c\.jpg \(mask: .*more\.json\[1\]\) is in none of the parts"
    ):
        pair(tmp_path)


def test_a_single_part_is_still_to_be_split(tmp_path: Path) -> None:
    touch(tmp_path, "train/a.jpg")
    write_coco(tmp_path / "train/_annotations.coco.json", "a.jpg")
    assert [each[3] for each in listed(tmp_path)] == [None]


def test_a_listed_picture_must_exist(tmp_path: Path) -> None:
    touch(tmp_path, "images/a.jpg")
    write_coco(tmp_path / "all.json", "a.jpg", *(f"{n}.jpg" for n in range(7)))
    with pytest.raises(
        ValueError, match=r"all\.json lists 8 .* 7 are not .* 0\.jpg.* and 2 more\..*--im"
    ):
        pair(tmp_path)


def test_a_picture_must_be_listed(tmp_path: Path) -> None:
    touch(tmp_path / "images", "a.jpg", *(f"{n}.jpg" for n in range(7)))
    write_coco(tmp_path / "all.json", "a.jpg")
    with pytest.raises(
        ValueError,
        match=r"7 of the 8 pictures below .*images are not listed in .*0\.jpg.* and 2 more\.",
    ):
        pair(tmp_path)


def test_a_file_without_pictures_is_refused(tmp_path: Path) -> None:
    touch(tmp_path, "images/a.jpg")
    write_coco(tmp_path / "all.json")
    with pytest.raises(ValueError, match=r"all\.json lists no pictures"):
        pair(tmp_path)


def test_two_files_may_not_list_one_picture(tmp_path: Path) -> None:
    touch(tmp_path, "images/a.jpg", "images/b.jpg")
    write_coco(tmp_path / "one.json", "a.jpg", "b.jpg")
    write_coco(tmp_path / "two.json", "b.jpg")
    with pytest.raises(
        ValueError,
        match=r"b\.jpg is listed twice: as b\.jpg in .*one\.json and .*two\.json.*--masks",
    ):
        pair(tmp_path)
    assert len(listed(tmp_path, masks="one.json")) == 2
    write_coco(tmp_path / "one.json", "a.jpg", "images/a.jpg")
    with pytest.raises(
        ValueError, match=r"a\.jpg is listed twice: as a\.jpg in .* as images/a\.jpg in"
    ):
        pair(tmp_path, masks="one.json")


def test_files_must_have_the_same_classes(tmp_path: Path) -> None:
    touch(tmp_path, "train/a.jpg", "valid/a.jpg")
    write_coco(tmp_path / "train/a.json", "a.jpg")
    write_coco(tmp_path / "valid/a.json", "a.jpg", categories=("cell", "wall"))
    with pytest.raises(
        ValueError, match=r"train/a\.json has background, cell; .*valid/a\.json has .*wall\."
    ):
        pair(tmp_path)


def test_a_file_whose_pictures_are_elsewhere_is_left_aside(tmp_path: Path) -> None:
    touch(tmp_path, "val2017/v.jpg")
    write_coco(tmp_path / "annotations/instances_train2017.json", "t.jpg")
    write_coco(tmp_path / "annotations/instances_val2017.json", "v.jpg")
    heard = Collected()
    assert len(listed(tmp_path, heard)) == 1
    assert re.search(
        r"train2017\.json is left aside: of the 1 pictures .* none lies", heard.notes[0]
    )


def test_named_file_and_folder(tmp_path: Path) -> None:
    data = touch(tmp_path / "data", "photos/a.jpg", "drawings/a.jpg")
    file = write_coco(tmp_path / "elsewhere.json", "a.jpg")
    found = pair(data, images="photos", masks=str(file))
    assert [(each.image, each.mask.name) for each in found] == [
        (data / "photos/a.jpg", "elsewhere.json[1]")
    ]
    with pytest.raises(FileNotFoundError, match=r"--masks no\.json"):
        pair(data, masks="no.json")
    with pytest.raises(FileNotFoundError, match=r"--images no: .*drawings/, photos/"):
        pair(data, images="no", masks=str(file))


def test_a_damaged_file_is_an_error_only_where_it_is_named(tmp_path: Path) -> None:
    touch(tmp_path, "images/a.jpg")
    file = write_coco(tmp_path / "all.json", "a.jpg")
    file.write_text(file.read_text()[:-30])
    assert pair(tmp_path) == []
    with pytest.raises(ValueError, match=r"all\.json is no JSON, or cut off"):
        pair(tmp_path, masks="all.json")


def test_carvana_with_its_list_alone(tmp_path: Path) -> None:
    names = ["0cdf5b5d0ce1_01.jpg", "0cdf5b5d0ce1_02.jpg", "ff9d1a0e2b3c_01.jpg"]
    for name in names:
        picture(tmp_path / "train" / name)
    touch(tmp_path, "test/1_01.jpg")
    write_csv(tmp_path / "train_masks.csv", dict.fromkeys(names, "3 4 11 4"))
    write_csv(tmp_path / "sample_submission.csv", {"1_01.jpg": "1 1"})
    heard = Collected()
    found = pair(tmp_path, heard, rle="rows")
    assert [each.image.name for each in found] == names
    assert [each.group for each in found] == ["0cdf5b5d0ce1", "0cdf5b5d0ce1", "ff9d1a0e2b3c"]
    assert {each.part for each in found} == {None}
    assert any("sample_submission.csv" in note for note in heard.notes)
    expected = np.zeros(SIZE, np.uint8)
    expected[:2, 2:6] = 1
    assert (read_mask(found[0].mask) == expected).all()
    assert len(find_pairs(tmp_path, DataConfig(rle="rows"))) == 3


def test_dsb2018_with_its_list(tmp_path: Path) -> None:
    names = ["0a7d30b2", "0acd2c22", "0b0d577d"]
    for name in names:
        picture(tmp_path / f"stage1_train/{name}/images/{name}.png")
        picture(tmp_path / f"stage1_train/{name}/masks/{name[::-1]}.png")
        picture(tmp_path / f"stage1_test/{name}f/images/{name}f.png")
    write_csv(
        tmp_path / "stage1_train_labels.csv", dict.fromkeys(names, "1 6"), "ImageId,EncodedPixels"
    )
    found = pair(tmp_path, rle="columns")
    assert [each.image.name for each in found] == [f"{name}.png" for name in names]
    assert len({each.group for each in found}) == 3
    assert (read_mask(found[0].mask)[:, 0] == 1).all()
    assert len(find_pairs(tmp_path, DataConfig(rle="columns"))) == 3


def test_a_test_folder_that_is_not_listed_is_left_alone(tmp_path: Path) -> None:
    touch(tmp_path, "train/a.jpg", "test/b.jpg")
    write_coco(tmp_path / "labels.json", "train/a.jpg")
    heard = Collected()
    assert len(listed(tmp_path, heard)) == 1
    assert any("1 pictures of a test folder" in note for note in heard.notes)
    touch(tmp_path, "val/c.jpg")
    with pytest.raises(ValueError, match=r"1 of the 3 pictures .*c\.jpg"):
        pair(tmp_path)


def test_the_work_of_pairing_grows_with_the_pictures(
    tmp_path: Path, count_calls: CountCalls
) -> None:
    calls = {}
    for count in (400, 800):
        folder = tmp_path / str(count)
        names = [f"{n:06}.jpg" for n in range(count)]
        touch(folder / "images", *names)
        file = write_coco(folder / "all.json", *names[:40])
        raw = json.loads(file.read_text())
        raw["images"] = [raw["images"][0] | {"id": n, "file_name": x} for n, x in enumerate(names)]
        file.write_text(json.dumps(raw))
        assert len(pair(folder)) == count
        calls[count] = count_calls(lambda folder=folder: pair(folder))
    assert calls[800] < 2.5 * calls[400]


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
    assert listed_names(tmp_path / "all.json") == {"a.jpg": CocoImage(tmp_path / "all.json", 4)}
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
