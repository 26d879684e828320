"""HTML pages from the templates of this package.

A page is one file that works offline: style, script and images are embedded, and its content
security policy allows nothing else.
"""

import base64
import functools
import hashlib
import json
import math
from collections.abc import Sequence
from numbers import Real
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from numpy.typing import NDArray

from plainunet.files import write_whole

if TYPE_CHECKING:
    from jinja2 import Environment

NOTHING = "\u2013"
"""Placeholder for a missing number: an en dash."""
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


def number(value: Any) -> float | None:
    """Return a finite number as a float, and None for anything else."""
    return float(value) if isinstance(value, Real) and math.isfinite(value) else None


def score(value: Any, digits: int = 4) -> str:
    """Format a number with fixed digits, as in "0.9123"; an en dash if there is none."""
    known = number(value)
    return NOTHING if known is None else f"{known:.{digits}f}"


def count(value: Any) -> str:
    """Format an integer, as in "1,942,594"; an en dash if there is none."""
    known = number(value)
    return NOTHING if known is None else f"{round(known):,}"


def interval(value: Any, digits: int = 4) -> str:
    """Format the bounds of an interval, with an en dash between them; "" if one is unknown."""
    known = [number(bound) for bound in value or ()]
    return NOTHING.join(score(bound, digits) for bound in known) if None not in known else ""


def percent(part: int, total: int, digits: int = 2) -> str:
    """Format a percentage: "12.34", "0", or "<0.01" if it would round to 0."""
    if not total or not part:
        return "0" if total else NOTHING
    least = 10.0**-digits
    return f"<{least:g}" if 100 * part / total < least else f"{100 * part / total:.{digits}f}"


def plural(amount: int, noun: str) -> str:
    """Format a count with a noun with a regular plural, as in "1 image" or "2,000 images"."""
    return f"{amount:,} {noun}{'' if amount == 1 else 's'}"


def text_table(rows: Sequence[Sequence[str]]) -> str:
    """Lay out rows as text: the first column left-aligned, the others right-aligned."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]).rstrip()
        for row in rows
    ]
    return "\n".join(lines)


def setting(value: Any) -> str:
    """Format a setting: text unchanged, anything else as JSON, with en dashes for nothing."""
    plain = _without_nothing(value)
    return plain if isinstance(plain, str) else json.dumps(plain, ensure_ascii=False, default=str)


def _without_nothing(value: Any) -> Any:
    """Replace None, nan and "" by en dashes, also inside dicts and lists."""
    if isinstance(value, dict):
        return {str(key): _without_nothing(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nothing(part) for part in value]
    if value is None or value == "" or (isinstance(value, float) and not math.isfinite(value)):
        return NOTHING
    return value
