"""The backend that runs a network and computes with its logits; only it uses PyTorch here.

Images go in and masks come out as NumPy arrays. In between, logits stay on the network's device as
`Logits`: here a Tensor, in another backend perhaps a NumPy array. Both support slicing, += and *=;
every other operation on logits is a method of the backend.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from plainunet.network import device as devices
from plainunet.network.unet import UNet, reflection_indices

Logits = Any
"""[K, n, W] float32 on the network's device. For two classes [1, n, W]: the second's logit minus
the first's, whose sigmoid is the second's probability."""
Turn = tuple[int, bool]
"""Quarter turns to the left, and whether the image is flipped left to right first."""


class TorchBackend:
    """A `UNet` in PyTorch; any other backend needs the same attributes and methods.

    Attributes:
        network: The network.
        in_channels: Number of image channels.
        logit_channels: Number of logit channels: 1 for two classes, else K.
        base_channels: Channels at full resolution.
        depth: Number of times that the network halves the image.
        valid: Whether its convolutions are valid (unpadded): logits are smaller than the image.
        can_tile: Whether tiles give the logits of the whole image. With group and instance
            normalisation they do not, because the statistics are those of the tile.
        device: The device; `str(device)` is "cpu" or the name of another device.
        precision: Precision of the convolutions.
    """

    def __init__(
        self,
        network: UNet,
        device: str = "auto",
        precision: str = "auto",
        turns: Sequence[Turn] = ((0, False),),
    ) -> None:
        """Move a network to a device; its train or eval mode is left unchanged."""
        self.device = devices.choose_device(device)
        self.precision = devices.choose_precision(precision, self.device)
        self.network = devices.to_device(network, self.device)
        self._turns = turns
        self.in_channels, self.depth = network.in_channels, network.depth
        self.logit_channels = 1 if network.num_classes == 2 else network.num_classes
        self.base_channels, self.valid = network.base_channels, network.valid
        self.input_size, self.output_size = network.input_size, network.output_size
        normalisation = network.architecture["normalisation"]
        self.can_tile = network.valid or normalisation not in ("group", "instance")

    def reflection_indices(self, size: tuple[int, int]) -> list[NDArray[np.int64]]:
        """Row and column indices of the mirrored image that a valid network sees."""
        return [indices.numpy() for indices in reflection_indices(self.network, size)]

    @torch.inference_mode()
    def run(self, images: NDArray[np.float32]) -> Tensor:
        """Logits [N, K, h, w] of images [N, H, W, C]: the mean over the test-time augmentation."""
        batch = torch.from_numpy(images).permute(0, 3, 1, 2).to(self.device)
        with _evaluating(self.network), devices.autocast(self.device, self.precision):
            return log_mean((self._logits(batch, turn) for turn in self._turns), dim=1)

    def _logits(self, batch: Tensor, turn: Turn) -> Tensor:
        logits: Tensor = self.network(turn_images(batch, turn)).float()
        if self.logit_channels == 1:
            logits = logits[:, 1:] - logits[:, :1]
        return turn_back(logits, turn)

    def zeros(self, height: int, width: int) -> Tensor:
        """Logits [K, height, width] of zeros."""
        return torch.zeros(self.logit_channels, height, width, device=self.device)

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
def _evaluating(network: UNet) -> Iterator[None]:
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
