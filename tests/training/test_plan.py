"""The settings chosen from the statistics of a dataset, the machine and the budget."""

import math
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest

from plainunet.config import TrainConfig
from plainunet.doctor.diagnose import check
from plainunet.training.fingerprint import Fingerprint
from plainunet.training.plan import (
    Machine,
    Plan,
    choose_growth,
    choose_size,
    count_passes,
    growth_cost,
    make_plan,
    side_needed,
    training_command,
)


def test_side_needed() -> None:
    ceilings = {128: 0.9, 256: 0.96, 512: 0.98}
    for lost, side in ((0.2, 64), (0.04, 256), (0.02, 512), (0.01, 1024)):
        assert side <= side_needed(ceilings, lost) * 1.001 <= 1.05 * side
    assert side_needed({}, 0.01) == 0


def test_choose_size_of_another_area() -> None:
    assert choose_size([(1280, 1918)], 512) == (416, 624)
    assert choose_size([(100, 100)], 512) == (96, 96)


@pytest.mark.parametrize(("side", "stages"), [(96, 2), (95, 1), (64, 1), (63, 0)])
def test_progressive_resizing_fits_the_minimum_size(side: int, stages: int) -> None:
    growth, reason = choose_growth((side, 400), 32)
    assert len(growth) == stages
    assert reason


def test_cost_of_progressive_resizing() -> None:
    assert growth_cost(()) == 1
    assert growth_cost(({"until": 0.5, "scale": 0.5},)) == pytest.approx(0.5 * 0.25 + 0.5)


def test_samples_of_progressive_resizing() -> None:
    """Each stage takes its fraction of the time, and a step its fixed part at every size."""
    assert count_passes(100, 1, 3) == 25
    half = ({"until": 0.5, "scale": 0.5},)
    assert count_passes(100, 0, 4, half) == pytest.approx(50 / 1 + 50 / 4)
    assert count_passes(100, 1, 4, half) == pytest.approx(50 / 2 + 50 / 5)


LAPTOP = Machine(pixel=4e-6, memory=16 * 2**30, name="laptop", step=0.04)
H100 = Machine(4e-9, 79 * 2**30, "H100", 0.012, {16: 1, 32: 2.2, 64: 5}, large_batches=True)
CARD = Machine(4e-8, 8 * 2**30, "8 GiB", 0.015, {16: 1, 32: 2.6, 64: 8}, large_batches=True)


def fingerprint(
    size: tuple[int, int],
    count: int,
    ceilings: Sequence[float],
    objects: tuple[float, float],
    **other: Any,
) -> Fingerprint:
    """Of `count` images of one size; `objects`: diameters of the smaller and typical ones."""
    return Fingerprint(
        sizes=[size] * count,
        trained=round(0.8 * count),
        shares={"background": 0.8, "thing": 0.2},
        ceilings=dict(zip((128, 256, 512), ceilings, strict=True)),
        smallest=objects[0],
        typical=objects[1],
        variation=0.3,
        **{"upright": False, **other},
    )


CARS = fingerprint((1280, 1918), 760, (0.9972, 0.9988, 0.9997), (800, 700), spread=0.4)
VESSELS = fingerprint((960, 999), 20, (0.813, 0.928, 0.984), (90, 300), spread=0.99)
STREETS = fingerprint((360, 480), 468, (0.935, 0.986, 1), (3, 200), spread=0.1, upright=True)
SMALL = fingerprint((200, 300), 9, (0.99, 0.999, 1), (9, 100), spread=0.8)


def plan(stats: Fingerprint, seconds: float = 600, **given: Any) -> Plan:
    return make_plan(stats, LAPTOP, seconds, given)


def values(stats: Fingerprint, seconds: float = 600, **given: Any) -> dict[str, Any]:
    return {name: value for name, (value, _) in plan(stats, seconds, **given).items()}


@pytest.mark.parametrize("stats", [CARS, VESSELS, STREETS, SMALL])
@pytest.mark.parametrize("seconds", [30, 600, 20_000])
def test_every_planned_setting_is_valid_and_has_a_reason(
    stats: Fingerprint, seconds: float
) -> None:
    made = plan(stats, seconds)
    assert all(reason for _, reason in made.values())
    assert ("size" in made) != ("patch" in made)
    config = TrainConfig(**{name: value for name, (value, _) in made.items()})
    smallest = min(config.window) * min([g.scale for g in config.growth] + [1])
    assert smallest >= 2 ** (config.depth + 1)


