"""Match images with masks by file name, and report files without a partner."""

import difflib
import os
import re
from bisect import bisect
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import NamedTuple

from plainunet.dataset.layouts import IMAGE_WORD, MASK_WORD, Files, Key
from plainunet.formats.encoded import open_encoded
from plainunet.formats.images import fitting_suffix
from plainunet.formats.masks import holds_one_class
from plainunet.formats.problems import Change, DataError, first_five
from plainunet.formats.sources import ObjectFiles, Source, path_of
from plainunet.reporter import Reporter, silent

_FIX = (
    "Add the partner, remove the file, or define the pairs: --pairs 'images/*.jpg:masks/*_m.png' "
    "(one file per class: 'masks/*_{road,car}.png') or a CSV list with the columns image,mask: "
    "--pairs list.csv"
)
_MOST_COMPARED = 50
_ALIKE = 0.7


class _Lonely(NamedTuple):
    what: str  # what is missing
    code: str
    advice: str
    partner_of: Callable[[Key], str]  # expected stem of the missing file
    owner_of: Callable[[Key], str]  # expected stem of a partner's partner


def _each(
    keys: Sequence[Key],
    files: Files,
    others: Sequence[Key],
    partners: Files,
    missing: _Lonely,
    named: object,
    moves: dict[Path, Change],
) -> Iterator[DataError]:
    if not keys:
        return
    beside = _beside(partners, {*files.values()})
    words = Counter(word for _, stem in chain(files, partners) for word in _words(stem))
    # affixes shared by all masks would make all names similar
    named_so = {(key[0], missing.owner_of(key)): key for key in others}
    order = sorted(named_so)
    for number, key in enumerate(keys):
        wanted, path = missing.partner_of(key), files[key]
        candidate = beside.get((key[0], wanted))
        if candidate is None and number < _MOST_COMPARED:
            near = _nearest(key, order)
            candidate = partners[named_so[near]] if near else None
        message, fix = f"{path} has no {missing.what} (expected: {named})", moves.get(path)
        if candidate is not None:
            message += f"; nearest is {candidate}"
            new = candidate.with_name(wanted + _suffix(candidate))
            # rename only one of two mismatched partners
            is_free = fix is None and candidate not in moves and not new.exists()
            if is_free and _is_slip(candidate.stem, wanted, words):
                fix = moves[candidate] = Change("rename", (candidate,), (new,))
        message += f". Add the partner, or {missing.advice}."
        yield DataError(message, missing.code, [path], fix or "")


def _with_nearest(keys: Sequence[Key], files: Files, others: Sequence[Key], partners: Files) -> str:
    order = sorted(others)
    listed: list[object] = []
    for key in keys[:5]:
        near = _nearest(key, order)
        listed.append(f"{files[key]}{f' (nearest: {partners[near]})' if near else ''}")
    return first_five([*listed, *keys[5:]])


def _is_slip(name: str, wanted: str, words: Mapping[str, int]) -> bool:
    """Whether a name is a misspelling: same numbers, mostly the same letters.

    Not if both words in which the names differ have a meaning, as other names have them, too: the
    left eye is not the right one.
    """
    differing = _words(name) ^ _words(wanted)
    if differing and all(words[word] > 1 for word in differing):
        return False
    same_numbers = re.findall(r"\d+", name) == re.findall(r"\d+", wanted)
    return same_numbers and difflib.SequenceMatcher(None, name, wanted).ratio() >= _ALIKE


def _words(name: str) -> set[str]:
    return {word for word in re.split(r"[\W_]+", name) if _worded(word)}


def _nearest(key: Key, order: Sequence[Key]) -> Key | None:
    at = bisect(order, key)
    # similar names share a beginning, so they are close in sorted order
    around = order[max(0, at - 200) : at + 200]
    near = {stem: (where, stem) for where, stem in around if where == key[0]}
    found = difflib.get_close_matches(key[1], near, 1)
    return near[found[0]] if found else None


