import pickle
import random as python_random
from typing import Any

import albumentations as A
import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from plainunet.data.augment import Augment, _strengths

STRENGTHS = ["none", "flip", "light", "strong"]
Sample = tuple[NDArray[Any], NDArray[np.uint8]]


def make_sample(height: int = 40, width: int = 56, classes: int = 3) -> Sample:
    """Shares of a few rectangles of void and classes, and noise as the image."""
    random = np.random.default_rng(0)
    shares = np.zeros((height, width, classes), np.uint8)
    shares[..., 0] = 255
    for k in range(classes):
        top, left = random.integers(0, height // 2), random.integers(0, width // 2)
        shares[top : top + height // 2, left : left + width // 3] = 0
        shares[top : top + height // 2, left : left + width // 3, k] = 255
    shares[:5, :7] = 0
    return random.integers(0, 256, (height, width, 3), dtype=np.uint8), shares


def without_colours(strength: str, elastic: float = 0) -> Augment:
    """An augmentation that keeps what moves pixels alone."""
    augment = Augment(strength, elastic)
    moving = [each for each in augment._compose.transforms if isinstance(each, A.DualTransform)]
    augment._compose = A.Compose(moving)
    return augment


@pytest.mark.parametrize("strength", STRENGTHS)
@pytest.mark.parametrize("elastic", [0, 4])
def test_image_and_mask_move_together(strength: str, elastic: float) -> None:
    _, shares = make_sample()
    augment = without_colours(strength, elastic)
    moved = 0
    for number in range(40):
        image, changed = augment(shares.copy(), shares, (0, 0, number))
        # flips copy; between pixels, images and masks are rounded a little differently
        exact = strength == "flip" and not elastic
        assert np.abs(image.astype(int) - changed).max() <= (0 if exact else 1)
        moved += not np.array_equal(changed, shares)
    assert moved == 0 if strength == "none" and not elastic else moved > 10


@pytest.mark.parametrize("strength", ["light", "strong"])
def test_classes_stay_under_their_pixels_with_colours_changed(strength: str) -> None:
    _, shares = make_sample(classes=2)
    shares[..., 0] = 255 - shares[..., 1]
    image = np.where(shares[..., 1:] == 255, np.uint8(160), np.uint8(90)).repeat(3, axis=2)
    for number in range(20):
        changed, areas = Augment(strength)(image, shares, (0, 0, number))
        # contrast, brightness, gamma and blur keep the order of grey levels
        assert changed[areas[..., 1] > 200].mean() > changed[areas[..., 1] < 55].mean() + 20


def test_flip_is_a_flip() -> None:
    image, shares = make_sample()
    seen = set()
    for number in range(20):
        changed, areas = Augment("flip")(image, shares, (0, 0, number))
        flipped = bool((changed != image).any())
        step = -1 if flipped else 1
        assert np.array_equal(changed, image[:, ::step])
        assert np.array_equal(areas, shares[:, ::step])
        seen.add(flipped)
    assert seen == {True, False}


def test_light_keeps_pictures_upright() -> None:
    shares = np.zeros((40, 56, 2), np.uint8)
    shares[:20, :, 0] = 255
    shares[20:, :, 1] = 255
    for number in range(30):
        _, areas = Augment("light")(shares[..., :1], shares, (0, 0, number))
        assert areas[:14, 20:36, 0].mean() > 200
        assert areas[26:, 20:36, 1].mean() > 200


def test_none_changes_nothing() -> None:
    image, shares = make_sample()
    changed, areas = Augment("none")(image, shares, (1, 2, 3))
    assert np.array_equal(changed, image)
    assert np.array_equal(areas, shares)


@pytest.mark.parametrize("strength", ["flip", "light", "strong"])
def test_state_alone_decides(strength: str) -> None:
    image, shares = make_sample()
    augment = Augment(strength)
    first = [augment(image, shares, (7, 0, number)) for number in range(10)]
    python_random.seed(5)
    np.random.seed(5)  # noqa: NPY002 -- the global state that must not matter
    others = [Augment(strength), pickle.loads(pickle.dumps(augment)), augment]
    for other in others:
        # another order, too: nothing may be carried over from call to call
        for number in reversed(range(10)):
            again = other(image, shares, (7, 0, number))
            assert np.array_equal(again[0], first[number][0])
            assert np.array_equal(again[1], first[number][1])


@pytest.mark.parametrize("strength", ["light", "strong"])
@pytest.mark.parametrize("place", [0, 1, 2], ids=["seed", "epoch", "draw"])
def test_each_number_of_the_state_matters(strength: str, place: int) -> None:
    image, shares = make_sample()
    augment = Augment(strength)
    states = [tuple(number if i == place else 3 for i in range(3)) for number in range(20)]
    results = {augment(image, shares, state)[0].tobytes() for state in states}
    assert len(results) > 10


def test_seed_epoch_and_draw_are_not_interchangeable() -> None:
    image, shares = make_sample()
    augment = Augment("strong")
    results = {
        augment(image, shares, state)[0].tobytes()
        for state in [(0, 1, 2), (1, 0, 2), (2, 1, 0), (1, 2, 0)]
    }
    assert len(results) == 4


@pytest.mark.parametrize("strength", STRENGTHS)
def test_no_area_appears_from_nowhere(strength: str) -> None:
    image, shares = make_sample(classes=4)
    shares[..., 2] = 0
    for number in range(40):
        _, areas = Augment(strength)(image, shares, (0, 0, number))
        assert areas[..., 2].max() == 0
        # each of the planes is rounded on its own
        assert areas.astype(int).sum(axis=2).max() <= 255 + 2


@pytest.mark.parametrize("strength", STRENGTHS)
@pytest.mark.parametrize("channels", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_shapes_and_dtypes_are_kept(strength: str, channels: int, dtype: Any) -> None:
    random = np.random.default_rng(0)
    image = (random.random((33, 47, channels)) * (255 if dtype == np.uint8 else 1)).astype(dtype)
    for classes in (2, 7):
        _, shares = make_sample(33, 47, classes)
        image.flags.writeable = shares.flags.writeable = False  # as from the cache
        for number in range(5):
            changed, areas = Augment(strength)(image, shares, (0, 0, number))
            assert (changed.shape, changed.dtype) == (image.shape, image.dtype)
            assert (areas.shape, areas.dtype) == (shares.shape, np.uint8)


@pytest.mark.parametrize("strength", ["light", "strong"])
def test_float_pictures_keep_their_range(strength: str) -> None:
    """Floats are in the pictures' own units, such as -1000..3000 of computed tomography."""
    _, shares = make_sample()
    image = np.linspace(-1000, 3000, 40 * 56, dtype=np.float32).reshape(40, 56, 1)
    for number in range(10):
        changed, _ = Augment(strength)(image, shares, (0, 0, number))
        assert np.isfinite(changed).all()
        assert np.ptp(changed) > 1000


@pytest.mark.parametrize("strength", STRENGTHS)
def test_without_elastic_nothing_is_drawn_for_it(strength: str) -> None:
    """What runs were trained on before there was an elastic deformation stays as it was."""
    image, shares = make_sample()
    plain = A.Compose(_strengths(cv2.INTER_LINEAR)[strength])
    for number in range(15):
        seed = int(np.random.SeedSequence((0, 1, number)).generate_state(1)[0])
        plain.set_random_seed(seed)
        expected = plain(image=image, mask=shares)
        for augment in (Augment(strength), Augment(strength, 0.0)):
            changed, areas = augment(image, shares, (0, 1, number))
            assert np.array_equal(changed, expected["image"])
            assert np.array_equal(areas, expected["mask"])


@pytest.mark.parametrize("strength", STRENGTHS)
def test_elastic_deforms_every_sample_anew(strength: str) -> None:
    image, shares = make_sample()
    augment = Augment(strength, 5)
    results = [augment(image, shares, (0, 0, number)) for number in range(12)]
    assert len({changed.tobytes() for changed, _ in results}) == 12
    assert len({areas.tobytes() for _, areas in results}) == 12
    assert not any(np.array_equal(areas, shares) for _, areas in results)


def make_cells(height: int = 80, width: int = 96) -> NDArray[np.uint16]:
    """Labels [height, width, 1] of a dozen discs, far more than a pixel across."""
    random = np.random.default_rng(4)
    labels = np.zeros((height, width), np.uint16)
    for number in range(1, 13):
        centre = (int(random.integers(0, width)), int(random.integers(0, height)))
        cv2.circle(labels, centre, int(random.integers(7, 15)), 5000 * number, -1)
    return labels[..., None]


@pytest.mark.parametrize("strength", STRENGTHS)
@pytest.mark.parametrize("elastic", [0, 5])
def test_labels_move_with_the_shares(strength: str, elastic: float) -> None:
    """The object of a pixel is the one that has most of it; single pixels of outlines differ."""
    labels = make_cells()
    numbers = np.unique(labels)
    image = np.random.default_rng(0).integers(0, 256, (80, 96, 3), dtype=np.uint8)
    images = [image, image / np.float32(100)]  # no draw may depend on what is seen
    masks = [np.where(labels == number, np.uint8(255), np.uint8(0)) for number in numbers]
    shares = np.concatenate(masks, axis=2)
    augment = Augment(strength, elastic)
    for number in range(40):
        _, areas = augment(images[number % 2], shares, (0, 0, number))
        moved = augment.move(labels, (0, 0, number))
        assert (moved.shape, moved.dtype) == (labels.shape, np.uint16)
        assert set(np.unique(moved)) <= set(numbers)
        most = numbers[areas.argmax(axis=2)]
        differ = (most != moved[..., 0]).mean()
        assert differ < 0.025
        # half of what a shift by one pixel would do
        assert differ < (most[:, 1:] != moved[:, :-1, 0]).mean() / 2
        assert differ < (most[1:] != moved[:-1, :, 0]).mean() / 2
        # nobody's share of a pixel that is not its own is whole, nor nothing of one that is
        of_label = np.take_along_axis(areas, np.searchsorted(numbers, moved), axis=2)
        assert (of_label == 0).mean() < 0.002


def test_labels_of_a_flip_are_exact() -> None:
    labels = make_cells()
    shares = np.where(labels > 0, np.uint8(255), np.uint8(0))
    for number in range(10):
        _, areas = Augment("flip")(shares, shares, (0, 0, number))
        moved = Augment("flip").move(labels, (0, 0, number))
        assert np.array_equal(moved > 0, areas > 0)


def test_unknown_strength() -> None:
    with pytest.raises(ValueError, match="'medium'; it is one of none, flip, light, strong"):
        Augment("medium")
