"""The U-Net: its size, an independent forward pass, and its contract."""

import pickle
import re
from collections.abc import Mapping
from typing import Any, get_args

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from plainunet.network.blocks import Normalisation
from plainunet.network.sizes import input_side, output_side, valid_output_size
from plainunet.network.unet import UNet, deep_logits, reflection_pad


def small_network(in_channels: int = 3, num_classes: int = 2, depth: int = 3) -> UNet:
    """A double-precision network with non-trivial parameters and statistics."""
    torch.manual_seed(7)
    network = UNet(in_channels, num_classes, base_channels=4, depth=depth).double()
    with torch.no_grad():
        network.mean.uniform_(0.2, 0.8)
        network.std.uniform_(0.2, 0.4)
        for weights in network.parameters():
            if weights.ndim == 1:  # normalisation scales and shifts, biases
                weights.add_(torch.empty_like(weights).uniform_(-0.3, 0.3))
        for _ in range(20):  # running statistics that keep the features alive
            network(torch.rand(2, in_channels, 32, 32, dtype=torch.float64))
    return network


def random_image(batch: int, channels: int, height: int, width: int) -> Tensor:
    generator = torch.Generator().manual_seed(height * 1000 + width)
    return torch.rand(batch, channels, height, width, generator=generator, dtype=torch.float64)


def functional_forward(
    state: Mapping[str, Tensor], image: Tensor, *, depth: int, train: bool = False
) -> tuple[Tensor, list[int]]:
    """An independent implementation from the paper's figure and the design.

    With batch normalisation and padding, or as in the paper without both. Also gives the height
    of every feature.
    """
    is_papers = "inlet.0.bias" in state
    heights = [image.shape[2]]

    def double_conv(x: Tensor, name: str) -> Tensor:
        for conv, norm in ((0, 1), (2, 1)) if is_papers else ((0, 1), (3, 4)):
            if is_papers:
                x = F.conv2d(x, state[f"{name}.{conv}.weight"], state[f"{name}.{conv}.bias"])
            else:
                x = F.conv2d(x, state[f"{name}.{conv}.weight"], padding=1)
                mean, variance = (
                    state[f"{name}.{norm}.running_{each}"] for each in ("mean", "var")
                )
                if train:
                    mean = x.mean(dim=(0, 2, 3))
                    variance = x.var(dim=(0, 2, 3), unbiased=False)
                x = (x - mean.view(1, -1, 1, 1)) / (variance.view(1, -1, 1, 1) + 1e-5).sqrt()
                x = x * state[f"{name}.{norm}.weight"].view(1, -1, 1, 1)
                x = x + state[f"{name}.{norm}.bias"].view(1, -1, 1, 1)
            x = F.relu(x)
            heights.append(x.shape[2])
        return x

    x = (image - state["mean"].view(1, -1, 1, 1)) / state["std"].view(1, -1, 1, 1)
    encoder = [double_conv(x, "inlet")]
    for level in range(depth):
        x = F.max_pool2d(encoder[-1], 2)
        heights.append(x.shape[2])
        encoder.append(double_conv(x, f"downs.{level}.1"))
    x = encoder.pop()
    for step in range(depth):
        skip, up = encoder.pop(), f"ups.{step}"
        x = F.conv_transpose2d(x, state[f"{up}.up.weight"], state[f"{up}.up.bias"], stride=2)
        heights.append(x.shape[2])
        if is_papers:
            margin = (skip.shape[2] - x.shape[2]) // 2
            skip = skip[:, :, margin:-margin, margin:-margin]
        else:
            x = F.pad(x, (0, skip.shape[3] - x.shape[3], 0, skip.shape[2] - x.shape[2]))
        x = double_conv(torch.cat([skip, x], dim=1), f"{up}.conv")
    return F.conv2d(x, state["head.weight"], state["head.bias"]), heights


def test_number_of_parameters_counted_by_hand() -> None:
    # a 3x3 convolution in -> out has 9 * in * out weights, its batch normalisation 2 * out;
    # a 2x2 up-convolution 4 * in * out weights and out biases
    def double_conv(i: int, o: int) -> int:
        return 9 * i * o + 2 * o + 9 * o * o + 2 * o

    widths = [64, 128, 256, 512, 1024]
    down = sum(map(double_conv, [3, *widths], widths))
    up = sum(4 * 2 * o * o + o + double_conv(2 * o, o) for o in widths[:-1])
    head = 64 * 2 + 2
    assert down + up + head == 31_037_698

    network = UNet()
    assert sum(weights.numel() for weights in network.parameters()) == 31_037_698
    assert all(weights.requires_grad for weights in network.parameters())


