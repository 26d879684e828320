from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from plainunet.network.checkpoint import Card
from plainunet.network.unet import UNet
from plainunet.prediction.inputs import Inputs, find_inputs
from plainunet.prediction.predictor import Predictor
from plainunet.prediction.work import predict_inputs


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    torch.manual_seed(0)
    card = Card(("ground", "leaf"), ((0, 0, 0), (255, 10, 20)), size=(32, 48))
    return Predictor(UNet(base_channels=2, depth=2), card, device="cpu", precision="fp32")


@pytest.fixture
def inputs(tmp_path: Path) -> Inputs:
    Image.fromarray(np.zeros((20, 30, 3), np.uint8)).save(tmp_path / "a.png")
    code = cv2.VideoWriter.fourcc(*"FFV1")
    writer = cv2.VideoWriter(str(tmp_path / "film.mkv"), cv2.CAP_FFMPEG, code, 10, (40, 30))
    for level in range(3):
        writer.write(np.full((30, 40, 3), 60 * level, np.uint8))
    writer.release()
    (tmp_path / "bad.mp4").write_bytes(b"no video")
    return find_inputs([tmp_path / name for name in ("a.png", "film.mkv", "bad.mp4")])


def test_pictures_and_videos(tmp_path: Path, predictor: Predictor, inputs: Inputs) -> None:
    out = tmp_path / "out"
    said: list[tuple[str, int, int]] = []
    result = predict_inputs(predictor, inputs, out, lambda *told: said.append(told))
    assert result.written == [out / "a.png", out / "film-mask.mkv"]
    assert len(result.failures) == 1
    assert "bad.mp4: not a video" in result.failures[0]
    assert ("predicting", 1, 1) in said
    assert ("frames of film.mkv", 3, 3) in said
    again = predict_inputs(predictor, inputs, out, lambda *told: None)
    assert again.skipped == result.written
    anew = predict_inputs(predictor, inputs, out, lambda *told: None, overwrite=True)
    assert anew.written == result.written


def test_two_videos_of_one_name(tmp_path: Path, predictor: Predictor, inputs: Inputs) -> None:
    (tmp_path / "other").mkdir()
    other = tmp_path / "other" / "film.mkv"
    other.write_bytes((tmp_path / "film.mkv").read_bytes())
    both = Inputs([], [tmp_path / "film.mkv", other])
    result = predict_inputs(predictor, both, tmp_path / "out", lambda *told: None)
    assert len(result.written) == 1
    assert "has the name of" in result.failures[0]
