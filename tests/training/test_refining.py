import json
import pickle
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open

from plainunet.config import Growth, TrainConfig
from plainunet.dataset.coding import Values
from plainunet.dataset.pairs import find_pairs
from plainunet.dataset.samples import TrainingSet
from plainunet.dataset.split import read_split
from plainunet.evaluation.evaluate import evaluate
from plainunet.formats.images import read_image
from plainunet.network.checkpoint import load_checkpoint
from plainunet.prediction import cells
from plainunet.prediction.cells import SIDE, windows_each
from plainunet.prediction.predictor import Predictor
from plainunet.prediction.refine import is_unsure
from plainunet.settings import load_config
from plainunet.training.events import Event, Note
from plainunet.training.refining import UnsureWindows
from plainunet.training.train import resume, train

CODING = Values((0, 255))


def draw_discs(folder: Path, pictures: int, size: tuple[int, int] = (150, 190)) -> Path:
    """Bright discs on a dark, noisy ground: small pictures show roughly where they end."""
    (folder / "images").mkdir(parents=True)
    (folder / "masks").mkdir()
    random = np.random.default_rng(pictures)
    rows, columns = np.indices(size)
    for number in range(pictures):
        middle = random.uniform(0.3, 0.7, 2) * size
        far = np.hypot(rows - middle[0], columns - middle[1])
        mask = far < random.uniform(0.15, 0.3) * size[0]
        image = random.integers(0, 50, (*size, 3)) + np.where(mask[..., None], 150, 40)
        Image.fromarray(image.astype(np.uint8)).save(folder / "images" / f"{number:02d}.png")
        Image.fromarray(mask.astype(np.uint8) * 255).save(folder / "masks" / f"{number:02d}.png")
    return folder


@pytest.fixture(autouse=True, scope="module")
def _few_windows() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cells, "_ALL", 192)
        yield


@dataclass
class Runs:
    data: Path
    coarse: Path
    fine: Path
    config: TrainConfig
    events: list[Event]
    scores: list[float]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, tiny: TrainConfig) -> Runs:
    """A coarse model that sees a fifth of the pixels, and one that refines its masks."""
    folder = tmp_path_factory.mktemp("refining")
    data = draw_discs(folder / "data", 12)
    usual = {"base_channels": 4, "learning_rate": 3e-2, "optimizer": "muon", "batch_size": 2}
    coarse = tiny.model_copy(update={**usual, "epochs": 12, "classes": ("ground", "disc")})
    first = train(data, folder / "coarse", coarse)
    events: list[Event] = []
    config = TrainConfig(
        **usual,  # type: ignore[arg-type]
        refine_of=str(folder / "coarse" / "best.safetensors"),
        epochs=1,
        augment="light",
        device="cpu",
        precision="fp32",
        workers=0,
    )
    second = train(data, folder / "fine", config, events.append)
    scores = [result["per_image"]["dice"]["per_class"]["disc"] for result in (first, second)]
    return Runs(data, folder / "coarse", folder / "fine", config, events, scores)


def test_refined_masks_are_better(runs: Runs) -> None:
    coarse, refined = runs.scores
    assert 0.8 < coarse < 0.985
    assert 1 - refined < 0.5 * (1 - coarse), runs.scores


def test_evaluating_both_gives_the_run_s_scores(runs: Runs) -> None:
    best = runs.coarse / "best.safetensors"
    fine = runs.fine / "best.safetensors"
    found = evaluate(best, runs.data, refine=fine, device="cpu", precision="fp32")
    assert found["per_image"]["dice"]["per_class"]["disc"] == runs.scores[1]
    with safe_open(fine, framework="pt") as file:
        said = json.loads(file.metadata()["plainunet"])
    assert said["scores"]["per_image"]["dice"]["per_class"]["disc"] == runs.scores[1]


