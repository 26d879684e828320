"""A folder's pairs: found, grouped, stacks opened, files checked."""

import json
import re
import unicodedata
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from plainunet.config import DataConfig
from plainunet.dataset.classes import find_coding
from plainunet.dataset.lists import find_images
from plainunet.dataset.pairs import Pair, find_pairs, open_stacks
from plainunet.dataset.split import split_pairs
from plainunet.dataset.verify import check_pairs
from plainunet.formats.images import read_image
from plainunet.formats.masks import read_mask
from plainunet.formats.sources import CocoImage, parse_source, path_of
from plainunet.reporter import Collected, Reporter

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
@pytest.mark.parametrize(
    ("rows", "others"),
    [
        (
            [
                ("images/a.png", "masks/a.png", "a", None),
                ("images/b.jpg", "masks/b.gif", "b", None),
            ],
            ["masks_color/a.png", "images/._a.jpg", "images/.c/c.jpg", "masks/Thumbs.db"],
        ),
        (
            [
                ("images/day/1.jpg", "masks/day/1.png", "day/1", None),
                ("images/night/1.jpg", "masks/night/1.png", "night/1", None),
            ],
            ["images/list.txt"],
        ),
        # Kaggle's Carvana, whose test/ comes without masks
        (
            [
                ("train/car1_01.jpg", "train_masks/car1_01_mask.gif", "car1", None),
                ("train/car1_02.jpg", "train_masks/car1_02_mask.gif", "car1", None),
                ("train/car2_01.jpg", "train_masks/car2_01_mask.gif", "car2", None),
            ],
            ["test/car3_01.jpg"],
        ),
        (
            [
                ("train/a_1.jpg", "train_masks/a_1_mask.gif", "a", "train"),
                ("val/b_1.jpg", "val_masks/b_1_mask.gif", "b", "val"),
            ],
            [],
        ),
        # CamVid
        (
            [
                (f"{part}/{part}_1.png", f"{part}annot/{part}_1.png", f"{part}/{part}_1", part)
                for part in ("test", "train", "val")
            ],
            [],
        ),
        # equal stems are different images
        (
            [
                (f"images/{part}/x.jpg", f"masks/{part}/x.png", f"{part}/x", part)
                for part in ("test", "train", "val")
            ],
            [],
        ),
        (
            [
                ("images/train/x.jpg", "masks/train/x.png", "train/x", "train"),
                ("images/valid/y.jpg", "masks/valid/y.png", "valid/y", "val"),
            ],
            [],
        ),
        (
            [
                ("train/images/1.jpg", "train/masks/1.png", "train/1", "train"),
                ("valid/images/1.jpg", "valid/masks/1.png", "valid/1", "val"),
            ],
            [],
        ),
    ],
)
def test_layouts(
    tmp_path: Path, rows: list[tuple[str, str, str, str | None]], others: list[str]
) -> None:
    touch(tmp_path, *others, *(name for row in reversed(rows) for name in row[:2]))
    assert listed(find_pairs(tmp_path), tmp_path) == rows


@pytest.mark.parametrize("ending", ["_mask", "_1stHO", ".jpg", " (mask)", "-gt"])
def test_a_common_ending(tmp_path: Path, ending: str) -> None:
    # "1" is also the beginning of "10" and "11"
    for stem in ("1", "10", "11", "2"):
        touch(tmp_path, f"images/{stem}.jpg", f"masks/{stem}{ending}.png")
    assert [(pair.image.stem, pair.mask.stem) for pair in find_pairs(tmp_path)] == [
        (stem, stem + ending) for stem in ("1", "10", "11", "2")
    ]


