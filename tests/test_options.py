import subprocess
import sys

import pytest
from pydantic import ValidationError

from plainunet.config import EvaluateOptions


def test_parts_are_known_and_nothing_else_is_taken() -> None:
    assert EvaluateOptions(split="test").split == "test"
    with pytest.raises(ValidationError, match="'train', 'val', 'test' or 'all'"):
        EvaluateOptions(split="some")  # type: ignore[arg-type]
    with pytest.raises(ValidationError, match="Extra inputs"):
        EvaluateOptions(tuned=True)  # type: ignore[call-arg]


def test_it_loads_without_pytorch() -> None:
    code = "import sys, plainunet.config; assert 'torch' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
