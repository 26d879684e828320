"""Int8: accuracy, what stays as it is, and layers left in fp32."""

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from plainunet.config import ExportOptions
from plainunet.network.blocks import fold_batch_normalisation
from plainunet.network.card import versions, write_metadata
from plainunet.network.checkpoint import save_checkpoint
from plainunet.network.unet import UNet
from plainunet.prediction.drawing import write_rgb
from plainunet.prediction.exported import LOGITS, NETWORK_INPUT, cut_onnx, run_onnx
from plainunet.prediction.predictor import Predictor

from ..models import make_card

onnx = pytest.importorskip("onnx")
ort = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

from plainunet.deployment.agreement import LIMITS, Limit  # noqa: E402 (after the skips)
from plainunet.deployment.export import export  # noqa: E402
from plainunet.deployment.graph import Pipeline  # noqa: E402
from plainunet.deployment.onnx_model import TOLERANCE, build_onnx, quantise, write_onnx  # noqa: E402

SIZE = (48, 64)


def scene(seed: int, size: tuple[int, int] = SIZE) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """A noisy image with a bright disc, and its mask."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[: size[0], : size[1]]
    middle = rng.uniform(0.3, 0.7, 2) * size
    disc = np.hypot(rows - middle[0], columns - middle[1]) < rng.uniform(0.15, 0.25) * size[0]
    image = rng.normal(90, 25, (*size, 3)) + 60 * disc[..., None]
    return image.clip(0, 255).astype(np.uint8), disc.astype(np.uint8)


@pytest.fixture(scope="module")
def trained() -> UNet:
    """A network that was trained for seconds."""
    torch.manual_seed(0)
    trained = UNet(base_channels=4, depth=2)
    trained.set_normalisation([0.4] * 3, [0.15] * 3)
    optimiser = torch.optim.Adam(trained.parameters(), 1e-2)
    scenes = [scene(seed) for seed in range(64)]
    images = torch.from_numpy(np.stack([image for image, _ in scenes])).permute(0, 3, 1, 2) / 255
    masks = torch.from_numpy(np.stack([mask for _, mask in scenes])).long()
    for step in range(60):
        part = slice(8 * step % 64, 8 * step % 64 + 8)
        optimiser.zero_grad()
        F.cross_entropy(trained(images[part]), masks[part]).backward()
        optimiser.step()
    return trained


@pytest.fixture(scope="module")
def network(trained: UNet) -> UNet:
    """The same for inference."""
    folded = copy.deepcopy(trained)
    fold_batch_normalisation(folded)
    return folded


@pytest.fixture(scope="module")
def model(network: UNet) -> Any:
    """The whole exported model, in fp32."""
    return build_onnx(Pipeline(network, make_card(2, size=SIZE)), torch.uint8)


@pytest.fixture(scope="module")
def images() -> list[NDArray[np.float32]]:
    """Inputs of the network."""
    return [
        np.ascontiguousarray(
            (scene(seed)[0] / np.float32(255)).transpose(2, 0, 1)[None], np.float32
        )
        for seed in range(100, 116)
    ]


def run_whole(model: Any, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    options = ort.SessionOptions()
    options.log_severity_level = 3
    session = ort.InferenceSession(model.SerializeToString(), options, ["CPUExecutionProvider"])
    mask: NDArray[np.uint8] = session.run(["mask"], {"image": image[None]})[0][0]
    return mask


def agreement(one: NDArray[Any], other: NDArray[Any]) -> float:
    return float(2 * (one & other).sum() / (one.sum() + other.sum()))


def operators(model: Any) -> list[str]:
    return [node.op_type for node in model.graph.node]


def test_masks_stay_the_same(model: Any, images: list[NDArray[np.float32]]) -> None:
    before = model.SerializeToString()
    found = quantise(model, images)
    assert model.SerializeToString() == before
    assert found.lost <= TOLERANCE
    onnx.checker.check_model(found.model, full_check=True)
    weights = [each for each in found.model.graph.initializer if each.data_type == 3]  # int8
    assert len(weights) >= 10
    assert found.model.ByteSize() < model.ByteSize()
    for size in (SIZE, (97, 131)):
        image, truth = scene(7, size)
        mask, expected = run_whole(found.model, image), run_whole(model, image)
        assert mask.shape == truth.shape
        assert agreement(mask, expected) > 0.97
        assert agreement(mask, truth) > 0.8


@pytest.mark.slow
@pytest.mark.parametrize("normalisation", ["group", "instance"])
def test_networks_that_normalise_each_image(
    images: list[NDArray[np.float32]], normalisation: Any
) -> None:
    torch.manual_seed(0)
    network = UNet(base_channels=8, depth=2, normalisation=normalisation).eval()
    model = build_onnx(Pipeline(network, make_card(2, size=SIZE)), torch.uint8)
    found = quantise(model, images, tolerance=1.0)
    weights = [each for each in found.model.graph.initializer if each.data_type == 3]  # int8
    assert len(weights) >= 10
    for size in (SIZE, (97, 131)):
        image = scene(7, size)[0]
        assert (run_whole(found.model, image) == run_whole(model, image)).mean() > 0.9


def test_only_the_network_is_quantised(model: Any, images: list[NDArray[np.float32]]) -> None:
    found = quantise(model, images).model
    nodes = {output: node for node in found.graph.node for output in node.output}
    assert {NETWORK_INPUT, LOGITS} <= nodes.keys()
    outside = cut_onnx(model, Path())
    own = {output for node in outside.graph.node for output in node.output}
    kept = [node for node in model.graph.node if not own & set(node.output)]
    assert all(nodes[node.output[0]] == node for node in kept)
    assert [each.name for each in found.graph.input] == ["image"]
    assert [each.name for each in found.graph.output] == ["probabilities", "mask"]
    assert (found.ir_version, found.opset_import[0].version) == (8, 18)
    image = images[0]
    logits = run_onnx(cut_onnx(found, Path()))(image)
    assert np.abs(logits - run_onnx(outside)(image)).max() < 2


def test_sensitive_layers_stay_in_fp32(model: Any, images: list[NDArray[np.float32]]) -> None:
    """A channel of enormous weights ruins the int8 of one convolution's output."""
    damaged = type(model)()
    damaged.CopyFrom(model)
    names = [each.name for each in damaged.graph.initializer]
    layers = [node for node in damaged.graph.node if node.op_type == "Conv"]
    weights, following = layers[2].input[1], layers[3].input[1]
    first = damaged.graph.initializer[names.index(weights)]
    values = onnx.numpy_helper.to_array(first).copy()
    values[0] *= 3e4  # and the next convolution takes it back
    first.CopyFrom(onnx.numpy_helper.from_array(values, weights))
    bias = damaged.graph.initializer[names.index(layers[2].input[2])]
    values = onnx.numpy_helper.to_array(bias).copy()
    values[0] *= 3e4
    bias.CopyFrom(onnx.numpy_helper.from_array(values, layers[2].input[2]))
    second = damaged.graph.initializer[names.index(following)]
    values = onnx.numpy_helper.to_array(second).copy()
    values[:, 0] /= 3e4
    second.CopyFrom(onnx.numpy_helper.from_array(values, following))
    image, _ = scene(7)
    assert agreement(run_whole(damaged, image), run_whole(model, image)) > 0.999
    whole = quantise(damaged, images, tolerance=1.0)
    assert whole.floating == ()
    assert whole.lost > TOLERANCE
    found = quantise(damaged, images)
    assert found.lost < whole.lost
    assert found.floating
    assert all(name.startswith(("inlet", "downs", "ups", "head")) for name in found.floating)


