"""All that a command names, predicted: pictures first, then videos."""

import warnings
from collections.abc import Callable, Sequence
from functools import cache, partial
from pathlib import Path

from plainunet.prediction.batch import Predicted, predict_files
from plainunet.prediction.inputs import Inputs
from plainunet.prediction.names import refuse_pictures
from plainunet.prediction.options import Output
from plainunet.prediction.outputs.record import note_video, video_size, write_record
from plainunet.prediction.predictor import Predictor
from plainunet.prediction.shortage import as_failure
from plainunet.prediction.unlike import naming
from plainunet.prediction.video import CutOffError, predict_video, video_paths


def predict_inputs(
    predictor: Predictor,
    inputs: Inputs,
    out: Path,
    on_progress: Callable[[str, int, int], None],
    *,
    save: Sequence[Output] = (),
    overwrite: bool = False,
) -> Predicted:
    """Predict pictures and videos; one that fails does not stop the others.

    Args:
        predictor: The model.
        inputs: What there is to predict.
        out: The folder for the masks.
        on_progress: Told what is gone through, and how much of how much is done.
        save: What is written beside the masks of pictures.
        overwrite: Whether masks that are there already are made again.

    Returns:
        What became of them.

    Raises:
        ValueError: As by `predict_files`.
    """
    made = [path for video in inputs.videos for path in video_paths(video, out)]
    refuse_pictures(inputs.videos, made, "videos")
    result = predict_files(
        predictor,
        inputs.pictures,
        out,
        lambda done, total: on_progress("predicting", done, total),
        save=save,
        overwrite=overwrite,
        on_rows=lambda file, done, total: on_progress(f"rows of {file.name}", done, total),
    )
    if inputs.videos and save:
        warnings.warn("of videos, masks and overlay are written, and nothing else.", stacklevel=2)
    record = cache(lambda: write_record(out, predictor))
    named: dict[Path, Path] = {}
    for video in inputs.videos:
        paths = video_paths(video, out)
        if named.setdefault(paths[0], video) != video:
            result.failures.append(
                f"{video}: has the name of {named[paths[0]]}; give it another output folder."
            )
            continue
        try:
            size = video.stat().st_size
            if not overwrite and _is_done(video, size, out):
                result.skipped.append(paths[0])
                continue
            record()
            said = partial(on_progress, f"frames of {video.name}")
            try:
                with naming(video), as_failure(video):
                    predict_video(predictor, video, out, said)
            except CutOffError as error:
                result.failures.append(str(error))
            note_video(out, paths[0].name, size)
            result.written.append(paths[0])
        except (ValueError, OSError) as error:
            result.failures.append(str(error))
    return result


def _is_done(video: Path, size: int, out: Path) -> bool:
    """Whether all that is made of a video is there; refuse what was made from another one."""
    paths = video_paths(video, out)
    there = [path for path in paths if path.is_file()]
    if there and video_size(out, paths[0].name) != size:
        raise ValueError(
            f"{there[0]}: is there already, and was not made from {video} by this model. Give "
            "--overwrite to make it again, or choose another output folder."
        )
    return len(there) == len(paths)
