"""Cross-validation: a run for each fold and seed, one after the other, and their scores."""

import dataclasses
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from plainunet import __version__
from plainunet.config import DataConfig, TrainConfig
from plainunet.dataset.augment import require_same
from plainunet.dataset.coding import Instances
from plainunet.dataset.dataset import SegmentationDataset
from plainunet.dataset.pairs import Pair
from plainunet.dataset.split import read_split, write_split
from plainunet.errors import Error, require_types, take_path
from plainunet.evaluation.evaluate import evaluate_dataset
from plainunet.evaluation.measure import Measurement, predict_images, score_images
from plainunet.evaluation.metrics import Metrics, with_own
from plainunet.evaluation.report import About, Shown, choose_shown, show, write_report
from plainunet.evaluation.scores import (
    OUT_OF_FOLD,
    CrossValidation,
    FoldScores,
    Scores,
    report_content,
)
from plainunet.files import lock_folder, remove_unfinished, write_json
from plainunet.formats.problems import command
from plainunet.formats.shards import require_no_shards
from plainunet.network.card import BEST_FILE, FOLDS_FILE, SCORES_FILE, Card
from plainunet.network.checkpoint import load_checkpoint
from plainunet.network.losses import OwnLossFunction
from plainunet.network.own import copy_part
from plainunet.parts import OwnParts, Part, parts_of
from plainunet.prediction.predictor import Predictor
from plainunet.reporter import Forwarding, Reporter, StepDone, or_default, silent
from plainunet.text import plural
from plainunet.training.distributed import join_processes
from plainunet.training.run import RunFolder, StoppedError
from plainunet.training.train import own_parts, require_apart, resume, train
from plainunet.training.training_data import read_augment
from plainunet.training.validate import read_held_out

FOLDS = 5
"""Default number of folds."""
_CHOSEN = set(TrainConfig.model_fields) - set(DataConfig.model_fields)
"""Settings that all runs take from the first one."""


def cross_validate(
    data: str | Path,
    out: str | Path,
    config: TrainConfig | None = None,
    *,
    folds: int | None = None,
    seeds: int = 1,
    reporter: Reporter | None = None,
    loss: OwnLossFunction | str | None = None,
    augment: Any = None,
    network: Any = None,
    metrics: Any = None,
) -> CrossValidation:
    """Train a model for each fold, and score every image by the model that did not see it.

    Groups of images stay together in a fold. If it is interrupted or killed, the same call
    continues it. Settings that are chosen from the data or for a time budget are chosen for the
    first fold and kept for the others.

    Args:
        data: The folder, as for `train`; a test split is kept out of all folds.
        out: Folder of the runs: `fold-0` and so on, further seeds as `fold-0-seed-1`; with
            `report.html`, `scores.json`, `split.csv` and `crossval.json`. It is an ensemble for
            `evaluate` and `Predictor.load`.
        config: The settings, as for `train`. Its time budget is for all runs together.
        folds: Number of folds, at least 2; default: that of the settings, or 5.
        seeds: Number of trainings of each fold, with the seeds of the settings and the next ones.
            The folds are the same for all. A larger number extends a finished cross-validation.
        reporter: Receives notes and progress; default: shown in notebooks.
        loss: Your own loss, as for `train`; to continue, give the same parts again.
        augment: Your own augmentation, as for `train`.
        network: Your own network, as for `train`; of a module, each run trains a copy.
        metrics: Your own metrics, as for `evaluate`.

    Returns:
        The scores: of each fold, of the out-of-fold predictions, and of the ensemble of all runs
        on the test split.

    Raises:
        FileNotFoundError: The folder does not exist.
        ValueError: As by `train`; or `out` has a cross-validation with other settings or parts, or
            the data has changed since it began.
        StoppedError: SIGINT or SIGTERM arrived; the state of the run is saved.

    Example:
        ```python
        from plainunet import TrainConfig, cross_validate

        settings = TrainConfig(epochs=1, base_channels=4, depth=2, batch_size=4)
        print(cross_validate("my-data", "runs/cv-small", settings, folds=2))
        ```
    """
    require_types(config=(config, TrainConfig), folds=(folds, int), seeds=(seeds, int))
    data, out, config = take_path(data, "data"), take_path(out, "out"), config or TrainConfig()
    parts = own_parts(augment, loss=loss, network=network, metrics=metrics)
    config = config.model_copy(update=parts.names())
    parts = read_augment(config, parts)
    parts.require(config, "the settings")
    plan = _Plan.make(data, out, config, folds, seeds, parts)
    require_apart(RunFolder(out), data)
    return _run(plan, or_default(reporter))


