"""Fixes that change files. The originals are kept, so a fix can be undone.

Each fix has a folder in DATA/.plainunet-backup with the originals, and a record with one line per
change. The line is written before the change, so that an interrupted fix can be undone.
"""

import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from plainunet.doctor.alignment import TURNS
from plainunet.errors import Error
from plainunet.files import lock_folder, remove_abandoned, write_whole
from plainunet.formats.colors import IGNORED
from plainunet.formats.image_files import turn_upright
from plainunet.formats.masks import flatten_mask, rewrite_mask
from plainunet.formats.problems import Change
from plainunet.formats.tiff import mark_as_channel, mark_nodata

Mask = NDArray[Any]
BACKUP = ".plainunet-backup"
_RECORD = "record.jsonl"
_FIX = re.compile(r"(\d{4,})-(.+)")
_KEPT = re.compile(r"\d+-\d+")
State = str | None
"""The state of a path: the hash of its content, its link, or its folder; None if absent."""
Was = tuple[State, State, str | None]
"""The state of a path before and after, and the name of the kept original."""


def is_possible(change: Change) -> bool:
    """Whether a change is possible without data loss; tries to write the masks in memory."""
    try:
        for _ in _new_contents(change, is_trial=True):
            pass
    except (ValueError, OSError):
        return False
    return True


def describe(change: Change) -> list[str]:
    """Describe a change, one line per file."""
    how, files = change.how, change.files
    match change.kind:
        case "rename":
            what = f"renamed to {how[0].name}"
        case "exchange":
            what, files = f"exchanged with {files[1]}", files[:1]
        case "unlink":
            what = "link removed"
        case "values":
            what = ", ".join(f"{old} becomes {new}" for old, new in how)
        case "renumber":
            what = f"renumbered by a common class list: {', '.join(how[0])}"
        case "turn":
            what = TURNS[how[0]]
        case "move":
            what = f"moved by {write_move(*how)}"
        case "resize":
            what = f"resized to {how[0]}x{how[1]} pixels"
        case "channel":
            what = "last band marked as a channel instead of alpha"
        case "nodata":
            what = f"{how[0]:.10g} tagged as nodata"
        case "flatten":
            what = f"transparency replaced by colour {how[0]:06X}"
    return [f"{file}: {what}" for file in files]


def write_move(dx: int, dy: int) -> str:
    """A move in words, such as "8 pixels left and 3 down"."""
    parts: list[str] = []
    for amount, forwards, backwards in ((dx, "right", "left"), (dy, "down", "up")):
        if amount:
            unit = " pixels" if not parts else ""
            parts.append(f"{abs(amount)}{unit} {forwards if amount > 0 else backwards}")
    return " and ".join(parts)


# new contents of changed files


def _new_contents(
    change: Change, is_trial: bool = False
) -> Iterator[tuple[Path, bytes | Path | None]]:
    """Yield each changed path with its new content: bytes, a path to move from, or None.

    Raises:
        ValueError: The change would lose data, or is impossible.
    """
    if not change.files:
        raise Error("no files to change")
    for file in change.files:
        if not os.path.lexists(file):
            raise FileNotFoundError(f"{file} no longer exists. Check again.")
    if change.kind == "rename":
        (old,), (new,) = change.files, change.how
        if os.path.lexists(new):
            raise Error(f"{new} already exists. Rename {old} by hand.")
        yield from ((new, old), (old, None))
    elif change.kind == "exchange":
        one, other = change.files
        yield from ((one, other.read_bytes()), (other, one.read_bytes()))
    elif change.kind == "unlink":
        for file in change.files:
            if not file.is_symlink():
                raise Error(f"{file} is not a link. Remove it by hand.")
            yield file, None
    elif change.kind == "renumber":
        (names, *pairs), files = change.how, change.files
        for mask, each in zip(files, pairs, strict=False):
            yield mask, rewrite_mask(mask, partial(_renumbered, each))
        for name_file in files[len(pairs) :]:
            yield name_file, "\n".join([*names, ""]).encode()
    elif change.kind == "channel":
        yield from ((file, mark_as_channel(file)) for file in change.files)
    elif change.kind == "nodata":
        yield from ((file, mark_nodata(file, *change.how)) for file in change.files)
    elif change.kind == "flatten":
        yield from ((file, flatten_mask(file, *change.how)) for file in change.files)
    else:
        how: Callable[[Mask], Mask] = partial(_CHANGED[change.kind], change.how)
        if is_trial and change.kind != "values":  # zeros are written much faster
            how = partial(_without_values, how)
        yield from ((file, rewrite_mask(file, how)) for file in change.files)


