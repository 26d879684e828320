"""The command line from outside: real processes, real signals, exit codes, what stands on disk.

The processes are forked (`forks.py`), since importing PyTorch takes longer than most of the
commands. Training is run in a fresh process as well.
"""

import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from PIL import Image

from plainunet.config import TrainConfig
from plainunet.settings import load_config

from .folders import draw_rectangles, save
from .forks import Fork, Result, fork_command

VERBS = ("check", "train", "crossval", "evaluate", "compare", "predict", "import", "model", "demo")


def tiny(**settings: object) -> list[str]:
    """Flags under which an epoch takes a fraction of a second, bit for bit repeatable."""
    flags = {"epochs": 1, "base_channels": 2, "depth": 2, "batch_size": 4, "workers": 0}
    flags |= {"device": "cpu"} | settings
    named = [f"--{name.replace('_', '-')}={value}" for name, value in flags.items()]
    return [*named, "--precision", "fp32", "--size", "32", "48"]


OBEY_MODES = f"""
import runpy
runpy.run_path({str(Path(__file__).with_name("unprivileged.py"))!r}, run_name="__main__")
"""
# PyTorch with CUDA takes several gigabytes of addresses for itself
LITTLE_MEMORY = """
import re, resource
from pathlib import Path
own = int(re.search("VmPeak:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])
resource.setrlimit(resource.RLIMIT_AS, ((own + 600_000) * 1024,) * 2)
"""


class Commands:
    """Runs `plainunet` with arguments, each time in a process of its own."""

    def __init__(self, err: Path) -> None:
        self._err = err

    def start(self, *arguments: str | Path, **options: str) -> Fork:
        return fork_command(*arguments, err=self._err, COLUMNS="100", **options)

    def __call__(self, *arguments: str | Path, **options: str) -> Result:
        """Run it to its end, with what is to be done in the process `first`."""
        return self.start(*arguments, **options).finish()


@pytest.fixture(scope="module")
def command(tmp_path_factory: pytest.TempPathFactory) -> Commands:
    if not hasattr(os, "fork"):
        pytest.skip("this system has no fork; the fresh processes are tested all the same")
    return Commands(tmp_path_factory.mktemp("commands") / "err")


class Trained(NamedTuple):
    data: Path
    run: Path
    checkpoint: Path
    said: str


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """Trained in a fresh process."""
    folder = tmp_path_factory.mktemp("trained")
    data, run = draw_rectangles(folder / "data"), folder / "run"
    flags = tiny(epochs=3, base_channels=4, batch_size=2, optimizer="muon", learning_rate=0.03)
    words = [sys.executable, "-m", "plainunet", "train", data, "--out", run, *flags]
    environment = {**os.environ, "COLUMNS": "100"}
    result = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
    assert (result.returncode, result.stderr) == (0, "")
    return Trained(data, run, run / "best.safetensors", result.stdout)


def listing(folder: Path) -> dict[str, str]:
    """Everything below a folder, with a digest of its content."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        if path.is_file()
        else "folder"
        for path in folder.rglob("*")
    }


def refused(result: Result, *said: str) -> None:
    """It ended as a user's mistake has to end, and the message says all of this."""
    assert result.returncode == 2, result.stderr
    assert "Traceback" not in result.stderr + result.stdout
    assert len(re.findall(r"^error: ", result.stderr, flags=re.MULTILINE)) == 1
    assert "pydantic" not in result.stderr  # nor other libraries' advice
    message = " ".join(result.stderr.split())
    for each in said:
        assert re.search(each, message), f"{each!r} is not in: {message}"


