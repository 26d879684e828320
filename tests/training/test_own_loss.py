"""A loss of the user's own: from Python or by name, checked before the first step, resumed."""

import dataclasses
import sys
import tomllib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from plainunet import TrainConfig
from plainunet.__main__ import _run
from plainunet.network.losses import OwnLoss, cross_entropy, deep_loss
from plainunet.parts import NO_PARTS, OwnParts, Part, PartError, given_part, is_own
from plainunet.settings import load_config
from plainunet.training.train import resume, train

from .conftest import Draw, PowerCut, cut_after, rows_of

MODULE = """
import torch

def tversky(logits, target, weight):
    p = logits.softmax(1) * weight[:, None]
    target = target * weight[:, None]
    hit = (p * target).sum((2, 3))
    wrong = 0.7 * (target - p).relu() + 0.3 * (p - target).relu()
    return 1 - ((hit + 1) / (hit + wrong.sum((2, 3)) + 1)).mean()

def vector(logits, target, weight):
    return logits.mean((1, 2, 3))

def number(logits, target, weight):
    return 1.0

def nan(logits, target, weight):
    return logits.mean() * float("nan")

def constant(logits, target, weight):
    return target.mean()

def divides(logits, target, weight):
    return ((logits * target).sum((0, 2, 3)) / target.sum((0, 2, 3))).mean()

def fails(logits, target, weight):
    return logits @ target

late = {"calls": 0}

def fails_late(logits, target, weight):
    late["calls"] += 1
    if late["calls"] > 3:
        raise RuntimeError("too late")
    return tversky(logits, target, weight)
"""
FLAGS = (
    *("--epochs", "2", "--size", "32", "40", "--batch-size", "4", "--base-channels", "2"),
    *("--depth", "2", "--device", "cpu", "--workers", "0", "--precision", "fp32"),
)


