"""From what is known of data and machine to settings, each with its reason."""

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from plainunet.config import NetworkConfig, TrainConfig
from plainunet.dataset.cache import recall
from plainunet.dataset.coding import Coding
from plainunet.dataset.dataset import SegmentationDataset
from plainunet.dataset.pairs import Pair
from plainunet.dataset.resize import SIZES, area_shares, measure_ceiling, patches_each, reduce_size
from plainunet.doctor.diagnose import Diagnosis
from plainunet.formats.images import read_image, to_unit
from plainunet.formats.problems import DataError, command
from plainunet.reporter import Reporter
from plainunet.training.schedule import scaled_size

_MOST, _FEWEST_MASKS, _PIXELS = 32, 12, 30_000_000
_SPECK = 4  # pixels: what is smaller is no object
_GRID = 8  # cells along each side, in which the upper and the lower half are compared
_FEWEST = 8  # pictures
_UPRIGHT, _SHARE_SEEN, _CELLS = 12.0, 0.1, 3  # standard errors, share of a cell's area, and cells


class Fingerprint(NamedTuple):
    """What is known of a data set.

    Attributes:
        sizes: Height and width of each picture [pixels].
        trained: How many pictures are trained on.
        shares: For each class by name, its share of all pixels, 0..1.
        kept: By N, the Dice that true masks keep that are reduced to N x N pixels of area, see
            `measure_ceiling`; empty where no mask that was looked at has foreground, or the
            median picture has no more pixels than the least of these.
        smallest: Diameter of a disc as large as the smaller objects, of which a tenth are smaller
            still [pixels of the picture]; None where there are none.
        typical: The same of the object at which half of the foreground's area is in larger ones.
        spread: In how many of a picture's sixteenths (4 x 4) the class is to be found that is in
            the fewest of them, 0..1, on average: near 1, a part of a picture shows what all of it
            does.
        unlike: Standard deviation of the pictures' mean values, as a share of that of the values
            in a picture: above 1, pictures are of more than one kind.
        upright: Whether classes lie otherwise in the upper half of pictures than in the lower; true
            where there are too few to tell.
    """

    sizes: Sequence[tuple[int, int]]
    trained: int
    shares: dict[str, float]
    kept: dict[int, float]
    smallest: float | None
    typical: float | None
    spread: float
    unlike: float
    upright: bool


