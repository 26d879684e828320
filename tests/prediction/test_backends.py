"""The backend of arrays computes what that of PyTorch does."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from plainunet.network.card import Card
from plainunet.network.unet import UNet
from plainunet.palette import default_colors
from plainunet.prediction.backends import ArrayBackend, Geometry
from plainunet.prediction.exported import ExportedNetwork
from plainunet.prediction.predictor import Predictor
from plainunet.prediction.torch_backend import TorchBackend
from plainunet.prediction.views import TTA


def network_of(classes: int = 2, **arguments: object) -> UNet:
    torch.manual_seed(classes)
    network = UNet(3, classes, base_channels=4, depth=2, **arguments).eval()  # type: ignore[arg-type]
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(1.5)
    return network


def exported(network: UNet) -> ExportedNetwork:
    """The same network as a function of arrays, as a file gives it."""

    def run(images: NDArray[np.float32]) -> NDArray[np.float32]:
        with torch.inference_mode():
            logits: NDArray[np.float32] = network(torch.from_numpy(images)).numpy()
        return logits

    return ExportedNetwork(run, network.architecture, "onnxruntime", "cpu", "fp32", "digest")


def backends(classes: int, tta: str = "none") -> tuple[TorchBackend, ArrayBackend]:
    network = network_of(classes)
    both = (
        TorchBackend(network, "cpu", "fp32", TTA[tta]),
        ArrayBackend(exported(network), TTA[tta]),
    )
    assert both[0].geometry == both[1].geometry
    return both


def random_images(count: int = 2) -> NDArray[np.float32]:
    return np.random.default_rng(0).random((count, 19, 27, 3), np.float32)


@pytest.mark.parametrize("classes", [2, 4])
@pytest.mark.parametrize("tta", list(TTA))
def test_logits_are_the_same(classes: int, tta: str) -> None:
    of_torch, of_arrays = backends(classes, tta)
    expected = of_torch.run(random_images()).numpy()
    np.testing.assert_allclose(of_arrays.run(random_images()), expected, atol=1e-4)


@pytest.mark.parametrize("classes", [2, 4])
def test_classes_and_probabilities_are_the_same(classes: int) -> None:
    of_torch, of_arrays = backends(classes)
    logits = of_torch.run(random_images())[0]
    for threshold in (0.0, 0.3, 0.5, 1.0):
        expected = of_torch.classes(logits, threshold)
        assert (of_arrays.classes(logits.numpy(), threshold) == expected).all()
    found = of_arrays.probabilities(logits.numpy())
    np.testing.assert_allclose(found, of_torch.probabilities(logits), atol=1e-6)
    assert found.shape == (classes, 19, 27)


@pytest.mark.parametrize("classes", [2, 4])
def test_means_and_enlarged_logits_are_the_same(classes: int) -> None:
    of_torch, of_arrays = backends(classes)
    several = list(of_torch.run(random_images(3)))
    expected = of_torch.mean(several).numpy()
    arrays = [each.numpy() for each in several]
    np.testing.assert_allclose(of_arrays.mean(arrays), expected, atol=1e-5)
    above, below = np.array([0, 0, 5, 17]), np.array([0, 1, 6, 18])
    fractions = np.array([0, 0.25, 0.5, 1], np.float32)
    wide = of_torch.enlarge(several[0], (above, below), fractions, 100).numpy()
    found = of_arrays.enlarge(arrays[0], (above, below), fractions, 100)
    np.testing.assert_allclose(found, wide, atol=1e-4)


def test_logits_that_are_far_apart_do_not_overflow() -> None:
    of_torch, of_arrays = backends(2)
    logits = np.array([[[-1e4, 0, 1e4, 90]]], np.float32)
    expected = of_torch.mean([torch.from_numpy(logits), torch.from_numpy(-logits)]).numpy()
    np.testing.assert_allclose(of_arrays.mean([logits, -logits]), expected, atol=1e-4)
    assert np.isfinite(of_arrays.probabilities(logits)).all()
    assert not of_arrays.is_finite(np.array([np.nan], np.float32))


@pytest.mark.parametrize(
    ("size", "factor"), [((24, 32), 1.0), (None, 0.5), (None, 1.0)], ids=["fit", "factor", "native"]
)
@pytest.mark.parametrize("classes", [2, 3])
def test_masks_are_the_same(size: tuple[int, int] | None, factor: float, classes: int) -> None:
    network = network_of(classes)
    names = tuple(map(str, range(classes)))
    card = Card(names, default_colors(classes), size=size, factor=factor, tta="mirror")
    image = (np.random.default_rng(1).random((301, 402, 3)) * 255).astype(np.uint8)
    for memory in (None, 3e7):  # whole and in tiles
        expected = Predictor(network, card, device="cpu", precision="fp32", memory=memory)
        predictor = Predictor(exported(network), card, memory=memory)
        assert predictor.backend == "onnxruntime"
        assert (predictor.predict(image) != expected.predict(image)).mean() < 1e-4
        probabilities = predictor.probabilities(image)
        np.testing.assert_allclose(probabilities, expected.probabilities(image), atol=1e-4)


def test_tiles_of_valid_convolutions_are_the_same() -> None:
    network = network_of(2, valid=True, normalisation="none")
    card = Card(("background", "cell"), default_colors(2), size=None)
    image = (np.random.default_rng(1).random((150, 120, 3)) * 255).astype(np.uint8)
    expected = Predictor(network, card, device="cpu", precision="fp32").probabilities(image)
    found = Predictor(exported(network), card).probabilities(image)
    np.testing.assert_allclose(found, expected, atol=1e-4)
    assert Geometry.of(network.architecture).valid


def test_an_exported_file_has_no_network_in_pytorch() -> None:
    with pytest.raises(ValueError, match="checkpoint"):
        _ = Predictor(exported(network_of())).network


def test_onnx_runtime_sends_no_usage_statistics(tmp_path: Path) -> None:
    """If it did, it would keep a device id and a queue in the home folder from its import on."""
    pytest.importorskip("onnxruntime")
    code = "from plainunet.prediction.exported import need; need('onnxruntime')"
    where = {**os.environ, "HOME": str(tmp_path)}
    del where["ORT_DISABLE_TELEMETRY"]
    subprocess.run([sys.executable, "-c", code], check=True, env=where)
    assert list(tmp_path.rglob("*")) == []
