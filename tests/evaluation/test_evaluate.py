"""Scores against pixels counted by hand, the choice of the split, classes of the masks."""

import dataclasses
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from plainunet.config import DataConfig, TrainConfig
from plainunet.dataset.split import read_split
from plainunet.evaluation.evaluate import evaluate, match_classes
from plainunet.evaluation.metrics import scores, summarise
from plainunet.formats.sources import HERE, ClassFiles, CocoImage
from plainunet.network.card import Card
from plainunet.network.checkpoint import load_checkpoint, save_checkpoint
from plainunet.network.unet import UNet
from plainunet.palette import default_colors
from plainunet.prediction.predict import predict_files
from plainunet.prediction.predictor import Predictor
from plainunet.training.train import train

from ..folders import save
from ..models import SMALL
from .conftest import Trained

NAMES = ("background", "leaf", "stone")


@pytest.fixture(scope="module")
def trained(draw: Callable[[Path], Path], tmp_path_factory: pytest.TempPathFactory) -> Trained:
    folder = tmp_path_factory.mktemp("trained")
    data = draw(folder / "data")
    config = TrainConfig(
        **{**SMALL, "epochs": 4, "size": (24, 32), "batch_size": 2},
        **{"learning_rate": 3e-2, "validation": 0.3, "classes": NAMES},
    )
    train(data, folder / "run", config)
    return Trained(data, folder / "run" / "best.safetensors")


def score(trained: Trained, data: Path, **settings: Any) -> dict[str, Any]:
    how = {"device": "cpu", "precision": "fp32", **settings}
    return evaluate(trained.checkpoint, data, **how).as_dict()


@pytest.fixture
def copied(trained: Trained, tmp_path: Path) -> Path:
    """A copy of the training folder that a test may change."""
    return shutil.copytree(trained.data, tmp_path / "copied")


def stems(result: dict[str, Any]) -> list[str]:
    return [Path(entry["image"]).stem for entry in result["images"]]


def count_by_hand(trained: Trained, out: Path) -> dict[str, np.ndarray]:
    """The confusion matrix of each image, from the files of `predict`."""
    predictor = Predictor.load(trained.checkpoint, device="cpu", precision="fp32")
    images = sorted((trained.data / "images").iterdir())
    done = predict_files(predictor, images, out)
    written, failures = done.written, done.failures
    assert failures == []
    counts = {}
    for image, file in zip(images, written, strict=True):
        prediction = np.asarray(Image.open(file))
        truth = np.asarray(Image.open(trained.data / "masks" / image.name))
        assert prediction.shape == truth.shape
        counts[image.stem] = np.array(
            [[((truth == t) & (prediction == p)).sum() for p in range(3)] for t in range(3)]
        )
    return counts


def nearly(value: Any) -> Any:
    """The same value, with a tolerance for floats."""
    if isinstance(value, dict):
        return {name: nearly(each) for name, each in value.items()}
    return pytest.approx(value) if isinstance(value, float) else value


def test_scores_match_counts_by_hand(trained: Trained, tmp_path: Path) -> None:
    result = score(trained, trained.data, split="all")
    counts = count_by_hand(trained, tmp_path)
    assert stems(result) == sorted(counts)
    everything = np.stack([counts[stem] for stem in sorted(counts)])
    pooled = everything.sum(axis=0)
    assert 0 < np.diagonal(pooled)[1:].sum() < pooled[1:].sum(), "partly correct"
    wanted = summarise(everything, NAMES)
    assert {name: result[name] for name in wanted} == nearly(wanted)
    assert result["confusion"] == pooled.tolist()
    for entry in result["images"]:
        wanted = scores(counts[Path(entry["image"]).stem], NAMES)
        assert {name: entry[name] for name in wanted} == nearly(wanted)


def test_the_result_has_its_keys(trained: Trained) -> None:
    result = score(trained, trained.data)
    assert set(result) == {
        *("split", "protocol", "pooled", "per_image", "absent", "images"),
        *("intervals", "confusion", "calibration", "boundary"),
    }  # threshold_curve is for two classes, objects are optional
    json.dumps(result, allow_nan=False)


