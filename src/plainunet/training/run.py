"""A run: its folder, settings, data and processes; its log: `metrics.jsonl`, a table, curves."""

import csv
import json
import os
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from types import FrameType
from typing import Any

from plainunet.config import DataConfig, TrainConfig
from plainunet.dataset.dataset import SegmentationDataset
from plainunet.dataset.split import SPLIT_FILE
from plainunet.errors import Error
from plainunet.evaluation.metrics import Metrics, logged_metrics, with_own
from plainunet.files import write_whole
from plainunet.formats.problems import command
from plainunet.network.card import BEST_FILE, LAST_FOLDER
from plainunet.network.losses import LOSSES, Loss, OwnLoss
from plainunet.parts import NO_PARTS, OwnParts
from plainunet.reporter import Reporter, silent
from plainunet.settings import AUGMENT_FILE, DATASET_FILE, make_config, read_settings
from plainunet.training.distributed import ALONE, Processes


class RunFolder:
    """The paths of a run's files."""

    def __init__(self, path: Path) -> None:
        """Name the files; none is opened."""
        self.path = path
        self.best = path / BEST_FILE  # the checkpoint of the best epoch
        self.state = path / LAST_FOLDER / "state.pt"  # what resuming needs
        # the run's id in each tracker, and the last step that was logged
        self.trackers = path / LAST_FOLDER / "trackers.json"
        self.config = path / "config.toml"  # all settings
        self.plan = path / "plan.txt"  # the plan, with a reason for each line
        self.split = path / SPLIT_FILE  # all pairs with their splits
        self.shards = path / "shards.json"  # instead, the index of the shards that it streams
        self.dataset = path / DATASET_FILE  # how the data folder was read
        self.augment = path / AUGMENT_FILE  # the user's own augmentation
        self.metrics = path / "metrics.jsonl"  # a row for each epoch
        self.table = path / "metrics.csv"  # the same as CSV
        self.curves = path / "curves.png"  # loss, Dice and learning rate over the epochs
        self.validation = path / "validation"  # folder of the images of the last validation
        self.data = path / "data"  # the samples of a dataset that is not a folder
        self.saved_images = path / "saved_images"  # folder of masks and comparisons
        self.held_out = path / "held_out.npz"  # with folds, the counts of the held-out images
        self.report = path / "report.html"  # the evaluation of the best checkpoint

    def read_config(self) -> TrainConfig:
        """Read the settings of the run."""
        return make_config(read_settings(self.config), str(self.config))

    def read_known(self) -> DataConfig:
        """Read how the run reads its data: its settings, and the label encoding that it found.

        To find the encoding again would not do: class names that were read from a legend, for
        instance, are settings by now, and the legend is no longer asked for values.
        """
        config = self.read_config()
        if not self.dataset.is_file():
            return config
        found = DataConfig(**read_settings(self.dataset, DataConfig))
        names = ("classes", "values", "colors", "encoding", "ignore")
        return config.model_copy(update={name: getattr(found, name) for name in names})

    def journal(self, name: str) -> Path:
        """Counts of an unfinished evaluation; `name` distinguishes concurrent ones."""
        return self.path / LAST_FOLDER / f"judged-{name}.json"

    def require_state(self) -> None:
        """Raise a FileNotFoundError if the folder has no saved state."""
        if not self.state.is_file():
            raise FileNotFoundError(
                f"{self.path}: no run to resume ({self.state.relative_to(self.path)} is missing). "
                "Pass the --out folder of an earlier run."
            )


class StoppedError(KeyboardInterrupt):
    """The run was interrupted; its state is saved, and the message tells how to resume."""

    def __init__(self, where: str, again: str, code: int) -> None:
        """Describe where it stopped, as in "after step 12"; exit code: 128 + the signal.

        `again` is the command that resumes the run.
        """
        super().__init__(f"stopped {where}; saved. Resume with: {again}")
        self.code = code


class Stop:
    """Whether the run was interrupted.

    Attributes:
        code: 0, or the exit code that follows from the signal.
    """

    def __init__(self) -> None:
        """Start without an interrupt."""
        self.code = 0

    def __bool__(self) -> bool:
        """Whether the run was interrupted."""
        return self.code != 0


@dataclass
class Run:
    """The context of a run."""

    folder: RunFolder
    config: TrainConfig
    """All settings."""
    dataset: SegmentationDataset
    """The data, each pair with its split."""
    reporter: Reporter = silent
    processes: Processes = ALONE
    """The processes that share the run; the first one writes."""
    begun: float = field(default_factory=time.monotonic)
    """Start of the run on the clock of `time.monotonic` [s]."""
    end: float | None = None
    """When training must end, on the clock of `processes` [s], if there is a budget."""
    predicting: float = 0.0
    """With a budget, the estimated time that the final prediction of the held-out images takes
    [s]."""
    stop: Stop = field(default_factory=Stop)
    where: str = "before training"
    """Progress of the run, for the message of an interrupt."""
    parts: OwnParts = NO_PARTS
    """The user's own parts."""
    teacher: str | None = None
    """Digest of the teacher that the run began with, if it has one."""

    @cached_property
    def digest(self) -> str:
        """The digest of the data."""
        return self.dataset.digest()

    @cached_property
    def metrics(self) -> Metrics:
        """The metrics: the built-in ones, and the user's own."""
        return with_own(self.parts.metrics, len(self.config.classes))

    @property
    def loss(self) -> Loss:
        """The loss: the user's own, or the one of the settings."""
        return OwnLoss(self.parts.loss) if self.parts.loss else LOSSES[self.config.loss]

    def stop_if_asked(self) -> None:
        """End the run if it was interrupted.

        Raises:
            StoppedError: It was interrupted.
        """
        if self.stop:
            raise self.stopped()

    def stopped(self) -> StoppedError:
        """Make the error that ends an interrupted run."""
        return StoppedError(self.where, self.resume_command, self.stop.code)

    @property
    def resume_command(self) -> str:
        """The command that resumes the run."""
        return command("plainunet", "train", "--resume", self.folder.path, *self.parts.flags())


