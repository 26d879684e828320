"""Masks are matched with images by name."""

import re
from collections.abc import Callable, Sequence
from itertools import chain, product
from pathlib import Path

import pytest
from PIL import Image

from plainunet.dataset.layouts import Key
from plainunet.dataset.matching import join_classes, join_objects, match_names, split_names
from plainunet.dataset.pairs import find_pairs
from plainunet.formats.problems import Change, DataError
from plainunet.reporter import Collected

from ..folders import touch

CountCalls = Callable[[Callable[[], object]], int]


def files(*stems: str, where: str = ".") -> dict[tuple[str, str], Path]:
    return {(where, stem): Path(where, f"{stem}.png") for stem in stems}


STEMS = ("1", "10", "11", "2", "a b", "v1.2")


@pytest.mark.parametrize(
    ("image", "mask"),
    [
        ("{}", "{}"),
        ("{}", "{}_mask"),
        ("{}", "{}_1stHO"),
        ("{}", "mask_{}"),
        ("{}", "gt-{}"),
        ("{}_img", "{}"),
        ("im_{}", "{}"),
        ("{}_img", "{}_mask"),
        ("{}_image", "{}_img_gt"),
        ("img_{}", "mask_{}"),
        ("img{}", "mask{}"),
        ("{}_training", "{}_manual1"),
        ("img_{}", "{}_mask"),
        ("{}_sat", "mask_{}"),
    ],
)
def test_prefixes_and_suffixes(image: str, mask: str) -> None:
    images = files(*(image.format(stem) for stem in STEMS))
    masks = files(*(mask.format(stem) for stem in reversed(STEMS)))
    joined = match_names(images, masks)
    assert [(ours[1], theirs[1]) for ours, theirs in joined.items()] == [
        (image.format(stem), mask.format(stem)) for stem in STEMS
    ]


@pytest.mark.parametrize(
    ("images", "masks", "as_they_are"),
    [
        (("car1_01", "car2_01"), ("car1_02", "car2_02"), False),  # another view, not a mask
        (("1", "2", "3"), ("10", "20", "30"), False),  # numbers are not split
        (("1", "2", "3"), ("11", "12", "13"), False),
        (("1_img", "2_img"), ("3_mask", "4_mask"), False),
        (("a", "b"), ("x", "y"), False),
        (("1", "2"), ("1_m", "2_m"), True),
    ],
)
def test_names_that_do_not_match(
    images: tuple[str, ...], masks: tuple[str, ...], as_they_are: bool
) -> None:
    with pytest.raises(DataError, match=rf"\b{len(images)}\b") as raised:
        match_names(files(*images), files(*masks), as_they_are=as_they_are)
    assert raised.value.code == "no-mask"


def test_names_of_another_site_are_no_masks() -> None:
    """The kind of a file stands between site and number."""
    stems = [f"{site}_{number}" for site in ("a", "b") for number in range(1, 4)]
    masks = files(*(stem.replace("_", "_mask_") for stem in stems))
    joined = match_names(files(*stems), masks, reporter=Collected())
    assert joined
    assert all(theirs[1] == ours[1].replace("_", "_mask_") for ours, theirs in joined.items())


def test_case_may_differ_if_nothing_else_matches() -> None:
    images, masks = files("IMG_1", "IMG_2", where="Day"), files("img_1_M", "img_2_M", where="day")
    assert [mask[1] for mask in match_names(images, masks).values()] == ["img_1_M", "img_2_M"]
    images, masks = files("a", "A"), files("A", "a")
    assert match_names(images, masks) == {(".", "a"): (".", "a"), (".", "A"): (".", "A")}


def test_a_running_number_before_the_name_of_the_image() -> None:
    images = files(*(f"IMG_{2000 + 3 * n}" for n in range(12)))
    masks = files(*(f"Label_{n + 1}_IMG_{2000 + 3 * n}" for n in range(12)))
    joined = match_names(images, masks)
    assert len(joined) == 12
    assert all(theirs[1].endswith(ours[1]) for ours, theirs in joined.items())


