"""A loss at every level of the expanding path."""

import pytest
import torch

from plainunet.network.losses import LOSSES, deep_loss


@pytest.mark.parametrize("name", LOSSES)
def test_deep_supervision_weighs_each_level_half_of_the_finer(name: str) -> None:
    torch.manual_seed(0)
    loss = LOSSES[name]
    target = torch.rand(2, 3, 16, 24).softmax(dim=1)
    weight = torch.rand(2, 16, 24)
    weight[:, 4:8, 4:8] = 0
    levels = [torch.randn(2, 3, 16 // 2**i, 24 // 2**i) for i in range(3)]
    expected = 0.0
    for i, logits in enumerate(levels):
        side = 2**i
        cells = weight.reshape(2, 16 // side, side, 24 // side, side)
        area = cells.mean(dim=(2, 4))
        shares = (weight[:, None] * target).reshape(2, 3, 16 // side, side, 24 // side, side)
        shares = shares.mean(dim=(3, 5)) / area[:, None].clamp(min=1e-9)
        expected = expected + loss(logits, shares, area) * (1, 1 / 2, 1 / 4)[i] / 1.75
    torch.testing.assert_close(deep_loss(loss, levels, target, weight), expected)
    assert deep_loss(loss, levels[:1], target, weight) == loss(levels[0], target, weight)


def test_deep_supervision_takes_odd_sizes_and_teaches_every_level() -> None:
    levels = [torch.zeros(1, 2, *size, requires_grad=True) for size in ((33, 21), (16, 10), (8, 5))]
    target = torch.zeros(1, 2, 33, 21)
    target[:, 1, :, :10], target[:, 0, :, 10:] = 1, 1
    deep_loss(LOSSES["cross-entropy+dice"], levels, target, torch.ones(1, 33, 21)).backward()
    for level in levels:  # class 1 is at the left, at every size
        gradient = level.grad[0, 1]
        assert (gradient[:, : level.shape[3] // 3] < 0).all()
        assert (gradient[:, -level.shape[3] // 3 :] > 0).all()


def test_the_parts_of_a_deeply_supervised_batch_add_up() -> None:
    generator = torch.Generator().manual_seed(0)
    target = torch.randn(4, 3, 32, 32, generator=generator).softmax(dim=1)
    weight = torch.rand(4, 32, 32, generator=generator)
    levels = [torch.randn(4, 3, side, side, generator=generator) for side in (32, 16, 8)]
    loss = LOSSES["cross-entropy+dice"]
    parts = [
        deep_loss(loss, [level[k : k + 1] for level in levels], target[k : k + 1],
                  weight[k : k + 1], weight)
        for k in range(4)
    ]  # fmt: skip
    assert sum(parts).item() == pytest.approx(  # type: ignore[union-attr]
        deep_loss(loss, levels, target, weight).item(), rel=1e-6
    )
