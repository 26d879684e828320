"""Tiles compared with one pass: equal for valid convolutions, close for padded ones."""

import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from plainunet.config import TrainConfig
from plainunet.errors import Error
from plainunet.formats.images import read_image
from plainunet.network.checkpoint import load_checkpoint
from plainunet.network.unet import UNet, deep_logits
from plainunet.prediction.tiling import (
    WHOLE,
    blend_bands,
    least_values,
    logit_bands,
    overlap_bands,
    values_for,
)
from plainunet.prediction.torch_backend import TorchBackend
from plainunet.training.train import train

from ..models import SMALL, as_predictor, make_card, make_network

Image = NDArray[np.float32]


def valid(depth: int) -> TorchBackend:
    torch.manual_seed(depth)
    network = UNet(1, 3, 2, depth, normalisation="none", valid=True, dropout=0.5)
    return TorchBackend(network.eval(), "cpu", "fp32")


def padded(normalisation: str = "batch", depth: int = 2, classes: int = 3) -> TorchBackend:
    """A padded network with trained batch statistics."""
    network = make_network(classes, depth, channels=1, depth=depth, normalisation=normalisation)
    return TorchBackend(network, "cpu", "fp32")


def noise(height: int, width: int) -> Image:
    return np.random.default_rng(0).random((height, width, 1), np.float32)


class Whole:
    """An image [H, W, C] in memory."""

    def __init__(self, image: Image) -> None:
        self.image, self.size = image, (image.shape[0], image.shape[1])

    def read(self, top: int, left: int, height: int, width: int) -> Image:
        part = self.image[top : top + height, left : left + width]
        assert part.shape[:2] == (height, width)
        return part


def joined(bands: Iterator[tuple[int, Tensor]], first: int = 0) -> Tensor:
    """All rows from `first` on, from consecutive bands."""
    done, parts = None, []
    for top, band in bands:
        assert done is None or top == done
        parts.append(band[:, max(first - top, 0) :])
        assert done is not None or top <= first
        done = top + band.shape[1]
    return torch.cat(parts, dim=1)


def count_passes(backend: TorchBackend) -> list[tuple[int, ...]]:
    """Record the shapes [N, C, H, W] of the network's inputs from now on."""
    shapes: list[tuple[int, ...]] = []
    backend.network.register_forward_hook(
        lambda _, inputs, __: shapes.append(tuple(inputs[0].shape))
    )
    return shapes


def overlap(backend: TorchBackend, image: Image, tile_output: int, area: int = 1) -> Tensor:
    return joined(overlap_bands(backend, Whole(image), tile_output, area))


def blend(backend: TorchBackend, image: Image, tile: int, overlap: int) -> Tensor:
    return joined(blend_bands(backend, Whole(image), (tile, tile), overlap))


@pytest.mark.parametrize(("height", "width"), [(100, 131), (37, 90), (64, 64), (9, 200)])
@pytest.mark.parametrize("depth", [1, 2, 3])
def test_tiles_equal_one_pass(depth: int, height: int, width: int) -> None:
    backend, image = valid(depth), noise(height, width)
    batch = torch.from_numpy(image).permute(2, 0, 1)[None]
    with torch.inference_mode():
        whole = deep_logits(backend.network, batch)[0][0]
    assert whole.std() > 1e-3
    shapes = count_passes(backend)
    for area in (1, 5000):  # one tile per pass, or several
        tiled = overlap(backend, image, 20, area)
        assert tiled.shape == (3, height, width)
        torch.testing.assert_close(tiled, whole, rtol=1e-5, atol=1e-5)
    assert len(shapes) >= 3


def test_the_papers_tiles_step_by_384() -> None:
    steps = []

    class Zeros(TorchBackend):
        def run(self, images: Image) -> Tensor:
            assert images.shape == (1, 572, 572, 1)
            steps.append(images)
            return torch.zeros(1, 1, 388, 388)

    network = UNet(1, 2, 1, 4, normalisation="none", valid=True)
    backend = Zeros(network.eval(), "cpu", "fp32")
    bands = list(overlap_bands(backend, Whole(noise(388, 1156)), 388, 1))
    assert [(top, band.shape) for top, band in bands] == [(0, (1, 388, 1156))]
    assert len(steps) == 3  # 388 and twice 384


