"""Pairs of a folder: found, grouped, stacks opened, files checked."""

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
from plainunet.dataset.dataset import check_pairs
from plainunet.dataset.lists import find_images
from plainunet.dataset.pairs import Pair, find_pairs, open_stacks
from plainunet.dataset.split import split_pairs
from plainunet.formats.images import read_image
from plainunet.formats.masks import read_mask
from plainunet.formats.problems import DataError
from plainunet.formats.sources import CocoImage, Page, Source, parse_source, path_of
from plainunet.reporter import Collected

from ..folders import Stages, rows, save, touch

CountCalls = Callable[[Callable[[], object]], int]


# layouts
@pytest.mark.parametrize(
    ("pattern", "names", "others"),
    [
        (
            ("images/{}", "masks/{}", "{}"),
            [("a.png", "a.png", "a"), ("b.jpg", "b.gif", "b")],
            ["masks_color/a.png", "images/._a.jpg", "images/.c/c.jpg", "masks/Thumbs.db"],
        ),
        (
            ("images/{}", "masks/{}", "{}"),
            [(f"{part}/1.jpg", f"{part}/1.png", f"{part}/1") for part in ("day", "night")],
            ["images/list.txt"],
        ),
        # Kaggle's Carvana, whose test/ has no masks
        (
            ("train/{}.jpg", "train_masks/{}_mask.gif", "{}"),
            [("car1_01", "car1_01", "car1"), ("car1_02", "car1_02", "car1"), ("b_1", "b_1", "b")],
            ["test/car3_01.jpg"],
        ),
    ],
)
def test_layouts(
    tmp_path: Path, pattern: tuple[str, ...], names: list[tuple[str, ...]], others: list[str]
) -> None:
    wanted = sorted(tuple(map(str.format, pattern, each)) for each in names)
    touch(tmp_path, *others, *(name for row in reversed(wanted) for name in row[:2]))
    assert rows(find_pairs(tmp_path), tmp_path) == [(*row, None) for row in wanted]


@pytest.mark.parametrize(
    ("image", "mask", "group"),
    [
        ("{0}/{0}_1.jpg", "{0}_masks/{0}_1_mask.gif", "{0}"),
        ("{0}/{0}_1.png", "{0}annot/{0}_1.png", "{0}/{0}_1"),  # CamVid
        # equal stems are different images
        ("images/{0}/x.jpg", "masks/{0}/x.png", "{0}/x"),
        ("{0}/images/1.jpg", "{0}/masks/1.png", "{0}/1"),
    ],
)
@pytest.mark.parametrize("last", ["val", "valid"])
def test_layouts_in_splits(tmp_path: Path, image: str, mask: str, group: str, last: str) -> None:
    wanted = [
        (image.format(name), mask.format(name), group.format(name), part)
        for name, part in (("test", "test"), ("train", "train"), (last, "val"))
    ]
    touch(tmp_path, *(name for row in wanted for name in row[:2]))
    assert rows(find_pairs(tmp_path), tmp_path) == wanted


@pytest.mark.parametrize("ending", ["_m", "_1stHO", ".jpg", " (mask)", "-gt"])
@pytest.mark.parametrize("stem", ["v1.2.final", "two words", "überholspur", "写真", "#1", "10"])
def test_names_of_every_kind(tmp_path: Path, stem: str, ending: str) -> None:
    stems = sorted([stem, "1"])  # also the beginning of "10"
    for each in stems:
        touch(tmp_path, f"images/{each}.JPG", f"masks/{each}{ending}.PNG")
    assert [(pair.image.stem, pair.mask.name) for pair in find_pairs(tmp_path)] == [
        (each, f"{each}{ending}.PNG") for each in stems
    ]


