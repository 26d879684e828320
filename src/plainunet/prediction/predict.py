"""The `predict` verb: input paths -> images, large images, stacks and videos -> mask files."""

import glob
import json
import sys
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from io import FileIO
from pathlib import Path
from typing import Any, NamedTuple, TypeVar, get_args

import numpy as np
from numpy.typing import NDArray

from plainunet.config import Output
from plainunet.dataset.lists import find_images
from plainunet.dataset.pairs import find_masks, open_slices
from plainunet.errors import Error, require_choice, require_types, take_path, wrong
from plainunet.files import remove_abandoned, require_writable, write_json
from plainunet.formats.images import read_with_missing
from plainunet.formats.masks import read_mask
from plainunet.formats.sources import (
    ImageSource,
    files_of,
    parse_image,
    path_of,
    stamp_files,
)
from plainunet.formats.windows import Windows, as_windows, open_windows, stored_size
from plainunet.prediction.drawing import TILE, write_tiff_bands
from plainunet.prediction.geo import Georeference, find_geo
from plainunet.prediction.outputs import (
    Entries,
    Outputs,
    absolute_paths,
    count_large,
    list_names,
    mask_paths,
    require_apart,
)
from plainunet.prediction.predictor import AnyImage, Predictor
from plainunet.prediction.record import (
    RECORD,
    holds_masks,
    mask_key,
    note_video,
    require_made,
    require_own,
    require_same,
    write_record,
)
from plainunet.prediction.video import CutOffError, is_done, predict_video, video_paths
from plainunet.reporter import Forwarding, Reporter, note_warnings, or_default, silent, track
from plainunet.system import (
    first_line,
    give_freed_memory_back,
    is_out_of_memory,
    keep_freed_memory,
    spare_threads,
)
from plainunet.text import plural

VIDEO_SUFFIXES = (".mp4", ".m4v", ".avi", ".mov", ".mkv", ".webm")
LARGE = 100_000_000
"""Images of more pixels are read in parts, and their masks written as tiled TIFF."""
_WHOLE = 2**30
"""Largest image [bytes] whose file cannot be read in parts, if no memory is given."""
_FEWEST = 20
"""Images from which on it is measured which library runs the network fastest."""
_THREADS = spare_threads()
_AHEAD = _THREADS + 1
"""Number of images to read ahead, and of masks waiting to be written; more for small images."""


def predict(
    model: str | Path | Sequence[str | Path] | Predictor,
    images: AnyImage | Sequence[AnyImage],
    out: str | Path | None = None,
    *,
    save: Sequence[Output] = (),
    overwrite: bool = False,
    min_area: int = 0,
    reporter: Reporter | None = None,
    **loading: Any,
) -> "Predictions":
    """Predict the masks of many images and videos; one that fails does not stop the others.

    Args:
        model: A Predictor, or what `Predictor.load` takes.
        images: Files, folders, patterns such as `scans/*.png`, lists of paths (.txt) and videos,
            one or several; without `out` also arrays and images of Pillow.
        out: Folder to write the masks to, as `plainunet predict` does: NAME.png for each image.
            Default: they are returned, so all of them must fit in memory.
        save: Outputs in addition to the masks: "overlay", "probabilities" and others, see
            `PredictOptions`.
        overwrite: Whether to overwrite masks in `out`; otherwise those of this model are skipped.
        min_area: Pixels below which polygons are merged into their neighbours, with "gpkg".
        reporter: Receives the progress, and warnings as notes; default: shown in notebooks.
        loading: Keywords of `Predictor.load`, such as `device` or `tta`.

    Returns:
        The masks, or their paths and the failures.

    Raises:
        FileNotFoundError: A file does not exist, or a pattern matches none.
        ValueError: An argument is wrong, or masks would lie among the images; without `out`, also
            an image that cannot be read.

    Example:
        ```python
        from plainunet import predict

        done = predict("runs/first", "new-images", "masks", save=["overlay"], overwrite=True)
        print(done, done.written, done.failures)
        masks = predict("runs/first", ["new-images/i_1.jpg", "new-images/i_2.jpg"]).masks
        ```
    """
    given: Sequence[Any] = images if isinstance(images, list | tuple) else [images]
    reporter = or_default(reporter)
    _check(save, overwrite, min_area)
    if isinstance(model, Predictor) and loading:
        raise wrong(next(iter(loading)), model, "a path as model, to be loaded with it")
    if not isinstance(model, Predictor):
        several = model if isinstance(model, list | tuple) else [model]
        model = Predictor.load([take_path(each, "model") for each in several], **loading)
    if out is not None:
        folder = take_path(out, "out")
        found = find_inputs([take_path(each, "images") for each in given], folder, reporter)
        return predict_inputs(model, found, folder, save, overwrite, reporter, min_area)
    if save or min_area:
        raise wrong("out", out, "a folder, to save more than masks")
    whole = list(_whole(given, reporter))
    reading = track(whole, "predicting", len(whole), reporter)
    return Predictions(masks=[model.predict(each) for each in reading])


