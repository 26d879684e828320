"""The epochs of a run: reports, files, the best checkpoint, and reproducibility."""

import copy
import itertools
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from plainunet.config import Growth, TrainConfig
from plainunet.dataset.dataset import SegmentationDataset
from plainunet.dataset.samples import Samples
from plainunet.network.checkpoint import load_checkpoint
from plainunet.palette import default_colors
from plainunet.prediction.predictor import Predictor
from plainunet.reporter import Reporter, StepDone
from plainunet.system import resident_memory
from plainunet.training import trainer as training
from plainunet.training.run import Run, RunFolder, StoppedError
from plainunet.training.schedule import ClockSchedule, learning_rate_at
from plainunet.training.state import read_state
from plainunet.training.trainer import FAULTS, Rate, Step, StepResult
from plainunet.training.validate import validate

from .conftest import Fit, MakeRun, Recorder, Rows, make_trainer, rows_of, same

GROWTH = (Growth(until=0.3, scale=0.5), Growth(until=0.5, scale=0.75))
Grown = tuple[Run, Rows, Recorder]


@pytest.fixture(scope="module")
def grown(
    dataset: SegmentationDataset,
    parts: dict[str, Samples],
    tiny: TrainConfig,
    tmp_path_factory: pytest.TempPathFactory,
) -> Grown:
    """A run of four epochs with progressive resizing; its rows and reports."""
    recorder = Recorder()
    config = tiny.model_copy(update={"epochs": 4, "growth": GROWTH, "classes": dataset.class_names})
    run = Run(RunFolder(tmp_path_factory.mktemp("grown") / "run"), config, dataset, recorder)
    make_trainer(run, parts).fit()
    return run, rows_of(run.folder.path), recorder


def foreground(row: dict[str, Any]) -> float:
    return row["validation"]["per_image"]["dice"]["mean_foreground"] or 0.0


def test_rows_and_sizes_epoch_by_epoch(grown: Grown) -> None:
    run, rows, recorder = grown
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
    assert [json.loads(json.dumps(row)) for row, _ in recorder.all("epoch")] == rows
    # the best of those at full size
    best = [max(foreground(row) for row in rows[2 : number + 1]) for number in (2, 3)]
    assert [each for _, each in recorder.all("epoch")] == [None, None, *best]
    assert recorder.all("stage") == [("validating", 4)] * 4
    assert recorder.all("advance") == [1, 2, 3, 4] * 4
    (note,) = recorder.all("note")
    assert "float32 on cpu" in note
    files = {"best.safetensors", "metrics.jsonl", "metrics.csv", "curves.png", "last", "validation"}
    assert {file.name for file in run.folder.path.iterdir()} == files


