"""Processes that torchrun starts: what they learn is what one process learns."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from plainunet.network.checkpoint import load_checkpoint
from plainunet.network.unet import UNet
from plainunet.training.distributed import (
    ALONE,
    Processes,
    SynchronisedBatchNorm,
    join_processes,
    synchronise,
)
from plainunet.training.run import RunFolder
from plainunet.training.state import read_state

from ..forks import Fork, fork_command
from .conftest import Draw, rows_of, same

pytestmark = pytest.mark.skipif(os.name == "nt", reason="gloo's processes are tested on Linux")

TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
SGD = "--optimizer sgd --learning-rate 0.05 --batch-size 8"


def fork_two(start: Callable[..., Fork], *arguments: Any, restarts: int = 0) -> list[Fork]:
    """Start two processes of one run, as torchrun would; the first one speaks."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {
        **{"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)},
        "TORCHELASTIC_RESTART_COUNT": str(restarts),
    }
    return [start(*arguments, **environment, RANK=rank, LOCAL_RANK=rank) for rank in "01"]


def training(data: Path, run: Path, settings: str) -> list[str]:
    usual = "--size 32 40 --base-channels 4 --depth 2 --seed 5 --precision fp32 --device cpu"
    return ["train", str(data), "--out", str(run), *usual.split(), *settings.split()]


