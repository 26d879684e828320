"""Find the pairs of image and mask in a folder."""

import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import chain, pairwise, product
from os import cpu_count
from pathlib import Path
from unicodedata import normalize

from plainunet.config import DataConfig
from plainunet.dataset.annotations import (
    UnrelatedListError,
    find_below,
    pair_annotated,
    unread,
)
from plainunet.dataset.couples import find_couples, is_mask, which_in_cases
from plainunet.dataset.layouts import (
    MASK_WORD,
    PARTS,
    Key,
    Layout,
    Root,
    WhichFolderError,
    find_layout,
    find_part,
    folders_found,
    is_known,
    likely_truths,
    list_folder,
    rivals,
    shape_files,
    walk,
    without_companions,
)
from plainunet.dataset.lists import Pair as Pair
from plainunet.dataset.lists import find_lists, read_listed, read_parts
from plainunet.dataset.matching import (
    base_of,
    fit_all,
    join_classes,
    join_objects,
    match_names,
    split_names,
    which_of_one_class,
)
from plainunet.dataset.scenes import cut_scenes, pair_polygons, polygon_files
from plainunet.dataset.split import group_pairs
from plainunet.errors import Error
from plainunet.formats.image_files import decoding, open_encoded
from plainunet.formats.images import IMAGE_SUFFIXES
from plainunet.formats.problems import Change, DataError, as_problem, command, first_five
from plainunet.formats.shapes import class_names, is_shapes
from plainunet.formats.sources import (
    ImageSource,
    ObjectFiles,
    Page,
    Shapes,
    Source,
    files_of,
    path_of,
)
from plainunet.formats.tiff import find_slices
from plainunet.reporter import Collected, Reporter, silent
from plainunet.settings import with_dataset


def find_pairs(
    folder: Path,
    config: DataConfig | None = None,
    reporter: Reporter = silent,
    at_least: int = 2,
) -> list[Pair]:
    """Find all images and masks of a dataset; each slice of a stack is an image.

    A mask's stem equals its image's without a prefix or suffix that all masks or all images
    share ("_mask", "_1stHO", "mask_"; "_img" and "_mask"). Hidden files and files without an
    image's suffix are ignored.

    Args:
        folder: The dataset.
        config: Where images and masks are, if they cannot be found by name, and how images are
            grouped. Without `group_by`, a group is one image, Carvana's car, or the `group`
            column of a list.
        reporter: Receives notes on skipped files, and problems with single files, which are
            skipped if its `problem` does not raise.
        at_least: Minimum number of pairs.

    Returns:
        The pairs, sorted by the image's path.
    """
    config = config or DataConfig()
    group_by, masks = config.group_by, config.masks
    _require_folder(folder)
    if config.pairs is not None:
        if config.images is not None or masks is not None:
            raise Error("--pairs cannot be combined with --images or --masks.")
        listed = read_listed(folder, config, reporter)
    elif masks is not None and masks.lower().endswith((".json", ".csv")):
        listed = pair_annotated(folder, config, reporter)
    elif masks is not None and polygon_files(folder, masks):
        listed = pair_polygons(folder, config, reporter)
    else:
        listed, pattern = _search(folder, config, reporter)
        group_by = group_by or pattern
    found = group_pairs(listed, group_by)
    found = open_stacks(sorted(found, key=lambda pair: pair.image), reporter)
    found = cut_scenes(found, config, reporter)
    require_enough(folder, len(found), at_least)
    return found


_LOOKED_AT = 8  # masks among their images, to see that they are none by name only


