"""Public datasets in their original layouts and encodings, read without flags.

All expected numbers are computed here independently of the package, with Pillow and NumPy and by
the rules in the description of each dataset.
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
from plainunet.dataset.dataset import check_pairs
from plainunet.dataset.pairs import find_pairs
from plainunet.dataset.split import split_pairs
from plainunet.formats.images import image_shape
from plainunet.reporter import Collected

from .doctor.real_sets import LEGEND_OF_DUBAI, SETS, RealSet

CHANNELS = {"L": 1, "RGB": 3}


class Figures(NamedTuple):
    """Documented properties of a dataset.

    Attributes:
        pairs: Number of pairs.
        groups: Number of groups, and of images in the smallest and largest group.
        kind: Encoding of the masks.
        modes: Pillow's modes of the images.
    """

    pairs: int
    groups: tuple[int, int, int]
    kind: str = "ids"
    modes: str = "RGB"


FIGURES = {
    "carvana": Figures(760, (48, 8, 16)),
    "isbi2012": Figures(20, (20, 1, 1), "two values", "L"),
    "dsb2018": Figures(300, (300, 1, 1), "instances", "L RGB"),
    "camvid": Figures(367 + 101, (468, 1, 1)),
    "dubai_aerial": Figures(54, (6, 9, 9)),
    "carrotweed": Figures(30, (30, 1, 1)),
    "chasedb1": Figures(20, (10, 2, 2)),
}


def own_pairs(root: Path, name: str) -> Iterator[tuple[Path, Path]]:
    """The pairs according to the dataset's description."""
    folder, ending = SETS[name].masks
    for image in sorted(root.glob(SETS[name].images)):
        part = image.parent.name if name == "camvid" else ""
        yield image, root / folder / part / f"{image.stem}{ending}"


def own_counts(path: Path) -> np.ndarray:
    """Pixels of each stored value from 0 on: palette index, bit, class id or object number."""
    with Image.open(path) as mask:
        if mask.mode in ("P", "L"):
            return np.array(mask.histogram())
        assert mask.mode in ("1", "I;16")
        return np.bincount(np.asarray(mask).ravel(), minlength=256)


def own_classes(path: Path, known: RealSet) -> list[int]:
    """Pixels of each class and, last, of ignored pixels."""
    counts = own_counts(path)
    if not known.values:  # instances: values are object numbers
        return [int(counts[0]), int(counts[1:].sum()), 0]
    of_classes = [int(counts[value]) for value in known.values]
    void = int(counts[known.config["ignore"]]) if "ignore" in known.config else 0
    assert sum(of_classes) + void == counts.sum(), f"{path} holds other values"
    return [*of_classes, void]


@pytest.mark.parametrize("name", FIGURES)
def test_images_are_paired_grouped_and_split(data_root: Path, name: str) -> None:
    known, figures, root = SETS[name], FIGURES[name], data_root / name
    # Carvana's groups are recognised without --group-by
    group_by = known.group_by if name != "carvana" else None
    pairs = find_pairs(root, DataConfig(group_by=group_by))
    assert [(pair.image, pair.mask) for pair in pairs] == list(own_pairs(root, name))
    assert len(pairs) == figures.pairs
    assert len({pair.mask for pair in pairs}) == figures.pairs
    # no mask is left unpaired
    masks = [path for path in (root / known.masks[0]).rglob("*") if path.is_file()]
    assert sorted(masks) == sorted(pair.mask for pair in pairs)

    own_groups = Counter(known.group_of(pair.image) for pair in pairs)
    assert (len(own_groups), min(own_groups.values()), max(own_groups.values())) == figures.groups
    together: dict[str, set[str]] = {}
    for pair in pairs:
        together.setdefault(pair.group, set()).add(known.group_of(pair.image))
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
        assert abs(parts["val"] - 0.2 * figures.pairs) <= figures.groups[2] / 2
        both = {(pair.part, known.group_of(pair.image)) for pair in split_pairs(pairs)}
        assert len(both) == len(own_groups)


