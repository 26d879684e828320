"""All epochs of a run: what is written down, what is kept, and that it can be repeated."""

import itertools
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from plainunet.training.events import Advance, EpochDone, Event, Note, Stage, StepDone

from plainunet.config import Growth, TrainConfig
from plainunet.dataset.samples import Samples
from plainunet.network.checkpoint import Card, load_checkpoint
from plainunet.network.unet import UNet
from plainunet.palette import default_colors
from plainunet.prediction.predictor import Predictor
from plainunet.training.optim import learning_rate_at
from plainunet.training.run import BEST_FILE, METRICS_FILE
from plainunet.training.schedule import ClockSchedule
from plainunet.training.state import read_state
from plainunet.training.trainer import fit
from plainunet.training.validate import VALIDATION_FOLDER, validate

NAMES = ("background", "thing")
Rows = list[dict[str, Any]]
Fit = Callable[..., Rows]


def without_times(rows: Rows) -> Rows:
    times = {"seconds", "images_per_second"}
    return [{key: value for key, value in row.items() if key not in times} for row in rows]


def foreground(row: dict[str, Any]) -> float:
    return row["validation"]["per_image"]["dice"]["mean_foreground"] or 0.0


def test_rows_and_sizes_epoch_by_epoch(fitted: Fit, tmp_path: Path) -> None:
    events: list[Event] = []
    growth = (Growth(until=0.3, scale=0.5), Growth(until=0.5, scale=0.75))
    rows = fitted(events=events, epochs=4, growth=growth)
    assert [row["epoch"] for row in rows] == [1, 2, 3, 4]
    assert [row["step"] for row in rows] == [3, 6, 9, 12]
    assert [row["size"] for row in rows] == [[16, 20], [24, 30], [32, 40], [32, 40]]
    assert [row["learning_rate"] for row in rows] == [
        pytest.approx(learning_rate_at(step, 12, 2e-2, "one-cycle")) for step in (2, 5, 8, 11)
    ]
    seconds = [row["seconds"] for row in rows]
    assert seconds == sorted(seconds)
    assert all(row["images_per_second"] > 0 for row in rows)
    assert [f"{h} x {w}" in row["validation"]["protocol"] for row in rows for h, w in [row["size"]]]

    told = [event for event in events if isinstance(event, EpochDone)]
    assert [event.row["epoch"] for event in told] == [1, 2, 3, 4]
    steps = [event for event in events if isinstance(event, StepDone)]
    assert [(step.epoch, step.step, step.steps) for step in steps] == [
        (step // 3, step, 12) for step in range(12)
    ]
    # nine pictures in three equal batches: the mean over images is the mean over steps
    for epoch, row in enumerate(rows):
        losses = [step.loss for step in steps if step.epoch == epoch]
        assert row["loss"] == pytest.approx(sum(losses) / 3)
    assert events.count(Stage("validating", 4)) == 4
    assert events.count(Advance(4)) == 4
    (note,) = (event.text for event in events if isinstance(event, Note))
    assert "float32 on cpu" in note
    assert {file.name for file in (tmp_path / "run").iterdir()} == {
        *(BEST_FILE, METRICS_FILE, "metrics.csv", "curves.png", "last", VALIDATION_FOLDER)
    }


def test_each_step_tells_how_far_the_run_is_and_what_it_takes(fitted: Fit) -> None:
    events: list[Event] = []
    rows = fitted(events=events, epochs=4, growth=(Growth(until=0.5, scale=0.5),))
    steps = [event for event in events if isinstance(event, StepDone)]
    assert [(step.epoch_step, step.epoch_steps) for step in steps] == [(1, 3), (2, 3), (3, 3)] * 4
    # two epochs of a quarter of the pixels, two of all
    work = [0.25] * 6 + [1.0] * 6
    assert [step.share for step in steps] == pytest.approx(np.cumsum(work) / sum(work))
    assert [step.learning_rate for step in steps] == [
        pytest.approx(learning_rate_at(step, 12, 2e-2, "one-cycle")) for step in range(12)
    ]
    assert all(step.end is None and step.gpu_memory is None for step in steps)
    assert all(2**26 < (step.memory or 2**27) < 2**36 for step in steps)
    told = [event for event in events if isinstance(event, EpochDone)]
    best = [max(foreground(row) for row in rows[2 : number + 1]) for number in (2, 3)]
    assert [event.best for event in told] == [None, None, *best]


def test_by_the_clock_a_step_tells_the_rate_that_it_used(
    parts: dict[str, Samples], tiny: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[float] = []
    asked = ClockSchedule.rate

    def rate(self: ClockSchedule, step: int) -> float:
        given.append(asked(self, step))
        return given[-1]

    monkeypatch.setattr(ClockSchedule, "rate", rate)
    events: list[Event] = []
    card = Card(NAMES, default_colors(2), tiny.size)
    ticks = itertools.count()  # a clock that comes on whenever it is looked at
    monkeypatch.setattr(time, "monotonic", lambda: next(ticks) * 0.1)
    end = 10.0
    network = UNet(3, 2, tiny.base_channels, tiny.depth)
    run = tmp_path / "run"
    fit(network, card, parts, tiny, tmp_path, run, None, events.append, end=end)
    steps = [event for event in events if isinstance(event, StepDone)]
    assert [step.learning_rate for step in steps] == given
    assert {step.end for step in steps} == {end}
    shares = [step.share for step in steps]
    assert shares == sorted(shares)
    assert 0 < shares[0] < 0.5 < 0.8 < shares[-1] <= 1


class Album(list[Event]):
    """What an epoch has left in the folder of validation pictures, as arrays by name."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.epochs: list[dict[str, NDArray[np.uint8]]] = []

    def append(self, event: Event) -> None:
        if isinstance(event, EpochDone):
            files = sorted(self.folder.iterdir())
            self.epochs.append({file.name: read_rgb(file) for file in files})


def read_rgb(file: Path) -> NDArray[np.uint8]:
    with Image.open(file) as picture:
        return np.asarray(picture.convert("RGB"))


def panels(picture: NDArray[np.uint8], width: int) -> list[NDArray[np.uint8]]:
    """Picture, truth, prediction, differences; gaps of four pixels are between them."""
    assert picture.shape[1] == 4 * width + 3 * 4
    return [picture[:, start : start + width] for start in range(0, 4 * width + 12, width + 4)]


def test_the_last_validation_pictures_are_files(fitted: Fit, tmp_path: Path) -> None:
    album = Album(tmp_path / "run" / VALIDATION_FOLDER)
    fitted(events=album, epochs=6, growth=(Growth(until=0.2, scale=0.5),), base_channels=4)
    small, first, *_, last = album.epochs
    assert list(small) == list(first) == list(last)
    assert list(last) == ["1_09.png", "2_10.png", "3_11.png", "4_12.png"]
    assert {picture.shape for picture in small.values()} == {(16, 4 * 20 + 12, 3)}
    assert {picture.shape for picture in last.values()} == {(32, 4 * 40 + 12, 3)}
    changed = 0
    for name, picture in last.items():
        before, after = panels(first[name], 40), panels(picture, 40)
        assert np.array_equal(before[0], after[0])
        assert np.array_equal(before[1], after[1])
        changed += not np.array_equal(before[2], after[2])
        red = (after[3] == (255, 40, 40)).all(axis=2)
        assert np.array_equal(red, (after[1] != after[2]).any(axis=2))
    assert changed


def test_the_pictures_are_what_the_better_weights_predict_and_judging_has_predicted(
    fitted: Fit, parts: dict[str, Samples], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []
    predict = Predictor.predict

    def counted(self: Predictor, image: NDArray[Any]) -> NDArray[np.uint8]:
        calls.append(1)
        return predict(self, image)

    monkeypatch.setattr(Predictor, "predict", counted)
    fitted(epochs=1, ema=0.9, base_channels=4)
    assert len(calls) == 2 * 4  # the last weights and their average, each picture once
    predictor = Predictor(
        *load_checkpoint(tmp_path / "run" / BEST_FILE), device="cpu", precision="fp32"
    )
    for index, file in enumerate(sorted((tmp_path / "run" / VALIDATION_FOLDER).iterdir())):
        image, _ = parts["val"][index]
        shown, _, predicted, _ = panels(read_rgb(file), 40)
        assert np.array_equal(shown, image)
        assert np.array_equal(predicted, np.array(default_colors(2))[predict(predictor, image)])


def test_the_best_epoch_at_the_final_size_is_kept(
    fitted: Fit, parts: dict[str, Samples], tmp_path: Path
) -> None:
    # the rate never falls, so that the last epoch need not be the best
    rows = fitted(
        epochs=6,
        growth=(Growth(until=0.3, scale=0.5),),
        learning_rate=0.3,
        schedule="constant",
        optimizer="adam",
    )
    final = [row for row in rows if row["size"] == [32, 40]]
    assert len(final) == 4
    best = max(final, key=foreground)
    network, card = load_checkpoint(tmp_path / "run" / BEST_FILE)
    assert card.scores == best["validation"]
    assert card.size == (32, 40)
    predictor = Predictor(network, card, device="cpu", precision="fp32")
    again = validate(predictor, parts["val"], (32, 40), lambda done: None)
    assert again["pooled"] == best["validation"]["pooled"]
    assert read_state(tmp_path / "run")["counters"]["best"] == foreground(best)


@pytest.mark.parametrize("ema", [0.0, 0.9])
def test_the_average_is_what_is_kept(fitted: Fit, tmp_path: Path, ema: float) -> None:
    fitted(epochs=1, ema=ema)
    state = read_state(tmp_path / "run")
    kept = load_checkpoint(tmp_path / "run" / BEST_FILE)[0].state_dict()
    expected = state["average"] if ema else state["network"]
    assert all(torch.equal(kept[name], expected[name]) for name in kept)
    if ema:
        assert any(not torch.equal(kept[name], state["network"][name]) for name in kept)
    else:
        assert state["average"] is None


def test_the_same_seed_gives_the_same_run(fitted: Fit, tmp_path: Path) -> None:
    settings = {"augment": "strong", "ema": 0.5}
    first = fitted("first", **settings)
    second = fitted("second", **settings)
    worker = fitted("worker", **settings, workers=1)
    assert without_times(first) == without_times(second) == without_times(worker)
    weights = [read_state(tmp_path / name)["network"] for name in ("first", "second", "worker")]
    for name, value in weights[0].items():
        assert torch.equal(value, weights[1][name])
        assert torch.equal(value, weights[2][name])
    (other,) = fitted("other", **settings, epochs=1, seed=2, schedule="constant")
    (alike,) = fitted("alike", **settings, epochs=1, schedule="constant")
    assert other["loss"] != alike["loss"]


def test_a_loss_that_explodes_keeps_the_last_good_state(fitted: Fit, tmp_path: Path) -> None:
    with pytest.raises(FloatingPointError, match="--learning-rate"):
        fitted(epochs=3, optimizer="adam", learning_rate=1e30, schedule="constant")
    state = read_state(tmp_path / "run")
    assert all(value.isfinite().all() for value in state["network"].values())
