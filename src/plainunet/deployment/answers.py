"""The mask of an image -> the body of an answer, in the format that the client asks for."""

import json
from io import BytesIO
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import cv2
import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask  # type: ignore[import-untyped]

from plainunet.deployment.batching import Predicted
from plainunet.deployment.uploads import Decoded, RefusedError
from plainunet.formats.colors import IGNORED
from plainunet.network.card import Card
from plainunet.prediction.drawing import draw_overlay, encode_mask, encode_png, write_tiff_mask
from plainunet.prediction.geo import draw_contours
from plainunet.prediction.objects import find_objects
from plainunet.prediction.outputs import (
    Labelled,
    coco_file,
    coco_image,
    encode_jpeg,
    write_tiff_values,
)
from plainunet.prediction.record import mask_key

OutputName = Literal[
    "mask",
    "overlay",
    "tiff",
    "contours",
    "rle",
    "coco",
    "probabilities",
    "probabilities-16",
    "probabilities-float",
]
_PNG, _JPEG, _TIFF, _JSON = "image/png", "image/jpeg", "image/tiff", "application/json"
_GEOJSON = "application/geo+json"
DEFAULTS: dict[str, OutputName] = {
    _PNG: "mask",
    _JPEG: "overlay",
    _TIFF: "tiff",
    _JSON: "rle",
    _GEOJSON: "contours",
}
"""The output of each media type of an `Accept` header; the first is that of any type."""
MOST_OBJECTS = 20_000
"""Largest number of objects in `contours` and `coco`."""
_OF_WHOLE = ("overlay", "contours", "coco")
"""Outputs that need the whole image in memory."""


class Answer(NamedTuple):
    """The body of an answer."""

    content: bytes
    media_type: str


def choose_output(output: str | None, accept: str) -> OutputName:
    """Choose the output: the given one, else by an `Accept` header.

    Raises:
        RefusedError: It is unknown, or none is acceptable.
    """
    if output is not None:
        for name in get_args(OutputName):
            if output == name:
                return name  # type: ignore[no-any-return]
        raise RefusedError(
            422, "unknown-output", f"output: choose one of {', '.join(get_args(OutputName))}."
        )
    for pattern in _by_preference(accept or "*/*"):
        for media_type, name in DEFAULTS.items():
            if pattern in ("*/*", media_type, f"{media_type.partition('/')[0]}/*"):
                return name
    raise RefusedError(
        406, "not-acceptable", f"Accept: choose one of {', '.join(DEFAULTS)}, or pass ?output=."
    )


def _by_preference(accept: str) -> list[str]:
    """The media types of an `Accept` header, the preferred ones first."""
    wanted = []
    for part in accept.lower().split(","):
        media_type, *parameters = (piece.strip() for piece in part.split(";"))
        quality = next((each[2:] for each in parameters if each.startswith("q=")), "1")
        try:
            wanted.append((-float(quality), media_type))
        except ValueError:
            wanted.append((-1.0, media_type))
    return [media_type for quality, media_type in sorted(wanted, key=lambda x: x[0]) if quality < 0]


def probabilities_of(output: OutputName) -> str:
    """The kind of probabilities that an output needs, as in `Outputs.quantise`, or ""."""
    return output if output.startswith("probabilities") else ""


def weight(output: OutputName, card: Card) -> float:
    """Memory that an output takes for each pixel of an image, in pixels of 4 bytes."""
    classes = len(card.class_names)
    planes = 1 if classes == 2 else classes
    size = {"probabilities": 0.25, "probabilities-16": 0.5, "probabilities-float": 1.0}
    return 1 + planes * size.get(output, 0)


def encode(
    output: OutputName, name: str, decoded: Decoded, predicted: Predicted, folder: Path
) -> Answer:
    """Encode a prediction.

    Args:
        output: The format.
        name: The image's name in lists.
        decoded: The image.
        predicted: Its prediction.
        folder: A folder for temporary files.

    Raises:
        RefusedError: The image is too large for the format, or has too many objects.
    """
    card, mask = predicted.model.predictor.card, predicted.mask
    if decoded.whole is None and output in _OF_WHOLE:
        raise RefusedError(
            413, "too-large", f"The image is too large for {output}. Ask for mask, tiff or rle."
        )
    tags = decoded.geo.tags if decoded.geo else []
    if output in ("mask", "tiff"):
        key = mask_key(predicted.model.digest, decoded.source)
        if output == "mask":
            return Answer(encode_mask(mask, card.colors, key), _PNG)
        path = folder / "mask.tif"
        write_tiff_mask(path, mask, card.colors, tags, key)
        return Answer(path.read_bytes(), _TIFF)
    if output == "overlay":
        assert decoded.image is not None
        return Answer(encode_jpeg(draw_overlay(decoded.image, mask, card.colors)), _JPEG)
    if predicted.probabilities is not None:
        return _encode_probabilities(predicted.probabilities, tags)
    if output == "rle":
        content = {"model": predicted.model.digest, **run_lengths(mask, card)}
        return Answer(as_json(content), _JSON)
    require_few_objects(mask, len(card.class_names), output)
    labels, objects = find_objects(mask)
    if output == "contours":
        content = draw_contours(labels, objects, card.class_names, decoded.geo)
        return Answer(as_json(content), _GEOJSON)
    image = coco_image(Labelled(name, Path(name).stem, mask, labels, objects))
    return Answer(as_json(coco_file([image], card)), _JSON)


def require_few_objects(mask: NDArray[np.uint8], classes: int, output: str) -> None:
    """Refuse a mask of noise, whose objects would take minutes to write.

    Raises:
        RefusedError: It has more than `MOST_OBJECTS`.
    """
    count = 0
    for class_id in range(1, classes):
        count += cv2.connectedComponents((mask == class_id).astype(np.uint8))[0] - 1
    if count > MOST_OBJECTS:
        raise RefusedError(
            422,
            "too-many-objects",
            f"The mask has {count:,} objects; {output} has at most {MOST_OBJECTS:,}. Ask for mask "
            "or rle.",
        )


def as_json(content: Any) -> bytes:
    """Write JSON."""
    return json.dumps(content).encode()


def _encode_probabilities(probabilities: NDArray[Any], tags: Any) -> Answer:
    """Of two classes only the second is given, as PNG if it is 8-bit; else a TIFF of [K, H, W]."""
    values = probabilities[0] if len(probabilities) == 1 else probabilities
    if values.ndim == 2 and values.dtype == np.uint8:
        return Answer(encode_png(values), _PNG)
    file = BytesIO()
    write_tiff_values(file, values, tags)
    return Answer(file.getvalue(), _TIFF)


def run_lengths(mask: NDArray[np.uint8], card: Card) -> dict[str, Any]:
    """A mask as COCO's compressed run-length codes, one for each class but background.

    `pixels` and `share` are those of each class; pixels missing from the image have the id 255.
    """
    counts = np.bincount(mask.ravel(), minlength=256)
    names = dict(enumerate(card.class_names))
    if counts[IGNORED]:
        names[IGNORED] = "missing"
    classes = []
    for class_id, name in names.items():
        about = {"id": class_id, "name": name, "pixels": int(counts[class_id])}
        about["share"] = float(counts[class_id] / mask.size)
        if class_id:
            code = coco_mask.encode(np.asfortranarray(mask == class_id, np.uint8))
            about["rle"] = {"size": list(mask.shape), "counts": code["counts"].decode()}
        classes.append(about)
    return {"size": list(mask.shape), "classes": classes}
