"""Match images with masks by file name, and join several masks of one image."""

import os
import re
from bisect import bisect
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from plainunet.dataset.layouts import IMAGE_WORD, MASK_WORD, PARTS, Files, Key, find_part
from plainunet.dataset.unmatched import (
    DEFINE_PAIRS,
    Affixes,
    Answers,
    Matched,
    common_affixes,
    common_start,
    cut,
    further_masks,
    has_letters,
    list_answers,
    require_partners,
    words_of,
)
from plainunet.errors import Error
from plainunet.formats.masks import class_file_names
from plainunet.formats.problems import DataError, first_five
from plainunet.formats.sources import HERE, ClassFiles, ObjectFiles, Source, parse_classes, path_of
from plainunet.reporter import Reporter, silent

_SAMPLE = 2000
_BETWEEN = r"[\W_]+"
_ZEROS = re.compile(r"(?<!\d)0+(?=\d)")


def match_names(
    images: Files,
    masks: Mapping[Key, Source],
    as_they_are: bool = False,
    skip_unlabelled: bool = False,
    reporter: Reporter = silent,
    folder: Path = Path(),
) -> dict[Key, Key]:
    """Map each image's key to its mask's, in the order of the images.

    Files without a partner are reported. `as_they_are`: only equal stems match. `folder` is the
    one that `--pairs` is relative to.
    """
    affixes = Affixes()
    if as_they_are:
        joined = _join(images, masks, affixes)
    else:
        affixes, joined = _best(images, masks)
    if not as_they_are and not len(joined) == len(images) == len(masks):
        # "IMG_1.JPG" and "img_1.png"
        small = _join_as(images, masks, lambda where, stem: (where.casefold(), stem.casefold()))
        joined = small if len(small) == len(images) == len(masks) else joined
    if not as_they_are and len(joined) < len(images):
        # 21_training and 01_test, each in its split; "img1" and "mask_001"
        places = _join_places(images, masks)
        starts = _join_parts(images, masks, lambda found: found.string[: found.start()])
        turned = _join_parts(masks, images, lambda found: found.string[found.end() :])
        ends = {image: mask for mask, image in turned.items()}
        unpadded = _join_as(images, masks, lambda where, stem: (where, _ZEROS.sub("", stem)))
        inside = _join_inside(images, masks)
        others = places, starts, ends, unpadded, inside, _join_folders(images, masks)
        joined = max(joined, *others, key=len)
    if skip_unlabelled and joined:
        images = {key: path for key, path in images.items() if key in joined}
    mask_files = {key: path_of(mask) for key, mask in masks.items()}
    if not as_they_are and 0 < len(joined) < len(images) == len(masks):
        _require_no_shift(images, mask_files)
    require_partners(Matched(images, mask_files, affixes, joined, folder), reporter)
    return {key: joined[key] for key in images if key in joined}


def _require_no_shift(images: Files, masks: Files) -> None:
    """Refuse masks numbered with a constant offset from their images."""
    numbers: list[list[int]] = []
    for files in (images, masks):
        found = [re.findall(r"\d+", stem) for _, stem in files]
        numbers.append(sorted(int(each[-1]) for each in found if each))
    steps = {mask - image for image, mask in zip(*numbers, strict=False)}
    if len(numbers[0]) == len(numbers[1]) == len(images) and len(steps) == 1 and steps != {0}:
        first, last = next(iter(images.values())), next(iter(masks.values()))
        raise DataError(
            f"The masks' numbers differ from the images' by {steps.pop():+d}: the first are "
            f"{first} and {last}. If these belong together, number both the same; if not, add the "
            f"missing files. {DEFINE_PAIRS}.",
            "no-mask",
            [first, last],
        )


def _join_places(images: Files, masks: Mapping[Key, Source]) -> dict[Key, Key]:
    """Match the images and masks of each folder separately."""
    places: dict[str, tuple[dict[Key, None], dict[Key, None]]] = defaultdict(lambda: ({}, {}))
    for number, keys in enumerate((images, masks)):
        for key in keys:
            places[key[0]][number][key] = None
    return {image: mask for both in places.values() for image, mask in _best(*both)[1].items()}


