"""The doctor: a data folder -> what is wrong with it, and what it holds."""

import difflib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import compress
from pathlib import Path
from typing import Any

import numpy as np

from plainunet.config import DataConfig
from plainunet.dataset.classes import describe, write_understood
from plainunet.dataset.coding import MaskCounts, count_masks
from plainunet.dataset.layouts import walk
from plainunet.dataset.pairs import Pair, find_pairs
from plainunet.dataset.resize import SIZES
from plainunet.dataset.split import SPLIT_FILE
from plainunet.doctor.findings import CODES, Finding, Findings, Severity
from plainunet.doctor.fit import draw_sample, measure_fits, tell_fits
from plainunet.doctor.images import Look, join_copies, look_at, tell_files, tell_pairs
from plainunet.doctor.masks import Contents, tell_contents, understand_contents
from plainunet.formats.problems import DataError, as_problem, command
from plainunet.formats.sources import files_of, path_of
from plainunet.palette import default_names
from plainunet.reporter import Reporter
from plainunet.settings import DATASET_FILE, with_dataset
from plainunet.system import keep_freed_memory

_WHY = {
    "ids": "the values are 0, 1, ... without a gap",
    "two values": "there are two values; the smaller is class 0",
    "values": "as it was said",
    "instances": "many values in 16 bits: numbers of objects; all above 0 is class 1",
    "threshold": "black and white with greys between; from 128 on is class 1",
    "colors": "the channels differ, so each colour is a class",
}


def summarise(
    pairs: Sequence[Pair],
    looks: Sequence[Look | None],
    counts: Sequence[MaskCounts],
    contents: Contents | None,
    config: DataConfig,
    ceiling: dict[int, float],
) -> dict[str, Any]:
    """Put together what a folder holds.

    Args:
        pairs: The pairs without an error.
        looks: What the picture of each is.
        counts: What every mask holds that could be read.
        contents: What the masks of these pairs hold, or None where they make no sense together.
        config: What is known of the folder.
        ceiling: Dice that the true masks keep, reduced to N x N pixels of area, by N.

    Returns:
        Counts and shares, ready for JSON.
    """
    seen = [look for look in looks if look is not None]
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
    # all of the commonest class: its Dice is 2 p / (1 + p), the others' is 0
    dice = 2 * shares[common] / (1 + shares[common]) / (len(names) - 1) if common else 0.0
    summary |= {
        "classes": list(names),
        "shares": dict(zip(names, shares.tolist(), strict=True)),
        "in_masks": dict(zip(names, (contents.pixels > 0).sum(axis=0).tolist(), strict=True)),
        "masks": {
            "kind": coding.kind,
            "why": "as it was said" if config.values or config.encoding else _WHY[coding.kind],
            "values": list(coding.values),
            "ignore": coding.ignore,
            "colors": list(describe(coding, ()).colors),
        },
        "commonest": {"class": names[common], "dice": dice, "accuracy": float(shares[common])},
    }
    return summary


def census_of(counts: Sequence[MaskCounts]) -> list[dict[str, Any]]:
    """List the values of all masks.

    Args:
        counts: What each mask holds.

    Returns:
        For each value, ascending: `value`, `pixels`, and the number of `masks` that have it.
    """
    pixels, files = np.zeros(65536, np.int64), np.zeros(65536, np.int64)
    for each in counts:
        pixels[each.values] += each.pixels
        files[each.values] += 1
    return [
        {"value": int(value), "pixels": int(pixels[value]), "masks": int(files[value])}
        for value in np.flatnonzero(files)
    ]


OnProgress = Callable[[str, int, int], None]
_ORDER = ("error", "warning", "note")


@dataclass(frozen=True)
class Diagnosis:
    """What was found out about a data folder.

    Attributes:
        data: The folder.
        given_flags: What was given, as flags.
        config: What is known of it, as given and as its dataset.toml says.
        findings: What is wrong, errors first.
        notes: What was understood, and how, in sentences.
        summary: Counts for machines: `pairs`, `classes`, `shares` and more.
        pairs: The pairs without an error; copies share a group.
        sizes: Height and width of each picture of these pairs [pixels].
        contents: What the masks hold, or None where they make no sense together.
    """

    data: Path
    given_flags: list[str]
    config: DataConfig
    findings: list[Finding]
    notes: list[str]
    summary: dict[str, Any]
    pairs: list[Pair]
    sizes: list[tuple[int, int]]
    contents: Contents | None

    @property
    def exit_code(self) -> int:
        """0 clean, 1 warnings, 2 errors."""
        graves = {finding.severity for finding in self.findings}
        return 2 if "error" in graves else 1 if "warning" in graves else 0

    @property
    def last_cure(self) -> str:
        """The command that leaves out, or joins, what the findings' own commands do; or ""."""
        those = [each for each in self.findings if each.leaves_out]
        if not those:
            return ""
        codes = sorted({each.code for each in those if "--leave-out" in each.cure})
        check = command("plainunet", "check", self.data, *self.given_flags, "--write")
        return check + (f" --leave-out {','.join(codes)}" if codes else "")

    def count(self, severity: Severity) -> int:
        """Count the findings of a severity."""
        return sum(finding.severity == severity for finding in self.findings)

    def as_json(self) -> dict[str, Any]:
        """List everything for machines.

        Returns:
            `findings`, `summary` and `notes`.
        """
        return {
            "data": str(self.data),
            "findings": [finding.as_json() for finding in self.findings],
            "summary": self.summary,
            "notes": self.notes,
        }


