"""Training on shards: streamed, and resumed in the middle of an epoch."""

import json
import os
import shutil
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest

from plainunet.config import TrainConfig
from plainunet.dataset.shards import write_shards
from plainunet.evaluation.evaluate import evaluate
from plainunet.evaluation.scores import Scores
from plainunet.training.run import RunFolder
from plainunet.training.state import read_state
from plainunet.training.train import resume, train

from ..forks import fork_command
from .conftest import Draw, PowerCut, Recorder, rows_of, same
from .test_distributed import SGD, fork_two, training


@dataclass
class Streamed:
    shards: Path
    run: Path
    config: TrainConfig
    result: Scores


@pytest.fixture(scope="module")
def streamed(draw: Draw, tiny: TrainConfig, tmp_path_factory: pytest.TempPathFactory) -> Streamed:
    """Two epochs of five batches of 4."""
    folder = tmp_path_factory.mktemp("streamed")
    config = tiny.model_copy(update={"class_weights": "balanced"})
    write_shards(draw(folder / "data", 25), folder / "shards", config)
    result = train(folder / "shards", folder / "run", config)
    return Streamed(folder / "shards", folder / "run", config, result)


def test_a_run_resumes_in_the_middle_of_an_epoch_bit_for_bit(
    streamed: Streamed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("plainunet.training.state.LOST", 0.0)  # each step is saved
    cut = Recorder(lambda kind, call: kind == "step" and call.step == 7)
    with pytest.raises(PowerCut):
        train(streamed.shards, tmp_path / "run", streamed.config, cut)
    assert read_state(RunFolder(tmp_path / "run"))["counters"]["batch"] == 2
    result = resume(tmp_path / "run")
    assert result.as_dict()["confusion"] == streamed.result.as_dict()["confusion"]
    states = [read_state(RunFolder(run)) for run in (streamed.run, tmp_path / "run")]
    assert states[0]["counters"]["step"] == 10
    assert same(states[0]["network"], states[1]["network"])
    assert rows_of(streamed.run, timed=False) == rows_of(tmp_path / "run", timed=False)


def test_the_run_is_evaluated_on_its_shards(streamed: Streamed) -> None:
    result = evaluate(streamed.run, streamed.shards, device="cpu", precision="fp32")
    assert result.as_dict()["confusion"] == streamed.result.as_dict()["confusion"]
    assert len(evaluate(streamed.run, streamed.shards, split="all").as_dict()["images"]) == 25
    with pytest.raises(ValueError, match="test"):
        evaluate(streamed.run, streamed.shards, split="test")
    # and on the folder that they were written from
    images = evaluate(streamed.run, streamed.shards.with_name("data"), split="all").as_dict()[
        "images"
    ]
    assert len(images) == 25


def test_other_shards_are_refused(streamed: Streamed, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="--folds"):
        train(streamed.shards, tmp_path / "run", TrainConfig(folds=2, fold=0))
    shutil.copytree(streamed.run, tmp_path / "copy")
    index = json.loads((tmp_path / "copy" / "shards.json").read_text())
    index["shards"].pop()
    (tmp_path / "copy" / "shards.json").write_text(json.dumps(index))
    with pytest.raises(ValueError, match=r"shards\.json"):
        resume(tmp_path / "copy")


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="gloo's processes are tested on Linux")
def test_two_processes_with_two_workers_resume_after_a_kill(draw: Draw, tmp_path: Path) -> None:
    """Killed in the second of three epochs of 10 batches; the weights are those of a whole run."""
    write_shards(draw(tmp_path / "data", 100), tmp_path / "shards", shard_size=1)
    settings = f"{SGD} --epochs 3 --workers 2 --normalisation group"
    whole, cut = (
        training(tmp_path / "shards", tmp_path / name, settings) for name in ("whole", "cut")
    )
    for process in fork_two(fork_command, *whole):
        process.end()
    killed = fork_two(partial(fork_command, lost=0.0), *cut)
    killed[0].wait_for("epoch +1 ")
    state = RunFolder(tmp_path / "cut")
    while not 12 <= read_state(state)["counters"]["step"] < 20:
        time.sleep(0.05)
    for process in killed:
        process.kill()
    for process in fork_two(fork_command, "train", "--resume", tmp_path / "cut"):
        process.end()
    assert any("resumed_at" in row for row in rows_of(tmp_path / "cut"))
    states = [read_state(RunFolder(tmp_path / name)) for name in ("whole", "cut")]
    assert states[0]["counters"]["readers"] == states[1]["counters"]["readers"] == (2, 2)
    assert states[0]["counters"]["step"] == states[1]["counters"]["step"] == 30
    assert same(states[0]["network"], states[1]["network"])


@pytest.mark.slow
def test_a_time_budget_plans_from_the_first_shard(streamed: Streamed, tmp_path: Path) -> None:
    config = TrainConfig(budget=20, device="cpu", workers=0)
    assert train(streamed.shards, tmp_path / "run", config)["split"] == "val"
