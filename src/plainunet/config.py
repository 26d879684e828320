"""What a run is, what a data folder holds, and the options of each verb, as pydantic models.

One model serves flags, TOML files, Python and the run folder.
"""

import difflib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
)

from plainunet.errors import Error, unknown_choice
from plainunet.parts import is_own


class Settings(BaseModel):
    """Settings that cannot be changed; a wrong one is an `Error` that names it."""

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)

    def __init__(self, **given: Any) -> None:
        """Check the settings.

        Raises:
            Error: A name is unknown, or a value is invalid.
        """
        try:
            super().__init__(**given)
        except ValidationError as error:
            raise Error(explain(error, type(self)), "argument") from None

    # only callers in Python get an Error; where pydantic validates, it keeps the place of a problem
    __init__.__pydantic_base_init__ = True  # type: ignore[attr-defined]

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """Copy the settings, with others in place of some; these are checked.

        Raises:
            Error: A name is unknown, or a value is invalid.
        """
        copied = super().model_copy(deep=deep)
        given = {name: getattr(copied, name) for name in self.model_fields_set}
        return type(self)(**{**given, **update}) if update else copied


def explain(error: ValidationError, model: type[BaseModel], as_flags: bool = False) -> str:
    """Describe invalid settings, and the fix, in one line; `as_flags`: of the command line."""
    problems = error.errors()
    # a list with a wrong element is also reported as too short
    inner = {each["loc"][:end] for each in problems for end in range(1, len(each["loc"]))}
    outer = [each for each in problems if each["loc"] not in inner]
    return "; ".join(_explain(each, model, as_flags) for each in outer)


def _explain(problem: Any, model: type[BaseModel], as_flags: bool) -> str:
    place = problem["loc"]
    # not the number of a wrong value of a list: the value is shown
    key = ".".join(map(str, place[:-1] if isinstance(place[-1], int) else place))
    key = f"--{key.replace('_', '-')}" if as_flags else key
    if problem["type"] == "literal_error":
        choices = re.findall("'([^']*)'", problem["ctx"]["expected"])
        return unknown_choice(key, problem["input"], choices)
    if problem["type"] != "extra_forbidden":
        message = problem["msg"].removeprefix("Value error, ").partition(", unable to parse")[0]
        message = message.replace("Input should be", "must be")
        return f"{key}: {message} (got {problem['input']!r})"
    known = model.model_fields if len(problem["loc"]) == 1 else Growth.model_fields
    nearest = difflib.get_close_matches(str(problem["loc"][-1]), known, n=1)
    advice = f"did you mean {nearest[0]!r}?" if nearest else f"known keys: {', '.join(known)}."
    return f"unknown key {key!r}; {advice}"


class FolderConfig(Settings):
    """Where a data folder keeps its images and masks."""

    images: str | None = None
    """Folder of the images, relative to the data folder. Default: detected."""
    masks: str | None = None
    """Folder of the masks, relative to the data folder, or a COCO file (.json), a table of
    run-length codes (.csv), or polygons (.gpkg, .geojson, .shp, .fgb). Default: detected."""
    pairs: str | None = None
    """Which mask belongs to which image, if the names do not tell: two patterns such as
    `images/*.jpg:masks/*_m.png`, or a CSV file with the columns image and mask."""
    rle: Literal["rows", "columns"] | None = None
    """Pixel order of run-length codes: rows, as in Kaggle's Carvana, or columns, as in most other
    datasets. Default: detected."""
    unlisted: Literal["empty"] | None = None
    """empty: images missing from a table of run-length codes have an empty mask. Default: such
    images are an error."""
    class_column: str | None = None
    """Column of polygons that holds their class; "": the file's name is the class. Default:
    detected."""
    block: int | None = Field(default=None, ge=0)
    """Side of the blocks [pixels] that scenes are cut into, each read where it lies and kept in one
    split. 0: read scenes whole. Default: 1024 for TIFF of more than 50 megapixels."""
    skip_unlabelled: bool = False
    """Skip images without a mask instead of reporting an error."""
    allow_outside: bool = False
    """Allow the folder's dataset.toml to name files outside of the folder."""

    def folder_arguments(self) -> dict[str, Any]:
        """Return the fields of this class alone, by name."""
        return self.model_dump(include=set(FolderConfig.model_fields))


