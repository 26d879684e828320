"""Legends: files next to masks with the colour or value of each class."""

import json
from pathlib import Path

import pytest

from plainunet.formats.legends import (
    find_legend,
    is_background,
    is_void,
    notes_of_unread,
    read_legend,
)
from plainunet.formats.problems import DataError

from ..folders import touch


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "masks").mkdir()
    return tmp_path


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("legend.csv", "name,r,g,b\nsky,1,2,3\n class 1 , 40, 50, 60\n"),
        ("class_dict.csv", "id,Name,Red,Green,Blue,used\n0,sky,1,2,3,1\n1,class 1,40,50,60,0\n"),
        ("labels.txt", "# CVAT\nsky:1,2,3::\nclass 1:40,50,60::\n"),
        ("label_colors.txt", "1 2 3\t\tsky\n40 50 60\t\tclass 1\n"),
        ("Legend.txt", "what r g b\nsky 1 2 3\nclass 1 40 50 60\n"),
        ("classes.csv", "0,sky,1,2,3\n1,class 1,40,50,60\n"),
    ],
)
def test_legend_files(folder: Path, name: str, text: str) -> None:
    (folder / name).write_text(text)
    (folder / "labels.csv").write_text("sky\nroad\n")  # names alone are no legend
    legend = find_legend([folder / "masks" / "a.png"], lambda each: True)
    assert legend is not None
    assert legend[:3] == (folder / name, ("sky", "class 1"), ((1, 2, 3), (40, 50, 60)))


@pytest.mark.parametrize("line", ["road,300,1,1", "road", "road,1,1", "road,-1,0,0"])
def test_a_damaged_legend_is_refused_by_name(tmp_path: Path, line: str) -> None:
    (tmp_path / "legend.csv").write_text(f"name,r,g,b\nsky,1,2,3\n{line}\n")
    with pytest.raises(ValueError, match=r"legend\.csv: entry 2 "):
        read_legend(tmp_path / "legend.csv")


def test_no_legend(folder: Path) -> None:
    assert find_legend([folder / "masks" / "a.png"], lambda each: True) is None
    (folder / "labels.txt").write_text("")
    assert find_legend([folder / "masks" / "a.png"], lambda each: True) is None


