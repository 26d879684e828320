"""Checkpoints: round trips, invalid files, and fine-tuning."""

import dataclasses
import json
import pickle
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

import plainunet
from plainunet.network.card import FORMAT, Card, CheckpointError, versions
from plainunet.network.checkpoint import load_checkpoint, load_pretrained, save_checkpoint
from plainunet.network.unet import UNet
from plainunet.palette import default_colors, default_names

CARD = Card(
    class_names=("background", "Straße", "leaf"),
    colors=((0, 0, 0), (255, 1, 2), (3, 4, 5)),
    size=(32, 48),
    threshold=0.25,
    masks={"values": [0, 7, 9], "ignore": 255, "kind": "ids"},
    training={"digest": "abc", "pictures": {"train": 3}},
    scores={"protocol": "ours", "pooled": {"accuracy": 0.5, "dice": {"leaf": None}}},
    versions={"torch": "2"},
)
Description = dict[str, Any]


def make_network() -> UNet:
    """A network whose weights and buffers all differ from initial ones."""
    torch.manual_seed(0)
    network = UNet(in_channels=2, num_classes=3, base_channels=2, depth=2)
    network.set_normalisation([0.1, 0.2], [0.3, 0.4])
    network.train()
    network(torch.randn(2, 2, 16, 16))
    return network


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    path = tmp_path / "best.safetensors"
    save_checkpoint(path, make_network(), CARD)
    return path


def read_description(path: Path) -> Description:
    with safe_open(path, framework="pt") as file:
        description: Description = json.loads(file.metadata()["plainunet"])
    return description


def rewrite(path: Path, description: Any, leave_out: str = "") -> None:
    """Write the file again with other metadata, optionally without one of the tensors."""
    with safe_open(path, framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys() if name != leave_out}  # noqa: SIM118
    save_file(tensors, path, metadata={"plainunet": json.dumps(description)})


def refusal(path: Path) -> str:
    with pytest.raises(CheckpointError) as raised:
        load_checkpoint(path)
    assert str(path) in str(raised.value)
    return str(raised.value)


def test_round_trip_bit_for_bit(checkpoint: Path) -> None:
    assert list(checkpoint.parent.iterdir()) == [checkpoint]
    network, card = load_checkpoint(checkpoint)
    original = make_network()
    assert card == CARD
    state = network.state_dict()
    assert state.keys() == original.state_dict().keys()
    for name, value in original.state_dict().items():
        assert state[name].dtype == value.dtype
        assert torch.equal(state[name], value), name
    assert not network.training
    image = torch.randn(1, 2, 21, 19)
    torch.testing.assert_close(network(image), original.eval()(image))


@pytest.mark.parametrize(
    "options",
    [
        {"normalisation": "none", "valid": True, "dropout": 0.5},
        {"normalisation": "group", "upsampling": "bilinear", "residual": True},
        {"normalisation": "instance", "attention": True, "deep_supervision": True},
    ],
)
def test_round_trip_of_every_option(tmp_path: Path, options: dict[str, Any]) -> None:
    network = UNet(2, 3, base_channels=4, depth=2, **options).eval()
    image = torch.rand(1, 2, *network.input_size(24, 20))
    expected = network(image)
    network.to(memory_format=torch.channels_last)
    save_checkpoint(tmp_path / "a.safetensors", network, CARD)
    again, _ = load_checkpoint(tmp_path / "a.safetensors")
    assert again.architecture == network.architecture
    torch.testing.assert_close(again(image), expected)


@pytest.mark.parametrize("more", [{}, {"factor": 0.5}, {"tta": "flips", "scales": (0.5, 1.0)}])
def test_round_trip_of_cards(tmp_path: Path, more: dict[str, Any]) -> None:
    card = Card(("background", "car"), default_colors(2), size=None, **more)
    save_checkpoint(tmp_path / "a.safetensors", UNet(base_channels=1, depth=1), card)
    assert load_checkpoint(tmp_path / "a.safetensors")[1] == card


