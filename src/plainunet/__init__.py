"""U-Nets for semantic segmentation: from a folder of images and masks to a model in use.

The flow; no package imports from a later one:

    files, config -> formats, network -> dataset -> doctor, prediction -> evaluation -> training
    -> deployment -> terminal -> cli

The letters in shapes:

    N  images in a batch          K  classes, background included
    C  channels of an image       B  tiles or patches in a batch
    H  height, W  width           h, w  the same inside the network

Public names are loaded on first use, so `import plainunet` is quick and does not load PyTorch.
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from plainunet.config import TrainConfig
    from plainunet.dataset.dataset import SegmentationDataset
    from plainunet.doctor.diagnose import check
    from plainunet.evaluation.compare import compare
    from plainunet.evaluation.evaluate import evaluate
    from plainunet.evaluation.folds import CrossValidation
    from plainunet.network.card import Card
    from plainunet.network.unet import UNet
    from plainunet.prediction.predictor import Predictor
    from plainunet.reporter import Reporter
    from plainunet.settings import load_config
    from plainunet.training.crossval import cross_validate
    from plainunet.training.train import train

__version__ = "0.1.0"

__all__ = [
    "Card",
    "CrossValidation",
    "Predictor",
    "Reporter",
    "SegmentationDataset",
    "TrainConfig",
    "UNet",
    "__version__",
    "check",
    "compare",
    "cross_validate",
    "evaluate",
    "load_config",
    "train",
]

_MODULES = {
    "Card": "plainunet.network.card",
    "CrossValidation": "plainunet.evaluation.folds",
    "Predictor": "plainunet.prediction.predictor",
    "Reporter": "plainunet.reporter",
    "SegmentationDataset": "plainunet.dataset.dataset",
    "TrainConfig": "plainunet.config",
    "UNet": "plainunet.network.unet",
    "check": "plainunet.doctor.diagnose",
    "compare": "plainunet.evaluation.compare",
    "cross_validate": "plainunet.training.crossval",
    "evaluate": "plainunet.evaluation.evaluate",
    "load_config": "plainunet.settings",
    "train": "plainunet.training.train",
}


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(f"module 'plainunet' has no attribute {name!r}")
    value: object = getattr(importlib.import_module(_MODULES[name]), name)
    globals()[name] = value  # faster the next time
    return value


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(__all__))
