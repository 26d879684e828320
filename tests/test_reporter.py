import pytest

from plainunet.formats.problems import DataError
from plainunet.reporter import Collected, silent


def test_a_problem_is_raised_unless_it_is_collected() -> None:
    one, other = DataError("one"), DataError("other")
    with pytest.raises(DataError, match="one"):
        silent.problem(one)
    collected = Collected()
    collected.note("hint")
    collected.problem(one)
    collected.problem(DataError("both", parts=[one, other]))
    assert collected.notes == ["hint"]
    assert collected.problems == [one, one, other]
