import math
from typing import Any

import pytest

from plainunet.text import count, interval, number, percent, plural, score, setting


def test_numbers_have_their_digits() -> None:
    assert (score(0.98765), score(1), score(3.14159, 2)) == ("0.9877", "1.0000", "3.14")
    assert count(1942594) == "1,942,594"
    assert interval([0.9, 0.95]) == "0.9000\u20130.9500"
    assert interval([1.234, 5.678], 2) == "1.23\u20135.68"
    assert (plural(1, "image"), plural(2000, "group")) == ("1 image", "2,000 groups")
    shares = [percent(*each) for each in ((1, 3), (0, 3), (0, 0), (1, 10**6), (3, 3))]
    assert shares == ["33.33", "0", "\u2013", "<0.01", "100.00"]
    assert percent(1, 3, 1) == "33.3"


@pytest.mark.parametrize("nothing", [None, math.nan, math.inf])
def test_what_is_not_known_is_a_dash(nothing: Any) -> None:
    assert {score(nothing), count(nothing), setting(nothing)} == {"\u2013"}
    assert interval([0.5, nothing]) == interval(None) == interval([]) == ""
    assert number(nothing) is None


def test_settings_are_written_as_they_are() -> None:
    assert setting("adamw, None, nan") == "adamw, None, nan"
    assert setting(True) == "true"
    assert setting([240, None, {"a": math.nan, "nullable": "ö"}]) == (
        '[240, "\u2013", {"a": "\u2013", "nullable": "ö"}]'
    )
    assert setting("") == "\u2013"
