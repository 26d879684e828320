"""Everything that `predict` is given -> mask files: images, large images, stacks, then videos."""

import glob
import json
import os
import sys
import warnings
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache, partial
from io import FileIO
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray
from tifffile import TiffFile

from plainunet.config import Output
from plainunet.dataset.lists import find_images
from plainunet.dataset.pairs import open_slices
from plainunet.files import require_writable, write_json
from plainunet.formats.images import read_image
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
from plainunet.prediction.oom import as_failure
from plainunet.prediction.outputs import Finding, Outputs
from plainunet.prediction.predictor import Predictor, naming
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
from plainunet.system import keep_freed_memory, spare_threads


def mask_paths(images: Sequence[ImageSource], out: Path) -> list[Path]:
    """Name the masks: `<stem>.png`; where stems are equal, below their own folders.

    Args:
        images: The pictures; the stem of a page is `<stem>_<number>`.
        out: The folder for the masks.

    Returns:
        A path of its own for each picture. Pictures with equal stems keep their folders,
        relative to the folder that all pictures lie in; where even these are equal (`a.jpg`
        beside `a.png`), the suffix stays in the name: `a.jpg.png`.
    """
    full = _normal(images)
    top = _top(full)
    stems = [stem_of(image) for image in images]
    count = Counter(stems)
    paths = [
        Path(f"{stem}.png") if count[stem] == 1 else image.relative_to(top).with_name(f"{stem}.png")
        for stem, image in zip(stems, full, strict=True)
    ]
    long = [image.relative_to(top).with_name(f"{image.name}.png") for image in full]
    # a picture "a.jpg.tif" leaves the name "a.jpg.png" to "a.jpg"
    taken = Counter(paths + long)
    return [
        out / (short if taken[short] == 1 else whole)
        for short, whole in zip(paths, long, strict=True)
    ]


def list_names(images: Sequence[ImageSource]) -> list[str]:
    """Name pictures as lists of them do.

    Args:
        images: Picture files.

    Returns:
        Each file's name; where two are equal, with the folders below that which all lie in.
    """
    full = _normal(images)
    top = _top(full)
    count = Counter(image.name for image in full)
    return [
        image.name if count[image.name] == 1 else image.relative_to(top).as_posix()
        for image in full
    ]


def refuse_pictures(
    images: Sequence[ImageSource], paths: Sequence[Path], what: str = "pictures"
) -> None:
    """Refuse an output folder in which masks would replace pictures, or lie among them.

    Args:
        images: Picture files, or videos.
        paths: The masks to be written.
        what: What they are called.

    Raises:
        ValueError: They would.
    """
    pictures = {file.resolve() for image in images for file in files_of(image)}
    replaced = [path for path in paths if path.resolve() in pictures]
    if replaced:
        raise ValueError(
            f"{replaced[0]}: one of the {what}, which a mask would replace. Choose another output "
            "folder."
        )
    beside = {path.parent.resolve() for path in paths} & {path.parent for path in pictures}
    if beside:
        raise ValueError(
            f"{min(beside)}: holds the {what}, and masks among them would be taken for "
            f"{what} the next time. Choose another output folder."
        )


def _normal(images: Sequence[ImageSource]) -> list[Path]:
    """Whole paths: "x/../y" would lead out of the folder for the masks."""
    return [Path(os.path.normpath(path_of(image).absolute())) for image in images]


def _top(full: Sequence[Path]) -> Path:
    return Path(os.path.commonpath([image.parent for image in full])) if full else Path()


VIDEO_SUFFIXES = (".mp4", ".m4v", ".avi", ".mov", ".mkv", ".webm")


class Inputs(NamedTuple):
    """What there is to predict."""

    pictures: list[ImageSource]
    """Picture files, and pages of stacks."""
    videos: list[Path]
    """Video files."""