def test_the_predictor_runs_it(
    tmp_path: Path, network: UNet, model: Any, images: list[NDArray[np.float32]]
) -> None:
    card = make_card(2, size=SIZE)
    export = {"versions": versions(), "tile": None}
    metadata = write_metadata(network.architecture, card, precision="int8", export=export)
    write_onnx(quantise(model, images).model)(tmp_path / "a.onnx", metadata)
    plain = Predictor(network, card, device="cpu", precision="fp32")
    backends = ["onnxruntime"]
    try:
        import openvino  # noqa: F401

        backends.append("openvino")
    except ImportError:
        pass
    image, _ = scene(7, (97, 131))
    for backend in backends:
        predictor = Predictor.load(tmp_path / "a.onnx", backend=backend)
        assert (predictor.backend, predictor.precision) == (backend, "int8")
        for _ in range(3):  # OpenVINO compiles for sizes that repeat
            assert agreement(predictor.predict(image), plain.predict(image)) > 0.97


def test_without_images(model: Any) -> None:
    with pytest.raises(ValueError, match="--images"):
        quantise(model, [])


@pytest.mark.slow
def test_export_keeps_int8_only_within_the_limit(
    tmp_path: Path, trained: UNet, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint, out = tmp_path / "best.safetensors", tmp_path / "model.onnx"
    save_checkpoint(checkpoint, trained, make_card(2, size=SIZE, versions=versions()))
    photos = []
    for seed in range(16):
        photos.append(tmp_path / f"{seed}.png")
        write_rgb(photos[-1], scene(seed)[0])
    options = ExportOptions(to="onnx", precision="int8", images=tuple(photos))
    with pytest.raises(ValueError, match="--data"):
        export(checkpoint, out, options.model_copy(update={"images": ()}))
    monkeypatch.setitem(LIMITS, "int8", Limit(1.0, -1.0))
    with pytest.raises(ValueError, match="--force"):
        export(checkpoint, out, options)
    assert not out.exists()
    monkeypatch.setitem(LIMITS, "int8", Limit(1.0, 0.03))
    assert export(checkpoint, out, options).agreement.dice > 0.97
    stored = {each.key: each.value for each in onnx.load_model(out).metadata_props}
    assert json.loads(stored["plainunet"])["precision"] == "int8"
    assert "QuantizeLinear" in {node.op_type for node in onnx.load_model(out).graph.node}
