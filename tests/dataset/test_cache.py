"""Samples are decoded once, facts about files computed once."""

import os
import pickle
import signal
import sqlite3
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from plainunet.dataset import cache as module
from plainunet.dataset.cache import Cache, MixedDepthsError, Sample, cached, recall
from plainunet.formats.problems import DataError
from plainunet.formats.sources import CocoImage, cache_folder, parse_source

SETTINGS: dict[str, Any] = {"count": 3, "box": (4, 6)}


@pytest.fixture(autouse=True)
def room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "cache"
    monkeypatch.setenv("PLAINUNET_CACHE", str(folder))
    return folder


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    paths = [tmp_path / f"{number}.png" for number in range(3)]
    for path in paths:
        path.write_text(path.stem)
    return paths


CODE = """
import resource, sys, time
from pathlib import Path
import numpy as np
from plainunet.dataset.cache import cached

folder = Path(sys.argv[1])
files = sorted(folder.glob("*.png"))

def sample(index, height=4, width=6):
    return tuple(np.full((height, width, n), v, np.uint8) for n, v in ((3, 10 * index), (2, index)))
"""


class Loader:
    """Creates samples, and records which were requested."""

    def __init__(self, dtype: Any = np.uint8, objects: bool = False) -> None:
        self.asked: list[int] = []
        self.dtype = dtype
        self.objects = objects

    def __call__(self, index: int) -> Sample:
        self.asked.append(index)
        image = np.full((4, 6, 3), 10 * index, np.uint8)
        if self.dtype != np.uint8:
            image = (image + 0.5).astype(self.dtype)
        labels = [np.full((4, 6, 1), 60_000 + index, np.uint16)] if self.objects else []
        return image, np.full((4, 6, 2), index, np.uint8), *labels


def entries(room: Path) -> list[Path]:
    return sorted(room.iterdir()) if room.exists() else []


def must(cache: Cache | None) -> Cache:
    assert cache is not None
    return cache


@pytest.mark.parametrize(
    ("dtype", "objects"), [(np.uint8, False), (np.float32, False), (np.uint8, True)]
)
def test_samples_come_back(files: list[Path], dtype: Any, objects: bool) -> None:
    load, progress = Loader(dtype, objects), list[tuple[int, int]]()
    cache = must(cached(files, SETTINGS, load, lambda *step: progress.append(step)))
    os.utime(cache.folder, (1000, 1000))
    assert len(cache) == 3
    for index in range(3):
        for part, wanted in zip(cache[index], load(index), strict=True):
            assert part.dtype == wanted.dtype
            assert np.array_equal(part, wanted)
    assert cache.folder.stat().st_mtime > 1000  # use renews its time stamp
    assert progress == [(1, 3), (2, 3), (3, 3)]
    with pytest.raises(ValueError, match="read-only"):
        cache[0][0][0] = 1
    names = {file.name for file in cache.folder.iterdir()}
    assert names == {"images.npy", "shares.npy", *(["objects.npy"] if objects else [])}


def test_made_once_and_used_again(files: list[Path], room: Path) -> None:
    first = must(cached(files, SETTINGS, Loader()))
    loader = Loader()
    second = must(cached(files, SETTINGS, loader))
    assert loader.asked == []
    assert first.folder == second.folder
    assert entries(room) == [first.folder]
    assert (second[1][0] == 10).all()
    # other settings or another order give another entry
    for settings in ({**SETTINGS, "box": (4, 7)}, {**SETTINGS, "more": 1}):
        cached(files, settings, loader)
    cached(files[::-1], SETTINGS, loader)
    assert sorted(loader.asked) == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert len(entries(room)) == 4


