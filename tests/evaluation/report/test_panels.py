import base64
from collections.abc import Callable
from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from plainunet.evaluation.report.panels import (
    Shown,
    draw_panels,
    encode,
    fit_panels,
    gallery,
    legend,
)

COLORS = ((0, 0, 0), (255, 255, 255))


def decoded(uri: str) -> tuple[np.ndarray, str]:
    """What a data URI holds: [h, w, 3] uint8, and its format."""
    with Image.open(BytesIO(base64.b64decode(uri.split(",")[1]))) as picture:
        return np.asarray(picture.convert("RGB")), str(picture.format)


def small() -> Shown:
    """[4, 6]: two columns are class 1; one of its pixels is missed, one pixel is ignored."""
    truth = np.zeros((4, 6), np.uint8)
    truth[:, 2:4] = 1
    prediction = truth.copy()
    prediction[1, 2] = 0
    prediction[0, 0] = 1
    truth[0, 0] = 255
    return Shown(0, np.full((4, 6, 3), 120, np.uint8), truth, prediction, "worst")


def test_errors_are_red_and_what_is_ignored_is_grey() -> None:
    picture, truth, prediction, errors = draw_panels(small(), COLORS, 100)
    assert (picture == 120).all()
    assert truth[0, 0].tolist() == [128] * 3
    assert truth[1, 2].tolist() == [255] * 3
    assert prediction[1, 2].tolist() == [0] * 3
    assert errors[1, 2].tolist() == [255, 40, 40]
    assert errors[0, 0].tolist() == [128] * 3
    assert (np.delete(errors.reshape(-1, 3), [0, 8], axis=0) == 40).all()


def test_a_reduced_error_is_as_red_as_it_is_large() -> None:
    errors = draw_panels(small(), COLORS, 3)[3]
    assert errors.shape == (2, 3, 3)
    assert errors[0, 1].tolist() == [94, 40, 40]  # one pixel of four
    assert errors[0, 0].tolist() == [62] * 3


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 7])
@pytest.mark.parametrize("kind", [np.uint8, np.uint16, np.float32])
def test_pictures_of_every_kind(channels: int, kind: type) -> None:
    shown = small()
    values = np.linspace(0, 1, 4 * 6 * channels).reshape(4, 6, channels)
    most = 1 if kind is np.float32 else np.iinfo(kind).max
    panels = draw_panels(shown._replace(image=(values * most).astype(kind)), COLORS, 3)
    assert [panel.shape for panel in panels] == [(2, 3, 3)] * 4
    assert {panel.dtype for panel in panels} == {np.dtype(np.uint8)}
    assert panels[0].max() > panels[0].min() + 50


def test_sizes_must_agree() -> None:
    with pytest.raises(ValueError, match="of the picture's own size"):
        draw_panels(small()._replace(image=np.zeros((5, 6, 3), np.uint8)), COLORS, 9)


def test_photographs_are_jpeg_and_masks_png(shown_of: Callable[..., Shown]) -> None:
    panels = draw_panels(shown_of(0), COLORS, 500)
    found = [decoded(uri) for uri in encode(panels)]
    assert [form for _, form in found] == ["JPEG", "PNG", "PNG", "JPEG"]
    for place in (1, 2):
        np.testing.assert_array_equal(found[place][0], panels[place])
    assert np.abs(found[0][0].astype(int) - panels[0]).mean() < 12


def test_panels_are_as_large_as_their_weight_allows(shown_of: Callable[..., Shown]) -> None:
    shown = shown_of(0, height=1280, width=1918)
    sides = []
    for most in (10_000_000, 200_000, 60_000, 1):
        uris, size = fit_panels(shown, COLORS, most)
        assert decoded(uris[0])[0].shape[:2] == size
        assert sum(map(len, uris)) <= most or most == 1
        sides.append(max(size))
    assert sides == sorted(sides, reverse=True)
    assert sides[0] == 1000
    assert sides[-1] == 64
    assert fit_panels(shown_of(0), COLORS, 10_000_000)[1] == (128, 192), "nothing is enlarged"


def test_a_gallery_says_what_is_shown(shown_of: Callable[..., Shown]) -> None:
    images = [
        {"image": "<b>.png", "dice": {"mean_foreground": 0.12345}},
        {"image": "b.png", "dice": {"mean_foreground": None}},
    ]
    shown = [shown_of(0), shown_of(1, "median")]
    page = gallery(shown, images, COLORS, 10**6)
    assert page.index("The worst") < page.index("Around the median")
    assert "&lt;b&gt;.png: <strong>Dice 0.1235</strong>" in page.replace("0.1234<", "0.1235<")
    assert "b.png: <strong>no object</strong>" in page
    assert "<b>" not in page
    assert page.count("<button") == page.count("<img") == page.count(' alt="') == 8
    assert 'alt="true mask of b.png"' in page
    assert 'id="picture-1"' in page
    assert gallery([], images, COLORS, 10**6) == ""


def test_a_legend_names_colours() -> None:
    said = legend(["background", "</b>"], COLORS)
    assert said.count('fill="rgb(255,255,255)"') == 1
    assert "&lt;/b&gt;" in said
