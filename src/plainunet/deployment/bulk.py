"""Bulk prediction: many inputs, in parts, by this process or by the actors of a Ray cluster.

Results are mask files, or rows of Parquet files: class areas, run-length codes and a score.

Ray moves the parts to actors, each of which holds a `Predictor`, starts actors that have died
again, and repeats their parts. Whether a result exists already is seen in the output folder alone,
which all machines share.
"""

import csv
import json
import logging
import os
import re
import tarfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from importlib import import_module
from itertools import chain
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask  # type: ignore[import-untyped]

from plainunet.config import BulkOptions, Output
from plainunet.deployment.listing import (
    Listing,
    Part,
    fetch,
    is_tar,
    is_url,
    list_inputs,
    parse_shard,
    require_id,
)
from plainunet.errors import Error
from plainunet.files import (
    remove_abandoned,
    require_writable,
    write_json,
    write_whole,
)
from plainunet.formats.colors import IGNORED
from plainunet.formats.images import IMAGE_SUFFIXES
from plainunet.formats.problems import first_five
from plainunet.formats.sources import ImageSource, parse_image
from plainunet.network.card import Card
from plainunet.prediction.exported import need
from plainunet.prediction.geo import Georeference
from plainunet.prediction.outputs import Entries, Outputs, require_apart
from plainunet.prediction.predict import (
    Batch,
    EachOnce,
    Predictions,
    Task,
    accelerate,
    count_results,
    existing_mask,
)
from plainunet.prediction.predictor import Predictor
from plainunet.prediction.record import (
    foreign,
    mask_key,
    require_made,
    require_own,
    require_same,
    write_record,
)
from plainunet.reporter import Collected, Reporter, silent
from plainunet.system import first_line, keep_freed_memory
from plainunet.text import plural

_ROWS = "rows"
"""Folder of the Parquet files in the output folder."""
_ROW = "row"
_PLAN = "rows.json"
_ERRORS = ("id", "path", "error")
"""Columns of the list of inputs that failed."""
_ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    # Ray warns on the terminal that its own actors have arguments
    "RAY_BACKEND_LOG_LEVEL": "fatal",
    # workers without a GPU see none
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "1",
}
"""Settings of Ray, unless the user has others."""
_MOST_NOTES = 100
"""Warnings that are shown; those of a million images would fill the memory."""


@dataclass(frozen=True)
class BulkJob:
    """What each process needs to know."""

    models: Sequence[str | Path]
    loading: dict[str, Any]
    """Further arguments of `Predictor.load`."""
    out: Path
    save: Sequence[Output] = ()
    """Outputs in addition to the masks."""
    as_rows: bool = False
    """Whether to write Parquet files instead of masks."""
    overwrite: bool = False
    min_area: int = 0
    """Of regions in GeoPackages [pixels]."""


class Done(NamedTuple):
    """The result of a part."""

    listed: int
    """Number of inputs in the listing; a tar file is one."""
    written: int = 0
    skipped: int = 0
    """Number of results that already existed."""
    errors: Sequence[tuple[str, str, str]] = ()
    """Id, path and message of each input that failed."""
    notes: Sequence[str] = ()


class _Item(NamedTuple):
    """An input, and the file that it is read from."""

    id: str
    path: str
    """As listed, for messages."""
    image: ImageSource
    is_remote: bool = False
    """Whether `image` is the copy of a URL, made when it is read."""


