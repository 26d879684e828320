"""A new run: what it fills in from the data, what it refuses, and all that it leaves behind."""

import csv
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from plainunet.config import Growth, TrainConfig
from plainunet.dataset.dataset import SegmentationDataset
from plainunet.dataset.samples import Samples
from plainunet.evaluation.evaluate import evaluate
from plainunet.evaluation.scores import Scores
from plainunet.network.card import Card
from plainunet.network.checkpoint import load_checkpoint, save_checkpoint
from plainunet.network.unet import UNet
from plainunet.palette import default_colors
from plainunet.prediction.predictor import Predictor
from plainunet.reporter import Collected, Forwarding, Reporter
from plainunet.settings import load_config
from plainunet.training.plan import check_window, choose_size
from plainunet.training.run import Run, RunFolder
from plainunet.training.schedule import size_in
from plainunet.training.state import read_state
from plainunet.training.train import resume, train, with_checkpoint
from plainunet.training.training_data import fill_in

from .conftest import (
    Draw,
    Finished,
    Fit,
    PowerCut,
    Recorder,
    cut_after,
    make_trainer,
    rows_of,
    same,
)


def parts_of(run: Path) -> dict[str, list[str]]:
    """The images of each part in split.csv."""
    with (run / "split.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return {part: [r["image"] for r in rows if r["part"] == part] for part in ("train", "val")}


def scores(result: Scores) -> Any:
    return result.content["pooled"], result.content["per_image"]


# the run folder


def test_the_run_folder_holds_everything(finished: Finished) -> None:
    out = finished.out
    assert {file.name for file in out.iterdir()} == {
        *("best.safetensors", "config.toml", "curves.png", "dataset.toml", "last", "metrics.csv"),
        *("metrics.jsonl", "report.html", "saved_images", "split.csv", "validation"),
    }
    assert len(list((out / "validation").iterdir())) == 4
    assert [file.name for file in (out / "last").iterdir()] == ["state.pt"]
    resolved = load_config(out / "config.toml")
    assert resolved == finished.config.model_copy(update={"classes": ("background", "foreground")})
    first, *_, last = rows = rows_of(out)
    assert len(rows) == 4
    assert last["loss"] < 0.7 * first["loss"]
    assert finished.result["pooled"]["dice"]["mean_foreground"] > 0.5


def test_the_split_is_written_down_and_used(finished: Finished) -> None:
    parts = parts_of(finished.out)
    assert (len(parts["train"]), len(parts["val"])) == (16, 4)
    assert finished.result["split"] == "val"
    images = [Path(entry["image"]) for entry in finished.result["images"]]
    names = [path.relative_to(finished.data).as_posix() for path in images]
    assert sorted(names) == sorted(parts["val"])


def test_the_checkpoint_says_what_it_is(finished: Finished) -> None:
    network, card = load_checkpoint(finished.out / "best.safetensors")
    assert card.class_names == ("background", "foreground")
    assert card.size == (32, 40)
    assert card.masks == {"values": [0, 255], "ignore": None, "kind": "two values"}
    assert card.training["pictures"] == {"train": 16, "val": 4}
    assert card.training["areas"] == [32 * 40, 32 * 40]
    assert (card.training["dtypes"], card.training["grey"]) == (["uint8"], 0)
    assert card.training["settings"]["epochs"] == 4
    assert card.training["hardware"].endswith(", 1 thread, float32")
    assert card.scores["pooled"] == finished.result["pooled"]
    assert "torch" in card.versions
    # normalised by what the training images hold
    names = parts_of(finished.out)["train"]
    pixels = np.stack([np.asarray(Image.open(finished.data / name)) for name in names]) / 255
    np.testing.assert_allclose(network.mean.numpy(), pixels.mean(axis=(0, 1, 2)), atol=1e-5)
    np.testing.assert_allclose(network.std.numpy(), pixels.std(axis=(0, 1, 2)), atol=1e-5)


def test_the_order_of_reports(finished: Finished) -> None:
    heard, stages = finished.heard, [name for name, _ in finished.heard.all("stage")]
    assert stages[0] == "checking files"
    assert stages[-2:] == ["evaluating (native size)", "saving images"]
    assert len(heard.all("epoch")) == 4
    assert heard.all("result") == [finished.result]
    assert re.search(r"\b16 train.*\b4 val", heard.all("note")[0])
    assert sum(str(finished.out / "validation") in note for note in heard.all("note")) == 1
    # each split is read to its end
    for total in (16, 4):
        start = heard.calls.index(("stage", ("reading images", total)))
        kinds = [kind for kind, _ in heard.calls[start + 1 :]]
        end = next(number for number, kind in enumerate(kinds) if kind != "advance")
        assert heard.calls[start + end] == ("advance", total)


@pytest.mark.parametrize("left", ["best.safetensors", "last/state.pt"])
def test_a_folder_with_a_run_in_it_is_refused(
    finished: Finished, tiny: TrainConfig, tmp_path: Path, left: str
) -> None:
    file = tmp_path / "run" / left
    file.parent.mkdir(parents=True)
    file.write_text("left")
    with pytest.raises(ValueError, match=r"--resume .*--out"):
        train(finished.data, tmp_path / "run", tiny)
    assert file.read_text() == "left"
    assert len([path for path in (tmp_path / "run").rglob("*") if path.is_file()]) == 1


def test_a_run_folder_cannot_be_among_the_data(tiny: TrainConfig, tmp_path: Path) -> None:
    data = tmp_path / "data"
    for name in ("images/a.png", "runs/old/last/state.pt", "runs/old/curves.png"):
        (data / name).parent.mkdir(parents=True, exist_ok=True)
        (data / name).write_bytes(b"")
    inside = data / "images" / "run"
    for out in (data, data / "images", inside, tmp_path / "data" / ".." / "data"):
        with pytest.raises(ValueError, match=r"contains the data.* --out"):
            train(data, out, tiny)
    # these are refused for other reasons
    for out in (tmp_path / "run", tmp_path, data / "runs" / "new", data / "runs" / "old"):
        with pytest.raises((ValueError, FileNotFoundError)) as caught:
            train(data, out, tiny)
        assert "contains the data" not in str(caught.value)


def transparent(file: Path) -> None:
    with Image.open(file) as image:
        image.putalpha(128)
        image.save(file)


def scrambled(file: Path) -> None:
    """Pixels that do not decode, in an otherwise valid file."""
    content = bytearray(file.read_bytes())
    start = content.index(b"IDAT") + 8
    content[start : start + 200] = bytes(200)
    file.write_bytes(content)


@pytest.mark.parametrize("spoil", [transparent, scrambled])
def test_an_image_that_fails_late_leaves_no_half_run(
    draw: Draw, tiny: TrainConfig, tmp_path: Path, spoil: Callable[[Path], None]
) -> None:
    data, out = draw(tmp_path / "data", 4), tmp_path / "run"
    whole = (data / "images" / "02.png").read_bytes()
    spoil(data / "images" / "02.png")
    with pytest.raises(ValueError, match=r"02\.png"):
        train(data, out, tiny)
    assert not out.exists() or list(out.iterdir()) == []
    # once it is fixed, the same command runs
    (data / "images" / "02.png").write_bytes(whole)
    train(data, out, tiny.model_copy(update={"epochs": 1}))


# what is filled in from the data


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        ([(48, 64)], (48, 64)),
        ([(256, 256)], (256, 256)),
        ([(512, 512)], (256, 256)),
        ([(1280, 1918)], (208, 320)),  # Carvana: 209.1 x 313.4
        ([(1918, 1280)], (320, 208)),
        ([(20, 20)], (32, 32)),
        ([(100, 100), (100, 100), (900, 900)], (96, 96)),  # the median, not the mean
        ([(64, 64), (128, 256)], (96, 160)),
        ([(20, 2000)], (32, 2000)),
    ],
)
def test_choose_size(sizes: list[tuple[int, int]], expected: tuple[int, int]) -> None:
    assert choose_size(sizes) == expected


