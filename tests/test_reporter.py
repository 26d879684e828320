import warnings
from concurrent.futures import ThreadPoolExecutor
from threading import Event

import pytest

from plainunet.formats.problems import DataError
from plainunet.reporter import Collected, drop_warnings, note_warnings, silent, warn


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


def test_notes_in_one_thread_leave_the_filters_of_others_alone() -> None:
    """`predict` notes warnings of an image while another thread writes the one before."""
    filtering, noting = Event(), Event()

    def write() -> None:
        with drop_warnings():
            filtering.set()
            assert noting.wait(60)
            warnings.warn("of a library", stacklevel=1)  # an error if the filter is gone

    collected = Collected()
    with ThreadPoolExecutor(1) as pool:
        with note_warnings("a.png", collected):
            job = pool.submit(write)
            assert filtering.wait(60)
            warn("dark")
            warn("dark")
        noting.set()
        job.result()
    assert collected.notes == ["a.png: dark"]
    with pytest.warns(UserWarning, match="dark") as caught:
        warn("dark")
    assert caught[0].filename == __file__
