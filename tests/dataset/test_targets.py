from itertools import pairwise

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from plainunet.dataset.samples import balanced_weights, make_batch

CPU = torch.device("cpu")
side = st.integers(1, 3000)


def windows(old: int, new: int) -> list[slice]:
    """The old pixels that a new one may be made of: those it covers, and one on either side."""
    edges = np.arange(new + 1) * old / new
    return [
        slice(max(0, int(np.floor(begin)) - 1), int(np.ceil(end)) + 1)
        for begin, end in pairwise(edges)
    ]


def test_make_batch_layout() -> None:
    random = np.random.default_rng(0)
    images = torch.from_numpy(random.integers(0, 256, (2, 4, 6, 3), dtype=np.uint8))
    shares = torch.zeros(2, 8, 12, 2, dtype=torch.uint8)
    shares[..., 0], shares[..., 1] = 51, 204
    image, target, weight = make_batch((images, shares), CPU)
    assert image.shape == (2, 3, 4, 6)
    assert image.is_contiguous(memory_format=torch.channels_last)
    assert target.shape == (2, 2, 8, 12)
    assert weight.shape == (2, 8, 12)
    assert {image.dtype, target.dtype, weight.dtype} == {torch.float32}
    assert torch.equal(image, images.permute(0, 3, 1, 2) / 255)
    assert torch.allclose(target[:, 0], torch.tensor(0.2))
    assert torch.allclose(target[:, 1], torch.tensor(0.8))
    assert (weight == 1).all()


def test_make_batch_leaves_float_pictures_alone() -> None:
    images = torch.linspace(-5, 300, 24).reshape(1, 2, 4, 3)
    image, _, _ = make_batch((images, torch.full((1, 2, 4, 2), 127, dtype=torch.uint8)), CPU)
    assert torch.equal(image, images.permute(0, 3, 1, 2))


def test_make_batch_weights() -> None:
    # pixels: nothing valid, a half, whole, and one whose rounded planes sum to 256
    shares = torch.tensor([[[0, 0], [32, 96], [255, 0], [128, 128]]], dtype=torch.uint8)[None]
    image = torch.zeros(1, 1, 4, 1, dtype=torch.uint8)
    _, target, weight = make_batch((image, shares), CPU)
    assert torch.allclose(weight[0, 0], torch.tensor([0, 128 / 255, 1, 1]))
    assert torch.allclose(
        target[0, :, 0].T, torch.tensor([[0, 0], [0.25, 0.75], [1, 0], [0.5, 0.5]])
    )


def test_make_batch_of_void_alone_is_finite() -> None:
    shares = torch.zeros(1, 4, 4, 3, dtype=torch.uint8)
    _, target, weight = make_batch((torch.zeros(1, 4, 4, 1, dtype=torch.uint8), shares), CPU)
    assert (target == 0).all()
    assert (weight == 0).all()


def weighted_batch() -> list[torch.Tensor]:
    # pixels: nothing valid, a half, whole, and one whose rounded planes sum to 256
    shares = torch.tensor([[[0, 0], [32, 96], [255, 0], [128, 128]]], dtype=torch.uint8)[None]
    return [torch.zeros(1, 1, 4, 1, dtype=torch.uint8), shares]


def test_make_batch_with_border_weights() -> None:
    border = torch.tensor([[[3.0, 4.0, 0.0, 1.5]]])
    plain = make_batch(weighted_batch(), CPU)
    image, target, weight = make_batch([*weighted_batch(), border], CPU)
    assert torch.equal(image, plain[0])
    assert torch.equal(target, plain[1])
    # what is not valid does not weigh, however near the border
    assert torch.allclose(weight[0, 0], torch.tensor([0, 5 * 128 / 255, 1, 2.5]))
    assert weight.dtype == torch.float32


def test_make_batch_with_class_weights() -> None:
    border = torch.tensor([[[3.0, 4.0, 0.0, 1.5]]])
    class_weights = torch.tensor([0.5, 2.0])
    _, _, weight = make_batch(weighted_batch(), CPU, class_weights)
    mixed = 0.25 * 0.5 + 0.75 * 2
    assert torch.allclose(weight[0, 0], torch.tensor([0, mixed * 128 / 255, 0.5, 1.25]))
    _, _, both = make_batch([*weighted_batch(), border], CPU, class_weights)
    assert torch.allclose(both[0, 0], torch.tensor([0, (mixed + 4) * 128 / 255, 0.5, 2.75]))


def test_balanced_weights() -> None:
    weights = balanced_weights(np.array([0.8, 0.0, 0.2]))
    assert weights.dtype == torch.float32
    assert torch.allclose(weights, torch.tensor([0.625, 0, 2.5]))
    assert torch.equal(balanced_weights(np.array([0.5, 0.5])), torch.ones(2))


@given(st.lists(st.integers(0, 10**12), min_size=2, max_size=9).filter(any))
def test_balanced_weights_mean_one_and_count_each_class_alike(areas: list[int]) -> None:
    shares = np.array(areas) / sum(areas)
    weighed = balanced_weights(shares).double().numpy() * shares
    assert np.isclose(weighed.sum(), 1)
    assert np.allclose(weighed[shares > 0], weighed.max())
