"""The command `plainunet`, also as `python -m plainunet`: errors become messages and exit codes."""

import difflib
import errno
import inspect
import os
import re
import signal
import sys
import traceback
import warnings
from collections.abc import Callable
from itertools import pairwise, zip_longest
from pathlib import Path
from typing import TYPE_CHECKING

from plainunet import reporter
from plainunet.errors import Error

if TYPE_CHECKING:
    from cyclopts import App

_ALIASES = {
    "augment": "aug augmentation augmentations",
    "base-channels": "features init-features width",
    "batch-size": "batch bs",
    "budget": "time time-budget",
    "classes": "class-names names",
    "colors": "colours palette",
    "depth": "levels num-levels",
    "ensemble": "checkpoints models",
    "epochs": "num-epochs max-epochs n-epochs",
    "folds": "n-folds num-folds k-folds kfold",
    "gradient-accumulation": "accumulation accumulate grad-accum gradient-accumulation-steps",
    "gradient-clip": "clip grad-clip gradient-clip-val clip-grad-norm max-grad-norm",
    "ignore": "ignore-index ignore-label ignore-value void",
    "images": "image-dir images-dir img-dir",
    "learning-rate": "lr",
    "loss": "criterion loss-fn loss-function",
    "masks": "mask-dir masks-dir labels label-dir",
    "normalisation": "norm normalization",
    "optimizer": "opt optim optimiser",
    "out": "output output-dir out-dir save-dir",
    "patch": "crop crop-size patch-size",
    "patience": "early-stopping early-stopping-patience",
    "precision": "amp mixed-precision",
    "pretrained": "start-from finetune fine-tune init-from",
    "schedule": "scheduler lr-scheduler lr-schedule",
    "seed": "random-seed random-state",
    "size": "imgsz img-size image-size input-size resolution",
    "threshold": "conf conf-threshold",
    "track": "logger loggers report-to trackers",
    "upsampling": "up upsample",
    "validation": "val-split val-fraction validation-split",
    "warm-up": "warmup warmup-ratio",
    "weight-decay": "wd",
    "workers": "num-workers n-workers",
}
"""Our flags, and the names that other tools have for them."""
_ARGUMENTS = ["data", "data-dir", "data-path", "dataset", "images", "input", "root", "source"]
_CHECKPOINTS = ["weights", "model", "checkpoint", "ckpt", "model-path", "weights-path"]
"""Flags of other tools for what are arguments here, without a flag."""
_SIDES = ("--size", "--patch")
_FOR_TRAINING = {"albumentations", "jinja2", "matplotlib", "safetensors", "scipy", "torch"}
"""Libraries that plainunet needs and plainunet-runtime, which only predicts, does not."""
_ALIKE = 0.75
"""Least similarity (0..1) of an unknown flag and the one that is proposed instead."""


def _verbosity(tokens: list[str]) -> list[str]:
    """Take `--quiet` and `--verbose` off the command line; they hold for every verb."""
    levels = {"--quiet": -1, "-q": -1, "--verbose": 1, "-v": 1}
    reporter.verbosity = sum(levels.get(token, 0) for token in tokens)
    return [token for token in tokens if token not in levels]


def _with_own_names(tokens: list[str]) -> list[str]:
    """Translate other tools' flags, underscores, and `--size 256`, which means a square."""
    own = {f"--{other}": f"--{flag}" for flag, names in _ALIASES.items() for other in names.split()}
    named: list[str] = []
    for token, following in zip_longest(tokens, tokens[1:], fillvalue="-"):
        flag, *value = token.split("=", 1) if token.startswith("--") else [token]
        flag = flag.replace("_", "-") if token.startswith("--") else flag
        if flag in ("--amp", "--mixed-precision") and not value and following.startswith("-"):
            continue  # a switch elsewhere; automatic here
        if flag == "--tta" and not value and following.startswith("-"):
            value = ["mirror"]  # a switch elsewhere
        if flag in ("--no-amp", "--no-mixed-precision") and not value:
            flag, value = "--precision", ["fp32"]
        flag = own.get(flag, flag)
        if flag == "--device":
            value = [_device(each) for each in value]
        elif named[-1:] == ["--device"]:
            flag = _device(flag)
        named += [flag, *value] if flag in _SIDES else ["=".join([flag, *value])]
    for at in reversed(range(1, len(named))):
        sides = [side.isdecimal() for side in named[at : at + 2]]
        if named[at - 1] in _SIDES and sides in ([True], [True, False]):
            named.insert(at, named[at])
    return named


