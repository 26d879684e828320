"""Ablations: one setting changed at a time, on the same held-out images.

    python benchmarks/ablations.py DATA [DATASET ...]
    python docs/results.py --tables

All settings are given, with epochs instead of a budget: so no run depends on the load of the
machine, and all of a dataset see equally many images, unless the change is the number of epochs. A
change is compared with the base, or with the run that its `against` names. `tta` only changes
prediction; `noise` grows or shrinks the training masks, each by a random number of pixels up to
this share of its width.

In: `ablations.toml` next to this file. Out: `docs/ablations.json`, the rows of a table in
docs/results.md: the score with and without each change, and the difference with its 95 % confidence
interval by a paired bootstrap over the groups of the held-out images. A run that exists is not
repeated, and one that was stopped is continued.
"""

import argparse
import dataclasses
import json
import re
import shutil
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from plainunet import TrainConfig, compare, resume, train
from plainunet.dataset.pairs import find_pairs
from plainunet.files import write_whole
from plainunet.formats.masks import read_mask
from plainunet.network.checkpoint import load_checkpoint, save_checkpoint
from plainunet.training.run import RunFolder

SETTINGS = Path(__file__).with_suffix(".toml")
OUT = Path(__file__).parents[1] / "docs" / "ablations.json"
SCORES = {
    ("dice", "per_image"): "Dice per image",
    ("dice", "pooled"): "pooled Dice",
    ("iou", "pooled"): "pooled mean IoU without background",
}


def train_to_end(data: Path, run: Path, settings: Mapping[str, Any]) -> None:
    """Train a run, or continue it."""
    if not run.exists():
        train(data, run, TrainConfig(**settings))
    elif not RunFolder(run).report.exists():
        resume(run)


def add_noise(data: Path, noisy: Path, share: float) -> Path:
    """Copy a folder, the masks as a careless annotator draws them: a little too large or small."""
    if noisy.exists():
        return noisy
    random = np.random.default_rng(0)
    for pair in find_pairs(data):
        image, mask = (noisy / Path(each).relative_to(data) for each in (pair.image, pair.mask))
        image.parent.mkdir(parents=True, exist_ok=True)
        image.symlink_to(Path(pair.image).resolve())
        values = read_mask(pair.mask)
        radius = int(random.integers(1, max(2, share * values.shape[1])))
        disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1,) * 2)
        changed = cv2.dilate(values, disc) if random.random() < 0.5 else cv2.erode(values, disc)
        mask.parent.mkdir(parents=True, exist_ok=True)
        mask.write_bytes(cv2.imencode(".png", changed)[1])  # formats are known by content
    return noisy


def with_tta(run: Path, other: Path, tta: str) -> None:
    """Copy a trained model that predicts with test-time augmentation."""
    if not other.exists():
        network, card = load_checkpoint(RunFolder(run).best)
        shutil.copytree(run, other)
        save_checkpoint(RunFolder(other).best, network, dataclasses.replace(card, tta=tta))


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
        train_to_end(data, first, base)
        for change, settings in study["changes"].items():
            settings = dict(settings)
            second, other = (
                arguments.runs / name / re.sub(r"[^\w.]+", "-", each)
                for each in (change, settings.pop("against", "base"))
            )
            noise = settings.pop("noise", 0)
            noisy = arguments.runs / f"{name}-noise-{noise}"
            source = add_noise(data, noisy, noise) if noise else data
            if tta := settings.pop("tta", ""):
                with_tta(other, second, tta)
            else:
                train_to_end(source, second, {**base, **settings})
            found = compare(other, second, data).difference(*metric)
            card = load_checkpoint(RunFolder(second).best)[1]
            row = {
                "dataset": name,
                "change": change,
                "metric": SCORES[metric[0], metric[1]],
                "base": found.first,
                "changed": found.second,
                "difference": found.difference,
                "interval": found.interval,
                "budget": f"{base['epochs']} epochs",
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
