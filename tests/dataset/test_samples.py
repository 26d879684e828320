"""Samples and batches: sizes, shares, patches, targets."""

import os
import pickle
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from plainunet.dataset.cache import Sample
from plainunet.dataset.coding import Instances, Values
from plainunet.dataset.pairs import Pair, find_pairs
from plainunet.dataset.resize import patches_each
from plainunet.dataset.samples import (
    CENTRED,
    Samples,
    TrainingSet,
    balanced_weights,
    cut_patch,
    make_batch,
    pad,
)

from .. import folders

BINARY = Values((0, 255))


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLAINUNET_CACHE", str(tmp_path / "cache"))


MakePair = Callable[..., Pair]


@pytest.fixture
def make_pair(tmp_path: Path) -> MakePair:
    return partial(folders.make_pair, tmp_path)


def noise(*shape: int, dtype: Any = np.uint8, seed: int = 0) -> NDArray[Any]:
    return np.random.default_rng(seed).integers(0, np.iinfo(dtype).max, shape, dtype, endpoint=True)


def half(height: int, width: int) -> NDArray[np.uint8]:
    """A mask whose right half is foreground."""
    mask = np.zeros((height, width), np.uint8)
    mask[:, width // 2 :] = 255
    return mask


def test_sample_at_its_own_size(make_pair: MakePair) -> None:
    image, mask = noise(32, 48, 3), half(32, 48)
    mask[:16] = 7
    samples = Samples([make_pair("a.1", image, mask)], Values((0, 255), 7), (32, 48))
    got, shares = samples[0]
    assert (len(samples), samples.name(0)) == (1, "a.1")
    assert np.array_equal(got, image)
    assert np.array_equal(shares[16:, :, 1], mask[16:])
    assert np.array_equal(shares[16:, :, 0], 255 - mask[16:])
    assert shares[:16].max() == 0  # ignored


def test_small_image_is_padded_and_never_enlarged(make_pair: MakePair) -> None:
    image, mask = noise(20, 30, 3), half(20, 30)
    got, shares = Samples([make_pair("a", image, mask)], BINARY, (32, 48))[0]
    assert got.shape == (32, 48, 3)
    assert np.array_equal(got[:20, :30], image)
    # the image is padded with its edge, and padding is ignored
    assert (got[20:, :30] == image[-1]).all()
    assert (got[:20, 30:] == image[:, -1:]).all()
    assert (shares[:20, :30].astype(int).sum(axis=2) == 255).all()
    assert shares[20:].max() == shares[:, 30:].max() == 0


def test_mixed_sizes_are_reduced_in_their_proportions_to_one_shape(make_pair: MakePair) -> None:
    sizes = [(20, 30), (64, 48), (9, 90), (200, 3), (128, 128)]
    pairs = [
        make_pair(f"{n}", np.full((*size, 3), 200, np.uint8), half(*size))
        for n, size in enumerate(sizes)
    ]
    samples = Samples(pairs, BINARY, (32, 48), target_scale=2)
    for index in range(5):
        image, shares = samples[index]
        assert (image.shape, shares.shape) == ((64, 96, 3), (64, 96, 2))
        assert (image == 200).all()
    assert (shares[:, :32, 0] == 255).all()
    assert (shares[:, 32:64, 1] == 255).all()
    assert shares[:, 64:].max() == 0


@pytest.mark.parametrize("scale", [1, 2, 3])
@pytest.mark.parametrize("classes", [2, 6])
def test_target_scale_keeps_the_mask_finer(make_pair: MakePair, scale: int, classes: int) -> None:
    pair = make_pair("a", noise(96, 144, 3), noise(96, 144) % classes)
    samples = Samples([pair], Values(tuple(range(classes))), (32, 48), target_scale=scale)
    image, shares = TrainingSet(samples, "none", 0, (16, 24))[0, 0, 0]
    assert image.shape == (16, 24, 3)
    assert shares.shape == (16 * scale, 24 * scale, classes)
    assert image.dtype == shares.dtype == torch.uint8
    assert (shares.int().sum(dim=2) - 255).abs().max() <= classes


@pytest.mark.parametrize("scale", [1, 2, 3])
def test_finer_targets_leave_the_image_as_it_is(make_pair: MakePair, scale: int) -> None:
    """Enlarged for the targets, and reduced again: prediction sees it as sharp."""
    pixels = noise(32, 48, 3)
    pair = make_pair("a", pixels, noise(32, 48) % 2)
    samples = Samples([pair], Values((0, 1)), (32, 48), target_scale=scale)
    image, _ = TrainingSet(samples, "none", 0, (32, 48))[0, 0, 0]
    assert np.array_equal(image.numpy(), pixels)


def test_unusable_files_are_named_once(make_pair: MakePair) -> None:
    mask = half(32, 32)
    mask[3, 4] = 9
    pair = make_pair("a", noise(32, 32, 3), mask)
    samples = Samples([pair], BINARY, (32, 32))
    with pytest.raises(ValueError, match=r"a\.png .*\b1\b.*\b9\b"):
        samples[0]
    folders.save(pair.mask, half(32, 32))
    with pytest.raises(ValueError, match=r"a\.png.* 3 .* 1\b") as raised:
        Samples([pair], BINARY, (32, 32), channels=1)[0]
    assert str(raised.value).count(str(pair.image)) == 1
    pair.image.write_bytes(pair.image.read_bytes()[:-200])
    with pytest.raises(ValueError, match=r"\.png") as raised:
        samples[0]
    assert str(raised.value).count(str(pair.image)) == 1


def test_settings_that_exclude_each_other(make_pair: MakePair) -> None:
    pair = make_pair("a", noise(32, 48, 3), half(32, 48))
    with pytest.raises(ValueError, match="objects=True"):
        TrainingSet(Samples([pair], BINARY, (48, 64)), "none", 0, (48, 64), border=(10, 5))
    with pytest.raises(ValueError, match="patch"):
        TrainingSet(Samples([pair], BINARY, None), "none", 0, (16, 16))


@pytest.mark.parametrize("first", [np.uint8, np.uint16])
@pytest.mark.parametrize("room", [True, False])
def test_eight_bits_with_sixteen(
    make_pair: MakePair, monkeypatch: pytest.MonkeyPatch, first: Any, room: bool
) -> None:
    """Both must read the same, also without space for a cache."""
    if not room:
        monkeypatch.setattr("plainunet.dataset.cache.LIMIT", 10)
    second = np.uint16 if first == np.uint8 else np.uint8
    arrays = [noise(32, 32, dtype=first), noise(32, 32, dtype=second, seed=1)]
    pairs = [make_pair(name, array, half(32, 32)) for name, array in zip("ab", arrays, strict=True)]
    samples = Samples(pairs, BINARY, (32, 32), channels=1)
    samples.fill_cache()
    for index, array in enumerate(arrays):
        image = samples[index][0]
        assert image.shape == (32, 32, 1)
        if room:
            assert image.dtype == np.float32
            assert np.allclose(image[..., 0], array / np.iinfo(array.dtype).max)
        tensor = TrainingSet(samples, "none", 0, (32, 32))[0, 0, index][0]
        assert tensor.dtype == torch.float32
        assert np.allclose(tensor[..., 0].numpy(), array / np.iinfo(array.dtype).max)


@pytest.mark.parametrize("change", ["box", "scale", "coding", "channels", "objects"])
def test_cache_depends_on_every_setting(make_pair: MakePair, change: str) -> None:
    pair = make_pair("a", noise(32, 32), half(32, 32))
    Samples([pair], BINARY, (16, 16), channels=1).fill_cache()
    other = Samples(
        [pair],
        Values((255, 0)) if change == "coding" else BINARY,
        (16, 8) if change == "box" else (16, 16),
        channels=3 if change == "channels" else 1,
        target_scale=2 if change == "scale" else 1,
        objects=change == "objects",
    )
    before = other[0]
    other.fill_cache()
    assert len(other[0]) == len(before) == (3 if change == "objects" else 2)
    assert all(np.array_equal(a, b) for a, b in zip(other[0], before, strict=True))


def test_changed_image_is_decoded_again(tmp_path: Path) -> None:
    """The file's size does not change."""
    pair = Pair(tmp_path / "a.bmp", tmp_path / "a_mask.bmp", "a", None)
    images = [noise(16, 16, 3, seed=seed) for seed in (0, 1)]
    Image.fromarray(half(16, 16)).save(pair.mask)
    seen = []
    for later, image in enumerate(images):
        Image.fromarray(image).save(pair.image)
        os.utime(pair.image, (1000 + later, 1000 + later))
        samples = Samples([pair], BINARY, (16, 16))
        samples.fill_cache()
        seen.append(samples[0][0].copy())
    assert np.array_equal(seen, images)


def test_a_cache_removed_during_use(small_data: Path, tmp_path: Path) -> None:
    """Another process may need the space; then samples are decoded again."""
    samples = Samples(find_pairs(small_data), BINARY, (24, 32))
    before = samples[3]
    samples.fill_cache()
    samples = pickle.loads(pickle.dumps(samples))
    shutil.rmtree(tmp_path / "cache")
    for _ in range(2):
        assert all(np.array_equal(a, b) for a, b in zip(samples[3], before, strict=True))


def test_settings_of_samples_without_objects_are_as_before(
    small_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise all caches would be decoded again."""
    seen: list[dict[str, Any]] = []
    monkeypatch.setattr(
        "plainunet.dataset.samples.cached", lambda files, settings, *others: seen.append(settings)
    )
    Samples(find_pairs(small_data), BINARY, (24, 32)).fill_cache()
    coding = [0, 255, None, "two values"]
    kept = {"count": 8, "box": (24, 32), "target_scale": 1, "channels": 3, "coding": coding}
    assert list(seen[0].items()) == list(kept.items())


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("flat", [False, True])
def test_statistics_equal_plain_numpy(make_pair: MakePair, dtype: Any, flat: bool) -> None:
    """Rounding gives no negative variance if all images are of one grey."""
    rng = np.random.default_rng(0)
    arrays, pairs, kept = [], [], []
    for number in range(5):
        shape = (32, 40) if dtype == np.uint16 else (32, 40, 3)
        image = (rng.random(shape) * np.iinfo(dtype).max * (number + 1) / 5).astype(dtype)
        if flat:
            image[:] = 43  # whose variance would round to below 0
        mask = half(32, 40)
        mask[:4] = 7
        arrays.append(image.reshape(32, 40, -1) / np.iinfo(dtype).max)
        kept.append(np.broadcast_to(mask != 7, (32, 40)))
        pairs.append(make_pair(str(number), image, mask))
    channels = arrays[0].shape[2]
    samples = Samples(pairs, Values((0, 255), 7), (48, 48), channels)
    mean, std = samples.statistics()
    pixels = np.concatenate([a[k] for a, k in zip(arrays, kept, strict=True)])
    assert np.allclose(mean, pixels.mean(axis=0), atol=1e-6)
    assert np.allclose(std, pixels.std(axis=0), atol=1e-6)
    assert len(mean) == len(std) == channels


def test_tensors_from_the_cache_may_be_written_to(small_data: Path) -> None:
    samples = Samples(find_pairs(small_data), BINARY, (48, 64), objects=True)
    samples.fill_cache()
    before = [array.copy() for array in samples[0]]
    for strength in ("none", "flip"):
        for border in (None, (10, 5)):
            dataset = TrainingSet(samples, strength, 0, (48, 64), border=border)
            for tensor in dataset[0, 0, 0]:
                tensor.zero_()
    assert all(np.array_equal(a, b) for a, b in zip(samples[0], before, strict=True))


def test_class_shares(make_pair: MakePair) -> None:
    masks = [np.zeros((20, 30), np.uint8) for _ in range(2)]
    masks[0][:10, :15] = 1
    masks[1][:5] = 9  # ignored
    pairs = [make_pair(str(n), noise(20, 30, 3), mask) for n, mask in enumerate(masks)]
    samples = Samples(pairs, Values((0, 1, 2), 9), (32, 32))
    # 600 + 450 valid pixels; padding is ignored
    assert np.allclose(samples.class_shares(), [900 / 1050, 150 / 1050, 0])


def cells() -> NDArray[np.uint16]:
    """Instances that touch (1 and 2), that nearly do (3), and one far away."""
    mask = np.zeros((48, 64), np.uint16)
    mask[8:20, 8:20], mask[8:20, 20:32], mask[24:36, 10:22] = 1000, 2000, 3
    mask[40:44, 56:60] = 65535
    return mask


@pytest.fixture
def cell_samples(make_pair: MakePair) -> Callable[..., Samples]:
    def make(box: tuple[int, int] = (48, 64), **settings: Any) -> Samples:
        pair = make_pair("cells", noise(48, 64, 3), cells().view())
        return Samples([pair], Instances(), box, objects=True, **settings)

    return make


def test_samples_with_objects(cell_samples: Callable[..., Samples]) -> None:
    image, shares, labels = cell_samples()[0]
    assert len(cell_samples().statistics()[0]) == 3
    assert image.shape == (48, 64, 3)
    assert np.array_equal(shares[..., 1] > 0, cells() > 0)
    assert labels.dtype == np.uint16
    assert labels.shape == (48, 64, 1)
    # numbered in the order of their values
    ids = {0: 0, 3: 1, 1000: 2, 2000: 3, 65535: 4}
    assert np.array_equal(labels[..., 0], np.vectorize(ids.get)(cells()))
    # reduced and padded like their class
    _, shares, labels = cell_samples((30, 32))[0]
    assert labels.shape == (30, 32, 1)
    assert np.array_equal(labels[..., 0] > 0, shares[..., 1] > 127)


def test_border_weights_of_a_sample(cell_samples: Callable[..., Samples]) -> None:
    dataset = TrainingSet(cell_samples(), "none", 0, (48, 64), border=(10, 5))
    _, shares, border = dataset[0, 0, 0]
    assert border.dtype == torch.float32
    assert border.shape == shares.shape[:2]
    # the touching two are separated by two pixels of background, which have weights
    assert (shares[8:20, 19:21, 0] == 255).all()
    assert torch.allclose(border[10:18, 19:21], torch.tensor(10 * np.exp(-9 / 50)).float())
    assert (border[shares[..., 1] > 0] == 0).all()
    expected = np.where(cells() > 0, 255, 0)
    expected[8:20, 19:21] = 0
    assert np.array_equal(shares[..., 1], expected)


def test_sigma_and_elastic_are_in_input_pixels(cell_samples: Callable[..., Samples]) -> None:
    """Twice as fine, or at half the size, the same place weighs the same."""
    plain = TrainingSet(cell_samples(), "none", 0, (48, 64), border=(10, 5))[0, 0, 0][2]
    samples = cell_samples((24, 32), target_scale=2)
    fine = TrainingSet(samples, "none", 0, (24, 32), border=(10, 2.5))[0, 0, 0]
    assert fine[0].shape == (24, 32, 3)
    assert torch.equal(fine[2], plain)
    half = TrainingSet(cell_samples(), "none", 0, (24, 32), border=(10, 5))[0, 0, 0][2]
    # between the first and the third: a gap of four pixels, of two at half the size
    assert torch.allclose(plain[20:24, 14:16], torch.tensor(10 * np.exp(-25 / 50)).float())
    assert torch.allclose(half[10:12, 7], torch.tensor(10 * np.exp(-9 / 12.5)).float())
    sets = [
        TrainingSet(samples, "none", 0, (24, 32), elastic=3),
        TrainingSet(cell_samples(), "none", 0, (48, 64), elastic=6),
    ]
    assert torch.equal(sets[0][0, 0, 0][1], sets[1][0, 0, 0][1])


def test_border_moves_with_the_image(cell_samples: Callable[..., Samples]) -> None:
    samples = cell_samples()
    settings = {"elastic": 3.0, "border": (10.0, 5.0)}
    plain = TrainingSet(samples, "strong", 0, (48, 64), elastic=3)
    dataset = TrainingSet(samples, "strong", 0, (48, 64), **settings)  # type: ignore[arg-type]
    weighed: list[float] = []
    for number in range(12):
        image, shares, border = dataset[0, number, 0]
        bare_image, bare_shares = plain[0, number, 0]
        assert torch.equal(image, bare_image)
        # where it differs, the target has become background
        parted = (shares != bare_shares).any(dim=2)
        assert (shares[parted, 1:] == 0).all()
        assert (border[shares[..., 1] > 200] == 0).all()
        weighed += border[parted].tolist()
    # and there it has weights, except for slivers of objects that separation removed
    assert len(weighed) > 12 * 10
    assert np.mean(np.array(weighed) > 5) > 0.95


def test_pickled_without_the_images(small_data: Path) -> None:
    samples = Samples(find_pairs(small_data), BINARY, (48, 64))
    samples.fill_cache()
    dataset = TrainingSet(samples, "light", 0, (48, 64))
    image, shares = dataset[1, 2, 3]
    packed = pickle.dumps(dataset)
    assert len(packed) < 20_000
    again = pickle.loads(packed)[1, 2, 3]
    assert torch.equal(again[0], image)
    assert torch.equal(again[1], shares)


def test_many_pairs_are_sent_to_workers_fast() -> None:
    pairs = [Pair(Path(f"a/{n}.png"), Path(f"b/{n}.png"), str(n), None) for n in range(20_000)]
    samples = Samples(pairs, BINARY, (32, 48))
    packed = pickle.dumps(samples)
    assert len(packed) < 50 * len(pairs)
    assert b"pathlib" not in packed  # each would be reconstructed
    again = pickle.loads(packed)
    assert len(again) == len(pairs)
    with pytest.raises(FileNotFoundError, match="19999"):
        again[19_999]


def test_images_reduced_by_a_factor_keep_their_sizes(make_pair: MakePair) -> None:
    pairs = [
        make_pair("a", noise(32, 48, 3), half(32, 48)),
        make_pair("b", noise(40, 20, 3), half(40, 20)),
    ]
    samples = Samples(pairs, BINARY, None, factor=0.5, target_scale=2)
    assert samples.sizes == [(16, 24), (20, 10)]
    for _ in range(2):  # decoded, then from the cache
        assert [part.shape for part in samples[0]] == [(32, 48, 3), (32, 48, 2)]
        assert [part.shape for part in samples[1]] == [(40, 20, 3), (40, 20, 2)]
        samples.fill_cache()
    assert samples.statistics()[0] == pytest.approx([0.5] * 3, abs=0.05)


def test_patches_of_samples(make_pair: MakePair) -> None:
    pairs = [make_pair("a", noise(64, 80, 3), half(64, 80))]
    samples = Samples(pairs, BINARY, None, target_scale=2, factor=0.5)
    full = samples[0][0]
    whole = TrainingSet(samples, "none", 0, (16, 24), patch=(16, 24))
    image, shares = whole[(0, 5, 0)]
    assert image.shape == (16, 24, 3)
    assert shares.shape == (32, 48, 2)
    small = TrainingSet(samples, "none", 0, (8, 12), patch=(16, 24))[(0, 5, 0)]
    assert [part.shape for part in small] == [(8, 12, 3), (16, 24, 2)]
    # the same window, reduced
    means = [float(part.float().mean()) for part in (image, small[0])]
    assert means[0] == pytest.approx(means[1], abs=1)
    assert full.shape == (64, 80, 3)


HEIGHT, WIDTH = 90, 120


def sample(labels: bool = False) -> Sample:
    """Pixels encode their position; one small object of class 1, and much of class 2."""
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


def test_the_same_numbers_cut_the_same_and_all_reach_every_pixel() -> None:
    whole, seen = sample(), np.zeros((HEIGHT, WIDTH), int)
    corners = [corner(cut_patch(whole, (32, 48), (0, 0, n))[0]) for n in range(600)]
    assert corners[:50] == [corner(cut_patch(whole, (32, 48), (0, 0, n))[0]) for n in range(50)]
    assert len(set(corners[:50])) > 40
    for top, left in corners:
        seen[top : top + 32, left : left + 48] += 1
    assert seen.min() > 0
    image, shares = whole  # a single class is cut anywhere
    bare = image, np.broadcast_to(np.uint8([255, 0, 0]), shares.shape)
    assert len({corner(cut_patch(bare, (32, 48), (0, 0, n))[0]) for n in range(50)}) > 40
    assert pad(whole, (HEIGHT, WIDTH))[0] is image  # arrays of the right size are not copied


def test_a_third_is_centred_on_rarer_classes_evenly() -> None:
    """Class 1, 9 pixels of 10,800, is the centre of a sixth of all patches."""
    draws = 3000
    whole = sample()
    middles = [cut_patch(whole, (16, 16), (7, 0, n))[1][8, 8] for n in range(draws)]
    counts = (np.array(middles) > 127).sum(axis=0)
    assert counts[1] / draws == pytest.approx(CENTRED / 2, abs=0.025)
    assert counts[2] / draws > CENTRED / 2 + 0.1


def test_small_images_are_padded() -> None:
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


@pytest.mark.parametrize(
    ("sizes", "patch", "expected"),
    [([(100, 100)], (50, 50), 4), ([(40, 40)], (64, 64), 1), ([(64, 64), (192, 64)], (64, 64), 2)],
)
def test_patches_per_image(
    sizes: list[tuple[int, int]], patch: tuple[int, int], expected: int
) -> None:
    assert patches_each(sizes, patch) == expected


CPU = torch.device("cpu")


def test_make_batch_layout() -> None:
    random = np.random.default_rng(0)
    images = torch.from_numpy(random.integers(0, 256, (2, 4, 6, 3), dtype=np.uint8))
    shares = torch.zeros(2, 8, 12, 2, dtype=torch.uint8)
    shares[..., 0], shares[..., 1] = 51, 204
    image, target, weight = make_batch((images, shares), CPU)
    assert image.shape == (2, 3, 4, 6)
    assert image.is_contiguous(memory_format=torch.channels_last)
    assert target.shape == (2, 2, 8, 12)
    assert weight.shape == (2, 8, 12)
    assert {image.dtype, target.dtype, weight.dtype} == {torch.float32}
    assert torch.equal(image, images.permute(0, 3, 1, 2) / 255)
    assert torch.allclose(target[:, 0], torch.tensor(0.2))
    assert torch.allclose(target[:, 1], torch.tensor(0.8))
    assert (weight == 1).all()


def test_make_batch_keeps_float_images() -> None:
    images = torch.linspace(-5, 300, 24).reshape(1, 2, 4, 3)
    image, _, _ = make_batch((images, torch.full((1, 2, 4, 2), 127, dtype=torch.uint8)), CPU)
    assert torch.equal(image, images.permute(0, 3, 1, 2))


BORDER = torch.tensor([[[3.0, 4.0, 0.0, 1.5]]])
CLASS_WEIGHTS = torch.tensor([0.5, 2.0])
MIXED = 0.25 * 0.5 + 0.75 * 2


@pytest.mark.parametrize(
    ("borders", "class_weights", "wanted"),
    [
        ([], None, [0, 128 / 255, 1, 1]),
        # ignored pixels have no weight, however near the border
        ([BORDER], None, [0, 5 * 128 / 255, 1, 2.5]),
        ([], CLASS_WEIGHTS, [0, MIXED * 128 / 255, 0.5, 1.25]),
        ([BORDER], CLASS_WEIGHTS, [0, (MIXED + 4) * 128 / 255, 0.5, 2.75]),
    ],
)
def test_make_batch_weights(
    borders: list[torch.Tensor], class_weights: torch.Tensor | None, wanted: list[float]
) -> None:
    # pixels: nothing valid, a half, whole, and one whose rounded planes sum to 256
    shares = torch.tensor([[[0, 0], [32, 96], [255, 0], [128, 128]]], dtype=torch.uint8)[None]
    image = torch.zeros(1, 1, 4, 1, dtype=torch.uint8)
    _, target, weight = make_batch([image, shares, *borders], CPU, class_weights)
    fractions = torch.tensor([[0, 0], [0.25, 0.75], [1, 0], [0.5, 0.5]])  # of void, finite
    assert torch.allclose(target[0, :, 0].T, fractions)
    assert weight.dtype == torch.float32
    assert torch.allclose(weight[0, 0], torch.tensor(wanted))


@given(st.lists(st.integers(0, 10**12), min_size=2, max_size=9).filter(any))
def test_balanced_weights_mean_one_and_are_equal_per_class(areas: list[int]) -> None:
    shares = np.array(areas) / sum(areas)
    weighed = balanced_weights(shares).double().numpy() * shares
    assert np.isclose(weighed.sum(), 1)
    assert np.allclose(weighed[shares > 0], weighed.max())
