"""nnU-Net's side of `quality.py`: its 2-D trainer, planned and preprocessed by itself.

Needs `pip install nnunetv2` (2.8.1 pulls torchvision in through timm, which this loop does not
use). The images are written as RGB PNG files first, off the clock; fingerprint, planning and
preprocessing count. Network, patch and batch size, loss, augmentation and optimizer are nnU-Net's;
its epochs of 250 steps are left out, with their validation, because a CPU does not finish one in
minutes, and its polynomial learning rate falls to zero at the budget instead of at epoch 1000.
Evaluation is its sliding window, without mirroring, which would take four times as long.
"""

import json
import os

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from quality import Contest, Example

from plainunet.formats.images import read_image
from plainunet.network.device import autocast, choose_device, choose_precision

NAME, PLANS, POWER = "Dataset001_quality", "nnUNetPlans", 0.9


def write_raw(contest: Contest) -> None:
    """Write the training examples in nnU-Net's layout, and tell it where."""
    for kind in ("raw", "preprocessed", "results"):
        os.environ[f"nnUNet_{kind}"] = str(contest.folder / kind)
        (contest.folder / kind / NAME).mkdir(parents=True)
    os.environ.update(nnUNet_n_proc_DA=str(os.cpu_count()))
    raw = contest.folder / "raw" / NAME
    for kind in ("imagesTr", "labelsTr"):
        (raw / kind).mkdir()
    for number, each in enumerate(contest.trained):
        cv2.imwrite(str(raw / "imagesTr" / f"{number:05}_0000.png"), read_rgb(each)[..., ::-1])
        (raw / "labelsTr" / f"{number:05}.png").symlink_to(each.mask)
    description = {
        "channel_names": {"0": "R", "1": "G", "2": "B"},
        "labels": {"background": 0, "foreground": 1},
        "numTraining": len(contest.trained),
        "file_ending": ".png",
    }
    (raw / "dataset.json").write_text(json.dumps(description))


def read_rgb(example: Example) -> NDArray[np.uint8]:
    """Read an image as [H, W, 3] of 0..255."""
    image = read_image(example.image)[..., :3]
    rgb: NDArray[np.uint8] = np.broadcast_to(image, (*image.shape[:2], 3)).astype(np.uint8)
    return rgb


def train(contest: Contest, name: str) -> None:
    """Train until the time is up."""
    with contest.standing():
        write_raw(contest)
        # imported here: the library reads its folders from the environment
        from nnunetv2.experiment_planning import plan_and_preprocess_api as planning
        from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
        from nnunetv2.run.run_training import get_trainer_from_args
    device = choose_device(contest.config.device)
    precision = choose_precision("auto", device)
    processes = os.cpu_count() or 1
    planning.extract_fingerprints([1], num_processes=processes)
    planning.plan_experiments([1])
    planning.preprocess([1], PLANS, configurations=("2d",), num_processes=(processes,))

    preprocessed = contest.folder / "preprocessed" / NAME
    every = [f"{number:05}" for number in range(len(contest.trained))]
    # its own validation is not used, but must not be empty
    splits = [{"train": every, "val": every[:1]}]
    (preprocessed / "splits_final.json").write_text(json.dumps(splits))
    torch.manual_seed(contest.config.seed)
    np.random.seed(contest.config.seed)  # noqa: NPY002 (its augmentation draws from it)
    trainer = get_trainer_from_args("1", "2d", 0, device=device)
    trainer.on_train_start()
    predictor = nnUNetPredictor(use_mirroring=False, device=device, allow_tqdm=False)

    def predict(example: Example) -> NDArray[np.uint8]:
        trainer.set_deep_supervision_enabled(False)
        weights = [trainer.network.state_dict()]
        predictor.manual_initialization(
            *(trainer.network, trainer.plans_manager, trainer.configuration_manager, weights),
            *(trainer.dataset_json, "nnUNetTrainer", None),
        )
        image = read_rgb(example).transpose(2, 0, 1)[:, None].astype(np.float32)
        # of evaluation alone, which would take longer than the training
        with autocast(device, precision):
            found = predictor.predict_single_npy_array(image, {"spacing": [999, 1, 1]})
        trainer.set_deep_supervision_enabled(trainer.enable_deep_supervision)
        ids: NDArray[np.uint8] = found[0].astype(np.uint8)
        return ids

    try:
        contest.start_steps()
        while True:
            for group in trainer.optimizer.param_groups:
                group["lr"] = trainer.initial_lr * (1 - contest.done) ** POWER
            trainer.network.train()
            trainer.train_step(next(trainer.dataloader_train))
            contest.step(trainer.batch_size, predict)
    finally:
        for loader in (trainer.dataloader_train, trainer.dataloader_val):
            loader._finish()  # as its own `on_train_end`: ends the worker processes
