"""Everything `check` may find: codes, severities, and the commands that fix them."""

import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

from plainunet.formats.problems import DataError, command
from plainunet.formats.sources import Source, path_of

Severity = Literal["error", "warning", "note"]


class Code(NamedTuple):
    """How grave a finding is, and what it means."""

    severity: Severity
    meaning: str


CODES: dict[str, Code] = {
    # the folder
    "no-data": Code("error", "there is no such folder, or nothing in it is paired"),
    "too-few": Code("error", "fewer than two pictures with masks"),
    "no-mask": Code("error", "a picture without a mask"),
    "no-picture": Code("error", "a mask without a picture"),
    "two-partners": Code("error", "two files of one name"),
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
    "transparent": Code("error", "a picture with pixels that are not opaque"),
    "not-finite": Code("error", "values that are infinite or not a number"),
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
    "overlapping-classes": Code("error", "pixels that belong to two classes"),
    "one-class": Code("error", "all masks hold the same single value"),
    "rare-class": Code("warning", "a class of a few pixels in a few masks: a slip?"),
    "empty-mask": Code("warning", "a mask without foreground, where the others have some"),
    "ignored-mask": Code("warning", "a mask of which every pixel is ignored"),
    "same-mask": Code("warning", "two pictures with the same mask"),
    "class-not-in-training": Code("warning", "a class that only validation or test shows"),
    # picture and mask
    "shifted": Code("warning", "a mask that fits once it is moved"),
    "flipped": Code("warning", "a mask that fits once it is mirrored or turned"),
    "exif": Code("warning", "a mask drawn on the picture before its EXIF rotation"),
    "swapped": Code("warning", "a mask that fits another picture"),
    "inverted": Code("warning", "a mask whose two classes are exchanged"),
    # copies
    "duplicate": Code("note", "a picture that is there twice, on one side of any split"),
    "duplicate-across-groups": Code("warning", "a picture twice, which a split may part"),
    "duplicate-across-parts": Code("warning", "a picture in training and in validation or test"),
    "near-duplicate": Code("note", "a picture saved anew, on one side of any split"),
    "near-duplicate-across-groups": Code("warning", "a picture saved anew, which a split may part"),
    "near-duplicate-across-parts": Code("warning", "the same, in training and in validation"),
    "group-across-parts": Code("warning", "a group in training and in validation or test"),
    "possible-groups": Code("note", "names that look as if pictures belonged together"),
    "not-listed": Code("note", "pictures that the folder's list does not name"),
}


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong, or worth knowing.

    Attributes:
        code: One of `CODES`.
        severity: How grave it is.
        message: What is wrong, with the file's name.
        files: The files.
        cure: A command that mends it.
        leaves_out: Whether that command leaves the files out, or joins copies, by a list.
    """

    code: str
    severity: Severity
    message: str
    files: tuple[Source, ...]
    cure: str
    leaves_out: bool = False

    def as_json(self) -> dict[str, Any]:
        """List it for machines.

        Returns:
            Its fields; bytes of names that are not UTF-8 as surrogates.
        """
        return {
            "code": self.code,
            "severity": self.severity,
            "message": self.message,
            "files": [str(file) for file in self.files],
            "cure": self.cure,
        }


class Findings:
    """Collects what is found, and knows the cure where the finder does not.

    Attributes:
        found: The findings, in the order in which they came up.
    """

    def __init__(self, check: str) -> None:
        """Begin.

        Args:
            check: The command that looks at this folder again, with its flags.
        """
        self.found: list[Finding] = []
        self._check = check

    def add(
        self,
        code: str,
        message: str,
        files: Sequence[Source] = (),
        cure: str = "",
        severity: Severity | None = None,
    ) -> None:
        """Note a finding.

        Args:
            code: One of `CODES`.
            message: What is wrong.
            files: The files.
            cure: A command that mends it, or flags that do; left out, a command that leaves
                the files out, or, of notes, none.
            severity: Left out, as grave as the code.
        """
        severity = severity or CODES[code].severity
        leaves_out = False
        if cure.startswith("--"):
            leaves_out = cure == "--write"
            cure = f"{self._check} {cure.removesuffix('--write').strip()} --write".replace(
                "  ", " "
            )
        elif not cure and severity != "note":
            # `check --write` leaves out what is an error anyway
            leave = f" --leave-out {code}" if severity == "warning" else ""
            cure = f"{self._check} --write{leave}"
            leaves_out = True
        self.found.append(Finding(code, severity, message, tuple(files), cure, leaves_out))

    def add_problem(self, problem: DataError) -> None:
        """Note an error that came up while files were read.

        Args:
            problem: The error.
        """
        code = problem.code if problem.code in CODES else "unclear"
        self.add(code, str(problem), problem.files, problem.cure)

    @property
    def faulty(self) -> set[Source]:
        """The files of all errors."""
        return {file for each in self.found if each.severity == "error" for file in each.files}


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
    """Replace values of 8-bit masks.

    Args:
        table: The new value of each old one; others stay.
        masks: The masks.

    Returns:
        The command.
    """
    return _for_each(f"m.point({_write_table(table)}).save(f)", masks)


def exchange_values(low: int, high: int, masks: Sequence[Source]) -> str:
    """Exchange the two values of binary masks of 8 bits or one.

    Args:
        low: One value.
        high: The other.
        masks: The masks.

    Returns:
        The command.
    """
    said = _write_table({low: high, high: low})
    one_bit = _write_table({0: 255, 255: 0})  # as Pillow keeps what is read as 0 and 1
    return _for_each(f'm.point({one_bit} if m.mode == "1" else {said}).save(f)', masks)


def turn_files(how: int, masks: Sequence[Source]) -> str:
    """Mirror or turn masks, as `turn_upright(mask, how)` does.

    Args:
        how: 2..8.
        masks: The masks.

    Returns:
        The command.
    """
    return _for_each(f"m.transpose(Image.Transpose.{_TURNS[how]}).save(f)", masks)


def move_files(dx: int, dy: int, masks: Sequence[Source]) -> str:
    """Move masks; what comes in at the border is of value 0.

    Args:
        dx: Pixels to the right.
        dy: Pixels down.
        masks: The masks.

    Returns:
        The command.
    """
    how = f"m.size, Image.Transform.AFFINE, (1, 0, {-dx}, 0, 1, {-dy})"
    return _for_each(f"m.transform({how}).save(f)", masks)


def resize_files(width: int, height: int, mask: Source) -> str:
    """Bring a mask to another size, without values between its values.

    Args:
        width: New width [pixels].
        height: New height [pixels].
        mask: The mask.

    Returns:
        The command.
    """
    how = f"({width}, {height}), Image.Resampling.NEAREST"
    return _for_each(f"m.resize({how}).save(f)", [mask])


def drop_orientation(picture: Path, kind: str) -> str:
    """Take the EXIF orientation out of a picture, so that it is shown as stored.

    Args:
        picture: The picture.
        kind: Its format, as of `find_kind`.

    Returns:
        The command.
    """
    keep = ", quality='keep'" if kind == "jpeg" else ""
    how = f"m.getexif().pop(274, 0), m.save(f, exif=m.getexif(){keep})"
    return _for_each(f"({how})", [picture])


def exchange_files(one: Source, other: Source) -> str:
    """Exchange two files.

    Args:
        one: A file.
        other: Another one.

    Returns:
        The command.
    """
    aside = path_of(one).with_name(f"{one.name}.aside")
    steps = [("mv", one, aside), ("mv", other, one), ("mv", aside, other)]
    return " && ".join(command(*step) for step in steps)


def _write_table(table: Mapping[int, int]) -> str:
    """Write 256 values shortly: "[*range(0, 255), 1]"."""
    values = [table.get(value, value) for value in range(256)]
    runs: list[str] = []
    start = 0
    while start < len(values):
        end = start + 1
        while end < len(values) and values[end] == values[end - 1] + 1:
            end += 1
        several = end - start > 1
        runs.append(
            f"*range({values[start]}, {values[end - 1] + 1})" if several else f"{values[start]}"
        )
        start = end
    return f"[{', '.join(runs)}]"


def _for_each(what: str, files: Sequence[Source]) -> str:
    code = (
        "import sys; from PIL import Image; "
        f"[(m.load(), {what}) for f in sys.argv[1:] for m in [Image.open(f)]]"
    )
    # the one that has Pillow
    found = shutil.which("python")
    is_own = found is not None and Path(found).resolve() == Path(sys.executable).resolve()
    return command("python" if is_own else sys.executable, "-c", code, *files)
