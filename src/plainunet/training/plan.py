"""Choose settings from the dataset, the machine and the time budget, each with a reason."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from plainunet.config import TrainConfig
from plainunet.dataset.resize import patches_each, reduce_size
from plainunet.dataset.scenes import are_blocks
from plainunet.doctor.diagnose import Diagnosis
from plainunet.errors import Error
from plainunet.formats.problems import command
from plainunet.parts import is_own
from plainunet.prediction.tiling import WHOLE
from plainunet.reporter import Reporter
from plainunet.training.fingerprint import FEWEST, Fingerprint, take_fingerprint
from plainunet.training.schedule import scaled_size

Plan = dict[str, tuple[Any, str]]
"""For each setting its value and the reason for it."""
WIDTHS = {8: 0.4, 16: 1.0, 24: 2.0, 32: 3.45}
"""Base channels, and the time of a step relative to 16 base channels (measured on CPUs)."""
_USUAL, _SMALL = 16, 200
"""The usual base channels. If they can only afford images below 200 x 200 pixels of area, a
narrower network on larger images is better, unless there are more than `_FEW` foreground classes.
"""
_PASSES, _WORK, _MORE = 2500, 28e6, 0.4
"""Target number of samples to train on (2500) when the budget allows 28e6 input pixels in all at
16 base channels. It grows with budget ** 0.4, so more time buys more samples and larger ones."""
_BATCH, _MAX_BATCH, _OVERHEAD, _MIN_STEPS = 8, 32, 0.25, 2000
"""The usual batch size, and the largest. On a GPU it is doubled while the fixed part of a step
takes more than a quarter of the time that its pixels take, and 2,000 steps are left."""
_FEW, _HARDER = 5, 1.3
"""Enough for 5 foreground classes; above that the target grows with (classes / 5) ** 1.3."""
_GROWTH: tuple[dict[str, float], ...] = (
    {"until": 0.3, "scale": 1 / 3},
    {"until": 0.6, "scale": 2 / 3},
)
"""Full size must start while the learning rate is high enough for the weights and the running
statistics to adapt to it."""
_HALF: tuple[dict[str, float], ...] = ({"until": 0.5, "scale": 0.5},)
_LARGE = 512
SCENE_PATCH = 256
"""Side of patches of scenes that are read in blocks [pixels]."""
_LOST = 0.02
"""Dice of the ground truth that downscaling may cost."""
_RECOMMENDED = 0.01
"""The same for the recommended input size."""
_SEEN = 64.0
"""Diameter of an object that the network still sees as a whole [input pixels]: typical ones
are not shown larger, unless there is time for it."""
_ENOUGH = 0.85
"""Fraction of the suitable side below which whole images are too coarse."""
_EVERYWHERE, _LITTLE = 0.9, 0.75
"""Patches are used only if all classes appear in at least this fraction of an image's regions, or
if the max. Dice is below this: whole images teach more with the same number of pixels."""
_SMALLEST_PATCH, _LARGEST_PATCH = 96, 512
_PATCHES = 2
"""Minimum width of an image, in patches of the size that the user set."""


class Machine(NamedTuple):
    """Speed and memory of the machine.

    Attributes:
        pixel: Time of forward and backward per input pixel [s], at 16 base channels or at the
            number that the user set.
        memory: Memory of the device [bytes].
        name: Its name and precision, for messages.
        step: Time of a training step that is independent of the number of pixels [s]: the
            optimiser and, on GPUs, starting kernels.
        widths: Base channels to choose from, and `pixel` relative to 16 base channels.
        large_batches: Whether more than 8 images are faster than 8, as on GPUs.
    """

    pixel: float
    memory: float
    name: str
    step: float = 0.0
    widths: Mapping[int, float] = WIDTHS
    large_batches: bool = False


def choose_window(
    stats: Fingerprint, machine: Machine, seconds: float, given: Mapping[str, Any], least: int
) -> Plan:
    """Choose the input size, or a patch size and scale, and the width of the network.

    Args:
        stats: Statistics of the data.
        machine: Speed and memory of the machine.
        seconds: Time for training steps alone [s].
        given: Settings that the user gave.
        least: Minimum side of the network's input in training [pixels].

    Returns:
        `size`, or `patch` and `factor`; and `base_channels`.
    """
    native = _typical(stats.sizes)
    whole, base = _afford(stats, machine, seconds, native, given)
    whole = min(max(whole, 3.0 * least), native, 1.5 * _LARGE)
    fine = max(side_needed(stats.ceilings, _LOST), native * _SEEN / (stats.typical or native))
    fine = min(fine, native)
    coarse = whole < _ENOUGH * fine
    if given.get("patch"):
        fine = min(max(fine, _PATCHES * max(given["patch"])), native)
    alike = stats.spread >= _EVERYWHERE or _ceiling_at(stats.ceilings, whole) < _LITTLE
    if given.get("size") or not (given.get("patch") or (coarse and alike)):
        size = choose_size(stats.sizes, round(whole))
        height, width = np.median(np.array(stats.sizes), axis=0)
        reason = f"the median image is {height:.0f} x {width:.0f}"
        if whole < native:
            reason += f"; downscaled to fit enough training samples into {seconds:.0f} s"
        if whole < native and len(stats.shares) > _FEW + 1:
            reason += f", {len(stats.shares)} classes need more of them"
        if stats.ceilings:
            reason += f"; max. Dice {_ceiling_at(stats.ceilings, whole):.3f} at this size"
        return {"size": (size, reason), "base_channels": base}
    # steps of a quarter octave, so that similar plans share cache entries
    factor = min(1.0, 2 ** (math.ceil(4 * math.log2(fine / native)) / 4))
    side = math.sqrt(_time_of_pixels(stats, machine, seconds, given) / machine.pixel)
    patch = _patch_of(stats, factor, min(max(side, _SMALLEST_PATCH), _LARGEST_PATCH), least)
    reason = (
        f"whole images would have to be downscaled to about {whole:.0f} x {whole:.0f} to fit "
        f"enough of them into {seconds:.0f} s, which loses too much detail; every class appears in "
        f"at least {stats.spread:.0%} of an image's regions; a third of the patches are centred on "
        "rarer classes"
    )
    scale = f"max. Dice {_ceiling_at(stats.ceilings, factor * native):.3f} at this scale"
    if given.get("patch"):
        across = factor * native / max(given["patch"])
        scale = f"the median image is {across:.1f} patches across; {scale}"
    if stats.typical:
        scale += f"; typical objects are {factor * stats.typical:.0f} pixels across"
    return {
        "patch": (patch, reason),
        "factor": (round(factor, 4), scale),
        "base_channels": (_USUAL, "the usual width"),
    }


def _patch_of(stats: Fingerprint, factor: float, side: float, least: int) -> tuple[int, int]:
    """Height and width of patches of about this side, not larger than the reduced median image."""
    height, width = (
        max(least, 32 * min(round(side / 32), int(factor * length / 32)))
        for length in np.median(np.array(stats.sizes), axis=0)
    )
    return height, width


def _time_of_pixels(
    stats: Fingerprint,
    machine: Machine,
    seconds: float,
    given: Mapping[str, Any],
    times: float = 1.0,
) -> float:
    """Time that the pixels of a sample may take [s], if each takes `times` that of the machine."""
    whole = seconds / _passes(seconds, machine.pixel * times, len(stats.shares))
    # in the shortest runs, the optimiser leaves little
    batch: int = given.get("batch_size", _BATCH)
    return max(whole - machine.step / batch, 0.1 * whole)


def _afford(
    stats: Fingerprint,
    machine: Machine,
    seconds: float,
    native: float,
    given: Mapping[str, Any],
) -> tuple[float, tuple[int, str]]:
    """Side of the largest images that fit the budget [pixels]; base channels, and the reason."""
    widths = {given["base_channels"]: 1.0} if "base_channels" in given else machine.widths
    cost = growth_cost(given.get("growth", _GROWTH)) * machine.pixel

    def side(times: float) -> float:
        # of narrower networks, half the gain goes into more samples
        each = _time_of_pixels(stats, machine, seconds, given, min(times, 1.0))
        return math.sqrt(each / (cost * times))

    sides = {base: side(times) for base, times in widths.items()}
    few = len(stats.shares) - 1 <= _FEW
    if _USUAL in sides and not (few and sides[_USUAL] < min(native, _SMALL)):
        sides = {base: each for base, each in sides.items() if base >= _USUAL}
    # wider only if images are at full size, or larger than pays off
    wide = [base for base, each in sides.items() if each >= min(native, _LARGE)]
    base = max(wide, default=min(sides))
    reason = "wider networks only pay off if the budget allows full-size images"
    if base < _USUAL:
        reason = "with so little time, larger images are worth more than a wider network"
    return sides[base], (base, reason)


def _passes(seconds: float, pixel: float, classes: int) -> float:
    """Number of samples to train on in all."""
    more: float = (seconds / pixel / _WORK) ** _MORE
    harder: float = max(1.0, (classes - 1) / _FEW) ** _HARDER
    return _PASSES * more * harder


def _bytes_per_pixel(base: int, classes: int) -> float:
    """Memory that an input pixel takes in a training step."""
    return _ACTIVATIONS * base / 16 + _OF_CLASS * classes


def largest_side(memory: float, batch: int, base: int, classes: int) -> int:
    """Side of the largest square images whose activations fit in memory [pixels]."""
    side = math.sqrt(_ROOM * memory / (batch * _bytes_per_pixel(base, classes)))
    return max(32, 32 * int(side / 32))


def choose_growth(size: tuple[int, int], least: int) -> tuple[tuple[dict[str, float], ...], str]:
    """Choose the stages of progressive resizing below the full size, and the reason."""
    for growth in (_GROWTH, _HALF):
        if min(size) * growth[0]["scale"] >= least:
            return growth, "progressive resizing: small images first are faster, as accurate"
    return (), "the images are too small for progressive resizing"


def side_needed(ceilings: Mapping[int, float], lost: float) -> float:
    """Smallest N at which ground truth of N x N pixels loses at most `lost` Dice; 0 if unknown."""
    sides = np.geomspace(16, 4096, 129) if ceilings else [0.0]
    return next((n for n in sides if 1 - _ceiling_at(ceilings, n) <= lost), 4096.0)


def _ceiling_at(ceilings: Mapping[int, float], side: float) -> float:
    """Max. Dice at side x side pixels of area."""
    if not ceilings:
        return 1.0
    # a band along boundaries is lost, half as wide if pixels are half as large
    sides, lost = np.array(list(ceilings)), np.maximum(1 - np.array(list(ceilings.values())), 1e-6)
    if not sides[0] < side < sides[-1]:
        end = 0 if side <= sides[0] else -1
        return max(0.0, 1 - float(lost[end] * sides[end]) / side)
    return 1 - float(np.exp(np.interp(np.log(side), np.log(sides), np.log(lost))))


def _typical(sizes: Sequence[tuple[int, int]]) -> float:
    """Side of a square as large as the median image [pixels]."""
    height, width = np.median(np.array(sizes), axis=0)
    return math.sqrt(height * width)


def growth_cost(growth: Sequence[Any]) -> float:
    """Time of a run with progressive resizing, as a fraction of that at full size alone.

    Its stages are taken for fractions of the epochs, as without a budget: the targets above were
    tuned with it.
    """
    return sum(fraction * scale**2 for fraction, scale in _stages(growth))


def _stages(growth: Sequence[Any]) -> Iterator[tuple[float, float]]:
    """The fraction of a run and the scale of each stage, that at full size last."""
    before = 0.0
    for stage in map(dict, (*growth, {"until": 1.0, "scale": 1.0})):
        yield stage["until"] - before, stage["scale"]
        before = stage["until"]


def count_passes(seconds: float, step: float, pixels: float, growth: Sequence[Any] = ()) -> float:
    """Samples that a run sees in its time, if each stage takes its fraction of it.

    Args:
        seconds: Time for training steps alone [s].
        step: Time per sample that is independent of its size [s].
        pixels: Time per sample for its pixels at full size [s].
        growth: The stages of progressive resizing.
    """
    return sum(
        fraction * seconds / (step + pixels * scale**2) for fraction, scale in _stages(growth)
    )


def choose_size(sizes: Sequence[tuple[int, int]], side: int = 256) -> tuple[int, int]:
    """An input size of about `side` x `side` pixels of area, of the median image's shape."""
    height, width = (float(length) for length in np.median(np.array(sizes), axis=0))
    scale = min(1.0, side / math.sqrt(height * width))
    return max(32, 16 * round(height * scale / 16)), max(32, 16 * round(width * scale / 16))


