from collections.abc import Callable
from typing import Any

from plainunet.evaluation.report.figures import (
    calibration_figure,
    ceiling_figure,
    size_figures,
    strip_figure,
    threshold_figure,
    together_figures,
    training_figures,
)

Make = Callable[..., dict[str, Any]]


def test_what_is_missing_is_not_drawn(result_of: Make) -> None:
    for nothing in (None, []):
        assert training_figures(nothing) == ""
    for empty in (None, {}):
        assert threshold_figure(empty) == calibration_figure(empty) == together_figures(empty) == ""
    assert ceiling_figure({**result_of(), "ceiling": None}) == ""
    assert size_figures(result_of(2)["images"], ["no such class"]) == ""


def test_training_curves_say_where_they_end(result_of: Make) -> None:
    said = training_figures(result_of()["curves"])
    assert said.count("<figure>") == 3
    assert "at the end 0.08333" in said
    curves = [{"epoch": 1, "loss": float("nan"), "per_image_dice": None}]
    assert training_figures(curves) == ""
    assert training_figures([{"epoch": 1, "loss": 0.5}]).count("<figure>") == 1


def test_each_picture_has_a_dot_for_each_class(result_of: Make) -> None:
    images = result_of(10, ("background", "leaf", "stone"))["images"]
    images[3]["dice"]["per_class"]["leaf"] = None
    said = strip_figure(images, ["leaf", "stone"])
    assert said.count("<circle") == 19
    assert "share a dot" not in said


def test_many_pictures_share_dots(result_of: Make) -> None:
    names = [f"class {k}" for k in range(20)]
    images = result_of(400, names)["images"]
    said = strip_figure(images, names[1:])
    assert "share a dot" in said
    assert len(said) < 500_000
    assert len(size_figures(images, names[1:])) < 1_500_000


def test_a_class_without_area_has_no_size(result_of: Make) -> None:
    images = result_of(10)["images"]
    images[0]["areas"]["car"] = 0
    images[1]["dice"]["per_class"]["car"] = None
    said = size_figures(images, ["car"])
    assert said.count("<circle") == 8
    assert "car: 8 pictures that have it." in said


def test_the_chosen_threshold_is_marked(result_of: Make) -> None:
    result = result_of()
    said = threshold_figure(result["threshold_curve"])
    assert "Masks were made at 0.5." in said
    assert "chosen: 0.5" in said
    result["threshold_curve"]["chosen"] = None
    assert "chosen" not in threshold_figure(result["threshold_curve"])
    assert together_figures(result["objects"]).count("<figure>") == 1


def test_calibration_has_its_error(result_of: Make) -> None:
    found = result_of()["calibration"]
    assert "Calibration error 0.0123" in calibration_figure(found)
    found["error"] = None
    assert "Calibration error \u2013" in calibration_figure(found)


def test_the_ceiling_stands_beside_the_score(result_of: Make) -> None:
    result = result_of()
    result["per_image"]["dice"]["mean_foreground"] = 0.9
    said = ceiling_figure(result)
    assert "reduced to 240 x 360 pixels" in said
    assert "The model is 0.0965 below." in said
    assert "this model, per image: 0.9000" in said
    result["per_image"]["dice"]["mean_foreground"] = None
    assert "this model" not in ceiling_figure(result)
    result["intervals"]["per_image"]["dice"]["mean_foreground"] = [None, None]
    assert "None" not in ceiling_figure(result)
