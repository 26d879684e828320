"""Find the folders of images and masks by matching file names."""

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from unicodedata import normalize

import numpy as np

from plainunet.dataset.layouts import (
    MASK_WORD,
    OBJECTS_WORD,
    PARTS,
    VARIES,
    Key,
    Root,
    likely_truths,
    walk,
    without_companions,
)
from plainunet.dataset.matching import fit_all, patterns_of
from plainunet.formats.colors import ColoredMaskError, count_colors
from plainunet.formats.masks import read_mask
from plainunet.formats.problems import DataError, first_five
from plainunet.reporter import Collected, Reporter

_MOST_VALUES = 64  # in a mask; images have more
_MOST_FOLDERS = 60
_FEWEST_CASES = 3
_Tree = dict[Path, list[Path]]  # images by subfolder
_Alike = dict[tuple[str, ...], Path]  # folders whose names differ in splits and numbers only


def find_couples(folder: Path, reporter: Reporter) -> tuple[Root, ...]:
    """Find the only folders of images and masks with matching file names.

    There may be several that differ in a split or a number: train-a/ with train-b/, val-a/ ...

    Raises:
        DataError: Several could be meant.
    """
    trees: dict[Path, _Tree] = defaultdict(dict)
    for path in without_companions(walk(folder, reporter=Collected())):
        where = path.parent.relative_to(folder)
        for top in (where, *where.parents):
            # folders from a Mac often have decomposed letters (NFD)
            below = Path(normalize("NFC", str(where.relative_to(top))))
            trees[top].setdefault(below, []).append(path)
    kinds = [
        (each, bool(MASK_WORD.search(str(next(iter(each.values()))))), _holds_masks(each, trees))
        for each in _all_alike(trees)
    ]
    found = _matching(kinds, trees)
    found = [each for each in found if not any(_is_above(other, each) for other in found)]
    most = max((len(masks) for _, masks in found), default=0)
    found = [each for each in found if len(each[1]) == most]
    names = [next(iter(masks.values())).name for _, masks in found]
    truths = likely_truths(names)
    likely = [each for each, name in zip(found, names, strict=True) if name in truths]
    # masks that cannot be read do not beat their renderings
    found = likely if any(_holds_masks(masks, trees) for _, masks in likely) else found
    if not found:
        return ()
    images, masks = found[0]
    if len(found) > 1 or _has_more(images, masks, trees):
        raise _which_couple(folder, found, trees)
    used = {*images.values(), *masks.values()}
    aside = [
        top for top, tree in trees.items() if Path() in tree and not used & {top, *top.parents}
    ]
    left = f" Skipped: {first_five(sorted(aside))}." if aside else ""
    more = f", and so on ({len(masks)} folders)" if len(masks) > 1 else ""
    tops = [next(iter(each.values())) for each in (images, masks)]
    parted = more and not _shared(masks)
    reporter.note(
        f"Images are read from {tops[0]}/ and masks from {tops[1]}/{more}, the only folders with "
        f"matching file names.{left}"
    )
    return tuple(
        Root(folder / images[key], folder / top, str(images[key]) if parted else "")
        for key, top in masks.items()
    )


def which_in_cases(folder: Path) -> DataError | None:
    """The question which file is the image, if folders hold the same ones: dwi, adc and mask.png.

    None if no name is that of a mask.
    """
    cases: dict[Path, set[str]] = defaultdict(set)
    for path in walk(folder, reporter=Collected()):
        cases[path.parent].add(path.name)
    common = set[str].intersection(*cases.values()) if cases else set[str]()
    words = (MASK_WORD, OBJECTS_WORD)
    masks = sorted(name for name in common if any(word.search(name) for word in words))
    depths = {len(case.relative_to(folder).parts) for case in cases}
    if len(cases) < _FEWEST_CASES or len(depths) > 1 or not 1 <= len(masks) < len(common):
        return None
    stars = "*/" * depths.pop()
    choices: dict[str, dict[str, object]] = {
        f"{image} with {mask}": {"pairs": f"{stars}{image}:{stars}{mask}"}
        for image in sorted(common.difference(masks))
        for mask in masks
    }
    message = f"{folder}: each of {len(cases)} folders holds {', '.join(sorted(common))}. Choose."
    return DataError(message, "which-folder", choices=choices)


