"""What the routes of the server share: model, queue, limits, metrics, a request's way through.

A request is received into a folder of its own, its images are measured, admitted to the queue,
decoded, predicted and encoded. What nobody waits for any more is not predicted.
"""

import asyncio
import json
import logging
import math
import os
import shutil
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import cv2
import numpy as np
from fastapi import Request
from numpy.typing import NDArray
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector
from starlette.requests import ClientDisconnect
from starlette.types import Message

from plainunet.config import ServeOptions
from plainunet.deployment.answers import Answer, OutputName, encode, probabilities_of, weight
from plainunet.deployment.batching import (
    BrokenError,
    Job,
    LateError,
    Model,
    Observer,
    Predicted,
    PredictionQueue,
    QueueFullError,
)
from plainunet.deployment.uploads import (
    RETRY_AFTER,
    Budget,
    Decoded,
    Measured,
    RefusedError,
    Upload,
    decode,
    limit_body,
    measure,
    queue_full,
    receive_files,
    refuse,
    store_body,
)
from plainunet.files import write_json
from plainunet.formats.windows import as_windows
from plainunet.prediction.predictor import Predictor
from plainunet.system import is_out_of_memory, spare_threads

MOST_IMAGES = 256
"""Largest number of images being decoded, waiting or predicted; beyond, the answer is 503."""
MOST_FILES = 64
"""Largest number of images in a request of several."""
BODIES = 16
"""Number of requests of the largest size [bytes] that are held at a time; beyond: 503."""
MODEL_BYTES = 2 * 2**30
"""Largest file of a new model [bytes]."""
MODEL_SECONDS = 600
"""Time to receive a new model [s]."""
_CURRENT = "current.json"  # the name of the newest model's file
_POLL = 0.5  # seconds between looks for a model that another process received
_USED = ".used"  # suffix of the files in which each process names its model
_WARM_UP_PIXELS = 4_000_000
"""Largest image of the warm-up [pixels]."""
_ROUNDS, _BATCH = 3, 4  # of the warm-up
_CLOSED = 499  # as in nginx: the client has gone, so nobody sees it
SHARED = "PROMETHEUS_MULTIPROC_DIR"
"""Environment variable of the folder through which several processes share their metrics."""
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_PIXELS = tuple(4.0**power for power in range(5, 15))
_log = logging.getLogger("plainunet.serve")
_Result = TypeVar("_Result")
Load = Callable[[Path], Predictor]
"""Loads a model from a file."""
Finish = Callable[[Upload, Decoded, Predicted], _Result]
"""Makes something of a prediction."""


class Prediction(NamedTuple):
    """An answer, and the digest of the model that made it."""

    answer: Answer
    digest: str


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


