"""Each real tracker: an interrupted and resumed run, read back by the library itself."""

import json
import re
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from plainunet.config import TrainConfig
from plainunet.training import state, trackers
from plainunet.training.train import resume, train

from .conftest import PowerCut, Recorder

Series = dict[str, list[tuple[int, float]]]
"""Steps and values by name, in the order of logging."""


@dataclass
class Tracked:
    run: Path
    notes: list[str]
    expected: Series
    """What every tracker must contain."""


pytestmark = pytest.mark.usefixtures("no_accounts")


@pytest.fixture
def follow(
    draw: Callable[..., Path], tiny: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Tracked]:
    """Train with a tracker, stop in the middle of the second epoch, and resume to the end."""

    def follow(name: str, between: Callable[[Path], None] = lambda run: None) -> Tracked:
        monkeypatch.setattr(trackers, "PERIOD", 0.0)
        monkeypatch.setattr(state, "LOST", 0.0)  # no epoch is made twice
        data, run = draw(tmp_path / "data", 10), tmp_path / "first"
        settings = {"batch_size": 2, "classes": ("street", "car/van (any)"), "track": (name,)}
        heard = Recorder(lambda kind, call: kind == "step" and call.step == 6)
        with pytest.raises(PowerCut):
            train(data, run, tiny.model_copy(update=settings), heard)
        between(run)
        resumed = Recorder()
        result = resume(run, resumed)
        notes = heard.all("note") + resumed.all("note")
        steps = heard.all("step") + resumed.all("step")
        assert not [note for note in notes if "failed" in note]
        losses = {done.step + 1: done.loss for done in steps}
        expected: Series = {"step/loss": sorted(losses.items())}
        assert [step for step, _ in expected["step/loss"]] == [1, 2, 3, 4, 5, 6, 7, 8]
        rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        for key in ("loss", "learning_rate", "images_per_second", "seconds"):
            expected[f"epoch/{key}"] = [(row["step"], row[key]) for row in rows]
        validated = [("val", row["step"], row["validation"]) for row in rows]
        for prefix, step, scores in [*validated, ("native", 8, result.content)]:
            for way in ("pooled", "per_image"):
                for score in ("dice", "iou"):
                    each = scores[way][score]
                    for key, value in {
                        "mean_foreground": each["mean_foreground"],
                        "street": each["per_class"]["street"],
                        "car_van_any_": each["per_class"]["car/van (any)"],
                    }.items():
                        series = expected.setdefault(f"{prefix}/{way}_{score}/{key}", [])
                        series.append((step, value))
        return Tracked(run, notes, expected)

    return follow


def assert_same(found: Series, expected: Series) -> None:
    assert set(expected) | {"epoch/epoch", "step/images_per_second"} == set(found)
    for name, series in expected.items():
        assert [step for step, _ in found[name]] == [step for step, _ in series], name
        values = [value for _, value in series]
        assert [value for _, value in found[name]] == pytest.approx(values, rel=1e-6), name


def test_tensorboard(follow: Callable[..., Tracked]) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.plugins.hparams import metadata

    tracked = follow("tensorboard")
    folder = tracked.run / "tensorboard"
    read = EventAccumulator(str(folder), {"scalars": 0, "images": 0}).Reload()
    found = {
        name: [(event.step, event.value) for event in read.Scalars(name)]
        for name in read.Tags()["scalars"]
    }
    assert_same(found, tracked.expected)
    shown = [file.stem for file in (tracked.run / "saved_images").glob("*_comparison.png")]
    assert set(read.Tags()["images"]) == {f"saved_images/{stem}" for stem in shown}
    plugin = read.SummaryMetadata(metadata.SESSION_START_INFO_TAG).plugin_data.content
    settings = metadata.parse_session_start_info_plugin_data(plugin).hparams
    assert settings["optimizer"].string_value == "adamw"
    assert settings["epochs"].number_value == 2
    assert sum(f"tensorboard --logdir {folder}" in note for note in tracked.notes) == 2


