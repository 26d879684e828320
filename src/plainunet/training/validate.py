"""Validation during training, and the evaluation of the best checkpoint at the end."""

import dataclasses
import hashlib
import json
import time
import zipfile
import zlib
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from plainunet.dataset.dataset import SegmentationDataset
from plainunet.dataset.resize import resize
from plainunet.dataset.samples import Samples
from plainunet.errors import Error
from plainunet.evaluation.measure import Measurement, measure, predict_images, score_images
from plainunet.evaluation.metrics import (
    BINS,
    Counts,
    Metrics,
    confusion_matrix,
    score_masks,
    summarise,
)
from plainunet.evaluation.report import About, Shown, choose_shown, show, write_report
from plainunet.files import write_json, write_whole
from plainunet.formats.problems import command
from plainunet.formats.sources import stem_of
from plainunet.network.card import Card
from plainunet.network.checkpoint import load_checkpoint, save_checkpoint
from plainunet.network.own import Network
from plainunet.parts import parts_of
from plainunet.prediction.drawing import (
    Colors,
    draw_comparison,
    write_comparison,
    write_mask,
    write_rgb,
)
from plainunet.prediction.predictor import Predictor
from plainunet.prediction.views import NotFiniteError
from plainunet.training.distributed import Processes
from plainunet.training.run import Run
from plainunet.training.state import TrainingState

SHOWN = 4
"""Maximum number of validation previews, spread evenly over the validation split."""


class ValidationImages:
    """Previews of a validation: some images next to ground truth and prediction."""

    def __init__(self, samples: Samples, colors: Colors) -> None:
        """Choose the images.

        Args:
            samples: The validation split; the same samples are chosen every time.
            colors: RGB of each class, 0..255.
        """
        count = len(samples)
        chosen = np.linspace(0, count - 1, min(SHOWN, count)).round().astype(int).tolist()
        self._names = {
            index: f"{number}_{samples.name(index)}.png" for number, index in enumerate(chosen, 1)
        }
        self._colors = colors
        self._drawn: dict[str, NDArray[np.uint8]] = {}

    def wants(self, index: int) -> bool:
        """Whether an image was chosen."""
        return index in self._names

    def join(self, processes: Processes) -> None:
        """Gather the previews of all processes of a run.

        Args:
            processes: The processes.
        """
        for drawn in processes.gather(self._drawn):
            self._drawn = {**self._drawn, **drawn}

    def show(
        self,
        index: int,
        image: NDArray[Any],
        truth: NDArray[np.uint8],
        prediction: NDArray[np.uint8],
    ) -> None:
        """Draw an image if it was chosen.

        Args:
            index: Index of the sample.
            image: [H, W, C], integers or floats.
            truth: Ground truth [H, W] uint8, class ids; other values are ignored.
            prediction: [H, W] uint8, class ids.
        """
        if self.wants(index):
            drawn = draw_comparison(image, truth, prediction, self._colors)
            self._drawn[self._names[index]] = drawn

    def write(self, folder: Path) -> list[Path]:
        """Write the previews; each replaces the one before, whole or not at all.

        Args:
            folder: Output folder.

        Returns:
            The files.
        """
        for name, drawn in self._drawn.items():
            write_rgb(folder / name, drawn)
        return [folder / name for name in sorted(self._drawn)]


_PERIOD = 20.0  # seconds of evaluation that a kill loses at most


class Journal:
    """The counts of one evaluation, saved in a file so that it can be resumed."""

    def __init__(self, file: Path, what: str) -> None:
        """Open the counts of the same evaluation, or start: `what` identifies it."""
        self._file = file
        self._what = what
        self._written = time.monotonic()
        self.counts: list[Counts] = []
        try:
            saved = json.loads(self._file.read_text(encoding="utf-8"))
        except (FileNotFoundError, ValueError):
            return
        if saved["what"] == what:
            self.counts = [np.array(each, dtype=np.int64) for each in saved["counts"]]

    def add(self, counts: Counts) -> None:
        """Add the counts of an image.

        Args:
            counts: Any shape, int64.
        """
        self.counts.append(counts)
        if time.monotonic() - self._written > _PERIOD:
            self.write()

    def write(self) -> None:
        """Write the counts, as before the process ends."""
        counts = [each.tolist() for each in self.counts]
        write_json(self._file, {"what": self._what, "counts": counts})
        self._written = time.monotonic()

    def close(self) -> None:
        """Remove the file: the evaluation is complete, and its result is saved elsewhere."""
        self._file.unlink(missing_ok=True)


class Validation(NamedTuple):
    """The validation of the weights or of their EMA, whichever is better."""

    dice: float
    """Mean foreground Dice per image."""
    scores: dict[str, Any]
    """As by `validate`."""
    network: Network
    images: "ValidationImages"


