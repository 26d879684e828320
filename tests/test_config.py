import ast
import inspect
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from plainunet import config as module
from plainunet.config import (
    Growth,
    NetworkConfig,
    TrainConfig,
    load_config,
    make_config,
    read_settings,
    write_config,
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


@pytest.mark.parametrize("model", [NetworkConfig, TrainConfig, Growth])
def test_every_field_has_a_docstring(model: type[BaseModel]) -> None:
    tree = ast.parse(inspect.getsource(module))
    (body,) = (
        node.body
        for node in tree.body
        if isinstance(node, ast.ClassDef) and node.name == model.__name__
    )
    explained = set()
    for field, below in pairwise(body):
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name):
            assert isinstance(below, ast.Expr), field.target.id
            assert isinstance(below.value, ast.Constant), field.target.id
            assert str(below.value.value).endswith("."), field.target.id
            explained.add(field.target.id)
    inherited = set(NetworkConfig.model_fields) if model is TrainConfig else set()
    assert explained == set(model.model_fields) - inherited


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_shipped_config_loads(path: Path) -> None:
    assert load_config(path) != TrainConfig()


def test_there_are_shipped_configs() -> None:
    assert CONFIGS


def test_named_keys_and_defaults(tmp_path: Path) -> None:
    path = write(tmp_path, 'epochs = 3\nsize = [32, 48]\nclass_names = ["ground", "leaf"]\n')
    settings = load_config(path)
    assert (settings.epochs, settings.size) == (3, (32, 48))
    assert settings.class_names == ("ground", "leaf")
    assert settings.batch_size == TrainConfig().batch_size
    # flags win over the file, so that what the file leaves out must be known
    assert read_settings(path) == {
        "epochs": 3,
        "size": [32, 48],
        "class_names": ["ground", "leaf"],
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
        ('optimizer = "sgd"', "optimizer"),
        ('device = "gpu"', "device"),
        ('precision = "fp16"', "precision"),
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
    message = refusal(write(tmp_path, 'loss = "focal"\n'))
    assert "'focal'" in message
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


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        TrainConfig().epochs = 3  # type: ignore[misc]


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
        class_names=st.lists(text, max_size=3).map(tuple),
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
    settings = TrainConfig(class_names=("background", name), group_by=name)
    write_config(tmp_path / "run.toml", settings)
    assert load_config(tmp_path / "run.toml") == settings


def test_colors_are_six_digits_and_differ() -> None:
    assert TrainConfig(colors=("#FF0000", "00ff7f")).legend == ((255, 0, 0), (0, 255, 127))
    for wrong, said in ((("red",), "'red' is no colour"), (("ff0000", "FF0000"), "of its own")):
        with pytest.raises(ValueError, match=said):
            make_config({"colors": wrong})
