"""Learning to refine another model's masks: on windows of pictures as they are, where it is unsure.

In: a run's settings that name the coarse model. Out: the settings that go with it; samples whose
pictures have its probabilities as further channels; and the predictor that joins the two.
"""

from collections.abc import Callable, Sequence
from functools import cached_property, lru_cache
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from plainunet.config import TrainConfig
from plainunet.dataset.cache import Sample
from plainunet.dataset.coding import MaskCoding
from plainunet.dataset.pairs import Pair
from plainunet.dataset.samples import Samples, pad
from plainunet.dataset.split import SPLIT_FILE, read_split
from plainunet.formats.images import to_unit
from plainunet.formats.sources import files_of
from plainunet.network.checkpoint import Card, load_checkpoint
from plainunet.network.unet import UNet
from plainunet.prediction.cells import SIDE, WINDOW, place_windows, windows_each
from plainunet.prediction.predictor import Predictor
from plainunet.prediction.refine import is_unsure
from plainunet.settings import with_dataset
from plainunet.training.events import Note, OnEvent

_NETWORK = {"depth": 2, "base_channels": 16}
"""The fine network is told what there is, and finds where it ends."""
_JUDGED = 1 / 8
_CONTRADICTING = ("size", "patch", "factor", "growth", "target_scale", "valid")
_MEANING = ("classes", "values", "colors", "ignore", "encoding")
_SPLITTING = {"pairs", "images", "masks", "validation", "folds", "group_by", "stratify"}


def with_coarse(config: TrainConfig, data: Path, on_event: OnEvent) -> TrainConfig:
    """Fill in what follows from the coarse model.

    Args:
        config: The settings as given, and as the data folder says.
        data: The data folder.
        on_event: Told what is taken from the coarse run.

    Returns:
        The settings: windows at full size, the coarse run's classes, masks and split.

    Raises:
        FileNotFoundError: There is no such checkpoint.
        ValueError: It is none, or refines itself, or a setting contradicts.
    """
    assert config.refine_of is not None
    coarse = Path(config.refine_of).absolute()
    _, card = load_checkpoint(coarse)
    if card.refines:
        raise ValueError(f"{coarse}: refines the masks of another model itself; give that one.")
    given = config.model_fields_set
    if wrong := [name for name in _CONTRADICTING if name in given]:
        raise ValueError(
            "--refine-of learns from windows of pictures as they are; leave out "
            f"{', '.join(wrong).replace('_', '-')}."
        )
    found: dict[str, Any] = {"refine_of": str(coarse), "patch": (WINDOW, WINDOW), "factor": 1.0}
    found |= {name: value for name, value in _NETWORK.items() if name not in given}
    split = coarse.parent / SPLIT_FILE
    if split.is_file() and all(
        files_of(pair.image)[0].exists() for pair in read_split(split, data)
    ):
        known = with_dataset(config, coarse.parent)
        found |= {name: getattr(known, name) for name in _MEANING}
        if not given & _SPLITTING:
            found["pairs"] = str(split)
            on_event(Note(f"split: that of {coarse.parent}"))
    elif not given & _SPLITTING:
        on_event(
            Note(
                "note: the split is drawn anew, since that of the coarse run is not of this "
                "folder; that model may have learnt from pictures which are held out here"
            )
        )
    if not config.classes and not found.get("classes"):
        found["classes"] = card.class_names
    return config.model_copy(update=found)


