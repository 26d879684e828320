"""One drawn scene: leaves and stones among clutter on the ground, and the mask of them.

Clutter, leaves and stones take their colours from one list, so that a pixel's colour says
little about its class: leaves and stones are known by outline and texture. In: a random
generator and a size. Out: picture and mask. The scene is drawn `_FINE` times finer than the
picture, so that its edges are smooth while each pixel of the mask is the class that covers
most of it. Lengths are in fine pixels unless said.
"""

import math
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from plainunet.data.drawn.clutter import make_clutter
from plainunet.data.drawn.ground import Floats, draw_ground
from plainunet.data.drawn.objects import Patch, Thing, make_leaf, make_stone

LEAF, STONE = 1, 2

_FINE = 2


@dataclass(frozen=True)
class _Canvas:
    """What has been drawn so far.

    Attributes:
        colour: [h, w, 3] float32, RGB, 0 is black and 1 white.
        label: [h, w] uint8 class ids.
        light: Direction from which the light comes, unit vector (x, y).
        unit: Length that all things are measured in: 1/100 of the scene's shorter side.
    """

    colour: Floats
    label: NDArray[np.uint8]
    light: tuple[float, float]
    unit: float


def draw_scene(
    rng: Generator, size: tuple[int, int]
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Draw a picture and its mask.

    Args:
        rng: Where all chance comes from.
        size: Height and width of the picture [pixels].

    Returns:
        Picture [H, W, 3] uint8 RGB, and mask [H, W] uint8 of class ids.
    """
    height, width = size
    angle = rng.uniform(0, 2 * np.pi)
    light = (math.cos(angle), math.sin(angle))
    fine = (width * _FINE, height * _FINE)
    canvas = _Canvas(
        colour=np.asarray(cv2.resize(draw_ground(rng, size, light), fine), np.float32),
        label=np.zeros(fine[::-1], np.uint8),
        light=light,
        unit=min(fine) / 100,
    )
    for _ in range(rng.integers(3, 8)):
        _add_clutter(rng, canvas)
    places: list[tuple[float, float, float]] = []
    for _ in range(rng.integers(7, 12)):
        _add_object(rng, canvas, places)
    # a little of it comes to lie on top
    for _ in range(rng.integers(0, 3)):
        _add_clutter(rng, canvas)
    return _photograph(rng, canvas, size), _majority(canvas.label, size)


def _add_clutter(rng: Generator, canvas: _Canvas) -> None:
    height, width = canvas.label.shape
    thing, radius = make_clutter(rng)
    centre = (rng.uniform(0, width), rng.uniform(0, height))
    _put(rng, canvas, thing, centre, radius * canvas.unit, label=0)


def _add_object(rng: Generator, canvas: _Canvas, places: list[tuple[float, float, float]]) -> None:
    """Put a leaf or a stone where it hides little of the others; give up where it is crowded."""
    height, width = canvas.label.shape
    small = rng.random() < 0.15
    radius = canvas.unit * (rng.uniform(5, 9) if small else math.exp(rng.uniform(2.25, 3.2)))
    for _ in range(12):
        # up to the very edge: some objects are cut off
        x, y = rng.uniform(0, width), rng.uniform(0, height)
        if all(math.hypot(x - a, y - b) > 0.8 * (radius + r) for a, b, r in places):
            break
    else:
        return
    places.append((x, y, radius))
    if rng.random() < 0.5:
        # leaves are narrow: longer, they cover as much as a stone
        _put(rng, canvas, make_leaf(rng), (x, y), 1.3 * radius, LEAF)
    else:
        _put(rng, canvas, make_stone(rng), (x, y), radius, STONE)


def _put(
    rng: Generator,
    canvas: _Canvas,
    thing: Thing,
    centre: tuple[float, float],
    radius: float,
    label: int,
) -> None:
    """Lay a thing with its shadow on the canvas, which is changed in place."""
    angle = rng.uniform(0, 2 * np.pi)
    cos, sin = math.cos(angle), math.sin(angle)
    points = radius * thing.outline @ np.array([[cos, sin], [-sin, cos]]) + centre
    reach = thing.thickness * radius
    height, width = canvas.label.shape
    left, top = np.maximum(points.min(0) - 3 * reach - 2, 0).astype(int).tolist()
    right, bottom = np.minimum(points.max(0) + 3 * reach + 2, (width, height)).astype(int).tolist()
    if left >= right or top >= bottom:
        return
    box = (slice(top, bottom), slice(left, right))
    colour = canvas.colour[box]
    points -= (left, top)
    if thing.thickness:
        umbra = _fill(points - reach * np.array(canvas.light), colour.shape[:2])
        shadow = cv2.GaussianBlur(umbra.astype(np.float32), (0, 0), 0.5 + 0.45 * reach)
        colour *= 1 - 0.45 * shadow[..., None]
    inside = _fill(points, colour.shape[:2])
    x = np.arange(left, right, dtype=np.float32)[None, :] - centre[0]
    y = np.arange(top, bottom, dtype=np.float32)[:, None] - centre[1]
    patch = Patch(
        u=np.asarray((cos * x + sin * y) / radius, np.float32),
        v=np.asarray((cos * y - sin * x) / radius, np.float32),
        depth=np.asarray(cv2.distanceTransform(inside, cv2.DIST_L2, 3) / radius, np.float32),
        radius=radius,
        light=canvas.light,
    )
    painted = thing.paint(rng, patch)
    if thing.thickness:
        np.copyto(colour, painted, where=inside[..., None].astype(bool))
    else:
        # a stain: the ground shows through, most of all at its edge
        colour += 0.75 * np.minimum(patch.depth / 0.25, 1)[..., None] * (painted - colour)
    np.copyto(canvas.label[box], np.uint8(label), where=inside.astype(bool))


def _fill(points: NDArray[np.float64], shape: tuple[int, ...]) -> NDArray[np.uint8]:
    inside = np.zeros(shape, np.uint8)
    cv2.fillPoly(inside, [np.rint(points).astype(np.int32)], (1,))
    return inside


def _photograph(rng: Generator, canvas: _Canvas, size: tuple[int, int]) -> NDArray[np.uint8]:
    """Take the picture: light that falls off, a cast shadow, white balance, blur, noise."""
    height, width = size
    y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j].astype(np.float32)
    right, down = rng.normal(0, 0.1, 2).tolist()
    lit = 1 + right * x + down * y - rng.uniform(0, 0.15) * (x**2 + y**2)
    if rng.random() < 0.4:
        angle, offset = rng.uniform(0, 2 * np.pi), rng.uniform(-0.5, 0.5)
        beyond = (math.cos(angle) * x + math.sin(angle) * y - offset) / rng.uniform(0.03, 0.2)
        # tanh and not 1 / (1 + exp): the latter overflows far on the lit side
        lit *= 1 - rng.uniform(0.2, 0.35) * (0.5 + 0.5 * np.tanh(beyond / 2))
    lit *= rng.uniform(0.95, 1.2)
    picture = cv2.resize(canvas.colour, (width, height), interpolation=cv2.INTER_AREA)
    picture *= lit[..., None] * rng.uniform(0.93, 1.07, 3).astype(np.float32)
    picture = cv2.GaussianBlur(picture, (0, 0), rng.uniform(0.3, 0.8) * min(size) / 192)
    grain = rng.standard_normal(picture.shape, dtype=np.float32)
    noisy = picture + rng.uniform(0.005, 0.02) * grain
    return np.asarray(np.rint(np.clip(noisy, 0, 1) * 255), np.uint8)


def _majority(label: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    blocks = label.reshape(size[0], _FINE, size[1], _FINE)
    counts = [(blocks == k).sum((1, 3), dtype=np.uint8) for k in (0, LEAF, STONE)]
    return np.asarray(np.argmax(counts, axis=0), np.uint8)
