"""Lists and patterns of pairs, and image names in lists."""

import os
import re
from pathlib import Path
from unicodedata import normalize

import pytest

from plainunet.config import FolderConfig
from plainunet.dataset.lists import ImagePool, Pair, find_lists, has_images, read_listed
from plainunet.dataset.split import write_split
from plainunet.formats.sources import parse_image, parse_source
from plainunet.reporter import Collected, silent

from ..folders import Row, rows, touch


def read(folder: Path, pairs: str) -> list[Pair]:
    return read_listed(folder, FolderConfig(pairs=pairs), silent)


def names_of(folder: Path, pairs: str) -> list[Row]:
    return rows(read(folder, pairs), folder)


# patterns
@pytest.mark.parametrize(
    ("pairs", "wanted"),
    [
        ("x/*.jpg:y/*_m.png", [("x/1.jpg", "y/1_m.png", "1"), ("x/a b.JPG", "y/a b_m.png", "a b")]),
        # the star may be a folder
        ("*/image.png:*/mask.png", [(f"{n}/image.png", f"{n}/mask.png", n) for n in "12"]),
        # files that match both belong to the longer pattern
        ("z/*.png:z/*_mask.png", [(f"z/{n}.png", f"z/{n}_mask.png", n) for n in "ab"]),
        # if two classes match, the longer wins
        ("i/*.jpg:i/*_{road,side_road}.png", [("i/7.jpg", "i/7_{road,side_road}.png", "7")]),
    ],
)
def test_patterns(tmp_path: Path, pairs: str, wanted: list[tuple[str, str, str]]) -> None:
    touch(tmp_path, "x/a b.JPG", "x/1.jpg", "y/a b_m.png", "y/1_m.png", "y/1_color.png")
    touch(tmp_path, *(f"{n}/{name}.png" for n in (1, 2) for name in ("image", "mask", "depth")))
    touch(tmp_path, *(f"z/{n}{ending}.png" for n in "ab" for ending in ("", "_mask")))
    touch(tmp_path, "i/7.jpg", "i/7_road.png", "i/7_side_road.png")
    assert sorted(names_of(tmp_path, pairs)) == [(*row, None) for row in wanted]


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        ("x/*.jpg", "--pairs .*masks"),
        ("x/*.jpg:y/a.png", "--pairs .*masks"),
        ("x/*/*.jpg:y/*.png", "--pairs .*masks"),
        ("x/*.jpg:y/*.png:z/*.png", "--pairs .*masks"),
        ("x/*.jpg:x/*.jpg", r"--pairs 'x/\*\.jpg:x/\*\.jpg'"),
        ("x/*.bmp:y/*.png", r"'x/\*\.bmp'"),
        ("gone/*.jpg:y/*.png", r"'gone/\*\.jpg'"),
        ("x/*.jpg:y/*.png", r"^1\b.*x/frame_b\.jpg .*frame_c"),
    ],
)
def test_patterns_that_are_refused(tmp_path: Path, pairs: str, message: str) -> None:
    touch(tmp_path, "x/frame_a.jpg", "x/frame_b.jpg", "y/frame_a.png", "y/frame_c.png")
    with pytest.raises(ValueError, match=message):
        read(tmp_path, pairs)


# lists


def test_a_list_elsewhere_with_all_columns(tmp_path: Path) -> None:
    touch(tmp_path / "data", "a, b.jpg", "ü.jpg", "1.png")
    touch(tmp_path / "lists", "2.png")
    path = tmp_path / "lists" / "split.csv"
    path.write_text(
        '\ufeffPart,Group,Mask,Image\r\ntrain,g,1.png,ü.jpg\r\nvalid,h,2.png,"a, b.jpg"\r\n',
        encoding="utf-8",
    )
    found = read(tmp_path / "data", str(path))
    assert found == [
        Pair(tmp_path / "data/ü.jpg", tmp_path / "data/1.png", "g", "train"),
        Pair(tmp_path / "data/a, b.jpg", tmp_path / "lists/2.png", "h", "val"),
    ]


