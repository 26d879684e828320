"""Experiment trackers: TensorBoard, MLflow, W&B and Trackio."""

import io
import json
import logging
import os
import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout, suppress
from importlib import import_module
from pathlib import Path
from typing import Any
from uuid import uuid4

from plainunet.config import TrainConfig
from plainunet.errors import Error
from plainunet.evaluation.metrics import logged_metrics
from plainunet.files import write_json
from plainunet.formats.images import read_image
from plainunet.reporter import Forwarding, StepDone
from plainunet.training.run import Run

_PROJECT = "plainunet"


# Each class below is one tracker. Its arguments are the run folder, the settings, and its `id` of
# a resumed run; `where` tells the user where to look.


class _TensorBoard:
    libraries = ("torch.utils.tensorboard",)
    id = ""

    def __init__(self, run: Path, settings: dict[str, Any], known: str | None) -> None:
        self._writer = import_module("torch.utils.tensorboard").SummaryWriter(
            str(run / "tensorboard")
        )
        self.where = f"view with: tensorboard --logdir {run / 'tensorboard'}"
        if known is None:
            goal = {"val/per_image_dice/mean_foreground": 0}
            for summary in import_module("torch.utils.tensorboard.summary").hparams(settings, goal):
                self._writer.file_writer.add_summary(summary)

    def log(self, values: dict[str, float], step: int) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def show(self, files: Sequence[Path], step: int) -> None:
        for file in files:
            name = f"saved_images/{file.stem}"
            self._writer.add_image(name, read_image(file), step, dataformats="HWC")

    def close(self, failed: bool) -> None:
        self._writer.close()


class _MLflow:
    libraries = ("mlflow", "sqlalchemy", "alembic")  # the last two for the database file

    def __init__(self, run: Path, settings: dict[str, Any], known: str | None) -> None:
        logging.getLogger("mlflow").setLevel(logging.WARNING)
        self._library = import_module("mlflow")
        folder, artifacts = (run / "mlflow").resolve(), None
        uri = os.environ.get("MLFLOW_TRACKING_URI")
        if not uri:
            folder.mkdir(exist_ok=True)
            uri, artifacts = f"sqlite:///{folder.as_posix()}/mlflow.db", folder.as_uri()
        server = "view with: mlflow server --backend-store-uri "
        self.where = (server if artifacts else "") + uri
        self._client = self._library.MlflowClient(uri)
        if known is not None:
            self.id = known
            self._client.update_run(known, status="RUNNING")
            return
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", _PROJECT)
        found = self._client.get_experiment_by_name(name)
        parent = found.experiment_id if found else self._client.create_experiment(name, artifacts)
        self.id = self._client.create_run(parent, run_name=run.resolve().name).info.run_id
        parameter = self._library.entities.Param
        self._client.log_batch(
            self.id, params=[parameter(key, str(value)) for key, value in settings.items()]
        )

    def log(self, values: dict[str, float], step: int) -> None:
        now, metric = int(1000 * time.time()), self._library.entities.Metric
        metrics = [metric(name, value, now, step) for name, value in values.items()]
        for start in range(0, len(metrics), 1000):  # MLflow's limit per call
            self._client.log_batch(self.id, metrics=metrics[start : start + 1000])

    def show(self, files: Sequence[Path], step: int) -> None:
        for file in files:
            self._client.log_artifact(self.id, str(file), "saved_images")

    def close(self, failed: bool) -> None:
        self._client.set_terminated(self.id, "FAILED" if failed else "FINISHED")


