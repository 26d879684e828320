"""Augmentation of images with their masks (Albumentations 2.0.8): presets, or the user's own."""

import json
import os
from collections.abc import Sequence
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"  # before the import: it would access the network

import albumentations as A
import cv2
import numpy as np
from albumentations.augmentations.geometric.distortion import BaseDistortion
from numpy.typing import NDArray

from plainunet.dataset.resize import resize
from plainunet.errors import Error, describe
from plainunet.files import write_whole
from plainunet.formats.colors import IGNORED
from plainunet.parts import Part, PartError, running


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


class Brightness(A.ImageOnlyTransform):  # type: ignore[misc]
    """Random contrast and brightness, as a transform of Albumentations.

    Shifts are relative to the mean of each channel: a shift by a fraction of the range, as in
    `A.RandomBrightnessContrast`, would blacken dark images and dark channels.
    """

    def __init__(self, amount: float) -> None:
        """Set the largest change of either, as a fraction."""
        super().__init__(p=0.5)
        self.amount = amount

    def get_params_dependent_on_data(
        self, params: dict[str, Any], data: dict[str, Any]
    ) -> dict[str, Any]:
        """Draw the gain of all channels and the shift of each, [C]."""
        gain = 1 + self.py_random.uniform(-self.amount, self.amount)
        shift = self.py_random.uniform(-self.amount, self.amount)
        some = data["image"][::4, ::4]  # enough for a mean
        return {"gain": gain, "shift": shift * some.mean(axis=(0, 1))}

    def apply(self, img: NDArray[Any], gain: float, shift: NDArray[Any], **_: Any) -> NDArray[Any]:
        """Change an image [H, W, C], uint8 or float32 in 0..1."""
        changed: NDArray[Any]
        if img.dtype == np.uint8:
            table = np.clip(np.rint(np.arange(256)[:, None] * gain + shift), 0, 255)
            changed = cv2.LUT(img, table[None].astype(np.uint8))
        else:
            changed = np.clip(img * gain + shift, 0, 1).astype(img.dtype)
        return changed.reshape(img.shape)


