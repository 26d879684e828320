"""Weights of the two layouts, made by modules that are written here after those projects."""

import json
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from plainunet.network.checkpoint import (
    Card,
    CheckpointError,
    load_checkpoint,
    save_checkpoint,
    versions,
)
from plainunet.network.foreign import convert, import_checkpoint
from plainunet.network.unet import UNet
from plainunet.palette import default_colors
from plainunet.prediction.predictor import Predictor

MILESIAL = "milesial/Pytorch-UNet"
TUTORIAL = "aladdinpersson/Machine-Learning-Collection"

State = dict[str, Any]


def conv_twice(before: int, middle: int, after: int, bias: bool) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(before, middle, 3, padding=1, bias=bias),
        nn.BatchNorm2d(middle),
        nn.ReLU(inplace=True),
        nn.Conv2d(middle, after, 3, padding=1, bias=bias),
        nn.BatchNorm2d(after),
        nn.ReLU(inplace=True),
    )


class Keyed(nn.Module):
    """A module under an attribute of this name."""

    def __init__(self, name: str, module: nn.Module) -> None:
        super().__init__()
        self.add_module(name, module)
        self.name = name

    def forward(self, feature: Tensor) -> Tensor:
        result: Tensor = getattr(self, self.name)(feature)
        return result


class MilesialUp(nn.Module):
    def __init__(self, before: int, after: int, bilinear: bool, bias: bool) -> None:
        super().__init__()
        if bilinear:
            self.up: nn.Module = nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True)
            double = conv_twice(before, before // 2, after, bias)
        else:
            self.up = nn.ConvTranspose2d(before, before // 2, 2, stride=2)
            double = conv_twice(before, after, after, bias)
        self.conv = Keyed("double_conv", double)

    def forward(self, coarse: Tensor, skip: Tensor) -> Tensor:
        feature = self.up(coarse)
        dy, dx = skip.shape[2] - feature.shape[2], skip.shape[3] - feature.shape[3]
        feature = F.pad(feature, [dx // 2, dx - dx // 2, dy // 2, dy - dy // 2])
        result: Tensor = self.conv(torch.cat([skip, feature], dim=1))
        return result


class Milesial(nn.Module):
    """The U-Net of milesial/Pytorch-UNet, of any width and depth."""

    def __init__(
        self,
        in_channels: int = 3,
        outputs: int = 1,
        width: int = 4,
        depth: int = 4,
        bilinear: bool = False,
        bias: bool = False,
    ) -> None:
        super().__init__()
        self.in_channels, self.depth = in_channels, depth
        factor = 2 if bilinear else 1
        self.inc = Keyed("double_conv", conv_twice(in_channels, width, width, bias))
        for n in range(1, depth + 1):
            after = width * 2**n // (factor if n == depth else 1)
            double = conv_twice(width * 2 ** (n - 1), after, after, bias)
            down = nn.Sequential(nn.MaxPool2d(2), Keyed("double_conv", double))
            self.add_module(f"down{n}", Keyed("maxpool_conv", down))
        for n in range(1, depth + 1):
            before = width * 2 ** (depth + 1 - n)
            after = width if n == depth else before // 2 // factor
            self.add_module(f"up{n}", MilesialUp(before, after, bilinear, bias))
        self.outc = Keyed("conv", nn.Conv2d(width, outputs, 1))

    def forward(self, x: Tensor) -> Tensor:
        features = [self.inc(x)]
        for n in range(1, self.depth + 1):
            features.append(getattr(self, f"down{n}")(features[-1]))
        x = features.pop()
        for n in range(1, self.depth + 1):
            x = getattr(self, f"up{n}")(x, features.pop())
        logits: Tensor = self.outc(x)
        return logits


class Tutorial(nn.Module):
    """The U-Net of the tutorial, at multiples of 2^depth."""

    def __init__(
        self, in_channels: int = 3, outputs: int = 1, width: int = 4, depth: int = 4
    ) -> None:
        super().__init__()
        self.in_channels = in_channels
        self.ups, self.downs = nn.ModuleList(), nn.ModuleList()
        widths = [width * 2**level for level in range(depth)]
        for before, after in zip([in_channels, *widths], widths, strict=False):
            self.downs.append(Keyed("conv", conv_twice(before, after, after, False)))
        for after in reversed(widths):
            self.ups.append(nn.ConvTranspose2d(after * 2, after, 2, stride=2))
            self.ups.append(Keyed("conv", conv_twice(after * 2, after, after, False)))
        deepest = widths[-1]
        self.bottleneck = Keyed("conv", conv_twice(deepest, deepest * 2, deepest * 2, False))
        self.final_conv = nn.Conv2d(width, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        skips = []
        for down in self.downs:
            x = down(x)
            skips.append(x)
            x = F.max_pool2d(x, 2)
        x = self.bottleneck(x)
        for up, conv in zip(self.ups[::2], self.ups[1::2], strict=True):
            x = conv(torch.cat([skips.pop(), up(x)], dim=1))
        logits: Tensor = self.final_conv(x)
        return logits


@torch.no_grad()
def trained(network: nn.Module, seed: int = 0) -> nn.Module:
    """As after training: no normalisation is trivial, and the logits are about 0 +- 1."""
    torch.manual_seed(seed)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.weight.uniform_(0.5, 1.5)
            module.bias.normal_(std=0.2)
            module.running_mean.normal_(std=0.2)  # type: ignore[union-attr]
            module.running_var.uniform_(0.1, 0.5)  # type: ignore[union-attr]
            module.num_batches_tracked.fill_(7)  # type: ignore[union-attr]
    network.eval()
    logits = network(torch.rand(1, network.in_channels, 32, 32))  # type: ignore[arg-type]
    (head,) = (m for m in network.modules() if isinstance(m, nn.Conv2d) and m.kernel_size == (1, 1))
    assert head.bias is not None
    mean = logits.mean(dim=(0, 2, 3))
    spread = (logits - mean[:, None, None]).std()
    head.weight /= spread
    head.bias.copy_((head.bias - mean) / spread)
    return network


@torch.no_grad()
def compare(source: nn.Module, network: UNet, image: Tensor) -> None:
    """The logits are the same; of one channel, its logit stands against 0."""
    wanted = source(image)
    assert wanted.std() > 0.1
    if wanted.shape[1] == 1:
        wanted = torch.cat([torch.zeros_like(wanted), wanted], dim=1)
    torch.testing.assert_close(network(image), wanted, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("size", [(32, 48), (33, 47), (16, 31)], ids=str)
@pytest.mark.parametrize("bilinear", [False, True], ids=["transposed", "bilinear"])
@pytest.mark.parametrize("outputs", [1, 2, 5])
def test_milesial(bilinear: bool, outputs: int, size: tuple[int, int]) -> None:
    source = trained(Milesial(outputs=outputs, bilinear=bilinear))
    network, name = convert(source.state_dict())
    assert (name, network.training) == (MILESIAL, False)
    compare(source, network, torch.rand(2, 3, *size))


@pytest.mark.parametrize(
    ("in_channels", "width", "depth"), [(1, 8, 1), (4, 5, 2), (2, 1, 3), (3, 2, 5)]
)
@pytest.mark.parametrize("bilinear", [False, True], ids=["transposed", "bilinear"])
def test_milesial_of_other_width_and_depth(
    in_channels: int, width: int, depth: int, bilinear: bool
) -> None:
    source = trained(Milesial(in_channels, 3, width, depth, bilinear))
    network, _ = convert(source.state_dict())
    kept = {"in_channels": in_channels, "base_channels": width, "depth": depth, "num_classes": 3}
    assert kept.items() <= network.architecture.items()
    assert network.architecture["upsampling"] == ("bilinear" if bilinear else "transposed")
    compare(source, network, torch.rand(1, in_channels, 37, 2**depth))


@pytest.mark.parametrize("bilinear", [False, True], ids=["transposed", "bilinear"])
def test_milesial_with_biases_as_it_once_was(bilinear: bool) -> None:
    source = trained(Milesial(bilinear=bilinear, bias=True))
    state = source.state_dict()
    before = {name: value.clone() for name, value in state.items()}
    network, _ = convert(state)
    compare(source, network, torch.rand(1, 3, 35, 32))
    assert all(torch.equal(value, before[name]) for name, value in state.items())


@pytest.mark.parametrize(
    ("in_channels", "outputs", "width", "depth"),
    [(3, 1, 4, 4), (3, 4, 4, 4), (1, 2, 5, 1), (2, 1, 8, 2)],
)
def test_tutorial(in_channels: int, outputs: int, width: int, depth: int) -> None:
    source = trained(Tutorial(in_channels, outputs, width, depth))
    network, name = convert(source.state_dict())
    assert name == TUTORIAL
    assert (network.depth, network.base_channels) == (depth, width)
    compare(source, network, torch.rand(2, in_channels, 32, 48))


def test_true_size() -> None:
    """64 channels and depth 4, as both have them; 65 parameters more for the second logit."""
    source = trained(Milesial(width=64))
    assert sum(weights.numel() for weights in source.parameters()) == 31_037_633
    network, _ = convert(source.state_dict())
    assert sum(weights.numel() for weights in network.parameters()) == 31_037_698
    compare(source, network, torch.rand(1, 3, 35, 24))


def test_the_network_can_be_trained_on() -> None:
    network, _ = convert(trained(Milesial(depth=2)).state_dict())
    network.train()(torch.rand(2, 3, 8, 8)).sum().backward()
    assert all(weights.grad is not None for weights in network.parameters())


# through a file


def without_counts(state: State) -> State:
    return {name: value for name, value in state.items() if "num_batches" not in name}


FORMS: dict[str, Callable[[State], Any]] = {
    "plain": lambda state: state,
    "with mask values": lambda state: {**state, "mask_values": [0, 1]},
    "with colours": lambda state: {**state, "mask_values": [[0, 0, 0], [255, 0, 0]]},
    "wrapped": lambda state: {"state_dict": state, "optimizer": {"state": {}}, "epoch": 3},
    "DataParallel": lambda state: {f"module.{name}": value for name, value in state.items()},
    "torch.compile": lambda state: {f"_orig_mod.{name}": value for name, value in state.items()},
    "both": lambda state: {f"module._orig_mod.{name}": value for name, value in state.items()},
    "before PyTorch 0.4.1": without_counts,
    "float64": lambda state: {name: value.double() for name, value in state.items()},
    "parameters": lambda state: {
        name: nn.Parameter(value) if value.is_floating_point() else value
        for name, value in state.items()
    },
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("make", [Milesial, Tutorial])
def test_the_same_mask_from_the_file(
    make: Callable[..., nn.Module], form: str, tmp_path: Path
) -> None:
    source = trained(make(depth=2))
    torch.save(FORMS[form](dict(source.state_dict())), tmp_path / "model.pth.tar")
    out = tmp_path / "new" / "model.safetensors"
    network, card = import_checkpoint(tmp_path / "model.pth.tar", out)
    predictor = Predictor.load(out, device="cpu", precision="fp32")
    assert predictor.card == card
    assert predictor.network.architecture == network.architecture
    image = np.random.default_rng(0).integers(0, 256, (36, 28, 3), dtype=np.uint8)
    with torch.no_grad():
        batch = torch.from_numpy(image).permute(2, 0, 1)[None].float() / 255
        wanted = source(batch).sigmoid()[0, 0].numpy()
    mask = predictor.predict(image)
    assert 0.02 < mask.mean() < 0.98
    clear = np.abs(wanted - 0.5) > 1e-4
    assert clear.mean() > 0.99
    np.testing.assert_array_equal(mask[clear], wanted[clear] >= 0.5)
    np.testing.assert_allclose(predictor.probabilities(image)[1], wanted, atol=1e-5)


def test_bilinear_and_several_classes_from_the_file(tmp_path: Path) -> None:
    source = trained(Milesial(1, 3, depth=3, bilinear=True))
    torch.save({**source.state_dict(), "mask_values": [0, 128, 255]}, tmp_path / "model.pth")
    out = tmp_path / "model.safetensors"
    import_checkpoint(tmp_path / "model.pth", out, ("ground", "leaf", "stone"))
    network, card = load_checkpoint(out)
    assert card.class_names == ("ground", "leaf", "stone")
    compare(source, network, torch.rand(1, 1, 21, 43))


def test_old_files_and_safetensors(tmp_path: Path) -> None:
    source = trained(Milesial(depth=2))
    old, new = tmp_path / "old.pth", tmp_path / "model.safetensors"
    torch.save(source.state_dict(), old, _use_new_zipfile_serialization=False)
    save_file(source.state_dict(), new)
    for number, path in enumerate((old, new)):
        network, _ = import_checkpoint(path, tmp_path / f"{number}.safetensors")
        compare(source, network, torch.rand(1, 3, 13, 17))


def test_half_precision() -> None:
    source = trained(Milesial(depth=2)).half()
    network, _ = convert(source.state_dict())
    compare(source.float(), network, torch.rand(1, 3, 13, 17))


def test_the_card(tmp_path: Path) -> None:
    torch.save(Milesial(outputs=3, depth=2).state_dict(), tmp_path / "model.pth")
    _, card = import_checkpoint(tmp_path / "model.pth", tmp_path / "a.safetensors", (), (160, 240))
    assert card == Card(
        class_names=("class 0", "class 1", "class 2"),
        colors=default_colors(3),
        size=(160, 240),
        training={"imported": {"layout": MILESIAL, "file": "model.pth"}},
        versions=versions(),
    )
    torch.save(Tutorial(depth=2).state_dict(), tmp_path / "model.pth")
    _, card = import_checkpoint(tmp_path / "model.pth", tmp_path / "b.safetensors")
    assert (card.class_names, card.size) == (("background", "foreground"), None)
    assert card.training == {"imported": {"layout": TUTORIAL, "file": "model.pth"}}
    network, _ = load_checkpoint(tmp_path / "b.safetensors")
    assert network.mean.tolist() == [0] * 3
    assert network.std.tolist() == [1] * 3


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ([0, 1], "ids"),
        ([False, True], "ids"),
        ([0, 255], "two values"),
        ([0, 1, 2], None),
        ([[0, 0, 0], [255, 255, 256]], None),
        ([[0, 0, 0], [255, 255]], None),
        ([0.0, 1.0], None),
        ([-1, 0], None),
        ([0, 70000], None),
        ([], None),
        (3, None),
    ],
    ids=str,
)
def test_mask_values_say_how_masks_are_read(values: Any, kind: str | None, tmp_path: Path) -> None:
    torch.save({**Milesial(depth=1).state_dict(), "mask_values": values}, tmp_path / "a.pth")
    _, card = import_checkpoint(tmp_path / "a.pth", tmp_path / "a.safetensors")
    assert card.masks == (
        {"values": list(map(int, values)), "ignore": None, "kind": kind} if kind else {}
    )
    assert json.loads(json.dumps(card.masks)) == card.masks


def test_mask_values_may_be_colours(tmp_path: Path) -> None:
    values = [[0, 0, 0], [255, 0, 0]]
    torch.save({**Milesial(depth=1).state_dict(), "mask_values": values}, tmp_path / "a.pth")
    import_checkpoint(tmp_path / "a.pth", tmp_path / "a.safetensors")
    _, card = load_checkpoint(tmp_path / "a.safetensors")
    assert card.masks == {"values": [0, 1], "ignore": None, "kind": "colors", "colors": values}


# what is refused


def refused(path: Path, *said: str, **more: Any) -> None:
    """It is refused in one line that says all of this, and nothing is written."""
    out = more.pop("out", path.parent / "new" / "out.safetensors")
    before = sorted(path.parent.rglob("*"))
    with pytest.raises(ValueError, match=re.escape(said[0])) as raised:
        import_checkpoint(path, out, **more)
    message = str(raised.value)
    for each in said:
        assert each in message
    assert "\n" not in message
    assert sorted(path.parent.rglob("*")) == before


def changed(name: str, change: Callable[[Tensor], Any]) -> Callable[[State], State]:
    return lambda state: {**state, name: change(state[name])}


def dropped(*starts: str) -> Callable[[State], State]:
    return lambda state: {
        name: value for name, value in state.items() if not name.startswith(starts)
    }


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda state: {**state, "extra.weight": torch.zeros(3)}, ["extra.weight", "not belong"]),
        (lambda state: {**state, "epoch": 3}, ["epoch", "int"]),
        (lambda state: {**state, 3: torch.zeros(3)}, ["'3'"]),
        (dropped("inc.double_conv.0.weight"), ["inc.double_conv.0.weight", "missing"]),
        (dropped("up2.up.bias"), ["up2.up.bias", "missing", "transposed"]),
        (dropped("down2.", "up2."), ["up1.up.weight", "[16, 8, 2, 2]", "[8, 4, 2, 2]"]),
        (dropped("down1."), ["down2.maxpool_conv", "not belong", "depth 1"]),
        (
            dropped("up1.up", "up2.up"),
            ["down2.maxpool_conv.1.double_conv.0.weight", "[16, 8, 3, 3]", "[8, 8, 3, 3]"],
        ),
        (dropped("outc"), ["outc.conv.weight", "missing"]),
        (
            changed("down1.maxpool_conv.1.double_conv.1.bias", lambda value: value[:3]),
            ["down1.maxpool_conv.1.double_conv.1.bias", "[3]", "[8]"],
        ),
        (
            changed("inc.double_conv.0.weight", lambda value: value.flatten()),
            ["inc.double_conv.0.weight", "[108]"],
        ),
        (changed("inc.double_conv.0.weight", lambda value: value[:0]), ["base_channels is 0"]),
        (changed("outc.conv.bias", lambda value: torch.zeros(4)), ["outc.conv.bias", "[4]", "[1]"]),
        (changed("outc.conv.bias", lambda value: value / 0), ["outc.conv.bias", "not finite"]),
        (
            changed("up1.conv.double_conv.4.running_var", lambda value: value.double() * 1e300),
            ["up1.conv.double_conv.4.running_var", "not finite"],
        ),
        (
            lambda state: {**state, "inc.double_conv.3.bias": torch.zeros(9)},
            ["inc.double_conv.3.bias", "[9]", "[4]"],
        ),
        (
            changed("down1.maxpool_conv.1.double_conv.1.running_var", lambda value: -value),
            ["down1.maxpool_conv.1.double_conv.1.running_var", "negative"],
        ),
        (changed("inc.double_conv.0.weight", lambda value: value.cfloat()), ["complex64"]),
        (changed("outc.conv.weight", lambda value: value.long()), ["outc.conv.weight", "int64"]),
        (changed("outc.conv.weight", lambda value: value[:0]), ["0 channels", "1 to 255"]),
        (
            changed("outc.conv.weight", lambda value: value.expand(256, 4, 1, 1).clone()),
            ["256 channels", "1 to 255"],
        ),
        (
            changed("outc.conv.bias", lambda value: value.to_sparse()),
            ["outc.conv.bias", "no plain array"],
        ),
        (
            changed("outc.conv.bias", lambda value: value.to("meta")),
            ["outc.conv.bias", "no plain array"],
        ),
        (lambda state: {"model_state_dict": state}, ["under 'model_state_dict', save that"]),
        (lambda state: {}, ["empty"]),
        (lambda state: {"mask_values": [0, 1]}, ["empty"]),
        (lambda state: {"state_dict": {}}, ["empty"]),
        (lambda state: {"state_dict": 3}, ["int", "state_dict()"]),
        (lambda state: torch.zeros(3), ["Tensor", "state_dict()"]),
        (lambda state: {"encoder.conv1.weight": torch.zeros(3)}, ["encoder.conv1", MILESIAL]),
        (lambda state: UNet(base_channels=1).state_dict(), ["already", "plainunet"]),
    ],
)
def test_what_does_not_fit_is_named(
    change: Callable[[State], Any], said: list[str], tmp_path: Path
) -> None:
    path = tmp_path / "model.pth"
    torch.save(change(dict(trained(Milesial(depth=2)).state_dict())), path)
    refused(path, str(path), *said)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (dropped("ups.2."), ["ups.2.weight", "missing"]),
        (dropped("bottleneck.conv.4."), ["bottleneck.conv.4.weight", "missing"]),
        (dropped("downs.1.", "bottleneck."), ["ups.2.weight", "not belong"]),
        (changed("ups.0.weight", lambda value: value[:, 1:]), ["[16, 7, 2, 2]", "[16, 8, 2, 2]"]),
        (changed("final_conv.weight", lambda value: value * torch.nan), ["not finite"]),
    ],
)
def test_what_does_not_fit_the_tutorial_is_named(
    change: Callable[[State], Any], said: list[str], tmp_path: Path
) -> None:
    path = tmp_path / "model.pth.tar"
    torch.save({"state_dict": change(dict(trained(Tutorial(depth=2)).state_dict()))}, path)
    refused(path, str(path), *said)


