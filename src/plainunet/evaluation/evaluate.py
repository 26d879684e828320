"""Evaluate a model on images whose masks are known, after the metric protocol."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from plainunet.config import DataConfig
from plainunet.dataset.classes import common_names, describe, find_coding
from plainunet.dataset.coding import (
    Coding,
    Colors,
    Instances,
    MaskCounts,
    Values,
    coding_from_json,
    count_masks,
    palettes_differ,
)
from plainunet.dataset.dataset import SegmentationDataset, data_digest
from plainunet.dataset.pairs import Pair, find_pairs
from plainunet.dataset.split import SPLIT_FILE, read_split
from plainunet.dataset.verify import check_pairs
from plainunet.evaluation.measure import measure, predict_images, score_images
from plainunet.evaluation.report import About, choose_shown, show, write_report
from plainunet.formats.colors import IGNORED
from plainunet.formats.problems import command
from plainunet.formats.sources import Source
from plainunet.network.checkpoint import Card
from plainunet.palette import default_names
from plainunet.prediction.predictor import Predictor
from plainunet.reporter import Reporter, silent
from plainunet.settings import with_dataset

_PARTS = ("train", "val", "test", "all")
_NOWHERE = 60000  # a value that no mask with names has


def evaluate(
    checkpoint: str | Path,
    data: str | Path,
    *,
    split: str | None = None,
    images: str | None = None,
    masks: str | None = None,
    pairs: str | None = None,
    rle: Literal["rows", "columns"] | None = None,
    unlisted: Literal["empty"] | None = None,
    skip_unlabelled: bool = False,
    allow_outside: bool = False,
    objects: bool = False,
    html: Path | None = None,
    device: str = "auto",
    precision: str = "auto",
    reporter: Reporter = silent,
) -> dict[str, Any]:
    """Score a checkpoint on a folder of images and masks.

    Args:
        checkpoint: A `best.safetensors`.
        data: The folder. If it is the one that the run was trained on, its validation part is
            taken, after the `split.csv` beside the checkpoint, even if files have come or gone
            since; any other folder is taken whole.
        split: Take this part instead: "train", "val", "test" or "all".
        images: Folder of the images below `data`; left out, it is found. This, the next five
            and what masks mean may also stand in a `dataset.toml` there.
        masks: Folder of the masks below `data`, or a COCO file or a list of run-length codes.
        pairs: How they belong together, see `plainunet.dataset.pairs.find_pairs`.
        rle: How run-length codes count; left out, it is found.
        unlisted: "empty" if images that a list of run-length codes does not name have no masks.
        skip_unlabelled: Whether images without a mask are left out.
        allow_outside: Whether a dataset.toml is followed that leads out of the folder.
        objects: Whether objects are counted as well; they always are where masks number them.
        html: File for a report with images.
        device: "auto", "cpu", "cuda" or "mps".
        precision: "auto", "fp32" or "bf16".
        reporter: Told what was left aside in the folder, or taken as what, and the progress.

    Returns:
        As by `score_images`, with `split`.

    Raises:
        FileNotFoundError: No such checkpoint or folder.
        ValueError: The folder cannot be understood, or has no image in that part.
    """
    predictor = Predictor.load(checkpoint, device=device, precision=precision)
    folder: dict[str, Any] = {"images": images, "masks": masks, "pairs": pairs, "rle": rle}
    folder |= {"unlisted": unlisted, "skip_unlabelled": skip_unlabelled}
    folder["allow_outside"] = allow_outside
    checkpoint, data = Path(checkpoint), Path(data)
    dataset, split = open_dataset(predictor.card, checkpoint, data, split, folder, reporter)
    objects = objects or isinstance(dataset.coding, Instances)
    scores = evaluate_dataset(predictor, dataset, reporter, objects=objects)
    result: dict[str, Any] = {"split": split, **scores}
    _note_absent(result["confusion"], dataset, reporter)
    if html is not None:
        options = {"split": split, **folder, "objects": objects}
        again = command("plainunet", "evaluate", checkpoint, data, *_flags(options))
        _write_report(html, result, predictor, dataset, About(str(checkpoint), str(data), again))
    return result


def _note_absent(
    confusion: Sequence[Sequence[int]], dataset: SegmentationDataset, reporter: Reporter
) -> None:
    rows = zip(dataset.class_names, confusion, strict=True)
    if absent := [name for name, row in rows if not sum(row)]:
        reporter.note(
            f"no mask has a pixel of {', '.join(absent)}. If there should be some, say what the "
            f"masks' values mean in a dataset.toml in {dataset.folder}"
        )


def _flags(options: Mapping[str, Any]) -> list[str]:
    """Options as on the command line."""
    flags: list[str] = []
    for name, value in options.items():
        if value:
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
) -> dict[str, Any]:
    """Score a model on a dataset, at the images' own sizes; as by `score_images`."""
    reporter.stage("judging", len(dataset))
    measured = []
    for each in measure(predictor, dataset, objects=objects):
        measured.append(each)
        reporter.advance(len(measured))
    card = predictor.card
    return score_images(measured, dataset.pairs, card.class_names, card.threshold)


