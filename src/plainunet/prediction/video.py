"""The masks of a video, frame after frame.

Written are `NAME-mask.mkv`, each class in its colour, coded without loss (FFV1), and
`NAME-overlay.mp4`, to look at. Limitations: both appear when all frames are done, so an interrupted
video begins again; sound is left out.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from itertools import chain
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from plainunet.files import write_whole
from plainunet.prediction.drawing import draw_overlay
from plainunet.prediction.predictor import Predictor
from plainunet.reporter import Reporter, silent


class CutOffError(ValueError):
    """A video ends before its file says so; the masks of the frames that came are written."""


def video_paths(video: Path, out: Path) -> tuple[Path, Path]:
    """Name the files of a video's masks and of the overlay."""
    return out / f"{video.stem}-mask.mkv", out / f"{video.stem}-overlay.mp4"


def predict_video(
    predictor: Predictor, video: Path, out: Path, reporter: Reporter = silent
) -> tuple[Path, Path]:
    """Predict each frame of a video, of any kind that OpenCV reads; the files that are written."""
    paths = video_paths(video, out)
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")  # what is wrong is reported here
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
        reporter.stage(f"frames of {video.name}", max(total, 1))
        with ExitStack() as opened:
            write_overlay, write_mask = (  # the masks are finished first: what fails leaves none
                opened.enter_context(_writing(path, codec, rate if rate > 0 else 25.0, size))
                for path, codec in zip(paths[::-1], ("mp4v", "FFV1"), strict=True)
            )
            for number, frame in enumerate(chain([first], frames), 1):
                mask = predictor.predict(frame)
                write_mask(colors[mask])
                write_overlay(draw_overlay(frame, mask, predictor.card.colors))
                if number > max(total, 1):  # more frames than the file says
                    reporter.stage(f"frames of {video.name}", number)
                reporter.advance(number)
    finally:
        source.release()
    if number < total - 1:  # where no number is stored, it is estimated, perhaps one too many
        raise CutOffError(
            f"{video}: ends after {number} of {total} frames, as where it is cut off or damaged; "
            "these have their masks. Take a whole copy of it, and --overwrite."
        )
    return paths


def _frames(source: cv2.VideoCapture) -> Iterator[NDArray[np.uint8]]:
    """The frames [H, W, 3] RGB."""
    while True:
        is_read, frame = source.read()
        if not is_read:
            return
        yield np.ascontiguousarray(np.asarray(frame, np.uint8)[..., ::-1])


@contextmanager
def _writing(
    path: Path, codec: str, rate: float, size: tuple[int, int]
) -> Iterator[Callable[[NDArray[np.uint8]], None]]:
    """Yield a function that writes a frame [H, W, 3] RGB to a video; it appears when all are."""
    count = 0
    with write_whole(path) as part:
        code = cv2.VideoWriter.fourcc(*codec)
        writer = cv2.VideoWriter(str(part), cv2.CAP_FFMPEG, code, rate, size)

        def write(frame: NDArray[np.uint8]) -> None:
            nonlocal count
            writer.write(np.ascontiguousarray(frame[..., ::-1]))
            count += 1

        try:
            if not writer.isOpened():
                raise ValueError(f"{path}: this build of OpenCV cannot write videos ({codec}).")
            yield write
        finally:
            writer.release()
        # OpenCV does not tell of a full disk, and what the file says of its length may be wrong
        written = cv2.VideoCapture(str(part))
        there = sum(1 for _ in iter(written.grab, False))
        written.release()
        if there != count:
            raise ValueError(f"{path}: only {there} of {count} frames could be written.")
