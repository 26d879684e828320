"""A bounded queue of images, and the thread that predicts them in batches.

A `Predictor` runs in one thread. Images of one shape and dtype that are in the queue together are
predicted as one batch. The queue is bounded in images and in pixels, which are counted from before
an image is decoded until its answer is encoded, so memory stays bounded too.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from plainunet.formats.windows import Windows
from plainunet.prediction.outputs import Outputs
from plainunet.prediction.predictor import Predictor
from plainunet.reporter import Collected, note_warnings
from plainunet.system import first_line, is_out_of_memory

WAIT = 0.004
"""Longest wait for more images of a batch while others are being decoded [s]."""
_log = logging.getLogger("plainunet.serve")


class QueueFullError(Exception):
    """There is no room for another image at the moment."""


class LateError(Exception):
    """The time of a request was over before its image was predicted."""


class BrokenError(Exception):
    """The device can no longer be used; only a new process helps."""


class Model(NamedTuple):
    """A predictor and the digest of its weights and settings."""

    predictor: Predictor
    digest: str

    @classmethod
    def of(cls, predictor: Predictor) -> "Model":
        """Compute the digest of a predictor."""
        return cls(predictor, predictor.digest())


class Predicted(NamedTuple):
    """The prediction of an image."""

    mask: NDArray[np.uint8]
    """[H, W] uint8 class ids, 255 for missing pixels."""
    probabilities: NDArray[Any] | None
    """[K, H, W] as by `Outputs.quantise`, if asked for."""
    model: Model
    """The model that made it."""


_Kind = tuple[tuple[int, int, int], str, str]


@dataclass(eq=False)
class Job:
    """An image to predict.

    Attributes:
        model: The model that it was decoded for, which predicts it even if there is a newer one.
        opened: Opens the image's windows.
        whole: The windows of an image in memory; None: it is read in parts, and predicted alone
            and without post-processing.
        probabilities: The kind of probabilities to return with the mask, or "".
        deadline: When its time is over, on the clock of `time.monotonic` [s].
        future: Receives the `Predicted`; if it is cancelled, the image is not predicted.
    """

    model: Model
    opened: Callable[[], AbstractContextManager[Windows]]
    whole: Windows | None
    probabilities: str
    deadline: float
    future: "Future[Predicted]" = field(default_factory=Future)
    queued: float = field(default_factory=time.monotonic)
    gone: threading.Event = field(default_factory=threading.Event)
    """Set when nobody waits for the image any more, even if its prediction has begun."""

    @property
    def kind(self) -> _Kind | None:
        """Images of one kind fit in a batch; None: alone."""
        if self.whole is None or self.probabilities:
            return None
        return self.whole.shape, self.whole.dtype.str, self.model.digest

    def require_wanted(self) -> None:
        """Stop a long prediction that nobody waits for."""
        if self.gone.is_set() or time.monotonic() > self.deadline:
            raise LateError


class Observer:
    """Receives what the queue measures; does nothing."""

    def batch(self, pixels: int) -> None:
        """Receive the number of pixels of a batch."""

    def waited(self, seconds: float) -> None:
        """Receive the time that an image was in the queue."""


class Room:
    """Room for an image in the queue; `pixels` are added when its size is known."""

    def __init__(self, queue: "PredictionQueue") -> None:
        """Take room for an image of unknown size."""
        self._queue, self.pixels = queue, 0

    def take(self, pixels: int) -> None:
        """Take room for pixels.

        Raises:
            QueueFullError: There is none at the moment.
        """
        self._queue.take_pixels(pixels)
        self.pixels += pixels


class PredictionQueue:
    """Predicts images in one thread, in batches where shapes allow.

    Attributes:
        model: The model of new images.
        broken: Why no image can be predicted any more, or "".
    """

    def __init__(
        self, model: Model, most_images: int, most_pixels: int, observer: Observer | None = None
    ) -> None:
        """Start the thread; at most that number of images and pixels are accepted."""
        self.model, self.broken = model, ""
        self._most_images, self._most_pixels = most_images, most_pixels
        self._observer = observer or Observer()
        self._images = self._pixels = 0
        self._waiting: deque[Job] = deque()
        self._changed = threading.Condition()
        self._is_closing = False
        self._thread = threading.Thread(target=self._run, name="prediction", daemon=True)
        self._thread.start()

    @contextmanager
    def room(self, images: int = 1) -> Iterator[Room]:
        """Take room for images until the block ends.

        Raises:
            QueueFullError: There is none at the moment.
        """
        with self._changed:
            if self._images + images > self._most_images:
                raise QueueFullError
            self._images += images
        room = Room(self)
        try:
            yield room
        finally:
            with self._changed:
                self._images -= images
                self._pixels -= room.pixels
                self._changed.notify_all()

    def take_pixels(self, pixels: int) -> None:
        """See `Room.take`."""
        with self._changed:
            if self._pixels + pixels > self._most_pixels:
                raise QueueFullError
            self._pixels += pixels

    def submit(self, job: Job) -> "Future[Predicted]":
        """Add an image that has room; returns its future."""
        with self._changed:
            if self.broken:
                raise BrokenError(self.broken)
            self._waiting.append(job)
            self._changed.notify_all()
        return job.future

    def is_alive(self) -> bool:
        """Whether images can be predicted."""
        return self._thread.is_alive() and not self.broken

    def close(self) -> None:
        """Predict the images in the queue, and end the thread."""
        with self._changed:
            self._is_closing = True
            self._changed.notify_all()
        self._thread.join()

    def _run(self) -> None:
        while True:
            jobs = self._take()
            if not jobs:
                return
            self._predict(jobs)
            del jobs  # the next wait must not keep their memory

    def _take(self) -> list[Job]:
        """Wait for images of one kind, up to a batch; none at the end."""
        with self._changed:
            while not self._waiting:
                if self._is_closing:
                    return []
                self._changed.wait()
            first = self._waiting[0]
            kind = first.kind
            most = first.model.predictor.fits_batch(kind[0][:2]) if kind else 1
            until = time.monotonic() + WAIT
            while (
                self._count(kind) < most
                and self._images > len(self._waiting)  # others are on their way
                and (left := until - time.monotonic()) > 0
            ):
                self._changed.wait(left)
            taken = [self._waiting.popleft()]
            for job in [job for job in self._waiting if kind and job.kind == kind][: most - 1]:
                self._waiting.remove(job)
                taken.append(job)
            return taken

    def _count(self, kind: _Kind | None) -> int:
        return 1 if kind is None else sum(job.kind == kind for job in self._waiting)

    def _predict(self, jobs: list[Job]) -> None:
        now = time.monotonic()
        wanted = []
        for job in jobs:
            if not job.future.set_running_or_notify_cancel():
                continue
            self._observer.waited(now - job.queued)
            if self.broken:
                job.future.set_exception(BrokenError(self.broken))
            elif now > job.deadline:
                job.future.set_exception(LateError())
            else:
                wanted.append(job)
        masks = self._predict_batch(wanted) if len(wanted) > 1 else None
        for number, job in enumerate(wanted):
            try:
                done = masks[number] if masks else self._predict_one(job)
            except BaseException as error:
                self._fail(job, error)
            else:
                job.future.set_result(done)

    def _predict_batch(self, jobs: list[Job]) -> list[Predicted] | None:
        """Predict a batch; None if one image fails, to retry each one alone."""
        model = jobs[0].model
        images = [job.whole for job in jobs if job.whole is not None]
        with _logged_warnings():
            for image in images:
                model.predictor.warn_of(image)
        try:
            masks = model.predictor.masks(images)
        except Exception:  # of any library that runs the network; this thread must go on
            return None
        self._observer.batch(sum(mask.size for mask in masks))
        return [Predicted(mask, None, model) for mask in masks]

    def _predict_one(self, job: Job) -> Predicted:
        predictor, kind = job.model.predictor, job.probabilities
        masks: list[NDArray[np.uint8]] = []
        kept: list[NDArray[Any]] = []
        # `Outputs` converts a few rows at a time: float32 of all classes may not fit in memory
        outputs = Outputs(Path(), [kind] if kind else [], predictor.card)  # type: ignore[list-item]
        with _logged_warnings(), job.opened() as image:
            if kind:
                for ids, probabilities in predictor.both_bands(image):
                    masks.append(ids)
                    kept.append(outputs.quantise(probabilities)[kind])
                    job.require_wanted()
            else:
                for ids in predictor.mask_bands(image):
                    masks.append(ids)
                    job.require_wanted()
        mask = np.concatenate(masks)
        self._observer.batch(mask.size)
        if job.whole is not None:
            mask = predictor.clean(mask)
        return Predicted(mask, np.concatenate(kept, axis=1) if kept else None, job.model)

    def _fail(self, job: Job, error: BaseException) -> None:
        """Report the failure of an image; a broken device fails all later ones too."""
        if "cuda error" in str(error).lower() and not is_out_of_memory(error):
            self.broken = f"the GPU can no longer be used ({first_line(error)})."
            error = BrokenError(self.broken)
        job.future.set_exception(error)


@contextmanager
def _logged_warnings() -> Iterator[None]:
    """Log the predictor's warnings."""
    notes = Collected()
    with note_warnings(Path("image"), notes):
        yield
    for note in notes.notes:
        _log.warning(note)
