"""Find the folders of a dataset that hold the images and the masks."""

import filecmp
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from plainunet.config import FolderConfig
from plainunet.errors import Error
from plainunet.formats.images import IMAGE_SUFFIXES, UNREAD_SUFFIXES, read_image
from plainunet.formats.problems import Change, DataError, command, first_five
from plainunet.formats.shapes import is_shapes
from plainunet.reporter import Reporter, silent

Key = tuple[str, str]  # folder below the root, and stem, both in NFC
Files = Mapping[Key, Path]
PARTS = {
    **dict.fromkeys(("train", "training", "trn"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "val"),
    **dict.fromkeys(("test", "testing", "eval"), "test"),
}
IMAGE_FOLDERS = ("images", "image", "imgs", "img")
"""Names of folders that hold images."""
_PLAIN_MASKS = ("masks", "mask", "labels", "label")
_MASKS = (*_PLAIN_MASKS, "annotations", "ann")
# of tools and datasets: images, masks (the first that exists), split
_KNOWN = (
    ("jpegimages", ("segmentationclasspng", "segmentationclass"), ""),  # VOC, labelme2voc, CVAT
    ("leftimg8bit", ("gtfine", "gtcoarse"), ""),  # Cityscapes
    ("imagestr", ("labelstr",), "train"),  # nnU-Net
    ("imagests", ("labelsts",), "test"),
)
# endings of masks, and of other files that tools write for the same image
_COMPANIONS = (
    (r"_cp_masks", r"_seg|_flows?|_cp_(flows?|outlines|output|prob)|_outlines?"),  # cellpose
    (r"_labelTrainIds", r"_(labelIds|color|instanceIds|instanceTrainIds)"),  # Cityscapes
    (r"_labelIds", r"_(color|instanceIds)"),
    (r"^label", r"^label_viz"),  # labelme
    (r"_masks", r"_seg\.npy|_flows|_outlines"),  # cellpose
    (r"_Simple Segmentation", r"_Probabilities|_Uncertainty|_Features"),  # ilastik
    (r"_cutout", r"_cutout|_pseudo"),  # EISeg's, next to 7.png
    (r"ISIC_\d+", r"_superpixels"),  # ISIC's, next to the images
)
VARIES = re.compile(
    r"(?<![a-z])(?:(?<![A-Z])[A-Za-z]\. ?)?"  # a. Training Set
    r"(?i:train(?:ing)?(?:[ _-]?val)?|trn|val(?:id(?:ation)?)?|dev|eval|test(?:ing)?)"
    r"(?![a-z])(?:_v\d+)?|\d+"
)
"""Where names of folders of splits, patients and sequences differ."""
_NO_DATA = (".", "@eaDir", "@Recycle", "#recycle", "__MACOSX")
_DEEPEST = 4
_MOST_VALUES = 64  # in a mask; images have more
_MOST_DIFFERENT = 0.03  # of the variance, between small copies of an image
_BRIGHTNESS = np.array((0.299, 0.587, 0.114), np.float32)
_BESIDE = ("{}_masks", "{}annot", "{}_labels")  # Kaggle's and CamVid's for images in train/
_ENDINGS = tuple(IMAGE_SUFFIXES)
_UNREAD = tuple(UNREAD_SUFFIXES)
_COPY = re.compile(r"( \(\d+\)| - (Copy|Kopie)( \(\d+\))?| copy( \d+)?)$", re.IGNORECASE)
"""What browsers and file managers add to the name of a copy."""
_LETTERS = re.compile(r"[^\W\d_]+")
_THING = re.compile("(set|data|split|images?|imgs?|masks?|labels?)$")
_CAMEL = re.compile(r"(?<=[a-z])(?=[A-Z])")  # trainA is train_A
_TRAINVAL = re.compile(r"(?i)(?<![^\W\d_])train[ _-]?val(?![^\W\d_])")  # both, not split yet
_WORD = r"(?i)(?<![^\W\d_])(?:{})(?![^\W\d_])"
MASK_WORD = re.compile(
    _WORD.format(
        "masks?|labels?|gts?|seg|segmentation|annot|annotations?|ann|manual|ground[ _-]?truths?"
    )
)
_IMAGES = "images?|imgs?|inputs?|volumes?|sat|rgb|photos?|pictures?|orig|original|raw"
IMAGE_WORD = re.compile(_WORD.format(_IMAGES))
_SEMANTIC = re.compile(_WORD.format("semantics?"))
OBJECTS_WORD = re.compile(_WORD.format("objects?|instances?|panoptic|visibility"))
_GLUED = "(?:masks?|labels?|gts?|seg)?"
_RENDERED = re.compile(
    _WORD.format(
        f"{_GLUED}(?:colou?r(?:s|ed|i[sz]ed|[ _-]?maps?)?|rgb|vis|viz|"
        f"visual(?:s|i[sz](?:e|ed|ations?))?|overlays?|previews?){_GLUED}"
    )
)
_ASIDE = re.compile("(?i)(outline|contour|border|edge|instance|object)s?|boundar(y|ies)")
"""Of what masks/ is the union or the inside."""


@dataclass(frozen=True)
class Root:
    """A folder of images and one of masks, with the same subfolders."""

    images: Path
    masks: Path | None  # None if they may be in the image folder
    part: str = ""  # split, from the folder's name


@dataclass(frozen=True)
class Layout:
    """The folders of a dataset."""

    roots: tuple[Root, ...]
    group_by: str | None = None  # pattern of an image's group in its name


def find_layout(
    folder: Path, config: FolderConfig | None = None, reporter: Reporter = silent
) -> Layout:
    """Find the folders of images and masks, given in `config` or by known names.

    They may be in train/, val/ and test/. If no name is known, return `folder` itself, without a
    mask folder.
    """
    images, masks = (config.images, config.masks) if config else (None, None)
    if images is not None or masks is not None:
        names = [name for name in (images, masks) if name is not None]
        tops = [] if (folder / names[0]).is_dir() else _parts_with(folder, names)
        if tops:
            roots = [(_named(folder / top, images, masks, reporter), top) for top in tops]
            return Layout(tuple(Root(root.images, root.masks, top) for root, top in roots))
        return Layout((_named(folder, images, masks, reporter),))
    beside = [_beside(folder, pattern) for pattern in _BESIDE]
    try:
        plain = _plain(folder, reporter)
        above = _above(folder, reporter)
        if not (above or plain):  # data/train/, next to which data/data/ may be a copy
            inner = _folders(folder)
            alone = len(inner) == 1 and not _has_images(folder)
            above = _above(folder / inner[0], reporter) if alone else ()
            above = above or _nested(folder, reporter)
    except WhichFolderError as error:
        # one choice for all splits
        if error.flag and all(_parts_with(folder, [name]) for name in error.names):
            raise WhichFolderError(folder, error.names, error.flag) from None
        raise
    fits = [found for found in (*beside, above, plain) if found]
    for each in fits:
        _require_no_copies(each)
    if len(fits) > 1:
        named = " and ".join(
            f"{found[0].images.relative_to(folder)}/ with {found[0].masks.relative_to(folder)}/"
            if found[0].masks
            else f"{found[0].images.relative_to(folder)}/"
            for found in fits
        )
        raise Error(
            f"{folder} holds both {named}. Move one of the two away, or choose the folders with "
            "--images and --masks."
        )
    if not fits:
        inner = _folders(folder)
        if len(inner) == 1 and not _has_images(folder):  # data/CamVid/train/, .../trainannot/
            with suppress(ValueError):
                found = find_layout(folder / inner[0], None, reporter)
                if any(root.masks for root in found.roots):
                    return found
        return Layout((Root(folder, None),))
    if fits[0] is plain:
        _note_unused(folder, plain, reporter)
    several = len(fits[0]) > 1 and all(map(is_tracked, fits[0]))
    return Layout(fits[0], "[^_]+" if beside[0] else "^(.+)/[^/]+$" if several else None)


def _note_unused(folder: Path, used: Sequence[Root], reporter: Reporter) -> None:
    """Name folders of images and masks beside those that are used: batch2/images/."""
    tops = {
        path.relative_to(folder).parts[0]
        for root in used
        for path in (root.images, root.masks)
        if path
    }
    for name in _folders(folder):
        with suppress(ValueError, OSError):
            if name not in tops and any(root.masks for root in _plain(folder / name, silent)):
                reporter.note(
                    f"{folder / name} holds images and masks, too, which are not used. If they are "
                    "no copies, move the others into a folder beside it; to use it alone: "
                    f"{command('plainunet', 'check', folder / name)}"
                )


def find_part(name: str) -> str | None:
    """Return the split in a name such as "instances_val2017"; None if there is not exactly one."""
    if _TRAINVAL.search(name):
        return "train"
    words = {_part_of(word.lower()) for word in _LETTERS.findall(_CAMEL.sub(" ", name))}
    words -= {None}
    return words.pop() if len(words) == 1 else None


def _part_of(word: str) -> str | None:
    """The split that a word names: train, trainset or trainimages."""
    return PARTS.get(word) or PARTS.get(_THING.sub("", word))


def walk(root: Path, leave_out: Path | None = None, reporter: Reporter = silent) -> Iterator[Path]:
    """List the images below a folder, recursively and without hidden ones.

    Args:
        root: The folder.
        leave_out: A folder below it to skip.
        reporter: Receives link loops, unreadable folders, and folders named like images; they are
            skipped if its `problem` does not raise.

    Yields:
        The files, folder by folder, sorted by name within each.
    """

    def report_closed(error: OSError) -> None:
        if isinstance(error, PermissionError):
            problem = DataError(
                f"{error.filename} cannot be opened ({error.strerror}). Check its permissions.",
                "not-readable",
                [Path(error.filename)],
                command("chmod", "u+rx", error.filename),
            )
            reporter.problem(problem)

    seen = set()
    unread: list[Path] = []
    copies: list[Path] = []
    for name, folders, files in os.walk(root, onerror=report_closed, followlinks=True):
        real = os.path.realpath(name)
        if real in seen:
            problem = DataError(
                f"{name} is a link back to {real}. Remove the link.",
                "link-loop",
                [Path(name)],
                Change("unlink", (_link_in(Path(name), root),)),
            )
            reporter.problem(problem)
            folders.clear()
            continue
        seen.add(real)
        here = Path(name)
        folders[:] = sorted(
            each for each in folders if not each.startswith(_NO_DATA) and here / each != leave_out
        )
        for each in folders:
            if Path(each).suffix.lower() in IMAGE_SUFFIXES:
                problem = DataError(
                    f"{here / each} is a folder named like an image. Rename or remove it.",
                    "not-an-image",
                    [here / each],
                    Change("rename", (here / each,), (here / Path(each).stem,)),
                )
                reporter.problem(problem)
        again = _copied(here, files)
        copies += [here / each for each in sorted(again)]
        for each in sorted(set(files) - again):
            if each.startswith("."):
                continue
            if each.lower().endswith(_ENDINGS):
                yield here / each
            elif each.lower().endswith(_UNREAD):
                unread.append(here / each)
    if unread:
        kinds = " ".join(sorted({each.suffix.lower() for each in unread}))
        reporter.note(
            f"{len(unread)} files below {root} are skipped, since {kinds} is not supported: "
            f"{first_five(unread)}. Save them as PNG or TIFF."
        )
    if copies:
        reporter.note(f"Skipped copies of other files in their folder: {first_five(copies)}.")


def _copied(folder: Path, files: Iterable[str]) -> set[str]:
    """Names such as "a (1).png" and "a - Copy.png" whose file is that of a.png."""
    known = set(files)
    found = set()
    for name in known:
        suffix = Path(name).suffix
        original = _COPY.sub("", name.removesuffix(suffix)) + suffix
        if original != name and original in known:
            with suppress(OSError, ValueError):
                same = filecmp.cmp(folder / name, folder / original, shallow=False)
                if same and np.ptp(read_image(folder / name)):  # two empty masks are no copies
                    found.add(name)
    return found


def without_companions(paths: Iterable[Path]) -> list[Path]:
    """Drop files that tools write next to their masks: colours, contours, instances."""
    left = list(paths)
    for mask, others in _COMPANIONS:
        if any(re.search(f"{mask}$", path.stem) for path in left):
            other = re.compile(f"({others})$")
            left = [p for p in left if not (other.search(p.stem) or other.search(p.name))]
    return left


def shape_files(root: Path) -> Iterator[Path]:
    """List labelme's and Supervisely's files below a folder, one per image."""
    for name, folders, files in os.walk(root):
        folders[:] = sorted(each for each in folders if not each.startswith(_NO_DATA))
        for each in sorted(files):
            if each.lower().endswith(".json") and not each.startswith("."):
                path = Path(name) / each
                if is_shapes(path):
                    yield path


def _link_in(path: Path, root: Path) -> Path:
    """The first link on a path below a folder."""
    above = [each for each in path.parents if root in each.parents]
    return next((each for each in (path, *above) if each.is_symlink()), path)


def folders_found(folder: Path) -> str:
    """List up to ten subfolders for an error message."""
    names = [f"{name}/" for name in _folders(folder)]
    more = f" and {len(names) - 10} more" if len(names) > 10 else ""
    return f"Folders found: {', '.join(names[:10]) or 'none'}{more}."


def list_folder(folder: Path) -> list[Path]:
    """List a folder; one that may not be opened is empty here, and reported by `walk`."""
    try:
        return [*folder.iterdir()]
    except PermissionError:
        return []


def _folders(folder: Path) -> list[str]:
    return sorted(
        each.name
        for each in list_folder(folder)
        if not each.name.startswith(_NO_DATA) and each.is_dir()
    )


def _beside(folder: Path, pattern: str) -> tuple[Root, ...]:
    if not (folder / "train").is_dir() or not (folder / pattern.format("train")).is_dir():
        return ()
    # Kaggle's test/ has no masks
    return tuple(
        Root(folder / part, folder / pattern.format(part), part)
        for part in PARTS
        if (folder / part).is_dir() and (part != "test" or (folder / pattern.format(part)).is_dir())
    )


def _tracked(folder: Path, reporter: Reporter) -> tuple[Root, ...]:
    """The Cell Tracking Challenge: 01/ with 01_GT/SEG/; 01_GT/TRA/ holds markers only."""
    names = [name.removesuffix("_GT") for name in _folders(folder) if name.endswith("_GT")]
    roots = [Root(folder / name, folder / f"{name}_GT" / "SEG", name) for name in names]
    roots = [root for root in roots if root.images.is_dir() and root.masks and root.masks.is_dir()]
    computed = [folder / f"{root.part}_ST" / "SEG" for root in roots]
    if computed := [each for each in computed if each.is_dir()]:
        reporter.note(
            f"{first_five(computed)}: these masks are computed; those in _GT/ are used. To use "
            "the computed ones: --pairs '*/t*.tif:*_ST/SEG/man_seg*.tif'"
        )
    return tuple(roots)


def is_tracked(root: Root) -> bool:
    """Whether the images are frames of a sequence, named as in the Cell Tracking Challenge."""
    return root.masks is not None and root.masks.parent.name == f"{root.images.name}_GT"


def _plain(folder: Path, reporter: Reporter) -> tuple[Root, ...]:
    if tracked := _tracked(folder, reporter):
        return tracked
    names = {name.lower(): name for name in _folders(folder)}
    known = []
    for images, all_masks, part in _KNOWN:
        masks = next((names[each] for each in all_masks if each in names), None)
        if images in names and part == "test" and masks is None:
            reporter.note(f"{folder / names[images]} has no masks and is skipped.")
        elif images in names:
            known.append(_root(folder, names[images], masks, part))
    if known:
        return tuple(known)
    image_folder = _one_of(folder, IMAGE_FOLDERS, "--images")
    mask_folder = _one_of(folder, _MASKS, "--masks", reporter) if image_folder else None
    # images_png/ with masks_png/, 2_Ortho_RGB/ with 5_Labels_all/
    if image_folder is None:
        mask_folder = _worded(folder, MASK_WORD, IMAGE_WORD)
        if mask_folder is None:
            return ()
        # the only other folder with images, or with one for each mask: not dsm/ next to top/
        others = [n for n in _folders(folder) if n != mask_folder and _has_images(folder / n)]
        others = others or [n for n in _folders(folder) if _is_twice(folder / n, mask_folder)]
        if len(others) > 1:
            stems = {n: {each.stem for each in walk(folder / n)} for n in _folders(folder)}
            others = [n for n in others if stems[mask_folder] <= stems[n]]
        image_folder = _worded(folder, IMAGE_WORD, MASK_WORD)
        if len(others) == 1 and others[0].lower() not in PARTS:
            image_folder = others[0]
    elif mask_folder is None:
        mask_folder = _worded(folder, MASK_WORD, IMAGE_WORD)
    if image_folder is None:
        return ()
    further = () if mask_folder is None else _numbered(folder, image_folder, mask_folder)
    return (_root(folder, image_folder, mask_folder), *further)


def _numbered(folder: Path, images: str, masks: str) -> tuple[Root, ...]:
    """Further folders of images and masks with the same number: imgs2/ and masks2/."""
    names = _folders(folder)
    ends = [name.removeprefix(images) for name in names if name.startswith(images)]
    return tuple(
        Root(folder / f"{images}{end}", folder / f"{masks}{end}", end)
        for end in ends
        if re.fullmatch(r"[ _-]?\d+", end) and f"{masks}{end}" in names
    )


def _root(folder: Path, images: str, masks: str | None, part: str = "") -> Root:
    if masks is None:
        return Root(folder / images, None, part)
    below = folder / masks
    # annotations/trimaps/ for images/
    inner = _folders(below)
    if not _has_images(below):
        inner = [name for name in inner if _has_images(below / name)]
        inside = len(inner) == 1 and inner[0].lower() not in PARTS
        if inside and not (folder / images / inner[0]).is_dir():
            below /= inner[0]
    return Root(folder / images, below, part)


def _has_images(folder: Path) -> bool:
    return any(
        each.suffix.lower() in IMAGE_SUFFIXES and each.name[0] != "."
        for each in list_folder(folder)
    )


def _is_twice(folder: Path, masks: str) -> bool:
    """Whether it holds images in a folder of the same name, as Kaggle's archives unpack."""
    inner = folder / folder.name
    return folder.name != masks and inner.is_dir() and _has_images(inner)


def _worded(folder: Path, word: re.Pattern[str], other: re.Pattern[str]) -> str | None:
    """The only folder whose name has `word` and not `other`; or None."""
    fits = [
        name
        for name in _folders(folder)
        if word.search(name) and not other.search(name) and next(walk(folder / name), None)
    ]
    if word is MASK_WORD and len(fits) > 1:
        fits = likely_truths(fits)
        alike = len({VARIES.sub("", name) for name in fits}) == 1  # GT_01 and GT_02
        if len(fits) > 1 and not alike and not any(map(find_part, fits)):
            answers = [name for name in fits if _has_images_for(folder, name)]
            if len(answers) != 1:
                raise WhichFolderError(folder, answers or fits, "--masks" if answers else None)
            fits = answers
    return fits[0] if len(fits) == 1 else None


def _nested(folder: Path, reporter: Reporter, above: str = "") -> tuple[Root, ...]:
    """Images and masks in deeper folders: Train/Urban/images_png/, ID/images/."""
    if _has_images(folder):
        return ()
    found = [*_below(folder, reporter, above)]
    roots = [root for root in found if root.masks]
    aside = [root.images for root in found if not root.masks and find_part(root.part) != "test"]
    if roots and aside:
        reporter.note(f"Skipped folders without masks: {first_five(aside)}.")
    return tuple(roots)


def _below(folder: Path, reporter: Reporter, above: str, depth: int = 1) -> Iterator[Root]:
    for name in _folders(folder) if depth <= _DEEPEST else ():
        part = f"{above}{name}/"
        found = _plain(folder / name, reporter if depth == 1 else silent)
        yield from (replace(each, part=part + each.part) for each in found)
        if not found:
            yield from _below(folder / name, reporter, part, depth + 1)


def _require_no_copies(roots: Sequence[Root]) -> None:
    """Ask for a choice if folders such as PNG/ and TIF/ hold the same images."""
    same: dict[tuple[str | None, frozenset[str]], list[tuple[frozenset[str], Root]]] = {}
    splits = Counter(find_part(root.part) for root in roots)
    for root in (root for root in roots if splits[find_part(root.part)] > 1):
        files = [f for f in list_folder(root.images) if f.suffix.lower() in IMAGE_SUFFIXES]
        names = frozenset(file.stem for file in files)
        if len(names) > 1:
            suffixes = frozenset(file.suffix.lower() for file in files)
            same.setdefault((find_part(root.part), names), []).append((suffixes, root))
    copies = next(filter(None, map(_copies, same.values())), None)
    if not copies:
        return
    above = Path(os.path.commonpath([root.images for root in copies]))
    tops = [above / root.images.relative_to(above).parts[0] for root in copies]
    checks = "".join(f"\n$ {command('plainunet', 'check', top)}" for top in tops)
    raise DataError(
        f"{first_five(tops)} hold images of the same names in several formats. Choose one:{checks}",
        "which-folder",
    )


def _copies(roots: Sequence[tuple[frozenset[str], Root]]) -> list[Root]:
    """Those whose images another one has in another format, one for each format."""
    if len({suffixes for suffixes, _ in roots}) < 2:
        return []
    small = [_small(root.images) for _, root in roots]
    found = {
        kind: root
        for (kind, root), own in zip(roots, small, strict=True)
        for (other_kind, _), other in zip(roots, small, strict=True)
        if kind != other_kind and own and len(own) == len(other) and all(map(_alike, own, other))
    }
    return [*found.values()]


_Small = tuple[tuple[int, ...], NDArray[np.float32]]


def _small(folder: Path) -> list[_Small]:
    """Size and a small grey version of two images of a folder; [] if they cannot be read."""
    files = [f for f in list_folder(folder) if f.suffix.lower() in IMAGE_SUFFIXES]
    found: list[_Small] = []
    for file in (min(files, key=lambda f: f.stem), max(files, key=lambda f: f.stem)):
        try:
            image = read_image(file)
        except (ValueError, OSError):
            return []
        channels = image.reshape(*image.shape[:2], -1)[..., :3].astype(np.float32)
        # JPEG keeps brightness better than the channels
        grey = channels @ _BRIGHTNESS if channels.shape[2] == 3 else channels[..., 0]
        small = cv2.resize(grey, (32, 32), interpolation=cv2.INTER_AREA)
        found.append((grey.shape, np.asarray(small, np.float32)))
    return found


def _alike(one: _Small, other: _Small) -> bool:
    """Whether two images are the same but for compression and the range of values."""
    first, second = ((grey - grey.mean()) / (grey.std() or 1) for _, grey in (one, other))
    return one[0] == other[0] and bool(np.square(first - second).mean() < _MOST_DIFFERENT)


def _above(folder: Path, reporter: Reporter) -> tuple[Root, ...]:
    # train/images/ with train/masks/
    roots = []
    deeper = []
    for name in filter(find_part, _folders(folder)):
        found = _plain(folder / name, reporter)
        deeper += [] if found else [name]
        for root in found:
            if root.masks is not None or find_part(name) != "test":
                roots.append(Root(root.images, root.masks, name))
    for name in deeper if roots else ():  # val/CITY/images/ next to train/images/
        roots += _nested(folder / name, reporter, f"{name}/")
        if find_part(name) not in {find_part(root.part.partition("/")[0]) for root in roots}:
            _report_unpaired(folder / name, roots[0].part, reporter)
    for name in _folders(folder) if roots else ():
        others = [] if find_part(name) else [r for r in _plain(folder / name, silent) if r.masks]
        if others:
            renamed = Change("rename", (folder / name,), (folder / f"train_{name}",))
            message = (
                f"{folder / name} holds images and masks too, but it is next to {roots[0].part}/ "
                f"and its name is no split's. Rename it train_{name} to train on it, or move it "
                "away."
            )
            reporter.problem(DataError(message, "outside-of-parts", [folder / name], renamed))
    labelled = [root for root in roots if root.masks]
    aside = [root for root in roots if not root.masks and find_part(root.part) != "train"]
    if not labelled or not aside:
        return tuple(roots)
    names = ", ".join(str(root.images) for root in aside)
    reporter.note(f"Skipped folders without masks: {names}.")
    return tuple(root for root in roots if root not in aside)


def _report_unpaired(split: Path, other: str, reporter: Reporter) -> None:
    if next(walk(split), None) is None:
        return
    message = f"{split} holds images, but no folders of images and masks as {other}/ does"
    # val_predictions/ is no split
    if find_part(split.name) == "test" or split.name.lower() not in PARTS:
        reporter.note(f"{message}; it is skipped.")
        return
    message = f"{message}. Arrange and name them as there, or move it away."
    reporter.problem(DataError(message, "outside-of-parts", [split]))


def _one_of(
    folder: Path, words: Sequence[str], flag: str, reporter: Reporter = silent
) -> str | None:
    names = _folders(folder)
    fits = [name for name in names if name.lower() in words]
    # the exact name wins over its variants
    fits = [name for name in fits if name.lower() == words[0]] or fits
    if len(fits) > 1:
        raise WhichFolderError(folder, fits, flag)
    if not fits:
        return None
    others = [
        name
        for name in names
        if name != fits[0]
        and name.lower().rstrip("0123456789 _-") not in (*PARTS, *IMAGE_FOLDERS)
        and not re.fullmatch(rf"{re.escape(fits[0])}[ _-]?\d+", name)
        and any(each.suffix.lower() in IMAGE_SUFFIXES for each in list_folder(folder / name))
    ]
    if others:
        reporter.note(
            f"Masks are read from {folder / fits[0]}, not from "
            f"{', '.join(f'{o}/' for o in others)} (to use these: {flag} {others[0]})."
        )
    return fits[0]


def likely_truths(names: Iterable[str]) -> list[str]:
    """Drop names of renderings, and of objects next to the only semantic masks."""
    words = {name: _CAMEL.sub(" ", name) for name in names}
    left = [name for name in words if not _RENDERED.search(words[name])] or [*words]
    semantic = [name for name in left if _SEMANTIC.search(words[name])]
    if len(semantic) == 1:
        left = [name for name in left if name in semantic or not OBJECTS_WORD.search(words[name])]
    return left


def is_known(root: Root) -> bool:
    """Whether the names are those of a known tool or dataset."""
    return is_tracked(root) or any(root.images.name.lower() == images for images, _, _ in _KNOWN)


def rivals(roots: Sequence[Root]) -> tuple[Root, list[Path]]:
    """The first root to train on, and other folders that may hold the masks, next to its.

    Each exists next to the masks of all roots to train on: DRIVE's test/ holds only the masks of
    the field of view.
    """
    trained = [root for root in roots if find_part(root.part) == "train"]
    root, *others = trained or roots
    if root.masks is None or is_tracked(root):
        return root, []
    used = {path for each in roots for path in (each.images, each.masks)}
    above = root.masks.parent
    all_above = [(each.masks or each.images).parent for each in others]
    names = [
        name
        for name in _folders(above)
        if above / name not in used
        and name.lower() not in PARTS
        and all((each / name).is_dir() for each in all_above)
    ]
    if root.masks.name.lower() in _PLAIN_MASKS:
        names = [name for name in names if not _ASIDE.fullmatch(name)]
    likely = likely_truths([root.masks.name, *names])
    return root, [above / name for name in names if name in likely]


class WhichFolderError(DataError):
    """Several folders, `names`, could be meant; `flag` chooses one, if that is enough."""

    def __init__(self, folder: Path, names: Sequence[str], flag: str | None) -> None:
        """Suggest a command for each."""
        self.names, self.flag = names, flag
        found = f"{folder} holds {' and '.join(f'{name}/' for name in names)}"
        if flag is None:
            message = (
                f"{found}, but no images of these masks were found by name. Choose both with "
                "--images and --masks, or list the pairs in a CSV file with the columns "
                f"image,mask: --pairs list.csv. {folders_found(folder)}"
            )
        else:
            checks = [command("plainunet", "check", folder, flag, name) for name in names]
            message = f"{found}. Choose one:" + "".join(f"\n$ {check}" for check in checks)
        super().__init__(message, "which-folder")


def _parts_with(folder: Path, names: Sequence[str], depth: int = 1) -> list[str]:
    """The subfolders, such as train/, that contain all of these folders."""
    found = []
    for top in _folders(folder) if depth <= _DEEPEST else ():
        if all((folder / top / name).is_dir() for name in names):
            found.append(top)
        else:
            below = _parts_with(folder / top, names, depth + 1)
            found += [f"{top}/{name}" for name in below]
    return found


def _named(folder: Path, images: str | None, masks: str | None, reporter: Reporter) -> Root:
    for name, flag in ((images, "--images"), (masks, "--masks")):
        if name is not None and not (folder / name).is_dir():
            raise FileNotFoundError(
                f"{flag} {name}: {folder / name} does not exist. {folders_found(folder)}"
            )
    if images is None:
        known = [name for name in _folders(folder) if is_known(Root(folder / name, None))]
        images = known[0] if len(known) == 1 else _one_of(folder, IMAGE_FOLDERS, "--images")
        images = images or _worded(folder, IMAGE_WORD, MASK_WORD)
        others = [n for n in _folders(folder) if n != masks and next(walk(folder / n), None)]
        # rawimages/ next to visualized_groundtruth/
        plain = [name for name in others if not MASK_WORD.search(name)]
        photos = (name for name in others if not _RENDERED.search(name))
        others = plain or [name for name in photos if _shows_photos(folder / name)]
        images = images or (others[0] if len(others) == 1 else None)
    elif masks is None:
        beside = [pattern.format(images) for pattern in _BESIDE]
        there = [name for name in beside if (folder / name).is_dir()]
        masks = there[0] if there else _one_of(folder, _MASKS, "--masks", reporter)
    if images is None:
        raise FileNotFoundError(
            f"No images found in {folder}; choose their folder with --images. "
            f"{folders_found(folder)}"
        )
    same = masks is None or (folder / masks).samefile(folder / images)
    return Root(folder / images, None if same or masks is None else folder / masks)


def _shows_photos(folder: Path) -> bool:
    """Whether the first image of a folder has more values than a mask."""
    with suppress(ValueError, OSError, StopIteration):
        return len(np.unique(read_image(next(walk(folder))))) > _MOST_VALUES
    return False


def _has_images_for(folder: Path, masks: str) -> bool:
    """Whether the folder of the images follows from that of the masks."""
    try:
        images = _named(folder, None, masks, silent).images
    except (ValueError, FileNotFoundError):
        return False
    return _has_images(images) or {*_folders(folder / masks)} == {*_folders(images)}
