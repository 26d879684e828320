"""A model package of the BioImage Model Zoo: description, ONNX weights, test tensors, document.

It is written and tested by the zoo's own libraries, bioimageio.spec and bioimageio.core, without
network access: they would only look up web addresses and GitHub names, which the package has none
of.
"""

import json
import keyword
import math
import re
import string
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from typing import Any

import cv2
import numpy as np
import tifffile
from numpy.typing import NDArray

from plainunet import __version__
from plainunet.config import ExportOptions
from plainunet.dataset.resize import fit_size, resize
from plainunet.deployment.agreement import WEIGHTS, Example, choose
from plainunet.deployment.onnx_model import IMAGE, OPSET, PROBABILITIES
from plainunet.errors import Error
from plainunet.formats.colors import IGNORED
from plainunet.network.card import KEY, Card
from plainunet.prediction.backends import Geometry
from plainunet.prediction.drawing import as_rgb, draw_overlay, write_rgb
from plainunet.prediction.exported import UnusableError
from plainunet.prediction.tiling import OVERLAP
from plainunet.system import shorten

_PAPER = {
    "text": "Ronneberger, Fischer, Brox 2015: U-Net: Convolutional Networks for Biomedical Image "
    "Segmentation",
    "doi": "10.1007/978-3-319-24574-4_28",
}
_TITLE = frozenset(string.ascii_letters + string.digits + "_+- ()")
"""Characters that the format allows in a title."""
_TITLE_LENGTH = (5, 64)
_MOST = 512
"""Largest side of the test image [pixels], if the network takes as small ones."""
_TIMES, _NEAR = 8, 0.05
"""Most steps of the pooling grid that are one of the image, and how near they are [pixels]."""
_COVER = 320
"""Side of each half of the cover image [pixels]."""
_PRIVATE = ("sample", "settings")
"""Keys of `Card.training` that are not published: names of files, and paths."""


