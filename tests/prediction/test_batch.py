import dataclasses
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image

from plainunet.dataset.coding import read_mask
from plainunet.dataset.lists import find_images
from plainunet.formats.windows import Windows
from plainunet.network.checkpoint import Card
from plainunet.network.unet import UNet
from plainunet.prediction.predict import predict_files
from plainunet.prediction.predictor import Predictor

COLORS = ((0, 0, 0), (255, 10, 20), (30, 40, 250))


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    torch.manual_seed(0)
    network = UNet(num_classes=3, base_channels=2, depth=2)
    with torch.no_grad():
        std, mean = torch.std_mean(network.eval()(torch.rand(2, 3, 32, 32)), dim=(0, 2, 3))
        network.head.weight /= std[:, None, None, None]  # so that every class occurs
        network.head.bias.copy_((network.head.bias - mean) / std)
    card = Card(("ground", "leaf", "stone"), COLORS, size=(32, 32))
    return Predictor(network, card, device="cpu", precision="fp32")


def draw(path: Path, height: int = 20, width: int = 30) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(len(path.name)).integers(0, 256, (height, width, 3), np.uint8)
    Image.fromarray(noise).save(path)
    return path


def below(folder: Path) -> set[str]:
    """All files below a folder but the record, hidden ones too."""
    files = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    return files - {"prediction.json"}


def test_masks_are_written_in_their_own_size(tmp_path: Path, predictor: Predictor) -> None:
    images = [draw(tmp_path / "in" / "a.png"), draw(tmp_path / "in" / "b.jpg", 50, 40)]
    progress: list[tuple[int, int]] = []
    out = tmp_path / "new" / "out"
    written, failures, _ = predict_files(
        predictor, images, out, lambda done, total: progress.append((done, total))
    )
    assert failures == []
    assert written == [out / "a.png", out / "b.png"]
    assert below(out) == {"a.png", "b.png"}
    assert progress == [(1, 2), (2, 2)]
    for path, size in zip(written, [(20, 30), (50, 40)], strict=True):
        assert read_mask(path).shape == size
    with Image.open(images[0]) as picture:
        image = np.asarray(picture)
    assert np.array_equal(read_mask(written[0]), predictor.predict(image))
    with Image.open(written[0]) as picture:
        palette = picture.getpalette()
    assert palette is not None
    assert palette[:9] == [value for color in COLORS for value in color]


def test_bad_files_are_named_and_the_others_written(tmp_path: Path, predictor: Predictor) -> None:
    folder = tmp_path / "in"
    images = [draw(folder / f"{name}.png") for name in "abcde"]
    images[0].write_bytes(b"")
    images[1].write_bytes(images[1].read_bytes()[:-40])
    images[2].unlink()
    Image.fromarray(np.zeros((5, 5, 4), np.uint8)).save(images[3])
    progress: list[int] = []
    written, failures, _ = predict_files(
        predictor, images, tmp_path / "out", lambda done, _: progress.append(done)
    )
    assert written == [tmp_path / "out" / "e.png"]
    assert below(tmp_path / "out") == {"e.png"}
    assert len(failures) == 4
    for image, failure in zip(images, failures, strict=False):
        assert failure.count(str(image)) == 1
    assert progress == [1, 2, 3, 4, 5]


def test_wrong_channels_are_named(tmp_path: Path, predictor: Predictor) -> None:
    network = UNet(in_channels=1, num_classes=3, base_channels=2, depth=2)
    grey = Predictor(network, predictor.card, device="cpu")
    image = draw(tmp_path / "in" / "a.png")
    written, failures, _ = predict_files(grey, [image], tmp_path / "out")
    assert written == []
    assert failures[0].startswith(f"{image}: the picture has 3 channels")


def test_folder_that_cannot_be_written_to(tmp_path: Path, predictor: Predictor) -> None:
    image = draw(tmp_path / "a.png")
    with pytest.raises(ValueError, match="cannot be written to"):
        predict_files(predictor, [image], image / "out")


