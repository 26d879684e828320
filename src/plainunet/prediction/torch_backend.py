"""The backend of a network in PyTorch, and its acceleration by OpenVINO where that is faster."""

import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from plainunet.network import device as devices
from plainunet.network.own import Network
from plainunet.prediction.backends import Geometry, Turn, choose_classes, enlarge_array
from plainunet.prediction.exported import Run, compile_openvino, need
from plainunet.reporter import drop_warnings
from plainunet.system import fastest


class TorchBackend:
    """A `UNet` on a device; its logits are tensors there. See `backends.Backend`."""

    name = "torch"

    def __init__(
        self,
        network: Network,
        device: str = "auto",
        precision: str = "auto",
        turns: Sequence[Turn] = ((0, False),),
    ) -> None:
        """Move a network to a device; its train or eval mode is left unchanged."""
        self.device = devices.choose_device(device)
        self.precision = devices.choose_precision(precision, self.device)
        self.network = devices.to_device(network, self.device)
        self.geometry = Geometry.of(network.architecture)
        self._turns = turns
        self._other: tuple[tuple[int, ...], Run] | None = None

    def run_by(self, other: Run | None, images: NDArray[np.float32]) -> None:
        """Have another library run the network for inputs as large as `images` [N, H, W, C].

        None is PyTorch again. The network is on the CPU and no longer trained.
        """
        count, height, width, channels = images.shape
        self._other = other and ((count, channels, height, width), other)
        self.name = "openvino" if other else "torch"

    @torch.inference_mode()
    def run(self, images: NDArray[np.float32]) -> Tensor:
        """Logits [N, K, h, w] of images [N, H, W, C]: the mean over the test-time augmentation."""
        batch = torch.from_numpy(images).permute(0, 3, 1, 2).to(self.device)
        with _evaluating(self.network), devices.autocast(self.device, self.precision):
            return log_mean((self._logits(batch, turn) for turn in self._turns), dim=1)

    def _logits(self, batch: Tensor, turn: Turn) -> Tensor:
        logits = self._run(turn_images(batch, turn))
        if self.geometry.logit_channels == 1:
            logits = logits[:, 1:] - logits[:, :1]
        return turn_back(logits, turn)

    def _run(self, batch: Tensor) -> Tensor:
        if self._other and batch.shape == self._other[0]:
            return torch.from_numpy(self._other[1](batch.contiguous().numpy()))
        logits: Tensor = self.network(batch).float()
        return logits

    def zeros(self, height: int, width: int) -> Tensor:
        """Logits [K, height, width] of zeros."""
        return torch.zeros(self.geometry.logit_channels, height, width, device=self.device)

    def move(self, values: NDArray[np.float32]) -> Tensor:
        """Copy an array to the network's device."""
        return torch.from_numpy(values).to(self.device)

    def concatenate(self, above: Tensor, below: Tensor) -> Tensor:
        """Join two bands of rows."""
        return torch.cat([above, below], dim=1)

    def enlarge(
        self,
        logits: Tensor,
        rows: tuple[NDArray[np.int64], NDArray[np.int64]],
        fractions: NDArray[np.float32],
        width: int,
    ) -> Tensor:
        """Interpolate bilinearly; `fractions` [n] are the weights of the second of two rows."""
        if self.device.type == "cpu":
            return torch.from_numpy(enlarge_array(logits.numpy(), rows, fractions, width))
        upper, lower = (logits[:, torch.from_numpy(each)] for each in rows)
        mixed = torch.lerp(upper, lower, self.move(fractions)[:, None])
        size = (mixed.shape[1], width)
        return F.interpolate(mixed[None], size=size, mode="bilinear", align_corners=False)[0]

    def mean(self, several: Iterable[Tensor]) -> Tensor:
        """Logits of the mean of probabilities; `several` is consumed one by one."""
        return log_mean(several, dim=0)

    def is_finite(self, logits: Tensor) -> bool:
        """Whether all logits are finite."""
        return bool(logits.isfinite().all())

    def classes(self, logits: Tensor, threshold: float) -> NDArray[np.uint8]:
        """Class ids [n, W]; of two classes, the threshold applies to the second."""
        if self.device.type == "cpu":
            return choose_classes(logits.numpy(), threshold)
        if len(logits) > 1:
            ids = logits.argmax(dim=0)
        else:  # the sigmoid is monotonic, so its argument is compared
            ids = logits[0] >= float(torch.logit(torch.tensor(threshold, dtype=torch.float64)))
        chosen: NDArray[np.uint8] = ids.to(torch.uint8).cpu().numpy()
        return chosen

    def probabilities(self, logits: Tensor) -> NDArray[np.float32]:
        """Probabilities [K, n, W], which sum to 1 over K."""
        if len(logits) == 1:
            result = torch.cat([-logits, logits]).sigmoid()
        else:
            result = logits.softmax(dim=0)
        probabilities: NDArray[np.float32] = result.cpu().numpy()
        return probabilities

    def parameters(self) -> Iterator[bytes]:
        """Names and values of the network's parameters and buffers, for a digest."""
        for name, value in sorted(self.network.state_dict().items()):
            yield name.encode() + value.cpu().contiguous().numpy().tobytes()

    def free_memory(self, message: str) -> bool:
        """Free memory after it has run out. Returns whether inference is slower from now on."""
        return devices.free_memory(self.device, message)


