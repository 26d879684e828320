"""Processes that start at once, forked from one that has imported PyTorch and the package."""

import multiprocessing
import os
import re
import signal
from collections.abc import Mapping
from typing import Any

from plainunet.training.state import LOST

_BEFORE = """
import multiprocessing, os, signal, sys
os.setsid()
multiprocessing.set_start_method("fork", force=True)  # as usual, for its own processes
for stream in (1, 2):
    os.dup2(out.fileno(), stream)
out.close()
os.environ.update(environment)
# what was started in the background of a script ignores interrupts, and so do its children
signal.signal(signal.SIGINT, signal.default_int_handler)
"""
_COMMAND = """
from plainunet.__main__ import main
from plainunet.training import state
state.LOST = lost
sys.argv = ["plainunet", *arguments]
main()
"""


class Fork:
    """Runs code in a process and a process group of its own; what it prints can be read."""

    def __init__(self, code: str, environment: Mapping[str, str] = {}, **names: Any) -> None:
        forks = multiprocessing.get_context("forkserver")
        forks.set_forkserver_preload(["plainunet.terminal.screen", "plainunet.training.train"])
        read, write = forks.Pipe(duplex=False)
        names |= {"out": write, "environment": dict(environment)}
        self._process = forks.Process(target=exec, args=(_BEFORE + code, names))
        self._process.start()
        write.close()
        self._out = os.fdopen(os.dup(read.fileno()), encoding="utf-8")
        read.close()

    @property
    def pid(self) -> int:
        return self._process.pid or 0

    @property
    def is_running(self) -> bool:
        return self._process.exitcode is None

    def wait_for(self, words: str) -> str:
        """Read line after line, until one has these words; gives what was read."""
        said = ""
        for line in self._out:
            said += line
            if re.search(words, line):
                return said
        raise AssertionError(f"{words!r} is not in:\n{said}")

    def end(self, code: int = 0) -> str:
        """Wait for the process to exit with this code; what it prints until then."""
        with self._out:
            said = self._out.read()
        self._process.join(60)
        assert self._process.exitcode == code, said
        assert "Traceback" not in said
        return said

    def kill(self, group: bool = True) -> None:
        """Kill it, and what it has started unless `group` is False."""
        (os.killpg if group else os.kill)(self.pid, signal.SIGKILL)
        self._process.join(60)
        self._out.close()


def fork_command(*arguments: object, lost: float = LOST, **environment: str) -> Fork:
    """Start the command `plainunet`, which saves after so many seconds of work."""
    return Fork(_COMMAND, environment, arguments=[str(each) for each in arguments], lost=lost)
