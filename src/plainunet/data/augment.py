"""Random changes of a training picture and its mask together (Albumentations 2.0.8).

Everything random comes from one number per sample, made from (seed, epoch, draw number):
the same pictures for any number of worker processes. Albumentations 2.0.8 on its own repeats
its sequence in every worker and epoch.
"""

import os
from typing import Any

os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"  # before the import: it would ask the network

import albumentations as A
import cv2
import numpy as np
from numpy.typing import NDArray


def _affine(scale: float, angle: float, shift: float, shear: float = 0) -> A.Affine:
    return A.Affine(
        scale=(1 - scale, 1 + scale),
        rotate=(-angle, angle),
        translate_percent=(-shift, shift),
        shear=(-shear, shear),
        interpolation=cv2.INTER_LINEAR,
        mask_interpolation=cv2.INTER_LINEAR,  # shares are areas: they may be mixed, ids may not
        border_mode=cv2.BORDER_REFLECT_101,
        p=0.8,
    )


def _colour(amount: float) -> A.RandomBrightnessContrast:
    return A.RandomBrightnessContrast(brightness_limit=amount, contrast_limit=amount, p=0.5)


_STRENGTHS: dict[str, list[Any]] = {
    "none": [],
    "flip": [A.HorizontalFlip(p=0.5)],
    "light": [A.HorizontalFlip(p=0.5), _affine(0.15, 5, 0.05), _colour(0.2)],
    "strong": [
        A.HorizontalFlip(p=0.5),
        A.VerticalFlip(p=0.5),
        _affine(0.3, 45, 0.1, shear=8),
        _colour(0.3),
        A.RandomGamma(gamma_limit=(70, 140), p=0.3),
        A.GaussianBlur(sigma_limit=(0.3, 1.5), p=0.2),
    ],
}


class Augment:
    """A named strength of augmentation: none, flip, light or strong."""

    def __init__(self, strength: str) -> None:
        """Make it.

        Args:
            strength: One of "none", "flip" (left and right), "light" (flip, small affine
                changes, brightness and contrast), "strong" (for pictures without an upright
                side: flips, turns up to 45 degrees, larger changes, gamma, blur).

        Raises:
            ValueError: No such strength.
        """
        if strength not in _STRENGTHS:
            raise ValueError(f"augment is {strength!r}; it is one of {', '.join(_STRENGTHS)}.")
        self._compose = A.Compose(_STRENGTHS[strength])

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
        self._compose.set_random_seed(int(np.random.SeedSequence(state).generate_state(1)[0]))
        low, span = _own_range(image)
        stretched = (low, span) != (0, 1)
        changed = self._compose(image=(image - low) / span if stretched else image, mask=shares)
        result = changed["image"] * span + low if stretched else changed["image"]
        return result, changed["mask"]


def _own_range(image: NDArray[Any]) -> tuple[float, float]:
    """Find what Albumentations must see as 0..1, which it clips floats to: lowest and span."""
    low, high = float(image.min()), float(image.max())
    if image.dtype == np.uint8 or (low >= 0 and high <= 1):
        return 0.0, 1.0
    return low, max(high - low, 1e-12)
