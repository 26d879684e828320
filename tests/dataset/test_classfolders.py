import re
from collections.abc import Callable
from pathlib import Path

import pytest

from plainunet.dataset.matching import Key, join_classes, match_names

CountCalls = Callable[[Callable[[], object]], int]


def keys(root: str, *names: str) -> dict[Key, Path]:
    files = [Path(root, name) for name in names]
    return {(str(file.parent.relative_to(root)), file.stem): file for file in files}


def join(images: list[str], masks: list[str]) -> dict[str, str] | None:
    pictures = keys("d/images", *images)
    joined = join_classes(pictures, keys("d/masks", *masks))
    if joined is None:
        return None
    partners = match_names(pictures, joined)
    return {"/".join(key).removeprefix("./"): str(joined[mask]) for key, mask in partners.items()}


def test_a_folder_for_each_class() -> None:
    masks = ["road/1.png", "car/1.png", "Background/1.png", "car/2.png"]
    assert join(["1.jpg", "2.jpg"], masks) == {
        "1": "d/masks/{Background,car,road}/1.png",
        "2": "d/masks/{Background,car,road}/2.png",
    }


@pytest.mark.parametrize("pattern", ["{part}/{name}", "{name}/{part}"])
def test_parts_above_or_below_the_classes(pattern: str) -> None:
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
def test_names_that_hold_the_class(pattern: str) -> None:
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
    message = f"{re.escape(masks[0])} and .*{re.escape(masks[1])} cannot be joined"
    with pytest.raises(ValueError, match=message):
        join(["1.jpg"], masks)


def test_the_work_of_joining_grows_with_the_masks(count_calls: CountCalls) -> None:
    calls = {}
    for count in (500, 1000):
        images = {(".", str(n)): Path(f"d/images/{n}.jpg") for n in range(count)}
        masks = {(c, str(n)): Path(f"d/masks/{c}/{n}.png") for c in "abcd" for n in range(count)}
        joined = join_classes(images, masks)
        assert joined is not None
        assert len(joined) == count
        assert joined[".", "7"].files["c"] == Path("d/masks/c/7.png")
        calls[count] = count_calls(lambda i=images, m=masks: join_classes(i, m))
    assert calls[1000] < 2.5 * calls[500]