BUDGET = 900.0
"""Default time budget [s], if neither a budget nor a number of epochs is set."""
_MANY = 400
_SHORT = 40
"""Epochs up to which stronger augmentation than flips and compression lowers the scores
(docs/results.md, Ablations: nuclei, cars and roads, planned for 11 to 36 epochs)."""
_DECAY = 0.3
"""Weight decay of Muon in longer runs: with the usual 0.01, 25 images are overfitted within five
minutes and 367 within an hour (docs/explanation/budget.md)."""
_VARIED = 1.5
_ACTIVATIONS = 1320.0
"""Bytes of activations that an input pixel keeps for the backward pass at 16 base channels
(`plainunet model`); proportional to the width."""
_OF_CLASS = 40.0
"""Bytes that logits, targets and the loss take for each class of a pixel."""
OPTIMIZER = "muon"
RATES = {"muon": 6e-3, "adamw": 2e-3, "adam": 2e-3, "sgd": 5e-2, "rmsprop": 1e-3}
"""Learning rate of each optimizer, for a batch of 8."""
_GENTLER = 4
"""Pretrained weights are trained at a quarter of the learning rate, or much of them is lost."""
_ROOM = 0.4
"""Fraction of the memory that these may take."""


def make_plan(
    stats: Fingerprint,
    machine: Machine,
    seconds: float,
    given: Mapping[str, Any],
    taken: Mapping[str, str] | None = None,
) -> Plan:
    """Choose the settings of a run.

    Args:
        stats: Statistics of the data.
        machine: Speed and memory of the machine.
        seconds: Time for training steps alone [s].
        given: Settings that the user gave; they are kept, and the others are chosen to match.
        taken: Those in `given` that come from a checkpoint instead, each with the reason.

    Returns:
        For each planned setting, given ones included, its value and the reason for it.
    """
    plan: Plan = {}

    def decide(name: str, value: Any, reason: str) -> Any:
        if name in given:
            value, reason = given[name], (taken or {}).get(name, "as given")
        plan[name] = value, reason
        return plan[name][0]

    depth = decide("depth", *_choose_depth(stats))
    window = choose_window(stats, machine, seconds, given, 2 ** (depth + 1))
    if given.get("patch") or "patch" in window:
        decide("patch", *window["patch"])
        decide("factor", *window["factor"])
        growth: Sequence[Mapping[str, float]] = ()
        reason = "patches are not downscaled further: they would lose detail"
    else:
        decide("size", *window["size"])
        growth, reason = choose_growth(plan["size"][0], 2 ** (depth + 1))
    if given.get("pretrained"):
        growth, reason = (), "the pretrained weights know the full size"
    growth = decide("growth", growth, reason)
    side = plan["patch" if "patch" in plan else "size"][0]
    base = decide("base_channels", *window["base_channels"])
    width = 1.0 if "base_channels" in given else machine.widths[base]
    pixels = side[0] * side[1] * machine.pixel * width
    room = _ROOM * machine.memory
    one = side[0] * side[1] * _bytes_per_pixel(base, len(stats.shares))

    def passes_with(batch: int) -> float:
        return count_passes(seconds, machine.step / batch, pixels, growth)

    most = min(_MAX_BATCH, stats.trained, room / one) if machine.large_batches else _BATCH
    batch = decide("batch_size", *_choose_batch(passes_with, machine.step / pixels, most))
    needed = batch * one
    micro_batches = min(batch, 2 ** math.ceil(math.log2(max(1.0, needed / room))))
    memory = f"{needed / 2**30:.1f} GiB"
    if math.isfinite(machine.memory):  # on Windows it is not known
        memory = f"{needed / 2**30:.1f} of {machine.memory / 2**30:.0f} GiB"
    decide(
        "gradient_accumulation",
        micro_batches,
        f"the activations of a full batch need about {memory}",
    )
    scale = plan["factor"][0] if "patch" in plan else 0.0
    decide("normalisation", *_choose_normalisation(stats, scale, base))
    optimizer = decide("optimizer", OPTIMIZER, "fastest convergence in our benchmarks")
    larger = 1.0 if "batch_size" in given else batch / _BATCH
    rate, why = _choose_rate(optimizer, larger)
    if given.get("pretrained"):
        rate, why = rate / _GENTLER, f"{why}, divided by {_GENTLER}: the weights are pretrained"
    decide("learning_rate", rate, why)
    decide("class_weights", *_choose_weights(stats, given.get("loss", TrainConfig().loss)))
    each = 1
    if "patch" in plan:
        reduced = [reduce_size(size, plan["factor"][0]) for size in stats.sizes]
        each = patches_each(reduced, side)
    passes = passes_with(batch)
    epochs = max(1, round(passes / stats.trained / each))
    decide("augment", *_choose_augment(stats, epochs))
    decide("weight_decay", *_choose_decay(plan["optimizer"][0], epochs, given))
    what = "patches" if "patch" in plan else "images"
    last = 1000 * (machine.step / batch + pixels)
    reason = f"estimated from {passes:.0f} {what}, {last:.3g} ms each at the full input size"
    plan["epochs"] = (epochs, f"{reason}; the budget decides")
    return plan


