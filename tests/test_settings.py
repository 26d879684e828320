import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from plainunet.config import DataConfig, Growth, TrainConfig
from plainunet.settings import (
    DATASET_FILE,
    load_config,
    make_config,
    read_dataset,
    read_settings,
    with_dataset,
    write_config,
    write_dataset,
)


def write(folder: Path, text: str) -> Path:
    path = folder / "run.toml"
    path.write_text(text, encoding="utf-8")
    return path


STAGE = "[[growth]]\nuntil = {}\nscale = 0.5\n"


def test_named_keys_and_defaults(tmp_path: Path) -> None:
    path = write(tmp_path, 'epochs = 3\nsize = [32, 48]\nclasses = ["ground", "leaf"]\n')
    settings = load_config(path)
    assert (settings.epochs, settings.size) == (3, (32, 48))
    assert settings.classes == ("ground", "leaf")
    assert settings.batch_size == TrainConfig().batch_size
    # without defaults, which flags may override
    assert read_settings(path) == {
        "epochs": 3,
        "size": [32, 48],
        "classes": ["ground", "leaf"],
    }


@pytest.mark.parametrize(
    ("lines", "named"),
    [
        ("epoch = 3", ["'epoch'", "'epochs'"]),
        ("qqq = 3", ["'qqq'", *TrainConfig.model_fields]),
        ("[[growth]]\nuntil = 0.5\nscal = 0.5", ["growth.0.scal", "'scale'"]),
        ("epochs = -3", ["epochs: ", "-3"]),
        ('loss = "tversky"', ["'tversky'", "cross-entropy", "dice", "package.module:function"]),
        # all at once
        ("epoch = 3\nbatch_size = 0\nema = 2.0", ["epoch", "batch_size", "ema"]),
        ("epochs = 2.5", ["epochs: "]),
        ('epochs = "many"', ["epochs: "]),
        ("size = [32]", ["size: "]),
        ("size = [32, 32, 3]", ["size: "]),
        *((f"learning_rate = {value}", ["learning_rate: "]) for value in ("0.0", "nan", "inf")),
        ("weight_decay = inf", ["weight_decay: "]),
        ("validation = 1.0", ["validation: "]),
        ('optimizer = "lion"', ["optimizer: "]),
        ('device = "gpu"', ["device: "]),
        ('precision = "fp8"', ["precision: "]),
        ("ema = 1.0", ["ema: "]),
        ("ignore = -1", ["ignore: "]),
        ("[[growth]]\nuntil = 1.0\nscale = 0.5", ["growth.0.until: "]),
        ("[[growth]]\nuntil = 0.5\nscale = 1.5", ["growth.0.scale: "]),
        (STAGE.format(0.6) + STAGE.format(0.4), ["growth: ", "[0.6, 0.4]"]),
        *((text, ["TOML"]) for text in ("epochs = ", "epochs", "epochs = 1\nepochs = 2")),
        ("\udcff\udcfe", ["TOML"]),
    ],
)
def test_invalid_settings_are_named(tmp_path: Path, lines: str, named: list[str]) -> None:
    path = tmp_path / "run.toml"
    path.write_bytes(f"{lines}\n".encode(errors="surrogateescape"))
    with pytest.raises(ValueError, match=re.escape(str(path))) as raised:
        load_config(path)
    # a ValidationError is a ValueError, but has no message for users
    assert not isinstance(raised.value, ValidationError)
    assert all(each in str(raised.value) for each in named)


def test_missing_file_and_a_folder(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"run\.toml"):
        load_config(tmp_path / "run.toml")
    (tmp_path / "run.toml").mkdir()
    with pytest.raises(ValueError, match=r"run\.toml: .*TOML"):
        load_config(tmp_path / "run.toml")


def test_other_settings_name_their_source() -> None:
    assert make_config({"epochs": 3}).epochs == 3
    with pytest.raises(ValueError, match=r"^flags: epochs: "):
        make_config({"epochs": 0}, source="flags")


text = st.text(max_size=8)
share = st.floats(0, 1, exclude_min=True, exclude_max=True)
stages = st.builds(Growth, until=share, scale=share)
rising = st.lists(stages, max_size=3, unique_by=lambda stage: stage.until).map(
    lambda chosen: tuple(sorted(chosen, key=lambda stage: stage.until))
)


