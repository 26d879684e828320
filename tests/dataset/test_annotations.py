"""COCO and run-length files are matched with their images."""

import base64
import json
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from plainunet.config import DataConfig, FolderConfig
from plainunet.dataset.annotations import find_files, listed_names, name_file, pair_annotated
from plainunet.dataset.lists import Pair
from plainunet.dataset.pairs import find_pairs
from plainunet.formats.masks import read_mask
from plainunet.formats.problems import DataError
from plainunet.formats.sources import CocoImage
from plainunet.reporter import Collected, Reporter, silent

from ..folders import Row, rows, save, touch

CountCalls = Callable[[Callable[[], object]], int]
SIZE = (6, 8)
BLACK = np.zeros((*SIZE, 3), np.uint8)


def write_coco(file: Path, *names: str, categories: tuple[str, ...] = ("cell",)) -> Path:
    """Image number n has a cell of n pixels."""
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


def write_csv(file: Path, codes: dict[str, str], header: str = "img,rle_mask") -> Path:
    file.write_text("".join(f"{line}\n" for line in [header, *map(",".join, codes.items())]))
    return file


def pair(folder: Path, heard: Reporter = silent, **named: Any) -> list[Pair]:
    return pair_annotated(folder, FolderConfig(**named), heard)


def listed(folder: Path, heard: Reporter = silent, **named: Any) -> list[Row]:
    return sorted(rows(pair(folder, heard, **named), folder))


def test_roboflow(tmp_path: Path) -> None:
    copies = [f"a_jpg.rf.{code * 8}.jpg" for code in ("0a1b", "2c3d")]
    for part in ("train", "valid", "test"):
        touch(tmp_path / part, *copies, "street.jpg")
        write_coco(tmp_path / part / "_annotations.coco.json", *copies, "street.jpg")
    heard = Collected()
    found = sorted(rows(find_pairs(tmp_path, reporter=heard), tmp_path))
    assert len(found) == 9
    assert found[6:] == [
        ("valid/" + copies[0], "valid/_annotations.coco.json[1]", "a_jpg", "val"),
        ("valid/" + copies[1], "valid/_annotations.coco.json[2]", "a_jpg", "val"),
        ("valid/street.jpg", "valid/_annotations.coco.json[3]", "val/street", "val"),
    ]
    assert {part for *_, part in found} == {"train", "val", "test"}
    assert len(heard.notes) == 3
    pairs = find_pairs(tmp_path)
    assert len(pairs) == 9
    assert int((read_mask(pairs[2].mask) == 1).sum()) == 3


def test_coco_2017(tmp_path: Path) -> None:
    for part in ("train2017", "val2017"):
        names = [f"{part[0]}{n}.jpg" for n in range(3)]
        touch(tmp_path / part, *names)
        for kind in ("instances", "person_keypoints", "captions"):
            write_coco(tmp_path / "annotations" / f"{kind}_{part}.json", *names)
    heard = Collected()
    found = listed(tmp_path, heard)
    assert [(mask, part) for _, mask, _, part in found] == [
        (f"annotations/instances_{part}2017.json[{n}]", part)
        for part in ("train", "val")
        for n in (1, 2, 3)
    ]
    assert re.search(r"captions_train2017\.json.*person_keypoints_val", heard.notes[0])
    for kind in ("instances", "captions"):
        for part in ("train2017", "val2017"):
            (tmp_path / "annotations" / f"{kind}_{part}.json").unlink()
    assert len(listed(tmp_path)) == 6  # key points are used if there is nothing else


