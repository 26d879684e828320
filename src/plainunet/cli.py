"""The command line: one short function for each verb; nothing is computed here."""

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import App, Parameter

import plainunet
from plainunet.config import (
    DataConfig,
    Device,
    EvaluateOptions,
    FolderConfig,
    NetworkOptions,
    Precision,
    PredictOptions,
    TrainConfig,
)
from plainunet.reporter import Forwarding, Reporter
from plainunet.settings import make_config, read_settings

app = App(
    name="plainunet",
    help="Train, judge and use U-Net segmentation models: from a folder of images and masks "
    "to a model in production.",
    version=plainunet.__version__,
    suppress_keyboard_interrupt=False,
)

# made without validators, which are compiled when they are first needed: help comes sooner
_DEFAULTS, _KNOWN = TrainConfig.model_construct(), DataConfig.model_construct()
_NETWORK, _FOLDER = NetworkOptions.model_construct(), FolderConfig.model_construct()
_PREDICTING, _EVALUATING = PredictOptions.model_construct(), EvaluateOptions.model_construct()
Where = Annotated[Device, Parameter(help="Where the network runs.")]
Arithmetic = Annotated[Precision, Parameter(help="Arithmetic of convolutions.")]
Folder = Annotated[FolderConfig, Parameter(name="*")]
Size = Annotated[tuple[int, int] | None, Parameter(negative=())]
Flag = Annotated[bool, Parameter(negative=())]
Json = Annotated[Path | None, Parameter(name="--json")]
Settings = Annotated[TrainConfig, Parameter(name="*", consume_multiple=True, negative=())]
Known = Annotated[DataConfig, Parameter(name="*", consume_multiple=True, negative=())]
Evaluating = Annotated[EvaluateOptions, Parameter(name="*", negative=())]
Predicting = Annotated[PredictOptions, Parameter(name="*", consume_multiple=True, negative=())]


@app.command
def train(
    data: Path | None = None,
    /,
    *,
    out: Path | None = None,
    config: Path | None = None,
    resume: Path | None = None,
    settings: Settings = _DEFAULTS,
) -> int:
    """Train a U-Net on a folder of images and masks.

    The result is the run folder OUT: best.safetensors (the model), last/ (to go on from),
    config.toml, dataset.toml, split.csv, metrics.jsonl, curves.png, validation/ (pictures of the
    last epoch that was judged) and saved_images/.

    Parameters
    ----------
    data
        Folder of images and masks: train/ and train_masks/ as Kaggle's Carvana, or images/
        and masks/ with equal names, or one of the many other layouts in docs/data.md.
    out
        Run folder to make.
    config
        TOML file of settings; flags win over it.
    resume
        Run folder to go on with; nothing else is needed then.
    """
    begun = time.monotonic()  # a budget runs while PyTorch is loaded

    from plainunet.terminal.screen import Screen, speaks
    from plainunet.terminal.tables import show_scores
    from plainunet.training.train import resume as go_on
    from plainunet.training.train import train as begin

    given = {name: getattr(settings, name) for name in settings.model_fields_set}
    with Screen() as screen:
        if resume is not None:
            if data or out or config or given:
                raise ValueError("--resume RUN goes on as the run began; it takes nothing else.")
            result, folder = go_on(resume, screen), resume
        else:
            if data is None or out is None:
                raise ValueError("Say what to train on and where: plainunet train DATA --out RUN.")
            from_file = read_settings(config) if config else {}
            merged = make_config({**from_file, **given}, "settings")
            result, folder = begin(data, out, merged, screen, begun), out
    if speaks():
        show_scores(result)
        _print(f"model: {folder / 'best.safetensors'}   look at: {folder / 'report.html'}")
    return 0


