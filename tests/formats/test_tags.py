from io import BytesIO

import numpy as np
import pytest
import tifffile

from plainunet.formats.slices import TagReader


@pytest.mark.parametrize("bigtiff", [False, True])
@pytest.mark.parametrize("byteorder", ["<", ">"])
def test_tags_are_those_that_tifffile_reads(bigtiff: bool, byteorder: str) -> None:
    file = BytesIO()
    stack = np.zeros((3, 40, 56), np.uint16)
    tifffile.imwrite(
        file, stack, photometric="minisblack", tile=(16, 16), bigtiff=bigtiff, byteorder=byteorder
    )
    reader = TagReader(file)
    at = reader.first
    file.seek(0)
    with tifffile.TiffFile(file) as tiff:
        for page in tiff.pages:
            assert at == page.offset
            listed, at = reader.page(at)
            tags = dict(listed)
            assert reader.numbers(tags[324]) == page.aspage().dataoffsets
            assert reader.number(tags, 256, 0) == 56
            assert reader.number(tags, 32997, 7) == 7
            assert [code for code, _ in listed] == [tag.code for tag in page.aspage().tags]
    assert at == 0


def test_packed_numbers_come_back() -> None:
    for bigtiff in (False, True):
        file = BytesIO()
        tifffile.imwrite(file, np.zeros((4, 4), np.uint8), bigtiff=bigtiff)
        reader = TagReader(file)
        assert reader.numbers(reader.pack_numbers([70_000])) == (70_000,)


def test_a_long_value_is_read_in_part() -> None:
    file = BytesIO()
    tifffile.imwrite(file, np.zeros((4, 4), np.uint8), description="x" * 500, metadata=None)
    reader = TagReader(file)
    tags = dict(reader.page(reader.first)[0])
    assert reader.value(tags[270], 10) == b"x" * 10
    assert len(reader.value(tags[270])) == 501


def test_what_lies_outside_of_the_file_is_not_read() -> None:
    file = BytesIO()
    tifffile.imwrite(file, np.zeros((4, 4), np.uint8))
    reader = TagReader(file)
    with pytest.raises(EOFError, match="its next page begins at 9999"):
        reader.page(9999)
    with pytest.raises(EOFError, match="a tag's value"):
        reader.value((4, 1000, (16).to_bytes(4, "little")))
    reader.size = reader.first + 30
    with pytest.raises(EOFError, match="within the tags"):
        reader.page(reader.first)