@given(
    settings=st.builds(
        TrainConfig,
        size=st.none() | st.tuples(st.integers(1, 999), st.integers(1, 999)),
        learning_rate=st.floats(0, 1e20, exclude_min=True),
        weight_decay=st.floats(0, 1e20),
        loss=st.sampled_from(["dice", "cross-entropy+dice"]),
        growth=rising,
        group_by=st.none() | text,
        classes=st.lists(text, max_size=3).map(tuple),
        # none of them may be the ignored value
        values=st.lists(st.integers(256, 65535), max_size=3, unique=True).map(tuple),
        ignore=st.none() | st.integers(0, 255),
        workers=st.none() | st.integers(0, 4),
    )
)
def test_round_trip(tmp_path_factory: pytest.TempPathFactory, settings: TrainConfig) -> None:
    path = tmp_path_factory.mktemp("config") / "run.toml"
    write_config(path, settings)
    assert load_config(path) == settings


@pytest.mark.parametrize(
    "name", ["", "Straße", "\N{LEAF FLUTTERING IN WIND}", 'a "b" \\ c', "\x7f\t\n\x00"]
)
def test_round_trip_of_odd_names(tmp_path: Path, name: str) -> None:
    odd = TrainConfig(classes=("background", name), group_by=name) if name else TrainConfig()
    write_config(tmp_path / "run.toml", odd)
    assert load_config(tmp_path / "run.toml") == odd


DATASET = DataConfig(
    images="photos",
    masks="m",
    classes=("background", "leaf"),
    values=(0, 7),
    ignore=9,
    group_by="([^_]+)_",
)


def test_round_trip_of_a_dataset(tmp_path: Path) -> None:
    assert read_dataset(tmp_path) == {}
    write_dataset(tmp_path / DATASET_FILE, DATASET)
    assert DataConfig(**read_dataset(tmp_path)) == DATASET
    assert (tmp_path / DATASET_FILE).read_text().startswith("# ")


def test_a_dataset_completes_the_settings(tmp_path: Path) -> None:
    assert with_dataset(TrainConfig(epochs=3), tmp_path) == TrainConfig(epochs=3)
    write_dataset(tmp_path / DATASET_FILE, DATASET)
    filled = with_dataset(TrainConfig(epochs=3, ignore=8), tmp_path)
    assert (filled.epochs, filled.ignore) == (3, 8)
    assert (filled.images, filled.masks, filled.classes) == ("photos", "m", DATASET.classes)
    assert (filled.values, filled.group_by) == ((0, 7), "([^_]+)_")


def test_settings_override_contradicting_keys_of_a_dataset(tmp_path: Path) -> None:
    write_dataset(tmp_path / DATASET_FILE, DATASET)
    other = with_dataset(TrainConfig(masks="in_color"), tmp_path)
    assert (other.images, other.masks, other.values) == ("photos", "in_color", ())
    listed = with_dataset(TrainConfig(pairs="list.csv"), tmp_path)
    assert (listed.images, listed.masks, listed.values) == (None, None, (0, 7))
    assert with_dataset(TrainConfig(colors=("000000", "ffffff")), tmp_path).values == ()


def test_an_invalid_dataset(tmp_path: Path) -> None:
    path = tmp_path / DATASET_FILE
    path.write_text("mask = 'm'\n")
    with pytest.raises(ValueError, match=r"dataset\.toml: .*'mask'.*'masks'"):
        with_dataset(TrainConfig(), tmp_path)
    path.write_text("epochs = 3\n")
    with pytest.raises(ValueError, match=r"'epochs'.* images, masks"):
        read_dataset(tmp_path)
    path.unlink()
    path.mkdir()
    with pytest.raises(ValueError, match=r"dataset\.toml: .*TOML"):
        read_dataset(tmp_path)


def test_settings_of_earlier_runs_are_read(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_text('accumulation = 2\nclip = 0.5\nstart_from = "a"\nloss = "outline"\n')
    config = load_config(path)
    assert (config.gradient_accumulation, config.gradient_clip) == (2, 0.5)
    assert (config.pretrained, config.loss) == ("a", "boundary")


def test_transforms_are_found_beside_the_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, here = tmp_path / "run", tmp_path / "here"
    run.mkdir()
    here.mkdir()
    monkeypatch.chdir(here)
    path = write(run, 'augment = "augment.json"\n')
    assert load_config(path).augment == "augment.json"
    (here / "augment.json").write_text("{}")
    assert load_config(path).augment == "augment.json"
    (run / "augment.json").write_text("{}")
    assert load_config(path).augment == str(run / "augment.json")
    assert read_settings(path)["augment"] == "augment.json"
    path = write(run, 'augment = "mine.yaml"\n')
    assert load_config(path).augment == str(run / "augment.json")
    (here / "mine.yaml").write_text("{}")
    assert load_config(path).augment == "mine.yaml"
    (run / "mine.yaml").write_text("{}")
    assert load_config(path).augment == str(run / "mine.yaml")
    assert load_config(write(run, 'augment = "strong"\n')).augment == "strong"
