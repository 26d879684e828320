"""Everything that `predict` is given -> mask files: images, large images, stacks, then videos."""

import glob
import json
import os
import sys
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from io import FileIO
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray
from tifffile import TiffFile

from plainunet.config import Output
from plainunet.dataset.lists import find_images
from plainunet.dataset.pairs import open_slices
from plainunet.files import remove_abandoned, require_writable, write_json
from plainunet.formats.images import read_with_missing
from plainunet.formats.masks import read_mask
from plainunet.formats.sources import (
    ImageSource,
    files_of,
    parse_image,
    path_of,
    stamp_files,
    stem_of,
)
from plainunet.formats.windows import TiffWindows, Windows, as_windows, open_windows, picture_size
from plainunet.prediction.drawing import TILE, write_tiff_bands
from plainunet.prediction.geo import Place, find_geo, read_geo
from plainunet.prediction.oom import failing_alone
from plainunet.prediction.outputs import Finding, Outputs
from plainunet.prediction.predictor import Predictor, warnings_noted
from plainunet.prediction.record import (
    mask_key,
    note_video,
    require_no_lists,
    require_own,
    require_same,
    video_size,
    write_record,
)
from plainunet.prediction.video import CutOffError, predict_video, video_paths
from plainunet.reporter import Reporter, silent
from plainunet.system import keep_freed_memory, spare_threads

VIDEO_SUFFIXES = (".mp4", ".m4v", ".avi", ".mov", ".mkv", ".webm")
LARGE = 100_000_000
"""Pixels from which on a mask is written as TIFF, and an image read in parts."""
_WHOLE = 2**30
"""Bytes that an image may have whose file cannot be read in parts, where no memory is given."""
_THREADS = spare_threads()
_AHEAD = _THREADS + 1
"""So many images are read ahead, and so many masks wait to be written; of small ones, more."""


class Inputs(NamedTuple):
    """What there is to predict."""

    images: list[ImageSource]
    """Image files, and pages of stacks."""
    videos: list[Path]
    """Video files."""


def find_inputs(names: Sequence[Path], out: Path | None = None) -> Inputs:
    """List the images and videos that are named, each once, in the order of the names.

    Those of a folder or pattern are sorted by path.

    Args:
        names: Files; folders, searched all the way down for images; patterns, as in
            `scans/*.png` or `scans/**/*.tif`; text files (.txt) with a path on each line; "-"
            for such lines on standard input. Paths count from the working directory.
        out: Where masks will go: what lies there is not found below a folder or by a pattern.

    Raises:
        FileNotFoundError: One of them does not exist.
        ValueError: A folder, a pattern or a list names no image, or a list is no text.
    """
    paths = [path for name in names for path in _expand(name, out)]
    videos, others = [], []
    for path in paths:
        if isinstance(path, Path) and path.suffix.lower() in VIDEO_SUFFIXES:
            if not path.is_file():
                raise FileNotFoundError(f"{path} does not exist. Check the path.")
            videos.append(path)
        else:
            others.append(path)
    return Inputs(open_slices(_each_once(find_images(others))), _each_once(videos))


_Named = TypeVar("_Named", bound=ImageSource)


def _each_once(sources: Sequence[_Named]) -> list[_Named]:
    known: dict[Path, _Named] = {}
    for source, path in zip(sources, _whole_paths(sources), strict=True):
        known.setdefault(path, source)
    return list(known.values())


def _expand(name: Path, out: Path | None) -> Sequence[ImageSource]:
    """What one of the names stands for."""
    if str(name) == "-":
        return _listed(sys.stdin.buffer.read(), "standard input")
    if name.suffix.lower() == ".txt" and name.is_file():
        return _listed(name.read_bytes(), str(name))
    source = parse_image(name)
    if glob.has_magic(str(name)) and not files_of(source)[0].exists():
        found = sorted(glob.glob(str(name), recursive=True))  # noqa: PTH207 (any path, absolute too)
        if not found:
            raise FileNotFoundError(f"{name}: no file fits this pattern.")
        return _outside([Path(path) for path in found], out)
    if name.is_dir() and out and _is_below(out, name):
        return _outside(find_images([name]), out)
    return [source]


def _is_below(path: Path, folder: Path) -> bool:
    return folder.resolve() in path.resolve().parents


def _outside(paths: Sequence[ImageSource], out: Path | None) -> Sequence[ImageSource]:
    return [path for path in paths if out is None or not _is_below(path_of(path), out)]


