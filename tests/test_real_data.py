"""Public data sets in their publishers' layouts and encodings, understood without flags.

All figures are counted here a second time, by plain Pillow and NumPy and by the rules of the
sets' own description; nothing of the package takes part in that.
"""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from PIL import Image

from plainunet.config import DataConfig
from plainunet.dataset.borders import find_objects
from plainunet.dataset.classes import find_coding
from plainunet.dataset.pairs import find_pairs
from plainunet.dataset.split import split_pairs
from plainunet.dataset.verify import check_pairs
from plainunet.formats.images import image_shape
from plainunet.reporter import Collected

VOID_OF_CAMVID = 11
LEGEND_OF_DUBAI = ("9B9B9B", "E2A929", "8429F6", "6EC1E4", "3C1098", "FEDD3A")
CHANNELS = {"L": 1, "RGB": 3}


class RealSet(NamedTuple):
    """What is written about a set.

    Attributes:
        pairs: How many.
        groups: How many, and how many pictures the smallest and the largest has.
        values: The stored value of each class.
        kind: What the values are.
        images: Pattern of the pictures.
        mask: Their masks' folder, and what follows a picture's stem.
        group: Cut of the stem that says what belongs together.
        group_by: The same as a pattern, where it must be said.
        ignore: The value of no class.
        modes: Pillow's names of the pictures' channels.
    """

    pairs: int
    groups: tuple[int, int, int]
    values: tuple[int, ...]
    kind: str
    images: str
    mask: tuple[str, str]
    group: slice = slice(None)
    group_by: str | None = None
    ignore: int | None = None
    modes: str = "RGB"


SETS = {
    "carvana": RealSet(
        760,
        (48, 8, 16),
        (0, 1),
        "ids",
        "train/*.jpg",
        ("train_masks", "_mask.gif"),
        group=slice(12),
    ),
    "isbi2012": RealSet(
        20, (20, 1, 1), (0, 255), "two values", "images/*.png", ("masks", ".png"), modes="L"
    ),
    "dsb2018": RealSet(
        300,
        (300, 1, 1),
        (0, 1),
        "instances",
        "images/*.png",
        ("masks", ".png"),
        modes="L RGB",
    ),
    "camvid": RealSet(
        367 + 101,
        (468, 1, 1),
        tuple(range(11)),
        "ids",
        "images/*/*.jpg",
        ("masks", ".png"),
        ignore=VOID_OF_CAMVID,
    ),
    "dubai_aerial": RealSet(
        54,
        (6, 9, 9),
        tuple(range(6)),
        "ids",
        "images/*.jpg",
        ("masks", ".png"),
        group=slice(5),
        group_by="^tile[1-6]",
    ),
    "carrotweed": RealSet(30, (30, 1, 1), (0, 1, 2), "ids", "images/*.jpg", ("masks", "_mask.png")),
    "chasedb1": RealSet(
        20,
        (10, 2, 2),
        (0, 1),
        "ids",
        "images/*.jpg",
        ("masks", "_1stHO.png"),
        group=slice(6, 8),
        group_by=r"_(\d\d)[LR]$",
    ),
}


def own_pairs(root: Path, name: str) -> Iterator[tuple[Path, Path]]:
    """The pairs as the set's description has them."""
    folder, ending = SETS[name].mask
    for image in sorted(root.glob(SETS[name].images)):
        part = image.parent.name if name == "camvid" else ""
        yield image, root / folder / part / f"{image.stem}{ending}"


def own_counts(path: Path) -> np.ndarray:
    """Pixels of each stored value from 0 on: palette index, bit, id or number of an object."""
    with Image.open(path) as mask:
        if mask.mode in ("P", "L"):
            return np.array(mask.histogram())
        assert mask.mode in ("1", "I;16")
        return np.bincount(np.asarray(mask).ravel(), minlength=256)


def own_classes(path: Path, known: RealSet) -> list[int]:
    """The pixels of each class and, last, of none."""
    counts = own_counts(path)
    if known.kind == "instances":
        return [int(counts[0]), int(counts[1:].sum()), 0]
    of_classes = [int(counts[value]) for value in known.values]
    void = 0 if known.ignore is None else int(counts[known.ignore])
    assert sum(of_classes) + void == counts.sum(), f"{path} holds other values"
    return [*of_classes, void]


@pytest.mark.parametrize("name", SETS)
def test_pictures_are_paired_grouped_and_split(data_root: Path, name: str) -> None:
    known, root = SETS[name], data_root / name
    pairs = find_pairs(root, DataConfig(group_by=known.group_by))
    assert [(pair.image, pair.mask) for pair in pairs] == list(own_pairs(root, name))
    assert len(pairs) == known.pairs
    assert len({pair.mask for pair in pairs}) == known.pairs
    # nothing that could be a mask is left over
    masks = [path for path in (root / known.mask[0]).rglob("*") if path.is_file()]
    assert sorted(masks) == sorted(pair.mask for pair in pairs)

    own_groups = Counter(pair.image.stem[known.group] for pair in pairs)
    assert (len(own_groups), min(own_groups.values()), max(own_groups.values())) == known.groups
    together: dict[str, set[str]] = {}
    for pair in pairs:
        together.setdefault(pair.group, set()).add(pair.image.stem[known.group])
    assert len(together) == len(own_groups)
    assert all(len(own) == 1 for own in together.values())

    parts = Counter(pair.part for pair in split_pairs(pairs))
    assert set(parts) == {"train", "val"}
    if name == "camvid":
        assert {pair.part for pair in pairs} == {"train", "val"}
        assert all(pair.part == pair.image.parent.name for pair in pairs)
        assert parts == {"train": 367, "val": 101}
    else:
        assert {pair.part for pair in pairs} == {None}
        assert abs(parts["val"] - 0.2 * known.pairs) <= known.groups[2] / 2
        both = {(pair.part, pair.image.stem[known.group]) for pair in split_pairs(pairs)}
        assert len(both) == len(own_groups)


