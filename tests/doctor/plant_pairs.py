"""Faults of names and partners, and pictures that are there twice; see `Plant`."""

import shutil
from pathlib import Path

import numpy as np
from PIL import Image

from .farm import Copy, Pair, Plant, Planted, Which, group_of, ids_of, size_of, smaller


def missing(which: Which) -> Plant:
    def plant(copy: Copy, random: np.random.Generator, _: float) -> Planted:
        pair = copy.pick(random)
        copy.free(getattr(pair, which))
        return [pair.image if which == "mask" else pair.mask]

    return plant


def misspelt(copy: Copy, random: np.random.Generator, _: float) -> Planted:
    pair = copy.pick(random)
    at = int(random.integers(1, len(pair.image.stem) + 1))
    name = pair.mask.name
    new = pair.mask.with_name(f"{name[:at]}x{name[at:]}")
    pair.mask.rename(new)
    return [pair.image, new]


def two_of_one_name(which: Which) -> Plant:
    def plant(copy: Copy, random: np.random.Generator, _: float) -> Planted:
        path: Path = getattr(copy.pick(random), which)
        with Image.open(path) as picture:
            picture.load()
        new = path.with_suffix(".tif" if path.suffix == ".png" else ".png")
        picture.save(new)
        return [path, new]

    return plant


def outside_of_parts(copy: Copy, random: np.random.Generator, _: float) -> Planted:
    pair = copy.pick(random)
    image, mask = (path.parent.parent / path.name for path in (pair.image, pair.mask))
    pair.image.rename(image)
    pair.mask.rename(mask)
    return [image]


def one_picture(copy: Copy, random: np.random.Generator, count: float) -> Planted:
    stay = random.choice(len(copy.pairs), int(count), replace=False)
    for number, pair in enumerate(copy.pairs):
        if number not in stay:
            copy.free(pair.image)
            copy.free(pair.mask)
    return []


def same_mask(copy: Copy, random: np.random.Generator, _: float) -> Planted:
    two = copy.pick_two(random)
    if two is None:
        return "no two pictures of one size"
    data = two[0].mask.read_bytes()
    copy.free(two[1].mask).write_bytes(data)
    return [two[1].mask]


def only_in_validation(copy: Copy, random: np.random.Generator, _: float) -> Planted:
    if copy.known.is_binary or not copy.known.values:
        return "its masks are coloured" if copy.known.is_coloured else "two classes"
    shown = {
        pair.mask: np.bincount(ids_of(pair.mask, copy).ravel(), minlength=256) > 0
        for pair in copy.pairs
    }
    validation = [pair.mask for pair in copy.pairs if pair.part == "val"]
    classes = np.flatnonzero(np.sum([shown[mask] for mask in validation], axis=0)[:255])
    chosen = int(random.choice(classes[classes > 0]))
    for pair in copy.pairs:
        if pair.part == "train" and shown[pair.mask][chosen]:
            copy.change(pair.mask, lambda mask: np.where(mask == chosen, 0, mask).astype(np.uint8))
    return [mask for mask in validation if shown[mask][chosen]]


def duplicate(across: bool) -> Plant:
    def plant(copy: Copy, random: np.random.Generator, _: float) -> Planted:
        pair, image, mask = _beside(copy, random, across)
        shutil.copyfile(pair.image, image)
        shutil.copyfile(pair.mask, mask)
        return [image]

    return plant


def near_duplicate(across: bool) -> Plant:
    def plant(copy: Copy, random: np.random.Generator, quality: float) -> Planted:
        pair, image, mask = _beside(copy, random, across)
        with Image.open(pair.image) as picture:
            picture.load()
        image = image.with_suffix(".jpg")
        picture.save(image, quality=int(quality))
        shutil.copyfile(pair.mask, mask)
        return [image]

    return plant


def smaller_duplicate(copy: Copy, random: np.random.Generator, scale: float) -> Planted:
    pair, image, mask = _beside(copy, random, across=True)
    shutil.copyfile(pair.image, image)
    shutil.copyfile(pair.mask, mask)
    copy.change(image, lambda picture: smaller(picture, scale))
    width, height = size_of(image)
    rows, columns = (
        (np.arange(a) * b / a).astype(int)
        for a, b in zip((height, width), size_of(pair.mask)[::-1], strict=True)
    )
    copy.change(mask, lambda stored: stored[rows][:, columns])
    return [image]


def _beside(copy: Copy, random: np.random.Generator, across: bool) -> tuple[Pair, Path, Path]:
    parts = copy.parts
    pair = copy.pick(random, "train" if "train" in parts else None)
    image, mask = (path.with_name(f"copy_{path.name}") for path in (pair.image, pair.mask))
    if across:
        image, mask = (path.parent.parent / "val" / path.name for path in (image, mask))
    return pair, image, mask


def group_across(copy: Copy, random: np.random.Generator, _: float) -> Planted:
    if not copy.known.group_by:
        return "no groups are known"
    groups = [group_of(copy.known, pair.image) for pair in copy.pairs]
    several = [
        pair
        for pair, group in zip(copy.pairs, groups, strict=True)
        if pair.part == "train" and groups.count(group) > 1
    ]
    pair = several[int(random.integers(len(several)))]
    image, mask = (path.parent.parent / "val" / path.name for path in (pair.image, pair.mask))
    pair.image.rename(image)
    pair.mask.rename(mask)
    return [image]
