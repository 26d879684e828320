"""Groups stay in one split; split.csv."""

import math
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plainunet.dataset.pairs import Pair
from plainunet.dataset.split import read_split, shared_groups, split_pairs, write_split

CountCalls = Callable[[Callable[[], object]], int]
GROUPS = st.lists(st.sampled_from("abcdefghij"), min_size=2, max_size=60).filter(
    lambda groups: len(set(groups)) > 1
)


def make_pairs(groups: str | list[str], part: str | None = None) -> list[Pair]:
    return [
        Pair(Path(f"images/{number}.jpg"), Path(f"masks/{number}.png"), group, part)
        for number, group in enumerate(groups)
    ]


ABC = make_pairs("abc")


def validation_of(pairs: list[Pair]) -> frozenset[Path]:
    return frozenset(pair.image for pair in pairs if pair.part == "val")


def all_folds(
    pairs: list[Pair], folds: int, seed: int = 0, shares: list[float] | None = None
) -> list[list[Pair]]:
    return [
        split_pairs(pairs, seed=seed, folds=folds, fold=fold, shares=shares)
        for fold in range(folds)
    ]


def parts_of(pairs: list[Pair]) -> dict[str, set[str | None]]:
    parts: dict[str, set[str | None]] = {}
    for pair in pairs:
        parts.setdefault(pair.group, set()).add(pair.part)
    return parts


