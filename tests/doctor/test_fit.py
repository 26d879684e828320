"""Masks that do not fit their images are named."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from plainunet.config import DataConfig
from plainunet.dataset.classes import find_coding
from plainunet.dataset.pairs import Pair, find_pairs
from plainunet.dataset.resize import measure_ceiling
from plainunet.doctor.alignment import edge_evidence
from plainunet.doctor.diagnose import check, fix
from plainunet.doctor.findings import Finding
from plainunet.doctor.fit import (
    Fit,
    appearance,
    are_two_camps,
    draw_sample,
    find_inverted,
    measure_fits,
)
from plainunet.formats.images import read_image

from .conftest import mask_of, spoil

Scene = tuple[np.ndarray, np.ndarray]


def only(folder: Path, code: str) -> Finding:
    (finding,) = check(folder).findings
    assert finding.code == code
    assert finding.severity == "warning"
    return finding


def test_a_shifted_mask(scenes: Path) -> None:
    path = spoil(scenes, "03", np.roll(mask_of(scenes, "03"), (8, -6), axis=(0, 1)))
    finding = only(scenes, "shifted")
    assert finding.files[0] == path
    assert "6 pixels right and 8 up" in finding.message


@pytest.mark.parametrize(
    ("code", "change"),
    [
        ("flipped", np.fliplr),
        ("flipped", np.flipud),
        ("flipped", lambda mask: mask[::-1, ::-1]),
        ("inverted", lambda mask: 255 - mask),
    ],
)
def test_a_flipped_or_inverted_mask(
    scenes: Path, code: str, change: Callable[[np.ndarray], np.ndarray]
) -> None:
    path = spoil(scenes, "03", change(mask_of(scenes, "03")))
    assert only(scenes, code).files[0] == path


def test_a_mask_drawn_before_the_turn(scenes: Path) -> None:
    path = scenes / "images/03.png"
    exif = Image.Exif()
    exif[0x0112] = 3
    Image.open(path).save(path, exif=exif)
    finding = only(scenes, "exif")
    assert "(3)" in finding.message


def test_two_masks_exchanged(scenes: Path) -> None:
    one, other = mask_of(scenes, "03"), mask_of(scenes, "08")
    spoil(scenes, "03", other)
    spoil(scenes, "08", one)
    finding = only(scenes, "swapped")
    assert sorted(file.stem for file in finding.files) == ["03", "08"]


def test_names_out_of_step_are_one_finding(scenes: Path) -> None:
    masks = [mask_of(scenes, f"{number:02d}") for number in range(12)]
    for number in range(12):
        spoil(scenes, f"{number:02d}", masks[(number + 1) % 12])
    finding = only(scenes, "swapped")
    assert len(finding.files) >= 8
    assert finding.fix is None


# the sample


def test_only_a_sample_is_looked_at(scenes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spoil(scenes, "03", np.fliplr(mask_of(scenes, "03")))
    monkeypatch.setattr("plainunet.doctor.fit.draw_sample", lambda pairs, seed, area: [0, 1])
    assert check(scenes).findings == []


def test_a_sample_is_drawn_by_its_seed() -> None:
    pairs = [Pair(Path(f"{n}.png"), Path(f"{n}_m.png"), str(n), None) for n in range(1000)]
    chosen = draw_sample(pairs, seed=3)
    assert len(set(chosen)) == 64
    assert chosen == sorted(chosen) == draw_sample(pairs, seed=3)
    assert chosen != draw_sample(pairs, seed=4)
    assert draw_sample(pairs[:5]) == [0, 1, 2, 3, 4]
    assert len(draw_sample(pairs, area=1918 * 1280)) == 44
    assert len(draw_sample(pairs, area=1e9)) == 24


def test_evidence_comes_back_as_it_was(scenes: Path) -> None:
    pairs = find_pairs(scenes)
    coding, _ = find_coding([pair.mask for pair in pairs])
    for _ in range(2):  # measured, then remembered
        for pair, fit in zip(pairs, measure_fits(pairs, coding), strict=True):
            assert isinstance(fit, Fit)
            wanted = edge_evidence(read_image(pair.image), coding.read(pair.mask))
            for one, other in zip(fit.evidence, wanted, strict=True):
                np.testing.assert_allclose(one, other, rtol=1e-6)
            assert fit.appearance is not None
            assert fit.ceiling == measure_ceiling(coding.read(pair.mask), coding.num_classes)


# exchanged classes


def disc(seed: int, bright: bool = True) -> Scene:
    """A disc on a noisy ground, brighter or darker than it: [60, 80, 3] and its mask."""
    random = np.random.default_rng(seed)
    y, x = random.integers(20, 40), random.integers(25, 55)
    rows, columns = np.mgrid[:60, :80]
    ids = (np.hypot(rows - y, columns - x) < random.integers(8, 18)).astype(np.uint8)
    light = np.where(ids == bright, 160, 60)
    return (light[..., None] + random.integers(0, 40, (60, 80, 3))).astype(np.uint8), ids


def exchanged(ids: np.ndarray) -> np.ndarray:
    return np.where(ids == 255, ids, 1 - ids).astype(np.uint8)


def test_each_feature_changes_its_sign() -> None:
    image, ids = disc(0)
    ids[:20, :30] = 255
    right, wrong = appearance(image, ids), appearance(image, exchanged(ids))
    assert len(right) == 3
    assert json.loads(json.dumps(right)) == right
    np.testing.assert_allclose(right, -np.array(wrong), atol=1e-4)
    # little of it is disc, none of its border is, and the disc is bright
    assert right[0] < -1
    assert right[1] == pytest.approx(-np.log(49))
    assert right[2] > 0.5
    np.testing.assert_allclose(appearance(None, ids), right[:2])


@pytest.mark.parametrize("count", [6, 12, 40])
def test_one_mask_the_wrong_way_round(count: int) -> None:
    scenes = [disc(seed) for seed in range(count)]
    right = [appearance(*each) for each in scenes]
    assert find_inverted(right) == []
    image, ids = scenes[4]
    wrong = appearance(image, exchanged(ids))
    assert find_inverted([*right[:4], wrong, *right[5:]]) == [4]
    # without the image, and with pairs that could not be read
    wrong = appearance(None, exchanged(ids))
    assert find_inverted([None, *right[:4], wrong, None, *right[5:]]) == [5]


def test_some_of_many_the_wrong_way_round() -> None:
    found = [
        appearance(image, ids if number % 13 else exchanged(ids))
        for number, (image, ids) in enumerate(map(disc, range(40)))
    ]
    assert find_inverted(found) == [0, 13, 26, 39]


def test_half_of_the_masks_the_wrong_way_round(scenes: Path) -> None:
    odd = [f"{number:02d}" for number in range(0, 12, 2)]
    paths = {spoil(scenes, stem, 255 - mask_of(scenes, stem)) for stem in odd}
    finding = only(scenes, "inverted")
    assert set(finding.files) == paths
    result = fix(scenes, "inverted", config=DataConfig())
    assert result.result.findings == []
    assert mask_of(scenes, "00").mean() < 128


def test_two_camps() -> None:
    right = [appearance(*disc(seed)) for seed in range(12)]
    wrong = [[-each for each in some] for some in right]
    assert are_two_camps([None, *wrong[:6], *right[6:]])
    assert are_two_camps([*right[:10], *wrong[10:]])
    assert not are_two_camps([*right[:3], *wrong[3:5]])  # too few
    assert not are_two_camps(right)
    assert not are_two_camps(wrong)
    # water, which is dark, around an island or in a pond
    assert not are_two_camps([*right[:6], *([*each[:2], -each[2]] for each in wrong[6:])])
    # class 1 reaches the borders
    assert not are_two_camps([*wrong[:4], *([each[0], 0.0, each[2]] for each in right[4:])])


def test_a_set_of_two_kinds() -> None:
    # bright discs, and dark ones: neither is the other one's exchange
    scenes = [disc(seed, bright=seed % 3 > 0) for seed in range(30)]
    right = [appearance(*each) for each in scenes]
    assert find_inverted(right) == []
    for index in (0, 1):
        image, ids = scenes[index]
        wrong = appearance(image, exchanged(ids))
        assert find_inverted([*right[:index], wrong, *right[index + 1 :]]) == [index]


def test_no_inversion_is_found_where_nothing_tells() -> None:
    image, ids = disc(0)
    right = [appearance(*disc(seed)) for seed in range(12)]
    wrong = [[-each for each in some] for some in right]
    assert find_inverted([]) == []
    assert find_inverted([None] * 12) == []
    # too few to be a set; half of them, or all
    assert find_inverted([wrong[0], *right[1:5]]) == []
    assert find_inverted(wrong[:6] + right[6:]) == []
    assert find_inverted(wrong) == []
    # one mask of more classes
    assert appearance(image, ids * np.uint8(2)) == []
    assert find_inverted([wrong[0], *right[1:], []]) == []
    # masks of one class or none
    ignored = appearance(image, np.full_like(ids, 255))
    empty = appearance(image, np.zeros_like(ids))
    assert ignored == [0, 0, 0]
    assert empty == pytest.approx([-np.log(49), -np.log(49), 0])
    assert find_inverted([*right, ignored, empty]) == []
    assert not are_two_camps([*right, ignored, empty])
    assert appearance(np.full_like(image, 9), ids)[2] == 0


@pytest.mark.parametrize("dtype", [np.uint16, np.int32, np.float32])
def test_numbers_of_any_kind(dtype: type[np.generic]) -> None:
    image, ids = disc(0)
    same = appearance(image.astype(dtype)[..., :1], ids)
    assert same == pytest.approx(appearance(image[..., :1], ids), abs=0.01)


@pytest.mark.parametrize("name", ["isbi2012", "dsb2018"])
def test_real_membranes_and_nuclei(data_root: Path, name: str) -> None:
    paths = sorted((data_root / name / "images").glob("*.png"))[:40]
    masks = [read_image(path.parents[1] / "masks" / path.name)[..., 0] > 0 for path in paths]
    images = [read_image(path) for path in paths]
    right = [
        appearance(image, ids.astype(np.uint8)) for image, ids in zip(images, masks, strict=True)
    ]
    assert find_inverted(right) == []
    wrong = appearance(images[1], (~masks[1]).astype(np.uint8))
    assert find_inverted([right[0], wrong, *right[2:]]) == [1]
