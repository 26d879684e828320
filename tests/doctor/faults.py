"""Every fault that is planted to see whether the doctor finds it."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from . import plant_files as f
from . import plant_masks as m
from . import plant_pairs as p
from .farm import Plant


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
        has_cure: Whether the finding's command mends it, or leaves the files out.
        unseen: Why it cannot be seen in a set, by the set.
    """

    name: str
    planted: str
    codes: tuple[str, ...]
    plant: Plant
    sizes: tuple[float, ...] = (1,)
    in_parts: bool = False
    by_group: bool = False
    is_whole: bool = False
    as_nobody: bool = False
    has_cure: bool = True
    unseen: Mapping[str, str] = field(default_factory=dict)

    @property
    def by_chance(self) -> bool:
        """Whether it is found by measuring, so that some may be missed."""
        return bool({"exif", "swapped", "shifted", "flipped", "inverted", *_NEAR} & {*self.codes})

    @property
    def nominal(self) -> float:
        return self.sizes[-2:][0]


_ACROSS = ("duplicate-across-parts",)
_NEAR_ACROSS = ("near-duplicate-across-parts",)
_NEAR = (*_NEAR_ACROSS, "near-duplicate", "near-duplicate-across-groups")
_JPEG = ("carvana", "camvid", "dubai_aerial", "dubai_color", "carrotweed", "chasedb1")
_TEXT = b"Notes on this picture.\n"