@app.command
def check(
    data: Path,
    /,
    *,
    write: Flag = False,
    leave_out: str = "",
    json_file: Json = None,
    html: Path | None = None,
    seed: int = 0,
    known: Known = _KNOWN,
) -> int:
    """Look for what is wrong with a folder of images and masks, and say how to mend it.

    The result is printed; the exit code is 0 where all is well, 1 with warnings, 2 with errors.
    Pictures and masks are never changed.

    Parameters
    ----------
    data
        Folder of images and masks.
    write
        Write DATA/dataset.toml and DATA/split.csv: what was understood, and the pairs without
        an error, copies in one group. Training reads them.
    leave_out
        With --write: also leave out the pairs of findings with these codes, as in
        shifted,inverted; of findings across parts, those of the training part.
    json_file
        Also write the findings and a summary as JSON.
    html
        Also write a page with the findings and pictures with their masks' outlines.
    seed
        Seed of the sample of 64 pairs that are looked at together.
    """
    from plainunet.doctor.diagnose import check as look
    from plainunet.doctor.diagnose import write_valid
    from plainunet.doctor.page import write_page
    from plainunet.files import write_json
    from plainunet.terminal.screen import Screen
    from plainunet.terminal.tables import show_diagnosis
    from plainunet.training.plan import training_command

    _require(json_file, ".json", '"findings"')
    _require(html, ".html", "plainunet check found")
    codes = [code.strip() for code in leave_out.split(",") if code.strip()]
    if codes and not write:
        raise ValueError("--leave-out says what is left out of what --write writes; give both.")
    with Screen() as reporter:
        result = look(data, known, seed=seed, reporter=reporter)
    show_diagnosis(result, training_command(result))
    if json_file:
        write_json(json_file, result.as_json())
    if html:
        write_page(html, result)
        _print(f"look at: {html}")
    if not write:
        return result.exit_code
    files, left_out = write_valid(result, codes)
    result = look(data, seed=seed)
    _print(
        f"written: {', '.join(map(str, files))}"
        + (f"; {left_out} sound pairs left out" if left_out else "")
        + f"\nchecked again: {result.count('error')} errors, {result.count('warning')} warnings"
    )
    return result.exit_code


@app.command
def evaluate(
    checkpoint: Path,
    data: Path,
    /,
    *,
    options: Evaluating = _EVALUATING,
    folder: Folder = _FOLDER,
    json_file: Json = None,
    html: Path | None = None,
    device: Where = "auto",
    precision: Arithmetic = "auto",
) -> int:
    """Judge a model on a folder of images and masks.

    The result is a table of scores after the protocol that is printed with it, with intervals.

    Parameters
    ----------
    checkpoint
        A best.safetensors.
    data
        Folder of images and masks. Of the folder that the model was trained on, the
        validation part is taken; any other is taken whole.
    json_file
        Also write the scores, and those of each picture, as JSON.
    html
        Also write a report with pictures and charts as one HTML file.
    """
    from plainunet.evaluation.evaluate import evaluate as score
    from plainunet.evaluation.tune import tune
    from plainunet.files import write_json
    from plainunet.terminal.screen import Screen
    from plainunet.terminal.tables import show_scores, show_tuning

    _require(json_file, ".json")
    _require(html, ".html", 'id="pictures-data"')
    given = folder.folder_arguments()
    where: dict[str, Any] = {"device": device, "precision": precision}
    notes: list[str] = []
    with Screen() as screen:
        where["reporter"] = _Noting(screen, notes.append)
        if options.tune:
            tuned = tune(checkpoint, data, folder=given, **where)
            checkpoint = Path(tuned["checkpoint"])
        which: dict[str, Any] = {"split": options.split, "objects": options.objects, **given}
        result = score(checkpoint, data, html=html, **which, **where)
    _print_notes(notes)
    if json_file:
        write_json(json_file, result)
    if options.tune:
        show_tuning(tuned)
    show_scores(result)
    if html:
        _print(f"look at: {html}")
    return 0


@app.command
def compare(
    first: Path,
    second: Path,
    data: Path,
    /,
    *,
    out: Path | None = None,
    split: Literal["train", "val", "test", "all"] | None = None,
    folder: Folder = _FOLDER,
    json_file: Json = None,
    device: Annotated[Device, Parameter(help="Where the networks run.")] = "auto",
    precision: Arithmetic = "auto",
) -> int:
    """Compare two models on the same pictures: which is better, by how much, and where.

    Parameters
    ----------
    first
        A best.safetensors.
    second
        Another one, of the same classes.
    data
        Folder of images and masks; those are taken that were held out from both models.
    out
        Folder to make: a table of all pictures, and those drawn in which the two differ most.
    split
        Take this part.
    json_file
        Also write all of it as JSON.
    """
    from plainunet.evaluation.compare import compare as score
    from plainunet.files import write_json
    from plainunet.terminal.screen import Screen
    from plainunet.terminal.tables import show_comparison

    _require(json_file, ".json")
    notes: list[str] = []
    with Screen() as screen:
        result = score(
            first,
            second,
            data,
            out=out,
            split=split,
            folder=folder.folder_arguments(),
            device=device,
            precision=precision,
            reporter=_Noting(screen, notes.append),
        )
    _print_notes(notes)
    if json_file:
        write_json(json_file, result)
    show_comparison(result)
    if out:
        _print(f"look at: {out}")
    return 0


