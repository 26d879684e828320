"""What trackers log, and when; missing and failing trackers."""

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, cast, get_args

import pytest

from plainunet.config import TrackerName, TrainConfig
from plainunet.reporter import Reporter, StepDone
from plainunet.training import trackers
from plainunet.training.run import Run, RunFolder
from plainunet.training.trackers import TRACKERS, require_trackers, track
from plainunet.training.train import resume, train

from .conftest import Draw, Recorder

pytestmark = pytest.mark.usefixtures("no_accounts")


class Logged:
    """Records its calls."""

    libraries = ("json",)
    where = "here"
    id = "r1"
    calls: ClassVar[list[Any]] = []

    def __init__(self, run: Path, settings: dict[str, Any], known: str | None) -> None:
        self.calls.append(("open", known, settings))

    def log(self, values: dict[str, float], step: int) -> None:
        self.calls.append((step, values))

    def show(self, files: Sequence[Path], step: int) -> None:
        self.calls.append(("show", step, [file.name for file in files]))

    def close(self, failed: bool) -> None:
        self.calls.append(("close", failed))


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    monkeypatch.setitem(TRACKERS, "wandb", Logged)  # type: ignore[arg-type]
    monkeypatch.setattr(Logged, "calls", [])
    monkeypatch.setattr(trackers, "PERIOD", 0.0)
    return Logged.calls


Event = tuple[str, Any]


def step(number: int) -> Event:
    return "step", StepDone(0, number, 9, 0.5, 7.0, 0.1, number + 1, 9, 0.5)


def epoch(number: int, steps: int, validation: Any = None) -> Event:
    row = {"epoch": number, "step": steps, "size": [32, 40], "loss": 0.25, "learning_rate": 0.1}
    row |= {"images_per_second": 3.0, "seconds": 2.0, "validation": validation}
    return "epoch", (row, None)


def result(scores: dict[str, Any]) -> Event:
    return "result", scores


def send(reporter: Reporter, *events: Event) -> None:
    for kind, content in events:
        getattr(reporter, kind)(*(content if kind == "epoch" else (content,)))


def make_run(config: TrainConfig, out: Path, reporter: Reporter | None = None) -> Run:
    """A run without data, which trackers do not need."""
    return Run(RunFolder(out), config, cast(Any, None), reporter or Reporter())


def scores(value: float | None) -> dict[str, Any]:
    one = {"mean_foreground": value, "per_class": {"ground": 0.5, "car/van (any)": value}}
    return {way: {"dice": one, "iou": one} for way in ("pooled", "per_image")}


CONFIG = TrainConfig(track=("wandb", "wandb"), epochs=7, classes=("a", "b"))


def test_every_tracker_of_the_settings_exists() -> None:
    assert tuple(TRACKERS) == get_args(TrackerName)


def test_events_become_values(calls: list[Any], tmp_path: Path) -> None:
    heard = Recorder()
    events = [step(0), epoch(1, 1), step(1), epoch(2, 2, scores(None)), result(scores(0.75))]
    (tmp_path / "saved_images").mkdir()
    for number in range(10):
        for kind in ("comparison", "mask"):
            (tmp_path / "saved_images" / f"{number:02d}_x_{kind}.png").touch()
    run = make_run(CONFIG, tmp_path, heard)
    with track(run, known=False):
        send(run.reporter, *events)
    assert run.reporter is heard
    assert heard.calls == [("note", "wandb: here"), *events]
    opened, first, row, _, validated, native, show, close = calls
    assert opened[:2] == ("open", None)
    assert opened[2]["epochs"] == 7
    assert opened[2]["classes"] == '["a", "b"]'
    assert not {"track", "size", "growth"} & set(opened[2]), "unset settings have no value"
    assert first == (1, {"step/loss": 0.5, "step/images_per_second": 7.0})
    plain = {"loss": 0.25, "learning_rate": 0.1, "images_per_second": 3.0, "seconds": 2.0}
    assert row == (1, {"epoch/epoch": 1} | {f"epoch/{name}": plain[name] for name in plain})
    # undefined scores have no value
    assert {name for name in validated[1] if name.startswith("val/")} == {
        f"val/{way}_{name}/ground" for way in ("pooled", "per_image") for name in ("dice", "iou")
    }
    assert native[0] == 2
    assert native[1]["native/per_image_iou/car_van_any_"] == 0.75
    assert native[1]["native/pooled_dice/mean_foreground"] == 0.75
    assert show == ("show", 2, [f"{number:02d}_x_comparison.png" for number in (0, 3, 6, 9)])
    assert close == ("close", False)


