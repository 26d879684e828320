"""Augmentation of the user's own: a file, transforms, or a name; masks keep their classes."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import albumentations as A
import cv2
import numpy as np
import pytest
import torch
from albumentations.pytorch import ToTensorV2
from numpy.typing import NDArray
from PIL import Image
from safetensors.torch import load_file

from plainunet import TrainConfig
from plainunet.__main__ import _run
from plainunet.dataset.augment import OwnAugment, load_augment
from plainunet.parts import Part, PartError
from plainunet.settings import load_config
from plainunet.training.train import resume, train
from plainunet.training.training_data import draw_sheet

from .conftest import Draw, PowerCut, Recorder, cut_after

GOOD = A.Compose(
    [
        A.HorizontalFlip(p=0.5),
        A.RandomResizedCrop((20, 30), scale=(0.5, 1), p=0.5),
        A.Rotate(20, border_mode=cv2.BORDER_CONSTANT, fill_mask=255, p=1),
        A.RandomGamma(p=0.5),
    ]
)


class ByFloats(A.DualTransform):  # type: ignore[misc]
    """A user's transform that divides masks."""

    def apply(self, img: NDArray[Any], **params: Any) -> NDArray[Any]:
        return img

    def apply_to_mask(self, mask: NDArray[Any], **params: Any) -> NDArray[Any]:
        return (mask / 255).astype(np.float32)

    def get_transform_init_args_names(self) -> tuple[str, ...]:
        return ()


class Next(ByFloats):
    """A user's transform that makes new classes."""

    def apply_to_mask(self, mask: NDArray[Any], **params: Any) -> NDArray[Any]:
        return mask + 1


class Unseeded(ByFloats):
    """A user's transform with random numbers of its own."""

    source = np.random.default_rng(0)

    def apply(self, img: NDArray[Any], **params: Any) -> NDArray[Any]:
        return np.roll(img, int(self.source.integers(1, 20)), 0)

    def apply_to_mask(self, mask: NDArray[Any], **params: Any) -> NDArray[Any]:
        return mask


class Narrow(ByFloats):
    """A user's transform that makes images narrower than their masks."""

    def apply(self, img: NDArray[Any], **params: Any) -> NDArray[Any]:
        return img[:, 4:]

    def apply_to_mask(self, mask: NDArray[Any], **params: Any) -> NDArray[Any]:
        return mask


class Fails(ByFloats):
    """A user's transform that fails."""

    def apply(self, img: NDArray[Any], **params: Any) -> NDArray[Any]:
        raise KeyError("no such thing")


BAD = {
    "floats": ByFloats(p=1),
    "new class": Next(p=1),
    "fill": A.Rotate((20, 30), border_mode=cv2.BORDER_CONSTANT, fill_mask=7, p=1),
    "normalised": A.Normalize(),
    "tensor": ToTensorV2(),
    "grey": A.ToGray(num_output_channels=1, p=1),
    "fails": Fails(p=1),
    "sizes": Narrow(p=1),
    "no transform": "flip",
}


def shares(height: int = 32, width: int = 40) -> NDArray[np.uint8]:
    """Three classes, one of which is soft at its edge, and ignored rows."""
    found = np.zeros((height, width, 3), np.uint8)
    found[..., 0] = 255
    found[8:20, 8:30] = (0, 255, 0)
    found[12:16, 10:20] = (0, 0, 255)
    found[7, 8:30] = (100, 155, 0)
    found[:3] = 0
    return found


def own(transform: Any, classes: int = 3) -> OwnAugment:
    return OwnAugment(Part(transform, "mine"), classes)


def test_masks_stay_whole_and_repeat_by_the_seed() -> None:
    augment = own(GOOD)
    image = np.random.default_rng(0).integers(0, 256, (32, 40, 3), dtype=np.uint8)
    seen = []
    for number in range(20):
        result, moved = augment(image, shares(), (1, 0, number))
        assert result.shape == image.shape
        assert result.dtype == np.uint8
        assert moved.shape == (32, 40, 3)
        assert moved.dtype == np.uint8
        assert moved.sum(axis=2, dtype=int).max() <= 256
        again = augment(image, shares(), (1, 0, number))
        assert (again[0] == result).all()
        assert (again[1] == moved).all()
        seen.append(result.tobytes())
    assert len(set(seen)) == 20