@pytest.mark.parametrize("train", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize(
    ("in_channels", "num_classes", "depth", "height", "width"),
    [
        *((3, 2, 3, *size) for size in [(16, 24), (8, 8), (9, 15), (17, 8), (31, 22), (30, 37)]),
        *((*channels, 1, 17, 20) for channels in [(1, 2), (3, 5), (4, 2), (7, 21)]),
        *((*channels, 4, 17, 36) for channels in [(1, 2), (3, 5), (4, 2), (7, 21)]),
    ],
)
def test_forward_equals_an_independent_one(
    in_channels: int, num_classes: int, depth: int, height: int, width: int, train: bool
) -> None:
    network = small_network(in_channels, num_classes, depth).train(train)
    image = random_image(2, in_channels, height, width)
    again = image.clone().requires_grad_()
    image.requires_grad_()
    # before the call, which updates the running statistics in training mode
    state = {name: values.clone() for name, values in network.state_dict().items()}

    logits = network(image)

    expected, _ = functional_forward(state, again, depth=depth, train=train)
    assert logits.shape == (2, num_classes, height, width)
    assert expected.std(dim=(2, 3)).min() > 0.01  # a dead network would equal any other
    torch.testing.assert_close(logits, expected, rtol=1e-8, atol=1e-10)
    for result in (logits, expected):
        result.square().sum().backward()
    torch.testing.assert_close(image.grad, again.grad, rtol=1e-6, atol=1e-8)


@given(
    height=st.integers(0, 30),
    width=st.integers(0, 30),
    depth=st.integers(1, 4),
    train=st.booleans(),
)
def test_any_size_from_the_minimum(height: int, width: int, depth: int, train: bool) -> None:
    height, width = height + 2**depth, width + 2**depth
    network = UNet(1, 2, base_channels=1, depth=depth).train(train)
    logits = network(torch.rand(2, 1, height, width))
    assert logits.shape == (2, 2, height, width)
    assert logits.isfinite().all()


# every variant

MORE = {"residual": True, "attention": True, "dropout": 0.1}
VARIANTS: dict[str, dict[str, Any]] = {
    **{f"depth {depth}": {"depth": depth} for depth in range(1, 5)},
    **{f"depth {depth}": {"depth": depth, "base_channels": 3} for depth in (5, 6)},
    **{f"{kind} norm": {"normalisation": kind} for kind in get_args(Normalisation)},
    "bilinear": {"upsampling": "bilinear"},
    "bilinear, depth 1": {"upsampling": "bilinear", "depth": 1},
    **{name: {name: True} for name in ("residual", "attention", "deep_supervision")},
    "dropout": {"dropout": 0.2},
    "checkpointing": {"checkpointing": True},
    "valid": {"valid": True},
    "the paper's, narrow": {"valid": True, "normalisation": "none"},
    "all": {**MORE, "normalisation": "group", "upsampling": "bilinear", "deep_supervision": True}
    | {"checkpointing": True},
    "all, valid": {**MORE, "normalisation": "instance", "valid": True},
}


@pytest.fixture(params=VARIANTS.values(), ids=VARIANTS.keys())
def network(request: pytest.FixtureRequest) -> UNet:
    torch.manual_seed(3)
    return UNet(
        **{"in_channels": 2, "num_classes": 3, "base_channels": 6, "depth": 2, **request.param}
    )


def odd_image(network: UNet) -> Tensor:
    """A batch with odd sizes if the network allows them."""
    least = (3 if network.depth < 5 else 1) * 2**network.depth + 1
    return torch.rand(2, network.in_channels, *network.input_size(least, least + 2))


def test_shape_and_a_gradient_for_every_parameter(network: UNet) -> None:
    image = odd_image(network)
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


QUICK = ("depth 1", "batch norm", "dropout", "the paper's, narrow", "all", "all, valid")


@pytest.mark.parametrize(
    "network",
    [
        pytest.param(variant, id=name, marks=() if name in QUICK else pytest.mark.slow)
        for name, variant in VARIANTS.items()
    ],
    indirect=True,
)
def test_overfitting_one_batch(network: UNet) -> None:
    torch.manual_seed(1)
    image = odd_image(network)
    height, width = network.output_size(*image.shape[2:])
    rows = torch.arange(height)[:, None] * 3 // height  # three bands, and a brighter image there
    mask = rows.expand(2, height, width)
    top, left = (image.shape[2] - height) // 2, (image.shape[3] - width) // 2
    image[:, 0, top : top + height, left : left + width] += mask
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-2)
    for _ in range(60):
        optimizer.zero_grad()
        loss = F.cross_entropy(network(image), mask)
        loss.backward()
        optimizer.step()
        if loss < 0.05:
            break
    assert (network(image).argmax(dim=1) == mask).float().mean() > 0.95