def _choose_depth(stats: Fingerprint) -> tuple[int, str]:
    least = min(np.median(np.array(stats.sizes), axis=0))
    depth = min(4, max(1, int(math.log2(max(4, least))) - 2))
    if depth == 4:
        return depth, "as in the paper"
    return depth, f"the shorter side of the median image is {least:.0f} pixels"


def _choose_batch(
    passes_with: Callable[[int], float], overhead: float, most: float
) -> tuple[int, str]:
    """The batch size, at most `most`; `overhead`: the fixed part of a step in samples."""
    batch = _BATCH
    while (
        2 * batch <= most
        and overhead > _OVERHEAD * batch
        and passes_with(2 * batch) > _MIN_STEPS * 2 * batch
    ):
        batch *= 2
    if batch == _BATCH:
        return batch, "common default for U-Nets"
    faster = passes_with(batch) / passes_with(_BATCH)
    return batch, f"{faster:.1f} times as many images per second as with {_BATCH}"


def _choose_rate(optimizer: str, larger: float) -> tuple[float, str]:
    """The learning rate for a batch `larger` times the usual one."""
    if larger <= 1:
        return RATES[optimizer], f"default for {optimizer}"
    # Goyal et al. 2017, arXiv 1706.02677; for adaptive ones, Malladi et al. 2022, arXiv 2205.10287
    power = 1.0 if optimizer == "sgd" else 0.5
    scaled = "the batch" if optimizer == "sgd" else "the square root of the batch"
    rate = round(RATES[optimizer] * larger**power, 6)
    return rate, f"default for {optimizer}, scaled with {scaled}"


