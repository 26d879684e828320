from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from plainunet.dataset.classes import understand_masks
from plainunet.dataset.pairs import Pair, open_stacks
from plainunet.dataset.split import split_pairs
from plainunet.dataset.verify import check_pairs
from plainunet.formats.images import read_image
from plainunet.formats.masks import read_mask
from plainunet.formats.problems import DataError
from plainunet.formats.sources import CocoImage, Page, parse_source

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
    coding, _ = understand_masks([each.mask for each in opened], 2)
    images, masks = (tifffile.imread(path) for path in (whole.image, whole.mask))
    for index, each in enumerate(opened):
        np.testing.assert_array_equal(read_image(each.image)[..., 0], images[index])
        np.testing.assert_array_equal(read_mask(each.mask), masks[index])
        np.testing.assert_array_equal(coding.read(each.mask), masks[index])


def test_slices_stay_in_the_group_of_their_stack_and_in_order(tmp_path: Path) -> None:
    notes: list[str] = []
    pairs = [
        pair(tmp_path, "b", 12, part="train"),
        pair(tmp_path, "single", 1, part="train"),
        pair(tmp_path, "a", 3, part="val"),
    ]
    opened = open_stacks(pairs, notes.append)
    assert [each.group for each in opened] == ["b"] * 12 + ["single"] + ["a"] * 3
    assert [each.part for each in opened] == ["train"] * 13 + ["val"] * 3
    assert [each.image.name for each in opened[:12]] == [f"b.tif[{index}]" for index in range(12)]
    assert [each.mask.name for each in opened[:12]] == [f"b.tif[{index}]" for index in range(12)]
    assert opened[12] is pairs[1]
    assert notes == []


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
    notes: list[str] = []
    pairs = [pair(tmp_path, "v", count, part=part)]
    if part:
        pairs.append(pair(tmp_path, "held out", 4, part="test"))
    opened = open_stacks(pairs, notes.append)
    found = [each.group for each in opened if each.part == part]
    assert list(dict.fromkeys(found)) == groups
    assert len(found) == count
    assert len(notes) == 1
    assert f"its {count} slices are divided in {len(groups)} blocks" in notes[0]
    assert {"train", "val"} <= {each.part for each in split_pairs(opened)}


def test_stacks_that_one_pattern_put_in_one_group_stay_in_it(tmp_path: Path) -> None:
    pairs = [pair(tmp_path, name, 3) for name in ("a", "b")]
    opened = open_stacks([Pair(each.image, each.mask, "mouse", None) for each in pairs])
    assert {each.group for each in opened} == {"mouse"}


def test_a_validation_stack_beside_the_training_stack_leaves_both_whole(tmp_path: Path) -> None:
    pairs = [pair(tmp_path, name, 3, part=part) for name, part in (("a", "train"), ("b", "val"))]
    assert {each.group for each in open_stacks(pairs)} == {"a", "b"}


def test_a_stack_that_is_only_judged_stays_whole(tmp_path: Path) -> None:
    assert {each.group for each in open_stacks([pair(tmp_path, "a", 3, part="val")])} == {"a"}


def test_other_pairs_stay_as_they_are(tmp_path: Path) -> None:
    single = pair(tmp_path, "single", 1)
    pairs = [
        single,
        Pair(tmp_path / "gone.jpg", tmp_path / "gone.png", "gone", None),
        Pair(Page(tmp_path / "x.tif", 3), Page(tmp_path / "y.tif", 3), "x", "val"),
        Pair(single.image, CocoImage(tmp_path / "coco.json", 3), "coco", None),
        Pair(single.image, parse_source(tmp_path / "{road,car}" / "7.tif"), "classes", None),
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
    with pytest.raises(FileNotFoundError, match=r"gone\.tif does not exist"):
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
    problems: list[DataError] = []
    opened = open_stacks([odd, good], on_problem=problems.append)
    assert [each.group for each in opened] == ["good"] * 3
    (problem,) = problems
    assert (problem.code, problem.files) == ("several-frames", (odd.image, odd.mask))
    good.mask.unlink()
    problems.clear()
    assert open_stacks([odd, good], on_problem=problems.append) == []
    assert [each.code for each in problems] == ["several-frames", "missing-file"]
