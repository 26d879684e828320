"""A training run, top to bottom: from a data folder to a run folder with a checkpoint."""

import os
import random
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from plainunet.config import NetworkConfig, TrainConfig
from plainunet.dataset.augment import load_augment, require_same, save_augment
from plainunet.dataset.classes import describe
from plainunet.dataset.coding import Colors, coding_to_json
from plainunet.dataset.dataset import SegmentationDataset, is_folder, store_dataset
from plainunet.dataset.samples import Samples
from plainunet.dataset.scenes import are_blocks
from plainunet.dataset.shards import ShardedDataset
from plainunet.dataset.split import write_split
from plainunet.doctor.images import copies_across
from plainunet.errors import Error, require_types, take_path
from plainunet.evaluation.scores import Scores
from plainunet.files import lock_folder, remove_unfinished, write_json, write_whole
from plainunet.formats.images import IMAGE_SUFFIXES, read_image
from plainunet.formats.problems import command
from plainunet.formats.sources import ImageSource
from plainunet.formats.tiff import find_untagged
from plainunet.network.card import Card, versions
from plainunet.network.checkpoint import OVERRIDABLE, load_pretrained, load_unet
from plainunet.network.device import choose_device, choose_precision, describe_processor
from plainunet.network.losses import OwnLoss, OwnLossFunction
from plainunet.network.own import Network, make_own_network
from plainunet.network.unet import UNet
from plainunet.palette import default_colors, default_names
from plainunet.parts import OwnParts, Part, is_own
from plainunet.prediction.predictor import Predictor
from plainunet.reporter import Forwarding, Reporter, or_default, silent
from plainunet.settings import AUGMENT_FILE, with_dataset, write_config, write_dataset
from plainunet.system import keep_freed_memory
from plainunet.text import plural
from plainunet.training.budget import find_end, fit_budget, measure_end
from plainunet.training.distributed import Processes, job, join_processes
from plainunet.training.plan import BUDGET, RATES, check_window
from plainunet.training.run import Run, RunFolder, asked_to_stop
from plainunet.training.schedule import scaled_size
from plainunet.training.state import read_state
from plainunet.training.teacher import TrainedTeacher
from plainunet.training.trackers import require_trackers, track
from plainunet.training.trainer import Trainer
from plainunet.training.training_data import (
    check_augment,
    count_channels,
    count_grey,
    fill_in,
    load_samples,
    read_augment,
)
from plainunet.training.validate import evaluate_best

_MOST_COMPARED = 5000
"""Maximum number of images to search for duplicates before a run; `check` has no limit."""
_SOME = 16
"""Number of images to sample for the dtypes."""


