"""Check a dataset folder: its findings and a summary of its contents."""

import shutil
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np

from plainunet.config import DataConfig
from plainunet.dataset.census import MaskCounts, count_masks
from plainunet.dataset.classes import describe
from plainunet.dataset.coding import read_pair
from plainunet.dataset.layouts import walk
from plainunet.dataset.pairs import Pair, find_pairs
from plainunet.dataset.split import SPLIT_FILE, write_split
from plainunet.doctor.findings import CODES, Finding, Findings, Severity, as_flags, require_code
from plainunet.doctor.fit import check_fits
from plainunet.doctor.fix import apply, last_fix
from plainunet.doctor.images import PairFacts, check_images, group_copies, read_facts
from plainunet.doctor.masks import Contents, check_contents, find_contents
from plainunet.errors import Error, require_types, take_path
from plainunet.files import require_writable
from plainunet.formats.problems import Change, DataError, as_problem, command
from plainunet.formats.shards import require_no_shards
from plainunet.formats.sources import Source, files_of, path_of
from plainunet.palette import default_names
from plainunet.reporter import Reporter, or_default, silent, track
from plainunet.settings import DATASET_FILE, with_dataset, write_dataset
from plainunet.system import keep_freed_memory
from plainunet.text import plural


@dataclass(frozen=True)
class Diagnosis:
    """The result of checking a dataset folder; prints as a list of findings."""

    data: Path
    """The folder."""
    given_flags: list[str]
    """The settings passed to the check, as flags."""
    config: DataConfig
    """The settings, completed from its dataset.toml."""
    findings: list[Finding]
    """The findings, errors first."""
    notes: list[str]
    """How the folder was interpreted, in sentences."""
    summary: dict[str, Any]
    """Statistics, ready for JSON: `pairs`, `classes`, `shares` and more."""
    pairs: list[Pair]
    """The pairs without errors; duplicates share a group."""
    sizes: list[tuple[int, int]]
    """Height and width of each pair's image [pixels]."""
    contents: Contents | None
    """The contents of the masks, or None if they have no consistent encoding."""
    last_fix: str = ""
    """The command that writes the list once, for all findings this fixes."""

    @property
    def exit_code(self) -> int:
        """0 without problems, 1 with warnings, 2 with errors."""
        return 2 if self.count("error") else 1 if self.count("warning") else 0

    def count(self, severity: Severity) -> int:
        """The number of findings of a severity."""
        return sum(finding.severity == severity for finding in self.findings)

    def __str__(self) -> str:
        """Format the findings as text, each with the command that fixes it."""
        pairs = plural(len(self.pairs), "valid pair")
        lines = [
            f"{self.data}: {pairs}, classes: {', '.join(self.summary['classes']) or 'unclear'}"
        ]
        for each in self.findings:
            lines.append(f"{each.severity}: {each.code}: {each.message}")
            lines += [f"  $ {each.fix.line}"] if each.fix else []
        return "\n".join(lines if self.findings else [*lines, "no findings"])

    def as_dict(self) -> dict[str, Any]:
        """Return everything, ready for JSON, as written by `plainunet check --json`."""
        return {
            "data": str(self.data),
            "findings": [finding.as_dict() for finding in self.findings],
            "summary": self.summary,
            "notes": self.notes,
        }


def check(
    data: str | Path,
    config: DataConfig | None = None,
    *,
    seed: int = 0,
    reporter: Reporter | None = None,
) -> Diagnosis:
    """Check a folder of images and masks.

    Args:
        data: The folder.
        config: Its settings, a `TrainConfig` for instance; missing ones come from its dataset.toml,
            or are inferred.
        seed: Seed of the sample of pairs tested for alignment.
        reporter: Receives the progress; default: shown in notebooks.

    Returns:
        The diagnosis.

    Raises:
        ValueError: The folder's dataset.toml is invalid.

    Example:
        ```python
        from plainunet import check

        found = check("my-data")
        print(found)
        print(found.summary["shares"], [each.code for each in found.findings])
        ```
    """
    require_types(config=(config, DataConfig), seed=(seed, int))
    reporter = or_default(reporter)
    keep_freed_memory()
    data, config = take_path(data, "data"), config or DataConfig()
    given = config.model_dump(exclude_defaults=True)
    findings = Findings(data, {**given, **({"seed": seed} if seed else {})})
    config = _complete(config, data)
    pairs = _find(data, config, findings)

    files = [pair.image for pair in pairs], [pair.mask for pair in pairs]
    images = _read(read_facts(files[0]), "images", len(pairs), findings, reporter)
    masks = _read(count_masks(files[1]), "masks", len(pairs), findings, reporter)
    facts = [PairFacts(*each) for each in zip(pairs, images, masks, strict=True)]
    check_images(facts, config.pairs is None, findings)

    counts = [mask for mask in masks if mask]
    contents = find_contents(counts, config, findings) if counts else None
    facts = _valid(facts, contents, findings)
    if contents is not None:
        pairs = [each.pair for each in facts]
        contents = contents.only([pair.mask for pair in pairs])
        for row, (pair, image, _) in enumerate(facts):
            if image and image.missing:  # nodata pixels are ignored
                coding = contents.coding
                ids = read_pair(pair.image, pair.mask, coding)[1]
                pixels = np.bincount(ids.ravel(), minlength=256)
                contents.pixels[row] = pixels[: coding.num_classes]
        check_contents(contents, pairs, findings)
    pairs = group_copies(facts, findings)
    facts = [each._replace(pair=pair) for each, pair in zip(facts, pairs, strict=True)]
    ceiling = check_fits(facts, contents, seed, findings, reporter) if contents and facts else {}
    if len(pairs) < 2:
        findings.drop_empty_lists()
    return Diagnosis(
        data,
        as_flags(given),
        config,
        findings.in_order(),
        findings.notes,
        summarise(facts, counts, contents, config, ceiling),
        pairs,
        [each.image.shape[:2] for each in facts if each.image],
        contents,
        findings.last_fix,
    )