def test_a_model_from_training_to_its_masks(
    command: Commands, trained: Trained, tmp_path: Path
) -> None:
    """The scores are the counts of the written masks."""
    masks, scores = tmp_path / "masks", tmp_path / "new" / "scores.json"
    data, run, best, said = trained
    assert re.search(r"\b6 train.*\b2 val", said)
    assert str(best) in said
    assert {file.name for file in run.iterdir()} == {
        *("best.safetensors", "last", "config.toml", "dataset.toml", "split.csv", "metrics.jsonl"),
        *("metrics.csv", "curves.png", "validation", "saved_images", "report.html"),
    }

    precise = ("--precision", "fp32")
    result = command("evaluate", best, data, *precise, "--split", "all", "--json", scores)
    assert result.returncode == 0, result.stderr
    found = json.loads(scores.read_text(encoding="utf-8"))
    assert "docs/metrics.md" in result.stdout
    assert f"{found['pooled']['accuracy']:.4f}" in result.stdout

    result = command("predict", best, data / "images", "--out", masks, *precise)
    assert result.returncode == 0, result.stderr
    assert "8 masks" in result.stdout
    confusion = np.zeros((2, 2), int)
    for file in sorted((data / "masks").iterdir()):
        with Image.open(masks / file.name) as image, Image.open(file) as truth:
            assert (image.mode, image.size) == ("P", truth.size)
            np.add.at(confusion, (np.asarray(truth) // 255, np.asarray(image)), 1)
    assert found["pooled"]["accuracy"] == pytest.approx(confusion.trace() / (8 * 48 * 64))
    assert found["pooled"]["dice"]["per_class"]["foreground"] == pytest.approx(
        2 * confusion[1, 1] / (confusion[1].sum() + confusion[:, 1].sum())
    )
    assert [Path(entry["image"]).name for entry in found["images"]] == sorted(
        path.name for path in masks.glob("*.png")
    )


def test_without_a_verb_all_are_listed(command: Commands) -> None:
    result = command()
    assert (result.returncode, result.stderr) == (0, "")
    assert {"train", "predict", "export"} <= set(re.findall(r"│ (\w+)", result.stdout))


def test_help_comes_without_torch() -> None:
    """In one process, so that each verb's own imports would show."""
    code = (
        "import sys\n"
        "from plainunet.__main__ import main\n"
        f"for verb in ('', *{VERBS!r}):\n"
        "    sys.argv = ['plainunet', *([verb] if verb else []), '--help']\n"
        "    try:\n"
        "        main()\n"
        "    except SystemExit as stop:\n"
        "        print('code', stop.code)\n"
        "heavy = {'torch', 'albumentations', 'jinja2', 'matplotlib', 'scipy', 'cv2'}\n"
        "heavy.add('safetensors')\n"
        "print('loaded', sorted(heavy & set(sys.modules)))\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout.count("code 0") == 1 + len(VERBS)
    assert result.stdout.count("Usage: plainunet") == 1 + len(VERBS)
    assert result.stdout.splitlines()[-1] == "loaded []"
    assert result.stderr == ""
    for field in TrainConfig.model_fields:
        assert f"--{field.replace('_', '-')} " in result.stdout


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_demo(command: Commands, tmp_path: Path) -> None:
    result = command("demo", "--out", tmp_path / "demo")
    assert result.returncode == 0, result.stderr
    score = re.search(r"Mean foreground Dice (0\.\d+) \(pooled\) on 40 held-out", result.stdout)
    assert score
    assert float(score[1]) >= 0.90
    opened = re.search(r"Open (.+_comparison\.png):", result.stdout)
    assert opened
    assert Path(opened[1]).is_file()
    assert len(list((tmp_path / "demo" / "masks").glob("*.png"))) == 40
    assert len(load_config(tmp_path / "demo" / "run" / "config.toml").classes) == 3
    served = tmp_path / "demo" / "run" / "best.safetensors"
    assert result.stdout.splitlines()[-1].endswith(f": plainunet serve {served} --ui")


@pytest.mark.slow
def test_a_stopped_demo_is_run_again(tmp_path: Path) -> None:
    out = tmp_path / "demo"
    words = [sys.executable, "-m", "plainunet", "demo", "--out", out]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(words, stderr=subprocess.PIPE, text=True, env=env) as process:
        while not (out / "run" / "config.toml").exists():
            assert process.poll() is None
            time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        assert process.stderr is not None
        shown = process.stderr.read()
    assert process.returncode == 130
    assert shown.endswith(f"To run it from the start: plainunet demo --out {out}\n")
    assert "--resume" not in shown


@pytest.mark.skipif(find_spec("gradio") is not None, reason="Gradio is installed")
def test_the_page_needs_gradio(command: Commands, tmp_path: Path) -> None:
    for words in (
        ("serve", "model.safetensors", "--ui"),
        ("demo", "--serve", "--out", tmp_path / "demo"),
    ):
        result = command(*words)
        assert result.returncode == 2
        assert "pip install" in result.stderr
        assert "gradio" in result.stderr
    assert not (tmp_path / "demo").exists()


# settings


def test_flags_win_over_the_file(command: Commands, trained: Trained, tmp_path: Path) -> None:
    file = tmp_path / "settings.toml"
    file.write_text(
        'epochs = 7\nbudget = "30m"\nbase_channels = 3\nsize = [24, 32]\nseed = 5\n'
        'classes = ["a", "b"]\n'
        'depth = 2\nprecision = "fp32"\nlearning_rate = 0.5\n'
    )
    # a list ends where the next option begins; 0.002 is the default, and wins all the same; a
    # budget would decide the number of epochs
    flags = ("--classes", "street", "car", "--size", "32", "48", "--epochs", "1")
    flags = (*flags, "--learning-rate", "0.002")
    result = command("train", trained.data, "--config", file, *flags, "--out", tmp_path / "run")
    assert result.returncode == 0, result.stderr
    assert load_config(tmp_path / "run" / "config.toml") == TrainConfig(
        epochs=1,
        size=(32, 48),  # height, then width
        learning_rate=0.002,
        base_channels=3,
        seed=5,
        classes=("street", "car"),
        depth=2,
        precision="fp32",
    )
    assert len((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()) == 1


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("train DATA --size 32 48 stray --out RUN", ["stray"]),
        ("train DATA --epochs 1 2 --out RUN", ["2"]),
        ("train DATA --size 32 48 64 --out RUN", ["64"]),
        ("train DATA --epoch 1 --out RUN", ["--epoch\\b", "(?i)did you mean"]),
        ("train DATA --epochs many --out RUN", ["epochs", "many", "integer"]),
        ("train DATA --epochs 0 --out RUN", ["epochs", "equal to 1"]),
        ("train DATA --held-out --epochs 1 --out RUN", ["--held-out", "name"]),
        ("train DATA --loss tversky --out RUN", ["loss", "tversky", "dice"]),
        ("train DATA --config TOML --out RUN", [r"settings\.toml", "did you mean 'epochs'"]),
        ("train DATA --config NONE --out RUN", [r"none\.toml", "no such"]),
        ("train DATA --out", ["--out"]),
        ("train DATA stray --out RUN", ["stray"]),
        ("train DATA", ["train DATA --out RUN"]),
        ("train --out RUN", ["train DATA --out RUN"]),
        ("evaluate best.safetensors", ["DATA"]),
        ("evaluate a b --split validation", ["--split: ", "Did you mean 'val'"]),
        ("predict a --out b", ["IMAGES"]),
        ("predict a b", ["plainunet predict CHECKPOINT IMAGES --out OUT"]),
        ("tarin DATA", ["tarin", "(?i)did you mean.*train"]),
        ("demo stray", ["stray"]),
    ],
)
def test_a_wrong_command_line_is_refused(
    command: Commands, trained: Trained, tmp_path: Path, line: str, said: list[str]
) -> None:
    toml = tmp_path / "settings.toml"
    toml.write_text("epoch = 3\n")
    places = {"DATA": trained.data, "RUN": tmp_path / "run", "TOML": toml}
    places["NONE"] = tmp_path / "none.toml"
    refused(command(*(places.get(each, each) for each in line.split())), *said)
    assert [*listing(tmp_path)] == ["settings.toml"]


# data that cannot be trained on


def no_masks(data: Path) -> None:
    for file in (data / "masks").iterdir():
        file.unlink()


def missing_folder(data: Path) -> None:
    shutil.rmtree(data)


def other_size(data: Path) -> None:
    Image.new("L", (60, 50)).save(data / "masks" / "3.png")


def truncated_jpeg(data: Path) -> None:
    file = data / "images" / "3.jpg"
    Image.open(data / "images" / "3.png").save(file, quality=95)
    (data / "images" / "3.png").unlink()
    content = file.read_bytes()
    file.write_bytes(content[: len(content) // 2])


def stray_value(data: Path) -> None:
    mask = np.asarray(Image.open(data / "masks" / "3.png")).copy()
    mask[7, 9] = 7
    Image.fromarray(mask).save(data / "masks" / "3.png")


@pytest.mark.parametrize("verb", ["train", "evaluate"])
@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (other_size, [r"masks/3\.png is 60x50", r"images/3\.png is 64x48"]),
        (truncated_jpeg, [r"images/3\.jpg is cut off"]),
        (stray_value, ["7", r"masks/3\.png"]),
        (no_masks, ["images"]),
        (missing_folder, ["small does not exist"]),
    ],
)
def test_bad_data_is_refused_before_anything_is_written(
    command: Commands,
    trained: Trained,
    small_data: Path,
    verb: str,
    spoil: Callable[[Path], None],
    said: list[str],
) -> None:
    spoil(small_data)
    folder = small_data.parent
    before = listing(folder)
    # of the training folder, only the validation part would be evaluated
    words = ["--split", "all", "--json", folder / "a.json"]
    if verb == "evaluate":
        result = command("evaluate", trained.checkpoint, small_data, *words)
    else:
        result = command("train", small_data, "--out", folder / "run", *tiny())
    refused(result, *said)
    assert listing(folder) == before


# files that are not what they should be, and places that cannot be written to


def test_a_loss_that_explodes_says_what_to_do(
    command: Commands, trained: Trained, tmp_path: Path
) -> None:
    flags = tiny(epochs=3, learning_rate=1e30, optimizer="adam")
    refused(
        command("train", trained.data, "--out", tmp_path / "run", *flags),
        "astray|not finite",
        "smaller --learning-rate",
    )


@pytest.mark.parametrize("content", [b"not a network", None])
def test_a_checkpoint_that_is_not_ours(
    command: Commands, trained: Trained, tmp_path: Path, content: bytes | None
) -> None:
    path = tmp_path / "their.safetensors"
    if content:
        path.write_bytes(content)
    before = listing(tmp_path)
    said = [r"their\.safetensors", *([r"best\.safetensors"] if content else [])]
    refused(command("evaluate", path, trained.data, "--json", tmp_path / "scores.json"), *said)
    refused(command("predict", path, trained.data / "images", "--out", tmp_path / "masks"), *said)
    assert listing(tmp_path) == before


@pytest.mark.parametrize("way", ["below a file", "without permission"])
@pytest.mark.parametrize("verb", ["train", "predict", "evaluate", "demo"])
def test_an_output_that_cannot_be_written(
    command: Commands, trained: Trained, tmp_path: Path, verb: str, way: str
) -> None:
    out = tmp_path / "closed" / "out"
    if way == "below a file":
        out.parent.write_text("in the way")
    else:
        out.parent.mkdir(mode=0o555)
    commands = {
        "train": ("train", trained.data, "--out", out, *tiny()),
        "predict": ("predict", trained.checkpoint, trained.data / "images", "--out", out),
        "evaluate": ("evaluate", trained.checkpoint, trained.data, "--json", out / "scores.json"),
        "demo": ("demo", "--out", out),
    }
    before = listing(tmp_path)
    refused(command(*commands[verb], first=OBEY_MODES), "closed", "(?i)another|permission")
    assert listing(tmp_path) == before


def test_a_device_or_a_part_that_is_not_there(
    command: Commands, trained: Trained, tmp_path: Path
) -> None:
    absent = "mps" if sys.platform == "linux" else "cuda"
    result = command("train", trained.data, "--out", tmp_path / "run", "--device", absent)
    refused(result, f"device {absent}", "auto, cpu")
    assert listing(tmp_path) == {}
    result = command("evaluate", trained.checkpoint, trained.data, "--split", "test")
    refused(result, "'test'", "--split all")


def test_a_model_is_tuned_and_reported(command: Commands, trained: Trained, tmp_path: Path) -> None:
    shutil.copytree(trained.run, tmp_path / "run")
    best, page = tmp_path / "run" / "best.safetensors", tmp_path / "pages" / "report.html"
    before = best.read_bytes()
    result = command("evaluate", best, trained.data, "--tune", "--objects", "--html", page)
    assert result.returncode == 0, result.stderr
    copy = best.with_name("best-tuned.safetensors")
    assert str(copy) in result.stdout
    assert str(copy) in page.read_text(encoding="utf-8"), "the copy is evaluated"
    assert (copy.exists(), best.read_bytes()) == (True, before)
    assert len(result.stdout.partition(f"{copy}\n")[2].splitlines()) <= 24
    assert "objects, per image" in result.stdout
    assert str(page) in result.stdout
    assert "Dice per image" in page.read_text(encoding="utf-8")
    # it is written anew, and what is no report stays
    assert command("evaluate", best, trained.data, "--html", page).returncode == 0
    page.write_text("a letter")
    refused(command("evaluate", best, trained.data, "--html", page), str(page))
    assert page.read_text() == "a letter"


def test_two_models_are_compared(command: Commands, trained: Trained, tmp_path: Path) -> None:
    models = trained.checkpoint, trained.checkpoint
    out, scores = tmp_path / "out", tmp_path / "scores.json"
    result = command("compare", *models, trained.data, "--out", out, "--json", scores)
    assert result.returncode == 0, result.stderr
    assert "+0.0000 to +0.0000" in result.stdout
    assert len(list(out.glob("*.png"))) == 2
    found = json.loads(scores.read_text())
    assert found["scores"]["pooled"]["dice"]["difference"] == 0
    assert "protocol" in found  # by which the command knows its own files
    refused(command("compare", *models, trained.data, "--out", out), "is not empty")


def test_prediction_goes_on_past_what_it_cannot_read(
    command: Commands, trained: Trained, small_data: Path, tmp_path: Path
) -> None:
    truncated_jpeg(small_data)
    masks = tmp_path / "masks"
    result = command("predict", trained.checkpoint, small_data / "images", "--out", masks)
    assert result.returncode == 1
    assert re.search(r"error: \S+3\.jpg is cut off.*Copy it again", result.stderr)
    assert "Traceback" not in result.stderr
    assert "7 masks" in result.stdout
    assert "1 failed" in result.stdout
    wanted = [f"{number}.png" for number in range(8) if number != 3]
    assert sorted(listing(masks)) == [*wanted, "prediction.json"]

    bad = small_data / "images" / "3.jpg"
    refused(command("predict", trained.checkpoint, bad, "--out", tmp_path / "other"), r"3\.jpg")
    assert not (tmp_path / "other").exists()
    nowhere = tmp_path / "nowhere.png"
    result = command("predict", trained.checkpoint, nowhere, "--out", tmp_path / "third")
    refused(result, r"nowhere\.png does not exist")
    assert not (tmp_path / "third").exists()


def test_outputs_and_settings_of_prediction(
    command: Commands, trained: Trained, tmp_path: Path
) -> None:
    masks, listed = tmp_path / "masks", tmp_path / "list.txt"
    pictures = sorted((trained.data / "images").iterdir())[:3]
    listed.write_text("\n".join(map(str, pictures)))
    arguments = (
        "predict", trained.checkpoint, listed, "--out", masks, "--save", "overlay", "rle-rows",
        "--save", "areas", "--tta", "mirror", "--scales", "1", "0.5",
        "--min-object", "5", "--fill-holes", "5", "--ensemble", trained.checkpoint,
    )  # fmt: skip
    result = command(*arguments)
    assert result.returncode == 0, result.stderr
    assert {name for name in listing(masks) if "/" not in name} == {
        "overlay", "areas.csv", "rle-rows.csv", "prediction.json",
        *(f"{picture.stem}.png" for picture in pictures),
    }  # fmt: skip
    said = json.loads((masks / "prediction.json").read_text(encoding="utf-8"))
    assert (said["tta"], said["scales"], said["min_object"]) == ("mirror", [1.0, 0.5], 5)
    result = command("predict", trained.checkpoint, "-", "--out", tmp_path / "2", stdin=str(listed))
    assert result.returncode == 0, result.stderr
    assert len(list((tmp_path / "2").glob("*.png"))) == 3
    again = command(*arguments)
    assert (again.returncode, ", 3 " in again.stdout) == (0, True)
    refused(command(*arguments, "--threshold", "0.6"), str(masks), "--overwrite")
    refused(command(*arguments[:5], "--save", "film"), "film", "overlay")
    refused(command(*arguments[:5], "--tta", "spin"), "spin", "mirror")
    refused(command(*arguments[:5], "--threshold", "2"), "threshold")


# going on


def test_a_folder_with_a_run_in_it_is_refused(command: Commands, trained: Trained) -> None:
    before = listing(trained.run)
    refused(
        command("train", trained.data, "--out", trained.run, *tiny()),
        f"{trained.run}: ",
        f"plainunet train --resume {trained.run}",
        "another --out",
    )
    assert listing(trained.run) == before


def test_resuming_takes_the_run_and_nothing_else(
    command: Commands, trained: Trained, tmp_path: Path
) -> None:
    for more in ([trained.data], ["--out", tmp_path / "run"], ["--epochs", "3"]):
        refused(command("train", *more, "--resume", trained.run), "--resume")
    refused(command("train", "--resume", tmp_path), str(tmp_path), "no run to resume", "--out")
    assert listing(tmp_path) == {}


def test_an_interrupted_run_ends_quietly(
    command: Commands, trained: Trained, tmp_path: Path
) -> None:
    process = command.start("train", trained.data, "--out", tmp_path / "run", *tiny(epochs=500))
    process.wait_for("epoch +1 ")
    os.kill(process.pid, signal.SIGINT)
    result = process.finish()
    assert result.returncode == 130
    assert "Traceback" not in result.stderr
    assert "--resume" in result.stderr
    assert [name for name in listing(tmp_path) if Path(name).name.startswith(".")] == []


# other people's weights


def foreign_weights(in_channels: int = 3) -> dict[str, torch.Tensor]:
    """A U-Net of 4 channels and depth 1 with a head of one, as milesial/Pytorch-UNet keeps it."""
    torch.manual_seed(0)
    state = {"up1.up.weight": torch.randn(8, 4, 2, 2), "up1.up.bias": torch.randn(4)}
    parts = {"inc": (in_channels, 4), "down1.maxpool_conv.1": (4, 8), "up1.conv": (8, 4)}
    for part, (before, after) in parts.items():
        for number, channels in ((0, before), (3, after)):
            key = f"{part}.double_conv"
            state[f"{key}.{number}.weight"] = torch.randn(after, channels, 3, 3) / 4
            for name, value in (("weight", 1.0), ("bias", 0.0), ("running_var", 1.0)):
                state[f"{key}.{number + 1}.{name}"] = torch.full((after,), value)
            state[f"{key}.{number + 1}.running_mean"] = torch.zeros(after)
    return {**state, "outc.conv.weight": torch.randn(1, 4, 1, 1), "outc.conv.bias": torch.zeros(1)}


def test_imported_weights_are_judged_and_used(
    command: Commands, small_data: Path, tmp_path: Path
) -> None:
    torch.save({**foreign_weights(), "mask_values": [0, 255]}, tmp_path / "theirs.pth")
    ours, masks = tmp_path / "ours.safetensors", tmp_path / "masks"
    result = command(
        "import", tmp_path / "theirs.pth", "--out", ours, "--classes", "ground, car",
        "--size", "24", "32",
    )  # fmt: skip
    assert (result.returncode, result.stderr) == (0, "")
    for said in (
        *("milesial/Pytorch-UNet", "3 input channels", "4 base channels", "depth 1"),
        *("transposed upsampling", "1,754 parameters", "ground, car", str(ours)),
    ):
        assert said in result.stdout
    scores = tmp_path / "scores.json"
    result = command("evaluate", ours, small_data, "--precision", "fp32", "--json", scores)
    assert result.returncode == 0, result.stderr
    judged = json.loads(scores.read_text(encoding="utf-8"))
    assert (judged["split"], len(judged["images"])) == ("all", 8)
    assert judged["pooled"]["dice"]["per_class"].keys() == {"ground", "car"}
    result = command("predict", ours, small_data / "images", "--out", masks)
    assert result.returncode == 0, result.stderr
    assert len(list(masks.glob("*.png"))) == 8


def test_masks_are_read_by_the_imported_values(command: Commands, tmp_path: Path) -> None:
    """Values that explain themselves to nobody, or otherwise: 255 would be ignored beside 0, 1."""
    data = draw_rectangles(tmp_path / "data", images=2)
    for file in (data / "masks").iterdir():
        mask = np.asarray(Image.open(file)).copy()
        mask[:3] = 1
        Image.fromarray(mask).save(file)
    theirs = foreign_weights()
    theirs |= {"outc.conv.weight": torch.zeros(3, 4, 1, 1), "outc.conv.bias": torch.arange(3.0)}
    torch.save({**theirs, "mask_values": [0, 1, 255]}, tmp_path / "theirs.pth")
    ours, scores = tmp_path / "ours.safetensors", tmp_path / "scores.json"
    assert command("import", tmp_path / "theirs.pth", "--out", ours).returncode == 0
    result = command("evaluate", ours, data, "--json", scores)
    assert result.returncode == 0, result.stderr
    # every pixel is predicted to be class 2, and 16 x 28 of 48 x 64 are
    judged = json.loads(scores.read_text(encoding="utf-8"))
    assert judged["pooled"]["accuracy"] == pytest.approx(16 * 28 / (48 * 64))


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("nothing.pth --out a.safetensors", ["nothing.pth: no such file"]),
        ("theirs.pth --out a.pth", ["a.pth", "must end in .safetensors"]),
        ("theirs.pth --out there.safetensors", ["there.safetensors already exists"]),
        ("theirs.pth --out a.safetensors --classes car", ["1 names", "2 classes"]),
        ("theirs.pth --out a.safetensors --size 1 40", ["--size 1 40", "2 to 16384 pixels"]),
        ("there.safetensors --out a.safetensors", ["there.safetensors", "damaged"]),
        ("theirs.pth", ["--out"]),
    ],
)
def test_weights_that_cannot_be_imported(
    command: Commands, tmp_path: Path, line: str, said: list[str]
) -> None:
    torch.save(foreign_weights(), tmp_path / "theirs.pth")
    (tmp_path / "there.safetensors").write_text("precious")
    before = listing(tmp_path)
    paths = [str(tmp_path / each) if "." in each else each for each in line.split()]
    refused(command("import", *paths), *said)
    assert listing(tmp_path) == before