def _beside(partners: Files, known: set[Path]) -> dict[Key, Path]:
    """Files with a non-image suffix, by folder and stem: '7.dat', '8.png.bak'."""
    folders = {where: path.parent for (where, _), path in partners.items()}
    taken = known | set(partners.values())
    return {
        (where, name.partition(".")[0]): folder / name
        for where, folder in folders.items()
        if folder.is_dir()  # not a path of one file per class
        for name in sorted(os.listdir(folder))  # noqa: PTH208 (ten times as fast)
        if name[0] != "." and folder / name not in taken and (folder / name).is_file()
    }


def _suffix(path: Path) -> str:
    try:
        with open_encoded(path) as (kind, _):
            return fitting_suffix(path, kind)
    except (ValueError, FileNotFoundError):
        return path.suffix


_SAMPLE = 2000
_MOST_ENDS = 20  # more are hardly classes
_ZEROS = re.compile(r"(?<!\d)0+(?=\d)")


class _Affixes(NamedTuple):
    """Parts removed from a stem before comparison."""

    image_start: str = ""
    image_end: str = ""
    mask_start: str = ""
    mask_end: str = ""

    def __str__(self) -> str:
        """Describe how a mask's name follows from its image's."""
        sides = []
        for image, mask in zip(self[:2], self[2:], strict=True):
            if mask and image:
                sides.append(f"'{mask}' instead of '{image}'")
            elif image:
                sides.append(f"the image's name without '{image}'")
        if sides:
            return ", ".join(sides)
        if self.mask_start:
            return f"'{self.mask_start}' + the image's name"
        return f"the image's name + '{self.mask_end}'" if self.mask_end else "same name"


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
    affixes = _Affixes()
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
        others = places, starts, ends, unpadded, _join_folders(images, masks)
        joined = max(joined, *others, key=len)
    if skip_unlabelled and joined:
        images = {key: path for key, path in images.items() if key in joined}
    mask_files = {key: path_of(mask) for key, mask in masks.items()}
    if not as_they_are and 0 < len(joined) < len(images) == len(masks):
        _require_no_shift(images, mask_files)
    _require_all(_Matched(images, mask_files, affixes, joined, folder), reporter)
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
            f"missing files. {_FIX}.",
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
    images: Files, masks: Mapping[Key, Source], form: Callable[[str, str], Key]
) -> dict[Key, Key]:
    """Match names in a simpler form; {} if two names have the same form."""
    ours, theirs = ({form(*key): key for key in keys} for keys in (images, masks))
    if len(ours) < len(images) or len(theirs) < len(masks):
        return {}
    return {ours[key]: theirs[mask] for key, mask in _best(ours, theirs)[1].items()}


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
    for affixes in _one_sided(files, files, lambda start, end: _Affixes("", "", start, end)):
        longer = {key for key in files if _cut(key, affixes[2:]) in files}
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
    if (len(kinds) > 1 and any(map(_worded, kinds))) or alike:
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
    matched = _Matched(images, tops, affixes, joined, folder)
    answers: _Answers = {}
    # masks/7/, not ID/masks/, whose * would differ from that of ID/images/
    if not in_folders or all(path.name == key[1] for key, path in tops.items()):
        ends = {affixes.mask_end + end: path for end, path in own.items()}
        answers = matched.answers(next(iter(joined)), ends)
    if in_folders and not answers:  # 7/7_ids.png and 7/7_objects.png of 7/7.png
        matched = _Matched(images, masks, *_best(images, masks), folder)
        partners = {*matched.joined.values()}
        lonely = {key: path for key, path in masks.items() if key not in partners}
        if stays := [*_of_images_that_stay(lonely, matched).values()]:
            return stays[0]
    listed = list(own.values())
    return DataError(
        f"Each image has the same set of masks, such as {first_five(listed)}. "
        f"{_chosen(answers) or _FIX}.",
        "several-masks",
        listed,
        choices=answers,
    )


