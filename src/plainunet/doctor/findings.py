"""Findings of `check`: their codes and severities, and the commands that fix them."""

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

from plainunet.doctor.fix import is_possible
from plainunet.formats.problems import Change, as_problem, command
from plainunet.formats.sources import Source
from plainunet.reporter import Reporter

Severity = Literal["error", "warning", "note"]


class Code(NamedTuple):
    """What a finding means, and which of its pairs `--leave-out CODE` leaves out."""

    severity: Severity
    meaning: str
    leaves_out: Literal["all", "first", "train"] = "all"


CODES: dict[str, Code] = {
    # the folder
    "no-data": Code("error", "there is no such folder, or nothing in it is paired"),
    "too-few": Code("error", "fewer than two pictures with masks"),
    "no-mask": Code("error", "a picture without a mask"),
    "no-picture": Code("error", "a mask without a picture"),
    "two-partners": Code("error", "two files of one name"),
    "which-folder": Code("error", "several folders or files that could be the masks"),
    "several-masks": Code("error", "several masks of one image: classes, objects, or two opinions"),
    "several-channels": Code("error", "an image of which each channel is a file"),
    "outside-of-parts": Code("error", "a picture beside train/, val/ and test/"),
    "link-loop": Code("error", "a link that leads back to where it lies"),
    "unclear": Code("error", "something else that cannot be understood"),
    # files
    "missing-file": Code("error", "a file that is listed or linked, but not there"),
    "not-readable": Code("error", "a file that may not be opened"),
    "empty-file": Code("error", "a file of zero bytes, or without pixels"),
    "cut-off": Code("error", "a file that ends too early"),
    "damaged": Code("error", "a file that cannot be decoded"),
    "not-a-picture": Code("error", "a file of another kind, named like a picture"),
    "too-large": Code("error", "more pixels than are decoded safely"),
    "several-frames": Code("error", "an animation, or a stack beside a single picture"),
    "wrong-extension": Code("warning", "a suffix that is not the content's"),
    "name-not-utf8": Code("warning", "a name that is not UTF-8"),
    # pictures
    "transparent": Code("error", "a picture or mask with pixels that are not opaque"),
    "not-finite": Code("error", "values that are infinite"),
    "unusable-values": Code("error", "a kind of number that pictures do not have"),
    "odd-channels": Code("error", "another number of channels than the others"),
    "grey-among-rgb": Code("note", "grey pictures, shown as RGB like the others"),
    "blank-picture": Code("warning", "all pixels are the same"),
    "unused-depth": Code("warning", "16 bits of which the upper ones are never used"),
    "mixed-depths": Code("warning", "another type of number than the others"),
    "odd-size": Code("warning", "a picture of quite another size than the others"),
    # masks
    "size-mismatch": Code("error", "a mask that is not as large as its picture"),
    "not-a-mask": Code("error", "a file that holds no class for each pixel"),
    "colored-mask": Code("error", "a coloured mask among masks of class values"),
    "lossy-mask": Code("warning", "a mask saved as JPEG or smoothed"),
    "stray-value": Code("error", "a value that is no class's"),
    "stray-color": Code("error", "a colour that is no class's"),
    "many-values": Code("error", "more values than classes can be"),
    "ambiguous-255": Code("error", "255 may be foreground, or ignored"),
    "ids-or-objects": Code("error", "values may be class ids, or numbers of objects"),
    "which-background": Code("error", "which colour or value is the background is not clear"),
    "legends-differ": Code("error", "lists of classes that contradict each other"),
    "overlapping-classes": Code("error", "pixels that belong to two classes"),
    "one-class": Code("error", "all masks hold the same single value"),
    "rare-class": Code("warning", "a class of a few pixels in a few masks: a slip?"),
    "empty-mask": Code("warning", "a mask without foreground, where the others have some"),
    "ignored-mask": Code("warning", "a mask of which every pixel is ignored"),
    "same-mask": Code("warning", "two pictures with the same mask", "first"),
    "class-not-in-training": Code("warning", "a class that only validation or test shows"),
    # picture and mask
    "shifted": Code("warning", "a mask that fits once it is moved"),
    "flipped": Code("warning", "a mask that fits once it is mirrored or turned"),
    "exif": Code("warning", "a mask drawn on the picture before its EXIF rotation"),
    "swapped": Code("warning", "a mask that fits another picture"),
    "inverted": Code("warning", "a mask whose two classes are exchanged"),
    # copies
    "duplicate": Code("note", "a picture that is there twice, on one side of any split", "first"),
    "duplicate-across-groups": Code("warning", "a picture twice, which a split may part", "first"),
    "duplicate-across-parts": Code(
        "warning", "a picture in training and in validation or test", "train"
    ),
    "near-duplicate": Code("note", "a picture saved anew, on one side of any split", "first"),
    "near-duplicate-across-groups": Code(
        "warning", "a picture saved anew, which a split may part", "first"
    ),
    "near-duplicate-across-parts": Code(
        "warning", "the same, in training and in validation", "train"
    ),
    "group-across-parts": Code("warning", "a group in training and in validation or test", "train"),
    "possible-groups": Code("note", "names that look as if pictures belonged together"),
    "not-listed": Code("note", "pictures that the folder's list does not name"),
}


