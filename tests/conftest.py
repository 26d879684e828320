"""What every test stands on: one thread, no network, and where the data lies."""

import os

# before anything imports torch, OpenCV or Albumentations: the workers share two cores
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["OPENCV_FOR_THREADS_NUM"] = "1"
os.environ["MPLBACKEND"] = "Agg"
os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"
os.environ["ORT_DISABLE_TELEMETRY"] = "1"

import gc
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import hypothesis
import pytest

from .folders import draw_rectangles
from .unprivileged import unprivileged

CHECKOUT = Path(__file__).parents[1]
MOUNT = ("mount", "-t", "tmpfs", "-o", "size=2m", "none")

# shells start background jobs with Ctrl-C ignored, which the processes of tests would inherit
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

gc.set_threshold(700, 10, 100)  # by default a tenth of the time would go into full collections

# a shared machine has slow moments, so examples have no deadline; in CI a failure must repeat
hypothesis.settings.register_profile(
    "plainunet", deadline=None, derandomize="CI" in os.environ, max_examples=30
)
hypothesis.settings.load_profile("plainunet")


def _has_cuda() -> bool:
    import torch

    return torch.cuda.is_available()


def _has_bf16() -> bool:
    """Whether the processor says so itself; PyTorch is not asked, since its answer is tested."""
    cpuinfo = Path("/proc/cpuinfo")
    flags = set(cpuinfo.read_text().split()) if cpuinfo.exists() else set()
    return bool(flags & {"avx512_bf16", "amx_bf16"})


def _may_mount() -> bool:
    if sys.platform != "linux":
        return False
    with tempfile.TemporaryDirectory() as folder:
        if subprocess.run([*MOUNT, folder], capture_output=True, check=False).returncode:
            return False
        subprocess.run(["umount", folder], check=True)
    return True


# by marker or fixture, whether this machine has what such tests need
NEEDS: dict[str, Callable[[], bool]] = {
    "cuda": cache(_has_cuda),
    "bf16": cache(_has_bf16),
    "trackio": lambda: find_spec("trackio") is not None,
    "gradio": lambda: find_spec("gradio") is not None,
    "bioimageio": lambda: find_spec("bioimageio") is not None,
    "arrow": lambda: find_spec("pyarrow") is not None,
    "ray": lambda: find_spec("ray") is not None,
    "small_disk": cache(_may_mount),
}


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselect what cannot run on this machine: in CI nothing skips."""
    kept, left_out = [], []
    for item in items:
        marks = {mark.name for mark in item.iter_markers()} | {*getattr(item, "fixturenames", ())}
        can_run = all(NEEDS[name]() for name in NEEDS.keys() & marks)
        (kept if can_run else left_out).append(item)
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = kept


@pytest.fixture(autouse=True, scope="session")
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    os.environ["PLAINUNET_CACHE"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    """For a run that imported torch before this file set the variable."""
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)


@pytest.fixture(scope="session")
def checkout() -> Path:
    """The folder that holds pyproject.toml."""
    return CHECKOUT


@pytest.fixture(scope="session")
def data_root() -> Path:
    """The folder of real datasets: PLAINUNET_DATA, else ../shared/data beside the checkout."""
    if "PLAINUNET_DATA" in os.environ:
        folder = Path(os.environ["PLAINUNET_DATA"])
        if not folder.is_dir():
            pytest.fail(f"PLAINUNET_DATA names {folder}, which is not a folder")
        return folder
    folder = CHECKOUT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"no real data: PLAINUNET_DATA is not set, and there is no {folder}")
    return folder


@pytest.fixture
def small_data(tmp_path: Path) -> Path:
    """`images/` + `masks/`: eight RGB images [48, 64, 3], binary masks 0/255."""
    return draw_rectangles(tmp_path / "small")


@pytest.fixture(autouse=True, scope="session")
def _not_waiting_for_the_disk() -> Iterator[None]:
    """Killed processes lose nothing without it, and no test cuts the power."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda file: None)
        yield


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A real file system of two megabytes."""
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run([*MOUNT, disk], check=True)
    yield disk
    subprocess.run(["umount", "-l", disk], check=True)


@pytest.fixture
def file_modes() -> Iterator[None]:
    """File modes hold in this test, even for root."""
    with unprivileged():
        yield


@pytest.fixture
def count_calls() -> Callable[[Callable[[], object]], int]:
    """Count the calls of functions, Python's and C's, that some work makes.

    What is quadratic shows as four times the calls for twice the input, on any machine.
    """

    def count(work: Callable[[], object]) -> int:
        calls = 0

        def add(frame: object, event: str, argument: object) -> None:
            nonlocal calls
            calls += event in ("call", "c_call")

        before = sys.getprofile()
        sys.setprofile(add)
        try:
            work()
        finally:
            sys.setprofile(before)
        return calls

    return count


CHROMIUM = Path("/usr/bin/chromium")


def _absent(why: str) -> None:
    """Skip, unless the tests run where a browser is part of what is promised."""
    if "CI" in os.environ:
        pytest.fail(f"{why}; with CI set, pages must be seen in a browser")
    pytest.skip(why)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Chromium, driven by Playwright."""
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        _absent("playwright is not installed")
    if not CHROMIUM.exists():
        _absent(f"{CHROMIUM} does not exist")
    with sync_playwright() as play:
        chromium = play.chromium.launch(
            executable_path=str(CHROMIUM), args=["--no-sandbox"], timeout=120_000
        )
        yield chromium
        chromium.close()


@pytest.fixture
def opened(browser: Any) -> Callable[..., AbstractContextManager[Any]]:
    """Open a page: `with opened(path, width=1280, scheme="light") as page`.

    Whatever is done to it, it must request nothing, and log nothing to the console.
    """

    @contextmanager
    def open_page(path: Path, width: int = 1280, scheme: str = "light") -> Iterator[Any]:
        size = {"width": width, "height": 900}
        context = browser.new_context(viewport=size, color_scheme=scheme)
        page = context.new_page()
        page.set_default_timeout(120_000)  # the machine may have other work
        requests: list[str] = []
        logged: list[str] = []
        page.on("request", lambda request: requests.append(request.url))
        page.on("console", lambda message: logged.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: logged.append(str(error)))
        page.on("dialog", lambda dialog: (logged.append(dialog.message), dialog.dismiss()))
        page.goto(path.as_uri())
        yield page
        context.close()
        assert [url for url in requests if not url.startswith("data:")] == [path.as_uri()]
        assert logged == []

    return open_page
