"""`make results`: recipes are trained once, and all tables follow from the records."""

import importlib.util
import json
import shutil
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

from plainunet import Predictor, load_config, train
from plainunet.network.checkpoint import load_checkpoint
from plainunet.text import NOTHING
from plainunet.training.run import RunFolder

from .folders import draw_rectangles
from .training.conftest import PowerCut, Recorder

CHECKOUT = Path(__file__).parents[1]
TOML = """# A tiny network.
#
# Hardware: none
# Time:     none
# Score:    nothing, which is
#           not much

epochs = 2
base_channels = 4
depth = 2
batch_size = 4
size = [48, 64]
workers = 0
device = "cpu"
held_out = ["0", "5", "6"]
"""
README = """# All
<!-- results -->old<!-- /results -->
*An image: <!-- results tiny -->old<!-- /results -->, <!-- results other -->kept<!-- /results -->.*
"""
RECORD: dict[str, Any] = {
    **{"dataset": "small", "train": 30, "val": 10, "groups": 2, "hardware": "A, 2 threads"},
    **{"seconds": 4000, "budget": 5400.0, "epochs": None, "parameters": 1234567},
    **{"size": [48, 64], "patches": True, "seed": 7, "commit": "abc1234", "weights": "0"},
    "per_image": {
        "accuracy": [0.98765, 0.98, 0.99],
        "dice": {"mean_foreground": [0.5, None, None]},
    },
    "pooled": {
        "dice": {
            "mean_foreground": [0.625, 0.6, 0.65],
            "per_class": {"a": [0.9, 0.8, 1.0], "b": [0.625, 0.6, 0.65], "c": [None, None, None]},
        }
    },
    "objects": {"b": {"true": 1200, "predicted": 3, "f1": {"pooled": 0.0}, "rand": 0.75}},
}