@pytest.mark.parametrize("stats", [CARS, SMALL])
@pytest.mark.parametrize("seconds", [100, 300, 1500, 6000])
def test_more_time_allows_larger_images_or_networks(stats: Fingerprint, seconds: float) -> None:
    def cost(made: dict[str, Any]) -> float:
        return float(np.prod(made["size"]) * made["base_channels"])

    assert cost(values(stats, seconds)) <= cost(values(stats, 2 * seconds))


def test_a_faster_machine_trains_on_larger_images() -> None:
    fast = make_plan(CARS, LAPTOP._replace(pixel=1e-7), 600, {})
    assert np.prod(fast["size"][0]) > 2 * np.prod(values(CARS)["size"])


def test_patches_for_thin_objects() -> None:
    made = values(VESSELS)
    assert 96 <= made["patch"][0] <= 320
    assert 0.35 <= made["factor"] < 1
    assert made["growth"] == ()
    assert "99%" in plan(VESSELS)["patch"][1]  # the spread
    # a patch is never larger than an image
    assert values(VESSELS, 1e6, patch=(256, 256))["patch"] == (256, 256)


def test_patches_for_small_objects() -> None:
    cells = VESSELS._replace(sizes=[(512, 512)] * 20, ceilings=CARS.ceilings, typical=70.0)
    assert 0.8 < values(cells)["factor"] <= 1
    assert "70 pixels" in plan(cells)["factor"][1]
    # larger objects do not need full resolution
    assert "size" in values(cells._replace(typical=300.0))
    # no patches if they show fewer classes than the image, unless downscaling loses the objects
    assert "size" in values(cells._replace(spread=0.3))
    lost = {128: 0.2, 256: 0.4, 512: 0.7}
    assert "patch" in values(cells._replace(spread=0.3, ceilings=lost))
    # no patches with enough time for whole images
    assert values(cells, 9000)["size"] == (512, 512)
    # nor for large objects
    made = values(CARS)
    assert made["size"][0] < 400
    assert len(made["growth"]) == 2


def test_patches_are_not_wider_than_narrow_images() -> None:
    lines = VESSELS._replace(sizes=[(256, 4096)] * 20)
    made = values(lines, 1200)
    height, width = made["patch"]
    assert height <= made["factor"] * 256 < width


def test_one_small_image_does_not_decide_the_depth() -> None:
    assert values(CARS._replace(sizes=[*CARS.sizes, (30, 40)]))["depth"] == 4


def test_group_normalisation_of_patches_only_if_images_need_no_tiles() -> None:
    """The statistics of a group are those of the whole image."""
    varied = VESSELS._replace(variation=3.0)
    assert values(varied)["normalisation"] == "group"
    large = varied._replace(sizes=[(6000, 6000)] * 20, typical=100.0)
    assert "patch" in values(large)
    assert values(large)["normalisation"] == "batch"
    assert "tiles" in plan(large)["normalisation"][1]


def test_memory_that_is_unknown_or_needed_by_many_classes() -> None:
    unknown = make_plan(CARS, LAPTOP._replace(memory=math.inf), 600, {})
    assert unknown["gradient_accumulation"][0] == 1
    assert "inf" not in unknown["gradient_accumulation"][1]
    many = CARS._replace(shares=dict.fromkeys(map(str, range(150)), 1 / 150))
    given = {"size": (512, 512), "batch_size": 8}
    assert values(many, **given)["gradient_accumulation"] == 4
    assert values(CARS, **given)["gradient_accumulation"] == 1


def test_images_are_never_enlarged_and_never_too_small() -> None:
    made = values(SMALL, 1e6)
    assert (made["size"], made["base_channels"]) == ((192, 304), 32)
    assert values(SMALL._replace(spread=1.0), 1)["patch"] == (96, 96)
    assert min(values(SMALL._replace(typical=900.0), 1)["size"]) >= 64