@pytest.mark.parametrize(
    ("file", "names", "images"),
    [
        ("annotations.json", ["a.jpg"], ["images/a.jpg"]),
        ("annotations.json", ["images/a.jpg"], ["images/a.jpg"]),
        ("annotations.json", ["C:\\set\\images\\a.jpg"], ["images/a.jpg"]),
        ("annotations/instances_default.json", ["a.jpg"], ["images/a.jpg"]),
        ("annotations/all.json", ["../images/a.jpg"], ["images/a.jpg"]),
        ("annotations/LIVECell/all.json", ["a.jpg"], ["images/livecell/a.jpg"]),
        ("images/all.json", ["a.jpg"], ["images/a.jpg"]),
        # folders whose name matches the file come first
        ("train_set_zoo.json", ["a.jpg"], ["train_set/a.jpg"]),
        # splits below images/
        (
            "all.json",
            ["train/b.jpg", "val2/x/b.jpg", "test/b.jpg"],
            ["images/test/b.jpg", "images/train/b.jpg", "images/val2/x/b.jpg"],
        ),
    ],
)
def test_one_file(tmp_path: Path, file: str, names: list[str], images: list[str]) -> None:
    touch(tmp_path, *images, "other/z.jpg")
    if "train_set" in file:
        touch(tmp_path, "zoo/a.jpg", "images/a.jpg", "train_set_zoo/a.txt")
    write_coco(tmp_path / file, *names)
    found = listed(tmp_path, masks=file if file.startswith("images") else None)
    assert [image for image, *_ in found] == images
    parts = ["test", "train", "val"] if len(images) == 3 else [None]
    assert [part for *_, part in found] == parts


def test_splits_from_file_names(tmp_path: Path) -> None:
    touch(tmp_path / "images", "a.jpg", "b.jpg")
    write_coco(tmp_path / "train.json", "a.jpg")
    write_coco(tmp_path / "my_validation_set.json", "b.jpg")
    assert [each[3] for each in listed(tmp_path)] == ["train", "val"]
    (tmp_path / "my_validation_set.json").unlink()
    (tmp_path / "images/b.jpg").unlink()
    assert [each[3] for each in listed(tmp_path)] == [None]  # not split yet


CELL, WALL = ("cell",), ("cell", "wall")


@pytest.mark.parametrize(
    ("images", "files", "message"),
    [
        ("a", {"all": ("a0123456", CELL)}, r"all\.json .* 8 .* 7 .* 2 .*--images"),
        ("a0123456", {"all": ("a", CELL)}, r"\b7\b.*\b8\b.*\b2\b"),
        ("a", {"all": ("", CELL)}, r"all\.json "),
        (
            "ab",
            {"one": ("ab", CELL), "two": ("b", CELL)},
            r"b\.jpg .*two\.json",
        ),
        ("a", {"one": ("aa", CELL)}, r"one\.json .*2 .*a\.jpg"),
        ("ab", {"one": ("a", CELL), "two": ("b", WALL)}, r"one\.json .*\bcell\b.*\bwall\b"),
        (
            "abc",
            {"train": ("a", CELL), "val": ("b", CELL), "more": ("c", CELL)},
            r"c\.jpg .*more\.json\[1\]",
        ),
    ],
)
def test_files_and_images_that_do_not_match(
    tmp_path: Path, images: str, files: dict[str, tuple[str, tuple[str, ...]]], message: str
) -> None:
    touch(tmp_path / "images", *(f"{name}.jpg" for name in images))
    for file, (names, classes) in files.items():
        entries = [f"{name}.jpg" for name in names]
        write_coco(tmp_path / f"{file}.json", *entries, categories=classes)
    with pytest.raises(ValueError, match=message):
        pair(tmp_path)


def test_missing_and_unlisted_images_are_skipped(tmp_path: Path) -> None:
    touch(tmp_path, "val2017/v.jpg")
    write_coco(tmp_path / "annotations/instances_train2017.json", "t.jpg")
    write_coco(tmp_path / "annotations/instances_val2017.json", "v.jpg")
    heard = Collected()
    assert len(listed(tmp_path, heard)) == 1
    assert "train2017.json" in heard.notes[0]
    # images of a test folder, too
    folder = touch(tmp_path / "other", "train/a.jpg", "test/b.jpg")
    write_coco(folder / "labels.json", "train/a.jpg")
    assert len(listed(folder, heard)) == 1
    assert any(re.match(r"1\b", note) for note in heard.notes)
    touch(folder, "val/c.jpg")
    with pytest.raises(ValueError, match=r"\b1\b.*\b3\b.*c\.jpg"):
        pair(folder)


