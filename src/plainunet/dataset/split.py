"""Groups of pairs, and train, validation and test splits that do not divide them; `split.csv`."""

import csv
import difflib
import hashlib
import json
import math
import re
import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from heapq import heappop, heappush
from pathlib import Path
from unicodedata import normalize

from plainunet.dataset.layouts import PARTS as FOLDERS
from plainunet.dataset.lists import Pair
from plainunet.errors import Error
from plainunet.files import write_whole
from plainunet.formats.sources import Source, files_of, parse_image, parse_source, path_of

SPLIT_FILE = "split.csv"
"""Name of a split's file in a run folder or a data folder."""
_COLUMNS = ["image", "mask", "group", "part"]
PARTS = ("train", "val", "test")


def write_split(path: Path, pairs: Sequence[Pair], root: Path) -> None:
    """Write a split as CSV: image, mask, group, part; without the part if no pair has one.

    Paths are relative to `root`, the dataset's folder, or absolute outside of it.
    """
    with (
        write_whole(path) as whole,
        whole.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file,
    ):
        # with "\n", a "\r" in a name would not be quoted
        writer = csv.writer(file, lineterminator="\r\n")
        parted = any(pair.part for pair in pairs)
        writer.writerow(_COLUMNS if parted else _COLUMNS[:-1])
        for pair in pairs:
            if parted and pair.part is None:
                raise Error(f"{pair.image} is in no split. Split the pairs first.")
            row = [name_below(pair.image, root), name_below(pair.mask, root), pair.group]
            writer.writerow([*row, pair.part] if parted else row)


def read_split(path: Path, root: Path) -> list[Pair]:
    """Read the pairs that `write_split` wrote; their files need not exist."""
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist. Check the path of the split.")
    pairs = []
    with path.open(newline="", encoding="utf-8-sig", errors="surrogateescape") as file:
        rows = csv.reader(file)
        header = next(rows, [])
        if header != _COLUMNS:
            raise Error(
                f"{path} has the columns {', '.join(header) or '(none)'}; expected "
                f"{', '.join(_COLUMNS)}."
            )
        for row in rows:
            if len(row) != 4 or row[3] not in PARTS:
                raise Error(
                    f"{path}, line {rows.line_num}: expected image, mask, group and one of "
                    f"{', '.join(PARTS)}; found {', '.join(row) or 'an empty line'}."
                )
            image, mask = parse_image(root / row[0]), parse_source(root / row[1])
            pairs.append(Pair(image, mask, row[2], row[3]))
    if not pairs:
        raise Error(f"{path} lists no pairs. Write the split again.")
    return pairs


def name_below(source: Source, root: Path) -> str:
    """Return a source's path relative to `root`, or its absolute path outside of it."""
    path = path_of(source)
    if path.is_relative_to(root):
        return path.relative_to(root).as_posix()
    return path.absolute().as_posix()


def split_pairs(
    pairs: Sequence[Pair],
    fraction: float = 0.2,
    seed: int = 0,
    *,
    folds: int | None = None,
    fold: int | None = None,
    shares: Sequence[float] | None = None,
    held_out: Sequence[str] = (),
) -> list[Pair]:
    """Assign every pair to a split.

    Given splits are kept; if there is no validation split, some groups of the train split become
    validation. Groups are drawn by a hash of their names and the seed, so the order of `pairs`
    does not matter, and, without `folds` and `shares`, adding data reshuffles nothing.

    `fraction` of the images becomes validation, as closely as whole groups allow; or, for
    cross-validation, fold number `fold` of `folds`, whose sizes differ by at most the largest
    group. With `shares`, the foreground fraction of each image (NaN if all is ignored), the split
    is stratified: groups are sorted by their mean fraction, and every n-th becomes validation, or
    each fold gets one of every K. `held_out` names the groups instead of drawing them.
    """
    _check_pairs(pairs, fraction)
    _check_folds(folds, fold)
    given = {pair.part for pair in pairs}
    if "val" in given:
        if flag := f"--folds {folds}" if folds is not None else "--held-out" if held_out else None:
            example = next(pair.image for pair in pairs if pair.part == "val")
            raise Error(
                f"{flag}: the folder has its own split ({example} is in its validation split). "
                f"Leave out {flag}, or put all images into one folder."
            )
        return list(pairs)
    sizes = Counter(pair.group for pair in pairs if pair.part != "test")
    if folds is not None and folds > len(sizes):
        raise Error(
            f"--folds is {folds}, but the images form only {len(sizes)} groups, and groups are "
            "never divided. Give fewer folds, or another pattern: --group-by '.+' makes each "
            "image its own group."
        )
    _check_named(held_out, sizes)
    drawn = {group: _draw(seed, f":{group}") for group in sizes}
    means = None if shares is None else _mean_shares(pairs, shares)
    if held_out:
        taken = set(held_out)
    elif folds is not None:
        dealt = _deal_groups(sizes, drawn, means, folds)
        taken = {group for group, number in dealt.items() if number == fold}
    else:
        taken = _choose_groups(sizes, drawn, means, fraction, seed)
    return [
        pair
        if pair.part == "test"
        else replace(pair, part="val" if pair.group in taken else "train")
        for pair in pairs
    ]


