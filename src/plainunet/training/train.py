"""A training run, top to bottom: from a data folder to a run folder with a checkpoint."""

import os
import random
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch

from plainunet.config import TrainConfig
from plainunet.dataset.classes import describe
from plainunet.dataset.coding import Colors, coding_to_json
from plainunet.dataset.dataset import SegmentationDataset, Shape
from plainunet.dataset.samples import Samples
from plainunet.dataset.split import write_split
from plainunet.doctor.images import copies_across
from plainunet.files import lock_folder, remove_unfinished, write_whole
from plainunet.formats.images import IMAGE_SUFFIXES, read_image
from plainunet.formats.problems import command
from plainunet.network.card import Card, versions
from plainunet.network.checkpoint import load_pretrained
from plainunet.network.device import choose_device
from plainunet.network.unet import UNet
from plainunet.palette import default_colors
from plainunet.prediction.predictor import Predictor
from plainunet.reporter import Forwarding, Reporter, silent
from plainunet.settings import load_config, with_dataset, write_config, write_dataset
from plainunet.system import keep_freed_memory
from plainunet.training.budget import find_end, fit_budget
from plainunet.training.distributed import Processes, join_processes
from plainunet.training.plan import BUDGET, check_window, fill_in, with_checkpoint
from plainunet.training.run import Run, RunFolder, asked_to_stop
from plainunet.training.state import read_state
from plainunet.training.trackers import require_trackers, track
from plainunet.training.trainer import Trainer
from plainunet.training.validate import evaluate_best

_MOST_COMPARED = 5000
"""Maximum number of images to search for duplicates before a run; `check` has no limit."""
_SOME = 16
"""Number of images to sample for the dtypes."""


def train(
    data: str | Path,
    out: str | Path,
    config: TrainConfig | None = None,
    reporter: Reporter = silent,
    begun: float | None = None,
) -> dict[str, Any]:
    """Train a U-Net on a folder of images and masks, and evaluate it.

    Args:
        data: The folder, see `plainunet.dataset.pairs` for its layouts.
        out: The run folder to make: `best.safetensors`, `last/`, `config.toml`, `split.csv`,
            `dataset.toml`, `metrics.jsonl`, `curves.png`, `validation/`, `saved_images/`,
            `report.html`.
        config: The settings; default: `TrainConfig()`. Data settings that are not set come from
            the folder's `dataset.toml`, if there is one.
        reporter: Receives notes and progress.
        begun: Start of the time budget on the clock of `time.monotonic` [s]; default: now.

    Returns:
        The scores on the validation split at native size, as by `evaluate`.

    Raises:
        FileNotFoundError: The folder does not exist.
        ValueError: The data cannot be read, a setting does not fit it, `out` contains a run
            already or is in use by another process, or a tracker's library is missing.
        FloatingPointError: Loss or gradient was not finite in several steps in a row.
        StoppedError: SIGINT or SIGTERM arrived; the state of the run is saved.
    """
    begun = time.monotonic() if begun is None else begun
    data, folder, config = Path(data), RunFolder(Path(out)), config or TrainConfig()
    require_apart(folder, data)
    _prepare_device(config)
    with _processes_in(folder, config.device) as processes:
        if processes.are_restarted and processes.first_decides(folder.state.is_file):
            return _resume(folder, processes, reporter)
        reporter = reporter if processes.is_first else silent
        config, dataset, plan = processes.first_decides(
            lambda: _plan(data, folder, config, reporter, begun)
        )
        return _train(Run(folder, config, dataset, reporter, processes, begun), plan)


def resume(out: str | Path, reporter: Reporter = silent) -> dict[str, Any]:
    """Resume a run from the state that was saved last.

    Without a time budget, weights and scores are those of an uninterrupted run, bit for bit on
    CPUs with the same number of threads.

    Args:
        out: The run folder.
        reporter: Receives notes and progress.

    Returns:
        The scores on the validation split at native size, as by `evaluate`.

    Raises:
        FileNotFoundError: There is no run, or its data folder is missing.
        ValueError: A file of the run is damaged, another process uses its folder, or a
            tracker's library is missing.
        FloatingPointError: Loss or gradient was not finite in several steps in a row.
        StoppedError: SIGINT or SIGTERM arrived; the state of the run is saved.
    """
    folder = RunFolder(Path(out))
    folder.require_state()
    with _processes_in(folder, load_config(folder.config).device) as processes:
        return _resume(folder, processes, reporter)


