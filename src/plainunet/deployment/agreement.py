"""How well an exported file agrees with its checkpoint, on images.

The images are given ones, those held out from training, or synthetic ones.
"""

import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import numpy as np
from numpy.typing import NDArray

from plainunet.config import ExportOptions
from plainunet.dataset.layouts import walk
from plainunet.demo import draw_scene
from plainunet.errors import Error
from plainunet.evaluation.evaluate import open_dataset
from plainunet.evaluation.metrics import confusion_matrix, dice, nan_mean
from plainunet.formats.images import match_channels, read_image, to_unit
from plainunet.formats.windows import as_windows
from plainunet.network.card import Card
from plainunet.prediction.exported import HINTS, need
from plainunet.prediction.predictor import Predictor
from plainunet.reporter import Reporter, track
from plainunet.system import cores, fastest
from plainunet.training.run import RunFolder

Both = tuple[NDArray[np.float32], NDArray[np.uint8]]
"""Probabilities [K, H, W] and mask [H, W] of an image."""
WEIGHTS = "weights.onnx"
"""Name of the network in a package of the BioImage Model Zoo."""
_REPEATS = 2
"""Times that each image is predicted; the fastest is taken."""
_MOST = 8
"""Largest number of images of a folder."""
_CALIBRATING = 64
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
    spread = range(0, len(dataset), -(-len(dataset) // _CALIBRATING))
    for number in spread:
        yield match_channels(dataset[number][0], channels)


def _read_given(paths: Sequence[Path], channels: int) -> Iterator[NDArray[Any]]:
    """Read images [H, W, C], of folders up to `_CALIBRATING`; an error names the file."""
    files: list[Path] = []
    for path in paths:
        found = list(walk(path)) if path.is_dir() else [path]
        if not found:
            raise Error(f"{path}: holds no images.", "no-data", path)
        files += found[:: -(-len(found) // _CALIBRATING)] if path.is_dir() else found
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
    spread = range(0, len(dataset), -(-len(dataset) // _MOST))
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
    for number in range(_MOST // 2):
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


@dataclass(frozen=True)
class Limit:
    """How much a file may differ from its checkpoint."""

    difference: float
    """Largest difference of a probability."""
    lost: float
    """Largest loss of Dice: 1 minus the Dice between the masks or, with ground truth, the loss of
    Dice against it."""


LIMITS = {
    "fp32": Limit(0.05, 0.0005),
    "fp16": Limit(0.1, 0.001),
    "bf16": Limit(1.0, 0.002),
    "int8": Limit(1.0, 0.002),
}
"""Limits by precision. In fp32, averaging areas of 8-bit images may round differently by 1/255."""


@dataclass(frozen=True)
class Agreement:
    """Checkpoint and exported file on the same images."""

    images: int
    difference: float
    """Largest difference of a probability."""
    dice: float
    """Dice between the masks: pooled, mean over the foreground classes."""
    lost: float | None
    """Dice lost against the ground truth, if there is one; negative if the file is better."""
    milliseconds: tuple[float, float]
    """Time per image of the checkpoint and the file [ms]."""

    def is_within(self, limit: Limit) -> bool:
        """Whether the difference is small enough."""
        lost = 1 - self.dice if self.lost is None else self.lost
        return self.difference <= limit.difference and lost <= limit.lost


def agree(
    predictor: Predictor,
    run: Callable[[NDArray[Any]], Both],
    examples: Sequence[Example],
    reporter: Reporter,
) -> Agreement:
    """Predict images with a checkpoint and with an exported file, and compare the results."""
    classes = len(predictor.card.class_names)
    between, own, other = (np.zeros((classes, classes), np.int64) for _ in range(3))
    difference, seconds = 0.0, np.zeros(2)
    for each in track(examples, "checking", len(examples), reporter):
        (expected, ids), first = fastest(partial(predict_both, predictor, each.image), _REPEATS)
        (found, mask), second = fastest(partial(run, each.image), _REPEATS)
        seconds += first, second
        worst = float(np.abs(found - expected).max())
        difference = max(difference, float("inf") if np.isnan(worst) else worst)
        between += confusion_matrix(ids, mask, classes, ignore_index=-1)
        if each.truth is not None:
            own += confusion_matrix(each.truth, ids, classes)
            other += confusion_matrix(each.truth, mask, classes)
    lost = float(_mean_dice(own) - _mean_dice(other)) if own.any() else None
    first, second = (1000 * seconds / len(examples)).tolist()
    return Agreement(len(examples), difference, _mean_dice(between), lost, (first, second))


def _mean_dice(counts: NDArray[np.int64]) -> float:
    """Mean Dice of the foreground classes; 1 if none occurs."""
    scores = dice(counts)[1:]
    return 1.0 if np.isnan(scores).all() else float(nan_mean(scores, 0))


def predict_both(predictor: Predictor, image: NDArray[Any]) -> Both:
    """Predict an image [H, W, C] without a warning if it is unlike those of training."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        bands = list(predictor.both_bands(as_windows(image)))
    return np.concatenate([each for _, each in bands], 1), np.concatenate(
        [each for each, _ in bands]
    )


def choose(probabilities: NDArray[np.float32], threshold: float) -> NDArray[np.uint8]:
    """The mask [H, W] of probabilities [K, H, W]."""
    binary = len(probabilities) == 2
    mask: NDArray[Any] = probabilities[1] >= threshold if binary else probabilities.argmax(0)
    return mask.astype(np.uint8)


def open_whole(path: Path, precision: str) -> Callable[[NDArray[Any]], list[NDArray[Any]]]:
    """Load a whole exported file; the function maps its input to its outputs, in order."""
    openers = {".onnx": _open_onnx, ".xml": _open_openvino, ".pt2": _open_torch}
    return {**openers, ".zip": _open_package}[path.suffix.lower()](path, precision)


def _open_package(path: Path, precision: str) -> Callable[[NDArray[Any]], list[NDArray[Any]]]:
    with ZipFile(path) as package:
        return _run_onnx(package.read(WEIGHTS))


def _open_onnx(path: Path, precision: str) -> Callable[[NDArray[Any]], list[NDArray[Any]]]:
    return _run_onnx(str(path))


def _run_onnx(source: str | bytes) -> Callable[[NDArray[Any]], list[NDArray[Any]]]:
    """Load a model from a path or its content."""
    runtime = need("onnxruntime")
    options = runtime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = cores(), 3
    session = runtime.InferenceSession(source, options, ["CPUExecutionProvider"])
    name = session.get_inputs()[0].name

    def run(images: NDArray[Any]) -> list[NDArray[Any]]:
        outputs: list[NDArray[Any]] = session.run(None, {name: images})
        return outputs

    return run


def _open_openvino(path: Path, precision: str) -> Callable[[NDArray[Any]], list[NDArray[Any]]]:
    openvino = need("openvino")
    settings = {
        "INFERENCE_PRECISION_HINT": HINTS.get(precision, "f32"),
        "INFERENCE_NUM_THREADS": cores(),
        "PERFORMANCE_HINT": "LATENCY",
    }
    core = openvino.Core()
    request = core.compile_model(core.read_model(path), "CPU", settings).create_infer_request()

    def run(images: NDArray[Any]) -> list[NDArray[Any]]:
        found = request.infer([images])
        return [found[number] for number in range(len(found))]

    return run


def _open_torch(path: Path, precision: str) -> Callable[[NDArray[Any]], list[NDArray[Any]]]:
    import torch

    module = torch.export.load(path).module()

    def run(images: NDArray[Any]) -> list[NDArray[Any]]:
        with torch.inference_mode():
            return [each.numpy() for each in module(torch.from_numpy(images))]

    return run