@pytest.mark.parametrize(
    "stem", ["v1.2.final", "two words", "überholspur", "写真", "a.b c_d-e", "#1"]
)
def test_names_of_every_kind(tmp_path: Path, stem: str) -> None:
    touch(tmp_path, f"images/{stem}.JPG", f"masks/{stem}_m.PNG", "images/o.jpg", "masks/o_m.png")
    assert stem in [pair.image.stem for pair in find_pairs(tmp_path)]
    assert {pair.mask.stem.removesuffix("_m") for pair in find_pairs(tmp_path)} == {stem, "o"}


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
    heard = Collected()
    found = find_pairs(touch(tmp_path, *names), reporter=heard)
    together = [path for pair in found for path in (pair.image, pair.mask)]
    assert together == [tmp_path / name for name in names]
    assert re.search(r"is read as a mask", heard.notes[0])


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
        found = find_pairs(tmp_path, DataConfig(**named))  # type: ignore[arg-type]
        assert listed(found, tmp_path) == [
            ("images/a.jpg", "outlines/a_o.png", "a", None),
            ("images/b.jpg", "outlines/b_o.png", "b", None),
        ]
    found = find_pairs(tmp_path, DataConfig(pairs="list.csv"))
    assert [(pair.group, pair.part) for pair in found] == [("g", "train"), ("h", "val")]
    assert [
        pair.group for pair in find_pairs(tmp_path, DataConfig(group_by="a|b", pairs="list.csv"))
    ] == ["a", "b"]
    with pytest.raises(ValueError, match="without --images and --masks"):
        find_pairs(tmp_path, DataConfig(masks="outlines", pairs="list.csv"))


def test_masks_below_the_pictures(tmp_path: Path) -> None:
    touch(tmp_path, "a.jpg", "b.jpg", "masks/a.png", "masks/b.png")
    assert len(find_pairs(tmp_path, DataConfig(images=".", masks="masks"))) == 2


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
        assert [pair.group for pair in find_pairs(tmp_path, DataConfig(group_by=pattern))] == groups


def test_a_pattern_that_does_not_match_names_the_stem(tmp_path: Path) -> None:
    touch(tmp_path, "images/a_1.jpg", "masks/a_1.png", "images/plain.jpg", "masks/plain.png")
    with pytest.raises(ValueError, match=r"matches nothing in 'plain' \(.*images/plain\.jpg\)"):
        find_pairs(tmp_path, DataConfig(group_by="([^_]+)_"))


def test_a_pattern_that_is_none_is_refused(tmp_path: Path) -> None:
    touch(tmp_path, "images/a.jpg", "masks/a.png", "images/b.jpg", "masks/b.png")
    with pytest.raises(ValueError, match=re.escape("'([^_' is not a regular expression")):
        find_pairs(tmp_path, DataConfig(group_by="([^_"))


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


def test_one_pair_will_do_where_nothing_is_learnt(tmp_path: Path) -> None:
    assert len(find_pairs(touch(tmp_path, "images/a.jpg", "masks/a.png"), at_least=1)) == 1


def test_no_folder_at_all(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="gone does not exist"):
        find_pairs(tmp_path / "gone")
    touch(tmp_path, "file.zip")
    with pytest.raises(ValueError, match=r"file\.zip is a file"):
        find_pairs(tmp_path / "file.zip")


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
    ("image", "known"),
    [
        ("frame_{:06}", DataConfig(group_by="frame_([0-9]{4})")),
        ("{}_img", DataConfig()),
        ("{}_img", DataConfig(pairs="images/*_img.jpg:masks/*_mask.png")),
    ],
)
def test_the_work_of_pairing_grows_with_the_files(
    tmp_path: Path, image: str, known: DataConfig, count_calls: CountCalls
) -> None:
    mask = f"{image.removesuffix('_img')}_mask.png"
    for count in (400, 800):
        for number in range(count):
            name = f"{count}/images/{image}.jpg", f"{count}/masks/{mask}"
            touch(tmp_path, *(each.format(number) for each in name))
    calls = {}
    for count in (400, 800):
        folder = tmp_path / str(count)
        assert len(find_pairs(folder, known)) == count
        calls[count] = count_calls(lambda folder=folder: find_pairs(folder, known))
    assert calls[800] < 2.5 * calls[400]


