"""Draw the results at the head of the README and in the guides: `python docs/results.py DATA`.

In: a folder with `dsb2018` (nuclei) and `dubai_aerial` (aerial images), both CC0. A model is
trained on each for ten minutes, or `--budget`. Out, next to this file: results-NAME.jpg for each
dataset, of the middle third of the held-out images by score the one with the highest contrast, and
results.jpg, all of them in one strip. Prints the scores.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from plainunet import TrainConfig, train
from plainunet.training.run import RunFolder

DATASETS: dict[str, dict[str, Any]] = {
    "dsb2018": {"classes": ("background", "nucleus")},
    "dubai_aerial": {"group_by": "(tile[0-9])"},
}
WIDTH = 1200
"""Width of the strip [pixels]."""


def choose(worst_to_best: Sequence[Path]) -> Image.Image:
    """Take the comparison of highest contrast in the middle third: dark images print badly."""
    third = len(worst_to_best) // 3
    rows = [Image.open(path).convert("RGB") for path in worst_to_best[third:-third]]
    return max(rows, key=lambda row: np.std(row.crop((0, 0, row.width // 4, row.height))))


def main() -> None:
    """Train, draw and print the scores."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("--out", type=Path, default=Path("runs"))
    parser.add_argument("--budget", default="10m")
    arguments = parser.parse_args()
    rows = []
    for name, settings in DATASETS.items():
        run = arguments.out / name
        config = TrainConfig(budget=arguments.budget, device="cpu", **settings)
        result = train(arguments.data / name, run, config)
        pooled = result.score("dice", "pooled")
        print(f"{name}: Dice {pooled:.4f} pooled, {result.dice:.4f} per image", flush=True)
        worst_to_best = sorted(RunFolder(run).saved_images.glob("*_comparison.png"))
        row = choose(worst_to_best)
        size = (WIDTH, round(row.height * WIDTH / row.width))
        rows.append(row.resize(size, Image.Resampling.LANCZOS))
        rows[-1].save(Path(__file__).with_name(f"results-{name}.jpg"), quality=88)
    strip = Image.new("RGB", (WIDTH, sum(row.height for row in rows) + 4), "white")
    top = 0
    for row in rows:
        strip.paste(row, (0, top))
        top += row.height + 4
    strip.save(Path(__file__).with_name("results.jpg"), quality=88)


if __name__ == "__main__":
    main()
