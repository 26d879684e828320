import platform
import subprocess
import sys

import pytest


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc gives memory back")
def test_freed_memory_is_kept() -> None:
    """In a process of its own: how often pages are mapped anew for equal large tensors."""
    code = """
import resource, sys, torch
from plainunet.memory import keep_freed_memory
if sys.argv[1] == "keep":
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
        for what in ("give", "keep")
    }
    assert faults["keep"] * 10 < faults["give"]
