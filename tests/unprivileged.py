"""File modes that hold for root too, so that tests of permissions run in containers.

As a script (`runpy.run_path(..., run_name="__main__")`) it applies to the rest of the process.
"""

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager

_DAC = 0b110  # CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH: to read and write what modes forbid


class _Header(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


class _Sets(ctypes.Structure):
    _fields_ = tuple((name, ctypes.c_uint32) for name in ("effective", "permitted", "inheritable"))


def obey_modes(obey: bool) -> None:
    """Give up root's special rights in this thread and what is forked from it, or take them back.

    Other users and systems have none.
    """
    if sys.platform != "linux":
        return
    libc, header, sets = ctypes.CDLL(None), _Header(0x20080522, 0), (_Sets * 2)()
    assert libc.capget(ctypes.byref(header), sets) == 0
    allowed = 0 if obey else sets[0].permitted & _DAC
    sets[0].effective = sets[0].effective & ~_DAC | allowed
    assert libc.capset(ctypes.byref(header), sets) == 0


@contextmanager
def unprivileged() -> Iterator[None]:
    """File modes hold."""
    obey_modes(True)
    try:
        yield
    finally:
        obey_modes(False)


if __name__ == "__main__":
    obey_modes(True)
