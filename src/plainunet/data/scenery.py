"""One drawn scene: leaves and stones among clutter on the ground, and the mask of them.

Everything in a scene, the ground and the clutter included, takes its colours from one list,
so that a pixel's colour says next to nothing about its class: leaves and stones are known by
outline and texture. In: a random generator and a size. Out: picture and mask. The things are
drawn `_FINE` times finer than the picture, so that its edges are smooth while each pixel of
the mask is the class that covers most of it. Lengths are in fine pixels unless said.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from plainunet.data.ground import draw_ground, noise, pick_colour, relief_light

LEAF, STONE = 1, 2

Floats = NDArray[np.float32]

_FINE = 2


@dataclass(frozen=True)
class _Canvas:
    """What has been drawn so far.

    Attributes:
        colour: [h, w, 3] float32, RGB in 0..1.
        label: [h, w] uint8 class ids.
        light: Direction from which the light comes, unit vector (x, y).
        unit: Length that all things are measured in: 1/100 of the scene's shorter side.
    """

    colour: Floats
    label: NDArray[np.uint8]
    light: tuple[float, float]
    unit: float


@dataclass(frozen=True)
class _Patch:
    """Where a thing is being painted: local coordinates, and how deep inside it a pixel lies.

    Attributes:
        u: [h, w] float32 along the thing's axis, in radii from its centre.
        v: [h, w] float32 across it.
        depth: [h, w] float32 distance to the outline, in radii; 0 outside.
        radius: Fine pixels in a radius.
        light: Direction from which the light comes, unit vector (x, y).
    """

    u: Floats
    v: Floats
    depth: Floats
    radius: float
    light: tuple[float, float]


_Surface = Callable[[Generator, _Patch], Floats]


def draw_scene(rng: Generator, size: tuple[int, int]) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Draw a picture and its mask.

    Args:
        rng: Where all chance comes from.
        size: Height and width of the picture [pixels].

    Returns:
        Picture [H, W, 3] uint8 RGB, and mask [H, W] uint8 of class ids.
    """
    height, width = size
    angle = rng.uniform(0, 2 * np.pi)
    light = (float(np.cos(angle)), float(np.sin(angle)))
    ground = draw_ground(rng, size, light)
    fine = (width * _FINE, height * _FINE)
    canvas = _Canvas(
        colour=cv2.resize(ground, fine, interpolation=cv2.INTER_LINEAR).astype(np.float32),
        label=np.zeros(fine[::-1], np.uint8),
        light=light,
        unit=min(fine) / 100,
    )
    for _ in range(rng.integers(3, 8)):
        _add_clutter(rng, canvas)
    places: list[tuple[float, float, float]] = []
    for _ in range(rng.integers(7, 12)):
        _add_object(rng, canvas, places)
    for _ in range(rng.integers(0, 3)):
        _add_clutter(rng, canvas)
    return _photograph(rng, canvas, size), _majority(canvas.label, size)


def _add_object(rng: Generator, canvas: _Canvas, places: list[tuple[float, float, float]]) -> None:
    """Put a leaf or a stone where it hides little of the others; give up where it is crowded."""
    height, width = canvas.label.shape
    leaf = rng.random() < 0.5
    radius = canvas.unit * float(np.exp(rng.uniform(np.log(9.0), np.log(24.0))))
    for _ in range(12):
        # up to the very edge: some objects are cut off
        x, y = rng.uniform(0, width), rng.uniform(0, height)
        if all(np.hypot(x - a, y - b) > 0.8 * (radius + r) for a, b, r in places):
            break
    else:
        return
    places.append((x, y, radius))
    if leaf:
        # leaves are slender: longer, to cover as much as a stone
        radius *= 1.3
        outline, surface, thickness = _leaf(rng)
    else:
        outline, surface, thickness = _stone(rng)
    _put(rng, canvas, outline, (x, y), radius, surface, thickness, LEAF if leaf else STONE)


def _add_clutter(rng: Generator, canvas: _Canvas) -> None:
    height, width = canvas.label.shape
    draw = (_twig, _scrap, _button, _stain)[rng.choice(4, p=(0.35, 0.3, 0.1, 0.25))]
    outline, surface, thickness, radius = draw(rng)
    centre = (rng.uniform(0, width), rng.uniform(0, height))
    _put(rng, canvas, outline, centre, radius * canvas.unit, surface, thickness, 0)


