"""The synthetic dataset of `plainunet demo`: leaves and stones among clutter on rough ground.

Leaves, stones, twigs and scraps of paper share one palette, so classes differ by shape and texture
rather than colour. The folder has a usual layout: `images/{train,val}` (half JPEG, half PNG),
`masks/{train,val}` (palette PNG of class ids), and `drawn.json`, which records the arguments.
"""

import json
import math
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from PIL import Image

from plainunet.errors import Error
from plainunet.files import require_writable
from plainunet.system import work_ahead

CLASS_NAMES = ("background", "leaf", "stone")
LEAF, STONE, TWIG, SCRAP = 1, 2, 3, 4
# incremented whenever the same arguments draw different images
_VERSION = 2
# supersampling, for smooth edges; odd, so that a pixel of the mask has the class at its centre
_FINE = 3
# direction of the light: x, y
_LIGHT = (-0.6, -0.8)
_MASK_PALETTE = (24, 24, 28, 86, 180, 95, 233, 148, 58)
# moss, olive, ochre, rust, burgundy, umber, grey, slate, sand, ash
_COLOURS = (
    *((104, 126, 66), (142, 138, 70), (200, 152, 70), (184, 96, 54), (148, 66, 60)),
    *((128, 94, 66), (142, 140, 136), (108, 120, 132), (204, 186, 148), (180, 178, 170)),
)
Bytes = NDArray[np.uint8]
Floats = NDArray[Any]


