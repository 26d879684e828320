"""Packages of the BioImage Model Zoo, tested by the zoo's own library."""

import json
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from plainunet.config import ExportOptions
from plainunet.deployment.agreement import Example, open_whole
from plainunet.deployment.bioimageio import (
    InputSize,
    Package,
    check_package,
    choose_title,
    require_publishable,
)
from plainunet.deployment.export import export
from plainunet.network.card import write_metadata
from plainunet.network.checkpoint import load_checkpoint, save_checkpoint
from plainunet.prediction.backends import Geometry

from ..models import make_card, make_network

TO_ZOO = ExportOptions(to="bioimageio", author=("Jane Doe",), license="CC-BY-4.0")
ARCHITECTURE = make_network(2, base_channels=2, depth=1).architecture


def make_package(size: InputSize, side: int, dtype: str = "uint8", **card: Any) -> Package:
    """A package of a network that adds up the channels, in place of a U-Net."""
    onnx = pytest.importorskip("onnx")
    kind, shape = onnx.TensorProto.FLOAT, ["batch", 3, "height", "width"]
    weight = np.array([[-2.0] * 3, [1.0] * 3], np.float32)[..., None, None]
    graph = onnx.helper.make_graph(
        [
            onnx.helper.make_node("Conv", ["image", "weight"], ["logits"]),
            onnx.helper.make_node("Softmax", ["logits"], ["probabilities"], axis=1),
        ],
        "network",
        [onnx.helper.make_tensor_value_info("image", kind, shape)],
        [
            onnx.helper.make_tensor_value_info(
                "probabilities", kind, ["batch", 2, "height", "width"]
            )
        ],
        [onnx.numpy_helper.from_array(weight, "weight")],
    )
    opset = onnx.helper.make_opsetid("", 18)
    model = onnx.helper.make_model(graph, ir_version=8, opset_imports=[opset])
    most = 1.0 if dtype == "float32" else float(np.iinfo(dtype).max)
    image = (np.random.default_rng(0).random((side, side, 3)) * most).astype(dtype)
    logits = np.tensordot(weight[..., 0, 0], (image / most).transpose(2, 0, 1), 1)
    probabilities = (np.exp(logits) / np.exp(logits).sum(0)).astype(np.float32)
    whole = make_card(2, size=size.least if size.step is None else None, **card)
    return Package(model, whole, dtype, size, image, probabilities, TO_ZOO)


def write(package: Package, path: Path) -> Path:
    metadata = write_metadata(ARCHITECTURE, package.card, export={"check": {"difference": 1e-6}})
    package.write(path, metadata)
    return path