# a network without a picture


def table_row(result: Result, name: str) -> str:
    """A line of the table of stages, with single spaces."""
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    lines = [" ".join(line.split()) for line in result.stdout.splitlines()]
    return next(line for line in lines if line.startswith(f"{name} "))


def test_the_papers_network_is_shown(command: Commands) -> None:
    result = command("model", "--paper")
    assert table_row(result, "image").endswith("1 x 572 x 572 logits 2 x 388 x 388")
    assert table_row(result, "head").endswith(" 188-204")
    assert table_row(result, "total").startswith("total 31,030,658 ")
    assert "\x1b" not in result.stdout


def test_a_checkpoint_is_shown_at_its_own_size(command: Commands, trained: Trained) -> None:
    before = listing(trained.run)
    result = command("model", trained.checkpoint)
    assert "classes: background, foreground" in result.stdout
    assert table_row(result, "image").startswith("image 3 x 32 x 48 ")
    assert table_row(result, "down 2").startswith("down 2 16 x 8 x 12 ")
    larger = command("model", trained.checkpoint, "--size", "64", "96", "--checkpointing")
    assert table_row(larger, "down 2").startswith("down 2 16 x 16 x 24 ")
    kept = [float(table_row(each, "total").split()[-2]) for each in (result, larger)]
    assert kept[1] < 2 * kept[0]  # of four times as many pixels
    assert listing(trained.run) == before


