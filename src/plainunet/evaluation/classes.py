"""The masks of a folder -> the classes of a model.

In: a checkpoint's card, a folder's masks, and what the folder says of itself. Out: how those
masks are read so that a class is the same on both sides: by its name where both have names, by
the model's own coding where it fits, else as the masks explain themselves.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from plainunet.data.encodings.colors import IGNORED
from plainunet.data.masks import MaskCoding
from plainunet.data.meaning import common_names, understand_masks
from plainunet.data_config import DataConfig
from plainunet.network.checkpoint import Card
from plainunet.palette import default_names

_NOWHERE = 60000  # a value that no mask with names has


def match_classes(card: Card, masks: Sequence[Path], said: DataConfig) -> MaskCoding:
    """Find out how masks are read as the classes of a model.

    Args:
        card: The model's.
        masks: The masks.
        said: What the folder's dataset.toml says of them, if anything.

    Returns:
        The coding.

    Raises:
        FileNotFoundError: A mask is missing.
        ValueError: A mask cannot be read, or the masks' classes are not the model's.
    """
    names = common_names(masks)
    if names:
        return _by_name(card.class_names, names, masks)
    if said.values or said.colors or said.encoding or said.ignore is not None:
        coding = _as_they_are(card, masks, said)
        order = _order(card.class_names, said.classes) if said.classes else None
        return coding if order is None else _reordered(coding, order)
    return _as_in_training(card, masks) or _as_they_are(card, masks, said)


def _by_name(
    class_names: tuple[str, ...], names: tuple[str, ...], masks: Sequence[Path]
) -> MaskCoding:
    values = _order(class_names, names)
    coding = MaskCoding(values, IGNORED, "values", (), class_names)
    for path in masks:
        found = np.unique(coding.read_stored(path)).tolist()
        strange = [names[value] for value in found if value != IGNORED and value not in values]
        if strange:
            raise ValueError(
                f"{path} has the class '{strange[0]}', which the model does not know: it has "
                f"{', '.join(class_names)}. Take it out of the masks, rename it, or judge a "
                "model that knows it."
            )
    return coding


def _order(class_names: tuple[str, ...], names: tuple[str, ...]) -> tuple[int, ...]:
    """The place of each of a model's classes among the masks' names."""
    if len(names) == len(class_names) and default_names(len(names)) in (names, class_names):
        return tuple(range(len(names)))
    places = {name.casefold(): place for place, name in enumerate(names)}
    order = [
        places.get(name.casefold(), 0 if class_id == 0 else _NOWHERE + class_id)
        for class_id, name in enumerate(class_names)
    ]
    if all(place >= _NOWHERE for place in order[1:]):
        raise ValueError(
            f"The masks have the classes {', '.join(names)}, the model {', '.join(class_names)}: "
            "none but the background has the same name. Rename those that are the same."
        )
    return tuple(order)


def _reordered(coding: MaskCoding, order: tuple[int, ...]) -> MaskCoding:
    """Put a coding in the order of a model's classes, where it is not."""
    if order == tuple(range(coding.num_classes)):
        return coding
    if max(order) >= coding.num_classes or coding.kind not in ("ids", "values", "two values"):
        raise ValueError(
            "The dataset.toml of the folder names other classes than the model has, or in another "
            "order. Name the model's, in its order."
        )
    values = tuple(coding.values[place] for place in order)
    return MaskCoding(values, coding.ignore, "values", (), coding.names)


def _as_in_training(card: Card, masks: Sequence[Path]) -> MaskCoding | None:
    known = card.masks
    if not known:
        return None
    # cards of earlier versions have no colours
    colors = tuple((r, g, b) for r, g, b in known.get("colors", ()))
    coding = MaskCoding(tuple(known["values"]), known["ignore"], known["kind"], colors)
    try:
        if colors:
            return understand_masks(masks, len(card.class_names), known["ignore"], colors)[0]
        stored: set[int] = set()
        for path in masks:
            coding.read(path)
            if coding.kind == "instances":
                stored.update(np.unique(coding.read_stored(path)).tolist())
    except ValueError:
        return None
    # one value alone numbers no objects, and without 0 there is no background
    if stored and (0 not in stored or len(stored) == 2):
        return None
    return coding


def _as_they_are(card: Card, masks: Sequence[Path], said: DataConfig) -> MaskCoding:
    count = len(card.class_names)
    ignore = card.masks.get("ignore") if said.ignore is None else said.ignore
    try:
        coding = understand_masks(masks, count, ignore, said.legend, said.values, said.encoding)[0]
        if coding.kind == "colors" and not said.colors:
            raise ValueError(
                "They name classes by colour, and which colour is which of these classes is not "
                "known. Say it in a dataset.toml in the folder (colors = [...]), or save the "
                "class ids as a grey or palette PNG."
            )
    except ValueError as error:
        raise ValueError(
            f"The masks are not those of this model's {count} classes "
            f"({', '.join(card.class_names)}). {error} (To judge, say such things in a "
            "dataset.toml in the data folder.)"
        ) from error
    return coding
