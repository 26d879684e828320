"""The container, as far as it can be checked without a daemon: lint, schema, and its own steps."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import plainunet

yaml = pytest.importorskip("yaml")

CHECKOUT = Path(__file__).parents[1]
TEXT = (CHECKOUT / "Dockerfile").read_text(encoding="utf-8")


def instructions() -> list[tuple[str, str]]:
    """The instructions of the Dockerfile, each with its arguments."""
    lines = re.sub(r"^#.*\n", "", TEXT, flags=re.MULTILINE).replace("\\\n", "").splitlines()
    return [(line.split()[0], line.split(maxsplit=1)[1]) for line in lines if line.strip()]


def last(name: str) -> str:
    return [text for instruction, text in instructions() if instruction == name][-1]


def run_tool(name: str, *words: object) -> None:
    tool = Path(sys.executable).with_name(name)
    if not tool.exists():
        pytest.skip(f"{name} is not installed")
    command = [tool, *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_dockerfile_has_no_lint() -> None:
    run_tool("hadolint", "--no-color", CHECKOUT / "Dockerfile")


def test_compose_follows_the_schema() -> None:
    schema = ("--builtin-schema", "vendor.compose-spec")
    run_tool("check-jsonschema", *schema, CHECKOUT / "compose.yaml")


def test_the_container_is_not_root_and_checks_its_health() -> None:
    assert last("USER") == "10001"
    assert "/healthz" in last("HEALTHCHECK")
    assert json.loads(last("ENTRYPOINT")) == ["plainunet"]
    names = [instruction for instruction, _ in instructions()]
    assert names.index("USER") < names.index("CMD")
    # whoever builds chooses PyTorch for CPUs, for GPUs, or none
    arguments = [text for instruction, text in instructions() if instruction == "ARG"]
    assert "TORCH=cpu" in arguments


def test_what_is_copied_exists_and_reaches_the_daemon() -> None:
    ignored = (CHECKOUT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    sent = {line.removeprefix("!") for line in ignored if line.startswith("!")}
    copied = {
        name
        for instruction, text in instructions()
        if instruction == "COPY" and "--from" not in text
        for name in text.split()[:-1]
    }
    assert copied == sent
    assert all((CHECKOUT / name).exists() for name in copied)


def test_compose_listens_on_this_machine_only() -> None:
    compose: dict[str, Any] = yaml.safe_load((CHECKOUT / "compose.yaml").read_text("utf-8"))
    services = compose["services"]
    assert set(services) == {"server", "prometheus"}
    for service in services.values():
        assert all(port.startswith("127.0.0.1:") for port in service["ports"])
    scrape = yaml.safe_load(compose["configs"]["prometheus"]["content"])["scrape_configs"]
    assert scrape[0]["static_configs"][0]["targets"] == [f"server:{last('EXPOSE')}"]
    folder = services["server"]["volumes"][0].split(":")[-2]
    assert json.loads(last("CMD"))[1].startswith(folder)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The virtual environment that the build stage makes without PyTorch, in a clean folder."""
    folder = tmp_path_factory.mktemp("container")
    environment, source = folder / "opt", folder / "source"
    source.mkdir()
    kept = ("PIP_CONFIG_FILE", "PIP_CONSTRAINT", "PIP_FIND_LINKS", "PIP_INDEX_URL")
    variables = {name: os.environ[name] for name in kept if name in os.environ}
    variables |= {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    variables |= {"HOME": str(folder), "TORCH": "none"}
    stage = instructions()[: [name for name, _ in instructions()].index("USER")]
    for instruction, text in stage:
        if instruction == "COPY" and "--from" not in text:
            for name in text.split()[:-1]:
                if (CHECKOUT / name).is_dir():
                    shutil.copytree(CHECKOUT / name, source / name)
                else:
                    shutil.copy(CHECKOUT / name, source / name)
        if instruction == "RUN" and "useradd" not in text:
            words = ["sh", "-ec", text.replace("/opt/plainunet", str(environment))]
            given: dict[str, Any] = {"cwd": source, "env": variables, "text": True}
            done = subprocess.run(words, **given, capture_output=True, check=False)
            assert done.returncode == 0, done.stderr
    return environment


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_steps_of_the_container_install_the_command(built: Path) -> None:
    words = [built / "bin" / "plainunet", "--version"]
    out = subprocess.check_output(words, env={"HOME": str(built)}, text=True)
    assert out.strip() == plainunet.__version__


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.filterwarnings("ignore")
def test_the_container_serves_and_its_health_check_passes(built: Path, tmp_path: Path) -> None:
    pytest.importorskip("plainunet.deployment.server")
    pytest.importorskip("onnxscript")
    from plainunet.network.checkpoint import save_checkpoint

    from .models import make_card, make_network
    from .onnx_files import export

    save_checkpoint(tmp_path / "best.safetensors", make_network(), make_card(size=(48, 64)))
    model = export(tmp_path / "best.safetensors", tmp_path / "model.onnx")
    instead = {"/model/best.safetensors": str(model), "0.0.0.0": "127.0.0.1"}
    words = [instead.get(word, word) for word in json.loads(last("CMD"))]
    command = [built / "bin" / "plainunet", *words, "--port", "0"]
    variables = {"HOME": str(tmp_path), "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(command, env=variables, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            url = server.stdout.readline().split()[-1]
            _, _, code = json.loads(last("HEALTHCHECK").partition("CMD ")[2])
            check = code.replace("http://127.0.0.1:8000", url)
            # a container's health check is repeated while it starts
            for _ in range(50):
                words = [str(built / "bin" / "python"), "-c", check]
                done = subprocess.run(words, env=variables, capture_output=True, check=False)
                if done.returncode == 0:
                    break
            assert done.returncode == 0, done.stderr
        finally:
            server.terminate()
