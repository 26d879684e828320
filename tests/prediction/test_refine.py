from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from numpy.typing import NDArray
from torch import Tensor

from plainunet.formats.images import to_unit
from plainunet.formats.windows import ArrayWindows, open_windows
from plainunet.network.checkpoint import Card, save_checkpoint
from plainunet.network.unet import UNet
from plainunet.palette import default_colors
from plainunet.prediction.cells import CELL, MARGIN, WINDOW, window_at
from plainunet.prediction.predictor import Predictor
from plainunet.prediction.refine import UNSURE, Refiner, is_unsure, told
from plainunet.prediction.views import NotFiniteError


def make_network(in_channels: int, classes: int, seed: int = 0, depth: int = 2) -> UNet:
    torch.manual_seed(seed)
    network = UNet(in_channels, classes, base_channels=4, depth=depth)
    with torch.no_grad():
        for _ in range(10):
            network(torch.rand(2, in_channels, WINDOW, WINDOW))
        network.eval()
        std, mean = torch.std_mean(network(torch.rand(2, in_channels, 96, 96)), dim=(0, 2, 3))
        network.head.weight *= 2 / std[:, None, None, None]
        network.head.bias.copy_((network.head.bias - mean) * 2 / std)
    return network.eval()


def make_refiner(classes: int = 2) -> Refiner:
    return Refiner(make_network(3 + classes - 1, classes), precision=torch.float32)


def noise(height: int, width: int, channels: int = 3) -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (height, width, channels), np.uint8)


