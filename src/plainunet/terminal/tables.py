"""Tables on the terminal: networks, findings, scores with their intervals."""

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from plainunet.doctor.diagnose import Diagnosis, Fixed
from plainunet.doctor.findings import Finding
from plainunet.doctor.fix import describe
from plainunet.evaluation.statistics import FEW
from plainunet.terminal.screen import Terminal

if TYPE_CHECKING:
    from plainunet.network.summary import StageSummary


_MOST_SHOWN = 5


def show_model(
    stages: Sequence["StageSummary"],
    picture: tuple[int, int, int],
    class_names: Sequence[str] = (),
) -> None:
    """Print a network: the U in text, then a table of its stages with their totals.

    `picture` is channels, height and width; the stages are as by `summarise_network`.
    """
    from plainunet.network.summary import sketch

    console = Terminal(highlight=False)
    if class_names:
        console.print(f"classes: {', '.join(class_names)}", markup=False)
    console.print(sketch(stages, picture), markup=False, soft_wrap=True)
    table = Table(box=SIMPLE_HEAD)
    table.add_column("stage", no_wrap=True)
    for header in (
        "shape",
        "parameters",
        "multiply-\nadds",
        "kept in\ntraining",
        "receptive\nfield",
    ):
        table.add_column(header, justify="right", no_wrap=True)
    for stage in stages:
        shape = " x ".join(map(str, stage.shape))
        table.add_row(stage.name, shape, *_costs([stage]), _field(stage.field))
    table.add_section()
    table.add_row("total", "", *_costs(stages), "")
    # a number cut short would be worse than a wrapped line
    Terminal(highlight=False, width=max(console.width, 100)).print(table)
    flop = _engineering(2 * sum(stage.macs for stage in stages))
    console.print(
        f"A forward pass takes {flop}FLOP a picture (2 for each multiply-add). Kept in training: "
        "activations for the backward pass, fp32, for each picture of a batch. Receptive field: "
        "pixels along one axis, least and greatest.",
        style="dim",
    )


def _costs(stages: Sequence["StageSummary"]) -> list[str]:
    kept = sum(stage.kept for stage in stages)
    return [
        f"{sum(stage.parameters for stage in stages):,}",
        _engineering(sum(stage.macs for stage in stages)),
        f"{kept / 2**20:,.1f} MiB" if kept < 2**40 else f"{kept / 2**40:,.1f} TiB",
    ]


