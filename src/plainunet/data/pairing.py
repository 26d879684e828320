"""A folder -> pairs of picture and mask.

In: a folder laid out in one of the ways that `layouts` finds (`images/` and `masks/`, Kaggle's
`train/` and `train_masks/`, CamVid's `train/` and `trainannot/`, all in one folder), or in any
way that is named or listed. Out: every picture with its mask, its group and its part. Nothing
is skipped: what has no partner is named. No picture is opened here.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from unicodedata import normalize

from plainunet.data.folders.annotated import pair_annotated
from plainunet.data.folders.classfolders import join_classes
from plainunet.data.folders.layouts import PARTS, Layout, Root, find_layout, folders_found, walk
from plainunet.data.folders.listed import Listed, read_listed
from plainunet.data.folders.names import match_names, split_names
from plainunet.data.folders.partners import Key, first_five
from plainunet.data.images import IMAGE_SUFFIXES
from plainunet.data.problems import DataError, OnProblem, command, report


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


def find_pairs(
    folder: Path,
    group_by: str | None = None,
    at_least: int = 2,
    *,
    images: str | None = None,
    masks: str | None = None,
    pairs: str | None = None,
    rle: str | None = None,
    skip_unlabelled: bool = False,
    on_note: Callable[[str], None] | None = None,
    on_problem: OnProblem | None = None,
) -> list[Pair]:
    """Find all pictures and masks of a data set.

    A mask's stem is its picture's, once a beginning or an ending is taken off that all masks
    or all pictures share ("_mask", "_1stHO", "mask_"; "_img" and "_mask"). Files whose suffix
    is no picture's, and hidden ones, are passed over.

    Args:
        folder: The data set.
        group_by: Pattern searched in each picture's stem; what its first group (or else the
            whole of it) matches is the picture's group. Without it, each picture is a group
            of its own; in Carvana's layout, what stands before the first "_"; in a list, what
            the list says.
        at_least: Fewest pairs that will do.
        images: The pictures' folder below `folder`, if it is not to be looked for.
        masks: The masks' folder below `folder`, or a COCO file (.json) or a list of run-length
            codes (.csv), if it is not to be looked for.
        pairs: Two patterns, 'images/*.jpg:masks/*_m.png', or the path of a CSV list with the
            columns image and mask and perhaps group and part, instead of looking for folders.
        rle: How run-length codes count, "rows" or "columns"; left out, it is found.
        skip_unlabelled: Whether pictures without a mask are left out.
        on_note: Called with a sentence on what was left aside, or taken as what.
        on_problem: Told of what is wrong with single files, which are left out then: without
            a partner, with two, twice, links that lead back.

    Returns:
        The pairs, sorted by the picture's path.

    Raises:
        FileNotFoundError: There is no such folder or list, or no folder of pictures or masks
            in it.
        ValueError: It is not a folder, there are no pictures, one has no mask or two, a mask
            has no picture, there are too few pairs, more than one folder fits, the list or a
            pattern is wrong, or `group_by` is no pattern or does not match a stem.
    """
    _require_folder(folder)
    if pairs is not None:
        if images is not None or masks is not None:
            raise ValueError("--pairs says it all: give it without --images and --masks.")
        listed = read_listed(folder, pairs, skip_unlabelled, on_note)
    elif masks is not None and masks.lower().endswith((".json", ".csv")):
        listed = pair_annotated(folder, images, masks, rle, skip_unlabelled, on_note)
    else:
        layout = find_layout(folder, images, masks, on_note)
        listed = []
        if masks is None and not all(_has_files(root.masks) for root in layout.roots):
            listed = pair_annotated(folder, images, None, rle, skip_unlabelled, on_note)
        if not listed:
            listed = _in_folders(folder, layout, skip_unlabelled, on_note, on_problem)
            group_by = group_by or layout.group_by
    require_enough(folder, len(listed), at_least)
    pattern = _compile(group_by)
    found = [
        Pair(each.image, each.mask, _group(pattern, each.group, each.image), each.part)
        for each in listed
    ]
    return sorted(found, key=lambda pair: pair.image)


def require_enough(folder: Path, count: int, at_least: int = 2) -> None:
    """Refuse a data set of too few pairs.

    Args:
        folder: The data set.
        count: Its pairs.
        at_least: Fewest that will do.

    Raises:
        ValueError: There are fewer.
    """
    if count < at_least:
        raise DataError(
            f"{folder} holds {count} picture with its mask; at least {at_least} are "
            "needed, some to learn from and some to judge by. Add more.",
            "too-few",
        )


def _require_folder(folder: Path) -> None:
    if not folder.exists():
        raise FileNotFoundError(f"{folder} does not exist. Check the path of the data set.")
    if not folder.is_dir():
        raise ValueError(
            f"{folder} is a file. Give the folder that holds the pictures and the masks."
        )


def _in_folders(
    folder: Path,
    layout: Layout,
    skip_unlabelled: bool,
    on_note: Callable[[str], None] | None,
    on_problem: OnProblem | None,
) -> list[Listed]:
    images: dict[Key, Path] = {}
    masks: dict[Key, Path] = {}
    for root in layout.roots:
        if root.masks is None:
            both = _by_key(root.images, root.part, "pictures", None, on_problem)
            some_images, some_masks = split_names(both)
            if both and not some_masks:
                raise _no_masks(folder, root)
            if some_masks and on_note is not None:
                first = next(iter(some_masks.values()))
                on_note(f"Pictures and masks lie together; {first} is read as a mask.")
        else:
            if not root.masks.is_dir():
                raise _no_masks(folder, root)
            some_images = _by_key(root.images, root.part, "pictures", root.masks, on_problem)
            some_masks = _by_key(root.masks, root.part, "masks", root.images, on_problem)
            some_masks = join_classes(some_images, some_masks) or some_masks
        images |= some_images
        masks |= some_masks
    if not images:
        if layout.roots[0].images == folder:
            raise _no_masks(folder, layout.roots[0])
        suffixes = " ".join(sorted(IMAGE_SUFFIXES))
        raise DataError(
            f"{layout.roots[0].images} holds no pictures. Put files there that end in one of "
            f"{suffixes}.",
            "no-data",
        )
    joined = match_names(images, masks, skip_unlabelled=skip_unlabelled, on_problem=on_problem)
    if skip_unlabelled and len(joined) < len(images) and on_note is not None:
        on_note(f"{len(images) - len(joined)} pictures without a mask are left out.")
    parts = _parts(images, named=len(layout.roots) != 1 or not layout.roots[0].part)
    listed = [
        Listed(images[key], masks[mask], Path(*key).as_posix(), parts[key])
        for key, mask in joined.items()
    ]
    outside = [each for each in listed if each.part is None] if any(parts.values()) else []
    for each in outside:
        problem = DataError(
            f"{each.image} lies outside of train/, val/ and test/, while other pictures lie in "
            "them. Move it into one of these folders, and its mask likewise.",
            "outside-of-parts",
            [each.image, each.mask],
        )
        report(problem, on_problem)
    return [each for each in listed if each not in outside]


def _has_files(masks: Path | None) -> bool:
    return masks is not None and next(walk(masks), None) is not None


def _no_masks(folder: Path, root: Root) -> FileNotFoundError:
    flags = "Or say where they are: --images, --masks, or --pairs"
    if root.images == folder:
        return FileNotFoundError(
            f"{folder} has no pictures where they are looked for. Put them into images/ and the "
            "masks, under the same names, into masks/; or into train/ and train_masks/. "
            f"{flags}. {folders_found(folder)}"
        )
    return FileNotFoundError(
        f"{root.images} has no masks: there is no folder "
        f"{root.masks or root.images.parent / 'masks'}. Put them there, under the names of their "
        f"pictures. {flags}. {folders_found(root.images.parent)}"
    )


def _by_key(
    root: Path, prefix: str, what: str, leave_out: Path | None, on_problem: OnProblem | None
) -> dict[Key, Path]:
    found: dict[Key, Path] = {}
    folders: dict[Path, str] = {}
    twice = []
    for path in walk(root, leave_out, on_problem):
        above = path.parent
        if above not in folders:
            folders[above] = normalize("NFC", str(Path(prefix) / above.relative_to(root)))
        # one letter may be written in two ways, and often is where files came from a Mac
        key = folders[above], normalize("NFC", path.stem)
        if key in found:
            twice += [found[key], path]
            if on_problem is not None:
                on_problem(
                    DataError(
                        f"{found[key]} and {path} share their name; the first is taken.",
                        "two-partners",
                        [found[key], path],
                        command("mv", path, f"{path}.aside"),
                    )
                )
                continue
        found[key] = path
    if twice and on_problem is None:
        raise DataError(
            f"{len(twice)} {what} share their name with another: {first_five(twice)}. "
            "Keep one of each name, or say what belongs together: --pairs '*.jpg:*.png'.",
            "two-partners",
            twice,
        )
    return found


def _parts(images: Mapping[Key, Path], named: bool) -> dict[Key, str | None]:
    tops = {where: Path(where).parts[:1] for where, _ in images}
    known = {where: PARTS.get(top[0].lower()) if top else None for where, top in tops.items()}
    return {key: known[key[0]] if named else None for key in images}


def _compile(group_by: str | None) -> re.Pattern[str] | None:
    try:
        return None if group_by is None else re.compile(group_by)
    except re.error as error:
        raise ValueError(
            f"The group pattern {group_by!r} is not a regular expression: {error}. "
            "An example: '([^_]+)_' for what stands before the first '_'."
        ) from None


def _group(pattern: re.Pattern[str] | None, own: str, path: Path) -> str:
    if pattern is None:
        return own
    match = pattern.search(normalize("NFC", path.stem))
    if match is None:
        raise ValueError(
            f"The group pattern {pattern.pattern!r} matches nothing in '{path.stem}' ({path}). "
            "Change the pattern so that it matches every picture's name."
        )
    return match.group(1 if pattern.groups else 0) or ""
