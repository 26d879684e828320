import os
import sqlite3
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from plainunet.dataset import cache as ledger
from plainunet.dataset.cache import recall
from plainunet.formats.problems import DataError
from plainunet.formats.sources import cache_folder


@pytest.fixture
def room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PLAINUNET_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


class Reader:
    """Counts how often it reads."""

    def __init__(self) -> None:
        self.read: list[str] = []

    def __call__(self, *paths: Path) -> list[str]:
        self.read += [path.name for path in paths]
        return [path.read_text() for path in paths]


def files(folder: Path, count: int = 3) -> list[tuple[Path, ...]]:
    paths = [folder / f"{number}.txt" for number in range(count)]
    for path in paths:
        path.write_text(path.stem)
    return [(path,) for path in paths]


def test_an_unchanged_file_is_read_once(tmp_path: Path, room: Path) -> None:
    things, reader = files(tmp_path), Reader()
    assert list(recall("text", things, reader)) == [["0"], ["1"], ["2"]]
    assert list(recall("text", things, reader)) == [["0"], ["1"], ["2"]]
    assert sorted(reader.read) == ["0.txt", "1.txt", "2.txt"]
    # another question about the same files
    assert list(recall("other", things, reader)) == [["0"], ["1"], ["2"]]
    assert len(reader.read) == 6


def test_a_changed_file_is_read_again(tmp_path: Path, room: Path) -> None:
    things, reader = files(tmp_path), Reader()
    list(recall("text", things, reader))
    path = things[1][0]
    path.write_text("longer")
    assert list(recall("text", things, reader)) == [["0"], ["longer"], ["2"]]
    status = path.stat()
    path.write_text("LONGER")  # the same size
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    assert list(recall("text", things, reader)) == [["0"], ["LONGER"], ["2"]]
    assert reader.read.count("1.txt") == 3
    assert reader.read.count("0.txt") == 1


def test_links_share_what_is_known(tmp_path: Path, room: Path) -> None:
    things, reader = files(tmp_path), Reader()
    list(recall("text", things, reader))
    link = tmp_path / "link.txt"
    link.symlink_to(things[0][0])
    assert list(recall("text", [(link,)], reader)) == [["0"]]
    assert "link.txt" not in reader.read


def test_errors_are_handed_on_and_not_remembered(tmp_path: Path, room: Path) -> None:
    things = files(tmp_path)
    things[1][0].unlink()

    def read(path: Path) -> str:
        if path.stem == "2":
            raise DataError(f"{path} is wrong", "damaged")
        return path.read_text()

    first, missing, wrong = recall("text", things, read)
    assert first == "0"
    assert isinstance(missing, DataError)
    assert missing.code == "missing-file"
    assert missing.files == things[1]
    assert isinstance(wrong, DataError)
    assert (wrong.code, wrong.files) == ("damaged", things[2])
    assert list(recall("text", things[2:], lambda path: "mended")) == ["mended"]


def test_other_errors_are_ours(tmp_path: Path, room: Path) -> None:
    def read(path: Path) -> str:
        raise KeyError("a fault of the program")

    with pytest.raises(KeyError):
        list(recall("text", files(tmp_path), read))


def test_without_a_database_nothing_is_remembered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("PLAINUNET_CACHE", str(tmp_path / "file"))
    things, reader = files(tmp_path), Reader()
    for _ in range(2):
        assert list(recall("text", things, reader)) == [["0"], ["1"], ["2"]]
    assert len(reader.read) == 6


def test_a_damaged_database_is_made_anew(tmp_path: Path, room: Path) -> None:
    things, reader = files(tmp_path), Reader()
    list(recall("text", things, reader))
    (room / "facts.sqlite").write_bytes(b"no database at all" * 100)
    for _ in range(3):
        assert list(recall("text", things, reader)) == [["0"], ["1"], ["2"]]
    assert len(reader.read) == 3 * 3  # first, damaged, anew; then known


def test_the_oldest_go(tmp_path: Path, room: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger, "_MOST", 2)
    things, reader = files(tmp_path), Reader()
    list(recall("text", things, reader))
    with sqlite3.connect(cache_folder() / "facts.sqlite") as base:
        assert base.execute("SELECT COUNT(*) FROM facts").fetchone() == (2,)
    base.close()
    list(recall("text", things, reader))
    assert reader.read.count("0.txt") == 2
    assert reader.read.count("2.txt") == 1


def test_several_processes_write_at_once(tmp_path: Path, room: Path) -> None:
    files(tmp_path, 40)
    code = (
        "import sys; from pathlib import Path; from plainunet.dataset.cache import recall\n"
        "folder = Path(sys.argv[1])\n"
        "things = [(folder / f'{n}.txt',) for n in range(40)]\n"
        "found = list(recall('text', things, lambda path: path.read_text()))\n"
        "assert found == [str(n) for n in range(40)], found\n"
    )
    runs = [subprocess.Popen([sys.executable, "-c", code, str(tmp_path)]) for _ in range(4)]
    assert [run.wait(timeout=60) for run in runs] == [0] * 4
    reader = Reader()
    assert len(list(recall("text", files(tmp_path, 0), reader))) == 0


def test_long_answers_are_not_kept(tmp_path: Path, room: Path) -> None:
    things = files(tmp_path, 1)
    times = []

    def read(path: Path) -> str:
        times.append(path)
        return "x" * 100_000

    for _ in range(2):
        assert list(recall("text", things, read)) == ["x" * 100_000]
    assert len(times) == 2


@pytest.mark.parametrize(("target", "words"), [("a.txt", "Too many levels"), ("gone", "No such")])
def test_the_reader_tells_of_links_that_lead_nowhere(
    tmp_path: Path, room: Path, target: str, words: str
) -> None:
    (tmp_path / "a.txt").symlink_to(target)

    def read(path: Path) -> str:
        try:
            return path.read_text()
        except OSError as error:
            raise DataError(f"{path}: {error}", "link-loop") from None

    (problem,) = recall("text", [(tmp_path / "a.txt",)], read)
    assert isinstance(problem, DataError)
    assert (problem.code, problem.files) == ("link-loop", (tmp_path / "a.txt",))
    assert words in str(problem)


def test_many_threads_ask_at_once(room: Path) -> None:
    """As on a machine with many cores: each gets its own answer, whole."""
    store = ledger._Store()
    for number in range(ledger._AT_ONCE):
        store.put(f"key {number}", [number])
    with ThreadPoolExecutor(16) as threads:
        numbers = [number % ledger._AT_ONCE for number in range(20_000)]
        answers = list(threads.map(lambda number: store.get(f"key {number}"), numbers))
    store.close()
    assert answers == [[number] for number in numbers]