def check(
    data: str | Path,
    config: DataConfig | None = None,
    *,
    seed: int = 0,
    on_progress: OnProgress | None = None,
) -> Diagnosis:
    """Look for what is wrong with a folder of images and masks.

    Args:
        data: The folder.
        config: What is known of it; what is left out is taken from its dataset.toml, or found.
        seed: Of the sample of pairs that are looked at together.
        on_progress: Told what is done, how many of it, and of how many.

    Returns:
        The diagnosis.

    Raises:
        ValueError: The folder's dataset.toml is wrong.
    """
    keep_freed_memory()
    data, config = Path(data), config or DataConfig()
    tell = on_progress or (lambda stage, done, total: None)
    notes: list[str] = []
    flags = _as_flags(config)
    findings = Findings(command("plainunet", "check", data, *flags))
    if data.is_dir():
        config = with_dataset(config, data)
    if len(set(config.classes)) < len(config.classes):
        raise ValueError(
            f"--classes: two classes have the same name ({', '.join(config.classes)}). Name each "
            "differently."
        )
    pairs = _find(data, config, findings, notes)

    looks: list[Look | None] = []
    for look in look_at([pair.image for pair in pairs]):
        looks.append(look if isinstance(look, Look) else None)
        if isinstance(look, DataError):
            findings.add_problem(look)
        tell("pictures", len(looks), len(pairs))
    counts: list[MaskCounts | None] = []
    for count in count_masks([pair.mask for pair in pairs]):
        counts.append(count if isinstance(count, MaskCounts) else None)
        if isinstance(count, DataError):
            findings.add_problem(count)
        tell("masks", len(counts), len(pairs))
    tell_files(pairs, looks, counts, findings)
    tell_pairs(pairs, looks, counts, findings)

    contents = None
    there = [each for each in counts if each is not None]
    if there:
        contents = understand_contents(there, config, findings, notes.append)
    keep = _sound(pairs, contents, findings)
    pairs, looks = list(compress(pairs, keep)), list(compress(looks, keep))
    counts = list(compress(counts, keep))
    if contents is not None:
        contents = _only(contents, pairs)
        tell_contents(contents, pairs, findings)
    pairs = join_copies(pairs, looks, counts, findings)
    ceiling = {}
    if contents is not None and pairs:
        areas = [look.shape[0] * look.shape[1] for look in looks if look is not None]
        chosen = draw_sample(pairs, seed, area=sum(areas) / max(len(areas), 1))
        fits = []
        for fit in measure_fits([pairs[index] for index in chosen], contents.coding):
            fits.append(None if isinstance(fit, DataError) else fit)
            tell("picture and mask together", len(fits), len(chosen))
        tell_fits([pairs[index] for index in chosen], fits, contents, findings)
        kept = np.array([fit.ceiling for fit in fits if fit is not None and fit.ceiling])
        if len(kept):
            ceiling = dict(zip(SIZES, kept.mean(axis=0).tolist(), strict=True))
    summary = summarise(pairs, looks, there, contents, config, ceiling)
    order = [*CODES]
    found = sorted(
        findings.found, key=lambda each: (_ORDER.index(each.severity), order.index(each.code))
    )
    sizes = [look.shape[:2] for look in looks if look is not None]
    return Diagnosis(data, flags, config, found, notes, summary, pairs, sizes, contents)


def _as_flags(config: DataConfig) -> list[str]:
    flags: list[str] = []
    for name, value in config.model_dump(exclude_defaults=True).items():
        flag = f"--{name.replace('_', '-')}"
        if value is True:
            flags.append(flag)
        else:
            listed = value if isinstance(value, tuple) else (value,)
            flags += [flag, ",".join(map(str, listed))]
    return flags


class _Noted(Reporter):
    """Makes findings of problems, and keeps notes."""

    def __init__(self, findings: Findings, notes: list[str]) -> None:
        self._findings, self._notes = findings, notes

    def note(self, text: str) -> None:
        self._notes.append(text)

    def problem(self, error: ValueError) -> None:
        for each in as_problem(error).parts:
            self._findings.add_problem(each)