_Answers = dict[str, dict[str, object]]  # meaning, and flags


def _chosen(answers: _Answers) -> str:
    listed = "; ".join(
        f"{meaning}: --pairs '{flags['pairs']}'" for meaning, flags in answers.items()
    )
    return f"Choose. {listed}" if listed else ""


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


def _cut(key: Key, affixes: Sequence[str]) -> Key | None:
    start, end = affixes
    if not start and not end:
        return key
    where, stem = key
    core = stem[len(start) : len(stem) - len(end)]
    if not stem.startswith(start) or not stem.endswith(end) or not (core or stem == end):
        return None
    if end and core and core[-1].isdigit() and end[0].isdigit():
        return None
    if start and core[0].isdigit() and start[-1].isdigit():
        return None
    return where, core


def _join(images: Iterable[Key], masks: Iterable[Key], affixes: _Affixes) -> dict[Key, Key]:
    by_core = {_cut(key, affixes[:2]): key for key in images}
    by_core.pop(None, None)
    joined = {}
    for mask in masks:
        image = by_core.get(_cut(mask, affixes[2:]))
        if image is not None:
            joined[image] = mask
    return joined


def _best(
    images: Mapping[Key, object], masks: Mapping[Key, object]
) -> tuple[_Affixes, dict[Key, Key]]:
    best: tuple[_Affixes, dict[Key, Key]] = _Affixes(), {}
    for affixes in _candidates(images, masks):
        joined = _join(images, masks, affixes)
        if len(joined) == len(images) == len(masks):
            return affixes, joined
        longer = len("".join(affixes)) - len("".join(best[0]))
        if (len(joined), -longer) > (len(best[1]), 0):
            best = affixes, joined
    return best


def _candidates(images: Mapping[Key, object], masks: Mapping[Key, object]) -> Iterator[_Affixes]:
    yield _Affixes()
    # img.png and label.png, one pair per folder
    stems = [{stem for _, stem in keys} for keys in (images, masks)]
    if all(len(each) == 1 for each in stems) and len(images) > 1:
        yield _Affixes("", stems[0].pop(), "", stems[1].pop())
    yield from _one_sided(images, masks, lambda start, end: _Affixes("", "", start, end))
    yield from _one_sided(masks, images, lambda start, end: _Affixes(start, end, "", ""))
    ours, theirs = ({word for _, stem in keys for word in _words(stem)} for keys in (images, masks))

    def name_kinds(image: str, mask: str) -> bool:
        # a word that the others' names have, such as a site, does not tell images from masks
        in_image, in_mask = _words(image), _words(mask)
        return not ((in_mask - in_image) & ours or (in_image - in_mask) & theirs)

    for image, mask in _two_sided(images, masks):
        if name_kinds(image, mask):
            yield _Affixes("", image, "", mask)
    for image, mask in _two_sided(
        [(where, stem[::-1]) for where, stem in images],
        [(where, stem[::-1]) for where, stem in masks],
    ):
        if name_kinds(image[::-1], mask[::-1]):
            yield _Affixes(image[::-1], "", mask[::-1], "")
    # "img_1" with "1_mask"
    if len(images) > 1 and len(masks) > 1:
        shared, of_masks = _shared(images), _shared(masks)
        for affixes in (
            _Affixes(shared[0], "", "", of_masks[1]),
            _Affixes("", shared[1], of_masks[0], ""),
            _Affixes(*shared, *of_masks),
        ):
            own = [each for each in affixes if each and affixes.count(each) == 1]
            if all(_worded(each) for each in own):
                yield affixes


