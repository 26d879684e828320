"""Cross-validation: every image is held out once, and a killed command continues exactly."""

import dataclasses
import json
import os
import shutil
import time
from itertools import chain
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import albumentations as A
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

import plainunet
from plainunet.config import TrainConfig
from plainunet.dataset.split import read_split
from plainunet.errors import Error
from plainunet.evaluation.scores import CrossValidation, Spread
from plainunet.network.card import CheckpointError
from plainunet.network.checkpoint import load_checkpoint
from plainunet.prediction.predictor import Predictor
from plainunet.reporter import StepDone
from plainunet.training.crossval import cross_validate
from plainunet.training.run import RunFolder, StoppedError
from plainunet.training.train import resume, train

from ..forks import Fork, fork_command
from .conftest import Draw, PowerCut, Recorder, cut_after, rows_of, same
from .test_distributed import fork_two
from .test_resume import assert_alike


@pytest.fixture(scope="module")
def config(tiny: TrainConfig) -> TrainConfig:
    return tiny.model_copy(update={"epochs": 1, "folds": 3, "group_by": "(.)"})


@pytest.fixture(scope="module")
def data(draw: Draw, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve images, in six groups of two by the first letter of their names; two are for tests."""
    drawn = draw(tmp_path_factory.mktemp("crossval") / "drawn", 14)
    folder = drawn.parent / "data"
    for number in range(14):
        part = "test" if number >= 12 else "train"
        for kind in ("images", "masks"):
            goal = folder / part / kind / f"{'abcdefg'[number // 2]}{number}.png"
            goal.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(drawn / kind / f"{number:02d}.png", goal)
    return folder


@dataclasses.dataclass
class Done:
    out: Path
    result: CrossValidation
    heard: Recorder


@pytest.fixture(scope="module")
def done(data: Path, config: TrainConfig, tmp_path_factory: pytest.TempPathFactory) -> Done:
    """A finished cross-validation with three folds."""
    out, heard = tmp_path_factory.mktemp("done") / "cv", Recorder()
    return Done(out, cross_validate(data, out, config, reporter=heard), heard)


def held_out(run: Path, data: Path) -> list[str]:
    pairs = read_split(run / "split.csv", data)
    return [Path(str(pair.image)).name for pair in pairs if pair.part == "val"]


# folds


def test_every_image_is_held_out_once_with_its_group(done: Done, data: Path) -> None:
    folds = [held_out(done.out / f"fold-{number}", data) for number in range(3)]
    assert sorted([*chain(*folds)]) == sorted(p.name for p in (data / "train/images").iterdir())
    groups = [{name[0] for name in names} for names in folds]
    assert len(set.union(*groups)) == sum(map(len, groups)) == 6
    rows = done.result.out_of_fold[1].content["images"]
    assert [Path(row["image"]).name for row in rows] == [*chain(*folds)]


def test_out_of_fold_scores_are_those_of_the_folds(done: Done) -> None:
    result = done.result
    scores = result.out_of_fold[1].content
    evaluated = [call["images"] for call in done.heard.all("result")]
    assert [row["dice"] for row in scores["images"]] == [row["dice"] for row in chain(*evaluated)]
    total = sum(np.array(each.scores["confusion"]) for each in result.folds)
    assert total.tolist() == scores["confusion"]
    dice = [each.score() for each in result.folds]
    spread = result.over_folds()
    known = [each for each in dice if each is not None]
    assert spread is not None
    assert result.over_folds("accuracy") is not None
    with pytest.raises(Error, match="metric: 'nonsense' is unknown"):
        result.over_folds("nonsense")
    assert len(known) == 3
    assert spread[:2] == pytest.approx((mean(known), stdev(known)))
    assert (spread.lowest, spread.highest) == (min(known), max(known))


def test_spread_of_one_and_of_no_score() -> None:
    assert Spread.of([None, 0.5]) == (0.5, None, 0.5, 0.5)
    assert Spread.of([None]) is None


def test_the_test_split_is_scored_by_the_ensemble(done: Done, data: Path) -> None:
    test = done.result.test
    assert test is not None
    assert {path.name for path in test.of_images()} == {"g12.png", "g13.png"}
    again = plainunet.evaluate(done.out, data, device="cpu", precision="fp32")
    assert (again.split, again.content["confusion"]) == ("test", test.content["confusion"])


def test_what_is_written(done: Done, data: Path) -> None:
    written = json.loads((done.out / "scores.json").read_text())
    assert written == json.loads(json.dumps(done.result.as_dict()))
    assert "protocol" in written  # by which --json knows files of its own
    assert [each["checkpoint"] for each in written["folds"]] == [
        f"fold-{number}/best.safetensors" for number in range(3)
    ]
    html = (done.out / "report.html").read_text()
    assert 'id="folds"' in html
    assert "--workers 0" in html
    assert "nan" not in str(done.result)
    parts = {pair.part for pair in read_split(done.out / "split.csv", data)}
    assert parts == {"train", "test"}
    shown = str(done.result).splitlines()
    assert len(shown) == 1 + 3 + 2 + 1 + 1


def test_progress_is_that_of_all_runs(done: Done) -> None:
    shares = [step.share for step in done.heard.all("step") if isinstance(step, StepDone)]
    assert shares == sorted(shares)
    assert shares[0] < 1 / 3
    assert shares[-1] == pytest.approx(1)


def test_each_run_is_one_of_train(done: Done, data: Path, tmp_path: Path) -> None:
    config = plainunet.load_config(str(done.out / "fold-1" / "config.toml"))
    train(data, tmp_path / "fold-1", config)
    assert_alike(tmp_path / "fold-1", done.out / "fold-1")


# seeds


@pytest.mark.slow
def test_seeds_share_the_folds_and_extend(done: Done, data: Path, config: TrainConfig) -> None:
    before = {path: path.stat().st_mtime_ns for path in done.out.glob("fold-?/*.safetensors")}
    out = done.out.with_name("seeds")
    shutil.copytree(done.out, out)
    with pytest.raises(PowerCut):
        cross_validate(data, out, config, seeds=2, reporter=cut_after(1))
    with pytest.raises(ValueError, match="not complete"):
        Predictor.load(out)
    heard = Recorder()
    result = cross_validate(str(data), str(out), config, seeds=2, reporter=heard)
    assert len(heard.all("result")) == 3
    assert before == {path: path.stat().st_mtime_ns for path in before}
    assert result.seeds == [1, 2]
    for fold in range(3):
        assert held_out(out / f"fold-{fold}-seed-2", data) == held_out(out / f"fold-{fold}", data)
    weights = [load_checkpoint(path)[0].state_dict() for path in result.checkpoints[::3]]
    assert not same(*weights)
    first, second = (each.dice or 0.0 for each in result.out_of_fold.values())
    spread = result.over_seeds()
    assert spread is not None
    assert spread.deviation == pytest.approx(stdev([first, second]))
    with pytest.raises(ValueError, match="--seeds 2"):
        cross_validate(data, out, config, seeds=1)


# own parts


def squares(logits: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    return ((logits.softmax(1) - target).square().sum(1) * weight).mean()


def excess(truth: NDArray[np.bool_], prediction: NDArray[np.bool_]) -> float:
    return float(prediction.sum()) - truth.sum()


class Plain(nn.Conv2d):
    def __init__(self, in_channels: int, num_classes: int) -> None:
        super().__init__(in_channels, num_classes, 3, padding=1)


def test_own_parts_are_given_again_to_continue(
    data: Path, config: TrainConfig, tmp_path: Path
) -> None:
    out, module = tmp_path / "cv", Plain(3, 2)
    before = module.weight.detach().clone()
    mirror = A.Compose([A.HorizontalFlip(p=0.5)])
    own: dict[str, Any] = {"loss": squares, "augment": mirror, "network": module}
    own["metrics"] = excess
    two = config.model_copy(update={"folds": 2})
    until = Recorder(lambda kind, call: kind == "result")
    with pytest.raises(PowerCut):
        cross_validate(data, out, two, reporter=until, **own)
    others = {"augment": A.Compose([A.VerticalFlip()]), "network": nn.Identity, "metrics": None}
    for name, other in {"loss": None, **others}.items():
        with pytest.raises(ValueError, match=name):
            cross_validate(data, out, two, **{**own, name: other})
    result = cross_validate(data, out, two, **own)
    assert torch.equal(module.weight, before)
    assert (out / "fold-1" / "augment.json").is_file()
    assert result.header[-1] == "excess per image"
    assert {len(row) for row in result.rows()} == {len(result.header)}
    assert result.over_folds("excess") is not None
    spread = json.loads((out / "scores.json").read_text())["spread"]
    assert spread["folds"]["per_image"]["excess"]["mean"] == result.over_folds("excess").mean  # type: ignore[union-attr]
    assert result.test is not None
    assert result.test.score("excess") is not None
    assert Predictor.load(out, network=Plain).is_ensemble


# as a model


def test_the_folder_is_an_ensemble(done: Done, data: Path, tmp_path: Path) -> None:
    image = data / "test/images/g12.png"
    options: dict[str, Any] = {"device": "cpu", "precision": "fp32"}
    ensemble = Predictor.load(str(done.out), **options)
    folds = [Predictor.load(done.out / f"fold-{each}", **options) for each in range(3)]
    single = [fold.probabilities(str(image)) for fold in folds]
    assert np.allclose(ensemble.probabilities(image), np.mean(single, axis=0), atol=1e-5)
    more = Predictor.load([done.out / "fold-0", done.out], **options)
    weighted = (2 * single[0] + single[1] + single[2]) / 4
    assert np.allclose(more.probabilities(image), weighted, atol=1e-5)
    out, words = tmp_path / "masks", ("--device", "cpu", "--precision", "fp32")
    fork_command("predict", done.out, image, "--out", out, *words).end()
    with Image.open(out / "g12.png") as mask:
        assert np.array_equal(np.asarray(mask), ensemble.predict(image))


def test_a_run_folder_stands_for_its_checkpoint(done: Done, data: Path) -> None:
    run = done.out / "fold-0"
    best = run / "best.safetensors"
    assert same(load_checkpoint(str(run))[0].state_dict(), load_checkpoint(best)[0].state_dict())
    results = [plainunet.evaluate(each, data, device="cpu") for each in (str(run), best)]
    assert results[0].as_dict() == results[1].as_dict()
    assert results[0].split == "val"


def test_compare_takes_run_folders(done: Done, data: Path, tmp_path: Path) -> None:
    runs = str(done.out / "fold-0"), done.out / "fold-0"
    found = plainunet.compare(*runs, data, out=str(tmp_path / "out"), device="cpu")
    assert found.difference("dice", "pooled").difference == 0
    assert (tmp_path / "out" / "images.csv").is_file()


def test_an_ensemble_has_no_score_on_what_it_was_trained_on(
    done: Done, data: Path, tmp_path: Path
) -> None:
    out = tmp_path / "cv"
    shutil.copytree(done.out, out)
    split = (out / "split.csv").read_text().replace(",test", ",train")
    (out / "split.csv").write_text(split)
    with pytest.raises(ValueError, match=r"scores\.json"):
        plainunet.evaluate(out, data, device="cpu")


@pytest.mark.parametrize("name", ["", "fold-9"])
def test_folders_without_a_checkpoint(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir(exist_ok=True)
    with pytest.raises(ValueError, match=r"best\.safetensors"):
        Predictor.load(tmp_path / name)


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"runs": []}', '{"runs": [1]}', '{"runs": 5}'])
def test_a_damaged_list_of_runs_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "crossval.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"crossval\.json: damaged"):
        Predictor.load(tmp_path)


def test_one_model_is_wanted_where_there_are_several(done: Done) -> None:
    with pytest.raises(ValueError, match="fold-0"):
        load_checkpoint(done.out)


def test_an_incomplete_cross_validation_is_no_model(done: Done, tmp_path: Path) -> None:
    shutil.copytree(done.out, tmp_path / "cv")
    (tmp_path / "cv" / "scores.json").unlink()
    with pytest.raises(ValueError, match="not complete"):
        Predictor.load(tmp_path / "cv")


# interrupts


def stopping_at(run: int, step: int) -> Recorder:
    """A reporter that ends a cross-validation in a step of a run, both from 0."""
    return Recorder(
        lambda kind, call: kind == "step" and (int(call.share * 3 - 1e-9), call.step) == (run, step)
    )


def assert_same_result(out: Path, whole: Path) -> None:
    """All files are the same but for times and the name of the folder."""
    scores = [json.loads((each / "scores.json").read_text()) for each in (out, whole)]
    assert scores[0] == scores[1]
    for name in ("split.csv", "crossval.json"):
        assert (out / name).read_bytes() == (whole / name).read_bytes()
    for number in range(3):
        assert_alike(out / f"fold-{number}", whole / f"fold-{number}")
    assert {path.name for path in out.iterdir()} == {path.name for path in whole.iterdir()}


@pytest.mark.parametrize(("run", "step"), [pytest.param(0, 0, marks=pytest.mark.slow), (1, 1)])
def test_an_interrupted_cross_validation_continues(
    done: Done, data: Path, config: TrainConfig, tmp_path: Path, run: int, step: int
) -> None:
    out = tmp_path / "cv"
    with pytest.raises(PowerCut):
        cross_validate(data, out, config, reporter=stopping_at(run, step))
    heard = Recorder()
    cross_validate(data, out, config, reporter=heard)
    assert len(heard.all("result")) == 3 - run
    assert_same_result(out, done.out)


FLAGS = "--epochs 2 --size 32 40 --batch-size 2 --base-channels 2 --depth 2 --precision fp32"


def begin(data: Path, out: Path) -> Fork:
    words = ["--out", out, "--folds", 3, "--device", "cpu", *FLAGS.split()]
    return fork_command("crossval", data, *words, lost=0.0)


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGKILL")
def test_a_killed_command_continues_with_the_same_line(data: Path, tmp_path: Path) -> None:
    begin(data, tmp_path / "whole").end()
    out = tmp_path / "cv"
    process = begin(data, out)
    process.wait_for("^fold 1 of 3")
    process.wait_for("parameters; ")
    process.kill()
    assert not (out / "scores.json").exists()
    kept = (out / "fold-0" / "best.safetensors").stat().st_mtime_ns
    printed = begin(data, out).end()
    assert kept == (out / "fold-0" / "best.safetensors").stat().st_mtime_ns
    assert "out-of-fold" in printed
    assert_same_result(out, tmp_path / "whole")


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGKILL")
def test_a_command_killed_at_any_moment(data: Path, tmp_path: Path) -> None:
    begin(data, tmp_path / "whole").end()
    out, random = tmp_path / "cv", np.random.default_rng(0)
    for _ in range(12):
        process = begin(data, out)
        process.wait_for("fold . of 3|finished|test split")
        time.sleep(random.uniform(0, 2))
        if not process.is_running:
            break
        process.kill()
    begin(data, out).end()
    assert_same_result(out, tmp_path / "whole")


def test_a_stop_tells_how_to_continue(
    data: Path, config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: object, **__: object) -> None:
        raise StoppedError("after step 3", "plainunet train --resume cv/fold-0", 130)

    monkeypatch.setattr("plainunet.training.crossval.train", stop)
    with pytest.raises(StoppedError, match=r"fold-0.*same command") as caught:
        cross_validate(data, tmp_path / "cv", config)
    assert caught.value.code == 130


def test_a_stop_after_the_last_run_tells_how_to_continue(
    done: Done, data: Path, config: TrainConfig, tmp_path: Path
) -> None:
    class Stopping(Recorder):
        def stage(self, name: str, total: int) -> None:
            if name == "writing the report":
                raise KeyboardInterrupt

    out = tmp_path / "cv"
    shutil.copytree(done.out, out)
    with pytest.raises(KeyboardInterrupt, match="same command"):
        cross_validate(data, out, config, reporter=Stopping())
    cross_validate(data, out, config)
    assert_same_result(out, done.out)


@pytest.mark.slow
def test_two_processes_share_every_run(data: Path, tmp_path: Path) -> None:
    words = ["--out", tmp_path / "cv", "--folds", "2", "--device", "cpu", *FLAGS.split()]
    shown, silence = (each.end() for each in fork_two(fork_command, "crossval", data, *words))
    assert shown.count("2 processes") == 2
    assert "out-of-fold" in shown
    assert "fold" not in silence
    assert (tmp_path / "cv" / "scores.json").is_file()


# refusals


def test_other_settings_do_not_continue(done: Done, data: Path, config: TrainConfig) -> None:
    for changed, name in (
        ({"epochs": 3}, "epochs"),
        ({"folds": 4}, "folds"),
        ({"ema": 0.5}, "ema"),
    ):
        with pytest.raises(ValueError, match=f"{name} .*--out"):
            cross_validate(data, done.out, config.model_copy(update=changed))


@pytest.mark.parametrize("text", ["", "{", "[]", '{"data": 1}', "[" * 100_000])
def test_a_damaged_record_does_not_continue(
    done: Done, data: Path, config: TrainConfig, tmp_path: Path, text: str
) -> None:
    out = tmp_path / "cv"
    (out / "fold-0" / "last").mkdir(parents=True)
    shutil.copytree(done.out / "fold-0" / "last", out / "fold-0" / "last", dirs_exist_ok=True)
    (out / "crossval.json").write_text(text)
    with pytest.raises(ValueError, match=r"crossval\.json: damaged.*--out"):
        cross_validate(data, out, config)
    assert (out / "crossval.json").read_text() == text


@pytest.mark.parametrize(
    ("given", "settings", "words"),
    [
        ({"seeds": 0}, {}, "--seeds is 0"),
        ({"folds": 1}, {}, "folds is 1"),
        ({}, {"fold": 0}, "--fold is 0"),
        ({"folds": 7}, {}, "--folds is 7.* 6 groups"),
    ],
)
def test_impossible_folds(
    data: Path,
    config: TrainConfig,
    tmp_path: Path,
    given: dict[str, int],
    settings: dict[str, int],
    words: str,
) -> None:
    out = tmp_path / "cv"
    with pytest.raises(ValueError, match=words):
        cross_validate(data, out, config.model_copy(update=settings), **given)
    assert not out.exists()


def test_folders_of_others_are_left_alone(
    data: Path, config: TrainConfig, done: Done, tmp_path: Path
) -> None:
    for out in (done.out / "fold-0", tmp_path):
        (tmp_path / "fold-1").mkdir(exist_ok=True)
        with pytest.raises(ValueError, match="another --out"):
            cross_validate(data, out, config)
    with pytest.raises(ValueError, match="contains the data"):
        cross_validate(data, data, config)
    assert [path.name for path in tmp_path.iterdir()] == ["fold-1"]


def test_changed_data_is_noticed(data: Path, config: TrainConfig, tmp_path: Path) -> None:
    shutil.copytree(data, tmp_path / "data")
    out = tmp_path / "cv"
    with pytest.raises(PowerCut):
        cross_validate(tmp_path / "data", out, config, reporter=stopping_at(1, 0))
    for kind in ("images", "masks"):
        folder = tmp_path / "data/train" / kind
        shutil.copy(folder / "a0.png", folder / "z0.png")
    with pytest.raises(ValueError, match="changed since"):
        cross_validate(tmp_path / "data", out, config)


def test_a_damaged_file_of_counts_is_made_again(
    done: Done, data: Path, config: TrainConfig, tmp_path: Path
) -> None:
    shutil.copytree(done.out, tmp_path / "cv")
    file = RunFolder(tmp_path / "cv" / "fold-1").held_out
    file.write_bytes(file.read_bytes()[:-20])
    with pytest.raises(ValueError, match=r"held_out\.npz"):
        cross_validate(data, tmp_path / "cv", config)
    file.unlink()
    assert cross_validate(data, tmp_path / "cv", config).as_dict() == done.result.as_dict()


# budget


@pytest.mark.slow
def test_a_budget_is_divided_and_planned_once(
    data: Path, config: TrainConfig, tmp_path: Path
) -> None:
    """The plan of the first run, with its input size and width, is that of all."""
    given = config.model_dump(include={"group_by", "device", "workers", "precision"})
    budget = TrainConfig(**given, budget=60, folds=2)
    cross_validate(data, tmp_path / "cv", budget)
    runs = [plainunet.load_config(tmp_path / "cv" / f"fold-{n}" / "config.toml") for n in (0, 1)]
    assert [run.budget for run in runs] == [30, 30]
    assert runs[0].model_copy(update={"fold": 1, "epochs": runs[1].epochs}) == runs[1]
    assert rows_of(tmp_path / "cv" / "fold-1")
    assert resume(tmp_path / "cv" / "fold-1").split == "val"
