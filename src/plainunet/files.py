"""Files that appear whole or not at all.

Everything the project writes goes through `write_whole`: a reader, or the next run, never
meets half a file, and a failure leaves what was there before.
"""

import errno
import json
import os
import platform
import re
import stat
import sys
import tempfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TextIO

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

_REFUSALS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS)
_LOCK = ".lock"
_HELD: set[Path] = set()
_UNFINISHED = "-unfinished-"
"""What names of files have in them that are not whole yet."""


@contextmanager
def write_whole(path: Path) -> Iterator[Path]:
    """Give a temporary path beside `path` to write to; rename it when the block has ended well.

    It has the same suffix, and is removed if the block fails. A missing folder is made.

    Raises:
        OSError: The disk is full, or takes no more for another reason; what the library that
            was writing has said of it is the cause.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # the name is cut, for with its addition it might be longer than file systems take
    prefix = f".{path.stem[:32]}{_UNFINISHED}{_this_process()}-"
    handle, name = tempfile.mkstemp(prefix=prefix, suffix=path.suffix, dir=path.parent)
    os.close(handle)
    part = Path(name)
    try:
        yield part
        with part.open("rb") as file:
            os.fsync(file.fileno())
        part.chmod(0o666 & ~_umask())
        part.replace(path)
    except Exception as error:
        refused = error if isinstance(error, OSError) else _try_to_write(part)
        if refused is not None and refused.errno in _REFUSALS:
            raise OSError(
                f"{path}: cannot be written ({refused.strerror}); what was there before is intact. "
                "Make room for it, and try again."
            ) from error
        raise
    finally:
        part.unlink(missing_ok=True)


def _this_process(number: int | None = None) -> str:
    """Name a process, this one or another of the same machine, in names of files."""
    machine = zlib.crc32(platform.node().encode(errors="replace"))
    return f"{machine:08x}-{number or os.getpid()}"


def _try_to_write(file: Path) -> OSError | None:
    """Learn why a file could not be written, where a library did not say."""
    try:
        with file.open("ab") as end:
            end.write(bytes(2**16))
            end.flush()
            os.fsync(end.fileno())
    except OSError as error:
        return error
    return None


def write_json(path: Path, content: Any) -> None:
    """Write JSON, whole or not at all; names that are not UTF-8 become surrogates."""
    with write_whole(path) as file:
        file.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


@contextmanager
def lock_folder(folder: Path) -> Iterator[None]:
    """Keep a folder, made when missing, to this process for a while.

    The lock is the operating system's, on `folder/.lock`: it goes with its process, however that
    ends, and processes that it has started do not hold it. Where there was nothing to write, the
    folder is gone again afterwards.

    Raises:
        ValueError: Another process has it, or another thread of this one, or it cannot be
            written to.
    """
    require_writable(folder)
    made = [place for place in (folder, *folder.absolute().parents) if not place.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    path = (folder / _LOCK).resolve()
    if path in _HELD:
        raise ValueError(f"{folder}: this process works in it already. Give another folder.")
    with _open_locked(path) as file:
        if file is None:
            holder = path.read_text(encoding="utf-8").strip() or "unknown"
            raise ValueError(
                f"{folder}: process {holder} works in it. Wait until it has ended, or give "
                "another folder."
            )
        _HELD.add(path)
        try:
            yield
        finally:
            _HELD.discard(path)
            with suppress(OSError):  # Windows does not remove open files
                path.unlink()
            for place in made:
                with suppress(OSError):  # not empty
                    place.rmdir()


@contextmanager
def _open_locked(path: Path) -> Iterator[TextIO | None]:
    """Open and lock a file, unless another process has it: None then."""
    while True:
        with path.open("a+", encoding="utf-8") as file:
            if not _lock(file):
                yield None
                return
            if _is_there(path, file):
                file.truncate(0)
                file.write(f"{os.getpid()}\n")
                file.flush()
                yield file
                return
        # its holder has removed it since it was opened


def _is_there(path: Path, file: TextIO) -> bool:
    """Tell whether an open file still has its name."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


