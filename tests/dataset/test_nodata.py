"""Nodata pixels: read, counted, sampled and checked."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch

from plainunet.config import DataConfig, TrainConfig
from plainunet.dataset.classes import find_coding
from plainunet.dataset.coding import Values
from plainunet.dataset.dataset import SegmentationDataset
from plainunet.dataset.samples import Samples, make_batch
from plainunet.doctor.diagnose import check, fix
from plainunet.formats.images import read_image, read_with_missing
from plainunet.formats.masks import VOID, read_mask
from plainunet.formats.problems import DataError
from plainunet.formats.sources import HERE, ClassFiles, Page
from plainunet.formats.windows import TiffWindows, open_windows
from plainunet.reporter import Collected
from plainunet.training.train import train

from ..folders import draw_scenes, write_tiff

LOWEST = float(np.finfo(np.float32).min)
NAN = float("nan")


@pytest.mark.parametrize(
    ("dtype", "tag", "value", "bands", "missing"),
    [
        *(("float32", "-9999", -9999, bands, True) for bands in (1, 2, 3)),
        ("float32", "-3.4028234663852886e+38", LOWEST, 3, True),
        *(("float32", tag, LOWEST, 3, True) for tag in ("-3.4e+38", "-1.7976931348623157e+308")),
        ("float64", "-1.7976931348623157e+308", np.finfo(float).min, 3, True),
        *(("float32", tag, NAN, 1, True) for tag in ("nan", "-9999", None)),
        *(("float32", None, sign * LOWEST, 1, True) for sign in (1, -1)),
        ("float64", None, np.finfo(float).min, 3, True),
        *((dtype, None, -9999, 3, False) for dtype in ("float32", "int16")),  # a real value?
        ("float32", "-32767.1", np.float32(-32767.1), 3, True),
        *(("float32", "0", 0, bands, bands == 3) for bands in (1, 3)),
        ("int16", "-32768", -32768, 1, True),
        *(("uint8", "0", 0, bands, bands == 3) for bands in (1, 3)),
        ("uint16", "65535.0", 65535, 3, True),
        *(("uint8", tag, 0, 3, False) for tag in ("-9999", "nan", "none", "255", "0.5", None)),
    ],
)
def test_which_pixels_exist(
    tmp_path: Path, dtype: str, tag: str | None, value: float, bands: int, missing: bool
) -> None:
    random = np.random.default_rng(0)
    stored = random.integers(1, 99, (2, 40, 48, 3)).astype(dtype)
    corner = np.zeros((40, 48), np.bool_)
    corner[:20, :32] = True
    stored[0, :20, :32, :bands] = value
    path = write_tiff(tmp_path / "a.tif", stored[0], tag, tile=(16, 16))
    image, found = read_with_missing(path)
    assert (found is not None) == missing
    if found is not None:
        np.testing.assert_array_equal(found, corner)
        expected = stored[0].copy()
        expected[corner] = stored[0][~corner].mean(axis=0)
        np.testing.assert_allclose(image, expected, rtol=1e-6)
    with open_windows(path, 2**20) as windows:
        assert isinstance(windows, TiffWindows) == (dtype != "int16")
        np.testing.assert_allclose(windows.read(8, 8, 30, 99), image[8:38, 8:], rtol=1e-6)
        rows = windows.missing(10, 99)
        assert (rows is not None) == missing
        assert rows is None or (rows == corner[10:]).all()
    stack = write_tiff(tmp_path / "stack.tif", stored, tag)
    np.testing.assert_array_equal(read_image(Page(stack, 0)), image)


@pytest.mark.parametrize(
    ("dtype", "tag", "blocks", "void", "known", "values", "ignore"),
    [
        ("uint8", "0", (0, 1), 0, {}, (0, 1), None),
        ("uint8", "0", (0, 1, 2), 0, {}, (0, 1, 2), None),
        ("uint8", "0", (3, 1, 2), 0, {}, (1, 2, 3), 0),
        ("uint8", "0", (3, 1, 2), 0, {"classes": tuple("abcd")}, (0, 1, 2, 3), None),
        ("uint8", "0", (3, 1, 2), 0, {"classes": tuple("abc")}, (1, 2, 3), 0),
        ("uint8", "0", (0, 1, 2), 0, {"ignore": 0}, (1, 2), 0),
        ("uint8", "0", (0, 3, 2), 0, {"encoding": "instances"}, (0, 1), None),
        ("uint8", "255", (0, 1, 2), 255, {}, (0, 1, 2), 255),
        ("uint8", "255", (0, 1), 255, {}, (0, 1), 255),
        ("uint8", "255", (0, 255), 255, {}, (0, 255), None),
        ("uint8", "9", (0, 1, 2), 9, {}, (0, 1, 2), 9),
        ("uint8", "9", (0, 1, 9), 9, {"values": (0, 1, 9)}, (0, 1, 9), None),
        ("uint16", "65535", (0, 1, 2), 65535, {}, (0, 1, 2), VOID),
        ("int16", "-9999", (0, 1, 2), -9999, {}, (0, 1, 2), VOID),
        ("uint32", "4294967295", (0, 1, 2), 2**32 - 1, {}, (0, 1, 2), VOID),
        ("float32", "-3.4e+38", (0, 1, 2), LOWEST, {}, (0, 1, 2), VOID),
        *(("float32", tag, (0, 1, 2), NAN, {}, (0, 1, 2), VOID) for tag in ("nan", None)),
        ("float32", "-9999", (3, 1, 2), -9999, {}, (1, 2, 3), VOID),
        ("float32", "-9999", (3, 1, 2), -9999, {"classes": tuple("abc")}, (1, 2, 3), VOID),
        ("float32", "-9999", (1,), -9999, {}, (VOID, 1), None),
    ],
)
def test_nodata_of_masks(
    tmp_path: Path,
    dtype: str,
    tag: str | None,
    blocks: Sequence[int],
    void: float,
    known: dict[str, Any],
    values: Sequence[int],
    ignore: int | None,
) -> None:
    masks = []
    for number in range(4):
        mask = np.full((20, 24), blocks[0], dtype)
        for row, value in enumerate(blocks[1:], 2):
            mask[4 * row : 4 * row + 3, 5 + number : 9] = value
        if number == 0:
            mask[:5, :6] = void
        masks.append(write_tiff(tmp_path / f"{number}.tif", mask, tag))
    coding, pixels = find_coding(masks, DataConfig(**known))
    assert (coding.values, coding.ignore) == (values, ignore)
    ids = np.stack([coding.read(mask) for mask in masks])
    assert (ids == 255).any() == (ignore is not None)
    np.testing.assert_array_equal(pixels, [(ids == k).sum() for k in range(len(values))])


def test_nodata_nearly_everywhere_may_be_the_background(tmp_path: Path) -> None:
    """As by gdal_rasterize -init 255 -a_nodata 255."""
    masks = []
    for number in range(4):
        mask = np.full((20, 24), 255, np.uint8)
        mask[4:8, 5:9], mask[12:15, number + 2 : 9] = 1, 2
        masks.append(write_tiff(tmp_path / f"{number}.tif", mask, "255"))
    with pytest.raises(DataError) as raised:
        find_coding(masks)
    assert raised.value.code == "which-background"
    answers = [*raised.value.choices.values()]
    assert answers == [{"values": (255, 1, 2)}, {"values": (1, 2), "ignore": 255}]
    assert find_coding(masks, DataConfig(values=(255, 1, 2)))[0].values == (255, 1, 2)


def test_nodata_outside_polygons(tmp_path: Path) -> None:
    """As QGIS rasterises them: only the user, or the number of names, tells what it means."""
    masks = []
    for number in range(4):
        mask = np.full((20, 24), -9999, np.float32)
        mask[4:8, 5:9], mask[10:14, 5 + number : 12] = 1, 2
        masks.append(write_tiff(tmp_path / f"{number}.tif", mask, "-9999"))
    with pytest.raises(DataError) as raised:
        find_coding(masks)
    assert raised.value.code == "which-background"
    read = [find_coding(masks, DataConfig(**each)) for each in raised.value.choices.values()]
    found = [(each.values, each.ignore) for each, _ in read]
    assert found == [
        ((VOID, 1, 2), None),
        ((1, 2), VOID),
    ]
    coding, pixels = find_coding(masks, DataConfig(classes=("ground", "a", "b")))
    ids = coding.read(masks[0])
    assert (ids[5, 5], ids[0, 0]) == (1, 0)
    assert pixels.tolist() == [4 * 20 * 24 - 64 - 88, 64, 88]


@pytest.mark.parametrize(("void", "values", "ignore"), [(9, (0, 1, 2), 9), (0, (0, 1, 2), None)])
def test_a_legend_names_classes(
    tmp_path: Path, void: int, values: Sequence[int], ignore: int | None
) -> None:
    (tmp_path / "_classes.csv").write_text("Pixel Value, Class\n0, bare\n1, wood\n2, water\n")
    masks = np.ones((4, 20, 24), np.uint8)
    masks[:, 10:] = 2
    masks[0, :5, :6] = void
    files = [write_tiff(tmp_path / f"{n}.tif", mask, str(void)) for n, mask in enumerate(masks)]
    coding, _ = find_coding(files)
    assert (coding.values, coding.ignore) == (values, ignore)
    assert coding.names == ("bare", "wood", "water")


def test_nodata_in_the_file_of_a_class(tmp_path: Path) -> None:
    mask = np.array([[0, 1], [-9999, 1]], np.int16)
    write_tiff(tmp_path / "road.tif", mask, "-9999")
    files = ClassFiles(str(tmp_path / f"{HERE}.tif"), ("road",))
    assert read_mask(files).tolist() == [[0, 1], [0, 1]]


@pytest.mark.parametrize(
    ("dtype", "tag", "value"),
    [("float32", "-9999", -9999), ("float32", None, NAN), ("uint8", "0", 0), ("uint16", "0", 0)],
)
def test_nodata_is_ignored_in_training(
    tmp_path: Path, dtype: str, tag: str | None, value: float
) -> None:
    plain = draw_scenes(tmp_path / "plain", 12, dtype)
    folder = draw_scenes(tmp_path / "nodata", 12, dtype, tag, value)
    dataset = SegmentationDataset.open(folder)
    corner = np.zeros((96, 112), np.bool_)
    corner[:30, :40] = True
    np.testing.assert_array_equal(dataset[0][1] == 255, corner)

    box = 48, 56
    samples, others = (
        Samples(SegmentationDataset.open(each).pairs, dataset.coding, box, objects=True)
        for each in (folder, plain)
    )
    fresh = samples[0]
    samples.fill_cache()
    for part, again in zip(fresh, samples[0], strict=True):
        np.testing.assert_array_equal(part, again)
    assert fresh[0].max() <= others[0][0].max()
    assert not fresh[2][:15, :20].any()
    batch = [torch.from_numpy(np.array(part))[None] for part in fresh[:2]]
    weight = make_batch(batch, torch.device("cpu"))[2][0].numpy()
    np.testing.assert_allclose(weight, np.where(corner[::2, ::2], 0, 1), atol=0.01)
    expected = [others[n][0][(corner[::2, ::2] if n % 4 == 0 else 0) == 0] for n in range(12)]
    scale = np.iinfo(dtype).max if dtype == "uint8" else 1
    pixels = np.concatenate([each.reshape(-1, 3) for each in expected]) / scale
    mean, deviation = samples.statistics()
    np.testing.assert_allclose(mean, pixels.mean(axis=0), rtol=1e-3)
    np.testing.assert_allclose(deviation, pixels.std(axis=0), rtol=1e-3)

    diagnosis, without = check(folder), check(plain)
    assert [each.code for each in diagnosis.findings] == [each.code for each in without.findings]
    truth = np.stack([dataset[n][1] for n in range(12)])
    shares = np.bincount(truth[truth < 255], minlength=3) / (truth < 255).sum()
    assert list(diagnosis.summary["shares"].values()) == pytest.approx(shares.tolist())


def test_an_image_without_pixels(tmp_path: Path) -> None:
    folder = draw_scenes(tmp_path, 8)
    write_tiff(folder / "images" / "0.tif", np.full((96, 112, 3), NAN, np.float32))
    assert not read_image(folder / "images" / "0.tif").any()
    found = {each.code for each in check(folder).findings if each.severity != "note"}
    assert found == {"ignored-mask"}
    assert isinstance(SegmentationDataset.open(folder).coding, Values)


@pytest.mark.parametrize(
    ("dtype", "tag", "value"),
    [
        ("float32", None, -9999),
        ("float32", "-9999", -9999),
        ("float32", "-0.7", -0.7),
        ("int16", None, -32768),
    ],
)
def test_nodata_without_a_tag(tmp_path: Path, dtype: str, tag: str | None, value: float) -> None:
    """Every fourth image has some; with a tag, all but image 4."""
    folder = draw_scenes(tmp_path / "set", 12, dtype, None, value)
    for number in range(12 if tag else 0):
        path = folder / "images" / f"{number}.tif"
        if number != 4:
            write_tiff(path, tifffile.imread(path), tag)
    diagnosis = check(folder)
    found = [each for each in diagnosis.findings if each.code == "untagged-nodata"]
    files = [folder / "images" / f"{number}.tif" for number in ((4,) if tag else (0, 4, 8))]
    assert [each.files for each in found] == [(file,) for file in files]
    assert {each.severity for each in found} == {"warning"}
    stored = [tifffile.imread(file) for file in files]
    fixed = fix(folder, "untagged-nodata", config=DataConfig())
    assert not fixed.left
    corner = np.zeros((96, 112), np.bool_)
    corner[:30, :40] = True
    for file, before in zip(files, stored, strict=True):
        np.testing.assert_array_equal(tifffile.imread(file), before)
        np.testing.assert_array_equal(read_with_missing(file)[1], corner)


def test_training_warns_of_nodata_without_a_tag(tmp_path: Path) -> None:
    folder, heard = draw_scenes(tmp_path / "set", 6, "float32", None, -9999), Collected()
    config = TrainConfig(epochs=1, size=(16, 16), base_channels=2, depth=1)
    train(folder, tmp_path / "run", config, heard)
    assert [each for each in heard.notes if each.startswith("warning") and "-9999" in each]


def test_low_values_are_no_nodata(tmp_path: Path) -> None:
    """-9999 is measured if values lie near; and a tag of another value says so as well."""
    for name, low, tag in (("near", -9000.0, None), ("far", 0.0, "nan")):
        folder = draw_scenes(tmp_path / name, 8, "float32", None, -9999)
        for path in (folder / "images").iterdir():
            image = tifffile.imread(path)
            image[40, 40] = low
            image[41, 41] = 100 * image[41, 41] if tag else 9000
            write_tiff(path, image, tag)
        assert "untagged-nodata" not in {each.code for each in check(folder).findings}