def take_fingerprint(
    pairs: Sequence[Pair],
    sizes: Sequence[tuple[int, int]],
    coding: Coding,
    shares: dict[str, float],
) -> Fingerprint:
    """Look at a data set.

    Args:
        pairs: All pairs, each with its part.
        sizes: Height and width of each picture [pixels].
        coding: What mask values mean.
        shares: For each class by name, its share of all pixels.

    Returns:
        The fingerprint.

    Raises:
        ValueError: A picture or mask cannot be read.
    """
    trained = [(pair.image, pair.mask) for pair in pairs if pair.part == "train"]
    largest = max(height * width for height, width in sizes)
    most = min(_MOST, max(_FEWEST_MASKS, _PIXELS // largest))
    looked_at = trained[:: -(-len(trained) // most)]

    def measure(image: Path, mask: Path) -> Any:
        ids, number = coding.read(mask), coding.num_classes
        cells = area_shares(ids, number, (_GRID, _GRID)).astype(np.int64)
        known = measure_ceiling(ids, number), _diameters(ids, number)
        values = to_unit(read_image(image))
        light = float(values.mean()), float(values.std())
        return [*known, _spread(cells), _lean(cells), light]

    facts = []
    for found in recall(f"fingerprint 7 {coding}", looked_at, measure):
        if isinstance(found, DataError):
            raise found
        facts.append(found)
    all_kept, all_diameters, spreads, leans, light = zip(*facts, strict=True)
    ceilings = [ceiling for ceiling in all_kept if ceiling]
    diameters = [both for both in all_diameters if both]
    smallest, typical = np.median(diameters, axis=0).tolist() if diameters else (None, None)
    kept = np.mean(ceilings, axis=0).tolist() if ceilings else []
    if np.median([height * width for height, width in sizes]) <= SIZES[0] ** 2:
        kept = []  # none of these sizes is smaller
    return Fingerprint(
        sizes=sizes,
        trained=len(trained),
        shares=shares,
        kept=dict(zip(SIZES, kept, strict=False)),
        smallest=smallest,
        typical=typical,
        spread=float(np.mean(spreads)),
        unlike=_unlike(np.array(light)),
        upright=_is_upright(np.array(leans)),
    )


def _diameters(ids: NDArray[np.uint8], num_classes: int) -> list[float] | None:
    """Diameters of discs as large as the smaller and the typical object."""
    areas: list[NDArray[Any]] = []
    for class_id in range(1, num_classes):
        inside = (ids == class_id).view(np.uint8)
        _, _, statistics, _ = cv2.connectedComponentsWithStats(inside, connectivity=8)
        areas.append(statistics[1:, cv2.CC_STAT_AREA])
    found = np.sort(np.concatenate(areas))
    found = found[found >= _SPECK]
    if not len(found):
        return None
    summed = np.cumsum(found)
    both = np.percentile(found, 10), found[np.searchsorted(summed, summed[-1] / 2)]
    return [float(2 * np.sqrt(area / np.pi)) for area in both]


def _spread(cells: NDArray[np.int64]) -> float:
    """In how many blocks of 2 x 2 cells the class is that is in the fewest."""
    blocks = cells.reshape(_GRID // 2, 2, _GRID // 2, 2, -1).sum(axis=(1, 3)) > 0
    shares = blocks.mean(axis=(0, 1))
    return float(shares[shares > 0].min()) if shares.any() else 0.0


def _unlike(light: NDArray[np.float64]) -> float:
    """How much pictures' means [n, 2: mean and standard deviation] differ."""
    within = light[:, 1].mean()
    return float(light[:, 0].std() / within) if within > 0 else 0.0


def _lean(cells: NDArray[np.int64]) -> list[int]:
    """By how much each class covers the cells of the upper half more than those opposite."""
    upper, opposite = cells[: _GRID // 2], cells[::-1][: _GRID // 2]
    return [int(difference) for difference in (upper - opposite).ravel()]


def _is_upright(leans: NDArray[np.int64]) -> bool:
    """Whether several cells differ in the same way in most pictures, and by enough to be seen."""
    if len(leans) < _FEWEST:
        return True  # nobody knows; a turned picture may be one that never occurs
    mean = np.abs(leans.mean(axis=0)) / 255
    error = leans.std(axis=0, ddof=1) / 255 / len(leans) ** 0.5
    return int(((mean > _UPRIGHT * error) & (mean > _SHARE_SEEN)).sum()) >= _CELLS


Plan = dict[str, tuple[Any, str]]
"""For each setting its value and the reason for it."""
WIDTHS = {16: 1.0, 24: 2.0, 32: 3.45}
"""Base channels, and how many times the time of 16 a step of each takes (measured on CPUs)."""
_PASSES, _WORK, _MORE = 2500, 25e6, 0.4
"""Pictures, or patches, that a network should see in all, one counted as often as it is seen, if
there is time for so many of their pixels at 16 base channels; with the power of it that follows,
more time makes both more of them and larger ones."""
_FEW, _HARDER = 5, 1.3
"""So many classes beside the background are learnt from that; for more, more are needed, by the
power of how many times as many they are."""
_GROWTH: tuple[dict[str, float], ...] = (
    {"until": 0.3, "scale": 1 / 3},
    {"until": 0.6, "scale": 2 / 3},
)
"""The last part must begin while the learning rate is high enough for the network, and what its
normalisation remembers, to get used to the size."""
_HALF: tuple[dict[str, float], ...] = ({"until": 0.5, "scale": 0.5},)
_LARGE = 512
_LOST = 0.02
"""Dice of the true masks that a smaller size may cost."""
_SEEN = 64.0
"""Diameter of an object that the network still sees as a whole [working pixels]: typical ones
are not shown larger, unless there is time for it."""
_ENOUGH = 0.85
"""Share of the side at which objects have the size that suits them, below which whole pictures are
too coarse."""
_EVERYWHERE, _LITTLE = 0.9, 0.75
"""Patches are taken instead where all classes are in so many parts of a picture, or where true
masks keep less than this Dice: a network that sees the whole learns more from the same pixels."""
_SMALLEST_PATCH, _LARGEST_PATCH = 96, 512
_PATCHES = 2
"""So many of the patches that are asked for should a picture be across, at least."""


class Machine(NamedTuple):
    """What is known of the machine.

    Attributes:
        pixel: What one working pixel of one picture takes in a step [s], at 16 base channels or
            at those that are given.
        memory: Of the device [bytes].
        name: What it is, in words.
    """

    pixel: float
    memory: float
    name: str


def choose_window(
    seen: Fingerprint, machine: Machine, seconds: float, given: Mapping[str, Any], least: int
) -> Plan:
    """Choose what the network sees, and how wide it is.

    Args:
        seen: What is known of the data.
        machine: What is known of the machine.
        seconds: Time for training steps alone [s].
        given: Settings that the user gave.
        least: Least side that the network takes in training [pixels].

    Returns:
        `size`, or `patch` and `factor`; and `base_channels`.
    """
    native = _typical(seen.sizes)
    passes = _passes(seconds, machine.pixel, len(seen.shares))
    whole, base = _afford(seconds, machine.pixel, native, passes, given)
    whole = min(max(whole, 3.0 * least), native, 1.5 * _LARGE)
    fine = max(side_needed(seen.kept, _LOST), native * _SEEN / (seen.typical or native))
    fine = min(fine, native)
    coarse = whole < _ENOUGH * fine
    if given.get("patch"):
        fine = min(max(fine, _PATCHES * max(given["patch"])), native)
    alike = seen.spread >= _EVERYWHERE or _kept_at(seen.kept, whole) < _LITTLE
    if given.get("size") or not (given.get("patch") or (coarse and alike)):
        size = choose_size(seen.sizes, round(whole))
        height, width = np.median(np.array(seen.sizes), axis=0)
        reason = f"the median picture has {height:.0f} x {width:.0f} pixels"
        if whole < native:
            reason += f", and enough of them can be seen in {seconds:.0f} s if reduced to this"
        if whole < native and len(seen.shares) > _FEW + 1:
            reason += f", {len(seen.shares)} classes taking more of them"
        if seen.kept:
            reason += f"; masks keep a Dice of {_kept_at(seen.kept, whole):.3f} at it"
        said = "wider only where there is time for full-size pictures"
        return {"size": (size, reason), "base_channels": (base, said)}
    # steps of a quarter octave: what is cached once serves similar plans
    factor = min(1.0, 2 ** (math.ceil(4 * math.log2(fine / native)) / 4))
    side = math.sqrt(seconds / (passes * machine.pixel))
    side = min(max(side, _SMALLEST_PATCH), _LARGEST_PATCH, factor * native)
    patch = max(least, 32 * round(side / 32))
    reason = (
        f"to be seen often enough in {seconds:.0f} s, whole pictures would have to be reduced to "
        f"{whole:.0f} x {whole:.0f} pixels of area, too small for what is in them; classes are "
        f"in {seen.spread:.0%} of their parts; a third of the patches is centred on rarer classes"
    )
    kept = f"masks keep a Dice of {_kept_at(seen.kept, factor * native):.3f} at it"
    if given.get("patch"):
        across = factor * native / max(given["patch"])
        kept = f"the median picture is {across:.1f} of these patches across, {kept}"
    if seen.typical:
        kept += f", and typical objects are {factor * seen.typical:.0f} pixels across"
    return {
        "patch": ((patch, patch), reason),
        "factor": (round(factor, 4), kept),
        "base_channels": (16, "wider only where there is time for full-size pictures"),
    }


def _afford(
    seconds: float, pixel: float, native: float, passes: float, given: Mapping[str, Any]
) -> tuple[float, int]:
    """Side [pixels of area] of pictures that can be seen often enough, and the width."""
    widths = {given["base_channels"]: 1.0} if "base_channels" in given else WIDTHS
    cost = growth_cost(given.get("growth", _GROWTH))
    area = seconds / (passes * cost * pixel)
    sides = {base: math.sqrt(area / times) for base, times in widths.items()}
    # wider only where pictures are as large as they are, or as is worth while
    wide = [base for base, side in sides.items() if side >= min(native, _LARGE)]
    base = max(wide, default=min(sides))
    return sides[base], base


def _passes(seconds: float, pixel: float, classes: int) -> float:
    """How often pictures should be seen in all."""
    more: float = (seconds / pixel / _WORK) ** _MORE
    harder: float = max(1.0, (classes - 1) / _FEW) ** _HARDER
    return _PASSES * more * harder


def choose_growth(size: tuple[int, int], least: int) -> tuple[tuple[dict[str, float], ...], str]:
    """The earlier, smaller parts of training at a size, and why."""
    for growth in (_GROWTH, _HALF):
        if min(size) * growth[0]["scale"] >= least:
            return growth, "most is learnt as well from small pictures, and faster"
    return (), "the pictures are too small to begin smaller"


def side_needed(kept: Mapping[int, float], lost: float) -> float:
    """The N at which masks of N x N pixels lose so much Dice, from what was measured; or 0."""
    if not kept:
        return 0.0
    # a band along outlines is lost, half as wide where pixels are half as large
    return next((n for n in np.geomspace(16, 4096, 129) if 1 - _kept_at(kept, n) <= lost), 4096.0)


def _kept_at(kept: Mapping[int, float], side: float) -> float:
    """The Dice that masks keep at side x side pixels of area."""
    if not kept:
        return 1.0
    sides, lost = np.array(list(kept)), np.maximum(1 - np.array(list(kept.values())), 1e-6)
    for end in (0, -1):
        if side <= sides[0] if end == 0 else side >= sides[-1]:
            return max(0.0, 1 - float(lost[end] * sides[end]) / side)
    return 1 - float(np.exp(np.interp(np.log(side), np.log(sides), np.log(lost))))


def _typical(sizes: Sequence[tuple[int, int]]) -> float:
    """Side of a square as large as the median picture [pixels]."""
    height, width = np.median(np.array(sizes), axis=0)
    return math.sqrt(height * width)


def growth_cost(growth: Sequence[Any]) -> float:
    """The time of a run with growth, as a share of that with full-size images alone."""
    cost, before = 0.0, 0.0
    for part in (*growth, {"until": 1.0, "scale": 1.0}):
        until, scale = dict(part)["until"], dict(part)["scale"]
        cost, before = cost + (until - before) * scale**2, until
    return cost


def choose_size(sizes: Sequence[tuple[int, int]], side: int = 256) -> tuple[int, int]:
    """A working size of about 256 x 256 pixels of area that suits all images."""
    height, width = (float(length) for length in np.median(np.array(sizes), axis=0))
    scale = min(1.0, side / math.sqrt(height * width))
    return max(32, 16 * round(height * scale / 16)), max(32, 16 * round(width * scale / 16))


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
    if "patch" in plan:
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


def with_checkpoint(config: TrainConfig) -> tuple[TrainConfig, dict[str, str]]:
    """Fill in what follows from the checkpoint that a run starts from, each with the reason."""
    if not config.start_from:
        return config, {}
    # PyTorch is loaded only where there is a checkpoint: `check` plans without it
    from plainunet.network.checkpoint import OVERRIDABLE, load_checkpoint

    network, _ = load_checkpoint(Path(config.start_from))
    known = NetworkConfig.model_fields.keys() & network.architecture.keys()
    kept = known - config.model_fields_set - set(OVERRIDABLE)
    config = config.model_copy(update={name: network.architecture[name] for name in kept})
    return config, dict.fromkeys(kept, "as in the checkpoint that it starts from")


def fill_in(
    dataset: SegmentationDataset, config: TrainConfig, reporter: Reporter
) -> tuple[SegmentationDataset, TrainConfig]:
    """Split the pairs, and fill in the classes and, unless the plan chooses it, the size."""
    parted, coding = dataset.split(config), dataset.coding
    size = config.size
    if not (size or config.patch or config.budget):
        size = choose_size(dataset.sizes)
    config = config.model_copy(update={"classes": dataset.class_names, "size": size})
    counted, total = sum(dataset.class_pixels), sum(h * w for h, w in dataset.sizes)
    if config.ignore is not None and counted == total:
        reporter.note(f"note: no mask has the value {config.ignore} that --ignore names")
    said = ", ".join(f"{name} {share:.1%}" for name, share in dataset.shares.items())
    if counted < total:
        said += f"; {1 - counted / total:.1%} of all pixels ignored"
    idle = [f"--{name}" for name in ("validation", "stratify") if name in config.model_fields_set]
    if idle and any(pair.part == "val" for pair in dataset.pairs):
        done = f"{' and '.join(idle)} {'does' if len(idle) == 1 else 'do'} nothing"
        reporter.note(f"note: the folder gives its own split; {done}")
    reporter.note(
        f"{len(parted)} pairs: {sum(pair.part == 'train' for pair in parted.pairs)} to train, "
        f"{sum(pair.part == 'val' for pair in parted.pairs)} to validate\n"
        f"masks: {coding.kind} {_shorten(coding.values)}; {said}"
    )
    return parted, config


_IDLE: tuple[tuple[str, str, Callable[[TrainConfig], bool]], ...] = (
    ("border_sigma", "without --border-weight", lambda config: not config.border_weight),
    ("border_weight", "with --loss lovasz", lambda config: config.loss == "lovasz"),
    ("class_weights", "with --loss lovasz", lambda config: config.loss == "lovasz"),
    ("weight_decay", "with --optimizer adam", lambda config: config.optimizer == "adam"),
    ("validation", "with --folds", lambda config: config.folds is not None),
)
"""Settings that others make idle."""


def check_window(config: TrainConfig, reporter: Reporter) -> None:
    """Say what the network will see; refuse what it cannot, a ValueError."""
    reporter.note(_describe_size(config, config.window))
    _check_size(config, config.window)
    _check_objects(config, config.window, reporter)
    for name, without, is_idle in _IDLE:
        if getattr(config, name) != TrainConfig.model_fields[name].default and is_idle(config):
            flag = name.replace("_", "-")
            reporter.note(f"note: --{flag} does nothing {without}")


def _check_size(config: TrainConfig, size: tuple[int, int]) -> None:
    """Refuse a working size that the network's depth does not allow."""
    smallest = 2 ** (config.depth + 1)
    scales = [part.scale for part in config.growth] + [1]
    if min(scaled_size(size, min(scales))) < smallest:
        raise ValueError(
            f"The working size {size[0]} x {size[1]}"
            + (f", or {min(scales):g} of it in growth," if config.growth else "")
            + f" is below {smallest} pixels, too small for --depth {config.depth}. Give a larger "
            "--size or a smaller --depth."
        )


def _check_objects(config: TrainConfig, size: tuple[int, int], reporter: Reporter) -> None:
    """Refuse or mention settings of elastic deformation and border weights that do not fit."""
    side = min(size)
    if config.elastic > side / 4:
        raise ValueError(
            f"--elastic {config.elastic:g} is too much for a working size of {size[0]} x {size[1]}:"
            f" pictures would fold over themselves. Take {side / 12:.0f} or less."
        )
    if config.elastic > side / 12:
        reporter.note(
            f"note: --elastic {config.elastic:g} may fold pictures of {size[0]} x {size[1]} "
            f"over themselves; up to {side / 12:.0f} is safe"
        )


def _describe_size(config: TrainConfig, window: tuple[int, int]) -> str:
    if not config.patch:
        return f"working size {window[0]} x {window[1]}"
    of = "" if config.factor == 1 else f" of pictures reduced to {config.factor:.0%}"
    return f"patches of {window[0]} x {window[1]}{of}"


def _shorten(values: tuple[int, ...]) -> str:
    return f"{{{', '.join(map(str, values))}}}" if len(values) <= 12 else f"0..{values[-1]}"