@pytest.fixture(scope="module")
def data(draw: Draw, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """50 images: 40 to train on, five batches of 8."""
    return draw(tmp_path_factory.mktemp("processes") / "data", 50)


@pytest.mark.parametrize(
    ("settings", "tolerance"),
    [
        pytest.param("--normalisation group", 1e-5, marks=pytest.mark.slow),
        ("--sync-batch-norm --deep-supervision --ema 0.9", 1e-4),
    ],
)
def test_two_processes_learn_what_one_does(
    data: Path, tmp_path: Path, settings: str, tolerance: float
) -> None:
    """Batches of 8, or of 2 x 4: 10 steps lead to the same weights and the same scores."""
    one, two = folders = [RunFolder(tmp_path / name) for name in ("one", "two")]
    settings = f"{SGD} --epochs 2 {settings}"
    fork_command(*training(data, one.path, settings)).end()
    said, silence = (
        each.end() for each in fork_two(fork_command, *training(data, two.path, settings))
    )
    assert "2 processes" in said
    assert said.count("model: ") == 1
    assert "model: " not in silence
    states = [read_state(run) for run in folders]
    assert states[0]["counters"]["step"] == states[1]["counters"]["step"] == 10
    assert states[0]["network"].keys() == states[1]["network"].keys()
    for part in ("network", "average"):
        for name, value in (states[0][part] or {}).items():
            torch.testing.assert_close(states[1][part][name], value, rtol=tolerance, atol=tolerance)
    for row, other in zip(rows_of(one.path), rows_of(two.path), strict=True):
        assert other["loss"] == pytest.approx(row["loss"], rel=1e-4)
    # every validation image is evaluated once, in the same order
    ends = [load_checkpoint(run.best)[1].scores for run in folders]
    for way in ("pooled", "per_image"):
        dice = [end[way]["dice"]["mean_foreground"] for end in ends]
        assert dice[1] == pytest.approx(dice[0], abs=2e-3)
    for name in ("saved_images", "validation"):
        files = [{path.name for path in (run.path / name).iterdir()} for run in folders]
        assert files[0] == files[1] != set()


SHARED_STEPS = """
from pathlib import Path
import numpy as np, torch
from torch.optim import AdamW
from plainunet.config import TrainConfig
from plainunet.network.unet import UNet
from plainunet.training.distributed import join_processes
from plainunet.training.run import Run, RunFolder
from plainunet.training.state import TrainingState
from plainunet.training.trainer import Step

with join_processes("cpu") as processes:
    torch.manual_seed(0)
    unet = UNet(3, 3, base_channels=4, depth=2, normalisation="group").double().train()
    run = Run(RunFolder(Path("run")), TrainConfig(loss=loss, gradient_clip=1.0, seed=0), None,
              processes=processes)
    state = TrainingState(unet, [AdamW(unet.parameters(), lr=0.01)], None, accumulation=2)
    step = Step(run, state, torch.device("cpu"), torch.float32)
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
        torch.save({"weights": unet.state_dict(), "losses": losses}, file)
"""


@pytest.mark.parametrize(
    "loss", ["cross-entropy+dice", pytest.param("lovasz", marks=pytest.mark.slow)]
)
def test_steps_in_float64_are_the_same(tmp_path: Path, loss: str) -> None:
    """AdamW, whose steps do not grow with the gradient, would show the smallest difference."""

    def start(name: str, **environment: str) -> Fork:
        return Fork(SHARED_STEPS, environment, file=tmp_path / name, loss=loss)

    for process in (start("one.pt"), *fork_two(start, "two.pt")):
        process.end()
    one, two = (torch.load(tmp_path / name, weights_only=True) for name in ("one.pt", "two.pt"))
    assert two["losses"] == pytest.approx(one["losses"], rel=1e-5)
    for name, value in one["weights"].items():
        torch.testing.assert_close(two["weights"][name], value, rtol=1e-5, atol=1e-5)


LONG = f"{SGD} --epochs 12 --normalisation group"


@pytest.fixture(scope="module")
def whole(data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The weights of two processes after 12 epochs that nothing disturbs."""
    run = tmp_path_factory.mktemp("whole") / "run"
    for process in fork_two(fork_command, *training(data, run, LONG)):
        process.end()
    return read_state(RunFolder(run))["network"]


def assert_goes_on(said: str, run: Path, whole: dict[str, Any]) -> None:
    """It did not begin again, and ended as if nothing had happened."""
    epochs = [int(number) for number in re.findall("^epoch +([0-9]+) ", said, re.M)]
    assert epochs[-1] == 12
    assert len(epochs) < 12
    assert same(read_state(RunFolder(run))["network"], whole)


@pytest.mark.slow
def test_a_killed_worker_ends_the_other_and_started_again_the_run_goes_on(
    data: Path, tmp_path: Path, whole: dict[str, Any]
) -> None:
    command = training(data, tmp_path / "run", LONG)
    first, second = fork_two(partial(fork_command, lost=0.0), *command)
    first.wait_for("epoch +3 ")
    second.kill()
    said = first.end(2)
    assert "error: another process" in said
    assert "torchrun --max-restarts" in said
    said, _ = (each.end() for each in fork_two(fork_command, *command, restarts=1))
    assert_goes_on(said, tmp_path / "run", whole)


@pytest.mark.slow
def test_torchrun_starts_a_killed_worker_again(
    data: Path, tmp_path: Path, whole: dict[str, Any]
) -> None:
    command = [*TORCHRUN, "--max-restarts", "1", "-m", "plainunet"]
    command += training(data, tmp_path / "run", LONG)
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert process.stdout is not None
    said = ""
    for line in process.stdout:
        said += line
        if re.match("epoch +3 ", line):
            break
    workers = children(process.pid)
    assert len(workers) == 2, said
    os.kill(max(workers), signal.SIGKILL)
    rest, _ = process.communicate(timeout=240)
    assert process.returncode == 0, said + rest
    assert_goes_on(rest, tmp_path / "run", whole)


def start_node(is_host: bool, port: int, log: Path, command: list[str]) -> subprocess.Popen[str]:
    """A machine of two, as its torchrun sees it."""
    place = ["--nnodes", "2", "--nproc-per-node", "1", "--local-addr", "127.0.0.1"]
    place += ["--rdzv-backend", "c10d", "--rdzv-endpoint", f"127.0.0.1:{port}", "--rdzv-id", "job"]
    place += ["--rdzv-conf", f"is_host={int(is_host)}", "--max-restarts", "3"]
    with log.open("w") as out:
        return subprocess.Popen(
            [*TORCHRUN[:3], *place, "-m", "plainunet", *command],
            stdout=out,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"},
        )


def children(process: int) -> list[int]:
    found = subprocess.run(
        ["ps", "-o", "pid=", "--ppid", str(process)], capture_output=True, check=False
    )
    return [int(pid) for pid in found.stdout.split()]


@pytest.mark.slow
def test_a_killed_machine_comes_back(data: Path, tmp_path: Path, whole: dict[str, Any]) -> None:
    """Of two torchruns, one is killed with its process, and started again."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    run = tmp_path / "run"
    command = training(data, run, LONG)
    logs = [tmp_path / f"{name}.log" for name in ("first", "second", "again")]
    nodes = [start_node(number == 0, port, logs[number], command) for number in range(2)]
    try:
        rows, begun = run / "metrics.jsonl", time.monotonic()
        while not rows.is_file() or len(rows_of(run)) < 2:
            assert time.monotonic() - begun < 120, logs[0].read_text()
            time.sleep(0.02)
        for pid in (nodes[1].pid, *children(nodes[1].pid)):
            os.kill(pid, signal.SIGKILL)
        nodes[1].wait()
        nodes[1] = start_node(False, port, logs[2], command)
        assert [node.wait(240) for node in nodes] == [0, 0], [log.read_text() for log in logs]
    finally:
        for node in nodes:
            node.kill()
    assert read_state(RunFolder(run))["counters"]["step"] == 60
    assert [row["epoch"] for row in rows_of(run)] == list(range(1, 13))
    said = logs[0].read_text()
    assert said.count("2 processes") == 2  # it was started again,
    assert len(re.findall("^epoch +1 ", said, re.M)) == 1  # and went on
    assert same(read_state(RunFolder(run))["network"], whole)


def torchrun_fails(*command: str) -> str:
    """What the processes print that torchrun starts, of a mistake of whoever started them."""
    done = subprocess.run(
        [*TORCHRUN, "-m", "plainunet", *command],
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    said = done.stdout + done.stderr
    assert done.returncode != 0, said
    assert "bug in plainunet" not in said
    return said


def test_what_the_first_finds_wrong_is_said_once(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    first, second = fork_two(fork_command, *training(tmp_path / "empty", tmp_path / "run", ""))
    assert first.end(2).count("error: ") == 1
    assert "error" not in second.end(1)
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_under_torchrun_it_is_said_once_too(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    said = torchrun_fails(*training(tmp_path / "empty", tmp_path / "run", ""))
    assert said.count("error: ") == 1
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_more_processes_than_images_in_a_batch_are_refused(data: Path, tmp_path: Path) -> None:
    said = torchrun_fails(*training(data, tmp_path / "run", "--batch-size 1"))
    assert re.search(r"error: .* 1 images .* 2 processes: .*--batch-size", said)


FSDP = """
import torch
from torch import distributed, nn
from torch.distributed.fsdp import fully_shard
from plainunet.network.losses import cross_entropy_dice
from plainunet.network.unet import UNet

distributed.init_process_group("gloo")
mesh = distributed.init_device_mesh("cpu", (2,))
losses = {False: [], True: []}
for sharded in losses:
    torch.manual_seed(0)
    network = UNet(3, 2, base_channels=8, depth=2).train()
    whole = sum(weight.numel() for weight in network.parameters())
    if sharded:
        for child in network.children():
            if not isinstance(child, nn.ModuleList):
                fully_shard(child, mesh=mesh)
        fully_shard(network, mesh=mesh)
        assert sum(weight.to_local().numel() for weight in network.parameters()) < 0.6 * whole
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3)
    for step in range(3):
        torch.manual_seed(step)
        target = torch.eye(2)[torch.randint(2, (2, 16, 24))].permute(0, 3, 1, 2)
        loss = cross_entropy_dice(network(torch.rand(2, 3, 16, 24)), target, torch.ones(2, 16, 24))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses[sharded].append(loss.item())
torch.testing.assert_close(losses[True], losses[False], rtol=1e-4, atol=1e-5)
distributed.destroy_process_group()
"""


@pytest.mark.slow
def test_a_network_can_be_sharded_by_fsdp2() -> None:
    for process in fork_two(lambda **environment: Fork(FSDP, environment)):
        process.end()


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
    assert Processes(0, count).restore_order(shares) == list(range(things))


def test_synchronised_names_weights_and_results_stay() -> None:
    torch.manual_seed(0)
    network = UNet(3, 2, base_channels=4, depth=2)
    image = torch.rand(2, 3, 16, 24)
    before = network.train()(image)
    names, weights = list(network.state_dict()), [*map(id, network.parameters())]
    synchronise(network)
    assert list(network.state_dict()) == names
    assert [*map(id, network.parameters())] == weights
    kinds = {type(module) for module in network.modules() if isinstance(module, nn.BatchNorm2d)}
    assert kinds == {SynchronisedBatchNorm}
    torch.testing.assert_close(network(image), before)  # alone, it is what it was


def test_over_one_process_it_is_batch_normalisation(tmp_path: Path) -> None:
    torch.distributed.init_process_group(
        "gloo", rank=0, world_size=1, init_method=f"file://{tmp_path}/meet"
    )
    try:
        torch.manual_seed(0)
        own, usual = SynchronisedBatchNorm(5), nn.BatchNorm2d(5)
        feature = 3 + 2 * torch.randn(3, 5, 7, 9)
        results = []
        for module in (own, usual):
            with torch.no_grad():
                module.weight.copy_(torch.linspace(-1, 2, 5))
                module.bias.copy_(torch.linspace(0, 1, 5))
            given = feature.clone().requires_grad_()
            made = module(given)
            (made * torch.linspace(0, 1, 9)).square().sum().backward()
            gradients = [given.grad, module.weight.grad, module.bias.grad]
            results.append([made, *gradients, *module.buffers()])
        for mine, expected in zip(*results, strict=True):
            torch.testing.assert_close(mine, expected, rtol=1e-4, atol=1e-4)
        assert own(feature.bfloat16()).dtype == torch.bfloat16
        usual.load_state_dict(own.state_dict())
        torch.testing.assert_close(own.eval()(feature), usual.eval()(feature))
    finally:
        torch.distributed.destroy_process_group()
