import csv
import re
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from PIL import Image

from plainunet.config import DataConfig
from plainunet.dataset.classes import find_coding
from plainunet.formats.masks import mask_size, read_mask, stored_names
from plainunet.formats.rle import (
    class_names,
    is_rle,
    item_size,
    listed_images,
    listed_names,
    read_codes,
    read_ids,
)
from plainunet.formats.sources import RleImage, parse_source

CountCalls = Callable[[Callable[[], object]], int]


def write_text(path: Path, text: str) -> Path:
    path.write_bytes(text.encode("utf-8"))
    return path


@pytest.mark.parametrize(
    ("header", "row"),
    [
        ("img,rle_mask", "a.jpg,1 2"),
        ("ImageId,EncodedPixels", "a,"),
        ("\ufeffImageId, EncodedPixels ", "a,-1"),
        ("id,annotation,width,height,cell_type", "a,1 2,3,4,x"),
        ("id,class,segmentation", "a,x,\nb,x,7 2"),
        ("ImageId_ClassId,EncodedPixels", "a.jpg_1,1 2"),
        ('"image","mask"', 'a.jpg,"1 2 5 3"'),
    ],
)
def test_lists_of_codes_are_known_by_their_header(tmp_path: Path, header: str, row: str) -> None:
    assert is_rle(write_text(tmp_path / "a.csv", f"{header}\n{row}\n"))
    assert is_rle(write_text(tmp_path / "A.CSV", f"{header}\r\n{row}\r\n"))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "image,mask\na.jpg,a.png\n",
        "image,mask\na.jpg,1.png\n",
        "image,mask,group,part\n1.jpg,masks/1 2.png,1,train\n",
        "image,label\na.jpg,cat\n",
        "id,price\n1,2\n",
        "\x00\x01\x02",
        "image,mask\na.jpg,\n",
    ],
)
def test_other_lists_are_not(tmp_path: Path, text: str) -> None:
    assert not is_rle(write_text(tmp_path / "a.csv", text))


def test_only_csv_files_are_looked_at(tmp_path: Path) -> None:
    assert not is_rle(write_text(tmp_path / "a.txt", "img,rle_mask\na.jpg,1 2\n"))
    assert not is_rle(tmp_path / "gone.png")
    (tmp_path / "a.csv").write_bytes(b"image,mask\n\xff\xfe,1 2\n")
    assert not is_rle(tmp_path / "a.csv")
    with pytest.raises(FileNotFoundError, match=r"gone\.csv"):
        is_rle(tmp_path / "gone.csv")
    (tmp_path / "b.csv").mkdir()
    with pytest.raises(ValueError, match=r"b\.csv "):
        is_rle(tmp_path / "b.csv")


def test_several_rows_for_an_image(tmp_path: Path) -> None:
    codes = read_codes(
        write_text(tmp_path / "a.csv", "ImageId,EncodedPixels\nb,1 2\na,-1\n\nb,NaN\n")
    )
    assert {name: [tuple(row) for row in rows] for name, rows in codes.rows.items()} == {
        "b": [(2, "", "1 2"), (5, "", "")],
        "a": [(3, "", "")],
    }
    assert codes.classes == ()


def test_classes_are_sorted_numbers_as_numbers(tmp_path: Path) -> None:
    text = "ImageId,ClassId,EncodedPixels\n" + "".join(
        f"a,{name},1 1\n" for name in ("10", "2.0", "sea", "2", "Fish", "")
    ).replace("a,,1 1", "a,,")
    assert read_codes(write_text(tmp_path / "a.csv", text)).classes == ("2", "10", "Fish", "sea")
    both = "Image_Label,EncodedPixels\na_b.jpg_Fish,1 1\na_b.jpg_Sugar,\n"
    codes = read_codes(write_text(tmp_path / "b.csv", both))
    assert codes.classes == ("Fish", "Sugar")
    assert [row.class_name for row in codes.rows["a_b.jpg"]] == ["Fish", "Sugar"]


def test_a_changed_file_is_read_again(tmp_path: Path) -> None:
    path = write_text(tmp_path / "a.csv", "img,rle\na,1 2\n")
    assert list(read_codes(path).rows) == ["a"]
    assert read_codes(path) is read_codes(path)
    write_text(path, "img,rle\nlonger,1 2\n")
    assert list(read_codes(path).rows) == ["longer"]


def test_a_long_code_leaves_the_limit_of_fields_as_it_was(tmp_path: Path) -> None:
    limit = csv.field_size_limit()
    code = " ".join(f"{start} 1" for start in range(1, 100_000, 2))
    path = write_text(tmp_path / "a.csv", f"img,rle\na,{code}\n")
    assert len(code) > limit
    assert read_codes(path).rows["a"][0].code == code
    assert csv.field_size_limit() == limit