@given(height=st.integers(1, 5000), width=st.integers(1, 5000))
def test_a_chosen_size_is_the_image_reduced_to_about_256_squared(height: int, width: int) -> None:
    exact = np.array([height, width]) * min(1.0, 256 / np.sqrt(height * width))
    chosen = np.array(choose_size([(height, width)]))
    assert (chosen % 16 == 0).all()
    assert (chosen >= 32).all()
    assert (np.abs(chosen - exact)[exact >= 32] <= 8).all()
    assert chosen.prod() <= 256**2 * (1 + 8 / exact).prod() or chosen.min() == 32


def test_the_size_grows_epoch_by_epoch() -> None:
    growth = (Growth(until=0.3, scale=0.25), Growth(until=0.8, scale=0.5))
    config = TrainConfig(epochs=10, size=(100, 64), growth=growth)
    sizes = [size_in(epoch, config) for epoch in range(10)]
    assert sizes == [(25, 16)] * 3 + [(50, 32)] * 5 + [(100, 64)] * 2
    assert size_in(0, TrainConfig(size=(100, 64))) == (100, 64)
    patches = TrainConfig(patch=(16, 24), epochs=2, growth=(Growth(until=0.5, scale=0.5),))
    assert [size_in(epoch, patches) for epoch in (0, 1)] == [(8, 12), (16, 24)]


