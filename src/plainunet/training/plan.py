"""From what is known of data and machine to settings, each with its reason.

In: a data set's fingerprint, and what a training step takes here. Out: settings. Nothing is read
or trained here, and PyTorch is not loaded.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from plainunet.config import TrainConfig
from plainunet.data.doctor.diagnose import Diagnosis
from plainunet.data.fingerprint import Fingerprint
from plainunet.data.patches import patches_each
from plainunet.data.problems import command
from plainunet.data.resizing import reduce_size
from plainunet.prediction.cells import SIDE, windows_each
from plainunet.training.scale import (
    WIDTHS,
    Machine,
    Plan,
    choose_growth,
    choose_window,
    growth_cost,
)

BUDGET = 900.0
"""Seconds of a run for which neither a time nor a number of epochs is given."""
_MANY = 400
_UNLIKE = 1.5
_KEPT = 1320.0
"""Bytes that a working pixel of a training step keeps for the backward pass at 16 base channels
(`plainunet model`); in proportion to the width."""
_RATES = {"muon": 6e-3, "adamw": 2e-3, "adam": 2e-3, "sgd": 5e-2, "rmsprop": 1e-3}
_ROOM = 0.4
"""Share of the memory that these may take."""


def make_plan(
    seen: Fingerprint,
    machine: Machine,
    seconds: float,
    given: Mapping[str, Any],
    taken: Mapping[str, str] | None = None,
) -> Plan:
    """Fit a run to data, machine and time.

    Args:
        seen: What is known of the data.
        machine: What is known of the machine.
        seconds: Time for training steps alone [s].
        given: Settings that the user gave; these stay, and the others are made to suit them.
        taken: Those among them that a checkpoint gave instead, each with the reason.

    Returns:
        For each setting its value and the reason for it. What was given is among them where it
        is planned at all.
    """
    plan: Plan = {}

    def decide(name: str, value: Any, reason: str) -> Any:
        if name in given:
            value, reason = given[name], (taken or {}).get(name, "as given")
        plan[name] = value, reason
        return plan[name][0]

    depth = decide("depth", *_choose_depth(seen))
    window = choose_window(seen, machine, seconds, given, 2 ** (depth + 1))
    if given.get("patch") or "patch" in window:
        decide("patch", *window["patch"])
        decide("factor", *window["factor"])
        growth: Sequence[Mapping[str, float]] = ()
        reason = "details would go with the scale"
    else:
        decide("size", *window["size"])
        growth, reason = choose_growth(plan["size"][0], 2 ** (depth + 1))
    growth = decide("growth", growth, reason)
    side = plan["patch" if "patch" in plan else "size"][0]
    base = decide("base_channels", *window["base_channels"])
    width = 1.0 if "base_channels" in given else WIDTHS[base]
    step = side[0] * side[1] * machine.pixel * width
    passes = seconds / (step * growth_cost(growth))
    batch = decide("batch_size", 8, "as most U-Nets are trained")
    room = _ROOM * machine.memory
    needed = batch * side[0] * side[1] * _KEPT * base / 16
    parts = min(batch, 2 ** max(0, math.ceil(math.log2(needed / room))))
    kept = f"a batch keeps about {needed / 2**30:.1f} of {machine.memory / 2**30:.0f} GiB"
    decide("accumulation", parts, kept if parts == 1 else f"{kept} when whole")
    decide("normalisation", *_choose_normalisation(seen))
    optimizer = decide("optimizer", "muon", "learns most a step here")
    decide("learning_rate", _RATES[optimizer], "goes with it")
    decide("augment", *_choose_augment(seen))
    decide("class_weights", *_choose_weights(seen, given.get("loss", TrainConfig().loss)))
    each = 1
    if given.get("refine_of"):
        each = windows_each(seen.trained) * patches_each([(SIDE, SIDE)], side)
    elif "patch" in plan:
        reduced = [reduce_size(size, plan["factor"][0]) for size in seen.sizes]
        each = patches_each(reduced, side)
    epochs = max(1, round(passes / seen.trained / each))
    what = "patches" if "patch" in plan else "pictures"
    said = (
        f"so often all pictures are seen, about, if {passes:.0f} {what} take "
        f"{step * 1000:.0f} ms each; the clock decides"
    )
    plan["epochs"] = (epochs, said)
    return plan


def _choose_depth(seen: Fingerprint) -> tuple[int, str]:
    least = min(min(size) for size in seen.sizes)
    depth = min(4, max(1, int(math.log2(max(4, least))) - 2))
    if depth == 4:
        return depth, "as in the paper"
    return depth, f"the smallest picture has a side of {least} pixels"


def _choose_normalisation(seen: Fingerprint) -> tuple[str, str]:
    said = f"pictures' means differ by {seen.unlike:.1f} of what values in a picture do"
    if seen.unlike > _UNLIKE:
        return "group", f"{said}: each is normalised by itself"
    return "batch", said


def _choose_augment(seen: Fingerprint) -> tuple[str, str]:
    if seen.upright:
        return "light", "pictures have an upright side: no turns, no upside down"
    if seen.trained >= _MANY:
        return "light", f"{seen.trained} pictures are variety enough"
    return "strong", f"{seen.trained} pictures without an upright side: all flips and turns"


def _choose_weights(seen: Fingerprint, loss: str) -> tuple[str, str]:
    rarest = min(seen.shares, key=lambda name: seen.shares[name])
    said = f"the rarest class, {rarest}, covers {100 * seen.shares[rarest]:.2g} %"
    if loss in ("cross-entropy", "focal") and seen.shares[rarest] < 0.05:
        return "balanced", f"{said}, and the loss counts pixels"
    return "none", f"{said}; the loss counts classes alike" if "cross" not in loss else said


def training_command(result: Diagnosis) -> str:
    """Say how to train on a folder that was looked at.

    Args:
        result: As returned by `check`.

    Returns:
        The command; what else a run needs, it plans itself.
    """
    run = Path("runs") / (result.data.name or "first")
    return command("plainunet", "train", result.data, "--out", run, *result.given_flags)
