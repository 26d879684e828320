"""Codings turn stored values or colours into class ids; the contents of masks are counted."""

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from plainunet.config import DataConfig
from plainunet.dataset.census import MaskCounts, count_all_colors, count_masks
from plainunet.dataset.classes import find_coding
from plainunet.dataset.coding import (
    Coding,
    Colors,
    Instances,
    Threshold,
    Values,
    coding_from_json,
    coding_to_json,
    foreground_shares,
)
from plainunet.formats.masks import read_mask
from plainunet.formats.problems import DataError

from ..folders import save

RANDOM = np.random.default_rng(0)
IDS = RANDOM.integers(0, 4, (20, 30), dtype=np.uint8)
SHAPES = st.tuples(st.integers(1, 9), st.integers(1, 9))


@pytest.mark.parametrize(
    ("coding", "dtype", "stored", "wanted"),
    [
        (Values((0, 255)), np.uint8, [0, 255, 255, 0], [0, 1, 1, 0]),
        (Values((0, 1, 2), 11), np.uint8, [0, 2, 11], [0, 2, 255]),
        (Values((0, 1, 2), 11), np.uint16, [0, 2, 11], [0, 2, 255]),
        (Instances(65535), np.uint16, [0, 1, 2, 300, 65535], [0, 1, 1, 1, 255]),
        (Threshold(255), np.uint8, [0, 127, 128, 255], [0, 0, 1, 255]),
        (
            Colors(((0, 0, 0), (255, 0, 0))),
            np.uint32,
            [0x000000, 0xFF0000, 0xF00505, 0x00FF00],
            [0, 1, 1, 255],
        ),
    ],
)
def test_encode(coding: Coding, dtype: Any, stored: list[int], wanted: list[int]) -> None:
    values = np.array([stored], dtype)
    encoded = coding.encode(values)
    assert encoded.dtype == np.uint8
    assert encoded.tolist() == [wanted]
    counts = np.bincount(encoded[encoded < 255], minlength=coding.num_classes)
    assert coding.count(values[0], np.ones(len(stored), np.int64)).tolist() == counts.tolist()


def test_encode_names_unknown_values() -> None:
    coding = Values((0, 255))
    mask = np.array([[0, 255, 7, 7]], np.uint8)
    with pytest.raises(ValueError, match=r"^a/b\.png .*\b2\b.*\b7\b.*\b0, 255\b"):
        coding.encode(mask, Path("a/b.png"))
    with pytest.raises(ValueError, match=r"\b2\b.*\b7\b"):
        coding.encode(mask)
    assert coding.count(np.array([0, 7, 255]), np.array([3, 2, 1])).tolist() == [3, 1]


@given(
    values=st.lists(st.integers(0, 65535), min_size=2, max_size=255, unique=True),
    shape=SHAPES,
    seed=st.integers(0, 99),
)
def test_encode_turns_the_nth_value_into_n(
    values: list[int], shape: tuple[int, int], seed: int
) -> None:
    ids = np.random.default_rng(seed).integers(0, len(values), shape)
    mask = np.array(values, np.uint16)[ids]
    np.testing.assert_array_equal(Values(tuple(values)).encode(mask), ids)


def test_read_is_read_mask_and_encode(tmp_path: Path) -> None:
    path = save(tmp_path / "mask.png", IDS + 10)
    coding = Values((10, 11, 12, 13))
    np.testing.assert_array_equal(coding.read(path), IDS)
    assert coding.read_stored(path).tolist() == read_mask(path).tolist()
    with pytest.raises(ValueError, match=r"mask\.png .* 13"):
        Values((10, 11, 12)).read(path)


def test_foreground_shares(tmp_path: Path) -> None:
    half = save(tmp_path / "half.png", np.uint8([[0, 0, 255, 255]]))
    some = save(tmp_path / "some.png", np.uint8([[0, 0, 9, 255]]))
    void = save(tmp_path / "void.png", np.uint8([[9, 9, 9, 9]]))
    coding, _ = find_coding([half, some, void], DataConfig(ignore=9))
    shares = foreground_shares([half, some, void], coding)
    np.testing.assert_allclose(shares, [0.5, 1 / 3, np.nan])


EVERY_KIND = [
    (Values((0, 1, 2)), "ids"),
    (Values((1, 2, 3), 0), "ids"),
    (Values((0, 255), 7), "two values"),
    (Values((200, 7, 100)), "values"),
    (Threshold(9), "threshold"),
    (Instances(65535), "instances"),
    (Colors(((0, 0, 0), (255, 0, 16)), 255), "colors"),
]


@pytest.mark.parametrize(("coding", "kind"), EVERY_KIND)
def test_codings_survive_a_checkpoint_and_pickling(coding: Coding, kind: str) -> None:
    assert coding.kind == kind
    assert coding_from_json(json.loads(json.dumps(coding_to_json(coding)))) == coding
    assert pickle.loads(pickle.dumps(coding)) == coding


def test_values_are_counted(tmp_path: Path) -> None:
    mask = np.array([[0, 0, 7], [0, 255, 7], [0, 7, 7]], np.uint8)
    deep = np.array([[0, 300], [300, 2]], np.uint16)
    paths = [save(tmp_path / "a.png", mask), save(tmp_path / "b.png", deep)]
    shallow, deeper = count_masks(paths)
    assert isinstance(shallow, MaskCounts)
    assert isinstance(deeper, MaskCounts)
    assert (shallow.size, shallow.kind, shallow.is_deep) == ((3, 3), "png", False)
    assert shallow.values.tolist() == [0, 7, 255]
    assert shallow.pixels.tolist() == [4, 4, 1]
    assert deeper.is_deep
    assert deeper.values.tolist() == [0, 2, 300]


@pytest.mark.parametrize("colored", [False, True])
def test_equal_masks_have_equal_digests(tmp_path: Path, colored: bool) -> None:
    mask = np.array([[0, 1], [1, 1]], np.uint8)
    masks = [mask, mask, mask.T[::-1], mask.reshape(1, 4), np.ones_like(mask)]
    paths = []
    for n, each in enumerate(masks):
        stored = np.where(each[..., None] > 0, np.uint8([255, 0, 0]), 0) if colored else each
        paths.append(save(tmp_path / f"{n}.{'gif' if n == 1 and not colored else 'png'}", stored))
    digests = [each.digest for each in count_masks(paths) if isinstance(each, MaskCounts)]
    assert digests[0] == digests[1]
    assert len(set(digests[1:])) == 4
    assert digests[4] == ""  # masks of a single value are all equal


def test_coloured_masks_differ(tmp_path: Path) -> None:
    colored = save(tmp_path / "a.png", np.array([[[255, 0, 0], [0, 0, 0]]], np.uint8))
    (count,) = count_masks([colored])
    assert isinstance(count, MaskCounts)
    assert count.is_colored
    assert count.size == (1, 2)
    ((colors, pixels, _),) = count_all_colors([colored])
    assert (colors.tolist(), pixels.tolist()) == ([0, 0xFF0000], [1, 1])


def test_errors_keep_the_order(tmp_path: Path) -> None:
    good = save(tmp_path / "a.png", np.eye(3, dtype=np.uint8))
    (tmp_path / "b.png").write_bytes(good.read_bytes()[:-9])
    first, second, third = count_masks([good, tmp_path / "b.png", tmp_path / "c.png"])
    assert isinstance(first, MaskCounts)
    assert isinstance(second, DataError)
    assert second.code == "cut-off"
    assert isinstance(third, DataError)
    assert third.code == "missing-file"
