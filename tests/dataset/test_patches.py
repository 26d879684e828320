import numpy as np
import pytest

from plainunet.dataset.cache import Sample
from plainunet.dataset.samples import CENTRED, cut_patch, pad, patches_each

HEIGHT, WIDTH = 90, 120


def sample(labels: bool = False) -> Sample:
    """Every pixel tells where it is; one small object of class 1, and much of class 2."""
    rows, columns = np.mgrid[:HEIGHT, :WIDTH].astype(np.uint8)
    image = np.stack([rows, columns, rows ^ columns], axis=2)
    shares = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    shares[..., 0] = 255
    shares[70:73, 20:23] = (0, 255, 0)
    shares[:, 60:] = (0, 0, 255)
    shares[:, 60:][:, 40:] = (255, 0, 0)
    return (image, shares, image[..., :1].astype(np.uint16)) if labels else (image, shares)


def corner(image: np.ndarray) -> tuple[int, int]:
    return int(image[0, 0, 0]), int(image[0, 0, 1])


def test_a_patch_is_a_window_of_all_arrays() -> None:
    whole = sample(labels=True)
    for number in range(40):
        parts = cut_patch(whole, (32, 48), (1, 2, number))
        assert [part.shape for part in parts] == [(32, 48, 3), (32, 48, 3), (32, 48, 1)]
        top, left = corner(parts[0])
        for part, full in zip(parts, whole, strict=True):
            assert np.array_equal(part, full[top : top + 32, left : left + 48])


def test_the_same_numbers_cut_the_same() -> None:
    corners = [corner(cut_patch(sample(), (32, 48), (0, 0, n))[0]) for n in range(50)]
    assert corners == [corner(cut_patch(sample(), (32, 48), (0, 0, n))[0]) for n in range(50)]
    assert len(set(corners)) > 40


def test_patches_reach_every_pixel() -> None:
    seen = np.zeros((HEIGHT, WIDTH), int)
    for number in range(600):
        top, left = corner(cut_patch(sample(), (32, 48), (0, 0, number))[0])
        seen[top : top + 32, left : left + 48] += 1
    assert seen.min() > 0


def test_a_third_is_centred_on_rarer_classes_evenly() -> None:
    """Class 1, 9 pixels of 10,800, is in the middle of a sixth of all patches."""
    draws = 3000
    middles = [cut_patch(sample(), (16, 16), (7, 0, n))[1][8, 8] for n in range(draws)]
    counts = (np.array(middles) > 127).sum(axis=0)
    assert counts[1] / draws == pytest.approx(CENTRED / 2, abs=0.025)
    assert counts[2] / draws > CENTRED / 2 + 0.1


def test_one_class_alone_is_cut_anywhere() -> None:
    image, shares = sample()
    shares[:] = (255, 0, 0)
    corners = {corner(cut_patch((image, shares), (32, 48), (0, 0, n))[0]) for n in range(50)}
    assert len(corners) > 40


def test_small_pictures_are_padded() -> None:
    image, shares, labels = (part[:20, :48] for part in sample(labels=True))
    parts = cut_patch((image, shares, labels), (32, 64), (0, 0, 0))
    assert np.array_equal(parts[0][:20, :48], image)
    assert (parts[0][20:, :48] == image[-1]).all()
    assert not parts[1][20:].any()
    assert not parts[1][:, 48:].any()
    assert not parts[2][20:].any()
    # along one side only
    wide = cut_patch((image, shares), (32, 24), (0, 0, 3))
    assert wide[0].shape == (32, 24, 3)
    left = corner(wide[0])[1]
    assert np.array_equal(wide[0][:20], image[:, left : left + 24])


def test_what_fits_is_not_copied() -> None:
    image, shares = sample()
    assert pad([image, shares], (HEIGHT, WIDTH))[0] is image


@pytest.mark.parametrize(
    ("sizes", "patch", "expected"),
    [([(100, 100)], (50, 50), 4), ([(40, 40)], (64, 64), 1), ([(64, 64), (192, 64)], (64, 64), 2)],
)
def test_how_many_patches_make_a_picture(
    sizes: list[tuple[int, int]], patch: tuple[int, int], expected: int
) -> None:
    assert patches_each(sizes, patch) == expected
