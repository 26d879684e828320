"""What was understood of a data folder, written down, so that it need not be found again.

In: pairs, and what their masks mean. Out: a dataset.toml and the list of pairs that it names.
"""

import shutil
from collections.abc import Sequence
from itertools import count
from pathlib import Path

from plainunet.data.encodings.colors import pack
from plainunet.data.masks import MaskCoding
from plainunet.data.pairing import Pair
from plainunet.data.split_file import SPLIT_FILE, write_split
from plainunet.data_config import DataConfig
from plainunet.files import require_writable
from plainunet.settings import DATASET_FILE, write_dataset


def describe(coding: MaskCoding, classes: tuple[str, ...]) -> DataConfig:
    """Say what a data folder would say of itself.

    Args:
        coding: What mask values mean.
        classes: Names of the classes, in their order; empty where they have none.

    Returns:
        What goes into a dataset.toml beside a `split.csv`.
    """
    by_value = coding.kind in ("ids", "two values", "values")
    return DataConfig(
        pairs=SPLIT_FILE,
        classes=classes,
        values=coding.values if by_value else (),
        colors=tuple(f"{pack(color):06x}" for color in coding.colors),
        ignore=coding.ignore,
        encoding=coding.kind if coding.kind in ("instances", "threshold") else None,
    )


def write_understood(folder: Path, pairs: Sequence[Pair], said: DataConfig) -> list[Path]:
    """Write a dataset.toml and its list into a data folder.

    Args:
        folder: The data folder; files of these names that are there already are kept, with
            .bak, .bak2, ... at the end of their names.
        pairs: The pairs to be listed.
        said: What the dataset.toml says.

    Returns:
        The files written.

    Raises:
        ValueError: The folder cannot be written to.
    """
    require_writable(folder)
    files = [folder / SPLIT_FILE, folder / DATASET_FILE]
    for file in files:
        if file.exists():
            _keep(file)
    write_split(files[0], pairs, folder)
    write_dataset(files[1], said)
    return files


def _keep(file: Path) -> None:
    """Copy a file to the first name that is free, unless there is such a copy already."""
    for number in count(1):
        copy = file.with_name(f"{file.name}.bak{number if number > 1 else ''}")
        if not copy.exists():
            shutil.copy2(file, copy)
            return
        if copy.is_file() and copy.read_bytes() == file.read_bytes():
            return
