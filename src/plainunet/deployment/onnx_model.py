"""The pipeline as an ONNX model.

Its three parts are exported one by one and joined, so that the network between `NETWORK_INPUT` and
`LOGITS` takes images of any size, though the scale policy may give it only one.
"""

import json
import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from plainunet.deployment.graph import Pipeline
from plainunet.network.card import KEY, Card
from plainunet.prediction.exported import LOGITS, NETWORK_INPUT, need

OPSET, IR_VERSION = 18, 8
"""Versions that ONNX Runtime reads since 1.14 (early 2023)."""
IMAGE, PROBABILITIES, MASK = "image", "probabilities", "mask"
"""Names of the input and the outputs."""
_SHARED = {IMAGE, PROBABILITIES, MASK, NETWORK_INPUT, LOGITS}
_AXES = {0: "batch", 1: "height", 2: "width"}
_INNER = {0: "batch", 2: "inner_height", 3: "inner_width"}
Model = Any
"""An `onnx.ModelProto`."""


def build_onnx(pipeline: Pipeline, dtype: torch.dtype, metadata: Mapping[str, Any]) -> Model:
    """Export a pipeline for images of a dtype, with metadata as by `write_metadata`.

    The input `image` is [N, H, W, C]; the outputs are `probabilities` [N, K, H, W] float32 and
    `mask` [N, H, W] uint8.
    """
    network, sizes = pipeline.network, pipeline.network.sizes
    # two of everything: an export fixes lengths of one
    image = torch.zeros(2, 4 * sizes.smallest + 3, 4 * sizes.smallest + 5, network.in_channels)
    image = image.to(dtype)
    height, width = sizes.input_size(2 * sizes.smallest + 3, 2 * sizes.smallest + 5)
    inner = torch.zeros(2, network.in_channels, height, width)
    with torch.inference_mode():
        logits = network(inner)
    parts = [
        _export(pipeline.prepare, {IMAGE: (image, _AXES)}, [NETWORK_INPUT]),
        _export(network, {NETWORK_INPUT: (inner, _INNER)}, [LOGITS]),
        _export(
            pipeline.restore,
            {LOGITS: (logits, _INNER), IMAGE: (image, _AXES)},
            [PROBABILITIES, MASK],
        ),
    ]
    return describe(join(parts), metadata)


def _export(
    module: nn.Module, inputs: dict[str, tuple[torch.Tensor, dict[int, str]]], outputs: list[str]
) -> Model:
    """Export a module; `inputs` are an example of each and the names of its dynamic axes."""
    examples = tuple(example for example, _ in inputs.values())
    axes = tuple(names for _, names in inputs.values())
    with _quiet(), torch.inference_mode():
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
    return program.model_proto


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the exporter, whose warnings are for its developers."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def join(parts: list[Model]) -> Model:
    """Join models into one; values of the names in `_SHARED` connect them."""
    helper = need("onnx").helper
    nodes, stored = [], []
    inputs: dict[str, Any] = {}
    outputs: dict[str, Any] = {}
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
        inputs |= {each.name: each for each in graph.input}
        outputs |= {each.name: each for each in graph.output}
    graph = helper.make_graph(
        nodes,
        KEY,
        [_plain(inputs[IMAGE])],
        [_plain(outputs[name]) for name in (PROBABILITIES, MASK)],
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


def describe(model: Model, metadata: Mapping[str, Any]) -> Model:
    """Write metadata into a model: as JSON for this project, and single keys for other programs."""
    card = Card(**{name: metadata[name] for name in Card.__dataclass_fields__})
    keys = {
        KEY: json.dumps(metadata),
        "class_names": json.dumps(dict(enumerate(card.class_names))),
        "colors": json.dumps(card.colors),
        "threshold": json.dumps(card.threshold),
        "version": metadata["versions"]["plainunet"],
        "scores": json.dumps(card.scores),
    }
    model.producer_name, model.producer_version = KEY, keys["version"]
    need("onnx").helper.set_model_props(model, keys)
    return model
