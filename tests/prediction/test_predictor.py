"""Inference from image to mask, step by step; refused inputs and warnings."""

import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from plainunet.formats.problems import DataError
from plainunet.formats.windows import ArrayWindows
from plainunet.network.card import Card
from plainunet.network.checkpoint import save_checkpoint
from plainunet.network.unet import UNet, deep_logits
from plainunet.palette import default_colors
from plainunet.prediction.predictor import Predictor
from plainunet.prediction.views import NotFiniteError

from ..models import as_predictor, make_card, make_network

Size = tuple[int, int] | None
SIZES = [(1, 1), (2, 3), (7, 5), (33, 47), (64, 48), (3, 200), (150, 2), (100, 100), (32, 48)]


def make_predictor(classes: int = 3, channels: int = 3, **settings: Any) -> Predictor:
    """Make a predictor whose input size is 32 x 48 by default."""
    card = make_card(classes, **{"size": (32, 48), **settings})
    return as_predictor(make_network(classes, channels=channels), card)


def copy_network(gain: float = 40.0) -> UNet:
    """A network whose logits are the three channels of the image, times `gain`."""
    network = UNet(in_channels=3, num_classes=3, base_channels=3, depth=2)
    inlet, up = network.inlet, network.ups[-1].conv
    with torch.no_grad():
        for convolution in (inlet[0], inlet[3], up[0], up[3]):
            convolution.weight.zero_()
            for channel in range(3):  # an Up concatenates the skip connection first
                convolution.weight[channel, channel, 1, 1] = 1
        network.head.weight.copy_(gain * torch.eye(3)[:, :, None, None])
        network.head.bias.zero_()
    return network


def noise(*shape: int, dtype: Any = np.uint8) -> NDArray[Any]:
    return np.random.default_rng(1).integers(0, np.iinfo(dtype).max, shape, dtype, endpoint=True)


def logits_by_hand(
    predictor: Predictor, image: NDArray[Any], box: Size, factor: float = 1
) -> torch.Tensor:
    """Logits [K, H, W] of a uint8 image at its own size, computed step by step."""
    height, width = image.shape[:2]
    scale = min(1, box[0] / height, box[1] / width) if box else factor
    small = max(1, round(height * scale)), max(1, round(width * scale))
    reduced = cv2.resize(image, small[::-1], interpolation=cv2.INTER_AREA)
    goal = box or (4, 4)
    below, right = max(0, goal[0] - small[0]), max(0, goal[1] - small[1])
    padded = cv2.copyMakeBorder(reduced, 0, below, 0, right, cv2.BORDER_REPLICATE)
    batch = torch.from_numpy(padded.transpose(2, 0, 1).copy())[None].float() / 255
    with torch.no_grad():
        logits = predictor.network(batch)[:, :, : small[0], : small[1]]
    return F.interpolate(logits, size=(height, width), mode="bilinear", align_corners=False)[0]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("box", "factor"), [((32, 48), 1.0), (None, 1.0), (None, 0.5)])
def test_equals_the_steps_by_hand(size: tuple[int, int], box: Size, factor: float) -> None:
    predictor = make_predictor(size=box, factor=factor)
    image = noise(*size, 3)
    logits = logits_by_hand(predictor, image, box, factor)
    mask, probabilities = predictor.predict(image), predictor.probabilities(image)
    assert (mask.shape, mask.dtype) == (size, np.uint8)
    assert (probabilities.shape, probabilities.dtype) == ((3, *size), np.float32)
    assert np.allclose(probabilities, logits.softmax(dim=0).numpy(), atol=1e-4)
    first, second = logits.topk(2, dim=0).values
    clear = (first - second > 1e-3).numpy()
    assert clear.mean() > 0.9 or clear.size < 40
    assert np.array_equal(mask[clear], logits.argmax(dim=0).numpy()[clear])


