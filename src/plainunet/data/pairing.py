"""A folder -> pairs of picture and mask.

In: a folder laid out as Kaggle's Carvana (`train/`, `train_masks/`, perhaps `val/`,
`val_masks/`) or as `images/` and `masks/`, each perhaps with `train/`, `val/` and `test/` in
it. Out: every picture with its mask, its group and its part. Nothing is skipped: what has no
partner is named. No picture is opened here.
"""

import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from plainunet.data.images import IMAGE_SUFFIXES

_PARTS = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}

_ENDINGS = tuple(IMAGE_SUFFIXES)

_Key = tuple[str, str]  # folder below images/ or masks/, and stem


@dataclass(frozen=True)
class Pair:
    """A picture and its mask.

    Attributes:
        image: The picture's file.
        mask: The mask's file.
        group: What must stay on one side of a split: a car, a patient, a video.
        part: "train", "val" or "test", or None where it has not been chosen.
    """

    image: Path
    mask: Path
    group: str
    part: str | None


def find_pairs(folder: Path, group_by: str | None = None, at_least: int = 2) -> list[Pair]:
    """Find all pictures and masks of a data set.

    A mask's stem is its picture's, followed by an ending that all masks share ("", "_mask",
    "_1stHO"). Files whose suffix is no picture's, and hidden ones, are passed over.

    Args:
        folder: The data set.
        group_by: Pattern searched in each picture's stem; what its first group (or else the
            whole of it) matches is the picture's group. Without it, each picture is a group
            of its own; in Carvana's layout, what stands before the first "_".
        at_least: Fewest pairs that will do.

    Returns:
        The pairs, sorted by the picture's path.

    Raises:
        FileNotFoundError: There is no such folder, or no folder of pictures or masks in it.
        ValueError: It is not a folder, there are no pictures, one has no mask or two, a mask
            has no picture, there are too few pairs, or `group_by` is no pattern or does not
            match a stem.
    """
    _require_folder(folder)
    kaggle = _kaggle_folders(folder)
    plain = (folder / "images").is_dir()
    if kaggle and plain:
        raise ValueError(
            f"{folder} holds both train/ with train_masks/ and images/; which of them is meant is "
            "not clear. Move one of the two elsewhere."
        )
    if not kaggle and not plain:
        raise FileNotFoundError(
            f"{folder} has no pictures where they are looked for. Put them into images/ and the "
            "masks, under the same names, into masks/; or into train/ and train_masks/."
        )
    roots = kaggle or {"images": "masks"}
    images: dict[_Key, Path] = {}
    masks: dict[_Key, Path] = {}
    for image_root, mask_root in roots.items():
        if not (folder / mask_root).is_dir():
            raise FileNotFoundError(
                f"{folder / image_root} has no masks: there is no folder {folder / mask_root}. "
                "Put them there, under the names of their pictures."
            )
        prefix = Path(image_root if kaggle else "")
        images |= _by_key(folder / image_root, prefix, "pictures")
        masks |= _by_key(folder / mask_root, prefix, "masks")
    if not images:
        suffixes = " ".join(sorted(IMAGE_SUFFIXES))
        raise ValueError(
            f"{folder / next(iter(roots))} holds no pictures. Put files there that end in "
            f"one of {suffixes}."
        )
    keys = _match(images, masks)
    if len(keys) < at_least:
        raise ValueError(
            f"{folder} holds {len(keys)} picture with its mask; at least {at_least} are needed, "
            "some to learn from and some to judge by. Add more."
        )
    pattern = _compile(group_by if group_by or not kaggle else "[^_]+")
    parts = _parts(images, named=len(kaggle) != 1)
    pairs = [
        Pair(images[key], masks[mask_key], _group(pattern, key, images[key]), parts[key])
        for key, mask_key in keys.items()
    ]
    return sorted(pairs, key=lambda pair: pair.image)


def find_images(inputs: Sequence[Path]) -> list[Path]:
    """List the pictures that files and folders name.

    Args:
        inputs: Files, taken as they are, and folders, searched all the way down.

    Returns:
        The pictures, each once, in the order of `inputs`; of each folder sorted by path.

    Raises:
        FileNotFoundError: One of them does not exist.
        ValueError: A folder holds no pictures.
    """
    found: dict[Path, None] = {}
    for path in inputs:
        if path.is_dir():
            below = sorted(_walk(path))
            if not below:
                raise ValueError(
                    f"{path} holds no pictures: no file below it ends in one of "
                    f"{' '.join(sorted(IMAGE_SUFFIXES))}."
                )
            found |= dict.fromkeys(below)
        elif path.exists():
            found[path] = None
        else:
            raise FileNotFoundError(f"{path} does not exist. Check the path.")
    return list(found)


