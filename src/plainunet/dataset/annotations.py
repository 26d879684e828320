"""Find the pairs of image and mask in COCO and run-length files."""

import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from unicodedata import normalize

from plainunet.config import FolderConfig
from plainunet.dataset.layouts import IMAGE_FOLDERS, PARTS, find_part, folders_found, list_folder
from plainunet.dataset.lists import ImagePool, Pair, has_images, with_parts
from plainunet.errors import Error
from plainunet.formats import coco, rle
from plainunet.formats.images import IMAGE_SUFFIXES, image_size
from plainunet.formats.legends import is_legend
from plainunet.formats.problems import DataError, command, first_five
from plainunet.formats.shapes import holds_image, is_shapes
from plainunet.formats.sources import CocoImage, RleImage, Source
from plainunet.reporter import Reporter
from plainunet.text import plural

_MOST_FILES = 200  # that are looked at below a folder
_UNREAD = (".txt", ".xml", ".h5", ".hdf5", ".svg", ".mat")
_START = 65536  # bytes that tell the kind of a file
# of the VGG Image Annotator, V7, xView2, ISAT, Kili and others
_OTHER_JSON = re.compile(
    rb'"(shape_attributes|polygons?|bounding_box|boundingPoly|points|wkt)"\s*:|"ISAT"'
)
_OTHER_CSV = b"region_shape_attributes"
_WRITE_IMAGES = (
    "import base64, json, pathlib; [open(f.with_suffix('.jpg'), 'xb').write(base64."
    "b64decode(d['imageData'])) for f in pathlib.Path({folder!r}).rglob('*.json') for d in "
    "[json.loads(f.read_bytes())] if 'shapes' in d and d['imageData']]"
)


def name_file(folder: Path, masks: str) -> Path:
    """Find an annotation file by its path, relative to the dataset or the working directory."""
    path = folder / masks
    path = path if path.exists() else Path(masks)
    if not path.is_file():
        raise FileNotFoundError(
            f"--masks {masks}: no such file, in {folder} or here. Check its name."
        )
    return path


def find_files(folder: Path, note: Callable[[str], None]) -> Iterator[Path]:
    """Find annotation files in a dataset, its `annotations/` and its splits.

    Skipped files are noted, with the reason.
    """
    below = sorted(each for each in list_folder(folder) if each.is_dir())
    places = [each for each in below if each.name.lower() == "annotations" or find_part(each.name)]
    inner = [list_folder(each) for each in places]
    # train/annotations/
    places += [each for each in chain(*inner) if each.name.lower() == "annotations"]
    # annotations/LIVECell/
    inner = [list_folder(each) for each in below if each.name.lower() == "annotations"]
    places += sorted(each for each in chain(*inner) if each.is_dir())
    for place in (folder, *places):
        with os.scandir(place) as entries:
            names = sorted(
                each.name
                for each in entries
                if each.name.lower().endswith((".json", ".csv")) and not each.name.startswith(".")
            )
        taken = [file for file in (place / name for name in names) if _is_annotations(file)]
        # COCO's folder also holds captions and key points of the same images
        instances = [file for file in taken if file.name.startswith("instances_")]
        # Kaggle's sample submission
        chosen = [file for file in instances or taken if "submission" not in file.stem.lower()]
        aside = [file for file in taken if file not in chosen]
        if aside:
            note(
                f"Skipped next to {chosen[0] if chosen else folder}: {first_five(aside)}. To use "
                f"one: --masks {aside[0].relative_to(folder).as_posix()}"
            )
        if not chosen:
            others = [name for name in names if not (is_shapes(place / name) or is_legend(name))]
            # Supervisely's; and those in `unread`
            others = [name for name in others if name != "meta.json"]
            others = [name for name in others if not _is_unread(place / name)]
            for name in others[:3]:
                note(f"No masks are read from {place / name}: {_why_not(place / name)}")
        yield from chosen