def test_leading_zeros_do_not_matter(tmp_path: Path) -> None:
    images = files(*(f"img{number}" for number in range(1, 12)))
    masks = files(*(f"mask_{number:03}" for number in range(1, 12)))
    joined = match_names(images, masks)
    assert len(joined) == 11
    assert all(int(ours[1][3:]) == int(theirs[1][5:]) for ours, theirs in joined.items())
    for path in chain(images.values(), masks.values()):
        touch(tmp_path, f"{'masks' if 'mask' in path.name else 'images'}/{path.name}")
    assert len(find_pairs(tmp_path)) == 11  # not the objects of one image


@pytest.mark.parametrize(
    ("images", "masks"),
    [
        (("img1", "img01", "img2"), ("mask_001", "mask_002", "mask_003")),  # two may be meant
        (("img0", "img1", "img2"), ("mask_001", "mask_002", "mask_003")),  # shifted
        (("a_10", "a_20"), ("b_1", "b_2")),
    ],
)
def test_other_numbers_are_not_joined(images: Sequence[str], masks: Sequence[str]) -> None:
    with pytest.raises(DataError, match="CSV"):
        match_names(files(*images), files(*masks))


def test_folders_of_images_and_masks_may_be_named_otherwise() -> None:
    images = files("1", "2", where="train_images") | files("3", where="val_images")
    masks = files("1", "2", where="train_labels") | files("3", where="val_labels")
    joined = match_names(images, masks)
    assert [mask for _, mask in joined.values()] == ["1", "2", "3"]
    with pytest.raises(DataError):  # the folders of the masks may be classes
        match_names(files("1", "2", "3"), masks)


def test_images_whose_names_end_with_an_id() -> None:
    """BBBC006: mcf_a01_s1_w10dc6371a.tif belongs to mcf_a01_s1.png."""
    ids = {"mcf_a01_s1": "_w10dc6371a", "mcf_a01_s12": "_w1-27e1", "mcf_a02": "_w1eb6"}
    images = files(*(name + each for name, each in ids.items()))
    assert [mask[1] for mask in match_names(images, files(*ids)).values()] == [*ids]
    with pytest.raises(DataError):  # two may be meant
        match_names(images, files("mcf_a01", "mcf_a01_s1", "mcf_a02"))


def test_the_nearest_name_is_reported() -> None:
    images = files("street_1_img", "street_2_img", "street_3_img", "streat_4_img")
    masks = files(*(f"street_{number}_mask" for number in range(1, 5)))
    with pytest.raises(ValueError, match=r"streat_4_img\.png .*street_4_mask\.png"):
        match_names(images, masks)


@pytest.mark.parametrize(
    ("image", "mask"),
    [
        ("{}", "{}_mask"),
        ("{}", "m_{}"),
        ("{}_rgb", "{}"),
        ("{}_sat", "{}_mask"),
        ("img_{}", "gt_{}"),
    ],
)
def test_one_folder(image: str, mask: str) -> None:
    both = files(*(each.format(stem) for stem in STEMS for each in (image, mask)))
    images, masks = split_names(both)
    assert [stem for _, stem in images] == [image.format(stem) for stem in STEMS]
    assert [stem for _, stem in masks] == [mask.format(stem) for stem in STEMS]


def test_one_folder_in_which_a_mask_is_missing() -> None:
    both = files("a", "b", "c", "a_mask", "b_mask")
    images, masks = split_names(both)
    with pytest.raises(ValueError, match=r"\b1\b.*'_mask'.*\bc\.png"):
        match_names(images, masks)


def test_a_folder_without_masks() -> None:
    for stems in (("cat", "cat_2", "dog", "x", "y"), STEMS, ("f_1", "f_2", "f_3"), ()):
        assert split_names(files(*stems)) == (files(*stems), {})


def test_a_word_inside_the_names_tells_masks_from_images() -> None:
    images = {("", f"{n}_sat_{n % 3}"): Path("images", f"{n}_sat_{n % 3}.jpg") for n in range(9)}
    masks = {("", f"{n}_mask_{n % 3}"): Path("masks", f"{n}_mask_{n % 3}.jpg") for n in range(9)}
    assert join_objects(images, masks) == masks
    found = match_names(images, masks)
    assert found == {image: mask for image, mask in zip(images, masks, strict=True)}
    # two such words are classes or objects
    more = {("", f"{n}_{word}_1"): Path(f"{n}_{word}_1.jpg") for n in range(9) for word in "ab"}
    with pytest.raises(DataError):
        match_names(images, more)


