"""The end of a run: the best checkpoint judged natively, and pictures of what it does."""

import dataclasses
import hashlib
from pathlib import Path
from typing import Any

import numpy as np

from plainunet.config import TrainConfig
from plainunet.data.masks import MaskCoding
from plainunet.data.pairing import Pair
from plainunet.data.places import stem_of
from plainunet.data.problems import command
from plainunet.evaluation.measure import Measured, judged, measure
from plainunet.evaluation.metrics import Counts
from plainunet.evaluation.present import About, choose_shown, present, show
from plainunet.evaluation.report.panels import Shown
from plainunet.evaluation.results import put_together
from plainunet.network.checkpoint import load_checkpoint, save_checkpoint
from plainunet.prediction.predictor import Predictor
from plainunet.prediction.writers import write_comparison, write_mask
from plainunet.training.distributed import ALONE, Processes
from plainunet.training.epochs import BEST_FILE
from plainunet.training.events import Advance, Judged, OnEvent, Stage
from plainunet.training.interrupt import Stop, StoppedError
from plainunet.training.journal import Journal
from plainunet.training.refining import make_predictor

REPORT_FILE = "report.html"
SAVED_IMAGES = 16
"""At most so many validation pictures are saved, spread evenly from worst to best."""
_KEPT = ("protocol", "pooled", "per_image", "absent", "intervals")


def judge_best(
    out: Path,
    data: Path,
    pairs: list[Pair],
    coding: MaskCoding,
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
    predictor = make_predictor(network, card, config)
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
    coding: MaskCoding,
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
    present(out / REPORT_FILE, result, ordered, predictor, held_out, coding, about)
