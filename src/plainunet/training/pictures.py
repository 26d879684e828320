"""The last validation pictures as files: what the network makes of a few that are held out."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from plainunet.data.dataset import Samples
from plainunet.prediction.writers import Colors, draw_comparison, write_rgb
from plainunet.training.distributed import Processes

VALIDATION_FOLDER = "validation"
"""Where they lie in the run folder."""
SHOWN = 4
"""At most so many, spread evenly over those that are held out."""


class Pictures:
    """Some pictures of one judging, each beside its truth and what was predicted."""

    def __init__(self, samples: Samples, colors: Colors) -> None:
        """Choose the pictures.

        Args:
            samples: The validation part. The same of it are chosen every time.
            colors: RGB of each class, 0..255.
        """
        count = len(samples)
        chosen = np.linspace(0, count - 1, min(SHOWN, count)).round().astype(int).tolist()
        self._names = {
            index: f"{number}_{samples.name(index)}.png" for number, index in enumerate(chosen, 1)
        }
        self._colors = colors
        self._drawn: dict[str, NDArray[np.uint8]] = {}

    def wants(self, index: int) -> bool:
        """Say whether a picture is one of the chosen.

        Args:
            index: Its number among the samples.

        Returns:
            Whether it is.
        """
        return index in self._names

    def join(self, processes: Processes) -> None:
        """Gather what the processes of a run have drawn.

        Args:
            processes: They.
        """
        for drawn in processes.gather(self._drawn):
            self._drawn = {**self._drawn, **drawn}

    def show(
        self,
        index: int,
        image: NDArray[Any],
        truth: NDArray[np.uint8],
        prediction: NDArray[np.uint8],
    ) -> None:
        """Draw a picture, if it is one of the chosen.

        Args:
            index: Its number among the samples.
            image: [H, W, C], integers or floats.
            truth: [H, W] uint8, class ids; other values do not count.
            prediction: [H, W] uint8, class ids.
        """
        if self.wants(index):
            drawn = draw_comparison(image, truth, prediction, self._colors)
            self._drawn[self._names[index]] = drawn

    def write(self, folder: Path) -> None:
        """Write the pictures, each in place of the one before, whole or not at all.

        Args:
            folder: Where to.
        """
        for name, drawn in self._drawn.items():
            write_rgb(folder / name, drawn)