@pytest.mark.parametrize("name", SETS)
def test_sizes_and_channels_are_found(data_root: Path, name: str) -> None:
    pairs = find_pairs(data_root / name)
    sizes, channels = [], []
    for image, mask in own_pairs(data_root / name, name):
        with Image.open(image) as opened, Image.open(mask) as mask_opened:
            assert opened.size == mask_opened.size
            sizes.append((opened.height, opened.width))
            channels.append(opened.mode)
    assert set(channels) == set(SETS[name].modes.split())
    assert [shape[:2] for shape in check_pairs(pairs)] == sizes
    assert [image_shape(pair.image) for pair in pairs] == [
        (*size, CHANNELS[mode]) for size, mode in zip(sizes, channels, strict=True)
    ]


# Carvana's masks have 2.5 million pixels each: a quarter of them, and all where time allows
@pytest.mark.parametrize(
    ("name", "step"),
    [
        *[(name, 4 if name == "carvana" else 1) for name in SETS],
        pytest.param("carvana", 1, marks=pytest.mark.slow),
    ],
)
def test_classes_and_their_shares_are_found(data_root: Path, name: str, step: int) -> None:
    known = SETS[name]
    paths = [mask for _, mask in own_pairs(data_root / name, name)][::step]
    heard = Collected()
    coding, counts = find_coding(paths, DataConfig(ignore=known.ignore), heard)
    assert (coding.values, coding.ignore, coding.kind) == (known.values, known.ignore, known.kind)
    assert heard.notes == []
    each = np.array([own_classes(path, known) for path in paths])
    wanted = each.sum(axis=0)
    assert counts.tolist() == wanted[:-1].tolist()
    assert (wanted[-1] > 0) == (known.ignore is not None)
    # the shares that a user is told; every class occurs
    assert np.allclose(counts / counts.sum(), wanted[:-1] / wanted[:-1].sum(), rtol=1e-12)
    assert counts.min() > 0
    # and what is read of a picture is what is stored there, spot-checked over the set
    for number in range(0, len(paths), max(1, len(paths) // 12)):
        ids = coding.read(paths[number])
        read = np.bincount(ids.ravel(), minlength=256)
        assert [*read[: len(known.values)], read[255]] == each[number].tolist()


@pytest.mark.parametrize("step", [4, pytest.param(1, marks=pytest.mark.slow)])
def test_nuclei_are_told_apart(data_root: Path, step: int) -> None:
    masks = [mask for _, mask in own_pairs(data_root / "dsb2018", "dsb2018")][::step]
    coding, _ = find_coding(masks)
    for path in masks:
        stored = own_counts(path)
        labels = find_objects(coding.read_stored(path), coding, path)
        found = np.bincount(labels.ravel())
        # every object with all of its pixels, and no other
        assert found[0] == stored[0]
        assert found[1:].tolist() == stored[1:][stored[1:] > 0].tolist()


def test_colours_are_read_by_their_legend(data_root: Path) -> None:
    """RGB and palette PNG mixed; the set has the same masks as ids, made by its publisher."""
    root = data_root / "dubai_aerial"
    pairs = find_pairs(root, DataConfig(masks="masks_color"))
    assert [pair.mask for pair in pairs] == sorted((root / "masks_color").iterdir())
    assert [pair.image for pair in pairs] == [image for image, _ in own_pairs(root, "dubai_aerial")]

    colors = tuple((r, g, b) for r, g, b in map(bytes.fromhex, LEGEND_OF_DUBAI))
    heard = Collected()
    coding, counts = find_coding(
        [pair.mask for pair in pairs], DataConfig(colors=LEGEND_OF_DUBAI), heard
    )
    assert coding.colors == colors
    assert coding.num_classes == 6

    table = np.full(1 << 24, 255, np.uint8)
    table[[int(color, 16) for color in LEGEND_OF_DUBAI]] = np.arange(6)
    modes: Counter[str] = Counter()
    pixels = np.zeros(256, np.int64)
    outside: Counter[int] = Counter()
    for pair in pairs:
        with Image.open(pair.mask) as mask:
            modes[mask.mode] += 1
            red, green, blue = np.asarray(mask.convert("RGB")).astype(np.uint32).transpose(2, 0, 1)
        packed = red << 16 | green << 8 | blue
        with Image.open(root / "masks" / pair.mask.name) as mask:
            stored = np.asarray(mask)
        own = table[packed]
        known = own < 255
        outside.update(packed[~known].tolist())
        read = coding.read(pair.mask)
        assert np.array_equal(read, own)
        assert np.array_equal(read[known], stored[known])
        pixels += np.bincount(own.ravel(), minlength=256)
    assert set(modes) == {"P", "RGB"}
    assert counts.tolist() == pixels[:6].tolist()
    # what is outside of the legend is all black, and is said with its number
    assert set(outside) == {0}
    assert outside[0] == pixels[255] > 0
    assert [
        note for note in heard.notes if "outside the legend" in note and f"{outside[0]} p" in note
    ]
