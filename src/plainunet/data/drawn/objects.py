"""The things that are to be found in a drawn scene: leaves and stones.

A leaf is flat with a midrib and veins: slender, egg-shaped, lobed or palm-like. A stone is a
speckled or banded dome: worn round, or broken. Both take their colours from the same list.
In: a random generator. Out: a `Thing`, which `scenery.py` lays on the ground.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from plainunet.data.drawn.ground import Floats, noise, pick_colour, relief_light


@dataclass(frozen=True)
class Patch:
    """Where a thing is being painted: local coordinates, and how deep inside it a pixel lies.

    Attributes:
        u: [h, w] float32 along the thing's axis, in radii from its centre.
        v: [h, w] float32 across it.
        depth: [h, w] float32 distance to the outline, in radii; 0 outside.
        radius: Pixels in a radius.
        light: Direction from which the light comes, unit vector (x, y).
    """

    u: Floats
    v: Floats
    depth: Floats
    radius: float
    light: tuple[float, float]


Paint = Callable[[Generator, Patch], Floats]


@dataclass(frozen=True)
class Thing:
    """What can be laid on the ground.

    Attributes:
        outline: [P, 2] float32 closed polygon, in radii around the centre.
        paint: Gives the colours of a patch, [h, w, 3] float32, RGB, 0 is black and 1 white.
        thickness: How far it rises above the ground, in radii; 0 is a stain in the ground.
    """

    outline: Floats
    paint: Paint
    thickness: float


def make_leaf(rng: Generator) -> Thing:
    """Grow a leaf; it is 2 radii long.

    Args:
        rng: Where all chance comes from.

    Returns:
        The leaf.
    """
    kind = rng.choice(("slender", "egg-shaped", "lobed", "palm-like"))
    if kind == "palm-like":
        return _palm_leaf(rng)
    t = np.linspace(0, 1, 60)
    if kind == "slender":
        half = rng.uniform(0.26, 0.36) * _belly(t) ** 0.9
    elif kind == "egg-shaped":
        half = rng.uniform(0.5, 0.62) * _belly(t**0.75) ** 0.8 * (1.05 - 0.45 * t)
    else:
        lobes = 1 + 0.3 * np.cos(2 * np.pi * rng.integers(3, 5) * t)
        half = rng.uniform(0.4, 0.5) * _belly(t**0.9) ** 0.7 * lobes
    bend, ribs, slant = rng.uniform((-0.35, 2.2, 0.6), (0.35, 3.2, 1.2)).tolist()
    u = 2 * t - 1
    midrib = bend * (1 - u**2)

    def veins(patch: Patch) -> tuple[NDArray[np.bool_], Floats]:
        across = patch.v - bend * (1 - patch.u**2)
        return _veins(patch.u, across, ribs, slant), across

    return Thing(ribbon(u, midrib, half), _leaf_paint(rng, veins), 0.07)


def make_stone(rng: Generator) -> Thing:
    """Break or wear a stone; it is up to 2 radii long.

    Args:
        rng: Where all chance comes from.

    Returns:
        The stone.
    """
    angle = np.linspace(0, 2 * np.pi, 72, endpoint=False)
    if rng.random() < 0.5:
        reach = 0.85 + waves(rng, angle, 0.14, (2, 3, 4))
    else:
        # a smooth minimum over the sides of a polygon wears its corners down
        sides = int(rng.integers(5, 8))
        normals = (np.arange(sides) + rng.uniform(-0.25, 0.25, sides)) * 2 * np.pi / sides
        facing = np.maximum(np.cos(angle[:, None] - normals), 0.1)
        cuts = rng.uniform(0.65, 0.9, sides) / facing
        reach = np.minimum((cuts**-8.0).sum(1) ** (-1 / 8), 1.1)
    outline = around(angle, reach, flatness=rng.uniform(0.62, 1.0))
    colour, second = pick_colour(rng), pick_colour(rng)
    banded, edge = rng.random() < 0.3, rng.uniform(0.3, 0.6)

    def paint(rng: Generator, patch: Patch) -> Floats:
        shape, radius = patch.u.shape, patch.radius
        fall = 1 - np.minimum(patch.depth / edge, 1)
        height = 0.8 * edge * radius * np.sqrt(np.maximum(1 - fall**2, 0))
        height += 0.03 * radius * noise(rng, shape, radius / 3)
        height = cv2.GaussianBlur(height, (0, 0), 1 + radius / 20)
        if banded:
            mixture = 0.5 + 0.5 * np.sin(14 * patch.v + 1.8 * noise(rng, shape, radius))
        else:
            mixture = np.clip(0.3 + 0.4 * noise(rng, shape, radius / 2), 0, 1)
        grain = noise(rng, shape, max(radius / 14, 1.6), octaves=1)
        shade = 0.95 + 0.25 * np.clip(grain - 0.6, 0, 1.5) - 0.4 * np.clip(-grain - 0.6, 0, 1)
        shade *= relief_light(height, patch.light, 1.3)
        painted = colour + (second - colour) * (0.6 * mixture[..., None])
        return np.asarray(painted * shade[..., None], np.float32)

    return Thing(outline, paint, 0.22)


def ribbon(u: NDArray[Any], middle: NDArray[Any], half: NDArray[Any]) -> Floats:
    """Close an outline around a middle line.

    Args:
        u: [P] float positions along the axis.
        middle: [P] float offset of the middle line.
        half: [P] float half the width.

    Returns:
        [2 P, 2] float32 closed polygon.
    """
    left, right = np.stack([u, middle + half], 1), np.stack([u, middle - half], 1)
    return np.concatenate([left, right[::-1]]).astype(np.float32)


def around(angle: NDArray[Any], reach: NDArray[Any] | float, flatness: float = 1.0) -> Floats:
    """Close an outline around a centre.

    Args:
        angle: [P] float, radians.
        reach: [P] float distance from the centre.
        flatness: What the second coordinate is multiplied by.

    Returns:
        [P, 2] float32 closed polygon.
    """
    points = np.stack([reach * np.cos(angle), flatness * reach * np.sin(angle)], 1)
    return points.astype(np.float32)


def waves(
    rng: Generator, angle: NDArray[Any], strength: float, orders: tuple[int, ...]
) -> NDArray[Any]:
    """Draw a smooth closed wave: higher orders are weaker.

    Args:
        rng: Where all chance comes from.
        angle: [P] float, radians.
        strength: Largest amplitude, divided by the order.
        orders: How often each part goes up and down in a turn.

    Returns:
        [P] float of mean 0.
    """
    total = np.zeros_like(angle)
    for order in orders:
        phase = rng.uniform(0, 2 * np.pi)
        total += rng.uniform(0, strength) / order * np.cos(order * angle + phase)
    return total


def _belly(t: NDArray[Any]) -> NDArray[Any]:
    # sin(pi) is a hair below 0, which no power takes
    return np.maximum(np.sin(np.pi * t), 0)


def _palm_leaf(rng: Generator) -> Thing:
    spread = rng.uniform(0.68, 0.8) * np.pi
    angles = np.linspace(-spread, spread, 5).tolist()
    notch = spread / 4
    polar = [(0.45, -spread - notch)]
    for lobe, angle in enumerate(angles):
        length = 1.0 - 0.1 * abs(lobe - 2)
        polar += [(0.7 * length, angle - 0.5 * notch), (length, angle)]
        polar += [(0.7 * length, angle + 0.5 * notch), (0.45, angle + notch)]
    reach, angle = np.array([*polar, (0.15, np.pi)]).T

    def veins(patch: Patch) -> tuple[NDArray[np.bool_], Floats]:
        # a pixel belongs to the lobe that it lies farthest along
        ahead = np.stack([math.cos(a) * patch.u + math.sin(a) * patch.v for a in angles])
        aside = np.stack([math.cos(a) * patch.v - math.sin(a) * patch.u for a in angles])
        lobe = ahead.argmax(0)[None]
        along = np.take_along_axis(ahead, lobe, 0)[0]
        across = np.take_along_axis(aside, lobe, 0)[0]
        return _veins(along, across, 5.0, 1.2), across

    return Thing(around(angle, reach), _leaf_paint(rng, veins), 0.07)


def _veins(along: Floats, across: Floats, ribs: float, slant: float) -> NDArray[np.bool_]:
    """Mark a midrib and the veins that leave it towards the tip."""
    phase = (ribs * (along - slant * np.abs(across))) % 1
    found: NDArray[np.bool_] = (np.abs(across) < 0.05) | (np.abs(phase - 0.5) < 0.12)
    return found


def _leaf_paint(
    rng: Generator, veins: Callable[[Patch], tuple[NDArray[np.bool_], Floats]]
) -> Paint:
    colour, second = pick_colour(rng), pick_colour(rng)
    contrast = rng.uniform(0.4, 0.6) * (1.0 if rng.random() < 0.5 else -0.7)

    def paint(rng: Generator, patch: Patch) -> Floats:
        vein, across = veins(patch)
        blotch = np.clip(0.5 + 0.5 * noise(rng, vein.shape, patch.radius / 2), 0, 1)
        # the two halves of a folded leaf catch the light differently
        shade = 1 + 0.1 * np.sign(across) + contrast * vein.astype(np.float32)
        shade += 0.06 * noise(rng, vein.shape, patch.radius / 8)
        painted: Floats = colour + (second - colour) * (0.6 * blotch[..., None])
        return painted * shade[..., None]

    return paint