@app.command
def predict(
    checkpoint: Path,
    images: Annotated[list[Path], Parameter(negative=())],
    /,
    *,
    out: Path,
    overwrite: Flag = False,
    memory: str | None = None,
    device: Where = "auto",
    precision: Arithmetic = "auto",
    options: Predicting = _PREDICTING,
) -> int:
    """Predict masks of images.

    The result is OUT/NAME.png for each image: a palette PNG whose pixel values are the class
    ids, as large as the image; of a GeoTIFF, and of more than 100 megapixels, OUT/NAME.tif.
    Of a video it is OUT/NAME-mask.mkv and OUT/NAME-overlay.mp4.

    Parameters
    ----------
    checkpoint
        A best.safetensors.
    images
        Image and video files, folders of images, patterns as in 'scans/*.png', lists of
        paths (.txt), or - for such a list on standard input.
    out
        Folder for the masks.
    overwrite
        Make masks that are there already again; without it, they are left as they are.
    memory
        Memory that an image may take, as in 500M or 2G; larger ones are predicted in tiles.
    """
    from plainunet.prediction.predict import find_inputs, predict_inputs
    from plainunet.prediction.predictor import Predictor
    from plainunet.system import read_bytes
    from plainunet.terminal.screen import Screen

    limit = None if memory is None else read_bytes(memory)
    predictor = Predictor.load(
        [checkpoint, *options.others],
        device=device,
        precision=precision,
        memory=limit,
        **options.instead(),
    )
    found = find_inputs(images, out)
    with Screen() as screen:
        reporter = _Noting(screen, lambda text: _complain(text, "warning"))
        result = predict_inputs(predictor, found, out, options.save, overwrite, reporter)
    for failure in result.failures:
        _complain(failure)
    _print(result.summary(out))
    done = result.written or result.skipped
    return 2 if not done else 1 if result.failures else 0


@app.command(name="import")
def import_(
    file: Path,
    /,
    *,
    out: Path,
    classes: str = "",
    size: Size = None,
) -> int:
    """Turn weights of another project's U-Net into a checkpoint.

    Known are the U-Nets of milesial/Pytorch-UNet and of the tutorial in
    aladdinpersson/Machine-Learning-Collection; width and depth are read from the weights.

    Parameters
    ----------
    file
        What torch.save wrote of model.state_dict(), or the same as .safetensors.
    out
        Checkpoint to write: a new .safetensors file.
    classes
        Names of the classes, the background's first, as in background,car.
    size
        Height and width that pictures are reduced to fit in, as they were in training: of
        1280 x 1918 pixels, 640 959 by milesial's default scale 0.5, 160 240 in the tutorial.
        Left out, pictures are taken at their own size.
    """
    from plainunet.network.foreign import import_checkpoint

    names = [name.strip() for name in classes.split(",") if classes]
    network, card = import_checkpoint(file, out, names, size)
    known = network.architecture
    _print(
        f"layout of {card.training['imported']['layout']}\n"
        f"U-Net, {known['in_channels']} input channels, {known['base_channels']} base channels, "
        f"depth {known['depth']}, {known['upsampling']} upsampling, "
        f"{sum(weights.numel() for weights in network.parameters()):,} parameters\n"
        f"classes: {', '.join(card.class_names)}\ncheckpoint: {out}"
    )
    return 0


