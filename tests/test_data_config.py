import pytest

from plainunet.config import DataConfig


def test_colors_are_six_digits_and_differ() -> None:
    assert DataConfig(colors=("#FF0000", "00ff7f")).legend == ((255, 0, 0), (0, 255, 127))
    for wrong, said in ((("red",), "'red' is no colour"), (("ff0000", "FF0000"), "of its own")):
        with pytest.raises(ValueError, match=said):
            DataConfig(colors=wrong)


def test_class_names_may_have_commas_between() -> None:
    for given in (("road,car",), ["road, car"], ("road", "car")):
        assert DataConfig(classes=given).classes == ("road", "car")
    assert DataConfig().classes == ()


def test_values_differ_and_fit_in_16_bits() -> None:
    assert DataConfig(values=(7, 0)).values == (7, 0)
    for wrong in ((0, 0), (0, -1), (0, 65536)):
        with pytest.raises(ValueError, match="a value of its own, from 0 to 65535"):
            DataConfig(values=wrong)


def test_a_class_is_not_ignored() -> None:
    assert DataConfig(values=(1, 2), ignore=0).ignore == 0
    with pytest.raises(ValueError, match="a class whose pixels do not count"):
        DataConfig(values=(0, 1), ignore=0)
