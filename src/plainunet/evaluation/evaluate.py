"""Judge a model on pictures whose masks are known, after the metric protocol.

Every picture goes the Predictor's road and is counted at its own size, on its own mask.
"""

import hashlib
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from plainunet.data.check import check_pairs
from plainunet.data.folders.stacks import open_stacks
from plainunet.data.images import read_image
from plainunet.data.masks import MaskCoding
from plainunet.data.pairing import Pair, find_pairs
from plainunet.data.places import files_of
from plainunet.data.split_file import SPLIT_FILE, name_below, read_split
from plainunet.data_config import DataConfig
from plainunet.evaluation.classes import match_classes
from plainunet.evaluation.metrics import Counts, confusion_matrix, scores, summarise
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
        device: "auto", "cpu", "cuda" or "mps".
        precision: "auto", "fp32" or "bf16".
        on_progress: Told how many of how many pictures are done.
        on_note: Told what was left aside in the folder, or taken as what.

    Returns:
        `summarise`'s dictionary, with `split`, and `images`: for each picture its path
        and its scores.

    Raises:
        FileNotFoundError: No such checkpoint or folder.
        ValueError: The folder cannot be understood, or has no picture in that part.
    """
    predictor = Predictor.load(checkpoint, refine=refine, device=device, precision=precision)
    given: dict[str, Any] = {"images": images, "masks": masks, "pairs": pairs, "rle": rle}
    given["skip_unlabelled"] = skip_unlabelled or None
    where = DataConfig(**{key: value for key, value in given.items() if value is not None})
    where = with_dataset(where, Path(data))
    found = find_pairs(
        Path(data),
        at_least=1,
        **where.folder_arguments(),
        on_note=on_note,
    )
    found = open_stacks(found, on_note)
    found, split = _choose(found, Path(data), Path(checkpoint), predictor.card, split, on_note)
    check_pairs(found)
    coding = match_classes(predictor.card, [pair.mask for pair in found], where)
    return {"split": split, **judge(predictor, found, coding, on_progress)}


def judge(
    predictor: Predictor,
    pairs: Sequence[Pair],
    coding: MaskCoding,
    on_progress: OnProgress | None = None,
) -> dict[str, Any]:
    """Score a model on pictures, natively.

    Args:
        predictor: The model.
        pairs: The pictures with their masks.
        coding: How mask values become class ids.
        on_progress: Told how many of how many pictures are done.

    Returns:
        As by `report`.
    """
    counts = []
    for number, confusion in enumerate(confusions(predictor, pairs, coding)):
        counts.append(confusion)
        if on_progress:
            on_progress(number + 1, len(pairs))
    return report(np.stack(counts), pairs, predictor.card.class_names)


def confusions(predictor: Predictor, pairs: Sequence[Pair], coding: MaskCoding) -> Iterator[Counts]:
    """Count picture after picture, natively.

    Args:
        predictor: The model.
        pairs: The pictures with their masks.
        coding: How mask values become class ids.

    Yields:
        [K, K] int64 for each pair in turn, rows truth, columns prediction.
    """
    for _, truth, prediction in judged(predictor, pairs, coding):
        yield confusion_matrix(truth, prediction, predictor.network.num_classes)


def judged(
    predictor: Predictor, pairs: Sequence[Pair], coding: MaskCoding
) -> Iterator[tuple[NDArray[Any], NDArray[np.uint8], NDArray[np.uint8]]]:
    """Predict pictures one after the other, reading the next ones meanwhile.

    Args:
        predictor: The model.
        pairs: The pictures with their masks.
        coding: How mask values become class ids.

    Yields:
        Image [H, W, C] as stored, truth [H, W] uint8 and prediction [H, W] uint8 (class ids;
        255 in the truth does not count), for each pair in turn.
    """

    def read(pair: Pair) -> tuple[NDArray[Any], NDArray[np.uint8]]:
        return read_image(pair.image), coding.read(pair.mask)

    with ThreadPoolExecutor(1) as reader:
        ahead = deque(reader.submit(read, pair) for pair in pairs[:2])
        for number in range(len(pairs)):
            image, truth = ahead.popleft().result()
            if number + 2 < len(pairs):
                ahead.append(reader.submit(read, pairs[number + 2]))
            try:
                prediction = predictor.predict(image)
            except ValueError as error:
                raise ValueError(f"{pairs[number].image}: {error}") from error
            yield image, truth, prediction


def report(counts: Counts, pairs: Sequence[Pair], class_names: Sequence[str]) -> dict[str, Any]:
    """Put the scores of a set and of each of its pictures together.

    Args:
        counts: [n, K, K] int64, one matrix for each picture.
        pairs: The n pictures.
        class_names: K names, the background's first.

    Returns:
        `summarise`'s dictionary and `images`, ready for JSON.
    """
    images = [
        {"image": pair.image.as_posix(), **scores(confusion, class_names)}
        for pair, confusion in zip(pairs, counts, strict=True)
    ]
    return {**summarise(counts, class_names), "images": images}


def data_digest(pairs: Sequence[Pair], folder: Path) -> str:
    """Recognise a data folder: a digest of the names and sizes of its files.

    Args:
        pairs: All its pairs.
        folder: The folder itself, so that it may be moved.

    Returns:
        A SHA-256 in hexadecimal.
    """
    paths = [path for pair in pairs for path in (pair.image, pair.mask)]
    files = sorted({file for path in paths for file in files_of(path)})
    lines = [f"{name_below(file, folder)} {file.stat().st_size}" for file in files]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def sample_sizes(pairs: Sequence[Pair], folder: Path) -> dict[str, int]:
    """Remember some files, by which a data folder is known even when others come or go.

    Args:
        pairs: Its pairs.
        folder: The folder itself.

    Returns:
        The sizes [bytes] of up to 32 pictures' files, spread evenly, by their names below it.
    """
    files = [files_of(pair.image)[0] for pair in pairs[:: -(-len(pairs) // 32)]]
    return {name_below(file, folder): file.stat().st_size for file in files}


def _is_known(sizes: dict[str, int], folder: Path) -> bool:
    """Tell whether a folder has most of the files that were remembered."""
    files = {folder / name: size for name, size in sizes.items()}
    same = sum(file.is_file() and file.stat().st_size == size for file, size in files.items())
    return 2 * same > len(sizes)


def _choose(
    pairs: list[Pair],
    data: Path,
    checkpoint: Path,
    card: Card,
    split: str | None,
    on_note: Callable[[str], None] | None,
) -> tuple[list[Pair], str]:
    """Take a part of a folder: after the run's split, or after its own sub-folders."""
    parts = ("train", "val", "test", "all")
    if split is not None and split not in parts:
        raise ValueError(f"--split {split}: it is one of {', '.join(parts)}.")
    unchanged = card.training.get("digest") == data_digest(pairs, data)
    trained_on = unchanged or _is_known(card.training.get("sample", {}), data)
    split = split or ("val" if trained_on else "all")
    if split == "all":
        return pairs, split
    if unchanged:
        pairs = read_split(checkpoint.parent / SPLIT_FILE, data)
    elif trained_on:
        known = {pair.image: pair for pair in read_split(checkpoint.parent / SPLIT_FILE, data)}
        new = [pair for pair in pairs if pair.image not in known]
        gone = len(known) - (len(pairs) - len(new))
        pairs = [known[pair.image] for pair in pairs if pair.image in known]
        if on_note is not None:
            on_note(
                f"{data} has changed since the model was trained on it: {len(new)} new pictures "
                f"are left out, {gone} have gone. --split all takes all, also those trained on."
            )
    chosen = [pair for pair in pairs if pair.part == split]
    if not chosen:
        there = sorted({pair.part for pair in pairs if pair.part}) or ["none"]
        raise ValueError(
            f"{data}: no picture belongs to the part {split!r} (its parts: {', '.join(there)}). "
            "Give --split all, or the folder that the model was trained on."
        )
    return chosen, split