def require_code(code: str, what: str) -> None:
    """Refuse a code that no finding has; `what` names it."""
    if code not in CODES:
        near = difflib.get_close_matches(code, CODES, 1)
        hint = f"did you mean '{near[0]}'?" if near else f"known are {', '.join(CODES)}."
        raise ValueError(f"{what}: no finding has this code; {hint}")


@dataclass(frozen=True)
class Fix:
    """A command that fixes a finding."""

    line: str
    change: Change | None = None
    """What it does to files, where it is `plainunet fix`."""
    writes_list: bool = False
    """Whether all it does is to write the list of pairs: without some, or with copies grouped."""
    leave_out: str = ""
    """The code that it names after `--leave-out`; errors are left out without being named."""


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong, or worth knowing.

    Attributes:
        code: One of `CODES`.
        severity: How serious it is.
        message: What is wrong, with the file's name.
        files: The files.
        fix: What fixes it, if anything does.
    """

    code: str
    severity: Severity
    message: str
    files: tuple[Source, ...]
    fix: Fix | None

    def as_json(self) -> dict[str, Any]:
        """List it for machines; bytes of names that are not UTF-8 as surrogates."""
        return {
            "code": self.code,
            "severity": self.severity,
            "message": self.message,
            "files": [str(file) for file in self.files],
            "fix": self.fix.line if self.fix else "",
        }


class Findings(Reporter):
    """Collects findings, and notes; as a reporter, it takes those of whoever reads files."""

    def __init__(self, data: Path, given: Mapping[str, Any] | None = None) -> None:
        """Begin; `given` are the flags of the check of this folder, by the names in `config`."""
        self.found: list[Finding] = []
        self.notes: list[str] = []
        self.given = dict(given or {})
        self._data = data
        self._codes: dict[Change, str] = {}

    def command(self, verb: str, *words: str, **flags: Any) -> str:
        """Write a command for this folder with the flags that were given, each flag once."""
        named = {name.replace("-", "_"): value for name, value in flags.items()}
        return command("plainunet", verb, self._data, *words, *as_flags({**self.given, **named}))

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
        """Add a finding of one of `CODES`; left out, `severity` is that of the code.

        `fix` is a change of files or a command that fixes it, `flags` those with which
        `check --write` does: none where writing the list is enough. Without both, or where the
        change would lose something, the fix is to leave the files out; notes have none, and none
        has what is given None.
        """
        severity = severity or CODES[code].severity
        found: Fix | None = None
        if isinstance(fix, Change) and (fix in self._codes or is_possible(fix)):
            # what two findings ask for has one command
            found = Fix(self.command("fix", self._codes.setdefault(fix, code)), fix)
        elif isinstance(fix, str) and fix:
            found = Fix(fix)
        elif flags is not None:
            line = self.command("check", **flags, write=True)
            found = Fix(line, writes_list=not flags)
        elif severity == "warning" and fix is not None:
            line = self.command("check", write=True, leave_out=code)
            found = Fix(line, writes_list=True, leave_out=code)
        elif severity == "error" and fix is not None:
            found = Fix(self.command("check", write=True), writes_list=True)
        self.found.append(Finding(code, severity, message, tuple(files), found))

    @property
    def last_fix(self) -> str:
        """The command that writes the list once for all findings that this fixes; or ""."""
        fixes = [each.fix for each in self.found if each.fix and each.fix.writes_list]
        codes = sorted({fix.leave_out for fix in fixes if fix.leave_out})
        left_out = {"leave_out": ",".join(codes)} if codes else {}
        return self.command("check", write=True, **left_out) if fixes else ""

    def note(self, text: str) -> None:
        """Keep a note."""
        self.notes.append(text)

    def lines(self, choices: Mapping[str, Mapping[str, Any]], **more: bool) -> str:
        """Write the command for each answer that the user can give, and what it means."""
        return "".join(
            f"\n{meaning}:\n$ {self.command('check', **flags, **more)}"
            for meaning, flags in choices.items()
        )

    def problem(self, error: ValueError) -> None:
        """Add an error that came up while files were read; of many of one kind, each."""
        for each in as_problem(error).parts:
            code = each.code if each.code in CODES else "unclear"
            message = str(each) + self.lines(each.choices)
            fix = None if each.choices else each.fix
            self.add(code, message, each.files, fix=fix, flags=each.flags or None)

    def drop_empty_lists(self) -> None:
        """Do not offer to write a list of which nothing would be left."""
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
        """The files of all errors."""
        return {file for each in self.found if each.severity == "error" for file in each.files}


def change_of(kind: Any, sources: Sequence[Source], *how: Any) -> Change | Literal[""]:
    """Describe a change of files; "" where one of the sources is no file of its own."""
    files = tuple(each for each in sources if isinstance(each, Path))
    return Change(kind, files, how) if len(files) == len(sources) else ""


def as_flags(values: Mapping[str, Any]) -> list[str]:
    """Write settings of a check as words of a command."""
    words: list[str] = []
    for name, value in values.items():
        words.append(f"--{name.replace('_', '-')}")
        if value is not True:
            words += map(str, value if isinstance(value, tuple) else (value,))
    return words
