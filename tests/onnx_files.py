"""Exported networks, as the tests of prediction without PyTorch need them."""

import json
from pathlib import Path

import torch

from plainunet.network.blocks import fold_batch_normalisation
from plainunet.network.card import KEY, write_metadata
from plainunet.network.checkpoint import load_checkpoint
from plainunet.prediction.exported import LOGITS, NETWORK_INPUT


def export(checkpoint: Path, out: Path) -> Path:
    """Write the network of a checkpoint as ONNX, with its card."""
    import onnx

    network, card = load_checkpoint(checkpoint)
    architecture = network.architecture
    fold_batch_normalisation(network)
    sizes = {0: "batch", 2: torch.export.Dim("height", min=8), 3: torch.export.Dim("width", min=8)}
    program = torch.onnx.export(
        network,
        (torch.zeros(2, architecture["in_channels"], 64, 96),),
        dynamo=True,
        opset_version=18,
        input_names=[NETWORK_INPUT],
        output_names=[LOGITS],
        dynamic_shapes=({0: torch.export.Dim("batch"), 2: sizes[2], 3: sizes[3]},),
        verbose=False,
    )
    assert program is not None
    model = program.model_proto
    metadata = write_metadata(architecture, card, precision="fp32")
    onnx.helper.set_model_props(model, {KEY: json.dumps(metadata)})
    out.write_bytes(model.SerializeToString())
    return out
