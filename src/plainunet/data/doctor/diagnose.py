"""The doctor: a data folder -> what is wrong with it, and what it holds.

In: a folder, and what is known of it. Out: findings, each with its cure, and a summary. Every
file is read once, and only what has changed since the last time; nothing is written here.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import compress
from pathlib import Path
from typing import Any

import numpy as np

from plainunet.data.ceiling import SIZES
from plainunet.data.census import MaskCounts, count_masks
from plainunet.data.doctor.contents import (
    Contents,
    tell_contents,
    understand_contents,
)
from plainunet.data.doctor.copies import join_copies
from plainunet.data.doctor.findings import CODES, Finding, Findings, Severity
from plainunet.data.doctor.fitting import tell_fits
from plainunet.data.doctor.sample import draw_sample, measure_fits
from plainunet.data.doctor.summary import summarise
from plainunet.data.doctor.survey import Look, look_at
from plainunet.data.doctor.wholeness import tell_files, tell_pairs
from plainunet.data.folders.layouts import walk
from plainunet.data.folders.stacks import open_stacks
from plainunet.data.pairing import Pair, find_pairs
from plainunet.data.places import files_of
from plainunet.data.problems import DataError, as_problem, command
from plainunet.data.split_file import SPLIT_FILE
from plainunet.data_config import DataConfig
from plainunet.memory import keep_freed_memory
from plainunet.settings import DATASET_FILE, with_dataset

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
        said = data / DATASET_FILE
        if config.pairs and said.is_file():
            # the list does not fit any more: look at the folder itself
            look = command("mv", said, said.with_name(f"{said.name}.old"))
        findings.add(code, str(problem), problem.files, problem.cure or look, "error")
        return []
    _tell_unlisted(data, config, pairs, findings)
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
    data: Path, config: DataConfig, pairs: Sequence[Pair], findings: Findings
) -> None:
    if config.pairs is None or not config.pairs.lower().endswith(".csv"):
        return
    listed = {file for pair in pairs for path in (pair.image, pair.mask) for file in files_of(path)}
    masks = {pair.mask.parent for pair in pairs} - {pair.image.parent for pair in pairs}
    others = [
        path
        for path in walk(data, on_problem=findings.add_problem)
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
