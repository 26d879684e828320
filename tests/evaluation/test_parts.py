from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from plainunet.dataset.dataset import SegmentationDataset, data_digest
from plainunet.dataset.pairs import find_pairs

# which part is taken of which folder: test_evaluate.py, with real runs


def test_a_folder_is_recognised_by_names_and_sizes(
    draw: Callable[[Path], Path], tmp_path: Path
) -> None:
    data = draw(tmp_path / "data")
    pairs = find_pairs(data)
    digest = data_digest(pairs, data)
    assert data_digest(pairs[::-1], data) == digest
    data.rename(tmp_path / "moved")
    assert data_digest(find_pairs(tmp_path / "moved"), tmp_path / "moved") == digest

    moved = tmp_path / "moved"
    with (moved / "images" / "3.png").open("ab") as file:
        file.write(b"\0")
    longer = data_digest(find_pairs(moved), moved)
    for kind in ("images", "masks"):
        (moved / kind / "3.png").rename(moved / kind / "33.png")
    assert len({digest, longer, data_digest(find_pairs(moved), moved)}) == 3


def test_some_sizes_are_remembered(draw: Callable[[Path], Path], tmp_path: Path) -> None:
    data = draw(tmp_path / "data")
    dataset = SegmentationDataset.open(data)
    sizes = dataset.sample_sizes()
    assert sizes == {
        f"images/{n}.png": (data / "images" / f"{n}.png").stat().st_size for n in range(10)
    }
    many = replace(dataset, pairs=[*dataset.pairs] * 20)
    assert len(many.sample_sizes()) <= 32