def _join_as(
    images: Files, masks: Mapping[Key, object], form: Callable[[str, str], Key]
) -> dict[Key, Key]:
    """Match names in a simpler form; {} if two names have the same form."""
    ours, theirs = ({form(*key): key for key in keys} for keys in (images, masks))
    if len(ours) < len(images) or len(theirs) < len(masks):
        return {}
    return {ours[key]: theirs[mask] for key, mask in _best(ours, theirs)[1].items()}


def _join_inside(images: Files, masks: Mapping[Key, object]) -> dict[Key, Key]:
    """Match names that differ in one word inside: 7_sat_01.jpg to 7_mask_01.png."""
    ours, theirs = (
        set.intersection(*({*re.split(_BETWEEN, stem)} for _, stem in keys)) if keys else set()
        for keys in (images, masks)
    )
    words = {word for word in ours ^ theirs if has_letters(word)}
    if len(images) < 2 or not words or max(len(words & ours), len(words & theirs)) > 1:
        return {}

    def without(where: str, stem: str) -> Key:
        return where, "_".join(part for part in re.split(_BETWEEN, stem) if part not in words)

    return _join_as(images, masks, without)


def _join_folders(images: Files, masks: Mapping[Key, Source]) -> dict[Key, Key]:
    """Match names in folders named otherwise: train_images/ to train_labels/; {} if in doubt."""
    joined = _join_as(images, masks, lambda _, stem: ("", stem))
    folders = {(image[0], mask[0]) for image, mask in joined.items()}
    sides = [{*side} for side in zip(*folders, strict=True)]
    # folders of one side only may be classes
    is_sure = len(joined) == len(masks) and all(len(side) == len(folders) for side in sides)
    return joined if is_sure else {}


def _join_parts(
    longer: Mapping[Key, object], shorter: Mapping[Key, object], cut: Callable[[re.Match[str]], str]
) -> dict[Key, Key]:
    """Match all names to a part of them: a01_s1_w1f0c3.tif to a01_s1.png; {} if in doubt."""
    joined: dict[Key, Key] = {}
    for where, stem in longer:
        found = {(where, cut(match)) for match in re.finditer(r"[\W_]", stem)} & shorter.keys()
        if len(found) == 1:
            joined[where, stem] = found.pop()
    return joined if len(longer) == len(shorter) == len({*joined.values()}) else {}


def fit_all(images: Files, masks: Files) -> bool:
    """Whether every image has a mask, by name."""
    return bool(images) and len(_best(images, masks)[1]) == len(images)


def patterns_of(images: Files, masks: Files) -> tuple[str, str]:
    """Return the `--pairs` patterns that match these images and masks."""
    affixes = _best(images, masks)[0]
    suffixes = [next(iter(files.values())).suffix for files in (images, masks)]
    return f"{affixes[0]}*{affixes[1]}{suffixes[0]}", f"{affixes[2]}*{affixes[3]}{suffixes[1]}"


def split_names(files: Files) -> tuple[dict[Key, Path], dict[Key, Path]]:
    """Separate images and masks in one folder by name; no masks if most have no partner."""
    best: tuple[tuple[int, bool], set[Key]] = ((0, False), set())
    for affixes in _one_sided(files, files, lambda start, end: Affixes("", "", start, end)):
        longer = {key for key in files if cut(key, affixes[2:]) in files}
        shorter = files.keys() - longer
        # "1" and "1_rgb": the image has the longer name
        affix = affixes.mask_start or affixes.mask_end
        own = shorter if IMAGE_WORD.search(affix) else longer
        # for equal numbers, 7_mask is the mask of 7 rather than 7_mask_1 that of 7_mask
        joined = len(_join(shorter, longer, affixes)), bool(MASK_WORD.search(affix))
        best = max(best, (joined, own), key=lambda each: each[0])
        if joined[0] * 2 == len(files):
            break
    if best[0][0] * 2 < len(files):
        named = {key for key in files if MASK_WORD.search(key[1])}
        count = len(_best({k: files[k] for k in files if k not in named}, _of(files, named))[1])
        best = max(best, ((count, False), named), key=lambda each: each[0])
    # next to 7_mask or 7_mask_1, 7_mask_2 is another mask
    bases = {(where, base_of(stem)) for where, stem in best[1]}
    more = {key for key in files if MASK_WORD.search(key[1]) and (key[0], base_of(key[1])) in bases}
    masks = best[1] | more
    if best[0][0] * 4 < len(files) - len(masks) + len(best[1]):
        return dict(files), {}
    return {key: files[key] for key in files if key not in masks}, _of(files, masks)


