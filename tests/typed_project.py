"""What a user of plainunet writes: own loss, network and metric, a reporter, and results."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader

import plainunet
from plainunet import Error, Predictor, Reporter, TrainConfig, losses, metrics


def tversky(logits: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    share = logits.softmax(1) * weight[:, None]
    hits = (share * target).sum((2, 3))
    return 1 - (hits / (0.3 * share.sum((2, 3)) + 0.7 * target.sum((2, 3)) + 1)).mean()


def both(logits: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    return tversky(logits, target, weight) + losses.dice_loss(logits, target, weight)


def specificity(confusion: NDArray[np.int64]) -> NDArray[np.float64]:
    return np.asarray(metrics.recall(confusion[..., ::-1, ::-1])[..., ::-1])


class Flat(nn.Module):
    size_divisor = 1

    def __init__(self, in_channels: int, num_classes: int) -> None:
        super().__init__()
        self.body = nn.Conv2d(in_channels, num_classes, 3, padding=1)

    def forward(self, image: Tensor) -> Tensor:
        logits: Tensor = self.body(image)
        return logits


class Stops(Reporter):
    def __init__(self) -> None:
        self.best = 0.0

    def epoch(self, row: dict[str, Any], best: float | None) -> None:
        self.best = best or 0.0

    def should_stop(self) -> bool:
        return self.best > 0.99


def main(data: Path, out: str) -> float:
    settings = TrainConfig(epochs=2, size=(96, 128), batch_size=4, learning_rate=1e-3, seed=1)
    scores = plainunet.train(
        data, out, settings, Stops(), loss=both, metrics=[specificity], network=Flat
    )
    dice: float | None = scores.dice
    bounds: tuple[float, float] | None = scores.interval("iou", "pooled", "foreground")
    worst: Path = next(iter(scores.of_images()))
    matrix: NDArray[np.int64] = scores.confusion
    content: dict[str, Any] = scores.as_dict()
    again = plainunet.evaluate(scores.checkpoint, data, split="val", html=Path("report.html"))
    report: Path | None = again.report
    found = plainunet.compare("runs/a", Path("runs/b"), data)
    better: float | None = found.difference("dice").better
    codes: list[str] = [each.code for each in plainunet.check(data, settings).findings]
    folds = plainunet.cross_validate(data, "runs/cv", TrainConfig(budget=60.0), folds=3)
    spread = folds.over_folds("dice")
    mean: float = spread.mean if spread else 0.0
    path: Path = plainunet.export(out, "model.onnx").path
    try:
        predictor = Predictor.load(out, device="cpu", threshold=0.4)
    except Error as error:
        problem: tuple[str, str, Path | None] = error.code, error.message, error.path
        raise SystemExit(str(problem)) from error
    image = plainunet.read_image("a.png")
    mask: NDArray[np.uint8] = predictor.predict(image)
    masks: list[NDArray[np.uint8]] = predictor.predict([image, "a.png", Path("b.png")])
    masks += predictor.predict([Image.open("a.png")])
    plainunet.save_mask("a-mask.png", mask, predictor.card.colors)
    written: list[Path] = plainunet.predict(predictor, "images", "masks", save=["overlay"]).written
    network = plainunet.UNet(3, 2, base_channels=8, depth=3, normalisation="group")
    logits: Tensor = network(torch.zeros(1, 3, 64, 64))
    dataset = plainunet.SegmentationDataset.open(data)
    names: tuple[str, ...] = dataset.class_names
    for images, _ in DataLoader(dataset.split(settings).part("train"), batch_size=2):
        logits = network(images)
    found_all = (bounds, worst, matrix, content, report, better, codes, path, written, logits)
    return dice or mean or len(found_all) + len(names)