def test_classes_masks_and_split_are_those_of_the_coarse_run(runs: Runs) -> None:
    network, card = load_checkpoint(runs.fine / "best.safetensors")
    assert card.refines
    assert card.class_names == ("ground", "disc")
    assert (card.size, card.factor) == (None, 1.0)
    assert (network.in_channels, network.num_classes, network.depth) == (4, 2, 2)
    splits = [read_split(run / "split.csv", runs.data) for run in (runs.coarse, runs.fine)]
    assert splits[0] == splits[1]
    config = load_config(runs.fine / "config.toml")
    assert config.patch == (96, 96)
    assert config.refine_of == str((runs.coarse / "best.safetensors").absolute())
    notes = [event.text for event in runs.events if isinstance(event, Note)]
    assert f"split: that of {runs.coarse}" in notes
    coarse, refined = runs.scores
    wanted = f"Dice per image, refined: {refined:.4f}; of {runs.coarse / 'best.safetensors'}"
    assert f"{wanted} alone: {coarse:.4f}" in notes


def test_the_coarse_run_s_dataset_is_known(tmp_path: Path, runs: Runs, tiny: TrainConfig) -> None:
    """Masks whose values the folder does not explain, but the coarse run was told of."""
    data = draw_discs(tmp_path / "data", 6)
    for file in (data / "masks").iterdir():
        mask = np.asarray(Image.open(file))
        Image.fromarray(np.where(mask > 0, 7, 90).astype(np.uint8)).save(file)
    given = {"classes": ("ground", "disc"), "values": (90, 7)}
    train(data, tmp_path / "coarse", tiny.model_copy(update={**given, "epochs": 1}))
    fields = {"epochs": 1, "base_channels": 2, "device": "cpu", "workers": 0}
    config = TrainConfig(refine_of=str(tmp_path / "coarse" / "best.safetensors"), **fields)  # type: ignore[arg-type]
    train(data, tmp_path / "fine", config)
    assert load_config(tmp_path / "fine" / "config.toml").values == (90, 7)


def test_windows_show_the_picture_and_what_the_coarse_model_says(runs: Runs) -> None:
    pairs = find_pairs(runs.data)[:3]
    config = runs.config.model_copy(update={"refine_of": str(runs.coarse / "best.safetensors")})
    samples = UnsureWindows(pairs, CODING, config)
    each = windows_each(3)
    assert len(samples) == 3 * each == 192
    assert samples.told == 1
    # in the arithmetic that the windows were made in
    predictor = Predictor.load(runs.coarse / "best.safetensors", device="cpu")
    image = read_image(pairs[1].image)
    probability = predictor.probabilities(image)
    unsure = is_unsure(torch.from_numpy(probability).log()).numpy()
    assert 0.001 < unsure.mean() < 0.5
    whole = np.dstack([image, (probability[1] * 255).round().astype(np.uint8)])
    shares = np.asarray(Image.open(pairs[1].mask))
    centred, places = 0, set()
    for index in range(each, 2 * each):
        window, truth = samples[index]
        assert window.shape == (SIDE, SIDE, 4)
        (place,) = [
            (top, left)
            for top in range(150 - SIDE + 1)
            for left in range(190 - SIDE + 1)
            if np.array_equal(image[top, left : left + SIDE], window[0, :, :3])
        ]
        part = slice(place[0], place[0] + SIDE), slice(place[1], place[1] + SIDE)
        np.testing.assert_array_equal(window, whole[part])
        np.testing.assert_array_equal(truth[..., 1], shares[part])
        places.add(place)
        centred += bool(unsure[part].any())
    assert centred == each
    assert len(places) > 10


def test_other_processes_and_the_cache_see_the_same(runs: Runs) -> None:
    pairs = find_pairs(runs.data)[:2]
    config = runs.config.model_copy(update={"refine_of": str(runs.coarse / "best.safetensors")})
    samples = UnsureWindows(pairs, CODING, config, judged=True)
    assert len(samples) == 2 * windows_each(2, 1 / 8)
    first = [samples[index] for index in range(len(samples))]
    copy = pickle.loads(pickle.dumps(samples))
    samples.fill_cache()
    assert samples._cache is not None
    for index, sample in enumerate(first):
        for other in (copy[index], samples[index]):
            for a, b in zip(sample, other, strict=True):
                np.testing.assert_array_equal(a, b)


