"""ONNX files: what is in them, and that they compute what the checkpoint does."""

import json
import os
import subprocess
import venv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from plainunet.deployment.onnx_model import compress, write_onnx
from plainunet.network.card import Card, CheckpointError
from plainunet.network.unet import UNet
from plainunet.prediction.exported import LOGITS, NETWORK_INPUT, OPERATORS, read_contents
from plainunet.prediction.predictor import Predictor

from ..models import as_predictor, make_card, make_network
from .conftest import ODD, draw_images, folded, run_whole, to_file


def compare(path: Path, network: UNet, card: Card, dtype: str = "uint8") -> None:
    """The whole file, and the network cut out of it, against the checkpoint."""
    expecting = as_predictor(network, card)
    cut = Predictor.load(path)
    assert cut.backend == "onnxruntime"
    for size in ODD:
        images = draw_images(*size, network.in_channels, dtype)
        probabilities, masks = run_whole(path, images)
        for image, found, mask in zip(images, probabilities, masks, strict=True):
            expected = expecting.probabilities(image)
            np.testing.assert_allclose(cut.probabilities(image), expected, atol=5e-3)
            np.testing.assert_allclose(found, expected, atol=0.03)
            assert np.abs(found - expected).mean() < 1e-3
            assert (mask != expecting.predict(image)).mean() < 1e-3


def test_a_file_computes_what_the_checkpoint_does(model: Path, network: UNet, card: Card) -> None:
    compare(model, network, card)


def test_old_programs_can_read_it(model: Path) -> None:
    parsed = onnx.load_model(model, load_external_data=False)
    onnx.checker.check_model(parsed)
    assert parsed.ir_version <= 9
    assert [(each.domain, each.version) for each in parsed.opset_import] == [("", 18)]
    assert not parsed.functions
    assert [each.name for each in parsed.graph.input] == ["image"]
    assert [each.name for each in parsed.graph.output] == ["probabilities", "mask"]
    shape = [
        each.dim_param or each.dim_value
        for each in parsed.graph.input[0].type.tensor_type.shape.dim
    ]
    assert shape == ["batch", "height", "width", 3]
    # the exporter's notes would name files of this machine
    assert not any(node.metadata_props or node.doc_string for node in parsed.graph.node)
    assert not any(each.external_data for each in parsed.graph.initializer)


def test_its_metadata_describe_it(model: Path, card: Card) -> None:
    keys = {each.key: each.value for each in onnx.load_model(model).metadata_props}
    assert json.loads(keys["class_names"]) == dict(zip("01", card.class_names, strict=True))
    assert json.loads(keys["colors"]) == [list(color) for color in card.colors]
    assert json.loads(keys["threshold"]) == card.threshold
    assert json.loads(keys["plainunet"])["architecture"]["depth"] == 2
    assert json.loads(keys["plainunet"])["precision"] == "fp32"
    rows = dict(read_contents(model))
    assert "opset 18" in rows["format"]
    assert "[batch, height, width, 3] uint8" in rows["input"]
    assert "48 x 64" in rows["input size"]


def network_operators(path: Path) -> set[str]:
    """Operators between the network's input and its logits."""
    graph = onnx.load_model(path).graph
    makers = {name: node for node in graph.node for name in node.output}
    wanted, seen = [LOGITS], set()
    kinds = set()
    while wanted:
        name = wanted.pop()
        if name in makers and name not in seen and name != NETWORK_INPUT:
            seen.add(name)
            kinds.add(makers[name].op_type)
            wanted += makers[name].input
    return kinds


def test_the_network_has_known_operators(model: Path) -> None:
    assert {"Conv", "ConvTranspose", "MaxPool"} <= network_operators(model) <= OPERATORS


def test_half_precision_halves_the_file(
    tmp_path: Path, network: UNet, card: Card, model: Path
) -> None:
    parsed = onnx.load_model(model)
    keys = {each.key: each.value for each in parsed.metadata_props}
    path = tmp_path / "half.onnx"
    write_onnx(compress(parsed))(path, json.loads(keys["plainunet"]))
    onnx.checker.check_model(onnx.load_model(path))
    assert path.stat().st_size < model.stat().st_size - 10_000
    images = draw_images(101, 133)
    found, _ = run_whole(path, images)
    np.testing.assert_allclose(found, run_whole(model, images)[0], atol=0.02)
    expected = Predictor.load(model).probabilities(images[0])
    np.testing.assert_allclose(Predictor.load(path).probabilities(images[0]), expected, atol=0.02)


EVERY: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "three": ({"classes": 3}, {"size": (48, 64)}, "uint8"),
    "grey16": ({"classes": 2, "channels": 1}, {"size": (48, 64)}, "uint16"),
    "float": ({"classes": 3, "channels": 4}, {"size": None, "factor": 0.3}, "float32"),
    "half": ({"classes": 3}, {"size": None, "factor": 0.5}, "uint8"),
    "native": ({"classes": 2, "depth": 1}, {"size": None}, "uint8"),
    "group": (
        {"classes": 2, "normalisation": "group", "residual": True, "attention": True},
        {"size": None},
        "uint8",
    ),
    "instance": (
        {"normalisation": "instance", "upsampling": "bilinear", "deep_supervision": True},
        {"size": (60, 80)},
        "uint8",
    ),
    "deep": ({"classes": 2, "depth": 5, "base_channels": 2}, {"size": (60, 80)}, "uint8"),
    "valid": ({"classes": 2, "valid": True, "normalisation": "none"}, {"size": (48, 64)}, "uint8"),
    "valid-native": (
        {"valid": True, "normalisation": "none", "attention": True, "residual": True},
        {"size": None},
        "uint8",
    ),
}
"""Arguments of the network, the card, and the dtype."""


