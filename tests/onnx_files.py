"""Exported models, as the tests of prediction without PyTorch need them."""

from pathlib import Path

import torch

from plainunet.deployment.graph import Pipeline
from plainunet.deployment.onnx_model import build_onnx, write_onnx
from plainunet.network.blocks import fold_batch_normalisation
from plainunet.network.card import versions, write_metadata
from plainunet.network.checkpoint import load_checkpoint


def export(checkpoint: Path, out: Path) -> Path:
    """Write a checkpoint as ONNX, without comparing the two."""
    network, card = load_checkpoint(checkpoint)
    fold_batch_normalisation(network)
    about = {"layout": "nhwc", "dtype": "uint8", "tile": None, "versions": versions()}
    metadata = write_metadata(network.architecture, card, precision="fp32", export=about)
    write_onnx(build_onnx(Pipeline(network, card), torch.uint8))(out, metadata)
    return out
