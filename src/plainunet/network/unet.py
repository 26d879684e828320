r"""The U-Net (Ronneberger, Fischer and Brox 2015, arXiv 1505.04597, figure 1).

    image -> inlet ------------------ skip ------------------> up -> head -> logits
                 \                                            /
                 down --------------- skip -------------> up
                     \                                   /
                     down ----------- skip --------> up
                         \                          /
                         down ------- skip ---> up
                             \                 /
                             down (bottleneck)

Which image sizes fit a network is in `sizes.py`.
"""

from collections.abc import Sequence
from functools import partial
from itertools import pairwise
from math import isfinite
from numbers import Integral
from typing import Any, Self, get_args

import torch
from torch import Tensor, nn

from plainunet.errors import Error, require_types, wrong
from plainunet.network.blocks import (
    DoubleConv,
    Down,
    Normalisation,
    ResidualDoubleConv,
    Up,
    Upsampling,
    he_initialise,
    recomputed,
)
from plainunet.network.sizes import Sizes

MOST_CLASSES = 255
"""Maximum of an 8-bit mask, besides the value of ignored pixels."""


class UNet(nn.Module):
    """Images to logits.

    Image normalisation (per-channel mean and standard deviation of the training images) is part of
    the network, as two buffers, so that it cannot be forgotten.

    Args:
        in_channels: Channels C of an image.
        num_classes: Classes K, background included; 2 to 255.
        base_channels: Channels of the first level; each level below has twice as many.
        depth: Number of downsampling steps.
        normalisation: After each convolution: "batch", "group" (Wu and He 2018, arXiv
            1803.08494), "instance" (Ulyanov et al. 2016, arXiv 1607.08022) or "none".
            With "none", weights are initialised as in He et al. 2015, arXiv 1502.01852.
        upsampling: "transposed": 2x2 transposed convolutions; "bilinear": no weights; the
            bottleneck and each decoder level but the last have half the channels.
        valid: Convolutions without padding, as in the paper; see `output_size`.
        residual: Residual double convolutions.
        attention: Attention gates on the skip connections (Oktay et al. 2018, arXiv
            1804.03999).
        deep_supervision: A head for each level of the decoder, see `deep_logits`; not with
            valid convolutions, whose levels cover different areas of an image.
        dropout: Dropout rate of the two deepest encoder blocks.
        checkpointing: Activation checkpointing: keep only the input of each block in training, and
            recompute the rest in the backward pass. Less memory, more time, the same result.

    Raises:
        ValueError: An argument is out of its range.

    Example:
        ```python
        import torch

        from plainunet import UNet

        network = UNet(in_channels=3, num_classes=2, base_channels=8, depth=3)
        logits = network(torch.zeros(1, 3, 101, 133))  # [1, 2, 101, 133]
        ```
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        in_channels: int = 3,
        num_classes: int = 2,
        base_channels: int = 64,
        depth: int = 4,
        *,
        normalisation: Normalisation = "batch",
        upsampling: Upsampling = "transposed",
        valid: bool = False,
        residual: bool = False,
        attention: bool = False,
        deep_supervision: bool = False,
        dropout: float = 0.0,
        checkpointing: bool = False,
    ) -> None:
        """Make the network with random weights."""
        super().__init__()
        self.architecture: dict[str, Any] = {
            "in_channels": in_channels,
            "num_classes": num_classes,
            "base_channels": base_channels,
            "depth": depth,
            "normalisation": normalisation,
            "upsampling": upsampling,
            "valid": valid,
            "residual": residual,
            "attention": attention,
            "deep_supervision": deep_supervision,
            "dropout": dropout,
        }
        _check_architecture(self.architecture)
        self.sizes = Sizes.of(self.architecture)
        self.in_channels, self.num_classes, self.depth = in_channels, num_classes, depth
        self.base_channels, self.valid, self.checkpointing = base_channels, valid, checkpointing

        encoder = [base_channels * 2**level for level in range(depth + 1)]
        decoder = encoder[:-1]
        if upsampling == "bilinear":
            encoder[-1] //= 2
            decoder = [base_channels, *(width // 2 for width in decoder[1:])]
        rates = [0.0] * (depth - 1) + [dropout, dropout]
        conv = ResidualDoubleConv if residual else DoubleConv
        block = partial(conv, normalisation=normalisation, valid=valid)
        up = partial(Up, block=block, upsampling=upsampling, attention=attention, valid=valid)

        # checkpoints contain these names, and seeded weights depend on this order
        self.register_buffer("mean", torch.zeros(in_channels))
        self.register_buffer("std", torch.ones(in_channels))
        self.inlet = block(in_channels, base_channels, dropout=rates[0])
        self.downs = nn.ModuleList()
        for (fine, coarse), rate in zip(pairwise(encoder), rates[1:], strict=True):
            self.downs.append(Down(block(fine, coarse, dropout=rate)))
        widths = [encoder[-1], *reversed(decoder)]
        self.ups = nn.ModuleList(map(up, widths[:-1], reversed(encoder[:-1]), widths[1:]))
        self.side_heads = nn.ModuleList()
        self.head = nn.Conv2d(base_channels, num_classes, kernel_size=1)
        for width in widths[1:-1] if deep_supervision else ():
            self.side_heads.append(nn.Conv2d(width, num_classes, kernel_size=1))
        if normalisation == "none":
            self.apply(he_initialise)

    @classmethod
    def paper(cls, in_channels: int = 1, num_classes: int = 2) -> Self:
        """Make the network of the paper's figure 1: [N, 1, 572, 572] to [N, 2, 388, 388].

        Valid 3x3 convolutions without normalisation, 64 to 1024 channels, cropped skip
        connections, dropout at the end of the encoder (rate 0.5, which the paper does not
        state), and its initialisation; 31,030,658 parameters. The receptive field of a logit is
        188 or 204 pixels along each axis, depending on its position.

        Args:
            in_channels: Channels C of an image.
            num_classes: Classes K.

        Returns:
            The network with random weights.
        """
        return cls(in_channels, num_classes, normalisation="none", valid=True, dropout=0.5)

    def forward(self, image: Tensor) -> Tensor:
        """Run the network.

        Args:
            image: [N, C, H, W] float32; H and W at least 2**depth, twice that with group or
                instance normalisation; see `output_size` for valid convolutions.

        Returns:
            Logits [N, K, H, W]; smaller with valid convolutions.

        Raises:
            ValueError: The number of channels is wrong, or the size does not fit.
        """
        logits: Tensor = self.head(self._decode(image)[-1])
        return logits

    def deep_logits(self, image: Tensor) -> list[Tensor]:
        """Run the network with the heads of all levels, for deep supervision.

        Args:
            image: As for `forward`.

        Returns:
            Logits of each level of the decoder, the finest (those of `forward`) first; each
            further one has half the height and width. Only the finest without `deep_supervision`.

        Raises:
            ValueError: As for `forward`.
        """
        features = self._decode(image)[::-1]
        heads = [self.head, *reversed(self.side_heads)]
        return [head(feature) for head, feature in zip(heads, features, strict=False)]

    def _decode(self, image: Tensor) -> list[Tensor]:
        """The decoder's feature at each level, the coarsest first."""
        if image.ndim != 4 or image.shape[1] != self.in_channels:
            raise Error(
                f"The input of the network must be [N, {self.in_channels}, H, W], not "
                f"{list(image.shape)}."
            )
        if not torch.compiler.is_compiling():  # a check of sizes would fix them in an export
            self.sizes.output_size(image.shape[2], image.shape[3])
        run = recomputed if self.checkpointing and torch.is_grad_enabled() else _run
        feature = run(self.inlet, (image - self.mean[:, None, None]) / self.std[:, None, None])
        skips, decoded = [], []
        for down in self.downs:
            skips.append(feature)
            feature = run(down, feature)
        for up in self.ups:
            feature = run(up, feature, skips.pop())
            decoded.append(feature)
        return decoded

    def output_size(self, height: int, width: int) -> tuple[int, int]:
        """Size of an image's logits.

        Args:
            height: Height of the image [pixels].
            width: Its width [pixels].

        Returns:
            Height and width of the logits [pixels]: those of the image, except with valid
            convolutions.

        Raises:
            ValueError: The size does not fit; the message names the nearest valid sizes.
        """
        require_types(height=(height, Integral), width=(width, Integral))
        return self.sizes.output_size(height, width)

    def input_size(self, height: int, width: int) -> tuple[int, int]:
        """Size of the smallest image whose logits have at least this size.

        Args:
            height: Minimum height of the logits [pixels].
            width: Their minimum width [pixels].

        Returns:
            Height and width of the image [pixels].
        """
        require_types(height=(height, Integral), width=(width, Integral))
        return self.sizes.input_size(height, width)

    def set_normalisation(self, mean: Sequence[float], std: Sequence[float]) -> None:
        """Set the statistics of the training images.

        Args:
            mean: Per-channel mean, in the units of the network's input (0..1 for integers).
            std: Per-channel standard deviation; values below 1e-3 (a flat channel) are set to
                1e-3, to avoid division by zero.

        Raises:
            ValueError: The number of values is not `in_channels`, or one is not finite.
        """
        set_statistics(self, mean, std)


