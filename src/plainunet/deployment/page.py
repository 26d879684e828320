"""The page at `/ui`, to try a model in a browser; made with Gradio, and whole without a network."""

import asyncio
import atexit
import hmac
import os
import shutil
import stat
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

# read when Gradio is imported; it makes folders in the last one, which is removed at exit
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
os.environ["GRADIO_TEMP_DIR"] = tempfile.mkdtemp(prefix="plainunet-ui-")

import cv2
import gradio as gr
import numpy as np
from fastapi import FastAPI
from numpy.typing import NDArray
from starlette.datastructures import MutableHeaders
from starlette.middleware import Middleware
from starlette.responses import PlainTextResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from plainunet.demo import draw_scene
from plainunet.deployment.answers import OutputName
from plainunet.deployment.results import FILES, STEPS, Result, Results, View, write_zip
from plainunet.deployment.service import BODIES, MOST_FILES, Service, no_space
from plainunet.deployment.uploads import RefusedError, Upload, count_pages, too_long
from plainunet.page import data_url, read_template, render
from plainunet.prediction.drawing import OPACITY, as_rgb, encode_png

PATH = "/ui"
"""Where the page is mounted."""
_FOLDER = Path(os.environ["GRADIO_TEMP_DIR"]).resolve()
"""For uploads and downloads."""
atexit.register(shutil.rmtree, _FOLDER, ignore_errors=True)
_SAMPLES = 4
_SAMPLE_SIZE = 192, 256
_CLEAN_EVERY, _UPLOAD_SECONDS = 60, 600
"""Uploaded and downloaded files are removed after this time [s]."""
_SESSION_SECONDS = 3600
"""The results of a closed page are forgotten after this time [s]."""
_POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; "
    "style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; font-src 'self' data:; "
    "connect-src 'self' data: blob:; worker-src 'self' blob:; frame-ancestors 'none'"
)
_ALL = "all"
_NO_SPACE = "The server has no room for more files. Try again in ten minutes."
_LABELS = {
    "mask": "Download mask",
    "overlay": "Download overlay",
    "contours": "Download GeoJSON",
    _ALL: "Download all (ZIP)",
}


def add_page(app: FastAPI) -> None:
    """Add the page to an application of `make_app`.

    If the server has a token, the page asks for it as a password, with any user name.
    """
    service: Service = app.state.service
    token = service.options.token
    space = _Space(BODIES * service.options.max_bytes)
    icon = read_template("ui/icon.svg")

    @app.get("/favicon.ico", include_in_schema=False)
    async def show_icon() -> Response:
        return Response(icon, media_type="image/svg+xml")

    def is_token(user: str, password: str) -> bool:
        return token is not None and hmac.compare_digest(password.encode(), token.encode())

    gr.mount_gradio_app(
        app,
        _Page(service, Results(), space).build(),
        PATH,
        footer_links=[],
        run_history=False,
        app_kwargs={"middleware": [Middleware(_Guard, service, space)]},
        auth=is_token if token else None,
        auth_message="Enter the token of the server as the password, with any user name.",
        max_file_size=service.options.max_bytes,
        ssr_mode=False,
        mcp_server=False,
        pwa=False,
        theme=_make_theme(),
        css=read_template("ui/page.css"),
        head=f"<script>{read_template('ui/page.js')}</script>",
    )


def _make_theme() -> Any:
    """Gradio's theme with the system's fonts, and enough contrast for small text."""
    fonts = {"font": ["system-ui", "sans-serif"], "font_mono": ["ui-monospace", "monospace"]}
    theme = gr.themes.Default(**fonts)
    soft = {
        "body_text_color_subdued": "*neutral_500",
        "body_text_color_subdued_dark": "*neutral_400",
    }
    return theme.set(**soft)


def _is_uploaded(path: str) -> bool:
    """Whether a path, which a client may have made up, is that of an upload or a download."""
    resolved = Path(path).resolve()
    return resolved.is_relative_to(_FOLDER) and resolved.is_file()


def _local(file: Any) -> Any:
    """Keep a component of Gradio from fetching files that a client names, by path or URL."""
    move = file.async_move_resource_to_block_cache

    async def move_local(path: Any) -> Any:
        if path is not None and not _is_uploaded(path):
            raise gr.Error("The file was not uploaded.")
        return await move(path)

    # not a subclass, which Gradio would take for a component with a script of its own
    file.async_move_resource_to_block_cache = move_local
    return file


