"""`predict --save gpkg`: masks as polygons that cover the image without gaps."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from plainunet.config import Output
from plainunet.formats.masks import read_mask
from plainunet.prediction.geo import Georeference, write_polygons
from plainunet.prediction.predict import predict_files

from ..models import make_predictor
from ..scenes import LEFT, PIXEL, TOP, UTM, draw_scene, write_raster

pyogrio = pytest.importorskip("pyogrio", reason="pip install plainunet[geo]")
shapely = pytest.importorskip("shapely")

NAMES = ("background", "house", "pool")
GEO = Georeference([], (PIXEL, 0, LEFT, 0, -PIXEL, TOP), 32632)


def read(path: Path) -> tuple[Any, dict[str, Any], Any]:
    """The polygons of a file, its columns, and its coordinate system."""
    meta, _, shapes, values = pyogrio.raw.read(path)
    return shapely.from_wkb(shapes), dict(zip(meta["fields"], values, strict=True)), meta["crs"]


def noisy_mask() -> np.ndarray:
    mask = draw_scene(200).mask.copy()
    mask[np.random.default_rng(0).random(mask.shape) < 0.02] = 2
    mask[150:, :20] = 255
    return mask


@pytest.mark.parametrize("min_area", [0, 12])
def test_without_gaps(tmp_path: Path, min_area: int) -> None:
    mask = noisy_mask()
    write_polygons(tmp_path / "a.gpkg", mask, NAMES, GEO, min_area)
    shapes, columns, crs = read(tmp_path / "a.gpkg")
    assert crs == UTM
    valid = int((mask != 255).sum())
    pixels = shapely.area(shapes) / PIXEL**2
    np.testing.assert_allclose(pixels, columns["area"])
    assert columns["area"].sum() == valid
    assert shapely.area(shapely.union_all(shapes)) / PIXEL**2 == pytest.approx(valid)
    assert shapely.is_valid(shapes).all()
    by_class = np.bincount(columns["class_id"], columns["area"]).astype(int).tolist()
    assert [NAMES[number] for number in columns["class_id"]] == columns["class"].tolist()
    if min_area:
        assert columns["area"].min() >= min_area
    else:
        assert by_class == [int((mask == number).sum()) for number in range(3)]
    assert not list(tmp_path.glob(".*"))


def test_without_coordinates_or_data(tmp_path: Path) -> None:
    mask = np.zeros((4, 6), np.uint8)
    mask[1, 2:4] = 1
    write_polygons(tmp_path / "a.gpkg", mask, NAMES)
    shapes, columns, _ = read(tmp_path / "a.gpkg")
    assert shapes[columns["class_id"] == 1][0].bounds == (2, 1, 4, 2)
    write_polygons(tmp_path / "b.gpkg", np.full((4, 6), 255, np.uint8), NAMES)
    assert len(read(tmp_path / "b.gpkg")[0]) == 0
    with pytest.raises(ValueError, match="24 pixels"):
        write_polygons(tmp_path / "c.gpkg", mask, NAMES, min_area=24)
    assert not (tmp_path / "c.gpkg").exists()


@pytest.mark.parametrize("is_large", [False, True])
def test_predict(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_large: bool) -> None:
    image = write_raster(tmp_path / "in" / "a.tif", draw_scene(120, houses=4).image)
    if is_large:
        monkeypatch.setattr("plainunet.prediction.predict.LARGE", 5000)
    out = tmp_path / "out"
    saved: list[Output] = ["gpkg"]
    predict_files(make_predictor(), [image], out, saved)
    shapes, columns, crs = read(out / "gpkg" / "a.gpkg")
    assert crs == UTM
    assert columns["area"].sum() == 120 * 120
    mask = read_mask(out / "a.tif")
    areas = np.bincount(columns["class_id"], columns["area"])
    np.testing.assert_array_equal(areas, np.bincount(mask.ravel()))
    assert shapely.total_bounds(shapes).tolist() == [LEFT, TOP - 60, LEFT + 60, TOP]
    (out / "gpkg" / "a.gpkg").unlink()
    predict_files(make_predictor(), [image], out, saved, overwrite=False, min_area=6)
    merged = read(out / "gpkg" / "a.gpkg")[1]["area"]
    assert merged.sum() == 120 * 120
    assert merged.min() >= 6 > columns["area"].min()
    before = (out / "gpkg" / "a.gpkg").read_bytes()
    with pytest.raises(ValueError, match="--min-area 6"):
        predict_files(make_predictor(), [image], out, ["gpkg", "areas"], overwrite=False)
    with pytest.raises(ValueError, match="--save gpkg"):
        predict_files(make_predictor(), [image], out, ["areas"], min_area=6)
    again = predict_files(make_predictor(), [image], out, ["areas"], overwrite=False)
    assert (again.skipped, before) == ([out / "a.tif"], (out / "gpkg" / "a.gpkg").read_bytes())
    predict_files(make_predictor(), [image], out, saved, min_area=50)
    assert read(out / "gpkg" / "a.gpkg")[1]["area"].min() >= 50
