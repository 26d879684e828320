"""Validation at the input size against pixels counted by hand; its previews and journal."""

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from plainunet.config import TrainConfig
from plainunet.dataset.coding import Values
from plainunet.dataset.dataset import SegmentationDataset
from plainunet.dataset.pairs import Pair
from plainunet.dataset.samples import Samples
from plainunet.network.card import Card
from plainunet.network.unet import UNet
from plainunet.prediction.predictor import Predictor
from plainunet.reporter import Reporter, silent
from plainunet.training.run import Run, RunFolder, StoppedError
from plainunet.training.validate import Journal, ValidationImages, has_foreground, validate

from .conftest import Recorder

NAMES, COLORS = ("background", "thing"), ((0, 0, 0), (255, 255, 255))
CODING = Values((0, 1), 200)


def make_predictor(size: tuple[int, int] | None, always_one: bool = True) -> Predictor:
    """A predictor that predicts class 1 everywhere, or has random weights."""
    torch.manual_seed(0)
    unet = UNet(in_channels=3, num_classes=2, base_channels=2, depth=2)
    if always_one:
        with torch.no_grad():
            unet.head.weight.zero_()
            unet.head.bias.copy_(torch.tensor([0.0, 1.0]))
    return Predictor(unet, Card(NAMES, COLORS, size), device="cpu", precision="fp32")


def make_run(reporter: Reporter = silent) -> Run:
    dataset = SegmentationDataset(Path(), [], CODING, NAMES, [])
    return Run(RunFolder(Path()), TrainConfig(), dataset, reporter)


@pytest.fixture
def wide(tmp_path: Path) -> list[Pair]:
    """Two images [16, 32] with class 1 in their left quarter and half; void in the first."""
    pairs = []
    for number, columns in enumerate((8, 16)):
        mask = np.zeros((16, 32), np.uint8)
        mask[:, :columns] = 1
        if number == 0:
            mask[:, 24:] = 200
        paths = tmp_path / f"{number}.png", tmp_path / f"{number}_mask.png"
        Image.fromarray(np.full((16, 32, 3), 90, np.uint8)).save(paths[0])
        Image.fromarray(mask).save(paths[1])
        pairs.append(Pair(*paths, str(number), "val"))
    return pairs


@pytest.mark.parametrize(("size", "share"), [((32, 32), 1), ((16, 16), 4)])
@pytest.mark.parametrize("target_scale", [1, 2])
def test_validation_at_the_input_size_without_padding_and_void(
    wide: list[Pair], size: tuple[int, int], share: int, target_scale: int
) -> None:
    samples = Samples(wide, CODING, (32, 32), 3, target_scale)
    predictor = make_predictor(size)
    predictor.network.train()
    recorder = Recorder()
    scores = validate(make_run(recorder), predictor, samples, size)
    assert recorder.all("advance") == [1, 2]
    assert predictor.network.training
    # of 16 x 32 pixels, 16 x 8 are void in the first; the lower half of the box is padding
    true = [16 * 8 / share, 16 * 16 / share]
    counted = [16 * 24 / share, 16 * 32 / share]
    assert scores["pooled"]["accuracy"] == pytest.approx(sum(true) / sum(counted))
    assert scores["pooled"]["dice"]["per_class"]["thing"] == pytest.approx(
        2 * sum(true) / (sum(counted) + sum(true))
    )
    each = [2 * t / (c + t) for t, c in zip(true, counted, strict=True)]
    assert scores["per_image"]["dice"]["mean_foreground"] == pytest.approx(sum(each) / 2)
    assert f"{size[0]} x {size[1]}" in scores["protocol"]
    assert "native" in scores["protocol"]


def test_validation_is_repeatable_and_changes_no_weights(wide: list[Pair]) -> None:
    samples, predictor = Samples(wide, CODING, (16, 32)), make_predictor((16, 32), False)
    before = copy.deepcopy(predictor.network.state_dict())
    first, second = (validate(make_run(), predictor, samples, (16, 32)) for _ in range(2))
    assert first == second
    after = predictor.network.state_dict()
    assert all(torch.equal(value, before[name]) for name, value in after.items())