def find_inputs(names: Sequence[Path], out: Path | None = None) -> Inputs:
    """List the pictures and videos that are named.

    Args:
        names: Files; folders, searched all the way down for pictures; patterns, as in
            `scans/*.png` or `scans/**/*.tif`; text files (.txt) with a path on each line; "-"
            for such lines on standard input. Paths count from the working directory.
        out: Where masks will go: what lies there is not found below a folder or by a pattern.

    Returns:
        Each once, however it is named, in the order of the names; of a folder or pattern sorted
        by path.

    Raises:
        FileNotFoundError: One of them does not exist.
        ValueError: A folder, a pattern or a list names no picture, or a list is no text.
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
    known: dict[str, _Named] = {}
    for source in sources:
        known.setdefault(os.path.normpath(path_of(source).absolute()), source)
    return list(known.values())


def _expand(name: Path, out: Path | None) -> Sequence[ImageSource]:
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
        raise ValueError(f"{source}: names no picture. Write a path on each line.")
    return paths


LARGE = 100_000_000
"""Pixels from which on a mask is written as TIFF, and a picture read in parts."""


def predict_large(
    predictor: Predictor,
    picture: Windows,
    path: Path,
    key: str,
    on_progress: Callable[[int, int], None] | None = None,
    *,
    stamp: str = "",
) -> NDArray[np.int64]:
    """Write the mask of a picture, and begin where an earlier try has ended.

    Args:
        predictor: The model.
        picture: Its windows.
        path: The TIFF file to write.
        key: Says what the mask is made from; it is kept in the file.
        on_progress: Told how many of how many rows are done.
        stamp: Tells the picture from what it was before: rows of another one, or of another key
            or model, are not gone on with.

    Returns:
        [K] int64, pixels of each class.

    Raises:
        ValueError: The picture cannot be read or predicted.
        OSError: The disk is full.
    """
    height, width, _ = picture.shape
    rows, said = (path.with_name(f".{path.stem}-rows.{end}") for end in ("raw", "json"))
    description = {"key": f"{predictor.digest()} {key} {stamp}", "size": [height, width]}
    done = 0
    if rows.is_file() and said.is_file():
        known = json.loads(said.read_text(encoding="utf-8"))
        done = rows.stat().st_size // width if known == description else 0
    if done == 0:
        path.parent.mkdir(parents=True, exist_ok=True)
        rows.write_bytes(b"")
        write_json(said, description)
    with rows.open("r+b", buffering=0) as file:
        file.truncate(done * width)
        file.seek(0, 2)
        if done < height:
            for band in predictor.mask_bands(picture, done):
                _append(file, band, path)
                done += len(band)
                if on_progress:
                    on_progress(done, height)
    place = read_geo(picture.page) if isinstance(picture, TiffWindows) else None
    counts = np.zeros(len(predictor.card.class_names), np.int64)

    def bands() -> Iterator[NDArray[np.uint8]]:
        # read, and not mapped: pages of a mapped file count as memory of the process
        with rows.open("rb") as file:
            while len(band := np.fromfile(file, np.uint8, TILE * width)):
                counts[:] += np.bincount(band, minlength=len(counts))
                yield band.reshape(-1, width)

    tags = place.tags if place else []
    write_tiff_bands(path, (height, width), bands(), predictor.card.colors, tags, key)
    rows.unlink()
    said.unlink()
    return counts


def _append(file: FileIO, band: NDArray[np.uint8], path: Path) -> None:
    """Write rows; what is wrong with the disk is said of the mask."""
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
    """Count the pixels of a mask that `predict_large` has written.

    Args:
        path: The file.
        classes: K.

    Returns:
        [K] int64, pixels of each class.
    """
    counts = np.zeros(256, np.int64)
    with TiffFile(path) as file:
        page = file.pages.first
        for data, (*_, top, left, _), _ in page.segments():
            if data is None:  # no tile of a mask is left out
                continue
            part = data[0, : page.imagelength - top, : page.imagewidth - left]
            counts += np.bincount(part.ravel(), minlength=256)
    return counts[:classes]


_THREADS = spare_threads()
_AHEAD = _THREADS + 1
"""So many pictures are read ahead, and so many masks wait to be written."""
_WHOLE = 2**30
"""Bytes that a picture may have whose file cannot be read in parts, where no memory is given."""


class Predicted(NamedTuple):
    """What became of picture files."""

    written: list[Path]
    """Masks that were written."""
    failures: list[str]
    """A message for each picture that failed."""
    skipped: list[Path]
    """Masks that were there already."""

    def said(self, out: Path) -> list[str]:
        """Say it in words.

        Args:
            out: The folder for the masks.

        Returns:
            Parts of a sentence.
        """
        count = len(self.written)
        parts = [f"{count} mask{'s' * (count != 1)} in {out}"]
        if self.skipped:
            parts.append(f"{len(self.skipped)} were there already (--overwrite makes them again)")
        if self.failures:
            parts.append(f"{len(self.failures)} failed")
        return parts


class _Task(NamedTuple):
    """A picture, what lists call it, its mask, if that is a PNG, and what that is made from."""

    image: ImageSource
    name: str
    mask: Path
    key: str


class _Picture(NamedTuple):
    """A picture that was read."""

    image: NDArray[Any]
    prepared: Windows
    place: Place | None


class _Done(NamedTuple):
    """The mask that is there already, and what lists say of it."""

    mask: Path
    finding: Finding


_LARGE = object()


def predict_files(
    predictor: Predictor,
    images: Sequence[ImageSource],
    out: Path,
    on_progress: Callable[[int, int], None] | None = None,
    *,
    save: Sequence[Output] = (),
    overwrite: bool = True,
    on_rows: Callable[[ImageSource, int, int], None] | None = None,
) -> Predicted:
    """Write a mask for each picture; one that cannot be read does not stop the others.

    While the network sees a picture, the next ones are read and the last masks written.

    Args:
        predictor: The model.
        images: Picture files, as by `plainunet.prediction.predict.find_inputs`.
        out: The folder for the masks, see `mask_paths` for their names; that of a GeoTIFF, and
            of a picture of more than `LARGE` pixels, is a .tif.
        on_progress: Told how many of how many pictures are done.
        save: What is written beside the masks.
        overwrite: Whether masks that are there already are made again.
        on_rows: Told, of a picture of more than `LARGE` pixels, how many of how many rows are
            done.

    Returns:
        What became of them.

    Raises:
        ValueError: The folder cannot be written to, masks would lie among the pictures, or there
            are masks of another model and they shall be left.
    """
    if predictor.memory is None:
        keep_freed_memory()
    paths = mask_paths(images, out)
    refuse_pictures(images, paths)
    require_writable(out)
    outputs = Outputs(out, save, predictor.card)
    digest = predictor.digest()
    keys = [mask_key(digest, image) for image in images]
    tasks = [_Task(*each) for each in zip(images, list_names(images), paths, keys, strict=True)]
    _require_names(tasks, outputs)
    if not overwrite:
        require_same(out, digest)
        require_no_lists(out, outputs.lists)
        for task in tasks:
            if there := _there(task.mask):
                require_own(there, task.key)
    result = Predicted([], [], [])
    findings: dict[int, Finding] = {}
    waiting: deque[tuple[int, Path, Future[Finding]]] = deque()

    def write_until(left: int) -> None:
        while len(waiting) > left:
            number, path, job = waiting.popleft()
            try:
                with as_failure(tasks[number].image):
                    findings[number] = job.result()
                result.written.append(path)
            except (ValueError, OSError) as error:
                result.failures.append(str(error))

    def go_through(number: int, picture: Any) -> None:
        task = tasks[number]
        if isinstance(picture, _Done):
            result.skipped.append(picture.mask)
            findings[number] = picture.finding
            return
        if picture is _LARGE:
            record()
            findings[number] = _predict_large(predictor, task, outputs, on_rows)
            result.written.append(task.mask.with_suffix(".tif"))
            return
        seen = _predict(predictor, picture.prepared, outputs)
        record()
        path = task.mask.with_suffix(".tif" if picture.place else ".png")
        job = writer.submit(
            outputs.write, path, task.name, picture.image, *seen, picture.place, task.key
        )
        waiting.append((number, path, job))

    record = cache(lambda: write_record(out, predictor))
    pictures = _read_ahead(predictor, tasks, outputs, overwrite)
    with ThreadPoolExecutor(_THREADS) as writer:
        for number, task in enumerate(tasks):
            try:
                with naming(task.image), as_failure(task.image):
                    go_through(number, next(pictures).result())
            except (ValueError, OSError) as error:
                result.failures.append(str(error))
            write_until(_AHEAD)
            if on_progress:
                on_progress(number + 1, len(images))
        write_until(0)
    if findings:
        outputs.finish([findings[number] for number in sorted(findings)])
    return result


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


def _read_ahead(
    predictor: Predictor, tasks: Sequence[_Task], outputs: Outputs, overwrite: bool
) -> Iterator["Future[Any]"]:
    """The pictures in turn; instead of one, that it is done already, or is large."""

    def read(task: _Task) -> Any:
        if not overwrite and (done := _find_done(task, outputs)):
            return done
        if _is_large(task.image):
            return _LARGE
        image = read_image(task.image)
        # with few cores, what is reduced ahead is taken from the network
        prepared = predictor.prepare(image) if _THREADS > 1 else as_windows(image)
        return _Picture(image, prepared, find_geo(task.image))

    with ThreadPoolExecutor(_THREADS) as reader:
        ahead: deque[Future[Any]] = deque()
        for task in tasks:
            ahead.append(reader.submit(read, task))
            if len(ahead) > _AHEAD:
                yield ahead.popleft()
        yield from ahead


def _find_done(task: _Task, outputs: Outputs) -> _Done | None:
    """The mask of a picture whose files are all there."""
    mask = _there(task.mask)
    if mask is None:
        return None
    if mask.suffix == ".tif" and _is_large(mask):
        counts = count_large(mask, outputs.classes) if outputs.of_all else None
        return _Done(mask, outputs.find_large(task.name, counts))
    if not all(path.is_file() for path in outputs.files(mask)):
        return None
    try:
        ids = read_mask(mask) if outputs.of_all else np.zeros((0, 0), np.uint8)
    except ValueError:  # damaged: it is made again
        return None
    return _Done(mask, outputs.find(mask, task.name, ids))


def _predict(
    predictor: Predictor, picture: Windows, outputs: Outputs
) -> tuple[NDArray[np.uint8], dict[str, NDArray[Any]]]:
    """The mask of a picture, and its probabilities in the forms that shall be written."""
    if not outputs.of_probabilities:
        return predictor.clean(np.concatenate(list(predictor.mask_bands(picture)))), {}
    masks, kept = [], []
    for ids, probabilities in predictor.both_bands(picture):
        masks.append(ids)
        kept.append(outputs.quantise(probabilities))
    joined = {name: np.concatenate([band[name] for band in kept], axis=1) for name in kept[0]}
    return predictor.clean(np.concatenate(masks)), joined


def _there(path: Path) -> Path | None:
    """The mask of this name, or of a large picture, if there is one already."""
    return next((mask for mask in (path, path.with_suffix(".tif")) if mask.is_file()), None)


def _is_large(image: ImageSource) -> bool:
    return bool(np.prod(picture_size(image)) > LARGE)


def _predict_large(
    predictor: Predictor,
    task: _Task,
    outputs: Outputs,
    on_rows: Callable[[ImageSource, int, int], None] | None,
) -> Finding:
    if outputs.beyond_areas:
        warnings.warn(
            f"of more than {LARGE:,} pixels: its mask is written, and what --save areas says, "
            f"but not {', '.join(outputs.beyond_areas)}.",
            stacklevel=2,
        )
    if predictor.card.min_object > 1 or predictor.card.fill_holes:
        warnings.warn(
            f"of more than {LARGE:,} pixels: its small objects and holes stay.", stacklevel=2
        )
    most = _WHOLE if predictor.memory is None else int(predictor.memory / 4)
    with open_windows(task.image, most) as picture:
        counts = predict_large(
            predictor,
            picture,
            task.mask.with_suffix(".tif"),
            task.key,
            (lambda done, total: on_rows(task.image, done, total)) if on_rows else None,
            stamp=str(stamp_files([task.image])),
        )
    return outputs.find_large(task.name, counts)


def predict_inputs(
    predictor: Predictor,
    inputs: Inputs,
    out: Path,
    on_progress: Callable[[str, int, int], None],
    *,
    save: Sequence[Output] = (),
    overwrite: bool = False,
) -> Predicted:
    """Predict pictures and videos; one that fails does not stop the others.

    Args:
        predictor: The model.
        inputs: What there is to predict.
        out: The folder for the masks.
        on_progress: Told what is gone through, and how much of how much is done.
        save: What is written beside the masks of pictures.
        overwrite: Whether masks that are there already are made again.

    Returns:
        What became of them.

    Raises:
        ValueError: As by `predict_files`.
    """
    made = [path for video in inputs.videos for path in video_paths(video, out)]
    refuse_pictures(inputs.videos, made, "videos")
    result = predict_files(
        predictor,
        inputs.pictures,
        out,
        lambda done, total: on_progress("predicting", done, total),
        save=save,
        overwrite=overwrite,
        on_rows=lambda file, done, total: on_progress(f"rows of {file.name}", done, total),
    )
    if inputs.videos and save:
        warnings.warn("of videos, masks and overlay are written, and nothing else.", stacklevel=2)
    record = cache(lambda: write_record(out, predictor))
    named: dict[Path, Path] = {}
    for video in inputs.videos:
        paths = video_paths(video, out)
        if named.setdefault(paths[0], video) != video:
            result.failures.append(
                f"{video}: has the name of {named[paths[0]]}; give it another output folder."
            )
            continue
        try:
            size = video.stat().st_size
            if not overwrite and _is_done(video, size, out):
                result.skipped.append(paths[0])
                continue
            record()
            said = partial(on_progress, f"frames of {video.name}")
            try:
                with naming(video), as_failure(video):
                    predict_video(predictor, video, out, said)
            except CutOffError as error:
                result.failures.append(str(error))
            note_video(out, paths[0].name, size)
            result.written.append(paths[0])
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
