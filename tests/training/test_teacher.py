"""Knowledge distillation: what a teacher adds to the targets, and which teachers are refused."""

import re
import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile

from plainunet.config import TrainConfig
from plainunet.dataset.dataset import SegmentationDataset
from plainunet.dataset.resize import resize
from plainunet.dataset.shards import write_shards
from plainunet.errors import Error
from plainunet.network.checkpoint import save_checkpoint
from plainunet.prediction.predictor import Predictor
from plainunet.training import budget
from plainunet.training.budget import fit_budget
from plainunet.training.plan import Machine
from plainunet.training.run import Run, RunFolder
from plainunet.training.state import read_state
from plainunet.training.teacher import TrainedTeacher
from plainunet.training.train import resume, train
from plainunet.training.training_data import load_samples

from ..folders import draw_scenes
from ..models import make_card, make_network
from .conftest import Draw, Finished, MakeRun, PowerCut, Recorder, cut_after, rows_of, same

NAMES = ("background", "thing")


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLAINUNET_CACHE", str(tmp_path / "cache"))


def write_teacher(path: Path, seed: int = 0, names: tuple[str, ...] = NAMES, **options: Any) -> str:
    """Write a checkpoint of random weights that predicts every class somewhere."""
    card = replace(make_card(len(names)), class_names=names, size=(32, 40))
    save_checkpoint(path, make_network(len(names), seed, **options), card)
    return str(path)


@pytest.fixture
def teacher(tmp_path: Path) -> str:
    return write_teacher(tmp_path / "teacher.safetensors")


def in_cache(tmp_path: Path) -> int:
    return sum(path.is_dir() for path in (tmp_path / "cache").iterdir())


def test_targets_are_the_mean_of_ground_truth_and_probabilities(
    make_run: MakeRun, teacher: str, tmp_path: Path
) -> None:
    heard = Recorder()
    plain, taught = (
        load_samples(make_run()),
        load_samples(make_run("taught", heard, teacher=teacher)),
    )
    assert ("teacher predictions", 9) in heard.all("stage")
    predictor = Predictor.load(teacher, device="cpu", precision="fp32")
    changed = 0
    for index in range(9):
        image, truth = plain["train"][index]
        assert np.array_equal(taught["train"][index][0], image)
        shares = taught["train"][index][1].astype(int)
        probabilities = predictor.probabilities(image).transpose(1, 2, 0)
        assert np.abs(shares - (truth / 2 + 255 / 2 * probabilities)).max() <= 1
        assert np.abs(shares.sum(axis=2) - 255).max() <= 1
        changed += int((np.abs(shares - truth) > 50).sum())
    assert changed > 1000
    for index in range(4):
        pairs = zip(plain["val"][index], taught["val"][index], strict=True)
        assert all(np.array_equal(one, other) for one, other in pairs)


