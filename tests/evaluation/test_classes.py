"""A class is the same on both sides: by name, by the model's coding, or as masks say."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from plainunet.config import DataConfig
from plainunet.evaluation.evaluate import match_classes
from plainunet.formats.sources import CocoImage, Source, parse_source
from plainunet.network.checkpoint import Card
from plainunet.palette import default_colors

SAID = DataConfig()
IDS = np.array([[0, 0, 0, 0], [1, 1, 1, 0], [2, 2, 2, 2]], np.uint8)


def card(*names: str, **masks: object) -> Card:
    return Card(names, default_colors(len(names)), None, masks=dict(masks))


def save(path: Path, mask: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(mask, np.uint8)).save(path)
    return path


def folders(root: Path, **classes: int) -> list[Source]:
    """One folder for each class; the path that names them all, in this order."""
    for name, value in classes.items():
        save(root / name / "1.png", (value == IDS) * 255)
    return [parse_source(root / f"{{{','.join(classes)}}}" / "1.png")]


def test_classes_are_joined_by_their_names(tmp_path: Path) -> None:
    masks = folders(tmp_path, car=2, road=1)
    for names, wanted in (
        (("background", "car", "road"), [0, 2, 1]),
        (("background", "road", "car"), [0, 1, 2]),
        (("ground", "Road", "CAR"), [0, 1, 2]),
        # one that these masks do not have
        (("background", "bus", "road", "car"), [0, 2, 3]),
    ):
        read = match_classes(card(*names), masks, SAID).read(masks[0])
        np.testing.assert_array_equal(read, np.array(wanted)[IDS])


def test_classes_that_the_model_does_not_know_are_named(tmp_path: Path) -> None:
    masks = folders(tmp_path, person=2, road=1)
    with pytest.raises(ValueError, match=r"1\.png has the class 'person'.*background, car, road\."):
        match_classes(card("background", "car", "road"), masks, SAID)
    with pytest.raises(ValueError, match="none but the background has the same name"):
        match_classes(card("background", "cat", "dog", "cow"), masks, SAID)
    # it is named, but nowhere to be seen
    save(tmp_path / "person" / "1.png", IDS * 0)
    coding = match_classes(card("background", "car", "road"), masks, SAID)
    np.testing.assert_array_equal(coding.read(masks[0]), np.array([0, 2, 0])[IDS])


def test_names_of_no_meaning_are_taken_in_order(tmp_path: Path) -> None:
    masks = folders(tmp_path, background=0, leaf=1)
    coding = match_classes(card("background", "foreground"), masks, SAID)
    np.testing.assert_array_equal(coding.read(masks[0]), np.array([0, 1, 255])[IDS])


def test_an_unused_category_of_a_coco_file_moves_nothing(tmp_path: Path) -> None:
    said = {
        "images": [{"id": 1, "file_name": "a.png", "height": 3, "width": 4}],
        "categories": [
            {"id": 1, "name": "thing"},
            {"id": 2, "name": "road"},
            {"id": 3, "name": "car"},
        ],
        "annotations": [
            {
                **{"id": 1, "image_id": 1, "category_id": 3, "iscrowd": 0},
                "segmentation": [[0, 2, 4, 2, 4, 3, 0, 3]],
            }
        ],
    }
    (tmp_path / "all.json").write_text(json.dumps(said))
    masks = [CocoImage(tmp_path / "all.json", 1)]
    coding = match_classes(card("background", "road", "car"), masks, SAID)
    np.testing.assert_array_equal(coding.read(masks[0]), (IDS == 2) * 2)


def test_masks_are_read_as_in_training_where_they_fit(tmp_path: Path) -> None:
    masks = [save(tmp_path / "1.png", IDS * 0)]
    known = {"values": [0, 255], "ignore": None, "kind": "two values"}
    coding = match_classes(card("a", "b", **known), masks, SAID)
    assert (coding.values, coding.kind) == ((0, 255), "two values")
    save(masks[0], np.minimum(IDS, 1))
    assert match_classes(card("a", "b", **known), masks, SAID).values == (0, 1)


def test_what_the_folder_says_of_itself_comes_first(tmp_path: Path) -> None:
    masks = [save(tmp_path / "1.png", np.uint8([7, 100, 200])[IDS])]
    model = card("ground", "road", "car", values=[0, 1, 2], ignore=None, kind="ids")
    with pytest.raises(ValueError, match=r"not those of this model's 3 classes.*dataset\.toml"):
        match_classes(model, masks, SAID)
    said = DataConfig(values=(7, 100, 200))
    np.testing.assert_array_equal(match_classes(model, masks, said).read(masks[0]), IDS)
    said = DataConfig(values=(7, 100, 200), classes=("ground", "car", "road"))
    swapped = match_classes(model, masks, said).read(masks[0])
    np.testing.assert_array_equal(swapped, np.array([0, 2, 1])[IDS])
