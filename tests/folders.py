"""Folders of images and masks, as tests need them."""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from plainunet.dataset.lists import Pair
from plainunet.dataset.split import name_below
from plainunet.reporter import Reporter

Row = tuple[str, str, str, str | None]


def touch(root: Path, *names: str) -> Path:
    """Make empty files: what only looks at names opens none."""
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def save(path: Path, values: Any) -> Path:
    """Write an array as an image or as .npy, and the folder it is in."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".npy":
        np.save(path, values)
    else:
        Image.fromarray(np.asarray(values)).save(path)
    return path


def rows(pairs: Sequence[Any], root: Path) -> list[Row]:
    """Image, mask, group and part of each pair, as split.csv has them."""
    return [
        (name_below(each.image, root), name_below(each.mask, root), each.group, each.part)
        for each in pairs
    ]


def make_pair(root: Path, stem: str, image: Any, mask: Any, part: str | None = None) -> Pair:
    """Write an image and its mask as PNG files."""
    images, masks = root / "images", root / "masks"
    return Pair(save(images / f"{stem}.png", image), save(masks / f"{stem}.png", mask), stem, part)


def count_refusals(path: Path, places: Iterable[int], read: Callable[[], object]) -> int:
    """Set a single byte at a time to chance, and read: how often that was refused, by name."""
    data, random = path.read_bytes(), np.random.default_rng(0)
    refused = 0
    for place in places:
        damaged = bytearray(data)
        damaged[place] = random.integers(256)
        path.write_bytes(damaged)
        try:
            read()
        except ValueError as error:
            assert str(path) in str(error)  # noqa: PT017
            refused += 1
    return refused


class Stages(Reporter):
    """Keeps the stages: their names, how much there was to do, and each report of what was done."""

    def __init__(self) -> None:
        self.stages: list[tuple[str, int, list[int]]] = []

    def stage(self, name: str, total: int) -> None:
        self.stages.append((name, total, []))

    def advance(self, done: int) -> None:
        self.stages[-1][2].append(done)


def draw_rectangles(folder: Path, images: int = 8, size: tuple[int, int] = (48, 64)) -> Path:
    """`images/` + `masks/`: RGB images and binary masks 0/255.

    A bright rectangle on a dark, noisy ground, so that a small network learns it in seconds.
    """
    random = np.random.default_rng(0)
    for number in range(images):
        mask = np.zeros(size, np.uint8)
        top, left = random.integers(4, 20, size=2)
        mask[top : top + 16, left : left + 28] = 255
        noise = random.integers(0, 60, size=(*size, 3))
        image = (noise + np.where(mask[..., None] > 0, 150, 30)).astype(np.uint8)
        make_pair(folder, str(number), image, mask)
    return folder
