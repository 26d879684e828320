"""The blocks; activation checkpointing; folding of batch normalisation."""

import copy
import itertools
from typing import Any, get_args

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from plainunet.network.blocks import (
    AttentionGate,
    DoubleConv,
    GroupNorm,
    Normalisation,
    ResidualDoubleConv,
    crop_skip,
    fold_batch_normalisation,
    he_initialise,
    pad_feature,
    recomputed,
)
from plainunet.network.unet import UNet


def test_convolutions_have_a_bias_only_without_normalisation() -> None:
    for kind, block in itertools.product(get_args(Normalisation), (DoubleConv, ResidualDoubleConv)):
        convs = [m for m in block(4, 4, normalisation=kind).modules() if isinstance(m, nn.Conv2d)]
        assert len(convs) == 2
        assert all((conv.bias is not None) == (kind == "none") for conv in convs)


def test_group_and_instance_normalisation() -> None:
    torch.manual_seed(0)
    feature = torch.randn(2, 12, 5, 7)
    group = DoubleConv(3, 12, normalisation="group")[1]
    assert group.num_groups == 4  # the greatest common divisor of 8 and 12
    each = DoubleConv(3, 12, normalisation="instance")[1]
    torch.testing.assert_close(each(feature), F.instance_norm(feature))


def gradients(norm: nn.Module, feature: Tensor, weights: Tensor) -> list[Tensor]:
    """The output, and the gradients of its product with `weights`."""
    feature = feature.clone().requires_grad_()  # of the same layout
    out = norm(feature)
    out.backward(weights)
    return [out.detach(), feature.grad, norm.weight.grad, norm.bias.grad]


@pytest.mark.parametrize("shape", [(2, 16, 33, 32), (3, 12, 5, 7), (1, 7, 1, 9)])
@pytest.mark.parametrize("kind", ["group", "instance"])
@pytest.mark.parametrize(
    ("dtype", "tolerance"),
    [(torch.float64, 1e-10), (torch.float32, 1e-4), (torch.bfloat16, 1e-2)],
)
def test_group_normalisation_has_the_gradients_of_pytorchs(
    shape: tuple[int, ...], kind: Normalisation, dtype: torch.dtype, tolerance: float
) -> None:
    """In channels-last, with weights in float32 for a bfloat16 feature, as in mixed precision."""
    torch.manual_seed(0)
    norm = DoubleConv(3, shape[1], normalisation=kind)[1]
    nn.init.normal_(norm.weight, 1)
    nn.init.normal_(norm.bias)
    exact = nn.GroupNorm(norm.num_groups, shape[1]).double()
    exact.load_state_dict(norm.state_dict())
    if dtype == torch.float64:
        norm.double()
    feature = (torch.randn(shape) + torch.randn(1, shape[1], 1, 1)).to(dtype)
    weights = (torch.randn(shape) + 1).to(dtype)
    found = gradients(norm, feature.contiguous(memory_format=torch.channels_last), weights)
    assert found[0].dtype == found[1].dtype == dtype
    expected = gradients(exact, feature.double(), weights.double())
    for one, other in zip(found, expected, strict=True):
        atol = tolerance * max(1.0, float(other.abs().max()))
        torch.testing.assert_close(one.double(), other, rtol=0, atol=atol)


def test_only_training_in_channels_last_on_a_cpu_leaves_pytorchs_group_normalisation() -> None:
    nchw = torch.rand(2, 16, 6, 5, requires_grad=True)
    feature = nchw.contiguous(memory_format=torch.channels_last)

    def ran(norm: nn.Module, feature: Tensor) -> str:
        return norm(feature).grad_fn.name()

    norm = DoubleConv(3, 16, normalisation="group")[1]
    own = "_NarrowGroupNormBackward"
    assert ran(norm, feature) == own
    assert norm(feature).is_contiguous(memory_format=torch.channels_last)
    assert ran(norm, nchw) != own
    assert ran(norm, nchw[..., :1, :1]) != own, "both layouts at once"
    assert ran(GroupNorm(2, 16).train(), feature) != own, "wide groups"
    assert ran(norm.eval(), feature) != own
    assert not any(isinstance(part, GroupNorm) for part in DoubleConv(3, 16).modules())
    assert list(norm.state_dict()) == ["weight", "bias"]


@pytest.mark.parametrize("valid", [False, True])
@pytest.mark.parametrize("out_channels", [3, 5])
def test_residual_block_adds_its_input(out_channels: int, valid: bool) -> None:
    block = ResidualDoubleConv(3, out_channels, valid=valid)
    nn.init.zeros_(block.convs[4].weight)  # the scale of the last normalisation: no residual
    feature = torch.randn(2, 3, 9, 9)
    kept = feature[:, :, 2:-2, 2:-2] if valid else feature
    expected = kept if out_channels == 3 else block.shortcut(kept)
    torch.testing.assert_close(block(feature), F.relu(expected))


