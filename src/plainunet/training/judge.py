"""The end of a run: the best checkpoint judged natively, and pictures of what it does."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np

from plainunet.config import TrainConfig
from plainunet.data.masks import MaskCoding
from plainunet.data.pairing import Pair
from plainunet.data.places import stem_of
from plainunet.evaluation.evaluate import judge, judged
from plainunet.network.checkpoint import load_checkpoint, save_checkpoint
from plainunet.prediction.predictor import Predictor
from plainunet.prediction.writers import write_comparison, write_mask
from plainunet.training.events import Advance, Judged, OnEvent, Stage
from plainunet.training.fit import BEST_FILE

SAVED_IMAGES = 16
"""At most so many validation pictures are saved, spread evenly from worst to best."""


def judge_best(
    out: Path, pairs: list[Pair], coding: MaskCoding, config: TrainConfig, on_event: OnEvent
) -> dict[str, Any]:
    """Score the best checkpoint natively, write the scores into it, and save pictures."""
    network, card = load_checkpoint(out / BEST_FILE)
    predictor = Predictor(network, card, device=config.device, precision=config.precision)
    held_out = [pair for pair in pairs if pair.part == "val"]
    on_event(Stage("judging at native size", len(held_out)))
    scores = judge(predictor, held_out, coding, lambda done, total: on_event(Advance(done)))
    result = {"split": "val", **scores}
    kept = {key: result[key] for key in ("protocol", "pooled", "per_image", "absent")}
    save_checkpoint(out / BEST_FILE, network, dataclasses.replace(card, scores=kept))

    means = [entry["dice"]["mean_foreground"] for entry in result["images"]]
    # without foreground in truth and prediction there is no Dice, and nothing wrong either
    order = np.argsort([1.0 if mean is None else mean for mean in means])
    chosen = order[
        np.linspace(0, len(order) - 1, min(SAVED_IMAGES, len(order))).round().astype(int)
    ]
    on_event(Stage("saving pictures", len(chosen)))
    shown = [held_out[index] for index in chosen]
    for number, (image, truth, prediction) in enumerate(judged(predictor, shown, coding)):
        stem = out / "saved_images" / f"{number + 1:02d}_{stem_of(shown[number].image)}"
        write_mask(stem.with_name(f"{stem.name}_mask.png"), prediction, card.colors)
        write_comparison(
            stem.with_name(f"{stem.name}_comparison.png"), image, truth, prediction, card.colors
        )
        on_event(Advance(number + 1))
    on_event(Judged(result))
    return result
