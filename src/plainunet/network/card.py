"""The card of a model: its classes and how it is used, stored as JSON in the model's file."""

import dataclasses
import json
import platform
import shlex
import subprocess
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, Field, TypeAdapter, ValidationError

from plainunet import __version__
from plainunet.config import LARGEST_SIDE, TTAName
from plainunet.errors import Error, wrong
from plainunet.system import shorten

FORMAT = 1
"""Version of the metadata."""
KEY = "plainunet"
"""Key of the JSON in a file's metadata."""
BEST_FILE = "best.safetensors"
"""Name of the checkpoint in a run folder."""
LAST_FOLDER = "last"
"""Name of the folder in a run folder with the state that it is resumed from."""
MODEL_FILES = ("model.safetensors", "model.onnx")
"""Names of the model in a folder of `Predictor.save_pretrained`."""
FOLDS_FILE = "crossval.json"
"""Name of the file that lists the runs of a cross-validation in its folder."""
SCORES_FILE = "scores.json"
"""Name of the scores of a cross-validation in its folder, written when it is complete."""


class CheckpointError(Error):
    """The file is not a checkpoint that this version can read."""

    code = "checkpoint"


Byte = Annotated[int, Field(ge=0, le=255)]
Color = tuple[Byte, Byte, Byte]
_Side = Annotated[int, Field(ge=1, le=LARGEST_SIDE)]
_Value = Annotated[int, Field(ge=0, le=65535)]
_Name = Annotated[str, Field(min_length=1, max_length=1000)]
_Area = Annotated[int, Field(ge=0, le=2**31)]
_Share = Annotated[float, Field(gt=0, le=1)]
_Scale = Annotated[float, Field(gt=0, le=4)]


class _Masks(BaseModel):
    """Known keys of `Card.masks`; others are allowed."""

    values: tuple[_Value, ...] = Field(default=(), max_length=255)
    ignore: _Value | None = None
    kind: Literal["ids", "two values", "values", "threshold", "instances", "colors"] = "ids"
    colors: tuple[Color, ...] = Field(default=(), max_length=255)


class _Training(BaseModel):
    """Known keys of `Card.training`; others are allowed."""

    digest: str = ""
    sample: dict[str, int] = {}
    dtypes: list[str] = []
    grey: float = 0
    areas: tuple[float, float] | None = None
    settings: dict[str, Any] = {}


def _having(keys: type[BaseModel]) -> AfterValidator:
    """Validate the known keys, and keep all of them unchanged."""
    return AfterValidator(lambda given: keys.model_validate(given) and given)


@dataclass(frozen=True)
class Card:
    """The model card of a checkpoint: everything that inference needs besides the weights.

    Example:
        ```python
        from plainunet import Card, Predictor, UNet

        card = Card(("background", "car"), ((0, 0, 0), (255, 255, 255)), size=(96, 128))
        predictor = Predictor(UNet(base_channels=4, depth=2), card)
        ```
    """

    class_names: Annotated[tuple[_Name, ...], Field(min_length=2, max_length=255)]
    """Names in the order of the class ids, background included."""
    colors: tuple[Color, ...]
    """RGB of each class, 0..255, used in mask files."""
    size: tuple[_Side, _Side] | None
    """Input size: height and width that images are reduced to fit in, or None if all of them are
    scaled by `factor`."""
    threshold: Annotated[float, Field(ge=0, le=1)] = 0.5
    """With two classes, the minimum probability of class 1 for a pixel of class 1."""
    masks: Annotated[dict[str, Any], _having(_Masks)] = field(default_factory=dict)
    """Mask encoding: `values`, `ignore`, `kind`, optionally `colors`."""
    training: Annotated[dict[str, Any], _having(_Training)] = field(default_factory=dict)
    """Settings, data digest and image sizes of the training run."""
    scores: dict[str, Any] = field(default_factory=dict)
    """Scores on the validation split, with their protocol."""
    factor: _Share = 1.0
    """Without a size: scale factor of the images' sides."""
    tta: TTAName = "none"
    """Test-time augmentation: "none", "mirror" (left to right), "flips" (also top to bottom) or
    "turns" (also rotations by 90 degrees); the probabilities are averaged."""
    scales: Annotated[tuple[_Scale, ...], Field(min_length=1, max_length=16)] = (1.0,)
    """Multi-scale inference: factors on the input size; the probabilities are averaged."""
    min_object: _Area = 0
    """Connected regions of a class with fewer pixels become background."""
    fill_holes: _Area = 0
    """Holes of up to this number of pixels are filled."""
    versions: dict[str, str] = field(default_factory=dict)
    """Versions of the software that wrote the checkpoint."""

    def __post_init__(self) -> None:
        """Refuse arguments that are not of the fields' shapes; files are checked in full."""
        if not isinstance(self.class_names, tuple | list):
            raise wrong("class_names", self.class_names, "the name of each class")
        if not isinstance(self.colors, tuple | list):
            raise wrong("colors", self.colors, "RGB of each class")
        if self.size is not None and not (
            isinstance(self.size, tuple | list) and len(self.size) == 2
        ):
            raise wrong("size", self.size, "the height and width, or None")


