"""Memory and threads of this process."""

import ctypes
import gc
import os
import re
import sys
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar


def total_memory() -> float:
    """Say how much memory the machine has.

    Returns:
        Bytes; infinite where the system does not tell.
    """
    try:
        return float(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    except (AttributeError, ValueError, OSError):  # Windows
        return float("inf")


def read_bytes(said: str) -> float:
    """Read an amount of memory.

    Args:
        said: As in 500M, 2G or 1.5GiB: in units of 1024.

    Returns:
        Bytes.

    Raises:
        ValueError: It is no such amount.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?)(?:i?B)?", said.strip(), re.IGNORECASE)
    if match is None or float(match[1]) == 0:
        raise ValueError(f"{said!r} is no amount of memory. Write it as in 500M, 2G or 1.5G.")
    return float(match[1]) * 1024.0 ** " KMGT".index(match[2].upper() or " ")


def keep_freed_memory() -> None:
    """Let this process keep memory that arrays free, for the arrays after them.

    By default, glibc gives large blocks back to the system at once, and each new array waits
    while its pages are mapped and zeroed again: about a tenth of a training step on CPUs, and half
    of the time of decoding pictures in several threads, which wait for each other there. From
    this call on the process holds what it has once needed. Elsewhere than with glibc on Linux
    nothing happens, nor where memory is limited for the process (`ulimit -v`): what is kept for
    some arrays would be missing for others.
    """
    if not sys.platform.startswith("linux") or _is_limited():
        return
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # another C library
        return
    mallopt(_M_MMAP_MAX, 0)
    mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)


def _is_limited() -> bool:
    """Tell whether the process may have only so much address space."""
    import resource

    return resource.getrlimit(resource.RLIMIT_AS)[0] != resource.RLIM_INFINITY


def give_freed_memory_back() -> None:
    """Undo `keep_freed_memory`, and give the system what is free now.

    Where memory has run out, what is kept for arrays is missing elsewhere, in pieces too small
    for the next array.
    """
    gc.collect()
    if not sys.platform.startswith("linux"):
        return
    try:
        libc = ctypes.CDLL(None)
        libc.mallopt(_M_MMAP_MAX, 65536)
        libc.mallopt(_M_MMAP_THRESHOLD, 2**17)
        libc.mallopt(_M_TRIM_THRESHOLD, 2**17)
        libc.malloc_trim(0)
    except (OSError, AttributeError):  # another C library
        return


def resident_memory() -> int | None:
    """Say how much memory this process has.

    Returns:
        Bytes, files mapped into memory included: now on Linux, the most so far on macOS. None
        on Windows.
    """
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, AttributeError):
        pass
    try:
        import resource
    except ImportError:  # Windows
        return None
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024


def is_out_of_memory(error: BaseException) -> bool:
    """Tell a lack of memory, which PyTorch (on CPUs), OpenCV and others report by words alone.

    Args:
        error: What was raised.

    Returns:
        Whether it says that memory could not be had.
    """
    words = (
        *("can't allocate memory", "cannot allocate memory", "not enough memory"),
        *("out of memory", "insufficient memory", "bad_alloc"),
        *("could not create a primitive", "could not execute a primitive"),  # says oneDNN
    )
    named = type(error).__name__ == "OutOfMemoryError" or isinstance(error, MemoryError)
    is_vague = isinstance(error, RuntimeError) or type(error).__module__ == "cv2"
    return named or (is_vague and any(word in str(error).lower() for word in words))


def first_line(error: BaseException) -> str:
    """Say shortly what was raised; of a lack of memory, some libraries write pages.

    Args:
        error: What was raised.

    Returns:
        The first line of its message, or the name of its type.
    """
    return str(error).partition("\n")[0] or type(error).__name__


def shorten(text: str, most: int = 40) -> str:
    """Cut a text down to `most` letters for a message."""
    return text if len(text) <= most else f"{text[:most]}..."


# numbers of the parameters in glibc's malloc.h
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_MMAP_MAX = -1, -3, -4


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
) -> Generator[_Result, None, None]:
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