def test_a_linked_folder_is_followed_and_a_loop_is_named(tmp_path: Path) -> None:
    touch(tmp_path / "far", "1.jpg", "2.jpg")
    touch(
        tmp_path, "images/here.jpg", *(f"masks/{name}.png" for name in ("here", "far/1", "far/2"))
    )
    (tmp_path / "images/far").symlink_to(tmp_path / "far")
    assert len(find_pairs(tmp_path)) == 3
    (tmp_path / "far/back").symlink_to(tmp_path / "far")
    with pytest.raises(ValueError, match="far/back"):
        find_pairs(tmp_path)


@pytest.mark.parametrize(
    "names",
    [
        ["a.jpg", "a_mask.png", "b.jpg", "b_mask.png"],
        ["x/a.tif", "x/a_mask.tif", "y/a.tif", "y/a_mask.tif"],
        ["images/a.jpg", "images/gt_a.png", "images/b.jpg", "images/gt_b.png"],
    ],
)
def test_images_and_masks_in_one_folder(tmp_path: Path, names: list[str]) -> None:
    heard = Collected()
    found = find_pairs(touch(tmp_path, *names), reporter=heard)
    together = [path for pair in found for path in (pair.image, pair.mask)]
    assert together == [tmp_path / name for name in names]
    assert str(tmp_path / names[1]) in heard.notes[0]


def test_unicode_normalisation_may_differ(tmp_path: Path) -> None:
    apart = unicodedata.normalize("NFD", "größe")
    touch(tmp_path, f"images/{apart}.jpg", "masks/größe.png", "images/b/é.jpg", "masks/b/é.png")
    assert [pair.group for pair in find_pairs(tmp_path)] == ["b/é", "größe"]


def test_given_folders_and_files(tmp_path: Path) -> None:
    touch(tmp_path, "images/a.jpg", "images/b.jpg", "masks/a.png", "masks/b.png")
    touch(tmp_path, "images/masks/a_o.png", "images/masks/b_o.png")
    where = ("images/a.jpg", "images/masks/a_o.png"), ("images/b.jpg", "images/masks/b_o.png")
    (tmp_path / "list.csv").write_text(
        "image,mask,group,part\nimages/a.jpg,images/masks/a_o.png,g,train\n"
        "images/b.jpg,images/masks/b_o.png,h,val\n"
    )
    for named in (
        {"images": "images", "masks": "images/masks"},
        {"pairs": "images/*.jpg:images/masks/*_o.png"},
    ):
        found = find_pairs(tmp_path, DataConfig(**named))  # type: ignore[arg-type]
        assert rows(found, tmp_path) == [(*where[0], "a", None), (*where[1], "b", None)]
    found = find_pairs(tmp_path, DataConfig(pairs="list.csv"))
    assert rows(found, tmp_path) == [(*where[0], "g", "train"), (*where[1], "h", "val")]
    found = find_pairs(tmp_path, DataConfig(group_by="a|b", pairs="list.csv"))
    assert [pair.group for pair in found] == ["a", "b"]
    with pytest.raises(ValueError, match="--images or --masks"):
        find_pairs(tmp_path, DataConfig(masks="outlines", pairs="list.csv"))


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
    for pattern, message in (
        ("p01", "'p02_left'"),
        ("([^_", r"\[\^_"),
    ):
        with pytest.raises(ValueError, match=message):
            find_pairs(tmp_path, DataConfig(group_by=pattern))


