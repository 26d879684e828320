"""From what is known of a data folder to settings, each with its reason.

In: sizes, counts, the resolution ceiling. Out: settings. Nothing is read or trained here, and
PyTorch is not loaded.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from plainunet.config import TrainConfig
from plainunet.data.doctor.diagnose import Diagnosis
from plainunet.data.problems import command

_STEPS = 1000
_MOST_EPOCHS = 300
_WORTH = 0.01


class Advice(NamedTuple):
    """A setting that suits the data better than its default, as a flag, and why."""

    flag: str
    value: str
    reason: str


def advise(
    sizes: Sequence[tuple[int, int]],
    trained: int,
    ceiling: Mapping[int, float],
    epochs: int,
    batch_size: int,
) -> list[Advice]:
    """Recommend settings for training on a folder.

    Args:
        sizes: Height and width of each picture [pixels].
        trained: How many pictures will be trained on.
        ceiling: Dice that the true masks keep, reduced to N x N pixels of area, by N.
        epochs: The default number of epochs.
        batch_size: Pictures per optimiser step.

    Returns:
        What differs from the defaults.
    """
    advice = []
    largest = math.sqrt(max(height * width for height, width in sizes))
    usual, finer = ceiling.get(256), ceiling.get(512)
    if usual is not None and finer is not None and largest > 256 and finer - usual >= _WORTH:
        height, width = choose_size(sizes, 512)
        reason = (
            f"masks reduced to the default size keep a Dice of {usual:.3f}, to this one "
            f"{finer:.3f}; it takes about four times as long"
        )
        advice.append(Advice("--size", f"{height} {width}", reason))
    steps = math.ceil(trained / batch_size)
    wanted = min(_MOST_EPOCHS, math.ceil(_STEPS / max(steps, 1)))
    if wanted > epochs:
        reason = f"{trained} pictures make {steps} steps an epoch; this makes {wanted * steps}"
        advice.append(Advice("--epochs", str(wanted), reason))
    return advice


def advise_training(result: Diagnosis) -> tuple[list[Advice], str]:
    """Recommend how to train on a folder that was looked at.

    Args:
        result: As returned by `check`.

    Returns:
        Settings that differ from the defaults, and the command.
    """
    defaults = TrainConfig()
    parts = result.summary["parts"]
    trained = parts.get("train") or round(result.summary["pairs"] * (1 - defaults.validation))
    advice = []
    if trained and result.sizes:
        ceiling = result.summary["ceiling"]
        advice = advise(result.sizes, trained, ceiling, defaults.epochs, defaults.batch_size)
    known = result.given_flags
    words = [word for each in advice for word in (each.flag, *each.value.split())]
    run = Path("runs") / (result.data.name or "first")
    return advice, command("plainunet", "train", result.data, "--out", run, *known, *words)


def choose_size(sizes: Sequence[tuple[int, int]], side: int = 256) -> tuple[int, int]:
    """Choose a working size for pictures of these sizes.

    Args:
        sizes: Height and width of each picture [pixels].
        side: N, for an area of about N x N pixels.

    Returns:
        Height and width [pixels]: the median picture, reduced to an area of about N x N,
        each side a multiple of 16 and at least 32.
    """
    height, width = (float(length) for length in np.median(np.array(sizes), axis=0))
    scale = min(1.0, side / math.sqrt(height * width))
    return max(32, 16 * round(height * scale / 16)), max(32, 16 * round(width * scale / 16))