def test_without_transforms_classes_become_whole() -> None:
    image = np.zeros((32, 40, 1), np.uint16)
    result, moved = own(A.Compose([]))(image, shares(), (0, 0, 0))
    assert result.dtype == np.uint16
    assert set(np.unique(moved)) == {0, 255}
    assert moved[7, 8:30, 1].all()
    assert not moved[:3].any()


def test_masks_are_not_interpolated() -> None:
    between = own(A.Affine(rotate=(10, 20), mask_interpolation=cv2.INTER_LINEAR, p=1))
    only = shares()
    only[..., 2] |= only[..., 1]
    only[..., 1] = 0
    with pytest.raises(PartError):
        between(np.zeros((32, 40, 3), np.uint8), only, (0, 0, 0))


@pytest.mark.parametrize("name", BAD)
def test_what_is_no_augmentation_is_refused(
    name: str, draw: Draw, tiny: TrainConfig, tmp_path: Path
) -> None:
    data = draw(tmp_path / "data", 8)
    given = Part(BAD[name], "mine.json") if name == "no transform" else BAD[name]
    with pytest.raises(PartError) as caught:
        train(data, tmp_path / "run", tiny, augment=given)
    assert "--augment" in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1
    assert not (tmp_path / "run" / "config.toml").exists()


def test_transforms_that_cannot_be_saved_leave_no_half_a_run(
    draw: Draw, tiny: TrainConfig, tmp_path: Path
) -> None:
    data = draw(tmp_path / "data", 8)

    def unchanged(image: NDArray[Any], **_: Any) -> NDArray[Any]:
        return image

    unnamed = A.Compose([A.Lambda(image=unchanged)])
    with pytest.raises(ValueError, match="Lambda"):
        train(data, tmp_path / "run", tiny, augment=unnamed)
    train(data, tmp_path / "run", tiny, augment=GOOD)


def test_border_weights_need_a_preset(draw: Draw, tiny: TrainConfig, tmp_path: Path) -> None:
    data = draw(tmp_path / "data", 8)
    config = tiny.model_copy(update={"border_weight": 10.0})
    with pytest.raises(PartError, match="border"):
        train(data, tmp_path / "run", config, augment=GOOD)


def test_random_numbers_without_the_seed_are_a_warning(
    draw: Draw, tiny: TrainConfig, tmp_path: Path
) -> None:
    data, heard = draw(tmp_path / "data", 8), Recorder()
    train(data, tmp_path / "run", tiny, heard, augment=Unseeded(p=1))
    assert sum("same seed" in note for note in heard.all("note")) == 1


def test_transforms_resume_bit_for_bit_from_the_run_folder(
    draw: Draw, tiny: TrainConfig, tmp_path: Path
) -> None:
    data = draw(tmp_path / "data", 8)
    config = tiny.model_copy(update={"elastic": 1.0})
    train(data, tmp_path / "whole", config, augment=GOOD)
    with pytest.raises(PowerCut):
        train(data, tmp_path / "cut", config, cut_after(1), augment=GOOD)
    with pytest.raises(PartError):
        resume(tmp_path / "cut", augment=A.Compose([A.HorizontalFlip()]))
    resume(tmp_path / "cut")
    resume(tmp_path / "cut", augment=GOOD)
    whole, cut = (load_file(tmp_path / run / "best.safetensors") for run in ("whole", "cut"))
    assert all(torch.equal(whole[name], cut[name]) for name in whole)


