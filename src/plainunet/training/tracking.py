"""What experiment trackers are told of a run.

In: events. Out: calls of `trackers.py`. A tracker that fails is left out with a note; the
training goes on.
"""

import json
import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from importlib import import_module
from pathlib import Path
from typing import Any

from plainunet.config import TrainConfig
from plainunet.files import write_json
from plainunet.training.events import EpochDone, Event, Judged, Note, OnEvent, StepDone
from plainunet.training.trackers import TRACKERS, Tracker

TRACKERS_FILE = Path("last") / "trackers.json"
"""In a run folder: how each tracker calls the run, and how far they were told."""
PERIOD = 5.0
"""Seconds between two steps that are told."""
PICTURES = 4
"""At most so many comparisons are shown, from the worst towards the best."""

# unless the user says otherwise: nothing is sent unasked, nothing is printed
_ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "WANDB_ERROR_REPORTING": "false",
    "WANDB_SILENT": "true",
    "WANDB_CONSOLE": "off",
}


def require_trackers(config: TrainConfig, run: Path) -> None:
    """Import the libraries of the trackers that are asked for, before long work begins.

    Args:
        config: The settings.
        run: The run folder.

    Raises:
        ValueError: A library is missing.
    """
    for name in config.track:
        # Trackio reads its folder when it is imported
        folder = {"TRACKIO_DIR": str(run.resolve() / name)} if name == "trackio" else {}
        for variable, value in {**_ENVIRONMENT, **folder}.items():
            os.environ.setdefault(variable, value)
        try:
            for library in TRACKERS[name].libraries:
                import_module(library)
        except ImportError as error:
            raise ValueError(
                f"--track {name}: a library is missing ({error}). Install it by: "
                f"pip install 'plainunet[{name}]'"
            ) from error


@contextmanager
def track(config: TrainConfig, run: Path, known: bool, on_event: OnEvent) -> Iterator[OnEvent]:
    """Tell trackers what a run tells.

    Args:
        config: The settings.
        run: The run folder.
        known: Whether the run goes on, so that the trackers know it already.
        on_event: Told everything as well, and which trackers fail.

    Yields:
        What is to be told instead of `on_event`.
    """
    tracking = _Tracking(config, run, known, on_event)
    failed = True
    try:
        yield tracking
        failed = False
    finally:
        tracking.each(lambda tracker: tracker.close(failed))


class _Tracking:
    """Turns events into calls of all trackers that have not failed."""

    def __init__(self, config: TrainConfig, run: Path, known: bool, on_event: OnEvent) -> None:
        self._run, self._on_event = run, on_event
        self._trackers: dict[str, Tracker] = {}
        self._said = float("-inf")
        self._told: dict[str, Any] = {"step": 0, "epoch": 0, "judged": False, "ids": {}}
        if known:
            with suppress(OSError, ValueError):  # it may be missing or damaged
                self._told = json.loads((run / TRACKERS_FILE).read_text(encoding="utf-8"))
        if config.track:
            run.mkdir(parents=True, exist_ok=True)
        settings = _plain_settings(config)
        for name in dict.fromkeys(config.track):
            try:
                tracker = TRACKERS[name](run, settings, self._told["ids"].get(name))
            except Exception as error:
                self._drop(name, error)
            else:
                self._trackers[name], self._told["ids"][name] = tracker, tracker.id
                on_event(Note(f"{name}: {tracker.where}"))
        self._remember()

    def __call__(self, event: Event) -> None:
        self._on_event(event)
        told, now = self._told, time.monotonic()
        match event:
            case StepDone() if now - self._said >= PERIOD and event.step >= told["step"]:
                self._said = now
                speed = event.images_per_second
                self._log(
                    {"step/loss": event.loss, "step/images_per_second": speed}, event.step + 1
                )
            case EpochDone(row) if row["epoch"] > told["epoch"]:
                told["epoch"] = row["epoch"]
                names = ("epoch", "loss", "learning_rate", "images_per_second", "seconds")
                # an epoch without a step that could be made has no loss
                values = {f"epoch/{name}": row[name] for name in names if row[name] is not None}
                judged = row["validation"]  # not every epoch of a run by the clock is
                self._log(values | (_scores("val", judged) if judged else {}), row["step"])
            case Judged(scores) if not told["judged"]:
                told["judged"] = True
                self._log(_scores("native", scores), told["step"])
                files = sorted((self._run / "saved_images").glob("*_comparison.png"))
                files = files[:: -(-len(files) // PICTURES) or 1]
                self.each(lambda tracker: tracker.show(files, told["step"]))
            case _:
                pass

    def _log(self, values: dict[str, float], step: int) -> None:
        self._told["step"] = max(step, self._told["step"])
        self._remember()  # first: a run that is killed in between lacks a point, but has none twice
        self.each(lambda tracker: tracker.log(values, step))

    def each(self, call: Callable[[Tracker], None]) -> None:
        for name, tracker in list(self._trackers.items()):
            try:
                call(tracker)
            except Exception as error:
                self._drop(name, error)

    def _remember(self) -> None:
        if self._trackers:
            with suppress(OSError):
                write_json(self._run / TRACKERS_FILE, self._told)

    def _drop(self, name: str, error: Exception) -> None:
        self._trackers.pop(name, None)
        said = f"{type(error).__name__}: {error}"
        self._on_event(Note(f"note: {name} failed, and is told nothing any more ({said})"))


def _plain_settings(config: TrainConfig) -> dict[str, bool | int | float | str]:
    settings = config.model_dump(mode="json", exclude={"track"}, exclude_none=True)
    return {
        name: value if isinstance(value, bool | int | float | str) else json.dumps(value)
        for name, value in settings.items()
        if value != []
    }


def _scores(prefix: str, scores: dict[str, Any]) -> dict[str, float]:
    """Dice and IoU, pooled and per image, of each class and of all but the background."""
    found = {}
    for way in ("pooled", "per_image"):
        for name in ("dice", "iou"):
            score = scores[way][name]
            each = {"mean_foreground": score["mean_foreground"], **score["per_class"]}
            for key, value in each.items():
                if value is not None:  # trackers take no other characters
                    found[f"{prefix}/{way}_{name}/" + re.sub(r"[^\w-]+", "_", key)] = value
    return found
