"""What a judging has counted outlives its process."""

from pathlib import Path

import numpy as np

from plainunet.training.validate import JOURNALS, Journal


def matrix(number: int) -> np.ndarray:
    return np.full((2, 2), number, dtype=np.int64)


def test_counts_are_there_again_for_the_same_judging_alone(tmp_path: Path) -> None:
    journal = Journal(tmp_path, "0", "epoch 3")
    assert journal.counts == []
    journal.add(matrix(2**40))
    journal.add(matrix(7))
    assert not (tmp_path / JOURNALS).exists()  # quick judgings leave nothing on the disk
    journal.write()
    again = Journal(tmp_path, "0", "epoch 3").counts
    assert [each.dtype for each in again] == [np.int64] * 2
    assert np.array_equal(again, [matrix(2**40), matrix(7)])
    assert Journal(tmp_path, "0", "epoch 4").counts == []
    assert Journal(tmp_path, "1", "epoch 3").counts == []


def test_it_is_written_now_and_then_and_gone_at_the_end(tmp_path: Path) -> None:
    journal = Journal(tmp_path, "0", "epoch 3")
    journal._written -= 60
    journal.add(matrix(1))
    assert len(Journal(tmp_path, "0", "epoch 3").counts) == 1
    journal.add(matrix(2))
    assert len(Journal(tmp_path, "0", "epoch 3").counts) == 1
    journal.close()
    journal.close()
    assert list((tmp_path / JOURNALS).iterdir()) == []


def test_a_damaged_one_is_begun_anew(tmp_path: Path) -> None:
    (tmp_path / JOURNALS).mkdir()
    (tmp_path / JOURNALS / "judged-0.json").write_text("{half")
    assert Journal(tmp_path, "0", "epoch 3").counts == []
