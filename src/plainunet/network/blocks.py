"""The blocks of the U-Net: double convolutions, group normalisation, resampling, attention gates.

Then the operations on blocks: initialisation, activation checkpointing, and batch normalisation
folding for inference.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from itertools import pairwise
from math import gcd, sqrt
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torch.utils.checkpoint import checkpoint

Normalisation = Literal["batch", "group", "instance", "none"]
Upsampling = Literal["transposed", "bilinear"]
Block = Callable[..., nn.Module]
"""Makes a double convolution from its in, out and middle channels."""
GROUPS = 8
"""Number of groups in group normalisation, or fewer if it does not divide the channels."""
_WIDE_GROUP = 32
"""From this number of bytes per pixel of a group on, PyTorch's own backward pass is as fast."""
_LARGE_AREA = 1024
"""Below it [pixels], PyTorch's forward pass is slower in channels-last than in NCHW order."""


def _conv_norm_relu(
    in_channels: int, out_channels: int, normalisation: Normalisation, valid: bool
) -> list[nn.Module]:
    """The layers of one convolution; no bias with normalisation, which would subtract it."""
    padding, bias = 0 if valid else 1, normalisation == "none"
    conv = nn.Conv2d(in_channels, out_channels, kernel_size=3, padding=padding, bias=bias)
    return [conv, *_norm(normalisation, out_channels), nn.ReLU(inplace=True)]


def _norm(kind: Normalisation, channels: int) -> list[nn.Module]:
    if kind == "batch":
        return [nn.BatchNorm2d(channels)]
    if kind == "group":
        return [GroupNorm(gcd(GROUPS, channels), channels)]
    if kind == "instance":  # one channel per group
        return [GroupNorm(channels, channels)]
    return []


class GroupNorm(nn.GroupNorm):
    """Group normalisation (Wu and He 2018, arXiv 1803.08494) that trains faster on a CPU."""

    def forward(self, feature: Tensor) -> Tensor:
        """[N, C, h, w] -> the same, with mean 0 and variance 1 in each image and group."""
        bytes_per_group = self.num_channels // self.num_groups * feature.element_size()
        slow_in_pytorch = (
            self.training
            and torch.is_grad_enabled()
            and not torch.compiler.is_compiling()
            and feature.device.type == "cpu"
            and bytes_per_group < _WIDE_GROUP
            and feature.is_contiguous(memory_format=torch.channels_last)
            and not feature.is_contiguous()
        )
        if not slow_in_pytorch:
            return super().forward(feature)
        options = self.weight, self.bias, self.num_groups, self.eps
        result: Tensor = _NarrowGroupNorm.apply(feature, *options)  # type: ignore[no-untyped-call]
        return result


class _NarrowGroupNorm(Function):
    """Group normalisation of a channels-last feature on a CPU, if groups have few channels.

    PyTorch's kernels for this layout use vector instructions only within a group. Its batch
    normalisation uses them over all channels, so the backward pass is composed of it, image by
    image. Sums and coefficients are float32 (float64 for a float64 feature), as in PyTorch.
    """

    @staticmethod
    def forward(
        ctx: Any, feature: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float
    ) -> Tensor:
        n, channels, height, width = feature.shape
        area = height * width
        source = feature if area >= _LARGE_AREA else feature.contiguous()
        out, mean, rstd = torch.native_group_norm(
            source, weight, bias, n, channels, area, groups, eps
        )
        ctx.save_for_backward(feature, weight, mean, rstd)
        result: Tensor = out.contiguous(memory_format=torch.channels_last)
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """With y = weight * x^ + bias, x^ = (x - mean) * rstd and g = weight * dL/dy.

        dL/dx = rstd * (g - mean(g) - x^ * mean(g * x^)), with means over an image and group. It is
        scale * dL/dy + slope * x + shift, with three coefficients for each image and channel.
        """
        feature, weight, mean, rstd = ctx.saved_tensors
        n, channels, height, width = feature.shape
        members = channels // mean.shape[1]
        exact = torch.promote_types(feature.dtype, torch.float32)
        mean, rstd = (v.to(exact).repeat_interleave(members, 1) for v in (mean, rstd))
        features = feature.split(1)
        gradients = gradient.contiguous(memory_format=torch.channels_last).split(1)

        of_images = [
            torch.ops.aten.native_batch_norm_backward(
                dy, x, None, None, None, m, r, True, 0.0, [False, True, True]
            )
            for dy, x, m, r in zip(gradients, features, mean, rstd, strict=True)
        ]
        of_weight = torch.stack([of_image[1] for of_image in of_images])
        of_bias = torch.stack([of_image[2] for of_image in of_images])

        def group_means(sums: Tensor) -> Tensor:
            grouped = (sums * weight).view(n, -1, members).sum(2) / (members * height * width)
            means: Tensor = grouped.repeat_interleave(members, 1)
            return means

        scale = rstd * weight
        slope = -rstd.square() * group_means(of_weight)
        shift = -rstd * group_means(of_bias) - slope * mean

        of_feature = torch.empty_like(feature)
        zero, one = torch.zeros_like(mean[0]), torch.ones_like(mean[0])
        for i, (dy, x) in enumerate(zip(gradients, features, strict=True)):
            # batch normalisation by these statistics is a product and a sum
            scaled = F.batch_norm(dy, zero, one, scale[i], shift[i], eps=0.0)
            sloped = F.batch_norm(x, zero, one, slope[i], eps=0.0)
            torch.add(scaled, sloped, out=of_feature[i : i + 1])
        return of_feature, of_weight.sum(0), of_bias.sum(0), None, None


