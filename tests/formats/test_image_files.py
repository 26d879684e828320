import pickle
import subprocess
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from plainunet.formats.image_files import decoding, find_kind, open_encoded, read_encoded
from plainunet.formats.problems import DataError, as_problem, command
from plainunet.formats.sources import Page

RANDOM = np.random.default_rng(0)
PICTURE = Image.fromarray(RANDOM.integers(0, 256, (40, 56, 3), dtype=np.uint8))
FORMATS = {
    **{"jpeg": "JPEG", "png": "PNG", "gif": "GIF", "bmp": "BMP", "webp": "WEBP", "tiff": "TIFF"},
    "pnm": "PPM",
}


def encode(name: str, **options: object) -> bytes:
    file = BytesIO()
    PICTURE.save(file, name, **options)
    return file.getvalue()


@pytest.mark.parametrize(("kind", "name"), FORMATS.items())
def test_kind_comes_from_the_content(tmp_path: Path, kind: str, name: str) -> None:
    path = tmp_path / "picture.wrong"
    path.write_bytes(encode(name))
    assert read_encoded(path) == (kind, path.read_bytes())


# the pixels of a TIFF may lie anywhere: test_tiff.py
@pytest.mark.parametrize("fraction", [0.05, 0.3, 0.6, 0.9, 0.999])
@pytest.mark.parametrize("name", [*sorted({*FORMATS.values()} - {"TIFF"}), "progressive JPEG"])
def test_every_cut_is_seen(tmp_path: Path, name: str, fraction: float) -> None:
    options = {"lossless": True} if name == "WEBP" else {"progressive": True}
    data = encode(name.split()[-1], **(options if " " in name or name == "WEBP" else {}))
    (tmp_path / "cut.bin").write_bytes(data[: int(len(data) * fraction)])
    with pytest.raises(DataError, match=r"cut\.bin") as raised:
        read_encoded(tmp_path / "cut.bin")
    assert raised.value.code in ("cut-off", "not-an-image")


def test_the_thumbnail_of_a_cut_photograph_does_not_pass_for_its_end(tmp_path: Path) -> None:
    thumbnail = BytesIO()
    PICTURE.resize((8, 6)).save(thumbnail, "JPEG")
    # a comment block, in front of everything else, that holds a whole JPEG
    block = thumbnail.getvalue()
    whole = encode("JPEG")
    data = whole[:2] + b"\xff\xfe" + (len(block) + 2).to_bytes(2, "big") + block + whole[2:]
    path = tmp_path / "photograph.jpg"
    path.write_bytes(data)
    assert read_encoded(path)[0] == "jpeg"
    path.write_bytes(data[:-100])
    with pytest.raises(DataError) as raised:
        read_encoded(path)
    assert raised.value.code == "cut-off"


def test_bytes_after_the_end_do_no_harm(tmp_path: Path) -> None:
    for name in ("JPEG", "PNG", "BMP", "WEBP"):
        path = tmp_path / "longer.bin"
        path.write_bytes(encode(name) + bytes(100))
        read_encoded(path)


def test_what_is_not_an_image_is_named(tmp_path: Path) -> None:
    (tmp_path / "empty.png").write_bytes(b"")
    (tmp_path / "text.png").write_text("I am a text")
    (tmp_path / "folder.png").mkdir()
    codes = {"empty": "empty-file", "text": "not-an-image", "folder": "not-an-image"}
    for name, code in codes.items():
        with pytest.raises(DataError, match=rf"{name}\.png") as raised:
            read_encoded(tmp_path / f"{name}.png")
        assert raised.value.code == code
    with pytest.raises(FileNotFoundError, match=r"missing\.png"):
        read_encoded(tmp_path / "missing.png")