def read(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as package:
        return {name: package.read(name) for name in package.namelist()}


@pytest.mark.bioimageio
def test_a_package_passes_the_test_of_the_zoo(tmp_path: Path) -> None:
    training = {"sample": {"patient-name.png": 1}, "dtypes": ["uint8"]}
    package = make_package(InputSize((24, 24), 4, 8), 32, training=training, threshold=0.25)
    path = write(package, tmp_path / "model.zip")
    check_package(path)
    files = read(path)
    known = {"weights.onnx", "README.md", "cover.png", "plainunet.json", "rdf.yaml"}
    assert known < files.keys()
    assert np.load(tmp_path / "model.zip")["test_input"].max() > 1  # values as stored
    assert "0.25" in files["README.md"].decode()
    assert json.loads(files["plainunet.json"])["training"] == {"dtypes": ["uint8"]}
    assert not any(b"patient-name" in content for content in files.values())


@pytest.mark.bioimageio
def test_a_network_of_the_users_own_is_not_called_a_unet(tmp_path: Path) -> None:
    package = make_package(InputSize((24, 24), 4, 8), 32)
    architecture = {**ARCHITECTURE, "factory": "nets:make"}
    package.write(
        tmp_path / "model.zip",
        write_metadata(architecture, package.card, export={"check": {"difference": 1e-6}}),
    )
    texts = [read(tmp_path / "model.zip")[name].decode() for name in ("rdf.yaml", "README.md")]
    assert all("Network for" in text for text in texts)
    assert not any(
        re.search("U-Net|unet|Ronneberger", text.replace("plainunet", "")) for text in texts
    )


@pytest.mark.bioimageio
def test_a_package_with_wrong_outputs_fails_the_test_of_the_zoo(tmp_path: Path) -> None:
    package = make_package(InputSize((16, 16), None, 0), 16)
    package.probabilities[:, 3:9] = 0.5
    path = write(package, tmp_path / "model.zip")
    with pytest.raises(ValueError, match="bioimageio"):
        check_package(path)


@pytest.mark.bioimageio
@pytest.mark.parametrize(("dtype", "scaled"), [("uint16", True), ("float32", False)])
def test_other_dtypes_are_scaled_by_their_range(dtype: str, scaled: bool, tmp_path: Path) -> None:
    path = write(make_package(InputSize((16, 16), 4, 0), 20, dtype), tmp_path / "model.zip")
    check_package(path)
    assert (b"scale_linear" in read(path)["rdf.yaml"]) == scaled


def test_sizes_follow_the_scale_policy() -> None:
    geometry = Geometry.of({**ARCHITECTURE, "depth": 4})
    assert InputSize.of(make_card(2, size=(64, 96)), geometry) == InputSize((64, 96), None, 0)
    assert InputSize.of(make_card(2), geometry) == InputSize((144, 144), 16, 64)
    assert InputSize.of(make_card(2, factor=0.25), geometry) == InputSize((576, 576), 64, 256)


@given(st.integers(1, 5), st.floats(0.05, 1))
def test_tiles_of_reduced_images_begin_on_the_pooling_grid(depth: int, factor: float) -> None:
    geometry = Geometry.of({**ARCHITECTURE, "depth": depth})
    size = InputSize.of(make_card(2, factor=factor), geometry)
    assert size.step
    assert size.halo % size.step == 0
    off = size.step * factor / 2**depth
    assert abs(off - round(off)) < 0.1
    assert size.step <= 10 * 2**depth / factor


def test_tiles_of_valid_convolutions_share_their_whole_context() -> None:
    geometry = Geometry.of({**ARCHITECTURE, "depth": 4, "valid": True, "normalisation": "none"})
    size = InputSize.of(make_card(2), geometry)
    assert size.halo >= 92  # 572 -> 388
    assert size.halo % 16 == 0


def test_networks_that_see_the_whole_image_have_no_tiles() -> None:
    geometry = Geometry.of({**ARCHITECTURE, "normalisation": "group"})
    assert InputSize.of(make_card(2), geometry).halo == 0


@pytest.mark.parametrize("size", [InputSize((24, 24), 8, 4), InputSize((24, 16), None, 0)])
@pytest.mark.parametrize("own", [(40, 45), (10, 100), (24, 16), (700, 9)])
def test_any_example_fits(size: InputSize, own: tuple[int, int]) -> None:
    ids = np.arange(own[0] * own[1]).reshape(own) % 2
    example = Example(np.repeat(ids[..., None], 3, 2).astype(np.uint8), ids.astype(np.uint8))
    fitting = size.fit(example)
    for side, least in zip(fitting.image.shape, size.least, strict=False):
        assert side == least if size.step is None else (side - least) % size.step == 0
    if fitting.truth is not None:
        assert fitting.truth.shape == fitting.image.shape[:2]
        counted = fitting.truth != 255
        assert counted.any()
        assert (fitting.image[counted][:, 0] == fitting.truth[counted]).all()


@pytest.mark.parametrize(
    ("names", "title"),
    [(("background", "car"), "U-Net for car"), (("0", "Größe/x", "b"), "U-Net for Gr--e-x and b")],
)
def test_titles_have_only_allowed_characters(names: tuple[str, ...], title: str) -> None:
    assert choose_title(None, names) == title
    assert choose_title(None, names, is_own=True) == title.replace("U-Net", "Network")
    assert len(choose_title(None, ("0", "long name" * 40))) <= 64


@pytest.mark.bioimageio
@pytest.mark.parametrize(
    "wrong",
    [
        {"author": ()},
        {"license": None},
        {"license": "all rights reserved"},
        {"author": ("a/b",)},
        {"title": "ü" * 9},
        {"title": "x"},
    ],
)
def test_what_only_the_authors_know_is_asked(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="--"):
        require_publishable(TO_ZOO.model_copy(update=wrong))


def test_authors_are_only_for_packages(tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    with pytest.raises(ValueError, match="--author"):
        export("any", tmp_path / "m.onnx", ExportOptions(to="onnx", author=("Jane Doe",)))


def save(path: Path, classes: int, options: dict[str, Any], **card: Any) -> Path:
    save_checkpoint(path, make_network(classes, **options), make_card(classes, **card))
    return path


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.bioimageio
@pytest.mark.parametrize(
    ("classes", "options", "card", "tiles"),
    [
        (3, {"channels": 1}, {"size": (48, 64)}, False),
        (3, {"channels": 4}, {"factor": 0.4, "training": {"dtypes": ["uint16"]}}, True),
        (2, {"valid": True, "normalisation": "none"}, {"training": {"dtypes": ["float32"]}}, True),
        (3, {"normalisation": "group", "depth": 3}, {}, False),
    ],
    ids=["fit", "factor", "valid", "group"],
)
def test_every_kind_of_model_becomes_a_package(
    classes: int, options: dict[str, Any], card: dict[str, Any], tiles: bool, tmp_path: Path
) -> None:
    checkpoint = save(tmp_path / "best.safetensors", classes, options, **card)
    out = tmp_path / "model.zip"
    result = export(checkpoint, out, TO_ZOO)
    assert result.agreement.difference < 1e-3  # the package's own test has passed
    assert (b"concatenable" in read(out)["rdf.yaml"]) == tiles
    if tiles:
        require_tiles(out, checkpoint)


def require_tiles(package: Path, checkpoint: Path) -> None:
    """Tiles on the grid give, without their halo, what the whole image gives."""
    network, card = load_checkpoint(checkpoint)
    size = InputSize.of(card, Geometry.of(network.architecture))
    assert size.step
    halo, tile = size.halo, size.least[0]
    whole = np.random.default_rng(0).random(
        (1, network.in_channels, tile + 2 * size.step, tile + 3 * size.step), np.float32
    )
    run = open_whole(package, "fp32")
    for top, left in ((0, size.step), (size.step, 2 * size.step)):
        inner = slice(top + halo, top + tile - halo), slice(left + halo, left + tile - halo)
        part = run(np.ascontiguousarray(whole[..., top : top + tile, left : left + tile]))[0]
        expected = run(whole)[0][(..., *inner)]
        np.testing.assert_allclose(part[..., halo:-halo, halo:-halo], expected, atol=1e-4)


OFFLINE = """
import sys, warnings
warnings.simplefilter("error")
network = ("socket.connect", "socket.getaddrinfo", "socket.sendto", "urllib.Request")
def refuse(event, arguments):
    if event in network:
        raise RuntimeError(f"network access: {event} {arguments}")
sys.addaudithook(refuse)
from plainunet.config import ExportOptions
from plainunet.deployment.export import export
options = ExportOptions(to="bioimageio", author=("Jane Doe",), license="MIT")
export(sys.argv[1], sys.argv[2], options)
"""


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.bioimageio
def test_a_package_is_made_offline_and_leaves_nothing_else(tmp_path: Path) -> None:
    checkpoint = save(tmp_path / "best.safetensors", 2, {})
    home, out = tmp_path / "home", tmp_path / "out" / "model.zip"
    home.mkdir()
    where = {**os.environ, "HOME": str(home), "PLAINUNET_CACHE": str(tmp_path / "cache")}
    where.pop("ORT_DISABLE_TELEMETRY")
    command = [sys.executable, "-c", OFFLINE, str(checkpoint), str(out)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=where)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert [each.name for each in out.parent.iterdir()] == ["model.zip"]
    assert list(home.rglob("*")) == []


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.bioimageio
def test_a_package_that_fails_leaves_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = save(tmp_path / "best.safetensors", 2, {})
    right = Package.write

    def damage(self: Package, path: Path, metadata: Any) -> None:
        self.probabilities[:, ::2] = 0.5
        right(self, path, metadata)

    out = tmp_path / "out" / "model.zip"
    with monkeypatch.context() as patch:
        patch.setattr(Package, "write", damage)
        with pytest.raises(ValueError, match="bioimageio"):
            export(checkpoint, out, TO_ZOO)
    assert not out.exists()
    out.parent.mkdir(exist_ok=True)
    write(make_package(InputSize((16, 16), None, 0), 16), out)  # of an earlier export
    export(checkpoint, out, TO_ZOO)
    assert np.load(out)["test_input"].shape[2:] != (16, 16)
    assert [each.name for each in out.parent.iterdir()] == ["model.zip"]
