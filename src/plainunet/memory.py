"""Where memory comes from.

Limitation: glibc on Linux; elsewhere nothing happens.
"""

import ctypes
import sys


def keep_freed_memory() -> None:
    """Let this process keep memory that arrays free, for the arrays after them.

    By default, glibc gives large blocks back to the system at once, and each new array waits
    while its pages are mapped and zeroed again: about a tenth of a training step on CPUs, and half
    of the time of decoding pictures in several threads, which wait for each other there. From
    this call on the process holds what it has once needed. Elsewhere than with glibc on Linux
    nothing happens.
    """
    if not sys.platform.startswith("linux"):
        return
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # another C library
        return
    mallopt(_M_MMAP_MAX, 0)
    mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)


# numbers of the parameters in glibc's malloc.h
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4
