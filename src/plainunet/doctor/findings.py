"""Findings of `check`: their codes and severities, and the shell lines that fix them."""

import re
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

from plainunet.formats.problems import as_problem, command
from plainunet.formats.sources import Source, path_of
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
    "which-background": Code("error", "which colour is the background is not clear"),
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


@dataclass(frozen=True)
class Fix:
    """A shell line that fixes a finding."""

    line: str
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
            "cure": self.fix.line if self.fix else "",
        }


class Findings(Reporter):
    """Collects findings, and notes; as a reporter, it takes those of whoever reads files."""

    def __init__(self, check: str) -> None:
        """Begin; `check` is the command that checks this folder again, with its flags."""
        self.found: list[Finding] = []
        self.notes: list[str] = []
        self._check = check

    def add(
        self,
        code: str,
        message: str,
        files: Sequence[Source] = (),
        *,
        fix: str = "",
        flags: Mapping[str, Any] | None = None,
        severity: Severity | None = None,
    ) -> None:
        """Add a finding of one of `CODES`; left out, `severity` is that of the code.

        `fix` is a shell line that fixes it, `flags` those with which `check --write` does: none
        where writing the list is enough. Without both, the fix is to leave the files out; notes
        have none.
        """
        severity = severity or CODES[code].severity
        found: Fix | None = None
        if fix:
            found = Fix(fix)
        elif flags is not None:
            words = [word for name, value in flags.items() for word in _write_flag(name, value)]
            check = self._check
            for name in flags:  # a flag that was given already is given once
                check = re.sub(rf" --{name} (?:'[^']*'|\S+)", "", check)
            found = Fix(" ".join([check, *words, "--write"]), writes_list=not flags)
        elif severity == "warning":
            found = Fix(f"{self._check} --write --leave-out {code}", True, code)
        elif severity == "error":
            found = Fix(f"{self._check} --write", True)
        self.found.append(Finding(code, severity, message, tuple(files), found))

    def note(self, text: str) -> None:
        """Keep a note."""
        self.notes.append(text)

    def problem(self, error: ValueError) -> None:
        """Add an error that came up while files were read; of many of one kind, each."""
        for each in as_problem(error).parts:
            code = each.code if each.code in CODES else "unclear"
            self.add(code, str(each), each.files, fix=each.fix, flags=each.flags or None)

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


def _write_flag(name: str, value: Any) -> list[str]:
    return [f"--{name}", *map(command, value if isinstance(value, tuple) else (value,))]


# shell lines that change files

_TURNS = {
    2: "FLIP_LEFT_RIGHT",
    3: "ROTATE_180",
    4: "FLIP_TOP_BOTTOM",
    5: "TRANSPOSE",
    6: "ROTATE_270",
    7: "TRANSVERSE",
    8: "ROTATE_90",
}


def replace_values(table: Mapping[int, int], masks: Sequence[Source]) -> str:
    """Replace values of 8-bit masks by those of the table; others stay."""
    return _for_each(f"m.point({_write_table(table)}).save(f)", masks)


def exchange_values(low: int, high: int, masks: Sequence[Source]) -> str:
    """Exchange the two values of binary masks of 8 bits or one."""
    table = _write_table({low: high, high: low})
    one_bit = _write_table({0: 255, 255: 0})  # as Pillow keeps what is read as 0 and 1
    return _for_each(f'm.point({one_bit} if m.mode == "1" else {table}).save(f)', masks)


def turn_files(turn: int, masks: Sequence[Source]) -> str:
    """Mirror or turn masks, as `turn_upright(mask, turn)` does; `turn` is 2..8."""
    return _for_each(f"m.transpose(Image.Transpose.{_TURNS[turn]}).save(f)", masks)


def move_files(dx: int, dy: int, masks: Sequence[Source]) -> str:
    """Move masks by pixels to the right and down; what comes in at the border is of value 0."""
    how = f"m.size, Image.Transform.AFFINE, (1, 0, {-dx}, 0, 1, {-dy})"
    return _for_each(f"m.transform({how}).save(f)", masks)


def resize_files(width: int, height: int, mask: Source) -> str:
    """Bring a mask to another size [pixels], without values between its values."""
    how = f"({width}, {height}), Image.Resampling.NEAREST"
    return _for_each(f"m.resize({how}).save(f)", [mask])


def flatten_files(color: int, masks: Sequence[Source]) -> str:
    """Lay masks on a colour, 0xRRGGBB, which pixels less than half opaque get; as RGB."""
    ground = f'Image.new("RGB", m.size, "#{color:06x}")'
    alpha = 'm.convert("RGBA").getchannel("A").point(lambda a: 255 * (a > 127))'
    how = f'b.paste(m.convert("RGBA").convert("RGB"), mask={alpha}), b.save(f)'
    return _for_each(f"[({how}) for b in [{ground}]]", masks)


def exchange_files(one: Source, other: Source) -> str:
    """Exchange two files."""
    aside = path_of(one).with_name(f"{one.name}.aside")
    steps = [("mv", one, aside), ("mv", other, one), ("mv", aside, other)]
    return " && ".join(command(*step) for step in steps)


def _write_table(table: Mapping[int, int]) -> str:
    """Write 256 values briefly: "[*range(0, 255), 1]"."""
    values = [table.get(value, value) for value in range(256)]
    runs = [
        [value for _, value in run]
        for _, run in groupby(enumerate(values), lambda place: place[1] - place[0])
    ]
    parts = [f"*range({run[0]}, {run[-1] + 1})" if len(run) > 1 else f"{run[0]}" for run in runs]
    return f"[{', '.join(parts)}]"


def _for_each(what: str, files: Sequence[Source]) -> str:
    code = (
        "import sys; from PIL import Image; "
        f"[(m.load(), {what}) for f in sys.argv[1:] for m in [Image.open(f)]]"
    )
    # the one that has Pillow
    found = shutil.which("python")
    is_own = found is not None and Path(found).resolve() == Path(sys.executable).resolve()
    return command("python" if is_own else sys.executable, "-c", code, *files)
