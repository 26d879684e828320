"""A checkpoint as a file for other programs, checked against the checkpoint on real images."""

import dataclasses
import hashlib
import math
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from plainunet.config import ExportOptions
from plainunet.deployment.agreement import (
    LIMITS,
    Agreement,
    Both,
    Example,
    agree,
    choose,
    crop,
    find_calibration,
    find_examples,
    open_whole,
    predict_both,
)
from plainunet.deployment.graph import Pipeline, build_program
from plainunet.errors import Error, require_types, take_path, wrong
from plainunet.files import require_file, require_own, write_whole
from plainunet.formats.colors import IGNORED
from plainunet.formats.images import to_unit
from plainunet.network.blocks import fold_batch_normalisation
from plainunet.network.card import (
    KEY,
    Card,
    CheckpointError,
    find_checkpoint,
    versions,
    write_metadata,
)
from plainunet.network.checkpoint import load_checkpoint
from plainunet.network.own import Network, OwnNetwork
from plainunet.parts import parts_of
from plainunet.prediction.backends import Geometry
from plainunet.prediction.exported import UnusableError, cut_onnx
from plainunet.prediction.predictor import Predictor
from plainunet.prediction.tiling import WHOLE
from plainunet.reporter import Reporter, or_default
from plainunet.text import plural

SUFFIX = {"onnx": ".onnx", "openvino": ".xml", "torch": ".pt2", "bioimageio": ".zip"}
"""Suffix of each format."""
_NEEDS = {
    "onnx": ("onnx", "onnxscript", "onnxruntime"),
    "openvino": ("onnx", "onnxscript", "openvino"),
    "torch": (),
    "bioimageio": ("onnx", "onnxscript", "onnxruntime", "bioimageio.core"),
}
_PRECISIONS = {
    "onnx": {"bf16": "ONNX Runtime has no bf16 convolutions for CPUs"},
    "torch": {
        "int8": "torch.export files have no int8 here",
        "fp16": "PyTorch computes fp16 convolutions slowly on CPUs",
        "bf16": "the program that loads the file chooses by torch.autocast",
    },
    "bioimageio": dict.fromkeys(("fp16", "bf16", "int8"), "packages are tested in fp32"),
}
_TILE = 512
"""Default side of Deepness tiles [pixels]."""
Write = Callable[[Path, Mapping[str, Any]], None]
"""Writes a model to a file, with its metadata."""
Run = Callable[[NDArray[Any]], Both]
"""From an image [H, W, C] to probabilities and mask."""


@dataclass(frozen=True)
class Exported:
    """What `export` did; prints as a summary."""

    path: Path
    """The file."""
    images: str
    """The images that it was checked on."""
    agreement: Agreement
    sizes: tuple[int, int]
    """Bytes of the checkpoint and of the file, or both files."""

    def as_dict(self) -> dict[str, Any]:
        """Return everything, ready for JSON."""
        return {**dataclasses.asdict(self), "path": str(self.path)}

    def __str__(self) -> str:
        """Say how the file agrees with its checkpoint."""
        found = self.agreement
        return (
            f"{self.path}: {self.sizes[1] / 2**20:.2f} MiB, Dice between its masks and those of "
            f"the checkpoint {found.dice:.4f} on {plural(found.images, 'image')}"
        )


