"""The U-Net (Ronneberger, Fischer and Brox 2015, arXiv 1505.04597, figure 1).

A contracting path halves the picture and doubles the channels `depth` times; an expanding
path mirrors it; skips carry the fine detail across. Departures from the paper, as in most
of today's U-Nets: convolutions are padded, so the output is as large as the input, and
each is followed by batch normalisation.

In: pictures [N, C, H, W] float32. Out: logits [N, K, H, W].
"""

from collections.abc import Sequence
from itertools import pairwise
from math import isfinite

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class DoubleConv(nn.Sequential):
    """Twice: 3x3 convolution, batch normalisation, ReLU."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        """Make the block.

        Args:
            in_channels: Channels of the feature that comes in.
            out_channels: Channels of the feature that goes out.
        """
        super().__init__(
            # batch normalisation subtracts any bias again, so the convolutions have none
            nn.Conv2d(in_channels, out_channels, kernel_size=3, padding=1, bias=False),
            nn.BatchNorm2d(out_channels),
            nn.ReLU(inplace=True),
            nn.Conv2d(out_channels, out_channels, kernel_size=3, padding=1, bias=False),
            nn.BatchNorm2d(out_channels),
            nn.ReLU(inplace=True),
        )


class Down(nn.Sequential):
    """Halve the size, then DoubleConv: [N, c, h, w] -> [N, out, h // 2, w // 2]."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        """Make the step.

        Args:
            in_channels: Channels of the finer feature.
            out_channels: Channels of the coarser one.
        """
        super().__init__(nn.MaxPool2d(2), DoubleConv(in_channels, out_channels))


class Up(nn.Module):
    """Double the size, join the skip, then DoubleConv."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        """Make the step.

        Args:
            in_channels: Channels of the coarser feature.
            out_channels: Channels of the skip, and of what goes out.
        """
        super().__init__()
        self.up = nn.ConvTranspose2d(in_channels, out_channels, kernel_size=2, stride=2)
        self.conv = DoubleConv(2 * out_channels, out_channels)

    def forward(self, feature: Tensor, skip: Tensor) -> Tensor:
        """Join the coarse feature with the skip of the same level.

        Args:
            feature: [N, in_channels, h // 2, w // 2] float.
            skip: [N, out_channels, h, w] float.

        Returns:
            [N, out_channels, h, w] float.
        """
        feature = self.up(feature)
        # pooling dropped the last row or column of an odd size: zeros stand in for it
        missing_height = skip.shape[2] - feature.shape[2]
        missing_width = skip.shape[3] - feature.shape[3]
        feature = F.pad(feature, (0, missing_width, 0, missing_height))
        joined: Tensor = self.conv(torch.cat([skip, feature], dim=1))
        return joined


class UNet(nn.Module):
    """Pictures to logits, at the pictures' own size.

    Normalisation (per-channel mean and standard deviation of the training pictures) is part
    of the network, as two buffers, so that nobody can forget it.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self, in_channels: int = 3, num_classes: int = 2, base_channels: int = 64, depth: int = 4
    ) -> None:
        """Make the network with fresh weights.

        Args:
            in_channels: Channels C of a picture.
            num_classes: Classes K, background included; at least 2.
            base_channels: Channels of the first level; each level below has twice as many.
            depth: How often the picture is halved.

        Raises:
            ValueError: An argument is below its least value.
        """
        super().__init__()
        least = {"in_channels": 1, "num_classes": 2, "base_channels": 1, "depth": 1}
        given = (in_channels, num_classes, base_channels, depth)
        for (name, lowest), value in zip(least.items(), given, strict=True):
            if value < lowest:
                raise ValueError(f"{name} is {value}; it must be at least {lowest}.")
        self.in_channels = in_channels
        self.num_classes = num_classes
        self.base_channels = base_channels
        self.depth = depth

        widths = [base_channels * 2**level for level in range(depth + 1)]
        levels = list(pairwise(widths))
        self.register_buffer("mean", torch.zeros(in_channels))
        self.register_buffer("std", torch.ones(in_channels))
        self.inlet = DoubleConv(in_channels, base_channels)
        self.downs = nn.ModuleList(Down(fine, coarse) for fine, coarse in levels)
        self.ups = nn.ModuleList(Up(coarse, fine) for fine, coarse in reversed(levels))
        self.head = nn.Conv2d(base_channels, num_classes, kernel_size=1)

    def forward(self, image: Tensor) -> Tensor:
        """Run the network.

        Args:
            image: [N, C, H, W] float32; H and W at least 2**depth.

        Returns:
            Logits [N, K, H, W].

        Raises:
            ValueError: The picture has another number of channels, or is too small.
        """
        self._check(image.shape)
        feature = self.inlet((image - self.mean[:, None, None]) / self.std[:, None, None])
        skips = []
        for down in self.downs:
            skips.append(feature)
            feature = down(feature)
        for up in self.ups:
            feature = up(feature, skips.pop())
        logits: Tensor = self.head(feature)
        return logits

    def set_normalisation(self, mean: Sequence[float], std: Sequence[float]) -> None:
        """Set the statistics of the training pictures.

        Args:
            mean: Per-channel mean, in the units of the network's input (0..1 for integers).
            std: Per-channel standard deviation; a value below 1e-3 (a flat channel) counts
                as 1e-3, so that nothing is divided by zero.

        Raises:
            ValueError: The number of values is not `in_channels`, or one is not finite.
        """
        for name, values in (("mean", mean), ("std", std)):
            if len(values) != self.in_channels:
                raise ValueError(
                    f"{name} has {len(values)} values; the network has {self.in_channels} channels."
                )
            if not all(map(isfinite, values)):
                raise ValueError(f"{name} is {list(values)}; every value must be finite.")
        self.mean.copy_(torch.tensor(list(mean)))
        self.std.copy_(torch.tensor(list(std)).clamp(min=1e-3))

    def _check(self, shape: Sequence[int]) -> None:
        if len(shape) != 4 or shape[1] != self.in_channels:
            raise ValueError(
                f"The network takes [N, {self.in_channels}, H, W]; it was given {list(shape)}."
            )
        smallest = 2**self.depth
        if shape[2] < smallest or shape[3] < smallest:
            raise ValueError(
                f"A picture of {shape[2]} x {shape[3]} pixels (height x width) is too small for "
                f"depth {self.depth}: pad it to {max(shape[2], smallest)} x "
                f"{max(shape[3], smallest)}, or take a smaller depth."
            )
