from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from plainunet.formats.encoded import array_shape, read_array, read_mask_array
from plainunet.formats.images import image_shape, read_image

RANDOM = np.random.default_rng(0)
GREY = RANDOM.integers(0, 256, (20, 30), dtype=np.uint8)
PATH = Path("some.npy")
TYPES = ["?", "u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "f2", "f4", "f8"]


def encode(array: np.ndarray, **options: object) -> BytesIO:
    file = BytesIO()
    np.save(file, array, **options)
    file.seek(0)
    return file


@given(data=st.data())
@pytest.mark.parametrize("dtype", TYPES)
def test_what_is_written_is_read_back(dtype: str, data: st.DataObject) -> None:
    side = st.integers(1, 9)
    shape = data.draw(st.tuples(side, side) | st.tuples(st.just(9), side, side))
    order = data.draw(st.sampled_from("<>"))
    array = data.draw(hnp.arrays(np.dtype(dtype).newbyteorder(order), shape))
    if data.draw(st.booleans()):
        array = np.asfortranarray(array)
    read = read_array(encode(array), PATH)
    assert read.dtype == np.dtype(dtype)
    assert read.dtype.isnative
    assert read.flags.c_contiguous
    np.testing.assert_array_equal(read, array.reshape(*shape[:2], -1))
    assert array_shape(encode(array), PATH) == read.shape


def test_the_shape_is_read_from_the_header_of_a_large_file(tmp_path: Path) -> None:
    path = tmp_path / "large.npy"
    shape = (100_000, 100_000, 3)
    with path.open("wb") as file:
        header = {"descr": "|u1", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(file, header)
        file.truncate(file.tell() + 3 * 10**10)  # a hole, which takes no room on the disk
    assert image_shape(path) == shape


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.array([[None, {}]]), r"holds Python objects, not plain numbers.*astype\(np\.uint8\)"),
        (np.zeros((4, 5), np.complex64), "holds values of type complex64"),
        (np.full((4, 5), "car"), "holds values of type <U3"),
        (np.zeros((4, 5), [("a", "u1"), ("b", "u1")]), "holds values of type"),
        (np.array(3), r"has 0 axes, \[\]; a picture has \[H, W\]"),
        (np.zeros(7), r"has 1 axes, \[7\]"),
        (np.zeros((2, 4, 5, 3)), r"has 4 axes, \[2, 4, 5, 3\].*an array of its own"),
        (np.zeros((0, 5)), r"is empty, \[0, 5\]"),
        (np.zeros((3, 40, 50)), r"is \[3, 40, 50\], which looks like \[C, H, W\].*np\.moveaxis"),
        (np.zeros((1, 40, 50)), r".*looks like \[C, H, W\]"),
        (np.zeros((32, 40, 50)), r".*looks like \[C, H, W\]"),
    ],
)
def test_what_is_no_picture_is_refused_with_the_cure(array: np.ndarray, message: str) -> None:
    for read in (read_array, array_shape, read_mask_array):
        with pytest.raises(ValueError, match=rf"some\.npy {message}"):
            read(encode(array), PATH)


@pytest.mark.parametrize("shape", [(33, 40, 50), (20, 30, 3), (3, 40, 3), (8, 8, 8), (2, 2)])
def test_what_may_be_a_picture_is_none_of_that(shape: tuple[int, ...]) -> None:
    assert array_shape(encode(np.zeros(shape)), PATH)[:2] == shape[:2]


def test_objects_are_never_unpickled() -> None:
    class Trap:
        def __reduce__(self) -> tuple[Callable[[str], object], tuple[str]]:
            return pytest.fail, ("the file was executed",)

    with pytest.raises(ValueError, match="Python objects"):
        read_array(encode(np.array([[Trap()]], object), allow_pickle=True), PATH)


@pytest.mark.parametrize("fraction", [0.0, 0.001, 0.05, 0.15, 0.3, 0.9, 0.999])
def test_a_cut_file_is_refused_by_name(tmp_path: Path, fraction: float) -> None:
    data = encode(GREY).getvalue()
    path = tmp_path / "cut.npy"
    path.write_bytes(data[: int(len(data) * fraction)])
    for read in (read_image, image_shape):
        with pytest.raises(ValueError, match=r"cut\.npy (is|cannot).*(Copy|remove)"):
            read(path)


@pytest.mark.parametrize(
    ("old", "new"), [(b"{", b"("), (b"}", b" "), (b"'shape'", b"'shapf'"), (b"|u1", b"|q9")]
)
def test_a_damaged_header_is_refused_by_name(tmp_path: Path, old: bytes, new: bytes) -> None:
    path = tmp_path / "damaged.npy"
    path.write_bytes(encode(GREY).getvalue().replace(old, new, 1))
    for read in (read_image, image_shape):
        with pytest.raises(ValueError, match=r"damaged\.npy cannot be decoded"):
            read(path)


def test_another_version_is_refused_by_name() -> None:
    file = BytesIO()
    np.lib.format.write_array(file, GREY, version=(2, 0))
    np.testing.assert_array_equal(read_array(file, PATH)[..., 0], GREY)
    file = BytesIO()
    np.lib.format.write_array(file, np.zeros((2, 2), [("é", "u1")]), version=(3, 0))
    with pytest.raises(ValueError, match=r"some\.npy is a \.npy file of version 3\.0"):
        read_array(file, PATH)


def test_a_mask_has_one_channel() -> None:
    for array in (GREY, GREY[..., None]):
        np.testing.assert_array_equal(read_mask_array(encode(array), PATH), GREY)
    with pytest.raises(ValueError, match=r"some\.npy has 2 channels.*np\.argmax"):
        read_mask_array(encode(np.stack([GREY, GREY], -1)), PATH)
