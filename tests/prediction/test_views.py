"""Views compared with whole images and logits; test-time augmentation, scales and ensembles."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from torch import Tensor
from torch.nn import functional as F

from plainunet.dataset.resize import resize
from plainunet.formats.images import to_unit
from plainunet.formats.windows import ArrayWindows, open_windows
from plainunet.network.unet import UNet
from plainunet.prediction import views
from plainunet.prediction.backends import Turn
from plainunet.prediction.torch_backend import TorchBackend, log_mean, turn_back, turn_images
from plainunet.prediction.views import TTA, ReducedImage, aligned_bands, enlarge, row_above

from ..models import as_predictor, make_card, make_network, make_predictor

IMAGE = np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)


@pytest.mark.parametrize("how", TTA["turns"])
def test_turn_back_undoes_turn_images(how: Turn) -> None:
    batch = torch.rand(2, 3, 5, 8)
    assert torch.equal(turn_back(turn_images(batch, how), how), batch)


def test_turns_are_all_symmetries_of_a_square() -> None:
    square = torch.arange(9.0).reshape(1, 1, 3, 3)
    for name, count in (("none", 1), ("mirror", 2), ("flips", 4), ("turns", 8)):
        seen = {tuple(turn_images(square, how).flatten().tolist()) for how in TTA[name]}
        assert len(seen) == len(TTA[name]) == count
    assert torch.equal(turn_images(square, TTA["mirror"][1]), square.flip(3))
    flips = {tuple(turn_images(square, how).flatten().tolist()) for how in TTA["flips"]}
    assert tuple(square.flip(2).flatten().tolist()) in flips


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("tta", ["mirror", "flips", "turns"])
def test_probabilities_are_the_mean_over_augmented_views(tta: str, classes: int) -> None:
    plain = make_predictor(classes)
    wanted = np.zeros((classes, 48, 64))
    for quarters, flip in TTA[tta]:
        seen = np.rot90(IMAGE[:, ::-1] if flip else IMAGE, quarters)
        back = np.rot90(plain.probabilities(seen), -quarters, (1, 2))
        wanted += (back[..., ::-1] if flip else back) / len(TTA[tta])
    got = make_predictor(classes, tta=tta)
    assert np.allclose(got.probabilities(IMAGE), wanted, atol=1e-5)
    assert np.abs(plain.probabilities(IMAGE) - wanted).max() > 0.01
    assert (got.predict(IMAGE) == wanted.argmax(axis=0)).mean() > 0.999


def test_augmentation_with_valid_convolutions() -> None:
    network = make_network(valid=True)
    plain, mean = (as_predictor(network, make_card(tta=tta)) for tta in ("none", "mirror"))
    mirrored = plain.probabilities(IMAGE[:, ::-1])[..., ::-1]
    wanted = (plain.probabilities(IMAGE) + mirrored) / 2
    assert np.allclose(mean.probabilities(IMAGE), wanted, atol=1e-5)


@pytest.mark.parametrize("classes", [2, 3])
def test_scales(classes: int) -> None:
    small, large = (make_predictor(classes, size=size) for size in ((24, 32), (48, 64)))
    both = make_predictor(classes, size=(48, 64), scales=(0.5, 1.0))
    wanted = (small.probabilities(IMAGE) + large.probabilities(IMAGE)) / 2
    assert np.allclose(both.probabilities(IMAGE), wanted, atol=1e-5)
    larger = make_predictor(classes, scales=(2.0,)).probabilities(IMAGE)
    assert larger.shape == (classes, 48, 64)
    assert np.abs(larger - large.probabilities(IMAGE)).max() > 0.01


@pytest.mark.parametrize("classes", [2, 3])
def test_an_ensemble_is_the_mean_of_its_members(classes: int) -> None:
    members = [
        (make_network(classes, seed), make_card(classes, size=size))
        for seed, size in ((0, None), (1, (24, 32)), (2, (40, 56)))
    ]
    alone = [as_predictor(*member) for member in members]
    wanted = np.mean([each.probabilities(IMAGE) for each in alone], axis=0)
    ensemble = as_predictor(*members[0], others=members[1:])
    assert np.allclose(ensemble.probabilities(IMAGE), wanted, atol=1e-5)
    assert (ensemble.predict(IMAGE) == wanted.argmax(axis=0)).mean() > 0.999
    assert (alone[0].predict(IMAGE) != wanted.argmax(axis=0)).mean() > 0.01


@pytest.mark.parametrize("classes", [1, 2, 4])
def test_log_mean(classes: int) -> None:
    several = [3 * torch.randn(classes, 5, 7) for _ in range(3)]

    def probabilities(logits: Tensor) -> Tensor:
        return logits.sigmoid() if classes == 1 else logits.softmax(0)

    wanted = sum(probabilities(logits) for logits in several) / 3
    assert torch.allclose(probabilities(log_mean(several, 0)), wanted, atol=1e-6)
    assert log_mean(several[:1], 0) is several[0]


def test_log_mean_of_certain_predictions() -> None:
    """The mean is finite even if probabilities are 0 and 1 in float32."""
    sure = torch.tensor([[[500.0]]]), torch.tensor([[[-500.0]]])
    assert log_mean(sure, 0).abs() < 1e-3
    assert log_mean([sure[0], sure[0]], 0) > 400


def test_aligned_bands() -> None:
    whole = torch.rand(2, 10, 3)
    cuts = [(0, 10), (0, 3, 4, 10), (0, 1, 9, 10)]
    streams = [iter([whole[:, a:b] for a, b in pairwise(cut)]) for cut in cuts]
    bands = list(aligned_bands(streams))
    assert len(bands) == 5
    for number in range(3):
        assert torch.equal(torch.cat([band[number] for band in bands], dim=1), whole)


RNG = np.random.default_rng(0)


@pytest.mark.parametrize(
    "size", [(97, 130), (50, 61), (13, 17), (96, 130), (1, 1), (121, 163), (245, 300)]
)
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_resizing_in_parts_equals_resizing_at_once(
    tmp_path: Path, size: tuple[int, int], dtype: type, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = RNG.integers(0, np.iinfo(dtype).max, (97, 130, 5), dtype=dtype)
    tifffile.imwrite(tmp_path / "a.tif", image, tile=(32, 32), planarconfig="contig")
    monkeypatch.setattr(views, "_IMAGE_BYTES", 4 * 130 * 5 * 7)  # seven rows at a time
    expected = resize(to_unit(image), size)
    with open_windows(tmp_path / "a.tif", most=0) as windows:
        reduced = ReducedImage(windows, size, (size[0] + 3, size[1] + 9))
        padded = np.pad(expected, ((0, 3), (0, 9), (0, 0)), mode="edge")
        places = [(0, 0, *reduced.size), (0, 0, 1, 1), (size[0], size[1], 3, 9)]
        places += [(size[0] // 2, size[1] // 3, 3, 9), (size[0] - 1, 0, 2, size[1] + 9)]
        for top, left, height, width in places:
            part = reduced.read(top, left, height, width)
            assert part.dtype == np.float32
            wanted = padded[top : top + height, left : left + width]
            np.testing.assert_allclose(part, wanted, atol=1e-5)


def test_images_in_memory_are_reduced_at_once() -> None:
    image = RNG.integers(0, 256, (97, 130, 3), dtype=np.uint8)
    part = ReducedImage(ArrayWindows(image), (40, 50), (40, 50)).read(3, 5, 20, 30)
    expected = to_unit(resize(image, (40, 50)))[3:23, 5:35]
    np.testing.assert_allclose(part, expected, atol=2e-6)
    assert part.flags.c_contiguous


@pytest.mark.parametrize("wanted", [(300, 131), (50, 61), (97, 200), (1, 1), (96, 3)])
@pytest.mark.parametrize("bands", [[97], [1] * 97, [40, 1, 50, 6]])
@pytest.mark.parametrize("at_once", [1, 7, 1000])
def test_enlarging_in_bands_equals_enlarging_at_once(
    wanted: tuple[int, int], bands: list[int], at_once: int
) -> None:
    backend = TorchBackend(UNet(base_channels=1, depth=1), "cpu")
    logits = torch.randn(3, 97, 130)
    starts = np.cumsum([0, *bands[:-1]]).tolist()
    numbered = list(zip(starts, logits.split(bands, dim=1), strict=True))
    parts = list(enlarge(backend, numbered, 97, wanted, at_once))
    assert max(part.shape[1] for part in parts) <= at_once
    expected = F.interpolate(logits[None], size=wanted, mode="bilinear", align_corners=False)[0]
    torch.testing.assert_close(torch.cat(parts, dim=1), expected, rtol=1e-4, atol=1e-4)
    first = wanted[0] // 2
    needed = row_above(first, 97, wanted[0])
    later = [(top, band) for top, band in numbered if top + band.shape[1] > needed]
    rest = torch.cat(list(enlarge(backend, later, 97, wanted, at_once, first)), dim=1)
    torch.testing.assert_close(rest, torch.cat(parts, dim=1)[:, first:], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("size", [(96, 128), None])
def test_bands_from_a_later_row_equal_those_of_the_whole_image(
    size: tuple[int, int] | None,
) -> None:
    one = make_predictor(size=size)
    whole = np.concatenate(list(one.mask_bands(ArrayWindows(IMAGE))))
    for first in (0, 1, 17, 47):
        rest = np.concatenate(list(one.mask_bands(ArrayWindows(IMAGE), first)))
        assert np.array_equal(rest, whole[first:])
