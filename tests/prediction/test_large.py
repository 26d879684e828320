"""Masks in parts against masks of whole pictures; and one that is interrupted."""

import dataclasses
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image

from plainunet.dataset.coding import read_mask
from plainunet.formats.images import read_image
from plainunet.formats.windows import open_windows
from plainunet.network.checkpoint import Card, save_checkpoint
from plainunet.network.unet import UNet
from plainunet.prediction.drawing import write_tiff_mask
from plainunet.prediction.geo import read_geo
from plainunet.prediction.predict import count_large, predict_large
from plainunet.prediction.predictor import Predictor

COLORS = ((0, 0, 0), (255, 10, 20), (30, 40, 250))
MEMORY = 40 * 2**20


def blobs(height: int, width: int) -> np.ndarray:
    """Squares of light, of 20 pixels."""
    noise = np.random.default_rng(0).random((height // 20, width // 20, 3))
    return (255 * np.kron(noise, np.ones((20, 20, 1)))).astype(np.uint8)


def make_predictor(
    classes: int = 3, memory: float | None = MEMORY, factor: float = 1.0
) -> Predictor:
    """A network that has learnt nothing, but gives each class somewhere in `blobs`."""
    torch.manual_seed(0)
    network = UNet(num_classes=classes, base_channels=4, depth=3)
    seen = torch.from_numpy(blobs(200, 300)).permute(2, 0, 1)[None] / 255
    with torch.no_grad():
        for _ in range(20):
            network(seen)
        logits = network.eval()(seen)
        network.head.bias -= logits.mean(dim=(0, 2, 3))
    card = Card(("ground", "leaf", "stone")[:classes], COLORS[:classes], size=None)
    card = dataclasses.replace(card, factor=factor)
    return Predictor(network, card, device="cpu", precision="fp32", memory=memory)


def draw(path: Path, height: int = 700, width: int = 900, **options: object) -> Path:
    image = blobs(height, width)
    tifffile.imwrite(path, image, tile=(64, 64), photometric="rgb", **options)
    return path


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("factor", [1.0, 0.6])
def test_in_parts_it_is_nearly_the_mask_of_the_whole(
    tmp_path: Path, classes: int, factor: float
) -> None:
    path = draw(tmp_path / "a.tif")
    whole = make_predictor(classes, None, factor).predict(read_image(path))
    assert len(np.unique(whole)) == classes
    shapes = []
    predictor = make_predictor(classes, factor=factor)
    predictor.network.register_forward_hook(lambda _, inputs, __: shapes.append(inputs[0].shape))
    told: list[tuple[int, int]] = []
    with open_windows(path, most=0) as picture:
        predict_large(predictor, picture, tmp_path / "m.tif", "", lambda *said: told.append(said))
    assert len(shapes) >= 4
    mask = read_mask(tmp_path / "m.tif")
    assert mask.shape == whole.shape
    assert (mask != whole).mean() < 0.01
    assert told[-1] == (700, 700)
    assert len(told) >= 2
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a.tif", "m.tif"]


def test_the_mask_is_a_tiled_palette_tiff(tmp_path: Path) -> None:
    mask = np.random.default_rng(0).integers(0, 3, (700, 1100), dtype=np.uint8)
    write_tiff_mask(tmp_path / "m.tif", mask, COLORS)
    with Image.open(tmp_path / "m.tif") as picture:
        assert picture.mode == "P"
        assert np.array_equal(np.asarray(picture), mask)
        assert np.array_equal(np.asarray(picture.convert("RGB")), np.array(COLORS)[mask])
    with tifffile.TiffFile(tmp_path / "m.tif") as file:
        assert file.pages.first.is_tiled
        assert file.filehandle.size < mask.size / 2


def test_coordinates_of_a_geotiff_stay(tmp_path: Path) -> None:
    tags = [
        (33550, 12, 3, (0.5, 0.5, 0.0), True),
        (33922, 12, 6, (0.0, 0.0, 0.0, 440720.0, 3751320.0, 0.0), True),
        (34735, 3, 8, (1, 1, 0, 1, 3072, 0, 1, 32633), True),
        (34737, 2, 12, "WGS 84 / UTM", True),
    ]
    path = draw(tmp_path / "a.tif", extratags=tags)
    with open_windows(path, most=0) as picture:
        counts = predict_large(make_predictor(), picture, tmp_path / "m.tif", "")
        place = read_geo(picture.page)
    assert place is not None
    wanted = [(code, value) for code, _, _, value, _ in place.tags]
    ids = read_mask(tmp_path / "m.tif")
    assert counts.tolist() == np.bincount(ids.ravel(), minlength=3).tolist()
    assert count_large(tmp_path / "m.tif", 3).tolist() == counts.tolist()
    assert [code for code, _ in wanted] == [33550, 33922, 34735, 34737]
    with tifffile.TiffFile(tmp_path / "m.tif") as file:
        found = [(code, file.pages.first.tags[code].value) for code, _ in wanted]
        assert file.pages.first.is_geotiff
    assert found == wanted


PREDICTING = """
import sys, time
from pathlib import Path
from plainunet.formats.windows import open_windows
from plainunet.prediction.predict import predict_large
from plainunet.prediction.predictor import Predictor
from plainunet.prediction.drawing import write_tiff_mask
predictor = Predictor.load(sys.argv[1], device="cpu", precision="fp32", memory=float(sys.argv[4]))
def slowly(done, total):
    print(done, flush=True)
    time.sleep(0.3)
with open_windows(Path(sys.argv[2]), most=0) as picture:
    predict_large(predictor, picture, Path(sys.argv[3]), sys.argv[5], slowly)
"""


def test_a_killed_one_goes_on_where_it_was(tmp_path: Path) -> None:
    path = draw(tmp_path / "a.tif")
    predictor = make_predictor()
    save_checkpoint(tmp_path / "model.safetensors", predictor.network, predictor.card)
    with open_windows(path, most=0) as picture:
        predict_large(predictor, picture, tmp_path / "whole.tif", "same")

    def start(key: str) -> subprocess.Popen[str]:
        words = [tmp_path / "model.safetensors", path, tmp_path / "m.tif", MEMORY, key]
        return subprocess.Popen(
            [sys.executable, "-c", PREDICTING, *map(str, words)], stdout=subprocess.PIPE, text=True
        )

    process = start("same")
    assert process.stdout is not None
    first = [int(process.stdout.readline()) for _ in range(2)]
    process.kill()
    process.communicate()
    assert not (tmp_path / "m.tif").exists()
    for key, begins in (("same", True), ("other", False)):
        process = start(key)
        assert process.stdout is not None
        row = int(process.stdout.readline())
        assert (row > first[-1]) == begins
        if begins:
            out, _ = process.communicate(timeout=60)
            assert process.returncode == 0, out
            assert (tmp_path / "m.tif").read_bytes() == (tmp_path / "whole.tif").read_bytes()
        else:  # what was begun with another key is begun anew
            process.kill()
            process.communicate()


def test_a_full_disk_is_said_and_it_goes_on(tmp_path: Path, small_disk: Path) -> None:
    path = draw(tmp_path / "a.tif", 1500, 1800)  # a byte for each pixel is more than is there
    mask, filler = small_disk / "m.tif", small_disk / "filler"
    filler.write_bytes(bytes(2**20))
    with (
        open_windows(path, most=0) as picture,
        pytest.raises(OSError, match=r"m\.tif: cannot be written \(No space left.*goes on where"),
    ):
        predict_large(make_predictor(), picture, mask, "")
    assert not mask.exists()
    assert 0 < (small_disk / ".m-rows.raw").stat().st_size < 1500 * 1800
