"""MONAI's side of `train.py peers`: a training loop as its tutorials write it.

Needs `pip install monai`. After `2d_segmentation/torch/unet_training_dict.py` and the
`CacheDataset` of `3d_segmentation/spleen_segmentation_3d.ipynb` in Project-MONAI/tutorials:
dictionary transforms, those before the first random one cached in memory, MONAI's own
`DataLoader`, `UNet` with two residual units, `DiceLoss(sigmoid=True)` and `Adam` at 1e-3, in fp32,
until time is up. Left out: its validation, its printing and TensorBoard, which would cost time.

Other than there, since these are photographs of cars: pictures are reduced to the working size
instead of being cropped (area for pictures; "nearest-exact" for masks, since "nearest" would shift
them by half a working pixel), and random turns by 90 degrees are a flip and small turns, scalings
and shifts, as plainunet's "light" but without brightness and contrast. MONAI's reader for pictures
does not claim GIF files, so it is named; it would swap height and width, which is switched off;
and it converts masks to grey ("L"), by which a palette mask of 0 and 1 becomes 0 and 255, and
`ScaleIntensityd` makes both kinds 0 and 1.

The other network is MONAI's `BasicUNet` with everything that plainunet's has: as wide, batch
normalisation, cross-entropy and Dice, plainunet's optimisers, learning rate over as many epochs,
precision, channels last in memory, memory that is kept, and tensors without MONAI's metadata.
"""

import os
import warnings
from collections.abc import Callable
from operator import methodcaller
from typing import Any

import torch
from race import Race
from torch import Tensor, nn
from torch.optim import Optimizer

from plainunet.config import TrainConfig
from plainunet.dataset.pairs import Pair
from plainunet.network.device import autocast, choose_device, choose_precision, to_device
from plainunet.system import keep_freed_memory
from plainunet.training.optim import make_optimizers
from plainunet.training.schedule import learning_rate_at

with warnings.catch_warnings(action="ignore"):
    from monai.data import CacheDataset, DataLoader
    from monai.losses import DiceCELoss, DiceLoss
    from monai.networks import nets
    from monai.transforms import (
        Compose,
        EnsureChannelFirstd,
        LoadImaged,
        RandAffined,
        RandFlipd,
        Resized,
        ScaleIntensityd,
    )
    from monai.utils import set_determinism

Transform = Callable[[Any], Any]
KEYS = ["image", "label"]
TURN, SCALE, SHIFT = 0.087, 0.15, 0.05
"""Greatest turn [radians], scaling, and shift as a share of the sides."""


def make_transforms(size: tuple[int, int]) -> tuple[list[Transform], list[Transform]]:
    """Make what is done to a pair of files once, and to a sample in each epoch."""
    fixed: list[Transform] = [
        LoadImaged(
            key, "PILReader", converter=methodcaller("convert", mode), reverse_indexing=False
        )
        for key, mode in (("image", "RGB"), ("label", "L"))
    ] + [
        EnsureChannelFirstd(KEYS),
        Resized(KEYS, size, mode=("area", "nearest-exact")),
        ScaleIntensityd(KEYS),
    ]
    random: list[Transform] = [
        RandFlipd(KEYS, prob=0.5, spatial_axis=1),
        RandAffined(
            KEYS,
            prob=0.8,
            rotate_range=TURN,
            scale_range=(SCALE, SCALE),
            translate_range=(SHIFT * size[0], SHIFT * size[1]),
            mode=("bilinear", "nearest"),
        ),
    ]
    return fixed, random


def make_network(config: TrainConfig, tutorial: bool) -> tuple[nn.Module, nn.Module]:
    """Make network and loss."""
    widths = [config.base_channels * 2**level for level in range(5)]
    if tutorial:
        simple = nets.UNet(2, 3, 1, channels=widths, strides=[2] * 4, num_res_units=2)
        return simple, DiceLoss(sigmoid=True)
    basic = nets.BasicUNet(2, 3, 2, features=[*widths, widths[0]], norm="batch")
    return basic, DiceCELoss(to_onehot_y=True, softmax=True)


def run_monai(
    race: Race, pairs: list[Pair], config: TrainConfig, tutorial: bool, workers: int
) -> None:
    """Train until the race is over.

    Args:
        race: Told of each step.
        pairs: What is trained on.
        config: Size, batch, width and seed; and, for `BasicUNet`, the whole recipe.
        tutorial: Whether the tutorial's network is taken, with its settings.
        workers: Processes of the loader.
    """
    assert config.size is not None
    set_determinism(seed=config.seed)
    device = choose_device(config.device)
    precision = torch.float32 if tutorial else choose_precision(config.precision, device)
    fixed, random = make_transforms(config.size)
    files = [{"image": str(pair.image), "label": str(pair.mask)} for pair in pairs]
    begun = race.seconds
    # as many threads as cores, as plainunet takes
    dataset = CacheDataset(
        files, Compose(fixed + random), num_workers=os.cpu_count(), progress=False
    )
    race.filling = race.seconds - begun
    loader = DataLoader(dataset, batch_size=config.batch_size, shuffle=True, num_workers=workers)

    network, loss_function = make_network(config, tutorial)
    optimizers: list[Optimizer]
    if tutorial:
        network = network.to(device)
        optimizers = [torch.optim.Adam(network.parameters(), 1e-3)]
    else:
        network = to_device(network, device)
        if device.type == "cpu":
            keep_freed_memory()
        settings = (config.optimizer, config.learning_rate, config.weight_decay)
        optimizers = make_optimizers(network, *settings)

    def logits_of(pair: Pair) -> Tensor:
        item = Compose(fixed)({"image": str(pair.image), "label": str(pair.mask)})
        network.eval()
        with autocast(device, precision):
            logits: Tensor = network(item["image"].as_tensor()[None].to(device))[0]
        network.train()
        # a sigmoid of one logit is a softmax of it and 0
        return torch.cat([torch.zeros_like(logits), logits]) if len(logits) == 1 else logits

    steps, step = config.epochs * len(loader), 0
    while True:
        network.train()
        for batch in loader:
            inputs, labels = batch["image"].to(device), batch["label"].to(device)
            if not tutorial:
                inputs = inputs.as_tensor().contiguous(memory_format=torch.channels_last)
                labels = labels.as_tensor()
                rate = (config.learning_rate, config.schedule, config.warm_up)
                for group in (group for each in optimizers for group in each.param_groups):
                    group["lr"] = learning_rate_at(step, steps, *rate)
            for optimizer in optimizers:
                optimizer.zero_grad()
            with autocast(device, precision):
                outputs = network(inputs)
            loss = loss_function(outputs.float(), labels)
            loss.backward()
            for optimizer in optimizers:
                optimizer.step()
            loss.item()
            step += 1
            race.step(len(inputs), logits_of, last=not tutorial and step == steps)
