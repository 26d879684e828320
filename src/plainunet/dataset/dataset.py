"""A data folder, understood: its pairs, what its masks mean, and the size of every image."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from plainunet.config import DataConfig, TrainConfig
from plainunet.dataset.classes import find_coding
from plainunet.dataset.coding import Coding, foreground_shares, read_pair
from plainunet.dataset.pairs import Pair, find_pairs, require_enough
from plainunet.dataset.split import name_below, read_split, split_pairs
from plainunet.dataset.verify import check_pairs
from plainunet.formats.images import image_shape
from plainunet.formats.problems import DataError, command
from plainunet.formats.sources import files_of
from plainunet.palette import default_names
from plainunet.reporter import Collected, Reporter, silent
from plainunet.settings import with_dataset

Shape = tuple[int, int, int]
"""Height, width [pixels] and channels of an image."""


@dataclass(frozen=True)
class SegmentationDataset:
    """Images and masks of a folder; a map-style dataset of both as they are stored."""

    folder: Path
    pairs: Sequence[Pair]
    coding: Coding
    """How masks are read as class ids."""
    class_names: tuple[str, ...]
    shapes: Sequence[Shape]
    """Of each pair's image."""
    class_pixels: tuple[int, ...] = ()
    """Pixels of each class in all masks, where they were counted."""

    @classmethod
    def open(
        cls, folder: str | Path, known: DataConfig | None = None, reporter: Reporter = silent
    ) -> "SegmentationDataset":
        """Find a folder's images and masks, check every file, and find out what masks mean.

        Args:
            folder: The data folder.
            known: What is known of it; the rest is taken from its dataset.toml, or found.
            reporter: Told what was understood, and how far it is.

        Raises:
            FileNotFoundError: There is no such folder, or no folder of images or masks in it.
            ValueError: Something is wrong with the data; up to ten problems are listed.
        """
        folder = Path(folder)
        known = with_dataset(known or DataConfig(), folder)
        collected = _Problems(reporter)
        pairs = find_pairs(folder, known, collected, at_least=0)
        if not collected.problems:
            require_enough(folder, len(pairs))
        advice = f"How to mend it, and what else there is: {command('plainunet', 'check', folder)}"
        shapes = check_pairs(pairs, reporter, collected.problems, advice)
        reporter.stage("understanding masks", 1)
        try:
            coding, pixels = find_coding([pair.mask for pair in pairs], known, reporter)
        except DataError as error:
            raise ValueError(f"{error}\n{advice}") from error
        names = _choose_names(known.classes, coding)
        return cls(folder, pairs, coding, names, shapes, tuple(pixels.tolist()))

    @classmethod
    def reopen(cls, folder: Path, split: Path, known: DataConfig) -> "SegmentationDataset":
        """Open the pairs that a `split.csv` lists; `known` is what a run found of the folder."""
        pairs = read_split(split, folder)
        coding, pixels = find_coding([pair.mask for pair in pairs], known)
        shapes = [image_shape(pair.image) for pair in pairs]
        return cls(folder, pairs, coding, known.classes, shapes, tuple(pixels.tolist()))

    def __len__(self) -> int:
        """Count the pairs."""
        return len(self.pairs)

    def __getitem__(self, index: int) -> tuple[NDArray[Any], NDArray[np.uint8]]:
        """Read the image [H, W, C] as stored, and its class ids [H, W] uint8, 255 where ignored."""
        pair = self.pairs[index]
        return read_pair(pair.image, pair.mask, self.coding)

    @property
    def sizes(self) -> list[tuple[int, int]]:
        """Height and width of each image [pixels]."""
        return [(height, width) for height, width, _ in self.shapes]

    @property
    def shares(self) -> dict[str, float]:
        """By each class's name, its share of all pixels that belong to a class."""
        pixels = np.array(self.class_pixels)
        return dict(zip(self.class_names, (pixels / pixels.sum()).tolist(), strict=True))

    def split(self, config: TrainConfig) -> "SegmentationDataset":
        """Give every pair a part, as the settings say; see `split_pairs`."""
        shares = None
        if config.stratify:
            shares = foreground_shares([pair.mask for pair in self.pairs], self.coding).tolist()
        parted = split_pairs(
            self.pairs,
            config.validation,
            config.seed,
            folds=config.folds,
            fold=config.fold,
            shares=shares,
        )
        return replace(self, pairs=parted)

    def part(self, name: str) -> "SegmentationDataset":
        """Take the pairs of one part; class pixels are not counted of them."""
        return self.subset([at for at, pair in enumerate(self.pairs) if pair.part == name])

    def subset(self, indices: Sequence[int]) -> "SegmentationDataset":
        """Take some of the pairs, in the order given; class pixels are not counted of them."""
        return replace(
            self,
            pairs=[self.pairs[index] for index in indices],
            shapes=[self.shapes[index] for index in indices],
            class_pixels=(),
        )

    def digest(self) -> str:
        """Recognise the data: a SHA-256 of the names and sizes of its files, in hexadecimal."""
        return data_digest(self.pairs, self.folder)

    def sample_sizes(self) -> dict[str, int]:
        """Remember some files, by which a folder is known even when others come or go.

        The sizes [bytes] of up to 32 images' files, spread evenly, by their names below the folder.
        """
        files = [files_of(pair.image)[0] for pair in self.pairs[:: -(-len(self) // 32)]]
        return {name_below(file, self.folder): file.stat().st_size for file in files}


def data_digest(pairs: Sequence[Pair], folder: Path) -> str:
    """Recognise a data folder, see `SegmentationDataset.digest`; it may be moved."""
    paths = [path for pair in pairs for path in (pair.image, pair.mask)]
    files = sorted({file for path in paths for file in files_of(path)})
    lines = [f"{name_below(file, folder)} {file.stat().st_size}" for file in files]
    return hashlib.sha256("\n".join(lines).encode(errors="surrogateescape")).hexdigest()


class _Problems(Collected):
    """Keeps problems with single files, so that the others are looked at; hands notes on."""

    def __init__(self, reporter: Reporter) -> None:
        super().__init__()
        self._reporter = reporter

    def note(self, text: str) -> None:
        self._reporter.note(text)


def _choose_names(given: tuple[str, ...], coding: Coding) -> tuple[str, ...]:
    """Name the classes as the user does, else as the masks do, else by default."""
    names = given or coding.names or default_names(coding.num_classes)
    if len(names) != coding.num_classes:
        raise ValueError(
            f"{len(names)} class names are given ({', '.join(names)}), but the masks hold "
            f"{coding.num_classes} classes (values {coding.values}). Name each, background first."
        )
    if len(set(names)) != len(names):
        raise ValueError(f"--classes: two classes have the same name ({', '.join(names)}).")
    if sorted(names) == sorted(coding.names) and names != coding.names:
        raise ValueError(
            f"--classes names them as {', '.join(names)}, but in the masks they stand in the order "
            f"{', '.join(coding.names)}. Leave the flag out, or name them in this order."
        )
    return names
