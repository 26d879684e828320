"""Exported networks: the part of an ONNX or OpenVINO file between its input and its logits.

An exported file takes an image as stored and gives its mask, so that any program can use it alone
(see `deployment/`). The `Predictor` reduces, tiles and enlarges by itself, so it runs only the
network in the file: what lies between the values `NETWORK_INPUT` and `LOGITS`.
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, Field

from plainunet.config import BackendName
from plainunet.errors import Error
from plainunet.network.card import KEY, Card, CheckpointError, read_card, require_classes
from plainunet.network.sizes import Sizes
from plainunet.system import cores, shorten

# before ONNX Runtime is imported: it would send usage statistics (1.32 does)
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

NETWORK_INPUT = "network_input"
"""Name of the network's input in the file: [N, C, h, w] float32, as `UNet.forward` takes it."""
LOGITS = "logits"
"""Name of its logits: [N, K, h, w] float32."""
SUFFIXES = (".onnx", ".xml")
"""Suffixes of exported files: ONNX, and OpenVINO's own format (with a .bin beside)."""
LARGEST = 2**31 - 1
"""Largest ONNX file [bytes], a limit of its format."""
_LARGEST_TRIAL = 1024
"""Largest side of the image that a network is tried on [pixels]: damaged metadata may ask for any
depth."""
_LONGEST = 400
"""Most characters of a value that `read_contents` returns."""


OPERATORS = frozenset(
    """
    Add AveragePool BatchNormalization Cast Concat Constant Conv ConvTranspose DequantizeLinear Div
    Gather GroupNormalization Identity InstanceNormalization MaxPool Min Mul Pad QuantizeLinear Relu
    Reshape Resize Shape Sigmoid Slice Split Squeeze Sub Transpose Unsqueeze
    Abs And Ceil Clip Cos DepthToSpace Elu Equal Erf Exp Flatten Floor Gelu Gemm GlobalAveragePool
    GlobalMaxPool Greater GreaterOrEqual HardSigmoid HardSwish LayerNormalization LeakyRelu Less
    LessOrEqual Log LogSoftmax MatMul Max Mish Mod Neg Not Or PRelu Pow Reciprocal ReduceL2
    ReduceMax ReduceMean ReduceMin ReduceSum Round Selu Sign Sin Softmax Softplus Softsign
    SpaceToDepth Sqrt Sum Tanh Where
    """.split()  # noqa: SIM905
)
"""Operators of ONNX that an exported network may have: those of a U-Net, and more for networks that
users write. Others could take any amount of memory."""
Run = Callable[[NDArray[np.float32]], NDArray[np.float32]]
"""A network: images [N, C, h, w] to logits [N, K, h, w]."""
Loaded = tuple[Run, dict[str, Any], str]
"""The function of the network, the file's metadata, and the device."""


class UnusableError(Error):
    """The machine lacks what the file needs."""

    code = "unusable"


@dataclass
class ExportedNetwork:
    """A network that runs without PyTorch.

    Attributes:
        run: Images [N, C, h, w] float32 to logits [N, K, h, w] float32.
        architecture: The arguments of the `UNet` that it was.
        backend: "onnxruntime" or "openvino".
        device: "cpu" or "cuda".
        precision: That of its convolutions, for people.
        digest: SHA-256 of its file.
    """

    run: Run
    architecture: Mapping[str, Any]
    backend: str
    device: str
    precision: str
    digest: str


class _Architecture(BaseModel):
    """What tiling needs of the arguments of a `UNet`, within what a file may ask for."""

    in_channels: int = Field(ge=1, le=1000)
    num_classes: int = Field(ge=2, le=255)
    base_channels: int = Field(ge=1, le=4096)
    depth: int = Field(ge=1, le=10)
    normalisation: Literal["batch", "group", "instance", "none"]
    valid: bool