# errors


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ("", r"images/.*--images"),
        ("images/a.jpg", r"/masks does not exist"),
        ("masks/a.png", "Give their location"),
        ("train/a.jpg", "Give their location"),
        ("photos/a.jpg outlines/a.png", r"--images.*Folders found: outlines/, photos/\."),
        ("train/a.jpg train_masks/a_mask.gif val/b.jpg", "val_masks does not exist"),
        ("images/a.txt masks/a.png", "/images holds no images"),
        (
            "train/a.jpg train_masks/a.gif images/a.jpg masks/a.png",
            r"train/ .*images/ .*--images",
        ),
        (
            "images/train/a.jpg masks/train/a.png images/b.jpg masks/b.png",
            r"images/b\.jpg .*train/",
        ),
        ("images/{a,b}.jpg masks/{a,a_mask,b}.png", r"^1 masks .*a_mask\.png"),
        # a suffix that one mask lacks, or one mask too many
        ("images/{1,2,3}.jpg masks/{2,3}_mask.png", r"^1 images .*'_mask'\).*images/1\.jpg"),
        (
            "images/{a,b,c}.jpg masks/a.png masks/{a,b,c}_mask.png",
            r"^1 masks .*masks/a\.png \(nearest: .*images/a\.jpg\)\.",
        ),
        # up to five of each are named
        (
            "images/{a,b,c,d,e,f,g,h,i,j}.jpg masks/{j,x,y,z}.png",
            r"^9 images .* and 4 more.*3 masks ",
        ),
    ],
)
def test_folders_that_cannot_be_paired(tmp_path: Path, names: str, message: str) -> None:
    for name in names.split():
        head, _, rest = name.partition("{")
        stems, _, tail = rest.partition("}")
        touch(tmp_path, *(f"{head}{stem}{tail}" for stem in stems.split(",")))
    missing = any(word in message for word in ("exist", "found", "Folders")) or not names
    with pytest.raises((ValueError, FileNotFoundError), match=message) as raised:
        find_pairs(tmp_path)
    assert not missing or raised.type is FileNotFoundError


@pytest.mark.parametrize(
    ("names", "code", "files"),
    [
        (["a.jpg", "../masks/a.png"], "too-few", []),
        (
            ["a.jpg", "b.jpg", "../masks/a.png", "../masks/a.gif", "../masks/b.png"],
            "two-partners",
            ["a.gif", "a.png"],
        ),
        (
            ["a.jpg", "a.png", "b.png", "../masks/a.png", "../masks/b.png"],
            "two-partners",
            ["a.jpg", "a.png"],
        ),
        (
            ["a.heic", "a.jpg", "b.jpg", "../masks/a.png", "../masks/b.png"],
            "two-partners",
            ["a.jpg", "a.heic"],
        ),
        (["x.jpg/a.jpg", "../masks/a.png"], "not-an-image", ["x.jpg"]),
    ],
)
def test_invalid_pairs_have_a_code(
    tmp_path: Path, names: list[str], code: str, files: list[str]
) -> None:
    (tmp_path / "images").mkdir()
    touch(tmp_path / "images", *names)
    with pytest.raises(DataError) as raised:
        find_pairs(tmp_path)
    assert raised.value.code == code
    assert [path_of(file).name for file in raised.value.files] in (files, [])
    if code == "too-few":
        assert len(find_pairs(tmp_path, at_least=1)) == 1


def test_no_folder_at_all(tmp_path: Path) -> None:
    touch(tmp_path, "file.zip", "texts/a.txt")
    with pytest.raises(ValueError, match=r"file\.zip "):
        find_pairs(tmp_path / "file.zip")
    for find in (find_pairs, lambda path: find_images([path])):
        with pytest.raises(FileNotFoundError, match="gone "):
            find(tmp_path / "gone")
    with pytest.raises(ValueError, match="texts "):
        find_images([tmp_path / "texts"])


# images to predict
def test_find_images(tmp_path: Path) -> None:
    inside = ("b/2.JPG", "b/deep/er/1.png")
    touch(tmp_path, *inside, "b/notes.txt", "b/.hidden.png", "a.tif", "odd.dat")
    found = find_images([tmp_path / name for name in ("odd.dat", "b", "a.tif", "b/2.JPG")])
    assert [path.relative_to(tmp_path).as_posix() for path in found] == [
        *("odd.dat", *inside, "a.tif"),
    ]


