from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from plainunet.dataset.borders import (
    border_weights,
    find_objects,
    part_objects,
    part_touching,
    resize_labels,
)
from plainunet.dataset.coding import Instances, Values, read_mask

INSTANCES = Instances()
BINARY = Values((0, 255))
Labels = NDArray[np.uint16]


def blank(height: int = 24, width: int = 31) -> Labels:
    return np.zeros((height, width), np.uint16)


def touching() -> Labels:
    labels = blank()
    labels[4:14, 3:12], labels[6:18, 12:22] = 1, 2
    return labels


def nested() -> Labels:
    """A ring, a block in its hole, and a third object outside."""
    labels = blank()
    labels[2:20, 2:20] = 3
    labels[5:17, 5:17] = 0
    labels[9:12, 9:13] = 1
    labels[4:9, 25:29] = 7
    return labels


def at_the_edge() -> Labels:
    labels = blank()
    labels[0:6, 0:5], labels[0:3, 8:31], labels[20:24, 0:31] = 1, 2, 65535
    labels[12, 12] = 4  # a single pixel
    return labels


def alone() -> Labels:
    labels = blank()
    labels[3:9, 3:9] = 9
    return labels


def in_two_parts() -> Labels:
    """Two parts of one object count as one nearest object."""
    labels = blank()
    labels[3:8, 3:8] = labels[3:8, 12:16] = 4
    labels[14:20, 5:14] = 2
    return labels


def at_random() -> Labels:
    random = np.random.default_rng(1)
    labels = blank(40, 36)
    for number in range(1, 13):
        centre = (int(random.integers(0, 36)), int(random.integers(0, 40)))
        cv2.circle(labels, centre, int(random.integers(0, 6)), number, -1)
    return labels


DRAWN = [blank, alone, touching, nested, at_the_edge, in_two_parts, at_random]


def weights_by_definition(labels: Labels, weight: float, sigma: float) -> NDArray[np.float64]:
    """The paper's term, from every pixel to every pixel of every object."""
    result = np.zeros(labels.shape)
    objects = [np.argwhere(labels == number) for number in np.unique(labels) if number]
    if len(objects) < 2:
        return result
    for row in range(labels.shape[0]):
        for column in range(labels.shape[1]):
            if labels[row, column] == 0:
                distances = [np.hypot(*(each - (row, column)).T).min() for each in objects]
                d1, d2 = sorted(distances)[:2]
                result[row, column] = weight * np.exp(-((d1 + d2) ** 2) / (2 * sigma**2))
    return result


@pytest.mark.parametrize("sigma", [0.7, 2.0, 5.0, 9.5])
@pytest.mark.parametrize("draw", DRAWN)
def test_border_weights_match_the_paper(draw: Callable[[], Labels], sigma: float) -> None:
    labels = draw()
    weights = border_weights(labels, 10, sigma)
    assert weights.dtype == np.float32
    assert np.abs(weights - weights_by_definition(labels, 10, sigma)).max() < 1e-4


@pytest.mark.parametrize("draw", DRAWN)
def test_touching_objects_share_a_neighbourhood(draw: Callable[[], Labels]) -> None:
    labels = draw()
    around = np.lib.stride_tricks.sliding_window_view(np.pad(labels, 1), (3, 3))
    wanted = [[len({*window.flat} - {0}) > 1 for window in row] for row in around]
    assert np.array_equal(part_touching(labels), wanted)


def test_separated_objects_have_background_between_them() -> None:
    labels = touching()
    shares = np.zeros((*labels.shape, 2), np.uint8)
    shares[..., 0], shares[..., 1] = np.where(labels > 0, 0, 255), np.where(labels > 0, 255, 0)
    shares[5:7, 10:13] = (0, 100)  # partly void
    shares[8, 10:13] = (128, 128)  # planes are rounded separately
    before = shares.copy()
    parted, target = part_objects(labels, shares)
    meets = part_touching(labels)
    assert np.array_equal(shares, before)
    assert (parted == np.where(meets, 0, labels)).all()
    assert (target[~meets] == shares[~meets]).all()
    assert (target[meets, 1] == 0).all()
    assert (target[meets, 0] == shares[meets].sum(axis=1, dtype=int).clip(max=255)).all()
    # and now they have weights
    assert border_weights(labels, 10, 5)[meets & (labels > 0)].max() == 0
    assert border_weights(parted, 10, 5)[6:14, 11:13].min() > 8