def _check(save: Sequence[str], overwrite: bool, min_area: int) -> None:
    """Refuse unknown outputs, a text in place of a list of them, and other types and values."""
    require_types(overwrite=(overwrite, bool), min_area=(min_area, int))
    if min_area < 0:
        raise wrong("min_area", min_area, "0 or more pixels")
    if isinstance(save, str):
        raise wrong("save", save, f"a list, such as [{save!r}]")
    for each in save:
        require_choice(each, get_args(Output), "save")


def _whole(images: Sequence[AnyImage], reporter: Reporter) -> Iterator[Any]:
    """Images to keep in memory: those that paths stand for, and others as they are."""
    for each in images:
        if isinstance(each, list | tuple):
            raise wrong("images", each, "one flat list of images")
        if not isinstance(each, str | Path):
            yield each
            continue
        found = find_inputs([Path(each)], reporter=reporter)
        if found.videos:
            raise wrong("images", each, "images, or a folder `out` for videos")
        yield from found.images


class Inputs(NamedTuple):
    """The inputs of a prediction."""

    images: list[ImageSource]
    """Image files and pages of stacks."""
    videos: list[Path]
    """Video files."""


def find_inputs(
    names: Sequence[Path], out: Path | None = None, reporter: Reporter = silent
) -> Inputs:
    """List the images and videos that the names stand for, each once, in the order of the names.

    The images of a folder or pattern are sorted by path.

    Args:
        names: Files; folders, searched recursively for images; patterns such as `scans/*.png` or
            `scans/**/*.tif`; text files (.txt) with one path per line; "-" for such lines on
            standard input. Paths are relative to the working directory.
        out: Output folder of the masks; folders and patterns skip it, folders also earlier ones.
        reporter: Receives a note on the masks of a dataset, which its folder skips too.

    Raises:
        FileNotFoundError: A file does not exist, or a pattern matches none.
        ValueError: A folder or list contains no image, or a list is not text.
    """
    paths = [path for name in names for path in _expand(name, out, reporter)]
    videos, others = [], []
    for path in paths:
        if isinstance(path, Path) and path.suffix.lower() in VIDEO_SUFFIXES:
            if not path.is_file():
                raise FileNotFoundError(f"{path} does not exist. Check the path.")
            videos.append(path)
        else:
            others.append(path)
    return Inputs(open_slices(_unique(find_images(others))), _unique(videos))


_Named = TypeVar("_Named", bound=ImageSource)


def _unique(sources: Sequence[_Named]) -> list[_Named]:
    known: dict[Path, _Named] = {}
    for source, path in zip(sources, absolute_paths(sources), strict=True):
        known.setdefault(path, source)
    return list(known.values())