def _device(name: str) -> str:
    """Translate the device names of other tools, such as 0 or cuda:0, to cuda.

    Raises:
        ValueError: It is not the first GPU.
    """
    match = re.fullmatch(r"(?:cuda|gpu)?:?([\d,]*)", name.lower())
    if not name or not match:
        return name
    if match[1] not in ("", "0"):
        raise Error(
            f"--device {name}: use CUDA_VISIBLE_DEVICES={match[1]} and --device cuda; for several "
            "GPUs, torchrun."
        )
    return "cuda"


def _each_once(tokens: list[str]) -> list[str]:
    """Drop a flag that repeats an earlier one with the same value, as in a line that was extended.

    Flags with several values are kept as they are.
    """
    flags = [at for at, token in enumerate(tokens) if token.startswith("--")] + [len(tokens)]
    kept = tokens[: flags[0]]
    seen: list[list[str]] = []
    for start, end in pairwise(flags):
        words = tokens[start:end]
        if words not in seen:
            kept += words
        seen.append(words[:2])
    return kept


class _TerminatedError(KeyboardInterrupt):
    """SIGTERM arrived."""

    code = 128 + signal.SIGTERM


def main() -> None:
    """Run the command line and exit.

    The exit code is 0 on success, 1 if some files failed, 2 for errors that the user can fix, 70
    for a bug in plainunet, and 128 + the number of a signal.
    """
    if not os.environ.get("COLUMNS", "80").strip("0"):
        del os.environ["COLUMNS"]  # with a width of 0, rich prints nothing
    signal.signal(signal.SIGTERM, _terminate)
    try:
        code = _run()
    except KeyboardInterrupt as error:  # also during imports
        code = _interrupted(error)
    sys.exit(code)


def _terminate(number: int, frame: object) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # a second one ends the process at once
    raise _TerminatedError("stopped by SIGTERM.")


def _run() -> int:
    """Run the command line; returns the exit code."""
    from cyclopts import CycloptsError, UnknownOptionError
    from pydantic import ValidationError

    from plainunet.cli import app
    from plainunet.config import TrainConfig, explain
    from plainunet.system import first_line, is_out_of_memory

    warnings.showwarning = lambda message, *_: _complain(str(message), "warning")
    if _has_both_distributions():
        _complain(
            "plainunet and plainunet-runtime are both installed and overwrite each other's files. "
            "Run: pip uninstall plainunet plainunet-runtime, then install one of them.",
            "warning",
        )
    try:
        tokens = _each_once(_with_own_names(_verbosity(sys.argv[1:])))
        # "-" as a path would be taken for a flag
        given = ["./-" if token == "-" else token for token in tokens]
        code = app(given, exit_on_error=False, print_error=False, result_action="return_value")
        return code if isinstance(code, int) else 0
    except CycloptsError as error:
        if isinstance(error.__cause__, ValidationError):
            _complain(explain(error.__cause__, TrainConfig, as_flags=True))
            return 2
        usage = _usage((error.command_chain or ["--help"])[-1], error.target)
        if isinstance(error, UnknownOptionError):
            known = [name for each in error.argument_collection for name in each.names]
            _complain(_unknown(error.token.keyword or error.token.value, known, usage))
        else:
            _complain(f"{_wrong_usage(error)} Usage: {usage}")
        return 2
    except Exception as error:
        if interrupt := _find_interrupt(error):
            return _interrupted(interrupt)
        if isinstance(error, ModuleNotFoundError) and error.name in _FOR_TRAINING:
            _complain(
                f"this command needs {error.name}, which is not installed. plainunet-runtime only "
                "predicts with exported models (.onnx); install plainunet in its place."
            )
            return 2
        fixable = isinstance(error, ValueError | FloatingPointError) and _is_deliberate(error)
        if fixable or isinstance(error, OSError):  # such as a full disk
            _complain(_as_flag(_describe(error), error, app))
            return 2
        if is_out_of_memory(error):
            _complain(
                f"out of memory ({first_line(error)}). For training, use a smaller --batch-size, "
                "--size or --base-channels, or --checkpointing; for prediction, --memory 500M."
            )
            return 2
        traceback.print_exc()
        _complain("this is a bug in plainunet; please report the lines above.")
        return 70