def test_the_work_of_reading_grows_with_the_rows(tmp_path: Path, count_calls: CountCalls) -> None:
    rows = [f"{n}.jpg,{n + 1} 20 {n + 60} 20 {n + 200} 30\n" for n in range(4000)]
    calls = {}
    for count in (2000, 4000):
        path = write_text(
            tmp_path / f"{count}.csv", "ImageId,EncodedPixels\n" + "".join(rows[:count])
        )
        calls[count] = count_calls(lambda path=path: read_codes(path))
        assert len(read_codes(path).rows) == count
    assert count < calls[4000] < 2.5 * calls[2000]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "a.csv: .*''"),
        ("a,b\n1,2\n", "a.csv: .*'a,b'"),
        ("img,rle\n", "a.csv "),
        ("img,rle\na,1 2,3\n", "a.csv, line 2: 3 .*2"),
        ("img,rle\na\n", "a.csv, line 2: 1 .*2"),
        ("img,rle\na,1 2\n ,1 2\n", "a.csv, line 3: "),
        ("img,class,rle\na,,1 2\n", "a.csv, line 2: "),
        ("img,class,rle\na,Background,1 2\n", "a.csv, line 2: 'background'"),
        ('img,rle\na,"1 2\n', "line 2: .*CSV"),
        ("img,rle\na,1 2\n\xe4,1 2\n", "line 3: .*UTF-8"),
        (
            "img,class,rle\n" + "".join(f"a,{n},\n" for n in range(255)),
            "a.csv .*255 .*254",
        ),
        (None, "a.csv "),
    ],
)
def test_lists_that_are_refused(tmp_path: Path, text: str | None, message: str) -> None:
    if text is not None:
        (tmp_path / "a.csv").write_bytes(text.encode("latin-1"))
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        read_codes(tmp_path / "a.csv")


Mask = NDArray[np.bool_]


def encode(mask: Mask, order: str) -> str:
    pixels = np.pad((mask if order == "rows" else mask.T).ravel().astype(np.int8), 1)
    edges = np.flatnonzero(np.diff(pixels)) + 1
    return " ".join(f"{a} {b - a}" for a, b in edges.reshape(-1, 2))


def write(path: Path, masks: dict[str, Sequence[Mask]], order: str) -> Path:
    lines = ["ImageId,EncodedPixels"]
    for name, objects in masks.items():
        lines += [f"{name},{encode(each, order)}" for each in objects]
    path.write_text("\n".join(lines))
    return path


def sizes_of(masks: dict[str, Sequence[Mask]]) -> dict[str, tuple[int, int]]:
    return {name: (objects[0].shape[0], objects[0].shape[1]) for name, objects in masks.items()}


def image(file: Path, item: str) -> RleImage:
    source = parse_source(f"{file}[{item}]")
    assert isinstance(source, RleImage)
    return source


def read(file: Path, item: str) -> NDArray[np.uint8]:
    return read_ids(image(file, item))


shapes = hnp.array_shapes(min_dims=2, max_dims=2, max_side=9)


