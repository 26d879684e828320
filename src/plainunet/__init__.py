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

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from plainunet.config import TrainConfig
    from plainunet.dataset.dataset import SegmentationDataset
    from plainunet.deployment.export import export
    from plainunet.doctor.diagnose import check
    from plainunet.errors import Error
    from plainunet.evaluation import metrics
    from plainunet.evaluation.compare import compare
    from plainunet.evaluation.evaluate import evaluate
    from plainunet.evaluation.scores import CrossValidation, Scores
    from plainunet.formats.images import read_image
    from plainunet.formats.masks import read_mask
    from plainunet.network import losses
    from plainunet.network.card import Card
    from plainunet.network.unet import UNet
    from plainunet.prediction.drawing import save_mask
    from plainunet.prediction.predict import predict
    from plainunet.prediction.predictor import Predictor
    from plainunet.reporter import Reporter
    from plainunet.settings import load_config
    from plainunet.training.crossval import cross_validate
    from plainunet.training.train import resume, train

__version__ = "0.1.0"

__all__ = [
    "Card",
    "CrossValidation",
    "Error",
    "Predictor",
    "Reporter",
    "Scores",
    "SegmentationDataset",
    "TrainConfig",
    "UNet",
    "__version__",
    "check",
    "compare",
    "cross_validate",
    "evaluate",
    "export",
    "load_config",
    "losses",
    "metrics",
    "predict",
    "read_image",
    "read_mask",
    "resume",
    "save_mask",
    "train",
]

_MODULES = {
    "Card": "plainunet.network.card",
    "CrossValidation": "plainunet.evaluation.scores",
    "Error": "plainunet.errors",
    "Predictor": "plainunet.prediction.predictor",
    "Reporter": "plainunet.reporter",
    "Scores": "plainunet.evaluation.scores",
    "SegmentationDataset": "plainunet.dataset.dataset",
    "TrainConfig": "plainunet.config",
    "UNet": "plainunet.network.unet",
    "check": "plainunet.doctor.diagnose",
    "compare": "plainunet.evaluation.compare",
    "cross_validate": "plainunet.training.crossval",
    "evaluate": "plainunet.evaluation.evaluate",
    "export": "plainunet.deployment.export",
    "load_config": "plainunet.settings",
    "losses": "plainunet.network",
    "metrics": "plainunet.evaluation",
    "predict": "plainunet.prediction.predict",
    "read_image": "plainunet.formats.images",
    "read_mask": "plainunet.formats.masks",
    "resume": "plainunet.training.train",
    "save_mask": "plainunet.prediction.drawing",
    "train": "plainunet.training.train",
}


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(f"module 'plainunet' has no attribute {name!r}")
    # unlike importlib.import_module, this also loads a module that is itself the name
    value: object = getattr(__import__(_MODULES[name], fromlist=[name]), name)
    globals()[name] = value  # faster the next time
    return value


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(__all__))


if "ipykernel" in sys.modules:  # in a notebook, calls show their progress, and results their report
    __import__("plainunet.terminal.notebook", fromlist=["install"]).install()
