"""Large scenes: blocks that are read where they lie, masks of pixels or polygons, splits."""

import json
import subprocess
import sys
from itertools import count
from pathlib import Path

import numpy as np
import pytest

from plainunet.config import DataConfig, TrainConfig
from plainunet.dataset.coding import Values
from plainunet.dataset.dataset import SegmentationDataset
from plainunet.dataset.pairs import find_pairs
from plainunet.dataset.samples import Samples
from plainunet.dataset.split import read_split, shared_groups, split_pairs, write_split
from plainunet.doctor.diagnose import check
from plainunet.evaluation.evaluate import evaluate
from plainunet.formats.images import read_image, read_with_missing
from plainunet.formats.masks import read_mask
from plainunet.formats.problems import DataError
from plainunet.formats.sources import Polygons, Window, parse_image, parse_source
from plainunet.network.card import Card
from plainunet.network.checkpoint import save_checkpoint
from plainunet.network.unet import UNet
from plainunet.palette import default_colors
from plainunet.reporter import Collected, silent
from plainunet.settings import load_config
from plainunet.training.budget import StepTime
from plainunet.training.train import train
from plainunet.training.training_data import fill_in

from ..scenes import DEGREES, NAMES, Drawn, draw_scene, write_boxes, write_raster

pytest.importorskip("pyogrio", reason="pip install plainunet[geo]")

SIDE = 300
BLOCK = 100


@pytest.fixture
def scene() -> Drawn:
    return draw_scene(SIDE)


@pytest.fixture
def folder(tmp_path: Path, scene: Drawn) -> Path:
    """A folder of one scene, without masks."""
    write_raster(tmp_path / "data" / "images" / "a.tif", scene.image)
    return tmp_path / "data"


def joined(folder: Path, **known: object) -> np.ndarray:
    """The class ids of all blocks of the only scene, each in its place; 99 elsewhere."""
    data = SegmentationDataset.open(folder, DataConfig(block=BLOCK, **known))
    whole = np.full((SIDE, SIDE), 99, np.uint8)
    for number, pair in enumerate(data.pairs):
        at = pair.image
        assert isinstance(at, Window)
        place = whole[at.top : at.top + at.height, at.left : at.left + at.width]
        assert (place == 99).all()  # no block overlaps another
        place[:] = data[number][1]
        assert parse_image(str(at)) == at
        assert parse_source(str(pair.mask)) == pair.mask
    return whole


def test_masks_of_pixels(folder: Path, scene: Drawn, tmp_path: Path) -> None:
    write_raster(folder / "masks" / "a.tif", scene.mask)
    np.testing.assert_array_equal(joined(folder), scene.mask)
    pairs = find_pairs(folder, DataConfig(block=BLOCK))
    assert len(pairs) == 9
    image = np.concatenate([read_image(pair.image) for pair in pairs[:3]], axis=1)
    np.testing.assert_array_equal(image, scene.image[:BLOCK])
    parted = split_pairs(pairs)
    write_split(tmp_path / "split.csv", parted, folder)
    assert read_split(tmp_path / "split.csv", folder) == parted
    assert len({pair.group for pair in pairs}) == 9
    assert {pair.group for pair in find_pairs(folder, DataConfig(block=BLOCK, group_by=".+"))} == {
        "a"
    }
    assert len(find_pairs(folder, DataConfig(block=0), at_least=1)) == 1


@pytest.mark.parametrize("suffix", ["gpkg", "geojson", "shp"])
@pytest.mark.parametrize("named", [False, True])
def test_masks_of_polygons(folder: Path, scene: Drawn, suffix: str, named: bool) -> None:
    crs = DEGREES if suffix == "geojson" else "EPSG:32632"
    write_boxes(folder / "labels" / f"all.{suffix}", scene.boxes, crs=crs)
    masks = {"masks": f"labels/all.{suffix}"} if named else {}
    (folder / "labels" / "all.prj").unlink(missing_ok=True)
    found = joined(folder, class_column="kind", classes=NAMES, **masks)
    np.testing.assert_array_equal(found, scene.mask)
    notes = Collected()
    find_pairs(folder, DataConfig(class_column="kind", **masks), notes, at_least=1)
    assert any(".prj" in note for note in notes.notes) == (suffix == "shp")


