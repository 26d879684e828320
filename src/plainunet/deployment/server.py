"""Runs the HTTP server in one or more processes, which log lines of JSON."""

import asyncio
import json
import logging
import math
import multiprocessing
import os
import signal
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import uvicorn
from fastapi import FastAPI
from uvicorn.config import STARTUP_FAILURE
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.supervisors.multiprocess import Multiprocess, Process

from plainunet import reporter as reporting
from plainunet.config import BackendName, Device, Precision, ServeOptions
from plainunet.deployment.routes import make_app
from plainunet.deployment.service import SHARED, Load, model_name_file, shared_model
from plainunet.errors import Error
from plainunet.prediction.predictor import Predictor
from plainunet.system import cores, keep_freed_memory

TOKEN = "PLAINUNET_TOKEN"
"""Environment variable of the token."""
MOST_CONNECTIONS = 1000
"""Largest number of connections of a process; beyond, the answer is 503."""
IDLE_SECONDS = 10
"""Time that a connection may take between requests, headers included; at most twice as long [s]."""
LAST_SECONDS = 1
"""Time that clients have for a last request before an open connection is closed at the end [s]."""
_LOOK = 0.02  # seconds between looks whether all connections are closed
_BACKLOG = 2048
_HEALTH_SECONDS = 60  # a process that does not answer its parent for so long is replaced
_LOOPBACK = ("localhost", "::1")
_log = logging.getLogger("plainunet.serve")


def load_with(
    backend: BackendName,
    device: Device,
    precision: Precision,
    memory: float | None,
    network: Sequence[str] = (),
) -> Load:
    """Make a function that loads models with these arguments of `Predictor.load`."""
    return partial(
        Predictor.load,
        backend=backend,
        device=device,
        precision=precision,
        memory=memory,
        network=tuple(network),
    )


def serve(
    path: Path,
    options: ServeOptions,
    load: Load,
    on_listening: Callable[[str], None] = lambda url: None,
) -> None:
    """Serve a model until SIGTERM or SIGINT, and then finish the requests that have begun.

    Args:
        path: A checkpoint, or an exported file.
        options: Address, token and limits.
        load: Loads models, as by `load_with`; must be picklable.
        on_listening: Receives the URL of the server.

    Raises:
        ValueError: The model cannot be used, or the address not listened on.
    """
    token = options.token or os.environ.get(TOKEN) or None
    options = options.model_copy(update={"token": token})
    if options.ui and options.processes > 1:
        raise Error("--ui: the page needs --processes 1, because it keeps results in memory.")
    predictor = load(path)
    with _listen(options) as listener, tempfile.TemporaryDirectory() as folder:
        address = listener.getsockname()
        host = f"[{options.host}]" if ":" in options.host else options.host
        config = _configure(options)
        url = f"http://{host}:{address[1]}"
        on_listening(url)
        _log.info("listening", extra={"fields": {"url": url}})
        if token is None and not (options.host in _LOOPBACK or options.host.startswith("127.")):
            _log.warning("others can reach this server without a token: pass --token")
        if options.processes == 1:
            if predictor.memory is None:
                keep_freed_memory()
            config.app = app = make_app(predictor, options, load)
            if options.ui:
                # Gradio is large, and not always installed
                from plainunet.deployment.page import add_page

                add_page(app)
            _run_one(config, listener)
        else:
            del predictor  # each process has its own
            _run_several(config, listener, partial(_make, path, options, load), Path(folder))


def _configure(options: ServeOptions) -> uvicorn.Config:
    logs = _log_config("WARNING" if reporting.verbosity < 0 else "INFO")
    return uvicorn.Config(
        "",
        http=_Protocol,
        ws="none",
        lifespan="on",
        log_config=logs,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        limit_concurrency=MOST_CONNECTIONS,
        workers=options.processes,
        timeout_graceful_shutdown=math.ceil(2 * options.timeout),
        timeout_worker_healthcheck=_HEALTH_SECONDS,
    )