def _put(
    rng: Generator,
    canvas: _Canvas,
    outline: Floats,
    centre: tuple[float, float],
    radius: float,
    surface: _Surface,
    thickness: float,
    label: int,
) -> None:
    """Lay a thing with its shadow on the canvas.

    Args:
        rng: Where all chance comes from.
        canvas: Changed in place.
        outline: [P, 2] float32 closed polygon, in radii around the centre.
        centre: Where it comes to lie (x, y).
        radius: Fine pixels in a radius.
        surface: Paints it, [h, w, 3] float32.
        thickness: How far it rises above the ground, in radii; 0 casts no shadow.
        label: Its class id.
    """
    angle = rng.uniform(0, 2 * np.pi)
    cos, sin = float(np.cos(angle)), float(np.sin(angle))
    points = radius * outline @ np.array([[cos, sin], [-sin, cos]], np.float32) + centre
    margin = 2 + 3 * thickness * radius
    height, width = canvas.label.shape
    left, top = np.maximum(points.min(0) - margin, 0).astype(int)
    right, bottom = np.minimum(points.max(0) + margin, (width, height)).astype(int)
    if left >= right or top >= bottom:
        return
    box = (slice(top, bottom), slice(left, right))
    points = points - (left, top)
    inside = np.zeros((bottom - top, right - left), np.uint8)
    colour = canvas.colour[box]
    if thickness:
        reach = thickness * radius
        shadow = inside.astype(np.float32)
        shifted = points - reach * np.array(canvas.light)
        cv2.fillPoly(shadow, [np.rint(shifted).astype(np.int32)], (0.45,))
        colour *= 1 - cv2.GaussianBlur(shadow, (0, 0), 0.5 + 0.45 * reach)[..., None]
    cv2.fillPoly(inside, [np.rint(points).astype(np.int32)], (1,))
    x = np.arange(left, right, dtype=np.float32)[None, :] - np.float32(centre[0])
    y = np.arange(top, bottom, dtype=np.float32)[:, None] - np.float32(centre[1])
    patch = _Patch(
        u=(cos * x + sin * y) / np.float32(radius),
        v=(cos * y - sin * x) / np.float32(radius),
        depth=cv2.distanceTransform(inside, cv2.DIST_L2, 3) / np.float32(radius),
        radius=radius,
        light=canvas.light,
    )
    painted = surface(rng, patch)
    assert painted.dtype == np.float32, surface
    where = inside.astype(bool)
    if thickness:
        np.copyto(colour, painted, where=where[..., None])
    else:
        # what does not rise has soaked in: the ground shows through, most of all at the edge
        opacity = 0.75 * np.minimum(patch.depth / 0.25, 1)[..., None]
        colour += opacity * (painted - colour)
    np.copyto(canvas.label[box], np.uint8(label), where=where)


def _leaf(rng: Generator) -> tuple[Floats, _Surface, float]:
    kind = rng.choice(("lance", "egg", "lobed", "palm"))
    t = np.linspace(0, 1, 60, dtype=np.float32)
    if kind == "palm":
        return _palm_leaf(rng)
    if kind == "lance":
        half = rng.uniform(0.26, 0.36) * np.abs(np.sin(np.pi * t)) ** 0.9
    elif kind == "egg":
        half = rng.uniform(0.5, 0.62) * np.abs(np.sin(np.pi * t**0.75)) ** 0.8 * (1.05 - 0.45 * t)
    else:
        lobes = 1 + 0.3 * np.cos(2 * np.pi * rng.integers(3, 5) * t)
        half = rng.uniform(0.4, 0.5) * np.abs(np.sin(np.pi * t**0.9)) ** 0.7 * lobes
    bend = rng.uniform(-0.35, 0.35)
    u = 2 * t - 1
    midrib = bend * (1 - u**2)
    outline = np.concatenate(
        [np.stack([u, midrib + half], 1), np.stack([u, midrib - half], 1)[::-1]]
    ).astype(np.float32)
    ribs, slant = rng.uniform(2.2, 3.2), rng.uniform(0.6, 1.2)

    def veins(patch: _Patch) -> tuple[NDArray[np.bool_], Floats]:
        across = patch.v - np.float32(bend) * (1 - patch.u**2)
        return _ribs(patch.u, across, ribs, slant), across

    return outline, _leaf_surface(rng, veins), 0.07


def _palm_leaf(rng: Generator) -> tuple[Floats, _Surface, float]:
    spread = rng.uniform(0.68, 0.8) * np.pi
    angles = np.linspace(-spread, spread, 5)
    notch = spread / 4
    polar = [(0.45, -spread - notch)]
    for lobe, angle in enumerate(angles):
        length = 1.0 - 0.1 * abs(lobe - 2)
        polar += [(0.7 * length, angle - 0.5 * notch), (length, angle)]
        polar += [(0.7 * length, angle + 0.5 * notch), (0.45, angle + notch)]
    radii, turns = np.array([*polar, (0.15, np.pi)]).T
    outline = radii[:, None] * np.stack([np.cos(turns), np.sin(turns)], 1)

    def veins(patch: _Patch) -> tuple[NDArray[np.bool_], Floats]:
        # each pixel belongs to the lobe that it lies farthest along
        ahead = np.stack([math.cos(a) * patch.u + math.sin(a) * patch.v for a in angles])
        aside = np.stack([math.cos(a) * patch.v - math.sin(a) * patch.u for a in angles])
        lobe = ahead.argmax(0)[None]
        along = np.take_along_axis(ahead, lobe, 0)[0]
        across = np.take_along_axis(aside, lobe, 0)[0]
        return _ribs(along, across, 5.0, 1.2), across

    return outline.astype(np.float32), _leaf_surface(rng, veins), 0.07


