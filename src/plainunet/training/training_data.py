"""The data of a run as training sees them: samples, augmented; checked, and as a contact sheet."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from plainunet.config import TrainConfig, is_augment_file
from plainunet.dataset.augment import load_augment
from plainunet.dataset.cache import LIMIT
from plainunet.dataset.coding import Colors
from plainunet.dataset.dataset import SegmentationDataset, Shape
from plainunet.dataset.samples import Samples, TrainingSet
from plainunet.dataset.scenes import are_blocks
from plainunet.dataset.shards import ShardedDataset, ShardSamples
from plainunet.dataset.split import shared_groups
from plainunet.errors import Error
from plainunet.formats.colors import IGNORED
from plainunet.formats.sources import cache_folder
from plainunet.palette import default_colors
from plainunet.parts import OwnParts
from plainunet.prediction.drawing import as_rgb, draw_overlay, write_rgb
from plainunet.reporter import Reporter, silent
from plainunet.settings import with_dataset
from plainunet.text import plural
from plainunet.training.plan import SCENE_PATCH, choose_size
from plainunet.training.run import Run
from plainunet.training.teacher import TrainedTeacher

_TRIED = 8
"""Maximum number of samples that the user's own augmentation is tried on."""
_ROWS, _COLUMNS, _CELL = 6, 6, 220
"""Images and draws of a contact sheet, and the width of each [pixels]."""


def fill_in(
    dataset: SegmentationDataset, config: TrainConfig, reporter: Reporter
) -> tuple[SegmentationDataset, TrainConfig]:
    """Split the pairs; fill in the classes and, unless the plan chooses it, the input size."""
    config = _in_patches(dataset, config, reporter)
    split, coding = dataset.split(config), dataset.coding
    size = config.size
    if not (size or config.patch or config.budget):
        size = choose_size(dataset.sizes)
    config = config.model_copy(update={"classes": dataset.class_names, "size": size})
    counted, total = sum(dataset.class_pixels), sum(h * w for h, w in dataset.sizes)
    if config.ignore is not None and counted == total:
        reporter.note(f"note: --ignore {config.ignore}: no mask contains this value")
    classes = ", ".join(f"{name} {share:.1%}" for name, share in dataset.shares.items())
    if counted < total:
        classes += f"; {1 - counted / total:.1%} of all pixels ignored"
    idle = [f"--{name}" for name in ("validation", "stratify") if name in config.model_fields_set]
    if idle and dataset.counts()["val"]:
        reporter.note(f"note: the folder defines its own split; ignoring {' and '.join(idle)}")
    counts = split.counts()
    if shared := shared_groups(split.excerpt()):
        reporter.note(
            f"warning: data leakage: {plural(len(shared), 'group')} in more than one split "
            f"({', '.join(shared[:5])}); expect scores that are too high"
        )
    reporter.note(
        f"{len(split)} pairs: {counts['train']} train, {counts['val']} validation\n"
        f"masks: {coding.kind} {_shorten(coding.values)}; {classes}"
    )
    return split, config


