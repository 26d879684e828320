"""The command line: one short function for each verb; nothing is computed here."""

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import App, Parameter
from pydantic import BaseModel

import plainunet
from plainunet import reporter as reporting
from plainunet.config import (
    BackendName,
    BulkOptions,
    DataConfig,
    Device,
    EvaluateOptions,
    ExportOptions,
    FolderConfig,
    NetworkOptions,
    Precision,
    PredictOptions,
    ServeOptions,
    TrainConfig,
)
from plainunet.errors import Error
from plainunet.parts import is_own, own_in
from plainunet.reporter import Forwarding, Reporter
from plainunet.settings import make_config, read_given

app = App(
    name="plainunet",
    help="Train, evaluate and deploy U-Nets for semantic segmentation, from a folder of images and "
    "masks.",
    help_epilogue="With any command: --quiet (-q) prints warnings and errors only, --verbose (-v) "
    "all findings and scores.",
    version=plainunet.__version__,
    help_format="plaintext",  # Markdown, which verbs use, takes a while to load
    suppress_keyboard_interrupt=False,
)

# without validators, which are compiled when first needed: --help is faster
_DEFAULTS, _KNOWN = TrainConfig.model_construct(), DataConfig.model_construct()
_NETWORK, _FOLDER = NetworkOptions.model_construct(), FolderConfig.model_construct()
_EXPORT = ExportOptions.model_construct()
_PREDICTING, _EVALUATING = PredictOptions.model_construct(), EvaluateOptions.model_construct()
_SERVING, _BULK = ServeOptions.model_construct(), BulkOptions.model_construct()
Where = Annotated[Device, Parameter(help="Device to run on.")]
Runs = Annotated[
    BackendName,
    Parameter(
        help="What runs the network: torch for checkpoints, onnxruntime for .onnx files, openvino "
        "for all. For many images on a CPU, auto takes openvino if it is installed and faster."
    ),
]
Own = Annotated[
    tuple[str, ...],
    Parameter(
        help="Factory of your own network, package.module:factory, if the model has one.",
        consume_multiple=True,
        negative=(),
    ),
]
Scores = Annotated[
    tuple[str, ...],
    Parameter(
        help="Your own metrics, each as package.module:function.",
        consume_multiple=True,
        negative=(),
    ),
]
Arithmetic = Annotated[Precision, Parameter(help="Mixed precision: auto is bf16 if supported.")]
Folder = Annotated[FolderConfig, Parameter(name="*")]
Size = Annotated[tuple[int, int] | None, Parameter(negative=())]
Flag = Annotated[bool, Parameter(negative=())]
Json = Annotated[Path | None, Parameter(name="--json")]
Settings = Annotated[TrainConfig, Parameter(name="*", consume_multiple=True, negative=())]
Known = Annotated[DataConfig, Parameter(name="*", consume_multiple=True, negative=())]
Evaluating = Annotated[EvaluateOptions, Parameter(name="*", negative=())]
Exporting = Annotated[ExportOptions, Parameter(name="*", consume_multiple=True, negative=())]
Predicting = Annotated[PredictOptions, Parameter(name="*", consume_multiple=True, negative=())]
Many = Annotated[BulkOptions, Parameter(name="*", negative=())]
Serving = Annotated[ServeOptions, Parameter(name="*", negative=())]


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

    The result is the run folder OUT: best.safetensors (the model), last/ (state to resume from),
    config.toml, dataset.toml, split.csv, metrics.jsonl, curves.png, validation/ (predictions of
    the last validated epoch), saved_images/ and report.html.

    Parameters
    ----------
    data
        Folder of images and masks: images/ and masks/ with equal names, train/ and
        train_masks/ as in Kaggle's Carvana, or one of the other layouts in docs/data.md.
    out
        Run folder to create.
    config
        TOML file of settings. Flags take precedence.
    resume
        Resume training from this run folder. Takes no other arguments, except your own parts,
        such as --loss, again.
    """
    begun = time.monotonic()  # loading PyTorch counts towards a time budget

    from plainunet.terminal.screen import Screen, speaks
    from plainunet.terminal.tables import show_scores
    from plainunet.training.train import resume as go_on
    from plainunet.training.train import train as begin

    given = _given(settings)
    parts = own_in(given)
    with Screen() as screen:
        if resume is not None:
            if data or out or config or given.keys() - parts.keys():
                raise Error(
                    "--resume RUN keeps the run's own settings; it takes no other arguments but "
                    "the names of your own parts."
                )
            result, folder = go_on(resume, screen, **parts), resume
        else:
            if data is None or out is None:
                raise Error("Missing arguments. Usage: plainunet train DATA --out RUN.")
            merged = _merged(given, config)
            result, folder = begin(data, out, merged, screen, begun, **parts), out
    if speaks():
        show_scores(result)
        _print(f"model: {folder / 'best.safetensors'}   report: {folder / 'report.html'}")
    return 0


@app.command
def augment(
    data: Path,
    /,
    *,
    out: Path,
    config: Path | None = None,
    settings: Settings = _DEFAULTS,
) -> int:
    """Show data augmentation: a contact sheet of what training sees, images and masks.

    Each image has two rows, the image and its mask: first as read, then in five epochs.

    Parameters
    ----------
    data
        Folder of images and masks.
    out
        PNG file to write.
    config
        TOML file of settings. Flags take precedence.
    """
    from plainunet.terminal.screen import Screen
    from plainunet.training.training_data import draw_sheet

    _require(out, ".png")
    given = _given(settings)
    merged = _merged(given, config)
    own = given.get("augment") if is_own(given.get("augment")) else None
    with Screen() as screen:
        draw_sheet(data, out, merged, screen, augment=own)
    _print(f"contact sheet: {out}")
    return 0


@app.command
def crossval(
    data: Path,
    /,
    *,
    out: Path,
    seeds: int = 1,
    config: Path | None = None,
    json_file: Json = None,
    settings: Settings = _DEFAULTS,
) -> int:
    """Cross-validate: train a model per fold, and score each image by the one that held it out.

    The result is the folder OUT: the runs fold-0, fold-1 and so on, report.html and scores.json. As
    a model, OUT is the ensemble of its folds. If it is interrupted, the same command continues it.
    --budget is for all runs together.

    Parameters
    ----------
    data
        Folder of images and masks. A test split is kept out of all folds.
    out
        Folder to create.
    seeds
        Trainings of each fold, with different seeds: their spread tells chance from progress.
    config
        TOML file of settings. Flags take precedence.
    json_file
        Also write the scores as JSON.
    """
    from plainunet.files import write_json
    from plainunet.terminal.screen import Screen, speaks
    from plainunet.terminal.tables import show_cross_validation
    from plainunet.training.crossval import cross_validate

    _require(json_file, ".json", '"protocol"')
    given = _given(settings)
    merged = _merged(given, config)
    with Screen() as screen:
        result = cross_validate(data, out, merged, seeds=seeds, reporter=screen, **own_in(given))
    if speaks():
        if json_file:
            write_json(json_file, result.as_dict())
        show_cross_validation(result)
        _print(f"ensemble: {out}   report: {out / 'report.html'}")
    return 0


@app.command
def shard(
    data: Path,
    out: Path,
    /,
    *,
    shard_size: int = 128,
    validation: float = _DEFAULTS.validation,
    held_out: Annotated[tuple[str, ...], Parameter(consume_multiple=True, negative=())] = (),
    stratify: Flag = False,
    seed: int = 0,
    known: Known = _KNOWN,
) -> int:
    """Write a dataset as tar shards, to train on more images than a file system likes.

    The result is the folder OUT: train-00000.tar and so on, in the layout of WebDataset, and
    index.json. plainunet train OUT streams them. If it is interrupted, the same command continues
    it.

    Parameters
    ----------
    data
        Folder of images and masks.
    out
        Folder to create.
    shard_size
        Size of a shard [MiB]. Each worker process of a training holds one in memory.
    validation
        Fraction of the images in the validation split, unless the folder defines its own.
    held_out
        Names of the groups of images in the validation split, instead of a random fraction.
    stratify
        Stratify the split by foreground fraction.
    seed
        Random seed of the split and of the order of the images.
    """
    from plainunet.dataset.shards import write_shards
    from plainunet.terminal.screen import Screen

    split = {"validation": validation, "stratify": stratify, "seed": seed, "held_out": held_out}
    with Screen() as screen:
        config = make_config({**_given(known), **split})
        index = write_shards(data, out, config, screen, shard_size=shard_size)
    _print(
        f"{len(index.shards)} shards of {sum(each.count for each in index.shards)} images: {out}"
    )
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
    """Validate a dataset: find errors in a folder of images and masks, and print how to fix them.

    The exit code is 0 without findings, 1 with warnings and 2 with errors. Images and masks are
    never changed; plainunet fix does that.

    Parameters
    ----------
    data
        Folder of images and masks.
    write
        Write DATA/dataset.toml (the label encoding) and DATA/split.csv (all pairs without
        errors, duplicates in one group). Training reads them.
    leave_out
        With --write: also leave out the pairs that have findings with these codes, such as
        shifted,inverted. For findings across splits, the training images are left out.
    json_file
        Also write the findings and a summary as JSON.
    html
        Also write a page that shows the findings and images with their mask contours.
    seed
        Random seed of the sample of 64 pairs that are compared with each other.
    """
    from plainunet.doctor.diagnose import check as look
    from plainunet.doctor.diagnose import write_valid
    from plainunet.doctor.page import write_page
    from plainunet.files import write_json
    from plainunet.terminal.screen import Screen
    from plainunet.terminal.tables import show_diagnosis
    from plainunet.training.plan import recommend, training_command

    _require(json_file, ".json", '"findings"')
    _require(html, ".html", "plainunet check found")
    codes = [code.strip() for code in leave_out.split(",") if code.strip()]
    if codes and not write:
        raise Error("--leave-out requires --write.")
    with Screen() as reporter:
        result = look(data, known, seed=seed, reporter=reporter)
    # `recommend` reads images, which --quiet would waste
    recommended = recommend(result) if reporting.verbosity >= 0 else {}
    show_diagnosis(result, training_command(result), recommended)
    if json_file:
        write_json(json_file, result.as_dict())
    if html:
        write_page(html, result)
        _print(f"report: {html}")
    if not write:
        return result.exit_code
    files, left_out = write_valid(result, codes)
    result = look(data, seed=seed)
    _print(
        f"written: {', '.join(map(str, files))}"
        + (f"; {left_out} valid pairs left out" if left_out else "")
        + f"\nchecked again: {result.count('error')} errors, {result.count('warning')} warnings"
    )
    return result.exit_code


@app.command
def fix(
    data: Path,
    finding: str = "",
    /,
    *files: Path,
    dry_run: Flag = False,
    undo: Flag = False,
    seed: int = 0,
    known: Known = _KNOWN,
) -> int:
    """Fix files of a dataset, as printed by plainunet check, and check again.

    Originals are kept in DATA/.plainunet-backup. The exit code is 0 if the finding is gone, 1 if
    some of it remains, 2 if nothing could be fixed.

    Parameters
    ----------
    data
        Folder of images and masks.
    finding
        Code of the findings to fix, such as flipped. Default: list the fixable ones.
    files
        Fix the findings of these files only. Files go before the flags.
    dry_run
        List the changes without making them; with --undo, the files to restore.
    undo
        Undo the last fix, or the last one of FINDING, byte for byte.
    seed
        Random seed of check.
    """
    from plainunet.doctor.diagnose import check as look
    from plainunet.doctor.diagnose import fix as carry_out
    from plainunet.doctor.findings import CODES
    from plainunet.doctor.fix import undo as put_back
    from plainunet.formats.problems import command
    from plainunet.terminal.screen import Screen
    from plainunet.terminal.tables import printable, show_fixable, show_fixed

    if undo:
        if files:
            raise Error("--undo restores all files of a fix: give no files.")
        for path in put_back(data, finding, dry_run=dry_run):
            _print(printable(f"{'would restore' if dry_run else 'restored'}: {path}"))
        return 0
    if not data.is_dir():
        order = " The folder comes first: plainunet fix DATA CODE." if str(data) in CODES else ""
        raise FileNotFoundError(f"{data}: no such folder.{order}")
    how: dict[str, Any] = {"config": known, "seed": seed, "dry_run": dry_run}
    with Screen() as reporter:
        if not finding:
            result = look(data, known, seed=seed, reporter=reporter)
        else:
            fixed = carry_out(data, finding, files, reporter=reporter, **how)
    if not finding:
        return 0 if show_fixable(result) else result.exit_code
    show_fixed(finding, fixed, command("plainunet", "fix", data, "--undo"))
    return 1 if fixed.left and not dry_run else 0


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
    backend: Runs = "auto",
    device: Where = "auto",
    precision: Arithmetic = "auto",
    metrics: Scores = (),
    network: Own = (),
) -> int:
    """Evaluate a model on a folder of images and masks.

    Prints accuracy, Dice, IoU, precision and recall with 95% confidence intervals. Calibration,
    the confusion matrix and the worst images are in the report (--html) and the JSON.

    Parameters
    ----------
    checkpoint
        A best.safetensors, a run folder, or an exported .onnx or .xml.
    data
        Folder of images and masks. Default: the validation split of the folder that the model
        was trained on, all images of any other folder.
    json_file
        Also write the scores, per image too, as JSON.
    html
        Also write a report with images and charts as one HTML file.
    """
    from plainunet.evaluation.evaluate import evaluate as score
    from plainunet.evaluation.tune import tune
    from plainunet.files import write_json
    from plainunet.terminal.screen import Screen
    from plainunet.terminal.tables import show_scores, show_tuning

    _require(json_file, ".json", '"protocol"')
    _require(html, ".html", 'id="pictures-data"')
    given = folder.folder_arguments()
    where: dict[str, Any] = {"device": device, "precision": precision, "network": network}
    notes: list[str] = []
    with Screen() as screen:
        where["reporter"] = _Noting(screen, notes.append)
        if options.tune:
            tuned = tune(checkpoint, data, objects=options.objects, folder=given, **where)
            checkpoint = Path(tuned["checkpoint"])
        which: dict[str, Any] = {"split": options.split, "objects": options.objects, **given}
        which["metrics"] = metrics
        result = score(checkpoint, data, html=html, backend=backend, **which, **where)
    _print_notes(notes)
    if json_file:
        write_json(json_file, result.as_dict())
    if options.tune:
        show_tuning(tuned)
    show_scores(result)
    if html:
        _print(f"report: {html}")
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
    device: Where = "auto",
    precision: Arithmetic = "auto",
    metrics: Scores = (),
    network: Own = (),
) -> int:
    """Compare two models on the same images: which is better, by how much, and where.

    Parameters
    ----------
    first
        A best.safetensors, a run folder, or an exported .onnx or .xml.
    second
        Another one with the same classes.
    data
        Folder of images and masks. Default: images that neither model was trained on.
    out
        Folder to create: a table of all images, and figures of those that differ most.
    split
        Split to compare on.
    json_file
        Also write the results as JSON.
    """
    from plainunet.evaluation.compare import compare as score
    from plainunet.files import write_json
    from plainunet.terminal.screen import Screen
    from plainunet.terminal.tables import show_comparison

    _require(json_file, ".json", '"protocol"')
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
            network=network,
            metrics=metrics,
            reporter=_Noting(screen, notes.append),
        )
    _print_notes(notes)
    if json_file:
        write_json(json_file, result.as_dict())
    show_comparison(result)
    if out:
        _print(f"figures: {out}")
    return 0


@app.command
def predict(
    checkpoint: Path,
    images: Annotated[list[str] | None, Parameter(negative=())] = None,
    /,
    *,
    out: Path,
    overwrite: Flag = False,
    memory: str | None = None,
    backend: Runs = "auto",
    device: Where = "auto",
    precision: Arithmetic = "auto",
    network: Own = (),
    options: Predicting = _PREDICTING,
    many: Many = _BULK,
) -> int:
    """Predict masks: inference on images, folders and videos.

    Writes OUT/NAME.png for each image: a palette PNG of the image's size whose pixel values are
    class ids. For GeoTIFF and for images above 100 megapixels it is OUT/NAME.tif, for videos
    OUT/NAME-mask.mkv and OUT/NAME-overlay.mp4.

    Parameters
    ----------
    checkpoint
        A best.safetensors, a run folder, or an exported .onnx or .xml.
    images
        Image and video files, folders of images, patterns such as 'scans/*.png', lists of
        paths (.txt), or - for a list on standard input; tar files of images (WebDataset);
        URLs of these, such as s3://bucket/images.
    out
        Folder for the masks.
    overwrite
        Overwrite existing masks. Default: they are skipped.
    memory
        Memory limit per image, such as 500M or 2G. Larger images are predicted in tiles.
    """
    from plainunet.deployment.bulk import BulkJob, is_bulk, predict_bulk
    from plainunet.prediction.predict import predict as run
    from plainunet.prediction.predictor import Predictor
    from plainunet.system import read_bytes
    from plainunet.terminal.screen import Screen

    inputs, save = images or [], [each for each in options.save if each != "parquet"]
    models = [checkpoint, *options.ensemble]
    loading: dict[str, Any] = {"backend": backend, "device": device, "precision": precision}
    loading |= {"network": network, "memory": memory and read_bytes(memory), **options.instead()}
    if is_bulk(inputs, options.save, many):
        as_rows = "parquet" in options.save
        job = BulkJob(models, loading, out, save, as_rows, overwrite, options.min_area)
        with Screen() as screen:
            reporter = _Noting(screen, lambda text: _complain(text, "warning"))
            bulk = predict_bulk(job, inputs, many, reporter)
        for failure in bulk.first:
            _complain(failure)
        _print(bulk.summary(job))
        return bulk.exit_code
    predictor = Predictor.load(models, **loading)
    how: dict[str, Any] = {"save": save, "overwrite": overwrite, "min_area": options.min_area}
    with Screen() as screen:
        reporter = _Noting(screen, lambda text: _complain(text, "warning"))
        result = run(predictor, [Path(each) for each in inputs], out, **how, reporter=reporter)
    for failure in result.failures:
        _complain(failure)
    _print(str(result))
    done = result.written or result.skipped
    return 2 if not done else 1 if result.failures else 0


@app.command
def export(
    checkpoint: Path, /, *, out: Path, options: Exporting = _EXPORT, network: Own = ()
) -> int:
    """Export a model as one file for other programs: ONNX, OpenVINO, torch.export or bioimage.io.

    The file takes images as stored and gives probabilities and masks of the images' own size:
    scaling, normalisation, padding, resizing and softmax are inside. Then checkpoint and file are
    compared on images; if they differ by more than the tolerance, the file is not kept.

    Parameters
    ----------
    checkpoint
        A best.safetensors.
    out
        File to write: .onnx, .xml (OpenVINO), .pt2 (torch) or .zip (bioimageio).
    """
    from plainunet.deployment.export import export as write
    from plainunet.terminal.screen import Screen
    from plainunet.terminal.tables import show_export

    notes: list[str] = []
    with Screen() as screen:
        noting = _Noting(screen, notes.append)
        result = write(checkpoint, out, options, noting, network=network)
    _print_notes(notes)
    show_export(result)
    return 0


@app.command
def serve(
    checkpoint: Path,
    /,
    *,
    options: Serving = _SERVING,
    memory: str | None = None,
    backend: Runs = "auto",
    device: Where = "auto",
    precision: Arithmetic = "auto",
    network: Own = (),
) -> int:
    """Serve a model over HTTP: images in, masks out.

    POST an image to /v1/predict; the answer is the PNG that plainunet predict writes, or an
    overlay, run lengths, COCO JSON, GeoJSON, GeoTIFF or probabilities. Ctrl-C or SIGTERM finishes
    the requests that have begun.

    Parameters
    ----------
    checkpoint
        A best.safetensors, or an exported .onnx or .xml.
    memory
        Memory limit per image, such as 500M or 2G. Larger images are predicted in tiles.
    """
    from plainunet.system import read_bytes

    limit = None if memory is None else read_bytes(memory)
    _serve(checkpoint, options, backend, device, precision, limit, network)
    return 0


def _serve(checkpoint: Path, options: ServeOptions, *loading: Any) -> None:
    """Serve a model; `loading` are the arguments of `load_with`."""
    _require_server(options)
    from plainunet.deployment.server import load_with, serve

    def show(url: str) -> None:
        page = f"\nto try it in a browser: {url}/ui" if options.ui else ""
        _print(
            f"serving {checkpoint} at {url}\ncurl -F file=@IMAGE {url}/v1/predict -o mask.png{page}"
        )

    serve(checkpoint, options, load_with(*loading), show)


def _require_server(options: ServeOptions) -> None:
    """Refuse to serve without the libraries that it needs."""
    from importlib.util import find_spec

    try:
        import plainunet.deployment.server  # noqa: F401

        if options.ui and find_spec("gradio") is None:
            raise ModuleNotFoundError(name="gradio")
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("plainunet"):
            raise
        page = " 'gradio>=6.31,<7'" if options.ui else ""
        raise Error(
            f"{error.name} is not installed. Run: pip install fastapi uvicorn prometheus-client "
            f"python-multipart{page}"
        ) from None


@app.command(name="import")
def import_(
    file: Path,
    /,
    *,
    out: Path,
    classes: str = "",
    size: Size = None,
) -> int:
    """Convert the U-Net weights of another project into a checkpoint.

    Supported: milesial/Pytorch-UNet and the tutorial in
    aladdinpersson/Machine-Learning-Collection. Width and depth are read from the weights.

    Parameters
    ----------
    file
        A state_dict saved by torch.save, or as .safetensors.
    out
        Checkpoint to write: a new .safetensors file.
    classes
        Class names, background first, such as background,car.
    size
        Input size in training, height and width: for images of 1280 x 1918 pixels, 640 959
        with milesial's default scale 0.5, 160 240 in the tutorial. Default: images are
        predicted at their own size.
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
    """Summarise a network: shape, parameters, MACs, memory and receptive field of each stage.

    Args:
        checkpoint: A best.safetensors. Default: the network that the flags describe. Of an exported
            .onnx or .xml, its inputs, outputs, versions and metadata are shown.
        paper: Show the network of the paper's figure 1.
        size: Height and width of an image. Default: a size that fits the network.
        options: The network, without a checkpoint.
    """
    from plainunet.prediction.exported import SUFFIXES
    from plainunet.terminal.tables import show_exported, show_model

    if checkpoint and checkpoint.suffix.lower() in SUFFIXES:
        from plainunet.prediction.exported import read_contents

        show_exported(read_contents(checkpoint))
        return 0
    from plainunet.network.summary import choose_network, summarise_network

    given = _given(options)
    network, size, class_names = choose_network(checkpoint, paper, given, size)
    show_model(summarise_network(network, size), (network.in_channels, *size), class_names)
    return 0


