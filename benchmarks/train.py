"""Time whole trainings against their bare step, and their start-up.

    python benchmarks/train.py overhead --data DATA/carvana
    python benchmarks/train.py startup --data DATA/carvana

`overhead` runs `plainunet.training.train.train` with a warm cache and times whole epochs, from the
end of one to the end of the next, without validation: loader, augmentation, progress display,
checkpoints, tables and curves are included. The bare step is the same network, loss, optimiser and
precision on one batch in memory. Some bare steps follow each epoch in the same process; the ratio
is an epoch's rate divided by the mean rate of the bare steps before and after it. The first epoch
warms up. "steps alone" is the run's own `images_per_second`: from the creation of the loader to the
last step, including the display but not validation or saving.

`startup` runs the command `plainunet train` with a warm cache and measures the time from its call
to the end of the first optimiser step, compared with a process that only imports torch. Its peak
memory is the sum over its processes during one epoch, validation and the final evaluation,
including shared pages and reclaimable pages of the cache.

Prints tables; files go to temporary folders. Limitation: one dataset.
"""

import argparse
import os
import platform
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch

from plainunet import UNet
from plainunet.config import TrainConfig
from plainunet.dataset.classes import find_coding
from plainunet.dataset.loader import EpochBatches, make_loader
from plainunet.dataset.pairs import Pair, find_pairs
from plainunet.dataset.samples import Samples, TrainingSet, make_batch
from plainunet.dataset.split import SPLIT_FILE, split_pairs, write_split
from plainunet.network.device import autocast, choose_device, choose_precision, to_device
from plainunet.network.losses import LOSSES
from plainunet.reporter import Reporter, StepDone
from plainunet.system import keep_freed_memory
from plainunet.terminal.screen import Screen
from plainunet.training.optim import make_optimizers
from plainunet.training.train import train

VALIDATED = 16
"""Number of validation images of `overhead`; validation is not timed."""
TAP = """
from plainunet.__main__ import main
from plainunet.terminal import screen

class Screen(screen.Screen):
    def step(self, done):
        super().step(done)
        if done.step == 0:
            print("the first step is done", flush=True)

screen.Screen = Screen
main()
"""
"""The command `plainunet`, which also prints a line after the first step."""


VALIDATION, SEED = 0.1667, 0
"""Settings of the split, the same in all rounds."""


def spread(values: Sequence[float], digits: int = 2) -> str:
    """Format median, minimum and maximum."""
    numbers = (statistics.median(values), min(values), max(values))
    return "{} ({}, {})".format(*(f"{number:.{digits}f}" for number in numbers))


def choose_pairs(data: Path, images: int | None, folder: Path) -> tuple[list[Pair], str]:
    """Split the cars, and take the given number of training images, or all for None.

    Returns:
        Training pairs, and a list file of them and some validation pairs for `TrainConfig.pairs`.
    """
    pairs = split_pairs(find_pairs(data), VALIDATION, SEED)
    trained = evenly([pair for pair in pairs if pair.part == "train"], images)
    validated = evenly([pair for pair in pairs if pair.part == "val"], VALIDATED)
    write_split(folder / SPLIT_FILE, [*trained, *validated], data)
    return trained, str(folder / SPLIT_FILE)


def evenly(items: Sequence[Pair], count: int | None) -> list[Pair]:
    """Take `count` evenly spaced items, or all for None."""
    places = np.linspace(0, len(items) - 1, min(count or len(items), len(items)))
    return [items[place] for place in places.round().astype(int)]


class EnoughError(Exception):
    """All epochs have been measured."""


def make_bare(pairs: list[Pair], config: TrainConfig, steps: int) -> Callable[[], float]:
    """Make a function that runs bare steps and returns images per second."""
    assert config.size is not None
    device = choose_device(config.device)
    precision = choose_precision(config.precision, device)
    coding, _ = find_coding([pair.mask for pair in pairs])
    samples = Samples(pairs, coding, config.size)
    samples.fill_cache()
    batches = EpochBatches(len(pairs), config.batch_size, config.seed)
    dataset = TrainingSet(samples, config.augment, config.seed, config.size)
    first = next(iter(make_loader(dataset, batches, 0)))
    image, target, weight = make_batch(first, device)
    network = to_device(UNet(base_channels=config.base_channels), device).train()
    # a tiny learning rate, so that the batch is not overfitted and values stay ordinary
    optimizers = make_optimizers(network, config.optimizer, 1e-9, config.weight_decay, precision)

    def take(count: int = steps) -> float:
        begun = time.perf_counter()
        for _ in range(count):
            for optimizer in optimizers:
                optimizer.zero_grad()
            with autocast(device, precision):
                logits = network(image)
            LOSSES[config.loss](logits, target, weight).backward()
            for optimizer in optimizers:
                optimizer.step()
        if device.type == "cuda":
            torch.cuda.synchronize()
        return count * len(image) / (time.perf_counter() - begun)

    take(1)
    return take


