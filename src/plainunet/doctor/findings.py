"""Findings of `check`: their codes and severities, and the commands that fix them."""

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

from plainunet.doctor.fix import is_possible
from plainunet.errors import Error
from plainunet.formats.problems import Change, as_problem, command
from plainunet.formats.sources import Source
from plainunet.reporter import Reporter

Severity = Literal["error", "warning", "note"]


class Code(NamedTuple):
    """What a finding means, and which of its pairs `--leave-out CODE` excludes."""

    severity: Severity
    meaning: str
    leaves_out: Literal["all", "first", "train"] = "all"


CODES: dict[str, Code] = {
    # the folder
    "no-data": Code("error", "no such folder, or no pairs in it"),
    "too-few": Code("error", "fewer than two images with masks"),
    "no-mask": Code("error", "an image without a mask"),
    "no-image": Code("error", "a mask without an image"),
    "two-partners": Code("error", "two files with the same name"),
    "which-folder": Code("error", "several candidates for the masks"),
    "which-column": Code("error", "several columns of polygons may hold the classes"),
    "several-masks": Code("error", "several masks per image: classes, objects, or annotators"),
    "several-channels": Code("error", "an image stored as one file per channel"),
    "outside-of-parts": Code("error", "an image outside train/, val/ and test/"),
    "link-loop": Code("error", "a link to its own parent folder"),
    "unclear": Code("error", "any other error"),
    # files
    "missing-file": Code("error", "a listed or linked file that does not exist"),
    "not-readable": Code("error", "no permission to read a file"),
    "empty-file": Code("error", "a file with no bytes or no pixels"),
    "cut-off": Code("error", "a truncated file"),
    "damaged": Code("error", "a file that cannot be decoded"),
    "not-an-image": Code("error", "a file with an image suffix and other content"),
    "too-large": Code("error", "more pixels than can be decoded safely"),
    "several-frames": Code("error", "an animation, or a stack paired with a single image"),
    "wrong-extension": Code("warning", "a suffix that does not match the content"),
    "name-not-utf8": Code("warning", "a file name that is not UTF-8"),
    # images
    "transparent": Code("error", "an image or mask with transparent pixels"),
    "not-finite": Code("error", "infinite values"),
    "unusable-values": Code("error", "an unsupported data type"),
    "untagged-nodata": Code("warning", "a usual nodata value that no tag marks as such"),
    "odd-channels": Code("error", "a different number of channels from the other images"),
    "grey-among-rgb": Code("note", "grey images among RGB ones; converted to RGB"),
    "blank-image": Code("warning", "all pixels are the same"),
    "unused-depth": Code("warning", "16-bit values that do not use the upper bits"),
    "mixed-depths": Code("warning", "a different data type from the other images"),
    "odd-size": Code("warning", "an image much larger or smaller than the others"),
    # masks
    "size-mismatch": Code("error", "a mask and image of different sizes"),
    "not-a-mask": Code("error", "a file that is not a class mask"),
    "colored-mask": Code("error", "a coloured mask among masks of class values"),
    "lossy-mask": Code("warning", "a mask saved as JPEG or smoothed"),
    "stray-value": Code("error", "a value that belongs to no class"),
    "stray-color": Code("error", "a colour that belongs to no class"),
    "many-values": Code("error", "more values than the maximum number of classes"),
    "ambiguous-255": Code("error", "255 could be foreground or ignored"),
    "ids-or-objects": Code("error", "values could be class ids or object ids"),
    "which-background": Code("error", "unclear which value or colour is the background"),
    "legends-differ": Code("error", "contradictory class lists"),
    "overlapping-classes": Code("error", "pixels that belong to two classes"),
    "one-class": Code("error", "all masks hold one and the same class"),
    "rare-class": Code("warning", "a class in very few masks, possibly a mistake"),
    "empty-mask": Code("warning", "a mask without foreground"),
    "ignored-mask": Code("warning", "a mask with every pixel ignored"),
    "same-mask": Code("warning", "two images with the same mask", "first"),
    "class-not-in-training": Code("warning", "a class missing from the train split"),
    # image and mask
    "shifted": Code("warning", "a mask that fits better when shifted"),
    "flipped": Code("warning", "a mask that fits better when mirrored or rotated"),
    "exif": Code("warning", "a mask drawn before the EXIF rotation of the image"),
    "swapped": Code("warning", "a mask that fits another image"),
    "inverted": Code("warning", "a mask with foreground and background swapped"),
    # duplicates
    "duplicate": Code("note", "an image that occurs twice, always in one split", "first"),
    "duplicate-across-groups": Code(
        "warning", "an image that occurs twice; may end up in two splits", "first"
    ),
    "duplicate-across-parts": Code(
        "warning", "the same image in several splits (data leakage)", "train"
    ),
    "near-duplicate": Code("note", "a re-encoded copy, always in one split", "first"),
    "near-duplicate-across-groups": Code(
        "warning", "a re-encoded copy; may end up in two splits", "first"
    ),
    "near-duplicate-across-parts": Code(
        "warning", "a re-encoded copy in several splits (data leakage)", "train"
    ),
    "group-across-parts": Code("warning", "a group in several splits (data leakage)", "train"),
    "possible-groups": Code("note", "names that suggest groups of images"),
    "not-listed": Code("note", "images missing from the list of pairs"),
}


