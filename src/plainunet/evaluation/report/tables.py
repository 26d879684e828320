"""Tables of scores.

In: parts of a result. Out: HTML tables, each in a box of its own that scrolls.
"""

from collections.abc import Callable, Sequence
from typing import Any

from plainunet.evaluation.report.words import (
    NOTHING,
    bounds,
    count,
    dig,
    number,
    numbers,
    pixels,
    score,
    setting,
    text,
)

_METRICS = {"dice": "Dice", "iou": "IoU", "precision": "precision", "recall": "recall"}
_PARTS = {"pooled": "pooled", "per_image": "per image"}
_OUTLINES: dict[str, tuple[str, Callable[[Any], str], int]] = {
    "hd95": ("Hausdorff distance, 95 % [pixels]", pixels, 2),
    "distance": ("mean distance [pixels]", pixels, 2),
    "surface_dice": ("surface Dice", score, 4),
    "boundary_iou": ("boundary IoU", score, 4),
}
_SHADES = 10
_MANY = 12  # classes from which on a confusion matrix is set small


def score_table(result: dict[str, Any], names: Sequence[str]) -> str:
    """Tabulate the scores of each class and their means, pooled and per image.

    Args:
        result: The result.
        names: The classes, the background's first.

    Returns:
        A table.
    """
    heads = "".join(
        f'<th scope="colgroup" colspan="2">{metric}</th>' for metric in _METRICS.values()
    )
    below = "".join(f'<th scope="col">{part}</th>' for part in _PARTS.values()) * len(_METRICS)
    rows: list[tuple[str, tuple[str, ...], str]] = [
        (text(name), ("per_class", name), name) for name in names
    ]
    rows.append(("mean of the foreground", ("mean_foreground",), ""))
    rows.append(("mean with the background", ("mean_with_background",), ""))
    body = []
    for label, keys, name in rows:
        cells = "".join(
            _scored(
                score(dig(result.get(part), metric, *keys)),
                dig(result.get("intervals"), part, metric, *keys),
            )
            for metric in _METRICS
            for part in _PARTS
        )
        absent = "".join(
            f"<td>{count(dig(result.get('absent'), name, how))}</td>"
            for how in ("left_out", "scored_zero")
        )
        kind = "" if name else ' class="mean"'
        body.append(f'<tr{kind}><th scope="row">{label}</th>{cells}{absent}</tr>')
    return _boxed(
        "Scores of each class",
        f'<thead><tr><th scope="col" rowspan="2">class</th>{heads}'
        f'<th scope="colgroup" colspan="2">pictures without it</th></tr><tr>{below}'
        '<th scope="col">left out</th><th scope="col">scored 0</th></tr></thead>'
        f"<tbody>{''.join(body)}</tbody>",
    )


def boundary_table(boundary: dict[str, Any]) -> str:
    """Tabulate how far outlines lie from each other.

    Args:
        boundary: The result's part of that name.

    Returns:
        A table.
    """
    heads = "".join(f'<th scope="col">{label}</th>' for label, _, _ in _OUTLINES.values())
    body = []
    for name in boundary["per_class"]:
        cells = "".join(
            _scored(
                form(dig(boundary["per_class"], name, metric)),
                dig(boundary.get("intervals"), name, metric),
                digits,
            )
            for metric, (_, form, digits) in _OUTLINES.items()
        )
        body.append(f'<tr><th scope="row">{text(name)}</th>{cells}</tr>')
    return _boxed(
        "Outlines of each class, means over the pictures",
        f'<thead><tr><th scope="col">class</th>{heads}</tr></thead><tbody>{"".join(body)}</tbody>',
    )


def object_table(objects: dict[str, Any]) -> str:
    """Tabulate how many objects were found.

    Args:
        objects: The result's part of that name.

    Returns:
        A table.
    """
    halves = "".join(f'<th scope="col">{part}</th>' for part in _PARTS.values())
    body = []
    for name, found in objects["per_class"].items():
        cells = f"<td>{count(found.get('true'))}</td><td>{count(found.get('predicted'))}</td>"
        cells += "".join(
            f"<td>{score(dig(found, metric, part))}</td>"
            for metric in ("f1", "average_precision")
            for part in _PARTS
        )
        body.append(f'<tr><th scope="row">{text(name)}</th>{cells}</tr>')
    return _boxed(
        "Objects of each class",
        '<thead><tr><th scope="col" rowspan="2">class</th>'
        '<th scope="colgroup" colspan="2">objects</th><th scope="colgroup" colspan="2">F1</th>'
        '<th scope="colgroup" colspan="2">average precision</th></tr><tr>'
        '<th scope="col">true</th><th scope="col">predicted</th>'
        f"{halves * 2}</tr></thead>"
        f"<tbody>{''.join(body)}</tbody>",
    )


