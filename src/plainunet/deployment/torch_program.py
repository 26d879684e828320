"""The pipeline as a program of torch.export, for programs that use PyTorch without this package."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from plainunet.deployment.graph import Pipeline, quiet
from plainunet.network.card import KEY


def build_program(
    pipeline: Pipeline, dtype: torch.dtype
) -> Callable[[Path, Mapping[str, Any]], None]:
    """Export a pipeline for images of a dtype; the function writes it as .pt2.

    The input is [N, H, W, C], of any size; the outputs are probabilities [N, K, H, W] float32 and a
    mask [N, H, W] uint8. The metadata is JSON in the extra file "plainunet".
    """
    sizes, channels = pipeline.network.sizes, pipeline.network.in_channels
    image = torch.zeros(2, 4 * sizes.smallest + 3, 4 * sizes.smallest + 5, channels).to(dtype)
    pipeline.requires_grad_(False)  # whoever runs the program has no gradients to switch off
    axes = {axis: torch.export.Dim.DYNAMIC for axis in range(3)}
    with quiet(), torch.no_grad():
        program = torch.export.export(pipeline.eval(), (image,), dynamic_shapes=(axes,))

    def write(path: Path, metadata: Mapping[str, Any]) -> None:
        with quiet():
            torch.export.save(program, path, extra_files={KEY: json.dumps(metadata)})

    return write