def export(
    checkpoint: str | Path,
    out: str | Path,
    options: ExportOptions | None = None,
    reporter: Reporter | None = None,
    *,
    network: Any = None,
    **settings: Any,
) -> Exported:
    """Export a checkpoint, and compare the file with it on images.

    Args:
        checkpoint: A `best.safetensors`, or its run folder.
        out: The file: .onnx, .xml (a .bin is written beside it), .pt2 or .zip. It appears whole or
            not at all; only a file of an earlier export is replaced.
        options: Format, precision, layout, and the images.
        reporter: Receives progress and notes; default: shown in notebooks.
        network: The factory of your own network, as in `Predictor.load`.
        settings: The options by name, in place of `options`: `precision`, `data` and the other
            fields of `ExportOptions`.

    Returns:
        The comparison.

    Raises:
        FileNotFoundError: The checkpoint or an image does not exist.
        ValueError: The options contradict each other or the checkpoint, a library is missing, or
            the file differs from the checkpoint by more than `LIMITS` allow, or fails the test of
            bioimageio.core, or your own network cannot be exported.

    Example:
        ```python
        from plainunet import Predictor, export

        print(export("runs/first", "model.onnx"))
        mask = Predictor.load("model.onnx").predict("new-images/i_1.jpg")
        ```
    """
    checkpoint, out = find_checkpoint(take_path(checkpoint, "checkpoint")), take_path(out, "out")
    require_types(options=(options, ExportOptions))
    options, reporter = options or ExportOptions(**settings), or_default(reporter)
    if options.to == "auto":
        options = options.model_copy(update={"to": _form_of(out)})
    _require_possible(out, options)
    own, card = load_checkpoint(checkpoint, parts_of(network, "--network"))
    card = _card_for_export(checkpoint, card, options, reporter)
    dtype = choose_dtype(card)
    found, described = find_examples(
        checkpoint, card, own.in_channels, np.dtype(dtype), options, reporter
    )
    fold_batch_normalisation(own)
    tile = _tile_of(card, own, options)
    metadata = write_metadata(
        own.architecture,
        card,
        precision=options.precision,
        export={
            "to": options.to,
            "layout": options.layout,
            "dtype": "float32" if tile else dtype,
            "tile": tile,
            "checkpoint": hashlib.sha256(checkpoint.read_bytes()).hexdigest(),
            "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "versions": versions() | {name: _version(name) for name in _NEEDS[options.to]},
        },
    )
    reporter.stage("exporting", 1)
    predictor = Predictor(own, card, device="cpu", precision="fp32")
    if options.to == "bioimageio":
        examples, write = _package(own, predictor, dtype, found, options)
    else:
        side = _side(own, card, tile)
        inputs = _calibration(predictor, checkpoint, side, options, reporter)
        write = _build(Pipeline(own, card), dtype, tile, options, inputs, reporter)
        examples = [crop(each, side) for each in found]
        examples = [_as_tile(each, tile) for each in examples] if tile else examples
    with tempfile.TemporaryDirectory() as scratch:
        draft = Path(scratch) / f"model{SUFFIX[options.to]}"
        write(draft, metadata)
        reporter.advance(1)
        run = _runner(draft, options.precision, tile, card)
        agreement = agree(predictor, run, examples, reporter)
        _require_agreement(agreement, checkpoint, options)
        metadata["export"]["check"] = {"checked_on": described, **dataclasses.asdict(agreement)}
        write(draft, metadata)
        if options.to == "bioimageio":
            from plainunet.deployment.bioimageio import check_package

            check_package(draft)
        sizes = checkpoint.stat().st_size, sum(file.stat().st_size for file in _files(draft))
        _publish(draft, out)
    return Exported(out, described, agreement, sizes)


def _form_of(out: Path) -> str:
    """The format that a file's suffix stands for."""
    by_suffix = {suffix: name for name, suffix in SUFFIX.items()}
    if (to := by_suffix.get(out.suffix.lower())) is None:
        raise wrong("out", str(out), f"a file name ending in one of {', '.join(by_suffix)}")
    return to


def _require_possible(out: Path, options: ExportOptions) -> None:
    """Refuse what cannot be done, before anything is read."""
    if options.ensemble:
        raise Error("--ensemble: an exported file holds one network. Export each alone.")
    if reason := _PRECISIONS.get(options.to, {}).get(options.precision):
        raise Error(
            f"--precision {options.precision} --to {options.to}: {reason}. Use --precision fp32"
            + (", or --to openvino." if options.to == "onnx" else ".")
        )
    if options.layout == "deepness" and options.to != "onnx":
        raise Error("--layout deepness: Deepness reads ONNX files. Add --to onnx.")
    if options.tile and options.layout != "deepness":
        raise Error("--tile needs --layout deepness; other files take images of any size.")
    require_file(out, SUFFIX[options.to])
    require_own(out, KEY)
    weights = out.with_suffix(".bin")
    if options.to == "openvino" and weights.exists() and not out.exists():
        raise Error(
            f"{weights}: exists, and was not made by this command. Choose another file name."
        )
    if missing := [name for name in _NEEDS[options.to] if not _is_installed(name)]:
        # bioimageio.core fails with a newer pydantic, see pyproject.toml
        pinned = " 'pydantic<2.14'" if options.to == "bioimageio" else ""
        raise UnusableError(
            f"--to {options.to} needs {', '.join(missing)}. Run: pip install "
            f"{' '.join(_NEEDS[options.to])}{pinned}"
        )
    if options.to == "bioimageio":
        from plainunet.deployment.bioimageio import require_publishable

        require_publishable(options)
    elif options.author or options.license or options.title:
        raise Error("--author, --license and --title need --to bioimageio.")


