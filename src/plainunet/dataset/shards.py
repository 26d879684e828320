"""A dataset in tar shards: written once, then streamed, each shard read whole.

`index.json` holds what training would have to scan all files for: classes, the counts, sizes and
digests of the shards, the shapes of the images, and the pixels of each class.
"""

import hashlib
import json
import re
from bisect import bisect_right
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from io import BytesIO
from itertools import accumulate, chain
from pathlib import Path
from typing import Any, NamedTuple, overload

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from plainunet.config import DataConfig, TrainConfig
from plainunet.dataset.coding import Colors, Values, read_pair
from plainunet.dataset.dataset import SegmentationDataset, Shape
from plainunet.dataset.pairs import Pair
from plainunet.dataset.samples import Samples
from plainunet.errors import Error
from plainunet.files import lock_folder, remove_unfinished, write_json, write_whole
from plainunet.formats.colors import IGNORED
from plainunet.formats.image_files import read_encoded
from plainunet.formats.images import fitting_suffix
from plainunet.formats.shards import FORMAT, INDEX_FILE, write_shard
from plainunet.formats.sources import Member, stem_of
from plainunet.palette import default_colors
from plainunet.reporter import Reporter, silent
from plainunet.system import work_ahead

SHARD_SIZE = 128
"""Default size of a shard [MiB]; each worker process holds one in memory."""
_UNFINISHED = ".unfinished.json"
_NAME = re.compile(r"(train|val|test)-[0-9]{5,}\.tar|index\.json")
_RECORD = 512
"""Tar files pad everything to multiples of this, and each file has a header of this size."""
_EXCERPT = 1000
"""Maximum number of samples of a split for statistics."""


@dataclass(frozen=True)
class Shard:
    """A shard, and what its samples add to the index."""

    name: str
    part: str
    """Split of its samples."""
    count: int
    """Number of samples."""
    sha256: str
    shapes: list[list[int]]
    """Height, width and channels of images, and the number of images of this shape."""
    class_pixels: list[int]
    """Pixels of each class."""


@dataclass(frozen=True, kw_only=True)
class Index:
    """What `index.json` holds."""

    format: str = FORMAT
    made_from: str
    """Digest of the files and settings that the shards were written from."""
    classes: list[str]
    dtypes: list[str]
    """Dtypes of the images."""
    location: str = ""
    """URL of the shards, if they are not next to the index."""
    shards: list[Shard] = field(default_factory=list)

    @classmethod
    def read(cls, file: Path) -> "Index":
        """Read the file; a ValueError if it was not written by `write_shards`."""
        try:
            content = json.loads(file.read_text(encoding="utf-8"))
            shards = [Shard(**each) for each in content.pop("shards")]
            index = cls(**content, shards=shards)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise Error(
                f"{file}: is damaged, or was not written by plainunet shard. Copy it again, or "
                "write the shards again."
            ) from error
        return index

    def digest(self) -> str:
        """SHA-256 of the shards, in hexadecimal; the same wherever they lie."""
        lines = [f"{shard.name} {shard.sha256}" for shard in self.shards]
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()


