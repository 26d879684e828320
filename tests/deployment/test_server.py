"""`plainunet serve`: a real process, real HTTP, and clients that mean no good."""

import base64
import concurrent.futures
import io
import json
import os
import re
import shutil
import signal
import socket
import struct
import subprocess
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, get_args

import httpx
import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from PIL import Image
from pycocotools import mask as coco_mask

from plainunet.__main__ import _run
from plainunet.config import Output
from plainunet.deployment.answers import choose_output, encode, weight
from plainunet.deployment.batching import Model, Predicted
from plainunet.deployment.client import Client, ServerError
from plainunet.deployment.uploads import Budget, Decoded, RefusedError
from plainunet.formats.windows import as_windows
from plainunet.network.checkpoint import save_checkpoint
from plainunet.prediction.predict import predict_files
from plainunet.prediction.predictor import Predictor

from ..models import make_card, make_network
from .serving import Server, serving

CHECKOUT = Path(__file__).parents[2]
CPU = ("--device", "cpu", "--precision", "fp32")


def draw(height: int = 60, width: int = 80, seed: int = 0) -> NDArray[np.uint8]:
    small = np.random.default_rng(seed).integers(0, 256, (-(-height // 8), -(-width // 8), 3))
    return np.kron(small, np.ones((8, 8, 1)))[:height, :width].astype(np.uint8)


def as_png(image: NDArray[Any]) -> bytes:
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG")
    return file.getvalue()


PNG = as_png(draw())


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Two models of three classes, "first" and "second", and one of two classes, "binary"."""
    folder = tmp_path_factory.mktemp("models")
    made = {}
    for name, classes, seed in (("first", 3, 0), ("second", 3, 1), ("binary", 2, 0)):
        made[name] = folder / f"{name}.safetensors"
        save_checkpoint(made[name], make_network(classes, seed), make_card(classes, size=(48, 64)))
    return made


@pytest.fixture(scope="module")
def predictor(checkpoints: dict[str, Path]) -> Predictor:
    return Predictor.load(checkpoints["first"], device="cpu", precision="fp32")


@pytest.fixture(scope="module")
def server(checkpoints: dict[str, Path]) -> Iterator[Server]:
    with serving(checkpoints["first"], *CPU) as running:
        yield running


@pytest.fixture(scope="module")
def strict(checkpoints: dict[str, Path]) -> Iterator[Server]:
    """A server with a token and narrow limits."""
    limits = ("--max-bytes", 3_000_000, "--max-pixels", 5_000_000, "--max-queue-pixels", 6_000_000)
    flags = (*CPU, *limits, "--timeout", 3)
    with serving(checkpoints["binary"], *flags, PLAINUNET_TOKEN="sesame") as running:
        yield running


KNOWN = {"headers": {"Authorization": "Bearer sesame"}}


# answers


@pytest.fixture(scope="module")
def written(predictor: Predictor, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `predict` writes for the image and every output."""
    folder = tmp_path_factory.mktemp("predicted")
    (folder / "image").write_bytes(PNG)
    predict_files(predictor, [folder / "image"], folder / "out", get_args(Output))
    return folder / "out"


@pytest.mark.parametrize("kind", ["form", "raw", "curl", "json"])
def test_the_mask_is_the_file_that_predict_writes(server: Server, written: Path, kind: str) -> None:
    content: dict[str, Any] = {
        "form": {"files": {"file": ("image", PNG)}},
        "raw": {"content": PNG, "headers": {"Content-Type": "image/png"}},
        "curl": {
            "content": PNG,
            "headers": {"Content-Type": "application/x-www-form-urlencoded"},
        },
        "json": {"json": {"file": base64.b64encode(PNG).decode()}},
    }[kind]
    answer = server.post("/v1/predict", **content)
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "image/png"
    assert answer.content == (written / "image.png").read_bytes()
    assert Image.open(io.BytesIO(answer.content)).mode == "P"


@pytest.mark.parametrize("output", ["mask", "contours", "overlay"])
def test_a_jpeg_is_read_as_by_predict(
    server: Server, predictor: Predictor, tmp_path: Path, output: str
) -> None:
    path, out = tmp_path / "image", tmp_path / "out"
    Image.fromarray(draw(480, 640)).save(path, "JPEG")
    assert predictor.read(path) is not None, "the network needs less than the whole image"
    predict_files(predictor, [path], out, () if output == "mask" else (output,))
    answer = server.predict(path.read_bytes(), output=output)
    assert answer.status_code == 200
    written = {"mask": "image.png", "contours": "contours/image.geojson"}
    expected = (out / written.get(output, "overlay/image.jpg")).read_bytes()
    same = answer.json() == json.loads(expected) if output == "contours" else None
    assert answer.content == expected if same is None else same


@pytest.mark.parametrize(
    ("output", "media_type", "file"),
    [
        ("overlay", "image/jpeg", "overlay/image.jpg"),
        ("contours", "application/geo+json", "contours/image.geojson"),
        ("coco", "application/json", "coco.json"),
        ("probabilities-16", "image/tiff", "probabilities-16/image.tif"),
        ("probabilities-float", "image/tiff", "probabilities-float/image.tif"),
    ],
)
def test_outputs_are_those_of_predict(
    server: Server, written: Path, output: str, media_type: str, file: str
) -> None:
    answer = server.predict(PNG, output=output)
    assert answer.headers["content-type"] == media_type
    expected = (written / file).read_bytes()
    if "json" in media_type:
        assert answer.json() == json.loads(expected)
    else:
        assert answer.content == expected


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_run_lengths_give_the_mask(server: Server, predictor: Predictor) -> None:
    answer = server.predict(PNG, output="rle")
    mask = np.zeros((60, 80), np.uint8)
    for each in answer.json()["classes"]:
        if "rle" in each:
            mask[coco_mask.decode(each["rle"]).astype(bool)] = each["id"]
    assert (mask == predictor.predict(draw())).all()
    assert sum(each["pixels"] for each in answer.json()["classes"]) == 60 * 80
    assert answer.json()["model"] == answer.headers["plainunet-model"] == predictor.digest()


def test_probabilities_of_several_classes_and_of_two(
    server: Server, strict: Server, predictor: Predictor, checkpoints: dict[str, Path]
) -> None:
    content = server.predict(PNG, output="probabilities").content
    values = tifffile.imread(io.BytesIO(content))
    assert values.shape == (3, 60, 80)
    assert np.abs(values / 255 - predictor.probabilities(draw())).max() < 0.01
    binary = Predictor.load(checkpoints["binary"], device="cpu", precision="fp32")
    answer = strict.post("/v1/predict", content=PNG, params={"output": "probabilities"}, **KNOWN)
    assert answer.headers["content-type"] == "image/png"
    values = np.array(Image.open(io.BytesIO(answer.content)))
    assert np.abs(values / 255 - binary.probabilities(draw())[1]).max() < 0.01


def test_a_geotiff_keeps_its_coordinates(
    server: Server, predictor: Predictor, tmp_path: Path
) -> None:
    tags = [(33550, 12, 3, (2.0, 2.0, 0.0), True), (33922, 12, 6, (0, 0, 0, 500.0, 900.0, 0), True)]
    tifffile.imwrite(tmp_path / "a.tif", draw(), photometric="rgb", extratags=tags)
    predict_files(predictor, [tmp_path / "a.tif"], tmp_path / "out", ("contours",))
    content = (tmp_path / "a.tif").read_bytes()
    answer = server.predict(content, output="tiff")
    assert answer.content == (tmp_path / "out" / "a.tif").read_bytes()
    contours = server.predict(content, output="contours").json()
    assert contours == json.loads((tmp_path / "out" / "contours" / "a.geojson").read_bytes())
    assert contours["features"][0]["geometry"]["coordinates"][0][0][0] >= 500
    assert server.predict(content).headers["content-type"] == "image/png"


@pytest.mark.parametrize(
    ("accept", "output"),
    [
        ("", "mask"),
        ("*/*", "mask"),
        ("image/*", "mask"),
        ("image/jpeg", "overlay"),
        ("application/json", "rle"),
        ("text/html, application/geo+json;q=0.5", "contours"),
        ("image/tiff;q=0.1, application/json;q=0.9, image/png;q=0", "rle"),
        ("text/html,*/*;q=0.8", "mask"),
        ("image/tiff;q=x", "tiff"),
    ],
)
def test_the_accept_header_chooses(accept: str, output: str) -> None:
    assert choose_output(None, accept) == output


def test_nothing_acceptable(server: Server) -> None:
    with pytest.raises(RefusedError):
        choose_output(None, "text/html")
    answer = server.post("/v1/predict", content=PNG, headers={"Accept": "text/html"})
    assert (answer.status_code, answer.json()["code"]) == (406, "not-acceptable")
    assert server.predict(PNG, output="poem").status_code == 422
    answer = server.predict(PNG, pagge=3)
    assert (answer.status_code, answer.json()["code"]) == (422, "bad-parameter")
    assert "pagge" in answer.json()["message"]
    assert server.get("/v1/model", params={"a": 1}).status_code == 422
    assert server.get("/healthz", params={"a": 1}).status_code == 200


def test_pages_of_a_stack(server: Server, predictor: Predictor) -> None:
    file = io.BytesIO()
    pages = np.stack([draw(seed=1), draw(seed=2)])
    tifffile.imwrite(file, pages, photometric="rgb", metadata=None)
    with (
        Client(server.url) as client,
        Image.open(io.BytesIO(client.fetch(file.getvalue(), page=1))) as mask,
    ):
        assert (np.array(mask) == predictor.predict(pages[1])).all()
    assert server.predict(file.getvalue()).status_code == 422
    assert server.predict(file.getvalue(), page=2).status_code in (400, 422)
    assert server.predict(file.getvalue(), page=-1).status_code == 422


def test_several_images_and_one_that_is_none(server: Server, predictor: Predictor) -> None:
    other = as_png(draw(30, 40, seed=3))
    names = [("a.png", PNG), ("b.png", b"no image"), ("c.png", other)]
    answer = server.post("/v1/predict/batch", files=[("file", each) for each in names])
    results = answer.json()["results"]
    assert [each["name"] for each in results] == ["a.png", "b.png", "c.png"]
    assert [each["status"] for each in results] == [200, 415, 200]
    assert results[2]["content"]["size"] == [30, 40]
    coded = [{"file": base64.b64encode(each).decode(), "name": name} for name, each in names]
    answer = server.post("/v1/predict/batch", json={"files": coded}, params={"output": "mask"})
    results = answer.json()["results"]
    mask = Image.open(io.BytesIO(base64.b64decode(results[2]["content"])))
    assert (np.array(mask) == predictor.predict(draw(30, 40, seed=3))).all()


def test_images_that_come_together_are_predicted_together(
    server: Server, predictor: Predictor
) -> None:
    images = [draw(seed=seed) for seed in range(24)]
    before = server.metric("plainunet_batch_pixels_count")
    answer = server.post(
        "/v1/predict/batch", files=[("file", ("a", as_png(image))) for image in images]
    )
    for result, image in zip(answer.json()["results"], images, strict=True):
        pixels = [each["pixels"] for each in result["content"]["classes"]]
        own = np.bincount(predictor.predict(image).ravel(), minlength=3)
        assert np.abs(own - pixels).max() <= 5  # a batch may round differently
    assert server.metric("plainunet_batch_pixels_count") - before < len(images)


# the model


def test_the_card(server: Server, predictor: Predictor) -> None:
    card = server.get("/v1/model").json()
    assert card["digest"] == predictor.digest()
    assert [each["name"] for each in card["classes"]] == ["0", "1", "2"]
    assert card["input"]["channels"] == 3
    assert card["input"]["size"] == [48, 64]
    assert card["limits"]["pixels"] == 100_000_000


def test_health_metrics_and_the_open_inference_protocol(server: Server) -> None:
    for path in ("/healthz", "/readyz", "/v2/health/live", "/v2/health/ready", "/v2"):
        assert server.get(path).status_code == 200
    metadata = server.get("/v2/models/plainunet").json()
    assert metadata["outputs"][0]["datatype"] == "UINT8"
    assert server.get("/v2/models/plainunet/ready").json() == {"ready": True}
    server.predict(PNG)
    count = server.metric("plainunet_request_seconds_count", route="/v1/predict", code="200")
    assert count >= 1
    assert server.metric("plainunet_model_info") == 1
    assert server.metric("plainunet_queue_seconds_count") >= 1


def test_openapi_has_examples(server: Server) -> None:
    schema = server.get("/openapi.json").json()
    body = schema["paths"]["/v1/predict"]["post"]["requestBody"]["content"]
    example = body["application/json"]["schema"]["example"]
    assert server.post("/v1/predict", json=example).status_code == 200
    assert "multipart/form-data" in body
    assert {"200", "413", "503"} <= schema["paths"]["/v1/predict"]["post"]["responses"].keys()


def test_unknown_routes_and_methods(server: Server) -> None:
    assert server.get("/v1/nothing").json()["code"] == "not-found"
    assert server.get("/v1/predict").status_code == 405
    answer = httpx.options(f"{server.url}/v1/model", trust_env=False)
    assert (answer.status_code, answer.headers["allow"]) == (405, "GET, POST")
    assert server.get("/docs").status_code == 404


# bad bytes


def png_chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png_bomb(width: int, height: int) -> bytes:
    """A PNG file of zeros: a few kilobytes that promise gigabytes."""
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    data = png_chunk(b"IDAT", zlib.compress(bytes(10**6), 9))
    return b"\x89PNG\r\n\x1a\n" + header + data + png_chunk(b"IEND", b"")


def tiff_bomb() -> bytes:
    """A TIFF file of few pixels with thousands of channels of zeros."""
    file = io.BytesIO()
    values = np.zeros((40, 100, 4000), np.float32)
    tifffile.imwrite(
        file, values, photometric="minisblack", planarconfig="contig", compression="zlib"
    )
    return file.getvalue()


def npy_bomb() -> bytes:
    file = io.BytesIO()
    header = {"descr": "<f8", "fortran_order": False, "shape": (100_000, 100_000)}
    np.lib.format.write_array_header_1_0(file, header)
    return file.getvalue()


def tiff_of_many_pages() -> bytes:
    """A chain of 20,000 empty pages."""
    page = struct.pack("<HHHII", 1, 256, 3, 1, 1)
    data = b"II*\0" + struct.pack("<I", 8)
    for number in range(20_000):
        data += page + struct.pack("<I", 8 + (number + 1) * 18)
    return data + page + struct.pack("<I", 0)


BAD: dict[str, tuple[Callable[[], bytes], set[int]]] = {
    "empty": (lambda: b"", {400}),
    "text": (lambda: b"hello", {415}),
    "html": (lambda: b"<html><script>", {415}),
    "cut off": (lambda: PNG[:200], {400}),
    "start of a GIF": (lambda: b"GIF89a", {400}),
    "wrong checksum": (lambda: PNG[:60] + b"\0\0\0" + PNG[63:], {400}),
    "PNG of 100k x 100k": (lambda: png_bomb(100_000, 100_000), {413}),
    "PNG of 20k x 9k": (lambda: png_bomb(20_000, 9_000), {413}),
    "PNG of 12k x 8k": (lambda: png_bomb(12_000, 8_000), {400}),
    "TIFF of 4000 channels": (tiff_bomb, {413, 422}),
    ".npy of 80 GB": (npy_bomb, {400, 413}),
    "many pages": (tiff_of_many_pages, {413}),
    "two channels": (lambda: _npy(np.zeros((9, 9, 2), np.uint8)), {422}),
    "objects": (lambda: _npy(np.array([[{}]])), {422}),
    "infinite": (lambda: _npy(np.full((9, 9, 3), np.inf, np.float32)), {422}),
}


def _npy(values: NDArray[Any]) -> bytes:
    file = io.BytesIO()
    np.save(file, values)
    return file.getvalue()


@pytest.mark.parametrize("name", BAD)
def test_bad_bytes_are_refused_with_a_reason(server: Server, name: str) -> None:
    make, codes = BAD[name]
    before = server.memory()
    answer = server.predict(make())
    assert answer.status_code in codes, answer.text
    problem = answer.json()
    assert problem["code"]
    assert len(problem["message"]) > 20
    assert "plainunet-serve" not in problem["message"], "a path of the server"
    assert "/tmp" not in problem["message"]
    assert "pair" not in problem["message"], "advice for datasets"
    assert "buffer" not in problem["message"], "words of a library"
    assert server.memory() < before + 400_000_000
    assert server.predict(PNG).status_code == 200


def test_a_thin_image_is_none_of_the_bad(server: Server) -> None:
    answer = server.predict(as_png(np.zeros((1, 100_000, 3), np.uint8)))
    assert answer.status_code == 200
    assert Image.open(io.BytesIO(answer.content)).size == (100_000, 1)


@pytest.mark.parametrize(
    ("content", "status"),
    [
        ({"json": {}}, 422),
        ({"json": []}, 422),
        ({"json": {"file": 7}}, 422),
        ({"json": {"file": "/etc/passwd"}}, 400),
        ({"json": {"file": base64.b64encode(b"/etc/hostname").decode()}}, 415),
        ({"content": b"{", "headers": {"Content-Type": "application/json"}}, 400),
        ({"content": b"[" * 100_000, "headers": {"Content-Type": "application/json"}}, 400),
        ({"content": b"x", "headers": {"Content-Type": "multipart/form-data"}}, 400),
        (
            {"content": b"x", "headers": {"Content-Type": "multipart/form-data; boundary=b"}},
            400,
        ),
        ({"files": {"other": ("a", b"x")}}, 422),
        ({"data": {"file": "/etc/passwd"}, "files": {"x": b"y"}}, 422),
        ({"files": [("file", ("a", PNG)), ("file", ("b", PNG))]}, 413),
        ({"json": {"files": [{"file": ""}] * 65}}, 413),
    ],
)
def test_bad_bodies(server: Server, content: dict[str, Any], status: int) -> None:
    answer = server.post("/v1/predict", **content)
    assert answer.status_code == status, answer.text
    assert answer.json()["code"]


def test_names_are_never_paths(server: Server, written: Path) -> None:
    for name in ("../../etc/passwd", "/etc/passwd", "..", "a\0b", "x" * 10_000, "ä\ud800.png"):
        encoded = name.encode("utf-8", "surrogatepass")
        body = b'--b\r\nContent-Disposition: form-data; name="file"; filename="' + encoded
        body += b'"\r\n\r\n' + PNG + b"\r\n--b--\r\n"
        headers = {"Content-Type": "multipart/form-data; boundary=b"}
        answer = server.post(
            "/v1/predict", content=body, headers=headers, params={"output": "coco"}
        )
        if answer.status_code == 200:
            (image,) = answer.json()["images"]
            assert "/" not in image["file_name"]
            assert len(image["file_name"]) <= 200
        else:
            assert answer.status_code == 400
    assert server.predict(PNG).content == (written / "image.png").read_bytes()


# limits


def test_too_many_bytes(strict: Server) -> None:
    answer = strict.post("/v1/predict", content=bytes(3_000_001), **KNOWN)
    assert (answer.status_code, answer.json()["code"]) == (413, "too-many-bytes")

    def chunks() -> Iterator[bytes]:
        for _ in range(400):
            yield bytes(10_000)

    try:
        answer = strict.post("/v1/predict", content=chunks(), **KNOWN)
    except httpx.TransportError:
        pass  # the server closed the connection before it had everything
    else:
        assert answer.status_code == 413


def test_a_page_that_is_deeper_than_the_first(strict: Server) -> None:
    file = io.BytesIO()
    with tifffile.TiffWriter(file) as tiff:
        tiff.write(np.zeros((1000, 1000), np.uint8), compression="zlib")
        tiff.write(
            np.zeros((1000, 1000, 16)),
            compression="zlib",
            photometric="minisblack",
            planarconfig="contig",
        )
    files = {"file": ("a.tif", file.getvalue())}
    answer = strict.post("/v1/predict", files=files, params={"page": 1}, **KNOWN)
    assert (answer.status_code, answer.json()["code"]) == (413, "too-many-pixels")


def test_too_many_pixels(strict: Server) -> None:
    answer = strict.post("/v1/predict", content=as_png(draw(2000, 2600)), **KNOWN)
    assert (answer.status_code, answer.json()["code"]) == (413, "too-many-pixels")
    files = [("file", ("a", as_png(draw(1500, 1500)))) for _ in range(3)]
    answer = strict.post("/v1/predict/batch", files=files, **KNOWN)
    assert (answer.status_code, answer.json()["code"]) == (413, "too-many-pixels")


def test_a_full_queue_is_told_and_clients_try_again(strict: Server) -> None:
    large = as_png(draw(1500, 2000))  # two fill the queue
    with concurrent.futures.ThreadPoolExecutor(8) as threads:
        answers = list(
            threads.map(lambda _: strict.post("/v1/predict", content=large, **KNOWN), range(8))
        )
    codes = {answer.status_code for answer in answers}
    assert codes == {200, 503}
    full = next(answer for answer in answers if answer.status_code == 503)
    assert full.json()["code"] == "queue-full"
    assert int(full.headers["retry-after"]) >= 1
    assert strict.metric("plainunet_rejected_total", reason="queue-full") >= 1
    with (
        Client(strict.url, token="sesame", retries=50) as client,
        concurrent.futures.ThreadPoolExecutor(4) as threads,
    ):
        masks = list(threads.map(lambda _: client.predict(large), range(4)))
    assert {mask.shape for mask in masks} == {(1500, 2000)}


def test_requests_hold_a_bounded_number_of_bytes() -> None:
    budget = Budget(100)
    with budget.share() as first, budget.share() as second:
        first(60)
        with pytest.raises(RefusedError) as refused:
            second(60)
        assert (refused.value.status, refused.value.code) == (503, "queue-full")
        second(40)
    with budget.share() as take:
        take(100)


def test_objects_and_probabilities_are_bounded(predictor: Predictor, tmp_path: Path) -> None:
    image = draw(300, 500)
    noise = np.random.default_rng(0).integers(0, 3, image.shape[:2], np.uint8)
    dots = np.zeros_like(noise)
    dots[::2, ::2] = 1
    decoded = Decoded(tmp_path, image, as_windows(image), None)
    for mask, is_refused in ((noise, False), (dots, True)):
        predicted = Predicted(mask, None, Model.of(predictor))
        if is_refused:
            with pytest.raises(RefusedError) as refused:
                encode("coco", "a", decoded, predicted, tmp_path)
            assert refused.value.code == "too-many-objects"
        else:
            assert encode("coco", "a", decoded, predicted, tmp_path).content
    assert weight("mask", predictor.card) == 1
    assert weight("probabilities-float", predictor.card) == 4
    assert weight("probabilities-16", make_card(2)) == 1.5


def send_slowly(server: Server, until_closed: bool) -> bytes:
    """Send a body byte by byte, until there is an answer, or until the server hangs up."""
    with socket.create_connection(("127.0.0.1", server.port)) as connection:
        connection.sendall(
            b"POST /v1/predict HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer sesame\r\n"
            b"Content-Length: 1000\r\n\r\n"
        )
        connection.settimeout(0.5)
        answer = b""
        while until_closed or b"}" not in answer:
            try:
                connection.sendall(b"x")
                part = connection.recv(4096)
            except TimeoutError:
                continue
            except OSError:
                break
            answer += part
            if not part:
                break
        return answer


@pytest.mark.parametrize(
    "until_closed", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["short", "long"]
)
def test_slow_clients_do_not_stop_others(strict: Server, until_closed: bool) -> None:
    with concurrent.futures.ThreadPoolExecutor(4) as threads:
        slow = [threads.submit(send_slowly, strict, until_closed) for _ in range(4)]
        answers = [strict.post("/v1/predict", content=PNG, **KNOWN) for _ in range(5)]
        assert {answer.status_code for answer in answers} == {200}
        assert not any(each.done() for each in slow)
        assert all(b" 408 " in each.result().partition(b"\r\n")[0] for each in slow)


@pytest.mark.slow
def test_slow_headers_do_not_hold_a_connection(strict: Server) -> None:
    with socket.create_connection(("127.0.0.1", strict.port)) as connection:
        connection.settimeout(0.5)
        connection.sendall(b"POST /v1/predict HTTP/1.1\r\n")
        while True:
            try:
                connection.sendall(b"x")
                if not connection.recv(4096):
                    break
            except TimeoutError:
                continue
            except OSError:
                break


def test_a_client_that_leaves_leaves_no_work(strict: Server) -> None:
    large = as_png(draw(1500, 1500))
    before = strict.metric("plainunet_rejected_total", reason="client-gone")

    def leave() -> None:
        with socket.create_connection(("127.0.0.1", strict.port)) as connection:
            head = (
                "POST /v1/predict HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer sesame\r\n"
                f"Content-Length: {len(large)}\r\n\r\n"
            )
            connection.sendall(head.encode() + large)

    for _ in range(2):
        leave()
    until = time.monotonic() + 60
    while strict.metric("plainunet_rejected_total", reason="client-gone") < before + 2:
        assert time.monotonic() < until
        time.sleep(0.05)
    # the room of those that left is free again
    assert strict.post("/v1/predict", content=large, **KNOWN).status_code == 200


# the token


@pytest.mark.parametrize("given", [None, "Bearer", "Bearer wrong", "Basic sesame", "Bearer sesamé"])
def test_the_token_is_needed(strict: Server, given: str | None) -> None:
    headers = {"Authorization": given.encode()} if given else {}
    for path in ("/v1/predict", "/v1/predict/batch", "/v1/model"):
        answer = strict.post(path, content=PNG, headers=headers)
        assert answer.status_code == 401
        assert answer.headers["www-authenticate"] == "Bearer"
    assert strict.get("/v1/model", headers=headers).status_code == 401
    assert strict.get("/v2/models/plainunet", headers=headers).status_code == 401
    assert strict.get("/readyz").status_code == 200


def test_no_cross_origin_requests(server: Server) -> None:
    answer = server.post("/v1/predict", content=PNG, headers={"Origin": "http://evil.example"})
    assert not any(name.startswith("access-control") for name in answer.headers)


def test_the_log_is_json_without_contents_or_secrets(strict: Server) -> None:
    strict.post("/v1/predict", files={"file": ("patient-7.png", PNG)}, **KNOWN)
    lines = [json.loads(line) for line in strict.lines]
    requests = [line for line in lines if line["message"] == "request"]
    assert {"id", "route", "code", "seconds", "time", "level"} <= requests[-1].keys()
    text = "\n".join(strict.lines)
    assert "sesame" not in text
    assert "patient" not in text
    assert not [line for line in lines if line["level"] in ("error", "critical")]


# swapping models


@pytest.mark.parametrize(
    "requests", [0, pytest.param(10_000, marks=[pytest.mark.slow, pytest.mark.timeout(1800)])]
)
def test_models_are_swapped_under_load(checkpoints: dict[str, Path], requests: int) -> None:
    digests = {
        name: Predictor.load(path, device="cpu", precision="fp32").digest()
        for name, path in checkpoints.items()
    }
    stop, failed, seen, sent = threading.Event(), [], set(), []
    with serving(checkpoints["first"], *CPU, "--token", "sesame") as server:

        def ask() -> None:
            with httpx.Client(headers=KNOWN["headers"], trust_env=False, timeout=60) as client:
                while not stop.is_set():
                    answer = client.post(f"{server.url}/v1/predict", content=PNG)
                    sent.append(1)
                    seen.add(answer.headers["plainunet-model"])
                    if answer.status_code != 200:
                        failed.append(answer.text)

        threads = [threading.Thread(target=ask) for _ in range(4)]
        for thread in threads:
            thread.start()
        with Client(server.url, token="sesame") as client:
            for name in ("second", "binary", "first"):
                assert client.swap_model(checkpoints[name]) == digests[name]
                assert client.model()["digest"] == digests[name]
            while len(sent) < requests:
                for name in ("second", "binary", "first"):
                    client.swap_model(checkpoints[name])
            for bad in (b"", b"hello", checkpoints["first"].read_bytes()[:5000]):
                answer = server.post("/v1/model", content=bad, **KNOWN)
                assert (answer.status_code, answer.json()["code"]) == (422, "not-a-model")
                assert ".safetensors" in answer.json()["message"]
            assert client.model()["digest"] == digests["first"]
        stop.set()
        for thread in threads:
            thread.join()
        assert server.metric("plainunet_model_info", digest=digests["first"]) == 1
        assert server.metric("plainunet_model_info") == 1
    assert failed == []
    assert seen == set(digests.values())


def test_without_a_token_models_stay(server: Server, checkpoints: dict[str, Path]) -> None:
    answer = server.post("/v1/model", content=checkpoints["second"].read_bytes())
    assert (answer.status_code, answer.json()["code"]) == (403, "no-token")


# processes


def test_sigterm_finishes_what_has_begun(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    large = as_png(draw(1500, 1500))
    with serving(checkpoints["first"], *CPU, TMPDIR=str(tmp_path)) as server:
        with concurrent.futures.ThreadPoolExecutor(3) as threads:
            answers = [threads.submit(server.predict, large) for _ in range(3)]
            until = time.monotonic() + 60
            while not any(tmp_path.glob("*/*/0/image")):  # received, and in work
                assert time.monotonic() < until
                time.sleep(0.01)
            assert server.stop() == 0
            done = []
            for each in answers:
                try:
                    done.append(each.result().status_code)
                except httpx.TransportError:  # its connection came too late
                    continue
        assert done
        assert set(done) == {200}
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("processes", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_sigterm_resets_no_connection(checkpoints: dict[str, Path], processes: int) -> None:
    """Whoever could connect gets an answer; then the address refuses connections."""
    image, begun, failed = as_png(draw(60, 80)), threading.Event(), []
    with serving(checkpoints["first"], *CPU, "--processes", processes) as server:

        def ask(is_kept: bool) -> int:
            done = 0
            headers = {} if is_kept else {"Connection": "close"}
            with httpx.Client(trust_env=False, timeout=60, headers=headers) as client:
                while True:
                    try:
                        files = {"file": ("image", image)}
                        answer = client.post(f"{server.url}/v1/predict", files=files)
                    except httpx.ConnectError:
                        return done
                    except httpx.TransportError as error:
                        failed.append(repr(error))
                        return done
                    if answer.status_code != 200:
                        failed.append(answer.text)
                    done += 1
                    if done == 3:
                        begun.set()

        with concurrent.futures.ThreadPoolExecutor(24) as threads:
            answers = [threads.submit(ask, number % 3 > 0) for number in range(24)]
            assert begun.wait(60)
            assert server.stop() == 0
            assert max(each.result() for each in answers) >= 3
    assert failed == []


@pytest.mark.slow
def test_a_full_disk_is_told(checkpoints: dict[str, Path], small_disk: Path) -> None:
    flags = (*CPU, "--token", "sesame")
    with serving(checkpoints["first"], *flags, TMPDIR=str(small_disk)) as server:
        for path in ("/v1/predict", "/v1/model"):
            content = np.random.default_rng(0).bytes(4_000_000)
            answer = server.post(path, content=content, **KNOWN)
            assert (answer.status_code, answer.json()["code"]) == (503, "no-space")
        assert server.post("/v1/predict", content=PNG, **KNOWN).status_code == 200
        found = os.statvfs(small_disk)
        files = f"remount,nr_inodes={found.f_files - found.f_ffree}"  # not even a folder is left
        subprocess.run(["mount", "-o", files, small_disk], check=True)
        answer = server.post("/v1/predict", content=PNG, **KNOWN)
        assert (answer.status_code, answer.json()["code"]) == (503, "no-space")


@pytest.mark.slow
def test_a_full_disk_at_the_start_is_told(checkpoints: dict[str, Path], small_disk: Path) -> None:
    # a full disk is not used: tempfile tries it, and takes another
    (small_disk / "much").write_bytes(b"0" * (2 * 2**20 - 3 * 4096))
    server = Server(checkpoints["first"], *CPU, TMPDIR=str(small_disk))
    try:
        until = time.monotonic() + 120
        while not any("the warm-up failed" in line for line in server.lines):
            assert time.monotonic() < until
            time.sleep(0.1)
        url = next(json.loads(line)["url"] for line in server.lines if '"url"' in line)
        answer = httpx.get(f"{url}/readyz", trust_env=False)
        assert (answer.status_code, "space" in answer.text) == (503, True)
    finally:
        server.close()


@pytest.mark.slow
def test_processes_end_with_their_parent(checkpoints: dict[str, Path]) -> None:
    with serving(checkpoints["first"], *CPU, "--processes", 2) as server:
        server.process.kill()
        until = time.monotonic() + 60
        while True:
            try:
                httpx.get(f"{server.url}/healthz", trust_env=False)
            except httpx.TransportError:
                break
            assert time.monotonic() < until
            time.sleep(0.1)


@pytest.mark.slow
def test_several_processes_share_models_and_metrics(
    checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    flags = ("--processes", 2, "--token", "sesame")
    with serving(checkpoints["first"], *CPU, *flags, TMPDIR=str(tmp_path)) as server:
        new = Predictor.load(checkpoints["second"], device="cpu", precision="fp32").digest()

        def digests() -> set[str]:
            answers = [server.get("/v1/model", **KNOWN) for _ in range(10)]
            assert {answer.status_code for answer in answers} == {200}
            return {answer.json()["digest"] for answer in answers}

        assert digests() != {new}
        with Client(server.url, token="sesame") as client:
            assert client.swap_model(checkpoints["second"]) == new
        assert digests() == {new}, "the answer comes when all processes use the model"
        answers = [server.post("/v1/predict", content=PNG, **KNOWN) for _ in range(20)]
        assert {answer.status_code for answer in answers} == {200}
        predicted = server.metric("plainunet_request_seconds_count", route="/v1/predict")
        assert predicted == 20
        assert server.stop() == 0
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_killed_process_is_replaced(checkpoints: dict[str, Path]) -> None:
    with serving(checkpoints["first"], *CPU, "--processes", 2, "--token", "sesame") as server:
        new = Predictor.load(checkpoints["second"], device="cpu", precision="fp32").digest()
        with Client(server.url, token="sesame") as client:
            assert client.swap_model(checkpoints["second"]) == new

        def until_two_answer(but: int = 0) -> set[int]:
            """Send requests until two processes have answered; returns their ids."""
            until, first = time.monotonic() + 400, len(server.lines)
            while True:
                assert server.post("/v1/predict", content=PNG, **KNOWN).status_code == 200
                lines = [json.loads(line) for line in server.lines[first:]]
                found = {line["process"] for line in lines if line["message"] == "request"} - {but}
                if len(found) == 2:
                    return found
                assert time.monotonic() < until

        def until_replaced(killed: int) -> int:
            """Wait for the log's line of a process that was replaced; returns the new one's id."""
            until = time.monotonic() + 400
            while True:
                for line in map(json.loads, server.lines):
                    if line.get("died") == killed and "started" in line:
                        return int(line["started"])
                assert time.monotonic() < until
                time.sleep(0.1)

        before = until_two_answer()
        killed = min(before)
        os.kill(killed, signal.SIGKILL)
        second = until_replaced(killed)
        os.kill(second, signal.SIGKILL)  # while it starts
        third = until_replaced(second)
        assert until_two_answer(but=killed) == {max(before), third}
        digests = {server.get("/v1/model", **KNOWN).json()["digest"] for _ in range(10)}
        assert digests == {new}, "the new process has the model that was sent, too"
        assert server.stop() == 0


def test_errors_before_the_server_starts(
    checkpoints: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def run(*words: object) -> str:
        monkeypatch.setattr("sys.argv", ["plainunet", "serve", *map(str, words)])
        assert _run() == 2
        return capsys.readouterr().err

    (tmp_path / "bad.safetensors").write_bytes(b"hello")
    assert "bad.safetensors" in run(tmp_path / "bad.safetensors")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert str(port) in run(checkpoints["first"], "--port", port)
    assert "--host" in run(checkpoints["first"], "--host", "192.0.2.1")


# the documentation


def blocks(language: str) -> list[str]:
    text = (CHECKOUT / "docs" / "serve.md").read_text(encoding="utf-8")
    pattern = rf"against a server -->\n```{language}\n(.*?)^```"
    found = re.findall(pattern, text, flags=re.DOTALL | re.MULTILINE)
    assert found
    return found


@pytest.mark.skipif(not shutil.which("curl"), reason="curl is not installed")
def test_curl_lines_of_the_documentation(
    server: Server, strict: Server, checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    for name in ("image.png", "other.png"):
        (tmp_path / name).write_bytes(PNG)
    shutil.copy(checkpoints["binary"], tmp_path / "best.safetensors")
    for line in "".join(blocks("sh")).splitlines():
        url = strict.url if "TOKEN" in line else server.url
        subprocess.run(
            line.replace("http://127.0.0.1:8000", url),
            shell=True,
            check=True,
            cwd=tmp_path,
            env={**os.environ, "PLAINUNET_TOKEN": "sesame"},
            capture_output=True,
        )
    with Image.open(tmp_path / "mask.png") as mask, Image.open(tmp_path / "overlay.jpg") as overlay:
        assert mask.size == overlay.size == (80, 60)
    assert json.loads((tmp_path / "coco.json").read_bytes())["images"]
    assert len(json.loads((tmp_path / "masks.json").read_bytes())["results"]) == 2


def test_python_of_the_documentation(
    server: Server,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "image.png").write_bytes(PNG)
    monkeypatch.chdir(tmp_path)
    for block in blocks("python"):
        exec(block.replace("http://127.0.0.1:8000", server.url), {})
    assert "415" in capsys.readouterr().out


# the client


def test_the_client(server: Server, predictor: Predictor, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(PNG)
    expected = predictor.predict(draw())
    with Client(server.url) as client:
        client.wait_until_ready()
        for image in (tmp_path / "a.png", str(tmp_path / "a.png"), PNG, draw()):
            assert (client.predict(image) == expected).all()
        assert json.loads(client.fetch(PNG, "rle"))["size"] == [60, 80]
        assert client.model()["digest"] == predictor.digest()
        with pytest.raises(ServerError) as refused:
            client.predict(b"hello")
        assert (refused.value.status, refused.value.code) == (415, "not-an-image")
    with Client("http://127.0.0.1:9") as client, pytest.raises(OSError, match=":9"):
        client.predict(PNG)


def test_the_client_refuses_what_is_no_image_or_address(tmp_path: Path) -> None:
    with Client() as client:
        for none in ("", None):
            with pytest.raises(ValueError, match="image"):
                client.predict(none)  # type: ignore[arg-type]
        with pytest.raises(IsADirectoryError, match=re.escape(str(tmp_path))):
            client.predict(tmp_path)
    with pytest.raises(ValueError, match="http://"):
        Client("localhost:8101")


@pytest.mark.parametrize("method", ["model", "swap_model"])
def test_a_broken_connection(method: str, tmp_path: Path) -> None:
    """The first connection breaks, as of a process that is killed; the next one answers."""
    seen: list[bytes] = []

    def answer() -> None:
        for content in (b"", b'HTTP/1.1 200 OK\r\nContent-Length: 17\r\n\r\n{"digest": "new"}'):
            connection, _ = listener.accept()
            with connection:
                seen.append(connection.recv(65536))
                connection.sendall(content)

    (tmp_path / "a").touch()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(10)
        threading.Thread(target=answer, daemon=True).start()
        with Client(f"http://127.0.0.1:{listener.getsockname()[1]}") as client:
            if method == "model":
                assert client.model() == {"digest": "new"}
            else:  # it may have done its work
                with pytest.raises(OSError, match="no answer"):
                    client.swap_model(tmp_path / "a")
                assert len(seen) == 1
                httpx.get(client._http.base_url, trust_env=False)  # ends the thread


def test_a_proxy_may_name_a_date_to_try_again() -> None:
    head = "HTTP/1.1 503 Busy\r\nRetry-After: Wed, 21 Oct 2026 07:28:00 GMT\r\nContent-Length: 0"
    answers = (head + "\r\n\r\n", 'HTTP/1.1 200 OK\r\nContent-Length: 17\r\n\r\n{"digest": "new"}')

    def answer() -> None:
        connection, _ = listener.accept()
        with connection:
            for content in answers:
                connection.recv(65536)
                connection.sendall(content.encode())

    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(10)
        threading.Thread(target=answer, daemon=True).start()
        with Client(f"http://127.0.0.1:{listener.getsockname()[1]}") as client:
            assert client.model() == {"digest": "new"}
