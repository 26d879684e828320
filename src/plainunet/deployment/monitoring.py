"""What a server tells of itself: metrics for Prometheus, and log lines in JSON."""

import json
import logging
import os
import time
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector

from plainunet.deployment.batching import Observer

SHARED = "PROMETHEUS_MULTIPROC_DIR"
"""Environment variable of the folder through which several processes share their metrics."""
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_PIXELS = tuple(4.0**power for power in range(5, 15))


class Metrics(Observer):
    """The metrics of a server."""

    def __init__(self) -> None:
        """Create all metrics at zero."""
        self._registry = CollectorRegistry()
        own: dict[str, Any] = {"registry": self._registry}
        self.seconds = Histogram(
            "plainunet_request_seconds",
            "Time from the first byte of a request to the last of its answer [s].",
            ("route", "code"),
            buckets=_SECONDS,
            **own,
        )
        self._queue = Histogram(
            "plainunet_queue_seconds",
            "Time of decoded images in the queue [s].",
            buckets=_SECONDS,
            **own,
        )
        self._pixels = Histogram(
            "plainunet_batch_pixels", "Pixels of a batch of images.", buckets=_PIXELS, **own
        )
        self.rejected = Counter(
            "plainunet_rejected_total", "Requests that were refused, by reason.", ("reason",), **own
        )
        self._model = Gauge(
            "plainunet_model_info",
            "1 for the model in use, 0 for former ones.",
            ("digest",),
            multiprocess_mode="mostrecent",
            **own,
        )
        self._digest = ""

    def use(self, digest: str) -> None:
        """Set the model in use."""
        if self._digest:
            self._model.labels(self._digest).set(0)
        self._model.labels(digest).set(1)
        self._digest = digest

    def batch(self, pixels: int) -> None:
        """See `Observer`."""
        self._pixels.observe(pixels)

    def waited(self, seconds: float) -> None:
        """See `Observer`."""
        self._queue.observe(seconds)

    def text(self) -> bytes:
        """All metrics, of all processes, in Prometheus' text format."""
        registry = self._registry
        if SHARED in os.environ:
            registry = CollectorRegistry()
            MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
        return generate_latest(registry)


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


def log_config(level: str = "INFO") -> dict[str, Any]:
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
