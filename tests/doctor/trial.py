"""A fault is planted into a copy of a set, and the doctor looks at it."""

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from plainunet.config import DataConfig
from plainunet.doctor.diagnose import check
from plainunet.doctor.findings import Finding

from .farm import Copy, copy_set
from .faults import Fault

TESTS = next(folder for folder in Path(__file__).parents if folder.name == "tests")


@dataclass(frozen=True)
class Outcome:
    """What came of a planted fault.

    Attributes:
        at_fault: The files; none where the whole folder is.
        hits: The findings that name one of them under a right code.
        others: Errors and warnings that name neither them nor their partners.
        found: All findings.
    """

    at_fault: list[Path]
    hits: list[Finding]
    others: list[Finding]
    found: list[Finding]


def make_copy(
    data_root: Path, name: str, root: Path, fault: Fault | None = None, **how: Any
) -> Copy:
    """Copy a set, as a fault needs it or as for `copy_set`."""
    if fault is not None:
        how = {"in_parts": fault.in_parts, "by_group": fault.by_group, **how}
    return copy_set(data_root, name, root, **how)


def try_fault(fault: Fault, copy: Copy, size: float, seed: int) -> Outcome | str:
    """Plant a fault into a copy and look at it; or why this set cannot carry it."""
    random = np.random.default_rng([seed, *fault.name.encode(), *copy.known.name.encode()])
    planted = fault.plant(copy, random, size)
    if isinstance(planted, str):
        return planted
    return judge(fault, copy, planted)


def look(fault: Fault, copy: Copy) -> list[Finding]:
    """Look at a copy; what was written into it is not said again."""
    config = DataConfig() if (copy.root / "dataset.toml").exists() else copy.config
    return look_as_nobody(copy) if fault.as_nobody else check(copy.root, config).findings


def judge(fault: Fault, copy: Copy, planted: list[Path]) -> Outcome:
    """Look at a copy with a fault."""
    found = look(fault, copy)
    touched = {*planted, *_partners(copy, planted)}
    hits = [
        each
        for each in found
        if each.code in fault.codes and (not planted or set(each.files) & set(planted))
    ]
    others = [
        each
        for each in found
        if each.severity != "note"
        and each not in hits
        and planted
        and not set(each.files) & touched
    ]
    return Outcome(planted, hits, others, found)


def _partners(copy: Copy, files: Sequence[Path]) -> list[Path]:
    """What belongs to files, by the picture's stem: whatever was renamed begins with it."""
    stems = {path.stem for path in files}
    return [
        path
        for pair in copy.pairs
        for path in (pair.image, pair.mask)
        if {pair.image.stem, pair.mask.stem} & stems
    ]


_LOOK = """
import json, runpy, sys
runpy.run_path(sys.argv[3], run_name="__main__")
from plainunet.config import DataConfig
from plainunet.doctor.diagnose import check
result = check(sys.argv[1], DataConfig(**json.loads(sys.argv[2])))
print(json.dumps(result.as_json()["findings"]))
"""


def look_as_nobody(copy: Copy) -> list[Finding]:
    """Look at a copy in a process that has given up the superuser's right to read everything."""
    said = json.dumps(copy.config.model_dump(exclude_defaults=True))
    command = [sys.executable, "-c", _LOOK, copy.root, said, TESTS / "unprivileged.py"]
    result = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    return [
        Finding(
            each["code"],
            each["severity"],
            each["message"],
            tuple(map(Path, each["files"])),
            each["cure"],
        )
        for each in json.loads(result.stdout)
    ]
