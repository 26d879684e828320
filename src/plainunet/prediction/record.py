"""The record of a folder of masks, which tells masks of this model from others.

`prediction.json` holds the id, name and colour of each class and the digest of the model. Each
mask stores which model and image it was made from, so a re-run never mistakes another model's mask
for its own.
"""

import json
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from plainunet.errors import Error
from plainunet.files import write_json
from plainunet.formats.sources import ImageSource, files_of
from plainunet.prediction.drawing import read_key
from plainunet.prediction.predictor import Predictor

RECORD = "prediction.json"
_PIECE = 2**14  # bytes


def require_same(out: Path, digest: str, min_area: int | None = None) -> None:
    """Refuse a folder whose record is of another model or settings; see also `write_record`."""
    record = _read(out / RECORD)
    if (out / RECORD).exists() and record.get("digest") != digest:
        raise Error(
            f"{out}: contains masks of another model or of other settings. Choose another output "
            "folder, or pass --overwrite."
        )
    before = record.get("min_area", min_area)
    if min_area not in (None, before) and any((out / "gpkg").rglob("*.gpkg")):
        raise Error(
            f"{out / 'gpkg'}: contains polygons of --min-area {before}, not {min_area}. Choose "
            "another output folder, or pass --overwrite."
        )


def holds_masks(folder: Path, top: Path) -> bool:
    """Whether `folder` lies in the output of a prediction below `top`."""
    return any(
        (each / RECORD).is_file() for each in (folder, *folder.parents) if top in each.parents
    )


def require_made(out: Path, files: Iterable[Path]) -> None:
    """Refuse files that exist in a folder without a record: predict did not write them."""
    if (out / RECORD).exists():
        return
    for file in files:
        if file.exists():
            raise _foreign(file)


def _foreign(file: Path) -> Error:
    return Error(f"{file}: exists, but was not written by predict. Choose another output folder.")


def mask_key(digest: str, image: ImageSource) -> str:
    """Identify the source of a mask: the model's digest, and size and checksum of the image.

    The size [bytes] alone is not enough, because uncompressed images are all of one size. The
    checksum is that of a piece from the middle of each file. Without files, only the digest.
    """
    total, pieces = 0, 0
    try:
        files = [file for file in files_of(image) if file.is_file()]
        for path in files:
            with path.open("rb") as file:
                size = file.seek(0, 2)
                file.seek(max(0, size // 2 - _PIECE // 2))
                total, pieces = total + size, zlib.crc32(file.read(_PIECE), pieces)
    except OSError:  # reading the image reports the error, and only that image fails
        return digest
    return f"{digest} {total} {pieces:08x}" if files else digest


def require_own(mask: Path, key: str, overwrite: bool = False) -> None:
    """Refuse a mask without a key, and unless it may be overwritten one with another key.

    The key of a missing image is only the digest.
    """
    known = read_key(mask)
    if not known:
        raise _foreign(mask)
    if not overwrite and key not in (known, known.partition(" ")[0]):
        raise Error(
            f"{mask}: exists, but was made from another image, by another model or with other "
            "settings. Pass --overwrite to replace it, or choose another output folder."
        )


def video_size(out: Path, name: str) -> int | None:
    """Size of the video that a mask file was made from [bytes]; None if unknown."""
    size = _read(out / RECORD).get("videos", {}).get(name)
    return size if isinstance(size, int) else None


def note_video(out: Path, name: str, size: int) -> None:
    """Add to the record the size of the video that a mask file was made from [bytes]."""
    record = _read(out / RECORD)
    write_json(out / RECORD, {**record, "videos": {**record.get("videos", {}), name: size}})


def write_record(out: Path, predictor: Predictor, min_area: int | None = None) -> None:
    """Write the record; its videos are kept if they are of the same model.

    `min_area` is that of polygons, see `write_polygons`; None if none are written.
    """
    card, digest = predictor.card, predictor.digest()
    before = _read(out / RECORD)
    before = before if before.get("digest") == digest else {}
    videos = before.get("videos")
    min_area = before.get("min_area") if min_area is None else min_area
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
            "backend": predictor.backend,
            **({} if min_area is None else {"min_area": min_area}),
            **({"videos": videos} if videos else {}),
        },
    )


def _read(path: Path) -> dict[str, Any]:
    """The content of a record; empty if there is none or it is damaged."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