def _run(plan: "_Plan", reporter: Reporter) -> CrossValidation:
    """Train all runs, or what is left of them, and score them."""
    with ExitStack() as held:

        def begin() -> None:
            held.enter_context(lock_folder(plan.out))
            plan.begin()

        # every run joins the processes of torchrun anew
        with join_processes(plan.config.device) as processes:
            processes.first_decides(begin)
        reporter = reporter if processes.is_first else silent
        with plan.withdrawn_on_failure() if processes.is_first else nullcontext():
            for run in plan.runs:
                _train(plan, run, _Progress(reporter, plan, run))
                if processes.is_first:
                    _require_same_data(plan, run)
        try:
            with join_processes(plan.config.device) as processes:
                return processes.first_decides(lambda: _finish(plan, reporter))
        except KeyboardInterrupt as error:
            if not error.args:
                error.args = ("all runs are finished. To continue, run the same command again.",)
            raise


@dataclass(frozen=True)
class _FoldRun:
    """A run of a cross-validation."""

    fold: int
    seed: int
    folder: RunFolder

    @property
    def name(self) -> str:
        return self.folder.path.name

    @property
    def is_finished(self) -> bool:
        return self.folder.held_out.is_file() and self.folder.best.is_file()


@dataclass(frozen=True)
class _Plan:
    """What a cross-validation does."""

    data: Path
    out: Path
    config: TrainConfig
    folds: int
    seeds: tuple[int, ...]
    runs: tuple[_FoldRun, ...]
    parts: OwnParts

    @classmethod
    def make(
        cls,
        data: Path,
        out: Path,
        config: TrainConfig,
        folds: int | None,
        seeds: int,
        parts: OwnParts,
    ) -> "_Plan":
        """Plan the runs: all folds with the first seed, then with the next."""
        instead = "They keep their splits: use the folder of images that they were written from."
        require_no_shards(data, instead)
        count = folds or config.folds or FOLDS
        if config.fold is not None:
            raise Error(
                f"--fold is {config.fold}, but all folds are trained. Omit it, or use train."
            )
        if count < 2:
            raise Error(f"folds is {count}; cross-validation needs at least 2.")
        if seeds < 1:
            raise Error(f"--seeds is {seeds}; at least 1 is needed.")
        numbers = tuple(range(config.seed, config.seed + seeds))
        runs = tuple(
            _FoldRun(fold, seed, RunFolder(out / _name(fold, seed, config.seed)))
            for seed in numbers
            for fold in range(count)
        )
        return cls(data, out, config, count, numbers, runs, parts)

    @property
    def network(self) -> Part | None:
        """The user's own network."""
        return self.parts.network

    def card(self, run: _FoldRun) -> Card:
        """The card of a run's checkpoint."""
        return load_checkpoint(run.folder.best, parts_of(self.network, "--network"))[1]

    @property
    def metrics(self) -> Metrics:
        """The metrics: the built-in ones, and the user's own."""
        return with_own(self.parts.metrics, len(self.card(self.runs[0]).class_names))

    @property
    def record(self) -> Path:
        """The file that lists the runs."""
        return self.out / FOLDS_FILE

    def content(self) -> dict[str, Any]:
        """The content of the record."""
        return {
            "version": __version__,
            "data": str(self.data.resolve()),
            "folds": self.folds,
            "seeds": list(self.seeds),
            "settings": self.config.model_dump(mode="json", exclude_unset=True, exclude={"folds"}),
            "runs": [run.name for run in self.runs],
        }

    def command(self) -> str:
        """The command line."""
        words: list[Any] = ["plainunet", "crossval", self.data, "--out", self.out]
        words += ["--folds", self.folds, "--seeds", len(self.seeds)]
        given = self.content()["settings"]
        if self.config.budget is not None:
            given["budget"] = f"{self.config.budget:.0f}s"
        for name, value in given.items():
            # only a file can hold growth; 0 and "" are settings too
            if value is not None and value is not False and value != [] and name != "growth":
                flag = f"--{name.replace('_', '-')}"
                values = value if isinstance(value, list) else [value]
                words += [flag] if value is True else [flag, *values]
        return command(*words)

    def begin(self) -> None:
        """Record the plan, if `out` is new or has the same cross-validation with fewer seeds."""
        remove_unfinished(self.out)
        if not self.record.is_file():
            others = [run.folder.path for run in self.runs if run.folder.path.exists()]
            others += [RunFolder(self.out).config] * RunFolder(self.out).config.exists()
            if others:
                raise Error(f"{others[0]}: exists already. Choose another --out.")
        elif self._has_begun():
            known = self._read_record()
            self._require_same(known)
            if self.parts.augment and (file := self.runs[0].folder.augment).is_file():
                require_same(self.parts.augment, file)
            if known["seeds"] != list(self.seeds):  # the scores are not those of all runs
                (self.out / SCORES_FILE).unlink(missing_ok=True)
        write_json(self.record, self.content())

    def _read_record(self) -> dict[str, Any]:
        try:
            known = json.loads(self.record.read_text(encoding="utf-8"))
        except (ValueError, RecursionError):
            known = None
        kinds = {"data": str, "folds": int, "seeds": list, "settings": dict}
        if not isinstance(known, dict) or not all(
            isinstance(known.get(name), kind) for name, kind in kinds.items()
        ):
            raise Error(
                f"{self.record}: damaged, or not the record that plainunet crossval writes. "
                "Restore it, or choose another --out."
            )
        return known

    def _has_begun(self) -> bool:
        return any(run.folder.state.is_file() for run in self.runs)

    def _require_same(self, known: dict[str, Any]) -> None:
        mine = self.content()
        before = {"data": known["data"], "folds": known["folds"], **known["settings"]}
        now = {"data": mine["data"], "folds": mine["folds"], **mine["settings"]}
        for name in {**before, **now}:
            if before.get(name) != now.get(name):
                raise Error(
                    f"{self.out}: was begun with {name.replace('_', ' ')} "
                    f"{before.get(name, 'unset')}, not {now.get(name, 'unset')}. Use the same "
                    "settings to continue it, or choose another --out."
                )
        if len(known["seeds"]) > len(self.seeds):
            raise Error(
                f"{self.out}: was begun with --seeds {len(known['seeds'])}, not "
                f"{len(self.seeds)}. Use as many or more, or choose another --out."
            )

    @contextmanager
    def withdrawn_on_failure(self) -> Iterator[None]:
        """Remove the record if the first run fails before it has begun, as on invalid data."""
        try:
            yield
        except BaseException:
            if not any(run.folder.path.exists() for run in self.runs):
                self.record.unlink(missing_ok=True)
            raise

    def settings(self, run: _FoldRun) -> TrainConfig:
        """The settings of a run: those of the first run, but for fold and seed."""
        own: dict[str, Any] = {"folds": self.folds, "fold": run.fold, "seed": run.seed}
        split_seed = self.config.split_seed
        own["split_seed"] = self.config.seed if split_seed is None else split_seed
        given = {name: getattr(self.config, name) for name in self.config.model_fields_set}
        first = self.runs[0].folder
        if run != self.runs[0]:
            planned = first.read_config()
            chosen = {name: getattr(planned, name) for name in _CHOSEN}
            if planned.budget is not None:
                del chosen["epochs"]  # the budget decides
            return TrainConfig(**{**given, **chosen, **own})
        if self.config.budget is not None:
            own["budget"] = self.config.budget / len(self.runs)
        return TrainConfig(**{**given, **own})


