import subprocess
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from plainunet.config import DataConfig
from plainunet.dataset.coding import MaskCounts, count_masks
from plainunet.dataset.pairs import Pair
from plainunet.doctor.diagnose import census_of
from plainunet.doctor.findings import Findings
from plainunet.doctor.masks import Contents, tell_contents, understand_contents

IDS = np.tile(np.array([[0, 0, 1], [2, 1, 0]], np.uint8), (8, 8))
BINARY = (IDS > 0).astype(np.uint8)


def write(folder: Path, masks: Sequence[np.ndarray], suffix: str = ".png") -> list[Path]:
    paths = [folder / f"{number}{suffix}" for number in range(len(masks))]
    for path, mask in zip(paths, masks, strict=True):
        Image.fromarray(mask).save(path)
    return paths


def understand(
    paths: Sequence[Path], config: DataConfig | None = None
) -> tuple[Contents | None, Findings, list[MaskCounts]]:
    findings, notes = Findings("check"), list[str]()
    counts = [count for count in count_masks(paths) if isinstance(count, MaskCounts)]
    assert len(counts) == len(paths)
    contents = understand_contents(counts, config or DataConfig(), findings, notes.append)
    return contents, findings, counts


def said(findings: Findings) -> dict[str, list[str]]:
    return {
        each.code: [file.name for file in each.files]
        for each in sorted(findings.found, key=lambda each: each.files)
    }


def test_classes_are_counted_in_each_mask(tmp_path: Path) -> None:
    contents, findings, counts = understand(write(tmp_path, [IDS, IDS.T, BINARY]))
    assert contents is not None
    assert findings.found == []
    assert contents.coding.kind == "ids"
    for row, mask in enumerate([IDS, IDS.T, BINARY]):
        assert contents.pixels[row].tolist() == np.bincount(mask.ravel(), minlength=3).tolist()
    values = [(each["value"], each["masks"]) for each in census_of(counts)]
    assert values == [(0, 3), (1, 3), (2, 2)]


def test_strays_are_set_aside_one_by_one(tmp_path: Path) -> None:
    masks = [IDS.copy() for _ in range(8)]
    masks[3][2, 2] = 77
    masks[5][:2, :2] = 99
    contents, findings, _ = understand(write(tmp_path, masks))
    assert contents is not None
    assert contents.coding.values == (0, 1, 2)
    assert [path.stem for path in contents.masks] == list("012467")
    assert {each.code for each in findings.found} == {"stray-value"}
    assert {each.files[0].stem for each in findings.found} == {"3", "5"}
    assert {each.cure for each in findings.found} == {
        "check --ignore 77 --write",
        "check --ignore 99 --write",
    }


def test_masks_that_make_no_sense_together(tmp_path: Path) -> None:
    masks = [np.full((8, 8), number * 20, np.uint8) for number in range(6)]
    contents, findings, _ = understand(write(tmp_path, masks))
    assert contents is None
    assert findings.found[-1].severity == "error"


def test_one_class_only(tmp_path: Path) -> None:
    contents, findings, _ = understand(write(tmp_path, [np.zeros((8, 8), np.uint8)] * 3))
    assert contents is None
    assert [each.code for each in findings.found] == ["one-class"]


def test_255_of_another_convention(tmp_path: Path) -> None:
    masks = [BINARY] * 6 + [BINARY * np.uint8(255)]
    contents, findings, _ = understand(write(tmp_path, masks))
    assert contents is not None
    assert contents.coding.values == (0, 1)
    (finding,) = findings.found
    assert (finding.code, [file.stem for file in finding.files]) == ("ambiguous-255", ["6"])
    assert "python" in finding.cure


def test_a_jpeg_among_png(tmp_path: Path) -> None:
    paths = write(tmp_path, [BINARY * np.uint8(255)] * 6)
    paths[2].unlink()
    paths[2] = paths[2].with_suffix(".jpg")
    Image.fromarray(BINARY * np.uint8(255)).save(paths[2])
    contents, findings, _ = understand(paths)
    assert contents is not None
    assert contents.coding.kind == "two values"
    assert said(findings) == {"lossy-mask": ["2.jpg"]}
    assert findings.found[0].severity == "error"


def test_smoothed_masks_are_said(tmp_path: Path) -> None:
    disc = ((np.indices((200, 200)) - 100) ** 2).sum(axis=0) < 70**2
    paths = write(tmp_path, [disc * np.uint8(255)] * 4, ".jpg")
    contents, findings, _ = understand(paths)
    assert contents is not None
    assert contents.coding.kind == "threshold"
    assert {each.code for each in findings.found} == {"lossy-mask"}
    assert {each.severity for each in findings.found} == {"warning"}


def test_a_photograph_among_masks(tmp_path: Path) -> None:
    paths = write(tmp_path, [BINARY] * 5)
    photo = np.random.default_rng(0).integers(0, 256, (16, 24, 3), dtype=np.uint8)
    Image.fromarray(photo).save(paths[1])
    contents, findings, _ = understand(paths)
    assert contents is not None
    assert contents.coding.kind == "ids"
    assert said(findings) == {"colored-mask": ["1.png"]}