@pytest.mark.parametrize(
    "text",
    [
        "patient_id,image,mask,fold\n7,a.jpg,a.png,0\n",
        ",image_file,Mask File\n0,a.jpg,a.png\n",
        "input;target\na.jpg;a.png\n",
        "file_name,mask_file_name,label\na.jpg,a.png,cat\n",
        "Image\tMask\tPatient\na.jpg\ta.png\t7\n",
    ],
)
def test_usual_names_of_columns_and_further_columns(tmp_path: Path, text: str) -> None:
    touch(tmp_path, "a.jpg", "a.png")
    (tmp_path / "list.tsv").write_text(text)
    (pair,) = read(tmp_path, "list.tsv")
    assert (pair.image, pair.mask) == (tmp_path / "a.jpg", tmp_path / "a.png")
    assert pair.group == ("7" if "atient" in text else "a")
    assert find_lists(tmp_path) == ["list.tsv"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "line 1: the header is ''"),
        ("image\na.jpg", "line 1: the header is 'image'."),
        ("image|mask\na.jpg|a.png", "line 1: the header is 'image|mask'"),
        ("image,mask,mask\n", "line 1: the header"),
        ("a.jpg,a.png\n", "line 1: the header is 'a.jpg,a.png'"),
        ("image,mask\na.jpg,a.png\nb.jpg,c.png", "line 3: mask 'c.png' does not exist"),
        ("image,mask\na.jpg,\n", "line 2: mask '' does not exist"),
        ("image,mask\na.jpg,a.png\na.jpg,b.png", "a.jpg is already in line 2"),
        ("image,mask\na.jpg,a.png\nb.jpg,a.png", "a.png is already in line 2"),
        ("image,mask\na.jpg,a.jpg", "a.jpg is already in line 2"),
        ("image,mask,part\na.jpg,a.png,x", "line 2: part 'x'"),
        ("image,mask,part\na.jpg,a.png,\nb.jpg,b.png,val", "line 2 has no part"),
        ("image,mask\na.jpg,a.png,x", "line 2 has 3 fields, the header 2"),
        ('image,mask\na.jpg,"a.png', "list.csv, line 2 "),
        ("image,mask\na.jpg,a.png\n\xe4.jpg,b.png", "line 3 is not UTF-8"),
        ("image,mask\n" + "".join(f"{n},{n}\n" for n in range(4)), "has 8 wrong lines:"),
        ("image,mask\n" + "".join(f"{n},{n}\n" for n in range(4)), "\n  and 3 more"),
        (None, "--pairs list.csv: "),
    ],
)
def test_lists_that_are_refused(tmp_path: Path, text: str | None, message: str) -> None:
    touch(tmp_path, "a.jpg", "b.jpg", "a.png", "b.png")
    if text is not None:
        (tmp_path / "list.csv").write_bytes(text.encode("latin-1"))
    with pytest.raises((ValueError, FileNotFoundError), match=re.escape(message)):
        read(tmp_path, "list.csv")


def test_the_other_lines_of_a_list_can_be_used(tmp_path: Path) -> None:
    touch(tmp_path, "a.jpg", "a.png", "b.png", "c.jpg", "c.png")
    (tmp_path / "list.csv").write_text("image,mask\na.jpg,a.png\ngone.jpg,b.png\nc.jpg,c.png\n")
    found = Collected()
    pairs = read_listed(tmp_path, FolderConfig(pairs="list.csv"), found)
    assert [pair.image.name for pair in pairs] == ["a.jpg", "c.jpg"]
    (problem,) = found.problems
    assert problem.code == "missing-file"
    assert "gone.jpg" in str(problem)


# one file per class
@pytest.mark.parametrize(
    "pattern", ["m/{road,car}/*.png", "m/*_{road,car}.png", "*/{road,car}.png"]
)
def test_braces_list_the_classes_in_order(tmp_path: Path, pattern: str) -> None:
    images = "*/image.jpg" if pattern.startswith("*") else "i/*.jpg"
    touch(tmp_path, *(images.replace("*", stem) for stem in ("1", "b é", "3")))
    for name, stems in (("road", ("1", "b é")), ("car", ("1", "3")), ("sky", ("1", "3"))):
        touch(tmp_path, *(pattern.replace("{road,car}", name).replace("*", s) for s in stems))
    found = names_of(tmp_path, f"{images}:{pattern}")
    assert sorted(pair[:2] for pair in found) == [
        (images.replace("*", stem), pattern.replace("*", stem)) for stem in ("1", "3", "b é")
    ]


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        ("i/{1,2}/*.jpg:m/*.png", "--pairs 'i/{1,2}/*.jpg:"),
        ("i/*.jpg:m/{a,b}/*_{b,a}.png", "{a,b} and {b,a}"),
        ("i/*.jpg:m/{a,b}/*_{x,y,z}.png", "{a,b} and {x,y,z}"),
        ("i/*.jpg:m/{a,b}_*_{x,y}.png", "{a,b} and {x,y}"),
        ("i/*.jpg:m/{x,y}/*.png", "'m/{x,y}/*.png'"),
        ("i/*.jpg:m/{a,c}/*.*", "--pairs 'i/*.jpg:m/{a,c}/*.*'"),
        ("i/*.jpg:m/{a,b}/*.png", "i/3.jpg"),
        ("i/1*.jpg:m/{a,d}/1*.png", "m/d/12.PNG "),
    ],
)
def test_braces_that_are_refused(tmp_path: Path, pairs: str, message: str) -> None:
    touch(tmp_path, "i/12.jpg", "i/3.jpg", "m/a/12.png", "m/b/12.png", "m/c/3.png", "m/d/12.PNG")
    with pytest.raises(ValueError, match=re.escape(message)):
        read(tmp_path, pairs)


def test_two_masks_of_an_image_suggest_braces(tmp_path: Path) -> None:
    touch(tmp_path, "i/2.jpg", "m/2.PNG", "m/2.png")
    if len(list((tmp_path / "m").iterdir())) == 1:
        pytest.skip("the file system ignores case")
    with pytest.raises(ValueError, match=r"'2'.*masks/\{road,car\}/"):
        read(tmp_path, "i/*.jpg:m/*.png")


