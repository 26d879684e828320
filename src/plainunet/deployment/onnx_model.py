"""The pipeline as an ONNX model, and from it as an OpenVINO model.

Its three parts are exported one by one and joined, so that the network between `NETWORK_INPUT` and
`LOGITS` takes images of any size, though the scale policy may give it only one.
"""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from plainunet.deployment.graph import Pipeline, PrepareTile, RestoreTile, exporting
from plainunet.errors import Error
from plainunet.network.card import KEY
from plainunet.network.own import Network
from plainunet.prediction.exported import (
    LARGEST,
    LOGITS,
    NETWORK_INPUT,
    digest_onnx,
    digest_openvino,
    need,
)

OPSET, IR_VERSION = 18, 8
"""Versions that ONNX Runtime reads since 1.14 (early 2023)."""
IMAGE, PROBABILITIES, MASK = "image", "probabilities", "mask"
"""Names of the input and the outputs."""
_SHARED = {IMAGE, PROBABILITIES, MASK, NETWORK_INPUT, LOGITS}
_AXES = {0: "batch", 1: "height", 2: "width"}
_PLANAR = {0: "batch", 2: "height", 3: "width"}
_INNER = {0: "batch", 2: "inner_height", 3: "inner_width"}
_SMALL = 256
"""Tensors with fewer values stay in fp32."""
_OVERLAP = 15
"""Overlap of tiles in Deepness [% of the side]."""
Model = Any
"""An `onnx.ModelProto`."""


def build_onnx(pipeline: Pipeline, dtype: torch.dtype, tile: int | None = None) -> Model:
    """Export a pipeline for images of a dtype, or for float tiles of a height and width.

    The input `image` is [N, H, W, C]; the outputs are `probabilities` [N, K, H, W] float32 and
    `mask` [N, H, W] uint8. With a tile, the input is [N, C, tile, tile] float32, and the only
    output `probabilities`.

    Raises:
        ValueError: The model is larger than 2 GiB.
    """
    network, sizes = pipeline.network, pipeline.network.sizes
    ends: tuple[nn.Module, nn.Module]
    if tile:
        image = torch.zeros(2, network.in_channels, tile, tile)
        ends = PrepareTile(pipeline.prepare), RestoreTile(pipeline.restore)
        return _build(network, ends, (image, {0: "batch"}), [PROBABILITIES])
    image = torch.zeros(2, 4 * sizes.smallest + 3, 4 * sizes.smallest + 5, network.in_channels)
    ends = pipeline.prepare, pipeline.restore
    return _build(network, ends, (image.to(dtype), _AXES), [PROBABILITIES, MASK])


def build_planar(pipeline: Pipeline) -> Model:
    """Export a pipeline for images as floats in 0..1, channels first, of any size.

    The input `image` is [N, C, H, W] float32; the output `probabilities` is [N, K, H, W] float32.

    Raises:
        ValueError: The model is larger than 2 GiB.
    """
    network, least = pipeline.network, pipeline.network.sizes.smallest
    image = torch.zeros(2, network.in_channels, 4 * least + 3, 4 * least + 5)
    ends = PrepareTile(pipeline.prepare), RestoreTile(pipeline.restore, shifted=False)
    return _build(network, ends, (image, _PLANAR), [PROBABILITIES])


def _build(
    network: Network,
    ends: tuple[nn.Module, nn.Module],
    image: tuple[torch.Tensor, dict[int, str]],
    outputs: list[str],
) -> Model:
    """Export a network between its `ends`, which prepare an image and restore its size.

    `image` is an example of the input, with the names of its dynamic axes.
    """
    prepare, restore = ends
    sizes = network.sizes
    # two of everything: an export fixes lengths of one
    height, width = sizes.input_size(2 * sizes.smallest + 3, 2 * sizes.smallest + 5)
    inner = torch.zeros(2, network.in_channels, height, width)
    with torch.inference_mode():
        logits = network(inner)
    parts = [
        _export(prepare, {IMAGE: image}, [NETWORK_INPUT]),
        _export(network, {NETWORK_INPUT: (inner, _INNER)}, [LOGITS]),
        _export(restore, {LOGITS: (logits, _INNER), IMAGE: image}, outputs),
    ]
    model = join(parts, outputs)
    if model.ByteSize() > LARGEST:
        raise Error("The model is larger than 2 GiB, the limit of ONNX files.")
    return model


def _export(
    module: nn.Module, inputs: dict[str, tuple[torch.Tensor, dict[int, str]]], outputs: list[str]
) -> Model:
    """Export a module; `inputs` are an example of each and the names of its dynamic axes."""
    examples = tuple(example for example, _ in inputs.values())
    axes = tuple(names for _, names in inputs.values())
    with exporting(module, "onnx"), torch.inference_mode():
        program = torch.onnx.export(
            module.eval(),
            examples,
            dynamo=True,
            opset_version=OPSET,
            input_names=list(inputs),
            output_names=outputs,
            dynamic_shapes=axes,
            verbose=False,
        )
        assert program is not None  # it is with dynamo=False
        model = program.model_proto
        if others := {node.domain for node in model.graph.node} - {""}:
            raise Error(f"its operators of {', '.join(others)} are not part of ONNX")
    return model


