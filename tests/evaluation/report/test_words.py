import math

import pytest

from plainunet.evaluation.report.words import (
    NOTHING,
    bounds,
    count,
    cut,
    dig,
    numbers,
    pixels,
    score,
    setting,
    several,
    text,
)


def test_numbers_have_their_digits() -> None:
    assert score(0.98765) == "0.9877"
    assert score(1) == "1.0000"
    assert pixels(3.14159) == "3.14"
    assert count(1942594) == "1,942,594"
    assert bounds([0.9, 0.95]) == "0.9000 to 0.9500"
    assert bounds([1.234, 5.678], 2) == "1.23 to 5.68"
    assert several(1, "picture") == "1 picture"
    assert several(2000, "group") == "2,000 groups"


@pytest.mark.parametrize("nothing", [None, math.nan, math.inf])
def test_what_is_not_known_is_a_dash(nothing: float | None) -> None:
    assert {score(nothing), pixels(nothing), count(nothing), setting(nothing)} == {"\u2013"}
    assert bounds([0.5, nothing]) == bounds(None) == bounds([]) == ""
    assert numbers([nothing, 0.5]) == [None, 0.5]
    assert numbers(None) == []


def test_settings_are_written_as_they_are() -> None:
    assert setting("adamw, None, nan") == "adamw, None, nan"
    assert setting(True) == "true"
    assert setting([240, None, {"a": math.nan, "nullable": "ö"}]) == (
        f'[240, "{NOTHING}", {{"a": "{NOTHING}", "nullable": "ö"}}]'
    )
    assert setting("") == NOTHING


def test_text_is_escaped_and_cut_at_its_beginning() -> None:
    assert text("</script>'\"&") == "&lt;/script&gt;&#x27;&quot;&amp;"
    assert cut("cars/0001.jpg", 9) == "…0001.jpg"
    assert cut("a.jpg", 9) == "a.jpg"


def test_digging_ends_where_nothing_is() -> None:
    assert dig({"a": {"b": 1}}, "a", "b") == 1
    assert dig({"a": None}, "a", "b") is None
    assert dig(None, "a") is None