def test_images_that_are_gone_are_reported_and_the_others_used(tmp_path: Path) -> None:
    touch(tmp_path, "a.jpg", "b.jpg")
    write_coco(tmp_path / "labels.json", "a.jpg", "gone.jpg", "b.jpg")
    found = Collected()
    assert [pair.image.name for pair in pair_annotated(tmp_path, DataConfig(), found)] == [
        "a.jpg",
        "b.jpg",
    ]
    assert [problem.code for problem in found.problems] == ["missing-file"]
    with pytest.raises(ValueError, match=r"gone\.jpg"):
        pair(tmp_path)


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


def test_carvana_with_its_list(tmp_path: Path) -> None:
    names = ["0cdf5b5d0ce1_01.jpg", "0cdf5b5d0ce1_02.jpg", "ff9d1a0e2b3c_01.jpg"]
    for name in names:
        save(tmp_path / "train" / name, BLACK)
    touch(tmp_path, "test/1_01.jpg")
    write_csv(tmp_path / "train_masks.csv", dict.fromkeys(names, "3 4 11 4"))
    write_csv(tmp_path / "sample_submission.csv", {"1_01.jpg": "1 1"})
    heard = Collected()
    found = find_pairs(tmp_path, DataConfig(rle="rows"), heard)
    assert [(each.image.name, each.group, each.part) for each in found] == [
        (name, name[:12], None) for name in names
    ]
    assert any("sample_submission.csv" in note for note in heard.notes)
    expected = np.zeros(SIZE, np.uint8)
    expected[:2, 2:6] = 1
    assert (read_mask(found[0].mask) == expected).all()


def test_dsb2018_with_its_list(tmp_path: Path) -> None:
    names = ["0a7d30b2", "0acd2c22", "0b0d577d"]
    for name in names:
        save(tmp_path / f"stage1_train/{name}/images/{name}.png", BLACK)
        save(tmp_path / f"stage1_train/{name}/masks/{name[::-1]}.png", BLACK)
        save(tmp_path / f"stage1_test/{name}f/images/{name}f.png", BLACK)
    codes = dict.fromkeys(names, "1 6")
    write_csv(tmp_path / "stage1_train_labels.csv", codes, "ImageId,EncodedPixels")
    found = find_pairs(tmp_path, DataConfig(rle="columns"))
    assert [each.image.name for each in found] == [f"{name}.png" for name in names]
    assert len({each.group for each in found}) == 3
    assert (read_mask(found[0].mask)[:, 0] == 1).all()


def test_pairing_takes_linear_time(tmp_path: Path, count_calls: CountCalls) -> None:
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


def test_where_files_are_searched(tmp_path: Path) -> None:
    for place in ("all.json", "annotations/b.json", "train/c.json", "elsewhere/d.json", ".e.json"):
        write_coco(tmp_path / place, "a.jpg")
    write_csv(tmp_path / "codes.csv", {"a": "1 2"})
    found = [file.relative_to(tmp_path).as_posix() for file in find_files(tmp_path, print)]
    assert found == ["all.json", "codes.csv", "annotations/b.json", "train/c.json"]
    assert listed_names(tmp_path / "all.json") == {"a.jpg": CocoImage(tmp_path / "all.json", 1)}
    assert listed_names(tmp_path / "codes.csv") == {"a": None}


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("cut.json", '{"images": [{"id"', "17 bytes"),
        ("empty.json", "", " 0 bytes"),
        ("other.json", "[]", " images, annotations, categories"),
        ("semi.csv", "ImageId;EncodedPixels\na;1 2\n", "ImageId,EncodedPixels"),
        ("table.csv", "", ""),
    ],
)
def test_faults_of_a_file_are_reported(tmp_path: Path, name: str, text: str, message: str) -> None:
    touch(tmp_path, "images/a.jpg", "annotations/a.xml", name)
    (tmp_path / name).write_text(text)
    heard = Collected()
    assert pair(tmp_path, heard) == []
    assert len(heard.notes) == 1
    assert f" {tmp_path / name}: " in heard.notes[0]
    assert message in heard.notes[0]
    with pytest.raises(ValueError, match=name):  # an error only if named
        pair(tmp_path, masks=name)


