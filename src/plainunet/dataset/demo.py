"""The drawn data set of `plainunet demo`: leaves and stones on many grounds, among clutter.

Out: a folder in the layout of any other data set, `images/{train,val}` (half JPEG, half PNG)
and `masks/{train,val}` (palette PNG, the index is the class id), and `drawn.json`, which says
how it was drawn. The pictures themselves come from `scenery.py`.
"""

import json
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from plainunet.data.drawn.scenery import draw_scene
from plainunet.files import require_writable

CLASS_NAMES = ("background", "leaf", "stone")
# seen by viewers only: the index counts
_PALETTE = (24, 24, 28, 86, 180, 95, 233, 148, 58)
_RECORD = "drawn.json"
# to be raised when the same arguments no longer draw the same pictures
_DRAWING = 1
_SMALLEST = 64


def draw_dataset(
    folder: Path,
    pictures: int = 160,
    validation: int = 40,
    size: tuple[int, int] = (192, 256),
    seed: int = 0,
    on_progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Draw the data set; the folder appears whole or not at all.

    A folder that was drawn with the same arguments is left as it is. The same seed draws the
    same pictures: more training pictures change neither the first ones nor the validation part.

    Args:
        folder: Where it shall appear.
        pictures: How many to train with.
        validation: How many to validate with.
        size: Height and width [pixels].
        seed: Where all chance comes from.
        on_progress: Called with the number of pictures drawn and the number of all.

    Returns:
        The folder.

    Raises:
        ValueError: An argument is below its least value, or the folder cannot be written to,
            or exists with other contents.
    """
    least = {"pictures": 1, "validation": 1, "height": _SMALLEST, "width": _SMALLEST, "seed": 0}
    given = (pictures, validation, *size, seed)
    for (name, lowest), value in zip(least.items(), given, strict=True):
        if value < lowest:
            raise ValueError(f"{name} is {value}; it must be at least {lowest}.")
    record = {
        "drawing": _DRAWING,
        "pictures": pictures,
        "validation": validation,
        "size": list(size),
        "seed": seed,
    }
    if _already_drawn(folder, record):
        return folder
    require_writable(folder.parent)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as scratch:
        part = Path(scratch) / folder.name
        _draw_all(part, pictures, validation, size, seed, on_progress)
        (part / _RECORD).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
        # another process may have drawn it meanwhile
        if not _already_drawn(folder, record):
            if folder.exists():
                folder.rmdir()
            part.rename(folder)
    return folder


def _already_drawn(folder: Path, record: dict[str, object]) -> bool:
    """Tell whether the folder holds these drawings; refuse it if it holds anything else."""
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return False
    try:
        found = json.loads((folder / _RECORD).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise ValueError(
            f"{folder}: exists and holds something else than a drawn data set. "
            "Name a folder that does not exist yet."
        ) from None
    if found != record:
        raise ValueError(
            f"{folder}: holds a data set drawn in another way ({found} instead of {record}). "
            "Delete the folder, or name another one."
        )
    return True


def _draw_all(
    folder: Path,
    pictures: int,
    validation: int,
    size: tuple[int, int],
    seed: int,
    on_progress: Callable[[int, int], None] | None,
) -> None:
    total = pictures + validation
    jobs = []
    for part, (name, first, count) in enumerate(
        (("train", 0, pictures), ("val", pictures, validation))
    ):
        for kind in ("images", "masks"):
            (folder / kind / name).mkdir(parents=True)
        for number in range(count):
            # numbered on through both parts, so that a stem names one picture
            stem = f"{first + number:0{max(3, len(str(total - 1)))}}"
            jobs.append((name, stem, np.random.SeedSequence((seed, part, number))))
    with ThreadPoolExecutor() as pool:
        try:
            for done, _ in enumerate(pool.map(partial(_draw_pair, folder, size), jobs), start=1):
                if on_progress is not None:
                    on_progress(done, total)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _draw_pair(
    folder: Path, size: tuple[int, int], job: tuple[str, str, np.random.SeedSequence]
) -> None:
    part, stem, chance = job
    image, mask = draw_scene(np.random.default_rng(chance), size)
    suffix = (".jpg", ".png")[int(stem) % 2]
    quality = [cv2.IMWRITE_JPEG_QUALITY, 92] if suffix == ".jpg" else []
    _, encoded = cv2.imencode(suffix, image[..., ::-1], quality)
    (folder / "images" / part / f"{stem}{suffix}").write_bytes(encoded.tobytes())
    picture = Image.fromarray(mask, mode="P")
    picture.putpalette(_PALETTE)
    picture.save(folder / "masks" / part / f"{stem}.png")