@contextmanager
def _evaluating(network: Network) -> Iterator[None]:
    """Put a network in eval mode, and restore its mode afterwards: it may be in training."""
    if not network.training:  # eval() visits every module and takes as long as a small image
        yield
        return
    network.eval()
    try:
        yield
    finally:
        network.train()


def turn_images(batch: Tensor, turn: Turn) -> Tensor:
    """Flip and rotate images [N, C, H, W]; the result is channels-last in memory."""
    quarters, flip = turn
    batch = batch.flip(3) if flip else batch
    turned = batch.rot90(quarters, (2, 3)) if quarters else batch
    return turned.contiguous(memory_format=torch.channels_last)


def turn_back(batch: Tensor, turn: Turn) -> Tensor:
    """Undo `turn_images`."""
    quarters, flip = turn
    batch = batch.rot90(-quarters, (2, 3)) if quarters else batch
    return batch.flip(3) if flip else batch


def log_mean(several: Iterable[Tensor], dim: int) -> Tensor:
    """Logits of the mean of the probabilities of `several`; a single one is returned unchanged.

    A single element along `dim` is the difference between the logits of two classes.
    """
    rest = iter(several)
    first, count = next(rest), 1
    total: Tensor | None = None
    is_difference = first.shape[dim] == 1

    def in_logarithms(logits: Tensor) -> Tensor:
        if is_difference:
            return torch.cat([F.logsigmoid(logits), F.logsigmoid(-logits)], dim)
        return logits.log_softmax(dim)

    for logits in rest:
        total = in_logarithms(first) if total is None else total
        total, count = torch.logaddexp(total, in_logarithms(logits)), count + 1
    if total is None:
        return first
    if is_difference:
        above, below = total.chunk(2, dim)
        return above - below
    return total - math.log(count)


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
    logits, seconds = fastest(lambda: backend.run(images).numpy(), _REPEATS)
    if seconds * count < WORTH:
        return None
    try:
        backend.run_by(convert(backend, images), images)
        others, faster = fastest(lambda: backend.run(images).numpy(), _REPEATS)
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


def _ids(logits: NDArray[np.float32]) -> NDArray[np.intp]:
    """Class ids of logits [N, K, h, w] as in `backends.Logits`, with a threshold of one half."""
    if logits.shape[1] == 1:
        return (logits[:, 0] >= 0).astype(np.intp)
    ids: NDArray[np.intp] = logits.argmax(axis=1)
    return ids
