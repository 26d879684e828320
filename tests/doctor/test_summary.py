from pathlib import Path

import numpy as np
import pytest

from plainunet.config import DataConfig
from plainunet.dataset.coding import MaskCounts, Values
from plainunet.dataset.pairs import Pair
from plainunet.doctor.diagnose import summarise
from plainunet.doctor.images import Look
from plainunet.doctor.masks import Contents

PAIRS = [Pair(Path(f"{n}.png"), Path(f"{n}_m.png"), f"g{n // 2}", "train") for n in range(4)]
LOOKS = [Look("png", (20, 30, 1 + 2 * (n > 0)), "uint8", 0, 9, str(n), b"") for n in range(4)]
COUNTS = [
    MaskCounts(
        pair.mask, (20, 30), np.array([0, 1, 2]), np.array([300, 200, 100]),
        "", "png", False, False,
    )
    for pair in PAIRS
]  # fmt: skip


def contents(pixels: list[int]) -> Contents:
    rows = np.array([pixels] * 4)
    coding = Values((0, 1, 2), 255)
    return Contents(coding, rows, [pair.mask for pair in PAIRS])


def test_what_a_folder_holds() -> None:
    said = summarise(PAIRS, LOOKS, COUNTS, contents([300, 200, 100]), DataConfig(), {128: 0.9})
    assert (said["pairs"], said["groups"], said["parts"]) == (4, 2, {"train": 4})
    assert said["sizes"] == {"30x20": 4}
    assert said["channels"] == {1: 1, 3: 3}
    assert said["classes"] == ["class 0", "class 1", "class 2"]
    assert list(said["shares"].values()) == pytest.approx([1 / 2, 1 / 3, 1 / 6])
    assert said["in_masks"] == {"class 0": 4, "class 1": 4, "class 2": 4}
    assert said["masks"]["ignore"] == 255
    assert said["census"][2] == {"value": 2, "pixels": 400, "masks": 4}
    assert said["ceiling"] == {128: 0.9}


def test_a_common_foreground_is_shared_among_the_classes() -> None:
    guess = summarise(PAIRS, LOOKS, COUNTS, contents([100, 400, 100]), DataConfig(), {})[
        "commonest"
    ]
    share = 4 / 6
    # class 1 scores 2 p / (1 + p), class 2 scores 0
    assert guess["dice"] == pytest.approx(2 * share / (1 + share) / 2)
    assert guess["class"] == "class 1"


def test_names_are_taken_where_they_fit() -> None:
    for classes, wanted in ((("a", "b", "c"), "a"), (("a", "b"), "class 0")):
        said = summarise(PAIRS, LOOKS, COUNTS, contents([3, 2, 1]), DataConfig(classes=classes), {})
        assert said["classes"][0] == wanted


def test_without_sense_there_are_no_classes() -> None:
    said = summarise(PAIRS, LOOKS, COUNTS, None, DataConfig(), {})
    assert (said["classes"], said["shares"], said["pairs"]) == ([], {}, 4)
