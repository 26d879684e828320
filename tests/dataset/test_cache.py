import hashlib
import json
import os
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from plainunet.dataset import cache as module
from plainunet.dataset.cache import Cache, MixedDepthsError, Sample, cache_folder, cached
from plainunet.formats.sources import CocoImage, Page, parse_source

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


class Loader:
    """Makes samples, and remembers which were asked for."""

    def __init__(self) -> None:
        self.asked: list[int] = []

    def __call__(self, index: int) -> Sample:
        self.asked.append(index)
        image = np.full((4, 6, 3), 10 * index, np.uint8)
        return image, np.full((4, 6, 2), index, np.uint8)


def entries(room: Path) -> list[Path]:
    return sorted(room.iterdir()) if room.exists() else []


def must(cache: Cache | None) -> Cache:
    assert cache is not None
    return cache


def test_samples_come_back(files: list[Path]) -> None:
    progress: list[tuple[int, int]] = []
    cache = must(
        cached(files, SETTINGS, Loader(), lambda done, total: progress.append((done, total)))
    )
    assert len(cache) == 3
    for index in range(3):
        image, shares = cache[index]
        assert image.dtype == shares.dtype == np.uint8
        assert image.shape == (4, 6, 3)
        assert shares.shape == (4, 6, 2)
        assert (image == 10 * index).all()
        assert (shares == index).all()
    assert progress == [(1, 3), (2, 3), (3, 3)]


def test_samples_are_read_only(files: list[Path]) -> None:
    image, _ = must(cached(files, SETTINGS, Loader()))[0]
    with pytest.raises(ValueError, match="read-only"):
        image[0] = 1


def test_float_pictures(files: list[Path]) -> None:
    def load(index: int) -> Sample:
        return np.full((2, 3, 1), index - 0.25, np.float32), np.zeros((2, 3, 2), np.uint8)

    image, _ = must(cached(files, SETTINGS, load))[2]
    assert image.dtype == np.float32
    assert (image == 1.75).all()


def test_third_arrays(files: list[Path], room: Path) -> None:
    def load(index: int) -> Sample:
        return *Loader()(index), np.full((4, 6, 1), 60_000 + index, np.uint16)

    cache = must(cached(files, {**SETTINGS, "objects": True}, load))
    for index in range(3):
        image, shares, labels = cache[index]
        assert (image == 10 * index).all()
        assert (shares == index).all()
        assert labels.dtype == np.uint16
        assert labels.shape == (4, 6, 1)
        assert (labels == 60_000 + index).all()
    names = sorted(file.name for file in cache.folder.iterdir())
    assert names == ["images.npy", "objects.npy", "shares.npy"]
    # beside the entry without them
    assert len(must(cached(files, SETTINGS, Loader()))[0]) == 2
    assert len(entries(room)) == 2


def test_earlier_entries_are_still_read(files: list[Path], room: Path) -> None:
    """An entry as it was made before there were third arrays."""
    stamps = [[str(f.resolve()), f.stat().st_size, f.stat().st_mtime_ns] for f in files]
    key = json.dumps([*stamps, SETTINGS, 1])
    folder = room / hashlib.sha256(key.encode()).hexdigest()[:24]
    folder.mkdir(parents=True)
    images, shares = (np.stack([Loader()(n)[part] for n in range(3)]) for part in (0, 1))
    np.save(folder / "images.npy", images)
    np.save(folder / "shares.npy", shares)
    loader = Loader()
    cache = must(cached(files, SETTINGS, loader))
    assert loader.asked == []
    assert np.array_equal(cache[2][0], images[2])
    assert np.array_equal(cache[2][1], shares[2])


def test_made_once_and_used_again(files: list[Path], room: Path) -> None:
    first = must(cached(files, SETTINGS, Loader()))
    loader = Loader()
    second = must(cached(files, SETTINGS, loader))
    assert loader.asked == []
    assert first.folder == second.folder
    assert entries(room) == [first.folder]
    assert (second[1][0] == 10).all()