def test_colours_are_counted(tmp_path: Path) -> None:
    palette = np.array([[0, 0, 0], [200, 0, 0], [0, 0, 200]], np.uint8)
    contents, findings, _ = understand(write(tmp_path, [palette[IDS], palette[IDS[::-1]]]))
    assert contents is not None
    assert findings.found == []
    # sorted by red, green and blue
    counts = np.bincount(IDS.ravel())
    assert contents.pixels.tolist() == [[counts[0], counts[2], counts[1]]] * 2


def tell(
    folder: Path, masks: Sequence[np.ndarray], parts: str = "", ignore: int | None = None
) -> Findings:
    paths = write(folder, masks)
    contents, findings, _ = understand(paths, DataConfig(ignore=ignore))
    assert contents is not None
    names = {"t": "train", "v": "val"}
    pairs = [
        Pair(path, path, path.stem, names[parts[number]] if parts else None)
        for number, path in enumerate(paths)
    ]
    tell_contents(contents, pairs, findings)
    return findings


def test_an_empty_mask_is_a_slip_where_it_is_alone(tmp_path: Path) -> None:
    empty = np.zeros_like(BINARY)
    findings = tell(tmp_path, [*[BINARY] * 9, empty])
    assert said(findings) == {"empty-mask": ["9.png"]}
    assert findings.found[0].severity == "warning"
    findings = tell(tmp_path, [*[BINARY] * 5, *[empty] * 5])
    assert {each.severity for each in findings.found} == {"note"}
    assert "5 of 10 masks are" in findings.found[0].message


def test_a_mask_of_nothing_but_void(tmp_path: Path) -> None:
    void = np.full_like(BINARY, 9)
    findings = tell(tmp_path, [*[BINARY] * 4, void], ignore=9)
    assert said(findings) == {"ignored-mask": ["4.png"]}


def test_a_class_in_one_mask_of_many(tmp_path: Path) -> None:
    odd = BINARY.copy()
    odd[3, 3] = 2
    findings = tell(tmp_path, [*[BINARY] * 7, odd])
    assert said(findings) == {"rare-class": ["7.png"]}
    assert "Class 2 is in 1 of 8 masks, 1 pixels" in findings.found[0].message
    assert findings.found[0].cure == "check --ignore 2 --write"
    assert tell(tmp_path, [*[BINARY] * 4, IDS, IDS, IDS]).found == []


def test_a_class_that_training_never_sees(tmp_path: Path) -> None:
    findings = tell(tmp_path, [BINARY, BINARY, IDS, IDS], "ttvv")
    assert said(findings) == {"class-not-in-training": ["2.png", "3.png"]}
    assert tell(tmp_path, [BINARY, IDS, BINARY, BINARY], "ttvv").found == []


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
    assert "--ignore" not in finding.cure
    subprocess.run(["bash", "-c", finding.cure], check=True)
    assert np.asarray(Image.open(paths[3]))[2, 2] == 9
    assert understand(paths, DataConfig(ignore=9))[1].found == []


def test_a_mask_of_many_strays_is_left_out(tmp_path: Path) -> None:
    masks = [IDS.copy() for _ in range(6)]
    masks[3] *= 40
    _, findings, _ = understand(write(tmp_path, masks))
    (finding,) = findings.found
    assert (finding.code, finding.cure) == ("stray-value", "check --write")


def test_a_mask_of_many_values_is_named(tmp_path: Path) -> None:
    masks = [BINARY.copy() for _ in range(6)]
    masks[2] = np.arange(BINARY.size, dtype=np.uint8).reshape(BINARY.shape)
    contents, findings, _ = understand(write(tmp_path, masks))
    assert contents is not None
    (finding,) = findings.found
    assert finding.code == "many-values"
    assert [file.name for file in finding.files] == ["2.png"]
    assert "2.png holds 256 values, most of the masks 2" in finding.message


def test_one_class_by_said_values(tmp_path: Path) -> None:
    contents, findings, _ = understand(write(tmp_path, [BINARY * 0] * 3), DataConfig(values=(0, 1)))
    assert contents is not None
    tell_contents(contents, [Pair(path, path, "", None) for path in contents.masks], findings)
    assert [each.code for each in findings.found] == ["one-class"]


def test_ones_among_255_are_mended_the_other_way(tmp_path: Path) -> None:
    masks = [BINARY * np.uint8(255)] * 6 + [BINARY] * 2
    paths = write(tmp_path, masks)
    contents, findings, _ = understand(paths)
    assert contents is not None
    (finding,) = findings.found
    assert [file.stem for file in finding.files] == ["6", "7"]
    subprocess.run(["bash", "-c", finding.cure], check=True)
    assert understand(paths)[1].found == []


def test_values_that_were_said_wrongly_are_one_finding(tmp_path: Path) -> None:
    contents, findings, _ = understand(write(tmp_path, [BINARY] * 6), DataConfig(values=(0, 5)))
    assert contents is None
    assert [each.code for each in findings.found] == ["stray-value"]
