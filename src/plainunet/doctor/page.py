"""A diagnosis as a page to look at: the findings, and a contact sheet of overlays.

In: a diagnosis. Out: one HTML file that needs no network. Pictures are small copies, with each
class's outline in its colour.
"""

import base64
from collections.abc import Sequence
from html import escape
from pathlib import Path
from string import Template
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from plainunet.dataset.coding import Coding, Colors
from plainunet.dataset.pairs import Pair
from plainunet.dataset.resize import resize
from plainunet.doctor.diagnose import Diagnosis
from plainunet.doctor.fit import draw_sample
from plainunet.files import write_whole
from plainunet.formats.images import read_image
from plainunet.formats.sources import Source
from plainunet.palette import default_colors
from plainunet.system import work_ahead

_MOST = 48
_SIDE = 360
_MOST_LISTED = 20
_PAGE = Template("""<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>$title</title><style>
:root { color-scheme: light dark; --line: #8884; --error: #c62828; --warning: #b26a00; }
@media (prefers-color-scheme: dark) { :root { --error: #ff8a80; --warning: #ffb74d; } }
body { font: 15px/1.45 system-ui, sans-serif; margin: 1.5rem auto; max-width: 78rem;
  padding: 0 1rem; }
h1, h2, h3 { line-height: 1.2; } h3 { margin: 1rem 0 .3rem; }
.error { color: var(--error); } .warning { color: var(--warning); }
ul { margin: .2rem 0; padding-left: 1.2rem; overflow-wrap: anywhere; }
pre { background: #8881; padding: .5rem .7rem; overflow-x: auto; white-space: pre-wrap;
  overflow-wrap: anywhere; }
table { border-collapse: collapse; } td, th { padding: .15rem .8rem .15rem 0; text-align: left; }
.sheet { display: grid; gap: 1rem; grid-template-columns: repeat(auto-fill, minmax(15rem, 1fr)); }
figure { margin: 0; } figure img { width: 100%; height: auto; display: block; }
figcaption { font-size: 13px; overflow-wrap: anywhere; }
.swatch { display: inline-block; width: .8em; height: .8em; border: 1px solid var(--line); }
</style></head><body>
<h1>$title</h1>
<p>$counts</p>
<table>$classes</table>
<h2>Findings</h2>
$findings
<h2>Pictures with their masks' outlines</h2>
<p>Those with findings first, then others drawn at random.</p>
<div class="sheet">$sheet</div>
</body></html>
""")


def write_page(path: Path, diagnosis: Diagnosis) -> None:
    """Write a diagnosis as HTML.

    Args:
        path: The file.
        diagnosis: The diagnosis.
    """
    summary = diagnosis.summary
    names = summary["classes"]
    colors = _colors(diagnosis)
    rows = "".join(
        f'<tr><td><span class="swatch" style="background:rgb{colors[k]}"></span> '
        f"{_text(name)}</td><td>{summary['shares'][name]:.2%}</td></tr>"
        for k, name in enumerate(names)
    )
    with write_whole(path) as file:
        page = _PAGE.substitute(
            title=_text(f"{diagnosis.data}: what plainunet check found"),
            counts=_text(f"{summary['pairs']} sound pairs in {summary['groups']} groups"),
            classes=rows,
            findings=_findings(diagnosis) or "<p>Nothing.</p>",
            sheet=_sheet(diagnosis, colors),
        )
        file.write_text(page, encoding="utf-8", errors="backslashreplace")


def _text(said: object) -> str:
    return escape(str(said))


def _colors(diagnosis: Diagnosis) -> tuple[tuple[int, int, int], ...]:
    if diagnosis.contents is None:
        return ()
    coding = diagnosis.contents.coding
    if coding.num_classes == 2:
        return (0, 0, 0), (255, 0, 255)  # what hardly any picture has
    return coding.colors if isinstance(coding, Colors) else default_colors(coding.num_classes)


def _findings(diagnosis: Diagnosis) -> str:
    parts = []
    for code in dict.fromkeys(finding.code for finding in diagnosis.findings):
        same = [finding for finding in diagnosis.findings if finding.code == code]
        severity = same[0].severity
        parts.append(f'<h3 class="{severity}">{severity}: {code} ({len(same)})</h3><ul>')
        parts += [f"<li>{_text(finding.message)}</li>" for finding in same[:_MOST_LISTED]]
        if len(same) > _MOST_LISTED:
            parts.append(f"<li>and {len(same) - _MOST_LISTED} more</li>")
        fixes = dict.fromkeys(finding.fix.line for finding in same if finding.fix)
        parts.append("</ul>")
        if fixes:
            parts.append(f"<pre>{_text(chr(10).join([*fixes][:_MOST_LISTED]))}</pre>")
    return "\n".join(parts)


def _sheet(diagnosis: Diagnosis, colors: Sequence[tuple[int, int, int]]) -> str:
    if diagnosis.contents is None:
        return ""
    said: dict[Source, list[str]] = {}
    for finding in diagnosis.findings:
        if finding.severity != "note":
            for file in finding.files:
                said.setdefault(file, []).append(finding.code)
    named = [pair for pair in diagnosis.pairs if pair.image in said or pair.mask in said]
    drawn = [diagnosis.pairs[index] for index in draw_sample(diagnosis.pairs, 0, _MOST)]
    chosen = list(dict.fromkeys([*named, *drawn]))[:_MOST]
    coding = diagnosis.contents.coding
    figures = []
    for pair, data in zip(
        chosen, work_ahead(lambda pair: _overlay(pair, coding, colors), chosen), strict=True
    ):
        codes = dict.fromkeys([*said.get(pair.image, []), *said.get(pair.mask, [])])
        more = f' <b class="warning">{_text(", ".join(codes))}</b>' if codes else ""
        figures.append(
            f'<figure><img loading="lazy" alt="{_text(pair.image.name)} with its mask" '
            f'src="data:image/jpeg;base64,{data}"><figcaption>{_text(pair.image.name)}{more}'
            "</figcaption></figure>"
        )
    return "\n".join(figures)


def _overlay(pair: Pair, coding: Coding, colors: Sequence[tuple[int, int, int]]) -> str:
    image, ids = read_image(pair.image), coding.read(pair.mask)
    scale = min(1.0, _SIDE / max(ids.shape))
    size = max(1, round(ids.shape[0] * scale)), max(1, round(ids.shape[1] * scale))
    picture = _visible(resize(image, size))
    # nearest: what is between two ids is no class
    small = cv2.resize(ids, size[::-1], interpolation=cv2.INTER_NEAREST)
    for class_id, color in enumerate(colors):
        inside = (small == class_id).astype(np.uint8)
        if class_id == 0 or not inside.any():
            continue
        outlines = cv2.findContours(inside, cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)[0]
        cv2.drawContours(picture, outlines, -1, color, 1)
    # colours at full resolution, or thin lines would fade
    sharp = [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444]
    how = [cv2.IMWRITE_JPEG_QUALITY, 85, *sharp]
    data = cv2.imencode(".jpg", picture[..., ::-1], how)[1]
    return base64.b64encode(data.tobytes()).decode()


def _visible(image: NDArray[Any]) -> NDArray[np.uint8]:
    """Show any picture in 8 bits: RGB as it is, others stretched over their own range."""
    picture = np.repeat(image[..., :1], 3, axis=2) if image.shape[2] < 3 else image[..., :3]
    if picture.dtype != np.uint8:
        low, high = float(picture.min()), float(picture.max())
        picture = ((picture - low) * (255 / max(high - low, 1e-12))).astype(np.uint8)
    return np.ascontiguousarray(picture)
