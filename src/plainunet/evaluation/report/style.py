"""How the page looks: on light and dark ground, on wide and narrow screens, on paper."""

_LIGHT = """--ground: #fff; --text: #1b1f24; --soft: #57606a; --line: #c9d1d9; --box: #f5f7f9;
--one: #0b5cad; --two: #a8420b; --three: #3f6f14; --full: #5f97cc; --wrong: #b3261e;"""
_DARK = """--ground: #12161b; --text: #e6edf3; --soft: #a3adb8; --line: #3a434d; --box: #1b2128;
--one: #79b8ff; --two: #ffab70; --three: #a5d66f; --full: #426287; --wrong: #ff8a80;"""
_SHADES = "\n".join(
    f"td.s{level} {{ background: color-mix(in srgb, var(--full) {10 * level}%, var(--ground)); }}"
    for level in range(1, 11)
)

STYLE = f"""
:root {{ color-scheme: light dark; {_LIGHT} }}
@media (prefers-color-scheme: dark) {{ :root {{ {_DARK} }} }}
* {{ box-sizing: border-box; }}
body {{ font: 16px/1.5 system-ui, sans-serif; margin: 0 auto; max-width: 76rem;
  padding: 1rem 1rem 4rem; background: var(--ground); color: var(--text); }}
h1, h2, h3 {{ line-height: 1.25; text-wrap: balance; }}
h1 {{ font-size: 1.7rem; margin: .5rem 0; overflow-wrap: anywhere; }}
h2 {{ font-size: 1.3rem; margin: 2.5rem 0 .6rem; padding-top: .8rem;
  border-top: 1px solid var(--line); }}
h3 {{ font-size: 1.05rem; margin: 1.6rem 0 .3rem; }}
p {{ max-width: 46rem; margin: .5rem 0; overflow-wrap: anywhere; }}
small, figcaption, caption, .soft {{ color: var(--soft); font-size: .875rem; }}
a {{ color: var(--one); }}
:focus-visible {{ outline: 3px solid var(--one); outline-offset: 2px; }}
nav ul, .keys {{ list-style: none; display: flex; flex-wrap: wrap; gap: .3rem 1.2rem; padding: 0;
  margin: .5rem 0; }}
.cards {{ display: flex; flex-wrap: wrap; gap: 1rem; margin: 1rem 0; }}
.cards div {{ background: var(--box); border: 1px solid var(--line); border-radius: .5rem;
  padding: .7rem 1rem; flex: 1 1 14rem; max-width: 24rem; }}
.cards strong {{ display: block; font-size: 2rem; line-height: 1.2;
  font-variant-numeric: tabular-nums; }}
.cards .first {{ border: 2px solid var(--one); }}
.cards small {{ display: block; }}
.facts {{ margin: .6rem 0; }}
.facts div {{ display: grid; grid-template-columns: minmax(7rem, 14rem) 1fr; gap: 0 1rem;
  padding: .12rem 0; }}
dt {{ color: var(--soft); overflow-wrap: anywhere; }}
dd {{ margin: 0; overflow-wrap: anywhere; }}
pre {{ background: var(--box); border: 1px solid var(--line); padding: .6rem .8rem;
  white-space: pre-wrap; overflow-wrap: anywhere; }}
.scroll {{ overflow-x: auto; margin: .8rem 0; max-width: 100%; }}
.scroll.tall {{ overflow: auto; max-height: 34rem; border: 1px solid var(--line); }}
table {{ border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .875rem; }}
caption {{ text-align: left; padding: .2rem .5rem .3rem; }}
td, th {{ padding: .25rem .5rem; text-align: right; border-bottom: 1px solid var(--line);
  white-space: nowrap; vertical-align: top; }}
th {{ font-weight: 600; }}
th[scope=row], th.name, td.name, thead th:first-child {{ text-align: left; }}
th[scope=colgroup] {{ text-align: center; }}
tbody th[scope=row] {{ white-space: normal; overflow-wrap: anywhere; min-width: 8rem;
  max-width: 22rem; font-weight: 400; }}
td.name {{ max-width: 14rem; white-space: normal; overflow-wrap: anywhere; }}
td small {{ display: block; font-size: .75rem; }}
.tall tbody th[scope=row] {{ min-width: min(17rem, 45vw); }}
tr.mean > * {{ background: var(--box); }}
thead button {{ font: inherit; font-weight: 600; color: inherit; background: none; border: 0;
  padding: 0; cursor: pointer; }}
th[aria-sort] button::after {{ content: " \\2195"; color: var(--soft); }}
th[aria-sort=ascending] button::after {{ content: " \\2191"; color: inherit; }}
th[aria-sort=descending] button::after {{ content: " \\2193"; color: inherit; }}
.tall thead th {{ position: sticky; top: 0; background: var(--box); }}
.matrix td, .matrix th {{ border: 1px solid var(--line); }}
.matrix td.right {{ font-weight: 700; }}
.many {{ font-size: .7rem; }}
.many td, .many th {{ padding: .15rem .25rem; }}
.many thead span {{ writing-mode: vertical-rl; transform: rotate(180deg); max-height: 9rem;
  overflow: hidden; text-overflow: ellipsis; }}
.many tbody th[scope=row] {{ max-width: 9rem; }}
{_SHADES}
figure {{ margin: 0; }}
.charts {{ display: grid; gap: 1.5rem; margin: 1rem 0;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 21rem), 1fr)); }}
.charts figure {{ max-width: 31rem; min-width: 0; }}
.wide {{ max-width: 46rem; margin: 1rem 0; }}
figcaption {{ overflow-wrap: anywhere; }}
.chart {{ display: block; width: 100%; height: auto; font: 14px system-ui, sans-serif; }}
@media (min-width: 48rem) {{ .wide .chart {{ font-size: 10px; }} }}
.chart text {{ fill: var(--soft); }}
.chart .label {{ fill: var(--text); }}
.grid {{ stroke: var(--line); fill: none; }}
.line {{ fill: none; stroke-width: 2; }}
.l0 {{ stroke: var(--one); }} .l1 {{ stroke: var(--two); }} .l2 {{ stroke: var(--three); }}
.line.l1 {{ stroke-dasharray: 7 4; }} .line.l2 {{ stroke-dasharray: 2 3; }}
.mark.l0 {{ fill: var(--one); }} .mark.l1 {{ fill: var(--two); }} .mark.l2 {{ fill: var(--three); }}
.dot {{ fill: var(--one); fill-opacity: .65; stroke: var(--ground); stroke-width: .4; }}
.dot:hover, .mark:hover {{ fill: var(--two); fill-opacity: 1; }}
.chosen, .median {{ stroke: var(--two); stroke-width: 2; fill: none; }}
.ideal {{ stroke: var(--soft); stroke-dasharray: 4 4; }}
.whisker {{ stroke: var(--text); stroke-width: 1.5; fill: none; }}
.key {{ width: 36px; height: 12px; vertical-align: middle; }}
.swatch {{ width: 12px; height: 12px; outline: 1px solid var(--soft); vertical-align: -1px; }}
.shown {{ margin: 1rem 0 1.5rem; scroll-margin-top: 1rem; }}
.panels {{ display: grid; gap: .5rem; grid-template-columns: repeat(4, minmax(0, 1fr)); }}
.zoom {{ font: inherit; font-size: .8rem; color: var(--soft); background: none; padding: 0;
  border: 0; cursor: zoom-in; text-align: left; }}
.zoom img {{ display: block; width: 100%; height: auto; border: 1px solid var(--line); }}
img.pixels {{ image-rendering: pixelated; }}
.controls {{ display: flex; flex-wrap: wrap; gap: .5rem 1rem; align-items: center; }}
input, .plain {{ font: inherit; color: inherit; background: var(--box); padding: .25rem .7rem;
  border: 1px solid var(--soft); border-radius: .3rem; max-width: 100%; }}
.plain {{ cursor: pointer; }}
dialog {{ width: min(96vw, 90rem); height: 94vh; max-width: none; max-height: none; padding: .8rem;
  border: 1px solid var(--soft); background: var(--ground); color: var(--text); }}
dialog[open] {{ display: grid; grid-template-rows: auto minmax(0, 1fr) auto; gap: .6rem; }}
dialog::backdrop {{ background: #000b; }}
dialog p {{ margin: 0; max-width: none; }}
.large img {{ display: block; width: 100%; height: 100%; object-fit: contain; }}
.large {{ min-height: 0; }}
[hidden] {{ display: none; }}
@media (max-width: 40rem) {{
  .panels {{ grid-template-columns: repeat(2, minmax(0, 1fr)); }}
  .facts div {{ grid-template-columns: 1fr; padding: .3rem 0; }}
  h1 {{ font-size: 1.4rem; }}
}}
@media print {{
  :root {{ color-scheme: light; {_LIGHT} }}
  * {{ print-color-adjust: exact; }}
  body {{ max-width: none; padding: 0; font-size: 10pt; }}
  nav, .controls, #all, dialog {{ display: none; }}
  .scroll {{ overflow: visible; }}
  .scroll td, .scroll th {{ padding: .1rem .25rem; font-size: 7.5pt; }}
  figure, .cards div, tr {{ break-inside: avoid; }}
  h2, h3 {{ break-after: avoid; }}
}}
"""
"""For the page's head."""
