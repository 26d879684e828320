"""Predictions that are kept for the page: masks at any threshold, areas, downloads, limits."""

import io
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from PIL import Image

from plainunet.demo import draw_scene
from plainunet.deployment.batching import Model, Predicted
from plainunet.deployment.results import STEPS, Result, Results, View, write_zip
from plainunet.deployment.uploads import RefusedError, Upload, count_pages, decode, measure
from plainunet.formats.colors import IGNORED
from plainunet.formats.sources import Page, files_of
from plainunet.prediction.drawing import write_rgb
from plainunet.prediction.predictor import Predictor

from ..models import make_predictor

SIZE = (48, 64)


def keep(folder: Path, predictor: Predictor, name: str = "a.png", seed: int = 0) -> Result:
    """Predict an image and keep it, as the page does."""
    own = folder / name / "0"
    own.mkdir(parents=True)
    upload = Upload(own / "image", name)
    write_rgb(upload.path, draw_scene(np.random.default_rng(seed), SIZE)[0])
    decoded = decode(measure(upload, 10_000), predictor, True)
    assert decoded.image is not None
    probabilities = predictor.probabilities(decoded.image)
    two = len(probabilities) == 2
    mask = predictor.predict(decoded.image)
    predicted = Predicted(mask, probabilities[1:] if two else None, Model.of(predictor))
    return Result.of(upload, decoded, predicted)


def decoded(data: bytes) -> NDArray[Any]:
    return np.array(Image.open(io.BytesIO(data)))


def test_mask_at_a_threshold(tmp_path: Path) -> None:
    predictor = make_predictor(2, threshold=0.4)
    result = keep(tmp_path, predictor)
    probabilities = predictor.probabilities(np.array(Image.open(files_of(result.source)[0])))[1]
    assert result.mask_at(0.4) is result.mask
    for step in (1, 30, 41, 75, STEPS - 1):
        mask = result.mask_at(step / STEPS)
        # 32-bit products may round to the next step
        near = np.abs(probabilities * STEPS - step) < 1e-3
        assert ((mask == (probabilities * STEPS >= step)) | near).all()
    assert result.mask_at(0.3).sum() > result.mask.sum() > result.mask_at(0.6).sum()


def test_masks_are_cleaned_as_by_predict(tmp_path: Path) -> None:
    raw = keep(tmp_path, make_predictor(2), "raw.png")
    predictor = make_predictor(2, min_object=30, fill_holes=30)
    mask = keep(tmp_path, predictor, "clean.png").mask_at(0.6)
    assert (mask != raw.mask_at(0.6)).any()
    np.testing.assert_array_equal(mask, predictor.clean(raw.mask_at(0.6)))


def test_more_classes_have_no_threshold(tmp_path: Path) -> None:
    result = keep(tmp_path, make_predictor(3))
    assert result.levels is None
    assert result.mask_at(0.9) is result.mask


def test_areas_and_layers(tmp_path: Path) -> None:
    predictor = make_predictor(3)
    result = keep(tmp_path, predictor)
    mask = result.mask.copy()
    mask[:3] = IGNORED
    areas = result.areas(mask)
    assert [area.name for area in areas] == ["0", "1", "2", "missing"]
    assert [area.pixels for area in areas] == [*np.bincount(mask[3:].ravel()), 3 * SIZE[1]]
    assert {area.total for area in areas} == {mask.size}
    layers = result.layers(mask)
    assert set(layers) == {"fill", "edge"}
    kinds, encoded = zip(*(url.split(",") for url in layers.values()), strict=True)
    assert set(kinds) == {"data:image/png;base64"}
    assert len(encoded[0]) > 100


def test_overlay_has_the_opacity_of_the_page(tmp_path: Path) -> None:
    result = keep(tmp_path, make_predictor(3))
    drawn = [decoded(result.encode("overlay", View(0.5, opacity))) for opacity in (0, 0.5, 1)]
    assert {image.shape for image in drawn} == {(*SIZE, 3)}
    change = [np.abs(image.astype(int) - drawn[0]).mean() for image in drawn]
    assert change[0] < change[1] < change[2]


def test_zip_of_images_with_one_name(tmp_path: Path) -> None:
    predictor = make_predictor(2)
    results = [keep(tmp_path / str(seed), predictor, seed=seed) for seed in range(3)]
    write_zip(tmp_path / "all.zip", results, View(0.5))
    assert sorted(path.name for path in tmp_path.glob("*.*")) == ["all.zip"]
    with zipfile.ZipFile(tmp_path / "all.zip") as archive:
        names = archive.namelist()
        assert names[::3] == ["a.png", "a-2.png", "a-3.png", "areas.csv"]
        assert len(set(names)) == len(names)
        for name, result in zip(names[::3], results, strict=False):
            np.testing.assert_array_equal(decoded(archive.read(name)), result.mask)
        assert len(archive.read("areas.csv").splitlines()) == 7


