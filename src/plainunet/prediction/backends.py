"""What runs a network and computes with its logits: one class for PyTorch, one for the others.

Images go in and masks come out as NumPy arrays. In between, logits stay on the network's device as
`Logits`. Without PyTorch, they are NumPy arrays. Both support slicing, += and *=; every other
operation on logits is a method of the backend.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, Self

import cv2
import numpy as np
from numpy.typing import NDArray

from plainunet.network.sizes import Sizes
from plainunet.prediction.exported import ExportedNetwork
from plainunet.system import give_freed_memory_back

Logits = Any
"""[K, n, W] float32 on the network's device. For two classes [1, n, W]: the second's logit minus
the first's, whose sigmoid is the second's probability."""
Turn = tuple[int, bool]
"""Quarter turns to the left, and whether the image is flipped left to right first."""


@dataclass(frozen=True)
class Geometry(Sizes):
    """What tiling needs to know of a network: also which image sizes fit it.

    Attributes:
        in_channels: Number of image channels.
        logit_channels: Number of logit channels: 1 for two classes, else K.
        base_channels: Channels at full resolution.
        can_tile: Whether tiles give the logits of the whole image. With group and instance
            normalisation they do not, because the statistics are those of the tile.
    """

    in_channels: int
    logit_channels: int
    base_channels: int
    can_tile: bool

    @classmethod
    def of(cls, architecture: Mapping[str, Any]) -> Self:
        """Take it from the arguments of a `UNet`."""
        sizes, classes = Sizes.of(architecture), architecture["num_classes"]
        return cls(
            **vars(sizes),
            in_channels=architecture["in_channels"],
            logit_channels=1 if classes == 2 else classes,
            base_channels=architecture["base_channels"],
            can_tile=sizes.valid or architecture["normalisation"] not in ("group", "instance"),
        )


class Backend(Protocol):
    """A network on a device.

    Attributes:
        name: What runs it: "torch", "onnxruntime" or "openvino".
        geometry: Its channels and sizes.
        device: The device; `str(device)` is "cpu" or the name of another device.
        precision: Precision of the convolutions, for people.
    """

    name: str
    geometry: Geometry
    device: Any
    precision: Any

    def run(self, images: NDArray[np.float32]) -> Logits:
        """Logits [N, K, h, w] of images [N, H, W, C]: the mean over the test-time augmentation."""

    def zeros(self, height: int, width: int) -> Logits:
        """Logits [K, height, width] of zeros."""

    def move(self, values: NDArray[np.float32]) -> Any:
        """Copy an array to the network's device."""

    def concatenate(self, above: Logits, below: Logits) -> Logits:
        """Join two bands of rows."""

    def enlarge(
        self,
        logits: Logits,
        rows: tuple[NDArray[np.int64], NDArray[np.int64]],
        fractions: NDArray[np.float32],
        width: int,
    ) -> Logits:
        """Interpolate bilinearly; `fractions` [n] are the weights of the second of two rows."""

    def mean(self, several: Iterable[Logits]) -> Logits:
        """Logits of the mean of probabilities; `several` is consumed one by one."""

    def is_finite(self, logits: Logits) -> bool:
        """Whether all logits are finite."""

    def classes(self, logits: Logits, threshold: float) -> NDArray[np.uint8]:
        """Class ids [n, W]; of two classes, the threshold applies to the second."""

    def probabilities(self, logits: Logits) -> NDArray[np.float32]:
        """Probabilities [K, n, W], which sum to 1 over K."""

    def parameters(self) -> Iterator[bytes]:
        """Everything that determines the logits, for a digest."""

    def free_memory(self, message: str) -> bool:
        """Free memory after it has run out. Returns whether inference is slower from now on."""


