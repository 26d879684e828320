from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from plainunet.dataset.classes import understand_masks
from plainunet.dataset.coding import MaskCoding, foreground_shares
from plainunet.formats.masks import read_mask

RANDOM = np.random.default_rng(0)
IDS = RANDOM.integers(0, 4, (20, 30), dtype=np.uint8)
SHAPES = st.tuples(st.integers(1, 9), st.integers(1, 9))


def save(path: Path, values: object) -> Path:
    Image.fromarray(np.asarray(values)).save(path)
    return path


# coding


def test_encode() -> None:
    coding = MaskCoding((0, 255), None, "two values")
    encoded = coding.encode(np.array([[0, 255], [255, 0]], np.uint8))
    assert encoded.dtype == np.uint8
    np.testing.assert_array_equal(encoded, [[0, 1], [1, 0]])
    assert coding.num_classes == 2


def test_encode_with_ignored_pixels() -> None:
    coding = MaskCoding((0, 1, 2), 11, "ids")
    np.testing.assert_array_equal(coding.encode(np.array([[0, 2, 11]], np.uint8)), [[0, 2, 255]])
    np.testing.assert_array_equal(coding.encode(np.array([[0, 2, 11]], np.uint16)), [[0, 2, 255]])


def test_encode_instances() -> None:
    coding = MaskCoding((0, 1), 65535, "instances")
    mask = np.array([[0, 1, 2, 300, 65535]], np.uint16)
    np.testing.assert_array_equal(coding.encode(mask), [[0, 1, 1, 1, 255]])


def test_encode_names_what_it_does_not_know() -> None:
    coding = MaskCoding((0, 255), None, "two values")
    mask = np.array([[0, 255, 7, 7]], np.uint8)
    with pytest.raises(ValueError, match=r"^a/b\.png has 2 pixels of value 7; known are 0, 255"):
        coding.encode(mask, Path("a/b.png"))
    with pytest.raises(ValueError, match=r"^the mask has 2 pixels of value 7"):
        coding.encode(mask)


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
    np.testing.assert_array_equal(MaskCoding(tuple(values), None, "ids").encode(mask), ids)


def test_encode_colours() -> None:
    coding = MaskCoding((0, 1), None, "colors", ((0, 0, 0), (255, 0, 0)))
    mask = np.array([[0x000000, 0xFF0000, 0xF00505, 0x00FF00]], np.uint32)
    encoded = coding.encode(mask)
    assert encoded.dtype == np.uint8
    np.testing.assert_array_equal(encoded, [[0, 1, 1, 255]])


def test_read_is_read_mask_and_encode(tmp_path: Path) -> None:
    path = save(tmp_path / "mask.png", IDS + 10)
    coding = MaskCoding((10, 11, 12, 13), None, "ids")
    np.testing.assert_array_equal(coding.read(path), IDS)
    assert coding.read_stored(path).tolist() == read_mask(path).tolist()
    with pytest.raises(ValueError, match=r"mask\.png has .* of value 13"):
        MaskCoding((10, 11, 12), None, "ids").read(path)


# sets of masks that name classes by colour


# what smoothing and JPEG do to black and white


def test_foreground_shares(tmp_path: Path) -> None:
    half = save(tmp_path / "half.png", np.uint8([[0, 0, 255, 255]]))
    some = save(tmp_path / "some.png", np.uint8([[0, 0, 9, 255]]))
    void = save(tmp_path / "void.png", np.uint8([[9, 9, 9, 9]]))
    coding, _ = understand_masks([half, some, void], ignore=9)
    shares = foreground_shares([half, some, void], coding)
    np.testing.assert_allclose(shares, [0.5, 1 / 3, np.nan])
