"""HTML pages from the templates of this package.

A page is one file that works offline: style, script and images are embedded, and its content
security policy allows nothing else.
"""

import base64
import functools
import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from numpy.typing import NDArray

from plainunet.files import write_whole
from plainunet.text import count, interval, percent, plural, score, setting

if TYPE_CHECKING:
    from jinja2 import Environment

_TEMPLATES = Path(__file__).with_name("templates")
_QUALITY = 85  # of JPEG files


def render(template: str, **content: Any) -> str:
    """Render a template; all text is escaped, and style and script are embedded.

    Variables missing in `content` render as nothing.
    """
    return _environment().get_template(template).render(content)


@functools.cache
def _environment() -> "Environment":
    # imported here: only commands that write a page need it
    from jinja2 import ChainableUndefined, Environment, FileSystemLoader

    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=ChainableUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.policies["json.dumps_kwargs"] = {"separators": (",", ":")}
    for form in (score, count, interval, percent, plural, setting):
        environment.filters[form.__name__] = form
    for name in ("style.css", "script.js"):
        text = read_template(name)
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        environment.globals[name.partition(".")[0]] = {"text": text, "digest": digest}
    return environment


def read_template(name: str) -> str:
    """Read a file that goes into a page as it is, such as a style sheet."""
    return (_TEMPLATES / name).read_text(encoding="utf-8")


def save_page(path: Path, html: str) -> None:
    """Write a page, whole or not at all; file names that are not UTF-8 are escaped."""
    with write_whole(path) as file:
        file.write_text(html, encoding="utf-8", errors="backslashreplace", newline="\n")


def data_url(image: NDArray[np.uint8], kind: str) -> str:
    """Encode an image [H, W, 3] uint8 for a page: "jpeg" for photographs, "png" for masks."""
    # no chroma subsampling, which would fade thin lines
    sharp = [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444]
    how = {
        "jpeg": [cv2.IMWRITE_JPEG_QUALITY, _QUALITY, *sharp],
        "png": [cv2.IMWRITE_PNG_COMPRESSION, 6],
    }[kind]
    data = cv2.imencode(f".{kind}", image[..., ::-1], how)[1].tobytes()
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