def _without_values(how: Callable[[Mask], Mask], mask: Mask) -> Mask:
    return np.zeros_like(how(mask))


def _replaced(pairs: Sequence[tuple[int, int]], mask: Mask) -> Mask:
    changed = mask.copy()
    for old, new in pairs:
        if np.asarray(new).astype(mask.dtype) != new:
            raise Error(f"it cannot hold {new}")
        changed[mask == old] = new
    if mask.ndim == 3 and mask.shape[2] in (2, 4):  # keep the alpha channel
        changed[..., -1] = mask[..., -1]
    return changed


def _renumbered(pairs: Sequence[tuple[int, int]], mask: Mask) -> Mask:
    if not np.isin(mask, [IGNORED, *(old for old, _ in pairs)]).all():
        raise Error("it has a value that is not in its class list")
    return _replaced(pairs, mask)


def _turned(how: tuple[int], mask: Mask) -> Mask:
    return turn_upright(mask, *how)


def _moved(how: tuple[int, int], mask: Mask) -> Mask:
    height, width = mask.shape[:2]
    rows = (np.arange(height) - how[1]).clip(0, height - 1)
    moved: Mask = np.take(mask[rows], (np.arange(width) - how[0]).clip(0, width - 1), axis=1)
    return moved


def _resized(how: tuple[int, int], mask: Mask) -> Mask:
    (width, height), (old_height, old_width) = how, mask.shape[:2]
    # nearest neighbour: the old pixel at the centre of each new one
    rows = (2 * np.arange(height) + 1) * old_height // (2 * height)
    columns = (2 * np.arange(width) + 1) * old_width // (2 * width)
    resized: Mask = np.take(mask[rows], columns, axis=1)
    return resized


_CHANGED: dict[str, Callable[[Any, Mask], Mask]] = {
    **{"values": _replaced, "turn": _turned},
    **{"move": _moved, "resize": _resized},
}


# applying and undoing changes


def apply(data: Path, code: str, changes: Iterable[Change]) -> tuple[Path, list[Change]]:
    """Apply changes; if two change the same file, only the first.

    Returns:
        The folder with the originals, and the changes applied.

    Raises:
        ValueError: A change is impossible; earlier ones are applied, and can be undone.
    """
    backup = data / BACKUP
    made: list[Change] = []
    touched: set[Path] = set()
    with lock_folder(backup):
        folder = backup / f"{last_fix(data) + 1:04d}-{code}"
        folder.mkdir()
        try:
            for change in changes:
                paths = {*change.files, *(each for each in change.how if isinstance(each, Path))}
                if not paths & touched:
                    _make(change, data, folder, len(made))
                    made.append(change)
                touched |= paths
        finally:
            with suppress(OSError):  # not empty: a change was started
                folder.rmdir()
    return folder, made


def _make(change: Change, data: Path, folder: Path, number: int) -> None:
    """Make one change; one that fails before it changes a file leaves nothing in the folder."""
    contents = dict(_new_contents(change))
    before = {path: _state(path) for path in contents}
    kept: dict[Path, Path] = {}
    record = folder / _RECORD
    recorded = record.stat().st_size if record.exists() else 0
    try:
        files: dict[str, Was] = {}
        for path, content in contents.items():
            if change.kind != "rename" and not path.is_symlink():
                kept[path] = folder / f"{number}-{len(kept)}"
                _keep(path, kept[path])
            name = kept[path].name if path in kept else None
            files[_name(path, data)] = before[path], _state(content), name
        with record.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"change": change.kind, "files": files}) + "\n")
            file.flush()
            os.fsync(file.fileno())
        _put(contents, kept)
    except OSError:
        if all(_state(path) == state for path, state in before.items()):
            for path in kept.values():
                path.unlink(missing_ok=True)
            if recorded:
                os.truncate(record, recorded)
            else:
                record.unlink(missing_ok=True)
        raise