def test_description_is_complete(checkpoint: Path) -> None:
    description = read_description(checkpoint)
    assert description["format"] == FORMAT
    assert description["architecture"] == {
        "in_channels": 2,
        "num_classes": 3,
        "base_channels": 2,
        "depth": 2,
        "normalisation": "batch",
        "upsampling": "transposed",
        "valid": False,
        "residual": False,
        "attention": False,
        "deep_supervision": False,
        "dropout": 0.0,
    }
    expected = json.loads(json.dumps(dataclasses.asdict(CARD)))
    assert {name: description[name] for name in expected} == expected
    with safe_open(checkpoint, framework="pt") as file:
        assert torch.equal(file.get_tensor("mean"), torch.tensor([0.1, 0.2]))
        assert torch.equal(file.get_tensor("std"), torch.tensor([0.3, 0.4]))


def test_versions() -> None:
    assert versions()["plainunet"] == plainunet.__version__
    assert versions()["torch"] == torch.__version__


@pytest.mark.skipif(not (Path(__file__).parents[2] / ".git").exists(), reason="no checkout")
def test_a_checkout_names_its_commit() -> None:
    head = ["git", "rev-parse", "HEAD"]
    try:
        done = subprocess.run(head, cwd=Path(__file__).parent, capture_output=True, text=True)
    except FileNotFoundError:
        pytest.skip("git is not installed")
    assert done.stdout.startswith(versions()["commit"].removesuffix("-dirty"))


def test_failure_keeps_the_old_file(checkpoint: Path) -> None:
    before = checkpoint.read_bytes()
    card = dataclasses.replace(CARD, training={"what": {1, 2}})  # JSON has no sets
    with pytest.raises(TypeError):
        save_checkpoint(checkpoint, make_network(), card)
    assert checkpoint.read_bytes() == before
    assert list(checkpoint.parent.iterdir()) == [checkpoint]


def test_a_file_without_later_fields(checkpoint: Path) -> None:
    description = read_description(checkpoint)
    old = {k: description["architecture"][k] for k in list(description["architecture"])[:4]}
    assert list(old) == ["in_channels", "num_classes", "base_channels", "depth"]
    for name in ("factor", "tta", "scales", "min_object", "fill_holes"):
        del description[name]
    rewrite(checkpoint, {**description, "architecture": old, "refines": False})
    network, card = load_checkpoint(checkpoint)
    assert network.architecture["normalisation"] == "batch"
    assert card == CARD


# invalid files


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"best\.safetensors"):
        load_checkpoint(tmp_path / "best.safetensors")
    refusal(tmp_path)


@pytest.mark.parametrize("share", [0, 0.0005, 0.1, 0.5, 0.99])
def test_truncated_file(checkpoint: Path, share: float) -> None:
    whole = checkpoint.read_bytes()
    checkpoint.write_bytes(whole[: int(share * len(whole))])
    refusal(checkpoint)
    checkpoint.write_bytes(np.random.default_rng(int(1000 * share)).bytes(5000))
    refusal(checkpoint)


def test_pickle_is_refused_and_not_executed(tmp_path: Path) -> None:
    trace = tmp_path / "executed"

    class Trap:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (trace,)

    path = tmp_path / "best.safetensors"
    path.write_bytes(pickle.dumps(Trap()))
    refusal(path)
    torch.save({"weights": Trap()}, path)
    refusal(path)
    assert not trace.exists()
    # the trap works
    pickle.loads(pickle.dumps(Trap()))
    assert trace.exists()


@pytest.mark.parametrize("metadata", [None, {"format": "pt"}, {"plainunet": "{"}], ids=str)
def test_third_party_safetensors(tmp_path: Path, metadata: dict[str, str] | None) -> None:
    path = tmp_path / "model.safetensors"
    save_file({"weight": torch.zeros(3)}, path, metadata=metadata)
    refusal(path)


def architecture(**change: Any) -> Callable[[Description], Description]:
    return lambda old: {**old, "architecture": {**old["architecture"], **change}}