def _engineering(number: int) -> str:
    """Three digits and a letter, such as 28.2 G."""
    for power, letter in ((12, "T"), (9, "G"), (6, "M"), (3, "k")):
        if number >= 10**power:
            whole = len(str(number // 10**power))
            return f"{number / 10**power:.{max(0, 3 - whole)}f} {letter}"
    return f"{number} "


def _field(field: tuple[int, int] | None) -> str:
    if field is None:
        return "whole"
    least, greatest = field
    return f"{least}" if least == greatest else f"{least}-{greatest}"


def show_diagnosis(result: Diagnosis, train_line: str) -> None:
    """Print what is wrong with a data folder, what it holds, and the command that trains on it."""
    console = Terminal(highlight=False, soft_wrap=True)
    _show_summary(console, result)
    for note in result.notes:
        console.print(f"note: {note.removeprefix('note: ')}", style="dim", markup=False)
    shown: set[str] = set()
    for code in dict.fromkeys(finding.code for finding in result.findings):
        _show_code(console, [each for each in result.findings if each.code == code], shown)
    if result.last_fix:
        console.print("\nafter that, to go on with what is sound, once and last:", style="bold")
        console.print(f"  $ {printable(result.last_fix)}", markup=False)
    said = ", ".join(
        f"{count} {severity}{'s' * (count != 1)}"
        for severity in ("error", "warning", "note")
        if (count := sum(each.severity == severity for each in result.findings))
    )
    console.print(f"\n{said or 'nothing found'}")
    if result.exit_code < 2:
        console.print(train_line, markup=False, style="bold")


def _show_summary(console: Console, result: Diagnosis) -> None:
    summary = result.summary
    parts = ", ".join(f"{count} {part}" for part, count in summary["parts"].items())
    console.print(
        f"{result.data}: {summary['pairs']} sound pairs in {summary['groups']} groups"
        + (f" ({parts})" if parts else ""),
        markup=False,
        style="bold",
    )
    if not summary["pairs"]:
        return
    channels = {1: "grey", 3: "RGB"}
    kinds = [channels.get(each, f"{each} channels") for each in summary["channels"]]
    console.print(
        f"pictures: {_tally(summary['sizes'])} pixels; {', '.join(kinds)}; "
        f"{', '.join(summary['types'])}; {', '.join(summary['formats'])}",
        markup=False,
    )
    if not summary["classes"]:
        return
    masks, census = summary["masks"], summary["census"]
    values = ", ".join(f"{each['value']} ({each['masks']})" for each in census[:12])
    more = f" ... {census[-1]['value']} ({census[-1]['masks']})" if len(census) > 12 else ""
    if census:
        console.print(f"values, and how many masks have each: {values}{more}", markup=False)
    ignored = "" if masks["ignore"] is None else f", {masks['ignore']} is ignored"
    console.print(f"understood as {masks['kind']}{ignored}: {masks['why']}", markup=False)
    table = Table("class", box=SIMPLE_HEAD, pad_edge=False)
    for header in ("share", "in masks"):
        table.add_column(header, justify="right")
    for name, share in summary["shares"].items():
        # what would be cut to 0.0% is there all the same
        said = f"{share:.1%}" if share >= 0.001 or not share else f"{100 * share:.1g}%"
        table.add_row(escape(name), said, str(summary["in_masks"][name]))
    console.print(table)
    guess = summary["commonest"]
    console.print(
        f"'{guess['class']}' everywhere would score Dice {guess['dice']:.4f} (pooled, mean "
        f"foreground), accuracy {guess['accuracy']:.2%}",
        markup=False,
    )
    if summary["ceiling"]:
        kept = ", ".join(f"{dice:.4f} at {side}" for side, dice in summary["ceiling"].items())
        console.print(
            f"true masks, reduced to N x N pixels of area and back, keep a mean Dice of {kept}"
        )


def _tally(counts: dict[str, int]) -> str:
    first = [f"{name} ({count})" for name, count in list(counts.items())[:3]]
    return ", ".join(first) + (" and others" if len(counts) > 3 else "")


def _show_code(console: Console, findings: Sequence[Finding], shown: set[str]) -> None:
    """Print the findings of one code: some messages, and the fixes that were not shown yet."""
    first = findings[0]
    styles = {"error": "bold red", "warning": "bold yellow", "note": "dim"}
    console.print(
        f"\n{first.severity}: {first.code} ({len(findings)})", style=styles[first.severity]
    )
    for finding in findings[:_MOST_SHOWN]:
        console.print(f"  {printable(finding.message)}", markup=False)
    if len(findings) > _MOST_SHOWN:
        console.print(f"  and {len(findings) - _MOST_SHOWN} more (all of them: --json FILE)")
    # what leaves pairs out comes once, at the end: before it, pairs may be fixed
    fixes = [each.fix.line for each in findings if each.fix and not each.fix.writes_list]
    for line in [each for each in dict.fromkeys(fixes) if each not in shown][:_MOST_SHOWN]:
        console.print(f"  $ {printable(line)}", markup=False)
        shown.add(line)


def show_fixed(code: str, fixed: Fixed, undo_line: str) -> None:
    """Print what a fix has changed, or would; and what is left of its findings."""
    console = Terminal(highlight=False, soft_wrap=True)
    lines = [line for change in fixed.changes for line in describe(change)]
    for line in lines:
        console.print(printable(line), markup=False)
    if fixed.backup is None:
        console.print(f"{_several(len(lines), 'file')} would change; nothing was written")
        return
    left = len(fixed.left)
    errors, warnings = (fixed.result.count(each) for each in ("error", "warning"))
    console.print(
        f"{_several(len(lines), 'file')} changed, the originals are in {fixed.backup}; undo it:\n"
        f"  $ {printable(undo_line)}\n"
        f"checked again: {_several(left, 'finding')} '{code}' left; in all "
        f"{_several(errors, 'error')}, {_several(warnings, 'warning')}",
        markup=False,
    )
    for finding in fixed.left[:_MOST_SHOWN]:
        console.print(f"  {printable(finding.message)}", markup=False)


def show_fixable(result: Diagnosis) -> None:
    """Print the codes of the findings that `plainunet fix` fixes, and how."""
    console = Terminal(highlight=False, soft_wrap=True)
    lines = Counter(each.fix.line for each in result.findings if each.fix and each.fix.change)
    for line, count in lines.items():
        console.print(f"$ {printable(line)}  ({_several(count, 'finding')})", markup=False)
    if not lines:
        console.print(f"{result.data}: no finding is fixed by changing files", markup=False)


def printable(text: str) -> str:
    """Write out what is not UTF-8, as names of files may be."""
    return text.encode(errors="backslashreplace").decode()


_SCORES = ("dice", "iou", "precision", "recall")
_SHOWN = 12
_OUTLINES = {
    "hd95": "HD95 [px]",
    "distance": "mean distance [px]",
    "surface_dice": "surface Dice",
    "boundary_iou": "boundary IoU",
}


def show_scores(result: dict[str, Any]) -> None:
    """Print the tables of scores that `train` and `evaluate` return, and their protocol."""
    console = Terminal(highlight=False)
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
    """Print what `tune` tried on the validation part, and what is in the checkpoint now."""
    console = Terminal(highlight=False)
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
    """Print the scores of two models, as by `compare`, and how they differ."""
    console = Terminal(highlight=False)
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
