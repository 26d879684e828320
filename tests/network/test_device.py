import pytest
import torch

from plainunet.network.device import (
    autocast,
    choose_device,
    choose_precision,
    free_memory,
    has_native_bf16,
    peak_memory,
    to_device,
)
from plainunet.network.unet import UNet

CPU = torch.device("cpu")
HAS_CUDA = torch.cuda.is_available()


def test_cpu_is_always_available() -> None:
    assert choose_device("cpu") == CPU


def test_auto_chooses_the_fastest() -> None:
    fastest = "cuda" if HAS_CUDA else "mps" if torch.backends.mps.is_available() else "cpu"
    assert choose_device("auto") == choose_device() == torch.device(fastest)


@pytest.mark.parametrize("name", ["mps" if HAS_CUDA else "cuda", "gpu", "tpu", ""])
def test_missing_device(name: str) -> None:
    """The message lists those that are available."""
    with pytest.raises(ValueError, match=rf"device {name}: .*\bauto, .*cpu"):
        choose_device(name)


def test_precision_may_be_forced() -> None:
    assert choose_precision("fp32", CPU) == torch.float32
    assert choose_precision("bf16", CPU) == torch.bfloat16


def test_auto_precision_follows_the_hardware() -> None:
    flags = set(torch.cpu.get_capabilities()) if hasattr(torch.cpu, "get_capabilities") else None
    wanted = torch.bfloat16 if has_native_bf16(CPU) else torch.float32
    assert choose_precision("auto", CPU) == wanted
    if flags is not None:
        capable = torch.cpu.get_capabilities()
        native = capable.get("avx512_bf16") or capable.get("amx_bf16") or capable.get("amx_tile")
        assert has_native_bf16(CPU) == bool(native)


@pytest.mark.bf16
def test_bf16_is_detected() -> None:
    assert has_native_bf16(CPU)
    assert choose_precision("auto", CPU) == torch.bfloat16


def test_fp32_on_other_devices() -> None:
    assert choose_precision("auto", torch.device("mps")) == torch.float32


def test_no_bf16_if_pytorch_cannot_detect_it(monkeypatch: pytest.MonkeyPatch) -> None:
    # as in older versions of PyTorch
    for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"):
        monkeypatch.delattr(torch.cpu, name, raising=False)
    assert choose_precision("auto", CPU) == torch.float32


def test_unknown_precision() -> None:
    with pytest.raises(ValueError, match="fp8"):
        choose_precision("fp8", CPU)


def test_network_is_moved_channels_last() -> None:
    network = UNet(base_channels=2, depth=1)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    moved = to_device(network, CPU)
    assert moved is network
    weight = moved.inlet[3].weight
    assert weight.is_contiguous(memory_format=torch.channels_last)
    assert all(torch.equal(value, before[name]) for name, value in moved.state_dict().items())


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_mixed_precision(precision: torch.dtype) -> None:
    convolution = torch.nn.Conv2d(3, 4, 3)
    with autocast(CPU, precision):
        result = convolution(torch.ones(1, 3, 5, 5))
    assert result.dtype == precision
    assert convolution.weight.dtype == torch.float32


def test_free_memory() -> None:
    assert not free_memory(CPU, "DefaultCPUAllocator: can't allocate memory")
    before = torch.backends.mkldnn.enabled
    try:
        assert free_memory(CPU, "could not create a primitive") == before
        assert not torch.backends.mkldnn.enabled
    finally:
        torch.backends.mkldnn.set_flags(before)


@pytest.mark.cuda
def test_cached_gpu_memory_is_released() -> None:
    device = torch.device("cuda")
    torch.ones(2**24, device=device).mean()
    assert torch.cuda.memory_reserved() > torch.cuda.memory_allocated()
    free_memory(device, "CUDA out of memory.")
    assert torch.cuda.memory_reserved() - torch.cuda.memory_allocated() < 2**24


def test_no_peak_memory_on_cpus() -> None:
    assert peak_memory(CPU) is None


@pytest.mark.cuda
def test_peak_memory_on_gpus() -> None:
    device = torch.device("cuda")
    kept = torch.ones(2**20, device=device)
    assert (peak_memory(device) or 0) >= 4 * kept.numel()
