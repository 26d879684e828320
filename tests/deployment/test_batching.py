"""The queue: batches, bounds, and images that nobody waits for any more."""

import threading
import time
from collections.abc import Iterator
from concurrent.futures import CancelledError
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial

import numpy as np
import pytest

from plainunet.deployment.batching import (
    BrokenError,
    Job,
    LateError,
    Model,
    Observer,
    PredictionQueue,
    QueueFullError,
)
from plainunet.formats.windows import Windows, as_windows

from ..models import make_predictor


class Recorder(Observer):
    def __init__(self) -> None:
        self.pixels: list[int] = []

    def batch(self, pixels: int) -> None:
        self.pixels.append(pixels)


class Busy:
    """An image that keeps the queue busy until it is released."""

    def __init__(self) -> None:
        self.begun, self.released = threading.Event(), threading.Event()

    @contextmanager
    def opened(self) -> Iterator[Windows]:
        self.begun.set()
        assert self.released.wait(60)
        yield windows(0)


def windows(seed: int, height: int = 48) -> Windows:
    return as_windows(np.random.default_rng(seed).integers(0, 256, (height, 64, 3), np.uint8))


MODEL = Model.of(make_predictor(size=(48, 64)))


def job(
    seed: int,
    height: int = 48,
    seconds: float = 60,
    probabilities: str = "",
    model: Model = MODEL,
) -> Job:
    image = windows(seed, height)
    until = time.monotonic() + seconds
    return Job(model, partial(nullcontext, image), image, probabilities, until)


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()


@pytest.fixture
def queue(recorder: Recorder) -> Iterator[PredictionQueue]:
    queue = PredictionQueue(MODEL, 16, 10_000, recorder)
    yield queue
    queue.close()


@pytest.fixture
def busy(queue: PredictionQueue) -> Iterator[Busy]:
    """The queue is busy until `released`."""
    made = Busy()
    queue.submit(Job(MODEL, made.opened, None, "", time.monotonic() + 60))
    assert made.begun.wait(60)
    yield made
    made.released.set()


def test_images_of_one_shape_are_a_batch(
    queue: PredictionQueue, busy: Busy, recorder: Recorder
) -> None:
    jobs = [job(1), job(2, height=50), job(3), job(4, probabilities="probabilities"), job(5)]
    futures = [queue.submit(each) for each in jobs]
    busy.released.set()
    done = [future.result(60) for future in futures]
    for each, own in zip(done, jobs, strict=True):
        alone = np.concatenate(list(queue.model.predictor.mask_bands(own.whole)))
        assert (each.mask != alone).mean() < 0.01  # a batch may round differently
    assert done[3].probabilities is not None
    assert done[3].probabilities.shape == (3, 48, 64)
    assert recorder.pixels == [48 * 64, 3 * 48 * 64, 50 * 64, 48 * 64]


def test_nobody_waits_any_more(queue: PredictionQueue, busy: Busy, recorder: Recorder) -> None:
    left, late, kept = job(1), job(2, seconds=0), job(3)
    futures = [queue.submit(each) for each in (left, late, kept)]
    futures[0].cancel()
    busy.released.set()
    assert futures[2].result(60).mask.shape == (48, 64)
    with pytest.raises(CancelledError):
        futures[0].result(60)
    with pytest.raises(LateError):
        futures[1].result(60)
    assert recorder.pixels == [48 * 64] * 2  # of `busy` and `kept`


def test_room_is_bounded_in_images_and_pixels(queue: PredictionQueue) -> None:
    with queue.room() as first, queue.room() as second:
        first.take(6000)
        with pytest.raises(QueueFullError):
            second.take(6000)
        second.take(4000)
    with queue.room(16), pytest.raises(QueueFullError), queue.room():
        pass
    with queue.room() as again:
        again.take(10_000)


def test_the_queue_is_finished_before_it_ends(queue: PredictionQueue, busy: Busy) -> None:
    futures = [queue.submit(job(seed)) for seed in range(3)]
    busy.released.set()
    queue.close()
    assert all(future.done() for future in futures)


def test_images_are_predicted_by_the_model_that_they_were_decoded_for(
    queue: PredictionQueue, busy: Busy
) -> None:
    new = Model.of(make_predictor(2, size=(48, 64)))
    models = [MODEL, new, MODEL, new]
    futures = [queue.submit(job(seed, model=model)) for seed, model in enumerate(models)]
    busy.released.set()
    for future, model in zip(futures, models, strict=True):
        assert future.result(60).model is model
        assert future.result(60).mask.max() < len(model.predictor.card.class_names)


def fail(error: BaseException) -> AbstractContextManager[Windows]:
    raise error


def test_an_image_fails_alone_and_a_broken_gpu_for_good(queue: PredictionQueue) -> None:
    def submit(error: BaseException) -> Job:
        made = Job(MODEL, partial(fail, error), None, "", time.monotonic() + 60)
        queue.submit(made)
        return made

    for error in (ValueError("bad"), RuntimeError("CUDA error: out of memory"), MemoryError()):
        with pytest.raises(type(error)):
            submit(error).future.result(60)
        assert queue.is_alive()
    with pytest.raises(BrokenError):
        submit(RuntimeError("CUDA error: device-side assert triggered")).future.result(60)
    assert not queue.is_alive()
    with pytest.raises(BrokenError):
        queue.submit(job(1))