@pytest.mark.parametrize("name", FIGURES)
def test_sizes_and_channels_are_found(data_root: Path, name: str) -> None:
    pairs = find_pairs(data_root / name)
    sizes, channels = [], []
    for image, mask in own_pairs(data_root / name, name):
        with Image.open(image) as opened, Image.open(mask) as mask_opened:
            assert opened.size == mask_opened.size
            sizes.append((opened.height, opened.width))
            channels.append(opened.mode)
    assert set(channels) == set(FIGURES[name].modes.split())
    assert [shape[:2] for shape in check_pairs(pairs)] == sizes
    assert [image_shape(pair.image) for pair in pairs] == [
        (*size, CHANNELS[mode]) for size, mode in zip(sizes, channels, strict=True)
    ]


# Carvana's masks have 2.5 million pixels each: every eighth one, and all in slow runs
@pytest.mark.parametrize(
    ("name", "step"),
    [
        *[(name, 8 if name == "carvana" else 1) for name in FIGURES],
        pytest.param("carvana", 1, marks=pytest.mark.slow),
    ],
)
def test_classes_and_their_fractions_are_found(data_root: Path, name: str, step: int) -> None:
    known = SETS[name]
    paths = [mask for _, mask in own_pairs(data_root / name, name)][::step]
    reporter = Collected()
    coding, counts = find_coding(paths, DataConfig(**known.config), reporter)
    assert (coding.values, coding.kind) == (known.values or (0, 1), FIGURES[name].kind)
    assert coding.ignore == known.config.get("ignore")
    assert reporter.notes == []
    each = np.array([own_classes(path, known) for path in paths])
    wanted = each.sum(axis=0)
    assert counts.tolist() == wanted[:-1].tolist()
    assert (wanted[-1] > 0) == ("ignore" in known.config)
    # the reported fractions; every class occurs
    assert np.allclose(counts / counts.sum(), wanted[:-1] / wanted[:-1].sum(), rtol=1e-12)
    assert counts.min() > 0
    # spot checks: the class ids read from a mask match its stored values
    for number in range(0, len(paths), max(1, len(paths) // 12)):
        ids = coding.read(paths[number])
        read = np.bincount(ids.ravel(), minlength=256)
        assert [*read[: len(coding.values)], read[255]] == each[number].tolist()


@pytest.mark.parametrize("step", [4, pytest.param(1, marks=pytest.mark.slow)])
def test_nuclei_keep_their_instances(data_root: Path, step: int) -> None:
    masks = [mask for _, mask in own_pairs(data_root / "dsb2018", "dsb2018")][::step]
    coding, _ = find_coding(masks)
    for path in masks:
        stored = own_counts(path)
        labels = find_objects(coding.read_stored(path), coding, path)
        found = np.bincount(labels.ravel())
        # exactly the stored objects, with all their pixels
        assert found[0] == stored[0]
        assert found[1:].tolist() == stored[1:][stored[1:] > 0].tolist()


def test_colour_masks_are_read_by_a_legend(data_root: Path) -> None:
    """RGB and palette PNG mixed; the publisher also provides the same masks as class ids."""
    root = data_root / "dubai_aerial"
    pairs = find_pairs(root, DataConfig(masks="masks_color"))
    assert [pair.mask for pair in pairs] == sorted((root / "masks_color").iterdir())
    assert [pair.image for pair in pairs] == [image for image, _ in own_pairs(root, "dubai_aerial")]

    colors = tuple((r, g, b) for r, g, b in map(bytes.fromhex, LEGEND_OF_DUBAI))
    reporter = Collected()
    coding, counts = find_coding(
        [pair.mask for pair in pairs], DataConfig(colors=LEGEND_OF_DUBAI), reporter
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
    # all pixels outside the legend are black, and their number is reported
    assert set(outside) == {0}
    assert outside[0] == pixels[255] > 0
    assert any(f"{outside[0]} p" in note for note in reporter.notes)
