"""Dice of small JPEG files: held-out images reduced to the network's input size, then compressed.

    python benchmarks/compression.py DATA RUN [RUN ...]

Prints for each run the mean Dice per image of the foreground classes at the images' own size: from
the original files, from images reduced to the input size of the first run (downscaling hides the
compression of larger ones), and from the same compressed by each `--qualities`.
"""

import argparse
from pathlib import Path

import cv2
import numpy as np

from plainunet import Predictor
from plainunet.dataset.augment import Compression
from plainunet.dataset.coding import coding_from_json
from plainunet.dataset.split import read_split
from plainunet.evaluation.metrics import confusion_matrix, summarise
from plainunet.formats.images import read_image
from plainunet.training.run import RunFolder


def main() -> None:
    """Print a table, a row for each run."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path)
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument("--images", type=int, default=16)
    parser.add_argument("--qualities", type=int, nargs="+", default=[90, 75, 50])
    arguments = parser.parse_args()
    columns = ["original", "reduced", *(f"quality {each}" for each in arguments.qualities)]
    print(f"| | {' | '.join(columns)} |\n|{'---|' * (len(columns) + 1)}")
    compress = Compression(lowest=0, p=1.0).apply
    size = None
    for run in arguments.runs:
        predictor = Predictor.load(run)
        card = predictor.card
        size = size or card.size
        assert size, "the first run has no input size"
        coding, names = coding_from_json(card.masks), card.class_names
        held_out = [
            pair for pair in read_split(RunFolder(run).split, arguments.data) if pair.part == "val"
        ]
        counts = []
        for pair in held_out[:: max(1, len(held_out) // arguments.images)]:
            image, truth = read_image(pair.image), coding.read(pair.mask)
            small = cv2.resize(image, size[::-1], interpolation=cv2.INTER_AREA)
            versions = [image, small, *(compress(small, each) for each in arguments.qualities)]
            masks = [predictor.predict(each) for each in versions]
            sides = truth.shape[::-1]
            whole = [cv2.resize(mask, sides, interpolation=cv2.INTER_NEAREST) for mask in masks]
            counts.append([confusion_matrix(truth, mask, len(names)) for mask in whole])
        scores = [summarise(column, names) for column in np.array(counts).swapaxes(0, 1)]
        means = [f"{each['per_image']['dice']['mean_foreground']:.4f}" for each in scores]
        print(f"| {run.name} | {' | '.join(means)} |", flush=True)


if __name__ == "__main__":
    main()
