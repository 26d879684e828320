"""Runs that are killed or asked to stop, whenever: resumed, they end as if nothing had happened."""

import os
import random
import re
import shutil
import signal
import subprocess
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from plainunet.training.run import RunFolder, asked_to_stop
from plainunet.training.state import read_state

from ..forks import Fork, fork_command
from .conftest import Draw, MakeRun, rows_of, same

pytestmark = pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGKILL")

SETTINGS = {
    "plain": "--precision fp32",
    "all": "--precision fp32 --gradient-accumulation 2 --ema 0.9 --workers 2 --dropout 0.3 "
    "--optimizer muon --augment strong --elastic 2",
    "bf16": "--precision bf16 --schedule cosine --gradient-clip 0.5 --loss dice",
}


def begin(data: Path, run: Path, settings: str, epochs: int = 6, lost: float = 0.0) -> Fork:
    usual = f"--epochs {epochs} --size 48 64 --batch-size 4 --base-channels 4 --depth 2 --seed 3"
    growth = run.parent / "growth.toml"
    growth.write_text("growth = [{until = 0.3, scale = 0.5}]\n")
    mine = ["--device", "cpu", "--config", growth, "--out", run]
    return fork_command("train", data, *mine, *usual.split(), *settings.split(), lost=lost)


def resume(run: Path, lost: float = 0.0) -> Fork:
    return fork_command("train", "--resume", run, lost=lost)


def counters(run: Path) -> dict[str, Any]:
    counted: dict[str, Any] = read_state(RunFolder(run))["counters"]
    return counted


def assert_alike(run: Path, whole: Path) -> None:
    """All that a run leaves behind is the same, but for its times."""
    names = {path.relative_to(whole) for path in whole.rglob("*") if path.is_file()}
    assert {path.relative_to(run) for path in run.rglob("*") if path.is_file()} == names
    files = RunFolder(whole)
    # the report shows times, and names the folder
    timed = [files.metrics, files.table, files.curves, files.state, files.report]
    names -= {file.relative_to(whole) for file in timed}
    assert len(names) >= 6
    for name in names:
        assert (run / name).read_bytes() == (whole / name).read_bytes(), name
    assert rows_of(run, timed=False) == rows_of(whole, timed=False)
    states = [read_state(RunFolder(folder)) for folder in (run, whole)]
    for content in states:
        del content["counters"]["seconds"]
    assert same(*states)


