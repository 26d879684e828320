"""Time to quality: Dice on held-out images against minutes of training, next to other loops.

    pip install monai nnunetv2
    python benchmarks/quality.py DATA/carvana --json quality.json --plot quality.svg
    python benchmarks/quality.py DATA/carvana --json quality.json --budgets 45   (continues)
    python benchmarks/quality.py DATA/dsb2018 --validation 0.2 --budgets 5 15 --size 256 256

The contestants, one at a time, each run in its own process:

- plainunet: `plainunet train --budget`, one run for each budget, which covers the whole command:
  start-up, empty cache, validation, evaluation, report;
- monai: the loop of MONAI's tutorials (`monai_loop.py`);
- monai-muon: MONAI's BasicUNet with plainunet's optimizer, loss, schedule and precision, one run
  for each budget;
- milesial: the settings of milesial/Pytorch-UNet (`milesial_loop.py`);
- nnunet: nnU-Net's 2-D trainer (`nnunet_loop.py`), one run for each budget, because its learning
  rate falls to zero at the end; in another Python with `--nnunet-python`.

Those with one run train up to the longest budget and are evaluated at each, after the step in which
it ends; and in between, at most every half minute, if evaluation has taken less than a fifth of the
time so far. Those with one run for each budget are evaluated at its end alone. The clock of all but
plainunet starts after imports, before the first image is read, and is paused in evaluation. They
get masks as PNG files of class ids, nnU-Net also images as PNG files, written before.

Dice is that of the foreground class on the ground truth at native size, with the same held-out
images for all: the mean over images, and pooled. No contestant sees them in training; plainunet
validates on them and the other images of the validation split, which chooses its checkpoint.

Each run is added to `--json`; runs that are there already are not repeated, so another call adds
other budgets, seeds and contestants. Prints a Markdown table. Limitation: two classes, without
ignored pixels.
"""

import argparse
import importlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from plainunet.config import TrainConfig
from plainunet.dataset.dataset import SegmentationDataset
from plainunet.dataset.pairs import Pair
from plainunet.dataset.split import SPLIT_FILE, write_split
from plainunet.evaluation.metrics import confusion_matrix, summarise
from plainunet.files import write_whole
from plainunet.network.card import versions
from plainunet.network.device import choose_device, describe_processor
from plainunet.prediction.predictor import Predictor

OURS = "plainunet"
CONTESTANTS = {
    OURS: "plainunet `--budget`",
    "monai": "MONAI UNet, as in its tutorials",
    "monai-muon": "MONAI BasicUNet, plainunet's optimizer and schedule",
    "milesial": "milesial/Pytorch-UNet's settings",
    "nnunet": "nnU-Net v2, 2-D",
}
PLANNED = (OURS, "monai-muon", "nnunet")
"""Contestants that plan for a budget: one run for each."""
LOOPS = {
    "monai": "monai_loop",
    "monai-muon": "monai_loop",
    "milesial": "milesial_loop",
    "nnunet": "nnunet_loop",
}
NEEDS = {"monai": "monai", "monai-muon": "monai", "nnunet": "nnunetv2"}
GOALS = (0.95, 0.98, 0.99)
NAMES = ("background", "foreground")
EVERY, SHARE = 30.0, 0.2
"""Least seconds between evaluations, and the fraction of time that those in between may take."""


class Example(NamedTuple):
    """An image, and its mask as a PNG file of class ids."""

    image: Path
    mask: Path


Predict = Callable[[Example], NDArray[np.uint8]]
"""A function of an example that returns class ids [H, W] at native size."""


class RaceOverError(Exception):
    """Time is up."""