@pytest.mark.parametrize("size", [(16, 32), (8, 16)])
def test_validation_shows_what_it_scored(wide: list[Pair], size: tuple[int, int]) -> None:
    samples, predictor = Samples(wide, CODING, (16, 32)), make_predictor(size)
    seen: list[tuple[Any, ...]] = []

    class Seen(ValidationImages):
        def show(self, *shown: Any) -> None:
            seen.append(shown)

    scores = validate(make_run(), predictor, samples, size, Seen(samples, COLORS))
    assert [index for index, *_ in seen] == [0, 1]
    assert [image.shape for _, image, _, _ in seen] == [(*size, 3)] * 2
    truths = [truth for _, _, truth, _ in seen]
    assert (truths[0][:, -size[1] // 4 :] == 255).all()
    ones = [int((truth == 1).sum()) for truth in truths]
    assert ones == [size[0] * size[1] / 4, size[0] * size[1] / 2]
    assert all((prediction == 1).all() for *_, prediction in seen)
    assert scores == validate(make_run(), predictor, samples, size)


def test_has_foreground(wide: list[Pair]) -> None:
    predictor = make_predictor(None)
    scores = validate(make_run(), predictor, Samples(wide, CODING, (16, 32)), (16, 32))
    assert has_foreground(scores, 2)
    for pair in wide:
        Image.fromarray(np.zeros((16, 32), np.uint8)).save(pair.mask)
    scores = validate(make_run(), predictor, Samples(wide, CODING, (16, 32)), (16, 32))
    assert scores["per_image"]["dice"]["mean_foreground"] == 0
    assert not has_foreground(scores, 2)


def test_images_in_the_journal_are_not_predicted_again(
    wide: list[Pair], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Except for previews."""
    samples, predictor = Samples(wide * 4, CODING, (16, 32)), make_predictor((16, 32))
    whole = validate(make_run(), predictor, samples, (16, 32))

    class Asking(Reporter):
        def advance(self, done: int) -> None:
            run.stop.code = 130 if done == 5 else 0

    run, file = make_run(Asking()), tmp_path / "counts.json"
    journal = Journal(file, "epoch 1")
    with pytest.raises(StoppedError):
        validate(run, predictor, samples, (16, 32), journal=journal)
    journal.write()
    predicted: list[int] = []
    predict = Predictor.predict

    def counted(self: Predictor, image: np.ndarray) -> np.ndarray:
        predicted.append(1)
        return predict(self, image)

    monkeypatch.setattr(Predictor, "predict", counted)
    again = Journal(file, "epoch 1")
    assert validate(make_run(), predictor, samples, (16, 32), journal=again) == whole
    assert (len(predicted), len(again.counts)) == (3, 8)

    predicted.clear()
    images = ValidationImages(samples, COLORS)  # images 0, 2, 5 and 7
    again = Journal(file, "epoch 1")
    assert validate(make_run(), predictor, samples, (16, 32), images, again) == whole
    assert len(predicted) == 3 + 2
    images.write(tmp_path / "shown")
    assert len(list((tmp_path / "shown").iterdir())) == 4


def draw(folder: Path, count: int, class_id: int) -> list[str]:
    """Write the previews of a validation that predicts one class; returns their names."""
    # these files are not read
    pairs = [Pair(Path(f"p{n}.jpg"), Path(f"p{n}.png"), str(n), "val") for n in range(count)]
    images = ValidationImages(Samples(pairs, CODING, (8, 12)), COLORS)
    mask = np.full((8, 12), class_id, np.uint8)
    for index in range(count):
        images.show(index, np.full((8, 12, 3), index, np.uint8), np.zeros_like(mask), mask)
    images.write(folder)
    return sorted(file.name for file in folder.iterdir())


@pytest.mark.parametrize(
    ("count", "shown"), [(1, [0]), (3, [0, 1, 2]), (4, [0, 1, 2, 3]), (31, [0, 10, 20, 30])]
)
def test_previews_are_spread_evenly(tmp_path: Path, count: int, shown: list[int]) -> None:
    wanted = [f"{place}_p{number}.png" for place, number in enumerate(shown, 1)]
    assert draw(tmp_path / "new", count, 0) == wanted


def test_previews_replace_those_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = draw(tmp_path, 9, class_id=0)
    before = {name: (tmp_path / name).read_bytes() for name in names}
    assert draw(tmp_path, 9, class_id=1) == names
    kept = {name: (tmp_path / name).read_bytes() for name in names}
    for number, name in zip((0, 3, 5, 8), names, strict=True):
        assert kept[name] != before[name]
        with Image.open(tmp_path / name) as image:
            assert image.size == (4 * 12 + 3 * 4, 8)
            assert image.getpixel((0, 0)) == (number,) * 3
            assert image.getpixel((2 * 16, 0)) == (255, 255, 255)

    def fail(*_: object, **__: object) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(Image.Image, "save", fail)
    with pytest.raises(OSError, match="no space"):
        draw(tmp_path, 9, class_id=0)
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == kept


def matrix(number: int) -> np.ndarray:
    return np.full((2, 2), number, dtype=np.int64)


def test_a_journal_is_read_only_for_the_same_evaluation(tmp_path: Path) -> None:
    file = tmp_path / "last" / "counts.json"
    journal = Journal(file, "epoch 3")
    assert journal.counts == []
    journal.add(matrix(2**40))
    journal.add(matrix(7))
    assert not file.parent.exists()  # quick evaluations write nothing
    journal.write()
    again = Journal(file, "epoch 3").counts
    assert [each.dtype for each in again] == [np.int64] * 2
    assert np.array_equal(again, [matrix(2**40), matrix(7)])
    assert Journal(file, "epoch 4").counts == []
    file.write_text("{half")  # a damaged journal starts empty
    assert Journal(file, "epoch 3").counts == []


def test_a_journal_is_written_in_intervals_and_removed_at_the_end(tmp_path: Path) -> None:
    file = tmp_path / "counts.json"
    journal = Journal(file, "epoch 3")
    journal._written -= 60
    journal.add(matrix(1))
    assert len(Journal(file, "epoch 3").counts) == 1
    journal.add(matrix(2))
    assert len(Journal(file, "epoch 3").counts) == 1
    journal.close()
    journal.close()
    assert not file.exists()
