"""Settings become what trains; what becomes of an epoch is in `test_epochs.py`."""

import re
from collections.abc import Callable
from typing import Any

import pytest
from plainunet.training.events import Event, Note

Fit = Callable[..., list[dict[str, Any]]]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("loss", "dice"),
        ("optimizer", "muon"),
        ("schedule", "constant"),
        ("augment", "none"),
        ("elastic", 3.0),
        ("class_weights", "balanced"),
    ],
)
def test_settings_reach_the_training(fitted: Fit, plain_loss: float, key: str, value: Any) -> None:
    (row,) = fitted(epochs=1, **{key: value})
    assert row["loss"] != plain_loss


def test_options_of_the_network_are_said(fitted: Fit) -> None:
    events: list[Event] = []
    fitted("run", events, epochs=1)
    fitted("other", events, epochs=1, checkpointing=True, dropout=0.5, normalisation="group")
    usual, other = [event.text for event in events if isinstance(event, Note)]
    assert re.search(r"depth 2, [\d,]+ parameters", usual)
    assert "normalisation group, dropout 0.5, checkpointing, " in other
    assert "dropout" not in usual
