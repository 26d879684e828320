"""What was found out about files, remembered, so that an unchanged file is read once.

In: files, and a function that finds something out. Out: what it found; from a database in the
cache folder where path, size and time of the files are as they were. Limitations: a file that
changes in neither is taken for the same; errors are not remembered.
"""

import hashlib
import json
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, suppress
from pathlib import Path
from threading import Lock
from typing import Any

from plainunet.data.ahead import work_ahead
from plainunet.data.places import cache_folder, stamp_files
from plainunet.data.problems import DataError, as_problem

_FILE = "facts.sqlite"
_MOST = 1_000_000
"""Entries that are kept; the first written go first."""
_LONGEST = 65536
_AT_ONCE = 500
_Paths = tuple[Path, ...]


def recall(
    kind: str, things: Sequence[_Paths], find_out: Callable[..., Any]
) -> Iterator[Any | DataError]:
    """Find something out about files, or remember it.

    Args:
        kind: What is found out, and everything besides the files that it depends on.
        things: The files of each thing, or what `places` says that a path may name.
        find_out: Called with the files of one thing, in several threads at a time; what it
            returns must go through JSON unchanged.

    Yields:
        What was found of each thing in turn; or the mistake that a user can mend.
    """
    with closing(_Store()) as store:

        def look_up(paths: _Paths) -> tuple[str | None, Any | DataError]:
            try:
                key = _key(kind, paths)
                known = None if key is None else store.get(key)
                return (None, known) if known is not None else (key, find_out(*paths))
            except (ValueError, FileNotFoundError) as error:
                return None, as_problem(error, *paths)

        for key, found in work_ahead(look_up, things):
            if key is not None:
                store.put(key, found)
            yield found


def _key(kind: str, paths: _Paths) -> str | None:
    try:
        said = json.dumps([kind, *stamp_files(paths)])
    except OSError:
        return None  # missing, or a link that leads back: who opens the file says it better
    return hashlib.blake2b(said.encode(errors="replace"), digest_size=16).hexdigest()


class _Store:
    """The database; where there is none to be had, nothing is remembered."""

    def __init__(self) -> None:
        self._new: list[tuple[str, str]] = []
        # one thread at a time: equal queries of one connection share their answer's place
        self._turn = Lock()
        self._base: sqlite3.Connection | None = None
        with suppress(OSError, sqlite3.Error):
            cache_folder().mkdir(parents=True, exist_ok=True)
            base = sqlite3.connect(cache_folder() / _FILE, timeout=5, check_same_thread=False)
            try:
                base.execute("CREATE TABLE IF NOT EXISTS facts (key TEXT UNIQUE, found TEXT)")
            except sqlite3.DatabaseError as error:
                base.close()
                if not isinstance(error, sqlite3.OperationalError):
                    (cache_folder() / _FILE).unlink()  # damaged; the next one is made anew
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