def _expand(name: Path, out: Path | None, reporter: Reporter) -> Sequence[ImageSource]:
    """Expand one of the names."""
    if str(name) == "-":
        return _parse_list(sys.stdin.buffer.read(), "standard input")
    if name.suffix.lower() == ".txt" and name.is_file():
        return _parse_list(name.read_bytes(), str(name))
    source = parse_image(name)
    if glob.has_magic(str(name)) and not files_of(source)[0].exists():
        found = sorted(glob.glob(str(name), recursive=True))  # noqa: PTH207 (any path, absolute too)
        if not found:
            raise FileNotFoundError(f"{name}: no file matches this pattern.")
        return _without_outputs([Path(path) for path in found], out)
    if name.is_dir():
        images = find_images([name])
        made = {each for each in {path_of(i).parent for i in images} if holds_masks(each, name)}
        kept = [each for each in images if path_of(each).parent not in made]
        # if it is the output folder itself, `require_apart` refuses it
        kept = list(_without_outputs(kept, out) or kept)
        if masks := set(find_masks(name, kept)):
            reporter.note(
                f"{name} is a dataset, predicted without its {plural(len(masks), 'mask')}. "
                "To predict them too, name their folder."
            )
        return [each for each in kept if each not in masks]
    return [source]


def _without_outputs(paths: Sequence[ImageSource], out: Path | None) -> Sequence[ImageSource]:
    below = out and out.resolve()
    return [path for path in paths if not below or below not in path_of(path).resolve().parents]


def _parse_list(content: bytes, source: str) -> list[ImageSource]:
    """The paths on the lines of a list."""
    try:
        lines = content.decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise Error(f"{source}: not a list of paths (not UTF-8 text).") from error
    paths = [parse_image(line.strip()) for line in lines if line.strip()]
    if not paths:
        raise Error(f"{source}: contains no paths. Write one path per line.")
    return paths


def predict_large(
    predictor: Predictor,
    image: Windows,
    path: Path,
    key: str,
    reporter: Reporter = silent,
    stamp: str = "",
    geo: Georeference | None = None,
) -> NDArray[np.int64]:
    """Write the mask of an image row by row, with its coordinates, resuming an interrupted run.

    `key` identifies the model and image, and is stored in the TIFF file. `stamp` changes when the
    image file changes: rows of another stamp, key or model are discarded. Returns [K] int64, pixels
    of each class. An image that cannot be read or predicted is a ValueError, a full disk an
    OSError.
    """
    height, width, _ = image.shape
    rows, about = (path.with_name(f".{path.stem}-rows.{end}") for end in ("raw", "json"))
    description = {"key": f"{predictor.digest()} {key} {stamp}", "size": [height, width]}
    done = 0
    if rows.is_file() and about.is_file():
        known = json.loads(about.read_text(encoding="utf-8"))
        done = rows.stat().st_size // width if known == description else 0
    if done == 0:
        path.parent.mkdir(parents=True, exist_ok=True)
        rows.write_bytes(b"")
        write_json(about, description)
    with rows.open("r+b", buffering=0) as file:
        file.truncate(done * width)
        file.seek(0, 2)
        for band in predictor.mask_bands(image, done) if done < height else ():
            _append(file, band, path)
            done += len(band)
            reporter.advance(done)
    counts = np.zeros(len(predictor.card.class_names), np.int64)

    def bands() -> Iterator[NDArray[np.uint8]]:
        # read instead of mapped, because mapped pages count as resident memory
        with rows.open("rb") as file:
            while len(band := np.fromfile(file, np.uint8, TILE * width)):
                counts[:] += np.bincount(band, minlength=256)[: len(counts)]
                yield band.reshape(-1, width)

    tags = geo.tags if geo else []
    write_tiff_bands(path, (height, width), bands(), predictor.card.colors, tags, key)
    rows.unlink()
    about.unlink()
    return counts


def _append(file: FileIO, band: NDArray[np.uint8], path: Path) -> None:
    """Write rows; a disk error names the mask."""
    left = np.ascontiguousarray(band).data.cast("B")
    try:
        while left:
            left = left[file.write(left) :]
    except OSError as error:
        raise OSError(
            f"{path}: cannot be written ({error.strerror}). Free some space and run the same "
            "command again; it continues from here."
        ) from error