class Watch(Reporter):
    """Times the epochs of a run, and runs bare steps after each: images per second."""

    def __init__(self, images: int, rounds: int, bare: Callable[[], float], screen: Screen) -> None:
        """Set the number of images per epoch and the number of epochs to measure."""
        self._images, self._rounds, self._bare, self._screen = images, rounds, bare, screen
        self.bare: list[float] = []
        self.steps: list[float] = []
        self.epochs: list[float] = []
        self._stage, self._stage_begun = ("", 0), 0.0
        self._begun = 0.0

    def note(self, text: str) -> None:
        """Show a note."""
        self._screen.note(text)

    def stage(self, name: str, total: int) -> None:
        """Record the start of a stage."""
        self._screen.stage(name, total)
        self._stage, self._stage_begun = (name, total), time.perf_counter()

    def advance(self, done: int) -> None:
        """Exclude the time of a validation that ends now."""
        self._screen.advance(done)
        if self._stage == ("validating", done):
            self._begun += time.perf_counter() - self._stage_begun

    def step(self, done: StepDone) -> None:
        """Show a step."""
        self._screen.step(done)

    def epoch(self, row: dict[str, Any], best: float | None) -> None:
        """Count an epoch, and raise `EnoughError` after the last one."""
        self._screen.epoch(row, best)
        now = time.perf_counter()
        if self.bare:  # the first epoch warms up
            self.epochs.append(self._images / (now - self._begun))
            self.steps.append(row["images_per_second"])
        self.bare.append(self._bare())
        if len(self.epochs) == self._rounds:
            raise EnoughError
        self._begun = time.perf_counter()


def overhead(arguments: argparse.Namespace) -> None:
    """Print a table for each width."""
    for base in arguments.base_channels:
        with tempfile.TemporaryDirectory() as temporary, Screen() as screen:
            folder = Path(temporary)
            pairs, listed = choose_pairs(arguments.data, arguments.images, folder)
            config = TrainConfig(
                base_channels=base,
                size=arguments.size,
                batch_size=arguments.batch_size,
                epochs=arguments.rounds + 1,
                device=arguments.device,
                workers=arguments.workers,
                pairs=listed,
            )
            device = choose_device(config.device)
            if device.type == "cpu":
                keep_freed_memory()  # as in the run
            bare = make_bare(pairs, config, arguments.steps)
            watch = Watch(len(pairs), arguments.rounds, bare, screen)
            with suppress(EnoughError):
                train(arguments.data, folder / "run", config, watch)
        print(
            f"\nbase {base}, {arguments.size[0]}x{arguments.size[1]}, batch {config.batch_size}, "
            f"{choose_precision(config.precision, device)}, {config.optimizer}, {config.loss}, "
            f"augment {config.augment}, workers {config.workers}: {arguments.rounds} epochs of "
            f"{len(pairs)} images, {arguments.steps} bare steps before and after each\n"
            f"{'median (least, greatest)':26}{'images/s':>22}{'ratio to bare':>22}"
        )
        beside = [(a + b) / 2 for a, b in zip(watch.bare, watch.bare[1:], strict=False)]
        rows = {"steps alone": watch.steps, "whole epochs": watch.epochs}
        for name, rates in {"bare steps": beside, **rows}.items():
            ratios = [rate / bare for rate, bare in zip(rates, beside, strict=True)]
            print(f"{name:26}{spread(rates):>22}{spread(ratios, 3):>22}")