def _complete(config: DataConfig, data: Path) -> DataConfig:
    """Fill in settings from the folder's dataset.toml."""
    instead = "Check the folder that they were written from."
    require_no_shards(data, instead)
    if data.is_dir():
        config = with_dataset(config, data)
    if len(set(config.classes)) < len(config.classes):
        raise Error(f"--classes: names must be unique, but got {', '.join(config.classes)}.")
    return config


_Facts = TypeVar("_Facts")


def _read(
    found: Iterable[_Facts | DataError],
    name: str,
    total: int,
    findings: Findings,
    reporter: Reporter,
) -> list[_Facts | None]:
    """Read everything that `found` yields, with progress; errors become findings, and None."""
    facts: list[_Facts | None] = []
    for each in track(found, name, total, reporter):
        if isinstance(each, DataError):
            findings.problem(each)
        facts.append(None if isinstance(each, DataError) else each)
    return facts


def _valid(
    facts: Sequence[PairFacts], contents: Contents | None, findings: Findings
) -> list[PairFacts]:
    """Pairs without an error of their own."""
    faulty = findings.faulty
    known = set(contents.masks) if contents else {each.pair.mask for each in facts}
    return [
        each
        for each in facts
        if each.pair.mask in known and not {each.pair.image, each.pair.mask} & faulty
    ]


# the pairs of the folder


def _find(data: Path, config: DataConfig, findings: Findings) -> list[Pair]:
    try:
        pairs = find_pairs(data, config, findings, at_least=0)
    except (ValueError, FileNotFoundError) as error:
        problem = as_problem(error, data)
        code = "no-data" if isinstance(error, FileNotFoundError) else problem.code
        listed, fix = data / DATASET_FILE, problem.fix or None
        if config.pairs and listed.is_file() and "pairs" not in findings.given:
            # an outdated list: check the folder itself
            fix = fix or Change("rename", (listed,), (listed.with_name(f"{listed.name}.old"),))
        message = str(problem) + findings.lines(problem.choices)
        findings.add(code, message, problem.files, fix=fix, severity="error")
        return []
    _check_unlisted(data, config, pairs, findings)
    if config.pairs is None and (data / SPLIT_FILE).is_file():
        findings.note(
            f"{data / SPLIT_FILE} is not used. To use it, pass --pairs {SPLIT_FILE}; its columns "
            "must be image,mask and optionally group,part."
        )
    groups = {pair.group for pair in pairs}
    if len(groups) == 1 and len(pairs) > 1 and not any(pair.part for pair in pairs):
        findings.add(
            "too-few",
            f"All {len(pairs)} images belong to one group ({next(iter(groups))!r}), which cannot "
            "be divided between training and validation. Group them by another pattern.",
            flags={"group_by": ".+"},
        )
    if len(pairs) < 2:
        findings.add(
            "too-few",
            f"{data} has {plural(len(pairs), 'image')} with a mask; at least 2 are "
            "needed, for training and validation. Add more.",
            [pair.image for pair in pairs],
            fix=None,
        )
    return pairs


