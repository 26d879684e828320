"""Models as folders with a model card, and as repositories of the Hub: offline, and by a server."""

import base64
import dataclasses
import html
import json
import os
import shutil
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from torch import nn

from plainunet import Error, Predictor, TrainConfig, train
from plainunet.evaluation.tune import tune
from plainunet.formats.images import read_image
from plainunet.network.card import CheckpointError
from plainunet.network.checkpoint import load_checkpoint
from plainunet.network.own import make_own_network
from plainunet.parts import Part
from plainunet.prediction.drawing import write_rgb

from ..folders import draw_rectangles
from ..forks import Fork, Result
from ..models import SMALL, as_predictor, make_card, make_network, make_predictor


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder, beside the images `data/images`."""
    folder = tmp_path_factory.mktemp("hub")
    data = draw_rectangles(folder / "data")
    train(data, folder / "run", TrainConfig(**SMALL, epochs=1, batch_size=4))
    return folder / "run"


@pytest.fixture
def saved(run: Path, tmp_path: Path) -> Path:
    predictor = Predictor.load(run / "best.safetensors", device="cpu")
    example = sorted((run / "saved_images").glob("*_comparison.png"))[0]
    predictor.save_pretrained(tmp_path / "rectangles", license="mit", example=example)
    return tmp_path / "rectangles"


def test_a_saved_model_predicts_the_same_masks(run: Path, saved: Path) -> None:
    image = read_image(run.parent / "data" / "images" / "0.png")
    expected = Predictor.load(run / "best.safetensors", device="cpu").predict(image)
    for load in (Predictor.from_pretrained, Predictor.load):
        assert np.array_equal(load(saved, device="cpu").predict(image), expected)
    assert sorted(path.name for path in saved.iterdir()) == [
        *("README.md", "example.png", "model.safetensors"),
    ]


def test_a_saved_model_can_be_trained_further(run: Path, saved: Path) -> None:
    weights = load_checkpoint(run / "best.safetensors")[0].state_dict()
    network, card = load_checkpoint(saved / "model.safetensors")
    assert network.state_dict().keys() == weights.keys()
    assert all(bool((network.state_dict()[name] == weights[name]).all()) for name in weights)
    assert card == load_checkpoint(run / "best.safetensors")[1]


def test_other_settings_are_saved_without_the_scores(run: Path, tmp_path: Path) -> None:
    predictor = Predictor.load(run / "best.safetensors", device="cpu", threshold=0.3)
    predictor.save_pretrained(tmp_path / "model")
    card = Predictor.from_pretrained(tmp_path / "model", device="cpu").card
    assert (card.threshold, card.scores) == (0.3, {})
    assert "None recorded" in (tmp_path / "model" / "README.md").read_text(encoding="utf-8")


def test_a_network_in_memory_is_saved(tmp_path: Path) -> None:
    predictor = make_predictor(classes=4)
    predictor.save_pretrained(tmp_path / "model")
    assert Predictor.from_pretrained(tmp_path / "model").card == predictor.card
    text = (tmp_path / "model" / "README.md").read_text(encoding="utf-8")
    assert "None recorded" in text
    assert "Not stated." in text


def test_the_model_card_of_ones_own_network_says_how_to_load_it(tmp_path: Path) -> None:
    network = make_own_network(Part(nn.Conv2d(3, 2, 1), "mine:Net"), 3, 2)
    as_predictor(network, make_card(2)).save_pretrained(tmp_path / "model")
    text = (tmp_path / "model" / "README.md").read_text(encoding="utf-8")
    assert 'Predictor.from_pretrained("model", network="mine:Net")' in text
    assert "| network | `mine:Net` |" in text
    assert "A network for" in text


def test_a_folder_needs_no_library_and_no_network(
    saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)  # as if not installed
    assert Predictor.from_pretrained(saved, device="cpu").card.threshold == 0.5
    with pytest.raises(ValueError, match="huggingface_hub"):
        Predictor.from_pretrained("someone/rectangles")


def test_the_model_card_has_data_scores_and_protocol(run: Path, saved: Path) -> None:
    hub = pytest.importorskip("huggingface_hub")
    text = (saved / "README.md").read_text(encoding="utf-8")
    data = hub.ModelCard(text).data.to_dict()
    scores = load_checkpoint(run / "best.safetensors")[1].scores
    dice = scores["pooled"]["dice"]["mean_foreground"]
    assert data["license"] == "mit"
    assert data["library_name"] == "plainunet"
    assert data["model-index"][0]["results"][0]["metrics"][0]["value"] == dice
    assert "\n# rectangles\n" in text
    assert scores["protocol"] in html.unescape(text)
    (row,) = [line for line in text.splitlines() if line.startswith("| dice, mean")]
    low, high = scores["intervals"]["pooled"]["dice"]["mean_foreground"]
    assert f"| {dice:.4f} ({low:.4f}\u2013{high:.4f}) |" in row
    assert "| images, train | 6 |" in text
    assert "](example.png)" in text


def test_the_model_card_of_a_tuned_model(run: Path, tmp_path: Path) -> None:
    found = tune(run, run.parent / "data", device="cpu")
    Predictor.load(found["checkpoint"], device="cpu").save_pretrained(tmp_path / "tuned")
    text = (tmp_path / "tuned" / "README.md").read_text(encoding="utf-8")
    dice = found["dice"]
    assert f"Dice per image from {dice['before']:.4f} to {dice['after']:.4f}" in text
    assert "before its prediction was tuned" in text


def test_names_in_a_model_card_are_text(tmp_path: Path) -> None:
    names = ("back|ground", "<img src=x>", "other")
    card = dataclasses.replace(make_card(3), class_names=names)
    predictor = as_predictor(make_network(3), card)
    predictor.save_pretrained(tmp_path / "model", name="a: <b>\n---")
    text = (tmp_path / "model" / "README.md").read_text(encoding="utf-8")
    assert "<img" not in text
    assert "back|ground" not in text
    assert text.count("\n---\n") == 1


def test_what_was_not_saved_here_is_never_overwritten(saved: Path, tmp_path: Path) -> None:
    predictor = Predictor.from_pretrained(saved, device="cpu")
    predictor.save_pretrained(tmp_path / "other")
    predictor.save_pretrained(tmp_path / "other", license="mit")
    own = tmp_path / "own" / "README.md"
    own.parent.mkdir()
    own.write_text("mine")
    with pytest.raises(ValueError, match="exists"):
        predictor.save_pretrained(own.parent)
    assert [path.name for path in own.parent.iterdir()] == ["README.md"]
    assert own.read_text() == "mine"
    (tmp_path / "data" / "images").mkdir(parents=True)
    (tmp_path / "other" / "notes.txt").write_text("mine")
    for folder in (tmp_path / "data", tmp_path / "other", own):
        with pytest.raises(Error, match=folder.name):
            predictor.save_pretrained(folder)
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["images"]
    (tmp_path / "empty").mkdir()
    predictor.save_pretrained(tmp_path / "empty")


def test_an_earlier_example_does_not_stay(tmp_path: Path) -> None:
    predictor, folder, photo = make_predictor(), tmp_path / "model", tmp_path / "photo.PNG"
    write_rgb(photo, np.zeros((8, 8, 3), np.uint8))
    predictor.save_pretrained(folder, example=photo)
    predictor.save_pretrained(folder, example=folder / "example.png")
    assert (folder / "example.png").read_bytes() == photo.read_bytes()
    (folder / "example.jpg").write_bytes(b"of an earlier save")
    predictor.save_pretrained(folder, example=photo)
    assert [path.name for path in folder.glob("example*")] == ["example.png"]
    predictor.save_pretrained(folder)
    assert sorted(path.name for path in folder.iterdir()) == ["README.md", "model.safetensors"]


def test_refusals(run: Path, tmp_path: Path) -> None:
    shutil.copyfile(run / "best.safetensors", tmp_path / "a.safetensors")
    predictor = Predictor.load(tmp_path / "a.safetensors", device="cpu")
    ensemble = Predictor.load([tmp_path / "a.safetensors"] * 2, device="cpu")
    with pytest.raises(ValueError, match="ensemble"):
        ensemble.save_pretrained(tmp_path / "out")
    with pytest.raises(FileNotFoundError, match=r"missing\.png"):
        predictor.save_pretrained(tmp_path / "out", example=tmp_path / "missing.png")
    with pytest.raises(Error) as caught:
        predictor.save_pretrained(tmp_path / "out", example=__file__)
    assert caught.value.code == "not-an-image"
    os.utime(tmp_path / "a.safetensors", ns=(0, 0))
    with pytest.raises(ValueError, match="changed"):
        predictor.save_pretrained(tmp_path / "out")
    assert not (tmp_path / "out").exists()
    for name in (tmp_path / "none", "./none", "none", tmp_path / "a.safetensors"):
        with pytest.raises(FileNotFoundError):
            Predictor.from_pretrained(name)
    with pytest.raises(CheckpointError, match=r"best\.safetensors or model\.safetensors"):
        Predictor.from_pretrained(tmp_path)


class _Hub(BaseHTTPRequestHandler):
    """As much of the Hub's interface as one upload and one download need."""

    files: dict[str, bytes]
    commit = "0123456789abcdef0123456789abcdef01234567"

    def log_message(self, format: str, *args: object) -> None:
        """Print nothing."""

    def _answer(self, content: bytes, **headers: str) -> None:
        self.send_response(200)
        for name, text in {"Content-Length": str(len(content)), **headers}.items():
            self.send_header(name.replace("_", "-"), text)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        address = f"http://{self.headers['Host']}/someone/rectangles"
        answer: object = {}
        if self.path.endswith("/repos/create"):
            answer = {"url": address}
        elif "/preupload/" in self.path:
            files = json.loads(body)["files"]
            how = {"uploadMode": "regular", "shouldIgnore": False}
            answer = {"files": [{"path": each["path"], **how} for each in files]}
        elif "/commit/" in self.path:
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    value = line["value"]
                    self.files[value["path"]] = base64.b64decode(value["content"])
            url = f"{address}/commit/{self.commit}"
            answer = {"commitUrl": url, "commitOid": self.commit}
        self._answer(json.dumps(answer).encode(), Content_Type="application/json")

    def do_GET(self) -> None:
        name = self.path.rpartition("/")[2]
        is_known = self.path.startswith("/someone/rectangles/resolve/")
        if not is_known or name not in self.files:
            self.send_response(404)
            self.send_header("X-Error-Code", "EntryNotFound" if is_known else "RepoNotFound")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self._answer(self.files[name], ETag=f'"{name}"', X_Repo_Commit=self.commit)

    do_HEAD = do_GET


