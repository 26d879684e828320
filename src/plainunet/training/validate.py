"""Validation during training, and the evaluation of the best checkpoint at the end."""

import dataclasses
import hashlib
import json
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from plainunet.dataset.dataset import SegmentationDataset
from plainunet.dataset.resize import resize
from plainunet.dataset.samples import Samples
from plainunet.evaluation.measure import Measurement, measure, predict_images, score_images
from plainunet.evaluation.metrics import Counts, confusion_matrix, summarise
from plainunet.evaluation.report import About, Shown, choose_shown, show, write_report
from plainunet.files import write_json
from plainunet.formats.problems import command
from plainunet.formats.sources import stem_of
from plainunet.network.checkpoint import Card, load_checkpoint, save_checkpoint
from plainunet.network.unet import UNet
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
"""At most so many, spread evenly over those that are held out."""


class ValidationImages:
    """Some images of one validation, each beside its truth and its prediction."""

    def __init__(self, samples: Samples, colors: Colors) -> None:
        """Choose the pictures.

        Args:
            samples: The validation part. The same of it are chosen every time.
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
        """Whether an image is one of the chosen."""
        return index in self._names

    def join(self, processes: Processes) -> None:
        """Gather what the processes of a run have drawn.

        Args:
            processes: They.
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
        """Draw a picture, if it is one of the chosen.

        Args:
            index: Its number among the samples.
            image: [H, W, C], integers or floats.
            truth: [H, W] uint8, class ids; other values do not count.
            prediction: [H, W] uint8, class ids.
        """
        if self.wants(index):
            drawn = draw_comparison(image, truth, prediction, self._colors)
            self._drawn[self._names[index]] = drawn

    def write(self, folder: Path) -> None:
        """Write the pictures, each in place of the one before, whole or not at all.

        Args:
            folder: Where to.
        """
        for name, drawn in self._drawn.items():
            write_rgb(folder / name, drawn)


_PERIOD = 20.0  # seconds of judging that are lost at most


class Journal:
    """The counts of one evaluation, kept in a file so that it can be resumed."""

    def __init__(self, file: Path, what: str) -> None:
        """Open the counts of the same evaluation, or begin: `what` tells evaluations apart."""
        self._file = file
        self._what = what
        self._written = time.monotonic()
        self.counts: list[Counts] = []
        try:
            said = json.loads(self._file.read_text(encoding="utf-8"))
        except (FileNotFoundError, ValueError):
            return
        if said["what"] == what:
            self.counts = [np.array(each, dtype=np.int64) for each in said["counts"]]

    def add(self, counts: Counts) -> None:
        """Count a picture in.

        Args:
            counts: Any shape, int64.
        """
        self.counts.append(counts)
        if time.monotonic() - self._written > _PERIOD:
            self.write()

    def write(self) -> None:
        """Write all down, as before the process ends."""
        counts = [each.tolist() for each in self.counts]
        write_json(self._file, {"what": self._what, "counts": counts})
        self._written = time.monotonic()

    def close(self) -> None:
        """Forget it: the judging is done, and what came of it is kept elsewhere."""
        self._file.unlink(missing_ok=True)


class Validation(NamedTuple):
    """What came of validating the weights, or their average: the better of the two."""

    dice: float
    """Mean foreground Dice per image."""
    scores: dict[str, Any]
    """As by `validate`."""
    network: UNet
    images: "ValidationImages"


def validate_epoch(
    run: Run, state: TrainingState, card: Card, samples: Samples, size: tuple[int, int]
) -> Validation:
    """Validate the last weights and, where there is one, their average.

    Args:
        run: The run.
        state: Its weights, and how far it has come.
        card: The network's description.
        samples: The validation part.
        size: Height and width of what the network sees [pixels].

    Returns:
        The better one.

    Raises:
        FloatingPointError: A network's output is not finite.
        StoppedError: The run was asked to stop; what was counted is kept.
    """
    found: list[Validation] = []
    journals: list[Journal] = []
    what = f"epoch {state.epoch + 1}, step {state.step}"
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
        journals.append(Journal(file, f"{what}, network {number}"))
        run.reporter.stage("validating", len(run.processes.share(len(samples))))
        try:
            scores = validate(run, predictor, samples, size, images, journals[-1])
        except KeyboardInterrupt:
            journals[-1].write()
            raise
        except NotFiniteError as error:
            raise FloatingPointError(
                f"Training has gone astray: after {what} the network gives values that are not "
                "finite. Begin anew with a smaller --learning-rate, or --precision fp32, and "
                "another --out."
            ) from error
        dice: float = scores["per_image"]["dice"]["mean_foreground"] or 0.0
        found.append(Validation(dice, scores, candidate, images))
    for journal in journals:
        journal.close()
    best: Validation = max(reversed(found), key=lambda each: each.dice)
    best.images.join(run.processes)
    return best