@dataclass
class _Opened:
    """The inputs of a part as files of this machine; remote ones are copied when read."""

    items: list[_Item] = field(default_factory=list)
    errors: dict[str, tuple[str, str]] = field(default_factory=dict)
    """Path and message by id."""
    notes: list[str] = field(default_factory=list)

    def take(self, part: Part, folder: Path) -> None:
        """Open a part; copies go into the folder."""
        for number, (name, path) in enumerate(zip(part.ids, part.paths, strict=True)):
            if is_tar(path):
                try:
                    self._unpack(name, path, folder)
                except (tarfile.TarError, zlib.error, EOFError, OSError) as error:
                    message = f"{path}: cannot be read as a tar file ({first_line(error)})."
                    self.errors[name] = path, message
            elif is_url(path):
                suffix = PurePosixPath(path).suffix
                self.items.append(_Item(name, path, folder / f"{number}{suffix}", True))
            else:
                self.items.append(_Item(name, path, parse_image(path)))

    def _unpack(self, name: str, path: str, folder: Path) -> None:
        """Copy the images out of a tar file in WebDataset's layout: `KEY.jpg`, one per key."""
        file = Path(path)
        if is_url(path):
            file = folder / PurePosixPath(path).name
            fetch(path, file)
        seen: set[str] = set()
        others: list[str] = []
        with tarfile.open(file) as tar:
            for member in tar:
                inside = PurePosixPath(member.name)
                stem, _, suffix = inside.name.partition(".")
                if not member.isfile() or not stem:
                    continue
                if f".{suffix}".lower() not in IMAGE_SUFFIXES:
                    if inside.suffix.lower() in IMAGE_SUFFIXES and ".mask" not in inside.suffixes:
                        others.append(str(inside))
                    continue
                key, shown = str(PurePosixPath(name) / inside.parent / stem), f"{path}/{inside}"
                try:
                    require_id(key, path)
                except ValueError as error:
                    self.errors[key] = shown, str(error)
                    continue
                if key in seen:
                    message = f"{shown}: is the second image of its key. Keep one per key."
                    self.errors[f"{key}.{suffix}"] = shown, message
                    continue
                seen.add(key)
                copy = folder / f"{len(seen)}.{suffix}"
                content = tar.extractfile(member)
                assert content is not None  # it is a file
                copy.write_bytes(content.read())
                self.items.append(_Item(key, shown, copy))
            if others:  # of the key before the first dot, as an image's depth or its labels
                self.notes.append(
                    f"{path}: left out {plural(len(others), 'image')} with more than one dot in "
                    f"the name: {first_five(others)}. To predict them, rename them to KEY.SUFFIX."
                )
            # a header that is cut off looks like the end to tarfile
            assert tar.fileobj is not None  # it is open
            tar.fileobj.seek(tar.offset)
            if tar.fileobj.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
                raise tarfile.ReadError("its end is missing")