def find_below(folder: Path) -> Path | None:
    """A COCO file in a deeper folder than those that are searched, with images beside or below."""
    files = (file for file in sorted(folder.rglob("*.json")) if file.name[0] != ".")
    return next((f for f in islice(files, _MOST_FILES) if coco.is_coco(f)), None)


def _why_not(file: Path) -> str:
    """The reason why a file holds no masks."""
    try:
        listed_names(file)
    except ValueError as error:
        return str(error)
    return "unknown kind of list."


def unread(folder: Path) -> str:
    """Message on annotations of an unsupported kind, or without their images; or ""."""
    files = sorted(folder.rglob("*.json"))
    if inside := next(filter(holds_image, files), None):
        write = command("python", "-c", _WRITE_IMAGES.format(folder=str(folder)))
        return (
            f"{inside} holds its image. Write such images to files, then check again:\n  $ {write}"
        )
    kinds: dict[str, list[Path]] = {}
    for path in sorted(folder.rglob("*")):
        if path.name[0] != "." and not is_legend(path.name) and _is_unread(path):
            kinds.setdefault(path.suffix.lower(), []).append(path)
    files = max(kinds.values(), key=len, default=[])
    if not files or (files[0].suffix.lower() == ".txt" and len(files) < 2):
        return ""
    return (
        f"{first_five(files)}: this annotation format is not supported. Export masks as PNG or "
        "COCO JSON."
    )


def _is_unread(path: Path) -> bool:
    """Whether a file looks like annotations of an unsupported kind."""
    suffix = path.suffix.lower()
    if suffix not in (".json", ".txt", ".csv"):
        return suffix in _UNREAD
    try:
        with path.open("rb") as file:
            start = file.read(_START)
    except OSError:
        return False
    if suffix == ".json":
        return bool(_OTHER_JSON.search(start)) and not (is_shapes(path) or coco.is_coco(path))
    if suffix == ".csv":
        return _OTHER_CSV in start
    # one word a line is a list of images
    return len(start.partition(b"\n")[0].split()) != 1


def _is_annotations(file: Path) -> bool:
    if not file.is_file():
        return False
    return rle.is_rle(file) if file.suffix.lower() == ".csv" else coco.is_coco(file)


def listed_names(file: Path) -> dict[str, CocoImage | None]:
    """The masks of a COCO file by image name; each is None for run-length codes in CSV."""
    if file.suffix.lower() == ".csv":
        return dict.fromkeys(rle.listed_names(file))
    return {**coco.listed_images(file)}


@dataclass(frozen=True)
class _Annotations:
    """An annotation file, and the images it may refer to."""

    file: Path
    names: Mapping[str, CocoImage | None]  # listed images, and their masks if already known
    pool: ImagePool


def pair_annotated(folder: Path, config: FolderConfig, reporter: Reporter) -> list[Pair]:
    """Find the images and masks of annotation files; none if there is no file.

    The file is `config.masks`; by default, files are searched for in the folder, its annotations/
    and the folders of its splits.
    """
    images, note = config.images, reporter.note
    if images is not None and not (folder / images).is_dir():
        raise FileNotFoundError(
            f"--images {images}: {folder / images} does not exist. {folders_found(folder)}"
        )
    files = [name_file(folder, config.masks)] if config.masks else list(find_files(folder, note))
    pools: dict[Path, ImagePool] = {}
    sources = []
    for file in files:
        names = listed_names(file)
        where = folder / images if images else _images_folder(folder, file)
        if where not in pools:
            pools[where] = ImagePool(where)
        sources.append(_Annotations(file, names, pools[where]))
    joined = _join(folder, sources, reporter)
    unlisted = _unlisted([source for source, _ in joined], joined, config, note)
    _require_same_classes([source.file for source, _ in joined])
    listed = []
    for source, found in joined:
        note(f"Masks of the images in {source.pool.folder} are read from {source.file}.")
        masks_of = _masks(source, found, config.rle, note)
        places: dict[str, tuple[str, str | None]] = {}
        for name, path in found.items():
            key = os.path.dirname(path)  # noqa: PTH120 (ten times as fast)
            if key not in places:
                places[key] = _place(folder, source.pool.folder, path.parent, source.file)
            above, part = places[key]
            group = _group(above, path, source.file)
            listed.append(Pair(path, masks_of[name], group, part))
    for path, source in unlisted.items():
        above, part = _place(folder, source.pool.folder, path.parent, source.file)
        mask = RleImage(source.file, path.name, *image_size(path), "empty")
        listed.append(Pair(path, mask, _group(above, path, source.file), part))
    return with_parts(listed)