@dataclass(frozen=True)
class Predictions:
    """The result of `predict`; prints as a summary."""

    out: Path | None = None
    """The folder of the masks, if they were written."""
    written: list[Path] = field(default_factory=list)
    """Masks that were written."""
    failures: list[str] = field(default_factory=list)
    """An error message for each input that failed."""
    skipped: list[Path] = field(default_factory=list)
    """Masks that already existed."""
    masks: list[NDArray[np.uint8]] = field(default_factory=list)
    """Without a folder: the mask [H, W] of class ids of each image."""

    def as_dict(self) -> dict[str, Any]:
        """Return the paths and messages, ready for JSON, and the number of masks in memory."""
        return {
            "out": self.out and str(self.out),
            "written": [str(path) for path in self.written],
            "failures": self.failures,
            "skipped": [str(path) for path in self.skipped],
            "masks": len(self.masks),
        }

    def __str__(self) -> str:
        """Count the masks."""
        count, failed = len(self.written) + len(self.masks), len(self.failures)
        return count_results("mask", count, self.out or "memory", len(self.skipped), failed)


def count_results(what: str, written: int, where: object, skipped: int, failed: int) -> str:
    """The final message of a prediction: how many masks or rows there are, and were before."""
    parts = [f"{plural(written, what)} in {where}"]
    if skipped:
        parts.append(f"{skipped} already existed (--overwrite replaces them)")
    if failed:
        parts.append(f"{failed} failed")
    return ", ".join(parts)


def predict_files(
    predictor: Predictor,
    images: Sequence[ImageSource],
    out: Path,
    save: Sequence[Output] = (),
    overwrite: bool = True,
    reporter: Reporter = silent,
    min_area: int = 0,
) -> Predictions:
    """Write a mask for each image; an image that fails does not stop the others.

    While the network runs on an image, the next ones are read and the last masks written.

    Args:
        predictor: The model.
        images: Image files, as by `find_inputs`.
        out: The output folder; see `mask_paths` for the names. The mask of a GeoTIFF, or of an
            image of more than `LARGE` pixels, is a .tif.
        save: Outputs in addition to the masks.
        overwrite: Whether to replace masks that already exist.
        reporter: Receives the number of images done (of rows, for a large image), and warnings as
            notes.
        min_area: Smallest polygon of the output gpkg [pixels], see `write_polygons`.

    Raises:
        ValueError: The folder cannot be written to, masks would lie among the images, or there
            are masks of another model and `overwrite` is false.
    """
    if predictor.memory is None:
        keep_freed_memory()
    paths = mask_paths(images, out)
    outputs = Outputs(out, save, predictor.card, min_area)
    require_apart(images, outputs.known_files(paths))
    require_writable(out)
    digest = predictor.digest()
    keys = [mask_key(digest, image) for image in images]
    tasks = [Task(*each) for each in zip(images, list_names(images), paths, keys, strict=True)]
    _require_names(tasks, outputs)
    files = [path for task in tasks for path in outputs.files(task.mask)]
    for folder in {path.parent for path in files}:
        remove_abandoned(folder)
    if not overwrite:
        require_same(out, digest, outputs.min_area)
    require_made(out, paths, outputs.places())
    for task in tasks:
        if mask := existing_mask(task.mask):
            require_own(mask, task.key, overwrite)
    if not overwrite and (out / RECORD).exists():  # large masks may only lack their polygons
        write_record(out, predictor, outputs.min_area, outputs.places())
    if images:
        accelerate(predictor, images[0], len(images), reporter)
    found = Predictions(out)
    return Batch(predictor, outputs, tasks, overwrite, EachOnce(reporter), found).predict()


def accelerate(predictor: Predictor, first: ImageSource, count: int, reporter: Reporter) -> None:
    """Choose what runs the network for a number of images, by the first one."""
    if count < _FEWEST:
        return
    try:
        if _is_large(first):
            return
        image, _ = read_with_missing(first)
        note = predictor.accelerate(image, count)
    except (ValueError, OSError):  # it is reported when its turn comes
        return
    if note:
        reporter.note(note)


