"""The masks of a video, frame after frame.

In: a video file. Out: `NAME-mask.mkv`, each class in its colour, coded without loss (FFV1); and
`NAME-overlay.mp4`, to look at. Limitations: both appear when all frames are done, so one that was
interrupted begins again; sound is left out.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from itertools import chain
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from plainunet.files import write_whole
from plainunet.prediction.predictor import Predictor
from plainunet.prediction.writers import draw_overlay


def video_paths(video: Path, out: Path) -> tuple[Path, Path]:
    """Name what is made of a video.

    Args:
        video: Its file.
        out: The folder for masks.

    Returns:
        The files of its masks and of the overlay.
    """
    return out / f"{video.stem}-mask.mkv", out / f"{video.stem}-overlay.mp4"


def predict_video(
    predictor: Predictor,
    video: Path,
    out: Path,
    on_progress: Callable[[int, int], None] | None = None,
) -> tuple[Path, Path]:
    """Predict each frame of a video.

    Args:
        predictor: The model.
        video: The file, of any kind that OpenCV reads.
        out: The folder for its masks.
        on_progress: Told how many of how many frames are done, as far as the file says.

    Returns:
        The files that were written.

    Raises:
        ValueError: It cannot be read, or this build of OpenCV cannot write videos.
        OSError: The disk is full.
    """
    paths = video_paths(video, out)
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")  # what is wrong is said here
    colors = np.array(predictor.card.colors, np.uint8)
    source = cv2.VideoCapture(str(video))
    try:
        rate, total = source.get(cv2.CAP_PROP_FPS), int(source.get(cv2.CAP_PROP_FRAME_COUNT))
        frames = _frames(source)
        first = next(frames, None)
        if first is None:
            raise ValueError(f"{video}: not a video that can be read, or one without frames.")
        size = first.shape[1], first.shape[0]
        out.mkdir(parents=True, exist_ok=True)
        with ExitStack() as opened:
            masks, overlays = (
                _open(opened, path, codec, rate if rate > 0 else 25.0, size)
                for path, codec in zip(paths, ("FFV1", "mp4v"), strict=True)
            )
            for number, frame in enumerate(chain([first], frames), 1):
                mask = predictor.predict(frame)
                masks.write(np.ascontiguousarray(colors[mask][..., ::-1]))
                shown = draw_overlay(frame, mask, predictor.card.colors)
                overlays.write(np.ascontiguousarray(shown[..., ::-1]))
                if on_progress:
                    on_progress(number, max(total, number))
    finally:
        source.release()
    return paths


def _frames(source: cv2.VideoCapture) -> Iterator[NDArray[np.uint8]]:
    """The frames [H, W, 3] RGB, as they are to be seen."""
    while True:
        is_read, frame = source.read()
        if not is_read:
            return
        yield np.ascontiguousarray(np.asarray(frame, np.uint8)[..., ::-1])


def _open(
    opened: ExitStack, path: Path, codec: str, rate: float, size: tuple[int, int]
) -> cv2.VideoWriter:
    """A video to be written, which appears when all is closed."""
    part = opened.enter_context(write_whole(path))
    code = cv2.VideoWriter.fourcc(*codec)
    writer = cv2.VideoWriter(str(part), cv2.CAP_FFMPEG, code, rate, size)
    opened.callback(writer.release)
    if not writer.isOpened():
        raise ValueError(f"{path}: this build of OpenCV cannot write videos ({codec}).")
    return writer