def test_small_and_deep_pictures(tmp_path: Path, runs: Runs) -> None:
    data = draw_discs(tmp_path / "data", 2, (70, 200))
    for number, file in enumerate(sorted((data / "images").iterdir())):
        if number:
            deep = np.asarray(Image.open(file))[..., 0].astype(np.uint16) * 257
            Image.fromarray(deep).save(file)
    config = runs.config.model_copy(update={"refine_of": str(runs.coarse / "best.safetensors")})
    samples = UnsureWindows(find_pairs(data), CODING, config, judged=True)
    samples.fill_cache()
    for index in (0, len(samples) - 1):
        window, shares = samples[index]
        assert window.dtype == np.float32
        assert window.shape == (SIDE, SIDE, 4)
        assert 0 <= window.min() < window.max() <= 1
        assert not shares[70:].any()
        assert shares[:70].any(axis=2).all()
    # brightness leaves alone what is told
    training = TrainingSet(samples, "light", 0, (96, 96), patch=(96, 96))
    assert training[0, 0, 0][0].shape == (96, 96, 4)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"size": (64, 64)}, "leave out size"),
        ({"patch": (64, 64)}, "leave out patch"),
        ({"growth": (Growth(until=0.5, scale=0.5),), "target_scale": 2}, "growth, target-scale"),
    ],
)
def test_settings_that_contradict_are_refused(
    runs: Runs, tmp_path: Path, given: dict[str, object], said: str
) -> None:
    coarse = str(runs.coarse / "best.safetensors")
    with pytest.raises(ValueError, match=said):
        train(runs.data, tmp_path / "run", TrainConfig(refine_of=coarse, epochs=1, **given))  # type: ignore[arg-type]
    assert not (tmp_path / "run" / "config.toml").exists()


def test_a_refining_model_is_not_refined(runs: Runs, tmp_path: Path) -> None:
    fine = str(runs.fine / "best.safetensors")
    with pytest.raises(ValueError, match="refines the masks of another model itself"):
        train(runs.data, tmp_path / "run", TrainConfig(refine_of=fine, epochs=1))


def test_another_folder_is_split_anew_and_that_is_said(runs: Runs, tmp_path: Path) -> None:
    data = draw_discs(tmp_path / "data", 5)
    (data / "images" / "04.png").rename(data / "images" / "new.png")
    (data / "masks" / "04.png").rename(data / "masks" / "new.png")
    events: list[Event] = []
    coarse = str(runs.coarse / "best.safetensors")
    config = TrainConfig(refine_of=coarse, epochs=1, base_channels=2, device="cpu", workers=0)
    train(data, tmp_path / "run", config, events.append)
    assert "may have learnt from pictures which are held out here" in str(events)


def test_a_run_to_the_clock_says_that_the_windows_are_given(runs: Runs, tmp_path: Path) -> None:
    coarse = str(runs.coarse / "best.safetensors")
    config = TrainConfig(refine_of=coarse, budget=15, device="cpu", workers=0)
    train(runs.data, tmp_path / "run", config)
    plan = (tmp_path / "run" / "plan.txt").read_text()
    assert "patch: 96 x 96 (as refining has it)" in plan
    assert load_config(tmp_path / "run" / "config.toml").depth == 2


def test_it_goes_on_where_it_was(
    runs: Runs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class EnoughError(Exception):
        pass

    def stop(event: Event) -> None:
        if type(event).__name__ == "EpochDone":
            raise EnoughError

    monkeypatch.chdir(runs.coarse)
    config = runs.config.model_copy(update={"refine_of": "best.safetensors", "base_channels": 2})
    with pytest.raises(EnoughError):
        train(runs.data, tmp_path / "run", config, stop)
    monkeypatch.chdir(tmp_path)
    result = resume(tmp_path / "run")
    assert result["per_image"]["dice"]["per_class"]["disc"] > 0.5
