"""What a run begins with, on files of several kinds."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from plainunet.training.events import Advance, Event, Note, Stage

from plainunet.config import TrainConfig
from plainunet.dataset.coding import Values
from plainunet.dataset.dataset import SegmentationDataset
from plainunet.dataset.pairs import Pair, find_pairs
from plainunet.formats.images import image_shape
from plainunet.network.checkpoint import Card, save_checkpoint
from plainunet.network.unet import UNet
from plainunet.palette import default_colors
from plainunet.training.distributed import ALONE
from plainunet.training.train import describe_run, make_network, read_samples, with_checkpoint


def dataset_of(data: Path, pairs: list[Pair]) -> SegmentationDataset:
    shapes = [image_shape(pair.image) for pair in pairs]
    return SegmentationDataset(data, pairs, Values((0, 255)), ("background", "thing"), shapes)


def test_grey_pictures_among_others_are_shown_as_rgb(
    draw: Callable[..., Path], tiny: TrainConfig, tmp_path: Path
) -> None:
    data = draw(tmp_path / "data", 6)
    for name in ("00.png", "03.png"):
        with Image.open(data / "images" / name) as picture:
            picture.convert("L").save(data / "images" / name)
    config = tiny.model_copy(update={"classes": ("background", "thing")})
    pairs = [
        dataclasses.replace(pair, part="val" if index < 2 else "train")
        for index, pair in enumerate(find_pairs(data))
    ]
    dataset = dataset_of(data, pairs)
    events: list[Event] = []
    parts = read_samples(dataset, config, ALONE, events.append)
    assert {part: len(samples) for part, samples in parts.items()} == {"train": 4, "val": 2}
    assert parts["train"][0][0].shape == (32, 40, 3)
    assert Note("note: 2 grey pictures are shown as RGB, like the others") in events
    assert events.count(Stage("reading pictures", 4)) == 1
    assert events[-1] == Advance(2)

    network = make_network(config, dataset.shapes, parts["train"], True, events.append)
    again = make_network(config, dataset.shapes, parts["train"], True, events.append)
    assert (network.in_channels, network.num_classes) == (3, 2)
    assert all(map(torch.equal, network.parameters(), again.parameters()))
    assert np.allclose(network.mean.flatten(), parts["train"].statistics()[0])

    card = describe_run(dataset, config)
    assert card.training["grey"] == 2
    assert card.training["areas"] == [32 * 40, 32 * 40]
    assert card.training["pictures"] == {"train": 4, "val": 2}
    assert card.training["dtypes"] == ["uint8"]
    assert card.masks == {"values": (0, 255), "ignore": None, "kind": "two values"}
    assert card.scores is None or not card.scores


def test_the_network_is_that_of_the_checkpoint(tmp_path: Path) -> None:
    file = tmp_path / "earlier.safetensors"
    network = UNet(3, 2, 4, 2, normalisation="group", residual=True, dropout=0.3)
    save_checkpoint(file, network, Card(("a", "b"), default_colors(2), (32, 32)))
    given = TrainConfig(start_from=str(file), depth=3)
    config, taken = with_checkpoint(given)
    assert (config.base_channels, config.normalisation, config.residual) == (4, "group", True)
    assert config.depth == 3  # as given, which is told where weights are taken
    assert config.dropout == TrainConfig().dropout
    assert "depth" not in taken
    assert taken["residual"] == "as in the checkpoint that it starts from"
    assert taken.keys() <= config.model_fields_set
    assert with_checkpoint(TrainConfig()) == (TrainConfig(), {})


def test_two_types_of_numbers_that_take_turns_are_both_told(
    draw: Callable[..., Path], tiny: TrainConfig, tmp_path: Path
) -> None:
    data = draw(tmp_path / "data", 20)
    pictures = sorted((data / "images").iterdir())
    for picture in pictures[::2]:
        Image.fromarray(np.full((32, 40), 300, np.uint16)).save(picture)
    config = tiny.model_copy(update={"classes": ("background", "thing")})
    pairs = [dataclasses.replace(pair, part="train") for pair in find_pairs(data)]
    dataset = dataset_of(data, pairs)
    card = describe_run(dataset, config)
    assert card.training["dtypes"] == ["uint16", "uint8"]