def test_a_network_of_ones_own_is_shown(command: Commands) -> None:
    flags = [
        *("--in-channels=4", "--num-classes=5", "--base-channels=8", "--depth=2"),
        *("--normalisation=group", "--upsampling=bilinear", "--residual", "--attention"),
        *("--deep-supervision", "--dropout=0.1", "--checkpointing", "--size", "64", "48"),
    ]
    result = command("model", *flags)
    assert table_row(result, "image").startswith("image 4 x 64 x 48 ")
    assert table_row(result, "head of up 1").startswith("head of up 1 5 x 32 x 24 45 ")
    assert table_row(result, "head").endswith(" whole")


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ("--paper --depth 4", " --depth."),
        ("none.safetensors", "none.safetensors: "),
        ("none.safetensors --paper --valid", "--paper, --valid"),
        ("--size 15 240", "16 x 240"),
        ("--valid --size 572 570", "width .* 556 or 572"),
        (f"--size 160 {'9' * 30}", "1048576"),
        ("--valid --deep-supervision", "--deep-supervision: needs padded .*leave out valid"),
    ],
)
def test_what_is_no_network_is_refused(command: Commands, flags: str, said: str) -> None:
    refused(command("model", *flags.split()), said)


def test_a_checkpoint_is_not_overwritten_by_other_results(
    command: Commands, trained: Trained, tmp_path: Path
) -> None:
    path, before = trained.checkpoint, trained.checkpoint.read_bytes()
    refused(command("evaluate", path, tmp_path, "--json", path), "name must end in .json")
    (tmp_path / "folder.json").mkdir()
    refused(command("evaluate", path, tmp_path, "--json", tmp_path / "folder.json"), "is a folder")
    refused(command("model", tmp_path), "is a folder")
    assert path.read_bytes() == before


