"""From a data folder and settings to a run that is ready to begin."""

from collections.abc import Callable, Sequence
from pathlib import Path

from plainunet.config import TrainConfig
from plainunet.data.images import IMAGE_SUFFIXES
from plainunet.data.masks import MaskCoding, foreground_shares
from plainunet.data.meaning import understand_masks
from plainunet.data.pairing import Pair
from plainunet.data.split import split_pairs
from plainunet.palette import default_names
from plainunet.training.events import Note, OnEvent
from plainunet.training.scale import choose_size
from plainunet.training.state import STATE_FILE

_IDLE: tuple[tuple[str, str, Callable[[TrainConfig], bool]], ...] = (
    ("border_sigma", "without --border-weight", lambda config: not config.border_weight),
    ("border_weight", "with --loss lovasz", lambda config: config.loss == "lovasz"),
    ("class_weights", "with --loss lovasz", lambda config: config.loss == "lovasz"),
    ("weight_decay", "with --optimizer adam", lambda config: config.optimizer == "adam"),
    ("validation", "with --folds", lambda config: config.folds is not None),
)
"""Settings that others make idle."""


def require_apart(out: Path, data: Path) -> None:
    """Refuse a run folder that lies among the data, where its files would be taken for some.

    Args:
        out: The run folder.
        data: The data folder.

    Raises:
        ValueError: It is the data folder, or one that lies in it and holds pictures.
    """
    place, whole = out.resolve(), data.resolve()
    pictures = (path for path in place.glob("*") if path.suffix.lower() in IMAGE_SUFFIXES)
    within = whole in place.parents and not (place / STATE_FILE).is_file() and any(pictures)
    if place == whole or within:
        raise ValueError(f"{out}: holds the data, and no run can lie among it. Give another --out.")


def understand(
    pairs: Sequence[Pair],
    sizes: Sequence[tuple[int, int]],
    config: TrainConfig,
    on_event: OnEvent,
) -> tuple[list[Pair], MaskCoding, TrainConfig, dict[str, float]]:
    """Read the masks' coding, split the pairs, and fill in what the settings leave to the data.

    Args:
        pairs: All pairs.
        sizes: Height and width of each picture [pixels].
        config: The settings as the user gave them.
        on_event: Told what was understood.

    Returns:
        The pairs, each with its part; how mask values become class ids; the settings with
        `classes` and, unless there are patches or the clock will choose it, `size`; and for each
        class by name its share of all pixels.

    Raises:
        ValueError: The masks make no sense together, names and classes differ, the pairs cannot
            be split so, or the size is too small.
    """
    masks = [pair.mask for pair in pairs]
    coding, counts = understand_masks(
        masks,
        **config.mask_arguments(),
        on_note=lambda said: on_event(Note(said)),
    )
    names = _choose_names(config.classes, coding)
    foreground = foreground_shares(masks, coding) if config.stratify else None
    parted = split_pairs(
        pairs,
        config.validation,
        config.seed,
        folds=config.folds,
        fold=config.fold,
        shares=None if foreground is None else foreground.tolist(),
    )
    size = config.size
    if not (size or config.patch or config.budget):
        size = choose_size(sizes)
    config = config.model_copy(update={"classes": names, "size": size})
    if config.ignore is not None and counts.sum() == sum(h * w for h, w in sizes):
        on_event(Note(f"note: no mask has the value {config.ignore} that --ignore names"))
    shares = dict(zip(names, (counts / counts.sum()).tolist(), strict=True))
    said = ", ".join(f"{name} {share:.1%}" for name, share in shares.items())
    total = sum(height * width for height, width in sizes)
    if counts.sum() < total:
        said += f"; {1 - counts.sum() / total:.1%} of all pixels ignored"
    idle = [f"--{name}" for name in ("validation", "stratify") if name in config.model_fields_set]
    if idle and any(pair.part == "val" for pair in pairs):
        said = f"{' and '.join(idle)} {'does' if len(idle) == 1 else 'do'} nothing"
        on_event(Note(f"note: the folder gives its own split; {said}"))
    on_event(
        Note(
            f"{len(pairs)} pairs: {sum(pair.part == 'train' for pair in parted)} to train, "
            f"{sum(pair.part == 'val' for pair in parted)} to validate\n"
            f"masks: {coding.kind} {_shorten(coding.values)}; {said}"
        )
    )
    return parted, coding, config, shares