class EachOnce(Forwarding):
    """Drops notes that were reported before, as of each page of a stack."""

    def __init__(self, reporter: Reporter) -> None:
        """Forward to `reporter`."""
        super().__init__(reporter)
        self._known: set[str] = set()

    def note(self, text: str) -> None:
        """Forward a new note."""
        if text not in self._known:
            self._known.add(text)
            super().note(text)


class Task(NamedTuple):
    """An image, its name in lists, the path of its mask as PNG, and the key of that mask."""

    image: ImageSource
    name: str
    mask: Path
    key: str


class _Read(NamedTuple):
    """An image in memory."""

    image: NDArray[Any] | None
    """As stored, if an output needs it."""
    windows: Windows
    geo: Georeference | None


class _Done(NamedTuple):
    """A mask that already exists, and its list entries."""

    mask: Path
    entries: Entries


@dataclass
class Batch:
    """Images that are predicted one after another, while others are read and written."""

    predictor: Predictor
    outputs: Outputs
    tasks: Sequence[Task]
    overwrite: bool
    reporter: Reporter
    result: Predictions
    entries: dict[int, Entries] = field(default_factory=dict)
    """List entries by task number."""
    failures: dict[int, str] = field(default_factory=dict)
    """Error messages by task number."""
    fetch: Callable[[ImageSource], None] = lambda _: None
    """Called before an image is read, in the thread that reads it: copies it from afar."""
    waiting: deque[tuple[int, Path, "Future[Entries]"]] = field(default_factory=deque)
    """Masks that are being written."""
    has_record: bool = False
    """Whether the record of the model is written; it must precede the first mask."""
    ahead: int = _AHEAD
    """Number of images to read ahead, and of masks waiting to be written."""

    def predict(self) -> Predictions:
        """Predict all images."""
        if self.tasks:
            self.reporter.stage("predicting", len(self.tasks))
        with ThreadPoolExecutor(_THREADS) as writer:
            for group in self._groups():
                masks = self._predict_batch(group) if len(group) > 1 else {}
                for number, job in group.items():
                    task = self.tasks[number]
                    try:
                        with (
                            note_warnings(path_of(task.image), self.reporter),
                            failing_alone(task.image),
                        ):
                            self._predict_one(number, job.result(), writer, masks.get(number))
                    except (ValueError, OSError) as error:
                        self.failures[number] = str(error)
                    self._finish_writing(self.ahead)
                    self.reporter.advance(number + 1)
            self._finish_writing(0)
        self.result.failures.extend(self.failures.values())
        if self.entries:
            self.outputs.finish([self.entries[number] for number in sorted(self.entries)])
        return self.result

    def _write_record(self) -> None:
        if not self.has_record:
            made = self.outputs
            write_record(made.folder, self.predictor, made.min_area, made.places())
            self.has_record = True

    def _groups(self) -> Iterator[dict[int, "Future[_Read | _Done | None]"]]:
        """Batches of images by task number: consecutive small images of one shape."""
        group: dict[int, Future[_Read | _Done | None]] = {}
        known, most = None, 1
        for number, job in enumerate(self._read_ahead()):
            read = None if job.exception() else job.result()
            kind = (read.windows.shape, read.windows.dtype) if isinstance(read, _Read) else None
            if group and (kind != known or len(group) >= most):
                yield group
                group = {}
            if kind != known and not self.outputs.has_probabilities:
                most = self.predictor.fits_batch(kind[0][:2]) if kind else 1
                self.ahead = max(_AHEAD, 2 * most)
            group[number], known = job, kind
        yield group

    def _predict_batch(
        self, group: dict[int, "Future[_Read | _Done | None]"]
    ) -> dict[int, NDArray[np.uint8]]:
        """Masks of small images by task number; {} if one fails, to retry each one alone."""
        reads = {number: job.result() for number, job in group.items()}
        images = {n: read.windows for n, read in reads.items() if isinstance(read, _Read)}
        for number, image in images.items():
            with note_warnings(path_of(self.tasks[number].image), self.reporter):
                self.predictor.warn_of(image)
        try:
            masks = self.predictor.masks([*images.values()])
        except Exception:  # of any library that runs the network; each image is tried alone
            return {}
        return dict(zip(images, masks, strict=True))

    def _read_ahead(self) -> Iterator["Future[_Read | _Done | None]"]:
        """Read the images in order; a finished one gives its mask, a large one None."""
        with ThreadPoolExecutor(_THREADS) as reader:
            ahead: deque[Future[_Read | _Done | None]] = deque()
            for task in self.tasks:
                ahead.append(reader.submit(self._read, task))
                if len(ahead) > self.ahead:
                    yield ahead.popleft()
            yield from ahead

    def _read(self, task: Task) -> _Read | _Done | None:
        if not self.overwrite and (done := self._find_done(task)):
            return done
        self.fetch(task.image)
        if _is_large(task.image):
            return None
        if not self.outputs.has_overlay and (reduced := self.predictor.read(task.image)):
            return _Read(None, reduced, None)
        image, missing = read_with_missing(task.image)
        # with few cores, reducing ahead would slow down the network
        prepare = self.predictor.prepare if _THREADS > 1 else as_windows
        windows = prepare(image, missing)
        return _Read(image, windows, find_geo(task.image))

    def _find_done(self, task: Task) -> _Done | None:
        """The mask of an image if all its files exist."""
        mask, outputs = existing_mask(task.mask), self.outputs
        if mask is None:
            return None
        if mask.suffix == ".tif" and _is_large(mask):
            outputs.write_large(mask, missing_only=True)
            counts = count_large(mask, outputs.num_classes) if outputs.lists else None
            return _Done(mask, outputs.large_entries(task.name, counts))
        if not all(path.is_file() for path in outputs.files(mask)):
            return None
        try:
            ids = read_mask(mask) if outputs.lists else np.zeros((0, 0), np.uint8)
        except ValueError:  # damaged: predict it again
            return None
        return _Done(mask, outputs.entries(mask, task.name, ids))

    def _predict_one(
        self,
        number: int,
        read: _Read | _Done | None,
        writer: ThreadPoolExecutor,
        mask: NDArray[np.uint8] | None,
    ) -> None:
        task = self.tasks[number]
        if isinstance(read, _Done):
            self.result.skipped.append(read.mask)
            self.entries[number] = read.entries
            return
        if read is None:
            self._write_record()
            self.entries[number] = self._predict_large(task)
            self.result.written.append(task.mask.with_suffix(".tif"))
            return
        probabilities: dict[str, NDArray[Any]] = {}
        if mask is None:
            mask, probabilities = self._predict_whole(read.windows)
        self._write_record()
        path = task.mask.with_suffix(".tif" if read.geo else ".png")
        job = writer.submit(
            self.outputs.write,
            *(path, task.name, read.image, mask, probabilities, read.geo, task.key),
        )
        self.waiting.append((number, path, job))

    def _predict_whole(self, image: Windows) -> tuple[NDArray[np.uint8], dict[str, NDArray[Any]]]:
        """The mask of an image, and its probabilities as in `Outputs.quantise`."""
        predictor = self.predictor
        if not self.outputs.has_probabilities:
            return predictor.clean(np.concatenate(list(predictor.mask_bands(image)))), {}
        masks, kept = [], []
        for ids, probabilities in predictor.both_bands(image):
            masks.append(ids)
            kept.append(self.outputs.quantise(probabilities))
        joined = {name: np.concatenate([band[name] for band in kept], axis=1) for name in kept[0]}
        return predictor.clean(np.concatenate(masks)), joined

    def _predict_large(self, task: Task) -> Entries:
        predictor, note = self.predictor, f"{task.image}: more than {LARGE:,} pixels, so "
        if missing := self.outputs.beyond_areas:
            self.reporter.note(
                f"{note}only the mask, areas and gpkg can be written, not {', '.join(missing)}."
            )
        if predictor.card.min_object > 1 or predictor.card.fill_holes:
            self.reporter.note(f"{note}small objects are not removed and holes not filled.")
        most = _WHOLE if predictor.memory is None else int(predictor.memory / 4)
        path, stamp = task.mask.with_suffix(".tif"), str(stamp_files([task.image]))
        self.outputs.remove_stale(path, task.key)
        with open_windows(task.image, most) as image:
            self.reporter.stage(f"rows of {task.image.name}", image.shape[0])
            try:
                geo = find_geo(task.image)
                counts = predict_large(predictor, image, path, task.key, self.reporter, stamp, geo)
            finally:
                self.reporter.stage("predicting", len(self.tasks))
        self.outputs.write_large(path)
        return self.outputs.large_entries(task.name, counts)

    def _finish_writing(self, left: int) -> None:
        """Wait until at most `left` masks are being written."""
        while len(self.waiting) > left:
            number, path, job = self.waiting.popleft()
            try:
                with failing_alone(self.tasks[number].image):
                    self.entries[number] = job.result()
                self.result.written.append(path)
            except (ValueError, OSError) as error:
                self.failures[number] = str(error)


