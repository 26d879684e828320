"""The optimisers and the EMA of the weights against plain computation."""

import copy
import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.optim import SGD, Adam, AdamW

from plainunet.network.unet import UNet
from plainunet.training.optim import Muon, WeightAverage, make_optimizers, orthogonal


def network(seed: int = 0) -> UNet:
    torch.manual_seed(seed)
    return UNet(base_channels=2, depth=2)


@pytest.mark.parametrize("shape", [(8, 72), (72, 8), (4, 36), (16, 24), (1, 9), (5, 1)])
def test_orthogonal_sets_singular_values_near_one_and_keeps_the_vectors(
    shape: tuple[int, int],
) -> None:
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    left, _, right = torch.linalg.svd(matrix, full_matrices=False)
    turned = left.T @ orthogonal([matrix])[0] @ right.T
    values = turned.diagonal()
    assert values.min() > 0.5
    assert values.max() < 1.5
    assert (turned - values.diag()).abs().max() < 1e-4


def test_orthogonal_is_scale_invariant_and_handles_zeros() -> None:
    matrix = torch.randn(6, 20, generator=torch.Generator().manual_seed(2))
    larger, plain, zeros = orthogonal([1e3 * matrix, matrix, torch.zeros(6, 8)])
    torch.testing.assert_close(larger, plain, rtol=1e-3, atol=1e-4)
    assert (zeros == 0).all()


