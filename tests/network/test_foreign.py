"""Import of third-party weights, made by reimplementations of those projects' networks."""

import json
import re
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from plainunet.network.card import Card, CheckpointError, versions
from plainunet.network.checkpoint import load_checkpoint, save_checkpoint
from plainunet.network.foreign import convert, import_checkpoint
from plainunet.network.unet import UNet
from plainunet.palette import default_colors
from plainunet.prediction.predictor import Predictor

MILESIAL = "milesial/Pytorch-UNet"
TUTORIAL = "aladdinpersson/Machine-Learning-Collection"

State = dict[str, Any]


def keyed(name: str, module: nn.Module) -> nn.Module:
    """A module whose keys get this prefix."""
    return nn.Sequential(OrderedDict({name: module}))


def conv_twice(before: int, middle: int, after: int, bias: bool = False) -> nn.Module:
    layers: list[nn.Module] = []
    for i, o in ((before, middle), (middle, after)):
        layers += [nn.Conv2d(i, o, 3, padding=1, bias=bias), nn.BatchNorm2d(o), nn.ReLU()]
    return nn.Sequential(*layers)


class MilesialUp(nn.Module):
    def __init__(self, before: int, after: int, bilinear: bool, bias: bool) -> None:
        super().__init__()
        self.up: nn.Module = nn.ConvTranspose2d(before, before // 2, 2, stride=2)
        if bilinear:
            self.up = nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True)
        middle = before // 2 if bilinear else after
        self.conv = keyed("double_conv", conv_twice(before, middle, after, bias))

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
        self.inc = keyed("double_conv", conv_twice(in_channels, width, width, bias))
        for n in range(1, depth + 1):
            after = width * 2**n // (factor if n == depth else 1)
            double = conv_twice(width * 2 ** (n - 1), after, after, bias)
            down = nn.Sequential(nn.MaxPool2d(2), keyed("double_conv", double))
            self.add_module(f"down{n}", keyed("maxpool_conv", down))
        for n in range(1, depth + 1):
            before = width * 2 ** (depth + 1 - n)
            after = width if n == depth else before // 2 // factor
            self.add_module(f"up{n}", MilesialUp(before, after, bilinear, bias))
        self.outc = keyed("conv", nn.Conv2d(width, outputs, 1))

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
            self.downs.append(keyed("conv", conv_twice(before, after, after)))
        for after in reversed(widths):
            self.ups.append(nn.ConvTranspose2d(after * 2, after, 2, stride=2))
            self.ups.append(keyed("conv", conv_twice(after * 2, after, after)))
        deepest = widths[-1]
        self.bottleneck = keyed("conv", conv_twice(deepest, deepest * 2, deepest * 2))
        self.final_conv = nn.Conv2d(width, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        skips = []
        for down in self.downs:
            skips.append(down(x))
            x = F.max_pool2d(skips[-1], 2)
        x = self.bottleneck(x)
        for up, conv in zip(self.ups[::2], self.ups[1::2], strict=True):
            x = conv(torch.cat([skips.pop(), up(x)], dim=1))
        logits: Tensor = self.final_conv(x)
        return logits


@torch.no_grad()
def trained(network: nn.Module) -> nn.Module:
    """As after training: non-trivial normalisation, and logits of about 0 +- 1."""
    torch.manual_seed(0)
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
def compare(source: nn.Module, network: UNet, size: tuple[int, int]) -> None:
    """The logits are the same; a single logit z becomes 0 and z."""
    image = torch.rand(2, network.in_channels, *size)
    expected = source(image)
    assert expected.std() > 0.1
    if expected.shape[1] == 1:
        expected = torch.cat([torch.zeros_like(expected), expected], dim=1)
    assert not network.training
    torch.testing.assert_close(network(image), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("bilinear", [False, True], ids=["transposed", "bilinear"])
@pytest.mark.parametrize(
    ("in_channels", "outputs", "width", "depth", "size"),
    [
        *((3, n, 4, 4, size) for n in (1, 2, 5) for size in ((32, 48), (33, 47), (16, 31))),
        (1, 3, 8, 1, (37, 2)),
        (4, 3, 5, 2, (37, 4)),
        (2, 3, 1, 3, (37, 8)),
        (3, 3, 2, 5, (37, 32)),
    ],
)
def test_milesial(
    in_channels: int, outputs: int, width: int, depth: int, size: tuple[int, int], bilinear: bool
) -> None:
    source = trained(Milesial(in_channels, outputs, width, depth, bilinear))
    network, layout = convert(source.state_dict())
    assert layout == MILESIAL
    found = network.architecture
    assert (found["in_channels"], found["num_classes"]) == (in_channels, max(2, outputs))
    assert (found["base_channels"], found["depth"]) == (width, depth)
    assert found["upsampling"] == ("bilinear" if bilinear else "transposed")
    compare(source, network, size)


@pytest.mark.parametrize(
    ("in_channels", "outputs", "width", "depth"),
    [(3, 1, 4, 4), (3, 4, 4, 4), (1, 2, 5, 1), (2, 1, 8, 2)],
)
def test_tutorial(in_channels: int, outputs: int, width: int, depth: int) -> None:
    source = trained(Tutorial(in_channels, outputs, width, depth))
    network, layout = convert(source.state_dict())
    assert (layout, network.depth, network.base_channels) == (TUTORIAL, depth, width)
    compare(source, network, (32, 48))


@pytest.mark.parametrize("bilinear", [False, True], ids=["transposed", "bilinear"])
def test_milesials_older_layout_with_biases(bilinear: bool) -> None:
    source = trained(Milesial(bilinear=bilinear, bias=True))
    state = source.state_dict()
    before = {name: value.clone() for name, value in state.items()}
    network, _ = convert(state)
    compare(source, network, (35, 32))
    assert all(torch.equal(value, before[name]) for name, value in state.items())


def test_half_precision() -> None:
    source = trained(Milesial(depth=2)).half()
    network, _ = convert(source.state_dict())
    compare(source.float(), network, (13, 17))


def test_full_size() -> None:
    """64 channels and depth 4, as in both projects; 65 more parameters for the second logit."""
    source = trained(Milesial(width=64))
    assert sum(weights.numel() for weights in source.parameters()) == 31_037_633
    network, _ = convert(source.state_dict())
    assert sum(weights.numel() for weights in network.parameters()) == 31_037_698
    compare(source, network, (35, 24))


def test_the_network_can_be_trained_further() -> None:
    network, _ = convert(trained(Milesial(depth=2)).state_dict())
    network.train()(torch.rand(2, 3, 8, 8)).sum().backward()
    assert all(weights.grad is not None for weights in network.parameters())


# files


def imported(content: Any, folder: Path, *arguments: Any) -> Card:
    """The card of the imported content; the checkpoint has the same."""
    path, out = folder / "model.pth", folder / "new" / f"{len(list(folder.rglob('*')))}.safetensors"
    torch.save(content, path)
    _, card = import_checkpoint(path, out, *arguments)
    assert load_checkpoint(out)[1] == card
    return card


def prefixed(prefix: str) -> Callable[[State], State]:
    return lambda state: {prefix + name: value for name, value in state.items()}


FORMS: dict[str, Callable[[State], Any]] = {
    "plain": lambda state: state,
    "with mask values": lambda state: {**state, "mask_values": [0, 1]},
    "with colours": lambda state: {**state, "mask_values": [[0, 0, 0], [255, 0, 0]]},
    "wrapped": lambda state: {"state_dict": state, "optimizer": {"state": {}}, "epoch": 3},
    "DataParallel": prefixed("module."),
    "torch.compile": prefixed("_orig_mod."),
    "both": prefixed("module._orig_mod."),
    "before PyTorch 0.4.1": lambda state: {
        name: value for name, value in state.items() if "num_batches" not in name
    },
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
        expected = source(batch).sigmoid()[0, 0].numpy()
    mask = predictor.predict(image)
    assert 0.02 < mask.mean() < 0.98
    clear = np.abs(expected - 0.5) > 1e-4
    assert clear.mean() > 0.99
    np.testing.assert_array_equal(mask[clear], expected[clear] >= 0.5)
    np.testing.assert_allclose(predictor.probabilities(image)[1], expected, atol=1e-5)


def test_old_files_and_safetensors(tmp_path: Path) -> None:
    source = trained(Milesial(depth=2))
    old, new = tmp_path / "old.pth", tmp_path / "model.safetensors"
    torch.save(source.state_dict(), old, _use_new_zipfile_serialization=False)
    save_file(source.state_dict(), new)
    for number, path in enumerate((old, new)):
        network, _ = import_checkpoint(path, tmp_path / f"{number}.safetensors")
        compare(source, network, (13, 17))


def test_the_card(tmp_path: Path) -> None:
    state = Milesial(outputs=3, depth=2).state_dict()
    usual = Card(
        class_names=("class 0", "class 1", "class 2"),
        colors=default_colors(3),
        size=(160, 240),
        training={"imported": {"layout": MILESIAL, "file": "model.pth"}},
        versions=versions(),
    )
    assert imported(state, tmp_path, (), (160, 240)) == usual
    names = ("ground", "leaf", "stone")
    assert imported(state, tmp_path, names).class_names == names
    card = imported(Tutorial(depth=2).state_dict(), tmp_path)
    assert (card.class_names, card.size) == (("background", "foreground"), None)
    assert card.training == {"imported": {"layout": TUTORIAL, "file": "model.pth"}}
    network, _ = convert(Tutorial(depth=2).state_dict())
    assert (network.mean.tolist(), network.std.tolist()) == ([0] * 3, [1] * 3)


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ([0, 1], "ids"),
        ([False, True], "ids"),
        ([0, 255], "two values"),
        ([[0, 0, 0], [255, 0, 0]], "colors"),
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
def test_mask_values_define_the_encoding(values: Any, kind: str | None, tmp_path: Path) -> None:
    card = imported({**Milesial(depth=1).state_dict(), "mask_values": values}, tmp_path)
    expected = {}
    if kind == "colors":
        expected = {"values": [0, 1], "ignore": None, "kind": kind, "colors": values}
    elif kind:
        expected = {"values": [*map(int, values)], "ignore": None, "kind": kind}
    assert card.masks == expected
    assert json.loads(json.dumps(card.masks)) == card.masks


# errors


def refused(path: Path, *named: str, **more: Any) -> None:
    """The error is one line that names all of this, and nothing is written."""
    out = more.pop("out", path.parent / "new" / "out.safetensors")
    before = sorted(path.parent.rglob("*"))
    with pytest.raises(ValueError, match=re.escape(named[0])) as raised:
        import_checkpoint(path, out, **more)
    message = str(raised.value)
    assert [each for each in named if each not in message] == []
    assert "\n" not in message
    assert sorted(path.parent.rglob("*")) == before


def changed(name: str, change: Callable[[Tensor], Any]) -> Callable[[State], State]:
    return lambda state: {**state, name: change(state[name])}


def dropped(*starts: str) -> Callable[[State], State]:
    return lambda state: {
        name: value for name, value in state.items() if not name.startswith(starts)
    }


INLET = "inc.double_conv.0.weight"
DOWN = "down1.maxpool_conv.1.double_conv.1"
DEEPEST = "down2.maxpool_conv.1.double_conv.0.weight"
HEAD, BIAS = "outc.conv.weight", "outc.conv.bias"


FAULTS: dict[Callable[..., nn.Module], list[tuple[Callable[[State], Any], list[str]]]] = {
    Milesial: [
        (lambda state: {**state, "extra.weight": torch.zeros(3)}, ["'extra.weight'", "depth 2"]),
        (lambda state: {**state, "epoch": 3}, ["epoch", "int"]),
        (lambda state: {**state, 3: torch.zeros(3)}, ["'3'"]),
        (dropped(INLET), [INLET, "depth 2"]),
        (dropped("up2.up.bias"), ["up2.up.bias", "transposed"]),
        (dropped("down2.", "up2."), ["up1.up.weight", "[16, 8, 2, 2]", "[8, 4, 2, 2]"]),
        (dropped("down1."), ["down2.maxpool_conv", "depth 1"]),
        (dropped("up1.up", "up2.up"), [DEEPEST, "[16, 8, 3, 3]", "[8, 8, 3, 3]"]),
        (dropped("outc"), [HEAD, "depth 2"]),
        (changed(f"{DOWN}.bias", lambda value: value[:3]), [f"{DOWN}.bias", "[3]", "[8]"]),
        (changed(INLET, lambda value: value.flatten()), [INLET, "[108]"]),
        (changed(INLET, lambda value: value[:0]), ["base_channels is 0"]),
        (changed(BIAS, lambda value: torch.zeros(4)), [BIAS, "[4]", "[1]"]),
        (changed(BIAS, lambda value: value / 0), [BIAS, "not finite"]),
        # too large for float32
        (changed(f"{DOWN}.running_var", lambda value: value.double() * 1e300), ["not finite"]),
        (
            lambda state: {**state, "inc.double_conv.3.bias": torch.zeros(9)},
            ["inc.double_conv.3.bias", "[9]", "[4]"],
        ),
        (changed(f"{DOWN}.running_var", lambda value: -value), [f"{DOWN}.running_var", "negative"]),
        (changed(INLET, lambda value: value.cfloat()), [INLET, "complex64"]),
        (changed(HEAD, lambda value: value.long()), [HEAD, "int64"]),
        (changed(HEAD, lambda value: value[:0]), ["0 channels", "1 to 255"]),
        (changed(HEAD, lambda value: value.expand(256, 4, 1, 1).clone()), ["256 channels"]),
        (changed(BIAS, lambda value: value.to_sparse()), [BIAS, "dense"]),
        (changed(BIAS, lambda value: value.to("meta")), [BIAS, "dense"]),
        (lambda state: {"model_state_dict": state}, ["'model_state_dict'", MILESIAL]),
        (lambda state: {}, ["empty"]),
        (lambda state: {"mask_values": [0, 1]}, ["empty"]),
        (lambda state: {"state_dict": {}}, ["empty"]),
        (lambda state: {"state_dict": 3}, ["int", "state_dict()"]),
        (lambda state: torch.zeros(3), ["Tensor", "state_dict()"]),
        (lambda state: {"encoder.conv1.weight": torch.zeros(3)}, ["encoder.conv1", MILESIAL]),
        (lambda state: UNet(base_channels=1).state_dict(), ["already", "plainunet"]),
    ],
    Tutorial: [
        (dropped("ups.2."), ["ups.2.weight", "depth 2"]),
        (dropped("bottleneck.conv.4."), ["bottleneck.conv.4.weight", "depth 2"]),
        (dropped("downs.1.", "bottleneck."), ["ups.2.weight", "depth 1"]),
        (changed("ups.0.weight", lambda value: value[:, 1:]), ["[16, 7, 2, 2]", "[16, 8, 2, 2]"]),
        (changed("final_conv.weight", lambda value: value * torch.nan), ["not finite"]),
    ],
}


@pytest.mark.parametrize(
    ("make", "change", "named"),
    [(make, *case) for make, cases in FAULTS.items() for case in cases],
)
def test_invalid_weights_are_named(
    make: Callable[..., nn.Module],
    change: Callable[[State], Any],
    named: list[str],
    tmp_path: Path,
) -> None:
    path = tmp_path / "model.pth"
    torch.save(change(dict(make(depth=2).state_dict())), path)
    refused(path, str(path), *named)
    with pytest.raises(CheckpointError):
        import_checkpoint(path, tmp_path / "out.safetensors")


def save_torchscript(path: Path) -> None:
    torch.save(Milesial(depth=1).state_dict(), path)
    with zipfile.ZipFile(path, "a") as archive:  # PyTorch recognises it by this file
        archive.writestr("model/constants.pkl", b"")


def save_own(path: Path) -> None:
    card = Card(("background", "car"), default_colors(2), size=None)
    save_checkpoint(path, UNet(base_channels=1, depth=1), card)


@pytest.mark.parametrize(
    ("name", "write", "named"),
    [
        ("model.pth", Path.mkdir, "folder"),
        ("model.pt", save_torchscript, "model.state_dict()"),
        ("best.safetensors", save_own, "already a plainunet"),
        *(
            (name, lambda path, content=content: path.write_bytes(content), "damaged")
            for name in ("model.pth", "model.safetensors")
            for content in (b"", b"hello, world", np.random.default_rng(0).bytes(999))
        ),
    ],
)
def test_other_files(
    name: str, write: Callable[[Path], object], named: str, tmp_path: Path
) -> None:
    write(tmp_path / name)
    refused(tmp_path / name, f"{tmp_path / name}: ", named)


def test_truncated_and_missing_files(tmp_path: Path) -> None:
    path = tmp_path / "model.pth"
    with pytest.raises(FileNotFoundError, match=r"model\.pth"):
        import_checkpoint(path, tmp_path / "out.safetensors")
    torch.save(Milesial(depth=1).state_dict(), path)
    path.write_bytes(path.read_bytes()[:999])
    refused(path, str(path), "torch.save(model.state_dict(), FILE)")


def test_objects_are_refused_and_not_executed(tmp_path: Path) -> None:
    trace = tmp_path / "executed"

    class Trap:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (trace,)

    path = tmp_path / "model.pth"
    held: list[Any] = [Trap(), {"state_dict": Milesial(depth=1).state_dict(), "trap": Trap()}]
    for each in (*held, Milesial(depth=1), nn.Conv2d(1, 1, 1)):
        torch.save(each, path)
        refused(path, str(path), "model.state_dict()")
    refused(path, "torch.nn.modules.conv.Conv2d")
    assert not trace.exists()


@pytest.mark.parametrize(
    ("outputs", "names", "named"),
    [
        (1, ("car",), ["1 names (car)", "2 classes"]),
        (1, ("a", "b", "c"), ["3 names (a, b, c)", "2 classes"]),
        (3, ("a", "b"), ["2 names (a, b)", "3 classes"]),
        (2, ("a", "a"), ["a, a"]),
        (2, ("a", ""), ["a, "]),
    ],
)
def test_class_names(
    outputs: int, names: tuple[str, ...], named: list[str], tmp_path: Path
) -> None:
    torch.save(Milesial(outputs=outputs, depth=1).state_dict(), tmp_path / "a.pth")
    refused(tmp_path / "a.pth", "--classes", *named, class_names=names)


def test_size_and_out(tmp_path: Path) -> None:
    path, existing = tmp_path / "a.pth", tmp_path / "existing.safetensors"
    torch.save(Milesial(depth=3).state_dict(), path)
    refused(path, "--size 7 40", "8 to 16384", size=(7, 40))
    refused(path, "--size 40 16385", "8 to 16384", size=(40, 16385))
    refused(path, "a.pt:", ".safetensors", out=tmp_path / "a.pt")
    existing.write_text("precious")
    refused(path, "existing.safetensors", out=existing)
    refused(path, "a.pth: ", "Not a directory", out=path / "out.safetensors")
    assert existing.read_text() == "precious"
    import_checkpoint(path, tmp_path / "large.safetensors", size=(40, 16384))
    assert load_checkpoint(tmp_path / "large.safetensors")[1].size == (40, 16384)
