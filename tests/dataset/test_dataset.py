"""The dataset of a folder, for training, evaluation and custom loops."""

import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from plainunet.config import DataConfig, TrainConfig
from plainunet.dataset.coding import Values
from plainunet.dataset.dataset import SegmentationDataset
from plainunet.dataset.split import write_split
from plainunet.reporter import Reporter


class Heard(Reporter):
    def __init__(self) -> None:
        self.events: list[str] = []

    def note(self, text: str) -> None:
        self.events.append("note")

    def stage(self, name: str, total: int) -> None:
        self.events.append(f"{name} {total}")


def test_a_folder_is_opened(small_data: Path) -> None:
    heard = Heard()
    dataset = SegmentationDataset.open(small_data, reporter=heard)
    assert heard.events == ["checking files 8", "understanding masks 1"]
    assert dataset.coding == Values((0, 255))
    assert dataset.class_names == ("background", "foreground")
    assert len(dataset) == len(dataset.pairs) == len(dataset.shapes) == 8
    image, mask = dataset[3]
    assert (*mask.shape, 3) == image.shape == dataset.shapes[3]
    assert dataset.sizes[3] == mask.shape
    counted = sum(np.bincount(dataset[n][1].ravel(), minlength=2) for n in range(8))
    assert dataset.class_pixels == tuple(counted)
    assert sum(dataset.shares.values()) == pytest.approx(1)
    assert pickle.loads(pickle.dumps(dataset)) == dataset


def test_a_dataset_toml_is_applied(small_data: Path) -> None:
    (small_data / "dataset.toml").write_text('classes = ["ground", "box"]\nvalues = [255, 0]\n')
    dataset = SegmentationDataset.open(small_data)
    assert (dataset.class_names, dataset.coding) == (("ground", "box"), Values((255, 0)))
    other = SegmentationDataset.open(small_data, DataConfig(classes=("a", "b")))
    assert other.class_names == ("a", "b")


@pytest.mark.parametrize("stratify", [False, True])
def test_splits_and_reopening(small_data: Path, tmp_path: Path, stratify: bool) -> None:
    dataset = SegmentationDataset.open(small_data).split(TrainConfig(stratify=stratify))
    parts = {name: dataset.part(name) for name in ("train", "val", "test")}
    assert len(parts["train"]) + len(parts["val"]) == 8
    assert len(parts["val"]) in (1, 2)
    assert len(parts["test"]) == 0
    for name, part in parts.items():
        assert all(pair.part == name for pair in part.pairs)
        assert len(part.shapes) == len(part)
    assert parts["train"].digest() != dataset.digest()
    write_split(tmp_path / "split.csv", dataset.pairs, small_data)
    config = TrainConfig(classes=dataset.class_names)
    again = SegmentationDataset.reopen(small_data, tmp_path / "split.csv", config)
    assert again == dataset


def test_problems_with_files_are_raised_together(small_data: Path) -> None:
    """Problems with names and with contents; `check` is suggested."""
    images = sorted((small_data / "images").iterdir())
    images[0].rename(images[0].with_name("elsewhere.png"))
    images[1].write_bytes(images[1].read_bytes()[:-20])
    with pytest.raises(ValueError, match=r"^3\b(?s:.*)plainunet check"):
        SegmentationDataset.open(small_data)


def test_inconsistent_masks_give_the_same_advice(small_data: Path) -> None:
    mask = sorted((small_data / "masks").iterdir())[2]
    with Image.open(mask) as opened:
        values = np.array(opened)
    values[0, 0] = 7
    Image.fromarray(values).save(mask)
    with pytest.raises(ValueError, match=r"\b7\b(?s:.*)plainunet check"):
        SegmentationDataset.open(small_data)


def test_a_folder_is_recognised_by_names_and_sizes(small_data: Path, tmp_path: Path) -> None:
    dataset = SegmentationDataset.open(small_data)
    digest = dataset.digest()
    assert dataset.subset(range(len(dataset))[::-1]).digest() == digest
    moved = small_data.rename(tmp_path / "moved")
    assert SegmentationDataset.open(moved).digest() == digest
    image, *_ = sorted((moved / "images").iterdir())
    with image.open("ab") as file:
        file.write(b"\0")
    longer = SegmentationDataset.open(moved).digest()
    for kind in ("images", "masks"):
        (file,) = (moved / kind).glob(f"{image.stem}*")
        file.rename(file.with_stem("another"))
    assert len({digest, longer, SegmentationDataset.open(moved).digest()}) == 3


def test_some_sizes_are_recorded(small_data: Path) -> None:
    dataset = SegmentationDataset.open(small_data)
    files = (small_data / "images").iterdir()
    assert dataset.sample_sizes() == {f"images/{file.name}": file.stat().st_size for file in files}
    assert len(dataset.subset([*range(len(dataset))] * 20).sample_sizes()) <= 32