def _images_folder(folder: Path, file: Path) -> Path:
    # a file from elsewhere refers to the folder's images
    base = file.parent if folder in (file.parent, *file.parent.parents) else folder
    if any(each.suffix.lower() in IMAGE_SUFFIXES for each in list_folder(base)):
        return base
    inside = base.relative_to(folder).parts
    above = [at for at, name in enumerate(inside) if name.lower() == "annotations"]
    base = folder.joinpath(*inside[: above[0]]) if above else base
    below = sorted(each for each in list_folder(base) if each.is_dir() and each.name[0] != ".")
    alike = [each for each in below if each.name.lower() in file.stem.lower()]
    alike.sort(key=lambda each: -len(each.name))
    usual = [each for each in below if each.name.lower() in IMAGE_FOLDERS]
    return next((each for each in (*alike, *usual, base) if has_images(each)), folder)


_Joined = list[tuple[_Annotations, dict[str, Path]]]


class UnrelatedListError(Error):
    """A table of run-length codes lists none of the images, which may have mask files."""

    def __init__(self, message: str, skipped: str) -> None:
        """Describe it as an error, and in a note if it is skipped."""
        super().__init__(message)
        self.skipped = skipped


def _join(folder: Path, sources: list[_Annotations], reporter: Reporter) -> _Joined:
    joined: _Joined = []
    owner: dict[Path, tuple[Path, str]] = {}
    unrelated = []
    for source in sources:
        found: dict[str, Path] = {}
        missing = []
        for name in source.names:
            path = source.pool.find(name, source.file.parent, folder)
            if path is None:
                missing.append(name)
            elif path in owner:
                raise _listed_twice(folder, path, [owner[path], (source.file, name)], sources)
            else:
                found[name] = path
                owner[path] = source.file, name
        if not found:
            unrelated.append(source)
            continue
        if missing:
            reporter.problem(_missing(source, missing))
        joined.append((source, found))
    for source in unrelated:
        skipped = (
            f"{source.file} is skipped: none of its {len(source.names)} images is in "
            f"{source.pool.folder}."
        )
        if not joined or not source.names:
            error = _missing(source, list(source.names))
            is_table = source.names and source.file.suffix.lower() == ".csv"
            raise UnrelatedListError(str(error), skipped) if is_table else error
        reporter.note(skipped)
    return joined


def _listed_twice(
    folder: Path,
    image: Path,
    lines: Sequence[tuple[Path, str]],
    sources: Sequence[_Annotations],
) -> DataError:
    (one, name), (other, other_name) = lines
    choices = {
        f"Only {each.file.relative_to(folder)} counts": {
            "masks": each.file.relative_to(folder).as_posix()
        }
        for each in sources
        if one != other and each.file.is_relative_to(folder)
    }
    return DataError(
        f"{image} is listed twice: as {name} in {one} and as {other_name} in {other}. "
        f"{'Choose a file.' if choices else 'Remove one of the two.'}",
        "two-partners",
        [one, other],
        choices=choices,
    )


