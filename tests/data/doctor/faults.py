"""Every fault that is planted to see whether the doctor finds it."""

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from plainunet.data.doctor.diagnose import check
from plainunet.data.doctor.findings import Finding

from . import planting as p
from .farm import Copy, copy_set

_MOVED_IN_FRONT = "from the front or from behind, a car is its own mirror image"


@dataclass(frozen=True)
class Fault:
    """A kind of fault.

    Attributes:
        name: What it is called.
        planted: What is done, in words; `{}` stands for the magnitude.
        codes: What counts as found.
        plant: Does it.
        sizes: Half the magnitude, the nominal one and double; or the only one.
        in_parts: Whether the copy needs train/ and val/.
        by_group: Whether groups are named.
        is_whole: Whether the whole folder is at fault, so that chance changes little.
        as_nobody: Whether the doctor must do without the rights of the superuser.
        unseen: Why it cannot be seen in a set, by the set.
    """

    name: str
    planted: str
    codes: tuple[str, ...]
    plant: p.Plant
    sizes: tuple[float, ...] = (1,)
    in_parts: bool = False
    by_group: bool = False
    is_whole: bool = False
    as_nobody: bool = False
    unseen: Mapping[str, str] = field(default_factory=dict)

    @property
    def nominal(self) -> float:
        return self.sizes[-2:][0]


_ACROSS = ("duplicate-across-parts",)
_NEAR_ACROSS = ("near-duplicate-across-parts",)
_TEXT = b"Notes on this picture.\n"

