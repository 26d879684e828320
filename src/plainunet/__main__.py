"""The command `plainunet`, also as `python -m plainunet`: errors become messages and exit codes."""

import sys
import traceback
import warnings
from pathlib import Path

from cyclopts import CycloptsError, CycloptsPanel
from pydantic import ValidationError
from rich.console import Console

from plainunet.cli import app
from plainunet.memory import is_out_of_memory
from plainunet.settings import explain


def main() -> None:
    """Run the command line and exit: 0 good, 1 some failed, 2 mend something, 70 our fault."""
    warnings.showwarning = lambda message, *_: _complain(str(message), "warning")
    try:
        code = app(exit_on_error=False, print_error=False, result_action="return_value")
    except CycloptsError as error:
        if isinstance(error.__cause__, ValidationError):
            _complain(explain(error.__cause__))
        else:
            Console(stderr=True).print(CycloptsPanel(error))
        code = 2
    except KeyboardInterrupt as error:
        _complain(str(error) or "interrupted.", "note" if str(error) else "error")
        code = getattr(error, "code", 130)
    except Exception as error:
        mendable = isinstance(error, ValueError | FloatingPointError) and _is_deliberate(error)
        if mendable or isinstance(error, OSError):  # such as a full disk
            _complain(str(error))
            code = 2
        elif is_out_of_memory(error):
            _complain(
                f"out of memory ({str(error).splitlines()[0]}). Take a smaller --batch-size, "
                "--size or --base-channels, or --checkpointing."
            )
            code = 2
        else:
            traceback.print_exc()
            _complain("this is a fault of plainunet, not yours; please report the lines above.")
            code = 70
    sys.exit(code if isinstance(code, int) else 0)


def _is_deliberate(error: BaseException) -> bool:
    """Tell our own raise from an error that came up out of a library."""
    frames = traceback.extract_tb(error.__traceback__)
    return bool(frames) and Path(frames[-1].filename).is_relative_to(Path(__file__).parent)


def _complain(text: str, kind: str = "error") -> None:
    print(f"{kind}: {text}", file=sys.stderr)


if __name__ == "__main__":
    main()
