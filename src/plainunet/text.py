"""Numbers, counts, settings and tables as text."""

import json
import math
from collections.abc import Sequence
from numbers import Real
from typing import Any

NOTHING = "\u2013"
"""Placeholder for a missing number: an en dash."""


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
