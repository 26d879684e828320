"""Names of pictures and names of masks -> which belong together.

In: files by folder and stem. Out: each picture's mask. The stems of two partners are equal, or
become equal once a beginning or an ending is taken off that all pictures or all masks share
(`1` and `1_mask`, `mask_1` and `1`, `1_img` and `1_mask`). A number is never cut in two. What
has no partner is named, with what is named most like it.
"""

import re
from bisect import bisect
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from plainunet.data.folders.partners import Files, Key, tell_lonely
from plainunet.data.problems import OnProblem

_SAMPLE = 2000
_WORD = r"(?i)(?<![^\W\d_])(?:{})(?![^\W\d_])"
_MASK_WORD = re.compile(
    _WORD.format("masks?|labels?|gt|seg|segmentation|annot|annotations?|ground[ _-]?truth")
)
_IMAGES = "images?|imgs?|volumes?|sat|rgb|photos?|pictures?|orig|original|raw"
_IMAGE_WORD = re.compile(_WORD.format(_IMAGES))


class _Affixes(NamedTuple):
    """What is taken off a stem before it is compared."""

    image_start: str = ""
    image_end: str = ""
    mask_start: str = ""
    mask_end: str = ""

    def __str__(self) -> str:
        """How a mask is named after its picture."""
        sides = []
        for mask, image in (
            (self.mask_start, self.image_start),
            (self.mask_end, self.image_end),
        ):
            if mask and image:
                sides.append(f"'{mask}' where the picture has '{image}'")
            elif image:
                sides.append(f"the picture's name without '{image}'")
        if sides:
            return ", ".join(sides)
        if self.mask_start:
            return f"'{self.mask_start}', then the picture's name"
        return f"the picture's name, then '{self.mask_end}'" if self.mask_end else "named like it"


def match_names(
    images: Files,
    masks: Files,
    as_they_are: bool = False,
    skip_unlabelled: bool = False,
    on_problem: OnProblem | None = None,
) -> dict[Key, Key]:
    """Join each picture with its mask.

    Args:
        images: The pictures.
        masks: The masks.
        as_they_are: Whether only equal stems are partners.
        skip_unlabelled: Whether pictures without a mask are left out.
        on_problem: Told of each file without a partner, which is left out then.

    Returns:
        The masks' keys by the pictures' keys, in the pictures' order.

    Raises:
        DataError: A picture has no mask, or a mask no picture, and there is nobody to be told.
    """
    affixes = _Affixes()
    if as_they_are:
        joined = _join(images, masks, affixes)
    else:
        affixes, joined = _best(images, masks)
    if not as_they_are and not len(joined) == len(images) == len(masks):
        # "IMG_1.JPG" and "img_1.png"
        small_images, small_masks = _small(images), _small(masks)
        if len(small_images) == len(images) and len(small_masks) == len(masks):
            _, small = _best(small_images, small_masks)
            if len(small) == len(images) == len(masks):
                joined = {small_images[key]: small_masks[mask] for key, mask in small.items()}
    if skip_unlabelled and joined:
        images = {key: path for key, path in images.items() if key in joined}
    _require_all(images, masks, affixes, joined, on_problem)
    return {key: joined[key] for key in images if key in joined}


def split_names(files: Files) -> tuple[dict[Key, Path], dict[Key, Path]]:
    """Tell pictures and masks apart that lie in one folder.

    Args:
        files: The files.

    Returns:
        The pictures and the masks; no masks if the names of most files have no partner.
    """
    best: tuple[int, set[Key]] = (0, set())
    for affixes in _one_sided(files, files, lambda start, end: _Affixes("", "", start, end)):
        longer = {key for key in files if _cut(key, affixes[2:]) in files}
        shorter = files.keys() - longer
        # "1" and "1_rgb": here the picture has the longer name
        is_image = _IMAGE_WORD.search(affixes.mask_start or affixes.mask_end)
        joined = len(_join(shorter, longer, affixes))
        best = max(best, (joined, shorter if is_image else longer), key=lambda each: each[0])
        if best[0] * 2 == len(files):
            break
    if best[0] * 2 < len(files):
        named = {key for key in files if _MASK_WORD.search(key[1])}
        joined = len(_best({k: files[k] for k in files if k not in named}, _of(files, named))[1])
        best = max(best, (joined, named), key=lambda each: each[0])
    if best[0] * 4 < len(files):
        return dict(files), {}
    return {key: files[key] for key in files if key not in best[1]}, _of(files, best[1])