@pytest.mark.parametrize(
    ("name", "text", "names", "colors", "values"),
    [
        (
            "labelmap.txt",
            "# label:color_rgb:parts:actions\ndog:36,179,83::\nbackground:0,0,0::\n"
            "a cat:250,50,83:head,tail:sit\n",
            ("background", "dog", "a cat"),
            ((0, 0, 0), (36, 179, 83), (250, 50, 83)),
            (),
        ),
        ("_classes.csv", "Pixel Value, Class\n0, ripe\n1, BG\n", ("BG", "ripe"), (), (1, 0)),
        (
            "class_names.txt",
            "__ignore__\n_background_\ncat\n",
            ("_background_", "cat"),
            (),
            (0, 1),
        ),
        (
            "dataset.json",
            json.dumps({"labels": {"0": "background", "2": "ill", "1": "well"}}),
            ("background", "well", "ill"),
            (),
            (0, 1, 2),
        ),
        (
            "dataset.json",
            json.dumps({"labels": {"ill": 1, "background": 0, "ignore": 2}}),
            ("background", "ill", "ignore"),
            (),
            (0, 1, 2),
        ),
        ("id2label.json", '{"0": "background", "2": "ill"}', ("background", "ill"), (), (0, 2)),
        ("classes.json", '["cat", "background"]', ("background", "cat"), (), (1, 0)),
        (
            "classes.json",
            '{"classes": [{"title": "sea", "color": "#E2A929"}, {"title": "bg", '
            '"color": "#000000"}, '
            '{"title": "ice", "color": "#0000ff"}]}',
            ("bg", "sea", "ice"),
            ((0, 0, 0), (226, 169, 41), (0, 0, 255)),
            (),
        ),
        ("classes.txt", "0: ground\n1: a dog\n7: cat", ("ground", "a dog", "cat"), (), (0, 1, 7)),
        ("classes.txt", "ground = 0\ndog = 7\n", ("ground", "dog"), (), (0, 7)),
        ("legend.csv", "id;name\r\n0;Grund\r\n10;Kreis\r\n", ("Grund", "Kreis"), (), (0, 10)),
        ("classes.csv", "class_id,class_name\n0,ground\n9,dog\n", ("ground", "dog"), (), (0, 9)),
        (
            "legend.csv",
            "name,hex\ncat,#0082c8\nbackground,#0a0a0a\n",
            ("background", "cat"),
            ((10, 10, 10), (0, 130, 200)),
            (),
        ),
        (
            "labels.txt",
            "# id name r g b a\n0 other 10 10 10 255\n1 a bar 0 130 200 255\n",
            ("other", "a bar"),
            ((10, 10, 10), (0, 130, 200)),
            (0, 1),
        ),
        (
            "x_annotation-colormap.txt",
            "0 void 0 0 0\n1 dirt 108 64 20\n2 class 9 255 1 2\n",
            ("void", "dirt", "class 9"),
            ((0, 0, 0), (108, 64, 20), (255, 1, 2)),
            (0, 1, 2),
        ),
        (
            "labels.txt",
            '# ITK-SnAP\n    0     0    0    0        0  0  0    "Clear Label"\n'
            '    1   255    0    0        1  1  1    "disc 1"\n',
            ("Clear Label", "disc 1"),
            ((0, 0, 0), (255, 0, 0)),
            (0, 1),
        ),
        ("classes.txt", "polyp\nvoid\n", ("void", "polyp"), (), (1, 0)),
        ("classes.txt", "road\nignore\n", ("road", "ignore"), (), (0, 1)),
        (
            "label_colors.txt",
            "ground 0 0 0 0\na disc 1 255 0 0\nbar 2 0 0 255\n",
            ("ground", "a disc", "bar"),
            ((0, 0, 0), (255, 0, 0), (0, 0, 255)),
            (0, 1, 2),
        ),
        (
            "label_colors.txt",
            "bar,2,0,200,9\ndisc,1,255,0,0\n",
            ("disc", "bar"),
            ((255, 0, 0), (0, 200, 9)),
            (1, 2),
        ),
        (
            "label_colors.txt",
            "ground 0 0 0 255\ndisc 255 0 0 255\nbar 0 0 255 255\n",
            ("ground", "disc", "bar"),
            ((0, 0, 0), (255, 0, 0), (0, 0, 255)),
            (),
        ),
        (
            "label_colors.txt",
            "0 ground 0 0 0 0\n1 disc 255 0 0 255\n",
            ("ground", "disc"),
            ((0, 0, 0), (255, 0, 0)),
            (0, 1),
        ),
        *(
            (
                "class_dict.csv",
                f"{heads},r,g,b\nground,1,0,0,0\ndisc,3,255,0,0\n",
                ("ground", "disc"),
                ((0, 0, 0), (255, 0, 0)),
                (1, 3),
            )
            for heads in ("name,label", "name,class", "label,class", "name,Class ID")
        ),
        (
            "class_dict.csv",
            "label,name,id\n7,ground,0\n9,disc,1\n",
            ("ground", "disc"),
            (),
            (0, 1),
        ),
    ],
)
def test_the_background_comes_first(
    folder: Path,
    name: str,
    text: str,
    names: tuple[str, ...],
    colors: tuple[tuple[int, int, int], ...],
    values: tuple[int, ...],
) -> None:
    (folder / name).write_text(text)
    legend = read_legend(folder / name)
    assert legend is not None
    assert legend[:4] == (folder / name, names, colors, values)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("labels.txt", "1.png\n2.png\n"),
        ("labels.txt", "0 0.5 0.5\n1 0.2 0.2\n"),
        ("labels.txt", "cat\ncat\n"),
        ("labels.csv", "cat\ndog\n"),
        ("labels.csv", "1,cat\n2,cat\n3,dog\n"),
        ("labels.csv", "id,label\nimage_1,cat\nimage_2,dog\n"),
        ("labels.csv", "id,label\n1,0\n2,1\n"),
        ("labels.csv", "name,color\ncat,red\ndog,blue\n"),
        ("classes.json", '{"cat": {"a": 1}}'),
        ("classes.json", '{"cat": 0, "dog": 0, "cow": 1}'),
        ("classes.json", '{"cat": 0, "dog": 99999}'),
        ("classes.json", '[{"name": "cat"}, {"name": "dog"}]'),
        ("classes.json", "3"),
        ("dataset.json", '{"labels": {"a": [1, 2], "b": 1}}'),
        ("dataset.json", '{"images": []}'),
        ("dataset.json", "[" * 100_000),
    ],
)
def test_other_files_are_no_legends(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    assert read_legend(tmp_path / name) is None


@pytest.mark.parametrize("name", ["background", "Background", "_background_", "BG", " bg "])
def test_names_of_the_background(name: str) -> None:
    assert is_background(name)
    assert not is_background(f"no {name}")


def test_a_legend_in_each_folder(tmp_path: Path) -> None:
    masks = [tmp_path / part / "a.png" for part in ("train", "valid", "test")]
    texts = ("_background_\ncat\n", "_background_\ncat\ndog\n", "")
    for mask, text in zip(masks, texts, strict=True):
        mask.parent.mkdir()
        (mask.parent / "class_names.txt").write_text(text)
    legend = find_legend(masks, lambda each: True)
    assert legend is not None
    assert legend.names == ("_background_", "cat", "dog")
    (masks[2].parent / "class_names.txt").write_text("_background_\ndog\n")
    with pytest.raises(DataError) as raised:
        find_legend(masks, lambda each: True)
    assert raised.value.code == "legends-differ"


def test_a_legend_above_the_only_folder_of_masks(tmp_path: Path) -> None:
    mask = touch(tmp_path, "images/a.png", "Seg/shots/tasks/a.png") / "Seg/shots/tasks/a.png"
    (tmp_path / "label_class_dict.csv").write_text("name,r,g,b\nbg,0,0,0\ncat,9,9,9\n")
    legend = find_legend([mask], lambda each: True)
    assert legend is not None
    assert legend.names == ("bg", "cat")
    touch(tmp_path, "Seg/other/a.txt")
    assert find_legend([mask], lambda each: True) is None


@pytest.mark.parametrize("name", ["void", "Ignore", "ignored", "don't care", "Don_t care"])
def test_names_of_no_class(name: str) -> None:
    assert is_void(name)
    assert not any(map(is_void, ("unknown", "unlabelled", "other", "avoid", "background")))


@pytest.mark.usefixtures("file_modes")
def test_a_legend_that_may_not_be_read_is_named(tmp_path: Path) -> None:
    path = touch(tmp_path, "classes.json") / "classes.json"
    path.chmod(0)
    with pytest.raises(DataError, match=r"classes\.json: cannot be read"):
        read_legend(path)


def test_commas_in_quoted_names(tmp_path: Path) -> None:
    path = tmp_path / "_classes.csv"
    path.write_text('Pixel Value, Class\n0, background\n1, "ripe fruit, big"\n2, un ripe\n')
    legend = read_legend(path)
    assert legend is not None
    assert legend.names == ("background", "ripe fruit / big", "un ripe")


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("class,value\nweed,2\ncrop,1\nsoil,0\n", ("soil", "crop", "weed")),
        ("value\tname\n40\tcrop\n0\tsoil\n80\tweed\n", ("soil", "crop", "weed")),
        ("id,name,r,g,b\n0,bar,0,0,0\n2,spot,255,0,0\n1,cell,0,0,255\n", ("bar", "cell", "spot")),
        ("name,hex\nsoil,#000000\nweed,#C8C8C8\ncrop,#646464\n", ("soil", "crop", "weed")),
        ("name,hex\nweed,#FF0000\ncrop,#00FF00\nsoil,#000000\n", ("weed", "crop", "soil")),
    ],
)
def test_classes_are_in_the_order_of_their_values(
    tmp_path: Path, text: str, names: tuple[str, ...]
) -> None:
    (tmp_path / "legend.csv").write_text(text)
    legend = read_legend(tmp_path / "legend.csv")
    assert legend is not None
    assert legend.names == names


