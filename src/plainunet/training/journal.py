"""What a judging has counted so far: `last/judged-*.json`, so that it can go on.

In: the counts of picture after picture. Out: the same, also after the process has been killed
between two of them. Written down now and then, for it is cheap but not free; gone at the end.
"""

import json
import time
from pathlib import Path

import numpy as np

from plainunet.evaluation.metrics import Counts
from plainunet.files import write_json

JOURNALS = Path("last")
"""Where they lie in the run folder."""
_PERIOD = 20.0  # seconds of judging that are lost at most


class Journal:
    """The counts of one judging."""

    def __init__(self, run: Path, name: str, what: str) -> None:
        """Open what is there of the same judging, or begin.

        Args:
            run: The run folder.
            name: Tells judgings apart that go on at once.
            what: What is judged on what: another judging's counts are left aside.
        """
        self._file = run / JOURNALS / f"judged-{name}.json"
        self._what = what
        self._written = time.monotonic()
        self.counts: list[Counts] = []
        try:
            said = json.loads(self._file.read_text(encoding="utf-8"))
        except (FileNotFoundError, ValueError):
            return
        if said["what"] == what:
            self.counts = [np.array(each, dtype=np.int64) for each in said["counts"]]

    def add(self, counts: Counts) -> None:
        """Count a picture in.

        Args:
            counts: Any shape, int64.
        """
        self.counts.append(counts)
        if time.monotonic() - self._written > _PERIOD:
            self.write()

    def write(self) -> None:
        """Write all down, as before the process ends."""
        counts = [each.tolist() for each in self.counts]
        write_json(self._file, {"what": self._what, "counts": counts})
        self._written = time.monotonic()

    def close(self) -> None:
        """Forget it: the judging is done, and what came of it is kept elsewhere."""
        self._file.unlink(missing_ok=True)
