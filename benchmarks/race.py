"""The race of `train.py peers`: clock, evaluation, plainunet's side, and the table.

MONAI's side is `monai_loop.py`. The clock starts after imports and before the first image is read;
it is paused during evaluation and plainunet's validation. Evaluation resizes logits bilinearly to
the image's own size, takes the argmax, and averages the Dice of the car over the held-out images,
against the original masks. The time that plainunet takes to read its validation images counts.
"""

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeVar
from unittest.mock import patch

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from plainunet import UNet
from plainunet.config import TrainConfig
from plainunet.dataset.classes import find_coding
from plainunet.dataset.pairs import Pair, find_pairs
from plainunet.dataset.resize import fit_size, resize
from plainunet.dataset.split import SPLIT_FILE, split_pairs, write_split
from plainunet.evaluation.metrics import confusion_matrix, dice
from plainunet.formats.images import read_image, to_unit
from plainunet.network.device import autocast, choose_device, choose_precision
from plainunet.reporter import Reporter, StepDone
from plainunet.settings import make_config, read_settings
from plainunet.training import train as training
from plainunet.training.schedule import size_in

OURS, SAME_SIZE = "plainunet", "plainunet-same-size"
CONTESTANTS = {
    OURS: "plainunet, the recipe as it is",
    SAME_SIZE: "plainunet, the recipe at --size",
    "monai-tutorial": "MONAI UNet, as its tutorial has it",
    "monai-muon": "MONAI BasicUNet, the recipe at --size",
    "monai-adamw": "MONAI BasicUNet, the same with AdamW",
}
GOALS = (0.95, 0.98, 0.99)
VALIDATION, SEED = 0.1667, 0
"""Settings of the split, the same in all rounds."""
Item = TypeVar("Item")
LogitsOf = Callable[[Pair], Tensor]
"""A function of a pair that returns logits [2, h, w] at any size, background first."""


class RaceOverError(Exception):
    """The last goal was reached, or time is up."""


def spread(values: Sequence[float], digits: int = 2) -> str:
    """Format median, minimum and maximum."""
    numbers = (statistics.median(values), min(values), max(values))
    return "{} ({}, {})".format(*(f"{number:.{digits}f}" for number in numbers))


def choose_pairs(
    data: Path, images: int | None, held_out: int | None, folder: Path
) -> tuple[list[Pair], list[Pair], str]:
    """Split the cars, and take the given number of images of each split, or all for None.

    Returns:
        Training pairs, held-out pairs, and a list file of both for `TrainConfig.pairs`.
    """
    pairs = split_pairs(find_pairs(data), VALIDATION, SEED)
    trained = evenly([pair for pair in pairs if pair.part == "train"], images)
    validated = evenly([pair for pair in pairs if pair.part == "val"], held_out)
    write_split(folder / SPLIT_FILE, [*trained, *validated], data)
    return trained, validated, str(folder / SPLIT_FILE)


def evenly(items: Sequence[Item], count: int | None) -> list[Item]:
    """Take `count` evenly spaced items, or all for None."""
    places = np.linspace(0, len(items) - 1, min(count or len(items), len(items)))
    return [items[place] for place in places.round().astype(int)]