class DoubleConv(nn.Sequential):
    """Two times: 3x3 convolution, normalisation, ReLU; then dropout, if its rate is not 0.

    [N, in_channels, h, w] -> [N, out_channels, h, w]; 4 pixels smaller if valid.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        middle_channels: int | None = None,
        *,
        normalisation: Normalisation = "batch",
        valid: bool = False,
        dropout: float = 0.0,
    ) -> None:
        """Make the block; `middle_channels` defaults to `out_channels`."""
        middle = middle_channels or out_channels
        super().__init__(
            *_conv_norm_relu(in_channels, middle, normalisation, valid),
            *_conv_norm_relu(middle, out_channels, normalisation, valid),
            *([nn.Dropout(dropout)] if dropout else []),
        )


class ResidualDoubleConv(nn.Module):
    """A DoubleConv whose input is added before the last ReLU (He et al. 2015, arXiv 1512.03385).

    If the channels differ, a 1x1 convolution maps the input to `out_channels`.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        middle_channels: int | None = None,
        *,
        normalisation: Normalisation = "batch",
        valid: bool = False,
        dropout: float = 0.0,
    ) -> None:
        """Make the block; the arguments are those of `DoubleConv`."""
        super().__init__()
        middle = middle_channels or out_channels
        *convs, relu = [
            *_conv_norm_relu(in_channels, middle, normalisation, valid),
            *_conv_norm_relu(middle, out_channels, normalisation, valid),
        ]
        self.convs = nn.Sequential(*convs)
        self.shortcut = (
            nn.Identity()
            if in_channels == out_channels
            else nn.Conv2d(in_channels, out_channels, kernel_size=1)
        )
        self.end = nn.Sequential(relu, nn.Dropout(dropout))

    def forward(self, feature: Tensor) -> Tensor:
        """[N, in_channels, h, w] -> [N, out_channels, h, w]; 4 pixels smaller if valid."""
        residual = self.convs(feature)
        identity, residual = crop_skip(self.shortcut(feature), residual)
        result: Tensor = self.end(residual + identity)
        return result


class Down(nn.Sequential):
    """An encoder level: [N, c, h, w] -> [N, out, h // 2, w // 2]."""

    def __init__(self, conv: nn.Module) -> None:
        """Make the level: 2x2 max pooling, then a double convolution."""
        super().__init__(nn.MaxPool2d(2), conv)


