"""What the masks of a folder hold, and those that do not go with the others."""

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from plainunet.config import DataConfig
from plainunet.dataset.census import MaskCounts, count_masks
from plainunet.dataset.coding import Threshold, Values
from plainunet.dataset.pairs import Pair
from plainunet.doctor.diagnose import census_of, check, write_valid
from plainunet.doctor.findings import Finding, Findings
from plainunet.doctor.fix import apply
from plainunet.doctor.masks import Contents, check_contents, find_contents
from plainunet.formats.colors import unpack
from plainunet.formats.problems import Change

from ..folders import write_tiff

IDS = np.tile(np.array([[0, 0, 1], [2, 1, 0]], np.uint8), (8, 8))
BINARY = (IDS > 0).astype(np.uint8)
WHITE = BINARY * np.uint8(255)
LEGEND = np.array([[200, 30, 30], [30, 30, 200], [240, 240, 40]], np.uint8)
COLORS = tuple(bytes(color).hex() for color in LEGEND)


def write(folder: Path, masks: Sequence[np.ndarray], suffix: str = ".png") -> list[Path]:
    paths = [folder / f"{number}{suffix}" for number in range(len(masks))]
    for path, mask in zip(paths, masks, strict=True):
        Image.fromarray(mask).save(path)
    return paths


def understand(
    paths: Sequence[Path], config: DataConfig | None = None
) -> tuple[Contents | None, Findings, list[MaskCounts]]:
    findings = Findings(Path("x"))
    counts = [count for count in count_masks(paths) if isinstance(count, MaskCounts)]
    assert len(counts) == len(paths)
    return find_contents(counts, config or DataConfig(), findings), findings, counts


def codes(findings: Findings) -> dict[str, list[str]]:
    return {
        each.code: [file.name for file in each.files]
        for each in sorted(findings.found, key=lambda each: each.files)
    }


def line_of(finding: Finding) -> str:
    assert finding.fix is not None
    return finding.fix.line


def make(finding: Finding, folder: Path) -> None:
    """Make the change of files that fixes a finding."""
    assert finding.fix is not None
    assert finding.fix.change is not None
    apply(folder, finding.code, [finding.fix.change])


# masks that make sense together


def test_classes_are_counted_in_each_mask(tmp_path: Path) -> None:
    contents, findings, counts = understand(write(tmp_path, [IDS, IDS.T, BINARY]))
    assert contents is not None
    assert findings.found == []
    assert contents.coding == Values((0, 1, 2))
    for row, mask in enumerate([IDS, IDS.T, BINARY]):
        assert contents.pixels[row].tolist() == np.bincount(mask.ravel(), minlength=3).tolist()
    values = [(each["value"], each["masks"]) for each in census_of(counts)]
    assert values == [(0, 3), (1, 3), (2, 2)]
    some = contents.only(contents.masks[2:0:-1])
    assert some.masks == contents.masks[2:0:-1]
    assert some.pixels.tolist() == contents.pixels[2:0:-1].tolist()


def test_colours_are_counted(tmp_path: Path) -> None:
    palette = np.array([[0, 0, 0], [200, 0, 0], [0, 0, 200]], np.uint8)
    contents, findings, _ = understand(write(tmp_path, [palette[IDS], palette[IDS[::-1]]]))
    assert contents is not None
    assert findings.found == []
    # sorted by red, green and blue
    counts = np.bincount(IDS.ravel())
    assert contents.pixels.tolist() == [[counts[0], counts[2], counts[1]]] * 2


@pytest.mark.parametrize(
    ("masks", "config", "code"),
    [
        ([np.full((8, 8), number * 20, np.uint8) for number in range(6)], {}, "stray-value"),
        ([np.zeros((8, 8), np.uint8)] * 3, {}, "one-class"),
        ([BINARY] * 6, {"values": (0, 5)}, "stray-value"),
    ],
)
def test_masks_that_make_no_sense_together(
    tmp_path: Path, masks: list[np.ndarray], config: dict[str, object], code: str
) -> None:
    contents, findings, _ = understand(write(tmp_path, masks), DataConfig(**config))  # type: ignore[arg-type]
    assert contents is None
    assert (findings.found[-1].code, findings.found[-1].severity) == (code, "error")
    if code == "one-class" or config:
        assert len(findings.found) == 1


