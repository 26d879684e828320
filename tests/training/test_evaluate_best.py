"""The end of a run: native scores in the checkpoint, and images from worst to best."""

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from plainunet.dataset.dataset import SegmentationDataset
from plainunet.dataset.pairs import Pair, find_pairs
from plainunet.evaluation.evaluate import evaluate
from plainunet.evaluation.metrics import PROTOCOL
from plainunet.network.checkpoint import load_checkpoint
from plainunet.training.run import Run, RunFolder, StoppedError
from plainunet.training.validate import SAVED_IMAGES, evaluate_best

from .conftest import Recorder

Evaluated = tuple[Path, dict[str, Any], Recorder]


def make_run(finished: Any, out: Path, pairs: list[Pair], heard: Recorder) -> Run:
    """A run in a new folder with the finished run's checkpoint."""
    folder = RunFolder(out)
    if not out.exists():
        out.mkdir()
        shutil.copy(finished.out / "best.safetensors", folder.best)
    dataset = dataclasses.replace(SegmentationDataset.open(finished.data), pairs=pairs)
    return Run(folder, finished.config, dataset, heard)


def score(finished: Any, out: Path, pairs: list[Pair]) -> tuple[dict[str, Any], Recorder]:
    heard = Recorder()
    return evaluate_best(make_run(finished, out, pairs, heard)), heard


def all_but_one(data: Path) -> list[Pair]:
    first, *others = find_pairs(data)
    held_out = [dataclasses.replace(pair, part="val") for pair in others]
    return [dataclasses.replace(first, part="train"), *held_out]


@pytest.fixture(scope="module")
def evaluated(finished: Any, tmp_path_factory: pytest.TempPathFactory) -> Evaluated:
    """The finished run's network evaluated on all its 20 images but one."""
    out = tmp_path_factory.mktemp("evaluated") / "run"
    return out, *score(finished, out, all_but_one(finished.data))


def test_saved_images_from_worst_to_best(evaluated: Evaluated) -> None:
    out, result, _ = evaluated
    dice = {
        Path(entry["image"]).stem: entry["dice"]["mean_foreground"] for entry in result["images"]
    }
    assert len(dice) == 19
    masks = sorted((out / "saved_images").glob("*_mask.png"))
    comparisons = sorted((out / "saved_images").glob("*_comparison.png"))
    assert len(masks) == len(comparisons) == SAVED_IMAGES == 16
    assert len(list((out / "saved_images").iterdir())) == 32
    shown = [file.name.split("_")[1] for file in masks]
    assert [file.name.split("_")[0] for file in masks] == [f"{n:02d}" for n in range(1, 17)]
    assert [file.name.split("_")[1] for file in comparisons] == shown
    assert len(set(shown)) == 16
    scores = [dice[stem] for stem in shown]
    assert scores == sorted(scores)
    assert (scores[0], scores[-1]) == (min(dice.values()), max(dice.values()))
    assert scores[0] < scores[-1]


def test_saved_masks_have_the_reported_scores(evaluated: Evaluated, finished: Any) -> None:
    out, result, _ = evaluated
    scores = {Path(entry["image"]).stem: entry["dice"]["per_class"] for entry in result["images"]}
    for file in (out / "saved_images").glob("*_mask.png"):
        stem = file.name.split("_")[1]
        with Image.open(file) as image:
            assert image.mode == "P"
            mask = np.asarray(image)
        with Image.open(finished.data / "masks" / f"{stem}.png") as image:
            truth = np.asarray(image) == 255
        hits = ((mask == 1) & truth).sum()
        dice = 2 * hits / ((mask == 1).sum() + truth.sum())
        assert scores[stem]["foreground"] == pytest.approx(dice), stem


def test_the_native_scores_are_in_the_checkpoint(evaluated: Evaluated, finished: Any) -> None:
    out, result, _ = evaluated
    network, card = load_checkpoint(out / "best.safetensors")
    assert card.scores == {
        key: result[key] for key in ("protocol", "pooled", "per_image", "absent", "intervals")
    }
    assert card.scores["protocol"] == PROTOCOL
    before, its_card = load_checkpoint(finished.out / "best.safetensors")
    assert dataclasses.replace(card, scores={}) == dataclasses.replace(its_card, scores={})
    for name, value in network.state_dict().items():
        assert (value == before.state_dict()[name]).all()


def test_progress(evaluated: Evaluated) -> None:
    heard = evaluated[2]
    assert [total for _, total in heard.all("stage")] == [19, 18]
    done = heard.all("advance")
    assert done == [*range(1, 20), *range(1, 19)]


def test_few_images_are_all_saved(finished: Any, tmp_path: Path) -> None:
    pairs = [dataclasses.replace(pair, part="val") for pair in find_pairs(finished.data)[:2]]
    result, _ = score(finished, tmp_path / "run", pairs)
    assert len(result["images"]) == 2
    assert len(list((tmp_path / "run" / "saved_images").iterdir())) == 4


def test_a_correct_image_without_foreground_is_not_the_worst(finished: Any, tmp_path: Path) -> None:
    data = tmp_path / "data"
    shutil.copytree(finished.data, data)
    # as dark as the background of the training images
    blank = np.full((32, 40, 3), 45, np.uint8)
    Image.fromarray(blank).save(data / "images" / "blank.png")
    Image.fromarray(np.zeros((32, 40), np.uint8)).save(data / "masks" / "blank.png")
    pairs = [dataclasses.replace(pair, part="val") for pair in find_pairs(data)]
    pairs = [pair for pair in pairs if pair.image.stem in ("00", "01", "blank")]
    result, _ = score(finished, tmp_path / "run", pairs)
    (entry,) = (each for each in result["images"] if Path(each["image"]).stem == "blank")
    if entry["dice"]["mean_foreground"] is not None:
        pytest.fail("the network finds foreground in a blank image: use another one")
    worst = min((tmp_path / "run" / "saved_images").glob("*_mask.png"))
    assert "blank" not in worst.name


def nearly(value: Any) -> Any:
    """The same value, with a tolerance for floats in it."""
    if isinstance(value, dict):
        return {name: nearly(each) for name, each in value.items()}
    if isinstance(value, list):
        return [nearly(each) for each in value]
    return pytest.approx(value) if isinstance(value, float) else value


def test_the_result_equals_evaluate(finished: Any) -> None:
    found = evaluate(
        finished.out / "best.safetensors", finished.data, device="cpu", precision="fp32"
    ).as_dict()
    # only `evaluate` computes boundary metrics
    for part in (found, *found["images"]):
        del part["boundary"]
    assert found == nearly(finished.result)


def test_an_interrupt_keeps_the_counts(evaluated: Evaluated, finished: Any, tmp_path: Path) -> None:
    _, whole, _ = evaluated
    out, pairs = tmp_path / "run", all_but_one(finished.data)
    run = make_run(finished, out, pairs, Recorder())

    def ask(kind: str, call: Any) -> bool:
        if (kind, call) == ("advance", 7):
            run.stop.code = 130
        return False

    run.reporter = Recorder(ask)
    with pytest.raises(StoppedError, match=r"evaluation.*--resume"):
        evaluate_best(run)
    assert not (out / "saved_images").exists()
    result, heard = score(finished, out, pairs)
    assert result == nearly(whole)
    assert heard.calls[:2] == [("stage", ("evaluating (native size)", 19)), ("advance", 8)]
    assert not list(out.rglob("judged*"))