def test_no_pictures(tmp_path: Path, predictor: Predictor) -> None:
    assert predict_files(predictor, [], tmp_path) == ([], [], [])


def test_equal_stems_keep_their_folders(tmp_path: Path, predictor: Predictor) -> None:
    for name in ("in/one/a.png", "in/two/a.png", "in/two/deep/a.png", "in/two/b.png"):
        draw(tmp_path / name)
    images = find_images([tmp_path / "in"])
    written, failures, _ = predict_files(predictor, images, tmp_path / "out")
    assert failures == []
    assert len(written) == 4
    assert below(tmp_path / "out") == {"one/a.png", "two/a.png", "two/deep/a.png", "b.png"}


def test_one_stem_in_two_formats(tmp_path: Path, predictor: Predictor) -> None:
    sizes = {"a.jpg": (20, 30), "a.png": (24, 36), "b.png": (28, 40)}
    for name, size in sizes.items():
        draw(tmp_path / "in" / name, *size)
    predict_files(predictor, find_images([tmp_path / "in"]), tmp_path / "out")
    assert below(tmp_path / "out") == {"a.jpg.png", "a.png.png", "b.png"}
    for name, size in sizes.items():
        path = tmp_path / "out" / (name if name == "b.png" else f"{name}.png")
        assert read_mask(path).shape == size


def test_relative_paths(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, predictor: Predictor
) -> None:
    draw(tmp_path / "x" / "a.png")
    draw(tmp_path / "y" / "a.png")
    monkeypatch.chdir(tmp_path / "x")
    result = predict_files(predictor, [Path("a.png"), Path("../y/a.png")], Path("../out"))
    assert len(result.written) == 2
    assert below(tmp_path / "out") == {"x/a.png", "y/a.png"}


def test_pictures_are_not_overwritten_by_their_masks(tmp_path: Path, predictor: Predictor) -> None:
    """With the pictures' own folder as output, `a.png` would be both."""
    image = draw(tmp_path / "a.png")
    before = image.read_bytes()
    try:
        predict_files(predictor, [image], tmp_path)
    except ValueError as error:
        message = str(error)
    else:
        message = str(image)
    assert str(image) in message
    assert image.read_bytes() == before


def test_masks_do_not_land_among_the_pictures(tmp_path: Path, predictor: Predictor) -> None:
    image = draw(tmp_path / "a.jpg")
    with pytest.raises(ValueError, match=r"holds the pictures.*another output folder"):
        predict_files(predictor, [image], tmp_path)
    assert below(tmp_path) == {"a.jpg"}


def test_a_warning_names_its_picture(tmp_path: Path, predictor: Predictor) -> None:
    card = dataclasses.replace(predictor.card, training={"areas": [10**6, 10**6]})
    far = Predictor(predictor.network, card, device="cpu")
    with pytest.warns(UserWarning, match=r"a\.jpg: a picture of 20 x 30 pixels"):
        predict_files(far, [draw(tmp_path / "a.jpg")], tmp_path / "masks")


