"""Masks for many picture files."""

import os
import warnings
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from plainunet.data.images import read_image
from plainunet.data.places import stamp_files
from plainunet.data.windows import open_windows, picture_size
from plainunet.files import require_writable
from plainunet.prediction.large import LARGE, predict_large
from plainunet.prediction.predictor import Predictor
from plainunet.prediction.writers import write_mask

_AHEAD = 2
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


def predict_files(
    predictor: Predictor,
    images: Sequence[Path],
    out: Path,
    on_progress: Callable[[int, int], None] | None = None,
    *,
    overwrite: bool = True,
    on_rows: Callable[[Path, int, int], None] | None = None,
) -> Predicted:
    """Write a mask for each picture; one that cannot be read does not stop the others.

    While the network sees a picture, the next ones are read and the last masks written.

    Args:
        predictor: The model.
        images: Picture files, as by `plainunet.data.pairing.find_images`.
        out: The folder for the masks, see `mask_paths` for their names; that of a picture of
            more than `LARGE` pixels is a .tif.
        on_progress: Told how many of how many pictures are done.
        overwrite: Whether masks that are there already are made again.
        on_rows: Told, of a picture of more than `LARGE` pixels, how many of how many rows are
            done.

    Returns:
        What became of them.

    Raises:
        ValueError: The folder cannot be written to, or masks would lie among the pictures.
    """
    paths = mask_paths(images, out)
    _refuse_pictures(images, paths)
    require_writable(out)
    result = Predicted([], [], [])
    waiting: deque[tuple[Path, Path, Future[None]]] = deque()

    def write_until(left: int) -> None:
        while len(waiting) > left:
            image, path, job = waiting.popleft()
            try:
                job.result()
                result.written.append(path)
            except OSError as error:
                result.failures.append(_naming(image, error))

    with ThreadPoolExecutor(1) as writer:
        pictures = _read_ahead(images, paths, overwrite)
        for number, (image, path) in enumerate(zip(images, paths, strict=True)):
            try:
                picture = next(pictures).result()
                with warnings.catch_warnings(record=True) as said:
                    warnings.simplefilter("always")
                    if picture is _DONE:
                        result.skipped.append(_there(path) or path)
                    elif picture is _LARGE:
                        large = path.with_suffix(".tif")
                        _predict_large(predictor, image, large, on_rows)
                        result.written.append(large)
                    else:
                        mask = predictor.predict(picture)
                        job = writer.submit(write_mask, path, mask, predictor.card.colors)
                        waiting.append((image, path, job))
                for warning in said:
                    warnings.warn(f"{image}: {warning.message}", stacklevel=2)
            except (ValueError, OSError) as error:
                result.failures.append(_naming(image, error))
            write_until(_AHEAD)
            if on_progress:
                on_progress(number + 1, len(images))
        write_until(0)
    return result


_DONE, _LARGE = object(), object()


def _read_ahead(
    images: Sequence[Path], paths: Sequence[Path], overwrite: bool
) -> Iterator["Future[Any]"]:
    """The pictures in turn; instead of one, that it is done already, or is large."""

    def read(image: Path, path: Path) -> Any:
        if not overwrite and _there(path):
            return _DONE
        return _LARGE if _is_large(image) else read_image(image)

    with ThreadPoolExecutor(1) as reader:
        ahead: deque[Future[Any]] = deque()
        for image, path in zip(images, paths, strict=True):
            ahead.append(reader.submit(read, image, path))
            if len(ahead) > _AHEAD:
                yield ahead.popleft()
        yield from ahead


def _there(path: Path) -> Path | None:
    """The mask of this name, or of a large picture, if there is one already."""
    return next((mask for mask in (path, path.with_suffix(".tif")) if mask.is_file()), None)


def _is_large(image: Path) -> bool:
    height, width = picture_size(image)
    return height * width > LARGE


def _predict_large(
    predictor: Predictor,
    image: Path,
    path: Path,
    on_rows: Callable[[Path, int, int], None] | None,
) -> None:
    most = _WHOLE if predictor.memory is None else int(predictor.memory / 4)
    with open_windows(image, most) as picture:
        predict_large(
            predictor,
            picture,
            path,
            str(stamp_files([image])),
            (lambda done, total: on_rows(image, done, total)) if on_rows else None,
        )


def _naming(image: Path, error: Exception) -> str:
    message = str(error)
    return message if str(image) in message else f"{image}: {message}"


def _refuse_pictures(images: Sequence[Path], paths: Sequence[Path]) -> None:
    """Refuse an output folder in which masks would replace pictures, or lie among them."""
    pictures = {image.resolve() for image in images}
    replaced = [path for path in paths if path.resolve() in pictures]
    if replaced:
        raise ValueError(
            f"{replaced[0]}: a picture that a mask would replace. Choose another output folder."
        )
    beside = {path.parent.resolve() for path in paths} & {path.parent for path in pictures}
    if beside:
        raise ValueError(
            f"{min(beside)}: holds the pictures, and masks among them would be taken for "
            "pictures the next time. Choose another output folder."
        )


def mask_paths(images: Sequence[Path], out: Path) -> list[Path]:
    """Name the masks: `<stem>.png`; where stems are equal, below their own folders.

    Args:
        images: Picture files.
        out: The folder for the masks.

    Returns:
        A path of its own for each picture. Pictures with equal stems keep their folders,
        relative to the folder that all pictures lie in; where even these are equal (`a.jpg`
        beside `a.png`), the suffix stays in the name: `a.jpg.png`.
    """
    # "x/../y" would lead out of the folder for the masks
    full = [Path(os.path.normpath(image.absolute())) for image in images]
    top = Path(os.path.commonpath([image.parent for image in full])) if full else Path()
    stems = Counter(image.stem for image in full)
    paths = [
        Path(f"{image.stem}.png")
        if stems[image.stem] == 1
        else image.relative_to(top).with_name(f"{image.stem}.png")
        for image in full
    ]
    long = [image.relative_to(top).with_name(f"{image.name}.png") for image in full]
    # a picture "a.jpg.tif" leaves the name "a.jpg.png" to "a.jpg"
    taken = Counter(paths + long)
    return [
        out / (short if taken[short] == 1 else whole)
        for short, whole in zip(paths, long, strict=True)
    ]