def test_the_teacher_predicts_each_image_once(
    make_run: MakeRun, teacher: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    predict = TrainedTeacher.__call__
    monkeypatch.setattr(
        TrainedTeacher, "__call__", lambda self, image: asked.append(1) or predict(self, image)
    )
    first = load_samples(make_run(teacher=teacher))["train"][0][1].copy()
    assert (len(asked), in_cache(tmp_path)) == (9, 2)
    assert np.array_equal(load_samples(make_run(teacher=teacher))["train"][0][1], first)
    assert (len(asked), in_cache(tmp_path)) == (9, 2)
    # other weights, or none
    other = write_teacher(tmp_path / "other.safetensors", seed=1)
    assert not np.array_equal(load_samples(make_run(teacher=other))["train"][0][1], first)
    assert (len(asked), in_cache(tmp_path)) == (18, 3)
    load_samples(make_run())
    assert (len(asked), in_cache(tmp_path)) == (18, 4)


CLASSES = ("ground", "disc", "square")


@pytest.mark.parametrize(
    "settings",
    [
        {"size": (24, 28)},
        {"patch": (16, 16), "factor": 0.5, "target_scale": 2},
        {"patch": (16, 16), "block": 48},
    ],
)
def test_targets_of_reduced_images_with_ignored_pixels(
    tmp_path: Path, tiny: TrainConfig, settings: dict[str, Any]
) -> None:
    """Probabilities are averaged by area, like the mask; what it ignores has no share."""
    known = {"classes": CLASSES, "ignore": 9, **settings}
    config = TrainConfig(**{**tiny.model_dump(exclude_unset=True, exclude={"size"}), **known})
    folder = draw_scenes(tmp_path / "scenes", 4, "uint8")
    for file in (folder / "masks").iterdir():
        mask = tifffile.imread(file)
        mask[:31, :45] = 9
        tifffile.imwrite(file, mask)
    dataset = SegmentationDataset.open(folder, config).split(config)
    path = write_teacher(tmp_path / "three.safetensors", names=CLASSES)
    run = Run(RunFolder(tmp_path / "run"), config.model_copy(update={"teacher": path}), dataset)
    taught = load_samples(run)["train"]
    run.config = config
    plain = load_samples(run)["train"]
    predictor = Predictor.load(path, device="cpu", precision="fp32")
    pairs = dataset.part("train")
    ignored = 0
    for index in range(len(pairs)):
        truth, shares = (each[index][1].astype(int) for each in (plain, taught))
        size = truth.shape[0], truth.shape[1]
        image, mask = pairs[index]
        kept = predictor.probabilities(image) * (mask != 255)
        wanted = truth / 2 + 255 / 2 * resize(kept.transpose(1, 2, 0).copy(), size)
        assert np.abs(shares - wanted).max() <= 1
        assert np.abs(shares.sum(axis=2) - truth.sum(axis=2)).max() <= 3
        ignored += int((truth.sum(axis=2) == 0).sum())
        # patches are cut from the same
        patch = taught.patch(index, (8, 8), (0, 0, index))[1].astype(int)
        corner = np.lib.stride_tricks.sliding_window_view(shares, (8, 8), (0, 1))
        assert (corner.transpose(0, 1, 3, 4, 2) == patch).all(axis=(2, 3, 4)).any()
    assert ignored > 100


@pytest.mark.slow
def test_a_run_with_a_teacher_resumes_bit_for_bit(
    finished: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    teacher = shutil.copytree(finished.out, tmp_path / "teacher")
    settings = {"teacher": str(teacher), "growth": (), "epochs": 2, "batch_size": 4}
    config = finished.config.model_copy(update=settings)
    train(finished.data, tmp_path / "whole", config)
    with pytest.raises(PowerCut):
        train(finished.data, tmp_path / "cut", config, cut_after(1))
    # the teacher is needed
    hidden = teacher.rename(tmp_path / "hidden")
    with pytest.raises(FileNotFoundError, match=r"teacher.*--teacher"):
        resume(tmp_path / "cut")
    # and no other one
    shutil.copytree(hidden, teacher)
    write_teacher(teacher / "best.safetensors", names=("background", "foreground"))
    with pytest.raises(Error, match=r"teacher.* changed"):
        resume(tmp_path / "cut")
    shutil.rmtree(teacher)
    hidden.rename(teacher)
    resume(tmp_path / "cut")
    states = [read_state(RunFolder(tmp_path / name)) for name in ("whole", "cut")]
    assert same(states[0]["network"], states[1]["network"])
    assert rows_of(tmp_path / "whole", timed=False) == rows_of(tmp_path / "cut", timed=False)
    # ... and it was of some use
    train(finished.data, tmp_path / "alone", config.model_copy(update={"teacher": None}))
    losses = [[row["loss"] for row in rows_of(tmp_path / name)] for name in ("whole", "alone")]
    assert all(abs(with_one / alone - 1) > 0.02 for with_one, alone in zip(*losses, strict=True))
    assert Predictor.load(tmp_path / "whole").card.training["settings"]["teacher"] == str(teacher)


def test_a_teacher_that_saw_the_validation_images_is_a_warning(
    finished: Finished, tmp_path: Path
) -> None:
    def notes(**settings: Any) -> list[str]:
        heard = Recorder(lambda kind, call: kind == "stage" and call[0] == "teacher predictions")
        config = finished.config.model_copy(update={"teacher": str(finished.out), **settings})
        with pytest.raises(PowerCut):
            train(finished.data, tmp_path / "run", config, heard)
        return [note for note in heard.all("note") if "data leakage: the teacher" in note]

    assert notes() == []
    (leak,) = notes(split_seed=7)
    assert re.search(r"of the 4 validation images.*--pairs \S*/run/split.csv$", leak)
    assert notes(pairs=str(finished.out / "split.csv"), split_seed=7) == []


def lone(path: Path) -> dict[str, Any]:
    return {"teacher": write_teacher(path / "lone.safetensors", names=("thing", "background"))}


def grey(path: Path) -> dict[str, Any]:
    return {"teacher": write_teacher(path / "grey.safetensors", channels=1)}


def usual(path: Path, **settings: Any) -> dict[str, Any]:
    return {"teacher": write_teacher(path / "usual.safetensors"), **settings}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lone, r"lone\.safetensors: .*classes thing, background.* background, thing"),
        (grey, r"grey\.safetensors: .*\b1 channels.* 3\b"),
        (partial(usual, loss="lovasz"), r"--teacher .*--loss lovasz"),
        (partial(usual, augment="mine.yaml"), r"--teacher .*--augment mine\.yaml"),
        (lambda path: {"teacher": str(path / "none")}, r"none: the teacher"),
    ],
)
def test_teachers_and_settings_that_are_refused(
    make: Callable[[Path], dict[str, Any]], message: str, make_run: MakeRun, tmp_path: Path
) -> None:
    with pytest.raises((Error, FileNotFoundError), match=message):
        load_samples(make_run(**make(tmp_path)))


