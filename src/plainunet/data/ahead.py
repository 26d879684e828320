"""Work on many things in threads, a few ahead of the one that is asked for.

In: things, and what to do with each. Out: the results in order, of which only a few wait in
memory. Codecs let go of the interpreter while they decode, so threads are enough.
"""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

_Thing = TypeVar("_Thing")
_Result = TypeVar("_Result")


def spare_threads() -> int:
    """Say in how many threads files are read, or written, beside a network that computes.

    Returns:
        1 for a few cores, which the network needs on a CPU; up to 4 for many.
    """
    return max(1, min(4, (os.cpu_count() or 1) // 4))


def work_ahead(
    work: Callable[[_Thing], _Result], things: Iterable[_Thing], threads: int | None = None
) -> Iterator[_Result]:
    """Do the same with each of many things.

    Args:
        work: What to do; called in several threads at a time.
        things: The things; they are asked for as the work goes on.
        threads: How many at a time; left out, as many as there are cores.

    Yields:
        The results in the order of the things. What `work` raises is raised here, in its turn.
    """
    threads = threads or os.cpu_count() or 1
    ahead: deque[Future[_Result]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        try:
            for thing in things:
                ahead.append(pool.submit(work, thing))
                if len(ahead) > 2 * threads:
                    yield ahead.popleft().result()
            while ahead:
                yield ahead.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)
