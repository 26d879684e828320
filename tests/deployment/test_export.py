"""`plainunet export`: the file, the check, and what is refused."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from PIL import Image

from plainunet.__main__ import _run
from plainunet.config import ExportOptions
from plainunet.deployment import agreement
from plainunet.deployment import export as exporting
from plainunet.deployment.agreement import (
    Agreement,
    Example,
    Limit,
    agree,
    crop,
    find_calibration,
    find_examples,
    open_whole,
)
from plainunet.deployment.export import choose_dtype, export
from plainunet.deployment.onnx_model import build_openvino
from plainunet.network.card import Card, CheckpointError
from plainunet.network.checkpoint import load_checkpoint
from plainunet.network.unet import UNet
from plainunet.prediction.exported import read_contents
from plainunet.prediction.predictor import Predictor
from plainunet.reporter import Collected, silent

from ..models import as_predictor, make_card
from ..onnx_files import export as to_onnx
from .conftest import draw_images

Make = Callable[..., Path]


@pytest.fixture
def photos(tmp_path: Path) -> tuple[Path, ...]:
    paths = []
    for number, size in enumerate(((101, 133), (60, 80))):
        path = tmp_path / "photos" / f"{number}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(draw_images(*size)[0]).save(path)
        paths.append(path)
    return tuple(paths)


def files_in(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir() if path.is_file()}


def command(monkeypatch: pytest.MonkeyPatch, *words: str | Path) -> int:
    monkeypatch.setattr("sys.argv", ["plainunet", *map(str, words)])
    return _run()


def test_the_command_writes_one_file(
    make_checkpoint: Make,
    photos: tuple[Path, ...],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "made" / "model.pt2"
    folder = tmp_path / "new photos"
    folder.mkdir()
    words = ["export", make_checkpoint(), "--to", "torch", "--out", out, "--images", folder]
    assert command(monkeypatch, *words) == 2
    assert "holds no images" in capsys.readouterr().err
    for photo in photos:
        shutil.copy(photo, folder)
    assert command(monkeypatch, *words) == 0
    shown = capsys.readouterr().out
    assert str(out) in shown.replace("\n", "")
    assert "2 given images" in shown
    assert files_in(out.parent) == {"model.pt2"}
    stored = {"plainunet": ""}
    program = torch.export.load(out, extra_files=stored).module()
    probabilities, _ = program(torch.from_numpy(draw_images(48, 64)))
    assert not probabilities.requires_grad
    check = json.loads(stored["plainunet"])["export"]["check"]
    assert check["images"] == 2
    assert check["difference"] < 0.05


@pytest.mark.slow
def test_the_command_writes_an_onnx_file_that_predicts(
    make_checkpoint: Make,
    photos: tuple[Path, ...],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    checkpoint, out = make_checkpoint(), tmp_path / "made" / "model.onnx"
    words = ["export", checkpoint, "--out", out, "--images", *photos]  # .onnx says which format
    assert command(monkeypatch, *words) == 0
    assert files_in(out.parent) == {"model.onnx"}
    image = draw_images(101, 133)[0]
    expected = Predictor.load(checkpoint, device="cpu", precision="fp32").predict(image)
    assert (Predictor.load(out).predict(image) != expected).mean() < 1e-3
    assert json.loads(dict_of(out)["plainunet"])["export"]["check"]["images"] == 2
    capsys.readouterr()
    assert command(monkeypatch, "model", out) == 0
    assert "opset 18" in capsys.readouterr().out


def dict_of(path: Path) -> dict[str, str]:
    return {each.key: each.value for each in onnx.load_model(path).metadata_props}


REFUSED: dict[str, dict[str, Any]] = {
    "bf16 in ONNX": {"precision": "bf16"},
    "fp16 in torch": {"to": "torch", "precision": "fp16"},
    "TTA": {"tta": "flips"},
    "scales": {"scales": (1.0, 1.25)},
    "ensemble": {"ensemble": (Path("other.safetensors"),)},
    "Deepness in OpenVINO": {"to": "openvino", "layout": "deepness"},
    "tile of another layout": {"tile": 64},
    "another suffix": {"to": "openvino"},
    "no image": {"images": (Path("none.png"),)},
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_done_is_refused_first(
    case: str, make_checkpoint: Make, tmp_path: Path
) -> None:
    checkpoint, out = make_checkpoint(), tmp_path / "model.onnx"
    options = ExportOptions(**{"to": "onnx", **REFUSED[case]})
    with pytest.raises((ValueError, OSError)):
        export(checkpoint, out, options)
    assert files_in(tmp_path) == {checkpoint.name}


def test_a_tuned_checkpoint_needs_tta_none(make_checkpoint: Make, tmp_path: Path) -> None:
    checkpoint = make_checkpoint(tta="mirror")
    with pytest.raises(ValueError, match="--tta none"):
        export(checkpoint, tmp_path / "model.onnx", ExportOptions(to="onnx"))
    options, three = ExportOptions(to="onnx", threshold=0.4), make_checkpoint(3)
    with pytest.raises(ValueError, match="--threshold"):
        export(three, tmp_path / "model.onnx", options)


def test_another_file_is_not_overwritten(make_checkpoint: Make, tmp_path: Path) -> None:
    checkpoint, out = make_checkpoint(), tmp_path / "model.onnx"
    out.write_bytes(b"something else")
    with pytest.raises(ValueError, match=r"model\.onnx"):
        export(checkpoint, out, ExportOptions(to="onnx"))
    assert out.read_bytes() == b"something else"
    (tmp_path / "model.bin").write_bytes(b"weights of another program")
    with pytest.raises(ValueError, match=r"model\.bin"):
        export(checkpoint, tmp_path / "model.xml", ExportOptions(to="openvino"))


def test_a_missing_library_is_named(
    make_checkpoint: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exporting, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match="pip install onnx onnxscript onnxruntime"):
        export(make_checkpoint(), tmp_path / "model.onnx", ExportOptions(to="onnx"))


def test_a_library_in_a_package_of_another_name_has_a_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As ONNX Runtime in the package onnxruntime-gpu."""
    (tmp_path / "some_runtime.py").write_text('__version__ = "1.2"\n')
    monkeypatch.syspath_prepend(tmp_path)
    assert exporting._version("some_runtime") == "1.2"
    assert exporting._version("onnx") == onnx.__version__


