"""Windows of images have the values of whole images."""

import re
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import tifffile

from plainunet.formats import windows
from plainunet.formats.images import read_image
from plainunet.formats.windows import ArrayWindows, TiffWindows, open_windows

RNG = np.random.default_rng(0)
COLOURS = RNG.integers(0, 256, (150, 211, 3), dtype=np.uint8)
DEEP = RNG.integers(0, 65536, (150, 211, 1), dtype=np.uint16)
BANDS = RNG.integers(0, 65536, (150, 211, 5), dtype=np.uint16)

FILES: dict[str, tuple[np.ndarray, dict[str, Any]]] = {
    "tiles": (COLOURS, {"tile": (32, 48), "photometric": "rgb"}),
    "tiles deflated": (COLOURS, {"tile": (64, 64), "photometric": "rgb", "compression": "zlib"}),
    "predictor": (DEEP, {"tile": (16, 16), "compression": "zlib", "predictor": True}),
    "strips": (COLOURS, {"rowsperstrip": 7, "photometric": "rgb"}),
    "strips deflated": (DEEP, {"rowsperstrip": 7, "compression": "zlib"}),
    "big-endian": (DEEP, {"tile": (64, 32), "byteorder": ">"}),
    "BigTIFF": (COLOURS, {"tile": (64, 32), "photometric": "rgb", "bigtiff": True}),
    "bands": (BANDS, {"tile": (64, 32), "photometric": "minisblack", "planarconfig": "contig"}),
    "planes": (BANDS, {"tile": (64, 32), "photometric": "minisblack", "planarconfig": "separate"}),
    "planes in strips": (
        COLOURS,
        {"rowsperstrip": 11, "photometric": "rgb", "planarconfig": "separate"},
    ),
    "white is 0": (DEEP, {"rowsperstrip": 11, "photometric": "miniswhite"}),
    "floats": (DEEP.astype(np.float32) / 7, {"tile": (64, 32)}),
    "doubles": (DEEP.astype(np.float64) / 7, {"tile": (64, 32)}),
}


def write(path: Path, name: str) -> Path:
    image, options = FILES[name]
    options = dict(options)
    given = {key: options.pop(key) for key in ("bigtiff", "byteorder") if key in options}
    stored = image[..., 0] if image.shape[2] == 1 else image
    if options.get("planarconfig") == "separate":
        stored = np.moveaxis(image, 2, 0)
    with tifffile.TiffWriter(path, **given) as file:
        file.write(stored, **options)
    return path


@pytest.mark.parametrize("name", FILES)
def test_windows_are_parts_of_the_image(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "a.tif", name)
    whole = read_image(path)
    monkeypatch.setattr(windows, "KEPT", 4000)  # a segment or two
    with open_windows(path, most=0) as opened:
        assert isinstance(opened, TiffWindows)
        assert opened.shape == whole.shape
        assert opened.dtype == whole.dtype
        places = [(0, 0, 150, 211), (0, 0, 1, 1), (149, 210, 1, 1), (140, 200, 99, 99)]
        places += [tuple(RNG.integers((0, 0, 1, 1), (140, 200, 80, 80))) for _ in range(30)]
        for top, left, height, width in places:
            part = opened.read(top, left, height, width)
            assert part.dtype == whole.dtype
            assert np.array_equal(part, whole[top : top + height, left : left + width])
        assert len(opened._kept) <= 160


def test_a_band_of_windows_decodes_each_segment_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "a.tif", "strips deflated")
    decoded: list[int] = []
    decode = TiffWindows._decode

    def counted(self: TiffWindows, number: int) -> np.ndarray:
        decoded.append(number)
        return decode(self, number)

    monkeypatch.setattr(TiffWindows, "_decode", counted)
    with open_windows(path, most=0) as opened:
        for top in range(0, 150, 40):
            for left in range(0, 211, 50):
                opened.read(top, left, 60, 70)
    assert sorted(decoded) == list(range(-(-150 // 7)))


def test_other_images_are_read_whole_if_they_are_small_enough(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    cv2.imwrite(str(path), COLOURS)
    with open_windows(path, most=COLOURS.nbytes) as opened:
        assert isinstance(opened, ArrayWindows)
        assert np.array_equal(opened.read(3, 5, 20, 30), read_image(path)[3:23, 5:35])
    with (
        pytest.raises(ValueError, match=r"211 x 150\b") as caught,
        open_windows(path, most=COLOURS.nbytes - 1),
    ):
        pass
    assert "gdal_translate" in str(caught.value)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("one strip", {"rowsperstrip": 150, "compression": "zlib"}),
        ("palette", {"photometric": "palette", "colormap": np.zeros((3, 256), np.uint16)}),
        ("turned", {"tile": (16, 16), "extratags": [(274, 3, 1, 6, True)]}),
        ("LZW", {"tile": (16, 16)}),
    ],
)
def test_what_cannot_be_read_in_parts_is_read_whole_or_refused(
    tmp_path: Path, name: str, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(windows, "LARGEST", 20_000)
    path = tmp_path / "a.tif"
    if name == "LZW":
        from PIL import Image

        Image.fromarray(COLOURS[..., 0]).save(path, compression="tiff_lzw")
    else:
        tifffile.imwrite(path, COLOURS[..., 0], **options)
    with open_windows(path, most=10**6) as opened:
        assert isinstance(opened, ArrayWindows)
        assert np.array_equal(opened.read(3, 5, 20, 30), read_image(path)[3:23, 5:35])
    with pytest.raises(ValueError, match="gdal_translate"), open_windows(path, most=1000):
        pass


def test_pages_that_are_slices_are_refused_as_ever(tmp_path: Path) -> None:
    path = tmp_path / "stack.tif"
    tifffile.imwrite(path, np.zeros((3, 40, 50), np.uint8), photometric="minisblack")
    with pytest.raises(ValueError, match=r"stack\.tif .*\b3\b"), open_windows(path, most=10**6):
        pass


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tif", "tiles")
    content = bytearray(path.read_bytes())
    content[4:8] = (len(content) - 3).to_bytes(4, "little")  # where its list of tags should be
    path.write_bytes(content)
    with pytest.raises(ValueError, match=re.escape(str(path))), open_windows(path, most=0):
        pass
