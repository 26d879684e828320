"""Large scenes as blocks that are read where they lie, with masks of pixels or of polygons."""

import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import chain, pairwise, product
from pathlib import Path
from typing import Any, NamedTuple
from unicodedata import normalize

import numpy as np
from numpy.typing import NDArray

from plainunet.config import FolderConfig
from plainunet.dataset.cache import recall
from plainunet.dataset.coding import Coding
from plainunet.dataset.layouts import IMAGE_FOLDERS, PARTS, folders_found, walk
from plainunet.dataset.lists import Pair, size_problem
from plainunet.formats.geo import (
    POLYGON_SUFFIXES,
    Layer,
    column_values,
    has_data,
    missing_packages,
    read_layer,
    read_scene,
    scene_bounds,
    window_bounds,
)
from plainunet.formats.masks import class_file_names
from plainunet.formats.problems import DataError, as_problem, first_five
from plainunet.formats.sources import Polygons, Source, Window
from plainunet.formats.windows import stored_size
from plainunet.reporter import Reporter
from plainunet.text import plural

_BLOCK = 1024
_LARGE, _SMALL_FILE = 50_000_000, 2**17  # pixels of a scene; bytes that no such file has
_SCENE_SUFFIXES = (".tif", ".tiff", ".jp2")
_FEW_SCENES = 5  # with fewer, blocks of one scene are trained on and validated
_USUAL_COLUMNS = ("class", "class_name", "classname", "label", "category")
_MOST_CLASSES = 64  # of a column
_WITHIN = 0.75  # of a file's bounding box that must lie in one scene, so that it belongs to it
_PLACES = 32  # pixels of a class that are remembered for each block


def polygon_files(folder: Path, masks: str | None) -> list[Path]:
    """The files of polygons below a folder; or those that `masks` names, a file or a folder.

    A folder that `masks` names has none if there are images in it.
    """
    named = folder / (masks or "")
    named = named if named.exists() else Path(masks or "")
    if masks and (named.is_file() or not named.exists() or any(walk(named))):
        return [named] if named.suffix.lower() in POLYGON_SUFFIXES else []
    found = [path for path in named.rglob("*") if path.suffix.lower() in POLYGON_SUFFIXES]
    return sorted(path for path in found if not path.name.startswith("."))


def pair_polygons(folder: Path, config: FolderConfig, reporter: Reporter) -> list[Pair]:
    """Pair each scene below a folder with the polygons that lie in it.

    Raises:
        FileNotFoundError: There are no scenes.
        DataError: A file cannot be read, or it is open which column holds the classes.
    """
    files = polygon_files(folder, config.masks)
    usual = [each for each in folder.iterdir() if each.name.lower() in IMAGE_FOLDERS]
    top = folder / config.images if config.images else min(usual, default=folder)
    scenes = [path for path in walk(top) if path.suffix.lower() in _SCENE_SUFFIXES]
    if not scenes:
        raise FileNotFoundError(
            f"{top} holds no scenes ({', '.join(_SCENE_SUFFIXES)}) for the polygons of {files[0]}. "
            f"Give their folder: --images. {folders_found(folder)} Polygons in pixels, as QuPath "
            "writes them, are not read: export masks as PNG or COCO JSON."
        )
    layers = [read_layer(file) for file in files]
    if unplaced := [file for file, layer in zip(files, layers, strict=True) if layer.crs is None]:
        reporter.note(
            f"{first_five(unplaced)}: without a coordinate system (a Shapefile has it in its .prj "
            "file), so the coordinates are taken for those of the scenes."
        )
    column = _choose_column(files, layers, config)
    overlaps = _find_overlaps(layers, scenes)
    names = _names_in_column(files, column) if column else _names_by_file(files, scenes, overlaps)
    classes = class_file_names(tuple(names))
    reporter.note(
        f"Masks of {plural(len(scenes), 'scene')} are read from the polygons of "
        f"{first_five(files)}; classes: {', '.join(classes)}."
    )
    pairs, empty = [], []
    by_scene: dict[int, list[Path]] = defaultdict(list)
    for file, number, _ in sorted(overlaps):
        by_scene[number].append(files[file])
    for number, scene in enumerate(scenes):
        there = by_scene[number]
        if not there and not config.unlisted:
            empty.append(scene)
            continue
        size = read_scene(scene)
        window = Window(scene, 0, 0, size.height, size.width)
        below = scene.relative_to(folder)
        part = next(filter(None, (PARTS.get(name.lower()) for name in below.parts[:-1])), None)
        mask = Polygons(tuple(there or files[:1]), column, classes, window)
        pairs.append(Pair(window, mask, normalize("NFC", below.with_suffix("").as_posix()), part))
    if empty and config.skip_unlabelled:
        reporter.note(f"{len(empty)} scenes without polygons are skipped.")
    elif empty:
        raise DataError(
            f"{len(empty)} of {len(scenes)} scenes have no polygons: {first_five(empty)}. Skip "
            "them (--skip-unlabelled), or give them empty masks (--unlisted empty).",
            "no-mask",
            empty,
            choices={
                "Skip them": {"skip_unlabelled": True},
                "Their masks are empty": {"unlisted": "empty"},
            },
        )
    return pairs