def test_a_file_that_differs_is_not_kept(
    make_checkpoint: Make,
    photos: tuple[Path, ...],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    out = tmp_path / "new" / "model.pt2"
    monkeypatch.setitem(agreement.LIMITS, "fp32", Limit(-1.0, -1.0))
    with pytest.raises(ValueError, match="--force"):
        export(make_checkpoint(), out, ExportOptions(to="torch", images=photos))
    assert not out.parent.exists()


@pytest.mark.slow
def test_force_keeps_a_file_that_differs(
    make_checkpoint: Make,
    photos: tuple[Path, ...],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    checkpoint, out = make_checkpoint(), tmp_path / "new" / "model.pt2"
    monkeypatch.setitem(agreement.LIMITS, "fp32", Limit(-1.0, -1.0))
    forced = export(checkpoint, out, ExportOptions(to="torch", images=photos, force=True))
    assert files_in(out.parent) == {"model.pt2"}
    assert forced.agreement.difference < 0.05
    image = draw_images(77, 91)
    program = torch.export.load(out).module()
    with torch.inference_mode():
        _, masks = program(torch.from_numpy(image))
    expected = Predictor.load(checkpoint, device="cpu", precision="fp32").predict(image[1])
    assert (masks[1].numpy() != expected).mean() < 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("policy", [{"size": None, "factor": 0.5}, {"size": None}], ids=str)
def test_torch_programs_of_other_policies(
    policy: dict[str, Any], make_checkpoint: Make, photos: tuple[Path, ...], tmp_path: Path
) -> None:
    options = ExportOptions(to="torch", images=photos)
    made = export(make_checkpoint(3, **policy), tmp_path / "model.pt2", options)
    assert made.agreement.dice > 0.999


def test_a_better_file_is_within_any_limit() -> None:
    found = Agreement(1, 0.01, 0.9, -0.1, (1.0, 1.0))
    assert found.is_within(Limit(0.02, 0.0))
    assert not found.is_within(Limit(0.005, 0.0))
    assert not Agreement(1, 0.01, 0.9, None, (1.0, 1.0)).is_within(Limit(0.02, 0.05))


def test_a_wrong_file_is_found(network: UNet, card: Card) -> None:
    image = draw_images(60, 80)[0]
    truth = np.zeros((60, 80), np.uint8)
    predictor = as_predictor(network, card)

    def invert(given: Any) -> Any:
        return predictor.probabilities(given)[::-1], 1 - predictor.predict(given)

    found = agree(predictor, invert, [Example(image, truth)], silent)
    assert found.difference > 0.3
    assert found.dice < 0.1

    def broken(given: Any) -> Any:
        return predictor.probabilities(given) * np.float32(np.nan), predictor.predict(given)

    found = agree(predictor, broken, [Example(image, truth)], silent)
    assert not found.is_within(Limit(1.0, 1.0))


def test_openvino_computes_the_same(model: Path, network: UNet, card: Card, tmp_path: Path) -> None:
    metadata = json.loads(dict_of(model)["plainunet"])
    path = tmp_path / "model.xml"
    build_openvino(onnx.load_model(model), half=False)(path, metadata)
    assert files_in(tmp_path) == {"model.xml", "model.bin"}
    whole, cut = open_whole(path, "fp32"), Predictor.load(path)
    assert cut.backend == "openvino"
    for size in ((101, 133), (48, 64), (9, 11)):
        images = draw_images(*size)
        probabilities, masks = whole(images)
        for image, found, mask in zip(images, probabilities, masks, strict=True):
            expected = as_predictor(network, card).probabilities(image)
            np.testing.assert_allclose(found, expected, atol=0.03)
            np.testing.assert_allclose(cut.probabilities(image), expected, atol=1e-3)
            assert (mask != as_predictor(network, card).predict(image)).mean() < 1e-3
    assert dict(read_contents(path))["format"] == "OpenVINO"
    weights = path.with_suffix(".bin").read_bytes()
    path.with_suffix(".bin").write_bytes(weights[:-4] + b"else")  # as of another model
    for read in (Predictor.load, read_contents):
        with pytest.raises(CheckpointError, match=r"model\.bin"):
            read(path)
    path.with_suffix(".bin").unlink()
    for read in (Predictor.load, read_contents):
        with pytest.raises(CheckpointError, match=r"model\.xml"):
            read(path)
    path.with_suffix(".bin").write_bytes(weights)
    path.write_bytes(path.read_bytes()[:1000])
    for read in (Predictor.load, read_contents):
        with pytest.raises(CheckpointError, match=r"model\.xml"):
            read(path)


@pytest.mark.slow
def test_an_exported_file_is_evaluated_as_its_checkpoint(
    make_checkpoint: Make,
    small_data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    checkpoint = make_checkpoint(size=(48, 64))
    model = to_onnx(checkpoint, tmp_path / "model.onnx")
    dice = []
    for path in (checkpoint, model):
        words = ("evaluate", path, small_data, "--split", "all", "--precision", "fp32")
        scores, report = tmp_path / "scores.json", tmp_path / "report.html"
        flags = ("--html", report) if path == model else ()
        assert command(monkeypatch, *words, "--json", scores, *flags) == 0
        dice.append(json.loads(scores.read_text())["pooled"]["dice"]["mean_foreground"])
    assert "base channels" in report.read_text()
    assert dice[0] == pytest.approx(dice[1], abs=1e-3)
    assert command(monkeypatch, "compare", checkpoint, model, small_data, "--split", "all") == 0


def test_other_settings_have_no_scores() -> None:
    card = make_card(2, scores={"dice": 0.5})
    for threshold, scores in ((None, {"dice": 0.5}), (card.threshold, {"dice": 0.5}), (0.2, {})):
        options = ExportOptions(to="onnx", threshold=threshold)
        assert exporting._card_for_export(Path("a"), card, options, silent).scores == scores


def test_calibration_takes_any_folder(
    make_checkpoint: Make, small_data: Path, tmp_path: Path
) -> None:
    """Also if the run has a split, which the folder has not."""
    checkpoint = make_checkpoint()
    (checkpoint.parent / "split.csv").write_text("image,mask,split\n")
    options = ExportOptions(to="onnx", precision="int8", data=small_data)
    card = load_checkpoint(checkpoint)[1]
    assert len(list(find_calibration(checkpoint, card, 3, options, silent))) == 8


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
def test_openvino_in_every_precision(
    precision: Any, make_checkpoint: Make, photos: tuple[Path, ...], tmp_path: Path
) -> None:
    options = ExportOptions(to="openvino", precision=precision, images=photos, force=True)
    made = export(make_checkpoint(), tmp_path / "model.xml", options)
    assert made.agreement.dice > 0.98
    predictor = Predictor.load(tmp_path / "model.xml")
    assert predictor.precision == precision
    assert predictor.predict(draw_images(50, 70)[0]).shape == (50, 70)


@pytest.mark.slow
@pytest.mark.parametrize("classes", [2, 3])
def test_deepness_gets_what_it_reads(
    classes: int, make_checkpoint: Make, photos: tuple[Path, ...], tmp_path: Path
) -> None:
    out = tmp_path / "model.onnx"
    settings: dict[str, Any] = {"to": "onnx", "layout": "deepness", "tile": 96, "images": photos}
    made = export(make_checkpoint(classes), out, ExportOptions(**settings))
    assert made.agreement.dice > 0.999
    parsed = onnx.load_model(out)
    (given,), (returned,) = parsed.graph.input, parsed.graph.output
    shapes = [
        [each.dim_param or each.dim_value for each in value.type.tensor_type.shape.dim]
        for value in (given, returned)
    ]
    assert shapes == [["batch", 3, 96, 96], ["batch", classes, 96, 96]]
    keys = {name: value for name, value in dict_of(out).items() if name != "version"}
    assert json.loads(keys["model_type"]) == "Segmentor"
    assert json.loads(keys["tile_size"]) == 96
    assert len(json.loads(keys["class_names"])) == classes
    assert json.loads(keys["seg_thresh"]) == (0.5 if classes == 2 else 0)
    assert Predictor.load(out).predict(draw_images(50, 70)[0]).shape == (50, 70)


def test_a_tile_must_fit_the_network(make_checkpoint: Make, tmp_path: Path) -> None:
    checkpoint = make_checkpoint(size=None, factor=0.1)
    settings: dict[str, Any] = {"to": "onnx", "layout": "deepness", "tile": 16}
    with pytest.raises(ValueError, match="--tile 16"):
        export(checkpoint, tmp_path / "model.onnx", ExportOptions(**settings))


@pytest.mark.parametrize(
    ("known", "dtype"),
    [
        (["uint8"], "uint8"),
        (["uint16"], "uint16"),
        (["uint8", "uint16"], "float32"),
        (["float32"], "float32"),
        ([], "uint8"),
    ],
)
def test_the_input_has_the_dtype_of_training(known: list[str], dtype: str) -> None:
    assert choose_dtype(make_card(2, training={"dtypes": known})) == dtype


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
@pytest.mark.parametrize("channels", [1, 3, 5])
def test_images_are_drawn_if_there_are_none(channels: int, dtype: str, tmp_path: Path) -> None:
    card = make_card(2, training={"areas": [5000, 5000]})
    checkpoint = tmp_path / "checkpoint.safetensors"
    options = ExportOptions(to="onnx")
    found, described = find_examples(
        checkpoint, card, channels, np.dtype(dtype), options, Collected()
    )
    assert "synthetic" in described
    for each in found:
        assert each.image.dtype == dtype
        assert each.image.shape[2] == channels
        assert abs(each.image.shape[0] * each.image.shape[1] - 5000) < 1000
        assert each.image.std() > 0


def test_a_given_image_of_other_channels_is_named(photos: tuple[Path, ...], tmp_path: Path) -> None:
    options = ExportOptions(to="onnx", images=photos)
    with pytest.raises(ValueError, match=photos[0].name):
        find_examples(tmp_path, make_card(2), 5, np.dtype("uint8"), options, Collected())


def test_the_validation_images_of_the_run_are_found(small_data: Path, tmp_path: Path) -> None:
    from plainunet.config import TrainConfig
    from plainunet.training.train import train

    from ..models import SMALL

    run = tmp_path / "run"
    train(small_data, run, TrainConfig(**{**SMALL, "epochs": 1, "size": (32, 48)}))
    checkpoint, card = run / "best.safetensors", make_card(2, masks={})
    card = Predictor.load(checkpoint, device="cpu", precision="fp32").card
    options = ExportOptions(to="onnx")
    found, described = find_examples(checkpoint, card, 3, np.dtype("uint8"), options, Collected())
    assert "validation images" in described
    assert str(tmp_path) not in described  # it is stored in the file
    assert found
    assert all(each.truth is not None and each.truth.shape == (48, 64) for each in found)
    window = crop(found[0], 30)
    assert window.image.shape == (30, 30, 3)
    assert window.truth is not None
    assert window.truth.shape == (30, 30)
    small_data.rename(tmp_path / "moved")
    _, described = find_examples(checkpoint, card, 3, np.dtype("uint8"), options, Collected())
    assert "synthetic" in described