def draw_dataset(
    folder: Path,
    images: int = 160,
    validation: int = 40,
    size: tuple[int, int] = (192, 256),
    seed: int = 0,
    on_progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Draw `images` training and `validation` images; the folder appears complete or not at all.

    A folder drawn with the same arguments is kept. The same seed draws the same images; a larger
    number of training images changes neither the first ones nor the validation images.
    """
    minimum = {"images": 1, "validation": 1, "height": 64, "width": 64, "seed": 0}
    given = (images, validation, *size, seed)
    for (name, least), value in zip(minimum.items(), given, strict=True):
        if value < least:
            raise Error(f"{name} is {value}; it must be at least {least}.")
    counts = {"drawing": _VERSION, "pictures": images, "validation": validation}
    record = json.dumps({**counts, "size": size, "seed": seed}, indent=2) + "\n"
    if _is_drawn(folder, record):
        return folder
    total = images + validation

    def draw(number: int) -> None:
        split, index = (0, number) if number < images else (1, number - images)
        image, mask = draw_scene(np.random.default_rng((seed, split, index)), size)
        _write_pair(unfinished, f"{('train', 'val')[split]}/{number:03}", image, mask)

    require_writable(folder.parent)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as scratch:
        unfinished = Path(scratch) / folder.name
        for name in ("images/train", "images/val", "masks/train", "masks/val"):
            (unfinished / name).mkdir(parents=True)
        for done, _ in enumerate(work_ahead(draw, range(total)), start=1):
            if on_progress is not None:
                on_progress(done, total)
        (unfinished / "drawn.json").write_text(record, encoding="utf-8")
        # another process may have drawn it in the meantime
        if not _is_drawn(folder, record):
            if folder.exists():
                folder.rmdir()
            unfinished.rename(folder)
    return folder


def _is_drawn(folder: Path, record: str) -> bool:
    """Whether the folder contains this dataset; anything else in it is an error."""
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return False
    try:
        found = (folder / "drawn.json").read_text(encoding="utf-8")
    except (OSError, ValueError):
        found = ""
    if found != record:
        raise Error(
            f"{folder}: contains other files, or a synthetic dataset drawn with other arguments. "
            "Choose another folder."
        )
    return True


def _write_pair(folder: Path, name: str, image: Bytes, mask: Bytes) -> None:
    suffix = (".jpg", ".png")[int(name[-1]) % 2]
    quality = [cv2.IMWRITE_JPEG_QUALITY, 92] if suffix == ".jpg" else []
    _, encoded = cv2.imencode(suffix, image[..., ::-1], quality)
    (folder / "images" / f"{name}{suffix}").write_bytes(encoded.tobytes())
    coloured = Image.fromarray(mask, mode="P")
    coloured.putpalette(_MASK_PALETTE)
    coloured.save(folder / "masks" / f"{name}.png")


def draw_scene(rng: Generator, size: tuple[int, int]) -> tuple[Bytes, Bytes]:
    """Draw an image [H, W, 3] RGB and its mask [H, W] of class ids."""
    colour = cv2.resize(_ground(rng, size), (size[1] * _FINE, size[0] * _FINE))
    mask = np.zeros(colour.shape[:2], np.uint8)
    below, objects, above = rng.integers((3, 7, 0), (8, 12, 3)).tolist()
    kinds = [*rng.integers(3, 5, below), *rng.integers(1, 3, objects), *rng.integers(3, 5, above)]
    places: list[tuple[float, float, float]] = []
    for kind in kinds:
        # a few are small
        radius = math.exp(rng.uniform(1.7, 2.3) if rng.random() < 0.15 else rng.uniform(2.3, 3.2))
        radius *= min(mask.shape) / 100
        for _ in range(12):
            x, y = rng.uniform((0, 0), mask.shape[::-1]).tolist()
            clutter = kind in (TWIG, SCRAP)
            # objects touch and overlap a little, but do not hide each other
            if clutter or all(math.hypot(x - a, y - b) > 0.8 * (radius + r) for a, b, r in places):
                _add(rng, colour, mask, kind, (x, y, radius))
                places += [] if clutter else [(x, y, radius)]
                break
    image, mask = _photograph(rng, colour, size), mask[_FINE // 2 :: _FINE, _FINE // 2 :: _FINE]
    # mirrored, so that the light comes from any of four corners
    flip = tuple(slice(None, None, rng.choice((-1, 1))) for _ in range(2))
    return np.ascontiguousarray(image[flip]), np.ascontiguousarray(mask[flip])


def _add(
    rng: Generator, colour: Floats, mask: Bytes, kind: int, place: tuple[float, float, float]
) -> None:
    """Draw one object and its shadow into colour and mask, in place."""
    x, y, radius = place
    # leaves are slim: longer ones cover as much as a stone
    radius *= {LEAF: 1.3, STONE: 1.0, TWIG: 1.8, SCRAP: 0.8}[kind]
    bend = rng.uniform(-0.35, 0.35) if kind in (LEAF, TWIG) else 0.0
    points = _contour(rng, kind)
    points[:, 1] += bend * (1 - points[:, 0] ** 2)
    angle = rng.uniform(0, 2 * np.pi)
    cos, sin = math.cos(angle), math.sin(angle)
    points = radius * points @ np.array([[cos, sin], [-sin, cos]]) + (x, y)
    reach = radius * {LEAF: 0.07, STONE: 0.22, TWIG: 0.04, SCRAP: 0.05}[kind]
    left, top = np.maximum(points.min(0) - 3 * reach - 2, 0).astype(int).tolist()
    right, bottom = (points.max(0) + 3 * reach + 2).astype(int).tolist()
    # slices end at the canvas
    colour, mask = colour[top:bottom, left:right], mask[top:bottom, left:right]
    points -= (left, top)
    shadow = _fill(points - reach * np.array(_LIGHT), mask.shape).astype(np.float32)
    colour *= 1 - 0.45 * cv2.GaussianBlur(shadow, (0, 0), 0.5 + 0.45 * reach)[..., None]
    inside = _fill(points, mask.shape)
    depth = np.asarray(cv2.distanceTransform(inside, cv2.DIST_L2, 3) / radius, np.float32)
    rows = (np.arange(mask.shape[0], dtype=np.float32)[:, None] + (top - y)) / radius
    columns = (np.arange(mask.shape[1], dtype=np.float32) + (left - x)) / radius
    u, v = cos * columns + sin * rows, cos * rows - sin * columns
    shade = _texture(rng, kind, (u, v - bend * (1 - u**2), depth), radius)
    blotches = 0.3 + 0.3 * _noise(rng, mask.shape, radius / 2)
    np.copyto(colour, _mix(rng, blotches, shade), where=inside[..., None] > 0)
    mask[inside > 0] = kind if kind in (LEAF, STONE) else 0


def _contour(rng: Generator, kind: int) -> NDArray[np.float64]:
    """Draw a closed polygon [P, 2] in radii around the centre, its axis along the first."""
    a = np.linspace(0, 2 * np.pi, 90, endpoint=False)
    if kind == SCRAP:
        corners = int(rng.integers(3, 5))
        a = (np.arange(corners) + rng.uniform(-0.25, 0.25, corners)) * 2 * np.pi / corners
        return np.stack([np.cos(a), rng.uniform(0.5, 1) * np.sin(a)], 1)
    if kind == TWIG:
        width = rng.uniform(0.02, 0.05) * (1.3 - 0.6 * np.cos(a))
        return np.stack([np.cos(a), width * np.sign(np.sin(a))], 1)
    if kind == LEAF:
        lobes = 1 + rng.choice((0, 0.25)) * np.cos(rng.uniform(9, 13) * np.cos(a))
        taper = 1 - rng.uniform(0, 0.4) * np.cos(a)
        width = rng.uniform(0.32, 0.6) * np.abs(np.sin(a)) ** 0.6 * lobes * taper
        return np.stack([np.cos(a), width * np.sin(a)], 1)
    # a smooth minimum over the sides of a polygon: a stone with worn corners
    sides = int(rng.integers(5, 9))
    normals = (np.arange(sides) + rng.uniform(-0.25, 0.25, sides)) * 2 * np.pi / sides
    cuts = rng.uniform(0.65, 0.95, sides) / np.maximum(np.cos(a[:, None] - normals), 0.1)
    r = np.minimum((cuts**-8.0).sum(1) ** (-1 / 8), 1.1)
    return np.stack([r * np.cos(a), rng.uniform(0.65, 1) * r * np.sin(a)], 1)


def _texture(
    rng: Generator, kind: int, local: tuple[Floats, Floats, Floats], radius: float
) -> Floats:
    """Shade an object; local: along and across its axis and depth below its edge, in radii."""
    u, v, depth = local
    grain = _noise(rng, u.shape, max(radius / 14, 0.8 * _FINE), octaves=1)
    if kind == LEAF:
        ribs, slant = rng.uniform((2.2, 0.6), (3.2, 1.2)).tolist()
        veins = np.abs(ribs * (u - slant * np.abs(v)) % 1 - 0.5) < 0.12
        veins |= np.abs(v) < 0.05
        contrast = rng.uniform(0.4, 0.6) * (1 if rng.random() < 0.5 else -0.7)
        # the two halves of a folded leaf reflect differently
        shade = contrast * veins.astype(np.float32) + 0.1 * np.sign(v)
        return np.asarray(1 + shade + 0.05 * grain)
    if kind == STONE:
        edge = rng.uniform(0.3, 0.6)
        dome = np.sqrt(1 - (1 - np.minimum(depth / edge, 1)) ** 2)
        height = radius * (0.8 * edge * dome + 0.03 * _noise(rng, u.shape, radius / 3))
        height = cv2.GaussianBlur(height, (0, 0), 1 + radius / 20)
        speckles = 0.25 * np.clip(grain - 0.6, 0, 1.5) - 0.4 * np.clip(-grain - 0.6, 0, 1)
        return _relief(height, 1.3) * (0.95 + speckles)
    if kind == TWIG:
        return _relief(radius * np.sqrt(depth * 0.06), 0.7) * (1 + 0.12 * grain)
    return 1 + 0.05 * _noise(rng, u.shape, radius / 2)


def _ground(rng: Generator, shape: tuple[int, int]) -> Floats:
    """Draw soil, rippled sand, planks or tiles [H, W, 3], darker than what lies on them."""
    unit = min(shape) / 192
    angle = rng.uniform(0, np.pi)
    rows, columns = np.mgrid[: shape[0], : shape[1]].astype(np.float32) / unit
    y = 500 + math.cos(angle) * rows + math.sin(angle) * columns
    x = 500 + math.cos(angle) * columns - math.sin(angle) * rows
    rough, slow = _noise(rng, shape, 12 * unit, 4), _noise(rng, shape, 60 * unit)
    pattern = rng.choice(("soil", "ripples", "planks", "tiles"))
    if pattern == "soil":
        mixture, height = 0.5 + 0.4 * slow, 1.2 * rough
    elif pattern == "ripples":
        wave = np.sin((y + 5 * slow) * rng.uniform(0.3, 0.6))
        mixture, height = 0.3 + 0.25 * wave, 1.6 * wave + 0.3 * rough
    else:
        y = y / rng.uniform(24, 44)
        # a plank is an infinitely long tile
        x = x / rng.uniform(24, 80) if pattern == "tiles" else np.full_like(x, 0.5)
        tint = rng.random((64, 64), np.float32)[y.astype(int) % 64, x.astype(int) % 64]
        joint = np.minimum(np.minimum(y % 1, 1 - y % 1), np.minimum(x % 1, 1 - x % 1))
        mixture, height = tint + 0.1 * rough, 2.5 * np.minimum(joint / 0.07, 1) + 0.4 * rough
    grit = 1 + 0.1 * _noise(rng, shape, 2.5 * unit, octaves=1)
    shade = rng.uniform(0.16, 0.31) * grit * _relief(height, 1.0)
    return _mix(rng, mixture, shade, dull=True)


def _mix(rng: Generator, mixture: Floats, shade: Floats, dull: bool = False) -> Floats:
    """Mix two random colours and multiply by the shade; dull ones are greyer, with brightness 1."""
    palette = np.array(_COLOURS, np.float32)[rng.integers(0, len(_COLOURS), 4)] / 255
    colours = palette[:2] + rng.uniform(0, 0.6, (2, 1)) * (palette[2:] - palette[:2])
    if dull:
        colours = 0.5 + 0.5 * colours / colours.mean(1, keepdims=True)
    else:
        colours *= np.exp(rng.normal(0, 0.15, (2, 1)))
    one, other = colours.astype(np.float32)
    mixed = one + np.clip(mixture, 0, 1)[..., None] * (other - one)
    return np.asarray(mixed * shade[..., None])


def _photograph(rng: Generator, colour: Floats, size: tuple[int, int]) -> Bytes:
    """Reduce the scene, with uneven light, a colour cast, blur and noise."""
    y, x = np.mgrid[-1 : 1 : size[0] * 1j, -1 : 1 : size[1] * 1j].astype(np.float32)
    right, down, falloff = rng.normal(0, 0.1), rng.normal(0, 0.1), rng.uniform(0, 0.15)
    lit = rng.uniform(0.95, 1.2) * (1 + right * x + down * y - falloff * (x**2 + y**2))
    image = cv2.resize(colour, size[::-1], interpolation=cv2.INTER_AREA) * lit[..., None]
    image *= rng.uniform(0.93, 1.07, 3).astype(np.float32)
    image = cv2.GaussianBlur(image, (0, 0), rng.uniform(0.3, 0.8) * min(size) / 192)
    image += rng.uniform(0.005, 0.02) * rng.standard_normal(image.shape, np.float32)
    return np.asarray(np.rint(np.clip(image, 0, 1) * 255), np.uint8)


def _noise(rng: Generator, shape: tuple[int, ...], cell: float, octaves: int = 3) -> Floats:
    """Draw smooth noise [H, W], std about 0.8; each octave is half as coarse and strong."""
    total = np.zeros(shape, np.float32)
    for octave in range(octaves):
        grid = [min(int(length * 2**octave / cell) + 2, length) for length in shape]
        values = rng.standard_normal(grid, np.float32)
        total += 0.5**octave * cv2.resize(values, shape[::-1], interpolation=cv2.INTER_CUBIC)
    return total


def _relief(height: Floats, strength: float) -> Floats:
    """Brightness of a relief [pixels] lit from one side; 1 where it is flat."""
    down, right = np.gradient(height)
    return np.asarray(1 - 0.55 * np.tanh(strength * (_LIGHT[0] * right + _LIGHT[1] * down)))


def _fill(points: NDArray[np.float64], shape: tuple[int, ...]) -> Bytes:
    contour = np.rint(points).astype(np.int32)
    return np.asarray(cv2.fillPoly(np.zeros(shape, np.uint8), [contour], (1,)), np.uint8)
