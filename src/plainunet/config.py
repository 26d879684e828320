"""What a run is, what a data folder holds, and the options of each verb, as pydantic models.

One model serves flags, TOML files, Python and the run folder.
"""

import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator


class FolderConfig(BaseModel):
    """Where a data folder has its pictures and masks."""

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)

    images: str | None = None
    """Folder of the pictures, below the data folder; left out, it is found."""
    masks: str | None = None
    """Folder of the masks, below the data folder, or a COCO file (.json) or a list of run-length
    codes (.csv); left out, it is found."""
    pairs: str | None = None
    """How pictures and masks belong together, where names do not say it: two patterns as in
    `images/*.jpg:masks/*_m.png`, or a CSV file with the columns image and mask."""
    rle: Literal["rows", "columns"] | None = None
    """How run-length codes count pixels: row by row, as in Kaggle's Carvana, or column by
    column, as in most other sets; left out, it is found."""
    unlisted: Literal["empty"] | None = None
    """What images are that a list of run-length codes does not name: empty, as nothing is in
    them; an error otherwise."""
    skip_unlabelled: bool = False
    """Leave out pictures that have no mask, which are an error otherwise."""
    allow_outside: bool = False
    """Follow a dataset.toml that names files outside of its own folder."""

    def folder_arguments(self) -> dict[str, Any]:
        """List where pictures and masks are, by the names of these fields."""
        return self.model_dump(include=set(FolderConfig.model_fields))


class DataConfig(FolderConfig):
    """What a data folder holds; also what a dataset.toml in it may say."""

    group_by: str | None = None
    """Regular expression; pictures whose names agree in its first group stay on one side of
    the split."""
    classes: tuple[str, ...] = ()
    """Names of the classes in the order of their ids, background included; of flags also with
    commas between."""
    values: tuple[int, ...] = ()
    """For masks of other values than class ids: the value of each class, in the order of the
    class names."""
    colors: tuple[str, ...] = ()
    """For masks that name classes by colour: one for each class, as in ff0000, in the order of
    the class names."""
    ignore: int | None = Field(default=None, ge=0)
    """Mask value of pixels that do not count."""
    encoding: Literal["ids", "instances", "threshold"] | None = None
    """What mask values are: class ids; numbers of objects, all above 0 being class 1; or, of
    smoothed masks, class 1 from 128 on; left out, it is found."""

    @field_validator("ignore")
    @classmethod
    def _count_classes(cls, ignore: int | None, info: ValidationInfo) -> int | None:
        if ignore is not None and ignore in info.data.get("values", ()):
            raise ValueError("one of values is the same: a class whose pixels do not count")
        return ignore

    @field_validator("classes", "values", "colors", mode="before")
    @classmethod
    def _take_commas(cls, listed: Any) -> Any:
        listed = (listed,) if isinstance(listed, str) else listed
        if not isinstance(listed, list | tuple) or not all(isinstance(x, str) for x in listed):
            return listed
        return tuple(part.strip() for each in listed for part in each.split(","))

    @field_validator("values")
    @classmethod
    def _differ(cls, values: tuple[int, ...]) -> tuple[int, ...]:
        if len(set(values)) != len(values) or not all(0 <= value < 65536 for value in values):
            raise ValueError("each class needs a value of its own, from 0 to 65535")
        return values

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


Device = Literal["auto", "cpu", "cuda", "mps"]
TTAName = Literal["none", "mirror", "flips", "turns"]
Precision = Literal["auto", "fp32", "bf16", "fp16"]
TrackerName = Literal["tensorboard", "mlflow", "wandb", "trackio"]


class Growth(BaseModel):
    """A part of training that sees smaller pictures than the last epochs do."""

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)

    until: float = Field(gt=0, lt=1)
    """Share of all epochs after which this part ends."""
    scale: float = Field(gt=0, le=1)
    """Size of its pictures, as a share of the working size."""


class NetworkConfig(BaseModel):
    """The network of a run: what `plainunet.UNet` takes beside channels and classes."""

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)

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
        """List what the network is made with: keyword arguments of `plainunet.UNet`."""
        return self.model_dump(include=set(NetworkConfig.model_fields))


