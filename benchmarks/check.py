"""Compare the time of `plainunet check` with decoding every file once; measure its peak memory.

    python benchmarks/check.py --data DATA/carvana

Decoding uses the package's own readers (`read_image`, `read_mask`) in one thread per core, and
nothing else. The check runs as a command with an empty cache folder ("first") and again ("second"),
including start-up. Decoding and checks alternate; the ratio is computed within a round: median,
minimum and maximum. Memory is the peak resident set of the command's process, for the folder itself
and for one that holds each file 20 times as hard links with different names (so 19 of 20 images are
byte-for-byte duplicates, which `check` reports). Prints a table; files go to a temporary folder.
Limitation: one dataset.
"""

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import cv2

from plainunet.dataset.pairs import Pair, find_pairs
from plainunet.formats.images import read_image
from plainunet.formats.masks import read_mask
from plainunet.system import work_ahead

COPIES = 20


def decode_all(pairs: Sequence[Pair]) -> float:
    """Decode every image and mask once. Returns seconds."""
    start = time.perf_counter()
    for _ in work_ahead(lambda pair: (read_image(pair.image), read_mask(pair.mask)), pairs):
        pass
    return time.perf_counter() - start


def run_check(folder: Path, cache: Path, json_file: Path) -> tuple[float, int]:
    """Run the command. Returns seconds and peak memory [MiB]."""
    start = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", "plainunet", "check", str(folder), "--json", str(json_file)],
        env={**os.environ, "PLAINUNET_CACHE": str(cache)},
        stdout=subprocess.DEVNULL,
    )
    _, _, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - start
    if not json_file.is_file():
        sys.exit(f"the check of {folder} failed")
    return seconds, usage.ru_maxrss // 1024


def multiply(pairs: Sequence[Pair], folder: Path) -> None:
    """Make a folder that holds each file several times, as hard links."""
    for name in ("images", "masks"):
        (folder / name).mkdir(parents=True)
    for number, pair in enumerate(pairs):
        for copy in range(COPIES):
            for name, path in (("images", pair.image), ("masks", pair.mask)):
                target = folder / name / f"{copy:02d}x{number:06d}{path.suffix}"
                target.hardlink_to(path)


def main() -> None:
    """Parse arguments, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="folder in Carvana's layout")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    cv2.setNumThreads(1)
    pairs = find_pairs(arguments.data)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        decode_all(pairs)  # fill the page cache
        rounds = []
        for number in range(arguments.rounds):
            decoding = decode_all(pairs)
            cache = folder / f"cache{number}"
            first, memory = run_check(arguments.data, cache, folder / f"{number}.json")
            second, _ = run_check(arguments.data, cache, folder / f"{number}.json")
            rounds.append((decoding, first, second, memory))
        print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores")
        print(f"{len(pairs)} pairs, {arguments.rounds} rounds; seconds: median (least, greatest)")
        for column, name in enumerate(("decoding each file once", "check, first", "check, second")):
            print(f"  {name:26} {spread([each[column] for each in rounds])}")
        print(f"  {'first / decoding':26} {spread([each[1] / each[0] for each in rounds])}")

        # hard links need one file system, and that of the data may be read-only
        copied = folder / "copied"
        for pair in pairs:
            for path in (pair.image, pair.mask):
                copied.mkdir(exist_ok=True)
                shutil.copy2(path, copied / path.name)
        own = [
            Pair(copied / pair.image.name, copied / pair.mask.name, pair.group, None)
            for pair in pairs
        ]
        multiply(own, folder / "many")
        seconds, memory = run_check(folder / "many", folder / "cache20", folder / "many.json")
        found = json.loads((folder / "many.json").read_text())
        copies = sum("duplicate" in each["code"] for each in found["findings"])
        print(f"peak memory, {len(pairs):>6} pairs:  {max(each[3] for each in rounds)} MiB")
        print(
            f"peak memory, {COPIES * len(pairs):>6} pairs:  {memory} MiB "
            f"({seconds:.0f} s, {copies} copies found)"
        )


def spread(values: Sequence[float]) -> str:
    """Format median, minimum and maximum."""
    return f"{statistics.median(values):.2f} ({min(values):.2f}, {max(values):.2f})"


if __name__ == "__main__":
    main()
