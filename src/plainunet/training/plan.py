"""From what is known of a data folder to settings, each with its reason.

In: sizes, counts, the resolution ceiling. Out: settings. Nothing is read or trained here, and
PyTorch is not loaded.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from plainunet.config import TrainConfig
from plainunet.data.doctor.diagnose import Diagnosis
from plainunet.data.problems import command

_WIDTHS = {16: 1.0, 24: 2.0, 32: 3.45}
"""Base channels, and how many times the time of 16 a step of each takes (measured on CPUs)."""
_PASSES = 6000
"""Pictures that a network should see in all, one counted as often as it is seen."""
_GROWTH: tuple[dict[str, float], ...] = (
    {"until": 0.36, "scale": 1 / 3},
    {"until": 0.82, "scale": 2 / 3},
)
_HALF: tuple[dict[str, float], ...] = ({"until": 0.5, "scale": 0.5},)
_LARGE = 512
_FEW = 100
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


def plan_budget(
    seconds: float,
    pixel: float,
    sizes: Sequence[tuple[int, int]],
    trained: int,
    depth: int,
) -> dict[str, tuple[Any, str]]:
    """Fit a run to a time.

    Pictures grow during the run: most of what a network learns it learns as well, and several
    times as fast, from small ones.

    Args:
        seconds: Time for training steps alone [s].
        pixel: What one working pixel of one picture takes in a step at 16 base channels [s].
        sizes: Height and width of each picture [pixels].
        trained: Pictures that are trained on.
        depth: How often the network halves a picture.

    Returns:
        For each setting its value and the reason for it.
    """
    height, width = (float(side) for side in np.median(np.array(sizes), axis=0))
    native = height * width
    least = 2 ** (depth + 1)
    # wider only where pictures are as large as they are, or as is worth while
    areas = {base: seconds / (_PASSES * _cost(_GROWTH) * pixel * n) for base, n in _WIDTHS.items()}
    wide = [base for base, area in areas.items() if area >= min(native, _LARGE**2)]
    base = max(wide, default=min(_WIDTHS))
    side = math.sqrt(min(max(areas[base], (3 * least) ** 2), native, (1.5 * _LARGE) ** 2))
    size = choose_size(sizes, round(side))
    growth = next((each for each in (_GROWTH, _HALF) if min(size) * each[0]["scale"] >= least), ())
    step = size[0] * size[1] * pixel * _WIDTHS[base]
    passes = seconds / (step * _cost(growth))
    plan: dict[str, tuple[Any, str]] = {
        "size": (
            size,
            f"the pictures (median {width:.0f} x {height:.0f}) reduced so that {_PASSES} can be "
            f"seen in {seconds:.0f} s, at {step * 1000:.0f} ms each at full size",
        ),
        "base_channels": (base, "wider only where there is time for full-size pictures"),
        "growth": (
            growth,
            "parts of the run at these scales: most is learnt as well from small pictures"
            if growth
            else "the pictures are too small to begin smaller",
        ),
        "optimizer": ("muon", "learns most a step here"),
        "learning_rate": (6e-3, "goes with it"),
        "augment": (
            ("strong", f"only {trained} pictures: all flips and turns make more of them")
            if trained < _FEW
            else ("light", f"{trained} pictures: flips, small turns and shifts")
        ),
    }
    plan["epochs"] = (
        max(1, round(passes / trained)),
        f"about; the clock decides, after about {passes:.0f} pictures",
    )
    return plan


def _cost(growth: Sequence[Mapping[str, float]]) -> float:
    """How much of the time that full-size pictures would take a run with growth takes."""
    cost, before = 0.0, 0.0
    for part in (*growth, {"until": 1.0, "scale": 1.0}):
        cost, before = cost + (part["until"] - before) * part["scale"] ** 2, part["until"]
    return cost


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
