"""One optimiser step against steps by hand; failing steps; out of memory."""

import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import SGD

from plainunet.config import TrainConfig
from plainunet.dataset.coding import Values
from plainunet.dataset.dataset import SegmentationDataset
from plainunet.network.unet import UNet
from plainunet.training.optim import WeightAverage
from plainunet.training.run import Run, RunFolder
from plainunet.training.state import TrainingState
from plainunet.training.trainer import Step, StepResult

from ..forks import Fork
from .conftest import same

Batch = tuple[Tensor, Tensor]


def network(**settings: Any) -> UNet:
    torch.manual_seed(0)
    return UNet(3, 2, **{"base_channels": 2, "depth": 2, **settings}).train()


def batch(images: int, seed: int = 1, size: tuple[int, int] = (8, 12)) -> Batch:
    """Noise [n, h, w, 3] uint8 and hard targets [n, h, w, 2] uint8."""
    random = np.random.default_rng(seed)
    image = random.integers(0, 256, (images, *size, 3), dtype=np.uint8)
    mask = random.random((images, *size)) < 0.3
    shares = np.stack([~mask, mask], axis=-1).astype(np.uint8) * 255
    return torch.from_numpy(image), torch.from_numpy(shares)


def make_step(
    unet: UNet, decay: float = 0, precision: torch.dtype = torch.float32, **settings: Any
) -> tuple[Step, TrainingState]:
    """Steps of SGD with momentum."""
    config = TrainConfig(**{"loss": "cross-entropy", "gradient_clip": 0, **settings})
    dataset = SegmentationDataset(Path(), [], Values((0, 255)), ("ground", "thing"), [])
    average = WeightAverage(unet, decay) if decay else None
    optimizer = SGD(unet.parameters(), lr=99.0, momentum=0.9)
    state = TrainingState(unet, [optimizer], average, accumulation=config.gradient_accumulation)
    run = Run(RunFolder(Path()), config, dataset)
    return Step(run, state, torch.device("cpu"), precision), state


def test_steps_computed_by_hand() -> None:
    """With momentum, so that the second step depends on the first."""
    unet, other = network(), network()
    step, state = make_step(unet)
    speeds = [torch.zeros_like(weight) for weight in other.parameters()]
    for number, rate in enumerate((0.1, 0.05)):
        images, shares = batch(3, seed=number)
        result = step((images, shares), number, rate)
        image = torch.from_numpy(images.numpy().transpose(0, 3, 1, 2).astype(np.float32) / 255)
        loss = F.cross_entropy(other(image), shares.argmax(dim=3))
        assert result == StepResult(pytest.approx(loss.item(), rel=1e-5), 3, True)
        other.zero_grad()
        loss.backward()
        with torch.no_grad():
            for weight, speed in zip(other.parameters(), speeds, strict=True):
                speed.mul_(0.9).add_(weight.grad)
                weight -= rate * speed
        assert state.optimizers[0].param_groups[0]["lr"] == rate
    for (name, value), expected in zip(
        unet.state_dict().items(), other.state_dict().values(), strict=True
    ):
        torch.testing.assert_close(value, expected, rtol=1e-4, atol=1e-6, msg=name)


def test_the_learning_rate_of_every_optimiser() -> None:
    unet = network()
    step, state = make_step(unet)
    weights = list(unet.parameters())
    state.optimizers[:] = [SGD(weights[:3], lr=1.0), SGD(weights[3:], lr=2.0)]
    seen: list[float] = []
    for optimizer in state.optimizers:
        optimizer.register_step_pre_hook(lambda each, *_: seen.append(each.param_groups[0]["lr"]))
    step(batch(2), 0, 0.08)
    step(batch(2), 1, 0.09)
    assert seen == [0.08, 0.08, 0.09, 0.09]