def train(
    data: Any,
    out: str | Path,
    config: TrainConfig | None = None,
    reporter: Reporter | None = None,
    begun: float | None = None,
    *,
    loss: OwnLossFunction | str | None = None,
    augment: Any = None,
    network: Any = None,
    metrics: Any = None,
) -> Scores:
    """Train a U-Net on a folder of images and masks, and evaluate it.

    Args:
        data: The folder, see `plainunet.dataset.pairs` for its layouts; or a map-style dataset,
            such as PyTorch's, of (image, mask) or (image, mask, group), or several by the name of
            their split ("train", "val", "test"), which are written to `data/` in the run folder.
            Images are [H, W, C], masks [H, W] of class ids, 255 where ignored.
        out: The run folder to make: `best.safetensors`, `last/`, `config.toml`, `split.csv`,
            `dataset.toml`, `metrics.jsonl`, `curves.png`, `validation/`, `saved_images/`,
            `report.html`.
        config: The settings; default: `TrainConfig()`. Data settings that are not set come from
            the folder's `dataset.toml`, if there is one.
        reporter: Receives notes and progress; default: shown in notebooks.
        begun: Start of the time budget on the clock of `time.monotonic` [s]; default: now.
        loss: Your own loss in place of that of the settings, or its name `package.module:function`:
            from logits and targets [N, K, H, W] and weights [N, H, W], 0 where pixels are ignored,
            to a scalar, the mean over the images; all are float32.
        augment: Your own augmentation in place of a preset: transforms of Albumentations, or
            their name `package.module:object`. They get images [H, W, C] and masks [H, W] uint8 of
            class ids, 255 where ignored.
        network: Your own network in place of the U-Net: a factory (in_channels, num_classes) of a
            module, a module, or the factory's name `package.module:factory`. Images [N, C, H, W]
            float32, normalised, whose sides are multiples of the module's attribute
            `size_divisor` (default: 1), become logits [N, K, H, W].
        metrics: Your own metrics, as for `evaluate`.

    Returns:
        The scores of the best checkpoint on the validation split at native size.

    Raises:
        FileNotFoundError: The folder does not exist.
        ValueError: The data cannot be read, a setting does not fit it, `out` contains a run
            already or is in use by another process, a tracker's library is missing, or your own
            part does not do what it should.
        FloatingPointError: Loss or gradient was not finite in several steps in a row.
        StoppedError: SIGINT or SIGTERM arrived; the state of the run is saved.

    Example:
        ```python
        from plainunet import TrainConfig, train

        settings = TrainConfig(epochs=1, base_channels=4, depth=2)
        scores = train("my-data", "runs/small", settings)
        print(scores)
        print(scores.dice, scores.checkpoint)
        ```
    """
    require_types(config=(config, TrainConfig), reporter=(reporter, Reporter))
    begun = time.monotonic() if begun is None else begun
    folder, config = RunFolder(take_path(out, "out")), config or TrainConfig()
    parts = own_parts(augment, loss=loss, network=network, metrics=metrics)
    config = config.model_copy(update=parts.names())
    parts = read_augment(config, parts)
    parts.require(config, "the settings")
    if is_folder(data):
        require_apart(folder, Path(data))
    reporter = or_default(reporter)
    _prepare_device(config)
    with _processes_in(folder, config.device) as processes:
        if _began_before(folder, processes):
            return _resume(folder, processes, reporter, parts)
        reporter = reporter if processes.is_first else silent
        config, dataset, plan = processes.first_decides(
            lambda: _plan(data, folder, config, reporter, begun, parts.network)
        )
        run = Run(folder, config, dataset, reporter, processes, begun, parts=parts)
        return _train(run, plan)


def resume(
    out: str | Path,
    reporter: Reporter | None = None,
    *,
    loss: OwnLossFunction | str | None = None,
    augment: Any = None,
    network: Any = None,
    metrics: Any = None,
) -> Scores:
    """Resume a run from the state that was saved last.

    Without a time budget, weights and scores are those of an uninterrupted run, bit for bit on
    CPUs with the same number of threads.

    Args:
        out: The run folder.
        reporter: Receives notes and progress; default: shown in notebooks.
        loss: The loss of the run, if it is your own; as for `train`.
        augment: The augmentation of the run, if it has transforms that you wrote.
        network: The network of the run, if it is your own.
        metrics: The metrics of the run that are your own.

    Returns:
        The scores of the best checkpoint on the validation split at native size.

    Raises:
        FileNotFoundError: There is no run, or its data folder is missing.
        ValueError: A file of the run is damaged, another process uses its folder, a tracker's
            library is missing, or your own parts are not those of the run.
        FloatingPointError: Loss or gradient was not finite in several steps in a row.
        StoppedError: SIGINT or SIGTERM arrived; the state of the run is saved.

    Example:
        ```python
        from plainunet import resume

        scores = resume("runs/first")  # a finished run is evaluated again
        ```
    """
    require_types(reporter=(reporter, Reporter))
    folder = RunFolder(take_path(out, "out"))
    folder.require_state()
    reporter = or_default(reporter)
    parts = own_parts(augment, loss=loss, network=network, metrics=metrics)
    with _processes_in(folder, folder.read_config().device) as processes:
        return _resume(folder, processes, reporter, parts)


