"""Pictures and masks at another size.

In: arrays. Out: pictures reduced by averaging areas; masks as the share of area that each class
covers, since a reduced mask is no longer a class per pixel.
"""

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray


def fit_size(size: tuple[int, int], box: tuple[int, int]) -> tuple[int, int]:
    """The size of a picture that is reduced to fit in a box; it is never enlarged.

    Args:
        size: Height and width of the picture [pixels].
        box: Height and width of the box [pixels].

    Returns:
        Height and width [pixels], each at least 1, in the picture's proportions.
    """
    scale = min(1.0, box[0] / size[0], box[1] / size[1])
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def reduce_size(size: tuple[int, int], factor: float) -> tuple[int, int]:
    """The size of a picture that is reduced by a factor, whatever its size.

    Args:
        size: Height and width of the picture [pixels].
        factor: Length of a side afterwards, as a share of its length before, 0 < factor <= 1.

    Returns:
        Height and width [pixels], each at least 1.
    """
    return max(1, round(size[0] * factor)), max(1, round(size[1] * factor))


def resize(image: NDArray[Any], size: tuple[int, int]) -> NDArray[Any]:
    """Reduce a picture by averaging areas; enlarge it bilinearly.

    Args:
        image: [H, W, C], integers or floats.
        size: New height and width [pixels].

    Returns:
        [size[0], size[1], C], the same dtype.
    """
    if image.shape[:2] == size:
        return image
    height, width = size
    larger = height > image.shape[0] or width > image.shape[1]
    how = cv2.INTER_LINEAR if larger else cv2.INTER_AREA
    # OpenCV averages areas of at most four channels at a time
    parts = [
        cv2.resize(image[..., first : first + 4], (width, height), interpolation=how)
        for first in range(0, image.shape[2], 4)
    ]
    return np.concatenate([part.reshape(height, width, -1) for part in parts], axis=2)


def halve(image: NDArray[Any], size: tuple[int, int]) -> NDArray[Any]:
    """Reduce a picture by whole blocks of 2 x 2 as far as they go, which is fast.

    What `resize` makes of the result differs from what it makes of the picture by a little,
    where an area ends inside a block.

    Args:
        image: [H, W, C], integers or floats.
        size: Height and width that it will be reduced to [pixels].

    Returns:
        [H / 2^n, W / 2^n, C], the same dtype, no smaller than `size`.
    """
    height, width, channels = image.shape
    while not height % 2 and not width % 2 and height >= 2 * size[0] and width >= 2 * size[1]:
        height, width = height // 2, width // 2
        image = resize(image, (height, width)).reshape(height, width, channels)
    return image


def area_shares(
    mask: NDArray[np.uint8], num_classes: int, size: tuple[int, int]
) -> NDArray[np.uint8]:
    """Bring a mask to another size as the share of area that each class covers.

    Args:
        mask: [H, W] uint8, class ids 0..K-1; any other value does not count.
        num_classes: K.
        size: New height and width [pixels].

    Returns:
        Shares [size[0], size[1], K] uint8, in 1/255.
    """
    return np.stack([class_share(mask, k, size) for k in range(num_classes)], axis=2)


def class_share(mask: NDArray[np.uint8], class_id: int, size: tuple[int, int]) -> NDArray[np.uint8]:
    """Bring one class of a mask to another size as the share of area that it covers.

    Args:
        mask: [H, W] uint8, class ids.
        class_id: The class.
        size: New height and width [pixels].

    Returns:
        Shares [size[0], size[1]] uint8, in 1/255.
    """
    inside = (mask == class_id).view(np.uint8) * np.uint8(255)
    return resize(inside[..., None], size)[..., 0]
