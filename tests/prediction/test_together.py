"""Networks that do not go together are refused, with the reason."""

from pathlib import Path

import pytest

from plainunet.network.checkpoint import Card, save_checkpoint
from plainunet.network.unet import UNet
from plainunet.palette import default_colors
from plainunet.prediction.predictor import Predictor, require_same_classes

NAMES = ("ground", "thing")


def save(file: Path, channels: int, names: tuple[str, ...], *, refines: bool = False) -> Path:
    card = Card(names, default_colors(len(names)), size=None, refines=refines)
    save_checkpoint(file, UNet(channels, len(names), base_channels=2, depth=1), card)
    return file


@pytest.mark.parametrize(
    ("channels", "names", "said"),
    [
        (5, ("a", "b", "c"), "for 3 classes and pictures of 3 channels; the one that it shall"),
        (2, NAMES, "for 2 classes and pictures of 1 channels; the one that it shall refine has 2 "),
        (4, ("ground", "hole"), "for ground, hole; the one that it shall refine is for ground, th"),
    ],
)
def test_a_refiner_of_another_kind(
    tmp_path: Path, channels: int, names: tuple[str, ...], said: str
) -> None:
    coarse = save(tmp_path / "coarse.safetensors", 3, NAMES)
    other = save(tmp_path / "other.safetensors", channels, names, refines=True)
    with pytest.raises(ValueError, match=said):
        Predictor.load(coarse, refine=other)


def test_each_has_its_place(tmp_path: Path) -> None:
    coarse = save(tmp_path / "coarse.safetensors", 3, NAMES)
    fine = save(tmp_path / "fine.safetensors", 4, NAMES, refines=True)
    with pytest.raises(ValueError, match=r"fine.safetensors: this model refines the masks of ano"):
        Predictor.load(fine)
    with pytest.raises(ValueError, match="--refine takes a model that was trained with --refine-"):
        Predictor.load(coarse, refine=coarse)
    with pytest.raises(FileNotFoundError, match="no such checkpoint"):
        Predictor.load(coarse, refine=tmp_path / "none.safetensors")
    assert Predictor.load(coarse, refine=fine, device="cpu").card.class_names == NAMES


def test_classes_of_what_is_averaged() -> None:
    network = UNet(3, 2, base_channels=2, depth=1)
    two, turned = (Card(names, default_colors(2), size=None) for names in (NAMES, NAMES[::-1]))
    three = Card((*NAMES, "other"), default_colors(3), size=None)
    require_same_classes(network, two, [two, two])
    with pytest.raises(ValueError, match="3 class names for a network of 2 classes"):
        Predictor(network, three, device="cpu")
    with pytest.raises(ValueError, match="have ground, thing and thing, ground"):
        Predictor(network, two, others=[(network, turned)], device="cpu")
