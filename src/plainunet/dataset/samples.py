"""Training samples: resized or cut to patches, augmented, with soft targets."""

import math
from collections.abc import Callable, Sequence
from functools import cached_property, partial
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from plainunet.dataset.augment import Augment, make_augment
from plainunet.dataset.borders import border_weights, find_objects, part_objects, resize_labels
from plainunet.dataset.cache import Cache, MixedDepthsError, Sample, cached
from plainunet.dataset.coding import Coding, coding_to_json
from plainunet.dataset.pairs import Pair
from plainunet.dataset.resize import area_shares, fit_size, reduce_size, resize
from plainunet.dataset.scenes import find_places
from plainunet.errors import Error
from plainunet.formats.colors import IGNORED
from plainunet.formats.images import (
    image_shape,
    match_channels,
    read_image,
    read_with_missing,
    to_unit,
)
from plainunet.formats.sources import (
    ImageSource,
    Polygons,
    Source,
    Window,
    cache_folder,
    parse_image,
    parse_source,
    stem_of,
)
from plainunet.parts import Part, PartError

CENTRED = 1 / 3
"""Fraction of the patches that are centred on a pixel of a rarer class."""
TEACHER_WEIGHT = 0.5
"""Weight of a teacher's probabilities in the targets; the ground truth has the rest."""
_EDGE = 8
_SEARCHED = 512  # side of the grid of pixels that is searched for classes in larger images


def cut_patch(sample: Sample, patch: tuple[int, int], state: Sequence[int]) -> Sample:
    """Cut a window out of a sample; `state` determines every random choice.

    A third of the patches, on average, are centred on a pixel of one of the image's rarer classes
    (as in nnU-Net: Isensee et al. 2021, supplementary note 2), drawn uniformly from its classes
    except the commonest; the others are at random positions. Images smaller than the patch are
    padded, see `pad`.
    """
    height, width = sample[1].shape[:2]
    random = np.random.default_rng([*state, 1])  # independent of the augmentation
    highest = max(0, height - patch[0]), max(0, width - patch[1])
    centre = None
    if any(highest) and random.random() < CENTRED:
        centre = _choose_pixel(sample[1], random)
    top, left = _choose_corner(patch, highest, centre, random)
    return pad([part[top : top + patch[0], left : left + patch[1]] for part in sample], patch)


