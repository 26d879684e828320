"""Tables on the terminal: networks, findings, scores with their confidence intervals."""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from plainunet import reporter
from plainunet.doctor.diagnose import Diagnosis, Fixed
from plainunet.doctor.findings import Finding, find_unfixed
from plainunet.doctor.fix import describe
from plainunet.evaluation.metrics import PER_CLASS, metric_label, metric_labels
from plainunet.evaluation.scores import FEW, CrossValidation, Scores
from plainunet.terminal.screen import Terminal
from plainunet.text import plural

if TYPE_CHECKING:
    from plainunet.deployment.export import Exported
    from plainunet.evaluation.compare import Comparison
    from plainunet.network.summary import StageSummary


_MOST_SHOWN = 5


def show_model(
    stages: Sequence["StageSummary"],
    image: tuple[int, int, int],
    class_names: Sequence[str] = (),
) -> None:
    """Print a network: the U in text, then a table of its stages with their totals.

    `image` is channels, height and width [pixels]; the stages are as by `summarise_network`.
    """
    from plainunet.network.summary import sketch

    console = Terminal(highlight=False)
    if class_names:
        console.print(f"classes: {', '.join(class_names)}", markup=False)
    console.print(sketch(stages, image), markup=False, soft_wrap=True)
    table = Table(box=SIMPLE_HEAD)
    table.add_column("stage", no_wrap=True)
    for header in ("shape", "parameters", "MACs", "activations", "receptive\nfield"):
        table.add_column(header, justify="right", no_wrap=True)
    for stage in stages:
        shape = " x ".join(map(str, stage.shape))
        table.add_row(stage.name, shape, *_costs([stage]), _field(stage.field))
    table.add_section()
    table.add_row("total", "", *_costs(stages), "")
    # a wrapped line is better than a truncated number
    Terminal(highlight=False, width=max(console.width, 100)).print(table)
    flop = _engineering(2 * sum(stage.macs for stage in stages))
    console.print(
        f"A forward pass takes {flop}FLOP per image (2 per MAC). Activations: fp32 memory kept for "
        "the backward pass, per image of a batch. Receptive field: pixels along one axis, minimum "
        "and maximum.",
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
    """Format with three digits and a unit prefix, as in "28.2 G"."""
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


def show_export(result: "Exported") -> None:
    """Print how an exported file compares with its checkpoint."""
    console, found = Terminal(highlight=False), result.agreement
    table = Table("", box=SIMPLE_HEAD, pad_edge=False)
    for header in ("checkpoint", result.path.name):
        table.add_column(header, justify="right", no_wrap=True)
    table.add_row("size", *(f"{size / 2**20:.2f} MiB" for size in result.sizes))
    table.add_row("time per image", *(f"{time:.1f} ms" for time in found.milliseconds))
    table.add_row("largest difference of a probability", "", f"{found.difference:.2g}")
    table.add_row("Dice between the masks", "", f"{found.dice:.4f}")
    if found.lost is not None:
        table.add_row("Dice lost against the ground truth", "", f"{found.lost:z.4f}")
    console.print(f"checked on {result.images}", markup=False)
    console.print(table)
    console.print(f"exported: {result.path}", markup=False, soft_wrap=True)


def show_exported(rows: Sequence[tuple[str, str]]) -> None:
    """Print what is in an exported file, as names and values."""
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in rows:
        table.add_row(name, escape(value))
    Terminal(highlight=False).print(table)


def show_diagnosis(
    result: Diagnosis, train_line: str, recommended: dict[str, tuple[Any, str]]
) -> None:
    """Print the summary and findings of `check`, and how to train, with the reasons."""
    if reporter.verbosity < 0:
        for each in result.findings:
            if each.severity != "note":
                text = printable(f"{each.severity}: {each.code}: {each.message}")
                Console(stderr=True, soft_wrap=True, highlight=False).print(text, markup=False)
    console = Terminal(highlight=False, soft_wrap=True)
    _show_summary(console, result)
    for note in result.notes:
        console.print(f"note: {note.removeprefix('note: ')}", style="dim", markup=False)
    shown: set[str] = set()
    for code in dict.fromkeys(finding.code for finding in result.findings):
        _show_code(console, [each for each in result.findings if each.code == code], shown)
    if result.last_fix:
        console.print("\nFinally, to continue with the valid pairs, run this once:", style="bold")
        console.print(f"  $ {printable(result.last_fix)}", markup=False)
    said = ", ".join(
        plural(count, severity)
        for severity in ("error", "warning", "note")
        if (count := sum(each.severity == severity for each in result.findings))
    )
    console.print(f"\n{said or 'no findings'}")
    for name, (value, reason) in recommended.items():
        words = value if isinstance(value, tuple) else (value,)
        flag = f"--{name.replace('_', '-')} {' '.join(map(str, words))}"
        console.print(f"recommended: {flag} ({reason})", markup=False)
    if result.exit_code < 2:
        console.print(train_line, markup=False, style="bold")


def _show_summary(console: Console, result: Diagnosis) -> None:
    summary = result.summary
    parts = ", ".join(f"{count} {part}" for part, count in summary["parts"].items())
    console.print(
        f"{result.data}: {summary['pairs']} valid pairs in {summary['groups']} groups"
        + (f" ({parts})" if parts else ""),
        markup=False,
        style="bold",
    )
    if not summary["pairs"]:
        return
    channels = {1: "grey", 3: "RGB"}
    kinds = [channels.get(each, f"{each} channels") for each in summary["channels"]]
    console.print(
        f"images: {_tally(summary['sizes'])} pixels; {', '.join(kinds)}; "
        f"{', '.join(summary['types'])}; {', '.join(summary['formats'])}",
        markup=False,
    )
    if not summary["classes"]:
        return
    masks, census = summary["masks"], summary["census"]
    values = ", ".join(f"{each['value']} ({each['masks']})" for each in census[:12])
    more = f" ... {census[-1]['value']} ({census[-1]['masks']})" if len(census) > 12 else ""
    if census:
        console.print(f"mask values (in masks): {values}{more}", markup=False)
    ignored = "" if masks["ignore"] is None else f", ignoring {masks['ignore']}"
    console.print(f"label encoding: {masks['kind']}{ignored} ({masks['why']})", markup=False)
    table = Table("class", box=SIMPLE_HEAD, pad_edge=False)
    for header in ("pixels", "in masks"):
        table.add_column(header, justify="right")
    for name, share in summary["shares"].items():
        # never 0.0% for a class that occurs
        said = f"{share:.1%}" if share >= 0.001 or not share else f"{100 * share:.1g}%"
        table.add_row(escape(name), said, str(summary["in_masks"][name]))
    console.print(table)
    guess = summary["commonest"]
    console.print(
        f"baseline (all {guess['class']}): Dice {guess['dice']:.4f} pooled, accuracy "
        f"{guess['accuracy']:.1%}",
        markup=False,
    )
    if summary["ceiling"]:
        ceilings = ", ".join(f"{side}: {dice:.3f}" for side, dice in summary["ceiling"].items())
        console.print(f"max. Dice by input size: {ceilings}")


def _tally(counts: dict[str, int]) -> str:
    first = [f"{name} ({count})" for name, count in list(counts.items())[:3]]
    return ", ".join(first) + (" and others" if len(counts) > 3 else "")


def _show_code(console: Console, findings: Sequence[Finding], shown: set[str]) -> None:
    """Print the findings of one code: the first messages, and fixes not printed before."""
    first = findings[0]
    styles = {"error": "bold red", "warning": "bold yellow", "note": "dim"}
    console.print(
        f"\n{first.severity}: {first.code} ({len(findings)})", style=styles[first.severity]
    )
    most = len(findings) if reporter.verbosity > 0 else _MOST_SHOWN
    unfixed = find_unfixed(findings)
    for finding in findings[:most]:
        mark = " (not fixed by the command below)" if finding in unfixed else ""
        console.print(f"  {printable(finding.message)}{mark}", markup=False)
    if len(findings) > most:
        console.print(f"  and {len(findings) - most} more (--verbose prints all)")
    # commands that leave pairs out are printed once, at the end: fixes come first
    fixes = [each.fix.line for each in findings if each.fix and not each.fix.writes_list]
    for line in [each for each in dict.fromkeys(fixes) if each not in shown][:most]:
        console.print(f"  $ {printable(line)}", markup=False)
        shown.add(line)


def show_fixed(code: str, fixed: Fixed, undo_line: str) -> None:
    """Print what a fix changed, or would change, and which findings remain."""
    console = Terminal(highlight=False, soft_wrap=True)
    lines = [line for change in fixed.changes for line in describe(change)]
    for line in lines:
        console.print(printable(line), markup=False)
    if fixed.backup is None:
        console.print(f"{plural(len(lines), 'file')} would change; nothing was written")
        _show_left(console, fixed.left)
        return
    left = len(fixed.left)
    errors, warnings = (fixed.result.count(each) for each in ("error", "warning"))
    console.print(
        f"{plural(len(lines), 'file')} changed, originals are in {fixed.backup}; to undo:\n"
        f"  $ {printable(undo_line)}\n"
        f"checked again: {plural(left, 'finding')} of {code} left; in total "
        f"{plural(errors, 'error')}, {plural(warnings, 'warning')}",
        markup=False,
    )
    _show_left(console, fixed.left)


def _show_left(console: Console, findings: Sequence[Finding]) -> None:
    for finding in findings[:_MOST_SHOWN]:
        console.print(f"  not fixed: {printable(finding.message)}", markup=False)
    if len(findings) > _MOST_SHOWN:
        console.print(f"  and {len(findings) - _MOST_SHOWN} more")


def show_fixable(result: Diagnosis) -> bool:
    """Print the commands for all findings that `plainunet fix` can fix. Returns whether any is."""
    console = Terminal(highlight=False, soft_wrap=True)
    lines: dict[str, list[Finding]] = {}
    for each in result.findings:
        if each.fix and each.fix.change:
            lines.setdefault(each.fix.line, []).append(each)
    for line, fixed in lines.items():
        codes = {each.code for each in fixed}
        console.print(f"{', '.join(sorted(codes))}: fixes {plural(len(fixed), 'finding')}")
        _show_left(console, find_unfixed([each for each in result.findings if each.code in codes]))
        console.print(f"$ {printable(line)}", markup=False)
    if not lines:
        console.print(f"{result.data}: no finding can be fixed by changing files", markup=False)
    return bool(lines)


def printable(text: str) -> str:
    """Escape bytes of file names that are not UTF-8."""
    return text.encode(errors="backslashreplace").decode()


_AGGREGATES = {"pooled": "pooled", "per_image": "per image"}
_SHOWN = 3  # images of a comparison
_FOLDS = 10  # of a cross-validation
_OWN = 3  # of the user's metrics side by side, whose values may be long


def show_scores(scores: Scores) -> None:
    """Print the scores that `train` and `evaluate` return; two classes fit a screen of 24 lines."""
    console, result = Terminal(highlight=False), scores.content
    intervals = result["intervals"]
    console.print(_evaluated(len(result["images"]), intervals["groups"], result["split"]))
    accuracies = []
    for key, title in _AGGREGATES.items():
        bounds = intervals[key]["accuracy"]
        within = f" ({_range(bounds)})" if bounds else ""
        accuracies.append(f"{_cell(result[key]['accuracy'])}{within} {title}")
    console.print(f"accuracy {', '.join(accuracies)}")
    tables = _pixel_tables(result)
    notes = ["Metric protocol: native resolution, absent classes skipped; see docs/metrics.md"]
    notes.append(_about(intervals))
    if boundary := result.get("boundary"):
        tables.append(_boundary_table(boundary))
    if objects := result.get("objects"):
        tables.append(_object_table(objects["per_class"]))
        errors = [each.get("pixel_error") for each in objects["per_class"].values()]
        notes.append("F1 at IoU 0.5; AP: mean over IoU 0.5 to 0.95")
        notes[-1] += "".join(f"; pixel error {error:.4f}" for error in errors if error is not None)
    for table in tables:
        console.print()
        console.print(table)
    console.print("\n".join(notes), style="dim")


def show_cross_validation(result: CrossValidation) -> None:
    """Print the scores of a cross-validation; five folds fit a screen of 24 lines."""
    console = Terminal(highlight=False)
    first = next(iter(result.out_of_fold.values())).content
    groups, seeds = first["intervals"]["groups"], len(result.seeds)
    console.print(
        f"{plural(len(first['images']), 'image')} in {plural(groups, 'group')}, "
        f"{len(result.fold_scores())} folds, {plural(seeds, 'seed')}"
    )
    rows = result.rows()
    folds, others = rows[: len(result.fold_scores())], rows[len(result.fold_scores()) :]
    shown = folds if reporter.verbosity > 0 else folds[:_FOLDS]
    name, *headers = (each.replace("e ", "e\n").replace("U ", "U\n") for each in result.header)
    table = _table(name, headers)
    for row in shown:
        table.add_row(*row)
    if len(shown) < len(folds):
        table.add_row(f"{len(folds) - len(shown)} more")
    table.add_section()
    for row in others:
        table.add_row(*row)
    console.print()
    console.print(table)
    notes = [
        "Means over foreground classes; metric protocol: docs/metrics.md",
        "Out-of-fold: each image is predicted by the fold that held it out",
    ]
    if groups > 1:
        notes[0] += f"\nCI: bootstrap over groups{_few(groups)}"
    spread = result.over_seeds()
    if spread and spread.deviation is not None:
        notes.append(
            f"Seeds alone change Dice per image from {spread.lowest:.4f} to {spread.highest:.4f}: "
            "a smaller difference may be chance"
        )
    console.print("\n".join(notes), style="dim")


def show_tuning(found: dict[str, Any]) -> None:
    """Print what `tune` tried on the validation split, and the settings of the tuned checkpoint."""
    console = Terminal(highlight=False)
    title = f"tried on {plural(found['pictures'], 'image')}, split: {found['part']}"
    shown = {"dice": "Dice", "f1": "F1 of objects"}
    shown = {key: label for key, label in shown.items() if key in found}
    table = _table(title, tuple(shown.values()))
    for each in found["tried"]:
        value = "" if each["value"] is None else f" {each['value']}"
        scores = (_cell(each[key]) for key in shown)
        table.add_row(f"{each['setting'].replace('_', ' ')}{value}", *scores)
    console.print(table)
    for key, label in shown.items():
        before, after = found[key]["before"], found[key]["after"]
        console.print(f"{label} {before:.4f} before tuning, {after:.4f} after")
    console.print("Tuned settings:")
    for name, value in found["after"].items():
        old = found["before"][name]
        change = "unchanged" if value == old else f"before: {old}"
        console.print(f"  {name.replace('_', ' ')}: {value} ({change})")
    console.print(f"tuned checkpoint: {found['checkpoint']}\n", markup=False, soft_wrap=True)


def show_comparison(comparison: "Comparison") -> None:
    """Print the scores of two models and their differences, in 24 lines."""
    console, found = Terminal(highlight=False), comparison.content
    console.print(
        f"{_evaluated(found['pictures'], found['groups'], found['split'])}\n"
        f"first: {found['models'][0]}\nsecond: {found['models'][1]}",
        markup=False,
    )
    headers = ("first", "second", "difference", f"{found['level']:.0%} CI", "better")
    table = _table("", headers)
    for key, title in _AGGREGATES.items():
        for name, each in found["scores"][key].items():
            bounds = each["interval"]
            table.add_row(
                f"{metric_label(name)} {title}",
                *(_cell(each["first"]), _cell(each["second"]), _signed(each["difference"])),
                "-" if bounds is None else f"{bounds[0]:+.4f} to {bounds[1]:+.4f}",
                "-" if each["better"] is None else f"{each['better']:.1%}",
            )
    table.add_section()
    table.add_row("Dice by image", style="bold")
    for each in found["images"][:_SHOWN]:
        scores = [_cell(each["first"]), _cell(each["second"]), _signed(each["difference"])]
        table.add_row(escape(each["image"].rpartition("/")[2]), *scores)
    console.print(table)
    note = "Means over foreground classes; metric protocol: docs/metrics.md"
    if found["groups"] > 1:
        note += (
            f"\nCI: paired bootstrap{_few(found['groups'])}. Better: resamples won by the second"
        )
    console.print(note, style="dim")


def _evaluated(images: int, groups: int, split: str) -> str:
    return f"{plural(images, 'image')} in {plural(groups, 'group')}, split: {split}"


def _signed(value: float | None) -> str:
    return "-" if value is None else f"{value:+.4f}"


def _about(intervals: dict[str, Any]) -> str:
    groups = intervals["groups"]
    if groups == 1:
        return "No confidence intervals: all images are in one group"
    return f"Below each score: {intervals['level']:.0%} bootstrap confidence interval{_few(groups)}"


def _few(groups: int) -> str:
    return f" (too narrow: {groups} groups)" if groups < FEW else ""


def _pixel_tables(result: dict[str, Any]) -> list[Table]:
    """Tables of the metrics, as many in each as fit in 80 columns with their intervals."""
    metrics = metric_labels(result["pooled"])
    own = [name for name in metrics if name not in PER_CLASS]
    parts = [list(PER_CLASS), *(own[first : first + _OWN] for first in range(0, len(own), _OWN))]
    return [_pixel_table(result, {name: metrics[name] for name in part}) for part in parts]


def _pixel_table(result: dict[str, Any], metrics: dict[str, str]) -> Table:
    """Scores of all classes and their means; of two classes, the foreground's alone."""
    names = list(result["pooled"]["dice"]["per_class"])
    binary = len(names) == 2 and reporter.verbosity <= 0
    labels = [*map(escape, names), "mean foreground", "with background"]
    table = _table(names[1] if binary else "class", metrics.values())
    for key, title in _AGGREGATES.items():
        columns = [
            map(_cell, _flat(result[key][metric]), _flat(result["intervals"][key][metric]))
            for metric in metrics
        ]
        rows = list(zip(labels, *columns, strict=True))
        if binary:
            rows = [(title, *rows[1][1:])]
        else:
            table.add_section()
            table.add_row(title, style="bold")
        for row in rows:
            table.add_row(*row)
    return table


def _flat(scores: dict[str, Any]) -> list[Any]:
    means = scores["mean_foreground"], scores["mean_with_background"]
    return [*scores["per_class"].values(), *means]


def _boundary_table(boundary: dict[str, Any]) -> Table:
    headers = {"hd95": "HD95 [px]", "distance": "ASSD [px]"}
    headers |= {
        "surface_dice": f"NSD ({boundary['tolerance']:g} px)",
        "boundary_iou": "boundary IoU",
    }
    table = _table("boundary, per image", headers.values())
    for name, scores in boundary["per_class"].items():
        bounds = boundary["intervals"][name]
        cells = [
            _cell(scores[key], bounds[key], 2 if key in ("hd95", "distance") else 4)
            for key in headers
        ]
        table.add_row(escape(name), *cells)
    return table


def _object_table(per_class: dict[str, Any]) -> Table:
    table = _table("objects, per image", ("count", "F1", "AP", "Rand", "information"))
    for name, found in per_class.items():
        together = found["together"]
        table.add_row(
            escape(name),
            f"{found['true']:,} ground truth\n[dim]{found['predicted']:,} predicted[/]",
            _cell(found["f1"]["per_image"]),
            _cell(found["average_precision"]["per_image"]),
            *(_best(together[key], together.get("thresholds")) for key in ("rand", "information")),
        )
    return table


def _best(scores: Sequence[float | None], thresholds: Sequence[float] | None) -> str:
    known = [(score, number) for number, score in enumerate(scores) if score is not None]
    if not known:
        return "-"
    score, number = max(known)
    return _cell(score) + (f"\n[dim]at {thresholds[number]:g}[/]" if thresholds else "")


def _table(title: str, headers: Iterable[str]) -> Table:
    table = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False)
    table.add_column(escape(title))
    for header in headers:
        table.add_column(escape(header), justify="right", overflow="fold")
    return table


def _cell(value: float | None, bounds: Sequence[float] | None = None, digits: int = 4) -> str:
    if value is None:
        return "-"
    if max(map(abs, (value, *(bounds or ())))) >= 100:
        digits = 1
    text = f"{value:.{digits}f}"
    return f"{text}\n[dim]{_range(bounds, digits)}[/]" if bounds else text


def _range(bounds: Sequence[float], digits: int = 4) -> str:
    return f"{bounds[0]:.{digits}f}-{bounds[1]:.{digits}f}"
