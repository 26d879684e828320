"""What a run fills in from the data, and what it refuses before it begins."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from plainunet.training.events import Event, Note

from plainunet.config import DataConfig, Growth, TrainConfig
from plainunet.dataset.coding import Values
from plainunet.dataset.dataset import SegmentationDataset
from plainunet.training.plan import choose_size
from plainunet.training.schedule import size_in
from plainunet.training.train import check_window, require_apart, understand


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        ([(48, 64)], (48, 64)),
        ([(256, 256)], (256, 256)),
        ([(512, 512)], (256, 256)),
        ([(1280, 1918)], (208, 320)),  # Carvana: 209.1 x 313.4
        ([(1918, 1280)], (320, 208)),
        ([(20, 20)], (32, 32)),
        ([(100, 100), (100, 100), (900, 900)], (96, 96)),  # the median, not the mean
        ([(64, 64), (128, 256)], (96, 160)),
        ([(20, 2000)], (32, 2000)),
    ],
)
def test_choose_size(sizes: list[tuple[int, int]], expected: tuple[int, int]) -> None:
    assert choose_size(sizes) == expected


@given(height=st.integers(1, 5000), width=st.integers(1, 5000))
def test_a_chosen_size_is_made_of_16s(height: int, width: int) -> None:
    for side in choose_size([(height, width)]):
        assert side % 16 == 0
        assert side >= 32


@given(height=st.integers(200, 4000), width=st.integers(200, 4000))
def test_a_chosen_size_is_the_picture_reduced_to_about_256_squared(height: int, width: int) -> None:
    exact = np.array([height, width]) * min(1.0, 256 / np.sqrt(height * width))
    chosen = np.array(choose_size([(height, width)]))
    assert (np.abs(chosen - exact)[exact >= 32] <= 8).all()
    assert chosen.prod() <= 256**2 * (1 + 8 / exact).prod() or chosen.min() == 32


def test_the_size_grows_epoch_by_epoch() -> None:
    config = TrainConfig(
        epochs=10,
        size=(100, 64),
        growth=(Growth(until=0.3, scale=0.25), Growth(until=0.8, scale=0.5)),
    )
    sizes = [size_in(epoch, config) for epoch in range(10)]
    assert sizes == [(25, 16)] * 3 + [(50, 32)] * 5 + [(100, 64)] * 2
    assert size_in(0, TrainConfig(size=(100, 64))) == (100, 64)


@given(epochs=st.integers(1, 40), until=st.floats(0.01, 0.99))
def test_every_run_ends_at_its_full_size(epochs: int, until: float) -> None:
    config = TrainConfig(epochs=epochs, size=(64, 64), growth=(Growth(until=until, scale=0.5),))
    # only epochs at this size are kept: without one, there is no checkpoint
    assert size_in(epochs - 1, config) == (64, 64)


def write_pairs(folder: Path, *values: int) -> Path:
    for number in range(3):
        mask = np.zeros((40, 60), np.uint8)
        for column, value in enumerate(values):
            mask[:, 10 * column : 10 * column + 10] = value
        mask[:, 10 * len(values) :] = values[0]
        Image.fromarray(mask).save(folder / f"{number}_mask.png")
        Image.fromarray(mask).save(folder / f"{number}.png")
    return folder


def ready(folder: Path, events: list[Event], **settings: object) -> TrainConfig:
    config = TrainConfig(**{"depth": 2, **settings})
    dataset = SegmentationDataset.open(folder, config)
    config = understand(dataset, config, events.append)[1]
    check_window(config, events.append)
    return config


@pytest.mark.parametrize(
    ("values", "names"),
    [
        ((0, 255), ("background", "foreground")),
        ((0, 1, 2), ("class 0", "class 1", "class 2")),
    ],
)
def test_classes_and_size_are_filled_in(
    tmp_path: Path, values: tuple[int, ...], names: tuple[str, ...]
) -> None:
    events: list[Event] = []
    config = ready(write_pairs(tmp_path, *values), events, epochs=3)
    assert config == TrainConfig(depth=2, epochs=3, classes=names, size=(32, 64))
    text = "\n".join(event.text for event in events if isinstance(event, Note))
    for said in ("3 pairs: 2 to train, 1 to validate", "size 32 x 64", f"{names[1]} 16.7%"):
        assert said in text


def test_the_clock_chooses_the_size_later(tmp_path: Path) -> None:
    config = TrainConfig(budget=60.0)
    dataset = SegmentationDataset.open(write_pairs(tmp_path, 0, 1))
    assert understand(dataset, config, lambda _: None)[1].size is None


def test_patches_are_cut_from_pictures_as_they_are(tmp_path: Path) -> None:
    events: list[Event] = []
    config = ready(write_pairs(tmp_path, 0, 1), events, patch=(16, 24), factor=0.5)
    assert (config.size, config.patch, config.window) == (None, (16, 24), (16, 24))
    assert Note("patches of 16 x 24 of pictures reduced to 50%") in events
    growth = (Growth(until=0.5, scale=0.5),)
    small = TrainConfig(patch=(16, 24), epochs=2, growth=growth)
    assert [size_in(epoch, small) for epoch in (0, 1)] == [(8, 12), (16, 24)]


def test_what_is_given_is_kept(tmp_path: Path) -> None:
    config = ready(write_pairs(tmp_path, 0, 1), [], classes=("street", "car"), size=(24, 40))
    assert (config.classes, config.size) == (("street", "car"), (24, 40))


def test_named_classes_need_not_all_occur(tmp_path: Path) -> None:
    names = ("a", "b", "c", "d")
    dataset = SegmentationDataset.open(write_pairs(tmp_path, 0, 1, 2), DataConfig(classes=names))
    assert list(dataset.shares) == list(names)
    assert sum(dataset.shares.values()) == pytest.approx(1)
    assert dataset.shares["d"] == 0
    assert dataset.coding.values == (0, 1, 2, 3)
    assert understand(dataset, TrainConfig(), lambda _: None)[1].classes == names


def test_an_ignored_value_is_no_class(tmp_path: Path) -> None:
    dataset = SegmentationDataset.open(write_pairs(tmp_path, 0, 1, 9), DataConfig(ignore=9))
    assert dataset.coding == Values((0, 1), 9)
    assert len(dataset.class_names) == 2


def test_an_ignored_value_that_is_nowhere_is_mentioned(tmp_path: Path) -> None:
    for occurs, value in ((True, 9), (False, 99)):
        events: list[Event] = []
        folder = tmp_path / str(value)
        folder.mkdir()
        values = (0, 1, 9) if occurs else (0, 1)
        ready(write_pairs(folder, *values), events, ignore=value)
        said = "\n".join(event.text for event in events if isinstance(event, Note))
        assert ("no mask has the value 99" in said) is not occurs


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"classes": ("one",)}, "class"),
        ({"classes": ("a", "b")}, "0, 1, 2"),
        ({"classes": ("a", "b", "a")}, "same name.*a, b, a"),
        ({"size": (32, 15), "depth": 3}, r"32 x 15 .* below 16 .*--depth 3.*--size"),
        ({"size": (48, 64), "elastic": 13.0}, r"--elastic 13 .*48 x 64.* Take 4 or less"),
        ({"size": (32, 32), "growth": (Growth(until=0.5, scale=0.2),)}, r"0\.2 of it.*--size"),
    ],
)
def test_settings_that_do_not_fit_the_data(
    tmp_path: Path, settings: dict[str, object], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        ready(write_pairs(tmp_path, 0, 1, 2), [], **settings)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"size": (48, 64), "elastic": 5.0}, "--elastic 5 may fold"),
        ({"border_sigma": 3.0}, "--border-sigma does nothing without --border-weight"),
        ({"loss": "lovasz", "border_weight": 2.0}, "--border-weight does nothing with --loss lov"),
        ({"loss": "lovasz", "class_weights": "balanced"}, "--class-weights does nothing with --lo"),
        ({"optimizer": "adam", "weight_decay": 0.1}, "--weight-decay does nothing with --optimize"),
        ({"optimizer": "adam", "loss": "lovasz"}, None),
        ({"size": (48, 64), "elastic": 4.0, "border_sigma": 3.0, "border_weight": 1.0}, None),
    ],
)
def test_settings_of_objects_that_do_little_or_too_much_are_mentioned(
    tmp_path: Path, settings: dict[str, object], said: str | None
) -> None:
    events: list[Event] = []
    ready(write_pairs(tmp_path, 0, 1), events, **settings)
    notes = [event.text for event in events if isinstance(event, Note)][2:]
    assert [said in note for note in notes] == [True] if said else notes == []


def test_a_run_lies_apart_from_the_data(tmp_path: Path) -> None:
    data = tmp_path / "data"
    for name in ("images/a.png", "runs/old/last/state.pt", "runs/old/curves.png"):
        (data / name).parent.mkdir(parents=True, exist_ok=True)
        (data / name).write_bytes(b"")
    for out in (data, data / "images", tmp_path / "data" / ".." / "data"):
        with pytest.raises(ValueError, match="holds the data, and no run can lie among it"):
            require_apart(out, data)
    for out in (tmp_path / "run", tmp_path, data / "runs" / "new", data / "runs" / "old"):
        require_apart(out, data)


def test_a_share_beside_folds_is_mentioned() -> None:
    events: list[Event] = []
    check_window(TrainConfig(size=(32, 32), folds=2, fold=0, validation=0.5), events.append)
    assert Note("note: --validation does nothing with --folds") in events