def require_code(code: str, what: str) -> None:
    """Raise ValueError for an unknown code; `what` names it."""
    if code not in CODES:
        near = difflib.get_close_matches(code, CODES, 1)
        hint = f"did you mean '{near[0]}'?" if near else "plainunet check prints them."
        raise Error(f"{what}: unknown finding code; {hint}")


@dataclass(frozen=True)
class Fix:
    """A command that fixes a finding."""

    line: str
    change: Change | None = None
    """The change to files, if the command is `plainunet fix`."""
    writes_list: bool = False
    """Whether it only writes the list of pairs: excluding some, or with duplicates grouped."""
    leave_out: str = ""
    """The code passed to `--leave-out`; errors are always excluded."""


@dataclass(frozen=True)
class Finding:
    """One problem, or note, of a dataset.

    Attributes:
        code: One of `CODES`.
        severity: How serious it is.
        message: The problem, naming the file.
        files: The files.
        fix: The command that fixes it, if there is one.
    """

    code: str
    severity: Severity
    message: str
    files: tuple[Source, ...]
    fix: Fix | None

    def as_dict(self) -> dict[str, Any]:
        """The finding as JSON; bytes of names that are not UTF-8 become surrogates."""
        return {
            "code": self.code,
            "severity": self.severity,
            "message": self.message,
            "files": [str(file) for file in self.files],
            "fix": self.fix.line if self.fix else "",
        }


