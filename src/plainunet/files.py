"""Files that appear whole or not at all.

Everything the project writes goes through `write_whole`: a reader, or the next run, never
meets half a file, and a failure leaves what was there before.
"""

import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def write_whole(path: Path) -> Iterator[Path]:
    """Give a temporary path to write to; rename it onto `path` when the block has ended well.

    Args:
        path: Where the file shall appear. Its folder is made when missing.

    Yields:
        A path in the same folder with the same suffix. It is removed if the block fails.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # the name is cut, for with its addition it might be longer than file systems take
    prefix = f".{path.stem[:32]}-"
    handle, name = tempfile.mkstemp(prefix=prefix, suffix=path.suffix, dir=path.parent)
    os.close(handle)
    part = Path(name)
    try:
        yield part
        with part.open("rb") as file:
            os.fsync(file.fileno())
        part.chmod(0o666 & ~_umask())
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def write_json(path: Path, content: Any) -> None:
    """Write JSON, whole or not at all.

    Args:
        path: The file.
        content: What to write; names that are not UTF-8 become surrogates, as JSON allows.
    """
    with write_whole(path) as file:
        file.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def require_writable(folder: Path) -> None:
    """Try to write into a folder, or where it would be made, before long work begins.

    Nothing is left behind: what fails later leaves no empty folder.

    Args:
        folder: The folder that results shall go to.

    Raises:
        ValueError: It cannot be made or written to.
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

    Args:
        path: The file that shall be written, or written anew.
        suffix: What its name must end in, as in ".json": no other kind is overwritten.

    Raises:
        ValueError: It has another suffix, is a folder, or its folder cannot be written to.
    """
    if path.suffix.lower() != suffix:
        raise ValueError(f"{path}: the name must end in {suffix}. Give another.")
    if path.is_dir():
        raise ValueError(f"{path}: is a folder. Give the name of a file in it.")
    require_writable(path.parent)


def require_own(path: Path, mark: str) -> None:
    """Refuse to overwrite a file that is not a result of the same kind.

    Args:
        path: The file that shall be written anew.
        mark: What every such result has in it.

    Raises:
        ValueError: There is a file without it.
    """
    if path.is_file() and mark.encode() not in path.read_bytes():
        raise ValueError(f"{path}: is there already, and is no such result. Give another name.")


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
