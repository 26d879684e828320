"""Runs killed by SIGKILL, whenever: taken up again, they end as if nothing had happened."""

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch

from plainunet.training.state import STATE_FILE, read_state
from plainunet.training.validate import REPORT_FILE

pytestmark = pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGKILL")

# as the command `plainunet`, but saving after so many seconds of work
COMMAND = """
import sys
from plainunet.training import saving
saving.LOST = float(sys.argv.pop(1))
from plainunet.__main__ import main
main()
"""
TIMES = {"seconds", "images_per_second", "resumed_at"}
SETTINGS = {
    "plain": "--precision fp32",
    "all": "--precision fp32 --accumulation 2 --ema 0.9 --workers 2 --dropout 0.3 "
    "--optimizer muon --augment strong --elastic 2",
    "bf16": "--precision bf16 --schedule cosine --clip 0.5 --loss dice",
}


def start(*arguments: str | Path, lost: float = 0.0) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", COMMAND, str(lost), *map(str, arguments)]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )


def new_run(data: Path, run: Path, settings: str, epochs: int = 6) -> list[str | Path]:
    usual = f"--epochs {epochs} --size 48 64 --batch-size 4 --base-channels 4 --depth 2 --seed 3"
    growth = run.parent / "growth.toml"
    growth.write_text("growth = [{until = 0.3, scale = 0.5}]\n")
    mine = ["--device", "cpu", "--config", growth, "--out", run]
    return ["train", data, *mine, *usual.split(), *settings.split()]


def finish(process: subprocess.Popen[str]) -> str:
    out, _ = process.communicate(timeout=240)
    assert process.returncode == 0, out
    return out


def wait_for(process: subprocess.Popen[str], words: str) -> str:
    """Read a line after the other, until one has these words."""
    assert process.stdout is not None
    said = ""
    for line in process.stdout:
        said += line
        if re.search(words, line):
            return said
    raise AssertionError(f"{words!r} is not in:\n{said}")