def test_a_single_pair_is_recognised_by_its_words() -> None:
    files = {("", name): Path(name) for name in ("train-volume", "train-labels")}
    images, masks = split_names(files)
    assert match_names(images, masks) == {("", "train-volume"): ("", "train-labels")}
    with pytest.raises(DataError) as raised:
        match_names({("", "train-one"): Path("a")}, {("", "train-two"): Path("b")})
    assert raised.value.code == "no-mask"


def join(images: list[str], masks: list[str]) -> dict[str, str] | None:
    def keys(folder: Path, names: list[str]) -> dict[Key, Path]:
        return {(str(Path(name).parent), Path(name).stem): folder / name for name in names}

    images = keys(Path("d/images"), images)
    joined = join_classes(images, keys(Path("d/masks"), masks))
    if joined is None:
        return None
    partners = match_names(images, joined)
    return {"/".join(key).removeprefix("./"): str(joined[mask]) for key, mask in partners.items()}


def test_one_folder_per_class() -> None:
    masks = ["road/1.png", "car/1.png", "Background/1.png", "car/2.png"]
    assert join(["1.jpg", "2.jpg"], masks) == {
        "1": "d/masks/{Background,car,road}/1.png",
        "2": "d/masks/{Background,car,road}/2.png",
    }


@pytest.mark.parametrize("pattern", ["{part}/{name}", "{name}/{part}"])
def test_splits_above_or_below_the_classes(pattern: str) -> None:
    masks = [
        pattern.format(part=part, name=name) + f"/{number}_m.png"
        for part, number in (("train", 1), ("val", 2))
        for name in ("road", "car")
    ]
    braced = [pattern.format(part=part, name="{car,road}") for part in ("train", "val")]
    assert join(["train/1.jpg", "val/2.jpg"], masks) == {
        "train/1": f"d/masks/{braced[0]}/1_m.png",
        "val/2": f"d/masks/{braced[1]}/2_m.png",
    }


@pytest.mark.parametrize(
    ("images", "masks"),
    [
        (["1.jpg"], ["1.png"]),
        (["1.jpg"], ["road/1.png"]),
        (["a/1.jpg", "b/1.jpg"], ["a/1.png", "b/1.png"]),
        (["train/1.jpg", "val/1.jpg"], ["train/1.png", "val/1.png"]),
        (["1.jpg", "2.jpg"], ["train/1.png", "val/1.png"]),
        (["1.jpg", "2.jpg"], ["patient1/1.png", "patient2/2.png"]),
        (["1.jpg"], ["1.png", "road/1.png", "car/1.png"]),
        (["x/1.jpg"], ["road/1.png", "car/1.png"]),
        (["1.jpg", "road/1.jpg"], ["road/1.png", "car/1.png"]),
        ([], []),
    ],
)
def test_other_folders_are_left_alone(images: list[str], masks: list[str]) -> None:
    assert join(images, masks) is None


@pytest.mark.parametrize("pattern", ["{}/1_{}.png", "{}/{}_1.png"])
def test_names_with_the_class(pattern: str) -> None:
    masks = [pattern.format(name, name) for name in ("road", "car")]
    braced = "d/masks/" + pattern.format("{car,road}", "{car,road}")
    assert join(["1.jpg"], masks) == {"1": braced}


@pytest.mark.parametrize(
    "masks",
    [
        ["road/1.png", "car/1.tif"],
        ["road/1.png", "car/1.PNG"],
        ["a,b/1.png", "car/1.png"],
        ["{x}/1.png", "car/1.png"],
    ],
)
def test_masks_that_braces_cannot_join(masks: list[str]) -> None:
    message = f"{re.escape(masks[0])} .*{re.escape(masks[1])} "
    with pytest.raises(ValueError, match=message):
        join(["1.jpg"], masks)


def test_joining_takes_linear_time(count_calls: CountCalls) -> None:
    calls = {}
    for count in (250, 500):
        images = {(".", str(n)): Path(f"d/images/{n}.jpg") for n in range(count)}
        masks = {(c, str(n)): Path(f"d/masks/{c}/{n}.png") for c in "abcd" for n in range(count)}
        joined = join_classes(images, masks)
        assert joined is not None
        assert len(joined) == count
        assert joined[".", "7"].files["c"] == Path("d/masks/c/7.png")
        calls[count] = count_calls(lambda i=images, m=masks: join_classes(i, m))
    assert calls[500] < 2.5 * calls[250]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return touch(
        tmp_path,
        *(f"images/{stem}.jpg" for stem in ("road", "field", "lake")),
        *(f"masks/{stem}_mask.png" for stem in ("road", "field", "lake")),
    )