def test_a_step_is_a_function_of_the_seed_and_its_number() -> None:
    """Independent of earlier random numbers, so that a run resumes without a random state."""
    losses = {}
    for seed, number, drawn in ((1, 7, 0), (1, 7, 5), (1, 8, 0), (2, 7, 0)):
        step, _ = make_step(network(dropout=0.5), seed=seed)
        torch.rand(drawn)
        losses[seed, number, drawn] = step(batch(3), number, 0.1).loss
    assert losses[1, 7, 0] == losses[1, 7, 5]
    assert len(set(losses.values())) == 3


def test_every_step_updates_the_ema() -> None:
    unet, other = network(), network()
    step, state = make_step(unet, decay=0.5)
    by_hand, _ = make_step(other)
    expected = WeightAverage(other, 0.5)
    for number in (4, 5, 6):
        step(batch(2, number), number, 0.1)
        by_hand(batch(2, number), number, 0.1)
        expected.update(other, number)
    assert state.average
    assert same(state.average.network.state_dict(), expected.network.state_dict())


@pytest.fixture
def not_finite() -> Iterator[list[str]]:
    """What fails in the network's convolutions: "forward" or "back"(ward)."""
    failing: list[str] = []

    class Breaking(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, value: Tensor) -> Tensor:
            return value * float("nan") if "forward" in failing else value.clone()

        @staticmethod
        def backward(ctx: Any, gradient: Tensor) -> Tensor:
            return gradient * float("inf") if "back" in failing else gradient

    def hook(module: nn.Module, _: object, out: Tensor) -> Any:
        return Breaking.apply(out) if failing and isinstance(module, nn.Conv2d) else None

    handle = nn.modules.module.register_module_forward_hook(hook)
    yield failing
    handle.remove()


@pytest.mark.parametrize("way", ["forward", "back"])
def test_a_step_that_is_not_finite_changes_nothing(not_finite: list[str], way: str) -> None:
    """Weights, running statistics, EMA and optimiser state; gradients may fail alone."""
    unet, other = network(), network()
    step, state = make_step(unet, decay=0.9)
    without, expected = make_step(other, decay=0.9)
    for each in (step, without):
        assert each(batch(2, 1), 0, 0.1).is_finite
    not_finite.append(way)
    result = step(batch(2, 9), 1, 0.1)
    assert (result.is_finite, np.isfinite(result.loss)) == (False, way == "back")
    not_finite.clear()
    for each in (step, without):
        assert each(batch(2, 2), 2, 0.1).is_finite
    assert state.average
    assert expected.average
    assert same(unet.state_dict(), other.state_dict())
    assert same(state.average.network.state_dict(), expected.average.network.state_dict())


def test_bf16_trains_in_fp32_weights() -> None:
    unet = network()
    loss = make_step(unet, precision=torch.bfloat16)[0](batch(2), 0, 0.1).loss
    exact = make_step(network())[0](batch(2), 0, 0.1).loss
    assert loss == pytest.approx(exact, rel=0.05)
    assert loss != exact
    assert {weight.dtype for weight in unet.parameters()} == {torch.float32}


@pytest.mark.parametrize("accumulation", [2, 3, 6, 99])
def test_gradient_accumulation_equals_the_whole_batch(accumulation: int) -> None:
    """Without batch normalisation; ignored pixels are weighted as in the whole batch."""
    images, shares = batch(6, seed=3)
    shares[1, :5] = 0
    shares[4] = 0
    ends = []
    for parts in (1, accumulation):
        # in float64, so that only a wrong denominator makes a difference
        unet = network(normalisation="group").double()
        step, _ = make_step(unet, gradient_accumulation=parts)
        losses = [step((images.double() / 255, shares), number, 0.1).loss for number in (0, 1)]
        ends.append((losses, unet.state_dict()))
    assert ends[1][0] == pytest.approx(ends[0][0], rel=1e-6)
    for name, weight in ends[0][1].items():
        torch.testing.assert_close(ends[1][1][name], weight, rtol=1e-6, atol=1e-8)


