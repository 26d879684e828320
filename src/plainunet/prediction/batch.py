"""Masks for many picture files."""

import os
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

from plainunet.data.images import read_image
from plainunet.files import require_writable
from plainunet.prediction.predictor import Predictor
from plainunet.prediction.writers import write_mask


def predict_files(
    predictor: Predictor,
    images: Sequence[Path],
    out: Path,
    on_progress: Callable[[int, int], None] | None = None,
) -> tuple[list[Path], list[str]]:
    """Write a mask for each picture; one that cannot be read does not stop the others.

    Args:
        predictor: The model.
        images: Picture files, as by `plainunet.data.pairing.find_images`.
        out: The folder for the masks, see `mask_paths` for their names.
        on_progress: Told how many of how many pictures are done.

    Returns:
        The files written, and a message for each picture that failed.

    Raises:
        ValueError: The folder cannot be written to, or masks would lie among the pictures.
    """
    paths = mask_paths(images, out)
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
    require_writable(out)
    written, failures = [], []
    for number, (image, path) in enumerate(zip(images, paths, strict=True)):
        try:
            with warnings.catch_warnings(record=True) as said:
                warnings.simplefilter("always")
                mask = predictor.predict(read_image(image))
            for warning in said:
                warnings.warn(f"{image}: {warning.message}", stacklevel=2)
        except (ValueError, OSError) as error:
            message = str(error)
            failures.append(message if str(image) in message else f"{image}: {message}")
        else:
            write_mask(path, mask, predictor.card.colors)
            written.append(path)
        if on_progress:
            on_progress(number + 1, len(images))
    return written, failures


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
