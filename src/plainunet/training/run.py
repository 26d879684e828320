"""A whole run: from a data folder to a run folder with a checkpoint in it."""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from plainunet.config import TrainConfig
from plainunet.data.check import check_pairs
from plainunet.data.dataset import Samples
from plainunet.data.folders.stacks import open_stacks
from plainunet.data.images import image_shape, read_image
from plainunet.data.masks import MaskCoding
from plainunet.data.meaning import understand_masks
from plainunet.data.pairing import Pair, find_pairs, require_enough
from plainunet.data.problems import DataError, command
from plainunet.data.split_file import SPLIT_FILE, read_split, write_split
from plainunet.data.understood import describe
from plainunet.evaluation.evaluate import data_digest, sample_sizes
from plainunet.files import require_writable, write_whole
from plainunet.memory import keep_freed_memory
from plainunet.network.checkpoint import Card, versions
from plainunet.network.device import choose_device
from plainunet.network.transfer import take_weights
from plainunet.network.unet import UNet
from plainunet.palette import default_colors
from plainunet.prediction.predictor import Predictor
from plainunet.settings import (
    DATASET_FILE,
    load_config,
    with_dataset,
    write_config,
    write_dataset,
)
from plainunet.training.budget import fit_budget, measure_end
from plainunet.training.events import Advance, Note, OnEvent, Stage
from plainunet.training.fit import BEST_FILE, fit
from plainunet.training.judge import SAVED_IMAGES, judge_best
from plainunet.training.pictures import VALIDATION_FOLDER
from plainunet.training.plan import BUDGET
from plainunet.training.prepare import check_window, understand
from plainunet.training.state import STATE_FILE, read_state
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
            `dataset.toml`, `metrics.jsonl`, `curves.png`, `validation/`, `saved_images/`.
        config: The settings; left out, the defaults. What they leave out of the data is taken
            from a `dataset.toml` in the folder, where there is one.
        on_event: Told what happens.
        begun: When a budget began to run, on the clock of `time.monotonic`; left out, now.

    Returns:
        The scores on the validation part at native size, as by `evaluate`.

    Raises:
        FileNotFoundError: No such folder.
        ValueError: The data cannot be understood, a setting does not fit it, `out` holds a
            run already, or a tracker's library is missing.
        FloatingPointError: The loss became infinite or not a number.
    """
    begun = time.monotonic() if begun is None else begun
    data, out, config = Path(data), Path(out), config or TrainConfig()
    if any((out / name).exists() for name in (BEST_FILE, CONFIG_FILE, STATE_FILE)):
        raise ValueError(
            f"{out}: holds a run already. Go on with it by 'plainunet train --resume {out}', or "
            "give another --out."
        )
    _prepare_device(config)
    require_trackers(config, out)
    require_writable(out)
    config = with_dataset(config, data)
    given = config.model_fields_set
    if config.budget is None and "epochs" not in given:
        config = config.model_copy(update={"budget": BUDGET})

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
        config, lines = fit_budget(config, given, pairs, sizes, coding, shares, spent)
        on_event(Note("\n".join(lines)))
    check_window(config, on_event)
    return _run(data, out, config, pairs, coding, None, on_event, begun, lines)


def resume(out: str | Path, on_event: OnEvent = lambda event: None) -> dict[str, Any]:
    """Go on with a run from its last finished epoch.

    Args:
        out: The run folder.
        on_event: Told what happens.

    Returns:
        The scores on the validation part at native size, as by `evaluate`.

    Raises:
        FileNotFoundError: There is no run, or its data folder has gone.
        ValueError: A file of the run is damaged, or a tracker's library is missing.
    """
    out = Path(out)
    content = read_state(out)
    config = load_config(out / CONFIG_FILE)
    _prepare_device(config)
    require_trackers(config, out)
    data = Path(content["data"])
    if not data.is_dir():
        raise FileNotFoundError(f"{data}: the run's data folder has gone; put it back.")
    pairs = read_split(out / SPLIT_FILE, data)
    coding, _ = understand_masks([pair.mask for pair in pairs], **config.mask_arguments())
    begun = time.monotonic() - float(content["counters"]["seconds"])
    return _run(data, out, config, pairs, coding, content, on_event, begun, [])


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


def _describe(coding: MaskCoding) -> dict[str, Any]:
    """What a checkpoint says of how masks are read."""
    said = {"values": coding.values, "ignore": coding.ignore, "kind": coding.kind}
    return {**said, "colors": coding.colors} if coding.colors else said


def _run(
    data: Path,
    out: Path,
    config: TrainConfig,
    pairs: list[Pair],
    coding: MaskCoding,
    saved: dict[str, Any] | None,
    on_event: OnEvent,
    begun: float,
    plan: list[str],
) -> dict[str, Any]:
    """Train from fresh weights or a saved state to the end, then judge natively."""
    if config.size is None and config.patch is None:
        raise ValueError(f"{out / CONFIG_FILE}: size is missing.")
    shapes = [image_shape(pair.image) for pair in pairs]
    areas = sorted(height * width for height, width, _ in shapes)
    in_channels = max(channels for _, _, channels in shapes)
    grey = sum(channels == 1 for _, _, channels in shapes) if in_channels == 3 else 0
    if grey:
        on_event(Note(f"note: {grey} grey pictures are shown as RGB, like the others"))
    parts = {
        part: Samples(
            [pair for pair in pairs if pair.part == part],
            coding,
            config.size,
            in_channels,
            config.target_scale,
            objects=part == "train" and config.border_weight > 0,
            factor=config.factor,
        )
        for part in ("train", "val")
    }
    for samples in parts.values():
        on_event(Stage("reading pictures", len(samples)))
        samples.fill_cache(lambda done, total: on_event(Advance(done)))
        on_event(Advance(len(samples)))  # what was in the cache is not told

    torch.manual_seed(config.seed)
    network = UNet(in_channels, len(config.classes), **config.network_arguments())
    if config.start_from and saved is None:
        fresh = take_weights(network, Path(config.start_from))
        said = f"; fresh or averaged: {', '.join(fresh)}" if fresh else ""
        on_event(Note(f"weights from {config.start_from}{said}"))
    network.set_normalisation(*parts["train"].statistics())
    card = Card(
        class_names=config.classes,
        colors=coding.colors or default_colors(len(config.classes)),
        size=config.size,
        factor=config.factor,
        masks=_describe(coding),
        training={
            "digest": data_digest(pairs, data),
            "sample": sample_sizes([pair for pair in pairs if pair.part == "train"], data),
            "areas": [areas[0], areas[-1]],
            "grey": grey,
            "dtypes": sorted(
                {read_image(pair.image).dtype.name for pair in pairs[:: -(-len(pairs) // 8)]}
            ),
            "pictures": {part: len(samples) for part, samples in parts.items()},
            "settings": config.model_dump(mode="json"),
        },
        versions=versions(),
    )

    def begin() -> None:
        write_split(out / SPLIT_FILE, pairs, data)
        write_config(out / CONFIG_FILE, config)
        write_dataset(out / DATASET_FILE, describe(coding, config.classes))
        if plan:
            with write_whole(out / PLAN_FILE) as file:
                file.write_text("\n".join(plan) + "\n", encoding="utf-8")

    end = None
    if config.budget is not None:
        predictor = Predictor(network, card, device=config.device, precision=config.precision)
        held_out = [pair for pair in pairs if pair.part == "val"]
        end = begun + config.budget - measure_end(predictor, held_out, coding, SAVED_IMAGES)
    on_event(Note(f"the last validation pictures: {out / VALIDATION_FOLDER}"))
    with track(config, out, saved is not None, on_event) as on_event:
        with _deterministic(config.deterministic):
            fit(network, card, parts, config, data, out, saved, on_event, begin, end)
        return judge_best(out, pairs, coding, config, on_event)
