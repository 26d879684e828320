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
from typing import Any, Literal, NamedTuple

import cv2
import numpy as np
from PIL import Image

from plainunet.config import DataConfig

LEGEND_OF_DUBAI = ("9B9B9B", "E2A929", "8429F6", "6EC1E4", "3C1098", "FEDD3A")


class Pair(NamedTuple):
    image: Path
    mask: Path
    part: str = ""


@dataclass(frozen=True)
class RealSet:
    """What is known of a public set.

    Attributes:
        name: What it is called here.
        images: Pattern of the pictures.
        masks: The masks' folder, and what follows a picture's stem.
        few: Every how many pictures one is taken.
        values: The stored value of each class; of none where they are colours or objects.
        config: What is said of it.
        group_by: What belongs together, where anything does.
    """

    name: str
    images: str
    masks: tuple[str, str]
    few: int = 1
    values: tuple[int, ...] = ()
    config: dict[str, Any] = field(default_factory=dict)
    group_by: str | None = None
    mixed_sizes: bool = False

    @property
    def folder(self) -> str:
        return "dubai_aerial" if self.name == "dubai_color" else self.name

    @property
    def is_coloured(self) -> bool:
        return "colors" in self.config

    @property
    def is_binary(self) -> bool:
        return len(self.values) == 2 or self.name == "dsb2018"


SETS = {
    known.name: known
    for known in (
        RealSet("carvana", "train/*.jpg", ("train_masks", "_mask.gif"), 16, (0, 1), {}, "^[^_]+"),
        RealSet("isbi2012", "images/*.png", ("masks", ".png"), 1, (0, 255)),
        RealSet("dsb2018", "images/*.png", ("masks", ".png"), 8, mixed_sizes=True),
        RealSet(
            "camvid", "images/*/*.jpg", ("masks", ".png"), 12, tuple(range(11)), {"ignore": 11}
        ),
        RealSet(
            "dubai_aerial",
            "images/*.jpg",
            ("masks", ".png"),
            2,
            tuple(range(6)),
            {},
            "^tile[1-6]",
            mixed_sizes=True,
        ),
        RealSet(
            "dubai_color",
            "images/*.jpg",
            ("masks_color", ".png"),
            2,
            (),
            {"masks": "masks_color", "colors": LEGEND_OF_DUBAI},
            "^tile[1-6]",
            mixed_sizes=True,
        ),
        RealSet("carrotweed", "images/*.jpg", ("masks", "_mask.png"), 1, (0, 1, 2)),
        RealSet(
            "chasedb1", "images/*.jpg", ("masks", "_1stHO.png"), 1, (0, 1), {}, r"_(\d\d)[LR]$"
        ),
    )
}


@dataclass
class Copy:
    """A copy of some pairs of a set.

    Attributes:
        known: Of which set.
        root: Where it lies.
        pairs: Its pairs.
        config: What is said of it.
    """

    known: RealSet
    root: Path
    pairs: list[Pair]
    config: DataConfig

    @property
    def parts(self) -> list[str]:
        return sorted({pair.part for pair in self.pairs})

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

    def free(self, path: Path) -> Path:
        """Remove a link or a file, so that the path can be written to."""
        assert path.parent.resolve().is_relative_to(self.root.resolve()), path
        path.unlink(missing_ok=True)
        return path

    def change(self, path: Path, how: Callable[[np.ndarray], np.ndarray]) -> None:
        """Change what a picture or mask stores, in its own format and with its palette."""
        with Image.open(path) as opened:
            stored = np.array(opened)
            palette, kind = opened.getpalette() if opened.mode == "P" else None, opened.format
        changed = Image.fromarray(np.ascontiguousarray(how(stored)))
        if palette:
            changed.putpalette(palette)
        changed.save(self.free(path), kind, **({"quality": 95} if kind == "JPEG" else {}))


def size_of(path: Path) -> tuple[int, int]:
    with Image.open(path) as opened:
        return opened.size


def copy_set(
    data_root: Path,
    name: str,
    root: Path,
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
    source = data_root / known.folder
    images = sorted(source.glob(known.images))
    if name == "carvana":  # two cars from all sides, and a view of some others
        images = [*images[:32], *images[32 :: 5 * known.few]]
    else:
        images = images[:: known.few]
    images = images[::thin]
    folder, ending = known.masks
    pairs = []
    groups = sorted({group_of(known, image) for image in images})
    for image in images:
        group = groups.index(group_of(known, image))
        part = ("val" if group % 3 == 1 else "train") if in_parts else ""
        part = image.parent.name if name == "camvid" else part
        own = "" if name != "camvid" else part
        pictures = image.parent.name if not in_parts and name == "carvana" else "images"
        masks = "masks" if in_parts and name == "carvana" else folder
        pair = Pair(
            root / pictures / part / image.name, root / masks / part / f"{image.stem}{ending}", part
        )
        for path, origin in (
            (pair.image, image),
            (pair.mask, source / folder / own / pair.mask.name),
        ):
            path.parent.mkdir(parents=True, exist_ok=True)
            if real:
                shutil.copyfile(origin, path)
            else:
                path.symlink_to(os.path.realpath(origin))
        pairs.append(pair)
    said = {"group_by": known.group_by} if by_group else {}
    return Copy(known, root, pairs, DataConfig(**known.config, **said))


def group_of(known: RealSet, image: Path) -> str:
    match = re.search(known.group_by or "^.*$", image.stem)
    assert match is not None
    return match.group(match.re.groups)


def read(path: Path) -> np.ndarray:
    with Image.open(path) as picture:
        return np.array(picture)


def smaller(picture: np.ndarray, scale: float) -> np.ndarray:
    size = int(picture.shape[1] * scale), int(picture.shape[0] * scale)
    return np.asarray(cv2.resize(picture, size, interpolation=cv2.INTER_AREA))


def eight_bit(path: Path) -> Image.Image:
    """A mask as it is saved for looking at: grey, 0/255 where there are two classes; or RGB."""
    with Image.open(path) as mask:
        if mask.mode == "I;16":
            return Image.fromarray((np.array(mask) > 0).astype(np.uint8) * np.uint8(255))
        if mask.mode == "P" and mask.format == "PNG":
            return mask.convert("RGB")
        return mask.convert("L") if mask.mode in ("1", "P") else mask.copy()


def ids_of(path: Path, copy: Copy) -> np.ndarray:
    """The classes of a mask, whatever their values; void is 255."""
    stored = read(path)
    table = np.full(max(int(stored.max()) + 1, 256), 255, np.uint8)
    for class_id, value in enumerate(copy.known.values):
        table[value] = class_id
    ids: np.ndarray = (
        (stored > 0).astype(np.uint8) if not copy.known.values else table[stored.astype(np.intp)]
    )
    return ids


def rename(copy: Copy, pair: Pair, stem: str) -> list[Path]:
    rest = pair.mask.stem[len(pair.image.stem) :]
    image = pair.image.with_name(f"{stem}{pair.image.suffix}")
    mask = pair.mask.with_name(f"{stem}{rest}{pair.mask.suffix}")
    pair.image.rename(image)
    pair.mask.rename(mask)
    return [image, mask]


Planted = list[Path] | str
Plant = Callable[[Copy, np.random.Generator, float], Planted]
"""Plants a fault of a magnitude: the files at fault, or why this set cannot carry it."""
Which = Literal["image", "mask"]