def test_padded_convolutions_are_refused() -> None:
    with pytest.raises(ValueError, match="valid=True"):
        overlap(padded(), noise(32, 32), 8)


@pytest.mark.parametrize(("height", "width"), [(200, 300), (97, 333), (128, 129), (60, 400)])
def test_blended_tiles_are_close_to_one_pass(height: int, width: int) -> None:
    backend, image = padded(), noise(height, width)
    whole = backend.run(image[None])[0]
    tiled = blend(backend, image, 96, 48)
    assert tiled.shape == whole.shape
    assert (tiled - whole).abs().mean() < 0.01 * whole.std()
    # the overlap exceeds the receptive field: far from tile edges, tiles equal one pass
    torch.testing.assert_close(tiled[..., :24, :24], whole[..., :24, :24], rtol=1e-4, atol=1e-5)


def test_weights_of_tiles_sum_to_one() -> None:
    """If all tiles have equal logits, so has the result."""
    backend = padded()
    with torch.no_grad():
        for weight in backend.network.parameters():
            weight.zero_()
        backend.network.head.bias.copy_(torch.tensor([1.0, 2.0, 3.0]))
    tiled = blend(backend, noise(111, 87), 32, 16)
    for level, plane in enumerate(tiled.unbind(0), start=1):
        torch.testing.assert_close(plane, torch.full_like(plane, float(level)))


@pytest.mark.parametrize(("tile", "overlap"), [(30, 8), (32, 6), (32, 32), (32, 0)])
def test_misaligned_tiles_are_refused(tile: int, overlap: int) -> None:
    with pytest.raises(ValueError, match=rf"{tile} x {tile} .* {overlap}\b"):
        blend(padded(), noise(64, 64), tile, overlap)


def test_tiles_are_as_large_as_the_limit() -> None:
    """Larger tiles spend less on overlap."""
    backend = padded()
    shapes = count_passes(backend)
    side, area = 1800, 900 * 900
    list(logit_bands(backend, Whole(noise(side, side)), 4 * area))
    areas = [height * width for _, _, height, width in shapes]
    assert 0.95 * area < max(areas) <= area
    assert sum(areas) < 1.4 * side * side


@pytest.mark.parametrize(("normalisation", "passes"), [("batch", True), ("group", False)])
def test_large_images_are_tiled(normalisation: str, passes: bool) -> None:
    """Not with group normalisation, whose statistics would be those of the tile."""
    backend = padded(normalisation)
    shapes = count_passes(backend)
    image = Whole(noise(700, 400))
    whole = joined(logit_bands(backend, image))
    assert shapes == [(1, 1, 700, 400)]
    assert WHOLE >= 4 * 700 * 400
    most = 4 * 600 * 400
    tiled = joined(logit_bands(backend, image, most))
    assert (len(shapes) > 2) == passes
    if passes:  # within the limit
        assert max(4 * n * height * width for n, _, height, width in shapes[1:]) <= most
    assert (tiled - whole).abs().mean() < 0.01 * whole.std()


def test_tiles_of_wide_images_have_fewer_rows() -> None:
    """A band is as wide as the image, so memory limits its rows."""
    values = 2 * 1024 * 1024
    backend = padded(depth=3)
    shapes = count_passes(backend)
    bands = [band for _, band in logit_bands(backend, Whole(noise(600, 3000)), values)]
    assert sum(band.shape[1] for band in bands) == 600
    assert {shape[2] for shape in shapes} == {464, 264}
    assert max(shape[0] * shape[2] * shape[3] for shape in shapes) <= values // 4
    assert max(band.numel() * 4 for band in bands) <= values * 8
    # bands of two classes have one channel, so they may have more rows
    for classes, is_high in ((3, False), (2, True)):
        backend = padded(depth=3, classes=classes)
        shapes = count_passes(backend)
        wide = joined(logit_bands(backend, Whole(noise(800, 2000)), values))
        assert wide.shape == (3 if classes == 3 else 1, 800, 2000)
        assert (max(shape[2] for shape in shapes) > 700) == is_high


def test_memory_becomes_values() -> None:
    assert values_for(None) == WHOLE
    assert 32 * values_for(2**31) == pytest.approx(0.4 * 2**31, rel=1e-6)
    assert values_for(1) == 1


