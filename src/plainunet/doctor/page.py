"""A diagnosis as one HTML page: the findings, and images with the contours of their masks.

The layout is templates/doctor.html.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from plainunet.dataset.coding import Coding, Colors, read_pair
from plainunet.dataset.pairs import Pair
from plainunet.dataset.resize import fit_size, resize
from plainunet.doctor.diagnose import Diagnosis
from plainunet.doctor.findings import find_unfixed
from plainunet.doctor.fit import draw_sample
from plainunet.formats.sources import Source
from plainunet.page import data_url, render, save_page
from plainunet.palette import default_colors
from plainunet.system import work_ahead
from plainunet.text import plural

_MOST = 48  # images
_SIDE = 360  # of an image [pixels]
_MOST_LISTED = 20  # findings with the same code

ClassColors = Sequence[tuple[int, int, int]]


def write_page(path: Path, diagnosis: Diagnosis) -> None:
    """Write a diagnosis as HTML.

    Args:
        path: The file; it appears whole or not at all.
        diagnosis: The diagnosis.
    """
    summary = diagnosis.summary
    colors = _colors(diagnosis)
    page = render(
        "doctor.html",
        title=f"{diagnosis.data}: what plainunet check found",
        counts=f"{plural(summary['pairs'], 'valid pair')} in {plural(summary['groups'], 'group')}",
        classes=[
            {"name": name, "share": f"{summary['shares'][name]:.2%}", "color": color}
            for name, color in zip(summary["classes"], colors, strict=True)
        ],
        findings=_findings(diagnosis),
        last_fix=diagnosis.last_fix,
        most=_MOST_LISTED,
        images=draw_images(diagnosis),
    )
    save_page(path, page)


def _colors(diagnosis: Diagnosis) -> ClassColors:
    if diagnosis.contents is None:
        return ()
    coding = diagnosis.contents.coding
    if coding.num_classes == 2:
        return (0, 0, 0), (255, 0, 255)  # magenta is rare in images
    return coding.colors if isinstance(coding, Colors) else default_colors(coding.num_classes)


def _findings(diagnosis: Diagnosis) -> list[dict[str, Any]]:
    """The findings by their codes, each fix once; excluding pairs comes last."""
    groups = []
    shown: set[str] = set()
    for code in dict.fromkeys(finding.code for finding in diagnosis.findings):
        same = [finding for finding in diagnosis.findings if finding.code == code]
        lines = [each.fix.line for each in same if each.fix and not each.fix.writes_list]
        fixes = [line for line in dict.fromkeys(lines) if line not in shown]
        shown.update(fixes)
        unfixed = find_unfixed(same)
        messages = [{"text": each.message, "unfixed": each in unfixed} for each in same]
        group = {"code": code, "severity": same[0].severity}
        groups.append({**group, "messages": messages, "fixes": fixes})
    return groups


def draw_images(diagnosis: Diagnosis, most: int = _MOST) -> list[dict[str, Any]]:
    """Draw the contours of masks on images: those with findings first, then a random sample.

    Returns for each the `name`, the `codes` of its findings, its `url` and its `size`.
    """
    colors = _colors(diagnosis)
    if diagnosis.contents is None:
        return []
    codes: dict[Source, list[str]] = {}
    for finding in diagnosis.findings:
        if finding.severity != "note":
            for file in finding.files:
                codes.setdefault(file, []).append(finding.code)
    named = [pair for pair in diagnosis.pairs if pair.image in codes or pair.mask in codes]
    drawn = [diagnosis.pairs[index] for index in draw_sample(diagnosis.pairs, 0, most)]
    chosen = list(dict.fromkeys([*named, *drawn]))[:most]
    coding = diagnosis.contents.coding
    overlays = work_ahead(lambda pair: _overlay(pair, coding, colors), chosen)
    return [
        {
            "name": pair.image.name,
            "codes": list(dict.fromkeys([*codes.get(pair.image, []), *codes.get(pair.mask, [])])),
            "url": url,
            "size": size,
        }
        for pair, (url, size) in zip(chosen, overlays, strict=True)
    ]


def _overlay(pair: Pair, coding: Coding, colors: ClassColors) -> tuple[str, tuple[int, int]]:
    """An image with the contour of each class, as a data URL, and its size."""
    image, ids = read_pair(pair.image, pair.mask, coding)
    size = fit_size((ids.shape[0], ids.shape[1]), (_SIDE, _SIDE))
    drawn = _visible(resize(image, size))
    # nearest neighbour: ids cannot be interpolated
    small = cv2.resize(ids, size[::-1], interpolation=cv2.INTER_NEAREST)
    for class_id, color in enumerate(colors):
        inside = (small == class_id).astype(np.uint8)
        if class_id == 0 or not inside.any():
            continue
        contours = cv2.findContours(inside, cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)[0]
        cv2.drawContours(drawn, contours, -1, color, 1)
    return data_url(drawn, "jpeg"), size


def _visible(image: NDArray[Any]) -> NDArray[np.uint8]:
    """Any image as 8-bit RGB; other types are stretched from their minimum to their maximum."""
    shown = np.repeat(image[..., :1], 3, axis=2) if image.shape[2] < 3 else image[..., :3]
    if shown.dtype != np.uint8:
        low, high = float(shown.min()), float(shown.max())
        shown = ((shown - low) * (255 / max(high - low, 1e-12))).astype(np.uint8)
    return np.ascontiguousarray(shown)
