"""The backend of a network in PyTorch."""

import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from plainunet.network import device as devices
from plainunet.network.own import Network
from plainunet.prediction.backends import Geometry, Turn, choose_classes, enlarge_array
from plainunet.prediction.exported import Run


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