def _is_installed(name: str) -> bool:
    """Whether a module can be imported; its package may be missing as well."""
    try:
        return find_spec(name) is not None
    except ModuleNotFoundError:
        return False


def _version(name: str) -> str:
    """The version of a library, which packages of other names may hold, as onnxruntime-gpu."""
    try:
        return version(name)
    except PackageNotFoundError:
        return str(getattr(import_module(name), "__version__", "unknown"))


def _card_for_export(
    checkpoint: Path, card: Card, options: ExportOptions, reporter: Reporter
) -> Card:
    """The card with the overrides of the options; what a graph cannot do is refused or noted."""
    instead = options.instead()
    if "threshold" in instead and len(card.class_names) > 2:
        raise Error(
            f"--threshold needs a model with two classes; {checkpoint} has "
            f"{len(card.class_names)} and chooses the most probable class."
        )
    changed = dataclasses.replace(card, **instead)
    if changed != card:  # the scores are those of the checkpoint's settings
        card = dataclasses.replace(changed, scores={})
    if card.tta != "none":
        raise Error(
            f"{checkpoint}: uses test-time augmentation ({card.tta}), which an exported file "
            "cannot hold. Export it without: --tta none"
        )
    if card.scales != (1.0,):
        raise Error(
            f"{checkpoint}: uses several scales, which an exported file cannot hold. Export it "
            "with one: --scales 1"
        )
    if card.min_object > 1 or card.fill_holes:
        reporter.note(
            "small objects and holes are not removed inside the file; plainunet predict does it"
        )
    return card


def choose_dtype(card: Card) -> str:
    """The dtype of images that a model was trained on: "uint8", "uint16" or else "float32"."""
    known = card.training.get("dtypes") or ["uint8"]
    return known[0] if len(known) == 1 and known[0] in ("uint8", "uint16") else "float32"


def _tile_of(card: Card, network: Network, options: ExportOptions) -> int | None:
    """Side of the tiles, for Deepness."""
    if options.layout != "deepness":
        return None
    side = options.tile or (min(card.size) if card.size else _TILE)
    least = 16 if card.size else math.ceil(network.sizes.smallest / card.factor)
    if side < least:
        given = f"--tile {side}" if options.tile else f"--layout deepness: tiles of {side} pixels"
        raise Error(f"{given}: too small for the network. Use at least --tile {least}.")
    return side