def test_labelme_files_that_hold_their_images(tmp_path: Path) -> None:
    data = BytesIO()
    Image.fromarray(BLACK).save(data, "JPEG")
    shapes = [{"label": "cat", "points": [[1, 1], [5, 1], [5, 4]]}]
    for number in range(3):
        raw = {"shapes": shapes, "imagePath": f"{number}.jpg", "imageHeight": 6, "imageWidth": 8}
        raw["imageData"] = base64.b64encode(data.getvalue()).decode()
        (tmp_path / f"{number}.json").write_text(json.dumps(raw))
    heard = Collected()
    with pytest.raises(FileNotFoundError):
        find_pairs(tmp_path, DataConfig(), heard)
    (line,) = [note.split("$ ")[1] for note in heard.notes if "$ " in note]
    words = shlex.split(line)
    subprocess.run([sys.executable, *words[1:]], check=True)
    pairs = find_pairs(tmp_path, DataConfig())
    assert [pair.image.read_bytes() for pair in pairs if isinstance(pair.image, Path)] == (
        [data.getvalue()] * 3
    )


def test_files_of_isat_are_named(tmp_path: Path) -> None:
    objects = [{"category": "cat", "segmentation": [[1, 1], [5, 1], [5, 4]]}]
    for number in range(3):
        save(tmp_path / f"{number}.jpg", BLACK)
        raw = {"info": {"description": "ISAT"}, "objects": objects}
        (tmp_path / f"{number}.json").write_text(json.dumps(raw))
    heard = Collected()
    with pytest.raises(FileNotFoundError):
        find_pairs(tmp_path, DataConfig(), heard)
    (note,) = heard.notes
    assert "0.json" in note
    assert "PNG" in note


def test_a_given_file_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_coco(tmp_path / "data" / "all.json")
    assert name_file(tmp_path / "data", "all.json") == path
    monkeypatch.chdir(tmp_path)
    assert name_file(tmp_path, "data/all.json").samefile(path)
    with pytest.raises(FileNotFoundError, match=r"--masks b\.json: "):
        name_file(tmp_path, "b.json")


def test_each_of_several_files_for_the_same_images_is_an_answer(tmp_path: Path) -> None:
    touch_images(tmp_path / "images", 2)
    for name in ("a.json", "a (1).json"):
        write_coco(tmp_path / name, "0.png", "1.png")
    with pytest.raises(DataError) as raised:
        find_pairs(tmp_path)
    choices = [*raised.value.choices.values()]
    assert choices == [{"masks": "a (1).json"}, {"masks": "a.json"}]
    assert [len(find_pairs(tmp_path, DataConfig(**flags))) for flags in choices] == [2, 2]


def test_a_file_in_the_folder_of_a_split(tmp_path: Path) -> None:
    for part in ("train", "val"):
        touch_images(tmp_path / part / "images", 2)
        write_coco(tmp_path / part / "annotations" / "instances_default.json", "0.png", "1.png")
    assert [pair.part for pair in find_pairs(tmp_path)] == ["train"] * 2 + ["val"] * 2


def test_a_file_further_below_is_named(tmp_path: Path) -> None:
    touch_images(tmp_path / "v1" / "pictures", 2)
    write_coco(tmp_path / "v1" / "all.json", "0.png", "1.png")
    touch_images(tmp_path / "other", 1)
    with pytest.raises(DataError, match=r"v1/all\.json lists masks.*\n\$ plainunet check .*/v1$"):
        find_pairs(tmp_path)
    assert len(find_pairs(tmp_path / "v1")) == 2


def test_a_table_of_other_images_does_not_stop_the_rest(tmp_path: Path) -> None:
    for n in range(3):
        touch_images(tmp_path / "train", 3, "{}_1.png")
        save(tmp_path / "train" / f"{n}_1_mask.png", np.eye(*SIZE, dtype=np.uint8))
    write_csv(tmp_path / "train_masks.csv", {"1": "1 2", "2": "3 1"})
    heard = Collected()
    assert len(find_pairs(tmp_path, None, heard)) == 3
    assert any("train_masks.csv is skipped" in note for note in heard.notes)


def touch_images(folder: Path, count: int, name: str = "{}.png") -> None:
    for n in range(count):
        save(folder / name.format(n), BLACK + n)