def _check_unlisted(
    data: Path, config: DataConfig, pairs: Sequence[Pair], findings: Findings
) -> None:
    if config.pairs is None or not config.pairs.lower().endswith(".csv"):
        return
    listed = {file for pair in pairs for path in (pair.image, pair.mask) for file in files_of(path)}
    masks = {path_of(pair.mask).parent for pair in pairs}
    masks -= {path_of(pair.image).parent for pair in pairs}
    others = [
        path
        for path in walk(data, reporter=findings)
        if path not in listed and path.parent not in masks
    ]
    if others:
        written = (data / DATASET_FILE).is_file()  # by check --write, which left them out
        again = f" If they are fixed by now, move {DATASET_FILE} away and check again." * written
        findings.add(
            "not-listed",
            f"{len(others)} images in {data} are not listed in {config.pairs} and not used, such "
            f"as {others[0]}.{again}",
            others,
        )


# summary

_WHY = {
    "ids": "consecutive values from 0",
    "two values": "two values; the smaller is class 0",
    "values": "one class per value",
    "instances": "object ids; all above 0 are class 1",
    "threshold": "black and white with greys between; 128 and above is class 1",
    "colors": "one class per colour",
}


def summarise(
    facts: Sequence[PairFacts],
    counts: Sequence[MaskCounts],
    contents: Contents | None,
    config: DataConfig,
    ceiling: dict[int, float],
) -> dict[str, Any]:
    """Summarise a folder, ready for JSON.

    `facts` and `contents` are of the pairs without errors, `counts` of every readable mask;
    `ceiling` is the mean Dice at each input size from `check_fits`.
    """
    pairs = [each.pair for each in facts]
    seen = [each.image for each in facts if each.image]
    sizes = sorted(look.shape[:2] for look in seen)
    summary: dict[str, Any] = {
        "pairs": len(pairs),
        "groups": len({pair.group for pair in pairs}),
        "parts": dict(Counter(pair.part for pair in pairs if pair.part)),
        "sizes": dict(Counter(f"{width}x{height}" for height, width in sizes).most_common(8)),
        "channels": dict(Counter(look.shape[2] for look in seen)),
        "types": dict(Counter(look.dtype for look in seen)),
        "formats": dict(Counter(look.kind for look in seen)),
        "census": census_of(counts),
        "classes": [],
        "shares": {},
        "ceiling": ceiling,
    }
    if contents is None or not len(contents.pixels):
        return summary
    coding, pixels = contents.coding, contents.pixels.sum(axis=0)
    names = config.classes or coding.names or default_names(coding.num_classes)
    if len(names) != coding.num_classes:
        names = default_names(coding.num_classes)
    shares = pixels / max(pixels.sum(), 1)
    common = int(shares.argmax())
    # predicting one class everywhere: its Dice is 2 p / (1 + p), that of the others 0
    dice = 2 * shares[common] / (1 + shares[common]) / (len(names) - 1) if common else 0.0
    summary |= {
        "classes": list(names),
        "shares": dict(zip(names, shares.tolist(), strict=True)),
        "in_masks": dict(zip(names, (contents.pixels > 0).sum(axis=0).tolist(), strict=True)),
        "masks": {
            "kind": coding.kind,
            "why": "as configured" if config.values or config.encoding else _WHY[coding.kind],
            "values": list(coding.values),
            "ignore": coding.ignore,
            "colors": list(describe(coding, ()).colors),
        },
        "commonest": {"class": names[common], "dice": dice, "accuracy": float(shares[common])},
    }
    return summary


def census_of(counts: Sequence[MaskCounts]) -> list[dict[str, Any]]:
    """The values of all masks, ascending, with the number of pixels and of masks of each."""
    pixels, files = np.zeros(65536, np.int64), np.zeros(65536, np.int64)
    for each in counts:
        pixels[each.values] += each.pixels
        files[each.values] += 1
    return [
        {"value": int(value), "pixels": int(pixels[value]), "masks": int(files[value])}
        for value in np.flatnonzero(files)
    ]


# fixing


class Fixed(NamedTuple):
    """The result of fixing the findings of a code."""

    changes: list[Change]
    backup: Path | None
    """The folder with the originals; None if nothing was changed."""
    left: list[Finding]
    """The findings of the code that remain, or would remain."""
    result: Diagnosis
    """The diagnosis after the fix, or before it if nothing was changed."""


