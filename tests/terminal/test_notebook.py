"""Notebooks: progress and images are updated in place, and results are shown as HTML."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from IPython.core.interactiveshell import InteractiveShell
from IPython.utils.capture import CapturedIO, capture_output
from traitlets.config import Config

from plainunet import reporter
from plainunet.prediction.drawing import write_rgb
from plainunet.reporter import StepDone
from plainunet.terminal.notebook import Notebook, install

SETUP = """
from pathlib import Path
import plainunet
from plainunet.demo import draw_dataset
data = draw_dataset(Path("data"), 4, 3, (64, 64))
given = {"size": (64, 64), "epochs": 2, "base_channels": 4, "depth": 2, "batch_size": 2}
settings = plainunet.TrainConfig(**given)
"""


@pytest.fixture
def shell() -> Iterator[InteractiveShell]:
    """IPython without a kernel."""
    yield InteractiveShell.instance(config=Config({"HistoryManager": {"enabled": False}}))
    InteractiveShell.clear_instance()


def shown(captured: CapturedIO) -> list[tuple[str, dict[str, Any]]]:
    """The outputs in order of appearance: the kind, and the last content of each."""
    last: dict[str, dict[str, Any]] = {}
    for output in captured.outputs:
        last[output.transient["display_id"]] = output.data
    return [(next(iter(content)), content) for content in last.values()]


def test_progress_is_updated_in_place(shell: InteractiveShell, tmp_path: Path) -> None:
    files = [tmp_path / "a.png", tmp_path / "b.png"]
    for width, file in zip((40, 60), files, strict=True):
        write_rgb(file, np.zeros((20, width, 3), np.uint8))
    row = {"epoch": 1, "size": (48, 64), "loss": 0.125, "learning_rate": 1e-3, "seconds": 1.0}
    row |= {"images_per_second": 31.25, "validation": None}
    with capture_output() as captured:
        screen = Notebook()
        screen.note("8 pairs, named <b>")
        screen.stage("checking files", 2)
        screen.advance(2)
        for number in range(200):
            screen.step(StepDone(0, number, 200, 0.5, 9.0, 1e-3, number + 1, 200, number / 200))
        screen.images("validation previews", files)
        screen.images("validation previews", files[:1])
        screen.epoch(row, None)
        screen.result({})
    (text, written), (image, _) = shown(captured)
    assert (text, image) == ("text/html", "image/png")
    assert "8 pairs, named &lt;b&gt;" in written[text]
    assert "epoch   1" in written[text]
    assert "checking files" not in written[text]
    assert len(captured.outputs) < 20
    assert captured.stdout == captured.stderr == ""


def test_nothing_changes_without_a_kernel(shell: InteractiveShell) -> None:
    install()
    with capture_output() as captured:
        reporter.or_default(None).note("nothing")
    assert captured.outputs == []
    assert captured.stdout == ""


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("calls", "kinds"),
    [
        (["plainunet.check(data)"], [["text/html", "text/html"]]),
        pytest.param(
            [
                "plainunet.train(data, 'run', settings)",
                "plainunet.evaluate('run', data, html='report.html')",
                "import shutil\n"
                "for kind in ('images', 'masks'):\n"
                "    shutil.copytree(data / kind / 'train', Path('flat') / kind)\n"
                "plainunet.cross_validate('flat', 'folds', settings, folds=2)",
            ],
            [
                ["text/html", "image/png", "image/png", "text/html"],
                ["text/html", "text/html"],
                ["text/html", "image/png", "image/png", "text/html"],
            ],
            marks=pytest.mark.slow,
        ),
    ],
    ids=["check", "train"],
)
def test_a_notebook_shows_progress_and_results(
    calls: list[str], kinds: list[list[str]], tmp_path: Path
) -> None:
    import nbformat
    from nbclient import NotebookClient

    cells: list[Any] = [nbformat.v4.new_code_cell(source) for source in (SETUP, *calls)]
    notebook = nbformat.v4.new_notebook(cells=cells)
    NotebookClient(notebook, timeout=280, resources={"metadata": {"path": str(tmp_path)}}).execute()
    assert cells[0].outputs == []
    is_check = "check" in calls[0]
    for cell, wanted in zip(cells[1:], kinds, strict=True):
        contents = [output.data for output in cell.outputs]  # a stream has none
        found = [next(kind for kind in sorted(each) if kind != "text/plain") for each in contents]
        assert found == wanted, cell.source
        assert "<table>" in (result := contents[-1]["text/html"]) or is_check
        assert "data:image/" in result
        assert ("<iframe" in result) == (not is_check)
