"""Parts of a run that the user writes: a loss and whatever else takes the place of a built-in.

A part is a Python object, or its name, `package.module:object`. Names are imported only where the
user typed them, never because a file says so.
"""

import hashlib
import importlib
import re
import sys
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from plainunet.errors import Error
from plainunet.system import is_out_of_memory, shorten

_NAME = re.compile(r"[\w.<>]+:[\w.<>]+")
_IMPORTABLE = re.compile(r"(?!__main__:)[\w.]+:[\w.]+")


class PartError(Error):
    """A part that the user wrote does not do what is required of it."""

    code = "part"


@dataclass(frozen=True)
class Part:
    """A part that the user wrote, and its name."""

    made: Any
    name: str

    @classmethod
    def of(cls, given: Any, flag: str) -> "Part":
        """Take a part, or import it by its name.

        Args:
            given: The object, or its name, `package.module:object`; modules in the current folder
                are found, too.
            flag: What it is for, such as "--loss", for messages.

        Raises:
            PartError: There is no such object.
        """
        if isinstance(given, cls):
            return given
        return cls(import_part(given, flag), given) if isinstance(given, str) else given_part(given)

    def having(self, name: str) -> "Part":
        """The same under another name."""
        return replace(self, name=name)

    def is_named(self, name: str) -> bool:
        """Whether it is the part of this name; a script's own module may be called __main__."""
        names = {self.name, name_of(self.made)}
        module, _, tail = name.rpartition(":")
        modules = {each.rpartition(":")[0] for each in names if each.endswith(f":{tail}")}
        return name in names or ("__main__" in {module, *modules} and bool(modules))


def given_part(made: Any) -> Part:
    """Name a part by its module and its own name, or that of its class."""
    return Part(made, name_of(made))


def name_of(made: Any) -> str:
    """The name of an object: of its module, and its own or that of its class.

    A `functools.partial` has that of its function and a digest of its arguments.
    """
    if isinstance(made, partial):
        given = re.sub(r" at 0x\w+", "", repr((made.args, sorted(made.keywords.items()))))
        digest = hashlib.sha256(given.encode()).hexdigest()[:8]
        return f"{name_of(made.func)}.<partial_{digest}>"
    named = made if hasattr(made, "__qualname__") else type(made)
    return f"{named.__module__}:{named.__qualname__}"


def parts_of(given: Any, flag: str) -> tuple[Part, ...]:
    """Take no part, one, or a list of them; see `Part.of`."""
    if given is None:
        return ()
    several = given if isinstance(given, list | tuple) else [given]
    return tuple(Part.of(each, flag) for each in several)


def flags_of(setting: str, given: Sequence[Part]) -> list[str]:
    """The flag that imports parts; those of a script or without a name cannot be imported."""
    names = [part.name for part in given if _IMPORTABLE.fullmatch(part.name)]
    return [f"--{setting}", *names] if names else []


def is_own(name: str | None) -> bool:
    """Whether a setting names a part that the user wrote."""
    return name is not None and _NAME.fullmatch(name) is not None


def import_part(name: str, flag: str) -> Any:
    """Import an object by its name, `package.module:object`.

    The current folder is searched first. Later on it stands last in `sys.path`, for what the
    module imports only when it runs, and for worker processes.

    Raises:
        PartError: There is no such object, or its module fails.
    """
    if not is_own(name):
        raise PartError(f"{flag} {name}: write it as package.module:object.")
    module_name, _, path = name.partition(":")
    here = str(Path.cwd())
    is_new = here not in sys.path
    if is_new:
        sys.path.insert(0, here)
    importlib.invalidate_caches()  # the file may be new
    try:
        found: Any = importlib.import_module(module_name)
    except (Exception, SystemExit) as error:  # the last, of a script that ends by sys.exit
        if isinstance(error, ModuleNotFoundError) and error.name in _with_parents(module_name):
            raise PartError(
                f"{flag} {name}: there is no module {error.name!r}, neither in {here} nor "
                "installed. Run from the folder that contains it."
            ) from None
        raise PartError(
            f"{flag} {name}: importing {module_name} failed: {describe_error(error)}."
        ) from error
    finally:
        if is_new:
            sys.path.remove(here)
            sys.path.append(here)
    for part in path.split("."):
        if not hasattr(found, part):
            raise PartError(f"{flag} {name}: {module_name} has no {path!r}. Check its name.")
        found = getattr(found, part)
    return found


