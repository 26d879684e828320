"""Copies are found however they were saved; merely similar images are not."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from plainunet.doctor.images import Duplicate, find_duplicates, perceptual_hash
from plainunet.formats.images import image_size, read_image

Image = NDArray[np.uint8]


def draw(seed: int, height: int = 200, width: int = 300) -> Image:
    """A smooth scene with bright discs and a little noise, RGB."""
    random = np.random.default_rng(seed)
    coarse = random.integers(20, 180, (5, 7, 3)).astype(np.uint8)
    image = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    for _ in range(6):
        x, y = int(random.integers(width)), int(random.integers(height))
        cv2.circle(image, (x, y), 18, (250, 250, 250), -1)
    noisy = image + random.normal(0, 3, image.shape)
    return np.clip(noisy, 0, 255).astype(np.uint8)


def jpeg(image: Image, quality: int) -> Image:
    _, data = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])
    return cv2.imdecode(data, cv2.IMREAD_COLOR_RGB).astype(np.uint8)


def scaled(image: Image, by: float) -> Image:
    size = round(image.shape[1] * by), round(image.shape[0] * by)
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA).astype(np.uint8)


def brighter(image: Image, times: float, plus: float = 0) -> Image:
    return np.clip(image.astype(np.float32) * times + plus, 0, 255).astype(np.uint8)


def noisy(image: Image, sigma: float) -> Image:
    noise = np.random.default_rng(9).normal(0, sigma, image.shape)
    return np.clip(image + noise, 0, 255).astype(np.uint8)


def alike(*images: NDArray[np.generic]) -> list[tuple[int, int]]:
    found = find_duplicates(
        [str(k) for k in range(len(images))], [perceptual_hash(i) for i in images]
    )
    assert not any(pair.exact for pair in found)
    return [(pair.first, pair.second) for pair in found]


def copies(image: Image) -> list[NDArray[np.generic]]:
    return [
        jpeg(image, 75),
        jpeg(image, 50),
        scaled(image, 0.8),
        jpeg(scaled(image, 0.5), 75),
        brighter(image, 1.1),
        brighter(image, 0.9),
        brighter(image, 1, 25),
        noisy(image, 5),
        cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)[..., None],
        image.astype(np.uint16) * 257,
        image.astype(np.uint16) * 16,
        image.astype(np.float32) / 255,
    ]


@pytest.mark.parametrize("seed", range(5))
def test_every_kind_of_copy_is_found(seed: int) -> None:
    image = draw(seed)
    for number, copy in enumerate(copies(image)):
        assert alike(draw(seed + 100), image, draw(seed + 200), copy) == [(1, 3)], number


@pytest.mark.parametrize("turn", range(1, 8))
def test_mirrored_and_turned_copies_are_found(turn: int) -> None:
    image = draw(0)
    copy = np.rot90(image, turn)[:: -1 if turn > 3 else 1]
    hashes = [perceptual_hash(each) for each in (draw(7), copy, draw(8), image)]
    assert find_duplicates(list("abcd"), hashes) == [Duplicate(1, 3, exact=False, turned=True)]


def test_files_of_one_content_are_exact_and_named_with_the_first() -> None:
    hashes = [perceptual_hash(draw(0)), perceptual_hash(draw(1))] * 20
    found = find_duplicates(["a", "b"] * 20, hashes)
    assert len(found) == 38
    assert all(pair.exact and pair.second % 2 == pair.first for pair in found)
    assert {pair.first for pair in found} == {0, 1}


def test_copies_are_named_with_the_first_and_only_once() -> None:
    image = draw(0)
    same = [image, *(noisy(image, sigma) for sigma in (1, 2, 3)), jpeg(image, 75)]
    assert alike(*same) == [(0, 1), (0, 2), (0, 3), (0, 4)]


def test_exact_and_near_join_without_a_detour() -> None:
    image = perceptual_hash(draw(0))
    near = perceptual_hash(jpeg(draw(0), 75))
    assert find_duplicates(["a", "b", "a", "b"], [image, near, image, near]) == [
        Duplicate(0, 1, exact=False),
        Duplicate(0, 2, exact=True),
        Duplicate(1, 3, exact=True),
    ]


def test_a_thing_that_moved_makes_another_image() -> None:
    ground = draw(0)
    one, other = ground.copy(), ground.copy()
    cv2.circle(one, (100, 100), 8, (0, 0, 0), -1)
    cv2.circle(other, (120, 100), 8, (0, 0, 0), -1)
    assert alike(one, other, ground) == []


def test_a_lamp_that_is_switched_on_is_no_brighter_copy() -> None:
    dark = draw(0)
    lit = dark.copy()
    lit[60:140, 60:160] = brighter(lit[60:140, 60:160], 1.2)
    assert alike(dark, lit) == []


def test_dark_and_flat_images_are_not_alike_for_that() -> None:
    random = np.random.default_rng(0)
    images = [np.zeros((256, 256, 1), np.uint8), np.full((256, 256, 1), 7, np.uint8)]
    images += [random.integers(3, 7, (256, 256, 1)).astype(np.uint8) for _ in range(20)]
    for _ in range(20):
        image = random.integers(3, 7, (256, 256, 1)).astype(np.uint8)
        for _ in range(4):
            place = int(random.integers(256)), int(random.integers(256))
            cv2.circle(image, place, 6, 40, -1)
        images.append(image)
    assert alike(*images) == []
    assert alike(*images[22:], *(jpeg(np.repeat(i, 3, axis=2), 75) for i in images[22:])) == [
        (k, k + 20) for k in range(20)
    ]


def test_the_same_file_without_a_hash_is_still_exact() -> None:
    assert find_duplicates(["a", "b", "a"], [b"", b"", b""]) == [Duplicate(0, 2, exact=True)]
    assert find_duplicates([], []) == []


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 40, 3), (7, 5, 2), (33, 9), (20, 20, 5)])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int16, np.float32])
def test_every_shape_and_type_has_a_hash(shape: tuple[int, ...], dtype: type) -> None:
    image = np.random.default_rng(0).integers(0, 200, shape).astype(dtype)
    assert len(perceptual_hash(image)) == len(perceptual_hash(np.zeros(shape, dtype))) == 264
    assert perceptual_hash(image) == perceptual_hash(image.copy())


def test_cells_are_means_of_areas() -> None:
    image = draw(0, height=16 * 6, width=16 * 10)[..., :1]
    packed = perceptual_hash(image)
    low, high = np.frombuffer(packed[:8], "<f4")
    cells = np.frombuffer(packed[8:], np.uint8).reshape(16, 16)
    means = image.reshape(16, 6, 16, 10).mean(axis=(1, 3))
    assert np.abs(low + cells * (high - low) / 255 - means).max() <= (high - low) / 255


def test_the_extent_leaves_out_what_a_codec_added() -> None:
    image = draw(0, height=160, width=236)
    padded = np.pad(image, ((0, 0), (0, 4), (0, 0)))
    assert perceptual_hash(padded, (160, 236)) == perceptual_hash(image)


def test_large_sets_are_compared_across_blocks() -> None:
    random = np.random.default_rng(0)
    scenes = random.normal(size=(3000, 16, 16)).cumsum(axis=1).cumsum(axis=2)
    low, high = scenes.min(axis=(1, 2)), scenes.max(axis=(1, 2))
    cells = np.round((scenes - low[:, None, None]) / (high - low)[:, None, None] * 255)
    ends = np.array([10, 200], "<f4").tobytes()
    hashes = [ends + scene.astype(np.uint8).tobytes() for scene in cells]
    hashes += [hashes[5], hashes[2999]]
    found = find_duplicates([str(k) for k in range(3002)], hashes)
    assert found == [Duplicate(5, 3000, exact=False), Duplicate(2999, 3001, exact=False)]


@pytest.mark.parametrize(
    ("folder", "step"),
    [
        ("carvana/train", 190),
        ("isbi2012/images", 4),
        ("dsb2018/images", 25),
        ("camvid/images/val", 10),
        ("dubai_aerial/images", 6),
        ("chasedb1/images", 3),
    ],
)
def test_copies_of_real_images_are_found(data_root: Path, folder: str, step: int) -> None:
    paths = sorted((data_root / folder).iterdir())[::step]
    images = [np.repeat(i, 3, axis=2) if i.shape[2] == 1 else i for i in map(read_image, paths)]
    for change in (
        lambda image: jpeg(image, 50),
        lambda image: scaled(image, 0.5),
        lambda image: brighter(image, 1.1),
    ):
        pairs = [(k, k + len(images)) for k in range(len(images))]
        assert alike(*images, *map(change, images)) == pairs


@pytest.mark.parametrize(
    "folder",
    ["isbi2012/images", "dsb2018/images", "camvid/images/val", "dubai_aerial/images"],
)
def test_no_two_real_images_are_alike(data_root: Path, folder: str) -> None:
    assert alike(*map(read_image, sorted((data_root / folder).iterdir()))) == []


def test_cars_are_distinguished_at_an_eighth_of_their_size(data_root: Path) -> None:
    paths = sorted((data_root / "carvana/train").iterdir())[:320]
    height, width = image_size(paths[0])
    eighth = [cv2.imread(str(path), cv2.IMREAD_REDUCED_GRAYSCALE_8) for path in paths]
    hashes = [perceptual_hash(image, (height / 8, width / 8)) for image in eighth]
    hashes += [perceptual_hash(read_image(path)) for path in paths[::32]]
    found = find_duplicates([str(k) for k in range(len(hashes))], hashes)
    assert found == [Duplicate(32 * k, 320 + k, exact=False) for k in range(10)]