@given(mask=hnp.arrays(bool, shapes), order=st.sampled_from(["rows", "columns"]))
def test_what_is_encoded_is_read_back(
    mask: Mask, order: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    file = tmp_path_factory.mktemp("rle") / "masks.csv"
    file.write_text(f"img,rle_mask\na.jpg,{encode(mask, order)}\n")
    item = f"a.jpg {mask.shape[0]}x{mask.shape[1]} {order}"
    ids = read(file, item)
    assert ids.dtype == np.uint8
    np.testing.assert_array_equal(ids, mask)
    assert item_size(image(file, item)) == mask.shape


def test_the_first_and_the_last_pixel(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("img,rle\na,1 1 6 1\n")
    assert read(tmp_path / "a.csv", "a 2x3 rows").tolist() == [[1, 0, 0], [0, 0, 1]]
    (tmp_path / "b.csv").write_text("img,rle\na,2 1\nb,1 6\nc,\n")
    assert read(tmp_path / "b.csv", "a 2x3 rows").tolist() == [[0, 1, 0], [0, 0, 0]]
    assert read(tmp_path / "b.csv", "a 2x3 columns").tolist() == [[0, 0, 0], [1, 0, 0]]
    assert read(tmp_path / "b.csv", "b 2x3 columns").all()
    assert not read(tmp_path / "b.csv", "c 2x3 columns").any()


def test_objects_of_one_class_may_overlap(tmp_path: Path) -> None:
    (tmp_path / "m.csv").write_text("id,rle\na,1 3 2 4\na,5 2\n")
    assert read(tmp_path / "m.csv", "a 2x4 rows").tolist() == [[1, 1, 1, 1], [1, 1, 0, 0]]


def test_names_may_hold_spaces_brackets_and_folders(tmp_path: Path) -> None:
    names = ["a b 3x4 rows", "x[1].png", "sub//./a.png", "ü.jpg"]
    file = tmp_path / "m.csv"
    file.write_text("img,rle\n" + "".join(f"{name},1 2\n" for name in names), encoding="utf-8")
    assert listed_names(file) == ["a b 3x4 rows", "x[1].png", "sub/a.png", "ü.jpg"]
    items = listed_images(file, dict.fromkeys(listed_names(file), (2, 2)), "rows")
    for path in items.values():
        assert mask_size(path) == (2, 2)
        assert read_mask(path).tolist() == [[1, 1], [0, 0]]
    assert str(items["x[1].png"]) == f"{file}[x[1].png 2x2 rows]"


# classes


def test_classes_are_numbered_in_order(tmp_path: Path) -> None:
    file = tmp_path / "m.csv"
    file.write_text("ImageId,ClassId,EncodedPixels\na,10,1 1\na,2,3 2\na,10,2 1\nb,30,\n")
    assert class_names(file) == ("background", "2", "10", "30")
    assert read(file, "a 2x3 rows").tolist() == [[2, 2, 1], [1, 0, 0]]
    path = image(file, "a 2x3 rows")
    assert stored_names(path) == class_names(file)
    coding, pixels = find_coding([path], DataConfig(classes=tuple("abcd")))
    assert coding.read(path).tolist() == [[2, 2, 1], [1, 0, 0]]
    assert pixels.tolist() == [2, 2, 2, 0]


def test_attributes_after_a_class_are_ignored(tmp_path: Path) -> None:
    file, heard = tmp_path / "m.csv", list[str]()
    file.write_text("ImageId,ClassId,EncodedPixels\na,20_2_7,1 1\na,6,3 2\nb,20_9,2 1\nb,20,4 1\n")
    assert class_names(file) == ("background", "6", "20")
    items = listed_images(file, {"a": (2, 3), "b": (2, 3)}, "rows", heard.append)
    assert [read_ids(items[name]).ravel().tolist() for name in "ab"] == [
        [2, 0, 1, 1, 0, 0],
        [0, 2, 0, 2, 0, 0],
    ]
    assert heard == [f"{file}: attributes after a class are ignored: '20_2_7' is class 20."]
    file.write_text("ImageId,ClassId,EncodedPixels\na,sea_1,1 1\na,2_3,3 2\n")
    assert class_names(file) == ("background", "2_3", "sea_1")


def test_classes_that_overlap_are_refused_with_their_share(tmp_path: Path) -> None:
    (tmp_path / "m.csv").write_text("id,class,rle\na,sea,1 3\na,sky,3 2\n")
    message = r"25\.00% .*sea, sky"
    with pytest.raises(ValueError, match=message):
        read(tmp_path / "m.csv", "a 2x3 rows")


# errors


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("1", "'1'"),
        ("1 2 3", "'1 2 3'"),
        ("1 two", "'1 two'"),
        ("1.5 2", "'1.5 2'"),
        ("1 99999999999999999999999", "'1 9999"),
        ("0 2", " 2 .* 0 .* 6 "),
        ("-3 2", " 2 .* -3 "),
        ("1 0", " 0 "),
        ("1 -1", " -1 "),
        ("1 7", " 7 "),
        ("6 2", " 2 .* 6 "),
        ("9223372036854775807 9223372036854775807", " 9223372036854775807 "),
        ("-9223372036854775808 1", " -9223372036854775808 "),
        ("1 2 4 1 3 1", " 3 .* 4,"),
    ],
)
def test_wrong_codes_are_named_by_their_line(tmp_path: Path, code: str, message: str) -> None:
    file = tmp_path / "m.csv"
    file.write_text(f"img,rle\nb,1 1\na,{code}\n")
    where = re.escape(f"{file}, line 3: ")
    for call in (read_ids, item_size):
        with pytest.raises(ValueError, match=where + ".*" + message):
            call(RleImage(file, "a", 2, 3, "rows"))


@pytest.mark.parametrize(
    ("item", "message"),
    [
        ("a 0x3 rows", "a 0x3 rows"),
        ("a 999999999x999999999 rows", "999999998000000001"),
        ("b 2x3 rows", "m.csv .* 'b'"),
    ],
)
def test_wrong_items_are_refused(tmp_path: Path, item: str, message: str) -> None:
    (tmp_path / "m.csv").write_text("img,rle\na,1 1\n")
    with pytest.raises(ValueError, match=message):
        read(tmp_path / "m.csv", item)


# the order


def blob(height: int, width: int) -> Mask:
    rows, columns = np.ogrid[:height, :width]
    return np.asarray(
        (rows - height / 2) ** 2 + (columns - width / 3) ** 2 < (min(height, width) / 4) ** 2
    )


