"""Copies of the public sets that may be spoilt: folders of links, with the same layout.

A link is as quick as the doctor's memory of what it leads to. What is written takes the link's
place; the sets themselves are never written to.
"""

import os
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from plainunet.config import DataConfig

LEGEND_OF_DUBAI = ("9B9B9B", "E2A929", "8429F6", "6EC1E4", "3C1098", "FEDD3A")
TILES = "^tile[1-6]"


class Pair(NamedTuple):
    image: Path
    mask: Path
    part: str = ""


@dataclass(frozen=True)
class RealSet:
    """What is known of a public set."""

    name: str
    images: str  # pattern of the images
    masks: tuple[str, str]  # the masks' folder, and what follows an image's stem
    few: int = 1  # every how many images one is taken
    values: tuple[int, ...] = ()  # of each class; none where they are colours or objects
    config: dict[str, Any] = field(default_factory=dict)  # what `check` is given
    group_by: str | None = None  # what belongs together, where anything does
    mixed_sizes: bool = False

    @property
    def is_coloured(self) -> bool:
        return "colors" in self.config

    @property
    def is_binary(self) -> bool:
        return len(self.values) == 2 or self.name == "dsb2018"

    def group_of(self, image: Path) -> str:
        match = re.search(self.group_by or "^.*$", image.stem)
        assert match is not None
        return match.group(match.re.groups)


_JPEG = "images/*.jpg"
_COLOURS = {"masks": "masks_color", "colors": LEGEND_OF_DUBAI}
SETS = {
    known.name: known
    for known in (
        RealSet("carvana", "train/*.jpg", ("train_masks", "_mask.gif"), 16, (0, 1), {}, "^[^_]+"),
        RealSet("isbi2012", "images/*.png", ("masks", ".png"), 1, (0, 255)),
        RealSet("dsb2018", "images/*.png", ("masks", ".png"), 8, mixed_sizes=True),
        RealSet("camvid", "images/*/*.jpg", ("masks", ".png"), 12, (*range(11),), {"ignore": 11}),
        RealSet("dubai_aerial", _JPEG, ("masks", ".png"), 2, (*range(6),), {}, TILES, True),
        RealSet("dubai_color", _JPEG, ("masks_color", ".png"), 2, (), _COLOURS, TILES, True),
        RealSet("carrotweed", _JPEG, ("masks", "_mask.png"), 1, (0, 1, 2)),
        RealSet("chasedb1", _JPEG, ("masks", "_1stHO.png"), 1, (0, 1), {}, r"_(\d\d)[LR]$"),
    )
}  # fmt: skip


@dataclass
class Copy:
    """A copy of some pairs of a set, and what `check` is given."""

    known: RealSet
    root: Path
    pairs: list[Pair]
    config: DataConfig

    def pick(self, random: np.random.Generator, part: str | None = None) -> Pair:
        """Draw a pair, perhaps of a part."""
        fits = [pair for pair in self.pairs if part in (None, pair.part)]
        return fits[int(random.integers(len(fits)))]

    def pick_two(self, random: np.random.Generator) -> tuple[Pair, Pair] | None:
        """Draw two pairs of the same size, if there are any."""
        order = [self.pairs[k] for k in random.permutation(len(self.pairs))]
        for number, one in enumerate(order):
            for other in order[number + 1 :]:
                if size_of(one.mask) == size_of(other.mask):
                    return one, other
        return None

    def free(self, path: Path, suffix: str = "") -> Path:
        """Remove a link or a file; the path, perhaps of another suffix, can be written to."""
        assert path.parent.resolve().is_relative_to(self.root.resolve()), path
        path.unlink(missing_ok=True)
        return path.with_suffix(suffix) if suffix else path

    def change(self, path: Path, how: Callable[[np.ndarray], np.ndarray]) -> None:
        """Change what an image or mask stores, in its own format and with its palette."""
        opened = load(path)
        changed = Image.fromarray(np.ascontiguousarray(how(np.array(opened))))
        if opened.mode == "P":
            changed.putpalette(opened.getpalette() or [])
        options = {"quality": 95} if opened.format == "JPEG" else {}
        changed.save(self.free(path), opened.format, **options)

    def ids_of(self, mask: Path) -> np.ndarray:
        """The classes of a mask, whatever their values; void is 255."""
        stored = np.array(load(mask))
        if not self.known.values:
            return (stored > 0).astype(np.uint8)
        table = np.full(max(int(stored.max()) + 1, 256), 255, np.uint8)
        table[list(self.known.values)] = np.arange(len(self.known.values))
        return table[stored.astype(np.intp)]


def load(path: Path) -> Any:
    """Read a file as Pillow does, before it is overwritten."""
    with Image.open(path) as image:
        image.load()
    return image


def size_of(path: Path) -> tuple[int, int]:
    with Image.open(path) as opened:
        return opened.size


def copy_set(
    data_root: Path,
    name: str,
    root: Path,
    *,
    in_parts: bool = False,
    by_group: bool = False,
    real: bool = False,
    thin: int = 1,
) -> Copy:
    """Link some pairs of a set into a folder.

    Args:
        data_root: Where the sets lie.
        name: Which one.
        root: The folder to be made.
        in_parts: Whether it is to have train/ and val/, groups whole.
        by_group: Whether its groups are named.
        real: Whether to copy the files instead.
        thin: Every how many of these pairs one is taken.
    """
    known = SETS[name]
    source = data_root / ("dubai_aerial" if name == "dubai_color" else name)
    images = sorted(source.glob(known.images))
    if name == "carvana":  # two cars from all sides, and a view of some others
        images = [*images[:32], *images[32 :: 5 * known.few]]
    else:
        images = images[:: known.few]
    images = images[::thin]
    folder, ending = known.masks
    pairs = []
    groups = sorted({known.group_of(image) for image in images})
    for image in images:
        group = groups.index(known.group_of(image))
        part = ("val" if group % 3 == 1 else "train") if in_parts else ""
        part = image.parent.name if name == "camvid" else part
        own = part if name == "camvid" else ""
        pictures = image.parent.name if not in_parts and name == "carvana" else "images"
        masks = "masks" if in_parts and name == "carvana" else folder
        pair = Pair(
            root / pictures / part / image.name, root / masks / part / f"{image.stem}{ending}", part
        )
        origins = image, source / folder / own / pair.mask.name
        for path, origin in zip((pair.image, pair.mask), origins, strict=True):
            path.parent.mkdir(parents=True, exist_ok=True)
            if real:
                shutil.copyfile(origin, path)
            else:
                path.symlink_to(os.path.realpath(origin))
        pairs.append(pair)
    more = {"group_by": known.group_by} if by_group else {}
    return Copy(known, root, pairs, DataConfig(**known.config, **more))
