"""Models as folders and as repositories of the Hugging Face Hub: the model, and its model card."""

import dataclasses
import json
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from plainunet.errors import Error
from plainunet.files import write_whole
from plainunet.formats.images import read_image
from plainunet.network.card import MODEL_FILES, Card, find_checkpoint
from plainunet.page import render
from plainunet.prediction.exported import SUFFIXES, load_exported, need
from plainunet.system import shorten
from plainunet.text import count, interval, score

if TYPE_CHECKING:
    from plainunet.prediction.predictor import Predictor

CHECKPOINT, ONNX = MODEL_FILES
README = "README.md"
_EXAMPLE = "example"
_MARK = "<!-- model card written by plainunet -->"
_METRICS = ("dice", "iou", "precision", "recall")
_FEW = 10
"""With fewer groups of images, intervals are rough."""


class ModelFile(NamedTuple):
    """The file that a predictor was loaded from, as it was then."""

    path: Path
    size: int
    """Bytes."""
    modified: int
    """Time of the last change [ns]."""

    @classmethod
    def of(cls, path: Path) -> "ModelFile":
        """Describe a file as it is now."""
        status = path.stat()
        return cls(path, status.st_size, status.st_mtime_ns)


class About(NamedTuple):
    """What a model card says besides what the model knows of itself."""

    title: str
    license: str | None
    """Identifier of a licence, as on the Hub."""
    repository: str
    """Name for `Predictor.from_pretrained`."""
    example: Path | None
    """An image to show."""


def save_model(predictor: "Predictor", folder: Path, about: About) -> None:
    """Write a model and its model card into a folder; each file is written whole or not at all.

    Raises:
        FileNotFoundError: The example does not exist.
        ValueError: The example is not an image, the model is an ensemble or changed since it was
            loaded, its settings cannot be stored in its file, or the folder has files or folders
            that were not written by this function.
    """
    readme = folder / README
    _require_own(folder)
    if about.example:
        read_image(about.example)
    name, card = _write_model(predictor, folder)
    for other in {*MODEL_FILES} - {name}:
        (folder / other).unlink(missing_ok=True)
    shown = f"{_EXAMPLE}{about.example.suffix.lower()}" if about.example else ""
    if about.example:
        with write_whole(folder / shown) as file:
            shutil.copyfile(about.example, file)
    for earlier in folder.glob(f"{_EXAMPLE}*"):
        if earlier.stem == _EXAMPLE and earlier.name.lower() != shown:
            earlier.unlink()
    text = write_card(card, predictor.architecture, about, shown)
    with write_whole(readme) as file:
        file.write_text(text, encoding="utf-8", newline="\n")


def _require_own(folder: Path) -> None:
    """Refuse a folder with anything but an earlier save; hidden files, as of git, are no matter."""
    if folder.exists() and not folder.is_dir():
        raise Error(f"{folder}: is a file. Choose a new folder.", path=folder)
    found = sorted(folder.glob("[!.]*"))
    readme = folder / README
    is_own = readme.is_file() and _MARK in readme.read_text(encoding="utf-8", errors="replace")
    own = {*MODEL_FILES, README} if is_own else set[str]()
    for path in found:
        if path.name not in own and not (is_own and path.is_file() and path.stem == _EXAMPLE):
            raise Error(
                f"{path}: exists, and was not written by save_pretrained. Choose another folder.",
                path=path,
            )


def _write_model(predictor: "Predictor", folder: Path) -> tuple[str, Card]:
    """Write the model's file; returns its name and its card."""
    card = predictor.card
    if predictor.is_ensemble:
        raise Error("an ensemble has several files. Save each of its models on its own.")
    if not predictor.sources:
        from plainunet.network.checkpoint import save_checkpoint

        save_checkpoint(folder / CHECKPOINT, predictor.network, card)
        return CHECKPOINT, card
    (source,) = predictor.sources
    if ModelFile.of(source.path) != source:
        raise Error(f"{source.path}: has changed since it was loaded. Load it again.")
    if source.path.suffix.lower() not in SUFFIXES:
        from plainunet.network.checkpoint import load_checkpoint, save_checkpoint

        # read again: batch normalisation was folded when it was loaded
        network, stored = load_checkpoint(source.path, predictor.own)
        if card != stored:  # loaded with another threshold, for instance
            card = dataclasses.replace(card, scores={})
        save_checkpoint(folder / CHECKPOINT, network, card)
        return CHECKPOINT, card
    if source.path.suffix.lower() != ".onnx":
        raise Error(f"{source.path}: save the checkpoint or the .onnx file instead.")
    if load_exported(source.path)[1] != card:
        raise Error(
            f"{source.path}: was loaded with other settings, which an exported file cannot hold. "
            "Save the checkpoint instead."
        )
    with write_whole(folder / ONNX) as file:
        shutil.copyfile(source.path, file)
    return ONNX, card