def _choose_normalisation(stats: Fingerprint, factor: float, base: int) -> tuple[str, str]:
    """The normalisation; `factor` of patches, or 0."""
    reason = f"image means vary by {stats.variation:.1f} of the standard deviation within images"
    largest = factor**2 * max(height * width for height, width in stats.sizes)
    if stats.variation > _VARIED and largest * base > WHOLE:
        return "batch", f"{reason}, but the largest image must be predicted in tiles"
    if stats.variation > _VARIED:
        return "group", f"{reason}: each image is normalised separately"
    return "batch", reason


def _choose_augment(stats: Fingerprint, epochs: float = math.inf) -> tuple[str, str]:
    if epochs <= _SHORT:
        return "mild", (
            f"each image is seen about {epochs:g} times; stronger augmentation helps in longer runs"
        )
    if stats.upright and stats.trained < FEWEST:
        return "light", (
            f"{stats.trained} training images do not show whether they have an upright "
            "orientation; if they have none (microscopy, aerial), add --augment strong"
        )
    if stats.upright:
        return "light", "images have an upright orientation: no large rotations or vertical flips"
    if stats.trained >= _MANY:
        return "light", f"{stats.trained} training images are varied enough"
    return "strong", (
        f"{stats.trained} training images show no upright orientation: all flips and rotations; if "
        "they have one, add --augment light"
    )


