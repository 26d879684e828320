"""Masks for many picture files."""

import warnings
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from plainunet.data.ahead import spare_threads
from plainunet.data.encodings.stored import read_mask
from plainunet.data.images import read_image
from plainunet.data.places import stamp_files
from plainunet.data.windows import Windows, as_windows, open_windows, picture_size
from plainunet.files import require_writable
from plainunet.memory import keep_freed_memory
from plainunet.prediction.geo import Place, find_geo
from plainunet.prediction.large import LARGE, count_large, predict_large
from plainunet.prediction.names import list_names, mask_paths, refuse_pictures
from plainunet.prediction.options import Output
from plainunet.prediction.outputs.record import (
    mask_key,
    require_no_lists,
    require_own,
    require_same,
    write_record,
)
from plainunet.prediction.outputs.save import Finding, Outputs
from plainunet.prediction.predictor import Predictor
from plainunet.prediction.shortage import as_failure
from plainunet.prediction.unlike import naming

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

    image: Path
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
    images: Sequence[Path],
    out: Path,
    on_progress: Callable[[int, int], None] | None = None,
    *,
    save: Sequence[Output] = (),
    overwrite: bool = True,
    on_rows: Callable[[Path, int, int], None] | None = None,
) -> Predicted:
    """Write a mask for each picture; one that cannot be read does not stop the others.

    While the network sees a picture, the next ones are read and the last masks written.

    Args:
        predictor: The model.
        images: Picture files, as by `plainunet.prediction.inputs.find_inputs`.
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
    taken: dict[Path, Path] = {}
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


def _is_large(image: Path) -> bool:
    return bool(np.prod(picture_size(image)) > LARGE)


def _predict_large(
    predictor: Predictor,
    task: _Task,
    outputs: Outputs,
    on_rows: Callable[[Path, int, int], None] | None,
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
