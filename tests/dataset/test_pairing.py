import json
import re
import unicodedata
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from plainunet.dataset.lists import find_images
from plainunet.dataset.pairs import Pair, find_pairs
from plainunet.formats.problems import DataError

CountCalls = Callable[[Callable[[], object]], int]


def touch(root: Path, *names: str) -> Path:
    """Pairing opens no picture, so empty files will do."""
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def listed(pairs: list[Pair], root: Path) -> list[tuple[str, str, str, str | None]]:
    return [
        (
            pair.image.relative_to(root).as_posix(),
            pair.mask.relative_to(root).as_posix(),
            pair.group,
            pair.part,
        )
        for pair in pairs
    ]


# layouts


def test_equal_stems(tmp_path: Path) -> None:
    touch(tmp_path, "images/b.jpg", "images/a.png", "masks/a.png", "masks/b.gif")
    assert listed(find_pairs(tmp_path), tmp_path) == [
        ("images/a.png", "masks/a.png", "a", None),
        ("images/b.jpg", "masks/b.gif", "b", None),
    ]


@pytest.mark.parametrize("ending", ["_mask", "_1stHO", ".jpg", " (mask)", "-gt"])
def test_a_common_ending(tmp_path: Path, ending: str) -> None:
    # "1" is also the beginning of "10" and "11"
    for stem in ("1", "10", "11", "2"):
        touch(tmp_path, f"images/{stem}.jpg", f"masks/{stem}{ending}.png")
    assert [(pair.image.stem, pair.mask.stem) for pair in find_pairs(tmp_path)] == [
        (stem, stem + ending) for stem in ("1", "10", "11", "2")
    ]


@pytest.mark.parametrize("suffix", [".gif", ".png"])
def test_kaggle(tmp_path: Path, suffix: str) -> None:
    for stem in ("car1_02", "car1_01", "car2_01"):
        touch(tmp_path, f"train/{stem}.jpg", f"train_masks/{stem}_mask{suffix}")
    touch(tmp_path, "test/car3_01.jpg")  # which Kaggle gives without masks
    assert listed(find_pairs(tmp_path), tmp_path) == [
        ("train/car1_01.jpg", f"train_masks/car1_01_mask{suffix}", "car1", None),
        ("train/car1_02.jpg", f"train_masks/car1_02_mask{suffix}", "car1", None),
        ("train/car2_01.jpg", f"train_masks/car2_01_mask{suffix}", "car2", None),
    ]


def test_kaggle_with_validation(tmp_path: Path) -> None:
    touch(tmp_path, "train/a_1.jpg", "train_masks/a_1_mask.gif")
    touch(tmp_path, "val/b_1.jpg", "val_masks/b_1_mask.gif")
    assert [(pair.group, pair.part) for pair in find_pairs(tmp_path)] == [
        ("a", "train"),
        ("b", "val"),
    ]


def test_parts_as_folders(tmp_path: Path) -> None:
    for part in ("train", "val", "test"):
        touch(tmp_path, f"images/{part}/x.jpg", f"masks/{part}/x.png")
    found = find_pairs(tmp_path)
    assert [(pair.image.parent.name, pair.part) for pair in found] == [
        ("test", "test"),
        ("train", "train"),
        ("val", "val"),
    ]
    assert len({pair.group for pair in found}) == 3, "equal stems are different pictures"


def test_other_words_for_validation(tmp_path: Path) -> None:
    touch(tmp_path, "images/train/x.jpg", "masks/train/x.png")
    touch(tmp_path, "images/valid/y.jpg", "masks/valid/y.png")
    assert [pair.part for pair in find_pairs(tmp_path)] == ["train", "val"]


def test_folders_in_folders(tmp_path: Path) -> None:
    touch(
        tmp_path, "images/day/1.jpg", "masks/day/1.png", "images/night/1.jpg", "masks/night/1.png"
    )
    assert listed(find_pairs(tmp_path), tmp_path) == [
        ("images/day/1.jpg", "masks/day/1.png", "day/1", None),
        ("images/night/1.jpg", "masks/night/1.png", "night/1", None),
    ]


