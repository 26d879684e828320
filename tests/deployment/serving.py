"""A real server: `plainunet serve` in a process of its own, and HTTP to it."""

import json
import os
import queue
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import httpx

START = 120.0
"""Longest time to start [s]; the machine may have other work."""


class Server:
    """A running server; `lines` are those of its log."""

    def __init__(self, checkpoint: Path, *flags: object, **environment: str) -> None:
        words = [sys.executable, "-m", "plainunet", "serve", checkpoint, "--port", 0, *flags]
        self.process = subprocess.Popen(
            [str(word) for word in words],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, **environment},
        )
        self.lines: list[str] = []
        self._said: queue.Queue[str] = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()
        self.url = ""

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.lines.append(line.rstrip("\n"))
            self._said.put(line)

    def wait_until_ready(self) -> Self:
        until = time.monotonic() + START
        while not self.url:
            line = self._said.get(timeout=max(0.1, until - time.monotonic()))
            self.url = json.loads(line).get("url", "") if line.startswith("{") else ""
        while True:
            try:
                if httpx.get(f"{self.url}/readyz", trust_env=False).status_code == 200:
                    return self
            except httpx.TransportError:
                pass
            assert time.monotonic() < until, self.lines
            assert self.process.poll() is None, self.lines
            time.sleep(0.05)

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    def post(self, path: str, **content: Any) -> httpx.Response:
        content.setdefault("timeout", 120)
        return httpx.post(f"{self.url}{path}", trust_env=False, **content)

    def get(self, path: str, **content: Any) -> httpx.Response:
        return httpx.get(f"{self.url}{path}", trust_env=False, timeout=60, **content)

    def predict(self, content: bytes, **parameters: Any) -> httpx.Response:
        files = {"file": ("image", content)}
        return self.post("/v1/predict", files=files, params=parameters)

    def metric(self, name: str, **labels: str) -> float:
        """The sum over all series of a metric that have these labels."""
        total = 0.0
        for line in self.get("/metrics").text.splitlines():
            found = re.fullmatch(r"(\w+)(?:\{(.*)\})? (\S+)", line)
            if found and found[1] == name:
                own = dict(re.findall(r'(\w+)="([^"]*)"', found[2] or ""))
                total += float(found[3]) if labels.items() <= own.items() else 0
        return total

    def memory(self) -> int:
        """Resident memory [bytes], on Linux."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        found = re.search(r"VmRSS:\s+(\d+) kB", status)
        assert found
        return int(found[1]) * 1024

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(60)

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdout, self.process.stderr):
            assert pipe is not None
            pipe.close()


@contextmanager
def serving(checkpoint: Path, *flags: object, **environment: str) -> Iterator[Server]:
    """Run a server for a block."""
    server = Server(checkpoint, *flags, **environment)
    try:
        yield server.wait_until_ready()
    finally:
        server.close()