def find_masks(folder: Path, images: Sequence[ImageSource]) -> list[ImageSource]:
    """Which images below a folder are the masks of a dataset, so that only the others are its own.

    None where no pairs are found, a mask's path does not say that it is one, or one next to its
    image looks like a photo: in doubt, a file is an image.
    """
    known = DataConfig(skip_unlabelled=True)
    try:
        pairs = find_pairs(folder, with_dataset(known, folder), Collected(), 1)
    except (OSError, ValueError):
        return []
    found = [(image, path_of(image)) for image in images]
    paired = {path for pair in pairs for path in files_of(pair.image)}
    masks = {path for pair in pairs for path in files_of(pair.mask)} - paired
    masks.intersection_update(path for _, path in found)
    if not all(MASK_WORD.search(str(path.relative_to(folder))) for path in masks):
        return []
    parents = {path.parent for path in paired}
    mixed = sorted(path for path in masks if path.parent in parents)
    if not all(map(is_mask, mixed[:: -(-len(mixed) // _LOOKED_AT) or 1])):  # cup_mask.jpg
        return []
    beside = {path.parent for path in masks} - parents
    return [
        image
        for image, path in found
        if path not in paired and (path in masks or path.parent in beside)
    ]


def require_enough(folder: Path, count: int, at_least: int = 2) -> None:
    """Refuse a dataset of too few pairs."""
    if count < at_least:
        raise DataError(
            f"{folder} holds {count} pair{'s' * (count != 1)} of image and mask; at least "
            f"{at_least} are needed, for training and validation. Add more.",
            "too-few",
        )


def _require_folder(folder: Path) -> None:
    if not folder.exists():
        raise FileNotFoundError(f"{folder} does not exist. Check the path of the dataset.")
    if not folder.is_dir():
        raise Error(f"{folder} is a file. Give the folder of the images and masks.")


class _Kept(Collected):
    """Buffers notes and problems of an attempt that may fail."""

    def problem(self, error: ValueError) -> None:
        self.problems.append(error)

    def hand_on(self, reporter: Reporter, notes: bool = True) -> None:
        for note in self.notes if notes else ():
            reporter.note(note)
        for problem in self.problems:
            reporter.problem(problem)


def _search(folder: Path, config: DataConfig, reporter: Reporter) -> tuple[list[Pair], str | None]:
    """Find pairs by folder names or annotation files, else by the contents of folders."""
    kept, pattern, settled = _Kept(), None, False
    listed: list[Pair] = []
    failed: ValueError | FileNotFoundError | None = None
    try:
        layout = find_layout(folder, config, kept)
        there = all(root.masks and any(walk(root.masks)) for root in layout.roots)
        settled = any(root.masks and not root.masks.is_dir() for root in layout.roots)
        is_searched = config.masks is None and (config.rle or not there)
        listed, unrelated = _annotated(folder, config, kept) if is_searched else ([], None)
        if not listed:
            try:
                listed = _in_folders(folder, layout, config, kept)
            except (ValueError, FileNotFoundError) as error:
                raise unrelated or error from None
            if unrelated:
                kept.note(unrelated.skipped)
            pattern = layout.group_by
            settled = settled or (bool(listed) and all(map(is_known, layout.roots)))
    except (ValueError, FileNotFoundError) as error:
        failed = error
    codes = {getattr(failed, "code", "")} if isinstance(failed, ValueError) else {"no-data"}
    open_masks = config.masks is None and (failed is None or codes == {"no-data"})
    if not listed and open_masks and polygon_files(folder, None):
        return pair_polygons(folder, config, reporter), None
    found = [part for each in kept.problems for part in getattr(each, "parts", (each,))]
    alone = sum(getattr(each, "code", "") == "no-mask" for each in found)
    named = config.images is not None or config.masks is not None
    if not named and not settled and len(listed) <= alone and codes == {"no-data"}:
        if not listed and (lists := find_lists(folder)):
            raise DataError(
                f"{folder}: no matching images and masks found by folder or file names.",
                "no-data",
                choices={f"{name} lists them": {"pairs": name} for name in lists},
            )
        roots = find_couples(folder, reporter)
        if roots:
            return _in_folders(folder, Layout(roots), config, reporter), None
        if not listed and (question := which_in_cases(folder)):
            raise question
    if not listed and codes == {"no-data"} and not named and (file := find_below(folder)):
        raise DataError(
            f"{folder}: {file} lists masks, but it is not where such files are searched. Check "
            f"its folder:\n$ {command('plainunet', 'check', file.parent)}",
            "no-data",
        )
    if not listed and codes == {"no-data"} and (text := unread(folder)):
        reporter.note(text)
    kept.hand_on(reporter, "which-folder" not in codes)
    if failed:
        raise failed
    return listed, pattern


def _annotated(
    folder: Path, config: DataConfig, reporter: Reporter
) -> tuple[list[Pair], UnrelatedListError | None]:
    """The pairs of annotation files; or the error of a list of other images."""
    try:
        return pair_annotated(folder, config, reporter), None
    except UnrelatedListError as error:
        return [], error


def _in_folders(folder: Path, layout: Layout, config: DataConfig, reporter: Reporter) -> list[Pair]:
    skip_unlabelled = config.skip_unlabelled
    images: dict[Key, Path] = {}
    files: dict[Key, Path] = {}
    shapes: dict[Key, Source] = {}
    for root in layout.roots:
        some_images, some_masks, some_shapes = _in_root(folder, root, reporter)
        images.update(some_images)
        files.update(some_masks)
        shapes.update(some_shapes)
    masks = join_objects(images, files, folder)
    if masks == files:
        _require_one_annotator(folder, files)
        if (classes := join_classes(images, files)) is None:
            which_of_one_class(folder, images, files)
        masks = {**(classes or files)}
    elif several := [each for each in masks.values() if isinstance(each, ObjectFiles)]:
        reporter.note(
            f"note: {len(several)} of {len(masks)} images have several masks, such as "
            f"{several[0]}: they are joined as objects of one class (if they are classes: --pairs)"
        )
    masks |= shapes
    parts = _parts(images, layout)
    there = {where for where, _ in masks}
    labelled = {key for key in images if key[0] in there}
    listed_parts = _listed_parts(folder, layout, images, parts, reporter)
    if listed_parts:
        known = match_names(images, masks, reporter=Collected(), folder=folder)
        labelled = known.keys() & listed_parts.keys()
        unlisted = {known[key] for key in known if key not in listed_parts}
        masks = {key: mask for key, mask in masks.items() if key not in unlisted}
        images = {key: path for key, path in images.items() if key in listed_parts}
        parts = listed_parts
    _leave_parts_aside(images, {parts[key] for key in labelled}, parts, reporter)
    if not images:
        raise _no_images(folder, layout.roots[0])
    kept = _Kept()
    joined = match_names(images, masks, False, skip_unlabelled, kept, folder)
    if config.masks is None:
        _require_no_equal(folder, layout.roots, len(joined) == len(images))
    kept.hand_on(reporter)
    if skip_unlabelled and len(joined) < len(images):
        reporter.note(f"{len(images) - len(joined)} images without a mask are skipped.")
    listed = [
        Pair(images[key], masks[mask], Path(*key).as_posix(), parts[key])
        for key, mask in joined.items()
    ]
    outside = [each for each in listed if each.part is None] if any(parts.values()) else []
    for each in outside:
        message = (
            f"{each.image} is outside of train/, val/ and test/, but other images are in them. "
            "Move it and its mask into one of these folders."
        )
        reporter.problem(DataError(message, "outside-of-parts", [each.image, each.mask]))
    return [each for each in listed if each.part is not None] if outside else listed


_ANNOTATOR = re.compile(
    r"(?i)(annotators?|annot|experts?|readers?|raters?|observers?|graders?)[ _-]?(\d+|[a-z])"
)


def _require_one_annotator(folder: Path, masks: Mapping[Key, Path]) -> None:
    """Ask which masks count if each annotator has a folder."""
    tops = sorted({path.parent for path in masks.values()})
    if len(tops) < 2 or not all(_ANNOTATOR.fullmatch(top.name) for top in tops):
        return
    raise DataError(
        f"{tops[0].parent} holds the masks of {len(tops)} annotators. Choose one.",
        "which-folder",
        choices={
            f"Those in {top.name}/ count": {"masks": top.relative_to(folder).as_posix()}
            for top in tops
        },
    )


def _listed_parts(
    folder: Path,
    layout: Layout,
    images: Mapping[Key, Path],
    parts: Mapping[Key, str | None],
    reporter: Reporter,
) -> dict[Key, str | None]:
    """Splits by lists of names; {} without. Each of several folders may have an ImageSets/."""
    tops = dict.fromkeys(root.images for root in layout.roots)
    has_parts = any(parts.values())
    with_sets = [top for top in tops if (top.parent / "ImageSets").is_dir()]
    if len(tops) == 1 or not with_sets:
        return read_parts(folder, layout.roots[0].images, images, has_parts, reporter)
    found = {**parts}
    for top in with_sets:
        own = {key: path for key, path in images.items() if top in path.parents}
        if listed := read_parts(folder, top, own, has_parts, reporter):
            found = {key: part for key, part in found.items() if key not in own} | listed
    return found


_Found = tuple[dict[Key, Path], dict[Key, Path], dict[Key, Source]]


def _in_root(folder: Path, root: Root, reporter: Reporter) -> _Found:
    """The images, mask files, and shape files, by key."""
    if root.masks is not None:
        if not root.masks.is_dir():
            raise _no_masks(folder, root)
        images = _by_key(root.images, root.part, "images", root.masks, reporter)
        masks = _by_key(root.masks, root.part, "masks", root.images, reporter)
        if root.images in root.masks.parents:
            images = _next_to_masks(images, masks, reporter)
        return images, masks, {} if masks else _shapes(root.masks, root.part, reporter)
    listed = _list(root.images, root.part, None, reporter)
    images, masks = _split_suffixes(listed, root.images)
    if not masks:
        images, masks = _split_kinds(folder, listed, reporter)
    if not masks:
        images = _each_once(listed, "files", reporter)
        images, masks = split_names(images)
    seen = [path for key, path in masks.items() if key not in images]
    if any(is_shapes(path.with_suffix(".json")) for path in seen):  # photos: 7.jpg, 7_1.jpg
        images, masks = _each_once(listed, "files", reporter), {}
    shapes = {} if masks else _shapes(root.images, root.part, reporter)
    if images and not masks and not shapes:
        raise _no_masks(folder, root)
    if masks:
        first = next(iter(masks.values()))
        reporter.note(f"Images and masks are in one folder; {first} is read as a mask.")
    return images, masks, shapes


def _next_to_masks(
    images: dict[Key, Path], masks: Mapping[Key, Path], reporter: Reporter
) -> dict[Key, Path]:
    """The images in the same folders as the masks, without flows/ next to masks/; or all."""
    there = {where for where, _ in masks}
    kept = {key: path for key, path in images.items() if key[0] in there}
    left = sorted({path.parent for key, path in images.items() if key not in kept})
    if kept and left:
        reporter.note(f"No masks are below these folders, so they are skipped: {first_five(left)}.")
    return kept or images


_PHOTOS = (".jpg", ".jpeg", ".heic", ".heif", ".avif", ".webp")


def _split_suffixes(
    files: Mapping[Key, Sequence[Path]], folder: Path
) -> tuple[dict[Key, Path], dict[Key, Path]]:
    """Separate images and masks that differ in their suffix only: 1.jpg and 1.png.

    Both are empty if most names occur once.
    """

    def kind(path: Path) -> str:
        suffix = path.suffix.lower()
        return path.suffix if is_written else _PHOTOS[0] if suffix in _PHOTOS else suffix

    several = [each for each in files.values() if len(each) > 1]
    is_written = False
    # 1.jpg and 1.jpeg, or 1.PNG and 1.png, by their contents
    is_written = any(len({*map(kind, each)}) == 1 for each in several)
    kinds = Counter(tuple(sorted(map(kind, each))) for each in several)
    if len(kinds) != 1 or kinds.total() * 2 < len(files):
        return {}, {}
    both = next(iter(kinds))
    if len(both) != 2 or len(set(both)) != 2:
        return {}, {}
    seen = [suffix for suffix in both if suffix in _PHOTOS]
    if is_written:
        seen = [kind(path) for path in several[0] if not is_mask(path)]
    if len(seen) != 1 and {each.lower() for each in both} <= {*_PHOTOS}:  # copies
        return {}, {}
    if len(seen) != 1:
        first = next(iter(files.values()))[0]
        star = "*/" * (len(first.relative_to(folder).parts) - 1) + "*"
        lines = "".join(
            f"\n$ {command('plainunet', 'check', folder, '--pairs', f'{star}{one}:{star}{other}')}"
            for one, other in (both, both[::-1])
        )
        raise DataError(
            f"{folder} holds images and masks that differ only in their suffix, {both[0]} and "
            f"{both[1]}. Choose which are the images (named first):{lines}",
            "which-folder",
        )
    images: dict[Key, Path] = {}
    masks: dict[Key, Path] = {}
    for key, paths in files.items():
        for path in paths:
            (images if kind(path) in seen else masks)[key] = path
    return images, masks


def _split_kinds(
    folder: Path, listed: Mapping[Key, Sequence[Path]], reporter: Reporter
) -> tuple[dict[Key, Path], dict[Key, Path]]:
    """Separate images and masks by ending if each image has two or more other files.

    Raises:
        DataError: Several endings could be the masks'.
    """
    files = {path: key for key, paths in listed.items() for path in paths}
    owners: dict[str, dict[str, Path]] = defaultdict(dict)  # by ending, then by the rest
    for path in files:
        for match in re.finditer(r"(?<=.)[\W_]", path.name):
            before = f"{path.parent}/{path.name[: match.start()]}"
            owners[path.name[match.start() :]][before] = path
    sets = Counter(frozenset(own) for own in owners.values() if len(own) > 1)
    likely = sorted(sets, key=lambda each: -len(each) * sets[each])[:_MOST_SETS]
    # 7 of 7.png, 7_fg.png and 7_label.png; all end like the first
    fits = [[end for end, own in owners.items() if each <= own.keys()] for each in likely]
    endings, names = max(zip(fits, likely, strict=True), key=lambda f: len(f[0]), default=([], ()))
    if len(endings) < 3 or len(names) * len(endings) < 0.9 * len(files):
        return {}, {}
    samples = {ending: owners[ending][min(names)] for ending in endings}
    masks = [end for end in endings if MASK_WORD.search(end) or is_mask(samples[end])]
    images = [end for end in endings if end not in masks]
    images = [end for end in images if not _SHOWN.search(end)] or images
    masks = likely_truths(masks)
    shown = [samples[ending] for ending in (*images, *masks)]
    masks = _without_numbers(masks)
    if not images or not masks or len(images) > 1 < len(masks):  # several images, each with a mask
        return {}, {}
    if len(images) == len(masks) == 1 and len(shown) > 2:  # `join_objects` joins them
        return {}, {}
    if len(images) + len(masks) > 2:
        stars = "*/" * (len(samples[images[0]].relative_to(folder).parts) - 1)
        choices: dict[str, dict[str, object]] = {}
        for one, other in product(images, masks):
            flags = {"skip_unlabelled": True} if any(e.endswith(one) for e in masks) else {}
            patterns = f"{stars}*{one}:{stars}*{other}"
            choices[f"Images *{one}, masks *{other}"] = {"pairs": patterns, **flags}
        raise DataError(
            f"{samples[images[0]]} and others have several files that may be the image or the "
            f"mask. Choose: {'; '.join(choices)}.",
            "several-masks",
            shown,
            choices=choices,
        )
    image = images[0]
    left = [f"*{ending}" for ending in endings if ending not in (image, *masks)]
    reporter.note(f"Images are *{image}, masks *{masks[0]}; {first_five(left)} are skipped.")
    owned = [[owners[end][name] for name in sorted(names)] for end in (image, masks[0])]
    found = [{files[path]: path for path in paths} for paths in owned]
    return found[0], found[1]


def _without_numbers(endings: Sequence[str]) -> list[str]:
    """Replace endings that differ in a number only by their pattern: _mask*.png."""
    found: dict[tuple[str, str], list[str]] = defaultdict(list)
    for end in endings:
        stem, dot, suffix = end.rpartition(".")
        found[base_of(stem), f"{dot}{suffix}"].append(end)
    return [own[0] if len(own) == 1 else "*".join(key) for key, own in found.items()]


def _shapes(root: Path, prefix: str, reporter: Reporter) -> dict[Key, Source]:
    files = list(shape_files(root))
    if not files:
        return {}
    classes = class_names(files)
    reporter.note(f"Masks are read from {len(files)} files of shapes, such as {files[0]}.")
    found: dict[Key, Source] = {}
    for file in files:
        stem = Path(file.stem)  # Supervisely's are named 7.jpg.json
        name = stem.stem if stem.suffix.lower() in IMAGE_SUFFIXES else stem.name
        where = normalize("NFC", str(Path(prefix) / file.parent.relative_to(root)))
        found[where, normalize("NFC", name)] = Shapes(file, classes)
    return found


def _leave_parts_aside(
    images: dict[Key, Path],
    labelled: set[str | None],
    parts: Mapping[Key, str | None],
    reporter: Reporter,
) -> None:
    """Remove the images of a val or test split without any masks."""
    for part in sorted({"val", "test"} - labelled) if labelled else ():
        own = [key for key in images if parts[key] == part]
        if own:
            reporter.note(f"{len(own)} images of the {part} split have no masks and are skipped.")
            for key in own:
                del images[key]


def _require_no_equal(folder: Path, roots: Sequence[Root], has_all: bool) -> None:
    """Ask for a choice if another folder next to the masks matches all images too."""
    root, others = rivals(roots)
    if root.masks is None or (has_all and is_known(root)):
        return
    nobody = Collected()
    images = _by_key(root.images, "", "images", root.masks, nobody)
    equal = []
    for other in others:
        files = _by_key(other, "", "masks", None, nobody)
        if fit_all(images, files) and is_mask(next(iter(files.values()))):
            equal.append(other.name)
    if equal:
        raise WhichFolderError(folder, [root.masks.name, *equal], "--masks")


_MOST_SETS = 20
_SHOWN = re.compile("(?i)overlay|preview|vis")


def _no_images(folder: Path, root: Root) -> Error | FileNotFoundError:
    """Describe a folder of images without any."""
    if root.images == folder:
        return _no_masks(folder, root)
    there = {path.suffix.lower() for path in list_folder(root.images) if path.is_file()}
    others = f" It holds files ending in {' '.join(sorted(there - {''}))}." if there - {""} else ""
    others = " Its files have no suffix." if there == {""} else others
    suffixes = " ".join(sorted(IMAGE_SUFFIXES))
    return DataError(
        f"{root.images} holds no images (files ending in one of {suffixes}). Add some.{others}",
        "no-data",
    )


def _no_masks(folder: Path, root: Root) -> FileNotFoundError:
    flags = "Or give their location: --images, --masks, or --pairs"
    first = next(walk(folder, reporter=Collected()), None)
    if root.images == folder and first:
        return FileNotFoundError(
            f"{folder} holds images, such as {first}, but their folders and names do not tell "
            f"images from masks. Give their location: --images and --masks, or --pairs "
            f"'IMAGES/*.png:MASKS/*.png'. {folders_found(folder)}"
        )
    if root.images == folder:
        return FileNotFoundError(
            f"No images found in {folder}. Put them into images/, and masks of the same names "
            f"into masks/; or use train/ and train_masks/. {flags}. {folders_found(folder)}"
        )
    return FileNotFoundError(
        f"{root.images} has no masks: {root.masks or root.images.parent / 'masks'} does not "
        f"exist. Put masks there, named like their images. {flags}. "
        f"{folders_found(root.images.parent)}"
    )


def _by_key(
    root: Path, prefix: str, what: str, leave_out: Path | None, reporter: Reporter
) -> dict[Key, Path]:
    return _each_once(_list(root, prefix, leave_out, reporter), what, reporter)


def _list(
    root: Path, prefix: str, leave_out: Path | None, reporter: Reporter
) -> dict[Key, list[Path]]:
    found: dict[Key, list[Path]] = defaultdict(list)
    folders: dict[Path, str] = {}
    for path in without_companions(walk(root, leave_out, reporter)):
        above = path.parent
        if above not in folders:
            folders[above] = normalize("NFC", str(Path(prefix) / above.relative_to(root)))
        # files from a Mac often have decomposed letters (NFD)
        found[folders[above], normalize("NFC", path.stem)].append(path)
    return found


def _is_heic(path: Path) -> bool:
    return path.suffix.lower() in (".heic", ".heif")


def _set_aside(path: Path) -> Change:
    return Change("rename", (path,), (path.with_name(f"{path.name}.aside"),))


def _each_once(found: Mapping[Key, list[Path]], what: str, reporter: Reporter) -> dict[Key, Path]:
    """The first file of each name, HEIC last (it may lack a reader); the others are reported."""
    found = {key: sorted(paths, key=_is_heic) for key, paths in found.items()}
    twice = [
        DataError(
            f"{first} and {path} share their name; the first is used.",
            "two-partners",
            [first, path],
            # never move a mask away from its image
            _set_aside(path) if what == "images" else "",
        )
        for first, *others in found.values()
        for path in others
    ]
    if twice:
        files = [file for each in twice for file in each.files]
        problem = DataError(
            f"{len(files)} {what} share their name with another: {first_five(files)}. "
            "Keep one of each name, or define the pairs: --pairs '*.jpg:*.png'.",
            "two-partners",
            files,
            parts=twice,
        )
        reporter.problem(problem)
    return {key: paths[0] for key, paths in found.items()}


def _parts(images: Mapping[Key, Path], layout: Layout) -> dict[Key, str | None]:
    """Each image's split, from the first folder that is named after one."""
    above = len(Path(layout.roots[0].part).parts)
    several = len(layout.roots) > 1

    def find(where: str) -> str | None:
        parts = Path(where).parts
        here = map(find_part, parts[:above]) if several else ()
        below = (PARTS.get(name.lower()) for name in parts[above : above + 2])
        return next(filter(None, (*here, *below)), None)

    known = {where: find(where) for where, _ in images}
    return {key: known[key[0]] for key in images}


_BLOCKS = 10
_AT_ONCE = 256  # files per thread task, whose overhead exceeds the work for one file
_Count = int | ValueError | FileNotFoundError


def open_stacks(pairs: Sequence[Pair], reporter: Reporter = silent) -> list[Pair]:
    """Replace each pair of stacks by pairs of slices.

    The slices of a stack look alike, so they are one group. The only stack of a dataset is cut
    into up to ten groups of consecutive slices. Unreadable files stay, for `check_pairs` to
    report; a stack without a matching partner is reported.
    """
    sources = [source for pair in pairs for source in (pair.image, pair.mask)]
    paths = [source for source in sources if isinstance(source, Path) and _may_be_stack(source)]
    if not paths:
        return list(pairs)
    parts = [paths[start : start + _AT_ONCE] for start in range(0, len(paths), _AT_ONCE)]
    with ThreadPoolExecutor(min(8, cpu_count() or 1)) as pool:
        found = pool.map(lambda part: [_count_slices(path) for path in part], parts)
        counts: dict[Source, _Count] = dict(zip(paths, chain.from_iterable(found), strict=True))
    opened: list[Pair] = []
    alone = _stack_alone(pairs, counts)
    for pair in pairs:
        try:
            count = _common_count(pair, counts)
        except (ValueError, FileNotFoundError) as error:
            reporter.problem(as_problem(error, pair.image, pair.mask))
            continue
        if count < 2:
            opened.append(pair)
            continue
        groups = _blocks(pair.group, count) if pair is alone else [pair.group] * count
        image, mask = path_of(pair.image), path_of(pair.mask)
        opened += [
            replace(pair, image=Page(image, index), mask=Page(mask, index), group=group)
            for index, group in enumerate(groups)
        ]
        if pair is alone:
            reporter.note(
                f"{pair.image} is the only stack; its {count} slices are divided into "
                f"{len(set(groups))} blocks of consecutive slices. Adjacent training and "
                "validation slices look alike (data leakage), so scores will be somewhat better "
                "than on another stack."
            )
    return opened


def open_slices(images: Sequence[ImageSource]) -> list[ImageSource]:
    """Replace each stack by its slices; other images and unreadable files stay."""
    opened: list[ImageSource] = []
    for path in images:
        if isinstance(path, Path) and _may_be_stack(path):
            count = _count_slices(path)
            if isinstance(count, int) and count > 1:
                opened += [Page(path, number) for number in range(count)]
                continue
        opened.append(path)
    return opened


def _may_be_stack(path: Path) -> bool:
    return path.suffix.lower() in (".tif", ".tiff")


def _count_slices(path: Path) -> _Count:
    try:
        with open_encoded(path) as (kind, file), decoding(path):
            return find_slices(file, path).count if kind == "tiff" else 1
    except (ValueError, FileNotFoundError) as error:
        return error


def _common_count(pair: Pair, counts: dict[Source, _Count]) -> int:
    images, masks = counts.get(pair.image, 1), counts.get(pair.mask, 1)
    for own, other in ((images, masks), (masks, images)):
        # `check_pairs` reports what is wrong with files that are not stacks
        if isinstance(own, Exception) and isinstance(other, int) and other > 1:
            raise own
    if isinstance(images, Exception) or isinstance(masks, Exception):
        return 1
    if images == masks:
        return images
    if images > 1 and masks > 1:
        raise DataError(
            f"{pair.image} has {images} slices, its mask {pair.mask} has {masks}. "
            "Save both with one page per slice, in the same order.",
            "several-frames",
        )
    both: tuple[Source, Source] = pair.image, pair.mask
    stack, single = both if images > 1 else both[::-1]
    count = max(images, masks)
    what = "a slice" if isinstance(single, Page) else "a single image"
    raise DataError(
        f"{stack} is a stack of {count} slices, its partner {single} is {what}. Save the "
        f"partner as a TIFF stack of {count} slices, or name one slice: '{stack}[0]'.",
        "several-frames",
    )


def _stack_alone(pairs: Sequence[Pair], counts: dict[Source, _Count]) -> Pair | None:
    """The only pair of stacks, which training and validation must share."""
    not_test = [pair for pair in pairs if pair.part != "test"]
    if len(not_test) != 1 or not_test[0].part == "val":
        return None
    count = counts.get(not_test[0].image)
    return not_test[0] if isinstance(count, int) and count > 1 else None


def _blocks(group: str, count: int) -> list[str]:
    blocks = min(_BLOCKS, count)
    borders = [count * block // blocks for block in range(blocks + 1)]
    return [
        f"{group} {start}-{end - 1}" if end - start > 1 else f"{group} {start}"
        for start, end in pairwise(borders)
        for _ in range(start, end)
    ]