def test_a_changed_file_gives_a_new_entry(files: list[Path], room: Path) -> None:
    cached(files, SETTINGS, Loader())
    before = files[1].stat()
    files[1].write_text("x")  # same size, newer
    os.utime(files[1], ns=(before.st_atime_ns, before.st_mtime_ns + 1_000_000))
    loader = Loader()
    cached(files, SETTINGS, loader)
    assert set(loader.asked) == {0, 1, 2}
    files[2].write_text("longer")
    os.utime(files[2], ns=(before.st_atime_ns, before.st_mtime_ns))
    loader = Loader()
    cached(files, SETTINGS, loader)
    assert set(loader.asked) == {0, 1, 2}
    assert len(entries(room)) == 3


class Failing(Loader):
    def __init__(self, third: Sample | Exception | None) -> None:
        super().__init__()
        self.third = third

    def __call__(self, index: int) -> Sample:
        if index < 2 or self.third is None:
            return super().__call__(index)
        if isinstance(self.third, Exception):
            raise self.third
        return self.third


SHARES = np.zeros((4, 6, 2), np.uint8)


@pytest.mark.parametrize(
    ("third", "sizes", "error", "message"),
    [
        (ValueError("2.png cannot be read"), None, ValueError, "2.png"),
        (FileNotFoundError("2.png"), None, FileNotFoundError, "2.png"),
        # floats in 0..1 stored as integers would silently be black
        ((np.full((4, 6, 3), 0.5, np.float32), SHARES), None, MixedDepthsError, None),
        ((np.zeros((4, 7, 3), np.uint8), SHARES), None, ValueError, r"Sample 2 .*\(4, 7, 3\)"),
        # another size than given
        (None, [(4, 6), (5, 6), (4, 6)], ValueError, r"Sample 1 .*not .*\(5, 6, 3\)"),
    ],
)
def test_failure_leaves_nothing(
    files: list[Path],
    room: Path,
    third: Any,
    sizes: Any,
    error: type[Exception],
    message: str | None,
) -> None:
    with pytest.raises(error, match=message):
        cached(files, SETTINGS, Failing(third), None, sizes)
    assert entries(room) == []
    # the next try works
    assert len(must(cached(files, SETTINGS, Loader()))) == 3


def test_files_of_killed_processes_are_removed_later(files: list[Path], room: Path) -> None:
    old, young = room / ".part-old", room / ".part-young"
    for part in (old, young):
        part.mkdir(parents=True)
        (part / "images.npy").touch()
    os.utime(old / "images.npy", (1000, 1000))
    os.utime(young, (1000, 1000))  # begun long ago, but still being written
    cache = must(cached(files, SETTINGS, Loader()))
    assert entries(room) == sorted([young, cache.folder])