class Worker:
    """Predicts parts, with one `Predictor`."""

    def __init__(self, job: BulkJob) -> None:
        """Load the model."""
        self._job = job
        self.predictor = Predictor.load(job.models, **job.loading)
        if self.predictor.memory is None:
            keep_freed_memory()
        card = self.predictor.card
        self._outputs = (
            _RowOutputs(job.out, card)
            if job.as_rows
            else Outputs(job.out, job.save, card, job.min_area)
        )
        self._digest = self.predictor.digest()
        self._known: set[Path] = set()

    def begin(self, listing: Listing, reporter: Reporter = silent) -> None:
        """Check the output folder, choose what runs the network, and write the record."""
        job = self._job
        if lists := self._outputs.lists:
            raise Error(
                f"--save: {', '.join(lists)} would list all images in one file. Use --save parquet."
            )
        require_writable(job.out)
        if not job.overwrite:
            require_same(job.out, self._digest, self._outputs.min_area)
        (name,), (path,) = (head := listing.head()).ids, head.paths
        if not is_url(path) and not is_tar(path):
            image = parse_image(path)
            if not job.as_rows:
                require_apart([image], self._outputs.known_files([job.out / f"{name}.png"]))
            accelerate(self.predictor, image, listing.total, reporter)
        for folder in (job.out, job.out / _ROWS):
            remove_abandoned(folder)
        if job.as_rows:
            _plan_rows(job, listing)
        made = {} if job.as_rows else self._outputs.places()
        require_made(job.out, (), made)
        write_record(job.out, self.predictor, self._outputs.min_area, made)

    def predict(self, part: Part) -> Done:
        """Predict a part: what exists already is kept, unless the job overwrites.

        Raises:
            ValueError: Masks would lie among the images.
        """
        file = self._job.out / _ROWS / f"{part.name}.parquet"
        keeps = self._job.as_rows and not self._job.overwrite
        if keeps and (count := _count_rows(file, self._digest)) is not None:
            return Done(len(part.ids), skipped=count)
        with TemporaryDirectory(prefix="plainunet-") as name:
            opened, collected = _Opened(), Collected()
            opened.take(part, Path(name))
            batch, kept = self._predict(opened, collected)
            shown = {str(each.image): each.path for each in opened.items}
            for number, message in batch.failures.items():
                item = kept[number]
                text = message.replace(str(item.image), item.path)
                opened.errors[item.id] = item.path, text
            if self._job.as_rows:
                entries = {kept[number].id: each for number, each in batch.entries.items()}
                messages = {name: message for name, (_, message) in opened.errors.items()}
                inputs = {name: path for name, (path, _) in opened.errors.items()}
                inputs |= {each.id: each.path for each in opened.items}
                _write_rows(file, inputs, entries, messages, self.predictor.card, self._digest)
            errors = [(name, *rest) for name, rest in opened.errors.items()]
            notes = opened.notes + [_with_paths(text, shown) for text in collected.notes]
        written, skipped = len(batch.result.written), len(batch.result.skipped)
        return Done(len(part.ids), written, skipped, errors, notes)

    def _predict(self, opened: _Opened, reporter: Reporter) -> tuple[Batch, list[_Item]]:
        """Predict the inputs of a part; also returns the item of each task."""
        job, kept, tasks = self._job, [], []
        overwrite = job.overwrite or job.as_rows
        urls = {each.image: each.path for each in opened.items if each.is_remote}
        for item in opened.items:
            mask = job.out / f"{item.id}.png"
            # what lies elsewhere is not read to find that its mask exists
            is_known = item.is_remote or job.as_rows
            key = self._digest if is_known else mask_key(self._digest, item.image)
            try:
                if not job.as_rows and (earlier := existing_mask(mask)):
                    require_own(earlier, key, overwrite)
            except ValueError as error:
                opened.errors[item.id] = item.path, str(error)
                continue
            kept.append(item)
            tasks.append(Task(item.image, item.id, mask, key))
        if not job.as_rows:
            masks = [task.mask for task in tasks]
            require_apart([each.image for each in kept], self._outputs.known_files(masks))
        folders = {path.parent for task in tasks for path in self._outputs.files(task.mask)}
        for folder in folders - self._known:
            remove_abandoned(folder)
        self._known |= folders

        def copy(image: ImageSource) -> None:
            if image in urls and isinstance(image, Path):
                fetch(urls[image], image)

        found = Predictions(job.out)
        batch = Batch(self.predictor, self._outputs, tasks, overwrite, reporter, found)
        batch.fetch, batch.has_record = copy, True
        batch.predict()
        return batch, kept


def _with_paths(text: str, shown: dict[str, str]) -> str:
    """A message with the path of an input instead of that of its copy."""
    file, colon, rest = text.partition(": ")
    return f"{shown.get(file, file)}{colon}{rest}"


def _plan_rows(job: BulkJob, listing: Listing) -> None:
    """Record which inputs the Parquet files are of: with others, their names would be the same."""
    folder = job.out / _ROWS
    plan = {"inputs": listing.stamp, "batch_size": listing.size, "shards": listing.shard[1]}
    known = {}
    with suppress(OSError, ValueError):
        known = json.loads((job.out / _PLAN).read_text(encoding="utf-8"))
    if known and known != plan:
        if not job.overwrite:
            raise Error(
                f"{folder}: holds rows of other inputs, or of another --batch-size or number of "
                "shards. Choose another output folder, or pass --overwrite."
            )
        for file in folder.glob("*-of-*-*.parquet"):
            if re.fullmatch(r"\d{4,}-of-\d{4,}-\d{8,}", file.stem):
                file.unlink()
    write_json(job.out / _PLAN, plan)