@contextmanager
def failing_alone(file: ImageSource) -> Iterator[None]:
    """Re-raise any failure of an image, including out-of-memory, as a ValueError naming it."""
    try:
        yield
        return
    except Exception as error:
        is_short = is_out_of_memory(error)
        message = first_line(error) if is_short else str(error)
        if not (is_short or isinstance(error, ValueError | OSError)) or str(file) in message:
            raise
    if is_short:
        give_freed_memory_back()
        fix = "Save fewer outputs at a time (--save), or end other programs."
        message = f"out of memory ({message}). {fix}"
    raise Error(f"{file}: {message}")


def _require_names(tasks: Sequence[Task], outputs: Outputs) -> None:
    """Refuse two outputs of the same path, for instance with an image folder named "values"."""
    taken: dict[Path, ImageSource] = {}
    for task in tasks:
        for path in outputs.files(task.mask):
            if taken.setdefault(path, task.image) != task.image:
                raise Error(
                    f"{path}: is an output of both {taken[path]} and {task.image}. Use a separate "
                    "output folder for each."
                )


def existing_mask(path: Path) -> Path | None:
    """The existing mask at this path, or at its .tif path, if any."""
    return next((mask for mask in (path, path.with_suffix(".tif")) if mask.is_file()), None)


def _is_large(image: ImageSource) -> bool:
    return bool(np.prod(stored_size(image)) > LARGE)


