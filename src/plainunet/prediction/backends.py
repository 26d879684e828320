"""What runs a network and computes with its logits: the one use of PyTorch in this package.

Images go in and masks come out as NumPy arrays. In between, logits stay where the network runs, as
`Logits`: here a Tensor, elsewhere it may be a NumPy array. Both can be sliced alike, and changed
by += and *=; anything else that is done with logits is a method of the backend.
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
"""[K, n, W] float32 where the network runs; of two classes [1, n, W], the second's logit minus the
first's, whose sigmoid is the second's probability."""
Turn = tuple[int, bool]
"""Quarter turns to the left, and whether left and right are exchanged before."""


class TorchBackend:
    """A `UNet` in PyTorch; what runs another kind of network needs the same attributes and methods.

    Attributes:
        network: The network.
        in_channels: Channels of the images that it takes.
        logit_channels: Channels of its logits: 1 for two classes, else K.
        base_channels: Channels of its finest features.
        depth: How often it halves the image.
        valid: Whether its convolutions are valid, so that logits are smaller than the image.
        can_tile: Whether tiles have the logits of the whole image: group and instance
            normalisation would see the tile.
        device: Where it runs; its text is "cpu" or the name of another device.
        precision: Arithmetic of its convolutions.
    """

    def __init__(
        self,
        network: UNet,
        device: str = "auto",
        precision: str = "auto",
        turns: Sequence[Turn] = ((0, False),),
    ) -> None:
        """Move a network to a device; it may be a live one, and its mode is left as it is."""
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
        """The rows and columns of an image that a valid network sees mirrored, beyond its edges."""
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
        """Logits [K, height, width] to be filled."""
        return torch.zeros(self.logit_channels, height, width, device=self.device)

    def move(self, values: NDArray[np.float32]) -> Tensor:
        """Bring what logits are multiplied by to where they are."""
        return torch.from_numpy(values).to(self.device)

    def concatenate(self, above: Tensor, below: Tensor) -> Tensor:
        """One band of rows from two."""
        return torch.cat([above, below], dim=1)

    def enlarge(
        self,
        logits: Tensor,
        rows: tuple[NDArray[np.int64], NDArray[np.int64]],
        shares: NDArray[np.float32],
        width: int,
    ) -> Tensor:
        """Bilinear interpolation: each row between two, as near to the second as its share."""
        upper, lower = (logits[:, torch.from_numpy(each)] for each in rows)
        mixed = torch.lerp(upper, lower, self.move(shares)[:, None])
        size = (mixed.shape[1], width)
        return F.interpolate(mixed[None], size=size, mode="bilinear", align_corners=False)[0]

    def mean(self, several: Iterable[Tensor]) -> Tensor:
        """Logits of the mean of probabilities; each is asked for when that before is dealt with."""
        return log_mean(several, dim=0)

    def is_finite(self, logits: Tensor) -> bool:
        """Whether all of them are numbers and finite."""
        return bool(logits.isfinite().all())

    def classes(self, logits: Tensor, threshold: float) -> NDArray[np.uint8]:
        """Class ids [n, W]; the threshold is put on the second of two classes."""
        if len(logits) > 1:
            ids = logits.argmax(dim=0)
        else:  # the sigmoid is monotonic, so its argument is compared
            ids = logits[0] >= float(torch.logit(torch.tensor(threshold, dtype=torch.float64)))
        chosen: NDArray[np.uint8] = ids.to(torch.uint8).cpu().numpy()
        return chosen

    def probabilities(self, logits: Tensor) -> NDArray[np.float32]:
        """Probabilities [K, n, W], which sum to 1 over K."""
        if len(logits) == 1:
            given = torch.cat([-logits, logits]).sigmoid()
        else:
            given = logits.softmax(dim=0)
        probabilities: NDArray[np.float32] = given.cpu().numpy()
        return probabilities

    def parameters(self) -> Iterator[bytes]:
        """The names and values of the network, which tell it from any other."""
        for name, value in sorted(self.network.state_dict().items()):
            yield name.encode() + value.cpu().contiguous().numpy().tobytes()

    def free_memory(self, message: str) -> bool:
        """Free memory after it has run out; whether computing is slower from here on."""
        return devices.free_memory(self.device, message)


@contextmanager
def _evaluating(network: UNet) -> Iterator[None]:
    """Have a network in eval mode, and afterwards in its own: a live one may be in training."""
    if not network.training:  # to say so to each of its parts takes as long as a small image
        yield
        return
    network.eval()
    try:
        yield
    finally:
        network.train()


def turn_images(batch: Tensor, turn: Turn) -> Tensor:
    """Flip and turn images [N, C, H, W]; the result has channels last in memory."""
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
    """Logits of the mean of the probabilities of `several`; of one, itself.

    A single element along `dim` is the difference of the logits of two classes.
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
