"""What the doctor can do by itself: list the pairs that are sound.

In: a diagnosis, and the codes of which files shall be left out. Out: a dataset.toml and a
split.csv in the data folder, which training reads. Pictures and masks are never touched.
"""

import difflib
from collections.abc import Sequence
from pathlib import Path

from plainunet.data.doctor.diagnose import Diagnosis
from plainunet.data.doctor.findings import CODES
from plainunet.data.pairing import Pair
from plainunet.data.understood import describe, write_understood


def treat(diagnosis: Diagnosis, leave_out: Sequence[str] = ()) -> tuple[list[Path], int]:
    """Write down what was understood, and which pairs are to be used.

    Args:
        diagnosis: The diagnosis.
        leave_out: Codes of findings whose pairs are left out; those with errors are anyway. Of
            findings across parts, only pairs of the training part are.

    Returns:
        The files written, and how many of the sound pairs were left out.

    Raises:
        ValueError: A code is unknown, the masks make no sense together, or fewer than two pairs
            would be left.
    """
    for code in leave_out:
        if code not in CODES:
            near = difflib.get_close_matches(code, CODES, 1)
            hint = f"did you mean '{near[0]}'?" if near else f"known are {', '.join(CODES)}."
            raise ValueError(f"--leave-out {code}: no finding has this code; {hint}")
    if diagnosis.contents is None:
        raise ValueError(
            f"{diagnosis.data}: nothing is written, since the masks make no sense together yet. "
            "Mend the errors first."
        )
    kept = [pair for pair in diagnosis.pairs if not _is_left_out(pair, diagnosis, leave_out)]
    if len(kept) < 2:
        raise ValueError(
            f"{diagnosis.data}: {len(kept)} of {len(diagnosis.pairs)} sound pairs would be left; "
            "training needs at least 2. Leave out less, or add pictures."
        )
    said = describe(diagnosis.contents.coding, diagnosis.config.classes)
    files = write_understood(diagnosis.data, kept, said)
    return files, len(diagnosis.pairs) - len(kept)


def _is_left_out(pair: Pair, diagnosis: Diagnosis, codes: Sequence[str]) -> bool:
    for finding in diagnosis.findings:
        if finding.code in codes and {pair.image, pair.mask} & set(finding.files):
            if "across-parts" not in finding.code:
                # of a copy in two groups, the first stays
                first_only = "duplicate" in finding.code or finding.code == "same-mask"
                if not first_only or finding.files[0] in (pair.image, pair.mask):
                    return True
            elif pair.part == "train":
                return True
    return False