@pytest.fixture
def hub_server() -> Iterator[str]:
    """The address of a hub on this machine."""
    _Hub.files = {}
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Hub)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


# it reads the environment when it is loaded, and Albumentations has loaded it already
ANEW = """
for name in [name for name in sys.modules if name.startswith("huggingface_hub")]:
    del sys.modules[name]
"""


def test_upload_and_download(saved: Path, tmp_path: Path, hub_server: str) -> None:
    pytest.importorskip("huggingface_hub")

    def run_python(code: str, **variables: str) -> Result:
        given = {"HF_ENDPOINT": hub_server, "HF_HOME": str(tmp_path / "cache"), **variables}
        err = tmp_path / "errors.txt"
        return Fork(f"{ANEW}\nfrom plainunet import Predictor\n{code}", given, err=err).finish()

    load = "Predictor.from_pretrained('someone/rectangles', device='cpu')"
    push = f"Predictor.from_pretrained({str(saved)!r}).push_to_hub('someone/rectangles', token='x')"
    before = run_python(load, HF_HUB_OFFLINE="1")
    assert before.returncode == 1
    assert "FileNotFoundError: someone/rectangles: not downloaded yet" in before.stderr
    pushed = run_python(f"print({push})")
    assert pushed.stdout == f"{hub_server}/someone/rectangles/commit/{_Hub.commit}\n", pushed.stderr
    assert _Hub.files["model.safetensors"] == (saved / "model.safetensors").read_bytes()
    assert b"someone/rectangles" in _Hub.files["README.md"]
    assert "example.png" not in _Hub.files
    for variables in ({}, {"HF_HUB_OFFLINE": "1"}):  # the second time from the cache
        loaded = run_python(f"print({load}.card.threshold)", **variables)
        assert loaded.stdout == "0.5\n", loaded.stderr
    missing = run_python("Predictor.from_pretrained('someone/else')")
    assert missing.returncode == 1
    assert "\nFileNotFoundError: someone/else: " in missing.stderr