def _check_pairs(pairs: Sequence[Pair], fraction: float) -> None:
    if not 0 < fraction < 1:
        raise Error(f"The validation fraction is {fraction}; it must be between 0 and 1.")
    if not pairs:
        raise Error("There are no pairs to split. Give at least two.")
    given = {pair.part for pair in pairs}
    if None in given and len(given) > 1:
        example = next(pair.image for pair in pairs if pair.part is None)
        raise Error(f"{example} is in no split, but other images are. Assign it to one.")
    if None not in given and "train" not in given:
        raise Error("No image is in the train split. Move some into train/.")


def _check_folds(folds: int | None, fold: int | None) -> None:
    if folds is None and fold is None:
        return
    if folds is None:
        raise Error(f"--fold is {fold}, but --folds is missing. Give the number of folds.")
    if folds < 2:
        raise Error(f"folds is {folds}; cross-validation needs at least 2.")
    if fold is None:
        raise Error(f"--folds is {folds}, but --fold is missing. Choose one from 0 to {folds - 1}.")
    if not 0 <= fold < folds:
        raise Error(
            f"--fold is {fold}, but --folds is {folds}. Give a --fold from 0 to {folds - 1}."
        )


def _check_named(held_out: Sequence[str], groups: Iterable[str]) -> None:
    known = sorted(groups)
    for name in held_out:
        if name not in known:
            parts = [each for each in known if each and (each in name or name in each)]
            near = parts[:5] or difflib.get_close_matches(name, known, 5) or known[:5]
            raise Error(
                f"--held-out {name}: no group of images has this name. Give names such as "
                f"{', '.join(near)}, or group the images by another pattern: --group-by."
            )
    if held_out and set(known) == set(held_out):
        raise Error(
            "--held-out names all groups of images, so none is left for training. Name fewer."
        )


def _draw(seed: int, name: str) -> bytes:
    return hashlib.sha256(f"{seed}{name}".encode(errors="replace")).digest()


def _mean_shares(pairs: Sequence[Pair], shares: Sequence[float]) -> dict[str, float]:
    """Each group's mean foreground fraction; infinite if all are NaN, so that it sorts last."""
    if len(shares) != len(pairs):
        raise Error(
            f"There are {len(shares)} foreground shares for {len(pairs)} pairs. Give one per pair."
        )
    known: dict[str, list[float]] = defaultdict(list)
    for pair, share in zip(pairs, shares, strict=True):
        if not (math.isnan(share) or 0 <= share <= 1):
            raise Error(
                f"The foreground share of {pair.mask} is {share}; it must be from 0 to 1, or NaN."
            )
        if pair.part != "test":
            known[pair.group] += [] if math.isnan(share) else [share]
    # fsum: the same for any order of the pairs
    return {
        group: math.fsum(each) / len(each) if each else math.inf for group, each in known.items()
    }


def _deal_groups(
    sizes: Mapping[str, int],
    drawn: Mapping[str, bytes],
    means: Mapping[str, float] | None,
    folds: int,
) -> dict[str, int]:
    """Each group's fold: in every block, larger groups go to emptier folds."""

    def largest_first(group: str) -> tuple[int, bytes]:
        return -sizes[group], drawn[group]

    if means is None:
        order, block = sorted(sizes, key=largest_first), 1
    else:
        order, block = sorted(sizes, key=lambda group: (means[group], drawn[group])), folds
    emptiest_first = [(0, number) for number in range(folds)]
    dealt = {}
    for first in range(0, len(order), block):
        groups = sorted(order[first : first + block], key=largest_first)
        takers = [heappop(emptiest_first) for _ in groups]
        for group, (count, number) in zip(groups, takers, strict=True):
            dealt[group] = number
            heappush(emptiest_first, (count + sizes[group], number))
    return dealt


def _choose_groups(
    sizes: Mapping[str, int],
    drawn: Mapping[str, bytes],
    means: Mapping[str, float] | None,
    fraction: float,
    seed: int,
) -> set[str]:
    """The validation groups: the first that are drawn, or every n-th by foreground fraction."""
    if len(sizes) < 2:
        raise Error(
            f"All images are in one group ({next(iter(sizes), 'none')!r}), and groups are never "
            "divided between training and validation (data leakage). Give another pattern: "
            "--group-by '.+' makes each image its own group."
        )
    order = sorted(sizes, key=drawn.__getitem__)
    if means is None:
        wanted, step = fraction * sum(sizes.values()), 0.0
    else:
        order.sort(key=means.__getitem__)
        # systematic sampling: the target grows along the order, from a random start
        start = int.from_bytes(_draw(seed, "")[:6]) / 2**48 - 0.5
        wanted, step = start * sum(sizes.values()) / len(sizes), fraction
    taken: set[str] = set()
    count = 0
    for group in order:
        wanted += step * sizes[group]
        nearer = abs(count + sizes[group] - wanted) < abs(count - wanted)
        if nearer and len(taken) < len(sizes) - 1:
            taken.add(group)
            count += sizes[group]
    return taken or {min(order, key=sizes.__getitem__)}


