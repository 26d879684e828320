"""Legends: files beside masks that say which colour or value is which class."""

from pathlib import Path

import pytest

from plainunet.formats.legends import find_legend, read_legend


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
    with pytest.raises(ValueError, match=r"legend\.csv: entry 2 is not a name and a colour"):
        read_legend(tmp_path / "legend.csv")


def test_no_legend(folder: Path) -> None:
    assert find_legend([folder / "masks" / "a.png"], lambda each: True) is None
    (folder / "labels.txt").write_text("")
    assert find_legend([folder / "masks" / "a.png"], lambda each: True) is None