@dataclass(frozen=True)
class InputSize:
    """The image sizes that a package accepts: `least` plus any multiple of `step`.

    Attributes:
        least: Smallest height and width [pixels].
        step: Step of both [pixels], or None if `least` is the only size.
        halo: Margin of a tile's output that its neighbours replace [pixels], 0 without tiles.
    """

    least: tuple[int, int]
    step: int | None
    halo: int

    @classmethod
    def of(cls, card: Card, geometry: Geometry) -> "InputSize":
        """Choose them for a model.

        Tiles begin at multiples of the step, on the pooling grid. The halo is half the overlap with
        which the `Predictor` tiles; with valid convolutions it is their whole context.
        """
        if card.size:
            return cls(card.size, None, 0)
        grid = 2**geometry.depth
        step = _grid_of_images(grid, card.factor)
        if not geometry.can_tile:
            least = math.ceil(geometry.smallest / card.factor / step) * step
            return cls((least, least), step, 0)
        context = 6 * grid - 4  # on each side, see `graph.Scale.sources`
        inner = context if geometry.valid else min(OVERLAP // 2, context)
        halo = math.ceil(inner / card.factor / step) * step
        return cls((2 * halo + step, 2 * halo + step), step, halo)

    def fit(self, example: Example) -> Example:
        """Bring an example to such a size: reduced if there is only one, else cropped.

        Where it is smaller, the image is padded by repeating its edges. Reduced ones lose their
        ground truth.
        """
        image, truth = example.image, example.truth
        if self.step is None:
            image = resize(image, fit_size((image.shape[0], image.shape[1]), self.least))
            wanted, truth = self.least, None
        else:
            steps = [max(0, min(side, _MOST) - self.least[0]) // self.step for side in image.shape]
            wanted = tuple(self.least[0] + each * self.step for each in steps[:2])
        window = tuple(
            slice((own - side) // 2, (own - side) // 2 + side) if own > side else slice(None)
            for own, side in zip(image.shape[:2], wanted, strict=True)
        )
        image = image[window]
        missing = [(0, side - own) for own, side in zip(image.shape[:2], wanted, strict=True)]
        if truth is not None:
            truth = np.pad(truth[window], missing, constant_values=IGNORED)
        return Example(np.pad(image, (*missing, (0, 0)), mode="edge"), truth)


def _grid_of_images(grid: int, factor: float) -> int:
    """Pixels of an image, or nearly, that are a multiple of the pooling grid once reduced."""
    near = [(round(times * grid / factor), times * grid) for times in range(1, _TIMES + 1)]
    misses = [abs(step * factor - wanted) for step, wanted in near]
    return next(
        (step for (step, _), miss in zip(near, misses, strict=True) if miss <= _NEAR),
        near[int(np.argmin(misses))][0],
    )


@dataclass(frozen=True)
class Package:
    """What a package is made of.

    Attributes:
        model: The ONNX model of `build_planar`.
        card: The card of the checkpoint.
        dtype: That of images: "uint8", "uint16" or "float32".
        size: The accepted sizes.
        image: The test image [H, W, C] of that dtype and such a size.
        probabilities: The checkpoint's own probabilities [K, H, W] of it.
        options: Authors, licence and title.
    """

    model: Any
    card: Card
    dtype: str
    size: InputSize
    image: NDArray[Any]
    probabilities: NDArray[np.float32]
    options: ExportOptions

    def write(self, path: Path, metadata: Mapping[str, Any]) -> None:
        """Write the package as a .zip; `metadata` as by `write_metadata`."""
        spec = _library("spec")
        with tempfile.TemporaryDirectory() as scratch, _silent():
            folder = Path(scratch)
            self._write_files(folder, metadata)
            with spec.ValidationContext(root=folder, log_warnings=False):
                described = spec.build_description(self._describe(_is_own(metadata)))
                if isinstance(described, spec.InvalidDescr):
                    raise Error(f"{path}: {_first_error(described.validation_summary)}")
                spec.save_bioimageio_package(described, output_path=path)

    def _write_files(self, folder: Path, metadata: Mapping[str, Any]) -> None:
        (folder / WEIGHTS).write_bytes(self.model.SerializeToString())
        planes = np.ascontiguousarray(self.image.transpose(2, 0, 1))
        np.save(folder / "test_input.npy", planes[None].astype(np.float32))
        np.save(folder / "test_output.npy", self.probabilities[None])
        for name, values in (("input", planes), ("output", self.probabilities)):
            tifffile.imwrite(
                folder / f"sample_{name}.tif", values, imagej=True, metadata={"axes": "CYX"}
            )
        write_rgb(folder / "cover.png", self._draw_cover())
        (folder / "README.md").write_text(self._document(metadata), encoding="utf-8")
        training = {k: v for k, v in self.card.training.items() if k not in _PRIVATE}
        public = json.dumps({**metadata, "training": training}, indent=1)
        (folder / f"{KEY}.json").write_text(public, encoding="utf-8")

    def _draw_cover(self) -> NDArray[np.uint8]:
        """The test image beside its mask, each a square."""
        mask = choose(self.probabilities, self.card.threshold)
        side = min(mask.shape)
        parts = (as_rgb(self.image), draw_overlay(self.image, mask, self.card.colors))
        halves = [
            cv2.resize(part[:side, :side], (_COVER, _COVER), interpolation=cv2.INTER_AREA)
            for part in parts
        ]
        return np.concatenate(halves, axis=1).astype(np.uint8)

    def _describe(self, is_own: bool) -> dict[str, Any]:
        """The content of bioimageio.yaml, with fields that the first version 0.5.0 knew.

        A network of the user's own is no U-Net: `is_own`.
        """
        names = self.card.class_names
        batch = {"type": "batch"}
        value_range = [0, np.iinfo(self.dtype).max] if self.dtype != "float32" else [None, None]
        scaling = {"id": "scale_linear", "kwargs": {"gain": 1 / (value_range[1] or 1)}}
        image = {
            "id": IMAGE,
            "description": "Image as stored, channels first.",
            "axes": [
                batch,
                _channels([f"channel{number}" for number in range(self.image.shape[2])]),
                *self._sides(),
            ],
            "test_tensor": {"source": "test_input.npy"},
            "sample_tensor": {"source": "sample_input.tif"},
            "data": {"type": "float32", "range": value_range},
            "preprocessing": [scaling] if value_range[1] else [],
        }
        halo = {"halo": self.size.halo} if self.size.halo else {}
        output = {
            "id": PROBABILITIES,
            "description": "Probability of each class.",
            "axes": [
                batch,
                _channels(names),
                *(
                    {
                        **{"type": "space", "id": axis, **halo},
                        "size": {"tensor_id": IMAGE, "axis_id": axis},
                    }
                    for axis in "yx"
                ),
            ],
            "test_tensor": {"source": "test_output.npy"},
            "sample_tensor": {"source": "sample_output.tif"},
            "data": {"type": "float32", "range": [0, 1]},
        }
        return {
            "type": "model",
            "format_version": _library("spec").ModelDescr.implemented_format_version,
            "name": choose_title(self.options.title, names, is_own),
            "description": self._summary(is_own),
            "authors": [{"name": name} for name in self.options.author],
            "license": self.options.license,
            "cite": [] if is_own else [_PAPER],
            "tags": ["2d", *["unet"][is_own:], "semantic-segmentation", "pytorch", KEY],
            "covers": [{"source": "cover.png"}],
            "documentation": {"source": "README.md"},
            "attachments": [{"source": f"{KEY}.json"}],
            "inputs": [image],
            "outputs": [output],
            "weights": {"onnx": {"source": WEIGHTS, "opset_version": OPSET}},
        }

    def _sides(self) -> Iterator[dict[str, Any]]:
        """The axes of height and width; "concatenable" allows tiles."""
        for axis, side in zip("yx", self.size.least, strict=True):
            size = {"min": side, "step": self.size.step} if self.size.step else side
            tiles = {"concatenable": True} if self.size.halo else {}
            yield {"type": "space", "id": axis, "size": size, **tiles}

    def _summary(self, is_own: bool) -> str:
        names = shorten(", ".join(self.card.class_names), 300)
        kind = "network" if is_own else "U-Net"
        text = f"A {kind} for semantic segmentation, trained with plainunet. Classes: {names}."
        if self.card.size:
            text += " Images have to be reduced first, see the documentation."
        return text

    def _document(self, metadata: Mapping[str, Any]) -> str:
        """README.md of the package."""
        card, names = self.card, self.card.class_names
        rows = [
            f"| {number} | {_cell(name)} | #{bytes(color).hex()} |"
            for number, (name, color) in enumerate(zip(names, card.colors, strict=True))
        ]
        decision = "The class of a pixel is the one with the largest probability."
        if len(names) == 2:
            decision = (
                f"A pixel is {_cell(names[1])} if the probability in channel 1 is at least "
                f"{card.threshold:g}."
            )
        if card.min_object > 1 or card.fill_holes:
            decision += (
                f" The scores below also remove objects of fewer than {card.min_object} pixels "
                f"and fill holes of up to {card.fill_holes}, which the package does not do."
            )
        return "\n".join(
            [
                f"# {choose_title(self.options.title, names, _is_own(metadata))}",
                "",
                self._summary(_is_own(metadata)),
                "",
                "## Input",
                "",
                *self._explain_input(),
                "",
                "## Output",
                "",
                f"`{PROBABILITIES}`: the probability of each class, from 0 to 1; they add up to 1.",
                "",
                "| channel | class | colour |",
                "|---|---|---|",
                *rows,
                "",
                decision,
                "",
                "## Validation",
                "",
                *_explain_scores(card, metadata),
                "",
                "## Origin",
                "",
                f"Exported with plainunet {__version__}. `{KEY}.json` has the architecture, the "
                "settings and all scores.",
                "",
            ]
        )

    def _explain_input(self) -> Iterator[str]:
        """How to bring images to what the network was trained on."""
        card, channels = self.card, self.image.shape[2]
        kind = {"uint8": "8-bit", "uint16": "16-bit"}.get(self.dtype)
        values = (
            f"{kind} values as stored; the package divides them by {np.iinfo(self.dtype).max}"
            if kind
            else "values as in training: floats as stored, integers divided by the maximum of "
            "their type (255 or 65535)"
        )
        yield (
            f"Images of {channels} channel{'s' if channels > 1 else ''}"
            f"{' (red, green, blue if in colour)' if channels == 3 else ''}, {values}. Do not "
            "normalise them: the network does."
        )
        yield ""
        if card.size:
            height, width = card.size
            yield (
                f"**Reduce images first.** The network was trained on whole images reduced to fit "
                f"in {width} x {height} pixels (width x height). Reduce each image by averaging, "
                "keeping its aspect ratio (Fiji: Image > Scale, average when downsizing), pad it "
                f"on the right and at the bottom to {width} x {height}, and enlarge the "
                "probabilities to the image's size, bilinearly. A larger image that is cut into "
                "tiles instead gives wrong results."
            )
            return
        if card.factor < 1:
            yield (
                f"Give images at their own resolution. The network sees them reduced by a factor "
                f"of {card.factor:g}, which happens inside."
            )
        else:
            yield "Give images at the resolution of the training images, without resizing."
        if areas := card.training.get("areas"):
            yield (
                f"Training images had {_area(areas[0])}"
                + (f" to {_area(areas[1])}." if areas[0] != areas[1] else ".")
            )
        least, step = self.size.least[0], self.size.step
        yield f"Height and width: {least} pixels plus a multiple of {step}; pad smaller images."
        if self.size.halo:
            yield f"Tiles: crop {self.size.halo} pixels of each tile's output at every edge."
        else:
            yield (
                "Do not use tiles: the network normalises by the whole image, so that tiles do "
                "not fit together."
            )


def _area(pixels: float) -> str:
    return f"{pixels / 1e6:.2f} megapixels"


def _cell(text: str) -> str:
    return text.replace("|", "/").replace("\n", " ")


def _explain_scores(card: Card, metadata: Mapping[str, Any]) -> Iterator[str]:
    """Scores and their protocol, and how the package was tested."""
    if card.scores:
        yield f"On the validation split of the training data. {card.scores.get('protocol', '')}"
        yield ""
        yield "| Dice | pooled | per image |"
        yield "|---|---|---|"
        ways = [card.scores.get(way, {}).get("dice", {}) for way in ("pooled", "per_image")]
        for name in card.class_names:
            yield _row(_cell(name), [way.get("per_class", {}).get(name) for way in ways])
        yield _row("mean of foreground classes", [way.get("mean_foreground") for way in ways])
    else:
        yield "The checkpoint has no scores. Evaluate it on your own images and masks."
    if check := metadata["export"].get("check"):
        yield ""
        yield (
            f"The exported network was compared with the checkpoint: probabilities differ by at "
            f"most {check['difference']:.2g}. To test the package: `bioimageio test PACKAGE.zip`."
        )


def _row(name: str, scores: list[float | None]) -> str:
    return f"| {name} | {' | '.join('-' if each is None else f'{each:.4f}' for each in scores)} |"


def _is_own(metadata: Mapping[str, Any]) -> bool:
    """Whether the network is one of the user's own."""
    return "factory" in metadata["architecture"]


def choose_title(given: str | None, class_names: tuple[str, ...], is_own: bool = False) -> str:
    """The title of a package: as given, or after the foreground classes."""
    if given:
        return given
    kind = "Network" if is_own else "U-Net"
    names = " ".join(" and ".join(class_names[1:]).split())
    allowed = "".join(each if each in _TITLE else "-" for each in f"{kind} for {names}")
    return allowed[: _TITLE_LENGTH[1]].strip()


def _channels(names: list[str] | tuple[str, ...]) -> dict[str, Any]:
    """A channel axis; older readers want names that are Python identifiers, each once."""
    found: list[str] = []
    for number, name in enumerate(names):
        plain = re.sub(r"\W+", "_", name, flags=re.ASCII).strip("_")
        if not plain.isidentifier() or keyword.iskeyword(plain):
            plain = f"class_{plain or number}"
        found.append(plain if plain not in found else f"{plain}_{number}")
    return {"type": "channel", "channel_names": found}


def require_publishable(options: ExportOptions) -> None:
    """Refuse a package without what only its authors know.

    Raises:
        ValueError: Author or licence is missing, or one of them or the title is not valid.
    """
    if not options.author or not options.license:
        raise Error(
            "--to bioimageio needs the authors and the licence of the model. Add for example: "
            "--author 'Jane Doe' --license CC-BY-4.0"
        )
    for name in options.author:
        if not name.strip() or {"/", "\\"} & set(name):
            raise Error(f"--author {name!r}: not a name. Give one without slashes.")
    title, (least, most) = options.title, _TITLE_LENGTH
    if title is not None and (set(title) - _TITLE or not least <= len(title) <= most):
        raise Error(
            f"--title {title!r}: use {least} to {most} letters, digits, spaces and _ + - ( )."
        )
    _require_compatible()
    with _silent():
        known = _library("spec.generic.v0_3").LicenseId
        try:
            known(options.license)
        except ValueError:
            raise Error(
                f"--license {shorten(options.license)}: not an SPDX identifier. Use one of "
                "https://spdx.org/licenses, such as CC-BY-4.0, CC0-1.0 or MIT."
            ) from None


def _require_compatible() -> None:
    """Refuse versions of which one cannot use the other."""
    spec, pydantic = (_version(name) for name in ("bioimageio.spec", "pydantic"))
    if spec < (0, 5, 14) and pydantic >= (2, 14):
        raise UnusableError(
            f"bioimageio.spec {version('bioimageio.spec')} does not work with pydantic "
            f"{version('pydantic')}. Run: pip install 'pydantic<2.14'"
        )


def _version(name: str) -> tuple[int, ...]:
    return tuple(int(each) for each in re.findall(r"\d+", version(name))[:3])


def check_package(path: Path) -> None:
    """Test a package as the zoo does, by bioimageio.core: its format, test tensors and sizes.

    Raises:
        ValueError: It fails.
    """
    with _silent():
        summary = _library("core").test_model(
            path, weight_format="onnx", devices=["CPUExecutionProvider"]
        )
    if summary.status != "passed":
        raise Error(
            f"The package fails the test of bioimageio.core, so it was not kept: "
            f"{_first_error(summary)}"
        )


def _first_error(summary: Any) -> str:
    errors = [error.msg for detail in summary.details for error in detail.errors]
    return shorten(" ".join(errors[0].split()) if errors else summary.status, 300)


def _library(name: str) -> ModuleType:
    try:
        return import_module(f"bioimageio.{name}")
    except ModuleNotFoundError as error:
        raise UnusableError(
            f"{error.name} is not installed. Run: pip install bioimageio.core"
        ) from None


@contextmanager
def _silent() -> Iterator[None]:
    """Hide warnings, which the libraries give their developers."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