class _Overlap(NamedTuple):
    file: int
    scene: int
    share: float  # fraction of the file's bounding box that lies in the scene's


def _find_overlaps(layers: Sequence[Layer], scenes: Sequence[Path]) -> list[_Overlap]:
    """The files of polygons and the scenes, by number, whose bounding boxes overlap."""
    import shapely

    found = []
    for crs in {layer.crs for layer in layers}:
        tree = shapely.STRtree([shapely.box(*scene_bounds(scene, crs)) for scene in scenes])
        for file, layer in enumerate(layers):
            if layer.crs != crs or not np.isfinite(layer.bounds).all():
                continue
            own = shapely.box(*layer.bounds)
            for scene in tree.query(own, predicate="intersects").tolist():
                common = tree.geometries[scene].intersection(own)
                if own.area == 0 or common.area > 0:  # not only its edge
                    share = common.area / own.area if own.area else 1.0
                    found.append(_Overlap(file, scene, share))
    return found


def _names_in_column(files: Sequence[Path], column: str) -> list[str]:
    """The values of a column, numbers in their order."""
    found = {name for file in files for name in column_values(file, column) if name}
    return sorted(found, key=lambda name: (int(name) if name.isdecimal() else -1, name))


def _names_by_file(
    files: Sequence[Path], scenes: Sequence[Path], overlaps: Sequence[_Overlap]
) -> list[str]:
    """The stems of the files; or "foreground" if each file belongs to a scene of its own.

    Then they are named as the scenes, or differ in numbers only.
    """
    stems = sorted({file.stem for file in files})
    alike = len({re.sub(r"\d+", "", stem) for stem in stems}) == 1
    owners = {each.file: each.scene for each in overlaps if each.share > _WITHIN}
    is_alone = len({*owners.values()}) == len({each.file for each in overlaps}) > 1
    named = len(stems) > 1 and {*stems} <= {scene.stem for scene in scenes}
    return ["foreground"] if (alike and is_alone) or named else stems


def _choose_column(files: Sequence[Path], layers: Sequence[Layer], config: FolderConfig) -> str:
    """The column of the classes; "" if there is none."""
    shared = [name for name in layers[0].columns if all(name in each.columns for each in layers)]
    given = config.class_column
    if given == "" or given in shared:
        return given
    likely = []
    for column in shared:
        values = {value for file in files for value in column_values(file, column)}
        if 1 < len(values) <= _MOST_CLASSES:
            likely.append(column)
    usual = [name for name in shared if name.lower() in _USUAL_COLUMNS]
    if given is None and (len(usual) == 1 or not likely):
        return usual[0] if usual else ""
    choices = {f"Column {name} holds the classes": {"class_column": name} for name in likely}
    choices["There is one class for each file"] = {"class_column": ""}
    columns = f"the column{'s' * (len(shared) > 1)} {', '.join(shared)}" if shared else "none"
    told = f"no column '{given}', but " if given else ""
    raise DataError(
        f"The polygons of {first_five(files)} have {told}{columns}. Choose the one that holds "
        "their classes: --class-column NAME, or --class-column '' if there is one class for each "
        "file.",
        "which-column",
        files,
        choices=choices,
    )


