"""Measure inference of a checkpoint and of its exported files, side by side, with their Dice.

    python benchmarks/deploy.py runs/carvana/best.safetensors --data DATA/carvana
    python benchmarks/deploy.py ... --runtime RUNTIME/bin/python

The checkpoint lies in its run folder, whose validation split gives the images. It is exported as
ONNX (fp32, int8) and OpenVINO (fp32, bf16, int8). Then three tables:

- the network alone, at its input size, with PyTorch as most scripts run it (eager, fp32, NCHW) as
  the baseline, all ways in turn in one process;
- from image files to mask files: `plainunet predict` with the checkpoint and each file, and the
  plain way (Pillow, eager fp32, one by one), each in its own process in each round;
- where the time of the fastest file goes, beside the machine's peak.

`--runtime` is the Python of an environment with plainunet-runtime and without PyTorch: its size and
the time to its first mask are printed.
"""

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from predict import Way, dice, elsewhere, held_out, take_turns
from torch.utils.flop_counter import FlopCounterMode

from plainunet.config import ExportOptions
from plainunet.dataset.coding import coding_from_json
from plainunet.dataset.pairs import Pair
from plainunet.deployment.export import SUFFIX, export
from plainunet.formats.images import read_image
from plainunet.formats.windows import Windows
from plainunet.network.blocks import fold_batch_normalisation
from plainunet.network.card import Card
from plainunet.network.checkpoint import load_checkpoint
from plainunet.network.device import autocast, choose_device, describe_processor
from plainunet.network.unet import UNet
from plainunet.prediction.drawing import write_mask
from plainunet.prediction.exported import ExportedNetwork, load_exported
from plainunet.prediction.predict import predict_files
from plainunet.prediction.predictor import Predictor
from plainunet.system import cores

Images = NDArray[np.float32]
Run = Callable[[Images], Images]
FILES = (("onnx", "fp32"), ("onnx", "int8"), ("openvino", "fp32"), ("openvino", "bf16"),
         ("openvino", "int8"))  # fmt: skip
NAMES = {"onnx": "ONNX Runtime", "openvino": "OpenVINO"}
EAGER = "PyTorch fp32, as most scripts do"


def make_files(checkpoint: Path, data: Path, folder: Path) -> dict[str, Path]:
    """Export the checkpoint in each way; returns the files by name."""
    files = {}
    for to, precision in FILES:
        out = folder / f"{to}-{precision}{SUFFIX[to]}"
        options = ExportOptions(to=to, precision=precision, data=data, force=True)
        begun = time.perf_counter()
        done = export(checkpoint, out, options).agreement
        lost = "" if done.lost is None else f", Dice lost {done.lost:+.5f}"
        print(
            f"{out.name}: {out.stat().st_size / 2**20:.1f} MiB, made and checked in "
            f"{time.perf_counter() - begun:.0f} s, Dice of its masks with the checkpoint's "
            f"{done.dice:.5f}{lost}",
            flush=True,
        )
        files[f"{NAMES[to]} {precision}"] = out
    return files


def in_pytorch(checkpoint: Path, precision: torch.dtype, last: bool, folded: bool) -> Run:
    """A network in PyTorch: its precision, channels-last or not, batch norm folded or not."""
    network, _ = load_checkpoint(checkpoint)
    network.eval()
    if folded:
        fold_batch_normalisation(network)
    order = torch.channels_last if last else torch.contiguous_format
    network = network.to(memory_format=order)  # type: ignore[call-overload]

    def run(images: Images) -> Images:
        with torch.inference_mode(), autocast(torch.device("cpu"), precision):
            batch = torch.from_numpy(images).contiguous(memory_format=order)
            logits: Images = network(batch).float().numpy()
            return logits

    return run


def networks(checkpoint: Path, files: dict[str, Path]) -> dict[str, Run]:
    """Each way to run the network alone."""
    make = partial(in_pytorch, checkpoint)
    ways = {
        EAGER: make(torch.float32, last=False, folded=False),
        "PyTorch fp32, channels-last": make(torch.float32, last=True, folded=False),
        "PyTorch fp32, channels-last, folded": make(torch.float32, last=True, folded=True),
        "PyTorch bf16, channels-last": make(torch.bfloat16, last=True, folded=False),
        "PyTorch bf16, channels-last, folded": make(torch.bfloat16, last=True, folded=True),
    }
    return ways | {name: load_exported(path)[0].run for name, path in files.items()}


