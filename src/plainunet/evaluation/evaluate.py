"""Evaluate a model on images with ground truth masks, following the metric protocol."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from plainunet.config import BackendName, DataConfig
from plainunet.dataset.census import MaskCounts, count_masks, palettes_differ
from plainunet.dataset.classes import common_names, describe, find_coding
from plainunet.dataset.coding import Coding, Colors, Instances, Values, coding_from_json
from plainunet.dataset.dataset import SegmentationDataset, as_folder, check_pairs, data_digest
from plainunet.dataset.pairs import Pair, find_pairs
from plainunet.dataset.shards import ShardedDataset
from plainunet.dataset.split import SPLIT_FILE, read_split
from plainunet.errors import Error, require_choice, take_path
from plainunet.evaluation.measure import measure, predict_images, score_images
from plainunet.evaluation.metrics import PER_CLASS, Metrics, with_own
from plainunet.evaluation.report import About, choose_shown, show, write_report
from plainunet.evaluation.scores import Scores
from plainunet.formats.colors import IGNORED
from plainunet.formats.problems import DataError, command
from plainunet.formats.shards import is_sharded
from plainunet.formats.sources import Polygons, Source
from plainunet.network.card import FOLDS_FILE, SCORES_FILE, Card
from plainunet.palette import default_names
from plainunet.parts import flags_of, parts_of
from plainunet.prediction.predictor import Predictor
from plainunet.reporter import Reporter, or_default, silent
from plainunet.settings import check_settings, with_dataset

_SPLITS = ("train", "val", "test", "all")
_ABSENT = 60000  # plus a class id: a value that no mask has


def evaluate(
    checkpoint: str | Path,
    data: Any,
    *,
    split: str | None = None,
    images: str | None = None,
    masks: str | None = None,
    pairs: str | None = None,
    rle: Literal["rows", "columns"] | None = None,
    unlisted: Literal["empty"] | None = None,
    class_column: str | None = None,
    block: int | None = None,
    skip_unlabelled: bool = False,
    allow_outside: bool = False,
    objects: bool = False,
    metrics: Any = None,
    html: str | Path | None = None,
    backend: BackendName = "auto",
    device: str = "auto",
    precision: str = "auto",
    network: Any = None,
    reporter: Reporter | None = None,
) -> Scores:
    """Evaluate a checkpoint on a folder of images and masks.

    Args:
        checkpoint: A `best.safetensors`, its run folder, or an exported .onnx or .xml. The folder
            of a cross-validation is the ensemble of its folds.
        data: The folder. For the training folder, its validation split is evaluated, as listed in
            the `split.csv` next to the checkpoint, even if files were added or removed since; any
            other folder is evaluated as a whole. Or a dataset of arrays, as for `train`.
        split: Evaluate this split instead: "train", "val", "test" or "all".
        images: Folder of the images below `data`; default: detected. A `dataset.toml` there may
            hold this, the next five, and the label encoding of the masks.
        masks: Folder of the masks below `data`, or a COCO file, a list of run-length codes, or a
            file of polygons.
        pairs: How images and masks are paired, see `plainunet.dataset.pairs.find_pairs`.
        rle: Pixel order of run-length codes; default: detected.
        unlisted: "empty" if images missing from a list of run-length codes have empty masks.
        class_column: Column of polygons with their class; "" for one class per file. Default: as in
            training, or detected.
        block: Side of the blocks that scenes are read in [pixels]; 0 for whole. Default: as in
            training.
        skip_unlabelled: Whether to skip images without a mask.
        allow_outside: Whether a dataset.toml may point outside the folder.
        objects: Whether to count objects too; always done for instance masks.
        metrics: Your own metrics, a function or a list: from confusion matrices [..., K, K] int64,
            rows ground truth, columns prediction, to scores [..., K], nan where undefined; or, if
            it takes two arguments, from the ground truth and the prediction of a class in an
            image, [H, W] bool, False where ignored, to a number. Or their names
            `package.module:function`.
        html: File for a report with images.
        backend: What runs the network, as in `Predictor.load`.
        device: "auto", "cpu", "cuda" or "mps".
        precision: "auto", "fp32" or "bf16".
        network: The factory of your own network, as in `Predictor.load`.
        reporter: Receives notes on how the folder was read, and the progress; default: shown in
            notebooks.

    Returns:
        The scores.

    Raises:
        FileNotFoundError: No such checkpoint or folder.
        ValueError: The folder cannot be read, or has no image in that split.

    Example:
        ```python
        from plainunet import evaluate

        scores = evaluate("runs/first", "my-data", split="val", html="report.html")
        print(scores.dice, scores.interval("dice"))
        ```
    """
    reporter = or_default(reporter)
    checkpoint = take_path(checkpoint, "checkpoint")
    predictor = Predictor.load(
        checkpoint, backend=backend, device=device, precision=precision, network=network
    )
    folder: dict[str, Any] = {"images": images, "masks": masks, "pairs": pairs, "rle": rle}
    folder |= {"unlisted": unlisted, "skip_unlabelled": skip_unlabelled}
    folder |= {"class_column": class_column, "block": block}
    folder["allow_outside"] = allow_outside
    own = parts_of(metrics, "--metrics")
    chosen = with_own(own, len(predictor.card.class_names))
    html = None if html is None else take_path(html, "html")
    with as_folder(data, reporter) as path:
        dataset, split = open_dataset(predictor.card, checkpoint, path, split, folder, reporter)
        objects = objects or isinstance(dataset.coding, Instances)
        scores = evaluate_dataset(predictor, dataset, reporter, objects=objects, metrics=chosen)
        result: dict[str, Any] = {"split": split, **scores}
        _note_missing_classes(result["confusion"], dataset, reporter)
        if html is not None:
            options = {"split": split, **folder, "objects": objects}
            flags = [*_flags(options), *flags_of("metrics", own)]
            flags += flags_of("network", parts_of(network, "--network"))
            again = command("plainunet", "evaluate", checkpoint, path, *flags, "--html", html)
            about = About(str(checkpoint), str(path), again)
            _write_report(html, result, predictor, dataset, about)
    return Scores(checkpoint, result, html)


def _note_missing_classes(
    confusion: Sequence[Sequence[int]], dataset: SegmentationDataset, reporter: Reporter
) -> None:
    rows = zip(dataset.class_names, confusion, strict=True)
    if absent := [name for name, row in rows if not sum(row)]:
        reporter.note(
            f"no mask has a pixel of {', '.join(absent)}. If some should, set the label encoding "
            f"in {dataset.folder / 'dataset.toml'}"
        )


def _flags(options: Mapping[str, Any]) -> list[str]:
    """Format options as flags."""
    flags: list[str] = []
    for name, value in options.items():
        if value is not None and value is not False:
            flags += [f"--{name.replace('_', '-')}", *([] if value is True else [value])]
    return flags


def _write_report(
    html: Path,
    result: dict[str, Any],
    predictor: Predictor,
    dataset: SegmentationDataset,
    about: About,
) -> None:
    chosen = choose_shown(result)
    predicted = predict_images(predictor, dataset.subset(list(chosen)))
    shown = [show(*each, one) for each, one in zip(chosen.items(), predicted, strict=True)]
    write_report(html, result, shown, predictor, dataset, about)


def evaluate_dataset(
    predictor: Predictor,
    dataset: SegmentationDataset,
    reporter: Reporter = silent,
    *,
    objects: bool = False,
    metrics: Metrics = PER_CLASS,
) -> dict[str, Any]:
    """Evaluate a model on a dataset at native resolution; returns as `score_images`."""
    reporter.stage("evaluating", len(dataset))
    measured = []
    for each in measure(predictor, dataset, objects=objects, metrics=metrics):
        measured.append(each)
        reporter.advance(len(measured))
    card = predictor.card
    return score_images(measured, dataset.pairs, card.class_names, card.threshold, metrics)


def open_dataset(
    card: Card,
    checkpoint: Path,
    data: Path,
    split: str | None,
    folder: Mapping[str, Any] | None,
    reporter: Reporter,
) -> tuple[SegmentationDataset, str]:
    """Open the images that a model is evaluated on, with masks read as the model's classes.

    `folder` holds fields of `FolderConfig`; those that are None or False are detected. Returns the
    dataset and the name of its split.
    """
    if is_sharded(data):
        shards, split = ShardedDataset.of(data), split or "val"
        coding = _reordered(shards.coding, _order(card.class_names, shards.class_names))
        chosen = shards if split == "all" else shards.part(split)
        return replace(chosen, coding=coding, class_names=card.class_names), split
    fields = {
        key: value
        for key, value in (folder or {}).items()
        if value is not None and value is not False
    }
    known = with_dataset(check_settings(DataConfig, fields, "the folder"), data)
    pairs = _find_as_in_training(card, data, known, reporter)
    pairs, split = _choose_split(pairs, data, checkpoint, card, split, reporter)
    shapes = check_pairs(pairs)
    coding = match_classes(card, [pair.mask for pair in pairs], known)
    if isinstance(coding, Instances) and split == "all":  # often another folder
        reporter.note(
            "note: masks are read as numbered objects, as in training: all but 0 is foreground"
        )
    return SegmentationDataset(data, pairs, coding, card.class_names, shapes), split


def _find_as_in_training(
    card: Card, data: Path, known: DataConfig, reporter: Reporter
) -> list[Pair]:
    """Pair images and masks; what is open about scenes is as in the model's training, if it fits.

    Polygons of other classes are a ValueError: a split that is listed has its own column.
    """
    trained = card.training.get("settings", {})
    given = known.model_dump(exclude_unset=True, exclude_none=True)
    open_ones = {key: trained[key] for key in ("class_column", "block") if key in trained}
    same = check_settings(DataConfig, {**open_ones, **given}, "the checkpoint")
    try:
        pairs = find_pairs(data, same, reporter, at_least=1)
    except DataError as error:
        if error.code != "which-column" or same.class_column == known.class_column:
            raise
        same = same.model_copy(update={"class_column": known.class_column})
        pairs = find_pairs(data, same, reporter, at_least=1)
    polygons = [pair.mask for pair in pairs if isinstance(pair.mask, Polygons)]
    try:
        if polygons:
            _order(card.class_names, common_names(polygons))
    except Error as error:
        raise Error(f"{error} Or choose another column: --class-column.") from error
    return pairs


def _choose_split(
    pairs: list[Pair],
    data: Path,
    checkpoint: Path,
    card: Card,
    split: str | None,
    reporter: Reporter,
) -> tuple[list[Pair], str]:
    """Select a split of a folder, by the run's split.csv or its sub-folders; and its name."""
    if split is not None:
        require_choice(split, _SPLITS, "split")
    unchanged = card.training.get("digest") == data_digest(pairs, data)
    trained_on = unchanged or _is_training_folder(card.training.get("sample", {}), data)
    is_ensemble = (checkpoint / FOLDS_FILE).is_file()
    split = split or (("test" if is_ensemble else "val") if trained_on else "all")
    if split == "all":
        return pairs, split
    if trained_on:
        listed = (checkpoint if checkpoint.is_dir() else checkpoint.parent) / SPLIT_FILE
        if not listed.is_file():
            raise FileNotFoundError(
                f"{listed}: no such file; it lists the images of {data} that were held out from "
                "training. Use the checkpoint in its run folder, copy that file next to it, or "
                "evaluate all images, training images included: --split all."
            )
        held = read_split(listed, data)
        pairs = held if unchanged else _keep_existing(held, pairs, data, reporter)
    chosen = [pair for pair in pairs if pair.part == split]
    if not chosen:
        if trained_on and is_ensemble:
            raise Error(
                f"{data}: no image was held out from all folds of {checkpoint}; the scores of the "
                f"images that each fold held out are in {checkpoint / SCORES_FILE}. Use another "
                "folder, or a dataset with a test split."
            )
        present = sorted({pair.part for pair in pairs if pair.part}) or ["none"]
        raise Error(
            f"{data}: no image in the split {split!r} (splits found: {', '.join(present)}). "
            "Use --split all, or the folder that the model was trained on."
        )
    return chosen, split


