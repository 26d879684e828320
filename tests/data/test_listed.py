import re
from pathlib import Path

import pytest

from plainunet.data.listed import read_listed


def touch(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def names(folder: Path, pairs: str) -> list[tuple[str, str, str, str | None]]:
    return [
        (
            each.image.relative_to(folder).as_posix(),
            each.mask.relative_to(folder).as_posix(),
            each.group,
            each.part,
        )
        for each in read_listed(folder, pairs)
    ]


# patterns


def test_patterns(tmp_path: Path) -> None:
    touch(tmp_path, "x/a b.JPG", "x/1.jpg", "y/a b_m.png", "y/1_m.png", "y/1_color.png")
    assert sorted(names(tmp_path, "x/*.jpg:y/*_m.png")) == [
        ("x/1.jpg", "y/1_m.png", "1", None),
        ("x/a b.JPG", "y/a b_m.png", "a b", None),
    ]


def test_the_star_may_be_a_folder(tmp_path: Path) -> None:
    touch(tmp_path, *(f"{n}/{name}.png" for n in (1, 2) for name in ("image", "mask", "depth")))
    assert names(tmp_path, "*/image.png:*/mask.png") == [
        ("1/image.png", "1/mask.png", "1", None),
        ("2/image.png", "2/mask.png", "2", None),
    ]


def test_the_longer_pattern_has_the_files_that_match_both(tmp_path: Path) -> None:
    touch(tmp_path, "a.png", "b.png", "a_mask.png", "b_mask.png")
    assert [pair[:2] for pair in names(tmp_path, "*.png:*_mask.png")] == [
        ("a.png", "a_mask.png"),
        ("b.png", "b_mask.png"),
    ]


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        ("x/*.jpg", "not two patterns"),
        ("x/*.jpg:y/a.png", "not two patterns"),
        ("x/*/*.jpg:y/*.png", "not two patterns"),
        ("x/*.jpg:y/*.png:z/*.png", "not two patterns"),
        ("x/*.jpg:x/*.jpg", "both patterns are the same"),
        ("x/*.bmp:y/*.png", r"matches 'x/\*\.bmp'"),
        ("gone/*.jpg:y/*.png", r"matches 'gone/\*\.jpg'"),
        ("x/*.jpg:y/*.png", r"1 pictures have no mask .*x/frame_b\.jpg \(nearest: .*frame_c"),
    ],
)
def test_patterns_that_are_refused(tmp_path: Path, pairs: str, message: str) -> None:
    touch(tmp_path, "x/frame_a.jpg", "x/frame_b.jpg", "y/frame_a.png", "y/frame_c.png")
    with pytest.raises(ValueError, match=message):
        read_listed(tmp_path, pairs)


# lists


def test_a_list(tmp_path: Path) -> None:
    touch(tmp_path, "p/a.jpg", "p/b.jpg", "m/1.png", "m/2.png")
    (tmp_path / "list.csv").write_text("image,mask\np/a.jpg,m/2.png\n\np/b.jpg,m/1.png\n")
    assert names(tmp_path, "list.csv") == [
        ("p/a.jpg", "m/2.png", "p/a", None),
        ("p/b.jpg", "m/1.png", "p/b", None),
    ]


def test_a_list_elsewhere_with_all_columns(tmp_path: Path) -> None:
    touch(tmp_path / "data", "a, b.jpg", "ü.jpg", "1.png")
    touch(tmp_path / "lists", "2.png")
    path = tmp_path / "lists" / "split.csv"
    path.write_text(
        '\ufeffPart,Group,Mask,Image\r\ntrain,g,1.png,ü.jpg\r\nvalid,h,2.png,"a, b.jpg"\r\n',
        encoding="utf-8",
    )
    found = read_listed(tmp_path / "data", str(path))
    assert [tuple(each) for each in found] == [
        (tmp_path / "data/ü.jpg", tmp_path / "data/1.png", "g", "train"),
        (tmp_path / "data/a, b.jpg", tmp_path / "lists/2.png", "h", "val"),
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "line 1: the header is ''"),
        ("image\na.jpg", "line 1: the header is 'image'. It must name"),
        ("image;mask\na.jpg;a.png", "line 1: the header is 'image;mask'"),
        ("image,mask,mask\n", "line 1: the header"),
        ("image,mask,colour\n", "line 1: the header"),
        ("a.jpg,a.png\n", "line 1: the header is 'a.jpg,a.png'"),
        ("image,mask\na.jpg,a.png\nb.jpg,c.png", "line 3: the mask 'c.png' does not exist"),
        ("image,mask\na.jpg,\n", "line 2: the mask '' does not exist"),
        ("image,mask\na.jpg,a.png\na.jpg,b.png", "a.jpg stands in line 2 already"),
        ("image,mask\na.jpg,a.png\nb.jpg,a.png", "a.png stands in line 2 already"),
        ("image,mask\na.jpg,a.jpg", "a.jpg stands in line 2 already"),
        ("image,mask,part\na.jpg,a.png,dev", "line 2: the part 'dev' is none of train, val"),
        ("image,mask,part\na.jpg,a.png,\nb.jpg,b.png,val", "line 2 has no part, while"),
        ("image,mask\na.jpg,a.png,x", "line 2 has 3 fields, the header 2"),
        ('image,mask\na.jpg,"a.png', "this is not CSV"),
        ("image,mask\na.jpg,a.png\n\xe4.jpg,b.png", "line 3: this is not UTF-8"),
    ],
)
def test_lists_that_are_refused(tmp_path: Path, text: str, message: str) -> None:
    touch(tmp_path, "a.jpg", "b.jpg", "a.png", "b.png")
    (tmp_path / "list.csv").write_bytes(text.encode("latin-1"))
    with pytest.raises(ValueError, match=re.escape(message)):
        read_listed(tmp_path, "list.csv")


def test_five_wrong_lines_are_said(tmp_path: Path) -> None:
    rows = "".join(f"{n}.jpg,{n}.png\n" for n in range(4))
    (tmp_path / "list.csv").write_text("image,mask\n" + rows)
    with pytest.raises(ValueError, match=r"has 8 wrong lines:(?s:.*)line 4: .*\n  and 3 more"):
        read_listed(tmp_path, "list.csv")


def test_a_list_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"--pairs gone\.csv: there is no such list"):
        read_listed(tmp_path, "gone.csv")
