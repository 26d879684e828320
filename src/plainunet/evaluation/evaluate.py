"""Judge a model on pictures whose masks are known, after the metric protocol.

Every picture goes the Predictor's road and is counted at its own size, on its own mask.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from plainunet.data.check import check_pairs
from plainunet.data.folders.stacks import open_stacks
from plainunet.data.masks import MaskCoding
from plainunet.data.pairing import Pair, find_pairs
from plainunet.data.problems import command
from plainunet.data_config import DataConfig
from plainunet.evaluation.classes import match_classes
from plainunet.evaluation.measure import judged, measure
from plainunet.evaluation.parts import choose_part
from plainunet.evaluation.present import About, choose_shown, present, show
from plainunet.evaluation.results import put_together
from plainunet.network.checkpoint import Card
from plainunet.prediction.predictor import Predictor
from plainunet.settings import with_dataset

OnProgress = Callable[[int, int], None]


def evaluate(
    checkpoint: str | Path,
    data: str | Path,
    *,
    split: str | None = None,
    images: str | None = None,
    masks: str | None = None,
    pairs: str | None = None,
    rle: Literal["rows", "columns"] | None = None,
    skip_unlabelled: bool = False,
    refine: str | Path | None = None,
    objects: bool = False,
    html: Path | None = None,
    device: str = "auto",
    precision: str = "auto",
    on_progress: OnProgress | None = None,
    on_note: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Score a checkpoint on a folder of images and masks.

    Args:
        checkpoint: A `best.safetensors`.
        data: The folder. If it is the one that the run was trained on, its validation part is
            taken, after the `split.csv` beside the checkpoint, even if files have come or gone
            since; any other folder is taken whole.
        split: Take this part instead: "train", "val", "test" or "all".
        images: Folder of the pictures below `data`; left out, it is found. This, the next four
            and what masks mean may also stand in a `dataset.toml` there.
        masks: Folder of the masks below `data`, or a COCO file or a list of run-length codes.
        pairs: How they belong together, see `plainunet.data.pairing.find_pairs`.
        rle: How run-length codes count; left out, it is found.
        skip_unlabelled: Whether pictures without a mask are left out.
        refine: A checkpoint of a run with `refine_of`, see `Predictor.load`.
        objects: Whether objects are told apart as well; they always are where masks number them.
        html: File for a report with pictures.
        device: "auto", "cpu", "cuda" or "mps".
        precision: "auto", "fp32" or "bf16".
        on_progress: Told how many of how many pictures are done.
        on_note: Told what was left aside in the folder, or taken as what.

    Returns:
        As by `put_together`, with `split`.

    Raises:
        FileNotFoundError: No such checkpoint or folder.
        ValueError: The folder cannot be understood, or has no picture in that part.
    """
    predictor = Predictor.load(checkpoint, refine=refine, device=device, precision=precision)
    folder = {"images": images, "masks": masks, "pairs": pairs, "rle": rle}
    found, coding, split = understand_folder(
        predictor.card,
        Path(checkpoint),
        Path(data),
        split,
        {**folder, "skip_unlabelled": skip_unlabelled},
        on_note,
    )
    objects = objects or coding.kind == "instances"
    scores = judge(predictor, found, coding, on_progress, objects=objects)
    result: dict[str, Any] = {"split": split, **scores}
    names = predictor.card.class_names
    gone = [name for name, row in zip(names, result["confusion"], strict=True) if not sum(row)]
    if gone and on_note is not None:
        on_note(
            f"no mask has a pixel of {', '.join(gone)}. If there should be some, say what the "
            f"masks' values mean in a dataset.toml in {data}"
        )
    if html is not None:
        chosen = choose_shown(result)
        seen = judged(predictor, [found[number] for number in chosen], coding)
        shown = [show(*each, one) for each, one in zip(chosen.items(), seen, strict=True)]
        flags = ["--split", split, *(["--refine", str(refine)] if refine else [])]
        flags += [part for name, value in folder.items() if value for part in (f"--{name}", value)]
        flags += ["--skip-unlabelled"] * skip_unlabelled + ["--objects"] * objects
        again = command("plainunet", "evaluate", checkpoint, data, *flags)
        about = About(str(checkpoint), str(data), again, str(refine) if refine else None)
        present(html, result, shown, predictor, found, coding, about)
    return result


def understand_folder(
    card: Card,
    checkpoint: Path,
    data: Path,
    split: str | None = None,
    folder: Mapping[str, Any] | None = None,
    on_note: Callable[[str], None] | None = None,
) -> tuple[list[Pair], MaskCoding, str]:
    """Find the pictures that a model is judged on, and read their masks as its classes.

    Args:
        card: The model's description.
        checkpoint: Its file.
        data: The folder.
        split: As of `evaluate`.
        folder: Where pictures and masks are, as of `FolderConfig`; what is None or False is
            found.
        on_note: As of `evaluate`.

    Returns:
        The pairs, how their masks are read, and the part that they are.

    Raises:
        FileNotFoundError: No such folder.
        ValueError: The folder cannot be understood, or has no picture in that part.
    """
    given = {key: value for key, value in (folder or {}).items() if value}
    where = with_dataset(DataConfig(**given), data)
    found = find_pairs(data, at_least=1, **where.folder_arguments(), on_note=on_note)
    found = open_stacks(found, on_note)
    found, split = choose_part(found, data, checkpoint, card, split, on_note)
    check_pairs(found)
    return found, match_classes(card, [pair.mask for pair in found], where), split


def judge(
    predictor: Predictor,
    pairs: Sequence[Pair],
    coding: MaskCoding,
    on_progress: OnProgress | None = None,
    *,
    objects: bool = False,
) -> dict[str, Any]:
    """Score a model on pictures, natively.

    Args:
        predictor: The model.
        pairs: The pictures with their masks.
        coding: How mask values become class ids.
        on_progress: Told how many of how many pictures are done.
        objects: Whether objects are told apart as well.

    Returns:
        As by `put_together`.
    """
    measured = []
    for each in measure(predictor, pairs, coding, objects=objects):
        measured.append(each)
        if on_progress:
            on_progress(len(measured), len(pairs))
    card = predictor.card
    return put_together(measured, pairs, card.class_names, card.threshold)