def check_window(config: TrainConfig, on_event: OnEvent) -> None:
    """Say what the network will see, if it can.

    Args:
        config: The settings, `size` or `patch` filled in.
        on_event: Told what may go wrong.

    Raises:
        ValueError: The size is too small, or elastic deformation too strong for it.
    """
    on_event(Note(_describe_size(config, config.window)))
    _check_size(config, config.window)
    _check_objects(config, config.window, on_event)
    for name, without, is_idle in _IDLE:
        if getattr(config, name) != TrainConfig.model_fields[name].default and is_idle(config):
            flag = name.replace("_", "-")
            on_event(Note(f"note: --{flag} does nothing {without}"))


def _choose_names(given: tuple[str, ...], coding: MaskCoding) -> tuple[str, ...]:
    """Name the classes as the user does, else as the masks do, else by default."""
    names = given or coding.names or default_names(coding.num_classes)
    if len(names) != coding.num_classes:
        raise ValueError(
            f"{len(names)} class names are given ({', '.join(names)}), but the masks hold "
            f"{coding.num_classes} classes (values {coding.values}). Name each, background first."
        )
    if len(set(names)) != len(names):
        raise ValueError(f"--classes: two classes have the same name ({', '.join(names)}).")
    if sorted(names) == sorted(coding.names) and names != coding.names:
        raise ValueError(
            f"--classes names them as {', '.join(names)}, but in the masks they stand in the order "
            f"{', '.join(coding.names)}. Leave the flag out, or name them in this order."
        )
    return names


def _check_size(config: TrainConfig, size: tuple[int, int]) -> None:
    """Refuse a working size that the network's depth does not allow."""
    smallest = 2 ** (config.depth + 1)
    scales = [part.scale for part in config.growth] + [1]
    if min(_scaled(size, min(scales))) < smallest:
        raise ValueError(
            f"The working size {size[0]} x {size[1]}"
            + (f", or {min(scales):g} of it in growth," if config.growth else "")
            + f" is below {smallest} pixels, too small for --depth {config.depth}. Give a larger "
            "--size or a smaller --depth."
        )


def _check_objects(config: TrainConfig, size: tuple[int, int], on_event: OnEvent) -> None:
    """Refuse or mention settings of elastic deformation and border weights that do not fit."""
    side = min(size)
    if config.elastic > side / 4:
        raise ValueError(
            f"--elastic {config.elastic:g} is too much for a working size of {size[0]} x {size[1]}:"
            f" pictures would fold over themselves. Take {side / 12:.0f} or less."
        )
    if config.elastic > side / 12:
        on_event(
            Note(
                f"note: --elastic {config.elastic:g} may fold pictures of {size[0]} x {size[1]} "
                f"over themselves; up to {side / 12:.0f} is safe"
            )
        )


def size_in(epoch: int, config: TrainConfig) -> tuple[int, int]:
    """Give the working size of an epoch.

    Args:
        epoch: Its number, from 0.
        config: The settings, `size` or `patch` filled in.

    Returns:
        Height and width of what the network is shown [pixels].
    """
    for part in config.growth:
        # the last epoch always runs at the full size, however few there are
        if epoch < min(round(part.until * config.epochs), config.epochs - 1):
            return _scaled(config.window, part.scale)
    return config.window


def size_at(share: float, config: TrainConfig) -> tuple[int, int]:
    """Give the working size at a moment of the run.

    Args:
        share: How much of the run is done, 0..1.
        config: The settings, `size` or `patch` filled in.

    Returns:
        Height and width [pixels].
    """
    for part in config.growth:
        if share < part.until:
            return _scaled(config.window, part.scale)
    return config.window


def _describe_size(config: TrainConfig, window: tuple[int, int]) -> str:
    if not config.patch:
        return f"working size {window[0]} x {window[1]}"
    of = "" if config.factor == 1 else f" of pictures reduced to {config.factor:.0%}"
    return f"patches of {window[0]} x {window[1]}{of}"


def _scaled(size: tuple[int, int], scale: float) -> tuple[int, int]:
    return round(size[0] * scale), round(size[1] * scale)


def _shorten(values: tuple[int, ...]) -> str:
    return f"{{{', '.join(map(str, values))}}}" if len(values) <= 12 else f"0..{values[-1]}"
