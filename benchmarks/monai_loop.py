"""MONAI's side of `quality.py`: a training loop as in its tutorials.

Needs `pip install monai`. It follows `2d_segmentation/torch/unet_training_dict.py` and the
`CacheDataset` of `3d_segmentation/spleen_segmentation_3d.ipynb` in Project-MONAI/tutorials:
dictionary transforms, cached in memory up to the first random one, MONAI's own `DataLoader`, `UNet`
with two residual units, `DiceLoss(sigmoid=True)` and `Adam` at 1e-3, in fp32, until time is up.
Validation, printing and TensorBoard are omitted, because they would cost time.

It differs from the tutorials as follows, because the data are photographs. Images are reduced to
the input size instead of being cropped (area interpolation for images; "nearest-exact" for masks,
because "nearest" would shift them by half an input pixel). Random rotations by 90 degrees are
replaced by flips, small rotations, scaling and shifts, as in plainunet's "light" but without
brightness and contrast. The image reader is named explicitly, and its swap of height and width is
switched off.

The second network, `monai-muon`, is MONAI's `BasicUNet` with the settings of plainunet's: batch
normalisation, cross-entropy and Dice, optimiser, learning rate schedule, precision, channels-last
memory format, retained memory, and tensors without MONAI's metadata.
"""

import os
import warnings
from collections.abc import Callable
from operator import methodcaller
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from quality import Contest, Example, to_ids
from torch import Tensor, nn
from torch.optim import Optimizer

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
WIDTHS = [16, 32, 64, 128, 256]
MUON, PARTS = 6e-3, 1000
"""Learning rate, as in a plan, and parts into which a budget is divided for its schedule."""
TURN, SCALE, SHIFT = 0.087, 0.15, 0.05
"""Maximum rotation [radians], scaling, and shift as a fraction of the sides."""


def make_transforms(size: tuple[int, int]) -> tuple[list[Transform], list[Transform]]:
    """Make the cached transforms of a pair of files, and the random ones of each epoch."""
    fixed: list[Transform] = [
        LoadImaged(
            key, "PILReader", converter=methodcaller("convert", mode), reverse_indexing=False
        )
        for key, mode in (("image", "RGB"), ("label", "L"))
    ] + [
        EnsureChannelFirstd(KEYS),
        Resized(KEYS, size, mode=("area", "nearest-exact")),
        ScaleIntensityd("image"),
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


def make_network(tutorial: bool) -> tuple[nn.Module, nn.Module]:
    """Make network and loss."""
    if tutorial:
        simple = nets.UNet(2, 3, 1, channels=WIDTHS, strides=[2] * 4, num_res_units=2)
        return simple, DiceLoss(sigmoid=True)
    basic = nets.BasicUNet(2, 3, 2, features=[*WIDTHS, WIDTHS[0]], norm="batch")
    return basic, DiceCELoss(to_onehot_y=True, softmax=True)


def train(contest: Contest, name: str) -> None:
    """Train until the time is up: "monai", or "monai-muon"."""
    tutorial, config = name == "monai", contest.config
    assert config.size is not None
    set_determinism(seed=config.seed)
    device = choose_device(config.device)
    precision = torch.float32 if tutorial else choose_precision(config.precision, device)
    fixed, random = make_transforms(config.size)
    files = [{"image": str(image), "label": str(mask)} for image, mask in contest.trained]
    # one thread per core, as in plainunet
    dataset = CacheDataset(
        files, Compose(fixed + random), num_workers=os.cpu_count(), progress=False
    )
    loader = DataLoader(
        dataset, batch_size=config.batch_size, shuffle=True, num_workers=contest.workers
    )

    network, loss_function = make_network(tutorial)
    optimizers: list[Optimizer]
    if tutorial:
        network = network.to(device)
        optimizers = [torch.optim.Adam(network.parameters(), 1e-3)]
    else:
        network = to_device(network, device)
        if device.type == "cpu":
            keep_freed_memory()
        optimizers = make_optimizers(network, "muon", MUON, config.weight_decay)

    def predict(example: Example) -> NDArray[np.uint8]:
        item = Compose(fixed)({"image": str(example.image), "label": str(example.mask)})
        network.eval()
        with autocast(device, precision):
            logits: Tensor = network(item["image"].as_tensor()[None].to(device))[0]
        network.train()
        # sigmoid(x) equals softmax([0, x])
        logits = torch.cat([torch.zeros_like(logits), logits]) if len(logits) == 1 else logits
        return to_ids(logits, example)

    contest.start_steps()
    while True:
        network.train()
        for batch in loader:
            inputs, labels = batch["image"].to(device), batch["label"].to(device)
            if not tutorial:
                inputs = inputs.as_tensor().contiguous(memory_format=torch.channels_last)
                labels = labels.as_tensor()
                done = int(PARTS * contest.done)
                rate = learning_rate_at(done, PARTS, MUON, config.schedule, config.warm_up)
                for group in (group for each in optimizers for group in each.param_groups):
                    group["lr"] = rate
            for optimizer in optimizers:
                optimizer.zero_grad()
            with autocast(device, precision):
                outputs = network(inputs)
            loss = loss_function(outputs.float(), labels)
            loss.backward()
            for optimizer in optimizers:
                optimizer.step()
            loss.item()
            contest.step(len(inputs), predict)
