"""A run, from a data folder to a run folder with a checkpoint in it."""

import os
import random
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch

from plainunet.config import NetworkConfig, TrainConfig
from plainunet.dataset.classes import describe
from plainunet.dataset.coding import Colors, coding_to_json
from plainunet.dataset.dataset import SegmentationDataset, Shape
from plainunet.dataset.samples import Samples
from plainunet.dataset.split import SPLIT_FILE, write_split
from plainunet.files import lock_folder, remove_unfinished, write_whole
from plainunet.formats.images import IMAGE_SUFFIXES, read_image
from plainunet.network.checkpoint import OWN, Card, load_checkpoint, take_weights, versions
from plainunet.network.device import choose_device
from plainunet.network.unet import UNet
from plainunet.palette import default_colors
from plainunet.prediction.predictor import Predictor
from plainunet.reporter import Reporter
from plainunet.settings import DATASET_FILE, load_config, with_dataset, write_config, write_dataset
from plainunet.system import keep_freed_memory
from plainunet.training.budget import find_end, fit_budget
from plainunet.training.distributed import Processes, join_processes
from plainunet.training.events import Advance, Note, OnEvent, Stage
from plainunet.training.plan import BUDGET, choose_size
from plainunet.training.run import BEST_FILE
from plainunet.training.schedule import scaled_size
from plainunet.training.state import STATE_FILE, asked_to_stop, read_state, require_run
from plainunet.training.trackers import require_trackers, track
from plainunet.training.trainer import fit
from plainunet.training.validate import SAVED_IMAGES, VALIDATION_FOLDER, judge_best

_IDLE: tuple[tuple[str, str, Callable[[TrainConfig], bool]], ...] = (
    ("border_sigma", "without --border-weight", lambda config: not config.border_weight),
    ("border_weight", "with --loss lovasz", lambda config: config.loss == "lovasz"),
    ("class_weights", "with --loss lovasz", lambda config: config.loss == "lovasz"),
    ("weight_decay", "with --optimizer adam", lambda config: config.optimizer == "adam"),
    ("validation", "with --folds", lambda config: config.folds is not None),
)
"""Settings that others make idle."""


class _Told(Reporter):
    """What the data's readers say, as events of the run."""

    def __init__(self, on_event: OnEvent) -> None:
        self._on_event = on_event

    def note(self, text: str) -> None:
        self._on_event(Note(text if text.startswith("note: ") else f"note: {text}"))

    def stage(self, name: str, total: int) -> None:
        self._on_event(Stage(name, total))

    def advance(self, done: int) -> None:
        self._on_event(Advance(done))


def require_apart(out: Path, data: Path) -> None:
    """Refuse a run folder that lies among the data, where its files would be taken for some.

    Args:
        out: The run folder.
        data: The data folder.

    Raises:
        ValueError: It is the data folder, or one that lies in it and holds pictures.
    """
    place, whole = out.resolve(), data.resolve()
    pictures = (path for path in place.glob("*") if path.suffix.lower() in IMAGE_SUFFIXES)
    within = whole in place.parents and not (place / STATE_FILE).is_file() and any(pictures)
    if place == whole or within:
        raise ValueError(f"{out}: holds the data, and no run can lie among it. Give another --out.")