def _in_patches(
    dataset: SegmentationDataset, config: TrainConfig, reporter: Reporter
) -> TrainConfig:
    """Train on patches of scenes: their blocks are parts of images, not images to be downscaled."""
    if not are_blocks(dataset.pairs):
        return config
    if config.patch:
        largest = [int(config.factor * max(sides)) for sides in zip(*dataset.sizes, strict=True)]
        if any(side > most for side, most in zip(config.patch, largest, strict=True)):
            height, width = config.patch
            raise Error(
                f"--patch {height} {width} is larger than the blocks that the scenes are read in, "
                f"{largest[0]} x {largest[1]} input pixels at most. Give a smaller patch, or a "
                "larger --block."
            )
        return config
    if config.size:
        raise Error(
            f"--size {config.size[0]} {config.size[1]} would downscale the blocks of the scenes. "
            "Give the size of patches, --patch, or read scenes whole: --block 0."
        )
    side = min(SCENE_PATCH, *map(min, dataset.sizes))
    side = max(2 ** (config.depth + 1), 32 * (side // 32))
    reporter.note(f"patches of {side} x {side} pixels: scenes are read in blocks (--patch)")
    return config.model_copy(update={"patch": (side, side)})


def _shorten(values: tuple[int, ...]) -> str:
    return f"{{{', '.join(map(str, values))}}}" if len(values) <= 12 else f"0..{values[-1]}"


def load_samples(run: Run) -> dict[str, Samples]:
    """Samples of the splits "train" and "val", decoded into the cache as far as it has room."""
    config, dataset, reporter = run.config, run.dataset, run.reporter
    if grey := count_grey(dataset.shapes):
        reporter.note(f"note: {grey} greyscale images are converted to RGB, like the others")
    samples = {part: _make_samples(config, dataset.part(part), part) for part in ("train", "val")}
    teacher = _load_teacher(run)

    def fill() -> None:
        for part, each in samples.items():
            if isinstance(each, ShardSamples):  # are read when they are drawn
                continue
            teaches = teacher if part == "train" else None
            reporter.stage("teacher predictions" if teaches else "reading images", len(each))
            is_ready = each.fill_cache(lambda done, total: reporter.advance(done), teaches)
            reporter.advance(len(each))  # cached images are not reported
            if not is_ready:
                reporter.note(
                    f"note: the {part} images do not fit into the cache {cache_folder()} (at most "
                    f"{LIMIT / 2**30:.0f} GiB, or the free disk space): each is decoded whenever "
                    "it is used, which is slower. A smaller --size or --factor needs less."
                )
        if teacher:
            teacher.report_warnings(reporter)

    run.processes.in_turn(fill)  # one process per machine decodes
    return samples


def _load_teacher(run: Run) -> TrainedTeacher | None:
    """Load the teacher, if there is one; a resumed run needs the one that it began with."""
    teacher = TrainedTeacher.load(run.config, run.dataset, run.parts.network)
    if teacher and run.teacher not in (None, teacher.digest):
        raise Error(
            f"{run.config.teacher}: the teacher has changed since the run began. Restore it, or "
            "start a new run with another --out."
        )
    run.teacher = teacher.digest if teacher else None
    return teacher


def _make_samples(config: TrainConfig, dataset: SegmentationDataset, part: str) -> Samples:
    settings = (
        config.size,
        count_channels(dataset.shapes),
        config.target_scale,
        part == "train" and config.border_weight > 0,
        config.factor,
    )
    if isinstance(dataset, ShardedDataset):
        return ShardSamples(dataset, *settings)
    return Samples(dataset.pairs, dataset.coding, *settings)


def count_channels(shapes: Sequence[Shape]) -> int:
    """Channels of the network's input."""
    return max(channels for _, _, channels in shapes)


def count_grey(shapes: Sequence[Shape]) -> int:
    """Number of greyscale images among RGB ones."""
    return sum(channels == 1 for _, _, channels in shapes) if count_channels(shapes) == 3 else 0


def make_training_set(
    config: TrainConfig, parts: OwnParts, samples: Samples, size: tuple[int, int]
) -> TrainingSet:
    """Make the augmented training set of a run at one image size [pixels]."""
    return TrainingSet(
        samples,
        parts.augment or config.augment,
        config.seed,
        size,
        patch=config.patch,
        elastic=config.elastic,
        border=(config.border_weight, config.border_sigma) if config.border_weight else None,
    )


def read_augment(config: TrainConfig, parts: OwnParts) -> OwnParts:
    """Read the file of transforms that the settings name, if they do."""
    if parts.augment or not is_augment_file(config.augment):
        return parts
    loaded = load_augment(Path(config.augment))
    return replace(parts, augment=loaded.having(config.augment))


def check_augment(run: Run, samples: Samples) -> None:
    """Try the user's own augmentation on some training samples, twice on the first.

    Raises:
        PartError: It does not keep images and masks what they are.
    """
    if not run.parts.augment:
        return
    training = make_training_set(run.config, run.parts, samples, run.config.window)
    draws = [(0, number, number) for number in range(min(_TRIED, len(samples)))]
    first, *_ = [training[draw] for draw in draws]
    again = training[draws[0]]
    if not all((one == other).all() for one, other in zip(first, again, strict=True)):
        run.reporter.note(
            f"warning: --augment {run.parts.augment.name} draws other numbers for the same seed, "
            "so the run cannot be repeated. In your own transforms, draw from "
            "self.random_generator or self.py_random."
        )


def draw_sheet(
    data: str | Path,
    out: str | Path,
    config: TrainConfig | None = None,
    reporter: Reporter = silent,
    *,
    augment: Any = None,
) -> None:
    """Draw what training sees of some images: a contact sheet of augmented images and masks.

    Each image has two rows: the image and its mask, as read at the input size, then as augmented
    in five epochs.

    Args:
        data: The data folder.
        out: The PNG file to write.
        config: The settings of the training; default: `TrainConfig()`.
        reporter: Receives notes and progress.
        augment: Your own augmentation, as for `train`.

    Raises:
        FileNotFoundError: The folder does not exist.
        ValueError: The data cannot be read, or the augmentation does not do what it should.
    """
    parts = OwnParts.of(augment=augment)
    config = with_dataset(config or TrainConfig(), Path(data))
    config = config.model_copy(update={**parts.names(), "budget": None})  # which would set the size
    parts = read_augment(config, parts)
    parts.require(TrainConfig(augment=config.augment), "the settings")
    dataset = SegmentationDataset.open(data, config, reporter)
    dataset, config = fill_in(dataset, config, reporter)
    trained = dataset.part("train")
    rows = min(_ROWS, len(trained))
    chosen = trained.subset(np.linspace(0, len(trained) - 1, rows).round().astype(int).tolist())
    samples = _make_samples(config, chosen, "train")
    seen = make_training_set(config, parts, samples, config.window)
    plain = make_training_set(
        config.model_copy(update={"augment": "none", "elastic": 0.0}),
        OwnParts(),
        samples,
        config.window,
    )
    coding = dataset.coding
    colors = coding.colors if isinstance(coding, Colors) else default_colors(coding.num_classes)
    reporter.stage("augmenting", rows)
    lines: list[NDArray[np.uint8]] = []
    for row in range(rows):
        drawn = [plain[0, row, row], *(seen[epoch, row, row] for epoch in range(_COLUMNS - 1))]
        cells = [_draw(each[0].numpy(), each[1].numpy(), colors) for each in drawn]
        lines += [_beside([image for image, _ in cells]), _beside([mask for _, mask in cells])]
        reporter.advance(row + 1)
    write_rgb(Path(out), np.concatenate(lines))


def _draw(
    image: NDArray[Any], shares: NDArray[np.uint8], colors: Sequence[tuple[int, int, int]]
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """An image and its overlay with the mask, of the width of a cell."""
    scale = _CELL / image.shape[1]
    size = round(image.shape[0] * scale), _CELL
    shown: NDArray[Any] = cv2.resize(as_rgb(image), size[::-1], interpolation=cv2.INTER_AREA)
    fine = cv2.resize(shares, size[::-1], interpolation=cv2.INTER_LINEAR)
    mask = fine.argmax(axis=2).astype(np.uint8)
    mask[fine.sum(axis=2, dtype=np.int64) < 128] = IGNORED
    drawn = draw_overlay(shown, mask, colors)
    drawn[mask == IGNORED] //= 3
    return shown, drawn


def _beside(cells: Sequence[NDArray[np.uint8]]) -> NDArray[np.uint8]:
    """Cells side by side, with a white margin at the right and bottom of each."""
    margin = ((0, 4), (0, 4), (0, 0))
    return np.concatenate([np.pad(cell, margin, constant_values=255) for cell in cells], axis=1)
