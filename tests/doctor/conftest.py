"""A valid folder to be spoilt, and ways to look at it."""

import shlex
import shutil
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from plainunet.cli import app
from plainunet.doctor.diagnose import check

from ..folders import make_pair

CodesOf = Callable[[Path], dict[str, list[str]]]


def draw_scene(seed: int, height: int = 120, width: int = 160) -> tuple[np.ndarray, np.ndarray]:
    """An image [H, W, 3] uint8 of two bright shapes on a textured ground, and its mask."""
    random = np.random.default_rng(seed)
    ground = random.integers(0, 80, (height // 8, width // 8, 3)).astype(np.float32)
    image = cv2.resize(ground, (width, height), interpolation=cv2.INTER_CUBIC)
    mask = np.zeros((height, width), np.uint8)
    for _ in range(2):
        center = int(random.integers(30, width - 30)), int(random.integers(25, height - 25))
        axes = int(random.integers(12, 28)), int(random.integers(8, 16))
        turn = float(random.integers(0, 180))
        cv2.ellipse(mask, center, axes, turn, 0, 360, 1, -1)
        tip = (center[0] + axes[0] + 8, center[1] + 14)
        cv2.fillPoly(mask, [np.array([center, tip, (center[0], center[1] + 20)])], 1)
    image += mask[..., None] * random.integers(110, 150, 3)
    image += random.normal(0, 4, image.shape)
    return image.clip(0, 255).astype(np.uint8), mask


@pytest.fixture(scope="session")
def drawn_scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scenes")
    for number in range(12):
        image, mask = draw_scene(number)
        make_pair(folder, f"{number:02d}", image, mask * np.uint8(255))
    return folder


@pytest.fixture
def scenes(drawn_scenes: Path, tmp_path: Path) -> Path:
    """`images/` + `masks/`: twelve RGB PNG [120, 160], masks 0/255; nothing is wrong with it."""
    return shutil.copytree(drawn_scenes, tmp_path / "scenes")


def mask_of(folder: Path, stem: str) -> np.ndarray:
    return np.array(Image.open(folder / "masks" / f"{stem}.png"))


def spoil(folder: Path, stem: str, mask: np.ndarray) -> Path:
    """Save another mask in the place of one."""
    path = folder / "masks" / f"{stem}.png"
    Image.fromarray(np.ascontiguousarray(mask)).save(path)
    return path


def copy_pair(folder: Path, old: str, new: str) -> None:
    """Copy an image and its mask; their names start from images/ and masks/."""
    for name in ("images", "masks"):
        shutil.copy(folder / name / old, folder / name / new)


def divide(folder: Path, part_of: Callable[[str], str]) -> None:
    """Move images and masks into parts, by their stems."""
    for name in ("images", "masks"):
        for path in sorted((folder / name).glob("*.png")):
            new = path.parent / part_of(path.stem) / path.name
            new.parent.mkdir(exist_ok=True)
            path.rename(new)


@pytest.fixture
def codes_of() -> CodesOf:
    """Check a folder; the names of the files of each code."""

    def look(folder: Path) -> dict[str, list[str]]:
        found: dict[str, list[str]] = {}
        for finding in check(folder).findings:
            names = [file.relative_to(folder).as_posix() for file in finding.files]
            found.setdefault(finding.code, []).extend(names)
        return found

    return look


def call(line: str) -> int:
    """Run `plainunet` with the words of a line; its exit code."""
    words = shlex.split(line)
    assert words.pop(0) == "plainunet"
    code = app(words, exit_on_error=False, print_error=False, result_action="return_value")
    assert isinstance(code, int)
    return code