def write_card(card: Card, architecture: Mapping[str, Any], about: About, example: str = "") -> str:
    """Write the model card as Markdown: data, scores with intervals and protocol, limits, licence.

    Its header is YAML as the Hub reads it. `example` is the name of an image beside it.
    """
    intervals = card.scores.get("intervals", {})
    areas = [count(area) for area in card.training.get("areas") or ()]
    cleaning = [f"objects below {card.min_object} pixels removed"] if card.min_object > 1 else []
    cleaning += [f"holes up to {card.fill_holes} pixels filled"] if card.fill_holes else []
    content = {
        "title": " ".join(about.title.split()),
        "mark": _MARK,
        "card": card,
        "example": example,
        "repository": about.repository,
        "license": about.license,
        "classes": ", ".join(card.class_names).replace("|", "/"),
        "channels": f"{architecture['in_channels']} channels",
        "input": "scaled to fit in {} x {}".format(*card.size)
        if card.size
        else f"scaled by {card.factor:g}",
        "factory": architecture.get("factory", ""),
        "network": f"{architecture['base_channels']} base channels, depth {architecture['depth']}",
        "cleaning": ", ".join(cleaning) or "none",
        "threshold": card.threshold if len(card.class_names) == 2 else "none (arg-max)",
        "amounts": card.training.get("pictures", {}),
        "areas": f"{' to '.join(dict.fromkeys(areas))} pixels" if areas else "unknown",
        "scores": _score_rows(card),
        "tuned": _describe_tuning(card),
        "level": f"{100 * intervals.get('level', 0.95):g}%",
        "groups": intervals.get("groups", 0),
        "few": _FEW,
    }
    return f"---\n{_header(card, about)}---\n\n{render('model-card.md', **content)}"


def _describe_tuning(card: Card) -> str:
    """What tuning changed, if the scores are those before it; or ""."""
    tuned = card.scores.get("tuned")
    if not tuned:
        return ""
    settings = [
        f"{name.replace('_', ' ')} {tuned['before'][name]} to {value}"
        for name, value in tuned["after"].items()
        if value != tuned["before"][name]
    ]
    names = {"dice": "Dice", "f1": "F1 of objects"}
    gains = [
        f"{shown} per image from {tuned[name]['before']:.4f} to {tuned[name]['after']:.4f}"
        for name, shown in names.items()
        if name in tuned
    ]
    return f"{', '.join(settings) or 'nothing'}, which brought {' and '.join(gains)}"


def _score_rows(card: Card) -> list[tuple[str, str, str]]:
    """The table of scores: name, pooled and per image with their intervals."""
    if not card.scores.get("pooled"):
        return []
    intervals = card.scores.get("intervals", {})

    def show(way: str, *keys: str) -> str:
        value, bounds = card.scores.get(way, {}), intervals.get(way, {})
        for key in keys:
            value, bounds = value.get(key, {}), bounds.get(key, {})
        shown = interval(bounds if isinstance(bounds, list | tuple) else None)
        return score(value) + (f" ({shown})" if shown else "")

    wanted: dict[str, tuple[str, ...]] = {"accuracy": ("accuracy",)}
    for metric in _METRICS:
        wanted[f"{metric}, mean of foreground classes"] = (metric, "mean_foreground")
    for name in card.class_names:
        wanted[f"dice, {name.replace('|', '/')}"] = ("dice", "per_class", name)
    return [
        (name, show("pooled", *keys), show("per_image", *keys)) for name, keys in wanted.items()
    ]


