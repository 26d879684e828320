"""The ground of a drawn scene, and the colours and noise that everything in it is made of.

In: a random generator and a size. Out: [H, W, 3] float32, RGB, 0 is black and 1 white.
"""

import cv2
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

Floats = NDArray[np.float32]

# moss, olive, ochre, rust, burgundy, umber, grey, slate, sand, ash
_COLOURS = (
    np.array(
        [
            (104, 126, 66), (142, 138, 70), (200, 152, 70), (184, 96, 54), (148, 66, 60),
            (128, 94, 66), (142, 140, 136), (108, 120, 132), (204, 186, 148), (180, 178, 170),
        ],
        np.float32,
    )
    / 255
)  # fmt: skip


def pick_colour(rng: Generator) -> Floats:
    """Mix a colour; ground, clutter, leaves and stones all take theirs from here.

    Args:
        rng: Where all chance comes from.

    Returns:
        [3] float32, RGB, 0 is black and 1 white.
    """
    one, other = rng.integers(0, len(_COLOURS), 2)
    mixed = _COLOURS[one] + np.float32(rng.uniform(0, 0.6)) * (_COLOURS[other] - _COLOURS[one])
    return np.asarray(mixed * np.exp(rng.normal(0, 0.15)), np.float32)


def noise(
    rng: Generator, shape: tuple[int, int], cell: float | tuple[float, float], octaves: int = 3
) -> Floats:
    """Draw smooth noise of several grain sizes, each half as coarse and strong as the last.

    Args:
        rng: Where all chance comes from.
        shape: Height and width [pixels].
        cell: Size of the coarsest grains [pixels]; a pair is height and width.
        octaves: How many grain sizes.

    Returns:
        [H, W] float32 of mean about 0 and deviation about 0.8.
    """
    cells = np.broadcast_to(np.asarray(cell, np.float64), 2)
    total = np.zeros(shape, np.float32)
    for octave in range(octaves):
        rows, columns = (int(n * 2**octave / c) + 2 for n, c in zip(shape, cells, strict=True))
        grid = rng.standard_normal((min(rows, shape[0]), min(columns, shape[1])), np.float32)
        smooth = cv2.resize(grid, shape[::-1], interpolation=cv2.INTER_CUBIC)
        total += smooth * np.float32(0.5**octave)
    return total


def relief_light(height: Floats, light: tuple[float, float], strength: float) -> Floats:
    """Shade a relief that is lit from the side.

    Args:
        height: [H, W] float32 [pixels].
        light: Direction from which the light comes, unit vector (x, y).
        strength: How strongly slopes show.

    Returns:
        [H, W] float32 to multiply the colour with; 1 where it is flat.
    """
    height = np.ascontiguousarray(height, np.float32)
    right = cv2.Sobel(height, cv2.CV_32F, 1, 0, ksize=3, scale=1 / 8)
    down = cv2.Sobel(height, cv2.CV_32F, 0, 1, ksize=3, scale=1 / 8)
    slope = -(light[0] * right + light[1] * down) * strength
    return np.asarray(1 + 0.55 * np.tanh(slope), np.float32)


def draw_ground(rng: Generator, size: tuple[int, int], light: tuple[float, float]) -> Floats:
    """Draw one of six kinds of ground.

    Args:
        rng: Where all chance comes from.
        size: Height and width [pixels].
        light: Direction from which the light comes, unit vector (x, y).

    Returns:
        [H, W, 3] float32, RGB, 0 is black and 1 white.
    """
    kinds = (_soil, _sand, _planks, _tiles, _grass, _cloth)
    draw = kinds[rng.integers(len(kinds))]
    turned = rng.random() < 0.5
    shape = size[::-1] if turned else size
    # patterns are drawn for a picture whose shorter side has 192 pixels
    scale = min(size) / 192
    mixture, shade, height = draw(rng, shape, scale)
    # duller and darker than what lies on it, as earth and old wood are
    colours = np.stack([pick_colour(rng) for _ in range(2)])
    hues = 0.5 + 0.5 * colours / colours.mean(1, keepdims=True)
    colours = rng.uniform(0.16, 0.31) * np.array([[1.1], [0.9]], np.float32) * hues
    ground = colours[0] + (colours[1] - colours[0]) * np.clip(mixture, 0, 1)[..., None]
    ground = ground * shade[..., None]
    if turned:
        ground, height = ground.transpose(1, 0, 2), height.T
    lit = relief_light(height, light, 1.0)
    return np.ascontiguousarray(ground * lit[..., None], np.float32)