FAULTS = [
    # files
    Fault("picture cut off", "{} % of its bytes lost", ("cut-off",), p.cut_off("image"), (5, 10, 20)),
    Fault("mask cut off", "{} % of its bytes lost", ("cut-off",), p.cut_off("mask"), (5, 10, 20)),
    Fault("picture of zero bytes", "", ("empty-file",), p.overwritten("image", b"")),
    Fault("mask of zero bytes", "", ("empty-file",), p.overwritten("mask", b"")),
    Fault(
        "text as picture",
        "a text file named like a picture",
        ("not-a-picture",),
        p.overwritten("image", _TEXT),
    ),
    Fault(
        "web page as mask",
        "an HTML file, as a failed download leaves it",
        ("not-a-picture",),
        p.overwritten("mask", b"<!DOCTYPE html><html>404</html>"),
    ),
    Fault(
        "suffix of another format",
        "PNG named .jpg, or JPEG named .png",
        ("wrong-extension",),
        p.wrong_suffix,
    ),
    Fault(
        "mask with another suffix",
        "TIFF named .png, or PNG named .gif",
        ("wrong-extension",),
        p.wrong_suffix_of_mask,
    ),
    Fault(
        "unknown suffix", "a picture renamed to .dat", ("no-picture",), p.unknown_suffix
    ),
    Fault(
        "damaged PNG picture",
        "{} bytes changed among its pixels",
        ("damaged",),
        p.damaged("image", ".png"),
        (2, 4, 8),
    ),
    Fault(
        "damaged PNG mask",
        "{} bytes changed among its pixels",
        ("damaged",),
        p.damaged("mask", ".png"),
        (2, 4, 8),
    ),
    Fault(
        "damaged JPEG picture",
        "{} bytes changed among its pixels",
        ("damaged",),
        p.damaged("image", ".jpg"),
        (2, 4, 8),
    ),
    Fault(
        "unreadable picture",
        "mode 000, looked at without the superuser's rights",
        ("not-readable",),
        p.unreadable,
        as_nobody=True,
    ),
    Fault("link to the folder above", "a folder that leads back", ("link-loop",), p.folder_loop),
    Fault("link to itself", "a picture that is a link to itself", ("link-loop",), p.file_loop),
    Fault("broken link", "a picture that is a link to nothing", ("missing-file",), p.broken_link),
    Fault(
        "bomb as picture",
        "a PNG of {0} x {0} pixels",
        ("too-large",),
        p.bomb("image"),
        (15000, 30000, 60000),
    ),
    Fault(
        "bomb as mask",
        "a PNG of {0} x {0} pixels",
        ("too-large",),
        p.bomb("mask"),
        (15000, 30000, 60000),
    ),
    Fault("name not UTF-8", "é in Latin-1, of both", ("name-not-utf8",), p.not_utf8),
    Fault(
        "animation as picture",
        "a GIF of {} frames",
        ("several-frames",),
        p.animation("image"),
        (2, 3, 6),
    ),
    Fault(
        "animation as mask", "a GIF of {} frames", ("several-frames",), p.animation("mask"), (2, 3, 6)
    ),
    Fault("stack as mask", "a TIFF of {} pages", ("several-frames",), p.stack, (2, 3, 6)),
    Fault("folder named like a picture", "", ("not-a-picture",), p.folder_like_picture),
    # pictures
    Fault(
        "transparent picture",
        "{} % of its pixels transparent",
        ("transparent",),
        p.transparent,
        (0.5, 1, 2),
    ),
    Fault(
        "dark 16-bit picture",
        "{} of 16 bits used, among 8-bit pictures",
        ("unused-depth", "mixed-depths"),
        p.twelve_bits,
        (12,),
    ),
    Fault(
        "not a number", "{} values of a float TIFF", ("not-finite",), p.not_a_number, (1, 2, 4)
    ),
    Fault(
        "float picture", "0.0 to 255.0 in a TIFF, among 8-bit pictures", ("mixed-depths",), p.floats
    ),
    Fault("extra bands", "a TIFF of {} bands", ("odd-channels",), p.five_bands, (5,)),
    Fault("channels first", "[C, H, W] in .npy", ("odd-channels",), p.leading_channels),
    Fault("64-bit integers", "in .npy", ("unusable-values",), p.long_integers),
    Fault(
        "thumbnail", "picture and mask {} times smaller", ("odd-size",), p.thumbnail, (2, 4, 8)
    ),
    Fault("blank picture", "all pixels the same", ("blank-picture",), p.blank),
    Fault(
        "EXIF orientation 3",
        "added to a picture; the mask fits it as stored",
        ("exif",),
        p.turned_by_exif(3),
    ),
    Fault(
        "EXIF orientation 6",
        "added to a picture; the mask fits it as stored",
        ("exif", "size-mismatch"),
        p.turned_by_exif(6),
    ),
    # masks on pictures
    Fault("swapped masks", "of two pictures of one size", ("swapped",), p.swapped),
    Fault(
        "all masks one further on",
        "each mask is the one of the picture before",
        ("swapped",),
        p.one_further_on,
        is_whole=True,
    ),
    Fault(
        "shifted mask",
        "by {} px along x, y or both (twice as much from 1500 px on)",
        ("shifted",),
        p.shifted,
        (4, 8, 16),
    ),
    Fault("mask mirrored left-right", "", ("flipped",), p.turned(np.fliplr)),
    Fault("mask mirrored top-bottom", "", ("flipped",), p.turned(np.flipud)),
    Fault(
        "mask turned by 90 degrees", "", ("flipped", "size-mismatch"), p.turned(np.rot90)
    ),
    Fault("inverted mask", "two classes exchanged", ("inverted",), p.inverted),
    Fault(
        "mask off in size",
        "{} px fewer rows, or more columns",
        ("size-mismatch",),
        p.resized(p.off_by),
        (1, 2),
    ),
    Fault(
        "mask of a lower resolution",
        "every {}. row and column",
        ("size-mismatch",),
        p.resized(p.at_a_fraction),
        (2, 4),
    ),
    # what masks hold
    Fault("mask as JPEG", "quality {}", ("lossy-mask",), p.saved_as_jpeg, (95, 90, 75)),
    Fault(
        "all masks as JPEG",
        "quality {}",
        ("lossy-mask",),
        p.all_saved_as_jpeg,
        (90,),
        is_whole=True,
    ),
    Fault(
        "smoothed mask",
        "made {} times smaller and large again, as PNG",
        ("lossy-mask", "stray-value", "many-values"),
        p.smoothed,
        (2, 4, 8),
    ),
    Fault("stray value", "77 in {} pixels", ("stray-value",), p.stray_value, (5, 10, 20)),
    Fault(
        "next class id",
        "K in {} pixels of one mask",
        ("rare-class", "stray-value"),
        p.next_id,
        (5, 10, 20),
    ),
    Fault(
        "255 against 1",
        "the other foreground value in {} masks",
        ("ambiguous-255",),
        p.another_255,
        (1, 2, 4),
    ),
    Fault(
        "mask scaled to 16 bits",
        "values times 257, or 65535 for 1",
        ("stray-value", "many-values", "not-a-mask"),
        p.scaled_to_16_bits,
    ),
    Fault("empty mask", "all of class 0", ("empty-mask",), p.empty),
    Fault("ignored mask", "all void", ("ignored-mask",), p.ignored),
    Fault("one class only", "all masks of class 0", ("one-class",), p.one_class, is_whole=True),
    Fault(
        "photo over a mask",
        "the picture saved under the mask's name",
        ("colored-mask", "not-a-mask", "many-values", "stray-value", "stray-color"),
        p.photo_over_mask,
    ),
    Fault("coloured mask", "a colour for each class, among ids", ("colored-mask",), p.coloured),
    Fault(
        "wrong legend colour",
        "00FF00 in {} % of a mask",
        ("stray-color",),
        p.wrong_color,
        (0.5, 1, 2),
    ),
    # partners
    Fault("missing mask", "", ("no-mask",), p.missing("mask")),
    Fault("missing picture", "", ("no-picture",), p.missing("image")),
    Fault("misspelt mask", "an x put into its name", ("no-mask", "no-picture"), p.misspelt),
    Fault(
        "two masks of one name",
        "another suffix",
        ("two-partners",),
        p.two_of_one_name("mask"),
    ),
    Fault(
        "two pictures of one name",
        "another suffix",
        ("two-partners",),
        p.two_of_one_name("image"),
    ),
    Fault(
        "picture beside the parts",
        "moved out of train/ or val/, with its mask",
        ("outside-of-parts",),
        p.outside_of_parts,
        in_parts=True,
    ),
    Fault("one picture only", "{} is left", ("too-few",), p.one_picture, is_whole=True),
    Fault("same mask twice", "copied to another picture", ("same-mask",), p.same_mask),
    Fault(
        "class only in validation",
        "removed from all training masks",
        ("class-not-in-training",),
        p.only_in_validation,
        in_parts=True,
    ),
    # copies
    Fault(
        "duplicate across the split", "the same file", _ACROSS, p.duplicate(True), in_parts=True
    ),
    Fault(
        "near duplicate across the split",
        "JPEG, quality {}",
        _NEAR_ACROSS,
        p.near_duplicate(True),
        (87, 75, 50),
        in_parts=True,
    ),
    Fault(
        "smaller copy across the split",
        "at {} of its size",
        _NEAR_ACROSS,
        p.smaller_duplicate,
        (0.75, 0.5, 0.25),
        in_parts=True,
    ),
    Fault(
        "group across the split",
        "one picture moved to val/",
        ("group-across-parts",),
        p.group_across,
        in_parts=True,
        by_group=True,
    ),
    Fault(
        "duplicate in one folder",
        "the same file",
        ("duplicate", "duplicate-across-groups"),
        p.duplicate(False),
    ),
    Fault(
        "near duplicate in one folder",
        "JPEG, quality {}",
        ("near-duplicate", "near-duplicate-across-groups"),
        p.near_duplicate(False),
        (87, 75, 50),
    ),
]
NAMES = {fault.name: fault for fault in FAULTS}


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
    data_root: Path, name: str, root: Path, fault: Fault | None = None, real: bool = False
) -> Copy:
    """Copy a set as a fault needs it."""
    parts, group = (fault.in_parts, fault.by_group) if fault else (False, False)
    return copy_set(data_root, name, root, parts, group, real)


