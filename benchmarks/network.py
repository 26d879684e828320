"""Compare training and inference speed of the network with MONAI's and with the machine's peak.

A training step is forward, cross-entropy, backward and AdamW; inference is one forward pass in eval
mode. All contenders alternate in each round, so a slow moment of the machine affects all of them.
Every number is a median over the rounds: milliseconds per image; "of peak", the FLOP/s of the
network as a fraction of those of the fastest 3x3 convolution in the same round (forward and
backward for training, forward for inference); "ratio", the time divided by that of the first line
in the same round. Prints a table; writes nothing. Limitation: random images, without loading,
augmentation or validation. `--normalisations` compares kinds of normalisation, and PyTorch's own
group normalisation, instead of networks.
"""

import argparse
import copy
import os
import platform
import subprocess
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from plainunet import UNet
from plainunet.network.blocks import GroupNorm
from plainunet.network.device import autocast, has_native_bf16, to_device
from plainunet.system import keep_freed_memory

Step = Callable[[], object]
PEAK_SHAPES = ((64, 80, 120), (128, 40, 60), (256, 40, 60), (512, 20, 30))
"""Channels, height and width of the convolutions that determine the peak."""
PEAK_IMAGES = 4


@dataclass
class Contender:
    """A network to time: its name, precision, MACs per image, and steps."""

    name: str
    precision: torch.dtype
    multiply_adds: float
    train: Step
    infer: Step


def multiply_adds(network: nn.Module, size: tuple[int, int]) -> float:
    """Count the MACs of a forward pass on one image (1 MAC = 2 FLOP)."""
    shadow = copy.deepcopy(network).to("meta").eval()
    with FlopCounterMode(display=False) as counter:
        shadow(torch.empty(1, 3, *size, device="meta"))
    return counter.get_total_flops() / 2


def make_contender(
    name: str, network: nn.Module, image: Tensor, mask: Tensor, precision: torch.dtype
) -> Contender:
    """Make a contender of a network that maps [N, 3, H, W] to logits [N, 2, H, W]."""
    count = multiply_adds(network, (image.shape[2], image.shape[3]))
    network = to_device(network, image.device)
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-4, fused=True)

    def train() -> None:
        network.train()
        optimizer.zero_grad()
        with autocast(image.device, precision):
            logits = network(image)
        F.cross_entropy(logits.float(), mask).backward()
        optimizer.step()

    @torch.inference_mode()
    def infer() -> None:
        network.eval()
        with autocast(image.device, precision):
            network(image)

    return Contender(name, precision, count, train, infer)


def make_normalised(base: int) -> dict[str, Callable[[], nn.Module]]:
    """Make a network for each kind of normalisation; group and instance also by PyTorch's layer."""

    def by_pytorch(network: nn.Module) -> nn.Module:
        for module in network.modules():
            if isinstance(module, GroupNorm):
                module.__class__ = nn.GroupNorm
        return network

    networks: dict[str, Callable[[], nn.Module]] = {"batch": lambda: UNet(base_channels=base)}
    for kind in ("group", "instance"):
        make = partial(UNet, base_channels=base, normalisation=kind)
        networks[kind] = make
        networks[f"{kind}, PyTorch's"] = lambda make=make: by_pytorch(make())
    return networks


def make_networks(base: int) -> dict[str, Callable[[], nn.Module]]:
    """Make the project's network, then the installed peers'."""
    networks: dict[str, Callable[[], nn.Module]] = {"plainunet": lambda: UNet(base_channels=base)}
    try:
        with warnings.catch_warnings(action="ignore"):
            from monai.networks import nets
    except ImportError:
        pass
    else:
        widths = [base * 2**level for level in range(5)]
        networks["MONAI BasicUNet"] = lambda: nets.BasicUNet(
            2, in_channels=3, out_channels=2, features=[*widths, base], norm="batch"
        )
        networks["MONAI UNet, 2 residual units"] = lambda: nets.UNet(
            2, 3, 2, channels=widths, strides=[2] * 4, num_res_units=2, norm="batch"
        )
    return networks


