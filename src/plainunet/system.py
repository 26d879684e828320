"""Memory, threads and time."""

import ctypes
import gc
import os
import re
import sys
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from plainunet.errors import Error


def total_memory() -> float:
    """Physical memory of the machine.

    Returns:
        Bytes; infinity if unknown.
    """
    try:
        return float(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    except (AttributeError, ValueError, OSError):  # Windows
        return float("inf")


def read_bytes(text: str) -> float:
    """Parse an amount of memory.

    Args:
        text: As in 500M, 2G or 1.5GiB, in powers of 1024.

    Returns:
        Bytes.

    Raises:
        ValueError: The text is not an amount of memory, or zero.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?)(?:i?B)?", text.strip(), re.IGNORECASE)
    if match is None or float(match[1]) == 0:
        raise Error(f"{text!r} is not an amount of memory. Use a form like 500M, 2G or 1.5G.")
    return float(match[1]) * 1024.0 ** " KMGT".index(match[2].upper() or " ")


def keep_freed_memory() -> None:
    """Make the allocator keep the memory of freed arrays for later ones.

    By default, glibc returns large blocks to the system at once, and each new array waits until its
    pages are mapped and zeroed again: about a tenth of a training step on CPUs, and half of the
    time of decoding images in several threads, which wait for each other there. After this call,
    memory use stays at its peak. Without glibc on Linux, or with limited address space (`ulimit
    -v`), nothing happens.
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
    """Whether the address space of the process is limited."""
    import resource

    return resource.getrlimit(resource.RLIMIT_AS)[0] != resource.RLIM_INFINITY


def give_freed_memory_back() -> None:
    """Undo `keep_freed_memory`, and return free memory to the system.

    For when memory has run out: the kept pieces may be too small for the next array.
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
    """Resident memory of this process, memory-mapped files included.

    Returns:
        Bytes: the current value on Linux, the peak on macOS, None on Windows.
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
    """Recognise out-of-memory errors; PyTorch on CPUs, OpenCV and others have no type for them.

    Args:
        error: The exception.

    Returns:
        Whether an allocation failed.
    """
    words = (
        *("can't allocate memory", "cannot allocate memory", "not enough memory"),
        *("out of memory", "insufficient memory", "bad_alloc", "failed to allocate memory"),
        *("could not create a primitive", "could not execute a primitive"),  # oneDNN
    )
    named = type(error).__name__ == "OutOfMemoryError" or isinstance(error, MemoryError)
    is_vague = isinstance(error, RuntimeError) or type(error).__module__ == "cv2"
    return named or (is_vague and any(word in str(error).lower() for word in words))


def first_line(error: BaseException) -> str:
    """Shorten a message; on running out of memory, some libraries write pages.

    Args:
        error: The exception.

    Returns:
        The first line of its message, or the name of its type.
    """
    return str(error).partition("\n")[0] or type(error).__name__


def shorten(text: str, most: int = 40) -> str:
    """Cut a text to `most` characters for a message."""
    return text if len(text) <= most else f"{text[:most]}..."


# parameter numbers of glibc's malloc.h
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_MMAP_MAX = -1, -3, -4


_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


def cores() -> int:
    """Number of threads for computing: OMP_NUM_THREADS, or the cores this process may use."""
    if (wanted := os.environ.get("OMP_NUM_THREADS", "")).isdecimal() and int(wanted) > 0:
        return int(wanted)
    return _usable_cores()


def _usable_cores() -> int:
    usable = getattr(os, "sched_getaffinity", None)  # Linux alone has it
    return len(usable(0)) if usable else os.cpu_count() or 1


def loader_processes() -> int:
    """Number of processes that load batches for a GPU: 2 to 16.

    The cores are shared by the processes that torchrun started on this machine, one for each GPU;
    OMP_NUM_THREADS, which torchrun sets to 1, does not limit them.
    """
    share = _usable_cores() // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    return max(2, min(16, share - 1))


def spare_threads() -> int:
    """Number of threads for reading or writing files while a network computes.

    Returns:
        1 for a few cores, which the network needs on a CPU; up to 4 for many.
    """
    return max(1, min(4, (os.cpu_count() or 1) // 4))


def fastest(run: Callable[[], _Result], repeats: int) -> tuple[_Result, float]:
    """Run something several times; returns its result, and the time of the fastest run [s]."""
    times = []
    for _ in range(repeats):
        begun = time.perf_counter()
        result = run()
        times.append(time.perf_counter() - begun)
    return result, min(times)


def work_ahead(
    work: Callable[[_Item], _Result], items: Iterable[_Item], threads: int | None = None
) -> Generator[_Result, None, None]:
    """Map a function over items in a thread pool, a bounded number of items ahead.

    Args:
        work: The function; called in several threads at a time.
        items: The items; consumed lazily.
        threads: Number of threads; default: the number of cores.

    Yields:
        The results in the order of the items. An error of `work` is raised at its item.
    """
    threads = threads or os.cpu_count() or 1
    ahead: deque[Future[_Result]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        try:
            for item in items:
                ahead.append(pool.submit(work, item))
                if len(ahead) > 2 * threads:
                    yield ahead.popleft().result()
            while ahead:
                yield ahead.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)
