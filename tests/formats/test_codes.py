import csv
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from plainunet.formats.rle import is_rle, read_codes

CountCalls = Callable[[Callable[[], object]], int]


def write(path: Path, text: str) -> Path:
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
    assert is_rle(write(tmp_path / "a.csv", f"{header}\n{row}\n"))
    assert is_rle(write(tmp_path / "A.CSV", f"{header}\r\n{row}\r\n"))


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
    assert not is_rle(write(tmp_path / "a.csv", text))


def test_only_csv_files_are_looked_at(tmp_path: Path) -> None:
    assert not is_rle(write(tmp_path / "a.txt", "img,rle_mask\na.jpg,1 2\n"))
    assert not is_rle(tmp_path / "gone.png")
    (tmp_path / "a.csv").write_bytes(b"image,mask\n\xff\xfe,1 2\n")
    assert not is_rle(tmp_path / "a.csv")
    with pytest.raises(FileNotFoundError, match="does not exist"):
        is_rle(tmp_path / "gone.csv")
    (tmp_path / "b.csv").mkdir()
    with pytest.raises(ValueError, match=r"b\.csv cannot be opened"):
        is_rle(tmp_path / "b.csv")


def test_several_rows_for_a_picture(tmp_path: Path) -> None:
    codes = read_codes(write(tmp_path / "a.csv", "ImageId,EncodedPixels\nb,1 2\na,-1\n\nb,NaN\n"))
    assert {name: [tuple(row) for row in rows] for name, rows in codes.rows.items()} == {
        "b": [(2, "", "1 2"), (5, "", "")],
        "a": [(3, "", "")],
    }
    assert codes.classes == ()


def test_classes_are_sorted_numbers_as_numbers(tmp_path: Path) -> None:
    text = "ImageId,ClassId,EncodedPixels\n" + "".join(
        f"a,{name},1 1\n" for name in ("10", "2.0", "sea", "2", "Fish", "")
    ).replace("a,,1 1", "a,,")
    assert read_codes(write(tmp_path / "a.csv", text)).classes == ("2", "10", "Fish", "sea")
    both = "Image_Label,EncodedPixels\na_b.jpg_Fish,1 1\na_b.jpg_Sugar,\n"
    codes = read_codes(write(tmp_path / "b.csv", both))
    assert codes.classes == ("Fish", "Sugar")
    assert [row.class_name for row in codes.rows["a_b.jpg"]] == ["Fish", "Sugar"]


def test_a_changed_file_is_read_again(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "img,rle\na,1 2\n")
    assert list(read_codes(path).rows) == ["a"]
    assert read_codes(path) is read_codes(path)
    write(path, "img,rle\nlonger,1 2\n")
    assert list(read_codes(path).rows) == ["longer"]


def test_a_long_code_leaves_the_limit_of_fields_as_it_was(tmp_path: Path) -> None:
    limit = csv.field_size_limit()
    code = " ".join(f"{start} 1" for start in range(1, 100_000, 2))
    path = write(tmp_path / "a.csv", f"img,rle\na,{code}\n")
    assert len(code) > limit
    assert read_codes(path).rows["a"][0].code == code
    assert csv.field_size_limit() == limit


def test_the_work_of_reading_grows_with_the_rows(tmp_path: Path, count_calls: CountCalls) -> None:
    rows = [f"{n}.jpg,{n + 1} 20 {n + 60} 20 {n + 200} 30\n" for n in range(4000)]
    calls = {}
    for count in (2000, 4000):
        path = write(tmp_path / f"{count}.csv", "ImageId,EncodedPixels\n" + "".join(rows[:count]))
        calls[count] = count_calls(lambda path=path: read_codes(path))
        assert len(read_codes(path).rows) == count
    assert count < calls[4000] < 2.5 * calls[2000]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "a.csv: the header is ''; a list of run-length codes has a column"),
        ("a,b\n1,2\n", "a.csv: the header is 'a,b'"),
        ("img,rle\n", "a.csv lists no pictures"),
        ("img,rle\na,1 2,3\n", "a.csv, line 2: fields with commas between: 3, in the header 2"),
        ("img,rle\na\n", "a.csv, line 2: fields with commas between: 1, in the header 2"),
        ("img,rle\na,1 2\n ,1 2\n", "a.csv, line 3: there is no picture's name"),
        ("img,class,rle\na,,1 2\n", "a.csv, line 2: there is a code, but no class"),
        ("img,class,rle\na,Background,1 2\n", "a.csv, line 2: 'background' is what lies in no"),
        ('img,rle\na,"1 2\n', "line 2: this is not CSV"),
        ("img,rle\na,1 2\n\xe4,1 2\n", "line 3: this is not UTF-8"),
        (
            "img,class,rle\n" + "".join(f"a,{n},\n" for n in range(255)),
            "names 255 classes; at most 254",
        ),
    ],
)
def test_lists_that_are_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "a.csv").write_bytes(text.encode("latin-1"))
    with pytest.raises(ValueError, match=re.escape(message)):
        read_codes(tmp_path / "a.csv")


def test_a_list_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"gone\.csv does not exist"):
        read_codes(tmp_path / "gone.csv")
