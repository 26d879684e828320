"""What is seen of a data set, and the settings that follow from it, the machine and the time."""

import math
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from numpy.typing import NDArray

from plainunet.config import DataConfig, TrainConfig
from plainunet.dataset.coding import Values
from plainunet.dataset.dataset import SegmentationDataset
from plainunet.dataset.pairs import Pair
from plainunet.doctor.diagnose import check
from plainunet.training.plan import (
    Fingerprint,
    Machine,
    Plan,
    choose_growth,
    choose_size,
    growth_cost,
    make_plan,
    side_needed,
    take_fingerprint,
    training_command,
)

from ..folders import save

Ids = NDArray[np.uint8]
CODING = Values((0, 1, 2))


def take(
    folder: Path, masks: Sequence[Ids], images: Sequence[Ids] = (), part: str = "train"
) -> Fingerprint:
    """Write masks, which are their own images unless there are others, and look at them."""
    pairs = []
    for number, mask in enumerate(masks):
        file = save(folder / f"{number}.png", mask)
        image = save(folder / f"{number}_image.png", images[number]) if len(images) else file
        pairs.append(Pair(image, file, str(number), part))
    sizes = [(len(mask), len(mask[0])) for mask in masks]
    return take_fingerprint(pairs, sizes, CODING, {"a": 0.5, "b": 0.3, "c": 0.2})


def discs(diameters: list[int]) -> Ids:
    mask = np.zeros((200, 400), np.uint8)
    rows, columns = np.mgrid[:200, :400]
    for number, diameter in enumerate(diameters):
        row, column = 20 + 40 * (number % 4), 20 + 40 * (number // 4)
        mask[(rows - row) ** 2 + (columns - column) ** 2 < (diameter / 2) ** 2] = 1 + number % 2
    return mask


def test_the_smaller_objects_are_measured(tmp_path: Path) -> None:
    mask = discs([9] * 6 + [25] * 24)
    mask[199, 399] = 1  # a speck is no object
    seen = take(tmp_path, [mask] * 3)
    assert seen.smallest == pytest.approx(9, abs=0.7)
    assert seen.typical == pytest.approx(25, abs=0.7)
    assert seen.trained == 3
    assert seen.shares == {"a": 0.5, "b": 0.3, "c": 0.2}
    assert sorted(seen.kept) == [128, 256, 512]
    assert seen.kept[128] < seen.kept[512] == 1


def test_nothing_to_measure_and_images_too_small_to_be_reduced(tmp_path: Path) -> None:
    seen = take(tmp_path / "a", [np.zeros((40, 60), np.uint8)] * 3)
    assert (seen.smallest, seen.typical, seen.kept, seen.spread) == (None, None, {}, 1)
    assert take(tmp_path / "b", [discs([9] * 6)[:120, :120]] * 3).kept == {}


def test_how_far_classes_are_spread(tmp_path: Path) -> None:
    corner, dotted = np.zeros((2, 64, 64), np.uint8)
    corner[:16, :16] = 1
    dotted[8::16, 8::16] = 1
    both = dotted.copy()
    both[:32, :16] = 2
    for name, mask, spread in (("a", corner, 1 / 16), ("b", dotted, 1), ("c", both, 2 / 16)):
        assert take(tmp_path / name, [mask] * 3).spread == spread


def test_images_of_several_kinds_are_seen(tmp_path: Path) -> None:
    """Bright and dark ones, with little contrast in each."""
    noise = np.random.default_rng(0).integers(0, 2, (12, 40, 40), np.uint8)
    assert take(tmp_path / "a", noise).unlike < 0.1
    mixed = [mask * 20 + 200 * np.uint8(number % 2) for number, mask in enumerate(noise)]
    # 100 on each side of the middle, where values in an image differ by 10
    assert take(tmp_path / "b", noise, mixed).unlike == pytest.approx(10, 0.02)


@pytest.mark.parametrize(
    ("count", "turned", "upright"),
    [(20, False, True), (20, True, False), (6, True, True)],
    ids=["an upright side", "none", "too few to tell"],
)
def test_an_upright_side_is_seen(tmp_path: Path, count: int, turned: bool, upright: bool) -> None:
    """Sky above, and a horizon that differs; every second one may be turned."""
    scenes = np.zeros((count, 64, 64), np.uint8)
    for number, scene in enumerate(scenes):
        scene[: np.random.default_rng(number).integers(20, 44)] = 1
        scene[:] = scene[::-1] if turned and number % 2 == 0 else scene
    assert take(tmp_path, scenes).upright == upright


def test_only_training_masks_are_looked_at(tmp_path: Path) -> None:
    mask, gone = save(tmp_path / "a.png", discs([20])), tmp_path / "gone.png"
    pairs = [Pair(mask, mask, "a", "train"), Pair(gone, gone, "b", "val")]
    assert take_fingerprint(pairs, [(200, 400)] * 2, CODING, {}).trained == 1
    mask.write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"a\.png"):
        take_fingerprint(pairs, [(200, 400)] * 2, CODING, {})