@pytest.fixture
def results(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The module docs/results.py."""
    name = "docs_results"
    spec = importlib.util.spec_from_file_location(name, CHECKOUT / "docs" / "results.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, name, module)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def tiny(results: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout with the recipe tiny, and its dataset, data/small."""
    for name, text in {"configs/tiny.toml": TOML, "README.md": README, "docs/a.md": "# A"}.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    draw_rectangles(tmp_path / "data" / "small", 8, (48, 64))
    recipe = results.Recipe(
        "small",
        "Boxes, drawn.",
        ("f1", "dice", "accuracy"),
        objects=True,
        tuned=True,
        is_cc0=True,
        released="They are free.",
    )
    monkeypatch.setattr(results, "RECIPES", {"tiny": recipe})
    monkeypatch.setattr(results, "CHECKOUT", tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def refuse(*given: Any, **named: Any) -> None:
    raise AssertionError("trained or evaluated again")


def files_of(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for name in ("README.md", "configs", "docs")
        for path in sorted([folder / name, *(folder / name).rglob("*")])
        if path.is_file() and path.suffix in {".md", ".toml", ".json"}
    }


def test_tables_headers_and_captions_are_those_of_the_records(
    results: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("configs", "docs"):
        shutil.copytree(CHECKOUT / name, tmp_path / name)
    shutil.copyfile(CHECKOUT / "README.md", tmp_path / "README.md")
    monkeypatch.setattr(results, "CHECKOUT", tmp_path)
    results.main(["--tables"])
    assert files_of(tmp_path) == files_of(CHECKOUT), "run docs/results.py --tables"


def test_every_recipe_is_known(results: Any) -> None:
    assert set(results.RECIPES) == {path.stem for path in (CHECKOUT / "configs").glob("*.toml")}
    for recipe in results.RECIPES.values():
        assert set(recipe.figures) <= results.FIGURES.keys()


def test_a_recipe_is_trained_once_and_written_down(
    results: Any, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = RunFolder(tiny / "runs" / "tiny")
    config = load_config("configs/tiny.toml")
    with pytest.raises(PowerCut):  # in the first epoch, or after it
        train("data/small", folder.path, config, Recorder(lambda kind, _: kind == "epoch"))
    assert folder.state.is_file()
    monkeypatch.setattr(results, "train", refuse)
    results.main(["data"])  # resumes it
    card = load_checkpoint(folder.best)[1]
    tuned = load_checkpoint(folder.path / "best-tuned.safetensors")[1]
    record = json.loads((tiny / "docs" / "results.json").read_text())["tiny"]
    assert (record["train"], record["val"], record["epochs"]) == (5, 3, 2)
    assert record["tuned"]["after"]["threshold"] == tuned.threshold
    assert record["tuned"]["dice"]["before"] == pytest.approx(
        card.scores["per_image"]["dice"]["mean_foreground"], abs=1e-5
    )
    dice = record["tuned"]["dice"]["after"]
    assert record["per_image"]["dice"]["mean_foreground"][0] == pytest.approx(dice, abs=1e-5)
    assert record["objects"]["foreground"]["true"] >= 3
    assert record["hardware"] == card.training["hardware"]
    header = (tiny / "configs" / "tiny.toml").read_text()
    assert f"Dice per image {dice:.4f}" in header.replace("\n#          ", "")
    assert "**" in (tiny / "README.md").read_text()
    assert (tiny / "docs" / "results-small.jpg").is_file()
    assert (tiny / "docs" / "results.jpg").is_file()
    released = tiny / "release" / "tiny"
    assert "They are free." in (released / "README.md").read_text()
    assert Predictor.from_pretrained(released).card.scores == tuned.scores
    # again: nothing is trained or evaluated, and nothing changes
    before = files_of(tiny)
    monkeypatch.setattr(results, "resume", refuse)
    monkeypatch.setattr(results, "evaluate", refuse)
    results.main(["data", "tiny"])
    assert files_of(tiny) == before


def test_a_run_of_other_settings_is_refused(results: Any, tiny: Path) -> None:
    folder = RunFolder(tiny / "runs" / "tiny")
    with pytest.raises(PowerCut):
        train(
            "data/small",
            folder.path,
            load_config("configs/tiny.toml").model_copy(update={"base_channels": 2}),
            Recorder(lambda kind, _: kind == "step"),
        )
    with pytest.raises(SystemExit, match=r"base_channels = 2, .* 4"):
        results.main(["data"])


def test_what_is_missing_is_named(results: Any, tiny: Path) -> None:
    with pytest.raises(SystemExit, match=r"other.small: .*tiny"):
        results.main(["other"])
    for wrong in ([], ["data", "large"]):
        with pytest.raises(SystemExit, match="2"):
            results.main(wrong)


def test_records_become_tables(results: Any, tiny: Path) -> None:
    table = results.overview({"tiny": RECORD}, "configs/{}.toml").splitlines()
    assert table[2] == (
        "| [`tiny`](configs/tiny.toml): boxes | 10 images in 2 groups | Dice per image 0.5000, "
        f"accuracy 98.77 % (98.00{NOTHING}99.00) | 1.2 M parameters, patches of 48 x 64 "
        "| 67 min on A, 2 threads, seed 7, commit abc1234 |"
    )
    ablation = {
        **{"dataset": "small", "change": "wider", "base": 0.5, "changed": 0.4, "seeds": 3},
        **{"difference": -0.1, "interval": [-0.2, 0.01], "budget": "15m", "commit": "abc1234"},
    }
    page = results.page({"tiny": RECORD}, [ablation])
    dice, none = f"0.6250 (0.6000{NOTHING}0.6500)", f"| {NOTHING} "
    assert f"| pooled | {dice} {3 * none}|" in page
    assert f"| b {none}| {dice} {2 * none}|" in page
    assert "1,200 in the ground truth, 3 predicted; pooled F1 (IoU 0.5) 0.0000, Rand" in page
    assert "| -0.1000 | -0.2000 to +0.0100 | 15m | 3 | abc1234 |" in page
    assert page.count("Not run yet") == 0
    assert results.page({}, []).count("Not run yet") == 2


def test_headers_are_rewritten_and_stay_so(results: Any, tiny: Path) -> None:
    path = tiny / "configs" / "tiny.toml"
    texts = []
    for _ in range(2):
        results.write_header(path, "tiny", RECORD)
        texts.append(path.read_text())
    assert texts[0] == texts[1]
    assert tomllib.loads(texts[0]) == tomllib.loads(TOML)
    assert texts[0].startswith(
        "# A tiny network.\n#\n# Hardware: A, 2 threads\n"
        "# Time:     67 min of training and validation, budget 90 min\n"
        f"# Score:    Dice per image 0.5000, accuracy 98.77 % (98.00{NOTHING}99.00); 10 images in "
        "2 groups, native\n#           size, seed 7, commit abc1234\n\nepochs"
    )
    path.write_text("# Hardware: x\n# Time: y\n")
    with pytest.raises(ValueError, match="Score"):
        results.write_header(path, "tiny", RECORD)


def test_only_known_parts_of_a_page_are_filled(results: Any) -> None:
    filled = results.fill(README, {"": "new", "tiny": r"\1"})
    assert filled == README.replace("old", "new", 1).replace("old", r"\1")
