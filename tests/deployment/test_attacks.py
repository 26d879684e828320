"""Thousands of damaged uploads and requests against a real server: no crash, no 5xx, no growth."""

import concurrent.futures
import io
import json
import random
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import tifffile
from PIL import Image

from plainunet.network.checkpoint import save_checkpoint

from ..models import make_card, make_network
from .serving import Server, serving

GROWTH = 64 * 2**20
"""Growth of memory that is none [bytes]: the allocator keeps pieces of different sizes."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    checkpoint = tmp_path_factory.mktemp("model") / "best.safetensors"
    save_checkpoint(checkpoint, make_network(), make_card(size=(48, 64)))
    flags = ("--device", "cpu", "--precision", "fp32", "--max-pixels", 1_000_000)
    with serving(checkpoint, *flags, PLAINUNET_TOKEN="sesame") as running:
        yield running


def errors_of(server: Server) -> list[dict[str, Any]]:
    """The errors in the log; C libraries add lines that are not JSON."""
    lines = [json.loads(line) for line in server.lines if line.startswith("{")]
    return [line for line in lines if line["level"] == "error"]


def encoded() -> list[bytes]:
    """One small image in each format that is read."""
    values = np.random.default_rng(0).integers(0, 256, (40, 50, 3), np.uint8)
    images: list[bytes] = []
    for kind in ("PNG", "JPEG", "GIF", "BMP", "WEBP", "TIFF", "JPEG2000", "AVIF"):
        file = io.BytesIO()
        try:
            Image.fromarray(values).save(file, kind)
        except (KeyError, OSError):  # this Pillow has no such codec
            continue
        images.append(file.getvalue())
    for options in ({"tile": (16, 16)}, {"compression": "zlib"}, {"bigtiff": True}):
        file = io.BytesIO()
        tifffile.imwrite(file, values, photometric="rgb", **options)
        images.append(file.getvalue())
    file = io.BytesIO()
    tifffile.imwrite(file, np.stack([values] * 3), photometric="rgb")
    images.append(file.getvalue())
    file = io.BytesIO()
    np.save(file, values)
    return [*images, file.getvalue()]


def cut(data: bytearray, chance: random.Random) -> bytes:
    return bytes(data[: chance.randrange(len(data))])


def flip(data: bytearray, chance: random.Random) -> bytes:
    for _ in range(chance.choice((1, 4, 32))):
        data[chance.randrange(len(data))] = chance.randrange(256)
    return bytes(data)


def flip_header(data: bytearray, chance: random.Random) -> bytes:
    at = chance.randrange(min(len(data) - 8, 120))
    large = chance.choice((0, 1, 0x7FFFFFFF, 0xFFFFFFFF, 100_000, 0x00010000))
    data[at : at + 4] = large.to_bytes(4, chance.choice(("big", "little")))
    return bytes(data)


def polyglot(data: bytearray, chance: random.Random) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("../../evil", b"x" * 100)
    others = (file.getvalue(), b"<script>alert(1)</script>", b"%PDF-1.7", b"\0" * 5000)
    other = chance.choice(others)
    return bytes(data) + other if chance.random() < 0.5 else other + bytes(data)


def splice(data: bytearray, chance: random.Random) -> bytes:
    other = chance.choice(IMAGES)
    return bytes(data[: chance.randrange(len(data))]) + other[chance.randrange(len(other)) :]


def repeat(data: bytearray, chance: random.Random) -> bytes:
    at = chance.randrange(len(data))
    return bytes(data[:at] + data[at : at + 64] * chance.choice((2, 100, 3000)) + data[at:])


def nothing(data: bytearray, chance: random.Random) -> bytes:
    return chance.choice((b"", b"\0", bytes(data[:16]), chance.randbytes(300)))


IMAGES = encoded()
MUTATIONS = (cut, flip, flip_header, polyglot, splice, repeat, nothing)


OUTPUTS = ("mask", "rle", "coco", "overlay", "contours", "tiff")


def reach_peak(server: Server) -> None:
    """Bring memory to the peak of the largest images: the server keeps it for later ones."""
    file = io.BytesIO()
    values = np.random.default_rng(0).integers(0, 256, (1000, 1000, 3), np.uint8)
    Image.fromarray(values).save(file, "PNG", compress_level=1)

    def send(output: str) -> int:
        headers = {"Authorization": "Bearer sesame"}
        content = {"content": file.getvalue(), "params": {"output": output}}
        return server.post("/v1/predict", headers=headers, **content).status_code

    with concurrent.futures.ThreadPoolExecutor(4) as threads:
        assert set(threads.map(send, OUTPUTS * 2)) == {200}


def attack(server: Server, count: int, seed: int) -> dict[int, int]:
    """Send mutated images in four threads; returns how often each status code came."""

    def send(part: int) -> dict[int, int]:
        chance, codes = random.Random(f"{seed} {part}"), dict[int, int]()
        headers = {"Authorization": "Bearer sesame"}
        with httpx.Client(trust_env=False, timeout=120, headers=headers) as client:
            for _ in range(count // 4):
                mutate = chance.choice(MUTATIONS)
                data = mutate(bytearray(chance.choice(IMAGES)), chance)
                content: dict[str, Any] = {"content": data}
                if chance.random() < 0.3:
                    content = {"files": {"file": (f"a.{chance.choice(('png', 'tif'))}", data)}}
                path = f"{server.url}/v1/predict?output={chance.choice(OUTPUTS)}"
                answer = client.post(path, **content)
                codes[answer.status_code] = codes.get(answer.status_code, 0) + 1
                if answer.status_code != 200:
                    assert answer.json()["message"], data
                assert answer.status_code < 500, (answer.text, mutate.__name__, data[:200])
        return codes

    with concurrent.futures.ThreadPoolExecutor(4) as threads:
        total: dict[int, int] = {}
        for codes in threads.map(send, range(4)):
            for code, times in codes.items():
                total[code] = total.get(code, 0) + times
    return total


@pytest.mark.parametrize(
    "count", [48, pytest.param(5000, marks=[pytest.mark.slow, pytest.mark.timeout(1800)])]
)
def test_mutated_uploads(server: Server, count: int) -> None:
    reach_peak(server)
    before = server.memory()
    codes = attack(server, count, seed=1)
    assert sum(codes.values()) == count
    assert {200, 400, 415} <= codes.keys() <= {200, 400, 413, 415, 422}
    assert server.memory() - before < GROWTH
    assert server.get("/healthz").status_code == 200
    assert server.process.poll() is None
    assert errors_of(server) == []


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_memory_stays_flat_over_ten_thousand_requests(server: Server) -> None:
    headers = {"Authorization": "Bearer sesame"}

    def send(count: int) -> None:
        with httpx.Client(trust_env=False, timeout=120, headers=headers) as client:
            for _ in range(count):
                answer = client.post(f"{server.url}/v1/predict", content=IMAGES[0])
                assert answer.status_code == 200

    def send_all(count: int) -> int:
        with concurrent.futures.ThreadPoolExecutor(8) as threads:
            list(threads.map(send, [count // 8] * 8))
        return server.memory()

    send_all(1000)
    memory = [send_all(3000) for _ in range(3)]
    assert memory[-1] - memory[0] < GROWTH / 4, memory


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_the_openapi_description_is_true(server: Server, tmp_path: Path) -> None:
    pytest.importorskip("schemathesis", reason="make test-slow installs schemathesis")
    config = tmp_path / "schemathesis.toml"
    config.write_text("")
    # the body of an image, or of a model, cannot be described by a schema
    left_out = "positive_data_acceptance,negative_data_rejection"
    done = subprocess.run(
        [
            *(sys.executable, "-m", "schemathesis.cli", "--config-file", config),
            *("run", f"{server.url}/openapi.json", "--exclude-checks", left_out, "--no-color"),
            *("-H", "Authorization: Bearer sesame", "--max-examples", "40", "--seed", "1"),
        ],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert server.get("/healthz").status_code == 200
    assert errors_of(server) == []