class DataConfig(FolderConfig):
    """What a data folder holds: flags, and the contents of its dataset.toml."""

    group_by: str | None = None
    """Regular expression on image names. Images that agree in its first group stay in one split,
    which prevents data leakage: `([^_]+)_` for all images of one patient or video."""
    classes: tuple[str, ...] = ()
    """Class names in the order of their ids, background first; commas work too."""
    values: tuple[int, ...] = ()
    """Mask value of each class, in the order of the class names, if values are not class ids."""
    colors: tuple[str, ...] = ()
    """Colour of each class in colour-coded masks, in the order of the class names, such as
    000000 ff0000."""
    ignore: int | None = Field(default=None, ge=0)
    """Mask value to ignore (void, ignore index): neither trained on nor evaluated."""
    encoding: Literal["ids", "instances", "threshold"] | None = None
    """Meaning of mask values: class ids; instances (object numbers: everything above 0 is class 1);
    or threshold (smoothed masks: class 1 from 128). Default: detected."""

    @field_validator("ignore")
    @classmethod
    def _count_classes(cls, ignore: int | None, info: ValidationInfo) -> int | None:
        if ignore is not None and ignore in info.data.get("values", ()):
            raise ValueError("the same value is listed in values, as a class")
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
        """The colours as RGB, 0..255."""
        return tuple((c[0], c[1], c[2]) for c in map(bytes.fromhex, self.colors))


Device = Literal["auto", "cpu", "cuda", "mps"]
TTAName = Literal["none", "mirror", "flips", "turns"]
BackendName = Literal["auto", "torch", "onnxruntime", "openvino"]
Precision = Literal["auto", "fp32", "bf16", "fp16"]
LossName = Literal["cross-entropy", "dice", "cross-entropy+dice", "focal", "lovasz", "boundary"]
AugmentName = Literal["none", "flip", "mild", "light", "strong"]
TrackerName = Literal["tensorboard", "mlflow", "wandb", "trackio"]
LARGEST_SIDE = 2**14
"""Maximum height or width of the network's input in training [pixels]."""


def is_augment_file(augment: str) -> bool:
    """Whether augmentation is a file of transforms."""
    return augment.lower().endswith((".yaml", ".yml", ".json"))


class Growth(Settings):
    """A stage of progressive resizing: earlier epochs train on smaller images."""

    until: float = Field(gt=0, lt=1)
    """Fraction of all epochs after which this stage ends."""
    scale: float = Field(gt=0, le=1)
    """Image size in this stage, as a fraction of the input size."""


class NetworkConfig(Settings):
    """Architecture of the network: arguments of `plainunet.UNet` except channels and classes."""

    base_channels: int = Field(default=16, ge=1, le=1024)
    """Width: channels of the first level, doubled at each level below."""
    depth: int = Field(default=4, ge=1, le=6)
    """Number of downsampling steps."""
    normalisation: Literal["batch", "group", "instance", "none"] = "batch"
    """Normalisation layer after each convolution."""
    upsampling: Literal["transposed", "bilinear"] = "transposed"
    """Upsampling in the decoder."""
    valid: bool = False
    """Unpadded convolutions, as in the paper; images are mirrored at their edges."""
    residual: bool = False
    """Residual blocks instead of plain double convolutions."""
    attention: bool = False
    """Attention gates on the skip connections (Attention U-Net)."""
    deep_supervision: bool = False
    """Deep supervision: a loss at each decoder level, each coarser one with half the weight."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Dropout rate in the two deepest encoder blocks."""
    checkpointing: bool = False
    """Activation checkpointing: recompute activations in the backward pass. Less memory, more
    time, same result."""

    @field_validator("deep_supervision")
    @classmethod
    def _supervise_padded(cls, deep_supervision: bool, info: ValidationInfo) -> bool:
        if deep_supervision and info.data.get("valid"):
            raise ValueError("needs padded convolutions; leave out valid or deep_supervision")
        return deep_supervision

    def network_arguments(self) -> dict[str, Any]:
        """Return the keyword arguments of `plainunet.UNet`."""
        return self.model_dump(include=set(NetworkConfig.model_fields))