class _Page:
    """The parts of the page, and what they do.

    The results of a user are in the state of the page, by name; the chosen one is the value of
    `chooser`.
    """

    def __init__(self, service: Service, results: Results, space: "_Space") -> None:
        self._service, self._results, self._space = service, results, space
        self._samples = draw_samples(service.model.predictor.in_channels)

    def build(self) -> Any:
        """Lay out the page."""
        with gr.Blocks(
            title="plainunet",
            analytics_enabled=False,
            delete_cache=(_CLEAN_EVERY, _UPLOAD_SECONDS),
            fill_width=True,
        ) as blocks:
            self.introduction = gr.Markdown()
            self.own = gr.State(
                [], time_to_live=_SESSION_SECONDS, delete_callback=self._results.forget
            )
            with gr.Row():
                with gr.Column(scale=2, min_width=280):
                    self._build_input()
                with gr.Column(scale=5, min_width=320):
                    self._build_result()
            self._connect(blocks)
        return blocks

    def _build_input(self) -> None:
        self.files = _local(
            gr.File(
                label="Images: drop, paste or choose",
                file_count="multiple",
                height=170,
                elem_id="files",
            )
        )
        self.problems = gr.HTML(visible=False, apply_default_css=False, elem_id="problems")
        self.samples = gr.HTML(
            [data_url(as_rgb(image), "jpeg") for image in self._samples],
            html_template=read_template("ui/samples.html"),
            css_template=read_template("ui/samples.css"),
            js_on_load=read_template("ui/samples.js"),
            apply_default_css=False,
            visible=bool(self._samples),
            elem_id="samples",
        )

    def _build_result(self) -> None:
        card = self._service.model.predictor.card
        self.chooser = gr.Dropdown([], label="Image", visible=False, elem_id="chooser")
        self.viewer = gr.HTML(
            None,
            html_template=read_template("ui/viewer.html"),
            css_template=read_template("ui/viewer.css"),
            js_on_load=read_template("ui/viewer.js"),
            apply_default_css=False,
            elem_id="viewer",
        )
        with gr.Row():
            self.threshold = gr.Slider(
                1 / STEPS,
                1 - 1 / STEPS,
                card.threshold,
                step=1 / STEPS,
                label="Threshold",
                visible=False,
                elem_id="threshold",
            )
            self.opacity = gr.Slider(0, 1, OPACITY, step=0.05, label="Opacity", elem_id="opacity")
            self.view = gr.Radio(["overlay", "mask"], value="overlay", label="Show", elem_id="view")
        self.legend = gr.HTML(apply_default_css=False, elem_id="legend")
        with gr.Row():
            self.downloads = {
                output: gr.Button(label, size="md", interactive=False, elem_id=f"download-{output}")
                for output, label in _LABELS.items()
            }
        self.download = _local(gr.File(visible=False))

    def _connect(self, blocks: Any) -> None:
        """Connect the parts; no event is part of an API, and none waits for another's end."""
        common: dict[str, Any] = {"api_visibility": "private", "concurrency_limit": None}
        shown = [self.viewer, self.legend]
        outputs = [
            *(self.own, self.problems, self.chooser, *shown, self.threshold),
            *self.downloads.values(),
        ]
        blocks.load(self._introduce, None, [self.introduction, self.threshold], **common)
        self.files.upload(
            self._predict_files,
            [self.files, self.own, self.threshold],
            [self.files, *outputs],
            show_progress_on=[self.viewer],
            **common,
        )
        self.samples.click(
            self._predict_sample,
            [self.own, self.threshold],
            outputs,
            show_progress_on=[self.viewer],
            **common,
        )
        self.chooser.input(self._show, [self.chooser, self.threshold], shown, **common)
        self.threshold.input(
            self._redraw,
            [self.chooser, self.threshold],
            shown,
            show_progress="hidden",
            trigger_mode="always_last",
            **common,
        )
        self.opacity.input(None, self.opacity, None, js="plainunet.setOpacity", **common)
        self.view.input(None, self.view, None, js="plainunet.show", **common)
        for output, button in self.downloads.items():
            button.click(
                partial(self._write, output),
                [self.own, self.chooser, self.threshold, self.opacity],
                self.download,
                **common,
            ).success(None, self.download, None, js="plainunet.save", **common)

    def _introduce(self) -> list[Any]:
        """What a page shows of the current model when it is opened."""
        card = self._service.model.predictor.card
        names = ", ".join(card.class_names[1:])
        text = f"# plainunet\nSemantic segmentation of images. Classes of this model: {names}."
        return [text, gr.update(value=card.threshold)]

    async def _predict_files(
        self, paths: Sequence[str], own: list[str], threshold: float
    ) -> list[Any]:
        # again: a client can describe a file so that Gradio does not move it
        files = [(Path(path).name, Path(path)) for path in paths if _is_uploaded(path)]
        if not files:
            raise gr.Error("No file was uploaded.")
        return [None, *await self._predict(files, own, threshold)]

    async def _predict_sample(
        self, own: list[str], threshold: float, chosen: gr.EventData
    ) -> list[Any]:
        number = int(chosen.number)
        data = encode_png(self._samples[number].squeeze())
        return await self._predict([(f"sample-{number + 1}.png", data)], own, threshold)

    async def _predict(
        self, files: Sequence[tuple[str, Path | bytes]], own: list[str], threshold: float
    ) -> list[Any]:
        """Predict files, given by name and content, and show the first result."""
        problems = list[tuple[str, str]]()
        uploads: list[Upload] = []
        done: Sequence[Result | RefusedError]
        try:
            self._service.require_ready()
            for name, content in files:
                stored, count = await asyncio.to_thread(
                    self._store, name, content, MOST_FILES - len(uploads)
                )
                uploads += stored
                if left := count - len(stored):
                    pages = f" {left} pages" if count > 1 else ""
                    message = f"Left out{pages}: at most {MOST_FILES} images at a time."
                    problems.append((name, message))
            done = await self._service.finish_all(uploads, self._output(), Result.of)
        except RefusedError as error:
            done = [error] * len(uploads)
            if not uploads:
                problems.append((files[0][0], error.message))
        choices = []
        for upload, each in zip(uploads, self._results.add_all(done), strict=True):
            if isinstance(each, RefusedError):
                shutil.rmtree(upload.path.parent.parent, ignore_errors=True)
                problems.append((upload.name, each.message))
            else:
                choices.append((upload.name, each))
        message = gr.update(
            value=render("ui/problems.html", problems=problems), visible=bool(problems)
        )
        if not choices:  # the former result stays
            return [own, message, *[gr.skip()] * (4 + len(self.downloads))]
        self._results.forget(own)
        names = [name for _, name in choices]
        result = self._results.get(names[0])
        drawn = await asyncio.to_thread(self._draw, result, threshold, True)
        chooser = gr.update(choices=choices, value=names[0], visible=len(names) > 1)
        return [
            *(names, message, chooser, *drawn),
            gr.update(visible=result.levels is not None),
            *[gr.update(interactive=True)] * len(self.downloads),
        ]

    def _store(self, name: str, content: Path | bytes, most: int) -> tuple[list[Upload], int]:
        """Write a file into a folder of its own, as for a request; each page of a stack, too.

        Returns at most that number of uploads, and the number of images in the file.
        """
        if most == 0:
            return [], 1
        try:
            upload = Upload(self._make_folder() / "image", name)
            if isinstance(content, bytes):
                upload.path.write_bytes(content)
            else:
                shutil.copyfile(content, upload.path)
            count = count_pages(upload.path)
            if count == 1:
                return [upload], 1
            uploads, own = [], Path(name)
            for page in range(min(count, most)):
                path = self._make_folder() / "image"
                path.hardlink_to(upload.path)
                # downloads are named like the masks of `predict`
                uploads.append(Upload(path, f"{own.stem}_{page}{own.suffix}", page))
            shutil.rmtree(upload.path.parents[1])
        except OSError as error:
            raise no_space(error) from None
        return uploads, count

    def _make_folder(self) -> Path:
        folder = Path(tempfile.mkdtemp(dir=self._service.folder)) / "0"
        folder.mkdir()
        return folder

    def _output(self) -> OutputName:
        """What to predict: probabilities only if there is a threshold to move."""
        two = len(self._service.model.predictor.card.class_names) == 2
        return "probabilities-float" if two else "mask"

    def _show(self, name: str, threshold: float) -> list[Any]:
        """Show another result."""
        return self._draw(self._find(name), threshold, True)

    def _redraw(self, name: str | None, threshold: float) -> list[Any]:
        """Show the same result at another threshold."""
        return self._draw(self._find(name), threshold, False) if name else [gr.skip(), gr.skip()]

    def _draw(self, result: Result, threshold: float, is_new: bool) -> list[Any]:
        """The contents of viewer and legend; the image itself only if it is new."""
        mask = result.mask_at(threshold)
        view: dict[str, Any] = {"layers": result.layers(mask)}
        if is_new:
            view |= {"image": result.shown, "size": result.size, "name": result.name}
        height, width = mask.shape
        legend = render(
            "ui/legend.html",
            areas=result.areas(mask),
            name=result.name,
            height=height,
            width=width,
            threshold=None if result.levels is None else f"{threshold:g}",
        )
        return [view, legend]

    def _write(
        self, output: str, own: list[str], name: str, threshold: float, opacity: float
    ) -> str:
        """Write a download."""
        self._space.measure()
        if self._space.held >= self._space.most:
            raise gr.Error(_NO_SPACE, duration=None)
        folder = Path(tempfile.mkdtemp(dir=_FOLDER))
        view = View(threshold, opacity)
        try:
            if output == _ALL:
                path = folder / "plainunet.zip"
                write_zip(path, [self._results.get(each) for each in own], view)
            else:
                result = self._results.get(name)
                path = folder / FILES[output].format(result.stem)
                path.write_bytes(result.encode(output, view))
        except RefusedError as error:
            raise gr.Error(error.message, duration=None) from None
        return str(path)

    def _find(self, name: str | None) -> Result:
        try:
            return self._results.get(name or "")
        except RefusedError as error:
            raise gr.Error(error.message, duration=None) from None