def test_one_file_for_each_class(folder: Path, scene: Drawn) -> None:
    for number in (1, 2):
        own = [box for box in scene.boxes if box[4] == number]
        write_boxes(folder / "labels" / f"{NAMES[number]}.gpkg", own, column=None)
    np.testing.assert_array_equal(joined(folder), scene.mask)


def test_one_file_for_each_tile(tmp_path: Path) -> None:
    """As in SpaceNet: buildings_img7.geojson holds the only class of RGB_img7.tif."""
    drawn = [draw_scene(SIDE, seed) for seed in range(3)]
    for number, tile in enumerate(drawn):
        shift = (number * SIDE, 0)
        write_raster(tmp_path / "RGB" / f"RGB_img{number}.tif", tile.image, shift=shift)
        boxes = [(a + number * SIDE, b, c + number * SIDE, d, 1) for a, b, c, d, _ in tile.boxes]
        file = tmp_path / "buildings" / f"buildings_img{number}.geojson"
        write_boxes(file, boxes, column=None, crs=DEGREES)
    write_raster(tmp_path / "RGB" / "RGB_img3.tif", drawn[0].image, shift=(0, SIDE))
    nothing = {"type": "FeatureCollection", "features": []}
    (tmp_path / "buildings" / "buildings_img3.geojson").write_text(json.dumps(nothing))
    data = SegmentationDataset.open(tmp_path, DataConfig(block=0, unlisted="empty"))
    assert data.class_names == ("background", "foreground")
    for number, tile in enumerate(drawn):
        np.testing.assert_array_equal(data[number][1], tile.mask > 0)
    assert not data[3][1].any()