@pytest.mark.parametrize("verb", ["evaluate a.safetensors", "compare a b", "crossval --out cv"])
def test_annotations_are_not_overwritten_by_scores(
    command: Commands, tmp_path: Path, verb: str
) -> None:
    path = tmp_path / "annotations.json"
    path.write_text('{"images": [], "annotations": []}')
    result = command(*verb.split(), tmp_path, "--json", path)
    refused(result, r"annotations\.json: exists, and was not made by this command")
    path.write_text('{"protocol": "of earlier scores"}')
    assert "annotations.json" not in command(*verb.split(), tmp_path, "--json", path).stderr


@pytest.mark.skipif(sys.platform != "linux", reason="memory is limited as on Linux")
def test_a_lack_of_memory_has_a_cure(command: Commands, trained: Trained, tmp_path: Path) -> None:
    flags = ("--base-channels=1024", "--depth=6", "--normalisation=none", "--size", "128", "128")
    refused(
        command("train", trained.data, "--out", tmp_path / "run", *flags, first=LITTLE_MEMORY),
        *("out of memory", "smaller --batch-size, --size or --base-channels"),
    )


def test_coloured_masks_in_a_folder_of_another_name(
    command: Commands, small_data: Path, tmp_path: Path
) -> None:
    for file in (small_data / "masks").iterdir():
        inside = np.asarray(Image.open(file)) > 0
        colours = np.where(inside[..., None], [200, 30, 60], [0, 0, 90]).astype(np.uint8)
        colours[0, 0] = (255, 255, 255)  # outside the legend
        save(small_data / "colours" / file.name, colours)
    run, where = tmp_path / "run", ("--images", "images", "--masks", "colours")
    result = command(
        "train", small_data, "--out", run, *tiny(), *where, "--colors", "00005a", "c81e3c"
    )
    assert result.returncode == 0, result.stderr
    assert "outside the legend" in " ".join(result.stdout.split())
    result = command("evaluate", run / "best.safetensors", small_data, *where)
    assert result.returncode == 0, result.stderr
    command("predict", run / "best.safetensors", small_data / "images", "--out", tmp_path / "out")
    with Image.open(next((tmp_path / "out").iterdir())) as mask:
        assert mask.getpalette()[:6] == [0, 0, 90, 200, 30, 60]  # the legend's colours


