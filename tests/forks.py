"""Processes that start at once, forked from one that has imported PyTorch and the package."""

import multiprocessing
import os
import re
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from plainunet.training.state import LOST

_LOADED = (
    *("plainunet.cli", "plainunet.demo", "plainunet.terminal.screen", "plainunet.training.train"),
    *("plainunet.doctor.diagnose", "plainunet.evaluation.compare"),
    # as the first step of an optimiser, curves, and a report would
    *("torch._dynamo", "matplotlib.figure", "jinja2"),
)
_BEFORE = """
import gc, multiprocessing, os, signal, sys
gc.freeze()  # what was loaded before need not be looked through
os.setsid()
multiprocessing.set_start_method("fork", force=True)  # as usual, for its own processes
for stream in (1, 2):
    os.dup2(out.fileno(), stream)
out.close()
if err:
    os.dup2(os.open(err, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 2)
sys.stdin = open(stdin)
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


class Result(NamedTuple):
    returncode: int
    stdout: str
    stderr: str


class Fork:
    """Runs code in a process and a process group of its own; what it prints can be read.

    Its standard error goes to the file `err`, or where its output goes.
    """

    def __init__(
        self,
        code: str,
        environment: Mapping[str, str] = {},
        stdin: str = os.devnull,
        err: Path | None = None,
        **names: Any,
    ) -> None:
        forks = multiprocessing.get_context("forkserver")
        forks.set_forkserver_preload(list(_LOADED))
        read, write = forks.Pipe(duplex=False)
        self._err = err
        names |= {"out": write, "environment": dict(environment), "stdin": stdin, "err": err}
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

    def finish(self) -> Result:
        """Wait for the process to exit; its code, and what it prints until then."""
        with self._out:
            said = self._out.read()
        self._process.join(60)
        errors = self._err.read_text(encoding="utf-8") if self._err else ""
        return Result(self._process.exitcode or 0, said, errors)

    def end(self, code: int = 0) -> str:
        """Wait for the process to exit with this code; what it prints until then."""
        result = self.finish()
        assert result.returncode == code, result
        assert "Traceback" not in result.stdout
        return result.stdout

    def close(self) -> int | None:
        """Read no more of what it prints; its exit code."""
        self._out.close()
        self._process.join(60)
        return self._process.exitcode

    def kill(self, group: bool = True) -> None:
        """Kill it, and what it has started unless `group` is False."""
        (os.killpg if group else os.kill)(self.pid, signal.SIGKILL)
        self._process.join(60)
        self._out.close()


def fork_command(
    *arguments: object,
    lost: float = LOST,
    first: str = "",
    stdin: str = os.devnull,
    err: Path | None = None,
    **environment: str,
) -> Fork:
    """Start the command `plainunet`, which saves after so many seconds of work."""
    names = {"arguments": [str(each) for each in arguments], "lost": lost}
    return Fork(first + _COMMAND, environment, stdin, err, **names)
