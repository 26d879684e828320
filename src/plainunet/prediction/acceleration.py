"""A checkpoint's network run by OpenVINO, where it is installed and faster than PyTorch."""

import time
from collections.abc import Callable
from importlib.util import find_spec

import numpy as np
import torch
from numpy.typing import NDArray

from plainunet.network.own import Network
from plainunet.prediction.exported import Run, compile_openvino, need
from plainunet.prediction.torch_backend import TorchBackend
from plainunet.reporter import drop_warnings

WORTH = 15.0
"""Least time that PyTorch would take for all images [s]: the conversion takes two or three."""
GAIN = 1.1
"""How many times faster OpenVINO must be at least."""
TOLERANCE = 0.001
"""Largest share of the network's output pixels whose class may change."""
_REPEATS = 3


def accelerate(backend: TorchBackend, images: NDArray[np.float32], count: float) -> str | None:
    """Let OpenVINO run a network from now on, for inputs of one size, if that is worth it.

    PyTorch runs it as before if OpenVINO is not installed, there is too little to gain, or the
    classes of the pixels are not the same; and always for inputs of other sizes.

    Args:
        backend: The network, on a CPU.
        images: A real input of the network [N, H, W, C], like those that follow.
        count: Number of inputs that follow.

    Returns:
        A note for the user; None if nothing was tried.
    """
    if find_spec("openvino") is None:
        return None
    seconds, logits = _timed(lambda: backend.run(images).numpy())
    if seconds * count < WORTH:
        return None
    try:
        backend.run_by(convert(backend, images), images)
        faster, others = _timed(lambda: backend.run(images).numpy())
    except Exception as error:  # of two libraries, for any reason: PyTorch can always run it
        backend.run_by(None, images)
        return f"OpenVINO cannot run this network ({type(error).__name__}); PyTorch does."
    changed = float((_ids(logits) != _ids(others)).mean())
    if changed <= TOLERANCE and seconds >= GAIN * faster:
        return (
            f"OpenVINO runs the network, {seconds / faster:.1f} times as fast as PyTorch here "
            f"({changed:.3%} of pixels change class); --backend torch does not use it."
        )
    backend.run_by(None, images)
    if changed > TOLERANCE:
        return f"PyTorch runs the network: with OpenVINO, {changed:.2%} of pixels change class."
    return None


def convert(backend: TorchBackend, images: NDArray[np.float32]) -> Run:
    """Compile a network for OpenVINO, in the backend's precision, for inputs like `images`.

    Raises:
        UnusableError: OpenVINO is not installed.
    """
    openvino = need("openvino")
    decode = need("openvino.frontend.pytorch.ts_decoder").TorchScriptPythonDecoder
    frontend = need("openvino.frontend").FrontEndManager().load_by_framework("pytorch")
    batch = torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()
    network: Network = backend.network
    with drop_warnings():  # of PyTorch's tracing, for its developers
        decoder = decode(network, example_input=batch)  # has to live until the conversion
        model = frontend.convert(frontend.load(decoder))
    model.reshape(openvino.PartialShape(list(batch.shape)))
    precision = "bf16" if backend.precision == torch.bfloat16 else "fp32"
    return compile_openvino(model, precision)


def _timed(
    run: Callable[[], NDArray[np.float32]],
) -> tuple[float, NDArray[np.float32]]:
    """The time of the fastest run [s], and its result."""
    times = []
    for _ in range(_REPEATS):
        begun = time.perf_counter()
        result = run()
        times.append(time.perf_counter() - begun)
    return min(times), result


def _ids(logits: NDArray[np.float32]) -> NDArray[np.intp]:
    """Class ids of logits [N, K, h, w] as in `backends.Logits`, with a threshold of one half."""
    if logits.shape[1] == 1:
        return (logits[:, 0] >= 0).astype(np.intp)
    ids: NDArray[np.intp] = logits.argmax(axis=1)
    return ids
