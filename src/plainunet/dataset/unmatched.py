"""Report images and masks without a partner, and what their names suggest."""

import difflib
import os
import re
from bisect import bisect
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import NamedTuple

from plainunet.dataset.layouts import Files, Key
from plainunet.formats.image_files import open_encoded
from plainunet.formats.images import fitting_suffix
from plainunet.formats.masks import holds_one_class
from plainunet.formats.problems import Change, DataError, first_five
from plainunet.reporter import Reporter

DEFINE_PAIRS = (
    "Add the partner, remove the file, or define the pairs: --pairs 'images/*.jpg:masks/*_m.png' "
    "(one file per class: 'masks/*_{road,car}.png') or a CSV list with the columns image,mask: "
    "--pairs list.csv"
)
_MOST_COMPARED = 50
_ALIKE = 0.7


_MOST_ENDS = 20  # more are hardly classes
Answers = dict[str, dict[str, object]]  # meaning, and flags


class Affixes(NamedTuple):
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


class Matched(NamedTuple):
    """Images and masks, and which of them belong together by their names."""

    images: Files
    masks: Files
    affixes: Affixes
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
        core = (cut(image, self.affixes[:2]) or image)[1]
        rest = mask[1].removeprefix(self.affixes.mask_start)
        return rest.removeprefix(core) if rest.startswith(core) else ""

    def answers(self, image: Key, masks: Mapping[str, Path]) -> Answers:
        """Meanings of several masks of each image, by their endings, and the flags of each."""
        if not all(map(holds_one_class, masks.values())):
            return {}
        start, ends = self.start(image), [*masks]
        shared, suffix = min(ends), masks[ends[0]].suffix
        for end in ends:
            shared = common_start(shared, end)
        words = re.match(r".*[\W_]|", shared, re.S)
        same = words[0] if words else ""
        found: Answers = {}
        names = [end[len(same) :] for end in ends]
        if len(ends) <= _MOST_ENDS and all(re.fullmatch(r"[^{},*:]+", name) for name in names):
            found["Each is a class"] = {"pairs": f"{start}{same}{{{','.join(names)}}}{suffix}"}
        tail = common_affixes(("", end) for end in ends)[1]
        tail = tail if min(map(len, ends)) > len(shared + tail) else ""
        # "a_b_c" is "a_b" and "c" to '*_*', and "a" and "b" to '*_*_c'
        if shared and not any(shared in end[len(shared) : len(end) - len(tail)] for end in ends):
            found["All are objects of one class"] = {"pairs": f"{start}{shared}*{tail}{suffix}"}
        return found

    def only(self, image: Key, masks: Mapping[str, Path]) -> Answers:
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


def cut(key: Key, affixes: Sequence[str]) -> Key | None:
    """A key without affixes at the start and end of its stem; None if it lacks them."""
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


def require_partners(matched: Matched, reporter: Reporter) -> None:
    """Report images without a mask and masks without an image."""
    images, masks, affixes, joined, _ = matched
    partners = set(joined.values())
    alone = [key for key in images if key not in joined]
    lonely = [key for key in masks if key not in partners]
    if not alone and not lonely:
        return
    named = "same name" if affixes == Affixes() else affixes

    def mask_of(image: Key) -> str:
        return f"{affixes.mask_start}{(cut(image, affixes[:2]) or image)[1]}{affixes.mask_end}"

    def image_of(mask: Key) -> str:
        return f"{affixes.image_start}{(cut(mask, affixes[2:]) or mask)[1]}{affixes.image_end}"

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
    several = further_masks(maybe, matched)
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
            f"{'; '.join(problems)}. {DEFINE_PAIRS}.{leave}",
            each[0].code,
            [file for problem in each for file in problem.files],
            # one error if the names have nothing in common
            parts=each if joined or moves else (),
        )
    )


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
    words = Counter(word for _, stem in chain(files, partners) for word in words_of(stem))
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
    differing = words_of(name) ^ words_of(wanted)
    if differing and all(words[word] > 1 for word in differing):
        return False
    same_numbers = re.findall(r"\d+", name) == re.findall(r"\d+", wanted)
    return same_numbers and difflib.SequenceMatcher(None, name, wanted).ratio() >= _ALIKE


def words_of(name: str) -> set[str]:
    """The words of a name, without its numbers."""
    return {word for word in re.split(r"[\W_]+", name) if has_letters(word)}


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


def list_answers(answers: Answers) -> str:
    """The answers of a question, in one sentence."""
    listed = "; ".join(
        f"{meaning}: --pairs '{flags['pairs']}'" for meaning, flags in answers.items()
    )
    return f"Choose. {listed}" if listed else ""


def has_letters(affix: str) -> bool:
    """Whether a part of a name is more than digits and punctuation."""
    return any(char.isalpha() for char in affix)


def common_start(one: str, other: str) -> str:
    """What two names begin with."""
    same = zip(one, other, strict=False)
    return one[: next((at for at, (a, b) in enumerate(same) if a != b), min(len(one), len(other)))]


def common_affixes(keys: Iterable[Key]) -> tuple[str, str]:
    """What all stems begin and end with, as whole words."""
    stems = [stem for _, stem in keys]
    turned = [stem[::-1] for stem in stems]
    # the common prefix of the first and last in sorted order is common to all
    start = common_start(min(stems), max(stems))
    end = common_start(min(turned), max(turned))[::-1]
    # whole words only: "img_0" is "img_"
    before, after = re.match(r".*[\W_]", start, re.S), re.search(r"[\W_].*", end, re.S)
    return before[0] if before else start.rstrip("0123456789"), after[0] if after else ""


def further_masks(lonely: Files, matched: Matched) -> dict[Key, DataError]:
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
        f". {list_answers(answers) or 'Remove it, or define the pairs by a CSV list (--pairs)'}; "
        "or add the image that it belongs to.",
        "several-masks",
        files,
        choices=answers,
    )
    left = [*(key for own in further.values() for key in own.values()), *(further.keys() - joined)]
    return dict.fromkeys(left, problem)


def _further(lonely: Files, matched: Matched) -> dict[Key, dict[str, Key]]:
    """Files without a partner that may be masks of an image, by image and by ending."""
    images, masks, affixes, joined, _ = matched
    cores = {cut(key, affixes[:2]): key for key in images}
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


def _channels(alone: Iterable[Key], matched: Matched) -> dict[Key, DataError]:
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
