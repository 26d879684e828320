"""The device and precision of a network."""

import os
import platform
import re
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TypeVar

import torch
from torch import nn

from plainunet.errors import Error
from plainunet.system import give_freed_memory_back
from plainunet.text import plural

Network = TypeVar("Network", bound=nn.Module)


def choose_device(name: str = "auto") -> torch.device:
    """Turn "auto" (cuda, then mps, then cpu), "cpu", "cuda" or "mps" into a device.

    Raises:
        ValueError: The machine, or this build of PyTorch, has no such device.
    """
    available = {
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
        "cpu": True,
    }
    if name == "auto":
        name = next(known for known, usable in available.items() if usable)
    if not available.get(name, False):
        names = ", ".join(known for known, usable in available.items() if usable)
        raise Error(f"device {name}: not available on this machine. Use auto, {names}.")
    return torch.device(name)


def choose_precision(name: str, device: torch.device) -> torch.dtype:
    """Turn "auto", "fp32", "bf16" or "fp16" into the precision of convolutions on a device.

    "auto" is bf16 if the hardware supports it, fp16 on older CUDA GPUs, else fp32.

    Raises:
        ValueError: The name is unknown.
    """
    if name == "auto":
        if has_native_bf16(device):
            return torch.bfloat16
        return torch.float16 if device.type == "cuda" else torch.float32
    known = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
    if name not in known:
        raise Error(f"precision {name}: unknown. Use auto, {', '.join(known)}.")
    return known[name]


def has_native_bf16(device: torch.device) -> bool:
    """True for GPUs since Ampere, and CPUs with AVX512-BF16 or AMX; emulated bf16 is slow."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    if device.type == "cpu":
        checks = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
        return any(getattr(torch.cpu, name, bool)() for name in checks)
    return False


def describe_processor(device: torch.device) -> str:
    """Name the processor and its number of cores, after the GPU if the device is one."""
    known = Path("/proc/cpuinfo")  # Linux alone has it
    text = known.read_text(errors="replace") if known.is_file() else ""
    found = re.search(r"^model name\s*: (.*)", text, flags=re.MULTILINE)
    name = found[1] if found else platform.processor() or platform.machine()
    gpu = f"{torch.cuda.get_device_name(device)}, " if device.type == "cuda" else ""
    return f"{gpu}{name}, {plural(os.cpu_count() or 1, 'core')}"


def peak_memory(device: torch.device) -> int | None:
    """Peak memory of tensors on a CUDA GPU [bytes]; None on other devices."""
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None


def free_memory(device: torch.device, message: str) -> bool:
    """Free memory after an out-of-memory error with this message.

    Returns whether convolutions are slower from here on: oneDNN keeps failing once it has failed
    to create a primitive, so it is switched off.
    """
    give_freed_memory_back()
    if device.type == "cuda":
        torch.cuda.empty_cache()
    if "primitive" not in message or not torch.backends.mkldnn.is_available():
        return False
    torch.backends.mkldnn.set_flags(False)
    return True


def to_device(network: Network, device: torch.device) -> Network:
    """Move a network to a device, in the channels-last format, the fastest for convolutions."""
    moved: Network = network.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    return moved


def autocast(device: torch.device, precision: torch.dtype) -> AbstractContextManager[None]:
    """Mixed-precision context of the forward pass; with float32 it does nothing."""
    return torch.autocast(device.type, precision, enabled=precision != torch.float32)
