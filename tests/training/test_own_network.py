"""A network of the user's own: trained, resumed, evaluated; never imported unasked."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from plainunet import Error, Predictor, TrainConfig, compare, evaluate
from plainunet.__main__ import _run
from plainunet.network.card import CheckpointError
from plainunet.network.checkpoint import load_checkpoint, save_checkpoint
from plainunet.network.own import make_own_network
from plainunet.parts import Part, PartError, given_part
from plainunet.settings import load_config
from plainunet.training.train import resume, train

from ..models import make_card
from .conftest import Draw, PowerCut, Recorder, cut_after

MODULE = """
import torch
from torch import nn

class Small(nn.Module):
    size_divisor = 4

    def __init__(self, in_channels, num_classes):
        super().__init__()
        self.down = nn.Sequential(nn.Conv2d(in_channels, 8, 4, 4), nn.BatchNorm2d(8), nn.ReLU())
        self.up = nn.ConvTranspose2d(8, num_classes, 4, 4)

    def forward(self, image):
        return self.up(self.down(image))

def small(in_channels, num_classes):
    return Small(in_channels, num_classes)
"""
FLAGS = (
    *("--epochs", "1", "--size", "30", "40", "--batch-size", "4", "--device", "cpu"),
    *("--workers", "0", "--precision", "fp32"),
)


class Plain(nn.Sequential):
    """Three convolutions."""

    can_tile = True

    def __init__(self, in_channels: int, num_classes: int) -> None:
        super().__init__(
            nn.Conv2d(in_channels, 6, 3, padding=1),
            nn.GELU(),
            nn.Conv2d(6, 6, 3, padding=1),
            nn.GELU(),
            nn.Conv2d(6, num_classes, 1),
        )


class Bad(nn.Module):
    """Returns something else than logits."""

    def __init__(self, change: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.layer, self.change = nn.Conv2d(3, 2, 1), change

    def forward(self, image: Tensor) -> Any:
        return self.change(self.layer(image))


class Change(nn.Module):
    """Any function as a module."""

    def __init__(self, change: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.change = change

    def forward(self, image: Tensor) -> Tensor:
        return self.change(image)


class Doubles(nn.Conv2d):
    """Computes in float64."""

    def forward(self, image: Tensor) -> Tensor:
        weight, bias = self.weight.double(), self.bias
        return nn.functional.conv2d(image, weight, None if bias is None else bias.double())


class Halving(nn.Module):
    """Needs even sides, but has no size_divisor."""

    def __init__(self, in_channels: int, num_classes: int) -> None:
        super().__init__()
        self.down = nn.Conv2d(in_channels, 4, 2, 2)
        self.up = nn.ConvTranspose2d(4, num_classes, 2, 2)

    def forward(self, image: Tensor) -> Tensor:
        logits: Tensor = self.up(self.down(image))
        return logits


BAD: dict[str, Any] = {
    "half the size": Bad(lambda logits: logits[..., ::2, ::2]),
    "one class": Bad(lambda logits: logits[:, :1]),
    "dictionary": Bad(lambda logits: {"out": logits}),
    "integers": Bad(lambda logits: logits.long()),
    "no gradient": Bad(lambda logits: logits.detach()),
    "nan": Bad(lambda logits: logits * float("nan")),
    "fails": Bad(lambda logits: logits.view(-1, 7, 7)),
    "no module": lambda in_channels, num_classes: None,
    "no factory": 3,
    "factory fails": lambda in_channels: nn.Identity(),
    "nothing to train": nn.Identity(),
    "three channels only": nn.Conv2d(5, 2, 1),
}


@pytest.fixture
def here(tmp_path: Path, draw: Draw, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A current folder with data and the user's module."""
    draw(tmp_path / "data", 8)
    (tmp_path / "my_nets.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    before = list(sys.path)
    yield tmp_path
    sys.path[:] = before
    sys.modules.pop("my_nets", None)


@pytest.fixture
def plainunet(monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """Run a command; returns its exit code."""

    def run(*words: str) -> int:
        monkeypatch.setattr(sys, "argv", ["plainunet", *words])
        sys.modules.pop("my_nets", None)
        return _run()

    return run


def test_every_command_takes_it_by_name_and_none_without(
    here: Path, plainunet: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    own = ("--network", "my_nets:small")
    best = "run/best.safetensors"
    assert plainunet("train", "data", "--out", "run", *own, *FLAGS) == 0
    assert load_config(here / "run" / "config.toml").network == "my_nets:small"
    assert "my_nets:small" in (here / "run" / "report.html").read_text()
    for words in (
        ("train", "--resume", "run"),
        ("evaluate", best, "data"),
        ("evaluate", best, "data", "--tune"),
        ("compare", best, best, "data"),
        ("predict", best, "data/images", "--out", "masks"),
    ):
        capsys.readouterr()
        assert plainunet(*words) == 2
        assert "my_nets" not in sys.modules
        err = capsys.readouterr().err
        assert "my_nets:small" in err
        assert len(err.splitlines()) == 1
        assert plainunet(*words, *own) == 0, words
    assert len(list((here / "masks").glob("*.png"))) == 8
    assert plainunet("evaluate", best, "data", "--network", "my_nets:Small") == 2
    assert plainunet("model", best) == 2


@pytest.mark.parametrize("name", BAD)
def test_what_is_no_network_is_refused_before_the_first_step(
    name: str, draw: Draw, tiny: TrainConfig, tmp_path: Path
) -> None:
    data = draw(tmp_path / "data", 8)
    with pytest.raises(PartError) as caught:
        train(data, tmp_path / "run", tiny, network=BAD[name])
    assert str(caught.value).startswith("--network ")
    assert len(str(caught.value).splitlines()) == 1
    assert not (tmp_path / "run" / "config.toml").exists()


def test_a_network_of_fixed_size_needs_whole_images(
    draw: Draw, tiny: TrainConfig, tmp_path: Path
) -> None:
    data = draw(tmp_path / "data", 8, (64, 80))
    patches = tiny.model_copy(update={"size": None, "patch": (32, 40), "epochs": 1})
    with pytest.raises(PartError, match="size_divisor 1"):
        train(data, tmp_path / "run", patches, network=Halving)
    make_own_network(given_part(Halving), 3, 2).check([(32, 40)])


def test_an_input_may_be_changed_in_place_and_logits_be_doubles() -> None:
    def change(image: Tensor) -> Tensor:
        return image.mul_(2).double()

    network = make_own_network(given_part(nn.Sequential(Change(change), Doubles(3, 2, 1))), 3, 2)
    network.check([(16, 16)])
    image = torch.rand(1, 3, 16, 16)
    before = image.clone()
    logits = network(image)
    logits.sum().backward()
    assert logits.dtype == torch.float32
    assert torch.equal(image, before)


def test_tied_weights_are_saved_and_read(tmp_path: Path) -> None:
    def tied(in_channels: int, num_classes: int) -> nn.Module:
        twice = nn.Conv2d(4, 4, 3, padding=1)
        return nn.Sequential(
            nn.Conv2d(in_channels, 4, 1), twice, nn.GELU(), twice, nn.Conv2d(4, num_classes, 1)
        )

    network = make_own_network(given_part(tied), 3, 2).eval()
    save_checkpoint(tmp_path / "a.safetensors", network, make_card(2))
    read, _ = load_checkpoint(tmp_path / "a.safetensors", [given_part(tied)])
    image = torch.rand(1, 3, 16, 16)
    assert torch.equal(read(image), network(image))


@pytest.mark.parametrize("settings", [{"optimizer": "muon", "ema": 0.5}, {}])
def test_it_resumes_bit_for_bit(
    settings: dict[str, Any], draw: Draw, tiny: TrainConfig, tmp_path: Path
) -> None:
    data, config = draw(tmp_path / "data", 8), tiny.model_copy(update=settings)
    train(data, tmp_path / "whole", config, network=Plain)
    with pytest.raises(PowerCut):
        train(data, tmp_path / "cut", config, cut_after(1), network=Plain)
    with pytest.raises(PartError):
        resume(tmp_path / "cut")
    with pytest.raises(PartError):
        resume(tmp_path / "cut", network=nn.Identity)
    with pytest.raises(PartError, match="saved state"):
        resume(tmp_path / "cut", network=Part(nn.Conv2d(3, 2, 1), f"{__name__}:Plain"))
    resume(tmp_path / "cut", network=Plain)
    whole, cut = (load_file(tmp_path / run / "best.safetensors") for run in ("whole", "cut"))
    assert whole.keys() == cut.keys()
    assert all(torch.equal(whole[name], cut[name]) for name in whole)


def test_a_module_trains_in_place_and_predicts(
    draw: Draw, tiny: TrainConfig, tmp_path: Path
) -> None:
    data, module, heard = draw(tmp_path / "data", 8), Plain(3, 2), Recorder()
    before = module[0].weight.detach().clone()
    train(data, tmp_path / "run", tiny, heard, network=module)
    assert not torch.equal(before, module[0].weight)
    assert any("--base-channels" in note for note in heard.all("note"))
    best = tmp_path / "run" / "best.safetensors"
    with pytest.raises(CheckpointError):
        Predictor.load(best)
    kept = module[0].weight.detach().clone()
    predictor = Predictor.load(best, network=[nn.Identity(), module])
    image = np.random.default_rng(0).integers(0, 256, (45, 37, 3), dtype=np.uint8)
    mask = predictor.predict(image)
    assert mask.shape == (45, 37)
    assert (Predictor.load(best, network=Plain).predict(image) == mask).all()
    assert torch.equal(kept, module[0].weight)
    predictor.save_pretrained(tmp_path / "saved")
    with pytest.raises(CheckpointError):
        Predictor.from_pretrained(tmp_path / "saved")
    saved = Predictor.from_pretrained(tmp_path / "saved", network=Plain)
    assert (saved.predict(image) == mask).all()
    with pytest.raises(Error, match="network"):
        Predictor(module)
    wrapped = Predictor(module, make_card(2), device="cpu")
    assert wrapped.predict(image).shape == (45, 37)
    wrapped.save_pretrained(tmp_path / "wrapped")
    saved = Predictor.from_pretrained(tmp_path / "wrapped", network=Plain, device="cpu")
    assert (saved.predict(image) == wrapped.predict(image)).all()
    scores = evaluate(best, data, network=Plain)
    assert scores.of_images()
    both = compare(best, best, data, network=Plain)
    assert both.difference("dice").difference == 0


@pytest.mark.slow
def test_a_time_budget_times_it(draw: Draw, tmp_path: Path) -> None:
    data, heard = draw(tmp_path / "data", 12), Recorder()
    config = TrainConfig(budget=8, size=(32, 40), device="cpu", workers=0)
    train(data, tmp_path / "run", config, heard, network=Plain)
    plan = (tmp_path / "run" / "plan.txt").read_text()
    assert "base channels" not in plan
    assert "batch size" in plan


def test_lazy_layers_get_their_weights_before_training(tmp_path: Path) -> None:
    def lazy(in_channels: int, num_classes: int) -> nn.Module:
        layers = nn.LazyConv2d(4, 3, padding=1), nn.LazyBatchNorm2d(), nn.LazyConv2d(num_classes, 1)
        return nn.Sequential(*layers)

    network = make_own_network(given_part(lazy), 3, 2)
    network.check([(32, 40)])
    save_checkpoint(tmp_path / "a.safetensors", network, make_card(2))
    again = load_checkpoint(tmp_path / "a.safetensors", [given_part(lazy)])[0].eval()
    image = torch.rand(1, 3, 20, 24)
    assert torch.equal(again(image), network.eval()(image))


def test_sizes_are_padded_to_its_divisor() -> None:
    class Sevens(nn.Conv2d):
        size_divisor = 7

        def forward(self, image: Tensor) -> Tensor:
            assert not image.shape[2] % 7
            assert not image.shape[3] % 7
            return super().forward(image)

    network = make_own_network(given_part(Sevens(3, 4, 1)), 3, 4)
    network.check([(20, 15)])
    network.set_normalisation([0.5] * 3, [0.25] * 3)
    image = torch.rand(2, 3, 20, 15)
    logits = network(image)
    assert logits.shape == (2, 4, 20, 15)
    expected = nn.functional.conv2d((image - 0.5) / 0.25, network.body.weight, network.body.bias)
    assert torch.allclose(logits, expected, atol=1e-6)
    assert network.depth == 3
    for divisor in (0, 2.5, "8"):
        Sevens.size_divisor = divisor  # type: ignore[assignment]
        with pytest.raises(PartError):
            make_own_network(given_part(Sevens(3, 4, 1)), 3, 4)


def test_checking_leaves_buffers_and_random_numbers_alone() -> None:
    norm = nn.BatchNorm2d(2)
    network = make_own_network(given_part(nn.Sequential(nn.Conv2d(3, 2, 1), norm)), 3, 2)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    state = torch.get_rng_state()
    network.check([(16, 16), (8, 8)])
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())
    assert network.base_channels == 1


def test_tiles_and_the_whole_image_agree_if_it_may_be_tiled(
    draw: Draw, tiny: TrainConfig, tmp_path: Path
) -> None:
    data = draw(tmp_path / "data", 8, (300, 300))
    config = tiny.model_copy(update={"size": None, "patch": (32, 32), "epochs": 1})
    train(data, tmp_path / "run", config, network=Plain)
    best = tmp_path / "run" / "best.safetensors"
    image = np.random.default_rng(0).integers(0, 256, (700, 600, 3), dtype=np.uint8)
    whole = Predictor.load(best, network=Plain, device="cpu", precision="fp32")
    tiled = Predictor.load(best, network=Plain, device="cpu", precision="fp32", memory=20e6)
    assert (whole.predict(image) == tiled.predict(image)).mean() > 0.999