@pytest.mark.parametrize(
    "stem", ["v1.2.final", "two words", "überholspur", "写真", "a.b c_d-e", "#1"]
)
def test_names_of_every_kind(tmp_path: Path, stem: str) -> None:
    touch(tmp_path, f"images/{stem}.JPG", f"masks/{stem}_m.PNG", "images/o.jpg", "masks/o_m.png")
    assert stem in [pair.image.stem for pair in find_pairs(tmp_path)]
    assert {pair.mask.stem.removesuffix("_m") for pair in find_pairs(tmp_path)} == {stem, "o"}


def test_other_files_and_hidden_ones_are_passed_over(tmp_path: Path) -> None:
    touch(
        tmp_path, "images/a.jpg", "images/b.jpg", "masks/a.png", "masks/b.png", "masks_color/a.png"
    )
    touch(tmp_path, "images/._a.jpg", "images/.cache/c.jpg", "masks/Thumbs.db", "images/list.txt")
    assert len(find_pairs(tmp_path)) == 2


def test_a_linked_folder_is_followed_and_a_loop_is_named(tmp_path: Path) -> None:
    touch(tmp_path / "far", "1.jpg", "2.jpg")
    touch(
        tmp_path, "images/here.jpg", *(f"masks/{name}.png" for name in ("here", "far/1", "far/2"))
    )
    (tmp_path / "images/far").symlink_to(tmp_path / "far")
    assert len(find_pairs(tmp_path)) == 3
    (tmp_path / "far/back").symlink_to(tmp_path / "far")
    with pytest.raises(ValueError, match="leads back"):
        find_pairs(tmp_path)


@pytest.mark.parametrize(
    "names",
    [
        ["a.jpg", "a_mask.png", "b.jpg", "b_mask.png"],
        ["x/a.tif", "x/a_mask.tif", "y/a.tif", "y/a_mask.tif"],
        ["images/a.jpg", "images/gt_a.png", "images/b.jpg", "images/gt_b.png"],
    ],
)
def test_pictures_and_masks_in_one_folder(tmp_path: Path, names: list[str]) -> None:
    notes: list[str] = []
    found = find_pairs(touch(tmp_path, *names), on_note=notes.append)
    together = [path for pair in found for path in (pair.image, pair.mask)]
    assert together == [tmp_path / name for name in names]
    assert re.search(r"is read as a mask", notes[0])


def test_camvid_with_validation(tmp_path: Path) -> None:
    for part in ("train", "val", "test"):
        touch(tmp_path, f"{part}/{part}_1.png", f"{part}annot/{part}_1.png")
    assert [(pair.group, pair.part) for pair in find_pairs(tmp_path)] == [
        ("test/test_1", "test"),
        ("train/train_1", "train"),
        ("val/val_1", "val"),
    ]


def test_parts_with_pictures_and_masks_in_each(tmp_path: Path) -> None:
    for part in ("train", "valid"):
        touch(tmp_path, f"{part}/images/1.jpg", f"{part}/masks/1.png")
    assert [pair.part for pair in find_pairs(tmp_path)] == ["train", "val"]


def test_one_letter_written_in_two_ways(tmp_path: Path) -> None:
    apart = unicodedata.normalize("NFD", "größe")
    touch(tmp_path, f"images/{apart}.jpg", "masks/größe.png", "images/b/é.jpg", "masks/b/é.png")
    assert [pair.group for pair in find_pairs(tmp_path)] == ["b/é", "größe"]


def test_folders_and_files_that_are_named(tmp_path: Path) -> None:
    touch(tmp_path, "images/a.jpg", "images/b.jpg", "masks/a.png", "masks/b.png")
    touch(tmp_path, "outlines/a_o.png", "outlines/b_o.png")
    (tmp_path / "list.csv").write_text(
        "image,mask,group,part\nimages/a.jpg,outlines/a_o.png,g,train\n"
        "images/b.jpg,outlines/b_o.png,h,val\n"
    )
    for named in (
        {"masks": "outlines"},
        {"images": "images", "masks": "outlines"},
        {"pairs": "images/*.jpg:outlines/*_o.png"},
    ):
        found = find_pairs(tmp_path, **named)  # type: ignore[arg-type]
        assert listed(found, tmp_path) == [
            ("images/a.jpg", "outlines/a_o.png", "a", None),
            ("images/b.jpg", "outlines/b_o.png", "b", None),
        ]
    found = find_pairs(tmp_path, pairs="list.csv")
    assert [(pair.group, pair.part) for pair in found] == [("g", "train"), ("h", "val")]
    assert [pair.group for pair in find_pairs(tmp_path, "a|b", pairs="list.csv")] == ["a", "b"]
    with pytest.raises(ValueError, match="without --images and --masks"):
        find_pairs(tmp_path, masks="outlines", pairs="list.csv")


