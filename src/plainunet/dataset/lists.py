"""Lists of pairs, and lookup of images by the names that lists use."""

import csv
import io
import itertools
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple, TypeVar
from unicodedata import normalize

from plainunet.config import FolderConfig
from plainunet.dataset.layouts import IMAGE_FOLDERS, PARTS, Key, find_part, list_folder, walk
from plainunet.dataset.matching import join_files, match_names
from plainunet.errors import Error
from plainunet.formats.images import IMAGE_SUFFIXES
from plainunet.formats.problems import DataError, first_five
from plainunet.formats.shards import require_no_shards
from plainunet.formats.sources import (
    HERE,
    ClassFiles,
    ImageSource,
    Source,
    files_of,
    parse_classes,
    parse_image,
    parse_source,
)
from plainunet.reporter import Reporter

_NEEDED = ("image", "mask")
_SUFFIX = re.compile(r"(?<=[^/])\.[^./]*$")
# names of columns, in lower case with _ between words, the best first; others are ignored
_COLUMNS = {
    "image": (
        *("image", "images", "image_path", "image_file", "image_name", "image_id", "img"),
        *("img_path", "input", "file_name", "filename", "file", "path"),
    ),
    "mask": (
        *("mask", "masks", "mask_path", "mask_file", "mask_file_name", "mask_name", "mask_id"),
        *("annotation", "target", "label_path", "label_file", "label", "labels"),
    ),
    "group": ("group", "patient", "patient_id", "case", "case_id", "subject", "subject_id"),
    "part": ("part", "split"),
}
_ABSOLUTE = re.compile(r"([A-Za-z]:)?[\\/]")
_NOT_UTF8 = re.compile(r"[\udc80-\udcff]")  # from surrogateescape
_EXACT = re.compile(rf"(?i){'|'.join(PARTS)}|train[ _-]?val")
_WHOLE = 0.9  # of the images, by the lists of a split
_BRACES = re.compile(r"\{[^{}]*,[^{}]*\}")


@dataclass(frozen=True)
class Pair:
    """An image and its mask."""

    image: ImageSource
    mask: Source
    group: str
    """What must stay in one split: a car, a patient, a video."""
    part: str | None
    """Split: "train", "val" or "test"; None if not chosen yet."""


def size_problem(pair: Pair, image: tuple[int, int], mask: tuple[int, int]) -> DataError:
    """The error for a mask whose size differs from its image's."""
    return DataError(
        f"{pair.mask} is {mask[1]}x{mask[0]} pixels, its image {pair.image} is "
        f"{image[1]}x{image[0]}. Save both at the same size.",
        "size-mismatch",
        [pair.image, pair.mask],
    )


def read_listed(folder: Path, config: FolderConfig, reporter: Reporter) -> list[Pair]:
    """Find the images and masks of `--pairs`: two patterns, or a list."""
    pairs = str(config.pairs)
    if "*" in pairs:
        return _by_patterns(folder, pairs, config.skip_unlabelled, reporter)
    path = Path(pairs)
    path = path if path.exists() else folder / pairs
    if not path.is_file():
        raise FileNotFoundError(
            f"--pairs {pairs}: no such list, here or in {folder}. Give the path of a CSV file "
            "with the columns image,mask, or two patterns: 'images/*.jpg:masks/*_m.png'."
        )
    return _by_list(folder, path, reporter)


def with_parts(listed: list[Pair]) -> list[Pair]:
    """Keep splits named by folders or files if there are several."""
    parts = {each.part for each in listed}
    if len(parts) == 1:
        return [replace(each, part=None) for each in listed]
    if None in parts:
        example = next(each for each in listed if each.part is None)
        raise Error(
            f"{example.image} (mask: {example.mask}) is in none of the splits train, val and "
            "test, but other images are. Name its folder or its annotation file after one."
        )
    return listed


