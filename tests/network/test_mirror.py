"""Mirroring: against NumPy's reflection, and logits of a picture's own size."""

import numpy as np
import pytest
import torch

from plainunet.network.unet import UNet, deep_logits, mirror


@pytest.mark.parametrize(("height", "width"), [(60, 45), (5, 31), (1, 2)])
def test_mirrored_as_by_numpy(height: int, width: int) -> None:
    network = UNet(1, base_channels=1, depth=2, normalisation="none", valid=True)
    image = torch.rand(2, 1, height, width)
    found = mirror(network, image)

    size = network.input_size(height, width)
    kept = network.output_size(*size)
    before = [(whole - inner) // 2 for whole, inner in zip(size, kept, strict=True)]
    after = [n - b - s for n, b, s in zip(size, before, (height, width), strict=True)]
    margins = ((0, 0), (0, 0), (before[0], after[0]), (before[1], after[1]))
    expected = np.pad(image.numpy(), margins, mode="reflect")
    assert found.shape[2:] == size
    np.testing.assert_array_equal(found.numpy(), expected)


def test_the_papers_picture_is_extended_by_its_context() -> None:
    network = UNet.paper()
    image = torch.rand(1, 1, 388, 388)
    extended = mirror(network, image)
    assert extended.shape == (1, 1, 572, 572)
    assert torch.equal(extended[:, :, 92:480, 92:480], image)


def test_padded_convolutions_need_no_mirror() -> None:
    image = torch.rand(1, 3, 33, 47)
    assert mirror(UNet(base_channels=1), image) is image


def test_logits_of_a_pixel_come_from_around_that_pixel() -> None:
    network = UNet(1, base_channels=2, depth=1, normalisation="none", valid=True).double()
    with torch.no_grad():
        for weights in network.parameters():
            weights.abs_()
        network.ups[0].up.weight.zero_()  # the skip alone: four convolutions, 9 x 9 pixels
    image = torch.rand(1, 1, 30, 41, dtype=torch.float64, requires_grad=True)
    (logits,) = deep_logits(network, image)
    assert logits.shape == (1, 2, 30, 41)
    (gradient,) = torch.autograd.grad(logits[0, 0, 12, 27], image)
    expected = torch.zeros(30, 41, dtype=torch.bool)
    expected[8:17, 23:32] = True
    assert torch.equal(gradient[0, 0] > 0, expected)


def test_deep_levels_cover_the_picture() -> None:
    network = UNet(base_channels=1, depth=3, deep_supervision=True)
    levels = deep_logits(network, torch.rand(2, 3, 40, 33))
    assert [tuple(level.shape) for level in levels] == [
        (2, 2, 40, 33),
        (2, 2, 20, 16),
        (2, 2, 10, 8),
    ]
    small = deep_logits(network, torch.rand(2, 3, 5, 40))  # mirrored to 8 rows, then cropped
    assert [tuple(level.shape[2:]) for level in small] == [(5, 40), (3, 20), (2, 10)]
