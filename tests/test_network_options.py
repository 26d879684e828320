"""The flags that describe a network are the arguments of UNet."""

import inspect

import pytest
from pydantic import ValidationError

from plainunet.config import NetworkOptions
from plainunet.network.unet import UNet


def test_fields_and_defaults_are_those_of_the_network() -> None:
    arguments = inspect.signature(UNet).parameters
    assert NetworkOptions().model_dump() == {
        name: argument.default for name, argument in arguments.items()
    }
    assert {name: field.annotation for name, field in NetworkOptions.model_fields.items()} == {
        name: argument.annotation for name, argument in arguments.items()
    }


@pytest.mark.parametrize(
    "wrong", [{"depth": 7}, {"depth": 0}, {"num_classes": 1}, {"dropout": 1.0}, {"width": 64}]
)
def test_what_is_no_network_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValidationError):
        NetworkOptions(**wrong)  # type: ignore[arg-type]