def _train(
    run: Run, plan: Sequence[str] = (), saved: dict[str, Any] | None = None
) -> dict[str, Any]:
    """Train from fresh weights or a saved state to the end, then evaluate the best natively."""
    config = run.config
    if config.size is None and config.patch is None:
        raise ValueError(f"{run.folder.config}: size is missing.")
    samples = _load_samples(run)
    network = _make_network(run, samples["train"], is_new=saved is None)
    card = _describe_model(run)
    if config.budget is not None:
        predictor = Predictor(network, card, device=config.device, precision=config.precision)
        run.end = run.processes.first_decides(lambda: find_end(run, predictor))
    run.reporter.note(f"validation previews: {run.folder.validation}")
    with (
        track(run, known=saved is not None),
        asked_to_stop(run),
        _advising_to_resume(run.folder),
    ):
        with _deterministic(config.deterministic):
            trainer = Trainer(run, network, card, samples)
            if saved:
                trainer.restore(saved)
            elif run.processes.is_first:
                _begin_folder(run, plan)
            trainer.fit()
        return evaluate_best(run)


class _DataNotes(Forwarding):
    """Marks messages about the data as notes; any problem with the data ends the run."""

    def note(self, text: str) -> None:
        self._reporter.note(text if text.startswith("note: ") else f"note: {text}")

    def problem(self, error: ValueError) -> None:
        raise error


def _plan(
    data: Path, folder: RunFolder, config: TrainConfig, reporter: Reporter, begun: float
) -> tuple[TrainConfig, SegmentationDataset, list[str]]:
    """Open the data and complete the settings; returns both and the lines of the plan."""
    if any(file.exists() for file in (folder.best, folder.config, folder.state)):
        raise ValueError(
            f"{folder.path}: contains a run already. Resume it with 'plainunet train --resume "
            f"{folder.path}', or choose another --out."
        )
    require_trackers(config, folder.path)
    config = with_dataset(config, data)
    config, taken = with_checkpoint(config)
    given = config.model_fields_set
    if config.budget is None and "epochs" not in given:
        config = config.model_copy(update={"budget": BUDGET})
    elif config.budget is not None and "epochs" in given:
        reporter.note("note: --epochs has no effect with --budget, which sets the training time")
    dataset = SegmentationDataset.open(data, config, _DataNotes(reporter))
    dataset, config = fill_in(dataset, config, reporter)
    _mention_copies(dataset, reporter)
    lines: list[str] = []
    if config.budget is not None:
        spent = time.monotonic() - begun
        config, lines = fit_budget(config, given, dataset, spent, taken)
        reporter.note("\n".join(lines))
    check_window(config, reporter)
    return config, dataset, lines


def _mention_copies(dataset: SegmentationDataset, reporter: Reporter) -> None:
    """Warn of data leakage: duplicates across the train and validation splits."""
    if len(dataset) > _MOST_COMPARED:
        return
    copies = copies_across(dataset.pairs)
    if copies:
        (one, other), *_ = copies
        check = command("plainunet", "check", dataset.folder)
        reporter.note(
            f"warning: data leakage: {len(copies)} training images duplicate a validation image, "
            f"so scores will be too high; for example {one.image} and {other.image}. To list all "
            f"of them and how to group them:\n$ {check}"
        )


def _resume(folder: RunFolder, processes: Processes, reporter: Reporter) -> dict[str, Any]:
    """Read a run's state and settings, and continue like a new run."""

    def read() -> tuple[dict[str, Any], TrainConfig, SegmentationDataset]:
        for directory in (folder.path, folder.state.parent, folder.validation):
            remove_unfinished(directory)
        saved = read_state(folder)
        config = load_config(folder.config)
        require_trackers(config, folder.path)
        data = Path(saved["data"])
        if not data.is_dir():
            raise FileNotFoundError(f"{data}: the data folder of the run is missing. Restore it.")
        return saved, config, SegmentationDataset.reopen(data, folder.split, config)

    saved, config, dataset = processes.first_decides(read)
    _prepare_device(config)
    begun = time.monotonic() - float(saved["counters"]["seconds"])
    reporter = reporter if processes.is_first else silent
    return _train(Run(folder, config, dataset, reporter, processes, begun), saved=saved)


def _begin_folder(run: Run, plan: Sequence[str]) -> None:
    """Write the files that a run folder contains from the start."""
    folder, dataset = run.folder, run.dataset
    write_split(folder.split, dataset.pairs, dataset.folder)
    write_config(folder.config, run.config)
    write_dataset(folder.dataset, describe(dataset.coding, run.config.classes))
    if plan:
        with write_whole(folder.plan) as file:
            file.write_text("\n".join(plan) + "\n", encoding="utf-8", errors="surrogateescape")


