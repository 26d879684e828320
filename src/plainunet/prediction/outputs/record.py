"""What the masks in a folder are: a file beside them, and whether they are of this model.

`prediction.json` says which number is which class, in what colour, and recognises the model; each
mask says from which picture and by which model it was made, so that a second run that leaves masks
as they are takes none for what it is not.
"""

import json
from pathlib import Path

from plainunet.data.places import files_of
from plainunet.files import write_json
from plainunet.prediction.predictor import Predictor
from plainunet.prediction.writers import read_key

RECORD = "prediction.json"


def require_same(out: Path, digest: str) -> None:
    """Refuse a folder in which another model has left its masks.

    Args:
        out: The folder of the masks.
        digest: The model's.

    Raises:
        ValueError: Its record is of another model, or of other settings.
    """
    if (out / RECORD).exists() and _known(out / RECORD) != digest:
        raise ValueError(
            f"{out}: holds masks that were not made by this model with these settings. Choose "
            "another output folder, or give --overwrite."
        )


def mask_key(digest: str, image: Path) -> str:
    """Say what a mask is made from.

    Args:
        digest: The model's.
        image: The picture.

    Returns:
        The model's digest, and the size of the picture's files [bytes].
    """
    sizes = [file.stat().st_size for file in files_of(image) if file.is_file()]
    return f"{digest} {sum(sizes)}" if sizes else digest


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


def write_record(out: Path, predictor: Predictor) -> None:
    """Write the record.

    Args:
        out: The folder of the masks.
        predictor: The model.
    """
    card = predictor.card
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
            "digest": predictor.digest(),
        },
    )


def _known(path: Path) -> str | None:
    """The digest in a record."""
    try:
        said = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return said.get("digest") if isinstance(said, dict) else None