class TrainConfig(DataConfig, NetworkConfig):
    """All settings of a training run: data, network and training.

    Example:
        ```python
        from plainunet import TrainConfig

        settings = TrainConfig(epochs=30, size=(96, 128), classes=("background", "car"))
        longer = settings.model_copy(update={"epochs": 60})
        ```
    """

    budget: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    """Time budget for the whole run, such as 90s, 20m or 1h30m. Input size, width, epochs and
    learning rate schedule are fitted to it."""
    epochs: int = Field(default=20, ge=1)
    """Number of epochs. Default: decided by the time budget."""
    size: tuple[int, int] | None = None
    """Input size, height and width [pixels]: images are downscaled to fit. Default: chosen from
    the images, about 256 x 256 pixels in area."""
    patch: tuple[int, int] | None = None
    """Train on patches of this height and width [pixels], cropped from large images, instead of
    downscaled images. Images keep their own scale, or are downscaled by the factor."""
    factor: float = Field(default=1.0, gt=0, le=1)
    """With patches: scale of the images, 0.5 for half the width and height."""
    batch_size: int = Field(default=8, ge=1)
    """Images per optimiser step."""
    gradient_accumulation: int = Field(default=1, ge=1)
    """Gradient accumulation: number of micro-batches per optimiser step. Less memory; the gradient
    is that of the full batch, but batch normalisation sees one micro-batch."""
    learning_rate: float = Field(default=2e-3, gt=0, allow_inf_nan=False)
    """Peak learning rate of the schedule. Default: that of the optimizer: 0.002 for adamw and adam,
    0.006 for muon, 0.05 for sgd, 0.001 for rmsprop."""
    pretrained: str | None = None
    """Fine-tuning: checkpoint to initialise the weights from. Architecture is taken from it;
    classes and input channels may differ."""
    teacher: str | None = None
    """Knowledge distillation: a trained model (checkpoint, run folder or exported file) of the same
    classes. The targets are the mean of the ground truth and the teacher's probabilities."""
    freeze: Literal["none", "encoder"] = "none"
    """Fine-tuning: weights that are not trained."""
    loss: LossName | str = "cross-entropy+dice"
    """Loss function. boundary: cross-entropy+dice with more weight near object boundaries.
    focal and balanced class weights help with class imbalance. Or your own, as
    package.module:function."""
    optimizer: Literal["muon", "adamw", "adam", "sgd", "rmsprop"] = "adamw"
    """Optimiser."""
    momentum: float = Field(default=0.9, ge=0, lt=1)
    """Nesterov momentum of sgd. 0.99 in the paper, for batches of one tile."""
    weight_decay: float = Field(default=0.01, ge=0, allow_inf_nan=False)
    """Weight decay: decoupled for muon and adamw, L2 for sgd and rmsprop; adam ignores it."""
    gradient_clip: float = Field(default=0.0, ge=0, allow_inf_nan=False)
    """Gradient clipping: maximum gradient norm. 0 disables it."""
    schedule: Literal["one-cycle", "cosine", "poly", "constant"] = "one-cycle"
    """Learning rate schedule. one-cycle: warm-up for a tenth of the steps, then cosine decay to
    zero; poly: polynomial decay."""
    warm_up: float | None = Field(default=None, ge=0, lt=1)
    """Warm-up: fraction of the steps in which the learning rate rises. Default: 0.1 for
    one-cycle, 0 for the others."""
    augment: AugmentName | str = "light"
    """Data augmentation preset. flip: horizontal flips; mild: also JPEG compression; light: also
    scale (15 %), rotation (5 degrees), shift (5 %), brightness and contrast; strong: also vertical
    flips, rotation to 45 degrees, shear, gamma and blur, for images without an upright
    orientation. Or your own: a file (.yaml, .json) saved by Albumentations, or
    package.module:object."""
    elastic: float = Field(default=0.0, ge=0, allow_inf_nan=False)
    """Elastic deformation: standard deviation [input pixels] of random displacements on a 3 x 3
    grid. 10 in the paper; 0 disables it."""
    border_weight: float = Field(default=0.0, ge=0, le=1000)
    """Extra loss weight of the background between touching objects, decaying with the distance
    to both. 10 in the paper; 0 disables it."""
    border_sigma: float = Field(default=5.0, gt=0, le=100)
    """Decay length of that weight [input pixels]; 5 in the paper."""
    network: str | None = None
    """Your own network in place of the U-Net, as package.module:factory."""
    metrics: tuple[str, ...] = ()
    """Your own metrics in addition to Dice, IoU and the others, each as package.module:function."""
    class_weights: Literal["none", "balanced"] = "none"
    """balanced: every class has the same total weight in the loss, against class imbalance."""
    target_scale: int = Field(default=1, ge=1, le=4)
    """Target resolution relative to the input: above 1, upsampled logits are compared with a
    finer mask, which sharpens boundaries."""
    growth: tuple[Growth, ...] = ()
    """Progressive resizing: stages at smaller image sizes, each with `until` and `scale`. Best
    written in a file, as in configs/carvana-fast.toml."""
    patience: int = Field(default=0, ge=0)
    """Early stopping: stop after this many epochs without a better validation Dice. 0 disables
    it."""
    ema: float = Field(default=0.0, ge=0, lt=1)
    """Decay per step of an exponential moving average of the weights. It is validated too, and
    the better weights are kept. 0 disables it."""
    validation: float = Field(default=0.2, gt=0, lt=1)
    """Fraction of the images held out for validation, in whole groups, if the folder has no split
    of its own."""
    held_out: tuple[str, ...] = ()
    """Names of the groups held out for validation, instead of a random fraction: what group_by
    matches, such as patient7, or else the images' names without suffix."""
    folds: int | None = Field(default=None, ge=2)
    """Cross-validation: number of folds. train also needs fold; crossval trains them all, 5 by
    default."""
    fold: int | None = Field(default=None, ge=0)
    """Cross-validation: fold used for validation, counted from 0. Only for train."""
    stratify: bool = False
    """Stratified split: balance images with little and with much foreground."""
    seed: int = Field(default=0, ge=0, lt=2**63)
    """Random seed of initial weights, split, shuffling and augmentation."""
    split_seed: int | None = Field(default=None, ge=0, lt=2**63)
    """Random seed of the split. Default: that of seed."""
    precision: Precision = "auto"
    """Mixed precision: auto uses bf16 if the hardware has it, fp16 on older CUDA GPUs, else
    fp32."""
    deterministic: bool = False
    """Use deterministic, slower GPU operations only. On CPUs, runs with the same number of
    threads repeat bit for bit anyway."""
    device: Device = "auto"
    """Device to train on: auto prefers cuda, then mps, then cpu."""
    workers: int | None = Field(default=None, ge=0)
    """Number of data loader processes. Default: on a GPU 2 to 16, by the number of cores; 0
    on a CPU."""
    sync_batch_norm: bool = False
    """Multi-GPU: synchronise batch normalisation over all processes."""
    track: tuple[TrackerName, ...] = ()
    """Experiment trackers to log to; commas work too."""

    @field_validator("held_out", mode="before")
    @classmethod
    def _take_name(cls, held_out: Any) -> Any:
        return (held_out,) if isinstance(held_out, str) else held_out

    @field_validator("pretrained", "teacher", mode="before")
    @classmethod
    def _take_path(cls, path: Any) -> Any:
        return str(path) if isinstance(path, Path) else path

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

    @field_validator("size", "patch")
    @classmethod
    def _limit_sides(cls, sides: tuple[int, int] | None) -> tuple[int, int] | None:
        if sides and not 1 <= min(sides) <= max(sides) <= LARGEST_SIDE:
            raise ValueError(f"each side must be from 1 to {LARGEST_SIDE} pixels")
        return sides

    @field_validator("patch", "factor")
    @classmethod
    def _reduce_once(cls, value: Any, info: ValidationInfo) -> Any:
        if info.field_name == "patch" and value and info.data.get("size"):
            raise ValueError("give either size or patch, not both")
        if info.field_name == "factor" and value != 1 and not info.data.get("patch"):
            raise ValueError("requires patch")
        return value

    @field_validator("folds")
    @classmethod
    def _hold_out_once(cls, folds: int | None, info: ValidationInfo) -> int | None:
        if folds is not None and info.data.get("held_out"):
            raise ValueError("leave out either folds or held_out: both choose what is held out")
        return folds

    @property
    def window(self) -> tuple[int, int]:
        """Height and width of the network's input in training [pixels]."""
        window = self.patch or self.size
        if window is None:
            raise ValueError("size is missing")
        return window

    @field_validator("loss")
    @classmethod
    def _know_loss(cls, loss: str) -> str:
        if loss not in get_args(LossName) and not is_own(loss):
            known = ", ".join(get_args(LossName))
            raise ValueError(f"choose one of {known}, or your own as package.module:function")
        return loss

    @field_validator("augment")
    @classmethod
    def _know_augment(cls, augment: str) -> str:
        if augment in get_args(AugmentName) or is_augment_file(augment) or is_own(augment):
            return augment
        known = ", ".join(get_args(AugmentName))
        raise ValueError(f"choose one of {known}, a .yaml or .json file, or package.module:object")

    @field_validator("metrics")
    @classmethod
    def _name_metrics(cls, metrics: tuple[str, ...]) -> tuple[str, ...]:
        if not all(map(is_own, metrics)):
            raise ValueError("write each as package.module:function")
        return metrics

    @field_validator("network")
    @classmethod
    def _name_network(cls, network: str | None, info: ValidationInfo) -> str | None:
        if network is not None and not is_own(network):
            raise ValueError("write it as package.module:factory")
        if network is not None and info.data.get("pretrained"):
            raise ValueError("has no effect on a pretrained U-Net; leave out one of both")
        return network

    @field_validator("freeze")
    @classmethod
    def _keep_what_is_learnt(cls, freeze: str, info: ValidationInfo) -> str:
        if freeze != "none" and not info.data.get("pretrained"):
            raise ValueError("requires pretrained: untrained weights would be frozen")
        return freeze

    @field_validator("growth")
    @classmethod
    def _grow_in_order(cls, growth: tuple[Growth, ...]) -> tuple[Growth, ...]:
        ends = [part.until for part in growth]
        if ends != sorted(set(ends)):
            raise ValueError(f"each stage must end after the one before, not at {ends}")
        return growth


