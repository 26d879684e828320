"""Decoded, reduced samples in memory-mapped files, so that each picture is decoded once.

An entry is a folder with `images.npy`, `shares.npy` and, where samples have a third part,
`objects.npy`. It is named by a digest of everything that went into it (files with size and time,
working size, classes): a changed picture makes a new entry. It appears whole or not at all, any
number of processes may read it, and the oldest entries go when all together would exceed `LIMIT`.
"""

import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

_ABANDONED = 24 * 3600  # seconds
LIMIT = 8 * 2**30
"""Bytes that the cache may take on disk."""

Sample = tuple[NDArray[Any], ...]
"""Image [H, W, C] uint8 or float32, shares [H, W, K] uint8, and, where they were asked for, the
objects' labels [H, W, 1] uint16."""
_NAMES = ("images", "shares", "objects")


class MixedDepthsError(Exception):
    """Some samples are uint8 and some float32."""


class Cache:
    """An entry, opened when a process first reads from it (so that it can be pickled)."""

    def __init__(self, folder: Path) -> None:
        """Name the entry.

        Args:
            folder: The entry's folder.
        """
        self.folder = folder

    def __len__(self) -> int:
        """Count the samples."""
        return len(self.arrays[0])

    def __getitem__(self, index: int) -> Sample:
        """Read one sample.

        Args:
            index: Its number.

        Returns:
            Its arrays, read-only.
        """
        return tuple(array[index] for array in self.arrays)

    @cached_property
    def arrays(self) -> Sample:
        """All samples' images, shares and, where there are any, labels, memory-mapped."""
        files = [self.folder / f"{name}.npy" for name in _NAMES]
        return tuple(np.load(file, mmap_mode="r") for file in files if file.exists())

    def __getstate__(self) -> dict[str, Any]:
        """Leave the open files behind: pickled, they would be copied into memory."""
        return {"folder": self.folder}


def cache_folder() -> Path:
    """Say where entries lie.

    Returns:
        What PLAINUNET_CACHE names, or `plainunet` in the user's cache folder.
    """
    user = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(os.environ.get("PLAINUNET_CACHE") or Path(user) / "plainunet")


def cached(
    files: list[Path],
    settings: dict[str, Any],
    load: Callable[[int], Sample],
    on_progress: Callable[[int, int], None] | None = None,
) -> Cache | None:
    """Open the entry of these files and settings; make it when there is none.

    Args:
        files: Every file that samples are made from.
        settings: Everything else that they depend on; must go into JSON.
        load: Makes sample number i; all samples have equal sizes.
        on_progress: Told how many of how many samples are made.

    Returns:
        The entry, or None where one would not fit in `LIMIT` or on the disk.

    Raises:
        MixedDepthsError: The samples' images are not all of one dtype.
    """
    count = settings["count"]
    key = json.dumps([[str(f.resolve()), *_stamp(f)] for f in files] + [settings, 1])
    folder = cache_folder() / hashlib.sha256(key.encode()).hexdigest()[:24]
    if folder.is_dir():
        os.utime(folder)
        return Cache(folder)

    first = load(0)
    needed = count * sum(array.nbytes for array in first)
    try:
        cache_folder().mkdir(parents=True, exist_ok=True)
        if needed <= LIMIT:
            _make_room(needed)
        if needed > min(LIMIT, 0.8 * shutil.disk_usage(cache_folder()).free):
            return None
        part = Path(tempfile.mkdtemp(prefix=".part-", dir=cache_folder()))
    except OSError:  # no cache is slower, but no fault
        return None
    try:
        _fill(part, count, load, first, on_progress)
        part.replace(folder)
    except OSError:
        if not folder.is_dir():  # else another process was faster with the same samples
            raise
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return Cache(folder)


def _fill(
    folder: Path,
    count: int,
    load: Callable[[int], Sample],
    first: Sample,
    on_progress: Callable[[int, int], None] | None,
) -> None:
    create = np.lib.format.open_memmap
    files = [
        create(folder / f"{name}.npy", "w+", array.dtype, (count, *array.shape))
        for name, array in zip(_NAMES, first, strict=False)
    ]
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        for index, sample in enumerate(threads.map(load, range(count))):
            if sample[0].dtype != first[0].dtype:
                raise MixedDepthsError
            for file, array in zip(files, sample, strict=True):
                file[index] = array
            if on_progress:
                on_progress(index + 1, count)
    for file in files:
        file.flush()


def _stamp(file: Path) -> tuple[int, int]:
    status = file.stat()
    return status.st_size, status.st_mtime_ns


def _make_room(needed: int) -> None:
    for part in cache_folder().glob(".part-*"):  # of processes that were killed
        if time.time() - part.stat().st_mtime > _ABANDONED:
            shutil.rmtree(part, ignore_errors=True)
    entries = [f for f in cache_folder().iterdir() if f.is_dir() and not f.name.startswith(".")]
    entries.sort(key=lambda f: f.stat().st_mtime)
    sizes = [sum(file.stat().st_size for file in entry.iterdir()) for entry in entries]
    while entries and sum(sizes) + needed > LIMIT:
        shutil.rmtree(entries.pop(0), ignore_errors=True)
        sizes.pop(0)
