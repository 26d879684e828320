"""What a step says of itself; `test_fit.py` has it in a run."""

import pytest
import torch
from plainunet.training.events import StepDone
from torch.optim import SGD

from plainunet.config import TrainConfig
from plainunet.system import resident_memory
from plainunet.training.schedule import StepSchedule
from plainunet.training.trainer import StepReport


def test_a_step_tells_all_of_itself() -> None:
    weight = torch.zeros(1, requires_grad=True)
    optimizer = SGD([weight], lr=0.5)
    schedule = StepSchedule(TrainConfig(size=(32, 48), epochs=5), per_epoch=4)
    told: list[StepDone] = []
    report = StepReport(told.append, 2, schedule, optimizer, 4, torch.device("cpu"), end=7.0)  # type: ignore[arg-type]
    report(8, 0.75, 16)
    optimizer.param_groups[0]["lr"] = 0.25
    report(9, 0.5, 3)
    assert [(step.epoch, step.step, step.steps) for step in told] == [(2, 8, 20), (2, 9, 20)]
    assert [(step.epoch_step, step.epoch_steps) for step in told] == [(1, 4), (2, 4)]
    assert [step.share for step in told] == pytest.approx([9 / 20, 10 / 20])
    assert [step.loss for step in told] == [0.75, 0.5]
    assert [step.learning_rate for step in told] == [0.5, 0.25]
    assert all(step.images_per_second > 0 for step in told)
    assert {step.end for step in told} == {7.0}
    now = resident_memory()
    assert told[0].memory == (now and pytest.approx(now, rel=0.5))
    assert told[0].gpu_memory is None