def _ribs(along: Floats, across: Floats, ribs: float, slant: float) -> NDArray[np.bool_]:
    """Mark a midrib and the veins that leave it towards the tip."""
    phase = (ribs * (along - slant * np.abs(across))) % 1
    return (np.abs(across) < 0.05) | (np.abs(phase - 0.5) < 0.12)


def _leaf_surface(
    rng: Generator, veins: Callable[[_Patch], tuple[NDArray[np.bool_], Floats]]
) -> _Surface:
    colour, second = pick_colour(rng), pick_colour(rng)
    contrast = rng.choice((-0.7, 1)) * rng.uniform(0.4, 0.6)

    def surface(rng: Generator, patch: _Patch) -> Floats:
        vein, across = veins(patch)
        blotch = np.clip(0.5 + 0.5 * noise(rng, vein.shape, patch.radius / 2), 0, 1)
        painted = colour + (second - colour) * (0.6 * blotch[..., None])
        # the two halves of a folded leaf catch the light differently
        shade = 1 + 0.1 * np.sign(across) + np.float32(contrast) * vein
        shade += 0.06 * noise(rng, vein.shape, patch.radius / 8)
        return painted * shade[..., None]

    return surface


def _stone(rng: Generator) -> tuple[Floats, _Surface, float]:
    angle = np.linspace(0, 2 * np.pi, 72, endpoint=False)
    if rng.random() < 0.5:
        bumps = sum(
            rng.uniform(0, 0.16) / k * np.cos(k * angle + rng.uniform(0, 6.3)) for k in (2, 3, 4)
        )
        reach = 0.85 * (1 + bumps)
    else:
        # a broken one: the corners of a polygon, worn down
        sides = rng.integers(5, 8)
        normals = (np.arange(sides) + rng.uniform(-0.25, 0.25, sides)) * 2 * np.pi / sides
        cuts = rng.uniform(0.65, 0.9, sides) / np.maximum(
            np.cos(angle[:, None] - normals), 0.1
        )
        reach = np.minimum((cuts**-8.0).sum(1) ** (-1 / 8.0), 1.1)
    points = reach[:, None] * np.stack([np.cos(angle), np.sin(angle)], 1)
    points[:, 1] *= rng.uniform(0.62, 1.0)
    colour, second = pick_colour(rng), pick_colour(rng)
    banded = rng.random() < 0.3
    edge = rng.uniform(0.3, 0.6)

    def surface(rng: Generator, patch: _Patch) -> Floats:
        shape = patch.u.shape
        rise = 1 - np.minimum(patch.depth / np.float32(edge), 1)
        dome = 0.8 * edge * np.sqrt(np.maximum(1 - rise**2, 0)) * patch.radius
        dome += 0.03 * patch.radius * noise(rng, shape, patch.radius / 3)
        dome = cv2.GaussianBlur(dome, (0, 0), 1 + patch.radius / 20)
        if banded:
            wave = 7 * patch.v + 0.9 * noise(rng, shape, patch.radius)
            mixture = 0.5 + 0.5 * np.sin(2 * wave)
        else:
            mixture = np.clip(0.3 + 0.4 * noise(rng, shape, patch.radius / 2), 0, 1)
        painted = colour + (second - colour) * (0.6 * mixture[..., None])
        grain = noise(rng, shape, max(patch.radius / 14, 0.8 * _FINE), octaves=1)
        shade = 0.95 + 0.25 * np.clip(grain - 0.6, 0, 1.5) - 0.5 * np.clip(-grain - 0.6, 0, 1)
        shade *= relief_light(dome, patch.light, 1.3)
        return painted * shade[..., None]

    return points.astype(np.float32), surface, 0.22


def _twig(rng: Generator) -> tuple[Floats, _Surface, float, float]:
    t = np.linspace(-1, 1, 24)
    bend, wiggle = rng.uniform(-0.3, 0.3), rng.uniform(0, 0.05)
    middle = bend * t**2 + wiggle * np.sin(5 * t + rng.uniform(0, 6))
    half = rng.uniform(0.02, 0.05) * (1.3 - 0.6 * t)
    outline = np.concatenate([np.stack([t, middle + half], 1), np.stack([t, middle - half], 1)[::-1]])
    colour = pick_colour(rng)

    def surface(rng: Generator, patch: _Patch) -> Floats:
        bark = noise(rng, patch.u.shape, 1.7 * _FINE, octaves=2)
        shade = relief_light(patch.radius * np.sqrt(patch.depth * 0.06), patch.light, 0.7)
        return colour * (shade * (1 + 0.12 * bark))[..., None]

    return outline.astype(np.float32), surface, 0.04, rng.uniform(18, 45)