class Up(nn.Module):
    """A decoder level: upsampling, concatenation of the skip connection, a double convolution."""

    def __init__(
        self,
        coarse_channels: int,
        skip_channels: int,
        out_channels: int,
        *,
        block: Block = DoubleConv,
        upsampling: Upsampling = "transposed",
        attention: bool = False,
        valid: bool = False,
    ) -> None:
        """Make the level.

        A transposed convolution makes as many channels as the skip connection has; bilinear
        upsampling (corners aligned) has no weights, and half of the concatenated channels between
        the convolutions. If valid, the skip is cropped to the feature; else the feature is padded.
        """
        super().__init__()
        if upsampling == "transposed":
            self.up: nn.Module = nn.ConvTranspose2d(
                coarse_channels, skip_channels, kernel_size=2, stride=2
            )
            self.conv = block(2 * skip_channels, out_channels)
        else:
            joined = coarse_channels + skip_channels
            self.up = nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True)
            self.conv = block(joined, out_channels, joined // 2)
        self.gate = AttentionGate(skip_channels, coarse_channels) if attention else None
        self.match = crop_skip if valid else pad_feature

    def forward(self, coarse: Tensor, skip: Tensor) -> Tensor:
        """[N, coarse_channels, h // 2, w // 2] and [N, skip_channels, h, w] -> [N, out, h, w].

        If valid, the skip is larger than h x w, and the result 4 pixels smaller.
        """
        skip, feature = self.match(skip, self.up(coarse))
        if self.gate:
            skip = self.gate(skip, coarse)
        joined: Tensor = self.conv(torch.cat([skip, feature], dim=1))
        return joined


class AttentionGate(nn.Module):
    """Weight each pixel of a skip connection by the coarser feature.

    Additive attention, Oktay et al. 2018, arXiv 1804.03999, section 2, equations 1 and 2:
    sigmoid(psi relu(W_x skip + W_g coarse)), upsampled bilinearly to the size of the skip.
    """

    def __init__(self, skip_channels: int, coarse_channels: int) -> None:
        """Make the gate."""
        super().__init__()
        inner = max(1, skip_channels // 2)
        self.from_skip = nn.Conv2d(skip_channels, inner, kernel_size=2, stride=2, bias=False)
        self.from_coarse = nn.Conv2d(coarse_channels, inner, kernel_size=1)
        self.weigh = nn.Conv2d(inner, 1, kernel_size=1)

    def forward(self, skip: Tensor, coarse: Tensor) -> Tensor:
        """The skip times a weight in 0..1 per pixel; `coarse` has half its height and width."""
        weights = self.weigh(F.relu(self.from_skip(skip) + self.from_coarse(coarse))).sigmoid()
        size = (skip.shape[2], skip.shape[3])
        return skip * F.interpolate(weights, size=size, mode="bilinear", align_corners=False)


def pad_feature(skip: Tensor, feature: Tensor) -> tuple[Tensor, Tensor]:
    """Zero-pad a feature at the right and bottom to the size of its skip connection."""
    if not torch.compiler.is_compiling() and feature.shape[2:] == skip.shape[2:]:
        return skip, feature  # a copy saved; an export must work for any size
    missing_height = skip.shape[2] - feature.shape[2]
    missing_width = skip.shape[3] - feature.shape[3]
    return skip, F.pad(feature, (0, missing_width, 0, missing_height))


def crop_skip(skip: Tensor, feature: Tensor) -> tuple[Tensor, Tensor]:
    """Centre-crop a skip connection to the size of its feature."""
    height, width = feature.shape[2:]
    top = (skip.shape[2] - height) // 2
    left = (skip.shape[3] - width) // 2
    return skip[:, :, top : top + height, left : left + width], feature


@torch.no_grad()
def he_initialise(module: nn.Module) -> None:
    """Draw a convolution's weights with standard deviation sqrt(2 / N); biases are zero.

    N is the fan-in, the number of inputs of an output value: 9 * 64 for a 3x3 convolution of 64
    channels (Ronneberger et al. 2015, section 3; He et al. 2015, arXiv 1502.01852); the input
    channels for a 2x2 transposed convolution of stride 2.
    """
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
        area = module.kernel_size[0] * module.kernel_size[1] if type(module) is nn.Conv2d else 1
        module.weight.normal_(std=sqrt(2 / (area * module.in_channels)))
        if module.bias is not None:
            module.bias.zero_()


def recomputed(block: nn.Module, *features: Tensor) -> Tensor:
    """Run a block with activation checkpointing; dropout is repeated in the backward pass."""

    def contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        return nullcontext(), _statistics_untouched(block)

    result: Tensor = checkpoint(block, *features, use_reentrant=False, context_fn=contexts)
    return result


@contextmanager
def _statistics_untouched(block: nn.Module) -> Iterator[None]:
    """Leave the running statistics of batch normalisations unchanged, by updating copies."""
    own = {m: dict(m._buffers) for m in block.modules() if isinstance(m, _BatchNorm)}
    for module, buffers in own.items():
        for name, value in buffers.items():
            module._buffers[name] = value.clone() if value is not None else None
    try:
        yield
    finally:
        for module, buffers in own.items():
            module._buffers.update(buffers)


@torch.no_grad()
def fold_batch_normalisation(network: nn.Module) -> None:
    """Fold each batch normalisation into the convolution before it, for faster inference.

    The network is changed in place and put into eval mode; do not train or save it afterwards.
    Logits change only by rounding.
    """
    network.eval()
    for block in network.modules():
        if not isinstance(block, nn.Sequential):
            continue
        for (first, conv), (second, norm) in pairwise(list(block.named_children())):
            if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                setattr(block, first, fuse_conv_bn_eval(conv, norm))
                setattr(block, second, nn.Identity())
