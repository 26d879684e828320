"""Tar shards: many samples in one file, in the layout of WebDataset, each read whole.

A sample is two members in a row, its image and its mask: `KEY.jpg` and `KEY.mask.png`.
"""

import io
import json
import tarfile
from collections.abc import Sequence
from pathlib import Path
from threading import Lock

from plainunet.errors import Error
from plainunet.formats.problems import DataError
from plainunet.formats.sources import Member

INDEX_FILE = "index.json"
"""Describes the shards of a folder."""
FORMAT = "plainunet shards 1"
"""Marks an index."""
MASK_SUFFIX = ".mask.png"
_Sample = tuple[memoryview, memoryview]
"""The image and the mask of a sample, as stored."""
_OPEN: dict[Path, list[_Sample]] = {}
"""The shard that was read last."""
_TURN = Lock()  # threads that need the same shard read it once


def is_sharded(folder: Path) -> bool:
    """Whether a folder holds the index of shards."""
    file = folder / INDEX_FILE
    if not file.is_file():
        return False
    with file.open("rb") as opened:
        return FORMAT.encode() in opened.read(64)


def require_no_shards(folder: Path, instead: str) -> None:
    """Refuse a folder of shards; `instead` is what to do."""
    if is_sharded(folder):
        raise Error(f"{folder}: holds tar shards, as plainunet shard writes them. {instead}")


def read_member(member: Member) -> bytes:
    """Read an image or a mask as stored; its shard stays in memory until another one is read.

    Raises:
        OSError: There is no such shard, or its location cannot be reached.
        ValueError: The shard is damaged, or has fewer samples.
    """
    with _TURN:
        if member.file not in _OPEN:
            _OPEN.clear()  # before the next one takes memory
            _OPEN[member.file] = _find_samples(_fetch(member.file), member.file)
        samples = _OPEN[member.file]
    if member.index >= len(samples):
        raise _damaged(member.file, f"it has {len(samples)} samples, not {member.index + 1}")
    return bytes(samples[member.index][member.is_mask])


def _find_samples(data: bytes, file: Path) -> list[_Sample]:
    """Find the samples in the bytes of a shard."""
    samples: list[_Sample] = []
    image: tuple[str, memoryview] | None = None
    try:
        with tarfile.open(fileobj=io.BytesIO(data), mode="r:") as shard:
            for info in shard:
                content = memoryview(data)[info.offset_data : info.offset_data + info.size]
                key = info.name.removesuffix(MASK_SUFFIX)
                if key == info.name and image is None:
                    image = info.name, content
                elif image is None or not image[0].startswith(f"{key}."):
                    raise _damaged(file, f"{info.name} does not follow its image")
                else:
                    samples.append((image[1], content))
                    image = None
    except tarfile.TarError as error:
        raise _damaged(file, str(error)) from error
    return samples


def _damaged(file: Path, why: str) -> DataError:
    return DataError(
        f"{file} is damaged ({why}). Copy it again, or write the shards again.", "damaged", [file]
    )


def _fetch(file: Path) -> bytes:
    """The bytes of a shard: from its folder, else from the location that its index names."""
    index = file.parent / INDEX_FILE
    if file.exists() or not index.is_file():
        return file.read_bytes()
    location = json.loads(index.read_text(encoding="utf-8")).get("location")
    if not location:
        raise FileNotFoundError(f"{file} does not exist. Copy it again, or write the shards again.")
    import fsspec  # type: ignore[import-untyped]  # PyTorch requires it

    url = f"{location.rstrip('/')}/{file.name}"
    try:
        with fsspec.open(url) as opened:
            data: bytes = opened.read()
    except Exception as error:  # each protocol has its own
        raise OSError(
            f"{url}: cannot be read ({error}). Check the location in {index}, the credentials and "
            "the connection."
        ) from error
    return data


def write_shard(file: Path, samples: Sequence[tuple[str, str, bytes, bytes]]) -> None:
    """Write samples, each a key, the suffix of its image, and the image and mask as stored.

    The same samples give the same bytes.
    """
    with tarfile.open(file, "w", format=tarfile.PAX_FORMAT) as shard:
        for key, suffix, image, mask in samples:
            for name, content in ((key + suffix, image), (key + MASK_SUFFIX, mask)):
                info = tarfile.TarInfo(name)
                info.size = len(content)
                shard.addfile(info, io.BytesIO(content))
