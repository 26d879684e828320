"""Malicious inputs and interrupted processes: a clear error, and no data lost."""

import json
import os
import random
import re
import shutil
import signal
import struct
import subprocess
import sys
import time
import tracemalloc
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from plainunet.config import DataConfig, TrainConfig
from plainunet.dataset.augment import Augment
from plainunet.dataset.cache import cache_size, clear_cache
from plainunet.dataset.coding import Values
from plainunet.dataset.loader import EpochBatches, TrainingSet, iterate, make_loader
from plainunet.dataset.pairs import find_pairs
from plainunet.dataset.samples import Samples
from plainunet.doctor.diagnose import check
from plainunet.evaluation.evaluate import evaluate
from plainunet.files import made_anew, remove_abandoned, write_whole
from plainunet.formats.images import read_image
from plainunet.formats.masks import read_mask
from plainunet.formats.problems import DataError
from plainunet.formats.sources import cache_folder
from plainunet.formats.windows import open_windows
from plainunet.network.card import Card, CheckpointError
from plainunet.network.checkpoint import load_checkpoint, save_checkpoint
from plainunet.network.unet import UNet
from plainunet.palette import default_colors
from plainunet.prediction.predict import find_inputs, predict_files
from plainunet.prediction.predictor import Predictor
from plainunet.settings import with_dataset
from plainunet.training.train import train

from .folders import draw_rectangles
from .forks import fork_command

SMALL: dict[str, Any] = {"epochs": 1, "base_channels": 2, "depth": 2, "size": (24, 32)}
NAMES = ("background", "thing")


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    file = tmp_path / "best.safetensors"
    torch.manual_seed(0)
    masks = {"values": [0, 255], "ignore": None, "kind": "two values"}
    training = {"digest": "ab", "sample": {"a": 1}, "areas": [9, 99], "dtypes": ["uint8"]}
    card = Card(NAMES, default_colors(2), (24, 32), masks=masks, training=training)
    save_checkpoint(file, UNet(base_channels=2, depth=2), card)
    return file


# checkpoints

HOSTILE: list[Any] = [
    *(None, "x", "x" * 100_000, -1, 0, 3, 10**9, 10**30, 1e308, float("nan"), True),
    *([], {}, [1, 2], [[1]], {"a": 1}, [10**9, 10**9], ["a"] * 3),
]


def describe_anew(file: Path, change: Callable[[Any], Any]) -> None:
    """Change the description in a checkpoint's metadata, and nothing else."""
    data = file.read_bytes()
    length = struct.unpack("<Q", data[:8])[0]
    head = json.loads(data[8 : 8 + length])
    card = change(json.loads(head["__metadata__"]["plainunet"]))
    head["__metadata__"]["plainunet"] = card if isinstance(card, str) else json.dumps(card)
    new = json.dumps(head).encode()
    new += b" " * (-len(new) % 8)
    file.write_bytes(struct.pack("<Q", len(new)) + new + data[8 + length :])


