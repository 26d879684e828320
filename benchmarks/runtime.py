"""Measure plainunet-runtime: its installed size, and the time from the shell to the first mask.

    python benchmarks/runtime.py CHECKPOINT MODEL.onnx IMAGE

It installs ./runtime into a virtual environment of its own, and predicts the image with it and with
this environment's PyTorch by turns. The median of the rounds is printed; the first one is left out.
"""

import argparse
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


def seconds_to_mask(python: str | Path, model: Path, image: Path) -> float:
    """Time of `plainunet predict` on one image [s]."""
    with tempfile.TemporaryDirectory() as out:
        words = [python, "-m", "plainunet", "predict", model, image, "--out", out, "--quiet"]
        begun = time.perf_counter()
        subprocess.run(words, check=True)
        return time.perf_counter() - begun


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
        seconds: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(ROUNDS):
            for name, (interpreter, file) in ways.items():
                seconds[name].append(seconds_to_mask(interpreter, file, image))
    for name, each in seconds.items():
        print(f"{name}: {statistics.median(each[1:]):.2f} s to the first mask")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name in ("checkpoint", "model", "image"):
        parser.add_argument(name, type=Path)
    main(**vars(parser.parse_args()))
