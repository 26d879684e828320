"""In a notebook: the progress of a call below its cell, and results as tables and images.

IPython is never imported by anything else: without a running kernel, nothing here is used.
"""

import base64
import io
import time
import warnings
from collections.abc import Callable, Sequence
from html import escape
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.text import Text

from plainunet import reporter
from plainunet.page import data_url, render
from plainunet.reporter import StepDone
from plainunet.terminal.screen import Screen
from plainunet.text import plural

if TYPE_CHECKING:
    from plainunet.doctor.diagnose import Diagnosis
    from plainunet.evaluation.scores import CrossValidation, Scores

_PERIOD = 0.5  # minimum time between two updates of the text [s]
_IMAGE_PERIOD = 3.0  # minimum time between two updates of an image [s]
_COLUMNS = 100  # of the text
_MOST_LINES = 1000
_WIDTH = 900  # of an image, at most [pixels]
_GAP = 8  # between images [pixels]
_MOST_SHOWN = 3  # predictions of an evaluation
_MOST_PAIRS = 6  # images of a dataset
_MOST_FINDINGS = 20
_MOST_OF_A_REPORT = 2_000_000  # bytes, more are not embedded
# the newest line stays visible, which scrolling from the bottom does
_SCROLL = "display: flex; flex-direction: column-reverse; max-height: 26em; overflow: auto"
_FORMAT = f'<div style="{_SCROLL}"><pre style="line-height: 1.3">{{code}}</pre></div>'


def install() -> None:
    """Show progress and results in the notebook whose kernel this process is, if it is one."""
    shell = import_module("IPython").get_ipython()
    if not hasattr(shell, "kernel"):
        return
    reporter.make_default = Notebook
    # of tqdm, which a dependency imports: its bars are not used
    warnings.filterwarnings("ignore", "IProgress not found")
    html = shell.display_formatter.formatters["text/html"]
    for module, name, form in _RESULTS:
        html.for_type_by_name(f"plainunet.{module}", name, form)


class Notebook(Screen):
    """Shows the lines of `Screen`, and the images of a run, in outputs that are updated in place.

    One call has one output for the text, and one for each kind of image.
    """

    def __init__(self) -> None:
        """Show nothing yet."""
        super().__init__(_console())
        self._is_live = True
        self._lines: list[str] = []
        self._outputs: dict[str, Any] = {}
        self._shown: dict[str, float] = {}
        self._files: dict[str, Sequence[Path]] = {}

    def note(self, text: str) -> None:
        """Show a note."""
        super().note(text)
        self._refresh()

    def advance(self, done: int) -> None:
        """Advance the bar."""
        super().advance(done)
        self._refresh(done == self._stage[1])

    def step(self, done: StepDone) -> None:
        """Show a step."""
        super().step(done)
        self._refresh(False)

    def images(self, name: str, files: Sequence[Path]) -> None:
        """Show images, the current ones in place of the last ones."""
        self._files[name] = files
        if self._is_due(name, _IMAGE_PERIOD):
            self._show_images(name)

    def result(self, scores: dict[str, Any]) -> None:
        """Show the last images, and no bars."""
        for bar in (self._bar, self._run):
            self._bars.update(bar, visible=False)
        self._last = None
        self._refresh()
        for name in list(self._files):
            self._show_images(name)

    def _print(self, *parts: str) -> None:
        self._lines = [*self._lines, "  ".join(filter(None, parts))][-_MOST_LINES:]
        self._refresh(False)

    def _refresh(self, at_once: bool = True) -> None:
        if not at_once and not self._is_due("", _PERIOD):
            return
        # a new one each time, since a console keeps all that it has recorded
        console = _console()
        console.print(*map(Text, self._lines), self, sep="\n", soft_wrap=True)
        text = (*self._lines, self._stage[0])[-1]
        html = console.export_html(inline_styles=True, code_format=_FORMAT)
        self._display("", {"text/html": html, "text/plain": text})

    def _show_images(self, name: str) -> None:
        from plainunet.prediction.drawing import encode_png

        shown = [_read(file) for file in self._files.pop(name) if file.is_file()]
        if shown:
            data = base64.b64encode(encode_png(_stack(shown))).decode()
            self._display(name, {"image/png": data, "text/plain": name})

    def _is_due(self, name: str, period: float) -> bool:
        return time.monotonic() - self._shown.get(name, -period) >= period

    def _display(self, name: str, content: dict[str, str]) -> None:
        """Show an output, or update it."""
        if name in self._outputs:
            self._outputs[name].update(content, raw=True)
        else:
            display = import_module("IPython.display").display
            self._outputs[name] = display(content, raw=True, display_id=True)
        self._shown[name] = time.monotonic()


