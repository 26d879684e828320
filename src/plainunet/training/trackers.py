"""Experiment trackers behind one face: TensorBoard, MLflow, W&B and Trackio.

In: values by name, and picture files. Out: calls of the trackers' own libraries, which are
imported only where one is asked for. Everything stays in the run folder unless the trackers' own
environment variables say otherwise.
"""

import io
import logging
import os
import time
from collections.abc import Sequence
from contextlib import redirect_stdout
from importlib import import_module
from pathlib import Path
from typing import Any
from uuid import uuid4

from plainunet.data.images import read_image

_PROJECT = "plainunet"

# Each class below is one tracker: made with the run folder, the settings and the `id` under which
# it knows a run that goes on; `where` says to the user where to look.


class _TensorBoard:
    libraries = ("torch.utils.tensorboard",)
    id = ""

    def __init__(self, run: Path, settings: dict[str, Any], known: str | None) -> None:
        self._writer = import_module("torch.utils.tensorboard").SummaryWriter(
            str(run / "tensorboard")
        )
        self.where = f"look at it by: tensorboard --logdir {run / 'tensorboard'}"
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
    libraries = ("mlflow", "sqlalchemy", "alembic")  # the last two for runs kept in a file

    def __init__(self, run: Path, settings: dict[str, Any], known: str | None) -> None:
        logging.getLogger("mlflow").setLevel(logging.WARNING)
        self._library = import_module("mlflow")
        folder, artifacts = (run / "mlflow").resolve(), None
        uri = os.environ.get("MLFLOW_TRACKING_URI")
        if not uri:
            folder.mkdir(exist_ok=True)
            uri, artifacts = f"sqlite:///{folder.as_posix()}/mlflow.db", folder.as_uri()
        server = "look at it by: mlflow server --backend-store-uri "
        self.where = (server if artifacts else "") + uri
        self._client = self._library.MlflowClient(uri)
        if known is not None:
            self.id = known
            self._client.update_run(known, status="RUNNING")
            return
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", _PROJECT)
        there = self._client.get_experiment_by_name(name)
        parent = there.experiment_id if there else self._client.create_experiment(name, artifacts)
        self.id = self._client.create_run(parent, run_name=run.resolve().name).info.run_id
        parameter = self._library.entities.Param
        self._client.log_batch(
            self.id, params=[parameter(key, str(value)) for key, value in settings.items()]
        )

    def log(self, values: dict[str, float], step: int) -> None:
        now, metric = int(1000 * time.time()), self._library.entities.Metric
        metrics = [metric(name, value, now, step) for name, value in values.items()]
        for start in range(0, len(metrics), 1000):  # it takes no more at once
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
        mode, said = os.environ.get("WANDB_MODE"), ""
        if not mode:
            mode = "online" if _has_wandb_key() else "offline"
            said = "no account is known (wandb login), so " if mode == "offline" else ""
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
        self.where = self._run.url or f"{said}{mode} in {run / 'wandb'}; wandb sync sends it"
        # W&B's own step only grows, also from one part of a run to the next
        self._run.define_metric("*", step_metric="step")

    def log(self, values: dict[str, float], step: int) -> None:
        self._run.log({"step": step, **values})

    def show(self, files: Sequence[Path], step: int) -> None:
        pictures = [self._library.Image(str(file), caption=file.stem) for file in files]
        self._run.log({"step": step, "saved_images": pictures})

    def close(self, failed: bool) -> None:
        self._run.finish(exit_code=int(failed))


def _has_wandb_key() -> bool:
    """Whether W&B finds an account without asking for one."""
    if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return True
    host = os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")
    return import_module("requests").utils.get_netrc_auth(host) is not None


class _Trackio:
    libraries = ("trackio",)

    def __init__(self, run: Path, settings: dict[str, Any], known: str | None) -> None:
        self._library = import_module("trackio")
        # Trackio knows runs by their names
        self.id = known or f"{run.resolve().name}-{uuid4().hex[:6]}"
        with redirect_stdout(io.StringIO()):
            self._run = self._library.init(
                project=_PROJECT, name=self.id, config=settings, resume="allow", embed=False
            )
        self.where = f"look at it by: TRACKIO_DIR={self._library.TRACKIO_DIR} trackio show"

    def log(self, values: dict[str, float], step: int) -> None:
        self._run.log(values, step=step)

    def show(self, files: Sequence[Path], step: int) -> None:
        pictures = {f"saved_images/{f.stem}": self._library.Image(str(f)) for f in files}
        self._run.log(pictures, step=step)

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