def read_parts(
    folder: Path, root: Path, images: Mapping[Key, Path], has_parts: bool, reporter: Reporter
) -> dict[Key, str | None]:
    """Read the splits from lists of names; {} if there are none.

    Lists are VOC's and CVAT's in ImageSets/ next to the image folder `root`, or train.txt,
    val.txt ... next to the data or in a folder there, such as splits/, if no folder is a split.
    If none in ImageSets/ is named after a split, they list the images.
    """
    sets = root.parent / "ImageSets"
    below = sorted(sets.iterdir()) if sets.is_dir() else []
    places = [each for each in (sets / "Segmentation", sets, *below) if each.is_dir()]
    files = next(filter(None, (sorted(each.glob("[!.]*.txt")) for each in places)), [])
    names = _tails(images)
    in_sets = bool(files)
    rows = {file: _named_in(file, names) for file in files}
    if not in_sets and not has_parts:
        rows = _rows_beside(folder, root, names, reporter)
        files = [*rows]
    parted = _of_splits(files)
    listed: dict[Key, str | None] = {}
    missing: list[str] = []
    for file in parted or files:
        part = find_part(file.stem)
        missing += [name for name, key in rows[file].items() if key is None]
        for key in filter(None, rows[file].values()):
            if listed.setdefault(key, part) != part:
                raise Error(f"{key[1]} is in {file} and in another list. Remove it from one.")
    if not files or not (listed or missing):
        return {}
    if missing:
        message = (
            f"{files[0].parent} lists {len(missing)} missing images: "
            f"{first_five(sorted(set(missing)))}. Add them, or remove them from the lists."
        )
        reporter.problem(DataError(message, "missing-file"))
    more = [f for f in files if f not in parted and {*rows[f].values()} - {None, *listed}]
    if in_sets and more:
        message = (
            f"{first_five(more)} list{'s' * (len(more) == 1)} images that {first_five(parted)} "
            "do not. Name the list after a split: train, val or test."
        )
        reporter.problem(DataError(message, "outside-of-parts", more))
    if not in_sets:
        reporter.note(f"Splits are read from {first_five(parted)}.")
        if "train" not in listed.values():
            listed |= {key: "train" for key in images if key not in listed}
    if len(listed) < len(images):
        where = "ImageSets" if in_sets else "these lists"
        reporter.note(f"{len(images) - len(listed)} images that are not in {where} are skipped.")
    return listed


def _rows_beside(
    folder: Path, root: Path, names: Mapping[str, Key | None], reporter: Reporter
) -> dict[Path, dict[str, Key | None]]:
    """The lists of splits next to the data, else in the only folder there that has a whole split.

    Other folders may hold results, notes or parts of a split under such names.
    """
    tops = dict.fromkeys((folder, *(top for top in root.parents if folder in top.parents)))
    beside = [*dict.fromkeys((*tops, root, root.parent))]
    if found := _lists_in(beside, names):
        return found
    images = {*names.values()} - {None}
    whole: list[dict[Path, dict[str, Key | None]]] = []
    unused: list[Path] = []
    for top in (each for above in tops for each in sorted(list_folder(above))):
        with suppress(PermissionError):
            if top.name[0] != "." and top.is_dir():
                rows = _lists_in([top], names)
                named = {file: own for file, own in rows.items() if _EXACT.fullmatch(file.stem)}
                is_split = len({find_part(file.stem) for file in named}) > 1
                listed = {key for own in named.values() for key in own.values()} - {None}
                if is_split and len(listed) >= _WHOLE * len(images):
                    whole.append(named)
                else:
                    unused += rows
    if len(whole) == 1:
        return whole[0]
    if unused := [*itertools.chain(*whole), *unused]:
        reporter.note(
            f"Not used as splits: {first_five(unused)}. Only one folder with a train.txt and a "
            "val.txt or test.txt that name nearly all images gives the split. To use some lists, "
            f"copy them to {folder / 'train.txt'} and val.txt."
        )
    return {}


def _lists_in(
    places: Iterable[Path], names: Mapping[str, Key | None]
) -> dict[Path, dict[str, Key | None]]:
    """The lists named after splits that name images, with what they name."""
    files = [f for each in places for f in sorted(each.glob("[!.]*")) if find_part(f.stem)]
    files = [f for f in files if f.suffix.lower() in (".txt", ".lst", ".list", ".csv")]
    rows = {file: _named_in(file, names) for file in files if file.is_file()}
    # unrelated lists name other files
    rows = {f: own for f, own in rows.items() if sum(map(bool, own.values())) * 2 > len(own)}
    tables = [file for file in rows if file.suffix.lower() == ".csv"]
    if len({find_part(file.stem) for file in tables}) < 2:  # one table may list anything
        return {f: own for f, own in rows.items() if f not in tables}
    return rows