def understand(
    dataset: SegmentationDataset, config: TrainConfig, on_event: OnEvent
) -> tuple[SegmentationDataset, TrainConfig]:
    """Split the pairs, and fill in what the settings leave to the data.

    Args:
        dataset: The data.
        config: The settings as the user gave them.
        on_event: Told what was understood.

    Returns:
        The data, each pair with its part; the settings with `classes` and, unless there are
        patches or the clock will choose it, `size`.

    Raises:
        ValueError: The pairs cannot be split so, or the size is too small.
    """
    parted, coding = dataset.split(config), dataset.coding
    size = config.size
    if not (size or config.patch or config.budget):
        size = choose_size(dataset.sizes)
    config = config.model_copy(update={"classes": dataset.class_names, "size": size})
    counted, total = sum(dataset.class_pixels), sum(h * w for h, w in dataset.sizes)
    if config.ignore is not None and counted == total:
        on_event(Note(f"note: no mask has the value {config.ignore} that --ignore names"))
    said = ", ".join(f"{name} {share:.1%}" for name, share in dataset.shares.items())
    if counted < total:
        said += f"; {1 - counted / total:.1%} of all pixels ignored"
    idle = [f"--{name}" for name in ("validation", "stratify") if name in config.model_fields_set]
    if idle and any(pair.part == "val" for pair in dataset.pairs):
        done = f"{' and '.join(idle)} {'does' if len(idle) == 1 else 'do'} nothing"
        on_event(Note(f"note: the folder gives its own split; {done}"))
    on_event(
        Note(
            f"{len(parted)} pairs: {sum(pair.part == 'train' for pair in parted.pairs)} to train, "
            f"{sum(pair.part == 'val' for pair in parted.pairs)} to validate\n"
            f"masks: {coding.kind} {_shorten(coding.values)}; {said}"
        )
    )
    return parted, config


def check_window(config: TrainConfig, on_event: OnEvent) -> None:
    """Say what the network will see, if it can.

    Args:
        config: The settings, `size` or `patch` filled in.
        on_event: Told what may go wrong.

    Raises:
        ValueError: The size is too small, or elastic deformation too strong for it.
    """
    on_event(Note(_describe_size(config, config.window)))
    _check_size(config, config.window)
    _check_objects(config, config.window, on_event)
    for name, without, is_idle in _IDLE:
        if getattr(config, name) != TrainConfig.model_fields[name].default and is_idle(config):
            flag = name.replace("_", "-")
            on_event(Note(f"note: --{flag} does nothing {without}"))


def _check_size(config: TrainConfig, size: tuple[int, int]) -> None:
    """Refuse a working size that the network's depth does not allow."""
    smallest = 2 ** (config.depth + 1)
    scales = [part.scale for part in config.growth] + [1]
    if min(scaled_size(size, min(scales))) < smallest:
        raise ValueError(
            f"The working size {size[0]} x {size[1]}"
            + (f", or {min(scales):g} of it in growth," if config.growth else "")
            + f" is below {smallest} pixels, too small for --depth {config.depth}. Give a larger "
            "--size or a smaller --depth."
        )


def _check_objects(config: TrainConfig, size: tuple[int, int], on_event: OnEvent) -> None:
    """Refuse or mention settings of elastic deformation and border weights that do not fit."""
    side = min(size)
    if config.elastic > side / 4:
        raise ValueError(
            f"--elastic {config.elastic:g} is too much for a working size of {size[0]} x {size[1]}:"
            f" pictures would fold over themselves. Take {side / 12:.0f} or less."
        )
    if config.elastic > side / 12:
        on_event(
            Note(
                f"note: --elastic {config.elastic:g} may fold pictures of {size[0]} x {size[1]} "
                f"over themselves; up to {side / 12:.0f} is safe"
            )
        )


def _describe_size(config: TrainConfig, window: tuple[int, int]) -> str:
    if not config.patch:
        return f"working size {window[0]} x {window[1]}"
    of = "" if config.factor == 1 else f" of pictures reduced to {config.factor:.0%}"
    return f"patches of {window[0]} x {window[1]}{of}"


def _shorten(values: tuple[int, ...]) -> str:
    return f"{{{', '.join(map(str, values))}}}" if len(values) <= 12 else f"0..{values[-1]}"


_SOME = 16
"""Pictures whose type of numbers is looked at."""


def with_checkpoint(config: TrainConfig) -> tuple[TrainConfig, dict[str, str]]:
    """Fill in what follows from the checkpoint that a run begins with.

    Args:
        config: The settings as given, and as the data folder says.

    Returns:
        The settings, and for each that was filled in, why.

    Raises:
        FileNotFoundError: There is no such checkpoint.
        ValueError: It is none.
    """
    if not config.start_from:
        return config, {}
    network, _ = load_checkpoint(Path(config.start_from))
    known = NetworkConfig.model_fields.keys() & network.architecture.keys()
    kept = known - config.model_fields_set - set(OWN)
    config = config.model_copy(update={name: network.architecture[name] for name in kept})
    return config, dict.fromkeys(kept, "as in the checkpoint that it starts from")