def _require_folder(folder: Path) -> None:
    if not folder.exists():
        raise FileNotFoundError(f"{folder} does not exist. Check the path of the data set.")
    if not folder.is_dir():
        raise ValueError(
            f"{folder} is a file. Give the folder that holds the pictures and the masks."
        )


def _kaggle_folders(folder: Path) -> dict[str, str]:
    if not (folder / "train_masks").is_dir() or not (folder / "train").is_dir():
        return {}
    # Kaggle's own test/ comes without masks
    parts = [part for part in _PARTS if (folder / part).is_dir()]
    return {
        part: f"{part}_masks"
        for part in parts
        if part != "test" or (folder / "test_masks").is_dir()
    }


def _walk(root: Path) -> Iterator[Path]:
    seen = set()
    for name, folders, files in os.walk(root, followlinks=True):
        real = os.path.realpath(name)
        if real in seen:
            raise ValueError(
                f"{name} leads back to {real}, which is read already. Remove the link."
            )
        seen.add(real)
        folders[:] = sorted(each for each in folders if not each.startswith("."))
        for each in folders:
            if Path(each).suffix.lower() in IMAGE_SUFFIXES:
                raise ValueError(
                    f"{Path(name, each)} is a folder, but is named like a picture. "
                    "Rename or remove it."
                )
        for each in sorted(files):
            if not each.startswith(".") and each.lower().endswith(_ENDINGS):
                yield Path(name, each)


def _by_key(root: Path, prefix: Path, what: str) -> dict[_Key, Path]:
    found: dict[_Key, Path] = {}
    twice = []
    for path in _walk(root):
        key = (str(prefix / path.parent.relative_to(root)), path.stem)
        if key in found:
            twice += [found[key], path]
        found[key] = path
    if twice:
        raise ValueError(
            f"{len(twice)} {what} share their name with another: {_first_five(twice)}. "
            "Keep one of each name."
        )
    return found


def _match(images: Mapping[_Key, Path], masks: Mapping[_Key, Path]) -> dict[_Key, _Key]:
    ending = _common_ending(images, masks)
    keys = {key: (key[0], key[1] + ending) for key in images}
    alone = [str(images[key]) for key, mask_key in keys.items() if mask_key not in masks]
    partners = set(keys.values())
    lonely = [str(path) for mask_key, path in masks.items() if mask_key not in partners]
    problems = []
    named = f"(the picture's name, then '{ending}')" if ending else "(named like the picture)"
    if alone:
        problems.append(f"{len(alone)} pictures have no mask {named}: {_first_five(alone)}")
    if lonely:
        problems.append(f"{len(lonely)} masks have no picture: {_first_five(lonely)}")
    if problems:
        raise ValueError(f"{'; '.join(problems)}. Add the partner, or remove the file.")
    return keys


def _common_ending(images: Mapping[_Key, Path], masks: Mapping[_Key, Path]) -> str:
    votes: Counter[str] = Counter()
    for where, stem in masks:
        if (where, stem) in images:
            votes[""] += 1
            continue
        votes.update(stem[cut:] for cut in range(1, len(stem)) if (where, stem[:cut]) in images)
    # with equal votes the shorter ending: "10_mask" is also "1" followed by "0_mask"
    return min(votes, key=lambda ending: (-votes[ending], len(ending), ending), default="")


def _parts(images: Mapping[_Key, Path], named: bool) -> dict[_Key, str | None]:
    tops = {where: Path(where).parts[:1] for where, _ in images}
    known = {where: _PARTS.get(top[0]) if top else None for where, top in tops.items()}
    if not named:
        return dict.fromkeys(images)
    if None in known.values() and any(known.values()):
        example = next(path for (where, _), path in images.items() if known[where] is None)
        raise ValueError(
            f"{example} lies outside of train/, val/ and test/, while other pictures lie in "
            "them. Move it into one of these folders."
        )
    return {key: known[key[0]] for key in images}


def _compile(group_by: str | None) -> re.Pattern[str] | None:
    try:
        return None if group_by is None else re.compile(group_by)
    except re.error as error:
        raise ValueError(
            f"The group pattern {group_by!r} is not a regular expression: {error}. "
            "An example: '([^_]+)_' for what stands before the first '_'."
        ) from None


def _group(pattern: re.Pattern[str] | None, key: _Key, path: Path) -> str:
    if pattern is None:
        return Path(*key).as_posix()
    match = pattern.search(path.stem)
    if match is None:
        raise ValueError(
            f"The group pattern {pattern.pattern!r} matches nothing in '{path.stem}' ({path}). "
            "Change the pattern so that it matches every picture's name."
        )
    return match.group(1 if pattern.groups else 0) or ""


def _first_five(paths: Sequence[object]) -> str:
    more = f" and {len(paths) - 5} more" if len(paths) > 5 else ""
    return ", ".join(str(path) for path in paths[:5]) + more
