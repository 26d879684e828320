from itertools import combinations
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import gaussian_filter

from plainunet.dataset.coding import read_mask
from plainunet.dataset.pairs import find_pairs
from plainunet.demo import CLASS_NAMES, LEAF, STONE, draw_dataset, draw_scene
from plainunet.formats.images import read_image

SIZE = (96, 128)
K = len(CLASS_NAMES)
Stack = NDArray[np.uint8]


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("synthetic") / "drawn"
    return draw_dataset(folder, images=48, validation=16, size=SIZE)


def read_part(folder: Path, part: str) -> tuple[Stack, Stack]:
    pairs = [pair for pair in find_pairs(folder) if pair.part == part]
    images = np.stack([read_image(pair.image) for pair in pairs])
    return images, np.stack([read_mask(pair.mask) for pair in pairs])


def contents(folder: Path) -> dict[str, bytes]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def test_layout(drawn: Path) -> None:
    pairs = find_pairs(drawn)
    assert [pair.part for pair in pairs].count("train") == 48
    assert [pair.part for pair in pairs].count("val") == 16
    assert len({pair.image.stem for pair in pairs}) == 64
    suffixes = [pair.image.suffix for pair in pairs]
    assert suffixes.count(".jpg") == suffixes.count(".png") == 32
    assert sorted(path.name for path in drawn.iterdir()) == ["drawn.json", "images", "masks"]
    for pair in pairs:
        assert read_image(pair.image).shape == (*SIZE, 3)
        with Image.open(pair.mask) as mask:
            assert mask.mode == "P"
            assert set(np.unique(mask)) <= {0, LEAF, STONE}
            colours = np.array(mask.getpalette()[: 3 * K]).reshape(K, 3)
    # viewers show the classes in distinct colours
    assert min(np.abs(one - other).sum() for one, other in combinations(colours, 2)) > 100


@pytest.mark.parametrize("part", ["train", "val"])
def test_fraction_of_each_class(drawn: Path, part: str) -> None:
    masks = read_part(drawn, part)[1]
    shares = np.bincount(masks.ravel(), minlength=K) / masks.size
    assert 0.65 < shares[0] < 0.85
    assert (shares[1:] > 0.07).all()


def test_objects_touch_overlap_and_are_cut_off(drawn: Path) -> None:
    masks = read_part(drawn, "train")[1]
    leaf, stone = masks == LEAF, masks == STONE
    beside = (leaf[:, 1:] & stone[:, :-1]) | (stone[:, 1:] & leaf[:, :-1])
    assert beside.any((1, 2)).sum() > 10
    inner = masks.copy()
    inner[:, 1:-1, 1:-1] = 0
    whole = 0
    for label in (LEAF, STONE):
        assert (inner == label).any((1, 2)).mean() > 0.5
        for mask in masks:
            stats = cv2.connectedComponentsWithStats((mask == label).astype(np.uint8))[2][1:]
            left, top, width, height = stats[:, :4].T
            within = (left > 0) & (top > 0)
            whole += (within & (left + width < SIZE[1]) & (top + height < SIZE[0])).sum()
    assert whole > 60


@pytest.mark.parametrize("size", [(64, 64), (97, 131), (128, 80)])
def test_scene_of_any_size(size: tuple[int, int]) -> None:
    image, mask = draw_scene(np.random.default_rng(0), size)
    assert image.shape == (*size, 3)
    assert mask.shape == size
    assert image.dtype == mask.dtype == np.uint8


def test_boundaries_of_mask_and_image_coincide() -> None:
    steps: dict[tuple[int, int], list[float]] = {}
    for seed in range(20):
        image, mask = draw_scene(np.random.default_rng(seed), SIZE)
        gradient = np.hypot(*np.gradient(image.mean(2)))
        for move in [(0, 0), (0, 1), (0, -1), (1, 0), (-1, 0), (2, 2)]:
            moved = np.roll(mask, move, (0, 1))
            edge = cv2.morphologyEx(moved, cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8)) > 0
            steps.setdefault(move, []).append(float(gradient[edge].mean() / gradient.mean()))
    means = {move: np.mean(values) for move, values in steps.items()}
    # the image changes most at the boundary of the mask, and less one pixel away
    assert means[0, 0] > 1.5
    assert max(means, key=lambda move: means[move]) == (0, 0)