# masks with values of no class


def test_strays_are_set_aside_one_by_one(tmp_path: Path) -> None:
    masks = [IDS.copy() for _ in range(8)]
    masks[3][2, 2] = 77
    masks[5][:2, :2] = 99
    contents, findings, _ = understand(write(tmp_path, masks))
    assert contents is not None
    assert contents.coding.values == (0, 1, 2)
    assert [path.stem for path in contents.masks] == list("012467")
    assert {(each.code, each.files[0].stem, line_of(each)) for each in findings.found} == {
        ("stray-value", "3", "plainunet check x --ignore 77 --write"),
        ("stray-value", "5", "plainunet check x --ignore 99 --write"),
    }


def test_a_stray_where_another_value_is_ignored_already(tmp_path: Path) -> None:
    masks = [IDS.copy() for _ in range(6)]
    for mask in masks:
        mask[0, 0] = 9
    masks[3][2, 2] = 77
    paths = write(tmp_path, masks)
    contents, findings, _ = understand(paths, DataConfig(ignore=9))
    assert contents is not None
    (finding,) = findings.found
    # the flag takes one value, so the pixels get that
    make(finding, tmp_path)
    assert np.asarray(Image.open(paths[3]))[2, 2] == 9
    assert understand(paths, DataConfig(ignore=9))[1].found == []


def test_a_value_in_several_masks_is_one_finding(tmp_path: Path) -> None:
    masks = [IDS.copy() for _ in range(40)]
    for number in (3, 8):
        masks[number][2, 2] = 77
    (finding,) = understand(write(tmp_path, masks))[1].found
    assert [file.stem for file in finding.files] == ["3", "8"]
    assert line_of(finding) == "plainunet check x --ignore 77 --write"


def test_a_value_in_many_masks_is_no_slip(tmp_path: Path) -> None:
    masks = [np.where(IDS == 2, 4, IDS) for _ in range(8)]
    contents, findings, _ = understand(write(tmp_path, masks))
    assert contents is None
    line = "plainunet check x --values 0 1 4 --write"
    assert [line_of(each) for each in findings.found] == [line]
    config = DataConfig(values=(0, 1), ignore=9)
    (finding,) = understand(write(tmp_path, masks), config)[1].found
    assert line_of(finding) == "plainunet check x --values 0 1 4 --write"


def test_a_mask_of_many_strays_is_left_out(tmp_path: Path) -> None:
    masks = [IDS.copy() for _ in range(6)]
    masks[3] *= 40
    (finding,) = understand(write(tmp_path, masks))[1].found
    assert (finding.code, line_of(finding)) == ("stray-value", "plainunet check x --write")


def test_a_mask_of_many_values_is_named(tmp_path: Path) -> None:
    masks = [BINARY.copy() for _ in range(6)]
    masks[2] = np.arange(BINARY.size, dtype=np.uint8).reshape(BINARY.shape)
    contents, findings, _ = understand(write(tmp_path, masks))
    assert contents is not None
    assert codes(findings) == {"many-values": ["2.png"]}
    assert "256 values" in findings.found[0].message


@pytest.mark.parametrize(
    ("masks", "at_fault", "values"),
    [([BINARY] * 6 + [WHITE], ["6"], (0, 1)), ([WHITE] * 6 + [BINARY] * 2, ["6", "7"], (0, 255))],
)
def test_255_of_another_convention(
    tmp_path: Path, masks: list[np.ndarray], at_fault: list[str], values: tuple[int, int]
) -> None:
    paths = write(tmp_path, masks)
    contents, findings, _ = understand(paths)
    assert contents is not None
    assert contents.coding.values == values
    (finding,) = findings.found
    assert (finding.code, [file.stem for file in finding.files]) == ("ambiguous-255", at_fault)
    make(finding, tmp_path)
    assert understand(paths)[1].found == []