def load_exported(
    path: Path, backend: BackendName = "auto", device: str = "auto"
) -> tuple[ExportedNetwork, Card]:
    """Load the network of an exported file, and its card.

    Args:
        path: A file that `plainunet export` wrote: .onnx or .xml.
        backend: "onnxruntime" or "openvino"; "auto": ONNX Runtime for .onnx if it is installed,
            else OpenVINO. OpenVINO reads both.
        device: "auto", "cpu" or "cuda"; "auto" is CUDA if ONNX Runtime has it.

    Raises:
        FileNotFoundError: The file does not exist.
        CheckpointError: It is damaged, refers to other files, or is not of this project.
        UnusableError: What it needs is not installed, or the device does not exist.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such model.")
    is_onnx = path.suffix.lower() == ".onnx"
    if backend == "auto":
        missing = find_spec("onnxruntime") is None
        backend = (
            "openvino" if not is_onnx or (missing and find_spec("openvino")) else "onnxruntime"
        )
    if backend == "torch" or (backend == "onnxruntime" and not is_onnx):
        raise UnusableError(
            f"{path}: cannot be run by {backend}. Use the checkpoint, or --backend auto."
        )
    try:
        read = _read_onnx if backend == "onnxruntime" else _read_openvino
        run, metadata, where = read(path, device)
    except (CheckpointError, UnusableError):
        raise
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror or error}).") from error
    except Exception as error:  # each library has its own
        raise CheckpointError(
            f"{path}: not a model that {backend} can run ({_in_one_line(error)}). Export it again."
        ) from error
    card = read_card(metadata, path)
    try:
        architecture = _Architecture.model_validate(metadata.get("architecture")).model_dump()
        require_classes(card, architecture["num_classes"])
    except ValueError as error:
        raise CheckpointError(
            f"{path}: damaged metadata ({shorten(str(error), 200)}). Export it again."
        ) from error
    _require_match(run, architecture, path)
    precision = str(metadata.get("precision", "fp32"))
    return ExportedNetwork(run, architecture, backend, where, precision, _digest(path)), card


def _require_match(run: Run, architecture: dict[str, Any], path: Path) -> None:
    """Refuse a network that does not do what its metadata say, by a run on its smallest image."""
    sizes = Sizes.of(architecture)
    height, width = sizes.input_size(1, 1)
    if max(height, width) > _LARGEST_TRIAL:
        return
    expected = (1, architecture["num_classes"], *sizes.output_size(height, width))
    try:
        found = run(np.zeros((1, architecture["in_channels"], height, width), np.float32)).shape
    except Exception as error:  # each library has its own
        reason = _in_one_line(error)
    else:
        if found == expected:
            return
        reason = f"logits {list(found)} in place of {list(expected)}"
    raise CheckpointError(
        f"{path}: the network does not match its metadata ({reason}). Export it again."
    )


def _in_one_line(error: Exception) -> str:
    """What a library says; its messages have several lines."""
    return shorten(" ".join(str(error).split()), 200)


def _digest(path: Path) -> str:
    """SHA-256 of a file, and of the weights beside it."""
    digest = hashlib.sha256(path.read_bytes())
    if (weights := path.with_suffix(".bin")).is_file() and path.suffix.lower() == ".xml":
        digest.update(weights.read_bytes())
    return digest.hexdigest()


def need(library: str, package: str = "") -> ModuleType:
    """Import a library that only exported files, or large jobs, need.

    Raises:
        UnusableError: It is not installed; the message has the line that installs it, or `package`.
    """
    try:
        return import_module(library)
    except ModuleNotFoundError as error:
        wanted = package or error.name
        raise UnusableError(f"{library} is not installed. Run: pip install {wanted}") from None


def _read_onnx(path: Path, device: str) -> Loaded:
    """Load the network of an ONNX file into ONNX Runtime."""
    model = open_onnx(path)
    metadata = onnx_metadata(model, path)
    runtime = need("onnxruntime")
    usable = runtime.get_available_providers()
    providers = [("CUDAExecutionProvider", "cuda"), ("CPUExecutionProvider", "cpu")]
    chosen = [(name, kind) for name, kind in providers if name in usable]
    if device != "auto":
        chosen = [(name, kind) for name, kind in chosen if kind == device]
    if not chosen:
        kinds = ", ".join(kind for name, kind in providers if name in usable)
        raise UnusableError(
            f"--device {device}: ONNX Runtime cannot use it on this machine. Use auto, {kinds}."
        )
    session = _start_onnx(cut_onnx(model, path), [name for name, _ in chosen])
    is_cuda = session.get_providers()[0] == "CUDAExecutionProvider"
    return _running(session), metadata, "cuda" if is_cuda else "cpu"


def run_onnx(network: Any) -> Run:
    """Load a network, as by `cut_onnx`, into ONNX Runtime on the CPU.

    Raises:
        UnusableError: ONNX Runtime is not installed.
    """
    return _running(_start_onnx(network, ["CPUExecutionProvider"]))


def _start_onnx(network: Any, providers: list[str]) -> Any:
    runtime = need("onnxruntime")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = cores()
    options.log_severity_level = 4  # its errors are raised as well
    return runtime.InferenceSession(network.SerializeToString(), options, providers)


def _running(session: Any) -> Run:
    def run(images: NDArray[np.float32]) -> NDArray[np.float32]:
        try:
            logits: NDArray[np.float32] = session.run([LOGITS], {NETWORK_INPUT: images})[0]
        except Exception as error:  # its own types, which are no RuntimeError
            raise RuntimeError(str(error)) from error
        return logits

    return run


def open_onnx(path: Path) -> Any:
    """Parse an ONNX file, without following references to other files.

    Raises:
        CheckpointError: It is damaged, or refers to other files.
        UnusableError: `onnx` is not installed.
    """
    onnx = need("onnx")
    if path.stat().st_size > LARGEST:
        raise CheckpointError(f"{path}: larger than 2 GiB, the limit of ONNX files.")
    try:
        model = onnx.load_model_from_string(path.read_bytes())
    except Exception as error:  # protobuf's, whose type depends on its version
        raise CheckpointError(f"{path}: not an ONNX file, or damaged. Export it again.") from error
    if not model.graph.node:  # also of an empty file
        raise CheckpointError(f"{path}: not an ONNX file, or damaged. Export it again.")
    if any(tensor.data_location == onnx.TensorProto.EXTERNAL for tensor in _tensors(model.graph)):
        raise CheckpointError(
            f"{path}: refers to other files, which are not read. Export it again."
        )
    return model


def onnx_metadata(model: Any, path: Path) -> dict[str, Any]:
    """The metadata of plainunet in a parsed ONNX file.

    Raises:
        CheckpointError: There is none, or the weights are not those that were exported.
    """
    found = {each.key: each.value for each in model.metadata_props}
    metadata = _parse_metadata(found.get(KEY, ""), path, "ONNX")
    if metadata.get("weights", digest := digest_onnx(model)) != digest:
        raise CheckpointError(f"{path}: damaged weights (wrong checksum). Copy the file again.")
    return metadata


def _parse_metadata(text: str, path: Path, kind: str) -> dict[str, Any]:
    """The metadata of plainunet in a model of a kind, from their JSON."""
    try:
        metadata = json.loads(text)
    except ValueError:
        metadata = None
    if not isinstance(metadata, dict):
        raise CheckpointError(
            f"{path}: an {kind} model, but not one that plainunet export wrote (it has no metadata "
            "of it)."
        )
    return metadata


def digest_onnx(model: Any) -> str:
    """SHA-256 of the weights of a parsed ONNX model, in hexadecimal.

    Not of its bytes: another version of protobuf may write the same model differently.
    """
    to_array = need("onnx").numpy_helper.to_array
    digest = hashlib.sha256()
    for tensor in model.graph.initializer:
        digest.update(tensor.name.encode())
        digest.update(tensor.raw_data or to_array(tensor).tobytes())
    return digest.hexdigest()


def digest_openvino(path: Path) -> str:
    """SHA-256 of the .bin beside an OpenVINO .xml, in hexadecimal."""
    return hashlib.sha256(path.with_suffix(".bin").read_bytes()).hexdigest()


def _tensors(graph: Any) -> Iterator[Any]:
    """All tensors stored in an ONNX graph, also in the attributes of its nodes."""
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield from (sparse.values, sparse.indices)
    for node in graph.node:
        for attribute in node.attribute:
            yield from ([attribute.t] if attribute.HasField("t") else [])
            yield from attribute.tensors
            for inner in [*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs]:
                yield from _tensors(inner)


def cut_onnx(model: Any, path: Path) -> Any:
    """The part of a parsed ONNX model from the network's input to its logits.

    Raises:
        CheckpointError: There is none, or it has unknown operators.
    """
    onnx = need("onnx")
    makers = {output: node for node in model.graph.node for output in node.output}
    stored = {tensor.name: tensor for tensor in model.graph.initializer}
    needed, wanted = set(), [LOGITS]
    used: dict[str, Any] = {}
    while wanted:
        name = wanted.pop()
        if name in used or name in ("", NETWORK_INPUT):
            continue
        if name in stored:
            used[name] = stored[name]
        elif name in makers:
            used[name] = None
            needed.update(makers[name].output)
            wanted += makers[name].input
        else:
            raise CheckpointError(f"{path}: has no network that plainunet exported ({name!r}).")
    nodes = [node for node in model.graph.node if needed & set(node.output)]
    strange = {node.op_type for node in nodes if node.domain or node.op_type not in OPERATORS}
    if strange:
        raise CheckpointError(
            f"{path}: has operators that plainunet does not run ({', '.join(sorted(strange))}). "
            "Use the checkpoint."
        )
    real = onnx.TensorProto.FLOAT
    graph = onnx.helper.make_graph(
        nodes,
        "network",
        [onnx.helper.make_tensor_value_info(NETWORK_INPUT, real, ["N", "C", "h", "w"])],
        [onnx.helper.make_tensor_value_info(LOGITS, real, ["N", "K", "h'", "w'"])],
        [tensor for tensor in used.values() if tensor is not None],
    )
    return onnx.helper.make_model(
        graph, ir_version=model.ir_version, opset_imports=model.opset_import
    )


def _read_openvino(path: Path, device: str) -> Loaded:
    """Load the network of an ONNX file or of OpenVINO's own format into OpenVINO."""
    if device not in ("auto", "cpu"):
        raise UnusableError(f"--device {device}: OpenVINO runs on the CPU here. Use auto, cpu.")
    openvino = need("openvino")
    core = openvino.Core()
    if path.suffix.lower() == ".onnx":
        parsed = open_onnx(path)
        metadata = onnx_metadata(parsed, path)
        model = core.read_model(cut_onnx(parsed, path).SerializeToString())
    else:
        whole = open_openvino(path)
        metadata = openvino_metadata(whole, path)
        model = _cut_openvino(whole, path)
    return compile_openvino(model, metadata.get("precision", "fp32")), metadata, "cpu"