def test_architecture_makes_the_same_network(network: UNet) -> None:
    again = UNet(**network.architecture)
    assert again.state_dict().keys() == network.state_dict().keys()
    assert str(again) == str(network)


def test_bilinear_has_half_the_channels() -> None:
    wide = UNet(base_channels=8, depth=3, upsampling="bilinear")
    assert [up.conv[0].in_channels for up in wide.ups] == [64, 32, 16]
    assert [up.conv[0].out_channels for up in wide.ups] == [32, 16, 8]
    assert [up.conv[3].out_channels for up in wide.ups] == [16, 8, 8]
    assert wide.downs[-1][1][3].out_channels == 32


# errors


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"in_channels": 0}, "in_channels .*0"),
        ({"num_classes": 1}, "num_classes .*1"),
        ({"num_classes": 256}, "num_classes .*256"),
        ({"base_channels": 0}, "base_channels .*0"),
        ({"depth": 0}, "depth .*0"),
        ({"normalisation": "layer"}, "normalisation .*'layer'"),
        ({"upsampling": "nearest"}, "upsampling .*'nearest'"),
        ({"dropout": 1.0}, "dropout .*1.0"),
        ({"dropout": -0.1}, "dropout .*-0.1"),
        ({"valid": True, "deep_supervision": True}, "deep_supervision"),
    ],
    ids=str,
)
def test_invalid_arguments_are_refused(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        UNet(**{"base_channels": 1, "depth": 1, **wrong})


@pytest.mark.parametrize(
    ("options", "size", "enough"),
    [
        ({"depth": 4}, (15, 40), "16 x 40"),
        ({"depth": 4}, (40, 15), "40 x 16"),
        ({"depth": 4}, (1, 1), "16 x 16"),
        # normalisation per image needs two pixels in the bottleneck
        ({"depth": 3, "normalisation": "group"}, (15, 16), "16 x 16"),
        ({"depth": 3, "normalisation": "instance"}, (16, 15), "16 x 16"),
    ],
    ids=str,
)
def test_too_small_an_image_is_refused(
    options: dict[str, Any], size: tuple[int, int], enough: str
) -> None:
    network = UNet(base_channels=1, **options)
    with pytest.raises(ValueError, match=f"{size[0]} x {size[1]} .*{enough}"):
        network(torch.zeros(2, 3, *size))
    height, width = map(int, enough.split(" x "))
    assert network(torch.rand(2, 3, height, width)).shape == (2, 2, height, width)


@pytest.mark.parametrize("shape", [(1, 1, 32, 32), (1, 4, 32, 32), (3, 32, 32), (32, 32)])
def test_another_number_of_channels_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(
        ValueError, match=re.escape("[N, 3, H, W]") + ".*" + re.escape(f"{[*shape]}")
    ):
        UNet(in_channels=3, base_channels=1)(torch.zeros(shape))


# normalisation of the image


def test_normalisation_is_part_of_the_state() -> None:
    network = small_network()
    image = random_image(1, 3, 16, 16)
    mean, std = [0.1, 0.4, 0.7], [0.2, 0.5, 0.05]
    plain, kept = small_network().eval(), small_network().eval()
    plain.set_normalisation([0, 0, 0], [1, 1, 1])
    network.eval().set_normalisation(mean, std)

    by_hand = (image - torch.tensor(mean).view(1, 3, 1, 1)) / torch.tensor(std).view(1, 3, 1, 1)

    torch.testing.assert_close(network(image), plain(by_hand), rtol=1e-6, atol=1e-6)
    assert not torch.allclose(network(image), plain(image), rtol=1e-2)
    state = network.state_dict()
    assert state["mean"].tolist() == pytest.approx(mean)
    assert state["std"].tolist() == pytest.approx(std)
    assert not {"mean", "std"} & {name for name, _ in network.named_parameters()}
    kept.load_state_dict(state)
    torch.testing.assert_close(kept(image), network(image))


def test_a_flat_channel_does_not_divide_by_zero() -> None:
    network = UNet(in_channels=2, base_channels=1, depth=1).eval()
    assert (network.mean.tolist(), network.std.tolist()) == ([0, 0], [1, 1])
    assert network.mean.dtype == network.std.dtype == torch.float32
    network.set_normalisation([0.5, 0.5], [0.0, 0.002])
    assert network.std.tolist() == pytest.approx([0.001, 0.002])
    assert network(torch.full((1, 2, 4, 4), 0.5)).isfinite().all()


@pytest.mark.parametrize(
    ("mean", "std", "wrong"),
    [
        ([0.5], [1, 1, 1], "mean .*1 .*3 "),
        ([0.5, 0.5, 0.5], [1, 1, 1, 1], "std .*4 .*3 "),
        ([0.5, 0.5, float("nan")], [1, 1, 1], "mean .*nan"),
        ([0.5, 0.5, 0.5], [1, 1, float("inf")], "std .*inf"),
    ],
)
def test_invalid_normalisation_is_refused(mean: list[float], std: list[float], wrong: str) -> None:
    network = UNet(base_channels=1)
    with pytest.raises(ValueError, match=wrong):
        network.set_normalisation(mean, std)
    assert (network.mean.tolist(), network.std.tolist()) == ([0, 0, 0], [1, 1, 1])


# formats and precision


def test_same_logits_pickled_and_with_channels_last() -> None:
    network = small_network().eval()
    image = random_image(2, 3, 19, 16)
    expected = network(image)
    again = pickle.loads(pickle.dumps(network))
    assert (again.in_channels, again.num_classes, again.base_channels, again.depth) == (3, 2, 4, 3)
    torch.testing.assert_close(again(image), expected)
    again.to(memory_format=torch.channels_last)
    found = again(image.to(memory_format=torch.channels_last))
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-11)