def places(card: dict[str, Any], above: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for key, value in card.items():
        yield (*above, key)
        if isinstance(value, dict) and not above:
            yield from places(value, (key,))


def check_descriptions(file: Path, tries: list[tuple[tuple[str, ...], Any]]) -> int:
    """Load and use the checkpoint with each value in its place; count those that are refused."""
    whole, refused = file.read_bytes(), 0
    for place, value in tries:
        file.write_bytes(whole)

        def put(card: Any, place: tuple[str, ...] = place, value: Any = value) -> Any:
            inner = card
            for key in place[:-1]:
                inner = inner[key]
            inner[place[-1]] = value
            return card

        describe_anew(file, put)
        message = ""
        try:
            mask = Predictor.load(file).predict(np.zeros((20, 30, 3), np.uint8))
            assert mask.shape == (20, 30)
        except ValueError as error:
            message = str(error)
        refused += bool(message)
        assert len(message) < 1000
    return refused


def all_tries(file: Path) -> list[tuple[tuple[str, ...], Any]]:
    known: list[tuple[str, ...]] = []
    whole = file.read_bytes()
    describe_anew(file, lambda card: known.extend(places(card)) or card)
    file.write_bytes(whole)
    return [(place, value) for place in known for value in HOSTILE]


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_hostile_descriptions_are_refused_or_harmless(checkpoint: Path) -> None:
    tries = random.Random(0).sample(all_tries(checkpoint), 60)
    assert check_descriptions(checkpoint, tries) > 20


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_all_hostile_descriptions_are_refused_or_harmless(checkpoint: Path) -> None:
    tries = all_tries(checkpoint)
    assert len(tries) > 400
    assert check_descriptions(checkpoint, tries) > 200


@pytest.mark.parametrize("card", ["[" * 100_000 + "]" * 100_000, "{}", "null", "[]", '"x"'])
def test_descriptions_that_are_none_are_refused(checkpoint: Path, card: str) -> None:
    describe_anew(checkpoint, lambda _: card)
    with pytest.raises(CheckpointError):
        load_checkpoint(checkpoint)


def test_a_small_file_makes_no_large_network(checkpoint: Path) -> None:
    most: dict[str, Any] = {"base_channels": 1024, "depth": 6}
    describe_anew(
        checkpoint, lambda card: {**card, "architecture": {**card["architecture"], **most}}
    )
    code = (
        "import sys; from pathlib import Path\n"
        "from plainunet.network.card import CheckpointError\n"
        "from plainunet.network.checkpoint import load_checkpoint\n"
        "try: load_checkpoint(Path(sys.argv[1]))\n"
        "except CheckpointError: print(Path('/proc/self/status').read_text())\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, checkpoint], capture_output=True, text=True, check=True
    )
    # not ru_maxrss, which begins with that of the process that runs the tests
    (peak,) = re.findall(r"VmHWM:\s+(\d+) kB", done.stdout)
    assert int(peak) < 1_500_000  # KiB; the network would take 32 GB


def test_a_flipped_bit_is_noticed(checkpoint: Path) -> None:
    data = bytearray(checkpoint.read_bytes())
    data[-100] ^= 1
    checkpoint.write_bytes(data)
    with pytest.raises(CheckpointError):
        load_checkpoint(checkpoint)


@pytest.mark.usefixtures("file_modes")
def test_a_file_that_may_not_be_read_is_not_called_missing(checkpoint: Path) -> None:
    checkpoint.chmod(0)
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(checkpoint)
    assert isinstance(caught.value.__cause__, PermissionError)


# TIFF files that are small on disk


def write_tiff(file: Path, side: int, channels: int, strip: bytes) -> Path:
    """A deflate-compressed TIFF of one strip, whatever is in it."""
    tags = [(256, 4, side), (257, 4, side), (258, 3, 8), (259, 3, 8), (262, 3, 1), (273, 4, 0)]
    tags += [(277, 3, channels), (278, 4, side), (279, 4, len(strip))]
    start = 8 + 2 + 12 * len(tags) + 4
    content = b"II*\0" + struct.pack("<IH", 8, len(tags))
    for code, kind, value in tags:
        content += struct.pack("<HHII", code, kind, 1, start if code == 273 else value)
    file.write_bytes(content + bytes(4) + strip)
    return file


def read_part(file: Path) -> None:
    with open_windows(file, 2**30) as image:
        image.read(0, 0, 8, 8)


@pytest.mark.parametrize("read", [read_image, read_mask, read_part])
@pytest.mark.parametrize(
    ("side", "channels", "code"), [(64, 1, "damaged"), (1000, 65535, "too-large")]
)
def test_tiff_bombs_are_refused_before_they_take_memory(
    tmp_path: Path, read: Callable[[Path], object], side: int, channels: int, code: str
) -> None:
    packer = zlib.compressobj(9)
    strip = b"".join(packer.compress(bytes(2**20)) for _ in range(256)) + packer.flush()
    file = write_tiff(tmp_path / "bomb.tif", side, channels, strip)
    tracemalloc.start()
    with pytest.raises(DataError) as caught:
        read(file)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert caught.value.code == code
    assert most < 2**25


# pipes


@pytest.mark.timeout(60)
def test_pipes_are_not_read(tmp_path: Path, checkpoint: Path) -> None:
    folder = draw_rectangles(tmp_path / "data")
    os.mkfifo(folder / "images" / "pipe.png")
    assert str(folder / "images" / "pipe.png") in {
        str(file) for each in check(folder).findings for file in each.files
    }
    images = find_inputs([folder / "images"]).images
    result = predict_files(Predictor.load(checkpoint), images, tmp_path / "masks")
    assert (len(result.written), len(result.failures)) == (8, 1)
    assert "pipe.png" in result.failures[0]
    os.mkfifo(folder / "dataset.toml")
    for work in (
        lambda: check(folder),
        lambda: evaluate(checkpoint, folder),
        lambda: train(folder, tmp_path / "run", TrainConfig(**SMALL)),
    ):
        with pytest.raises(ValueError, match=r"dataset\.toml"):
            work()
    assert not (tmp_path / "run").exists()


# names and settings


@pytest.mark.skipif(sys.platform != "linux", reason="names are bytes on Linux alone")
def test_names_that_are_not_utf8_are_no_obstacle(tmp_path: Path) -> None:
    plain = draw_rectangles(tmp_path / "plain")
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/d\xff"))
    for kind in ("images", "masks"):
        (folder / kind).mkdir(parents=True)
        for file in (plain / kind).iterdir():
            shutil.copy(file, folder / kind / f"\udcfe{file.name}")
    run = tmp_path / "run"
    train(folder, run, TrainConfig(**SMALL))
    result = evaluate(run / "best.safetensors", folder, split="all", html=tmp_path / "all.html")
    assert len(result.of_images()) == 8
    images, saves = find_inputs([folder]).images, ("areas", "coco", "instances", "rle-rows")
    predictor = Predictor.load(run / "best.safetensors")
    result = predict_files(predictor, images, folder / "out", saves)
    assert not result.failures
    assert "\udcfe" in (folder / "out" / "areas.csv").read_text(errors="surrogateescape")


@pytest.mark.timeout(60)
def test_a_pattern_that_searches_for_ever_is_stopped(tmp_path: Path) -> None:
    folder = draw_rectangles(tmp_path / "data")
    long = folder / "images" / f"{'a' * 60}.png"
    (folder / "images" / "0.png").rename(long)
    (folder / "masks" / "0.png").rename(folder / "masks" / long.name)
    with pytest.raises(ValueError, match=r"\*!.* 8 "):
        find_pairs(folder, DataConfig(group_by="((a|.)*)*!"))


@pytest.mark.parametrize("line", ['images = "/"', 'masks = "../m"', 'pairs = "a/*.png:/b/*.png"'])
def test_a_folder_does_not_lead_out_of_itself(tmp_path: Path, line: str) -> None:
    (tmp_path / "dataset.toml").write_text(line)
    with pytest.raises(ValueError, match=r"dataset\.toml"):
        with_dataset(DataConfig(), tmp_path)
    followed = with_dataset(DataConfig(allow_outside=True), tmp_path)
    assert getattr(followed, line.partition(" ")[0]) == line.split('"')[1]
    (tmp_path / "dataset.toml").write_text(f"{line}\nallow_outside = true")
    with pytest.raises(ValueError, match=r"dataset\.toml"):
        with_dataset(DataConfig(), tmp_path)


@pytest.mark.parametrize("classes", [129, 255])
@pytest.mark.parametrize("strength", ["flip", "strong"])
def test_as_many_classes_as_are_promised_are_augmented(classes: int, strength: str) -> None:
    random = np.random.default_rng(0)
    labels = random.integers(0, classes, (24, 32))
    shares = (labels[..., None] == np.arange(classes)).astype(np.uint8) * 255
    image = random.integers(0, 255, (24, 32, 3), dtype=np.uint8)
    augment, few = Augment(strength, 2.0), [0, 1, classes - 1]
    for seed in range(4):
        moved = augment(image, shares, (0, seed))[1]
        assert moved.shape == shares.shape
        assert np.array_equal(moved[..., few], augment(image, shares[..., few], (0, seed))[1])


def test_a_flag_may_be_given_twice_with_one_value(tmp_path: Path) -> None:
    folder, flag = draw_rectangles(tmp_path / "data"), ("--encoding", "threshold")
    # 1: two masks are the same
    for other, code in (("threshold", 1), ("ids", 2)):
        words = [*flag, str(folder), "--encoding", other]
        assert fork_command("check", *words).finish().returncode == code


# what is made, removed and left


def test_only_what_was_made_is_removed(tmp_path: Path) -> None:
    record, run = tmp_path / ".record.json", tmp_path / "run"
    with made_anew(record, [run]):
        (run / "below").mkdir(parents=True)
        (run / "below" / "a").write_text("1")
    with made_anew(record, [run]):
        assert not run.exists()
        run.mkdir()
        (run / "b").write_text("2")
    (run / "mine").write_text("3")
    with pytest.raises(ValueError, match="mine"), made_anew(record, [run]):
        pass
    assert {file.name for file in run.iterdir()} == {"b", "mine"}
    (run / "mine").unlink()
    (run / "b").write_text("changed since")
    with pytest.raises(ValueError, match="run/b"), made_anew(record, [run]):
        pass
    assert (run / "b").read_text() == "changed since"


def test_a_demo_keeps_what_others_made(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.toml").write_text("epochs = 3")
    fork_command("demo", "--out", tmp_path).end(2)
    assert [file.name for file in tmp_path.rglob("*") if file.is_file()] == ["config.toml"]


@pytest.mark.skipif(os.name == "nt", reason="Windows cannot ask for a process without ending it")
def test_what_a_killed_process_left_is_removed_and_what_others_write_stays(tmp_path: Path) -> None:
    code = (
        "import os, signal, sys; from pathlib import Path\n"
        "from plainunet.files import write_whole\n"
        "with write_whole(Path(sys.argv[1]) / 'a.png'): os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    subprocess.run([sys.executable, "-c", code, tmp_path], check=False)
    (left,) = tmp_path.iterdir()
    with write_whole(tmp_path / "b.png") as part:
        part.write_text("whole")
        remove_abandoned(tmp_path)
        assert not left.exists()
    assert [file.name for file in tmp_path.iterdir()] == ["b.png"]


def test_the_cache_is_cleared_of_itself_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PLAINUNET_CACHE", str(tmp_path / "cache"))
    folder = draw_rectangles(tmp_path / "data")
    check(folder)
    Samples(find_pairs(folder), Values((0, 255)), (24, 32)).fill_cache()
    (cache_folder() / "mine.txt").write_text("mine")
    taken = cache_size()
    assert taken > 8 * 24 * 32 * 3
    assert clear_cache() == taken
    assert [file.name for file in cache_folder().iterdir()] == ["mine.txt"]


# processes


def test_an_error_that_is_its_own_cause_is_shown(tmp_path: Path) -> None:
    folder = draw_rectangles(tmp_path / "data")
    pairs = find_pairs(folder)
    samples = Samples(pairs, Values((0, 255)), (24, 32))
    loader = make_loader(TrainingSet(samples, "none", 0, (24, 32)), EpochBatches(8, 4, 0), 0)
    for pair in pairs:
        Path(str(pair.image)).unlink()
    with pytest.raises(FileNotFoundError) as caught:
        list(iterate(loader))
    assert caught.value.__cause__ is not caught.value


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGTERM")
def test_sigterm_is_answered_and_nothing_is_left(tmp_path: Path, checkpoint: Path) -> None:
    for number in range(40):
        noise = np.random.default_rng(number).integers(0, 255, (600, 800, 3), dtype=np.uint8)
        cv2.imwrite(str(tmp_path / f"{number}.png"), noise)
    out = tmp_path / "masks"
    going = fork_command("predict", checkpoint, tmp_path, "--out", out, err=tmp_path / "err")
    while not any(out.glob("*.png")):
        assert going.is_running
        time.sleep(0.02)
    os.kill(going.pid, signal.SIGTERM)
    result = going.finish()
    assert result.returncode == 143
    assert result.stderr.strip()
    assert not [file for file in out.iterdir() if "unfinished" in file.name]


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such pipes")
def test_a_reader_that_ends_does_not_end_a_run(tmp_path: Path) -> None:
    folder, run = draw_rectangles(tmp_path / "data"), tmp_path / "run"
    flags = ["--epochs", "1", "--base-channels", "2", "--depth", "2", "--size", "24", "32"]
    going = fork_command("train", folder, "--out", run, *flags, err=tmp_path / "err", COLUMNS="0")
    assert going.wait_for(".").strip()  # also where the terminal has no width
    assert going.close() == 0
    assert (run / "report.html").is_file()