def _choose_corner(
    patch: tuple[int, int],
    highest: tuple[int, int],
    centre: Sequence[int] | None,
    random: np.random.Generator,
) -> tuple[int, int]:
    """The top left corner of a patch, at most `highest`: around a centre, or at random."""
    if centre is None:
        # drawn from a slightly larger range, so that edges are not undersampled
        corner = [
            int(random.integers(-(side // _EDGE), most + side // _EDGE, endpoint=True))
            for side, most in zip(patch, highest, strict=True)
        ]
    else:
        corner = [middle - side // 2 for middle, side in zip(centre, patch, strict=True)]
    top, left = (min(max(0, at), most) for at, most in zip(corner, highest, strict=True))
    return top, left


def _rarer(places: NDArray[np.int64]) -> NDArray[np.int64]:
    """The classes that have places, without the one in most samples."""
    if not len(places):
        return places[:, 0]
    samples = np.unique(places[:, :2], axis=0)[:, 0]
    classes, counts = np.unique(samples, return_counts=True)
    rarer: NDArray[np.int64] = classes[classes != classes[counts.argmax()]]
    return rarer


def pad(parts: Sequence[NDArray[np.generic]], size: tuple[int, int]) -> Sample:
    """Pad a sample at the right and bottom to `size`: the image by its edge, others by 0."""
    image, *others = parts
    below, right = size[0] - image.shape[0], size[1] - image.shape[1]
    if not below and not right:
        return tuple(parts)
    border = ((0, below), (0, right), (0, 0))
    return np.pad(image, border, mode="edge"), *(np.pad(part, border) for part in others)


def _choose_pixel(shares: NDArray[np.uint8], random: np.random.Generator) -> tuple[int, int] | None:
    """A pixel of one of the rarer classes; None if there is only one class."""
    step = max(1, int(math.sqrt(shares.shape[0] * shares.shape[1]) / _SEARCHED))
    first = random.integers(0, step, 2)
    searched = shares[first[0] :: step, first[1] :: step]
    inside = searched > 127
    counts = inside.sum(axis=(0, 1))
    rarer = np.flatnonzero(counts)
    rarer = rarer[rarer != counts.argmax()]
    if not len(rarer):
        return None
    pixels = np.flatnonzero(inside[..., random.choice(rarer)])
    row, column = divmod(int(random.choice(pixels)), searched.shape[1])
    return int(first[0]) + row * step, int(first[1]) + column * step


def balanced_weights(class_shares: NDArray[np.float64]) -> Tensor:
    """Return class weights [K] float32 against class imbalance: equal total weight per class.

    They are 1 / (classes present * fraction), 0 for absent classes; their mean over the measured
    area is 1.
    """
    present = class_shares > 0
    weights = np.zeros(len(class_shares), np.float32)
    weights[present] = 1 / (present.sum() * class_shares[present])
    return torch.from_numpy(weights)


def make_batch(
    batch: Sequence[Tensor], device: torch.device, class_weights: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Turn stacked samples into the inputs of the network and the losses.

    Args:
        batch: Images [N, H, W, C] uint8, or float32 in the network's range; shares
            [N, H', W', K] uint8, in 1/255, with H' and W' a multiple of H and W; and, if used,
            border weights [N, H', W'] float32.
        device: Device of the result.
        class_weights: [K] float32, or None for 1 each.

    Returns:
        `image` [N, C, H, W] float32, channels last in memory; `target` [N, K, H', W'] float32,
        class fractions of the valid area (all zero if there is none); `weight` [N, H', W']
        float32, the valid fraction in 0..1, times the sum of the border weight and the class
        weights by their fractions.
    """
    images, shares, *borders = (part.to(device, non_blocking=True) for part in batch)
    unit = images.float() / 255 if images.dtype == torch.uint8 else images
    areas = shares.permute(0, 3, 1, 2).float()
    # after rounding each plane to 1/255, the sum is 255 only within a few units
    total = areas.sum(dim=1)
    target, valid = areas / total[:, None].clamp(min=1), (total / 255).clamp(max=1)
    factor: Tensor | float = 1.0
    if class_weights is not None:
        factor = (target * class_weights.to(device)[:, None, None]).sum(dim=1)
    for border in borders:
        factor = factor + border
    return unit.permute(0, 3, 1, 2), target, valid * factor


Draw = tuple[int, int, int]
"""Epoch, number of the draw in it, and index of the sample."""


class Teacher(Protocol):
    """A trained model whose probabilities become a part of the targets."""

    @property
    def digest(self) -> str:
        """Identify everything that its probabilities depend on, besides the image."""

    def __call__(self, image: NDArray[Any]) -> NDArray[np.float32]:
        """Predict the probabilities [K, H, W] of an image [H, W, C] as stored; in any thread."""


def mix_teacher(
    shares: NDArray[np.uint8], mask: NDArray[np.uint8], probabilities: NDArray[np.float32]
) -> NDArray[np.uint8]:
    """Average the shares of a mask with a teacher's probabilities, for knowledge distillation.

    Cross-entropy is linear in its target, so it becomes the weighted average of the two losses in
    Hinton, Vinyals and Dean 2015 (arXiv 1503.02531), section 2, at temperature 1.

    Args:
        shares: Class fractions of the ground truth, [h, w, K] in 1/255.
        mask: The class ids that they come from, [H, W]. Pixels that it ignores stay ignored.
        probabilities: Those of the teacher, [K, H, W], sum to 1 over K.

    Returns:
        The mean by `TEACHER_WEIGHT`, like `shares`.
    """
    known = np.ascontiguousarray((probabilities * (mask != IGNORED)).transpose(1, 2, 0))
    taught = resize(known, (shares.shape[0], shares.shape[1]))
    mixed = (1 - TEACHER_WEIGHT) * shares + TEACHER_WEIGHT * 255 * taught
    return np.rint(mixed).astype(np.uint8)


class Samples:
    """Images at the input size, with class fractions (shares) at the same or a finer size.

    With a box, images are reduced to fit (never enlarged), then padded at the right and bottom:
    the image by its edge, the shares by 0, so that padding is ignored. Without one, all images
    are reduced by the same factor and keep their different sizes.
    """

    def __init__(
        self,
        pairs: Sequence[Pair],
        coding: Coding,
        box: tuple[int, int] | None,
        channels: int = 3,
        target_scale: int = 1,
        objects: bool = False,
        factor: float = 1.0,
    ) -> None:
        """Describe the samples; nothing is read yet.

        Args:
            pairs: Images with their masks.
            coding: How mask values become class ids.
            box: Input height and width [pixels], or None to reduce by `factor`.
            channels: Channels of the images; grey images become RGB if it is 3.
            target_scale: Target pixels along one input pixel.
            objects: Whether samples have a third array, the labels of their objects.
            factor: Ratio of an image's side at the input size to its original length.
        """
        # as text: 100,000 pickled paths would delay a worker process by seconds
        self._files = [(str(pair.image), str(pair.mask)) for pair in pairs]
        self.coding = coding
        self.box = box
        self.factor = factor
        self.target_scale = target_scale
        self.channels = channels
        self.objects = objects
        self._cache: Cache | None = None
        self._places: NDArray[np.int64] | None = None
        self._rarer = np.zeros(0, np.int64)
        self._as_float = False
        self._is_taught = False

    def __len__(self) -> int:
        """Count the samples."""
        return len(self._files)

    def __getitem__(self, index: int) -> Sample:
        """Read one sample: image [h, w, C], shares [h, w, K], optionally labels [h, w, 1].

        (h, w) is the box or the reduced image's size, times `target_scale`; labels are those of
        `find_objects`.
        """
        if self._cache is not None:
            try:
                return self._cache[index]
            except FileNotFoundError:  # another process needed its space
                self._cache = None
        if self._is_taught:
            raise Error(
                "--teacher: the cache of samples was removed during the training, and with it the "
                "teacher's probabilities. Resume the run, which fills it again."
            )
        return self._load(index)

    def patch(self, index: int, size: tuple[int, int], state: Sequence[int]) -> Sample:
        """Cut a patch of a size [pixels of the shares] out of a sample, see `cut_patch`.

        Of a block of a scene, the patch alone is read; a third of the patches, on average, are
        centred on a pixel of a rarer class of all blocks, in place of this one.
        """
        if self._places is None:
            return cut_patch(self[index], size, state)
        random = np.random.default_rng([*state, 1])
        centre = None
        if random.random() < CENTRED and len(self._rarer):
            places = self._places[self._places[:, 0] == random.choice(self._rarer)]
            _, index, *centre = (int(number) for number in random.choice(places))
        image, mask = (parse_source(file) for file in self._files[index])
        if not isinstance(image, Window) or not isinstance(mask, Window | Polygons):
            return cut_patch(self[index], size, state)
        scale = self.factor * self.target_scale
        wanted = round(size[0] / scale), round(size[1] / scale)
        highest = max(0, image.height - wanted[0]), max(0, image.width - wanted[1])
        top, left = _choose_corner(wanted, highest, centre, random)
        cut = self._read(image.within(top, left, *wanted), mask.within(top, left, *wanted))
        return pad([part[: size[0], : size[1]] for part in cut], size)

    def name(self, index: int) -> str:
        """The stem of a sample's image, which need not be unique."""
        return stem_of(parse_image(self._files[index][0]))

    def file(self, index: int) -> str:
        """The path of a sample's image."""
        return self._files[index][0]

    def fill_cache(
        self,
        on_progress: Callable[[int, int], None] | None = None,
        teacher: Teacher | None = None,
    ) -> bool:
        """Decode all samples once, if there is space for them; returns whether there was.

        Blocks of scenes are read where they lie; some pixels of each class are remembered instead.
        With a teacher, they are decoded too: it predicts each image or block once, and the shares
        become those of `mix_teacher`.

        Raises:
            Error: There is no space for the probabilities of a teacher.
        """
        files = [parse_source(file) for pair in self._files for file in pair]
        in_blocks = self.box is None and any(isinstance(file, Window) for file in files)
        if in_blocks and not teacher:
            self._places = find_places(files[1::2], self.coding, on_progress)
            self._rarer = _rarer(self._places)
            scenes = {file.file for file in files if isinstance(file, Window)}
            dtypes = {read_image(Window(scene, 0, 0, 1, 1)).dtype for scene in scenes}
            self._as_float = dtypes != {np.dtype(np.uint8)}
            return True
        settings, load = self._settings(), self._load
        if teacher:
            settings["teacher"] = [teacher.digest, TEACHER_WEIGHT]
            load = partial(self._load, teacher=teacher)
        sizes = None
        if self.box is None:
            t = self.target_scale
            sizes = [(height * t, width * t) for height, width in self.sizes]
        try:
            self._cache = cached(files, settings, load, on_progress, sizes)
        except MixedDepthsError:
            self._as_float = True
            settings["float"] = True
            self._cache = cached(files, settings, load, on_progress, sizes)
        self._is_taught = teacher is not None
        if teacher and self._cache is None:
            raise Error(
                f"--teacher: {cache_folder()} has no room for the samples, so the teacher would "
                "predict every image again in each epoch. Free disk space, or set a smaller --size "
                "or --factor."
            )
        # without a cache, images of more than 8 bits may still come
        self._as_float = self._as_float or self._cache is None
        return self._cache is not None

    def _settings(self) -> dict[str, Any]:
        """Everything except files that samples depend on."""
        coding = coding_to_json(self.coding)
        settings: dict[str, Any] = {
            "count": len(self),
            "box": self.box,
            "target_scale": self.target_scale,
            "channels": self.channels,
            "coding": [
                *coding["values"],
                coding["ignore"],
                coding["kind"],
                *coding.get("colors", ()),
            ],
        }
        if self.target_scale > 1:
            settings["enlarged"] = "by whole pixels"
        if self.objects:
            settings["objects"] = True
        if self.box is None:
            settings["factor"] = self.factor
        return settings

    @cached_property
    def sizes(self) -> list[tuple[int, int]]:
        """Height and width of each sample [input pixels]."""
        if self.box is not None:
            return [self.box] * len(self)
        return [self._reduced(image_shape(parse_image(image))[:2]) for image, _ in self._files]

    def _reduced(self, size: tuple[int, int]) -> tuple[int, int]:
        return fit_size(size, self.box) if self.box else reduce_size(size, self.factor)

    def statistics(self) -> tuple[list[float], list[float]]:
        """Mean and standard deviation of each channel, over up to 200 images at the input size."""
        moments = []
        for index in self._excerpt():
            image, shares = self[index][:2]
            moments.append(_moments(image[shares.any(axis=2)]))
        count, total, squares = (np.sum(part, axis=0) for part in zip(*moments, strict=True))
        mean = total / count
        return mean.tolist(), np.sqrt(np.maximum(squares / count - mean**2, 0)).tolist()

    def _excerpt(self) -> range:
        """Up to 200 samples for statistics."""
        return range(0, len(self), -(-len(self) // 200))

    def class_shares(self) -> NDArray[np.float64]:
        """Return the fraction of the valid area of each class: [K], sums to 1."""
        areas = sum(self[index][1].sum(axis=(0, 1), dtype=np.int64) for index in range(len(self)))
        shares: NDArray[np.float64] = areas / np.maximum(np.sum(areas), 1)
        return shares

    def _load(self, index: int, teacher: Teacher | None = None) -> Sample:
        image, mask = self._files[index]
        return self._read(parse_image(image), parse_source(mask), teacher)

    def _read(
        self, image_file: ImageSource, mask_file: Source, teacher: Teacher | None = None
    ) -> Sample:
        image, missing = read_with_missing(image_file)
        try:
            image = match_channels(image, self.channels)
        except ValueError as error:
            raise Error(f"{image_file}: {error}") from error
        stored = self.coding.read_stored(mask_file)
        mask = self.coding.encode(stored, mask_file)
        if missing is not None:
            mask[missing] = IGNORED
        probabilities = teacher(image) if teacher else None
        if image.dtype != np.uint8 or self._as_float:
            image = to_unit(image)
        height, width = self._reduced((image.shape[0], image.shape[1]))
        size = (height * self.target_scale, width * self.target_scale)
        shares = area_shares(mask, self.coding.num_classes, size)
        if probabilities is not None:
            shares = mix_teacher(shares, mask, probabilities)
        if image.shape[0] < size[0] and image.shape[1] < size[1]:
            # whole pixels: `TrainingSet` averages them to the same input that prediction sees
            image = resize(image, (height, width))
            image = image.repeat(self.target_scale, axis=0).repeat(self.target_scale, axis=1)
        parts = [resize(image, size), shares]
        if self.objects:
            labels = find_objects(stored, self.coding, mask_file)
            if missing is not None:
                labels[missing] = 0
            parts.append(resize_labels(labels[..., None], size))
        if self.box is None:
            return tuple(parts)
        return pad(parts, (self.box[0] * self.target_scale, self.box[1] * self.target_scale))


class TrainingSet(Dataset[tuple[Tensor, ...]]):
    """Augmented samples at one input size, addressed by `Draw`."""

    def __init__(
        self,
        samples: Samples,
        augment: str | Part,
        seed: int,
        size: tuple[int, int],
        *,
        patch: tuple[int, int] | None = None,
        elastic: float = 0.0,
        border: tuple[float, float] | None = None,
    ) -> None:
        """Create the dataset.

        Input pixels are those of the samples; if `size` is smaller than the patch, lengths are
        scaled with it.

        Args:
            samples: The samples to draw from.
            augment: Strength of augmentation, see `Augment`, or the user's own.
            seed: Seed of the run.
            size: Height and width of the returned images [pixels].
            patch: Height and width of the window of a sample [input pixels], see `cut_patch`;
                by default, the samples' box.
            elastic: Standard deviation of displacements [input pixels], see `Augment`.
            border: Weight and sigma [input pixels] of `border_weights`; None for none.
        """
        if border and not samples.objects:
            raise Error("Border weights need Samples(..., objects=True).")
        if border and isinstance(augment, Part):
            raise PartError(
                f"--border-weight needs a preset of --augment, not {augment.name}: choose none, "
                "flip, light or strong."
            )
        seen = patch or samples.box
        if seen is None:
            raise Error("Samples of different sizes need a patch.")
        self._samples = samples
        self._seed = seed
        self._size = size
        self._patch = patch and (patch[0] * samples.target_scale, patch[1] * samples.target_scale)
        # reduced first: augmentation costs grow with the pixels
        self._fine = (size[0] * samples.target_scale, size[1] * samples.target_scale)
        scale = self._fine[0] / seen[0]
        self._augment = make_augment(augment, samples.coding.num_classes, elastic * scale)
        self._border = (border[0], border[1] * scale) if border else None

    def __getitem__(self, draw: Draw) -> tuple[Tensor, ...]:
        """Return one augmented sample: image [H, W, C], shares [H', W', K], maybe border weights.

        H' and W' are `target_scale` times H and W; with border weights [H', W'], touching objects
        are separated, see `part_objects`.
        """
        epoch, number, index = draw
        state = (self._seed, epoch, number)
        if self._patch:
            sample = self._samples.patch(index, self._patch, state)
        else:
            sample = self._samples[index]
        image, shares, *objects = sample
        image, shares = self._augment(resize(image, self._fine), resize(shares, self._fine), state)
        image = resize(image, self._size)
        if self._border is None:
            return _tensor(image), _tensor(shares)
        assert isinstance(self._augment, Augment)
        moved = self._augment.move(resize_labels(objects[0], self._fine), state)
        labels, shares = part_objects(moved[..., 0], shares)
        return _tensor(image), _tensor(shares), _tensor(border_weights(labels, *self._border))


def _moments(pixels: NDArray[Any]) -> tuple[Any, ...]:
    """Number of pixels [n, C], and sums of their values and squares in the network's range."""
    if pixels.dtype != np.uint8:
        values = to_unit(pixels).astype(np.float64)
        return len(values), values.sum(axis=0), (values**2).sum(axis=0)
    counts = np.stack([np.bincount(channel, minlength=256) for channel in pixels.T])
    levels = np.arange(256) / 255
    return len(pixels), counts @ levels, counts @ levels**2


def _tensor(array: NDArray[Any]) -> Tensor:
    writable = array if array.flags.writeable else array.copy()
    return torch.from_numpy(np.ascontiguousarray(writable))
