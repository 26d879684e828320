"""Processes that torchrun starts: what they learn is what one process learns."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from plainunet.network.checkpoint import load_checkpoint
from plainunet.training.distributed import ALONE, Processes, join_processes
from plainunet.training.state import read_state

pytestmark = pytest.mark.skipif(os.name == "nt", reason="gloo's processes are tested on Linux")

TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]


def torchrun(*command: str | Path, restarts: int = 0, check: bool = True) -> str:
    done = subprocess.run(
        [*TORCHRUN, "--max-restarts", str(restarts), *map(str, command)],
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert (done.returncode == 0) == check, done.stdout + done.stderr
    return done.stdout + done.stderr


def training(data: Path, run: Path, *settings: str) -> list[str | Path]:
    usual = "--size 32 40 --base-channels 4 --depth 2 --seed 5 --precision fp32 --device cpu"
    return ["train", data, "--out", run, *usual.split(), *settings]


@pytest.fixture(scope="module")
def data(draw: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """50 pictures: 40 to train, five batches of 8."""
    return draw(tmp_path_factory.mktemp("processes") / "data", 50)


SGD = ["--optimizer", "sgd", "--learning-rate", "0.05", "--batch-size", "8", "--epochs", "4"]


@pytest.mark.parametrize(
    ("settings", "tolerance"),
    [
        (["--normalisation", "group"], 1e-5),
        (["--sync-batch-norm", "--deep-supervision", "--ema", "0.9"], 1e-4),
    ],
)
def test_two_processes_learn_what_one_does(
    data: Path,
    tmp_path: Path,
    run_plainunet: Callable[..., object],
    settings: list[str],
    tolerance: float,
) -> None:
    """Batches of 8, or of 2 x 4: 20 steps lead to the same weights and the same scores."""
    one, two = tmp_path / "one", tmp_path / "two"
    run_plainunet(*training(data, one, *SGD, *settings))
    said = torchrun("-m", "plainunet", *training(data, two, *SGD, *settings))
    assert "2 processes" in said
    assert said.count("model: ") == 1  # the first alone speaks
    states = [read_state(run) for run in (one, two)]
    assert states[0]["counters"]["step"] == states[1]["counters"]["step"] == 20
    for part in ("network", "average"):
        for name, value in (states[0][part] or {}).items():
            torch.testing.assert_close(states[1][part][name], value, rtol=tolerance, atol=tolerance)
    fresh = torch.load(one / "last" / "state.pt", weights_only=True)["network"]
    assert fresh.keys() == states[1]["network"].keys()
    rows = [
        [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        for run in (one, two)
    ]
    for row, other in zip(*rows, strict=True):
        assert other["loss"] == pytest.approx(row["loss"], rel=1e-4)
    # every validation picture is judged once, in the same order
    ends = [load_checkpoint(run / "best.safetensors")[1].scores for run in (one, two)]
    for way in ("pooled", "per_image"):
        dice = [end[way]["dice"]["mean_foreground"] for end in ends]
        assert dice[1] == pytest.approx(dice[0], abs=2e-3)
    assert {path.name for path in (two / "saved_images").iterdir()} == {
        path.name for path in (one / "saved_images").iterdir()
    }
    assert {path.name for path in (two / "validation").iterdir()} == {
        path.name for path in (one / "validation").iterdir()
    }


SHARED_STEPS = """
import sys
import numpy as np, torch
from torch.optim import AdamW
from plainunet.network.losses import LOSSES
from plainunet.network.unet import UNet
from plainunet.training.distributed import join_processes
from plainunet.training.step import Step

with join_processes("cpu") as processes:
    torch.manual_seed(0)
    unet = UNet(3, 3, base_channels=4, depth=2, normalisation="group").double().train()
    optimizer = AdamW(unet.parameters(), lr=0.01)
    step = Step(unet, LOSSES[sys.argv[2]], [optimizer], device=torch.device("cpu"),
                precision=torch.float32, clip=1.0, accumulation=2, processes=processes)
    losses = []
    for number in range(20):
        random = np.random.default_rng(number)
        images = torch.from_numpy(random.random((7, 16, 24, 3)))
        classes = random.integers(0, 3, (7, 16, 24))
        shares = torch.from_numpy(np.eye(3, dtype=np.uint8)[classes] * 255)
        shares[2, :8] = 0  # void weighs in one share only
        mine = [torch.tensor_split(part, processes.count)[processes.rank]
                for part in (images, shares)]
        losses.append(step(mine, number, 0.01).loss)
    if processes.is_first:
        torch.save({"weights": unet.state_dict(), "losses": losses}, sys.argv[1])