def predict_inputs(
    predictor: Predictor,
    inputs: Inputs,
    out: Path,
    save: Sequence[Output] = (),
    overwrite: bool = False,
    reporter: Reporter = silent,
    min_area: int = 0,
) -> Predictions:
    """Predict images, as by `predict_files`, and videos; a failure does not stop the others.

    For a video, the reporter receives the number of frames done.
    """
    paths = [path for video in inputs.videos for path in video_paths(video, out)]
    require_apart(inputs.videos, paths, "videos")
    require_made(out, paths)
    result = predict_files(predictor, inputs.images, out, save, overwrite, reporter, min_area)
    if inputs.videos and save:
        reporter.note("videos: only mask and overlay are written, not the other outputs.")
    named: dict[Path, Path] = {}
    for video in inputs.videos:
        masks, _ = video_paths(video, out)
        try:
            if named.setdefault(masks, video) != video:
                raise Error(
                    f"{video}: has the same name as {named[masks]}. Use a separate output folder."
                )
            size = video.stat().st_size
            if not overwrite and is_done(video, size, out):
                result.skipped.append(masks)
                continue
            write_record(out, predictor, outputs=())
            try:
                with note_warnings(video, reporter), failing_alone(video):
                    predict_video(predictor, video, out, reporter)
            except CutOffError as error:
                result.failures.append(str(error))
            note_video(out, masks.name, size)
            result.written.append(masks)
        except (ValueError, OSError) as error:
            result.failures.append(str(error))
    return result