def _side(network: Network, card: Card, tile: int | None) -> int:
    """Side to which the images of the check are cropped [pixels]: what fits into one pass."""
    if tile or card.size:
        return tile or 2**20
    area = min(2**20, WHOLE // network.architecture["base_channels"] // 2)
    return int(math.sqrt(area) / card.factor)


def _calibration(
    predictor: Predictor, checkpoint: Path, side: int, options: ExportOptions, reporter: Reporter
) -> list[NDArray[np.float32]]:
    """Inputs of the network to calibrate int8 with; none for other precisions."""
    if options.precision != "int8":
        return []
    channels = predictor.network.in_channels
    found = find_calibration(checkpoint, predictor.card, channels, options, reporter)
    # cropped one by one: large images would not fit into memory together
    return [predictor.network_input(crop(Example(image), side).image) for image in found]


def _build(
    pipeline: Pipeline,
    dtype: str,
    tile: int | None,
    options: ExportOptions,
    inputs: list[NDArray[np.float32]],
    reporter: Reporter,
) -> Write:
    """Export the graph; the function writes it. `inputs` of the network calibrate int8."""
    kind: torch.dtype = getattr(torch, dtype)
    if options.to == "torch":
        return build_program(pipeline, kind)
    from plainunet.deployment.onnx_model import (
        build_onnx,
        build_openvino,
        compress,
        quantise,
        write_onnx,
    )

    model = build_onnx(pipeline, kind, tile)
    if isinstance(pipeline.network, OwnNetwork):
        try:
            cut_onnx(model, Path("the exported file"))
        except CheckpointError as error:
            reporter.note(f"{error} Other programs can run it.")
    if options.precision == "int8":
        model = quantise(model, inputs, reporter=reporter).model
    if options.to == "openvino":
        return build_openvino(model, half=options.precision == "fp16")
    return write_onnx(compress(model) if options.precision == "fp16" else model)


def _package(
    network: Network, predictor: Predictor, dtype: str, found: list[Example], options: ExportOptions
) -> tuple[list[Example], Write]:
    """Examples of the sizes that a package takes, as floats, and the function that writes it."""
    from plainunet.deployment.bioimageio import InputSize, Package
    from plainunet.deployment.onnx_model import build_planar

    card = predictor.card
    size = InputSize.of(card, Geometry.of(network.architecture))
    fitting = [size.fit(each) for each in found]
    examples = [Example(to_unit(each.image), each.truth) for each in fitting]
    package = Package(
        build_planar(Pipeline(network, card)),
        card,
        dtype,
        size,
        fitting[0].image,
        predict_both(predictor, examples[0].image)[0],
        options,
    )
    return examples, package.write


def _runner(draft: Path, precision: str, tile: int | None, card: Card) -> Run:
    """A function from an image to the probabilities and the mask of the whole file."""
    run = open_whole(draft, precision)

    def on_image(image: NDArray[Any]) -> Both:
        probabilities, mask = run(image[None])
        return probabilities[0], mask[0]

    def on_planes(image: NDArray[Any]) -> Both:
        probabilities = run(np.ascontiguousarray(image.transpose(2, 0, 1)[None]))[0][0]
        return probabilities, choose(probabilities, card.threshold)

    def on_tile(image: NDArray[Any]) -> Both:
        found: NDArray[np.float32] = run(image.transpose(2, 0, 1)[None])[0][0]
        mask = found.argmax(0).astype(np.uint8)
        if len(found) == 2:  # undo the shift of `RestoreTile`
            weighted = found * np.array([1 - card.threshold, card.threshold])[:, None, None]
            found = (weighted / weighted.sum(0)).astype(np.float32)
        return found, mask

    if draft.suffix == ".zip":
        return on_planes
    return on_tile if tile else on_image


def _as_tile(example: Example, side: int) -> Example:
    """An example of exactly `side` x `side` pixels, as floats in 0..1."""
    image, truth = example.image, example.truth
    missing = [(0, side - length) for length in image.shape[:2]]
    image = np.pad(to_unit(image), (*missing, (0, 0)), mode="edge")
    truth = None if truth is None else np.pad(truth, missing, constant_values=IGNORED)
    return Example(image, truth)


def _require_agreement(agreement: Agreement, checkpoint: Path, options: ExportOptions) -> None:
    limit = LIMITS[options.precision]
    if agreement.is_within(limit) or options.force:
        return
    lost = "" if agreement.lost is None else f", Dice lost {agreement.lost:.4f}"
    raise Error(
        f"{checkpoint}: the exported file differs (probabilities by up to "
        f"{agreement.difference:.4f}, Dice between the masks {agreement.dice:.4f}{lost}; allowed: "
        f"{limit.difference}, and {limit.lost} of Dice lost), so it was not kept. Use another "
        "--precision or --to, or keep it with --force."
    )


def _files(path: Path) -> list[Path]:
    """The file, and the weights beside an OpenVINO file."""
    return [path, *([path.with_suffix(".bin")] if path.suffix == ".xml" else [])]


def _publish(draft: Path, out: Path) -> None:
    """Move the finished files to their place, each whole."""
    with ExitStack() as opened:
        for file in _files(draft):
            part = opened.enter_context(write_whole(out.with_suffix(file.suffix)))
            shutil.copyfile(file, part)
