import pickle
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plainunet.formats.sources import (
    HERE,
    ClassFiles,
    CocoImage,
    ObjectFiles,
    Page,
    RleImage,
    Shapes,
    Source,
    files_of,
    parse_image,
    parse_source,
    path_of,
    stamp_files,
    stem_of,
)

TEXT = st.text(st.characters(exclude_characters="/\\\0[]{}", exclude_categories=["Cs"]), max_size=9)
FILES = st.builds(Path, st.just("folder"), TEXT.map("a{}".format))
NUMBERS = st.integers(1, 999_999_999)


def stem(suffix: str) -> st.SearchStrategy[Path]:
    return st.builds(lambda path: path.with_name(f"{path.name}{suffix}"), FILES)


@given(
    source=st.one_of(
        FILES,
        st.builds(Page, stem(".tif") | stem(".TIFF"), st.integers(0, 999_999_999)),
        st.builds(CocoImage, stem(".json"), st.integers()),
        st.builds(
            RleImage,
            stem(".csv"),
            TEXT.map("a{}.tif[3]".format),
            NUMBERS,
            NUMBERS,
            st.sampled_from(["rows", "columns"]),
        ),
        st.builds(
            ClassFiles,
            st.sampled_from([f"masks/{HERE}/7.png", f"{HERE}/7_{HERE}.png"]),
            st.lists(TEXT.filter(lambda text: "," not in text), min_size=2).map(tuple),
        ),
    )
)
def test_a_source_comes_back_from_its_text(source: Source) -> None:
    assert parse_source(str(source)) == source
    assert pickle.loads(pickle.dumps(source)) == source
    assert hash(parse_source(str(source))) == hash(source)


@pytest.mark.parametrize(
    ("text", "source"),
    [
        ("s.tif[3]", Page(Path("s.tif"), 3)),
        ("m.csv[a.tif[3] 2x2 rows]", RleImage(Path("m.csv"), "a.tif[3]", 2, 2, "rows")),
        ("all.JSON[-17]", CocoImage(Path("all.JSON"), -17)),
        ("{road,car}.png", ClassFiles(f"{HERE}.png", ("road", "car"))),
        ("m.csv[a 2x3 empty]", RleImage(Path("m.csv"), "a", 2, 3, "empty")),
        ('7.json["background", "a b"]', Shapes(Path("7.json"), ("background", "a b"))),
        ("m/{7 (1).png|7,2.png}", ObjectFiles(Path("m"), ("7 (1).png", "7,2.png"))),
    ],
)
def test_texts(text: str, source: Source) -> None:
    assert parse_source(text) == source
    assert str(source) == text
    assert parse_image(text) == (source if isinstance(source, Page) else Path(text))


NO_SOURCES = """a.tif a.png[3] a.tif[3].png a[3].tif [3] a.tif[ a.tif[x] a.json[x] m.csv[a]
m.csv[x/2x2] {road}.png road,car.png"""


@pytest.mark.parametrize("text", [*NO_SOURCES.split(), "m.csv[a 2x2 ROWS]", "m.csv[ 2x2 rows]"])
def test_other_texts_name_files(text: str) -> None:
    assert parse_source(text) == Path(text)
    assert files_of(parse_source(text)) == [Path(text)]


def test_sources_are_ordered_as_their_texts() -> None:
    sources = [parse_source(f"d/{name}") for name in ("s.tif[10]", "a.png", "s.tif[2]", "z.png")]
    assert [str(each) for each in sorted(sources)] == sorted(map(str, sources))  # type: ignore[type-var]


def test_one_file_for_each_class(tmp_path: Path) -> None:
    source = parse_source(tmp_path / "{road,small car}" / "7.png")
    assert isinstance(source, ClassFiles)
    files = {name: tmp_path / name / "7.png" for name in ("road", "small car")}
    assert source.files == files
    assert files_of(source) == [path_of(source)]  # none of them exists
    files["road"].parent.mkdir()
    files["road"].touch()
    assert files_of(source) == [files["road"]]
    # a file whose name has braces is a file
    (tmp_path / "{a,b}.png").touch()
    assert parse_source(tmp_path / "{a,b}.png") == tmp_path / "{a,b}.png"


def test_files_are_told_apart_by_what_they_are_read_from(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_text("12")
    (tmp_path / "s.tif").write_text("1")
    file, first, second = stamp_files(
        [tmp_path / "a.png", Page(tmp_path / "s.tif", 0), Page(tmp_path / "s.tif", 1)]
    )
    assert file[:2] == [str(tmp_path / "a.png"), 2]
    assert (first[0], second[0]) == (f"{tmp_path}/s.tif[0]", f"{tmp_path}/s.tif[1]")
    assert (
        first[1:] == second[1:] == [f"{tmp_path}/s.tif", 1, (tmp_path / "s.tif").stat().st_mtime_ns]
    )
    with pytest.raises(FileNotFoundError):
        stamp_files([CocoImage(tmp_path / "gone.json", 1)])


def test_stems() -> None:
    assert stem_of(Path("a/b.c.png")) == "b.c"
    assert stem_of(Page(Path("a/b.tif"), 3)) == "b_3"