def test_folders_found_are_said(tmp_path: Path) -> None:
    touch(tmp_path, "photos/a.jpg", "outlines/a.png")
    with pytest.raises(FileNotFoundError, match=r"--images.*Folders found: outlines/, photos/\."):
        find_pairs(tmp_path)


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
    masks = [path_of(pair.mask).name for pair in find_pairs(tmp_path)]
    assert masks == ["all.json[1]", "all.json[2]"]
    (tmp_path / "annotations" / "all.json").rename(tmp_path / "all.json")
    for number in (1, 2):
        touch(tmp_path, f"annotations/{number}.png")
    assert [path_of(pair.mask).name for pair in find_pairs(tmp_path)] == ["1.png", "2.png"]
    named = find_pairs(tmp_path, DataConfig(masks="all.json"))
    assert [path_of(pair.mask).name for pair in named] == ["all.json[1]", "all.json[2]"]


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
    heard = Collected()
    pairs = find_pairs(tmp_path, reporter=heard)
    assert [pair.image.name for pair in pairs] == ["a.jpg", "b.jpg"]
    assert {problem.code for problem in heard.problems} == {"outside-of-parts"}
    beside = [tmp_path / path for two in zip(names[2:], masks[2:], strict=True) for path in two]
    assert sorted(file for problem in heard.problems for file in problem.files) == sorted(beside)


RANDOM = np.random.default_rng(0)


def pair(
    folder: Path, name: str, count: int, masks: int | None = None, part: str | None = None
) -> Pair:
    """Two TIFF files; one slice is a single picture."""
    paths = []
    for kind, slices, most in (("images", count, 250), ("masks", masks or count, 2)):
        path = folder / kind / f"{name}.tif"
        path.parent.mkdir(exist_ok=True)
        array = RANDOM.integers(0, most, (slices, 20, 30), dtype=np.uint8)
        tifffile.imwrite(path, array if slices > 1 else array[0], photometric="minisblack")
        paths.append(path)
    return Pair(paths[0], paths[1], name, part)


def test_a_stack_from_the_file_to_the_class_ids(tmp_path: Path) -> None:
    whole = pair(tmp_path, "volume", 10)
    opened = open_stacks([whole])
    assert len(check_pairs(opened)) == 10
    coding, _ = find_coding([each.mask for each in opened], DataConfig(classes=("a", "b")))
    images, masks = (tifffile.imread(path) for path in (whole.image, whole.mask))
    for index, each in enumerate(opened):
        np.testing.assert_array_equal(read_image(each.image)[..., 0], images[index])
        np.testing.assert_array_equal(read_mask(each.mask), masks[index])
        np.testing.assert_array_equal(coding.read(each.mask), masks[index])


def test_slices_stay_in_the_group_of_their_stack_and_in_order(tmp_path: Path) -> None:
    heard = Collected()
    pairs = [
        pair(tmp_path, "b", 12, part="train"),
        pair(tmp_path, "single", 1, part="train"),
        pair(tmp_path, "a", 3, part="val"),
    ]
    opened = open_stacks(pairs, heard)
    assert [each.group for each in opened] == ["b"] * 12 + ["single"] + ["a"] * 3
    assert [each.part for each in opened] == ["train"] * 13 + ["val"] * 3
    assert [each.image.name for each in opened[:12]] == [f"b.tif[{index}]" for index in range(12)]
    assert [each.mask.name for each in opened[:12]] == [f"b.tif[{index}]" for index in range(12)]
    assert opened[12] is pairs[1]
    assert heard.notes == []


@pytest.mark.parametrize(
    ("count", "groups"),
    [
        (30, [f"v {start}-{start + 2}" for start in range(0, 30, 3)]),
        (2, ["v 0", "v 1"]),
        (11, [*(f"v {index}" for index in range(9)), "v 9-10"]),
    ],
)
@pytest.mark.parametrize("part", [None, "train"])
def test_a_single_stack_is_cut_into_blocks(
    tmp_path: Path, count: int, groups: list[str], part: str | None
) -> None:
    heard = Collected()
    pairs = [pair(tmp_path, "v", count, part=part)]
    if part:
        pairs.append(pair(tmp_path, "held out", 4, part="test"))
    opened = open_stacks(pairs, heard)
    found = [each.group for each in opened if each.part == part]
    assert list(dict.fromkeys(found)) == groups
    assert len(found) == count
    assert len(heard.notes) == 1
    assert f"its {count} slices are divided in {len(groups)} blocks" in heard.notes[0]
    assert {"train", "val"} <= {each.part for each in split_pairs(opened)}