def draw_samples(channels: int) -> list[NDArray[np.uint8]]:
    """Draw images [H, W, C] uint8 for a model of one or three channels; for others, none."""
    if channels not in (1, 3):
        return []
    images = [draw_scene(np.random.default_rng(k), _SAMPLE_SIZE)[0] for k in range(_SAMPLES)]
    if channels == 3:
        return images
    return [
        np.asarray(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), np.uint8)[..., None] for image in images
    ]


class _Space:
    """Disk space for uploads and downloads.

    Attributes:
        most: Its limit [bytes].
        held: What the files take, at most, with what is being received [bytes].
    """

    def __init__(self, most: int) -> None:
        self.most, self.held, self._receiving = most, 0, 0

    def measure(self) -> None:
        """Remove old files, among them those of broken uploads, and add up the others."""
        total, oldest = 0, time.time() - _UPLOAD_SECONDS
        for file in _FOLDER.rglob("*"):
            with suppress(OSError):
                about = file.lstat()
                if not stat.S_ISREG(about.st_mode):
                    continue
                if about.st_ctime < oldest:
                    file.unlink()
                else:
                    total += about.st_size
        self.held = total + self._receiving

    @contextmanager
    def receiving(self) -> Iterator[Callable[[int], None]]:
        """Yield a function that adds bytes of an upload, until its files count themselves."""
        own = 0

        def add(count: int) -> None:
            nonlocal own
            own += count
            self._receiving += count
            self.held += count

        try:
            yield add
        finally:
            self._receiving -= own


