"""What a data folder holds, as settings: of flags, TOML files and a folder's dataset.toml."""

import re
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator


class FolderConfig(BaseModel):
    """Where a data folder has its pictures and masks."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    images: str | None = None
    """Folder of the pictures, below the data folder; left out, it is found."""
    masks: str | None = None
    """Folder of the masks, below the data folder, or a COCO file (.json) or a list of run-length
    codes (.csv); left out, it is found."""
    pairs: str | None = None
    """How pictures and masks belong together, where names do not say it: two patterns as in
    `images/*.jpg:masks/*_m.png`, or a CSV file with the columns image and mask."""
    rle: Literal["rows", "columns"] | None = None
    """How run-length codes count pixels: row by row, as in Kaggle's Carvana, or column by
    column, as in most other sets; left out, it is found."""
    skip_unlabelled: bool = False
    """Leave out pictures that have no mask, which are an error otherwise."""

    def folder_arguments(self) -> dict[str, Any]:
        """List where pictures and masks are.

        Returns:
            Keyword arguments of `plainunet.data.pairing.find_pairs`.
        """
        return self.model_dump(include=set(FolderConfig.model_fields))


class DataConfig(FolderConfig):
    """What a data folder holds; also what a dataset.toml in it may say."""

    group_by: str | None = None
    """Regular expression; pictures whose names agree in its first group stay on one side of
    the split."""
    classes: tuple[str, ...] = ()
    """Names of the classes in the order of their ids, background included; of flags also with
    commas between."""
    values: tuple[int, ...] = ()
    """For masks of other values than class ids: the value of each class, in the order of the
    class names."""
    colors: tuple[str, ...] = ()
    """For masks that name classes by colour: one for each class, as in ff0000, in the order of
    the class names."""
    ignore: int | None = Field(default=None, ge=0)
    """Mask value of pixels that do not count."""
    encoding: Literal["ids", "instances", "threshold"] | None = None
    """What mask values are: class ids; numbers of objects, all above 0 being class 1; or, of
    smoothed masks, class 1 from 128 on; left out, it is found."""

    @field_validator("ignore")
    @classmethod
    def _count_classes(cls, ignore: int | None, info: ValidationInfo) -> int | None:
        if ignore is not None and ignore in info.data.get("values", ()):
            raise ValueError("one of values is the same: a class whose pixels do not count")
        return ignore

    @field_validator("classes", "values", "colors", mode="before")
    @classmethod
    def _take_commas(cls, listed: Any) -> Any:
        listed = (listed,) if isinstance(listed, str) else listed
        if not isinstance(listed, list | tuple) or not all(isinstance(x, str) for x in listed):
            return listed
        return tuple(part.strip() for each in listed for part in each.split(","))

    @field_validator("values")
    @classmethod
    def _differ(cls, values: tuple[int, ...]) -> tuple[int, ...]:
        if len(set(values)) != len(values) or not all(0 <= value < 65536 for value in values):
            raise ValueError("each class needs a value of its own, from 0 to 65535")
        return values

    @field_validator("colors")
    @classmethod
    def _know_colors(cls, colors: tuple[str, ...]) -> tuple[str, ...]:
        colors = tuple(color.removeprefix("#").lower() for color in colors)
        wrong = [color for color in colors if not re.fullmatch("[0-9a-f]{6}", color)]
        if wrong:
            raise ValueError(f"{wrong[0]!r} is no colour; write six hexadecimal digits, as ff0000")
        if len(set(colors)) != len(colors):
            raise ValueError("each class needs a colour of its own")
        return colors

    def mask_arguments(self) -> dict[str, Any]:
        """List what is known of the masks.

        Returns:
            Keyword arguments of `plainunet.data.meaning.understand_masks`.
        """
        known = {"num_classes": len(self.classes) or None, "ignore": self.ignore}
        read = {"colors": self.legend, "values": self.values, "encoding": self.encoding}
        return {**known, **read}

    @property
    def legend(self) -> tuple[tuple[int, int, int], ...]:
        """The colors as RGB, 0..255."""
        return tuple((c[0], c[1], c[2]) for c in map(bytes.fromhex, self.colors))
