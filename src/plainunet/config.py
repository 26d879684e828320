"""What a run is: one model that serves flags, TOML files, Python and the run folder.

Unknown keys and values out of range are refused with the key's name, the nearest known one
and the file. Limitation: only the working size is fitted to the data (see `data.check`);
everything else has a fixed default.
"""

import difflib
import json
import re
import tomllib
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator

from plainunet.files import write_whole

Device = Literal["auto", "cpu", "cuda", "mps"]
Precision = Literal["auto", "fp32", "bf16"]


class Growth(BaseModel):
    """A part of training that sees smaller pictures than the last epochs do."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    until: float = Field(gt=0, lt=1)
    """Share of all epochs after which this part ends."""
    scale: float = Field(gt=0, le=1)
    """Size of its pictures, as a share of the working size."""


class NetworkConfig(BaseModel):
    """The network of a run: what `plainunet.UNet` takes beside channels and classes."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    base_channels: int = Field(default=16, ge=1, le=1024)
    """Channels of the network's first level; each level below has twice as many."""
    depth: int = Field(default=4, ge=1, le=6)
    """How often the network halves the picture."""
    normalisation: Literal["batch", "group", "instance", "none"] = "batch"
    """What follows each convolution."""
    upsampling: Literal["transposed", "bilinear"] = "transposed"
    """How the network's expanding path doubles the size."""
    valid: bool = False
    """Convolutions without padding, as in the paper; pictures are mirrored at their borders."""
    residual: bool = False
    """Double convolutions with a shortcut."""
    attention: bool = False
    """Gates on the network's skips."""
    deep_supervision: bool = False
    """Losses at each level of the expanding path, the coarser counting half of the finer."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Share of values set to zero in training at the end of the contracting path."""
    checkpointing: bool = False
    """Compute activations again for the backward pass: less memory, more time, same result."""

    @field_validator("deep_supervision")
    @classmethod
    def _supervise_padded(cls, deep_supervision: bool, info: ValidationInfo) -> bool:
        if deep_supervision and info.data.get("valid"):
            raise ValueError("needs padded convolutions; leave out valid or deep_supervision")
        return deep_supervision

    def network_arguments(self) -> dict[str, Any]:
        """List what the network is made with.

        Returns:
            Keyword arguments of `plainunet.UNet`.
        """
        return self.model_dump(include=set(NetworkConfig.model_fields))


class TrainConfig(NetworkConfig):
    """The settings of one training run, those of its network first."""

    epochs: int = Field(default=20, ge=1)
    """How often every training picture is seen."""
    size: tuple[int, int] | None = None
    """Working size, height and width [pixels]: pictures are reduced to fit in it.
    Left out, it is chosen from the pictures, reduced to about 256 x 256 pixels of area."""
    batch_size: int = Field(default=8, ge=1)
    """Pictures per optimiser step."""
    learning_rate: float = Field(default=2e-3, gt=0, allow_inf_nan=False)
    """Highest learning rate of the schedule."""
    loss: Literal["cross-entropy", "dice", "cross-entropy+dice"] = "cross-entropy+dice"
    """What is minimised."""
    optimizer: Literal["muon", "adamw", "adam"] = "adamw"
    """The optimiser; weight decay acts in muon and adamw alone."""
    weight_decay: float = Field(default=0.01, ge=0, allow_inf_nan=False)
    """Decoupled weight decay."""
    schedule: Literal["one-cycle", "constant"] = "one-cycle"
    """Learning rate over time: up for a tenth of the steps, then down a cosine to zero; or
    always the same."""
    augment: Literal["none", "flip", "light", "strong"] = "light"
    """How much pictures are varied: flip is left and right; light adds scale to 15 %, turns to
    5 degrees, shifts to 5 %, brightness and contrast; strong is for pictures without an
    upright side."""
    elastic: float = Field(default=0.0, ge=0, allow_inf_nan=False)
    """Standard deviation [working pixels] of random displacements on a 3 x 3 grid, between
    which pictures are smoothly deformed; 10 in the paper, 0 for none."""
    border_weight: float = Field(default=0.0, ge=0, le=1000)
    """How much more than others pixels weigh in the loss that part two objects which touch,
    falling off with the distance to both; 10 in the paper, 0 for none."""
    border_sigma: float = Field(default=5.0, gt=0, le=100)
    """How fast that weight falls off [working pixels]; 5 in the paper."""
    class_weights: Literal["none", "balanced"] = "none"
    """Whether each class weighs the same in the loss, however few its pixels."""
    target_scale: int = Field(default=1, ge=1, le=4)
    """Target pixels along one working pixel: above 1, the loss compares the enlarged logits
    with a finer mask, so that outlines count below the working pixel."""
    growth: tuple[Growth, ...] = ()
    """Earlier parts of training at smaller sizes, each with `until` and `scale`; best written
    in a file, as configs/carvana-fast.toml does."""
    ema: float = Field(default=0.0, ge=0, lt=1)
    """Decay per step of a running average of the weights, which is then what is judged and
    kept; 0 for none."""
    validation: float = Field(default=0.2, gt=0, lt=1)
    """Share of the groups held out to judge the network, where the folder does not say."""
    group_by: str | None = None
    """Regular expression; pictures whose names agree in its first group stay on one side of
    the split."""
    images: str | None = None
    """Folder of the pictures, below the data folder; left out, it is found."""
    masks: str | None = None
    """Folder of the masks, below the data folder; left out, it is found."""
    pairs: str | None = None
    """How pictures and masks belong together, where names do not say it: two patterns as in
    'images/*.jpg:masks/*_m.png', or a CSV file with the columns image and mask."""
    colors: tuple[str, ...] = ()
    """For masks that name classes by colour: one for each class, as in ff0000, in the order of
    the class names."""
    class_names: tuple[str, ...] = ()
    """Names of the classes in the order of their ids, background included."""
    ignore: int | None = Field(default=None, ge=0)
    """Mask value of pixels that do not count."""
    seed: int = Field(default=0, ge=0)
    """Seed of the weights, the split, the order and the augmentation."""
    precision: Precision = "auto"
    """Arithmetic of convolutions: auto is bf16 where the hardware has it, fp32 elsewhere."""
    device: Device = "auto"
    """Where the network runs: auto takes cuda, then mps, then cpu."""
    workers: int | None = Field(default=None, ge=0)
    """Processes that prepare batches beside the training; 0 does it in the same process. Left
    out: 0 where the network runs on the CPU, which they would take from it, else 4."""

    @field_validator("colors")
    @classmethod
    def _know_colors(cls, colors: tuple[str, ...]) -> tuple[str, ...]:
        colors = tuple(color.removeprefix("#").lower() for color in colors)
        wrong = [color for color in colors if not re.fullmatch("[0-9a-f]{6}", color)]
        if wrong:
            raise ValueError(f"{wrong[0]!r} is no colour; write six hexadecimal digits, as ff0000")
        if len(set(colors)) != len(colors):
            raise ValueError("each class needs a colour of its own")
        return colors

    @property
    def legend(self) -> tuple[tuple[int, int, int], ...]:
        """The colors as RGB, 0..255."""
        return tuple((c[0], c[1], c[2]) for c in map(bytes.fromhex, self.colors))

    @field_validator("growth")
    @classmethod
    def _grow_in_order(cls, growth: tuple[Growth, ...]) -> tuple[Growth, ...]:
        ends = [part.until for part in growth]
        if ends != sorted(set(ends)):
            raise ValueError(f"each part must end after the one before, not at {ends}")
        return growth


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


