"""Images and masks are augmented together."""

import math
import pickle
import random as python_random
from typing import Any

import albumentations as A
import cv2
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import ndimage

from plainunet.dataset.augment import Augment, Compression, Elastic, _strengths, displacements
from plainunet.dataset.borders import resize_labels
from plainunet.dataset.resize import area_shares

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
    """An augmentation with its geometric transforms only."""
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
        # flips copy; interpolation rounds images and masks slightly differently
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


@pytest.mark.parametrize("strength", ["none", "flip"])
def test_flip_is_a_flip_and_none_changes_nothing(strength: str) -> None:
    image, shares = make_sample()
    seen = set()
    for number in range(20):
        changed, areas = Augment(strength)(image, shares, (0, 0, number))
        flipped = bool((changed != image).any())
        step = -1 if flipped else 1
        assert np.array_equal(changed, image[:, ::step])
        assert np.array_equal(areas, shares[:, ::step])
        labels = image[..., :1].astype(np.uint16)
        assert np.array_equal(Augment(strength).move(labels, (0, 0, number)), labels[:, ::step])
        seen.add(flipped)
    assert seen == ({True, False} if strength == "flip" else {False})


def test_light_keeps_images_upright() -> None:
    shares = np.zeros((40, 56, 2), np.uint8)
    shares[:20, :, 0] = 255
    shares[20:, :, 1] = 255
    for number in range(30):
        _, areas = Augment("light")(shares[..., :1], shares, (0, 0, number))
        assert areas[:14, 20:36, 0].mean() > 200
        assert areas[26:, 20:36, 1].mean() > 200


@pytest.mark.parametrize("strength", ["flip", "light", "strong"])
def test_only_the_state_decides(strength: str) -> None:
    image, shares = make_sample()
    augment = Augment(strength)
    first = [augment(image, shares, (7, 0, number)) for number in range(10)]
    python_random.seed(5)
    np.random.seed(5)  # noqa: NPY002 -- the global state that must not matter
    others = [Augment(strength), pickle.loads(pickle.dumps(augment)), augment]
    for other in others:
        # also in another order: calls do not depend on each other
        for number in reversed(range(10)):
            again = other(image, shares, (7, 0, number))
            assert np.array_equal(again[0], first[number][0])
            assert np.array_equal(again[1], first[number][1])


@pytest.mark.parametrize("strength", ["light", "strong"])
def test_each_number_of_the_state_matters(strength: str) -> None:
    image, shares = make_sample()
    augment = Augment(strength)
    for place in range(3):
        states = [tuple(number if i == place else 3 for i in range(3)) for number in range(20)]
        assert len({augment(image, shares, state)[0].tobytes() for state in states}) > 10
    swapped = [(0, 1, 2), (1, 0, 2), (2, 1, 0), (1, 2, 0)]
    assert len({augment(image, shares, state)[0].tobytes() for state in swapped}) == 4


@pytest.mark.parametrize("strength", ["light", "strong"])
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_dark_images_are_never_blackened(strength: str, dtype: Any) -> None:
    """As in fluorescence microscopy: most of the range is not used."""
    _, shares = make_sample()
    top = 30 if dtype == np.uint8 else 0.05  # of 16-bit images, as floats
    image = np.linspace(0, top, 40 * 56).reshape(40, 56, 1).astype(dtype)
    for number in range(30):
        changed, _ = Augment(strength)(image, shares, (0, 0, number))
        assert changed.std() > 0.4 * image.std()


@pytest.mark.parametrize("strength", ["light", "strong"])
def test_channels_of_other_units_keep_their_contrast(strength: str) -> None:
    """As in a height model with an index, or one dark channel among bright ones."""
    _, shares = make_sample()
    ramp = np.linspace(0, 1, 40 * 56, dtype=np.float32).reshape(40, 56, 1)
    height = np.concatenate([1000 + 50 * ramp, 0.2 * ramp], axis=2)
    colour = np.concatenate([190 + 20 * ramp, 10 + 20 * ramp], axis=2).astype(np.uint8)
    for number in range(60):
        for image in (height, colour):
            changed, _ = Augment(strength)(image, shares, (0, 0, number))
            kept = changed.std(axis=(0, 1)) / image.std(axis=(0, 1))
            assert (kept[1] > 0.3).all(), kept
            assert np.isfinite(kept).all()


