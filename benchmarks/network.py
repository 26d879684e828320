"""Time a training step (forward, loss, backward, optimiser), side by side.

Every contender takes a few steps in each round, so a slow moment of the machine hits all of
them; the table holds medians over the rounds, and each ratio is a median of ratios taken
within a round. Prints a table; writes nothing. Limitation: random pictures, and no reading,
augmentation or validation.
"""

import argparse
import os
import platform
import statistics
import time
from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional as F

from plainunet import UNet
from plainunet.network.device import arithmetic, has_native_bf16

Step = Callable[[], None]


def make_step(
    network: nn.Module, image: torch.Tensor, mask: torch.Tensor, *, channels_last: bool, bf16: bool
) -> Step:
    """Make the function that takes one training step.

    Args:
        network: Maps [N, 3, H, W] to logits [N, 2, H, W].
        image: [N, 3, H, W] float32 in [0, 1].
        mask: [N, H, W] int64, 0 or 1.
        channels_last: Whether network and picture lie in memory channel by channel of a pixel.
        bf16: Whether the forward pass runs under bf16 autocast.

    Returns:
        A function without arguments.
    """
    layout = torch.channels_last if channels_last else torch.contiguous_format
    network = network.to(image.device, memory_format=layout).train()
    image = image.contiguous(memory_format=layout)
    optimiser = torch.optim.AdamW(network.parameters(), lr=1e-4)

    def step() -> None:
        optimiser.zero_grad()
        with arithmetic(image.device, torch.bfloat16 if bf16 else torch.float32):
            logits = network(image)
        F.cross_entropy(logits.float(), mask).backward()
        optimiser.step()

    return step


def contenders(arguments: argparse.Namespace, device: torch.device) -> dict[str, Step]:
    """Make every step that can be taken here, and say why the others cannot.

    Args:
        arguments: The command line.
        device: Where to run.

    Returns:
        The step of each contender, by its name; the first is what ratios refer to.
    """
    torch.manual_seed(0)
    shape = (arguments.batch_size, 3, *arguments.size)
    image = torch.rand(shape, device=device)
    mask = torch.randint(2, (shape[0], *shape[2:]), device=device)

    settings = {"plainunet, NCHW fp32": (False, False), "plainunet, channels_last": (True, False)}
    if has_native_bf16(device):
        settings["plainunet, channels_last, bf16"] = (True, True)
    else:
        print("left out: bf16, since this device would only emulate it")

    base = arguments.base_channels
    made = {
        name: make_step(
            UNet(base_channels=base), image, mask, channels_last=channels_last, bf16=bf16
        )
        for name, (channels_last, bf16) in settings.items()
    }
    try:
        from monai.networks.nets import BasicUNet
    except ImportError:
        print("left out: MONAI's BasicUNet, since monai is not installed (pip install monai)")
        return made
    # our widths: the last entry is that of the decoder's last level
    widths = tuple(base * factor for factor in (1, 2, 4, 8, 16, 1))
    for name, (channels_last, bf16) in settings.items():
        peer = BasicUNet(
            spatial_dims=2, in_channels=3, out_channels=2, features=widths, norm="batch"
        )
        made[name.replace("plainunet", "MONAI BasicUNet")] = make_step(
            peer, image, mask, channels_last=channels_last, bf16=bf16
        )
    return made


def measure(steps: dict[str, Step], rounds: int, device: torch.device) -> dict[str, list[float]]:
    """Time the steps in interleaved rounds.

    Args:
        steps: The contenders.
        rounds: How often each is timed, after one round to warm up.
        device: Where they run.

    Returns:
        Seconds of one step, for each contender and round.
    """
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for number in range(rounds + 1):
        for name, step in steps.items():
            started = time.perf_counter()
            step()
            if device.type == "cuda":
                torch.cuda.synchronize()
            if number:
                seconds[name].append(time.perf_counter() - started)
    return seconds


def main() -> None:
    """Run the benchmark and print its table."""
    parser = argparse.ArgumentParser(description="Time a training step, side by side.")
    parser.add_argument("--base-channels", type=int, default=16)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--size", type=int, nargs=2, default=(160, 240), metavar=("H", "W"))
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    arguments = parser.parse_args()
    device = torch.device(arguments.device)

    height, width = arguments.size
    print(
        f"One training step: base {arguments.base_channels}, {height}x{width}, "
        f"batch {arguments.batch_size}, {arguments.rounds} rounds; times are per image.\n"
        f"torch {torch.__version__}, {device}, {torch.get_num_threads()} threads of "
        f"{os.cpu_count()} cores, {platform.machine()}, load {os.getloadavg()[0]:.1f}"
    )
    seconds = measure(contenders(arguments, device), arguments.rounds, device)
    first = next(iter(seconds.values()))
    print(f"\n{'':34}{'median ms':>12}{'least ms':>10}{'speed':>8}")
    for name, times in seconds.items():
        median = 1000 * statistics.median(times) / arguments.batch_size
        least = 1000 * min(times) / arguments.batch_size
        speed = statistics.median(a / b for a, b in zip(first, times, strict=True))
        print(f"{name:34}{median:12.1f}{least:10.1f}{speed:7.2f}x")


if __name__ == "__main__":
    main()
