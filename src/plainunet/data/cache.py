"""Decoded, reduced samples in memory-mapped files, so that each picture is decoded once.

In: files, settings, and a function that makes a sample. Out: an entry, a folder with
`images.npy`, `shares.npy` and, where samples have a third part, `objects.npy`: all samples
stacked, or, where their sizes differ, their pixels in a row and `sizes.npy`. It is named by a
digest of everything that went into it (files with size and time, working size, classes): a
changed picture makes a new entry. It appears whole or not at all, any number of processes may
read it, and the oldest entries go when all together would exceed `LIMIT`. Limitations: a file
that changes in neither size nor time is taken for the same; two processes that make the same
entry at once both decode every picture, and one entry stays.
"""

import hashlib
import json
import math
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from plainunet.data.ahead import work_ahead
from plainunet.data.places import cache_folder, stamp_files

_ABANDONED = 3600  # seconds without a sample written
_FORMAT = 1
LIMIT = 8 * 2**30
"""Bytes that the cache may take on disk."""

Sample = tuple[NDArray[Any], ...]
"""Image [H, W, C] uint8 or float32, shares [H, W, K] uint8, and, where they were asked for, the
objects' labels [H, W, 1] uint16."""
_NAMES = ("images", "shares", "objects")
_SIZES = "sizes.npy"


class MixedDepthsError(Exception):
    """Some samples are uint8 and some float32."""


class _NotWrittenError(Exception):
    """The disk did not take a sample."""


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
        return len(self._ends if self._ends is not None else self.arrays[0])

    def __getitem__(self, index: int) -> Sample:
        """Read one sample.

        Args:
            index: Its number.

        Returns:
            Its arrays, read-only.

        Raises:
            FileNotFoundError: The entry is gone: another process needed its room.
        """
        arrays, ends = self.arrays, self._ends
        if ends is None:
            return tuple(array[index] for array in arrays)
        height, width, end = (int(number) for number in ends[index])
        begin = end - height * width
        return tuple(array[begin:end].reshape(height, width, -1) for array in arrays)

    @cached_property
    def arrays(self) -> Sample:
        """All samples' images, shares and, where there are any, labels, memory-mapped."""
        files = [self.folder / f"{name}.npy" for name in _NAMES]
        arrays = tuple(np.load(file, mmap_mode="r") for file in files if file.exists())
        os.utime(self.folder)  # in use; and it was still there when all had been opened
        return arrays

    @cached_property
    def _ends(self) -> NDArray[np.int64] | None:
        """Where sizes differ: height, width and last pixel's end of each sample, [n, 3]."""
        file = self.folder / _SIZES
        if not file.exists():
            return None
        sizes = np.load(file)
        return np.column_stack([sizes, np.cumsum(sizes.prod(axis=1))])

    def __getstate__(self) -> dict[str, Any]:
        """Leave the open files behind: pickled, they would be copied into memory."""
        return {"folder": self.folder}


def cached(
    files: list[Path],
    settings: dict[str, Any],
    load: Callable[[int], Sample],
    on_progress: Callable[[int, int], None] | None = None,
    sizes: Sequence[tuple[int, int]] | None = None,
) -> Cache | None:
    """Open the entry of these files and settings; make it when there is none.

    Args:
        files: Every file, or what `places` says that a path may name, that samples are made from.
        settings: Everything else that they depend on; must go into JSON.
        load: Makes sample number i; all samples have equal sizes, unless `sizes` are given.
        on_progress: Told how many of how many samples are made.
        sizes: Height and width of each sample [pixels], where they differ.

    Returns:
        The entry, or None where one would not fit in `LIMIT` or on the disk.

    Raises:
        FileNotFoundError: One of the files is missing.
        MixedDepthsError: The samples' images are not all of one dtype.
        ValueError: A sample is of another size.
    """
    count = settings["count"]
    key = json.dumps([*stamp_files(files), settings, _FORMAT])
    folder = cache_folder() / hashlib.sha256(key.encode()).hexdigest()[:24]
    with suppress(OSError):
        os.utime(folder)
        return Cache(folder)

    first = load(0)
    each = sum(array.nbytes for array in first)
    pixels = sum(height * width for height, width in sizes or ())
    needed = each * pixels // (sizes[0][0] * sizes[0][1]) if sizes else each * count
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
        _fill(part, count, load, first, on_progress, sizes)
        with suppress(OSError):  # another process was faster with the same samples
            part.replace(folder)
    except _NotWrittenError:
        return None
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return Cache(folder) if folder.is_dir() else None


def _fill(
    folder: Path,
    count: int,
    load: Callable[[int], Sample],
    first: Sample,
    on_progress: Callable[[int, int], None] | None,
    sizes: Sequence[tuple[int, int]] | None,
) -> None:
    with ExitStack() as stack:
        try:
            if sizes:
                np.save(folder / _SIZES, np.array(sizes, np.int64))
            files = []
            for name, array in zip(_NAMES, first, strict=False):
                files.append((folder / f"{name}.npy").open("wb"))
                stack.callback(_close, files[-1])
                descr = npy.dtype_to_descr(array.dtype)
                pixels = sum(height * width for height, width in sizes or ())
                shape = (pixels, array.shape[2]) if sizes else (count, *array.shape)
                header = {"descr": descr, "fortran_order": False, "shape": shape}
                npy.write_array_header_1_0(files[-1], header)
                # at once as long as it will be, so that other processes see what it takes
                files[-1].truncate(files[-1].tell() + math.prod(shape) * array.itemsize)
        except OSError as error:
            raise _NotWrittenError from error
        for done, sample in enumerate(chain([first], work_ahead(load, range(1, count))), 1):
            if sample[0].dtype != first[0].dtype:
                raise MixedDepthsError
            size = sizes[done - 1] if sizes else first[0].shape[:2]
            shapes = [array.shape for array in sample]
            wanted = [(*size, array.shape[2]) for array in first]
            if shapes != wanted:
                raise ValueError(f"Sample {done - 1} has arrays of {shapes}, not {wanted}.")
            try:
                # not through memory maps: a full disk would end the process
                for file, array in zip(files, sample, strict=True):
                    file.write(np.ascontiguousarray(array).data)
                    if done == count:
                        file.flush()
                        os.fsync(file.fileno())
            except OSError as error:
                raise _NotWrittenError from error
            if on_progress:
                on_progress(done, count)


def _close(file: BinaryIO) -> None:
    with suppress(OSError):  # what could not be written was noticed before
        file.close()


def _make_room(needed: int) -> None:
    """Remove what killed processes left, and the oldest entries where there is too much."""
    entries, total = [], needed
    for folder in cache_folder().iterdir():
        with suppress(OSError):  # another process may be removing or renaming it
            inside = [file.stat() for file in folder.iterdir()]
            size = sum(status.st_size for status in inside)
            written = max((status.st_mtime for status in inside), default=folder.stat().st_mtime)
            if not folder.name.startswith("."):
                entries.append((folder.stat().st_mtime, size, folder))
            elif time.time() - written > _ABANDONED:
                shutil.rmtree(folder, ignore_errors=True)
                continue
            total += size
    for _, size, folder in sorted(entries):
        if total <= LIMIT:
            break
        total -= size
        gone = Path(tempfile.mkdtemp(prefix=".part-", dir=cache_folder()))
        with suppress(OSError):
            # renamed first: readers find all of it or nothing
            folder.replace(gone / folder.name)
        shutil.rmtree(gone, ignore_errors=True)
