"""The body of a request -> files in a private folder -> images, within limits.

An image's size is read from its header, and checked, before anything is decoded. Names that a
client gives are never opened or used as paths.
"""

import base64
import binascii
import json
import os
import re
import shutil
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from fastapi import Request
from numpy.typing import NDArray
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.types import Message, Receive
from tifffile import TiffFile

from plainunet.formats.image_files import decoding, find_kind, open_encoded
from plainunet.formats.images import read_with_missing
from plainunet.formats.problems import DataError
from plainunet.formats.sources import ImageSource, Page
from plainunet.formats.tiff import TagReader, find_slices
from plainunet.formats.windows import Windows, as_windows, open_windows, stored_size
from plainunet.prediction.geo import Georeference, find_geo
from plainunet.prediction.predict import LARGE
from plainunet.prediction.predictor import Predictor
from plainunet.system import spare_threads

MOST_PAGES = 10_000
"""Largest number of pages of a TIFF file."""
_NAME = 200
"""Longest name of a file [characters]; the rest is cut off."""
RETRY_AFTER = 1
"""After how long a client may try again when there is no room [s]."""
_FIELDS = 16
_WHOLE = 2**30
"""Largest image [bytes] whose file cannot be read in parts."""
_STATUS = {
    **dict.fromkeys(("empty-file", "damaged", "cut-off"), 400),
    **{"too-large": 413, "not-an-image": 415},
}
"""Status codes by the code of a data error; any other is 422."""


class RefusedError(Exception):
    """A request is answered with an error.

    Attributes:
        status: The HTTP status code.
        code: A short name of the reason, for programs.
        message: The reason and the fix, for people.
        retry_after: After how many seconds the client may try again, or None.
    """

    def __init__(
        self, status: int, code: str, message: str, retry_after: int | None = None
    ) -> None:
        """Make the error."""
        super().__init__(message)
        self.status, self.code, self.message = status, code, message
        self.retry_after = retry_after


class Upload(NamedTuple):
    """A file of a request."""

    path: Path
    """The file, in a folder of its own."""
    name: str
    """The client's name of it, for lists."""
    page: int | None = None
    """The page of a TIFF file, from 0; None for a file of one image."""


def too_long(most: int) -> RefusedError:
    """The error for a body of more than `most` bytes."""
    return RefusedError(
        413, "too-many-bytes", f"The request is larger than the limit of {most:,} bytes."
    )


class Budget:
    """Bytes that all requests together may hold; used in the event loop only."""

    def __init__(self, most: int) -> None:
        """Allow `most` bytes."""
        self._left = most

    @contextmanager
    def share(self) -> Iterator[Callable[[int], None]]:
        """Yield a function that takes bytes, which are given back at the end of the block.

        It raises `RefusedError` if there are none left.
        """
        taken = 0

        def take(count: int) -> None:
            nonlocal taken
            if count > self._left:
                raise queue_full()
            taken += count
            self._left -= count

        try:
            yield take
        finally:
            self._left += taken


def queue_full() -> RefusedError:
    """The error when there is no room for a request at the moment."""
    return RefusedError(503, "queue-full", "The queue is full. Try again later.", RETRY_AFTER)


def limit_body(
    request: Request, most: int, take: Callable[[int], None] = lambda count: None
) -> Request:
    """The same request, whose body raises `RefusedError` beyond `most` bytes, or from `take`."""
    length = request.headers.get("content-length", "")
    if length.isdecimal() and int(length) > most:
        raise too_long(most)
    receive, seen = request.receive, 0

    async def receive_counted() -> Message:
        nonlocal seen
        message = await receive()
        size = len(message.get("body", b""))
        take(size)
        seen += size
        if seen > most:
            raise too_long(most)
        return message

    counted: Receive = receive_counted
    return Request(request.scope, counted)


