"""milesial's side of `quality.py`: a plain loop with the settings of milesial/Pytorch-UNet.

Written anew after its `train.py`: the paper's widths (64 to 1024, 31 M parameters) with padding,
batch normalisation and transposed convolutions, RMSprop with momentum 0.999, cross-entropy and
Dice loss, one image at a time at half its size, gradient clipping, and a learning rate that falls
when the validation Dice, taken five times per epoch, stays; fp32, without augmentation.

In its favour, that validation is the evaluation of `quality.py`, for which the clock is paused.
"""

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from quality import Contest, Example, to_ids
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from plainunet import UNet
from plainunet.network.device import autocast, choose_device, choose_precision

SCALE, RATE, MOMENTUM, DECAY, PATIENCE, CLIP = 0.5, 1e-5, 0.999, 1e-8, 5, 1.0
EPSILON = 1e-6
VALIDATIONS = 5
"""Per epoch."""


class Halves(Dataset[tuple[Tensor, Tensor]]):
    """Images [3, h, w] in 0..1 and masks [h, w] of class ids at half their size."""

    def __init__(self, examples: list[Example]) -> None:
        """Set the files."""
        self._examples = examples

    def __len__(self) -> int:
        """Number of examples."""
        return len(self._examples)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        """Read an example."""
        with Image.open(self._examples[index].mask) as mask:
            small = mask.resize(_half(mask), Image.Resampling.NEAREST)
            return read_half(self._examples[index]), torch.from_numpy(np.array(small)).long()


def _half(image: Image.Image) -> tuple[int, int]:
    return int(SCALE * image.width), int(SCALE * image.height)


def read_half(example: Example) -> Tensor:
    """Read an image [3, h, w] in 0..1 at half its size."""
    with Image.open(example.image) as image:
        small = image.convert("RGB").resize(_half(image), Image.Resampling.BICUBIC)
    return torch.from_numpy(np.array(small)).permute(2, 0, 1).float() / 255


def dice_loss(logits: Tensor, mask: Tensor) -> Tensor:
    """One minus the Dice of all classes together."""
    probabilities = logits.softmax(dim=1)
    truth = F.one_hot(mask, 2).permute(0, 3, 1, 2)
    both = 2 * (probabilities * truth).sum()
    return 1 - (both + EPSILON) / (probabilities.sum() + truth.sum() + EPSILON)


def endless(loader: DataLoader[tuple[Tensor, Tensor]]) -> Iterator[tuple[Tensor, Tensor]]:
    """Epoch after epoch."""
    while True:
        yield from loader


def train(contest: Contest, name: str) -> None:
    """Train until the time is up."""
    torch.manual_seed(contest.config.seed)
    device = choose_device(contest.config.device)
    network = UNet(base_channels=64).to(device, memory_format=torch.channels_last)
    network.set_normalisation([0.0] * 3, [1.0] * 3)
    optimizer = torch.optim.RMSprop(
        network.parameters(), RATE, weight_decay=DECAY, momentum=MOMENTUM, foreach=True
    )
    scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, "max", patience=PATIENCE)
    loader = DataLoader(Halves(contest.trained), shuffle=True, num_workers=contest.workers)
    precision = choose_precision("auto", device)

    def predict(example: Example) -> NDArray[np.uint8]:
        network.eval()
        # of evaluation alone, which would take longer than the training
        with autocast(device, precision):
            logits = network(read_half(example)[None].to(device))[0]
        network.train()
        return to_ids(logits, example)

    contest.start_steps()
    between = len(contest.trained) // VALIDATIONS
    for step, (image, mask) in enumerate(endless(loader), start=1):
        image = image.to(device, memory_format=torch.channels_last)
        logits, mask = network(image), mask.to(device)
        loss = F.cross_entropy(logits, mask) + dice_loss(logits, mask)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), CLIP)
        optimizer.step()
        loss.item()
        contest.step(1, predict)
        if between and step % between == 0:
            scheduler.step(contest.evaluate(predict, contest.seconds))
