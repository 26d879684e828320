"""Cache of decoded samples in memory-mapped files, and of facts about files in SQLite."""

import hashlib
import json
import math
import os
import re
import shutil
import sqlite3
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, suppress
from functools import cached_property
from itertools import chain
from pathlib import Path
from threading import Lock
from typing import Any, BinaryIO
from weakref import WeakSet

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from plainunet.errors import Error
from plainunet.formats.problems import DataError, as_problem
from plainunet.formats.sources import Source, cache_folder, stamp_files
from plainunet.system import work_ahead

_ABANDONED = 3600  # seconds without a sample written
_FORMAT = 2
_AHEAD = 10**9
"""Bytes of samples that threads decode at the same time."""
LIMIT = 8 * 2**30
"""Maximum size of the cache on disk [bytes]."""
Sample = tuple[NDArray[Any], ...]
"""Image [H, W, C] uint8 or float32, shares [H, W, K] uint8, and, if requested, the objects'
labels [H, W, 1] uint16."""
_NAMES = ("images", "shares", "objects")
_SIZES = "sizes.npy"


class MixedDepthsError(Exception):
    """Some samples are uint8 and some float32."""


_USED: WeakSet["Cache"] = WeakSet()
"""The entries that this process reads from."""


class _NotWrittenError(Exception):
    """A sample could not be written to disk."""


class Cache:
    """An entry, opened when a process first reads from it (so that it can be pickled)."""

    def __init__(self, folder: Path) -> None:
        """Name the entry's folder, which this process keeps as long as it uses it."""
        self.folder = folder
        _USED.add(self)

    def __len__(self) -> int:
        """Count the samples."""
        return len(self._ends if self._ends is not None else self.arrays[0])

    def __getitem__(self, index: int) -> Sample:
        """Read one sample's arrays; FileNotFoundError if another process needed the space."""
        arrays, ends = self.arrays, self._ends
        if ends is None:
            return tuple(array[index] for array in arrays)
        height, width, end = (int(number) for number in ends[index])
        begin = end - height * width
        return tuple(array[begin:end].reshape(height, width, -1) for array in arrays)

    @cached_property
    def arrays(self) -> Sample:
        """All samples' images, shares and, if any, labels, memory-mapped."""
        files = [self.folder / f"{name}.npy" for name in _NAMES]
        arrays = tuple(np.load(file, mmap_mode="r") for file in files if file.exists())
        os.utime(self.folder)  # marks it as used; fails if it was removed meanwhile
        return arrays

    @cached_property
    def _ends(self) -> NDArray[np.int64] | None:
        """For different sizes: height, width and end offset of each sample, [n, 3]."""
        file = self.folder / _SIZES
        if not file.exists():
            return None
        sizes = np.load(file)
        return np.column_stack([sizes, np.cumsum(sizes.prod(axis=1))])

    def __getstate__(self) -> dict[str, Any]:
        """Omit the open files, which pickling would copy into memory."""
        return {"folder": self.folder}