def test_masks_below_the_pictures(tmp_path: Path) -> None:
    touch(tmp_path, "a.jpg", "b.jpg", "masks/a.png", "masks/b.png")
    assert len(find_pairs(tmp_path, images=".", masks="masks")) == 2


# groups


def test_group_by_a_pattern(tmp_path: Path) -> None:
    for stem in ("p01_left", "p01_right", "p02_left"):
        touch(tmp_path, f"images/{stem}.jpg", f"masks/{stem}.png")
    for pattern, groups in [
        ("p([0-9]+)_", ["01", "01", "02"]),
        ("p[0-9]+", ["p01", "p01", "p02"]),
        ("left|right", ["left", "right", "left"]),
        (None, ["p01_left", "p01_right", "p02_left"]),
    ]:
        assert [pair.group for pair in find_pairs(tmp_path, pattern)] == groups


def test_a_pattern_that_does_not_match_names_the_stem(tmp_path: Path) -> None:
    touch(tmp_path, "images/a_1.jpg", "masks/a_1.png", "images/plain.jpg", "masks/plain.png")
    with pytest.raises(ValueError, match=r"matches nothing in 'plain' \(.*images/plain\.jpg\)"):
        find_pairs(tmp_path, "([^_]+)_")


def test_a_pattern_that_is_none_is_refused(tmp_path: Path) -> None:
    touch(tmp_path, "images/a.jpg", "masks/a.png", "images/b.jpg", "masks/b.png")
    with pytest.raises(ValueError, match=re.escape("'([^_' is not a regular expression")):
        find_pairs(tmp_path, "([^_")


# what is refused


def test_missing_partners_are_named_on_both_sides(tmp_path: Path) -> None:
    stems = "abcdefghijkl"
    touch(
        tmp_path, *(f"images/{stem}.jpg" for stem in stems), *(f"masks/{s}.png" for s in "jklxyz")
    )
    with pytest.raises(ValueError, match="9 pictures have no mask") as raised:
        find_pairs(tmp_path)
    message = str(raised.value)
    assert "3 masks have no picture" in message
    named = re.findall(r"images/(\w)\.jpg", message)
    assert len(named) == 5
    assert set(named) < set("abcdefghi")
    assert "and 4 more" in message
    assert set(re.findall(r"masks/(\w)\.png", message)) == set("xyz")


def test_a_missing_partner_of_masks_with_an_ending(tmp_path: Path) -> None:
    touch(tmp_path, *(f"images/{n}.jpg" for n in range(1, 13)))
    touch(tmp_path, *(f"masks/{n}_mask.png" for n in range(1, 13) if n != 1))
    with pytest.raises(ValueError, match=r"^1 pictures have no mask .*'_mask'\).*images/1\.jpg\."):
        find_pairs(tmp_path)


def test_two_masks_for_one_picture(tmp_path: Path) -> None:
    touch(tmp_path, "images/a.jpg", "images/b.jpg", "masks/a.png", "masks/a.gif", "masks/b.png")
    with pytest.raises(
        ValueError, match=r"2 masks share their name .*masks/a\.gif, .*masks/a\.png"
    ):
        find_pairs(tmp_path)
    (tmp_path / "masks/a.gif").rename(tmp_path / "masks/a_mask.png")
    with pytest.raises(ValueError, match=r"1 masks have no picture: .*a_mask\.png"):
        find_pairs(tmp_path)


def test_an_ending_that_one_mask_lacks(tmp_path: Path) -> None:
    touch(tmp_path, *(f"images/{stem}.jpg" for stem in "abc"), "masks/a.png")
    touch(tmp_path, *(f"masks/{stem}_mask.png" for stem in "abc"))
    with pytest.raises(
        ValueError, match=r"^1 masks have no picture: .*masks/a\.png \(nearest: .*images/a\.jpg\)\."
    ):
        find_pairs(tmp_path)


