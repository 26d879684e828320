import dataclasses
import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

import plainunet
from plainunet.network.checkpoint import (
    FORMAT,
    Card,
    CheckpointError,
    load_checkpoint,
    save_checkpoint,
    versions,
)
from plainunet.network.unet import UNet
from plainunet.palette import default_colors

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


def make_network() -> UNet:
    """A network whose every weight and buffer differs from a fresh one's."""
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


def read_description(path: Path) -> dict[str, Any]:
    with safe_open(path, framework="pt") as file:
        said: dict[str, Any] = json.loads(file.metadata()["plainunet"])
    return said


def rewrite(path: Path, description: Any, leave_out: str = "") -> None:
    """Write the file again with another description, perhaps without one of the tensors."""
    with safe_open(path, framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys() if name != leave_out}  # noqa: SIM118
    save_file(tensors, path, metadata={"plainunet": json.dumps(description)})


def refusal(path: Path) -> str:
    with pytest.raises(CheckpointError) as raised:
        load_checkpoint(path)
    assert str(path) in str(raised.value)
    return str(raised.value)


def test_round_trip_bit_for_bit(checkpoint: Path) -> None:
    network, card = load_checkpoint(checkpoint)
    original = make_network()
    assert card == CARD
    state = network.state_dict()
    assert state.keys() == original.state_dict().keys()
    for name, value in original.state_dict().items():
        assert state[name].dtype == value.dtype
        assert torch.equal(state[name], value), name
    image = torch.randn(1, 2, 21, 19)
    assert not network.training
    torch.testing.assert_close(network(image), original.eval()(image))


def test_only_one_file_is_written(checkpoint: Path) -> None:
    assert list(checkpoint.parent.iterdir()) == [checkpoint]


def test_least_card(tmp_path: Path) -> None:
    card = Card(("background", "car"), default_colors(2), size=None)
    save_checkpoint(tmp_path / "a.safetensors", UNet(base_channels=1, depth=1), card)
    assert load_checkpoint(tmp_path / "a.safetensors")[1] == card


def test_channels_last_network(tmp_path: Path) -> None:
    network = make_network().to(memory_format=torch.channels_last)
    save_checkpoint(tmp_path / "a.safetensors", network, CARD)
    again, _ = load_checkpoint(tmp_path / "a.safetensors")
    assert torch.equal(again.inlet[3].weight, network.inlet[3].weight)


def test_description_is_complete(checkpoint: Path) -> None:
    said = read_description(checkpoint)
    assert said["format"] == FORMAT
    assert said["architecture"] == {
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
    wanted = json.loads(json.dumps(dataclasses.asdict(CARD)))
    assert {name: said[name] for name in wanted} == wanted
    with safe_open(checkpoint, framework="pt") as file:
        assert torch.equal(file.get_tensor("mean"), torch.tensor([0.1, 0.2]))
        assert torch.equal(file.get_tensor("std"), torch.tensor([0.3, 0.4]))


def test_failure_keeps_the_old_file(checkpoint: Path) -> None:
    before = checkpoint.read_bytes()
    card = dataclasses.replace(CARD, training={"what": {1, 2}})  # a set does not go into JSON
    with pytest.raises(TypeError):
        save_checkpoint(checkpoint, make_network(), card)
    assert checkpoint.read_bytes() == before
    assert list(checkpoint.parent.iterdir()) == [checkpoint]


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"best\.safetensors: no such checkpoint"):
        load_checkpoint(tmp_path / "best.safetensors")
    with pytest.raises(CheckpointError, match="is a folder"):
        load_checkpoint(tmp_path)


@pytest.mark.parametrize("share", [0, 0.0005, 0.1, 0.5, 0.99])
def test_truncated_file(checkpoint: Path, share: float) -> None:
    whole = checkpoint.read_bytes()
    checkpoint.write_bytes(whole[: int(share * len(whole))])
    assert "damaged" in refusal(checkpoint)


@pytest.mark.parametrize("seed", range(3))
def test_random_bytes(tmp_path: Path, seed: int) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(np.random.default_rng(seed).bytes(5000))
    message = refusal(path)
    assert "not a checkpoint of plainunet" in message
    assert "best.safetensors" in message


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
    # the trap is one indeed
    pickle.loads(pickle.dumps(Trap()))
    assert trace.exists()


