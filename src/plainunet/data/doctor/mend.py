"""Commands that mend masks and pictures in place, for a user to copy.

In: what is wrong. Out: one line for a POSIX shell, `python -c ...`, that needs Pillow alone.
Palettes stay; nothing is run here.
"""

import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from plainunet.data.problems import command

_TURNS = {
    2: "FLIP_LEFT_RIGHT",
    3: "ROTATE_180",
    4: "FLIP_TOP_BOTTOM",
    5: "TRANSPOSE",
    6: "ROTATE_270",
    7: "TRANSVERSE",
    8: "ROTATE_90",
}


def replace_values(table: Mapping[int, int], masks: Sequence[Path]) -> str:
    """Replace values of 8-bit masks.

    Args:
        table: The new value of each old one; others stay.
        masks: The masks.

    Returns:
        The command.
    """
    return _for_each(f"m.point({_write_table(table)}).save(f)", masks)


def exchange_values(low: int, high: int, masks: Sequence[Path]) -> str:
    """Exchange the two values of binary masks of 8 bits or one.

    Args:
        low: One value.
        high: The other.
        masks: The masks.

    Returns:
        The command.
    """
    said = _write_table({low: high, high: low})
    one_bit = _write_table({0: 255, 255: 0})  # as Pillow keeps what is read as 0 and 1
    return _for_each(f'm.point({one_bit} if m.mode == "1" else {said}).save(f)', masks)


def turn(how: int, masks: Sequence[Path]) -> str:
    """Mirror or turn masks, as `turn_upright(mask, how)` does.

    Args:
        how: 2..8.
        masks: The masks.

    Returns:
        The command.
    """
    return _for_each(f"m.transpose(Image.Transpose.{_TURNS[how]}).save(f)", masks)


def move(dx: int, dy: int, masks: Sequence[Path]) -> str:
    """Move masks; what comes in at the border is of value 0.

    Args:
        dx: Pixels to the right.
        dy: Pixels down.
        masks: The masks.

    Returns:
        The command.
    """
    how = f"m.size, Image.Transform.AFFINE, (1, 0, {-dx}, 0, 1, {-dy})"
    return _for_each(f"m.transform({how}).save(f)", masks)


def resize(width: int, height: int, mask: Path) -> str:
    """Bring a mask to another size, without values between its values.

    Args:
        width: New width [pixels].
        height: New height [pixels].
        mask: The mask.

    Returns:
        The command.
    """
    how = f"({width}, {height}), Image.Resampling.NEAREST"
    return _for_each(f"m.resize({how}).save(f)", [mask])


def drop_orientation(picture: Path, kind: str) -> str:
    """Take the EXIF orientation out of a picture, so that it is shown as stored.

    Args:
        picture: The picture.
        kind: Its format, as of `find_kind`.

    Returns:
        The command.
    """
    keep = ", quality='keep'" if kind == "jpeg" else ""
    how = f"m.getexif().pop(274, 0), m.save(f, exif=m.getexif(){keep})"
    return _for_each(f"({how})", [picture])


def exchange(one: Path, other: Path) -> str:
    """Exchange two files.

    Args:
        one: A file.
        other: Another one.

    Returns:
        The command.
    """
    aside = one.with_name(f"{one.name}.aside")
    steps = [("mv", one, aside), ("mv", other, one), ("mv", aside, other)]
    return " && ".join(command(*step) for step in steps)


def _write_table(table: Mapping[int, int]) -> str:
    """Write 256 values shortly: "[*range(0, 255), 1]"."""
    values = [table.get(value, value) for value in range(256)]
    runs: list[str] = []
    start = 0
    while start < len(values):
        end = start + 1
        while end < len(values) and values[end] == values[end - 1] + 1:
            end += 1
        several = end - start > 1
        runs.append(
            f"*range({values[start]}, {values[end - 1] + 1})" if several else f"{values[start]}"
        )
        start = end
    return f"[{', '.join(runs)}]"


def _for_each(what: str, files: Sequence[Path]) -> str:
    code = (
        "import sys; from PIL import Image; "
        f"[(m.load(), {what}) for f in sys.argv[1:] for m in [Image.open(f)]]"
    )
    # the one that has Pillow
    found = shutil.which("python")
    is_own = found is not None and Path(found).resolve() == Path(sys.executable).resolve()
    return command("python" if is_own else sys.executable, "-c", code, *files)
