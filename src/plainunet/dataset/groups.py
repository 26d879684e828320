"""Groups of images, which stay in one split: by a pattern, else copies with their original."""

import json
import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from unicodedata import normalize

from plainunet.dataset.layouts import PARTS
from plainunet.dataset.lists import Pair
from plainunet.errors import Error
from plainunet.formats.sources import files_of

# augmented copies of an image: Roboflow's, and others by their endings
_COPY = re.compile(
    r"(?i)(.+?)(\.rf\.[0-9a-z]+|[_-](aug(mented)?|[hv]?flip|flipped|mirror(ed)?|rot(ated?)?)[_-]?\d*)+"
)


def group_pairs(pairs: Sequence[Pair], pattern: str | None) -> list[Pair]:
    """Group pairs by a regular expression on the image's stem; without one, augmented copies.

    Raises:
        Error: The pattern is no regular expression, takes too long, or does not match an image.
    """
    if pattern is not None:
        return _match(pattern, pairs)
    return [replace(each, group=_original(each)) for each in pairs]


def _original(pair: Pair) -> str:
    """The group of the original of an augmented copy, whose copies may lie in several splits."""
    copy = _COPY.fullmatch(pair.group)
    if copy is None:
        return pair.group
    if pair.part is None:
        return copy[1]
    return "/".join(name for name in copy[1].split("/") if name.lower() not in PARTS)


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
