"""Bulk prediction without Ray: ids, manifests, shards, tar files, URLs, Parquet rows."""

import csv
import io
import os
import sys
import tarfile
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from plainunet.config import BulkOptions
from plainunet.deployment.bulk import BulkJob, BulkResult, is_bulk, predict_bulk
from plainunet.deployment.listing import Listing, list_inputs, parse_shard
from plainunet.network.checkpoint import save_checkpoint
from plainunet.prediction.outputs import Outputs
from plainunet.prediction.predict import find_inputs, predict_files
from plainunet.prediction.predictor import Predictor
from plainunet.reporter import Collected

from ..models import make_card, make_network

CPU = {"backend": "torch", "device": "cpu", "precision": "fp32"}
CLASSES = 3


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "model.safetensors"
    save_checkpoint(path, make_network(CLASSES, base_channels=2), make_card(CLASSES, size=(32, 32)))
    return path


def encoded(seed: int, kind: str = "png") -> bytes:
    """An image of noise."""
    pixels = np.random.default_rng(seed).integers(0, 256, (20 + seed % 3, 30, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind)
    return file.getvalue()


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Seven images, two of which have the same name in different folders."""
    folder = tmp_path / "in"
    for number, name in enumerate(("a", "b", "c", "d", "e", "x/f", "y/f")):
        path = folder / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoded(number))
    return folder


@pytest.fixture
def expected(model: Path, images: Path, tmp_path: Path) -> dict[str, bytes]:
    """What plain prediction of the images writes, by name."""
    out = tmp_path / "plain"
    predict_files(Predictor.load(model, **CPU), find_inputs([images]).images, out)
    return masks(out)


def masks(out: Path) -> dict[str, bytes]:
    return {path.relative_to(out).as_posix(): path.read_bytes() for path in out.rglob("*.png")}


def predict(
    model: Path, out: Path, names: Sequence[str | Path] = (), **options: Any
) -> tuple[BulkResult, Collected]:
    own = {"save", "as_rows", "overwrite"}
    job = BulkJob([model], dict(CPU), out, **{k: v for k, v in options.items() if k in own})
    many = BulkOptions(**{k: v for k, v in options.items() if k not in own})
    reporter = Collected()
    return predict_bulk(job, [str(name) for name in names], many, reporter), reporter


def write_manifest(path: Path, rows: dict[str, object]) -> str:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([("id", "path", "more"), *((*row, 1) for row in rows.items())])
    return str(path)


def errors(result: BulkResult) -> dict[str, tuple[str, str]]:
    with result.errors.open(newline="") as file:
        return {row["id"]: (row["path"], row["error"]) for row in csv.DictReader(file)}


def write_tar(path: Path, members: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def test_shards_together_write_what_one_process_writes(
    model: Path, images: Path, expected: dict[str, bytes], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    counts = [
        predict(model, out, [images], shard=f"{n}/3", batch_size=2)[0].written for n in (1, 2, 3)
    ]
    assert counts == [3, 2, 2]
    assert masks(out) == expected
    result, _ = predict(model, out, [images], batch_size=4)
    assert (result.written, result.skipped, result.exit_code) == (0, 7, 0)
    assert not result.errors.exists()


def test_more_shards_than_inputs(model: Path, images: Path, tmp_path: Path) -> None:
    """As of an array of jobs with a fixed size."""
    results = [
        predict(model, tmp_path / "out", [images], shard=f"{number}/9")[0]
        for number in range(1, 10)
    ]
    assert sum(result.written for result in results) == 7
    assert [result.exit_code for result in results] == [0] * 9


def test_shards_of_a_listing_are_its_parts_in_turns() -> None:
    names = [f"{n}" for n in range(10)]
    whole = Listing(names, names, total=10, size=3)
    assert [len(part.ids) for part in whole.parts()] == [3, 3, 3, 1]
    shards = [Listing(names, names, total=5, shard=(n, 2), size=3) for n in (1, 2)]
    parts = [[*shard.parts()] for shard in shards]
    assert [name for part in parts[0] for name in part.ids] == names[::2]
    assert len({part.name for each in parts for part in each}) == 4
    assert [*whole.parts()] == [*whole.parts()]
    for wrong in ("0/2", "3/2", "1/0", "1", "a/b", "-1/2"):
        with pytest.raises(ValueError, match="shard"):
            parse_shard(wrong)


def test_a_manifest_names_the_masks(
    model: Path, images: Path, expected: dict[str, bytes], tmp_path: Path
) -> None:
    rows = {
        "one": images / "a.png",
        "deep/er/two": (images / "b.png").as_uri(),
        "none": images / "missing.png",
    }
    manifest = write_manifest(tmp_path / "list.csv", rows)
    out = tmp_path / "out"
    result, _ = predict(model, out, manifest=manifest)
    assert (result.written, result.failed, result.exit_code) == (2, 1, 1)
    assert masks(out) == {"one.png": expected["a.png"], "deep/er/two.png": expected["b.png"]}
    assert errors(result)["none"][0] == str(images / "missing.png")
    (images / "missing.png").write_bytes(encoded(9))
    result, _ = predict(model, out, manifest=manifest)
    assert (result.written, result.skipped, result.exit_code) == (1, 2, 0)
    assert not result.errors.exists()


def test_a_mask_of_another_image_is_not_taken_for_its_own(
    model: Path, images: Path, expected: dict[str, bytes], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    predict(model, out, manifest=write_manifest(tmp_path / "1.csv", {"one": images / "a.png"}))
    other = write_manifest(tmp_path / "2.csv", {"one": images / "b.png"})
    result, _ = predict(model, out, manifest=other)
    assert (result.written, result.failed, result.exit_code) == (0, 1, 2)
    assert masks(out) == {"one.png": expected["a.png"]}
    result, _ = predict(model, out, manifest=other, overwrite=True)
    assert (result.written, result.exit_code) == (1, 0)
    assert masks(out) == {"one.png": expected["b.png"]}


@pytest.mark.parametrize(
    "name", ["../a", "/a", "a/../../b", "a//b", "a/", "", "a\0b", "a\nb", "a" * 300]
)
def test_ids_stay_in_the_output_folder(name: str, images: Path, tmp_path: Path) -> None:
    manifest = write_manifest(tmp_path / "list.csv", {name: images / "a.png"})
    with pytest.raises(ValueError, match=r"list\.csv"):
        list_inputs([], manifest, tmp_path / "out", (1, 1), 8)


def test_listings_that_are_wrong(images: Path, tmp_path: Path) -> None:
    def listed(*names: str | Path, manifest: str | None = None) -> Listing:
        return list_inputs([*map(str, names)], manifest, tmp_path / "out", (1, 1), 8)

    twice = tmp_path / "twice.csv"
    twice.write_text("id,path\nthis,a.png\nother,b.png\nthis,c.png\n")
    with pytest.raises(ValueError, match="'this'"):
        listed(manifest=str(twice))
    (tmp_path / "columns.csv").write_text("name,path\na,b\n")
    with pytest.raises(ValueError, match="columns"):
        listed(manifest=str(tmp_path / "columns.csv"))
    (tmp_path / "empty.csv").write_text("id,path\n")
    with pytest.raises(ValueError, match="no inputs"):
        listed(manifest=str(tmp_path / "empty.csv"))
    for call in ((), (images, tmp_path)):
        with pytest.raises(ValueError, match="--manifest"):
            listed(*call, manifest=str(twice) if call else None)
    with pytest.raises(FileNotFoundError):
        listed(tmp_path / "none.tar")
    (tmp_path / "film.mp4").write_bytes(b"")
    with pytest.raises(ValueError, match=r"film\.mp4"):
        listed(tmp_path / "film.mp4")
    (tmp_path / "nothing").mkdir()
    with pytest.raises(ValueError, match="nothing"):
        listed(tmp_path / "nothing")


def test_masks_are_not_written_among_the_images(model: Path, images: Path) -> None:
    before = {path: path.read_bytes() for path in images.rglob("*") if path.is_file()}
    with pytest.raises(ValueError, match="overwrite"):
        predict(model, images, [images / "a.png"], shard="1/1")
    assert {path: before.get(path) for path in images.rglob("*.png")} == before


def test_tar_files_in_the_layout_of_webdataset(model: Path, images: Path, tmp_path: Path) -> None:
    members = {
        "a.png": encoded(0),
        "a.json": b"{}",
        "a.mask.png": encoded(1),
        "b/c.png": encoded(2),
        "b/c.jpg": encoded(3, "jpeg"),
        "bad.png": b"no image",
        "../out.png": encoded(4),
    }
    tar = write_tar(tmp_path / "shard-0.tar", members)
    whole = write_tar(tmp_path / "shard-1.tar", {"a.png": encoded(0), "b.png": encoded(1)})
    cut = tmp_path / "shard-2.tar"
    cut.write_bytes(whole.read_bytes()[:3000])
    out = tmp_path / "out"
    result, _ = predict(model, out, [tmp_path / "shard-*.tar"])
    assert sorted(masks(out)) == [
        *("shard-0/a.png", "shard-0/b/c.png", "shard-1/a.png", "shard-1/b.png", "shard-2/a.png"),
    ]
    assert masks(out)["shard-0/a.png"] == masks(out)["shard-1/a.png"]
    assert sorted(errors(result)) == ["shard-0/../out", "shard-0/b/c.jpg", "shard-0/bad", "shard-2"]
    path, message = errors(result)["shard-0/bad"]
    assert path == f"{tar}/bad.png"
    assert path in message
    result, _ = predict(model, out, [tar, whole, cut])
    assert (result.written, result.skipped, result.failed) == (0, 5, 4)


def test_images_of_a_tar_file_with_more_dots_are_named(model: Path, tmp_path: Path) -> None:
    names = ("a.png", "a.mask.png", "a.001.mask.png", "scan.001.png", "x/scan.002.JPG", "._a.b.png")
    tar = write_tar(tmp_path / "t.tar", {name: encoded(0) for name in (*names, "a.b.json")})
    result, reporter = predict(model, tmp_path / "out", [tar])
    assert result.written == 1
    (note,) = [note for note in reporter.notes if str(tar) in note]
    assert "2 images" in note
    assert "scan.001.png, x/scan.002.JPG" in note
    assert "mask" not in note


@pytest.mark.skipif(sys.platform != "linux", reason="names are UTF-8")
def test_a_file_whose_name_is_not_utf8_fails_alone(
    model: Path, images: Path, tmp_path: Path
) -> None:
    bad = images / os.fsdecode(b"caf\xe9.png")
    bad.write_bytes(b"no image")
    result, _ = predict(model, tmp_path / "out", [images], shard="1/1")
    assert (result.written, result.failed) == (7, 1)
    assert os.fsencode(bad) in result.errors.read_bytes()


@pytest.mark.arrow
@pytest.mark.skipif(sys.platform != "linux", reason="names are UTF-8")
def test_rows_of_files_whose_names_are_not_utf8(model: Path, images: Path, tmp_path: Path) -> None:
    import pyarrow.parquet

    (images / os.fsdecode(b"caf\xe9.png")).write_bytes(b"no image")
    (images / os.fsdecode(b"caf\xea.png")).write_bytes(encoded(0))
    result, _ = predict(model, tmp_path / "out", [images], as_rows=True)
    assert (result.written, result.failed) == (8, 1)
    rows = pyarrow.parquet.read_table(tmp_path / "out" / "rows").to_pylist()
    found = {row["id"]: row["error"] for row in rows if row["id"].startswith("caf")}
    assert found["caf\\xea"] is None
    assert "caf\\xe9.png" in found["caf\\xe9"]


@pytest.mark.parametrize("name", ["errors.csv", "errors-1-of-1.csv"])
def test_errors_of_the_user_are_kept(name: str, model: Path, images: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    shard = {"shard": "1/1"} if "1" in name else {"batch_size": 8}
    for content in ("", "my\n", "id,path,error,more\n"):
        (out / name).write_text(content)
        with pytest.raises(ValueError, match=name):
            predict(model, out, [images], **shard)
        assert [path.name for path in out.iterdir()] == [name]
        assert (out / name).read_text() == content
    (out / name).write_text("id,path,error\nformer,former.png,not an image\n")
    result, _ = predict(model, out, [images], **shard)
    assert (result.written, result.errors.exists()) == (7, False)


def test_outputs_of_the_user_are_kept(model: Path, images: Path, tmp_path: Path) -> None:
    own = tmp_path / "overlay" / "mine.jpg"
    own.parent.mkdir()
    own.write_text("drawn by hand")
    with pytest.raises(ValueError, match=r"mine\.jpg"):
        predict(model, tmp_path, [images], save=["overlay"], shard="1/1")
    assert predict(model, tmp_path, [images], shard="1/1")[0].written == 7
    with pytest.raises(ValueError, match=r"mine\.jpg"):  # the record does not name overlays
        predict(model, tmp_path, [images], save=["overlay"], shard="1/1")
    assert own.read_text() == "drawn by hand"


def test_masks_of_earlier_runs_are_no_images(model: Path, images: Path, tmp_path: Path) -> None:
    def listed(out: Path) -> int:
        return list_inputs([str(images)], None, out, (1, 1), 8).total

    for out in (images / "first", images / "x" / "second"):
        assert predict(model, out, [images], shard="1/1")[0].written == 7
    assert listed(tmp_path / "out") == len(find_inputs([images]).images) == 7
    # images that only look like those of an output, below which the images lie
    predict(model, tmp_path, [images], shard="1/1")
    assert listed(tmp_path) == 7
    with pytest.raises(ValueError, match="is the output folder"):
        listed(images)


def test_a_link_to_the_output_folder_is_not_searched(images: Path, tmp_path: Path) -> None:
    out, linked = tmp_path / "out", tmp_path / "linked"
    out.mkdir()
    (out / "a.png").write_bytes(encoded(0))
    for link in (images / "results", linked):
        link.symlink_to(out)
    for given in (out, linked, images / "results"):
        assert list_inputs([str(images)], None, given, (1, 1), 8).total == 7


@pytest.fixture
def store(images: Path, tmp_path: Path) -> Iterator[str]:
    """The images, and a tar file of one, on another file system."""
    system = fsspec.filesystem("memory")
    system.put(str(images), "/bucket/in", recursive=True)
    system.pipe("/bucket/in/note.txt", b"no image")
    tar = write_tar(tmp_path / "t.tar", {"a.png": encoded(0)})
    system.put(str(tar), "/bucket/tars/t.tar")
    yield "memory://bucket"
    system.rm("/bucket", recursive=True)


def test_urls_are_read_like_files(
    model: Path, store: str, expected: dict[str, bytes], tmp_path: Path
) -> None:
    def pixels(out: Path) -> dict[str, list[list[int]]]:
        # masks of what lies elsewhere do not record its size and checksum
        return {
            path.relative_to(out).as_posix(): np.asarray(Image.open(path)).tolist()
            for path in out.rglob("*.png")
        }

    assert expected
    out = tmp_path / "out"
    result, _ = predict(model, out, [f"{store}/in"], batch_size=3)
    assert (result.written, result.failed) == (7, 0)
    assert pixels(out) == pixels(tmp_path / "plain")
    result, _ = predict(model, out, [f"{store}/in/*.png", f"{store}/in/?/*.png"])
    assert (result.written, result.skipped) == (0, 7)
    more = tmp_path / "more"
    result, _ = predict(model, more, [f"{store}/tars/*.tar", f"{store}/in/none.png"])
    assert (result.written, result.failed, result.exit_code) == (1, 1, 1)
    assert pixels(more)["t/a.png"] == pixels(out)["a.png"]
    path, message = errors(result)["none"]
    assert path == "memory://bucket/in/none.png" or path == "memory:///bucket/in/none.png"
    assert path in message
    with pytest.raises(FileNotFoundError):
        predict(model, more, [f"{store}/nothing"])
    with pytest.raises(ValueError, match="nosuch"):
        predict(model, more, ["nosuch://bucket/in"])


@pytest.mark.arrow
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_rows_hold_what_the_masks_hold(
    model: Path, images: Path, expected: dict[str, bytes], tmp_path: Path
) -> None:
    import pyarrow.parquet

    (images / "bad.png").write_bytes(b"no image")
    out = tmp_path / "out"
    result, _ = predict(model, out, [images], as_rows=True, batch_size=3)
    assert (result.written, result.failed, result.exit_code) == (7, 1, 1)
    assert masks(out) == {}
    table = pyarrow.parquet.read_table(out / "rows")
    assert table.schema.metadata[b"classes"].decode().split("\n") == ["0", "1", "2"]
    rows = {row["id"]: row for row in table.to_pylist()}
    assert table.num_rows == len(rows) == 8
    assert sorted(rows) == sorted(["bad", *(name.removesuffix(".png") for name in expected)])
    predictor = Predictor.load(model, **CPU)
    for name, row in rows.items():
        if name == "bad":
            assert row["error"]
            assert row["areas"] is row["rle"] is row["score"] is None
            continue
        mask = np.asarray(Image.open(tmp_path / "plain" / f"{name}.png"))
        size = [row["height"], row["width"]]
        assert size == [*mask.shape]
        assert row["areas"] == np.bincount(mask.ravel(), minlength=CLASSES).tolist()
        for class_id, code in enumerate(row["rle"], 1):
            decoded = coco_mask.decode({"size": size, "counts": code.encode()})
            assert np.array_equal(decoded, mask == class_id)
        probabilities = predictor.probabilities(row["path"]).max(axis=0)
        assert row["score"] == pytest.approx(float(probabilities.mean()), abs=1e-5)

    # what has an error is predicted again, the rest is kept
    (images / "bad.png").write_bytes(encoded(5))
    result, _ = predict(model, out, [images], as_rows=True, batch_size=3)
    assert (result.skipped, result.failed, result.exit_code) == (5, 0, 0)
    table = pyarrow.parquet.read_table(out / "rows")
    assert (table.num_rows, table.column("error").null_count) == (8, 8)
    with pytest.raises(ValueError, match="batch-size"):
        predict(model, out, [images], as_rows=True, batch_size=4)
    result, _ = predict(model, out, [images], as_rows=True, batch_size=4, overwrite=True)
    assert pyarrow.parquet.read_table(out / "rows").num_rows == result.written == 8

    # another model, which was stopped after the first part
    other = tmp_path / "other.safetensors"
    network = make_network(CLASSES, seed=1, base_channels=2)
    save_checkpoint(other, network, make_card(CLASSES, size=(32, 32)))
    first = min((out / "rows").iterdir())
    kept = {path: path.read_bytes() for path in (out / "rows").iterdir() if path != first}
    predict(other, out, [images], as_rows=True, batch_size=4, overwrite=True)
    for path, content in kept.items():
        path.write_bytes(content)
    result, _ = predict(other, out, [images], as_rows=True, batch_size=4)
    assert (result.skipped, result.written) == (4, 4)


@pytest.mark.arrow
def test_manifests_in_parquet_are_read_in_parts(
    model: Path, images: Path, expected: dict[str, bytes], tmp_path: Path
) -> None:
    import pyarrow
    import pyarrow.parquet

    for number, names in enumerate((("a", "b", "c"), ("d", "e"))):
        table = {"id": [*names], "path": [str(images / f"{name}.png") for name in names]}
        (tmp_path / "list").mkdir(exist_ok=True)
        pyarrow.parquet.write_table(pyarrow.table(table), tmp_path / f"list/{number}.parquet")
    out = tmp_path / "out"
    for shard in ("1/2", "2/2"):
        predict(model, out, manifest=str(tmp_path / "list"), shard=shard, batch_size=2)
    assert masks(out) == {f"{name}.png": expected[f"{name}.png"] for name in "abcde"}
    listing = list_inputs([], str(tmp_path / "list"), out, (1, 1), 4)
    assert (listing.ids, listing.total) == ((), 5)
    with pytest.raises(ValueError, match=r"model\.safetensors"):
        list_inputs([], str(model), out, (1, 1), 4)


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("--manifest", "list.csv"), 0),
        (("--manifest", "bad.csv"), 1),
        (("in", "--workers", "2"), 2),
        (("in", "--workers", "0", "--engine", "ray"), 2),
        (("in", "--workers", "3:1", "--engine", "ray"), 2),
        (("in", "--manifest", "list.csv"), 2),
        ((), 2),
    ],
)
def test_exit_codes_of_the_command(
    arguments: Sequence[str],
    code: int,
    model: Path,
    images: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from plainunet.__main__ import _run

    monkeypatch.chdir(tmp_path)
    write_manifest(tmp_path / "list.csv", {"x/a": "in/a.png"})
    write_manifest(tmp_path / "bad.csv", {"x/a": "in/a.png", "b": "in/none.png"})
    cpu = ("--backend", "torch", "--device", "cpu", "--precision", "fp32")
    words = ["plainunet", "predict", str(model), *arguments, "--out", "out", *cpu]
    monkeypatch.setattr("sys.argv", words)
    assert _run() == code
    assert (tmp_path / "out/x/a.png").exists() == (code < 2)
    assert (tmp_path / "out/errors.csv").exists() == (code == 1)


@pytest.mark.skipif(find_spec("ray") is not None, reason="Ray is installed")
def test_without_ray_it_is_asked_for(model: Path, images: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"pip install .*ray"):
        predict(model, tmp_path / "out", [images], engine="ray")


def test_flags_that_do_nothing_are_refused(model: Path, images: Path, tmp_path: Path) -> None:
    assert is_bulk(["in"], (), BulkOptions(workers="2"))
    assert is_bulk(["s3://bucket"], (), BulkOptions())
    assert not is_bulk(["in"], ("overlay",), BulkOptions())
    for options in ({"workers": "2"}, {"num_gpus": 1}, {"address": "auto"}, {"num_cpus": 2}):
        with pytest.raises(ValueError, match="--engine ray"):
            predict(model, tmp_path / "out", [images], **options)
    with pytest.raises(ValueError, match="parquet"):
        predict(model, tmp_path / "out", [images], as_rows=True, save=["overlay"])
    lists = Outputs(tmp_path, ["areas", "coco"], make_card()).lists
    with pytest.raises(ValueError, match=lists[0]):
        predict(model, tmp_path / "out", [images], shard="1/2", save=["areas", "coco"])
    assert not (tmp_path / "out").exists()
