"""The loop: forward, loss, backward, step; and judging at the working size.

Nothing is printed here: what happens is told to functions that the caller gives.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.optim import Optimizer

from plainunet.data.dataset import Samples
from plainunet.data.resizing import resize
from plainunet.data.targets import make_batch
from plainunet.evaluation.metrics import confusion_matrix, summarise
from plainunet.network.device import arithmetic
from plainunet.network.losses import Loss
from plainunet.network.mirror import deep_logits
from plainunet.network.supervision import deep_loss
from plainunet.network.unet import UNet
from plainunet.prediction.predictor import Predictor
from plainunet.training.optim import WeightAverage

OnPicture = Callable[[int, NDArray[Any], NDArray[np.uint8], NDArray[np.uint8]], None]


def train_epoch(
    network: UNet,
    loader: Iterable[Sequence[Tensor]],
    loss_function: Loss,
    optimizers: list[Optimizer],
    rate_at: Callable[[int], float],
    *,
    first_step: int,
    device: torch.device,
    precision: torch.dtype,
    average: WeightAverage | None,
    class_weights: Tensor | None = None,
    accumulation: int = 1,
    clip: float = 0.0,
    frozen: Sequence[nn.Module] = (),
    scaler: torch.amp.GradScaler | None = None,
    cuts: Callable[[], bool] = lambda: False,
    on_step: Callable[[int, float, int], None],
) -> float:
    """Train on each batch once.

    Args:
        network: The network; left in train mode.
        loader: Batches of images [N, H, W, C], shares [N, H', W', K] and, where there are any,
            border weights [N, H', W'].
        loss_function: Of logits, target and weight.
        optimizers: What moves the weights.
        rate_at: Learning rate of a step, by its number in the run.
        first_step: Number of the epoch's first step in the run.
        device: Where the network is.
        precision: Arithmetic of the forward pass.
        average: Takes in the weights after each step.
        class_weights: [K] float32, how much the pixels of each class weigh; None for 1 each.
        accumulation: Into how many parts a batch is cut, of which one at a time is in memory.
            The gradient is that of the whole batch, except that batch normalisation sees its
            part alone.
        clip: Largest norm of all gradients together; longer ones are shortened to it. 0 for any.
        frozen: Parts of the network that stay in eval mode.
        scaler: For fp16: scales the loss so that small gradients do not vanish, and leaves out
            steps in which they grew too large.
        cuts: Asked after each step whether the epoch ends here.
        on_step: Told the step's number in the run, its loss, and its number of images.

    Returns:
        Mean loss over the epoch's images.

    Raises:
        FloatingPointError: The loss is not finite; the weights are as before that step.
    """
    network.train()
    for part in frozen:
        part.eval()
    total, seen = 0.0, 0
    for step, batch in enumerate(loader, start=first_step):
        image, target, weight = make_batch(batch, device, class_weights)
        for optimizer in optimizers:
            optimizer.zero_grad(set_to_none=True)
        value = 0.0
        parts = min(accumulation, len(image))
        cut = (each.chunk(parts) for each in (image, target, weight))
        for images, targets, weights in zip(*cut, strict=True):
            with arithmetic(device, precision):
                levels = deep_logits(network, images)
            loss = deep_loss(loss_function, levels, targets, weights, weight)
            value += loss.item()
            if not np.isfinite(value):
                raise FloatingPointError(
                    f"The loss became {value} in step {step}. Take a smaller --learning-rate, or "
                    "--precision fp32."
                )
            (scaler.scale(loss) if scaler else loss).backward()
        if scaler:
            for optimizer in optimizers:
                scaler.unscale_(optimizer)
        if clip:
            torch.nn.utils.clip_grad_norm_(network.parameters(), clip)
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate_at(step)
            scaler.step(optimizer) if scaler else optimizer.step()
        if scaler:
            scaler.update()
        if average:
            average.update(network, step)
        total, seen = total + value * len(image), seen + len(image)
        on_step(step, value, len(image))
        if cuts():
            break
    return total / seen


def validate(
    predictor: Predictor,
    samples: Samples,
    size: tuple[int, int],
    on_progress: Callable[[int], None],
    patch: tuple[int, int] | None = None,
    on_picture: OnPicture | None = None,
) -> dict[str, Any]:
    """Judge on reduced pictures: quick, for every epoch; not the picture's own resolution.

    Args:
        predictor: Made around the live network; takes pictures as they are.
        samples: The validation part.
        size: Height and width that the samples' box, or a patch of them, is reduced to [pixels].
        on_progress: Told how many pictures are done.
        patch: Height and width of a patch [working pixels], where the samples have no box.
        on_picture: Given each picture's number, image [H, W, C], truth and prediction [H, W]
            uint8 at that size.

    Returns:
        `summarise`'s dictionary, with a protocol that says so.
    """
    counts = []
    window = patch or samples.box
    assert window is not None  # samples of different sizes have patches
    scale = [part / whole / samples.target_scale for part, whole in zip(size, window, strict=True)]
    for index in range(len(samples)):
        image, shares = samples[index]
        reduced_size = round(image.shape[0] * scale[0]), round(image.shape[1] * scale[1])
        reduced = resize(shares, reduced_size)
        truth = reduced.argmax(axis=2).astype(np.uint8)
        truth[reduced.sum(axis=2, dtype=np.int64) < 128] = 255  # mostly void or padding
        image = resize(image, reduced_size)
        prediction = predictor.predict(image)
        counts.append(confusion_matrix(truth, prediction, predictor.network.num_classes))
        if on_picture:
            on_picture(index, image, truth, prediction)
        on_progress(index + 1)
    scores = summarise(np.stack(counts), predictor.card.class_names)
    seen = "seen in patches of" if patch else "at the working size"
    return {**scores, "protocol": f"{seen} {size[0]} x {size[1]}, not native"}