class Service:
    """A model in production.

    Attributes:
        options: Limits.
        metrics: The metrics of this process.
        queue: The queue, which has the model.
        folder: A private folder for requests.
        why_not: Why the model is not ready, or "".
        stopping: Set when the server begins to stop; answers without an end of their own end then.
    """

    def __init__(
        self, model: Model, options: ServeOptions, load: Load, shared: Path | None = None
    ) -> None:
        """Start the queue; `close` ends it. The arguments are those of `make_app`."""
        self.options, self.metrics = options, Metrics()
        self.metrics.use(model.digest)
        self.queue = PredictionQueue(model, MOST_IMAGES, options.max_queue_pixels, self.metrics)
        self._private = tempfile.TemporaryDirectory(
            prefix="plainunet-serve-", ignore_cleanup_errors=True
        )
        self.folder = Path(self._private.name)
        self.why_not = "The model is being warmed up."
        self.stopping = asyncio.Event()
        # two, so that a slow image does not hold up the others
        self._threads = ThreadPoolExecutor(max(2, spare_threads()), "codec")
        self._load, self._shared = load, shared
        self._swapping = asyncio.Lock()
        self._bytes = Budget(BODIES * options.max_bytes)

    @property
    def model(self) -> Model:
        """The model in use."""
        return self.queue.model

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Warm up, and follow the models of other processes; at the end of the block, close."""
        if self._shared:
            await self.warm_up()  # until then, the other processes accept all requests
            self._tell(self._shared)
            await self._catch_up(self._shared)
            tasks = [asyncio.create_task(self._follow(self._shared))]
        else:
            tasks = [asyncio.create_task(self.warm_up())]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            if self._shared:
                model_name_file(self._shared, os.getpid()).unlink(missing_ok=True)
            await asyncio.to_thread(self.close)

    def close(self) -> None:
        """Predict what is in the queue, end the threads and remove the folder."""
        self.queue.close()
        self._threads.shutdown()
        self._private.cleanup()

    def require_alive(self) -> None:
        """Refuse a request if this process can never predict again.

        Raises:
            RefusedError: It cannot.
        """
        if not self.queue.is_alive():
            raise RefusedError(503, "broken", self.queue.broken or "The server is stopping.")

    def require_ready(self) -> None:
        """Refuse a request if the model cannot predict.

        Raises:
            RefusedError: It is not ready.
        """
        self.require_alive()
        if self.why_not:
            raise RefusedError(503, "not-ready", self.why_not, RETRY_AFTER)

    async def warm_up(self) -> None:
        """Predict images of the size that the model was trained on, and report readiness."""
        model = self.model
        try:
            async with self.request_folder() as folder:
                for number in range(_ROUNDS):
                    await warm_up(self, model.predictor, folder / str(number))
            self.why_not = ""
        except (RefusedError, ValueError, RuntimeError, OSError) as error:
            if self.model is model:  # not replaced meanwhile
                self.why_not = (
                    f"The warm-up failed: {str(error).rstrip('.')}. Fix that and start the server "
                    "again, or send another model."
                )
            _log.exception("the warm-up failed")

    async def receive_model(self, request: Request) -> Model:
        """Receive a model's file, and use it for images that are decoded from then on.

        Raises:
            RefusedError: Another model is being loaded, or the file is not a model.
        """
        if self._swapping.locked():
            raise RefusedError(
                409, "busy", "Another model is being loaded. Try again later.", RETRY_AFTER
            )
        async with self._swapping, self.request_folder() as folder:
            file = folder / "model"
            try:
                async with asyncio.timeout(MODEL_SECONDS):
                    await store_body(limit_body(request, MODEL_BYTES).stream(), file)
            except TimeoutError:
                message = f"Not received within {MODEL_SECONDS} s."
                raise RefusedError(408, "slow-request", message) from None
            except ClientDisconnect:
                raise _gone() from None
            except OSError as error:
                raise no_space(error) from None
            file = file.rename(file.with_suffix(_suffix(file)))
            try:
                model = await self._use(file)
            except (ValueError, OSError, RuntimeError) as error:
                message = str(error).replace(f"{folder}/", "")
                accepted = "Send a checkpoint (.safetensors) or an exported file (.onnx)."
                raise RefusedError(422, "not-a-model", f"{message} {accepted}") from None
            if self._shared:
                await asyncio.to_thread(_share, file, model.digest, self._shared)
                self._tell(self._shared)
        if self._shared:
            await self._until_all_use(model.digest, self._shared)
        return model

    async def _use(self, file: Path) -> Model:
        """Load a model, predict with it, and use it from then on."""
        model = await asyncio.to_thread(lambda: _try_out(self._load(file)))
        self.queue.model = model
        self.why_not = ""  # it has predicted, whatever the model before did
        self.metrics.use(model.digest)
        _log.info("new model", extra={"fields": {"digest": model.digest}})
        return model

    async def _follow(self, shared: Path) -> None:
        """Use the models that other processes receive."""
        while True:
            await asyncio.sleep(_POLL)
            await self._catch_up(shared)

    async def _catch_up(self, shared: Path) -> None:
        """Use the model that another process received last, if any."""
        current = shared_model(shared)
        if current is None or current.stem == self.model.digest or self._swapping.locked():
            return
        async with self._swapping:
            try:
                await self._use(current)
                self._tell(shared)
            except (ValueError, OSError, RuntimeError):  # it may be replaced just now
                _log.exception("a model of another process cannot be used")

    def _tell(self, shared: Path) -> None:
        """Name the model of this process to the others."""
        write_json(model_name_file(shared, os.getpid()), self.model.digest)

    async def _until_all_use(self, digest: str, shared: Path) -> None:
        """Wait until all processes use a model, while it is the newest and the time lasts."""
        until = time.monotonic() + self.options.timeout
        while time.monotonic() < until:
            used = set()
            for each in shared.glob(f"[0-9]*{_USED}"):
                with suppress(FileNotFoundError):  # its process has just ended
                    used.add(json.loads(each.read_text(encoding="utf-8")))
            current = shared_model(shared)
            if used <= {digest} or current is None or current.stem != digest:
                return
            await asyncio.sleep(_POLL / 10)
        _log.warning("a process has not taken the new model yet")

    @asynccontextmanager
    async def request_folder(self) -> AsyncIterator[Path]:
        """Make a folder that is removed at the end of the block."""
        try:
            folder = Path(tempfile.mkdtemp(dir=self.folder))
        except OSError as error:
            raise no_space(error) from None
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    async def handle(
        self, request: Request, most: int, answer: "Callable[[list[Upload]], Awaitable[_Result]]"
    ) -> _Result:
        """Receive the files of a request, and answer while its client waits and time is left.

        Args:
            request: The request.
            most: Largest number of files.
            answer: Makes the answer.

        Raises:
            RefusedError: Any error, as an answer.
        """
        self.require_ready()
        async with self.request_folder() as folder:
            with self._bytes.share() as take:
                try:
                    async with asyncio.timeout(self.options.timeout):
                        limited = limit_body(request, self.options.max_bytes, take)
                        uploads = await receive_files(limited, folder, most)
                except TimeoutError:
                    raise RefusedError(
                        408, "slow-request", f"Not received within {self.options.timeout:g} s."
                    ) from None
                except ClientDisconnect:
                    raise _gone() from None
                except OSError as error:
                    raise no_space(error) from None
                return await self._while_wanted(request, answer(uploads))

    async def _while_wanted(self, request: Request, work: Awaitable[_Result]) -> _Result:
        """Finish some work unless the client goes or the time is over."""
        task = asyncio.ensure_future(work)
        leaving = asyncio.ensure_future(_disconnected(request))
        both: set[asyncio.Future[object]] = {task, leaving}  # type: ignore[arg-type]
        try:
            await asyncio.wait(
                both, timeout=self.options.timeout, return_when=asyncio.FIRST_COMPLETED
            )
            if task.done():
                return task.result()
            raise _gone() if leaving.done() else self._late()
        finally:
            for each in (task, leaving):
                each.cancel()
                with suppress(asyncio.CancelledError, Exception):
                    await each

    def _late(self) -> RefusedError:
        return RefusedError(
            504, "timeout", f"No answer within {self.options.timeout:g} s.", RETRY_AFTER
        )

    async def predict(self, upload: Upload, output: OutputName, page: int | None) -> Prediction:
        """Predict the mask of a file, and encode it.

        Raises:
            RefusedError: Any error, as an answer.
        """
        (done,) = await self.predict_all([upload._replace(page=page)], output)
        if isinstance(done, RefusedError):
            raise done
        return done

    async def predict_all(
        self, uploads: Sequence[Upload], output: OutputName
    ) -> list[Prediction | RefusedError]:
        """Predict the masks of several files, and encode them; an image that fails, fails alone.

        Raises:
            RefusedError: There is no room in the queue.
        """

        def finish(upload: Upload, decoded: Decoded, predicted: Predicted) -> Prediction:
            answer = encode(output, upload.name, decoded, predicted, upload.path.parent)
            return Prediction(answer, predicted.model.digest)

        return await self.finish_all(uploads, output, finish)

    async def finish_all(
        self, uploads: Sequence[Upload], output: OutputName, finish: "Finish[_Result]"
    ) -> "list[_Result | RefusedError]":
        """Predict several files, and make something of each prediction, in a thread.

        Args:
            uploads: The files.
            output: The format whose probabilities, if any, are predicted with the mask.
            finish: Receives the file, its image and its prediction.

        Returns:
            What `finish` returns for each file, or why it failed.

        Raises:
            RefusedError: There is no room in the queue.
        """
        try:
            with self.queue.room(len(uploads)) as room:
                measured = [await self._measure(upload) for upload in uploads]
                pixels = sum(each.cost for each in measured if isinstance(each, Measured))
                total = math.ceil(pixels * weight(output, self.model.predictor.card))
                if total > self.options.max_queue_pixels:
                    raise RefusedError(
                        413,
                        "too-many-pixels",
                        f"The images and what is asked for take {total:,} pixels of 4 bytes; the "
                        f"limit of a request is {self.options.max_queue_pixels:,}. Send fewer or "
                        "smaller ones.",
                    )
                room.take(total)
                return list(
                    await asyncio.gather(
                        *(
                            self._finish(upload, each, output, finish)
                            for upload, each in zip(uploads, measured, strict=True)
                        )
                    )
                )
        except QueueFullError:
            raise queue_full() from None

    async def _measure(self, upload: Upload) -> Measured | RefusedError:
        try:
            return await self._read(measure, upload, self.options.max_pixels)
        except (RefusedError, ValueError, OSError, MemoryError) as error:
            return _as_refused(error, upload)

    async def _read(self, work: Callable[..., _Result], *arguments: object) -> _Result:
        """Run some work on an encoded image, whose libraries may raise anything."""
        try:
            return await self._in_thread(work, *arguments)
        except (RefusedError, ValueError, OSError, MemoryError):
            raise
        except Exception as error:
            _log.exception("an image that its library cannot read")
            raise RefusedError(400, "damaged", f"The image is damaged ({error}).") from None

    async def _finish(
        self,
        upload: Upload,
        measured: Measured | RefusedError,
        output: OutputName,
        finish: "Finish[_Result]",
    ) -> "_Result | RefusedError":
        """Decode, predict and finish an image that has room in the queue."""
        if isinstance(measured, RefusedError):
            return measured
        try:
            model = self.model
            decoded = await self._read(decode, measured, model.predictor, output == "overlay")
            predicted = await self._predict(model, decoded, output)
            return await self._in_thread(finish, upload, decoded, predicted)
        except LateError:
            return self._late()
        except BrokenError as error:
            return RefusedError(503, "broken", str(error))
        except (RefusedError, ValueError, OSError, MemoryError, RuntimeError) as error:
            return _as_refused(error, upload)

    async def _predict(self, model: Model, decoded: Decoded, output: OutputName) -> Predicted:
        deadline = time.monotonic() + self.options.timeout
        job = Job(model, decoded.opened, decoded.whole, probabilities_of(output), deadline)
        try:
            return await asyncio.wrap_future(self.queue.submit(job))
        finally:
            job.gone.set()

    async def _in_thread(self, work: Callable[..., _Result], *arguments: object) -> _Result:
        """Run some work in a thread; if it is cancelled, wait for it: it holds memory."""
        future = self._threads.submit(work, *arguments)
        try:
            return await asyncio.shield(asyncio.wrap_future(future))
        except asyncio.CancelledError:
            if not future.cancel():
                with suppress(Exception):
                    await asyncio.wrap_future(future)
            raise


def _gone() -> RefusedError:
    return RefusedError(_CLOSED, "client-gone", "The client has gone.")


def no_space(error: OSError) -> RefusedError:
    """The error for a file that cannot be written."""
    _log.error("a temporary file cannot be written: %s", error.strerror or error)
    return RefusedError(503, "no-space", "The server cannot write its files.", RETRY_AFTER)


async def _disconnected(request: Request) -> None:
    """Wait until the client has gone; its request has been received."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _as_refused(error: Exception, upload: Upload) -> RefusedError:
    """Convert an error with an image into an answer."""
    if isinstance(error, RefusedError):
        return error
    if is_out_of_memory(error):
        return RefusedError(503, "out-of-memory", "Out of memory. Try again later.", RETRY_AFTER)
    if isinstance(error, OSError):
        return no_space(error)
    if isinstance(error, RuntimeError):
        raise error
    return refuse(error, upload.path.parent.parent)


