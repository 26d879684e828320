import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from plainunet.dataset.classes import find_coding
from plainunet.dataset.coding import read_mask
from plainunet.dataset.demo import CLASS_NAMES, draw_dataset
from plainunet.dataset.pairs import find_pairs
from plainunet.formats.images import read_image

SIZE = (96, 128)
K = len(CLASS_NAMES)
Stack = NDArray[np.uint8]


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("synthetic") / "drawn"
    return draw_dataset(folder, pictures=48, validation=16, size=SIZE)


def read_part(folder: Path, part: str) -> tuple[Stack, Stack]:
    pairs = [pair for pair in find_pairs(folder) if pair.part == part]
    images = np.stack([read_image(pair.image) for pair in pairs])
    return images, np.stack([read_mask(pair.mask) for pair in pairs])


def contents(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


# what is drawn


def test_layout_is_the_one_of_any_data_set(drawn: Path) -> None:
    pairs = find_pairs(drawn)
    assert [pair.part for pair in pairs].count("train") == 48
    assert [pair.part for pair in pairs].count("val") == 16
    assert len({pair.image.stem for pair in pairs}) == 64
    suffixes = [pair.image.suffix for pair in pairs]
    assert suffixes.count(".jpg") == suffixes.count(".png") == 32
    assert sorted(path.name for path in drawn.iterdir()) == ["drawn.json", "images", "masks"]
    for pair in pairs:
        assert read_image(pair.image).shape == (*SIZE, 3)
        assert read_mask(pair.mask).shape == SIZE


def test_masks_hold_ids_and_show_colours(drawn: Path) -> None:
    paths = sorted(drawn.glob("masks/*/*.png"))
    coding, counts = find_coding(paths)
    assert coding.kind == "ids"
    assert len(counts) == K
    with Image.open(paths[0]) as mask:
        assert mask.mode == "P"
        palette = np.array(mask.getpalette()[: 3 * K]).reshape(K, 3)
    # seen at a glance: every two colours are far apart
    for k in range(K):
        for other in range(k):
            assert np.abs(palette[k] - palette[other]).sum() > 100


def test_shares_of_the_classes(drawn: Path) -> None:
    for part in ("train", "val"):
        _, masks = read_part(drawn, part)
        shares = np.bincount(masks.ravel(), minlength=K) / masks.size
        assert 0.65 < shares[0] < 0.85
        assert (shares[1:] > 0.07).all()


def test_objects_are_cut_off_at_the_border(drawn: Path) -> None:
    _, masks = read_part(drawn, "train")
    inner = masks.copy()
    inner[:, 1:-1, 1:-1] = 0
    for label in range(1, K):
        touching = (inner == label).any((1, 2)).mean()
        assert touching > 0.5
        # but not all of them: some objects are whole
        whole = 0
        for mask in masks:
            stats = cv2.connectedComponentsWithStats((mask == label).astype(np.uint8))[2][1:]
            left, top, width, height = stats[:, :4].T
            within = (left > 0) & (top > 0)
            whole += (within & (left + width < SIZE[1]) & (top + height < SIZE[0])).sum()
        assert whole > 30


# a pixel's colour does not give it away


class ColourClassifier:
    """Bayes over a colour histogram of 32 x 32 x 32 cells, smoothed, with a weight per class."""

    cells = 32

    def __init__(self, images: Stack, masks: Stack) -> None:
        self.counts = self._count(images, masks)
        smooth = []
        for k in range(K):
            cube = self.counts[:, k].reshape(3 * (self.cells,)).astype(np.float64)
            for _ in range(3):
                # along each axis in turn
                cube = cv2.GaussianBlur(cube.reshape(self.cells, -1), (1, 5), 0.7)
                cube = np.moveaxis(cube.reshape(3 * (self.cells,)), 0, -1).copy()
            smooth.append(cube.ravel())
        prior = self.counts.sum(0) / self.counts.sum()
        self.joint = np.stack(smooth, 1) + 0.01 * prior

    def _count(self, images: Stack, masks: Stack) -> NDArray[np.int64]:
        r, g, b = (images // (256 // self.cells)).reshape(-1, 3).astype(np.int64).T
        cell = (r * self.cells + g) * self.cells + b
        counts = np.bincount(cell * K + masks.ravel(), minlength=self.cells**3 * K)
        return counts.reshape(-1, K)

    def dice(self, images: Stack, masks: Stack, weights: tuple[float, ...] = (1.0,) * K) -> float:
        """Mean foreground Dice, counted over all pixels."""
        return self._dice(self._count(images, masks), weights)

    def best_weights(self) -> tuple[float, ...]:
        """The weights that would have served best on what it was fitted to."""
        grid = np.exp(np.linspace(-0.5, 3, 15)).tolist()
        choices = [(1.0, one, other) for one in grid for other in grid]
        return max(choices, key=lambda weights: self._dice(self.counts, weights))

    def _dice(self, counts: NDArray[np.int64], weights: tuple[float, ...]) -> float:
        chosen = (self.joint * weights).argmax(1)
        scores = []
        for k in range(1, K):
            hit = counts[chosen == k, k].sum()
            scores.append(2 * hit / (counts[chosen == k].sum() + counts[:, k].sum()))
        return float(np.mean(scores))


def check_colour_is_not_enough(folder: Path, most: float) -> None:
    classifier = ColourClassifier(*read_part(folder, "train"))
    validation = read_part(folder, "val")
    assert classifier.dice(*validation) < most
    assert classifier.dice(*validation, classifier.best_weights()) < most


def test_the_colour_classifier_finds_what_colour_tells(drawn: Path) -> None:
    paints = np.array([(60, 60, 60), (40, 160, 60), (200, 140, 40)])
    rng = np.random.default_rng(0)
    painted = []
    for part in ("train", "val"):
        _, masks = read_part(drawn, part)
        noisy = paints[masks] + rng.normal(0, 15, (*masks.shape, 3))
        painted.append((np.clip(noisy, 0, 255).astype(np.uint8), masks))
    classifier = ColourClassifier(*painted[0])
    assert classifier.dice(*painted[1]) > 0.95
    assert classifier.dice(*painted[1], classifier.best_weights()) > 0.95


def test_colour_is_not_enough(drawn: Path) -> None:
    check_colour_is_not_enough(drawn, most=0.55)


@pytest.mark.slow
def test_colour_is_not_enough_in_the_data_of_the_demo(tmp_path: Path) -> None:
    check_colour_is_not_enough(draw_dataset(tmp_path / "drawn"), most=0.5)


# the same arguments, the same pictures


def test_the_seed_alone_decides(tmp_path: Path) -> None:
    once = draw_dataset(tmp_path / "once", 3, 2, (64, 80), seed=4)
    again = draw_dataset(tmp_path / "again", 3, 2, (64, 80), seed=4)
    assert contents(once) == contents(again)
    other = contents(draw_dataset(tmp_path / "other", 3, 2, (64, 80), seed=5))
    for name, data in contents(once).items():
        assert other[name] != data


def test_parts_do_not_repeat_each_other(tmp_path: Path) -> None:
    folder = draw_dataset(tmp_path / "drawn", 4, 4, (64, 64))
    masks = [mask.tobytes() for part in ("train", "val") for mask in read_part(folder, part)[1]]
    assert len(set(masks)) == 8


def test_more_training_pictures_change_nothing_else(tmp_path: Path) -> None:
    # an even difference: a picture's number decides between JPEG and PNG
    few = draw_dataset(tmp_path / "few", 2, 2, (64, 64))
    many = draw_dataset(tmp_path / "many", 4, 2, (64, 64))
    for part, count in (("train", 2), ("val", 2)):
        for one, other in zip(read_part(few, part), read_part(many, part), strict=True):
            assert np.array_equal(one[:count], other[:count])


def test_progress_is_told(tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    draw_dataset(
        tmp_path / "drawn",
        3,
        1,
        (64, 64),
        on_progress=lambda done, total: told.append((done, total)),
    )
    assert told == [(1, 4), (2, 4), (3, 4), (4, 4)]


# whole or not at all


def test_a_failure_leaves_nothing(tmp_path: Path) -> None:
    def stop(done: int, total: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        draw_dataset(tmp_path / "drawn", 4, 2, (64, 64), on_progress=stop)
    assert list(tmp_path.iterdir()) == []


def test_an_empty_folder_is_filled_and_missing_ones_are_made(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for folder in (tmp_path / "empty", tmp_path / "new" / "deeper"):
        assert draw_dataset(folder, 1, 1, (64, 64)) == folder
        assert len(find_pairs(folder)) == 2
        assert [path.name for path in folder.parent.iterdir() if path.name.startswith(".")] == []


def test_a_finished_drawing_is_left_alone(tmp_path: Path) -> None:
    folder = draw_dataset(tmp_path / "drawn", 1, 1, (64, 64))
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    told: list[int] = []
    again = draw_dataset(folder, 1, 1, (64, 64), on_progress=lambda done, _: told.append(done))
    assert again == folder
    assert told == []
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


def test_another_drawing_is_refused(tmp_path: Path) -> None:
    folder = draw_dataset(tmp_path / "drawn", 1, 1, (64, 64))
    before = contents(folder)
    with pytest.raises(ValueError, match=r"drawn in another way.*Delete the folder") as refusal:
        draw_dataset(folder, 1, 1, (64, 64), seed=1)
    assert str(folder) in str(refusal.value)
    assert contents(folder) == before


@pytest.mark.parametrize("record", [None, "not JSON", "[]"])
def test_a_folder_with_other_contents_is_refused(tmp_path: Path, record: str | None) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "thesis.txt").write_text("ten years of work")
    if record is not None:
        (folder / "drawn.json").write_text(record)
    before = contents(folder)
    with pytest.raises(ValueError, match=r"(?s)mine: .*(another one|does not exist yet)"):
        draw_dataset(folder, 1, 1, (64, 64))
    assert contents(folder) == before
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_a_file_in_the_way_is_refused(tmp_path: Path) -> None:
    (tmp_path / "drawn").write_text("a file")
    with pytest.raises(ValueError, match="drawn: exists"):
        draw_dataset(tmp_path / "drawn", 1, 1, (64, 64))
    assert (tmp_path / "drawn").read_text() == "a file"


def test_the_record_says_how_it_was_drawn(drawn: Path) -> None:
    record = json.loads((drawn / "drawn.json").read_text(encoding="utf-8"))
    del record["drawing"]
    assert record == {"pictures": 48, "validation": 16, "size": [96, 128], "seed": 0}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"pictures": 0}, "pictures is 0; it must be at least 1"),
        ({"validation": 0}, "validation is 0; it must be at least 1"),
        ({"size": (63, 64)}, "height is 63; it must be at least 64"),
        ({"size": (64, 5)}, "width is 5; it must be at least 64"),
        ({"seed": -1}, "seed is -1; it must be at least 0"),
    ],
)
def test_arguments_below_their_least_value(
    tmp_path: Path, arguments: dict[str, object], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        draw_dataset(tmp_path / "drawn", **arguments)
    assert list(tmp_path.iterdir()) == []
