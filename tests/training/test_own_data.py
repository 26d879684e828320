"""A dataset of arrays in place of a folder, and our own as a dataset for any loop."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset, TensorDataset

from plainunet import SegmentationDataset, TrainConfig, evaluate
from plainunet.dataset.dataset import store_dataset
from plainunet.parts import PartError
from plainunet.settings import load_config
from plainunet.training.train import resume, train

from .conftest import Draw, PowerCut, cut_after


class Squares(Dataset[tuple[Any, ...]]):
    """Bright squares of class 1 or 2; the left edge is ignored."""

    def __init__(self, count: int, make: Callable[..., Any] = lambda *sample: sample) -> None:
        self.count, self.make = count, make

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Any:
        random = np.random.default_rng(index)
        mask = np.zeros((32, 40), np.int64)
        top, left = random.integers(2, 16, 2)
        mask[top : top + 12, left : left + 12] = 1 + index % 2
        image = random.integers(0, 60, (32, 40, 3)) + 80 * mask[..., None]
        mask[:, 0] = 255
        return self.make(np.minimum(image, 255).astype(np.uint8), mask)


def test_it_trains_resumes_and_evaluates(tiny: TrainConfig, tmp_path: Path) -> None:
    data, out = Squares(10), tmp_path / "run"
    with pytest.raises(PowerCut):
        train(data, out, tiny, cut_after(1))
    moved = out.rename(tmp_path / "moved")
    result = resume(moved)
    config = load_config(moved / "config.toml")
    assert len(config.classes) == 3
    assert config.ignore == 255
    assert len(list((moved / "data" / "images").iterdir())) == 10
    assert result.confusion.sum() == len(result.of_images()) * 32 * 39
    again = evaluate(moved / "best.safetensors", data)
    assert again.split == "val"
    assert again.content["confusion"] == result.content["confusion"]
    other = evaluate(moved / "best.safetensors", Squares(4), html=tmp_path / "report.html")
    assert len(other.of_images()) == 4
    assert (tmp_path / "report.html").is_file()


def test_splits_are_kept(tiny: TrainConfig, tmp_path: Path) -> None:
    data = {"train": Squares(6), "val": Squares(3)}
    config = tiny.model_copy(update={"classes": ("nothing", "odd", "even"), "epochs": 1})
    result = train(data, tmp_path / "run", config)
    assert len(result.of_images()) == 3
    assert result.class_names == ("nothing", "odd", "even")


@pytest.mark.parametrize(
    ("make", "dtype", "channels"),
    [
        (lambda image, mask: (image.astype(np.float32) / 255, mask), np.float32, 3),
        (lambda image, mask: (image[..., 0].astype(np.uint16) * 200, mask), np.uint16, 1),
        (lambda image, mask: (image[..., 0], mask), np.uint8, 1),
        (lambda image, mask: [torch.from_numpy(image).permute(2, 0, 1), mask], np.uint8, 3),
        (lambda image, mask: (image, torch.from_numpy(mask), "patient 1"), np.uint8, 3),
        (lambda image, mask: (np.dstack([image, image]), mask.astype(np.uint8)), np.uint8, 6),
    ],
)
def test_images_are_stored_exactly(
    make: Callable[..., Any], dtype: Any, channels: int, tmp_path: Path
) -> None:
    data = Squares(4, make)
    store_dataset(data, tmp_path / "data")
    store_dataset(data, tmp_path / "data")  # replaces what it made
    stored = SegmentationDataset.open(tmp_path / "data")
    assert len(stored) == 4
    for index in range(4):
        image, mask = stored[index]
        assert image.dtype == dtype
        assert image.shape == (32, 40, channels)
        given = np.asarray(data[index][0])
        given = np.moveaxis(given, 0, 2) if given.shape[0] == 3 else given.reshape(image.shape)
        assert (image == given).all()
        assert (mask == np.asarray(data[index][1])).all()
    if len(data[0]) == 3:
        assert {pair.group for pair in stored.pairs} == {"patient 1"}


@pytest.mark.parametrize(
    "data",
    [
        3,
        [],
        {"training": Squares(3)},
        Squares(4, lambda image, mask: image),
        Squares(4, lambda image, mask: (image, mask / 255)),
        Squares(4, lambda image, mask: (image, mask - 1)),
        Squares(4, lambda image, mask: (image[:-1], mask)),
        Squares(4, lambda image, mask: (image, mask[..., None])),
        Squares(4, lambda image, mask: 1 / 0),
    ],
)
def test_what_is_no_dataset_is_refused(data: Any, tiny: TrainConfig, tmp_path: Path) -> None:
    with pytest.raises(PartError) as caught:
        train(data, tmp_path / "run", tiny)
    assert str(caught.value).startswith("data")
    assert len(str(caught.value).splitlines()) == 1
    assert not (tmp_path / "run" / "config.toml").exists()


def test_fewer_names_than_classes_are_refused(tiny: TrainConfig, tmp_path: Path) -> None:
    config = tiny.model_copy(update={"classes": ("background", "thing")})
    with pytest.raises(PartError, match="class 2"):
        train(Squares(4), tmp_path / "run", config)


def test_files_of_others_are_kept(tmp_path: Path) -> None:
    store_dataset(Squares(2), tmp_path / "data")
    (tmp_path / "data" / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match=r"notes\.txt"):
        store_dataset(Squares(2), tmp_path / "data")
    assert (tmp_path / "data" / "notes.txt").read_text() == "mine"


def test_ours_feeds_any_loop(draw: Draw, tmp_path: Path) -> None:
    dataset = SegmentationDataset.open(draw(tmp_path / "data", 5))
    images, masks = next(iter(DataLoader(dataset, batch_size=5)))  # type: ignore[arg-type]
    assert images.shape == (5, 32, 40, 3)
    assert masks.shape == (5, 32, 40)
    assert len(TensorDataset(images, masks)) == 5