def test_a_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model.pth").mkdir()
    refused(tmp_path / "model.pth", "model.pth: is a folder")


def test_no_such_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no such file"):
        import_checkpoint(tmp_path / "model.pth", tmp_path / "out.safetensors")


def test_objects_are_refused_and_not_executed(tmp_path: Path) -> None:
    trace = tmp_path / "executed"

    class Trap:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (trace,)

    path = tmp_path / "model.pth"
    held: list[Any] = [Trap(), {"state_dict": Milesial(depth=1).state_dict(), "trap": Trap()}]
    for each in (*held, Milesial(depth=1), nn.Conv2d(1, 1, 1)):
        torch.save(each, path)
        refused(path, str(path), "objects", "model.state_dict()")
    refused(path, "torch.nn.modules.conv.Conv2d")
    assert not trace.exists()


@pytest.mark.parametrize("name", ["model.pth", "model.safetensors"])
def test_other_files(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    torch.save(Milesial(depth=1).state_dict(), path)
    whole = path.read_bytes()
    for content in (b"", b"hello, world", np.random.default_rng(0).bytes(999), whole[:999]):
        path.write_bytes(content)
        refused(path, str(path), "damaged", "torch.save(model.state_dict(), FILE)")


def test_torchscript(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    torch.save(Milesial(depth=1).state_dict(), path)
    with zipfile.ZipFile(path, "a") as archive:  # by this file it is told
        archive.writestr("model/constants.pkl", b"")
    refused(path, str(path), "model.state_dict()")


def test_own_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "best.safetensors"
    card = Card(("background", "car"), default_colors(2), size=None)
    save_checkpoint(path, UNet(base_channels=1, depth=1), card)
    refused(path, str(path), "already a network of plainunet")


@pytest.mark.parametrize(
    ("outputs", "names", "said"),
    [
        (1, ("car",), ["1 given (car)", "2 classes"]),
        (1, ("a", "b", "c"), ["3 given (a, b, c)", "2 classes"]),
        (3, ("a", "b"), ["2 given (a, b)", "3 classes"]),
        (2, ("a", "a"), ["name of its own", "a, a"]),
        (2, ("a", ""), ["name of its own"]),
    ],
)
def test_class_names(outputs: int, names: tuple[str, ...], said: list[str], tmp_path: Path) -> None:
    torch.save(Milesial(outputs=outputs, depth=1).state_dict(), tmp_path / "a.pth")
    refused(tmp_path / "a.pth", "--classes", *said, class_names=names)


def test_size_and_out(tmp_path: Path) -> None:
    path = tmp_path / "a.pth"
    torch.save(Milesial(depth=3).state_dict(), path)
    refused(path, "--size 7 40", "8 to 65535 pixels", size=(7, 40))
    refused(path, "--size 40 100000", "8 to 65535 pixels", size=(40, 100000))
    refused(path, "a.pt:", "must end in .safetensors", out=tmp_path / "a.pt")
    (tmp_path / "there.safetensors").write_text("precious")
    refused(path, "there.safetensors already exists", out=tmp_path / "there.safetensors")
    refused(path, "a.pth: cannot be written to", out=path / "out.safetensors")
    assert (tmp_path / "there.safetensors").read_text() == "precious"


def test_errors_about_the_file_are_of_one_kind(tmp_path: Path) -> None:
    path = tmp_path / "a.pth"
    torch.save({"a": torch.zeros(1)}, path)
    with pytest.raises(CheckpointError, match=r"a\.pth"):
        import_checkpoint(path, tmp_path / "a.safetensors")