_NUMBERED = re.compile(
    rf"(?P<base>.*{MASK_WORD.pattern.removeprefix('(?i)')})[ _.-]*\(?(?P<number>\d{{1,4}})\)?",
    re.IGNORECASE | re.DOTALL,
)


def base_of(name: str) -> str:
    """The name of a mask without the number of an object: 7_mask of 7_mask_1."""
    match = _NUMBERED.fullmatch(name)
    return match["base"] if match else name


def join_objects(images: Files, masks: Files, folder: Path = Path()) -> dict[Key, Source]:
    """Join several masks of one image, such as one per object, as their union.

    They share a name but for a number (7_mask.png and 7_mask_1.png of 7.png), or a folder that
    belongs to one image (ID/masks/ of ID/images/, masks/7/ of images/7.png). `folder` is the one
    that `--pairs` is relative to.

    Raises:
        DataError: All images have masks with the same numbers, which may be classes.
    """
    groups: dict[Key, dict[str, Path]] = defaultdict(dict)  # by ending
    by_folder = _image_of_folder(images, masks)
    for (where, stem), path in masks.items():
        if by_folder:
            groups[by_folder[where]][f"/{stem}"] = path
        else:
            groups[where, base_of(stem)][stem.removeprefix(base_of(stem))] = path
    several = [own for own in groups.values() if len(own) > 1]
    if not several and not by_folder:
        return {**masks}
    if len(_join_inside(images, masks)) == len(images) == len(masks):
        return {**masks}
    before, after = (len(_best(images, each)[1]) for each in (masks, groups))
    # without any match, the number tells images apart: mask_001.png
    fewer = len(masks) - before <= len(groups) - after
    if not by_folder and (after == 0 or after < before or fewer):
        return {**masks}
    first = several[0] if several else {}
    # the number of objects varies between images; the classes are the same
    names = Counter(re.sub(r"\d+", "", name) for own in several for name in own)
    kinds = [name for name, count in names.items() if count > 1]
    same = all(own.keys() == first.keys() for own in groups.values())
    alike = same and len(first) > 1 and len(groups) > 1
    if (len(kinds) > 1 and any(map(has_letters, kinds))) or alike:
        raise _same_set(images, masks, groups, folder)
    joined: dict[Key, Source] = {}
    for key, own in groups.items():
        paths = list(own.values())
        joined[key] = paths[0]
        if len(paths) > 1:
            joined[key] = join_files(paths)
    return joined


def _same_set(
    images: Files, masks: Files, groups: Mapping[Key, Mapping[str, Path]], folder: Path
) -> DataError:
    """The error for images that have the same set of masks each."""
    own = max(groups.values(), key=len)
    affixes, joined = _best(images, groups)
    in_folders = any(end.startswith("/") for end in own)
    paths = {key: next(iter(each.values())) for key, each in groups.items()}
    tops = {key: path.parent for key, path in paths.items()} if in_folders else paths
    matched = Matched(images, tops, affixes, joined, folder)
    answers: Answers = {}
    # masks/7/, not ID/masks/, whose * would differ from that of ID/images/
    if not in_folders or all(path.name == key[1] for key, path in tops.items()):
        ends = {affixes.mask_end + end: path for end, path in own.items()}
        answers = matched.answers(next(iter(joined)), ends)
    if in_folders and not answers:  # 7/7_ids.png and 7/7_objects.png of 7/7.png
        matched = Matched(images, masks, *_best(images, masks), folder)
        partners = {*matched.joined.values()}
        lonely = {key: path for key, path in masks.items() if key not in partners}
        if stays := [*further_masks(lonely, matched).values()]:
            return stays[0]
    listed = list(own.values())
    return DataError(
        f"Each image has the same set of masks, such as {first_five(listed)}. "
        f"{list_answers(answers) or DEFINE_PAIRS}.",
        "several-masks",
        listed,
        choices=answers,
    )


