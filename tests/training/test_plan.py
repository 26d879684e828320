import math
import subprocess
import sys
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest

from plainunet.config import TrainConfig
from plainunet.doctor.diagnose import check
from plainunet.training.plan import Fingerprint, Machine, Plan, make_plan, training_command

LAPTOP = Machine(pixel=4e-6, memory=16 * 2**30, name="laptop")
SHARES = {"background": 0.8, "thing": 0.2}
CARS = Fingerprint(
    sizes=[(1280, 1918)] * 760,
    trained=608,
    shares=SHARES,
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
    assert min(config.window) * min([g.scale for g in config.growth] + [1]) >= 2 ** (
        config.depth + 1
    )


@pytest.mark.parametrize("seen", [CARS, SMALL])
@pytest.mark.parametrize("seconds", [100, 300, 1500, 6000])
def test_more_time_makes_larger_pictures_or_wider_networks(
    seen: Fingerprint, seconds: float
) -> None:
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
    # however much time there is, none is larger than a picture
    much = values(VESSELS, 1e6, patch=(256, 256))
    assert much["patch"] == (256, 256)


def test_small_things_are_learnt_from_patches_where_they_are_large_enough() -> None:
    cells = VESSELS._replace(sizes=[(512, 512)] * 20, kept=CARS.kept, typical=70.0)
    assert 0.8 < values(cells)["factor"] <= 1
    assert "typical objects are 70 pixels across" in plan(cells)["factor"][1]
    # as parts of a picture they need not be seen in full
    assert "size" in values(cells._replace(typical=300.0))
    # nor where a part does not show what the whole does, unless nothing would be left of masks
    assert "size" in values(cells._replace(spread=0.3))
    lost = {128: 0.2, 256: 0.4, 512: 0.7}
    assert "patch" in values(cells._replace(spread=0.3, kept=lost))
    # and with time, pictures are seen whole
    assert values(cells, 9000)["size"] == (512, 512)


def test_large_things_are_learnt_from_whole_pictures() -> None:
    made = values(CARS)
    assert made["size"][0] < 400
    assert len(made["growth"]) == 2


def test_pictures_are_never_enlarged_and_never_too_small() -> None:
    made = values(SMALL, 1e6)
    assert made["size"] == (192, 304)
    assert made["base_channels"] == 32
    assert values(SMALL._replace(spread=1.0), 1)["patch"] == (96, 96)
    assert min(values(SMALL._replace(typical=900.0), 1)["size"]) >= 64


def test_small_pictures_have_shallow_networks() -> None:
    tiny = SMALL._replace(sizes=[(24, 40)] * 9)
    assert plan(tiny)["depth"] == (2, "the smallest picture has a side of 24 pixels")
    assert values(SMALL)["depth"] == 4


def test_what_is_given_stays_and_the_rest_suits_it() -> None:
    given = {"base_channels": 64, "batch_size": 3, "augment": "none", "depth": 2}
    made = plan(CARS, 600, **given)
    for name, value in given.items():
        assert made[name] == (value, "as given")
    assert values(CARS, 600, patch=(64, 64))["patch"] == (64, 64)
    assert "size" not in plan(CARS, 600, patch=(64, 64))


@pytest.mark.parametrize("optimizer", get_args(TrainConfig.model_fields["optimizer"].annotation))
def test_the_learning_rate_suits_the_optimiser(optimizer: str) -> None:
    rate, reason = plan(CARS, 600, optimizer=optimizer)["learning_rate"]
    assert (rate == 6e-3) == (optimizer == "muon")
    assert 1e-3 <= rate <= 0.1
    assert reason == "goes with it"
    assert plan(CARS, 600, optimizer=optimizer, learning_rate=1.0)["learning_rate"][0] == 1


@pytest.mark.parametrize("side", [64, 256, 512, 4096])
def test_pictures_are_larger_than_the_patches_that_are_asked_for(side: int) -> None:
    made = values(CARS, 600, patch=(side, side))
    native = math.sqrt(CARS.sizes[0][0] * CARS.sizes[0][1])
    assert made["factor"] == 1 or made["factor"] * native >= 2 * side
    assert "patches across" in plan(CARS, 600, patch=(side, side))["factor"][1]
    assert values(VESSELS, 600, size=(96, 96))["size"] == (96, 96)


def test_pictures_of_several_kinds_are_normalised_one_by_one() -> None:
    assert values(CARS)["normalisation"] == "batch"
    made = plan(CARS._replace(unlike=3.0))["normalisation"]
    assert made[0] == "group"
    assert "3.0 of what" in made[1]


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