def mean_square(logits: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """A mean over images and pixels."""
    return ((logits.softmax(1) - target).square().sum(1) * weight).mean()


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A current folder that holds the user's module."""
    (tmp_path / "my_losses.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    before = list(sys.path)
    yield tmp_path
    sys.path[:] = before
    sys.modules.pop("my_losses", None)


@pytest.fixture
def plainunet(monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """Run a command; returns its exit code."""

    def run(*words: str | Path) -> int:
        monkeypatch.setattr(sys, "argv", ["plainunet", *map(str, words)])
        return _run()

    return run


def test_a_loss_by_name_trains_and_resumes(
    here: Path, draw: Draw, plainunet: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    draw(here / "data", 8)
    own = ("--loss", "my_losses:tversky")
    assert plainunet("train", "data", "--out", "run", *own, *FLAGS) == 0
    settings = tomllib.loads((here / "run" / "config.toml").read_text())
    assert settings["loss"] == "my_losses:tversky"
    assert all(0 < row["loss"] < 1 for row in rows_of(here / "run"))
    assert plainunet("evaluate", "run/best.safetensors", "data") == 0
    capsys.readouterr()
    for words in ((), ("--loss", "my_losses:vector")):
        assert plainunet("train", "--resume", "run", *words) == 2
        assert capsys.readouterr().err.count("my_losses:tversky") >= 1
    assert plainunet("train", "--resume", "run", *own, "--epochs", "3") == 2
    assert plainunet("train", "--resume", "run", *own) == 0


@pytest.mark.parametrize("name", ["vector", "number", "nan", "constant", "divides", "fails"])
def test_a_bad_loss_is_refused_before_the_first_step(
    name: str, here: Path, draw: Draw, plainunet: Callable[..., int],
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    draw(here / "data", 8)
    assert plainunet("train", "data", "--out", "run", "--loss", f"my_losses:{name}", *FLAGS) == 2
    err = capsys.readouterr().err
    assert err.startswith(f"error: --loss my_losses:{name}")
    assert len(err.splitlines()) == 1
    assert not (here / "run" / "config.toml").exists()


def test_a_loss_that_fails_later_is_not_our_fault(
    here: Path, draw: Draw, plainunet: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    draw(here / "data", 8)
    words = ("train", "data", "--out", "run", "--loss", "my_losses:fails_late", *FLAGS)
    assert plainunet(*words) == 2
    assert "too late" in capsys.readouterr().err


@pytest.mark.parametrize(
    "name",
    [
        *("tversky", "my_losses:twersky", "no_losses:tversky", "my_losses:late"),
        *("broken:loss", "leaves:loss", "unreadable:loss"),
    ],
)
def test_a_name_that_leads_nowhere_is_refused(
    name: str, here: Path, draw: Draw, plainunet: Callable[..., int],
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    draw(here / "data", 8)
    (here / "broken.py").write_text("1 / 0")
    (here / "leaves.py").write_text("raise SystemExit(0)")
    (here / "unreadable.py").write_text("def loss(")
    assert plainunet("train", "data", "--out", "run", "--loss", name, *FLAGS) == 2
    assert name in capsys.readouterr().err


def test_a_settings_file_imports_nothing(
    here: Path, draw: Draw, plainunet: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    draw(here / "data", 8)
    (here / "own.toml").write_text('loss = "my_losses:tversky"\n')
    assert plainunet("train", "data", "--out", "run", "--config", "own.toml", *FLAGS) == 2
    assert "my_losses:tversky" in capsys.readouterr().err
    assert "my_losses" not in sys.modules


def test_a_function_from_python_resumes_bit_for_bit(
    draw: Draw, tiny: TrainConfig, tmp_path: Path
) -> None:
    data = draw(tmp_path / "data", 8)
    train(data, tmp_path / "whole", tiny, loss=mean_square)
    with pytest.raises(PowerCut):
        train(data, tmp_path / "cut", tiny, cut_after(1), loss=mean_square)
    assert load_config(tmp_path / "cut" / "config.toml").loss == f"{__name__}:mean_square"
    with pytest.raises(PartError):
        resume(tmp_path / "cut")
    with pytest.raises(PartError):
        resume(tmp_path / "cut", loss=cross_entropy)
    resume(tmp_path / "cut", loss=mean_square)
    whole, cut = (load_file(tmp_path / run / "best.safetensors") for run in ("whole", "cut"))
    assert whole.keys() == cut.keys()
    assert all(torch.equal(whole[name], cut[name]) for name in whole)
    with pytest.raises(PartError):
        train(data, tmp_path / "other", tiny.model_copy(update={"loss": "a:b"}))


def test_micro_batches_add_up() -> None:
    logits, target = torch.randn(5, 2, 4, 4), torch.rand(5, 2, 4, 4).softmax(1)
    weight = torch.rand(5, 4, 4)
    loss = OwnLoss(given_part(mean_square))
    whole = deep_loss(loss, [logits], target, weight)
    parts = [
        loss(*(each[cut] for each in (logits, target, weight)), whole=weight)
        for cut in (slice(0, 2), slice(2, 5))
    ]
    assert torch.isclose(whole, sum(parts, torch.zeros(())))
    assert torch.isclose(whole, mean_square(logits, target, weight))


def test_coarse_logits_are_upsampled() -> None:
    loss = OwnLoss(given_part(mean_square))
    target, weight = torch.rand(2, 3, 8, 8).softmax(1), torch.ones(2, 8, 8)
    assert loss(torch.randn(2, 3, 4, 4), target, weight).ndim == 0


def test_a_module_is_a_loss_and_named_by_its_class() -> None:
    class Squares(nn.Module):
        def forward(self, logits: Tensor, target: Tensor, weight: Tensor) -> Tensor:
            return mean_square(logits, target, weight)

    part = given_part(Squares())
    OwnLoss(part).check(3, torch.device("cpu"))
    assert part.name.endswith("<locals>.Squares")
    with pytest.raises(PartError):
        OwnLoss(given_part(Squares))


def test_a_script_may_be_imported_under_its_own_name() -> None:
    part = given_part(mean_square)
    assert part.is_named("__main__:mean_square")
    assert dataclasses.replace(part, name="other:alias").is_named(f"{__name__}:mean_square")
    assert not part.is_named("elsewhere:mean_square")
    assert not part.is_named("__main__:tversky")


def test_partial_functions_are_told_apart_by_their_arguments() -> None:
    soft, same, hard = (given_part(partial(mean_square, weight=each)) for each in (1, 1, 2))
    assert soft.is_named(same.name)
    assert not soft.is_named(hard.name)
    assert soft.name.startswith(f"{__name__}:mean_square.<partial_")
    assert OwnParts(loss=soft).flags() == []
    assert is_own(soft.name)


def test_commands_name_all_parts_that_can_be_imported() -> None:
    own = OwnParts(
        loss=Part(mean_square, "my_losses:tversky"),
        network=Part(mean_square, "__main__:network"),
        augment=Part(mean_square, "augment.json"),
        metrics=(Part(mean_square, "mine:first"), Part(mean_square, "mine:<lambda>")),
    )
    assert own.flags() == ["--loss", "my_losses:tversky", "--metrics", "mine:first"]
    settings = TrainConfig(loss="a:b", network="c:d", metrics=("e:f", "g:h"))
    with pytest.raises(PartError) as caught:
        NO_PARTS.require(settings, "run")
    for flag in ("--loss a:b", "--network c:d", "--metrics e:f g:h"):
        assert flag in str(caught.value)
