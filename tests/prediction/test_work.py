from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from plainunet.network.checkpoint import Card
from plainunet.network.unet import UNet
from plainunet.prediction.predict import Inputs, find_inputs, predict_inputs
from plainunet.prediction.predictor import Predictor


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


def test_results_do_not_lie_among_the_videos(
    tmp_path: Path, predictor: Predictor, inputs: Inputs
) -> None:
    with pytest.raises(
        ValueError, match=f"{tmp_path}: holds the videos, and masks among them would be"
    ):
        predict_inputs(predictor, inputs, tmp_path, lambda *told: None)
    assert not (tmp_path / "film-mask.mkv").exists()


def test_masks_of_another_video_are_left_and_said(
    tmp_path: Path, predictor: Predictor, inputs: Inputs
) -> None:
    out, film = tmp_path / "out", tmp_path / "film.mkv"
    alone = Inputs([], [film])
    foreign = out / "film-mask.mkv"
    out.mkdir()
    foreign.write_bytes(b"of somebody else")
    result = predict_inputs(predictor, alone, out, lambda *told: None)
    assert "film-mask.mkv: is there already, and was not made from" in result.failures[0]
    assert foreign.read_bytes() == b"of somebody else"
    result = predict_inputs(predictor, alone, out, lambda *told: None, overwrite=True)
    assert (len(result.written), result.failures) == (1, [])
    # pictures that come later leave what is known of videos
    predict_inputs(predictor, Inputs(inputs.pictures, []), out, lambda *told: None)
    result = predict_inputs(predictor, alone, out, lambda *told: None)
    assert (len(result.skipped), result.failures) == (1, [])
    (out / "film-overlay.mp4").unlink()  # stopped between the two
    assert len(predict_inputs(predictor, alone, out, lambda *told: None).written) == 1
    film.write_bytes(film.read_bytes() + b"another")
    result = predict_inputs(predictor, alone, out, lambda *told: None)
    assert "is there already" in result.failures[0]


def test_a_video_that_is_cut_off_fails_and_has_masks(
    tmp_path: Path, predictor: Predictor, inputs: Inputs
) -> None:
    film = tmp_path / "film.mkv"
    code = cv2.VideoWriter.fourcc(*"FFV1")
    writer = cv2.VideoWriter(str(film), cv2.CAP_FFMPEG, code, 10, (40, 30))
    for frame in np.random.default_rng(0).integers(0, 256, (20, 30, 40, 3), np.uint8):
        writer.write(frame)
    writer.release()
    film.write_bytes(film.read_bytes()[: film.stat().st_size // 2])
    out = tmp_path / "out"
    result = predict_inputs(predictor, Inputs([], [film]), out, lambda *told: None)
    assert result.written == [out / "film-mask.mkv"]
    assert "of 20 frames" in result.failures[0]


def test_warnings_name_the_video(tmp_path: Path, inputs: Inputs) -> None:
    card = Card(("a", "b"), ((0, 0, 0), (9, 9, 200)), (32, 48), training={"areas": [10**6, 10**7]})
    torch.manual_seed(0)
    predictor = Predictor(UNet(base_channels=2, depth=2), card, device="cpu", precision="fp32")
    alone = Inputs([], [tmp_path / "film.mkv"])
    with pytest.warns(UserWarning, match=r"film\.mkv: a picture of 30 x 40 pixels") as said:
        predict_inputs(predictor, alone, tmp_path / "out", lambda *told: None)
    assert len(said) == 1  # not for each frame
