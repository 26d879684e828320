"""What a run logs of each epoch: `metrics.jsonl`, a table, and curves."""

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from plainunet.files import write_whole

BEST_FILE = "best.safetensors"
METRICS_FILE = "metrics.jsonl"
TABLE_FILE = "metrics.csv"
_PLAIN = ("epoch", "step", "loss", "learning_rate", "images_per_second", "seconds")
_SCORES = ("dice", "iou")


def rows_until(run: Path, epoch: int) -> list[dict[str, Any]]:
    """Read what was written down.

    Args:
        run: The run folder.
        epoch: The last epoch that counts: what came after the state was saved is done again.

    Returns:
        The rows; none where there is no such file.

    Raises:
        ValueError: A line of it is damaged.
    """
    file = run / METRICS_FILE
    if not file.is_file():
        return []
    rows = []
    for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1):
        try:
            rows.append(json.loads(line))
        except ValueError as error:
            raise ValueError(f"{file}: line {number} is damaged. Remove it.") from error
    return [row for row in rows if row["epoch"] <= epoch]


def write_rows(run: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Write all rows.

    Args:
        run: The run folder.
        rows: One for each epoch: `epoch`, `step`, `size`, `loss`, `learning_rate`,
            `images_per_second`, `seconds`, `skipped` (steps that could not be made),
            `validation`, as by `validate`, or None, and where there is one, `resumed_at`: the
            steps at which the epoch was taken up again.
    """
    with write_whole(run / METRICS_FILE) as part:
        part.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    scores = [f"{way}_{name}" for way in ("pooled", "per_image") for name in _SCORES]
    with (
        write_whole(run / TABLE_FILE) as part,
        part.open("w", newline="", encoding="utf-8") as file,
    ):
        table = csv.writer(file)
        table.writerow([*_PLAIN, "height", "width", *scores])
        for row in rows:
            table.writerow([*(row[name] for name in _PLAIN), *row["size"], *_scores(row)])


def _scores(row: dict[str, Any]) -> list[float | None]:
    """The mean foreground scores, empty where an epoch was not judged."""
    judged = row["validation"]
    return [
        judged[way][name]["mean_foreground"] if judged else None
        for way in ("pooled", "per_image")
        for name in _SCORES
    ]


def draw_curves(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Draw loss, validation Dice and learning rate over the epochs.

    Args:
        path: The PNG to write.
        rows: Rows of `metrics.jsonl` with an `epoch`.
    """
    # imported here: it takes a second, and only runs draw
    from matplotlib.figure import Figure

    epochs = [row["epoch"] for row in rows]
    figure = Figure(figsize=(10, 3), layout="constrained")
    loss, dice, rate = figure.subplots(1, 3)
    loss.plot(epochs, [row["loss"] for row in rows], marker=".")
    loss.set(title="training loss", xlabel="epoch", yscale="log")
    for part in ("per_image", "pooled"):
        judged = [row for row in rows if row["validation"]]
        values = [row["validation"][part]["dice"]["mean_foreground"] for row in judged]
        known = [float("nan") if value is None else value for value in values]
        there = [row["epoch"] for row in judged]
        dice.plot(there, known, marker=".", label=part.replace("_", " "))
    dice.set(title="validation Dice, foreground, working size", xlabel="epoch")
    dice.legend()
    rate.plot(epochs, [row["learning_rate"] for row in rows], marker=".", color="grey")
    rate.set(title="learning rate", xlabel="epoch")
    for axes in (loss, dice, rate):
        axes.grid(alpha=0.3)
    with write_whole(path) as file:
        figure.savefig(file, dpi=110, format="png")
