"""Atomic writes, locks and checks of output paths.

Everything the project writes goes through `write_whole`: nobody ever reads half a file, and a
failure leaves the previous file intact.
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

from plainunet.errors import Error

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

_REFUSALS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS)
_LOCK = ".lock"
_HELD: set[Path] = set()
_UNFINISHED = "-unfinished-"
"""Marks names of temporary files."""


@contextmanager
def write_whole(path: Path) -> Iterator[Path]:
    """Yield a temporary path next to `path`, with the same suffix; rename it on success.

    It is removed if the block fails. A missing folder is made.

    Raises:
        OSError: The path is a folder, or the disk is full or refuses the write; the error of the
            library is its cause.
    """
    if path.is_dir():
        raise IsADirectoryError(f"{path}: is a folder, not a file. Choose another name.")
    path.parent.mkdir(parents=True, exist_ok=True)
    # cut, since the longer name could exceed the limit of the file system
    prefix = f".{path.stem[:32]}{_UNFINISHED}{_this_process()}-"
    try:
        handle, name = tempfile.mkstemp(prefix=prefix, suffix=path.suffix, dir=path.parent)
    except OSError as error:
        error.filename = str(path)  # not that of the temporary file
        raise
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
            intact = " The previous file is intact." if path.exists() else ""
            raise OSError(
                f"{path}: cannot be written ({refused.strerror}).{intact} Free some disk space, "
                "and try again."
            ) from error
        raise
    finally:
        part.unlink(missing_ok=True)


def _this_process(number: int | None = None) -> str:
    """Name a process of this machine, by default this one, for file names."""
    machine = zlib.crc32(platform.node().encode(errors="replace"))
    return f"{machine:08x}-{number or os.getpid()}"


def _try_to_write(file: Path) -> OSError | None:
    """Find out why a file could not be written, if a library hides the reason."""
    try:
        with file.open("ab") as end:
            end.write(bytes(2**16))
            end.flush()
            os.fsync(end.fileno())
    except OSError as error:
        return error
    return None


def write_json(path: Path, content: Any) -> None:
    """Write JSON, whole or not at all; file names that are not UTF-8 become surrogates."""
    with write_whole(path) as file:
        file.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


@contextmanager
def lock_folder(folder: Path) -> Iterator[None]:
    """Lock a folder for this process; a missing folder is made.

    The lock is the operating system's, on `folder/.lock`: it is released however the process ends,
    and child processes do not inherit it. Folders that stay empty are removed again.

    Raises:
        ValueError: Another process, or another thread of this one, holds the lock, or the folder
            is not writable, or its file system has no locks.
    """
    require_writable(folder)
    made = [parent for parent in (folder, *folder.absolute().parents) if not parent.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    path = (folder / _LOCK).resolve()
    if path in _HELD:
        raise Error(f"{folder}: already in use by this process. Choose another folder.")
    with _open_locked(path) as file:
        if file is None:
            holder = path.read_text(encoding="utf-8").strip() or "unknown"
            raise Error(
                f"{folder}: in use by process {holder}. Wait until it has finished, or choose "
                "another folder."
            )
        _HELD.add(path)
        try:
            yield
        finally:
            _HELD.discard(path)
            with suppress(OSError):  # Windows does not remove open files
                path.unlink()
            for parent in made:
                with suppress(OSError):  # not empty
                    parent.rmdir()


@contextmanager
def _open_locked(path: Path) -> Iterator[TextIO | None]:
    """Open and lock a file; yields None if another process holds the lock."""
    while True:
        with path.open("a+", encoding="utf-8") as file:
            if not _lock(file):
                yield None
                return
            if _is_same(path, file):
                file.truncate(0)
                file.write(f"{os.getpid()}\n")
                file.flush()
                yield file
                return
        # its holder has removed it since it was opened


def _is_same(path: Path, file: TextIO) -> bool:
    """Whether a path still refers to an open file."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


