"""A run folder: all that is in it, that it can be gone on with, and what is refused."""

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image
from plainunet.training.events import EpochDone, Event, Note, Stage

from plainunet.config import TrainConfig
from plainunet.evaluation.evaluate import evaluate
from plainunet.network.checkpoint import load_checkpoint
from plainunet.prediction.predictor import Predictor
from plainunet.settings import load_config, make_config
from plainunet.training.state import read_state
from plainunet.training.train import resume, train

Draw = Callable[..., Path]
TIMES = {"seconds", "images_per_second", "resumed_at"}


def rows_of(run: Path) -> list[str]:
    """Rows of metrics.jsonl without their times."""
    rows = map(json.loads, (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines())
    return [json.dumps({k: v for k, v in row.items() if k not in TIMES}) for row in rows]


def test_the_run_folder_holds_everything(finished: Any) -> None:
    out = finished.out
    assert {file.name for file in out.iterdir()} == {
        "best.safetensors",
        "config.toml",
        "curves.png",
        "dataset.toml",
        "last",
        "metrics.csv",
        "metrics.jsonl",
        "report.html",
        "saved_images",
        "split.csv",
        "validation",
    }
    # the screen is told once where to look
    notes = [event.text for event in finished.events if isinstance(event, Note)]
    assert sum(str(out / "validation") in note for note in notes) == 1
    assert len(list((out / "validation").iterdir())) == 4
    assert [file.name for file in (out / "last").iterdir()] == ["state.pt"]
    resolved = load_config(out / "config.toml")
    assert resolved == finished.config.model_copy(update={"classes": ("background", "foreground")})
    assert len(rows_of(out)) == 4
    assert finished.result["split"] == "val"


def test_training_teaches(finished: Any) -> None:
    first, *_, last = map(json.loads, rows_of(finished.out))
    assert last["loss"] < 0.7 * first["loss"]
    assert finished.result["pooled"]["dice"]["mean_foreground"] > 0.5


def test_the_split_is_written_down_and_used(finished: Any) -> None:
    with (finished.out / "split.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    parts = {part: [r["image"] for r in rows if r["part"] == part] for part in ("train", "val")}
    assert (len(parts["train"]), len(parts["val"])) == (16, 4)
    judged = [Path(entry["image"]) for entry in finished.result["images"]]
    assert sorted(path.relative_to(finished.data).as_posix() for path in judged) == sorted(
        parts["val"]
    )


def test_the_checkpoint_says_what_it_is(finished: Any) -> None:
    network, card = load_checkpoint(finished.out / "best.safetensors")
    assert card.class_names == ("background", "foreground")
    assert card.size == (32, 40)
    assert card.masks == {"values": [0, 255], "ignore": None, "kind": "two values"}
    assert card.training["pictures"] == {"train": 16, "val": 4}
    assert (card.training["dtypes"], card.training["grey"]) == (["uint8"], 0)
    assert card.training["settings"]["epochs"] == 4
    assert card.scores["pooled"] == finished.result["pooled"]
    assert "torch" in card.versions
    # normalised by what the training pictures hold
    with (finished.out / "split.csv").open(newline="", encoding="utf-8") as file:
        names = [row["image"] for row in csv.DictReader(file) if row["part"] == "train"]
    pixels = np.stack([np.asarray(Image.open(finished.data / name)) for name in names]) / 255
    np.testing.assert_allclose(network.mean.numpy(), pixels.mean(axis=(0, 1, 2)), atol=1e-5)
    np.testing.assert_allclose(network.std.numpy(), pixels.std(axis=(0, 1, 2)), atol=1e-5)


def test_what_happens_is_told_in_order(finished: Any) -> None:
    stages = [event.name for event in finished.events if isinstance(event, Stage)]
    assert stages[0] == "checking files"
    assert stages[-2:] == ["judging at native size", "saving pictures"]
    assert sum(isinstance(event, EpochDone) for event in finished.events) == 4
    assert "16 to train, 4 to validate" in next(
        event.text for event in finished.events if isinstance(event, Note)
    )


class Stop(Exception):
    """What stands for a power cut."""


@pytest.mark.parametrize("moment", [0, 1])
def test_an_interrupted_run_goes_on_to_the_same_end(
    finished: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: int
) -> None:
    def stop(event: Event) -> None:
        if moment == 0 and event == Stage("validating", 4):
            raise Stop
        if isinstance(event, EpochDone) and event.row["epoch"] == 2 * moment:
            raise Stop

    monkeypatch.chdir(finished.data.parent)  # a relative data folder is found again all the same
    with pytest.raises(Stop):
        train(Path("data"), tmp_path / "run", finished.config, stop)
    monkeypatch.chdir(tmp_path)
    events: list[Event] = []
    result = resume("run", events.append)
    epochs = [event.row["epoch"] for event in events if isinstance(event, EpochDone)]
    # what was done since the state was saved last is done again; it takes no second here
    assert epochs == list(range(epochs[0], 5))
    assert epochs[0] <= 2 * moment + 1
    expected = finished.result
    assert (result["pooled"], result["per_image"]) == (expected["pooled"], expected["per_image"])
    assert rows_of(tmp_path / "run") == rows_of(finished.out)
    state, whole = read_state(tmp_path / "run"), read_state(finished.out)
    for key in ("network", "average"):
        assert all(torch.equal(state[key][name], whole[key][name]) for name in whole[key])
    best, wanted = (
        load_checkpoint(run / "best.safetensors") for run in (tmp_path / "run", finished.out)
    )
    assert best[1].training == wanted[1].training
    for name, value in best[0].state_dict().items():
        assert torch.equal(value, wanted[0].state_dict()[name])


def test_going_on_with_a_finished_run_judges_it_again(finished: Any, tmp_path: Path) -> None:
    shutil.copytree(finished.out, tmp_path / "run")
    assert resume(tmp_path / "run") == finished.result
    assert rows_of(tmp_path / "run") == rows_of(finished.out)


def test_nothing_to_go_on_with(finished: Any, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no run to resume"):
        resume(tmp_path)
    shutil.copytree(finished.out, tmp_path / "run")
    (tmp_path / "run" / "split.csv").unlink()
    with pytest.raises(FileNotFoundError, match=r"split\.csv"):
        resume(tmp_path / "run")


def test_the_data_of_a_run_has_gone(
    draw: Callable[..., Path], tiny: TrainConfig, tmp_path: Path
) -> None:
    def stop(event: Event) -> None:
        raise Stop

    data = draw(tmp_path / "data", 4)
    with pytest.raises(Stop):
        train(data, tmp_path / "run", tiny, lambda e: stop(e) if isinstance(e, EpochDone) else None)
    data.rename(tmp_path / "elsewhere")
    with pytest.raises(FileNotFoundError, match=r"data: the run's data folder has gone"):
        resume(tmp_path / "run")


@pytest.mark.parametrize("left", ["best.safetensors", "config.toml", "last/state.pt"])
def test_a_folder_with_a_run_in_it_is_refused(
    draw: Callable[..., Path], tiny: TrainConfig, tmp_path: Path, left: str
) -> None:
    file = tmp_path / "run" / left
    file.parent.mkdir(parents=True)
    file.write_text("left")
    with pytest.raises(ValueError, match=r"holds a run already.*--resume .*another --out"):
        train(draw(tmp_path / "data", 4), tmp_path / "run", tiny)
    assert file.read_text() == "left"
    assert len([path for path in (tmp_path / "run").rglob("*") if path.is_file()]) == 1


def transparent(file: Path) -> None:
    with Image.open(file) as picture:
        picture.putalpha(128)
        picture.save(file)


def scrambled(file: Path) -> None:
    """Pixels that do not decode, in a file that is otherwise whole."""
    content = bytearray(file.read_bytes())
    start = content.index(b"IDAT") + 8
    content[start : start + 200] = bytes(200)
    file.write_bytes(content)


@pytest.mark.parametrize("spoil", [transparent, scrambled])
def test_a_picture_that_fails_late_leaves_no_half_run(
    draw: Callable[..., Path],
    tiny: TrainConfig,
    tmp_path: Path,
    spoil: Callable[[Path], None],
) -> None:
    data, out = draw(tmp_path / "data", 4), tmp_path / "run"
    whole = (data / "images" / "02.png").read_bytes()
    spoil(data / "images" / "02.png")
    with pytest.raises(ValueError, match=r"02\.png"):
        train(data, out, tiny)
    assert not out.exists() or list(out.iterdir()) == []
    # mended, the same command runs
    (data / "images" / "02.png").write_bytes(whole)
    train(data, out, tiny.model_copy(update={"epochs": 1}))


def test_grey_pictures_and_their_own_parts(
    draw: Callable[..., Path], tiny: TrainConfig, tmp_path: Path
) -> None:
    drawn = draw(tmp_path / "drawn", 5)
    for number in range(5):
        part = ("train", "val")[number >= 3]
        for kind in ("images", "masks"):
            file = tmp_path / "data" / kind / part / f"{number:02d}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.open(drawn / kind / file.name).convert("L").save(file)
    config = tiny.model_copy(update={"epochs": 1, "classes": ("street", "car")})
    result = train(str(tmp_path / "data"), str(tmp_path / "run"), config)
    assert list(result["pooled"]["dice"]["per_class"]) == ["street", "car"]
    assert {Path(entry["image"]).parent.name for entry in result["images"]} == {"val"}
    network, _ = load_checkpoint(tmp_path / "run" / "best.safetensors")
    assert network.in_channels == 1


def test_the_size_is_chosen_and_written_down(
    draw: Callable[..., Path], tiny: TrainConfig, tmp_path: Path
) -> None:
    data = draw(tmp_path / "data", 4, (50, 70))
    train(data, tmp_path / "run", tiny.model_copy(update={"epochs": 1, "size": None}))
    assert load_config(tmp_path / "run" / "config.toml").size == (48, 64)
    assert load_checkpoint(tmp_path / "run" / "best.safetensors")[1].size == (48, 64)


NETWORKS: dict[str, dict[str, Any]] = {
    "the paper's": {
        "valid": True,
        "normalisation": "none",
        "dropout": 0.5,
        "elastic": 3.0,
        "border_weight": 10.0,
        "class_weights": "balanced",
        "learning_rate": 3e-3,
        "epochs": 12,
    },
    "today's": {
        "normalisation": "group",
        "upsampling": "bilinear",
        "residual": True,
        "attention": True,
        "deep_supervision": True,
        "checkpointing": True,
        "optimizer": "muon",
        "ema": 0.5,
        "epochs": 4,
    },
}


@pytest.mark.parametrize("settings", NETWORKS.values(), ids=NETWORKS.keys())
def test_other_networks_train_resume_and_predict(
    draw: Callable[..., Path], tiny: TrainConfig, tmp_path: Path, settings: dict[str, Any]
) -> None:
    data = draw(tmp_path / "data", 10)
    config = tiny.model_copy(update={"base_channels": 4, "batch_size": 2, **settings})
    straight = train(data, tmp_path / "straight", config)
    assert straight["pooled"]["dice"]["mean_foreground"] > 0.6

    def stop(event: Event) -> None:
        if isinstance(event, EpochDone) and event.row["epoch"] == 2:
            raise Stop

    with pytest.raises(Stop):
        train(data, tmp_path / "interrupted", config, stop)
    again = resume(tmp_path / "interrupted")
    assert again["per_image"] == straight["per_image"]  # dropout goes on as it would have
    assert rows_of(tmp_path / "interrupted") == rows_of(tmp_path / "straight")

    predictor = Predictor.load(tmp_path / "straight" / "best.safetensors", device="cpu")
    wanted = config.network_arguments()
    del wanted["checkpointing"]  # how it was trained, not what it is
    assert predictor.network.architecture.items() >= wanted.items()
    image = np.zeros((61, 83, 3), np.uint8)  # another size, and odd
    assert predictor.predict(image).shape == (61, 83)


# what a data folder says of itself, and what was understood of it


def scores(result: dict[str, Any]) -> Any:
    return result["pooled"], result["per_image"]


def test_what_was_understood_may_be_put_into_the_data_folder(
    draw: Draw, tiny: TrainConfig, tmp_path: Path
) -> None:
    data = draw(tmp_path / "data", 8)
    (data / "images").rename(data / "photos")
    (data / "masks").rename(data / "left")
    config = tiny.model_copy(update={"epochs": 1, "validation": 0.5})
    first = train(
        data,
        tmp_path / "first",
        make_config({**tiny_settings(config), "images": "photos", "masks": "left"}),
    )
    written = (tmp_path / "first" / "dataset.toml").read_text()
    assert written.splitlines()[2:] == [
        'pairs = "split.csv"',
        'classes = ["background", "foreground"]',
        "values = [0, 255]",
    ]
    with pytest.raises(FileNotFoundError, match="pictures where they are looked for"):
        train(data, tmp_path / "second", config)
    for name in ("dataset.toml", "split.csv"):
        shutil.copy(tmp_path / "first" / name, data / name)
    # another seed, but the same split
    second = train(data, tmp_path / "second", make_config({**tiny_settings(config), "seed": 1}))
    assert (tmp_path / "second" / "split.csv").read_bytes() == (data / "split.csv").read_bytes()
    assert scores(second) == scores(first)
    assert (tmp_path / "second" / "dataset.toml").read_text() == written


def tiny_settings(config: TrainConfig) -> dict[str, Any]:
    return {name: getattr(config, name) for name in config.model_fields_set}


def test_folds_and_stratified_splits(draw: Draw, tiny: TrainConfig, tmp_path: Path) -> None:
    data = draw(tmp_path / "data", 8)
    held_out = []
    for fold in range(2):
        config = {"epochs": 1, "folds": 2, "fold": fold, "stratify": True}
        out = tmp_path / str(fold)
        train(data, out, make_config({**tiny_settings(tiny), **config}))
        with (out / "split.csv").open(newline="") as file:
            held_out.append({r["image"] for r in csv.DictReader(file) if r["part"] == "val"})
    assert [len(part) for part in held_out] == [4, 4]
    assert held_out[0].isdisjoint(held_out[1])


def as_coco(data: Path) -> None:
    images, annotations = [], []
    for number, path in enumerate(sorted((data / "images").iterdir()), start=1):
        mask = np.asarray(Image.open(data / "masks" / path.name)) > 0
        rows, columns = np.nonzero(mask)
        top, left, below, right = rows.min(), columns.min(), rows.max() + 1, columns.max() + 1
        outline = [left, top, right, top, right, below, left, below]
        entry = {"id": number, "file_name": path.name, "height": 32, "width": 40}
        images.append(entry)
        annotations.append(
            {
                **{"id": number, "image_id": number, "category_id": 5, "iscrowd": 0},
                "segmentation": [[int(value) for value in outline]],
            }
        )
    said = {
        "images": images,
        "annotations": annotations,
        "categories": [{"id": 5, "name": "box"}],
    }
    shutil.rmtree(data / "masks")
    (data / "annotations.json").write_text(json.dumps(said))


def as_list_of_runs(data: Path) -> None:
    rows = ["ImageId,EncodedPixels"]
    for path in sorted((data / "images").iterdir()):
        mask = np.asarray(Image.open(data / "masks" / path.name)).T.ravel() > 0
        edges = np.flatnonzero(np.diff(np.concatenate(([False], mask, [False])).astype(int))) + 1
        runs = [f"{start} {end - start}" for start, end in edges.reshape(-1, 2)]
        rows.append(f"{path.stem},{' '.join(runs)}")
    shutil.rmtree(data / "masks")
    (data / "masks.csv").write_text("\n".join(rows))


def as_folders_of_classes(data: Path) -> None:
    for path in list((data / "masks").iterdir()):
        mask = np.asarray(Image.open(path))
        for name, values in (("background", 255 - mask), ("box", mask)):
            (data / "masks" / name).mkdir(exist_ok=True)
            Image.fromarray(values).save(data / "masks" / name / path.name)
        path.unlink()


def as_stacks(data: Path) -> None:
    for name in ("images", "masks"):
        files = sorted((data / name).iterdir())
        slices = np.stack([np.asarray(Image.open(path)) for path in files])
        for path in files:
            path.unlink()
        for part in (0, 1):
            kind = "rgb" if slices.ndim == 4 else "minisblack"
            tifffile.imwrite(data / name / f"{part}.tif", slices[part::2], photometric=kind)


@pytest.mark.parametrize("form", [as_coco, as_list_of_runs, as_folders_of_classes, as_stacks])
def test_masks_of_other_forms_teach_the_same(
    draw: Draw, tiny: TrainConfig, tmp_path: Path, form: Callable[[Path], None]
) -> None:
    """The same pictures and masks in another form: the same samples, and so the same run."""
    data, other = draw(tmp_path / "data", 8), draw(tmp_path / "other", 8)
    form(other)
    settings = {**tiny_settings(tiny), "epochs": 2, "border_weight": 2.0}
    config = make_config({**settings, "validation": 0.5})
    notes: list[Event] = []
    result = train(other, tmp_path / "run", config, notes.append)
    assert len(result["images"]) == 4
    (held_out,) = [
        {Path(entry["image"]).name for entry in result["images"]},
    ]
    if form is as_stacks:
        # slices have other names, and so another split
        assert held_out in ({f"0.tif[{k}]" for k in range(4)}, {f"1.tif[{k}]" for k in range(4)})
    else:
        plain = train(data, tmp_path / "plain", config)
        names = {"background": "background", "foreground": "box"}
        if form is as_list_of_runs:
            names["foreground"] = "foreground"
        assert held_out == {Path(entry["image"]).name for entry in plain["images"]}
        assert json.dumps(result["pooled"]) == json.dumps(plain["pooled"]).replace(
            'foreground":', f'{names["foreground"]}":'
        ).replace(f"mean_{names['foreground']}", "mean_foreground")
    judged = evaluate(tmp_path / "run" / "best.safetensors", other)
    assert judged["split"] == "val"
    assert scores(judged) == scores(result)
    shutil.copytree(tmp_path / "run", tmp_path / "again")
    assert scores(resume(tmp_path / "again")) == scores(result)
    assert len(list((tmp_path / "run" / "saved_images").iterdir())) == 8


def test_fine_tuning_begins_with_the_weights_of_a_checkpoint(finished: Any, tmp_path: Path) -> None:
    start = str(finished.out / "best.safetensors")
    settings = {"start_from": start, "epochs": 1, "learning_rate": 1e-9, "schedule": "constant"}
    notes: list[str] = []
    train(
        finished.data,
        tmp_path / "run",
        finished.config.model_copy(update=settings),
        lambda event: notes.append(event.text) if isinstance(event, Note) else None,
    )
    assert any(f"weights from {start}" in note for note in notes)
    before, _ = load_checkpoint(finished.out / "best.safetensors")
    after, _ = load_checkpoint(tmp_path / "run" / "best.safetensors")
    for name, weight in before.named_parameters():
        torch.testing.assert_close(after.get_parameter(name), weight, rtol=0, atol=1e-6)


def test_a_frozen_encoder_stays_as_it_was(finished: Any, tmp_path: Path) -> None:
    settings = {
        "start_from": str(finished.out / "best.safetensors"),
        **{"freeze": "encoder", "epochs": 1, "ema": 0.0},
    }
    train(finished.data, tmp_path / "run", finished.config.model_copy(update=settings))
    before, _ = load_checkpoint(finished.out / "best.safetensors")
    after, _ = load_checkpoint(tmp_path / "run" / "best.safetensors")
    for name, value in after.state_dict().items():
        same = torch.equal(value, before.state_dict()[name])
        if name.startswith(("inlet.", "downs.")):
            assert same, name
        elif name.endswith("weight"):
            assert not same, name


def test_a_run_that_comes_no_further_stops(finished: Any, tmp_path: Path) -> None:
    settings = {"epochs": 30, "patience": 2, "learning_rate": 1e-12, "schedule": "constant"}
    notes: list[str] = []
    train(
        finished.data,
        tmp_path / "run",
        finished.config.model_copy(update={**settings, "ema": 0.0, "augment": "none"}),
        lambda event: notes.append(event.text) if isinstance(event, Note) else None,
    )
    assert any("stopped: no better validation Dice for 2 epochs" in note for note in notes)
    assert len(rows_of(tmp_path / "run")) < 30
    # going on with it does not begin again
    assert resume(tmp_path / "run")["split"] == "val"
    assert len(rows_of(tmp_path / "run")) < 30


def test_operations_of_chance_are_refused_if_asked(finished: Any, tmp_path: Path) -> None:
    seen: list[bool] = []

    def look(event: Event) -> None:
        if isinstance(event, EpochDone):
            seen.append(torch.are_deterministic_algorithms_enabled())

    settings = {"epochs": 1, "deterministic": True}
    train(finished.data, tmp_path / "run", finished.config.model_copy(update=settings), look)
    assert seen == [True]
    assert not torch.are_deterministic_algorithms_enabled()


def test_a_run_in_fp16_goes_on_with_its_scale(finished: Any, tmp_path: Path) -> None:
    settings = {"precision": "fp16", "epochs": 2}
    config = finished.config.model_copy(update=settings)

    def stop(event: Event) -> None:
        if isinstance(event, EpochDone):
            raise Stop

    with pytest.raises(Stop):
        train(finished.data, tmp_path / "run", config, stop)
    scale = read_state(tmp_path / "run")["scaler"]["scale"]
    assert scale > 1
    resume(tmp_path / "run")
    whole = train(finished.data, tmp_path / "whole", config)
    assert rows_of(tmp_path / "run") == rows_of(tmp_path / "whole")
    assert whole["pooled"]["dice"]["mean_foreground"] > 0.2


def test_a_run_that_cannot_be_judged_says_so_and_keeps_what_learnt_longest(
    draw: Draw, tiny: TrainConfig, tmp_path: Path
) -> None:
    data = draw(tmp_path / "data", 8)
    rows = ["image,mask,part"]
    for number, mask in enumerate(sorted((data / "masks").iterdir())):
        part = "val" if number < 3 else "train"
        if part == "val":
            with Image.open(mask) as picture:
                Image.new(picture.mode, picture.size).save(mask)
        rows.append(f"images/{mask.stem}.png,masks/{mask.name},{part}")
    (data / "pairs.csv").write_text("\n".join(rows))
    notes: list[str] = []
    settings = {"pairs": str(data / "pairs.csv"), "epochs": 3, "growth": (), "ema": 0.0}
    train(
        data,
        tmp_path / "run",
        tiny.model_copy(update=settings),
        lambda event: notes.append(event.text) if isinstance(event, Note) else None,
    )
    assert sum("no held-out picture has foreground" in note for note in notes) == 1
    network, _ = load_checkpoint(tmp_path / "run" / "best.safetensors")
    last = read_state(tmp_path / "run")["network"]
    assert all(torch.equal(value, last[name]) for name, value in network.state_dict().items())


def test_epochs_beside_a_clock_are_mentioned(draw: Draw, tiny: TrainConfig, tmp_path: Path) -> None:
    notes: list[str] = []
    config = TrainConfig(**{**tiny_settings(tiny), "epochs": 2, "budget": 0.5})
    with pytest.raises(ValueError, match="--budget 0 s is too short"):
        train(
            draw(tmp_path / "data", 6),
            tmp_path / "run",
            config,
            lambda event: notes.append(event.text) if isinstance(event, Note) else None,
        )
    assert "note: --epochs does nothing with --budget: the clock decides" in notes
