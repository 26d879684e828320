"""What the user sees of scores: tables with their intervals, and the protocol they follow."""

from collections.abc import Sequence
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from plainunet.evaluation.intervals import FEW

_SCORES = ("dice", "iou", "precision", "recall")
_SHOWN = 12
_OUTLINES = {
    "hd95": "HD95 [px]",
    "distance": "mean distance [px]",
    "surface_dice": "surface Dice",
    "boundary_iou": "boundary IoU",
}


def show_scores(result: dict[str, Any]) -> None:
    """Print the tables of scores, and the protocol that they were made by.

    Args:
        result: As returned by `train` and `evaluate`.
    """
    console = Console(highlight=False)
    intervals = result["intervals"]
    pictures, groups = len(result["images"]), intervals["groups"]
    console.print(
        f"{_several(pictures, 'picture')} in {_several(groups, 'group')}, part: {result['split']}"
    )
    for title, key in (("pooled", "pooled"), ("per image", "per_image")):
        console.print(_pixels(title, result[key], intervals[key]))
    if result.get("boundary"):
        console.print(_outlines(result["boundary"]))
    if result.get("objects"):
        console.print(_objects(result["objects"]["per_class"]))
    console.print(f"{result['protocol']} {_about(intervals)}", style="dim")


def show_tuning(found: dict[str, Any]) -> None:
    """Print what was tried on the validation part, and what is in the checkpoint now.

    Args:
        found: As returned by `tune`.
    """
    console = Console(highlight=False)
    table = _table(f"tried on {found['pictures']} pictures, part: {found['part']}", ("Dice",))
    for each in found["tried"]:
        value = "" if each["value"] is None else f" {each['value']}"
        table.add_row(f"{each['setting'].replace('_', ' ')}{value}", _cell(each["dice"]))
    console.print(table)
    before, after = found["dice"]["before"], found["dice"]["after"]
    console.print(f"Dice {before:.4f}; {after:.4f} with what the checkpoint says now:")
    for name, value in found["after"].items():
        old = found["before"][name]
        said = "as before" if value == old else f"before: {old}"
        console.print(f"  {name.replace('_', ' ')}: {value} ({said})")


def show_comparison(found: dict[str, Any]) -> None:
    """Print the scores of two models, and how they differ.

    Args:
        found: As returned by `compare`.
    """
    console = Console(highlight=False)
    console.print(
        f"{_several(found['pictures'], 'picture')} in {_several(found['groups'], 'group')}, "
        f"part: {found['split']}\n"
        f"first: {found['models'][0]}\nsecond: {found['models'][1]}",
        markup=False,
    )
    for title, key in (("pooled", "pooled"), ("per image", "per_image")):
        table = _table(title, ("first", "second", "difference", "second better"))
        for name, each in found["scores"][key].items():
            low_high = each["interval"]
            table.add_row(
                name,
                _cell(each["first"]),
                _cell(each["second"]),
                _signed(each["difference"], low_high),
                "-" if each["better"] is None else f"{each['better']:.1%}",
            )
        console.print(table)
    table = _table("Dice of pictures that differ most", ("first", "second", "difference"))
    for each in found["images"][:_SHOWN]:
        scores = [_cell(each["first"]), _cell(each["second"]), _signed(each["difference"], None)]
        table.add_row(escape(each["image"].rpartition("/")[2]), *scores)
    console.print(table)
    said = "With a single group of pictures there are no intervals."
    if found["groups"] > 1:
        said = (
            f"Below each difference: the interval in which {found['level']:.0%} of them lie when "
            "groups of pictures are drawn anew for both (paired bootstrap), and how often the "
            f"second model was better in these{_few(found['groups'])}."
        )
    console.print(
        f"{found['protocol']} Scores are means over foreground classes. {said}",
        style="dim",
        markup=False,
    )


def _several(count: int, one: str) -> str:
    return f"{count} {one}{'s' * (count != 1)}"


def _signed(value: float | None, bounds: Sequence[float] | None) -> str:
    if value is None:
        return "-"
    return f"{value:+.4f}" + (f"\n[dim]{bounds[0]:+.4f} to {bounds[1]:+.4f}[/]" if bounds else "")


def _about(intervals: dict[str, Any]) -> str:
    if intervals["groups"] == 1:
        return "With a single group of pictures there are no intervals."
    return (
        f"Below each score: the interval in which {intervals['level']:.0%} of the scores lie when "
        f"groups of pictures are drawn anew (bootstrap){_few(intervals['groups'])}."
    )


def _few(groups: int) -> str:
    return f"; from {groups} groups they are too narrow" if groups < FEW else ""


def _pixels(title: str, scores: dict[str, Any], bounds: dict[str, Any]) -> Table:
    table = _table(title, _SCORES)
    for name in scores["dice"]["per_class"]:
        cells = [
            _cell(scores[score]["per_class"][name], bounds[score]["per_class"][name])
            for score in _SCORES
        ]
        table.add_row(escape(name), *cells)
    table.add_section()
    for key in ("mean_foreground", "mean_with_background"):
        cells = [_cell(scores[score][key], bounds[score][key]) for score in _SCORES]
        table.add_row(key.replace("_", " "), *cells)
    table.add_row("pixel accuracy", _cell(scores["accuracy"], bounds["accuracy"]))
    return table


def _outlines(boundary: dict[str, Any]) -> Table:
    table = _table("outlines, per image", _OUTLINES.values())
    for name, scores in boundary["per_class"].items():
        bounds = boundary["intervals"][name]
        cells = [
            _cell(scores[key], bounds[key], 2 if key in ("hd95", "distance") else 4)
            for key in _OUTLINES
        ]
        table.add_row(escape(name), *cells)
    table.caption = (
        f"surface Dice: share of outlines at most {boundary['tolerance']:g} pixels apart"
    )
    return table


def _objects(per_class: dict[str, Any]) -> Table:
    headers = ("true", "F1", "AP", "Rand", "information")
    table = _table("objects, per image", headers)
    for name, said in per_class.items():
        together = said["together"]
        table.add_row(
            escape(name),
            f"{said['true']:,}\n[dim]{said['predicted']:,} given[/]",
            _cell(said["f1"]["per_image"]),
            _cell(said["average_precision"]["per_image"]),
            *(_best(together[key], together.get("thresholds")) for key in ("rand", "information")),
        )
    table.caption = (
        "F1 at an overlap (IoU) above 0.5; AP: mean over 0.5 to 0.95. Rand and information: "
        "F-scores of the ISBI 2012 challenge, of two classes at the best threshold"
    )
    for said in per_class.values():
        if said.get("pixel_error") is not None:
            table.caption += f". Pixel error (1 - best pooled Dice) {said['pixel_error']:.4f}"
    return table


def _best(scores: Sequence[float | None], thresholds: Sequence[float] | None) -> str:
    known = [(score, number) for number, score in enumerate(scores) if score is not None]
    if not known:
        return "-"
    score, number = max(known)
    return _cell(score) + (f"\n[dim]at {thresholds[number]:g}[/]" if thresholds else "")


def _table(title: str, headers: Any) -> Table:
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    table.add_column(title)
    for header in headers:
        table.add_column(header, justify="right")
    return table


def _cell(value: float | None, bounds: Sequence[float] | None = None, digits: int = 4) -> str:
    if value is None:
        return "-"
    said = f"{value:.{digits}f}"
    if bounds:
        said += f"\n[dim]{bounds[0]:.{digits}f}-{bounds[1]:.{digits}f}[/]"
    return said
