"""Images that cannot be read, are unlike the others, badly named, or there twice."""

import json
import shlex
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image, ImageOps

from plainunet.config import DataConfig
from plainunet.dataset.pairs import find_pairs
from plainunet.doctor.diagnose import check
from plainunet.doctor.findings import Fix
from plainunet.doctor.images import (
    Duplicate,
    ImageFacts,
    copies_across,
    find_duplicates,
    read_facts,
)
from plainunet.formats.images import image_shape
from plainunet.formats.problems import Change, DataError

from ..folders import make_pair
from .conftest import CodesOf, copy_pair, divide, mask_of, spoil

SCENE = np.add.outer(np.arange(300) % 97, np.arange(450) % 131).astype(np.uint8)


def one(path: Path) -> ImageFacts:
    (look,) = read_facts([path])
    assert isinstance(look, ImageFacts)
    return look


def duplicates(looks: Sequence[ImageFacts]) -> list[Duplicate]:
    return find_duplicates([look.digest for look in looks], [look.hash for look in looks])


def test_properties_of_images(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.fromarray(SCENE).save(path)
    look = one(path)
    assert (look.kind, look.shape, look.dtype) == ("png", (300, 450, 1), "uint8")
    assert (look.low, look.high) == (SCENE.min(), SCENE.max())


def test_equal_files_have_equal_digests(tmp_path: Path) -> None:
    paths = [tmp_path / name for name in ("a.png", "b.png", "c.png")]
    for path in paths[:2]:
        Image.fromarray(SCENE).save(path)
    Image.fromarray(SCENE).save(paths[2], compress_level=1)
    looks = [one(path) for path in paths]
    assert looks[0].digest == looks[1].digest != looks[2].digest
    assert len({look.hash for look in looks}) == 1


@pytest.mark.parametrize("orientation", range(1, 9))
def test_jpegs_are_seen_upright(tmp_path: Path, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    picture = Image.fromarray(np.stack([SCENE, SCENE[::-1], 255 - SCENE], axis=2))
    picture.save(tmp_path / "a.jpg", exif=exif, quality=95)
    with Image.open(tmp_path / "a.jpg") as opened:
        transposed = opened.convert("RGB")
    look = one(tmp_path / "a.jpg")
    assert look.shape == image_shape(tmp_path / "a.jpg")
    transposed.info["exif"] = exif.tobytes()
    upright = ImageOps.exif_transpose(transposed)
    upright.save(tmp_path / "b.png")
    other = one(tmp_path / "b.png")
    assert duplicates([look, other]) == [Duplicate(0, 1, exact=False)]


def test_reduced_reading_hardly_changes_the_hash(data_root: Path, tmp_path: Path) -> None:
    paths = [pair.image for pair in find_pairs(data_root / "carvana")[::190]]
    looks = [look for look in read_facts(paths) if isinstance(look, ImageFacts)]
    for path in paths:
        with Image.open(path) as picture:
            picture.convert("RGB").save(tmp_path / f"{path.stem}.png", compress_level=1)
    whole = [one(tmp_path / f"{path.stem}.png") for path in paths]
    for look, other in zip(looks, whole, strict=True):
        assert look.shape == other.shape
    assert duplicates([*looks, *whole]) == [
        Duplicate(index, index + len(looks), exact=False) for index in range(len(looks))
    ]


def test_unreadable_files_are_reported(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"")
    (tmp_path / "b.png").write_text("text")
    (tmp_path / "c.png").symlink_to(tmp_path / "nowhere.png")
    paths = [tmp_path / name for name in ("a.png", "b.png", "c.png")]
    problems = list(read_facts(paths))
    assert all(isinstance(problem, DataError) for problem in problems)
    assert [problem.code for problem in problems if isinstance(problem, DataError)] == [
        *("empty-file", "not-an-image", "missing-file")
    ]


# names, sizes, channels and types


def test_a_suffix_that_is_not_the_contents(scenes: Path, codes_of: CodesOf) -> None:
    (scenes / "images/03.png").rename(scenes / "images/03.jpg")
    assert codes_of(scenes) == {"wrong-extension": ["images/03.jpg"]}
    change = Change("rename", (scenes / "images/03.jpg",), (scenes / "images/03.png",))
    (finding,) = check(scenes).findings
    assert finding.fix == Fix(f"plainunet fix {scenes} wrong-extension", change)


@pytest.mark.parametrize("suffix", [".j2k", ".jp2", ".JPX"])
def test_a_format_has_several_suffixes(scenes: Path, codes_of: CodesOf, suffix: str) -> None:
    with Image.open(scenes / "images/03.png") as image:
        image.save(scenes / f"images/03{suffix}", "JPEG2000")
    (scenes / "images/03.png").unlink()
    assert codes_of(scenes) == {}


def test_a_name_that_is_not_utf8(scenes: Path, codes_of: CodesOf) -> None:
    name = b"caf\xe9.png".decode(errors="surrogateescape")
    for folder in ("images", "masks"):
        (scenes / folder / "03.png").rename(scenes / folder / name)
    assert codes_of(scenes) == {"name-not-utf8": [f"images/{name}", f"masks/{name}"]}
    for finding in check(scenes).findings:
        assert finding.fix
        finding.fix.line.encode("ascii")


@pytest.mark.parametrize(
    ("change", "code", "severity"),
    [
        (lambda image: image * 0 + 9, "blank-image", "warning"),
        (lambda image: image[..., :1], "grey-among-rgb", "note"),
        (lambda image: image.astype(np.uint16) * 257, "mixed-depths", "warning"),
        (lambda image: image[..., [0, 1, 2, 0, 1]], "odd-channels", "error"),
    ],
)
def test_an_image_unlike_the_others(
    scenes: Path, change: Callable[[np.ndarray], np.ndarray], code: str, severity: str
) -> None:
    path = scenes / "images/03.png"
    np.save(path.with_suffix(".npy"), change(np.asarray(Image.open(path))))
    path.unlink()
    (finding,) = [each for each in check(scenes).findings if each.code == code]
    assert (finding.severity, finding.files) == (severity, (path.with_suffix(".npy"),))
    assert (finding.fix is None) == (severity == "note")


def test_a_thumbnail_among_images_of_one_size(scenes: Path, codes_of: CodesOf) -> None:
    for name in ("images", "masks"):
        path = scenes / name / "03.png"
        Image.open(path).resize((40, 30), Image.Resampling.NEAREST).save(path)
    assert codes_of(scenes) == {"odd-size": ["images/03.png"]}
    # where sizes are mixed anyway, that is nothing odd
    for stem in ("04", "05", "06"):
        for name in ("images", "masks"):
            path = scenes / name / f"{stem}.png"
            Image.open(path).crop((0, 0, 100, 90)).save(path)
    assert "odd-size" not in codes_of(scenes)


@pytest.mark.parametrize(("count", "severity"), [(1, "warning"), (12, "note")])
def test_twelve_bits_in_sixteen(scenes: Path, count: int, severity: str) -> None:
    """In all images, they do no harm."""
    for number in range(12):
        path = scenes / f"images/{number:02d}.png"
        deep = np.asarray(Image.open(path)).astype(np.uint16) * (16 if number < count else 257)
        path.unlink()
        tifffile.imwrite(path.with_suffix(".tif"), deep, photometric="rgb")
    (finding,) = check(scenes).findings
    assert (finding.code, finding.severity) == ("unused-depth", severity)
    assert len(finding.files) == count
    assert "12-bit" in finding.message


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        (lambda mask: np.pad(mask, ((0, 0), (0, 1))), "resize"),
        (lambda mask: mask[:, :120], None),  # what is missing cannot be known
        (lambda mask: mask[2:], None),
        (lambda mask: np.rot90(mask), "turn"),
    ],
)
def test_a_mask_of_another_size(
    scenes: Path, change: Callable[[np.ndarray], np.ndarray], kind: str | None
) -> None:
    mask = change(mask_of(scenes, "03"))
    spoil(scenes, "03", mask)
    (finding,) = check(scenes).findings
    assert finding.code == "size-mismatch"
    assert f"{mask.shape[1]}x{mask.shape[0]}" in finding.message
    assert "160x120" in finding.message
    assert finding.fix
    assert (finding.fix.change and finding.fix.change.kind) == kind


