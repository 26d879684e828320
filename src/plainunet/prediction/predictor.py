"""The single inference path from image to mask."""

import dataclasses
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from itertools import product, repeat
from numbers import Real
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypeAlias, get_args, overload

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from plainunet.config import BackendName, CardOptions, Precision
from plainunet.errors import Error, require_choice, require_types, take_path, wrong
from plainunet.formats.colors import IGNORED
from plainunet.formats.images import read_reduced, take_image
from plainunet.formats.problems import command
from plainunet.formats.sources import ImageSource
from plainunet.formats.tiff import find_untagged
from plainunet.formats.windows import ArrayWindows, Windows, as_windows
from plainunet.network.card import Card, find_checkpoints
from plainunet.palette import default_colors
from plainunet.parts import Part, given_part, parts_of
from plainunet.prediction.backends import ArrayBackend, Backend, Logits, Turn
from plainunet.prediction.exported import (
    SUFFIXES,
    ExportedNetwork,
    UnusableError,
    load_exported,
)
from plainunet.prediction.hub import About, ModelFile, find_model, push_model, save_model
from plainunet.prediction.objects import fill_holes, remove_small
from plainunet.prediction.views import TTA, View, aligned_bands, in_smaller_parts
from plainunet.reporter import warn

if TYPE_CHECKING:
    from plainunet.network.own import Network

AnyImage: TypeAlias = NDArray[Any] | str | Path | Image.Image
"""An image [H, W, C] or [H, W] as stored, its file, or an image of Pillow."""
FAR = 6
"""Factor by which an image's area may differ from those of training before a warning."""
_SAMPLE, _BRIGHTEST = 256, 2.0
"""Side of the central crop [pixels] in which floats are checked, and the largest normal value."""
_CORNER = 64
"""Side of the corners in which nodata values are searched [pixels]."""
_CALLER = 7
"""Stack frames between a warning and the caller of the Predictor."""


class InputCheck:
    """Warns about images that differ from the training images."""

    def __init__(self, card: Card, channels: int) -> None:
        """Take the model's card and the number of image channels."""
        self._card, self._channels = card, channels
        self._warned: set[str] = set()

    def warn_of(self, image: Windows) -> None:
        """Warn about an image; each message appears once."""
        self._check_dtype(image)
        self._check_floats(image)
        self._check_nodata(image)
        self._check_channels(image)
        self._check_area(image.shape[:2])

    def _check_dtype(self, image: Windows) -> None:
        known = self._card.training.get("dtypes", [image.dtype.name])
        integers = image.dtype.kind in "iu" and all(name.startswith("uint") for name in known)
        if integers and image.dtype.name not in known:
            self._warn_once(
                f"{image.dtype.name} image, but the model was trained on {' and '.join(known)}. "
                "Values are divided by the maximum of their type, so it may look darker or "
                "brighter than the training images. Save it in the same type."
            )

    def _check_floats(self, image: Windows) -> None:
        # imported weights do not say, but were trained on integers
        unknown = "uint8" if "imported" in self._card.training else image.dtype.name
        known = self._card.training.get("dtypes", [unknown])
        if image.dtype.kind != "f" or not all(name.startswith("uint") for name in known):
            return
        height, width, _ = image.shape
        top, left = max(0, height - _SAMPLE) // 2, max(0, width - _SAMPLE) // 2
        part = image.read(top, left, min(_SAMPLE, height), min(_SAMPLE, width))
        brightest = part[np.isfinite(part)].max(initial=0)
        if brightest > _BRIGHTEST:
            self._warn_once(
                f"{image.dtype.name} image with values up to {brightest:.4g}. Floats are not "
                "rescaled, but the model was trained on integers rescaled to 0..1. Divide by the "
                f"largest possible value, or save it as {known[0]}."
            )

    def _check_nodata(self, image: Windows) -> None:
        """Warn about nodata values that nothing marks, such as -9999, in the corners."""
        if image.dtype.kind not in "fi":
            return
        side = min(_CORNER, *image.shape[:2])
        starts = [(0, length - side) for length in image.shape[:2]]
        parts = [image.read(top, left, side, side) for top, left in product(*starts)]
        value = find_untagged(np.concatenate(parts))
        if value is not None and value not in self._card.training.get("untagged", ()):
            self._warn_once(
                f"pixels of {value:.10g} are predicted like measured ones, since nothing marks "
                "them as nodata. If they are nodata, mark them in the file, with the extra geo: "
                f"rio edit-info --nodata={value:.10g} FILE"
            )

    def _check_channels(self, image: Windows) -> None:
        grey_is_known = self._card.training.get("grey", 0) > 0
        if image.shape[2] == 1 and self._channels == 3 and not grey_is_known:
            self._warn_once(
                "greyscale image converted to RGB, because the model was trained on colour images."
            )

    def _check_area(self, size: tuple[int, int]) -> None:
        """Warn about an image much larger or smaller than those of training."""
        if self._card.size is None:
            return  # images are not resized to one size, so objects keep their scale
        known = self._card.training.get("areas")
        area = size[0] * size[1]
        if known and not known[0] / FAR <= area <= known[1] * FAR:
            seen = " to ".join(dict.fromkeys(f"{end:,}" for end in known))
            self._warn_once(
                f"{size[0]} x {size[1]} pixels (height x width) is far from the image areas of "
                f"training ({seen} pixels). The masks of such images may be poor; check them."
            )

    def _warn_once(self, message: str) -> None:
        if message not in self._warned:
            self._warned.add(message)
            warn(message, _CALLER)


