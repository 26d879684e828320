"""Int8: static quantisation of the network in an exported model.

The network between `NETWORK_INPUT` and `LOGITS` is calibrated on images and quantised by ONNX
Runtime, as weights and values with scales in the graph (QDQ), which ONNX Runtime and OpenVINO run
as int8. What comes before and after stays as it is.
"""

import copy
import logging
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from plainunet.errors import Error
from plainunet.prediction.exported import NETWORK_INPUT, cut_onnx, need, run_onnx
from plainunet.reporter import Reporter, silent

TOLERANCE = 0.002
"""Largest Dice lost by an int8 network, as 1 minus the Dice of its masks with those in fp32."""
_LAYERS = ("Conv", "ConvTranspose")
_CHECKED = 4
"""Each fourth image checks the network instead of calibrating it."""
_RANKED = 2
"""Number of images that tell how sensitive each layer is."""
Images = Sequence[NDArray[np.float32]]
"""Inputs of a network, each [N, C, h, w] in 0..1, of any size."""
Model = Any
"""An `onnx.ModelProto`."""


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