def _one_sided(
    short: Mapping[Key, object],
    long: Mapping[Key, object],
    as_affixes: Callable[[str, str], _Affixes],
) -> list[_Affixes]:
    votes: Counter[tuple[str, str]] = Counter()
    for where, stem in _sample(list(long)):
        for cut in range(1, len(stem)):
            if (where, stem[:cut]) in short:
                votes["", stem[cut:]] += 1
            if (where, stem[cut:]) in short:
                votes[stem[:cut], ""] += 1
    return [as_affixes(*each) for each in _most(votes)]


def _two_sided(images: Iterable[Key], masks: Iterable[Key]) -> list[tuple[str, str]]:
    # in sorted order, names with the longest common beginning are adjacent
    votes: Counter[tuple[str, str]] = Counter()
    order = sorted(images)
    for key in _sample(sorted(masks)):
        at = bisect(order, key)
        for other in order[max(0, at - 1) : at + 1]:
            if other[0] == key[0]:
                same = len(_beginning(other[1], key[1]))
                ends = other[1][same:], key[1][same:]
                # "1_01" and "1_02" are of one kind, not image and mask
                if same and all(_worded(end) for end in ends):
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


def _worded(affix: str) -> bool:
    return any(char.isalpha() for char in affix)


def _beginning(one: str, other: str) -> str:
    same = zip(one, other, strict=False)
    return one[: next((at for at, (a, b) in enumerate(same) if a != b), min(len(one), len(other)))]


def _shared(keys: Iterable[Key]) -> tuple[str, str]:
    stems = [stem for _, stem in keys]
    turned = [stem[::-1] for stem in stems]
    # the common prefix of the first and last in sorted order is common to all
    start = _beginning(min(stems), max(stems))
    end = _beginning(min(turned), max(turned))[::-1]
    # whole words only: "img_0" is "img_"
    before, after = re.match(r".*[\W_]", start, re.S), re.search(r"[\W_].*", end, re.S)
    return before[0] if before else start.rstrip("0123456789"), after[0] if after else ""


class _Matched(NamedTuple):
    """Images and masks, and which of them belong together by their names."""

    images: Files
    masks: Files
    affixes: _Affixes
    joined: Mapping[Key, Key]
    folder: Path

    def patterns(self, image: Key) -> tuple[str, str]:
        """Folders of the images and of their masks as `--pairs` names them, * where they differ."""
        mask = self.joined[image]
        images = [self._below(self.images, each) for each in (image, *self.joined)]
        masks = [self._below(self.masks, each) for each in (mask, *self.joined.values())]
        starred = [_with_stars(images), _with_stars(masks)]
        if starred[0].count("*") != starred[1].count("*"):
            starred = [images[0], masks[0]]
        first, second = (Path(*each, "*").as_posix() for each in starred)
        return first, second

    def start(self, image: Key) -> str:
        """The `--pairs` up to the endings of the masks."""
        first, second = self.patterns(image)
        before, after, before_mask, _ = self.affixes
        suffix = self.images[image].suffix
        return f"{first[:-1]}{before}*{after}{suffix}:{second[:-1]}{before_mask}*"

    def end_of(self, image: Key, mask: Key) -> str:
        """What follows an image's name in a mask's."""
        core = (_cut(image, self.affixes[:2]) or image)[1]
        rest = mask[1].removeprefix(self.affixes.mask_start)
        return rest.removeprefix(core) if rest.startswith(core) else ""

    def answers(self, image: Key, masks: Mapping[str, Path]) -> _Answers:
        """Meanings of several masks of each image, by their endings, and the flags of each."""
        if not all(map(holds_one_class, masks.values())):
            return {}
        start, ends = self.start(image), [*masks]
        shared, suffix = min(ends), masks[ends[0]].suffix
        for end in ends:
            shared = _beginning(shared, end)
        words = re.match(r".*[\W_]|", shared, re.S)
        same = words[0] if words else ""
        found: _Answers = {}
        names = [end[len(same) :] for end in ends]
        if len(ends) <= _MOST_ENDS and all(re.fullmatch(r"[^{},*:]+", name) for name in names):
            found["Each is a class"] = {"pairs": f"{start}{same}{{{','.join(names)}}}{suffix}"}
        tail = _shared(("", end) for end in ends)[1]
        tail = tail if min(map(len, ends)) > len(shared + tail) else ""
        # "a_b_c" is "a_b" and "c" to '*_*', and "a" and "b" to '*_*_c'
        if shared and not any(shared in end[len(shared) : len(end) - len(tail)] for end in ends):
            found["All are objects of one class"] = {"pairs": f"{start}{shared}*{tail}{suffix}"}
        return found

    def only(self, image: Key, masks: Mapping[str, Path]) -> _Answers:
        """Answers that one of these endings is that of the masks."""
        start = self.start(image)
        beside = self.images[image].parent in {path.parent for path in masks.values()}
        more = {"skip_unlabelled": True} if beside else {}  # '*.png' matches the others, too
        return {
            f"Only *{end}{path.suffix} count": {"pairs": f"{start}{end}{path.suffix}", **more}
            for end, path in masks.items()
        }

    def _below(self, files: Files, key: Key) -> list[str]:
        top = files[key].parent
        return [*(top.relative_to(self.folder) if top.is_relative_to(self.folder) else top).parts]