def test_two_pictures_for_one_mask(tmp_path: Path) -> None:
    touch(tmp_path, "images/a.jpg", "images/a.png", "masks/a.png", "images/b.png", "masks/b.png")
    with pytest.raises(ValueError, match=r"2 pictures share their name .*a\.jpg, .*a\.png"):
        find_pairs(tmp_path)


@pytest.mark.parametrize(
    ("names", "error", "message"),
    [
        ([], FileNotFoundError, "has no pictures where they are looked for"),
        (["images/a.jpg"], FileNotFoundError, r"there is no folder .*masks"),
        (["masks/a.png"], FileNotFoundError, "no pictures where they are looked for"),
        (["train/a.jpg"], FileNotFoundError, "no pictures where they are looked for"),
        (["images/a.txt", "masks/a.png"], ValueError, "images holds no pictures"),
        (["images/a.jpg", "masks/a.png"], ValueError, "holds 1 picture .* at least 2"),
        (["images/a.jpg", "masks/b.png"], ValueError, "1 pictures have no mask .*1 masks have no"),
        (["images/x.jpg/a.jpg", "masks/a.png"], ValueError, r"x\.jpg is a folder"),
        (
            ["train/a.jpg", "train_masks/a_mask.gif", "val/b.jpg"],
            FileNotFoundError,
            "there is no folder .*val_masks",
        ),
        (
            ["train/a.jpg", "train_masks/a.gif", "images/a.jpg", "masks/a.png"],
            ValueError,
            "which of them is meant",
        ),
        (
            ["images/train/a.jpg", "masks/train/a.png", "images/b.jpg", "masks/b.png"],
            ValueError,
            r"images/b\.jpg lies outside of train/",
        ),
    ],
)
def test_folders_that_cannot_be_paired(
    tmp_path: Path, names: list[str], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        find_pairs(touch(tmp_path, *names))


def test_no_folder_at_all(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="gone does not exist"):
        find_pairs(tmp_path / "gone")
    touch(tmp_path, "file.zip")
    with pytest.raises(ValueError, match=r"file\.zip is a file"):
        find_pairs(tmp_path / "file.zip")


def test_one_pair_will_do_where_nothing_is_learnt(tmp_path: Path) -> None:
    touch(tmp_path, "images/a.jpg", "masks/a.png")
    assert len(find_pairs(tmp_path, at_least=1)) == 1


# pictures to predict


def test_find_images(tmp_path: Path) -> None:
    touch(
        tmp_path, "b/2.JPG", "b/deep/er/1.png", "b/notes.txt", "b/.hidden.png", "a.tif", "odd.dat"
    )
    found = find_images(
        [tmp_path / "odd.dat", tmp_path / "b", tmp_path / "a.tif", tmp_path / "b/2.JPG"]
    )
    assert [path.relative_to(tmp_path).as_posix() for path in found] == [
        "odd.dat",
        "b/2.JPG",
        "b/deep/er/1.png",
        "a.tif",
    ]


def test_find_images_names_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"gone\.png does not exist"):
        find_images([tmp_path / "gone.png"])
    touch(tmp_path, "texts/a.txt")
    with pytest.raises(ValueError, match="texts holds no pictures"):
        find_images([tmp_path / "texts"])


# size, and real folders


@pytest.mark.parametrize(
    ("image", "given"),
    [
        ("frame_{:06}", {"group_by": "frame_([0-9]{4})"}),
        ("{}_img", {}),
        ("{}_img", {"pairs": "images/*_img.jpg:masks/*_mask.png"}),
    ],
)
def test_the_work_of_pairing_grows_with_the_files(
    tmp_path: Path, image: str, given: dict[str, str], count_calls: CountCalls
) -> None:
    mask = f"{image.removesuffix('_img')}_mask.png"
    for count in (400, 800):
        for number in range(count):
            name = f"{count}/images/{image}.jpg", f"{count}/masks/{mask}"
            touch(tmp_path, *(each.format(number) for each in name))
    calls = {}
    for count in (400, 800):
        folder = tmp_path / str(count)
        assert len(find_pairs(folder, **given)) == count
        calls[count] = count_calls(lambda folder=folder: find_pairs(folder, **given))
    assert calls[800] < 2.5 * calls[400]


