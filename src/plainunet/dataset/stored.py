"""A dataset of arrays, such as PyTorch's, as a folder of images and masks."""

import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from plainunet.config import DataConfig
from plainunet.dataset.pairs import Pair, require_enough
from plainunet.dataset.split import SPLIT_FILE, write_split
from plainunet.files import made_anew, write_whole
from plainunet.formats.colors import IGNORED
from plainunet.parts import PartError, running
from plainunet.reporter import Reporter, silent
from plainunet.settings import DATASET_FILE, write_dataset

_SPLITS = ("train", "val", "test")


def is_folder(data: Any) -> bool:
    """Whether data is the path of a folder, not a dataset of arrays."""
    return isinstance(data, str | os.PathLike)


@contextmanager
def as_folder(data: Any, reporter: Reporter = silent) -> Iterator[Path]:
    """Yield the path of a data folder; a dataset of arrays is written to a temporary one."""
    if is_folder(data):
        yield Path(data)
        return
    with tempfile.TemporaryDirectory(prefix="plainunet-") as folder:
        store_dataset(data, Path(folder) / "data", reporter=reporter)
        yield Path(folder) / "data"


def store_dataset(
    data: Any, folder: Path, known: DataConfig | None = None, reporter: Reporter = silent
) -> None:
    """Write each sample of a dataset as an image and a mask, with what is known of the data.

    Args:
        data: A map-style dataset (`len` and `[index]`) of (image, mask) or (image, mask, group):
            images [H, W, C] or [H, W], masks [H, W] of class ids, 255 where ignored; or such
            datasets by the name of their split: "train", "val", "test".
        folder: The folder to make; what an earlier call has made is replaced.
        known: The settings of a training; its class names are those of the masks.
        reporter: Receives the progress.

    Raises:
        PartError: It is no such dataset, or fails.
        ValueError: The folder has other files.
    """
    splits = dict(data) if isinstance(data, Mapping) else {None: data}
    if unknown := [name for name in splits if name not in (None, *_SPLITS)]:
        raise PartError(f"data: {unknown[0]!r} is no split; use {', '.join(_SPLITS)}.")
    for name, each in splits.items():
        if not hasattr(each, "__getitem__") or not hasattr(each, "__len__") or not len(each):
            where = f"data[{name!r}]" if name else "data"
            raise PartError(
                f"{where}: is {type(each).__name__}, not a folder or a dataset with samples, len "
                "and [index]."
            )
    total = sum(map(len, splits.values()))
    require_enough(folder, total, at_least=2 if known else 1)
    pairs: list[Pair] = []
    largest, ignored = 0, False
    folder.parent.mkdir(parents=True, exist_ok=True)
    with made_anew(folder.parent / f".{folder.name}.json", [folder]):
        reporter.stage("storing samples", total)
        for split, samples in splits.items():
            for index in range(len(samples)):
                where = f"data{f'[{split!r}]' if split else ''}[{index}]"
                with running(f"{where} failed"):
                    sample = samples[index]
                image, mask, group = _take(sample, where)
                name = f"{len(pairs):06d}"
                file = _write(folder / "images" / name, image)
                masked = folder / "masks" / f"{name}.png"
                _write_png(masked, mask)
                pairs.append(Pair(file, masked, group or name, split))
                ids = mask[mask != IGNORED]
                largest = max(largest, int(ids.max(initial=0)))
                ignored |= ids.size < mask.size
                reporter.advance(len(pairs))
        count = len(known.classes) if known and known.classes else max(2, largest + 1)
        if largest >= count:
            raise PartError(
                f"data: a mask has class {largest}, but {count} class names are given "
                f"({', '.join(known.classes if known else ())}). Name each, background first."
            )
        found = DataConfig(
            pairs=SPLIT_FILE, values=tuple(range(count)), ignore=IGNORED if ignored else None
        )
        write_dataset(folder / DATASET_FILE, found)
        write_split(folder / SPLIT_FILE, pairs, folder)


def _take(sample: Any, where: str) -> tuple[NDArray[Any], NDArray[np.uint8], str]:
    """The image [H, W, C], mask [H, W] and group of a sample."""
    if not isinstance(sample, tuple | list) or not 2 <= len(sample) <= 3:
        raise PartError(f"{where}: is {type(sample).__name__}, not (image, mask).")
    image, mask = np.asarray(sample[0]), np.asarray(sample[1])
    if mask.ndim != 2 or mask.dtype.kind not in "iub":
        raise PartError(
            f"{where}: its mask is {mask.dtype} {list(mask.shape)}, not class ids [H, W], integers."
        )
    if mask.size and not 0 <= int(mask.min()) <= int(mask.max()) <= IGNORED:
        raise PartError(
            f"{where}: its mask has values from {mask.min()} to {mask.max()}, not class ids from "
            f"0, or {IGNORED} to ignore."
        )
    if image.ndim == 3 and image.shape[1:] == mask.shape != image.shape[:2]:
        image = np.moveaxis(image, 0, 2)  # as tensors have it
    image = image[..., None] if image.ndim == 2 else image
    if image.ndim != 3 or image.shape[:2] != mask.shape or image.dtype.kind not in "iuf":
        raise PartError(
            f"{where}: its image is {image.dtype} {list(image.shape)}, its mask "
            f"{list(mask.shape)}: both must have the same height and width, [H, W, C] and [H, W]."
        )
    return image, mask.astype(np.uint8), str(sample[2]) if len(sample) == 3 else ""


def _write(stem: Path, image: NDArray[Any]) -> Path:
    """Write an image as PNG if that holds it, else as .npy."""
    if image.dtype == np.uint8 and image.shape[2] in (1, 3):
        path = stem.with_suffix(".png")
        _write_png(path, image[..., 0] if image.shape[2] == 1 else image)
        return path
    path = stem.with_suffix(".npy")
    with write_whole(path) as part, part.open("wb") as file:
        np.save(file, image)
    return path


def _write_png(path: Path, values: NDArray[np.uint8]) -> None:
    with write_whole(path) as file:
        Image.fromarray(values).save(file, format="PNG", compress_level=1)