def open_openvino(path: Path) -> Any:
    """Parse an OpenVINO .xml and the .bin beside it.

    Raises:
        CheckpointError: The .bin is missing, or they are damaged.
        UnusableError: `openvino` is not installed.
    """
    weights = path.with_suffix(".bin")
    if not weights.is_file():
        raise CheckpointError(
            f"{weights}: no such file; it has the weights of {path.name}. Copy it there, or export "
            "again."
        )
    try:
        return need("openvino").Core().read_model(path)
    except RuntimeError as error:
        raise CheckpointError(
            f"{path}: not an OpenVINO model, or damaged (or {weights.name} is). Export it again."
        ) from error


def openvino_metadata(model: Any, path: Path) -> dict[str, Any]:
    """The metadata of plainunet in an OpenVINO model.

    Raises:
        CheckpointError: There is none, or the .bin beside is not the one that was exported.
    """
    try:
        text = model.get_rt_info([KEY]).astype(str)
    except RuntimeError:  # it has none
        text = ""
    metadata = _parse_metadata(text, path, "OpenVINO")
    if metadata.get("weights", digest := digest_openvino(path)) != digest:
        raise CheckpointError(
            f"{path.with_suffix('.bin')}: damaged, or of another model than {path.name} (wrong "
            "checksum). Copy both files again."
        )
    return metadata


