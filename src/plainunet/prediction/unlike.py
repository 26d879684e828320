"""Pictures unlike those that a model was trained on: what to doubt, said as warnings."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from plainunet.data.windows import Windows
from plainunet.network.checkpoint import Card

FAR = 6
"""A picture is far from the training pictures when its area is so many times theirs, or less
than one so-many-th."""
_LOOK, _BRIGHTEST = 256, 2.0
"""Of floats, so many pixels along each side of the middle are looked at, for values above this."""
_CALLER = 7
"""Frames between a warning and who called the Predictor."""


class Doubts:
    """What a model's description lets one doubt of pictures."""

    def __init__(self, card: Card, channels: int) -> None:
        """Take a model.

        Args:
            card: Its description.
            channels: Of the pictures that it takes.
        """
        self._card, self._channels = card, channels
        self._said: set[str] = set()

    def say_of(self, picture: Windows) -> None:
        """Warn of a picture; of its kind only once.

        Args:
            picture: Its windows.
        """
        self._say_of_values(picture)
        self._say_of_area(picture.shape[:2])

    def _say_of_values(self, picture: Windows) -> None:
        """Grey pictures for a model of colours, and another kind of integers."""
        training = self._card.training
        known = training.get("dtypes", [picture.dtype.name])
        integers = picture.dtype.kind in "iu" and all(name.startswith("uint") for name in known)
        if integers and picture.dtype.name not in known:
            self._say_once(
                f"a picture of {picture.dtype.name} values, where the model was trained on "
                f"{' and '.join(known)}: each is divided by the largest value of its type, so it "
                "may look darker or brighter than those. Save it like them."
            )
        if picture.dtype.kind == "f" and all(name.startswith("uint") for name in known):
            height, width, _ = picture.shape
            top, left = max(0, height - _LOOK) // 2, max(0, width - _LOOK) // 2
            part = picture.read(top, left, min(_LOOK, height), min(_LOOK, width))
            brightest = part[np.isfinite(part)].max(initial=0)
            if brightest > _BRIGHTEST:
                self._say_once(
                    f"a picture of {picture.dtype.name} values up to {brightest:.4g}: "
                    "floats are taken as they are, and the model was trained on integers, which "
                    "become 0 to 1. Divide by the largest value that there can be, or save it as "
                    f"{known[0]}."
                )
        grey_is_known = training.get("grey", 0) > 0
        if picture.shape[2] == 1 and self._channels == 3 and not grey_is_known:
            self._say_once("a grey picture is shown as RGB to a model that takes colours.")

    def _say_once(self, said: str) -> None:
        if said not in self._said:
            self._said.add(said)
            warnings.warn(said, stacklevel=_CALLER)

    def _say_of_area(self, size: tuple[int, int]) -> None:
        """A picture much larger or smaller than any that the model was made for."""
        if self._card.size is None:
            return  # things have the same scale in it, however much of them it shows
        known = self._card.training.get("areas")
        area = size[0] * size[1]
        if known and not known[0] / FAR <= area <= known[1] * FAR:
            seen = " to ".join(dict.fromkeys(f"{end:,}" for end in known))
            warnings.warn(
                f"a picture of {size[0]} x {size[1]} pixels (height x width) is far from the "
                f"areas that the model was trained on ({seen} pixels); "
                "expect a poorer mask, and look at it.",
                stacklevel=_CALLER - 1,
            )


@contextmanager
def naming(file: Path) -> Iterator[None]:
    """Have warnings name the file that they are about, and come once.

    Args:
        file: The file.
    """
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        yield
    for message in dict.fromkeys(str(each.message) for each in said):
        warnings.warn(f"{file}: {message}", stacklevel=3)