@given(epochs=st.integers(1, 40), until=st.floats(0.01, 0.99))
def test_every_run_ends_at_its_full_size(epochs: int, until: float) -> None:
    config = TrainConfig(epochs=epochs, size=(64, 64), growth=(Growth(until=until, scale=0.5),))
    # only epochs at this size are saved: without one, there is no checkpoint
    assert size_in(epochs - 1, config) == (64, 64)


def write_pairs(folder: Path, *values: int) -> Path:
    for number in range(3):
        mask = np.full((40, 60), values[0], np.uint8)
        for column, value in enumerate(values):
            mask[:, 10 * column : 10 * column + 10] = value
        Image.fromarray(mask).save(folder / f"{number}_mask.png")
        Image.fromarray(mask).save(folder / f"{number}.png")
    return folder


def prepare(folder: Path, **settings: object) -> tuple[TrainConfig, list[str]]:
    """The settings as a run completes them, and its notes."""
    config = TrainConfig(**{"depth": 2, **settings})
    heard = Collected()
    _, config = fill_in(SegmentationDataset.open(folder, config), config, heard)
    check_window(config, heard)
    return config, heard.notes


@pytest.mark.parametrize(
    ("values", "names"),
    [
        ((0, 255), ("background", "foreground")),
        ((0, 1, 2), ("class 0", "class 1", "class 2")),
    ],
)
def test_default_classes_and_size(
    tmp_path: Path, values: tuple[int, ...], names: tuple[str, ...]
) -> None:
    config, notes = prepare(write_pairs(tmp_path, *values), epochs=3)
    assert config == TrainConfig(depth=2, epochs=3, classes=names, size=(32, 64))
    for text in ("3 pairs: 2 train, 1 val", "size 32 x 64", f"{names[1]} 16.7%"):
        assert text in "\n".join(notes)


def test_a_budget_chooses_the_size_later(tmp_path: Path) -> None:
    dataset = SegmentationDataset.open(write_pairs(tmp_path, 0, 1))
    assert fill_in(dataset, TrainConfig(budget=60.0), Collected())[1].size is None


def test_patches_are_cut_from_scaled_images(tmp_path: Path) -> None:
    config, notes = prepare(write_pairs(tmp_path, 0, 1), patch=(16, 24), factor=0.5)
    assert (config.size, config.patch, config.window) == (None, (16, 24), (16, 24))
    assert re.search("16 x 24 .*50%", "\n".join(notes))


def test_given_classes_and_size_are_kept(tmp_path: Path) -> None:
    names = ("street", "car", "sign", "sky")  # not all of them occur
    folder = write_pairs(tmp_path, 0, 1, 2)
    config, notes = prepare(folder, classes=names, size=(24, 40))
    assert (config.classes, config.size) == (names, (24, 40))
    assert "sky 0.0%" in notes[0]
    dataset = SegmentationDataset.open(folder, TrainConfig(classes=names))
    assert dataset.coding.values == (0, 1, 2, 3)
    assert list(dataset.shares) == list(names)
    assert sum(dataset.shares.values()) == pytest.approx(1)


@pytest.mark.parametrize(("value", "occurs"), [(9, True), (99, False)])
def test_a_missing_ignore_index_is_reported(tmp_path: Path, value: int, occurs: bool) -> None:
    folder = write_pairs(tmp_path, *((0, 1, 9) if occurs else (0, 1)))
    config, notes = prepare(folder, ignore=value)
    assert len(config.classes) == 2
    assert ("--ignore 99" in "\n".join(notes)) is not occurs


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"classes": ("one",)}, "class"),
        ({"classes": ("a", "b")}, "0, 1, 2"),
        ({"classes": ("a", "b", "a")}, "a, b, a"),
        ({"size": (32, 15), "depth": 3}, r"32 x 15 .*--depth 3\b.* 16 .*--size"),
        ({"size": (48, 64), "elastic": 13.0}, r"--elastic 13 .*48 x 64.* 4 or less"),
        ({"size": (32, 32), "growth": (Growth(until=0.5, scale=0.2),)}, r"32 x 32.* 0\.2 .*--size"),
    ],
)
def test_settings_that_do_not_fit_the_data(
    tmp_path: Path, settings: dict[str, object], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        prepare(write_pairs(tmp_path, 0, 1, 2), **settings)


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"size": (48, 64), "elastic": 5.0}, "--elastic 5 .*48 x 64"),
        ({"border_sigma": 3.0}, "--border-sigma .*--border-weight"),
        ({"loss": "lovasz", "border_weight": 2.0}, "--border-weight .*--loss lov"),
        ({"loss": "lovasz", "class_weights": "balanced"}, "--class-weights .*--loss lov"),
        ({"optimizer": "adam", "weight_decay": 0.1}, "--weight-decay .*--optimizer adam"),
        ({"folds": 2, "fold": 0, "validation": 0.5}, "--validation .*--folds"),
        ({"held_out": ("1",), "validation": 0.5}, "--validation .*--held-out"),
        ({"held_out": ("1",), "stratify": True}, "--stratify .*--held-out"),
        ({"optimizer": "adam", "loss": "lovasz"}, None),
        ({"size": (48, 64), "elastic": 4.0, "border_sigma": 3.0, "border_weight": 1.0}, None),
    ],
)
def test_settings_without_effect_or_too_strong_are_reported(
    tmp_path: Path, settings: dict[str, object], named: str | None
) -> None:
    notes = prepare(write_pairs(tmp_path, 0, 1), **settings)[1][2:]
    assert [bool(re.search(named, note)) for note in notes] == [True] if named else notes == []