def read_samples(
    dataset: SegmentationDataset,
    config: TrainConfig,
    processes: Processes,
    on_event: OnEvent,
) -> dict[str, Samples]:
    """Decode all pictures once, if there is room for it.

    Args:
        dataset: The data of the run.
        config: The settings, filled in.
        processes: Those of the run; on each machine, one of them decodes.
        on_event: Told what happens.

    Returns:
        Samples of "train" and "val".
    """
    if grey := _grey(dataset.shapes):
        on_event(Note(f"note: {grey} grey pictures are shown as RGB, like the others"))

    def choose(part: str) -> Samples:
        chosen, coding = dataset.part(part).pairs, dataset.coding
        channels = _channels(dataset.shapes)
        objects = part == "train" and config.border_weight > 0
        return Samples(
            chosen, coding, config.size, channels, config.target_scale, objects, config.factor
        )

    parts = {part: choose(part) for part in ("train", "val")}

    def fill() -> None:
        for samples in parts.values():
            on_event(Stage("reading pictures", len(samples)))
            samples.fill_cache(lambda done, total: on_event(Advance(done)))
            on_event(Advance(len(samples)))  # what was in the cache is not told

    processes.in_turn(fill)
    return parts


def make_network(
    config: TrainConfig,
    shapes: Sequence[Shape],
    samples: Samples,
    is_new: bool,
    on_event: OnEvent,
) -> UNet:
    """Make the network, its weights fresh or another checkpoint's.

    Args:
        config: The settings, filled in.
        shapes: Of each picture.
        samples: The training part, whose mean and standard deviation it takes.
        is_new: Whether the run begins; else a state will be restored into it.
        on_event: Told what happens.

    Returns:
        The network, on the CPU.
    """
    torch.manual_seed(config.seed)
    channels = _channels(shapes)
    network = UNet(channels, len(config.classes), **config.network_arguments())
    if config.start_from and is_new:
        fresh = take_weights(network, Path(config.start_from))
        said = f"; fresh or averaged: {', '.join(fresh)}" if fresh else ""
        on_event(Note(f"weights from {config.start_from}{said}"))
    network.set_normalisation(*samples.statistics())
    return network


