import csv
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from plainunet.evaluation.compare import compare
from plainunet.evaluation.evaluate import evaluate
from plainunet.network.checkpoint import Card, save_checkpoint
from plainunet.network.unet import UNet
from plainunet.palette import default_colors

NAMES = ("background", "leaf", "stone")


def save_model(path: Path, seed: int, names: tuple[str, ...] = NAMES) -> Path:
    torch.manual_seed(seed)
    network = UNet(3, len(names), base_channels=4, depth=2)
    with torch.no_grad():
        for _ in range(10):
            network(torch.rand(2, 3, 32, 48))
        std, mean = torch.std_mean(network.eval()(torch.rand(2, 3, 32, 48)), dim=(0, 2, 3))
        network.head.weight *= 2 / std[:, None, None, None]
        network.head.bias.copy_((network.head.bias - mean) * 2 / std)
    masks = {"values": (0, 1, 2), "ignore": 255, "kind": "ids"}
    save_checkpoint(path, network, Card(names, default_colors(len(names)), None, masks=masks))
    return path


@pytest.fixture
def models(tmp_path: Path) -> tuple[Path, Path]:
    return save_model(tmp_path / "a.safetensors", 1), save_model(tmp_path / "b.safetensors", 2)


def test_differences_are_those_of_both_evaluations(
    models: tuple[Path, Path], draw: Callable[[Path], Path], tmp_path: Path
) -> None:
    data = draw(tmp_path / "data")
    told: set[str] = set()
    result = compare(
        *models, data, device="cpu", on_progress=lambda what, done, total: told.add(what)
    )
    one, two = (evaluate(each, data, device="cpu") for each in models)
    assert told == {str(model) for model in models}
    assert (result["pictures"], result["groups"], result["split"]) == (10, 10, "all")
    for way in ("pooled", "per_image"):
        for name in ("dice", "iou", "precision", "recall"):
            said = result["scores"][way][name]
            assert said["first"] == pytest.approx(one[way][name]["mean_foreground"])
            assert said["second"] == pytest.approx(two[way][name]["mean_foreground"])
            assert said["difference"] == pytest.approx(said["second"] - said["first"])
            low, high = said["interval"]
            assert low < said["difference"] < high
            assert 0 <= said["better"] <= 1
        assert result["scores"][way]["accuracy"]["first"] == pytest.approx(one[way]["accuracy"])
    by_image = {each["image"]: each["dice"]["mean_foreground"] for each in one["images"]}
    assert all(each["first"] == by_image[each["image"]] for each in result["images"])
    off = [abs(each["difference"]) for each in result["images"]]
    assert off == sorted(off, reverse=True)


def test_a_model_differs_from_itself_by_nothing(
    models: tuple[Path, Path], draw: Callable[[Path], Path], tmp_path: Path
) -> None:
    said = compare(models[0], models[0], draw(tmp_path / "data"), device="cpu")["scores"]
    for way in said.values():
        for each in way.values():
            assert (each["difference"], each["interval"], each["better"]) == (0, [0, 0], 0)


def test_pairing_makes_the_interval_narrow(
    models: tuple[Path, Path], draw: Callable[[Path], Path], tmp_path: Path
) -> None:
    """Narrower than those of the two scores together, since both see the same pictures."""
    data = draw(tmp_path / "data")
    low, high = compare(*models, data, device="cpu")["scores"]["per_image"]["dice"]["interval"]
    width = 0.0
    for each in models:
        bounds = evaluate(each, data, device="cpu")["intervals"]["per_image"]["dice"]
        width += bounds["mean_foreground"][1] - bounds["mean_foreground"][0]
    assert 0 < high - low < width


def test_the_pictures_in_which_they_differ_most_are_drawn(
    models: tuple[Path, Path], draw: Callable[[Path], Path], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    result = compare(*models, draw(tmp_path / "data"), out=out, device="cpu")
    with (out / "images.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["image"] for row in rows] == [each["image"] for each in result["images"]]
    files = sorted(out.glob("*.png"))
    assert [file.name[3:-4] for file in files] == [Path(row["image"]).stem for row in rows]
    with Image.open(files[0]) as picture:
        rows_of = np.asarray(picture)
    half = (rows_of.shape[0] - 8) // 2
    assert rows_of.shape[0] == 2 * half + 8
    upper, lower = rows_of[:half], rows_of[half + 8 :]
    panel = (rows_of.shape[1] - 12) // 4
    np.testing.assert_array_equal(upper[:, :panel], lower[:, :panel])  # the picture itself
    assert (upper[:, 2 * panel + 8 :] != lower[:, 2 * panel + 8 :]).any()
    with pytest.raises(ValueError, match="is not empty"):
        compare(*models, tmp_path / "data", out=out)


def test_what_cannot_be_compared_is_refused(
    models: tuple[Path, Path], draw: Callable[[Path], Path], tmp_path: Path
) -> None:
    data = draw(tmp_path / "data")
    other = save_model(tmp_path / "c.safetensors", 3, ("background", "leaf", "rock"))
    with pytest.raises(ValueError, match=r"different classes: .*a.safetensors background, leaf, s"):
        compare(models[0], other, data)
    shutil.rmtree(data / "masks")
    with pytest.raises(FileNotFoundError):
        compare(*models, data)