def test_every_class_occurs() -> None:
    # otherwise the tests above would compare constants
    for num_classes in (2, 3):
        mask = make_predictor(num_classes, size=None).predict(noise(64, 64, 3))
        assert np.bincount(mask.ravel(), minlength=num_classes).min() > 100


@pytest.mark.parametrize("size", [(4, 4), (37, 53), (64, 48), (3, 5)])
def test_a_network_that_copies_returns_the_image(size: tuple[int, int]) -> None:
    mask = noise(*size) % 3
    image = np.eye(3, dtype=np.uint8)[mask] * np.uint8(255)
    predictor = as_predictor(copy_network())
    assert np.array_equal(predictor.predict(image), mask)


def test_a_network_that_copies_at_a_reduced_size() -> None:
    rows, columns = np.mgrid[:160, :240]
    mask = ((rows - 70) ** 2 + (columns - 100) ** 2 < 50**2).astype(np.uint8)
    mask[120:, 180:] = 2
    image = np.eye(3, dtype=np.uint8)[mask] * np.uint8(255)
    predictor = as_predictor(copy_network(), make_card(3, size=(32, 48)))
    # a shift by half an input pixel would already cause more errors
    assert (predictor.predict(image) != mask).mean() < 0.006


def test_probabilities_sum_to_one_and_agree() -> None:
    for num_classes in (2, 3, 7):
        predictor = make_predictor(num_classes)
        image = noise(50, 60, 3)
        probabilities = predictor.probabilities(image)
        assert np.allclose(probabilities.sum(axis=0), 1, atol=1e-5)
        assert probabilities.min() >= 0
        ordered = np.sort(probabilities, axis=0)
        clear = ordered[-1] - ordered[-2] > 1e-5
        assert clear.mean() > 0.99
        assert (predictor.predict(image) == probabilities.argmax(axis=0))[clear].all()


@pytest.mark.parametrize("box", [(32, 48), None])
@pytest.mark.parametrize("threshold", [0.0, 0.01, 0.3, 0.5, 0.9, 0.999, 1.0])
def test_threshold_of_two_classes(threshold: float, box: Size) -> None:
    predictor = make_predictor(2, size=box, threshold=threshold)
    image = noise(50, 60, 3)
    foreground = predictor.probabilities(image)[1]
    clear = np.abs(foreground - threshold) > 1e-5
    assert clear.mean() > 0.9
    assert np.array_equal(predictor.predict(image)[clear], (foreground >= threshold)[clear])


def test_greyscale_images_are_converted_to_rgb() -> None:
    predictor = make_predictor()
    grey = noise(40, 50)
    wanted = predictor.predict(np.stack([grey] * 3, axis=2))
    with pytest.warns(UserWarning, match="RGB"):
        assert np.array_equal(predictor.predict(grey), wanted)
    assert np.array_equal(predictor.predict(grey[..., None]), wanted)
    predictor.card.training["grey"] = 3  # trained on some, so there is no warning
    again = as_predictor(predictor.network, predictor.card)
    assert np.array_equal(again.predict(grey), wanted)