def _is_training_folder(sizes: dict[str, int], folder: Path) -> bool:
    """Whether a folder has most of the training files, by name and size [bytes]."""
    files = {folder / name: size for name, size in sizes.items()}
    same = sum(file.is_file() and file.stat().st_size == size for file, size in files.items())
    return 2 * same > len(sizes)


def _keep_existing(
    split: list[Pair], pairs: list[Pair], data: Path, reporter: Reporter
) -> list[Pair]:
    """Keep the pairs of a run's split that still exist in its folder."""
    known = {pair.image: pair for pair in split}
    kept = [known[pair.image] for pair in pairs if pair.image in known]
    new, gone = len(pairs) - len(kept), len(known) - len(kept)
    if new or gone:
        reporter.note(
            f"{data} has changed since training: {new} new images are not evaluated, {gone} are "
            "missing. --split all evaluates all images, training images included."
        )
    else:
        reporter.note(f"files in {data} have changed since training")
    return kept


def match_classes(card: Card, masks: Sequence[Source], known: DataConfig) -> Coding:
    """Find the coding that reads masks as the classes of a model.

    The first that applies: the class names of the masks; the folder's dataset.toml (`known`); the
    coding used in training, if it fits; the coding detected from the masks.

    Raises:
        ValueError: The classes of the masks are not those of the model.
    """
    names = common_names(masks)
    if names:
        return _by_name(card.class_names, names, masks)
    if known.values or known.colors or known.encoding or known.ignore is not None:
        coding = _from_masks(card, masks, known)
        order = _order(card.class_names, known.classes) if known.classes else None
        return coding if order is None else _reordered(coding, order)
    return _as_in_training(card, masks) or _from_masks(card, masks, known)