def _of_splits(files: Iterable[Path]) -> list[Path]:
    """The lists of splits: those that have exactly such a name, if there are any."""
    exact = [file for file in files if file.stem.lower() in PARTS]
    others = [file for file in files if file not in exact and find_part(file.stem)]
    if exact and "train" not in map(find_part, (file.stem for file in exact)):
        # trainval.txt next to test.txt
        exact += [file for file in others if find_part(file.stem) == "train"]
    return exact or others


def _tails(images: Mapping[Key, Path]) -> dict[str, Key | None]:
    """Map stems, with up to three folders before them, to images; None if ambiguous."""
    names: dict[str, Key | None] = {}
    for key, path in images.items():
        parts = [*normalize("NFC", path.parent.as_posix()).split("/"), key[1]]
        for count in range(1, 5):
            tail = "/".join(parts[-count:])
            names[tail] = None if tail in names else key
    return names


def _named_in(file: Path, names: Mapping[str, Key | None]) -> dict[str, Key | None]:
    """The images that a list names: one a line, optionally followed by its mask; or folders."""
    rows: dict[str, Key | None] = {}
    folders: dict[str, list[str]] = {}  # the names in each
    for name in names:
        folders.setdefault(name.rpartition("/")[0], []).append(name)
    lines = _decode(file.read_bytes()).splitlines()
    for line in _first_cells(lines) if file.suffix.lower() == ".csv" else lines:
        text = normalize("NFC", line.strip().replace("\\", "/"))
        for name in filter(None, dict.fromkeys((text, *text.split()[:1]))):
            stem = _keys(name)[1]
            parts = [part for part in stem.split("/") if part not in ("", ".", "..")]
            tails = ("/".join(parts[-count:]) for count in (4, 3, 2, 1))
            rows[text] = rows.get(text) or next(filter(None, map(names.get, tails)), None)
        inside = folders.get(text.strip("/"), ()) if text.strip("/") else ()
        if inside and not rows[text] and all(map(names.get, inside)):  # DAVIS's sequences
            del rows[text]
            rows |= {name: names[name] for name in inside}
    return rows


def _first_cells(lines: Sequence[str]) -> list[str]:
    """The names of the images in a CSV: its first column, without a header."""
    cells = [line.replace(";", ",").partition(",")[0].strip('"') for line in lines if line.strip()]
    known = {*_COLUMNS["image"], "id", "name"}
    return cells[1:] if cells and cells[0].strip("\ufeff ").lower() in known else cells


def _decode(data: bytes) -> str:
    """Decode a list: UTF-8 with or without BOM, or UTF-16; other bytes are kept."""
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return data.decode("utf-16", errors="replace")
    return data.decode("utf-8-sig", errors="surrogateescape")


