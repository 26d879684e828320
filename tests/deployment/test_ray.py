"""Prediction on a Ray cluster of two workers: killed workers and drivers, objects in S3.

Ray, its processes, and the server of S3 are real.
"""

import os
import re
import select
import signal
import socket
import socketserver
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from plainunet.prediction.predict import find_inputs, predict_files
from plainunet.prediction.predictor import Predictor

from .test_bulk import CPU, encoded, errors, masks, model, predict, write_manifest

pytestmark = [
    pytest.mark.ray,
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.skipif(not Path("/proc").is_dir(), reason="finds Ray's processes in /proc"),
]
COUNT = 400
__all__ = ["model"]


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Many small images, and one that is damaged."""
    folder = tmp_path_factory.mktemp("many")
    for number in range(COUNT):
        path = folder / f"{number % 7}/{number}.png"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(encoded(number))
    (folder / "bad.png").write_bytes(b"no image")
    return folder


@pytest.fixture(scope="module")
def expected(
    model: Path, images: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, bytes]:
    """What plain prediction of the images writes, by name."""
    out = tmp_path_factory.mktemp("plain")
    predict_files(Predictor.load(model, **CPU), find_inputs([images]).images, out)
    return masks(out)


def start(model: Path, out: Path, *arguments: object) -> subprocess.Popen[str]:
    """Start a prediction on two workers; what it prints goes into OUT.txt."""
    command = [sys.executable, "-m", "plainunet", "predict", model, *arguments, "--out", out]
    command += ["--engine", "ray", "--workers", "2", "--batch-size", "10", "--backend", "torch"]
    command += ["--device", "cpu", "--precision", "fp32"]
    with out.with_suffix(".txt").open("a") as printed:
        return subprocess.Popen(
            [str(each) for each in command], stdout=printed, stderr=printed, text=True
        )


def actors(driver: int) -> list[int]:
    """The workers of a driver that hold a model."""
    parents: dict[int, int] = {}
    titles: dict[int, bytes] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parents[int(folder.name)] = int(
                re.search(r"PPid:\s+(\d+)", (folder / "status").read_text())[1]  # type: ignore[index]
            )
            titles[int(folder.name)] = (folder / "cmdline").read_bytes()
        except OSError:  # it has ended
            continue

    def is_below(process: int) -> bool:
        while process in parents:
            process = parents[process]
            if process == driver:
                return True
        return False

    return [pid for pid, title in titles.items() if b"_Actor" in title and is_below(pid)]


def wait_for(condition: Callable[[], object], process: subprocess.Popen[str]) -> None:
    while not condition():
        assert process.poll() is None, "it has ended too soon"
        time.sleep(0.01)


def test_a_killed_worker_is_replaced_and_nothing_is_lost(
    model: Path, images: Path, expected: dict[str, bytes], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    process = start(model, out, images)
    wait_for(lambda: len([*out.glob("[!.]*.png")]) > 20 and len(actors(process.pid)) == 2, process)
    os.kill(actors(process.pid)[0], signal.SIGKILL)
    assert len([*out.glob("[!.]*.png")]) < COUNT, "it was too late to kill the worker"
    assert process.wait(600) == 1, out.with_suffix(".txt").read_text()
    assert masks(out) == expected
    assert [line.split(",")[0] for line in (out / "errors.csv").read_text().splitlines()] == [
        "id",
        "bad",
    ]
    assert sorted(path.name for path in out.iterdir() if path.is_file() and "." in path.name) == (
        sorted([*(name for name in expected), "errors.csv", "prediction.json"])
    )


def test_a_killed_driver_is_continued(model: Path, images: Path, tmp_path: Path) -> None:
    import pyarrow.parquet

    out = tmp_path / "out"
    process = start(model, out, images, "--save", "parquet")
    wait_for(lambda: len([*out.glob("rows/[0-9]*.parquet")]) > 3, process)
    workers = actors(process.pid)
    process.kill()
    process.wait()
    done = {path.name: path.stat().st_mtime_ns for path in out.glob("rows/[0-9]*.parquet")}
    assert 3 < len(done) < COUNT // 10, "it was too late to kill the driver"
    for _ in range(6000):  # what it has started ends on its own
        if not any(Path(f"/proc/{worker}").exists() for worker in workers):
            break
        time.sleep(0.01)
    assert not any(Path(f"/proc/{worker}").exists() for worker in workers)

    assert start(model, out, images, "--save", "parquet").wait(600) == 1
    table = pyarrow.parquet.read_table(out / "rows")
    ids = sorted(table.column("id").to_pylist())
    assert ids == sorted([*map(str, range(COUNT)), "bad"])
    after = {path.name: path.stat().st_mtime_ns for path in out.glob("rows/[0-9]*")}
    kept = [name for name, changed in done.items() if after[name] == changed]
    assert len(kept) >= len(done) - 1  # the part of the damaged image is made again
    assert len(after) == 41
    assert masks(out) == {}


def test_what_is_wrong_is_reported_in_one_sentence(
    model: Path, images: Path, tmp_path: Path
) -> None:
    """Errors of the workers are those of a single process."""
    out = tmp_path / "out"
    process = start(tmp_path / "none.safetensors", out, images)
    assert process.wait(600) == 2
    printed = out.with_suffix(".txt").read_text()
    assert "none.safetensors" in printed
    assert "Traceback" not in printed
    assert not out.exists()


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """A server of S3, at this address."""
    from moto.server import ThreadedMotoServer

    running = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    running.start()
    _, port = running.get_host_and_port()
    yield f"http://127.0.0.1:{port}"
    running.stop()


class Proxy(socketserver.ThreadingTCPServer):
    """Passes connections on to a server, and breaks some in the middle of an image."""

    daemon_threads = True

    def __init__(self, port: int) -> None:
        super().__init__(("127.0.0.1", 0), _Connection)
        self.to_break, self.target = 3, port
        threading.Thread(target=self.serve_forever, daemon=True).start()


class _Connection(socketserver.BaseRequestHandler):
    server: Proxy

    def handle(self) -> None:
        with socket.create_connection(("127.0.0.1", self.server.target)) as other:
            ends = {self.request: other, other: self.request}
            while True:
                for end in select.select([*ends], [], [])[0]:
                    data = end.recv(65536)
                    is_image = end is other and b"\x89PNG" in data
                    if not data or (is_image and self.server.to_break > 0):
                        self.server.to_break -= is_image
                        ends[end].sendall(data[:-10])
                        return
                    ends[end].sendall(data)


def test_objects_in_s3(
    model: Path, server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Credentials come from the environment; a connection that breaks is opened again."""
    import boto3

    for name, value in (
        ("AWS_ACCESS_KEY_ID", "key"),
        ("AWS_SECRET_ACCESS_KEY", "secret"),
        ("AWS_DEFAULT_REGION", "us-east-1"),
        ("AWS_ENDPOINT_URL", server),
        ("NO_PROXY", "127.0.0.1"),
    ):
        monkeypatch.setenv(name, value)
    for name in ("HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy"):
        monkeypatch.delenv(name, raising=False)
    store = boto3.client("s3")
    store.create_bucket(Bucket="bucket")
    for number in range(12):
        store.put_object(Bucket="bucket", Key=f"in/{number}.png", Body=encoded(number))
    manifest = write_manifest(
        tmp_path / "list.csv", {"a": "s3://bucket/in/0.png", "b": "s3://bucket/in/none.png"}
    )
    store.upload_file(manifest, "bucket", "list.csv")

    with Proxy(int(server.rpartition(":")[2])) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{proxy.server_address[1]}")
        out = tmp_path / "out"
        result, _ = predict(model, out, ["s3://bucket/in"], batch_size=5)
        assert (result.written, result.failed, proxy.to_break) == (12, 0, 0)
        result, _ = predict(model, tmp_path / "more", manifest="s3://bucket/list.csv")
        assert (result.written, result.failed, result.exit_code) == (1, 1, 1)
        assert errors(result)["b"][0] == "s3://bucket/in/none.png"
        with pytest.raises((ValueError, FileNotFoundError), match="other"):
            predict(model, tmp_path / "more", ["s3://other/in"])
        proxy.shutdown()
    for number in range(12):
        path = tmp_path / f"{number}.png"
        path.write_bytes(encoded(number))
        mask = Predictor.load(model, **CPU).predict(path)
        assert np.array_equal(np.asarray(Image.open(out / f"{number}.png")), mask)