@app.command
def model(
    checkpoint: Path | None = None,
    /,
    *,
    paper: Flag = False,
    size: Size = None,
    options: Annotated[NetworkOptions, Parameter(name="*", negative=())] = _NETWORK,
) -> int:
    """Show a network: each stage's shape, parameters, multiply-adds, memory, receptive field.

    Args:
        checkpoint: A best.safetensors; left out, the network is as the flags say.
        paper: Show the network of the paper's figure 1.
        size: Height and width of a picture; left out, what fits the network.
        options: The network, where it is neither.
    """
    from plainunet.network.summary import choose_network, summarise_network
    from plainunet.terminal.tables import show_model

    given = {name: getattr(options, name) for name in options.model_fields_set}
    network, size, class_names = choose_network(checkpoint, paper, given, size)
    show_model(summarise_network(network, size), (network.in_channels, *size), class_names)
    return 0


@app.command
def demo(*, out: Path = Path("demo"), seed: int = 0) -> int:
    """Draw a data set, train on it, judge, predict: the whole road in three minutes.

    The result is OUT/data (the drawn pictures), OUT/run (as by train) and OUT/masks (as by
    predict).

    Parameters
    ----------
    out
        Folder for all of it. What an earlier demo made there is made anew; other files are
        never removed.
    seed
        Seed of the drawing and the training.
    """
    from plainunet.files import made_anew

    with made_anew(out / ".demo.json", [out / "run", out / "masks"]):
        return _run_demo(out, seed)


def _run_demo(out: Path, seed: int) -> int:
    from plainunet.demo import CLASS_NAMES, draw_dataset
    from plainunet.terminal.screen import Screen
    from plainunet.terminal.tables import show_scores
    from plainunet.training.run import RunFolder
    from plainunet.training.train import train as begin

    run, folder = out / "run", RunFolder(out / "run")
    with Screen() as screen:

        def show_drawn(done: int, total: int) -> None:
            if done == 1:
                screen.stage("drawing", total)
            screen.advance(done)

        data = draw_dataset(out / "data", seed=seed, on_progress=show_drawn)
    _print(f"drawn: {data}")
    config = TrainConfig(classes=CLASS_NAMES, seed=seed, **DEMO_SETTINGS)
    with Screen() as screen:
        result = begin(data, run, config, screen)
    show_scores(result)
    pictures = [data / "images" / "val"]
    predict(folder.best, pictures, out=out / "masks", overwrite=True)
    worst_to_best = sorted(folder.saved_images.glob("*_comparison.png"))
    score = result["pooled"]["dice"]["mean_foreground"]
    _print(
        f"\nMean foreground Dice {score:.4f} (pooled) on {len(result['images'])} pictures that "
        f"were not trained on.\nOpen {worst_to_best[len(worst_to_best) // 2]}:\n"
        "picture | true mask | predicted mask | where they differ.\n"
        f"All scores: {run / 'report.html'}"
    )
    return 0


@app.command
def cache(*, clear: Flag = False) -> int:
    """Show where decoded images and facts about files are kept, and how much room they take.

    Parameters
    ----------
    clear
        Remove them. The next run decodes its images again.
    """
    from plainunet.dataset.cache import cache_size, clear_cache
    from plainunet.formats.sources import cache_folder

    taken = clear_cache() if clear else cache_size()
    _print(f"{cache_folder()}: {taken / 2**20:.1f} MiB{' removed' if clear else ''}")
    return 0


DEMO_SETTINGS: dict[str, Any] = {
    "size": (96, 128),
    "epochs": 24,
    "learning_rate": 6e-3,
    "optimizer": "muon",
    "growth": ({"until": 0.4, "scale": 0.5},),
}


class _Noting(Forwarding):
    """Progress on a screen; notes go elsewhere."""

    def __init__(self, screen: Reporter, take_note: Callable[[str], None]) -> None:
        super().__init__(screen)
        self._take_note = take_note

    def note(self, text: str) -> None:
        self._take_note(text)


def _require(file: Path | None, suffix: str, mark: str = "") -> None:
    """Refuse a file that must not be written, or that is there without the mark of a result."""
    from plainunet.files import require_file, require_own

    if file:
        require_file(file, suffix)
        if mark:
            require_own(file, mark)


def _print_notes(notes: list[str]) -> None:
    for note in dict.fromkeys(notes):
        _print(f"note: {note}")


def _print(text: str) -> None:
    print(text)


def _complain(text: str, kind: str = "error") -> None:
    print(f"{kind}: {text}", file=sys.stderr)