def _by_patterns(folder: Path, pairs: str, skip_unlabelled: bool, reporter: Reporter) -> list[Pair]:
    patterns = pairs.split(":")
    stars = [pattern.count("*") for pattern in patterns]
    braces = _BRACES.search(normalize("NFC", patterns[-1]))
    fit = len(patterns) == 2 and 0 < stars[0] <= stars[1] and "**" not in pairs
    if not fit or (braces and stars[0] < stars[1]):
        raise Error(
            f"--pairs '{pairs}' must be two patterns with the same number of *, such as "
            "'images/*.jpg:masks/*_m.png' or '*/images/*.jpg:*/masks/*_m.png'. The text that "
            "matches * joins an image with its mask. If the second has one more *, all masks that "
            "differ in it belong to one image."
        )
    if _BRACES.search(patterns[0]):
        raise Error(
            f"--pairs '{pairs}': braces list classes, so they belong in the second pattern (masks)."
        )
    if patterns[0] == patterns[1]:
        raise Error(f"--pairs '{pairs}': both patterns are the same. Change the second one.")
    # a.JPG matches *.jpg, unless the masks are *.JPG
    how = re.NOFLAG if patterns[0].lower() == patterns[1].lower() else re.IGNORECASE
    images, masks = (_matches(folder, pattern, stars[0], how) for pattern in patterns)
    # 'a_mask.png' matches '*.png' too, but belongs to '*_mask.png'
    images_first = len(patterns[0]) > len(patterns[1])
    first, second = (images, masks) if images_first else (masks, images)
    for path in first.keys() & second.keys():
        del second[path]
    for pattern, found in zip(patterns, (images, masks), strict=True):
        if not found:
            raise Error(
                f"--pairs: no image file below {folder} matches '{pattern}'. Patterns are relative "
                "to this folder, and * does not match '/'."
            )
    image_files = _once(images)
    mask_files: dict[Key, Source]
    if stars[0] < stars[1]:
        mask_files = _several(masks)
    else:
        mask_files = {**(_joined(folder, masks, patterns[1]) if braces else _once(masks))}
    others = _of_other_endings(image_files, mask_files)
    if others:
        reporter.note(
            f"{len(others)} files are skipped, since they match '{patterns[1]}' but are further "
            f"files of images that have a mask: {first_five([mask_files.pop(k) for k in others])}."
        )
    joined = match_names(image_files, mask_files, True, skip_unlabelled, folder=folder)
    if len(joined) < len(image_files):
        reporter.note(f"{len(image_files) - len(joined)} images without a mask are skipped.")
    start = len(folder.parts)
    return with_parts(
        [
            Pair(image_files[key], mask_files[mask], key[1], _part(image_files[key].parts[start:]))
            for key, mask in joined.items()
        ]
    )


def _of_other_endings(images: Mapping[Key, Path], masks: Mapping[Key, Source]) -> list[Key]:
    """The masks '1_color' of the images '1', if these have masks '1' and most have such others."""
    found: dict[str, list[Key]] = {}
    for where, star in masks.keys() - images.keys():
        for match in re.finditer(r"[\W_]", star):
            end = star[match.start() :]
            owner = where, star[: match.start()]
            # a number tells images apart
            if owner in images and owner in masks and re.search(r"[^\W\d_]", end):
                found.setdefault(end, []).append((where, star))
    return sorted({key for keys in found.values() if len(keys) * 2 > len(images) for key in keys})


def _part(parts: Sequence[str]) -> str | None:
    return next(filter(None, map(find_part, parts[:-1])), None)


class _Match(NamedTuple):
    star: str
    braces: tuple[str, ...]  # the text of its class for each
    pieces: tuple[str, ...]  # text around the braces


def _matches(folder: Path, pattern: str, stars: int, how: re.RegexFlag) -> dict[Path, _Match]:
    """Find the files of a pattern; its first `stars` * join an image with its mask."""
    pattern = normalize("NFC", pattern.removeprefix("./"))
    braces = _BRACES.findall(pattern)
    lists = [each[1:-1].split(",") for each in braces]
    _, *between = _BRACES.split(pattern)
    # folders of classes, and the endings of their files: {1. Roads,2. Cars}/*_{RD,CR}.png
    are_ends = len({*map(len, lists)}) == 1 and between[0].startswith("/")
    if len({*braces}) > 1 and (not are_ends or len({*braces}) > len({*map(frozenset, lists)})):
        raise Error(
            f"--pairs: the braces in '{pattern}' differ: {' and '.join(sorted(set(braces)))}. "
            "Name the same classes in the same order; different endings of their files need as "
            "many folders: {roads,cars}/*_{RD,CR}.png."
        )
    # longest first: with {a,b_a}, '1_b_a' is b_a
    names = sorted(zip(*lists, strict=True), key=lambda own: -len("".join(own))) or [()]
    count = itertools.count()
    pieces = [
        re.sub(
            r"\\\*",
            lambda _: f"(?P<s{at}>[^/]+)" if (at := next(count)) < stars else "[^/]*",
            f"(?P<p{number}>{re.escape(piece)})",
        )
        for number, piece in enumerate(_BRACES.split(pattern))
    ]
    regexes = {
        own: re.compile("".join(map(str.__add__, pieces, (*map(re.escape, own), ""))), how)
        for own in names
    }
    start = len(folder.as_posix().rstrip("/")) + 1 if folder != Path() else 0
    base = folder / re.split(r"[*{]" if braces else r"\*", pattern)[0].rpartition("/")[0]
    found = {}
    for path in walk(base if base.is_dir() else folder):
        below = path.as_posix()[start:]
        for own, regex in regexes.items():
            match = regex.fullmatch(below) or regex.fullmatch(normalize("NFC", below))
            if match:
                parts = tuple(match[f"p{number}"] for number in range(len(pieces)))
                star = "/".join(match[f"s{at}"] for at in range(stars))
                found[path] = _Match(normalize("NFC", star), own, parts)
                break
    return found