def _all_alike(trees: Mapping[Path, _Tree]) -> list[_Alike]:
    forms: dict[str, dict[tuple[str, ...], Path]] = defaultdict(dict)
    depth = 0
    for top in sorted(trees, key=lambda each: (len(each.parts), each)):
        if len(top.parts) > depth and len(forms) > _MOST_FOLDERS:
            break  # one folder per video: their parents suffice
        depth = len(top.parts)
        forms[VARIES.sub("*", str(top))][tuple(VARIES.findall(str(top)))] = top
    return [_by_variables(each) for each in forms.values()]


def _matching(
    kinds: Sequence[tuple[_Alike, bool, bool]], trees: Mapping[Path, _Tree]
) -> list[tuple[_Alike, _Alike]]:
    """Folders of images and masks with matching file names, of `kinds` from the outermost on."""
    found: list[tuple[_Alike, _Alike]] = []
    places: dict[tuple[str, str], list[Path]] = defaultdict(list)
    for top in trees:
        places[top.name, top.parent.name].append(top)
    above = [
        frozenset[Path].intersection(*(frozenset(top.parents) for top in each.values()))
        for each, _, _ in kinds
    ]
    for (images, is_worded, own_few), own in zip(kinds, above, strict=True):
        # a folder per video, inside of those that match: all pairs of them would take long
        done = [masks for outer, masks in found if not own.isdisjoint(outer.values())]
        inside = {top for masks in done for top in masks.values()}
        for (masks, worded, few), theirs in zip(kinds, above, strict=True):
            if not own_few and (few or worded > is_worded) and theirs.isdisjoint(inside):
                found += [
                    couple
                    for couple in _fitting(images, masks)
                    if not _crosses(*couple, places)
                    and len((files := _files_of(*couple, trees))[0]) > 1
                    and fit_all(*files)
                ]
    return found


def _crosses(
    images: _Alike, masks: _Alike, places: Mapping[tuple[str, str], Sequence[Path]]
) -> bool:
    """Whether there are masks of the images' own name: video1/ is not that of video2/.

    They lie in a folder of the same name as that of these masks, perhaps in another split.
    `places` are all folders by their own name and that of the folder above.
    """
    theirs = {(top.name, top.parent.name) for top in masks.values()}
    own = {(images[key].name, top.parent.name) for key, top in masks.items() if key in images}
    shown = {*images.values()} if own - theirs else set()
    return any(top not in shown for name in own - theirs for top in places.get(name, ()))


def _holds_masks(alike: _Alike, trees: Mapping[Path, _Tree]) -> bool:
    """Whether the first file of these folders may be a mask."""
    return is_mask(next(iter(trees[next(iter(alike.values()))].values()))[0])


def _fitting(images: _Alike, masks: _Alike) -> list[tuple[_Alike, _Alike]]:
    """The image folders that match these mask folders by split and number."""

    def likeness(each: Path) -> tuple[int, bool]:
        return len({*each.parents} & {*top.parents}), each.name in top.name

    if masks.keys() <= images.keys():
        return [({key: images[key] for key in masks}, masks)]
    ((key, top), *more) = masks.items()
    if more:
        return []
    numbered = all(word.isdigit() for words in images for word in words)
    # images_part_1/ and images_part_2/ may share a folder of masks
    found = [(images, dict.fromkeys(images, top))] if numbered else []
    if len(images) <= len(PARTS):
        # training/semantic/ belongs to training/image_2/; testing/image_2/ has no masks
        likely = sorted(images.values(), key=likeness, reverse=True)
        likely = [each for each in likely if numbered and likeness(each) == likeness(likely[0])]
        found += [({key: each}, masks) for each in likely or [max(images.values(), key=likeness)]]
    return found