@pytest.mark.parametrize("order", ["rows", "columns"])
@pytest.mark.parametrize("shape", [(20, 31), (31, 20), (40, 80), (80, 40), (40, 120), (120, 40)])
def test_the_order_is_found(tmp_path: Path, order: str, shape: tuple[int, int]) -> None:
    masks = {"a": [blob(*shape)], "b": [blob(*shape)[::-1, ::-1]], "square": [blob(12, 12)]}
    file = write(tmp_path / "m.csv", masks, order)
    notes: list[str] = []
    items = listed_images(file, sizes_of(masks), None, notes.append)
    assert items["a"] == RleImage(file, "a", *shape, order)
    for name, (mask,) in masks.items():
        np.testing.assert_array_equal(read_ids(items[name]), mask)
    assert len(notes) == 1
    assert f"by {order}" in notes[0]


@pytest.mark.parametrize("order", ["rows", "columns"])
def test_bands_and_single_runs_are_not_taken_for_a_proof(tmp_path: Path, order: str) -> None:
    band, line, noise = (np.zeros((20, 60), bool) for _ in range(3))
    half = 10 if order == "rows" else 30
    (band if order == "rows" else band.T)[:half] = True
    (line if order == "rows" else line.T)[5, 3:9] = True
    noise[np.random.default_rng(0).random((20, 60)) < 0.3] = True
    for name, mask in (("band", band), ("line", line), ("noise", noise), ("none", band & False)):
        file = write(tmp_path / f"{name}.csv", {"a": [mask]}, order)
        message = r"none\.csv" if name == "none" else "--rle rows .*--rle columns"
        with pytest.raises(ValueError, match=message):
            listed_images(file, {"a": (20, 60)}, None)
        assert listed_images(file, {"a": (20, 60)}, order)["a"].order == order


def test_of_square_images_the_order_is_asked_for(tmp_path: Path) -> None:
    masks = {"a": [blob(30, 30)], "b": [blob(20, 20)]}
    file = write(tmp_path / "m.csv", masks, "columns")
    with pytest.raises(ValueError, match=r"m\.csv .*\b2\b.*--rle columns"):
        listed_images(file, sizes_of(masks), None)
    assert listed_images(file, sizes_of(masks), "columns")["b"].order == "columns"
    with pytest.raises(ValueError, match="'down'"):
        listed_images(file, sizes_of(masks), "down")


def test_runs_beyond_the_image_fit_no_order(tmp_path: Path) -> None:
    file = write(tmp_path / "m.csv", {"a": [np.ones((8, 9), bool)]}, "rows")
    with pytest.raises(ValueError, match=r"line 2: .* 72 .* 56 "):
        listed_images(file, {"a": (7, 8)}, None)
    with pytest.raises(ValueError, match=r"m\.csv .* 'b'"):
        listed_images(file, {"b": (8, 9)}, "rows")


def open_mask(path: Path) -> NDArray[np.uint16]:
    with Image.open(path) as picture:
        return np.array(picture).astype(np.uint16)


def carvana(data_root: Path) -> dict[str, Sequence[Mask]]:
    paths = sorted((data_root / "carvana" / "train_masks").glob("*.gif"))[:3]
    return {path.name.replace("_mask.gif", ".jpg"): [open_mask(path) > 0] for path in paths}


def nuclei(data_root: Path) -> dict[str, Sequence[Mask]]:
    masks: dict[str, Sequence[Mask]] = {}
    for path in sorted((data_root / "dsb2018" / "masks").glob("*.png")):
        labels = open_mask(path)
        if labels.shape[0] != labels.shape[1]:
            masks[path.stem] = [labels == label for label in np.unique(labels)[1:]]
        if len(masks) == 3:
            break
    return masks


@pytest.mark.parametrize("order", ["rows", "columns"])
@pytest.mark.parametrize("load", [carvana, nuclei])
def test_the_order_of_real_masks_is_found(
    load: Callable[[Path], dict[str, Sequence[Mask]]], order: str, data_root: Path, tmp_path: Path
) -> None:
    masks = load(data_root)
    file = write(tmp_path / "train_masks.csv", masks, order)
    assert is_rle(file)
    assert listed_names(file) == list(masks)
    items = listed_images(file, sizes_of(masks), None)
    for name, objects in masks.items():
        assert items[name].order == order
        np.testing.assert_array_equal(read_ids(items[name]), np.any(objects, axis=0))


def test_several_threads_read_one_file(tmp_path: Path) -> None:
    masks = {str(n): [blob(20 + n, 60)] for n in range(8)}
    file = write(tmp_path / "m.csv", masks, "rows")
    items = listed_images(file, sizes_of(masks), "rows")
    with ThreadPoolExecutor(8) as pool:
        for name, ids in zip(items, pool.map(read_ids, items.values()), strict=True):
            np.testing.assert_array_equal(ids, masks[name][0])
