"""What the user sees of a network, and of what is wrong with a folder."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from plainunet.data.doctor.diagnose import Diagnosis
from plainunet.data.doctor.findings import Finding

if TYPE_CHECKING:  # it loads PyTorch, which takes a second
    from plainunet.network.summary import StageSummary

_MOST_SHOWN = 5


def show_model(
    stages: Sequence["StageSummary"],
    picture: tuple[int, int, int],
    class_names: Sequence[str] = (),
) -> None:
    """Print a network: the U in text, then a table of its stages with their totals.

    Args:
        stages: As returned by `summarise_network`.
        picture: Channels, height and width of the picture.
        class_names: Names of the classes, where they are known.
    """
    from plainunet.network.summary import sketch

    console = Console(highlight=False)
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
    Console(highlight=False, width=max(console.width, 100)).print(table)
    flop = _engineering(2 * sum(stage.multiply_adds for stage in stages))
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
        _engineering(sum(stage.multiply_adds for stage in stages)),
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
    """Print what is wrong with a data folder, what it holds, and how to go on.

    Args:
        result: As returned by `check`.
        train_line: The command that trains on the folder.
    """
    console = Console(highlight=False, soft_wrap=True)
    _show_summary(console, result)
    for note in result.notes:
        console.print(f"note: {note.removeprefix('note: ')}", style="dim", markup=False)
    shown: set[str] = set()
    for code in dict.fromkeys(finding.code for finding in result.findings):
        _show_code(console, [each for each in result.findings if each.code == code], shown)
    if result.last_cure:
        console.print("\nafter that, to go on with what is sound, once and last:", style="bold")
        console.print(f"  $ {_printable(result.last_cure)}", markup=False)
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
    """Print the findings of one code: some messages, and the cures that were not shown yet."""
    first = findings[0]
    styles = {"error": "bold red", "warning": "bold yellow", "note": "dim"}
    console.print(
        f"\n{first.severity}: {first.code} ({len(findings)})", style=styles[first.severity]
    )
    for finding in findings[:_MOST_SHOWN]:
        console.print(f"  {_printable(finding.message)}", markup=False)
    if len(findings) > _MOST_SHOWN:
        console.print(f"  and {len(findings) - _MOST_SHOWN} more (all of them: --json FILE)")
    # what leaves pairs out comes once, at the end: before it, pairs may be mended
    cures = [each.cure for each in findings if each.cure and not each.leaves_out]
    for cure in [each for each in dict.fromkeys(cures) if each not in shown][:_MOST_SHOWN]:
        console.print(f"  $ {_printable(cure)}", markup=False)
        shown.add(cure)


def _printable(text: str) -> str:
    return text.encode(errors="backslashreplace").decode()