_Layers = tuple[Floats, Floats, Floats]


def _soil(rng: Generator, shape: tuple[int, int], scale: float) -> _Layers:
    height = 1.2 * noise(rng, shape, 12 * scale, octaves=4)
    grit = noise(rng, shape, 2.5 * scale, octaves=1)
    mixture = 0.5 + 0.4 * noise(rng, shape, 50 * scale, octaves=4)
    return mixture, 1 + 0.12 * grit, height + 0.6 * grit


def _sand(rng: Generator, shape: tuple[int, int], scale: float) -> _Layers:
    rows = np.arange(shape[0], dtype=np.float32)[:, None] / scale
    warp = 5 * noise(rng, shape, (110 * scale, 60 * scale), octaves=2)
    wave = np.sin((rows + warp) * rng.uniform(0.3, 0.6))
    grit = noise(rng, shape, 1.5, octaves=1)
    return 0.3 + 0.25 * wave, 1 + 0.1 * grit, 1.6 * wave


def _planks(rng: Generator, shape: tuple[int, int], scale: float) -> _Layers:
    rows = (np.arange(shape[0], dtype=np.float32)[:, None] / scale + rng.uniform(0, 99)) / (
        rng.uniform(24, 44)
    )
    warp = 0.06 * noise(rng, shape, (15 * scale, 90 * scale))
    grain = noise(rng, shape, (3.5 * scale, 60 * scale))
    tint = rng.uniform(0, 0.7, 40).astype(np.float32)[rows.astype(int)]
    seam = (rows % 1 < 0.06) & np.ones(shape, bool)
    rings = np.sin((rows + warp) * 30)
    mixture = tint + 0.2 * grain
    return mixture, (1 + 0.08 * grain + 0.07 * rings) * np.where(seam, 0.45, 1), 0.5 * grain


def _tiles(rng: Generator, shape: tuple[int, int], scale: float) -> _Layers:
    side = rng.uniform(22, 48) * scale
    y = np.arange(shape[0], dtype=np.float32)[:, None] / side + rng.uniform(0, 9)
    x = np.arange(shape[1], dtype=np.float32)[None, :] / (side * rng.choice((1, 2)))
    # every other row is shifted by half a tile, as in a wall
    x = x + rng.choice((0, 0.5)) * (y.astype(int) % 2)
    tint = rng.uniform(0, 1, (40, 40)).astype(np.float32)[y.astype(int), x.astype(int)]
    joint = np.minimum(np.minimum(y % 1, 1 - y % 1) + 0 * x, np.minimum(x % 1, 1 - x % 1))
    worn = noise(rng, shape, 8 * scale)
    height = 2.5 * np.minimum(joint, 0.07) / 0.07 + 0.4 * worn
    return 0.8 * tint + 0.1 * worn, np.where(joint < 0.03, 0.6, 1 + 0.06 * worn), height


def _grass(rng: Generator, shape: tuple[int, int], scale: float) -> _Layers:
    blades = np.full(shape, 128, np.uint8)
    count = int(shape[0] * shape[1] / (18 * scale**2))
    start = rng.uniform(0, 1, (count, 2)) * shape[::-1]
    angle = rng.normal(rng.uniform(0, np.pi), 0.7, count)
    reach = rng.uniform(4, 12, (count, 1)) * scale
    end = start + reach * np.stack([np.cos(angle), np.sin(angle)], 1)
    lines = np.rint(np.stack([start, end], 1) * 16).astype(np.int32)
    for line, tone in zip(lines, rng.integers(0, 255, count).tolist(), strict=True):
        cv2.line(blades, line[0].tolist(), line[1].tolist(), (tone,), 1, cv2.LINE_AA, 4)
    bright = np.asarray(blades / 255, np.float32)
    return bright, 0.4 + 0.9 * bright, 2.5 * bright + noise(rng, shape, 20 * scale)


def _cloth(rng: Generator, shape: tuple[int, int], scale: float) -> _Layers:
    y = np.arange(shape[0], dtype=np.float32)[:, None] / scale
    x = np.arange(shape[1], dtype=np.float32)[None, :] / scale
    period = rng.uniform(20, 44)
    stripes = np.asarray(0.5 * (y / period % 1 < 0.4) + 0.5 * (x / period % 1 < 0.4), np.float32)
    thread = np.asarray(np.sin(y * 1.9) * np.sin(x * 1.9), np.float32)
    folds = 10 * noise(rng, shape, 70 * scale, octaves=1)
    return stripes, 1 + 0.08 * thread, folds + 0.3 * thread
