"""Classes that nobody has named or coloured."""

import pytest

from plainunet.palette import default_colors, default_names


@pytest.mark.parametrize("num_classes", [2, 3, 12, 256])
def test_default_colors(num_classes: int) -> None:
    colors = default_colors(num_classes)
    assert len(colors) == num_classes
    assert colors[0] == (0, 0, 0)
    assert all(0 <= value <= 255 for color in colors for value in color)
    if num_classes <= 12:
        distances = [
            max(abs(a - b) for a, b in zip(one, other, strict=True))
            for i, one in enumerate(colors)
            for other in colors[:i]
        ]
        assert min(distances) > 20


def test_default_names() -> None:
    assert default_names(2) == ("background", "foreground")
    assert default_names(3) == ("class 0", "class 1", "class 2")
