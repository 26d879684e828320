"""Prediction of videos, frame by frame.

The outputs are `NAME-mask.mkv`, each class in its colour, lossless (FFV1), and `NAME-overlay.mp4`
for viewing. Limitations: both files appear when all frames are done, so an interrupted video starts
again; audio is dropped.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from itertools import chain
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from plainunet.errors import Error
from plainunet.files import write_whole
from plainunet.prediction.drawing import draw_overlay
from plainunet.prediction.predictor import Predictor
from plainunet.prediction.record import video_size
from plainunet.reporter import Reporter, silent


class CutOffError(Error):
    """A video has fewer frames than its header states; the masks of these are written."""

    code = "cut-off"


def video_paths(video: Path, out: Path) -> tuple[Path, Path]:
    """Paths of a video's masks and overlay."""
    return out / f"{video.stem}-mask.mkv", out / f"{video.stem}-overlay.mp4"


def is_done(video: Path, size: int, out: Path) -> bool:
    """Whether all outputs of a video exist; refuse outputs of another video."""
    paths = video_paths(video, out)
    there = [path for path in paths if path.is_file()]
    if there and video_size(out, paths[0].name) != size:
        raise Error(
            f"{there[0]}: exists, but was not made from {video} by this model. Pass --overwrite to "
            "replace it, or choose another output folder."
        )
    return len(there) == len(paths)


def predict_video(
    predictor: Predictor, video: Path, out: Path, reporter: Reporter = silent
) -> tuple[Path, Path]:
    """Predict each frame of a video in any format that OpenCV reads; returns `video_paths`."""
    paths = video_paths(video, out)
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")  # errors are reported here
    colors = np.array(predictor.card.colors, np.uint8)
    source = cv2.VideoCapture(str(video))
    try:
        rate, total = source.get(cv2.CAP_PROP_FPS), int(source.get(cv2.CAP_PROP_FRAME_COUNT))
        frames = _frames(source)
        first = next(frames, None)
        if first is None:
            raise Error(f"{video}: cannot be read as a video, or has no frames.")
        size = first.shape[1], first.shape[0]
        out.mkdir(parents=True, exist_ok=True)
        reporter.stage(f"frames of {video.name}", max(total, 1))
        with ExitStack() as opened:
            write_overlay, write_mask = (  # masks are closed first: if that fails, neither is left
                opened.enter_context(_writing(path, codec, rate if rate > 0 else 25.0, size))
                for path, codec in zip(paths[::-1], ("mp4v", "FFV1"), strict=True)
            )
            for number, frame in enumerate(chain([first], frames), 1):
                seen = frame
                if predictor.in_channels == 1:  # OpenCV decodes grey films as RGB
                    seen = np.asarray(cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY), np.uint8)[..., None]
                mask = predictor.predict(seen)
                write_mask(colors[mask])
                write_overlay(draw_overlay(frame, mask, predictor.card.colors))
                if number > max(total, 1):  # more frames than the header states
                    reporter.stage(f"frames of {video.name}", number)
                reporter.advance(number)
    finally:
        source.release()
    if number < total - 1:  # without a stored count, OpenCV's estimate may be one too high
        raise CutOffError(
            f"{video}: ends after {number} of {total} frames, so it is truncated or damaged. The "
            "masks of these frames are written. Run again with a complete copy and --overwrite."
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
    """Yield a function that writes a frame [H, W, 3] RGB; the video appears at the end."""
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
                raise Error(f"{path}: this build of OpenCV cannot write videos ({codec}).")
            yield write
        finally:
            writer.release()
        # OpenCV does not report a full disk, and the frame count in the header may be wrong
        written = cv2.VideoCapture(str(part))
        there = sum(1 for _ in iter(written.grab, False))
        written.release()
        if there != count:
            raise Error(f"{path}: only {there} of {count} frames could be written.")