def join_files(paths: Sequence[Path]) -> ObjectFiles:
    """Combine several files in one folder as the masks of one image."""
    names = tuple(path.name for path in paths)
    if any(re.search(r"[{}|]", name) for name in names) or len({p.parent for p in paths}) > 1:
        raise DataError(
            f"{first_five(paths)} are masks of one image. Put them into one folder, without "
            "{, } and | in their names.",
            "several-masks",
            paths,
        )
    return ObjectFiles(paths[0].parent, names)


def _image_of_folder(images: Files, masks: Files) -> dict[str, Key]:
    """The one image of each folder of masks; none where folders hold masks of several."""
    counts = Counter(where for where, _ in images)
    alone = {key[0]: key for key in images if counts[key[0]] == 1}
    named = {Path(where, stem).as_posix(): (where, stem) for where, stem in images}
    stems: dict[str, set[str]] = defaultdict(set)
    for where, stem in masks:
        stems[where].add(stem)
    for known in (alone, named):
        found = {where: known[where] for where in stems if where in known}
        if len(found) == len(stems) > 1 and not (known is named and _are_several(images, stems)):
            return found
    return {}


def _are_several(images: Files, stems: Mapping[str, set[str]]) -> bool:
    """Whether the folders 0/, 1/ ... are not those of the images 0, 1 ..., but hold many images'.

    CelebAMask-HQ has 00001_hair.png and 00002_hair.png in 0/: each image is in one folder only.
    Folders of classes have the names of the images.
    """
    names = {stem for _, stem in images}
    if len(stems) < len(images) and all(
        len(own & names) * 2 > len(names) for own in stems.values()
    ):
        return True
    found = [[re.match(r"0*(\d+)[\W_]+[^\W\d]", stem) for stem in own] for own in stems.values()]
    heads = [{match and match[1] for match in own} for own in found]
    several = set().union(*heads)
    is_own = len(several) == sum(map(len, heads)) > len(heads)
    return is_own and several <= {_ZEROS.sub("", name) for name in names}


def _of(files: Files, keys: Iterable[Key]) -> dict[Key, Path]:
    chosen = set(keys)
    return {key: path for key, path in files.items() if key in chosen}


def _join(images: Iterable[Key], masks: Iterable[Key], affixes: Affixes) -> dict[Key, Key]:
    by_core = {cut(key, affixes[:2]): key for key in images}
    by_core.pop(None, None)
    joined = {}
    for mask in masks:
        image = by_core.get(cut(mask, affixes[2:]))
        if image is not None:
            joined[image] = mask
    return joined


def _best(
    images: Mapping[Key, object], masks: Mapping[Key, object]
) -> tuple[Affixes, dict[Key, Key]]:
    best: tuple[Affixes, dict[Key, Key]] = Affixes(), {}
    for affixes in _candidates(images, masks):
        joined = _join(images, masks, affixes)
        if len(joined) == len(images) == len(masks):
            return affixes, joined
        longer = len("".join(affixes)) - len("".join(best[0]))
        if (len(joined), -longer) > (len(best[1]), 0):
            best = affixes, joined
    return best


