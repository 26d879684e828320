"""Measure the speed, time profile, peak memory and tiling error of prediction.

    python benchmarks/predict.py speed CHECKPOINT --data DATA/carvana
    python benchmarks/predict.py memory
    python benchmarks/predict.py seams CHECKPOINT --data DATA/isbi2012/images

`speed` goes from JPEG files to mask files at the images' own size, with one network and the same
images for three methods, which alternate: `plainunet`'s batch prediction; the plain way (Pillow,
resize, fp32 in NCHW, one by one, bilinear upsampling, PNG by Pillow); and, if MONAI is installed
(`pip install --no-deps monai`), its SlidingWindowInferer at full resolution, with the input size as
window. The images are those of the validation split, and each method's Dice is printed. Each method
runs in its own process in each round, on a GPU if there is one. `memory` predicts synthetic TIFF
files of several sizes with an untrained network of 16 base channels, each in its own process, and
prints the peak resident memory. `seams` compares tiles with one pass on a mosaic of real images.
"""

import argparse
import re
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import tifffile
import torch
from PIL import Image
from torch.nn import functional as F

from plainunet.dataset.coding import Coding, coding_from_json
from plainunet.dataset.pairs import Pair
from plainunet.dataset.resize import resize
from plainunet.dataset.split import SPLIT_FILE, read_split
from plainunet.formats.images import read_image, to_unit
from plainunet.network.card import Card
from plainunet.network.checkpoint import load_checkpoint, save_checkpoint
from plainunet.network.device import choose_device, describe_processor
from plainunet.network.unet import UNet
from plainunet.prediction.drawing import write_mask
from plainunet.prediction.predict import predict_files
from plainunet.prediction.predictor import Predictor
from plainunet.system import read_bytes

Way = Callable[[Sequence[Path], Path], float]
"""A function of images and an output folder that returns seconds."""
_FEWER = 8  # MONAI takes seconds per image, so it gets every eighth one


def plain(network: UNet, card: Card, images: Sequence[Path], out: Path) -> None:
    """Predict as most scripts do: one image at a time, with default settings."""
    assert card.size is not None
    device = next(network.parameters()).device
    with torch.no_grad():
        for path in images:
            image = Image.open(path).convert("RGB")
            small = image.resize(card.size[::-1], Image.Resampling.BILINEAR)
            batch = torch.from_numpy(np.array(small, np.float32) / 255).permute(2, 0, 1)[None]
            logits = network(batch.contiguous().to(device))
            size = (image.height, image.width)
            logits = F.interpolate(logits, size=size, mode="bilinear", align_corners=False)
            mask = logits.argmax(dim=1)[0].to(torch.uint8).cpu().numpy()
            Image.fromarray(mask).save(out / f"{path.stem}.png")


def monai(network: UNet, card: Card, images: Sequence[Path], out: Path) -> None:
    """Predict with MONAI's sliding windows at full resolution."""
    from monai.inferers import SlidingWindowInferer

    assert card.size is not None
    inferer = SlidingWindowInferer(roi_size=card.size, sw_batch_size=4, overlap=0.25)
    device = next(network.parameters()).device
    with torch.no_grad():
        for path in images:
            image = np.array(Image.open(path).convert("RGB"), np.float32) / 255
            batch = torch.from_numpy(image).permute(2, 0, 1)[None].contiguous().to(device)
            mask = inferer(batch, network).argmax(dim=1)[0].to(torch.uint8).cpu().numpy()
            Image.fromarray(mask).save(out / f"{path.stem}.png")


def dice(pairs: Sequence[Pair], coding: Coding, out: Path) -> float:
    """Mean Dice of class 1 over images."""
    scores = []
    for pair in pairs:
        truth = coding.read(pair.mask) == 1
        with Image.open(out / f"{pair.image.stem}.png") as image:
            mask = np.asarray(image) == 1
        scores.append(2 * int((truth & mask).sum()) / int(truth.sum() + mask.sum()))
    return float(np.mean(scores))