def test_names_with_commas_and_slashes(tmp_path: Path) -> None:
    (tmp_path / "classes.txt").write_text("Boden\nGras, Kräuter\nStraße/Weg\n")
    legend = read_legend(tmp_path / "classes.txt")
    assert legend is not None
    assert legend.names == ("Boden", "Gras / Kräuter", "Straße/Weg")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "cp1252"])
@pytest.mark.parametrize("text", ["Straße\nGebäude\n", "name,r,g,b\nStraße,1,2,3\nGebäude,4,5,6\n"])
def test_encodings_of_text(tmp_path: Path, encoding: str, text: str) -> None:
    (tmp_path / "classes.txt").write_text(text, encoding=encoding)
    legend = read_legend(tmp_path / "classes.txt")
    assert legend is not None
    assert legend.names == ("Straße", "Gebäude")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("classes.csv", "class;color\nsoil;#FF000000\nleaf;#FFD50000\n"),
        ("classes.csv", "class;color\nsoil;000000ff\nleaf;D50000FF\n"),
        ("classes.csv", 'id,name,color\n0,soil,"rgb(0, 0, 0)"\n1,leaf,"rgb(213,0,0)"\n'),
        ("classes.csv", "name;color\nsoil;0 0 0\nleaf;[213, 0, 0]\n"),
        ("classes.json", '{"soil": [0, 0, 0], "leaf": [213, 0, 0]}'),
        (
            "classes.json",
            '[{"name": "soil", "color": [0, 0, 0]}, {"name": "leaf", "color": "#d50000"}]',
        ),
    ],
)
def test_forms_of_colours(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    legend = read_legend(tmp_path / name)
    assert legend is not None
    assert (legend.names, legend.colors) == (("soil", "leaf"), ((0, 0, 0), (213, 0, 0)))


def test_a_list_of_classes_that_is_not_understood_is_named(tmp_path: Path) -> None:
    masks = [tmp_path / "masks" / "1.png"]
    masks[0].parent.mkdir()
    (tmp_path / "labels.csv").write_text("1;2;3\n")
    assert notes_of_unread(masks) == []
    (tmp_path / "classes.csv").write_text("1;2;3\n")
    (note,) = notes_of_unread(masks)
    assert str(tmp_path / "classes.csv") in note