def test_objects_of_two_classes_are_not_separated() -> None:
    labels = touching()
    shares = np.zeros((*labels.shape, 3), np.uint8)
    for class_id, inside in enumerate([labels == 0, labels == 1, labels == 2]):
        shares[inside, class_id] = 255
    parted, target = part_objects(labels, shares)
    assert np.array_equal(parted, labels)
    assert np.array_equal(target, shares)
    shares[labels == 2] = (0, 255, 0)
    assert (part_objects(labels, shares)[1][..., 0] == 255).sum() > (labels == 0).sum()


def test_objects_of_an_instance_mask() -> None:
    mask = np.array([[0, 9, 9, 0], [500, 0, 0, 65535], [500, 0, 7, 9]], np.uint16)
    labels = find_objects(mask, Instances(7))
    assert labels.dtype == np.uint16
    # by their values, also in two parts; 7 is ignored
    assert labels.tolist() == [[0, 1, 1, 0], [2, 0, 0, 3], [2, 0, 0, 1]]
    for coding in (INSTANCES, BINARY):
        assert not find_objects(np.zeros((4, 5), np.uint8), coding).any()


def test_objects_of_a_class_are_connected_components() -> None:
    mask = np.zeros((8, 9), np.uint8)
    mask[1:3, 1:3] = mask[3, 3] = 20  # connected at a corner
    mask[6, 0:2] = 20
    mask[3:5, 4:6] = 30  # touches the first, but is of another class
    mask[7, 7:] = 99
    labels = find_objects(mask, Values((10, 20, 30, 0), 99))
    assert labels[1, 1] == labels[3, 3] != labels[6, 0]
    assert set(labels[mask == 30]) == {3}
    assert (labels[mask == 99] == 0).all()
    # only class 0 is background; the value 0 is the fourth class here
    assert (labels[mask == 0] > 0).all()


def test_too_many_objects_are_refused() -> None:
    mask = np.zeros((520, 520), np.uint8)
    mask[::2, ::2] = 255
    with pytest.raises(ValueError, match=r"speckled\.png .* 67600 .* 65535"):
        find_objects(mask, BINARY, Path("speckled.png"))
    assert find_objects(mask[:510, :510], BINARY).max() == 65025


def test_resized_labels_are_not_interpolated() -> None:
    labels = at_random()[..., None]
    for size in [(20, 18), (17, 36), (80, 72), (40, 36)]:
        resized = resize_labels(labels, size)
        assert resized.dtype == np.uint16
        assert resized.shape == (*size, 1)
        assert set(np.unique(resized)) <= set(np.unique(labels))
    assert np.array_equal(resize_labels(labels, (80, 72))[::2, 1::2], labels)
    # a third of the size keeps the middle of every three pixels
    assert np.array_equal(resize_labels(labels[:39], (13, 12)), labels[1:39:3, 1::3])


def test_real_nuclei(data_root: Path) -> None:
    crowded = 0
    for path in sorted((data_root / "dsb2018" / "masks").iterdir())[:40:4]:
        mask = read_mask(path)[:256, :256]
        labels = find_objects(mask, INSTANCES)
        assert labels.max() == len(np.unique(mask[mask > 0]))
        shares = np.stack([labels == 0, labels > 0], axis=2).astype(np.uint8) * np.uint8(255)
        parted, target = part_objects(labels, shares)
        weights = border_weights(parted, 10, 5)
        assert (weights[parted > 0] == 0).all()
        # different neighbours are separated now
        assert not (part_touching(parted) & (parted > 0)).any()
        touched = (target[..., 0] != shares[..., 0]) & (labels > 0)
        crowded += touched.sum() > 0
        assert touched.sum() == 0 or weights[touched].min() > 3
    assert crowded >= 2