def start(command: list[str], whole: bool) -> tuple[float, float]:
    """Run the command to its end or to its first step. Returns seconds and peak MiB."""
    begun = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-c", TAP, *command],
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    peaks = [0.0]
    threading.Thread(target=watch_memory, args=(process.pid, peaks), daemon=True).start()
    seconds = None
    for line in process.stdout:
        if line.startswith("the first step"):
            seconds = time.perf_counter() - begun
            if not whole:
                os.killpg(process.pid, signal.SIGKILL)
    _, _, usage = os.wait4(process.pid, 0)
    process.returncode = 0  # os.wait4 has reaped it
    if seconds is None:
        sys.exit("the training failed")
    unit = 1 if sys.platform == "darwin" else 1024
    return seconds, max(*peaks, usage.ru_maxrss * unit / 2**20)


def watch_memory(session: int, peaks: list[float]) -> None:
    """Add the resident memory [MiB] of a session's processes to a list, until they have ended."""
    while Path(f"/proc/{session}/stat").exists():
        pages = 0
        for process in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):  # the process has ended
                fields = (process / "stat").read_text().rpartition(")")[2].split()
                pages += int(fields[21]) * (fields[3] == str(session))
        peaks.append(pages * os.sysconf("SC_PAGE_SIZE") / 2**20)
        time.sleep(0.1)


def startup(arguments: argparse.Namespace) -> None:
    """Print the time to the first step and the peak memory for each width."""
    for base in arguments.base_channels:
        height, width = map(str, arguments.size)
        command = ["train", str(arguments.data), "--size", height, width, "--epochs", "1"]
        command += ["--base-channels", str(base), "--batch-size", str(arguments.batch_size)]
        command += ["--validation", str(VALIDATION), "--seed", str(SEED)]
        command += ["--device", arguments.device]
        command += [] if arguments.workers is None else ["--workers", str(arguments.workers)]
        imports, times = [], []
        with tempfile.TemporaryDirectory() as temporary:
            for number in range(arguments.rounds + 1):
                begun = time.perf_counter()
                subprocess.run([sys.executable, "-c", "import torch"], check=True)
                imports.append(time.perf_counter() - begun)
                times.append(start([*command, "--out", f"{temporary}/{number}"], False)[0])
            _, peak = start([*command, "--out", f"{temporary}/whole"], True)
        # the first round fills the cache
        ratios = [a / b for a, b in zip(times[1:], imports[1:], strict=True)]
        print(f"\nplainunet {' '.join(command)}; {arguments.rounds} rounds, a warm cache")
        print(f"{'median (least, greatest)':26}{'seconds':>22}{'ratio to import':>22}")
        print(f"{'import torch':26}{spread(imports[1:]):>22}")
        print(f"{'to the first step':26}{spread(times[1:]):>22}{spread(ratios):>22}")
        print(f"peak memory over the whole command: {peak:.0f} MiB")


def main() -> None:
    """Parse arguments, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    verbs = parser.add_subparsers(required=True)
    shared = argparse.ArgumentParser(add_help=False)
    add = shared.add_argument
    add("--data", type=Path, required=True, help="folder in Carvana's layout")
    add("--size", type=int, nargs=2, default=(160, 240), metavar=("H", "W"))
    add("--device", default="auto")
    plain = argparse.ArgumentParser(add_help=False, parents=[shared])
    plain.add_argument("--batch-size", type=int, default=8)
    plain.add_argument("--workers", type=int, help="default: chosen by plainunet")

    add = verbs.add_parser("overhead", parents=[plain]).add_argument
    add("--base-channels", type=int, nargs="+", default=(16, 64))
    add("--rounds", type=int, default=5, help="number of epochs to measure")
    add("--images", type=int, help="number of training images; default: all")
    add("--steps", type=int, default=16, help="bare steps after each epoch")
    add = verbs.add_parser("startup", parents=[plain]).add_argument
    add("--base-channels", type=int, nargs="+", default=(16,))
    add("--rounds", type=int, default=5)
    for name, verb in (("overhead", overhead), ("startup", startup)):
        verbs.choices[name].set_defaults(run=verb)
    arguments = parser.parse_args()
    arguments.size = tuple(arguments.size)
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    ).stdout.strip()
    print(
        f"torch {torch.__version__}, {choose_device(arguments.device)}, {torch.get_num_threads()} "
        f"threads of {os.cpu_count()} cores, {platform.machine()}, load {os.getloadavg()[0]:.1f}, "
        f"commit {commit or 'unknown'}"
    )
    arguments.run(arguments)


if __name__ == "__main__":
    main()