def _console() -> Console:
    # not Jupyter: there, each print would be an output of its own
    console = Console(file=io.StringIO(), record=True, force_terminal=True, force_jupyter=False)
    console.width = _COLUMNS
    return console


def _read(file: Path) -> NDArray[np.uint8]:
    """Read an image of a run [H, W, 3] uint8, reduced to the width that is shown."""
    from plainunet.dataset.resize import fit_size, resize
    from plainunet.formats.images import read_image

    image = read_image(file)
    height, width = image.shape[:2]
    return np.asarray(resize(image[..., :3], fit_size((height, width), (height, _WIDTH))))


def _stack(images: Sequence[NDArray[np.uint8]]) -> NDArray[np.uint8]:
    """Stack images, with white next to narrower ones."""
    width = max(image.shape[1] for image in images)
    rows = [
        np.pad(each, ((0, _GAP), (0, width - each.shape[1]), (0, 0)), constant_values=255)
        for each in images
    ]
    return np.concatenate(rows)


def _show_scores(scores: "Scores") -> str:
    header, *rows = scores.rows()
    text, images = f"model: {scores.checkpoint}", _samples(scores)
    return _render(scores.title, header, rows, scores.report, text=text, images=images)


def _show_folds(result: "CrossValidation") -> str:
    title = f"{len(result.fold_scores())}-fold cross-validation on {result.data}"
    report = next(iter(result.out_of_fold.values())).report
    return _render(title, result.header, result.rows(), report)


def _show_diagnosis(found: "Diagnosis") -> str:
    from plainunet.doctor.page import draw_images

    title, *_ = str(found).splitlines()
    rows = [
        (each.severity, each.code, each.message, each.fix.line if each.fix else "")
        for each in found.findings[:_MOST_FINDINGS]
    ]
    shares = ", ".join(f"{name} {share:.2%}" for name, share in found.summary["shares"].items())
    text = "\n".join([*found.notes, shares, plural(len(found.findings), "finding")])
    header = ("severity", "code", "finding", "fix") if rows else ()
    return _render(title, header, rows, text=text, images=draw_images(found, _MOST_PAIRS))


def _show_text(result: object) -> str:
    # without the template: plainunet-runtime does not have Jinja2
    return f"<pre>{escape(str(result))}</pre>"


def _render(
    title: str,
    header: Sequence[str],
    rows: Sequence[Sequence[str]],
    report: Path | None = None,
    **content: Any,
) -> str:
    """Render a result, with its report unless that is large or missing."""
    is_shown = report and report.is_file() and report.stat().st_size <= _MOST_OF_A_REPORT
    page = report.read_text(encoding="utf-8") if report and is_shown else ""
    table = {"title": title, "header": header, "rows": rows}
    return render("notebook.html", **table, page=page, report=report, **content)


def _samples(scores: "Scores") -> list[dict[str, str]]:
    """Predictions of a run, from worst to best."""
    if scores.report is None or scores.report.parent != scores.checkpoint.parent:
        return []  # of another evaluation
    files = sorted(scores.report.parent.glob("saved_images/*_comparison.png"))
    chosen = np.linspace(0, len(files) - 1, min(_MOST_SHOWN, len(files))).round().astype(int)
    return [
        {"name": files[number].name, "url": data_url(_read(files[number]), "jpeg")}
        for number in chosen
    ]


_RESULTS: tuple[tuple[str, str, Callable[[Any], str]], ...] = (
    ("deployment.export", "Exported", _show_text),
    ("doctor.diagnose", "Diagnosis", _show_diagnosis),
    ("evaluation.compare", "Comparison", _show_text),
    ("evaluation.scores", "CrossValidation", _show_folds),
    ("evaluation.scores", "Scores", _show_scores),
    ("prediction.predict", "Predictions", _show_text),
)