@pytest.mark.slow
@pytest.mark.parametrize("kind", EVERY)
def test_every_architecture_and_policy(kind: str, tmp_path: Path) -> None:
    arguments, policy, dtype = EVERY[kind]
    network = folded(make_network(**arguments))
    card = make_card(network.num_classes, **policy)
    path = to_file(tmp_path / "model.onnx", network, card, dtype)
    assert network_operators(path) <= OPERATORS
    compare(path, network, card, dtype)


OLD = """
import sys, numpy, onnxruntime
images = numpy.load(sys.argv[2])
session = onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
probabilities, masks = session.run(None, {"image": images})
numpy.savez(sys.argv[3], probabilities=probabilities, masks=masks)
"""


@pytest.fixture(scope="session")
def old_python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment with ONNX Runtime of March 2024."""
    folder = tmp_path_factory.mktemp("old") / "venv"
    venv.create(folder, with_pip=True)
    python = folder / ("Scripts" if os.name == "nt" else "bin") / "python"
    words = [python, "-m", "pip", "install", "-q", "onnxruntime==1.17.3", "numpy<2"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        reason = f"ONNX Runtime 1.17 cannot be installed: {done.stderr[-200:]}"
        pytest.fail(reason) if "CI" in os.environ else pytest.skip(reason)
    return python


@pytest.mark.slow
def test_an_old_onnx_runtime_computes_the_same(
    old_python: Path, model: Path, tmp_path: Path
) -> None:
    images = draw_images(101, 133)
    np.save(tmp_path / "images.npy", images)
    words = [old_python, "-c", OLD, model, tmp_path / "images.npy", tmp_path / "found.npz"]
    subprocess.run(words, check=True)
    probabilities, masks = run_whole(model, images)
    with np.load(tmp_path / "found.npz") as found:
        np.testing.assert_allclose(found["probabilities"], probabilities, atol=1e-4)
        assert (found["masks"] != masks).mean() < 1e-3


def with_outside_weights(parsed: Any) -> None:
    tensor = next(each for each in parsed.graph.initializer if len(each.dims) == 4)
    onnx.external_data_helper.set_external_data(tensor, "/etc/passwd")
    tensor.ClearField("raw_data")


def with_unknown_operator(parsed: Any) -> None:
    next(node for node in parsed.graph.node if node.op_type == "Relu").op_type = "Loop"


def with_altered_weights(parsed: Any) -> None:
    tensor = next(each for each in parsed.graph.initializer if len(each.dims) == 4)
    tensor.raw_data = bytes([tensor.raw_data[0] ^ 1]) + tensor.raw_data[1:]


def change_metadata(parsed: Any, **values: Any) -> None:
    for each in parsed.metadata_props:
        if each.key == "plainunet":
            each.value = json.dumps({**json.loads(each.value), **values})


def with_newer_format(parsed: Any) -> None:
    change_metadata(parsed, format=99)


def with_another_architecture(**arguments: Any) -> Callable[[Any], None]:
    """A change of the metadata, which the network then does not match."""

    def change(parsed: Any) -> None:
        metadata = json.loads({each.key: each.value for each in parsed.metadata_props}["plainunet"])
        classes = arguments.get("num_classes", 2)
        change_metadata(
            parsed,
            architecture=metadata["architecture"] | arguments,
            class_names=[str(number) for number in range(classes)],
            colors=[[0, 0, 0]] * classes,
        )

    return change


def without_metadata(parsed: Any) -> None:
    del parsed.metadata_props[:]


def without_logits(parsed: Any) -> None:
    for node in parsed.graph.node:
        for names in (node.input, node.output):
            for at, name in enumerate(names):
                names[at] = "other" if name == LOGITS else name


@pytest.mark.parametrize(
    "damage",
    [
        with_outside_weights,
        with_unknown_operator,
        with_altered_weights,
        with_another_architecture(num_classes=200),
        with_another_architecture(in_channels=4),
        with_another_architecture(valid=True),
        with_newer_format,
        without_metadata,
        without_logits,
    ],
)
def test_a_hostile_file_is_refused(damage: Any, model: Path, tmp_path: Path) -> None:
    parsed = onnx.load_model(model)
    damage(parsed)
    path = tmp_path / "hostile.onnx"
    path.write_bytes(parsed.SerializeToString())
    with pytest.raises(CheckpointError, match=r"hostile\.onnx"):
        Predictor.load(path)
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_does_not_control_the_terminal(model: Path, tmp_path: Path) -> None:
    parsed, path = onnx.load_model(model), tmp_path / "model.onnx"
    change_metadata(parsed, class_names=["a\x1b[31m", "b\nc"])
    path.write_bytes(parsed.SerializeToString())
    assert dict(read_contents(path))["classes"] == "a?[31m, b?c"


@pytest.mark.parametrize("share", [0.0, 0.3, 0.99])
def test_a_truncated_file_is_refused(share: float, model: Path, tmp_path: Path) -> None:
    content, path = model.read_bytes(), tmp_path / "cut.onnx"
    path.write_bytes(content[: int(len(content) * share)])
    for read in (Predictor.load, read_contents):
        with pytest.raises(CheckpointError, match=r"cut\.onnx"):
            read(path)


def test_an_image_of_another_dtype_is_an_error_of_the_runtime(model: Path) -> None:
    images: NDArray[Any] = draw_images(48, 64, dtype="float32")
    with pytest.raises(Exception, match="uint8"):
        run_whole(model, images)
