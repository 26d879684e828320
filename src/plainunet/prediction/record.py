"""What the masks in a folder are: a file beside them, and whether they are of this model.

`prediction.json` says which number is which class, in what colour, and recognises the model; each
mask says from which picture and by which model it was made, so that a second run that leaves masks
as they are takes none for what it is not.
"""

import json
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from plainunet.files import write_json
from plainunet.formats.sources import ImageSource, files_of
from plainunet.prediction.drawing import read_key
from plainunet.prediction.predictor import Predictor

RECORD = "prediction.json"
_PIECE = 2**14  # bytes


def require_same(out: Path, digest: str) -> None:
    """Refuse a folder in which another model has left its masks.

    Args:
        out: The folder of the masks.
        digest: The model's.

    Raises:
        ValueError: Its record is of another model, or of other settings.
    """
    if (out / RECORD).exists() and _read(out / RECORD).get("digest") != digest:
        raise ValueError(
            f"{out}: holds masks that were not made by this model with these settings. Choose "
            "another output folder, or give --overwrite."
        )


def require_no_lists(out: Path, lists: Iterable[str]) -> None:
    """Refuse a folder whose lists are not of a prediction, and would be replaced.

    Args:
        out: The folder of the masks.
        lists: Names of the files that list all pictures.

    Raises:
        ValueError: There is one of them, and no record.
    """
    for name in lists:
        if (out / name).exists() and not (out / RECORD).exists():
            raise ValueError(
                f"{out / name}: is there already, and was not made by predicting. Choose another "
                "output folder, or give --overwrite."
            )


def mask_key(digest: str, image: ImageSource) -> str:
    """Say what a mask is made from.

    Args:
        digest: The model's.
        image: The picture.

    Returns:
        The model's digest, the size of the picture's files [bytes], and a checksum of a piece
        from the middle of each: pictures without compression are all of one size.
    """
    files = [file for file in files_of(image) if file.is_file()]
    total, pieces = 0, 0
    for path in files:
        with path.open("rb") as file:
            size = file.seek(0, 2)
            file.seek(max(0, size // 2 - _PIECE // 2))
            total, pieces = total + size, zlib.crc32(file.read(_PIECE), pieces)
    return f"{digest} {total} {pieces:08x}" if files else digest


def require_own(mask: Path, key: str) -> None:
    """Refuse to take a mask for one that was made from a picture by a model.

    Args:
        mask: The file.
        key: As by `mask_key`; of a picture that is not there any more, the model's part.

    Raises:
        ValueError: It was made from another one, or nobody knows.
    """
    known = read_key(mask)
    if key not in (known, known.partition(" ")[0]):
        raise ValueError(
            f"{mask}: is there already, and was not made from this picture by this model with "
            "these settings. Give --overwrite to make it again, or choose another output folder."
        )


def video_size(out: Path, name: str) -> int | None:
    """Recall from how large a file the masks of a video were made.

    Args:
        out: The folder of the masks.
        name: The file of the masks.

    Returns:
        Its size [bytes]; None where the record does not know it.
    """
    size = _read(out / RECORD).get("videos", {}).get(name)
    return size if isinstance(size, int) else None


def note_video(out: Path, name: str, size: int) -> None:
    """Write down, in a record that is there, from what the masks of a video were made.

    Args:
        out: The folder of the masks.
        name: The file of the masks.
        size: That of the video [bytes].
    """
    said = _read(out / RECORD)
    write_json(out / RECORD, {**said, "videos": {**said.get("videos", {}), name: size}})


def write_record(out: Path, predictor: Predictor) -> None:
    """Write the record; what it says of videos is kept, if they are of the same model.

    Args:
        out: The folder of the masks.
        predictor: The model.
    """
    card, digest = predictor.card, predictor.digest()
    before = _read(out / RECORD)
    videos = before.get("videos") if before.get("digest") == digest else None
    write_json(
        out / RECORD,
        {
            "classes": [
                {"id": number, "name": name, "color": list(color)}
                for number, (name, color) in enumerate(
                    zip(card.class_names, card.colors, strict=True)
                )
            ],
            "threshold": card.threshold if len(card.class_names) == 2 else None,
            "tta": card.tta,
            "scales": list(card.scales),
            "min_object": card.min_object,
            "fill_holes": card.fill_holes,
            "digest": digest,
            **({"videos": videos} if videos else {}),
        },
    )


def _read(path: Path) -> dict[str, Any]:
    """What a record says; nothing where there is none, or it is damaged."""
    try:
        said = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return said if isinstance(said, dict) else {}
