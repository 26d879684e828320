"""Rows of Parquet files instead of mask files: class areas, run-length codes and a score."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask  # type: ignore[import-untyped]

from plainunet.files import write_whole
from plainunet.formats.colors import IGNORED
from plainunet.network.card import Card
from plainunet.prediction.exported import need
from plainunet.prediction.geo import Georeference
from plainunet.prediction.outputs import Entries, Outputs

FOLDER = "rows"
"""Folder of the Parquet files in the output folder."""
_ROW = "row"


class RowOutputs(Outputs):
    """Makes a row of each mask and writes nothing, but for large images, see `large_entries`."""

    def __init__(self, folder: Path, card: Card) -> None:
        """Set the output folder, where masks of large images go."""
        super().__init__(folder, (), card)
        self.has_probabilities = True  # for the score

    def files(self, mask: Path) -> list[Path]:
        """No files."""
        return []

    def quantise(self, band: NDArray[np.float32]) -> dict[str, NDArray[Any]]:
        """Reduce probabilities [K, n, W] to that of the most probable class [1, n, W]."""
        return {_ROW: band.max(axis=0, keepdims=True)}

    def write(
        self,
        mask_file: Path,
        name: str,
        image: NDArray[Any] | None,
        mask: NDArray[np.uint8],
        probabilities: dict[str, NDArray[Any]],
        geo: Georeference | None,
        key: str = "",
    ) -> Entries:
        """Make the row; parameters as those of `Outputs.write`."""
        known = probabilities[_ROW][0][mask != IGNORED]
        codes = [
            coco_mask.encode(np.asfortranarray(mask == class_id))["counts"].decode("ascii")
            for class_id in range(1, self.num_classes)
        ]
        areas = np.bincount(mask.ravel(), minlength=256)[: self.num_classes]
        score = float(known.mean()) if known.size else None
        row = {"height": mask.shape[0], "width": mask.shape[1], "rle": codes, "score": score}
        return Entries({_ROW: [[{**row, "areas": areas.tolist()}]]}, None)

    def large_entries(self, name: str, counts: NDArray[np.int64] | None) -> Entries:
        """Make the row of an image of more than 100 megapixels, whose mask is a file: its areas."""
        return Entries({_ROW: [[{"areas": None if counts is None else counts.tolist()}]]}, None)

    def finish(self, entries: Sequence[Entries]) -> None:
        """Write nothing."""


def write_rows(
    path: Path,
    inputs: Mapping[str, str],
    entries: Mapping[str, Entries],
    errors: Mapping[str, str],
    card: Card,
    digest: str,
) -> None:
    """Write a Parquet file with a row for each input, failed ones included.

    Args:
        path: The file.
        inputs: Paths by id.
        entries: By id, as by `RowOutputs`.
        errors: Messages by id.
        card: The model's, for the names of classes in the metadata.
        digest: The model's, for `count_rows`.
    """
    pyarrow, parquet = need("pyarrow"), need("pyarrow.parquet")
    schema = pyarrow.schema(
        [
            ("id", pyarrow.string()),
            ("path", pyarrow.string()),
            ("height", pyarrow.int32()),
            ("width", pyarrow.int32()),
            ("areas", pyarrow.list_(pyarrow.int64())),
            ("rle", pyarrow.list_(pyarrow.string())),
            ("score", pyarrow.float32()),
            ("error", pyarrow.string()),
        ],
        metadata={"classes": "\n".join(card.class_names), "model": digest},
    )
    rows = [
        {"id": _as_utf8(name), "path": _as_utf8(source), "error": _as_utf8(errors.get(name))}
        | (entries[name].rows[_ROW][0][0] if name in entries else {})
        for name, source in inputs.items()
    ]
    with write_whole(path) as part:
        parquet.write_table(pyarrow.Table.from_pylist(rows, schema), part, compression="zstd")


def _as_utf8(text: str | None) -> str | None:
    """The text, with an escape for each byte of a file's name that is not UTF-8."""
    return text and text.encode(errors="surrogateescape").decode(errors="backslashreplace")


def count_rows(path: Path, digest: str) -> int | None:
    """Number of rows of a Parquet file.

    None if it is missing, damaged, of a model with another digest, or has errors in it.
    """
    pyarrow, parquet = need("pyarrow"), need("pyarrow.parquet")
    try:
        table = parquet.read_table(path, columns=["error"])
    except (OSError, pyarrow.ArrowException):
        return None
    if (table.schema.metadata or {}).get(b"model") != digest.encode():
        return None
    errors = table.column("error")
    return len(errors) if errors.null_count == len(errors) else None
