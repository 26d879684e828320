"""A data folder as a dataset: its pairs, the coding of its masks, and the size of each image."""

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, SupportsIndex

import numpy as np
from numpy.typing import NDArray

from plainunet.config import DataConfig, TrainConfig
from plainunet.dataset.classes import find_coding
from plainunet.dataset.coding import Coding, foreground_shares, read_pair
from plainunet.dataset.pairs import Pair, find_pairs, require_enough
from plainunet.dataset.split import PARTS, name_below, read_split, split_pairs
from plainunet.dataset.verify import check_pairs
from plainunet.errors import Error, require_choice, require_types, take_path, wrong
from plainunet.formats.problems import DataError, command
from plainunet.formats.shards import is_sharded
from plainunet.formats.sources import files_of
from plainunet.palette import default_names
from plainunet.reporter import Collected, Reporter, silent
from plainunet.settings import with_dataset

Shape = tuple[int, int, int]
"""Height, width [pixels] and channels of an image."""


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
