from pathlib import Path

import pytest

from plainunet.config import DataConfig
from plainunet.dataset.classes import describe, write_understood
from plainunet.dataset.coding import MaskCoding
from plainunet.dataset.pairs import find_pairs
from plainunet.settings import read_dataset, with_dataset


@pytest.mark.parametrize(
    ("coding", "said"),
    [
        (MaskCoding((0, 255), None, "two values"), {"values": (0, 255)}),
        (MaskCoding((0, 1, 2), 9, "ids"), {"values": (0, 1, 2), "ignore": 9}),
        (MaskCoding((0, 1), None, "instances"), {"encoding": "instances"}),
        (MaskCoding((0, 255), None, "threshold"), {"encoding": "threshold"}),
        (
            MaskCoding((0, 1), None, "colors", ((0, 0, 0), (255, 0, 16))),
            {"colors": ("000000", "ff0010")},
        ),
    ],
)
def test_what_a_coding_says(coding: MaskCoding, said: dict[str, object]) -> None:
    assert describe(coding, ("a", "b")) == DataConfig(pairs="split.csv", classes=("a", "b"), **said)


def test_a_folder_says_what_was_understood(small_data: Path) -> None:
    pairs = find_pairs(small_data)
    said = describe(MaskCoding((0, 255), None, "two values"), ("ground", "box"))
    files = write_understood(small_data, pairs[1:], said)
    assert [file.name for file in files] == ["split.csv", "dataset.toml"]
    config = with_dataset(DataConfig(), small_data)
    assert (config.classes, config.values) == (("ground", "box"), (0, 255))
    again = find_pairs(small_data, **config.folder_arguments())
    assert [(pair.image, pair.mask, pair.group) for pair in again] == [
        (pair.image, pair.mask, pair.group) for pair in pairs[1:]
    ]
    assert {pair.part for pair in again} == {None}


def test_what_was_there_is_kept(small_data: Path) -> None:
    (small_data / "dataset.toml").write_text('classes = ["mine", "yours"]\n')
    said = describe(MaskCoding((0, 255), None, "two values"), ())
    write_understood(small_data, find_pairs(small_data), said)
    assert (small_data / "dataset.toml.bak").read_text() == 'classes = ["mine", "yours"]\n'
    assert "classes" not in read_dataset(small_data)


def test_no_copy_is_overwritten(small_data: Path) -> None:
    said = describe(MaskCoding((0, 255), None, "two values"), ())
    pairs = find_pairs(small_data)
    for number, text in enumerate(("first", "second", "second", "third")):
        (small_data / "split.csv").write_text(text)
        write_understood(small_data, pairs[number:], said)
    copies = sorted(small_data.glob("split.csv.bak*"))
    assert [copy.read_text() for copy in copies] == ["first", "second", "third"]
