"""Memory that runs out while an image is predicted: smaller parts from that row on.

Where it runs out elsewhere, for instance while outputs are made, that image is reported as failed
and the next one is processed.
"""

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from plainunet.formats.sources import ImageSource
from plainunet.prediction.backends import Logits
from plainunet.prediction.views import View
from plainunet.system import first_line, give_freed_memory_back, is_out_of_memory


def in_smaller_parts(
    bands: Callable[[int], Iterator[Logits]], views: Sequence[View], first: int = 0
) -> Iterator[Logits]:
    """Yield bands of rows [K, n, W] from `first` on; where memory has run out, in smaller parts.

    What each of the views computes at a time is halved then, and stays so for the images that
    follow. Too little memory for the smallest parts is a ValueError.
    """
    backend = views[0].backend
    while True:
        try:
            for band in bands(first):
                yield band
                first += band.shape[1]
            return
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            message = first_line(error)
        # past the clause, the error has let go of the tensors of what has failed
        large = [view for view in views if view.values > view.least]
        if not large:
            device = "" if str(backend.device) == "cpu" else ", or give --device cpu"
            raise ValueError(
                f"out of memory ({message}), and no smaller part is possible. End what else takes "
                f"memory{device}."
            )
        for view in large:
            view.values = max(view.least, view.values // 2)
        is_slower = backend.free_memory(message)
        warnings.warn(
            "out of memory: images are predicted in smaller parts from here on"
            f"{', and with slower convolutions' if is_slower else ''}; --memory asks for it.",
            stacklevel=2,
        )


@contextmanager
def failing_alone(file: ImageSource) -> Iterator[None]:
    """Re-raise what an image can fail of, also lack of memory, as a ValueError with its name."""
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
        fix = "Give fewer names to --save at a time, or end what else takes memory."
        message = f"out of memory ({message}). {fix}"
    raise ValueError(f"{file}: {message}")