def make_contenders(
    networks: dict[str, Callable[[], nn.Module]],
    image: Tensor,
    mask: Tensor,
    precisions: list[torch.dtype],
) -> Iterator[Contender]:
    """Make a contender for each network and precision, all channels-last."""
    for name, make in networks.items():
        for precision in precisions:
            torch.manual_seed(0)
            yield make_contender(name, make(), image, mask, precision)


def make_peaks(device: torch.device, precision: torch.dtype) -> list[tuple[float, Step, Step]]:
    """Single 3x3 convolutions: FLOP of a forward pass, training step and inference step."""
    made = []
    for channels, height, width in PEAK_SHAPES:
        feature = torch.randn(PEAK_IMAGES, channels, height, width, device=device, dtype=precision)
        feature = feature.contiguous(memory_format=torch.channels_last).requires_grad_()
        conv = to_device(nn.Conv2d(channels, channels, 3, padding=1, bias=False), device)
        conv = conv.to(precision)
        gradient = torch.randn_like(feature)

        def train(conv: nn.Module = conv, x: Tensor = feature, g: Tensor = gradient) -> None:
            torch.autograd.grad(conv(x), [x, *conv.parameters()], g)

        @torch.inference_mode()
        def infer(conv: nn.Module = conv, x: Tensor = feature) -> None:
            conv(x)

        flop = 2 * 9 * channels**2 * height * width * PEAK_IMAGES
        made.append((flop, train, infer))
    return made


Key = tuple[str, torch.dtype]


def measure(
    steps: dict[Key, Step], rounds: int, device: torch.device
) -> dict[Key, NDArray[np.float64]]:
    """Time the steps in interleaved rounds, after one warm-up round.

    Returns:
        Seconds of each step, [rounds].
    """
    seconds: dict[Key, list[float]] = {name: [] for name in steps}
    for number in range(rounds + 1):
        for name, step in steps.items():
            started = time.perf_counter()
            step()
            if device.type == "cuda":
                torch.cuda.synchronize()
            if number:
                seconds[name].append(time.perf_counter() - started)
    return {name: np.array(times) for name, times in seconds.items()}


def compare(arguments: argparse.Namespace, base: int, size: tuple[int, int]) -> None:
    """Print the table for one width and size."""
    device = torch.device(arguments.device)
    images = arguments.batch_size or batch_for(base, size)
    generator = torch.Generator().manual_seed(0)
    image = torch.rand(images, 3, *size, generator=generator).to(device)
    image = image.contiguous(memory_format=torch.channels_last)
    mask = torch.randint(2, (images, *size), generator=generator).to(device)
    precisions = [torch.float32] + [torch.bfloat16] * has_native_bf16(device)
    networks = make_normalised(base) if arguments.normalisations else make_networks(base)
    contenders = list(make_contenders(networks, image, mask, precisions))
    cells = {(c.name, c.precision): "" for c in contenders}
    peaks = dict.fromkeys(precisions, "")
    for task, passes in (("train", 3), ("infer", 1)):
        steps = {(c.name, c.precision): getattr(c, task) for c in contenders}
        flop = {}
        for precision in precisions:
            for number, (forward, *both) in enumerate(make_peaks(device, precision)):
                steps[f"peak {number}", precision] = both[task == "infer"]
                flop[f"peak {number}", precision] = passes * forward
        seconds = measure(steps, arguments.rounds, device)
        first = next(iter(seconds.values()))
        for precision in precisions:
            rates = [flop[key] / seconds[key] for key in flop if key[1] == precision]
            peak = np.max(rates, axis=0)
            peaks[precision] += f"{np.median(peak) / 1e9:10.0f}{'':16}"
            for c in contenders:
                if c.precision == precision:
                    own = seconds[c.name, precision]
                    share = 2 * passes * c.multiply_adds * images / own / peak
                    cells[c.name, precision] += (
                        f"{1000 * np.median(own) / images:10.1f}{np.median(share):9.2f}"
                        f"{np.median(own / first):7.2f}"
                    )

    print(f"\nbase {base}, {size[0]}x{size[1]}, batch {images}")
    print(
        f"{'':30}{'':10}{'G mult-adds':>12}{'train ms':>10}{'of peak':>9}{'ratio':>7}"
        f"{'infer ms':>10}{'of peak':>9}{'ratio':>7}"
    )
    for c in contenders:
        word = str(c.precision).removeprefix("torch.")
        line = cells[c.name, c.precision]
        print(f"{c.name:30}{word:10}{c.multiply_adds / 1e9:12.2f}{line}")
    for precision in precisions:
        word = str(precision).removeprefix("torch.")
        print(f"{'peak, GFLOP/s':30}{word:10}{'':12}{peaks[precision]}")