def test_changed_file_makes_it_again(files: list[Path], room: Path) -> None:
    cached(files, SETTINGS, Loader())
    before = files[1].stat()
    files[1].write_text("x")  # as many bytes as before, later
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


@pytest.mark.parametrize("settings", [{**SETTINGS, "box": (4, 7)}, {**SETTINGS, "more": 1}])
def test_changed_setting_makes_it_again(files: list[Path], settings: dict[str, Any]) -> None:
    cached(files, SETTINGS, Loader())
    loader = Loader()
    cached(files, settings, loader)
    assert set(loader.asked) == {0, 1, 2}


def test_other_order_is_another_entry(files: list[Path], room: Path) -> None:
    cached(files, SETTINGS, Loader())
    cached(files[::-1], SETTINGS, Loader())
    assert len(entries(room)) == 2


@pytest.mark.parametrize("error", [ValueError, FileNotFoundError])
def test_failure_leaves_nothing(files: list[Path], room: Path, error: type[Exception]) -> None:
    def load(index: int) -> Sample:
        if index == 2:
            raise error("2.png cannot be read")
        return Loader()(index)

    with pytest.raises(error, match=r"2\.png"):
        cached(files, SETTINGS, load)
    assert entries(room) == []
    # nor may it stand in the way of the next try
    assert len(must(cached(files, SETTINGS, Loader()))) == 3


def test_pictures_of_another_depth_are_not_bent(files: list[Path], room: Path) -> None:
    """Floats in 0..1 stored as integers would be black, and nobody would be told."""

    def load(index: int) -> Sample:
        image, shares = Loader()(index)
        return (image if index < 2 else np.full((4, 6, 3), 0.5, np.float32)), shares

    with pytest.raises(MixedDepthsError):
        cached(files, SETTINGS, load)
    assert entries(room) == []


def test_leftovers_of_killed_processes_go_in_time(files: list[Path], room: Path) -> None:
    old, young = room / ".part-old", room / ".part-young"
    for part in (old, young):
        part.mkdir(parents=True)
        (part / "images.npy").touch()
    os.utime(old / "images.npy", (1000, 1000))
    os.utime(young, (1000, 1000))  # begun long ago, but still written to
    cache = must(cached(files, SETTINGS, Loader()))
    assert entries(room) == sorted([young, cache.folder])


def test_killed_while_filling(files: list[Path], room: Path) -> None:
    """Neither half an entry nor anything that stands in the way of the next try is left."""
    code = """
import sys, time
from pathlib import Path
import numpy as np
from plainunet.dataset.cache import cached

def load(index):
    if index == 2:
        print("two are written, or soon will be", flush=True)
        time.sleep(60)
    return np.full((400, 600, 3), 10 * index, np.uint8), np.full((400, 600, 2), index, np.uint8)

cached(sorted(Path(sys.argv[1]).glob("*.png")), {"count": 3, "box": (4, 6)}, load)
"""
    command = [sys.executable, "-c", code, str(files[0].parent)]
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