class Contest:
    """Data, clock and evaluation of one run; the clock starts now.

    Attributes:
        trained: Training examples.
        folder: An empty folder.
        config: Size, batch size, seed and device.
        workers: Number of loader processes.
    """

    def __init__(self, trained: list[Example], held_out: list[Example], folder: Path) -> None:
        """Set the data; the other attributes are set by the caller."""
        self.trained, self.folder = trained, folder
        self.config, self.workers = TrainConfig(), 0
        self.marks: list[float] = []
        """Budgets at which to evaluate [s], ascending; the last one ends the run."""
        self.points: list[dict[str, Any]] = []
        """The evaluations."""
        self.in_between = True
        """Whether to evaluate between budgets too."""
        self.prepared = 0.0
        """Seconds before the first step: planning, preprocessing, filling a cache."""
        self._held_out, self._images, self._stood = held_out, 0, 0.0
        self._due = EVERY
        self._begun = time.perf_counter()

    @property
    def seconds(self) -> float:
        """Seconds on the clock."""
        return time.perf_counter() - self._begun - self._stood

    @property
    def done(self) -> float:
        """Fraction of the longest budget that has passed, 0..1."""
        return min(1.0, self.seconds / self.marks[-1])

    @contextmanager
    def standing(self) -> Iterator[None]:
        """Pause the clock."""
        begun = time.perf_counter()
        yield
        self._stood += time.perf_counter() - begun

    def start_steps(self) -> None:
        """Note that preparations are over; budgets that are spent by now get no score.

        Raises:
            RaceOverError: The longest one is spent.
        """
        self.prepared = self.seconds
        print(f"{self.prepared:7.0f} s: prepared", file=sys.stderr, flush=True)
        self.marks = [mark for mark in self.marks if mark > self.prepared]
        if not self.marks:
            raise RaceOverError

    def step(self, images: int, predict: Predict) -> None:
        """Count a finished training step, and evaluate if it is due.

        Raises:
            RaceOverError: Time is up.
        """
        self._images += images
        now = self.seconds
        if now >= self.marks[0]:
            self.evaluate(predict, now, self.marks.pop(0))
            if not self.marks:
                raise RaceOverError
        elif self.in_between and now >= self._due and self._stood <= SHARE * now:
            self.evaluate(predict, now)

    def evaluate(self, predict: Predict, now: float, mark: float | None = None) -> float:
        """Score the held-out images, with the clock paused; returns Dice per image."""
        counts = []
        with self.standing(), torch.inference_mode():
            for each in self._held_out:
                truth = cv2.imread(str(each.mask), cv2.IMREAD_UNCHANGED)
                counts.append(confusion_matrix(truth, predict(each), 2))
            found = summarise(np.stack(counts), NAMES)
            dice, pooled = (
                found[key]["dice"]["mean_foreground"] for key in ("per_image", "pooled")
            )
        row = {"seconds": now, "dice": dice, "pooled": pooled, "images": self._images}
        self.points.append({"budget": mark and mark / 60, **row})
        self._due = now + EVERY
        print(f"{now:7.0f} s, {self._images} images: Dice {dice:.4f}", file=sys.stderr, flush=True)
        return float(dice)


def to_ids(logits: Tensor, like: Example) -> NDArray[np.uint8]:
    """Class ids at native size of logits [2, h, w] at any size."""
    size = cv2.imread(str(like.mask), cv2.IMREAD_UNCHANGED).shape
    large = F.interpolate(logits[None].float(), size, mode="bilinear", align_corners=False)
    ids: NDArray[np.uint8] = large[0].argmax(dim=0).byte().cpu().numpy()
    return ids


def run_ours(contest: Contest, arguments: argparse.Namespace) -> None:
    """Run the command `plainunet train --budget`, and evaluate its best checkpoint."""
    out, budget = contest.folder / "run", contest.marks[-1]
    command = [sys.executable, "-m", "plainunet", "train", str(arguments.data), "--out", str(out)]
    command += ["--budget", f"{budget:g}s", "--seed", str(contest.config.seed)]
    command += ["--pairs", str(arguments.prepared / SPLIT_FILE), "--device", contest.config.device]
    subprocess.run(
        command,
        env={**os.environ, "PLAINUNET_CACHE": str(contest.folder / "cache")},
        stdout=sys.stderr,
        check=True,
    )
    now = contest.seconds
    predictor = Predictor.load(out, device=contest.config.device)
    contest.evaluate(lambda example: predictor.predict(example.image), now, budget)


def contend(arguments: argparse.Namespace) -> None:
    """Make one run in this process, and print its result as the last line."""
    name, seed, *marks = arguments.contestant
    listed = json.loads((arguments.prepared / "examples.json").read_text())
    trained, held_out = ([Example(*map(Path, files)) for files in part] for part in listed)
    loop = importlib.import_module(LOOPS[name]) if name != OURS else None
    # what libraries print must not be the last line
    with tempfile.TemporaryDirectory() as temporary, redirect_stdout(sys.stderr):
        contest = Contest(trained, held_out, Path(temporary))
        contest.marks = [60 * float(mark) for mark in marks]
        contest.in_between = name not in PLANNED
        contest.config = TrainConfig(size=arguments.size, seed=int(seed), device=arguments.device)
        contest.workers = arguments.workers
        with suppress(RaceOverError):
            if loop:
                loop.train(contest, name)
            else:
                run_ours(contest, arguments)
    print(json.dumps({"prepared": contest.prepared, "points": contest.points}))


