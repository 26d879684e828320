"""Shell completion: what `--install-completion` writes, and what bash makes of it."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ASK = r"""
. "$1"
complete -p plainunet >&2 || exit 1
function=$(complete -p plainunet | sed 's/.*-F \([^ ]*\) .*/\1/')
shift
COMP_WORDS=("$@")
COMP_CWORD=$(($# - 1))
COMPREPLY=()
"$function" plainunet "${COMP_WORDS[$COMP_CWORD]}" "${COMP_WORDS[$((COMP_CWORD - 1))]}"
echo "${COMPREPLY[*]}"
"""


def install(shell: str, home: Path) -> list[Path]:
    words = [sys.executable, "-m", "plainunet", "--install-completion", "--shell", shell]
    variables = {name: text for name, text in os.environ.items() if not name.startswith("ZSH")}
    subprocess.run(words, env={**variables, "HOME": str(home)}, check=True, capture_output=True)
    return sorted(path for path in home.rglob("*") if path.is_file())


def test_bash_completes_verbs_flags_and_choices(tmp_path: Path) -> None:
    if not (bash := shutil.which("bash")):
        pytest.skip("bash is not installed")
    start, script = install("bash", tmp_path)
    assert start.name == ".bashrc"
    assert str(script) in start.read_text()
    assert install("bash", tmp_path) == [start, script]
    assert start.read_text().count("[ -f") == 1

    def complete(*words: str) -> list[str]:
        asked = [bash, "-c", ASK, "bash", script, "plainunet", *words]
        done = subprocess.run(asked, capture_output=True, text=True, check=True)
        return done.stdout.split()

    assert complete("pre") == ["predict"]
    assert complete("predict", "model.onnx", "images", "--th") == ["--threshold"]
    assert set(complete("train", "data", "--optimizer", "ad")) == {"adam", "adamw"}


@pytest.mark.slow
def test_other_shells_get_their_files(tmp_path: Path) -> None:
    (script,) = install("fish", tmp_path / "fish")
    assert "predict" in script.read_text()
    names = [path.name for path in install("zsh", tmp_path / "zsh")]
    assert names == ["_cyclopts_plainunet", ".zshrc"]