@pytest.mark.parametrize(
    ("channels", "shape", "message"),
    [
        (3, (40, 50, 2), r"\b2\b.*\b3\b"),
        (3, (40, 50, 4), r"\b4\b.*\b3\b"),
        (1, (40, 50, 3), r"\b3\b.*\b1\b"),  # RGB is not converted to grey
        (3, (5,), r"\[5\]"),
        (3, (1, 5, 6, 3), r"\[1, 5, 6, 3\]"),
        (3, (0, 5, 3), r"\[0, 5, 3\]"),
        (3, (5, 0, 3), r"\[5, 0, 3\]"),
        (3, (0, 0), r"\[0, 0\]"),
    ],
)
def test_other_shapes_are_refused(channels: int, shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_predictor(channels=channels).predict(noise(*shape))


def test_infinite_values_are_refused() -> None:
    image = np.zeros((40, 50, 3), np.float32)
    image[3, 4, 1] = np.inf
    with pytest.raises(DataError) as caught:
        make_predictor().predict(image)
    assert caught.value.code == "not-finite"


@pytest.mark.parametrize("channels", [3, 5])
def test_float_images_of_many_channels(channels: int) -> None:
    image = np.random.default_rng(0).normal(size=(50, 77, channels)).astype(np.float32)
    assert make_predictor(channels=channels).predict(image).shape == (50, 77)


@pytest.mark.parametrize("box", [None, (32, 48)])
def test_16_bit_images_equal_their_8_bit_version(box: Size) -> None:
    predictor = make_predictor(size=box)
    eight = noise(60, 70, 3)
    sixteen = eight.astype(np.uint16) * np.uint16(257)  # 255 * 257 = 65535
    one, other = predictor.probabilities(eight), predictor.probabilities(sixteen)
    # reducing rounds the averages of 8-bit values
    assert np.abs(one - other).max() < (1e-5 if box is None else 0.1)
    assert (predictor.predict(eight) == predictor.predict(sixteen)).mean() > 0.97
    unit = predictor.probabilities(eight.astype(np.float64) / 255)
    assert np.abs(other - unit).max() < 1e-4


def test_dark_images_are_not_stretched() -> None:
    predictor = make_predictor(size=None)
    dark = noise(40, 50, 3) % 2
    wanted = logits_by_hand(predictor, dark, None).softmax(dim=0).numpy()
    assert np.allclose(predictor.probabilities(dark), wanted, atol=1e-4)


@pytest.mark.parametrize(("channels", "dtype"), [(3, np.uint8), (3, np.uint16), (1, np.uint8)])
def test_an_image_prepared_in_another_thread_has_the_same_mask(channels: int, dtype: Any) -> None:
    predictor = make_predictor(scales=(1.0, 1.5), training={"grey": 1})
    image = noise(70, 90, channels, dtype=dtype)
    with ThreadPoolExecutor(1) as reader:
        prepared = reader.submit(predictor.prepare, image).result()
    assert isinstance(prepared, ArrayWindows)
    reduced = set(prepared.reduced)
    # a grey image is converted to RGB before it is reduced
    assert reduced == ({(32, 41), (48, 62)} if channels == 3 else set())
    mask = np.concatenate(list(predictor.mask_bands(prepared)))
    assert np.array_equal(mask, predictor.predict(image))
    assert set(prepared.reduced) == reduced


def test_layout_in_memory_does_not_matter() -> None:
    predictor = make_predictor()
    image = noise(40, 50, 3)
    wanted = predictor.predict(image)
    mirrored = np.ascontiguousarray(image[::-1, ::-1])[::-1, ::-1]
    planes = np.ascontiguousarray(image.transpose(2, 0, 1)).transpose(1, 2, 0)
    read_only = image.copy()
    read_only.flags.writeable = False
    for other in (mirrored, planes, np.asfortranarray(image), read_only):
        assert np.array_equal(predictor.predict(other), wanted)


@pytest.mark.parametrize("training", [True, False])
def test_the_mode_of_the_network_is_kept(training: bool) -> None:
    predictor = make_predictor()
    image = noise(40, 50, 3)
    wanted = predictor.predict(image)
    predictor.network.train(training)
    before = {name: value.clone() for name, value in predictor.network.state_dict().items()}
    assert np.array_equal(predictor.predict(image), wanted)
    assert predictor.network.training is training
    assert predictor.network.inlet[1].training is training
    for name, value in predictor.network.state_dict().items():
        assert torch.equal(value, before[name])


def test_the_mode_of_the_network_is_kept_after_a_failure() -> None:
    predictor = make_predictor(size=(3, 3))  # smaller than 2 ** depth
    predictor.network.train()
    with pytest.raises(ValueError, match=r"3 x 3 .* 4 x 4"):
        predictor.predict(noise(3, 3, 3))
    assert predictor.network.training


def test_without_a_card_images_keep_their_own_size() -> None:
    mask = noise(20, 24) % 3
    image = np.eye(3, dtype=np.uint8)[mask] * np.uint8(255)
    network = copy_network()
    predictor = as_predictor(network)
    assert predictor.network is network
    assert np.array_equal(predictor.predict(image), mask)
    assert len(predictor.card.colors) == 3


def test_unknown_device_and_precision() -> None:
    network = UNet(base_channels=2, depth=1)
    with pytest.raises(ValueError, match="device gpu"):
        Predictor(network, device="gpu")
    with pytest.raises(ValueError, match="fp8"):
        Predictor(network, device="cpu", precision="fp8")


@pytest.mark.parametrize("classes", [2, 3])
def test_loaded_checkpoint_predicts_the_same(tmp_path: Path, classes: int) -> None:
    predictor, image = make_predictor(classes, threshold=0.3), noise(50, 60, 3)
    path = tmp_path / "best.safetensors"
    save_checkpoint(path, predictor.network, predictor.card)
    wanted = predictor.probabilities(image)
    for paths in (path, str(path), [path, path]):
        loaded = Predictor.load(paths, device="cpu", precision="fp32")
        assert loaded.card == predictor.card
        # batch normalisation is folded into the convolutions
        assert not any(isinstance(part, torch.nn.BatchNorm2d) for part in loaded.network.modules())
        assert np.allclose(loaded.probabilities(image), wanted, atol=1e-4)
        assert (loaded.predict(image) == predictor.predict(image)).mean() > 0.999


def test_bf16_is_close() -> None:
    predictor = make_predictor()
    rough = as_predictor(predictor.network, predictor.card, precision="bf16")
    image = noise(32, 48, 3)
    assert rough.probabilities(image).dtype == np.float32
    assert np.abs(rough.probabilities(image) - predictor.probabilities(image)).mean() < 0.05


def test_results_are_writable_and_the_network_stays_trainable() -> None:
    predictor, image = make_predictor(), noise(32, 48, 3)
    mask, probabilities = predictor.predict(image), predictor.probabilities(image)
    mask[0, 0] = 1
    probabilities[0] = 0
    # inference mode must not have touched the weights
    predictor.network.train()
    predictor.network(torch.rand(2, 3, 16, 16)).sum().backward()


@pytest.mark.parametrize("size", [(61, 83), (5, 40), (420, 30)])
def test_valid_convolutions_get_a_mirrored_image(size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    network = UNet(3, 2, 2, 2, normalisation="none", valid=True).eval()
    image = noise(*size, 3)
    found = as_predictor(network).probabilities(image)
    batch = torch.from_numpy(image).permute(2, 0, 1)[None].float() / 255
    with torch.inference_mode():
        expected = deep_logits(network, batch)[0][0].softmax(dim=0)
    assert expected.std() > 1e-3
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("kind", ["batch", "group", "instance"])
def test_the_smallest_images_are_padded_as_the_network_needs(kind: Any) -> None:
    predictor = as_predictor(UNet(3, 2, 2, 3, normalisation=kind))
    for size in ((1, 1), (8, 9), (3, 40)):
        assert predictor.predict(noise(*size, 3)).shape == size


def test_non_finite_logits_are_refused() -> None:
    predictor = make_predictor()
    norm = next(m for m in predictor.network.modules() if isinstance(m, torch.nn.BatchNorm2d))
    norm.running_var.fill_(-5)
    for run in (predictor.predict, predictor.probabilities):
        with pytest.raises(NotFiniteError):
            run(noise(32, 48, 3))


@pytest.mark.parametrize(
    ("instead", "message"),
    [
        ({"threshold": 2}, "threshold"),
        ({"threshold": float("nan")}, "threshold"),
        ({"threshold": "a"}, "threshold"),
        ({"min_object": -5}, "min_object"),
        ({"scales": ()}, "scales"),
        ({"scales": (-1,)}, "scales"),
        ({"tta": "spin"}, "tta"),
        ({"treshold": 0.3}, "'treshold'.*'threshold'"),
        ({"others": ("b.safetensors",)}, "'others'"),
    ],
)
def test_invalid_settings_are_refused(
    tmp_path: Path, instead: dict[str, Any], message: str
) -> None:
    path = tmp_path / "a.safetensors"
    save_checkpoint(path, make_network(2), make_card(2))
    with pytest.raises(ValueError, match=message):
        Predictor.load(path, **instead)


def test_a_threshold_needs_two_classes(tmp_path: Path) -> None:
    image = noise(50, 60, 3)
    masks = [make_predictor(3, threshold=threshold).predict(image) for threshold in (0.1, 0.9)]
    assert np.array_equal(*masks)
    path = tmp_path / "a.safetensors"
    save_checkpoint(path, make_network(3), make_card(3))
    with pytest.raises(ValueError, match=r"--threshold .* 3 "):
        Predictor.load(path, threshold=0.3)


def test_no_checkpoint_is_an_error() -> None:
    with pytest.raises(ValueError):  # noqa: PT011 -- there is nothing to name
        Predictor.load([])


def test_ensembles_with_different_classes_are_refused() -> None:
    network = UNet(3, 2, base_channels=2, depth=1)
    names = ("ground", "thing")
    two, turned = (Card(each, default_colors(2), size=None) for each in (names, names[::-1]))
    three = Card((*names, "other"), default_colors(3), size=None)
    Predictor(network, two, others=[(network, two)], device="cpu")
    with pytest.raises(ValueError, match=r"^3 .* 2 "):
        Predictor(network, three, device="cpu")
    with pytest.raises(ValueError, match=r"ground, thing\b.*\bthing, ground"):
        Predictor(network, two, others=[(network, turned)], device="cpu")


def warnings_of(predictor: Predictor, *images: NDArray[Any]) -> list[str]:
    """The warnings of predicting images; each points to this file."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for number, image in enumerate(images):
            (predictor.probabilities if number % 2 else predictor.predict)(image)
    assert {Path(each.filename).name for each in caught} <= {Path(__file__).name}
    return [str(each.message) for each in caught]


def test_warnings_of_sizes_far_from_the_training_images() -> None:
    predictor = make_predictor(training={"areas": [1000, 4000]})
    near = [noise(*size, 3) for size in ((25, 40), (15, 15), (150, 150))]
    assert warnings_of(predictor, *near) == []
    tiny = noise(10, 10, 3)
    small, large = warnings_of(predictor, tiny, tiny, noise(160, 160, 3))
    assert "10 x 10" in small
    assert "1,000 to 4,000" in large
    # without a fixed input size, no area is unusual
    at_scale = make_predictor(size=None, training={"areas": [1000, 4000]})
    assert warnings_of(at_scale, noise(300, 300, 3)) == []


def test_warnings_of_other_types_appear_once() -> None:
    predictor, image = make_predictor(training={"dtypes": ["uint16"]}), noise(32, 48, 3)
    assert warnings_of(predictor, image.astype(np.uint16), image.astype(np.float32) / 255) == []
    grey = noise(32, 48, 1).astype(np.uint16)
    of_dtype, of_grey = warnings_of(predictor, image, grey, image, grey)
    assert "uint8" in of_dtype
    assert "uint16" in of_dtype
    assert "grey" in of_grey


@pytest.mark.parametrize("training", [{"dtypes": ["uint8"]}, {"imported": {}}])
def test_warnings_of_floats_above_1(training: dict[str, Any]) -> None:
    image = noise(300, 400, 3).astype(np.float32)
    predictor = make_predictor(training=training)
    assert warnings_of(predictor, image / 255) == []
    (message,) = warnings_of(predictor, image, image)
    assert "float32" in message
    assert " 255" in message
    assert "uint8" in message
    assert warnings_of(make_predictor(training={"dtypes": ["float32"]}), image) == []