def test_stacks_that_one_pattern_put_in_one_group_stay_in_it(tmp_path: Path) -> None:
    pairs = [pair(tmp_path, name, 3) for name in ("a", "b")]
    opened = open_stacks([Pair(each.image, each.mask, "mouse", None) for each in pairs])
    assert {each.group for each in opened} == {"mouse"}


@pytest.mark.parametrize("parts", [{"a": "train", "b": "val"}, {"a": "val"}])
def test_a_stack_is_not_cut_where_another_validates_or_none_is_trained_on(
    tmp_path: Path, parts: dict[str, str]
) -> None:
    pairs = [pair(tmp_path, name, 3, part=part) for name, part in parts.items()]
    assert {each.group for each in open_stacks(pairs)} == parts.keys()


def test_other_pairs_stay_as_they_are(tmp_path: Path) -> None:
    single = pair(tmp_path, "single", 1)
    pairs = [
        single,
        Pair(tmp_path / "gone.jpg", tmp_path / "gone.png", "gone", None),
        Pair(tmp_path / "x.tif[3]", tmp_path / "y.tif[3]", "x", "val"),
        Pair(single.image, tmp_path / "coco.json[3]", "coco", None),
        Pair(single.image, tmp_path / "masks" / "{road,car}" / "7.tif", "classes", None),
    ]
    assert open_stacks(pairs) == pairs


def test_damaged_files_are_left_to_the_check_unless_their_partner_is_a_stack(
    tmp_path: Path,
) -> None:
    whole, single = pair(tmp_path, "a", 10), pair(tmp_path, "b", 1)
    single.image.write_bytes(b"II*\0\xff\xff\0\0")
    missing = Pair(tmp_path / "gone.tif", single.mask, "gone", None)
    assert open_stacks([single, missing]) == [single, missing]
    data = whole.image.read_bytes()
    whole.image.write_bytes(data[: len(data) // 2])
    with pytest.raises(ValueError, match=r"a\.tif cannot be decoded, it is damaged \(it ends"):
        open_stacks([whole])
    with pytest.raises(ValueError, match=r"gone\.tif does not exist"):
        open_stacks([Pair(tmp_path / "gone.tif", whole.mask, "a", None)])


def test_numbers_of_slices_must_agree(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"a\.tif has 5 slices, its masks .*a\.tif have 4\. Save"):
        open_stacks([pair(tmp_path, "a", 5, 4)])


def test_a_stack_and_a_picture_are_no_pair(tmp_path: Path) -> None:
    stack = pair(tmp_path, "a", 5)
    single = pair(tmp_path, "b", 1)
    Image.new("L", (30, 20)).save(tmp_path / "b.png")
    for mask in (
        *(single.mask, tmp_path / "b.png", CocoImage(tmp_path / "coco.json", 1)),
        *(parse_source(tmp_path / "{road,car}.tif"), parse_source(f"{stack.mask}[0]")),
    ):
        with pytest.raises(ValueError, match=r"images.a\.tif is a stack of 5 slices, its partner"):
            open_stacks([Pair(stack.image, mask, "a", None)])
    with pytest.raises(ValueError, match=r"masks.a\.tif is a stack .*partner .*b\.png is a single"):
        open_stacks([Pair(tmp_path / "b.png", stack.mask, "a", None)])


def test_a_stack_beside_a_picture_is_left_out_where_somebody_is_told(tmp_path: Path) -> None:
    odd, good = pair(tmp_path, "odd", 1, masks=4), pair(tmp_path, "good", 3)
    heard = Collected()
    opened = open_stacks([odd, good], heard)
    assert [each.group for each in opened] == ["good"] * 3
    (problem,) = heard.problems
    assert (problem.code, problem.files) == ("several-frames", (odd.image, odd.mask))
    good.mask.unlink()
    heard.problems.clear()
    assert open_stacks([odd, good], heard) == []
    assert [each.code for each in heard.problems] == ["several-frames", "missing-file"]


def save(path: Path, height: int, width: int, channels: int = 1) -> Path:
    shape = (height, width) if channels == 1 else (height, width, channels)
    noise = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    path.parent.mkdir(exist_ok=True)
    Image.fromarray(noise).save(path)
    return path


def make_pair(root: Path, stem: str, height: int = 20, width: int = 30, channels: int = 3) -> Pair:
    image = save(root / "images" / f"{stem}.jpg", height, width, channels)
    return Pair(image, save(root / "masks" / f"{stem}.png", height, width), stem, None)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-20])


