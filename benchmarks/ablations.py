"""Ablations: one setting changed at a time, on the same held-out images.

    python benchmarks/ablations.py DATA [DATASET ...]
    python docs/results.py --tables

The plan of the first run of a dataset, its input size and width above all, holds for the others:
chosen anew, it would differ with the speed of the machine at that minute.

In: `ablations.toml` next to this file. Out: `docs/ablations.json`, the rows of a table in
docs/results.md: the score with and without each change, of runs with the same budget, device and
split, and the difference with its 95 % confidence interval by a paired bootstrap over the groups of
the held-out images. A run that exists is not repeated, and one that was stopped is continued.
"""

import argparse
import json
import subprocess
import sys
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from plainunet import compare
from plainunet.files import write_whole
from plainunet.network.checkpoint import load_checkpoint
from plainunet.training.run import RunFolder

SETTINGS = Path(__file__).with_suffix(".toml")
OUT = Path(__file__).parents[1] / "docs" / "ablations.json"
SCORES = {
    ("dice", "per_image"): "Dice per image",
    ("dice", "pooled"): "pooled Dice",
    ("iou", "pooled"): "pooled mean IoU without background",
}

PLANNED = ("base_channels", "depth", "size", "patch", "factor", "batch_size", "normalisation")


def planned(run: Path) -> dict[str, Any]:
    """The settings that the plan of a run chose, without those that follow from others."""
    found = tomllib.loads(RunFolder(run).config.read_text(encoding="utf-8"))
    kept = {name: found[name] for name in PLANNED if found.get(name)}
    return {name: value for name, value in kept.items() if name != "factor" or "patch" in kept}


def train(data: Path, run: Path, settings: Mapping[str, Any]) -> None:
    """Train a run to its end."""
    command = [sys.executable, "-m", "plainunet"]
    if RunFolder(run).report.exists():
        return
    if run.exists():
        subprocess.run([*command, "train", "--resume", run], check=True)
        return
    flags = []
    for name, value in settings.items():
        values = value if isinstance(value, list) else [value] if value is not True else []
        flags += [f"--{name.replace('_', '-')}", *map(str, values)]
    subprocess.run([*command, "train", data, "--out", run, *flags], check=True)


def main() -> None:
    """Train what is missing, compare, and write the rows."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path)
    parser.add_argument("datasets", nargs="*")
    parser.add_argument("--runs", type=Path, default=Path("runs/ablations"))
    arguments = parser.parse_args()
    known = tomllib.loads(SETTINGS.read_text(encoding="utf-8"))
    rows = json.loads(OUT.read_text(encoding="utf-8")) if OUT.exists() else []
    for name in arguments.datasets or known:
        data, study = arguments.data / name, known[name]
        base, metric = {"split_seed": 0, **study["settings"]}, study["score"]
        first = arguments.runs / name / "base"
        train(data, first, base)
        base = {**planned(first), **base}
        for change, settings in study["changes"].items():
            second = arguments.runs / name / change.replace(" ", "-")
            train(data, second, {**base, **settings})
            found = compare(first, second, data).difference(*metric)
            card = load_checkpoint(RunFolder(second).best)[1]
            row = {
                "dataset": name,
                "change": change,
                "metric": SCORES[metric[0], metric[1]],
                "base": found.first,
                "changed": found.second,
                "difference": found.difference,
                "interval": found.interval,
                "budget": base["budget"],
                "seeds": 1,
                "commit": card.versions.get("commit", ""),
                "hardware": card.training.get("hardware", ""),
            }
            rows = [each for each in rows if (each["dataset"], each["change"]) != (name, change)]
            rows.append(row)
            with write_whole(OUT) as part:
                part.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
            print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
