import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from plainunet.network.checkpoint import Card
from plainunet.network.unet import UNet
from plainunet.palette import default_colors
from plainunet.prediction.predictor import Predictor


def make_predictor(**training: Any) -> Predictor:
    torch.manual_seed(0)
    network = UNet(3, 3, base_channels=4, depth=2).eval()
    card = Card(("a", "b", "c"), default_colors(3), size=(32, 48), training=training)
    return Predictor(network, card, device="cpu", precision="fp32")


def noise(height: int, width: int, channels: int) -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (height, width, channels), np.uint8)


def test_pictures_far_from_the_training_pictures_are_warned_of() -> None:
    predictor = make_predictor(areas=[1000, 4000])
    with warnings.catch_warnings(record=True) as raised:
        warnings.simplefilter("always")
        predictor.predict(noise(25, 40, 3))
        predictor.predict(noise(15, 15, 3))
        predictor.predict(noise(150, 150, 3))
        assert raised == []
        predictor.predict(noise(10, 10, 3))
        predictor.probabilities(noise(160, 160, 3))
    assert len(raised) == 2
    assert "10 x 10 pixels" in str(raised[0].message)
    assert "1,000 to 4,000 pixels" in str(raised[1].message)
    # it points at the caller's line
    assert {Path(each.filename).name for each in raised} == {Path(__file__).name}


def test_pictures_of_another_kind_are_warned_of_once() -> None:
    predictor = make_predictor(dtypes=["uint16"])
    with warnings.catch_warnings(record=True) as raised:
        warnings.simplefilter("always")
        predictor.predict(noise(32, 48, 3).astype(np.uint16))
        predictor.predict(noise(32, 48, 3).astype(np.float32) / 255)
        assert raised == []
        for _ in range(2):
            predictor.predict(noise(32, 48, 3))
            predictor.predict(noise(32, 48, 1).astype(np.uint16))
    assert len(raised) == 2
    assert "uint8 values, where the model was trained on uint16" in str(raised[0].message)
    assert "grey picture is shown as RGB" in str(raised[1].message)
    assert {Path(each.filename).name for each in raised} == {Path(__file__).name}


def test_floats_that_are_not_0_to_1_are_warned_of() -> None:
    predictor = make_predictor(dtypes=["uint8"])
    image = noise(300, 400, 3).astype(np.float32)
    with warnings.catch_warnings(record=True) as raised:
        warnings.simplefilter("always")
        predictor.predict(image / 255)
        assert raised == []
        predictor.predict(image)
        predictor.predict(image)
    (said,) = raised
    assert "a picture of float32 values up to 25" in str(said.message)
    assert "save it as uint8" in str(said.message)
    make_predictor(dtypes=["float32"]).predict(image)
