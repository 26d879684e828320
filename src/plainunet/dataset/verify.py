"""Find all problems with pairs that would stop training, before it begins.

Files are read, but only headers are decoded, so damage inside a file goes unnoticed here. The
doctor decodes pixels as well.
"""

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from plainunet.dataset.lists import Pair
from plainunet.errors import Error
from plainunet.formats.encoded import read_encoded
from plainunet.formats.images import image_shape
from plainunet.formats.masks import mask_size
from plainunet.formats.problems import DataError, as_problem
from plainunet.formats.sources import Window
from plainunet.reporter import Reporter, silent
from plainunet.system import work_ahead

_MOST_LISTED = 10
_Shape = tuple[int, int, int]


class _Header(NamedTuple):
    shape: _Shape | None
    problems: list[DataError]


def check_pairs(
    pairs: Sequence[Pair],
    reporter: Reporter = silent,
    known: Sequence[ValueError] = (),
    advice: str = "",
) -> list[_Shape]:
    """Check that every image and mask exists, is complete, and has the size of its partner.

    Grey and RGB images may be mixed, since grey is converted to RGB; other numbers of channels
    may not.

    Returns each image's height, width and channels. Raises a ValueError that lists up to ten
    problems, `known` ones first, and ends with `advice`.
    """
    reporter.stage("checking files", len(pairs))
    headers: list[_Header] = []
    for header in work_ahead(_read_headers, pairs):
        headers.append(header)
        reporter.advance(len(headers))
    problems = [*known, *(problem for header in headers for problem in header.problems)]
    problems += odd_channels(pairs, [header.shape for header in headers])
    if problems:
        more = len(problems) - _MOST_LISTED
        raise Error(
            f"{len(problems)} problem{'s' * (len(problems) > 1)} with the data:\n  "
            + "\n  ".join(map(str, problems[:_MOST_LISTED]))
            + (f"\n  and {more} more" if more > 0 else "")
            + (f"\n{advice}" if advice else "")
        )
    return [header.shape for header in headers if header.shape is not None]


def size_problem(pair: Pair, image: tuple[int, int], mask: tuple[int, int]) -> DataError:
    """The error for a mask whose size differs from its image's."""
    return DataError(
        f"{pair.mask} is {mask[1]}x{mask[0]} pixels, its image {pair.image} is "
        f"{image[1]}x{image[0]}. Save both at the same size.",
        "size-mismatch",
        [pair.image, pair.mask],
    )


def odd_channels(pairs: Sequence[Pair], shapes: Sequence[_Shape | None]) -> list[DataError]:
    """Errors for images with other channels than most; grey and RGB may be mixed."""
    # grey becomes RGB
    channels = [None if shape is None else 3 if shape[2] == 1 else shape[2] for shape in shapes]
    counts = Counter(each for each in channels if each is not None)
    if len(counts) < 2:
        return []
    usual = counts.most_common(1)[0][0]
    named = {3: "1 or 3"}
    return [
        DataError(
            f"{pair.image} has {named.get(each, each)} channels, most images have "
            f"{named.get(usual, usual)}. Save it like the others.",
            "odd-channels",
            [pair.image],
        )
        for pair, each in zip(pairs, channels, strict=True)
        if each is not None and each != usual
    ]


def _read_headers(pair: Pair) -> _Header:
    image, mask, problems = None, None, []
    try:
        if not isinstance(pair.image, Window):  # which would be read for each block
            read_encoded(pair.image)
        image = image_shape(pair.image)
    except (ValueError, FileNotFoundError) as error:
        problems.append(as_problem(error, pair.image))
    try:
        mask = mask_size(pair.mask)
    except (ValueError, FileNotFoundError) as error:
        problems.append(as_problem(error, pair.mask))
    if image is not None and mask is not None and image[:2] != mask:
        problems.append(size_problem(pair, image[:2], mask))
    return _Header(image, problems)
