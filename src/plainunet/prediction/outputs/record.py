"""What the masks in a folder are: a file beside them, and whether they are of this model.

`prediction.json` says which number is which class, in what colour, and recognises the model, so
that a second run that leaves masks as they are never mixes those of two models.
"""

import json
from collections.abc import Sequence
from pathlib import Path

from plainunet.files import write_json
from plainunet.prediction.predictor import Predictor

RECORD = "prediction.json"


def require_same(out: Path, predictor: Predictor, kept: Sequence[Path]) -> None:
    """Refuse to leave masks of another model where they are.

    Args:
        out: The folder of the masks.
        predictor: The model.
        kept: Masks that are there and shall be left.

    Raises:
        ValueError: They were made by another model, or with other settings, or nobody knows.
    """
    if kept and _known(out / RECORD) != predictor.digest():
        raise ValueError(
            f"{kept[0]}: is there already, and was not made by this model with these settings. "
            "Give --overwrite to make it again, or choose another output folder."
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