@pytest.mark.parametrize("strength", STRENGTHS)
@pytest.mark.parametrize("channels", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_shapes_and_dtypes_are_kept(strength: str, channels: int, dtype: Any) -> None:
    random = np.random.default_rng(0)
    image = (random.random((33, 47, channels)) * (255 if dtype == np.uint8 else 1)).astype(dtype)
    for classes, elastic in ((2, 4), (7, 0)):
        _, shares = make_sample(33, 47, classes)
        image.flags.writeable = shares.flags.writeable = False  # as from the cache
        for number in range(5):
            changed, areas = Augment(strength, elastic)(image, shares, (0, 0, number))
            assert (changed.shape, changed.dtype) == (image.shape, image.dtype)
            assert (areas.shape, areas.dtype) == (shares.shape, np.uint8)


@pytest.mark.parametrize("strength", STRENGTHS)
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_all_of_many_channels_move_together(strength: str, dtype: Any) -> None:
    """More than OpenCV takes at once, in equal parts: `Compression` changes one of 3 channels."""
    grey, shares = make_sample(33, 47)
    image = np.repeat(grey[..., :1], 131, axis=2).astype(dtype)
    for number in range(8):
        augment = Augment(strength, elastic=2)
        changed, areas = augment(image, shares, (0, 0, number))
        assert (changed.shape, changed.dtype) == (image.shape, image.dtype)
        assert (changed == changed[..., :1]).all()
        few, same = augment(image[..., :4], shares, (0, 0, number))
        assert (few == changed[..., :4]).all()
        assert (same == areas).all()


@pytest.mark.parametrize("strength", ["light", "strong"])
def test_float_images_keep_their_range(strength: str) -> None:
    """Floats are in the images' own units, such as -1000..3000 of computed tomography."""
    _, shares = make_sample()
    image = np.linspace(-1000, 3000, 40 * 56, dtype=np.float32).reshape(40, 56, 1)
    for number in range(10):
        changed, _ = Augment(strength)(image, shares, (0, 0, number))
        assert np.isfinite(changed).all()
        assert np.ptp(changed) > 1000


@pytest.mark.parametrize("strength", STRENGTHS)
def test_without_elastic_the_random_numbers_are_unchanged(strength: str) -> None:
    """Results of runs without elastic deformation do not change."""
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
    """A pixel's label is its main object's; single boundary pixels may differ."""
    labels = make_cells()
    numbers = np.unique(labels)
    image = np.random.default_rng(0).integers(0, 256, (80, 96, 3), dtype=np.uint8)
    images = [image, image / np.float32(100)]  # random choices may not depend on the image
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
        # shares are below 1 outside of the object, and above 0 inside
        of_label = np.take_along_axis(areas, np.searchsorted(numbers, moved), axis=2)
        assert (of_label == 0).mean() < 0.002


VOID = 255
SIDES = st.integers(2, 60)
ELASTIC = st.sampled_from([0.0, 1.0, 4.0, 20.0])
SEEDS = st.integers(0, 2**32)


def draw_mask(seed: int, height: int, width: int, classes: int) -> NDArray[np.uint8]:
    """Class ids [height, width] of boxes of any size; of some classes none, and some void."""
    random = np.random.default_rng(seed)
    present = random.choice(classes, size=random.integers(1, classes + 1), replace=False)
    ids = np.full((height, width), present[0], np.uint8)
    for _ in range(random.integers(1, 12)):
        top, left = random.integers(0, height), random.integers(0, width)
        below, right = top + random.integers(1, height + 1), left + random.integers(1, width + 1)
        ids[top:below, left:right] = random.choice([*present, *present, VOID])
    return ids


def far_from(ids: NDArray[np.uint8], value: int, reach: int) -> NDArray[np.bool_]:
    """[height, width], where no pixel of a value is within `reach` rows and columns."""
    around = np.ones((2 * reach + 1, 2 * reach + 1), np.uint8)
    return cv2.dilate((ids == value).astype(np.uint8), around) == 0


@settings(max_examples=40)
@given(
    strength=st.sampled_from(STRENGTHS),
    elastic=ELASTIC,
    height=SIDES,
    width=SIDES,
    classes=st.integers(2, 7),
    seed=SEEDS,
)
@example(strength="strong", elastic=4, height=60, width=60, classes=4, seed=0)
def test_shares_stay_near_their_class(
    strength: str, elastic: float, height: int, width: int, classes: int, seed: int
) -> None:
    """What is far from a class is moved along; there the class has nothing, and others all.

    An id that lies between those of two neighbours, 2 between 1 and 3, is far from both.
    """
    ids = draw_mask(seed, height, width, classes)
    shares = area_shares(ids, classes, (height, width))
    image = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    augment = Augment(strength, elastic)
    _, moved = augment(image, shares, (seed, 0, 1))
    # a pixel is mixed of four; a deformation may pull these apart, the more the steeper it is
    reach = 2 + math.ceil(18 * elastic / min(height, width))
    values = [*range(classes), VOID]
    bits = sum(far_from(ids, value, reach) * np.uint16(1 << n) for n, value in enumerate(values))
    far = (augment.move(bits[..., None], (seed, 0, 1)) >> np.arange(classes + 1)) & 1 > 0
    far_from_void = far[..., classes]
    assert moved[far[..., :classes]].max(initial=0) == 0
    # far from all but one class, a pixel is wholly that class's
    pure = far.sum(axis=2) == classes
    assert (moved[pure & far_from_void].max(axis=1, initial=255) == 255).all()
    for k in set(range(classes)) - set(np.unique(ids)):
        assert not moved[..., k].any()
    # each plane is rounded separately, once per move
    total = moved.sum(axis=2, dtype=int)
    off = classes * (1 if elastic else 0.5)
    assert total.max() <= 255 + off
    assert total[far_from_void].min(initial=255) >= 255 - off


@settings(max_examples=40)
@given(
    strength=st.sampled_from(STRENGTHS),
    elastic=ELASTIC,
    sizes=st.tuples(*[st.tuples(SIDES, SIDES)] * 3),
    numbers=st.lists(st.integers(1, 65535), min_size=2, max_size=5, unique=True),
    seed=SEEDS,
)
def test_resized_and_moved_labels_have_no_new_values(
    strength: str,
    elastic: float,
    sizes: list[tuple[int, int]],
    numbers: list[int],
    seed: int,
) -> None:
    """From the file's size to the cache's and the step's."""
    size, stored, given_out = sizes
    table = np.array([0, *numbers], np.uint16)
    labels = table[draw_mask(seed, *size, len(table)) % len(table)][..., None]
    resized = resize_labels(resize_labels(labels, stored), given_out)
    moved = Augment(strength, elastic).move(resized, (seed, 2, 3))
    assert moved.dtype == np.uint16
    assert moved.shape == (*given_out, 1)
    assert set(np.unique(moved)) <= set(np.unique(resized)) <= set(np.unique(labels))


@pytest.mark.parametrize("channels", [1, 3])
def test_compression_changes_textures_and_keeps_colours(channels: int) -> None:
    image, _ = make_sample()
    flat = np.full((40, 56, 3), (200, 30, 90), np.uint8)[..., :channels]
    changed = Compression(40, p=1.0).apply(flat, quality=40)
    assert changed.shape == flat.shape
    assert np.abs(changed.astype(int) - flat).max() <= 6  # one colour stays, in its order
    assert min(changed.strides) > 0  # else no tensor can be made of it
    noise = image[..., :channels]
    apart = [
        np.abs(Compression(40, p=1.0).apply(noise, quality=q).astype(int) - noise).mean()
        for q in (95, 40)
    ]
    assert 1 < apart[0] < apart[1]


@pytest.mark.parametrize("image", [np.zeros((9, 9, 4), np.uint8), np.zeros((9, 9, 3), np.float32)])
def test_compression_leaves_other_images_alone(image: NDArray[Any]) -> None:
    assert Compression(40, p=1.0).apply(image, quality=40) is image


def test_unknown_strength() -> None:
    with pytest.raises(ValueError, match=r"'medium'.* none, flip, mild, light, strong"):
        Augment("medium")


def maps(elastic: Elastic, shape: tuple[int, ...], seed: int) -> dict[str, NDArray[np.float32]]:
    elastic.set_random_seed(seed)
    return elastic.get_params_dependent_on_data({"shape": shape}, {})


def test_equal_displacements_shift_the_whole_image() -> None:
    assert np.allclose(displacements(np.full((3, 3), 4.5), (20, 31)), 4.5)
    for size in [(1, 1), (1, 9), (2, 2)]:
        assert np.isfinite(displacements(np.ones((3, 3)), size)).all()


def test_bicubic_between_nodes() -> None:
    """Against SciPy's convolution of the same nodes with Keys' kernel, sampled finely."""
    nodes = np.random.default_rng(1).normal(0, 10, (3, 3))
    steps = 16
    t = np.abs(np.arange(-2 * steps, 2 * steps + 1) / steps)
    kernel = np.where(t < 1, 1.5 * t**3 - 2.5 * t**2 + 1, -0.5 * t**3 + 2.5 * t**2 - 4 * t + 2)
    padded = np.pad(nodes, 3, mode="edge")
    sparse = np.zeros([steps * (side - 1) + 1 for side in padded.shape])
    sparse[::steps, ::steps] = padded
    smooth = ndimage.convolve1d(ndimage.convolve1d(sparse, kernel, axis=0), kernel, axis=1)
    inner = smooth[3 * steps : -3 * steps, 3 * steps : -3 * steps]
    assert np.allclose(displacements(nodes, (33, 33)), inner, atol=1e-4)


def test_small_deviations_do_not_fold_the_image() -> None:
    """A sixteenth of the side; the docs say a twelfth, where one in 200 may."""
    elastic = Elastic(4, cv2.INTER_LINEAR)
    for seed in range(100):
        field = maps(elastic, (64, 64, 3), seed)
        (x_down, x_across), (y_down, y_across) = map(np.gradient, field.values())
        assert (x_across * y_down - x_down * y_across).min() > 0


def test_displacements_have_the_given_deviation() -> None:
    elastic = Elastic(10, cv2.INTER_LINEAR)
    drawn = []
    for seed in range(600):
        field = maps(elastic, (9, 13, 3), seed)
        x, y = field["map_x"] - np.arange(13), field["map_y"] - np.arange(9)[:, None]
        drawn.append([x[::4, ::6], y[::4, ::6]])
    nodes = np.array(drawn)  # [600, 2, 3, 3]
    # 600 draws: a standard error of 3 % each, 0.7 % over all 18
    assert np.abs(nodes.std(axis=0) - 10).max() < 1.2
    assert abs(nodes.std() - 10) < 0.3
    assert np.abs(nodes.mean(axis=0)).max() < 1.7
    # drawn independently
    correlation = np.corrcoef(nodes.reshape(600, 18).T) - np.eye(18)
    assert np.abs(correlation).max() < 0.2


def test_pixels_follow_the_maps() -> None:
    rows, columns = np.mgrid[:64, :80].astype(np.float32)
    image = np.stack([rows, columns], axis=2) / 100
    elastic = Elastic(3, cv2.INTER_LINEAR)
    x, y = maps(elastic, image.shape, 5).values()
    elastic.set_random_seed(5)
    moved = elastic(image=image)["image"] * 100
    inside = (x >= 0) & (x <= 79) & (y >= 0) & (y <= 63)
    assert 0.8 < inside.mean() < 1
    # OpenCV reads between pixels in steps of 1/32
    assert np.abs(moved[..., 0] - y)[inside].max() < 0.04
    assert np.abs(moved[..., 1] - x)[inside].max() < 0.04
    # beyond the edge the image is mirrored about its outermost pixels
    assert np.abs(moved[..., 0] - np.abs(y))[y < 0].max(initial=0) < 0.04
