"""The end of a run: native scores in the checkpoint, and pictures from worst to best."""

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from plainunet.training.events import Advance, Event, Stage

from plainunet.dataset.dataset import SegmentationDataset
from plainunet.dataset.pairs import Pair, find_pairs
from plainunet.evaluation.evaluate import evaluate
from plainunet.evaluation.metrics import PROTOCOL
from plainunet.network.checkpoint import load_checkpoint
from plainunet.training.run import BEST_FILE
from plainunet.training.state import Stop, StoppedError
from plainunet.training.validate import SAVED_IMAGES, judge_best


def judge(finished: Any, out: Path, pairs: list[Pair]) -> tuple[dict[str, Any], list[Event]]:
    out.mkdir()
    shutil.copy(finished.out / BEST_FILE, out / BEST_FILE)
    events: list[Event] = []
    dataset = dataclasses.replace(SegmentationDataset.open(finished.data), pairs=pairs)
    return judge_best(out, dataset, finished.config, events.append), events


@pytest.fixture(scope="module")
def judged(
    finished: Any, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, dict[str, Any], list[Event]]:
    """The finished run's network judged on all its 20 pictures but one."""
    out = tmp_path_factory.mktemp("judged") / "run"
    first, *others = find_pairs(finished.data)
    pairs = [dataclasses.replace(first, part="train")]
    pairs += [dataclasses.replace(pair, part="val") for pair in others]
    return out, *judge(finished, out, pairs)


def test_pictures_go_from_worst_to_best(judged: tuple[Path, dict[str, Any], list[Event]]) -> None:
    out, result, _ = judged
    score = {
        Path(entry["image"]).stem: entry["dice"]["mean_foreground"] for entry in result["images"]
    }
    assert len(score) == 19
    masks = sorted((out / "saved_images").glob("*_mask.png"))
    comparisons = sorted((out / "saved_images").glob("*_comparison.png"))
    assert len(masks) == len(comparisons) == SAVED_IMAGES == 16
    assert len(list((out / "saved_images").iterdir())) == 32
    shown = [file.name.split("_")[1] for file in masks]
    assert [file.name.split("_")[0] for file in masks] == [f"{n:02d}" for n in range(1, 17)]
    assert [file.name.split("_")[1] for file in comparisons] == shown
    assert len(set(shown)) == 16
    scores = [score[stem] for stem in shown]
    assert scores == sorted(scores)
    assert (scores[0], scores[-1]) == (min(score.values()), max(score.values()))
    assert scores[0] < scores[-1]


def test_saved_masks_have_the_scores_that_are_told(
    judged: tuple[Path, dict[str, Any], list[Event]], finished: Any
) -> None:
    out, result, _ = judged
    told = {Path(entry["image"]).stem: entry["dice"]["per_class"] for entry in result["images"]}
    for file in (out / "saved_images").glob("*_mask.png"):
        stem = file.name.split("_")[1]
        with Image.open(file) as picture:
            assert picture.mode == "P"
            mask = np.asarray(picture)
        with Image.open(finished.data / "masks" / f"{stem}.png") as picture:
            truth = np.asarray(picture) == 255
        hits = ((mask == 1) & truth).sum()
        dice = 2 * hits / ((mask == 1).sum() + truth.sum())
        assert told[stem]["foreground"] == pytest.approx(dice), stem


def test_the_native_scores_are_in_the_checkpoint(
    judged: tuple[Path, dict[str, Any], list[Event]], finished: Any
) -> None:
    out, result, _ = judged
    network, card = load_checkpoint(out / BEST_FILE)
    assert card.scores == {
        key: result[key] for key in ("protocol", "pooled", "per_image", "absent", "intervals")
    }
    assert card.scores["protocol"] == PROTOCOL
    before, its_card = load_checkpoint(finished.out / BEST_FILE)
    assert dataclasses.replace(card, scores={}) == dataclasses.replace(its_card, scores={})
    for name, value in network.state_dict().items():
        assert (value == before.state_dict()[name]).all()


def test_it_says_how_far_it_is(judged: tuple[Path, dict[str, Any], list[Event]]) -> None:
    events = judged[2]
    assert [event.total for event in events if isinstance(event, Stage)] == [19, 18]
    done = [event.done for event in events if isinstance(event, Advance)]
    assert done == [*range(1, 20), *range(1, 19)]


def test_few_pictures_are_all_saved(finished: Any, tmp_path: Path) -> None:
    pairs = [dataclasses.replace(pair, part="val") for pair in find_pairs(finished.data)[:2]]
    result, _ = judge(finished, tmp_path / "run", pairs)
    assert len(result["images"]) == 2
    assert len(list((tmp_path / "run" / "saved_images").iterdir())) == 4


def test_a_picture_without_foreground_that_is_right_is_not_the_worst(
    finished: Any, tmp_path: Path
) -> None:
    data = tmp_path / "data"
    shutil.copytree(finished.data, data)
    # the darkest picture that training saw has no object at all
    blank = np.full((32, 40, 3), 45, np.uint8)
    Image.fromarray(blank).save(data / "images" / "blank.png")
    Image.fromarray(np.zeros((32, 40), np.uint8)).save(data / "masks" / "blank.png")
    pairs = [dataclasses.replace(pair, part="val") for pair in find_pairs(data)]
    pairs = [pair for pair in pairs if pair.image.stem in ("00", "01", "blank")]
    result, _ = judge(finished, tmp_path / "run", pairs)
    (entry,) = (each for each in result["images"] if Path(each["image"]).stem == "blank")
    if entry["dice"]["mean_foreground"] is not None:
        pytest.fail("the network sees something in a blank picture: draw another one")
    worst = min((tmp_path / "run" / "saved_images").glob("*_mask.png"))
    assert "blank" not in worst.name


def nearly(value: Any) -> Any:
    """The same value, but that floats in it may differ in their last digits."""
    if isinstance(value, dict):
        return {name: nearly(each) for name, each in value.items()}
    if isinstance(value, list):
        return [nearly(each) for each in value]
    return pytest.approx(value) if isinstance(value, float) else value


def test_it_equals_evaluate(finished: Any) -> None:
    found = evaluate(finished.out / BEST_FILE, finished.data, device="cpu", precision="fp32")
    # outlines are compared by `evaluate` alone
    for part in (found, *found["images"]):
        del part["boundary"]
    assert found == nearly(finished.result)


def test_asked_to_stop_it_keeps_what_was_counted(
    judged: tuple[Path, dict[str, Any], list[Event]], finished: Any, tmp_path: Path
) -> None:
    _, whole, _ = judged
    first, *others = find_pairs(finished.data)
    pairs = [dataclasses.replace(first, part="train")]
    pairs += [dataclasses.replace(pair, part="val") for pair in others]
    dataset = dataclasses.replace(SegmentationDataset.open(finished.data), pairs=pairs)
    out = tmp_path / "run"
    out.mkdir()
    shutil.copy(finished.out / BEST_FILE, out / BEST_FILE)
    stop = Stop()

    def ask(event: Event) -> None:
        if event == Advance(7):
            stop.code = 130

    with pytest.raises(StoppedError, match=r"while judging.*--resume"):
        judge_best(out, dataset, finished.config, ask, stop=stop)
    assert not (out / "saved_images").exists()
    events: list[Event] = []
    result = judge_best(out, dataset, finished.config, events.append)
    assert result == nearly(whole)
    assert events[:2] == [Stage("judging at native size", 19), Advance(8)]
    assert not list(out.rglob("judged*"))