class TrainConfig(DataConfig, NetworkConfig):
    """The settings of one training run: its network's, its data's, and these."""

    budget: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    """How long the whole run may take, as in 90s, 20m or 1h30m: the working size, the width and
    the length of training are fitted to it, and the learning rate comes down as it ends."""
    epochs: int = Field(default=20, ge=1)
    """How often every training picture is seen; left out, a clock decides, see budget."""
    size: tuple[int, int] | None = None
    """Working size, height and width [pixels]: pictures are reduced to fit in it; left out, it
    is chosen from the pictures, reduced to about 256 x 256 pixels of area."""
    patch: tuple[int, int] | None = None
    """Instead of a working size: height and width [pixels] of the patches of large pictures that
    are trained on; each picture keeps its own size then, or is reduced by the factor."""
    factor: float = Field(default=1.0, gt=0, le=1)
    """With patches: length of a picture's side after it is reduced, as a share of its own."""
    batch_size: int = Field(default=8, ge=1)
    """Pictures per optimiser step."""
    accumulation: int = Field(default=1, ge=1)
    """Into how many parts a batch is cut, one at a time being in memory: less memory, the same
    step but for batch normalisation, which sees its part alone."""
    learning_rate: float = Field(default=2e-3, gt=0, allow_inf_nan=False)
    """Highest learning rate of the schedule."""
    start_from: str | None = None
    """A checkpoint whose weights the network begins with, and whose shape it has; the classes and
    the input channels may be others."""
    freeze: Literal["none", "encoder"] = "none"
    """What of these weights stays as it is: encoder is the whole contracting path."""
    loss: Literal["cross-entropy", "dice", "cross-entropy+dice", "focal", "lovasz", "outline"] = (
        "cross-entropy+dice"
    )
    """What is minimised; outline is cross-entropy+dice in which pixels near one weigh more."""
    optimizer: Literal["muon", "adamw", "adam", "sgd", "rmsprop"] = "adamw"
    """The optimiser; sgd is with Nesterov momentum 0.9."""
    weight_decay: float = Field(default=0.01, ge=0, allow_inf_nan=False)
    """Weight decay: decoupled in muon and adamw, part of the gradient in sgd and rmsprop; adam
    has none."""
    clip: float = Field(default=0.0, ge=0, allow_inf_nan=False)
    """Largest norm of all gradients together, to which longer ones are shortened; 0 for any."""
    schedule: Literal["one-cycle", "cosine", "poly", "constant"] = "one-cycle"
    """Learning rate over time: down a cosine to zero, in one-cycle after a tenth of the steps
    upwards; as a power of what is left (poly); or always the same."""
    warm_up: float | None = Field(default=None, ge=0, lt=1)
    """Share of the steps in which the learning rate rises to its highest; left out, a tenth in
    one-cycle and none in the others."""
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
    patience: int = Field(default=0, ge=0)
    """Stop after so many epochs without a better validation Dice; 0 for never."""
    ema: float = Field(default=0.0, ge=0, lt=1)
    """Decay per step of a running average of the weights, which is judged as well, and kept
    where it is better; 0 for none."""
    validation: float = Field(default=0.2, gt=0, lt=1)
    """Share of the groups held out to judge the network, where the folder does not say."""
    folds: int | None = Field(default=None, ge=2)
    """Into how many parts the groups are dealt, of which each validates once; with fold."""
    fold: int | None = Field(default=None, ge=0)
    """Which of these parts validates, from 0."""
    stratify: bool = False
    """Whether pictures with little and with much foreground are shared out evenly."""
    seed: int = Field(default=0, ge=0, lt=2**63)
    """Seed of the weights, the split, the order and the augmentation."""
    precision: Precision = "auto"
    """Arithmetic of convolutions: auto is bf16 where the hardware has it, fp16 on older CUDA
    GPUs, fp32 elsewhere."""
    deterministic: bool = False
    """Refuse operations on GPUs whose result depends on chance, and take slower ones instead;
    on CPUs runs of the same number of threads repeat bit for bit anyway."""
    device: Device = "auto"
    """Where the network runs: auto takes cuda, then mps, then cpu."""
    workers: int | None = Field(default=None, ge=0)
    """Processes that prepare batches beside the training; left out, 4 where the network runs on
    a GPU, and none where it runs on the CPU, which they would take from it."""
    sync_batch_norm: bool = False
    """With several processes: batch normalisation sees the whole batch, not each one's share."""
    track: tuple[TrackerName, ...] = ()
    """Experiment trackers that are told of the run; of flags also with commas between."""

    @field_validator("track", mode="before")
    @classmethod
    def _take_names(cls, track: Any) -> Any:
        return cls._take_commas(track)

    @field_validator("budget", mode="before")
    @classmethod
    def _read_duration(cls, budget: Any) -> Any:
        if not isinstance(budget, str):
            return budget
        match = re.fullmatch(r"(?:(\d+)h)?(?:(\d+)m(?:in)?)?(?:(\d+)s?)?", budget.strip().lower())
        if match is None or not any(match.groups()):
            raise ValueError("write a duration as in 90s, 20m or 1h30m")
        hours, minutes, seconds = (int(part or 0) for part in match.groups())
        return 3600.0 * hours + 60 * minutes + seconds

    @field_validator("patch", "factor")
    @classmethod
    def _reduce_once(cls, value: Any, info: ValidationInfo) -> Any:
        if info.field_name == "patch" and value and info.data.get("size"):
            raise ValueError("leave out size, which reduces pictures to it, or patch")
        if info.field_name == "factor" and value != 1 and not info.data.get("patch"):
            raise ValueError("give a patch too: a factor says at what scale it is cut")
        return value

    @property
    def window(self) -> tuple[int, int]:
        """Height and width of what training sees at its full size [working pixels]."""
        window = self.patch or self.size
        if window is None:
            raise ValueError("size is missing")
        return window

    @field_validator("freeze")
    @classmethod
    def _keep_what_is_learnt(cls, freeze: str, info: ValidationInfo) -> str:
        if freeze != "none" and not info.data.get("start_from"):
            raise ValueError("give start_from too: weights that have learnt nothing would stay")
        return freeze

    @field_validator("growth")
    @classmethod
    def _grow_in_order(cls, growth: tuple[Growth, ...]) -> tuple[Growth, ...]:
        ends = [part.until for part in growth]
        if ends != sorted(set(ends)):
            raise ValueError(f"each part must end after the one before, not at {ends}")
        return growth