def test_the_architecture_is_that_of_the_checkpoint(tmp_path: Path) -> None:
    file = tmp_path / "earlier.safetensors"
    network = UNet(3, 2, 4, 2, normalisation="group", residual=True, dropout=0.3)
    save_checkpoint(file, network, Card(("a", "b"), default_colors(2), (32, 32)))
    config, taken, _ = with_checkpoint(TrainConfig(pretrained=str(file), depth=3))
    assert (config.base_channels, config.normalisation, config.residual) == (4, "group", True)
    assert config.depth == 3  # as given; loading the weights reports the conflict
    assert config.dropout == TrainConfig().dropout
    assert "depth" not in taken
    assert "checkpoint" in taken["residual"]
    assert taken.keys() <= config.model_fields_set
    assert with_checkpoint(TrainConfig()) == (TrainConfig(), {}, ())


@pytest.mark.parametrize("seen", [{"size": [32, 48]}, {"patch": [32, 48], "factor": 0.5}])
def test_the_scale_is_that_of_the_checkpoint(tmp_path: Path, seen: dict[str, Any]) -> None:
    file = tmp_path / "earlier.safetensors"
    training = {"settings": {"size": None, "patch": None, "factor": 1.0, **seen}}
    card = Card(("a", "b"), default_colors(2), None, training=training)
    save_checkpoint(file, UNet(3, 2, 4, 2), card)
    config, taken, _ = with_checkpoint(TrainConfig(pretrained=str(file)))
    assert {name: getattr(config, name) for name in seen} == {
        name: tuple(value) if isinstance(value, list) else value for name, value in seen.items()
    }
    assert seen.keys() <= taken.keys()
    given = TrainConfig(pretrained=str(file), size=(64, 64))
    config, taken, _ = with_checkpoint(given)
    assert (config.size, config.patch) == ((64, 64), None)


@pytest.mark.parametrize(
    ("classes", "named"), [((), ("background", "cell")), (("soil", "weed"), ("soil", "weed"))]
)
def test_classes_are_named_as_in_the_checkpoint(
    draw: Draw, tiny: TrainConfig, tmp_path: Path, classes: tuple[str, ...], named: tuple[str, ...]
) -> None:
    file = tmp_path / "earlier.safetensors"
    card = Card(("background", "cell"), default_colors(2), (32, 32))
    save_checkpoint(file, UNet(3, 2, tiny.base_channels, tiny.depth), card)
    config = tiny.model_copy(update={"pretrained": str(file), "classes": classes})
    heard = Collected()
    train(draw(tmp_path / "data", 4, (32, 32)), tmp_path / "run", config, reporter=heard)
    assert Predictor.load(tmp_path / "run").card.class_names == named
    assert any("cell" in note for note in heard.notes)


def test_epochs_without_effect_are_reported(
    finished: Finished, tiny: TrainConfig, tmp_path: Path
) -> None:
    heard = Recorder()
    config = tiny.model_copy(update={"budget": 0.5})
    with pytest.raises(ValueError, match="--budget 0 s"):
        train(finished.data, tmp_path / "run", config, heard)
    assert any(re.search("^note: --epochs .*--budget", note) for note in heard.all("note"))


# images, masks and data folders of several kinds


def test_grey_images_of_several_dtypes_are_converted_to_rgb(
    draw: Draw, tiny: TrainConfig, tmp_path: Path
) -> None:
    data, heard = draw(tmp_path / "data", 20), Recorder()
    for file in sorted((data / "images").iterdir())[::2]:  # as of two alternating cameras
        Image.fromarray(np.full((32, 40), 300, np.uint16)).save(file)
    train(data, tmp_path / "run", tiny.model_copy(update={"epochs": 1}), heard)
    assert any(re.search("^note: 10 grey.* RGB", note) for note in heard.all("note"))
    assert any(re.search(r"^warning: .*uint16 \(.*uint8 \(", note) for note in heard.all("note"))
    network, card = load_checkpoint(tmp_path / "run" / "best.safetensors")
    assert network.in_channels == 3
    assert card.training["grey"] == 10
    assert card.training["dtypes"] == ["uint16", "uint8"]