def _with_stars(folders: list[list[str]]) -> list[str]:
    """The first of these folders, with * for the names that differ; as it is if depths do."""
    if len({*map(len, folders)}) > 1:
        return folders[0]
    return [each[0] if len({*each}) == 1 else "*" for each in zip(*folders, strict=True)]


def _require_all(matched: _Matched, reporter: Reporter) -> None:
    """Report images without a mask and masks without an image."""
    images, masks, affixes, joined, _ = matched
    partners = set(joined.values())
    alone = [key for key in images if key not in joined]
    lonely = [key for key in masks if key not in partners]
    if not alone and not lonely:
        return
    named = "same name" if affixes == _Affixes() else affixes

    def mask_of(image: Key) -> str:
        return f"{affixes.mask_start}{(_cut(image, affixes[:2]) or image)[1]}{affixes.mask_end}"

    def image_of(mask: Key) -> str:
        return f"{affixes.image_start}{(_cut(mask, affixes[2:]) or mask)[1]}{affixes.image_end}"

    problems = []
    if alone:
        listed = _with_nearest(alone, images, lonely or list(masks), masks)
        problems.append(f"{len(alone)} images have no mask (expected: {named}): {listed}")
    if lonely:
        listed = _with_nearest(lonely, masks, alone or list(images), images)
        problems.append(f"{len(lonely)} masks have no image: {listed}")
    leave = " To skip images without a mask: --skip-unlabelled." if alone else ""
    where_masks_are = {path.parent for path in masks.values()}
    both = [key for key in alone if images[key].parent in where_masks_are]
    maybe = {key: images[key] for key in both} | {key: masks[key] for key in lonely}
    several = _of_images_that_stay(maybe, matched)
    alone = [key for key in alone if key not in several]
    lonely = [key for key in lonely if key not in several]
    channels = _channels(alone, matched)
    alone = [key for key in alone if key not in channels]
    moves: dict[Path, Change] = {}
    no_mask = _Lonely("mask", "no-mask", "leave it out (--skip-unlabelled)", mask_of, image_of)
    no_image = _Lonely("image", "no-image", "remove it", image_of, mask_of)
    each = [
        *dict.fromkeys([*several.values(), *channels.values()]),
        *_each(alone, images, lonely, masks, no_mask, named, moves),
        *_each(lonely, masks, alone, images, no_image, named, moves),
    ]
    reporter.problem(
        DataError(
            f"{'; '.join(problems)}. {_FIX}.{leave}",
            each[0].code,
            [file for problem in each for file in problem.files],
            # one error if the names have nothing in common
            parts=each if joined or moves else (),
        )
    )


