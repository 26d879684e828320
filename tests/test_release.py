"""What a release holds, and what it must not hold."""

import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import pytest

import plainunet

CHECKOUT = Path(__file__).parents[1]
PACKAGE = CHECKOUT / "src" / "plainunet"


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the sdist and the wheel made from it."""
    folder = tmp_path_factory.mktemp("dist")
    done = subprocess.run(
        [sys.executable, "-m", "build", "--no-isolation", "--outdir", folder, CHECKOUT],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return folder


def tracked_files() -> list[Path]:
    """What git holds or would hold: new files that are not ignored count too."""
    if not (CHECKOUT / ".git").exists() or not shutil.which("git"):
        if "CI" in os.environ:
            pytest.fail("CI needs git and a clone")
        pytest.skip("not a git checkout, or git is not installed")
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=CHECKOUT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    paths = [CHECKOUT / name for name in listed.split("\0") if name]
    return [path for path in paths if path.is_file()]


def test_version_is_the_top_of_the_changelog() -> None:
    text = (CHECKOUT / "CHANGELOG.md").read_text(encoding="utf-8")
    versions = re.findall(r"^## \[?(\d+\.\d+\.\d+)\]?(?: - \d{4}-\d\d-\d\d)?$", text, re.MULTILINE)
    assert versions[0] == plainunet.__version__
    numbers = [tuple(map(int, version.split("."))) for version in versions]
    assert numbers == sorted(set(numbers), reverse=True)


def test_wheel_holds_the_package_and_nothing_else(built: Path) -> None:
    (wheel,) = built.glob("*.whl")
    assert wheel.name == f"plainunet-{plainunet.__version__}-py3-none-any.whl"
    names = set(zipfile.ZipFile(wheel).namelist())
    info = f"plainunet-{plainunet.__version__}.dist-info"
    sources = {
        f"plainunet/{path.relative_to(PACKAGE).as_posix()}"
        for path in PACKAGE.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert "plainunet/py.typed" in sources
    assert {name for name in names if not name.startswith(info)} == sources
    assert f"{info}/licenses/LICENSE" in names


def test_sdist_can_be_tested_and_holds_nothing_ignored(built: Path) -> None:
    (sdist,) = built.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        inside = {name.split("/", 1)[1] for name in archive.getnames() if "/" in name}
    assert {"LICENSE", "Makefile", "README.md", "constraints.txt", "tests/conftest.py"} <= inside
    tracked = {path.relative_to(CHECKOUT).as_posix() for path in tracked_files()}
    assert inside - tracked == {"PKG-INFO"}


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_wheel_and_sdist_run_the_demo_in_a_clean_environment(built: Path, tmp_path: Path) -> None:
    variables = {name: text for name, text in os.environ.items() if not name.startswith("PYTHON")}
    variables["PLAINUNET_CACHE"] = str(tmp_path / "cache")
    environment = tmp_path / "venv"

    def run(*words: object) -> str:
        command = [environment / "bin" / "python", *map(str, words)]
        given: dict[str, Any] = {"cwd": tmp_path, "env": variables, "text": True}
        done = subprocess.run(command, **given, capture_output=True, check=False)
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
        return done.stdout

    subprocess.run([sys.executable, "-m", "venv", environment], check=True)
    install = ("-m", "pip", "install", "--quiet", "-c", CHECKOUT / "constraints.txt")
    run(*install, next(built.glob("*.whl")))
    assert run("-m", "plainunet", "--version").strip() == plainunet.__version__
    run("-m", "plainunet", "demo")
    masks = tmp_path / "demo" / "masks"
    assert len(list(masks.glob("*.png"))) > 10
    run("-m", "pip", "uninstall", "--quiet", "--yes", "plainunet")
    run(*install, "--no-deps", next(built.glob("*.tar.gz")))
    words = ("demo/run/best.safetensors", "demo/data/images/val", "--out", "again")
    run("-m", "plainunet", "predict", *words)
    for mask in masks.glob("*.png"):
        assert (tmp_path / "again" / mask.name).read_bytes() == mask.read_bytes()


def test_version_stands_in_one_place() -> None:
    """Both distributions take it from the package; the citation repeats it."""
    for project, path in (("", "src"), ("runtime", "../src")):
        text = (CHECKOUT / project / "pyproject.toml").read_text(encoding="utf-8")
        assert f'path = "{path}/plainunet/__init__.py"' in text
        assert 'dynamic = ["version"]' in text
    citation = (CHECKOUT / "CITATION.cff").read_text(encoding="utf-8")
    assert f"\nversion: {plainunet.__version__}\n" in citation


def test_no_file_names_a_machine() -> None:
    machine = re.compile(r"(?<![\w.~$}>-])/(?:work|root)(?:/|\b)")
    for path in tracked_files():
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        for number, line in enumerate(text.splitlines(), 1):
            name = path.relative_to(CHECKOUT)
            assert not machine.search(line), f"{name}:{number} names a path of one machine: {line}"


def test_torch_is_pinned_for_us_and_free_for_users() -> None:
    """An unpinned torch would bring gigabytes; a pinned one would force it on users."""
    assert re.search(r"^torch==[\d.]+$", (CHECKOUT / "constraints.txt").read_text(), re.MULTILINE)
    project = (CHECKOUT / "pyproject.toml").read_text(encoding="utf-8")
    assert '"torch>=2.6"' in project
    installs = re.findall(r"pip install.*", (CHECKOUT / "Makefile").read_text(encoding="utf-8"))
    assert installs
    assert all("-c constraints.txt" in line for line in installs)