def _missing(source: _Annotations, missing: list[str]) -> Error:
    if not missing:
        return Error(f"{source.file} lists no images. Export it again.")
    are = "is" if len(missing) == 1 else "are"
    return DataError(
        f"{source.file} lists {plural(len(source.names), 'image')}; {len(missing)} {are} not among "
        f"the {plural(len(source.pool.paths), 'image')} below {source.pool.folder}, or ambiguous: "
        f"{first_five(missing)}. Add them, remove them from the list, or choose the image folder: "
        "--images.",
        "missing-file",
        [source.file],
    )


def _unlisted(
    sources: Iterable[_Annotations],
    joined: _Joined,
    config: FolderConfig,
    note: Callable[[str], None],
) -> dict[Path, _Annotations]:
    """The unlisted images, whose masks are empty if `config.unlisted`."""
    empty: dict[Path, _Annotations] = {}
    listed = {path for _, found in joined for path in found.values()}
    for pool in dict.fromkeys(source.pool for source in sources):
        own = [source for source, _ in joined if source.pool is pool]
        files = [str(source.file) for source in own]
        alone = [path for path in pool.paths if path not in listed]
        if not alone:
            continue
        used = {path.parent for path in listed}
        # Kaggle's test folders have no masks
        left = {
            path
            for path in alone
            if path.parent not in used
            and any(find_part(each) == "test" for each in path.relative_to(pool.folder).parts[:-1])
        }
        if left:
            note(f"{len(left)} images of a test folder are not listed and are skipped.")
        alone = [path for path in alone if path not in left]
        by_rle = own[0].file.suffix.lower() == ".csv"
        if config.unlisted and by_rle and alone:
            note(f"{len(alone)} images that are not in {files[0]} get an empty mask.")
            empty |= dict.fromkeys(alone, own[0])
        elif config.skip_unlabelled and alone:
            note(f"{len(alone)} images that are not listed are skipped.")
        elif alone:
            empty_masks = {"Their masks are empty": {"unlisted": "empty"}} if by_rle else {}
            raise DataError(
                f"{len(alone)} of the {len(pool.paths)} images below {pool.folder} are not "
                f"listed in {first_five(files)}: {first_five(alone)}. Add them (without objects, "
                "if there are none), skip them (--skip-unlabelled), "
                + ("give them empty masks (--unlisted empty), " * by_rle)
                + "or choose the image folder (--images).",
                choices={**empty_masks, "Skip them": {"skip_unlabelled": True}},
            )
    return empty


def _require_same_classes(files: list[Path]) -> None:
    first: tuple[Path, tuple[str, ...]] | None = None
    for file in files:
        names = (rle if file.suffix.lower() == ".csv" else coco).class_names(file)
        first = first or (file, names)
        if names != first[1]:
            raise Error(
                f"The files have different classes: {first[0]} has {', '.join(first[1])}; "
                f"{file} has {', '.join(names)}. Use the same categories in all, or choose one "
                "file: --masks."
            )


def _masks(
    source: _Annotations, found: Mapping[str, Path], order: str | None, note: Callable[[str], None]
) -> dict[str, Source]:
    if source.file.suffix.lower() != ".csv":
        return {name: image for name, image in source.names.items() if image}
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        sizes = dict(zip(found, pool.map(image_size, found.values()), strict=True))
    return {**rle.listed_images(source.file, sizes, order, note)}


def _place(folder: Path, top: Path, above: Path, file: Path) -> tuple[str, str | None]:
    """The prefix of the groups of a folder's images, and their split."""
    whole, below = (os.path.relpath(above, each).replace(os.sep, "/") for each in (folder, top))
    found = (find_part(each) for each in (file.stem, *whole.split("/")))
    part = next(filter(None, found), None)
    names = [name for name in (part, normalize("NFC", below)) if name and name != "."]
    return "".join(f"{name}/" for name in names), part


def _group(above: str, path: Path, file: Path) -> str:
    stem = normalize("NFC", path.stem)
    before, masks, after = file.stem.lower().rpartition("_masks")
    if masks and not after and before in PARTS and file.suffix.lower() == ".csv":
        return stem.partition("_")[0] or stem  # Carvana: the car
    return f"{above}{stem}"
