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

CONFIGS = sorted((Path(__file__).parents[1] / "configs").glob("*.toml"))


def write(folder: Path, text: str) -> Path:
    path = folder / "run.toml"
    path.write_text(text, encoding="utf-8")
    return path


def refusal(path: Path) -> str:
    with pytest.raises(ValueError, match="toml") as raised:
        load_config(path)
    # a ValidationError is a ValueError too, but not a message for a user
    assert not isinstance(raised.value, ValidationError)
    assert str(path) in str(raised.value)
    return str(raised.value)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_shipped_config_loads(path: Path) -> None:
    assert load_config(path) != TrainConfig()


def test_there_are_shipped_configs() -> None:
    assert CONFIGS


def test_named_keys_and_defaults(tmp_path: Path) -> None:
    path = write(tmp_path, 'epochs = 3\nsize = [32, 48]\nclasses = ["ground", "leaf"]\n')
    settings = load_config(path)
    assert (settings.epochs, settings.size) == (3, (32, 48))
    assert settings.classes == ("ground", "leaf")
    assert settings.batch_size == TrainConfig().batch_size
    # flags win over the file, so that what the file leaves out must be known
    assert read_settings(path) == {
        "epochs": 3,
        "size": [32, 48],
        "classes": ["ground", "leaf"],
    }


def test_unknown_key_is_told_its_neighbour(tmp_path: Path) -> None:
    message = refusal(write(tmp_path, "epoch = 3\n"))
    assert "unknown key 'epoch'" in message
    assert "did you mean 'epochs'?" in message


def test_unknown_key_without_a_neighbour_is_told_all(tmp_path: Path) -> None:
    message = refusal(write(tmp_path, "qqq = 3\n"))
    assert "unknown key 'qqq'" in message
    assert all(key in message for key in TrainConfig.model_fields)


def test_unknown_nested_key_is_told_its_neighbour(tmp_path: Path) -> None:
    message = refusal(write(tmp_path, "[[growth]]\nuntil = 0.5\nscal = 0.5\n"))
    assert "growth.0.scal" in message
    assert "did you mean 'scale'?" in message
    assert "growth.0.scale: Field required" in message


@pytest.mark.parametrize(
    ("line", "key"),
    [
        ("epochs = 0", "epochs"),
        ("epochs = 2.5", "epochs"),
        ('epochs = "many"', "epochs"),
        ("size = [32]", "size.1"),
        ("size = [32, 32, 3]", "size"),
        ("learning_rate = 0.0", "learning_rate"),
        ("learning_rate = nan", "learning_rate"),
        ("learning_rate = inf", "learning_rate"),
        ("weight_decay = inf", "weight_decay"),
        ("validation = 1.0", "validation"),
        ('optimizer = "lion"', "optimizer"),
        ('device = "gpu"', "device"),
        ('precision = "fp8"', "precision"),
        ("ema = 1.0", "ema"),
        ("ignore = -1", "ignore"),
        ("[[growth]]\nuntil = 1.0\nscale = 0.5", "growth.0.until"),
        ("[[growth]]\nuntil = 0.5\nscale = 1.5", "growth.0.scale"),
    ],
)
def test_impossible_value_is_named(tmp_path: Path, line: str, key: str) -> None:
    message = refusal(write(tmp_path, line + "\n"))
    assert f"{key}: " in message


def test_impossible_value_is_repeated(tmp_path: Path) -> None:
    assert "(it is -3)" in refusal(write(tmp_path, "epochs = -3\n"))


def test_choices_are_listed(tmp_path: Path) -> None:
    message = refusal(write(tmp_path, 'loss = "tversky"\n'))
    assert "'tversky'" in message
    assert all(name in message for name in ("'cross-entropy'", "'dice'", "'cross-entropy+dice'"))


def test_all_problems_are_named_at_once(tmp_path: Path) -> None:
    message = refusal(write(tmp_path, "epoch = 3\nbatch_size = 0\nema = 2.0\n"))
    assert all(key in message for key in ("epoch", "batch_size", "ema"))


@pytest.mark.parametrize("text", ["epochs = ", "epochs", "epochs = 1\nepochs = 2\n"])
def test_no_toml(tmp_path: Path, text: str) -> None:
    assert "not a readable TOML file" in refusal(write(tmp_path, text))


