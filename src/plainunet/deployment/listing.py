"""The listing of bulk prediction: folders, manifests, tar files, URLs -> parts of ids and paths.

An input's id names its result, `OUT/ID.png` or a row of a Parquet file, so whoever predicts it
again, in whatever order and on whatever machine, writes the same result once more, not a second.
"""

import csv
import hashlib
import io
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from itertools import groupby, islice
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from plainunet.dataset.layouts import walk
from plainunet.dataset.pairs import open_slices
from plainunet.errors import Error
from plainunet.files import require_regular
from plainunet.formats.images import IMAGE_SUFFIXES
from plainunet.formats.sources import parse_image, stem_of
from plainunet.prediction.exported import need
from plainunet.prediction.outputs import mask_paths
from plainunet.prediction.predict import find_inputs
from plainunet.prediction.record import holds_masks
from plainunet.system import first_line, shorten

TAR_SUFFIXES = (".tar", ".tar.gz", ".tgz")
_CHECKED = 50_000_000
"""Largest number of ids that are compared with each other: eight bytes of memory each."""
_LONGEST = 251
"""Largest length of a file or folder in an id [bytes]: file systems take 255, `.png` included."""
_URL = re.compile(r"[a-z][a-z0-9+.-]+:/+", re.IGNORECASE)


def is_url(path: str) -> bool:
    """Whether a path is a URL of a file that is not on this machine."""
    return bool(_URL.match(path)) and not path.lower().startswith("file:")


def is_tar(path: str) -> bool:
    """Whether a path is a tar file, by its suffix."""
    return path.lower().endswith(TAR_SUFFIXES)


def open_remote(url: str) -> tuple[Any, str]:
    """The file system of a URL and the path in it; credentials are those of the environment.

    Raises:
        ValueError: fsspec, or its library for this kind of URL, is not installed.
    """
    core = need("fsspec.core")
    try:
        system, path = core.url_to_fs(url)
    except (ImportError, ValueError) as error:
        raise Error(f"{url}: cannot be opened ({first_line(error)}).") from None
    return system, str(path)


def fetch(url: str, file: Path) -> None:
    """Copy a remote file; its file system retries what fails in passing.

    Raises:
        OSError: It does not exist, or cannot be read.
    """
    system, path = open_remote(url)
    try:
        system.get_file(path, str(file))
    except FileNotFoundError:
        raise FileNotFoundError(f"{url} does not exist. Check the address.") from None
    except Exception as error:  # each file system has its own
        raise OSError(f"{url}: cannot be read ({first_line(error)}).") from None


class Part(NamedTuple):
    """The unit of work: some inputs, or one tar file with all its members."""

    name: str
    """Unique; the stem of its Parquet file."""
    ids: Sequence[str]
    paths: Sequence[str]
    """Paths, `str(Page)` of slices, or URLs."""


@dataclass(frozen=True)
class Listing:
    """All inputs, or every n-th."""

    ids: Sequence[str] = ()
    paths: Sequence[str] = ()
    manifests: Sequence[str] = ()
    """Parquet files with more inputs, which are read only when needed."""
    total: int = 0
    """Number of inputs of this shard; a tar file is one."""
    shard: tuple[int, int] = (1, 1)
    """Number of the shard, from 1, and number of shards."""
    size: int = 64
    """Number of inputs in a part."""
    stamp: str = field(default="", compare=False)
    """Changes if the inputs change."""

    def parts(self) -> Iterator[Part]:
        """The parts of this shard; the same ones at each call."""
        number, several = self.shard
        rows = islice(self._rows(), number - 1, None, several)
        for count, part in enumerate(_parts(rows, self.size)):
            ids, paths = zip(*part, strict=True)
            yield Part(f"{number:04}-of-{several:04}-{count:08}", ids, paths)

    def head(self) -> "Listing":
        """The same with its first input alone."""
        _, ids, paths = next(self.parts())
        return replace(self, ids=ids[:1], paths=paths[:1], manifests=())

    def _rows(self) -> Iterator[tuple[str, str]]:
        yield from zip(self.ids, self.paths, strict=True)
        for manifest in self.manifests:
            for batch in _read_parquet(manifest):
                yield from zip(*batch, strict=True)


def _parts(rows: Iterator[tuple[str, str]], size: int) -> Iterator[list[tuple[str, str]]]:
    """Parts of up to `size` rows; a tar file is alone."""
    part: list[tuple[str, str]] = []
    for row in rows:
        if is_tar(row[1]):
            yield from [part] * bool(part)
            yield [row]
            part = []
            continue
        part.append(row)
        if len(part) == size:
            yield part
            part = []
    yield from [part] * bool(part)


