"""Random changes of a training picture and its mask together (Albumentations 2.0.8).

Everything random comes from one number per sample, made from (seed, epoch, draw number):
the same pictures for any number of worker processes. Albumentations 2.0.8 on its own repeats
its sequence in every worker and epoch.
"""

import os
from functools import cached_property
from typing import Any

os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"  # before the import: it would ask the network

import albumentations as A
import cv2
import numpy as np
from numpy.typing import NDArray

from plainunet.data.elastic import Elastic


def _strengths(mask_interpolation: int) -> dict[str, list[Any]]:
    """The transforms of each strength; masks are read between pixels as is said here."""

    def affine(scale: float, angle: float, shift: float, shear: float = 0) -> A.Affine:
        return A.Affine(
            scale=(1 - scale, 1 + scale),
            rotate=(-angle, angle),
            translate_percent=(-shift, shift),
            shear=(-shear, shear),
            interpolation=cv2.INTER_LINEAR,
            mask_interpolation=mask_interpolation,
            border_mode=cv2.BORDER_REFLECT_101,
            p=0.8,
        )

    def colour(amount: float) -> A.RandomBrightnessContrast:
        return A.RandomBrightnessContrast(brightness_limit=amount, contrast_limit=amount, p=0.5)

    return {
        "none": [],
        "flip": [A.HorizontalFlip(p=0.5)],
        "light": [A.HorizontalFlip(p=0.5), affine(0.15, 5, 0.05), colour(0.2)],
        "strong": [
            A.HorizontalFlip(p=0.5),
            A.VerticalFlip(p=0.5),
            affine(0.3, 45, 0.1, shear=8),
            colour(0.3),
            A.RandomGamma(gamma_limit=(70, 140), p=0.3),
            A.GaussianBlur(sigma_limit=(0.3, 1.5), p=0.2),
        ],
    }


class Augment:
    """A named strength of augmentation (none, flip, light or strong), and elastic deformation."""

    def __init__(self, strength: str, elastic: float = 0.0, told: int = 0) -> None:
        """Make it.

        Args:
            strength: One of "none", "flip" (left and right), "light" (flip, small affine
                changes, brightness and contrast), "strong" (for pictures without an upright
                side: flips, turns up to 45 degrees, larger changes, gamma, blur).
            elastic: Standard deviation of the displacements [pixels] of a deformation that
                comes first, see `Elastic`; 0 for none.
            told: So many last channels of the images are no light: they are moved with the
                others, and not changed otherwise.

        Raises:
            ValueError: No such strength.
        """
        # shares are areas: they may be mixed
        self._compose = _compose(strength, elastic, cv2.INTER_LINEAR)
        self._settings = strength, elastic
        self._told = told

    def __reduce__(self) -> tuple[type["Augment"], tuple[str, float, int]]:
        """Be made anew in another process: a hundred bytes instead of 18,000."""
        return Augment, (*self._settings, self._told)

    def __call__(
        self, image: NDArray[Any], shares: NDArray[np.uint8], state: tuple[int, ...]
    ) -> tuple[NDArray[Any], NDArray[np.uint8]]:
        """Change one sample.

        Args:
            image: [H, W, C] uint8, or float32.
            shares: [H, W, K] uint8, in 1/255.
            state: Numbers that fix every random choice, such as (seed, epoch, draw number).

        Returns:
            Image and shares, changed alike, in the same dtypes and sizes.
        """
        self._compose.set_random_seed(_seed(state))
        light, moved = image, shares
        if self._told:  # moved as the shares are, and not changed otherwise
            light, told = image[..., : -self._told], image[..., -self._told :]
            moved = np.concatenate([shares, _as_bytes(told)], axis=2)
        low, span = _own_range(light)
        stretched = (low, span) != (0, 1)
        changed = self._compose(image=(light - low) / span if stretched else light, mask=moved)
        result = changed["image"] * span + low if stretched else changed["image"]
        if not self._told:
            return result, changed["mask"]
        shares, told = np.split(changed["mask"], [shares.shape[2]], axis=2)
        if result.dtype != np.uint8:
            told = told.astype(result.dtype) / 255
        return np.concatenate([result, told], axis=2), shares

    @cached_property
    def _compose_labels(self) -> A.Compose:
        """The same for the numbers of objects, which may not be mixed; made where it is used."""
        return _compose(*self._settings, cv2.INTER_NEAREST)

    def move(self, labels: NDArray[np.uint16], state: tuple[int, ...]) -> NDArray[np.uint16]:
        """Move the numbers of objects as `__call__` moves the shares of the same sample.

        Args:
            labels: [H, W, 1] uint16.
            state: As given to `__call__`.

        Returns:
            [H, W, 1] uint16; only numbers that were there.
        """
        self._compose_labels.set_random_seed(_seed(state))
        # no transform draws by what it sees, so a blank image leads to the same moves
        blank = np.zeros((*labels.shape[:2], 1), np.uint8)
        moved: NDArray[np.uint16] = self._compose_labels(image=blank, mask=labels)["mask"]
        return moved


def _compose(strength: str, elastic: float, mask_interpolation: int) -> A.Compose:
    strengths = _strengths(mask_interpolation)
    if strength not in strengths:
        raise ValueError(f"augment is {strength!r}; it is one of {', '.join(strengths)}.")
    first = [Elastic(elastic, mask_interpolation)] if elastic > 0 else []
    return A.Compose([*first, *strengths[strength]])


def _seed(state: tuple[int, ...]) -> int:
    return int(np.random.SeedSequence(state).generate_state(1)[0])


def _as_bytes(told: NDArray[Any]) -> NDArray[np.uint8]:
    return told if told.dtype == np.uint8 else (told * 255).round().astype(np.uint8)


def _own_range(image: NDArray[Any]) -> tuple[float, float]:
    """Find what Albumentations must see as 0..1, which it clips floats to: lowest and span."""
    if image.dtype == np.uint8:
        return 0.0, 1.0
    low, high = float(image.min()), float(image.max())
    if low >= 0 and high <= 1:
        return 0.0, 1.0
    return low, max(high - low, 1e-12)