def _listed(content: bytes, source: str) -> list[ImageSource]:
    """The paths on the lines of a list."""
    try:
        lines = content.decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"{source}: not a list of paths (it is no text in UTF-8).") from error
    paths = [parse_image(line.strip()) for line in lines if line.strip()]
    if not paths:
        raise ValueError(f"{source}: names no image. Write a path on each line.")
    return paths


def mask_paths(images: Sequence[ImageSource], out: Path) -> list[Path]:
    """Name the masks: `<stem>.png`, of a page `<stem>_<number>.png`, each a path of its own.

    Images with equal stems keep their folders, relative to the folder that all images lie in;
    where even these are equal (`a.jpg` beside `a.png`), the suffix stays in the name: `a.jpg.png`.
    """
    full = _whole_paths(images)
    top = _common_folder(full)
    stems = [stem_of(image) for image in images]
    count = Counter(stems)
    paths = [
        Path(f"{stem}.png") if count[stem] == 1 else image.relative_to(top).with_name(f"{stem}.png")
        for stem, image in zip(stems, full, strict=True)
    ]
    long = [image.relative_to(top).with_name(f"{image.name}.png") for image in full]
    # an image "a.jpg.tif" leaves the name "a.jpg.png" to "a.jpg"
    taken = Counter(paths + long)
    return [
        out / (short if taken[short] == 1 else whole)
        for short, whole in zip(paths, long, strict=True)
    ]


def list_names(images: Sequence[ImageSource]) -> list[str]:
    """Name images as lists of them do: file names, with folders where two are equal."""
    full = _whole_paths(images)
    top = _common_folder(full)
    count = Counter(image.name for image in full)
    return [
        image.name if count[image.name] == 1 else image.relative_to(top).as_posix()
        for image in full
    ]


def require_apart(
    images: Sequence[ImageSource], paths: Sequence[Path], what: str = "images"
) -> None:
    """Refuse an output folder in which masks would replace images, or lie among them."""
    files = {file.resolve() for image in images for file in files_of(image)}
    replaced = [path for path in paths if path.resolve() in files]
    if replaced:
        raise ValueError(
            f"{replaced[0]}: one of the {what}, which a mask would replace. Choose another output "
            "folder."
        )
    beside = {path.parent.resolve() for path in paths} & {file.parent for file in files}
    if beside:
        raise ValueError(
            f"{min(beside)}: holds the {what}, and masks among them would be taken for "
            f"{what} the next time. Choose another output folder."
        )


def _whole_paths(images: Sequence[ImageSource]) -> list[Path]:
    """Absolute paths without "..", which would lead out of the folder for the masks."""
    return [Path(os.path.normpath(path_of(image).absolute())) for image in images]


def _common_folder(full: Sequence[Path]) -> Path:
    return Path(os.path.commonpath([image.parent for image in full])) if full else Path()