def open_dataset(
    card: Card,
    checkpoint: Path,
    data: Path,
    split: str | None,
    folder: Mapping[str, Any] | None,
    reporter: Reporter,
) -> tuple[SegmentationDataset, str]:
    """Open the images that a model is evaluated on, their masks read as its classes.

    `folder` says where images and masks are, as of `FolderConfig`; what is None or False is
    found. Returns the dataset and the name of its part.
    """
    given = {key: value for key, value in (folder or {}).items() if value}
    known = with_dataset(DataConfig(**given), data)
    pairs = find_pairs(data, known, reporter, at_least=1)
    pairs, split = _choose_part(pairs, data, checkpoint, card, split, reporter)
    shapes = check_pairs(pairs)
    coding = match_classes(card, [pair.mask for pair in pairs], known)
    return SegmentationDataset(data, pairs, coding, card.class_names, shapes), split


def _choose_part(
    pairs: list[Pair],
    data: Path,
    checkpoint: Path,
    card: Card,
    split: str | None,
    reporter: Reporter,
) -> tuple[list[Pair], str]:
    """Take a part of a folder, after the run's split or its own sub-folders; and its name."""
    if split is not None and split not in _PARTS:
        raise ValueError(f"--split {split}: it is one of {', '.join(_PARTS)}.")
    unchanged = card.training.get("digest") == data_digest(pairs, data)
    trained_on = unchanged or _is_known(card.training.get("sample", {}), data)
    split = split or ("val" if trained_on else "all")
    if split == "all":
        return pairs, split
    if trained_on:
        listed = checkpoint.parent / SPLIT_FILE
        if not listed.is_file():
            raise FileNotFoundError(
                f"{listed} does not exist: which pictures of {data} were held out from the model "
                "stands there. Give the checkpoint in its run folder, copy that file beside it, "
                "or judge all pictures by --split all, also those that it was trained on."
            )
        held = read_split(listed, data)
        pairs = held if unchanged else _still_there(held, pairs, data, reporter)
    chosen = [pair for pair in pairs if pair.part == split]
    if not chosen:
        there = sorted({pair.part for pair in pairs if pair.part}) or ["none"]
        raise ValueError(
            f"{data}: no picture belongs to the part {split!r} (its parts: {', '.join(there)}). "
            "Give --split all, or the folder that the model was trained on."
        )
    return chosen, split


def _is_known(sizes: dict[str, int], folder: Path) -> bool:
    """Whether a folder has most of the files whose sizes [bytes] were remembered in training."""
    files = {folder / name: size for name, size in sizes.items()}
    same = sum(file.is_file() and file.stat().st_size == size for file, size in files.items())
    return 2 * same > len(sizes)