def _shared(masks: _Alike) -> bool:
    """Whether several image folders share the folder of masks."""
    return len({*masks.values()}) < len(masks)


def _has_more(images: _Alike, masks: _Alike, trees: Mapping[Path, _Tree]) -> bool:
    """Whether there are image folders without a mask folder."""
    return any(
        len(trees[images[key]]) > len(trees[top]) and images[key] not in top.parents
        for key, top in masks.items()
    )


def _matches_more(images: _Alike, masks: _Alike, trees: Mapping[Path, _Tree]) -> bool:
    """Whether the pattern of the images matches others too: testing/images/ has no masks."""
    first, second = _starred(images), _starred(masks)
    if "*" not in first:
        return False
    depth = len(Path(first).parts)
    found = [top for top in trees if len(top.parts) == depth and top.match(first)]
    return any(top not in images.values() and not top.match(second) for top in found)


def _which_couple(
    folder: Path, found: Sequence[tuple[_Alike, _Alike]], trees: Mapping[Path, _Tree]
) -> DataError:
    choices: dict[str, dict[str, object]] = {}
    if split := next((images for images, masks in found if _shared(masks)), None):
        tops = " or ".join(f"{each}/" for _, masks in found for each in {*masks.values()})
        message = (
            f"{folder}: {len(split)} folders, such as {next(iter(split.values()))}/, hold images "
            f"whose masks may be in {tops}. Move these images into one folder."
        )
        return DataError(message, "which-folder", [folder / each for each in split.values()])
    classes: dict[tuple[Path, Path, frozenset[Key]], list[tuple[_Alike, _Alike]]] = {}
    for couple in found:
        images, masks = (next(iter(each.values())) for each in couple)
        flags: dict[str, object] = {"images": str(images), "masks": str(masks)}
        if len(couple[1]) > 1:
            flags = {"pairs": ":".join(_patterns(couple, trees))}
        if _has_more(*couple, trees) or _matches_more(*couple, trees):
            flags["skip_unlabelled"] = True
        choices["Images in {}/, masks in {}/".format(*map(_starred, couple))] = flags
        if masks.parent not in images.parents:  # other things lie next to the images
            names = frozenset(_files_of(*couple, trees)[1])
            classes.setdefault((images, masks.parent, names), []).append(couple)
    for (images, above, _), couples in classes.items():
        flags = {"images": str(images), "masks": str(above)}
        if len(couples[0][1]) > 1:
            first, second = _patterns(couples[0], trees)
            several = [next(iter(masks.values())).name for _, masks in couples]
            second = second.replace(f"/{several[0]}/", f"/{{{','.join(several)}}}/")
            flags = {"pairs": f"{first}:{second}"}
        if _matches_more(*couples[0], trees):
            flags["skip_unlabelled"] = True
        if len(couples) > 1:
            choices[f"Images in {images}/, each folder in {above}/ is a class"] = flags
    for couple in found:
        above = Path(_starred(couple[1])).parent
        top = Path(_starred(couple[0]))
        is_beside = above in (top, *top.parents)  # other things lie next to the images
        if not is_beside and (pairs := _with_endings(couple, trees)):
            named = f"Images in {_starred(couple[0])}/, each folder in {above}/ is a class"
            choices[named] = {"pairs": pairs}
    reason = "several folders have matching file names. Choose"
    if len(choices) == 1:
        reason = "some folders of images have no masks. To leave these out"
    return DataError(
        f"{folder}: {reason}: {'; '.join(choices)}.",
        "which-folder",
        choices=choices,
    )