def _train(run: Run, plan: Sequence[str] = (), saved: dict[str, Any] | None = None) -> Scores:
    """Train from fresh weights or a saved state to the end, then evaluate the best natively."""
    config = run.config
    if config.size is None and config.patch is None:
        raise Error(f"{run.folder.config}: size is missing.")
    _ = run.metrics  # tried before anything takes long
    if isinstance(run.loss, OwnLoss):
        run.loss.check(len(config.classes), choose_device(config.device))
    samples = load_samples(run)
    check_augment(run, samples["train"])
    network = _make_network(run, samples["train"], is_new=saved is None)
    card = _describe_model(run)
    if config.budget is not None:
        predictor = Predictor(network, card, device=config.device, precision=config.precision)
        run.predicting, total = run.processes.first_decides(
            lambda: measure_end(predictor, run.dataset.part("val"))
        )
        is_new = saved is None
        run.end = run.processes.first_decides(lambda: find_end(run, total, is_new=is_new))
    run.reporter.note(f"validation previews: {run.folder.validation}")
    with (
        track(run, known=saved is not None),
        asked_to_stop(run),
        _advising_to_resume(run),
    ):
        with _deterministic(config.deterministic):
            trainer = Trainer(run, network, card, samples)
            if saved:
                trainer.restore(saved)
            elif run.processes.is_first:
                _begin_folder(run, plan)
            trainer.fit()
        return Scores(run.folder.best, evaluate_best(run), run.folder.report)


def own_parts(augment: Any, **others: Any) -> OwnParts:
    """Take the user's own parts, as `OwnParts.of`.

    Transforms from Python are named by the file they are saved in: their own name says nothing.
    """
    if augment is not None and not isinstance(augment, str | Part):
        augment = Part(augment, AUGMENT_FILE)
    return OwnParts.of(augment=augment, **others)


class _DataNotes(Forwarding):
    """Marks messages about the data as notes; any problem with the data ends the run."""

    def note(self, text: str) -> None:
        self._reporter.note(text if text.startswith("note: ") else f"note: {text}")

    def problem(self, error: ValueError) -> None:
        raise error


def _plan(
    data: Any,
    folder: RunFolder,
    config: TrainConfig,
    reporter: Reporter,
    begun: float,
    own: Part | None,
) -> tuple[TrainConfig, SegmentationDataset, list[str]]:
    """Open the data and complete the settings; returns both and the lines of the plan."""
    if folder.best.exists() or folder.state.exists():
        raise Error(
            f"{folder.path}: contains a run already. Resume it with "
            f"'{command('plainunet', 'train', '--resume', folder.path)}', or "
            "choose another --out."
        )
    if folder.config.exists():
        raise Error(
            f"{folder.config}: exists, but there is no run to resume. Remove it, or choose another "
            "--out."
        )
    require_trackers(config, folder.path)
    if not is_folder(data):
        store_dataset(data, folder.data, config, reporter)
        data = folder.data
    config = with_dataset(config, Path(data))
    config, taken, names = with_checkpoint(config)
    given = config.model_fields_set
    if config.budget is None and "epochs" not in given:
        config = config.model_copy(update={"budget": BUDGET})
    elif config.budget is not None and "epochs" in given:
        reporter.note("note: --epochs has no effect with --budget, which sets the training time")
    if own and (idle := sorted(given & NetworkConfig.model_fields.keys())):
        flags = ", ".join(f"--{name.replace('_', '-')}" for name in idle)
        reporter.note(f"note: {flags}: no effect with --network")
    dataset = SegmentationDataset.open(data, config, _DataNotes(reporter))
    dataset = _name_classes(dataset, config, names, reporter)
    if "size" in taken and are_blocks(dataset.pairs):  # of whole images, not of scenes
        config = config.model_copy(update={"size": None})
    is_free = config.patch is None
    dataset, config = fill_in(dataset, config, reporter)
    if is_free and config.patch:
        given, taken = given | {"patch"}, {**taken, "patch": "scenes are read in blocks"}
    _mention_copies(dataset, reporter)
    teacher = TrainedTeacher.load(config, dataset, own)
    if teacher:
        teacher.warn_of_leakage(dataset, reporter)
    lines: list[str] = []
    if config.budget is not None:
        spent = time.monotonic() - begun
        config, lines = fit_budget(config, given, dataset, spent, taken, own, teacher)
        reporter.note("\n".join(lines))
    elif "learning_rate" not in given:
        config = config.model_copy(update={"learning_rate": RATES[config.optimizer]})
    check_window(config, reporter)
    return config, dataset, lines