def _name(fold: int, seed: int, first: int) -> str:
    """Name of a run's folder; without its seed if that is the first, so that more can follow."""
    return f"fold-{fold}" + ("" if seed == first else f"-seed-{seed}")


class _Progress(Forwarding):
    """Reports the progress of a run as a part of all runs."""

    def __init__(self, reporter: Reporter, plan: _Plan, run: _FoldRun) -> None:
        super().__init__(reporter)
        self._number, self._count = plan.runs.index(run), len(plan.runs)

    def step(self, done: StepDone) -> None:
        share = (self._number + done.share) / self._count
        super().step(dataclasses.replace(done, share=share, end=None))


def _train(plan: _Plan, run: _FoldRun, reporter: Reporter) -> None:
    """Train and evaluate a run, or what is left of it."""
    if run.is_finished:
        reporter.note(f"{run.name}: finished")
        return
    folder = run.folder
    seed = f", seed {run.seed}" if len(plan.seeds) > 1 else ""
    reporter.note(f"fold {run.fold} of {plan.folds}{seed}: {folder.path}")
    if run == plan.runs[0] and plan.config.budget is not None:
        each = plan.config.budget / len(plan.runs)
        reporter.note(f"budget: {each:.0f} s for each of {plural(len(plan.runs), 'run')}")
    parts = {**vars(plan.parts), "network": plan.network and copy_part(plan.network)}
    try:
        if folder.state.is_file():
            resume(folder.path, reporter, **parts)
        else:
            # killed between its first files and its first state
            folder.config.unlink(missing_ok=True)
            train(plan.data, folder.path, plan.settings(run), reporter, **parts)
    except StoppedError as error:
        where = str(error).partition(";")[0]
        error.args = (f"{run.name}: {where}; saved. To continue, run the same command again.",)
        raise


