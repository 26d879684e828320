"""Two models on the same pictures: which is better, by how much, and where.

In: two checkpoints and a folder. Out: the differences of their scores with intervals, and the
pictures in which they differ most. Both see the same pictures, and groups of pictures are drawn
together for both (paired bootstrap), so that what makes a picture hard is in neither interval.
"""

import csv
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from plainunet.dataset.coding import Coding
from plainunet.dataset.pairs import Pair
from plainunet.evaluation.evaluate import open_folder
from plainunet.evaluation.measure import judged, measure
from plainunet.evaluation.metrics import (
    PER_CLASS,
    PROTOCOL,
    Counts,
    Floats,
    accuracy,
    for_json,
    mean_known,
)
from plainunet.evaluation.statistics import LEVEL, Resampling, pair_for_json
from plainunet.files import write_whole
from plainunet.formats.sources import path_of, stem_of
from plainunet.prediction.drawing import draw_comparison, write_rgb
from plainunet.prediction.predictor import Predictor

DRAWN = 12
"""At most so many pictures are drawn."""
_GAP = 8  # pixels between the two


def compare(
    first: str | Path,
    second: str | Path,
    data: str | Path,
    *,
    out: Path | None = None,
    split: str | None = None,
    folder: Mapping[str, Any] | None = None,
    device: str = "auto",
    precision: str = "auto",
    on_progress: Callable[[str, int, int], None] = lambda what, done, total: None,
    on_note: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Compare two checkpoints of the same classes.

    Args:
        first: A `best.safetensors`.
        second: Another one.
        data: The folder. Of the parts that the two were held out from, the pictures common to
            both are taken.
        out: Folder to make, for `images.csv` and the pictures in which they differ most: each
            model's picture, truth, prediction and errors, the first above the second.
        split: As of `evaluate`.
        folder: Where pictures and masks are, as of `FolderConfig`.
        device: "auto", "cpu", "cuda" or "mps".
        precision: "auto", "fp32" or "bf16".
        on_progress: Told what is done, and how much of it.
        on_note: Told what was left aside.

    Returns:
        {"protocol", "split", "pictures", "groups", "level", "models": [a, b], "scores": {"pooled"
        and "per_image": {score: {"first", "second", "difference", "interval", "better"}}},
        "images": [{"image", "group", "first", "second", "difference"}]}. Scores are the means over
        foreground classes, differences second minus first, "better" the share of drawn sets in
        which the second scores higher; images have Dice, and come with the largest difference
        first.

    Raises:
        FileNotFoundError: No such checkpoint or folder.
        ValueError: The classes differ, no picture was held out from both, the folder cannot be
            understood, or `out` is not empty.
    """
    if out is not None and out.exists() and any(out.iterdir()):
        raise ValueError(f"{out}: is not empty. Give another --out.")
    models = [Predictor.load(each, device=device, precision=precision) for each in (first, second)]
    names = [model.card.class_names for model in models]
    if names[0] != names[1]:
        raise ValueError(
            f"the models have different classes: {first} {', '.join(names[0])}; {second} "
            f"{', '.join(names[1])}. Only models of the same classes in the same order compare."
        )
    found = [
        open_folder(model.card, Path(path), Path(data), split, folder, on_note)
        for model, path in zip(models, (first, second), strict=True)
    ]
    there = {pair.image for pair in found[1][0].pairs}
    pairs = [pair for pair in found[0][0].pairs if pair.image in there]
    if not pairs:
        raise ValueError(
            f"{data}: no picture was held out from both models. Give --split all, or another "
            "folder."
        )
    if on_note and len(pairs) < max(len(each[0]) for each in found):
        on_note(f"held out from both models: {len(pairs)}; all other pictures are left out")
    counts = []
    for path, model, (dataset, _) in zip((first, second), models, found, strict=True):
        each = []
        for measured in measure(model, pairs, dataset.coding, boundary=False):
            each.append(measured.counts)
            on_progress(str(path), len(each), len(pairs))
        counts.append(np.stack(each))
    drawn = Resampling([pair.group for pair in pairs])
    dices = [mean_known(PER_CLASS["dice"](each)[:, 1:], axis=1) for each in counts]
    images = [
        {
            "image": path_of(pair.image).as_posix(),
            "group": pair.group,
            "first": for_json(a),
            "second": for_json(b),
            "difference": for_json(b - a),
        }
        for pair, a, b in zip(pairs, *dices, strict=True)
    ]
    order = np.argsort(-np.abs(np.nan_to_num(dices[1] - dices[0])), kind="stable")
    result: dict[str, Any] = {
        "protocol": PROTOCOL,
        "split": found[0][1],
        "pictures": len(pairs),
        "groups": drawn.groups,
        "level": LEVEL,
        "models": [str(first), str(second)],
        "scores": _differences(counts[0], counts[1], drawn),
        "images": [images[number] for number in order],
    }
    if out is not None:
        _write_images(out, result["images"])
        chosen = [pairs[number] for number in order[:DRAWN]]
        codings = [dataset.coding for dataset, _ in found]
        for number in _draw(out, models, chosen, codings):
            on_progress("drawing", number, len(chosen))
    return result


def _differences(first: Counts, second: Counts, drawn: Resampling) -> dict[str, Any]:
    """Scores of both and their differences, pooled and per image."""

    def foreground(score: Callable[[Counts], Floats]) -> Callable[[Counts], Floats]:
        return lambda counts: mean_known(score(counts)[..., 1:], axis=-1)

    ways = {"accuracy": accuracy, **{n: foreground(score) for n, score in PER_CLASS.items()}}
    sets = [drawn.pooled(each) for each in (first, second)]
    result: dict[str, Any] = {"pooled": {}, "per_image": {}}
    for name, score in ways.items():
        whole = [score(each.sum(axis=0)[None])[0] for each in (first, second)]
        result["pooled"][name] = _entry(whole, score(sets[1]) - score(sets[0]), drawn)
        each = [score(counts) for counts in (first, second)]
        means = [mean_known(values) for values in each]
        result["per_image"][name] = _entry(means, drawn.means(each[1] - each[0]), drawn)
    return result


def _entry(scores: list[Any], differences: Floats, drawn: Resampling) -> dict[str, Any]:
    known = differences[~np.isnan(differences)]
    return {
        "first": for_json(scores[0]),
        "second": for_json(scores[1]),
        "difference": for_json(scores[1] - scores[0]),
        "interval": pair_for_json(drawn.bounds(differences)),
        "better": float((known > 0).mean()) if len(known) and drawn.groups > 1 else None,
    }


def _draw(
    out: Path, models: list[Predictor], pairs: list[Pair], codings: list[Coding]
) -> Iterator[int]:
    """Draw both models' predictions of pictures; yield how many are done."""
    seen = [judged(model, pairs, coding) for model, coding in zip(models, codings, strict=True)]
    colors = models[0].card.colors
    for number, (pair, *both) in enumerate(zip(pairs, *seen, strict=True), 1):
        rows = [draw_comparison(s.image, s.truth, s.prediction, colors) for s in both]
        gap = np.full((_GAP, rows[0].shape[1], 3), 255, np.uint8)
        name = f"{number:02d}_{stem_of(pair.image)}.png"
        write_rgb(out / name, np.concatenate([rows[0], gap, rows[1]]))
        yield number


def _write_images(out: Path, images: list[dict[str, Any]]) -> None:
    with (
        write_whole(out / "images.csv") as whole,
        whole.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file,
    ):
        writer = csv.DictWriter(file, list(images[0]))
        writer.writeheader()
        writer.writerows(images)