def shared_groups(pairs: Sequence[Pair]) -> list[str]:
    """List the groups that are in several splits: data leakage."""
    parts = Counter(group for group, _ in {(pair.group, pair.part) for pair in pairs})
    return sorted(group for group, count in parts.items() if count > 1)


# augmented copies of an image: Roboflow's, and others by their endings
_COPY = re.compile(
    r"(?i)(.+?)(\.rf\.[0-9a-z]+|[_-](aug(mented)?|[hv]?flip|flipped|mirror(ed)?|rot(ated?)?)[_-]?\d*)+"
)
_AUGUST = re.compile(r"(?i)(.+?)[_-]aug[_-]?\d*")
_MONTH = re.compile(r"(?i).+[_-](jan|feb|mar|apr|may|jun|jul|sep|oct|nov|dec)[a-z]*[_-]?\d*")


def group_pairs(pairs: Sequence[Pair], pattern: str | None) -> list[Pair]:
    """Group pairs by a regular expression on the image's stem; without one, augmented copies.

    Raises:
        Error: The pattern is no regular expression, takes too long, or does not match an image.
    """
    if pattern is not None:
        return _match(pattern, pairs)
    stems = {each.group for each in pairs}
    originals = {found[1] for stem in stems if (found := _AUGUST.fullmatch(stem))}
    # "aug" is August beside other months, or if it follows one beginning that is no image itself
    is_month = any(_MONTH.fullmatch(stem) for stem in stems) or (
        len(originals) == 1 and not originals & stems
    )
    return [replace(each, group=_original(each, is_month=is_month)) for each in pairs]


def _original(pair: Pair, *, is_month: bool) -> str:
    """The group of the original of an augmented copy, whose copies may lie in several splits."""
    copy = _COPY.fullmatch(pair.group)
    if copy is None or (is_month and _AUGUST.fullmatch(pair.group)):
        return pair.group
    if pair.part is None:
        return copy[1]
    return "/".join(name for name in copy[1].split("/") if name.lower() not in FOLDERS)


_MATCH = """
import json, re, signal, sys
pattern, names = json.load(sys.stdin)
if hasattr(signal, "setitimer"):  # counts the processor's time; not on Windows
    signal.setitimer(signal.ITIMER_VIRTUAL, float(sys.argv[1]))
found = map(re.compile(pattern).search, names)
json.dump([match and (match[1 if match.re.groups else 0] or "") for match in found], sys.stdout)
"""
_SECONDS, _BUSY = 1.0, 20
"""Processor time to match [s], and how much longer that may take while others use it."""


def _match(pattern: str, pairs: Sequence[Pair]) -> list[Pair]:
    """Group pairs by the match of a regular expression in the image's stem.

    A pattern with "/" is matched against folders and stem: seq1/0001.
    """
    try:
        re.compile(pattern)
    except re.error as error:
        raise Error(
            f"The group pattern {pattern!r} is not a regular expression: {error}. "
            "For example, '([^_]+)_' is the text before the first '_'."
        ) from None
    by_path = "/" in pattern
    stems = [
        normalize("NFC", pair.group if by_path else files_of(pair.image)[0].stem) for pair in pairs
    ]
    seconds = _SECONDS + len(stems) / 10_000
    try:
        # in its own process, which can be killed: some expressions take exponential time
        done = subprocess.run(
            [sys.executable, "-ISc", _MATCH, str(seconds)],
            input=json.dumps([pattern, stems]),
            capture_output=True,
            text=True,
            check=True,
            timeout=seconds * _BUSY,
        )
    except (subprocess.TimeoutExpired, subprocess.CalledProcessError):
        raise Error(
            f"The group pattern {pattern!r} takes too long for {len(stems)} names. Write it "
            "without nested repetitions, as in '([^_]+)_'."
        ) from None
    groups = json.loads(done.stdout)
    for pair, stem, group in zip(pairs, stems, groups, strict=True):
        if group is None:
            raise Error(
                f"The group pattern {pattern!r} matches nothing in '{stem}' ({pair.image}). "
                "Change the pattern so that it matches every image's name."
            )
    return [replace(pair, group=group) for pair, group in zip(pairs, groups, strict=True)]