def _by_name(
    class_names: tuple[str, ...], names: tuple[str, ...], masks: Sequence[Source]
) -> Coding:
    values = _order(class_names, names)
    coding = Values(values, IGNORED, class_names)
    for path in masks:
        found = np.unique(coding.read_stored(path)).tolist()
        unknown = [names[value] for value in found if value != IGNORED and value not in values]
        if unknown:
            raise Error(
                f"{path} has the class '{unknown[0]}', which the model does not have (its "
                f"classes: {', '.join(class_names)}). Remove or rename it in the masks, or "
                "evaluate another model."
            )
    return coding


def _order(class_names: tuple[str, ...], names: tuple[str, ...]) -> tuple[int, ...]:
    """The index of each of a model's classes among the masks' class names."""
    if len(names) == len(class_names) and default_names(len(names)) in (names, class_names):
        return tuple(range(len(names)))
    places = {name.casefold(): place for place, name in enumerate(names)}
    order = [
        places.get(name.casefold(), 0 if class_id == 0 else _ABSENT + class_id)
        for class_id, name in enumerate(class_names)
    ]
    if all(place >= _ABSENT for place in order[1:]):
        raise Error(
            f"The masks have the classes {', '.join(names)}, the model {', '.join(class_names)}: "
            "no foreground class has the same name. Rename matching classes."
        )
    return tuple(order)


