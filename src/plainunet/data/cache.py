"""Decoded, reduced samples in memory-mapped files, so that each picture is decoded once.

An entry is a folder with `images.npy` and `shares.npy`, named by a digest of everything that
went into it (files with size and time, working size, classes): a changed picture makes a new
entry. It appears whole or not at all, any number of processes may read it, and the oldest
entries go when all together would exceed `LIMIT`.
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

Sample = tuple[NDArray[Any], NDArray[np.uint8]]


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
        return len(self.images)

    def __getitem__(self, index: int) -> Sample:
        """Read one sample.

        Args:
            index: Its number.

        Returns:
            Image [H, W, C] uint8 or float32, and shares [H, W, K] uint8; both read-only.
        """
        return self.images[index], self.shares[index]

    @cached_property
    def images(self) -> NDArray[Any]:
        """All images [n, H, W, C], memory-mapped."""
        return self._open("images")

    @cached_property
    def shares(self) -> NDArray[np.uint8]:
        """All shares [n, H, W, K] uint8, memory-mapped."""
        return self._open("shares")

    def __getstate__(self) -> dict[str, Any]:
        """Leave the open files behind: pickled, they would be copied into memory."""
        return {"folder": self.folder}

    def _open(self, name: str) -> NDArray[Any]:
        opened: NDArray[Any] = np.load(self.folder / f"{name}.npy", mmap_mode="r")
        return opened


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

    image, shares = load(0)
    needed = count * (image.nbytes + shares.nbytes)
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
        _fill(part, count, load, image, shares, on_progress)
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
    image: NDArray[Any],
    shares: NDArray[np.uint8],
    on_progress: Callable[[int, int], None] | None,
) -> None:
    create = np.lib.format.open_memmap
    images_file = create(folder / "images.npy", "w+", image.dtype, (count, *image.shape))
    shares_file = create(folder / "shares.npy", "w+", shares.dtype, (count, *shares.shape))
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        for index, (image, shares) in enumerate(threads.map(load, range(count))):
            if image.dtype != images_file.dtype:
                raise MixedDepthsError
            images_file[index], shares_file[index] = image, shares
            if on_progress:
                on_progress(index + 1, count)
    images_file.flush()
    shares_file.flush()


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