def test_grey_images_and_their_own_parts_and_a_size_that_is_chosen(
    draw: Draw, tiny: TrainConfig, tmp_path: Path
) -> None:
    drawn = draw(tmp_path / "drawn", 5, (50, 70))
    for number in range(5):
        part = ("train", "val")[number >= 3]
        for kind in ("images", "masks"):
            file = tmp_path / "data" / kind / part / f"{number:02d}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.open(drawn / kind / file.name).convert("L").save(file)
    settings = {"epochs": 1, "classes": ("street", "car"), "size": None}
    result = train(str(tmp_path / "data"), str(tmp_path / "run"), tiny.model_copy(update=settings))
    assert result.class_names == ("street", "car")
    assert {path.parent.name for path in result.of_images()} == {"val"}
    network, card = load_checkpoint(tmp_path / "run" / "best.safetensors")
    assert network.in_channels == 1
    assert card.size == load_config(tmp_path / "run" / "config.toml").size == (48, 64)


def test_the_dataset_toml_of_a_run_in_the_data_folder(
    draw: Draw, tiny: TrainConfig, tmp_path: Path
) -> None:
    data = draw(tmp_path / "data", 8)
    (data / "images").rename(data / "photos")
    (data / "masks").rename(data / "left")
    config = tiny.model_copy(update={"epochs": 1, "validation": 0.5})
    named = config.model_copy(update={"images": "photos", "masks": "left"})
    first = train(data, tmp_path / "first", named)
    written = (tmp_path / "first" / "dataset.toml").read_text()
    assert written.splitlines()[2:] == [
        'pairs = "split.csv"',
        'classes = ["background", "foreground"]',
        "values = [0, 255]",
    ]
    for name in ("dataset.toml", "split.csv"):
        shutil.copy(tmp_path / "first" / name, data / name)
    # another share, but the same split
    second = train(data, tmp_path / "second", config.model_copy(update={"validation": 0.25}))
    assert (tmp_path / "second" / "split.csv").read_bytes() == (data / "split.csv").read_bytes()
    assert scores(second) == scores(first)
    assert (tmp_path / "second" / "dataset.toml").read_text() == written


def test_copies_across_the_split_are_a_warning(
    draw: Draw, tiny: TrainConfig, tmp_path: Path
) -> None:
    data = draw(tmp_path / "data", 8, (64, 64))
    with Image.open(data / "images" / "00.png") as image:
        copy = image.point(lambda value: min(255, value + 1))  # almost the same
        for number in range(1, 8):
            copy.save(data / "images" / f"{number:02d}.png")
    heard = Recorder(lambda kind, call: kind == "step")
    with pytest.raises(PowerCut):
        train(data, tmp_path / "run", tiny, heard)
    (warning,) = [note for note in heard.all("note") if "data leakage" in note]
    assert f"$ plainunet check {data}" in warning


def test_folds_and_stratified_splits(draw: Draw, tiny: TrainConfig, tmp_path: Path) -> None:
    data, held_out = draw(tmp_path / "data", 8), []
    for fold in range(2):
        settings = {"epochs": 1, "folds": 2, "fold": fold, "stratify": True}
        train(data, tmp_path / str(fold), tiny.model_copy(update=settings))
        held_out.append(set(parts_of(tmp_path / str(fold))["val"]))
    assert [len(part) for part in held_out] == [4, 4]
    assert held_out[0].isdisjoint(held_out[1])


def as_coco(data: Path) -> None:
    images, annotations = [], []
    for number, path in enumerate(sorted((data / "images").iterdir()), start=1):
        rows, columns = np.nonzero(np.asarray(Image.open(data / "masks" / path.name)))
        top, left, below, right = rows.min(), columns.min(), rows.max() + 1, columns.max() + 1
        outline = [int(v) for v in (left, top, right, top, right, below, left, below)]
        images.append({"id": number, "file_name": path.name, "height": 32, "width": 40})
        box = {"id": number, "image_id": number, "category_id": 5, "iscrowd": 0}
        annotations.append({**box, "segmentation": [outline]})
    said = {"images": images, "annotations": annotations, "categories": [{"id": 5, "name": "box"}]}
    shutil.rmtree(data / "masks")
    (data / "annotations.json").write_text(json.dumps(said))


def as_list_of_runs(data: Path) -> None:
    rows = ["ImageId,EncodedPixels"]
    for path in sorted((data / "images").iterdir()):
        mask = np.asarray(Image.open(data / "masks" / path.name)).T.ravel() > 0
        edges = np.flatnonzero(np.diff(np.concatenate(([False], mask, [False])).astype(int))) + 1
        runs = [f"{start} {end - start}" for start, end in edges.reshape(-1, 2)]
        rows.append(f"{path.stem},{' '.join(runs)}")
    shutil.rmtree(data / "masks")
    (data / "masks.csv").write_text("\n".join(rows))


