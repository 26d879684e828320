"""How pictures are predicted: what serves the flags of `predict`, loaded without PyTorch."""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

Output = Literal[
    "mask",
    "values",
    "overlay",
    "probabilities",
    "probabilities-16",
    "probabilities-float",
    "contours",
    "instances",
    "areas",
    "coco",
    "rle-rows",
    "rle-columns",
]


class CardOptions(BaseModel):
    """What holds instead of what the checkpoint says."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    threshold: float | None = Field(default=None, ge=0, le=1)
    """Of two classes: probability of the second from which a pixel belongs to it."""
    tta: Literal["none", "mirror", "flips", "turns"] | None = None
    """Test-time augmentation: pictures are also seen mirrored left to right (mirror), top to
    bottom as well (flips), by quarter turns as well (turns), and probabilities are averaged."""
    scales: tuple[Annotated[float, Field(gt=0, le=4)], ...] | None = Field(
        default=None, min_length=1
    )
    """Pictures are seen so many times as large, and probabilities are averaged: 0.75 1 1.25."""
    min_object: int | None = Field(default=None, ge=0)
    """Objects of fewer pixels are given to what surrounds them."""
    fill_holes: int | None = Field(default=None, ge=0)
    """Holes of up to so many pixels are filled."""

    def instead(self) -> dict[str, Any]:
        """List what was given.

        Returns:
            Fields of `Card`, as keyword arguments of `Predictor.load`.
        """
        return self.model_dump(include=set(CardOptions.model_fields), exclude_none=True)


class PredictOptions(CardOptions):
    """The same, what is written, and by which other checkpoints."""

    save: tuple[Output, ...] = ()
    """What is written beside the masks: values (masks as those of training were), overlay,
    probabilities (8-bit PNG; -16: TIFF of 16 bits, -float: of floats), contours (GeoJSON),
    instances (numbered objects, and their list), areas (CSV), coco (JSON), rle-rows and
    rle-columns (CSV of run-length codes, as Kaggle's Carvana and most other sets count)."""
    others: tuple[Path, ...] = ()
    """More checkpoints, whose probabilities are averaged with those of the first."""
    refine: Path | None = None
    """A checkpoint of a run with --refine-of, which looks again, at full size, where the first
    is unsure."""