def _once(found: dict[Path, _Match]) -> dict[Key, Path]:
    files: dict[Key, Path] = {}
    for path, match in found.items():
        key = "", match.star
        if key in files:
            raise Error(
                f"--pairs: {files[key]} and {path} both match '{match.star}' for *. Keep one of "
                "them, or give a list. With one file per class, name the classes in braces: "
                "'masks/{road,car}/*.png'."
            )
        files[key] = path
    return files


def _several(found: dict[Path, _Match]) -> dict[Key, Source]:
    files: dict[Key, list[Path]] = {}
    for path, match in found.items():
        files.setdefault(("", match.star), []).append(path)
    return {key: own[0] if len(own) == 1 else join_files(own) for key, own in files.items()}


def _joined(folder: Path, found: dict[Path, _Match], pattern: str) -> dict[Key, ClassFiles]:
    masks: dict[Key, ClassFiles] = {}
    lists = [each[1:-1].split(",") for each in _BRACES.findall(normalize("NFC", pattern))]
    rows = [*zip(*lists, strict=True)]
    same = all(each == lists[0] for each in lists)
    for path, match in found.items():
        start, *between, end = match.pieces

        def fill(row: tuple[str, ...], between: list[str] = between) -> str:
            return "".join(map(str.__add__, row, (*between, "")))

        classes = tuple(row[0] if same else fill(row) for row in rows)
        template = HERE.join(match.pieces if same else (start, end))
        mask = ClassFiles(str(folder / template), classes)
        other = masks.setdefault(("", match.star), mask)
        is_one = other == mask == parse_classes(str(mask))
        if not is_one or mask.files[classes[rows.index(match.braces)]] != path:
            raise Error(
                f"--pairs: {path} is not {other} with '{match.braces[0]}' for the braces. The "
                "class masks of an image may differ in the class only, not in suffix or case."
            )
    return masks


_GONE = "does not exist"


def _by_list(folder: Path, path: Path, reporter: Reporter) -> list[Pair]:
    rows = _rows(path)
    line, header = next(rows, (1, []))
    columns = _columns(header)
    if not {*_NEEDED} <= {*columns}:
        raise Error(
            f"{path}, line {line}: the header is '{','.join(header)}'. It must have the columns "
            "image,mask and may have group,part, separated by commas."
        )
    problems: list[str] = []
    listed: list[Pair] = []
    seen: dict[str, int] = {}
    for line, row in rows:
        if len(row) != len(columns):
            problems.append(f"line {line} has {len(row)} fields, the header {len(columns)}")
            continue
        cells = dict(zip(columns, row, strict=True))
        name = cells.get("part", "").strip()
        part = PARTS.get(name.lower())
        if name and part is None:
            problems.append(f"line {line}: part '{name}' is none of train, val and test")
        image = _existing(cells["image"], parse_image, path.parent, folder)
        mask = _existing(cells["mask"], parse_source, path.parent, folder)
        for column, source in zip(_NEEDED, (image, mask), strict=True):
            # a file of one class may not be in two masks either
            own = files_of(source) if isinstance(source, ClassFiles) else [source]
            twice = next((each for each in own if str(each) in seen), None)
            if source is None and _NOT_UTF8.search(cells[column]):
                problems.append(f"line {line} is not UTF-8. Save the list as 'CSV UTF-8'")
            elif source is None:
                problems.append(f"line {line}: {column} '{cells[column]}' {_GONE}")
            elif twice is not None:
                problems.append(f"line {line}: {twice} is already in line {seen[str(twice)]}")
            else:
                seen |= dict.fromkeys(map(str, own), line)
        if image is not None and mask is not None:
            group = cells.get("group") or normalize("NFC", _SUFFIX.sub("", cells["image"]))
            listed.append(Pair(image, mask, group, part))
    if {each.part is None for each in listed} == {True, False}:
        line = next(seen[str(each.image)] for each in listed if each.part is None)
        problems.append(f"line {line} has no part, but other lines have one")
    if problems:
        more = f"\n  and {len(problems) - 5} more" if len(problems) > 5 else ""
        message = (
            f"{path} has {len(problems)} wrong line{'s' * (len(problems) > 1)}:\n  "
            + "\n  ".join(problems[:5])
            + f"{more}\nFix them; paths are relative to the list's folder or to {folder}."
        )
        is_old = len(problems) > len(listed)  # of another folder, or an outdated list
        if is_old or not all(each.endswith(_GONE) for each in problems):
            raise Error(message)
        reporter.problem(DataError(message, "missing-file", [path]))  # the others can be used
    return listed