def as_folders_of_classes(data: Path) -> None:
    for path in list((data / "masks").iterdir()):
        mask = np.asarray(Image.open(path))
        for name, values in (("background", 255 - mask), ("box", mask)):
            (data / "masks" / name).mkdir(exist_ok=True)
            Image.fromarray(values).save(data / "masks" / name / path.name)
        path.unlink()


def as_stacks(data: Path) -> None:
    for name in ("images", "masks"):
        files = sorted((data / name).iterdir())
        slices = np.stack([np.asarray(Image.open(path)) for path in files])
        for path in files:
            path.unlink()
        for part in (0, 1):
            kind = "rgb" if slices.ndim == 4 else "minisblack"
            tifffile.imwrite(data / name / f"{part}.tif", slices[part::2], photometric=kind)


FORMS = {"border_weight": 2.0, "validation": 0.5}


@pytest.fixture(scope="module")
def plain(draw: Draw, tiny: TrainConfig, tmp_path_factory: pytest.TempPathFactory) -> Scores:
    """Scores of a run on eight images with masks as they are drawn."""
    folder = tmp_path_factory.mktemp("plain")
    return train(draw(folder / "data", 8), folder / "run", tiny.model_copy(update=FORMS))


@pytest.mark.parametrize(
    ("form", "name"),
    [
        pytest.param(as_coco, "box", marks=pytest.mark.slow),
        (as_list_of_runs, "foreground"),
        pytest.param(as_folders_of_classes, "box", marks=pytest.mark.slow),
        (as_stacks, None),
    ],
)
def test_masks_of_other_forms_teach_the_same(
    draw: Draw,
    tiny: TrainConfig,
    plain: Scores,
    tmp_path: Path,
    form: Callable[[Path], None],
    name: str | None,
) -> None:
    """The same images and masks in another form: the same samples, and so the same run."""
    other = draw(tmp_path / "other", 8)
    form(other)
    result = train(other, tmp_path / "run", tiny.model_copy(update=FORMS))
    held_out = {path.name for path in result.of_images()}
    if name is None:
        # slices have other names, and so another split
        assert held_out in ({f"0.tif[{k}]" for k in range(4)}, {f"1.tif[{k}]" for k in range(4)})
    else:
        assert held_out == {path.name for path in plain.of_images()}
        expected = json.dumps(plain.content["pooled"]).replace('"foreground":', f'"{name}":')
        assert json.dumps(result.content["pooled"]) == expected
    again = evaluate(tmp_path / "run" / "best.safetensors", other)
    assert again.split == "val"
    assert scores(again) == scores(result)
    shutil.copytree(tmp_path / "run", tmp_path / "again")
    assert scores(resume(tmp_path / "again")) == scores(result)
    assert len(list((tmp_path / "run" / "saved_images").iterdir())) == 8


# settings of training


@pytest.fixture(scope="module")
def plain_loss(
    dataset: SegmentationDataset,
    parts: dict[str, Samples],
    tiny: TrainConfig,
    tmp_path_factory: pytest.TempPathFactory,
) -> float:
    """Loss of one epoch with nothing changed."""
    config = tiny.model_copy(update={"epochs": 1, "classes": dataset.class_names})
    run = Run(RunFolder(tmp_path_factory.mktemp("plain") / "run"), config, dataset)
    make_trainer(run, parts).fit()
    return float(rows_of(run.folder.path)[0]["loss"])


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("loss", "dice"),
        ("optimizer", "muon"),
        ("schedule", "constant"),
        ("augment", "none"),
        ("elastic", 3.0),
        ("class_weights", "balanced"),
    ],
)
def test_settings_reach_the_training(fitted: Fit, plain_loss: float, key: str, value: Any) -> None:
    (row,) = fitted(epochs=1, **{key: value})
    assert row["loss"] != plain_loss


def test_the_learning_rate_is_that_of_the_optimizer(
    finished: Finished, tiny: TrainConfig, tmp_path: Path
) -> None:
    kept = {name: getattr(tiny, name) for name in tiny.model_fields_set - {"learning_rate"}}
    for number, (changed, rate) in enumerate([({}, 0.05), ({"learning_rate": 0.01}, 0.01)]):
        config = TrainConfig(**{**kept, "optimizer": "sgd", "epochs": 1, **changed})
        train(finished.data, tmp_path / str(number), config)
        assert RunFolder(tmp_path / str(number)).read_config().learning_rate == rate


def test_non_default_options_of_the_network_are_reported(fitted: Fit) -> None:
    usual, other = Recorder(), Recorder()
    fitted("run", usual, epochs=1)
    fitted("other", other, epochs=1, checkpointing=True, dropout=0.5, normalisation="group")
    assert re.search(r"depth 2, [\d,]+ parameters", usual.all("note")[0])
    assert "normalisation group, dropout 0.5, checkpointing, " in other.all("note")[0]