class ShardPairs(Sequence[Pair]):
    """The pairs of some shards, made when they are needed: there may be many millions."""

    def __init__(self, folder: Path, shards: Sequence[Shard]) -> None:
        """Name the shards in a folder."""
        self._folder = folder
        self.shards = shards
        self._ends = list(accumulate(shard.count for shard in shards))

    def __len__(self) -> int:
        """Count the pairs."""
        return self._ends[-1] if self._ends else 0

    @overload
    def __getitem__(self, index: int) -> Pair: ...
    @overload
    def __getitem__(self, index: slice) -> list[Pair]: ...
    def __getitem__(self, index: int | slice) -> Pair | list[Pair]:
        """One pair, each in a group of its own, or several."""
        if isinstance(index, slice):
            return [self[each] for each in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(f"index: {index} is out of range for {len(self)} pairs.")
        index %= len(self)
        number = bisect_right(self._ends, index)
        shard = self.shards[number]
        image = Member(self._folder / shard.name, index - self._ends[number] + shard.count)
        return Pair(image, replace(image, is_mask=True), f"{shard.name} {image.index}", shard.part)


@dataclass(frozen=True)
class ShardedDataset(SegmentationDataset):
    """A dataset in tar shards, as `write_shards` made them; `shapes` are in no particular order."""

    pairs: ShardPairs
    index: Index = field(kw_only=True)

    @classmethod
    def of(cls, folder: Path, known: DataConfig | None = None) -> "ShardedDataset":
        """Open a folder of shards, of which only the index is read; see also `known.classes`.

        Raises:
            FileNotFoundError: A shard is missing.
            ValueError: The index is damaged, or the class names do not fit.
        """
        index = Index.read(folder / INDEX_FILE)
        files = [] if index.location else [folder / shard.name for shard in index.shards]
        if gone := next((file for file in files if not file.is_file()), None):
            raise FileNotFoundError(
                f"{gone} does not exist. Copy it again, or write the shards again."
            )
        usual = DataConfig()
        for name in DataConfig.model_fields.keys() - {"classes"} if known else ():
            if getattr(known, name) != getattr(usual, name):
                raise Error(
                    f"--{name.replace('_', '-')}: the shards in {folder} hold class ids and splits "
                    "already. Omit the flag, or use the folder of images."
                )
        names = tuple(known.classes if known and known.classes else index.classes)
        if len(names) != len(index.classes):
            raise Error(
                f"--classes has {len(names)} names, but the shards in {folder} have the classes "
                f"{', '.join(index.classes)}. Omit the flag, or name each."
            )
        coding = Values(tuple(range(len(names))), IGNORED, names)
        return cls(folder, ShardPairs(folder, []), coding, names, [], index=index)._with(None)

    @classmethod
    def resumed(cls, folder: Path, known: Path, config: DataConfig) -> "ShardedDataset":
        """Open the shards of a run, which holds their index in the file `known`.

        Raises:
            ValueError: The shards are other ones.
        """
        dataset = cls.of(folder, config)
        if dataset.digest() != Index.read(known).digest():
            raise Error(
                f"{folder / INDEX_FILE}: the shards are not those that the run began with "
                f"({known}). Restore them, or start a new run."
            )
        return dataset

    def _with(self, part: str | None) -> "ShardedDataset":
        """Select a split, or all."""
        shards = [shard for shard in self.index.shards if part in (None, shard.part)]
        counts = Counter[Shape]()
        for height, width, channels, count in chain(*(shard.shapes for shard in shards)):
            counts[height, width, channels] += count
        pixels = np.array([shard.class_pixels for shard in shards], np.int64).sum(axis=0)
        return replace(
            self,
            pairs=ShardPairs(self.folder, shards),
            shapes=list(counts.elements()),
            class_pixels=tuple(pixels.ravel().tolist()),
        )

    def split(self, config: TrainConfig) -> SegmentationDataset:
        """Keep the splits, which shards are written with.

        Raises:
            ValueError: Other splits are asked for.
        """
        for name in ("held_out", "folds", "split_seed"):
            if getattr(config, name) not in (None, ()):
                raise Error(
                    f"--{name.replace('_', '-')}: shards keep the splits that they were written "
                    "with. Omit the flag, or use the folder of images."
                )
        return self

    def counts(self) -> Counter[str]:
        """Count the pairs of each split."""
        counts = Counter[str]()
        for shard in self.pairs.shards:
            counts[shard.part] += shard.count
        return counts

    def part(self, name: str) -> SegmentationDataset:
        """Select the pairs of one split; a ValueError if there are none."""
        present = sorted({shard.part for shard in self.index.shards})
        if name not in present:
            raise Error(
                f"{self.folder}: no shard has the split {name!r} (splits found: "
                f"{', '.join(present)}). Name another one, or write the shards again."
            )
        return self._with(name)

    def subset(self, indices: Sequence[int]) -> SegmentationDataset:
        """Select pairs, in the given order; their shapes are those of any images."""
        return SegmentationDataset(
            self.folder,
            [self.pairs[index] for index in indices],
            self.coding,
            self.class_names,
            self.shapes[: len(indices)],
        )

    def excerpt(self) -> Sequence[Pair]:
        """Samples of the first shard of each split: shards are random parts of their split."""
        firsts = {shard.part: shard for shard in reversed(self.pairs.shards)}.values()
        return [p for first in firsts for p in ShardPairs(self.folder, [first])[:_EXCERPT]]

    def digest(self) -> str:
        """Return the digest of the shards."""
        return self.index.digest()

    def sample_sizes(self) -> dict[str, int]:
        """Return {}: the digest alone identifies shards."""
        return {}


class _Files(Sequence[tuple[str, str]]):
    """The texts of pairs' sources, made when they are needed."""

    def __init__(self, pairs: ShardPairs) -> None:
        self._pairs = pairs

    def __len__(self) -> int:
        return len(self._pairs)

    def __getitem__(self, index: Any) -> Any:
        pair = self._pairs[index]
        return str(pair.image), str(pair.mask)


class ShardSamples(Samples):
    """Samples that are streamed from shards: not cached, each decoded when it is drawn."""

    def __init__(self, dataset: ShardedDataset, *settings: Any) -> None:
        """Describe the samples of one split; `settings` are those of `Samples` after the coding."""
        super().__init__((), dataset.coding, *settings)
        self._files = _Files(dataset.pairs)  # type: ignore[assignment]
        self.counts = [shard.count for shard in dataset.pairs.shards]
        self._native = Counter(dataset.sizes)
        self._pixels = dataset.class_pixels
        self._as_float = dataset.index.dtypes != ["uint8"]

    def fill_cache(self, on_progress: Any = None, teacher: Any = None) -> bool:
        """Do nothing: there is no cache."""
        return False

    @cached_property
    def sizes(self) -> list[tuple[int, int]]:
        """Height and width of each sample [input pixels], in no particular order."""
        if self.box is not None:
            return super().sizes
        reduced = ((self._reduced(size), count) for size, count in self._native.items())
        return [size for size, count in reduced for _ in range(count)]

    def class_shares(self) -> NDArray[np.float64]:
        """Return the fraction of each class among all pixels of a class, from the index: [K]."""
        pixels = np.array(self._pixels, np.float64)
        shares: NDArray[np.float64] = pixels / max(1.0, pixels.sum())
        return shares

    def _excerpt(self) -> range:
        return range(min(200, self.counts[0]))


class _Encoded(NamedTuple):
    """A sample as it is stored in a shard, and what it adds to the index."""

    stored: tuple[str, str, bytes, bytes]
    shape: tuple[int, ...]
    dtype: str
    pixels: NDArray[np.int64]


def write_shards(
    data: str | Path,
    out: str | Path,
    config: TrainConfig | None = None,
    reporter: Reporter = silent,
    *,
    shard_size: int = SHARD_SIZE,
) -> Index:
    """Write a dataset as tar shards in WebDataset layout, with an index, for streaming.

    Images are stored as they are, masks as palette PNGs of class ids, 255 where ignored. Every
    image and mask is decoded once, so that no error is left for the training. Samples are in random
    order, and each shard belongs to one split. An interrupted call is continued by the same call.

    Args:
        data: The data folder, as for `train`.
        out: The folder to write.
        config: The settings of the split, the seed, and how to read the folder.
        reporter: Receives notes and progress.
        shard_size: Size of a shard [MiB].

    Returns:
        The index.

    Raises:
        FileNotFoundError: The folder does not exist.
        ValueError: The data cannot be read, or `out` contains other files.
    """
    data, out, config = Path(data), Path(out), config or TrainConfig()
    if shard_size < 1:
        raise Error(f"--shard-size is {shard_size}; it must be at least 1.")
    dataset = SegmentationDataset.open(data, config, reporter).split(config)
    if isinstance(dataset, ShardedDataset):
        raise Error(f"{data}: contains shards already. Name a folder of images and masks.")
    with lock_folder(out):
        return _Writer(dataset, out, config.seed, shard_size * 2**20, reporter).write()


class _Writer:
    """Writes the shards that are missing, and records each; the index comes last."""

    def __init__(
        self, dataset: SegmentationDataset, out: Path, seed: int, most: int, reporter: Reporter
    ) -> None:
        self._dataset, self._out, self._reporter = dataset, out, reporter
        self._most = most
        coding = dataset.coding
        colors = default_colors(coding.num_classes)
        if isinstance(coding, Colors):
            colors = coding.colors
        palette = np.full((256, 3), 255, np.uint8)
        palette[: len(colors)] = colors
        self._palette = palette.tobytes()
        parts = [f"{pair.part} {pair.group}" for pair in dataset.pairs]
        key = json.dumps([dataset.digest(), dataset.class_names, seed, most, str(coding), parts])
        made_from = hashlib.sha256(key.encode(errors="surrogateescape")).hexdigest()
        self._index = Index(made_from=made_from, classes=list(dataset.class_names), dtypes=[])
        self._seed = seed

    def write(self) -> Index:
        """Write what is missing."""
        unfinished, finished = self._out / _UNFINISHED, self._out / INDEX_FILE
        remove_unfinished(self._out)
        known = unfinished if unfinished.is_file() else finished
        present = {path.name for path in self._out.iterdir() if path.name[0] != "."}
        if known.is_file() and (found := Index.read(known)).made_from == self._index.made_from:
            self._index = found
            if gone := {shard.name for shard in found.shards} - present:
                raise Error(
                    f"{self._out / min(gone)}: is missing. Remove {self._out}, and start again."
                )
            if known == finished:
                self._reporter.note("all shards are written already")
                return found
            # a shard may have been written, but not recorded
            present = {name for name in present if not _NAME.fullmatch(name)}
        if present:
            raise Error(
                f"{self._out}: contains {min(present)}, which does not belong to shards of this "
                "data with these settings. Choose a new folder."
            )
        write_json(unfinished, asdict(self._index))
        self._reporter.stage("writing shards", len(self._dataset))
        for number, part in enumerate(("train", "val", "test")):
            at = [at for at, pair in enumerate(self._dataset.pairs) if pair.part == part]
            order = np.random.default_rng([self._seed, number]).permutation(len(at))
            self._write_part(part, [at[place] for place in order])
        write_json(finished, asdict(self._index))
        unfinished.unlink(missing_ok=True)
        return self._index

    def _write_part(self, part: str, order: list[int]) -> None:
        """Write the shards of one split."""
        written = [shard for shard in self._index.shards if shard.part == part]
        left = order[sum(shard.count for shard in written) :]
        samples: list[_Encoded] = []
        size, number = 0, len(written)
        for sample in work_ahead(self._encode, left):
            added = sum(_RECORD + len(each) + -len(each) % _RECORD for each in sample.stored[2:])
            if samples and size + added > self._most:
                self._write_shard(part, number, samples)
                samples, size, number = [], 0, number + 1
            samples.append(sample)
            size += added
        if samples:
            self._write_shard(part, number, samples)

    def _encode(self, at: int) -> _Encoded:
        """Read a sample, and check that both of its files can be decoded."""
        pair, coding = self._dataset.pairs[at], self._dataset.coding
        pixels, ids = read_pair(pair.image, pair.mask, coding)
        kind, image = read_encoded(pair.image)
        mask, png = Image.fromarray(ids), BytesIO()
        mask.putpalette(self._palette)
        mask.save(png, format="PNG", compress_level=6)
        # WebDataset ends a key at the first dot
        key = f"{at:08d}_{stem_of(pair.image)}".replace(".", "_")
        counts = np.bincount(ids.ravel(), minlength=256)[: coding.num_classes]
        stored = key, fitting_suffix(Path(), kind), image, png.getvalue()
        return _Encoded(stored, pixels.shape, pixels.dtype.name, counts.astype(np.int64))

    def _write_shard(self, part: str, number: int, samples: Sequence[_Encoded]) -> None:
        name = f"{part}-{number:05d}.tar"
        with write_whole(self._out / name) as file:
            write_shard(file, [sample.stored for sample in samples])
            with file.open("rb") as opened:
                digest = hashlib.file_digest(opened, "sha256").hexdigest()
        shapes = Counter(sample.shape for sample in samples)
        shard = Shard(
            name,
            part,
            len(samples),
            digest,
            [[*shape, count] for shape, count in sorted(shapes.items())],
            np.sum([sample.pixels for sample in samples], axis=0).tolist(),
        )
        dtypes = {*self._index.dtypes, *(sample.dtype for sample in samples)}
        shards = [*self._index.shards, shard]
        self._index = replace(self._index, dtypes=sorted(dtypes), shards=shards)
        write_json(self._out / _UNFINISHED, asdict(self._index))
        self._reporter.advance(sum(each.count for each in shards))