def _has_both_distributions() -> bool:
    """Whether the runtime was installed over plainunet, or the other way round."""
    from importlib.metadata import PackageNotFoundError, distribution

    try:
        return bool(distribution("plainunet-runtime") and distribution("plainunet"))
    except PackageNotFoundError:
        return False


def _usage(verb: str, function: Callable[..., object] | None) -> str:
    """The command line of a verb with what it requires."""
    taken = inspect.signature(function).parameters.values() if function else ()
    words = [each.name.upper() for each in taken if each.kind != each.KEYWORD_ONLY]
    for each in taken:
        if each.kind == each.KEYWORD_ONLY and each.default is each.empty:
            words += [f"--{each.name}", each.name.upper()]
    return " ".join(["plainunet", verb, *words])


def _wrong_usage(error: Exception) -> str:
    """What is wrong with a command line."""
    from cyclopts import MissingArgumentError, UnusedCliTokensError

    if isinstance(error, UnusedCliTokensError) and error.unused_tokens:
        return f"unexpected argument: {error.unused_tokens[0]}."
    argument = getattr(error, "argument", None)
    if isinstance(error, MissingArgumentError) and argument and not argument.tokens:
        return f"{argument.name} {'is missing' if error.keyword is None else 'needs a value'}."
    return " ".join(str(error).split())


def _unknown(flag: str, known: list[str], usage: str) -> str:
    """Name an unknown flag, and the known one or the argument that it probably is."""
    names = {name.strip("-"): name for name in known}
    if flag.strip("-") in _CHECKPOINTS and "pretrained" in names:
        return f"unknown option: {flag}. Did you mean --pretrained?"
    if flag.strip("-") in (*_ARGUMENTS, *_CHECKPOINTS):
        return f"unknown option: {flag}. It is an argument without a flag: {usage}"
    nearest = difflib.get_close_matches(flag.strip("-"), names, n=1, cutoff=_ALIKE)
    advice = f"Did you mean {names[nearest[0]]}?" if nearest else "--help lists all options."
    return f"unknown option: {flag}. {advice}"


_ADVICE = {
    errno.ENOSPC: "Free some disk space, and try again.",
    errno.EDQUOT: "Free some disk space, and try again.",
    errno.ENAMETOOLONG: "Use a shorter name.",
    errno.EACCES: "Check its permissions.",
    errno.EROFS: "Choose another folder; this one is read-only.",
    errno.EMFILE: "Allow more open files: ulimit -n 4096.",
    errno.ELOOP: "Remove the circular link.",
}


def _describe(error: BaseException) -> str:
    """Describe an error: the file, the reason, and the fix."""
    if not isinstance(error, OSError) or not error.strerror or _is_deliberate(error):
        return str(error)
    advice = _ADVICE.get(error.errno or 0, "Check the path, and try again.")
    where = f"{error.filename}: " if error.filename else ""
    return f"{where}{error.strerror.lower()}. {advice}"


def _as_flag(text: str, error: BaseException, app: "App") -> str:
    """Name the flag in the message about a wrong argument: "out: ..." is --out."""
    flag = f"--{text.partition(':')[0].replace('_', '-')}"
    verb = next((token for token in sys.argv[1:] if not token.startswith("-")), "")
    if getattr(error, "code", "") != "argument" or verb not in app:
        return text
    known = app[verb].assemble_argument_collection()
    is_flag = any(flag in argument.names for argument in known)
    return f"{flag}{text[len(flag) - 2 :]}" if is_flag else text


def _interrupted(error: BaseException) -> int:
    """Report an interrupt, and how to resume if the error tells; returns the exit code."""
    if os.environ.get("RANK", "0") == "0":  # only the first process of a run prints
        text = str(error)
        _complain(text or "interrupted.", "note" if text else "error")
    return int(getattr(error, "code", 130))


def _find_interrupt(error: BaseException) -> BaseException | None:
    """Find the interrupt behind another error, which clean-up code may raise."""
    seen: list[BaseException] = []
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, KeyboardInterrupt):
        if cause in seen:  # an error may be its own cause
            return None
        seen.append(cause)
        cause = cause.__cause__ or cause.__context__
    return cause


def _is_deliberate(error: BaseException) -> bool:
    """Whether this package raised the error, not a library."""
    frames = traceback.extract_tb(error.__traceback__)
    return bool(frames) and Path(frames[-1].filename).is_relative_to(Path(__file__).parent)


def _complain(text: str, kind: str = "error") -> None:
    print(f"{kind}: {text}", file=sys.stderr)


if __name__ == "__main__":
    main()