class JsonFormatter(logging.Formatter):
    """Formats a log record as one line of JSON; `extra={"fields": {...}}` adds to it."""

    def format(self, record: logging.LogRecord) -> str:
        """See `logging.Formatter`."""
        line: dict[str, Any] = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
            + f".{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "message": record.getMessage(),
            "process": record.process,
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line)


def _log_config(level: str) -> dict[str, Any]:
    """The configuration of `logging`, for `logging.config.dictConfig`: JSON lines on stderr."""
    handler = {"class": "logging.StreamHandler", "formatter": "json"}
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"json": {"()": f"{__name__}.{JsonFormatter.__name__}"}},
        "handlers": {"stderr": handler},
        "loggers": {
            "plainunet.serve": {"handlers": ["stderr"], "level": level, "propagate": False},
            "uvicorn": {"handlers": ["stderr"], "level": "WARNING", "propagate": False},
            # of damaged images, whose senders get the reason
            "tifffile": {"level": "CRITICAL"},
        },
        "root": {"handlers": ["stderr"], "level": "WARNING"},
    }


@contextmanager
def _listen(options: ServeOptions) -> Iterator[socket.socket]:
    family = socket.AF_INET6 if ":" in options.host else socket.AF_INET
    try:
        listener = socket.create_server(
            (options.host, options.port), family=family, backlog=_BACKLOG
        )
    except (OSError, OverflowError) as error:
        raise Error(
            f"--host {options.host} --port {options.port}: cannot be listened on "
            f"({getattr(error, 'strerror', None) or error}). Choose another port, or 0 for any."
        ) from None
    with listener:
        listener.setblocking(False)
        yield listener