# check


@pytest.fixture
def valid(small_data: Path) -> Path:
    """Nothing is wrong with it: of two equal masks that chance has drawn, one is taken out."""
    (small_data / "images" / "6.png").unlink()
    (small_data / "masks" / "6.png").unlink()
    return small_data


def spoil(folder: Path) -> None:
    """Two errors and a warning: a cut-off picture, a missing mask, an empty mask."""
    picture = folder / "images" / "0.png"
    picture.write_bytes(picture.read_bytes()[:-30])
    (folder / "masks" / "1.png").unlink()
    Image.new("L", (64, 48)).save(folder / "masks" / "2.png")


def test_a_valid_folder_is_checked_and_the_recommended_line_trains(
    command: Commands, valid: Path, tmp_path: Path
) -> None:
    files = ("--json", tmp_path / "a.json", "--html", tmp_path / "a.html")
    result = command("check", valid, *files)
    assert result.returncode == 0, result.stderr
    for said in ("7 valid pairs in 7 groups", "64x48 (7) pixels; RGB; uint8; png", "no findings"):
        assert said in result.stdout
    content = json.loads((tmp_path / "a.json").read_text())
    assert set(content) == {"data", "findings", "summary", "notes"}
    assert content["summary"]["pairs"] == 7
    assert (tmp_path / "a.html").read_text().count("<figure>") == 7
    *_, line = lines = command("check", valid).stdout.strip().splitlines()
    flags = [each.split()[1] for each in lines if each.startswith("recommended: ")]
    assert flags == ["--size", "--augment", "--normalisation", "--class-weights"]
    assert line == f"plainunet train {valid} --out runs/small"
    words = line.replace("runs/small", str(tmp_path / "run")).split()[1:]
    assert command(*words, "--base-channels", "2", "--epochs", "1").returncode == 0


