"""Workflows of the repository: valid, safe, and only callers of the Makefile."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

yaml = pytest.importorskip("yaml")

CHECKOUT = Path(__file__).parents[1]
WORKFLOWS = sorted((CHECKOUT / ".github" / "workflows").glob("*.yml"))


def run_tool(name: str, *words: object) -> subprocess.CompletedProcess[str]:
    tool = Path(sys.executable).with_name(name)
    if not tool.exists():
        pytest.skip(f"{name} is not installed")
    command = [tool, *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def read(name: str) -> dict[str, Any]:
    path = CHECKOUT / ".github" / "workflows" / f"{name}.yml"
    found: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    return found


def steps(workflow: dict[str, Any]) -> list[dict[str, Any]]:
    return [step for job in workflow["jobs"].values() for step in job["steps"]]


def test_workflows_follow_the_schema() -> None:
    assert [path.stem for path in WORKFLOWS] == ["docs", "release", "test"]
    schema = "vendor.github-workflows"
    done = run_tool("check-jsonschema", "--builtin-schema", schema, *WORKFLOWS)
    assert done.returncode == 0, done.stdout


def test_workflows_are_safe() -> None:
    """Actions are pinned to commits, permissions are few, and no input reaches a shell."""
    done = run_tool("zizmor", "--offline", "--quiet", *WORKFLOWS)
    assert done.returncode == 0, done.stdout + done.stderr


def test_workflows_call_the_makefile() -> None:
    text = (CHECKOUT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z-]+):", text, flags=re.MULTILINE))
    for path in WORKFLOWS:
        lines = [step["run"] for step in steps(read(path.stem)) if "run" in step]
        assert lines
        for line in lines:
            if not line.startswith("git config"):
                words = line.split()
                assert words[0] == "make", f"{path.name}: {line}"
                assert {word for word in words[1:] if "=" not in word} <= targets, line


def test_pythons_are_those_of_the_package() -> None:
    tested = read("test")["jobs"]["test"]["strategy"]["matrix"]["python"]
    project = (CHECKOUT / "pyproject.toml").read_text(encoding="utf-8")
    assert tested == re.findall(r'"Programming Language :: Python :: (3\.\d+)"', project)


def test_a_release_publishes_both_distributions_without_a_token() -> None:
    release = read("release")
    publish = release["jobs"]["publish"]
    assert publish["strategy"]["matrix"]["project"] == ["plainunet", "plainunet-runtime"]
    assert publish["permissions"] == {"id-token": "write"}
    assert "secrets" not in (CHECKOUT / ".github" / "workflows" / "release.yml").read_text()
    assert release["permissions"] == {"contents": "read"}
