"""The page at /ui, by a user with Chromium; and what a client can do to it without one."""

import io
import json
import re
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from PIL import Image

from plainunet.demo import draw_scene
from plainunet.network.checkpoint import save_checkpoint
from plainunet.prediction.drawing import read_key, write_rgb
from plainunet.prediction.predict import find_inputs, predict_files
from plainunet.prediction.predictor import Predictor

from ..models import make_card, make_network
from .serving import Server, serving

pytestmark = [pytest.mark.gradio, pytest.mark.timeout(600)]
CPU = ("--device", "cpu", "--precision", "fp32")
DESK, PHONE = (1280, 900), (390, 844)
SHOWN = "#viewer .stage:not([hidden])"


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """Models by their number of classes."""
    folder = tmp_path_factory.mktemp("models")
    made = {classes: folder / f"{classes}.safetensors" for classes in (2, 3)}
    for classes, path in made.items():
        save_checkpoint(path, make_network(classes), make_card(classes, size=(48, 64)))
    return made


@pytest.fixture(scope="module")
def server(
    models: dict[int, Path], browser: Any, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    """A server of the model of two classes; it stops with a page open, and leaves no file."""
    folder = tmp_path_factory.mktemp("server")
    with serving(models[2], "--ui", *CPU, TMPDIR=str(folder)) as running:
        yield running
        page = browser.new_page()
        page.goto(f"{running.url}/ui", timeout=120_000)
        page.wait_for_selector("#samples button", timeout=120_000)
        assert running.stop() == 0
        page.close()
    assert list(folder.iterdir()) == []


@pytest.fixture(scope="module")
def guarded(models: dict[int, Path]) -> Iterator[Server]:
    """A server of the model of three classes, with a token and a low limit of bytes."""
    flags = ("--ui", *CPU, "--max-bytes", 2_000_000)
    with serving(models[3], *flags, PLAINUNET_TOKEN="sesame") as running:
        yield running


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("images")
    sizes = ((96, 128), (120, 80), (64, 64))
    paths = [folder / f"scene-{number}.png" for number in range(len(sizes))]
    for path, size in zip(paths, sizes, strict=True):
        write_rgb(path, draw_scene(np.random.default_rng(size), size)[0])
    return paths


@pytest.fixture(scope="module")
def masks(models: dict[int, Path], images: list[Path], tmp_path_factory: Any) -> Path:
    """What `predict` writes for the images, with the model of two classes."""
    folder: Path = tmp_path_factory.mktemp("masks")
    predictor = Predictor.load(models[2], device="cpu", precision="fp32")
    predict_files(predictor, images, folder, ["overlay", "contours", "areas"])
    return folder


Visit = Callable[..., Any]


@pytest.fixture
def visit(browser: Any) -> Visit:
    """Open the page: `with visit(server, size=DESK) as page`.

    Whatever is done on it, the browser requests nothing from elsewhere and logs no error.
    """

    @contextmanager
    def open_page(server: Server, size: tuple[int, int] = DESK) -> Iterator[Any]:
        context = browser.new_context(
            viewport={"width": size[0], "height": size[1]}, has_touch=size == PHONE
        )
        page = context.new_page()
        page.set_default_timeout(120_000)  # the machine may have other work
        requests: list[str] = []
        logged: list[str] = []
        page.requests = requests
        page.on("request", lambda request: requests.append(request.url))
        page.on("console", lambda message: logged.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: logged.append(f"error: {error}"))
        page.goto(f"{server.url}/ui")
        page.wait_for_selector("#samples button")
        yield page
        context.close()
        own = (f"{server.url}/", "data:", "blob:")
        assert [url for url in requests if not url.startswith(own)] == []
        assert [line for line in logged if line.startswith("error")] == []

    return open_page


def choose(page: Any, *paths: Path) -> None:
    """Choose files, and wait for the result."""
    page.set_input_files("#files input[type=file]", [str(path) for path in paths])
    if any(path.suffix == ".png" for path in paths):
        page.wait_for_selector(f"#legend caption:has-text('{paths[0].name}')")


def download(page: Any, what: str) -> tuple[str, bytes]:
    with page.expect_download() as waiting:
        page.click(f"#download-{what}")
    return waiting.value.suggested_filename, Path(waiting.value.path()).read_bytes()


def legend(page: Any) -> list[int]:
    """The pixels of each class."""
    cells = page.locator("#legend tbody tr td:first-of-type").all_inner_texts()
    return [int(cell.replace(",", "")) for cell in cells]


def ids(png: bytes) -> NDArray[np.uint8]:
    return np.array(Image.open(io.BytesIO(png)))


def inferences(server: Server) -> float:
    return server.metric("plainunet_batch_pixels_count")


def set_threshold(page: Any, value: str) -> None:
    page.fill("#threshold input[type=number]", value)
    page.wait_for_selector(f"#legend caption:has-text('threshold {value}')")


def wait_for_style(page: Any, part: str, name: str, value: str) -> None:
    """Wait until a part of the viewer has a style, which the page's events set soon."""
    page.wait_for_function(
        "([part, name, value]) => "
        "getComputedStyle(document.querySelector(`#viewer ${part}`))[name] == value",
        arg=[part, name, value],
    )


def test_downloads_are_what_predict_writes(
    server: Server, visit: Visit, images: list[Path], masks: Path
) -> None:
    with visit(server) as page:
        choose(page, images[0])
        name, mask = download(page, "mask")
        assert name == "scene-0.png"
        assert mask == (masks / name).read_bytes()
        counts = np.bincount(ids(mask).ravel(), minlength=2)
        assert legend(page) == counts.tolist()
        name, contours = download(page, "contours")
        assert name == "scene-0.geojson"
        assert json.loads(contours) == json.loads((masks / "contours" / name).read_bytes())
        name, overlay = download(page, "overlay")
        assert name == "scene-0-overlay.jpg"
        assert overlay == (masks / "overlay" / "scene-0.jpg").read_bytes()


def test_threshold_needs_no_inference(
    server: Server, visit: Visit, images: list[Path], models: dict[int, Path]
) -> None:
    predictor = Predictor.load(models[2], device="cpu", precision="fp32", threshold=0.3)
    expected = predictor.predict(np.array(Image.open(images[0])))
    with visit(server) as page:
        choose(page, images[0])
        before, first = inferences(server), legend(page)
        set_threshold(page, "0.3")
        mask = ids(download(page, "mask")[1])
        assert legend(page) == np.bincount(mask.ravel(), minlength=2).tolist()
        assert (mask != expected).mean() < 0.001  # a probability may round to the other side
        set_threshold(page, "0.5")
        assert legend(page) == first
        assert inferences(server) == before


def test_mask_of_another_threshold_is_not_taken_for_that_of_predict(
    server: Server, visit: Visit, images: list[Path], masks: Path, tmp_path: Path
) -> None:
    with visit(server) as page:
        choose(page, images[0])
        set_threshold(page, "0.3")
        content = download(page, "mask")[1]
    assert read_key(masks / "scene-0.png")
    (tmp_path / "mask.png").write_bytes(content)
    assert read_key(tmp_path / "mask.png") == ""


def test_sliders_move_in_the_browser(server: Server, visit: Visit, images: list[Path]) -> None:
    with visit(server) as page:
        choose(page, images[0])
        page.wait_for_timeout(1000)
        before = len(page.requests)
        opacity = page.locator("#opacity input[type=range]")
        opacity.focus()
        opacity.press("End")
        wait_for_style(page, ".fill", "opacity", "1")
        wait_for_style(page, ".predicted", "clipPath", "inset(0px 0px 0px 0%)")
        divider = page.locator("#viewer input[type=range]")
        divider.press("ArrowRight")
        wait_for_style(page, ".predicted", "clipPath", "inset(0px 0px 0px 1%)")
        box = divider.bounding_box()
        page.mouse.click(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
        part = page.locator("#viewer .predicted")
        moved = part.evaluate("part => getComputedStyle(part).clipPath")
        assert 48 <= float(moved.split()[-1].removesuffix("%)")) <= 52
        page.get_by_label("mask", exact=True).check()
        wait_for_style(page, ".predicted", "backgroundColor", "rgb(0, 0, 0)")
        assert len(page.requests) == before
        # what is chosen stays with the next image
        choose(page, images[1])
        wait_for_style(page, ".predicted", "clipPath", moved)
        wait_for_style(page, ".fill", "opacity", "1")


def test_opacity_is_that_of_the_overlay(server: Server, visit: Visit, images: list[Path]) -> None:
    with visit(server) as page:
        choose(page, images[0])
        page.fill("#opacity input[type=number]", "1")
        overlay = Image.open(io.BytesIO(download(page, "overlay")[1]))
        mask = ids(download(page, "mask")[1])
    inside = np.array(overlay)[mask == 1]
    assert inside.std(axis=0).max() < 30  # one colour, but for the JPEG


def test_several_files(server: Server, visit: Visit, images: list[Path], masks: Path) -> None:
    with visit(server) as page:
        choose(page, *images)
        page.click("#chooser input")
        page.get_by_role("option", name="scene-2.png").click()
        page.wait_for_selector("#legend caption:has-text('scene-2.png: 64 x 64')")
        assert download(page, "mask")[1] == (masks / "scene-2.png").read_bytes()
        name, content = download(page, "all")
    assert name == "plainunet.zip"
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        names = [
            f"scene-{k}{end}" for k in range(3) for end in (".png", "-overlay.jpg", ".geojson")
        ]
        assert archive.namelist() == [*names, "areas.csv"]
        for image in images:
            assert archive.read(image.name) == (masks / image.name).read_bytes()
        assert archive.read("areas.csv") == (masks / "areas.csv").read_bytes()


def test_pages_of_a_stack_are_images_of_their_own(
    server: Server, visit: Visit, models: dict[int, Path], tmp_path: Path
) -> None:
    stack = tmp_path / "stack.tif"
    pages = np.stack([draw_scene(np.random.default_rng(k), (64, 96))[0] for k in range(70)])
    tifffile.imwrite(stack, pages[:3], photometric="rgb", metadata=None)
    predictor = Predictor.load(models[2], device="cpu", precision="fp32")
    predict_files(predictor, find_inputs([stack]).images, tmp_path / "out", ["overlay"])
    with visit(server) as page:
        page.set_input_files("#files input[type=file]", str(stack))
        page.wait_for_selector("#legend caption:has-text('stack_0.tif')")
        page.click("#chooser input")
        page.get_by_role("option", name="stack_2.tif").click()
        page.wait_for_selector("#legend caption:has-text('stack_2.tif: 96 x 64')")
        name, mask = download(page, "mask")
        assert mask == (tmp_path / "out" / name).read_bytes()
        name, overlay = download(page, "overlay")
        assert overlay == (tmp_path / "out" / "overlay" / "stack_2.jpg").read_bytes()
        with zipfile.ZipFile(io.BytesIO(download(page, "all")[1])) as archive:
            assert [each for each in archive.namelist() if each.endswith(".png")] == [
                f"stack_{number}.png" for number in range(3)
            ]
        tifffile.imwrite(stack, pages, photometric="rgb", metadata=None)
        page.set_input_files("#files input[type=file]", str(stack))
        alert = page.get_by_role("alert").filter(has=page.locator("li"))
        alert.wait_for()
        assert "6 pages" in alert.inner_text()


def test_disk_space_is_bounded(models: dict[int, Path], tmp_path: Path) -> None:
    flags = ("--ui", *CPU, "--max-bytes", 100_000)
    with serving(models[2], *flags, TMPDIR=str(tmp_path)) as running:
        url = f"{running.url}/ui/gradio_api/upload"
        codes = []
        for number in range(20):
            content = np.random.default_rng(number).bytes(90_000)
            answer = httpx.post(url, files={"files": (f"{number}.png", content)}, trust_env=False)
            codes.append(answer.status_code)
        taken = sum(path.stat().st_size for path in tmp_path.rglob("*") if path.is_file())
    assert set(codes) == {200, 503}
    assert codes == sorted(codes)
    assert 1_000_000 < taken < 16 * 100_000


def test_bad_files_are_named(
    server: Server, visit: Visit, images: list[Path], tmp_path: Path
) -> None:
    bad, cut = tmp_path / "<b>notes.txt", tmp_path / "cut.png"
    bad.write_text("no image")
    cut.write_bytes(images[1].read_bytes()[:200])
    with visit(server) as page:
        choose(page, bad)
        alert = page.get_by_role("alert").filter(has=page.locator("li"))
        alert.wait_for()
        assert "notes.txt" in alert.inner_text()
        assert alert.locator("b").count() == 0
        assert not page.is_visible(SHOWN)
        choose(page, images[0], cut)
        page.wait_for_function("!document.querySelector('#problems').innerText.includes('notes')")
        assert "cut.png" in alert.inner_text()
        # the result stays when the next file is bad, and the message goes with a good one
        choose(page, bad)
        page.wait_for_function("document.querySelector('#problems').innerText.includes('notes')")
        assert page.is_visible(SHOWN)
        choose(page, images[1])
        alert.wait_for(state="hidden")


def test_two_users_at_once(server: Server, visit: Visit, images: list[Path], masks: Path) -> None:
    with visit(server) as one, visit(server, PHONE) as other:
        for page, path in ((one, images[0]), (other, images[1])):
            page.set_input_files("#files input[type=file]", str(path))
        for page, path in ((one, images[0]), (other, images[1])):
            page.wait_for_selector(f"#legend caption:has-text('{path.name}')")
        first = legend(one)
        set_threshold(other, "0.8")
        assert legend(one) == first
        assert download(one, "mask")[1] == (masks / images[0].name).read_bytes()
        set_threshold(other, "0.5")
        assert download(other, "mask")[1] == (masks / images[1].name).read_bytes()


def test_keyboard_alone(server: Server, visit: Visit) -> None:
    with visit(server) as page:

        def tab_to(name: str) -> None:
            for _ in range(30):
                page.keyboard.press("Tab")
                if page.evaluate("name => document.activeElement.matches(name)", name):
                    return
            raise AssertionError(f"{name} is not reached")

        tab_to("#files button")
        tab_to("#samples button")
        page.keyboard.press("Enter")
        page.wait_for_selector("#legend caption:has-text('sample-1.png')")
        tab_to("#viewer input")
        tab_to("#threshold input[type=range]")
        page.keyboard.press("Home")
        page.wait_for_selector("#legend caption:has-text('threshold 0.01')")
        tab_to("#opacity input[type=range]")
        tab_to("#view input")
        tab_to("#download-mask")
        with page.expect_download() as waiting:
            page.keyboard.press("Enter")
        assert waiting.value.suggested_filename == "sample-1.png"


@pytest.mark.parametrize("size", [DESK, PHONE, (320, 640)])
def test_nothing_is_cut_off(
    server: Server, visit: Visit, images: list[Path], size: tuple[int, int]
) -> None:
    with visit(server, size) as page:
        choose(page, *images)
        page.wait_for_timeout(500)
        outside = page.evaluate(
            "[...document.querySelectorAll('#files, #samples, #viewer, #legend, #opacity, #view,"
            " #threshold, #chooser, [id^=download-]')].filter(e => { const box = "
            "e.getBoundingClientRect(); return !box.width || box.left < 0 || box.right > "
            "innerWidth }).map(e => e.id)"
        )
        assert outside == []
        assert page.evaluate("document.documentElement.scrollWidth") <= size[0]
        assert page.locator(SHOWN).bounding_box()["width"] > 0.75 * min(size[0] * 0.6, 300)


def test_paste(server: Server, visit: Visit, images: list[Path]) -> None:
    with visit(server) as page:
        page.evaluate(
            """content => {
                const data = new DataTransfer();
                const bytes = Uint8Array.from(content);
                data.items.add(new File([bytes], "image.png", { type: "image/png" }));
                document.body.dispatchEvent(
                    new ClipboardEvent("paste", { clipboardData: data, bubbles: true }));
            }""",
            list(images[0].read_bytes()),
        )
        page.wait_for_selector("#legend caption:has-text('image.png')")


def test_token(guarded: Server, browser: Any, images: list[Path]) -> None:
    assert httpx.get(f"{guarded.url}/ui/config", trust_env=False).status_code == 401
    upload = httpx.post(
        f"{guarded.url}/ui/gradio_api/upload", files={"files": b"a"}, trust_env=False
    )
    assert upload.status_code == 401
    context = browser.new_context()
    page = context.new_page()
    page.set_default_timeout(120_000)
    page.goto(f"{guarded.url}/ui")
    for password, expected in (("wrong", False), ("sesame", True)):
        page.get_by_label("username").fill("anyone")
        page.get_by_label("password").fill(password)
        page.get_by_role("button", name="Login").click()
        if expected:
            page.wait_for_selector("#samples button")
        else:
            page.wait_for_timeout(1000)
            assert not page.is_visible("#samples button")
    choose(page, images[0])
    assert len(legend(page)) == 3
    assert not page.is_visible("#threshold")
    assert len(ids(download(page, "mask")[1])) == 96
    context.close()


def test_bodies_are_bounded(guarded: Server) -> None:
    def chunks() -> Iterator[bytes]:
        for _ in range(400):
            yield bytes(10_000)

    url = f"{guarded.url}/ui/gradio_api/queue/join"
    assert httpx.post(url, content=bytes(3_000_000), trust_env=False).status_code == 413
    answer = httpx.post(url, content=chunks(), trust_env=False)
    assert 400 <= answer.status_code < 500


def join(server: Server, file: dict[str, Any]) -> str:
    """Send a file's description as the page would after an upload; returns what comes back."""
    config = httpx.get(f"{server.url}/ui/config", trust_env=False).json()
    (event,) = (
        each for each in config["dependencies"] if any("upload" in t for t in each["targets"])
    )
    body = {"data": [[file], None, 0.5], "fn_index": event["id"], "session_hash": "attack"}
    given = f"{server.url}/ui/gradio_api/queue"
    httpx.post(f"{given}/join", json=body, trust_env=False).raise_for_status()
    text = ""
    with httpx.stream(
        "GET", f"{given}/data", params={"session_hash": "attack"}, trust_env=False, timeout=60
    ) as answer:
        for line in answer.iter_lines():
            text += line
            if "process_completed" in line:
                return line
    return text


def test_no_path_of_a_client_is_opened(server: Server, images: list[Path]) -> None:
    before = inferences(server)
    for path in (
        str(images[0]),
        "/etc/passwd",
        f"{server.url}/healthz",
        "http://example.com/a.png",
    ):
        for extra in ({}, {"url": path}, {"is_stream": True}):
            file = {"path": path, "meta": {"_type": "gradio.FileData"}, **extra}
            done = json.loads(join(server, file).removeprefix("data:"))
            assert not done["success"]
            assert "root:" not in str(done)
    assert inferences(server) == before
    for path in ("/etc/passwd", str(images[0]), str(Path("pyproject.toml").absolute())):
        url = f"{server.url}/ui/gradio_api/file={path}"
        assert httpx.get(url, trust_env=False).status_code in (403, 404)


def test_page_has_no_api(server: Server) -> None:
    info = httpx.get(f"{server.url}/ui/gradio_api/info", trust_env=False).json()
    assert info["named_endpoints"] == info["unnamed_endpoints"] == {}


def test_page_needs_one_process(models: dict[int, Path]) -> None:
    words = [sys.executable, "-m", "plainunet", "serve", models[2], "--ui", "--processes", "2"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 2
    assert "--processes" in done.stderr
    assert "Traceback" not in done.stderr


def test_page_is_made_without_the_network(models: dict[int, Path]) -> None:
    code = (
        "import sys, time; from pathlib import Path\n"
        "requests = []\n"
        "network = ('socket.connect', 'socket.getaddrinfo', 'urllib.Request')\n"
        "sys.addaudithook(lambda event, _: requests.append(event) if event in network else None)\n"
        "from plainunet.config import ServeOptions\n"
        "from plainunet.deployment.page import add_page\n"
        "from plainunet.deployment.routes import make_app\n"
        "from plainunet.prediction.predictor import Predictor\n"
        "predictor = Predictor.load(sys.argv[1], device='cpu')\n"
        "app = make_app(predictor, ServeOptions(), None)\n"
        "add_page(app)\n"
        "time.sleep(2)  # a thread might ask for the newest version\n"
        "app.state.service.close()\n"
        "print(requests)\n"
    )
    assert subprocess.check_output([sys.executable, "-c", code, models[2]], text=True) == "[]\n"


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_demo_leads_to_the_page(tmp_path: Path) -> None:
    words = [sys.executable, "-m", "plainunet", "demo", "--serve", "--out", tmp_path / "demo"]
    with subprocess.Popen(
        words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as demo:
        assert demo.stdout is not None
        url = next(found[0] for line in demo.stdout if (found := re.findall(r"http\S+/ui$", line)))
        try:
            assert httpx.get(f"{url}/", trust_env=False, timeout=300).status_code == 200
        finally:
            demo.terminate()
    assert demo.returncode == 0