@pytest.mark.parametrize(
    ("name", "ignore", "upright"),
    [("camvid", 11, True), ("dsb2018", None, False), ("isbi2012", None, False)],
)
def test_real_data(data_root: Path, name: str, ignore: int | None, upright: bool) -> None:
    dataset = SegmentationDataset.open(data_root / name, DataConfig(ignore=ignore))
    dataset = dataset.split(TrainConfig())
    seen = take_fingerprint(dataset.pairs, dataset.sizes, dataset.coding, {})
    assert seen.upright == upright
    assert seen.smallest is not None
    assert seen.typical is not None
    assert 2 < seen.smallest < seen.typical
    assert (seen.typical > 100) == (seen.spread < 0.5) == (name == "camvid")
    assert (seen.unlike > 1.5) == (name == "dsb2018")
    assert 0.9 < seen.kept[128] < seen.kept[256] < seen.kept[512] <= 1


def test_the_side_that_masks_need() -> None:
    kept = {128: 0.9, 256: 0.96, 512: 0.98}
    for lost, side in ((0.2, 64), (0.04, 256), (0.02, 512), (0.01, 1024)):
        assert side <= side_needed(kept, lost) * 1.001 <= 1.05 * side
    assert side_needed({}, 0.01) == 0


def test_sizes_of_other_areas() -> None:
    assert choose_size([(1280, 1918)], 512) == (416, 624)
    assert choose_size([(100, 100)], 512) == (96, 96)


@pytest.mark.parametrize(("side", "parts"), [(96, 2), (95, 1), (64, 1), (63, 0)])
def test_growth_begins_where_the_network_can(side: int, parts: int) -> None:
    growth, reason = choose_growth((side, 400), 32)
    assert len(growth) == parts
    assert reason


def test_what_growth_saves() -> None:
    assert growth_cost(()) == 1
    assert growth_cost(({"until": 0.5, "scale": 0.5},)) == pytest.approx(0.5 * 0.25 + 0.5)


LAPTOP = Machine(pixel=4e-6, memory=16 * 2**30, name="laptop")
CARS = Fingerprint(
    sizes=[(1280, 1918)] * 760,
    trained=608,
    shares={"background": 0.8, "thing": 0.2},
    kept={128: 0.9972, 256: 0.9988, 512: 0.9997},
    smallest=800.0,
    typical=700.0,
    spread=0.4,
    unlike=0.3,
    upright=False,
)
VESSELS = CARS._replace(
    sizes=[(960, 999)] * 20,
    trained=16,
    kept={128: 0.813, 256: 0.928, 512: 0.984},
    smallest=90.0,
    typical=300.0,
    spread=0.99,
)
STREETS = CARS._replace(
    sizes=[(360, 480)] * 468,
    trained=367,
    kept={128: 0.935, 256: 0.986, 512: 1.0},
    smallest=3.0,
    typical=200.0,
    spread=0.1,
    upright=True,
)
SMALL = CARS._replace(
    sizes=[(200, 300)] * 9,
    trained=7,
    kept={128: 0.99, 256: 0.999, 512: 1.0},
    smallest=9.0,
    typical=100.0,
    spread=0.8,
)


def plan(seen: Fingerprint, seconds: float = 600, **given: Any) -> Plan:
    return make_plan(seen, LAPTOP, seconds, given)


def values(seen: Fingerprint, seconds: float = 600, **given: Any) -> dict[str, Any]:
    return {name: value for name, (value, _) in plan(seen, seconds, **given).items()}


@pytest.mark.parametrize("seen", [CARS, VESSELS, STREETS, SMALL])
@pytest.mark.parametrize("seconds", [30, 600, 20_000])
def test_every_line_has_a_reason_and_a_place_in_the_settings(
    seen: Fingerprint, seconds: float
) -> None:
    made = plan(seen, seconds)
    assert all(reason for _, reason in made.values())
    assert ("size" in made) != ("patch" in made)
    config = TrainConfig(**{name: value for name, (value, _) in made.items()})
    smallest = min(config.window) * min([g.scale for g in config.growth] + [1])
    assert smallest >= 2 ** (config.depth + 1)


@pytest.mark.parametrize("seen", [CARS, SMALL])
@pytest.mark.parametrize("seconds", [100, 300, 1500, 6000])
def test_more_time_makes_larger_images_or_wider_networks(seen: Fingerprint, seconds: float) -> None:
    def cost(made: dict[str, Any]) -> float:
        return float(np.prod(made["size"]) * made["base_channels"])

    assert cost(values(seen, seconds)) <= cost(values(seen, 2 * seconds))


def test_a_faster_machine_sees_more() -> None:
    fast = make_plan(CARS, LAPTOP._replace(pixel=1e-7), 600, {})
    assert np.prod(fast["size"][0]) > 2 * np.prod(values(CARS)["size"])


def test_thin_things_are_learnt_from_patches() -> None:
    made = values(VESSELS)
    assert 96 <= made["patch"][0] <= 320
    assert 0.35 <= made["factor"] < 1
    assert made["growth"] == ()
    said = plan(VESSELS)["patch"][1]
    assert "a third of the patches" in said
    assert "keep a Dice of" in plan(VESSELS)["factor"][1]
    # however much time there is, none is larger than an image
    assert values(VESSELS, 1e6, patch=(256, 256))["patch"] == (256, 256)


