"""From input paths to masks: files, folders, lists, stacks, large images and videos."""

import errno
import io
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from PIL import Image

from plainunet.dataset.coding import read_mask
from plainunet.dataset.lists import find_images
from plainunet.formats.images import read_image
from plainunet.formats.sources import Page, parse_image
from plainunet.formats.windows import open_windows
from plainunet.network.card import Card
from plainunet.network.checkpoint import save_checkpoint
from plainunet.prediction.geo import find_geo
from plainunet.prediction.outputs import count_large, list_names, mask_paths, require_apart
from plainunet.prediction.predict import (
    Inputs,
    Predictions,
    find_inputs,
    predict_files,
    predict_inputs,
    predict_large,
)
from plainunet.prediction.predictor import Predictor
from plainunet.reporter import Collected

from ..folders import save
from ..forks import Fork
from ..models import as_predictor, make_network
from .conftest import COLORS, Draw, Make, Recorder, film, noise


def below(folder: Path) -> set[str]:
    """All files below a folder except the record, including hidden ones."""
    files = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    return files - {"prediction.json"}


# inputs


@pytest.fixture
def folder(tmp_path: Path, draw: Draw, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("in/a.png", "in/b.jpg", "in/deep/c.png", "in/x[1].png"):
        draw(name, 4, 5)
    tifffile.imwrite(
        tmp_path / "in" / "stack.tif", np.zeros((3, 4, 5), np.uint8), photometric="minisblack"
    )
    (tmp_path / "film.mp4").write_bytes(b"")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def named(*names: str, out: Path | None = None) -> list[str]:
    found = find_inputs([Path(name) for name in names], out).images
    return [str(source) for source in found]


SLICES = [f"in/stack.tif[{number}]" for number in range(3)]


def test_folders_stacks_and_pages(folder: Path) -> None:
    assert named("in") == ["in/a.png", "in/b.jpg", "in/deep/c.png", *SLICES, "in/x[1].png"]
    assert named("in/stack.tif[1]") == ["in/stack.tif[1]"]


def test_a_dataset_is_predicted_without_its_masks(folder: Path, draw: Draw) -> None:
    for name in ("a", "b"):
        draw(f"beside/{name}.png")
        draw(f"faces/{name}.png")
        draw(f"faces/{name}_mask.png")
        draw(f"apart/images/{name}.png")
        for mask in (f"beside/{name}_mask.png", f"apart/masks/{name}.png"):
            save(folder / mask, np.eye(20, 30, dtype=np.uint8))
        draw(f"unclear/{name}.png")
        draw(f"unclear/{name}_2.png")
    draw("beside/c.png")
    save(folder / "apart" / "masks" / "extra.png", np.eye(20, 30, dtype=np.uint8))
    assert len(named("faces")) == 4
    assert named("beside") == ["beside/a.png", "beside/b.png", "beside/c.png"]
    assert len(named("unclear")) == 4
    assert len(named("apart/masks")) == 3
    collected = Collected()
    found = find_inputs([Path("apart")], reporter=collected).images
    assert [str(each) for each in found] == ["apart/images/a.png", "apart/images/b.png"]
    assert "3 masks" in collected.notes[0]


def test_patterns(folder: Path, draw: Draw) -> None:
    assert named("in/*.png") == ["in/a.png", "in/x[1].png"]
    assert named("in/**/*.png") == ["in/a.png", "in/deep/c.png", "in/x[1].png"]
    assert named(f"{folder}/in/[ab].*") == [f"{folder}/in/a.png", f"{folder}/in/b.jpg"]
    with pytest.raises(FileNotFoundError, match=r"in/\*\.bmp"):
        named("in/*.bmp")
    draw("in/star*.png")  # a name that looks like a pattern
    assert named("in/star*.png") == ["in/star*.png"]


def test_lists_of_paths(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = "in/b.jpg\r\n\n  in/a.png\nin/b.jpg\n"
    Path("list.txt").write_text(lines, encoding="utf-8-sig")
    assert named("list.txt", "in/deep") == ["in/b.jpg", "in/a.png", "in/deep/c.png"]

    class Input:
        buffer = io.BytesIO(lines.encode())

    monkeypatch.setattr("sys.stdin", Input)
    assert named("-") == ["in/b.jpg", "in/a.png"]


@pytest.mark.parametrize(
    ("name", "named_file"),
    [
        ("empty.txt", "empty.txt"),
        ("bytes.txt", "bytes.txt"),
        ("wrong.txt", "in/none.png"),
        ("none.png", "none.png"),
        ("none.mp4", "none.mp4"),
    ],
)
def test_inputs_without_images_are_refused(folder: Path, name: str, named_file: str) -> None:
    Path("empty.txt").write_text("\n")
    Path("bytes.txt").write_bytes(b"\xff\xfe\x00")
    Path("wrong.txt").write_text("in/none.png")
    with pytest.raises((ValueError, FileNotFoundError), match=f"^{named_file}"):
        named(name)


def test_videos_are_listed_apart_and_every_input_once(folder: Path) -> None:
    found = find_inputs([Path("film.mp4"), Path("in/a.png"), Path("film.mp4")])
    assert found == ([Path("in/a.png")], [Path("film.mp4")])
    names = "in/a.png", f"{folder}/in/a.png", "in/deep/../a.png", "in/*.jpg"
    assert named(*names) == ["in/a.png", "in/b.jpg"]


def test_masks_of_earlier_predictions_are_skipped(folder: Path, draw: Draw) -> None:
    before = named("in")
    draw("in/first/overlay/mask.png")
    Path("in/first/prediction.json").write_text("{}")
    assert named("in") == named("in", out=Path("in/second")) == before
    assert named("in/first") == ["in/first/overlay/mask.png"]


def test_masks_of_others_are_never_replaced(predictor: Predictor, draw: Draw) -> None:
    image, mask = draw("images/a.png"), draw("masks/a.png")
    before = mask.read_bytes()
    for overwrite in (False, True):
        with pytest.raises(ValueError, match=r"masks/a\.png: exists, but was not written"):
            predict_files(predictor, [image], mask.parent, overwrite=overwrite)
    assert mask.read_bytes() == before
    assert [each.name for each in mask.parent.iterdir()] == ["a.png"]


@pytest.mark.parametrize("name", ["coco.json", "instances.csv", "instances/a.tif"])
def test_outputs_of_others_are_never_replaced(
    tmp_path: Path, predictor: Predictor, draw: Draw, name: str
) -> None:
    draw("images/z.png")
    tags = [(33550, 12, 3, (0.5, 0.5, 0.0), True), (33922, 12, 6, (0.0,) * 6, True)]
    tifffile.imwrite(
        tmp_path / "images" / "a.tif", noise(20, 30, 3), photometric="rgb", extratags=tags
    )
    mine, save = tmp_path / name, ["coco", "instances"]
    mine.parent.mkdir(exist_ok=True)
    mine.write_bytes(b"mine")
    inputs = find_inputs([tmp_path / "images"])
    assert len(predict_inputs(predictor, inputs, tmp_path).written) == 2  # masks only
    for overwrite in (False, True):
        for images in (inputs, Inputs(inputs.images[1:], [])):
            with pytest.raises(ValueError, match=f"{name}: exists, but was not written"):
                predict_inputs(predictor, images, tmp_path, save, overwrite)
    assert mine.read_bytes() == b"mine"
    mine.unlink()
    for _ in range(2):
        done = predict_inputs(predictor, inputs, tmp_path, save, overwrite=True)
        assert (len(done.written), done.failures) == (2, [])


def test_overwriting_removes_no_file_of_others(
    tmp_path: Path, predictor: Predictor, make_predictor: Make, draw: Draw
) -> None:
    images = [draw(f"overlay/{name}.jpg") for name in "ab"]
    others = [draw(f"{name}/a.png") for name in ("instances", "values", "probabilities/0-ground")]
    other, out = make_predictor(min_object=3), tmp_path
    predict_files(predictor, images, out)
    assert predict_files(other, images, out).failures == []
    assert [file for file in (*images, *others) if not file.is_file()] == []
    # outputs of an earlier run are removed
    predict_files(other, images, out, ["contours"])
    predict_files(predictor, images, out)
    assert not list((out / "contours").iterdir())
    assert predict_files(predictor, images, out, overwrite=False).skipped == [
        *(out / "a.png", out / "b.png")
    ]


def test_outputs_do_not_lie_among_the_images(
    tmp_path: Path, predictor: Predictor, make_predictor: Make, draw: Draw
) -> None:
    image = draw("overlay/a.jpg")
    before = image.read_bytes()
    with pytest.raises(ValueError, match=r"overlay/a\.jpg: an output would overwrite"):
        predict_files(predictor, [image], tmp_path, ["overlay"])
    assert image.read_bytes() == before
    assert below(tmp_path) == {"overlay/a.jpg"}
    # nor may the overlays of an earlier run become images, which the next would then remove
    predict_files(predictor, [draw("images/a.png")], tmp_path / "out", ["overlay"])
    image = tmp_path / "out" / "overlay" / "a.jpg"
    with pytest.raises(ValueError, match=r"overlay/a\.jpg: an output would overwrite"):
        predict_files(make_predictor(min_object=3), [image], tmp_path / "out")


def test_masks_below_the_image_folder_are_skipped(folder: Path, draw: Draw) -> None:
    before = named("in")
    draw("in/deep/mask.png")
    assert named("in", out=Path("in/deep")) == [each for each in before if "deep" not in each]
    assert named("in/**/*.png", out=folder / "in" / "deep") == ["in/a.png", "in/x[1].png"]
    # the output folder itself is listed if named, so that it is refused later
    assert len(named("in/deep", out=Path("in/deep"))) == 2


# names of masks


def names(images: list[str]) -> list[str]:
    paths = mask_paths([parse_image(image) for image in images], Path("/out"))
    return [path.relative_to("/out").as_posix() for path in paths]


@pytest.mark.parametrize(
    ("images", "wanted"),
    [
        (["/d/a.jpg"], ["a.png"]),
        (["/d/x/a.jpg", "/d/y/b.jpg"], ["a.png", "b.png"]),
        (["/d/x/a.jpg", "/d/y/a.jpg"], ["x/a.png", "y/a.png"]),
        (["/d/x/a.jpg", "/d/y/a.png", "/d/b.png"], ["x/a.png", "y/a.png", "b.png"]),
        (["/d/a.jpg", "/d/x/a.jpg"], ["a.png", "x/a.png"]),
        (["/d/x/a.jpg", "/d/x/a.png", "/d/y/a.png"], ["x/a.jpg.png", "x/a.png.png", "y/a.png"]),
        (["/d/a.b.jpg", "/d/a.c.jpg"], ["a.b.png", "a.c.png"]),
        (["/d/a.jpg", "/e/a.jpg"], ["d/a.png", "e/a.png"]),
        (["/d/s.tif[0]", "/d/s.tif[11]", "/d/a.png"], ["s_0.png", "s_11.png", "a.png"]),
        (["/d/s.tif[0]", "/d/s_0.png"], ["s.tif[0].png", "s_0.png.png"]),
    ],
)
def test_names_of_masks(images: list[str], wanted: list[str]) -> None:
    assert names(images) == wanted


@pytest.mark.parametrize(
    "images",
    [
        ["/d/a.jpg", "/d/a.png", "/d/a.jpg.tif"],
        ["/d/a.jpg", "/d/a.png", "/d/a.jpg.tif", "/d/a.jpg.gif"],
        ["/d/x/a.jpg", "/d/x/a.png", "/d/x/a.png.bmp", "/d/y/a.png"],
        ["/d/x/../y/a.jpg", "/d/x/a.jpg"],
    ],
)
def test_every_image_has_a_unique_mask_inside_the_folder(images: list[str]) -> None:
    found = names(images)
    assert len(set(found)) == len(images)
    assert all(".." not in Path(name).parts for name in found)


@pytest.mark.parametrize(
    ("images", "wanted"),
    [
        (["/d/x/a.jpg", "/d/y/b.jpg"], ["a.jpg", "b.jpg"]),
        (["/d/x/a.jpg", "/d/y/a.jpg", "/d/y/b.jpg"], ["x/a.jpg", "y/a.jpg", "b.jpg"]),
        (["/d/x/a.jpg", "/d/x/a.png"], ["a.jpg", "a.png"]),
        ([], []),
    ],
)
def test_names_in_lists(images: list[str], wanted: list[str]) -> None:
    assert list_names([Path(image) for image in images]) == wanted


def test_masks_next_to_a_stack_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"{tmp_path}: "):
        require_apart([Page(tmp_path / "s.tif", 3)], [tmp_path / "s_3.png"])
    require_apart([Page(tmp_path / "s.tif", 3)], [tmp_path / "out" / "s_3.png"])


@pytest.mark.parametrize("name", ["a.png", "a.jpg"])
def test_masks_neither_replace_images_nor_lie_among_them(
    tmp_path: Path, predictor: Predictor, draw: Draw, name: str
) -> None:
    image = draw(name)
    before = image.read_bytes()
    with pytest.raises(ValueError, match=f"^{image if name == 'a.png' else tmp_path}: "):
        predict_files(predictor, [image], tmp_path)
    assert image.read_bytes() == before
    assert below(tmp_path) == {name}


# files


def outcome(result: Predictions) -> tuple[list[Path], list[str], list[Path]]:
    return result.written, result.failures, result.skipped


def test_masks_have_the_size_of_their_images(
    tmp_path: Path, predictor: Predictor, draw: Draw, recorder: Recorder
) -> None:
    images = [draw("in/a.png"), draw("in/b.jpg", 50, 40)]
    out = tmp_path / "new" / "out"
    done = predict_files(predictor, images, out, reporter=recorder)
    written, failures = done.written, done.failures
    assert failures == recorder.notes == []
    assert written == [out / "a.png", out / "b.png"]
    assert below(out) == {"a.png", "b.png"}
    assert recorder.progress == [("predicting", 1, 2), ("predicting", 2, 2)]
    assert [read_mask(path).shape for path in written] == [(20, 30), (50, 40)]
    assert np.array_equal(read_mask(written[0]), predictor.predict(read_image(images[0])))
    with Image.open(written[0]) as mask:
        palette = mask.getpalette()
    assert palette is not None
    assert palette[:9] == [value for color in COLORS for value in color]


def test_bad_files_are_named_and_the_others_written(
    tmp_path: Path, predictor: Predictor, draw: Draw, recorder: Recorder
) -> None:
    images = [draw(f"in/{name}.png") for name in "abcde"]
    images[0].write_bytes(b"")
    images[1].write_bytes(images[1].read_bytes()[:-40])
    images[2].unlink()
    Image.fromarray(np.zeros((5, 5, 4), np.uint8)).save(images[3])
    done = predict_files(predictor, images, tmp_path / "out", reporter=recorder)
    written, failures = done.written, done.failures
    assert written == [tmp_path / "out" / "e.png"]
    assert below(tmp_path / "out") == {"e.png"}
    assert len(failures) == 4
    for image, failure in zip(images, failures, strict=False):
        assert failure.count(str(image)) == 1
    assert [done for _, done, _ in recorder.progress] == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("card", [{}, {"size": None}, {"tta": "flips", "scales": (0.5, 1.0)}])
def test_small_images_of_one_shape_are_predicted_in_batches(
    tmp_path: Path, make_predictor: Make, draw: Draw, recorder: Recorder, card: dict[str, Any]
) -> None:
    predictor = make_predictor(**card)
    images = [draw(f"in/{name}.png") for name in ("a", "bb", "ccc", "dddd")]
    images[3:3] = [draw("in/other.png", 40, 20), draw("in/cut.png")]
    images[4].write_bytes(images[4].read_bytes()[:-40])
    batches: list[int] = []
    with predictor.network.register_forward_pre_hook(
        lambda _, batch: batches.append(len(batch[0]))
    ):
        done = predict_files(predictor, images, tmp_path / "out", reporter=recorder)
    written, failures = done.written, done.failures
    assert set(batches) == {3, 1}
    assert [path.stem for path in written] == ["a", "bb", "ccc", "other", "dddd"]
    assert len(failures) == 1
    assert [done for _, done, _ in recorder.progress] == [1, 2, 3, 4, 5, 6]
    for path in written:
        alone = predictor.predict(read_image(tmp_path / "in" / path.name))
        assert np.mean(read_mask(path) != alone) < 0.01  # batches may round differently


def test_in_a_batch_only_the_bad_image_fails(
    tmp_path: Path, predictor: Predictor, recorder: Recorder
) -> None:
    values = np.full((3, 32, 32, 3), 0.5, np.float32)
    values[1] = 1e38  # overflows in the network
    values[2, 5:7, :3] = np.nan
    for number, image in enumerate(values):
        tifffile.imwrite(tmp_path / f"{number}.tif", image, photometric="rgb")
    images = sorted(tmp_path.glob("*.tif"))
    done = predict_files(predictor, images, tmp_path / "out", reporter=recorder)
    written, failures = done.written, done.failures
    assert [path.stem for path in written] == ["0", "2"]
    assert [failure.count(str(images[1])) for failure in failures] == [1]
    missing = np.argwhere(read_mask(written[1]) == 255)
    assert missing.tolist() == [[row, column] for row in (5, 6) for column in range(3)]


def test_folders_that_cannot_be_written_to_and_no_images(
    tmp_path: Path, predictor: Predictor, draw: Draw
) -> None:
    image = draw("a.png")
    with pytest.raises(ValueError, match=f"^{image / 'out'}: "):
        predict_files(predictor, [image], image / "out")
    assert outcome(predict_files(predictor, [], tmp_path / "out")) == ([], [], [])


def test_equal_stems_keep_their_folders_or_suffixes(
    tmp_path: Path, predictor: Predictor, draw: Draw
) -> None:
    for name in ("in/one/a.png", "in/two/a.png", "in/two/deep/a.png", "in/two/b.png"):
        draw(name)
    predict_files(predictor, find_images([tmp_path / "in"]), tmp_path / "out")
    assert below(tmp_path / "out") == {"one/a.png", "two/a.png", "two/deep/a.png", "b.png"}
    for name, size in {"a.jpg": (20, 30), "a.png": (24, 36)}.items():
        draw(f"same/{name}", *size)
    predict_files(predictor, find_images([tmp_path / "same"]), tmp_path / "other")
    shapes = {path.name: read_mask(path).shape for path in (tmp_path / "other").glob("*.png")}
    assert shapes == {"a.jpg.png": (20, 30), "a.png.png": (24, 36)}


def test_relative_paths(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, predictor: Predictor, draw: Draw
) -> None:
    draw("x/a.png")
    draw("y/a.png")
    monkeypatch.chdir(tmp_path / "x")
    predict_files(predictor, [Path("a.png"), Path("../y/a.png")], Path("../out"))
    assert below(tmp_path / "out") == {"x/a.png", "y/a.png"}


def test_a_warning_becomes_a_note_that_names_its_image(
    tmp_path: Path, make_predictor: Make, draw: Draw, recorder: Recorder
) -> None:
    far = make_predictor(training={"areas": [10**6, 10**6]})
    image = draw("a.jpg")
    predict_files(far, [image], tmp_path / "masks", reporter=recorder)
    (note,) = recorder.notes
    assert note.startswith(f"{image}: 20 x 30 ")


def test_jpeg_files_are_decoded_at_a_reduced_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows, columns = np.mgrid[:160, :240]
    image = np.stack(
        [127 + 100 * np.sin(rows / 25 + c) * np.cos(columns / 31) for c in range(3)], 2
    )
    path = tmp_path / "in" / "a.jpg"
    path.parent.mkdir()
    Image.fromarray(image.astype(np.uint8)).save(path, quality=95)
    card = Card(("0", "1", "2"), COLORS, size=(40, 60))
    predictor = as_predictor(make_network(3), card)
    expected = predictor.predict(read_image(path))
    assert len(np.unique(expected)) > 1
    predict_files(predictor, [path], tmp_path / "whole", ["overlay"])  # which needs all of it
    assert np.array_equal(read_mask(tmp_path / "whole" / "a.png"), expected)
    predict_files(predictor, [path], tmp_path / "reduced", ["areas"])
    mask = read_mask(tmp_path / "reduced" / "a.png")
    assert mask.shape == expected.shape
    assert (mask != expected).mean() < 0.02


def test_existing_masks_are_kept_unless_overwritten(
    tmp_path: Path, predictor: Predictor, draw: Draw
) -> None:
    images = [draw(f"in/{name}.png") for name in "abc"]
    out = tmp_path / "out"
    predict_files(predictor, images[:2], out)
    images[0].unlink()  # not needed, because its mask exists
    kept = (out / "b.png").read_bytes()
    passes: list[int] = []
    with predictor.network.register_forward_pre_hook(lambda _, batch: passes.append(len(batch[0]))):
        result = predict_files(predictor, images, out, overwrite=False)
        assert outcome(result) == ([out / "c.png"], [], [out / "a.png", out / "b.png"])
        assert sum(passes) == 1
        assert (out / "b.png").read_bytes() == kept
        result = predict_files(predictor, images[1:], out, overwrite=True)
        assert outcome(result) == ([out / "b.png", out / "c.png"], [], [])
        assert sum(passes) == 3


def test_lists_include_images_whose_masks_already_existed(
    tmp_path: Path, predictor: Predictor, draw: Draw
) -> None:
    images = [draw(f"in/{name}.png") for name in "abc"]
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    save: Any = ["areas", "coco", "overlay"]
    predict_files(predictor, images, whole, save)
    predict_files(predictor, images[:2], parts, save)
    result = predict_files(predictor, images, parts, save, overwrite=False)
    assert [len(part) for part in outcome(result)] == [1, 0, 2]
    for name in ("areas.csv", "coco.json"):
        assert (parts / name).read_bytes() == (whole / name).read_bytes()
    assert below(whole) == below(parts)


def test_missing_or_damaged_outputs_are_written(
    tmp_path: Path, predictor: Predictor, draw: Draw
) -> None:
    images = [draw(f"in/{name}.png", 60, 80) for name in "ab"]
    out = tmp_path / "out"
    predict_files(predictor, images, out)
    result = predict_files(predictor, images, out, ["overlay"], overwrite=False)
    assert [len(part) for part in outcome(result)] == [2, 0, 0]
    assert below(out) == {"a.png", "b.png", "overlay/a.jpg", "overlay/b.jpg"}
    whole = (out / "a.png").read_bytes()
    (out / "a.png").write_bytes(whole[:-30])  # read only to fill the lists
    result = predict_files(predictor, images, out, ["areas"], overwrite=False)
    assert result.written == [out / "a.png"]
    assert (out / "a.png").read_bytes() == whole


def test_masks_of_another_model_are_refused_or_overwritten(
    tmp_path: Path, predictor: Predictor, make_predictor: Make, draw: Draw
) -> None:
    image, out, other = draw("in/a.png"), tmp_path / "out", make_predictor(min_object=3)
    predict_files(predictor, [image], out)
    with pytest.raises(ValueError, match="--overwrite"):
        predict_files(other, [image], out, overwrite=False)
    another = draw("in/b.png")  # the record is then of the other model, but a.png is not
    predict_files(other, [another], out)
    with pytest.raises(ValueError, match=r"a\.png: .*--overwrite"):
        predict_files(other, [image, another], out, overwrite=False)
    assert predict_files(other, [image], out).written == [out / "a.png"]
    assert predict_files(other, [image], out, overwrite=False).skipped == [out / "a.png"]


def test_the_mask_of_another_image_with_the_same_name_is_refused(
    tmp_path: Path, predictor: Predictor, draw: Draw
) -> None:
    one, two, out = draw("one/a.png"), draw("two/a.png", 50, 40), tmp_path / "out"
    predict_files(predictor, [one], out)
    with pytest.raises(ValueError, match=r"a\.png: .*--overwrite"):
        predict_files(predictor, [two], out, overwrite=False)
    predict_files(predictor, [two], out)
    assert read_mask(out / "a.png").shape == (50, 40)


def test_two_outputs_of_one_path_are_refused(
    tmp_path: Path, predictor: Predictor, draw: Draw
) -> None:
    images = [draw(name) for name in ("in/p.png", "in/values/p.png", "in/x/p.png")]
    with pytest.raises(ValueError, match=r"values.p\.png: "):
        predict_files(predictor, images, tmp_path / "out", ["values"])
    assert predict_files(predictor, images, tmp_path / "out").failures == []


@pytest.mark.parametrize("save", ["probabilities", "probabilities-16", "probabilities-float"])
def test_the_mask_is_the_same_with_probabilities(
    tmp_path: Path, make_predictor: Make, draw: Draw, save: Any
) -> None:
    image, cleaning = draw("in/a.png", 50, 70), make_predictor(min_object=4, fill_holes=4)
    predict_files(cleaning, [image], tmp_path / "1", [save])
    predict_files(cleaning, [image], tmp_path / "2")
    masks = [read_mask(tmp_path / name / "a.png") for name in "12"]
    assert np.array_equal(*masks)
    assert len(np.unique(masks[0])) > 1


@pytest.mark.filterwarnings("ignore:Use `@` matmul:PendingDeprecationWarning")
def test_the_mask_of_a_geotiff_is_a_geotiff(tmp_path: Path, predictor: Predictor) -> None:
    rasterio = pytest.importorskip("rasterio")
    from rasterio.transform import from_origin

    image, out = tmp_path / "in" / "a.tif", tmp_path / "out"
    image.parent.mkdir()
    pixels = noise(3, 40, 60)
    there = from_origin(399999.5, 5000000.25, 0.5, 0.25)
    geo = {"crs": "EPSG:32632", "transform": there}
    shape = {"width": 60, "height": 40, "count": 3, "dtype": "uint8"}
    with rasterio.open(image, "w", driver="GTiff", **shape, **geo) as file:
        file.write(pixels)
    result = predict_files(predictor, [image], out, ["contours"])
    assert result.written == [out / "a.tif"]
    with rasterio.open(out / "a.tif") as file:
        assert file.crs.to_epsg() == 32632
        assert file.transform == there
        assert np.array_equal(file.read(1), predictor.predict(pixels.transpose(1, 2, 0)))
        assert file.colormap(1)[1][:3] == COLORS[1]
    assert predict_files(predictor, [image], out, overwrite=False).skipped == [out / "a.tif"]


# large images


@pytest.fixture
def large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An image above the limit for large images."""
    monkeypatch.setattr("plainunet.prediction.predict.LARGE", 5000)
    path = tmp_path / "in" / "large.tif"
    path.parent.mkdir()
    tifffile.imwrite(path, noise(80, 90, 3), tile=(16, 16), photometric="rgb")
    return path


def test_a_large_image_is_read_in_parts(
    tmp_path: Path, predictor: Predictor, draw: Draw, large: Path, recorder: Recorder
) -> None:
    images, out = [draw("in/small.png"), large], tmp_path / "out"
    result = predict_files(predictor, images, out, overwrite=False, reporter=recorder)
    assert outcome(result) == ([out / "large.tif", out / "small.png"], [], [])
    assert recorder.progress[-2:] == [("rows of large.tif", 80, 80), ("predicting", 2, 2)]
    assert (read_mask(out / "large.tif") != predictor.predict(read_image(large))).mean() < 0.01
    again = predict_files(predictor, images, out, overwrite=False)
    assert outcome(again) == ([], [], [out / "small.png", out / "large.tif"])


def test_outputs_not_available_for_large_images(
    tmp_path: Path, predictor: Predictor, make_predictor: Make, large: Path, recorder: Recorder
) -> None:
    out = tmp_path / "out"
    predict_files(predictor, [large], out, ["areas", "overlay"], reporter=recorder)
    assert below(out) == {"large.tif", "areas.csv"}
    areas = (out / "areas.csv").read_text()
    counts = np.bincount(read_mask(out / "large.tif").ravel(), minlength=3)
    assert [int(line.split(",")[2]) for line in areas.splitlines()[1:]] == counts.tolist()
    predict_files(make_predictor(min_object=3), [large], tmp_path / "other", reporter=recorder)
    assert [note.partition(": ")[0] for note in recorder.notes] == [str(large)] * 2
    assert "overlay" in recorder.notes[0]
    again = predict_files(predictor, [large], out, ["areas"], overwrite=False)
    assert again.skipped == [out / "large.tif"]
    assert (out / "areas.csv").read_text() == areas


MEMORY = 40 * 2**20


def blobs(height: int, width: int) -> NDArray[np.uint8]:
    """An image of 20 x 20 blocks in random colours."""
    squares = np.random.default_rng(0).random((height // 20, width // 20, 3))
    return (255 * np.kron(squares, np.ones((20, 20, 1)))).astype(np.uint8)


def tiled_predictor(
    classes: int = 3, memory: float | None = MEMORY, factor: float = 1.0
) -> Predictor:
    """A predictor that predicts every class somewhere in `blobs`."""
    names = ("ground", "leaf", "stone")[:classes]
    card = Card(names, COLORS[:classes], size=None, factor=factor)
    return as_predictor(make_network(classes, depth=3), card, memory=memory)


def draw_large(path: Path, height: int = 700, width: int = 900, **options: Any) -> Path:
    tifffile.imwrite(path, blobs(height, width), tile=(64, 64), photometric="rgb", **options)
    return path


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("factor", [1.0, 0.6])
def test_predicted_in_parts_the_mask_is_nearly_that_of_one_pass(
    tmp_path: Path, classes: int, factor: float, recorder: Recorder
) -> None:
    path = draw_large(tmp_path / "a.tif")
    whole = tiled_predictor(classes, None, factor).predict(read_image(path))
    assert len(np.unique(whole)) == classes
    shapes = []
    predictor = tiled_predictor(classes, factor=factor)
    predictor.network.register_forward_hook(lambda _, inputs, __: shapes.append(inputs[0].shape))
    recorder.stage("rows", 700)
    with open_windows(path, most=0) as image:
        predict_large(predictor, image, tmp_path / "m.tif", "", recorder)
    assert len(shapes) >= 4
    mask = read_mask(tmp_path / "m.tif")
    assert mask.shape == whole.shape
    assert (mask != whole).mean() < 0.01
    assert recorder.progress[-1] == ("rows", 700, 700)
    assert len(recorder.progress) >= 2
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a.tif", "m.tif"]


def test_coordinates_of_a_large_geotiff_are_kept(tmp_path: Path) -> None:
    tags = [
        (33550, 12, 3, (0.5, 0.5, 0.0), True),
        (33922, 12, 6, (0.0, 0.0, 0.0, 440720.0, 3751320.0, 0.0), True),
        (34735, 3, 8, (1, 1, 0, 1, 3072, 0, 1, 32633), True),
        (34737, 2, 12, "WGS 84 / UTM", True),
    ]
    path, mask = draw_large(tmp_path / "a.tif", extratags=tags), tmp_path / "m.tif"
    with open_windows(path, most=0) as image:
        counts = predict_large(tiled_predictor(), image, mask, "", geo=find_geo(path))
    place = find_geo(path)
    assert counts.tolist() == np.bincount(read_mask(mask).ravel(), minlength=3).tolist()
    assert count_large(mask, 3).tolist() == counts.tolist()
    assert place is not None
    with tifffile.TiffFile(mask) as file:
        assert file.pages.first.is_geotiff
        found = [(code, file.pages.first.tags[code].value) for code, *_ in tags]
    assert found == [(code, value) for code, _, _, value, _ in place.tags]


KILLED = """
import os, signal
from plainunet.formats.windows import open_windows
from plainunet.prediction.predict import predict_large
from plainunet.prediction.predictor import Predictor
from plainunet.reporter import Reporter
predictor = Predictor.load(model, device="cpu", precision="fp32", memory=memory)
class Second(Reporter):
    seen = 0
    def advance(self, done):
        print(done, flush=True)
        self.seen += 1
        if self.seen == 2:
            os.kill(os.getpid(), signal.SIGKILL)
with open_windows(path, most=0) as image:
    predict_large(predictor, image, mask, "same", Second())
"""


def test_a_killed_prediction_resumes(tmp_path: Path) -> None:
    path, model = draw_large(tmp_path / "a.tif"), tmp_path / "model.safetensors"
    predictor, out = tiled_predictor(), tmp_path / "out"
    save_checkpoint(model, predictor.network, predictor.card)
    out.mkdir()
    killed = Fork(KILLED, model=model, path=path, mask=out / "m.tif", memory=MEMORY).finish()
    assert killed.returncode == -signal.SIGKILL, killed.stdout
    rows = [int(line) for line in killed.stdout.split()]
    assert len(rows) == 2
    assert not (out / "m.tif").exists()
    shutil.copytree(out, tmp_path / "other")

    def resume(mask: Path, key: str) -> int:
        """Predict to the end; returns the first reported number of rows."""
        recorder = Recorder()
        recorder.stage("rows", 700)
        loaded = Predictor.load(model, device="cpu", precision="fp32", memory=MEMORY)
        with open_windows(path, most=0) as image:
            predict_large(loaded, image, mask, key, recorder)
        return recorder.progress[0][1]

    first = resume(tmp_path / "whole.tif", "same")
    assert first == rows[0]
    assert resume(out / "m.tif", "same") > rows[1]
    assert (out / "m.tif").read_bytes() == (tmp_path / "whole.tif").read_bytes()
    # rows of another key are discarded
    assert resume(tmp_path / "other" / "m.tif", "other") == first


def test_a_full_disk_is_reported_and_rows_are_kept(tmp_path: Path, small_disk: Path) -> None:
    path = draw_large(tmp_path / "a.tif", 1500, 1800)  # one byte per pixel does not fit
    mask, filler = small_disk / "m.tif", small_disk / "filler"
    filler.write_bytes(bytes(2**20))
    with (
        open_windows(path, most=0) as image,
        pytest.raises(OSError, match=rf"m\.tif: .*{os.strerror(errno.ENOSPC)}"),
    ):
        predict_large(tiled_predictor(), image, mask, "")
    assert not mask.exists()
    assert 0 < (small_disk / ".m-rows.raw").stat().st_size < 1500 * 1800


# images and videos


@pytest.fixture
def inputs(tmp_path: Path, draw: Draw) -> Inputs:
    draw("a.png")
    film(tmp_path / "film.mkv", np.zeros((3, 30, 40, 3), np.uint8))
    (tmp_path / "bad.mp4").write_bytes(b"no video")
    return find_inputs([tmp_path / name for name in ("a.png", "film.mkv", "bad.mp4")])


def test_images_and_videos(
    tmp_path: Path, predictor: Predictor, inputs: Inputs, recorder: Recorder
) -> None:
    out = tmp_path / "out"
    result = predict_inputs(predictor, inputs, out, ["overlay"], reporter=recorder)
    assert result.written == [out / "a.png", out / "film-mask.mkv"]
    assert len(result.failures) == 1
    assert "bad.mp4: " in result.failures[0]
    assert ("predicting", 1, 1) in recorder.progress
    assert recorder.progress[-1] == ("frames of film.mkv", 3, 3)
    assert len(recorder.notes) == 1
    again = predict_inputs(predictor, inputs, out, ["overlay"])
    assert again.skipped == result.written
    anew = predict_inputs(predictor, inputs, out, ["overlay"], overwrite=True)
    assert anew.written == result.written


def test_two_videos_of_one_name(tmp_path: Path, predictor: Predictor, inputs: Inputs) -> None:
    other = tmp_path / "other" / "film.mkv"
    other.parent.mkdir()
    other.write_bytes((tmp_path / "film.mkv").read_bytes())
    both = Inputs([], [tmp_path / "film.mkv", other])
    result = predict_inputs(predictor, both, tmp_path / "out")
    assert len(result.written) == 1
    assert result.failures[0].startswith(f"{other}: ")


def test_masks_among_the_videos_are_refused(
    tmp_path: Path, predictor: Predictor, inputs: Inputs
) -> None:
    with pytest.raises(ValueError, match=f"{tmp_path}: "):
        predict_inputs(predictor, inputs, tmp_path)
    assert not (tmp_path / "film-mask.mkv").exists()


def test_masks_of_another_video_are_kept_and_reported(
    tmp_path: Path, predictor: Predictor, inputs: Inputs
) -> None:
    out, video = tmp_path / "out", tmp_path / "film.mkv"
    alone = Inputs([], [video])
    mask = out / "film-mask.mkv"
    out.mkdir()
    mask.write_bytes(b"of another program")
    for overwrite in (False, True):
        with pytest.raises(ValueError, match=r"film-mask\.mkv: exists, but was not written"):
            predict_inputs(predictor, alone, out, overwrite=overwrite)
    assert mask.read_bytes() == b"of another program"
    mask.unlink()
    result = predict_inputs(predictor, alone, out)
    assert (len(result.written), result.failures) == (1, [])
    # predicting images keeps the record of videos
    predict_inputs(predictor, Inputs(inputs.images, []), out)
    result = predict_inputs(predictor, alone, out)
    assert (len(result.skipped), result.failures) == (1, [])
    (out / "film-overlay.mp4").unlink()  # as if stopped between the two files
    assert len(predict_inputs(predictor, alone, out).written) == 1
    video.write_bytes(video.read_bytes() + b"another")
    assert predict_inputs(predictor, alone, out).failures[0].startswith(f"{mask}: ")


def test_a_truncated_video_fails_but_has_masks(tmp_path: Path, predictor: Predictor) -> None:
    video = film(tmp_path / "film.mkv", noise(20, 30, 40, 3))
    video.write_bytes(video.read_bytes()[: video.stat().st_size // 2])
    result = predict_inputs(predictor, Inputs([], [video]), tmp_path / "out")
    assert result.written == [tmp_path / "out" / "film-mask.mkv"]
    assert str(video) in result.failures[0]
    assert " 20 " in result.failures[0]


def test_notes_name_the_video(
    tmp_path: Path, make_predictor: Make, inputs: Inputs, recorder: Recorder
) -> None:
    far, alone = make_predictor(training={"areas": [10**6, 10**7]}), Inputs([], inputs.videos[:1])
    predict_inputs(far, alone, tmp_path / "out", reporter=recorder)
    (note,) = recorder.notes  # not one per frame
    assert note.startswith(f"{tmp_path / 'film.mkv'}: 30 x 40 ")