def test_steps_are_logged_at_a_limited_rate(
    calls: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trackers, "PERIOD", 1000.0)
    run = make_run(CONFIG, tmp_path)
    with track(run, known=False):
        send(run.reporter, *(step(0), step(1), step(2), epoch(1, 3), step(3), epoch(2, 4)))
    assert [call[0] for call in calls] == ["open", 1, 3, 4, "close"]


def test_repeated_steps_are_not_logged_again(calls: list[Any], tmp_path: Path) -> None:

    def begin() -> None:
        run = make_run(CONFIG, tmp_path)
        with track(run, known=False):
            send(run.reporter, *(step(0), epoch(1, 1), step(1), step(2)))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        begin()
    assert calls.pop() == ("close", True)
    for again in (
        (step(1), step(2), step(3), epoch(2, 4), result(scores(1.0))),
        (result(scores(1.0)),),
    ):
        run = make_run(CONFIG, tmp_path)
        with track(run, known=True):
            send(run.reporter, *again)
    assert [call[:2] for call in calls if call[0] == "open"] == [
        ("open", None),
        *2 * [("open", "r1")],
    ]
    assert [call[0] for call in calls if isinstance(call[0], int)] == [1, 1, 2, 3, 4, 4, 4]
    # a new run in the same folder is another
    with track(make_run(CONFIG, tmp_path), known=False):
        pass
    assert calls[-2][:2] == ("open", None)


def test_a_damaged_trackers_file(calls: list[Any], tmp_path: Path) -> None:
    (tmp_path / "last").mkdir()
    (tmp_path / "last" / "trackers.json").write_text("{")
    run = make_run(CONFIG, tmp_path)
    with track(run, known=True):
        send(run.reporter, step(5))
    assert [call[0] for call in calls] == ["open", 6, "close"]


def test_without_trackers_nothing_changes(tmp_path: Path) -> None:
    heard = Recorder()
    run = make_run(TrainConfig(), tmp_path / "run", heard)
    with track(run, known=False):
        send(run.reporter, step(0))
    assert heard.calls == [step(0)]
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("name", "library"),
    [
        ("tensorboard", "tensorboard"),
        *((name, kind.libraries[-1]) for name, kind in TRACKERS.items()),
    ],
)
def test_a_missing_library_fails_early(
    name: str, library: str, tiny: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if library == "tensorboard":  # imported by torch.utils.tensorboard
        monkeypatch.delitem(sys.modules, "torch.utils.tensorboard", raising=False)
    monkeypatch.setitem(sys.modules, library, None)
    fix = rf"--track {name}: .*{library}.*pip install {name}"
    config = tiny.model_copy(update={"track": (name,)})
    with pytest.raises(ValueError, match=fix):
        train(tmp_path / "no such folder", tmp_path / "run", config)
    assert not (tmp_path / "run").exists()


def test_trackers_that_fail_do_not_end_the_run(
    draw: Draw, tiny: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from torch.utils.tensorboard import SummaryWriter

    class Unreachable(Logged):
        def __init__(self, *_: Any) -> None:
            raise ConnectionError("nobody answers")

    add_scalar, left = SummaryWriter.add_scalar, iter(range(5))

    def fill_the_disk(self: SummaryWriter, *arguments: Any) -> None:
        if next(left, None) is None:
            raise OSError(28, "No space left on device")
        add_scalar(self, *arguments)

    monkeypatch.setattr(SummaryWriter, "add_scalar", fill_the_disk)
    monkeypatch.setitem(TRACKERS, "mlflow", Unreachable)  # type: ignore[arg-type]
    heard = Recorder()
    data = draw(tmp_path / "data", 4)
    config = tiny.model_copy(update={"track": ("mlflow", "tensorboard")})
    train(data, tmp_path / "run", config, heard)
    failures = [note for note in heard.all("note") if " failed" in note]
    assert [note.split()[1] for note in failures] == ["mlflow", "tensorboard"]
    assert "No space left on device" in failures[1]
    assert len((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()) == tiny.epochs
    logged = json.loads((tmp_path / "run" / "last" / "trackers.json").read_text())
    assert set(logged["ids"]) == {"tensorboard"}


def test_resuming_needs_the_library_too(
    draw: Draw, tiny: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny.model_copy(update={"epochs": 1, "track": ("tensorboard",)})
    train(draw(tmp_path / "data", 4), tmp_path / "run", config)
    assert 'track = ["tensorboard"]' in (tmp_path / "run" / "config.toml").read_text()
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(ValueError, match="--track tensorboard"):
        resume(tmp_path / "run")


def test_environment_variables_override_the_defaults(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_SILENT", "false")
    monkeypatch.setitem(TRACKERS, "wandb", Logged)  # type: ignore[arg-type]
    require_trackers(TrainConfig(track=("wandb",)), tmp_path)
    assert os.environ["WANDB_SILENT"] == "false"
    assert os.environ["WANDB_ERROR_REPORTING"] == "false"
