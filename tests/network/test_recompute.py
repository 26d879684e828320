"""Activation checkpointing: less memory, the same result, statistics and random choices."""

import copy

import pytest
import torch
from torch import Tensor, nn

from plainunet.network.blocks import recomputed
from plainunet.network.unet import UNet


def step(network: UNet, image: Tensor) -> tuple[Tensor, int]:
    """A training step's loss, and the bytes that it kept for the backward pass."""
    kept: dict[int, int] = {}
    held = []
    own = {weights.untyped_storage().data_ptr() for weights in network.parameters()}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
            held.append(tensor)  # so that no address is used twice
        return tensor

    torch.manual_seed(5)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = network(image).square().mean()
        bytes_kept = sum(kept.values())  # before the backward pass computes again
        loss.backward()
    return loss.detach(), bytes_kept


@pytest.mark.parametrize("options", [{}, {"residual": True, "attention": True}])
def test_the_same_step_with_less_memory(options: dict[str, bool]) -> None:
    torch.manual_seed(0)
    plain = UNet(base_channels=4, depth=3, dropout=0.4, **options)
    again = copy.deepcopy(plain)
    again.checkpointing = True
    image = torch.rand(2, 3, 37, 48)

    for _ in range(2):  # running statistics of the second step build on the first
        loss, all_kept = step(plain, image)
        other, few_kept = step(again, image)
        assert torch.equal(loss, other)

    assert few_kept < 0.6 * all_kept
    pairs = zip(plain.parameters(), again.parameters(), strict=True)
    assert all(torch.equal(one.grad, two.grad) for one, two in pairs)
    assert plain.state_dict().keys() == again.state_dict().keys()
    for name, value in plain.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name
    batches = [v for n, v in plain.state_dict().items() if n.endswith("num_batches_tracked")]
    assert set(map(int, batches)) == {2}


def test_running_statistics_would_be_taken_twice_without_care() -> None:
    block = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    feature = torch.rand(2, 3, 8, 8, requires_grad=True)
    torch.utils.checkpoint.checkpoint(block, feature, use_reentrant=False).sum().backward()
    assert block[1].num_batches_tracked == 2  # what PyTorch does on its own

    block[1].reset_running_stats()
    recomputed(block, feature).sum().backward()
    assert block[1].num_batches_tracked == 1


def test_statistics_come_back_after_an_error() -> None:
    block = nn.Sequential(nn.BatchNorm2d(2))
    buffers = dict(block[0].named_buffers())
    feature = torch.rand(2, 2, 4, 4, requires_grad=True)
    result = recomputed(block, feature)

    def fail(*_: object) -> None:
        raise RuntimeError("on purpose")

    block[0].register_forward_pre_hook(fail)
    with pytest.raises(RuntimeError, match="on purpose"):
        result.sum().backward()
    assert all(dict(block[0].named_buffers())[name] is value for name, value in buffers.items())


def test_predicting_is_untouched() -> None:
    network = UNet(base_channels=2, depth=2, checkpointing=True).eval()
    image = torch.rand(1, 3, 16, 16)
    with torch.no_grad():
        first = network(image)
    network.checkpointing = False
    with torch.no_grad():
        torch.testing.assert_close(first, network(image))