def _with_endings(couple: tuple[_Alike, _Alike], trees: Mapping[Path, _Tree]) -> str:
    """The `--pairs` of folders of classes whose files have an ending each; "" if they are none.

    Such as 1. Cars/7_CR.png and 2. Roads/7_RD.png. A class may be absent from some images.
    """
    images, masks = couple
    above = Path(_starred(masks)).parent
    ends: dict[str, str] = {}
    start = ""
    for each in _all_alike(trees):
        top = Path(_starred(each))
        if top.parent != above or each.keys() != masks.keys() or not _holds_masks(each, trees):
            continue
        files = _files_of(images, each, trees)
        if not files[1] or not fit_all(*files[::-1]):
            return ""
        start, pattern = _patterns((images, each), trees)
        folder, _, end = pattern.rpartition("/*")
        if folder != str(top):
            return ""
        ends[top.name] = end
    suffixes = {end.rpartition(".")[2] for end in ends.values()}
    stems = [end.rpartition(".")[0] for end in ends.values()]
    is_clear = len(suffixes) == 1 and not re.search(r"[{},*:]", "".join([*ends, *stems]))
    if len({*stems}) < max(2, len(ends)) or not is_clear:
        return ""
    return f"{start}:{above}/{{{','.join(ends)}}}/*{{{','.join(stems)}}}.{suffixes.pop()}"


def _patterns(couple: tuple[_Alike, _Alike], trees: Mapping[Path, _Tree]) -> list[str]:
    """The `--pairs` patterns of folders of several splits or numbers."""
    sides = patterns_of(*_files_of(*couple, trees))
    below = "/*" * len(next(iter(trees[next(iter(couple[1].values()))])).parts)
    return [f"{_starred(each)}{below}/{side}" for each, side in zip(couple, sides, strict=True)]


def _starred(alike: _Alike) -> str:
    """The common path of folders, with * where they differ."""
    columns = zip(*(VARIES.findall(str(each)) for each in alike.values()), strict=True)
    varies = iter([len(set(column)) > 1 for column in columns])
    return VARIES.sub(
        lambda match: "*" if next(varies) else match[0], str(next(iter(alike.values())))
    )


def _by_variables(form: Mapping[tuple[str, ...], Path]) -> _Alike:
    """Key each folder by where its name differs from the others'."""
    varying = [len(set(column)) > 1 for column in zip(*form, strict=True)]
    return {
        tuple(dict.fromkeys(w.lower() for w, own in zip(key, varying, strict=True) if own)): top
        for key, top in form.items()
    }


def _files_of(
    images: _Alike, masks: _Alike, trees: Mapping[Path, _Tree]
) -> tuple[dict[Key, Path], dict[Key, Path]]:
    """The files of such folders; none if mask and image folders have different subfolders."""
    both: tuple[dict[Key, Path], dict[Key, Path]] = {}, {}
    shared, count = _shared(masks), 0
    for key, mask_top in masks.items():
        top = images[key]
        tree = trees[top]
        if top in mask_top.parents:
            tree = {Path(): tree[Path()]} if Path() in tree else {}
        known = trees[mask_top].keys()
        if mask_top in (top, *top.parents) or not known <= tree.keys():
            return {}, {}
        if tree.keys() != known and known != {Path()}:  # some subfolders have no masks
            tree = {where: paths for where, paths in tree.items() if where in known}
        count += sum(map(len, tree.values()))
        for files, each in zip(both, (tree, trees[mask_top]), strict=True):
            for where, paths in each.items():
                place = str(where) if shared else f"{key}{where}"
                files |= {(place, normalize("NFC", path.stem)): path for path in paths}
    return ({}, {}) if shared and len(both[0]) < count else both  # names occur twice


def _is_above(other: tuple[_Alike, _Alike], couple: tuple[_Alike, _Alike]) -> bool:
    """Whether both folders of a couple are inside those of another."""
    return all(
        any(top in each.parents for top in above.values() for each in below.values())
        for above, below in zip(other, couple, strict=True)
    )


def is_mask(file: Path) -> bool:
    """Whether a file has few enough values or colours for a mask."""
    try:
        return len(_values(file)) <= _MOST_VALUES
    except (ValueError, FileNotFoundError):
        return False


def _values(file: Path) -> np.ndarray:
    try:
        return np.unique(read_mask(file))
    except ColoredMaskError:
        return count_colors(file)[0]