async def receive_files(request: Request, folder: Path, most: int) -> list[Upload]:
    """Write the files of a request into a folder.

    The body is multipart/form-data with one or more fields `file`, JSON with base64 in `file` (and
    optionally its `name`) or a list of such objects in `files`, or, with any other content type,
    the file itself.

    Raises:
        RefusedError: The body has none or more than `most` files, or is damaged.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == "multipart/form-data":
        return await _receive_form(request, folder, most)
    if kind == "application/json":
        files = _read_json(await request.body(), most)
        return [_store(data, name, folder, number) for number, (name, data) in enumerate(files)]
    if most > 1:
        raise RefusedError(
            415, "bad-body", 'Send a form with fields "file", or JSON with a list "files".'
        )
    upload = _place(folder, 0, "")
    await store_body(request.stream(), upload.path)
    return [upload]


async def store_body(chunks: AsyncIterator[bytes], path: Path) -> None:
    """Write a body to a file as it comes."""
    with path.open("wb") as file:
        async for chunk in chunks:
            file.write(chunk)


async def _receive_form(request: Request, folder: Path, most: int) -> list[Upload]:
    uploads: list[Upload] = []
    try:
        async with request.form(max_files=most, max_fields=_FIELDS) as form:
            for key, value in form.multi_items():
                if isinstance(value, UploadFile) and key == "file":
                    upload = _place(folder, len(uploads), value.filename or "")
                    with upload.path.open("wb") as file:
                        shutil.copyfileobj(value.file, file)
                    uploads.append(upload)
    except HTTPException as error:
        if error.detail.startswith("Too many files"):
            raise _too_many(most) from None
        raise RefusedError(400, "bad-form", f"The form cannot be read: {error.detail}") from None
    if not uploads:
        raise RefusedError(
            422, "no-file", 'The form has no file. Send it in the field "file": curl -F file=@a.png'
        )
    return uploads


def _read_json(body: bytes, most: int) -> list[tuple[str, bytes]]:
    """The names and contents of the files in a JSON body."""
    try:
        content = json.loads(body)
    except (ValueError, RecursionError) as error:
        reason = f"The body is not JSON ({str(error)[:200]})."
        raise RefusedError(400, "bad-json", reason) from None
    given = content.get("files", [content]) if isinstance(content, dict) else content
    if isinstance(given, list) and len(given) > most:
        raise _too_many(most)
    if not isinstance(given, list) or not given:
        raise RefusedError(
            422,
            "no-file",
            f'Send {{"file": BASE64}}, or "files", a list of at most {most} of these.',
        )
    files = []
    for each in given:
        code = each.get("file") if isinstance(each, dict) else None
        name = each.get("name", "") if isinstance(each, dict) else ""
        if not isinstance(code, str) or not isinstance(name, str):
            raise RefusedError(422, "no-file", '"file" must be a base64 string, "name" a string.')
        try:
            files.append((name, base64.b64decode(code, validate=True)))
        except (binascii.Error, ValueError):
            raise RefusedError(400, "bad-base64", '"file" is not valid base64.') from None
    return files


def _too_many(most: int) -> RefusedError:
    several = "" if most > 1 else " Send several to /v1/predict/batch."
    return RefusedError(413, "too-many-files", f"At most {most} at a time.{several}")


def _store(data: bytes, name: str, folder: Path, number: int) -> Upload:
    upload = _place(folder, number, name)
    upload.path.write_bytes(data)
    return upload


def _place(folder: Path, number: int, name: str) -> Upload:
    own = folder / str(number)
    own.mkdir()
    base = os.path.basename(name.replace("\\", "/"))  # noqa: PTH119 (a name, not a path)
    # surrogates cannot be written as JSON
    shown = "".join(char for char in base if char.isprintable())[:_NAME]
    return Upload(own / "image", shown or "image")


@dataclass(frozen=True)
class Measured:
    """An image that is not decoded yet.

    Attributes:
        source: Its file, or a page of it.
        size: Height and width as stored [pixels].
        cost: Memory that decoding takes, in pixels of up to four bytes.
    """

    source: ImageSource
    size: tuple[int, int]
    cost: int


@dataclass(frozen=True)
class Decoded:
    """An image ready for prediction.

    Attributes:
        source: Its file, or a page of it.
        image: [H, W, C] as stored; None if it was not asked for, or is read in parts.
        whole: The windows of an image in memory; None for images of more than `LARGE` pixels, read
            in parts.
        geo: Coordinates of a GeoTIFF.
    """

    source: ImageSource
    image: NDArray[Any] | None
    whole: Windows | None
    geo: Georeference | None

    def opened(self) -> AbstractContextManager[Windows]:
        """Open the windows of the image."""
        if self.whole is not None:
            return nullcontext(self.whole)
        return open_windows(self.source, _WHOLE)


def measure(upload: Upload, most: int) -> Measured:
    """Read the size of an image from its header.

    Args:
        upload: Its file.
        most: Largest number of pixels.

    Raises:
        RefusedError: It is too large.
        ValueError: It is not an image, or damaged.
    """
    path = upload.path
    with path.open("rb") as file:
        kind = find_kind(file.read(16), path)
    if kind == "tiff":  # the suffix tells GeoTIFF files
        path = path.rename(path.with_suffix(".tif"))
        _require_few_pages(path)
    source = path if upload.page is None else Page(path, upload.page)
    height, width = stored_size(source)
    pixels = height * width
    cost = max(pixels, _stored_bytes(source) // 4) if kind == "tiff" else pixels
    if cost > most:
        deep = "" if cost == pixels else f", whose channels count as {cost:,} pixels of 4 bytes"
        raise RefusedError(
            413,
            "too-many-pixels",
            f"The image has {width} x {height} pixels{deep}; the limit is {most:,}. Reduce it, or "
            "cut it into smaller images.",
        )
    return Measured(source, (height, width), cost)


def _stored_bytes(source: Path | Page) -> int:
    with open_encoded(source) as (_, file), decoding(source), TiffFile(file) as tiff:
        return int(tiff.pages.first.nbytes)


def count_pages(path: Path) -> int:
    """The number of images in a file: of a TIFF stack, its pages; of a damaged file, 1.

    Raises:
        RefusedError: It has more than `MOST_PAGES`.
    """
    _require_few_pages(path)
    try:
        with open_encoded(path) as (kind, file), decoding(path):
            return find_slices(file, path).count if kind == "tiff" else 1
    except ValueError:  # measuring the image reports the reason
        return 1


def _require_few_pages(path: Path) -> None:
    """Refuse chains of pages that take long to follow."""
    with path.open("rb") as file:
        try:
            reader = TagReader(file)
            at, count = reader.first, 0
            while at and count <= MOST_PAGES:
                _, at = reader.page(at)
                count += 1
        except Exception:  # reading the image says what is wrong
            return
    if count > MOST_PAGES:
        raise RefusedError(
            413, "too-many-pages", f"The file has more than {MOST_PAGES:,} pages. Split it."
        )


def decode(measured: Measured, predictor: Predictor, needs_image: bool) -> Decoded:
    """Decode an image, or leave a large one to be read in parts.

    Args:
        measured: The image.
        predictor: The model.
        needs_image: Whether the image itself is needed after prediction. If not, a JPEG is decoded
            at a reduced size where `predict` does so: masks are the same as there.

    Raises:
        ValueError: It is damaged, or not supported.
    """
    geo = find_geo(measured.source)
    if np.prod(measured.size) > LARGE:
        return Decoded(measured.source, None, None, geo)
    if not needs_image and (reduced := predictor.read(measured.source)):
        return Decoded(measured.source, None, reduced, geo)
    image, missing = read_with_missing(measured.source)
    # with few cores, reducing ahead would slow down the network
    prepare = predictor.prepare if spare_threads() > 1 else as_windows
    return Decoded(measured.source, image, prepare(image, missing), geo)


def refuse(error: Exception, folder: Path) -> RefusedError:
    """Convert an error of reading or predicting an image in `folder` into an answer."""
    message = str(error)
    for part in sorted({f"{each}/" for each in folder.rglob("*") if each.is_dir()}, reverse=True):
        message = message.replace(part, "")
    # that is advice for the files of a dataset
    message = re.sub(r"Copy it again, or remove it[^.]*\.", "Send it again.", message)
    message = re.sub(r"Name a slice, such as .*", "Choose one with ?page=0.", message)
    code = error.code if isinstance(error, DataError) else "unusable"
    return RefusedError(_STATUS.get(code, 422), code, message)