def _choose_decay(optimizer: str, epochs: float, given: Mapping[str, Any]) -> tuple[float, str]:
    usual = TrainConfig().weight_decay
    if optimizer != OPTIMIZER:
        return usual, f"default for {optimizer}"
    if given.get("pretrained"):
        return usual, "decay would pull the pretrained weights towards 0"
    if epochs <= _SHORT:
        return usual, f"each image is seen about {epochs:g} times"
    return _DECAY, f"each image is seen about {epochs:g} times, which may overfit"


def _choose_weights(stats: Fingerprint, loss: str) -> tuple[str, str]:
    rarest = min(stats.shares, key=lambda name: stats.shares[name])
    reason = f"the rarest class, {rarest}, covers {100 * stats.shares[rarest]:.2g} %"
    if loss in ("cross-entropy", "focal") and stats.shares[rarest] < 0.05:
        return "balanced", f"{reason}: class imbalance, and the loss is a mean over pixels"
    return "none", reason if "cross" in loss or is_own(
        loss
    ) else f"{reason}; the loss weights classes equally"


def training_command(result: Diagnosis) -> str:
    """Write the command that trains on a checked folder.

    Args:
        result: As returned by `check`.

    Returns:
        The command; a run plans all other settings itself.
    """
    run = Path("runs") / (result.data.name or "first")
    return command("plainunet", "train", result.data, "--out", run, *result.given_flags)


