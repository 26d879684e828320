import pickle
import subprocess
from pathlib import Path

import pytest

from plainunet.formats.problems import DataError, as_problem, command, report


def test_a_problem_reads_as_its_message() -> None:
    problem = DataError("a.png is cut off.", "cut-off", [Path("a.png")], "rm a.png")
    assert str(problem) == "a.png is cut off."
    assert isinstance(problem, ValueError)
    copy = pickle.loads(pickle.dumps(problem))
    assert (str(copy), copy.code, copy.files, copy.cure) == (
        *("a.png is cut off.", "cut-off"),
        *((Path("a.png"),), "rm a.png"),
    )
    # as PyTorch's workers raise it again
    assert str(DataError("said")) == "said"


def test_who_collects_problems_is_told() -> None:
    problem = DataError("wrong")
    with pytest.raises(DataError, match="wrong"):
        report(problem, None)
    heard: list[DataError] = []
    report(problem, heard.append)
    assert heard == [problem]


def test_other_errors_get_a_code_and_files() -> None:
    path = Path("a.png")
    assert as_problem(FileNotFoundError("gone"), path).code == "missing-file"
    assert as_problem(ValueError("odd"), path).code == "unclear"
    known = as_problem(DataError("cut", "cut-off", cure="rm"), path)
    assert (known.code, known.files, known.cure) == ("cut-off", (path,), "rm")
    named = DataError("cut", "cut-off", [Path("b.png")])
    assert as_problem(named, path) is named


@pytest.mark.parametrize(
    "name", ["plain.png", "with space.png", "it's.png", "$HOME;ls.png", "tab\t.png", "new\nline"]
)
def test_commands_can_be_pasted(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("content")
    done = subprocess.run(
        ["bash", "-c", command("cat", tmp_path / name)], capture_output=True, text=True, check=True
    )
    assert done.stdout == "content"


def test_commands_take_names_that_are_not_utf8(tmp_path: Path) -> None:
    path = tmp_path / b"caf\xe9.png".decode(errors="surrogateescape")
    path.write_text("content")
    line = command("cat", path)
    line.encode("ascii")
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, check=True)
    assert done.stdout == "content"
