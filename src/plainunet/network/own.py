"""A network that the user wrote, in place of the U-Net."""

import copy
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.parameter import is_lazy

from plainunet.network.sizes import Sizes
from plainunet.network.unet import UNet, set_statistics
from plainunet.parts import Part, PartError, running

_CHECKED = 2
"""Images of the batch that a network is checked with."""


class OwnNetwork(nn.Module):
    """A user's module from images [N, C, H, W] to logits [N, K, H, W], as training uses a `UNet`.

    Images are normalised as in a `UNet`, and padded at the right and bottom to multiples of the
    module's `size_divisor` (default: 1). With its attribute `can_tile`, large images are predicted
    in tiles; without, in one pass, since its logits may depend on the whole image.

    Attributes:
        body: The module.
        architecture: Its name, channels, classes, and what tiling reads of a `UNet`'s: depth (the
            size divisor as a power of two), base channels (estimated from the largest feature),
            and normalisation ("instance": depends on the whole image).
    """

    mean: Tensor
    std: Tensor

    def __init__(self, body: nn.Module, architecture: dict[str, Any]) -> None:
        """Wrap a module; see `make_own_network`."""
        super().__init__()
        self.body, self.architecture = body, architecture
        self.in_channels: int = architecture["in_channels"]
        self.num_classes: int = architecture["num_classes"]
        self.register_buffer("mean", torch.zeros(self.in_channels))
        self.register_buffer("std", torch.ones(self.in_channels))

    @property
    def name(self) -> str:
        """The name of its factory."""
        return str(self.architecture["factory"])

    @property
    def depth(self) -> int:
        """As of a `UNet`."""
        return int(self.architecture["depth"])

    @property
    def base_channels(self) -> int:
        """As of a `UNet`."""
        return int(self.architecture["base_channels"])

    @property
    def valid(self) -> bool:
        """Logits have the image's size."""
        return False

    @property
    def sizes(self) -> Sizes:
        """Which image sizes fit."""
        return Sizes.of(self.architecture)

    def output_size(self, height: int, width: int) -> tuple[int, int]:
        """As of a `UNet`."""
        return self.sizes.output_size(height, width)

    def input_size(self, height: int, width: int) -> tuple[int, int]:
        """As of a `UNet`."""
        return self.sizes.input_size(height, width)

    def set_normalisation(self, mean: Sequence[float], std: Sequence[float]) -> None:
        """As of a `UNet`."""
        set_statistics(self, mean, std)

    def forward(self, image: Tensor) -> Tensor:
        """Run the network: images [N, C, H, W] float32 to logits [N, K, H, W].

        Raises:
            PartError: The module fails, or its output is no logits of the image's size.
        """
        height, width = image.shape[2:]
        feature = (image - self.mean[:, None, None]) / self.std[:, None, None]
        divisor = self.architecture["size_divisor"]
        if divisor > 1:
            padding = (0, -width % divisor, 0, -height % divisor)
            feature = F.pad(feature, padding, mode="replicate")
        if torch.compiler.is_exporting():
            exported: Tensor = self.body(feature)
            return exported[:, :, :height, :width]
        sizes = f"images {list(feature.shape)} (size_divisor {divisor})"
        with running(f"--network {self.name} failed for {sizes}"):
            logits = self.body(feature)
        wanted = [len(feature), self.num_classes, *feature.shape[2:]]
        if not isinstance(logits, Tensor) or list(logits.shape) != wanted:
            found = list(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
            raise PartError(
                f"--network {self.name}: returns {found} for {sizes}, not logits {wanted}."
            )
        if not logits.is_floating_point():
            raise PartError(f"--network {self.name}: returns {logits.dtype}, not float logits.")
        logits = logits.float() if logits.dtype == torch.float64 else logits
        return logits[:, :, :height, :width]

    def deep_logits(self, image: Tensor) -> list[Tensor]:
        """As of a `UNet` without deep supervision."""
        return [self(image)]

    @torch.no_grad()
    def check(self, sizes: Sequence[tuple[int, int]]) -> None:
        """Run it on made-up images of some sizes [pixels], in train and eval mode.

        Its width is estimated at the first size.

        Raises:
            PartError: It has nothing to train, fails, or returns no finite logits with gradients.
        """
        if not any(weight.requires_grad for weight in self.parameters()):
            raise PartError(f"--network {self.name}: has no weights to train.")
        buffers = [buffer.clone() for buffer in self.buffers()]
        with torch.random.fork_rng(devices=[]):
            for size in sizes:
                image = torch.rand(_CHECKED, self.in_channels, *size)
                if size == sizes[0]:
                    self.estimate_width(size)
                with torch.enable_grad():
                    logits = self.train()(image)
                if not logits.requires_grad:
                    raise PartError(
                        f"--network {self.name}: its logits have no gradient. Compute them from "
                        "its weights, without no_grad or detach."
                    )
                if not logits.isfinite().all():
                    raise PartError(
                        f"--network {self.name}: its logits are not finite for images "
                        f"{list(image.shape)}."
                    )
        for buffer, before in zip(self.buffers(), buffers, strict=True):
            buffer.copy_(before)

    @torch.no_grad()
    def estimate_width(self, size: tuple[int, int]) -> None:
        """Set the base channels by a made-up image of this size [pixels].

        They are half of the largest number of values that a layer has per pixel, as in a `UNet`.

        Raises:
            PartError: The module fails, or its output is no logits of the image's size.
        """
        largest = 0
        image = torch.zeros(1, self.in_channels, *size, device=self.mean.device)

        def look(module: nn.Module, arguments: Any, result: Any) -> None:
            nonlocal largest
            if isinstance(result, Tensor):
                largest = max(largest, result.numel())

        hooks = [module.register_forward_hook(look) for module in self.body.modules()]
        try:
            self.eval()(image)
        finally:
            for hook in hooks:
                hook.remove()
        width = math.ceil(largest / (size[0] * size[1]) / 2)
        self.architecture["base_channels"] = min(4096, max(1, width))


Network = UNet | OwnNetwork
"""What can be trained and predicts."""


def make_own_network(part: Part, in_channels: int, num_classes: int) -> OwnNetwork:
    """Make the user's network: call its factory, or take the module that was given.

    Raises:
        PartError: The factory fails or makes something else.
    """
    body = part.made
    if not isinstance(body, nn.Module):
        if not callable(body):
            raise PartError(
                f"--network {part.name}: is neither a module nor a factory (in_channels, "
                "num_classes) of one."
            )
        with running(f"--network {part.name} failed, called with ({in_channels}, {num_classes})"):
            body = body(in_channels, num_classes)
    if not isinstance(body, nn.Module):
        raise PartError(
            f"--network {part.name}: makes {type(body).__name__}, not a torch.nn.Module."
        )
    divisor, can_tile = getattr(body, "size_divisor", 1), getattr(body, "can_tile", False)
    if not isinstance(divisor, int) or not 1 <= divisor <= 1024:
        raise PartError(
            f"--network {part.name}: its size_divisor is {divisor!r}, not a number from 1 to 1024."
        )
    architecture = {
        "factory": part.name,
        "in_channels": in_channels,
        "num_classes": num_classes,
        "size_divisor": divisor,
        "base_channels": 1,
        "depth": max(1, math.ceil(math.log2(divisor))),
        "normalisation": "none" if can_tile else "instance",
        "valid": False,
    }
    network = OwnNetwork(body, architecture)
    if any(map(is_lazy, (*body.parameters(), *body.buffers()))):  # nn.LazyConv2d
        side = max(64, divisor)
        with torch.no_grad():
            network.eval()(torch.zeros(1, in_channels, side, side))
    return network.train()


def copy_part(part: Part) -> Part:
    """The same part, with a module of its own: loading weights must not change the given one."""
    made = part.made
    return Part(copy.deepcopy(made), part.name) if isinstance(made, nn.Module) else part
