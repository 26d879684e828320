"""Running out of memory during prediction, for real where the system allows."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import pytest
import torch
from torch import Tensor

from plainunet.network.unet import UNet
from plainunet.prediction.predict import failing_alone
from plainunet.prediction.torch_backend import TorchBackend
from plainunet.prediction.views import in_smaller_parts

from ..forks import Fork


class View:
    """The limits of a view."""

    backend = TorchBackend(UNet(base_channels=1, depth=1), "cpu")

    def __init__(self, values: int, least: int) -> None:
        self.values, self.least = values, least


ROWS = torch.arange(12.0).reshape(1, 12, 1).expand(2, 12, 5)


def test_out_of_memory_continues_in_smaller_parts() -> None:
    view, other, begun = View(100, 10), View(8, 8), []

    def bands(first: int) -> Iterator[Tensor]:
        begun.append((first, view.values))
        for top in range(first, 12, 4):
            if top >= 4 and view.values > 30:
                raise RuntimeError("CUDA out of memory. Tried to allocate\nmore")
            yield ROWS[:, top : top + 4]

    with pytest.warns(UserWarning, match="--memory") as caught:
        parts = list(in_smaller_parts(bands, [view, other]))
    assert torch.equal(torch.cat(parts, dim=1), ROWS)
    # finished bands are not computed again
    assert begun == [(0, 100), (4, 50), (4, 25)]
    assert len(caught) == 2
    assert (view.values, other.values) == (25, 8)
    assert torch.equal(torch.cat(list(in_smaller_parts(bands, [view], 7)), dim=1), ROWS[:, 7:])


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_out_of_memory_with_the_smallest_parts_is_an_error() -> None:
    view = View(100, 30)

    def bands(first: int) -> Iterator[Tensor]:
        yield ROWS[:, first:1]
        raise MemoryError

    with pytest.raises(ValueError, match="MemoryError") as raised:
        list(in_smaller_parts(bands, [view]))
    assert "--device cpu" not in str(raised.value)
    assert view.values == 30


def test_other_errors_are_not_taken_for_out_of_memory() -> None:
    def bands(_: int) -> Iterator[Tensor]:
        raise RuntimeError("shapes do not match")
        yield

    with pytest.raises(RuntimeError, match="shapes"):
        list(in_smaller_parts(bands, [View(2, 1)]))


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (MemoryError(), r"^in/a.png: .*\(MemoryError\).*--save"),
        (cv2.error("(-4:Insufficient memory) F"), r"^in/a.png: .*Insufficient.*--save"),
        (ValueError("odd"), "^in/a.png: odd$"),
        (OSError("odd"), "^in/a.png: odd$"),
        (FileNotFoundError("in/a.png is gone"), "^in/a.png is gone"),
        (RuntimeError("a fault"), "^a fault$"),
    ],
)
def test_errors_name_the_image(error: Exception, message: str) -> None:
    kind = type(error) if "in/a.png" in str(error) or "fault" in str(error) else ValueError
    with pytest.raises(kind, match=message), failing_alone(Path("in/a.png")):
        raise error


on_linux = pytest.mark.skipif(
    not Path("/proc/self/statm").exists(), reason="RLIMIT_AS is tested on Linux"
)
LIMITED = """
import json, resource, warnings
from pathlib import Path
import numpy as np
from PIL import Image
import torch
from plainunet.network.card import Card
from plainunet.network.unet import UNet
from plainunet.prediction.predict import predict_files
from plainunet.prediction.predictor import Predictor

SOFT, HARD = resource.getrlimit(resource.RLIMIT_AS)

def limit(megabytes):
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    most = pages * resource.getpagesize() + megabytes * 2**20
    resource.setrlimit(resource.RLIMIT_AS, (most, HARD))

def predictor(size=None, **options):
    torch.manual_seed(0)
    card = Card(("background", "thing"), ((0, 0, 0), (255, 0, 0)), size=size)
    network = UNet(3, 2, **{"base_channels": 8, "depth": 2, **options}).eval()
    return Predictor(network, card, device="cpu", precision="fp32")

torch.set_num_threads(1)
"""


def run_limited(folder: Path, script: str) -> Any:
    """Run what may `limit` the memory that it still takes; its output is JSON."""
    result = Fork(LIMITED + script, err=folder / "err", folder=folder).finish()
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


SHORT = """
image = np.random.default_rng(0).integers(0, 256, (1000, 1330, 3), np.uint8)
tiled, whole = predictor(), predictor(normalisation="instance")
for each in (tiled, whole):
    each.predict(image[:256, :256])  # load everything before the limit
limit(160)
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    short = tiled.predict(image)
    messages = [str(each.message) for each in caught]
    try:
        error = str(whole.predict(image).shape)
    except ValueError as raised:
        error = str(raised)
resource.setrlimit(resource.RLIMIT_AS, (SOFT, HARD))
with warnings.catch_warnings(action="error"):
    ample = predictor().predict(image)
differ = float((ample != short).mean())
print(json.dumps({"messages": messages, "error": error, "differ": differ}))
"""


@on_linux
@pytest.mark.slow
def test_an_image_that_exceeds_the_memory_is_predicted_in_tiles(tmp_path: Path) -> None:
    """A real allocation fails; the mask nearly equals that of one pass.

    A network that cannot tile raises an error.
    """
    result = run_limited(tmp_path, SHORT)
    assert result["messages"]
    assert all("--memory" in message for message in result["messages"])
    assert result["differ"] < 1e-3
    assert "memory" in result["error"]


WRITING = """
small = predictor((32, 48), base_channels=2, depth=1)
for name, side in (("a", 40), ("large", 5000), ("z", 50)):
    Image.fromarray(np.zeros((side, side, 3), np.uint8)).save(folder / f"{name}.png")
images = [folder / f"{name}.png" for name in ("a", "large", "z")]
save = ["probabilities-float", "areas"]
predict_files(small, images[:1], folder / "before", save=save)  # load everything before the limit
limit(350)
result = predict_files(small, images, folder / "out", save=save)
print(json.dumps({"failures": result.failures, "written": len(result.written)}))
"""


@on_linux
def test_an_image_whose_probabilities_exceed_the_memory_fails_alone(tmp_path: Path) -> None:
    result = run_limited(tmp_path, WRITING)
    (failure,) = result["failures"]
    assert failure.startswith(f"{tmp_path}/large.png: ")
    assert "--save" in failure
    assert result["written"] == 2
    listed = (tmp_path / "out" / "areas.csv").read_text().split()
    assert {line.split(",")[0] for line in listed[1:]} == {"a.png", "z.png"}
    assert {path.name for path in (tmp_path / "out").rglob("*.png")} == {"a.png", "z.png"}
