"""Train with time budgets on several datasets, without settings other than class names.

    python benchmarks/budget.py --data DATA                         (the whole table: hours)
    python benchmarks/budget.py --data DATA --only dsb2018 --minutes 2 5

Each run is the command `plainunet train` with `--budget` and an empty cache folder; its seconds
cover the whole command. Scores are at native resolution, on the validation split of the run (seed
0). `recipe` is the baseline `configs/carvana-seed.toml`, stopped after the same time: its learning
rate is constant, so the result does not depend on a planned end. Prints a Markdown table, one row
after each run; the run folders stay in `--out`. Limitation: one run each, one seed.
"""

import argparse
import os
import platform
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

from plainunet.network.checkpoint import load_checkpoint
from plainunet.settings import load_config

RECIPE = Path(__file__).parents[1] / "configs" / "carvana-seed.toml"


class Row(NamedTuple):
    """A dataset, its flags and its time budgets [minutes]."""

    name: str
    folder: str
    flags: tuple[str, ...]
    minutes: tuple[float, ...]


STREETS = "Sky,Building,Pole,Road,Pavement,Tree,SignSymbol,Fence,Car,Pedestrian,Bicyclist"
LAND = "unlabeled,water,land,road,building,vegetation"
ROWS = (
    Row("carvana", "carvana", ("--classes", "background,car"), (2, 5, 15, 45)),
    Row("recipe", "carvana", ("--config", str(RECIPE)), (2, 5, 15, 45)),
    Row("dsb2018", "dsb2018", ("--classes", "background,nucleus"), (2, 5, 15)),
    Row("camvid", "camvid", ("--classes", STREETS, "--ignore", "11"), (2, 5, 15)),
    Row("dubai_aerial", "dubai_aerial", ("--classes", LAND), (10,)),
    Row("carrotweed", "carrotweed", ("--classes", "soil,weed,crop"), (10,)),
    Row("isbi2012", "isbi2012", ("--classes", "membrane,cell"), (10,)),
    Row("chasedb1", "chasedb1", ("--classes", "background,vessel"), (10,)),
)


def run(row: Row, minutes: float, data: Path, out: Path) -> tuple[float, dict[str, Any], str]:
    """Train once. Returns seconds, scores and a description of the network's input."""
    folder = out / f"{row.name}-{minutes:g}m"
    cache = out / "cache"
    shutil.rmtree(cache, ignore_errors=True)
    command = [sys.executable, "-m", "plainunet", "train", str(data / row.folder), *row.flags]
    start = time.monotonic()
    with (out / f"{folder.name}.log").open("w") as log:
        done = subprocess.run(
            [*command, "--budget", f"{60 * minutes:.0f}s", "--out", str(folder)],
            env={**os.environ, "PLAINUNET_CACHE": str(cache)},
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    seconds = time.monotonic() - start
    if done.returncode:
        sys.exit(f"{row.name} failed: see {log.name}")
    config = load_config(folder / "config.toml")
    height, width = config.window
    seen = f"{height} x {width}"
    if config.patch:
        seen += f" of images at {config.factor:.0%}"
    _, card = load_checkpoint(folder / "best.safetensors")
    return seconds, card.scores, seen


def main() -> None:
    """Parse arguments, train, print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of all datasets")
    parser.add_argument("--out", type=Path, default=Path("runs/budget"))
    parser.add_argument("--only", nargs="*", default=[row.name for row in ROWS])
    parser.add_argument("--minutes", nargs="*", type=float, help="default: those of each dataset")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores\n")
    print("| data | budget | seconds | seen | Dice per image | Dice pooled | mIoU | accuracy |")
    print("|---|---|---|---|---|---|---|---|")
    for row in ROWS:
        for minutes in (arguments.minutes or row.minutes) if row.name in arguments.only else ():
            seconds, scores, seen = run(row, minutes, arguments.data, arguments.out)
            pooled, each = scores["pooled"], scores["per_image"]
            cells = [
                each["dice"]["mean_foreground"],
                pooled["dice"]["mean_foreground"],
                pooled["iou"]["mean_with_background"],
                pooled["accuracy"],
            ]
            values = " | ".join(f"{cell:.4f}" for cell in cells)
            print(
                f"| {row.name} | {minutes:g} min | {seconds:.1f} | {seen} | {values} |", flush=True
            )


if __name__ == "__main__":
    main()