class _Wandb:
    libraries = ("wandb",)

    def __init__(self, run: Path, settings: dict[str, Any], known: str | None) -> None:
        self._library = import_module("wandb")
        mode, reason = os.environ.get("WANDB_MODE"), ""
        if not mode:
            mode = "online" if _has_wandb_key() else "offline"
            reason = "not logged in (wandb login): " if mode == "offline" else ""
        self._run = self._library.init(
            project=os.environ.get("WANDB_PROJECT", _PROJECT),
            name=run.resolve().name,
            config=settings,
            dir=str(run),
            mode=mode,
            id=known,
            resume=None if known is None else "allow",
        )
        self.id = self._run.id
        self.where = self._run.url or f"{reason}{mode} in {run / 'wandb'}; upload with: wandb sync"
        # W&B's own step never goes back, which a resumed run may
        self._run.define_metric("*", step_metric="step")

    def log(self, values: dict[str, float], step: int) -> None:
        self._run.log({"step": step, **values})

    def show(self, files: Sequence[Path], step: int) -> None:
        images = [self._library.Image(str(file), caption=file.stem) for file in files]
        self._run.log({"step": step, "saved_images": images})

    def close(self, failed: bool) -> None:
        self._run.finish(exit_code=int(failed))


def _has_wandb_key() -> bool:
    """Whether W&B finds an API key without prompting for one."""
    if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return True
    host = os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")
    return import_module("requests").utils.get_netrc_auth(host) is not None


class _Trackio:
    libraries = ("trackio",)

    def __init__(self, run: Path, settings: dict[str, Any], known: str | None) -> None:
        self._library = import_module("trackio")
        # Trackio identifies runs by name
        self.id = known or f"{run.resolve().name}-{uuid4().hex[:6]}"
        with redirect_stdout(io.StringIO()):
            self._run = self._library.init(
                project=_PROJECT, name=self.id, config=settings, resume="allow", embed=False
            )
        self.where = f"view with: TRACKIO_DIR={self._library.TRACKIO_DIR} trackio show"

    def log(self, values: dict[str, float], step: int) -> None:
        self._run.log(values, step=step)

    def show(self, files: Sequence[Path], step: int) -> None:
        images = {f"saved_images/{f.stem}": self._library.Image(str(f)) for f in files}
        self._run.log(images, step=step)

    def close(self, failed: bool) -> None:
        with redirect_stdout(io.StringIO()):
            self._library.finish()


Tracker = _TensorBoard | _MLflow | _Wandb | _Trackio
TRACKERS: dict[str, type[_TensorBoard] | type[_MLflow] | type[_Wandb] | type[_Trackio]] = {
    "tensorboard": _TensorBoard,
    "mlflow": _MLflow,
    "wandb": _Wandb,
    "trackio": _Trackio,
}


PERIOD = 5.0
"""Minimum time between two logged steps [s]."""
IMAGES = 4
"""Maximum number of comparisons to log, from worst to best."""
# defaults: no telemetry, no output
_ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "WANDB_ERROR_REPORTING": "false",
    "WANDB_SILENT": "true",
    "WANDB_CONSOLE": "off",
}


_PACKAGES = {"mlflow": "mlflow-skinny sqlalchemy alembic"}
"""What to install for a tracker, if it is not the tracker's name."""


def require_trackers(config: TrainConfig, run: Path) -> None:
    """Import the libraries of the trackers, so that a missing one fails early."""
    for name in config.track:
        # Trackio reads its folder on import
        folder = {"TRACKIO_DIR": str(run.resolve() / name)} if name == "trackio" else {}
        for variable, value in {**_ENVIRONMENT, **folder}.items():
            os.environ.setdefault(variable, value)
        try:
            for library in TRACKERS[name].libraries:
                import_module(library)
        except ImportError as error:
            raise Error(
                f"--track {name}: a library is missing ({error}). Install it with: "
                f"pip install {_PACKAGES.get(name, name)}"
            ) from error


@contextmanager
def track(run: Run, known: bool) -> Iterator[None]:
    """Log a run to its trackers inside the context.

    Args:
        run: The run. Its reporter still receives everything, and notes on trackers that fail.
        known: Whether the run is resumed, so that the trackers know it.
    """
    reporter = run.reporter
    trackers = _Trackers(run, known)
    run.reporter = trackers
    failed = True
    try:
        yield
        failed = False
    finally:
        run.reporter = reporter
        trackers.each(lambda tracker: tracker.close(failed))


