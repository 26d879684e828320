"""Memory and threads."""

import platform
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import cv2
import pytest

from plainunet.system import (
    first_line,
    is_out_of_memory,
    loader_processes,
    read_bytes,
    resident_memory,
    spare_threads,
    work_ahead,
)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs glibc")
def test_freed_memory_is_kept() -> None:
    """Page faults for equal large arrays, each case in its own process."""
    code = """
import resource, sys
import numpy as np
from plainunet.system import give_freed_memory_back, keep_freed_memory
if sys.argv[1] == "limited":
    resource.setrlimit(resource.RLIMIT_AS, (2**36, 2**36))
if sys.argv[1] in ("keep", "limited", "back"):
    keep_freed_memory()
if sys.argv[1] == "back":
    give_freed_memory_back()
for _ in range(12):  # the heap grows a few times before it is large enough
    np.ones(10 * 2**20, np.float32)  # 40 MiB
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    np.ones(10 * 2**20, np.float32)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
    faults = {
        what: int(subprocess.check_output([sys.executable, "-c", code, what], text=True))
        for what in ("give", "keep", "limited", "back")
    }
    assert faults["keep"] * 10 < faults["give"]
    # not kept with limited address space
    assert faults["limited"] > 5 * faults["keep"]
    assert faults["back"] > 5 * faults["keep"]


@pytest.mark.skipif(sys.platform == "win32", reason="not available on Windows")
def test_resident_memory() -> None:
    code = """
from plainunet.system import resident_memory
before = resident_memory()
block = bytearray(200 * 2**20)
print(before, resident_memory() - before)
"""
    output = subprocess.check_output([sys.executable, "-c", code], text=True)
    before, more = map(int, output.split())
    assert 2**21 < before < 2**28
    assert 190 * 2**20 < more < 220 * 2**20


@pytest.mark.skipif(sys.platform == "win32", reason="not available on Windows")
def test_peak_memory_without_proc(monkeypatch: pytest.MonkeyPatch) -> None:
    import resource

    monkeypatch.setattr("plainunet.system.Path", lambda path: Path(f"/nowhere{path}"))
    for system, unit in (("darwin", 1), ("freebsd", 1024)):
        monkeypatch.setattr(sys, "platform", system)
        assert resident_memory() == resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    monkeypatch.setitem(sys.modules, "resource", None)
    assert resident_memory() is None


@pytest.mark.parametrize(
    ("error", "is_memory"),
    [
        (MemoryError(), True),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), True),
        (RuntimeError("std::bad_alloc"), True),
        (RuntimeError("unable to mmap 7 bytes: Cannot allocate memory (12)"), True),
        (cv2.error("(-4:Insufficient memory) Failed to allocate 29 bytes"), True),
        (cv2.error("(-5:Bad argument)"), False),
        (RuntimeError("shapes do not match"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_out_of_memory_errors(error: Exception, is_memory: bool) -> None:
    assert is_out_of_memory(error) == is_memory


def test_first_line_of_errors() -> None:
    assert first_line(RuntimeError("out of memory\nand much more")) == "out of memory"
    assert first_line(MemoryError()) == "MemoryError"


def test_amounts_of_memory() -> None:
    known = {"500M": 500 * 2**20, "2G": 2**31, "1.5GiB": 1.5 * 2**30, "64kb": 2**16, "9": 9}
    assert {text: read_bytes(text) for text in known} == known
    for text in ("", "much", "-2G", "0", "2X", "G"):
        with pytest.raises(ValueError, match=f"^'{text}' "):
            read_bytes(text)


@pytest.mark.parametrize(
    ("cores", "gpus", "processes"),
    [(1, 1, 2), (2, 1, 2), (4, 1, 3), (16, 1, 15), (64, 1, 16), (64, 8, 7), (8, 8, 2)],
)
def test_loader_processes(
    monkeypatch: pytest.MonkeyPatch, cores: int, gpus: int, processes: int
) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: range(cores), raising=False)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # as torchrun sets it
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(gpus))
    assert loader_processes() == processes


@pytest.mark.parametrize(
    ("cores", "threads"), [(None, 1), (1, 1), (2, 1), (7, 1), (8, 2), (16, 4), (64, 4)]
)
def test_spare_threads(monkeypatch: pytest.MonkeyPatch, cores: int | None, threads: int) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: cores)
    assert spare_threads() == threads


def test_order_of_results_and_errors() -> None:
    def work(number: int) -> int:
        time.sleep(0.01 * (number % 3))
        if number == 13:
            raise ValueError("thirteen")
        return number * number

    assert list(work_ahead(work, range(13), 4)) == [number * number for number in range(13)]
    results = work_ahead(work, range(20), 2)
    assert [next(results) for _ in range(13)] == [number * number for number in range(13)]
    with pytest.raises(ValueError, match="thirteen"):
        next(results)


def test_bounded_prefetch_leaves_no_thread() -> None:
    consumed: list[int] = []

    def items() -> Iterator[int]:
        for number in range(100):
            consumed.append(number)
            yield number

    before = threading.active_count()
    results = work_ahead(lambda number: number, items(), 2)
    assert next(results) == 0
    assert len(consumed) <= 6
    results.close()  # type: ignore[attr-defined]
    assert threading.active_count() == before
