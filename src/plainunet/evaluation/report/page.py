"""A judged model as a page that a person opens.

In: the dictionary of an evaluation, and some of its pictures. Out: one HTML file that needs no
network and asks for nothing. What comes from data is escaped, and the page's own policy lets no
script run but the one that it was written with.
"""

import base64
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from string import Template
from typing import Any

from plainunet.evaluation.report.figures import (
    calibration_figure,
    ceiling_figure,
    size_figures,
    strip_figure,
    threshold_figure,
    together_figures,
    training_figures,
)
from plainunet.evaluation.report.panels import Shown, anchor, gallery, legend
from plainunet.evaluation.report.script import SCRIPT
from plainunet.evaluation.report.style import STYLE
from plainunet.evaluation.report.tables import (
    boundary_table,
    confusion_table,
    fact_list,
    object_table,
    picture_rows,
    score_table,
)
from plainunet.evaluation.report.words import bounds, dig, number, score, several, text
from plainunet.evaluation.statistics import FEW
from plainunet.files import write_whole

_PAGE = Template("""<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="$policy">
<meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="icon" href="data:,">
<title>$title</title><style>$style</style></head><body>
<header><h1>$title</h1>
$summary
<nav aria-label="Parts of the page"><ul>$links</ul></nav></header>
<main>
$sections
</main>
<dialog id="zoom" aria-labelledby="zoom-said"><p id="zoom-said" aria-live="polite"></p>
<div class="large"></div>
<div class="controls"><button type="button" class="plain" id="back">back</button>
<button type="button" class="plain" id="on">on</button>
<button type="button" class="plain" id="close">close</button>
<span class="soft">Arrow keys: left and right go on to the next panel, up and down to the next
picture.</span></div></dialog>
<script type="application/json" id="pictures-data">$data</script>
<script>$script</script></body></html>
""")
_MOST = 4_900_000  # bytes of the page, below which its pictures are reduced to remain
_MOST_OF_PICTURES = 3_200_000
_SPLITS = {
    "val": "the validation part",
    "test": "the test part",
    "train": "the part that was trained on",
    "all": "all pictures",
}
_ABOUT_ERRORS = (
    "In the last panel the picture is dimmed: red is where the predicted mask is wrong, grey what "
    "is ignored. Where a panel is smaller than its picture, colours between two classes are "
    "borders that share a pixel. Any panel opens in large."
)


def write_report(path: Path, result: dict[str, Any], shown: Sequence[Shown]) -> None:
    """Write what is known of a judged model as HTML.

    Args:
        path: The file.
        result: An evaluation's dictionary; parts that may be missing are left out of the page.
        shown: Pictures to show, in this order.

    Raises:
        ValueError: A picture and its masks are of different sizes.
    """
    model = result["model"]
    names = [str(each["name"]) for each in model["classes"]]
    colors = [tuple(each["color"]) for each in model["classes"]]
    rows = picture_rows(result, names, {each.number: anchor(each.number) for each in shown})
    parts = {
        "How it was counted": f"<p>{text(result['protocol'])}</p>",
        "Training": training_figures(result.get("curves")),
        "Scores of each class": _scores(result, names),
        "What was taken for what": _confusion(result, names),
        "Pictures": "",
        "Dice of each picture": strip_figure(result["images"], names[1:]),
        "All pictures": _table(rows["columns"]),
        "Threshold": threshold_figure(result.get("threshold_curve")),
        "How sure it is": calibration_figure(result.get("calibration")),
        "Dice and size": _sizes(result["images"], names[1:]),
        "What the size allows": ceiling_figure(result),
        "To repeat it": _repeat(result),
    }
    data = _embedded(rows)
    # pictures may take what the rest leaves
    rest = sum(len(part.encode(errors="replace")) for part in (*parts.values(), data))
    most = min(_MOST_OF_PICTURES, _MOST - rest)
    parts["Pictures"] = _pictures(result, names, colors, shown, most)
    parts = {name: part for name, part in parts.items() if part}
    ids = {name: f"part-{place}" for place, name in enumerate(parts)}
    page = _PAGE.substitute(
        policy=_policy(),
        title=text(f"{model['checkpoint']} on {result['data']}"),
        style=STYLE,
        summary=_summary(result),
        links="".join(f'<li><a href="#{ids[name]}">{name}</a></li>' for name in parts),
        sections="\n".join(
            f'<section aria-labelledby="{ids[name]}"><h2 id="{ids[name]}">{name}</h2>\n{part}'
            "</section>"
            for name, part in parts.items()
        ),
        data=data,
        script=SCRIPT,
    )
    with write_whole(path) as file:
        # names that are not UTF-8 are written out, as \\udcff
        file.write_text(page, encoding="utf-8", errors="backslashreplace", newline="\n")


def _pictures(
    result: dict[str, Any],
    names: Sequence[str],
    colors: Sequence[tuple[int, int, int]],
    shown: Sequence[Shown],
    most: int,
) -> str:
    figures = gallery(shown, result["images"], colors, most)
    return f"<p>{_ABOUT_ERRORS}</p>{legend(names, colors)}{figures}" if figures else ""