def show_profile(arguments: argparse.Namespace, base: int, size: tuple[int, int]) -> None:
    """Print the percentage of a training step's time that each kind of operation takes."""
    device = torch.device(arguments.device)
    images = arguments.batch_size or batch_for(base, size)
    image = torch.rand(images, 3, *size, device=device)
    image = image.contiguous(memory_format=torch.channels_last)
    mask = torch.randint(2, (images, *size), device=device)
    precision = torch.bfloat16 if has_native_bf16(device) else torch.float32
    ours = make_contender("plainunet", UNet(base_channels=base), image, mask, precision)
    for _ in range(2):
        ours.train()
    with profile(activities=[ProfilerActivity.CPU], record_shapes=True) as record:
        for _ in range(arguments.rounds):
            ours.train()
    kinds = {
        "convolution": "convolution, backward",
        "mkldnn_convolution": "convolution, forward",
        "batch_norm": "batch normalisation",
        "threshold": "ReLU, backward",
        "clamp_min": "ReLU, forward",
        "cat": "concatenation",
        "max_pool": "max pooling",
        "adamw": "optimiser",
    }
    shares: dict[str, float] = {}
    for event in record.key_averages():
        kind = next((words for key, words in kinds.items() if key in event.key.lower()), "the rest")
        if "mkldnn_convolution" in event.key or event.key == "aten::_convolution":
            kind = "convolution, forward"  # aten::_convolution is the transposed one
        shares[kind] = shares.get(kind, 0) + event.self_cpu_time_total
    total = sum(shares.values())
    print(f"\nbase {base}, {size[0]}x{size[1]}, batch {images}: a training step's time")
    for kind, spent in sorted(shares.items(), key=lambda item: -item[1]):
        print(f"{spent / total:7.1%}  {spent / 1000 / arguments.rounds:8.1f} ms  {kind}")


def batch_for(base: int, size: tuple[int, int]) -> int:
    """Batch size with about the memory of batch 8 at base 16 and 160x240, at most 8."""
    return max(1, min(8, 8 * 16 * 160 * 240 // (base * size[0] * size[1])))


def main() -> None:
    """Run the benchmark and print its tables."""
    parser = argparse.ArgumentParser(
        description="Compare the speed of the network with others and the peak."
    )
    parser.add_argument("--base-channels", type=int, nargs="+", default=(16, 32, 64))
    parser.add_argument("--sizes", nargs="+", default=("160x240", "320x480"), metavar="HxW")
    parser.add_argument("--batch-size", type=int, help="default: by memory, at most 8")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--profile", action="store_true", help="profile a training step instead")
    parser.add_argument(
        "--normalisations", action="store_true", help="compare kinds of normalisation instead"
    )
    parser.add_argument(
        "--return-memory",
        action="store_true",
        help="return freed memory to the system, unlike in training",
    )
    arguments = parser.parse_args()
    if not arguments.return_memory and arguments.device == "cpu":
        keep_freed_memory()
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    ).stdout.strip()
    print(
        f"torch {torch.__version__}, {arguments.device}, {torch.get_num_threads()} threads of "
        f"{os.cpu_count()} cores, {platform.machine()}, load {os.getloadavg()[0]:.1f}, "
        f"{arguments.rounds} rounds, seed 0, commit {commit or 'unknown'}"
    )
    if not has_native_bf16(torch.device(arguments.device)):
        print("bf16 is left out, since this device would only emulate it")
    for base in arguments.base_channels:
        for size in arguments.sizes:
            height, width = map(int, size.split("x"))
            show = show_profile if arguments.profile else compare
            show(arguments, base, (height, width))


if __name__ == "__main__":
    main()
