"""One step: memory that is really short, and what it depends on."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.optim import SGD

from plainunet.network.losses import cross_entropy_dice
from plainunet.network.unet import UNet
from plainunet.training.step import Step

CPU = torch.device("cpu")


def batch(pictures: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(pictures)
    images = torch.randint(0, 256, (pictures, 32, 48, 3), generator=generator, dtype=torch.uint8)
    classes = torch.randint(0, 2, (pictures, 32, 48), generator=generator)
    shares = torch.nn.functional.one_hot(classes, 2).to(torch.uint8) * 255
    return images, shares


def make_step(**settings: Any) -> Step:
    torch.manual_seed(0)
    unet = UNet(3, 2, base_channels=4, depth=2, dropout=0.5).train()
    optimizers = [SGD(unet.parameters(), lr=1.0)]
    return Step(
        unet, cross_entropy_dice, optimizers, device=CPU, precision=torch.float32, **settings
    )


def test_a_step_is_a_function_of_the_seed_and_its_number() -> None:
    """Whatever was drawn before it: so a run goes on without any random state."""
    losses = {}
    for seed, number, drawn in ((1, 7, 0), (1, 7, 5), (1, 8, 0), (2, 7, 0)):
        step = make_step(seed=seed)
        torch.rand(drawn)
        losses[seed, number, drawn] = step(batch(3), number, 0.1).loss
    assert losses[1, 7, 0] == losses[1, 7, 5]
    assert len(set(losses.values())) == 3


SHORT = """
import resource, sys
from pathlib import Path
import torch
from torch.optim import SGD
from plainunet.network.losses import LOSSES
from plainunet.network.unet import UNet
from plainunet.training.step import Step

torch.set_num_threads(1)
parts, short = [int(part) for part in sys.argv[2].split(",")], sys.argv[3] == "short"
torch.manual_seed(0)
unet = UNet(3, 2, base_channels=8, depth=3, dropout=0.5).train()
notes = []
step = Step(unet, LOSSES["cross-entropy+dice"], [SGD(unet.parameters(), lr=1.0, momentum=0.9)],
            device=torch.device("cpu"), precision=torch.float32, seed=4,
            on_note=notes.append)
generator = torch.Generator().manual_seed(1)
images = torch.randint(0, 256, (8, 128, 192, 3), generator=generator, dtype=torch.uint8)
shares = torch.nn.functional.one_hot(torch.randint(0, 2, (8, 128, 192), generator=generator), 2)
small = [images[:1, :16, :16], shares[:1, :16, :16].to(torch.uint8) * 255]
step(small, 0, 0.0)  # what is loaded with the first step is there
if short:
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + int(sys.argv[4]) * 2**20
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
losses, made = [], []
for number, each in enumerate(parts, 1):
    step.accumulation = max(each, step.accumulation)
    losses.append(step([images, shares.to(torch.uint8) * 255], number, 0.05).loss)
    made.append(step.accumulation)
torch.save({"weights": unet.state_dict(), "losses": losses, "notes": notes, "made": made},
           sys.argv[1])
"""


def run_short(folder: Path, parts: list[int], megabytes: int = 0) -> dict[str, Any]:
    """Steps with eight pictures, each begun in so many parts, so much memory being left."""
    file = folder / f"{megabytes}.pt"
    words = [str(file), ",".join(map(str, parts)), "short" if megabytes else "ample"]
    done = subprocess.run(
        [sys.executable, "-c", SHORT, *words, str(megabytes)],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    content: dict[str, Any] = torch.load(file, weights_only=True)
    return content


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="RLIMIT_AS is tested on Linux")
def test_out_of_memory_the_step_is_made_again_in_parts(tmp_path: Path) -> None:
    """An allocation fails for real; what comes out is what parts from the start give."""
    short = run_short(tmp_path, [1, 1], 150)
    made, notes = short["made"], short["notes"]
    assert made[0] <= made[1] <= 8
    assert made[1] >= 2
    assert len(notes) == made[1].bit_length() - 1
    assert re.match("note: out of memory in step [23]: ", notes[0])
    assert "in 2 parts of 4 at most; the batch stays as large" in notes[0]
    ample = run_short(tmp_path, made)
    assert (ample["notes"], ample["made"]) == ([], made)
    assert short["losses"] == ample["losses"]
    # running statistics too: the passes that failed have left nothing in them
    for name, value in ample["weights"].items():
        assert torch.equal(short["weights"][name], value), name


def test_memory_for_not_even_one_picture_is_an_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    step = make_step()

    def fail(*_: object) -> Tensor:
        raise MemoryError("no more")

    monkeypatch.setattr(step, "_add_gradients", fail)
    with pytest.raises(MemoryError):
        step(batch(3), 0, 0.1)
    assert step.accumulation == 3