def with_checkpoint(
    config: TrainConfig,
) -> tuple[TrainConfig, dict[str, str], tuple[str, ...]]:
    """Take architecture and scale from the checkpoint that a run fine-tunes.

    Trained on smaller images, it would lose what it knows before it learns anything new.

    Returns:
        The settings, the reason for each one taken, and the checkpoint's class names.
    """
    if not config.pretrained:
        return config, {}, ()
    network, card = load_unet(Path(config.pretrained))
    known = NetworkConfig.model_fields.keys() & network.architecture.keys()
    kept = known - config.model_fields_set - set(OVERRIDABLE)
    taken = {name: network.architecture[name] for name in kept}
    if not {"size", "patch", "factor"} & config.model_fields_set:
        settings = card.training.get("settings", {})
        names = ("patch", "factor") if settings.get("patch") else ("size",)
        taken |= {name: settings[name] for name in names if settings.get(name)}
    config = config.model_copy(update=taken)
    return config, dict.fromkeys(taken, "as in the pretrained checkpoint"), card.class_names


def _name_classes(
    dataset: SegmentationDataset, config: TrainConfig, names: tuple[str, ...], reporter: Reporter
) -> SegmentationDataset:
    """Take the class names of the checkpoint that a run fine-tunes, if the data have none."""
    own = dataset.class_names
    if len(own) != len(names) or own == names:
        return dataset
    if not config.classes and own == default_names(len(own)):
        reporter.note(f"note: classes are named as in the checkpoint: {', '.join(names)}")
        return replace(dataset, class_names=names)
    reporter.note(
        f"note: {', '.join(own)} start from the weights of {', '.join(names)}, in this order"
    )
    return dataset


def _mention_copies(dataset: SegmentationDataset, reporter: Reporter) -> None:
    """Warn of data leakage: duplicates across the train and validation splits."""
    if len(dataset) > _MOST_COMPARED or isinstance(dataset, ShardedDataset):
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


def _began_before(folder: RunFolder, processes: Processes) -> bool:
    """Whether these processes of torchrun continue its run: after a failure, or with others."""
    if not processes.joined:
        return False
    restarted = processes.are_restarted()

    def is_theirs() -> bool:
        if not folder.state.is_file():
            return False
        return restarted or (job() is not None and read_state(folder).get("job") == job())

    return processes.first_decides(is_theirs)


def _resume(folder: RunFolder, processes: Processes, reporter: Reporter, parts: OwnParts) -> Scores:
    """Read a run's state and settings, and continue like a new run."""

    def read() -> tuple[dict[str, Any], TrainConfig, SegmentationDataset]:
        for directory in (folder.path, folder.state.parent, folder.validation):
            remove_unfinished(directory)
        saved = read_state(folder)
        config = folder.read_config()
        require_trackers(config, folder.path)
        data = Path(saved["data"])
        if not data.is_dir() and folder.data.is_dir():  # the run folder was moved
            data = folder.data
        if not data.is_dir():
            raise FileNotFoundError(f"{data}: the data folder of the run is missing. Restore it.")
        if folder.shards.is_file():
            return saved, config, ShardedDataset.resumed(data, folder.shards, config)
        known, digest = folder.read_known(), saved.get("digest")
        return saved, config, SegmentationDataset.reopen(data, folder.split, known, digest)

    saved, config, dataset = processes.first_decides(read)
    if folder.augment.is_file() and parts.augment:
        require_same(parts.augment, folder.augment)
    elif folder.augment.is_file() and not is_own(config.augment):
        parts = replace(parts, augment=load_augment(folder.augment).having(config.augment))
    parts.require(config, str(folder.path))
    _prepare_device(config)
    begun = time.monotonic() - float(saved["counters"]["seconds"])
    reporter = reporter if processes.is_first else silent
    run = Run(folder, config, dataset, reporter, processes, begun, parts=parts)
    run.teacher = saved.get("teacher")
    return _train(run, saved=saved)


def _begin_folder(run: Run, plan: Sequence[str]) -> None:
    """Write the files that a run folder contains from the start."""
    folder, dataset = run.folder, run.dataset
    if run.parts.augment:  # first, as not every transform can be saved
        save_augment(run.parts.augment, folder.augment)
    if isinstance(dataset, ShardedDataset):
        write_json(folder.shards, asdict(dataset.index))
    else:
        write_split(folder.split, dataset.pairs, dataset.folder)
    write_config(folder.config, run.config)
    write_dataset(folder.dataset, describe(dataset.coding, run.config.classes))
    if plan:
        with write_whole(folder.plan) as file:
            file.write_text("\n".join(plan) + "\n", encoding="utf-8", errors="surrogateescape")


