"""What an exported file takes and gives, and its metadata; without PyTorch."""

from pathlib import Path
from typing import Any

from plainunet.network.card import read_card
from plainunet.prediction.exported import (
    need,
    onnx_metadata,
    open_onnx,
    open_openvino,
    openvino_metadata,
)
from plainunet.system import shorten

_LONGEST = 400
"""Most characters of a value."""


def read_contents(path: Path) -> list[tuple[str, str]]:
    """Describe an exported .onnx or .xml, as names and values.

    Raises:
        FileNotFoundError: The file does not exist.
        CheckpointError: It is not a file of `plainunet export`, or damaged.
        UnusableError: The library that reads it is not installed.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such model.")
    rows, metadata = (_of_onnx if path.suffix.lower() == ".onnx" else _of_openvino)(path)
    card = read_card(metadata, path)
    made = metadata.get("export")
    made = made if isinstance(made, dict) else {}
    rows += [
        ("precision", str(metadata.get("precision", "fp32"))),
        ("layout", str(made.get("layout", "nhwc"))),
        ("classes", ", ".join(card.class_names)),
        ("input size", _policy(card.size, card.factor)),
    ]
    if len(card.class_names) == 2:
        rows.append(("threshold", f"{card.threshold:g}"))
    architecture = metadata.get("architecture")
    if isinstance(architecture, dict):
        rows.append(
            ("network", ", ".join(f"{name} {value}" for name, value in architecture.items()))
        )
    rows += [(name, str(made[name])) for name in ("date", "checkpoint") if name in made]
    for name in ("check", "versions"):
        if isinstance(made.get(name), dict):
            rows.append((name, _listed(made[name])))
    return [(name, shorten(_printable(value), _LONGEST)) for name, value in rows]


def _printable(text: str) -> str:
    """Without the control characters, with which a file could change the terminal."""
    return "".join(each if each.isprintable() else "?" for each in text)


def _listed(values: dict[str, Any]) -> str:
    return ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in values.items())


def _policy(size: tuple[int, int] | None, factor: float) -> str:
    if size:
        return f"reduced to fit {size[0]} x {size[1]} (height x width)"
    return "the image's own size" if factor == 1 else f"{factor:g} of the image's sides"


def _of_onnx(path: Path) -> tuple[list[tuple[str, str]], dict[str, Any]]:
    model = open_onnx(path)
    kinds = need("onnx").TensorProto.DataType
    rows = [("format", f"ONNX, IR {model.ir_version}, {_opsets(model)}")]
    for kind, values in (("input", model.graph.input), ("output", model.graph.output)):
        for value in values:
            tensor = value.type.tensor_type
            shape = ", ".join(str(each.dim_param or each.dim_value) for each in tensor.shape.dim)
            rows.append((kind, f"{value.name} [{shape}] {kinds.Name(tensor.elem_type).lower()}"))
    rows.append(("operators", str(len(model.graph.node))))
    return rows, onnx_metadata(model, path)


def _opsets(model: Any) -> str:
    return ", ".join(f"opset {each.version} {each.domain}".strip() for each in model.opset_import)


def _of_openvino(path: Path) -> tuple[list[tuple[str, str]], dict[str, Any]]:
    model = open_openvino(path)
    rows = [("format", "OpenVINO")]
    for kind, values in (("input", model.inputs), ("output", model.outputs)):
        for value in values:
            shape = str(value.get_partial_shape())
            rows.append((kind, f"{value.any_name} {shape} {value.element_type.get_type_name()}"))
    rows.append(("operators", str(len(model.get_ops()))))
    return rows, openvino_metadata(model, path)