def test_a_narrower_network_on_larger_images_if_time_is_short() -> None:
    short, usual = values(CARS, 300), values(CARS, 300, base_channels=16)
    assert short["base_channels"] == 8
    assert np.prod(short["size"]) > 1.3 * np.prod(usual["size"])
    assert short["epochs"] > usual["epochs"]
    assert "larger images" in plan(CARS, 300)["base_channels"][1]
    assert values(CARS, 1200)["base_channels"] == 16
    # many classes need the width, and small images are affordable with it
    many = CARS._replace(shares=dict.fromkeys("abcdefgh", 0.125))
    assert values(many, 300)["base_channels"] == 16
    assert values(SMALL, 1200)["base_channels"] == 16
    assert values(CARS, 1200, base_channels=8)["base_channels"] == 8


def test_pretrained_weights_are_trained_more_gently() -> None:
    rate, reason = plan(CARS, pretrained="best.safetensors")["learning_rate"]
    assert rate == plan(CARS)["learning_rate"][0] / 4
    assert "pretrained" in reason
    assert values(CARS, pretrained="best.safetensors", learning_rate=0.1)["learning_rate"] == 0.1


def test_given_settings_are_kept() -> None:
    given = {"base_channels": 64, "batch_size": 3, "augment": "none", "depth": 2}
    made = values(CARS, **given)
    assert {name: made[name] for name in given} == given
    assert values(CARS, patch=(64, 64))["patch"] == (64, 64)
    assert "size" not in plan(CARS, patch=(64, 64))
    assert values(VESSELS, size=(96, 96))["size"] == (96, 96)


@pytest.mark.parametrize("optimizer", get_args(TrainConfig.model_fields["optimizer"].annotation))
def test_learning_rate_of_the_optimiser(optimizer: str) -> None:
    rate, reason = plan(CARS, optimizer=optimizer)["learning_rate"]
    assert (rate == 6e-3) == (optimizer == "muon")
    assert 1e-3 <= rate <= 0.1
    assert optimizer in reason
    assert plan(CARS, optimizer=optimizer, learning_rate=1.0)["learning_rate"][0] == 1


@pytest.mark.parametrize("side", [64, 256, 512, 4096])
def test_images_are_larger_than_given_patches(side: int) -> None:
    factor, reason = plan(CARS, patch=(side, side))["factor"]
    native = math.sqrt(CARS.sizes[0][0] * CARS.sizes[0][1])
    assert factor == 1 or factor * native >= 2 * side
    assert f"{factor * native / side:.1f} patches" in reason


TINY = SMALL._replace(sizes=[(24, 40)] * 9)
RARE = STREETS._replace(shares={"street": 0.99, "pole": 0.01})


@pytest.mark.parametrize(
    ("stats", "given", "name", "value", "reason"),
    [
        (TINY, {}, "depth", 2, "24 pixels"),  # the smallest side
        (SMALL, {}, "depth", 4, ""),
        (CARS, {}, "normalisation", "batch", ""),
        (CARS._replace(variation=3.0), {}, "normalisation", "group", "3.0"),
        (SMALL, {}, "augment", "strong", ""),
        (SMALL._replace(upright=True), {}, "augment", "light", ""),
        (SMALL._replace(upright=True, trained=7), {}, "augment", "light", "add --augment strong"),
        (CARS, {}, "augment", "mild", "times"),  # many images for the time
        (SMALL, {}, "weight_decay", 0.3, "overfit"),
        (SMALL, {"optimizer": "sgd"}, "weight_decay", 0.01, "default for sgd"),
        (SMALL, {"pretrained": True}, "weight_decay", 0.01, "pretrained"),
        (CARS, {}, "weight_decay", 0.01, "times"),
        (CARS, {}, "gradient_accumulation", 1, ""),
        (RARE, {}, "class_weights", "none", "pole, covers 1 %"),
        # the loss is a mean over pixels
        (RARE, {"loss": "cross-entropy"}, "class_weights", "balanced", ""),
        (STREETS, {"loss": "cross-entropy"}, "class_weights", "none", ""),
    ],
)
def test_settings_chosen_from_the_data(
    stats: Fingerprint, given: dict[str, Any], name: str, value: Any, reason: str
) -> None:
    chosen, why = plan(stats, **given)[name]
    assert chosen == value
    assert reason in why