def describe_run(dataset: SegmentationDataset, config: TrainConfig) -> Card:
    """Say what a checkpoint of the run says of itself.

    Args:
        dataset: The data of the run.
        config: The settings, filled in.

    Returns:
        The description, without scores.
    """
    areas = sorted(height * width for height, width in dataset.sizes)
    pairs, coding = dataset.pairs, dataset.coding
    # not every second one, as where two cameras took turns
    some = random.Random(0).sample(pairs, min(_SOME, len(pairs)))
    training: dict[str, Any] = {
        "digest": dataset.digest(),
        "sample": dataset.part("train").sample_sizes(),
        "areas": [areas[0], areas[-1]],
        "grey": _grey(dataset.shapes),
        "dtypes": sorted({read_image(pair.image).dtype.name for pair in some}),
        "pictures": {part: sum(pair.part == part for pair in pairs) for part in ("train", "val")},
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
    """How many pictures are grey among RGB ones."""
    return sum(channels == 1 for _, _, channels in shapes) if _channels(shapes) == 3 else 0


CONFIG_FILE = "config.toml"
PLAN_FILE = "plan.txt"


def train(
    data: str | Path,
    out: str | Path,
    config: TrainConfig | None = None,
    on_event: OnEvent = lambda event: None,
    begun: float | None = None,
) -> dict[str, Any]:
    """Train a U-Net on a folder of images and masks, and judge it.

    Args:
        data: The folder, see `plainunet.dataset.pairs` for its layouts.
        out: The run folder to make: `best.safetensors`, `last/`, `config.toml`, `split.csv`,
            `dataset.toml`, `metrics.jsonl`, `curves.png`, `validation/`, `saved_images/`,
            `report.html`.
        config: The settings; left out, the defaults. What they leave out of the data is taken
            from a `dataset.toml` in the folder, where there is one.
        on_event: Told what happens.
        begun: When a budget began to run, on the clock of `time.monotonic`; left out, now.

    Returns:
        The scores on the validation part at native size, as by `evaluate`.

    Raises:
        FileNotFoundError: No such folder.
        ValueError: The data cannot be understood, a setting does not fit it, `out` holds a
            run already, another process works in it, or a tracker's library is missing.
        FloatingPointError: Loss or gradient was not finite in several steps in a row.
        StoppedError: SIGINT or SIGTERM came, and the run's state is saved.
    """
    begun = time.monotonic() if begun is None else begun
    data, out, config = Path(data), Path(out), config or TrainConfig()
    require_apart(out, data)
    _prepare_device(config)
    with _working_in(out, config.device, on_event) as (processes, on_event):
        if processes.are_restarted and processes.first_decides((out / STATE_FILE).is_file):
            return _go_on(out, processes, on_event)
        planned = processes.first_decides(lambda: _plan(data, out, config, on_event, begun))
        return _run(out, *planned, None, processes, on_event, begun)


def _plan(
    data: Path, out: Path, config: TrainConfig, on_event: OnEvent, begun: float
) -> tuple[TrainConfig, SegmentationDataset, list[str]]:
    """Understand the data and fill the settings in; all of them, the data, the plan."""
    if any((out / name).exists() for name in (BEST_FILE, CONFIG_FILE, STATE_FILE)):
        raise ValueError(
            f"{out}: holds a run already. Go on with it by 'plainunet train --resume {out}', or "
            "give another --out."
        )
    require_trackers(config, out)
    config = with_dataset(config, data)
    config, taken = with_checkpoint(config)
    given = config.model_fields_set
    if config.budget is None and "epochs" not in given:
        config = config.model_copy(update={"budget": BUDGET})
    elif config.budget is not None and "epochs" in given:
        on_event(Note("note: --epochs does nothing with --budget: the clock decides"))

    dataset = SegmentationDataset.open(data, config, _Told(on_event))
    dataset, config = understand(dataset, config, on_event)
    lines: list[str] = []
    if config.budget is not None:
        spent = time.monotonic() - begun
        config, lines = fit_budget(
            config,
            given,
            dataset.pairs,
            dataset.sizes,
            dataset.coding,
            dataset.shares,
            spent,
            taken=taken,
        )
        on_event(Note("\n".join(lines)))
    check_window(config, on_event)
    return config, dataset, lines


def resume(out: str | Path, on_event: OnEvent = lambda event: None) -> dict[str, Any]:
    """Go on with a run from the state that was saved last.

    Without a clock, it ends with the weights and scores that it would have had if it had never
    been stopped, to the last bit on CPUs with as many threads.

    Args:
        out: The run folder.
        on_event: Told what happens.

    Returns:
        The scores on the validation part at native size, as by `evaluate`.

    Raises:
        FileNotFoundError: There is no run, or its data folder has gone.
        ValueError: A file of the run is damaged, another process works in its folder, or a
            tracker's library is missing.
        FloatingPointError: Loss or gradient was not finite in several steps in a row.
        StoppedError: SIGINT or SIGTERM came, and the run's state is saved.
    """
    out = Path(out)
    require_run(out)
    device = load_config(out / CONFIG_FILE).device
    with _working_in(out, device, on_event) as (processes, on_event):
        return _go_on(out, processes, on_event)


@contextmanager
def _working_in(out: Path, device: str, on_event: OnEvent) -> Iterator[tuple[Processes, OnEvent]]:
    """Have the run folder to ourselves; the processes that share the work; who is told of it."""
    with join_processes(device) as processes, ExitStack() as held:
        processes.first_decides(lambda: held.enter_context(lock_folder(out)))
        yield processes, on_event if processes.is_first else lambda event: None


def _go_on(out: Path, processes: Processes, on_event: OnEvent) -> dict[str, Any]:
    """Read a run's state and settings, and go on."""

    def read() -> tuple[dict[str, Any], TrainConfig, SegmentationDataset]:
        for folder in (out, out / STATE_FILE.parent, out / VALIDATION_FOLDER):
            remove_unfinished(folder)
        content = read_state(out)
        config = load_config(out / CONFIG_FILE)
        require_trackers(config, out)
        data = Path(content["data"])
        if not data.is_dir():
            raise FileNotFoundError(f"{data}: the run's data folder has gone; put it back.")
        return content, config, SegmentationDataset.reopen(data, out / SPLIT_FILE, config)

    content, config, dataset = processes.first_decides(read)
    _prepare_device(config)
    begun = time.monotonic() - float(content["counters"]["seconds"])
    return _run(out, config, dataset, [], content, processes, on_event, begun)


def _prepare_device(config: TrainConfig) -> None:
    """Refuse a device that is not there; have memory ready before anything is timed."""
    if choose_device(config.device).type == "cpu":
        keep_freed_memory()


@contextmanager
def _deterministic(wanted: bool) -> Iterator[None]:
    """Have PyTorch refuse operations whose result depends on chance."""
    before = torch.are_deterministic_algorithms_enabled()
    if wanted:
        # asked for by cuBLAS, before its first use
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)


