import threading
import time
from collections.abc import Iterator

import pytest

from plainunet.system import spare_threads, work_ahead


@pytest.mark.parametrize(
    ("cores", "threads"), [(None, 1), (1, 1), (2, 1), (7, 1), (8, 2), (16, 4), (64, 4)]
)
def test_threads_beside_a_network(
    monkeypatch: pytest.MonkeyPatch, cores: int | None, threads: int
) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: cores)
    assert spare_threads() == threads


def test_results_are_in_order() -> None:
    def work(number: int) -> int:
        time.sleep(0.01 * (number % 3))
        return number * number

    assert list(work_ahead(work, range(20), 4)) == [number * number for number in range(20)]


def test_only_a_few_are_ahead() -> None:
    asked: list[int] = []

    def things() -> Iterator[int]:
        for number in range(100):
            asked.append(number)
            yield number

    results = work_ahead(lambda number: number, things(), 2)
    assert next(results) == 0
    assert len(asked) <= 6
    assert list(results) == list(range(1, 100))


def test_an_error_comes_in_its_turn() -> None:
    def work(number: int) -> int:
        if number == 3:
            raise ValueError("three")
        return number

    results = work_ahead(work, range(10), 2)
    assert [next(results) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(ValueError, match="three"):
        next(results)


def test_no_thread_is_left() -> None:
    before = threading.active_count()
    results = work_ahead(lambda number: number, range(1000), 2)
    next(results)
    results.close()  # type: ignore[attr-defined]
    assert threading.active_count() == before