def _of_images_that_stay(lonely: Files, matched: _Matched) -> dict[Key, DataError]:
    """The error for masks that look like further masks of images, by mask and by image."""
    images, masks, _, joined, _ = matched
    further = _further(lonely, matched)
    owner = next((key for key in further if key in joined), None)
    if owner is None:
        return {}
    own_end = matched.end_of(owner, joined[owner])
    ends = {own_end: masks[joined[owner]]}
    ends |= {end: lonely[key] for own in further.values() for end, key in own.items()}
    owned = [{*further.get(image, ()), own_end} for image in joined]
    owned += [{*own} for image, own in further.items() if image not in joined]
    everywhere = set.intersection(*owned)
    answers = matched.only(owner, {end: ends[end] for end in ends if end in everywhere})
    if own_end:  # no pattern joins "7" and "7_b"
        answers |= matched.answers(owner, ends)
    files = []
    for image, own in further.items():
        files += [*(lonely[key] for key in own.values()), images[image]]
        files += [masks[joined[image]]] if image in joined else []
    first = lonely[next(iter(further[owner].values()))]
    more = f", and {len(further) - 1} more images have such masks" if len(further) > 1 else ""
    problem = DataError(
        f"{first} looks like another mask of {images[owner]}, next to {masks[joined[owner]]}{more}"
        f". {_chosen(answers) or 'Remove it, or define the pairs by a CSV list (--pairs)'}; or add "
        "the image that it belongs to.",
        "several-masks",
        files,
        choices=answers,
    )
    left = [*(key for own in further.values() for key in own.values()), *(further.keys() - joined)]
    return dict.fromkeys(left, problem)


def _further(lonely: Files, matched: _Matched) -> dict[Key, dict[str, Key]]:
    """Files without a partner that may be masks of an image, by image and by ending."""
    images, masks, affixes, joined, _ = matched
    cores = {_cut(key, affixes[:2]): key for key in images}
    further: dict[Key, dict[str, Key]] = defaultdict(dict)
    for where, stem in lonely:
        rest = stem.removeprefix(affixes.mask_start)
        # "7" or "7_", if the images are named 7_rgb
        starts = (at for match in re.finditer(r"[\W_]", rest) for at in match.span())
        for start in sorted({*starts} - {len(rest)}, reverse=True):
            owner = cores.get((where, rest[:start]))
            # next to images, the longer name may be another image without a mask
            if owner and (owner in joined or (where, stem) in masks):
                further[owner][rest[start:]] = where, stem
                break
    known = {end for owner, own in further.items() if owner in joined for end in own}
    # a single one with an ending of its own is misspelt
    return {
        owner: own
        for owner, own in further.items()
        if owner in joined or len(own) > 1 or own.keys() <= known
    }


def _channels(alone: Iterable[Key], matched: _Matched) -> dict[Key, DataError]:
    """Errors for images with one file per channel, as nnU-Net has them: 7_0001.png."""
    images, masks, affixes, joined, _ = matched
    number = re.compile(r"_\d{4}$")
    if not number.fullmatch(affixes.image_end):
        return {}
    firsts = {number.sub("", stem): (where, stem) for where, stem in joined}
    files: dict[Key, list[Key]] = defaultdict(list)
    for where, stem in alone:
        first = firsts.get(number.sub("", stem)) if number.search(stem) else None
        if first is not None and first[0] == where:
            files[first].append((where, stem))
    found: dict[Key, DataError] = {}
    for first, others in files.items():
        paths, mask = [images[key] for key in (first, *others)], masks[joined[first]]
        problem = DataError(
            f"{first_five(paths)} are the channels of one image in separate files. Save them as "
            "one TIFF or .npy file with all channels, named like the mask. To use only the first: "
            f"--pairs '{f'{affixes.image_end}{paths[0].suffix}:'.join(matched.patterns(first))}"
            f"{mask.suffix}'.",
            "several-channels",
            paths,
        )
        found |= dict.fromkeys(others, problem)
    return found
