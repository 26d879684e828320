"""What the doctor may find: every code, how grave it is, and what it means.

In: a code, a message and files. Out: one finding. The table `CODES` is the list that the
documentation shows.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

from plainunet.data.problems import DataError

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
    files: tuple[Path, ...]
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
        files: Sequence[Path] = (),
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
    def faulty(self) -> set[Path]:
        """The files of all errors."""
        return {file for each in self.found if each.severity == "error" for file in each.files}