def _put(contents: dict[Path, bytes | Path | None], kept: dict[Path, Path]) -> None:
    for path, content in contents.items():
        if content is None:
            path.unlink()
            continue
        if isinstance(content, Path):  # a rename covers both paths
            content.rename(path)
            return
        _write(path, content)
        if path in kept:
            shutil.copymode(kept[path], path)


def _name(path: Path, data: Path) -> str:
    return path.relative_to(data).as_posix() if path.is_relative_to(data) else str(path.absolute())


def _state(content: Path | bytes | None) -> State:
    if isinstance(content, bytes):
        return hashlib.sha256(content).hexdigest()
    if content is None or not os.path.lexists(content):
        return None
    if content.is_symlink():
        return f"link {content.readlink()}"
    if content.is_dir():
        return f"folder {content.stat().st_ino}"
    with content.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _keep(path: Path, kept: Path) -> None:
    """Keep a file as a hard link if possible, else as a copy."""
    try:
        os.link(path, kept)
    except OSError:
        shutil.copy2(path, kept)


def _write(path: Path, content: bytes) -> None:
    with write_whole(path) as part:
        part.write_bytes(content)


def _fixes(backup: Path) -> list[tuple[int, str, Path]]:
    """The number, code and folder of every fix, in order."""
    found = [(_FIX.fullmatch(each.name), each) for each in backup.glob("*")]
    return sorted((int(match[1]), match[2], each) for match, each in found if match)


def last_fix(data: Path) -> int:
    """The number of the last fix that can be undone, or 0."""
    return max((number for number, _, _ in _fixes(data / BACKUP)), default=0)


def undo(data: Path, code: str = "", *, dry_run: bool = False) -> list[Path]:
    """Undo the last fix, or the last fix of a code.

    Args:
        data: The folder of the dataset.
        code: The code of the fix; "" for any.
        dry_run: Whether to change nothing.

    Returns:
        The restored files; with `dry_run`, those that would be restored.

    Raises:
        ValueError: There is none, or a file was changed since; nothing is restored then.
    """
    backup = data / BACKUP
    folders = [folder for _, each, folder in _fixes(backup) if code in ("", each)]
    if not folders:
        raise Error(f"{data}: nothing to undo. {backup} has no fix{f' of {code}' if code else ''}.")
    with lock_folder(backup):
        changes = _read(folders[-1], data)
        for files in changes:
            _require_unchanged(files, folders[-1])
        restored = list(dict.fromkeys(path for files in changes for path in files))
        if dry_run:
            return restored
        for files in reversed(changes):
            _put_back(files, folders[-1])
        for place in {path.parent for files in changes for path in files}:
            remove_abandoned(place)  # unfinished files of an interrupted fix
        for each in list(folders[-1].iterdir()):
            if each.name == _RECORD or _KEPT.fullmatch(each.name):
                each.unlink()
        with suppress(OSError):  # it has other files
            folders[-1].rmdir()
    with suppress(OSError):  # other fixes remain
        backup.rmdir()
    return restored


def _read(folder: Path, data: Path) -> list[dict[Path, Was]]:
    record, changes = folder / _RECORD, []
    for line in record.read_text(encoding="utf-8").splitlines() if record.exists() else ():
        with suppress(json.JSONDecodeError):  # truncated: the change was not started
            files = json.loads(line)["files"]
            changes.append({data / name: (was[0], was[1], was[2]) for name, was in files.items()})
    return changes


def _require_unchanged(files: dict[Path, Was], folder: Path) -> None:
    for path, (before, after, name) in files.items():
        now = _state(path)
        if now not in (before, after):
            raise Error(
                f"{path} was changed after the fix and is not overwritten. Move it elsewhere, or "
                "restore the fixed version, and undo again."
            )
        if name and now != before and _state(folder / name) != before:
            raise Error(
                f"{folder / name}, the original of {path}, was changed. Nothing is restored."
            )


def _put_back(files: dict[Path, Was], folder: Path) -> None:
    renamed = [path for path, (before, _, _) in files.items() if before is None]
    for path, (before, _, name) in files.items():
        if before is None or _state(path) == before:
            continue
        if renamed:
            renamed[0].rename(path)
        elif name is None:
            aside = path.with_name(f".unfinished-{os.getpid()}")
            aside.symlink_to(before.removeprefix("link "))
            aside.replace(path)
        else:
            try:
                (folder / name).replace(path)
            except OSError:  # on another disk
                _write(path, (folder / name).read_bytes())
