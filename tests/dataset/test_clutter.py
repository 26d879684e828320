import cv2
import numpy as np

from plainunet.data.drawn.clutter import make_clutter
from plainunet.data.drawn.objects import Patch


def test_several_kinds_that_can_be_painted() -> None:
    kinds = set()
    for seed in range(40):
        rng = np.random.default_rng(seed)
        thing, radius = make_clutter(rng)
        assert 4 <= radius <= 45
        assert thing.outline.dtype == np.float32
        inside = np.zeros((101, 101), np.uint8)
        cv2.fillPoly(inside, [np.rint(40 * thing.outline + 50).astype(np.int32)], (1,))
        v, u = ((np.mgrid[0:101, 0:101] - 50) / 40).astype(np.float32)
        depth = cv2.distanceTransform(inside, cv2.DIST_L2, 3) / np.float32(40)
        painted = thing.paint(rng, Patch(u, v, depth, 40.0, (0.0, 1.0)))
        assert painted.shape == (101, 101, 3)
        assert painted.dtype == np.float32
        assert np.isfinite(painted).all()
        kinds.add(thing.thickness)
    # twig, scrap, button, stain: each rises differently, and only the stain not at all
    assert kinds == {0.04, 0.05, 0.12, 0.0}