def test_sizes_and_progress(tmp_path: Path) -> None:
    pairs = [make_pair(tmp_path, "a"), make_pair(tmp_path, "b", 40, 50)]
    done: list[int] = []

    class Progress(Reporter):
        def stage(self, name: str, total: int) -> None:
            done.append(-total)

        def advance(self, count: int) -> None:
            done.append(count)

    assert check_pairs(pairs, Progress()) == [(20, 30, 3), (40, 50, 3)]
    assert done == [-2, 1, 2]


def test_grey_and_rgb_may_be_mixed(tmp_path: Path) -> None:
    pairs = [make_pair(tmp_path, "a"), make_pair(tmp_path, "b", channels=1)]
    assert check_pairs(pairs) == [(20, 30, 3), (20, 30, 1)]


def test_exif_orientation_counts(tmp_path: Path) -> None:
    pair = make_pair(tmp_path, "a")
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (20, 30)).save(pair.image, exif=exif)
    assert check_pairs([pair]) == [(20, 30, 3)]


def test_all_problems_are_named_at_once(tmp_path: Path) -> None:
    pairs = [make_pair(tmp_path, stem) for stem in "abcdefg"]
    cut(pairs[0].image)
    cut(pairs[1].mask)
    save(pairs[2].mask, 20, 31)
    pairs[3].image.unlink()
    pairs[4].mask.write_text("text")
    pairs[5].image.write_bytes(b"")
    with pytest.raises(ValueError, match=r"^6 problems with the data:") as raised:
        check_pairs(pairs)
    lines = str(raised.value).splitlines()[1:]
    wanted = [
        "images/a.jpg is cut off",
        "masks/b.png is cut off",
        "masks/c.png is 31x20 pixels, its picture",
        "images/d.jpg does not exist",
        "masks/e.png is not a picture",
        "images/f.jpg is empty",
    ]
    assert len(lines) == len(wanted)
    assert all(part in line for part, line in zip(wanted, lines, strict=True))
    assert "images/c.jpg is 30x20" in lines[2]


def test_more_than_ten_problems_are_counted(tmp_path: Path) -> None:
    pairs = [make_pair(tmp_path, str(number)) for number in range(13)]
    for pair in pairs:
        cut(pair.image)
    with pytest.raises(ValueError, match=r"^13 problems") as raised:
        check_pairs(pairs)
    lines = str(raised.value).splitlines()
    assert len(lines) == 1 + 10 + 1
    assert lines[-1].strip() == "and 3 more"


def test_pictures_with_other_channels_are_named(tmp_path: Path) -> None:
    pairs = [make_pair(tmp_path, stem) for stem in "abc"]
    layout = {"photometric": "minisblack", "planarconfig": "contig"}
    bands = tmp_path / "images/d.tif"
    tifffile.imwrite(bands, np.zeros((20, 30, 5), np.uint8), **layout)
    pairs.append(Pair(bands, pairs[0].mask, "d", None))
    with pytest.raises(
        ValueError, match=r"d\.tif has 5 channels, most of the pictures have 1 or 3"
    ):
        check_pairs(pairs)