def test_foreign_safetensors(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_file({"weight": torch.zeros(3)}, path)
    assert "not one of plainunet" in refusal(path)
    save_file({"weight": torch.zeros(3)}, path, metadata={"format": "pt"})
    assert "not one of plainunet" in refusal(path)


def test_newer_format(checkpoint: Path) -> None:
    said = read_description(checkpoint)
    rewrite(checkpoint, {**said, "format": FORMAT + 1})
    message = refusal(checkpoint)
    assert f"format {FORMAT + 1}; this version reads {FORMAT}" in message
    assert "Update plainunet" in message


def test_description_that_is_no_json(checkpoint: Path) -> None:
    save_file({"weight": torch.zeros(3)}, checkpoint, metadata={"plainunet": "{"})
    refusal(checkpoint)


@pytest.mark.parametrize("description", [[], "text", 3, {}, None])
def test_description_of_another_kind(checkpoint: Path, description: Any) -> None:
    rewrite(checkpoint, description)
    refusal(checkpoint)


@pytest.mark.parametrize(
    "change",
    [
        {"base_channels": 3},
        {"depth": 3},
        {"num_classes": 2},
        {"num_classes": 1},
        {"in_channels": 3},
        {"width": 3},
        {"depth": "two"},
    ],
)
def test_architecture_that_is_not_the_weights(checkpoint: Path, change: dict[str, Any]) -> None:
    said = read_description(checkpoint)
    rewrite(checkpoint, {**said, "architecture": {**said["architecture"], **change}})
    assert "weights and description differ" in refusal(checkpoint)


def test_missing_weight(checkpoint: Path) -> None:
    rewrite(checkpoint, read_description(checkpoint), leave_out="head.bias")
    assert "head.bias" in refusal(checkpoint)


@pytest.mark.parametrize("name", ["architecture", "class_names", "colors", "size", "masks"])
def test_incomplete_description(checkpoint: Path, name: str) -> None:
    said = read_description(checkpoint)
    del said[name]
    rewrite(checkpoint, said)
    assert name in refusal(checkpoint)


@pytest.mark.parametrize(
    "change",
    [
        {"class_names": ["background", "leaf"]},
        {"colors": [[0, 0, 0], [1, 2, 3]]},
        {"colors": [[0, 0], [1, 2], [3, 4]]},
        {"size": 3},
    ],
    ids=str,
)
def test_description_that_does_not_suit_the_network(
    checkpoint: Path, change: dict[str, Any]
) -> None:
    rewrite(checkpoint, {**read_description(checkpoint), **change})
    refusal(checkpoint)


def test_versions() -> None:
    assert versions()["plainunet"] == plainunet.__version__
    assert versions()["torch"] == torch.__version__


OPTIONS = [
    {"normalisation": "none", "valid": True, "dropout": 0.5},
    {"normalisation": "group", "upsampling": "bilinear", "residual": True},
    {"normalisation": "instance", "attention": True, "deep_supervision": True},
]


@pytest.mark.parametrize("options", OPTIONS)
def test_every_option_comes_back(tmp_path: Path, options: dict[str, Any]) -> None:
    network = UNet(2, 3, base_channels=4, depth=2, **options).eval()
    path = tmp_path / "model.safetensors"
    save_checkpoint(path, network, CARD)
    again, _ = load_checkpoint(path)
    assert again.architecture == network.architecture
    image = torch.rand(1, 2, *network.input_size(24, 20))
    torch.testing.assert_close(again(image), network(image))


def test_a_file_from_before_the_options_is_read(tmp_path: Path) -> None:
    network = UNet(2, 3, base_channels=2, depth=2)
    old = dict(list(network.architecture.items())[:4])
    assert list(old) == ["in_channels", "num_classes", "base_channels", "depth"]
    network.architecture = old
    path = tmp_path / "old.safetensors"
    save_checkpoint(path, network, CARD)
    assert load_checkpoint(path)[0].architecture["normalisation"] == "batch"


def test_a_checkpoint_that_refines_another_is_refused(checkpoint: Path) -> None:
    description = read_description(checkpoint)
    rewrite(checkpoint, {**description, "refines": False})  # as others said as well
    assert load_checkpoint(checkpoint)[1] == CARD
    rewrite(checkpoint, {**description, "refines": True})
    assert "refines" in refusal(checkpoint)


def test_how_pictures_are_reduced_comes_back(tmp_path: Path) -> None:
    card = Card(("a", "b"), ((0, 0, 0), (1, 2, 3)), size=None, factor=0.5)
    file = tmp_path / "a.safetensors"
    save_checkpoint(file, UNet(base_channels=2, depth=2), card)
    assert load_checkpoint(file)[1] == card