class NetworkOptions(NetworkConfig):
    """All arguments of a UNet."""

    in_channels: int = Field(default=3, ge=1, le=4096)
    """Channels of a picture."""
    num_classes: int = Field(default=2, ge=2, le=255)
    """Classes, background included."""
    base_channels: int = Field(default=64, ge=1, le=1024)
    """Channels of the first level; each level below has twice as many."""


Output = Literal[
    "mask",
    "values",
    "overlay",
    "probabilities",
    "probabilities-16",
    "probabilities-float",
    "contours",
    "instances",
    "areas",
    "coco",
    "rle-rows",
    "rle-columns",
]


class CardOptions(BaseModel):
    """What holds instead of what the checkpoint says."""

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)

    threshold: float | None = Field(default=None, ge=0, le=1)
    """Of two classes: probability of the second from which a pixel belongs to it."""
    tta: TTAName | None = None
    """Test-time augmentation: pictures are also seen mirrored left to right (mirror), top to
    bottom as well (flips), by quarter turns as well (turns), and probabilities are averaged."""
    scales: tuple[Annotated[float, Field(gt=0, le=4)], ...] | None = Field(
        default=None, min_length=1
    )
    """Pictures are seen so many times as large, and probabilities are averaged: 0.75 1 1.25."""
    min_object: int | None = Field(default=None, ge=0)
    """Objects of fewer pixels are given to what surrounds them."""
    fill_holes: int | None = Field(default=None, ge=0)
    """Holes of up to so many pixels are filled."""

    def instead(self) -> dict[str, Any]:
        """List the fields of `Card` that were given, for `Predictor.load`."""
        return self.model_dump(include=set(CardOptions.model_fields), exclude_none=True)


class PredictOptions(CardOptions):
    """The same, what is written, and by which other checkpoints."""

    save: tuple[Output, ...] = ()
    """What is written beside the masks: values (masks as those of training were), overlay,
    probabilities (8-bit PNG; -16: TIFF of 16 bits, -float: of floats), contours (GeoJSON),
    instances (numbered objects, and their list), areas (CSV), coco (JSON), rle-rows and
    rle-columns (CSV of run-length codes, as Kaggle's Carvana and most other sets count)."""
    others: tuple[Path, ...] = ()
    """More checkpoints, whose probabilities are averaged with those of the first."""


class EvaluateOptions(BaseModel):
    """What is judged of a folder, and how."""

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)

    split: Literal["train", "val", "test", "all"] | None = None
    """Take this part."""
    objects: bool = False
    """Also count objects, as connected regions; it is done anyway where masks number them."""
    tune: bool = False
    """First tune threshold, test-time augmentation and minimum object size on the validation split,
    write them into a copy, NAME-tuned.safetensors next to the checkpoint, and evaluate the copy."""