def test_what_others_are_writing_takes_room(
    files: list[Path], room: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = must(cached(files, SETTINGS, Loader()))
    size = sum(file.stat().st_size for file in kept.folder.iterdir())
    monkeypatch.setattr(module, "LIMIT", 3 * size)

    def load(index: int) -> Sample:
        if index == 2:  # this entry has begun, and takes as many bytes as it will in the end
            must(cached(files, {**SETTINGS, "name": "third"}, Loader()))
            assert kept.folder.exists()
            must(cached(files, {**SETTINGS, "name": "fourth"}, Loader()))
            assert not kept.folder.exists()
        return Loader()(index)

    must(cached(files, {**SETTINGS, "name": "second"}, load))
    assert sum(file.stat().st_size for file in room.rglob("*.npy")) == 3 * size


def test_full_disk_is_no_fault(files: list[Path], room: Path) -> None:
    """A limit on the sizes of files takes the disk's place."""
    code = """
import resource, sys
from pathlib import Path
import numpy as np
from plainunet.dataset.cache import cached

resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))

def load(index):
    return np.zeros((80, 100, 3), np.uint8), np.zeros((80, 100, 2), np.uint8)

assert cached(sorted(Path(sys.argv[1]).glob("*.png")), {"count": 3}, load) is None
"""
    subprocess.run([sys.executable, "-c", code, str(files[0].parent)], check=True, timeout=60)
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


@pytest.mark.skipif(sys.platform != "linux", reason="counts kilobytes as Linux does")
def test_memory_does_not_grow_with_the_number_of_pictures(tmp_path: Path) -> None:
    code = """
import resource, sys
from pathlib import Path
import numpy as np
from plainunet.dataset.cache import cached

def load(index):
    return np.full((512, 512, 3), 1, np.uint8), np.full((512, 512, 2), 1, np.uint8)

assert cached([Path(sys.argv[1])], {"count": int(sys.argv[2])}, load)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""
    file = tmp_path / "a.png"
    file.touch()

    def peak(count: int) -> int:
        command = [sys.executable, "-c", code, str(file), str(count)]
        return int(subprocess.run(command, check=True, capture_output=True, timeout=60).stdout)

    added = 120 * 512 * 512 * 5 / 1024
    assert peak(160) - peak(40) < added / 10


def test_gone_while_in_use(files: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process may need the room: then it says so, and gives no wrong sample."""
    first = must(cached(files, SETTINGS, Loader()))
    opened, unopened = Cache(first.folder), Cache(first.folder)
    assert (opened[1][0] == 10).all()
    os.utime(first.folder, (1000, 1000))
    monkeypatch.setattr(module, "LIMIT", 2 * 3 * 4 * 6 * 5)
    must(cached(files, {**SETTINGS, "more": 1}, Loader()))
    assert not first.folder.exists()
    assert (opened[2][0] == 20).all()
    with pytest.raises(FileNotFoundError):
        unopened[1]


def test_use_keeps_an_entry_young(files: list[Path]) -> None:
    cache = must(cached(files, SETTINGS, Loader()))
    os.utime(cache.folder, (1000, 1000))
    cache[0]
    assert cache.folder.stat().st_mtime > 1000


@pytest.mark.parametrize("name", ["stack.tif", "notes.json", "runs.csv"])
def test_items_of_a_file_are_told_apart(tmp_path: Path, room: Path, name: str) -> None:
    file = tmp_path / name
    file.write_text("a")
    for item in (0, 1, 0):
        cached([CocoImage(file, item)], {"count": 1}, Loader())
    assert len(entries(room)) == 2
    file.write_text("ab")
    loader = Loader()
    cached([CocoImage(file, 0)], {"count": 1}, loader)
    assert loader.asked == [0]


def test_files_of_classes_are_told_apart(tmp_path: Path, room: Path) -> None:
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


def test_missing_file_of_a_place(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no\.tif"):
        cached([Page(tmp_path / "no.tif", 3)], {"count": 1}, Loader())


def test_samples_of_other_sizes_are_refused(files: list[Path], room: Path) -> None:
    def load(index: int) -> Sample:
        return np.zeros((4, 6 + index // 2, 3), np.uint8), np.zeros((4, 6, 2), np.uint8)

    with pytest.raises(ValueError, match=r"Sample 2 .*\(4, 7, 3\)"):
        cached(files, SETTINGS, load)
    assert entries(room) == []


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


def test_a_sample_that_is_not_as_large_as_said(files: list[Path], room: Path) -> None:
    with pytest.raises(ValueError, match=r"Sample 1 .*not .*\(5, 6, 3\)"):
        cached(files, SETTINGS, Loader(), None, [(4, 6), (5, 6), (4, 6)])
    assert entries(room) == []


def test_room_for_sizes_that_differ(
    files: list[Path], room: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first is small; all together would not fit."""
    monkeypatch.setattr(module, "LIMIT", 1000)

    def load(index: int) -> Sample:
        side = 2 + 20 * index
        return np.zeros((side, side, 3), np.uint8), np.zeros((side, side, 2), np.uint8)

    assert cached(files, SETTINGS, load, None, [(2 + 20 * n,) * 2 for n in range(3)]) is None
    assert entries(room) == []


def test_two_processes_at_once(files: list[Path], room: Path) -> None:
    code = """
import sys, time
from pathlib import Path
import numpy as np
from plainunet.formats.sources import CocoImage, Page, parse_source
from plainunet.dataset.cache import cached

folder = Path(sys.argv[1])
(folder / f"ready{sys.argv[2]}").touch()
while len(list(folder.glob("ready*"))) < 2:
    time.sleep(0.01)

def load(index):
    time.sleep(0.2)
    return np.full((4, 6, 3), 10 * index, np.uint8), np.full((4, 6, 2), index, np.uint8)

cache = cached(sorted(folder.glob("*.png")), {"count": 3}, load)
assert [int(cache[index][0].max()) for index in range(3)] == [0, 10, 20]
"""
    command = [sys.executable, "-c", code, str(files[0].parent)]
    processes = [subprocess.Popen([*command, name]) for name in "ab"]
    assert [process.wait(60) for process in processes] == [0, 0]
    (entry,) = entries(room)
    assert sorted(file.name for file in entry.iterdir()) == ["images.npy", "shares.npy"]


def test_oldest_goes_first(files: list[Path], room: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = [must(cached(files, {**SETTINGS, "name": name}, Loader())) for name in "abc"]
    for age, cache in enumerate(made):
        os.utime(cache.folder, (1000 + age, 1000 + age))
    size = sum(file.stat().st_size for file in made[0].folder.iterdir())
    cached(files, {**SETTINGS, "name": "a"}, Loader())  # used again, so b is the oldest now
    monkeypatch.setattr(module, "LIMIT", 3 * size)
    fourth = must(cached(files, {**SETTINGS, "name": "d"}, Loader()))
    assert entries(room) == sorted([made[0].folder, made[2].folder, fourth.folder])


def test_no_entry_where_it_would_not_fit(
    files: list[Path], room: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    needed = 3 * 4 * 6 * (3 + 2)
    monkeypatch.setattr(module, "LIMIT", needed - 1)
    loader = Loader()
    assert cached(files, SETTINGS, loader) is None
    assert set(loader.asked) <= {0}
    assert entries(room) == []


def test_what_cannot_fit_drives_nothing_out(
    files: list[Path], room: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = must(cached(files, SETTINGS, Loader()))
    monkeypatch.setattr(module, "LIMIT", 2000)

    def load(index: int) -> Sample:
        return np.zeros((40, 60, 3), np.uint8), np.zeros((40, 60, 2), np.uint8)

    assert cached(files, {"count": 3}, load) is None
    assert entries(room) == [kept.folder]


def test_no_cache_where_none_can_be_made(
    files: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PLAINUNET_CACHE", str(files[0] / "below a file"))
    assert cached(files, SETTINGS, Loader()) is None


def test_pickled_without_the_data(files: list[Path]) -> None:
    def load(index: int) -> Sample:
        return np.zeros((64, 64, 3), np.uint8), np.zeros((64, 64, 2), np.uint8)

    cache = must(cached(files, SETTINGS, load))
    assert sum(array.nbytes for array in cache.arrays) > 50_000
    packed = pickle.dumps(cache)
    assert len(packed) < 1000
    assert np.array_equal(pickle.loads(packed).arrays[0], cache.arrays[0])


def test_where_it_lies(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, room: Path) -> None:
    assert cache_folder() == room
    monkeypatch.setenv("PLAINUNET_CACHE", "")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "plainunet"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert cache_folder() == tmp_path / "home" / ".cache" / "plainunet"