class Race:
    """Clock and evaluation of one contestant; the clock starts now."""

    def __init__(self, name: str, held_out: list[Pair], arguments: argparse.Namespace) -> None:
        """Set the held-out pairs, the evaluation interval and the time limit."""
        self._name, self._pairs = name, evenly(held_out, arguments.held_out)
        self._every, self._limit = arguments.every, arguments.limit
        self._coding, _ = find_coding([pair.mask for pair in held_out])
        self.filling = 0.0
        """Seconds spent on reading images into a cache."""
        self._points: list[tuple[float, float]] = []
        self._first = self._images = self._stood = 0.0
        self._rate = math.nan
        self._due = self._every
        self._begun = time.perf_counter()

    @property
    def seconds(self) -> float:
        """Seconds on the clock."""
        return time.perf_counter() - self._begun - self._stood

    @contextmanager
    def standing(self) -> Iterator[None]:
        """Pause the clock."""
        begun = time.perf_counter()
        yield
        self.leave_out(time.perf_counter() - begun)

    def leave_out(self, seconds: float) -> None:
        """Subtract seconds from the clock."""
        self._stood += seconds

    def step(self, images: float, logits_of: LogitsOf, last: bool = False) -> None:
        """Count a finished training step, and evaluate if it is due.

        Raises:
            RaceOverError: The last goal was reached, time is up, or the step was the last.
        """
        now = self.seconds
        if not self._first:
            self._first = now
        else:
            self._images += images
            self._rate = self._images / (now - self._first)
        last |= now >= self._limit
        if last or now >= self._due:
            self._judge(logits_of)
            self._due = now + self._every
            if last or self._points[-1][1] >= GOALS[-1]:
                raise RaceOverError

    @torch.inference_mode()
    def _judge(self, logits_of: LogitsOf) -> None:
        at, scores = self.seconds, []
        with self.standing():
            for pair in self._pairs:
                truth = self._coding.read(pair.mask)
                logits = logits_of(pair)[None].float()
                large = F.interpolate(logits, truth.shape, mode="bilinear", align_corners=False)
                chosen = large[0].argmax(dim=0).byte().cpu().numpy()
                scores.append(dice(confusion_matrix(truth, chosen, 2))[1])
            self._points.append((at, float(np.mean(scores))))
            print(f"{self._name}: {at:.0f} s, Dice {self._points[-1][1]:.4f}", file=sys.stderr)

    def result(self) -> dict[str, Any]:
        """The data of the table."""
        reached = [next((at for at, d in self._points if d >= goal), None) for goal in GOALS]
        best, end = max(d for _, d in self._points), self._points[-1][0]
        found = {"filling": self.filling, "first": self._first, "rate": self._rate, "best": best}
        return {**found, "reached": reached, "end": end, "points": self._points}