def test_logits_in_bfloat16_stay_close() -> None:
    torch.manual_seed(0)
    network = UNet(base_channels=4, depth=2).eval()
    image = torch.rand(1, 3, 19, 16)
    expected = network(image)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = network(image)
    assert found.shape == expected.shape
    torch.testing.assert_close(found.float(), expected, rtol=0.1, atol=0.05)


# the paper's network


def test_the_papers_network() -> None:
    torch.manual_seed(0)
    network = UNet.paper().eval()
    assert sum(weights.numel() for weights in network.parameters()) == 31_030_658
    assert network.output_size(572, 572) == (388, 388)
    spread = network.downs[0][1][0].weight.std().item()
    assert spread == pytest.approx((2 / (9 * 64)) ** 0.5, rel=0.02)
    dropped = {name: m.p for name, m in network.named_modules() if isinstance(m, torch.nn.Dropout)}
    assert dropped == {"downs.2.1.4": 0.5, "downs.3.1.4": 0.5}


@pytest.mark.parametrize("width", [4, pytest.param(64, marks=pytest.mark.slow)])
def test_the_papers_sizes_and_logits(width: int) -> None:
    """Fewer channels, for speed; every size and operation is the paper's."""
    torch.manual_seed(0)
    network = UNet(1, 2, width, normalisation="none", valid=True, dropout=0.5).eval()
    with torch.no_grad():
        for weights in network.parameters():
            if weights.ndim == 1:
                weights.uniform_(-0.2, 0.2)
        image = torch.rand(1, 1, 572, 572)
        expected, sides = functional_forward(network.state_dict(), image, depth=4)
        logits = network(image)
    encoder = [572, 570, 568, 284, 282, 280, 140, 138, 136, 68, 66, 64, 32, 30, 28]
    decoder = [56, 54, 52, 104, 102, 100, 200, 198, 196, 392, 390, 388]
    assert sides == encoder + decoder
    assert logits.shape == (1, 2, 388, 388)
    assert expected.std() > 1e-3
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-5)


# sizes of valid convolutions


def really(side: int, depth: int) -> int | None:
    """The output side of a chain of PyTorch operations; None if the input does not fit."""
    feature = torch.zeros(1, 1, side, side)
    kernel = torch.zeros(1, 1, 3, 3)
    for step in range(2 * depth + 1):
        if feature.shape[2] < 5:
            return None
        feature = F.conv2d(F.conv2d(feature, kernel), kernel)
        if step < depth:
            if feature.shape[2] % 2 or feature.shape[2] < 2:
                return None
            feature = F.max_pool2d(feature, 2)
        elif step < 2 * depth:
            feature = F.interpolate(feature, scale_factor=2)
    return feature.shape[2]


