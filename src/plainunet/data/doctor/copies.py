"""Pictures that are there twice, and what that does to a split.

In: pairs, with a digest and a hash of each picture. Out: findings, and the pairs with copies in
one group, so that a split cannot part them. Limitations: a picture cut, turned or mirrored is
not recognised.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from unicodedata import normalize

from plainunet.data.census import MaskCounts
from plainunet.data.doctor.duplicates import Alike, find_alike
from plainunet.data.doctor.findings import Findings
from plainunet.data.doctor.survey import Look
from plainunet.data.pairing import Pair
from plainunet.data.places import stem_of

_GROUPS = ("^([^_-]+)[_-]", r"^(.*\d)[A-Za-z]$", "^(.+)[_-]")


def join_copies(
    pairs: Sequence[Pair],
    looks: Sequence[Look | None],
    counts: Sequence[MaskCounts | None],
    findings: Findings,
) -> list[Pair]:
    """Tell of copies, and of groups on both sides of a split.

    Args:
        pairs: The pairs.
        looks: What the picture of each is.
        counts: What the mask of each holds.
        findings: Where to note it.

    Returns:
        The pairs, copies in the group of the first where the folder gives no split.
    """
    digests = [look.digest if look else str(index) for index, look in enumerate(looks)]
    hashes = [look.hash if look else b"" for look in looks]
    alike = find_alike(digests, hashes)
    group_of = {pair.group: pair.group for pair in pairs}

    def root(group: str) -> str:
        while group_of[group] != group:
            group = group_of[group]
        return group

    for each in alike:
        _tell_copy(pairs, counts, each, findings)
        one, other = (root(pairs[index].group) for index in (each.first, each.second))
        group_of[other] = one
    _tell_same_masks(pairs, counts, alike, findings)
    _tell_shared_groups(pairs, findings)
    _tell_possible_groups(pairs, findings)
    if any(pair.part for pair in pairs):
        return list(pairs)
    return [replace(pair, group=root(pair.group)) for pair in pairs]


def _tell_copy(
    pairs: Sequence[Pair],
    counts: Sequence[MaskCounts | None],
    alike: Alike,
    findings: Findings,
) -> None:
    one, other = pairs[alike.first], pairs[alike.second]
    what = "is the same file as" if alike.exact else "shows the same as"
    code = "duplicate" if alike.exact else "near-duplicate"
    masks = [counts[index] for index in (alike.first, alike.second)]
    more = ""
    if all(masks) and masks[0] and masks[1] and masks[0].digest != masks[1].digest:
        more = " Their masks differ."
    if one.part != other.part:
        # the copy that is to be left out comes first
        if other.part == "train":
            one, other = other, one
        findings.add(
            f"{code}-across-parts",
            f"{one.image} ({one.part}) {what} {other.image} ({other.part}), so scores will look "
            f"better than they are.{more}",
            [one.image, other.image],
        )
    elif one.group != other.group:
        cure = "--write" if one.part is None else ""
        findings.add(
            f"{code}-across-groups" if one.part is None else code,
            f"{other.image} {what} {one.image}.{more}"
            + (" A split may put them on different sides." if one.part is None else ""),
            [other.image, one.image],
            cure,
        )
    else:
        findings.add(code, f"{other.image} {what} {one.image}.{more}", [other.image, one.image])


def _tell_same_masks(
    pairs: Sequence[Pair],
    counts: Sequence[MaskCounts | None],
    alike: Sequence[Alike],
    findings: Findings,
) -> None:
    copies = {index for each in alike for index in (each.first, each.second)}
    masks: dict[str, list[Path]] = defaultdict(list)
    for index, count in enumerate(counts):
        # empty masks are all the same, and have no digest
        if count and count.digest and index not in copies:
            masks[count.digest].append(pairs[index].mask)
    for files in masks.values():
        if len(files) > 1:
            findings.add(
                "same-mask",
                f"{files[1]} is the same mask as {files[0]}, pixel for pixel, and their pictures "
                "differ.",
                files,
            )


def _tell_shared_groups(pairs: Sequence[Pair], findings: Findings) -> None:
    parts: dict[str, Counter[str]] = defaultdict(Counter)
    for pair in pairs:
        if pair.part:
            parts[pair.group][pair.part] += 1
    shared = [group for group, counts in parts.items() if len(counts) > 1]
    for group in shared:
        said = " and ".join(f"{count} in {part}" for part, count in parts[group].items())
        findings.add(
            "group-across-parts",
            f"The group '{group}' has pictures on both sides of the split: {said}. Scores will "
            "look better than they are.",
            [pair.image for pair in pairs if pair.group == group],
        )


def _tell_possible_groups(pairs: Sequence[Pair], findings: Findings) -> None:
    """Tell of names like tile1_a, tile1_b: do these belong together?"""
    if any(pair.part for pair in pairs) or len({pair.group for pair in pairs}) < len(pairs):
        return
    stems = [normalize("NFC", stem_of(pair.image)) for pair in pairs]
    for pattern in _GROUPS:
        matches = [re.search(pattern, stem) for stem in stems]
        groups = Counter(match[1] for match in matches if match)
        several = sum(count for count in groups.values() if count > 1)
        if (
            all(matches)
            and len(groups) > 2
            and several >= 0.7 * len(pairs)
            and max(groups.values()) <= len(pairs) / 2
        ):
            name, count = groups.most_common(1)[0]
            findings.add(
                "possible-groups",
                f"The names make up {len(groups)} groups, such as {count} of '{name}'. If those "
                "belong together (views of one thing, parts of one picture), a split must not part "
                f"them: --group-by '{pattern}'.",
                [],
                f"--group-by '{pattern}'",
            )
            return