def test_exit_codes_of_check(command: Commands, valid: Path, tmp_path: Path) -> None:
    Image.new("L", (64, 48)).save(valid / "masks" / "2.png")
    result = command("check", valid)
    assert (result.returncode, "warning: empty-mask (1)" in result.stdout) == (1, True)
    spoil(valid)
    result = command("check", valid)
    assert result.returncode == 2
    assert "error: cut-off (1)" in result.stdout
    assert f"$ plainunet check {valid} --write" in result.stdout
    assert "2 errors, 1 warning" in result.stdout
    # no advice on how to train before it can be
    assert "plainunet train" not in result.stdout
    result = command("check", tmp_path / "none")
    assert (result.returncode, "error: no-data" in result.stdout) == (2, True)
    result = command("check", valid, "--values", "0,1", "--colors", "ff0000,00ff00")
    assert (result.returncode, "one of the two" in result.stdout) == (2, True)


def test_check_writes_what_training_reads(command: Commands, valid: Path, tmp_path: Path) -> None:
    spoil(valid)
    refused(
        command("train", valid, "--out", tmp_path / "run", *tiny()),
        "2 problems with the data",
        r"images/0\.png is cut off",
        r"images/1\.png has no mask",
        f"plainunet check {valid}",
    )
    result = command("check", valid, "--write", "--leave-out", "empty-mask")
    assert result.returncode == 0, result.stdout
    assert "1 valid pairs left out" in result.stdout
    assert "checked again: 0 errors, 0 warnings" in result.stdout
    done = command("train", valid, "--out", tmp_path / "run", *tiny())
    assert done.returncode == 0, done.stderr
    assert "4 pairs" in done.stdout


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ("--leave-out shifted", "--write"),
        ("--write --leave-out shiftet", "did you mean 'shifted'"),
        ("--json a.txt", r"must end in \.json"),
        ("--html a.json", r"must end in \.html"),
        ("--wrong", "wrong"),
    ],
)
def test_a_wrong_check_is_refused(command: Commands, valid: Path, flags: str, said: str) -> None:
    before = listing(valid)
    refused(command("check", valid, *flags.split()), said)
    assert listing(valid) == before