def are_blocks(pairs: Sequence[Pair]) -> bool:
    """Whether several images are blocks of one scene."""
    files = [pair.image.file for pair in pairs if isinstance(pair.image, Window)]
    return len(set(files)) < len(files)


def cut_scenes(pairs: Sequence[Pair], config: FolderConfig, reporter: Reporter) -> list[Pair]:
    """Replace pairs of large scenes by pairs of blocks that do not overlap.

    A block is a group, so that it is in one split; from five scenes on, or if they are grouped by
    their names, a scene is. Blocks of different scenes that show the same place share a group.
    Blocks without data are left out; without large scenes, nothing is cut.
    """
    side = config.block or _BLOCK
    sizes = {pair: size for pair in pairs if (size := _size_of(pair, config.block))}
    if not sizes:
        return list(pairs)
    if config.block is None and (missing := missing_packages()):
        reporter.note(
            f"{plural(len(sizes), 'image')} of more than {_LARGE:,} pixels are decoded whole. To "
            f"read them in blocks: pip install {' '.join(missing)}"
        )
        return list(pairs)
    if config.block is None:  # then the smaller ones, too, are read where they lie
        sizes = {pair: size for pair in pairs if (size := _size_of(pair, side))}
    scenes = {pair.group for pair in sizes}
    by_block = getattr(config, "group_by", None) is None and len(scenes) < _FEW_SCENES
    cut: dict[Pair, list[Pair]] = {}
    for on_map in (False, True):  # by equal blocks, then by places on the map if scenes overlap
        cut = {pair: [*_blocks(pair, size, side, by_block, on_map)] for pair, size in sizes.items()}
        joined = _join(list(chain.from_iterable(cut.values())))
        if joined is None:
            break
    windows = [_window_of(each) for each in chain.from_iterable(cut.values())]
    masked = {each.file for each in windows if read_scene(each.file).has_mask}
    unsure = [each for each in windows if each.file in masked]
    known = recall("has data", [(each,) for each in unsure], has_data)
    empty = {each for each, found in zip(unsure, known, strict=True) if found is False}
    groups = joined or {}
    result, count = [], 0
    for pair in pairs:
        problem = _mask_problem(pair, sizes[pair]) if pair in sizes else None
        if problem:
            reporter.problem(problem)
            continue
        blocks = [each for each in cut.get(pair, [pair]) if each.image not in empty]
        count += len(blocks) if pair in sizes else 0
        result += [replace(each, group=groups.get(each.group, each.group)) for each in blocks]
    left = f" {len(empty)} without data are left out." if empty else ""
    reporter.note(
        f"{plural(len(sizes), 'scene')} read in {count} blocks of about {side} x {side} pixels."
        f"{left}"
    )
    if by_block and not any(pair.part for pair in pairs):
        reporter.note(
            "Each block is in one split, but adjacent ones look alike (data leakage), so scores "
            "will be somewhat better than on another scene. To keep scenes whole: --group-by '.+'"
        )
    return result


def _size_of(pair: Pair, block: int | None) -> tuple[int, int] | None:
    """The height and width of an image that is to be cut; None for others."""
    image, mask = pair.image, pair.mask
    if block == 0 or not isinstance(mask, Path | Polygons):
        return None
    if isinstance(image, Window):
        size = image.height, image.width
    else:
        try:
            if (
                not isinstance(image, Path)
                or image.suffix.lower() not in _SCENE_SUFFIXES[:2]
                or (block is None and image.stat().st_size < _SMALL_FILE)
            ):
                return None
            size = stored_size(image)
        except (OSError, ValueError):
            return None  # `check_pairs` reports it
    most = _BLOCK if block is None else block
    of_pixels = block is None and isinstance(image, Path)
    is_large = size[0] * size[1] > _LARGE if of_pixels else max(size) > most
    return size if is_large else None


def _window_of(pair: Pair) -> Window:
    assert isinstance(pair.image, Window)
    return pair.image


def _mask_problem(pair: Pair, size: tuple[int, int]) -> DataError | None:
    if not isinstance(pair.mask, Path):
        return None
    try:
        scene = read_scene(pair.mask)
    except (OSError, ValueError) as error:
        return as_problem(error, pair.mask)
    other = scene.height, scene.width
    return None if other == size else size_problem(pair, size, other)