@given(fraction=st.floats(0.05, 0.95), seed=st.integers(0, 1000))
def test_the_fraction_is_met_to_half_a_group(fraction: float, seed: int) -> None:
    pairs = make_pairs([str(number // 4) for number in range(400)])
    share = sum(pair.part == "val" for pair in split_pairs(pairs, fraction, seed)) / 400
    assert abs(share - fraction) <= 2 / 400 + 1e-9


def test_a_group_too_large_is_left_in_training() -> None:
    pairs = make_pairs("a" * 90 + "bcdefghijk")
    for seed in range(20):
        assert parts_of(split_pairs(pairs, 0.05, seed))["a"] == {"train"}


@pytest.mark.parametrize("seed", range(20))
def test_validation_is_taken_from_train_and_never_from_test(seed: int) -> None:
    pairs = make_pairs("aabbccdd", "train") + make_pairs("eeff", "test")
    for each in (split_pairs(pairs, 0.25, seed), *all_folds(pairs, 4, seed, [0.5] * len(pairs))):
        parts = parts_of(each)
        assert parts.pop("e") == parts.pop("f") == {"test"}
        assert sorted(map(sorted, parts.values())) == [["train"], ["train"], ["train"], ["val"]]


def test_named_groups_are_held_out_whatever_the_seed() -> None:
    pairs = make_pairs("aabbccdd", "train") + make_pairs("e", "test")
    for seed in range(5):
        parts = parts_of(split_pairs(pairs, 0.5, seed, held_out=("d", "b")))
        assert parts == {"a": {"train"}, "b": {"val"}, "c": {"train"}, "d": {"val"}, "e": {"test"}}


def test_given_splits_are_kept_and_shared_groups_are_found() -> None:
    pairs = make_pairs("ab", "train") + make_pairs("bc", "val") + make_pairs("d", "test")
    assert split_pairs(pairs, 0.9, 5) == pairs
    assert shared_groups(pairs) == ["b"]
    assert shared_groups(make_pairs("aab")) == []


@pytest.mark.parametrize(
    ("pairs", "asked", "message"),
    [
        (make_pairs("aaaa"), {}, r"'a'.*--group-by '\.\+'"),
        (make_pairs("aa", "train"), {}, "'a'"),
        ([], {}, "pairs"),
        (make_pairs("ab"), {"fraction": 0.0}, r"\b0\.0\b"),
        (make_pairs("ab"), {"fraction": 1.0}, r"\b1\.0\b"),
        (make_pairs("ab", "val"), {}, "train/"),
        (make_pairs("ab", "train") + make_pairs("c"), {}, r"images/0\.jpg"),
        # folds
        (ABC, {"fold": 2}, r"--fold\b.* 2\b.*--folds\b"),
        (ABC, {"folds": 3}, r"--folds\b.* 3\b.*--fold\b.*0 .*2"),
        (ABC, {"folds": 3, "fold": 3}, r"--fold\b.* 3\b.*--folds\b.* 3\b.* 0 .*2"),
        (ABC, {"folds": 3, "fold": -1}, r"--fold\b.* -1\b.*--folds\b.* 3\b"),
        (ABC, {"folds": 1, "fold": 0}, r"folds\b.* 1\b.* 2\b"),
        (ABC, {"folds": -3, "fold": 0}, r"folds\b.* -3\b"),
        (
            make_pairs("aabbcc"),
            {"folds": 4, "fold": 0},
            r"--folds\b.* 4\b.* 3 .*--group-by",
        ),
        (make_pairs("aaaa"), {"folds": 2, "fold": 0}, r"\b1\b"),
        (
            make_pairs("ab", "train") + make_pairs("cd", "test"),
            {"folds": 3, "fold": 0},
            r"--folds\b.* 3\b.* 2 ",
        ),
        (
            [*make_pairs("ab", "train"), Pair(Path("v.jpg"), Path("v.png"), "c", "val")],
            {"folds": 2, "fold": 0},
            r"--folds\b.* 2\b.*v\.jpg ",
        ),
        # named groups
        (make_pairs(["tile1", "tile2", "x"]), {"held_out": ("tile3",)}, r"tile3:.*tile[12], tile"),
        (ABC, {"held_out": ("7",)}, "a, b, c"),
        (ABC, {"held_out": ("a", "b", "c")}, "--held-out"),
        (
            [*make_pairs("ab", "train"), Pair(Path("v.jpg"), Path("v.png"), "c", "val")],
            {"held_out": ("a",)},
            "--held-out: .*own split",
        ),
        (make_pairs(["16", "17", "x"]), {"held_out": ("16.png",)}, r"such as 16,"),
        # shares of foreground
        (ABC, {"shares": [0.5]}, r"\b1\b.*\b3\b"),
        (ABC, {"shares": [0.5, 1.01, 0]}, r"masks/1\.png .*\b1\.01"),
        (ABC, {"shares": [0.5, 0, -0.1]}, r"masks/2\.png .*-0\.1"),
        (ABC, {"shares": [math.inf, 0, 1]}, r"masks/0\.png .*\binf"),
    ],
)
def test_invalid_splits(pairs: list[Pair], asked: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        split_pairs(pairs, **asked)


# folds
@given(data=st.data(), groups=GROUPS, seed=st.integers(0, 1000), stratified=st.booleans())
def test_every_image_validates_in_exactly_one_of_equal_folds(
    data: st.DataObject, groups: list[str], seed: int, stratified: bool
) -> None:
    pairs = make_pairs(groups)
    folds = data.draw(st.integers(2, len(set(groups))))
    shares = data.draw(shares_of(len(pairs))) if stratified else None
    found = all_folds(pairs, folds, seed, shares)
    for each in found:
        assert [replace(pair, part=None) for pair in each] == pairs
        assert all(len(where) == 1 for where in parts_of(each).values())
        assert {pair.part for pair in each} == {"train", "val"}
    validation = [validation_of(each) for each in found]
    assert sorted(path for part in validation for path in part) == sorted(
        pair.image for pair in pairs
    )
    counts = [len(part) for part in validation]
    assert max(counts) - min(counts) <= max(Counter(groups).values())


@given(
    data=st.data(),
    groups=GROUPS,
    seed=st.integers(0, 1000),
    folds=st.sampled_from([None, 2]),
    stratified=st.booleans(),
)
def test_neither_order_nor_shares_of_rounding_change_the_draw(
    data: st.DataObject, groups: list[str], seed: int, folds: int | None, stratified: bool
) -> None:
    pairs = make_pairs(groups)
    # the last bit of sums of tenths depends on the order
    shares = data.draw(st.lists(st.sampled_from([0.1, 0.2, 0.3, 0.7]), min_size=60, max_size=60))
    both = list(zip(pairs, shares[: len(pairs)], strict=True))
    shuffled = list(both)
    data.draw(st.randoms(use_true_random=False)).shuffle(shuffled)
    drawn = [
        validation_of(
            split_pairs(
                [pair for pair, _ in order],
                0.3,
                seed,
                folds=folds,
                fold=folds and 1,
                shares=[share for _, share in order] if stratified else None,
            )
        )
        for order in (both, both, shuffled)
    ]
    assert drawn[0] == drawn[1] == drawn[2]


def test_means_do_not_depend_on_the_order_of_images() -> None:
    """0.1 + 0.2 + 0.3 is not 0.3 + 0.2 + 0.1 in the last bit, but the groups are equal."""
    pairs, shares = make_pairs("aaabbb"), [0.1, 0.2, 0.3, 0.3, 0.2, 0.1]
    for seed in range(10):
        found = split_pairs(pairs, 0.5, seed, shares=shares)
        assert found == split_pairs(pairs[::-1], 0.5, seed, shares=shares[::-1])[::-1]


def test_each_seed_draws_and_deals_otherwise() -> None:
    pairs = make_pairs([str(number) for number in range(50)])
    for shares in (None, [number / 50 for number in range(50)]):
        drawn = {validation_of(split_pairs(pairs, 0.2, seed, shares=shares)) for seed in range(9)}
        dealt = {frozenset(map(validation_of, all_folds(pairs, 5, s, shares))) for s in range(9)}
        assert len(dealt) == 9
        assert len(drawn) > (3 if shares else 8)  # one of five neighbours by share


def letters(found: list[Pair]) -> str:
    return "".join(pair.group for pair in found if pair.part == "val")


def test_the_split_is_stable() -> None:
    """These letters were drawn once; other draws would mix the splits of old and new runs."""
    assert letters(split_pairs(make_pairs("abcdefghij"), 0.3, 0)) == "fgh"
    pairs, shares = make_pairs("aabcdefghij"), [number / 11 for number in range(11)]
    assert list(map(letters, all_folds(pairs, 3))) == ["aabj", "eghi", "cdf"]
    assert list(map(letters, all_folds(pairs, 3, shares=shares))) == ["aaei", "cfhj", "bdg"]
    for seed, drawn in ((0, "cfi"), (1, "bfi")):
        found = split_pairs(make_pairs("abcdefghij"), 0.3, seed, shares=shares[:10])
        assert letters(found) == drawn
    pairs = make_pairs("a" * 30 + "b" * 20 + "c" * 20 + "d" * 10 + "e" * 10)
    assert [len(validation_of(each)) for each in all_folds(pairs, 3)] == [30, 30, 30]


# stratified by foreground share
def shares_of(count: int) -> st.SearchStrategy[list[float]]:
    share = st.floats(0, 1) | st.sampled_from([0.0, 0.25, math.nan])
    return st.lists(share, min_size=count, max_size=count)


def by_share(pairs: list[Pair], shares: list[float]) -> list[set[Path]]:
    """The images of each group, in the order of the groups' mean shares, NaN last."""
    groups: dict[str, list[tuple[Path, float]]] = {}
    for pair, share in zip(pairs, shares, strict=True):
        groups.setdefault(pair.group, []).append((pair.image, share))

    def mean(members: list[tuple[Path, float]]) -> float:
        known = [share for _, share in members if not math.isnan(share)]
        return sum(known) / len(known) if known else 2

    return [{path for path, _ in each} for each in sorted(groups.values(), key=mean)]


def distinct_shares(count: int, seed: int) -> list[float]:
    shares = [(number / count) ** 3 for number in range(count)]
    random.Random(seed).shuffle(shares)
    return shares


@given(
    size=st.integers(1, 4),
    count=st.integers(2, 40),
    seed=st.integers(0, 1000),
    data=st.data(),
)
def test_each_fold_gets_one_of_neighbours_by_share(
    size: int, count: int, seed: int, data: st.DataObject
) -> None:
    """So the mean shares of folds differ by less than the range of shares per block."""
    pairs = make_pairs([str(number) for number in range(count)] * size)
    folds = data.draw(st.integers(2, count))
    shares = distinct_shares(size * count, seed)
    validation = [validation_of(each) for each in all_folds(pairs, folds, seed, shares)]
    order = by_share(pairs, shares)
    for first in range(0, count, folds):
        block = order[first : first + folds]
        owners = [[group <= part for part in validation].index(True) for group in block]
        assert len(set(owners)) == len(block)
    # the mean over whole blocks differs by less than the range of shares over the blocks' number
    if size == 1 and count % folds == 0:
        of = dict(zip((pair.image for pair in pairs), shares, strict=True))
        means = [sum(of[path] for path in part) / len(part) for part in validation]
        assert max(means) - min(means) <= (max(shares) - min(shares)) / (count // folds)


@given(
    size=st.integers(1, 4),
    count=st.integers(2, 60),
    fraction=st.floats(0.02, 0.98),
    seed=st.integers(0, 1000),
)
def test_validation_is_spread_over_all_shares(
    size: int, count: int, fraction: float, seed: int
) -> None:
    """Of the n groups with least foreground, n times the fraction validate, within one."""
    pairs = make_pairs([str(number) for number in range(count)] * size)
    shares = distinct_shares(size * count, seed)
    validation = validation_of(split_pairs(pairs, fraction, seed, shares=shares))
    taken = 0
    for number, group in enumerate(by_share(pairs, shares), start=1):
        assert group <= validation or not group & validation
        taken += group <= validation
        assert abs(taken - number * fraction) <= 1 + 1e-9
    assert 0 < taken < count


@given(
    data=st.data(),
    groups=GROUPS,
    fraction=st.floats(0.01, 0.99),
    seed=st.integers(0, 1000),
    stratified=st.booleans(),
)
def test_groups_stay_whole_and_the_fraction_is_met(
    data: st.DataObject, groups: list[str], fraction: float, seed: int, stratified: bool
) -> None:
    pairs = make_pairs(groups)
    shares = data.draw(shares_of(len(pairs))) if stratified else None
    found = split_pairs(pairs, fraction, seed, shares=shares)
    assert [replace(pair, part=None) for pair in found] == pairs
    parts = parts_of(found)
    assert all(len(where) == 1 for where in parts.values())
    assert set.union(*parts.values()) == {"train", "val"}
    largest = max(Counter(groups).values())
    assert abs(len(validation_of(found)) - fraction * len(pairs)) <= largest + 1e-9


def test_each_group_is_as_likely_as_the_fraction() -> None:
    pairs = make_pairs([str(number) for number in range(20)])
    shares = distinct_shares(20, 0)
    times = Counter(
        path
        for seed in range(500)
        for path in validation_of(split_pairs(pairs, 0.3, seed, shares=shares))
    )
    assert len(times) == 20
    # 150 expected, with a standard deviation of 10
    assert max(abs(count - 150) for count in times.values()) < 50


def test_images_without_a_share_go_last() -> None:
    """Six groups known, six not: each half is sampled separately, as one run of neighbours."""
    pairs = make_pairs([str(number) for number in range(12)] * 2)
    # a group with one known image counts by that image
    shares = [*[0.5, math.nan] * 6, *[math.nan] * 12]
    known = {pair.image for pair, share in zip(pairs, shares, strict=True) if share == 0.5}
    for seed in range(20):
        for each in all_folds(pairs, 3, seed, shares):
            assert len(validation_of(each) & known) == 2
        assert len(validation_of(split_pairs(pairs, 1 / 3, seed, shares=shares)) & known) == 2
    # if the unknown one were first, the others could be in one fold
    pairs = make_pairs("abc")
    for seed in range(20):
        fold, _ = all_folds(pairs, 2, seed, [0.1, math.nan, 0.2])
        assert fold[0].part != fold[2].part


def test_many_folds_take_linear_time(count_calls: CountCalls) -> None:

    def split(images: int) -> None:
        pairs = make_pairs([str(number) for number in range(images)])
        found = split_pairs(pairs, folds=images // 10, fold=7, shares=[0.5] * images)
        assert len(validation_of(found)) == 10

    assert count_calls(lambda: split(2000)) < 2.5 * count_calls(lambda: split(1000))


NAMES = st.text(
    st.characters(blacklist_categories=["Cs"], blacklist_characters="/\0"), min_size=1, max_size=8
).filter(lambda name: name not in (".", ".."))


@given(names=st.lists(st.tuples(NAMES, NAMES), min_size=1, max_size=5))
def test_written_splits_are_read_back(
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


def test_the_file_is_readable(tmp_path: Path) -> None:
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
    write_split(tmp_path / "list.csv", [replace(pairs[0], part=None)], tmp_path)
    assert (tmp_path / "list.csv").read_text(encoding="utf-8").splitlines() == [
        "image,mask,group",
        "images/train/a.jpg,masks/train/a.png,a",
    ]


def test_a_failed_split_leaves_no_file(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"images/0\.jpg"):
        write_split(tmp_path / "split.csv", make_pairs("ab", "train") + make_pairs("c"), tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, r"split\.csv "),
        ("", r"split\.csv "),
        ("image,mask\n", r"image, mask\b.*image, mask, group, part"),
        ("image,mask,group,part\n", r"split\.csv "),
        ("image,mask,group,part\na,b,c,train\na,b,c,dev\n", r"line 3: .* train, val, test\b.*dev"),
        ("image,mask,group,part\na,b,train\n", r"line 2: .*a, b, train"),
    ],
)
def test_invalid_split_files_are_refused(tmp_path: Path, text: str | None, message: str) -> None:
    if text is not None:
        (tmp_path / "split.csv").write_text(text)
    with pytest.raises(ValueError if text is not None else FileNotFoundError, match=message):
        read_split(tmp_path / "split.csv", tmp_path)