def test_a_usual_column_needs_no_flag(
    folder: Path, scene: Drawn, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_boxes(folder / "all.gpkg", scene.boxes, column="class")
    monkeypatch.chdir(folder.parent)
    data = SegmentationDataset.open(folder.name, DataConfig(block=BLOCK))
    assert data.class_names == NAMES
    assert data.class_pixels == tuple(np.bincount(scene.mask.ravel()))


@pytest.mark.parametrize("given", [None, "height"])
def test_which_column(folder: Path, scene: Drawn, given: str | None) -> None:
    write_boxes(folder / "all.gpkg", scene.boxes)
    known = DataConfig(block=BLOCK, class_column=given)
    with pytest.raises(DataError) as caught:
        find_pairs(folder, known)
    assert caught.value.code == "which-column"
    chosen = [flags["class_column"] for flags in caught.value.choices.values()]
    assert chosen == ["kind", "source", ""]
    (finding,) = check(folder, known).findings
    assert (finding.code, finding.severity) == ("which-column", "error")


def test_what_cannot_be_painted(folder: Path, scene: Drawn, tmp_path: Path) -> None:
    import pyogrio
    import shapely

    line = shapely.to_wkb(
        np.array([shapely.LineString([(500_010, 4_999_990), (500_100, 4_999_900)])])
    )
    path = folder / "roads.gpkg"
    pyogrio.raw.write(path, line, [], [], geometry_type="LineString", crs="EPSG:32632")
    (pair,) = find_pairs(folder, DataConfig(), at_least=1)
    with pytest.raises(DataError) as caught:
        read_mask(pair.mask)
    assert caught.value.code == "not-a-mask"
    (folder / "roads.gpkg").write_bytes(b"no database")
    with pytest.raises(DataError) as caught:
        find_pairs(folder, DataConfig(), at_least=1)
    assert caught.value.code == "damaged"
    with pytest.raises(FileNotFoundError):
        find_pairs(folder, DataConfig(masks="houses.gpkg"))


def test_scenes_without_polygons(folder: Path, scene: Drawn) -> None:
    write_boxes(folder / "all.gpkg", scene.boxes, column=None)
    write_raster(folder / "images" / "far.tif", scene.image, shift=(9000, 0))
    with pytest.raises(DataError) as caught:
        find_pairs(folder)
    assert caught.value.code == "no-mask"
    assert len(find_pairs(folder, DataConfig(block=BLOCK, skip_unlabelled=True))) == 9
    pairs = find_pairs(folder, DataConfig(block=BLOCK, unlisted="empty"))
    assert len(pairs) == 18
    assert not any(read_mask(pair.mask).any() for pair in pairs if "far" in str(pair.image))


def test_nodata(folder: Path, scene: Drawn) -> None:
    image = scene.image.copy()
    image[:BLOCK] = 0
    image[BLOCK : BLOCK + 10, :50] = 0
    write_raster(folder / "images" / "a.tif", image, nodata=0)
    write_raster(folder / "masks" / "a.tif", scene.mask)
    pairs = find_pairs(folder, DataConfig(block=BLOCK))
    assert len(pairs) == 6  # three blocks have no data
    found = joined(folder)
    expected = scene.mask.copy()
    expected[BLOCK : BLOCK + 10, :50] = 255
    np.testing.assert_array_equal(found[BLOCK:], expected[BLOCK:])
    filled, missing = read_with_missing(pairs[0].image)
    assert missing is not None
    assert missing.sum() == 500
    assert filled[missing].min() > 50  # the mean of the others


def test_overlapping_scenes_share_groups(tmp_path: Path) -> None:
    for name, shift in (("a", 0), ("b", 150), ("c", 900)):
        drawn = draw_scene(SIDE)
        write_raster(tmp_path / "images" / f"{name}.tif", drawn.image, shift=(shift, 0))
        write_raster(tmp_path / "masks" / f"{name}.tif", drawn.mask, shift=(shift, 0))
    starts = {"a": 0, "b": 150, "c": 900}
    for seed in range(3):
        pairs = split_pairs(find_pairs(tmp_path, DataConfig(block=BLOCK)), seed=seed, fraction=0.4)
        assert not shared_groups(pairs)
        seen = {"train": np.zeros((SIDE, 1200), bool), "val": np.zeros((SIDE, 1200), bool)}
        for pair in pairs:
            at = pair.image
            assert isinstance(at, Window)
            left = starts[at.file.stem] + at.left
            seen[str(pair.part)][at.top : at.top + at.height, left : left + at.width] = True
        assert not (seen["train"] & seen["val"]).any()
        assert (seen["train"] | seen["val"]).sum() == SIDE * (450 + 300)


def test_from_five_scenes_on_they_are_kept_whole(tmp_path: Path) -> None:
    drawn = draw_scene(120, houses=3)
    for number in range(5):
        write_raster(tmp_path / "images" / f"{number}.tif", drawn.image, shift=(500 * number, 0))
        write_raster(tmp_path / "masks" / f"{number}.tif", drawn.mask, shift=(500 * number, 0))
    pairs = find_pairs(tmp_path, DataConfig(block=60))
    assert len(pairs) == 20
    assert {pair.group for pair in pairs} == {str(number) for number in range(5)}


def test_rare_classes_are_drawn(tmp_path: Path) -> None:
    drawn = draw_scene(400, houses=60, pools=1)
    write_raster(tmp_path / "images" / "a.tif", drawn.image)
    write_boxes(tmp_path / "all.gpkg", drawn.boxes, column="class")
    data = SegmentationDataset.open(tmp_path, DataConfig(block=BLOCK))
    samples = Samples(data.pairs, data.coding, None)
    samples.fill_cache()
    patches = [samples.patch(at % 16, (32, 32), (0, 0, at)) for at in range(60)]
    assert {(image.shape, image.dtype.name) for image, _ in patches} == {((32, 32, 3), "uint8")}
    with_pool = np.mean([shares[..., 2].any() for _, shares in patches])
    assert with_pool > 0.08  # a sixth on average; of blocks at random, below 0.02
    again = samples.patch(5, (32, 32), (0, 0, 5))
    assert all((one == other).all() for one, other in zip(again, patches[5], strict=True))


def test_patches_stay_in_their_block(folder: Path, scene: Drawn) -> None:
    write_raster(folder / "masks" / "a.tif", scene.mask)
    pairs = find_pairs(folder, DataConfig(block=BLOCK))
    own = Samples(pairs[4:5], Values((0, 1, 2)), None)
    own.fill_cache()
    block = read_image(pairs[4].image)
    for number in range(10):
        image, shares = own.patch(0, (32, 32), (0, 0, number))
        assert image.shape[:2] == shares.shape[:2] == (32, 32)
        tops, lefts = np.nonzero((block[:69, :69] == image[0, 0]).all(axis=2))
        places = zip(tops.tolist(), lefts.tolist(), strict=True)
        assert any((block[y : y + 32, x : x + 32] == image).all() for y, x in places)
    reduced = Samples(pairs[4:5], Values((0, 1, 2)), None, target_scale=2, factor=0.5)
    reduced.fill_cache()
    assert [part.shape[:2] for part in reduced.patch(0, (48, 48), (0, 0, 0))] == [(48, 48)] * 2
    image, shares = own.patch(0, (128, 128), (0, 0, 0))
    assert image.shape[:2] == (128, 128)
    assert shares[:BLOCK, :BLOCK].any(axis=2).all()
    assert not shares[BLOCK:].any()


def small(**changes: object) -> TrainConfig:
    return TrainConfig(
        **{
            **{"base_channels": 4, "depth": 2, "epochs": 1, "batch_size": 8, "block": BLOCK},
            **{"patch": (32, 32), "precision": "fp32", "augment": "none", "device": "cpu"},
            **changes,
        }
    )


def test_train_and_evaluate(folder: Path, scene: Drawn, tmp_path: Path) -> None:
    write_boxes(folder / "all.gpkg", scene.boxes)
    known = {"block": BLOCK, "class_column": "kind"}
    result = check(folder, DataConfig(**known))
    assert result.summary["pairs"] == 9
    assert result.summary["classes"] == list(NAMES)
    out = tmp_path / "run"
    train(folder, out, small(**known))
    held_out = [pair for pair in read_split(out / "split.csv", folder) if pair.part == "val"]
    assert all(isinstance(pair.mask, Polygons) for pair in held_out)
    notes = Collected()
    scores = evaluate(out, folder, reporter=notes)  # column and block as in training
    assert f"9 blocks of about {BLOCK} x {BLOCK}" in "".join(notes.notes)
    images = [each["image"] for each in scores.as_dict()["images"]]
    assert images == [str(pair.image) for pair in held_out]
    with pytest.raises(ValueError, match="survey 0"):
        evaluate(out, folder, class_column="source")
    other = write_raster(tmp_path / "other" / "a.tif", scene.image).parent
    write_boxes(other / "all.gpkg", scene.boxes, column="class")
    assert evaluate(out, other).as_dict()["split"] == "all"
    assert "a.tif[" in (out / "report.html").read_text(encoding="utf-8")


def test_blocks_are_not_downscaled(folder: Path, scene: Drawn, tmp_path: Path) -> None:
    write_raster(folder / "masks" / "a.tif", scene.mask)
    with pytest.raises(ValueError, match="--patch"):
        train(folder, tmp_path / "run", small(patch=None, size=(64, 64)))
    data = SegmentationDataset.open(folder, DataConfig(block=BLOCK))
    with pytest.raises(ValueError, match="--block"):
        fill_in(data, small(patch=(64, 64), factor=0.5), silent)
    _, config = fill_in(data, small(patch=None), silent)
    assert (config.size, config.patch) == (None, (96, 96))


def test_a_model_of_whole_images_is_fine_tuned_on_patches(
    folder: Path, scene: Drawn, tmp_path: Path
) -> None:
    write_raster(folder / "masks" / "a.tif", scene.mask)
    earlier = tmp_path / "earlier.safetensors"
    network = UNet(4, 2, 4, 2)
    card = Card(("a", "b"), default_colors(2), (64, 64), training={"settings": {"size": [64, 64]}})
    save_checkpoint(earlier, network, card)
    train(folder, tmp_path / "run", small(patch=None, pretrained=str(earlier)))
    assert load_config(tmp_path / "run" / "config.toml").patch == (96, 96)


@pytest.mark.parametrize("pixel", [1e-9, pytest.param(1e-4, marks=pytest.mark.slow)])
def test_a_budget_plans_patches(
    folder: Path, scene: Drawn, tmp_path: Path, pixel: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also if there is time for whole blocks."""
    write_raster(folder / "masks" / "a.tif", scene.mask)
    step = StepTime(pixel * 8 * 128 * 160, 1e-4)
    monkeypatch.setattr("plainunet.training.budget.measure_step", lambda *_: step)
    calls = count()  # a clock that advances at each call
    monkeypatch.setattr("time.monotonic", lambda: next(calls) * 2.0)
    train(folder, tmp_path / "run", small(patch=None, epochs=20, budget=120.0))
    lines = (tmp_path / "run" / "plan.txt").read_text().splitlines()
    assert "  patch: 96 x 96 (scenes are read in blocks)" in lines


@pytest.mark.slow
def test_learns_an_easy_scene(tmp_path: Path) -> None:
    drawn = draw_scene(1000, houses=250, pools=40)
    write_raster(tmp_path / "data" / "images" / "a.tif", drawn.image)
    write_boxes(tmp_path / "data" / "all.gpkg", drawn.boxes, column="class")
    config = small(block=200, epochs=8, learning_rate=0.01, patch=(64, 64))
    train(tmp_path / "data", tmp_path / "run", config)
    scores = evaluate(tmp_path / "run", tmp_path / "data", block=200)
    assert (scores.score("dice", "pooled") or 0) > 0.9


PEAK = """
import sys
from pathlib import Path
from plainunet.__main__ import main
sys.argv = ["plainunet", *sys.argv[1:]]
try:
    main()
finally:
    # unlike ru_maxrss, without that of the process that started this one
    print("VmHWM", Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0])
"""


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_does_not_grow_with_the_scene(tmp_path: Path) -> None:
    drawn = draw_scene(2000, houses=200, pools=5)
    flags = ["--block", "1000", "--patch", "512", "512", "--epochs", "1"]
    flags += ["--base-channels", "2", "--depth", "1"]
    peaks = []
    for times in (1, 5):
        folder = tmp_path / str(times)
        image = np.tile(drawn.image, (times, times, 1))
        write_raster(folder / "images" / "a.tif", image)
        steps = [(x, y) for x in range(times) for y in range(times)]
        boxes = [
            (left + 2000 * x, top + 2000 * y, right + 2000 * x, bottom + 2000 * y, class_id)
            for x, y in steps
            for left, top, right, bottom, class_id in drawn.boxes
        ]
        write_boxes(folder / "all.gpkg", boxes, column="class")
        own = ["--out", tmp_path / f"run{times}", "--validation", str(0.25 / times**2)]
        done = subprocess.run(
            [sys.executable, "-c", PEAK, "train", folder, *own, *flags],
            capture_output=True,
            text=True,
            check=True,
        )
        peaks.append(int(done.stdout.rpartition("VmHWM")[2]))
    assert peaks[1] < 1.5 * peaks[0], peaks  # of 25 times the pixels
