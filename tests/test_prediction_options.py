import subprocess
import sys

import pytest
from pydantic import ValidationError

from plainunet.config import PredictOptions


def test_what_is_not_given_is_left_to_the_checkpoint() -> None:
    assert PredictOptions().instead() == {}
    assert PredictOptions(threshold=0, min_object=0).instead() == {"threshold": 0, "min_object": 0}
    assert PredictOptions(tta="flips", scales=(1, 2)).instead() == {
        "tta": "flips",
        "scales": (1, 2),
    }


@pytest.mark.parametrize(
    "wrong",
    [
        {"threshold": 1.5},
        {"min_object": -1},
        {"tta": "spin"},
        {"save": ("film",)},
        {"scales": (0.0,)},
        {"scales": ()},
    ],
)
def test_impossible_values_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        PredictOptions(**wrong)


def test_it_comes_without_pytorch() -> None:
    code = "import sys, plainunet.config; print('torch' in sys.modules)"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert said.stdout == "False\n"