def read_settings(path: Path) -> dict[str, Any]:
    """Read the settings that a TOML file names, and no others.

    Args:
        path: The file.

    Returns:
        Checked values by key.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is no TOML, or holds an unknown key or an impossible value.
    """
    try:
        given = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise FileNotFoundError(f"{path}: no such configuration file.") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
        raise ValueError(f"{path}: not a readable TOML file ({error}).") from error
    make_config(given, source=str(path))
    return given


def make_config(settings: dict[str, Any], source: str = "settings") -> TrainConfig:
    """Check settings and fill in the defaults.

    Args:
        settings: Values by key.
        source: What to call their origin in an error.

    Returns:
        The settings.

    Raises:
        ValueError: An unknown key or an impossible value.
    """
    try:
        return TrainConfig(**settings)
    except ValidationError as error:
        raise ValueError(f"{source}: {explain(error)}") from None


def write_config(path: Path, config: TrainConfig) -> None:
    """Write settings as TOML, readable by `load_config`.

    Args:
        path: The file to write.
        config: The settings; those that are None are left out, as TOML has no such value.
    """
    plain = config.model_dump(mode="json", exclude_none=True)
    growth = plain.pop("growth")
    lines = [f"{key} = {_toml(value)}" for key, value in plain.items()]
    for part in growth:
        lines += [
            "",
            "[[growth]]",
            *(f"{key} = {_toml(value)}" for key, value in part.items()),
        ]
    with write_whole(path) as file:
        file.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _toml(value: Any) -> str:
    # as JSON, but TOML has no surrogate pairs for characters beyond \uffff, and no bare DEL
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def explain(error: ValidationError) -> str:
    """Say what is wrong with settings, and what to do.

    Args:
        error: What pydantic raised for a `TrainConfig`.

    Returns:
        One line.
    """
    return "; ".join(map(_explain, error.errors()))


def _explain(problem: Any) -> str:
    key = ".".join(str(part) for part in problem["loc"])
    if problem["type"] != "extra_forbidden":
        message = problem["msg"].removeprefix("Value error, ")
        return f"{key}: {message} (it is {problem['input']!r})"
    known = TrainConfig.model_fields if len(problem["loc"]) == 1 else Growth.model_fields
    nearest = difflib.get_close_matches(str(problem["loc"][-1]), known, n=1)
    advice = f"did you mean {nearest[0]!r}?" if nearest else "known are " + ", ".join(known) + "."
    return f"unknown key {key!r}; {advice}"
