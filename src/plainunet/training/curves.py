"""The run's curves as a picture."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from plainunet.files import write_whole


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