def _candidates(images: Mapping[Key, object], masks: Mapping[Key, object]) -> Iterator[Affixes]:
    yield Affixes()
    # img.png and label.png, one pair per folder
    stems = [{stem for _, stem in keys} for keys in (images, masks)]
    if all(len(each) == 1 for each in stems) and len(images) > 1:
        yield Affixes("", stems[0].pop(), "", stems[1].pop())
    yield from _one_sided(images, masks, lambda start, end: Affixes("", "", start, end))
    yield from _one_sided(masks, images, lambda start, end: Affixes(start, end, "", ""))
    ours, theirs = (
        {word for _, stem in keys for word in words_of(stem)} for keys in (images, masks)
    )

    def name_kinds(image: str, mask: str) -> bool:
        # a word that the others' names have, such as a site, does not tell images from masks
        in_image, in_mask = words_of(image), words_of(mask)
        return not ((in_mask - in_image) & ours or (in_image - in_mask) & theirs)

    for image, mask in _two_sided(images, masks):
        if name_kinds(image, mask):
            yield Affixes("", image, "", mask)
    for image, mask in _two_sided(
        [(where, stem[::-1]) for where, stem in images],
        [(where, stem[::-1]) for where, stem in masks],
    ):
        if name_kinds(image[::-1], mask[::-1]):
            yield Affixes(image[::-1], "", mask[::-1], "")
    # "img_1" with "1_mask"
    if len(images) > 1 and len(masks) > 1:
        shared, of_masks = common_affixes(images), common_affixes(masks)
        for affixes in (
            Affixes(shared[0], "", "", of_masks[1]),
            Affixes("", shared[1], of_masks[0], ""),
            Affixes(*shared, *of_masks),
        ):
            own = [each for each in affixes if each and affixes.count(each) == 1]
            if all(has_letters(each) for each in own):
                yield affixes


def _one_sided(
    short: Mapping[Key, object],
    long: Mapping[Key, object],
    as_affixes: Callable[[str, str], Affixes],
) -> list[Affixes]:
    votes: Counter[tuple[str, str]] = Counter()
    for where, stem in _sample(list(long)):
        for at in range(1, len(stem)):
            if (where, stem[:at]) in short:
                votes["", stem[at:]] += 1
            if (where, stem[at:]) in short:
                votes[stem[:at], ""] += 1
    return [as_affixes(*each) for each in _most(votes)]


def _two_sided(images: Iterable[Key], masks: Iterable[Key]) -> list[tuple[str, str]]:
    # in sorted order, names with the longest common beginning are adjacent
    votes: Counter[tuple[str, str]] = Counter()
    order = sorted(images)
    for key in _sample(sorted(masks)):
        at = bisect(order, key)
        for other in order[max(0, at - 1) : at + 1]:
            if other[0] == key[0]:
                same = len(common_start(other[1], key[1]))
                ends = other[1][same:], key[1][same:]
                # "1_01" and "1_02" are of one kind, not image and mask
                if same and all(has_letters(end) for end in ends):
                    votes[ends] += 1
    # a single pair is recognised only by words such as -volume and -labels
    return [
        (image, mask)
        for image, mask in _most(votes)
        if votes[image, mask] > 1 or (IMAGE_WORD.search(image) and MASK_WORD.search(mask))
    ]


def _most(votes: Counter[tuple[str, str]]) -> list[tuple[str, str]]:
    # for equal votes, the shorter: "10_mask" is also "1" followed by "0_mask"
    return sorted(votes, key=lambda each: (-votes[each], len("".join(each)), each))[:3]


