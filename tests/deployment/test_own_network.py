"""A network of the user's own, exported and served by the name of its factory, never unasked."""

import io
import pickle
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from plainunet.__main__ import _run
from plainunet.config import ExportOptions
from plainunet.deployment.export import export
from plainunet.deployment.server import load_with
from plainunet.network.card import CheckpointError, versions
from plainunet.network.checkpoint import save_checkpoint
from plainunet.network.own import make_own_network
from plainunet.parts import Part, PartError, import_part
from plainunet.prediction.predictor import Predictor
from plainunet.reporter import Collected

from ..models import make_card
from .conftest import draw_images
from .serving import serving

MODULE = """
import torch
from torch import nn
from torch.nn import functional as F

class TwoScales(nn.Module):
    size_divisor = 4

    def __init__(self, in_channels, num_classes):
        super().__init__()
        self.fine = nn.Sequential(
            nn.Conv2d(in_channels, 8, 3, padding=1), nn.BatchNorm2d(8), nn.SiLU()
        )
        self.coarse = nn.Sequential(nn.Conv2d(8, 16, 4, 4), nn.GroupNorm(4, 16), nn.GELU())
        self.head = nn.Conv2d(24, num_classes, 1)

    def forward(self, image):
        fine = self.fine(image)
        coarse = F.interpolate(self.coarse(fine), fine.shape[2:], mode="bilinear")
        return self.head(torch.cat([fine, coarse], 1))

class Choosy(nn.Conv2d):
    def __init__(self, in_channels, num_classes):
        super().__init__(in_channels, num_classes, 3, padding=1)

    def forward(self, image):
        logits = super().forward(image)
        return 2 * logits if logits.mean() > 0 else logits

@torch.library.custom_op("own::twice", mutates_args=())
def twice(x: torch.Tensor) -> torch.Tensor:
    return x * 2

twice.register_fake(torch.empty_like)
twice.register_autograd(lambda context, gradient: 2 * gradient)

class Twice(Choosy):
    def forward(self, image):
        return twice(nn.Conv2d.forward(self, image))

class Spread(Choosy):
    def forward(self, image):
        return super(Choosy, self).forward(image.cumsum(3))
"""
CPU: dict[str, Any] = {"device": "cpu", "precision": "fp32"}


@pytest.fixture
def checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], Path]]:
    """Write a checkpoint of a network of the module `own_nets` in the current folder."""
    (tmp_path / "own_nets.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])

    def make(name: str) -> Path:
        factory = f"own_nets:{name}"
        network = make_own_network(Part(import_part(factory, "--network"), factory), 3, 3)
        network.check([(48, 64)])
        path = tmp_path / f"{name}.safetensors"
        save_checkpoint(path, network, replace(make_card(3, size=(48, 64)), versions=versions()))
        sys.modules.pop("own_nets", None)
        return path

    yield make
    sys.modules.pop("own_nets", None)


@pytest.mark.slow
def test_a_torch_file_predicts_the_same_masks(
    checkpoint: Callable[[str], Path],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = checkpoint("TwoScales")
    words = ["plainunet", "export", str(path), "--to", "torch", "--out", "own.pt2"]
    monkeypatch.setattr(sys, "argv", words)
    assert _run() == 2
    assert "own_nets" not in sys.modules
    assert "own_nets:TwoScales" in capsys.readouterr().err
    monkeypatch.setattr(sys, "argv", [*words, "--network", "own_nets:TwoScales"])
    assert _run() == 0
    image = draw_images(101, 133)[:1]
    mask = torch.export.load("own.pt2").module()(torch.from_numpy(image))[1][0].numpy()
    expected = Predictor.load(path, network="own_nets:TwoScales", **CPU).predict(image[0])
    assert (mask != expected).mean() < 1e-3


def test_one_sentence_says_why_a_network_cannot_be_exported(
    checkpoint: Callable[[str], Path],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = ["plainunet", "export", str(checkpoint("Choosy")), "--to", "torch", "--out", "no.pt2"]
    for flags in ((), ("--network", "own_nets:Choosy")):
        monkeypatch.setattr(sys, "argv", [*words, *flags])
        assert _run() == 2
        err = capsys.readouterr().err
        assert len(err.splitlines()) == 1
        assert "own_nets:Choosy" in err
        assert ("own_nets" in sys.modules) == bool(flags)
    assert not Path("no.pt2").exists()


@pytest.mark.slow
def test_an_onnx_file_predicts_the_same_masks(checkpoint: Callable[[str], Path]) -> None:
    path, name = checkpoint("TwoScales"), "own_nets:TwoScales"
    export(path, "own.onnx", ExportOptions(to="onnx"), network=name)
    checked, exported = Predictor.load(path, network=name, **CPU), Predictor.load("own.onnx")
    for size in ((101, 133), (30, 41), (96, 128)):
        image = draw_images(*size)[0]
        assert (exported.predict(image) != checked.predict(image)).mean() < 1e-3


@pytest.mark.slow
def test_operators_that_onnx_or_plainunet_do_not_have(checkpoint: Callable[[str], Path]) -> None:
    path = checkpoint("Twice")
    with pytest.raises(PartError) as caught:
        export(path, "no.onnx", ExportOptions(to="onnx"), network="own_nets:Twice")
    assert len(str(caught.value).splitlines()) == 1
    assert not Path("no.onnx").exists()
    heard, path = Collected(), checkpoint("Spread")
    export(path, "own.onnx", ExportOptions(to="onnx"), heard, network="own_nets:Spread")
    assert any("CumSum" in note for note in heard.notes)
    with pytest.raises(CheckpointError, match="CumSum"):
        Predictor.load("own.onnx")


def test_every_process_of_a_server_can_load_it(checkpoint: Callable[[str], Path]) -> None:
    path = checkpoint("TwoScales")
    load = load_with("auto", "cpu", "fp32", None, ("own_nets:TwoScales",))
    assert pickle.loads(pickle.dumps(load))(path).architecture["factory"] == "own_nets:TwoScales"
    with pytest.raises(CheckpointError):
        load_with("auto", "cpu", "fp32", None)(path)
    with pytest.raises(CheckpointError):
        load(checkpoint("Choosy"))


@pytest.mark.slow
def test_a_server_predicts_with_it_and_imports_no_other(
    checkpoint: Callable[[str], Path],
) -> None:
    path, other = checkpoint("TwoScales"), checkpoint("Choosy")
    name = "own_nets:TwoScales"
    image = draw_images(101, 133)[0]
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG")
    flags = ("--network", name, "--device", "cpu", "--precision", "fp32", "--token", "secret")
    known: dict[str, Any] = {"headers": {"Authorization": "Bearer secret"}}
    with serving(path, *flags) as server:
        files = {"file": ("image", file.getvalue())}
        answer = server.post("/v1/predict", files=files, **known)
        assert answer.status_code == 200
        with Image.open(io.BytesIO(answer.content)) as mask:
            expected = Predictor.load(path, network=name, **CPU).predict(image)
            assert np.array_equal(np.asarray(mask), expected)
        refused = server.post("/v1/model", content=other.read_bytes(), **known)
        assert refused.status_code >= 400
        swapped = server.post("/v1/model", content=path.read_bytes(), **known)
        assert swapped.status_code == 200