def _reordered(coding: Coding, order: tuple[int, ...]) -> Coding:
    """Put a coding in the order of a model's classes."""
    if order == tuple(range(coding.num_classes)):
        return coding
    if max(order) >= coding.num_classes or not isinstance(coding, Values):
        raise Error(
            "The dataset.toml of the folder lists other classes than the model, or in another "
            "order. List the model's classes, in its order."
        )
    return replace(coding, values=tuple(coding.values[place] for place in order))


def _as_in_training(card: Card, masks: Sequence[Source]) -> Coding | None:
    if not card.masks:
        return None
    coding = coding_from_json(card.masks)
    try:
        if isinstance(coding, Colors):
            return find_coding(masks, describe(coding, card.class_names))[0]
        if palettes_differ([each for each in count_masks(masks) if isinstance(each, MaskCounts)]):
            return None
        stored: set[int] = set()
        for path in masks:
            coding.read(path)
            if isinstance(coding, Instances):
                stored.update(np.unique(coding.read_stored(path)).tolist())
    except ValueError:
        return None
    # a single value is no numbering of objects, and instance masks have 0 as background
    if stored and (0 not in stored or len(stored) == 2):
        return None
    return coding


def _from_masks(card: Card, masks: Sequence[Source], known: DataConfig) -> Coding:
    count = len(card.class_names)
    ignore = card.masks.get("ignore") if known.ignore is None else known.ignore
    try:
        complete = known.model_copy(update={"classes": card.class_names, "ignore": ignore})
        coding = find_coding(masks, complete)[0]
        if isinstance(coding, Colors) and not known.colors:
            raise Error(
                "Their classes are encoded as colours, in an unknown order. List the colours in a "
                "dataset.toml in the folder (colors = [...]), or save the class ids as a grey or "
                "palette PNG."
            )
    except ValueError as error:
        raise Error(
            f"The masks do not match the model's {count} classes "
            f"({', '.join(card.class_names)}). {error} (For evaluate, put such settings in a "
            "dataset.toml in the data folder.)"
        ) from error
    return coding
