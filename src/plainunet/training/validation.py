"""Judging at the working size, quick enough for every epoch; the end of a run is judged natively.

In: the live network and, where there is one, the average of its weights; the validation part.
Out: the scores of the better of the two.
"""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from plainunet.config import TrainConfig
from plainunet.data.dataset import Samples
from plainunet.data.resizing import resize
from plainunet.evaluation.metrics import confusion_matrix, summarise
from plainunet.network.checkpoint import Card
from plainunet.network.unet import UNet
from plainunet.prediction.predictor import Predictor
from plainunet.prediction.views import NotFiniteError
from plainunet.training.distributed import ALONE, Processes
from plainunet.training.journal import Journal
from plainunet.training.pictures import Pictures


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