def test_the_validation_split_of_the_training_folder_is_evaluated(trained: Trained) -> None:
    split = read_split(trained.checkpoint.parent / "split.csv", trained.data)
    names = {
        name: [pair.image.stem for pair in split if pair.part == name] for name in ("train", "val")
    }
    assert (len(names["train"]), len(names["val"])) == (7, 3)
    result = score(trained, trained.data)
    assert (result["split"], stems(result)) == ("val", names["val"])
    result = score(trained, trained.data, split="train")
    assert (result["split"], stems(result)) == ("train", names["train"])
    assert len(score(trained, trained.data, split="all")["images"]) == 10
    with pytest.raises(ValueError, match=r"'test'.* train, val\).*--split all"):
        score(trained, trained.data, split="test")
    with pytest.raises(ValueError, match=r"split: .*'validation'.*train, val, test, all"):
        score(trained, trained.data, split="validation")


def test_a_copy_of_the_training_folder_is_recognised(
    trained: Trained, tmp_path: Path, copied: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(trained.checkpoint.parent, tmp_path / "run")
    monkeypatch.chdir(copied.parent)
    result = evaluate("run", copied.name, device="cpu", precision="fp32").as_dict()
    expected = score(trained, trained.data)
    assert stems(result) == stems(expected)
    assert (result["split"], result["pooled"]) == ("val", expected["pooled"])


def test_another_folder_is_evaluated_as_a_whole(trained: Trained, copied: Path) -> None:
    for kind in ("images", "masks"):
        (copied / kind / "3.png").unlink()
        for file in (copied / kind).iterdir():
            Image.open(file).save(file, compress_level=0)
    result = score(trained, copied)
    assert (result["split"], len(result["images"])) == ("all", 9)
    with pytest.raises(ValueError, match=r"'train'.* none\)"):
        score(trained, copied, split="train")


def test_no_training_image_of_a_changed_folder_is_evaluated(
    trained: Trained, copied: Path, heard: Any
) -> None:
    """Also if images were added to and removed from either split."""
    held_out = stems(score(trained, trained.data))
    removed = next(str(n) for n in range(9) if str(n) not in held_out)
    for kind in ("images", "masks"):
        (copied / kind / f"{removed}.png").unlink()
        (copied / kind / f"{held_out[0]}.png").unlink()
        shutil.copy(copied / kind / f"{held_out[1]}.png", copied / kind / "new.png")
    result = score(trained, copied, reporter=heard)
    assert (result["split"], stems(result)) == ("val", held_out[1:])
    (note,) = heard.notes
    assert [int(number) for number in re.findall(r" (\d+) ", note)] == [1, 2]  # new, removed
    assert len(stems(score(trained, copied, split="all"))) == 9


def test_another_folder_may_have_its_own_splits_or_one_image(
    trained: Trained, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    for split, numbers in (("train", "01"), ("val", "2"), ("test", "45")):
        for kind in ("images", "masks"):
            (other / kind / split).mkdir(parents=True)
            for number in numbers:
                shutil.copy(trained.data / kind / f"{number}.png", other / kind / split)
    assert stems(score(trained, other, split="test")) == ["4", "5"]
    assert stems(score(trained, other, split="val")) == ["2"]
    assert len(score(trained, other)["images"]) == 5
    single = tmp_path / "single"
    for kind in ("images", "masks"):
        (single / kind).mkdir(parents=True)
        shutil.copy(trained.data / kind / "1.png", single / kind)
    assert stems(score(trained, single)) == ["1"]


@pytest.fixture
def binary(draw: Callable[[Path], Path], tmp_path: Path) -> Trained:
    """A network of two classes for masks 0/255, and ten images with such masks."""
    data = draw(tmp_path / "data")
    recode(data, lambda mask: np.where(mask == 1, 255, 0))
    torch.manual_seed(2)
    coded = {"values": (0, 255), "ignore": None, "kind": "two values"}
    card = Card(("background", "thing"), default_colors(2), (24, 32), masks=coded)
    save_checkpoint(tmp_path / "net.safetensors", UNet(base_channels=2, depth=2), card)
    return Trained(data, tmp_path / "net.safetensors")


def recode(folder: Path, change: Callable[[Any], Any]) -> None:
    """Change the values of all masks."""
    for file in (folder / "masks").iterdir():
        Image.fromarray(np.asarray(change(np.asarray(Image.open(file))), np.uint8)).save(file)


def test_masks_with_other_values_are_read(binary: Trained, heard: Any) -> None:
    expected = score(binary, binary.data)
    recode(binary.data, lambda mask: mask // 255)
    assert score(binary, binary.data)["pooled"] == expected["pooled"]
    # empty masks are read as in training, with a note
    recode(binary.data, np.zeros_like)
    result = score(binary, binary.data, reporter=heard)
    assert result["pooled"]["recall"]["per_class"]["thing"] in (0.0, None)
    (note,) = heard.notes
    assert "thing" in note


def test_bad_data_is_named(trained: Trained, tmp_path: Path, copied: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere"):
        score(trained, tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match=r"none\.safetensors"):
        evaluate(tmp_path / "none.safetensors", trained.data)
    mask = np.asarray(Image.open(copied / "masks" / "4.png")).copy()
    mask[5, 5] = 9
    Image.fromarray(mask).save(copied / "masks" / "4.png")
    with pytest.raises(ValueError, match=r"9.*masks/4\.png"):
        score(trained, copied)
    Image.fromarray(mask[1:]).save(copied / "masks" / "4.png")
    with pytest.raises(ValueError, match=r"masks/4\.png.*42x33.*42x34"):
        score(trained, copied)


def test_masks_of_one_value_are_not_instance_masks(binary: Trained) -> None:
    """Nor are masks without background; both for a model trained on instance masks."""
    network, card = load_checkpoint(binary.checkpoint)
    numbered = {"values": (0, 1), "ignore": None, "kind": "instances"}
    save_checkpoint(binary.checkpoint, network, dataclasses.replace(card, masks=numbered))
    result = score(binary, binary.data)
    assert "objects" not in result
    assert sum(result["confusion"][0]) > 0
    recode(binary.data, lambda mask: np.where(mask > 0, 7, 3))
    assert score(binary, binary.data)["confusion"] == result["confusion"]

    def number(mask: Any) -> Any:
        mask = np.where(mask == 7, 5, 0)
        mask[-2:, -2:] = 9
        return mask

    recode(binary.data, number)
    assert score(binary, binary.data)["objects"]["per_class"]["thing"]["true"] == 20


def test_a_checkpoint_outside_its_run_needs_split_csv(trained: Trained, tmp_path: Path) -> None:
    alone = tmp_path / "alone.safetensors"
    shutil.copy(trained.checkpoint, alone)
    with pytest.raises(FileNotFoundError, match=r"split\.csv.*--split all"):
        evaluate(alone, trained.data)
    assert len(evaluate(alone, trained.data, split="all", device="cpu").of_images()) == 10


def test_changed_files_are_noted(trained: Trained, copied: Path, heard: Any) -> None:
    for file in list((copied / "masks").iterdir()):
        Image.open(file).save(file, compress_level=0)
    result = score(trained, copied, reporter=heard)
    assert result["split"] == "val"
    assert len(heard.notes) == 1
    assert heard.stages == {"evaluating": [1, 2, 3]}


KNOWN = DataConfig()
IDS = np.array([[0, 0, 0, 0], [1, 1, 1, 0], [2, 2, 2, 2]], np.uint8)


def card(*names: str, **masks: object) -> Card:
    return Card(names, default_colors(len(names)), None, masks=dict(masks))


def folders(root: Path, **classes: int) -> list[ClassFiles]:
    """A mask with one file per class, in this order."""
    for name, value in classes.items():
        save(root / name / "1.png", np.uint8(value == IDS) * 255)
    return [ClassFiles(str(root / HERE / "1.png"), tuple(classes))]


def test_classes_are_matched_by_name(tmp_path: Path) -> None:
    masks = folders(tmp_path, car=2, road=1)
    for names, wanted in (
        (("background", "car", "road"), [0, 2, 1]),
        (("background", "road", "car"), [0, 1, 2]),
        (("ground", "Road", "CAR"), [0, 1, 2]),
        # bus is in no mask
        (("background", "bus", "road", "car"), [0, 2, 3]),
    ):
        read = match_classes(card(*names), masks, KNOWN).read(masks[0])
        np.testing.assert_array_equal(read, np.array(wanted)[IDS])


def test_classes_unknown_to_the_model_are_named(tmp_path: Path) -> None:
    masks = folders(tmp_path, person=2, road=1)
    with pytest.raises(ValueError, match=r"1\.png.*'person'.*background, car, road"):
        match_classes(card("background", "car", "road"), masks, KNOWN)
    with pytest.raises(ValueError, match=r"person.*cat, dog, cow"):
        match_classes(card("background", "cat", "dog", "cow"), masks, KNOWN)
    # a class without pixels is no error
    save(tmp_path / "person" / "1.png", IDS * 0)
    coding = match_classes(card("background", "car", "road"), masks, KNOWN)
    np.testing.assert_array_equal(coding.read(masks[0]), np.array([0, 2, 0])[IDS])


def test_default_names_are_matched_in_order(tmp_path: Path) -> None:
    masks = folders(tmp_path, background=0, leaf=1)
    coding = match_classes(card("background", "foreground"), masks, KNOWN)
    np.testing.assert_array_equal(coding.read(masks[0]), np.array([0, 1, 255])[IDS])


def test_an_unused_coco_category_shifts_no_class(tmp_path: Path) -> None:
    polygon = {"segmentation": [[0, 2, 4, 2, 4, 3, 0, 3]], "iscrowd": 0}
    content = {
        "images": [{"id": 1, "file_name": "a.png", "height": 3, "width": 4}],
        "categories": [{"id": n, "name": name} for n, name in enumerate(("thing", "road", "car"))],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 2, **polygon}],
    }
    (tmp_path / "all.json").write_text(json.dumps(content))
    masks = [CocoImage(tmp_path / "all.json", 1)]
    coding = match_classes(card("background", "road", "car"), masks, KNOWN)
    np.testing.assert_array_equal(coding.read(masks[0]), (IDS == 2) * 2)


def test_masks_are_read_as_in_training_if_they_fit(tmp_path: Path) -> None:
    masks = [save(tmp_path / "1.png", IDS * 0)]
    coded = {"values": [0, 255], "ignore": None, "kind": "two values"}
    coding = match_classes(card("a", "b", **coded), masks, KNOWN)
    assert (coding.values, coding.kind) == ((0, 255), "two values")
    save(masks[0], np.minimum(IDS, 1))
    assert match_classes(card("a", "b", **coded), masks, KNOWN).values == (0, 1)


def test_the_settings_of_the_folder_come_first(tmp_path: Path) -> None:
    masks = [save(tmp_path / "1.png", np.uint8([7, 100, 200])[IDS])]
    model = card("ground", "road", "car", values=[0, 1, 2], ignore=None, kind="ids")
    with pytest.raises(ValueError, match=r"\b3\b.*dataset\.toml"):
        match_classes(model, masks, KNOWN)
    known = DataConfig(values=(7, 100, 200))
    np.testing.assert_array_equal(match_classes(model, masks, known).read(masks[0]), IDS)
    known = DataConfig(values=(7, 100, 200), classes=("ground", "car", "road"))
    swapped = match_classes(model, masks, known).read(masks[0])
    np.testing.assert_array_equal(swapped, np.array([0, 2, 1])[IDS])
