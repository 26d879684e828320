"""Ablations: one setting changed at a time, on the same held-out images.

    python benchmarks/ablations.py DATA [DATASET ...] [--seeds 3]

In: `ablations.toml` next to this file: for each dataset (a folder below DATA) its settings, and its
changes by name, each with the settings that differ. Out: `docs/ablations.json`, from which
`docs/results.py` makes the table in docs/results.md.

Each row compares the run with the change to the run without, of the same seed, budget and device:
Dice per image and the mean IoU pooled, with a 95 % confidence interval of the difference by a
paired bootstrap over the groups of the held-out images. Runs that exist are not repeated. With
several seeds, the difference is the mean over seeds, and the row has its standard deviation.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

from predict import _processor

from plainunet import Comparison, compare
from plainunet.files import write_whole

ROOT = Path(__file__).parents[1]
OUT = ROOT / "docs" / "ablations.json"
SETTINGS = Path(__file__).with_suffix(".toml")


def train(data: Path, run: Path, settings: dict[str, Any]) -> None:
    """Train a run, or continue one that was stopped."""
    if (run / "report.html").exists():
        return
    command = [sys.executable, "-m", "plainunet"]
    if run.exists():
        subprocess.run([*command, "resume", run], check=True)
        return
    flags = []
    for name, value in settings.items():
        values = value if isinstance(value, list) else [value]
        flags += [f"--{name.replace('_', '-')}", *map(str, values)]
    subprocess.run([*command, "train", data, "--out", run, *flags], check=True)


def measure(found: list[Comparison]) -> dict[str, Any]:
    """The scores of a change, from the comparisons of its seeds."""
    row: dict[str, Any] = {"images": found[0].content["pictures"]}
    for metric, aggregate in (("dice", "per_image"), ("iou", "pooled")):
        each = [one.difference(metric, aggregate) for one in found]
        row[f"{metric}, {aggregate.replace('_', ' ')}"] = {
            "base": statistics.fmean(one.first for one in each),
            "changed": statistics.fmean(one.second for one in each),
            "difference": statistics.fmean(one.difference for one in each),
            "interval": each[0].interval if len(each) == 1 else None,
            "deviation": (
                statistics.stdev(one.difference for one in each) if len(each) > 1 else None
            ),
        }
    return row


def main() -> None:
    """Train what is missing, compare, and write the rows."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path)
    parser.add_argument("datasets", nargs="*")
    parser.add_argument("--runs", type=Path, default=Path("runs/ablations"))
    parser.add_argument("--seeds", type=int, default=1)
    arguments = parser.parse_args()
    chosen = tomllib.loads(SETTINGS.read_text())
    rows = json.loads(OUT.read_text()) if OUT.exists() else []
    for name in arguments.datasets or chosen:
        data, base = arguments.data / name, chosen[name]["settings"]
        for change, settings in chosen[name]["changes"].items():
            found = []
            for seed in range(arguments.seeds):
                runs = [arguments.runs / name / f"{key}-{seed}" for key in ("base", change)]
                for run, differing in zip(runs, ({}, settings), strict=True):
                    train(data, run, {**base, **differing, "seed": seed, "split_seed": 0})
                found.append(compare(*runs, data))
            row = {
                "dataset": name,
                "change": change,
                "settings": settings,
                "base": base,
                "seeds": arguments.seeds,
                "hardware": _processor(),
                **measure(found),
            }
            rows = [r for r in rows if (r["dataset"], r["change"]) != (name, change)] + [row]
            with write_whole(OUT) as part:
                part.write_text(json.dumps(rows, indent=1) + "\n")
            print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