def prepare(arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Split the data, write masks of class ids, and return what results must have in common."""
    config = TrainConfig(validation=arguments.validation, split_seed=0)
    dataset = SegmentationDataset.open(arguments.data, config).split(config)
    if dataset.coding.num_classes != 2:
        sys.exit(f"{arguments.data}: {dataset.coding.num_classes} classes; use a folder with two.")
    write_split(folder / SPLIT_FILE, dataset.pairs, dataset.folder)

    def write(pair: Pair) -> tuple[str, str]:
        mask = folder / f"{Path(str(pair.image)).stem}.png"
        ids = dataset.coding.read(pair.mask)
        if mask.exists() or ids.max() > 1:
            sys.exit(f"{pair.mask}: ignored pixels, or a second image of the same name.")
        cv2.imwrite(str(mask), ids)
        return str(Path(str(pair.image)).resolve()), str(mask)

    trained = [write(pair) for pair in dataset.pairs if pair.part == "train"]
    every = [pair for pair in dataset.pairs if pair.part == "val"]
    places = np.linspace(0, len(every) - 1, min(arguments.held_out, len(every))).round().astype(int)
    held_out = [write(every[place]) for place in places]
    (folder / "examples.json").write_text(json.dumps([trained, held_out]))
    return {
        "data": arguments.data.name,
        "trained": len(trained),
        "validation": len(every),
        "held_out": [Path(image).name for image, _ in held_out],
        "size": list(arguments.size),
    }


def require_installed(arguments: argparse.Namespace) -> None:
    """Refuse contestants whose library is missing."""
    for name in arguments.contestants:
        library = NEEDS.get(name)
        if (
            library
            and not find_spec(library)
            and not (name == "nnunet" and arguments.nnunet_python)
        ):
            sys.exit(f"{name}: pip install {library}, or leave it out of --contestants.")


def race(arguments: argparse.Namespace) -> dict[str, Any]:
    """Make all runs that are not in the file of results yet; returns the results."""
    require_installed(arguments)
    budgets = sorted(arguments.budgets)
    wanted = [
        (name, seed, marks)
        for seed in range(arguments.seeds)
        for name in arguments.contestants
        for marks in ([[budget] for budget in budgets] if name in PLANNED else [budgets])
    ]
    with tempfile.TemporaryDirectory() as temporary:
        common = prepare(arguments, Path(temporary))
        results = {**common, "runs": []}
        if arguments.json and arguments.json.exists():
            before = json.loads(arguments.json.read_text())
            if different := [
                key for key in results if key != "runs" and results[key] != before[key]
            ]:
                sys.exit(f"{arguments.json}: other {', '.join(different)}; choose another --json.")
            results = before
        known = [(each["contestant"], each["seed"], each["budgets"]) for each in results["runs"]]
        for name, seed, marks in wanted:
            if (name, seed, marks) in known:
                continue
            print(f"{name}, seed {seed}, {marks} minutes", file=sys.stderr, flush=True)
            python = (name == "nnunet" and arguments.nnunet_python) or sys.executable
            command = [str(python), *sys.argv, "--prepared", temporary]
            command += ["--contestant", name, str(seed), *map(str, marks)]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
            if done.returncode:  # the others can still run, and another call tries it again
                print(f"{name} failed: exit code {done.returncode}", file=sys.stderr, flush=True)
                continue
            run = {"contestant": name, "seed": seed, "budgets": marks}
            found = json.loads(done.stdout.splitlines()[-1])
            results["runs"].append({**run, "machine": machine(arguments), **found})
            if arguments.json:
                with write_whole(arguments.json) as whole:
                    whole.write_text(json.dumps(results, indent=1))
    return results


def machine(arguments: argparse.Namespace) -> str:
    """Describe hardware, software and commit."""
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty"],
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        check=False,
    ).stdout.strip()
    device = choose_device(arguments.device)
    return (
        f"{describe_processor(device)}, {device}, {torch.get_num_threads()} threads, "
        f"torch {versions()['torch']}, commit {commit or 'unknown'}"
    )


def points_of(results: dict[str, Any], name: str) -> list[list[dict[str, Any]]]:
    """The evaluations of a contestant's runs; planned runs of one seed belong together."""
    runs = [run for run in results["runs"] if run["contestant"] == name]
    if name not in PLANNED:
        return [run["points"] for run in runs]
    seeds = sorted({run["seed"] for run in runs})
    # of a planned run only the end counts: until then, its learning rate is high
    return [
        sorted(
            (run["points"][-1] for run in runs if run["seed"] == seed and run["points"]),
            key=_seconds,
        )
        for seed in seeds
    ]


def _seconds(point: dict[str, Any]) -> float:
    return float(point["seconds"])


def show(results: dict[str, Any]) -> None:
    """Print a Markdown table."""
    budgets = sorted({budget for run in results["runs"] for budget in run["budgets"]})
    print(
        f"{results['data']}: Dice per image / pooled at native size on {len(results['held_out'])} "
        f"held-out images of {results['validation']}, {results['trained']} training images; MONAI "
        f"at {results['size'][0]} x {results['size'][1]}\n"
    )
    heads = [f"{budget:g} min" for budget in budgets] + [f"min to {goal:g}" for goal in GOALS]
    heads += ["min to the first step", "images seen"]
    print(f"| | {' | '.join(heads)} |\n|{'---|' * (len(heads) + 1)}")
    for name, label in CONTESTANTS.items():
        runs = points_of(results, name)
        if not runs:
            continue
        cells = []
        for budget in budgets:
            found = [point for points in runs for point in points if point["budget"] == budget]
            cells.append(" / ".join(spread([p[key] for p in found]) for key in ("dice", "pooled")))
        for goal in GOALS:
            reached = [next((p for p in points if p["dice"] >= goal), None) for points in runs]
            times = [_seconds(point) / 60 for point in reached if point]
            cells.append(spread(times, 1) if len(times) == len(runs) else "-")
        if name == OURS:  # its own command, of which only the end is seen
            cells += ["", ""]
        else:
            ready = [run["prepared"] / 60 for run in results["runs"] if run["contestant"] == name]
            seen = [points[-1]["images"] for points in runs if points]
            cells += [spread(ready, 1), spread(seen, 0)]
        print(f"| {label} | {' | '.join(cells)} |")
    for text in sorted({run["machine"] for run in results["runs"]}):
        print(f"\n{text}")


def spread(values: Sequence[float], digits: int = 4) -> str:
    """Format the median, and the range if there are several values."""
    if not values:
        return "-"
    text = f"{statistics.median(values):.{digits}f}"
    if len(values) > 1:
        text += f" ({min(values):.{digits}f} to {max(values):.{digits}f})"
    return text


def draw(results: dict[str, Any], path: Path) -> None:
    """Draw Dice against minutes."""
    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axes = figure.add_subplot()
    for number, (name, label) in enumerate(CONTESTANTS.items()):
        for points in points_of(results, name):
            minutes = [_seconds(point) / 60 for point in points]
            dice = np.clip([point["dice"] for point in points], 0.01, 0.9999)
            axes.plot(minutes, dice, "o-", color=f"C{number}", markersize=4, label=label)
            label = "_"  # one entry in the legend
    ticks = (0.5, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995)
    axes.set(xscale="log", yscale="logit", ylim=(0.3, 0.997))
    axes.set(xlabel="minutes", ylabel="Dice per image, native size")
    axes.set_yticks(ticks, list(map(str, ticks)))
    budgets = sorted({budget for run in results["runs"] for budget in run["budgets"]})
    axes.set_xticks(budgets, [f"{budget:g}" for budget in budgets])
    axes.minorticks_off()
    axes.grid(alpha=0.3)
    axes.legend()
    with write_whole(path) as whole:
        figure.savefig(whole)


def main() -> None:
    """Parse arguments, train, print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    add = parser.add_argument
    add("data", type=Path, help="folder of images and masks of two classes")
    default = [name for name in CONTESTANTS if name != "monai-muon"]
    add("--contestants", nargs="*", choices=CONTESTANTS, default=default)
    add("--budgets", type=float, nargs="+", default=[2, 5, 15], help="minutes")
    add("--seeds", type=int, default=1, help="number of runs; the split is the same")
    add("--validation", type=float, default=0.1667, help="fraction of held-out images")
    add("--held-out", type=int, default=32, help="number of them to evaluate on")
    add("--size", type=int, nargs=2, default=(160, 240), help="MONAI's input size")
    add("--workers", type=int, default=0, help="worker processes of the loaders of MONAI, milesial")
    add("--nnunet-python", type=Path, help="a Python with nnunetv2 and plainunet")
    add("--device", default="auto")
    add("--json", type=Path, help="file of the results, which is continued")
    add("--plot", type=Path, help="write a chart: .png, .svg")
    add("--prepared", type=Path, help=argparse.SUPPRESS)
    add("--contestant", nargs="+", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    arguments.size = tuple(arguments.size)
    if arguments.contestant:
        contend(arguments)
        return
    results = race(arguments)
    show(results)
    if arguments.plot:
        draw(results, arguments.plot)
    missing = [name for name in arguments.contestants if not points_of(results, name)]
    if missing:
        sys.exit(f"no result of {', '.join(missing)}: see the errors above.")


if __name__ == "__main__":
    main()
