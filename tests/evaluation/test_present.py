import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from plainunet.dataset.coding import Values
from plainunet.dataset.pairs import find_pairs
from plainunet.evaluation.evaluate import evaluate
from plainunet.evaluation.measure import PredictedImage
from plainunet.evaluation.present import MEDIAN, WORST, About, choose_shown, present, show
from plainunet.network.checkpoint import Card, save_checkpoint
from plainunet.network.unet import UNet
from plainunet.palette import default_colors
from plainunet.prediction.predictor import Predictor


def result_of(means: list[float | None]) -> dict[str, object]:
    return {"images": [{"dice": {"mean_foreground": mean}} for mean in means]}


def test_the_worst_and_those_around_the_median_are_shown() -> None:
    means = [number / 100 for number in range(100)][::-1]
    chosen = choose_shown(result_of([*means, None]))
    worst = [number for number, why in chosen.items() if why == "worst"]
    assert worst == list(range(99, 99 - WORST, -1))
    median = sorted(means[number] for number, why in chosen.items() if why == "median")
    assert len(median) == MEDIAN
    assert median[0] < 0.5 < median[-1]
    assert list(chosen)[:WORST] == worst


@pytest.mark.parametrize("count", [0, 1, 5, 13, 20])
def test_of_few_pictures_none_is_shown_twice(count: int) -> None:
    chosen = choose_shown(result_of([0.5] * count))
    assert len(chosen) == min(count, WORST + MEDIAN) or count in (13, 20)
    assert set(chosen) <= set(range(count))
    assert sum(why == "worst" for why in chosen.values()) == min(count, WORST)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_large_pictures_are_reduced(dtype: type[np.generic]) -> None:
    image = np.zeros((2000, 3000, 3), dtype)
    image[:, 1500:] = 1
    truth = np.zeros((2000, 3000), np.uint8)
    truth[:1000] = 255
    seen = PredictedImage(image, truth, truth // 255, np.zeros((2, 100), np.int64))
    shown = show(4, "worst", seen)
    assert shown.truth.shape == shown.prediction.shape == shown.image.shape[:2] == (1067, 1600)
    assert set(np.unique(shown.truth)) == {0, 255}
    assert shown.why == "worst"
    assert shown.image[:, -1].min() == pytest.approx(1, abs=1e-3)
    small = PredictedImage(image[:100, :90], truth[:100, :90], truth[:100, :90], seen.probabilities)
    assert show(4, "worst", small).image.shape == (100, 90, 3)


def test_the_page_says_what_was_judged(draw: Callable[[Path], Path], tmp_path: Path) -> None:
    data = draw(tmp_path / "data")
    torch.manual_seed(0)
    masks = {"values": (0, 1, 2), "ignore": 255, "kind": "ids"}
    names = ("ground", "leaf", "stone")
    card = Card(
        names, default_colors(3), (24, 32), masks=masks, training={"settings": {"epochs": 7}}
    )
    run = tmp_path / "run"
    run.mkdir()
    save_checkpoint(run / "best.safetensors", UNet(3, 3, 4, 2), card)
    rows: list[dict[str, object]] = [{"epoch": n, "loss": 1 / n} for n in (1, 2, 3)]
    rows[1]["validation"] = {"per_image": {"dice": {"mean_foreground": 0.4321}}}
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    page = tmp_path / "report.html"
    result = evaluate(run / "best.safetensors", data, html=page, device="cpu")
    text = page.read_text(encoding="utf-8")
    for said in (
        "U-Net, 4 base channels, depth 2",
        "pictures reduced to fit in 24 x 32 pixels",
        f"plainunet evaluate {run / 'best.safetensors'} {data} --split all",
        "leaf",
        f"{result['per_image']['dice']['mean_foreground']:.4f}",
        "epochs",
        "Dice per image, while training; at the end 0.4321.",
    ):
        assert said in text
    assert text.count("data:image/") >= 10
    # without the run folder, and with a model that sees pictures as they are
    network = UNet(3, 3, 4, 2).eval()
    predictor = Predictor(network, Card(names, default_colors(3), None, masks=masks), device="cpu")
    about = About("elsewhere/fine.safetensors", "data", "plainunet evaluate")
    coding = Values((0, 1, 2), 255)
    present(page, result, [], predictor, find_pairs(data), coding, about)
    text = page.read_text(encoding="utf-8")
    assert "pictures at their own size" in text
    assert "fine.safetensors" in text
