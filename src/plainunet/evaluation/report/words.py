"""Numbers and names as they stand in the page.

In: values of a result. Out: text that is safe in HTML; what is not known is an en dash.
"""

import json
import math
from collections.abc import Iterable, Sequence
from html import escape
from typing import Any

NOTHING = "\u2013"
"""What stands where there is no number: an en dash."""


def text(said: object) -> str:
    """Make text safe between tags and in quoted attributes.

    Args:
        said: Anything.

    Returns:
        Its text, with &, <, > and quotes escaped.
    """
    return escape(str(said), quote=True)


def cut(said: object, most: int) -> str:
    """Shorten text, at its beginning: names differ at their ends.

    Args:
        said: Anything.
        most: Characters that may remain, at least 2.

    Returns:
        Its text, not escaped.
    """
    whole = str(said)
    return whole if len(whole) <= most else "\u2026" + whole[1 - most :]


def number(value: Any) -> float | None:
    """Take a number, if it is one.

    Args:
        value: A number, or None.

    Returns:
        The number; None for None, nan and infinity.
    """
    if value is None or not math.isfinite(value):
        return None
    return float(value)


def numbers(values: Iterable[Any] | None) -> list[float | None]:
    """Take numbers, as by `number`.

    Args:
        values: Numbers or None; or None for no list at all.

    Returns:
        As many.
    """
    return [number(value) for value in values or ()]


def score(value: Any) -> str:
    """Write a score with 4 digits.

    Args:
        value: In [0, 1], or None.

    Returns:
        As in "0.9123".
    """
    known = number(value)
    return NOTHING if known is None else f"{known:.4f}"


def pixels(value: Any) -> str:
    """Write a distance with 2 digits.

    Args:
        value: Pixels, or None.

    Returns:
        As in "1.25".
    """
    known = number(value)
    return NOTHING if known is None else f"{known:.2f}"


def count(value: Any) -> str:
    """Write a count with commas between its thousands.

    Args:
        value: An integer, or None.

    Returns:
        As in "1,942,594".
    """
    known = number(value)
    return NOTHING if known is None else f"{round(known):,}"


def several(amount: int, one: str) -> str:
    """Write a count with its noun.

    Args:
        amount: How many.
        one: The noun for 1; its plural ends in s.

    Returns:
        As in "1 picture" or "2,000 pictures".
    """
    return f"{amount:,} {one}{'' if amount == 1 else 's'}"


def bounds(interval: Sequence[Any] | None, digits: int = 4, between: str = " to ") -> str:
    """Write an interval.

    Args:
        interval: Lower and upper bound, or None.
        digits: Digits of each.
        between: What stands between them.

    Returns:
        As in "0.9012 to 0.9234"; "" where there is none.
    """
    known = numbers(interval)
    if len(known) != 2 or known[0] is None or known[1] is None:
        return ""
    return f"{known[0]:.{digits}f}{between}{known[1]:.{digits}f}"


def setting(value: Any) -> str:
    """Write a setting as a recipe would have it.

    Args:
        value: What JSON can hold.

    Returns:
        Text, not escaped; an en dash for None, nan and "".
    """
    plain = _without_nothing(value)
    return plain if isinstance(plain, str) else json.dumps(plain, ensure_ascii=False, default=str)


def _without_nothing(value: Any) -> Any:
    """Put an en dash for None, nan and "", however deep."""
    if isinstance(value, dict):
        return {str(key): _without_nothing(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nothing(part) for part in value]
    if value is None or value == "" or (isinstance(value, float) and not math.isfinite(value)):
        return NOTHING
    return value


def dig(found: Any, *keys: str) -> Any:
    """Reach into dictionaries of which any may be missing.

    Args:
        found: A dictionary, or None.
        keys: The names on the way.

    Returns:
        What is there; None where something on the way is missing.
    """
    for key in keys:
        if not isinstance(found, dict):
            return None
        found = found.get(key)
    return found