# size, and real folders
@pytest.mark.parametrize(
    ("image", "known"),
    [
        ("frame_{:06}", DataConfig(group_by="frame_([0-9]{4})")),
        ("{}_img", DataConfig()),
        ("{}_img", DataConfig(pairs="images/*_img.jpg:masks/*_mask.png")),
    ],
)
def test_pairing_takes_linear_time(
    tmp_path: Path, image: str, known: DataConfig, count_calls: CountCalls
) -> None:
    mask = f"{image.removesuffix('_img')}_mask.png"
    calls = []
    for count in (200, 400):
        folder = tmp_path / str(count)
        for number in range(count):
            touch(folder, f"images/{image}.jpg".format(number), f"masks/{mask}".format(number))
        assert len(find_pairs(folder, known)) == count
        calls.append(count_calls(lambda folder=folder: find_pairs(folder, known)))
    assert calls[1] < 2.5 * calls[0]


# without mask files
def test_an_annotation_file_is_used_without_mask_files(tmp_path: Path) -> None:
    """Also in annotations/, which might hold masks; images of the same name are not masks."""
    names = ["1.png", "1_mask.png", "2.png", "2_mask.png"]
    entries = [{"id": n, "file_name": x, "height": 4, "width": 6} for n, x in enumerate(names)]
    coco = {"images": entries, "categories": [{"id": 3, "name": "leaf"}], "annotations": []}
    touch(tmp_path / "images", *names)
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations" / "all.json").write_text(json.dumps(coco))
    items = [f"all.json[{n}]" for n in range(4)]
    assert [path_of(pair.mask).name for pair in find_pairs(tmp_path)] == items
    (tmp_path / "annotations" / "all.json").rename(tmp_path / "all.json")
    touch(tmp_path / "annotations", *names)
    assert [path_of(pair.mask).name for pair in find_pairs(tmp_path)] == names
    named = find_pairs(tmp_path, DataConfig(masks="all.json"))
    assert [path_of(pair.mask).name for pair in named] == items


def test_images_next_to_the_splits_are_skipped_and_reported(tmp_path: Path) -> None:
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
    """Two TIFF files; one slice is a single image."""
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
    assert re.search(rf"\b{count} slices .*\b{len(groups)} blocks", heard.notes[0])
    assert {"train", "val"} <= {each.part for each in split_pairs(opened)}


@pytest.mark.parametrize(
    "parts", [{"a": "train", "b": "val"}, {"a": "val"}, {"a": None, "b": None, "c": None}]
)
def test_a_stack_is_not_cut_if_another_validates_or_none_trains(
    tmp_path: Path, parts: dict[str, str | None]
) -> None:
    pairs = [pair(tmp_path, name, 3, part=part) for name, part in parts.items()]
    assert {each.group for each in open_stacks(pairs)} == parts.keys()
    # nor if a pattern has put several in one group
    pairs = [Pair(each.image, each.mask, "mouse", each.part) for each in pairs]
    assert len(pairs) == 1 or {each.group for each in open_stacks(pairs)} == {"mouse"}


def test_other_pairs_stay_as_they_are(tmp_path: Path) -> None:
    single = pair(tmp_path, "single", 1)
    pairs = [
        single,
        Pair(tmp_path / "gone.jpg", tmp_path / "gone.png", "gone", None),
        Pair(Page(tmp_path / "x.tif", 3), Page(tmp_path / "y.tif", 3), "x", "val"),
        Pair(single.image, CocoImage(tmp_path / "coco.json", 3), "coco", None),
        Pair(single.image, parse_source(tmp_path / "masks/{road,car}/7.tif"), "classes", None),
    ]
    assert open_stacks(pairs) == pairs