def write_metadata(architecture: dict[str, Any], card: Card, **more: Any) -> dict[str, Any]:
    """The metadata of a model's file: format, architecture, card, and `more`."""
    return {
        "format": FORMAT,
        "architecture": architecture,
        **more,
        **dataclasses.asdict(card),
    }


def read_card(metadata: object, path: Path) -> Card:
    """Validate the metadata of a model's file, as by `write_metadata`.

    Raises:
        CheckpointError: It is not that of a model, is damaged, or was written by a newer version.
    """
    if not isinstance(metadata, dict):
        raise CheckpointError(
            f"{path}: has no metadata of plainunet, so it is not one of its models."
        )
    if metadata.get("format") != FORMAT:
        raise CheckpointError(
            f"{path}: has format {shorten(str(metadata.get('format')))}; this version reads "
            f"{FORMAT}. Update plainunet."
        )
    # fields added after the first version of the format
    later = ("factor", "tta", "scales", "min_object", "fill_holes")
    known = {f.name: f.default for f in dataclasses.fields(Card) if f.name in later}
    try:
        found = {f.name: {**known, **metadata}[f.name] for f in dataclasses.fields(Card)}
        return TypeAdapter(Card).validate_python(found)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise CheckpointError(
            f"{path}: damaged metadata ({where}: {first['msg']}; got "
            f"{shorten(repr(first['input']))}). Copy the file again, or train again."
        ) from error
    except (KeyError, TypeError) as error:
        raise CheckpointError(
            f"{path}: damaged metadata ({shorten(str(error), 300)} is missing). Copy the file "
            "again, or train again."
        ) from error


def find_checkpoints(path: str | Path) -> list[Path]:
    """Find the model files that a path stands for.

    A run folder stands for its `best.safetensors`, a folder of `save_pretrained` for its model, the
    folder of a cross-validation for those of all its runs; any other path stands for itself.

    Raises:
        CheckpointError: The folder has no checkpoint, or its cross-validation is not complete, or
            the file that lists its runs is damaged.
    """
    path = Path(path)
    if not path.is_dir():
        return [path]
    for name in (BEST_FILE, *MODEL_FILES):
        if (path / name).is_file():
            return [path / name]
    if (path / LAST_FOLDER).is_dir():
        raise CheckpointError(
            f"{path}: this run has no {BEST_FILE} yet. Wait for it, or if it was stopped, go on "
            f"with: plainunet train --resume {shlex.quote(str(path))}"
        )
    if not (path / FOLDS_FILE).is_file():
        raise CheckpointError(
            f"{path}: is a folder without {BEST_FILE} or {MODEL_FILES[0]}. Use a checkpoint or a "
            "run folder."
        )
    found = [path / name / BEST_FILE for name in _read_runs(path / FOLDS_FILE)]
    missing = [file for file in found if not file.is_file()]
    if missing or not (path / SCORES_FILE).is_file():
        where = f" ({missing[0]} is missing)" if missing else ""
        raise CheckpointError(
            f"{path}: its cross-validation is not complete{where}. Run its command again to "
            "continue it."
        )
    return found


def _read_runs(file: Path) -> list[str]:
    """The names of the runs of a cross-validation."""
    try:
        runs = json.loads(file.read_text(encoding="utf-8"))["runs"]
    except (ValueError, KeyError, TypeError, RecursionError):
        runs = None
    if not isinstance(runs, list) or not runs or not all(isinstance(run, str) for run in runs):
        raise CheckpointError(
            f"{file}: damaged, or not the list of runs that plainunet crossval writes. Use "
            f"the {BEST_FILE} of a run."
        )
    return runs


def find_checkpoint(path: str | Path) -> Path:
    """Find the one model file that a path stands for, as `find_checkpoints`.

    Raises:
        CheckpointError: There is none, or there are several.
    """
    first, *others = find_checkpoints(path)
    if others:
        raise CheckpointError(
            f"{path}: has {len(others) + 1} checkpoints. Use one of its runs, such as "
            f"{first.parent}."
        )
    return first


def require_classes(card: Card, classes: int) -> None:
    """Refuse, by a ValueError, a card of another number of classes than its network's."""
    if not len(card.class_names) == len(card.colors) == classes:
        raise Error(
            f"{len(card.class_names)} class names and {len(card.colors)} colours for {classes} "
            "classes"
        )


def versions() -> dict[str, str]:
    """Versions of the running software, by package name; in a checkout also the commit."""
    commit = {"commit": name} if (name := _commit()) else {}
    found = {"plainunet": __version__, **commit, "python": platform.python_version()}
    try:
        return {**found, "torch": version("torch")}
    except PackageNotFoundError:  # the runtime needs none
        return found


@cache
def _commit() -> str:
    """The commit of the source tree, "-dirty" if files were changed; "" if it is no checkout."""
    folder = Path(__file__).parents[3]
    if not (folder / ".git").exists():  # git would find any repository around an environment
        return ""
    describe = ["git", "--no-optional-locks", "describe", "--always", "--dirty", "--exclude=*"]
    try:
        done = subprocess.run(describe, cwd=folder, capture_output=True, text=True, check=False)
    except OSError:  # git is not installed
        return ""
    return done.stdout.strip()