def _sample(keys: Sequence[Key]) -> Sequence[Key]:
    return keys[:: max(1, len(keys) // _SAMPLE)]


_COLORED = re.compile(
    r"(?i)colou?rs?|colou?r[ _-]?maps?|vis|viz|visuali[sz]ations?|overlays?|previews?"
)
_PAIRS = "--pairs 'images/*.jpg:masks/{road,car}/*.png'"


def join_classes(
    images: Mapping[Key, Path], masks: Mapping[Key, Path]
) -> dict[Key, ClassFiles] | None:
    """Join the masks of each image if there is one folder per class.

    Such folders exist for masks only: `masks/road/1.png` and `masks/car/1.png` for
    `images/1.jpg`, `masks/train/road/1.png` or `masks/road/train/1.png` for `images/train/1.jpg`.
    Names may include the class (`road/1_road.png`). Returns paths with all classes in braces,
    background first; None if the folders are not classes.
    """
    spots = _find_spots({where for where, _ in images}, {where for where, _ in masks})
    names = {spot.class_name for spot in spots.values()}
    if len(names) < 2 or {name.lower() for name in names} <= PARTS.keys():
        return None
    if any(_COLORED.fullmatch(name) for name in names):
        return None
    # "1", "1_road" or "road_1"
    for own_name in ("(?P<core>.+)", "(?P<core>.+)[-_. ]+{}", "{}[-_. ]+(?P<core>.+)"):
        found = _by_image(masks, spots, own_name)
        # patients' folders look the same, but their masks share no names
        if any(len(files) > 1 for files in found.values()):
            classes = [name for name in class_file_names(tuple(sorted(names))) if name in names]
            return _in_braces(found, tuple(classes))
    return None


def which_of_one_class(folder: Path, images: Mapping[Key, Path], masks: Mapping[Key, Path]) -> None:
    """Ask whether folders are classes if each image has its mask in one of them.

    Such as masks/cat/1.png and masks/dog/2.png for images/1.jpg and images/2.jpg.

    Raises:
        DataError: They may be.
    """
    tops = sorted({path.parent for path in masks.values()})
    above = {top.parent for top in tops}
    stems = [{path.stem for path in files.values()} for files in (images, masks)]
    kinds = [{path.suffix for path in files.values()} for files in (images, masks)]
    places = {path.parent for path in images.values()}
    is_flat = len(places) == len(above) == 1 and not places & {*tops}
    if len(tops) < 2 or not is_flat or stems[0] != stems[1] or max(map(len, kinds)) > 1:
        return
    if len(masks) > len(stems[0]) or any(find_part(top.name) for top in tops):
        return
    first, second = (each.pop().relative_to(folder).as_posix() for each in (places, above))
    names = ",".join(top.name for top in tops)
    pairs = f"{first}/*{kinds[0].pop()}:{second}/{{{names}}}/*{kinds[1].pop()}"
    raise DataError(
        f"{folder / second} holds {len(tops)} folders, and each image has a mask in one of them. "
        "If they are no classes, move the masks into one folder.",
        "which-folder",
        choices={f"{names.replace(',', ', ')} are classes": {"pairs": pairs}},
    )


class _Spot(NamedTuple):
    where: str  # folder of the images
    class_name: str
    depth: int  # levels of the class folder above the mask, from 0


class _Joined(NamedTuple):
    mask: Path
    template: str  # its path, with HERE for the class
    class_name: str


def _find_spots(image_folders: set[str], mask_folders: set[str]) -> dict[str, _Spot]:
    if image_folders & mask_folders:
        return {}
    parts = {where: Path(where).parts for where in mask_folders}
    fits = []
    for at in range(min(map(len, parts.values()), default=0)):
        spots = {
            where: _Spot(str(Path(*each[:at], *each[at + 1 :])), each[at], len(each) - 1 - at)
            for where, each in parts.items()
        }
        if all(spot.where in image_folders for spot in spots.values()):
            fits.append(spots)
    return fits[0] if len(fits) == 1 else {}


def _by_image(
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
            # as spelled on disk
            name, parts[-1 - spot.depth] = parts[-1 - spot.depth], HERE
            above[folder] = str(Path(*parts)), name
        template, name = above[folder]
        start, end = match.span("core")
        if start:
            own = HERE + own[len(name) :]
        elif end < len(stem):
            at = own.rindex(name) if name in own else 0
            own = own[:at] + HERE + own[at + len(name) :]
        found[spot.where, match["core"]].append(_Joined(path, f"{template}{os.sep}{own}", name))
    return found


def _in_braces(
    found: Mapping[Key, list[_Joined]], classes: tuple[str, ...]
) -> dict[Key, ClassFiles]:
    masks: dict[Key, ClassFiles] = {}
    for key, joined in found.items():
        mask = ClassFiles(joined[0].template, classes)
        fits = all(each.template == mask.template for each in joined)
        if not masks:  # the classes in braces are the same for all
            own = mask.files.get(joined[0].class_name)
            fits = fits and own == joined[0].mask and parse_classes(str(mask)) == mask
        if not fits:
            raise Error(
                f"{' and '.join(str(each.mask) for each in joined[:2])} cannot be joined: the "
                "class masks of an image may differ in the class name only, and their folders' "
                f"names may not contain braces or commas. Rename them, or use {_PAIRS}."
            )
        masks[key] = mask
    return masks