def _make_network(run: Run, samples: Samples, is_new: bool) -> Network:
    """The network on the CPU, with random or pretrained weights, or the user's own."""
    config = run.config
    torch.manual_seed(config.seed)
    channels = count_channels(run.dataset.shapes)
    if run.parts.network:
        own = make_own_network(run.parts.network, channels, len(config.classes))
        stages = [scaled_size(config.window, stage.scale) for stage in config.growth]
        # of patches, also one that is no multiple of anything
        odd = [(config.window[0] + 1, config.window[1] + 3)] if config.patch else []
        own.check([config.window, *stages, *odd])
        own.set_normalisation(*samples.statistics())
        return own
    network = UNet(channels, len(config.classes), **config.network_arguments())
    if config.pretrained and is_new:
        fresh = load_pretrained(network, Path(config.pretrained))
        named = f"; reinitialised or averaged: {', '.join(fresh)}" if fresh else ""
        run.reporter.note(f"fine-tuning from {config.pretrained}{named}")
    network.set_normalisation(*samples.statistics())
    return network


def _find_values(images: Sequence[ImageSource], run: Run) -> tuple[list[str], list[float]]:
    """The dtypes of some images and their nodata values without a tag; warns of both."""
    found: dict[str, ImageSource] = {}
    untagged: dict[float, ImageSource] = {}
    for path in images:
        image = read_image(path)
        found.setdefault(image.dtype.name, path)
        value = find_untagged(image)
        if value is not None:
            untagged.setdefault(value, path)
    check = ""
    if not isinstance(run.dataset, ShardedDataset):  # `check` reads none
        check = f" To list all of them:\n$ {command('plainunet', 'check', run.dataset.folder)}"
    if len(found) > 1:
        types = " and ".join(f"{name} ({path})" for name, path in sorted(found.items()))
        run.reporter.note(
            f"warning: images are {types}. Each type is divided by its own maximum, so some may be "
            f"darker than others.{check}"
        )
    for value, path in untagged.items():
        run.reporter.note(
            f"warning: {path} has pixels of {value:.10g}, and nothing marks them as nodata, so "
            f"they are learnt as brightness.{check}"
        )
    return sorted(found), sorted(untagged)


def _describe_model(run: Run) -> Card:
    """The card of the run's checkpoints, without scores."""
    config, dataset = run.config, run.dataset
    areas = sorted(height * width for height, width in dataset.sizes)
    pairs, coding, counts = dataset.excerpt(), dataset.coding, dataset.counts()
    # at random: a fixed stride could hit only one of two alternating cameras
    some = random.Random(0).sample(pairs, min(_SOME, len(pairs)))
    dtypes, untagged = _find_values([pair.image for pair in some], run)
    device = choose_device(config.device)
    precision = str(choose_precision(config.precision, device)).removeprefix("torch.")
    threads = plural(torch.get_num_threads(), "thread")
    training: dict[str, Any] = {
        "hardware": f"{describe_processor(device)}, {threads}, {precision}",
        "digest": run.digest,
        "sample": dataset.part("train").sample_sizes(),
        "areas": [areas[0], areas[-1]],
        "grey": count_grey(dataset.shapes),
        "dtypes": dtypes,
        "untagged": untagged,
        "pictures": {part: counts[part] for part in ("train", "val")},
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


def require_apart(folder: RunFolder, data: Path) -> None:
    """Refuse a run folder among the data, whose files would be mistaken for data."""
    out, whole = folder.path.resolve(), data.resolve()
    above = [each for each in (out, *out.parents) if whole in (each, *each.parents)]
    images = (path for each in above for path in each.glob("*"))
    among = any(path.suffix.lower() in IMAGE_SUFFIXES for path in images)
    if out == whole or (among and not folder.state.is_file()):
        raise Error(
            f"{folder.path}: contains the data or lies among images, so a run cannot be written "
            "there. Choose another --out."
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
def _advising_to_resume(run: Run) -> Iterator[None]:
    """Add the resume command to errors of files and processes."""
    try:
        yield
    except OSError as error:
        if not run.folder.state.is_file():
            raise
        raise OSError(
            f"{error}\nThe last saved state of the run is intact. Resume with: {run.resume_command}"
        ) from error