def test_black_objects_on_white(tmp_path: Path) -> None:
    mask = np.full((20, 20), 255, np.uint8)
    mask[5:9, 5:9] = 0
    contents, findings, _ = understand(write(tmp_path, [mask] * 4))
    assert contents is not None
    (finding,) = findings.found
    assert (finding.code, finding.severity) == ("which-background", "warning")
    lines = [line for line in finding.message.splitlines() if line.startswith("$ ")]
    assert lines == [f"$ plainunet check x --values {each} --write" for each in ("255 0", "0 255")]
    assert understand(write(tmp_path, [mask] * 4), DataConfig(values=(0, 255)))[1].found == []


# masks that are not as they were drawn


@pytest.mark.parametrize("rows", [12, 0])
def test_black_is_class_0_of_black_and_white_palettes(tmp_path: Path, rows: int) -> None:
    """As of grey masks; white with nearly all pixels may be the background."""
    paths = [tmp_path / f"{number}.gif" for number in range(6)]
    for number, path in enumerate(paths):
        is_white = np.ones((24, 30), np.uint8)
        is_white[:rows] = is_white[6:8, 5:10] = 0
        flip = number % 2
        image = Image.fromarray(is_white ^ flip, "P")
        image.putpalette([0, 0, 0, 255, 255, 255][:: -1 if flip else 1])
        image.save(path)
    contents, findings, _ = understand(paths)
    assert contents is not None
    assert contents.pixels[:, 0].tolist() == [30 * rows or 10] * 6
    assert ("which-background" in codes(findings)) == (rows == 0)
    if rows == 0:
        assert "--colors FFFFFF 000000" in findings.found[0].message


def test_a_jpeg_among_png(tmp_path: Path) -> None:
    paths = write(tmp_path, [WHITE] * 5)
    paths[2].unlink()
    paths[2] = paths[2].with_suffix(".jpg")
    Image.fromarray(WHITE).save(paths[2])
    contents, findings, _ = understand(paths)
    assert contents is not None
    assert contents.coding == Values((0, 255))
    assert codes(findings) == {"lossy-mask": ["2.jpg"]}
    assert findings.found[0].severity == "error"


def test_smoothed_masks_are_named(tmp_path: Path) -> None:
    disc = ((np.indices((200, 200)) - 100) ** 2).sum(axis=0) < 70**2
    contents, findings, _ = understand(write(tmp_path, [disc * np.uint8(255)] * 4, ".jpg"))
    assert contents is not None
    assert isinstance(contents.coding, Threshold)
    assert {(each.code, each.severity) for each in findings.found} == {("lossy-mask", "warning")}
    assert {line_of(each) for each in findings.found} == {
        "plainunet check x --encoding threshold --write"
    }


@pytest.mark.parametrize(
    ("levels", "flags"),
    [
        ((0, 200), "--encoding threshold"),
        ((0, 100, 200), "--colors 000000 646464 C8C8C8"),
        ((0, 0x0000FF, 0xFF0000), "--colors 000000 0000FE FE0000"),
    ],
)
def test_the_levels_of_jpeg_masks_are_proposed(
    scenes: Path, levels: tuple[int, ...], flags: str
) -> None:
    ids = np.zeros((120, 160), np.uint8)
    ids[9:43, 11:45] = 1  # across the blocks of JPEG
    ids[53:85, 43:91] = len(levels) - 1
    table = np.array([unpack(level) if levels[-1] > 255 else (level,) * 3 for level in levels])
    shown = table[ids].astype(np.uint8)
    for path in (scenes / "masks").iterdir():
        path.unlink()
        mask = Image.fromarray(shown if levels[-1] > 255 else shown[..., 0])
        mask.save(path.with_suffix(".jpg"), quality=90, subsampling=0)
    (finding,) = of_code(scenes, "lossy-mask")
    assert line_of(finding).endswith(f"{flags} --write")