def _with_parents(module: str) -> set[str]:
    words = module.split(".")
    return {".".join(words[:count]) for count in range(1, len(words) + 1)}


@contextmanager
def running(what: str) -> Iterator[None]:
    """Turn errors of the user's code into PartErrors that begin with `what`.

    Running out of memory stays what it is, since it can be helped.
    """
    try:
        yield
    except Exception as error:
        if isinstance(error, PartError) or is_out_of_memory(error):
            raise
        raise PartError(f"{what}: {describe_error(error)}.") from error


def describe_error(error: BaseException) -> str:
    """Describe an error of the user's code in one line: type, message, file and line."""
    message = shorten(" ".join(str(error).split()), 300)
    places = traceback.extract_tb(error.__traceback__)
    own = [place for place in places if not place.filename.startswith("<")]
    where = f" ({own[-1].filename}, line {own[-1].lineno})" if own else ""
    return f"{type(error).__name__}{': ' * bool(message)}{message.rstrip('.')}{where}"


@dataclass(frozen=True)
class OwnParts:
    """The parts of a run that the user wrote; None where the built-in one is used."""

    loss: Part | None = None
    augment: Part | None = None
    network: Part | None = None
    metrics: tuple[Part, ...] = ()

    @classmethod
    def of(cls, metrics: Any = None, **given: Any) -> "OwnParts":
        """Take parts, or import them by their names; see `Part.of`. None is left out."""
        known = {name: Part.of(each, f"--{name}") for name, each in given.items() if each}
        return cls(**known, metrics=parts_of(metrics, "--metrics"))

    def names(self) -> dict[str, str | tuple[str, ...]]:
        """The settings that name the parts."""
        found: dict[str, str | tuple[str, ...]] = {}
        for setting, given in vars(self).items():
            if isinstance(given, Part):
                found[setting] = given.name
            elif given:
                found[setting] = tuple(part.name for part in given)
        return found

    def flags(self) -> list[str]:
        """The flags that import the parts, for a command line."""
        return [
            word
            for setting, given in vars(self).items()
            for word in flags_of(setting, (given,) if isinstance(given, Part) else given or ())
        ]

    def require(self, settings: Any, where: str) -> None:
        """Refuse settings that name a part which was not given, or is another one.

        Args:
            settings: The settings of the run.
            where: Their origin, for the message.

        Raises:
            PartError: A part is missing, or is not the one that the settings name.
        """
        missing: dict[str, str] = {}
        for setting, given in vars(self).items():
            parts = (given,) if isinstance(given, Part) else given or ()
            value = getattr(settings, setting)
            named = [name for name in (value if isinstance(value, tuple) else (value,)) if name]
            wanted = [name for name in named if is_own(name)]
            listed = " ".join(wanted)
            if wanted and not parts:
                missing[setting] = listed
                continue
            others = [part.name for part in parts if not any(map(part.is_named, named))]
            if others or not all(any(part.is_named(name) for part in parts) for name in wanted):
                same = f"Give the same --{setting} {listed}." if wanted else f"Give no --{setting}."
                names = ", ".join(part.name for part in parts)
                raise PartError(f"{where}: {setting} is {listed or value}, not {names}. {same}")
        if missing:
            found = ", ".join(f"{setting} is {names}" for setting, names in missing.items())
            flags = " ".join(f"--{setting} {names}" for setting, names in missing.items())
            python = ", ".join(f"{setting}=" for setting in missing)
            raise PartError(
                f"{where}: {found}. Code is imported only if you name it: add {flags}, or pass "
                f"{python} in Python."
            )


NO_PARTS = OwnParts()
"""All parts are built in."""


def own_in(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that name parts which the user wrote."""
    found = {name: settings.get(name) for name in vars(NO_PARTS)}
    return {
        name: each for name, each in found.items() if each and (name == "metrics" or is_own(each))
    }