@pytest.mark.parametrize("depth", [1, 2, 3, 4])
def test_output_side(depth: int) -> None:
    sides = range(1, 240)
    found = [output_side(side, depth) for side in sides]
    assert found == [really(side, depth) for side in sides]
    assert sum(side is not None for side in found) > 2  # the comparison is not empty


def test_the_papers_sizes() -> None:
    assert [output_side(side, 4) for side in (572, 188, 172)] == [388, 4, None]
    assert [input_side(side, 4) for side in (388, 389)] == [572, 588]
    assert valid_output_size(572, 588, 4) == (388, 404)


@pytest.mark.parametrize("depth", [1, 2, 4])
def test_input_side_is_the_smallest(depth: int) -> None:
    for side in (1, 7, 64, 100, 389):
        needed = input_side(side, depth)
        assert (output_side(needed, depth) or 0) >= side
        assert not any((output_side(n, depth) or 0) >= side for n in range(1, needed))


@pytest.mark.parametrize(
    ("height", "width", "nearest"),
    [
        (573, 572, "height is 572 or 588"),
        (572, 580, "width is 572 or 588"),
        (512, 512, "height is 508 or 524"),
        (100, 100, "height is 188,"),
    ],
)
def test_a_size_that_does_not_fit_names_the_nearest(height: int, width: int, nearest: str) -> None:
    with pytest.raises(ValueError, match=f"{height} x {width} .*{nearest}"):
        UNet(1, 2, 1, valid=True)(torch.zeros(1, 1, height, width))


# reflection padding


@pytest.mark.parametrize(("height", "width"), [(60, 45), (5, 31), (1, 2)])
def test_reflection_as_by_numpy(height: int, width: int) -> None:
    network = UNet(1, base_channels=1, depth=2, normalisation="none", valid=True)
    image = torch.rand(2, 1, height, width)
    found = reflection_pad(network, image)

    size = network.input_size(height, width)
    kept = network.output_size(*size)
    before = [(whole - inner) // 2 for whole, inner in zip(size, kept, strict=True)]
    after = [n - b - s for n, b, s in zip(size, before, (height, width), strict=True)]
    margins = ((0, 0), (0, 0), (before[0], after[0]), (before[1], after[1]))
    expected = np.pad(image.numpy(), margins, mode="reflect")
    assert found.shape[2:] == size
    np.testing.assert_array_equal(found.numpy(), expected)


def test_the_papers_image_is_extended_by_its_context() -> None:
    image = torch.rand(1, 1, 388, 388)
    extended = reflection_pad(UNet(1, 2, 1, valid=True), image)
    assert extended.shape == (1, 1, 572, 572)
    assert torch.equal(extended[:, :, 92:480, 92:480], image)


def test_no_reflection_for_padded_convolutions() -> None:
    image = torch.rand(1, 3, 33, 47)
    assert reflection_pad(UNet(base_channels=1), image) is image


def test_logits_of_a_pixel_come_from_around_that_pixel() -> None:
    network = UNet(1, base_channels=2, depth=1, normalisation="none", valid=True).double()
    with torch.no_grad():
        for weights in network.parameters():
            weights.abs_()
        network.ups[0].up.weight.zero_()  # only the skip: four convolutions, 9 x 9 pixels
    image = torch.rand(1, 1, 30, 41, dtype=torch.float64, requires_grad=True)
    (logits,) = deep_logits(network, image)
    assert logits.shape == (1, 2, 30, 41)
    (gradient,) = torch.autograd.grad(logits[0, 0, 12, 27], image)
    expected = torch.zeros(30, 41, dtype=torch.bool)
    expected[8:17, 23:32] = True
    assert torch.equal(gradient[0, 0] > 0, expected)


@pytest.mark.parametrize(
    ("size", "levels"),
    [
        ((40, 33), [(40, 33), (20, 16), (10, 8)]),
        ((5, 40), [(5, 40), (3, 20), (2, 10)]),  # padded to 8 rows, then cropped
    ],
)
def test_deep_levels_cover_the_image(size: tuple[int, int], levels: list[tuple[int, int]]) -> None:
    network = UNet(base_channels=1, depth=3, deep_supervision=True)
    found = deep_logits(network, torch.rand(2, 3, *size))
    assert [tuple(level.shape) for level in found] == [(2, 2, *level) for level in levels]