class Findings(Reporter):
    """Collects findings and notes; a reporter for the functions that read files."""

    def __init__(self, data: Path, given: Mapping[str, Any] | None = None) -> None:
        """Start empty; `given` are the flags of this check, by their names in `config`."""
        self.found: list[Finding] = []
        self.notes: list[str] = []
        self.given = dict(given or {})
        self._data = data
        self._codes: dict[Change, str] = {}

    def command(self, verb: str, *words: str, **flags: Any) -> str:
        """A command line for this folder, with the flags of this check."""
        named = {name.replace("-", "_"): value for name, value in flags.items()}
        given = self.given
        if "pairs" in named:  # in their place
            given = {name: each for name, each in given.items() if name not in ("images", "masks")}
        return command("plainunet", verb, self._data, *words, *as_flags({**given, **named}))

    def add(
        self,
        code: str,
        message: str,
        files: Sequence[Source] = (),
        *,
        fix: Change | str | None = "",
        flags: Mapping[str, Any] | None = None,
        severity: Severity | None = None,
    ) -> None:
        """Add a finding of one of `CODES`; `severity` defaults to that of the code.

        `fix` is a change to files or a command; `flags` are those with which `check --write`
        fixes it (empty if writing the list is enough). Without either, or if the change would
        lose data, the fix is to exclude the files. Notes, and `fix=None`, get no fix.
        """
        severity = severity or CODES[code].severity
        found: Fix | None = None
        if isinstance(fix, Change) and (fix in self._codes or is_possible(fix)):
            # findings with the same change share one command
            found = Fix(self.command("fix", self._codes.setdefault(fix, code)), fix)
        elif isinstance(fix, str) and fix:
            found = Fix(fix)
        elif flags is not None:
            line = self.command("check", **flags, write=True)
            found = Fix(line, writes_list=not flags)
        elif severity == "warning" and fix is not None:
            line = self.command("check", write=True, leave_out=code)
            found = Fix(line, writes_list=True, leave_out=code)
        elif severity == "error" and fix is not None and (files or fix == ""):
            found = Fix(self.command("check", write=True), writes_list=True)
        self.found.append(Finding(code, severity, message, tuple(files), found))

    @property
    def last_fix(self) -> str:
        """The command that writes the list once, for all findings this fixes; or ""."""
        fixes = [each.fix for each in self.found if each.fix and each.fix.writes_list]
        codes = sorted({fix.leave_out for fix in fixes if fix.leave_out})
        left_out = {"leave_out": ",".join(codes)} if codes else {}
        return self.command("check", write=True, **left_out) if fixes else ""

    def note(self, text: str) -> None:
        """Add a note."""
        self.notes.append(text)

    def lines(self, choices: Mapping[str, Mapping[str, Any]], **more: bool) -> str:
        """The possible answers, each with its meaning and its command."""
        return "".join(
            f"\n{meaning}:\n$ {self.command('check', **flags, **more)}"
            for meaning, flags in choices.items()
        )

    def problem(self, error: ValueError) -> None:
        """Add an error raised while reading files; a combined error adds each of its parts."""
        for each in as_problem(error).parts:
            code = each.code if each.code in CODES else "unclear"
            message = str(each) + self.lines(each.choices)
            fix = None if each.choices else each.fix
            self.add(code, message, each.files, fix=fix, flags=each.flags or None)

    def drop_empty_lists(self) -> None:
        """Remove fixes that would write an empty list."""
        fixes = [each.fix for each in self.found if each.severity == "error" and each.fix]
        if all(fix.writes_list for fix in fixes):
            self.found = [
                replace(each, fix=None) if each.fix and each.fix.writes_list else each
                for each in self.found
            ]

    def in_order(self) -> list[Finding]:
        """The findings, errors first, then in the order of `CODES`."""
        ranks = {code: rank for rank, code in enumerate(CODES)}
        severities = get_args(Severity)
        return sorted(
            self.found, key=lambda each: (severities.index(each.severity), ranks[each.code])
        )

    @property
    def faulty(self) -> set[Source]:
        """The files with errors."""
        return {file for each in self.found if each.severity == "error" for file in each.files}


def find_unfixed(findings: Sequence[Finding]) -> list[Finding]:
    """The findings that `plainunet fix` cannot fix, if it can fix others of them."""
    unfixed = [each for each in findings if not (each.fix and each.fix.change)]
    return unfixed if len(unfixed) < len(findings) else []


def change_of(kind: Any, sources: Sequence[Source], *how: Any) -> Change | Literal[""]:
    """A change to files; "" if one of the sources is not a file of its own."""
    files = tuple(each for each in sources if isinstance(each, Path))
    return Change(kind, files, how) if len(files) == len(sources) else ""


def as_flags(values: Mapping[str, Any]) -> list[str]:
    """Settings of a check as command-line arguments."""
    words: list[str] = []
    for name, value in values.items():
        words.append(f"--{name.replace('_', '-')}")
        if value is not True:
            words += map(str, value if isinstance(value, tuple) else (value,))
    return words