def test_attention_is_additive_and_between_0_and_1() -> None:
    torch.manual_seed(0)
    gate = AttentionGate(4, 6)
    skip, coarse = torch.randn(1, 4, 9, 10), torch.randn(1, 6, 4, 5)
    found = gate(skip, coarse)
    weights = found / skip
    assert ((weights > 0) & (weights < 1)).all()
    torch.testing.assert_close(weights, weights[:, :1].expand_as(weights))  # one per pixel
    query = torch.einsum("oi,nihw->nohw", gate.from_coarse.weight[:, :, 0, 0], coarse)
    patches = F.unfold(skip, 2, stride=2).view(1, 16, 4, 5)
    key = torch.einsum("oi,nihw->nohw", gate.from_skip.weight.flatten(1), patches)
    inner = F.relu(key + query + gate.from_coarse.bias[:, None, None])
    score = torch.einsum("oi,nihw->nohw", gate.weigh.weight[:, :, 0, 0], inner) + gate.weigh.bias
    expected = F.interpolate(score.sigmoid(), size=(9, 10), mode="bilinear")
    torch.testing.assert_close(weights[:, :1], expected, rtol=1e-4, atol=1e-5)


def test_matching_a_skip_and_a_feature() -> None:
    skip, feature = torch.rand(1, 2, 9, 10), torch.rand(1, 3, 8, 10)
    same, padded = pad_feature(skip, feature)
    assert same is skip
    assert torch.equal(padded[:, :, :8], feature)
    assert not padded[:, :, 8:].any()
    cropped, same = crop_skip(skip, torch.rand(1, 3, 5, 4))
    assert torch.equal(cropped, skip[:, :, 2:7, 3:7])


def test_he_initialisation_has_the_standard_deviation_of_the_paper() -> None:
    torch.manual_seed(0)
    layers = [nn.Conv2d(64, 64, 3), nn.Conv2d(256, 128, 1), nn.ConvTranspose2d(256, 128, 2, 2)]
    # N: "for a 3x3 convolution and 64 feature channels in the previous layer N = 9 * 64 = 576"
    for layer, n in zip(layers, (576, 256, 256), strict=True):
        he_initialise(layer)
        assert layer.weight.std().item() == pytest.approx((2 / n) ** 0.5, rel=0.02)
        assert abs(layer.weight.mean().item()) < 0.02 * (2 / n) ** 0.5
        assert not layer.bias.any()


# activation checkpointing


def step(network: UNet, image: Tensor) -> tuple[Tensor, int]:
    """The loss of a training step, and the bytes that it kept for the backward pass."""
    kept: dict[int, int] = {}
    held = []
    own = {weights.untyped_storage().data_ptr() for weights in network.parameters()}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
            held.append(tensor)  # so that no address is reused
        return tensor

    torch.manual_seed(5)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = network(image).square().mean()
        bytes_kept = sum(kept.values())  # before the backward pass recomputes
        loss.backward()
    return loss.detach(), bytes_kept


@pytest.mark.parametrize(
    "options",
    [{}, {"residual": True, "attention": True}, {"normalisation": "group"}],
)
def test_the_same_step_with_less_memory(options: dict[str, Any]) -> None:
    """Bit for bit: recomputed activations are the same on the same machine."""
    torch.manual_seed(0)
    plain = UNet(base_channels=4, depth=3, dropout=0.4, **options)
    plain.to(memory_format=torch.channels_last)
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
    state = again.state_dict()
    assert plain.state_dict().keys() == state.keys()
    for name, value in plain.state_dict().items():
        assert torch.equal(value, state[name]), name
        if name.endswith("num_batches_tracked"):
            assert value == 2


def test_statistics_are_restored_after_an_error() -> None:
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


# folding of batch normalisation


def settled(**options: Any) -> UNet:
    """A network with non-trivial running statistics, scales and shifts."""
    torch.manual_seed(0)
    network = UNet(3, 3, base_channels=4, depth=2, **options)
    for part in network.modules():
        if isinstance(part, nn.BatchNorm2d):
            nn.init.uniform_(part.weight, 0.5, 2)
            nn.init.normal_(part.bias)
    for _ in range(3):
        network(torch.rand(4, 3, 64, 64))
    return network.eval()


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"residual": True},
        {"attention": True, "upsampling": "bilinear"},
        {"deep_supervision": True, "dropout": 0.5},
        {"valid": True},
        {"checkpointing": True},
        {"normalisation": "group"},
        {"normalisation": "instance"},
        {"normalisation": "none"},
    ],
    ids=str,
)
@torch.no_grad()
def test_folding_keeps_the_logits(options: dict[str, Any]) -> None:
    network = settled(**options)
    images = torch.rand(2, 3, *network.input_size(40, 56))
    expected, layers = network(images), str(network)
    assert expected.std() > 0.05
    fold_batch_normalisation(network)
    assert not any(isinstance(part, nn.BatchNorm2d) for part in network.modules())
    torch.testing.assert_close(network(images), expected, rtol=1e-4, atol=1e-4)
    if "normalisation" in options:
        assert str(network) == layers
