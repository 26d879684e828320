from pathlib import Path

import pytest

from plainunet.formats.sources import Page, parse_image
from plainunet.prediction.predict import list_names, mask_paths, refuse_pictures


def names(images: list[str]) -> list[str]:
    paths = mask_paths([parse_image(image) for image in images], Path("/out"))
    return [path.relative_to("/out").as_posix() for path in paths]


@pytest.mark.parametrize(
    ("images", "wanted"),
    [
        (["/d/a.jpg"], ["a.png"]),
        (["/d/x/a.jpg", "/d/y/b.jpg"], ["a.png", "b.png"]),
        (["/d/x/a.jpg", "/d/y/a.jpg"], ["x/a.png", "y/a.png"]),
        (["/d/x/a.jpg", "/d/y/a.png", "/d/b.png"], ["x/a.png", "y/a.png", "b.png"]),
        (["/d/a.jpg", "/d/x/a.jpg"], ["a.png", "x/a.png"]),
        (["/d/x/a.jpg", "/d/x/a.png", "/d/y/a.png"], ["x/a.jpg.png", "x/a.png.png", "y/a.png"]),
        (["/d/a.b.jpg", "/d/a.c.jpg"], ["a.b.png", "a.c.png"]),
        (["/d/a.jpg", "/e/a.jpg"], ["d/a.png", "e/a.png"]),
    ],
)
def test_names(images: list[str], wanted: list[str]) -> None:
    assert names(images) == wanted


@pytest.mark.parametrize(
    "images",
    [
        ["/d/a.jpg", "/d/a.png", "/d/a.jpg.tif"],
        ["/d/a.jpg", "/d/a.png", "/d/a.jpg.tif", "/d/a.jpg.gif"],
        ["/d/x/a.jpg", "/d/x/a.png", "/d/x/a.png.bmp", "/d/y/a.png"],
    ],
)
def test_each_picture_has_a_mask_of_its_own(images: list[str]) -> None:
    assert len(set(names(images))) == len(images)


def test_masks_stay_in_their_folder() -> None:
    """A path with ".." must not lead out of it."""
    for name in names(["/d/x/../y/a.jpg", "/d/x/a.jpg"]):
        assert ".." not in Path(name).parts


def test_slices_are_numbered() -> None:
    assert names(["/d/s.tif[0]", "/d/s.tif[11]", "/d/a.png"]) == ["s_0.png", "s_11.png", "a.png"]
    assert names(["/d/s.tif[0]", "/d/s_0.png"]) == ["s.tif[0].png", "s_0.png.png"]


@pytest.mark.parametrize(
    ("images", "wanted"),
    [
        (["/d/x/a.jpg", "/d/y/b.jpg"], ["a.jpg", "b.jpg"]),
        (["/d/x/a.jpg", "/d/y/a.jpg", "/d/y/b.jpg"], ["x/a.jpg", "y/a.jpg", "b.jpg"]),
        (["/d/x/a.jpg", "/d/x/a.png"], ["a.jpg", "a.png"]),
        ([], []),
    ],
)
def test_names_in_lists(images: list[str], wanted: list[str]) -> None:
    assert list_names([Path(image) for image in images]) == wanted


def test_a_slice_of_a_stack_among_the_masks(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="holds the pictures"):
        refuse_pictures([Page(tmp_path / "s.tif", 3)], [tmp_path / "s_3.png"])
    refuse_pictures([Page(tmp_path / "s.tif", 3)], [tmp_path / "out" / "s_3.png"])