@app.command
def demo(*, out: Path = Path("demo"), seed: int = 0, serve: Flag = False) -> int:
    """Generate a synthetic dataset, train, evaluate and predict, in about three minutes.

    Writes OUT/data (the synthetic images), OUT/run (see train) and OUT/masks (see predict).

    Parameters
    ----------
    out
        Output folder. Results of an earlier demo there are replaced; other files are never
        removed.
    seed
        Random seed of the dataset and the training.
    serve
        Then serve the model, with a page to try it in a browser.
    """
    from plainunet.files import made_anew
    from plainunet.formats.problems import command

    options = ServeOptions(port=0, ui=True)
    if serve:
        _require_server(options)
    try:
        with made_anew(out / ".demo.json", [out / "run", out / "masks"]):
            model = _run_demo(out, seed)
    except KeyboardInterrupt as error:
        given = [
            *(("--out", out) if out != Path("demo") else ()),
            *(("--seed", seed) if seed else ()),
        ]
        again = command("plainunet", "demo", *given)
        error.args = (f"the demo was stopped. To run it from the start: {again}",)
        raise
    if serve:
        _serve(model, options, "auto", "auto", "auto", None)
    else:
        _print(f"Try it in a browser: {command('plainunet', 'serve', model, '--ui')}")
    return 0


