"""A whole run: from a data folder to a run folder with a checkpoint in it."""

import os
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch

from plainunet.config import TrainConfig
from plainunet.data.check import check_pairs
from plainunet.data.folders.stacks import open_stacks
from plainunet.data.images import image_shape
from plainunet.data.masks import MaskCoding
from plainunet.data.meaning import understand_masks
from plainunet.data.pairing import Pair, find_pairs, require_enough
from plainunet.data.problems import DataError, command
from plainunet.data.split_file import SPLIT_FILE, read_split, write_split
from plainunet.data.understood import describe
from plainunet.files import lock_folder, remove_unfinished, write_whole
from plainunet.memory import keep_freed_memory
from plainunet.network.device import choose_device
from plainunet.settings import (
    DATASET_FILE,
    load_config,
    with_dataset,
    write_config,
    write_dataset,
)
from plainunet.training.budget import find_end, fit_budget
from plainunet.training.distributed import Processes, join_processes
from plainunet.training.epochs import BEST_FILE
from plainunet.training.events import Advance, Note, OnEvent, Stage
from plainunet.training.fit import fit
from plainunet.training.interrupt import asked_to_stop
from plainunet.training.judge import SAVED_IMAGES, judge_best
from plainunet.training.pictures import VALIDATION_FOLDER
from plainunet.training.plan import BUDGET
from plainunet.training.prepare import check_window, require_apart, understand
from plainunet.training.refining import compare_with_coarse, make_predictor
from plainunet.training.start import describe_run, make_network, read_samples, with_checkpoints
from plainunet.training.state import STATE_FILE, read_state, require_run
from plainunet.training.tracking import require_trackers, track

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
        data: The folder, see `plainunet.data.pairing` for its layouts.
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
        return _run(data, out, *planned, None, processes, on_event, begun)


def _plan(
    data: Path, out: Path, config: TrainConfig, on_event: OnEvent, begun: float
) -> tuple[TrainConfig, list[Pair], MaskCoding, list[str]]:
    """Understand the data and fill the settings in; all of them, pairs, coding, the plan."""
    if any((out / name).exists() for name in (BEST_FILE, CONFIG_FILE, STATE_FILE)):
        raise ValueError(
            f"{out}: holds a run already. Go on with it by 'plainunet train --resume {out}', or "
            "give another --out."
        )
    require_trackers(config, out)
    config = with_dataset(config, data)
    config, taken = with_checkpoints(config, data, on_event)
    given = config.model_fields_set
    if config.budget is None and "epochs" not in given:
        config = config.model_copy(update={"budget": BUDGET})
    elif config.budget is not None and "epochs" in given:
        on_event(Note("note: --epochs does nothing with --budget: the clock decides"))

    def on_note(said: str) -> None:
        on_event(Note(f"note: {said}"))

    advice = f"How to mend it, and what else there is: {command('plainunet', 'check', data)}"
    problems: list[DataError] = []
    pairs = find_pairs(
        data,
        config.group_by,
        at_least=0,
        **config.folder_arguments(),
        on_note=on_note,
        on_problem=problems.append,
    )
    pairs = open_stacks(pairs, on_note)
    if not problems:
        require_enough(data, len(pairs))
    on_event(Stage("checking files", len(pairs)))
    sizes = check_pairs(
        pairs,
        lambda done, total: on_event(Advance(done)),
        problems,
        advice,
    )
    on_event(Stage("understanding masks", 1))
    try:
        pairs, coding, config, shares = understand(pairs, sizes, config, on_event)
    except DataError as error:
        raise ValueError(f"{error}\n{advice}") from error
    lines: list[str] = []
    if config.budget is not None:
        spent = time.monotonic() - begun
        config, lines = fit_budget(config, given, pairs, sizes, coding, shares, spent, taken=taken)
        on_event(Note("\n".join(lines)))
    check_window(config, on_event)
    return config, pairs, coding, lines


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

    def read() -> tuple[dict[str, Any], TrainConfig, list[Pair], MaskCoding]:
        for folder in (out, out / STATE_FILE.parent, out / VALIDATION_FOLDER):
            remove_unfinished(folder)
        content = read_state(out)
        config = load_config(out / CONFIG_FILE)
        require_trackers(config, out)
        data = Path(content["data"])
        if not data.is_dir():
            raise FileNotFoundError(f"{data}: the run's data folder has gone; put it back.")
        pairs = read_split(out / SPLIT_FILE, data)
        coding, _ = understand_masks([pair.mask for pair in pairs], **config.mask_arguments())
        return content, config, pairs, coding

    content, config, pairs, coding = processes.first_decides(read)
    _prepare_device(config)
    begun = time.monotonic() - float(content["counters"]["seconds"])
    data = Path(content["data"])
    return _run(data, out, config, pairs, coding, [], content, processes, on_event, begun)


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
    data: Path,
    out: Path,
    config: TrainConfig,
    pairs: list[Pair],
    coding: MaskCoding,
    plan: list[str],
    saved: dict[str, Any] | None,
    processes: Processes,
    on_event: OnEvent,
    begun: float,
) -> dict[str, Any]:
    """Train from fresh weights or a saved state to the end, then judge natively."""
    if config.size is None and config.patch is None:
        raise ValueError(f"{out / CONFIG_FILE}: size is missing.")
    shapes = [image_shape(pair.image) for pair in pairs]
    parts = read_samples(pairs, coding, config, shapes, processes, on_event)
    network = make_network(config, shapes, parts["train"], saved is None, on_event)
    card = describe_run(data, pairs, coding, config, shapes)

    def begin() -> None:
        write_split(out / SPLIT_FILE, pairs, data)
        write_config(out / CONFIG_FILE, config)
        write_dataset(out / DATASET_FILE, describe(coding, config.classes))
        if plan:
            with write_whole(out / PLAN_FILE) as file:
                file.write_text("\n".join(plan) + "\n", encoding="utf-8")

    end = None
    if (budget := config.budget) is not None:
        predictor = make_predictor(network, card, config)
        held_out = [pair for pair in pairs if pair.part == "val"]
        end = processes.first_decides(
            lambda: find_end(budget, begun, predictor, held_out, coding, SAVED_IMAGES)
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
        result = judge_best(out, data, pairs, coding, config, on_event, processes, stop)
        if config.refine_of is not None:
            on_event(Note(compare_with_coarse(result, card, config)))
        return result


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
