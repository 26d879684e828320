"""What a pretrained model brings with few images and little time.

    python benchmarks/pretrained.py RUN DATA --images 20 --budget 2m

In: a finished run, and the folder that it was trained on. Only its held-out images are used: of
half of their groups, some train two new runs, one from the weights of RUN and one from random
weights; the images of the other half validate both. The planner chooses all settings.
Out: both scores, and their difference with its 95 % confidence interval by a paired bootstrap over
the groups.
"""

import argparse
import csv
import tempfile
from pathlib import Path

import numpy as np

from plainunet import TrainConfig, compare, train
from plainunet.terminal.screen import Screen
from plainunet.training.run import RunFolder


def write_pairs(split: Path, images: int, out: Path) -> None:
    """Write the held-out images of a split as pairs with a split of their own."""
    with split.open(encoding="utf-8", newline="") as file:
        held_out = [row for row in csv.DictReader(file) if row["part"] == "val"]
    groups = sorted({row["group"] for row in held_out})
    first = set(groups[: len(groups) // 2])
    own = [row for row in held_out if row["group"] in first]
    chosen = np.linspace(0, len(own) - 1, min(images, len(own))).round().astype(int)
    rows = [{**own[index], "part": "train"} for index in sorted(set(chosen.tolist()))]
    rows += [row for row in held_out if row["group"] not in first]
    with out.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def main() -> None:
    """Train both, and compare them."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("--images", type=int, default=20)
    parser.add_argument("--budget", default="2m")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    run = RunFolder(given.run)
    classes = run.read_config().classes
    with tempfile.TemporaryDirectory() as folder:
        pairs = Path(folder) / "pairs.csv"
        write_pairs(run.split, given.images, pairs)
        runs = [Path(folder) / name for name in ("random", "pretrained")]
        for out, pretrained in zip(runs, (None, str(run.best)), strict=True):
            config = TrainConfig(
                pretrained=pretrained,
                pairs=str(pairs),
                classes=classes,
                budget=given.budget,
                seed=given.seed,
            )
            with Screen() as screen:
                train(given.data, out, config, screen)
        result = compare(runs[0], runs[1], given.data)
        for way in ("per_image", "pooled"):
            found = result.difference("dice", way)
            low, high = found.interval or (float("nan"), float("nan"))
            print(f"{way}: Dice {found.first:.4f} random, {found.second:.4f} pretrained")
            print(f"  difference {found.difference:+.4f} ({low:+.4f} to {high:+.4f})")


if __name__ == "__main__":
    main()
