"""Where the network runs, and in what precision."""

from contextlib import AbstractContextManager
from typing import TypeVar

import torch
from torch import nn

from plainunet.system import give_freed_memory_back

Network = TypeVar("Network", bound=nn.Module)


def choose_device(name: str = "auto") -> torch.device:
    """Turn "auto" (cuda, then mps, then cpu), "cpu", "cuda" or "mps" into a device.

    Raises:
        ValueError: This machine, or this build of PyTorch, has no such device.
    """
    there = {
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
        "cpu": True,
    }
    if name == "auto":
        name = next(known for known, usable in there.items() if usable)
    if not there.get(name, False):
        usable_names = ", ".join(known for known, usable in there.items() if usable)
        raise ValueError(f"--device {name}: not on this machine; usable are auto, {usable_names}.")
    return torch.device(name)


def choose_precision(name: str, device: torch.device) -> torch.dtype:
    """Turn a name into the arithmetic of convolutions on a device.

    "auto" is bf16 where the hardware has it, on older CUDA GPUs fp16, else fp32; the other names
    are "fp32", "bf16" and "fp16", any else is a ValueError.
    """
    if name == "auto":
        if has_native_bf16(device):
            return torch.bfloat16
        return torch.float16 if device.type == "cuda" else torch.float32
    known = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
    if name not in known:
        raise ValueError(f"--precision {name}: it is one of auto, {', '.join(known)}.")
    return known[name]


def has_native_bf16(device: torch.device) -> bool:
    """True for GPUs from Ampere on, and CPUs with AVX512-BF16 or AMX; emulated, bf16 is slow."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    if device.type == "cpu":
        asked = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
        return any(getattr(torch.cpu, name, bool)() for name in asked)
    return False


def peak_memory(device: torch.device) -> int | None:
    """Peak memory of tensors on a GPU [bytes]; None on devices that do not count it."""
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None


def free_memory(device: torch.device, said: str) -> bool:
    """Free memory after it has run out with an error that `said` this.

    Returns whether convolutions are slower from here on: once oneDNN has failed to make one, it
    always fails, and is switched off.
    """
    give_freed_memory_back()
    if device.type == "cuda":
        torch.cuda.empty_cache()
    if "primitive" not in said or not torch.backends.mkldnn.is_available():
        return False
    torch.backends.mkldnn.set_flags(False)
    return True


def to_device(network: Network, device: torch.device) -> Network:
    """Move a network, its weights channels last in memory, which makes convolutions fastest."""
    moved: Network = network.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    return moved


def autocast(device: torch.device, precision: torch.dtype) -> AbstractContextManager[None]:
    """Autocast context of the network's forward pass; with float32 it does nothing."""
    return torch.autocast(device.type, precision, enabled=precision != torch.float32)
