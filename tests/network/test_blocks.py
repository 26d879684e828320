"""The blocks and the options of the U-Net that they make: one contract for every variant."""

import itertools
import re
from typing import Any, get_args

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from plainunet.config import TrainConfig
from plainunet.network.blocks import (
    AttentionGate,
    DoubleConv,
    Normalisation,
    ResidualDoubleConv,
    Upsampling,
    crop_skip,
    he_initialise,
    pad_feature,
)
from plainunet.network.unet import UNet

VARIANTS: dict[str, dict[str, Any]] = {
    **{f"depth {depth}": {"depth": depth} for depth in range(1, 7)},
    **{f"{kind} norm": {"normalisation": kind} for kind in get_args(Normalisation)},
    "bilinear": {"upsampling": "bilinear"},
    "bilinear, depth 1": {"upsampling": "bilinear", "depth": 1},
    "residual": {"residual": True},
    "attention": {"attention": True},
    "deep supervision": {"deep_supervision": True},
    "dropout": {"dropout": 0.2},
    "checkpointing": {"checkpointing": True},
    "valid": {"valid": True},
    "the paper's, narrow": {"valid": True, "normalisation": "none"},
    "all": {
        "normalisation": "group",
        "upsampling": "bilinear",
        "residual": True,
        "attention": True,
        "deep_supervision": True,
        "dropout": 0.1,
        "checkpointing": True,
    },
    "all, valid": {
        "normalisation": "instance",
        "residual": True,
        "attention": True,
        "dropout": 0.1,
        "valid": True,
    },
}


@pytest.fixture(params=VARIANTS.values(), ids=VARIANTS.keys())
def network(request: pytest.FixtureRequest) -> UNet:
    torch.manual_seed(3)
    return UNet(
        **{"in_channels": 2, "num_classes": 3, "base_channels": 6, "depth": 2, **request.param}
    )


def picture(network: UNet, batch: int = 2) -> torch.Tensor:
    """A picture that is odd wherever the network allows it."""
    least = (3 if network.depth < 5 else 1) * 2**network.depth + 1
    height, width = network.input_size(least, least + 2)
    return torch.rand(batch, network.in_channels, height, width)


def test_shape_and_a_gradient_for_every_parameter(network: UNet) -> None:
    image = picture(network)
    levels = network.deep_logits(image)
    assert levels[0].shape == (2, 3, *network.output_size(*image.shape[2:]))
    assert len(levels) == (network.depth if network.architecture["deep_supervision"] else 1)
    torch.stack([level.square().mean() for level in levels]).sum().backward()
    without = [
        name
        for name, weights in network.named_parameters()
        if weights.grad is None or not weights.grad.isfinite().all() or not weights.grad.any()
    ]
    assert without == []
    network.eval()
    torch.testing.assert_close(network(image), network.deep_logits(image)[0])


def test_one_batch_is_learnt_by_heart(network: UNet) -> None:
    torch.manual_seed(1)
    image = picture(network)
    height, width = network.output_size(*image.shape[2:])
    rows = torch.arange(height)[:, None] * 3 // height  # three bands, and a brighter picture there
    mask = rows.expand(2, height, width)
    top, left = (image.shape[2] - height) // 2, (image.shape[3] - width) // 2
    image[:, 0, top : top + height, left : left + width] += mask
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-2)
    for _ in range(60):
        optimizer.zero_grad()
        loss = F.cross_entropy(network(image), mask)
        loss.backward()
        optimizer.step()
    assert (network(image).argmax(dim=1) == mask).float().mean() > 0.95


def test_settings_offer_what_the_network_knows() -> None:
    fields = TrainConfig.model_fields
    assert get_args(fields["normalisation"].annotation) == get_args(Normalisation)
    assert get_args(fields["upsampling"].annotation) == get_args(Upsampling)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"normalisation": "layer"}, "normalisation is 'layer'; it is one of batch, group"),
        ({"upsampling": "nearest"}, "upsampling is 'nearest'; it is one of transposed, bilinear"),
        ({"dropout": 1.0}, "dropout is 1.0"),
        ({"dropout": -0.1}, "dropout is -0.1"),
        ({"valid": True, "deep_supervision": True}, "deep_supervision needs padded"),
    ],
)
def test_impossible_options_are_refused(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        UNet(base_channels=1, depth=1, **wrong)


def test_convolutions_have_a_bias_only_without_normalisation() -> None:
    for kind, block in itertools.product(get_args(Normalisation), (DoubleConv, ResidualDoubleConv)):
        convs = [m for m in block(4, 4, normalisation=kind).modules() if isinstance(m, nn.Conv2d)]
        assert len(convs) == 2
        assert all((conv.bias is not None) == (kind == "none") for conv in convs)


def test_group_and_instance_normalisation_are_theirs() -> None:
    torch.manual_seed(0)
    feature = torch.randn(2, 12, 5, 7)
    group = DoubleConv(3, 12, normalisation="group")[1]
    assert group.num_groups == 4  # the most up to 8 that divide 12 along with 8
    each = DoubleConv(3, 12, normalisation="instance")[1]
    torch.testing.assert_close(each(feature), F.instance_norm(feature))


@pytest.mark.parametrize("kind", ["group", "instance"])
def test_normalisation_by_picture_needs_two_pixels_at_the_bottom(kind: Any) -> None:
    network = UNet(base_channels=1, depth=3, normalisation=kind)
    assert network(torch.rand(1, 3, 16, 16)).shape == (1, 2, 16, 16)
    with pytest.raises(ValueError, match=r"15 x 16 pixels.*16 x 16"):
        network(torch.rand(1, 3, 15, 16))


@pytest.mark.parametrize("valid", [False, True])
@pytest.mark.parametrize("out_channels", [3, 5])
def test_residual_block_adds_its_input(out_channels: int, valid: bool) -> None:
    block = ResidualDoubleConv(3, out_channels, valid=valid)
    nn.init.zeros_(block.convs[4].weight)  # the last normalisation's scale: no change is made
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
    torch.testing.assert_close(weights, weights[:, :1].expand_as(weights))  # one for each pixel
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


def test_he_initialisation_has_the_papers_spread() -> None:
    torch.manual_seed(0)
    layers = [nn.Conv2d(64, 64, 3), nn.Conv2d(256, 128, 1), nn.ConvTranspose2d(256, 128, 2, 2)]
    # N: "for a 3x3 convolution and 64 feature channels in the previous layer N = 9 * 64 = 576"
    for layer, n in zip(layers, (576, 256, 256), strict=True):
        he_initialise(layer)
        assert layer.weight.std().item() == pytest.approx((2 / n) ** 0.5, rel=0.02)
        assert abs(layer.weight.mean().item()) < 0.02 * (2 / n) ** 0.5
        assert not layer.bias.any()


def test_bilinear_is_half_as_wide() -> None:
    wide = UNet(base_channels=8, depth=3, upsampling="bilinear")
    assert [up.conv[0].in_channels for up in wide.ups] == [64, 32, 16]
    assert [up.conv[0].out_channels for up in wide.ups] == [32, 16, 8]
    assert [up.conv[3].out_channels for up in wide.ups] == [16, 8, 8]
    assert wide.downs[-1][1][3].out_channels == 32