def has_foreground(scores: dict[str, Any], pictures: int) -> bool:
    """Whether the truth of any of so many images holds a class other than the first."""
    _, *foreground = scores["absent"].values()
    return any(each["left_out"] + each["scored_zero"] < pictures for each in foreground)


def validate(
    run: Run,
    predictor: Predictor,
    samples: Samples,
    size: tuple[int, int],
    images: ValidationImages | None = None,
    journal: Journal | None = None,
) -> dict[str, Any]:
    """Score reduced images: quick, for every epoch; not the image's own resolution.

    Args:
        run: The run; all of its processes get the same scores.
        predictor: Made around the live network; takes images as they are.
        samples: The validation part.
        size: Height and width that the samples' box, or a patch of them, is reduced to [pixels].
        images: Shown those that it wants.
        journal: Counts that are known already, and where more are noted.

    Returns:
        `summarise`'s dictionary, with a protocol that says so.

    Raises:
        StoppedError: The run was asked to stop.
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
            counts.append(confusion_matrix(truth, prediction, predictor.network.num_classes))
            if journal:
                journal.add(counts[-1])
        if images:
            images.show(index, image, truth, prediction)
        run.reporter.advance(number + 1)
        run.stop_if_asked()
    everyones = processes.restore_order(processes.gather(counts))
    scores = summarise(np.stack(everyones), predictor.card.class_names)
    seen = "seen in patches of" if patch else "at the working size"
    return {**scores, "protocol": f"{seen} {size[0]} x {size[1]}, not native"}


SAVED_IMAGES = 16
"""At most so many validation images are saved, spread evenly from worst to best."""
_KEPT = ("protocol", "pooled", "per_image", "absent", "intervals")


def evaluate_best(run: Run) -> dict[str, Any]:
    """Evaluate the best checkpoint natively; write its scores into it, images and a report.

    Args:
        run: The run, trained to its end.

    Returns:
        The scores, as by `evaluate`.

    Raises:
        StoppedError: It was asked to stop; what was counted is kept.
    """
    processes, best = run.processes, run.folder.best
    run.where = "while judging"
    network, card = processes.first_decides(lambda: load_checkpoint(best))
    predictor = Predictor(network, card, device=run.config.device, precision=run.config.precision)
    held_out = run.dataset.part("val")
    mine = processes.share(len(held_out))
    digest = processes.first_decides(lambda: hashlib.sha256(best.read_bytes()).hexdigest())
    journal = Journal(run.folder.journal(f"best-{processes.rank}"), digest)
    run.reporter.stage("judging at native size", len(mine))
    left = held_out.subset(mine[len(journal.counts) :])
    # boundaries would take longer than the network, and can be compared later
    for each in measure(predictor, left, boundary=False):
        journal.add(_pack(each))
        run.reporter.advance(len(journal.counts))
        if run.stop:
            journal.write()
            run.stop_if_asked()
    everyones = processes.restore_order(processes.gather(journal.counts))
    measured = [_unpack(row, len(card.class_names)) for row in everyones]
    scored = score_images(measured, held_out.pairs, card.class_names, card.threshold)
    result = {"split": "val", **scored}
    if processes.is_first:
        _save_images(run, predictor, held_out, result)
        kept = {key: result[key] for key in _KEPT}
        save_checkpoint(best, network, dataclasses.replace(card, scores=kept))
    journal.close()
    run.reporter.result(result)
    return result


def _pack(measured: Measurement) -> Counts:
    """The numbers of an image, in a row."""
    parts = (measured.counts.ravel(), measured.histogram.ravel())
    return np.concatenate([np.array(measured.size, np.int64), *parts])


def _unpack(row: Counts, classes: int) -> Measurement:
    size, counts, given = np.split(row, [2, 2 + classes**2])
    shape = int(size[0]), int(size[1])
    return Measurement(counts.reshape(classes, classes), given.reshape(2, -1), shape)


def _save_images(
    run: Run, predictor: Predictor, held_out: SegmentationDataset, result: dict[str, Any]
) -> None:
    """Save some images, from worst to best, and the report with others."""
    colors = predictor.card.colors
    means = [entry["dice"]["mean_foreground"] for entry in result["images"]]
    # without foreground in truth and prediction there is no Dice, and nothing wrong either
    order = np.argsort([1.0 if mean is None else mean for mean in means])
    count = min(SAVED_IMAGES, len(order))
    saved = order[np.linspace(0, len(order) - 1, count).round().astype(int)].tolist()
    in_report = choose_shown(result)
    chosen = list(dict.fromkeys([*saved, *in_report]))
    shown: dict[int, Shown] = {}
    run.reporter.stage("saving pictures", len(chosen))
    seen = predict_images(predictor, held_out.subset(chosen))
    for done, (index, each) in enumerate(zip(chosen, seen, strict=True), 1):
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
    about = About(str(best), str(data), command("plainunet", "evaluate", best, data))
    ordered = [shown[index] for index in in_report]
    write_report(run.folder.report, result, ordered, predictor, held_out, about)
