"""The record of a folder of masks, which tells masks of this model from others.

`prediction.json` holds the id, name and colour of each class, the digest of the model, and the
outputs that were written. Each mask stores which model and image it was made from. So a re-run
never mistakes another model's mask, or a file of the user, for its own.
"""

import json
import zlib
from collections.abc import Iterable, Mapping
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
    _require_record(out)
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


def _require_record(out: Path) -> None:
    """Refuse a file of the record's name that is none."""
    if (out / RECORD).exists() and "digest" not in _read(out / RECORD):
        raise foreign(out / RECORD)


def holds_masks(folder: Path, top: Path) -> bool:
    """Whether `folder` lies in the output of a prediction below `top`."""
    return any(
        (each / RECORD).is_file() for each in (folder, *folder.parents) if top in each.parents
    )


def require_made(
    out: Path, files: Iterable[Path], outputs: Mapping[str, Iterable[Path]] | None = None
) -> None:
    """Refuse files that exist, but that predict did not write.

    These are `files` in a folder without a record, and of `outputs` those that the record does not
    name: their lists, and any file in their folders, so that all files there are predict's later.
    """
    _require_record(out)
    # looked for before the record is read, which a process that starts now writes before any output
    inside = {name: _first_file(places) for name, places in (outputs or {}).items()}
    if not (out / RECORD).exists():
        for file in files:
            if file.exists():
                raise foreign(file)
    named = written_outputs(out)
    for name, found in inside.items():
        if found and named is not None and name not in named:
            raise foreign(found)


def _first_file(places: Iterable[Path]) -> Path | None:
    """A file among files and below folders, if any; what a system hides in a folder is none."""
    paths = (path for place in places for path in (place, *place.rglob("[!.]*")))
    return next((path for path in paths if path.is_file()), None)


def foreign(file: Path) -> Error:
    """The error for a file that predict did not write, and so must not replace."""
    return Error(f"{file}: exists, but was not written by predict. Choose another output folder.")


def written_outputs(out: Path) -> list[str] | None:
    """The outputs that runs wrote into a folder; None if its record, as earlier ones, has none."""
    if not (out / RECORD).exists():
        return []
    named = _read(out / RECORD).get("outputs")
    return [str(each) for each in named] if isinstance(named, list) else None


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
        raise foreign(mask)
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


def write_record(
    out: Path,
    predictor: Predictor,
    min_area: int | None = None,
    outputs: Iterable[str] | None = None,
) -> None:
    """Write the record; its videos are kept if they are of the same model.

    `min_area` is that of polygons, see `write_polygons`; None if none are written. `outputs` are
    added to those of earlier runs; if either are unknown (None), so are all.
    """
    card, digest = predictor.card, predictor.digest()
    before, named = _read(out / RECORD), written_outputs(out)
    named = None if named is None or outputs is None else [*named, *outputs]
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
            **({} if named is None else {"outputs": [*dict.fromkeys(named)]}),
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