@contextmanager
def asked_to_stop(run: Run) -> Iterator[None]:
    """Turn the first SIGINT (Ctrl-C) or SIGTERM into a request; a second one raises at once.

    Outside the main thread nothing changes, since signals do not arrive there.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    own = os.getpid()

    def take(number: int, frame: FrameType | None) -> None:
        if os.getpid() != own:  # a data loader worker, which its parent ends
            return
        if run.stop:
            again = KeyboardInterrupt()
            again.code = 128 + number  # type: ignore[attr-defined]
            raise again
        run.stop.code = 128 + number
        run.reporter.note("note: interrupted: saving after this step; Ctrl-C again to quit now")

    before = {number: signal.signal(number, take) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler or signal.SIG_DFL)


_PLAIN = ("epoch", "step", "loss", "learning_rate", "images_per_second", "seconds")
_SCORES = ("dice", "iou")


def rows_until(folder: RunFolder, epoch: int) -> list[dict[str, Any]]:
    """Read the rows of `metrics.jsonl` up to an epoch; later epochs are trained again."""
    file = folder.metrics
    if not file.is_file():
        return []
    rows = []
    for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1):
        try:
            rows.append(json.loads(line))
        except ValueError as error:
            raise Error(f"{file}: line {number} is damaged. Remove this line.") from error
    return [row for row in rows if row["epoch"] <= epoch]


def write_rows(folder: RunFolder, rows: Sequence[dict[str, Any]]) -> None:
    """Write `metrics.jsonl`, and the same as a table.

    Args:
        folder: The run folder.
        rows: One for each epoch: `epoch`, `step`, `size`, `loss`, `learning_rate`,
            `images_per_second`, `seconds`, `skipped` (number of skipped steps), `validation`, as
            by `validate`, or None, and, if it was resumed, `resumed_at`: the steps at which.
    """
    with write_whole(folder.metrics) as part:
        part.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    validated = [row["validation"]["pooled"] for row in rows if row["validation"]]
    names = logged_metrics(validated[-1]) if validated else list(_SCORES)
    scores = [f"{way}_{name}" for way in ("pooled", "per_image") for name in names]
    with (
        write_whole(folder.table) as part,
        part.open("w", newline="", encoding="utf-8") as file,
    ):
        table = csv.writer(file)
        table.writerow([*_PLAIN, "height", "width", *scores])
        for row in rows:
            table.writerow([*(row[name] for name in _PLAIN), *row["size"], *_scores(row, names)])


def _scores(row: dict[str, Any], names: Sequence[str]) -> list[float | None]:
    """The mean foreground scores; empty if the epoch was not validated."""
    scores = row["validation"]
    return [
        scores[way].get(name, {}).get("mean_foreground") if scores else None
        for way in ("pooled", "per_image")
        for name in names
    ]


def draw_curves(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Draw loss, validation Dice and learning rate over the epochs."""
    # imported here: it takes a second, and only runs need it
    from matplotlib.figure import Figure

    epochs = [row["epoch"] for row in rows]
    # fixed margins: a layout that measures all text takes nearly as long as drawing it
    figure = Figure(figsize=(10, 3))
    margins = {"left": 0.11, "right": 0.98, "bottom": 0.17, "top": 0.9, "wspace": 0.4}
    loss, dice, rate = figure.subplots(1, 3, gridspec_kw=margins)
    losses = [row["loss"] for row in rows]
    loss.plot(epochs, losses, marker=".")
    # an own loss may be negative, as -Dice
    scale = "linear" if any(each is not None and each <= 0 for each in losses) else "log"
    loss.set(title="training loss", xlabel="epoch", yscale=scale)
    validated = [row for row in rows if row["validation"]]
    for way in ("per_image", "pooled"):
        values = [row["validation"][way]["dice"]["mean_foreground"] for row in validated]
        known = [float("nan") if value is None else value for value in values]
        at = [row["epoch"] for row in validated]
        dice.plot(at, known, marker=".", label=way.replace("_", " "))
    dice.set(title="validation Dice, foreground, input size", xlabel="epoch")
    dice.legend()
    rate.plot(epochs, [row["learning_rate"] for row in rows], marker=".", color="grey")
    rate.set(title="learning rate", xlabel="epoch")
    for axes in (loss, dice, rate):
        axes.grid(alpha=0.3)
    with write_whole(path) as file:
        figure.savefig(file, dpi=110, format="png")
