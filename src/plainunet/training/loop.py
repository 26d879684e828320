"""The loop: one epoch, or what is left of it, step by step.

Nothing is printed here: what happens is told to functions that the caller gives.
"""

from collections.abc import Callable, Iterable, Sequence

from torch import Tensor, nn

from plainunet.training.state import TrainingState
from plainunet.training.step import Step

FAULTS = 5
"""After so many steps in a row that could not be made, training ends."""


def train_epoch(
    step: Step,
    loader: Iterable[Sequence[Tensor]],
    state: TrainingState,
    rate_at: Callable[[int], float],
    *,
    frozen: Sequence[nn.Module] = (),
    files: Callable[[int], Sequence[str]] = lambda batch: (),
    on_note: Callable[[str], None] = lambda said: None,
    on_step: Callable[[int, float, int], None],
    ends: Callable[[], bool] = lambda: False,
) -> None:
    """Train on each batch of an epoch that has not been trained on.

    Args:
        step: Makes the steps; its network is left in train mode.
        loader: The batches, from number `state.batch` on.
        state: Where the run is; it is moved on with each step.
        rate_at: Learning rate of a step, by its number in the run.
        frozen: Parts of the network that stay in eval mode.
        files: Names the pictures of a batch, by its number in the epoch.
        on_note: Told of steps that could not be made.
        on_step: Told the step's number in the run, its loss, and its number of images.
        ends: Asked after each step whether the epoch ends here.

    Raises:
        FloatingPointError: Loss or gradient was not finite in `FAULTS` steps in a row; the
            weights are as before the first of them.
    """
    step.network.train()
    for part in frozen:
        part.eval()
    for batch in loader:
        loss, images, is_made = step(batch, state.step, rate_at(state.step))
        if is_made:
            state.in_a_row = 0
            state.loss_sum += loss * images
            state.images += images
        else:
            state.in_a_row += 1
            state.skipped += 1
            named = ", ".join(files(state.batch))
            what = f"step {state.step + 1}: the loss was {loss:g}, its gradient not finite"
            if state.in_a_row >= FAULTS:
                raise FloatingPointError(
                    f"{what}, and so in {FAULTS} steps in a row. Begin anew with a smaller "
                    "--learning-rate, or --precision fp32, and another --out; or look at the "
                    f"pictures of the last batch: {named}"
                )
            on_note(f"note: {what}; the step is left out. Its batch: {named}")
        on_step(state.step, loss, images)
        state.step += 1
        state.batch += 1
        if ends():
            break