def collected(folder: Path) -> tuple[list[str], list[DataError]]:
    heard = Collected()
    pairs = find_pairs(folder, reporter=heard, at_least=0)
    return [pair.image.stem for pair in pairs], heard.problems


def test_a_misspelt_name_has_a_fix(folder: Path) -> None:
    (folder / "masks/road_mask.png").rename(folder / "masks/raod_mask.png")
    stems, (no_mask, no_image) = collected(folder)
    assert stems == ["field", "lake"]
    assert (no_mask.code, no_mask.files) == ("no-mask", (folder / "images/road.jpg",))
    assert str(folder / "masks/raod_mask.png") in str(no_mask)
    masks = folder / "masks"
    rename = Change("rename", (masks / "raod_mask.png",), (masks / "road_mask.png",))
    assert (no_mask.fix, no_image.fix) == (rename, rename)
    assert (no_image.code, no_image.files) == (
        "no-image",
        (folder / "masks/raod_mask.png",),
    )


def test_the_other_eye_is_no_misspelling(tmp_path: Path) -> None:
    for number, eye in product((21, 22, 23), ("OD", "OS")):
        for kind, other in (("images", "OD"), ("masks", "OS")):
            if number != 23 or eye == other:
                path = tmp_path / kind / f"patient{number}_{eye}.png"
                path.parent.mkdir(exist_ok=True)
                Image.new("L", (8, 8)).save(path)
    stems, problems = collected(tmp_path)
    assert len(stems) == 4
    assert [(each.code, each.fix) for each in problems] == [("no-mask", ""), ("no-image", "")]


@pytest.mark.parametrize("name", ["road_mask.dat", "road_mask", "road_mask.png.bak"])
def test_an_image_with_another_suffix_is_the_partner(folder: Path, name: str) -> None:
    Image.new("L", (8, 8)).save(folder / "masks/road_mask.png")
    (folder / "masks/road_mask.png").rename(folder / "masks" / name)
    _, (problem,) = collected(folder)
    assert isinstance(problem.fix, Change)
    (old,), (new,) = problem.fix.files, problem.fix.how
    old.rename(new)
    assert new.name == "road_mask.png"
    assert collected(folder) == (["field", "lake", "road"], [])


def test_without_a_candidate_there_is_no_fix(folder: Path) -> None:
    (folder / "masks/lake_mask.png").unlink()
    stems, (problem,) = collected(folder)
    assert stems == ["field", "road"]
    assert (problem.code, problem.fix) == ("no-mask", "")
    assert problem.files == (folder / "images/lake.jpg",)
    # without a collector the first is raised
    with pytest.raises(DataError) as raised:
        find_pairs(folder)
    assert (raised.value.code, raised.value.files) == (problem.code, problem.files)


def test_two_files_of_one_name(folder: Path) -> None:
    touch(folder, "masks/lake_mask.tif")
    stems, (problem,) = collected(folder)
    assert len(stems) == 3
    assert problem.code == "two-partners"
    assert {path.name for path in problem.files} == {"lake_mask.png", "lake_mask.tif"}


def test_only_one_of_two_mismatched_partners_is_renamed(folder: Path) -> None:
    (folder / "masks/lake_mask.png").rename(folder / "masks/laek_mask.png")
    _, problems = collected(folder)
    assert {problem.code for problem in problems} == {"no-mask", "no-image"}
    assert len({problem.fix for problem in problems}) == 1


@pytest.mark.parametrize(
    ("mask", "image"), [("IMG_3440", "IMG_3458"), ("road", "lake"), ("train_1", "train_12")]
)
def test_unrelated_files_are_not_matched(tmp_path: Path, mask: str, image: str) -> None:
    """One image has lost its mask, another mask its image."""
    for name, odd in (("images", mask), ("masks", image)):
        touch(tmp_path / name, *(f"{stem}.png" for stem in ("IMG_1", "IMG_2", odd)))
    stems, problems = collected(tmp_path)
    assert stems == ["IMG_1", "IMG_2"]
    assert [problem.fix for problem in problems] == ["", ""]