def draw_logits(classes: int, height: int, width: int) -> Tensor:
    """Sure nearly everywhere, and unsure at some spots and along a slanting line."""
    torch.manual_seed(3)
    logits = torch.full((classes, height, width), -9.0)
    logits[0] = 9.0
    for row in range(height):
        logits[:, row, min(width - 1, row // 2) : row // 2 + 3] = 0.2
    return logits[1:] - logits[:1] if classes == 2 else logits


def cut(logits: Tensor, heights: list[int], first: int = 0) -> Iterator[Tensor]:
    """Rows from `first` on, in bands of these heights."""
    while first < logits.shape[1]:
        for height in heights:
            if first < logits.shape[1]:
                yield logits[:, first : first + height]
            first += height


def expected(refiner: Refiner, image: NDArray[np.uint8], coarse: Tensor) -> Tensor:
    """Cell by cell, each window by itself."""
    result, (height, width) = coarse.clone(), coarse.shape[1:]
    near = is_unsure(coarse)
    for top in range(0, height, CELL):
        for left in range(0, width, CELL):
            rows, columns = slice(max(0, top - 8), top + 72), slice(max(0, left - 8), left + 72)
            if not near[rows, columns].any():
                continue
            y, x = window_at(top, height), window_at(left, width)
            pixels = image[y : y + WINDOW, x : x + WINDOW]
            below, right = WINDOW - pixels.shape[0], WINDOW - pixels.shape[1]
            pixels = np.pad(pixels, ((0, below), (0, right), (0, 0)), mode="edge")
            logits = coarse[:, y : y + WINDOW, x : x + WINDOW].numpy()
            logits = np.pad(logits, ((0, 0), (0, below), (0, right)), mode="edge")
            batch = torch.cat(
                [
                    torch.from_numpy(to_unit(pixels)).permute(2, 0, 1)[None],
                    told(torch.from_numpy(logits)[None]),
                ],
                dim=1,
            )
            with torch.inference_mode():
                fine = refiner.network(batch)[0]
            if len(coarse) == 1:
                fine = fine[1:] - fine[:1]
            part = fine[:, top - y : top - y + CELL, left - x : left - x + CELL]
            part = part[:, : height - top, : width - left]
            result[:, top : top + CELL, left : left + CELL] = part
    return result


@pytest.mark.parametrize("classes", [2, 4])
@pytest.mark.parametrize("size", [(200, 300), (64, 64), (20, 31), (97, 400), (330, 96), (129, 65)])
def test_cells_are_replaced_by_what_the_network_says_of_their_windows(
    classes: int, size: tuple[int, int]
) -> None:
    refiner, image = make_refiner(classes), noise(*size)
    coarse = draw_logits(classes, *size)
    wanted = expected(refiner, image, coarse)
    assert (wanted != coarse).any()
    found = torch.cat(list(refiner.bands(ArrayWindows(image), cut(coarse, [1000]))), dim=1)
    torch.testing.assert_close(found, wanted, atol=1e-4, rtol=1e-4)
    unchanged = (wanted == coarse).all(dim=0)
    if size[1] >= 300:
        assert unchanged.float().mean() > 0.1
        assert torch.equal(found[:, unchanged], coarse[:, unchanged])


@pytest.mark.parametrize("heights", [[1], [7, 64, 3], [50], [130]])
@pytest.mark.parametrize("first", [0, 1, 63, 64, 100, 230, 269])
def test_it_matters_not_how_rows_come_and_where_they_begin(heights: list[int], first: int) -> None:
    refiner, image = make_refiner(), noise(270, 200)
    coarse = draw_logits(2, 270, 200)
    whole = torch.cat(list(refiner.bands(ArrayWindows(image), iter([coarse]))), dim=1)
    begin = refiner.row_needed(first, 270)
    assert begin <= max(0, first)
    bands = list(refiner.bands(ArrayWindows(image), cut(coarse, heights, begin), first))
    assert max(band.shape[1] for band in bands) <= CELL
    torch.testing.assert_close(torch.cat(bands, dim=1), whole[:, first:], atol=1e-4, rtol=1e-4)


def test_where_all_is_sure_the_network_does_not_run() -> None:
    refiner = make_refiner()
    coarse = torch.full((1, 150, 210), 9.0)
    calls: list[int] = []
    refiner.network.register_forward_hook(lambda *_: calls.append(1))
    found = list(refiner.bands(ArrayWindows(noise(150, 210)), iter([coarse])))
    assert torch.equal(torch.cat(found, dim=1), coarse)
    assert calls == []
    coarse[0, 80, 200] = 0
    list(refiner.bands(ArrayWindows(noise(150, 210)), iter([coarse])))
    assert calls == [1]


def test_a_network_in_training_is_left_as_it_was() -> None:
    """As before the first step of a run to the clock: its statistics are not yet to change."""
    refiner, image = make_refiner(), noise(100, 120)
    coarse = draw_logits(2, 100, 120)
    wanted = torch.cat(list(refiner.bands(ArrayWindows(image), iter([coarse]))), dim=1)
    before = {name: value.clone() for name, value in refiner.network.state_dict().items()}
    refiner.network.train()
    found = torch.cat(list(refiner.bands(ArrayWindows(image), iter([coarse]))), dim=1)
    assert refiner.network.training
    torch.testing.assert_close(found, wanted)
    for name, value in refiner.network.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_what_is_unsure() -> None:
    p = torch.tensor([0.951, 0.949, 0.5, 0.051, 0.049])
    assert UNSURE == 0.9
    assert is_unsure(torch.logit(p)[None, None])[0].tolist() == [False, True, True, True, False]
    of_two = torch.stack([1 - p, p]).log()[:, None]
    assert is_unsure(of_two)[0].tolist() == [False, True, True, True, False]
    of_three = torch.tensor([[0.955, 0.02, 0.025], [0.94, 0.06, 0.0], [0.1, 0.45, 0.45]])
    assert is_unsure(of_three.log().T[:, None])[0].tolist() == [False, True, True]


def test_grey_pictures_and_16_bits() -> None:
    refiner = make_refiner()
    coarse = draw_logits(2, 100, 120)
    grey = noise(100, 120, 1)
    as_rgb = np.repeat(grey, 3, axis=2)
    pictures = [grey, as_rgb, as_rgb.astype(np.uint16) * 257, to_unit(as_rgb)]
    found = [
        torch.cat(list(refiner.bands(ArrayWindows(each), iter([coarse]))), 1) for each in pictures
    ]
    for each in found[1:]:
        torch.testing.assert_close(each, found[0], atol=1e-3, rtol=1e-3)


def test_a_damaged_network_is_refused() -> None:
    refiner = make_refiner()
    with torch.no_grad():
        refiner.network.head.bias.fill_(float("nan"))
    with pytest.raises(NotFiniteError, match="not finite"):
        list(refiner.bands(ArrayWindows(noise(64, 64)), iter([torch.zeros(1, 64, 64)])))


@pytest.fixture
def models(tmp_path: Path) -> tuple[Path, Path]:
    """A coarse checkpoint, and one that refines its masks."""
    names, colors = ("ground", "thing"), default_colors(2)
    coarse, fine = tmp_path / "coarse.safetensors", tmp_path / "fine.safetensors"
    save_checkpoint(coarse, make_network(3, 2, depth=3), Card(names, colors, size=(48, 64)))
    save_checkpoint(fine, make_network(4, 2, 1), Card(names, colors, size=None, refines=True))
    return coarse, fine


def test_the_predictor_refines(models: tuple[Path, Path], tmp_path: Path) -> None:
    coarse, fine = models
    image = noise(310, 420)
    plain = Predictor.load(coarse, device="cpu", precision="fp32")
    both = Predictor.load(coarse, refine=fine, device="cpu", precision="fp32")
    assert both.digest() != plain.digest()
    before, after = plain.predict(image), both.predict(image)
    assert 0.02 < (before != after).mean() < 0.98
    (difference,) = torch.logit(torch.from_numpy(plain.probabilities(image)[1:]))[None]
    refiner = Refiner(both._refiner.network, precision=torch.float32)  # type: ignore[union-attr]
    wanted = torch.cat(list(refiner.bands(ArrayWindows(image), iter([difference]))), dim=1)
    assert (after == (wanted[0] >= 0).numpy()).mean() > 0.9999
    found = both.probabilities(image)
    np.testing.assert_allclose(found[1], wanted[0].sigmoid(), atol=1e-3)
    assert np.array_equal(found[1] >= 0.5, after)

    tifffile.imwrite(tmp_path / "picture.tif", image, tile=(64, 64), photometric="rgb")
    with open_windows(tmp_path / "picture.tif", 0) as picture:
        for first in (0, 100):
            bands = np.concatenate(list(both.mask_bands(picture, first)))
            assert (bands == after[first:]).mean() > 0.999


def test_a_window_shows_more_than_its_cell() -> None:
    assert WINDOW == CELL + 2 * MARGIN
    assert CELL % 4 == MARGIN % 4 == 0  # in phase with the pooling grid of depth 2
