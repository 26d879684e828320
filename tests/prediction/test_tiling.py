"""Tiles of valid convolutions equal one pass over the whole mirrored picture."""

from collections.abc import Iterator
from functools import partial

import pytest
import torch
from torch import Tensor

from plainunet.network.unet import UNet, deep_logits
from plainunet.prediction.tiling import (
    WHOLE,
    blend_bands,
    least_values,
    logit_bands,
    overlap_bands,
    values_for,
)


def network_of(depth: int, upsampling: str = "transposed") -> UNet:
    torch.manual_seed(depth)
    network = UNet(
        1, 3, 2, depth, normalisation="none", valid=True, upsampling=upsampling, dropout=0.5
    )
    return network.eval()


class Whole:
    """A picture [C, H, W] that is in memory."""

    def __init__(self, image: Tensor) -> None:
        self.image, self.size = image, (image.shape[1], image.shape[2])

    def read(self, top: int, left: int, height: int, width: int) -> Tensor:
        part = self.image[:, top : top + height, left : left + width]
        assert part.shape[1:] == (height, width)
        return part


def joined(bands: Iterator[tuple[int, Tensor]], first: int = 0) -> Tensor:
    """All rows from the first one on; bands follow one another."""
    done, parts = None, []
    for top, band in bands:
        assert done is None or top == done
        parts.append(band[:, max(first - top, 0) :])
        assert done is not None or top <= first
        done = top + band.shape[1]
    return torch.cat(parts, dim=1)


def overlap(network: UNet, image: Tensor, tile_output: int, area: int = 1) -> Tensor:
    return joined(overlap_bands(network, Whole(image), tile_output, area))


def blend(network: UNet, image: Tensor, tile: int, overlap: int) -> Tensor:
    return joined(blend_bands(network, Whole(image), (tile, tile), overlap))


@pytest.mark.parametrize(("height", "width"), [(100, 131), (37, 90), (64, 64), (9, 200)])
@pytest.mark.parametrize("depth", [1, 2, 3])
@torch.inference_mode()
def test_tiles_equal_one_pass(depth: int, height: int, width: int) -> None:
    network = network_of(depth)
    image = torch.rand(1, height, width)
    whole = deep_logits(network, image[None])[0][0]
    assert whole.std() > 1e-3
    for area in (1, 5000):  # tile by tile, or several together
        tiled = overlap(network, image, 20, area)
        assert tiled.shape == (3, height, width)
        torch.testing.assert_close(tiled, whole, rtol=1e-5, atol=1e-5)


def test_several_tiles_were_run() -> None:
    network = network_of(2)
    sizes = []
    network.register_forward_hook(lambda _, inputs, __: sizes.append(tuple(inputs[0].shape[2:])))
    with torch.inference_mode():
        overlap(network, torch.rand(1, 60, 20), 20)
    tile = network.input_size(20, 20)
    assert set(sizes) == {tile}
    assert len(sizes) >= 3


def test_the_papers_tiles_step_by_384() -> None:
    network = UNet.paper().to("meta").eval()
    steps = []

    def run(parts: Tensor) -> Tensor:
        assert parts.shape == (1, 1, 572, 572)
        steps.append(parts)
        return torch.zeros(1, 2, 388, 388)

    bands = list(overlap_bands(network, Whole(torch.rand(1, 388, 1156)), 388, 1, run))
    assert [(top, band.shape) for top, band in bands] == [(0, (2, 388, 1156))]
    assert len(steps) == 3  # 388 and twice 384


@torch.inference_mode()
def test_tiles_out_of_phase_would_differ() -> None:
    """The trap that the steps avoid: a shift by less than a grid cell changes the result."""
    network = network_of(2)
    image = torch.rand(1, 1, 76, 76)
    whole = network(image)
    size = network.output_size(76, 76)[0] - 4
    in_phase = network(image[:, :, 4:, 4:])
    torch.testing.assert_close(in_phase, whole[:, :, 4:, 4:], rtol=1e-5, atol=1e-5)
    shifted = network(image[:, :, 2:74, 2:74])
    assert (shifted - whole[:, :, 2 : 2 + size, 2 : 2 + size]).abs().max() > 1e-3


def test_padded_convolutions_are_refused() -> None:
    with pytest.raises(ValueError, match="valid"):
        overlap(UNet(base_channels=1, depth=1), torch.rand(3, 32, 32), 8)


def padded(normalisation: str = "batch", depth: int = 2) -> UNet:
    """A network whose batch statistics are not those that it began with."""
    torch.manual_seed(depth)
    network = UNet(1, 3, 4, depth, normalisation=normalisation)
    for _ in range(5):
        network(torch.rand(4, 1, 64, 64))
    return network.eval()


@pytest.mark.parametrize(("height", "width"), [(200, 300), (97, 333), (128, 129), (60, 400)])
@torch.inference_mode()
def test_blended_tiles_are_near_one_pass(height: int, width: int) -> None:
    network = padded()
    image = torch.rand(1, height, width)
    whole = network(image[None])[0]
    tiled = blend(network, image, 96, 48)
    assert tiled.shape == whole.shape
    spread = whole.std()
    assert (tiled - whole).abs().mean() < 0.01 * spread
    # more overlap than the network sees: where no tile ends, tiles see what one pass sees
    torch.testing.assert_close(tiled[..., :24, :24], whole[..., :24, :24], rtol=1e-4, atol=1e-5)