@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
def test_a_mask_drawn_on_an_image_that_exif_turns(scenes: Path, orientation: int) -> None:
    path = scenes / "images/03.png"
    exif = Image.Exif()
    exif[0x0112] = orientation
    with Image.open(path) as picture:
        picture.save(path, exif=exif)
    (finding,) = check(scenes).findings
    assert finding.code == "size-mismatch"
    assert f"({orientation})" in finding.message
    assert finding.fix
    assert finding.fix.change == Change("turn", (scenes / "masks/03.png",), (orientation,))


def test_masks_that_are_all_turned_alike(tmp_path: Path) -> None:
    """Few fit their images clearly alone: they are noisy."""
    random = np.random.default_rng(0)
    for number in range(8):
        mask = np.zeros((96, 112), np.uint8)
        for row, column in random.integers(0, (70, 80), (2, 2)):
            mask[row : row + 20, column : column + 28] = 1
        image = random.normal(90, 30, (*mask.shape, 3)) + 16 * mask[..., None]
        make_pair(tmp_path, str(number), image.astype(np.uint8), mask.T)
    findings = check(tmp_path).findings
    fixes = [each.fix and each.fix.change for each in findings if each.code == "size-mismatch"]
    masks = [tmp_path / f"masks/{number}.png" for number in range(8)]
    assert fixes == [Change("turn", (mask,), (5,)) for mask in masks]


