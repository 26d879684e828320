"""Pairs on disk -> every problem that would stop a training run, found before it begins.

In: pairs. Out: the pictures' sizes, or one error that lists what must be mended. Files are
read and their headers decoded; pixels are not, so damage in the middle of a file goes unseen
until it is read.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from os import cpu_count
from typing import NamedTuple

from plainunet.data.codecs.encoded import read_encoded
from plainunet.data.encodings.stored import mask_size
from plainunet.data.images import image_shape
from plainunet.data.pairing import Pair

_MOST_LISTED = 10


class _Finding(NamedTuple):
    shape: tuple[int, int, int] | None
    problems: list[str]


def check_pairs(
    pairs: Sequence[Pair], on_progress: Callable[[int, int], None] | None = None
) -> list[tuple[int, int]]:
    """See that every picture and mask is there, whole, and as large as its partner.

    Grey and RGB pictures may be mixed, since grey can be shown as RGB; other numbers of
    channels may not.

    Args:
        pairs: The pairs.
        on_progress: Called after each pair with the number done and the number of all.

    Returns:
        Height and width of each picture.

    Raises:
        ValueError: Something is wrong; the message lists up to ten problems.
    """
    findings: list[_Finding] = []
    with ThreadPoolExecutor(min(8, cpu_count() or 1)) as pool:
        for finding in pool.map(_check_pair, pairs):
            findings.append(finding)
            if on_progress is not None:
                on_progress(len(findings), len(pairs))
    problems = [problem for finding in findings for problem in finding.problems]
    problems += _odd_channels(pairs, findings)
    if problems:
        more = len(problems) - _MOST_LISTED
        raise ValueError(
            f"{len(problems)} problem{'s' * (len(problems) > 1)} with the data:\n  "
            + "\n  ".join(problems[:_MOST_LISTED])
            + (f"\n  and {more} more" if more > 0 else "")
        )
    return [finding.shape[:2] for finding in findings if finding.shape is not None]


def _check_pair(pair: Pair) -> _Finding:
    image, mask, problems = None, None, []
    try:
        read_encoded(pair.image)
        image = image_shape(pair.image)
    except (ValueError, FileNotFoundError) as error:
        problems.append(str(error))
    try:
        mask = mask_size(pair.mask)
    except (ValueError, FileNotFoundError) as error:
        problems.append(str(error))
    if image is not None and mask is not None and image[:2] != mask:
        problems.append(
            f"{pair.mask} is {mask[1]}x{mask[0]} pixels, its picture {pair.image} is "
            f"{image[1]}x{image[0]}. Make the mask as large as its picture."
        )
    return _Finding(image, problems)


def _odd_channels(pairs: Sequence[Pair], findings: Sequence[_Finding]) -> list[str]:
    # where both occur, grey is shown as RGB
    channels = [
        None if finding.shape is None else 3 if finding.shape[2] == 1 else finding.shape[2]
        for finding in findings
    ]
    counts = Counter(each for each in channels if each is not None)
    if len(counts) < 2:
        return []
    usual = counts.most_common(1)[0][0]
    named = {3: "1 or 3"}
    return [
        f"{pair.image} has {named.get(each, each)} channels, most of the pictures have "
        f"{named.get(usual, usual)}. Save it like the others."
        for pair, each in zip(pairs, channels, strict=True)
        if each is not None and each != usual
    ]
