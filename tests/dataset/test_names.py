import unicodedata
from pathlib import Path

import pytest

from plainunet.dataset.matching import match_names, split_names
from plainunet.formats.problems import first_five


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
def test_beginnings_and_endings(image: str, mask: str) -> None:
    images = files(*(image.format(stem) for stem in STEMS))
    masks = files(*(mask.format(stem) for stem in reversed(STEMS)))
    joined = match_names(images, masks)
    assert [(ours[1], theirs[1]) for ours, theirs in joined.items()] == [
        (image.format(stem), mask.format(stem)) for stem in STEMS
    ]


@pytest.mark.parametrize(
    ("images", "masks"),
    [
        (("car1_01", "car2_01"), ("car1_02", "car2_02")),  # another view, not a mask
        (("1", "2", "3"), ("10", "20", "30")),  # a number is not cut in two
        (("1", "2", "3"), ("11", "12", "13")),
        (("1_img", "2_img"), ("3_mask", "4_mask")),
        (("a", "b"), ("x", "y")),
    ],
)
def test_what_does_not_belong_together(images: tuple[str, ...], masks: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match=rf"{len(images)} pictures have no mask .*--pairs"):
        match_names(files(*images), files(*masks))


def test_case_may_differ_where_nothing_else_would_fit() -> None:
    images, masks = files("IMG_1", "IMG_2", where="Day"), files("img_1_M", "img_2_M", where="day")
    assert [mask[1] for mask in match_names(images, masks).values()] == ["img_1_M", "img_2_M"]
    images, masks = files("a", "A"), files("A", "a")
    assert match_names(images, masks) == {(".", "a"): (".", "a"), (".", "A"): (".", "A")}


def test_the_nearest_name_is_said() -> None:
    images = files("street_1_img", "street_2_img", "street_3_img", "streat_4_img")
    masks = files(*(f"street_{number}_mask" for number in range(1, 5)))
    with pytest.raises(ValueError, match=r"streat_4_img\.png \(nearest: street_4_mask\.png\)"):
        match_names(images, masks)


def test_as_they_are() -> None:
    with pytest.raises(ValueError, match=r"2 pictures have no mask \(named like the picture\)"):
        match_names(files("1", "2"), files("1_m", "2_m"), as_they_are=True)


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
    with pytest.raises(ValueError, match=r"1 pictures have no mask .*'_mask'\): c\.png"):
        match_names(images, masks)


def test_a_folder_without_masks() -> None:
    for stems in (("cat", "cat_2", "dog", "x", "y"), STEMS, ("f_1", "f_2", "f_3"), ()):
        assert split_names(files(*stems)) == (files(*stems), {})


def test_first_five() -> None:
    assert first_five(range(5)) == "0, 1, 2, 3, 4"
    assert first_five(range(7)) == "0, 1, 2, 3, 4 and 2 more"


def test_stems_are_compared_letter_by_letter() -> None:
    # find_pairs brings both into one form first
    decomposed = unicodedata.normalize("NFD", "ü")
    with pytest.raises(ValueError, match="1 pictures have no mask"):
        match_names(files("ü"), files(decomposed))


def test_one_pair_alone_is_known_by_its_words() -> None:
    files = {("", name): Path(name) for name in ("train-volume", "train-labels")}
    images, masks = split_names(files)
    assert match_names(images, masks) == {("", "train-volume"): ("", "train-labels")}
    with pytest.raises(ValueError, match="no mask"):
        match_names({("", "train-one"): Path("a")}, {("", "train-two"): Path("b")})
