"""Measure the memory saving and time cost of activation checkpointing.

The variants train alternately, each in its own process. The table holds medians over the rounds of
the peak memory above that before the first step, and of the fastest step. Prints a table; writes
nothing. Limitation: peak memory is that of the whole process as reported by the system (Linux and
macOS), or of PyTorch's allocator on a GPU.
"""

import argparse
import resource
import statistics
import subprocess
import sys
import time

import torch
from torch.nn import functional as F

from plainunet import UNet
from plainunet.network.device import to_device


def train(checkpointing: bool, arguments: argparse.Namespace) -> tuple[float, float]:
    """Train for a few steps.

    Returns:
        Peak memory above that before the first step [MiB], and seconds of the fastest step.
    """
    device = torch.device(arguments.device)
    torch.manual_seed(0)
    network = UNet(base_channels=arguments.base_channels, checkpointing=checkpointing)
    network = to_device(network, device).train()
    height, width = arguments.size
    image = torch.rand(arguments.batch_size, 3, height, width, device=device)
    mask = torch.randint(2, (arguments.batch_size, height, width), device=device)
    optimizer = torch.optim.AdamW(network.parameters(), fused=True)
    before = _memory(device)
    seconds = []
    for _ in range(4):
        started = time.perf_counter()
        optimizer.zero_grad()
        F.cross_entropy(network(image), mask).backward()
        optimizer.step()
        if device.type == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - started)
    return _memory(device) - before, min(seconds)


def _memory(device: torch.device) -> float:
    """Peak memory so far [MiB]."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20


def main() -> None:
    """Run the variants alternately, and print the table."""
    parser = argparse.ArgumentParser(description="Memory and time of activation checkpointing.")
    parser.add_argument("--base-channels", type=int, default=16)
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--size", type=int, nargs=2, default=(320, 480), metavar=("H", "W"))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--variant", choices=("plain", "checkpointing"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.variant:
        print(*train(arguments.variant == "checkpointing", arguments))
        return
    found: dict[str, list[tuple[float, float]]] = {"plain": [], "checkpointing": []}
    for _ in range(arguments.rounds):
        for variant, results in found.items():
            command = [sys.executable, *sys.argv, "--variant", variant]
            memory, seconds = subprocess.check_output(command, text=True).split()
            results.append((float(memory), float(seconds)))
    print(
        f"base {arguments.base_channels}, {arguments.size[0]}x{arguments.size[1]}, batch "
        f"{arguments.batch_size}, fp32, {arguments.device}, {torch.get_num_threads()} threads, "
        f"torch {torch.__version__}"
    )
    medians = {
        name: [statistics.median(column) for column in zip(*results, strict=True)]
        for name, results in found.items()
    }
    print(f"{'':16}{'peak MiB':>10}{'ratio':>8}{'s a step':>10}{'ratio':>8}")
    for name, (memory, seconds) in medians.items():
        first = medians["plain"]
        print(
            f"{name:16}{memory:10.0f}{memory / first[0]:8.2f}{seconds:10.2f}"
            f"{seconds / first[1]:8.2f}"
        )


if __name__ == "__main__":
    main()