def test_orthogonal_of_a_matrix_is_independent_of_the_others() -> None:
    generator = torch.Generator().manual_seed(5)
    shapes = [(6, 20), (20, 6), (4, 9), (6, 6)]
    matrices = [torch.randn(shape, generator=generator) for shape in shapes]
    for together, matrix in zip(orthogonal(matrices), matrices, strict=True):
        torch.testing.assert_close(together, orthogonal([matrix])[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_orthogonal_of_nearly_low_rank(precision: torch.dtype) -> None:
    """As gradients are: few singular values are large; none grows without bound, noise stays."""
    generator = torch.Generator().manual_seed(6)
    left, right = (torch.linalg.qr(torch.randn(n, 48, generator=generator))[0] for n in (48, 160))
    values = torch.logspace(0, -6, 48)
    matrix = (left @ values.diag() @ right.T).to(precision)
    result = torch.linalg.svdvals(orthogonal([matrix])[0].float())
    assert result.max() < 1.3
    assert (result > 0.6).sum() >= 12
    assert result[24:].max() < 0.1


def muon_by_hand(
    weight: np.ndarray, gradients: list[np.ndarray], rate: float, decay: float
) -> np.ndarray:
    """Muon as in the two papers, in float64, but for the norm and the number of steps."""
    mean = np.zeros_like(weight)
    for gradient in gradients:
        mean = 0.95 * mean + 0.05 * gradient
        x = (0.95 * mean + 0.05 * gradient).reshape(len(weight), -1)
        larger = max(x.shape)
        x = x / ((np.linalg.svd(x, compute_uv=False) ** 4).sum() ** 0.25 + 1e-7)
        for _ in range(3):
            # (a x x' x) is the same for wide and tall matrices
            x = 3.4445 * x - 4.7750 * x @ x.T @ x + 2.0315 * x @ x.T @ x @ x.T @ x
        weight = weight * (1 - rate * decay)
        weight = weight - rate * 0.2 * math.sqrt(larger) * x.reshape(weight.shape)
    return weight


@pytest.mark.parametrize("shape", [(4, 3, 3, 3), (12, 1, 3, 3), (6, 10)])
@pytest.mark.parametrize("steps", [1, 3])
def test_muon_equals_plain_computation(shape: tuple[int, ...], steps: int) -> None:
    random = np.random.default_rng(3)
    start, *gradients = (random.normal(size=shape) for _ in range(steps + 1))
    weight = nn.Parameter(torch.tensor(start, dtype=torch.float32))
    optimizer = Muon([weight], lr=0.03, weight_decay=0.1)
    for gradient in gradients:
        weight.grad = torch.tensor(gradient, dtype=torch.float32)
        optimizer.step()
    expected = muon_by_hand(start, gradients, 0.03, 0.1)
    np.testing.assert_allclose(weight.detach().numpy(), expected, atol=2e-5)


def test_muon_in_bf16_is_close_to_float32_and_keeps_the_precision_of_weights() -> None:
    generator = torch.Generator().manual_seed(7)
    values, *gradients = torch.randn(4, 32, 16, 3, 3, generator=generator)
    moved = []
    for precision in (torch.float32, torch.bfloat16):
        weight = nn.Parameter(values.clone())
        (muon,) = make_optimizers(
            nn.ModuleList([nn.Conv2d(3, 16, 3), convolution_of(weight)]), "muon", 0.1, 0, precision
        )[:1]
        for gradient in gradients:
            weight.grad = gradient.clone()
            muon.step()
        assert weight.dtype == muon.state[weight]["mean"].dtype == torch.float32
        moved.append(weight.detach() - values)
    error = (moved[1] - moved[0]).norm() / moved[0].norm()
    assert 0 < error < 0.05


def convolution_of(weight: nn.Parameter) -> nn.Conv2d:
    layer = nn.Conv2d(16, 32, 3)
    layer.weight = weight
    return layer


def test_muon_with_channels_last_and_without_gradient() -> None:
    generator = torch.Generator().manual_seed(4)
    values, gradient = torch.randn(2, 6, 4, 3, 3, generator=generator)
    weights = [nn.Parameter(values.clone()) for _ in range(3)]
    weights[1].data = weights[1].data.to(memory_format=torch.channels_last)
    weights[0].grad = gradient
    weights[1].grad = gradient.to(memory_format=torch.channels_last)
    Muon(weights, lr=0.1).step()
    torch.testing.assert_close(weights[0], weights[1])
    assert not torch.equal(weights[0], values)
    assert torch.equal(weights[2], values)


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("name", ["adamw", "adam", "sgd", "rmsprop", "muon"])
def test_every_weight_that_is_not_frozen_is_in_exactly_one_optimiser(
    name: str, frozen: bool
) -> None:
    unet = network()
    unet.inlet.requires_grad_(not frozen)
    optimizers = make_optimizers(unet, name, 0.1, 0.01)
    groups = [group for optimizer in optimizers for group in optimizer.param_groups]
    held = [id(weight) for group in groups for weight in group["params"]]
    wanted = [id(weight) for weight in unet.parameters() if weight.requires_grad]
    assert sorted(held) == sorted(wanted)


def test_muon_gets_the_inner_convolutions_and_adamw_the_rest() -> None:
    unet = network()
    muon, adamw = make_optimizers(unet, "muon", 1e-3, 0.02)
    assert isinstance(muon, Muon)
    assert isinstance(adamw, AdamW)
    assert {g["weight_decay"] for o in (muon, adamw) for g in o.param_groups} == {0.02}
    names = {id(weight): name for name, weight in unet.named_parameters()}
    inner = {names[id(weight)] for weight in muon.param_groups[0]["params"]}
    # ten 3x3 convolutions at depth 2: two in the inlet, in each Down and in each Up
    assert len(inner) == 9
    assert "inlet.0.weight" not in inner
    assert all(unet.get_parameter(name).shape[2:] == (3, 3) for name in inner)


@pytest.mark.parametrize(("name", "kind"), [("adam", Adam), ("adamw", AdamW)])
def test_weight_decay_only_in_adamw(name: str, kind: type) -> None:
    unet = network()
    before = unet.head.weight.detach().clone()
    (optimizer,) = make_optimizers(unet, name, 0.1, 0.5)
    assert type(optimizer) is kind
    for weight in unet.parameters():
        weight.grad = torch.zeros_like(weight)
    optimizer.step()
    expected = before * (1 - 0.1 * 0.5) if name == "adamw" else before
    torch.testing.assert_close(unet.head.weight.detach(), expected)


def test_ema_computed_by_hand() -> None:
    unet = network()
    average = WeightAverage(unet, decay=0.3)
    expected = {name: value.double() for name, value in unet.state_dict().items()}
    optimizer = SGD(unet.parameters(), lr=0.5)
    generator = torch.Generator().manual_seed(5)
    for step in range(6):
        unet.train()
        optimizer.zero_grad()
        unet(torch.rand(2, 3, 8, 8, generator=generator)).square().mean().backward()
        optimizer.step()
        average.update(unet, step)
        keep = min(0.3, (1 + step) / (10 + step))  # 0.1, 0.18, 0.25, 0.3, 0.3, 0.3
        for name, value in unet.state_dict().items():
            expected[name] = keep * expected[name] + (1 - keep) * value.double()
    assert not average.network.training
    for name, value in average.network.state_dict().items():
        if name.endswith("num_batches_tracked"):
            assert value == 6
        else:
            torch.testing.assert_close(value.double(), expected[name], rtol=1e-5, atol=1e-6)


def test_the_ema_is_a_separate_network() -> None:
    unet = network()
    average = WeightAverage(unet, decay=0.9)
    before = copy.deepcopy(average.network.state_dict())
    with torch.no_grad():
        for weight in unet.parameters():
            weight.add_(1)
    for name, value in average.network.state_dict().items():
        assert torch.equal(value, before[name])


@pytest.mark.parametrize("momentum", [0.0, 0.9, 0.99])
def test_sgd_with_nesterov_momentum(momentum: float) -> None:
    unet = network()
    (optimizer,) = make_optimizers(unet, "sgd", 0.1, 0.0, momentum=momentum)
    weight = unet.head.weight
    gradients = [torch.randn_like(weight) for _ in range(3)]
    wanted, speed = weight.detach().clone(), torch.zeros_like(weight)
    for gradient in gradients:
        speed = momentum * speed + gradient
        wanted -= 0.1 * (gradient + momentum * speed)
        weight.grad = gradient.clone()
        optimizer.step()
    torch.testing.assert_close(weight.detach(), wanted)