def rows_of(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def same(a: Any, b: Any) -> bool:
    """Compare what a state holds, to the last bit."""
    if isinstance(a, torch.Tensor):
        return a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return bool(a == b)


def assert_alike(run: Path, whole: Path) -> None:
    """All that a run leaves behind is the same, but for its times."""
    names = {path.relative_to(whole) for path in whole.rglob("*") if path.is_file()}
    assert {path.relative_to(run) for path in run.rglob("*") if path.is_file()} == names
    # the report shows times, and names the folder
    timed = {Path("metrics.jsonl"), Path("metrics.csv"), Path("curves.png"), STATE_FILE}
    timed.add(Path(REPORT_FILE))
    assert len(names - timed) >= 6
    for name in names - timed:
        assert (run / name).read_bytes() == (whole / name).read_bytes(), name
    rows, expected = (
        [{key: value for key, value in row.items() if key not in TIMES} for row in rows_of(folder)]
        for folder in (run, whole)
    )
    assert rows == expected
    state, wanted = read_state(run), read_state(whole)
    for content in (state, wanted):
        del content["counters"]["seconds"]
    assert same(state, wanted)


@pytest.fixture(scope="module")
def data(draw: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw(tmp_path_factory.mktemp("resume") / "data", 30, (48, 64))


def kill_and_go_on(
    data: Path, folder: Path, settings: str, kills: int, epochs: int, seed: int
) -> None:
    whole, run = folder / "whole", folder / "run"
    finish(start(*new_run(data, whole, settings, epochs)))
    moments = random.Random(seed)
    process = start(*new_run(data, run, settings, epochs))
    taken_up = set()
    killed = 0
    while killed < kills:
        wait_for(process, r"parameters; ")
        time.sleep(moments.uniform(0, 1.5))
        if process.poll() is not None:  # it was quicker
            break
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate(timeout=60)
        killed += 1
        saved = read_state(run)["counters"]
        if saved["batch"]:
            taken_up.add((saved["epoch"] + 1, saved["step"]))
        process = start("train", "--resume", run)
    finish(process)
    assert killed >= min(3, kills)
    assert_alike(run, whole)
    # no step that was saved is made again: epochs go on from where they were
    noted = {(row["epoch"], step) for row in rows_of(run) for step in row.get("resumed_at", [])}
    assert noted == taken_up


def test_a_killed_run_ends_as_if_nothing_had_happened(data: Path, tmp_path: Path) -> None:
    kill_and_go_on(data, tmp_path, SETTINGS["all"], kills=3, epochs=14, seed=0)


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("settings", SETTINGS)
def test_a_run_killed_twenty_times(data: Path, tmp_path: Path, settings: str) -> None:
    kill_and_go_on(data, tmp_path, SETTINGS[settings], kills=20, epochs=60, seed=1)


@pytest.mark.slow
def test_a_run_comes_on_however_often_it_is_killed(data: Path, tmp_path: Path) -> None:
    """What is saved meanwhile is kept; `test_saving.py` tests how often that is."""
    run, steps = tmp_path / "run", [0]
    process = start(*new_run(data, run, "--precision fp32", 500), lost=0.5)
    for _ in range(3):
        wait_for(process, "parameters; ")
        while read_state(run)["counters"]["step"] <= steps[-1]:
            assert process.poll() is None
            time.sleep(0.1)
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate(timeout=60)
        steps.append(read_state(run)["counters"]["step"])
        process = start("train", "--resume", run, lost=0.5)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate(timeout=60)
    assert steps == sorted(set(steps))


@pytest.fixture(scope="module")
def whole(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of eight epochs that nothing disturbs."""
    run = tmp_path_factory.mktemp("whole") / "run"
    finish(start(*new_run(data, run, SETTINGS["all"], 8)))
    return run


@pytest.mark.parametrize(
    "number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)]
)
def test_asked_to_stop_it_finishes_the_step_and_says_how_to_go_on(
    data: Path, tmp_path: Path, whole: Path, number: signal.Signals
) -> None:
    # nothing but the request saves here, and Ctrl-C comes to the workers too
    process = start(*new_run(data, tmp_path / "run", SETTINGS["all"], 8), lost=1e9)
    wait_for(process, "epoch +2 ")
    time.sleep(0.2)
    os.killpg(process.pid, number)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    assert out.count("note: asked to stop") == 1
    said = re.search(
        rf"note: stopped after step (\d+), .* plainunet train --resume {tmp_path}", out
    )
    assert said, out
    assert "Traceback" not in out
    saved = read_state(tmp_path / "run")["counters"]
    assert saved["step"] == int(said[1])
    finish(start("train", "--resume", tmp_path / "run"))
    assert_alike(tmp_path / "run", whole)


def test_a_second_run_into_the_folder_is_refused_until_the_first_has_ended(
    data: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    process = start(*new_run(data, run, "--workers 2", 500))
    wait_for(process, "epoch +1 ")
    other = start("train", "--resume", run)
    out, _ = other.communicate(timeout=60)
    assert other.returncode == 2
    assert f"error: {run}: process {process.pid} works in it" in out
    os.kill(process.pid, signal.SIGKILL)  # its workers are left, for some seconds
    process.wait(timeout=60)
    assert process.stdout is not None
    process.stdout.close()
    process = start("train", "--resume", run)
    wait_for(process, "parameters; ")
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate(timeout=60)


def test_a_full_disk_is_said_and_the_last_state_stays(data: Path, small_disk: Path) -> None:
    """A real file system of two megabytes, and a state that does not fit in beside another."""
    run = small_disk / "run"
    process = start(*new_run(data, run, "--validation 0.1", 4000))
    wait_for(process, "epoch +1 ")
    before = read_state(run)["counters"]["step"]
    filler = small_disk / "filler"
    with suppress(OSError):  # the run writes beside it: what is free may be less by now
        filler.write_bytes(bytes(shutil.disk_usage(small_disk).free))
    out, _ = process.communicate(timeout=120)
    assert process.returncode == 2, out
    assert "cannot be written (No space left on device)" in out
    assert f"plainunet train --resume {run}" in out
    assert "Traceback" not in out
    assert read_state(run)["counters"]["step"] >= before
    assert not list(run.rglob("*unfinished*"))
    filler.unlink()
    process = start("train", "--resume", run, lost=5)
    wait_for(process, "epoch +[0-9]+ ")
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate(timeout=60)


def test_a_picture_that_vanishes_and_a_worker_that_dies_are_said(
    data: Path, tmp_path: Path
) -> None:
    own = tmp_path / "data"
    shutil.copytree(data, own)
    run = tmp_path / "run"
    process = start(*new_run(own, run, "--workers 1", 4000), lost=1)
    wait_for(process, "epoch +2 ")
    workers: list[bytes] = []
    while not workers:  # there are none while it judges
        found = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, check=False)
        workers = found.stdout.split()
    os.kill(int(workers[0]), signal.SIGKILL)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 2, out
    assert "a process that prepares batches has ended" in out
    assert f"plainunet train --resume {run}" in out
    assert "Traceback" not in out

    gone = next((own / "images").iterdir())
    gone.unlink()
    out, _ = start("train", "--resume", run).communicate(timeout=60)
    assert str(gone) in out
    assert "Traceback" not in out
    shutil.copy(data / "images" / gone.name, gone)
    process = start("train", "--resume", run)
    wait_for(process, "epoch +[0-9]+ ")
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate(timeout=60)
