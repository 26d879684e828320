"""Datasets in tar shards: written whole, and read by any number of workers, each sample once."""

import json
import os
import tarfile
from itertools import islice, pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from plainunet.config import TrainConfig
from plainunet.dataset.coding import Values
from plainunet.dataset.dataset import SegmentationDataset
from plainunet.dataset.lists import find_images
from plainunet.dataset.loader import ShardBatches, make_loader
from plainunet.dataset.samples import TrainingSet
from plainunet.dataset.shards import ShardedDataset, ShardSamples, write_shards
from plainunet.doctor.diagnose import check
from plainunet.formats.images import read_image
from plainunet.formats.problems import DataError
from plainunet.formats.sources import Member, parse_image, parse_source
from plainunet.training.crossval import cross_validate

from ..folders import Stages, make_pair, save
from ..forks import Fork, fork_command

SIZE = 16, 16


def numbered(folder: Path, count: int) -> Path:
    """Images whose pixels are their number; half of each mask is of class 1."""
    mask = np.zeros(SIZE, np.uint8)
    mask[:8] = 1
    for number in range(count):
        image = np.full((*SIZE, 3), (number % 251, number // 251, 7), np.uint8)
        make_pair(folder, f"{number:05d}", image, mask)
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """50 images in groups of 5, one of them a JPEG, with masks of 0, 1 and, ignored, 9."""
    folder = tmp_path_factory.mktemp("shards") / "data"
    random = np.random.default_rng(0)
    for number in range(50):
        mask = random.integers(0, 2, SIZE, dtype=np.uint8)
        mask[0, :3] = 9
        image = random.integers(0, 255, (*SIZE, 3), dtype=np.uint8)
        make_pair(folder, f"g{number // 5}_{number % 5}.v1", image, mask)
    jpeg = folder / "images" / "g0_0.v1.png"
    save(jpeg.with_suffix(".jpg"), np.asarray(Image.open(jpeg)))
    jpeg.unlink()
    (folder / "dataset.toml").write_text('ignore = 9\ngroup_by = "g[0-9]+"\n')
    return folder


CONFIG = TrainConfig(seed=3)


@pytest.fixture(scope="module")
def shards(data: Path) -> Path:
    write_shards(data, data.with_name("shards"), CONFIG)
    return data.with_name("shards")


def test_shards_hold_the_files_and_the_split_of_the_folder(data: Path, shards: Path) -> None:
    folder = SegmentationDataset.open(data).split(CONFIG)
    sharded = SegmentationDataset.open(shards)
    assert isinstance(sharded, ShardedDataset)
    assert len(sharded) == 50
    assert sharded.coding == Values((0, 1), 255)
    assert sorted(sharded.shapes) == [(16, 16, 3)] * 50
    assert sharded.class_pixels == folder.class_pixels
    assert sharded.counts() == folder.counts()
    assert sharded.pairs[-1] == sharded.pairs[49]
    with pytest.raises(IndexError, match="50 pairs"):
        sharded.pairs[50]
    for part in ("train", "val"):
        mine = folder.part(part)
        with tarfile.open(shards / f"{part}-00000.tar") as tar:
            names = tar.getnames()
            contents = [tar.extractfile(name).read() for name in names]  # type: ignore[union-attr]
        keys = [name.partition(".") for name in names]
        assert [key for key, _, _ in keys[::2]] == [key for key, _, _ in keys[1::2]]
        assert {suffix for _, _, suffix in keys[1::2]} == {"mask.png"}
        stored = sorted(contents[::2])
        assert stored == sorted(Path(str(pair.image)).read_bytes() for pair in mine.pairs)
        # as class ids, those of the folder
        theirs = {image.tobytes(): ids for image, ids in mine}  # type: ignore[attr-defined]
        for image, ids in sharded.part(part):  # type: ignore[attr-defined]
            np.testing.assert_array_equal(ids, theirs[image.tobytes()])
    assert json.loads((shards / "index.json").read_text())["dtypes"] == ["uint8"]


def test_names_of_members_are_read_back(shards: Path) -> None:
    pair = SegmentationDataset.open(shards).pairs[0]
    assert parse_image(str(pair.image)) == pair.image == Member(shards / "train-00000.tar", 0)
    assert parse_source(str(pair.mask)) == pair.mask == Member(shards / "train-00000.tar", 0, True)


class StopError(Exception):
    """Ends a call at any point."""


class Cut(Stages):
    def advance(self, done: int) -> None:
        if self.stages[-1][0] == "writing shards":
            raise StopError


def test_an_interrupted_call_is_continued(tmp_path: Path) -> None:
    """30 images of noise, 48 KiB each, in three shards of at most 1 MiB."""
    data, whole, cut = (tmp_path / name for name in ("data", "whole", "cut"))
    random = np.random.default_rng(0)
    for number in range(30):
        image = random.integers(0, 255, (128, 128, 3), dtype=np.uint8)
        make_pair(data, f"{number}", image, np.eye(128, dtype=np.uint8))
    write_shards(data, whole, shard_size=1)
    with pytest.raises(StopError):
        write_shards(data, cut, reporter=Cut(), shard_size=1)
    assert sorted(path.name for path in cut.iterdir()) == [".unfinished.json", "train-00000.tar"]
    first = (cut / "train-00000.tar").stat().st_ino
    (cut / "train-00001.tar").touch()  # as if killed before it was recorded
    write_shards(data, cut, shard_size=1)
    assert (cut / "train-00000.tar").stat().st_ino == first  # not written again
    assert not (cut / ".unfinished.json").exists()
    files = [{path.name: path.read_bytes() for path in each.iterdir()} for each in (whole, cut)]
    assert files[0] == files[1]
    names = [f"{part}-0000{n}.tar" for part, n in (("train", 0), ("train", 1), ("val", 0))]
    assert sorted(files[0]) == ["index.json", *names]
    assert max(map(len, files[0].values())) <= 2**20 + 10240
    assert write_shards(data, cut, shard_size=1).shards  # nothing is left to do
    (cut / "train-00001.tar").unlink()
    with pytest.raises(ValueError, match=r"train-00001\.tar: is missing"):
        write_shards(data, cut, shard_size=1)


def test_other_files_are_left_alone(data: Path, shards: Path, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    with pytest.raises(ValueError, match=r"notes\.txt"):
        write_shards(data, tmp_path, CONFIG)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]
    before = {path.name: path.stat().st_mtime_ns for path in shards.iterdir()}
    with pytest.raises(ValueError, match=str(shards)):
        write_shards(data, shards, TrainConfig(seed=4))
    with pytest.raises(ValueError, match=str(shards)):
        write_shards(shards, tmp_path / "new", CONFIG)
    assert {path.name: path.stat().st_mtime_ns for path in shards.iterdir()} == before


def test_damage_is_named(shards: Path, tmp_path: Path) -> None:
    whole, coding = (shards / "train-00000.tar").read_bytes(), Values((0, 1), 255)
    for number, size in enumerate((0, 700, 1500, 5000, len(whole) // 2)):
        file = tmp_path / f"{number}.tar"
        file.write_bytes(whole[:size])
        with pytest.raises(DataError, match=str(file)):
            coding.read(Member(file, 39, is_mask=True))
    at = whole.index(b"IDAT") + 20
    file.write_bytes(whole[:at] + bytes([whole[at] ^ 255]) + whole[at + 1 :])
    with pytest.raises(DataError, match="write the shards again"):
        read_image(Member(file, 0))
    (tmp_path / "index.json").write_bytes((shards / "index.json").read_bytes())
    with pytest.raises(FileNotFoundError, match=r"train-00000\.tar"):
        SegmentationDataset.open(tmp_path)
    with pytest.raises(FileNotFoundError, match="gone"):
        coding.read(Member(tmp_path / "gone.tar", 0))
    (tmp_path / "index.json").write_text('{"format": "plainunet shards 1"')
    with pytest.raises(ValueError, match=r"index\.json"):
        SegmentationDataset.open(tmp_path)


def test_what_reads_no_shards(shards: Path, tmp_path: Path) -> None:
    for setting in ({"held_out": ("g3",)}, {"split_seed": 1}):
        with pytest.raises(ValueError, match="shards keep"):
            SegmentationDataset.open(shards).split(TrainConfig(**setting))  # type: ignore[arg-type]
    for verb in (check, lambda at: cross_validate(at, tmp_path), lambda at: find_images([at])):
        with pytest.raises(ValueError, match="holds tar shards"):
            verb(shards)


def test_shards_are_read_from_a_url(shards: Path, tmp_path: Path) -> None:
    index = json.loads((shards / "index.json").read_text())
    (tmp_path / "index.json").write_text(json.dumps({**index, "location": shards.as_uri()}))
    here, there = SegmentationDataset.open(shards), SegmentationDataset.open(tmp_path)
    assert here.digest() == there.digest()
    for one, other in zip(here[3], there[3], strict=True):
        np.testing.assert_array_equal(one, other)
    (tmp_path / "index.json").write_text(json.dumps({**index, "location": "nonsense://x"}))
    with pytest.raises(OSError, match="nonsense"):
        SegmentationDataset.open(tmp_path)[45]


def test_the_command(data: Path, tmp_path: Path) -> None:
    fork_command("shard", data, tmp_path / "out", "--held-out", "g3", "g7").end()
    with tarfile.open(tmp_path / "out" / "val-00000.tar") as tar:
        contents = [tar.extractfile(each).read() for each in tar]  # type: ignore[union-attr]
    groups = [file.read_bytes() for file in (data / "images").glob("g[37]_*")]
    assert sorted(contents[::2]) == sorted(groups)
    assert "error" in fork_command("shard", tmp_path / "none", tmp_path / "x").end(2)
    assert not (tmp_path / "x").exists()


def drawn(batches: ShardBatches) -> list[int]:
    return [index for batch in batches for _, _, index in batch]


counts = st.lists(st.integers(1, 9), min_size=1, max_size=12)


@given(counts, st.integers(1, 3), st.integers(1, 3), st.integers(1, 2), st.data())
def test_every_sample_once_per_epoch_and_after_resuming(
    counts: list[int], processes: int, workers: int, repeats: int, data: st.DataObject
) -> None:
    """Also with another number of processes after resuming; the readers are those of before."""

    def order(processes: int, first: int = 0, last: int | None = None) -> list[int]:
        found = []
        for rank in range(processes):
            batches = ShardBatches(counts, 6, 1, repeats, rank, processes)
            batches.epoch, batches.first, batches.readers = 2, first, readers
            number = len(batches) if last is None else last - first
            found += [index for batch in list(batches)[:number] for _, _, index in batch]
        return found

    processes = min(processes, sum(counts) * repeats)
    readers = processes, workers
    everything = sorted(list(range(sum(counts))) * repeats)
    assert sorted(order(processes)) == everything
    stopped = data.draw(st.integers(0, len(ShardBatches(counts, 6, 1, repeats, 0, processes))))
    for others in (processes, 1):
        if len(ShardBatches(counts, 6, 1, repeats, 0, processes)) == len(
            ShardBatches(counts, 6, 1, repeats, 0, others)
        ):
            resumed = order(processes, 0, stopped) + order(others, stopped)
            assert sorted(resumed) == everything


def test_a_worker_reads_one_shard_after_another() -> None:
    """40 shards, 2 x 2 readers: at most three shards are read by two of them."""
    counts = [10 + number % 3 for number in range(40)]
    shard_of = np.repeat(np.arange(40), counts)
    read, orders = list[int](), list[list[int]]()
    for epoch in range(2):
        for rank in range(2):
            batches = ShardBatches(counts, 8, 0, 1, rank, 2)
            batches.epoch, batches.readers = epoch, (2, 2)
            orders.append(drawn(batches))
            for worker in range(2):
                mine = [shard_of[i] for batch in list(batches)[worker::2] for _, _, i in batch]
                read += [mine[0], *(b for a, b in pairwise(mine) if a != b)]
    assert 80 <= len(read) <= 86
    assert orders[0] != orders[2]
    assert orders[0] != sorted(orders[0])


STREAM = """
import os, sys
import numpy as np
from plainunet.dataset.dataset import SegmentationDataset
from plainunet.dataset.lists import find_images
from plainunet.dataset.loader import ShardBatches, iterate, make_loader
from plainunet.dataset.samples import TrainingSet
from plainunet.dataset.shards import ShardSamples
from plainunet.training.distributed import join_processes

with join_processes("cpu") as processes, open(f"{log}-{processes.rank}", "a") as seen:
    samples = ShardSamples(SegmentationDataset.open(data).part("train"), (16, 16), 3)
    batches = ShardBatches(samples.counts, 64, 0, 1, processes.rank, processes.count)
    batches.first, batches.readers = first, (2, 2)
    loader = make_loader(TrainingSet(samples, "none", 0, (16, 16)), batches, 2)
    for number, (images, _) in enumerate(iterate(loader), first):
        pixels = images[:, 0, 0].numpy().astype(int)
        seen.write("".join(f"{number} {a + 251 * b}\\n" for a, b, _ in pixels))
        seen.flush()
        processes.gather(number)  # as the gradients of a step
        if number == stop and processes.rank == 1:
            os.kill(os.getpid(), 9)
"""


def stream(data: Path, first: int, last: int) -> list[int]:
    """The numbers of the images that two ranks with two workers each get in some batches."""
    samples = ShardSamples(ShardedDataset.of(data).part("train"), SIZE, 3)
    seen = []
    for rank in range(2):
        order = ShardBatches(samples.counts, 16, 0, 1, rank, 2)
        order.first, order.readers = first, (2, 2)
        loader = make_loader(TrainingSet(samples, "none", 0, SIZE), order, 2)
        for images, _ in islice(loader, last - first):
            seen += [int(a) + 251 * int(b) for a, b, _ in images[:, 0, 0].tolist()]
    return seen


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
def test_two_ranks_with_two_workers_stream_each_sample_once(tmp_path: Path) -> None:
    """250 samples; and after a resume in the middle of the epoch."""
    data, shards = numbered(tmp_path / "data", 250), tmp_path / "shards"
    write_shards(data, shards, shard_size=1)
    trained = {
        int(image[0, 0, 0]) + 251 * int(image[0, 0, 1])
        for image, _ in ShardedDataset.of(shards).part("train")  # type: ignore[attr-defined]
    }
    assert len(trained) == 200
    assert sorted(stream(shards, 0, 5) + stream(shards, 5, 13)) == sorted(trained)


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="gloo's processes are tested on Linux")
def test_20000_samples_on_two_ranks_with_two_workers_and_a_kill(tmp_path: Path) -> None:
    from ..training.test_distributed import fork_two

    data, shards = numbered(tmp_path / "data", 25_000), tmp_path / "shards"
    index = write_shards(data, shards, shard_size=2)
    assert sum(shard.count for shard in index.shards if shard.part == "train") == 20_000
    assert len(index.shards) > 8

    def run(first: int, stop: int) -> list[Fork]:
        def start(**environment: str) -> Fork:
            names = {"data": str(shards), "log": str(tmp_path / "seen")}
            return Fork(STREAM, environment, **names, first=first, stop=stop)

        return fork_two(start)

    killed = run(0, 150)
    codes = [each.finish().returncode for each in killed]
    assert codes[1] == -9
    assert codes[0] != 0
    # the state of a run is the number of finished batches: both ranks had 150 for certain
    for log in (tmp_path / "seen-0", tmp_path / "seen-1"):
        lines = [line for line in log.read_text().splitlines() if int(line.split()[0]) < 150]
        log.write_text("\n".join([*lines, ""]))
    for process in run(150, -1):
        process.end()
    seen = []
    for rank in range(2):
        lines = (tmp_path / f"seen-{rank}").read_text().splitlines()
        seen += [int(line.split()[1]) for line in lines]
    assert len(seen) == len(set(seen)) == 20_000