def _find(data: Path, config: DataConfig, findings: Findings, notes: list[str]) -> list[Pair]:
    reporter = _Noted(findings, notes)
    try:
        pairs = find_pairs(data, config, reporter, at_least=0)
    except (ValueError, FileNotFoundError) as error:
        problem = as_problem(error, data)
        code = "no-data" if isinstance(error, FileNotFoundError) else problem.code
        look = command("ls", data if data.is_dir() else data.absolute().parent)
        said = data / DATASET_FILE
        if config.pairs and said.is_file():
            # the list does not fit any more: look at the folder itself
            look = command("mv", said, said.with_name(f"{said.name}.old"))
        findings.add(code, str(problem), problem.files, problem.cure or look, "error")
        return []
    _tell_unlisted(data, config, pairs, findings, reporter)
    if config.pairs is None and (data / SPLIT_FILE).is_file():
        notes.append(
            f"{data / SPLIT_FILE} is not used. To use it, say --pairs {SPLIT_FILE}; it names the "
            "columns image,mask and perhaps group,part."
        )
    groups = {pair.group for pair in pairs}
    if len(groups) == 1 and len(pairs) > 1 and not any(pair.part for pair in pairs):
        findings.add(
            "too-few",
            f"All {len(pairs)} pictures belong to one group ({next(iter(groups))!r}), and a group "
            "is never divided between training and validation. Group them by another pattern.",
            [],
            command("plainunet", "check", data, "--group-by", ".+"),
        )
    if len(pairs) < 2:
        findings.add(
            "too-few",
            f"{data} holds {len(pairs)} picture{'s' * (len(pairs) != 1)} with a mask; at least 2 "
            "are needed, some to learn from and some to judge by. Add more.",
            [pair.image for pair in pairs],
            command("ls", data),
        )
    return pairs


def _tell_unlisted(
    data: Path,
    config: DataConfig,
    pairs: Sequence[Pair],
    findings: Findings,
    reporter: Reporter,
) -> None:
    if config.pairs is None or not config.pairs.lower().endswith(".csv"):
        return
    listed = {file for pair in pairs for path in (pair.image, pair.mask) for file in files_of(path)}
    masks = {path_of(pair.mask).parent for pair in pairs}
    masks -= {path_of(pair.image).parent for pair in pairs}
    others = [
        path
        for path in walk(data, reporter=reporter)
        if path not in listed and path.parent not in masks
    ]
    if others:
        findings.add(
            "not-listed",
            f"{len(others)} pictures below {data} are not in {config.pairs}, and are left aside; "
            f"for example {others[0]}. Where they were left out for faults that are mended now, "
            f"move {DATASET_FILE} away and check again.",
            others,
        )


def _sound(pairs: Sequence[Pair], contents: Contents | None, findings: Findings) -> list[bool]:
    """Which pairs have no error; where masks make no sense together, that is nobody's."""
    faulty = findings.faulty
    known = set(contents.masks) if contents else {pair.mask for pair in pairs}
    return [
        pair.mask in known and pair.image not in faulty and pair.mask not in faulty
        for pair in pairs
    ]


def _only(contents: Contents, pairs: Sequence[Pair]) -> Contents:
    rows = {mask: row for row, mask in enumerate(contents.masks)}
    chosen = [rows[pair.mask] for pair in pairs]
    return contents._replace(
        pixels=contents.pixels[chosen],
        masks=[pair.mask for pair in pairs],
    )


def treat(diagnosis: Diagnosis, leave_out: Sequence[str] = ()) -> tuple[list[Path], int]:
    """Write down what was understood, and which pairs are to be used.

    Args:
        diagnosis: The diagnosis.
        leave_out: Codes of findings whose pairs are left out; those with errors are anyway. Of
            findings across parts, only pairs of the training part are.

    Returns:
        The files written, and how many of the sound pairs were left out.

    Raises:
        ValueError: A code is unknown, the masks make no sense together, or fewer than two pairs
            would be left.
    """
    for code in leave_out:
        if code not in CODES:
            near = difflib.get_close_matches(code, CODES, 1)
            hint = f"did you mean '{near[0]}'?" if near else f"known are {', '.join(CODES)}."
            raise ValueError(f"--leave-out {code}: no finding has this code; {hint}")
    if diagnosis.contents is None:
        raise ValueError(
            f"{diagnosis.data}: nothing is written, since the masks make no sense together yet. "
            "Mend the errors first."
        )
    kept = [pair for pair in diagnosis.pairs if not _is_left_out(pair, diagnosis, leave_out)]
    if len(kept) < 2:
        raise ValueError(
            f"{diagnosis.data}: {len(kept)} of {len(diagnosis.pairs)} sound pairs would be left; "
            "training needs at least 2. Leave out less, or add pictures."
        )
    said = describe(diagnosis.contents.coding, diagnosis.config.classes)
    files = write_understood(diagnosis.data, kept, said)
    return files, len(diagnosis.pairs) - len(kept)


def _is_left_out(pair: Pair, diagnosis: Diagnosis, codes: Sequence[str]) -> bool:
    for finding in diagnosis.findings:
        if finding.code in codes and {pair.image, pair.mask} & set(finding.files):
            if "across-parts" not in finding.code:
                # of a copy in two groups, the first stays
                first_only = "duplicate" in finding.code or finding.code == "same-mask"
                if not first_only or finding.files[0] in (pair.image, pair.mask):
                    return True
            elif pair.part == "train":
                return True
    return False
