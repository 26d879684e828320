"""How a model is judged: what serves the flags of `evaluate`, loaded without PyTorch."""

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict


class EvaluateOptions(BaseModel):
    """What is judged of a folder, and how."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    split: Literal["train", "val", "test", "all"] | None = None
    """Take this part."""
    refine: Path | None = None
    """A checkpoint of a run with --refine-of, as of predict."""
    objects: bool = False
    """Also count objects, as connected regions; it is done anyway where masks number them."""
    tune: bool = False
    """First find the threshold, the test-time augmentation and the least size of objects that
    score best on the validation part, and write them into the checkpoint."""