def _still_there(
    split: list[Pair], pairs: list[Pair], data: Path, reporter: Reporter
) -> list[Pair]:
    """Those pairs of a run's split that are still in its folder."""
    known = {pair.image: pair for pair in split}
    kept = [known[pair.image] for pair in pairs if pair.image in known]
    new, gone = len(pairs) - len(kept), len(known) - len(kept)
    if new or gone:
        reporter.note(
            f"{data} has changed since the model was trained on it: {new} new pictures "
            f"are left out, {gone} have gone. --split all takes all, also those trained on."
        )
    else:
        reporter.note(f"files in {data} have changed since the model was trained on it")
    return kept


def match_classes(card: Card, masks: Sequence[Source], known: DataConfig) -> Coding:
    """Find out how masks are read as the classes of a model.

    By the masks' names of classes; else by what the folder's dataset.toml (`known`) says of them;
    else as the masks of the training were read, if they fit; else as they are. Masks whose classes
    are not the model's are a ValueError.
    """
    names = common_names(masks)
    if names:
        return _by_name(card.class_names, names, masks)
    if known.values or known.colors or known.encoding or known.ignore is not None:
        coding = _as_they_are(card, masks, known)
        order = _order(card.class_names, known.classes) if known.classes else None
        return coding if order is None else _reordered(coding, order)
    return _as_in_training(card, masks) or _as_they_are(card, masks, known)


def _by_name(
    class_names: tuple[str, ...], names: tuple[str, ...], masks: Sequence[Source]
) -> Coding:
    values = _order(class_names, names)
    coding = Values(values, IGNORED, class_names)
    for path in masks:
        found = np.unique(coding.read_stored(path)).tolist()
        strange = [names[value] for value in found if value != IGNORED and value not in values]
        if strange:
            raise ValueError(
                f"{path} has the class '{strange[0]}', which the model does not know: it has "
                f"{', '.join(class_names)}. Take it out of the masks, rename it, or judge a "
                "model that knows it."
            )
    return coding


def _order(class_names: tuple[str, ...], names: tuple[str, ...]) -> tuple[int, ...]:
    """The place of each of a model's classes among the masks' names."""
    if len(names) == len(class_names) and default_names(len(names)) in (names, class_names):
        return tuple(range(len(names)))
    places = {name.casefold(): place for place, name in enumerate(names)}
    order = [
        places.get(name.casefold(), 0 if class_id == 0 else _NOWHERE + class_id)
        for class_id, name in enumerate(class_names)
    ]
    if all(place >= _NOWHERE for place in order[1:]):
        raise ValueError(
            f"The masks have the classes {', '.join(names)}, the model {', '.join(class_names)}: "
            "none but the background has the same name. Rename those that are the same."
        )
    return tuple(order)


def _reordered(coding: Coding, order: tuple[int, ...]) -> Coding:
    """Put a coding in the order of a model's classes, where it is not."""
    if order == tuple(range(coding.num_classes)):
        return coding
    if max(order) >= coding.num_classes or not isinstance(coding, Values):
        raise ValueError(
            "The dataset.toml of the folder names other classes than the model has, or in another "
            "order. Name the model's, in its order."
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
    # one value alone numbers no objects, and without 0 there is no background
    if stored and (0 not in stored or len(stored) == 2):
        return None
    return coding


def _as_they_are(card: Card, masks: Sequence[Source], known: DataConfig) -> Coding:
    count = len(card.class_names)
    ignore = card.masks.get("ignore") if known.ignore is None else known.ignore
    try:
        complete = known.model_copy(update={"classes": card.class_names, "ignore": ignore})
        coding = find_coding(masks, complete)[0]
        if isinstance(coding, Colors) and not known.colors:
            raise ValueError(
                "They name classes by colour, and which colour is which of these classes is not "
                "known. Say it in a dataset.toml in the folder (colors = [...]), or save the "
                "class ids as a grey or palette PNG."
            )
    except ValueError as error:
        raise ValueError(
            f"The masks are not those of this model's {count} classes "
            f"({', '.join(card.class_names)}). {error} (To judge, say such things in a "
            "dataset.toml in the data folder.)"
        ) from error
    return coding