"""


@pytest.mark.parametrize(
    "loss", ["cross-entropy+dice", pytest.param("lovasz", marks=pytest.mark.slow)]
)
def test_steps_in_float64_are_the_same(tmp_path: Path, loss: str) -> None:
    """AdamW, whose steps do not grow with the gradient, would show the smallest difference."""
    script = tmp_path / "steps.py"
    script.write_text(SHARED_STEPS)
    torchrun(script, tmp_path / "two.pt", loss)
    subprocess.run([sys.executable, script, tmp_path / "one.pt", loss], check=True, timeout=120)
    one, two = (torch.load(tmp_path / name, weights_only=True) for name in ("one.pt", "two.pt"))
    assert two["losses"] == pytest.approx(one["losses"], rel=1e-5)
    for name, value in one["weights"].items():
        torch.testing.assert_close(two["weights"][name], value, rtol=1e-5, atol=1e-5)


def workers_of(process: subprocess.Popen[str]) -> list[int]:
    found = subprocess.run(["ps", "-o", "pid=", "--ppid", str(process.pid)], capture_output=True)
    return [int(pid) for pid in found.stdout.split()]


def test_a_killed_worker_is_started_again_and_the_run_goes_on(data: Path, tmp_path: Path) -> None:
    settings = [*SGD[:4], "--batch-size", "8", "--epochs", "30", "--normalisation", "group"]
    torchrun("-m", "plainunet", *training(data, tmp_path / "whole", *settings))
    run = tmp_path / "run"
    command = [*TORCHRUN, "--max-restarts", "1", "-m", "plainunet"]
    process = subprocess.Popen(
        [*command, *map(str, training(data, run, *settings))],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.stdout is not None
    said = ""
    for line in process.stdout:
        said += line
        if re.match("epoch +3 ", line):
            break
    workers = workers_of(process)
    assert len(workers) == 2, said
    os.kill(max(workers), signal.SIGKILL)
    rest, _ = process.communicate(timeout=240)
    assert process.returncode == 0, said + rest
    epochs = [int(number) for number in re.findall("^epoch +([0-9]+) ", rest, re.M)]
    assert epochs[-1] == 30
    assert len(epochs) < 30  # it did not begin again
    state, whole = read_state(run), read_state(tmp_path / "whole")
    for name, value in whole["network"].items():
        assert torch.equal(state["network"][name], value)


def test_what_the_first_finds_wrong_is_said_once(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    said = torchrun("-m", "plainunet", *training(tmp_path / "empty", tmp_path / "run"), check=False)
    assert said.count("error: ") == 1
    assert "fault of plainunet" not in said
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_more_processes_than_pictures_in_a_batch_are_refused(data: Path, tmp_path: Path) -> None:
    said = torchrun(
        "-m", "plainunet", *training(data, tmp_path / "run", "--batch-size", "1"), check=False
    )
    assert "2 processes cannot share batches of 1 pictures" in said
    assert "fault of plainunet" not in said


def test_alone_there_is_nothing_to_share() -> None:
    with join_processes("cpu") as processes:
        assert processes == ALONE
    assert ALONE.is_first
    assert ALONE.gather("mine") == ["mine"]
    assert ALONE.in_turn(lambda: 3) == ALONE.first_decides(lambda: 3) == 3
    assert time.monotonic() <= ALONE.clock() <= time.monotonic()
    values = torch.arange(3.0)
    assert ALONE.total(values) is values
    assert ALONE.join_batch(values) is values


@pytest.mark.parametrize(("count", "things"), [(1, 5), (2, 5), (3, 9), (4, 3)])
def test_shares_hold_everything_once_and_are_put_together_in_order(count: int, things: int) -> None:
    shares = [Processes(rank, count).share(things) for rank in range(count)]
    assert sorted(number for share in shares for number in share) == list(range(things))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1
    names = [[f"thing {number}" for number in share] for share in shares]
    together = Processes(0, count).restore_order(names)
    assert together == [f"thing {number}" for number in range(things)]
