"""One small checkpoint and one exported model, shared by the tests: an export takes seconds."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray

from plainunet.deployment.graph import Pipeline
from plainunet.deployment.onnx_model import build_onnx, write_onnx
from plainunet.network.blocks import fold_batch_normalisation
from plainunet.network.card import Card, versions, write_metadata
from plainunet.network.checkpoint import save_checkpoint
from plainunet.network.unet import UNet

from ..models import make_card, make_network

Image = NDArray[Any]
ODD = ((101, 133), (48, 64), (96, 128), (60, 200), (9, 11))
"""Heights and widths: reduced by odd factors, kept, halved, wide, small."""


def draw_images(
    height: int, width: int, channels: int = 3, dtype: str = "uint8", count: int = 2
) -> Image:
    """Smooth images [count, H, W, C] that fill the range of their dtype."""
    rng = np.random.default_rng(height)
    coarse = rng.random((count, max(2, height // 8), max(2, width // 8), channels), np.float32)
    images = [cv2.resize(each, (width, height)).reshape(height, width, -1) for each in coarse]
    most = np.iinfo(dtype).max if dtype != "float32" else 1
    found: Image = (np.stack(images) * most).astype(dtype)
    return found


def folded(network: UNet) -> UNet:
    """The network as the Predictor runs it."""
    fold_batch_normalisation(network)
    return network


def to_file(path: Path, network: UNet, card: Card, dtype: str = "uint8") -> Path:
    """Export to ONNX without any check."""
    card = replace(card, versions=versions())
    made = {"tile": None, "versions": versions(), "layout": "nhwc"}
    metadata = write_metadata(network.architecture, card, precision="fp32", export=made)
    pipeline = Pipeline(folded(network), card)
    write_onnx(build_onnx(pipeline, getattr(torch, dtype)))(path, metadata)
    return path


def run_whole(path: Path, images: Image) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """Probabilities [N, K, H, W] and masks [N, H, W] of a whole file."""
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    probabilities, masks = session.run(None, {"image": images})
    return probabilities, masks


@pytest.fixture(scope="session")
def network() -> UNet:
    return folded(make_network(2))


@pytest.fixture(scope="session")
def card() -> Card:
    return make_card(2, size=(48, 64), threshold=0.3)


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory, network: UNet, card: Card) -> Path:
    """An exported .onnx of two classes; not to be changed."""
    return to_file(tmp_path_factory.mktemp("exported") / "model.onnx", network, card)


@pytest.fixture
def make_checkpoint(tmp_path: Path) -> Callable[..., Path]:
    """Write a checkpoint of a small network; the settings are those of its card."""

    def make(classes: int = 2, **settings: Any) -> Path:
        path = tmp_path / "checkpoint.safetensors"
        card = make_card(classes, **{"size": (48, 64), **settings})
        save_checkpoint(path, make_network(classes), replace(card, versions=versions()))
        return path

    return make
