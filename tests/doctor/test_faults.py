"""Proof by planting: every kind of fault, in every real set that can carry it, is found.

The slow test prints the table of docs/check-faults.md.
"""

import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from plainunet.config import DataConfig
from plainunet.doctor.diagnose import check
from plainunet.doctor.findings import CODES, Finding

from ..unprivileged import unprivileged
from .faults import FAULTS, NAMES, Fault
from .real_sets import SETS, Copy, copy_set

# what `make test` looks at: some pairs of small images, and the first that a fault needs besides
SMALL = {"isbi2012": 2, "camvid": 5, "dubai_color": 4}
SMALL_FIXED = {"camvid": 4, "isbi2012": 2, "dubai_color": 4}
FIXED_QUICKLY = ("suffix of another format", "shifted mask")
LEAST = 0.95
SEEDS = 4  # where it depends on which images are drawn


@dataclass(frozen=True)
class Outcome:
    """The result of a planted fault."""

    hits: list[Finding]  # that name one of the files at fault under a right code
    others: list[Finding]  # errors and warnings that name neither them nor their partners
    found: list[Finding]


def try_fault(fault: Fault, copy: Copy, size: float, seed: int) -> Outcome | str:
    """Plant a fault into a copy and check it; or why this set cannot have it."""
    random = np.random.default_rng([seed, *fault.name.encode(), *copy.known.name.encode()])
    planted = fault.plant(copy, random, size)
    if isinstance(planted, str):
        return planted
    found = look(fault, copy)
    hits = [
        each
        for each in found
        if each.code in fault.codes and (not planted or set(each.files) & {*planted})
    ]
    # whatever was renamed begins with the image's stem
    stems = {path.stem for path in planted}
    partners = {
        path
        for pair in copy.pairs
        if {pair.image.stem, pair.mask.stem} & stems
        for path in (pair.image, pair.mask)
    }
    others = [
        each
        for each in found
        if planted and each.severity != "note" and each not in hits
        if not set(each.files) & {*planted, *partners}
    ]
    return Outcome(hits, others, found)


def look(fault: Fault, copy: Copy) -> list[Finding]:
    """Check a copy with its own dataset.toml, if it has one."""
    config = DataConfig() if (copy.root / "dataset.toml").exists() else copy.config
    # without the superuser's right to read everything
    with unprivileged() if fault.as_nobody else nullcontext():
        return check(copy.root, config).findings


def messages(findings: list[Finding]) -> list[str]:
    return [f"{each.code}: {each.message}" for each in findings]


def plant_in_any(
    fault: Fault, data_root: Path, folder: Path, thin: dict[str, int], real: bool = False
) -> tuple[Copy, Outcome]:
    """Plant a fault into the first set that can carry it."""
    how: Any = {"in_parts": fault.in_parts, "by_group": fault.by_group, "real": real}
    for name in thin:
        copy = copy_set(data_root, name, folder / name, thin=thin[name], **how)
        outcome = try_fault(fault, copy, fault.nominal, seed=0)
        if isinstance(outcome, Outcome):
            return copy, outcome
    raise AssertionError("no set can carry it")


@pytest.mark.parametrize("name", [name for name in NAMES if not NAMES[name].unseen])
def test_the_fault_is_found(data_root: Path, tmp_path: Path, name: str) -> None:
    _, outcome = plant_in_any(NAMES[name], data_root, tmp_path, SMALL)
    assert outcome.hits, messages(outcome.found)
    assert not outcome.others, messages(outcome.others)


@pytest.mark.parametrize("name", SMALL)
def test_clean_copies_are_clean(data_root: Path, tmp_path: Path, name: str) -> None:
    copy = copy_set(data_root, name, tmp_path / name, thin=SMALL[name])
    findings = check(copy.root, copy.config).findings
    assert {each.code for each in findings if each.severity != "note"} == set()


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[] if name in FIXED_QUICKLY else pytest.mark.slow)
        for name in NAMES
        if NAMES[name].has_fix and not NAMES[name].unseen
    ],
)
def test_the_fix_fixes_it(data_root: Path, tmp_path: Path, name: str) -> None:
    fault = NAMES[name]
    copy, outcome = plant_in_any(fault, data_root, tmp_path, SMALL_FIXED, real=True)
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    lines = dict.fromkeys(each.fix.line for each in outcome.hits if each.fix)
    if not lines:
        assert {each.severity for each in outcome.hits} == {"note"}
        return
    for line in lines:
        result = subprocess.run(
            ["bash", "-c", line],
            capture_output=True,
            text=True,
            cwd="/",
            env={**os.environ, "PATH": path},
            timeout=120,
            check=False,
        )
        # of `plainunet check --write`, 1 stands for warnings that are left
        assert result.returncode in (0, 1), result.stdout + result.stderr
    left = [
        each for each in look(fault, copy) if each.code in fault.codes and each.severity != "note"
    ]
    assert not left, messages(left)