def test_annotations_of_an_image_that_exif_turns(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    (tmp_path / "images").mkdir()
    listed: dict[str, Any] = {"images": [], "categories": [{"id": 1, "name": "road"}]}
    listed["annotations"] = []
    for number in range(2):
        pixels = np.random.default_rng(number).integers(0, 255, (40, 56, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"images/{number}.jpg", exif=exif)
        image = {"id": number, "file_name": f"{number}.jpg", "height": 40, "width": 56}
        listed["images"].append(image)
        outline = {"segmentation": [[5, 5, 30, 5, 30, 20]], "category_id": 1}
        listed["annotations"].append({"id": number, "image_id": number, **outline})
    (tmp_path / "annotations.json").write_text(json.dumps(listed))
    findings = check(tmp_path).findings
    assert {each.code for each in findings} == {"size-mismatch"}
    assert all("EXIF orientation (6)" in each.message for each in findings)


# copies, and groups that a split must not divide


def test_a_copy_in_one_folder(scenes: Path, codes_of: CodesOf) -> None:
    copy_pair(scenes, "05.png", "99.png")
    assert codes_of(scenes) == {"duplicate-across-groups": ["images/99.png", "images/05.png"]}
    result = check(scenes)
    assert result.findings[0].fix == Fix(f"plainunet check {scenes} --write", writes_list=True)
    # in one group, a split cannot part them
    groups = {pair.image.stem: pair.group for pair in result.pairs}
    assert groups["99"] == groups["05"]
    assert len(set(groups.values())) == 12


def test_twenty_copies_are_nineteen_findings(scenes: Path) -> None:
    for number in range(19):
        copy_pair(scenes, "05.png", f"c{number:02d}.png")
    findings = check(scenes).findings
    assert len(findings) == 19
    assert {finding.files[1].name for finding in findings} == {"05.png"}


def test_a_re_encoded_image(scenes: Path, codes_of: CodesOf) -> None:
    with Image.open(scenes / "images/05.png") as picture:
        picture.save(scenes / "images/99.jpg", quality=75)
    shutil.copy(scenes / "masks/05.png", scenes / "masks/99.png")
    assert codes_of(scenes) == {"near-duplicate-across-groups": ["images/99.jpg", "images/05.png"]}


def test_a_copy_where_training_makes_the_split(scenes: Path, codes_of: CodesOf) -> None:
    for name in ("images", "masks"):
        shutil.copy(scenes / name / "05.png", scenes / name / "99.png")
        (scenes / "train").mkdir(exist_ok=True)
        (scenes / name).rename(scenes / "train" / name)
    found = codes_of(scenes)
    assert found == {
        "duplicate-across-groups": ["train/images/99.png", "train/images/05.png"],
    }


def test_copies_that_training_would_part_are_named(scenes: Path) -> None:
    for name in ("images", "masks"):
        shutil.copy(scenes / name / "05.png", scenes / name / "99.png")
    pairs = find_pairs(scenes)
    parted = [
        replace(pair, part="val" if pair.image.name == "99.png" else "train") for pair in pairs
    ]
    ((one, other),) = copies_across(parted)
    assert {one.image.name, other.image.name} == {"05.png", "99.png"}
    assert copies_across([replace(pair, part="train") for pair in pairs]) == []


def test_a_copy_on_both_sides(scenes: Path, codes_of: CodesOf) -> None:
    divide(scenes, lambda stem: "val" if stem in ("02", "03") else "train")
    copy_pair(scenes, "val/02.png", "train/99.png")
    found = codes_of(scenes)
    # the one that is to be left out comes first
    assert found == {"duplicate-across-parts": ["images/train/99.png", "images/val/02.png"]}


def test_copies_with_different_masks_are_reported(scenes: Path) -> None:
    shutil.copy(scenes / "images/05.png", scenes / "images/99.png")
    shutil.copy(scenes / "masks/06.png", scenes / "masks/99.png")
    (finding,) = [each for each in check(scenes).findings if each.code.startswith("duplicate")]
    assert "Their masks differ." in finding.message


def test_one_mask_for_two_images(scenes: Path, codes_of: CodesOf) -> None:
    shutil.copy(scenes / "masks/06.png", scenes / "masks/07.png")
    assert sorted(codes_of(scenes)["same-mask"]) == ["masks/06.png", "masks/07.png"]


def test_empty_masks_are_not_the_same(scenes: Path, codes_of: CodesOf) -> None:
    for stem in ("06", "07"):
        Image.new("L", (160, 120)).save(scenes / "masks" / f"{stem}.png")
    assert set(codes_of(scenes)) == {"empty-mask"}


def test_a_group_on_both_sides(scenes: Path) -> None:
    lines = ["image,mask,group,part"]
    for number in range(12):
        part = "val" if number > 8 else "train"
        name = f"{number:02d}.png"
        lines.append(f"images/{name},masks/{name},g{number % 5},{part}")
    (scenes / "list.csv").write_text("\n".join(lines))
    (scenes / "dataset.toml").write_text('pairs = "list.csv"\n')
    findings = check(scenes).findings
    assert {finding.code for finding in findings} == {"group-across-parts"}
    assert len(findings) == 3


@pytest.mark.parametrize(("name", "groups"), [("seq{}", 4), ("urban{}", None)])
def test_folders_that_look_like_groups(scenes: Path, name: str, groups: int | None) -> None:
    for kind in ("images", "masks"):
        for path in sorted((scenes / kind).glob("*.png")):
            number = int(path.stem)
            below = name.format(number // 3 if groups else "abcd"[number // 3])
            (path.parent / below).mkdir(exist_ok=True)
            path.rename(path.parent / below / path.name)
    findings = check(scenes).findings
    assert [finding.code for finding in findings] == ["possible-groups"] * bool(groups)
    if groups:
        assert len({pair.group for pair in check(scenes, DataConfig(group_by="^(.+)/")).pairs}) == 4


def test_tiles_of_two_slides(scenes: Path) -> None:
    """As QuPath names them."""
    for name in ("images", "masks"):
        for path in sorted((scenes / name).glob("*.png")):
            slide, tile = divmod(int(path.stem), 7)
            path.rename(path.with_name(f"CASE-{slide} [x={tile * 160},y=0,w=160,h=120].png"))
    (finding,) = check(scenes).findings
    assert finding.fix
    pattern = shlex.split(finding.fix.line)[4]
    pairs = check(scenes, DataConfig(group_by=pattern)).pairs
    assert {pair.group for pair in pairs} == {"CASE-0", "CASE-1"}


def test_names_that_look_like_groups(scenes: Path, codes_of: CodesOf) -> None:
    for name in ("images", "masks"):
        for path in sorted((scenes / name).glob("*.png")):
            number = int(path.stem)
            path.rename(path.with_name(f"tile{number // 3}_{number % 3}.png"))
    result = check(scenes)
    assert [finding.code for finding in result.findings] == ["possible-groups"]
    assert result.exit_code == 0
    assert "4 groups, such as 'tile0' with 3" in result.findings[0].message
    fix = f'plainunet check {scenes} --group-by "^([^_-]+)[_-]" --write'
    assert result.findings[0].fix == Fix(fix)
