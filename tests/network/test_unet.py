"""The U-Net: its size, its arithmetic against an independent forward pass, and its contract."""

import pickle
import re
from collections.abc import Mapping

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from plainunet.network.unet import UNet

DEPTH = 3


def small_network(in_channels: int = 3, num_classes: int = 2, depth: int = DEPTH) -> UNet:
    """A double-precision network none of whose parameters and statistics is trivial."""
    torch.manual_seed(7)
    network = UNet(in_channels, num_classes, base_channels=4, depth=depth).double()
    with torch.no_grad():
        network.mean.uniform_(0.2, 0.8)
        network.std.uniform_(0.2, 0.4)
        for weights in network.parameters():
            if weights.ndim == 1:  # scales and shifts of the normalisations, biases
                weights.add_(torch.empty_like(weights).uniform_(-0.3, 0.3))
        for _ in range(20):  # running statistics that keep the features alive
            network(torch.rand(2, in_channels, 32, 32, dtype=torch.float64))
    return network


def picture(batch: int, channels: int, height: int, width: int) -> Tensor:
    generator = torch.Generator().manual_seed(height * 1000 + width)
    return torch.rand(batch, channels, height, width, generator=generator, dtype=torch.float64)


def functional_forward(
    state: Mapping[str, Tensor], image: Tensor, *, depth: int, train: bool
) -> Tensor:
    """The same network, written down a second time from the paper's figure and the design."""

    def double_conv(x: Tensor, name: str) -> Tensor:
        for conv, norm in ((0, 1), (3, 4)):
            x = F.conv2d(x, state[f"{name}.{conv}.weight"], padding=1)
            if train:
                mean = x.mean(dim=(0, 2, 3))
                variance = x.var(dim=(0, 2, 3), unbiased=False)
            else:
                mean = state[f"{name}.{norm}.running_mean"]
                variance = state[f"{name}.{norm}.running_var"]
            x = (x - mean.view(1, -1, 1, 1)) / (variance.view(1, -1, 1, 1) + 1e-5).sqrt()
            x = x * state[f"{name}.{norm}.weight"].view(1, -1, 1, 1)
            x = F.relu(x + state[f"{name}.{norm}.bias"].view(1, -1, 1, 1))
        return x

    x = (image - state["mean"].view(1, -1, 1, 1)) / state["std"].view(1, -1, 1, 1)
    encoder = [double_conv(x, "inlet")]
    for level in range(depth):
        encoder.append(double_conv(F.max_pool2d(encoder[-1], 2), f"downs.{level}.1"))
    x = encoder[depth]
    for step in range(depth):
        skip = encoder[depth - 1 - step]
        grown = F.conv_transpose2d(
            x, state[f"ups.{step}.up.weight"], state[f"ups.{step}.up.bias"], stride=2
        )
        padded = torch.zeros_like(skip)
        padded[:, :, : grown.shape[2], : grown.shape[3]] = grown
        x = double_conv(torch.cat([skip, padded], dim=1), f"ups.{step}.conv")
    return F.conv2d(x, state["head.weight"], state["head.bias"])


def test_default_network_has_the_parameters_counted_by_hand() -> None:
    # a 3x3 convolution in -> out has 9 * in * out weights, its batch normalisation 2 * out;
    # a 2x2 up-convolution 4 * in * out weights and out biases
    encoder = (
        (9 * 3 * 64 + 2 * 64 + 9 * 64 * 64 + 2 * 64)
        + (9 * 64 * 128 + 2 * 128 + 9 * 128 * 128 + 2 * 128)
        + (9 * 128 * 256 + 2 * 256 + 9 * 256 * 256 + 2 * 256)
        + (9 * 256 * 512 + 2 * 512 + 9 * 512 * 512 + 2 * 512)
    )
    bottleneck = 9 * 512 * 1024 + 2 * 1024 + 9 * 1024 * 1024 + 2 * 1024
    decoder = (
        (4 * 1024 * 512 + 512 + 9 * 1024 * 512 + 2 * 512 + 9 * 512 * 512 + 2 * 512)
        + (4 * 512 * 256 + 256 + 9 * 512 * 256 + 2 * 256 + 9 * 256 * 256 + 2 * 256)
        + (4 * 256 * 128 + 128 + 9 * 256 * 128 + 2 * 128 + 9 * 128 * 128 + 2 * 128)
        + (4 * 128 * 64 + 64 + 9 * 128 * 64 + 2 * 64 + 9 * 64 * 64 + 2 * 64)
    )
    head = 64 * 2 + 2
    assert encoder + bottleneck + decoder + head == 31_037_698

    network = UNet()
    counted = sum(weights.numel() for weights in network.parameters() if weights.requires_grad)
    assert counted == 31_037_698
    assert counted == sum(weights.numel() for weights in network.parameters())