def recommend(result: Diagnosis) -> Plan:
    """Recommend settings that follow from the data alone; the others depend on the time budget.

    Args:
        result: As returned by `check`.

    Returns:
        For each setting its value and the reason; none if there are errors.
    """
    pairs = [replace(pair, part="train") for pair in result.pairs if pair.part in (None, "train")]
    if result.contents is None or result.count("error") or not pairs:
        return {}
    shares = result.summary["shares"]
    stats = take_fingerprint(pairs, result.sizes, result.contents.coding, shares)
    if are_blocks(pairs):
        return {"patch": ((SCENE_PATCH, SCENE_PATCH), "scenes are read in blocks")}
    side = max(128.0, side_needed(stats.ceilings, _RECOMMENDED))
    size = choose_size(stats.sizes, round(side))
    dice = f"keeps a Dice of {_ceiling_at(stats.ceilings, side):.3f}; smaller is faster"
    return {
        "size": (size, dice if stats.ceilings else "small images, at their own size"),
        "augment": _choose_augment(stats),
        "normalisation": _choose_normalisation(stats, 0.0, _USUAL),
        "class_weights": _choose_weights(stats, TrainConfig().loss),
    }


_IDLE: tuple[tuple[str, str, Callable[[TrainConfig], bool]], ...] = (
    ("border_sigma", "without --border-weight", lambda config: not config.border_weight),
    ("border_weight", "with --loss lovasz", lambda config: config.loss == "lovasz"),
    ("class_weights", "with --loss lovasz", lambda config: config.loss == "lovasz"),
    ("momentum", "without --optimizer sgd", lambda config: config.optimizer != "sgd"),
    ("weight_decay", "with --optimizer adam", lambda config: config.optimizer == "adam"),
    ("validation", "with --folds", lambda config: config.folds is not None),
    ("validation", "with --held-out", lambda config: bool(config.held_out)),
    ("stratify", "with --held-out", lambda config: bool(config.held_out)),
)
"""Settings that have no effect under others."""


def check_window(config: TrainConfig, reporter: Reporter) -> None:
    """Report the input size and settings without effect; a size that does not fit is an error."""
    reporter.note(_describe_size(config))
    _check_size(config)
    _check_elastic(config, reporter)
    for name, without, is_idle in _IDLE:
        if getattr(config, name) != TrainConfig.model_fields[name].default and is_idle(config):
            flag = name.replace("_", "-")
            reporter.note(f"note: --{flag} has no effect {without}")


def _check_size(config: TrainConfig) -> None:
    """Refuse an input size that is too small for the network's depth."""
    if config.network:
        return  # tried on images of this size
    size = config.window
    smallest = 2 ** (config.depth + 1)
    scales = [stage.scale for stage in config.growth] + [1]
    if min(scaled_size(size, min(scales))) < smallest:
        raise Error(
            f"The input size {size[0]} x {size[1]}"
            + (f", scaled by {min(scales):g} in growth," if config.growth else "")
            + f" is too small for --depth {config.depth}, which needs {smallest} pixels. Set a "
            "larger --size or a smaller --depth."
        )


def _check_elastic(config: TrainConfig, reporter: Reporter) -> None:
    """Refuse elastic deformation that is too strong for the input size, or warn of it."""
    size, side = config.window, min(config.window)
    if config.elastic > side / 4:
        raise Error(
            f"--elastic {config.elastic:g} is too strong for an input size of {size[0]} x {size[1]}"
            f": images would fold over themselves. Set {side / 12:.0f} or less."
        )
    if config.elastic > side / 12:
        reporter.note(
            f"note: --elastic {config.elastic:g} may fold images of {size[0]} x {size[1]} "
            f"over themselves; up to {side / 12:.0f} is safe"
        )


def _describe_size(config: TrainConfig) -> str:
    window = config.window
    if not config.patch:
        return f"input size {window[0]} x {window[1]}"
    of = "" if config.factor == 1 else f" of images scaled to {config.factor:.0%}"
    return f"patches of {window[0]} x {window[1]}{of}"