def test_oldest_results_are_forgotten(tmp_path: Path) -> None:
    predictor = make_predictor(2)
    results = [keep(tmp_path, predictor, f"{seed}.png", seed) for seed in range(3)]
    files = [files_of(result.source)[0] for result in results]
    kept = Results(2 * max(SIZE[0] * SIZE[1], *(file.stat().st_size for file in files)))
    first, second = kept.add(results[0]), kept.add(results[1])
    assert kept.get(first) is results[0]
    third = kept.add(results[2])  # the second was used least recently
    assert kept.get(first) is results[0]
    assert kept.get(third) is results[2]
    with pytest.raises(RefusedError) as caught:
        kept.get(second)
    assert caught.value.code == "forgotten"
    assert [file.exists() for file in files] == [True, False, True]
    with pytest.raises(RefusedError):
        results[1].encode("overlay", View(0.5))
    kept.forget([first, third, "unknown"])
    assert not any(file.exists() for file in files)
    assert len({first, second, third}) == 3


def test_of_images_beyond_the_limit_the_first_are_kept(tmp_path: Path) -> None:
    predictor = make_predictor(3)
    first, *others = (keep(tmp_path, predictor, f"{seed}.png", seed) for seed in range(4))
    bad = RefusedError(415, "not-an-image", "No image.")
    sizes = [files_of(each.source)[0].stat().st_size for each in (first, *others)]
    kept = Results(2 * max(SIZE[0] * SIZE[1], *sizes))
    former = kept.add(first)
    names = kept.add_all([others[0], bad, others[1], others[2]])
    assert names[1] is bad
    for name, result in zip((names[0], names[2]), others, strict=False):
        assert isinstance(name, str)
        assert kept.get(name) is result
    left_out = names[3]
    assert isinstance(left_out, RefusedError)
    assert "fewer" in left_out.message
    assert not files_of(others[2].source)[0].exists()
    with pytest.raises(RefusedError):
        kept.get(former)


def test_an_image_larger_than_the_limit_is_kept_alone(tmp_path: Path) -> None:
    kept = Results(1)
    result = keep(tmp_path, make_predictor(2))
    assert kept.get(kept.add(result)) is result


def test_files_count_by_their_bytes_and_links_to_one_file_once(tmp_path: Path) -> None:
    predictor = make_predictor(2)
    results = [keep(tmp_path, predictor, f"{seed}.png", seed) for seed in range(3)]
    with files_of(results[0].source)[0].open("ab") as file:
        file.write(bytes(100_000))
    for result in results[1:]:  # as pages of one file
        (path,) = files_of(result.source)
        path.unlink()
        path.hardlink_to(files_of(results[0].source)[0])
    roomy, narrow = Results(150_000), Results(50_000)
    names = [roomy.add(result) for result in results]
    assert [roomy.get(name) for name in names] == results
    names = [narrow.add(result) for result in results[:2]]
    with pytest.raises(RefusedError):
        narrow.get(names[0])


def test_a_jpeg_of_which_the_network_needs_less_is_shown_whole(tmp_path: Path) -> None:
    predictor = make_predictor(2, size=SIZE)
    upload = Upload(tmp_path / "a" / "0" / "image", "a.jpg")
    upload.path.parent.mkdir(parents=True)
    image, _ = draw_scene(np.random.default_rng(0), (8 * SIZE[0], 8 * SIZE[1]))
    Image.fromarray(image).save(upload.path, "JPEG")
    read = decode(measure(upload, 1_000_000), predictor, False)
    assert read.image is None
    assert read.whole is not None
    mask = np.concatenate(list(predictor.mask_bands(read.whole)))
    result = Result.of(upload, read, Predicted(mask, None, Model.of(predictor)))
    assert result.size == mask.shape == image.shape[:2]
    assert decoded(result.encode("overlay", View(0.5))).shape == image.shape


@pytest.mark.parametrize("count", [1, 3])
def test_pages_of_a_stack_are_counted(tmp_path: Path, count: int) -> None:
    upload = Upload(tmp_path / "image", "a.tif", count - 1)
    pages = np.stack([draw_scene(np.random.default_rng(k), SIZE)[0] for k in range(count)])
    tifffile.imwrite(upload.path, pages, photometric="rgb", metadata=None)
    assert count_pages(upload.path) == count
    source = measure(upload, 10_000).source
    assert isinstance(source, Page)
    assert source.index == count - 1


def test_pages_of_damaged_files(tmp_path: Path) -> None:
    for content in (b"", b"text", b"II*\0", b"II*\0\xff\xff\xff\xff"):
        (tmp_path / "image").write_bytes(content)
        assert count_pages(tmp_path / "image") == 1
