"""Network summaries: counted by hand, by PyTorch's counter, and measured by gradients."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.flop_counter import FlopCounterMode

from plainunet.network.card import Card
from plainunet.network.checkpoint import save_checkpoint
from plainunet.network.summary import (
    StageSummary,
    choose_network,
    receptive_fields,
    sketch,
    summarise_network,
)
from plainunet.network.unet import UNet

OPTIONS: list[dict[str, Any]] = [
    {},
    {"checkpointing": True},
    {"normalisation": "none", "dropout": 0.5, "valid": True},
    {"normalisation": "group", "residual": True, "valid": True, "attention": True},
    {"upsampling": "bilinear", "attention": True, "deep_supervision": True, "residual": True},
    {"normalisation": "instance", "deep_supervision": True, "checkpointing": True},
]


def weightless(*arguments: int, **options: Any) -> UNet:
    with torch.device("meta"):
        return UNet(*arguments, **options)


def totals(stages: list[StageSummary]) -> tuple[int, int, int]:
    return (
        sum(stage.parameters for stage in stages),
        sum(stage.macs for stage in stages),
        sum(stage.kept for stage in stages),
    )


def test_a_small_network_counted_by_hand() -> None:
    # a 3x3 convolution of i to o channels: 9 i o weights, o biases, each weight once per pixel;
    # the 2x2 up-convolution: 4 i o weights, each once per coarse pixel
    network = UNet(1, 2, base_channels=2, depth=1, normalisation="none")
    inlet = 9 * 1 * 2 + 9 * 2 * 2
    down = 9 * 2 * 4 + 9 * 4 * 4
    up = 9 * 4 * 2 + 9 * 2 * 2
    fine, coarse = 4 * 6, 2 * 3
    # 4 bytes per value, 8 per index of a maximum
    normalised, indices = 4 * 1 * fine, 8 * 2 * coarse
    pooled, joined = 4 * 2 * coarse, 4 * (2 + 2) * fine
    two, four = 4 * 2 * fine, 4 * 4 * coarse
    assert summarise_network(network, (4, 6)) == [
        StageSummary("inlet", (2, 4, 6), inlet + 4, inlet * fine, normalised + 2 * two, (5, 5)),
        StageSummary(
            "down 1", (4, 2, 3), down + 8, down * coarse, indices + pooled + 2 * four, (14, 14)
        ),
        StageSummary(
            "up 1",
            (2, 4, 6),
            4 * 4 * 2 + 2 + up + 4,
            4 * 4 * 2 * coarse + up * fine,
            joined + 2 * two,
            (18, 18),
        ),
        StageSummary("head", (2, 4, 6), 2 * 2 + 2, 2 * 2 * fine, 0, (18, 18)),
    ]
    # checkpointing keeps the input of each block
    network.checkpointing = True
    kept = [stage.kept for stage in summarise_network(network, (4, 6))]
    assert kept == [normalised, two, four, two]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_totals_are_those_of_a_real_pass(options: dict[str, Any]) -> None:
    network = UNet(3, 4, base_channels=4, depth=2, **options).train()
    size = network.input_size(12, 20)
    image = torch.rand(2, 3, *size)
    own = {values.untyped_storage().data_ptr() for values in network.state_dict().values()}
    kept: dict[int, torch.UntypedStorage] = {}

    def keep(values: Tensor) -> Tensor:
        storage = values.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage  # held, so that no address is reused
        return values

    with saved_tensors_hooks(keep, lambda values: values):
        logits = network.deep_logits(image)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network.deep_logits(image[:1])

    stages = summarise_network(network, size)
    parameters, macs, bytes_kept = totals(stages)
    assert parameters == sum(weights.numel() for weights in network.parameters())
    assert 2 * macs == counter.get_total_flops()
    assert bytes_kept == sum(storage.nbytes() for storage in kept.values()) // 2
    heads = [stage for stage in stages if stage.name.startswith("head")]
    assert [stage.shape for stage in heads] == [tuple(each.shape[1:]) for each in logits]


def test_the_default_network() -> None:
    stages = summarise_network(weightless(), (160, 240))
    downs, ups = [f"down {n}" for n in (1, 2, 3, 4)], [f"up {n}" for n in (1, 2, 3, 4)]
    assert [stage.name for stage in stages] == ["inlet", *downs, *ups, "head"]
    assert totals(stages)[:2] == (31_037_698, 28_225_536_000)
    # independent of the image size
    parameters, macs, kept = totals(summarise_network(weightless(), (4000, 4000)))
    assert parameters == 31_037_698
    assert macs == 28_225_536_000 * 4000 * 4000 // (160 * 240)
    assert kept > 70 * 2**30


def test_the_network_of_the_paper() -> None:
    with torch.device("meta"):
        network = UNet.paper()
    stages = summarise_network(network, (572, 572))
    assert totals(stages)[0] == 31_030_658
    assert stages[-1].shape == (2, 388, 388)
    # encoder: 4 more positions on each level, each of 2^level pixels, and one for the pooling;
    # decoder: see `receptive_fields`
    encoder = [5, 14, 32, 68, 140]
    for level in range(1, 5):
        assert encoder[level] == encoder[level - 1] + 2 ** (level - 1) + 4 * 2**level
    assert [stage.field for stage in stages] == [
        *((side, side) for side in encoder),
        *((172, 172), (188, 188), (188, 204), (188, 204), (188, 204)),
    ]


@pytest.mark.parametrize("attention", [False, True], ids=["", "attention"])
@pytest.mark.parametrize("upsampling", ["transposed", "bilinear"])
@pytest.mark.parametrize("valid", [False, True], ids=["padded", "valid"])
@pytest.mark.parametrize("depth", [1, 2, 3])
def test_receptive_fields_match_gradients(
    depth: int, valid: bool, upsampling: Any, attention: bool
) -> None:
    network = UNet(
        1, 2, 1, depth, normalisation="none", upsampling=upsampling, valid=valid,
        attention=attention, deep_supervision=not valid,
    ).double()  # fmt: skip
    for down in network.downs:
        down[0] = nn.AvgPool2d(2)
    with torch.no_grad():
        for weights in network.parameters():  # positive, so that no path cancels another
            weights.fill_(1 / weights[0].numel() if weights.ndim > 1 else 0.1)
    features: list[Tensor] = []
    stages = [network.inlet, *network.downs, *network.ups, network.head]
    for stage in [*stages, *reversed(network.side_heads)]:
        stage.register_forward_hook(lambda _, __, output: features.append(output))
    image = torch.rand(1, 1, *network.input_size(2**depth, 104 * depth), dtype=torch.float64)
    network.deep_logits(image.requires_grad_())

    fields = receptive_fields(network)
    assert len(fields) == len(features)
    for (name, field), feature in zip(fields.items(), features, strict=True):
        row, middle = feature.shape[2] // 2, feature.shape[3] // 2
        sides = set()
        for at in range(middle, middle + 2**depth):
            (gradient,) = torch.autograd.grad(feature[0, 0, row, at], image, retain_graph=True)
            columns = gradient.abs().sum(dim=(0, 1, 2)).nonzero()
            assert 0 < columns.min() <= columns.max() < image.shape[3] - 1  # not clipped
            sides.add(int(columns.max() - columns.min()) + 1)
        assert (min(sides), max(sides)) == field, name


@pytest.mark.parametrize("kind", ["group", "instance"])
def test_no_receptive_field_with_normalisation_per_image(kind: Any) -> None:
    network = weightless(base_channels=8, depth=1, normalisation=kind)
    assert set(receptive_fields(network).values()) == {None}


def test_the_network_is_not_changed() -> None:
    network = UNet(base_channels=4, depth=2).eval()
    before = {name: values.clone() for name, values in network.state_dict().items()}
    summarise_network(network, (4, 4))
    assert not network.training
    assert all(not module._forward_hooks for module in network.modules())
    assert all(torch.equal(values, before[name]) for name, values in network.state_dict().items())


@pytest.mark.parametrize(
    ("options", "size", "named"),
    [
        ({}, (15, 240), "16 x 240"),
        ({"valid": True}, (572, 570), "width .* 556 or 572"),
        ({}, (160, 10**12), "1048576"),
    ],
)
def test_an_image_that_does_not_fit_is_refused(
    options: dict[str, Any], size: tuple[int, int], named: str
) -> None:
    with pytest.raises(ValueError, match=named):
        summarise_network(weightless(**options), size)


def test_sketch() -> None:
    stages = summarise_network(weightless(valid=True, normalisation="none"), (572, 572))
    assert sketch(stages, (3, 572, 572)).splitlines() == [
        "image 3 x 572 x 572                   logits 2 x 388 x 388",
        "64 x 568 x 568 ---------------------------> 64 x 388 x 388",
        "    128 x 280 x 280 -----------------> 128 x 196 x 196",
        "        256 x 136 x 136 ---------> 256 x 100 x 100",
        "            512 x 64 x 64 -----> 512 x 52 x 52",
        "                      1024 x 28 x 28",
    ]


@pytest.mark.parametrize("depth", range(1, 7))
def test_sketch_of_any_depth(depth: int) -> None:
    network = weightless(depth=depth, upsampling="bilinear", deep_supervision=True)
    stages = summarise_network(network, (1000, 4000))
    ends, *levels, bottom = sketch(stages, (3, 1000, 4000)).splitlines()
    assert len(levels) == depth
    assert bottom.strip() == f"{64 * 2**depth // 2} x {1000 // 2**depth} x {4000 // 2**depth}"
    assert len(ends) <= 100
    for level, line in enumerate(levels):
        assert len(line) - len(line.lstrip()) == 4 * level == len(ends) - len(line)
        assert " ---" in line
        assert "--> " in line


def test_networks_of_the_command_line(tmp_path: Path) -> None:
    network, size, names = choose_network(None, False, {"depth": 2, "checkpointing": True})
    assert (network.depth, network.checkpointing, size, names) == (2, True, (160, 240), ())
    network, size, _ = choose_network(None, True, {"in_channels": 3})
    assert (network.valid, network.in_channels, size) == (True, 3, (572, 572))
    assert choose_network(None, False, {"valid": True, "depth": 5})[1] == (764, 764)

    path = tmp_path / "best.safetensors"
    card = Card(("ground", "leaf"), ((0, 0, 0), (9, 9, 9)), size=(24, 3))
    save_checkpoint(path, UNet(base_channels=2, depth=2), card)
    network, size, names = choose_network(path, False, {})
    assert {weights.device.type for weights in network.parameters()} == {"meta"}
    assert (network.base_channels, size, names) == (2, (24, 4), ("ground", "leaf"))
    assert choose_network(path, False, {"checkpointing": True}, (16, 20))[1] == (16, 20)


@pytest.mark.parametrize(
    ("checkpoint", "paper", "flags", "named"),
    [
        (Path("x.safetensors"), False, {"depth": 3, "valid": True}, "--depth, --valid"),
        (Path("x.safetensors"), True, {"base_channels": 8}, "--paper, --base-channels"),
        (None, True, {"in_channels": 3, "residual": True}, r" --residual\."),
    ],
)
def test_contradictions_are_refused(
    checkpoint: Path | None, paper: bool, flags: dict[str, Any], named: str
) -> None:
    with pytest.raises(ValueError, match=named):
        choose_network(checkpoint, paper, flags)
