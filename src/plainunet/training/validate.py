"""Validation during training, and the evaluation of the best checkpoint at the end."""

import dataclasses
import hashlib
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from plainunet.config import TrainConfig
from plainunet.dataset.coding import Coding
from plainunet.dataset.pairs import Pair
from plainunet.dataset.resize import resize
from plainunet.dataset.samples import Samples
from plainunet.evaluation.measure import Measured, judged, measure, put_together
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
from plainunet.training.distributed import ALONE, Processes
from plainunet.training.events import Advance, Judged, OnEvent, Stage
from plainunet.training.run import BEST_FILE
from plainunet.training.state import Stop, StoppedError

VALIDATION_FOLDER = "validation"
"""Where they lie in the run folder."""
SHOWN = 4
"""At most so many, spread evenly over those that are held out."""


class Pictures:
    """Some pictures of one judging, each beside its truth and what was predicted."""

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
        """Say whether a picture is one of the chosen.

        Args:
            index: Its number among the samples.

        Returns:
            Whether it is.
        """
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


JOURNALS = Path("last")
"""Where they lie in the run folder."""
_PERIOD = 20.0  # seconds of judging that are lost at most


class Journal:
    """The counts of one judging."""

    def __init__(self, run: Path, name: str, what: str) -> None:
        """Open what is there of the same judging, or begin.

        Args:
            run: The run folder.
            name: Tells judgings apart that go on at once.
            what: What is judged on what: another judging's counts are left aside.
        """
        self._file = run / JOURNALS / f"judged-{name}.json"
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


def judge_epoch(
    candidates: Sequence[UNet],
    card: Card,
    size: tuple[int, int],
    samples: Samples,
    config: TrainConfig,
    *,
    run: Path,
    what: str,
    processes: Processes = ALONE,
    on_start: Callable[[int], None],
    on_progress: Callable[[int], None],
) -> tuple[float, dict[str, Any], UNet, Pictures]:
    """Judge the last weights and, where there is one, their average.

    Args:
        candidates: The networks.
        card: Their description.
        size: Height and width of what they see [pixels].
        samples: The validation part.
        config: The settings.
        run: The run folder, for the journal.
        what: What is judged: the weights' epoch and step.
        processes: Those that share the work.
        on_start: Told how many pictures a network will be judged on here.
        on_progress: Told how many of them are done.

    Returns:
        The better one's mean foreground Dice per image, its scores as by `validate`, itself,
        and pictures of what it does.

    Raises:
        FloatingPointError: A network's output is not finite.
    """
    judged, journals = [], []
    for number, candidate in enumerate(candidates):
        processes.copy_first(candidate.buffers())
        predictor = Predictor(
            candidate,
            dataclasses.replace(card, size=None, factor=1.0, training={}),
            device=config.device,
            precision=config.precision,
        )
        pictures = Pictures(samples, card.colors)
        journals.append(Journal(run, f"{number}-{processes.rank}", f"{what}, network {number}"))
        on_start(len(processes.share(len(samples))))
        try:
            scores = validate(
                predictor,
                samples,
                size,
                on_progress,
                config.patch,
                pictures,
                processes,
                journals[-1],
            )
        except KeyboardInterrupt:
            journals[-1].write()
            raise
        except NotFiniteError as error:
            raise FloatingPointError(
                f"Training has gone astray: after {what} the network gives values that are not "
                "finite. Begin anew with a smaller --learning-rate, or --precision fp32, and "
                "another --out."
            ) from error
        score: float = scores["per_image"]["dice"]["mean_foreground"] or 0.0
        judged.append((score, scores, candidate, pictures))
    for journal in journals:
        journal.close()
    best: tuple[float, dict[str, Any], UNet, Pictures] = max(
        reversed(judged), key=lambda each: each[0]
    )
    best[-1].join(processes)
    return best


def has_foreground(scores: dict[str, Any], pictures: int) -> bool:
    """Tell whether there was anything to find.

    Args:
        scores: As of `summarise`.
        pictures: Of so many.

    Returns:
        Whether the truth of any picture holds a class other than the first.
    """
    _, *foreground = scores["absent"].values()
    return any(each["left_out"] + each["scored_zero"] < pictures for each in foreground)


def validate(
    predictor: Predictor,
    samples: Samples,
    size: tuple[int, int],
    on_progress: Callable[[int], None],
    patch: tuple[int, int] | None = None,
    pictures: Pictures | None = None,
    processes: Processes = ALONE,
    journal: Journal | None = None,
) -> dict[str, Any]:
    """Judge on reduced pictures: quick, for every epoch; not the picture's own resolution.

    Args:
        predictor: Made around the live network; takes pictures as they are.
        samples: The validation part.
        size: Height and width that the samples' box, or a patch of them, is reduced to [pixels].
        on_progress: Told how many pictures are done.
        patch: Height and width of a patch [working pixels], where the samples have no box.
        pictures: Shown those that it wants.
        processes: Those that share the work; all get the same scores.
        journal: Counts that are known already, and where more are noted.

    Returns:
        `summarise`'s dictionary, with a protocol that says so.
    """
    window = patch or samples.box
    assert window is not None  # samples of different sizes have patches
    scale = [part / whole / samples.target_scale for part, whole in zip(size, window, strict=True)]
    counts = list(journal.counts) if journal else []
    known = len(counts)
    for number, index in enumerate(processes.share(len(samples))):
        if number < known and not (pictures and pictures.wants(index)):
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
        if pictures:
            pictures.show(index, image, truth, prediction)
        on_progress(number + 1)
    everyones = processes.restore_order(processes.gather(counts))
    scores = summarise(np.stack(everyones), predictor.card.class_names)
    seen = "seen in patches of" if patch else "at the working size"
    return {**scores, "protocol": f"{seen} {size[0]} x {size[1]}, not native"}