def test_the_table_names_every_fault(checkout: Path) -> None:
    text = (checkout / "docs" / "check-faults.md").read_text(encoding="utf-8")
    table = text.partition("| fault |")[2].partition("\n\n")[0]
    assert re.findall(r"^\| ([^|]+?) \|", table, re.MULTILINE) == list(NAMES)


def test_codes_are_known_and_reasons_given() -> None:
    assert len(FAULTS) >= 36
    assert len(NAMES) == len(FAULTS)
    for fault in FAULTS:
        assert set(fault.codes) <= set(CODES)
        assert set(fault.unseen) <= set(SETS)
        assert all(fault.unseen.values())


class Tally:
    """What was found of a fault: by magnitude, and by set."""

    def __init__(self, fault: Fault, data_root: Path, folder: Path) -> None:
        self.fault = fault
        self.planted: Counter[float] = Counter()
        self.found: Counter[float] = Counter()
        self.unseen: Counter[str] = Counter()
        self.unseen_found: Counter[str] = Counter()
        self.cannot: dict[str, list[str]] = {}
        self.others = 0
        how = {"in_parts": fault.in_parts, "by_group": fault.by_group}
        seeds = SEEDS if fault.by_chance and not fault.is_whole else 1
        for name in SETS:
            for size, seed in [(size, seed) for size in fault.sizes for seed in range(seeds)]:
                copy = copy_set(data_root, name, folder / name, **how)
                outcome = try_fault(fault, copy, size, seed)
                shutil.rmtree(copy.root)
                if isinstance(outcome, str):
                    self.cannot.setdefault(outcome, []).append(name)
                    break
                self._add(name, size, outcome)

    def _add(self, name: str, size: float, outcome: Outcome) -> None:
        if name in self.fault.unseen:
            self.unseen[name] += 1
            self.unseen_found[name] += bool(outcome.hits)
            return
        self.planted[size] += 1
        self.found[size] += bool(outcome.hits)
        self.others += len(outcome.others)

    def row(self) -> str:
        fault = self.fault
        planted = fault.planted.format(" / ".join(f"{size:g}" for size in fault.sizes))
        codes = ", ".join(f"`{code}`" for code in fault.codes)
        sets = len(SETS) - len({name for names in self.cannot.values() for name in names})
        shares = [f"{self.found[size]}/{self.planted[size]}" for size in fault.sizes]
        found = " · ".join(shares) if sets > len(fault.unseen) else "not seen"
        return f"| {fault.name} | {planted} | {codes} | {sets} | {found} | {self.others} |"

    def reasons(self) -> list[str]:
        rows = [(", ".join(names), why) for why, names in self.cannot.items()]
        for why in dict.fromkeys(self.fault.unseen.values()):
            names = [name for name in self.fault.unseen if self.fault.unseen[name] == why]
            found = sum(self.unseen_found[name] for name in names)
            planted = sum(self.unseen[name] for name in names)
            rows.append((", ".join(names), f"{why}; found {found} of {planted} times"))
        return [f"| {self.fault.name} | {names} | {why} |" for names, why in rows]


@pytest.mark.slow
@pytest.mark.timeout(2400)
def test_nearly_all_faults_are_found(data_root: Path, tmp_path: Path) -> None:
    alarms, clean = [], 0
    for name in SETS:
        for kind in ({}, {"in_parts": True}, {"in_parts": True, "by_group": True}):
            copy = copy_set(data_root, name, tmp_path / name, **kind)
            findings = check(copy.root, copy.config).findings
            alarms += [f"{name}: {each.message}" for each in findings if each.severity != "note"]
            shutil.rmtree(copy.root)
            clean += 1
    tallies = [Tally(fault, data_root, tmp_path) for fault in FAULTS]

    planted = sum(each.planted[each.fault.nominal] for each in tallies)
    found = sum(each.found[each.fault.nominal] for each in tallies)
    lines = [
        *("", "| fault | planted | code | sets | found | others |", "|---|---|---|---|---|---|"),
        *(each.row() for each in tallies),
        *("", "| fault | sets | why not |", "|---|---|---|"),
        *(row for each in tallies for row in each.reasons()),
        "",
        f"At the nominal magnitude, {found} of {planted} faults were found, "
        f"{found / planted:.1%}. {sum(each.others for each in tallies)} errors and warnings named "
        f"other files. {clean} clean copies gave {len(alarms)} errors and warnings.",
        "",
    ]
    sys.stdout.write("\n".join(lines))
    assert not alarms
    assert found >= LEAST * planted
    for each in tallies:
        assert 2 * each.found[each.fault.nominal] >= each.planted[each.fault.nominal], each.fault
