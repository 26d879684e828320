"""Out-of-memory handling: an image continues in smaller parts from the row reached.

If memory runs out elsewhere, for instance while outputs are written, that image is reported as
failed and the next one is processed.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from plainunet.errors import Error
from plainunet.formats.sources import ImageSource
from plainunet.prediction.backends import Logits
from plainunet.prediction.views import View
from plainunet.reporter import warn
from plainunet.system import first_line, give_freed_memory_back, is_out_of_memory


def in_smaller_parts(
    bands: Callable[[int], Iterator[Logits]], views: Sequence[View], first: int = 0
) -> Iterator[Logits]:
    """Yield bands of rows [K, n, W] from `first` on, in smaller parts after running out of memory.

    The amount that each view computes at a time is then halved, also for all later images. Too
    little memory for the smallest parts is a ValueError.
    """
    backend = views[0].backend
    while True:
        try:
            for band in bands(first):
                yield band
                first += band.shape[1]
            return
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            message = first_line(error)
        # outside the except clause, so that the error no longer holds the tensors that failed
        large = [view for view in views if view.values > view.least]
        if not large:
            device = "" if str(backend.device) == "cpu" else ", or give --device cpu"
            raise Error(
                f"out of memory ({message}), even with the smallest parts. Free memory by ending "
                f"other programs{device}."
            )
        for view in large:
            view.values = max(view.least, view.values // 2)
        is_slower = backend.free_memory(message)
        warn(
            "out of memory: from now on images are predicted in smaller parts"
            f"{' and with slower convolutions' if is_slower else ''}. Set --memory to avoid this.",
            stacklevel=2,
        )


@contextmanager
def failing_alone(file: ImageSource) -> Iterator[None]:
    """Re-raise any failure of an image, including out-of-memory, as a ValueError naming it."""
    try:
        yield
        return
    except Exception as error:
        is_short = is_out_of_memory(error)
        message = first_line(error) if is_short else str(error)
        if not (is_short or isinstance(error, ValueError | OSError)) or str(file) in message:
            raise
    if is_short:
        give_freed_memory_back()
        fix = "Save fewer outputs at a time (--save), or end other programs."
        message = f"out of memory ({message}). {fix}"
    raise Error(f"{file}: {message}")
