"""The record of a folder of masks: their model and images."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from plainunet.network.card import Card
from plainunet.network.unet import UNet
from plainunet.prediction.drawing import read_key, write_mask, write_tiff_mask
from plainunet.prediction.predictor import Predictor
from plainunet.prediction.record import (
    RECORD,
    mask_key,
    note_video,
    require_made,
    require_own,
    require_same,
    video_size,
    write_record,
    written_outputs,
)

from ..models import as_predictor


def predictor(seed: int = 0, **settings: object) -> Predictor:
    torch.manual_seed(seed)
    card = Card(("ground", "leaf"), ((0, 0, 0), (255, 10, 20)), **{"size": (32, 48), **settings})
    return as_predictor(UNet(base_channels=2, depth=2), card)


def test_the_record_holds_classes_and_threshold(tmp_path: Path) -> None:
    write_record(tmp_path, predictor(threshold=0.25))
    record = json.loads((tmp_path / RECORD).read_text())
    assert record["classes"][1] == {"id": 1, "name": "leaf", "color": [255, 10, 20]}
    assert record["threshold"] == 0.25


OTHERS = [
    {"seed": 1},
    {"threshold": 0.4},
    {"size": (32, 64)},
    {"tta": "flips"},
    {"scales": (1.0, 0.5)},
    {"min_object": 5},
    {"fill_holes": 5},
]


@pytest.mark.parametrize("other", OTHERS)
def test_only_masks_of_the_same_model_are_accepted(tmp_path: Path, other: dict[str, int]) -> None:
    require_same(tmp_path, predictor().digest())
    write_record(tmp_path, predictor())
    require_same(tmp_path, predictor().digest())
    with pytest.raises(ValueError, match="--overwrite"):
        require_same(tmp_path, predictor(**other).digest())


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"classes": 3}'])
def test_a_file_named_like_a_record_is_of_others(tmp_path: Path, content: str) -> None:
    (tmp_path / RECORD).write_text(content)
    with pytest.raises(ValueError, match="not written by predict"):
        require_same(tmp_path, predictor().digest())
    with pytest.raises(ValueError, match="not written by predict"):
        require_made(tmp_path, [])  # with --overwrite too


@pytest.mark.parametrize("name", ["m.png", "m.tif"])
def test_a_mask_stores_its_model_and_image(tmp_path: Path, name: str) -> None:
    image, mask = tmp_path / "a.jpg", tmp_path / name
    image.write_bytes(b"12345")
    write = write_mask if mask.suffix == ".png" else write_tiff_mask
    ids, colors = np.zeros((4, 5), np.uint8), ((0, 0, 0), (255, 10, 20))
    digest = predictor().digest()
    key = mask_key(digest, image)
    write(mask, ids, colors, key=key)
    assert read_key(mask) == key
    require_own(mask, key)
    for other in (b"123456", b"12945"):  # another image of the same name, or also the same size
        image.write_bytes(other)
        with pytest.raises(ValueError, match="--overwrite"):
            require_own(mask, mask_key(digest, image))
    write(mask, ids, colors, key=f"{key}1")  # the whole key counts, not its beginning
    with pytest.raises(ValueError, match="--overwrite"):
        require_own(mask, key)
    write(mask, ids, colors, key=key)
    image.unlink()  # without the image, only the model can be compared
    require_own(mask, mask_key(digest, image))
    for other in OTHERS:
        with pytest.raises(ValueError, match="--overwrite"):
            require_own(mask, mask_key(predictor(**other).digest(), image))


@pytest.mark.parametrize("name", ["m.png", "m.tif"])
def test_a_mask_without_a_key_is_refused(tmp_path: Path, name: str) -> None:
    write = write_mask if name == "m.png" else write_tiff_mask
    write(tmp_path / name, np.zeros((4, 5), np.uint8), ((0, 0, 0), (255, 10, 20)))
    (tmp_path / f"damaged-{name}").write_bytes(b"mine")
    for each in (name, f"damaged-{name}"):
        assert read_key(tmp_path / each) == ""
        for overwrite in (False, True):
            with pytest.raises(ValueError, match=f"{each}: exists"):
                require_own(tmp_path / each, "abc", overwrite)


def test_files_of_other_programs_are_not_replaced(tmp_path: Path) -> None:
    files = [tmp_path / "areas.csv", tmp_path / "coco.json"]
    require_made(tmp_path, files)
    files[1].write_text("{}")
    require_made(tmp_path, files[:1])
    with pytest.raises(ValueError, match=r"coco\.json: exists"):
        require_made(tmp_path, files)
    write_record(tmp_path, predictor())
    require_made(tmp_path, files)


def test_outputs_that_the_record_does_not_name_are_of_others(tmp_path: Path) -> None:
    folder = tmp_path / "instances"
    places = {"coco": [tmp_path / "coco.json"], "instances": [folder, tmp_path / "instances.csv"]}
    write_record(tmp_path, predictor(), outputs=["overlay"])
    (folder / "deep").mkdir(parents=True)
    (folder / ".DS_Store").touch()
    require_made(tmp_path, [], places)
    (folder / "deep" / "b.tif").touch()
    with pytest.raises(ValueError, match=r"b\.tif: exists, but was not written"):
        require_made(tmp_path, [], places)
    write_record(tmp_path, predictor(), outputs=["instances"])
    require_made(tmp_path, [], places)
    (tmp_path / "coco.json").touch()
    with pytest.raises(ValueError, match=r"coco\.json: exists, but was not written"):
        require_made(tmp_path, [], places)
    write_record(tmp_path, predictor(**OTHERS[0]), outputs=["coco"])
    assert written_outputs(tmp_path) == ["overlay", "instances", "coco"]
    # the record of an earlier version names none, so all may be its own
    record = json.loads((tmp_path / RECORD).read_text())
    (tmp_path / RECORD).write_text(json.dumps({**record, "outputs": None}))
    write_record(tmp_path, predictor(), outputs=["coco"])
    require_made(tmp_path, [], places)


def test_the_record_of_videos_is_of_one_model(tmp_path: Path) -> None:
    write_record(tmp_path, predictor())
    assert video_size(tmp_path, "film-mask.mkv") is None
    note_video(tmp_path, "film-mask.mkv", 123)
    write_record(tmp_path, predictor())
    assert video_size(tmp_path, "film-mask.mkv") == 123
    write_record(tmp_path, predictor(**OTHERS[0]))
    assert video_size(tmp_path, "film-mask.mkv") is None