def test_gradient_clipping() -> None:
    unet, other = network(), network()
    make_step(unet, gradient_clip=1e-3)[0](batch(2), 0, 1.0)
    moved = sum(
        float((a - b).detach().square().sum())
        for a, b in zip(unet.parameters(), other.parameters(), strict=True)
    )
    assert moved**0.5 == pytest.approx(1e-3, rel=1e-3)


STEPS = """
import resource
from pathlib import Path
import torch
from torch.optim import SGD
from plainunet.config import TrainConfig
from plainunet.dataset.coding import Values
from plainunet.dataset.dataset import SegmentationDataset
from plainunet.network.unet import UNet
from plainunet.reporter import Collected
from plainunet.training.run import Run, RunFolder
from plainunet.training.state import TrainingState
from plainunet.training.trainer import Step

torch.manual_seed(0)
unet = UNet(3, 2, base_channels=8, depth=3, dropout=0.5).train()
reporter = Collected()
dataset = SegmentationDataset(Path(), [], Values((0, 1)), ("a", "b"), [])
run = Run(RunFolder(Path()), TrainConfig(seed=4), dataset, reporter)
state = TrainingState(unet, [SGD(unet.parameters(), lr=1.0, momentum=0.9)], None)
step = Step(run, state, torch.device("cpu"), torch.float32)
generator = torch.Generator().manual_seed(1)
images = torch.randint(0, 256, (8, 128, 192, 3), generator=generator, dtype=torch.uint8)
shares = torch.nn.functional.one_hot(torch.randint(0, 2, (8, 128, 192), generator=generator), 2)
small = [images[:1, :16, :16], shares[:1, :16, :16].to(torch.uint8) * 255]
step(small, 0, 0.0)  # loads modules
if megabytes:
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + megabytes * 2**20
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
losses, made = [], []
for number, each in enumerate(parts, 1):
    state.accumulation = max(each, state.accumulation)
    losses.append(step([images, shares.to(torch.uint8) * 255], number, 0.05).loss)
    made.append(state.accumulation)
content = {"weights": unet.state_dict(), "losses": losses, "notes": reporter.notes, "made": made}
torch.save(content, file)
"""


def make_steps(file: Path, parts: list[int], megabytes: int = 0) -> dict[str, Any]:
    """Steps of eight images, each in `parts` micro-batches, optionally with limited memory."""
    Fork(STEPS, file=file, parts=parts, megabytes=megabytes).end()
    content: dict[str, Any] = torch.load(file, weights_only=True)
    return content


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="RLIMIT_AS is tested on Linux")
def test_out_of_memory_is_retried_with_gradient_accumulation(tmp_path: Path) -> None:
    """An allocation fails for real; the result equals accumulation from the start."""
    for megabytes in (150, 220, 330):  # processors differ in what a convolution takes
        with suppress(AssertionError):
            short = make_steps(tmp_path / "short.pt", [1, 1], megabytes)
            break
    made, notes = short["made"], short["notes"]
    assert 2 <= made[1] <= 8
    assert made[0] <= made[1]
    assert len(notes) == made[1].bit_length() - 1
    assert re.match("note: out of memory in step [23]: .* 2 micro-batches .* 4 images", notes[0])
    ample = make_steps(tmp_path / "ample.pt", made)
    assert (ample["notes"], ample["made"]) == ([], made)
    assert short["losses"] == ample["losses"]
    # running statistics too: the passes that failed have left nothing in them
    assert same(short["weights"], ample["weights"])


def test_memory_for_not_even_one_image_is_an_error() -> None:
    unet = network()
    step, state = make_step(unet)

    def fail(*_: object) -> None:
        raise MemoryError("no more")

    unet.head.register_forward_hook(fail)
    with pytest.raises(MemoryError):
        step(batch(3), 0, 0.1)
    assert state.accumulation == 3
