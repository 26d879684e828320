"""Memory that runs out while a picture is predicted: smaller parts from that row on.

In: what gives bands of logits from a row on, and the networks' allowance of what they compute at
a time. Out: the same bands, however often the allowance had to be cut. Where it runs out elsewhere,
as when outputs are made, that is said of the picture, and the next one is seen.
"""

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol

import torch
from torch import Tensor

from plainunet.formats.sources import ImageSource
from plainunet.network.device import make_room
from plainunet.system import first_line, give_freed_memory_back, is_out_of_memory


class Allowed(Protocol):
    """A network that computes in parts.

    Attributes:
        values: As of `tiling.WHOLE`: so much at a time.
        least: Less than this makes no difference any more.
    """

    values: int
    least: int


def with_less(
    bands: Callable[[int], Iterator[Tensor]],
    networks: Sequence[Allowed],
    device: torch.device,
    first: int = 0,
) -> Iterator[Tensor]:
    """Give bands, and go on in smaller parts where memory has run out.

    Args:
        bands: Gives [K, n, W] float32, from top to bottom, the rows from a number on.
        networks: What computes them; where memory runs out, the allowance of each is halved, and
            stays so for the pictures that follow.
        device: Where they run.
        first: The row to begin with.

    Yields:
        [K, n, W] float32, from top to bottom, the rows from `first` on.

    Raises:
        ValueError: Memory is too short for the smallest parts.
    """
    while True:
        try:
            for band in bands(first):
                yield band
                first += band.shape[1]
            return
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            said = first_line(error)
        # past the clause, the error has let go of the tensors of what has failed
        large = [network for network in networks if network.values > network.least]
        if not large:
            raise ValueError(
                f"out of memory ({said}), and no smaller part is possible. End what else takes "
                f"memory{', or give --device cpu' if device.type != 'cpu' else ''}."
            )
        for network in large:
            network.values = max(network.least, network.values // 2)
        is_slower = make_room(device, said)
        warnings.warn(
            "out of memory: pictures are seen in smaller parts from here on"
            f"{', and with slower convolutions' if is_slower else ''}; --memory asks for it.",
            stacklevel=2,
        )


@contextmanager
def as_failure(file: ImageSource) -> Iterator[None]:
    """Have what fails, a lack of memory too, be an error that names its file, and let others go on.

    Args:
        file: The picture or video.

    Raises:
        ValueError: It failed.
    """
    try:
        yield
        return
    except Exception as error:
        is_short = is_out_of_memory(error)
        said = first_line(error) if is_short else str(error)
        if not (is_short or isinstance(error, ValueError | OSError)) or str(file) in said:
            raise
    if is_short:
        give_freed_memory_back()
        cure = "Give fewer names to --save at a time, or end what else takes memory."
        said = f"out of memory ({said}). {cure}"
    raise ValueError(f"{file}: {said}")