class _Trackers(Forwarding):
    """Forwards everything, and logs it to all trackers that have not failed."""

    def __init__(self, run: Run, known: bool) -> None:
        super().__init__(run.reporter)
        self._folder = run.folder
        self._trackers: dict[str, Tracker] = {}
        self._logged_at = float("-inf")
        self._done: dict[str, Any] = {"step": 0, "epoch": 0, "judged": False, "ids": {}}
        names = run.config.track if run.processes.is_first else ()
        if known:
            with suppress(OSError, ValueError):  # it may be missing or damaged
                self._done = json.loads(self._folder.trackers.read_text(encoding="utf-8"))
        if names:
            self._folder.path.mkdir(parents=True, exist_ok=True)
        settings = _plain_settings(run.config)
        for name in dict.fromkeys(names):
            try:
                tracker = TRACKERS[name](self._folder.path, settings, self._done["ids"].get(name))
            except Exception as error:
                self._drop(name, error)
            else:
                self._trackers[name], self._done["ids"][name] = tracker, tracker.id
                self.note(f"{name}: {tracker.where}")
        self._remember()

    def step(self, done: StepDone) -> None:
        super().step(done)
        now = time.monotonic()
        if now - self._logged_at >= PERIOD and done.step >= self._done["step"]:
            self._logged_at = now
            values = {
                "step/loss": done.loss,
                "step/images_per_second": done.images_per_second,
            }
            self._log(values, done.step + 1)

    def epoch(self, row: dict[str, Any], best: float | None) -> None:
        super().epoch(row, best)
        if row["epoch"] > self._done["epoch"]:
            self._done["epoch"] = row["epoch"]
            names = ("epoch", "loss", "learning_rate", "images_per_second", "seconds")
            # an epoch of skipped steps has no loss
            values = {f"epoch/{name}": row[name] for name in names if row[name] is not None}
            scores = row["validation"]  # not every epoch of a run with a budget is validated
            self._log(values | (_scores("val", scores) if scores else {}), row["step"])

    def result(self, scores: dict[str, Any]) -> None:
        super().result(scores)
        done = self._done
        if not done["judged"]:
            done["judged"] = True
            self._log(_scores("native", scores), done["step"])
            files = sorted(self._folder.saved_images.glob("*_comparison.png"))
            files = files[:: -(-len(files) // IMAGES) or 1]
            self.each(lambda tracker: tracker.show(files, done["step"]))

    def _log(self, values: dict[str, float], step: int) -> None:
        self._done["step"] = max(step, self._done["step"])
        self._remember()  # first: a kill in between loses a point, instead of logging it twice
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
                write_json(self._folder.trackers, self._done)

    def _drop(self, name: str, error: Exception) -> None:
        self._trackers.pop(name, None)
        reason = f"{type(error).__name__}: {error}"
        self.note(f"note: {name} failed; nothing more is logged to it ({reason})")


def _plain_settings(config: TrainConfig) -> dict[str, bool | int | float | str]:
    settings = config.model_dump(mode="json", exclude={"track"}, exclude_none=True)
    return {
        name: value if isinstance(value, bool | int | float | str) else json.dumps(value)
        for name, value in settings.items()
        if value != []
    }


def _scores(prefix: str, scores: dict[str, Any]) -> dict[str, float]:
    """Dice, IoU and own metrics, pooled and per image, by class and as the foreground mean."""
    found = {}
    for way in ("pooled", "per_image"):
        for name in logged_metrics(scores[way]):
            score = scores[way][name]
            each = {"mean_foreground": score["mean_foreground"], **score["per_class"]}
            for key, value in each.items():
                if value is not None:  # trackers allow no other characters
                    found[f"{prefix}/{way}_{name}/" + re.sub(r"[^\w-]+", "_", key)] = value
    return found