class Predictor:
    """Predicts masks from images as stored on disk, with one network or an ensemble.

    Example:
        ```python
        from plainunet import Predictor, read_image

        predictor = Predictor.load("runs/first", device="cpu")
        image = read_image("new-images/i_1.jpg")
        mask = predictor.predict(image)
        masks = predictor.predict([image, "new-images/i_2.jpg"])
        print(predictor.card.class_names, mask.shape, predictor.probabilities(image).shape)
        ```

    Attributes:
        card: Its description: input size, classes, threshold, test-time augmentation,
            post-processing.
        in_channels: Number of image channels; with 3, grey images are accepted too.
        device: The device.
        precision: Precision of convolutions.
        memory: Memory that an image may take [bytes], or None.
        architecture: The arguments of the (first) network's `UNet`.
        sources: The files that it was loaded from.
        own: The user's own networks that it was loaded with.
        is_ensemble: Whether it has several networks.
    """

    def __init__(
        self,
        network: "Network | ExportedNetwork",
        card: Card | None = None,
        *,
        others: "Sequence[tuple[Network | ExportedNetwork, Card]]" = (),
        device: str = "auto",
        precision: str = "auto",
        memory: float | None = None,
    ) -> None:
        """Wrap a network and move it to the device.

        Args:
            network: The network, available as `network`. With a card also a module of your own,
                from images [N, C, H, W], 0..1 for integers, to logits [N, K, H, W]; C is its
                attribute `in_channels`, or 3.
            card: Its description: input size, classes, threshold. Default: images keep their own
                size, and classes are named by numbers.
            others: More networks of an ensemble with their cards; probabilities are averaged. Of
                these cards, only the size and factor are used.
            device: "auto", "cpu", "cuda" or "mps".
            precision: "auto", "fp32", "bf16" or "fp16" (for CUDA GPUs without bf16).
            memory: Memory that an image may take [bytes], in addition to that of the process;
                larger images are predicted in tiles. Default: tiles if one pass would take more
                than about two gigabytes.

        Raises:
            ValueError: The device does not exist, the number of classes of the card and network
                differ, the networks have different classes, or the card has an unknown test-time
                augmentation.
        """
        require_types(card=(card, Card))
        if not hasattr(network, "architecture"):
            network = _wrap(network, card)
        if memory is not None and not (isinstance(memory, Real) and memory > 0):
            raise wrong("memory", memory, "a number of bytes above 0")
        require_choice(precision, get_args(Precision), "precision")
        classes = network.architecture["num_classes"]
        if card is None:
            numbers = tuple(str(number) for number in range(classes))
            card = Card(numbers, default_colors(classes), size=None)
        _require_same_classes(classes, card, [other for _, other in others])
        if card.tta not in TTA:
            raise Error(f"--tta {card.tta}: choose one of {', '.join(TTA)}.")
        backends = [
            (_run_on(each, device, precision, TTA[card.tta]), own)
            for each, own in ((network, card), *others)
        ]
        self._backend = backends[0][0]
        self.device, self.precision = self._backend.device, self._backend.precision
        self._network, self.card, self.memory = network, card, memory
        self._may_convert = False
        self.architecture: Mapping[str, Any] = network.architecture
        self.is_ensemble, self.sources = bool(others), tuple[ModelFile, ...]()
        self.own = tuple[Part, ...]()
        self._views = [
            View(backend, own, scale, memory) for backend, own in backends for scale in card.scales
        ]
        self.in_channels = self._backend.geometry.in_channels
        self.warn_of = InputCheck(card, self.in_channels).warn_of

    @property
    def backend(self) -> str:
        """What runs the network: "torch", "onnxruntime" or "openvino"."""
        return self._backend.name

    @property
    def is_exported(self) -> bool:
        """Whether the model is an exported file, which has no `network`."""
        return isinstance(self._network, ExportedNetwork)

    @property
    def network(self) -> "Network":
        """The network; of an ensemble, the first one.

        Raises:
            ValueError: The model is an exported file, which has no network in PyTorch.
        """
        if isinstance(self._network, ExportedNetwork):
            raise Error("an exported file has no PyTorch network. Load the checkpoint instead.")
        return self._network

    @classmethod
    def load(
        cls,
        path: str | Path | Sequence[str | Path],
        *,
        backend: BackendName = "auto",
        device: str = "auto",
        precision: str = "auto",
        memory: float | None = None,
        network: Any = None,
        **instead: Any,
    ) -> Self:
        """Load a model, or several as an ensemble whose probabilities are averaged.

        Args:
            path: A checkpoint (`best.safetensors`) or a file of `plainunet export` (.onnx, .xml),
                or several of one kind. A run folder stands for its checkpoint, the folder of a
                cross-validation for the checkpoints of its folds.
            backend: What runs it: "auto", "torch" (checkpoints), "onnxruntime" (.onnx) or
                "openvino" (both exported kinds, and checkpoints with an input size). "auto" is
                PyTorch for checkpoints; see also `accelerate`.
            device: "auto", "cpu", "cuda" or "mps".
            precision: "auto", "fp32", "bf16" or "fp16"; an exported file has its own.
            memory: Memory that an image may take [bytes].
            network: The factory (or a module) of checkpoints whose network is your own, or its
                name `package.module:factory`, as for `train`; or a list, also with others.
            instead: Overrides of the (first) checkpoint's card: `threshold`, `tta`, `scales`,
                `min_object`, `fill_holes`, as in `Card`.

        Returns:
            A predictor for inference only: batch normalisation is folded into the convolutions.

        Raises:
            FileNotFoundError: A file does not exist.
            ValueError: A file is not a model, the models have different classes, the backend or
                device is not available, or an override or the network is invalid.
        """
        given = path if isinstance(path, list | tuple) else [path]
        paths = [file for each in given for file in find_checkpoints(take_path(each, "path"))]
        if not paths:
            raise Error("No checkpoint given. Pass at least one path.")
        require_choice(backend, get_args(BackendName), "backend")
        instead = CardOptions(**instead).instead()
        own = parts_of(network, "--network")
        (first, card), *others = [load_model(Path(each), backend, device, own) for each in paths]
        _require_one_kind(networks := [first, *(each for each, _ in others)], paths)
        _require_own(networks, paths, network)
        if "threshold" in instead and (classes := len(card.class_names)) > 2:
            raise Error(f"--threshold needs two classes; the most probable of {classes} is taken.")
        card = dataclasses.replace(card, **instead)
        made = cls(first, card, others=others, device=device, precision=precision, memory=memory)
        made.own, made._may_convert = own, backend == "auto"
        if backend == "openvino" and not isinstance(first, ExportedNetwork):
            made._convert(paths[0])
        made.sources = tuple(ModelFile.of(Path(each)) for each in paths)
        return made

    def _convert(self, path: str | Path) -> None:
        """Have OpenVINO run the network of a checkpoint."""
        if not self._is_convertible():
            raise UnusableError(
                f"{path}: --backend openvino needs one network with a fixed input size on a CPU. "
                f"Run: {command('plainunet', 'export', path, '--to', 'openvino')} --out model.xml"
            )
        from plainunet.prediction.torch_backend import convert

        backend: Any = self._backend
        image = np.zeros((*(self.card.size or ()), backend.geometry.in_channels), np.float32)
        backend.run_by(convert(backend, image[None]), image[None])

    def _is_convertible(self) -> bool:
        """Whether OpenVINO could run a checkpoint's network: all inputs have one size."""
        one = len(self._views) == 1 and self.card.size is not None
        is_torch = not isinstance(self._network, ExportedNetwork) and str(self.device) == "cpu"
        return one and is_torch and not self._backend.geometry.valid

    def accelerate(self, image: NDArray[Any], count: int) -> str | None:
        """Choose what runs a checkpoint's network for many images on a CPU, with `backend="auto"`.

        PyTorch, or OpenVINO if it is installed and faster, and no more than one pixel in a thousand
        of this image's mask changes.

        Args:
            image: One of the images [H, W, C].
            count: Number of images.

        Returns:
            A note for the user, or None.
        """
        if not self._may_convert or not self._is_convertible():
            return None
        from plainunet.prediction.torch_backend import accelerate

        self._may_convert = False
        batch = np.ascontiguousarray(self.network_input(image).transpose(0, 2, 3, 1))
        return accelerate(self._backend, batch, count)  # type: ignore[arg-type]

    @classmethod
    def from_pretrained(
        cls,
        name: str | Path,
        *,
        revision: str | None = None,
        token: str | None = None,
        **options: Any,
    ) -> Self:
        """Load a model from a folder of `save_pretrained`, or from the Hugging Face Hub.

        Args:
            name: The folder; if there is none of that name, a repository of the Hub (OWNER/NAME),
                which is downloaded once and kept in the Hub's cache.
            revision: Branch, tag or commit of the repository. Default: its main branch.
            token: Access token for private repositories. Default: that of `hf auth login`.
            options: As for `load`.

        Raises:
            FileNotFoundError: No such folder or repository, or the repository has no model; or it
                is not downloaded, and the Hub cannot be reached.
            ValueError: As by `load`, the folder has no model, or huggingface_hub is not installed.
        """
        return cls.load(find_model(name, revision, token), **options)

    def save_pretrained(
        self,
        folder: str | Path,
        *,
        name: str | None = None,
        license: str | None = None,
        example: str | Path | None = None,
    ) -> None:
        """Write the model into a folder, for `from_pretrained`: model.safetensors and README.md.

        README.md is a model card: classes, data, scores with confidence intervals and protocol,
        limits, licence. An exported .onnx file is saved as model.onnx. Scores are left out if the
        threshold or other settings were changed when the model was loaded.

        Args:
            folder: New or empty folder, or one that this function wrote before, which is
                overwritten.
            name: Title of the model card. Default: the folder's name.
            license: Identifier of the model's licence, such as "mit". Default: not stated.
            example: Image for the model card, such as one of a run's `saved_images/`. Default:
                none, because images of the data may be confidential.

        Raises:
            FileNotFoundError: The example does not exist.
            ValueError: The folder has other files or folders, the example is not an image, the
                model is an ensemble, or its file has changed since it was loaded.
        """
        path = take_path(folder, "folder")
        require_types(name=(name, str), license=(license, str))
        own_name = path.absolute().name
        shown = None if example is None else take_path(example, "example")
        save_model(self, path, About(name or own_name, license, own_name, shown))

    def push_to_hub(
        self,
        repository: str,
        *,
        private: bool = True,
        token: str | None = None,
        license: str | None = None,
        example: str | Path | None = None,
    ) -> str:
        """Upload what `save_pretrained` writes to a repository of the Hugging Face Hub.

        The model records names and sizes of some training images, so they are uploaded, too.

        Args:
            repository: OWNER/NAME; made if it does not exist.
            private: Whether a new repository is private.
            token: Access token. Default: that of `hf auth login`.
            license: As for `save_pretrained`.
            example: As for `save_pretrained`.

        Returns:
            The URL of the commit.

        Raises:
            OSError: The Hub refuses it, or cannot be reached.
            ValueError: As by `save_pretrained`, or huggingface_hub is not installed.
        """
        if not isinstance(repository, str):
            raise wrong("repository", repository, "OWNER/NAME")
        require_types(license=(license, str))
        shown = None if example is None else take_path(example, "example")
        about = About(repository.partition("/")[2] or repository, license, repository, shown)
        return push_model(self, about, private, token)

    @overload
    def predict(self, image: AnyImage) -> NDArray[np.uint8]: ...  # type: ignore[overload-overlap]

    @overload
    def predict(self, image: Sequence[AnyImage]) -> list[NDArray[np.uint8]]: ...

    def predict(
        self, image: AnyImage | Sequence[AnyImage]
    ) -> NDArray[np.uint8] | list[NDArray[np.uint8]]:
        """Predict the class of each pixel.

        Args:
            image: [H, W, C] (or [H, W] for one channel), integers or floats, as stored; its file;
                an image of Pillow; or a list of these.

        Returns:
            Mask [H, W] uint8 of class ids at the image's own size, 255 for NaN pixels; a list of
            masks for a list of images.

        Raises:
            FileNotFoundError: The file does not exist.
            ValueError: It is no image, or does not fit the model.
        """
        if isinstance(image, list | tuple):
            return [self.predict(take_image(each)) for each in image]
        windows = as_windows(take_image(image))
        return self.clean(np.concatenate(list(self.mask_bands(windows))))

    def probabilities(self, image: AnyImage) -> NDArray[np.float32]:
        """Predict the probability of each class in each pixel.

        Args:
            image: An image as for `predict`.

        Returns:
            Probabilities [K, H, W] float32 at the image's own size; they sum to 1 over K.
        """
        bands = list(self.both_bands(as_windows(take_image(image))))
        return np.concatenate([probabilities for _, probabilities in bands], axis=1)

    def prepare(self, image: NDArray[Any], missing: NDArray[np.bool_] | None = None) -> Windows:
        """Reduce an image [H, W, C] ahead of prediction, for instance in another thread.

        `missing` is as by `read_with_missing`. Returns the image's windows, for `mask_bands` and
        `both_bands`.
        """
        windows = as_windows(image, missing)
        for view in self._views:
            view.prepare(windows)
        return windows

    def read(self, source: ImageSource) -> Windows | None:
        """Decode an image at a reduced size, if that is faster and the network needs no more.

        Returns its windows, for `mask_bands` and `both_bands`. Masks differ from those of the whole
        image in fewer than one pixel in a thousand, along borders. None if it has to be read as a
        whole.

        Raises:
            FileNotFoundError: There is no such file.
            ValueError: It is damaged.
        """

        def needed(size: tuple[int, int]) -> tuple[int, int]:
            heights, widths = zip(*(view.size_of(size) for view in self._views), strict=True)
            return max(heights), max(widths)

        channels = {view.backend.geometry.in_channels for view in self._views}
        if len(channels) > 1:  # an ensemble of grey and colour
            return None
        found = read_reduced(source, needed, self._backend.geometry.in_channels)
        if found is None:
            return None
        windows = ArrayWindows(found[0], size=found[1])
        for view in self._views:
            view.prepare(windows)
        return windows

    def network_input(self, image: NDArray[Any]) -> NDArray[np.float32]:
        """The first network's input for an image [H, W, C]: [1, C, h, w], in 0..1 for integers."""
        values = self._views[0].network_input(as_windows(image))
        return np.ascontiguousarray(values.transpose(2, 0, 1)[None])

    def fits_batch(self, size: tuple[int, int]) -> int:
        """Largest batch of `masks` for images of a height and width [pixels], at least 1."""
        if np.shape(size) != (2,):
            raise wrong("size", size, "the height and width")
        return min(view.fits_batch(size) for view in self._views)

    def masks(self, images: Sequence[Windows]) -> list[NDArray[np.uint8]]:
        """Predict a batch of small images, which is faster than one by one.

        Args:
            images: Up to `fits_batch` images of one shape; `warn_of` is not called.

        Returns:
            A mask [H, W] uint8 of each, as by `predict`.
        """
        for image in images:
            _require_windows(image)
        if not images:
            return []
        found = []
        streams = zip(*(view.batch(images) for view in self._views), strict=True)
        for image, views in zip(images, streams, strict=True):
            bands = [self._backend.mean(each) for each in aligned_bands(views)]
            tops = np.cumsum([0] + [band.shape[1] for band in bands])
            mask = [self._classes(*each) for each in zip(bands, repeat(image), tops, strict=False)]
            found.append(self.clean(np.concatenate(mask)))
        return found

    def mask_bands(self, image: Windows, first: int = 0) -> Iterator[NDArray[np.uint8]]:
        """Predict the classes of an image of any size, a few rows at a time.

        Args:
            image: Its windows; only what the network needs is in memory.
            first: The row to begin with.

        Yields:
            [n, W] uint8 class ids from top to bottom, the rows from `first` on, 255 for missing
            pixels, without post-processing (see `clean`).
        """
        for logits in self._bands(image, first):
            yield self._classes(logits, image, first)
            first += logits.shape[1]

    def both_bands(self, image: Windows) -> Iterator[tuple[NDArray[np.uint8], NDArray[np.float32]]]:
        """Predict classes and probabilities, a few rows at a time.

        Args:
            image: Its windows.

        Yields:
            [n, W] uint8 class ids as by `mask_bands`, and [K, n, W] float32, which sum to 1 over
            K, from top to bottom.
        """
        top = 0
        for logits in self._bands(image, 0):
            yield self._classes(logits, image, top), self._backend.probabilities(logits)
            top += logits.shape[1]

    def _classes(self, logits: Logits, image: Windows, top: int) -> NDArray[np.uint8]:
        """Class ids of some rows of an image, 255 for missing pixels."""
        ids = self._backend.classes(logits, self.card.threshold)
        if (missing := image.missing(top, len(ids))) is not None:
            ids[missing] = IGNORED
        return ids

    def clean(self, mask: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Post-process a mask: fill small holes and remove small objects, as set in the card.

        Args:
            mask: [H, W] uint8 class ids of a whole image.

        Returns:
            The same array, or a copy.
        """
        if self.card.fill_holes:
            mask = fill_holes(mask, self.card.fill_holes)
        return remove_small(mask, self.card.min_object) if self.card.min_object > 1 else mask

    def digest(self) -> str:
        """SHA-256 of everything that determines the masks: weights and settings."""
        digest, card = hashlib.sha256(), self.card
        for view in self._views:
            digest.update(repr((view.box, view.factor)).encode())
            for parameter in view.backend.parameters():
                digest.update(parameter)
        settings = card.threshold, card.tta, card.min_object, card.fill_holes, self.precision
        digest.update(repr(settings).encode())
        return digest.hexdigest()

    def _bands(self, image: Windows, first: int) -> Iterator[Logits]:
        """Logits of the mean probabilities over all views, at the image's own size."""
        _require_windows(image)
        self.warn_of(image)
        bands = partial(self._mean_bands, image)
        yield from in_smaller_parts(bands, self._views, first)

    def _mean_bands(self, image: Windows, first: int) -> Iterator[Logits]:
        streams = [view.bands(image, first) for view in self._views]
        return (self._backend.mean(bands) for bands in aligned_bands(streams))


def _require_windows(image: Windows) -> None:
    if isinstance(image, np.ndarray):
        raise wrong("image", image, "its windows, as by Predictor.prepare")


def load_model(
    path: Path, backend: BackendName = "auto", device: str = "auto", own: Sequence[Part] = ()
) -> "tuple[Network | ExportedNetwork, Card]":
    """Load a checkpoint for inference, with batch normalisation folded, or an exported file.

    The network of a checkpoint may be one of the user's `own`.

    Raises:
        FileNotFoundError: The file does not exist.
        ValueError: It is not a model, or the backend cannot run it.
    """
    if path.suffix.lower() in SUFFIXES:
        return load_exported(path, backend, device)
    if path.suffix.lower() == ".pt2":
        raise UnusableError(
            f"{path}: a torch.export file is for other programs. Use the checkpoint, or --to onnx."
        )
    if backend == "onnxruntime":
        raise UnusableError(
            f"{path}: {backend} runs exported files. Run: "
            f"{command('plainunet', 'export', path, '--to', 'onnx')} --out model.onnx"
        )
    try:
        from plainunet.network.blocks import fold_batch_normalisation
        from plainunet.network.checkpoint import load_checkpoint
    except ModuleNotFoundError as error:
        if error.name not in ("torch", "safetensors"):
            raise
        raise UnusableError(
            f"{path}: needs PyTorch, which is not installed here. Use an exported file (.onnx), or "
            "install plainunet in place of plainunet-runtime."
        ) from None
    network, card = load_checkpoint(path, own)
    fold_batch_normalisation(network)
    return network, card


def _wrap(module: Any, card: Card | None) -> "Network":
    """Wrap a module that the user wrote, with the classes of its card."""
    if card is None or not hasattr(module, "state_dict"):
        wanted = "a UNet, or a module of your own with a card (or Predictor.load for a file)"
        raise wrong("network", module, wanted)
    from plainunet.network.own import make_own_network

    channels, is_training = getattr(module, "in_channels", 3), module.training
    own = make_own_network(given_part(module), channels, len(card.class_names)).cpu()
    own.estimate_width(card.size or (64, 64))
    return own.train(is_training)


def _run_on(
    network: "Network | ExportedNetwork", device: str, precision: str, turns: Sequence[Turn]
) -> Backend:
    """The backend of a network."""
    if isinstance(network, ExportedNetwork):
        return ArrayBackend(network, turns)
    from plainunet.prediction.torch_backend import TorchBackend

    return TorchBackend(network, device, precision, turns)


def _require_one_kind(networks: "Sequence[Network | ExportedNetwork]", paths: list[Path]) -> None:
    """Refuse an ensemble of checkpoints and exported files."""
    if len({isinstance(each, ExportedNetwork) for each in networks}) > 1:
        raise Error(
            f"{', '.join(map(str, paths))}: an ensemble needs models of one kind: checkpoints, or "
            "exported files."
        )


def _require_own(
    networks: "Sequence[Network | ExportedNetwork]", paths: list[Path], given: Any
) -> None:
    """Refuse a factory or module, if none of the networks is made by one; a list may be general."""
    if not isinstance(given, list | tuple | None) and not any(
        "factory" in each.architecture for each in networks
    ):
        raise wrong("network", given, f"None, since {paths[0]} is a U-Net")


def _require_same_classes(classes: int, card: Card, others: Sequence[Card]) -> None:
    """Refuse an ensemble whose probabilities cannot be averaged."""
    if len(card.class_names) != classes:
        raise Error(
            f"{len(card.class_names)} class names for a network with {classes} classes "
            "(including background)."
        )
    for other in others:
        if other.class_names != card.class_names:
            raise Error(
                "an ensemble needs networks with the same classes in the same order; these have "
                f"{', '.join(card.class_names)} and {', '.join(other.class_names)}."
            )
