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


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_steps_of_the_container_install_the_command(tmp_path: Path) -> None:
    """Everything of the build stage, in a clean folder instead of a clean machine."""
    environment = str(tmp_path / "opt")
    source = tmp_path / "source"
    source.mkdir()
    variables = {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "TORCH": "none"}
    variables["HOME"] = str(tmp_path)
    for name in ("PIP_CONSTRAINT", "PIP_CONFIG_FILE"):
        variables |= {name: os.environ[name]} if name in os.environ else {}
    for instruction, text in instructions()[: [name for name, _ in instructions()].index("USER")]:
        if instruction == "COPY" and "--from" not in text:
            *names, _ = text.split()
            for name in names:
                if (CHECKOUT / name).is_dir():
                    shutil.copytree(CHECKOUT / name, source / name)
                else:
                    shutil.copy(CHECKOUT / name, source / name)
        if instruction == "RUN" and "useradd" not in text:
            words = ["sh", "-ec", text.replace("/opt/plainunet", environment)]
            done = subprocess.run(
                words, **{"cwd": source, "env": variables, "capture_output": True}, check=False
            )
            assert done.returncode == 0, done.stderr.decode()
    words = [f"{environment}/bin/plainunet", "--version"]
    assert subprocess.run(words, env=variables, check=True, capture_output=True).stdout
