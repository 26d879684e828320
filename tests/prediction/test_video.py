"""Prediction of videos, frame by frame."""

import errno
import os
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from plainunet.prediction.predictor import Predictor
from plainunet.prediction.video import CutOffError, predict_video, video_paths

from ..models import as_predictor, make_card, make_network
from .conftest import COLORS, Recorder, film, noise


def square(count: int = 7) -> NDArray[np.uint8]:
    """Frames of a moving square."""
    frames = np.full((count, 47, 63, 3), 30, np.uint8)
    for number in range(count):
        frames[number, 10:30, 5 * number : 5 * number + 20] = (90, 200, 20)
    return frames


def frames(path: Path) -> tuple[list[NDArray[np.uint8]], float]:
    source = cv2.VideoCapture(str(path))
    rate = source.get(cv2.CAP_PROP_FPS)
    found = []
    while (read := source.read())[0]:
        found.append(np.asarray(read[1])[..., ::-1].copy())
    return found, rate


def test_each_frame_has_its_mask(tmp_path: Path, predictor: Predictor, recorder: Recorder) -> None:
    video = film(tmp_path / "film.mkv", square(), 12.5)
    paths = predict_video(predictor, video, tmp_path / "out", recorder)
    assert paths == video_paths(video, tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "film-mask.mkv",
        "film-overlay.mp4",
    ]
    images, _ = frames(video)
    masks, rate = frames(paths[0])
    overlays, other_rate = frames(paths[1])
    assert len(masks) == len(overlays) == len(images) == 7
    assert rate == other_rate == 12.5
    for image, mask in zip(images, masks, strict=True):
        assert np.array_equal(mask, np.array(COLORS, np.uint8)[predictor.predict(image)])
    assert overlays[0].shape == images[0].shape
    assert recorder.progress == [("frames of film.mkv", done, 7) for done in range(1, 8)]


def test_grey_models_see_grey_frames(tmp_path: Path) -> None:
    grey = as_predictor(make_network(2, channels=1), make_card(2))
    film(tmp_path / "film.mkv", square(2), 5)
    path, _ = predict_video(grey, tmp_path / "film.mkv", tmp_path / "out")
    frame = cv2.cvtColor(frames(tmp_path / "film.mkv")[0][0], cv2.COLOR_RGB2GRAY)[..., None]
    colors = np.array(grey.card.colors, np.uint8)
    assert np.array_equal(frames(path)[0][0], colors[grey.predict(frame)])


def test_an_unreadable_video_leaves_no_files(tmp_path: Path, predictor: Predictor) -> None:
    video = tmp_path / "film.mp4"
    video.write_bytes(b"no video")
    with pytest.raises(ValueError, match=r"film\.mp4: "):
        predict_video(predictor, video, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_interrupted_video_leaves_no_files(tmp_path: Path, predictor: Predictor) -> None:
    class Stop(Recorder):
        def advance(self, done: int) -> None:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        predict_video(predictor, film(tmp_path / "film.mkv", square()), tmp_path / "out", Stop())
    assert list((tmp_path / "out").iterdir()) == []


def test_a_truncated_video_is_an_error(tmp_path: Path, predictor: Predictor) -> None:
    video = film(tmp_path / "film.mkv", noise(20, 80, 60, 3))
    whole = video.read_bytes()
    video.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CutOffError) as caught:
        predict_video(predictor, video, tmp_path / "out")
    images, _ = frames(video)
    masks, _ = frames(video_paths(video, tmp_path / "out")[0])
    assert 0 < len(masks) == len(images) < 20
    assert f" {len(masks)} of 20 " in str(caught.value)


def test_a_full_disk_leaves_no_files(
    tmp_path: Path, predictor: Predictor, small_disk: Path
) -> None:
    video = film(tmp_path / "film.mkv", square(40))
    out = small_disk / "out"
    (small_disk / "filler").write_bytes(bytes(2**21 - 2**13))
    with pytest.raises(OSError, match=rf"film-.*{os.strerror(errno.ENOSPC)}"):
        predict_video(predictor, video, out)
    assert list(out.iterdir()) == []