class RaceReporter(Reporter):
    """Reports plainunet's steps to the race, and pauses the clock during validation."""

    def __init__(self, race: Race, images: int, config: TrainConfig) -> None:
        """Set the race, the number of training images and the settings."""
        self._race, self._config = race, config
        self._per_step = images / -(-images // config.batch_size)
        self._device = choose_device(config.device)
        self._precision = choose_precision(config.precision, self._device)
        self._stage, self._begun, self._size = ("", 0), 0.0, (0, 0)
        self.network: UNet | None = None
        """The network in training, once it exists."""

    def stage(self, name: str, total: int) -> None:
        """Record the start of a stage."""
        self._stage, self._begun = (name, total), time.perf_counter()

    def advance(self, done: int) -> None:
        """Record the duration of a stage that ends now."""
        name, total = self._stage
        if done == total and name == "reading images":
            self._race.filling += time.perf_counter() - self._begun
        if done == total and name == "validating":
            self._race.leave_out(time.perf_counter() - self._begun)

    def step(self, done: StepDone) -> None:
        """Count a step."""
        self._size = size_in(done.epoch, self._config)
        last = done.step + 1 == done.steps
        self._race.step(self._per_step, self._logits_of, last=last)

    def _logits_of(self, pair: Pair) -> Tensor:
        network = self.network
        assert network is not None
        image = read_image(pair.image)
        reduced = to_unit(resize(image, fit_size(image.shape[:2], self._size)))
        batch = torch.from_numpy(reduced)[None].permute(0, 3, 1, 2).to(self._device)
        network.eval()
        with autocast(self._device, self._precision):
            logits: Tensor = network(batch)[0]
        network.train()
        return logits


def run_ours(race: Race, images: int, config: TrainConfig, data: Path, out: Path) -> None:
    """Train with `plainunet.training.train.train`, evaluating the network between steps."""
    reporter = RaceReporter(race, images, config)

    class Watched(UNet):
        def __init__(self, *arguments: Any, **settings: Any) -> None:
            super().__init__(*arguments, **settings)
            reporter.network = reporter.network or self

    with patch.object(training, "UNet", Watched):
        training.train(data, out, config, reporter)


def contend(arguments: argparse.Namespace) -> None:
    """Run one contestant in this process, and print its result as the last line."""
    name, number = arguments.contestant
    settings = {**read_settings(arguments.recipe), "device": arguments.device}
    if name != OURS:
        settings |= {"size": arguments.size, "growth": ()}
    if name == "monai-adamw":
        settings |= {"optimizer": "adamw", "learning_rate": TrainConfig().learning_rate}
    if theirs := name.startswith("monai"):
        from monai_loop import run_monai
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        trained, held_out, listed = choose_pairs(arguments.data, arguments.images, None, folder)
        config = make_config({**settings, "pairs": listed, "seed": int(number)})
        race = Race(name, held_out, arguments)
        with suppress(RaceOverError):
            if theirs:
                run_monai(race, trained, config, name == "monai-tutorial", arguments.workers)
            else:
                os.environ["PLAINUNET_CACHE"] = f"{temporary}/cache"  # an empty one
                run_ours(race, len(trained), config, arguments.data, folder / "run")
    print(json.dumps(race.result()))


def peers(arguments: argparse.Namespace) -> None:
    """Run all contestants alternately, and print the tables."""
    if find_spec("monai") is None and any(n.startswith("monai") for n in arguments.contestants):
        sys.exit(
            "MONAI is not installed: pip install monai. Or leave it out: "
            f"--contestants {OURS} {SAME_SIZE}"
        )
    with tempfile.TemporaryDirectory() as temporary:
        for part in choose_pairs(arguments.data, None, None, Path(temporary))[:2]:
            for pair in part:  # fill the page cache
                pair.image.read_bytes(), pair.mask.read_bytes()
    height, width = arguments.size
    installed = version("monai") if find_spec("monai") else "not installed"
    print(
        f"recipe {arguments.recipe.name}, --size {height} {width}; MONAI {installed}, its loader "
        f"with {arguments.workers} workers; {arguments.rounds} rounds of at most "
        f"{arguments.limit:.0f} s, {arguments.held_out} held-out images evaluated every "
        f"{arguments.every:g} s"
    )
    results: dict[str, list[dict[str, Any]]] = {name: [] for name in arguments.contestants}
    for number in range(arguments.rounds):
        for name, found in results.items():
            command = [sys.executable, *sys.argv, "--contestant", name, str(number)]
            printed = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
            found.append(json.loads(printed.splitlines()[-1]))
    if arguments.json:
        arguments.json.write_text(json.dumps(results))
    show(results)


def show(results: dict[str, list[dict[str, Any]]]) -> None:
    """Print seconds, then ratios."""
    goals = "".join(f"{f's to {goal:g}':>12}" for goal in GOALS)
    print(f"\n{'medians':40}{'filling s':>10}{'1st step s':>12}{'images/s':>10}{goals}{'best':>8}")
    for name, found in results.items():
        line = f"{CONTESTANTS[name]:40}"
        for key, width in (("filling", 10), ("first", 12), ("rate", 10)):
            line += f"{statistics.median(each[key] for each in found):{width}.1f}"
        for goal in range(len(GOALS)):
            times, mark = times_to(goal, found)
            line += f"{f'{mark}{statistics.median(times):.0f}':>12}"
        print(f"{line}{statistics.median(each['best'] for each in found):8.4f}")
    goals = "".join(f"{f's to {goal:g}':>20}" for goal in GOALS)
    print(f"\n{'ratios: median (least, greatest)':40}{'images/s':>20}{goals}")
    for name, found in results.items():
        line = f"{CONTESTANTS[name]:40}"
        first = results.get(SAME_SIZE, [])
        ratios = [each["rate"] / own["rate"] for each, own in zip(found, first, strict=False)]
        line += f"{spread(ratios) if ratios and name != OURS else '-':>20}"
        for goal in range(len(GOALS)):
            times, mark = times_to(goal, found)
            own, unreached = times_to(goal, results.get(OURS, []))
            ratios = [time / base for time, base in zip(times, own, strict=False)]
            line += f"{mark + spread(ratios) if ratios and not unreached else '-':>20}"
        print(line)


def times_to(goal: int, found: list[dict[str, Any]]) -> tuple[list[float], str]:
    """Seconds to a goal; if it was not reached, seconds to the end and the mark ">"."""
    missed = any(each["reached"][goal] is None for each in found)
    return [each["reached"][goal] or each["end"] for each in found], ">" * missed