def score(run: Run, network: UNet, card: Card, pairs: Sequence[Pair]) -> float:
    """Mean Dice of class 1 over images, at their own size."""
    exported = ExportedNetwork(
        lambda images: np.array(run(images)), network.architecture, "openvino", "cpu", "", ""
    )
    predictor = Predictor(exported, card)
    with tempfile.TemporaryDirectory() as folder:
        for pair in pairs:
            mask = predictor.predict(read_image(pair.image))
            write_mask(Path(folder) / f"{pair.image.stem}.png", mask, card.colors)
        return dice(pairs, coding_from_json(card.masks), Path(folder))


def network_alone(
    checkpoint: Path, files: dict[str, Path], pairs: Sequence[Pair], rounds: int
) -> dict[str, float]:
    """Print the time of each way to run the network; returns milliseconds by name."""
    network, card = load_checkpoint(checkpoint)
    predictor = Predictor(network, card, device="cpu", precision="fp32")
    image = predictor.network_input(read_image(pairs[0].image))
    with FlopCounterMode(display=False) as counter:
        network.eval()(torch.from_numpy(image))
    work = counter.get_total_flops() / 1e9
    ways = networks(checkpoint, files)
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(rounds + 2):  # the first two warm up
        for name, run in ways.items():
            begun = time.perf_counter()
            run(image)
            if number > 1:
                seconds[name].append(time.perf_counter() - begun)
    print(f"\nnetwork alone, {list(image.shape)}, {work:.1f} GFLOP\n")
    print("| way | ms | times as fast as the first (range) | GFLOP/s | Dice per image | lost |")
    print("|---|---|---|---|---|---|")
    first = score(ways[EAGER], network, card, pairs)
    for name, times in seconds.items():
        ratios = [eager / own for eager, own in zip(seconds[EAGER], times, strict=True)]
        own = first if name == EAGER else score(ways[name], network, card, pairs)
        print(
            f"| {name} | {1000 * statistics.median(times):.1f} | {statistics.median(ratios):.2f} "
            f"({min(ratios):.2f}-{max(ratios):.2f}) | {work / statistics.median(times):.0f} | "
            f"{own:.4f} | {first - own:+.5f} |",
            flush=True,
        )
    channels_last, half = (
        seconds[f"PyTorch {kind}"]
        for kind in ("fp32, channels-last", "bf16, channels-last, folded")
    )
    ratios = [one / other for one, other in zip(channels_last, half, strict=True)]
    print(f"\nbf16 (folded) beside fp32 channels-last: {statistics.median(ratios):.2f}")
    return {name: 1000 * statistics.median(times) for name, times in seconds.items()}


def file_to_file(
    checkpoint: Path, files: dict[str, Path], pairs: Sequence[Pair], rounds: int
) -> str:
    """Print the speed from files to files; returns the name of the fastest exported file."""
    card = load_checkpoint(checkpoint)[1]
    ways: dict[str, Way] = {
        "the plain way": partial(elsewhere, "plain", checkpoint),
        "predict, checkpoint": partial(elsewhere, "plainunet", checkpoint),
    }
    for name, path in files.items():
        ways[f"predict, {name}"] = partial(elsewhere, "plainunet", path)
    seconds, scores = take_turns(ways, pairs, card, rounds)
    plain = seconds["the plain way"]
    print(f"\nfile to file, {len(pairs)} images at their own size, {rounds} rounds\n")
    print("| way | images/s | times as fast as the plain way (range) | Dice per image | lost |")
    print("|---|---|---|---|---|")
    for name, times in seconds.items():
        ratios = [other / own for other, own in zip(plain, times, strict=True)]
        print(
            f"| {name} | {1 / statistics.median(times):.1f} | {statistics.median(ratios):.2f} "
            f"({min(ratios):.2f}-{max(ratios):.2f}) | {scores[name]:.4f} | "
            f"{scores['the plain way'] - scores[name]:+.5f} |",
            flush=True,
        )
    return min(files, key=lambda name: statistics.median(seconds[f"predict, {name}"]))


def _whole_mask(predictor: Predictor, windows: Windows) -> NDArray[np.uint8]:
    return np.concatenate(list(predictor.mask_bands(windows)))


