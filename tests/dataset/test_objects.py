from collections.abc import Callable

import cv2
import numpy as np
import pytest
from numpy.random import Generator

from plainunet.data.drawn.objects import Patch, Thing, around, make_leaf, make_stone, ribbon, waves

MAKERS = [make_leaf, make_stone]
RADIUS = 40.0


def patch_of(thing: Thing, light: tuple[float, float] = (1.0, 0.0)) -> Patch:
    """The thing alone, unturned, in the middle of [101, 101] pixels."""
    inside = np.zeros((101, 101), np.uint8)
    cv2.fillPoly(inside, [np.rint(RADIUS * thing.outline + 50).astype(np.int32)], (1,))
    v, u = ((np.mgrid[0:101, 0:101] - 50) / RADIUS).astype(np.float32)
    depth = cv2.distanceTransform(inside, cv2.DIST_L2, 3) / np.float32(RADIUS)
    return Patch(u, v, depth, RADIUS, light)


@pytest.mark.parametrize("make", MAKERS)
def test_outlines_fill_their_radius_and_differ(make: Callable[[Generator], Thing]) -> None:
    things = [make(np.random.default_rng(seed)) for seed in range(40)]
    for thing in things:
        assert thing.outline.dtype == np.float32
        assert thing.outline.shape[1] == 2
        assert 0.6 < np.hypot(*thing.outline.T).max() < 1.3
    areas = [cv2.contourArea(thing.outline) for thing in things]
    assert min(areas) > 0.3
    assert max(areas) > 1.5 * min(areas)


@pytest.mark.parametrize("make", MAKERS)
@pytest.mark.parametrize("seed", range(8))
def test_paint_covers_the_patch(make: Callable[[Generator], Thing], seed: int) -> None:
    rng = np.random.default_rng(seed)
    thing = make(rng)
    patch = patch_of(thing)
    painted = thing.paint(rng, patch)
    assert painted.shape == (101, 101, 3)
    assert painted.dtype == np.float32
    assert np.isfinite(painted).all()
    assert painted[patch.depth > 0].std() > 0.02


@pytest.mark.parametrize("light", [(1.0, 0.0), (-1.0, 0.0), (0.0, 1.0), (0.0, -1.0)])
def test_stones_are_domes_and_leaves_are_flat(light: tuple[float, float]) -> None:
    contrast: dict[Callable[[Generator], Thing], float] = {}
    for make in MAKERS:
        towards, away = [], []
        for seed in range(12):
            rng = np.random.default_rng(seed)
            thing = make(rng)
            patch = patch_of(thing, light)
            painted = thing.paint(rng, patch).mean(2)
            side = light[0] * patch.u + light[1] * patch.v
            rim = (patch.depth > 0) & (patch.depth < 0.25)
            towards.append(painted[rim & (side > 0.1)].mean())
            away.append(painted[rim & (side < -0.1)].mean())
        contrast[make] = float(np.mean(towards) / np.mean(away))
    assert contrast[make_stone] > 1.5
    assert 0.75 < contrast[make_leaf] < 1.33


def test_stones_rise_higher_than_leaves() -> None:
    rng = np.random.default_rng(0)
    assert make_stone(rng).thickness > make_leaf(rng).thickness > 0


def test_both_have_the_same_colours() -> None:
    means = []
    for make in MAKERS:
        colours = []
        for seed in range(150):
            rng = np.random.default_rng([7, seed])
            thing = make(rng)
            patch = patch_of(thing)
            colours.append(thing.paint(rng, patch)[patch.depth > 0].mean(0))
        means.append(np.mean(colours, axis=0))
    assert np.abs(means[0] - means[1]).max() < 0.08


def test_outline_parts() -> None:
    u = np.linspace(-1, 1, 5)
    strip = ribbon(u, np.full(5, 2.0), np.full(5, 0.5))
    assert cv2.contourArea(strip) == pytest.approx(2.0)
    assert strip[:, 1].min() == 1.5
    angle = np.linspace(0, 2 * np.pi, 400, endpoint=False)
    assert cv2.contourArea(around(angle, 2.0, flatness=0.5)) == pytest.approx(2 * np.pi, rel=1e-3)
    wave = waves(np.random.default_rng(0), angle, 0.6, (2, 3))
    assert abs(wave.mean()) < 1e-12
    assert 0 < np.abs(wave).max() <= 0.6 / 2 + 0.6 / 3