@pytest.fixture
def here(tmp_path: Path, draw: Draw, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A current folder with data, a file of transforms, and the user's module."""
    draw(tmp_path / "data", 8)
    A.save(GOOD, tmp_path / "mine.yaml", data_format="yaml")
    A.save(GOOD, tmp_path / "mine.json", data_format="json")
    (tmp_path / "my_augment.py").write_text(
        "import albumentations as A\n"
        "class Negative(A.ImageOnlyTransform):\n"
        "    def apply(self, img, **params):\n"
        "        return 255 - img\n"
        "    def get_transform_init_args_names(self):\n"
        "        return ()\n"
        "transforms = A.Compose([A.HorizontalFlip(), Negative(p=0.5)])\n"
    )
    monkeypatch.chdir(tmp_path)
    before = list(sys.path)
    yield tmp_path
    sys.path[:] = before
    sys.modules.pop("my_augment", None)


FLAGS = (
    *("--epochs", "1", "--size", "32", "40", "--batch-size", "4", "--base-channels", "2"),
    *("--depth", "2", "--device", "cpu", "--precision", "fp32"),
)


def command(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    monkeypatch.setattr(sys, "argv", ["plainunet", *words])
    return _run()


@pytest.mark.parametrize(
    "name",
    [
        *(pytest.param(f"mine.{kind}", marks=pytest.mark.slow) for kind in ("yaml", "json")),
        "my_augment:transforms",
    ],
)
def test_files_and_names_from_the_command_line(
    name: str, here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("train", "data", "--out", "run", "--augment", name, *FLAGS, "--workers", "1")
    assert command(monkeypatch, *words) == 0
    assert load_config(here / "run" / "config.toml").augment == name
    assert json.loads((here / "run" / "augment.json").read_text())["transform"]
    for file in here.glob("mine.*"):
        file.unlink()  # the run folder has its own
    sys.modules.pop("my_augment", None)
    is_file = name.startswith("mine")
    if name == "mine.yaml":
        words = ("train", "data", "--out", "again", "--config", "run/config.toml")
        assert command(monkeypatch, *words) == 0
        one, other = (Path(run, "augment.json").read_text() for run in ("run", "again"))
        assert one == other
    assert command(monkeypatch, "train", "--resume", "run") == (0 if is_file else 2)
    if not is_file:
        assert name in capsys.readouterr().err
        assert command(monkeypatch, "train", "--resume", "run", "--augment", name) == 0


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("no.yaml", None),
        ("list.yaml", "[1, 2]"),
        ("broken.json", "{"),
        ("unknown.yaml", "transform: {__class_fullname__: TurnAround, p: 1.0}"),
        ("code.yaml", "!!python/object/apply:os.system ['true']"),
    ],
)
def test_other_files_are_refused(
    file: str, text: str | None, here: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    if text:
        (here / file).write_text(text)
    assert command(monkeypatch, "train", "data", "--out", "run", "--augment", file, *FLAGS) == 2
    err = capsys.readouterr().err
    assert err.startswith(f"error: {file}")
    assert len(err.splitlines()) == 1


def test_a_file_need_not_have_long_names(tmp_path: Path) -> None:
    path = tmp_path / "short.yml"
    path.write_text("transform: {__class_fullname__: HorizontalFlip, p: 1.0}\n")
    image = np.arange(32 * 40 * 3, dtype=np.uint8).reshape(32, 40, 3)
    result, moved = OwnAugment(load_augment(path), 3)(image, shares(), (0, 0, 0))
    assert (result == image[:, ::-1]).all()
    assert moved[13, 40 - 15, 2] == 255


@pytest.mark.parametrize(
    "words",
    [(), ("--augment", "mine.yaml"), ("--patch", "16", "24"), ("--budget", "10m")],
)
def test_the_contact_sheet_shows_images_and_masks(
    words: tuple[str, ...], here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert command(monkeypatch, "augment", "data", "--out", "sheet.png", *words) == 0
    with Image.open(here / "sheet.png") as sheet:
        width, height = sheet.size
        assert sheet.mode == "RGB"
    assert width == 6 * 224
    assert height == 12 * (round(220 * (16 / 24 if "--patch" in words else 1)) + 4)
    assert not list(here.glob("*.toml"))


def test_the_sheet_is_the_same_every_time(draw: Draw, tiny: TrainConfig, tmp_path: Path) -> None:
    data = draw(tmp_path / "data", 4)
    for name in ("a.png", "b.png"):
        draw_sheet(data, tmp_path / name, tiny, augment=GOOD)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    with pytest.raises(PartError):
        draw_sheet(data, tmp_path / "c.png", tiny, augment=ByFloats(p=1))
    assert not (tmp_path / "c.png").exists()