def without(name: str) -> Callable[[Description], Description]:
    return lambda old: {key: value for key, value in old.items() if key != name}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        *((lambda old, new=new: new, "") for new in ([], "text", 3, {}, None)),
        (lambda old: {**old, "format": FORMAT + 1}, f"format {FORMAT + 1}"),
        (lambda old: {**old, "refines": True}, "--refine-of"),
        (architecture(base_channels=3), "[6, 3, 3, 3]"),
        (architecture(depth=3), "downs.2.1.0.weight"),
        (architecture(num_classes=2), "head.bias"),
        (architecture(num_classes=1), "num_classes"),
        (architecture(in_channels=3), "inlet.0.weight"),
        (architecture(width=3), "'width'"),
        (architecture(depth="two"), "two"),
        *(
            (without(name), name)
            for name in ("architecture", "class_names", "colors", "size", "masks")
        ),
        (lambda old: {**old, "class_names": ["background", "leaf"]}, "2 class names"),
        (lambda old: {**old, "colors": [[0, 0, 0], [1, 2, 3]]}, "2 colours"),
        (lambda old: {**old, "colors": [[0, 0], [1, 2], [3, 4]]}, ""),
        (lambda old: {**old, "size": 3}, ""),
    ],
)
def test_invalid_metadata(
    checkpoint: Path, change: Callable[[Description], Any], reason: str
) -> None:
    rewrite(checkpoint, change(read_description(checkpoint)))
    assert reason in refusal(checkpoint)


def test_missing_weight(checkpoint: Path) -> None:
    rewrite(checkpoint, read_description(checkpoint), leave_out="head.bias")
    assert "head.bias" in refusal(checkpoint)


# fine-tuning


def seeded(seed: int, channels: int = 3, classes: int = 2, **options: Any) -> UNet:
    torch.manual_seed(seed)
    return UNet(channels, classes, base_channels=2, depth=2, **options)


def saved(folder: Path, source: UNet) -> Path:
    path = folder / "source.safetensors"
    names = default_names(source.num_classes)
    save_checkpoint(path, source, Card(names, default_colors(len(names)), size=None))
    return path


@pytest.mark.parametrize(("classes", "fresh"), [(2, []), (5, ["head.weight", "head.bias"])])
def test_pretrained_weights_except_the_head_of_other_classes(
    tmp_path: Path, classes: int, fresh: list[str]
) -> None:
    source, other = seeded(0), seeded(1, classes=classes)
    source.set_normalisation([0.5, 0.4, 0.3], [0.2, 0.2, 0.2])
    before = {name: value.clone() for name, value in other.state_dict().items()}
    assert load_pretrained(other, saved(tmp_path, source)) == fresh
    for name, weight in other.state_dict().items():
        # the normalisation is that of the new data
        own = name in (*fresh, "mean", "std")
        assert torch.equal(weight, before[name] if own else source.state_dict()[name]), name


@pytest.mark.parametrize(("before", "now"), [(3, 1), (1, 3), (3, 5)])
def test_another_number_of_channels(tmp_path: Path, before: int, now: int) -> None:
    """On an image with equal channels, the logits of both networks are equal."""
    source, other = seeded(0, before), seeded(1, now)
    (averaged,) = load_pretrained(other, saved(tmp_path, source))
    assert averaged.startswith("inlet.")
    grey = torch.rand(1, 1, 16, 16)
    with torch.no_grad():
        found = other.eval()(grey.expand(1, now, 16, 16))
        expected = source.eval()(grey.expand(1, before, 16, 16))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "flag"),
    [({"normalisation": "group"}, "--normalisation batch"), ({"residual": True}, "--no-residual")],
)
def test_another_architecture_is_refused(
    tmp_path: Path, options: dict[str, Any], flag: str
) -> None:
    with pytest.raises(ValueError, match=flag):
        load_pretrained(seeded(1, **options), saved(tmp_path, seeded(0)))