def _lock(file: TextIO) -> bool:
    """Take the lock of an open file, unless another process has it."""
    try:
        if sys.platform == "win32":
            file.seek(2**30)  # what is locked cannot be read there
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        else:  # of the kind that forked processes do not inherit, as they would flock's
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def remove_unfinished(folder: Path) -> None:
    """Remove what a killed process had begun with `write_whole` in a folder that is free now."""
    for part in folder.glob(f".*{_UNFINISHED}*"):
        part.unlink(missing_ok=True)


@contextmanager
def made_anew(record: Path, folders: Sequence[Path]) -> Iterator[None]:
    """Empty folders of what an earlier call made in them, and record what is made in the block.

    Raises:
        ValueError: There is a file that no earlier call made, or that has changed since. Nothing
            is removed then.
    """
    made = json.loads(record.read_text(encoding="utf-8")) if record.is_file() else {}
    there = _list_files(record.parent, folders)
    if others := [name for name, stamp in there.items() if made.get(name) != stamp]:
        raise ValueError(
            f"{record.parent / others[0]}: was not made by this command, or has changed since. "
            f"Nothing was removed. Move {record.parent} elsewhere, or choose another folder."
        )
    emptied: set[Path] = set()
    for file in map(record.parent.joinpath, there):
        file.unlink()
        emptied |= {place for place in file.parents if {place, *place.parents} & {*folders}}
    for place in sorted(emptied, reverse=True):
        with suppress(OSError):  # not empty
            place.rmdir()
    try:
        yield
    finally:
        if made := _list_files(record.parent, folders):
            write_json(record, made)


def _list_files(base: Path, folders: Sequence[Path]) -> dict[str, list[int]]:
    """Size [bytes] and time of the last change [ns] of every file in some folders, by name."""
    found = {}
    for file in (path for folder in folders for path in sorted(folder.rglob("*"))):
        if file.is_symlink() or not file.is_dir():
            status = file.lstat()
            found[file.relative_to(base).as_posix()] = [status.st_size, status.st_mtime_ns]
    return found


def remove_abandoned(folder: Path) -> None:
    """Remove what processes of this machine that have ended had begun with `write_whole`.

    What others are writing at this moment stays.
    """
    if sys.platform == "win32":  # there, asking for a process may end it
        return
    for part in folder.glob(f".*{_UNFINISHED}*"):
        found = re.match(r"([0-9a-f]{8}-([0-9]+))-", part.name.partition(_UNFINISHED)[2])
        if found and found[1] == _this_process(int(found[2])) and not _runs(int(found[2])):
            part.unlink(missing_ok=True)


def _runs(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:  # it is another user's
        return True
    return True


def require_regular(path: Path) -> None:
    """Refuse a pipe, a socket or a device, from which reading may never end."""
    try:
        mode = path.stat().st_mode
    except OSError:  # opening it says what is wrong
        return
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
        kind = "a named pipe" if stat.S_ISFIFO(mode) else "a socket or a device"
        raise ValueError(f"{path} is {kind}, not a regular file. Remove it, or give another path.")


def require_writable(folder: Path) -> None:
    """Refuse a folder that cannot be made or written to, before long work begins.

    Nothing is left behind: what fails later leaves no empty folder.
    """
    try:
        there = next(place for place in (folder, *folder.absolute().parents) if place.exists())
        with tempfile.TemporaryFile(dir=there):
            pass
    except OSError as error:
        raise ValueError(
            f"{folder}: cannot be written to ({error.strerror}). "
            "Choose another output folder, or change its permissions."
        ) from error


def require_file(path: Path, suffix: str) -> None:
    """Refuse a file that results cannot or must not be written to, before work begins.

    It must end in `suffix`, so that no other kind is overwritten.
    """
    if path.suffix.lower() != suffix:
        raise ValueError(f"{path}: the name must end in {suffix}. Give another.")
    if path.is_dir():
        raise ValueError(f"{path}: is a folder. Give the name of a file in it.")
    require_writable(path.parent)


def require_own(path: Path, mark: str) -> None:
    """Refuse to overwrite a file without `mark`, which every result of this kind has in it."""
    if path.is_file() and mark.encode() not in path.read_bytes():
        raise ValueError(f"{path}: is there already, and is no such result. Give another name.")


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