def test_a_slice_is_a_file_of_its_own(tmp_path: Path) -> None:
    pages = [Image.new("L", (64, 64), value) for value in (10, 20, 30)]
    pages[0].save(tmp_path / "a.tif", save_all=True, append_images=pages[1:])
    path = Page(tmp_path / "a.tif", 1)
    kind, data = read_encoded(path)
    assert kind == "tiff"
    assert len(data) < 64 * 64 + 300
    with Image.open(BytesIO(data)) as picture:
        assert getattr(picture, "n_frames", 1) == 1
        assert picture.getextrema() == (20, 20)
    with open_encoded(path) as opened:
        assert opened[0] == "tiff"
        assert opened[1].read() == data


def test_kinds_that_share_a_beginning_are_told_apart() -> None:
    assert find_kind(b"RIFF\x00\x00\x00\x00WEBPVP8 ", Path("a")) == "webp"
    with pytest.raises(DataError) as raised:
        find_kind(b"RIFF\x00\x00\x00\x00WAVEfmt ", Path("a"))
    assert raised.value.code == "not-an-image"


@pytest.mark.parametrize(
    "error",
    [
        *(kind("x") for kind in (OSError, SyntaxError, KeyError, EOFError, RuntimeError)),
        AssertionError(),
    ],
)
def test_codec_errors_name_the_file(error: Exception) -> None:
    with pytest.raises(DataError, match=r"^some\.png ") as raised, decoding(Path("some.png")):
        raise error
    assert raised.value.code == "damaged"
    with pytest.raises(ValueError, match=r"^some\.png is odd\.$"), decoding(Path("some.png")):
        raise ValueError("some.png is odd.")


def test_every_byte_of_a_png_is_guarded(tmp_path: Path) -> None:
    path, whole = tmp_path / "a.png", encode("PNG")
    for at in range(8, len(whole) - 12, 97):
        damaged = bytearray(whole)
        damaged[at] ^= 1
        path.write_bytes(damaged)
        with pytest.raises(DataError, match=r"a\.png ") as raised:
            read_encoded(path)
        assert raised.value.code in ("damaged", "cut-off")
    # metadata may be wrong
    note = (5).to_bytes(4) + b"tEXt" + b"a\0b c" + bytes(4)
    path.write_bytes(whole[:33] + note + whole[33:])
    assert read_encoded(path)[0] == "png"


def test_a_problem_reads_as_its_message() -> None:
    problem = DataError("a.png is cut off.", "cut-off", [Path("a.png")], "rm a.png")
    assert str(problem) == "a.png is cut off."
    assert isinstance(problem, ValueError)
    copy = pickle.loads(pickle.dumps(problem))
    assert (str(copy), copy.code, copy.files, copy.fix) == (
        *("a.png is cut off.", "cut-off"),
        *((Path("a.png"),), "rm a.png"),
    )
    # as PyTorch's workers raise it again
    assert str(DataError("said")) == "said"


def test_other_errors_get_a_code_and_files() -> None:
    path = Path("a.png")
    assert as_problem(FileNotFoundError("gone"), path).code == "missing-file"
    assert as_problem(ValueError("odd"), path).code == "unclear"
    known = as_problem(DataError("cut", "cut-off", fix="rm"), path)
    assert (known.code, known.files, known.fix) == ("cut-off", (path,), "rm")
    named = DataError("cut", "cut-off", [Path("b.png")])
    assert as_problem(named, path) is named


@pytest.mark.parametrize(
    "name",
    [
        *(
            b"plain.png",
            b"with space.png",
            b"it's.png",
            b"$HOME;ls.png",
            b"tab\t.png",
            b"new\nline",
        ),
        b"caf\xe9.png",
    ],
)
def test_commands_can_be_pasted(tmp_path: Path, name: bytes) -> None:
    path = tmp_path / name.decode(errors="surrogateescape")
    path.write_text("content")
    line = command("cat", path)
    line.encode("ascii")
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, check=True)
    assert done.stdout == "content"


def test_paths_are_no_flags(tmp_path: Path) -> None:
    (tmp_path / "-n a").write_text("content")
    line = command("cat", "-n", Path("-n a"))
    done = subprocess.run(["bash", "-c", line], cwd=tmp_path, stdout=subprocess.PIPE, check=True)
    assert done.stdout.split() == [b"1", b"content"]