class NetworkOptions(NetworkConfig):
    """All arguments of a UNet."""

    in_channels: int = Field(default=3, ge=1, le=4096)
    """Channels of an image."""
    num_classes: int = Field(default=2, ge=2, le=255)
    """Number of classes, background included."""
    base_channels: int = Field(default=64, ge=1, le=1024)
    """Width: channels of the first level, doubled at each level below."""


Output = Literal[
    "mask",
    "values",
    "overlay",
    "probabilities",
    "probabilities-16",
    "probabilities-float",
    "contours",
    "gpkg",
    "instances",
    "areas",
    "coco",
    "rle-rows",
    "rle-columns",
]


class CardOptions(Settings):
    """Inference settings that override the checkpoint's own."""

    threshold: float | None = Field(default=None, ge=0, le=1)
    """Two classes: probability of class 1 from which a pixel is assigned to it."""
    tta: TTAName | None = None
    """Test-time augmentation (TTA), averaging probabilities: mirror (2 views), flips (4), turns
    (8)."""
    scales: tuple[Annotated[float, Field(gt=0, le=4)], ...] | None = Field(
        default=None, min_length=1
    )
    """Multi-scale inference, averaging probabilities over these scales: 0.75 1 1.25."""
    min_object: int | None = Field(default=None, ge=0)
    """Remove objects of fewer pixels than this."""
    fill_holes: int | None = Field(default=None, ge=0)
    """Fill holes of up to this many pixels."""

    def instead(self) -> dict[str, Any]:
        """Return the fields that were given, as keyword arguments of `Predictor.load`."""
        return self.model_dump(include=set(CardOptions.model_fields), exclude_none=True)