def test_damaged_files_stay_unless_their_partner_is_a_stack(
    tmp_path: Path,
) -> None:
    whole, single = pair(tmp_path, "a", 10), pair(tmp_path, "b", 1)
    single.image.write_bytes(b"II*\0\xff\xff\0\0")
    missing = Pair(tmp_path / "gone.tif", single.mask, "gone", None)
    assert open_stacks([single, missing]) == [single, missing]
    data = whole.image.read_bytes()
    whole.image.write_bytes(data[: len(data) // 2])
    with pytest.raises(ValueError, match=r"a\.tif"):
        open_stacks([whole])
    with pytest.raises(ValueError, match=r"gone\.tif "):
        open_stacks([Pair(tmp_path / "gone.tif", whole.mask, "a", None)])


def test_a_stack_and_an_image_are_no_pair(tmp_path: Path) -> None:
    stack, single = pair(tmp_path, "a", 5, masks=4), pair(tmp_path, "b", 1)
    Image.new("L", (30, 20)).save(tmp_path / "b.png")
    image = tmp_path / "b.png"
    masks: list[Source] = [single.mask, image, CocoImage(tmp_path / "coco.json", 1), stack.mask]
    masks += [parse_source(tmp_path / "{road,car}.tif"), parse_source(f"{stack.mask}[0]")]
    for first, mask in (*((stack.image, mask) for mask in masks), (image, stack.mask)):
        with pytest.raises(DataError, match=r"a\.tif") as raised:
            open_stacks([Pair(first, mask, "a", None)])
        assert raised.value.code == "several-frames"


def test_a_mismatched_stack_is_skipped_and_reported(tmp_path: Path) -> None:
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


def noise(height: int, width: int, channels: int = 1) -> np.ndarray:
    shape = (height, width) if channels == 1 else (height, width, channels)
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def make_pair(root: Path, stem: str, height: int = 20, width: int = 30, channels: int = 3) -> Pair:
    image = save(root / "images" / f"{stem}.jpg", noise(height, width, channels))
    return Pair(image, save(root / "masks" / f"{stem}.png", noise(height, width)), stem, None)


def test_sizes_and_progress(tmp_path: Path) -> None:
    """Grey and RGB may be mixed, and EXIF orientation is applied."""
    pairs = [make_pair(tmp_path, "a"), make_pair(tmp_path, "b", 40, 50, channels=1)]
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (20, 30)).save(pairs[0].image, exif=exif)
    heard = Stages()
    assert check_pairs(pairs, heard) == [(20, 30, 3), (40, 50, 1)]
    assert [stage[1:] for stage in heard.stages] == [(2, [1, 2])]


def test_all_problems_are_named_at_once(tmp_path: Path) -> None:
    pairs = [make_pair(tmp_path, stem) for stem in "abcdefg"]
    for file in (pairs[0].image, pairs[1].mask):
        file.write_bytes(file.read_bytes()[:-20])
    save(pairs[2].mask, noise(20, 31))
    pairs[3].image.unlink()
    pairs[4].mask.write_text("text")
    pairs[5].image.write_bytes(b"")
    with pytest.raises(ValueError, match=r"^6\b") as raised:
        check_pairs(pairs)
    wanted = [
        "images/a.jpg ",
        "masks/b.png ",
        "masks/c.png is 31x20 ",
        "images/d.jpg ",
        "masks/e.png ",
        "images/f.jpg ",
    ]
    for part, line in zip(wanted, str(raised.value).splitlines()[1:], strict=True):
        assert part in line
    # ten are listed
    pairs = [Pair(tmp_path / f"{n}.png", tmp_path / f"{n}.png", "g", None) for n in range(13)]
    with pytest.raises(ValueError, match=r"^26\b(?s:.*)\b16\b") as raised:
        check_pairs(pairs)
    assert len(str(raised.value).splitlines()) == 1 + 10 + 1


def test_images_with_other_channels_are_named(tmp_path: Path) -> None:
    pairs = [make_pair(tmp_path, stem) for stem in "abc"]
    layout = {"photometric": "minisblack", "planarconfig": "contig"}
    bands = tmp_path / "images/d.tif"
    tifffile.imwrite(bands, np.zeros((20, 30, 5), np.uint8), **layout)
    with pytest.raises(ValueError, match=r"^1\b(?s:.*)d\.tif .*\b5\b"):
        check_pairs([*pairs, Pair(bands, pairs[0].mask, "d", None)])