class ColourClassifier:
    """Bayes over a smoothed colour histogram of 32 x 32 x 32 cells, with a weight per class."""

    cells = 32

    def __init__(self, images: Stack, masks: Stack) -> None:
        self.counts = self._count(images, masks)
        shape = 3 * (self.cells,)
        smooth = [gaussian_filter(counts.reshape(shape), 0.7) for counts in self.counts.T]
        prior = self.counts.sum(0) / self.counts.sum()
        self.joint = np.stack([each.ravel() for each in smooth], 1) + 0.01 * prior

    def _count(self, images: Stack, masks: Stack) -> NDArray[np.float64]:
        r, g, b = (images // (256 // self.cells)).reshape(-1, 3).astype(np.int64).T
        cell = (r * self.cells + g) * self.cells + b
        counts = np.bincount(cell * K + masks.ravel(), minlength=self.cells**3 * K)
        return counts.reshape(-1, K).astype(np.float64)

    def best_dice(self, images: Stack, masks: Stack) -> float:
        """With equal weights, or those with the best Dice on the training pixels."""
        grid = np.exp(np.linspace(-0.5, 3, 15)).tolist()
        choices = [(1.0, one, other) for one in grid for other in grid]
        best = max(choices, key=lambda weights: self._dice(self.counts, weights))
        counts = self._count(images, masks)
        return max(self._dice(counts, (1.0,) * K), self._dice(counts, best))

    def _dice(self, counts: NDArray[np.float64], weights: tuple[float, ...]) -> float:
        """Mean foreground Dice, pooled."""
        chosen = (self.joint * weights).argmax(1)
        sums = [(counts[chosen == k, k].sum(), counts[chosen == k].sum()) for k in range(1, K)]
        both = counts.sum(0)[1:]
        return float(np.mean([2 * hit / (n + m) for (hit, n), m in zip(sums, both, strict=True)]))


@pytest.mark.parametrize("whole", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_colour_is_not_enough(drawn: Path, tmp_path: Path, whole: bool) -> None:
    folder = draw_dataset(tmp_path / "drawn") if whole else drawn
    validation = read_part(folder, "val")
    classifier = ColourClassifier(*read_part(folder, "train"))
    assert classifier.best_dice(*validation) < (0.5 if whole else 0.55)
    # if colours differ, it works
    paints = np.array([(60, 60, 60), (40, 160, 60), (200, 140, 40)])
    noise = np.random.default_rng(0).normal(0, 15, (*validation[1].shape, 3))
    painted = np.clip(paints[validation[1]] + noise, 0, 255).astype(np.uint8)
    assert ColourClassifier(painted, validation[1]).best_dice(painted, validation[1]) > 0.95


def test_images_depend_only_on_the_seed(tmp_path: Path) -> None:
    once = contents(draw_dataset(tmp_path / "once", 3, 2, (64, 80), seed=4))
    again = contents(draw_dataset(tmp_path / "again", 3, 2, (64, 80), seed=4))
    assert once == again
    other = contents(draw_dataset(tmp_path / "other", 3, 2, (64, 80), seed=5))
    assert all(other[name] != data for name, data in once.items())


def test_splits_differ_and_are_independent(tmp_path: Path) -> None:
    # an even difference, since the number of an image determines JPEG or PNG
    few = draw_dataset(tmp_path / "few", 2, 2, (64, 64))
    many = draw_dataset(tmp_path / "many", 4, 2, (64, 64))
    for part in ("train", "val"):
        for one, other in zip(read_part(few, part), read_part(many, part), strict=True):
            assert np.array_equal(one, other[:2])
    masks = [mask.tobytes() for part in ("train", "val") for mask in read_part(many, part)[1]]
    assert len(set(masks)) == 6


def test_a_failure_leaves_nothing(tmp_path: Path) -> None:
    progress: list[tuple[int, int]] = []

    def stop(done: int, total: int) -> None:
        progress.append((done, total))
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        draw_dataset(tmp_path / "drawn", 4, 2, (64, 64), on_progress=stop)
    assert progress == [(1, 6), (2, 6)]
    assert list(tmp_path.iterdir()) == []


def test_a_missing_or_empty_folder_is_drawn_once(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    progress: list[int] = []
    for folder in (tmp_path / "empty", tmp_path / "new" / "deeper"):
        for _ in range(2):
            draw_dataset(folder, 1, 1, (64, 64), on_progress=lambda done, _: progress.append(done))
        assert len(find_pairs(folder)) == 2
        assert [path.name for path in folder.parent.iterdir() if path.name.startswith(".")] == []
    # the second call finds a complete dataset
    assert progress == [1, 2, 1, 2]


@pytest.mark.parametrize(
    "other", [{"seed": 1}, {"size": (64, 65)}, {"images": 2}, {"validation": 2}]
)
def test_another_data_set_is_not_overwritten(tmp_path: Path, other: dict[str, Any]) -> None:
    arguments: dict[str, Any] = {"images": 1, "validation": 1, "size": (64, 64)}
    folder = draw_dataset(tmp_path / "drawn", **arguments)
    before = contents(folder)
    with pytest.raises(ValueError, match=str(folder)):
        draw_dataset(folder, **{**arguments, **other})
    assert contents(folder) == before


@pytest.mark.parametrize("record", [None, b"not JSON", b"[]", b"\xff"])
def test_other_files_are_not_overwritten(tmp_path: Path, record: bytes | None) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "thesis.txt").write_text("ten years of work")
    if record is not None:
        (folder / "drawn.json").write_bytes(record)
    before = contents(folder)
    for taken in (folder, folder / "thesis.txt"):
        with pytest.raises(ValueError, match=taken.name):
            draw_dataset(taken, 1, 1, (64, 64))
    assert contents(folder) == before
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ({"images": 0}, "images"),
        ({"validation": 0}, "validation"),
        ({"size": (63, 64)}, "height"),
        ({"size": (64, 5)}, "width"),
        ({"seed": -1}, "seed"),
    ],
)
def test_arguments_below_their_minimum(
    tmp_path: Path, arguments: dict[str, object], name: str
) -> None:
    with pytest.raises(ValueError, match=rf"{name} is -?\d+"):
        draw_dataset(tmp_path / "drawn", **arguments)
    assert list(tmp_path.iterdir()) == []
