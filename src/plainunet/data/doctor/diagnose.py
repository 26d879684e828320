"""The doctor: a data folder -> what is wrong with it, and what it holds.

In: a folder, and what is known of it. Out: findings, each with its cure, and a summary. Every
file is read once, and only what has changed since the last time; nothing is written here.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import compress
from pathlib import Path
from typing import Any

import numpy as np

from plainunet.config import DataConfig
from plainunet.data.census import MaskCounts, count_masks
from plainunet.data.doctor.contents import (
    Contents,
    census_of,
    tell_contents,
    understand_contents,
)
from plainunet.data.doctor.copies import join_copies
from plainunet.data.doctor.findings import CODES, Finding, Findings, Severity
from plainunet.data.doctor.fitting import tell_fits
from plainunet.data.doctor.sample import SIZES, draw_sample, measure_fits
from plainunet.data.doctor.survey import Look, look_at
from plainunet.data.doctor.wholeness import tell_files, tell_pairs
from plainunet.data.folders.layouts import walk
from plainunet.data.folders.stacks import open_stacks
from plainunet.data.pairing import Pair, find_pairs
from plainunet.data.places import files_of
from plainunet.data.problems import DataError, as_problem, command
from plainunet.palette import default_names
from plainunet.settings import with_dataset

OnProgress = Callable[[str, int, int], None]

_WHY = {
    "ids": "the values are 0, 1, ... without a gap",
    "two values": "there are two values; the smaller is class 0",
    "values": "as it was said",
    "instances": "many values in 16 bits: numbers of objects; all above 0 is class 1",
    "threshold": "black and white with greys between; from 128 on is class 1",
    "colors": "the channels differ, so each colour is a class",
}
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
    data, config = Path(data), config or DataConfig()
    tell = on_progress or (lambda stage, done, total: None)
    notes: list[str] = []
    flags = _as_flags(config)
    findings = Findings(command("plainunet", "check", data, *flags))
    if data.is_dir():
        config = with_dataset(config, data)
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
        chosen = draw_sample(pairs, seed)
        fits = []
        for fit in measure_fits([pairs[index] for index in chosen], contents.coding):
            fits.append(None if isinstance(fit, DataError) else fit)
            tell("picture and mask together", len(fits), len(chosen))
        tell_fits([pairs[index] for index in chosen], fits, contents, findings)
        kept = np.array([fit.ceiling for fit in fits if fit is not None and fit.ceiling])
        if len(kept):
            ceiling = dict(zip(SIZES, kept.mean(axis=0).tolist(), strict=True))
    summary = _summarise(pairs, looks, there, contents, config, ceiling)
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


def _find(data: Path, config: DataConfig, findings: Findings, notes: list[str]) -> list[Pair]:
    try:
        pairs = find_pairs(
            data,
            config.group_by,
            at_least=0,
            **config.folder_arguments(),
            on_note=notes.append,
            on_problem=findings.add_problem,
        )
        pairs = open_stacks(pairs, notes.append, findings.add_problem)
    except (ValueError, FileNotFoundError) as error:
        problem = as_problem(error, data)
        code = "no-data" if isinstance(error, FileNotFoundError) else problem.code
        look = command("ls", data if data.is_dir() else data.absolute().parent)
        findings.add(code, str(problem), problem.files, problem.cure or look, "error")
        return []
    _tell_unlisted(data, config, pairs, findings)
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
    data: Path, config: DataConfig, pairs: Sequence[Pair], findings: Findings
) -> None:
    if config.pairs is None or not config.pairs.lower().endswith(".csv"):
        return
    listed = {file for pair in pairs for path in (pair.image, pair.mask) for file in files_of(path)}
    others = [path for path in walk(data, on_problem=findings.add_problem) if path not in listed]
    if others:
        findings.add(
            "not-listed",
            f"{len(others)} picture files below {data} are not in {config.pairs}, and are left "
            f"aside; for example {others[0]}.",
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
        border=contents.border[chosen],
        masks=[pair.mask for pair in pairs],
    )


def _summarise(
    pairs: Sequence[Pair],
    looks: Sequence[Look | None],
    counts: Sequence[MaskCounts],
    contents: Contents | None,
    config: DataConfig,
    ceiling: dict[int, float],
) -> dict[str, Any]:
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
            "colors": [f"{r:02x}{g:02x}{b:02x}" for r, g, b in coding.colors],
        },
        "commonest": {"class": names[common], "dice": dice, "accuracy": float(shares[common])},
    }
    return summary
