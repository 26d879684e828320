"""What lies about in a drawn scene and is neither leaf nor stone, though it may look like one.

Twigs, scraps of paper, buttons and stains, in the colours of leaves and stones. In: a random
generator. Out: a `Thing` and its radius, in hundredths of the scene's shorter side.
"""

import cv2
import numpy as np
from numpy.random import Generator

from plainunet.data.drawn.ground import Floats, noise, pick_colour, relief_light
from plainunet.data.drawn.objects import Patch, Thing, around, ribbon, waves


def make_clutter(rng: Generator) -> tuple[Thing, float]:
    """Find something that is neither leaf nor stone.

    Args:
        rng: Where all chance comes from.

    Returns:
        The thing, and its radius in hundredths of the scene's shorter side.
    """
    make = (_twig, _scrap, _button, _stain)[rng.choice(4, p=(0.35, 0.3, 0.1, 0.25))]
    return make(rng)


def _twig(rng: Generator) -> tuple[Thing, float]:
    u = np.linspace(-1, 1, 24)
    middle = rng.uniform(-0.3, 0.3) * u**2
    middle += rng.uniform(0, 0.05) * np.sin(5 * u + rng.uniform(0, 2 * np.pi))
    outline = ribbon(u, middle, rng.uniform(0.02, 0.05) * (1.3 - 0.6 * u))
    colour = pick_colour(rng)

    def paint(rng: Generator, patch: Patch) -> Floats:
        bark = noise(rng, patch.u.shape, 3.4, octaves=2)
        shade = relief_light(patch.radius * np.sqrt(patch.depth * 0.06), patch.light, 0.7)
        return colour * (shade * (1 + 0.12 * bark))[..., None]

    return Thing(outline, paint, 0.04), rng.uniform(18, 45)


def _scrap(rng: Generator) -> tuple[Thing, float]:
    """Tear a piece of paper: straight edges, flat, plain or with ruled lines."""
    corners = int(rng.integers(3, 5))
    angle = (np.arange(corners) + rng.uniform(-0.25, 0.25, corners)) * 2 * np.pi / corners
    outline = around(angle, 1.0, flatness=rng.uniform(0.5, 1))
    colour = pick_colour(rng)
    contrast = rng.uniform(-0.3, 0.3) * (rng.random() < 0.35)

    def paint(rng: Generator, patch: Patch) -> Floats:
        shade = 1 + 0.05 * noise(rng, patch.u.shape, patch.radius / 2)
        shade += contrast * (patch.v * 4 % 1 < 0.25).astype(np.float32)
        return colour * shade[..., None]

    return Thing(outline, paint, 0.05), rng.uniform(6, 18)


def _button(rng: Generator) -> tuple[Thing, float]:
    """Lose a button: as round as a pebble, but flat, with a rim and holes."""
    outline = around(np.linspace(0, 2 * np.pi, 48, endpoint=False), 1.0)
    colour, four = pick_colour(rng), rng.random() < 0.5

    def paint(rng: Generator, patch: Patch) -> Floats:
        rim = 0.12 * patch.radius * np.abs(np.clip(patch.depth, 0, 0.36) / 0.18 - 1)
        shade = relief_light(cv2.GaussianBlur(rim, (0, 0), 1), patch.light, -1.2)
        u, v = np.abs(patch.u), np.abs(patch.v) if four else patch.v + 0.2
        shade[np.hypot(u - 0.2, v - 0.2) < 0.11] *= 0.35
        return colour * shade[..., None]

    return Thing(outline, paint, 0.12), rng.uniform(4, 9)


def _stain(rng: Generator) -> tuple[Thing, float]:
    """Spill something with a stone's grain: but it is flat, and its edge is soft."""
    angle = np.linspace(0, 2 * np.pi, 60, endpoint=False)
    outline = around(angle, np.maximum(0.8 + waves(rng, angle, 0.6, (2, 3, 5)), 0.2))
    colour = pick_colour(rng)

    def paint(rng: Generator, patch: Patch) -> Floats:
        grain = noise(rng, patch.u.shape, max(patch.radius / 14, 1.6), octaves=1)
        return colour * (1 + 0.08 * grain)[..., None]

    return Thing(outline, paint, 0.0), rng.uniform(6, 18)