def _columns(header: Sequence[str]) -> list[str]:
    """What each column holds: "image", "mask", "group", "part", or "" for anything else."""
    names = [re.sub(r"[\W_]+", "_", name.strip().lower()).strip("_") for name in header]
    columns = [""] * len(names)
    for column, known in _COLUMNS.items():
        if name := next((each for each in known if names.count(each) == 1), None):
            columns[names.index(name)] = column
    return columns


def find_lists(folder: Path) -> list[str]:
    """Return the lists of images and masks directly in a folder; one for all splits."""
    found: list[str] = []
    for file in sorted(folder.iterdir()):
        if file.suffix.lower() not in (".csv", ".tsv", ".txt") or not file.is_file():
            continue
        try:
            (_, header), (_, row) = itertools.islice(_rows(file), 2)
        except ValueError:
            continue
        cells = dict(zip(_columns(header), row, strict=False))
        if {*_NEEDED} <= {*cells}:
            is_other = header[-1] == "part" and any(find_part(Path(name).stem) for name in found)
            if _existing(cells["mask"], parse_source, folder) and not is_other:
                found.append(file.name)
    return found


def _in_words(text: str) -> list[list[str]]:
    """Rows of PaddleSeg's lists, image and mask separated by a space; [] for other lists."""
    rows = [line.split() for line in text.splitlines() if line.strip()]
    is_file = all(Path(word).suffix.lower() in IMAGE_SUFFIXES for row in rows for word in row)
    return rows if is_file and {len(row) for row in rows} == {2} else []


def _rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    # bytes that are not UTF-8 may be a file name
    text = _decode(path.read_bytes())
    beside = _other_splits(path)
    if beside and "part" not in _columns(next(_cells(path, text), (1, []))[1]):
        for file in beside:
            rows = _cells(file, _decode(file.read_bytes()))
            if file == beside[0]:
                number, header = next(rows)
                yield number, [*header, "part"]
            else:
                next(rows, None)
            yield from ((number, [*row, file.stem]) for number, row in rows)
        return
    if _in_words(text):
        # train.txt together with val.txt
        part = find_part(path.stem)
        beside = sorted(path.parent.glob("[!.]*.txt")) if part else []
        yield 1, ["image", "mask", "part"]
        for file in [each for each in beside if find_part(each.stem)] or [path]:
            found = _in_words(_decode(file.read_bytes()))
            for number, row in enumerate(found, start=1):
                yield number, [*row, find_part(file.stem) or ""]
        return
    yield from _cells(path, text)


def _other_splits(path: Path) -> list[Path]:
    """train.csv with val.csv or test.csv next to it; [] if it has none."""
    beside = sorted(path.parent.glob(f"[!.]*{path.suffix}")) if path.suffix != ".txt" else []
    found = [file for file in beside if file.stem.lower() in PARTS]
    return found if path in found and len(found) > 1 else []