REPORT_FILE = "report.html"
SAVED_IMAGES = 16
"""At most so many validation pictures are saved, spread evenly from worst to best."""
_KEPT = ("protocol", "pooled", "per_image", "absent", "intervals")


def judge_best(
    out: Path,
    data: Path,
    pairs: list[Pair],
    coding: Coding,
    config: TrainConfig,
    on_event: OnEvent,
    processes: Processes = ALONE,
    stop: Stop | None = None,
) -> dict[str, Any]:
    """Score the best checkpoint natively, write the scores into it, pictures and a report.

    Args:
        out: The run folder.
        data: The data folder, named in the report.
        pairs: All pairs of the run.
        coding: How mask values become class ids.
        config: The settings.
        on_event: Told what happens.
        processes: Those that share the work; the first one writes.
        stop: Becomes true when the run shall stop.

    Returns:
        The scores, as by `evaluate`.

    Raises:
        StoppedError: It was asked to stop; what was counted is kept.
    """
    best = out / BEST_FILE
    network, card = processes.first_decides(lambda: load_checkpoint(best))
    predictor = Predictor(network, card, device=config.device, precision=config.precision)
    held_out = [pair for pair in pairs if pair.part == "val"]
    mine = [held_out[number] for number in processes.share(len(held_out))]
    digest = processes.first_decides(lambda: hashlib.sha256(best.read_bytes()).hexdigest())
    journal = Journal(out, f"best-{processes.rank}", digest)
    on_event(Stage("judging at native size", len(mine)))
    left = mine[len(journal.counts) :]
    # outlines would take longer than the network, and can be compared later
    for each in measure(predictor, left, coding, boundary=False):
        journal.add(_pack(each))
        on_event(Advance(len(journal.counts)))
        if stop:
            journal.write()
            raise StoppedError(out, "while judging", stop.code)
    everyones = processes.restore_order(processes.gather(journal.counts))
    measured = [_unpack(row, len(card.class_names)) for row in everyones]
    scored = put_together(measured, held_out, card.class_names, card.threshold)
    result = {"split": "val", **scored}
    if processes.is_first:
        _save_pictures(out, data, predictor, held_out, coding, result, on_event)
        kept = {key: result[key] for key in _KEPT}
        save_checkpoint(best, network, dataclasses.replace(card, scores=kept))
    journal.close()
    on_event(Judged(result))
    return result


def _pack(measured: Measured) -> Counts:
    """The numbers of a picture, in a row."""
    parts = (measured.counts.ravel(), measured.probabilities.ravel())
    return np.concatenate([np.array(measured.size, np.int64), *parts])


def _unpack(row: Counts, classes: int) -> Measured:
    size, counts, given = np.split(row, [2, 2 + classes**2])
    shape = int(size[0]), int(size[1])
    return Measured(counts.reshape(classes, classes), given.reshape(2, -1), shape)


def _save_pictures(
    out: Path,
    data: Path,
    predictor: Predictor,
    held_out: list[Pair],
    coding: Coding,
    result: dict[str, Any],
    on_event: OnEvent,
) -> None:
    """Save some pictures, from worst to best, and the report with others."""
    colors = predictor.card.colors
    means = [entry["dice"]["mean_foreground"] for entry in result["images"]]
    # without foreground in truth and prediction there is no Dice, and nothing wrong either
    order = np.argsort([1.0 if mean is None else mean for mean in means])
    count = min(SAVED_IMAGES, len(order))
    saved = order[np.linspace(0, len(order) - 1, count).round().astype(int)].tolist()
    in_report = choose_shown(result)
    chosen = list(dict.fromkeys([*saved, *in_report]))
    shown: dict[int, Shown] = {}
    on_event(Stage("saving pictures", len(chosen)))
    seen = judged(predictor, [held_out[index] for index in chosen], coding)
    for done, (index, each) in enumerate(zip(chosen, seen, strict=True), 1):
        if index in saved:
            number = saved.index(index) + 1
            stem = out / "saved_images" / f"{number:02d}_{stem_of(held_out[index].image)}"
            write_mask(stem.with_name(f"{stem.name}_mask.png"), each.prediction, colors)
            file = stem.with_name(f"{stem.name}_comparison.png")
            write_comparison(file, each.image, each.truth, each.prediction, colors)
        if index in in_report:
            shown[index] = show(index, in_report[index], each)
        on_event(Advance(done))
    best = out / BEST_FILE
    about = About(str(best), str(data), command("plainunet", "evaluate", best, data))
    ordered = [shown[index] for index in in_report]
    write_report(out / REPORT_FILE, result, ordered, predictor, held_out, coding, about)