def test_masks_that_are_there_are_left_unless_they_shall_be_made_again(
    tmp_path: Path, predictor: Predictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = [draw(tmp_path / "in" / f"{name}.png") for name in "abc"]
    out = tmp_path / "out"
    predict_files(predictor, images[:2], out)
    images[0].unlink()  # of what is done, not even the picture is needed
    kept = (out / "b.png").read_bytes()
    seen: list[int] = []
    mask_bands = Predictor.mask_bands

    def counted(self: Predictor, picture: Windows) -> Iterator[np.ndarray]:
        seen.append(1)
        return mask_bands(self, picture)

    monkeypatch.setattr(Predictor, "mask_bands", counted)
    result = predict_files(predictor, images, out, overwrite=False)
    assert result == ([out / "c.png"], [], [out / "a.png", out / "b.png"])
    assert len(seen) == 1
    assert (out / "b.png").read_bytes() == kept
    result = predict_files(predictor, images[1:], out, overwrite=True)
    assert result == ([out / "b.png", out / "c.png"], [], [])
    assert len(seen) == 3


def test_a_large_picture_is_read_in_parts(
    tmp_path: Path, predictor: Predictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("plainunet.prediction.predict.LARGE", 5000)
    small = draw(tmp_path / "in" / "small.png")
    image = np.random.default_rng(0).integers(0, 256, (80, 90, 3), np.uint8)
    large = tmp_path / "in" / "large.tif"
    tifffile.imwrite(large, image, tile=(16, 16), photometric="rgb")
    rows: list[tuple[Path, int, int]] = []
    out = tmp_path / "out"
    result = predict_files(
        predictor, [small, large], out, overwrite=False, on_rows=lambda *said: rows.append(said)
    )
    assert result == ([out / "large.tif", out / "small.png"], [], [])
    assert rows[-1] == (large, 80, 80)
    assert (read_mask(out / "large.tif") != predictor.predict(image)).mean() < 0.01
    again = predict_files(predictor, [small, large], out, overwrite=False)
    assert again == ([], [], [out / "small.png", out / "large.tif"])


def test_lists_hold_all_pictures_even_those_that_were_done(
    tmp_path: Path, predictor: Predictor
) -> None:
    images = [draw(tmp_path / "in" / f"{name}.png") for name in "abc"]
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    predict_files(predictor, images, whole, save=["areas", "coco", "overlay"])
    predict_files(predictor, images[:2], parts, save=["areas", "coco", "overlay"])
    result = predict_files(
        predictor, images, parts, save=["areas", "coco", "overlay"], overwrite=False
    )
    assert [len(part) for part in result] == [1, 0, 2]
    for name in ("areas.csv", "coco.json"):
        assert (parts / name).read_bytes() == (whole / name).read_bytes()
    assert below(whole) == below(parts)


def test_what_is_not_there_yet_is_made(tmp_path: Path, predictor: Predictor) -> None:
    images = [draw(tmp_path / "in" / f"{name}.png") for name in "ab"]
    out = tmp_path / "out"
    predict_files(predictor, images, out)
    result = predict_files(predictor, images, out, save=["overlay"], overwrite=False)
    assert [len(part) for part in result] == [2, 0, 0]
    assert below(out) == {"a.png", "b.png", "overlay/a.jpg", "overlay/b.jpg"}


def test_masks_of_another_model_are_not_left(tmp_path: Path, predictor: Predictor) -> None:
    image, out = draw(tmp_path / "in" / "a.png"), tmp_path / "out"
    predict_files(predictor, [image], out)
    card = dataclasses.replace(predictor.card, min_object=3)
    other = Predictor(predictor.network, card, device="cpu", precision="fp32")
    with pytest.raises(ValueError, match="not made by this model"):
        predict_files(other, [image], out, overwrite=False)
    another = draw(tmp_path / "in" / "b.png")  # nor is one of the folder's record alone
    predict_files(other, [another], out)
    with pytest.raises(ValueError, match=r"a\.png: is there already"):
        predict_files(other, [image, another], out, overwrite=False)
    assert predict_files(other, [image], out).written == [out / "a.png"]
    assert predict_files(other, [image], out, overwrite=False).skipped == [out / "a.png"]


@pytest.mark.parametrize("save", ["probabilities", "probabilities-16", "probabilities-float"])
def test_the_mask_is_the_same_with_probabilities(
    tmp_path: Path, predictor: Predictor, save: str
) -> None:
    image = draw(tmp_path / "in" / "a.png", 50, 70)
    card = dataclasses.replace(predictor.card, min_object=4, fill_holes=4)
    cleaning = Predictor(predictor.network, card, device="cpu", precision="fp32")
    predict_files(cleaning, [image], tmp_path / "1", save=[save])
    predict_files(cleaning, [image], tmp_path / "2")
    masks = [read_mask(tmp_path / name / "a.png") for name in "12"]
    assert np.array_equal(*masks)
    assert len(np.unique(masks[0])) > 1


@pytest.mark.filterwarnings("ignore:Use `@` matmul:PendingDeprecationWarning")
def test_a_geotiff_has_a_geotiff(tmp_path: Path, predictor: Predictor) -> None:
    rasterio = pytest.importorskip("rasterio")
    from rasterio.transform import from_origin

    image = tmp_path / "in" / "a.tif"
    image.parent.mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (3, 40, 60), np.uint8)
    there = from_origin(399999.5, 5000000.25, 0.5, 0.25)
    with rasterio.open(
        image,
        "w",
        driver="GTiff",
        width=60,
        height=40,
        count=3,
        dtype="uint8",
        crs="EPSG:32632",
        transform=there,
    ) as file:
        file.write(pixels)
    out = tmp_path / "out"
    result = predict_files(predictor, [image], out, save=["contours"])
    assert result.written == [out / "a.tif"]
    with rasterio.open(out / "a.tif") as file:
        assert file.crs.to_epsg() == 32632
        assert file.transform == there
        assert np.array_equal(file.read(1), predictor.predict(pixels.transpose(1, 2, 0)))
        assert file.colormap(1)[1][:3] == COLORS[1]
    assert predict_files(predictor, [image], out, overwrite=False).skipped == [out / "a.tif"]


def test_outputs_that_a_large_picture_does_not_have(
    tmp_path: Path, predictor: Predictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("plainunet.prediction.predict.LARGE", 5000)
    image = tmp_path / "in" / "large.tif"
    image.parent.mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (80, 90, 3), np.uint8)
    tifffile.imwrite(image, pixels, tile=(16, 16), photometric="rgb")
    out = tmp_path / "out"
    with pytest.warns(UserWarning, match=r"large\.tif: of more than 5,000 pixels.*not overlay"):
        predict_files(predictor, [image], out, save=["areas", "overlay"])
    assert below(out) == {"large.tif", "areas.csv"}
    said = (out / "areas.csv").read_text()
    counts = np.bincount(read_mask(out / "large.tif").ravel(), minlength=3)
    assert [int(line.split(",")[2]) for line in said.splitlines()[1:]] == counts.tolist()
    card = dataclasses.replace(predictor.card, min_object=3)
    other = Predictor(predictor.network, card, device="cpu", precision="fp32")
    with pytest.warns(UserWarning, match=r"large\.tif: .*its small objects and holes stay"):
        predict_files(other, [image], tmp_path / "other")
    again = predict_files(predictor, [image], out, save=["areas"], overwrite=False)
    assert again.skipped == [out / "large.tif"]
    assert (out / "areas.csv").read_text() == said


def test_another_picture_of_the_same_name_is_not_taken_for_done(
    tmp_path: Path, predictor: Predictor
) -> None:
    one, two = draw(tmp_path / "one" / "a.png"), draw(tmp_path / "two" / "a.png", 50, 40)
    out = tmp_path / "out"
    predict_files(predictor, [one], out)
    with pytest.raises(ValueError, match=r"a\.png: is there already, and was not made from this"):
        predict_files(predictor, [two], out, overwrite=False)
    predict_files(predictor, [two], out)
    assert read_mask(out / "a.png").shape == (50, 40)


def test_two_outputs_of_one_name_are_refused(tmp_path: Path, predictor: Predictor) -> None:
    names = ("in/p.png", "in/values/p.png", "in/x/p.png")
    images = [draw(tmp_path / name) for name in names]
    with pytest.raises(ValueError, match=r"values.p\.png: would be made from"):
        predict_files(predictor, images, tmp_path / "out", save=["values"])
    predict_files(predictor, images, tmp_path / "out")


def test_a_damaged_mask_is_made_again_where_lists_need_it(
    tmp_path: Path, predictor: Predictor
) -> None:
    image, out = draw(tmp_path / "in" / "a.png", 60, 80), tmp_path / "out"
    predict_files(predictor, [image], out, save=["areas"])
    whole = (out / "a.png").read_bytes()
    (out / "a.png").write_bytes(whole[:-30])
    result = predict_files(predictor, [image], out, save=["areas"], overwrite=False)
    assert result.written == [out / "a.png"]
    assert (out / "a.png").read_bytes() == whole