def profile(path: Path, pairs: Sequence[Pair]) -> None:
    """Print the processor time of each stage, and how busy the cores are."""
    predictor = Predictor.load(path)
    view, card = predictor._views[0], predictor.card
    stages: dict[str, list[float]] = {}

    def timed(stage: str, run: Callable[[], object]) -> None:
        begun = time.process_time()
        run()
        stages.setdefault(stage, []).append(time.process_time() - begun)

    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "mask.png"
        for pair in pairs[:32]:
            timed("decoding and reducing", partial(predictor.read, pair.image))
            windows = predictor.read(pair.image) or predictor.prepare(read_image(pair.image))
            batch = view.network_input(windows)[None]
            timed("network", partial(view.backend.run, batch))
            mask = _whole_mask(predictor, windows)
            timed("network, resizing and threshold", partial(_whole_mask, predictor, windows))
            timed("writing", partial(write_mask, target, mask, card.colors))
        few = [pair.image for pair in pairs]
        predict_files(predictor, few[:4], Path(folder) / "warm")
        begun, busy = time.perf_counter(), time.process_time()
        predict_files(predictor, few, Path(folder) / "masks")
        busy, took = time.process_time() - busy, time.perf_counter() - begun
    took, busy = 1000 * took / len(few), 1000 * busy / len(few)
    print(
        f"\nprofile of {path.name}: {took:.1f} ms per image, {busy:.1f} ms of processor time, "
        f"{busy / took:.2f} of {cores()} cores busy; per stage [ms of processor time]:"
    )
    for stage, times in stages.items():
        print(f"  {stage}: {1000 * statistics.median(times):.1f}")


def peak() -> None:
    """Print the machine's peak in matrix products."""
    for dtype in (torch.float32, torch.bfloat16):
        one = torch.randn(2048, 2048).to(dtype)
        with torch.inference_mode():
            one @ one
            times = []
            for _ in range(5):
                begun = time.perf_counter()
                one @ one
                times.append(time.perf_counter() - begun)
        print(f"peak in {dtype}: {2 * 2048**3 / min(times) / 1e9:.0f} GFLOP/s")


def runtime(python: Path, file: Path, image: Path) -> None:
    """Print the size of an environment without PyTorch, and the time to its first mask."""
    where = [str(python), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]
    folder = Path(subprocess.run(where, capture_output=True, text=True, check=True).stdout.strip())
    size = sum(each.stat().st_size for each in folder.rglob("*") if each.is_file())
    times = []
    with tempfile.TemporaryDirectory() as out:
        for number in range(4):  # the first reads the files from the disk
            command = [str(python), "-m", "plainunet", "predict", str(file), str(image), "--out",
                       str(Path(out) / str(number))]  # fmt: skip
            begun = time.perf_counter()
            subprocess.run(command, capture_output=True, check=True)
            times.append(time.perf_counter() - begun)
    print(f"\nruntime without PyTorch: {size / 1e6:.0f} MB; to the first mask "
          f"{statistics.median(times[1:]):.2f} s")  # fmt: skip


def main() -> None:
    """Parse arguments, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("checkpoints", type=Path, nargs="+")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--images", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--runtime", type=Path, help="Python of an environment without PyTorch")
    parser.add_argument("--keep", type=Path, help="folder for the exported files")
    arguments = parser.parse_args()
    print(f"{describe_processor(choose_device())}, {cores()} threads, OpenCV {cv2.__version__}")
    peak()
    for checkpoint in arguments.checkpoints:
        pairs = held_out(checkpoint, arguments.data, arguments.images)
        folder = arguments.keep or Path(tempfile.mkdtemp())
        try:
            print(f"\n{checkpoint}", flush=True)
            files = make_files(checkpoint, arguments.data, folder)
            network_alone(checkpoint, files, pairs, 4 * arguments.rounds)
            fastest = file_to_file(checkpoint, files, pairs, arguments.rounds)
            profile(files[fastest], pairs)
            if arguments.runtime:
                image = pairs[0].image
                runtime(arguments.runtime, files["ONNX Runtime int8"], image)
        finally:
            if not arguments.keep:
                shutil.rmtree(folder)


if __name__ == "__main__":
    sys.path.insert(0, os.fspath(Path(__file__).parent))
    main()