def _scrap(rng: Generator) -> tuple[Floats, _Surface, float, float]:
    """A torn piece of paper or card: straight edges, flat, plain or with ruled lines."""
    corners = rng.integers(3, 5)
    angle = (np.arange(corners) + rng.uniform(-0.25, 0.25, corners)) * 2 * np.pi / corners
    outline = np.stack([np.cos(angle), rng.uniform(0.5, 1) * np.sin(angle)], 1)
    colour, ruled = pick_colour(rng), rng.random() < 0.35
    contrast = rng.uniform(-0.3, 0.3)

    def surface(rng: Generator, patch: _Patch) -> Floats:
        shade = 1 + 0.05 * noise(rng, patch.u.shape, patch.radius / 2)
        if ruled:
            shade += np.float32(contrast) * (patch.v * 4 % 1 < 0.25)
        return colour * shade[..., None]

    return outline.astype(np.float32), surface, 0.05, rng.uniform(6, 18)


def _button(rng: Generator) -> tuple[Floats, _Surface, float, float]:
    """As round as a pebble, but flat, with a rim and holes."""
    angle = np.linspace(0, 2 * np.pi, 48, endpoint=False)
    outline = np.stack([np.cos(angle), np.sin(angle)], 1)
    colour, holes = pick_colour(rng), rng.choice((2, 4))

    def surface(rng: Generator, patch: _Patch) -> Floats:
        rim = patch.radius * 0.12 * np.abs(np.clip(patch.depth, 0, 0.36) / 0.18 - 1)
        shade = relief_light(cv2.GaussianBlur(rim, (0, 0), 1), patch.light, -1.2)
        u, v = np.abs(patch.u), np.abs(patch.v) if holes == 4 else patch.v + 0.2
        shade[np.hypot(u - 0.2, v - 0.2) < 0.11] *= 0.35
        return colour * shade[..., None]

    return outline.astype(np.float32), surface, 0.12, rng.uniform(4, 9)


def _stain(rng: Generator) -> tuple[Floats, _Surface, float, float]:
    """A dry puddle in the colours of leaves and stones and with a stone's grain, but flat."""
    angle = np.linspace(0, 2 * np.pi, 60, endpoint=False)
    reach = 0.8 + sum(0.3 / k * rng.normal() * np.cos(k * angle + rng.uniform(0, 6)) for k in (2, 3, 5))
    outline = np.maximum(reach, 0.2)[:, None] * np.stack([np.cos(angle), np.sin(angle)], 1)
    colour = pick_colour(rng)

    def surface(rng: Generator, patch: _Patch) -> Floats:
        grain = noise(rng, patch.u.shape, max(patch.radius / 14, 0.8 * _FINE), octaves=1)
        return colour * (1 + 0.08 * grain)[..., None]

    return outline.astype(np.float32), surface, 0.0, rng.uniform(6, 18)


def _photograph(rng: Generator, canvas: _Canvas, size: tuple[int, int]) -> NDArray[np.uint8]:
    """Take the picture: light that falls off, a cast shadow, white balance, blur, noise."""
    height, width = size
    picture = cv2.resize(canvas.colour, (width, height), interpolation=cv2.INTER_AREA)
    y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j].astype(np.float32)
    right, down = rng.normal(0, 0.1, 2).tolist()
    lit = 1 + right * x + down * y - rng.uniform(0, 0.15) * (x**2 + y**2)
    if rng.random() < 0.4:
        angle, offset = rng.uniform(0, 2 * np.pi), rng.uniform(-0.5, 0.5)
        side = (math.cos(angle) * x + math.sin(angle) * y - offset) / rng.uniform(0.03, 0.2)
        lit *= 1 - rng.uniform(0.2, 0.4) / (1 + np.exp(-side))
    lit *= rng.uniform(0.95, 1.2)
    picture *= lit[..., None] * rng.uniform(0.93, 1.07, 3).astype(np.float32)
    picture = cv2.GaussianBlur(picture, (0, 0), rng.uniform(0.3, 0.8) * min(size) / 192)
    grain = rng.standard_normal(picture.shape, dtype=np.float32)
    picture += rng.uniform(0.005, 0.02) * grain
    return np.rint(np.clip(picture, 0, 1) * 255).astype(np.uint8)


def _majority(label: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    shares = [
        cv2.resize((label == k).astype(np.float32), size[::-1], interpolation=cv2.INTER_AREA)
        for k in (0, LEAF, STONE)
    ]
    return np.argmax(shares, axis=0).astype(np.uint8)
