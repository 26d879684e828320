import platform
import subprocess
import sys
from pathlib import Path

import cv2
import pytest

from plainunet.system import first_line, is_out_of_memory, read_bytes, resident_memory


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc gives memory back")
def test_freed_memory_is_kept() -> None:
    """In a process of its own: how often pages are mapped anew for equal large tensors."""
    code = """
import resource, sys, torch
from plainunet.system import give_freed_memory_back, keep_freed_memory
if sys.argv[1] == "limited":
    resource.setrlimit(resource.RLIMIT_AS, (2**36, 2**36))
if sys.argv[1] == "back":
    keep_freed_memory()
    give_freed_memory_back()
if sys.argv[1] in ("keep", "limited"):
    keep_freed_memory()
for _ in range(12):  # the heap grows a few times before it is large enough
    torch.ones(10 * 2**20)  # 40 MiB
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    torch.ones(10 * 2**20)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
    faults = {
        what: int(subprocess.check_output([sys.executable, "-c", code, what], text=True))
        for what in ("give", "keep", "limited", "back")
    }
    assert faults["keep"] * 10 < faults["give"]
    # where it would be missing elsewhere, it goes back
    assert faults["limited"] > 5 * faults["keep"]
    assert faults["back"] > 5 * faults["keep"]


@pytest.mark.skipif(sys.platform == "win32", reason="nobody counts")
def test_what_is_taken_is_counted() -> None:
    code = """
from plainunet.system import first_line, is_out_of_memory, read_bytes, resident_memory
before = resident_memory()
block = bytearray(200 * 2**20)
print(before, resident_memory() - before)
"""
    said = subprocess.check_output([sys.executable, "-c", code], text=True)
    before, more = map(int, said.split())
    assert 2**21 < before < 2**28
    assert 190 * 2**20 < more < 220 * 2**20


@pytest.mark.skipif(sys.platform == "win32", reason="nobody counts")
@pytest.mark.parametrize(("system", "unit"), [("darwin", 1), ("freebsd", 1024)])
def test_without_proc_the_most_so_far_is_told(
    monkeypatch: pytest.MonkeyPatch, system: str, unit: int
) -> None:
    import resource

    monkeypatch.setattr("plainunet.system.Path", lambda path: Path(f"/nowhere{path}"))
    monkeypatch.setattr(sys, "platform", system)
    assert resident_memory() == resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def test_where_nobody_counts_nothing_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("plainunet.system.Path", lambda path: Path(f"/nowhere{path}"))
    monkeypatch.setitem(sys.modules, "resource", None)
    assert resident_memory() is None


def test_a_lack_of_memory_is_told_from_other_errors() -> None:
    assert is_out_of_memory(MemoryError())
    assert is_out_of_memory(RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"))
    assert is_out_of_memory(RuntimeError("std::bad_alloc"))
    assert is_out_of_memory(RuntimeError("unable to mmap 7 bytes: Cannot allocate memory (12)"))
    assert is_out_of_memory(cv2.error("(-4:Insufficient memory) Failed to allocate 29 bytes"))
    assert not is_out_of_memory(cv2.error("(-5:Bad argument)"))
    assert not is_out_of_memory(RuntimeError("shapes do not match"))
    assert not is_out_of_memory(ValueError("out of memory"))


def test_errors_are_said_shortly() -> None:
    assert first_line(RuntimeError("out of memory\nand much more")) == "out of memory"
    assert first_line(MemoryError()) == "MemoryError"


@pytest.mark.parametrize(
    ("said", "number"),
    [("500M", 500 * 2**20), ("2G", 2**31), ("1.5GiB", 1.5 * 2**30), ("64kb", 2**16), ("9", 9)],
)
def test_amounts_of_memory(said: str, number: float) -> None:
    assert read_bytes(said) == number


@pytest.mark.parametrize("said", ["", "much", "-2G", "0", "2X", "G"])
def test_what_is_no_amount_of_memory(said: str) -> None:
    with pytest.raises(ValueError, match="500M, 2G"):
        read_bytes(said)