def test_names_of_a_legend_stay_when_masks_are_smoothed(scenes: Path) -> None:
    for path in (scenes / "masks").iterdir():
        smoothed = cv2.blur(np.uint8(255) * (np.asarray(Image.open(path)) > 0), (3, 3))
        Image.fromarray(smoothed).save(path)
    (scenes / "masks" / "class_dict.csv").write_text("name,r,g,b\nground,0,0,0\nroad,255,255,255\n")
    (finding,) = of_code(scenes, "lossy-mask")
    assert line_of(finding).endswith("--encoding threshold --classes ground road --write")


def test_a_photograph_among_masks(tmp_path: Path) -> None:
    paths = write(tmp_path, [BINARY] * 5)
    photo = np.random.default_rng(0).integers(0, 256, (16, 24, 3), dtype=np.uint8)
    Image.fromarray(photo).save(paths[1])
    contents, findings, _ = understand(paths)
    assert contents is not None
    assert contents.coding == Values((0, 1))
    assert codes(findings) == {"colored-mask": ["1.png"]}


def test_a_mask_without_a_palette_has_the_colours_of_the_others(tmp_path: Path) -> None:
    paths = write(tmp_path, [IDS, IDS.T, IDS, IDS, IDS])
    for path in paths[:4]:
        with Image.open(path) as ids:
            ids.putpalette(LEGEND.tobytes())
            ids.save(path)
    Image.fromarray(LEGEND[IDS]).save(paths[4])
    contents, findings, _ = understand(paths)
    assert contents is not None
    assert findings.found == []
    assert contents.coding.kind == "colors"
    for path in paths:
        ids = contents.coding.read(path)
        assert ids.tolist() == (IDS.T if path == paths[1] else IDS).tolist()
    contents, findings, _ = understand(paths, DataConfig(encoding="ids"))
    assert codes(findings) == {"colored-mask": ["4.png"]}
    Image.fromarray(LEGEND[IDS] // 2).save(paths[4])
    contents, findings, _ = understand(paths)
    assert contents is not None
    assert contents.coding.kind == "ids"
    assert codes(findings) == {"colored-mask": ["4.png"]}
    assert "palette of the others" in findings.found[0].message


def test_coloured_objects_are_counted_as_one_class(tmp_path: Path) -> None:
    masks = [np.zeros((16, 24, 3), np.uint8) for _ in range(4)]
    for number, mask in enumerate(masks):
        for part in range(3):
            mask[2:6, 2 + 8 * part : 6 + 8 * part] = 50 * number + 20, 70 * part + 9, 99
    paths = write(tmp_path, masks)
    contents, findings, _ = understand(paths)
    assert contents is None
    assert "--encoding instances --write\n" in findings.found[0].message
    contents, findings, _ = understand(paths, DataConfig(encoding="instances"))
    assert contents is not None
    assert findings.found == []
    assert contents.pixels.tolist() == [[16 * 24 - 48, 48]] * 4


def test_coloured_masks_of_which_most_are_empty(tmp_path: Path) -> None:
    colored = np.zeros((16, 24, 3), np.uint8)
    colored[4:9, 4:9] = 255, 0, 0
    paths = write(tmp_path, [np.zeros((16, 24), np.uint8)] * 5)
    Image.fromarray(colored).save(paths[1])
    contents, findings, _ = understand(paths)
    assert contents is not None
    assert contents.coding.kind == "colors"
    assert "colored-mask" not in codes(findings)


@pytest.mark.parametrize("count", [100, 101])
def test_many_classes_in_8_bits_are_asked_about(tmp_path: Path, count: int) -> None:
    """One mask with many of them is not set aside."""
    rows = np.random.default_rng(0).permutation(101).astype(np.uint8)[:count, None]
    masks = [np.repeat(part, 8, axis=0) for part in np.array_split(rows, 30)]
    paths = write(tmp_path, [*masks, np.repeat(rows[:60], 4, axis=1)])
    contents, findings, _ = understand(paths)
    assert contents is None
    (finding,) = findings.found
    assert finding.code == "many-values"
    assert finding.message.endswith(f"--encoding {'ids' if count == 101 else 'instances'} --write")


def mask_file(folder: Path, number: int, suffix: str = ".png") -> Path:
    return folder / "masks" / f"{number:02d}{suffix}"


def of_code(folder: Path, code: str, **config: object) -> list[Finding]:
    found = check(folder, DataConfig(**config)).findings  # type: ignore[arg-type]
    return [finding for finding in found if finding.code == code]


def test_a_grey_photo_among_smoothed_masks(scenes: Path) -> None:
    for number in range(1, 12):
        blurred = np.asarray(Image.open(mask_file(scenes, number)).reduce(2).resize((160, 120)))
        Image.fromarray(blurred).save(mask_file(scenes, number))
    picture = Image.open(scenes / "images/00.png").convert("L")
    picture.point(lambda value: value // 2 + 60).save(mask_file(scenes, 0))
    (finding,) = of_code(scenes, "not-a-mask")
    assert finding.files == (mask_file(scenes, 0),)
    (smoothed,) = of_code(scenes, "lossy-mask")
    assert smoothed.files == tuple(mask_file(scenes, k) for k in range(1, 12))
    assert of_code(scenes, "lossy-mask", encoding="threshold") == []


def test_ids_in_jpeg_files_are_lost(scenes: Path) -> None:
    for number in range(12):
        ids = (np.asarray(Image.open(mask_file(scenes, number))) > 0).astype(np.uint8)
        ids[:20] = 9
        mask_file(scenes, number).unlink()
        Image.fromarray(ids * np.uint8(5)).save(mask_file(scenes, number, ".jpg"), quality=60)
    (finding,) = of_code(scenes, "lossy-mask")
    assert (finding.severity, len(finding.files)) == ("error", 12)
    assert check(scenes).contents is None


def recolor(folder: Path, suffix: str = ".png") -> None:
    """Two classes by colour in every mask, and a third along the top."""
    for number in range(12):
        ids = (np.asarray(Image.open(mask_file(folder, number))) > 0).astype(np.uint8)
        ids[:10] = 2
        mask_file(folder, number).unlink()
        Image.fromarray(LEGEND[ids]).save(mask_file(folder, number, suffix), quality=95)


def test_colours_in_jpeg_files_are_near_those_of_the_legend(scenes: Path) -> None:
    recolor(scenes, ".jpg")
    (finding,) = of_code(scenes, "lossy-mask", colors=COLORS)
    assert (finding.severity, len(finding.files)) == ("warning", 12)


@pytest.mark.parametrize(
    ("masks", "share", "severities"),
    [
        ([3], 0.02, ["warning"]),
        ([3], 0.6, ["error"]),
        ([3], 0.0005, []),
        # what many masks show is no slip
        (range(6), 0.3, []),
    ],
)
def test_a_colour_of_no_class(
    scenes: Path, masks: Sequence[int], share: float, severities: list[str]
) -> None:
    recolor(scenes)
    for number in masks:
        mask = np.array(Image.open(mask_file(scenes, number)))
        mask.reshape(-1, 3)[: round(share * 120 * 160)] = (0, 255, 0)
        Image.fromarray(mask).save(mask_file(scenes, number))
    found = of_code(scenes, "stray-color", colors=COLORS)
    assert [finding.severity for finding in found] == severities
    for finding in found:
        assert finding.files == (mask_file(scenes, 3),)
        assert "00FF00" in finding.message
        assert f"{share:.2%}" in finding.message


def test_one_colour_of_no_class_is_one_finding(scenes: Path) -> None:
    recolor(scenes)
    for number in (2, 5, 7):
        mask = np.array(Image.open(mask_file(scenes, number)))
        mask[0, 0] = (0, 255, 0)
        Image.fromarray(mask).save(mask_file(scenes, number))
    (finding,) = of_code(scenes, "stray-color")
    assert finding.files == tuple(mask_file(scenes, number) for number in (2, 5, 7))
    assert len(line_of(finding).partition("--colors ")[2].split()) == 4  # and --write


def test_photographs_in_the_place_of_masks(scenes: Path) -> None:
    for number in range(12):
        photo = np.random.default_rng(number).integers(0, 256, (120, 160, 3), dtype=np.uint8)
        Image.fromarray(photo).save(mask_file(scenes, number))
    (finding,) = of_code(scenes, "not-a-mask")
    assert finding.fix is None


def test_masks_that_hide_a_class_are_laid_on_a_colour_of_its_own(scenes: Path) -> None:
    truth = []
    for number in range(12):
        ids = (np.asarray(Image.open(mask_file(scenes, number))) > 0).astype(np.uint8)
        ids[:10, :20] = 2
        truth.append(ids)
        colors = np.array([[0, 0, 0, 0], [0, 0, 0, 255], [255, 0, 0, 255]], np.uint8)
        Image.fromarray(colors[ids]).save(mask_file(scenes, number))
    (finding,) = of_code(scenes, "transparent")
    assert len(finding.files) == 12
    make(finding, scenes)
    contents = check(scenes).contents
    assert contents is not None
    wanted = [np.bincount(ids.ravel(), minlength=3).tolist() for ids in truth]
    assert contents.pixels.tolist() == wanted


@pytest.mark.parametrize("suffix", [".png", ".webp", ".tif"])
def test_transparent_pixels_of_many_colours_are_laid_on_one(scenes: Path, suffix: str) -> None:
    """GIMP keeps the colours of what it erases; other programs write white or black."""
    truth = []
    for number in range(12):
        path = mask_file(scenes, number)
        ids = (np.asarray(Image.open(path)) > 0).astype(np.uint8)
        ids[:10, :20] = 2
        truth.append(ids)
        ground = [255 * (number % 2)] * 3
        colors = np.array([[*ground, 0], [0, 0, 255, 255], [255, 0, 0, 255]], np.uint8)
        path.unlink()
        lossless = {"lossless": True, "exact": True} if suffix == ".webp" else {}
        Image.fromarray(colors[ids]).save(path.with_suffix(suffix), **lossless)
    (finding,) = of_code(scenes, "transparent")
    make(finding, scenes)
    contents = check(scenes).contents
    assert contents is not None
    wanted = [np.bincount(ids.ravel(), minlength=3).tolist() for ids in truth]
    assert contents.pixels.tolist() == wanted


def test_names_of_a_legend_are_written_down(scenes: Path) -> None:
    recolor(scenes)
    rows = ["car,200,30,30", "background,30,30,200", "sky,240,240,40"]
    (scenes / "class_dict.csv").write_text("\n".join(["name,r,g,b", *rows]))
    before = check(scenes)
    write_valid(before)
    after = check(scenes)
    assert list(after.summary["shares"]) == ["background", "car", "sky"]
    assert after.summary["shares"] == before.summary["shares"]


def test_masks_of_one_colour_alone(scenes: Path) -> None:
    for number in range(12):
        Image.new("RGB", (160, 120), (200, 30, 30)).save(mask_file(scenes, number))
    (finding,) = of_code(scenes, "one-class", colors=COLORS)
    assert len(finding.files) == 12


# masks beside each other


def findings_of(
    folder: Path, masks: Sequence[np.ndarray], parts: str = "", **config: object
) -> Findings:
    paths = write(folder, masks)
    contents, findings, _ = understand(paths, DataConfig(**config))  # type: ignore[arg-type]
    assert contents is not None
    names = {"t": "train", "v": "val"}
    pairs = [
        Pair(path, path, path.stem, names[parts[number]] if parts else None)
        for number, path in enumerate(paths)
    ]
    check_contents(contents, pairs, findings)
    return findings


def test_an_empty_mask_is_a_slip_where_it_is_alone(tmp_path: Path) -> None:
    empty = np.zeros_like(BINARY)
    findings = findings_of(tmp_path, [*[BINARY] * 9, empty])
    assert codes(findings) == {"empty-mask": ["9.png"]}
    assert findings.found[0].severity == "warning"
    findings = findings_of(tmp_path, [*[BINARY] * 5, *[empty] * 5])
    assert {each.severity for each in findings.found} == {"note"}


def test_a_mask_of_nothing_but_void(tmp_path: Path) -> None:
    void = np.full_like(BINARY, 9)
    findings = findings_of(tmp_path, [*[BINARY] * 4, void], ignore=9)
    assert codes(findings) == {"ignored-mask": ["4.png"]}


def test_one_class_of_given_values(tmp_path: Path) -> None:
    findings = findings_of(tmp_path, [BINARY * 0] * 3, values=(0, 1))
    assert [each.code for each in findings.found] == ["one-class"]


def test_a_class_in_one_mask_of_many(tmp_path: Path) -> None:
    odd = BINARY.copy()
    odd[3, 3] = 2
    findings = findings_of(tmp_path, [*[BINARY] * 7, odd])
    assert codes(findings) == {"rare-class": ["7.png"]}
    assert "1 of 8 masks, 1 pixels" in findings.found[0].message
    assert line_of(findings.found[0]) == "plainunet check x --ignore 2 --write"
    assert findings_of(tmp_path, [*[BINARY] * 4, IDS, IDS, IDS]).found == []


@pytest.mark.parametrize("has_void", [False, True])
def test_a_class_in_one_mask_that_is_not_the_last(tmp_path: Path, has_void: bool) -> None:
    usual = np.array([[0, 2], [3, 255 if has_void else 3]], np.uint8).repeat(9, 0).repeat(9, 1)
    odd = usual.copy()
    odd[0, 0] = 1
    findings = findings_of(tmp_path, [*[usual] * 7, odd])
    assert codes(findings) == {"rare-class": ["7.png"]}
    if has_void:
        assert "fix x rare-class" in line_of(findings.found[0])
        return
    assert line_of(findings.found[0]) == "plainunet check x --values 0 2 3 --ignore 1 --write"
    assert findings_of(tmp_path, [*[usual] * 7, odd], values=(0, 2, 3), ignore=1).found == []


def test_many_rare_classes_are_one_finding(tmp_path: Path) -> None:
    masks = [
        np.kron([[0, 1], [2, number]], np.ones((9, 9))).astype(np.uint8) for number in range(3, 10)
    ]
    (finding,) = findings_of(tmp_path, masks, encoding="ids").found
    assert finding.code == "rare-class"
    assert finding.message.startswith("7 of 10 values occur in very few of the 7 masks.")
    assert line_of(finding) == "plainunet check x --encoding instances --write"


def test_a_stray_value_beside_an_ignored_255(tmp_path: Path) -> None:
    """The one ignore index is taken."""
    usual = np.array([[0, 1], [2, 255]], np.uint8).repeat(9, 0).repeat(9, 1)
    odd = usual.copy()
    odd[0, 0] = 7
    findings = findings_of(tmp_path, [*[usual] * 7, odd])
    assert codes(findings) == {"stray-value": ["7.png"]}
    assert findings.found[0].fix is not None
    assert findings.found[0].fix.change == Change("values", (tmp_path / "7.png",), ((7, 255),))


def test_a_class_that_training_never_sees(tmp_path: Path) -> None:
    findings = findings_of(tmp_path, [BINARY, BINARY, IDS, IDS], "ttvv")
    assert codes(findings) == {"class-not-in-training": ["2.png", "3.png"]}
    assert findings_of(tmp_path, [BINARY, IDS, BINARY, BINARY], "ttvv").found == []


def test_a_stray_value_beside_pixels_of_no_class_is_left_out(tmp_path: Path) -> None:
    """There is only one ignore index, which -1 has."""
    random = np.random.default_rng(0)
    for number in range(6):
        mask = np.zeros((40, 48), np.int16)
        mask[5:20, 5:30], mask[25:35, 10:40], mask[:, -4:] = 1, 2, -1
        if number == 2:
            mask[21:23, 5:9] = 7
        image = random.integers(0, 256, (*mask.shape, 3), dtype=np.uint8)
        write_tiff(tmp_path / "images" / f"{number}.tif", image)
        write_tiff(tmp_path / "masks" / f"{number}.tif", mask)
    (finding,) = (each for each in check(tmp_path).findings if each.code == "stray-value")
    assert "--ignore" not in str(finding.fix)
    write_valid(check(tmp_path))
    again = check(tmp_path)
    assert again.count("error") == 0
    assert again.summary["pairs"] == 5
    assert list(again.summary["shares"]) == ["class 0", "class 1", "class 2"]