FAULTS = [
    # files
    Fault(
        "picture cut off", "{} % of its bytes lost", ("cut-off",), f.cut_off("image"), (5, 10, 20)
    ),
    Fault("mask cut off", "{} % of its bytes lost", ("cut-off",), f.cut_off("mask"), (5, 10, 20)),
    Fault(
        "picture of zero bytes",
        "overwritten with nothing",
        ("empty-file",),
        f.overwritten("image", b""),
    ),
    Fault(
        "mask of zero bytes",
        "overwritten with nothing",
        ("empty-file",),
        f.overwritten("mask", b""),
    ),
    Fault(
        "text as picture",
        "a text file named like a picture",
        ("not-a-picture",),
        f.overwritten("image", _TEXT),
    ),
    Fault(
        "web page as mask",
        "an HTML file, as a failed download leaves it",
        ("not-a-picture",),
        f.overwritten("mask", b"<!DOCTYPE html><html>404</html>"),
    ),
    Fault(
        "suffix of another format",
        "PNG named .jpg, or JPEG named .png",
        ("wrong-extension",),
        f.wrong_suffix,
    ),
    Fault(
        "mask with another suffix",
        "TIFF named .png, or PNG named .gif",
        ("wrong-extension",),
        f.wrong_suffix_of_mask,
    ),
    Fault("unknown suffix", "a picture renamed to .dat", ("no-picture",), f.unknown_suffix),
    Fault(
        "damaged PNG picture",
        "{} bytes changed among its pixels",
        ("damaged",),
        f.damaged("image", ".png"),
        (2, 4, 8),
    ),
    Fault(
        "damaged PNG mask",
        "{} bytes changed among its pixels",
        ("damaged",),
        f.damaged("mask", ".png"),
        (2, 4, 8),
    ),
    Fault(
        "damaged JPEG picture",
        "{} bytes changed among its pixels",
        ("damaged",),
        f.damaged("image", ".jpg"),
        (2, 4, 8),
        unseen=dict.fromkeys(_JPEG, "a JPEG file has no checksum: its decoder goes on"),
    ),
    Fault(
        "unreadable picture",
        "mode 000, looked at without the superuser's rights",
        ("not-readable",),
        f.unreadable,
        as_nobody=True,
    ),
    Fault(
        "unreadable folder",
        "a folder of mode 000 with a picture in it",
        ("not-readable",),
        f.closed_folder,
        as_nobody=True,
    ),
    Fault("link to the folder above", "a folder that leads back", ("link-loop",), f.folder_loop),
    Fault("link to itself", "a picture that is a link to itself", ("link-loop",), f.file_loop),
    Fault("broken link", "a picture that is a link to nothing", ("missing-file",), f.broken_link),
    Fault(
        "bomb as picture",
        "a PNG of {} pixels a side",
        ("too-large",),
        f.bomb("image"),
        (15000, 30000, 60000),
    ),
    Fault(
        "bomb as mask",
        "a PNG of {} pixels a side",
        ("too-large",),
        f.bomb("mask"),
        (15000, 30000, 60000),
    ),
    Fault(
        "name not UTF-8",
        "picture and mask renamed, with é in Latin-1",
        ("name-not-utf8",),
        f.not_utf8,
    ),
    Fault(
        "animation as picture",
        "a GIF of {} frames",
        ("several-frames",),
        f.animation("image"),
        (2, 3, 6),
    ),
    Fault(
        "animation as mask",
        "a GIF of {} frames",
        ("several-frames",),
        f.animation("mask"),
        (2, 3, 6),
    ),
    Fault("stack as mask", "a TIFF of {} pages", ("several-frames",), f.stack, (2, 3, 6)),
    Fault(
        "folder named like a picture",
        "an empty folder beside the pictures",
        ("not-a-picture",),
        f.folder_like_picture,
    ),
    # pictures
    Fault(
        "transparent picture",
        "{} % of its pixels transparent",
        ("transparent",),
        f.transparent,
        (0.5, 1, 2),
    ),
    Fault(
        "dark 16-bit picture",
        "{} of 16 bits used, among 8-bit pictures",
        ("unused-depth", "mixed-depths"),
        f.twelve_bits,
        (12,),
    ),
    Fault("not a number", "{} values of a float TIFF", ("not-finite",), f.not_a_number, (1, 2, 4)),
    Fault(
        "float picture", "0.0 to 255.0 in a TIFF, among 8-bit pictures", ("mixed-depths",), f.floats
    ),
    Fault("extra bands", "a TIFF of {} bands", ("odd-channels",), f.five_bands, (5,)),
    Fault("channels first", "[C, H, W] in .npy", ("odd-channels",), f.leading_channels),
    Fault("64-bit integers", "int64 in .npy", ("unusable-values",), f.long_integers),
    Fault("thumbnail", "picture and mask {} times smaller", ("odd-size",), f.thumbnail, (2, 4, 8)),
    Fault("blank picture", "all pixels the same", ("blank-picture",), f.blank),
    Fault(
        "EXIF orientation 3",
        "added to a picture; the mask fits it as stored",
        ("exif",),
        f.turned_by_exif(3),
    ),
    Fault(
        "EXIF orientation 6",
        "added to a picture; the mask fits it as stored",
        ("exif", "size-mismatch"),
        f.turned_by_exif(6),
    ),
    # masks on pictures
    Fault("swapped masks", "of two pictures of one size", ("swapped",), m.swapped),
    Fault(
        "neighbours swapped",
        "masks of two pictures that follow each other",
        ("swapped",),
        m.neighbours_swapped,
    ),
    Fault(
        "all masks one further on",
        "each mask is the one of the picture before",
        ("swapped",),
        m.one_further_on,
        is_whole=True,
        has_cure=False,
    ),
    Fault(
        "shifted mask",
        "by {} px along x, y or both (twice as much from 1500 px on)",
        ("shifted",),
        m.shifted,
        (4, 8, 16),
    ),
    Fault("mask mirrored left-right", "one mask", ("flipped",), m.turned(np.fliplr)),
    Fault("mask mirrored top-bottom", "one mask", ("flipped",), m.turned(np.flipud)),
    Fault(
        "mask turned by 90 degrees", "one mask", ("flipped", "size-mismatch"), m.turned(np.rot90)
    ),
    Fault("inverted mask", "its two classes exchanged", ("inverted",), m.inverted),
    Fault(
        "mask off in size",
        "{} px fewer rows, or more columns",
        ("size-mismatch",),
        m.resized(m.off_by),
        (1, 2),
    ),
    Fault(
        "mask of a lower resolution",
        "only every {}th row and column",
        ("size-mismatch",),
        m.resized(m.at_a_fraction),
        (2, 4),
    ),
    # what masks hold
    Fault(
        "mask as JPEG", "saved as .jpg, quality {}", ("lossy-mask",), m.saved_as_jpeg, (95, 90, 75)
    ),
    Fault(
        "all masks as JPEG",
        "saved as .jpg, quality {}",
        ("lossy-mask",),
        m.all_saved_as_jpeg,
        (90,),
        is_whole=True,
        has_cure=False,
    ),
    Fault(
        "smoothed mask",
        "made {} times smaller and large again, as PNG",
        ("lossy-mask", "stray-value", "many-values"),
        m.smoothed,
        (2, 4, 8),
    ),
    Fault("stray value", "77 in {} pixels", ("stray-value",), m.stray_value, (5, 10, 20)),
    Fault(
        "next class id",
        "the number of classes, in {} pixels of one mask",
        ("rare-class", "stray-value"),
        m.next_id,
        (5, 10, 20),
    ),
    Fault(
        "255 against 1",
        "the other foreground value in {} masks",
        ("ambiguous-255",),
        m.another_255,
        (1, 2, 4),
    ),
    Fault(
        "mask scaled to 16 bits",
        "values times 257, or 65535 for 1",
        ("stray-value", "many-values", "not-a-mask"),
        m.scaled_to_16_bits,
    ),
    Fault("empty mask", "all of class 0", ("empty-mask",), m.empty),
    Fault("ignored mask", "all void", ("ignored-mask", "stray-color"), m.ignored),
    Fault(
        "one class only",
        "all masks of class 0",
        ("one-class",),
        m.one_class,
        is_whole=True,
        has_cure=False,
    ),
    Fault(
        "photo over a mask",
        "the picture saved under the mask's name",
        ("colored-mask", "not-a-mask", "many-values", "stray-value", "stray-color"),
        m.photo_over_mask,
    ),
    Fault("coloured mask", "a colour for each class, among ids", ("colored-mask",), m.coloured),
    Fault(
        "wrong legend colour",
        "00FF00 in {} % of a mask",
        ("stray-color",),
        m.wrong_color,
        (0.5, 1, 2),
    ),
    # partners
    Fault("missing mask", "one mask removed", ("no-mask",), p.missing("mask")),
    Fault("missing picture", "one picture removed", ("no-picture",), p.missing("image")),
    Fault("misspelt mask", "an x put into its name", ("no-mask", "no-picture"), p.misspelt),
    Fault(
        "two masks of one name",
        "the same with another suffix",
        ("two-partners",),
        p.two_of_one_name("mask"),
    ),
    Fault(
        "two pictures of one name",
        "the same with another suffix",
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
    Fault(
        "one picture only", "{} is left", ("too-few",), p.one_picture, is_whole=True, has_cure=False
    ),
    Fault("same mask twice", "one mask copied over another", ("same-mask",), p.same_mask),
    Fault(
        "class only in validation",
        "removed from all training masks",
        ("class-not-in-training",),
        p.only_in_validation,
        in_parts=True,
    ),
    # copies
    Fault(
        "duplicate across the split",
        "picture and mask copied under another name",
        _ACROSS,
        p.duplicate(True),
        in_parts=True,
    ),
    Fault(
        "near duplicate across the split",
        "a copy saved as JPEG, quality {}",
        _NEAR_ACROSS,
        p.near_duplicate(True),
        (87, 75, 50),
        in_parts=True,
    ),
    Fault(
        "smaller copy across the split",
        "a copy at {} of its width",
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
        "picture and mask copied under another name",
        ("duplicate", "duplicate-across-groups"),
        p.duplicate(False),
    ),
    Fault(
        "near duplicate in one folder",
        "a copy saved as JPEG, quality {}",
        _NEAR[1:],
        p.near_duplicate(False),
        (87, 75, 50),
    ),
]
NAMES = {fault.name: fault for fault in FAULTS}
