from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plainunet.dataset.pairs import Pair
from plainunet.dataset.split import read_split, write_split

NAMES = st.text(
    st.characters(blacklist_categories=["Cs"], blacklist_characters="/\0"), min_size=1, max_size=8
).filter(lambda name: name not in (".", ".."))


@given(names=st.lists(st.tuples(NAMES, NAMES), min_size=1, max_size=5))
def test_what_is_written_is_read_back(
    tmp_path_factory: pytest.TempPathFactory, names: list[tuple[str, str]]
) -> None:
    root = tmp_path_factory.mktemp("split") / "data"
    outside = tmp_path_factory.getbasetemp() / "elsewhere"
    pairs = [
        Pair(root / "images" / name, outside / name, group, part)
        for (name, group), part in zip(names, ["train", "val", "test"] * 2, strict=False)
    ]
    path = root.parent / "split.csv"
    write_split(path, pairs, root)
    assert read_split(path, root) == pairs
    moved = Path("/another/root")
    assert [pair.image for pair in read_split(path, moved)] == [
        moved / pair.image.relative_to(root) for pair in pairs
    ]


def test_the_file_can_be_read_by_people(tmp_path: Path) -> None:
    pairs = [
        Pair(tmp_path / "images/train/a.jpg", tmp_path / "masks/train/a.png", "a", "train"),
        Pair(tmp_path / "images/b, c.jpg", Path("/far/b.png"), "b", "val"),
    ]
    write_split(tmp_path / "split.csv", pairs, tmp_path)
    assert (tmp_path / "split.csv").read_text(encoding="utf-8").splitlines() == [
        "image,mask,group,part",
        "images/train/a.jpg,masks/train/a.png,a,train",
        '"images/b, c.jpg",/far/b.png,b,val',
    ]


def test_nothing_is_left_of_a_split_that_could_not_be_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"images/0\.jpg has no part"):
        write_split(
            tmp_path / "split.csv",
            [
                Pair(Path("images/1.jpg"), Path("masks/1.png"), "1", "train"),
                Pair(Path("images/0.jpg"), Path("masks/0.png"), "0", None),
            ],
            tmp_path,
        )
    assert list(tmp_path.iterdir()) == []


def test_pairs_without_parts_are_written_without_them(tmp_path: Path) -> None:
    pairs = [Pair(tmp_path / "0.jpg", tmp_path / "0.png", "group", None)]
    write_split(tmp_path / "list.csv", pairs, tmp_path)
    assert (tmp_path / "list.csv").read_text().splitlines() == [
        "image,mask,group",
        "0.jpg,0.png,group",
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"split\.csv begins with the columns \(none\)"),
        ("image,mask\n", r"columns image, mask; expected are image, mask, group, part"),
        ("image,mask,group,part\n", "lists no pairs"),
        ("image,mask,group,part\na,b,c,train\na,b,c,dev\n", r"line 3: .* train, val, test; .*dev"),
        ("image,mask,group,part\na,b,train\n", r"line 2: .*found is a, b, train"),
    ],
)
def test_what_is_no_split_is_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "split.csv").write_text(text)
    with pytest.raises(ValueError, match=message):
        read_split(tmp_path / "split.csv", tmp_path)


def test_no_split_at_all(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"split\.csv does not exist"):
        read_split(tmp_path / "split.csv", tmp_path)
