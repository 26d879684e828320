import cv2
import numpy as np
import pytest

from plainunet.data.drawn.scenery import LEAF, STONE, draw_scene


@pytest.mark.parametrize("size", [(64, 64), (97, 131), (128, 80)])
def test_any_size(size: tuple[int, int]) -> None:
    image, mask = draw_scene(np.random.default_rng(0), size)
    assert image.shape == (*size, 3)
    assert image.dtype == np.uint8
    assert mask.shape == size
    assert mask.dtype == np.uint8


def test_the_same_seed_draws_the_same_scene() -> None:
    for once, again in zip(
        *(draw_scene(np.random.default_rng(3), (96, 128)) for _ in range(2)), strict=True
    ):
        assert np.array_equal(once, again)


def test_scenes_hold_both_classes_at_several_sizes() -> None:
    masks = [draw_scene(np.random.default_rng(seed), (96, 128))[1] for seed in range(20)]
    assert set(np.unique(masks)) == {0, LEAF, STONE}
    areas = []
    for mask in masks:
        for label in (LEAF, STONE):
            found = cv2.connectedComponentsWithStats((mask == label).astype(np.uint8))[2]
            areas += found[1:, cv2.CC_STAT_AREA].tolist()
    assert min(areas) < 60
    assert max(areas) > 600


def test_edges_of_the_mask_lie_on_edges_of_the_picture() -> None:
    on_edges, elsewhere = [], []
    for seed in range(10):
        image, mask = draw_scene(np.random.default_rng(seed), (96, 128))
        grey = cv2.GaussianBlur(image.mean(2), (0, 0), 0.7)
        steps = np.hypot(*np.gradient(grey))
        edge = cv2.morphologyEx(mask, cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8)) > 0
        on_edges.append(steps[edge].mean())
        elsewhere.append(steps[~edge].mean())
    assert np.mean(on_edges) > 2 * np.mean(elsewhere)
