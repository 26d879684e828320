import numpy as np
import pytest

from plainunet.data.drawn.ground import draw_ground, noise, pick_colour, relief_light


def generators(count: int) -> list[np.random.Generator]:
    return [np.random.default_rng(seed) for seed in range(count)]


def test_colours_are_many_and_in_range() -> None:
    colours = np.stack([pick_colour(rng) for rng in generators(200)])
    assert colours.shape == (200, 3)
    assert colours.dtype == np.float32
    assert colours.min() > 0.1
    assert colours.max() < 1.3
    assert (colours.std(0) > 0.1).all()


@pytest.mark.parametrize("shape", [(64, 96), (33, 20), (3, 200), (1, 1)])
def test_noise_has_the_asked_shape_and_no_bias(shape: tuple[int, int]) -> None:
    drawn = np.stack([noise(rng, shape, 8.0) for rng in generators(60)])
    assert drawn.shape == (60, *shape)
    assert drawn.dtype == np.float32
    assert abs(drawn.mean()) < 0.35
    assert 0.5 < drawn.std() < 1.5


def test_coarser_noise_is_smoother() -> None:
    fine, coarse = (noise(np.random.default_rng(0), (96, 96), cell) for cell in (4.0, 32.0))
    assert np.abs(np.diff(coarse)).mean() < 0.5 * np.abs(np.diff(fine)).mean()


def test_noise_may_be_stretched() -> None:
    drawn = noise(np.random.default_rng(0), (96, 96), (4.0, 48.0))
    assert np.abs(np.diff(drawn, axis=1)).mean() < 0.5 * np.abs(np.diff(drawn, axis=0)).mean()


def test_slopes_towards_the_light_are_brighter() -> None:
    ramp = np.tile(np.arange(20, dtype=np.float32), (10, 1))
    inner = (slice(None), slice(2, -2))
    # it falls towards the left, so it faces light from the left
    assert (relief_light(ramp, (-1.0, 0.0), 1.0)[inner] > 1.2).all()
    assert (relief_light(ramp, (1.0, 0.0), 1.0)[inner] < 0.8).all()
    assert np.allclose(relief_light(ramp, (0.0, 1.0), 1.0)[inner], 1)
    assert (relief_light(ramp.T.copy(), (0.0, -1.0), 1.0)[2:-2] > 1.2).all()


def test_the_grounds_are_textured_and_of_several_kinds() -> None:
    grounds = np.stack([draw_ground(rng, (64, 96), (1.0, 0.0)) for rng in generators(40)])
    assert grounds.shape == (40, 64, 96, 3)
    assert grounds.dtype == np.float32
    assert np.isfinite(grounds).all()
    # none is one flat colour, and all are duller than what lies on them
    assert (grounds.std((1, 2)).max(1) > 0.01).all()
    assert grounds.mean() < 0.45
    # grounds of the same brightness still differ in how fast they change
    steps = np.abs(np.diff(grounds.mean(3), axis=2)).mean((1, 2))
    assert steps.max() > 3 * steps.min()


def test_the_same_seed_draws_the_same_ground() -> None:
    once, again = (draw_ground(np.random.default_rng(5), (48, 64), (0.6, 0.8)) for _ in range(2))
    assert np.array_equal(once, again)