def test_names_that_are_not_utf8_can_be_printed(
    command: Commands, valid: Path, tmp_path: Path
) -> None:
    name = b"caf\xe9.png".decode(errors="surrogateescape")
    for folder in ("images", "masks"):
        (valid / folder / "3.png").rename(valid / folder / name)
    files = ("--json", tmp_path / "a.json", "--html", tmp_path / "a.html")
    result = command("check", valid, *files)
    assert result.returncode == 1, result.stderr
    assert r"caf\xe9.png" in result.stdout
    assert json.loads((tmp_path / "a.json").read_text())["findings"][0]["code"] == "name-not-utf8"
    result = command("check", valid, "--write")
    assert "written" in result.stdout, result.stderr


@pytest.mark.parametrize(
    ("given", "named"),
    [
        (["--lr", "x"], "--learning-rate"),
        (["--batch=x"], "--batch-size"),
        (["--batch_size", "x"], "--batch-size"),
        (["--imgsz", "0", "--epochs", "x"], "--epochs"),
        (["--gradient-accumulation-steps", "x"], "--gradient-accumulation"),
        (["--ignore-index", "x"], "--ignore"),
        (["--early-stopping", "x"], "--patience"),
        (["--amp", "x"], "--precision"),
        (["--amp", "--epochs", "x"], "--epochs"),  # a switch elsewhere
        (["--no-amp", "--epochs", "x"], "--epochs"),
        (["--device", "0", "--epochs", "x"], "--epochs"),
        (["--device=cuda:0", "--epochs", "x"], "--epochs"),
        (["--device", "cuda:1"], r"--device .*CUDA_VISIBLE_DEVICES=1\b"),
        (["--weights", "x"], r"unknown option: --weights\b.*--pretrained\b"),
    ],
)
def test_flags_of_other_tools_lead_to_ours(command: Commands, given: list[str], named: str) -> None:
    refused(command("train", "data", "--out", "run", *given), f"^error: {named}")


def test_wrong_values_are_those_of_a_flag(command: Commands, tmp_path: Path) -> None:
    (tmp_path / "best.safetensors").touch()
    line = ("export", tmp_path / "best.safetensors", "--out", "model.tflite")
    refused(command(*line), r"^error: --out: expected .*\.onnx.*but got 'model\.tflite'")


@pytest.mark.parametrize(
    ("line", "usage"),
    [
        ("train --data x --out y", "train DATA"),
        ("check --dataset x", "check DATA"),
        ("evaluate --weights x y", "evaluate CHECKPOINT DATA"),
        ("predict --model x --source y --out z", "predict CHECKPOINT IMAGES --out OUT"),
    ],
)
def test_flags_that_are_arguments_here(command: Commands, line: str, usage: str) -> None:
    refused(command(*line.split()), line.split()[1], f"plainunet {usage}")


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("predict x y", "error: --out is missing. Usage"),
        ("predict x y --out", "error: --out needs a value. Usage"),
        ("serve x y", "error: unexpected argument: y. Usage"),
        (
            "predict x y --out z --save overlays",
            "error: --save: 'overlays'.* Did you mean 'overlay'",
        ),
    ],
)
def test_what_is_wrong_with_a_line_is_said_plainly(command: Commands, line: str, said: str) -> None:
    refused(command(*line.split()), f"^{said}")


def test_a_switch_of_other_tools_is_test_time_augmentation(command: Commands) -> None:
    refused(command("predict", "nowhere", "images", "--tta", "--out", "masks"), "^error: nowhere")


@pytest.mark.parametrize(
    ("given", "proposed"),
    [("--ignor", "--ignore"), ("--batchsize", "--batch-size"), ("--foo", None), ("--opt3", None)],
)
def test_only_a_similar_flag_is_proposed(
    command: Commands, given: str, proposed: str | None
) -> None:
    result = command("train", "data", "--out", "run", given, "1")
    refused(result, given)
    assert re.findall(r"--[a-z-]+", result.stderr)[1:] == [proposed or "--help"]


@pytest.mark.parametrize("given", [["--imgsz", "48"], ["--size=48"], ["--size", "48", "48"]])
def test_one_number_is_a_square(command: Commands, tmp_path: Path, given: list[str]) -> None:
    result = command("model", "--base-channels", "2", "--depth", "1", *given)
    assert result.returncode == 0
    assert re.search(r"48\D+48", result.stdout)


def test_quiet_and_verbose(command: Commands, valid: Path) -> None:
    spoil(valid)
    usual, verbose = (command("check", valid, *flags) for flags in ([], ["--verbose"]))
    assert len(verbose.stdout) >= len(usual.stdout) > 0
    quiet = command("check", "-q", valid)
    assert (quiet.returncode, quiet.stdout) == (usual.returncode, "")
    assert "empty-mask" in quiet.stderr
    refused(command("predict", "nowhere", valid, "--out", "masks", "--quiet"), "nowhere")
