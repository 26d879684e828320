"""The drawing of the network: it shows what the network does, and the committed one is current."""

import re
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from plainunet.network.drawing import Feature, draw_network, trace_features
from plainunet.network.unet import UNet

COMMITTED = Path(__file__).parents[2] / "docs" / "unet.svg"
SVG = "{http://www.w3.org/2000/svg}"


def drawn(network: UNet, size: tuple[int, int], folder: Path) -> ET.Element:
    path = folder / "unet.svg"
    draw_network(network, size, path)
    assert [file.name for file in folder.iterdir()] == ["unet.svg"]
    return ET.parse(path).getroot()


def texts(root: ET.Element) -> list[str]:
    return [text.text or "" for text in root.iter(f"{SVG}text")]


def count(root: ET.Element, tag: str, kind: str) -> int:
    return sum(element.get("class") == kind for element in root.iter(SVG + tag))


def test_committed_drawing_is_what_the_code_draws(tmp_path: Path) -> None:
    draw_network(UNet(), (160, 240), tmp_path / "unet.svg")
    assert COMMITTED.read_bytes() == (tmp_path / "unet.svg").read_bytes(), (
        "docs/unet.svg is out of date; make it again with: "
        "draw_network(UNet(), (160, 240), Path('docs/unet.svg'))"
    )


def test_features_of_a_small_network() -> None:
    conv = "convolution 3 x 3, BatchNorm, ReLU"
    up = "transposed convolution 2 x 2"
    assert trace_features(UNet(1, 5, base_channels=8, depth=2), (13, 22)) == [
        Feature("picture", "picture", 1, (13, 22)),
        Feature("conv", conv, 8, (13, 22)),
        Feature("conv", conv, 8, (13, 22)),
        Feature("pool", "max pooling 2 x 2", 8, (6, 11)),
        Feature("conv", conv, 16, (6, 11)),
        Feature("conv", conv, 16, (6, 11)),
        Feature("pool", "max pooling 2 x 2", 16, (3, 5)),
        Feature("conv", conv, 32, (3, 5)),
        Feature("conv", conv, 32, (3, 5)),
        Feature("up", up, 16, (6, 11), copied=16),
        Feature("conv", conv, 16, (6, 11)),
        Feature("conv", conv, 16, (6, 11)),
        Feature("up", up, 8, (13, 22), copied=8),
        Feature("conv", conv, 8, (13, 22)),
        Feature("conv", conv, 8, (13, 22)),
        Feature("head", "convolution 1 x 1", 5, (13, 22)),
    ]


def test_drawing_of_the_default_network_shows_the_figure(tmp_path: Path) -> None:
    root = drawn(UNet(), (160, 240), tmp_path)
    words = texts(root)
    assert "U-Net with 31,037,698 trainable parameters" in words
    channels = [int(word) for word in words if word.isdigit()]
    assert channels == [
        *(3, 64, 64, 64, 128, 128, 128, 256, 256, 256, 512, 512, 512, 1024, 1024),
        *(1024, 512, 512, 512, 256, 256, 256, 128, 128, 128, 64, 64, 2),
    ]
    sizes = [word for word in words if re.fullmatch(r"\d+ \u00d7 \d+", word)]
    # each level at its left and, but for the lowest, at its right
    heights = sorted(int(size.split()[0]) for size in sizes)
    assert heights == [10, 20, 20, 40, 40, 80, 80, 160, 160]
    assert "20 \u00d7 30" in sizes
    # 28 features, 4 of them with a copied part; an arrow for each layer and skip, and the legend's
    assert count(root, "rect", "feature") == 28
    assert count(root, "rect", "copied") == 4
    assert count(root, "path", "arrow conv") == 18 + 1
    for kind, number in {"pool": 4, "up": 4, "skip": 4, "head": 1}.items():
        assert count(root, "path", f"arrow {kind}") == number + 1, kind


@pytest.mark.parametrize(("depth", "size"), [(1, (33, 47)), (3, (64, 64)), (6, (191, 257))])
def test_nothing_lies_outside_or_on_top_of_another(
    tmp_path: Path, depth: int, size: tuple[int, int]
) -> None:
    root = drawn(UNet(base_channels=16, depth=depth), size, tmp_path)
    width, height = (float(root.get(name, "0")) for name in ("width", "height"))
    boxes = []
    for box in root.iter(f"{SVG}rect"):
        x, y, w, h = (float(box.get(name, "nan")) for name in ("x", "y", "width", "height"))
        assert 0 <= x < x + w <= width
        assert 0 <= y < y + h <= height
        if box.get("class") == "feature":
            boxes.append((x, y, w, h))
    assert len(boxes) == 6 * depth + 4
    for at, (x, y, w, h) in enumerate(boxes):
        for other_x, other_y, other_w, other_h in boxes[:at]:
            apart_across = x >= other_x + other_w or other_x >= x + w
            assert apart_across or y >= other_y + other_h or other_y >= y + h
    for text in root.iter(f"{SVG}text"):
        assert 0 < float(text.get("x", "nan")) < width
        assert 0 < float(text.get("y", "nan")) < height