def _run_demo(out: Path, seed: int) -> Path:
    from plainunet.demo import CLASS_NAMES, draw_dataset
    from plainunet.terminal.screen import Screen
    from plainunet.terminal.tables import show_scores
    from plainunet.training.run import RunFolder
    from plainunet.training.train import train as begin

    run, folder = out / "run", RunFolder(out / "run")
    with Screen() as screen:

        def show_drawn(done: int, total: int) -> None:
            if done == 1:
                screen.stage("generating images", total)
            screen.advance(done)

        data = draw_dataset(out / "data", seed=seed, on_progress=show_drawn)
    _print(f"dataset: {data}")
    config = TrainConfig(classes=CLASS_NAMES, seed=seed, **DEMO_SETTINGS)
    with Screen() as screen:
        result = begin(data, run, config, screen)
    show_scores(result)
    images = [str(data / "images" / "val")]
    predict(folder.best, images, out=out / "masks", overwrite=True)
    worst_to_best = sorted(folder.saved_images.glob("*_comparison.png"))
    _print(
        f"\nMean foreground Dice {result.score('dice', 'pooled'):.4f} (pooled) on "
        f"{len(result.content['images'])} held-out "
        f"images.\nOpen {worst_to_best[len(worst_to_best) // 2]}:\n"
        "image | ground truth | prediction | differences.\n"
        f"Report: {run / 'report.html'}"
    )
    return folder.best