class _RowOutputs(Outputs):
    """Makes a row of each mask and writes nothing, but for large images, see `large_entries`."""

    def __init__(self, folder: Path, card: Card) -> None:
        """Set the output folder, where masks of large images go."""
        super().__init__(folder, (), card)
        self.has_probabilities = True  # for the score

    def files(self, mask: Path) -> list[Path]:
        """No files."""
        return []

    def quantise(self, band: NDArray[np.float32]) -> dict[str, NDArray[Any]]:
        """Reduce probabilities [K, n, W] to that of the most probable class [1, n, W]."""
        return {_ROW: band.max(axis=0, keepdims=True)}

    def write(
        self,
        mask_file: Path,
        name: str,
        image: NDArray[Any] | None,
        mask: NDArray[np.uint8],
        probabilities: dict[str, NDArray[Any]],
        geo: Georeference | None,
        key: str = "",
    ) -> Entries:
        """Make the row; parameters as those of `Outputs.write`."""
        known = probabilities[_ROW][0][mask != IGNORED]
        codes = [
            coco_mask.encode(np.asfortranarray(mask == class_id))["counts"].decode("ascii")
            for class_id in range(1, self.num_classes)
        ]
        areas = np.bincount(mask.ravel(), minlength=256)[: self.num_classes]
        score = float(known.mean()) if known.size else None
        row = {"height": mask.shape[0], "width": mask.shape[1], "rle": codes, "score": score}
        return Entries({_ROW: [[{**row, "areas": areas.tolist()}]]}, None)

    def large_entries(self, name: str, counts: NDArray[np.int64] | None) -> Entries:
        """Make the row of an image of more than 100 megapixels, whose mask is a file: its areas."""
        return Entries({_ROW: [[{"areas": None if counts is None else counts.tolist()}]]}, None)

    def finish(self, entries: Sequence[Entries]) -> None:
        """Write nothing."""


def _write_rows(
    path: Path,
    inputs: Mapping[str, str],
    entries: Mapping[str, Entries],
    errors: Mapping[str, str],
    card: Card,
    digest: str,
) -> None:
    """Write a Parquet file with a row for each input, failed ones included.

    Args:
        path: The file.
        inputs: Paths by id.
        entries: By id, as by `_RowOutputs`.
        errors: Messages by id.
        card: The model's, for the names of classes in the metadata.
        digest: The model's, for `_count_rows`.
    """
    pyarrow, parquet = need("pyarrow"), need("pyarrow.parquet")
    schema = pyarrow.schema(
        [
            ("id", pyarrow.string()),
            ("path", pyarrow.string()),
            ("height", pyarrow.int32()),
            ("width", pyarrow.int32()),
            ("areas", pyarrow.list_(pyarrow.int64())),
            ("rle", pyarrow.list_(pyarrow.string())),
            ("score", pyarrow.float32()),
            ("error", pyarrow.string()),
        ],
        metadata={"classes": "\n".join(card.class_names), "model": digest},
    )
    rows = [
        {"id": _as_utf8(name), "path": _as_utf8(source), "error": _as_utf8(errors.get(name))}
        | (entries[name].rows[_ROW][0][0] if name in entries else {})
        for name, source in inputs.items()
    ]
    with write_whole(path) as part:
        parquet.write_table(pyarrow.Table.from_pylist(rows, schema), part, compression="zstd")


def _as_utf8(text: str | None) -> str | None:
    """The text, with an escape for each byte of a file's name that is not UTF-8."""
    return text and text.encode(errors="surrogateescape").decode(errors="backslashreplace")


def _count_rows(path: Path, digest: str) -> int | None:
    """Number of rows of a Parquet file.

    None if it is missing, damaged, of a model with another digest, or has errors in it.
    """
    pyarrow, parquet = need("pyarrow"), need("pyarrow.parquet")
    try:
        table = parquet.read_table(path, columns=["error"])
    except (OSError, pyarrow.ArrowException):
        return None
    if (table.schema.metadata or {}).get(b"model") != digest.encode():
        return None
    errors = table.column("error")
    return len(errors) if errors.null_count == len(errors) else None


class BulkResult(NamedTuple):
    """The result of `predict_bulk`."""

    written: int
    """Number of masks or rows that were written."""
    skipped: int
    """Number of those that already existed."""
    failed: int
    """Number of inputs that failed; they are listed in `errors`."""
    errors: Path
    """CSV file with the columns id, path and error; it exists if there are any."""
    first: Sequence[str]
    """The first error messages."""
    is_empty: bool = False
    """Whether there are fewer inputs than shards, and none for this one."""

    @property
    def exit_code(self) -> int:
        """0, 1 if some inputs failed, 2 if there is no result at all."""
        if self.is_empty:
            return 0
        return 2 if not self.written + self.skipped else 1 if self.failed else 0

    def summary(self, job: BulkJob) -> str:
        """The final message to the user."""
        what = "row" if job.as_rows else "mask"
        text = count_results(what, self.written, job.out, self.skipped, self.failed)
        return f"{text}, see {self.errors}" if self.failed else text