class ArrayBackend:
    """An exported network; its logits are NumPy arrays. See `Backend`."""

    def __init__(self, network: ExportedNetwork, turns: Sequence[Turn] = ((0, False),)) -> None:
        """Wrap a network; `turns` is the test-time augmentation."""
        self.network, self._turns = network, turns
        self.name, self.device, self.precision = network.backend, network.device, network.precision
        self.geometry = Geometry.of(network.architecture)

    def run(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        """As in `Backend`."""
        return log_mean((self._logits(images, turn) for turn in self._turns), axis=1)

    def _logits(self, images: NDArray[np.float32], turn: Turn) -> NDArray[np.float32]:
        quarters, flip = turn
        images = images[:, :, ::-1] if flip else images
        images = np.rot90(images, quarters, (1, 2)) if quarters else images
        logits = self.network.run(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))
        if self.geometry.logit_channels == 1:
            logits = logits[:, 1:] - logits[:, :1]
        logits = np.rot90(logits, -quarters, (2, 3)) if quarters else logits
        return logits[..., ::-1] if flip else logits

    def zeros(self, height: int, width: int) -> NDArray[np.float32]:
        """As in `Backend`."""
        return np.zeros((self.geometry.logit_channels, height, width), np.float32)

    def move(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        """As in `Backend`."""
        return values

    def concatenate(
        self, above: NDArray[np.float32], below: NDArray[np.float32]
    ) -> NDArray[np.float32]:
        """As in `Backend`."""
        return np.concatenate([above, below], axis=1)

    def enlarge(
        self,
        logits: NDArray[np.float32],
        rows: tuple[NDArray[np.int64], NDArray[np.int64]],
        fractions: NDArray[np.float32],
        width: int,
    ) -> NDArray[np.float32]:
        """As in `Backend`."""
        return enlarge_array(logits, rows, fractions, width)

    def mean(self, several: Iterable[NDArray[np.float32]]) -> NDArray[np.float32]:
        """As in `Backend`."""
        return log_mean(several, axis=0)

    def is_finite(self, logits: NDArray[np.float32]) -> bool:
        """As in `Backend`."""
        return bool(np.isfinite(logits).all())

    def classes(self, logits: NDArray[np.float32], threshold: float) -> NDArray[np.uint8]:
        """As in `Backend`."""
        return choose_classes(logits, threshold)

    def probabilities(self, logits: NDArray[np.float32]) -> NDArray[np.float32]:
        """As in `Backend`."""
        if len(logits) == 1:
            logits = np.concatenate([np.zeros_like(logits), logits])
        powers = np.exp(logits - logits.max(axis=0))
        result: NDArray[np.float32] = powers / powers.sum(axis=0)
        return result

    def parameters(self) -> Iterator[bytes]:
        """As in `Backend`."""
        yield self.network.digest.encode()

    def free_memory(self, message: str) -> bool:
        """As in `Backend`."""
        give_freed_memory_back()
        return False


def enlarge_array(
    logits: NDArray[np.float32],
    rows: tuple[NDArray[np.int64], NDArray[np.int64]],
    fractions: NDArray[np.float32],
    width: int,
) -> NDArray[np.float32]:
    """`Backend.enlarge` of an array; OpenCV takes a quarter of PyTorch's time on a CPU."""
    upper, mixed = (logits[:, each] for each in rows)
    mixed -= upper
    mixed *= fractions[:, None]
    mixed += upper
    result = np.empty((*mixed.shape[:2], width), np.float32)
    for plane, wide in zip(mixed, result, strict=True):
        cv2.resize(plane, (width, len(plane)), dst=wide, interpolation=cv2.INTER_LINEAR)
    return result


def choose_classes(logits: NDArray[np.float32], threshold: float) -> NDArray[np.uint8]:
    """`Backend.classes` of an array, in a fraction of PyTorch's time on a CPU."""
    if len(logits) > 1:
        largest, ids = logits[0].copy(), np.zeros(logits.shape[1:], np.uint8)
        for number, plane in enumerate(logits[1:], 1):  # faster than argmax, with the same ties
            np.copyto(ids, number, where=plane > largest)
            np.maximum(largest, plane, out=largest)
        return ids
    # the sigmoid is monotonic, so its argument is compared
    with np.errstate(divide="ignore"):
        least = np.log(np.float64(threshold)) - np.log1p(-np.float64(threshold))
    chosen: NDArray[np.uint8] = (logits[0] >= least).view(np.uint8)
    return chosen


def log_mean(several: Iterable[NDArray[np.float32]], axis: int) -> NDArray[np.float32]:
    """Logits of the mean of the probabilities of `several`; a single one is returned unchanged.

    A single element along `axis` is the difference between the logits of two classes.
    """
    rest = iter(several)
    first, count = next(rest), 1
    total: NDArray[np.float32] | None = None
    is_difference = first.shape[axis] == 1

    def in_logarithms(logits: NDArray[np.float32]) -> NDArray[np.float32]:
        if is_difference:
            logits = np.concatenate([logits, np.zeros_like(logits)], axis)
        largest = logits.max(axis=axis, keepdims=True)
        sums = np.exp(logits - largest).sum(axis=axis, keepdims=True)
        result: NDArray[np.float32] = logits - largest - np.log(sums)
        return result

    for logits in rest:
        total = in_logarithms(first) if total is None else total
        total, count = np.logaddexp(total, in_logarithms(logits)), count + 1
    if total is None:
        return first
    if is_difference:
        above, below = np.split(total, 2, axis)
        return above - below
    return total - np.float32(math.log(count))