def test_folders_found_are_said(tmp_path: Path) -> None:
    touch(tmp_path, "photos/a.jpg", "outlines/a.png")
    with pytest.raises(FileNotFoundError, match=r"--images.*Folders found: outlines/, photos/\."):
        find_pairs(tmp_path)


def test_masks_in_colour_of_a_real_folder(data_root: Path) -> None:
    pairs = find_pairs(data_root / "dubai_aerial", masks="masks_color")
    assert len(pairs) == 54
    assert {pair.mask.parent.name for pair in pairs} == {"masks_color"}


@pytest.mark.parametrize(
    ("name", "group_by", "count", "groups", "parts"),
    [
        ("carvana", None, 760, 48, {None: 760}),
        ("isbi2012", None, 20, 20, {None: 20}),
        ("dsb2018", None, 300, 300, {None: 300}),
        ("camvid", None, 468, 468, {"train": 367, "val": 101}),
        ("dubai_aerial", "^tile([0-9]+)_", 54, 6, {None: 54}),
        ("carrotweed", None, 30, 30, {None: 30}),
        ("chasedb1", "_([0-9]{2})[LR]", 20, 10, {None: 20}),
    ],
)
def test_real_folders(
    data_root: Path,
    name: str,
    group_by: str | None,
    count: int,
    groups: int,
    parts: dict[str | None, int],
) -> None:
    pairs = find_pairs(data_root / name, group_by)
    assert len(pairs) == count
    assert len({pair.group for pair in pairs}) == groups
    assert Counter(pair.part for pair in pairs) == parts
    assert all(pair.mask.stem.startswith(pair.image.stem) for pair in pairs)
    assert all("color" not in str(pair.mask) for pair in pairs)
    assert pairs == sorted(pairs, key=lambda pair: pair.image)


# where no mask is a file of its own


def test_an_annotation_file_comes_where_there_are_no_mask_files(tmp_path: Path) -> None:
    """Also in annotations/, which might hold masks."""
    coco = {
        "images": [{"id": n, "file_name": f"{n}.png", "height": 4, "width": 6} for n in (1, 2)],
        "categories": [{"id": 3, "name": "leaf"}],
        "annotations": [],
    }
    for number in (1, 2):
        touch(tmp_path, f"images/{number}.png")
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations" / "all.json").write_text(json.dumps(coco))
    masks = [pair.mask.name for pair in find_pairs(tmp_path)]
    assert masks == ["all.json[1]", "all.json[2]"]
    (tmp_path / "annotations" / "all.json").rename(tmp_path / "all.json")
    for number in (1, 2):
        touch(tmp_path, f"annotations/{number}.png")
    assert [pair.mask.name for pair in find_pairs(tmp_path)] == ["1.png", "2.png"]
    named = find_pairs(tmp_path, masks="all.json")
    assert [pair.mask.name for pair in named] == ["all.json[1]", "all.json[2]"]


def test_pictures_of_like_names_are_no_masks_of_each_other(tmp_path: Path) -> None:
    names = ["a.jpg", "a_mask.jpg", "b.jpg", "b_mask.jpg"]
    entries = [
        {"id": n, "file_name": name, "height": 4, "width": 6} for n, name in enumerate(names)
    ]
    for name in names:
        touch(tmp_path / "train", name)
    said = {"images": entries, "categories": [{"id": 3, "name": "leaf"}], "annotations": []}
    (tmp_path / "train" / "_annotations.coco.json").write_text(json.dumps(said))
    assert len(find_pairs(tmp_path)) == 4


def test_pictures_beside_the_parts_are_left_out_where_somebody_is_told(tmp_path: Path) -> None:
    names = ["images/train/a.jpg", "images/val/b.jpg", "images/c.jpg", "images/more/d.jpg"]
    masks = [name.replace("images", "masks").replace("jpg", "png") for name in names]
    touch(tmp_path, *names, *masks)
    problems: list[DataError] = []
    pairs = find_pairs(tmp_path, on_problem=problems.append)
    assert [pair.image.name for pair in pairs] == ["a.jpg", "b.jpg"]
    assert {problem.code for problem in problems} == {"outside-of-parts"}
    beside = [tmp_path / path for two in zip(names[2:], masks[2:], strict=True) for path in two]
    assert sorted(file for problem in problems for file in problem.files) == sorted(beside)