def test_killed_while_filling(files: list[Path], room: Path) -> None:
    """No incomplete entry is left, and the next try works."""
    code = """
def load(index):
    if index == 2:
        print("two are written, or soon will be", flush=True)
        time.sleep(60)
    return sample(index, 400, 600)

cached(files, {"count": 3, "box": (4, 6)}, load)
"""
    command = [sys.executable, "-c", CODE + code, str(files[0].parent)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    (part,) = entries(room)
    assert part.name.startswith(".part-")
    loader = Loader()
    cache = must(cached(files, SETTINGS, loader))
    assert set(loader.asked) == {0, 1, 2}
    assert (cache[2][0] == 20).all()
    assert entries(room) == sorted([part, cache.folder])


def test_entries_being_written_use_space(
    files: list[Path], room: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = must(cached(files, SETTINGS, Loader())).folder
    size = sum(file.stat().st_size for file in kept.iterdir())
    monkeypatch.setattr(module, "LIMIT", 3 * size)

    def load(index: int) -> Sample:
        if index == 2:  # this entry has begun, and has its final size
            must(cached(files, {**SETTINGS, "name": "third"}, Loader()))
            assert kept.exists()
            must(cached(files, {**SETTINGS, "name": "fourth"}, Loader()))
            assert not kept.exists()
        return Loader()(index)

    must(cached(files, {**SETTINGS, "name": "second"}, load))
    assert sum(file.stat().st_size for file in room.rglob("*.npy")) == 3 * size


def test_a_full_disk_is_not_an_error(files: list[Path], room: Path) -> None:
    """A limit on file sizes replaces the full disk."""
    code = """
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
assert cached(files, {"count": 3}, lambda index: sample(index, 80, 100)) is None
"""
    subprocess.run(
        [sys.executable, "-c", CODE + code, str(files[0].parent)], check=True, timeout=60
    )
    assert entries(room) == []


def test_few_samples_wait_in_memory(files: list[Path]) -> None:
    """However slow the disk is."""
    asked: list[int] = []
    waiting: list[int] = []

    def load(index: int) -> Sample:
        asked.append(index)
        return Loader()(0)

    def written(done: int, count: int) -> None:
        time.sleep(0.005)
        waiting.append(len(asked) - done)

    cached(files, {**SETTINGS, "count": 100}, load, written)
    assert 0 < max(waiting) <= 2 * (os.cpu_count() or 1) + 1


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="counts kilobytes as Linux does")
def test_memory_use_is_constant(tmp_path: Path) -> None:
    code = """
assert cached(files, {"count": int(sys.argv[2])}, lambda index: sample(1, 512, 512))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""
    (tmp_path / "a.png").touch()

    def peak(count: int) -> int:
        command = [sys.executable, "-c", CODE + code, str(tmp_path), str(count)]
        return int(subprocess.run(command, check=True, capture_output=True).stdout)

    added = 120 * 512 * 512 * 5 / 1024
    assert peak(160) - peak(40) < added / 10


@pytest.mark.parametrize("name", ["stack.tif", "notes.json", "runs.csv"])
def test_items_of_a_file_differ(tmp_path: Path, room: Path, name: str) -> None:
    file = tmp_path / name
    file.write_text("a")
    for item in (0, 1, 0):
        cached([CocoImage(file, item)], {"count": 1}, Loader())
    assert len(entries(room)) == 2
    file.write_text("ab")
    loader = Loader()
    cached([CocoImage(file, 0)], {"count": 1}, loader)
    assert loader.asked == [0]
    with pytest.raises(FileNotFoundError, match=r"no\.tif"):
        cached([tmp_path / "no.tif[3]"], {"count": 1}, Loader())


def test_files_of_classes_differ(tmp_path: Path, room: Path) -> None:
    for name in ("road", "car"):
        (tmp_path / name).mkdir()
    place = parse_source(tmp_path / "{road,car}" / "7.png")
    (tmp_path / "road" / "7.png").write_text("a")

    def made_again() -> bool:
        loader = Loader()
        cached([place], {"count": 1}, loader)
        return loader.asked == [0]

    assert made_again()
    assert not made_again()
    (tmp_path / "car" / "7.png").write_text("b")  # a class that had no file
    assert made_again()
    (tmp_path / "car" / "7.png").write_text("longer")
    assert made_again()
    other = parse_source(tmp_path / "{car,road}" / "7.png")  # other numbers for the same classes
    assert cached([other], {"count": 1}, Loader()) is not None
    assert len(entries(room)) == 4


def test_sizes_that_differ(files: list[Path], room: Path) -> None:
    sizes = [(4, 6), (7, 3), (2, 2)]

    def load(index: int) -> Sample:
        image = np.arange(np.prod(sizes[index]) * 3, dtype=np.uint8).reshape(*sizes[index], 3)
        return image + np.uint8(index), np.full((*sizes[index], 2), index, np.uint8)

    for _ in range(2):  # made, then found
        cache = must(cached(files, {"count": 3}, load, None, sizes))
        assert len(cache) == 3
        for index in range(3):
            for part, wanted in zip(cache[index], load(index), strict=True):
                assert np.array_equal(part, wanted)
    assert len(pickle.loads(pickle.dumps(cache))) == 3
    names = sorted(file.name for file in cache.folder.iterdir())
    assert names == ["images.npy", "shares.npy", "sizes.npy"]
    assert cache.arrays[0].shape == (4 * 6 + 7 * 3 + 2 * 2, 3)


def test_no_entry_without_space_or_permission(
    files: list[Path], room: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = must(cached(files, SETTINGS, Loader()))

    def load(index: int) -> Sample:
        side = 2 + 20 * index
        return np.zeros((side, side, 3), np.uint8), np.zeros((side, side, 2), np.uint8)

    # the first is small; all together would not fit, and evict nothing
    monkeypatch.setattr(module, "LIMIT", 1000)
    assert cached(files, {"count": 3}, load, None, [(2 + 20 * n,) * 2 for n in range(3)]) is None
    monkeypatch.setattr(module, "LIMIT", 3 * 4 * 6 * (3 + 2) - 1)
    loader = Loader()
    assert cached(files, {**SETTINGS, "more": 1}, loader) is None
    assert set(loader.asked) <= {0}
    assert entries(room) == [kept.folder]
    monkeypatch.setenv("PLAINUNET_CACHE", str(files[0] / "below a file"))
    assert cached(files, SETTINGS, Loader()) is None


def test_two_processes_at_once(files: list[Path], room: Path) -> None:
    code = """
(folder / f"ready{sys.argv[2]}").touch()
while len(list(folder.glob("ready*"))) < 2:
    time.sleep(0.01)

def load(index):
    time.sleep(0.2)
    return sample(index)

cache = cached(files, {"count": 3}, load)
assert [int(cache[index][0].max()) for index in range(3)] == [0, 10, 20]
"""
    command = [sys.executable, "-c", CODE + code, str(files[0].parent)]
    processes = [subprocess.Popen([*command, name]) for name in "ab"]
    assert [process.wait(60) for process in processes] == [0, 0]
    (entry,) = entries(room)
    assert sorted(file.name for file in entry.iterdir()) == ["images.npy", "shares.npy"]


def test_oldest_goes_first(files: list[Path], room: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = [must(cached(files, {**SETTINGS, "name": name}, Loader())).folder for name in "abc"]
    for age, folder in enumerate(made):
        os.utime(folder, (1000 + age, 1000 + age))
    size = sum(file.stat().st_size for file in made[0].iterdir())
    cached(files, {**SETTINGS, "name": "a"}, Loader())  # used again, so b is the oldest now
    monkeypatch.setattr(module, "LIMIT", 3 * size)
    fourth = must(cached(files, {**SETTINGS, "name": "d"}, Loader()))
    assert entries(room) == sorted([made[0], made[2], fourth.folder])


def test_what_this_process_reads_stays(
    files: list[Path], room: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the training samples of a run do while those for validation are decoded."""
    train = must(cached(files, SETTINGS, Loader()))
    other = must(cached(files, {**SETTINGS, "name": "other"}, Loader())).folder
    size = sum(file.stat().st_size for file in other.iterdir())
    monkeypatch.setattr(module, "LIMIT", 2 * size)
    val = must(cached(files, {**SETTINGS, "name": "val"}, Loader()))
    assert entries(room) == sorted([train.folder, val.folder])
    assert cached(files, {**SETTINGS, "name": "more"}, Loader()) is None
    assert entries(room) == sorted([train.folder, val.folder])


def test_location_of_the_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, room: Path) -> None:
    assert cache_folder() == room
    monkeypatch.setenv("PLAINUNET_CACHE", "")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "plainunet"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert cache_folder() == tmp_path / "home" / ".cache" / "plainunet"


