"""From a picture to its mask: the only road.

A checkpoint says how: at what size a picture is seen, in which turns, from which probability on
a pixel counts, how small an object may be. What each network says of the picture is for `views`;
here it is averaged, and becomes a class for each pixel.
"""

import dataclasses
import hashlib
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import ValidationError
from torch import Tensor

from plainunet.data.windows import Windows, as_windows
from plainunet.network.checkpoint import Card, load_checkpoint
from plainunet.network.device import choose_device, choose_precision, to_device
from plainunet.network.folding import fold_batch_normalisation
from plainunet.network.unet import UNet
from plainunet.palette import default_colors
from plainunet.prediction.objects import fill_holes, remove_small
from plainunet.prediction.options import CardOptions
from plainunet.prediction.refine import Refiner
from plainunet.prediction.shortage import with_less
from plainunet.prediction.together import require_finer, require_same_classes
from plainunet.prediction.unlike import Doubts
from plainunet.prediction.views import TTA, View, in_step, log_mean
from plainunet.settings import explain


class Predictor:
    """Networks with all that is needed to use them on pictures as they are on disk.

    Attributes:
        network: The network, the first of several.
        card: What it obeys: scale policy, classes, threshold, test-time augmentation, least size
            of an object.
        device: Where it runs.
        precision: Arithmetic of convolutions.
        memory: What a picture may take [bytes], or None.
    """

    def __init__(
        self,
        network: UNet,
        card: Card | None = None,
        *,
        others: Sequence[tuple[UNet, Card]] = (),
        refine: tuple[UNet, Card] | None = None,
        device: str = "auto",
        precision: str = "auto",
        memory: float | None = None,
    ) -> None:
        """Wrap a live network; it is used as it is, and moved to the device.

        Args:
            network: The network, reachable as `network`.
            card: Its description: scale policy, classes, threshold. Left out: pictures are
                taken at their own size, and classes have numbers for names.
            others: More networks with their descriptions, whose probabilities are averaged with
                those of the first; of their descriptions, the scale policy counts.
            refine: A network that was trained to refine masks, with its description: it looks
                again, at full size, where the others are unsure.
            device: "auto", "cpu", "cuda" or "mps".
            precision: "auto", "fp32" or "bf16".
            memory: What a picture may take [bytes], beside what the process has anyway; larger
                pictures are seen in tiles. Left out, tiles are taken where one pass would
                take more than about two gigabytes.

        Raises:
            ValueError: There is no such device, a card has another number of classes than its
                network, the networks have different classes, `refine` is no network for that, or
                the card asks for an unknown test-time augmentation.
        """
        if card is None:
            numbers = tuple(str(number) for number in range(network.num_classes))
            card = Card(numbers, default_colors(network.num_classes), size=None)
        require_same_classes(network, card, (other for _, other in others))
        if card.tta not in TTA:
            raise ValueError(f"--tta {card.tta}: it is one of {', '.join(TTA)}.")
        self.device = choose_device(device)
        self.precision = choose_precision(precision, self.device)
        self.network = to_device(network, self.device)
        self.card, self.memory = card, memory
        self._views = [
            View(
                to_device(each, self.device),
                dataclasses.replace(own, tta=card.tta),
                scale,
                precision=self.precision,
                memory=memory,
            )
            for each, own in ((network, card), *others)
            for scale in card.scales
        ]
        self._refiner = None
        if refine is not None:
            require_finer(refine, (network, card))
            fine = to_device(refine[0], self.device)
            self._refiner = Refiner(fine, precision=self.precision, memory=memory)
        self._looks: list[View | Refiner] = [
            *self._views,
            *([self._refiner] if self._refiner else []),
        ]
        self._doubts = Doubts(card, network.in_channels)

    @classmethod
    def load(
        cls,
        path: str | Path | Sequence[str | Path],
        *,
        refine: str | Path | None = None,
        device: str = "auto",
        precision: str = "auto",
        memory: float | None = None,
        **instead: Any,
    ) -> Self:
        """Read a checkpoint, or several whose probabilities are averaged.

        Args:
            path: A `best.safetensors`, or several.
            refine: One of a run with `refine_of`: it looks again, at full size, where these are
                unsure.
            device: "auto", "cpu", "cuda" or "mps".
            precision: "auto", "fp32" or "bf16".
            memory: What a picture may take [bytes].
            instead: What holds instead of what the (first) checkpoint says: `threshold`, `tta`,
                `scales`, `min_object`, `fill_holes`, as of `Card`.

        Returns:
            A predictor that needs no other setting. Its networks' batch normalisation is folded
            into their convolutions, so they are for prediction alone.

        Raises:
            FileNotFoundError: There is no such file.
            ValueError: It is no checkpoint, several do not go together, or a value is impossible.
        """
        paths = [path] if isinstance(path, str | Path) else list(path)
        if not paths:
            raise ValueError("Give a checkpoint, or several.")
        try:
            instead = CardOptions(**instead).instead()
        except ValidationError as error:
            raise ValueError(explain(error, CardOptions)) from None
        (network, card), *others = [load_checkpoint(Path(each)) for each in paths]
        for each, (_, own) in zip(paths, ((network, card), *others), strict=True):
            if own.refines:
                raise ValueError(
                    f"{each}: this model refines the masks of another one. Give that, and this "
                    "one by --refine."
                )
        finer = load_checkpoint(Path(refine)) if refine is not None else None
        for part, _ in ((network, card), *others, *([finer] if finer else [])):
            fold_batch_normalisation(part)
        if "threshold" in instead and network.num_classes > 2:
            raise ValueError(
                f"--threshold is for two classes; this model has {network.num_classes}, and takes "
                "the likeliest."
            )
        card = dataclasses.replace(card, **instead)
        return cls(
            network,
            card,
            others=others,
            refine=finer,
            device=device,
            precision=precision,
            memory=memory,
        )

    def predict(self, image: NDArray[Any]) -> NDArray[np.uint8]:
        """Choose a class for each pixel.

        Args:
            image: [H, W, C] (or [H, W] for one channel), integers or floats, as stored.

        Returns:
            Mask [H, W] uint8 of class ids at the picture's own size.
        """
        return self.clean(np.concatenate(list(self.mask_bands(as_windows(image)))))

    def probabilities(self, image: NDArray[Any]) -> NDArray[np.float32]:
        """Give the probability of each class in each pixel.

        Args:
            image: [H, W, C] (or [H, W] for one channel), integers or floats, as stored.

        Returns:
            Probabilities [K, H, W] float32 at the picture's own size; they sum to 1 over K.
        """
        bands = list(self.both_bands(as_windows(image)))
        return np.concatenate([probabilities for _, probabilities in bands], axis=1)

    def prepare(self, image: NDArray[Any]) -> Windows:
        """Do what needs no network; in other threads, this can be done ahead.

        Args:
            image: [H, W, C], as stored.

        Returns:
            The picture's windows, for `mask_bands` and `both_bands`.
        """
        picture = as_windows(image)
        for view in self._views:
            view.prepare(picture)
        return picture

    def mask_bands(self, picture: Windows, first: int = 0) -> Iterator[NDArray[np.uint8]]:
        """Choose a class for each pixel of a picture of any size, a few rows at a time.

        Args:
            picture: Its windows; no more of it is in memory than the network needs.
            first: The row to begin with.

        Yields:
            [n, W] uint8 class ids, from top to bottom, the rows from `first` on; objects are as
            they are found, however small (see `clean`).
        """
        for logits in self._bands(picture, first):
            yield self._ids(logits)

    def both_bands(
        self, picture: Windows
    ) -> Iterator[tuple[NDArray[np.uint8], NDArray[np.float32]]]:
        """Choose classes, and give the probability of each as well, a few rows at a time.

        Args:
            picture: Its windows.

        Yields:
            [n, W] uint8 class ids as by `mask_bands`, and [K, n, W] float32, which sum to 1 over
            K, from top to bottom.
        """
        for logits in self._bands(picture, 0):
            if len(logits) == 1:
                probabilities = torch.cat([-logits, logits]).sigmoid()
            else:
                probabilities = logits.softmax(dim=0)
            yield self._ids(logits), probabilities.cpu().numpy()

    def _ids(self, logits: Tensor) -> NDArray[np.uint8]:
        """[n, W] class ids from [K, n, W], or from the difference [1, n, W]."""
        if len(logits) > 1:
            ids = logits.argmax(dim=0)
        else:  # softmax over two classes is a sigmoid of the difference, and both are monotonic
            cut = torch.logit(torch.tensor(self.card.threshold, dtype=torch.float64))
            ids = logits[0] >= float(cut)
        chosen: NDArray[np.uint8] = ids.to(torch.uint8).cpu().numpy()
        return chosen

    def clean(self, mask: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Fill small holes and remove small objects, as the card says.

        Args:
            mask: [H, W] uint8 class ids of a whole picture.

        Returns:
            The same, or a copy.
        """
        if self.card.fill_holes:
            mask = fill_holes(mask, self.card.fill_holes)
        return remove_small(mask, self.card.min_object) if self.card.min_object > 1 else mask

    def digest(self) -> str:
        """Recognise what makes masks what they are: the weights, and what the card says.

        Returns:
            A SHA-256 in hexadecimal.
        """
        digest, card = hashlib.sha256(), self.card
        for each in self._looks:
            digest.update(repr(each.sees).encode())
            for name, value in sorted(each.network.state_dict().items()):
                digest.update(name.encode() + value.cpu().contiguous().numpy().tobytes())
        said = card.threshold, card.tta, card.min_object, card.fill_holes, self.precision
        digest.update(repr(said).encode())
        return digest.hexdigest()

    def _bands(self, picture: Windows, first: int) -> Iterator[Tensor]:
        """Logits [K, n, W] at the picture's own size; of two classes, their difference [1, n, W].

        They are those of the mean of all views' probabilities, refined where that is asked for.
        """
        self._doubts.say_of(picture)
        yield from with_less(partial(self._try, picture), self._looks, self.device, first)

    def _try(self, picture: Windows, first: int) -> Iterator[Tensor]:
        is_binary = self.network.num_classes == 2
        refiner = self._refiner
        needed = refiner.row_needed(first, picture.shape[0]) if refiner else first
        streams = [view.bands(picture, is_binary, needed) for view in self._views]
        coarse = (log_mean(bands, dim=0) for bands in in_step(streams))
        yield from refiner.bands(picture, coarse, first) if refiner else coarse