def validate_epoch(
    run: Run, state: TrainingState, card: Card, samples: Samples, size: tuple[int, int]
) -> Validation:
    """Validate the last weights and their EMA, if there is one.

    Args:
        run: The run.
        state: Its weights and progress.
        card: The card of the network.
        samples: The validation split.
        size: Height and width of the network's input [pixels].

    Returns:
        The better of the two.

    Raises:
        FloatingPointError: The output of a network is not finite.
        StoppedError: The run was interrupted; the counts are saved.
    """
    found: list[Validation] = []
    journals: list[Journal] = []
    what = f"epoch {state.epoch + 1}, step {state.step}"
    measured = f"{what}, {' '.join(run.metrics)}, {run.processes.count} processes"
    average = [state.average.network] if state.average else []
    for number, candidate in enumerate([state.network, *average]):
        run.processes.copy_first(candidate.buffers())
        predictor = Predictor(
            candidate,
            dataclasses.replace(card, size=None, factor=1.0, training={}),
            device=run.config.device,
            precision=run.config.precision,
        )
        images = ValidationImages(samples, card.colors)
        file = run.folder.journal(f"{number}-{run.processes.rank}")
        journals.append(Journal(file, f"{measured}, network {number}"))
        run.reporter.stage("validating", len(run.processes.share(len(samples))))
        try:
            scores = validate(run, predictor, samples, size, images, journals[-1])
        except KeyboardInterrupt:
            journals[-1].write()
            raise
        except NotFiniteError as error:
            raise FloatingPointError(
                f"Training diverged: after {what} the output of the network is not finite. Start "
                "again with a smaller --learning-rate or --precision fp32, and another --out."
            ) from error
        dice: float = scores["per_image"]["dice"]["mean_foreground"] or 0.0
        found.append(Validation(dice, scores, candidate, images))
    for journal in journals:
        journal.close()
    best: Validation = max(reversed(found), key=lambda each: each.dice)
    best.images.join(run.processes)
    return best


def has_foreground(scores: dict[str, Any], images: int) -> bool:
    """Whether the ground truth of any of the `images` has a class other than the first."""
    _, *foreground = scores["absent"].values()
    return any(each["left_out"] + each["scored_zero"] < images for each in foreground)


def validate(
    run: Run,
    predictor: Predictor,
    samples: Samples,
    size: tuple[int, int],
    images: ValidationImages | None = None,
    journal: Journal | None = None,
) -> dict[str, Any]:
    """Score images at the input size: quick, for every epoch, but not at native resolution.

    Args:
        run: The run; all of its processes get the same scores.
        predictor: Wraps the network in training, and does not resize images.
        samples: The validation split.
        size: Height and width that the samples' box, or a patch of them, is reduced to [pixels].
        images: Receives the images that it wants.
        journal: Saves counts, and holds those of an interrupted validation.

    Returns:
        The dictionary of `summarise`, with the protocol.

    Raises:
        StoppedError: The run was interrupted.
    """
    processes, patch = run.processes, run.config.patch
    window = patch or samples.box
    assert window is not None  # samples of different sizes have patches
    scale = [part / whole / samples.target_scale for part, whole in zip(size, window, strict=True)]
    counts = list(journal.counts) if journal else []
    known = len(counts)
    for number, index in enumerate(processes.share(len(samples))):
        if number < known and not (images and images.wants(index)):
            continue
        image, shares = samples[index]
        reduced_size = round(image.shape[0] * scale[0]), round(image.shape[1] * scale[1])
        reduced = resize(shares, reduced_size)
        truth = reduced.argmax(axis=2).astype(np.uint8)
        truth[reduced.sum(axis=2, dtype=np.int64) < 128] = 255  # mostly void or padding
        image = resize(image, reduced_size)
        prediction = predictor.predict(image)
        if number >= known:
            counts.append(_count(run.metrics, truth, prediction, predictor.network.num_classes))
            if journal:
                journal.add(counts[-1])
        if images:
            images.show(index, image, truth, prediction)
        run.reporter.advance(number + 1)
        run.stop_if_asked()
    everyones = np.stack(processes.restore_order(processes.gather(counts)))
    names = predictor.card.class_names
    confusions, bits = np.split(everyones, [len(names) ** 2], axis=1)
    shape = len(everyones), -1, len(names)
    of_masks = bits.view(np.float64).reshape(shape)
    scores = summarise(confusions.reshape(shape), names, run.metrics, of_masks)
    at = "in patches of" if patch else "at input size"
    return {**scores, "protocol": f"{at} {size[0]} x {size[1]}, not native"}


def _count(
    metrics: Metrics, truth: NDArray[np.uint8], prediction: NDArray[np.uint8], classes: int
) -> Counts:
    """The counts of an image, and the bits of its metrics of masks, as a row of integers."""
    of_masks = score_masks(metrics, truth, prediction, classes)
    counts = confusion_matrix(truth, prediction, classes)
    return np.concatenate([counts.ravel(), of_masks.view(np.int64).ravel()])


SAVED_IMAGES = 16
"""Maximum number of validation images to save, spread evenly from worst to best."""
_KEPT = ("protocol", "pooled", "per_image", "absent", "intervals")


