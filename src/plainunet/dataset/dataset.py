"""A data folder as a dataset: its pairs, the coding of its masks, and the size of each image.

All problems that would stop training are found before it begins. Of the files only headers are
decoded, so damage inside a file goes unnoticed here; the doctor decodes pixels as well. A dataset
of arrays, such as PyTorch's, is stored as a folder.
"""

import hashlib
import os
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, SupportsIndex

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from plainunet.config import DataConfig, TrainConfig
from plainunet.dataset.classes import find_coding
from plainunet.dataset.coding import Coding, foreground_shares, read_pair
from plainunet.dataset.lists import size_problem
from plainunet.dataset.pairs import Pair, find_pairs, require_enough
from plainunet.dataset.split import (
    PARTS,
    SPLIT_FILE,
    name_below,
    read_split,
    split_pairs,
    write_split,
)
from plainunet.errors import Error, require_choice, require_types, take_path, wrong
from plainunet.files import made_anew, write_whole
from plainunet.formats.colors import IGNORED
from plainunet.formats.image_files import read_encoded
from plainunet.formats.images import image_shape
from plainunet.formats.masks import mask_size
from plainunet.formats.problems import DataError, as_problem, command
from plainunet.formats.shards import is_sharded
from plainunet.formats.sources import Window, files_of
from plainunet.palette import default_names
from plainunet.parts import PartError, running
from plainunet.reporter import Collected, Reporter, silent
from plainunet.settings import DATASET_FILE, with_dataset, write_dataset
from plainunet.system import work_ahead
from plainunet.text import plural

Shape = tuple[int, int, int]
"""Height, width [pixels] and channels of an image."""
_MOST_LISTED = 10

if TYPE_CHECKING:
    from torch.utils.data import Dataset

    _MapStyle = Dataset[tuple[NDArray[Any], NDArray[np.uint8]]]
else:
    _MapStyle = object  # torch is needed only where samples become batches