class PredictOptions(CardOptions):
    """Options of `predict`: inference settings, outputs, ensemble."""

    save: tuple[Literal[Output, "parquet"], ...] = ()
    """Outputs in addition to the masks: values (masks with the mask values of the training data),
    overlay, probabilities (8-bit PNG; -16: 16-bit TIFF, -float: float TIFF), contours (GeoJSON),
    gpkg (GeoPackage of polygons that cover the image without gaps; needs the extra geo), instances
    (numbered objects and their table), areas (CSV), coco (JSON), rle-rows and rle-columns (CSV of
    run-length codes, as for Kaggle's Carvana and most other datasets). Or parquet instead of the
    masks: Parquet files of areas, run-length codes and scores."""
    min_area: int = Field(default=0, ge=0)
    """With --save gpkg: regions of fewer pixels become part of their largest neighbour."""
    ensemble: tuple[Path, ...] = ()
    """More checkpoints or run folders: an ensemble whose probabilities are averaged."""


class BulkOptions(Settings):
    """Options of `predict` for many images: manifest, shard, and Ray's resources."""

    manifest: str | None = None
    """List of inputs instead of IMAGES: a CSV or Parquet file with the columns id and path; path is
    an image, a tar file or a URL, and the mask is OUT/ID.png."""
    shard: str | None = None
    """i/n: predict only every n-th input from the i-th on, such as 2/8."""
    engine: Literal["local", "ray"] = "local"
    """What spreads the work: ray, the actors of a Ray cluster; local, this process."""
    address: str | None = None
    """With --engine ray: address of the cluster, or auto. Default: one on this machine."""
    workers: str | None = Field(default=None, pattern=r"^[1-9]\d*(:[1-9]\d*)?$")
    """With --engine ray: number of actors, each with a copy of the model, or MIN:MAX. Default: up
    to as many as the cluster has CPUs or GPUs for."""
    num_cpus: float = Field(default=1, gt=0)
    """With --engine ray: CPUs, and so threads, of each actor."""
    num_gpus: float = Field(default=0, ge=0)
    """With --engine ray: GPUs of each actor; 0.5 for two actors on each GPU."""
    batch_size: int = Field(default=64, ge=1)
    """Inputs that an actor takes at a time, and rows of a Parquet file."""