def join(parts: list[Model], outputs: Sequence[str]) -> Model:
    """Join models into one with these outputs; values of the names in `_SHARED` connect them."""
    helper = need("onnx").helper
    nodes, stored = [], []
    ends: dict[str, Any] = {}
    for number, part in enumerate(parts):
        graph = part.graph

        def own(name: str, prefix: str = f"{number}_") -> str:
            return name if name in _SHARED or not name else prefix + name

        for node in graph.node:
            made = helper.make_node(
                node.op_type,
                [own(each) for each in node.input],
                [own(each) for each in node.output],
                own(node.name),
                domain=node.domain,
            )
            made.attribute.extend(node.attribute)
            nodes.append(made)
        for tensor in graph.initializer:
            tensor.name = own(tensor.name)
            stored.append(tensor)
        ends |= {each.name: each for each in (*graph.input, *graph.output)}
    graph = helper.make_graph(
        nodes,
        KEY,
        [_plain(ends[IMAGE])],
        [_plain(ends[name]) for name in outputs],
        stored,
    )
    return helper.make_model(
        graph, ir_version=IR_VERSION, opset_imports=[helper.make_opsetid("", OPSET)]
    )


def _plain(value: Any) -> Any:
    """An input or output without the exporter's notes."""
    helper, kind = need("onnx").helper, value.type.tensor_type
    shape = [each.dim_param or each.dim_value for each in kind.shape.dim]
    return helper.make_tensor_value_info(value.name, kind.elem_type, shape)


def compress(model: Model) -> Model:
    """Store the weights in fp16, in place; the file converts them back when it is loaded."""
    onnx = need("onnx")
    casts = []
    for tensor in model.graph.initializer:
        if tensor.data_type != onnx.TensorProto.FLOAT or math.prod(tensor.dims) < _SMALL:
            continue
        name = tensor.name
        values = onnx.numpy_helper.to_array(tensor).astype(np.float16)
        tensor.CopyFrom(onnx.numpy_helper.from_array(values, f"{name}_fp16"))
        casts.append(
            onnx.helper.make_node("Cast", [tensor.name], [name], to=onnx.TensorProto.FLOAT)
        )
    nodes = [*casts, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    return model


def write_onnx(model: Model) -> Callable[[Path, Mapping[str, Any]], None]:
    """A function that writes a model to a file, with metadata as by `write_metadata`.

    They are JSON for this project, with a digest of the weights, and single keys for other
    programs.
    """
    weights = digest_onnx(model)

    def write(path: Path, metadata: Mapping[str, Any]) -> None:
        keys = {
            KEY: json.dumps({**metadata, "weights": weights}),
            "class_names": json.dumps(dict(enumerate(metadata["class_names"]))),
            "colors": json.dumps(metadata["colors"]),
            "threshold": json.dumps(metadata["threshold"]),
            "scores": json.dumps(metadata["scores"]),
            "version": metadata["export"]["versions"]["plainunet"],
        }
        if tile := metadata["export"]["tile"]:
            keys |= _deepness_keys(metadata, tile)
        model.producer_name, model.producer_version = KEY, keys["version"]
        del model.metadata_props[:]
        need("onnx").helper.set_model_props(model, keys)
        path.write_bytes(model.SerializeToString())

    return write


def _deepness_keys(metadata: Mapping[str, Any], tile: int) -> dict[str, str]:
    """What QGIS's plugin Deepness reads, as JSON; class names are in `class_names`."""
    # it sets probabilities below the threshold to 0, then takes the largest
    threshold = 0.5 if len(metadata["class_names"]) == 2 else 0.0
    values = {
        "model_type": "Segmentor",
        "tile_size": tile,
        "tiles_overlap": _OVERLAP,
        "seg_thresh": threshold,
        "seg_small_segment": 0,
    }
    return {name: json.dumps(value) for name, value in values.items()}


def build_openvino(model: Any, half: bool) -> Callable[[Path, Mapping[str, Any]], None]:
    """Convert an ONNX model; the function writes it as .xml, and the weights as .bin beside it.

    `half` stores weights in fp16. The metadata is JSON in the model's rt_info, with a digest of the
    .bin, which could be that of another model.
    """
    openvino = need("openvino")
    # not convert_model, which may send usage statistics
    converted = openvino.Core().read_model(model.SerializeToString())

    def write(path: Path, metadata: Mapping[str, Any]) -> None:
        openvino.save_model(converted, path, compress_to_fp16=half)  # for the .bin
        stored = {**metadata, "weights": digest_openvino(path)}
        converted.set_rt_info(json.dumps(stored), [KEY])
        openvino.save_model(converted, path, compress_to_fp16=half)

    return write
