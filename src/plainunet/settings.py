"""Settings in TOML files: a recipe, a run's own, and what a data folder says of itself.

In: a file, or settings. Out: the other of the two. Unknown keys and values out of range are
refused with the key's name, the nearest known one and the file.
"""

import difflib
import json
import os
import tomllib
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from plainunet.config import DataConfig, Growth, TrainConfig
from plainunet.files import require_regular, write_whole

DATASET_FILE = "dataset.toml"
"""In a data folder: what is to be understood of it. In a run folder: what was."""

_Model = TypeVar("_Model", bound=BaseModel)

# what was given puts aside what would contradict it
_INSTEAD = {
    "pairs": ("images", "masks"),
    "images": ("pairs",),
    "masks": ("pairs", "rle", "values", "colors", "encoding"),
    "colors": ("values", "encoding"),
    "values": ("colors", "encoding"),
    "encoding": ("colors", "values"),
}


def load_config(path: Path) -> TrainConfig:
    """Read a TOML file.

    Args:
        path: The file; its keys are the fields of `TrainConfig`.

    Returns:
        The settings, defaults filled in.

    Raises:
        ValueError: The file is no TOML, or holds an unknown key or an impossible value.
    """
    return TrainConfig(**read_settings(path))


def read_settings(path: Path, model: type[BaseModel] = TrainConfig) -> dict[str, Any]:
    """Read the settings that a TOML file names, and no others, checked.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is no TOML, or holds an unknown key or an impossible value.
    """
    require_regular(path)
    try:
        given = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise FileNotFoundError(f"{path}: no such configuration file.") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
        raise ValueError(f"{path}: not a readable TOML file ({error}).") from error
    _checked(model, given, str(path))
    return given


def read_dataset(folder: Path) -> dict[str, Any]:
    """Read the fields of `DataConfig` that a folder's dataset.toml names; {} without one."""
    path = folder / DATASET_FILE
    return read_settings(path, DataConfig) if path.exists() else {}


def with_dataset(config: _Model, folder: Path) -> _Model:
    """Fill in what the settings leave out and the data folder says of itself.

    What was given wins, and puts aside what would contradict it: other masks are paired and read
    in their own way. A dataset.toml that is wrong, or does not fit, is a ValueError.
    """
    said = read_dataset(folder)
    given = {name: getattr(config, name) for name in config.model_fields_set}
    there = DataConfig(**said)
    if not given.get("allow_outside"):
        _require_inside(folder, there)
    other = [name for name in given if given[name] != getattr(there, name, None)]
    aside = {key for name in other for key in _INSTEAD.get(name, ())}
    kept = {k: v for k, v in said.items() if k in type(config).model_fields and k not in aside}
    source = f"{folder / DATASET_FILE} and the settings"
    return _checked(type(config), {**kept, **given}, source) if kept else config


def _require_inside(folder: Path, there: DataConfig) -> None:
    """Refuse a dataset.toml that leads out of its folder."""
    if there.allow_outside:
        raise ValueError(f"{folder / DATASET_FILE}: allow_outside is only taken as a flag.")
    base = Path(os.path.abspath(folder))  # noqa: PTH100 (links inside are the user's own)
    for key in ("images", "masks", "pairs"):
        for part in str(getattr(there, key) or "").split(":"):
            if not Path(os.path.abspath(base / part)).is_relative_to(base):  # noqa: PTH100
                raise ValueError(
                    f"{folder / DATASET_FILE}: {key} = {getattr(there, key)!r} leads out of the "
                    "folder. If that is meant, give --allow-outside."
                )


def make_config(settings: dict[str, Any], source: str = "settings") -> TrainConfig:
    """Check settings and fill in the defaults; an error calls their origin `source`."""
    return _checked(TrainConfig, settings, source)


def write_config(path: Path, config: TrainConfig) -> None:
    """Write settings as TOML, readable by `load_config`; what is None or empty is left out."""
    plain = config.model_dump(mode="json", exclude_none=True)
    growth = plain.pop("growth")
    lines = _lines(plain)
    for part in growth:
        lines += [
            "",
            "[[growth]]",
            *(f"{key} = {_toml(value)}" for key, value in part.items()),
        ]
    with write_whole(path) as file:
        file.write_text("\n".join(lines) + "\n", encoding="utf-8", errors="surrogateescape")


def write_dataset(path: Path, said: DataConfig) -> None:
    """Write what was understood of a data folder, to be put there; defaults are left out."""
    given = said.model_dump(mode="json", exclude_defaults=True)
    lines = [
        "# What the pictures and masks are. In the data folder, under the name dataset.toml,",
        "# it is read by plainunet; flags win over it.",
        *_lines(given),
    ]
    with write_whole(path) as file:
        file.write_text("\n".join(lines) + "\n", encoding="utf-8", errors="surrogateescape")


def _lines(settings: dict[str, Any]) -> list[str]:
    return [f"{key} = {_toml(value)}" for key, value in settings.items() if value != []]


def _checked(model: type[_Model], settings: dict[str, Any], source: str) -> _Model:
    try:
        return model(**settings)
    except ValidationError as error:
        raise ValueError(f"{source}: {explain(error, model)}") from None


def _toml(value: Any) -> str:
    # as JSON, but TOML has no surrogate pairs for characters beyond \uffff, and no bare DEL
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def explain(error: ValidationError, model: type[BaseModel] = TrainConfig) -> str:
    """Say in one line what is wrong with settings, and what to do."""
    return "; ".join(_explain(problem, model) for problem in error.errors())


def _explain(problem: Any, model: type[BaseModel]) -> str:
    key = ".".join(str(part) for part in problem["loc"])
    if problem["type"] != "extra_forbidden":
        message = problem["msg"].removeprefix("Value error, ")
        return f"{key}: {message} (it is {problem['input']!r})"
    known = model.model_fields if len(problem["loc"]) == 1 else Growth.model_fields
    nearest = difflib.get_close_matches(str(problem["loc"][-1]), known, n=1)
    advice = f"did you mean {nearest[0]!r}?" if nearest else "known are " + ", ".join(known) + "."
    return f"unknown key {key!r}; {advice}"