def test_drawing_follows_the_code(tmp_path: Path) -> None:
    network = UNet(base_channels=4, depth=1)
    network.inlet[2] = nn.LeakyReLU()
    network.inlet[3] = nn.Conv2d(4, 4, kernel_size=5, padding=2)
    words = texts(drawn(network, (16, 16), tmp_path))
    assert "convolution 3 \u00d7 3, BatchNorm, LeakyReLU" in words
    assert "convolution 5 \u00d7 5, BatchNorm, ReLU" in words


def test_network_is_left_as_it_was(tmp_path: Path) -> None:
    network = UNet(base_channels=4, depth=2).train()
    before = {name: values.clone() for name, values in network.state_dict().items()}
    draw_network(network, (16, 16), tmp_path / "unet.svg")
    assert network.training
    assert all(not module._forward_hooks for module in network.modules())
    for name, values in network.state_dict().items():
        assert values.device.type == "cpu"
        assert torch.equal(values, before[name]), name


def test_frozen_parameters_are_not_called_trainable(tmp_path: Path) -> None:
    network = UNet(base_channels=4, depth=1)
    network.head.requires_grad_(False)
    weights = sum(values.numel() for values in network.parameters())
    words = texts(drawn(network, (16, 16), tmp_path))
    assert f"U-Net with {weights - 10:,} trainable parameters" in words


def test_too_small_a_picture_is_refused_and_leaves_no_file(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="8 x 40"):
        draw_network(UNet(base_channels=4), (8, 40), tmp_path / "unet.svg")
    assert list(tmp_path.iterdir()) == []


def test_file_stands_alone_and_knows_dark_pages(tmp_path: Path) -> None:
    draw_network(UNet(base_channels=4), (64, 64), tmp_path / "unet.svg")
    text = (tmp_path / "unet.svg").read_text(encoding="ascii")
    assert "@media (prefers-color-scheme: dark)" in text
    assert "href" not in text
    assert "url(" not in text
    assert re.findall(r"https?://[^\"]+", text) == ["http://www.w3.org/2000/svg"]


def test_sizes_of_the_papers_figure(tmp_path: Path) -> None:
    with torch.device("meta"):
        network = UNet.paper()
    levels: list[list[int]] = []  # sides, a list for each row of the figure
    channels: list[list[int]] = []
    skips = []
    for feature in trace_features(network, (572, 572)):
        if feature.kind in ("picture", "pool", "up"):
            levels.append([])
            channels.append([])
        assert feature.size[0] == feature.size[1]
        levels[-1].append(feature.size[0])
        channels[-1].append(feature.channels + feature.copied)
        skips += [(feature.copied, feature.size[0])] if feature.copied else []
    assert levels == [
        *([572, 570, 568], [284, 282, 280], [140, 138, 136], [68, 66, 64], [32, 30, 28]),
        *([56, 54, 52], [104, 102, 100], [200, 198, 196], [392, 390, 388, 388]),
    ]
    assert channels == [
        *([1, 64, 64], [64, 128, 128], [128, 256, 256], [256, 512, 512], [512, 1024, 1024]),
        *([1024, 512, 512], [512, 256, 256], [256, 128, 128], [128, 64, 64, 2]),
    ]
    # the skips, cropped to the features that they join
    assert skips == [(512, 56), (256, 104), (128, 200), (64, 392)]
    words = texts(drawn(network, (572, 572), tmp_path))
    assert "U-Net with 31,030,658 trainable parameters" in words
    assert "388 \u00d7 388" in words


@pytest.mark.parametrize(
    "options",
    [
        {"attention": True, "deep_supervision": True},
        {"residual": True},
        {"checkpointing": True},
        {"upsampling": "bilinear", "residual": True, "attention": True},
    ],
    ids=str,
)
def test_what_stands_beside_the_path_is_not_drawn(options: dict[str, Any], tmp_path: Path) -> None:
    network = UNet(base_channels=4, depth=2, **options)
    features = trace_features(network, (16, 24))
    path = ["pool", "conv", "conv"], ["up", "conv", "conv"]
    kinds = ["picture", "conv", "conv", *path[0] * 2, *path[1] * 2, "head"]
    assert [feature.kind for feature in features] == kinds
    bilinear = "upsampling" in options
    assert [f.channels for f in features if f.kind == "up"] == [8, 4]
    assert [f.copied for f in features if f.copied] == [8, 4]
    layers = {feature.layer for feature in features if feature.kind == "conv"}
    last = "convolution 3 x 3, BatchNorm, shortcut, ReLU"
    assert layers == {
        "convolution 3 x 3, BatchNorm, ReLU",
        *([last] if "residual" in options else []),
    }
    words = texts(drawn(network, (16, 24), tmp_path))
    assert ("bilinear upsampling 2 \u00d7 2" in words) == bilinear


def test_smallest_picture_is_drawn_of_a_network_in_training(tmp_path: Path) -> None:
    # where one value is left, batch normalisation cannot learn from one picture
    assert "1 \u00d7 1" in texts(drawn(UNet(base_channels=4).train(), (16, 16), tmp_path))


def test_the_committed_paper_drawing_is_up_to_date(tmp_path: Path) -> None:
    draw_network(UNet.paper(), (572, 572), tmp_path / "unet-paper.svg")
    committed = COMMITTED.with_name("unet-paper.svg")
    assert committed.read_bytes() == (tmp_path / "unet-paper.svg").read_bytes(), (
        "docs/unet-paper.svg is out of date; make it again with: "
        "plainunet model --paper --svg docs/unet-paper.svg"
    )