def _run(
    out: Path,
    config: TrainConfig,
    dataset: SegmentationDataset,
    plan: list[str],
    saved: dict[str, Any] | None,
    processes: Processes,
    on_event: OnEvent,
    begun: float,
) -> dict[str, Any]:
    """Train from fresh weights or a saved state to the end, then judge natively."""
    if config.size is None and config.patch is None:
        raise ValueError(f"{out / CONFIG_FILE}: size is missing.")
    data, pairs, coding = dataset.folder, list(dataset.pairs), dataset.coding
    parts = read_samples(dataset, config, processes, on_event)
    network = make_network(config, dataset.shapes, parts["train"], saved is None, on_event)
    card = describe_run(dataset, config)

    def begin() -> None:
        write_split(out / SPLIT_FILE, pairs, data)
        write_config(out / CONFIG_FILE, config)
        write_dataset(out / DATASET_FILE, describe(coding, config.classes))
        if plan:
            with write_whole(out / PLAN_FILE) as file:
                file.write_text("\n".join(plan) + "\n", encoding="utf-8")

    end = None
    if (budget := config.budget) is not None:
        predictor = Predictor(network, card, device=config.device, precision=config.precision)
        held_out = dataset.part("val")
        end = processes.first_decides(
            lambda: find_end(budget, begun, predictor, held_out, SAVED_IMAGES)
        )
    on_event(Note(f"the last validation pictures: {out / VALIDATION_FOLDER}"))
    followed = config if processes.is_first else config.model_copy(update={"track": ()})
    with (
        track(followed, out, saved is not None, on_event) as on_event,
        asked_to_stop(lambda said: on_event(Note(said))) as stop,
        _saying_how_to_go_on(out),
    ):
        with _deterministic(config.deterministic):
            fit(
                network,
                card,
                parts,
                config,
                data,
                out,
                saved,
                on_event,
                begin,
                end,
                processes,
                stop,
            )
        return judge_best(out, dataset, config, on_event, processes, stop)


@contextmanager
def _saying_how_to_go_on(out: Path) -> Iterator[None]:
    """Add to errors of files and processes what to do once their cause is mended."""
    try:
        yield
    except OSError as error:
        if not (out / STATE_FILE).is_file():
            raise
        raise OSError(
            f"{error}\nThe run's last saved state is intact. To go on with it: "
            f"plainunet train --resume {out}"
        ) from error