class Compression(A.ImageOnlyTransform):  # type: ignore[misc]
    """JPEG compression and back, as a transform of Albumentations.

    Of images with 1 or 3 channels in 8 bits; others stay. Without it, a network trained on images
    that were downscaled, and are therefore clean, fails on small JPEG files.
    """

    def __init__(self, lowest: int, p: float) -> None:
        """Set the lowest quality, up to 95 being drawn, and the probability."""
        super().__init__(p=p)
        self.lowest = lowest

    def get_params(self) -> dict[str, Any]:
        """Draw the quality."""
        return {"quality": self.py_random.randint(self.lowest, 95)}

    def apply(self, img: NDArray[Any], quality: int, **_: Any) -> NDArray[Any]:
        """Compress an image [H, W, C]."""
        if img.dtype != np.uint8 or img.shape[2] not in (1, 3):
            return img
        # OpenCV's channels are blue, green, red; fancy indexing copies
        order = [*range(img.shape[2])][::-1]
        data = cv2.imencode(".jpg", img[..., order], [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
        read = np.asarray(cv2.imdecode(data, cv2.IMREAD_UNCHANGED))
        return np.ascontiguousarray(read.reshape(img.shape)[..., order])


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
_HIGHEST = 0.8
"""Where the maximum of a float image is put in 0..1: brighter ones are not clipped at once."""


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

    return {
        "none": [],
        "flip": [A.HorizontalFlip(p=0.5)],
        "mild": [A.HorizontalFlip(p=0.5), Compression(40, p=0.2)],
        "light": [
            A.HorizontalFlip(p=0.5),
            affine(0.15, 5, 0.05),
            Brightness(0.2),
            Compression(40, p=0.2),
        ],
        "strong": [
            A.HorizontalFlip(p=0.5),
            A.VerticalFlip(p=0.5),
            affine(0.3, 45, 0.1, shear=8),
            Brightness(0.3),
            A.RandomGamma(gamma_limit=(70, 140), p=0.3),
            A.GaussianBlur(sigma_limit=(0.3, 1.5), p=0.2),
            Compression(40, p=0.2),
        ],
    }


class Augment:
    """A strength of augmentation (none, flip, mild, light, strong), and elastic deformation."""

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
        parts = [
            shares[..., first : first + _MOST_CHANNELS]
            for first in range(0, shares.shape[2], _MOST_CHANNELS)
        ]
        result, moved = _apply_in_parts(self._compose, image, parts, _seed(state))
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


class OwnAugment:
    """A user's augmentation: transforms of Albumentations, which get masks of class ids.

    Sizes that they change are changed back, so that random crops become random scales.
    """

    def __init__(self, part: Part, classes: int, elastic: float = 0.0) -> None:
        """Wrap the transforms, for masks of a number of classes; `elastic` as for `Augment`."""
        self._part, self._classes = part, classes
        self._compose = _as_compose(part)
        self._elastic = _compose("none", elastic, cv2.INTER_NEAREST)

    def __call__(
        self, image: NDArray[Any], shares: NDArray[np.uint8], state: tuple[int, ...]
    ) -> tuple[NDArray[Any], NDArray[np.uint8]]:
        """As `Augment`; classes become whole: each pixel has one, or is ignored.

        Raises:
            PartError: The transforms fail, or what they return is no image or mask of class ids.
        """
        mask: NDArray[Any] = shares.argmax(axis=2).astype(np.uint8)
        mask[shares.sum(axis=2, dtype=np.int64) < 128] = IGNORED  # mostly void or padding
        image, (mask,) = _apply_in_parts(self._elastic, image, [mask], _seed((*state, 1)))
        size, channels, dtype, before = mask.shape, image.shape[2], image.dtype, mask
        self._compose.set_random_seed(_seed(state))
        with running(f"--augment {self._part.name} failed"):
            image, (mask,) = _apply(self._compose, image, [mask])
        self._require_image(image, channels, dtype)
        self._require_ids(mask, image.shape[:2], before)
        ids = np.arange(self._classes, dtype=np.uint8)
        whole = (mask[..., None] == ids).astype(np.uint8) * np.uint8(255)
        return resize(image, size), resize(whole, size)

    def _require_image(self, image: Any, channels: int, dtype: Any) -> None:
        if not isinstance(image, np.ndarray) or image.ndim != 3 or image.shape[2] != channels:
            found = list(image.shape) if hasattr(image, "shape") else type(image).__name__
            raise PartError(
                f"--augment {self._part.name}: an image became {found}, not [H, W, {channels}]. "
                "Leave out ToTensorV2 and whatever changes the channels."
            )
        if image.dtype != dtype and not (dtype.kind == image.dtype.kind == "f"):
            raise PartError(
                f"--augment {self._part.name}: an image of {dtype} became {image.dtype}. Leave out "
                "Normalize and ToFloat: the network normalises images."
            )

    def _require_ids(self, mask: Any, size: tuple[int, ...], before: NDArray[Any]) -> None:
        if not isinstance(mask, np.ndarray) or mask.dtype.kind not in "iu" or mask.shape != size:
            got = f"{mask.dtype} {list(mask.shape)}" if hasattr(mask, "dtype") else type(mask)
            raise PartError(
                f"--augment {self._part.name}: a mask became {got}, not class ids, uint8 "
                f"{list(size)}. Transforms may move masks, but must keep their values."
            )
        known = {*np.unique(before).tolist(), 0, IGNORED}
        if new := sorted(set(np.unique(mask).tolist()) - known):
            raise PartError(
                f"--augment {self._part.name}: a mask got the value {new[0]}, which it did not "
                f"have. Set mask_interpolation to cv2.INTER_NEAREST, and fill_mask to 0, or to "
                f"{IGNORED} for pixels to ignore."
            )


def make_augment(augment: str | Part, classes: int, elastic: float) -> Augment | OwnAugment:
    """Make the augmentation: a preset by its name, or the user's own."""
    if isinstance(augment, Part):
        return OwnAugment(augment, classes, elastic)
    return Augment(augment, elastic)


def load_augment(path: Path) -> Part:
    """Read transforms that Albumentations has saved (`albumentations.save`) as JSON or YAML.

    Raises:
        FileNotFoundError: The file does not exist.
        PartError: It does not hold transforms of Albumentations.
    """
    try:
        path.open("rb").close()
    except FileNotFoundError:
        raise FileNotFoundError(f"{path}: no such file of transforms.") from None
    kind = "json" if path.suffix.lower() == ".json" else "yaml"
    try:
        part = Part(A.load(path, data_format=kind), str(path))
    except KeyError as error:
        raise PartError(
            f"{path}: {error} is no transform of Albumentations {A.__version__}. If it is your "
            "own, pass the transforms themselves, as augment= or --augment package.module:object."
        ) from error
    except Exception as error:
        first = " ".join(str(error).split())[:200]
        raise PartError(
            f"{path}: not transforms of Albumentations ({first}). Write them with "
            "albumentations.save."
        ) from error
    _as_compose(part)
    return part


def save_augment(part: Part, path: Path) -> None:
    """Write transforms as JSON for `load_augment`, so that a run can be resumed.

    Raises:
        PartError: They cannot be saved.
    """
    text = json.dumps(_saved(part), indent=1) + "\n"
    with write_whole(path) as file:
        file.write_text(text, encoding="utf-8")


def require_same(part: Part, path: Path) -> None:
    """Refuse, by a PartError, transforms that are not those of a file of `save_augment`."""
    if _saved(part) != json.loads(path.read_text(encoding="utf-8")):
        raise PartError(
            f"{path}: holds other transforms than {part.name}. Resume with those that the run has."
        )


def _saved(part: Part) -> Any:
    try:
        return json.loads(json.dumps(A.to_dict(_as_compose(part))))
    except Exception as error:
        first = " ".join(str(error).split())[:200]
        raise PartError(
            f"--augment {part.name}: cannot be saved, which resuming needs ({first}). Name each "
            "Lambda, or write a class with get_transform_init_args_names."
        ) from error


def _as_compose(part: Part) -> A.Compose:
    """The transforms as one `Compose`."""
    made = part.made
    if isinstance(made, A.Compose):
        return made
    if isinstance(made, A.BasicTransform | A.BaseCompose):
        return A.Compose([made])
    got = " ".join(describe(made).split())
    raise PartError(f"--augment: expected an albumentations.Compose, but got {got}.")


def _apply(
    compose: A.Compose, image: NDArray[Any], masks: Sequence[NDArray[Any]]
) -> tuple[Any, list[Any]]:
    """Apply transforms to an image of any range and to masks."""
    first, *rest = masks
    if image.dtype.kind != "f":
        changed = compose(image=image, mask=first, masks=rest)
        return changed["image"], [changed["mask"], *changed["masks"]]
    low, span = _own_ranges(image)
    changed = compose(image=(image - low) / span, mask=first, masks=rest)
    return changed["image"] * span + low, [changed["mask"], *changed["masks"]]


def _apply_in_parts(
    compose: A.Compose, image: NDArray[Any], masks: Sequence[NDArray[Any]], seed: int
) -> tuple[Any, list[Any]]:
    """As `_apply`, of an image of any number of channels: a preset draws the same for each part.

    Parts are of equal size: `Compression` would change one of 1 or 3 channels.
    """
    count = -(-image.shape[2] // _MOST_CHANNELS)
    results = []
    for part in np.array_split(image, count, axis=2):
        compose.set_random_seed(seed)
        result, moved = _apply(compose, part, masks)
        results.append(result)
    return results[0] if count == 1 else np.concatenate(results, axis=2), moved


def _compose(strength: str, elastic: float, mask_interpolation: int) -> A.Compose:
    strengths = _strengths(mask_interpolation)
    if strength not in strengths:
        raise Error(f"augment is {strength!r}; it is one of {', '.join(strengths)}.")
    first = [Elastic(elastic, mask_interpolation)] if elastic > 0 else []
    return A.Compose([*first, *strengths[strength]])


def _seed(state: tuple[int, ...]) -> int:
    return int(np.random.SeedSequence(state).generate_state(1)[0])


def _own_ranges(image: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Offset and span of each channel for Albumentations, which clips floats to 0..1.

    Channels may have different units, and 16-bit images rarely use their whole range.
    """
    low, high = image.min(axis=(0, 1)), image.max(axis=(0, 1))
    return low, np.maximum((high - low) / _HIGHEST, 1e-12).astype(image.dtype)