class Reader:
    """Counts how often it reads."""

    def __init__(self) -> None:
        self.read: list[str] = []

    def __call__(self, *paths: Path) -> list[str]:
        self.read += [path.name for path in paths]
        return [path.read_text() for path in paths]


def texts(folder: Path, count: int = 3) -> list[tuple[Path, ...]]:
    paths = [folder / f"{number}.txt" for number in range(count)]
    for path in paths:
        path.write_text(path.stem)
    return [(path,) for path in paths]


def test_an_unchanged_file_is_read_once(tmp_path: Path) -> None:
    things, reader = texts(tmp_path), Reader()
    for _ in range(2):
        assert list(recall("text", things, reader)) == [["0"], ["1"], ["2"]]
    (tmp_path / "link.txt").symlink_to(things[0][0])  # a link shares the facts
    assert list(recall("text", [(tmp_path / "link.txt",)], reader)) == [["0"]]
    assert sorted(reader.read) == ["0.txt", "1.txt", "2.txt"]
    # another fact about the same files
    assert list(recall("other", things, reader)) == [["0"], ["1"], ["2"]]
    assert len(reader.read) == 6
    for _ in range(2):  # long answers are not kept
        list(recall("long", things[:1], lambda path: reader(path) * 50_000))
    assert len(reader.read) == 8


