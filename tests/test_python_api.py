"""The Python API: results, images of any kind, errors that name the argument, and types."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import plainunet
from plainunet import Error, Predictor, TrainConfig
from plainunet.evaluation.scores import Scores

from .folders import draw_rectangles
from .models import make_network

TYPED = Path(__file__).with_name("typed_project.py")
CPU: dict[str, Any] = {"device": "cpu", "precision": "fp32"}


class Trained:
    """A run of one epoch, and what `train` returned."""

    def __init__(self, folder: Path) -> None:
        self.data = draw_rectangles(folder / "data", 10, (32, 40))
        self.run = folder / "run"
        tiny: dict[str, Any] = {"epochs": 1, "size": (32, 40), "base_channels": 2, "depth": 2}
        self.config = TrainConfig(**tiny, **CPU, workers=0, batch_size=4, augment="none")
        self.scores = plainunet.train(str(self.data), self.run, self.config)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    return Trained(tmp_path_factory.mktemp("api"))


# results


def test_scores_have_figures_print_and_become_a_dict(trained: Trained, tmp_path: Path) -> None:
    html = tmp_path / "report.html"
    scores = plainunet.evaluate(str(trained.run), trained.data, html=str(html), **CPU)
    content = json.loads(json.dumps(scores.as_dict()))
    assert isinstance(trained.scores, Scores)
    assert scores.split == trained.scores.split == "val"
    assert scores.confusion.tolist() == trained.scores.confusion.tolist() == content["confusion"]
    assert (scores.report, trained.scores.checkpoint) == (html, trained.run / "best.safetensors")
    assert scores.dice == content["per_image"]["dice"]["mean_foreground"]
    assert scores.accuracy == content["per_image"]["accuracy"]
    (background, name) = scores.class_names
    assert scores.score("iou", "pooled", name) == content["pooled"]["iou"]["per_class"][name]
    assert scores.score("iou", class_name=background) != scores.iou
    bounds = scores.interval("recall")
    assert bounds is not None
    assert list(bounds) == content["intervals"]["per_image"]["recall"]["mean_foreground"]
    of_images = scores.of_images()
    assert {str(path) for path in of_images} == {row["image"] for row in content["images"]}
    known = [dice for dice in of_images.values() if dice is not None]
    assert known == sorted(known)
    assert f"{scores.score('dice', 'pooled'):.4f}" in str(scores)
    assert len(str(scores)) < 1000


def test_other_results_print_and_become_dicts(trained: Trained, tmp_path: Path) -> None:
    found = plainunet.compare(str(trained.run), trained.run, trained.data, **CPU)
    assert found.difference("iou", "pooled").difference == 0
    assert found.difference("dice").first == trained.scores.dice
    checked = plainunet.check(str(trained.data), trained.config)
    done = plainunet.predict(trained.run, trained.data / "images", str(tmp_path), **CPU)
    assert (done.out, len(done.written), done.failures) == (tmp_path, 10, [])
    again = plainunet.predict(trained.run, str(trained.data / "images"), tmp_path, **CPU)
    assert (again.written, len(again.skipped)) == ([], 10)
    for result in (found, checked, done):
        assert json.loads(json.dumps(result.as_dict()))
        assert "at 0x" not in str(result)
        assert len(str(result)) < 2000


# images


def test_images_are_arrays_files_pillow_images_and_lists(trained: Trained) -> None:
    predictor = Predictor.load(str(trained.run), **CPU)
    path = trained.data / "images" / "0.png"
    image = plainunet.read_image(str(path))
    mask = predictor.predict(image)
    with Image.open(path) as opened:
        given: list[Any] = [image, path, str(path), opened, opened.convert("P", colors=256)]
        found = predictor.predict(given[:4])
        assert predictor.predict(given[4]).shape == mask.shape
        kept = plainunet.predict(predictor, given[:4]).masks
    assert all(np.array_equal(each, mask) for each in [*found, *kept])
    assert predictor.predict([]) == predictor.masks([]) == []
    whole = plainunet.predict(trained.run, trained.data / "images", **CPU).masks
    assert len(whole) == 10
    assert np.array_equal(whole[0], mask)


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "CMYK", "I;16", "F"])
def test_pillow_images_are_read_as_their_files(mode: str, tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    values = random.integers(0, 256, (8, 9, 3), np.uint8)
    if mode in ("I;16", "F"):
        grey: Any = values[..., 0].astype(np.uint16 if mode == "I;16" else np.float32)
        image = Image.fromarray(grey)
    else:
        image = Image.fromarray(values).convert(mode)
    suffix = {"CMYK": "jpg", "F": "tif"}.get(mode, "png")
    path = tmp_path / f"a.{suffix}"
    image.save(path)
    read = plainunet.read_image(path)
    predictor = Predictor(make_network(2, channels=read.shape[2]), device="cpu")
    with Image.open(path) as opened:
        expected = predictor.probabilities(read)
        assert np.array_equal(predictor.probabilities(opened), expected)


@pytest.mark.parametrize("dtype", ["int64", "uint64"])
def test_integers_of_64_bits_are_refused(trained: Trained, dtype: str) -> None:
    predictor = Predictor.load(trained.run, device="cpu")
    with pytest.raises(ValueError, match=r"astype\(np.uint8\)"):
        predictor.predict(np.zeros((32, 32, 3), dtype))


def test_an_image_of_pillow_is_turned_upright(trained: Trained, tmp_path: Path) -> None:
    predictor = Predictor.load(trained.run, **CPU)
    image = Image.open(trained.data / "images" / "0.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    image.save(tmp_path / "turned.png", exif=exif)
    with Image.open(tmp_path / "turned.png") as turned:
        assert predictor.predict(turned).shape == (image.width, image.height)


def test_masks_are_saved_as_they_are_read(tmp_path: Path) -> None:
    mask = np.array([[0, 1, 2], [255, 2, 0]])
    for name in ("a.png", "a.tif"):
        plainunet.save_mask(str(tmp_path / name), mask)
        assert plainunet.read_mask(str(tmp_path / name)).tolist() == mask.tolist()
    for colors in ([(0, 0, 0), (255, 0, 0)], np.array([[0, 0, 0], [255, 0, 0]], np.uint8)):
        plainunet.save_mask(tmp_path / "b.png", mask == 1, colors)
        with Image.open(tmp_path / "b.png") as image:
            assert image.getpalette()[:6] == [0, 0, 0, 255, 0, 0]
    assert plainunet.read_mask(tmp_path / "b.png").tolist() == (mask == 1).astype(int).tolist()


# errors

GREY, WIDE = np.zeros((8, 9), np.uint8), np.full((8, 9), 300)
Call = Callable[[Path], Any]


def macro(confusion: Any) -> Any:
    return confusion[..., 0] * 1.0


def opened(run: Path) -> plainunet.SegmentationDataset:
    return plainunet.SegmentationDataset.open(run.with_name("data"))


WRONG: dict[str, tuple[Call, str, str]] = {
    "train: type of data": (lambda run: plainunet.train(3, run / "x"), "data", "int"),
    "train: out": (lambda run: plainunet.train(run, None), "out", "None"),
    "train: config": (lambda run: plainunet.train(run, run, {"epochs": 1}), "config", "epochs"),
    "train: reporter": (lambda run: plainunet.train(run, run, None, print), "reporter", "print"),
    "resume: out": (lambda run: plainunet.resume(3), "out", "3"),
    "evaluate: checkpoint": (lambda run: plainunet.evaluate(GREY, run), "checkpoint", "[8, 9]"),
    "evaluate: backend": (lambda run: plainunet.evaluate(run, run, backend="tf"), "backend", "tf"),
    "evaluate: device": (lambda run: plainunet.evaluate(run, run, device="gpu"), "device", "gpu"),
    "evaluate: precision": (
        lambda run: plainunet.evaluate(run, run, precision="fp8"),
        "precision",
        "fp8",
    ),
    "evaluate: rle": (lambda run: plainunet.evaluate(run, run, rle="up", **CPU), "rle", "up"),
    "compare: second": (lambda run: plainunet.compare(run, 3, run), "second", "3"),
    "compare: folder": (
        lambda run: plainunet.compare(run, run, run, folder={"image": "a"}, device="cpu"),
        "folder",
        "image",
    ),
    "check: data": (lambda run: plainunet.check(GREY), "data", "uint8"),
    "check: config": (lambda run: plainunet.check(run, ["a"]), "config", "['a']"),
    "crossval: folds": (lambda run: plainunet.cross_validate(run, run, folds="5"), "folds", "'5'"),
    "export: to": (lambda run: plainunet.export(run, "m.onnx", to="tflite"), "to", "tflite"),
    "export: keyword": (lambda run: plainunet.export(run, "m.onnx", bits=8), "bits", "known"),
    "export: out": (lambda run: plainunet.export(run, "m.h5"), "out", "m.h5"),
    "load: path": (lambda run: Predictor.load(3), "path", "3"),
    "load: threshold": (lambda run: Predictor.load(run, threshold=2), "threshold", "2"),
    "load: keyword": (lambda run: Predictor.load(run, treshold=1), "treshold", "threshold"),
    "load: memory": (lambda run: Predictor.load(run, memory="2G"), "memory", "2G"),
    "load: no memory": (lambda run: Predictor.load(run, memory=-1), "memory", "-1"),
    "load: precision": (lambda run: Predictor.load(run, precision="fp8"), "precision", "fp8"),
    "load: network": (lambda run: Predictor.load(run, network=5), "network", "got 5"),
    "load: factory": (lambda run: Predictor.load(run, network=make_network), "network", "U-Net"),
    "save: folder": (lambda run: Predictor.load(run).save_pretrained(5), "folder", "5"),
    "save: name": (lambda run: Predictor.load(run).save_pretrained(run / "x", name=7), "name", "7"),
    "save: license": (
        lambda run: Predictor.load(run).save_pretrained(run / "x", license=5),
        "license",
        "5",
    ),
    "fits_batch": (lambda run: Predictor.load(run).fits_batch(100), "size", "100"),
    "mask_bands": (lambda run: next(Predictor.load(run).mask_bands(GREY)), "image", "uint8"),
    "Card: names": (lambda run: plainunet.Card("ab", ((0, 0, 0),) * 2, None), "class_names", "ab"),
    "Card: size": (lambda run: plainunet.Card(("a", "b"), ((0, 0, 0),) * 2, 5), "size", "5"),
    "Predictor: network": (lambda run: Predictor("best"), "network", "best"),
    "image: shape": (lambda run: Predictor.load(run).predict(GREY[None, None]), "image", "[1, 1,"),
    "image: dtype": (lambda run: Predictor.load(run).predict(GREY > 0), "image", "bool"),
    "image: type": (lambda run: Predictor.load(run).predict(None), "image", "None"),
    "image: tensor": (lambda run: Predictor.load(run).predict(torch.zeros(1)), "image", "numpy()"),
    "image: path": (lambda run: Predictor.load(run).predict("a\0b"), "image", "a\\x00b"),
    "image: nested": (lambda run: Predictor.load(run).predict([[GREY]]), "image", "list"),
    "predict: nested": (lambda run: plainunet.predict(run, [[GREY]]), "images", "flat"),
    "predict: area": (lambda run: plainunet.predict(run, GREY, min_area=-1), "min_area", "-1"),
    "predict: overwrite": (
        lambda run: plainunet.predict(run, GREY, overwrite="yes"),
        "overwrite",
        "yes",
    ),
    "predict: reporter": (
        lambda run: plainunet.predict(run, GREY, reporter=print),
        "reporter",
        "print",
    ),
    "predict: model": (lambda run: plainunet.predict(None, "a.png"), "model", "None"),
    "predict: save": (
        lambda run: plainunet.predict(run, run, run, save=["overlays"]),
        "save",
        "overlays",
    ),
    "predict: array": (lambda run: plainunet.predict(run, GREY, run), "images", "[8, 9]"),
    "read_image: path": (lambda run: plainunet.read_image(GREY), "path", "uint8"),
    "read_mask: path": (lambda run: plainunet.read_mask(None), "path", "None"),
    "read_mask: empty": (lambda run: plainunet.read_mask(""), "path", "''"),
    **{
        f"save_mask: colors {colors!r}": (
            lambda run, colors=colors: plainunet.save_mask("m.png", GREY + 1, colors),
            "colors",
            "RGB",
        )
        for colors in (5, [], [[0, 0, 0]], [[0, 0], [1]], [[0, 0, 0], [0, 0, 300]], np.eye(3))
    },
    "save_mask: dtype": (
        lambda run: plainunet.save_mask("m.png", GREY / 2),
        "mask",
        "float64",
    ),
    "save_mask: shape": (lambda run: plainunet.save_mask("m.png", GREY[0]), "mask", "[9]"),
    "save_mask: range": (
        lambda run: plainunet.save_mask("m.png", WIDE),
        "mask",
        "300",
    ),
    "save_mask: path": (lambda run: plainunet.save_mask("m.jpg", GREY), "path", ".jpg"),
    "UNet: type": (lambda run: plainunet.UNet("3"), "in_channels", "'3'"),
    "UNet: range": (lambda run: plainunet.UNet(3, 1), "num_classes", "1"),
    "UNet: size": (lambda run: plainunet.UNet(1, 2, 1, 1).output_size("a", 3), "height", "'a'"),
    "UNet: keyword": (lambda run: plainunet.UNet(upsampling="up"), "upsampling", "up"),
    "dataset: known": (
        lambda run: plainunet.SegmentationDataset.open(run, {"ignore": 1}),
        "known",
        "ignore",
    ),
    "compare: folder is a str": (
        lambda run: plainunet.compare(run, run, run, folder="x", device="cpu"),
        "folder",
        "'x'",
    ),
    "evaluate: metrics": (
        lambda run: plainunet.evaluate(run, run, metrics=[macro, macro], **CPU),
        "metrics",
        "macro",
    ),
    "train: augment": (
        lambda run: plainunet.train(run.with_name("data"), run.with_name("x"), augment=5),
        "augment",
        "got 5",
    ),
    "load: scales": (lambda run: Predictor.load(run, scales=(0,)), r"^scales: [^;]*$", "0"),
    "dataset: index": (lambda run: opened(run)[:2], "index", "slice"),
    "dataset: subset": (lambda run: opened(run).subset([0, 99]), "indices", "99"),
    "dataset: split": (lambda run: opened(run).part("bogus"), "name", "bogus"),
    "dataset: no split": (lambda run: opened(run).part("train"), "name", "split"),
    "config: range": (lambda run: TrainConfig(epochs=-1), "epochs", "-1"),
    "config: keyword": (lambda run: TrainConfig(epoch=1), "epoch", "'epochs'"),
}


@pytest.mark.parametrize("name", WRONG)
def test_errors_name_the_argument_and_what_was_given(name: str, trained: Trained) -> None:
    call, argument, given = WRONG[name]
    with pytest.raises(ValueError, match=argument) as caught:
        call(trained.run)
    assert given in str(caught.value)


def test_unknown_metrics_and_classes_are_errors_with_a_code(trained: Trained) -> None:
    for wrong in ({"metric": "dise"}, {"aggregate": "mean"}, {"class_name": "cat"}):
        with pytest.raises(Error, match=next(iter(wrong))) as caught:
            trained.scores.score(**wrong)
        assert (caught.value.code, caught.value.path) == ("argument", None)
        assert str(caught.value) == caught.value.message


def test_errors_of_data_have_their_code_and_file(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(b"no image")
    with pytest.raises(Error) as caught:
        plainunet.read_image(path)
    assert caught.value.code == "not-an-image"


# types


@pytest.mark.slow
def test_a_users_project_passes_mypy(tmp_path: Path) -> None:
    """Against the installed package, without its plugins; and an error in it is found."""
    lines = TYPED.read_text(encoding="utf-8")
    (tmp_path / "good.py").write_text(lines, encoding="utf-8")
    bad = lines.replace("dice: float | None = scores.dice", "dice: str = scores.dice")
    (tmp_path / "bad.py").write_text(bad, encoding="utf-8")
    for name, code in (("good.py", 0), ("bad.py", 1)):
        words = [sys.executable, "-m", "mypy", "--strict", "--config-file=", "--cache-dir=c", name]
        done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == code, done.stdout
        assert ("str" in done.stdout) == (code == 1)