def cached(
    files: Sequence[Source],
    settings: dict[str, Any],
    load: Callable[[int], Sample],
    on_progress: Callable[[int, int], None] | None = None,
    sizes: Sequence[tuple[int, int]] | None = None,
) -> Cache | None:
    """Open the entry of these files and settings; create it if there is none.

    The samples depend on `files` and on `settings`, which must be JSON-serialisable. `load`
    returns sample number i; all have equal sizes, unless `sizes` (height and width of each) are
    given. Returns None if an entry would exceed `LIMIT` or the free disk space.
    """
    count = settings["count"]
    key = json.dumps([*stamp_files(files), settings, _FORMAT])
    folder = cache_folder() / hashlib.sha256(key.encode(errors="surrogateescape")).hexdigest()[:24]
    with suppress(OSError):
        os.utime(folder)
        return Cache(folder)

    first = load(0)
    each = sum(array.nbytes for array in first)
    pixels = sum(height * width for height, width in sizes or ())
    needed = each * pixels // (sizes[0][0] * sizes[0][1]) if sizes else each * count
    try:
        cache_folder().mkdir(parents=True, exist_ok=True)
        if needed > LIMIT or not _make_room(needed):
            return None
        if needed > 0.8 * shutil.disk_usage(cache_folder()).free:
            return None
        part = Path(tempfile.mkdtemp(prefix=".part-", dir=cache_folder()))
    except OSError:  # no cache is slower, but not an error
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
                # at its final length at once, so that other processes see its size
                files[-1].truncate(files[-1].tell() + math.prod(shape) * array.itemsize)
        except OSError as error:
            raise _NotWrittenError from error
        # few large samples at a time
        bytes_each = max(1, sum(array.nbytes for array in first))
        threads = max(1, min(os.cpu_count() or 1, _AHEAD // bytes_each))
        for done, sample in enumerate(
            chain([first], work_ahead(load, range(1, count), threads)), 1
        ):
            if sample[0].dtype != first[0].dtype:
                raise MixedDepthsError
            size = sizes[done - 1] if sizes else first[0].shape[:2]
            shapes = [array.shape for array in sample]
            wanted = [(*size, array.shape[2]) for array in first]
            if shapes != wanted:
                raise Error(f"Sample {done - 1} has arrays of {shapes}, not {wanted}.")
            try:
                # not through memory maps: a full disk would kill the process
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
    with suppress(OSError):  # write errors were raised before
        file.close()


def _make_room(needed: int) -> bool:
    """Remove files of killed processes, and the oldest entries above the limit.

    Returns whether the limit is kept: what this process uses stays.
    """
    entries, total = [], needed
    used = {each.folder for each in _USED}
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
        if folder in used:
            continue
        total -= size
        gone = Path(tempfile.mkdtemp(prefix=".part-", dir=cache_folder()))
        with suppress(OSError):
            # renamed first: readers find the whole entry or none
            folder.replace(gone / folder.name)
        shutil.rmtree(gone, ignore_errors=True)
    return total <= LIMIT


_ENTRY = re.compile(r"[0-9a-f]{24}|\.part-\w+")
_FILE = "facts.sqlite"
_MOST = 1_000_000
"""Maximum number of facts; the oldest are removed first."""
_LONGEST = 65536
_AT_ONCE = 500
_Sources = tuple[Source, ...]


def cache_size() -> int:
    """Return the size of the cache on disk [bytes]."""
    return sum(file.stat().st_size for file in _own_files())


def clear_cache() -> int:
    """Remove the cache, but no other files in its folder; returns the bytes freed."""
    freed = 0
    for file in _own_files():
        with suppress(FileNotFoundError):  # another process was faster
            freed += file.stat().st_size
            file.unlink()
        if file.parent != cache_folder():
            with suppress(OSError):  # not empty yet
                file.parent.rmdir()
    return freed


def _own_files() -> list[Path]:
    """List the files of entries, and the database."""
    names = {f"{name}.npy" for name in _NAMES} | {_SIZES}
    found = [file for file in cache_folder().glob(f"{_FILE}*") if file.is_file()]
    for folder in cache_folder().glob("*"):
        if _ENTRY.fullmatch(folder.name) and folder.is_dir():
            found += [file for file in folder.iterdir() if file.name in names]
    return found


def recall(
    kind: str,
    things: Sequence[_Sources],
    find_out: Callable[..., Any],
    threads: int | None = None,
) -> Iterator[Any | DataError]:
    """Compute facts about files, or read them from the cache; yields errors for unreadable files.

    Args:
        kind: Name of the fact, with everything except the files that it depends on.
        things: The files of each thing.
        find_out: Called with the files of one thing, in several threads; its result must survive
            a round trip through JSON.
        threads: Number of threads; default: the number of cores.
    """
    with closing(_Store()) as store:

        def look_up(paths: _Sources) -> tuple[str | None, Any | DataError]:
            try:
                key = _key(kind, paths)
                known = None if key is None else store.get(key)
                return (None, known) if known is not None else (key, find_out(*paths))
            except (ValueError, FileNotFoundError) as error:
                return None, as_problem(error, *paths)

        for key, found in work_ahead(look_up, things, threads):
            if key is not None:
                store.put(key, found)
            yield found


def _key(kind: str, paths: _Sources) -> str | None:
    try:
        stamps = json.dumps([kind, *stamp_files(paths)])
    except OSError:
        return None  # missing, or a link loop: opening the file gives a better error
    return hashlib.blake2b(stamps.encode(errors="replace"), digest_size=16).hexdigest()


class _Store:
    """The database; if it cannot be opened, nothing is stored."""

    def __init__(self) -> None:
        self._new: list[tuple[str, str]] = []
        # one thread at a time: equal queries of one connection share a cursor
        self._turn = Lock()
        self._base: sqlite3.Connection | None = None
        with suppress(OSError, sqlite3.Error):
            cache_folder().mkdir(parents=True, exist_ok=True)
            base = sqlite3.connect(cache_folder() / _FILE, timeout=5, check_same_thread=False)
            try:
                # waiting for the disk would protect from power cuts only: then it is read anew
                base.execute("PRAGMA synchronous = OFF")
                base.execute("CREATE TABLE IF NOT EXISTS facts (key TEXT UNIQUE, found TEXT)")
            except sqlite3.DatabaseError as error:
                base.close()
                if not isinstance(error, sqlite3.OperationalError):
                    (cache_folder() / _FILE).unlink()  # damaged; recreated next time
                raise
            self._base = base

    def get(self, key: str) -> Any | None:
        if self._base is not None:
            with suppress(sqlite3.Error, json.JSONDecodeError):
                query = "SELECT found FROM facts WHERE key = ?"
                with self._turn:
                    row = self._base.execute(query, (key,)).fetchone()
                return None if row is None else json.loads(row[0])
        return None

    def put(self, key: str, found: Any) -> None:
        text = json.dumps(found)
        if len(text) <= _LONGEST:
            self._new.append((key, text))
        if len(self._new) >= _AT_ONCE:
            self._write()

    def close(self) -> None:
        self._write()
        if self._base is not None:
            self._base.close()

    def _write(self) -> None:
        new, self._new = self._new, []
        if self._base is not None and new:
            with suppress(sqlite3.Error), self._turn, self._base:
                self._base.executemany("INSERT OR REPLACE INTO facts VALUES (?, ?)", new)
                oldest = "(SELECT MAX(rowid) FROM facts) - ?"
                self._base.execute(f"DELETE FROM facts WHERE rowid <= {oldest}", (_MOST,))