def test_a_changed_file_is_read_again(tmp_path: Path) -> None:
    things, reader = texts(tmp_path), Reader()
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


def test_errors_are_passed_on_and_not_stored(tmp_path: Path) -> None:
    things = texts(tmp_path)
    things[1][0].unlink()

    def read(path: Path) -> str:
        if path.stem == "2":
            raise DataError(f"{path} is wrong", "damaged")
        return path.read_text()

    def fail(path: Path) -> str:
        raise KeyError("a fault of the program")

    first, missing, wrong = recall("text", things, read)
    assert first == "0"
    assert isinstance(missing, DataError)
    assert (missing.code, missing.files) == ("missing-file", things[1])
    assert isinstance(wrong, DataError)
    assert (wrong.code, wrong.files) == ("damaged", things[2])
    assert list(recall("text", things[2:], lambda path: "fixed")) == ["fixed"]
    with pytest.raises(KeyError):
        list(recall("other", things, fail))


def test_without_a_database_nothing_is_stored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("PLAINUNET_CACHE", str(tmp_path / "file"))
    things, reader = texts(tmp_path), Reader()
    for _ in range(2):
        assert list(recall("text", things, reader)) == [["0"], ["1"], ["2"]]
    assert len(reader.read) == 6


def test_a_damaged_database_is_recreated(tmp_path: Path, room: Path) -> None:
    things, reader = texts(tmp_path), Reader()
    list(recall("text", things, reader))
    (room / "facts.sqlite").write_bytes(b"no database at all" * 100)
    for _ in range(3):
        assert list(recall("text", things, reader)) == [["0"], ["1"], ["2"]]
    assert len(reader.read) == 3 * 3  # first, damaged, anew; then known


def test_the_oldest_are_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MOST", 2)
    things, reader = texts(tmp_path), Reader()
    list(recall("text", things, reader))
    with sqlite3.connect(cache_folder() / "facts.sqlite") as base:
        assert base.execute("SELECT COUNT(*) FROM facts").fetchone() == (2,)
    base.close()
    list(recall("text", things, reader))
    assert reader.read.count("0.txt") == 2
    assert reader.read.count("2.txt") == 1


def test_several_processes_write_at_once(tmp_path: Path) -> None:
    texts(tmp_path, 40)
    code = (
        "import sys; from pathlib import Path; from plainunet.dataset.cache import recall\n"
        "folder = Path(sys.argv[1])\n"
        "things = [(folder / f'{n}.txt',) for n in range(40)]\n"
        "found = list(recall('text', things, lambda path: path.read_text()))\n"
        "assert found == [str(n) for n in range(40)], found\n"
    )
    runs = [subprocess.Popen([sys.executable, "-c", code, str(tmp_path)]) for _ in range(4)]
    assert [run.wait(timeout=60) for run in runs] == [0] * 4


def test_many_threads_ask_at_once() -> None:
    """As on a machine with many cores: each gets its own complete answer."""
    store = module._Store()
    for number in range(module._AT_ONCE):
        store.put(f"key {number}", [number])
    with ThreadPoolExecutor(16) as threads:
        numbers = [number % module._AT_ONCE for number in range(4000)]
        answers = list(threads.map(lambda number: store.get(f"key {number}"), numbers))
    store.close()
    assert answers == [[number] for number in numbers]