def confusion_table(confusion: Sequence[Sequence[int]], names: Sequence[str]) -> str:
    """Tabulate what became of each true class's pixels; their numbers are the cells' titles.

    Args:
        confusion: [K, K] pixels, rows truth, columns prediction.
        names: K classes.

    Returns:
        A table.
    """
    many = len(names) > _MANY
    heads = "".join(f'<th scope="col"><span>{text(name)}</span></th>' for name in names)
    body = []
    for truth, (name, row) in enumerate(zip(names, confusion, strict=True)):
        total = sum(row)
        cells = []
        for given, (other, amount) in enumerate(zip(names, row, strict=True)):
            share = amount / total if total else 0.0
            title = f"{name}, predicted as {other}: {count(amount)} pixels"
            if total:
                title += f", {score(share)} of {name}"
            right = " right" if truth == given else ""
            cells.append(
                f'<td class="s{round(share * _SHADES)}{right}" title="{text(title)}">'
                f"{_percent(amount, total, 1 if many else 2)}</td>"
            )
        body.append(
            f'<tr><th scope="row">{text(name)}</th>{"".join(cells)}<td>{count(total)}</td></tr>'
        )
    kind = "matrix many" if many else "matrix"
    return _boxed(
        "Shares of each true class by predicted class [%]",
        f'<thead><tr><td></td><th scope="colgroup" colspan="{len(names)}">predicted</th><td></td>'
        f'</tr><tr><th scope="col">true</th>{heads}<th scope="col"><span>pixels</span></th></tr>'
        f"</thead><tbody>{''.join(body)}</tbody>",
        kind,
    )


def fact_list(facts: dict[str, Any]) -> str:
    """List names and values.

    Args:
        facts: Values that JSON can hold, by their names.

    Returns:
        A description list.
    """
    rows = "".join(
        f"<div><dt>{text(name)}</dt><dd>{text(setting(value))}</dd></div>"
        for name, value in facts.items()
    )
    return f'<dl class="facts">{rows}</dl>'


def picture_rows(
    result: dict[str, Any], names: Sequence[str], anchors: dict[int, str]
) -> dict[str, Any]:
    """Lay out the table of all pictures, which the page's script fills and sorts.

    Args:
        result: The result.
        names: The classes, the background's first.
        anchors: Where in the page pictures are shown, by their numbers.

    Returns:
        {"columns": [{"name", "kind"}], "rows": [[value for each column]], "anchors": [id or None
        for each row]}, ready for JSON: scores with 4 digits, None where there is none.
    """
    foreground = list(names[1:])
    columns = [("picture", "text"), ("group", "text"), ("height x width", "size")]
    columns += [("Dice", "score"), ("IoU", "score"), ("accuracy", "score")]
    paths: list[tuple[str, ...]] = [("dice", "mean_foreground"), ("iou", "mean_foreground")]
    paths.append(("accuracy",))
    if len(foreground) > 1:
        columns += [(f"Dice {name}", "score") for name in foreground]
        paths += [("dice", "per_class", name) for name in foreground]
    images = result["images"]
    if any(image.get("boundary") for image in images) and len(foreground) <= 3:
        columns += [(f"95 % distance {name}", "pixels") for name in foreground]
        paths += [("boundary", name, "hd95") for name in foreground]
    rows = []
    for image in images:
        values = numbers(dig(image, *path) for path in paths)
        rounded = [None if value is None else round(value, 4) for value in values]
        size = [int(side) for side in image.get("size") or ()] or None
        rows.append([str(image["image"]), str(image.get("group") or NOTHING), size, *rounded])
    return {
        "columns": [{"name": name, "kind": kind} for name, kind in columns],
        "rows": rows,
        "anchors": [anchors.get(row) for row in range(len(images))],
    }


def _scored(said: str, interval: Sequence[Any] | None, digits: int = 4) -> str:
    within = bounds(interval, digits, NOTHING)  # short: there are many side by side
    return f"<td>{said}{f'<small>{within}</small>' if within and said != NOTHING else ''}</td>"


def _percent(amount: int, total: int, digits: int) -> str:
    """A share; what is there but rounds to nothing is said to be below."""
    if not total or number(amount) is None:
        return NOTHING
    if amount == 0:
        return "0"
    least = 10.0**-digits
    share = 100 * amount / total
    return f"&lt;{least:g}" if share < least else f"{share:.{digits}f}"


def _boxed(caption: str, content: str, kind: str = "") -> str:
    named = f' class="{kind}"' if kind else ""
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{text(caption)}">'
        f"<table{named}><caption>{text(caption)}</caption>{content}</table></div>"
    )