def held_out(checkpoint: Path, data: Path, most: int) -> list[Pair]:
    """Pairs of the model's validation split."""
    pairs = [p for p in read_split(checkpoint.parent / SPLIT_FILE, data) if p.part == "val"]
    return pairs[:: max(1, len(pairs) // most)][:most]


def take_turns(
    ways: dict[str, Way],
    pairs: Sequence[Pair],
    card: Card,
    rounds: int,
) -> tuple[dict[str, list[float]], dict[str, float]]:
    """Run all methods alternately. Returns seconds per image of each round, and Dice."""
    coding = coding_from_json(card.masks)
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    scores = {}
    for number in range(rounds + 1):  # the first round warms up
        for way, run in ways.items():
            few = pairs[::_FEWER] if way.startswith("MONAI") or number == 0 else pairs
            with tempfile.TemporaryDirectory() as folder:
                took = run([pair.image for pair in few], Path(folder))
                if number:
                    seconds[way].append(took / len(few))
                    scores[way] = dice(few, coding, Path(folder))
    return seconds, scores


def timed(
    run: Callable[[Sequence[Path], Path], object], images: Sequence[Path], out: Path
) -> float:
    """Run a prediction. Returns seconds."""
    start = time.perf_counter()
    run(images, out)
    return time.perf_counter() - start


def elsewhere(name: str, checkpoint: Path, images: Sequence[Path], out: Path) -> float:
    """Predict images in a separate process. Returns seconds without its start-up."""
    command = [sys.executable, __file__, "way", name, checkpoint, out]
    listed = "\n".join(map(str, images))
    done = subprocess.run(command, input=listed, capture_output=True, text=True, check=True)
    return float(done.stdout)


def one_way(arguments: argparse.Namespace) -> None:
    """Predict the images listed on standard input, and print the seconds."""
    images = [Path(line) for line in sys.stdin.read().splitlines()]
    if arguments.name == "plainunet":
        run = partial(predict_files, Predictor.load(arguments.checkpoint))
    else:
        network, card = load_checkpoint(arguments.checkpoint)
        way = {"plain": plain, "monai": monai}[arguments.name]
        run = partial(way, network.to(choose_device()), card)
    with tempfile.TemporaryDirectory() as folder:
        run(images[:2], Path(folder))  # warms up
    print(timed(run, images, arguments.out))


def speed(arguments: argparse.Namespace) -> None:
    """Print the images per second of each method, and a time profile."""
    pairs = held_out(arguments.checkpoint, arguments.data, arguments.images)
    predictor = Predictor.load(arguments.checkpoint)
    names = {"plainunet": "plainunet", "plain": "the plain way"}
    if find_spec("monai") is None:
        print("MONAI is not installed and is left out")
    else:
        names["monai"] = "MONAI SlidingWindowInferer"
    ways = {label: partial(elsewhere, name, arguments.checkpoint) for name, label in names.items()}
    seconds, scores = take_turns(ways, pairs, predictor.card, arguments.rounds)
    print(f"{describe_processor(choose_device())}, {predictor.precision}")
    size = predictor.card.size
    print(f"{len(pairs)} images, {arguments.rounds} rounds, input size {size}\n")
    print("| method | images/s | Dice per image | speed-up of plainunet |")
    print("|---|---|---|---|")
    for way, times in seconds.items():
        ratios = [other / own for own, other in zip(seconds["plainunet"], times, strict=True)]
        print(
            f"| {way} | {1 / statistics.median(times):.2f} | {scores[way]:.4f} | "
            f"{statistics.median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f}) |"
        )
    where_time_goes(predictor, [pair.image for pair in pairs[:16]])


def where_time_goes(predictor: Predictor, images: Sequence[Path]) -> None:
    """Time each stage of prediction separately."""
    card = predictor.card
    assert card.size is not None
    backend = predictor._views[0].backend
    parts = dict.fromkeys(("decoding", "reducing", "network", "enlarging", "writing"), 0.0)
    with tempfile.TemporaryDirectory() as folder:
        for path in images:
            marks = [time.perf_counter()]
            image = read_image(path)
            marks.append(time.perf_counter())
            small = resize(image, card.size)
            batch = to_unit(small)[None]
            marks.append(time.perf_counter())
            backend.run(batch).cpu()
            marks.append(time.perf_counter())
            start = time.perf_counter()
            mask = predictor.predict(image)
            whole = time.perf_counter() - start
            begun = time.perf_counter()
            write_mask(Path(folder) / "mask.png", mask, card.colors)
            writing = time.perf_counter() - begun
            parts["decoding"] += marks[1] - marks[0]
            parts["reducing"] += marks[2] - marks[1]
            parts["network"] += marks[3] - marks[2]
            parts["enlarging"] += whole - (marks[3] - marks[1])
            parts["writing"] += writing
    print("\ntime per stage, each timed alone [ms per image]; decoding and writing overlap with")
    print("the others: " + ", ".join(f"{k} {1000 * v / len(images):.1f}" for k, v in parts.items()))


def memory(arguments: argparse.Namespace) -> None:
    """Print the peak memory of predicting images of several sizes."""
    print(f"{describe_processor(choose_device())}\n")
    print("| image | kind | --memory | peak memory, MiB | before, MiB | seconds | mask |")
    print("|---|---|---|---|---|---|---|")
    for side in arguments.sides:
        for kind in arguments.kinds:
            with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
                path = Path(folder) / "in" / "image.tif"
                path.parent.mkdir()
                draw(path, side, kind)
                command = [sys.executable, __file__, "one", str(path), "--memory", arguments.memory]
                done = subprocess.run(command, capture_output=True, text=True, check=True)
                print(f"| {side} x {side} | {kind} | {arguments.memory} | {done.stdout.strip()} |")


def draw(path: Path, side: int, kind: str) -> None:
    """Write an image of random blocks, a band of rows at a time."""
    dtype = np.uint16 if "16 bit" in kind else np.uint8
    rng = np.random.default_rng(0)
    layout = {"rowsperstrip": 64} if "strips" in kind else {"tile": (512, 512)}
    step = 64 if "strips" in kind else 512

    def blocks() -> Iterator[np.ndarray | bytes]:
        for top in range(0, side, step):
            rows = min(step, side - top)
            small = rng.integers(0, np.iinfo(dtype).max, (-(-step // 8), -(-side // 8), 3), dtype)
            band = small.repeat(8, axis=0)[:step].repeat(8, axis=1)[:, :side]
            if "strips" in kind:
                yield zlib.compress(band[:rows].tobytes())
                continue
            for left in range(0, side, 512):
                tile = np.zeros((512, 512, 3), dtype)
                part = band[:rows, left : left + 512]
                tile[: part.shape[0], : part.shape[1]] = part
                yield tile

    tifffile.imwrite(
        path, blocks(), shape=(side, side, 3), dtype=dtype, photometric="rgb",
        compression="zlib", bigtiff="BigTIFF" in kind or side > 15000, **layout,
    )  # fmt: skip


def one(arguments: argparse.Namespace) -> None:
    """Predict one image in this process, and print its memory and seconds."""
    torch.manual_seed(0)
    network = UNet(base_channels=16)
    card = Card(("background", "thing"), ((0, 0, 0), (255, 0, 0)), size=None)
    with tempfile.TemporaryDirectory(dir=arguments.image.parent.parent) as folder:
        checkpoint = Path(folder) / "drawn.safetensors"
        save_checkpoint(checkpoint, network, card)
        predictor = Predictor.load(checkpoint, memory=read_bytes(arguments.memory))
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        start = time.monotonic()
        result = predict_files(predictor, [arguments.image], Path(folder) / "masks")
        if result.failures:
            sys.exit(result.failures[0])
        seconds = time.monotonic() - start
        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        written = result.written[0]
        print(f"{most:.0f} | {before:.0f} | {seconds:.0f} | {written.suffix[1:]}")


def seams(arguments: argparse.Namespace) -> None:
    """Compare tiles with one pass over a mosaic of real images."""
    network, card = load_checkpoint(arguments.checkpoint)
    files = sorted(
        path for path in arguments.data.rglob("*") if re.search("png|jpg|tif", path.suffix)
    )
    images = [read_image(path) for path in files[:64]]
    rows, side, number = [], arguments.side, 0
    while sum(row.shape[0] for row in rows) < side:
        row: list[np.ndarray] = []
        while sum(part.shape[1] for part in row) < side:
            row.append(images[number % len(images)])
            number += 1
        height = min(part.shape[0] for part in row)
        rows.append(np.concatenate([part[:height] for part in row], axis=1)[:, :side])
    mosaic = np.concatenate(rows)[:side]
    whole = Predictor(network, card, memory=1e12).probabilities(mosaic)
    print("| --memory | pixels of another class | mean difference | maximum |")
    print("|---|---|---|---|")
    for memory in (2e8, 5e8, 1e9, 2e9):
        tiled = Predictor(network, card, memory=memory).probabilities(mosaic)
        change = np.abs(tiled - whole).max(axis=0)
        other = (tiled.argmax(axis=0) != whole.argmax(axis=0)).mean()
        print(f"| {memory / 1e9:g} GB | {other:.6%} | {change.mean():.2e} | {change.max():.4f} |")


def main() -> None:
    """Parse arguments, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    verbs = parser.add_subparsers(dest="verb", required=True)
    verb = verbs.add_parser("speed")
    verb.add_argument("checkpoint", type=Path)
    verb.add_argument("--data", type=Path, required=True)
    verb.add_argument("--images", type=int, default=64)
    verb.add_argument("--rounds", type=int, default=5)
    verb = verbs.add_parser("memory")
    verb.add_argument("--sides", type=int, nargs="*", default=[5000, 10000, 20000, 40000])
    verb.add_argument("--kinds", nargs="*", default=["tiles, 8 bit"])
    verb.add_argument("--memory", default="1G")
    verb.add_argument("--folder", type=Path, help="for the synthetic images; up to 5 GB")
    verb = verbs.add_parser("seams")
    verb.add_argument("checkpoint", type=Path)
    verb.add_argument("--data", type=Path, required=True)
    verb.add_argument("--side", type=int, default=3000)
    verb = verbs.add_parser("way")
    verb.add_argument("name", choices=["plainunet", "plain", "monai"])
    verb.add_argument("checkpoint", type=Path)
    verb.add_argument("out", type=Path)
    verb = verbs.add_parser("one")
    verb.add_argument("image", type=Path)
    verb.add_argument("--memory", default="1G")
    arguments = parser.parse_args()
    run = {"speed": speed, "memory": memory, "seams": seams}
    (run | {"one": one, "way": one_way})[arguments.verb](arguments)


if __name__ == "__main__":
    main()
