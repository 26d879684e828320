"""Tiles of valid convolutions equal one pass over the whole mirrored picture."""

import pytest
import torch

from plainunet.network.mirror import deep_logits
from plainunet.network.unet import UNet
from plainunet.prediction.tiling import overlap_tile


def network_of(depth: int, upsampling: str = "transposed") -> UNet:
    torch.manual_seed(depth)
    network = UNet(
        1, 3, 2, depth, normalisation="none", valid=True, upsampling=upsampling, dropout=0.5
    )
    return network.eval()


@pytest.mark.parametrize(("height", "width"), [(100, 131), (37, 90), (64, 64), (9, 200)])
@pytest.mark.parametrize("depth", [1, 2, 3])
@torch.inference_mode()
def test_tiles_equal_one_pass(depth: int, height: int, width: int) -> None:
    network = network_of(depth)
    image = torch.rand(2, 1, height, width)
    (whole,) = deep_logits(network, image)
    assert whole.std() > 1e-3
    tiled = overlap_tile(network, image, tile_output=20)
    assert tiled.shape == (2, 3, height, width)
    torch.testing.assert_close(tiled, whole, rtol=1e-5, atol=1e-5)


def test_several_tiles_were_run() -> None:
    network = network_of(2)
    sizes = []
    network.register_forward_hook(lambda _, inputs, __: sizes.append(tuple(inputs[0].shape[2:])))
    with torch.inference_mode():
        overlap_tile(network, torch.rand(1, 1, 60, 20), tile_output=20)
    tile = network.input_size(20, 20)
    assert set(sizes) == {tile}
    assert len(sizes) >= 3


def test_the_papers_tiles_step_by_384() -> None:
    network = UNet.paper().to("meta").eval()
    corners = []
    inner = network.forward

    def forward(image: torch.Tensor) -> torch.Tensor:
        corners.append((image.storage_offset() % image.stride(2), image.shape[2:]))
        return inner(image)

    network.forward = forward  # type: ignore[method-assign]
    overlap_tile(network, torch.empty(1, 1, 388, 1156, device="meta"))
    assert corners == [(384 * n, (572, 572)) for n in range(3)]


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
        overlap_tile(UNet(base_channels=1, depth=1), torch.rand(1, 3, 32, 32))