@pytest.fixture(scope="module")
def data(draw: Draw, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw(tmp_path_factory.mktemp("resume") / "data", 30, (48, 64))


@pytest.fixture(scope="module")
def whole(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of five epochs that nothing disturbs."""
    run = tmp_path_factory.mktemp("whole") / "run"
    begin(data, run, SETTINGS["all"], 5).end()
    return run


def kill_and_resume(process: Fork, run: Path, whole: Path, steps: list[int], most: float) -> None:
    """Kill it up to `most` seconds after so many steps; resumed, it does what `whole` did."""
    moments = random.Random(0)
    resumed = set()
    killed = 0
    for step in steps:
        process.wait_for(r"parameters; ")
        while process.is_running and counters(run)["step"] < step:
            time.sleep(0.02)
        time.sleep(moments.uniform(0, most))
        if not process.is_running:  # it was quicker
            break
        process.kill()
        killed += 1
        saved = counters(run)
        if saved["batch"]:
            resumed.add((saved["epoch"] + 1, saved["step"]))
        process = resume(run)
    process.end()
    assert killed >= 3
    assert_alike(run, whole)
    # no step that was saved is made again: epochs go on from where they were
    assert resumed == {
        (row["epoch"], step) for row in rows_of(run) for step in row.get("resumed_at", [])
    }


def test_a_killed_run_ends_as_if_nothing_had_happened(
    data: Path, tmp_path: Path, whole: Path
) -> None:
    process = begin(data, tmp_path / "run", SETTINGS["all"], 5)
    kill_and_resume(process, tmp_path / "run", whole, [1, 9, 17], 0.2)


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("settings", SETTINGS)
def test_a_run_killed_twenty_times(data: Path, tmp_path: Path, settings: str) -> None:
    run, whole = tmp_path / "run", tmp_path / "whole"
    begin(data, whole, SETTINGS[settings], 60).end()
    kill_and_resume(begin(data, run, SETTINGS[settings], 60), run, whole, [0] * 20, 1.5)


@pytest.mark.slow
def test_a_run_comes_on_however_often_it_is_killed(data: Path, tmp_path: Path) -> None:
    """What is saved meanwhile is kept; `test_state.py` tests how often that is."""
    run, steps = tmp_path / "run", [0]
    process = begin(data, run, "--precision fp32", 500, lost=0.5)
    for _ in range(3):
        process.wait_for("parameters; ")
        while counters(run)["step"] <= steps[-1]:
            assert process.is_running
            time.sleep(0.1)
        process.kill()
        steps.append(counters(run)["step"])
        process = resume(run, lost=0.5)
    process.wait_for("parameters; ")
    process.kill()
    assert steps == sorted(set(steps))


@pytest.mark.parametrize(
    "number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)]
)
def test_asked_to_stop_it_finishes_the_step_and_says_how_to_go_on(
    data: Path, tmp_path: Path, whole: Path, number: signal.Signals
) -> None:
    run = tmp_path / "run"
    # nothing but the request saves here, and Ctrl-C comes to the workers too
    process = begin(data, run, SETTINGS["all"], 5, lost=1e9)
    process.wait_for("epoch +2 ")
    time.sleep(0.2)
    os.killpg(process.pid, number)
    out = process.end(128 + number)
    assert out.count("note: interrupted: ") == 1
    said = re.search(rf"note: .* after step (\d+)\b.* plainunet train --resume {run}", out)
    assert said, out
    assert counters(run)["step"] == int(said[1])
    resume(run).end()
    assert_alike(run, whole)


_TWO_SIGNALS = """
import signal
from pathlib import Path
import pytest
from plainunet.config import TrainConfig
from plainunet.reporter import Reporter
from plainunet.training.run import Run, RunFolder, StoppedError, asked_to_stop

class Notes(Reporter):
    notes = []
    def note(self, text):
        self.notes.append(text)

run = Run(RunFolder(Path(folder)), TrainConfig(), None, Notes(), where="after step 12")
before = signal.getsignal(number)
with asked_to_stop(run):
    run.stop_if_asked()
    signal.raise_signal(number)
    assert run.stop.code == 128 + number
    assert len(Notes.notes) == 1
    with pytest.raises(StoppedError) as raised:
        run.stop_if_asked()
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(number)
assert signal.getsignal(number) is before
assert isinstance(raised.value, KeyboardInterrupt)
assert raised.value.code == 128 + number
print(raised.value)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_asks_and_the_second_is_obeyed(
    tmp_path: Path, number: signal.Signals
) -> None:
    """Real signals, in a process of its own."""
    said = Fork(_TWO_SIGNALS, folder=str(tmp_path / "run"), number=number).end()
    assert "after step 12" in said
    assert f"plainunet train --resume {tmp_path / 'run'}" in said


def test_in_another_thread_signals_are_left_alone(make_run: MakeRun) -> None:
    run, seen = make_run(), []

    def work() -> None:
        with asked_to_stop(run):
            seen.append((signal.getsignal(signal.SIGINT), bool(run.stop)))

    thread = threading.Thread(target=work)
    before = signal.getsignal(signal.SIGINT)
    thread.start()
    thread.join()
    assert seen == [(before, False)]


def test_a_second_run_into_the_folder_is_refused_until_the_first_has_ended(
    data: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    process = begin(data, run, "--workers 2", 500)
    process.wait_for("epoch +1 ")
    out = resume(run).end(2)
    assert re.search(rf"error: {run}: .*process {process.pid}\b", out)
    process.kill(group=False)  # its workers are left, for some seconds
    process = resume(run)
    process.wait_for("parameters; ")
    process.kill()


def test_a_full_disk_is_said_and_the_last_state_stays(data: Path, small_disk: Path) -> None:
    """A real file system of two megabytes, and a state that does not fit in beside another."""
    run = small_disk / "run"
    process = begin(data, run, "--validation 0.1", 4000)
    process.wait_for("epoch +1 ")
    before = counters(run)["step"]
    filler = small_disk / "filler"
    with suppress(OSError):  # the run writes beside it: what is free may be less by now
        filler.write_bytes(bytes(shutil.disk_usage(small_disk).free))
    out = process.end(2)
    assert "(No space left on device)" in out
    assert f"plainunet train --resume {run}" in out
    assert counters(run)["step"] >= before
    assert not list(run.rglob("*unfinished*"))
    filler.unlink()
    process = resume(run, lost=5)
    process.wait_for("epoch +[0-9]+ ")
    process.kill()


@pytest.mark.slow  # PyTorch looks for it every five seconds; `test_loader.py` has a short one
def test_a_worker_that_dies_is_said(data: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    process = begin(data, run, "--workers 1", 4000, lost=1)
    process.wait_for("epoch +2 ")
    workers: list[bytes] = []
    while not workers:  # there are none while it validates
        found = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, check=False)
        workers = found.stdout.split()
    os.kill(int(workers[0]), signal.SIGKILL)
    out = process.end(2)
    assert "data loader worker" in out
    assert f"plainunet train --resume {run}" in out


def test_an_image_that_vanishes_is_said(data: Path, tmp_path: Path) -> None:
    own = tmp_path / "data"
    shutil.copytree(data, own)
    run = tmp_path / "run"
    process = begin(own, run, "--workers 1", 4000)
    process.wait_for("epoch +2 ")
    process.kill()
    gone = next((own / "images").iterdir())
    gone.unlink()
    assert str(gone) in resume(run).end(2)
    shutil.copy2(data / "images" / gone.name, gone)
    process = resume(run)
    process.wait_for("epoch +[0-9]+ ")
    process.kill()
    other = own / "masks" / gone.name
    mask = np.asarray(Image.open(other))
    Image.fromarray(mask[::-1]).save(other, compress_level=0)
    assert re.search(rf"changed since the run began.*{re.escape(str(other))}", resume(run).end(2))
    shutil.copy(data / "masks" / gone.name, other)
    config = run / "config.toml"
    config.write_text(config.read_text().replace("base_channels = 4", "base_channels = 8"))
    assert "another network than that of the run's config.toml" in resume(run).end(2)