def try_fault(fault: Fault, copy: Copy, size: float, seed: int) -> Outcome | str:
    """Plant a fault into a copy and look at it; or why this set cannot carry it."""
    random = np.random.default_rng([seed, *fault.name.encode(), *copy.known.name.encode()])
    planted = fault.plant(copy, random, size)
    if isinstance(planted, str):
        return planted
    return judge(fault, copy, planted)


def judge(fault: Fault, copy: Copy, planted: list[Path]) -> Outcome:
    """Look at a copy with a fault."""
    found = look_as_nobody(copy) if fault.as_nobody else check(copy.root, copy.config).findings
    touched = {*planted, *_partners(copy, planted)}
    hits = [
        each
        for each in found
        if each.code in fault.codes and (not planted or set(each.files) & set(planted))
    ]
    others = [
        each
        for each in found
        if each.severity != "note" and each not in hits and planted and not set(each.files) & touched
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
import ctypes, json, sys
class Head(ctypes.Structure):
    _fields_ = [("version", ctypes.c_uint32), ("pid", ctypes.c_int)]
class Sets(ctypes.Structure):
    _fields_ = [("effective", ctypes.c_uint32), ("permitted", ctypes.c_uint32),
                ("inheritable", ctypes.c_uint32)]
if sys.platform == "linux":
    # CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH: to read what modes forbid
    libc, head, sets = ctypes.CDLL(None), Head(0x20080522, 0), (Sets * 2)()
    assert libc.capget(ctypes.byref(head), sets) == 0
    sets[0].effective &= ~0b110
    sets[0].permitted &= ~0b110
    assert libc.capset(ctypes.byref(head), sets) == 0
from plainunet.config import DataConfig
from plainunet.data.doctor.diagnose import check
result = check(sys.argv[1], DataConfig(**json.loads(sys.argv[2])))
print(json.dumps(result.as_json()["findings"]))
"""


def look_as_nobody(copy: Copy) -> list[Finding]:
    """Look at a copy in a process that has given up the superuser's right to read everything."""
    said = json.dumps(copy.config.model_dump(exclude_defaults=True))
    command = [sys.executable, "-c", _LOOK, str(copy.root), said]
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