@app.command
def cache(*, clear: Flag = False) -> int:
    """Show the folder and size of the cache of decoded images.

    Parameters
    ----------
    clear
        Clear it. The next run decodes its images again.
    """
    from plainunet.dataset.cache import cache_size, clear_cache
    from plainunet.formats.sources import cache_folder

    taken = clear_cache() if clear else cache_size()
    _print(f"{cache_folder()}: {taken / 2**20:.1f} MiB{' removed' if clear else ''}")
    return 0


@app.command(name="--install-completion")
def install_completion(*, shell: Literal["bash", "zsh", "fish", "powershell"] | None = None) -> int:
    """Install completion of commands and flags in your shell.

    Writes the completions into your home folder, and for bash, zsh and PowerShell a line into the
    shell's start-up file.

    Parameters
    ----------
    shell
        The shell. Default: the one that is running.
    """
    from cyclopts.completion.detect import ShellDetectionError, detect_shell

    try:
        shell = shell or detect_shell()
    except ShellDetectionError:
        raise Error(
            "the shell is not known. Run: plainunet --install-completion --shell bash (or zsh, "
            "fish, powershell)."
        ) from None
    _print(f"written: {app.install_completion(shell=shell)}\nOpen a new {shell} to use it.")
    return 0


DEMO_SETTINGS: dict[str, Any] = {
    "size": (96, 128),
    "epochs": 24,
    "learning_rate": 6e-3,
    "optimizer": "muon",
    "growth": ({"until": 0.4, "scale": 0.5},),
}


