"""Measure how prediction grows: images per second by number of workers, memory of the driver.

    python benchmarks/scale.py predict
    python benchmarks/scale.py listing

`predict` compares plain prediction with parts in one process and with Ray's actors, on the same
synthetic JPEG files and with an untrained network of 16 base channels, methods in turns. Each
process has one thread; the clock runs from the first fifth of the written files to the last, so
without start-up, which is printed apart. On a machine with other work, compare the CPU seconds per
image of all processes, Ray's own included. `listing` predicts manifests of many files that do not
exist, which costs an actor little, and prints the peak resident memory of the driver. Both need the
extra `ray`.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import cv2
import numpy as np

from plainunet.config import BulkOptions
from plainunet.deployment.bulk import BulkJob, predict_bulk
from plainunet.prediction.predict import find_inputs, predict_files
from plainunet.prediction.predictor import Predictor

WAYS = {
    "predict": None,
    "in parts": {},
    "in parts, rows in Parquet": {"as_rows": True},
    "Ray, 1 worker": {"engine": "ray", "workers": "1"},
    "Ray, 2 workers": {"engine": "ray", "workers": "2"},
}
LOADING = {"backend": "torch", "device": "cpu"}


def rate(files: Iterable[Path], warm: float) -> float:
    """Files per second, by the times at which they were written, after a share of warm-up."""
    times = sorted(path.stat().st_mtime for path in files)
    first = int(warm * len(times))
    return (len(times) - 1 - first) / (times[-1] - times[first])


class Work(threading.Thread):
    """Samples how many files are written, and the CPU seconds of this process and those below."""

    def __init__(self, out: Path) -> None:
        """Watch an output folder."""
        super().__init__(daemon=True)
        self._out, self.samples = out, [(0, 0.0)]

    def run(self) -> None:
        """Sample until the process ends."""
        while True:
            self.samples.append((len(written_in(self._out)), self._seconds()))
            time.sleep(0.2)

    def _seconds(self) -> float:
        found = {}
        for path in Path("/proc").glob("[0-9]*/stat"):
            with suppress(OSError):
                fields = path.read_text().rpartition(")")[2].split()
                found[int(path.parent.name)] = int(fields[1]), int(fields[11]) + int(fields[12])
        below, count = {os.getpid()}, 0
        while count != len(below):
            count = len(below)
            below |= {process for process, (parent, _) in found.items() if parent in below}
        ticks = sum(found[process][1] for process in below if process in found)
        return ticks / os.sysconf("SC_CLK_TCK")

    def per_file(self, warm: float) -> float:
        """CPU seconds per file, after a share of warm-up."""
        most = max(count for count, _ in self.samples)
        first = next(each for each in self.samples if each[0] >= warm * most)
        last = next(each for each in self.samples if each[0] == most)
        return (last[1] - first[1]) / max(1, last[0] - first[0])


def written_in(out: Path) -> list[Path]:
    """The masks and Parquet files."""
    return [*out.glob("[!.]*.png"), *out.glob("rows/[!.]*.parquet")]


def save_model(path: Path, size: int) -> None:
    """Write a checkpoint of an untrained network."""
    import torch

    from plainunet.network.card import Card
    from plainunet.network.checkpoint import save_checkpoint
    from plainunet.network.unet import UNet

    torch.manual_seed(0)
    card = Card(("background", "thing"), ((0, 0, 0), (255, 0, 0)), size=(size, size))
    save_checkpoint(path, UNet(base_channels=16), card)


def one(arguments: argparse.Namespace) -> None:
    """Predict in this process, and print seconds, images per second and memory as JSON."""
    begun, options, each = time.monotonic(), json.loads(arguments.options), 1
    (work := Work(arguments.out)).start()
    if options is None:
        images = find_inputs([Path(arguments.inputs)]).images
        predict_files(Predictor.load(arguments.model, **LOADING), images, arguments.out)
    else:
        names = [] if options.get("manifest") else [arguments.inputs]
        as_rows = options.pop("as_rows", False)
        each = options["batch_size"] if as_rows else 1
        job = BulkJob([arguments.model], {**LOADING}, arguments.out, as_rows=as_rows)
        predict_bulk(job, names, BulkOptions(**options))
    written = written_in(arguments.out)
    measured = {
        "seconds": time.monotonic() - begun,
        "rate": each * rate(written, 0.2) if written else 0,
        "cpu": work.per_file(0.2) / each,
        "memory": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }
    print(json.dumps(measured))


def elsewhere(model: Path, inputs: Path, options: object) -> dict[str, float]:
    """Predict in a process of its own."""
    with tempfile.TemporaryDirectory() as out:
        command = [sys.executable, __file__, "one", model, inputs, out, json.dumps(options)]
        done = subprocess.run(
            [*map(str, command)],
            capture_output=True,
            text=True,
            check=False,
            # other programs would slow down Ray's workers, which are nice, more than the others
            env={**os.environ, "RAY_worker_niceness": "0", "OMP_NUM_THREADS": "1"},
        )
    if done.returncode:
        sys.exit(done.stderr)
    measured: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return measured


@contextmanager
def folder_with_model(size: int) -> Iterator[Path]:
    """A temporary folder with `model.safetensors` in it."""
    with tempfile.TemporaryDirectory() as name:
        save_model(Path(name) / "model.safetensors", size)
        yield Path(name)


def predict(arguments: argparse.Namespace) -> None:
    """Print images per second of each way."""
    rates: dict[str, list[float]] = {way: [] for way in WAYS}
    starts: dict[str, list[float]] = {way: [] for way in WAYS}
    work: dict[str, list[float]] = {way: [] for way in WAYS}
    with folder_with_model(arguments.size) as folder:
        images = folder / "images"
        images.mkdir()
        rng = np.random.default_rng(0)
        for number in range(arguments.images):
            small = rng.integers(0, 256, (30, 40, 3), np.uint8)
            cv2.imwrite(str(images / f"{number}.jpg"), cv2.resize(small, (800, 600)))
        for _ in range(arguments.rounds):
            for way, options in WAYS.items():
                if options is not None:
                    options = {**options, "batch_size": arguments.batch_size}
                found = elsewhere(folder / "model.safetensors", images, options)
                rates[way].append(found["rate"])
                work[way].append(found["cpu"])
                starts[way].append(found["seconds"] - arguments.images / found["rate"])
                print(f"{way}: {found}", file=sys.stderr)
    print("| | images/s | CPU s per image | of `predict` | start-up, s |\n|---|---|---|---|---|")
    for way, measured in rates.items():
        ratios = [own / bare for own, bare in zip(work[way], work["predict"], strict=True)]
        print(
            f"| {way} | {statistics.median(measured):.1f} | {statistics.median(work[way]):.4f} | "
            f"{statistics.median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f}) | "
            f"{statistics.median(starts[way]):.0f} |"
        )


def listing(arguments: argparse.Namespace) -> None:
    """Print the driver's memory by number of inputs."""
    import pyarrow
    from pyarrow import csv, parquet

    print("| inputs | manifest | driver, MiB | seconds |\n|---|---|---|---|")
    with folder_with_model(32) as folder:
        for count in arguments.counts:
            ids = [f"folder-{number // 1000:04}/image-{number:09}" for number in range(count)]
            table = pyarrow.table(
                {"id": ids, "path": [f"/no/such/data/{name}.jpg" for name in ids]}
            )
            csv.write_csv(table, folder / "list.csv")
            parquet.write_table(table, folder / "list.parquet")
            for kind in arguments.kinds:
                manifest = str(folder / f"list.{kind}")
                options = {"engine": "ray", "workers": "2", "batch_size": 1000}
                options |= {"manifest": manifest}
                found = elsewhere(folder / "model.safetensors", folder, options)
                print(f"| {count:,} | {kind} | {found['memory']:.0f} | {found['seconds']:.0f} |")


def main() -> None:
    """Parse arguments, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    verbs = parser.add_subparsers(dest="verb", required=True)
    verb = verbs.add_parser("predict")
    verb.add_argument("--images", type=int, default=1200)
    verb.add_argument("--rounds", type=int, default=3)
    verb.add_argument("--size", type=int, default=128)
    verb.add_argument("--batch-size", type=int, default=64)
    verb = verbs.add_parser("listing")
    verb.add_argument("--counts", type=int, nargs="*", default=[10**4, 10**5, 10**6])
    verb.add_argument("--kinds", nargs="*", default=["csv", "parquet"])
    verb = verbs.add_parser("one")
    for name in ("model", "inputs", "out", "options"):
        verb.add_argument(name, type=Path if name == "out" else str)
    arguments = parser.parse_args()
    {"predict": predict, "listing": listing, "one": one}[arguments.verb](arguments)


if __name__ == "__main__":
    main()
