import logging
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plainunet.data.pairing import Pair, find_pairs
from plainunet.data.split import read_split, split_pairs, write_split

GROUPS = st.lists(st.sampled_from("abcdefghij"), min_size=2, max_size=60).filter(
    lambda groups: len(set(groups)) > 1
)


def make_pairs(groups: str | list[str], part: str | None = None) -> list[Pair]:
    return [
        Pair(Path(f"images/{number}.jpg"), Path(f"masks/{number}.png"), group, part)
        for number, group in enumerate(groups)
    ]


def parts_of(pairs: list[Pair]) -> dict[str, set[str | None]]:
    parts: dict[str, set[str | None]] = {}
    for pair in pairs:
        parts.setdefault(pair.group, set()).add(pair.part)
    return parts


@given(groups=GROUPS, fraction=st.floats(0.01, 0.99), seed=st.integers(0, 1000))
def test_groups_stay_whole_and_both_sides_have_some(
    groups: list[str], fraction: float, seed: int
) -> None:
    pairs = make_pairs(groups)
    found = split_pairs(pairs, fraction, seed)
    assert [replace(pair, part=None) for pair in found] == pairs
    parts = parts_of(found)
    assert all(len(where) == 1 for where in parts.values())
    assert set.union(*parts.values()) == {"train", "val"}


@given(groups=GROUPS, seed=st.integers(0, 1000), order=st.randoms())
def test_order_does_not_matter(groups: list[str], seed: int, order: object) -> None:
    pairs = make_pairs(groups)
    shuffled = list(pairs)
    order.shuffle(shuffled)
    assert set(split_pairs(pairs, 0.3, seed)) == set(split_pairs(shuffled, 0.3, seed))


@given(fraction=st.floats(0.05, 0.95), seed=st.integers(0, 1000))
def test_the_fraction_is_met_to_half_a_group(fraction: float, seed: int) -> None:
    pairs = make_pairs([str(number // 4) for number in range(400)])
    share = sum(pair.part == "val" for pair in split_pairs(pairs, fraction, seed)) / 400
    assert abs(share - fraction) <= 2 / 400 + 1e-9


def test_a_group_too_large_is_left_in_training() -> None:
    pairs = make_pairs("a" * 90 + "bcdefghijk")
    for seed in range(20):
        assert parts_of(split_pairs(pairs, 0.05, seed))["a"] == {"train"}


def test_seeds_differ_and_one_seed_repeats() -> None:
    pairs = make_pairs([str(number) for number in range(50)])
    drawn = [tuple(pair.part for pair in split_pairs(pairs, 0.2, seed)) for seed in range(10)]
    assert len(set(drawn)) == 10
    assert drawn[3] == tuple(pair.part for pair in split_pairs(pairs, 0.2, 3))


def test_a_split_of_today_is_the_split_of_tomorrow() -> None:
    """These letters were drawn once; another draw would mix old and new runs' parts."""
    found = split_pairs(make_pairs("abcdefghij"), 0.3, 0)
    assert "".join(pair.group for pair in found if pair.part == "val") == "fgh"


def test_given_parts_are_kept() -> None:
    given_parts = [
        *make_pairs("ab", "train"),
        *make_pairs("c", "val"),
        *make_pairs("d", "test"),
    ]
    assert split_pairs(given_parts, 0.9, 5) == given_parts


def test_validation_is_taken_from_training_and_never_from_the_test_part() -> None:
    pairs = make_pairs("aabbccdd", "train") + make_pairs("eeff", "test")
    for seed in range(20):
        parts = parts_of(split_pairs(pairs, 0.25, seed))
        assert [where for group, where in parts.items() if group in "ef"] == [{"test"}] * 2
        assert sum(where == {"val"} for where in parts.values()) == 1
        assert sum(where == {"train"} for where in parts.values()) == 3


def test_a_group_on_both_given_sides_is_mentioned(caplog: pytest.LogCaptureFixture) -> None:
    pairs = make_pairs("ab", "train") + make_pairs("bc", "val")
    with caplog.at_level(logging.WARNING):
        assert split_pairs(pairs) == pairs
    assert "1 groups are in more than one of the given parts (b)" in caplog.text


@pytest.mark.parametrize(
    ("pairs", "fraction", "message"),
    [
        (make_pairs("aaaa"), 0.2, r"one group \('a'\).*'\.\+' makes each"),
        (make_pairs("aa", "train"), 0.2, r"one group \('a'\)"),
        ([], 0.2, "There are no pairs"),
        (make_pairs("ab"), 0.0, "fraction is 0.0; it must be between 0 and 1"),
        (make_pairs("ab"), 1.0, "fraction is 1.0"),
        (make_pairs("ab", "val"), 0.2, "No picture is in the training part"),
        (make_pairs("ab", "train") + make_pairs("c"), 0.2, r"images/0\.jpg has no part"),
    ],
)
def test_what_cannot_be_split(pairs: list[Pair], fraction: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        split_pairs(pairs, fraction)


# split.csv


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
        write_split(tmp_path / "split.csv", make_pairs("ab"), tmp_path)
    assert list(tmp_path.iterdir()) == []


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


def test_real_cars_stay_whole(data_root: Path) -> None:
    pairs = find_pairs(data_root / "carvana")
    found = split_pairs(pairs, 8 / 48, seed=0)
    parts = parts_of(found)
    assert all(len(where) == 1 for where in parts.values())
    assert sum(where == {"val"} for where in parts.values()) == 8
    assert found == split_pairs(pairs[::-1], 8 / 48, seed=0)[::-1]