def test_binary_file_and_folder(tmp_path: Path) -> None:
    path = tmp_path / "run.toml"
    path.write_bytes(b"\xff\xfe\x00\x80")
    assert "not a readable TOML file" in refusal(path)
    folder = tmp_path / "folder.toml"
    folder.mkdir()
    assert "not a readable TOML file" in refusal(folder)


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"run\.toml: no such configuration file"):
        load_config(tmp_path / "run.toml")


def test_settings_from_elsewhere_name_their_source() -> None:
    assert make_config({"epochs": 3}).epochs == 3
    with pytest.raises(ValueError, match=r"^flags: epochs: .*greater than or equal to 1"):
        make_config({"epochs": 0}, source="flags")


def test_round_trip_of_defaults(tmp_path: Path) -> None:
    write_config(tmp_path / "run.toml", TrainConfig())
    assert load_config(tmp_path / "run.toml") == TrainConfig()


text = st.text(max_size=8)
share = st.floats(0, 1, exclude_min=True, exclude_max=True)
parts = st.builds(Growth, until=share, scale=share)
rising = st.lists(parts, max_size=3, unique_by=lambda part: part.until).map(
    lambda chosen: tuple(sorted(chosen, key=lambda part: part.until))
)


def test_parts_of_growth_must_rise(tmp_path: Path) -> None:
    path = tmp_path / "run.toml"
    part = "[[growth]]\nuntil = {}\nscale = 0.5\n"
    path.write_text(part.format(0.6) + part.format(0.4))
    with pytest.raises(
        ValueError, match=r"growth: .*end after the one before, not at \[0.6, 0.4\]"
    ):
        load_config(path)


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
        # none of them may be the value that is ignored
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
    "name", ["Straße", "\N{LEAF FLUTTERING IN WIND}", 'a "b" \\ c', "\x7f\t\n\x00"]
)
def test_round_trip_of_odd_names(tmp_path: Path, name: str) -> None:
    settings = TrainConfig(classes=("background", name), group_by=name)
    write_config(tmp_path / "run.toml", settings)
    assert load_config(tmp_path / "run.toml") == settings


SAID = DataConfig(
    images="photos",
    masks="m",
    classes=("background", "leaf"),
    values=(0, 7),
    ignore=9,
    group_by="([^_]+)_",
)


def test_what_a_folder_says_of_itself_comes_back(tmp_path: Path) -> None:
    assert read_dataset(tmp_path) == {}
    write_dataset(tmp_path / DATASET_FILE, SAID)
    assert DataConfig(**read_dataset(tmp_path)) == SAID
    assert (tmp_path / DATASET_FILE).read_text().startswith("# What the pictures and masks are.")


def test_a_folder_fills_in_what_is_not_given(tmp_path: Path) -> None:
    assert with_dataset(TrainConfig(epochs=3), tmp_path) == TrainConfig(epochs=3)
    write_dataset(tmp_path / DATASET_FILE, SAID)
    filled = with_dataset(TrainConfig(epochs=3, ignore=8), tmp_path)
    assert (filled.epochs, filled.ignore) == (3, 8)
    assert (filled.images, filled.masks, filled.classes) == ("photos", "m", SAID.classes)
    assert (filled.values, filled.group_by) == ((0, 7), "([^_]+)_")


def test_what_is_given_puts_aside_what_contradicts_it(tmp_path: Path) -> None:
    write_dataset(tmp_path / DATASET_FILE, SAID)
    other = with_dataset(TrainConfig(masks="in_color"), tmp_path)
    assert (other.images, other.masks, other.values) == ("photos", "in_color", ())
    listed = with_dataset(TrainConfig(pairs="list.csv"), tmp_path)
    assert (listed.images, listed.masks, listed.values) == (None, None, (0, 7))
    assert with_dataset(TrainConfig(colors=("000000", "ffffff")), tmp_path).values == ()


def test_a_folder_that_says_nonsense_of_itself(tmp_path: Path) -> None:
    path = tmp_path / DATASET_FILE
    path.write_text("mask = 'm'\n")
    with pytest.raises(ValueError, match=r"dataset\.toml: unknown key 'mask'.*'masks'"):
        with_dataset(TrainConfig(), tmp_path)
    path.write_text("epochs = 3\n")
    with pytest.raises(ValueError, match="unknown key 'epochs'; known are images"):
        read_dataset(tmp_path)
    path.unlink()
    path.mkdir()
    with pytest.raises(ValueError, match=r"dataset\.toml: not a readable TOML"):
        read_dataset(tmp_path)