def change(finished: Finished, **settings: Any) -> TrainConfig:
    return finished.config.model_copy(update=settings)


def test_frozen_encoder_and_deterministic_algorithms(finished: Finished, tmp_path: Path) -> None:
    seen: list[bool] = []

    def look(kind: str, call: Any) -> bool:
        if kind == "epoch":
            seen.append(torch.are_deterministic_algorithms_enabled())
        return False

    start = finished.out / "best.safetensors"
    settings = {"freeze": "encoder", "epochs": 1, "ema": 0.0, "deterministic": True}
    config = change(finished, pretrained=str(start), **settings)
    heard = Recorder(look)
    train(finished.data, tmp_path / "run", config, heard)
    assert any(str(start) in note for note in heard.all("note"))
    assert seen == [True]
    assert not torch.are_deterministic_algorithms_enabled()
    before = load_checkpoint(start)[0].state_dict()
    after, _ = load_checkpoint(tmp_path / "run" / "best.safetensors")
    for name, value in after.state_dict().items():
        if name.startswith(("inlet.", "downs.")):
            assert same(value, before[name]), name
        elif name.endswith("weight"):
            assert not same(value, before[name]), name


def test_early_stopping(finished: Finished, tmp_path: Path) -> None:
    settings = {"epochs": 30, "patience": 2, "learning_rate": 1e-12, "schedule": "constant"}
    heard = Recorder()
    config = change(finished, **settings, growth=(), ema=0.0, augment="none")
    train(finished.data, tmp_path / "run", config, heard)
    notes = heard.all("note")
    assert any("early stopping" in note and "2 epochs" in note for note in notes)
    assert len(rows_of(tmp_path / "run")) < 30
    assert (tmp_path / "run" / "curves.png").is_file()
    # resuming does not train again
    assert resume(tmp_path / "run").split == "val"
    assert len(rows_of(tmp_path / "run")) < 30


def test_without_foreground_in_validation_the_last_epoch_is_saved(
    draw: Draw, tiny: TrainConfig, tmp_path: Path
) -> None:
    data, heard = draw(tmp_path / "data", 8), Recorder()
    rows = ["image,mask,part"]
    for number, mask in enumerate(sorted((data / "masks").iterdir())):
        part = "val" if number < 3 else "train"
        if part == "val":
            Image.new("L", (40, 32)).save(mask)
        rows.append(f"images/{mask.stem}.png,masks/{mask.name},{part}")
    (data / "pairs.csv").write_text("\n".join(rows))
    settings = {"pairs": str(data / "pairs.csv"), "epochs": 3}
    train(data, tmp_path / "run", tiny.model_copy(update=settings), heard)
    assert sum("--stratify" in note for note in heard.all("note")) == 1
    network, _ = load_checkpoint(tmp_path / "run" / "best.safetensors")
    last = read_state(RunFolder(tmp_path / "run"))["network"]
    assert same(network.state_dict(), last)


# a run that ends early in this process, and is resumed


@pytest.mark.parametrize("epoch", [0, 2])
def test_an_interrupted_run_is_resumed_to_the_same_end(
    finished: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, epoch: int
) -> None:
    cut = cut_after(epoch) if epoch else Recorder(lambda *call: call[1] == ("validating", 4))
    monkeypatch.chdir(finished.data.parent)  # a relative data folder is found again all the same
    with pytest.raises(PowerCut):
        train(Path("data"), tmp_path / "run", finished.config, cut)
    monkeypatch.chdir(tmp_path)
    heard = Recorder()
    result = resume("run", heard).as_dict()
    epochs = [row["epoch"] for row, _ in heard.all("epoch")]
    # what was done since the state was saved last is done again; it takes no second here
    assert epochs == list(range(epochs[0], 5))
    assert epochs[0] <= epoch + 1
    expected = finished.result
    assert (result["pooled"], result["per_image"]) == (expected["pooled"], expected["per_image"])
    runs = tmp_path / "run", finished.out
    rows, wanted_rows = (rows_of(run, timed=False) for run in runs)
    assert rows == wanted_rows
    state, wanted = (read_state(RunFolder(run)) for run in runs)
    assert all(same(state[part], wanted[part]) for part in ("network", "average"))
    best = [(run / "best.safetensors").read_bytes() for run in runs]
    assert best[0] == best[1]


def test_resuming_a_finished_run_evaluates_it_again(finished: Finished, tmp_path: Path) -> None:
    shutil.copytree(finished.out, tmp_path / "run")
    assert resume(tmp_path / "run").as_dict() == finished.result
    assert rows_of(tmp_path / "run") == rows_of(finished.out)