def test_with_more_time_images_are_augmented_more() -> None:
    chosen = [make_plan(CARS, LAPTOP, seconds, {})["augment"] for seconds in (600, 100_000)]
    assert [name for name, _ in chosen] == ["mild", "light"]
    assert "608" in chosen[1][1]


def test_gradient_accumulation_fits_the_memory() -> None:
    given = {"size": (512, 768), "batch_size": 8}
    micro_batches, why = make_plan(CARS, LAPTOP._replace(memory=2**30), 600, given)[
        "gradient_accumulation"
    ]
    # 8 x 512 x 768 pixels of 1400 bytes are 4.1 GiB, ten times the allowed memory
    assert micro_batches == 8
    assert "4.1 of 1 GiB" in why


@pytest.mark.parametrize("machine", [H100, CARD], ids=["H100", "8 GiB"])
@pytest.mark.parametrize("stats", [CARS, VESSELS, STREETS, SMALL])
@pytest.mark.parametrize("seconds", [90, 900, 3600])
def test_plans_for_gpus_fit_the_memory(
    machine: Machine, stats: Fingerprint, seconds: float
) -> None:
    made = {name: value for name, (value, _) in make_plan(stats, machine, seconds, {}).items()}
    side = made["patch" if "patch" in made else "size"]
    images = made["batch_size"] / made["gradient_accumulation"]
    assert images * side[0] * side[1] * 1320 * made["base_channels"] / 16 <= 0.4 * machine.memory
    assert 8 <= made["batch_size"] <= max(8, min(32, stats.trained))
    rate = 6e-3 * math.sqrt(made["batch_size"] / 8)
    assert made["learning_rate"] == pytest.approx(rate, rel=1e-3)
    TrainConfig(**made)


def test_plans_for_a_large_gpu_use_it() -> None:
    short, long = (make_plan(CARS, H100, seconds, {}) for seconds in (90, 900))
    # more images at a time in a short run, a wider network in a long one
    assert short["batch_size"][0] == 32
    assert short["learning_rate"][0] == pytest.approx(2 * 6e-3)
    assert (short["base_channels"][0], long["base_channels"][0]) == (16, 64)
    for made in (short, long):
        batch, base, (height, width) = (
            made[name][0] for name in ("batch_size", "base_channels", "size")
        )
        assert 0.15 < batch * height * width * 1320 * base / 16 / H100.memory <= 0.4
    # a tenth of the pixels at a time: full at 8 images, and wide networks take longer
    assert make_plan(CARS, CARD, 90, {})["batch_size"][0] == 8
    assert make_plan(CARS, CARD, 90, {})["base_channels"][0] == 16


def test_a_given_batch_or_a_cpu_keeps_its_learning_rate() -> None:
    assert make_plan(CARS, H100, 90, {"batch_size": 32})["learning_rate"][0] == 6e-3
    assert make_plan(CARS, H100, 90, {"optimizer": "sgd"})["learning_rate"][0] == 4 * 5e-2
    made = make_plan(STREETS, H100._replace(large_batches=False), 900, {})
    assert (made["batch_size"][0], made["learning_rate"][0]) == (8, 6e-3)


def test_steps_with_a_slow_optimiser_leave_less_time_for_pixels() -> None:
    slow = make_plan(CARS, LAPTOP._replace(step=0.4), 600, {})
    assert np.prod(slow["size"][0]) < np.prod(values(CARS)["size"])
    assert slow["epochs"][0] < values(CARS)["epochs"]


def test_training_command(small_data: Path) -> None:
    line = training_command(check(small_data))
    assert line == f"plainunet train {small_data} --out runs/{small_data.name}"


def test_planning_does_not_load_pytorch() -> None:
    code = (
        "import sys, plainunet.training.plan, plainunet.terminal.tables, "
        "plainunet.terminal.screen, plainunet.doctor.page, plainunet.doctor.diagnose\n"
        "print([name for name in ('torch', 'scipy', 'albumentations') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