def _require_same_data(plan: _Plan, run: _FoldRun) -> None:
    """Refuse data that was changed between two runs."""
    cards = [plan.card(each) for each in (plan.runs[0], run)]
    if cards[0].training["digest"] != cards[1].training["digest"]:
        raise Error(
            f"{plan.data}: has changed since the cross-validation began: {run.name} has other "
            f"files than {plan.runs[0].name}. Start again with another --out."
        )


def _score(plan: _Plan) -> CrossValidation:
    """Score each fold, and the out-of-fold predictions of each seed."""
    card, metrics = plan.card(plan.runs[0]), plan.metrics
    folds, out_of_fold = [], {}
    for seed in plan.seeds:
        measured: list[Measurement] = []
        pairs: list[Pair] = []
        for run in (each for each in plan.runs if each.seed == seed):
            held_out = [pair for pair in _pairs(plan, run) if pair.part == "val"]
            counts = read_held_out(run.folder.held_out, len(card.class_names))
            scores = _scored(counts, held_out, card, metrics)
            del scores["images"]
            folds.append(FoldScores(run.fold, seed, run.folder.best, len(held_out), scores))
            measured += counts
            pairs += held_out
        content = {"split": OUT_OF_FOLD, **_scored(measured, pairs, card, metrics)}
        out_of_fold[seed] = Scores(plan.out, content, RunFolder(plan.out).report)
    return CrossValidation(plan.data, plan.out, tuple(folds), out_of_fold)


def _scored(
    measured: Sequence[Measurement], pairs: Sequence[Pair], card: Card, metrics: Metrics
) -> dict[str, Any]:
    return score_images(measured, pairs, card.class_names, card.threshold, metrics)


def _pairs(plan: _Plan, run: _FoldRun) -> list[Pair]:
    return read_split(run.folder.split, plan.data)


def _finish(plan: _Plan, reporter: Reporter) -> CrossValidation:
    """Score all runs; write the split, the report and, last, the scores, which mark the end."""
    result = _score(plan)
    first = plan.runs[0].folder
    config = first.read_config()
    dataset = SegmentationDataset.reopen(plan.data, first.split, first.read_known())
    predictor = partial(
        Predictor.load, device=config.device, precision=config.precision, network=plan.network
    )
    if test := dataset.part("test"):
        reporter.note(f"test split: ensemble of {plural(len(plan.runs), 'model')}")
        ensemble, objects = predictor(result.checkpoints), isinstance(dataset.coding, Instances)
        what: dict[str, Any] = {"objects": objects, "metrics": plan.metrics}
        scores = evaluate_dataset(ensemble, test, reporter, **what)
        tested = Scores(plan.out, {"split": "test", **scores})
        result = dataclasses.replace(result, test=tested)
    pairs = _pairs(plan, plan.runs[0])
    trained_on = [p if p.part == "test" else dataclasses.replace(p, part="train") for p in pairs]
    write_split(RunFolder(plan.out).split, trained_on, plan.data)
    _report(plan, result, dataset, predictor, reporter)
    write_json(plan.out / SCORES_FILE, result.as_dict())
    return result


def _report(
    plan: _Plan,
    result: CrossValidation,
    dataset: SegmentationDataset,
    load: Callable[[Path], Predictor],
    reporter: Reporter,
) -> None:
    """Write the report: out-of-fold predictions of the first seed, and the scores of all runs."""
    scores = result.out_of_fold[plan.seeds[0]].content
    runs = plan.runs[: plan.folds]
    places = {pair.image: place for place, pair in enumerate(dataset.pairs)}
    held_out = [pair for run in runs for pair in _pairs(plan, run) if pair.part == "val"]
    dataset = dataset.subset([places[pair.image] for pair in held_out])
    chosen = choose_shown(scores)
    reporter.stage("writing the report", len(chosen))
    shown: dict[int, Shown] = {}
    start = 0
    for run, fold in zip(runs, result.folds, strict=False):
        mine = [index for index in chosen if start <= index < start + fold.images]
        start += fold.images
        predictor = load(run.folder.best)
        predicted = predict_images(predictor, dataset.subset(mine))
        for index, each in zip(mine, predicted, strict=True):
            shown[index] = show(index, chosen[index], each)
            reporter.advance(len(shown))
    about = About(str(plan.out / "fold-*" / BEST_FILE), str(plan.data), plan.command())
    content = {**scores, **report_content(result)}
    report = RunFolder(plan.out).report
    write_report(report, content, [shown[each] for each in chosen], predictor, dataset, about)