@dataclass(frozen=True)
class SegmentationDataset(_MapStyle):
    """Map-style dataset of the images and masks of a folder, as stored.

    Example:
        ```python
        from plainunet import SegmentationDataset

        dataset = SegmentationDataset.open("my-data")
        image, mask = dataset[0]
        print(len(dataset), dataset.class_names, image.shape, mask.max())
        ```
    """

    folder: Path
    pairs: Sequence[Pair]
    coding: Coding
    """How masks are converted to class ids."""
    class_names: tuple[str, ...]
    shapes: Sequence[Shape]
    """Shape of each pair's image."""
    class_pixels: tuple[int, ...] = ()
    """Pixels of each class in all masks, if counted."""

    @classmethod
    def open(
        cls, folder: str | Path, known: DataConfig | None = None, reporter: Reporter = silent
    ) -> "SegmentationDataset":
        """Find the images and masks of a folder, check every file, and find the masks' coding.

        Args:
            folder: The data folder.
            known: Known settings; the others are read from its dataset.toml, or inferred.
            reporter: Receives notes and progress.

        Raises:
            FileNotFoundError: The folder does not exist, or has no images or masks.
            ValueError: The data has problems; up to ten are listed.
        """
        require_types(known=(known, DataConfig), reporter=(reporter, Reporter))
        folder = take_path(folder, "folder")
        if is_sharded(folder):
            from plainunet.dataset.shards import ShardedDataset  # imports this file

            return ShardedDataset.of(folder, known)
        known = with_dataset(known or DataConfig(), folder)
        collected = _Problems(reporter)
        pairs = find_pairs(folder, known, collected, at_least=0)
        if not collected.problems:
            require_enough(folder, len(pairs))
        advice = f"For all findings and fixes: {command('plainunet', 'check', folder)}"
        shapes = check_pairs(pairs, reporter, collected.problems, advice)
        reporter.stage("understanding masks", 1)
        try:
            coding, pixels = find_coding([pair.mask for pair in pairs], known, reporter)
        except DataError as error:
            raise Error(f"{error}\n{advice}") from error
        names = _choose_names(known.classes, coding)
        return cls(folder, pairs, coding, names, shapes, tuple(pixels.tolist()))

    @classmethod
    def reopen(
        cls, folder: str | Path, split: str | Path, known: DataConfig, digest: str | None = None
    ) -> "SegmentationDataset":
        """Open the pairs of a `split.csv`; `known` are the settings that a run found.

        Raises:
            Error: The files are others than those of `digest`, or a pair does not fit.
        """
        require_types(known=(known, DataConfig))
        folder, split = take_path(folder, "folder"), take_path(split, "split")
        pairs = read_split(split, folder)
        shapes = check_pairs(pairs)
        if digest is not None and data_digest(pairs, folder) != digest:
            raise _changed(pairs, folder, split)
        coding, pixels = find_coding([pair.mask for pair in pairs], known)
        return cls(folder, pairs, coding, known.classes, shapes, tuple(pixels.tolist()))

    def __len__(self) -> int:
        """Count the pairs."""
        return len(self.pairs)

    def __getitem__(self, index: int) -> tuple[NDArray[Any], NDArray[np.uint8]]:
        """Read the image [H, W, C] as stored, and its class ids [H, W] uint8, 255 where ignored."""
        if not isinstance(index, SupportsIndex):
            raise wrong("index", index, "an integer; `subset` selects several pairs")
        if not -len(self) <= (at := int(index)) < len(self):
            raise IndexError(f"index: {at} is out of range for {len(self)} pairs.")
        pair = self.pairs[at]
        return read_pair(pair.image, pair.mask, self.coding)

    @property
    def sizes(self) -> list[tuple[int, int]]:
        """Height and width of each image [pixels]."""
        return [(height, width) for height, width, _ in self.shapes]

    @property
    def shares(self) -> dict[str, float]:
        """Fraction of each class, by name, among all pixels of a class."""
        pixels = np.array(self.class_pixels)
        return dict(zip(self.class_names, (pixels / pixels.sum()).tolist(), strict=True))

    def split(self, config: TrainConfig) -> "SegmentationDataset":
        """Assign every pair to a split according to the settings; see `split_pairs`."""
        shares = None
        if config.stratify and not config.held_out:
            shares = foreground_shares([pair.mask for pair in self.pairs], self.coding).tolist()
        parted = split_pairs(
            self.pairs,
            config.validation,
            config.seed if config.split_seed is None else config.split_seed,
            folds=config.folds,
            fold=config.fold,
            shares=shares,
            held_out=config.held_out,
        )
        return replace(self, pairs=parted)

    def counts(self) -> Counter[str]:
        """Count the pairs of each split, by its name."""
        return Counter(pair.part or "" for pair in self.pairs)

    def excerpt(self) -> Sequence[Pair]:
        """The pairs from which statistics are computed: all, unless that would take long."""
        return self.pairs

    def part(self, name: str) -> "SegmentationDataset":
        """Select the pairs of one split; their class pixels are not counted.

        Raises:
            Error: There is no such split.
        """
        require_choice(name, PARTS, "name")
        if self.pairs and not any(self.counts()):
            raise Error("name: the pairs are in no split yet. Call `split` first.", "argument")
        return self.subset([at for at, pair in enumerate(self.pairs) if pair.part == name])

    def subset(self, indices: Sequence[int]) -> "SegmentationDataset":
        """Select pairs, in the given order; their class pixels are not counted.

        Raises:
            Error: A pair is out of range.
        """
        if beyond := [each for each in indices if not -len(self) <= each < len(self)]:
            raise Error(f"indices: {beyond[0]} is out of range for {len(self)} pairs.", "argument")
        return replace(
            self,
            pairs=[self.pairs[index] for index in indices],
            shapes=[self.shapes[index] for index in indices],
            class_pixels=(),
        )

    def digest(self) -> str:
        """Return the SHA-256 of the names and sizes of all files, in hexadecimal."""
        return data_digest(self.pairs, self.folder)

    def sample_sizes(self) -> dict[str, int]:
        """Return sizes [bytes] of up to 32 image files, spread evenly, by name below the folder.

        They identify a folder even if other files are added or removed.
        """
        files = [files_of(pair.image)[0] for pair in self.pairs[:: -(-len(self) // 32)]]
        return {name_below(file, self.folder): file.stat().st_size for file in files}


def data_digest(pairs: Sequence[Pair], folder: Path) -> str:
    """Digest of a data folder, see `SegmentationDataset.digest`; it may be moved."""
    paths = [path for pair in pairs for path in (pair.image, pair.mask)]
    files = sorted({file for path in paths for file in files_of(path)})
    lines = [f"{name_below(file, folder)} {file.stat().st_size}" for file in files]
    return hashlib.sha256("\n".join(lines).encode(errors="surrogateescape")).hexdigest()


def _changed(pairs: Sequence[Pair], folder: Path, split: Path) -> Error:
    """The error for files that have changed since a run wrote its split."""
    begun = split.stat().st_mtime
    files = [file for pair in pairs for path in (pair.image, pair.mask) for file in files_of(path)]
    newer = [file for file in files if file.stat().st_mtime > begun]
    named = f", for example {newer[0]}" if newer else ""
    return Error(
        f"{folder}: images or masks have changed since the run began{named}. Restore them, or "
        "start a new run: --pretrained with this run's best.safetensors keeps what it learnt."
    )


class _Problems(Collected):
    """Collects problems with single files, so that all are checked; passes notes on."""

    def __init__(self, reporter: Reporter) -> None:
        super().__init__()
        self._reporter = reporter

    def note(self, text: str) -> None:
        self._reporter.note(text)


def _choose_names(given: tuple[str, ...], coding: Coding) -> tuple[str, ...]:
    """Choose class names: the user's, else the masks', else defaults."""
    names = given or coding.names or default_names(coding.num_classes)
    if len(names) != coding.num_classes:
        raise Error(
            f"{len(names)} class names are given ({', '.join(names)}), but the masks have "
            f"{coding.num_classes} classes (values {coding.values}). Name each, background first."
        )
    if len(set(names)) != len(names):
        raise Error(f"--classes: two classes have the same name ({', '.join(names)}).")
    if sorted(names) == sorted(coding.names) and names != coding.names:
        raise Error(
            f"--classes has the order {', '.join(names)}, but the masks have "
            f"{', '.join(coding.names)}. Omit the flag, or use this order."
        )
    return names


def check_pairs(
    pairs: Sequence[Pair],
    reporter: Reporter = silent,
    known: Sequence[ValueError] = (),
    advice: str = "",
) -> list[Shape]:
    """Check that every image and mask exists, is complete, and has the size of its partner.

    Grey and RGB images may be mixed, since grey is converted to RGB; other numbers of channels
    may not.

    Returns each image's height, width and channels. Raises a ValueError that lists up to ten
    problems, `known` ones first, and ends with `advice`.
    """
    reporter.stage("checking files", len(pairs))
    headers: list[_Header] = []
    for header in work_ahead(_read_headers, pairs):
        headers.append(header)
        reporter.advance(len(headers))
    problems = [*known, *(problem for header in headers for problem in header.problems)]
    problems += odd_channels(pairs, [header.shape for header in headers])
    if problems:
        more = len(problems) - _MOST_LISTED
        raise Error(
            f"{plural(len(problems), 'problem')} with the data:\n  "
            + "\n  ".join(map(str, problems[:_MOST_LISTED]))
            + (f"\n  and {more} more" if more > 0 else "")
            + (f"\n{advice}" if advice else "")
        )
    return [header.shape for header in headers if header.shape is not None]


def odd_channels(pairs: Sequence[Pair], shapes: Sequence[Shape | None]) -> list[DataError]:
    """Errors for images with other channels than most; grey and RGB may be mixed."""
    # grey becomes RGB
    channels = [None if shape is None else 3 if shape[2] == 1 else shape[2] for shape in shapes]
    counts = Counter(each for each in channels if each is not None)
    if len(counts) < 2:
        return []
    usual = counts.most_common(1)[0][0]
    named = {3: "1 or 3"}
    return [
        DataError(
            f"{pair.image} has {named.get(each, each)} channels, most images have "
            f"{named.get(usual, usual)}. Save it like the others.",
            "odd-channels",
            [pair.image],
        )
        for pair, each in zip(pairs, channels, strict=True)
        if each is not None and each != usual
    ]


class _Header(NamedTuple):
    shape: Shape | None
    problems: list[DataError]


def _read_headers(pair: Pair) -> _Header:
    image, mask, problems = None, None, []
    try:
        if not isinstance(pair.image, Window):  # which would be read for each block
            read_encoded(pair.image)
        image = image_shape(pair.image)
    except (ValueError, FileNotFoundError) as error:
        problems.append(as_problem(error, pair.image))
    try:
        mask = mask_size(pair.mask)
    except (ValueError, FileNotFoundError) as error:
        problems.append(as_problem(error, pair.mask))
    if image is not None and mask is not None and image[:2] != mask:
        problems.append(size_problem(pair, image[:2], mask))
    return _Header(image, problems)


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
    if unknown := [name for name in splits if name not in (None, *PARTS)]:
        raise PartError(f"data: {unknown[0]!r} is no split; use {', '.join(PARTS)}.")
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
