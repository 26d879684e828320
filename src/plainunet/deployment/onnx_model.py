"""The pipeline as an ONNX model, in fp32, fp16 or int8, and from it as an OpenVINO model.

Its three parts are exported one by one and joined, so that the network between `NETWORK_INPUT` and
`LOGITS` takes images of any size, though the scale policy may give it only one.

For int8, the network between them is calibrated on images and quantised by ONNX Runtime, as weights
and values with scales in the graph (QDQ), which ONNX Runtime and OpenVINO run as int8. What comes
before and after stays as it is.
"""

import copy
import json
import logging
import math
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from plainunet.deployment.graph import Pipeline, PrepareTile, RestoreTile, exporting
from plainunet.errors import Error
from plainunet.network.card import KEY
from plainunet.network.own import Network
from plainunet.prediction.exported import (
    LARGEST,
    LOGITS,
    NETWORK_INPUT,
    cut_onnx,
    digest_onnx,
    digest_openvino,
    need,
    run_onnx,
)
from plainunet.reporter import Reporter, silent

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
TOLERANCE = 0.002
"""Largest Dice lost by an int8 network, as 1 minus the Dice of its masks with those in fp32."""
_LAYERS = ("Conv", "ConvTranspose")
_CHECKED = 4
"""Each fourth image checks the network instead of calibrating it."""
_RANKED = 2
"""Number of images that tell how sensitive each layer is."""
Images = Sequence[NDArray[np.float32]]
"""Inputs of a network, each [N, C, h, w] in 0..1, of any size."""


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


@dataclass(frozen=True)
class Quantised:
    """An int8 model.

    Attributes:
        model: The `onnx.ModelProto`.
        floating: Names of the convolutions left in fp32.
        lost: 1 minus the Dice of its masks with those in fp32, on the images that check it.
    """

    model: Model
    floating: tuple[str, ...]
    lost: float


def quantise(
    model: Model, images: Images, tolerance: float = TOLERANCE, reporter: Reporter = silent
) -> Quantised:
    """Quantise the network in an exported ONNX model.

    If more than `tolerance` is lost, the most sensitive convolutions are left in fp32: one, two,
    four and so on, until less is lost or none are left.

    Args:
        model: The whole model in fp32; not changed.
        images: Inputs of its network as in training, 32 or more.
        tolerance: The Dice that may be lost.
        reporter: Receives notes on the layers left in fp32.

    Returns:
        The int8 model. If all its layers are sensitive, `lost` is still above the tolerance.

    Raises:
        UnusableError: ONNX Runtime or its quantisation is not installed.
        ValueError: There are no images.
    """
    if not images:
        raise Error("int8 needs images to calibrate the network. Pass --images or --data.")
    network = cut_onnx(model, Path("model.onnx"))
    checked = images[::_CHECKED]
    calibrating = [each for n, each in enumerate(images) if n % _CHECKED] or images
    truth = _logits(network, checked)
    layers = [node.name for node in network.graph.node if node.op_type in _LAYERS]

    def attempt(floating: Sequence[str]) -> Quantised:
        smaller = _quantise(network, calibrating, floating)
        lost = _masks_lost(truth, _logits(smaller, checked))
        return Quantised(smaller, tuple(floating), lost)

    best = attempt([])
    ranked = (
        _by_sensitivity(network, layers, calibrating[:_RANKED]) if best.lost > tolerance else []
    )
    count = 1
    while best.lost > tolerance and count < len(ranked):
        reporter.note(f"int8: {count} of {len(layers)} convolutions are left in fp32.")
        found = attempt(ranked[:count])
        best, count = min(found, best, key=lambda each: each.lost), 2 * count
    names = tuple(_layer_name(network, node) for node in best.floating)
    return Quantised(_replace(model, network, best.model), names, best.lost)


def _quantise(network: Model, images: Images, floating: Sequence[str]) -> Model:
    """Quantise all of a network but some nodes, and group and instance normalisation."""
    onnx, tools = need("onnx"), need("onnxruntime.quantization")
    norms = [node.name for node in network.graph.node if node.op_type == "InstanceNormalization"]
    with tempfile.TemporaryDirectory() as folder, _quiet():
        path = Path(folder) / "int8.onnx"
        tools.quantize_static(
            copy.deepcopy(network),
            path,
            _Reader(images),
            quant_format=tools.QuantFormat.QDQ,
            # what both ONNX Runtime and OpenVINO have kernels for
            activation_type=tools.QuantType.QUInt8,
            weight_type=tools.QuantType.QInt8,
            per_channel=True,
            nodes_to_exclude=[*floating, *norms],
        )
        model = onnx.load(path)
    model.ir_version = network.ir_version
    return model


class _Reader:
    """Hands images to the calibration, one after the other."""

    def __init__(self, images: Images) -> None:
        self._images: Iterator[NDArray[np.float32]] = iter(images)

    def get_next(self) -> dict[str, NDArray[np.float32]] | None:
        """The next input of the network, None after the last."""
        image = next(self._images, None)
        return None if image is None else {NETWORK_INPUT: image}


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the quantisation, whose warnings are for its developers."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)


def _logits(network: Model, images: Images) -> list[NDArray[np.float32]]:
    run: Callable[[NDArray[np.float32]], NDArray[np.float32]] = run_onnx(network)
    return [run(image) for image in images]


def _masks_lost(truth: Images, found: Images) -> float:
    """1 minus the Dice between the masks of two lists of logits, pooled over all classes but 0."""
    differing = foreground = 0
    for left, right in zip(truth, found, strict=True):
        one, other = left.argmax(axis=1), right.argmax(axis=1)
        wrong = one != other
        differing += int((wrong & (one > 0)).sum() + (wrong & (other > 0)).sum())
        foreground += int((one > 0).sum() + (other > 0).sum())
    return differing / max(foreground, 1)


def _by_sensitivity(network: Model, layers: Sequence[str], images: Images) -> list[str]:
    """Nodes by how much the logits change if it alone is quantised, the largest change first."""
    truth = _logits(network, images)
    changes = {}
    for layer in layers:
        others = [node.name for node in network.graph.node if node.name != layer]
        found = _logits(_quantise(network, images, others), images)
        changes[layer] = sum(
            float(np.square(one - other).mean()) for one, other in zip(truth, found, strict=True)
        )
    return sorted(layers, key=lambda layer: -changes[layer])


def _layer_name(network: Model, name: str) -> str:
    """The name of a convolution in the checkpoint, as in "downs.0.1.0"."""
    node = next(node for node in network.graph.node if node.name == name)
    return str(node.input[1]).removesuffix(".weight").partition("_")[2] or name


def _replace(model: Model, before: Model, after: Model) -> Model:
    """Replace the network `before` in a model by `after`, with the same input and output."""
    made = {output for node in before.graph.node for output in node.output}
    result = copy.deepcopy(model)
    own = [node for node in model.graph.node if not made & set(node.output)]
    # after the last of what gives the network's input: nothing else reads values of the network
    inputs = next(n for n, node in enumerate(own) if NETWORK_INPUT in node.output)
    del result.graph.node[:]
    result.graph.node.extend([*own[: inputs + 1], *after.graph.node, *own[inputs + 1 :]])
    read = {name for node in own for name in node.input}
    kept = [tensor for tensor in model.graph.initializer if tensor.name in read]
    known = {tensor.name for tensor in kept}
    added = [tensor for tensor in after.graph.initializer if tensor.name not in known]
    del result.graph.initializer[:]
    result.graph.initializer.extend([*kept, *added])
    del result.graph.value_info[:]
    return result


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
