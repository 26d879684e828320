"""Run-length codes of masks.

In: which pixels belong to something. Out: the runs of them, as numbers, or as Kaggle's
competitions take them: "start length start length ...", counted from 1, row by row (Carvana) or
column by column (Data Science Bowl 2018 and most others).
"""

import numpy as np
from numpy.typing import NDArray


def find_runs(pixels: NDArray[np.bool_], *, by_columns: bool, first: int = 0) -> NDArray[np.int64]:
    """Find the runs of pixels.

    Args:
        pixels: [H, W] bool.
        by_columns: Whether pixels are counted column by column, from top to bottom, and not row
            by row, from left to right.
        first: Number of the first pixel.

    Returns:
        [n, 2] int64, start and length of each run, ascending.
    """
    line = pixels.ravel(order="F" if by_columns else "C")
    # beyond both ends there is nothing, so that a run may begin or end there
    edges = np.flatnonzero(np.diff(line, prepend=False, append=False)).reshape(-1, 2)
    return np.stack([edges[:, 0] + first, edges[:, 1] - edges[:, 0]], axis=1)


def write_runs(runs: NDArray[np.int64]) -> str:
    """Write runs as Kaggle takes them.

    Args:
        runs: [n, 2] int64, as by `find_runs`, counted from 0.

    Returns:
        Start, counted from 1, and length of each run with spaces between; "" where there is none.
    """
    return " ".join(f"{start + 1} {length}" for start, length in runs.tolist())


def coco_counts(runs: NDArray[np.int64], pixels: int) -> list[int]:
    """Write runs as COCO's uncompressed codes do.

    Args:
        runs: [n, 2] int64, by columns, counted from 0.
        pixels: Of the whole picture.

    Returns:
        Lengths of pixels without and with the object in turn, without first.
    """
    edges = np.concatenate([[0], np.stack([runs[:, 0], runs.sum(axis=1)], axis=1).ravel()])
    lengths: list[int] = np.diff(edges, append=pixels).tolist()
    return lengths if lengths[-1] else lengths[:-1]