def fix(
    data: Path,
    code: str,
    files: Sequence[Path] = (),
    *,
    config: DataConfig,
    seed: int = 0,
    dry_run: bool = False,
    reporter: Reporter = silent,
) -> Fixed:
    """Check a folder, apply the fixes of a code that change files, and check again.

    Args:
        data: The folder.
        code: One of `CODES`.
        files: Only fix these; relative to the working directory, or to the folder.
        config: The settings of the folder.
        seed: Seed of the sample, as for `check`.
        dry_run: Whether to change nothing.
        reporter: Receives the progress.

    Returns:
        The changes, and the remaining findings.

    Raises:
        ValueError: No finding of this code can be fixed by changing files, or a change failed;
            earlier ones can be undone.
        OSError: A file cannot be written, and nothing was changed.
    """
    require_code(code, code)
    result = check(data, config, seed=seed, reporter=reporter)
    found = [each for each in result.findings if each.code == code]
    changes = {each.fix.change: each for each in found if each.fix and each.fix.change}
    if not changes:
        check_line = command("plainunet", "check", data, *result.given_flags)
        line = next((each.fix.line for each in found if each.fix), check_line)
        what = "is fixed by changing files. Run this instead" if found else "found. Check again"
        raise Error(f"{data}: no '{code}' {what}:\n$ {line}")
    chosen = list(changes) if not files else []
    for file in files:
        places = {file.absolute(), (data / file).absolute()}
        named = [
            change
            for change, finding in changes.items()
            if places & {path_of(each).absolute() for each in (*finding.files, *change.files)}
        ]
        if not named:
            raise Error(f"{file}: no '{code}' of this file is fixed by changing files.")
        chosen += named
    chosen = list(dict.fromkeys(chosen))
    if dry_run:
        left = [] if files else [each for each in found if not (each.fix and each.fix.change)]
        return Fixed(chosen, None, left, result)
    before = last_fix(data)
    try:
        backup, made = apply(data, code, chosen)
        result = check(data, config, seed=seed, reporter=reporter)
    except (KeyboardInterrupt, OSError, ValueError) as error:
        if last_fix(data) == before:  # nothing was changed
            raise
        line = command("plainunet", "fix", data, "--undo")
        advice = f"Some files have changed; to undo:\n  $ {line}"
        if isinstance(error, KeyboardInterrupt):
            raise type(error)(f"interrupted. {advice}") from error
        raise Error(f"{error}\n{advice}") from error
    touched = {file for change in made for file in change.files}
    left = [each for each in result.findings if each.code == code]
    if files:
        left = [each for each in left if touched & set(each.files)]
    return Fixed(made, backup, left, result)


# excluding pairs


def write_valid(diagnosis: Diagnosis, leave_out: Sequence[str] = ()) -> tuple[list[Path], int]:
    """Write dataset.toml and split.csv: the mask encoding and the pairs to use.

    Excludes pairs with errors, and those of findings with the codes `leave_out` (of findings
    across splits, only those in the train split). Returns the files written, and the number of
    pairs without errors that were excluded.

    Raises:
        ValueError: A code is unknown, the masks have no consistent encoding, or fewer than two
            pairs would be left.
    """
    for code in leave_out:
        require_code(code, f"--leave-out {code}")
    if diagnosis.contents is None:
        raise Error(
            f"{diagnosis.data}: nothing was written, because the mask encoding is not clear yet. "
            "Fix the errors first."
        )
    anywhere, in_train = _left_out(diagnosis, leave_out)
    kept = [
        pair
        for pair in diagnosis.pairs
        if anywhere.isdisjoint((pair.image, pair.mask))
        and not (pair.part == "train" and not in_train.isdisjoint((pair.image, pair.mask)))
    ]
    if len(kept) < 2:
        raise Error(
            f"{diagnosis.data}: {len(kept)} of {len(diagnosis.pairs)} valid pairs would be left; "
            "training needs at least 2. Exclude fewer, or add images."
        )
    coding = diagnosis.contents.coding
    classes = describe(coding, diagnosis.config.classes or coding.names)
    files = write_understood(diagnosis.data, kept, classes)
    return files, len(diagnosis.pairs) - len(kept)


def _left_out(diagnosis: Diagnosis, codes: Sequence[str]) -> tuple[set[Source], set[Source]]:
    """Files whose pairs are left out, and those that are left out of the train split alone."""
    anywhere: set[Source] = set()
    in_train: set[Source] = set()
    for finding in diagnosis.findings:
        which = CODES[finding.code].leaves_out if finding.code in codes else None
        if which == "train":
            in_train.update(finding.files)
        elif which is not None:
            anywhere.update(finding.files if which == "all" else finding.files[:1])
    return anywhere, in_train


def write_understood(folder: Path, pairs: Sequence[Pair], known: DataConfig) -> list[Path]:
    """Write a dataset.toml and its list into a data folder.

    Existing files are kept as .bak, .bak2, ... Returns the files written.
    """
    require_writable(folder)
    files = [folder / SPLIT_FILE, folder / DATASET_FILE]
    for file in files:
        if file.exists():
            _keep(file)
    write_split(files[0], pairs, folder)
    write_dataset(files[1], known)
    return files


def _keep(file: Path) -> None:
    """Copy a file to the first free .bak name, unless an equal copy exists."""
    for number in count(1):
        copy = file.with_name(f"{file.name}.bak{number if number > 1 else ''}")
        if not copy.exists():
            shutil.copy2(file, copy)
            return
        if copy.is_file() and copy.read_bytes() == file.read_bytes():
            return
