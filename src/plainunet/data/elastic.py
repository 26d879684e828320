"""Smooth random deformations, as in section 3.1 of the U-Net paper (arXiv 1505.04597).

Displacements are drawn on a grid of 3 x 3 nodes over the whole picture, and those of the pixels
between them come from bicubic interpolation. Of Albumentations 2.0.8's own, none does so:
`ElasticTransform` draws a displacement for each pixel and blurs them, `GridElasticDeform`
draws evenly and changes each cell of its grid by a perspective, `ThinPlateSpline` interpolates
by another function, with a deviation that is itself drawn, in shares of the picture's sides.
"""

from functools import lru_cache
from typing import Any

import cv2
import numpy as np
from albumentations.augmentations.geometric.distortion import BaseDistortion
from numpy.typing import NDArray


class Elastic(BaseDistortion):  # type: ignore[misc]
    """The deformation as a transform of Albumentations, which moves images and masks by it.

    Seen past its outline, a picture is mirrored.
    """

    def __init__(self, deviation: float, mask_interpolation: int) -> None:
        """Make it.

        Args:
            deviation: Standard deviation of both parts of each displacement [pixels].
            mask_interpolation: OpenCV's number of how masks are read between pixels.
        """
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
        """Draw a deformation.

        Args:
            params: What Albumentations knows: "shape" begins with height and width [pixels].
            data: The sample; not looked at.

        Returns:
            "map_x" and "map_y", [H, W] float32: where each pixel is read from [pixels].
        """
        height, width = params["shape"][:2]
        nodes = self.random_generator.normal(0, self.deviation, (2, 3, 3))
        across, down = (displacements(part, (height, width)) for part in nodes)
        return {
            "map_x": np.arange(width, dtype=np.float32) + across,
            "map_y": np.arange(height, dtype=np.float32)[:, None] + down,
        }


def displacements(nodes: NDArray[np.float64], size: tuple[int, int]) -> NDArray[np.float32]:
    """Interpolate between 3 x 3 nodes, bicubically.

    Args:
        nodes: [3, 3] float64; the corners, the middles of the sides, and the centre.
        size: Height and width [pixels].

    Returns:
        [*size] float32; at the nodes what was given there.
    """
    return (_cubic(size[0]) @ nodes @ _cubic(size[1]).T).astype(np.float32)


@lru_cache(maxsize=16)
def _cubic(count: int) -> NDArray[np.float64]:
    """[count, 3]: how much each of three nodes counts at each pixel between the outer two.

    This is the cubic convolution of Keys 1981 with a = -1/2; beyond the outer nodes lie
    others of the same value.
    """
    places = np.linspace(0, 2, count)[:, None]
    d = np.abs(places - np.arange(-1, 4))
    near = 1 - 2.5 * d**2 + 1.5 * d**3
    far = 2 - 4 * d + 2.5 * d**2 - 0.5 * d**3
    counts = np.where(d < 1, near, np.where(d < 2, far, 0))
    return np.stack([counts[:, :2].sum(axis=1), counts[:, 2], counts[:, 3:].sum(axis=1)], axis=1)