async def warm_up(service: Service, predictor: Predictor, folder: Path) -> None:
    """Predict images of the model's own size, alone and as a batch, like requests."""
    folder.mkdir()
    await receive_files(_example_request(), folder, 1)
    options = service.options
    image = own_image(predictor, min(options.max_pixels, options.max_queue_pixels // _BATCH))
    uploads = []
    for number in range(min(_BATCH, predictor.fits_batch(image.shape[:2]))):
        own = folder / f"image-{number}"
        own.mkdir()
        uploads.append(Upload(own / "image", "image"))
        if predictor.in_channels in (1, 3):
            uploads[-1].path.write_bytes(cv2.imencode(".png", image)[1].tobytes())
        else:
            with uploads[-1].path.open("wb") as file:
                np.save(file, image)
    for some in (uploads[:1], uploads):
        for done in await service.predict_all(some, "mask"):
            if isinstance(done, RefusedError):
                raise done


def _example_request() -> Request:
    """A form with a file, as sent by curl."""
    body = b'--b\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\na\r\n--b--\r\n'

    async def receive() -> Message:
        return {"type": "http.request", "body": body, "more_body": False}

    headers = [(b"content-type", b"multipart/form-data; boundary=b")]
    return Request({"type": "http", "method": "POST", "headers": headers}, receive)


def own_image(predictor: Predictor, most: int = _WARM_UP_PIXELS) -> NDArray[np.uint8]:
    """Noise of the size that a model was trained on, as far as its card tells."""
    card = predictor.card
    height, width = card.size or (256, 256)
    area = max(card.training.get("areas") or (1,))
    area = min(max(area, height * width), most, _WARM_UP_PIXELS)
    scale = math.sqrt(area / (height * width))
    shape = max(1, int(height * scale)), max(1, int(width * scale)), predictor.in_channels
    return np.random.default_rng(0).integers(0, 256, shape, np.uint8)


def _try_out(predictor: Predictor) -> Model:
    """Predict with a new model before it is used, alone and as a batch."""
    image = own_image(predictor)
    predictor.predict(image)
    predictor.masks([as_windows(image)] * min(_BATCH, predictor.fits_batch(image.shape[:2])))
    return Model.of(predictor)


def _suffix(file: Path) -> str:
    """The suffix of a model's file, by its content."""
    with file.open("rb") as content:
        # a safetensors file begins with the length of its JSON header
        return ".safetensors" if content.read(9)[8:] == b"{" else ".onnx"


def _share(file: Path, digest: str, shared: Path) -> None:
    """Hand a model to the other processes, and remove the former ones."""
    kept = file.replace(shared / f"{digest}{file.suffix}")
    write_json(shared / _CURRENT, kept.name)
    for other in shared.iterdir():
        if other.suffix in (".safetensors", ".onnx") and other != kept:
            other.unlink(missing_ok=True)


def model_name_file(shared: Path, process: int) -> Path:
    """The file in which a process names the model it uses, while it accepts requests."""
    return shared / f"{process}{_USED}"


def shared_model(shared: Path) -> Path | None:
    """The file of the model that a process received last, named by its digest, if any."""
    with suppress(OSError):
        return shared / str(json.loads((shared / _CURRENT).read_text(encoding="utf-8")))
    return None