def _lock(file: TextIO) -> bool:
    """Lock an open file; returns False if another process holds the lock.

    Raises:
        ValueError: The file system has no locks.
    """
    try:
        if sys.platform == "win32":
            file.seek(2**30)  # locked bytes cannot be read there
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        else:  # not flock, which forked processes inherit
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EAGAIN):
            return False
        raise Error(
            f"{file.name}: cannot be locked ({error.strerror}). Choose a folder on a file system "
            "with locks."
        ) from error
    return True


def remove_unfinished(folder: Path) -> None:
    """Remove temporary files of `write_whole` in a folder that no other process uses."""
    for part in folder.glob(f".*{_UNFINISHED}*"):
        part.unlink(missing_ok=True)


@contextmanager
def made_anew(record: Path, folders: Sequence[Path]) -> Iterator[None]:
    """Remove the files of an earlier call from folders, and record those made in the block.

    Raises:
        ValueError: A file was not made by an earlier call, or has changed since. Nothing is
            removed then.
    """
    made = json.loads(record.read_text(encoding="utf-8")) if record.is_file() else {}
    found = _list_files(record.parent, folders)
    if others := [name for name, stamp in found.items() if made.get(name) != stamp]:
        raise Error(
            f"{record.parent / others[0]}: was not made by this command, or has changed since. "
            f"Nothing was removed. Move {record.parent} elsewhere, or choose another folder."
        )
    emptied: set[Path] = set()
    for file in map(record.parent.joinpath, found):
        file.unlink()
        emptied |= {each for each in file.parents if {each, *each.parents} & {*folders}}
    for folder in sorted(emptied, reverse=True):
        with suppress(OSError):  # not empty
            folder.rmdir()
    try:
        yield
    finally:
        if made := _list_files(record.parent, folders):
            write_json(record, made)


def _list_files(base: Path, folders: Sequence[Path]) -> dict[str, list[int]]:
    """Size [bytes] and modification time [ns] of every file in some folders, by name."""
    found = {}
    for file in (path for folder in folders for path in sorted(folder.rglob("*"))):
        if file.is_symlink() or not file.is_dir():
            status = file.lstat()
            found[file.relative_to(base).as_posix()] = [status.st_size, status.st_mtime_ns]
    return found


def remove_abandoned(folder: Path) -> None:
    """Remove temporary files that ended processes of this machine left behind.

    Files that other processes are writing are kept.
    """
    if sys.platform == "win32":  # os.kill would end the process there
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
    except OSError:  # opening it raises the right error
        return
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
        kind = "a named pipe" if stat.S_ISFIFO(mode) else "a socket or a device"
        raise Error(f"{path} is {kind}, not a regular file. Remove it, or use another path.")


def require_writable(folder: Path) -> None:
    """Refuse a folder that cannot be made or written to, before long work starts.

    The folder is not made, so a later failure leaves no empty folder.
    """
    try:
        parents = (folder, *folder.absolute().parents)
        with tempfile.TemporaryFile(dir=next(each for each in parents if each.exists())):
            pass
    except OSError as error:
        raise Error(
            f"{folder}: not writable ({error.strerror}). "
            "Choose another output folder, or change its permissions."
        ) from error


def require_file(path: Path, suffix: str) -> None:
    """Refuse an output file that cannot be written, before work starts.

    It must end in `suffix`, so that no other kind of file is overwritten.
    """
    if path.suffix.lower() != suffix:
        raise Error(f"{path}: the file name must end in {suffix}.")
    if path.is_dir():
        raise Error(f"{path}: is a folder. Name a file in it.")
    require_writable(path.parent)


def require_own(path: Path, mark: str) -> None:
    """Refuse to overwrite a file without `mark`, which every result of this kind contains."""
    if path.is_file() and mark.encode() not in path.read_bytes():
        raise Error(f"{path}: exists, and was not made by this command. Choose another file name.")


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