def test_nothing_to_resume(finished: Finished, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"state\.pt"):
        resume(tmp_path)
    shutil.copytree(finished.out, tmp_path / "run")
    (tmp_path / "run" / "split.csv").unlink()
    with pytest.raises(FileNotFoundError, match=r"split\.csv"):
        resume(tmp_path / "run")


def test_settings_without_a_run_are_named(draw: Draw, tiny: TrainConfig, tmp_path: Path) -> None:
    (tmp_path / "config.toml").touch()
    with pytest.raises(ValueError, match=r"config\.toml: .*Remove it"):
        train(draw(tmp_path / "data", 4), tmp_path, tiny)


def test_the_data_of_a_run_is_missing(draw: Draw, tiny: TrainConfig, tmp_path: Path) -> None:
    data = draw(tmp_path / "data", 4)
    with pytest.raises(PowerCut):
        train(data, tmp_path / "run", tiny, cut_after(1))
    data.rename(tmp_path / "elsewhere")
    with pytest.raises(FileNotFoundError, match=f"{data}: "):
        resume(tmp_path / "run")


def test_a_run_in_fp16_is_resumed_with_its_scale(finished: Finished, tmp_path: Path) -> None:
    config = finished.config.model_copy(update={"precision": "fp16", "epochs": 2})
    with pytest.raises(PowerCut):
        train(finished.data, tmp_path / "run", config, cut_after(1))
    assert read_state(RunFolder(tmp_path / "run"))["scaler"]["scale"] > 1
    resume(tmp_path / "run")
    whole = train(finished.data, tmp_path / "whole", config)
    assert rows_of(tmp_path / "run", timed=False) == rows_of(tmp_path / "whole", timed=False)
    assert whole.score("dice", "pooled") > 0.2


NETWORKS: dict[str, dict[str, Any]] = {
    "the paper's": {
        **{"valid": True, "normalisation": "none", "dropout": 0.5, "elastic": 3.0},
        **{"border_weight": 10.0, "class_weights": "balanced", "learning_rate": 3e-3},
        "epochs": 12,
    },
    "today's": {
        **{"normalisation": "group", "upsampling": "bilinear", "residual": True},
        **{"attention": True, "deep_supervision": True, "checkpointing": True},
        **{"optimizer": "muon", "ema": 0.5, "epochs": 4},
    },
}


@pytest.mark.parametrize(
    "settings",
    [
        pytest.param(NETWORKS["the paper's"], id="the paper's"),
        pytest.param(NETWORKS["today's"], id="today's", marks=pytest.mark.slow),
    ],
)
def test_other_networks_train_resume_and_predict(
    draw: Draw, tiny: TrainConfig, tmp_path: Path, settings: dict[str, Any]
) -> None:
    data, whole = draw(tmp_path / "data", 10), tmp_path / "whole"
    config = tiny.model_copy(update={"base_channels": 4, "batch_size": 2, **settings})
    straight = train(data, whole, config)
    assert straight.score("dice", "pooled") > 0.6

    with pytest.raises(PowerCut):
        train(data, tmp_path / "run", config, cut_after(2))
    again = resume(tmp_path / "run")
    assert again.content["per_image"] == straight.content["per_image"]  # also with dropout
    assert rows_of(tmp_path / "run", timed=False) == rows_of(whole, timed=False)

    predictor = Predictor.load(whole / "best.safetensors", device="cpu")
    wanted = config.network_arguments()
    del wanted["checkpointing"]  # not part of the architecture
    assert predictor.network.architecture.items() >= wanted.items()
    image = np.zeros((61, 83, 3), np.uint8)  # another size, and odd
    assert predictor.predict(image).shape == (61, 83)


class StopsAfter(Reporter):
    """Stops after an epoch, counted from 1."""

    def __init__(self, epoch: int) -> None:
        self.last, self.seen, self.scores = epoch, 0, {}  # type: ignore[var-annotated]

    def epoch(self, row: dict[str, Any], best: float | None) -> None:
        self.seen = row["epoch"]

    def should_stop(self) -> bool:
        return self.seen == self.last

    def result(self, scores: dict[str, Any]) -> None:
        self.scores = scores


@pytest.mark.parametrize("growth", [(), (Growth(until=0.9, scale=0.5),)])
def test_a_reporter_stops_a_run(
    growth: tuple[Growth, ...], draw: Draw, tiny: TrainConfig, tmp_path: Path
) -> None:
    data, stops = draw(tmp_path / "data", 8), StopsAfter(2)
    config = tiny.model_copy(update={"epochs": 9, "growth": growth})
    result = train(data, tmp_path / "run", config, Forwarding(stops))
    assert stops.seen == len(rows_of(tmp_path / "run")) == 2
    assert stops.scores == result.as_dict()
    assert (tmp_path / "run" / "report.html").is_file()