def is_bulk(names: Sequence[str], save: Sequence[str], options: BulkOptions) -> bool:
    """Whether these are for `predict_bulk`, rather than for `predict_inputs`."""
    asked = options.model_fields_set or "parquet" in save or not names
    return bool(asked) or any(is_tar(name) or is_url(name) for name in names)


def _require_options(job: BulkJob, options: BulkOptions) -> None:
    """Refuse flags that do nothing."""
    given = options.model_fields_set & {"address", "workers", "num_cpus", "num_gpus"}
    if options.engine != "ray" and given:
        raise Error(f"--{min(given).replace('_', '-')}: add --engine ray, or leave it out.")
    if options.engine == "ray" and job.loading["device"] == "cuda" and not options.num_gpus:
        raise Error("--device cuda with --engine ray needs --num-gpus 1.")
    if options.workers and (limits := _limits(options.workers))[0] > limits[1]:
        raise Error(
            f"--workers {options.workers}: must be MIN:MAX, such as {limits[1]}:{limits[0]}."
        )
    if job.as_rows and job.save:
        raise Error(
            f"--save parquet writes rows instead of images: leave out {', '.join(job.save)}."
        )


def predict_bulk(
    job: BulkJob,
    names: Sequence[str],
    options: BulkOptions,
    reporter: Reporter = silent,
) -> BulkResult:
    """Predict many inputs, each exactly once; one that fails does not stop the others.

    Args:
        job: Models, outputs and output folder.
        names: Inputs, as for `list_inputs`; none with a manifest.
        options: Manifest, shard, engine and its resources.
        reporter: Receives the number of inputs done, and warnings as notes.

    Raises:
        FileNotFoundError: An input or the model does not exist.
        ValueError: The inputs are invalid, the output folder is of another model, or a library is
            missing.
    """
    _require_options(job, options)
    job = replace(
        job, out=job.out.absolute(), models=[Path(each).absolute() for each in job.models]
    )
    shard = parse_shard(options.shard)
    listing = list_inputs(names, options.manifest, job.out, shard, options.batch_size)
    suffix = "" if options.shard is None else f"-{shard[0]}-of-{shard[1]}"
    path = job.out / f"errors{suffix}.csv"
    if not listing.total:
        return BulkResult(0, 0, 0, path, (), is_empty=True)
    _require_own_errors(path)
    written = skipped = failed = 0
    first: list[str] = []
    reporter = EachOnce(reporter)
    by_engine = _by_ray if options.engine == "ray" else _by_this_process
    results = by_engine(job, listing, options, reporter)
    results = chain([next(results)], results)  # what is refused makes no file
    with (
        write_whole(path) as part,
        part.open("w", encoding="utf-8", errors="surrogateescape", newline="") as file,
    ):
        table = csv.writer(file)
        table.writerow(_ERRORS)
        done = notes = 0
        for each in results:
            done += each.listed
            reporter.advance(done)
            written, skipped = written + each.written, skipped + each.skipped
            failed += len(each.errors)
            table.writerows(each.errors)
            first += [message for *_, message in each.errors][: 10 - len(first)]
            for note in each.notes[: _MOST_NOTES - notes]:
                notes += 1
                reporter.note(note)
    if not failed:
        path.unlink()
    return BulkResult(written, skipped, failed, path, first)


def _require_own_errors(path: Path) -> None:
    """Refuse to replace a file that is not the list of errors of an earlier run."""
    header = ",".join(_ERRORS).encode()
    with suppress(FileNotFoundError), path.open("rb") as file:
        if file.readline(2 * len(header)).rstrip() != header:
            raise foreign(path)