def _summary(result: dict[str, Any]) -> str:
    """The figures that matter most, and what they are of."""
    model, level = result["model"], number(dig(result, "intervals", "level")) or 0.95
    groups = len({image.get("group") for image in result["images"]})
    groups = dig(result, "intervals", "groups") or groups
    cards = []
    for part, label in (("per_image", "per image"), ("pooled", "pooled")):
        within = bounds(dig(result, "intervals", part, "dice", "mean_foreground"))
        said = f"{100 * level:g} % interval {within}" if within else "no interval"
        if not within and groups == 1:
            said += ": the pictures are one group"
        elif within and groups < FEW:
            said += f", too narrow: {groups} groups are few"
        dice = number(dig(result, part, "dice", "mean_foreground"))
        first = ' class="first"' if part == "per_image" else ""
        cards.append(
            f"<div{first}>Dice {label}, mean of the foreground<strong>"
            f"{'no object' if dice is None else score(dice)}</strong><small>{said}</small></div>"
        )
    most = number(dig(result, "ceiling", "dice"))
    if most is not None:
        cards.append(
            f"<div>most that the size allows<strong>{score(most)}</strong>"
            "<small>true masks, reduced to what the network sees and brought back</small></div>"
        )
    of = f"{several(len(result['images']), 'picture')} in {several(groups, 'group')}"
    facts = {
        "model": model["checkpoint"],
        "network": model.get("network"),
        "sees": model.get("sees"),
        "data": result["data"],
        "judged on": f"{_SPLITS.get(result['split'], result['split'])}: {of}",
        "classes": ", ".join(str(each["name"]) for each in model["classes"]),
    }
    known = {name: value for name, value in facts.items() if value}
    return f'<div class="cards">{"".join(cards)}</div>{fact_list(known)}'


def _scores(result: dict[str, Any], names: Sequence[str]) -> str:
    parts = []
    for part, label in (("pooled", "pooled"), ("per_image", "per image")):
        within = bounds(dig(result, "intervals", part, "accuracy"))
        said = f"{label} {score(dig(result, part, 'accuracy'))}"
        parts.append(f"{said} ({within})" if within else said)
    said = (
        f"<p>Accuracy, the share of pixels that got their true class: {', '.join(parts)}. Below a "
        "score stands its interval, where there is one; an en dash is where there is nothing to "
        f"score.</p>{score_table(result, names)}"
    )
    boundary, objects = (result.get(part) or {} for part in ("boundary", "objects"))
    if boundary.get("per_class"):
        said += (
            "<h3>Outlines</h3><p>Distances between true and predicted outlines. Surface Dice is "
            f"the share of outlines within {number(boundary['tolerance']) or 0:g} pixels of each "
            f"other.</p>{boundary_table(boundary)}"
        )
    if objects.get("per_class"):
        said += f"<h3>Objects</h3>{object_table(objects)}{together_figures(objects)}"
    return said


def _confusion(result: dict[str, Any], names: Sequence[str]) -> str:
    if not result.get("confusion"):
        return ""
    return (
        "<p>Each row is a true class, and says what its pixels were predicted as; what was right "
        "is bold. The number of pixels shows when the pointer rests on a cell.</p>"
        f"{confusion_table(result['confusion'], names)}"
    )


def _table(columns: Sequence[dict[str, str]]) -> str:
    """The frame of the table of all pictures; the script fills it."""
    heads = "".join(
        f'<th scope="col"{" class=name" if column["kind"] == "text" else ""}>'
        f'<button type="button">{text(column["name"])}</button></th>'
        for column in columns
    )
    return (
        "<noscript><p>The table is filled by a script, which this browser does not run.</p>"
        '</noscript><div id="all" hidden><div class="controls"><label>find <input type="search" '
        'id="find"></label><span id="found" class="soft" role="status"></span></div>'
        '<div class="scroll tall" tabindex="0" role="region" aria-label="All pictures">'
        '<table id="pictures"><caption>Scores of each picture; the heads of the columns sort it'
        f"</caption><thead><tr>{heads}</tr></thead><tbody></tbody></table></div>"
        '<p><button type="button" class="plain" id="more" hidden>show more</button></p></div>'
    )


def _sizes(images: Sequence[dict[str, Any]], names: Sequence[str]) -> str:
    figures = size_figures(images, names)
    said = "<p>Each dot is a picture: its Dice, and how large the class is.</p>"
    return said + figures if figures else ""


def _repeat(result: dict[str, Any]) -> str:
    model = result["model"]
    how = {
        "threshold": "threshold",
        "tta": "views of each picture",
        "scales": "scales",
        "min_object": "smallest object kept [pixels]",
        "fill_holes": "largest hole filled [pixels]",
        "machine": "machine",
    }
    facts = {label: model[key] for key, label in how.items() if model.get(key) is not None}
    said = f"<pre>{text(result['command'])}</pre>{fact_list(facts)}"
    for key, title in (("versions", "Versions"), ("settings", "Settings of the training run")):
        if model.get(key):
            said += f"<h3>{title}</h3>{fact_list(model[key])}"
    return said


def _policy() -> str:
    """Nothing may be loaded or run but what is in the page, by its digest."""
    style, script = (
        base64.b64encode(hashlib.sha256(part.encode()).digest()).decode()
        for part in (STYLE, SCRIPT)
    )
    return (
        f"default-src 'none'; img-src data:; style-src 'sha256-{style}'; "
        f"script-src 'sha256-{script}'; base-uri 'none'; form-action 'none'"
    )


def _embedded(content: Any) -> str:
    """JSON that cannot end the element it stands in."""
    packed = json.dumps(content, separators=(",", ":"))
    return packed.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")
