"""A checkpoint's network run by OpenVINO: the same masks, and PyTorch where it is not worth it."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from plainunet.network.checkpoint import save_checkpoint
from plainunet.prediction import predict, torch_backend
from plainunet.prediction.drawing import write_rgb
from plainunet.prediction.exported import UnusableError
from plainunet.prediction.predict import predict_files
from plainunet.prediction.predictor import Predictor
from plainunet.prediction.record import RECORD

from ..models import make_card, make_network

pytest.importorskip("openvino")

SIZE = (40, 56)  # odd at the coarsest level


def noise(seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (90, 120, 3), np.uint8)


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    path = tmp_path / "model.safetensors"
    save_checkpoint(path, make_network(2), make_card(2, size=SIZE))
    return path


def load(checkpoint: Path, **options: Any) -> Predictor:
    return Predictor.load(checkpoint, device="cpu", precision="fp32", **options)


@pytest.mark.parametrize("tta", ["none", "mirror", "turns"])
def test_openvino_gives_the_same_masks(checkpoint: Path, tta: str) -> None:
    plain, fast = (load(checkpoint, backend=b, tta=tta) for b in ("torch", "openvino"))
    assert (plain.backend, fast.backend) == ("torch", "openvino")
    assert plain.digest() == fast.digest()
    for seed in range(3):
        image = noise(seed)
        difference = np.abs(plain.probabilities(image) - fast.probabilities(image))
        assert difference.max() < 1e-3
        assert (plain.predict(image) != fast.predict(image)).mean() < 1e-3


def test_a_network_without_one_input_size_is_refused(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "a.safetensors", make_network(2), make_card(2, size=None))
    with pytest.raises(UnusableError, match="plainunet export"):
        load(tmp_path / "a.safetensors", backend="openvino")


def test_auto_decides_by_what_is_gained(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    few = load(checkpoint)
    assert few.accelerate(noise(), 1) is None
    assert few.backend == "torch"
    monkeypatch.setattr(torch_backend, "GAIN", 0.0)
    many = load(checkpoint)
    assert many.accelerate(noise(), 10**9) is not None
    assert many.backend == "openvino"
    monkeypatch.setattr(torch_backend, "GAIN", 1e9)
    slower = load(checkpoint)
    slower.accelerate(noise(), 10**9)
    assert slower.backend == "torch"
    assert load(checkpoint, backend="torch").accelerate(noise(), 10**9) is None


def test_auto_keeps_pytorch_if_masks_would_change(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch_backend, "GAIN", 0.0)
    monkeypatch.setattr(torch_backend, "TOLERANCE", -1.0)
    predictor = load(checkpoint)
    before = predictor.predict(noise())
    assert "PyTorch" in (predictor.accelerate(noise(), 10**9) or "")
    assert predictor.backend == "torch"
    assert np.array_equal(predictor.predict(noise()), before)


def test_the_record_names_what_ran(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = [tmp_path / "in" / f"{number}.png" for number in range(3)]
    for number, path in enumerate(images):
        write_rgb(path, noise(number))
    monkeypatch.setattr(torch_backend, "GAIN", 0.0)
    monkeypatch.setattr(torch_backend, "WORTH", 0.0)
    for fewest, backend in ((4, "torch"), (3, "openvino")):
        monkeypatch.setattr(predict, "_FEWEST", fewest)
        out = tmp_path / backend
        assert len(predict_files(load(checkpoint), images, out).written) == 3
        assert json.loads((out / RECORD).read_text())["backend"] == backend
