"""The names of masks, one of its own for each picture."""

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from plainunet.data.places import files_of, stem_of


def mask_paths(images: Sequence[Path], out: Path) -> list[Path]:
    """Name the masks: `<stem>.png`; where stems are equal, below their own folders.

    Args:
        images: Picture files, or slices of TIFF files, whose stem is `<stem>_<number>`.
        out: The folder for the masks.

    Returns:
        A path of its own for each picture. Pictures with equal stems keep their folders,
        relative to the folder that all pictures lie in; where even these are equal (`a.jpg`
        beside `a.png`), the suffix stays in the name: `a.jpg.png`.
    """
    full = _normal(images)
    top = _top(full)
    stems = Counter(map(stem_of, full))
    paths = [
        Path(f"{stem_of(image)}.png")
        if stems[stem_of(image)] == 1
        else image.relative_to(top).with_name(f"{stem_of(image)}.png")
        for image in full
    ]
    long = [image.relative_to(top).with_name(f"{image.name}.png") for image in full]
    # a picture "a.jpg.tif" leaves the name "a.jpg.png" to "a.jpg"
    taken = Counter(paths + long)
    return [
        out / (short if taken[short] == 1 else whole)
        for short, whole in zip(paths, long, strict=True)
    ]


def list_names(images: Sequence[Path]) -> list[str]:
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


def refuse_pictures(images: Sequence[Path], paths: Sequence[Path], what: str = "pictures") -> None:
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


def _normal(images: Sequence[Path]) -> list[Path]:
    """Whole paths: "x/../y" would lead out of the folder for the masks."""
    return [Path(os.path.normpath(image.absolute())) for image in images]


def _top(full: Sequence[Path]) -> Path:
    return Path(os.path.commonpath([image.parent for image in full])) if full else Path()