def _by_this_process(
    job: BulkJob, listing: Listing, options: BulkOptions, reporter: Reporter
) -> Iterator[Done]:
    worker = Worker(job)
    worker.begin(listing, reporter)
    reporter.stage("predicting", listing.total)
    yield from map(worker.predict, listing.parts())


def _start(job: BulkJob, listing: Listing) -> tuple[BulkJob, list[str]]:
    """Begin in a worker of the cluster: the driver stays small, and has no device."""
    worker, collected = Worker(job), Collected()
    worker.begin(listing, collected)
    # all actors use what was chosen here, so that masks do not depend on who makes them
    if job.loading["backend"] == "auto" and not worker.predictor.is_exported:
        job = replace(job, loading={**job.loading, "backend": worker.predictor.backend})
    return job, collected.notes


class _ListParts:
    """The parts of a listing as rows of a Ray dataset, one at a time."""

    def __init__(self, listing: Any) -> None:
        self._listing = listing

    def __call__(self, batch: dict[str, Any]) -> Iterator[dict[str, list[str]]]:
        for part in import_module("ray").get(self._listing).parts():
            yield {"part": [json.dumps(part)]}


class _Actor(Worker):
    """A worker whose parts and results travel as JSON."""

    def __call__(self, row: dict[str, str]) -> dict[str, str]:
        return {"done": json.dumps(self.predict(Part(*json.loads(row["part"]))))}


def _by_ray(
    job: BulkJob, listing: Listing, options: BulkOptions, reporter: Reporter
) -> Iterator[Done]:
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    ray, data = need("ray", "'ray[data]'"), need("ray.data", "'ray[data]'")
    was_running = ray.is_initialized()
    try:
        context = ray.init(
            options.address,
            ignore_reinit_error=True,
            log_to_driver=False,
            logging_level=logging.ERROR,
        )
    except ConnectionError as error:
        raise Error(f"--address {options.address}: no Ray cluster there ({error}).") from None
    if context.dashboard_url:
        reporter.note(f"Ray's dashboard: http://{context.dashboard_url}")
    try:
        resources = {"num_cpus": options.num_cpus, "num_gpus": options.num_gpus}
        # a running cluster may start machines with GPUs by demand; this machine has what it has
        if options.address is None and options.num_gpus > ray.cluster_resources().get("GPU", 0):
            raise Error(f"--num-gpus {options.num_gpus:g}: this machine has fewer. Omit the flag.")
        job, notes = ray.get(ray.remote(**resources)(_start).remote(job, listing.head()))
        for note in notes:
            reporter.note(note)
        reporter.stage("predicting", listing.total)
        settings = data.DataContext.get_current()
        settings.enable_progress_bars = False
        logging.getLogger("ray.data").setLevel(logging.ERROR)
        settings.target_max_block_size = 1  # each part is a block: the unit of work
        parts = data.from_items([{"listing": 0}]).map_batches(
            _ListParts(ray.put(listing)), num_cpus=0
        )
        pool = data.ActorPoolStrategy(**_actors(options, ray.cluster_resources()))
        results = parts.map(_Actor, fn_constructor_args=(job,), compute=pool, **resources)
        for row in results.iter_rows():
            yield Done(*json.loads(row["done"]))
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, ValueError | OSError):
            raise error.cause from None
        raise
    except ray.exceptions.RayError as error:
        raise OSError(
            f"--engine ray: the cluster has failed ({first_line(error)}). Run the same command "
            "again: it continues."
        ) from None
    finally:
        if not was_running:
            ray.shutdown()


def _limits(workers: str) -> tuple[int, int]:
    """Fewest and most actors, from "8" or "1:64"."""
    fewest, _, most = workers.partition(":")
    return int(fewest), int(most or fewest)


def _actors(options: BulkOptions, cluster: dict[str, float]) -> dict[str, int]:
    """Fewest and most actors: as given, or as many as fit."""
    if options.workers:
        fewest, most = _limits(options.workers)
        return {"min_size": fewest, "max_size": most}
    kind, share = ("GPU", options.num_gpus) if options.num_gpus else ("CPU", options.num_cpus)
    return {"min_size": 1, "max_size": max(1, int(cluster.get(kind, 1) / share))}
