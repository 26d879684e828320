"""The teacher of knowledge distillation: a trained model that helps to train a smaller one.

Hinton, Vinyals and Dean 2015 (arXiv 1503.02531).
"""

import time
from pathlib import Path
from threading import Lock
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from plainunet.config import AugmentName, TrainConfig
from plainunet.dataset.dataset import SegmentationDataset
from plainunet.dataset.shards import ShardedDataset
from plainunet.dataset.split import SPLIT_FILE, read_split
from plainunet.errors import Error
from plainunet.formats.problems import command
from plainunet.formats.sources import ImageSource
from plainunet.parts import Part
from plainunet.prediction.predictor import Predictor
from plainunet.reporter import Collected, Reporter, note_warnings

_TIMED = 3
"""Images from which the time of a teacher is estimated."""


class TrainedTeacher:
    """A trained model, or an ensemble, as the `Teacher` of samples.

    Attributes:
        digest: SHA-256 of its weights and settings, in hexadecimal.
    """

    def __init__(self, path: str, predictor: Predictor) -> None:
        """Wrap a loaded model."""
        self._path, self._predictor = path, predictor
        self._turn, self._heard = Lock(), Collected()
        self.digest = predictor.digest()

    @classmethod
    def load(
        cls, config: TrainConfig, dataset: SegmentationDataset, own: Part | None = None
    ) -> "TrainedTeacher | None":
        """Load the teacher that the settings name; None if they name none.

        Args:
            config: The settings, with the classes.
            dataset: The data, whose images the teacher predicts.
            own: The user's own network, which the teacher may have too.

        Raises:
            FileNotFoundError: The teacher is missing.
            ValueError: It is no model, or it does not fit the settings or the data.
        """
        if config.teacher is None:
            return None
        _require_soft_targets(config)
        if isinstance(dataset, ShardedDataset):
            raise Error(
                f"{dataset.folder}: --teacher needs samples in the cache, and shards are streamed. "
                "Use the folder of images that they were written from."
            )
        if not Path(config.teacher).exists():
            raise FileNotFoundError(
                f"{config.teacher}: the teacher (--teacher) is missing. Restore it, or run from "
                "the folder that its path is relative to."
            )
        # fp32, so that its digest and probabilities do not depend on what the machine supports
        predictor = Predictor.load(
            config.teacher,
            device=config.device,
            precision="fp32",
            network=[own] if own else None,
        )
        _require_fitting(config, predictor, max(channels for *_, channels in dataset.shapes))
        return cls(config.teacher, predictor)

    def __call__(self, image: NDArray[Any]) -> NDArray[np.float32]:
        """Predict the probabilities [K, H, W] of an image [H, W, C] as stored; in any thread."""
        # one image at a time: each uses all cores, or the GPU
        with self._turn, note_warnings(self._path, self._heard):
            return self._predictor.probabilities(image)

    def report_warnings(self, reporter: Reporter) -> None:
        """Report the first warning about the images, if there are any; others are of its kind."""
        for text in self._heard.notes[:1]:
            reporter.note(f"warning: --teacher {text}")

    def measure(self, dataset: SegmentationDataset) -> float:
        """Estimate the time to predict all images of the training split [s]."""
        trained = dataset.part("train")
        times: list[float] = []
        # the first ones, of which the first of all also pays for page faults
        for image, _ in (trained[index] for index in range(min(_TIMED, len(trained)))):
            begun = time.perf_counter()
            self(image)
            times.append((time.perf_counter() - begun) / (image.shape[0] * image.shape[1]))
        return min(times) * sum(height * width for height, width in trained.sizes)

    def warn_of_leakage(self, dataset: SegmentationDataset, reporter: Reporter) -> None:
        """Warn if the teacher was trained on validation images of a dataset.

        It is known if the teacher's training had the same data and its `split.csv` is next to it.
        """
        if self._predictor.card.training.get("digest") != dataset.digest():
            return
        lists = [source.path.with_name(SPLIT_FILE) for source in self._predictor.sources]
        for listed in filter(Path.is_file, lists):
            pairs = read_split(listed, dataset.folder)
            seen = {str(pair.image) for pair in pairs if pair.part == "train"}
            held_out: list[ImageSource] = [pair.image for pair in dataset.part("val").pairs]
            if leaked := [image for image in held_out if str(image) in seen]:
                same = command("--pairs", listed)
                reporter.note(
                    f"warning: data leakage: the teacher {self._path} was trained on {len(leaked)} "
                    f"of the {len(held_out)} validation images, so scores will be too high; for "
                    f"example {leaked[0]}. Use the teacher's split: {same}"
                )
                return


def _require_soft_targets(config: TrainConfig) -> None:
    """Refuse settings that reduce the targets to the most frequent class of each pixel."""
    whole = {
        "--loss lovasz": config.loss == "lovasz",
        f"--augment {config.augment}": config.augment not in get_args(AugmentName),
    }
    for flag, is_set in whole.items():
        if is_set:
            raise Error(
                f"--teacher has no effect with {flag}, which takes one class for each pixel. "
                f"Choose another {flag.split()[0]}, or omit --teacher."
            )


def _require_fitting(config: TrainConfig, predictor: Predictor, channels: int) -> None:
    """Refuse a teacher of other classes or channels."""
    names = predictor.card.class_names
    if names != config.classes:
        raise Error(
            f"{config.teacher}: the teacher has the classes {', '.join(names)}, the data "
            f"{', '.join(config.classes)}. It needs the same in the same order; if only the names "
            "differ, give its names: --classes."
        )
    if predictor.in_channels != channels:
        raise Error(
            f"{config.teacher}: the teacher takes images of {predictor.in_channels} channels, the "
            f"data has {channels}. Train a teacher on such images."
        )
