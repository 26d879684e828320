"""How a picture lies, and turning it upright.

In: an open picture, or an array as stored. Out: the EXIF orientation, or the array upright.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image


def find_orientation(picture: Image.Image) -> int:
    """Read how a picture is to be turned.

    Args:
        picture: The picture, open.

    Returns:
        1..8 (EXIF 2.32, tag 274); 1 where it is not known.
    """
    try:
        value = picture.getexif().get(0x0112, 1)
    except (OSError, SyntaxError, ValueError, TypeError, LookupError):
        return 1
    return int(value) if value in range(1, 9) else 1


def turn_upright(image: NDArray[Any], orientation: int) -> NDArray[Any]:
    """Undo the rotation or reflection that EXIF orientation names.

    Args:
        image: [H, W] or [H, W, C], as stored.
        orientation: 1..8 (EXIF 2.32, tag 274).

    Returns:
        [H, W, ...] or, for 5..8, [W, H, ...]; contiguous.
    """
    if orientation > 4:
        image = image.swapaxes(0, 1)
    # what is left of the eight cases is a flip along one axis, the other, or both
    if orientation in (3, 4, 7, 8):
        image = image[::-1]
    if orientation in (2, 3, 6, 7):
        image = image[:, ::-1]
    return np.ascontiguousarray(image)