def _header(card: Card, about: About) -> str:
    """The YAML that the Hub indexes; values are JSON, which is YAML too."""
    tags = ["image-segmentation", "semantic-segmentation", "unet"]
    header: dict[str, Any] = {
        "library_name": "plainunet",
        "pipeline_tag": "image-segmentation",
        "tags": tags,
    }
    if about.license:
        header["license"] = about.license
    dice = card.scores.get("pooled", {}).get("dice", {}).get("mean_foreground")
    if dice is not None:
        result = {
            "task": {"type": "image-segmentation"},
            "dataset": {"type": "custom", "name": "validation split of the training data"},
            "metrics": [{"type": "dice", "name": "mean foreground Dice, pooled", "value": dice}],
        }
        header["model-index"] = [{"name": about.title, "results": [result]}]
    return "".join(f"{key}: {json.dumps(value)}\n" for key, value in header.items())


def find_model(name: str | Path, revision: str | None, token: str | None) -> Path:
    """Find the model in a folder, or in a repository of the Hub, which is downloaded once.

    Raises:
        FileNotFoundError: There is no such folder or repository, no model in the repository, or it
            is neither downloaded nor can it be.
        CheckpointError: The folder has no model, or several.
        UnusableError: The name is of a repository, and huggingface_hub is not installed.
    """
    folder = Path(name)
    if folder.is_dir():
        return find_checkpoint(folder)
    if folder.exists() or str(name).count("/") != 1 or str(name).startswith((".", "/", "~")):
        raise FileNotFoundError(
            f"{name}: neither a folder, nor the name of a repository of the Hugging Face Hub "
            "(OWNER/NAME). To load a file, use Predictor.load."
        )
    hub = need("huggingface_hub")
    for each in MODEL_FILES:
        try:
            return Path(hub.hf_hub_download(str(name), each, revision=revision, token=token))
        except hub.errors.LocalEntryNotFoundError as error:
            raise FileNotFoundError(
                f"{name}: not downloaded yet, and the Hugging Face Hub cannot be reached. Connect "
                "to the internet, or give a folder."
            ) from error
        except hub.errors.EntryNotFoundError:
            continue
        except hub.errors.GatedRepoError as error:  # it exists, and is of the next kind too
            raise _as_os_error(str(name), error) from error
        except hub.errors.RepositoryNotFoundError as error:
            raise FileNotFoundError(
                f"{name}: the Hugging Face Hub has no such repository, or it is private. Check the "
                "name, or log in with: hf auth login"
            ) from error
        except Exception as error:  # of the Hub, of HTTP, or of the connection
            raise _as_os_error(str(name), error) from error
    raise FileNotFoundError(f"{name}: has no {' or '.join(MODEL_FILES)}.")


def push_model(predictor: "Predictor", about: About, private: bool, token: str | None) -> str:
    """Upload a model and its model card to a repository of the Hub, made if missing.

    Returns:
        The URL of the commit.

    Raises:
        OSError: The Hub refuses it, or cannot be reached.
        UnusableError: huggingface_hub is not installed.
        ValueError: As by `save_model`.
    """
    hub = need("huggingface_hub")
    with tempfile.TemporaryDirectory() as folder:
        save_model(predictor, Path(folder), about)
        api = hub.HfApi(token=token)
        try:
            api.create_repo(about.repository, private=private, exist_ok=True)
            commit = api.upload_folder(
                repo_id=about.repository,
                folder_path=folder,
                commit_message=f"{about.title}, trained with plainunet",
            )
        except Exception as error:  # of the Hub, of HTTP, or of the connection
            raise _as_os_error(about.repository, error) from error
    return str(commit.commit_url)


def _as_os_error(name: str, error: Exception) -> OSError:
    """Describe an error of the Hub in one sentence."""
    lines = str(error).strip().splitlines()
    reason = shorten(lines[0] if lines else type(error).__name__, 200)
    return OSError(
        f"{name}: the Hugging Face Hub failed ({reason}). Check the name and the connection, and "
        "log in with: hf auth login"
    )