@torch.inference_mode()
def test_weights_of_tiles_sum_to_one() -> None:
    """What every tile gives alike comes out alike."""
    network = padded()
    for weight in network.parameters():
        weight.zero_()
    network.head.bias.copy_(torch.tensor([1.0, 2.0, 3.0]))
    tiled = blend(network, torch.rand(1, 111, 87), 32, 16)
    for level, plane in enumerate(tiled.unbind(0), start=1):
        torch.testing.assert_close(plane, torch.full_like(plane, float(level)))


@pytest.mark.parametrize(("tile", "overlap"), [(30, 8), (32, 6), (32, 32), (32, 0)])
def test_tiles_out_of_phase_are_refused(tile: int, overlap: int) -> None:
    with pytest.raises(ValueError, match="out of phase"):
        blend(padded(), torch.rand(1, 64, 64), tile, overlap)


@torch.inference_mode()
def test_a_tile_takes_what_may_be_computed_at_a_time() -> None:
    """So little is computed twice, where tiles overlap."""
    network = padded()
    areas = []
    network.register_forward_hook(lambda _, inputs, __: areas.append(inputs[0][0, 0].numel()))
    side, area = 1800, 900 * 900
    list(logit_bands(network, Whole(torch.rand(1, side, side)), 4 * area))
    assert 0.95 * area < max(areas) <= area
    assert sum(areas) < 1.4 * side * side


@pytest.mark.parametrize(("normalisation", "passes"), [("batch", True), ("group", False)])
@torch.inference_mode()
def test_large_pictures_are_tiled(normalisation: str, passes: bool) -> None:
    """Unless the network's normalisation would see the tile."""
    network = padded(normalisation)
    shapes = []
    network.register_forward_hook(lambda _, inputs, __: shapes.append(tuple(inputs[0].shape)))
    source = Whole(torch.rand(1, 700, 400))
    whole = joined(logit_bands(network, source))
    assert shapes == [(1, 1, 700, 400)]
    assert WHOLE >= 4 * 700 * 400
    most = 4 * 600 * 400
    tiled = joined(logit_bands(network, source, most))
    assert (len(shapes) > 2) == passes
    if passes:  # and no more at a time than was said
        assert max(4 * n * height * width for n, _, height, width in shapes[1:]) <= most
    assert (tiled - whole).abs().mean() < 0.01 * whole.std()


@torch.inference_mode()
def test_tiles_of_wide_pictures_are_low() -> None:
    """A band is as wide as the picture, so where memory is short it has fewer rows."""
    network = padded(depth=3)
    shapes = []
    network.register_forward_hook(lambda _, inputs, __: shapes.append(tuple(inputs[0].shape)))
    values = 4 * 1024 * 1024
    bands = [band for _, band in logit_bands(network, Whole(torch.rand(1, 600, 6000)), values)]
    assert sum(band.shape[1] for band in bands) == 600
    assert {shape[2] for shape in shapes} == {464, 264}
    assert max(shape[0] * shape[2] * shape[3] for shape in shapes) <= values // 4
    assert max(band.numel() * 4 for band in bands) <= values * 8

    def difference(parts: Tensor) -> Tensor:
        logits = network(parts)
        return logits[:, 1:2] - logits[:, :1]

    shapes.clear()
    source = Whole(torch.rand(1, 1100, 4000))
    low = joined(logit_bands(network, source, values, difference))
    assert max(shape[2] for shape in shapes) < 1000
    shapes.clear()
    high = joined(logit_bands(network, source, values, difference, channels=1))
    assert max(shape[2] for shape in shapes) > 1000
    assert high.shape == low.shape == (1, 1100, 4000)
    assert (high - low).abs().mean() < 0.01 * high.std()


def test_memory_becomes_values() -> None:
    assert values_for(None) == WHOLE
    assert 32 * values_for(2**31) == pytest.approx(0.4 * 2**31, rel=1e-6)
    assert values_for(1) == 1


@torch.inference_mode()
@pytest.mark.parametrize("network", [padded(depth=3), network_of(2)])
def test_tiles_have_a_least_size(network: UNet) -> None:
    """Below what the smallest takes nothing changes, and above it something does."""

    def largest(values: int) -> int:
        shapes = []
        hook = network.register_forward_hook(lambda _, inputs, __: shapes.append(inputs[0].shape))
        joined(logit_bands(network, Whole(torch.rand(1, 800, 900)), values))
        hook.remove()
        return max(n * height * width for n, _, height, width in shapes)

    least = least_values(network)
    assert largest(1) == largest(least) == least // network.base_channels
    assert largest(4 * least) > largest(least)


def test_where_there_are_no_tiles_no_value_is_small_enough() -> None:
    assert least_values(UNet(1, 2, 2, 2, normalisation="group")) > 2**60


@pytest.mark.parametrize("first", [0, 1, 15, 16, 63, 64, 100, 149])
@torch.inference_mode()
def test_what_is_not_needed_is_left_out(first: int) -> None:
    """What is left is what it would have been."""
    image = torch.rand(1, 150, 100)
    for network, bands in [
        (padded(), partial(blend_bands, tile=(64, 64), overlap=16)),
        (network_of(2), partial(overlap_bands, tile_output=40, area=1)),
    ]:
        runs: list[int] = []

        def run(parts: Tensor, runs: list[int] = runs, network: UNet = network) -> Tensor:
            runs.append(1)
            return network(parts)

        whole = joined(bands(network, Whole(image), run=run))
        passes = len(runs)
        runs.clear()
        rest = joined(bands(network, Whole(image), run=run, first=first), first)
        torch.testing.assert_close(rest, whole[:, first:], rtol=1e-5, atol=1e-5)
        assert len(runs) < passes or first <= 64
        assert len(runs) <= passes