def predict_large(
    predictor: Predictor,
    image: Windows,
    path: Path,
    key: str,
    reporter: Reporter = silent,
    stamp: str = "",
) -> NDArray[np.int64]:
    """Write the mask of an image row by row, and begin where an earlier try has ended.

    `key` says what the mask is made from, and is kept in the TIFF file. `stamp` tells the image
    from what it was before: rows of another one, or of another key or model, are not gone on with.
    Returns [K] int64, pixels of each class. An image that cannot be read or predicted is a
    ValueError, a full disk an OSError.
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
    place = read_geo(image.page) if isinstance(image, TiffWindows) else None
    counts = np.zeros(len(predictor.card.class_names), np.int64)

    def bands() -> Iterator[NDArray[np.uint8]]:
        # read, and not mapped: pages of a mapped file count as memory of the process
        with rows.open("rb") as file:
            while len(band := np.fromfile(file, np.uint8, TILE * width)):
                counts[:] += np.bincount(band, minlength=256)[: len(counts)]
                yield band.reshape(-1, width)

    tags = place.tags if place else []
    write_tiff_bands(path, (height, width), bands(), predictor.card.colors, tags, key)
    rows.unlink()
    about.unlink()
    return counts


def _append(file: FileIO, band: NDArray[np.uint8], path: Path) -> None:
    """Write rows; an error of the disk names the mask."""
    left = np.ascontiguousarray(band).data.cast("B")
    try:
        while left:
            left = left[file.write(left) :]
    except OSError as error:
        raise OSError(
            f"{path}: cannot be written ({error.strerror}). Make room for it, and run the same "
            "command again: it goes on where it was."
        ) from error


def count_large(path: Path, classes: int) -> NDArray[np.int64]:
    """Count the pixels [K] int64 of each class in a mask that `predict_large` has written."""
    counts = np.zeros(256, np.int64)
    with TiffFile(path) as file:
        page = file.pages.first
        for data, (*_, top, left, _), _ in page.segments():
            if data is None:  # no tile of a mask is left out
                continue
            part = data[0, : page.imagelength - top, : page.imagewidth - left]
            counts += np.bincount(part.ravel(), minlength=256)
    return counts[:classes]


class Predicted(NamedTuple):
    """What became of image files."""

    written: list[Path]
    """Masks that were written."""
    failures: list[str]
    """A message for each image that failed."""
    skipped: list[Path]
    """Masks that were there already."""

    def summary(self, out: Path) -> str:
        """What the user reads at the end."""
        count = len(self.written)
        parts = [f"{count} mask{'s' * (count != 1)} in {out}"]
        if self.skipped:
            parts.append(f"{len(self.skipped)} were there already (--overwrite makes them again)")
        if self.failures:
            parts.append(f"{len(self.failures)} failed")
        return ", ".join(parts)


def predict_files(
    predictor: Predictor,
    images: Sequence[ImageSource],
    out: Path,
    save: Sequence[Output] = (),
    overwrite: bool = True,
    reporter: Reporter = silent,
) -> Predicted:
    """Write a mask for each image; one that cannot be read does not stop the others.

    While the network runs on an image, the next ones are read and the last masks written.

    Args:
        predictor: The model.
        images: Image files, as by `find_inputs`.
        out: The folder for the masks, see `mask_paths` for their names; that of a GeoTIFF, and
            of an image of more than `LARGE` pixels, is a .tif.
        save: What is written beside the masks.
        overwrite: Whether masks that are there already are made again.
        reporter: Told how many images are done, and of a large one, how many rows; warnings are
            its notes.

    Raises:
        ValueError: The folder cannot be written to, masks would lie among the images, or there
            are masks of another model, which may not be overwritten.
    """
    if predictor.memory is None:
        keep_freed_memory()
    paths = mask_paths(images, out)
    require_apart(images, paths)
    require_writable(out)
    outputs = Outputs(out, save, predictor.card)
    digest = predictor.digest()
    keys = [mask_key(digest, image) for image in images]
    tasks = [_Task(*each) for each in zip(images, list_names(images), paths, keys, strict=True)]
    _require_names(tasks, outputs)
    for folder in {path.parent for task in tasks for path in outputs.files(task.mask)}:
        remove_abandoned(folder)
    if not overwrite:
        require_same(out, digest)
        require_no_lists(out, outputs.lists)
        for task in tasks:
            if mask := _existing(task.mask):
                require_own(mask, task.key)
    return _Batch(predictor, outputs, tasks, overwrite, reporter).predict()


class _Task(NamedTuple):
    """An image, its name in lists, its mask, if that is a PNG, and what that is made from."""

    image: ImageSource
    name: str
    mask: Path
    key: str


class _Read(NamedTuple):
    """An image that was read."""

    image: NDArray[Any]
    windows: Windows
    place: Place | None


class _Done(NamedTuple):
    """The mask that is there already, and what lists hold of it."""

    mask: Path
    finding: Finding


@dataclass
class _Batch:
    """The images of one call of `predict_files`."""

    predictor: Predictor
    outputs: Outputs
    tasks: Sequence[_Task]
    overwrite: bool
    reporter: Reporter
    result: Predicted = field(default_factory=lambda: Predicted([], [], []))
    findings: dict[int, Finding] = field(default_factory=dict)
    """What lists hold, by the number of the task."""
    waiting: deque[tuple[int, Path, "Future[Finding]"]] = field(default_factory=deque)
    """Masks that are being written."""
    has_record: bool = False
    """Whether the folder has a record of the model, as before its first mask."""
    ahead: int = _AHEAD
    """So many images are read ahead, and so many masks wait to be written."""

    def predict(self) -> Predicted:
        """Predict the images, in turn."""
        if self.tasks:
            self._begin()
        with ThreadPoolExecutor(_THREADS) as writer:
            for group in self._groups():
                masks = self._predict_together(group) if len(group) > 1 else {}
                for number, job in group.items():
                    task = self.tasks[number]
                    try:
                        with warnings_noted(task.image, self.reporter), failing_alone(task.image):
                            self._predict_one(number, job.result(), writer, masks.get(number))
                    except (ValueError, OSError) as error:
                        self.result.failures.append(str(error))
                    self._finish_writing(self.ahead)
                    self.reporter.advance(number + 1)
            self._finish_writing(0)
        if self.findings:
            self.outputs.finish([self.findings[number] for number in sorted(self.findings)])
        return self.result

    def _begin(self) -> None:
        self.reporter.stage("predicting", len(self.tasks))

    def _write_record(self) -> None:
        if not self.has_record:
            write_record(self.outputs.folder, self.predictor)
            self.has_record = True

    def _groups(self) -> Iterator[dict[int, "Future[_Read | _Done | None]"]]:
        """The images in turn, by their numbers: small ones of one shape together."""
        group: dict[int, Future[_Read | _Done | None]] = {}
        known, most = None, 1
        for number, job in enumerate(self._read_ahead()):
            read = None if job.exception() else job.result()
            kind = (read.image.shape, read.image.dtype) if isinstance(read, _Read) else None
            if group and (kind != known or len(group) >= most):
                yield group
                group = {}
            if kind != known and not self.outputs.has_probabilities:
                most = self.predictor.fits_batch(kind[0][:2]) if kind else 1
                self.ahead = max(_AHEAD, 2 * most)
            group[number], known = job, kind
        yield group

    def _predict_together(
        self, group: dict[int, "Future[_Read | _Done | None]"]
    ) -> dict[int, NDArray[np.uint8]]:
        """The masks of small images by number; none where one fails, which then fails alone."""
        reads = {number: job.result() for number, job in group.items()}
        images = {n: read.windows for n, read in reads.items() if isinstance(read, _Read)}
        for number, image in images.items():
            with warnings_noted(self.tasks[number].image, self.reporter):
                self.predictor.warn_of(image)
        try:
            masks = self.predictor.masks([*images.values()])
        except (ValueError, RuntimeError, MemoryError):
            return {}
        return dict(zip(images, masks, strict=True))

    def _read_ahead(self) -> Iterator["Future[_Read | _Done | None]"]:
        """The images in turn; instead of one, its mask if that is done, or None if it is large."""
        with ThreadPoolExecutor(_THREADS) as reader:
            ahead: deque[Future[_Read | _Done | None]] = deque()
            for task in self.tasks:
                ahead.append(reader.submit(self._read, task))
                if len(ahead) > self.ahead:
                    yield ahead.popleft()
            yield from ahead

    def _read(self, task: _Task) -> _Read | _Done | None:
        if not self.overwrite and (done := self._find_done(task)):
            return done
        if _is_large(task.image):
            return None
        image, missing = read_with_missing(task.image)
        # with few cores, what is reduced ahead is taken from the network
        prepare = self.predictor.prepare if _THREADS > 1 else as_windows
        windows = prepare(image, missing)
        return _Read(image, windows, find_geo(task.image))

    def _find_done(self, task: _Task) -> _Done | None:
        """The mask of an image whose files are all there."""
        mask, outputs = _existing(task.mask), self.outputs
        if mask is None:
            return None
        if mask.suffix == ".tif" and _is_large(mask):
            counts = count_large(mask, outputs.num_classes) if outputs.lists else None
            return _Done(mask, outputs.find_large(task.name, counts))
        if not all(path.is_file() for path in outputs.files(mask)):
            return None
        try:
            ids = read_mask(mask) if outputs.lists else np.zeros((0, 0), np.uint8)
        except ValueError:  # damaged: it is made again
            return None
        return _Done(mask, outputs.find(mask, task.name, ids))

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
            self.findings[number] = read.finding
            return
        if read is None:
            self._write_record()
            self.findings[number] = self._predict_large(task)
            self.result.written.append(task.mask.with_suffix(".tif"))
            return
        probabilities: dict[str, NDArray[Any]] = {}
        if mask is None:
            mask, probabilities = self._predict_whole(read.windows)
        self._write_record()
        path = task.mask.with_suffix(".tif" if read.place else ".png")
        job = writer.submit(
            self.outputs.write,
            *(path, task.name, read.image, mask, probabilities, read.place, task.key),
        )
        self.waiting.append((number, path, job))

    def _predict_whole(self, image: Windows) -> tuple[NDArray[np.uint8], dict[str, NDArray[Any]]]:
        """The mask of an image, and its probabilities as they are written."""
        predictor = self.predictor
        if not self.outputs.has_probabilities:
            return predictor.clean(np.concatenate(list(predictor.mask_bands(image)))), {}
        masks, kept = [], []
        for ids, probabilities in predictor.both_bands(image):
            masks.append(ids)
            kept.append(self.outputs.quantise(probabilities))
        joined = {name: np.concatenate([band[name] for band in kept], axis=1) for name in kept[0]}
        return predictor.clean(np.concatenate(masks)), joined

    def _predict_large(self, task: _Task) -> Finding:
        predictor, note = self.predictor, f"{task.image}: of more than {LARGE:,} pixels: "
        if missing := self.outputs.beyond_areas:
            self.reporter.note(
                f"{note}its mask is written, and what --save areas says, but not "
                f"{', '.join(missing)}."
            )
        if predictor.card.min_object > 1 or predictor.card.fill_holes:
            self.reporter.note(f"{note}its small objects and holes stay.")
        most = _WHOLE if predictor.memory is None else int(predictor.memory / 4)
        path, stamp = task.mask.with_suffix(".tif"), str(stamp_files([task.image]))
        with open_windows(task.image, most) as image:
            self.reporter.stage(f"rows of {task.image.name}", image.shape[0])
            try:
                counts = predict_large(predictor, image, path, task.key, self.reporter, stamp)
            finally:
                self._begin()
        return self.outputs.find_large(task.name, counts)

    def _finish_writing(self, left: int) -> None:
        """Wait until no more than `left` masks are being written."""
        while len(self.waiting) > left:
            number, path, job = self.waiting.popleft()
            try:
                with failing_alone(self.tasks[number].image):
                    self.findings[number] = job.result()
                self.result.written.append(path)
            except (ValueError, OSError) as error:
                self.result.failures.append(str(error))


def _require_names(tasks: Sequence[_Task], outputs: Outputs) -> None:
    """Refuse outputs of which two would have the same name, as in a folder called "values"."""
    taken: dict[Path, ImageSource] = {}
    for task in tasks:
        for path in outputs.files(task.mask):
            if taken.setdefault(path, task.image) != task.image:
                raise ValueError(
                    f"{path}: would be made from {taken[path]} and from {task.image} as well. "
                    "Predict them into different folders."
                )


def _existing(path: Path) -> Path | None:
    """The mask of this name, or of a large image, if there is one already."""
    return next((mask for mask in (path, path.with_suffix(".tif")) if mask.is_file()), None)


def _is_large(image: ImageSource) -> bool:
    return bool(np.prod(picture_size(image)) > LARGE)


def predict_inputs(
    predictor: Predictor,
    inputs: Inputs,
    out: Path,
    save: Sequence[Output] = (),
    overwrite: bool = False,
    reporter: Reporter = silent,
) -> Predicted:
    """Predict images, as `predict_files`, and videos; one that fails does not stop the others.

    Of a video the reporter is told how many frames are done.
    """
    paths = [path for video in inputs.videos for path in video_paths(video, out)]
    require_apart(inputs.videos, paths, "videos")
    result = predict_files(predictor, inputs.images, out, save, overwrite, reporter)
    if inputs.videos and save:
        reporter.note("of videos, masks and overlay are written, and nothing else.")
    named: dict[Path, Path] = {}
    for video in inputs.videos:
        masks, _ = video_paths(video, out)
        try:
            if named.setdefault(masks, video) != video:
                raise ValueError(
                    f"{video}: has the name of {named[masks]}; give it another output folder."
                )
            size = video.stat().st_size
            if not overwrite and _is_done(video, size, out):
                result.skipped.append(masks)
                continue
            write_record(out, predictor)
            try:
                with warnings_noted(video, reporter), failing_alone(video):
                    predict_video(predictor, video, out, reporter)
            except CutOffError as error:
                result.failures.append(str(error))
            note_video(out, masks.name, size)
            result.written.append(masks)
        except (ValueError, OSError) as error:
            result.failures.append(str(error))
    return result


def _is_done(video: Path, size: int, out: Path) -> bool:
    """Whether all that is made of a video is there; refuse what was made from another one."""
    paths = video_paths(video, out)
    there = [path for path in paths if path.is_file()]
    if there and video_size(out, paths[0].name) != size:
        raise ValueError(
            f"{there[0]}: is there already, and was not made from {video} by this model. Give "
            "--overwrite to make it again, or choose another output folder."
        )
    return len(there) == len(paths)