def _cells(path: Path, text: str) -> Iterator[tuple[int, list[str]]]:
    """The rows of a CSV, each with the number of its line."""
    header = text.partition("\n")[0]
    delimiter = max(",;\t", key=header.count)  # ; with decimal commas in Excel, tab in UTF-16
    reader = csv.reader(io.StringIO(text, newline=""), strict=True, delimiter=delimiter)
    try:
        for row in reader:
            if row:
                yield reader.line_num, row
    except csv.Error as error:
        raise Error(
            f"{path}, line {reader.line_num} is not valid CSV ({error}). Fix the line."
        ) from None


_Parsed = TypeVar("_Parsed", bound=Source)


def _existing(name: str, parse: Callable[[Path], _Parsed], *folders: Path) -> _Parsed | None:
    names = [name, name.replace("\\", "/")] if "\\" in name else [name]
    if _ABSOLUTE.match(name):  # from another machine: try its last parts
        parts = names[-1].split("/")
        names += ["/".join(parts[start:]) for start in range(1, len(parts))]
    for path in (folder / name for name in names for folder in folders if name):
        try:
            source = parse(path)
            if any(file.is_file() for file in files_of(source)):
                return source
        except OSError:  # name too long, or no permission
            continue
    return None


_MASKS = ("masks", "mask")


class ImagePool:
    """The images below a folder, without the masks in a masks/ next to images/."""

    def __init__(self, folder: Path) -> None:
        """List the images, folder by folder, each folder's sorted by name."""
        self.folder = folder
        self.paths = list(_images_in(folder))
        start = 0 if folder == Path() else len(folder.as_posix().rstrip("/")) + 1
        self._tables: list[dict[str, Path | None]] = [{}, {}, {}, {}]
        for path in self.paths:
            below = normalize("NFC", path.as_posix()[start:])
            for table, key in zip(self._tables, _keys(below), strict=True):
                # ambiguous keys match nothing
                table[key] = None if key in table else path

    def find(self, name: str, *bases: Path) -> Path | None:
        """Find an image by path, else name, else stem, if exactly one matches.

        Paths are relative to the folder or to one of `bases`.
        """
        listed = normalize("NFC", name.replace("\\", "/"))
        keys = _keys(listed.removeprefix("./"))
        path = self._tables[0].get(keys[0])
        for base in bases if path is None else ():
            # "images/a.jpg" from above images/, "../images/a.jpg" from next to it
            below = os.path.relpath(base / listed, self.folder).replace(os.sep, "/")
            path = path or self._tables[0].get(normalize("NFC", below))
        for table, key in zip(self._tables[1:], keys[1:], strict=True):
            path = path or table.get(key)
        return path


def has_images(folder: Path) -> bool:
    """Whether there are images below a folder."""
    return next(_images_in(folder), None) is not None


def find_images(inputs: Sequence[ImageSource]) -> list[ImageSource]:
    """List images, each once: files and pages as they are, folders recursively."""
    found: dict[ImageSource, None] = {}
    for path in inputs:
        if isinstance(path, Path) and path.is_dir():
            below = sorted(walk(path))
            if not below:
                require_no_shards(path, f"To predict their images: '{path / '*.tar'}'")
                raise Error(
                    f"{path} holds no images: no file below it ends in one of "
                    f"{' '.join(sorted(IMAGE_SUFFIXES))}."
                )
            found |= dict.fromkeys(below)
        elif files_of(path)[0].exists():
            found[path] = None
        else:
            raise FileNotFoundError(f"{path} does not exist. Check the path.")
    return list(found)


def _images_in(folder: Path) -> Iterator[Path]:
    # masks/ repeats what the list holds, often one file per object
    before, is_mask = "", False
    for path in walk(folder):
        above = os.path.dirname(path)  # noqa: PTH120 (ten times as fast)
        if above != before:
            before, parent = above, path.parent
            is_mask = parent.name.lower() in _MASKS and any(
                each.name.lower() in IMAGE_FOLDERS for each in parent.parent.iterdir()
            )
        if not is_mask:
            yield path


def _keys(path: str) -> tuple[str, str, str, str]:
    stem, dot, suffix = path.rpartition(".")
    stem = stem if f"{dot}{suffix}".lower() in IMAGE_SUFFIXES else path
    return path, stem, path.rpartition("/")[2], stem.rpartition("/")[2]
