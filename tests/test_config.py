"""Settings of a run, of a data folder and of each verb."""

import ast
import inspect
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import BaseModel, ValidationError

from plainunet.config import (
    DataConfig,
    EvaluateOptions,
    FolderConfig,
    Growth,
    NetworkConfig,
    NetworkOptions,
    PredictOptions,
    TrainConfig,
)
from plainunet.errors import Error
from plainunet.network.unet import UNet


@pytest.mark.parametrize("model", [NetworkConfig, FolderConfig, DataConfig, TrainConfig, Growth])
def test_every_field_has_a_docstring(model: type[BaseModel]) -> None:
    tree = ast.parse(inspect.getsource(sys.modules[model.__module__]))
    (body,) = (
        node.body
        for node in tree.body
        if isinstance(node, ast.ClassDef) and node.name == model.__name__
    )
    explained = set()
    for field, below in pairwise(body):
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name):
            assert isinstance(below, ast.Expr), field.target.id
            assert isinstance(below.value, ast.Constant), field.target.id
            assert str(below.value.value).endswith("."), field.target.id
            explained.add(field.target.id)
    inherited = [set(parent.model_fields) for parent in model.__bases__ if parent is not BaseModel]
    assert explained == set(model.model_fields).difference(*inherited)


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        TrainConfig().epochs = 3  # type: ignore[misc]


@pytest.mark.parametrize(
    ("given", "field", "wanted"),
    [
        ({"colors": ("#FF0000", "00ff7f")}, "legend", ((255, 0, 0), (0, 255, 127))),
        # names may have commas between
        *(
            ({"classes": classes}, "classes", ("road", "car"))
            for classes in (("road,car",), ["road, car"], ("road", "car"))
        ),
        ({}, "classes", ()),
        ({"values": (7, 0)}, "values", (7, 0)),
        ({"values": (1, 2), "ignore": 0}, "ignore", 0),
        *(
            ({"track": track}, "track", ("mlflow", "wandb"))
            for track in (("mlflow,wandb",), "mlflow, wandb", ("mlflow", "wandb"))
        ),
        ({"budget": "90s"}, "budget", 90),
        ({"budget": "90"}, "budget", 90),
        ({"budget": "20m"}, "budget", 1200),
        ({"budget": "20min"}, "budget", 1200),
        ({"budget": "1h30m"}, "budget", 5400),
        ({"budget": 75.5}, "budget", 75.5),
        ({"patch": (64, 96), "factor": 0.5}, "window", (64, 96)),
        ({"size": (32, 48)}, "window", (32, 48)),
        ({"freeze": "encoder", "pretrained": "a.safetensors"}, "freeze", "encoder"),
        ({"held_out": "tile6"}, "held_out", ("tile6",)),
        ({"teacher": Path("runs/a")}, "teacher", str(Path("runs/a"))),
        ({"pretrained": Path("runs/a")}, "pretrained", str(Path("runs/a"))),
    ],
)
def test_what_a_user_says_is_understood(given: dict[str, Any], field: str, wanted: object) -> None:
    assert getattr(TrainConfig(**given), field) == wanted


def test_a_size_that_nobody_knows_yet_is_missing() -> None:
    with pytest.raises(ValueError, match=r"\bsize\b"):
        _ = TrainConfig().window


def test_a_seed_fits_in_64_bits() -> None:
    torch.manual_seed(TrainConfig(seed=2**63 - 1).seed)
    with pytest.raises(Error, match=r"\bseed\b"):
        TrainConfig(seed=2**63)


def test_fields_and_defaults_of_a_network_are_those_of_unet() -> None:
    arguments = inspect.signature(UNet).parameters
    assert NetworkOptions().model_dump() == {
        name: argument.default for name, argument in arguments.items()
    }
    assert {name: field.annotation for name, field in NetworkOptions.model_fields.items()} == {
        name: argument.annotation for name, argument in arguments.items()
    }


def test_what_is_not_given_is_left_to_the_checkpoint() -> None:
    for given in ({}, {"threshold": 0, "min_object": 0}, {"tta": "flips", "scales": (1, 2)}):
        assert PredictOptions(**given).instead() == given  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("model", "wrong", "field"),
    [
        (TrainConfig, {"track": ("comet",)}, "track"),
        *(
            (TrainConfig, {"budget": budget}, "budget")
            for budget in ("", "soon", "20 minutes", "-3m", "0s", 0, -1, float("inf"))
        ),
        (TrainConfig, {"size": (32, 32), "patch": (64, 64)}, "patch"),
        # a checkpoint of it could not be read
        (TrainConfig, {"size": (64, 16385)}, "size"),
        (TrainConfig, {"patch": (16385, 64)}, "patch"),
        (TrainConfig, {"factor": 0.5}, "factor"),
        (TrainConfig, {"held_out": ("a",), "folds": 2}, "folds"),
        # only what has learnt is frozen
        (TrainConfig, {"freeze": "encoder"}, "freeze"),
        (DataConfig, {"colors": ("red",)}, "colors"),
        (DataConfig, {"colors": ("ff0000", "FF0000")}, "colors"),
        (DataConfig, {"values": (0, 0)}, "values"),
        (DataConfig, {"values": (0, -1)}, "values"),
        (DataConfig, {"values": (0, 65536)}, "values"),
        (DataConfig, {"values": (0, 1), "ignore": 0}, "ignore"),
        (EvaluateOptions, {"split": "some"}, "split"),
        (EvaluateOptions, {"tuned": True}, "tuned"),
        (NetworkOptions, {"depth": 7}, "depth"),
        (NetworkOptions, {"depth": 0}, "depth"),
        (NetworkOptions, {"num_classes": 1}, "num_classes"),
        (NetworkOptions, {"dropout": 1.0}, "dropout"),
        (NetworkOptions, {"width": 64}, "width"),
        (PredictOptions, {"threshold": 1.5}, "threshold"),
        (PredictOptions, {"min_object": -1}, "min_object"),
        (PredictOptions, {"tta": "spin"}, "tta"),
        (PredictOptions, {"save": ("film",)}, "save"),
        (PredictOptions, {"scales": (0.0,)}, "scales"),
        (PredictOptions, {"scales": ()}, "scales"),
    ],
)
def test_impossible_options_are_refused(
    model: type[BaseModel], wrong: dict[str, object], field: str
) -> None:
    with pytest.raises(ValidationError) as caught:
        model.model_validate(wrong)
    assert {problem["loc"][0] for problem in caught.value.errors()} == {field}
    for call in (lambda: model(**wrong), lambda: model.model_construct().model_copy(update=wrong)):
        with pytest.raises(Error, match=field) as refused:
            call()
        assert refused.value.code == "argument"
        assert "\n" not in refused.value.message
