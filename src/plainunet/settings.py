"""Settings in TOML files: configurations, the config.toml of a run, dataset.toml.

Unknown keys and values out of range are errors that name the key, the nearest known one and the
file.
"""

import json
import os
import tomllib
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from plainunet.config import DataConfig, TrainConfig, explain, is_augment_file
from plainunet.errors import Error, take_path
from plainunet.files import require_regular, write_whole

DATASET_FILE = "dataset.toml"
"""Describes the data: in a data folder, how to read it; in a run folder, how it was read."""
AUGMENT_FILE = "augment.json"
"""In a run folder, the user's own transforms."""

_RENAMED = {
    "accumulation": "gradient_accumulation",
    "clip": "gradient_clip",
    "start_from": "pretrained",
}
"""Settings of earlier run folders, which stay readable."""

_Model = TypeVar("_Model", bound=BaseModel)

# a setting overrides these keys of a dataset.toml, which would contradict it
_INSTEAD = {
    "pairs": ("images", "masks"),
    "images": ("pairs",),
    "masks": ("pairs", "rle", "values", "colors", "encoding"),
    "colors": ("values", "encoding"),
    "values": ("colors", "encoding"),
    "encoding": ("colors", "values"),
}


def load_config(path: str | Path) -> TrainConfig:
    """Read a TOML file.

    Args:
        path: The file; its keys are the fields of `TrainConfig`.

    Returns:
        The settings, with defaults.

    Raises:
        FileNotFoundError: The file does not exist.
        ValueError: The file is not TOML, or has an unknown key or an invalid value.

    Example:
        ```python
        from plainunet import load_config

        settings = load_config("runs/first/config.toml")
        print(settings.size, settings.learning_rate)
        ```
    """
    return TrainConfig(**read_given(take_path(path, "path")))


def read_given(path: Path) -> dict[str, Any]:
    """Read a user's file as `read_settings`, and find the file of transforms that it names.

    It is beside the file, or in the current folder. A run folder has its transforms in
    `AUGMENT_FILE`, wherever they came from.
    """
    given = read_settings(path)
    if is_augment_file(name := given.get("augment", "")):
        places = (path.parent / name, Path(name), path.parent / AUGMENT_FILE)
        given["augment"] = next((str(each) for each in places if each.is_file()), name)
    return given


def read_settings(path: Path, model: type[BaseModel] = TrainConfig) -> dict[str, Any]:
    """Read and check the settings in a TOML file, without defaults.

    Raises:
        FileNotFoundError: The file does not exist.
        ValueError: The file is not TOML, or has an unknown key or an invalid value.
    """
    require_regular(path)
    try:
        given = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise FileNotFoundError(f"{path}: no such configuration file.") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
        raise Error(f"{path}: not a readable TOML file ({error}).") from error
    given = {_RENAMED.get(key, key): value for key, value in given.items()}
    if given.get("loss") == "outline":
        given["loss"] = "boundary"
    check_settings(model, given, str(path))
    return given


def read_dataset(folder: Path) -> dict[str, Any]:
    """Read the settings in a folder's dataset.toml; {} without one."""
    path = folder / DATASET_FILE
    return read_settings(path, DataConfig) if path.exists() else {}


def with_dataset(config: _Model, folder: Path) -> _Model:
    """Complete settings with the data folder's dataset.toml.

    Settings that were given win, and override the keys that would contradict them: other masks
    need their own encoding. A dataset.toml that is invalid, or does not fit, is a ValueError.
    """
    in_file = read_dataset(folder)
    given = {name: getattr(config, name) for name in config.model_fields_set}
    dataset = DataConfig(**in_file)
    if not given.get("allow_outside"):
        _require_inside(folder, dataset)
    other = [name for name in given if given[name] != getattr(dataset, name, None)]
    dropped = {key for name in other for key in _INSTEAD.get(name, ())}
    known = type(config).model_fields.keys() - dropped
    kept = {key: value for key, value in in_file.items() if key in known}
    source = f"{folder / DATASET_FILE} and the settings"
    return check_settings(type(config), {**kept, **given}, source) if kept else config


def _require_inside(folder: Path, dataset: DataConfig) -> None:
    """Refuse a dataset.toml that points outside of its folder."""
    if dataset.allow_outside:
        raise Error(f"{folder / DATASET_FILE}: allow_outside can only be set as a flag.")
    base = Path(os.path.abspath(folder))  # noqa: PTH100 (links inside are the user's own)
    for key in ("images", "masks", "pairs"):
        for part in str(getattr(dataset, key) or "").split(":"):
            if not Path(os.path.abspath(base / part)).is_relative_to(base):  # noqa: PTH100
                raise Error(
                    f"{folder / DATASET_FILE}: {key} = {getattr(dataset, key)!r} points outside of "
                    "the folder. If this is intended, add --allow-outside."
                )


def make_config(settings: dict[str, Any], source: str = "settings") -> TrainConfig:
    """Check settings and fill in the defaults; errors name `source` as their origin."""
    return check_settings(TrainConfig, settings, source)


def write_config(path: Path, config: TrainConfig) -> None:
    """Write settings as TOML for `load_config`, without those that are None or empty."""
    plain = config.model_dump(mode="json", exclude_none=True)
    growth = plain.pop("growth")
    lines = _lines(plain)
    for stage in growth:
        lines += [
            "",
            "[[growth]]",
            *(f"{key} = {_toml(value)}" for key, value in stage.items()),
        ]
    with write_whole(path) as file:
        file.write_text("\n".join(lines) + "\n", encoding="utf-8", errors="surrogateescape")


def write_dataset(path: Path, dataset: DataConfig) -> None:
    """Write how a data folder was read as a dataset.toml, without defaults."""
    lines = [
        "# How to read the images and masks. plainunet reads this file as dataset.toml in the",
        "# data folder; flags override it.",
        *_lines(dataset.model_dump(mode="json", exclude_defaults=True)),
    ]
    with write_whole(path) as file:
        file.write_text("\n".join(lines) + "\n", encoding="utf-8", errors="surrogateescape")


def _lines(settings: dict[str, Any]) -> list[str]:
    return [f"{key} = {_toml(value)}" for key, value in settings.items() if value != []]


def check_settings(model: type[_Model], settings: dict[str, Any], source: str) -> _Model:
    """Check settings and fill in the defaults of a model; errors name `source` as their origin."""
    try:
        return model.model_validate(settings)
    except ValidationError as error:
        raise Error(f"{source}: {explain(error, model)}") from None


def _toml(value: Any) -> str:
    # like JSON, but without surrogate pairs for characters beyond \uffff, and without a bare DEL
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