class EvaluateOptions(Settings):
    """Options of `evaluate`."""

    split: Literal["train", "val", "test", "all"] | None = None
    """Split to evaluate on."""
    objects: bool = False
    """Also score objects (connected components). Always done if masks hold object numbers."""
    tune: bool = False
    """First tune threshold, test-time augmentation and minimum object size on the validation split,
    by Dice, or if objects are scored by the mean of Dice and F1 of objects; write them into a copy,
    NAME-tuned.safetensors next to the checkpoint, and evaluate the copy."""


ExportTarget = Literal["auto", "onnx", "openvino", "torch", "bioimageio"]


class ExportOptions(CardOptions):
    """Options of `export`: the file, and the images that it is checked on."""

    to: ExportTarget = "auto"
    """Format: onnx (one .onnx file), openvino (.xml, and .bin beside it), torch (.pt2 of
    torch.export), bioimageio (.zip of the BioImage Model Zoo, with ONNX weights), or auto: by the
    suffix of the file."""
    precision: Literal["fp32", "fp16", "bf16", "int8"] = "fp32"
    """Precision: fp16 halves the file (weights only, it computes in fp32), bf16 makes OpenVINO
    compute in it, int8 quantises the network with training images: a third of the size, and
    several times as fast on CPUs."""
    layout: Literal["nhwc", "deepness"] = "nhwc"
    """Input and outputs. nhwc: images as stored [N, H, W, C] to probabilities and masks; deepness:
    tiles [N, C, H, W] of floats in 0..1 to probabilities, as in QGIS's Deepness plugin."""
    tile: int | None = Field(default=None, ge=16, le=8192)
    """With --layout deepness: height and width of a tile. Default: 512, or the input size."""
    images: tuple[Path, ...] = ()
    """Images that the file is checked on, or folders of them. Default: the validation split of the
    model's training, or synthetic images if it is not there."""
    data: Path | None = None
    """Folder of images and masks to check the file on, and to calibrate int8 with."""
    author: tuple[str, ...] = ()
    """With --to bioimageio: names of the model's authors."""
    license: str | None = None
    """With --to bioimageio: the licence of the model, an SPDX identifier such as CC-BY-4.0."""
    title: str | None = None
    """With --to bioimageio: the title of the model. Default: from the names of its classes."""
    force: bool = False
    """Keep the file even if it differs from the checkpoint by more than the tolerance."""
    ensemble: tuple[Path, ...] = ()
    """Not available: an exported file holds one network."""


class ServeOptions(Settings):
    """Options of `serve`: address, token, and limits of a request and of the queue."""

    host: str = "127.0.0.1"
    """Address to listen on. Default: this machine only; 0.0.0.0 is every network."""
    port: int = Field(default=8000, ge=0, le=65535)
    """Port to listen on; 0 is any free one."""
    token: str | None = Field(default=None, min_length=1, repr=False)
    """Bearer token that clients must send. Default: the environment variable PLAINUNET_TOKEN, else
    none."""
    max_bytes: int = Field(default=64 * 2**20, ge=1)
    """Largest request body [bytes]."""
    max_pixels: int = Field(default=100_000_000, ge=1)
    """Largest image [pixels], checked before it is decoded."""
    max_queue_pixels: int = Field(default=400_000_000, ge=1)
    """Pixels of all images being decoded, waiting or predicted; beyond, the answer is 503."""
    timeout: float = Field(default=60.0, gt=0)
    """Time to receive a request, and again to answer it [s]."""
    processes: int = Field(default=1, ge=1, le=256)
    """Number of processes, each with the model in memory."""
    ui: bool = False
    """Also serve a page to try the model in a browser, at /ui. Needs one process."""