def _run_one(config: uvicorn.Config, listener: socket.socket) -> None:
    # uvicorn repeats the signal when it has finished; that is no interruption
    former = {
        each: signal.signal(each, lambda *_: None) for each in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        _Server(config).run([listener])
    finally:
        for each, handler in former.items():
            signal.signal(each, handler)


class _Server(uvicorn.Server):
    """A server that answers requests on their way before it stops.

    uvicorn closes connections that wait to be accepted, that have just been accepted, and those
    between two requests, also if the next one has been sent. All of these clients see a reset.
    """

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Let clients know that their connection ends with the next answer, then stop."""
        self.config.loaded_app.state.service.stopping.set()
        await self._stop_listening(sockets or [])
        until = time.monotonic() + LAST_SECONDS
        while self.server_state.connections and time.monotonic() < until and not self.force_exit:
            await asyncio.sleep(_LOOK)
        await super().shutdown(sockets)

    async def _stop_listening(self, sockets: Sequence[socket.socket]) -> None:
        """Accept the connections that wait, and no more."""
        accepted: list[socket.socket] = []
        for each in sockets:
            with suppress(OSError):  # BlockingIOError if none waits
                while True:
                    accepted.append(each.accept()[0])
        for server in self.servers:  # at once: whoever comes in between is reset
            server.close()
        for each in sockets:
            each.close()
        loop = asyncio.get_running_loop()
        for connection in accepted:
            connection.setblocking(False)
            with suppress(OSError):  # its client has gone
                await loop.connect_accepted_socket(self._make_protocol, connection)

    def _make_protocol(self) -> "_Protocol":
        return _Protocol(self.config, self.server_state, self.lifespan.state)


def _run_several(
    config: uvicorn.Config,
    listener: socket.socket,
    make: Callable[[Path], FastAPI],
    folder: Path,
) -> None:
    """Run processes that accept from one socket; one that dies is replaced."""
    for name in ("metrics", "models"):
        (folder / name).mkdir()
    # read when the processes start
    os.environ[SHARED] = str(folder / "metrics")
    os.environ["OMP_NUM_THREADS"] = str(max(1, cores() // config.workers))
    config.app, config.factory = partial(make, folder / "models"), True
    parent = _Processes(config, [listener], folder / "models")
    parent.run()
    if any(each.exitcode == STARTUP_FAILURE for each in parent.processes):
        raise Error("a process of the server could not start; its log lines say why.")


class _Process(Process):
    """One of several processes."""

    @property
    def server(self) -> uvicorn.Server:
        """The server, in the process itself."""
        if self._server is None:
            self._server = _Server(self.config)
        return self._server


class _Processes(Multiprocess):
    """Processes of which one that dies is replaced at once.

    uvicorn waits for each until it answers: for as long as it starts, and, if it dies meanwhile,
    until `_HEALTH_SECONDS` are over.
    """

    def __init__(self, config: uvicorn.Config, sockets: list[socket.socket], models: Path) -> None:
        super().__init__(config, sockets)
        self._models = models
        self._asked: dict[Process, float] = {}  # when those that have not answered were asked

    def init_processes(self) -> None:
        """Start the processes."""
        self.processes = [_Process(self.config, self.sockets) for _ in range(self.processes_num)]
        for process in self.processes:
            process.start()

    def terminate_all(self) -> None:
        """End the processes, and listen no longer: connections would wait for nobody."""
        for each in self.sockets:
            each.close()
        super().terminate_all()

    def keep_subprocess_alive(self) -> None:
        """Replace each process that is dead or hangs."""
        if self.should_exit.is_set():  # a signal to the whole group ended them
            return
        for number, process in enumerate(self.processes):
            if process.process.is_alive() and self._answers(process):
                continue
            process.kill()
            process.join()
            self._asked.pop(process, None)
            model_name_file(self._models, process.pid or 0).unlink(missing_ok=True)
            fields = {"died": process.pid, "exitcode": process.exitcode}
            _log.error("a process died", extra={"fields": fields})
            if process.exitcode == STARTUP_FAILURE:
                self.should_exit.set()
                return
            new = self.processes[number] = _Process(self.config, self.sockets)
            new.start()
            fields = {"died": process.pid, "started": new.pid}
            _log.warning("a process was replaced", extra={"fields": fields})

    def _answers(self, process: Process) -> bool:
        """Ask a process whether it lives, without waiting for the answer."""
        try:
            if process in self._asked and process.parent_conn.poll():
                process.parent_conn.recv()
                del self._asked[process]
            if process not in self._asked:
                process.parent_conn.send(b"ping")
                self._asked[process] = time.monotonic()
        except (OSError, EOFError):
            return False
        return time.monotonic() - self._asked[process] < _HEALTH_SECONDS


def _make(path: Path, options: ServeOptions, load: Load, shared: Path) -> FastAPI:
    """Make the application in one of several processes."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        predictor = load(shared_model(shared) or path)
        if predictor.memory is None:
            keep_freed_memory()
        return make_app(predictor, options, load, shared)
    except Exception:
        _log.exception("this process cannot start")
        sys.exit(STARTUP_FAILURE)  # otherwise it would be started again and again


def _end_with_parent() -> None:
    """Stop this process if its parent is gone: nothing else would, and it would keep the port."""
    parent = multiprocessing.parent_process()
    if parent:
        parent.join()
        os.kill(os.getpid(), signal.SIGTERM)


class _Protocol(H11Protocol):
    """HTTP, but without connections that stay between requests for longer than `IDLE_SECONDS`.

    uvicorn has no such limit for headers, or for the rest of a body that was refused, if they come
    byte by byte.
    """

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.loop.call_later(IDLE_SECONDS, self._require_request, None)

    def _require_request(self, former: object) -> None:
        """Close the connection if the last request is done, and was so when last looked."""
        if self.transport.is_closing():
            return
        is_idle = self.cycle is None or self.cycle.response_complete
        if is_idle and self.cycle is former:
            self.transport.close()
        else:
            seen = self.cycle if is_idle else self
            self.loop.call_later(IDLE_SECONDS, self._require_request, seen)