def parse_shard(text: str | None) -> tuple[int, int]:
    """Parse "2/8", the second of eight shards.

    Raises:
        ValueError: It is not of this form, or out of range.
    """
    found = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text or "1/1")
    if not found or not 1 <= int(found[1]) <= int(found[2]):
        raise Error(f"--shard {text}: must be i/n with i from 1 to n, such as 2/8.")
    return int(found[1]), int(found[2])


def list_inputs(
    names: Sequence[str], manifest: str | None, out: Path, shard: tuple[int, int], size: int
) -> Listing:
    """List the inputs of a bulk prediction.

    Args:
        names: Image files, folders, patterns and lists, as for `find_inputs`; tar files or patterns
            of them; URLs of images, folders and tar files, or patterns of them.
        manifest: A CSV or Parquet file (or a folder of these) with the columns id and path.
        out: The output folder; folders and patterns skip it, folders also earlier ones.
        shard: Number of the shard, from 1, and number of shards.
        size: Number of inputs in a part.

    Raises:
        FileNotFoundError: An input does not exist.
        ValueError: There are no inputs, two have the same id, or an input is a video.
    """
    if bool(names) == bool(manifest):
        raise Error("Name IMAGES or a --manifest: one of them, and not both.")
    ids: Sequence[str] = ()
    paths: list[str] = []
    manifests: Sequence[str] = ()
    if manifest is None:
        found = dict.fromkeys(path for name in names for path in _expand(name, out))
        paths = list(found)
        del found  # of a million inputs it is large
        ids, total = _ids(paths), len(paths)
    elif manifest.lower().endswith(".csv"):
        ids, paths = _read_csv(manifest)
        total = len(ids)
    else:
        manifests, total = _find_parquet(manifest)
    listing = Listing(ids, paths, manifests, total)
    stamp = _check_ids(listing, manifest or "the inputs")
    own = len(range(shard[0] - 1, total, shard[1]))
    return Listing(ids, paths, manifests, own, shard, size, stamp)


def _expand(name: str, out: Path) -> Iterator[str]:
    """The inputs that one name stands for; local ones by their absolute paths."""
    if is_url(name):
        yield from _expand_url(name)
        return
    path = Path(_local(name)) if name.lower().startswith("file:") else Path(name)
    if path.is_dir():
        yield from _expand_folder(path, out)
    elif is_tar(name):
        for file in sorted(path.parent.glob(path.name)) or [path]:
            if not file.is_file():
                raise FileNotFoundError(f"{file} does not exist. Check the path.")
            yield _absolute(file)
    else:
        inputs = find_inputs([path], out)
        if inputs.videos:
            raise Error(
                f"{inputs.videos[0]}: is a video. Predict videos without --engine, --manifest, "
                "--shard and --save parquet."
            )
        yield from (_absolute(image) for image in inputs.images)


def _expand_folder(folder: Path, out: Path) -> Iterator[str]:
    """The images below a folder, one at a time: a million paths are a gigabyte as `Path`."""
    own, around, found = out.resolve(), {*folder.resolve().parents}, False
    for parent, images in groupby(walk(folder), lambda image: image.parent):
        real = parent.resolve()
        # an output folder around all images is no reason to skip them
        if own in {real, *real.parents} - around or holds_masks(parent, folder):
            continue
        for image in images:
            found = True
            yield from map(_absolute, open_slices([image]))
    if not found and own == folder.resolve():
        raise Error(f"{folder}: is the output folder itself. Choose another --out.")
    if not found:
        raise Error(f"{folder}: holds no images. Check the path.")


def _expand_url(url: str) -> Iterator[str]:
    system, path = open_remote(url)
    try:
        if any(sign in path for sign in "*?["):
            found = system.glob(path)
        elif path.lower().endswith((*IMAGE_SUFFIXES, *TAR_SUFFIXES)):
            found = [path]  # whether it exists shows when it is read
        else:
            found = [each for each in system.find(path) if _suffix(each) in IMAGE_SUFFIXES]
    except Exception as error:  # each file system has its own
        raise Error(
            f"{url}: cannot be listed ({first_line(error)}). Check the address, and the "
            "credentials in the environment."
        ) from None
    if not found:
        raise FileNotFoundError(f"{url}: no images there. Check the address.")
    yield from (str(system.unstrip_protocol(each)) for each in sorted(found))


def _suffix(path: str) -> str:
    return os.path.splitext(path)[1].lower()  # noqa: PTH122 (a million strings)


def _ids(paths: Sequence[str]) -> list[str]:
    """Ids from paths: the names of their masks, as by `mask_paths`, without suffix."""
    stems = [
        path.rpartition("/")[2] if is_tar(path) else stem_of(parse_image(path)) for path in paths
    ]
    stems = [stem[: -len(_tar_suffix(stem))] if is_tar(stem) else stem for stem in stems]
    names = {path.rpartition("/")[2] for path in paths}
    if len(set(stems)) == len(stems) and names.isdisjoint(stems):
        return stems
    masks = mask_paths([parse_image(path) for path in paths], Path())
    return [mask.with_suffix("").as_posix() for mask in masks]


