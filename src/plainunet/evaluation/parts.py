"""Which pictures of a folder a model is judged on: those that it was not trained on.

In: a folder's pairs, and a model's description. Out: a part of them. A folder is known again by
the names and sizes of its files.
"""

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path

from plainunet.data.pairing import Pair
from plainunet.data.places import files_of
from plainunet.data.split_file import SPLIT_FILE, name_below, read_split
from plainunet.network.checkpoint import Card


def data_digest(pairs: Sequence[Pair], folder: Path) -> str:
    """Recognise a data folder: a digest of the names and sizes of its files.

    Args:
        pairs: All its pairs.
        folder: The folder itself, so that it may be moved.

    Returns:
        A SHA-256 in hexadecimal.
    """
    paths = [path for pair in pairs for path in (pair.image, pair.mask)]
    files = sorted({file for path in paths for file in files_of(path)})
    lines = [f"{name_below(file, folder)} {file.stat().st_size}" for file in files]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def sample_sizes(pairs: Sequence[Pair], folder: Path) -> dict[str, int]:
    """Remember some files, by which a data folder is known even when others come or go.

    Args:
        pairs: Its pairs.
        folder: The folder itself.

    Returns:
        The sizes [bytes] of up to 32 pictures' files, spread evenly, by their names below it.
    """
    files = [files_of(pair.image)[0] for pair in pairs[:: -(-len(pairs) // 32)]]
    return {name_below(file, folder): file.stat().st_size for file in files}


def _is_known(sizes: dict[str, int], folder: Path) -> bool:
    """Tell whether a folder has most of the files that were remembered."""
    files = {folder / name: size for name, size in sizes.items()}
    same = sum(file.is_file() and file.stat().st_size == size for file, size in files.items())
    return 2 * same > len(sizes)


def choose_part(
    pairs: list[Pair],
    data: Path,
    checkpoint: Path,
    card: Card,
    split: str | None,
    on_note: Callable[[str], None] | None,
) -> tuple[list[Pair], str]:
    """Take a part of a folder: after the run's split, or after its own sub-folders.

    Args:
        pairs: All its pairs.
        data: The folder.
        checkpoint: The model's file; the run's split lies beside it.
        card: The model's description.
        split: "train", "val", "test" or "all"; left out, what `evaluate` says.
        on_note: Told what has changed in the folder since the run.

    Returns:
        The pairs, and the name of the part.

    Raises:
        FileNotFoundError: The run's split is missing.
        ValueError: There is no such part, or no picture in it.
    """
    parts = ("train", "val", "test", "all")
    if split is not None and split not in parts:
        raise ValueError(f"--split {split}: it is one of {', '.join(parts)}.")
    unchanged = card.training.get("digest") == data_digest(pairs, data)
    trained_on = unchanged or _is_known(card.training.get("sample", {}), data)
    split = split or ("val" if trained_on else "all")
    if split == "all":
        return pairs, split
    listed = checkpoint.parent / SPLIT_FILE
    if trained_on and not listed.is_file():
        raise FileNotFoundError(
            f"{listed} does not exist: which pictures of {data} were held out from the model "
            "stands there. Give the checkpoint in its run folder, copy that file beside it, or "
            "judge all pictures by --split all, also those that it was trained on."
        )
    if unchanged:
        pairs = read_split(listed, data)
    elif trained_on:
        known = {pair.image: pair for pair in read_split(listed, data)}
        new = [pair for pair in pairs if pair.image not in known]
        gone = len(known) - (len(pairs) - len(new))
        pairs = [known[pair.image] for pair in pairs if pair.image in known]
        if on_note is not None and not new and not gone:
            on_note(f"files in {data} have changed since the model was trained on it")
        elif on_note is not None:
            on_note(
                f"{data} has changed since the model was trained on it: {len(new)} new pictures "
                f"are left out, {gone} have gone. --split all takes all, also those trained on."
            )
    chosen = [pair for pair in pairs if pair.part == split]
    if not chosen:
        there = sorted({pair.part for pair in pairs if pair.part}) or ["none"]
        raise ValueError(
            f"{data}: no picture belongs to the part {split!r} (its parts: {', '.join(there)}). "
            "Give --split all, or the folder that the model was trained on."
        )
    return chosen, split