def _load_samples(run: Run) -> dict[str, Samples]:
    """Samples of the splits "train" and "val", decoded into the cache as far as it has room."""
    config, dataset, reporter = run.config, run.dataset, run.reporter
    if grey := _grey(dataset.shapes):
        reporter.note(f"note: {grey} greyscale images are converted to RGB, like the others")
    samples = {
        part: Samples(
            dataset.part(part).pairs,
            dataset.coding,
            config.size,
            _channels(dataset.shapes),
            config.target_scale,
            part == "train" and config.border_weight > 0,
            config.factor,
        )
        for part in ("train", "val")
    }

    def fill() -> None:
        for each in samples.values():
            reporter.stage("reading images", len(each))
            each.fill_cache(lambda done, total: reporter.advance(done))
            reporter.advance(len(each))  # cached images are not reported

    run.processes.in_turn(fill)  # one process per machine decodes
    return samples


def _make_network(run: Run, samples: Samples, is_new: bool) -> UNet:
    """The network on the CPU, with random or pretrained weights."""
    config = run.config
    torch.manual_seed(config.seed)
    channels = _channels(run.dataset.shapes)
    network = UNet(channels, len(config.classes), **config.network_arguments())
    if config.pretrained and is_new:
        fresh = load_pretrained(network, Path(config.pretrained))
        named = f"; reinitialised or averaged: {', '.join(fresh)}" if fresh else ""
        run.reporter.note(f"fine-tuning from {config.pretrained}{named}")
    network.set_normalisation(*samples.statistics())
    return network


def _describe_model(run: Run) -> Card:
    """The card of the run's checkpoints, without scores."""
    config, dataset = run.config, run.dataset
    areas = sorted(height * width for height, width in dataset.sizes)
    pairs, coding = dataset.pairs, dataset.coding
    # at random: a fixed stride could hit only one of two alternating cameras
    some = random.Random(0).sample(pairs, min(_SOME, len(pairs)))
    training: dict[str, Any] = {
        "digest": dataset.digest(),
        "sample": dataset.part("train").sample_sizes(),
        "areas": [areas[0], areas[-1]],
        "grey": _grey(dataset.shapes),
        "dtypes": sorted({read_image(pair.image).dtype.name for pair in some}),
        "pictures": {part: len(dataset.part(part)) for part in ("train", "val")},
        "settings": config.model_dump(mode="json"),
    }
    return Card(
        class_names=config.classes,
        colors=coding.colors if isinstance(coding, Colors) else default_colors(coding.num_classes),
        size=config.size,
        factor=config.factor,
        masks=coding_to_json(coding),
        training=training,
        versions=versions(),
    )


def _channels(shapes: Sequence[Shape]) -> int:
    """Channels of the network's input."""
    return max(channels for _, _, channels in shapes)


def _grey(shapes: Sequence[Shape]) -> int:
    """Number of greyscale images among RGB ones."""
    return sum(channels == 1 for _, _, channels in shapes) if _channels(shapes) == 3 else 0


def require_apart(folder: RunFolder, data: Path) -> None:
    """Refuse a run folder among the data, whose files would be mistaken for data."""
    out, whole = folder.path.resolve(), data.resolve()
    images = (path for path in out.glob("*") if path.suffix.lower() in IMAGE_SUFFIXES)
    within = whole in out.parents and not folder.state.is_file() and any(images)
    if out == whole or within:
        raise ValueError(
            f"{folder.path}: contains the data, so a run cannot be written there. Choose another "
            "--out."
        )


@contextmanager
def _processes_in(folder: RunFolder, device: str) -> Iterator[Processes]:
    """Lock the run folder; yields the processes that share the run."""
    with join_processes(device) as processes, ExitStack() as held:
        processes.first_decides(lambda: held.enter_context(lock_folder(folder.path)))
        yield processes


def _prepare_device(config: TrainConfig) -> None:
    """Refuse a missing device; set up memory before anything is timed."""
    if choose_device(config.device).type == "cpu":
        keep_freed_memory()


@contextmanager
def _deterministic(wanted: bool) -> Iterator[None]:
    """Make PyTorch refuse nondeterministic operations."""
    before = torch.are_deterministic_algorithms_enabled()
    if wanted:
        # cuBLAS reads it before its first use
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)


@contextmanager
def _advising_to_resume(folder: RunFolder) -> Iterator[None]:
    """Add the resume command to errors of files and processes."""
    try:
        yield
    except OSError as error:
        if not folder.state.is_file():
            raise
        raise OSError(
            f"{error}\nThe last saved state of the run is intact. Resume with: "
            f"plainunet train --resume {folder.path}"
        ) from error
