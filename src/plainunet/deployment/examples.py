"""The images that an exported file is checked on: given, held out from training, or synthetic."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from plainunet.config import ExportOptions
from plainunet.dataset.layouts import walk
from plainunet.demo import draw_scene
from plainunet.errors import Error
from plainunet.evaluation.evaluate import open_dataset
from plainunet.formats.images import match_channels, read_image, to_unit
from plainunet.network.card import Card
from plainunet.reporter import Reporter
from plainunet.training.run import RunFolder

MOST = 8
"""Largest number of images of a folder."""
CALIBRATING = 64
"""Largest number of images of a folder that int8 is calibrated with."""
_DRAWN = (192, 256)
"""Default height and width of synthetic images [pixels]."""


@dataclass(frozen=True)
class Example:
    """An image [H, W, C] of the model's channels, with its ground truth [H, W] if there is one."""

    image: NDArray[Any]
    truth: NDArray[np.uint8] | None = None


def find_examples(
    checkpoint: Path,
    card: Card,
    channels: int,
    dtype: np.dtype[Any],
    options: ExportOptions,
    reporter: Reporter,
) -> tuple[list[Example], str]:
    """Find images of a dtype for a model; returns them and a description.

    Raises:
        FileNotFoundError: A given image or folder does not exist.
        ValueError: A given image or folder cannot be read, or fits the model in no way.
    """
    if options.images:
        images = [_fit(each, channels, dtype) for each in _read_given(options.images, channels)]
        return [Example(each) for each in images], f"{len(images)} given images"
    folder = options.data or _training_folder(checkpoint)
    if folder is not None:
        try:
            return _from_folder(checkpoint, card, channels, dtype, folder, reporter)
        except (OSError, ValueError) as error:
            if options.data:
                raise
            reporter.note(f"the images of the training are not used: {error}")
    drawn = _draw(card, channels, dtype)
    return drawn, f"{len(drawn)} synthetic images"


def find_calibration(
    checkpoint: Path,
    card: Card,
    channels: int,
    options: ExportOptions,
    reporter: Reporter,
) -> Iterator[NDArray[Any]]:
    """Read images [H, W, C] to calibrate int8 with: given ones, or training images.

    Raises:
        FileNotFoundError: A given image or folder does not exist.
        ValueError: There are none, or one cannot be read.
    """
    if options.images:
        yield from _read_given(options.images, channels)
        return
    folder = options.data or _training_folder(checkpoint)
    if folder is None:
        raise Error(
            f"{checkpoint}: --precision int8 needs images like those of its training, which are "
            "not where they were. Pass their folder with --data, or some with --images."
        )
    split = "train" if RunFolder(checkpoint.parent).split.is_file() else None
    try:
        dataset, _ = open_dataset(card, checkpoint, folder, split, None, reporter)
    except Error:
        if split is None or not options.data:
            raise
        # not the folder of the training, and without splits
        dataset, _ = open_dataset(card, checkpoint, folder, None, None, reporter)
    spread = range(0, len(dataset), -(-len(dataset) // CALIBRATING))
    for number in spread:
        yield match_channels(dataset[number][0], channels)


def _read_given(paths: Sequence[Path], channels: int) -> Iterator[NDArray[Any]]:
    """Read images [H, W, C], of folders up to `CALIBRATING`; an error names the file."""
    files: list[Path] = []
    for path in paths:
        found = list(walk(path)) if path.is_dir() else [path]
        if not found:
            raise Error(f"{path}: holds no images.", "no-data", path)
        files += found[:: -(-len(found) // CALIBRATING)] if path.is_dir() else found
    for path in files:
        image = read_image(path)
        try:
            yield match_channels(image, channels)
        except ValueError as error:
            raise Error(f"{path}: {error}") from error


def _training_folder(checkpoint: Path) -> Path | None:
    """The data folder of the run that a checkpoint lies in."""
    from plainunet.training.state import read_state

    folder = RunFolder(checkpoint.parent)
    if not folder.state.is_file() or not folder.split.is_file():
        return None
    try:
        data = Path(read_state(folder)["data"])
    except (OSError, ValueError, KeyError):
        return None
    return data if data.is_dir() else None


def _from_folder(
    checkpoint: Path,
    card: Card,
    channels: int,
    dtype: np.dtype[Any],
    folder: Path,
    reporter: Reporter,
) -> tuple[list[Example], str]:
    dataset, split = open_dataset(card, checkpoint, folder, None, None, reporter)
    spread = range(0, len(dataset), -(-len(dataset) // MOST))
    examples = []
    for image, truth in map(dataset.__getitem__, spread):
        examples.append(Example(_fit(image, channels, dtype), truth))
    described = {"val": "validation images", "all": "images"}.get(split, f"{split} images")
    # not its whole path: the description is stored in the file, which others get
    return examples, f"{len(examples)} {described} of {folder.resolve().name}"


def _fit(image: NDArray[Any], channels: int, dtype: np.dtype[Any]) -> NDArray[Any]:
    """Convert an image to the channels and dtype that the exported file takes."""
    image = match_channels(image, channels)
    if image.dtype == dtype:
        return image
    unit = to_unit(image)
    if dtype.kind == "f":
        return unit
    most = np.iinfo(dtype).max
    scaled: NDArray[Any] = np.rint(unit.clip(0, 1) * most).astype(dtype)
    return scaled


def _draw(card: Card, channels: int, dtype: np.dtype[Any]) -> list[Example]:
    """Draw images about as large as those of training."""
    size = _DRAWN
    if areas := card.training.get("areas"):
        scale = math.sqrt(min(float(areas[1]), 2.0**20) / (_DRAWN[0] * _DRAWN[1]))
        size = max(64, round(_DRAWN[0] * scale)), max(64, round(_DRAWN[1] * scale))
    drawn = []
    for number in range(MOST // 2):
        image, _ = draw_scene(np.random.default_rng((0, 2, number)), size)
        # the other channels repeat the colours
        image = image[..., np.arange(channels) % 3]
        drawn.append(Example(_fit(image, channels, dtype)))
    return drawn


def crop(example: Example, side: int) -> Example:
    """Crop an example to the `side` x `side` pixels at its centre; a smaller one is kept."""
    top, left = (max(0, length - side) // 2 for length in example.image.shape[:2])
    window = slice(top, top + side), slice(left, left + side)
    truth = None if example.truth is None else example.truth[window]
    return Example(np.ascontiguousarray(example.image[window]), truth)