# places
PLACES = [
    ("stack.tif[0]", "masks/{road,car}/7.png"),
    ("stack.tif[1]", "labels.tif[0]"),
    ("a.jpg", "labels.tif[1]"),
    ("b.jpg", "coco.json[17]"),
    ("c, d.jpg", "coco.json[18]"),
    ("é.jpg", "m.csv[a b.jpg 40x30 rows]"),
]


def place_files(root: Path) -> None:
    touch(root, "stack.tif", "labels.tif", "coco.json", "m.csv", "masks/car/7.png")
    touch(root, "a.jpg", "b.jpg", "c, d.jpg", "é.jpg")


def test_lists_name_places(tmp_path: Path) -> None:
    place_files(tmp_path)
    rows = "".join(f'"{image}","{mask}"\n' for image, mask in PLACES)
    (tmp_path / "list.csv").write_text("image,mask\n\n" + rows, encoding="utf-8")
    # without the column, each file is its own group
    groups = ["stack", "stack", "a", "b", "c, d", "é"]
    assert names_of(tmp_path, "list.csv") == [
        (*place, group, None) for place, group in zip(PLACES, groups, strict=True)
    ]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("gone.tif[0],a.png", "image 'gone.tif[0]' does not exist"),
        ("coco.json[17],a.png", "image 'coco.json[17]' does not exist"),
        ('"{a,b}.jpg",a.png', "image '{a,b}.jpg' does not exist"),
        ("a.jpg,gone.json[17]", "mask 'gone.json[17]' does not exist"),
        ('a.jpg,"masks/{road,bus}/7.png"', "mask 'masks/{road,bus}/7.png' does not exist"),
        ("a.jpg,coco.json[1]\nb.jpg,coco.json[1]", "coco.json[1] is already in line 2"),
        (
            'a.jpg,"masks/{road,car}/7.png"\nb.jpg,"masks/{car,bus}/7.png"',
            "masks/car/7.png is already in line 2",
        ),
        (f"a.jpg,{'1 2 ' * 5000}", "does not exist"),
    ],
)
def test_places_that_are_refused(tmp_path: Path, row: str, message: str) -> None:
    place_files(tmp_path)
    (tmp_path / "list.csv").write_text(f"image,mask\n{row}\n")
    with pytest.raises(ValueError, match=re.escape(message)):
        read(tmp_path, "list.csv")


@pytest.mark.parametrize("below", [True, False])
def test_the_split_of_a_run_is_a_list(tmp_path: Path, below: bool) -> None:
    data = tmp_path / "data"
    place_files(data)
    parts = ["train", "val", "test"] * 2
    pairs = [
        Pair(parse_image(data / image), parse_source(data / mask), f"group {image}", part)
        for (image, mask), part in zip(PLACES, parts, strict=True)
    ]
    run = tmp_path / "run"
    run.mkdir()
    write_split(run / "split.csv", pairs, data if below else tmp_path / "elsewhere")
    found = read(data, str(run / "split.csv"))
    assert found == pairs


def test_the_split_may_hold_names_that_are_not_utf_8(tmp_path: Path) -> None:
    name = os.fsdecode(b"\xe4.jpg")
    try:
        touch(tmp_path, name, "1.png")
    except OSError:
        pytest.skip("the file system takes only UTF-8")
    pairs = [Pair(tmp_path / name, tmp_path / "1.png", "g", "train")]
    write_split(tmp_path / "split.csv", pairs, tmp_path)
    assert read(tmp_path, "split.csv")[0].image == tmp_path / name


def test_images_are_found_by_path_name_and_stem(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decomposed = normalize("NFD", "é.jpg")
    touch(tmp_path, "images/a.jpg", "images/x/b.v2.png", "images/x/c.png", "images/y/c.png")
    touch(tmp_path / "images", decomposed)
    images = ImagePool(tmp_path / "images")
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
        normalize("NFC", "é.jpg"): decomposed,
        "c.png": None,  # two of this name
        "c": None,
        "b": None,
        "": None,
        "\0": None,
    }
    for name, path in found.items():
        expected = None if path is None else tmp_path / "images" / path
        assert images.find(name, tmp_path, tmp_path / "annotations") == expected, name
    monkeypatch.chdir(tmp_path)  # paths may be relative to the working directory
    assert ImagePool(Path()).find("images/a.jpg") == Path("images/a.jpg")
    assert ImagePool(Path("images")).find("images/a.jpg", Path()) == Path("images/a.jpg")


def test_masks_next_to_images_are_not_images(tmp_path: Path) -> None:
    touch(tmp_path, "1/images/1.png", "1/masks/a.png", "1/masks/b.png", "masks/m.png", "c.txt")
    names = [path.name for path in ImagePool(tmp_path).paths]
    assert names == ["1.png", "m.png"]
    assert has_images(tmp_path)
    assert not has_images(touch(tmp_path / "empty", "c.txt"))