@pytest.mark.parametrize("backend", [padded(depth=3), valid(2)])
def test_tiles_have_a_minimum_size(backend: TorchBackend) -> None:
    """A limit below `least_values` changes nothing, one above it does."""
    shapes = count_passes(backend)

    def largest(values: int) -> int:
        shapes.clear()
        joined(logit_bands(backend, Whole(noise(540, 560)), values))
        return max(n * height * width for n, _, height, width in shapes)

    least = least_values(backend)
    assert largest(1) == largest(least) == least // backend.geometry.base_channels
    assert largest(4 * least) > largest(least)
    assert least_values(padded("group")) > 2**60, "it cannot tile"


@pytest.mark.parametrize("first", [0, 1, 15, 16, 63, 64, 100, 149])
def test_tiles_above_the_first_row_are_skipped(first: int) -> None:
    """The remaining rows do not change."""
    image = Whole(noise(150, 100))
    for backend, bands in [
        (padded(), partial(blend_bands, tile=(64, 64), overlap=16)),
        (valid(2), partial(overlap_bands, tile_output=40, area=1)),
    ]:
        shapes = count_passes(backend)
        whole = joined(bands(backend, image))
        passes = len(shapes)
        shapes.clear()
        rest = joined(bands(backend, image, first=first), first)
        torch.testing.assert_close(rest, whole[:, first:], rtol=1e-5, atol=1e-5)
        assert len(shapes) < passes or first <= 64
        assert len(shapes) <= passes


@pytest.fixture(scope="module", params=["batch", pytest.param("none", marks=pytest.mark.slow)])
def checkpoint(
    request: pytest.FixtureRequest, data_root: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A network trained for a few seconds on ISBI 2012 at full resolution."""
    folder = tmp_path_factory.mktemp("membranes")
    for number in range(6):
        for kind in ("images", "masks"):
            (folder / kind).mkdir(exist_ok=True)
            shutil.copy(data_root / "isbi2012" / kind / f"{number}.png", folder / kind)
    config = TrainConfig(
        **{**SMALL, "base_channels": 8, "classes": ("membrane", "cell"), "patch": (96, 96)},
        **{"epochs": 1, "learning_rate": 1e-2, "normalisation": request.param},
    )
    train(folder, folder / "run", config)
    return folder / "run" / "best.safetensors"


def mosaic(folder: Path, side: int) -> NDArray[np.uint8]:
    """A mosaic of slices, cropped to a square."""
    slices = [read_image(path) for path in sorted(folder.glob("*.png"))]
    count = -(-side // 512)
    rows = [
        np.concatenate([slices[(row * count + n) % len(slices)] for n in range(count)], axis=1)
        for row in range(count)
    ]
    return np.concatenate(rows)[:side, :side]


def test_what_cannot_be_tiled_must_fit_into_memory() -> None:
    network = UNet(3, 3, base_channels=8, depth=2, normalisation="group")
    image = np.zeros((512, 512, 3), np.uint8)  # about 64 MiB in float32
    assert as_predictor(network, make_card(), memory=2**27).predict(image).shape == (512, 512)
    with pytest.raises(Error, match="512 x 512 pixels") as caught:
        as_predictor(network, make_card(), memory=2**25).predict(image)
    assert caught.value.code == "too-large"


@pytest.mark.parametrize(
    ("side", "rooms"),
    [(520, (5e7, 1.5e8)), pytest.param(3000, (2e8, 1e9), marks=pytest.mark.slow)],
)
def test_tiles_agree_with_one_pass(
    checkpoint: Path, data_root: Path, side: int, rooms: tuple[float, ...]
) -> None:
    network, card = load_checkpoint(checkpoint)
    image = mosaic(data_root / "isbi2012" / "images", side)
    assert image.shape[:2] == (side, side)
    whole = as_predictor(network, card, memory=1e12)
    wanted = whole.probabilities(image)[1]
    assert 0.2 < (wanted > 0.5).mean() < 0.98
    for room in rooms:
        tiled = as_predictor(network, card, memory=room)
        change = np.abs(tiled.probabilities(image)[1] - wanted)
        other = ((wanted > 0.5) != (tiled.predict(image) == 1)).mean()
        assert 0 < change.max() < 0.25, "tiled, without strong seams"
        assert change.mean() < 4e-4
        assert other < 4e-4
