"""Activation checkpointing: what a block computes is forgotten, and computed again when needed.

Chen et al. 2016, "Training deep nets with sublinear memory cost", arXiv 1604.06174, by
PyTorch's own implementation. What is added here: batch normalisation takes a batch into its
running statistics once, not twice.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint


def recomputed(block: nn.Module, *features: Tensor) -> Tensor:
    """Run a block, keeping for the backward pass only what goes in.

    Args:
        block: Any module; its dropout repeats itself when it is computed again.
        features: What it takes, [N, c, h, w] each.

    Returns:
        What it gives.
    """

    def contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        return nullcontext(), _statistics_untouched(block)

    result: Tensor = checkpoint(block, *features, use_reentrant=False, context_fn=contexts)
    return result


@contextmanager
def _statistics_untouched(block: nn.Module) -> Iterator[None]:
    """Lend batch normalisations copies of their running statistics, which are then dropped."""
    own = {m: dict(m._buffers) for m in block.modules() if isinstance(m, _BatchNorm)}
    for module, buffers in own.items():
        for name, value in buffers.items():
            module._buffers[name] = value.clone() if value is not None else None
    try:
        yield
    finally:
        for module, buffers in own.items():
            module._buffers.update(buffers)
