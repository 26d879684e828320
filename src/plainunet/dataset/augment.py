"""Augmentation of images with their masks (Albumentations 2.0.8), and elastic deformation."""

import os
from functools import cached_property, lru_cache
from typing import Any

os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"  # before the import: it would access the network

import albumentations as A
import cv2
import numpy as np
from albumentations.augmentations.geometric.distortion import BaseDistortion
from numpy.typing import NDArray


class Elastic(BaseDistortion):  # type: ignore[misc]
    """Elastic deformation of images and masks, as a transform of Albumentations.

    Images are mirrored at their edges.
    """

    def __init__(self, deviation: float, mask_interpolation: int) -> None:
        """Set the standard deviation of each displacement [pixels], and the mask interpolation."""
        super().__init__(
            interpolation=cv2.INTER_LINEAR,
            mask_interpolation=mask_interpolation,
            keypoint_remapping_method="direct",
            p=1.0,
            border_mode=cv2.BORDER_REFLECT_101,
        )
        self.deviation = deviation

    def get_params_dependent_on_data(
        self, params: dict[str, Any], data: dict[str, Any]
    ) -> dict[str, NDArray[np.float32]]:
        """Draw a deformation: the source position of each pixel, [H, W] float32 [pixels]."""
        height, width = params["shape"][:2]
        nodes = self.random_generator.normal(0, self.deviation, (2, 3, 3))
        across, down = (displacements(part, (height, width)) for part in nodes)
        return {
            "map_x": np.arange(width, dtype=np.float32) + across,
            "map_y": np.arange(height, dtype=np.float32)[:, None] + down,
        }


def displacements(nodes: NDArray[np.float64], size: tuple[int, int]) -> NDArray[np.float32]:
    """Interpolate bicubically between [3, 3] nodes: corners, midpoints of sides, centre."""
    return (_cubic(size[0]) @ nodes @ _cubic(size[1]).T).astype(np.float32)


@lru_cache(maxsize=16)
def _cubic(count: int) -> NDArray[np.float64]:
    """Weights [count, 3] of three nodes at each pixel between the outer two.

    This is the cubic convolution of Keys 1981 with a = -1/2; the outer nodes are repeated beyond
    the edges.
    """
    places = np.linspace(0, 2, count)[:, None]
    d = np.abs(places - np.arange(-1, 4))
    near = 1 - 2.5 * d**2 + 1.5 * d**3
    far = 2 - 4 * d + 2.5 * d**2 - 0.5 * d**3
    counts = np.where(d < 1, near, np.where(d < 2, far, 0))
    return np.stack([counts[:, :2].sum(axis=1), counts[:, 2], counts[:, 3:].sum(axis=1)], axis=1)


_MOST_CHANNELS = 128  # limit of OpenCV


def _strengths(mask_interpolation: int) -> dict[str, list[Any]]:
    """The transforms of each strength, with the interpolation of masks."""

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

    def __init__(self, strength: str, elastic: float = 0.0) -> None:
        """Create it; `elastic` is the deviation of `Elastic` [pixels], applied first; or 0."""
        # shares are areas, so they may be interpolated
        self._compose = _compose(strength, elastic, cv2.INTER_LINEAR)
        self._settings = strength, elastic

    def __reduce__(self) -> tuple[type["Augment"], tuple[str, float]]:
        """Pickle the settings only: 100 bytes instead of 18,000."""
        return Augment, self._settings

    def __call__(
        self, image: NDArray[Any], shares: NDArray[np.uint8], state: tuple[int, ...]
    ) -> tuple[NDArray[Any], NDArray[np.uint8]]:
        """Augment an image [H, W, C] with its shares [H, W, K]; `state` seeds all choices."""
        self._compose.set_random_seed(_seed(state))
        low, span = _own_range(image)
        stretched = (low, span) != (0, 1)
        parts = [
            shares[..., first : first + _MOST_CHANNELS]
            for first in range(0, shares.shape[2], _MOST_CHANNELS)
        ]
        shown = (image - low) / span if stretched else image
        changed = self._compose(image=shown, mask=parts[0], masks=parts[1:])
        result = changed["image"] * span + low if stretched else changed["image"]
        moved = [changed["mask"], *changed["masks"]]
        # OpenCV drops an axis of one channel
        return result, moved[0] if len(moved) == 1 else np.dstack(moved)

    @cached_property
    def _compose_labels(self) -> A.Compose:
        """The same for object labels, which may not be interpolated; created on first use."""
        return _compose(*self._settings, cv2.INTER_NEAREST)

    def move(self, labels: NDArray[np.uint16], state: tuple[int, ...]) -> NDArray[np.uint16]:
        """Move object labels, [H, W, 1] uint16, as `__call__` moves the shares."""
        self._compose_labels.set_random_seed(_seed(state))
        # transforms do not depend on the image, so a blank one gives the same moves
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


def _own_range(image: NDArray[Any]) -> tuple[float, float]:
    """Return offset and span of an image for Albumentations, which clips floats to 0..1."""
    if image.dtype == np.uint8:
        return 0.0, 1.0
    low, high = float(image.min()), float(image.max())
    if low >= 0 and high <= 1:
        return 0.0, 1.0
    return low, max(high - low, 1e-12)