def _of(files: Files, keys: Iterable[Key]) -> dict[Key, Path]:
    chosen = set(keys)
    return {key: path for key, path in files.items() if key in chosen}


def _small(files: Files) -> dict[Key, Key]:
    return {(where.casefold(), stem.casefold()): (where, stem) for where, stem in files}


def _cut(key: Key, affixes: Sequence[str]) -> Key | None:
    start, end = affixes
    if not start and not end:
        return key
    where, stem = key
    core = stem[len(start) : len(stem) - len(end)]
    if not core or not stem.startswith(start) or not stem.endswith(end):
        return None
    if end and core[-1].isdigit() and end[0].isdigit():
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
    yield from _one_sided(images, masks, lambda start, end: _Affixes("", "", start, end))
    yield from _one_sided(masks, images, lambda start, end: _Affixes(start, end, "", ""))
    for image, mask in _two_sided(images, masks):
        yield _Affixes("", image, "", mask)
    for image, mask in _two_sided(
        [(where, stem[::-1]) for where, stem in images],
        [(where, stem[::-1]) for where, stem in masks],
    ):
        yield _Affixes(image[::-1], "", mask[::-1], "")
    # "img_1" and "1_mask"
    if len(images) > 1 and len(masks) > 1:
        ours, theirs = _shared(images), _shared(masks)
        for affixes in (
            _Affixes(ours[0], "", "", theirs[1]),
            _Affixes("", ours[1], theirs[0], ""),
            _Affixes(*ours, *theirs),
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
    # in sorted order, what begins most like a name stands beside it
    votes: Counter[tuple[str, str]] = Counter()
    order = sorted(images)
    for key in _sample(sorted(masks)):
        at = bisect(order, key)
        for other in order[max(0, at - 1) : at + 1]:
            if other[0] == key[0]:
                same = len(_beginning(other[1], key[1]))
                ends = other[1][same:], key[1][same:]
                # "1_01" and "1_02" are two of a kind, not picture and mask
                if same and all(_worded(end) for end in ends):
                    votes[ends] += 1
    # one pair alone shows what pairs have in common only by its words: -volume and -labels
    return [
        (image, mask)
        for image, mask in _most(votes)
        if votes[image, mask] > 1 or (_IMAGE_WORD.search(image) and _MASK_WORD.search(mask))
    ]


def _most(votes: Counter[tuple[str, str]]) -> list[tuple[str, str]]:
    # with equal votes the shorter: "10_mask" is also "1" followed by "0_mask"
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
    # what the first and the last in order share, all between them share
    start = _beginning(min(stems), max(stems))
    end = _beginning(min(turned), max(turned))[::-1]
    # whole words only: "img_0" is "img_"
    before, after = re.match(r".*[\W_]", start, re.S), re.search(r"[\W_].*", end, re.S)
    return before[0] if before else start.rstrip("0123456789"), after[0] if after else ""


def _require_all(
    images: Files,
    masks: Files,
    affixes: _Affixes,
    joined: Mapping[Key, Key],
    on_problem: OnProblem | None,
) -> None:
    partners = set(joined.values())
    named = "named like the picture" if affixes == _Affixes() else affixes

    def stem_of(key: Key, own: Sequence[str], other: Sequence[str]) -> str:
        core = (_cut(key, own) or key)[1]
        return f"{other[0]}{core}{other[1]}"

    tell_lonely(
        [key for key in images if key not in joined],
        images,
        [key for key in masks if key not in partners],
        masks,
        named,
        (
            lambda key: stem_of(key, affixes[:2], affixes[2:]),
            lambda key: stem_of(key, affixes[2:], affixes[:2]),
        ),
        on_problem,
    )