def _blocks(
    pair: Pair, size: tuple[int, int], side: int, by_block: bool, on_map: bool
) -> Iterator[Pair]:
    """The blocks of a scene, row by row."""
    image, mask = (
        Window(each, 0, 0, *size) if isinstance(each, Path) else each
        for each in (pair.image, pair.mask)
    )
    assert isinstance(image, Window)  # by `_size_of`
    assert isinstance(mask, Window | Polygons)
    transform = read_scene(image.file).transform
    first = [0, 0]
    if on_map and transform is not None and transform.is_rectilinear:
        first = [
            round(-transform.f / transform.e) % side,
            round(-transform.c / transform.a) % side,
        ]
    rows, columns = (_borders(*each, side) for each in zip(size, first, strict=True))
    for (top, bottom), (left, right) in product(pairwise(rows), pairwise(columns)):
        place = top, left, bottom - top, right - left
        group = f"{pair.group}[{top}:{bottom},{left}:{right}]" if by_block else pair.group
        yield Pair(image.within(*place), mask.within(*place), group, pair.part)


def _borders(length: int, first: int, side: int) -> list[int]:
    """Where blocks begin and end; small rests at both ends belong to their neighbours."""
    least = max(1, side // 4)
    inner = (at for at in range(first, length, side) if least <= at <= length - least)
    return [0, *inner, length]


def _join(pairs: Sequence[Pair]) -> dict[str, str] | None:
    """For each group, one that overlapping groups of several scenes share; None without any."""
    import shapely
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    windows = [(_window_of(pair), pair.group) for pair in pairs]
    located = [(*each, read_scene(each[0].file)) for each in windows]
    located = [each for each in located if each[2].transform is not None]
    if len({window.file for window, _, _ in located}) < 2:
        return None
    crs = located[0][2].crs
    boxes = [_box(window, scene, crs) for window, _, scene in located]
    ones, others = shapely.STRtree(boxes).query(boxes, predicate="intersects")
    files = np.unique([str(window.file) for window, _, _ in located], return_inverse=True)[1]
    apart = files[ones] != files[others]
    if not apart.any():
        return None
    names, numbers = np.unique([group for _, group, _ in located], return_inverse=True)
    edges = numbers[ones[apart]], numbers[others[apart]]
    graph = coo_array((np.ones(len(edges[0])), edges), shape=(len(names), len(names)))
    parts = connected_components(graph, directed=False)[1]
    first = {part: str(name) for name, part in zip(names[::-1], parts[::-1], strict=True)}
    return {str(name): first[part] for name, part in zip(names, parts, strict=True)}


def _box(window: Window, scene: Any, crs: Any) -> Any:
    """The box of a window on the map, without half a pixel along its borders."""
    import shapely
    from rasterio.warp import transform_bounds

    left, bottom, right, top = window_bounds(window, scene)
    across, down = (right - left) / window.width / 2, (top - bottom) / window.height / 2
    inner = left + across, bottom + down, right - across, top - down
    if crs and scene.crs and scene.crs != crs:
        inner = transform_bounds(scene.crs, crs, *inner)
    return shapely.box(*inner)


def find_places(
    masks: Sequence[Source],
    coding: Coding,
    on_progress: Callable[[int, int], None] | None = None,
) -> NDArray[np.int64]:
    """Find some pixels of each class in each mask, so that rare classes can be drawn.

    Returns [n, 4] int64: class id, number of the mask, row and column.
    """

    def find(mask: Source) -> Any:
        ids, random = coding.read(mask), np.random.default_rng(0)
        found = []
        for number in np.unique(ids).tolist():
            if number < coding.num_classes:
                pixels = np.flatnonzero(ids == number)
                chosen = random.choice(pixels, min(_PLACES, len(pixels)), replace=False)
                found += [[number, *divmod(at, ids.shape[1])] for at in chosen.tolist()]
        return found

    rows: list[list[int]] = []
    for at, found in enumerate(recall(f"places 1 {coding}", [(mask,) for mask in masks], find)):
        if isinstance(found, DataError):
            raise found
        if on_progress:
            on_progress(at + 1, len(masks))
        rows += [[number, at, row, column] for number, row, column in found]
    return np.array(rows, np.int64).reshape(-1, 4)