def test_progress_and_resources_of_each_step(grown: Grown) -> None:
    _, rows, recorder = grown
    steps = recorder.all("step")
    assert [(step.epoch, step.step, step.steps) for step in steps] == [
        (step // 3, step, 12) for step in range(12)
    ]
    assert [(step.epoch_step, step.epoch_steps) for step in steps] == [(1, 3), (2, 3), (3, 3)] * 4
    # nine images in three equal batches: the mean over images is the mean over steps
    for epoch, row in enumerate(rows):
        losses = [step.loss for step in steps if step.epoch == epoch]
        assert row["loss"] == pytest.approx(sum(losses) / 3)
    work = np.repeat([16 * 20, 24 * 30, 32 * 40, 32 * 40], 3)
    assert [step.share for step in steps] == pytest.approx(np.cumsum(work) / sum(work))
    assert [step.learning_rate for step in steps] == [
        pytest.approx(learning_rate_at(step, 12, 2e-2, "one-cycle")) for step in range(12)
    ]
    assert all(step.images_per_second > 0 for step in steps)
    assert all(step.end is None and step.gpu_memory is None for step in steps)
    now = resident_memory()
    assert steps[0].memory == (now and pytest.approx(now, rel=0.5))


def test_the_mean_loss_weights_images_not_batches(
    fitted: Fit, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[StepResult] = []
    step = Step.__call__

    def watched(self: Step, *arguments: Any) -> StepResult:
        seen.append(step(self, *arguments))
        return seen[-1]

    monkeypatch.setattr(Step, "__call__", watched)
    (row,) = fitted(epochs=1, batch_size=2)
    assert sorted(each.images for each in seen) == [1, 2, 2, 2, 2]
    assert row["loss"] == pytest.approx(sum(each.loss * each.images for each in seen) / 9)
    assert row["loss"] != pytest.approx(sum(each.loss for each in seen) / 5, rel=1e-6)


def test_steps_of_a_run_with_a_budget_report_their_learning_rate(
    make_run: MakeRun, parts: dict[str, Samples], monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[float] = []
    asked = ClockSchedule.rate

    def rate(self: ClockSchedule, step: int) -> float:
        given.append(asked(self, step))
        return given[-1]

    monkeypatch.setattr(ClockSchedule, "rate", rate)
    ticks = itertools.count()  # a clock that advances at each call
    monkeypatch.setattr(time, "monotonic", lambda: next(ticks) * 0.1)
    recorder = Recorder()
    run = make_run(reporter=recorder)
    run.end = 10.0
    make_trainer(run, parts).fit()
    assert [step.learning_rate for step in recorder.all("step")] == given
    assert {step.end for step in recorder.all("step")} == {10.0}
    shares = [step.share for step in recorder.all("step")]
    assert shares == sorted(shares)
    assert 0 < shares[0] < 0.5 < 0.8 < shares[-1] <= 1


@pytest.mark.parametrize("is_over", [False, True])
def test_weights_of_a_budget_that_has_ended_before_they_were_validated(
    make_run: MakeRun, parts: dict[str, Samples], is_over: bool
) -> None:
    """Stopped shortly before the end, and resumed after it: they replace an earlier checkpoint."""
    run = make_run()
    make_trainer(run, parts).fit()
    before = run.folder.best.read_bytes()
    run.end = time.monotonic()
    late = make_trainer(run, parts)
    late.state.batch, late.state.is_over = 1, is_over
    late.fit()
    assert (run.folder.best.read_bytes() == before) == is_over


class Clock:
    now = 100.0


def test_images_per_second_are_those_of_the_last_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr(training.time, "perf_counter", lambda: clock.now)
    rate = Rate()
    clock.now += 0.5
    assert rate.add(3) == pytest.approx(6)
    clock.now += 1.5
    assert rate.add(5) == pytest.approx(4)
    clock.now += 20
    for _ in range(25):
        clock.now += 0.5
        last = rate.add(1)
    assert last == pytest.approx(2)  # the slow step is more than twenty steps ago


def spoil(monkeypatch: pytest.MonkeyPatch, numbers: set[int]) -> dict[int, Tensor]:
    """Replace the batches of these steps by nan; returns the original batches."""
    spoilt: dict[int, Tensor] = {}
    step = Step.__call__

    def see(self: Step, batch: Any, number: int, rate: float) -> StepResult:
        if number in numbers:
            spoilt[number] = batch[0]
            batch = [batch[0].float() * float("nan"), *batch[1:]]
        return step(self, batch, number, rate)

    monkeypatch.setattr(Step, "__call__", see)
    return spoilt


def test_a_step_that_is_not_finite_is_skipped_and_its_images_named(
    fitted: Fit, parts: dict[str, Samples], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Any number of times, if fewer than `FAULTS` are consecutive."""
    bad = {1, *range(3, 2 + FAULTS), *range(3 + FAULTS, 2 + 2 * FAULTS)}
    spoilt = spoil(monkeypatch, bad)
    recorder = Recorder()
    rows = fitted(reporter=recorder, epochs=5, augment="none")
    assert set(spoilt) == bad
    _, *notes = recorder.all("note")
    assert [note.partition(": loss nan")[0] for note in notes] == [
        f"note: step {number + 1}" for number in sorted(bad)
    ]
    names = {parts["train"][n][0].tobytes(): parts["train"].file(n) for n in range(9)}
    for note, number in zip(notes, sorted(bad), strict=True):
        named = note.partition("batch: ")[2].split(", ")
        assert named == [names[image.numpy().tobytes()] for image in spoilt[number]]
    skipped = [sum(number // 3 == epoch for number in bad) for epoch in range(5)]
    assert [row["skipped"] for row in rows] == skipped
    assert [row["loss"] is None for row in rows] == [number == 3 for number in skipped]
    assert [row["step"] for row in rows] == [3, 6, 9, 12, 15]


def test_training_ends_after_consecutive_skipped_steps(
    make_run: MakeRun, parts: dict[str, Samples], monkeypatch: pytest.MonkeyPatch
) -> None:
    spoil(monkeypatch, set(range(1, 1 + FAULTS)))
    weights: list[dict[str, Tensor]] = []

    class Watching(Recorder):
        def step(self, done: StepDone) -> None:
            weights.append(copy.deepcopy(trainer.state.network.state_dict()))

    recorder = Watching()
    trainer = make_trainer(make_run(reporter=recorder, epochs=5), parts)
    message = rf"step {FAULTS + 1}: .* {FAULTS - 1} steps.*--learning-rate.*batch: .*png"
    with pytest.raises(FloatingPointError, match=message):
        trainer.fit()
    assert len(recorder.all("note")) == 1 + FAULTS - 1
    assert same(trainer.state.network.state_dict(), weights[0])


def test_a_diverging_loss_keeps_the_last_finite_state(fitted: Fit, tmp_path: Path) -> None:
    with pytest.raises(FloatingPointError, match="--learning-rate"):
        fitted(epochs=3, optimizer="adam", learning_rate=1e30, schedule="constant")
    state = read_state(RunFolder(tmp_path / "run"))
    assert all(value.isfinite().all() for value in state["network"].values())


class Album(Reporter):
    """The validation previews after each epoch, as arrays by name."""

    def __init__(self, folder: RunFolder) -> None:
        self._folder = folder.validation
        self.epochs: list[dict[str, NDArray[np.uint8]]] = []

    def epoch(self, row: dict[str, Any], best: float | None) -> None:
        files = sorted(self._folder.iterdir())
        self.epochs.append({file.name: read_rgb(file) for file in files})


def read_rgb(file: Path) -> NDArray[np.uint8]:
    with Image.open(file) as image:
        return np.asarray(image.convert("RGB"))


def panels(drawn: NDArray[np.uint8], width: int) -> list[NDArray[np.uint8]]:
    """Image, ground truth, prediction, differences, with gaps of four pixels."""
    assert drawn.shape[1] == 4 * width + 3 * 4
    return [drawn[:, start : start + width] for start in range(0, 4 * width + 12, width + 4)]


def test_the_last_validation_images_are_files(fitted: Fit, tmp_path: Path) -> None:
    album = Album(RunFolder(tmp_path / "run"))
    fitted(reporter=album, epochs=6, growth=(Growth(until=0.2, scale=0.5),), base_channels=4)
    small, first, *_, last = album.epochs
    assert list(small) == list(first) == list(last)
    assert list(last) == ["1_09.png", "2_10.png", "3_11.png", "4_12.png"]
    assert {drawn.shape for drawn in small.values()} == {(16, 4 * 20 + 12, 3)}
    assert {drawn.shape for drawn in last.values()} == {(32, 4 * 40 + 12, 3)}
    changed = 0
    for name, drawn in last.items():
        before, after = panels(first[name], 40), panels(drawn, 40)
        assert np.array_equal(before[0], after[0])
        assert np.array_equal(before[1], after[1])
        changed += not np.array_equal(before[2], after[2])
        red = (after[3] == (255, 40, 40)).all(axis=2)
        assert np.array_equal(red, (after[1] != after[2]).any(axis=2))
    assert changed


@pytest.mark.parametrize(("base_channels", "ema"), [(2, 0.9), (4, 0.9), (4, 0.0)])
def test_the_better_of_weights_and_ema_is_saved_and_shown(
    fitted: Fit,
    make_run: MakeRun,
    parts: dict[str, Samples],
    monkeypatch: pytest.MonkeyPatch,
    base_channels: int,
    ema: float,
) -> None:
    """The EMA if both are equally good, as with two channels."""
    calls: list[int] = []
    predict = Predictor.predict

    def counted(self: Predictor, image: NDArray[Any]) -> NDArray[np.uint8]:
        calls.append(1)
        return predict(self, image)

    monkeypatch.setattr(Predictor, "predict", counted)
    fitted(epochs=1, ema=ema, base_channels=base_channels)
    assert len(calls) == (8 if ema else 4)  # once per image and network
    run = make_run(epochs=1)
    state, (network, card) = read_state(run.folder), load_checkpoint(run.folder.best)
    predictor = Predictor(network, card, device="cpu", precision="fp32")
    for index, file in enumerate(sorted(run.folder.validation.iterdir())):
        image, _ = parts["val"][index]
        shown, _, predicted, _ = panels(read_rgb(file), 40)
        ids = predict(predictor, image)
        assert (0 < ids.mean() < 1) == (base_channels == 4)
        assert np.array_equal(shown, image)
        assert np.array_equal(predicted, np.array(default_colors(2))[ids])

    def dice(weights: dict[str, Tensor]) -> float:
        network.load_state_dict(weights)
        predictor = Predictor(network, card, device="cpu", precision="fp32")
        return foreground({"validation": validate(run, predictor, parts["val"], (32, 40))})

    kept = copy.deepcopy(network.state_dict())
    assert (state["average"] is None) == (not ema)
    candidates = [each for each in (state["average"], state["network"]) if each]
    assert same(kept, max(candidates, key=dice))
    assert len(candidates) == 1 or not same(*candidates)


def test_the_best_epoch_at_full_size_is_saved(make_run: MakeRun, parts: dict[str, Samples]) -> None:
    # a constant learning rate, so that the last epoch need not be the best
    run = make_run(
        epochs=6,
        growth=(Growth(until=0.3, scale=0.5),),
        learning_rate=0.3,
        schedule="constant",
        optimizer="adam",
    )
    make_trainer(run, parts).fit()
    final = [row for row in rows_of(run.folder.path) if row["size"] == [32, 40]]
    assert len(final) == 4
    best = max(final, key=foreground)
    network, card = load_checkpoint(run.folder.best)
    assert card.scores == best["validation"]
    assert card.size == (32, 40)
    predictor = Predictor(network, card, device="cpu", precision="fp32")
    again = validate(run, predictor, parts["val"], (32, 40))
    assert again["pooled"] == best["validation"]["pooled"]
    assert read_state(run.folder)["counters"]["best"] == foreground(best)


def test_the_same_seed_gives_the_same_run(fitted: Fit, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"augment": "strong", "ema": 0.5}
    first, *others = [tmp_path / name for name in ("first", "second", "worker")]
    for folder in (first, *others):
        fitted(folder.name, **settings, workers=int(folder.name == "worker"))
    weights = read_state(RunFolder(first))["network"]
    for other in others:
        assert rows_of(other, timed=False) == rows_of(first, timed=False)
        assert same(read_state(RunFolder(other))["network"], weights)
    losses = [
        fitted(f"seed {seed}", **settings, epochs=1, seed=seed, schedule="constant")[0]["loss"]
        for seed in (1, 2)
    ]
    assert losses[0] != losses[1]


def test_an_interrupted_validation_names_the_last_step(
    make_run: MakeRun, parts: dict[str, Samples]
) -> None:
    """Also if it was resumed there, without a step since."""
    for is_resumed in (False, True):
        run = make_run()
        trainer = make_trainer(run, parts)
        if is_resumed:
            trainer.restore(read_state(run.folder))

        def ask(kind: str, event: Any, run: Run = run) -> bool:
            run.stop.code = 130 * (kind == "advance")
            return False

        run.reporter = Recorder(ask)
        with pytest.raises(StoppedError, match=r"after step 3\b"):
            trainer.fit()
        assert [done.step for done in run.reporter.all("step")] == ([] if is_resumed else [0, 1, 2])