def _cut_openvino(model: Any, path: Path) -> Any:
    """The part of an OpenVINO model from the network's input to its logits."""
    openvino = need("openvino")
    outputs = {
        name: output
        for operation in model.get_ordered_ops()
        for output in operation.outputs()
        for name in output.get_names()
    }
    if not {NETWORK_INPUT, LOGITS} <= outputs.keys():
        raise CheckpointError(f"{path}: has no network that plainunet exported.")
    channels = outputs[NETWORK_INPUT].get_partial_shape()[1]
    shape = openvino.PartialShape([-1, channels, -1, -1])
    parameter = openvino.opset13.parameter(shape, np.float32, name=NETWORK_INPUT)
    for target in outputs[NETWORK_INPUT].get_target_inputs():
        target.replace_source_output(parameter.output(0))
    return openvino.Model([outputs[LOGITS]], [parameter], "network")


HINTS = {"bf16": "bf16", "int8": "bf16"}
"""What OpenVINO computes in by the file's precision, where the processor has it; else float32."""
_FIXED = 2
"""Number of image sizes for which a network is compiled in addition to that of any size."""


def compile_openvino(model: Any, precision: str) -> Run:
    """Compile an OpenVINO network [N, C, h, w] for this CPU, to be run by the returned function.

    `precision` is that of the file. OpenVINO would take bf16 where the processor has it, so the
    precision is stated. A network of one size takes half of the time of one of any size, so the
    first sizes that occur twice get their own.
    """
    openvino = need("openvino")
    core = openvino.Core()
    options = {
        "INFERENCE_PRECISION_HINT": HINTS.get(precision, "f32"),
        "INFERENCE_NUM_THREADS": cores(),
        "PERFORMANCE_HINT": "LATENCY",
    }
    request = core.compile_model(model, "CPU", options).create_infer_request()
    fixed: dict[tuple[int, ...], Any] = {}
    seen: set[tuple[int, ...]] = set()

    def run(images: NDArray[np.float32]) -> NDArray[np.float32]:
        shape = images.shape
        if shape in seen and shape not in fixed and len(fixed) < _FIXED:
            own = model.clone()
            own.reshape(list(shape))
            fixed[shape] = core.compile_model(own, "CPU", options).create_infer_request()
        seen.add(shape)
        used = fixed.get(shape, request)
        logits: NDArray[np.float32] = used.infer([images], share_inputs=True)[0]
        return logits

    return run


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
    def show(value: Any) -> str:
        if isinstance(value, list):
            return " ".join(map(show, value))
        return f"{value:.4g}" if isinstance(value, float) else str(value)

    return ", ".join(f"{name.replace('_', ' ')} {show(value)}" for name, value in values.items())


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
