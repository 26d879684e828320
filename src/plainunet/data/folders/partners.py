"""Files without a partner: which are named most like them, and how to bring them together.

In: pictures and masks that no rule of names joins. Out: one error that lists them; or, where
somebody collects problems, one for each, with the command that renames what was misspelt.
"""

import difflib
import os
import re
from bisect import bisect
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from plainunet.data.codecs.encoded import open_encoded
from plainunet.data.problems import DataError, OnProblem, command

Key = tuple[str, str]  # folder below the root, and stem, both in NFC
Files = Mapping[Key, Path]

_CURE = (
    "Add the partner, or remove the file, or say what belongs together: --pairs 'images/*.jpg:"
    "masks/*_m.png' (for each class a file: 'masks/*_{road,car}.png') or a CSV list: image,mask"
)
_MOST_COMPARED = 50
_ALIKE = 0.7
_SUFFIXES = {"jpeg": (".jpg", ".jpeg"), "tiff": (".tif", ".tiff")}


def tell_lonely(
    alone: Sequence[Key],
    images: Files,
    lonely: Sequence[Key],
    masks: Files,
    named: object,
    stems: tuple[Callable[[Key], str], Callable[[Key], str]],
    on_problem: OnProblem | None,
) -> None:
    """Tell of files without a partner.

    Args:
        alone: The pictures without a mask.
        images: All pictures.
        lonely: The masks without a picture.
        masks: All masks.
        named: How masks are named after their pictures.
        stems: What the stem of a picture's mask would be, and of a mask's picture.
        on_problem: Told of each, if anybody is.

    Raises:
        DataError: There are such files, and nobody to be told.
    """
    if on_problem is None:
        problems = []
        if alone:
            listed = _with_nearest(alone, images, lonely or list(masks), masks)
            problems.append(f"{len(alone)} pictures have no mask ({named}): {listed}")
        if lonely:
            listed = _with_nearest(lonely, masks, alone or list(images), images)
            problems.append(f"{len(lonely)} masks have no picture: {listed}")
        if problems:
            leave = " Or leave out pictures without a mask: --skip-unlabelled." if alone else ""
            raise DataError(
                f"{'; '.join(problems)}. {_CURE}.{leave}",
                "no-mask" if alone else "no-picture",
                [*(images[key] for key in alone), *(masks[key] for key in lonely)],
            )
        return
    mask_of, picture_of = stems
    moves: dict[Path, str] = {}
    missing_mask = _Lonely("mask", "leave such pictures out (--skip-unlabelled)", mask_of)
    _tell_each(alone, images, lonely, masks, missing_mask, picture_of, named, moves, on_problem)
    missing_picture = _Lonely("picture", "remove it", picture_of)
    _tell_each(lonely, masks, alone, images, missing_picture, mask_of, named, moves, on_problem)


class _Lonely(NamedTuple):
    what: str  # what is missing
    advice: str
    partner_of: Callable[[Key], str]  # the stem that it would have


def _tell_each(
    keys: Sequence[Key],
    files: Files,
    others: Sequence[Key],
    partners: Files,
    missing: _Lonely,
    partner_of: Callable[[Key], str],
    named: object,
    moves: dict[Path, str],
    on_problem: OnProblem,
) -> None:
    beside = _beside(partners) if keys else {}
    # compared without what all masks' names share, which would make them all alike
    named_so = {(key[0], partner_of(key)): key for key in others}
    order = sorted(named_so)
    for number, key in enumerate(keys):
        wanted, path = missing.partner_of(key), files[key]
        candidate = beside.get((key[0], wanted))
        if candidate is None and number < _MOST_COMPARED:
            near = _nearest(key, order)
            candidate = partners[named_so[near]] if near else None
        message, cure = f"{path} has no {missing.what} ({named})", ""
        if candidate is not None:
            message += f"; nearest is {candidate}"
            new = candidate.with_name(wanted + _suffix(candidate))
            if not new.exists() and _is_slip(candidate.stem, wanted):
                # of two that shall meet, one moves
                cure = moves.get(path) or command("mv", candidate, new)
                moves[candidate] = cure
        message += f". Add the partner, or {missing.advice}."
        on_problem(DataError(message, f"no-{missing.what}", [path], cure))


def first_five(paths: Sequence[object]) -> str:
    """Name up to five of some files, for an error.

    Args:
        paths: The files.

    Returns:
        Their names, and how many more there are.
    """
    more = f" and {len(paths) - 5} more" if len(paths) > 5 else ""
    return ", ".join(str(path) for path in paths[:5]) + more


def _with_nearest(keys: Sequence[Key], files: Files, others: Sequence[Key], partners: Files) -> str:
    order = sorted(others)
    said: list[object] = []
    for key in keys[:5]:
        near = _nearest(key, order)
        said.append(f"{files[key]}{f' (nearest: {partners[near]})' if near else ''}")
    return first_five([*said, *keys[5:]])


def _is_slip(name: str, wanted: str) -> bool:
    """Whether one name is the other misspelt: its numbers are the same, and most letters."""
    same_numbers = re.findall(r"\d+", name) == re.findall(r"\d+", wanted)
    return same_numbers and difflib.SequenceMatcher(None, name, wanted).ratio() >= _ALIKE


def _nearest(key: Key, order: Sequence[Key]) -> Key | None:
    at = bisect(order, key)
    # far apart in the order, names have no beginning in common
    around = order[max(0, at - 200) : at + 200]
    near = {stem: (where, stem) for where, stem in around if where == key[0]}
    found = difflib.get_close_matches(key[1], near, 1)
    return near[found[0]] if found else None


def _beside(partners: Files) -> dict[Key, Path]:
    """Pictures under names that are no picture's, by folder and stem: '7.dat', '8.png.bak'."""
    known = {where: path.parent for (where, _), path in partners.items()}
    taken = set(partners.values())
    return {
        (where, name.partition(".")[0]): folder / name
        for where, folder in known.items()
        if folder.is_dir()  # not of masks with a file for each class
        for name in sorted(os.listdir(folder))  # noqa: PTH208 (ten times as fast)
        if name[0] != "." and folder / name not in taken and (folder / name).is_file()
    }


def fitting_suffix(path: Path, kind: str) -> str:
    """Name the suffix that a file's content asks for.

    Args:
        path: The file.
        kind: Its format, as of `find_kind`.

    Returns:
        The suffix that it has, where that fits.
    """
    usual = _SUFFIXES.get(kind, (f".{kind}",))
    return path.suffix if path.suffix.lower() in usual else usual[0]


def _suffix(path: Path) -> str:
    try:
        with open_encoded(path) as (kind, _):
            return fitting_suffix(path, kind)
    except (ValueError, FileNotFoundError):
        return path.suffix
