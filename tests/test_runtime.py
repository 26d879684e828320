"""plainunet-runtime: the same command without PyTorch, and what it leaves out."""

import json
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import plainunet

from .folders import save
from .models import make_card, make_network

CHECKOUT = Path(__file__).parents[1]
RUNTIME = CHECKOUT / "runtime"
ABSENT = ("albumentations", "jinja2", "matplotlib", "safetensors", "scipy", "torch")
LARGEST = 400
"""Installed size that the runtime stays below [MB]."""
BLOCK = f"""
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {ABSENT}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name.split(".")[0])
sys.meta_path.insert(0, Absent())
"""
"""Python that behaves as if these libraries were not installed."""
needs_onnx = pytest.mark.skipif(
    not all(map(find_spec, ("onnx", "onnxruntime", "onnxscript"))),
    reason="onnx, onnxruntime or onnxscript is not installed",
)


Done = tuple[int, str, str]
"""Exit code, standard output and standard error."""


def run_python(code: str, *arguments: object) -> Done:
    words = [sys.executable, "-c", BLOCK + code, *map(str, arguments)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout, done.stderr


def run_commands(*commands: Sequence[object]) -> list[Done]:
    """Run some commands in one process without these libraries."""
    code = """
import contextlib, io, json
from plainunet.__main__ import _run
def run(words):
    sys.argv[1:] = words
    with (
        contextlib.redirect_stdout(io.StringIO()) as out,
        contextlib.redirect_stderr(io.StringIO()) as errors,
    ):
        code = _run()
    return code, out.getvalue(), errors.getvalue()
print(json.dumps([run(words) for words in json.loads(sys.argv[1])]))
"""
    given = json.dumps([[str(word) for word in words] for words in commands])
    code, out, errors = run_python(code, given)
    assert (code, errors) == (0, "")
    return [tuple(done) for done in json.loads(out)]


def project(folder: Path) -> dict[str, Any]:
    with (folder / "pyproject.toml").open("rb") as file:
        found: dict[str, Any] = tomllib.load(file)["project"]
    return found


def test_the_runtime_is_the_same_release_with_fewer_dependencies() -> None:
    whole, runtime = project(CHECKOUT), project(RUNTIME)
    assert (RUNTIME / "LICENSE").read_bytes() == (CHECKOUT / "LICENSE").read_bytes()
    for key in ("license", "requires-python", "classifiers", "scripts", "authors"):
        assert runtime[key] == whole[key], key
    own = {"onnx", "onnxruntime"}
    shared = [each for each in runtime["dependencies"] if re.split("[<>=]", each)[0] not in own]
    assert set(shared) <= set(whole["dependencies"])
    left_out = {re.split("[<>=]", each)[0] for each in set(whole["dependencies"]) - set(shared)}
    assert left_out == set(ABSENT)
    extras = whole["optional-dependencies"]
    for name, listed in runtime["optional-dependencies"].items():
        assert listed == extras.get(name, listed), name


def test_what_predicts_loads_without_pytorch() -> None:
    code = """
import importlib, pkgutil, plainunet
for module in pkgutil.walk_packages(plainunet.__path__, "plainunet."):
    try:
        module.name.endswith("__main__") or importlib.import_module(module.name)
    except ModuleNotFoundError as error:
        print(module.name, error.name)
"""
    _, out, errors = run_python(code)
    assert errors == ""
    failed = dict(line.split() for line in out.splitlines())
    assert set(failed.values()) <= {*ABSENT, "gradio"}
    packages = ("formats", "doctor", "prediction", "terminal", "cli", "config", "settings")
    loaded_by_predict = [name for name in failed if name.split(".")[1] in packages]
    assert loaded_by_predict == ["plainunet.prediction.torch_backend"]


def test_help_and_version_need_no_pytorch() -> None:
    version, *helps = run_commands(["--version"], ["--help"], ["predict", "--help"])
    assert version == (0, f"{plainunet.__version__}\n", "")
    for code, out, errors in helps:
        assert (code, errors) == (0, "")
        assert "predict" in out


def test_commands_that_need_pytorch_say_what_to_install(small_data: Path, tmp_path: Path) -> None:
    from plainunet.network.checkpoint import save_checkpoint

    save_checkpoint(tmp_path / "best.safetensors", make_network(), make_card())
    out = tmp_path / "out"
    commands = (
        ["predict", tmp_path / "best.safetensors", small_data / "images", "--out", out],
        ["train", small_data, "--out", out],
        ["evaluate", "model.onnx", small_data],
        ["compare", "a.onnx", "b.onnx", small_data],
        ["model"],
        ["demo", "--out", out],
        ["import", "weights.pth", "--out", out / "model.safetensors"],
    )
    for words, (code, _, errors) in zip(commands, run_commands(*commands), strict=True):
        assert code == 2, words
        assert errors.count("\n") == 1, words
        assert "plainunet-runtime" in errors, words
    assert not list(out.glob("*.*"))


def test_check_and_fix_need_no_pytorch(small_data: Path) -> None:
    for code, out, errors in run_commands(["check", small_data], ["fix", small_data]):
        assert code < 2
        assert out
        assert errors == ""


def test_both_distributions_in_one_environment_are_reported(tmp_path: Path) -> None:
    for name in ("plainunet", "plainunet_runtime"):
        info = tmp_path / f"{name}-{plainunet.__version__}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(
            f"Metadata-Version: 2.4\nName: {name}\nVersion: {plainunet.__version__}\n"
        )
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n"
    words = [
        sys.executable,
        "-c",
        f"{code}from plainunet.__main__ import main\nmain()",
        "--version",
    ]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == plainunet.__version__
    assert done.stderr.startswith("warning: ")
    assert "plainunet-runtime" in done.stderr


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A checkpoint, the same model as .onnx, and images beside."""
    from plainunet.network.checkpoint import save_checkpoint

    from .onnx_files import export

    save_checkpoint(tmp_path / "best.safetensors", make_network(), make_card(size=(48, 64)))
    random = np.random.default_rng(0)
    for number, (height, width) in enumerate([(48, 64), (101, 133), (300, 400)]):
        noise = random.integers(0, 256, (height // 4 + 1, width // 4 + 1, 3), np.uint8)
        smooth = Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC)
        save(tmp_path / "images" / f"{number}.png", np.asarray(smooth))
    export(tmp_path / "best.safetensors", tmp_path / "model.onnx")
    return tmp_path


def share_of_different_pixels(model: Path, masks: Path) -> float:
    """Compare the masks of a folder with those of the checkpoint."""
    from plainunet import Predictor

    predictor = Predictor.load(model / "best.safetensors", device="cpu", precision="fp32")
    different = total = 0
    for image in sorted((model / "images").iterdir()):
        expected = predictor.predict(np.asarray(Image.open(image)))
        found = np.asarray(Image.open(masks / image.name))
        assert len(np.unique(expected)) > 1
        different, total = different + int((found != expected).sum()), total + expected.size
    return different / total


@needs_onnx
@pytest.mark.filterwarnings("ignore")
def test_predicts_without_pytorch(model: Path) -> None:
    words = ["predict", model / "model.onnx", model / "images", "--out", model / "masks"]
    ((code, _, errors),) = run_commands(words)
    assert (code, errors) == (0, "")
    assert share_of_different_pixels(model, model / "masks") < 0.001


def installed_megabytes(environment: Path) -> float:
    """Size of the packages of a virtual environment [MB], without pip and compiled Python."""
    (packages,) = environment.glob("lib/python*/site-packages")
    left_out = ("pip", "setuptools", "__pycache__")
    files = [
        path
        for path in packages.rglob("*")
        if path.is_file()
        and not path.relative_to(packages).parts[0].startswith(left_out)
        and "__pycache__" not in path.parts
    ]
    return sum(path.stat().st_size for path in files) / 1e6


@pytest.mark.slow
@needs_onnx
@pytest.mark.timeout(900)
@pytest.mark.filterwarnings("ignore")
def test_a_real_environment_without_pytorch_predicts(model: Path) -> None:
    environment, masks = model / "venv", model / "masks"
    subprocess.run([sys.executable, "-m", "venv", environment], check=True)
    pip = [environment / "bin" / "python", "-m", "pip"]
    subprocess.run([*pip, "install", "--quiet", RUNTIME], check=True)
    listed = subprocess.check_output([*pip, "list", "--format", "freeze"], text=True).lower()
    names = {line.partition("==")[0] for line in listed.splitlines()}
    assert not names & {*ABSENT, "plainunet"}
    assert "plainunet-runtime" in names
    assert installed_megabytes(environment) < LARGEST
    variables = {name: text for name, text in os.environ.items() if name != "PYTHONPATH"}

    def command(*words: object) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [environment / "bin" / "plainunet", *map(str, words)],
            **{"cwd": model, "env": variables, "capture_output": True, "text": True},
            check=False,
        )

    done = command("predict", "model.onnx", "images", "--out", masks)
    assert (done.returncode, done.stderr) == (0, "")
    assert share_of_different_pixels(model, masks) < 0.001
    assert command("predict", "best.safetensors", "images", "--out", "other").returncode == 2
    assert command("train", "images", "--out", "run").returncode == 2
