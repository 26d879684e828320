"""One folder of masks for each class -> one mask for each picture.

In: pictures and masks by folder and stem. Out: masks as paths with braces
(`masks/{road,car}/7.png`), which `classfiles` reads.
"""

import os
import re
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from plainunet.data.encodings.classfiles import class_names
from plainunet.data.folders.layouts import PARTS
from plainunet.data.folders.partners import Key
from plainunet.data.places import class_files

_HERE = "\0"
_PAIRS = "--pairs 'images/*.jpg:masks/{road,car}/*.png'"


def join_classes(images: Mapping[Key, Path], masks: Mapping[Key, Path]) -> dict[Key, Path] | None:
    """Join the masks of each picture where there is one folder for each class.

    Such folders are known by their pictures, which have none: `masks/road/1.png` and
    `masks/car/1.png` for `images/1.jpg`, `masks/train/road/1.png` or `masks/road/train/1.png`
    for `images/train/1.jpg`. The masks' names may hold the class (`road/1_road.png`).

    Args:
        images: The pictures, by folder and stem.
        masks: The masks.

    Returns:
        The masks by the pictures' folders and the stem that the classes share, each a path with
        all classes in braces, sorted, the background first; None where the folders are no
        classes.

    Raises:
        ValueError: The files of a picture's classes differ in suffix or spelling, or a folder's
            name cannot stand in braces.
    """
    spots = _find_spots({where for where, _ in images}, {where for where, _ in masks})
    names = {spot.class_name for spot in spots.values()}
    if len(names) < 2 or {name.lower() for name in names} <= PARTS.keys():
        return None
    # "1", "1_road" or "road_1"
    for own_name in ("(?P<core>.+)", "(?P<core>.+)[-_. ]+{}", "{}[-_. ]+(?P<core>.+)"):
        found = _by_picture(masks, spots, own_name)
        # patients' folders look the same, but their masks have no name in common
        if any(len(files) > 1 for files in found.values()):
            classes = [name for name in class_names(tuple(sorted(names))) if name in names]
            return _in_braces(found, f"{{{','.join(classes)}}}")
    return None


class _Spot(NamedTuple):
    where: str  # the pictures' folder
    class_name: str
    depth: int  # of the class's folder above the mask, from 0


class _Joined(NamedTuple):
    mask: Path
    template: str  # its path, with _HERE for the class
    class_name: str


def _find_spots(pictured: set[str], masked: set[str]) -> dict[str, _Spot]:
    if pictured & masked:
        return {}
    parts = {where: Path(where).parts for where in masked}
    fits = []
    for at in range(min(map(len, parts.values()), default=0)):
        spots = {
            where: _Spot(str(Path(*each[:at], *each[at + 1 :])), each[at], len(each) - 1 - at)
            for where, each in parts.items()
        }
        if all(spot.where in pictured for spot in spots.values()):
            fits.append(spots)
    return fits[0] if len(fits) == 1 else {}


def _by_picture(
    masks: Mapping[Key, Path], spots: Mapping[str, _Spot], own_name: str
) -> dict[Key, list[_Joined]]:
    found: dict[Key, list[_Joined]] = defaultdict(list)
    patterns = {
        where: re.compile(own_name.format(re.escape(spot.class_name)), re.DOTALL)
        for where, spot in spots.items()
    }
    above: dict[str, tuple[str, str]] = {}
    for (where, stem), path in masks.items():
        spot = spots[where]
        match = patterns[where].fullmatch(stem)
        if match is None:
            return {}
        folder, own = os.path.split(path)
        if folder not in above:
            parts = list(Path(folder).parts)
            # as it is spelled on the disk
            name, parts[-1 - spot.depth] = parts[-1 - spot.depth], _HERE
            above[folder] = str(Path(*parts)), name
        template, name = above[folder]
        start, end = match.span("core")
        if start:
            own = _HERE + own[len(name) :]
        elif end < len(stem):
            cut = own.rindex(name) if name in own else 0
            own = own[:cut] + _HERE + own[cut + len(name) :]
        found[spot.where, match["core"]].append(_Joined(path, f"{template}{os.sep}{own}", name))
    return found


def _in_braces(found: Mapping[Key, list[_Joined]], braces: str) -> dict[Key, Path]:
    masks: dict[Key, Path] = {}
    for key, joined in found.items():
        mask = Path(joined[0].template.replace(_HERE, braces))
        alike = all(each.template == joined[0].template for each in joined)
        # what braces stand for is the same for all
        if not alike or (
            not masks and class_files(mask).get(joined[0].class_name) != joined[0].mask
        ):
            raise ValueError(
                f"{' and '.join(str(each.mask) for each in joined[:2])} cannot be joined: the "
                "masks of a picture's classes must have one name and suffix but for the class, "
                "and no braces or commas in their folders' names. Rename them, or say what "
                f"belongs together: {_PAIRS}."
            )
        masks[key] = mask
    return masks