class UnsureWindows(Samples):
    """Windows of pictures as they are, with what a coarse model says there.

    Their images have a channel more for each class but the first: its probability.
    """

    def __init__(
        self,
        pairs: Sequence[Pair],
        coding: MaskCoding,
        config: TrainConfig,
        channels: int = 3,
        objects: bool = False,
        judged: bool = False,
    ) -> None:
        """Name the windows; nothing is read yet.

        Args:
            pairs: Images with their masks.
            coding: How mask values become class ids.
            config: Names the coarse model, and where it runs.
            channels: Channels of the images, without the probabilities.
            objects: Whether samples have a third part, the labels of their objects.
            judged: Whether networks are judged on the windows, which are fewer then.
        """
        self._each = windows_each(len(pairs), _JUDGED if judged else 1)
        each = [pair for pair in pairs for _ in range(self._each)]
        super().__init__(each, coding, (SIDE, SIDE), channels, objects=objects)
        self.told = coding.num_classes - 1
        self._pictures = Samples(pairs, coding, None, channels, objects=objects)
        self._coarse, self._device = Path(config.refine_of or ""), config.device

    def __getstate__(self) -> dict[str, Any]:
        """Leave networks and pictures behind: another process loads them if it needs them."""
        left = ("_cut", "_predictor")
        return {key: value for key, value in self.__dict__.items() if key not in left}

    def _settings(self) -> dict[str, Any]:
        said = {"windows": [self._each, SIDE], "coarse": self._predictor.digest()}
        return {**super()._settings(), **said}

    def _load(self, index: int) -> Sample:
        number, window = divmod(index, self._each)
        image, *parts = self._cut(number)[window]
        return to_unit(image) if self._as_float else image, *parts

    @cached_property
    def _predictor(self) -> Predictor:
        return Predictor.load(self._coarse, device=self._device)

    @cached_property
    def _cut(self) -> Callable[[int], list[Sample]]:
        """Cuts a picture up. Its windows are asked for one after the other, by several threads."""
        busy, cut = Lock(), lru_cache(maxsize=2)(self._cut_picture)

        def in_turn(number: int) -> list[Sample]:
            with busy:
                return cut(number)

        return in_turn

    def _cut_picture(self, number: int) -> list[Sample]:
        image, *parts = self._pictures[number]
        probabilities = self._predictor.probabilities(image)
        shown = torch.from_numpy(probabilities)
        unsure = is_unsure(shown[1:].logit() if len(shown) == 2 else shown.log()).numpy()
        places = place_windows(unsure, self._each, SIDE, np.random.default_rng(number))
        whole = [_with_told(image, probabilities[1:]), *parts]
        return [
            pad([part[top : top + SIDE, left : left + SIDE].copy() for part in whole], (SIDE, SIDE))
            for top, left in places
        ]


def _with_told(image: NDArray[Any], told: NDArray[np.float32]) -> NDArray[Any]:
    """An image [H, W, C] with probabilities [K - 1, H, W] as further channels, in its dtype."""
    channels = told.transpose(1, 2, 0)
    if image.dtype == np.uint8:
        channels = (channels * 255).round().astype(np.uint8)
    return np.concatenate([image, channels], axis=2)


def compare_with_coarse(result: dict[str, Any], card: Card, config: TrainConfig) -> str:
    """Say whether refined masks are better than those of the coarse model.

    Args:
        result: The scores of the refined masks.
        card: The description of the network that refines.
        config: The settings.

    Returns:
        A sentence.
    """
    refined = result["per_image"]["dice"]["mean_foreground"] or 0.0
    _, coarse = load_checkpoint(Path(config.refine_of or ""))
    said = f"Dice per image, refined: {refined:.4f}"
    if coarse.training.get("digest") != card.training["digest"] or not coarse.scores:
        return said
    alone = coarse.scores["per_image"]["dice"]["mean_foreground"] or 0.0
    said += f"; of {config.refine_of} alone: {alone:.4f}"
    return said if refined > alone else f"{said}. Refining does not help yet: train longer."


def make_predictor(network: UNet, card: Card, config: TrainConfig) -> Predictor:
    """Wrap a run's network as its pictures are to be predicted.

    Args:
        network: The network.
        card: Its description.
        config: The settings.

    Returns:
        Itself, or the coarse model that it refines, together with it.
    """
    first, refine = (network, card), None
    if config.refine_of is not None:
        first, refine = load_checkpoint(Path(config.refine_of)), first
    return Predictor(*first, refine=refine, device=config.device, precision=config.precision)