def set_statistics(network: Any, mean: Sequence[float], std: Sequence[float]) -> None:
    """Set the buffers `mean` and `std` of a network, see `UNet.set_normalisation`."""
    for name, values in (("mean", mean), ("std", std)):
        if len(values) != network.in_channels:
            raise Error(
                f"{name} has {len(values)} values; the network has {network.in_channels} channels."
            )
        if not all(map(isfinite, values)):
            raise Error(f"{name} is {list(values)}; every value must be finite.")
    network.mean.copy_(torch.tensor(list(mean)))
    network.std.copy_(torch.tensor(list(std)).clamp(min=1e-3))


def _run(block: nn.Module, *features: Tensor) -> Tensor:
    result: Tensor = block(*features)
    return result


def _check_architecture(architecture: dict[str, Any]) -> None:
    for name, least in {"in_channels": 1, "num_classes": 2, "base_channels": 1, "depth": 1}.items():
        if type(architecture[name]) is not int:
            raise wrong(name, architecture[name], "an integer")
        if architecture[name] < least:
            raise Error(f"{name} is {architecture[name]}; it must be at least {least}.")
    if (classes := architecture["num_classes"]) > MOST_CLASSES:
        raise Error(f"num_classes is {classes}; masks have at most {MOST_CLASSES}.")
    for name, known in (("normalisation", Normalisation), ("upsampling", Upsampling)):
        if architecture[name] not in get_args(known):
            names = ", ".join(get_args(known))
            raise Error(f"{name} is {architecture[name]!r}; it is one of {names}.")
    if architecture["valid"] and architecture["deep_supervision"]:
        raise Error("deep_supervision needs padded convolutions. Remove valid.")
    if not 0 <= architecture["dropout"] < 1:
        raise Error(f"dropout is {architecture['dropout']}; it must be from 0 to below 1.")


def deep_logits(network: UNet, image: Tensor) -> list[Tensor]:
    """Run a network, with logits of the image's size also for valid convolutions.

    The image is [N, C, H, W] float32, of any size; the finest logits are [N, K, H, W], each further
    ones half as large.
    """
    height, width = image.shape[2:]
    levels = network.deep_logits(reflection_pad(network, image))
    return [
        level[:, :, : -(-height // 2**number), : -(-width // 2**number)]
        for number, level in enumerate(levels)
    ]


def reflection_pad(network: UNet, image: Tensor) -> Tensor:
    """Pad an image by reflection [N, C, H', W'], so that each of its pixels has logits."""
    indices = network.sizes.reflection_indices((image.shape[2], image.shape[3]))
    for axis, index in enumerate(indices, 2):
        if len(index) != image.shape[axis]:
            image = image.index_select(axis, torch.from_numpy(index).to(image.device))
    return image
