"""`plainunet fix`: printed lines are run on planted faults; what they change can be undone."""

import errno
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image

import plainunet.doctor.fix as fixing
from plainunet.config import DataConfig
from plainunet.dataset.lists import find_images
from plainunet.doctor.diagnose import check, fix
from plainunet.doctor.findings import Finding
from plainunet.doctor.fix import BACKUP, apply, is_possible, undo
from plainunet.formats.image_files import turn_upright
from plainunet.formats.masks import mask_traits, read_mask
from plainunet.formats.problems import Change

from ..folders import save
from ..formats.test_images import png
from .conftest import call, mask_of, spoil

Masks = dict[str, np.ndarray]
Tree = dict[str, bytes | str]
Ids = Callable[[np.ndarray], np.ndarray]
Plant = Callable[[Path, Masks], object]
IDS = np.random.default_rng(0).integers(0, 3, (20, 30)).astype(np.uint8)


def tree_of(folder: Path) -> Tree:
    """Every path below a folder: content, where a link leads, or "" for a folder."""
    return {
        os.fspath(path.relative_to(folder)): str(path.readlink())
        if path.is_symlink()
        else path.read_bytes()
        if path.is_file()
        else ""
        for path in folder.rglob("*")
    }


def true_masks(folder: Path) -> Masks:
    """The class ids of the masks by their stems."""
    return {path.stem: read_mask(path) // 255 for path in sorted((folder / "masks").iterdir())}


# planted faults: each leaves the folder spoilt, and `true` as it is to be afterwards


def of_mask(how: Ids) -> Plant:
    return lambda folder, true: spoil(folder, "03", how(mask_of(folder, "03")))


def of_all(how: Ids, odd: Ids) -> Plant:
    """All masks are saved as `how` makes them of class ids, that of image 03 as `odd` does."""
    return lambda folder, true: [
        spoil(folder, stem, (odd if stem == "03" else how)(ids)) for stem, ids in true.items()
    ]


def black_and_white(value: int = 0) -> Ids:
    """0 and 255, and one pixel of another value."""
    return lambda ids: np.where(
        np.arange(ids.size).reshape(ids.shape) == 322, value, ids * 255
    ).astype(np.uint8)


def colored(ids: np.ndarray) -> np.ndarray:
    return np.array([[0, 0, 0], [0, 90, 255]], np.uint8)[ids]


def swap(folder: Path, true: Masks) -> None:
    one, other = mask_of(folder, "03"), mask_of(folder, "08")
    spoil(folder, "03", other)
    spoil(folder, "08", one)


def by_exif(orientation: int) -> Plant:
    def plant(folder: Path, true: Masks) -> None:
        exif = Image.Exif()
        exif[0x0112] = orientation
        with Image.open(folder / "images/03.png") as image:
            image.save(folder / "images/03.png", exif=exif)
        true["03"] = turn_upright(true["03"], orientation)

    return plant


def renamed(new: str, *folders: str) -> Plant:
    return lambda folder, true: [
        (folder / name / "03.png").rename(folder / name / new) for name in folders
    ]


def hide_a_class(folder: Path, true: Masks) -> None:
    colors = np.array([[0, 0, 0, 0], [0, 0, 0, 255], [255, 0, 0, 255]], np.uint8)
    for stem in true:
        true[stem][:10, :20] = 2
        spoil(folder, stem, colors[true[stem]])


def add_infrared(folder: Path, true: Masks) -> None:
    """As GDAL writes four bands of 8 bits: the last is marked as alpha."""
    for path in sorted((folder / "images").iterdir()):
        with Image.open(path) as image:
            bands = np.array(image.convert("RGB"))
        steps = np.arange(bands[..., 0].size).reshape(bands.shape[:2]).astype(np.uint8)
        Image.fromarray(np.dstack([bands, steps])).save(path.with_suffix(".tif"))
        path.unlink()


def number_anew(folder: Path, true: Masks) -> None:
    """As labelme does: a folder for each image, in which classes count from 1 on."""
    for number, (stem, ids) in enumerate(true.items()):
        below, names = folder / f"{stem}_json", ["bee", "ant"]
        below.mkdir()
        mask_of_file = folder / "masks"
        ids[ids > 0], ids[:9, :9] = 2, 1  # ant is class 1
        order = (0, 2, 1) if number % 2 else (0, 1, 2)
        (folder / f"images/{stem}.png").rename(below / "img.png")
        save(below / "label.png", np.uint8(order)[ids])
        names = ["_background_", *(names if number % 2 else names[::-1])]
        (below / "label_names.txt").write_text("\n".join(names))
    shutil.rmtree(mask_of_file)
    (folder / "images").rmdir()


def number_in_two_folders(folder: Path, true: Masks) -> None:
    """Two folders of masks, each with a list of its own."""
    for number, (stem, ids) in enumerate(true.items()):
        ids[ids > 0], ids[:9, :9] = 2, 1  # ant is class 1
        order = (0, 2, 1) if number % 2 else (0, 1, 2)
        below = f"site {'ab'[number % 2]}"
        (folder / f"masks/{stem}.png").unlink()
        save(folder / "masks" / below / f"{stem}.png", np.uint8(order)[ids])
        (folder / "images" / below).mkdir(exist_ok=True)
        (folder / f"images/{stem}.png").rename(folder / f"images/{below}/{stem}.png")
        names = ["background", *(["bee", "ant"] if number % 2 else ["ant", "bee"])]
        (folder / "masks" / below / "classes.txt").write_text("\n".join(names))


def list_what_is_gone(folder: Path, true: Masks) -> None:
    (folder / "list.csv").write_text("image,mask\nimages/00.png,masks/00.png\ngone.png,gone.png\n")
    (folder / "dataset.toml").write_text('pairs = "list.csv"\n')


@dataclass(frozen=True)
class Planted:
    code: str
    plant: Plant
    config: dict[str, Any] = field(default_factory=dict)
    nearly: float = 0.0  # share of pixels that cannot be brought back


PLANTED = {
    "mirrored": Planted("flipped", of_mask(np.fliplr)),
    "turned": Planted("size-mismatch", of_mask(np.rot90)),
    "coloured": Planted("size-mismatch", of_all(colored, lambda ids: np.rot90(colored(ids), 3))),
    "shifted": Planted("shifted", of_mask(lambda m: np.roll(m, (8, -6), (0, 1))), nearly=0.03),
    "inverted": Planted("inverted", of_mask(lambda mask: 255 - mask)),
    "exif 3": Planted("exif", by_exif(3)),
    "exif 8": Planted("size-mismatch", by_exif(8)),
    "swapped": Planted("swapped", swap),
    "reduced": Planted("size-mismatch", of_mask(lambda mask: mask[::2, ::2]), nearly=0.02),
    "suffix": Planted("wrong-extension", renamed("03.jpg", "images")),
    "latin-1": Planted("name-not-utf8", renamed(os.fsdecode(b"03\xe9.png"), "images", "masks")),
    "misspelt": Planted("no-mask", renamed("03_.png", "masks")),
    "no image": Planted("no-image", renamed("03.dat", "images")),
    "two images": Planted("two-partners", lambda folder, _: save(folder / "images/03.tif", IDS)),
    "loop": Planted("link-loop", lambda folder, _: (folder / "images/a").symlink_to("../images")),
    "folder": Planted("not-an-image", lambda folder, _: (folder / "images/a.png").mkdir()),
    "hidden class": Planted("transparent", hide_a_class),
    "255 and 1": Planted("ambiguous-255", of_all(np.array, black_and_white())),
    "stray": Planted(
        "stray-value", of_all(black_and_white(9), black_and_white(77)), {"ignore": 9}, 0.001
    ),
    "list": Planted("unclear", list_what_is_gone),
    "infrared": Planted("transparent", add_infrared),
    "labelme": Planted("legends-differ", number_anew),
    "two lists": Planted("legends-differ", number_in_two_folders),
}
IN_BASH = ("misspelt",)


def run_in_bash(line: str) -> int:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    words, environment = ["bash", "-c", line], {**os.environ, "PATH": path}
    return subprocess.run(words, cwd="/", env=environment, check=False).returncode


def of_code(folder: Path, planted: Planted) -> list[Finding]:
    found = check(folder, DataConfig(**planted.config)).findings
    return [each for each in found if each.code == planted.code]


@pytest.mark.parametrize(
    ("name", "run"),
    [
        *((name, run_in_bash if name in IN_BASH else call) for name in PLANTED),
        *(
            pytest.param(name, run_in_bash, marks=pytest.mark.slow)
            for name in PLANTED
            if name not in IN_BASH
        ),
    ],
)
def test_the_printed_line_fixes_it_and_is_undone(
    scenes: Path, name: str, run: Callable[[str], int]
) -> None:
    planted = PLANTED[name]
    folder = scenes.rename(scenes.with_name("my scenes"))
    true = true_masks(folder)
    planted.plant(folder, true)
    spoilt = tree_of(folder)
    (line,) = {each.fix.line for each in of_code(folder, planted) if each.fix}
    assert run(line) == 0
    assert of_code(folder, planted) == []
    result = check(folder, DataConfig(**planted.config))
    assert result.contents
    stems = {
        p: (p.image if p.image.stem != "img" else p.image.parent).name[:2] for p in result.pairs
    }
    found = {stems[p]: result.contents.coding.read(p.mask) for p in result.pairs}
    assert found.keys() == true.keys()
    for stem, ids in found.items():
        assert (ids != true[stem]).mean() <= planted.nearly
    # of what was there, only names are gone
    assert {*spoilt.values()} - {*tree_of(folder).values()} <= {"../images"}
    assert not any(BACKUP in path.parts for path in find_images([folder]) if isinstance(path, Path))
    assert run(f"plainunet fix {shlex.quote(str(folder))} --undo") == 0
    assert tree_of(folder) == spoilt


def test_no_line_is_printed_where_lists_cannot_be_joined(scenes: Path) -> None:
    """WebP masks cannot be renumbered, nor can those without a list."""
    number_in_two_folders(scenes, true_masks(scenes))
    (finding,) = of_code(scenes, PLANTED["two lists"])
    assert finding.fix is not None
    masks = sorted((scenes / "masks").rglob("*.png"))
    for path in masks:
        with Image.open(path) as mask:
            mask.save(path.with_suffix(".webp"), lossless=True)
        path.unlink()
    (finding,) = of_code(scenes, PLANTED["two lists"])
    assert finding.fix is None
    names = ("background", "ant", "bee")
    assert check(scenes, DataConfig(classes=names)).contents is not None


# what is changed in a file, and what is not

GEO = [(33550, 12, 3, (2.0, 2.0, 0.0), True), (42113, 2, 2, "9", True)]


def with_palette() -> Image.Image:
    image = Image.fromarray(IDS)
    image.putpalette([0, 0, 0, 200, 0, 0, 0, 0, 200, 9, 9, 9])
    return image


SAVED: dict[str, Callable[[Path], object]] = {
    "grey.png": lambda path: Image.fromarray(IDS).save(path),
    "deep.png": lambda path: Image.fromarray(IDS.astype(np.uint16) * 300).save(path),
    "two_bits_of_grey.png": lambda path: path.write_bytes(png(IDS[..., None], 2)),
    "one.png": lambda path: Image.fromarray(IDS > 0).save(path),
    "palette.png": lambda path: with_palette().save(path),
    "two_bits.png": lambda path: with_palette().save(path, bits=2, transparency=3),
    "rgba.png": lambda path: Image.fromarray(np.dstack([IDS] * 4)).save(path),
    "palette.gif": lambda path: with_palette().save(path),
    "palette.bmp": lambda path: with_palette().save(path),
    "lzw.tif": lambda path: with_palette().save(path, compression="tiff_lzw"),
    "group4.tif": lambda path: Image.fromarray(IDS > 0).save(path, compression="group4"),
    "geo.tif": lambda path: tifffile.imwrite(
        path, IDS.astype(np.uint16) * 300, compression="zlib", tile=(16, 16), extratags=GEO
    ),
    "signed.tif": lambda path: tifffile.imwrite(path, IDS.astype(np.int16) - 1, byteorder=">"),
    "white.tif": lambda path: tifffile.imwrite(path, IDS, photometric="miniswhite"),
    "ids.npy": lambda path: np.save(path, IDS.astype(np.int32)),
}


def changes_of(path: Path) -> Iterator[tuple[Change, np.ndarray]]:
    """Changes of a mask, and the values that it is to have then."""
    mask = read_mask(path)
    for turn in range(2, 9):
        yield Change("turn", (path,), (turn,)), turn_upright(mask, turn)
    for dx, dy in ((3, 0), (-2, 5)):
        rows, columns = np.ix_((np.arange(20) - dy).clip(0, 19), (np.arange(30) - dx).clip(0, 29))
        yield Change("move", (path,), (dx, dy)), mask[rows, columns]
    yield Change("resize", (path,), (60, 40)), mask.repeat(2, axis=0).repeat(2, axis=1)
    low, high = (int(value) for value in np.unique(mask)[:2])
    exchanged = np.where(mask == low, high, np.where(mask == high, low, mask))
    yield Change("values", (path,), ((low, high), (high, low))), exchanged


def facts_of(path: Path) -> object:
    """What a mask's file says beside its values."""
    if path.suffix == ".npy":
        return np.load(path).dtype
    if path.suffix != ".tif":
        with Image.open(path) as image:
            bits = path.read_bytes()[24] if path.suffix == ".png" else 0
            return image.mode, image.getpalette(), image.info.get("transparency"), bits
    with tifffile.TiffFile(path) as tiff:
        page, tags = tiff.pages.first, (258, 259, 262, 320, 322, 339, 33550, 42113)
        return tiff.byteorder, [str(page.tags.valueof(tag)) for tag in tags]


@pytest.mark.parametrize("name", SAVED)
def test_all_but_the_values_is_kept(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    SAVED[name](path)
    path.chmod(0o640)
    before, facts = tree_of(tmp_path), facts_of(path)
    traits = mask_traits(path)._replace(clear=None)  # a matter of pixels
    for change, wanted in changes_of(path):
        if name == "geo.tif" and wanted.shape != IDS.shape:
            assert not is_possible(change)  # its coordinates would be wrong
            continue
        assert is_possible(change)
        apply(tmp_path, "flipped", [change])
        np.testing.assert_array_equal(read_mask(path), wanted)
        assert (facts_of(path), mask_traits(path)._replace(clear=None)) == (facts, traits)
        assert path.stat().st_mode & 0o777 == 0o640
        undo(tmp_path)
        assert tree_of(tmp_path) == before


def test_what_would_lose_something_has_no_fix(tmp_path: Path) -> None:
    names = ("a.jpg", "b.webp", "c.png", "d.png", "e.tif")
    paths = jpeg, webp, two_bits, turned, stack = [tmp_path / name for name in names]
    for path in paths[:2]:
        Image.fromarray(IDS).save(path)
    with_palette().save(two_bits, bits=2)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(IDS).save(turned, exif=exif)
    tifffile.imwrite(stack, np.stack([IDS, IDS]), photometric="minisblack")
    (tmp_path / "link").symlink_to("gone")
    for change in (
        *(Change("turn", (path,), (2,)) for path in (jpeg, webp, turned, stack, tmp_path / "none")),
        Change("values", (two_bits,), ((1, 77),)),
        Change("flatten", (two_bits, jpeg), (0xFF00FF,)),
        Change("rename", (jpeg,), (two_bits,)),
        Change("unlink", (jpeg,)),
        Change("turn", (), (2,)),
    ):
        assert not is_possible(change), change


# the rest of the verb


def test_single_files_and_what_is_left(scenes: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for stem in ("03", "08"):
        spoil(scenes, stem, np.fliplr(mask_of(scenes, stem)))
    spoilt = tree_of(scenes)
    lines = {each.fix.line for each in check(scenes).findings if each.fix}
    assert lines == {f"plainunet fix {scenes} flipped"}
    assert call(f"plainunet fix {scenes}") == 0
    assert f"\n$ plainunet fix {scenes} flipped\n" in capsys.readouterr().out
    assert call(f"plainunet fix {scenes} flipped --dry-run") == 0
    assert tree_of(scenes) == spoilt
    assert call(f"plainunet fix {scenes} flipped masks/03.png") == 0
    assert [each.files[0].name for each in check(scenes).findings] == ["08.png"]
    assert call(f"plainunet fix {scenes} flipped {scenes / 'masks/08.png'}") == 0
    assert check(scenes).findings == []
    # the last one first
    fixed = tree_of(scenes)
    assert call(f"plainunet fix {scenes} --undo --dry-run") == 0
    assert "masks/08.png" in capsys.readouterr().out
    assert tree_of(scenes) == fixed
    for left in (1, 2):
        assert call(f"plainunet fix {scenes} flipped --undo") == 0
        assert len(check(scenes).findings) == left
    assert tree_of(scenes) == spoilt


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("flopped", "'flipped'"),
        ("nothing-alike", r"^nothing-alike: .{1,99}$"),
        ("shifted", "'shifted'"),
        ("cut-off", "--write"),
        ("flipped images/00.png", "00.png"),
        ("--undo", r"\.plainunet-backup"),
        ("shifted --undo", r"\.plainunet-backup .*shifted"),
        ("flipped masks/03.png --undo", "--undo"),
    ],
)
def test_what_cannot_be_fixed_is_an_error(scenes: Path, words: str, message: str) -> None:
    spoil(scenes, "03", np.fliplr(mask_of(scenes, "03")))
    image = scenes / "images/05.png"
    image.write_bytes(image.read_bytes()[:-99])
    before = tree_of(scenes)
    with pytest.raises(ValueError, match=message):
        call(f"plainunet fix {scenes} {words}")
    assert tree_of(scenes) == before


def test_swapped_arguments_are_reported(scenes: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"^flipped: .*fix DATA CODE"):
        call(f"plainunet fix flipped {scenes}")
    with pytest.raises(FileNotFoundError, match=r"gone: [^:]*$"):
        call(f"plainunet fix {tmp_path / 'gone'} flipped")


def test_findings_without_a_fix_are_named(scenes: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (scenes / "masks/03.png").rename(scenes / "masks/03_.png")
    (scenes / "masks/08.png").unlink()
    found = {each.files[0].name: each.fix for each in check(scenes).findings}
    assert [name for name, each in found.items() if each and each.change] == ["03.png", "03_.png"]
    for words in ("check", "fix", "fix {} no-mask --dry-run", "fix {} no-mask"):
        call(f"plainunet {words.format(scenes) if '{' in words else f'{words} {scenes}'}")
        lines = [line for line in capsys.readouterr().out.splitlines() if "not fixed" in line]
        assert len(lines) == 1, words
        assert "images/08.png" in lines[0]


@pytest.mark.usefixtures("file_modes")
def test_masks_that_cannot_be_written_leave_no_record(scenes: Path) -> None:
    for stem in ("03", "08"):
        spoil(scenes, stem, np.fliplr(mask_of(scenes, stem)))
    spoilt, masks = tree_of(scenes), scenes / "masks"
    masks.chmod(0o555)
    try:
        with pytest.raises(OSError, match=r"03\.png"):
            call(f"plainunet fix {scenes} flipped")
    finally:
        masks.chmod(0o755)
    assert tree_of(scenes) == spoilt


def test_a_fix_that_fails_halfway_can_be_undone(
    scenes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for stem in ("03", "08"):
        spoil(scenes, stem, np.fliplr(mask_of(scenes, stem)))
    spoilt, written = tree_of(scenes), fixing._write

    def fail(path: Path, content: bytes) -> None:
        if path.name == "08.png":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        written(path, content)

    monkeypatch.setattr(fixing, "_write", fail)
    with pytest.raises(ValueError, match=r"08\.png(?s:.*)\$ plainunet fix .* --undo"):
        call(f"plainunet fix {scenes} flipped")
    (folder,) = (scenes / BACKUP).iterdir()
    assert {path.name for path in folder.iterdir()} == {"record.jsonl", "0-0"}
    undo(scenes)
    assert tree_of(scenes) == spoilt


def test_what_was_changed_since_is_not_overwritten(scenes: Path) -> None:
    for stem in ("03", "08"):
        spoil(scenes, stem, np.fliplr(mask_of(scenes, stem)))
    spoilt = tree_of(scenes)
    fixed = fix(scenes, "flipped", config=DataConfig())
    assert fixed.backup
    for path in (scenes / "masks/08.png", fixed.backup / "1-0"):
        content = path.read_bytes()
        path.write_bytes(b"mine")
        changed = tree_of(scenes)
        with pytest.raises(ValueError, match=str(path)):
            undo(scenes)
        assert tree_of(scenes) == changed
        path.write_bytes(content)
    undo(scenes)
    assert tree_of(scenes) == spoilt


def test_a_link_is_replaced_and_what_it_leads_to_is_not(scenes: Path, tmp_path: Path) -> None:
    path = spoil(scenes, "03", np.fliplr(mask_of(scenes, "03")))
    original = path.rename(tmp_path / "original.png")
    path.symlink_to(original)
    spoilt, content = tree_of(scenes), original.read_bytes()
    assert call(f"plainunet fix {scenes} flipped") == 0
    assert not path.is_symlink()
    assert original.read_bytes() == content
    undo(scenes)
    assert tree_of(scenes) == spoilt


def test_a_list_or_a_pattern_keeps_the_names_that_it_gives(scenes: Path) -> None:
    rows = ["image,mask"]
    for path in sorted((scenes / "images").iterdir()):
        path.rename(path.with_suffix(".jpg"))
        rows.append(f"images/{path.stem}.jpg,masks/{path.name}")
    (scenes / "list.csv").write_text("\n".join(rows))
    for pairs in ("images/*.jpg:masks/*.png", "list.csv"):
        found = check(scenes, DataConfig(pairs=pairs)).findings
        assert {(each.code, each.fix) for each in found} == {("wrong-extension", None)}


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL")
@pytest.mark.parametrize("kill", [signal.SIGKILL, signal.SIGINT])
def test_what_was_killed_is_undone(scenes: Path, kill: signal.Signals) -> None:
    hide_a_class(scenes, true_masks(scenes))
    spoilt, first = tree_of(scenes), scenes / "masks/00.png"
    words = [sys.executable, "-m", "plainunet", "fix", str(scenes), "transparent"]
    began, inode = time.monotonic(), first.stat().st_ino
    with subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
        while first.stat().st_ino == inode and time.monotonic() < began + 60:
            time.sleep(0.0002)
        process.send_signal(kill)
        _, message = process.communicate()
    assert process.returncode == (130 if kill == signal.SIGINT else -kill)
    assert (b"--undo" in message) == (kill == signal.SIGINT)
    assert tree_of(scenes) != spoilt
    undo(scenes)
    assert tree_of(scenes) == spoilt


@pytest.mark.skipif(sys.platform == "win32", reason="the signal ends the process")
def test_what_was_interrupted_before_a_change_proposes_no_undo(scenes: Path) -> None:
    """It would undo an earlier fix."""
    spoil(scenes, "03", np.fliplr(mask_of(scenes, "03")))
    assert call(f"plainunet fix {scenes} flipped") == 0
    spoil(scenes, "05", np.fliplr(mask_of(scenes, "05")))
    spoilt = tree_of(scenes)
    stopped = "import os, signal, plainunet.__main__ as m, plainunet.doctor.diagnose as d\n"
    stopped += "d.apply = lambda *_: os.kill(os.getpid(), signal.SIGINT)\nm.main()"
    words = [sys.executable, "-c", stopped, "fix", str(scenes), "flipped"]
    result = subprocess.run(words, capture_output=True, text=True, check=False)
    assert (result.returncode, "--undo" in result.stderr) == (130, False)
    assert tree_of(scenes) == spoilt