def _tar_suffix(name: str) -> str:
    return next(suffix for suffix in TAR_SUFFIXES if name.lower().endswith(suffix))


def _open(path: str) -> BinaryIO:
    """Open a manifest, local or remote."""
    if not is_url(path):
        require_regular(Path(_local(path)))
        return Path(_local(path)).open("rb")
    system, name = open_remote(path)
    try:
        system.info(name)  # some file systems connect when a file is read
        file: BinaryIO = system.open(name, "rb")
    except Exception as error:  # each file system has its own
        raise Error(f"{path}: cannot be opened ({first_line(error)}).") from None
    return file


def _local(path: str) -> str:
    """The absolute path, or the URL."""
    if is_url(path):
        return path
    return _absolute(re.sub(r"^file:/+", "/", path, flags=re.IGNORECASE))


def _absolute(path: object) -> str:
    """The absolute path as text, for machines with another working folder."""
    return os.path.abspath(str(path))  # noqa: PTH100 (a million paths)


def _read_csv(manifest: str) -> tuple[list[str], list[str]]:
    with _open(manifest) as file, io.TextIOWrapper(file, "utf-8-sig", newline="") as text:
        try:
            rows = csv.DictReader(text)
            if not {"id", "path"} <= {*(rows.fieldnames or ())}:
                raise Error(f"{manifest}: its first line must name the columns id and path.")
            ids, paths = [], []
            for row in rows:
                if not row["id"] or not row["path"]:
                    raise Error(f"{manifest}, line {rows.line_num}: id or path is missing.")
                ids.append(row["id"])
                paths.append(_local(row["path"]))
        except (UnicodeDecodeError, csv.Error) as error:
            raise Error(f"{manifest}: is not a CSV file in UTF-8 ({error}).") from None
    return ids, paths


def _find_parquet(manifest: str) -> tuple[list[str], int]:
    """The Parquet files of a manifest, and their number of rows."""
    arrow, parquet = need("pyarrow"), need("pyarrow.parquet")
    folder = Path(manifest)
    files = sorted(map(str, folder.glob("*.parquet"))) if folder.is_dir() else [manifest]
    total = 0
    for path in files:
        try:
            with _open(path) as file:
                opened = parquet.ParquetFile(file)
                missing = {"id", "path"} - {*opened.schema_arrow.names}
                total += opened.metadata.num_rows
        except arrow.ArrowException as error:
            raise Error(f"{path}: is not a CSV or Parquet file ({error}).") from None
        if missing:
            raise Error(f"{path}: must have the columns id and path.")
    return [_local(path) for path in files], total


def _read_parquet(path: str) -> Iterator[tuple[list[str], list[str]]]:
    with _open(path) as file, closing(need("pyarrow.parquet").ParquetFile(file)) as opened:
        for batch in opened.iter_batches(columns=["id", "path"]):
            rows = batch.to_pydict()
            if None in rows["id"] or None in rows["path"]:
                raise Error(f"{path}: id or path is missing in a row.")
            yield list(map(str, rows["id"])), [_local(path) for path in rows["path"]]


def _check_ids(listing: Listing, source: str) -> str:
    """Refuse ids that cannot name a file or occur twice; returns a stamp of the inputs."""
    if not listing.total:
        raise Error(f"{source}: contains no inputs.")
    digest = hashlib.sha256(str(listing.total).encode())

    def hashes() -> Iterator[int]:
        for name, path in islice(listing._rows(), _CHECKED):
            require_id(name, source)
            digest.update(f"{name}\0{path}\0".encode(errors="surrogateescape"))
            yield hash(name)

    found = np.sort(np.fromiter(hashes(), np.int64))
    if (found[1:] == found[:-1]).any():
        seen: set[str] = set()
        for name, _ in listing._rows():
            if name in seen:
                raise Error(f"{source}: the id {name!r} occurs twice. Make the ids unique.")
            seen.add(name)
    return digest.hexdigest()


def require_id(name: str, source: str) -> None:
    """Refuse an id whose result would lie outside of the output folder."""
    path = PurePosixPath(name)
    is_below = str(path) == name and not path.is_absolute() and ".." not in path.parts
    is_short = all(len(os.fsencode(part)) <= _LONGEST for part in path.parts)
    if not (is_below and is_short) or "\\" in name or any(each < " " for each in name):
        raise Error(
            f"{source}: the id {shorten(repr(name))} cannot name a file. Use letters, digits, - "
            f"and _, / for folders, and at most {_LONGEST} bytes for each part."
        )