class _Guard:
    """Bounds request bodies and disk space, and forbids the browser to fetch from elsewhere."""

    def __init__(self, app: ASGIApp, service: Service, space: _Space) -> None:
        self._app, self._most, self._stopping = app, service.options.max_bytes, service.stopping
        self._space = space

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        given = dict(scope["headers"]).get(b"content-length", b"")
        length = int(given) if given.isdigit() else 0
        if length > self._most:
            error = too_long(self._most)
            await PlainTextResponse(error.message, error.status)(scope, receive, send)
            return
        if is_upload := scope["path"].endswith("/upload"):
            await asyncio.to_thread(self._space.measure)
            if self._space.held + length > self._space.most:
                await PlainTextResponse(_NO_SPACE, 503)(scope, receive, send)
                return
        with self._space.receiving() as add:
            await self._pass(scope, receive, send, add if is_upload else None)

    async def _pass(
        self, scope: Scope, receive: Receive, send: Send, add: Callable[[int], None] | None
    ) -> None:
        """Pass a request on, within the limits, and guard its answer."""
        seen, path = 0, scope["path"]

        async def receive_counted() -> Message:
            nonlocal seen
            # an open page has an answer that never ends, which the server would wait for
            message = await (self._receive_or_stop(receive) if "/heartbeat/" in path else receive())
            count = len(message.get("body", b""))
            seen += count
            if add:
                add(count)
            is_full = add is not None and self._space.held > self._space.most
            return {"type": "http.disconnect"} if seen > self._most or is_full else message

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers["Content-Security-Policy"] = _POLICY
                headers["X-Content-Type-Options"] = "nosniff"
                headers["Referrer-Policy"] = "no-referrer"
            await send(message)

        await self._app(scope, receive_counted, send_guarded)

    async def _receive_or_stop(self, receive: Receive) -> Message:
        """Receive a message; if the server stops before, the client counts as gone."""
        message = asyncio.ensure_future(receive())
        stopping = asyncio.ensure_future(self._stopping.wait())
        try:
            await asyncio.wait({message, stopping}, return_when=asyncio.FIRST_COMPLETED)
            return message.result() if message.done() else {"type": "http.disconnect"}
        finally:
            message.cancel()
            stopping.cancel()
