"""Measure plainunet-runtime: its installed size, and the time from the shell to the first mask.

    python benchmarks/runtime.py CHECKPOINT MODEL.onnx IMAGE

It installs ./runtime into a virtual environment of its own, and predicts the image with it and with
this environment's PyTorch by turns. The medians of the rounds are printed, of the time on the clock
and of the processors' time, which other programs disturb less; the first round is left out.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

CHECKOUT = Path(__file__).parents[1]
ROUNDS = 6


def installed_size(environment: Path) -> dict[bool, float]:
    """Size of the installed packages [MB] without pip: of files, and of compiled Python (True)."""
    (packages,) = environment.glob("lib/python*/site-packages")
    size = {False: 0.0, True: 0.0}
    for path in packages.rglob("*"):
        tool = path.relative_to(packages).parts[0].startswith(("pip", "setuptools", "pkg_res"))
        if path.is_file() and not tool:
            size["__pycache__" in path.parts] += path.stat().st_size / 1e6
    return size


def seconds_to_mask(python: str | Path, model: Path, image: Path) -> tuple[float, float]:
    """Time of `plainunet predict` on one image [s]: on the clock, and of the processors."""
    with tempfile.TemporaryDirectory() as out:
        words = [python, "-m", "plainunet", "predict", model, image, "--out", out, "--quiet"]
        begun, before = time.perf_counter(), processor_seconds()
        subprocess.run(words, check=True)
        return time.perf_counter() - begun, processor_seconds() - before


def processor_seconds() -> float:
    """Time of the processors that ended child processes have taken [s]."""
    times = os.times()
    return times.children_user + times.children_system


def main(checkpoint: Path, model: Path, image: Path) -> None:
    """Print both."""
    with tempfile.TemporaryDirectory() as folder:
        environment = Path(folder)
        python = environment / "bin" / "python"
        subprocess.run([sys.executable, "-m", "venv", environment], check=True)
        subprocess.run([python, "-m", "pip", "install", "-q", CHECKOUT / "runtime"], check=True)
        size = installed_size(environment)
        print(f"installed: {size[False]:.0f} MB, and {size[True]:.0f} MB of compiled Python")
        ways = {"plainunet-runtime": (python, model), "PyTorch": (sys.executable, checkpoint)}
        seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
        for _ in range(ROUNDS):
            for name, (interpreter, file) in ways.items():
                seconds[name].append(seconds_to_mask(interpreter, file, image))
    for name, each in seconds.items():
        clock, processors = map(statistics.median, zip(*each[1:], strict=True))
        print(f"{name}: {clock:.2f} s to the first mask ({processors:.2f} s of processor time)")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name in ("checkpoint", "model", "image"):
        parser.add_argument(name, type=Path)
    main(**vars(parser.parse_args()))