def evaluate_best(run: Run) -> dict[str, Any]:
    """Evaluate the best checkpoint natively; write its scores into it, images and a report.

    Args:
        run: The run, after training.

    Returns:
        The scores, as by `evaluate`.

    Raises:
        StoppedError: It was interrupted; the counts are saved.
    """
    processes, best = run.processes, run.folder.best
    run.where = "during evaluation"
    own = parts_of(run.parts.network, "--network")
    network, card = processes.first_decides(lambda: load_checkpoint(best, own))
    # loaded as by `evaluate`, for the same scores: batch normalisation is folded
    predictor = Predictor.load(
        best, device=run.config.device, precision=run.config.precision, network=own
    )
    held_out = run.dataset.part("val")
    mine = processes.share(len(held_out))
    digest = processes.first_decides(lambda: hashlib.sha256(best.read_bytes()).hexdigest())
    what = f"{digest} {' '.join(run.metrics)}, {processes.count} processes"
    journal = Journal(run.folder.journal(f"best-{processes.rank}"), what)
    run.reporter.stage("evaluating (native size)", len(mine))
    left = held_out.subset(mine[len(journal.counts) :])
    # boundary metrics would take longer than the network, and can be computed later
    for each in measure(predictor, left, boundary=False, metrics=run.metrics):
        journal.add(_pack(each))
        run.reporter.advance(len(journal.counts))
        if run.stop:
            journal.write()
            run.stop_if_asked()
    everyones = processes.restore_order(processes.gather(journal.counts))
    measured = [_unpack(row, len(card.class_names)) for row in everyones]
    scored = score_images(measured, held_out.pairs, card.class_names, card.threshold, run.metrics)
    result = {"split": "val", **scored}
    if processes.is_first:
        _save_images(run, predictor, held_out, result)
        kept = {key: result[key] for key in _KEPT}
        save_checkpoint(best, network, dataclasses.replace(card, scores=kept))
        if run.config.folds is not None:
            with write_whole(run.folder.held_out) as file:
                np.savez_compressed(file, counts=np.stack(everyones))
    journal.close()
    run.reporter.result(result)
    return result


def _pack(measured: Measurement) -> Counts:
    """The measurement of an image as a row of integers."""
    parts = measured.counts, measured.histogram, measured.of_masks.view(np.int64)
    return np.concatenate([np.array(measured.size, np.int64), *(part.ravel() for part in parts)])


def read_held_out(file: Path, classes: int) -> list[Measurement]:
    """Read the measurements of a fold's held-out images, in the order of its `split.csv`.

    Raises:
        ValueError: The file is damaged.
    """
    try:
        # opened here, since NumPy leaves damaged files open
        with file.open("rb") as opened, np.load(opened) as saved:
            return [_unpack(row, classes) for row in saved["counts"]]
    except (EOFError, KeyError, ValueError, zipfile.BadZipFile, zlib.error) as error:
        raise Error(
            f"{file}: damaged. Remove it, and run the command again to evaluate its fold anew."
        ) from error


def _unpack(row: Counts, classes: int) -> Measurement:
    ends = np.cumsum([2, classes**2, 2 * BINS])
    size, counts, histogram, bits = np.split(row, ends)
    return Measurement(
        counts.reshape(classes, classes),
        histogram.reshape(2, -1),
        (int(size[0]), int(size[1])),
        of_masks=bits.view(np.float64).reshape(-1, classes),
    )


def _save_images(
    run: Run, predictor: Predictor, held_out: SegmentationDataset, result: dict[str, Any]
) -> None:
    """Save some images, from worst to best, and the report."""
    colors = predictor.card.colors
    means = [entry["dice"]["mean_foreground"] for entry in result["images"]]
    # no foreground in ground truth and prediction: Dice is undefined, but nothing is wrong
    order = np.argsort([1.0 if mean is None else mean for mean in means])
    count = min(SAVED_IMAGES, len(order))
    saved = order[np.linspace(0, len(order) - 1, count).round().astype(int)].tolist()
    in_report = choose_shown(result)
    chosen = list(dict.fromkeys([*saved, *in_report]))
    shown: dict[int, Shown] = {}
    run.reporter.stage("saving images", len(chosen))
    predicted = predict_images(predictor, held_out.subset(chosen))
    for done, (index, each) in enumerate(zip(chosen, predicted, strict=True), 1):
        if index in saved:
            number = saved.index(index) + 1
            stem = run.folder.saved_images / f"{number:02d}_{stem_of(held_out.pairs[index].image)}"
            write_mask(stem.with_name(f"{stem.name}_mask.png"), each.prediction, colors)
            file = stem.with_name(f"{stem.name}_comparison.png")
            write_comparison(file, each.image, each.truth, each.prediction, colors)
        if index in in_report:
            shown[index] = show(index, in_report[index], each)
        run.reporter.advance(done)
    best, data = run.folder.best, run.dataset.folder
    own = dataclasses.replace(run.parts, loss=None, augment=None).flags()
    about = About(
        str(best),
        str(data),
        command("plainunet", "evaluate", best, data, *own, "--html", "report.html"),
    )
    ordered = [shown[index] for index in in_report]
    write_report(run.folder.report, result, ordered, predictor, held_out, about)