@pytest.mark.parametrize("train", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize(
    ("height", "width"), [(16, 24), (8, 8), (9, 15), (17, 8), (31, 22), (30, 37)]
)
def test_forward_equals_an_independent_one(height: int, width: int, train: bool) -> None:
    network = small_network().train(train)
    image = picture(2, 3, height, width)
    again = image.clone().requires_grad_()
    image.requires_grad_()
    # before the call: training mode moves the running statistics
    state = {name: values.clone() for name, values in network.state_dict().items()}

    logits = network(image)

    expected = functional_forward(state, again, depth=DEPTH, train=train)
    assert logits.shape == (2, 2, height, width)
    assert expected.std(dim=(2, 3)).min() > 0.01  # a dead network would equal any other
    torch.testing.assert_close(logits, expected, rtol=1e-9, atol=1e-11)
    for result in (logits, expected):
        result.square().sum().backward()
    torch.testing.assert_close(image.grad, again.grad, rtol=1e-7, atol=1e-9)


def test_output_is_logits_and_not_probabilities_in_both_modes() -> None:
    network = small_network(num_classes=3)
    image = picture(2, 3, 16, 16)
    for train in (True, False):
        network.train(train)
        with torch.no_grad():
            before = network(image)
            network.head.bias += 5
            after = network(image)
            network.head.bias -= 5
        torch.testing.assert_close(after, before + 5)


@given(
    height=st.integers(0, 30),
    width=st.integers(0, 30),
    depth=st.integers(1, 4),
    train=st.booleans(),
)
def test_any_size_from_the_smallest_on(height: int, width: int, depth: int, train: bool) -> None:
    height, width = height + 2**depth, width + 2**depth
    network = UNet(1, 2, base_channels=1, depth=depth).train(train)
    logits = network(torch.rand(2, 1, height, width))
    assert logits.shape == (2, 2, height, width)
    assert logits.isfinite().all()


@pytest.mark.parametrize(("in_channels", "num_classes"), [(1, 2), (3, 5), (4, 2), (7, 21)])
@pytest.mark.parametrize("depth", [1, 2, 4])
def test_any_channels_classes_and_depth(in_channels: int, num_classes: int, depth: int) -> None:
    network = small_network(in_channels, num_classes, depth).eval()
    image = picture(1, in_channels, 17, 20)
    expected = functional_forward(network.state_dict(), image, depth=depth, train=False)
    assert expected.shape[1] == num_classes
    torch.testing.assert_close(network(image), expected, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize(
    ("height", "width", "enough"),
    [(15, 40, "16 x 40"), (40, 15, "40 x 16"), (1, 1, "16 x 16"), (8, 15, "16 x 16")],
)
def test_too_small_a_picture_is_refused(height: int, width: int, enough: str) -> None:
    network = UNet(base_channels=1, depth=4)
    with pytest.raises(ValueError, match=f"{height} x {width} pixels.*depth 4.*{enough}"):
        network(torch.zeros(1, 3, height, width))


@pytest.mark.parametrize("shape", [(1, 1, 32, 32), (1, 4, 32, 32), (3, 32, 32), (32, 32)])
def test_another_number_of_channels_is_refused(shape: tuple[int, ...]) -> None:
    network = UNet(in_channels=3, base_channels=1)
    with pytest.raises(
        ValueError, match=re.escape("[N, 3, H, W]") + ".*" + re.escape(f"{[*shape]}")
    ):
        network(torch.zeros(shape))


@pytest.mark.parametrize(
    ("name", "value", "least"),
    [("in_channels", 0, 1), ("num_classes", 1, 2), ("base_channels", 0, 1), ("depth", 0, 1)],
)
def test_too_small_an_argument_is_refused(name: str, value: int, least: int) -> None:
    with pytest.raises(ValueError, match=f"{name} is {value}.*at least {least}"):
        UNet(**{name: value})


def test_normalisation_is_kept_in_the_state_and_acts() -> None:
    network = small_network()
    image = picture(1, 3, 16, 16)
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
    torch.testing.assert_close(kept(image), network(image), rtol=0, atol=0)


def test_fresh_normalisation_changes_nothing_and_is_float32() -> None:
    network = UNet(in_channels=4, base_channels=1)
    assert network.mean.tolist() == [0, 0, 0, 0]
    assert network.std.tolist() == [1, 1, 1, 1]
    assert network.mean.dtype == network.std.dtype == torch.float32


def test_flat_channel_does_not_divide_by_zero() -> None:
    network = UNet(in_channels=2, base_channels=1, depth=1).eval()
    network.set_normalisation([0.5, 0.5], [0.0, 0.002])
    assert network.std.tolist() == pytest.approx([0.001, 0.002])
    assert network(torch.full((1, 2, 4, 4), 0.5)).isfinite().all()


@pytest.mark.parametrize(
    ("mean", "std", "wrong"),
    [([0.5], [1, 1, 1], "mean has 1"), ([0.5, 0.5, 0.5], [1, 1, 1, 1], "std has 4")],
)
def test_normalisation_of_other_channels_is_refused(
    mean: list[float], std: list[float], wrong: str
) -> None:
    network = UNet(base_channels=1)
    with pytest.raises(ValueError, match=f"{wrong} values.*3 channels"):
        network.set_normalisation(mean, std)
    assert network.mean.tolist() == [0, 0, 0]
    assert network.std.tolist() == [1, 1, 1]


@pytest.mark.parametrize(("height", "width"), [(16, 16), (19, 25)])
def test_gradient_reaches_every_parameter(height: int, width: int) -> None:
    torch.manual_seed(0)
    network = UNet(base_channels=4, num_classes=3, depth=2)
    logits = network(torch.rand(2, 3, height, width))
    (logits * torch.randn(logits.shape)).sum().backward()
    for name, weights in network.named_parameters():
        assert weights.grad is not None, name
        assert weights.grad.isfinite().all(), name
        assert weights.grad.abs().max() > 0, name


def test_over_fits_one_batch() -> None:
    torch.manual_seed(0)
    network = UNet(base_channels=8, num_classes=3, depth=2)
    image = torch.rand(2, 3, 24, 20)
    mask = torch.randint(0, 3, (2, 6, 5)).repeat_interleave(4, 1).repeat_interleave(4, 2)
    optimiser = torch.optim.Adam(network.parameters(), lr=1e-2)
    for _ in range(60):
        optimiser.zero_grad()
        loss = F.cross_entropy(network(image), mask)
        loss.backward()
        optimiser.step()
    assert loss.item() < 0.05
    assert (network(image).argmax(dim=1) == mask).float().mean() > 0.99


def test_can_be_pickled() -> None:
    network = small_network().eval()
    image = picture(1, 3, 17, 16)
    again = pickle.loads(pickle.dumps(network))
    assert (again.in_channels, again.num_classes, again.base_channels, again.depth) == (3, 2, 4, 3)
    torch.testing.assert_close(again(image), network(image), rtol=0, atol=0)


def test_same_logits_with_channels_last() -> None:
    network = small_network().eval()
    image = picture(2, 3, 19, 16)
    expected = network(image)
    network.to(memory_format=torch.channels_last)
    found = network(image.to(memory_format=torch.channels_last))
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


def paper_forward(state: Mapping[str, Tensor], image: Tensor) -> tuple[Tensor, list[int]]:
    """The paper's figure 1 with plain functions; and the side of every feature in it."""
    sides = [image.shape[2]]

    def conv(x: Tensor, name: str) -> Tensor:
        x = F.relu(F.conv2d(x, state[f"{name}.weight"], state[f"{name}.bias"]))
        sides.append(x.shape[2])
        return x

    x = image
    skips = []
    for level in range(5):
        block = "inlet" if level == 0 else f"downs.{level - 1}.1"
        if level:
            skips.append(x)
            x = F.max_pool2d(x, kernel_size=2)
            sides.append(x.shape[2])
        x = conv(conv(x, f"{block}.0"), f"{block}.2")
    for level in range(4):
        up = f"ups.{level}"
        x = F.conv_transpose2d(x, state[f"{up}.up.weight"], state[f"{up}.up.bias"], stride=2)
        sides.append(x.shape[2])
        skip = skips.pop()
        margin = (skip.shape[2] - x.shape[2]) // 2
        skip = skip[:, :, margin:-margin, margin:-margin]
        assert skip.shape == x.shape
        x = conv(conv(torch.cat([skip, x], dim=1), f"{up}.conv.0"), f"{up}.conv.2")
    return F.conv2d(x, state["head.weight"], state["head.bias"]), sides


def test_the_papers_network() -> None:
    torch.manual_seed(0)
    network = UNet.paper().eval()
    assert sum(weights.numel() for weights in network.parameters()) == 31_030_658
    assert network.output_size(572, 572) == (388, 388)
    spread = network.downs[0][1][0].weight.std().item()
    assert spread == pytest.approx((2 / (9 * 64)) ** 0.5, rel=0.02)
    dropped = {name: m.p for name, m in network.named_modules() if isinstance(m, torch.nn.Dropout)}
    assert dropped == {"downs.2.1.4": 0.5, "downs.3.1.4": 0.5}


def test_the_papers_sizes_and_logits() -> None:
    """Narrow, for the time; every size and operation is the paper's."""
    torch.manual_seed(0)
    network = UNet(1, 2, 4, normalisation="none", valid=True, dropout=0.5).eval()
    with torch.no_grad():
        for weights in network.parameters():
            if weights.ndim == 1:
                weights.uniform_(-0.2, 0.2)
        image = torch.rand(1, 1, 572, 572)
        expected, sides = paper_forward(network.state_dict(), image)
        logits = network(image)
    contracting = [572, 570, 568, 284, 282, 280, 140, 138, 136, 68, 66, 64, 32, 30, 28]
    expanding = [56, 54, 52, 104, 102, 100, 200, 198, 196, 392, 390, 388]
    assert sides == contracting + expanding
    assert logits.shape == (1, 2, 388, 388)
    assert expected.std() > 1e-3
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_the_papers_logits_at_full_width() -> None:
    torch.manual_seed(0)
    network = UNet.paper().eval()
    with torch.no_grad():
        image = torch.rand(1, 1, 572, 572)
        expected, _ = paper_forward(network.state_dict(), image)
        torch.testing.assert_close(network(image), expected, rtol=1e-4, atol=1e-5)


def test_a_size_that_does_not_fit_the_paper_is_refused() -> None:
    with pytest.raises(ValueError, match=r"512 x 512 pixels.*508 or 524"):
        UNet.paper()(torch.zeros(1, 1, 512, 512))


def test_architecture_makes_the_same_network() -> None:
    for network in (UNet.paper(), UNet(4, 3, 2, 3, residual=True, attention=True)):
        again = UNet(**network.architecture)
        assert again.state_dict().keys() == network.state_dict().keys()
        assert str(again) == str(network)