# from SQLAlchemy 2.1, at MLflow's first use of a database
@pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated")
def test_mlflow(follow: Callable[..., Tracked]) -> None:
    from mlflow import MlflowClient

    def client(run: Path) -> tuple[MlflowClient, Any]:
        client = MlflowClient(f"sqlite:///{run / 'mlflow' / 'mlflow.db'}")
        experiment = client.get_experiment_by_name("plainunet")
        (found,) = client.search_runs([experiment.experiment_id])
        return client, found

    def has_failed(run: Path) -> None:
        assert client(run)[1].info.status == "FAILED"

    tracked = follow("mlflow", has_failed)
    read, run = client(tracked.run)
    found = {
        name: [(m.step, m.value) for m in read.get_metric_history(run.info.run_id, name)]
        for name in run.data.metrics
    }
    assert_same(found, tracked.expected)
    assert run.info.status == "FINISHED"
    assert run.info.run_name == "first"
    assert run.data.params["optimizer"] == "adamw"
    assert run.data.params["size"] == "[32, 40]"
    shown = [file.name for file in (tracked.run / "saved_images").glob("*_comparison.png")]
    kept = list((tracked.run / "mlflow").rglob("*_comparison.png"))
    assert sorted(file.name for file in kept) == sorted(shown)


def wandb_records(file: Path) -> Iterator[Any]:
    """The records of a .wandb file, which is a log of LevelDB: blocks of 32 KiB, parts of records
    with a head of 7 bytes (checksum, length, kind: 1 whole, 2 first, 3 middle, 4 last)."""
    from wandb.proto.wandb_internal_pb2 import Record

    content = file.read_bytes()
    assert content[:4] == b":W&B"
    place, whole = 7, b""
    while place + 7 <= len(content):
        if 32768 - place % 32768 < 7:
            place += 32768 - place % 32768
            continue
        _, length, kind = struct.unpack("<IHB", content[place : place + 7])
        whole += content[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):
            yield Record.FromString(whole)
            whole = b""


@pytest.mark.slow
def test_wandb(follow: Callable[..., Tracked]) -> None:
    tracked = follow("wandb")
    # each start of the run has its own folder, with the same run id
    files = sorted((tracked.run / "wandb").glob("offline-run-*/run-*.wandb"))
    assert len(files) == 2
    assert len({file.name for file in files}) == 1
    records = [record for file in files for record in wandb_records(file)]
    found: Series = {}
    images = 0
    for record in records:
        row = {
            item.key or "/".join(item.nested_key): json.loads(item.value_json)
            for item in record.history.item
        }
        for name, value in row.items():
            if re.match("(step|epoch|val|native)/", name):
                found.setdefault(name, []).append((row["step"], value))
        images += len(row.get("saved_images/filenames", ()))
    assert_same(found, tracked.expected)
    assert images == 2
    (run, _) = [record.run for record in records if record.HasField("run")]
    assert (run.project, run.display_name) == ("plainunet", "first")
    settings = {item.key: json.loads(item.value_json) for item in run.config.update}
    assert settings["optimizer"] == "adamw"
    assert any("wandb login" in note and "offline" in note for note in tracked.notes)


@pytest.mark.trackio
def test_trackio(follow: Callable[..., Tracked]) -> None:
    tracked = follow("trackio")

    import trackio
    from trackio.sqlite_storage import SQLiteStorage

    assert tracked.run / "trackio" == trackio.TRACKIO_DIR
    (run,) = trackio.Api().runs("plainunet")
    assert run.config["optimizer"] == "adamw"
    found: Series = {}
    shown = set()
    for row in SQLiteStorage.get_logs("plainunet", run.name, run_id=run.id):
        for name, value in row.items():
            if name.startswith("saved_images/"):
                shown.add(name)
            elif "/" in name:
                found.setdefault(name, []).append((row["step"], value))
    assert_same(found, tracked.expected)
    assert len(shown) == 2