class _Noting(Forwarding):
    """Shows progress on a screen and collects notes."""

    def __init__(self, screen: Reporter, take_note: Callable[[str], None]) -> None:
        super().__init__(screen)
        self._take_note = take_note

    def note(self, text: str) -> None:
        self._take_note(text)


def _require(file: Path | None, suffix: str, mark: str = "") -> None:
    """Reject an output file of another suffix, or an existing one that we did not write."""
    from plainunet.files import require_file, require_own

    if file:
        require_file(file, suffix)
        if mark:
            require_own(file, mark)


def _given(options: BaseModel) -> dict[str, Any]:
    """The options that were given on the command line."""
    return {name: getattr(options, name) for name in options.model_fields_set}


def _merged(given: dict[str, Any], config: Path | None) -> TrainConfig:
    """Settings of a file, if any, and those given, which take precedence."""
    known = read_given(config) if config else {}
    if "epochs" in given:  # a budget would decide their number
        known.pop("budget", None)
    if given.get("held_out") == ():
        raise Error("--held-out needs at least one name of a group of images.", "argument")
    return make_config({**known, **given}, "settings")


def _print_notes(notes: list[str]) -> None:
    for note in dict.fromkeys(notes):
        _print(f"note: {note}")


def _print(text: str) -> None:
    if reporting.verbosity >= 0:
        print(text)


def _complain(text: str, kind: str = "error") -> None:
    print(f"{kind}: {text}", file=sys.stderr)


for _verb in app:
    if not _verb.startswith("-"):
        app[_verb].help_format = "markdown"