def test_small_things_are_learnt_from_patches_where_they_are_large_enough() -> None:
    cells = VESSELS._replace(sizes=[(512, 512)] * 20, kept=CARS.kept, typical=70.0)
    assert 0.8 < values(cells)["factor"] <= 1
    assert "typical objects are 70 pixels across" in plan(cells)["factor"][1]
    # as parts of an image they need not be seen in full
    assert "size" in values(cells._replace(typical=300.0))
    # nor where a part does not show what the whole does, unless nothing would be left of masks
    assert "size" in values(cells._replace(spread=0.3))
    lost = {128: 0.2, 256: 0.4, 512: 0.7}
    assert "patch" in values(cells._replace(spread=0.3, kept=lost))
    # and with time, images are seen whole
    assert values(cells, 9000)["size"] == (512, 512)


def test_large_things_are_learnt_from_whole_images() -> None:
    made = values(CARS)
    assert made["size"][0] < 400
    assert len(made["growth"]) == 2


def test_images_are_never_enlarged_and_never_too_small() -> None:
    made = values(SMALL, 1e6)
    assert (made["size"], made["base_channels"]) == ((192, 304), 32)
    assert values(SMALL._replace(spread=1.0), 1)["patch"] == (96, 96)
    assert min(values(SMALL._replace(typical=900.0), 1)["size"]) >= 64


def test_small_images_have_shallow_networks() -> None:
    tiny = SMALL._replace(sizes=[(24, 40)] * 9)
    assert plan(tiny)["depth"] == (2, "the smallest picture has a side of 24 pixels")
    assert values(SMALL)["depth"] == 4


def test_what_is_given_stays_and_the_rest_suits_it() -> None:
    given = {"base_channels": 64, "batch_size": 3, "augment": "none", "depth": 2}
    made = plan(CARS, **given)
    for name, value in given.items():
        assert made[name] == (value, "as given")
    assert values(CARS, patch=(64, 64))["patch"] == (64, 64)
    assert "size" not in plan(CARS, patch=(64, 64))
    assert values(VESSELS, size=(96, 96))["size"] == (96, 96)


@pytest.mark.parametrize("optimizer", get_args(TrainConfig.model_fields["optimizer"].annotation))
def test_the_learning_rate_suits_the_optimiser(optimizer: str) -> None:
    rate, reason = plan(CARS, optimizer=optimizer)["learning_rate"]
    assert (rate == 6e-3) == (optimizer == "muon")
    assert 1e-3 <= rate <= 0.1
    assert reason == "goes with it"
    assert plan(CARS, optimizer=optimizer, learning_rate=1.0)["learning_rate"][0] == 1


@pytest.mark.parametrize("side", [64, 256, 512, 4096])
def test_images_are_larger_than_the_patches_that_are_asked_for(side: int) -> None:
    factor, reason = plan(CARS, patch=(side, side))["factor"]
    native = math.sqrt(CARS.sizes[0][0] * CARS.sizes[0][1])
    assert factor == 1 or factor * native >= 2 * side
    assert "patches across" in reason


def test_images_of_several_kinds_are_normalised_one_by_one() -> None:
    assert values(CARS)["normalisation"] == "batch"
    normalisation, reason = plan(CARS._replace(unlike=3.0))["normalisation"]
    assert normalisation == "group"
    assert "3.0 of what" in reason


def test_augmentation_turns_what_has_no_upright_side() -> None:
    assert values(SMALL)["augment"] == "strong"
    assert values(SMALL._replace(upright=True))["augment"] == "light"
    assert values(CARS)["augment"] == "light"  # there are many


def test_a_batch_has_room() -> None:
    assert values(CARS)["accumulation"] == 1
    given = {"size": (512, 768), "batch_size": 8}
    little = make_plan(CARS, LAPTOP._replace(memory=2**30), 600, given)
    # 8 x 512 x 768 pixels of 1320 bytes are 3.9 GiB, ten times as much as there is room for
    assert little["accumulation"][0] == 8
    assert "3.9 of 1 GiB" in little["accumulation"][1]


def test_rare_classes_weigh_more_where_the_loss_counts_pixels() -> None:
    rare = STREETS._replace(shares={"street": 0.99, "pole": 0.01})
    assert values(rare)["class_weights"] == "none"
    assert values(rare, loss="cross-entropy")["class_weights"] == "balanced"
    assert values(STREETS, loss="cross-entropy")["class_weights"] == "none"
    assert "pole, covers 1 %" in plan(rare)["class_weights"][1]


def test_the_command_that_trains(small_data: Path) -> None:
    line = training_command(check(small_data))
    assert line == f"plainunet train {small_data} --out runs/{small_data.name}"


def test_pytorch_is_not_loaded() -> None:
    code = (
        "import sys, plainunet.training.plan, plainunet.terminal.tables, "
        "plainunet.terminal.screen, plainunet.doctor.page, plainunet.doctor.diagnose\n"
        "print([name for name in ('torch', 'scipy', 'albumentations') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