def test_shards_are_refused(draw: Draw, tiny: TrainConfig, teacher: str, tmp_path: Path) -> None:
    write_shards(draw(tmp_path / "data", 8), tmp_path / "shards", tiny)
    config = tiny.model_copy(update={"teacher": teacher})
    with pytest.raises(Error, match=r"shards: --teacher"):
        train(tmp_path / "shards", tmp_path / "run", config)


def test_probabilities_need_the_cache(
    make_run: MakeRun, teacher: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    samples = load_samples(make_run(teacher=teacher))["train"]
    shutil.rmtree(tmp_path / "cache")  # as by another process, before a worker opens it
    with pytest.raises(Error, match=r"--teacher.*Resume"):
        samples[0]
    monkeypatch.setattr("plainunet.dataset.cache.LIMIT", 10)
    with pytest.raises(Error, match=r"--teacher: .*cache"):
        load_samples(make_run(teacher=teacher))


def test_what_the_teacher_finds_odd_is_reported_once(make_run: MakeRun, tmp_path: Path) -> None:
    network, card = make_network(2), make_card(2)
    known = {"dtypes": ["uint8"], "areas": [100 * 32 * 40] * 2}
    path = tmp_path / "large.safetensors"
    save_checkpoint(path, network, replace(card, class_names=NAMES, size=(32, 40), training=known))
    heard = Recorder()
    load_samples(make_run("run", heard, teacher=str(path)))
    (note,) = [note for note in heard.all("note") if "--teacher" in note]
    assert re.search(r"large\.safetensors: 32 x 40 pixels", note)


def test_predictions_are_part_of_the_budget(
    small_data: Path, teacher: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(budget, "measure_machine", lambda *_: Machine(3e-6, 2**34, "CPU"))
    config = TrainConfig(classes=NAMES, budget=300.0, teacher=teacher, device="cpu")
    dataset = SegmentationDataset.open(small_data, config).split(config)
    loaded = TrainedTeacher.load(config, dataset)
    assert loaded
    monkeypatch.setattr(TrainedTeacher, "measure", lambda *_: 100.0)
    trained = [
        re.search(
            r"300 s \((\d+) s", fit_budget(config, {"budget"}, dataset, 1.0, None, None, each)[1][0]
        )
        for each in (None, loaded)
    ]
    alone, taught = (int(found[1]) for found in trained if found)
    assert alone - taught == pytest.approx(100, abs=5)
    monkeypatch.setattr(TrainedTeacher, "measure", lambda *_: 250.0)
    with pytest.raises(Error, match=r"250 s of it for --teacher"):
        fit_budget(config, {"budget"}, dataset, 1.0, None, None, loaded)


def test_the_time_of_a_teacher_grows_with_the_images(
    small_data: Path, teacher: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = TrainConfig(classes=NAMES, teacher=teacher, device="cpu")
    dataset = SegmentationDataset.open(small_data, config).split(config)
    loaded = TrainedTeacher.load(config, dataset)
    assert loaded
    monkeypatch.setattr(time, "perf_counter", count().__next__)  # a second for each image
    assert loaded.measure(dataset) == pytest.approx(len(dataset.part("train")))
